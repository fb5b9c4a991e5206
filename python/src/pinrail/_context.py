"""``ctx``: what a phase of a job knows about its run, and what it can ask of the server and leave behind.

A context serves one phase. It decides nothing about the attempt: checks, outputs and counters are sent as they happen,
and the runner reads ``failed_checks`` and ``encoded_state`` when the phase has returned. ``pinrail.testing`` gives the
same class another port, so a phase behaves in a test as it does in a run.

Invariants: nothing is imported before it is needed, because this is on the start-up path of every job; a path from
``file`` never leads out of the bundle or the project.
"""

from __future__ import annotations

import os

from ._errors import MissingName, RequestError, SqlError, UserError, did_you_mean
from ._frames import caller_frame
from ._values import encode, is_finite, make_rows, parameter, parse_date, parse_datetime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import date, datetime
    from pathlib import Path
    from typing import Any, Generic, Literal, TypeVar

    from ._channel import Port
    from ._values import Rows

    V = TypeVar('V')
    FailedCheck = tuple[str, 'str | None', 'dict[str, Any] | None']

    class _Names(dict[str, V], Generic[V]):
        pass
else:

    class _Names(dict):
        @classmethod
        def __class_getitem__(cls, item: object) -> type:
            return cls


# What one output, and the state that one phase leaves for the next, may take as JSON text.
VALUE_LIMIT = 64 << 10
# What an output that is a list may take: jobs are mapped over lists. Less than a line, in which it is sent.
LIST_LIMIT = (1 << 20) - (4 << 10)
# A longer log text is sent in parts; the limit of a line leaves room for escapes.
LOG_PART = 128 << 10

LEVELS = ('debug', 'info', 'warning', 'error')


class Interval:
    """The run's data interval: ``start`` is included, ``end`` is not. Both are aware datetimes in UTC."""

    __slots__ = ('_start', '_end')

    def __init__(self, start: str, end: str) -> None:
        self._start = start
        self._end = end

    @property
    def start(self) -> datetime:
        return parse_datetime(self._start)

    @property
    def end(self) -> datetime:
        return parse_datetime(self._end)

    def __repr__(self) -> str:
        return f'Interval({self._start}, {self._end})'


class Params:
    """The run's parameters as attributes, typed as their ``Param`` says: ``ctx.params.min_flights``."""

    __slots__ = ('_values',)
    _what = 'parameter'

    def __init__(self, values: Mapping[str, Any], types: Mapping[str, str]) -> None:
        self._values = {name: parameter(types.get(name), value) for name, value in values.items()}

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise MissingName(f'no {self._what} "{name}"', did_you_mean(name, self._values)) from None

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def get(self, name: str, default: Any = None) -> Any:
        return self._values.get(name, default)

    def keys(self) -> Iterable[str]:
        return self._values.keys()

    def __repr__(self) -> str:
        values = ', '.join(f'{name}={value!r}' for name, value in self._values.items())
        return f'{type(self).__name__}({values})'


class Vars(Params):
    """The values that the run's target gives, as attributes: ``ctx.vars.bucket``. Dates and times are texts."""

    __slots__ = ()
    _what = 'variable of the target'


class _Outputs(_Names['Any']):
    """A job's outputs by name; a name that it did not leave is an error which names the near one.

    Of a job that was mapped over an empty list every output is the empty list.
    """

    def __init__(self, job: str, values: Mapping[str, Any], instances: int | None) -> None:
        super().__init__(values)
        self._job = job
        self._instances = instances

    def __missing__(self, name: str) -> Any:
        if self._instances == 0:
            return []
        raise MissingName(f'job "{self._job}" left no output "{name}"', did_you_mean(name, self))


