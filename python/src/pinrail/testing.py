"""Helpers for a project's own tests.

``fake_context`` calls one phase without a server: nothing is written anywhere but to a temporary scratch folder, and
what the phase left behind is read from the context. ``project`` runs jobs on the real embedded engine, through the
command line of the ``pinrail`` binary (``PINRAIL_BIN``, else the one on ``PATH``), over a copy of the project and a
state folder that are thrown away.

Invariant: the project under test is never changed.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple, Optional, Union

from ._channel import Port
from ._context import Context, encoded_state
from ._errors import UserError, did_you_mean
from ._narrow import as_dict, as_list
from ._values import Rows, make_rows, plain, row_type

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Answer = Union[Sequence[Mapping[str, Any]], Rows]

__all__ = ['Check', 'FakeContext', 'Log', 'PinrailMissing', 'Project', 'Result', 'fake_context', 'project']


# None is an item like any other.
_NOT_MAPPED: Any = object()


class Log(NamedTuple):
    level: str
    text: str


class Check(NamedTuple):
    name: str
    ok: bool
    detail: Optional[str]
    level: str


class _Recorder(Port):
    def __init__(self, sql: Optional[Callable[[str], Answer]], secrets: Mapping[str, str]) -> None:
        self.events: list[dict[str, Any]] = []
        self.saved: dict[str, bytes] = {}
        self._sql = sql
        self._secrets = dict(secrets)

    def event(self, message: Mapping[str, Any]) -> None:
        self.events.append(dict(message))

    def request(self, kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        if kind == 'secret':
            return {'reply': {'value': self._secrets[fields['name']]}}
        with open(fields['path'], 'rb') as file:
            self.saved[fields['name']] = file.read()
        return {'reply': {'url': None}}

    def sql(self, text: str) -> Rows:
        if self._sql is None:
            raise UserError(
                'ctx.sql was called in a test without tables',
                'give fake_context(sql=...) a function, or run the job with pinrail.testing.project',
            )
        answer = self._sql(text)
        if isinstance(answer, Rows):
            return answer
        names = list(answer[0]) if answer else []
        make = row_type(names)
        return Rows([make([row[name] for name in names]) for row in answer], names, ['unknown'] * len(names))


class FakeContext(Context):
    """A context that records ``outputs, checks, counters, metrics, logs, progresses, saved``."""

    def __init__(self, recorder: _Recorder, start: Mapping[str, Any], state: dict[str, Any]) -> None:
        super().__init__(recorder, start, state)
        self._recorder = recorder
        self._start = dict(start)

    def sql(self, text: str) -> Rows:
        return self._recorder.sql(text)

    def _events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self._recorder.events if event['type'] == kind]

    @property
    def outputs(self) -> dict[str, Any]:
        return {event['name']: event['value'] for event in self._events('output')}

    @property
    def checks(self) -> list[Check]:
        return [Check(event['name'], event['ok'], event['detail'], event['level']) for event in self._events('check')]

    @property
    def failed(self) -> bool:
        """Whether a check of level ``error`` failed: the attempt would end with fault ``data``."""
        return any(not check.ok and check.level == 'error' for check in self.checks)

    @property
    def counters(self) -> dict[str, Any]:
        """The sum of each counter's values."""
        sums: dict[str, Any] = {}
        for event in self._events('counter'):
            sums[event['name']] = sums.get(event['name'], 0) + event['value']
        return sums

    @property
    def metrics(self) -> dict[str, list[Any]]:
        values: dict[str, list[Any]] = {}
        for event in self._events('metric'):
            values.setdefault(event['name'], []).append(event['value'])
        return values

    @property
    def logs(self) -> list[Log]:
        return [Log(event['level'], event['text']) for event in self._events('log')]

    @property
    def progresses(self) -> list[tuple[Optional[float], Optional[str]]]:
        return [(event['done'], event['text']) for event in self._events('progress')]

    @property
    def saved(self) -> dict[str, bytes]:
        """The saved files by name."""
        return self._recorder.saved

    def next_phase(self) -> FakeContext:
        """The context of the attempt's next phase: ``state`` goes through JSON, as it does in a run."""
        recorder = self._recorder
        return FakeContext(recorder, self._start, json.loads(encoded_state(self)))