class Upstream:
    """A job that this one waited for: its ``state`` and its ``outputs`` by name.

    Of a mapped job ``instances`` says how many there were, and each output is a list: the value that each instance left,
    None for one that left none.
    """

    __slots__ = ('state', 'outputs', 'instances')

    def __init__(self, job: str, state: str, outputs: Mapping[str, Any], instances: int | None = None) -> None:
        self.state = state
        self.instances = instances
        self.outputs: dict[str, Any] = _Outputs(job, outputs, instances)

    def __repr__(self) -> str:
        return f'Upstream(state={self.state!r}, outputs={dict(self.outputs)!r})'


class _Upstreams(_Names['Upstream']):
    def __init__(self, job: str, values: Mapping[str, Upstream]) -> None:
        super().__init__(values)
        self._job = job

    def __missing__(self, name: str) -> Upstream:
        hint = did_you_mean(name, self) or f'add "{name}" to what "{self._job}" waits for in the workflow file'
        raise MissingName(f'"{self._job}" does not wait for a job "{name}"', hint)


class RunInfo:
    """The run that the attempt belongs to: its ``id``, and the ``url`` of its page where the server has one."""

    __slots__ = ('id', 'url')

    def __init__(self, id: str, url: str | None) -> None:
        self.id = id
        self.url = url


class AttemptInfo:
    """The attempt: its ``id`` and its ``number``, which counts from 1 through the life of the task."""

    __slots__ = ('id', 'number')

    def __init__(self, id: str, number: int) -> None:
        self.id = id
        self.number = number


class Context:
    """What a phase is given as ``ctx``.

    Attributes: ``ds`` (the run's local date), ``interval``, ``params``, ``upstream`` (by job name), ``run``,
    ``attempt``, ``workflow``, ``job``, ``item`` and ``index`` (of an instance of a mapped job), ``target`` (its name, or None in a project without targets), ``vars`` (the values
    that the target gives, as attributes), ``tz`` (IANA name), ``scratch`` (a folder of the attempt alone) and ``state``,
    a dict that the later phases of the attempt find again (JSON, at most 64 KiB).
    """

    def __init__(self, port: Port, start: Mapping[str, Any], state: dict[str, Any] | None = None) -> None:
        run: Mapping[str, Any] = start.get('run') or {}
        attempt: Mapping[str, Any] = start.get('attempt') or {}
        interval: Mapping[str, Any] = start.get('interval') or {}
        job = str(start.get('job') or '')
        self._port = port
        self._ds = str(start.get('ds') or '')
        self._root = os.path.realpath(start.get('root') or '.')
        project_dir = start.get('project_dir')
        self._project_dir = os.path.realpath(project_dir) if project_dir else None
        files = start.get('files')
        self._files: list[str] | None = None if files is None else list(files)
        self._scratch = str(start.get('scratch') or '')
        self._secrets: list[str] = list(start.get('secrets') or ())
        self._saved = 0
        self.workflow = str(start.get('workflow') or '')
        self.job = job
        self.tz = str(start.get('tz') or 'UTC')
        self.interval = Interval(str(interval.get('start') or ''), str(interval.get('end') or ''))
        self.params = Params(start.get('params') or {}, start.get('param_types') or {})
        self.target: str | None = start.get('target')
        self.vars = Vars(start.get('vars') or {}, {})
        upstream: Mapping[str, Mapping[str, Any]] = start.get('upstream') or {}
        self.upstream: dict[str, Upstream] = _Upstreams(
            job,
            {
                name: Upstream(name, str(entry.get('state') or ''), entry.get('outputs') or {}, entry.get('instances'))
                for name, entry in upstream.items()
            },
        )
        self.run = RunInfo(str(run.get('id') or ''), run.get('url'))
        # An item may be None, which is not the same as none.
        self._instance: Mapping[str, Any] | None = start.get('instance')
        self.index: int | None = None if self._instance is None else int(self._instance['index'])
        self.attempt = AttemptInfo(str(attempt.get('id') or ''), int(attempt.get('number') or 1))
        self.state: dict[str, Any] = {} if state is None else state
        self._failed_checks: list[FailedCheck] = []

    @property
    def ds(self) -> date:
        """The run's local date."""
        return parse_date(self._ds)

    @property
    def item(self) -> Any:
        """What this instance of a mapped job works on: an item of the list that ``map=`` names."""
        if self._instance is None:
            raise UserError(
                f'job "{self.job}" is not mapped, so there is no item', "declare it: template(..., map='listing.files')"
            )
        return self._instance['item']

    @property
    def scratch(self) -> Path:
        """A folder for this attempt alone, shared by its phases and removed after its cleanup."""
        from pathlib import Path

        return Path(self._scratch)

    def log(self, message: object, *, level: Literal['debug', 'info', 'warning', 'error'] = 'info') -> None:
        """Adds a line to the attempt's log."""
        if level not in LEVELS:
            raise UserError(
                f'no log level "{level}": it is one of {", ".join(LEVELS)}', did_you_mean(str(level), LEVELS)
            )
        text = str(message)
        for start in range(0, len(text) or 1, LOG_PART):
            event: dict[str, Any] = {'type': 'log', 'level': level, 'text': text[start : start + LOG_PART]}
            # What spans two parts is masked only when the parts are known to belong together.
            if start + LOG_PART < len(text):
                event['more'] = True
            self._port.event(event)

    def metric(self, name: str, value: float, unit: str | None = None) -> None:
        """Records a measured value at this moment, such as a temperature or a queue's length."""
        self._port.event({'type': 'metric', 'name': name, 'value': _number(name, value), 'unit': unit})

    def counter(self, name: str, value: float, unit: str | None = None) -> None:
        """Records how much the attempt has done, such as rows or bytes; see ``system.counters``."""
        self._port.event({'type': 'counter', 'name': name, 'value': _number(name, value), 'unit': unit})

    def progress(self, done: float | None = None, text: str | None = None) -> None:
        """Says how far the phase is: ``done`` from 0 to 1, and in words."""
        share = None if done is None else min(1.0, max(0.0, float(done)))
        self._port.event({'type': 'progress', 'done': share, 'text': text})

    def output(self, name: str, value: object) -> None:
        """Leaves a JSON value for the jobs that wait for this one; the last of a name counts.

        It takes at most 64 KiB as JSON text, a list, over which jobs can be mapped, 1,020 KiB.

        JSON has no NaN and no infinities: a value that holds one is refused.
        """
        from ._names import name_problem
        from ._narrow import as_list

        problem = name_problem(name)
        if problem is not None:
            raise UserError(f'output name {problem}')
        limit = LIST_LIMIT if as_list(value) is not None else VALUE_LIMIT
        _encoded(f'output "{name}"', value, limit)
        if not is_finite(value):
            raise UserError(
                f'output "{name}" holds NaN or an infinity, for which JSON has no number',
                'leave None, or a text that says what is meant',
            )
        self._port.event({'type': 'output', 'name': name, 'value': value})

    def check(
        self,
        name: str,
        ok: object,
        *,
        detail: object = None,
        level: Literal['error', 'warning'] = 'error',
    ) -> bool:
        """Records whether the data are right, and returns it.

        A failed check of level ``error`` ends the attempt with fault ``data`` when the phase returns, so that all
        checks are reported; one of level ``warning`` is only shown.
        """
        if level not in ('error', 'warning'):
            raise UserError(f'no check level "{level}": it is "error" or "warning"')
        passed = bool(ok)
        text = None if detail is None else str(detail)
        if not passed and level == 'error':
            self._failed_checks.append((name, text, caller_frame(self._root)))
        self._port.event({'type': 'check', 'name': name, 'ok': passed, 'detail': text, 'level': level})
        return passed

    def save(self, name: str, content: str | bytes | os.PathLike[str]) -> str | None:
        """Saves a file for people to read: text, bytes, or the path of a file to copy. Returns its URL."""
        parts = name.split('/')
        if not name or name.startswith('/') or '..' in parts or '' in parts or '\0' in name:
            raise UserError(f'"{name}" is not a name for a saved file', 'write a plain name such as "report.html"')
        import shutil

        self._saved += 1
        folder = os.path.join(self._scratch, '.saved')
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, f'{os.getpid()}-{self._saved}-{parts[-1][-100:]}')
        try:
            if isinstance(content, str):
                with open(path, 'w', encoding='utf-8', newline='') as file:
                    file.write(content)
            elif isinstance(content, (bytes, bytearray, memoryview)):
                with open(path, 'wb') as file:
                    file.write(content)
            elif hasattr(content, '__fspath__'):
                if not os.path.isfile(content):
                    raise UserError(f'"{os.fspath(content)}" is not a file that could be saved as "{name}"')
                shutil.copyfile(content, path)
            else:
                raise UserError(f'the content of "{name}" must be text, bytes or a path, not {type(content).__name__}')
            reply = self._ask('save', {'name': name, 'path': path}, RequestError)
            return reply.get('url')
        finally:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass

    def sql(self, text: str) -> Rows:
        """Runs a statement in the attempt's own view of the tables and returns its rows with typed values.

        What it writes is seen by this attempt alone until ``complete`` has returned. Raises ``SqlError``.
        """
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UserError(f'ctx.sql takes the text of a statement, not {type(text).__name__}')
        return make_rows(self._ask('sql', {'text': text}, SqlError))

    def secret(self, name: str) -> str:
        """The value of a secret that the job's template declares by ``secrets=[...]``."""
        if name not in self._secrets:
            hint = did_you_mean(name, self._secrets) or f"declare it: template(..., secrets=['{name}'])"
            raise UserError(f'secret "{name}" is not declared by job "{self.job}"', hint)
        return str(self._ask('secret', {'name': name}, RequestError)['value'])

    def file(self, path: str | os.PathLike[str]) -> Path:
        """The place of a project file: one of the bundle, or one that ``[files]`` in pinrail.toml matches.

        The file need not exist. Raises ``UserError`` for a path that leads outside of the project and for a file that
        is in the project's folder but neither in the bundle nor under ``[files]``.
        """
        from ._files import find

        return find(os.fspath(path), self._root, self._project_dir, self._files)

    def _ask(self, kind: str, fields: Mapping[str, Any], failure: type[RequestError]) -> dict[str, Any]:
        answer = self._port.request(kind, fields)
        error: Mapping[str, Any] | None = answer.get('error')
        if error is not None:
            message = str(error.get('message') or f'the server refused the request "{kind}"')
            raise failure(str(error.get('code') or 'unknown'), message, error.get('hint'))
        reply: dict[str, Any] = answer.get('reply') or {}
        return reply