def fake_context(
    *,
    ds: Union[str, date] = '2013-01-01',
    interval: Optional[tuple[Union[str, datetime], Union[str, datetime]]] = None,
    tz: str = 'UTC',
    params: Optional[Mapping[str, Any]] = None,
    upstream: Optional[Mapping[str, Mapping[str, Any]]] = None,
    secrets: Optional[Mapping[str, str]] = None,
    target: Optional[str] = None,
    vars: Optional[Mapping[str, Any]] = None,
    root: Union[str, os.PathLike[str], None] = None,
    scratch: Union[str, os.PathLike[str], None] = None,
    sql: Optional[Callable[[str], Answer]] = None,
    state: Optional[dict[str, Any]] = None,
    run: str = 'run_test',
    attempt: int = 1,
    workflow: str = 'test',
    job: str = 'test',
    item: Any = _NOT_MAPPED,
    index: int = 0,
) -> FakeContext:
    """A context for one phase, called as ``LoadFlights().setup(fake_context(ds='2013-01-01'))``.

    ``upstream`` maps jobs to their outputs; ``secrets`` maps names to values; ``target`` is the name of one and ``vars``
    are the values that it gives; with ``item`` it is that of an instance of a mapped job; ``sql`` answers ``ctx.sql`` with a list
    of dicts; ``root`` is the project's folder, at first the nearest one with a pinrail.toml.
    """
    folder = os.fspath(scratch) if scratch is not None else _throw_away('scratch')
    day = ds if isinstance(ds, str) else ds.isoformat()
    if interval is None:
        # The local day, which has 23 or 25 hours where a clock is changed.
        zone = _zone(tz)
        first = date.fromisoformat(day)
        days = (first, first + timedelta(days=1))
        bounds = tuple(datetime.combine(one, time(), zone).astimezone(timezone.utc).isoformat() for one in days)
    else:
        bounds = tuple(one if isinstance(one, str) else one.isoformat() for one in interval)
    start: dict[str, Any] = {
        'attempt': {'id': 'attempt_test', 'number': attempt},
        'run': {'id': run, 'url': None},
        'workflow': workflow,
        'job': job,
        'root': os.fspath(root) if root is not None else _find_root() or os.getcwd(),
        'project_dir': None,
        'files': None,
        'scratch': folder,
        'ds': day,
        'interval': {'start': bounds[0], 'end': bounds[1]},
        'tz': tz,
        'params': dict(params or {}),
        'param_types': {},
        'target': target,
        'vars': dict(vars or {}),
        'upstream': {
            name: {'state': 'succeeded', 'outputs': dict(outputs)} for name, outputs in (upstream or {}).items()
        },
        'secrets': list(secrets or ()),
    }
    if item is not _NOT_MAPPED:
        start['instance'] = {'index': index, 'item': plain(item)}
    return FakeContext(_Recorder(sql, secrets or {}), start, {} if state is None else state)


def _zone(name: str) -> tzinfo:
    if name == 'UTC':
        return timezone.utc
    from zoneinfo import ZoneInfo

    return ZoneInfo(name)


class PinrailMissing(UserError):
    """There is no ``pinrail`` binary to run jobs with."""


def binary() -> str:
    """The path of the ``pinrail`` binary. Raises ``PinrailMissing``."""
    found = os.environ.get('PINRAIL_BIN') or shutil.which('pinrail')
    if found is None:
        raise PinrailMissing('the pinrail binary was not found', 'set PINRAIL_BIN to its path, or run pinrail test')
    return found


class Result:
    """What became of a job: its ``state``, its ``outputs`` and ``logs``; ``fault`` and ``message`` when it failed."""

    def __init__(self, project: Project, run: dict[str, Any], job: str) -> None:
        self._project = project
        self._job = job
        self._message: Optional[str] = None
        self.run = run
        task: dict[str, Any] = {}
        for one in run.get('tasks') or ():
            task = one if one.get('name') == job else task
        attempts: list[dict[str, Any]] = task.get('attempts') or []
        self.state = str(task.get('state') or run.get('state'))
        self.fault: Optional[str] = attempts[-1].get('fault') if attempts else None
        self.attempts = attempts
        self.outputs: dict[str, Any] = task.get('outputs') or (attempts[-1].get('outputs') if attempts else None) or {}

    @property
    def message(self) -> Optional[str]:
        """What the job failed of, as ``pinrail explain`` says it; None if it did not fail."""
        if self.fault is not None and self._message is None:
            answer = self._project.command('explain', str(self.run['id']), '--job', self._job)
            items = as_list((as_dict(json.loads(answer)) or {}).get('items')) or []
            failure = as_dict((as_dict(items[0]) or {}).get('failure')) if items else None
            self._message = str((failure or {}).get('message') or '')
        return self._message

    @property
    def logs(self) -> str:
        return self._project.command('logs', str(self.run['id']), json_output=False)

    def rows(self, table: str) -> Rows:
        """All rows of a table."""
        return self._project.sql(f'select * from {table}')

    def __repr__(self) -> str:
        failed = '' if self.fault is None else f', fault={self.fault!r}, message={self.message!r}'
        return f'Result(state={self.state!r}{failed}, outputs={self.outputs!r})'