def failed_checks(ctx: Context) -> list[FailedCheck]:
    """The failed checks of level ``error`` in order, each with its name, its detail and the user's frame."""
    return ctx._failed_checks  # pyright: ignore[reportPrivateUsage]


def encoded_state(ctx: Context) -> str:
    """``ctx.state`` as JSON text. Raises ``UserError`` when it is no JSON object or too large."""
    if not isinstance(ctx.state, dict):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UserError(f'ctx.state must stay a dict, and it is {type(ctx.state).__name__}')
    return _encoded('ctx.state', ctx.state)


def _encoded(what: str, value: object, limit: int = VALUE_LIMIT) -> str:
    try:
        text = encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f'{what} is not a JSON value: {error}') from None
    size = len(text.encode('utf-8', 'replace'))
    if size > limit:
        raise UserError(
            f'{what} takes {size:,} bytes as JSON: at most {limit:,} bytes',
            'write large data to a table or with ctx.save, and leave its name',
        )
    return text


def _number(name: str, value: Any) -> Any:
    """A number as it is sent: whole numbers exactly, everything else as a float."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, (int, float)):
        return value
    try:
        whole = int(value)
        return whole if whole == value else float(value)
    except (TypeError, ValueError, OverflowError):
        try:
            return float(value)
        except (TypeError, ValueError):
            raise UserError(f'the value of "{name}" must be a number, not {type(value).__name__}') from None