class Project:
    """A copy of a project and a state folder of its own, both removed when the tests end. See ``project``."""

    def __init__(self, folder: str, state: str) -> None:
        self.folder = folder
        self.state = state

    def run_job(
        self,
        name: str,
        ds: Union[str, date, None] = None,
        params: Optional[Mapping[str, Any]] = None,
        *,
        workflow: Optional[str] = None,
        upstream: Optional[Mapping[str, Mapping[str, Any]]] = None,
    ) -> Result:
        """Runs one job of a workflow and waits for it; it is the caller who asserts that it succeeded.

        The jobs that it waits for do not run: ``upstream`` has the outputs that they would have left, by job.
        """
        given = {job: {key: plain(value) for key, value in outputs.items()} for job, outputs in (upstream or {}).items()}
        words = ['run', workflow or self._workflow_of(name), '--job', name, '--upstream', json.dumps(given)]
        if ds is not None:
            words += ['--at', ds if isinstance(ds, str) else ds.isoformat()]
        for key, value in (params or {}).items():
            shown = plain(value)
            words += ['--param', f'{key}={shown if isinstance(shown, str) else json.dumps(shown)}']
        # Exit code 1 is a failed run, which a test may well expect.
        return Result(self, json.loads(self.command(*words, accept=(0, 1))), name)

    def sql(self, text: str) -> Rows:
        """Runs statements and returns the rows of the last one, with typed values."""
        answer = as_dict(json.loads(self.command('sql', text))) or {}
        return make_rows({'columns': answer.get('columns') or [], 'rows': answer.get('rows') or []})

    def tables(self) -> list[str]:
        """The names of all tables, as ``namespace.table``."""
        answer: Any = json.loads(self.command('tables'))
        items: list[Any] = as_list(answer) or (as_dict(answer) or {}).get('items') or []
        names: list[str] = []
        for item in items:
            entry = as_dict(item)
            if entry is None:
                names.append(str(item))
                continue
            name = str(entry.get('name') or entry.get('table'))
            namespace = entry.get('namespace')
            names.append(f'{namespace}.{name}' if namespace and '.' not in name else name)
        return sorted(names)

    def command(
        self, *words: str, accept: tuple[int, ...] = (0,), json_output: bool = True, text: str = ''
    ) -> str:
        """Runs a ``pinrail`` command over the copy and returns what it prints; ``text`` is its standard input."""
        options = ['--state', self.state, *(['--json'] if json_output else [])]
        # A named server or state folder is not for tests; interpreter and packages are those that the project's jobs have.
        kept = ('PINRAIL_PYTHON', 'PINRAIL_ENVIRONMENTS')
        environment = {
            key: value for key, value in os.environ.items() if key in kept or not key.startswith('PINRAIL_')
        }
        done = subprocess.run(
            [binary(), *words, *options],
            cwd=self.folder,
            env=environment,
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding='utf-8',
            errors='replace',
        )
        if done.returncode not in accept or (json_output and not done.stdout.strip()):
            shown = done.stderr.strip() or done.stdout.strip()
            raise UserError(f'pinrail {words[0]} ended with exit code {done.returncode}\n{shown}')
        return done.stdout

    def _workflow_of(self, job: str) -> str:
        from .compile import compile_project, render_diagnostics

        compiled = compile_project(self.folder)
        jobs: dict[str, str] = {}
        for workflow in compiled['workflows']:
            for one in workflow['jobs']:
                jobs.setdefault(one['name'], workflow['workflow'])
        if job in jobs:
            return jobs[job]
        errors = [one for one in compiled['diagnostics'] if one['level'] == 'error']
        raise UserError(
            f'no workflow has a job "{job}"' + (f'\n{render_diagnostics(errors)}' if errors else ''),
            did_you_mean(job, jobs),
        )


def project(
    files: Optional[Mapping[str, str]] = None,
    tables: Optional[Mapping[str, Sequence[Mapping[str, Any]]]] = None,
    *,
    secrets: Optional[Mapping[str, str]] = None,
    root: Union[str, os.PathLike[str], None] = None,
) -> Project:
    """A throw-away copy of the project, with a state folder of its own.

    ``files`` puts files of the project, named by the values, in the place of others, named by the keys. ``tables``
    makes tables from lists of dicts; the types of the columns follow from the values. ``secrets`` sets secrets by
    name. ``root`` is the project's folder, at first the nearest one with a pinrail.toml.
    """
    binary()
    found = os.fspath(root) if root is not None else _find_root()
    if found is None:
        raise UserError(
            'no pinrail.toml in this folder or above', 'run the tests in the project, or give project(root=...)'
        )
    place = _throw_away('project')
    folder = os.path.join(place, os.path.basename(os.path.abspath(found)) or 'project')
    shutil.copytree(found, folder, symlinks=True, ignore=_left_out)
    for target, source in (files or {}).items():
        path = os.path.normpath(os.path.join(folder, target))
        if not path.startswith(folder + os.sep):
            raise UserError(f'"{target}" is not a path within the project')
        os.makedirs(os.path.dirname(path), exist_ok=True)
        shutil.copyfile(os.path.join(found, source), path)
    _keep_interpreter(found, folder)
    made = Project(folder, os.path.join(place, 'state'))
    for name, rows in (tables or {}).items():
        namespace = name.rpartition('.')[0]
        if namespace:
            made.command('sql', f'create schema if not exists {namespace}')
        made.command('sql', create_table(name, rows))
    for name, value in (secrets or {}).items():
        # The command takes one line end away, as `echo` adds one.
        made.command('secret', 'set', name, text=value + '\n')
    return made


def create_table(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The statement that makes a table of these rows."""
    if not rows:
        raise UserError(f'table "{name}" has no rows, so its columns are unknown', 'make it with project.sql instead')
    columns = list(dict.fromkeys(column for row in rows for column in row))
    for column in columns:
        if all(row.get(column) is None for row in rows):
            raise UserError(f'column "{column}" of table "{name}" has no value, so its type is unknown')
    lines = [f'({", ".join(literal(row.get(column)) for column in columns)})' for row in rows]
    names = ', '.join('"' + column.replace('"', '""') + '"' for column in columns)
    return f'create table {name} as select * from (values {", ".join(lines)}) as t({names})'


def literal(value: Any) -> str:
    """A value as an SQL literal of its type."""
    if value is None:
        return 'null'
    if isinstance(value, bool):
        return 'true' if value else 'false'
    if isinstance(value, int):
        return f'cast({value} as bigint)'
    if isinstance(value, float):
        return f"cast('{value!r}' as double)"
    if isinstance(value, Decimal):
        _, digits, exponent = value.as_tuple()
        scale = max(0, -int(exponent))
        precision = max(len(digits) + max(0, int(exponent)), scale + 1)
        return f"cast('{value:f}' as decimal({precision}, {scale}))"
    if isinstance(value, datetime):
        if value.tzinfo is not None:
            text = value.astimezone(timezone.utc).replace(tzinfo=None).isoformat(timespec='microseconds')
            return f"cast('{text}Z' as timestamp with time zone)"
        return f"timestamp '{value.isoformat(sep=' ', timespec='microseconds')}'"
    if isinstance(value, date):
        return f"date '{value.isoformat()}'"
    if isinstance(value, (bytes, bytearray)):
        return f"x'{bytes(value).hex()}'"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    raise UserError(f'a table of a test cannot hold a {type(value).__name__}')


def _left_out(folder: str, names: list[str]) -> set[str]:
    return {one for one in names if one in ('.git', '.pinrail', '.venv', 'venv', '__pycache__', 'node_modules')}


def _keep_interpreter(found: str, folder: str) -> None:
    """An interpreter within the project, as in a virtual environment that the copy leaves out, is called where it is."""
    with open(os.path.join(found, 'pinrail.toml'), encoding='utf-8') as file:
        # Python 3.9 has no reader of TOML.
        named = re.search(r'^[ \t]*interpreter[ \t]*=[ \t]*["\']([^"\'\n]+)["\']', file.read(), re.MULTILINE)
    if named is None or '/' not in named[1] or os.path.isabs(named[1]):
        return
    path = os.path.join(folder, named[1])
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w', encoding='utf-8') as file:
            file.write(f'#!/bin/sh\nexec {shlex.quote(os.path.join(os.path.abspath(found), named[1]))} "$@"\n')
        os.chmod(path, 0o755)


def _find_root() -> Optional[str]:
    folder = os.getcwd()
    while not os.path.isfile(os.path.join(folder, 'pinrail.toml')):
        above = os.path.dirname(folder)
        if above == folder:
            return None
        folder = above
    return folder


def _throw_away(what: str) -> str:
    folder = tempfile.mkdtemp(prefix=f'pinrail-{what}-')
    atexit.register(shutil.rmtree, folder, True)
    return os.path.realpath(folder)
