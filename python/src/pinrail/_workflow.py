"""What a workflow file says: ``template``, ``Workflow``, ``cron``, ``every``, ``once`` and ``Param``.

Each call checks its own arguments when it is made and keeps where it stands. What can only be judged of a whole
workflow (names, dependencies, cycles) and the JSON document are in ``_document``.

Invariant: a wrong argument never stops the file while it is compiled. It is recorded, and the object goes on with the
argument left out, so that later mistakes are found too.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Optional

from ._diagnostics import Diagnostic, Site, collecting, settle
from ._errors import did_you_mean
from ._names import name_problem, usable
from ._narrow import as_dict, as_list
from ._notify import notify
from ._settings import (
    DEFAULT_NAMES,
    EXECUTORS,
    KINDS,
    NOT_OF_A_RUN,
    NOT_YET,
    OVERRUN,
    SETTINGS,
    TEMPLATE_NAMES,
    WORKFLOW_NAMES,
    meant,
    one_of,
    positive_seconds,
    text,
    whole,
)
from ._specs import Sql, WrongValue, command_of, describe, workflow_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from typing import Literal, TypeVar, Union

    from ._conditions import Condition
    from ._specs import Table

    Dependency = Union[str, 'Template']
    Dependencies = Union[Dependency, Collection[Dependency]]
    Duration = Union[int, float, str]
    _Made = TypeVar('_Made', bound='Cron')
    T = TypeVar('T')
    Fault = Literal[
        'user',
        'data',
        'upstream',
        'platform',
        'external',
        'conflict',
        'cancelled',
        'timeout',
        'out-of-memory',
        'unknown',
    ]


class Template:
    """The declaration of one job, made by ``template(...)``. Two of the same name are two: identity counts."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.name = ''
        self.kind: Optional[str] = None
        self.class_name: Optional[str] = None
        self.sql: Optional[dict[str, str]] = None
        self.shell: Optional[list[str]] = None
        self.workflow: Optional[str] = None
        self.settings: dict[str, Any] = {}
        # Waits, beside what is listed, for the jobs that write the tables which its SQL reads.
        self.auto = False
        self.diagnostics: list[Diagnostic] = []

    def __repr__(self) -> str:
        return f'template(name={self.name!r})'

    def output(self, name: str) -> str:
        """One of its outputs, as ``map=`` names it."""
        return f'{self.name}.{name}'


if TYPE_CHECKING:

    def template(
        *,
        name: str,
        class_: Union[str, type[Any], Callable[[Any], Any], None] = None,
        sql: Union[str, Sql, None] = None,
        shell: Union[str, Sequence[str], None] = None,
        workflow: Optional[str] = None,
        executor: Optional[str] = None,
        memory: Union[str, int, None] = None,
        retries: Optional[int] = None,
        retry_delay: Optional[Duration] = None,
        retry_on: Union[Fault, Collection[Fault], None] = None,
        warn_after: Optional[Duration] = None,
        timeout: Optional[Duration] = None,
        cleanup_timeout: Optional[Duration] = None,
        run_if: Literal['all_succeeded', 'all_done', 'any_failed', 'none_failed'] = 'all_succeeded',
        may_fail: Optional[bool] = None,
        extras: Union[str, Collection[str]] = (),
        secrets: Union[str, Collection[str]] = (),
        secret_env: Optional[Mapping[str, str]] = None,
        env: Optional[Mapping[str, str]] = None,
        writes: Union[str, Table, Sequence[Union[str, Table]], None] = None,
        params: Optional[Mapping[str, Any]] = None,
        priority: Optional[int] = None,
        pools: Union[str, Collection[str], Mapping[str, int], None] = None,
        concurrency: Optional[int] = None,
        key: Optional[str] = None,
        labels: Union[str, Collection[str], None] = None,
        map: Optional[str] = None,
        max_instances: Optional[int] = None,
        wait_for: Union[Condition, Sequence[Condition], None] = None,
        when: Optional[str] = None,
        description: Optional[str] = None,
        owner: Optional[str] = None,
        after: Optional[Literal['auto']] = None,
    ) -> Template:
        """Declares a job: one of ``class_`` (dotted name), ``sql`` (file), ``shell`` (command) and ``workflow`` (name of
        another one of the project, of which a run with ``params`` is its work), and settings.

        ``after='auto'`` lets a job with ``sql`` also wait for the jobs that write the tables which it reads. Durations
        are seconds or texts such as ``'30s'``, ``'5m'``, ``'1h'``; ``memory`` is ``'512MB'`` or bytes. ``timeout``
        aborts, ``warn_after`` only warns. An attempt takes slots of its ``pools``; ``concurrency`` limits the attempts
        of the job in all runs; of jobs with the same ``key`` (a template) one is under way at a time; a worker must
        have the ``labels``. With ``map='listing.files'`` the job runs once for each item of the list that the job
        ``listing`` leaves as its output ``files``, which may have ``max_instances`` items (1000 unless said otherwise).
        ``wait_for`` are conditions that the server looks at before the job takes a slot; ``when``
        is an expression such as ``'upstream.count.rows > 0'``: if it is false the job is skipped. A setting left out comes from ``Workflow(defaults=...)`` or
        from ``[defaults]`` of pinrail.toml.
        """
        ...

else:

    def template(*args: object, **given: object) -> Template:
        name = given.get('name')
        made = Template(Site.of_caller('template', name if isinstance(name, str) else None))
        site, found = made.site, made.diagnostics
        what = f'job "{name}"' if isinstance(name, str) else 'a template'
        if args:
            found.append(
                site.diagnostic(
                    'wrong-type', f'{what} has an argument without a name', hint="write template(name='load', ...)"
                )
            )
        if 'klass' in given and 'class_' not in given:
            # The seed's spelling, see _source.respell.
            given['class_'] = given.pop('klass')
        for key in given:
            if key not in TEMPLATE_NAMES:
                found.append(
                    site.diagnostic(
                        'unknown-setting',
                        f'{what} has a setting that does not exist: "{key}"',
                        hint=meant(key, TEMPLATE_NAMES),
                        setting=key,
                        name_only=True,
                    )
                )
        _take_name(made, name)
        _take_kind(made, what, given)
        for key, setting in SETTINGS.items():
            value = given.get(key)
            if value is None or (key in ('extras', 'secrets') and value == ()):
                continue
            try:
                made.settings[key] = setting.check(value)
            except WrongValue as wrong:
                message = f'setting "{key}" of {what} must be {wrong.expected}'
                found.append(site.diagnostic('wrong-type', message, hint=wrong.hint, setting=key))
        check_executor(made, what)
        _check_run(made, what)
        _check_map(made, what)
        _take_after(made, what, given.get('after'))
        settle(found)
        return made


def check_executor(made: Template, what: str) -> None:
    """Reports an executor that cannot run a job of this kind."""
    executor = made.settings.get('executor')
    if executor is not None and made.kind is not None and executor not in EXECUTORS[made.kind]:
        possible = ' or '.join(f'"{one}"' for one in EXECUTORS[made.kind])
        message = f'executor "{executor}" cannot run {what}, which is of kind {made.kind}'
        made.diagnostics.append(
            made.site.diagnostic('bad-executor', message, hint=f'possible: {possible}', setting='executor')
        )


def _check_run(made: Template, what: str) -> None:
    """Reports settings that the jobs of the other workflow have."""
    for key in NOT_OF_A_RUN if made.kind == 'workflow' else ():
        if made.settings.pop(key, None) is not None:
            message = f'setting "{key}" of {what} says nothing: its work is a run of a workflow'
            hint = 'give it in the templates of that workflow'
            made.diagnostics.append(
                made.site.diagnostic('unknown-setting', message, hint=hint, setting=key, name_only=True)
            )


def _check_map(made: Template, what: str) -> None:
    """Reports a limit of instances where there are none."""
    if 'max_instances' in made.settings and 'map' not in made.settings:
        message = f'{what} has a limit of instances and is not mapped over anything'
        hint = "write map='listing.files': a job that it waits for and the name of an output"
        made.diagnostics.append(made.site.diagnostic('bad-map', message, hint=hint, setting='max_instances'))


def _take_after(made: Template, what: str, value: object) -> None:
    if value is None:
        return
    if value != 'auto':
        message = f'setting "after" of {what} must be "auto", not {describe(value)}'
        hint = 'list the jobs that it waits for behind the template: template(...): [...]'
    elif made.kind not in (None, 'sql'):
        message = f'setting "after" of {what} takes what it waits for from SQL, and the job has none'
        hint = 'list the jobs that it waits for behind the template: template(...): [...]'
    else:
        made.auto = True
        return
    made.diagnostics.append(made.site.diagnostic('wrong-type', message, hint=hint, setting='after'))


def _take_name(made: Template, name: object) -> None:
    if name is None:
        made.diagnostics.append(
            made.site.diagnostic('bad-name', 'a template has no name', hint="write template(name='load', ...)")
        )
        return
    problem = name_problem(name)
    if problem is None:
        made.name = str(name)
        return
    better = usable(name) if isinstance(name, str) else None
    hint = f'write "{better}"' if better else None
    made.diagnostics.append(made.site.diagnostic('bad-name', f'job name {problem}', hint=hint, setting='name'))


def _take_kind(made: Template, what: str, given: Mapping[str, object]) -> None:
    kinds = [kind for kind in KINDS if given.get(kind) is not None]
    site, found = made.site, made.diagnostics
    if not kinds:
        message = f'{what} has none of class_, sql, shell and workflow'
        found.append(site.diagnostic('no-kind', message, hint='say what it runs by one of them'))
        return
    if len(kinds) > 1:
        message = f'{what} has {" and ".join([", ".join(kinds[:-1]), kinds[-1]])}: exactly one of them is needed'
        found.append(
            site.diagnostic('two-kinds', message, hint='make two jobs of it', setting=kinds[1], name_only=True)
        )
        return
    kind = kinds[0]
    value = given[kind]
    try:
        if kind == 'class_':
            made.class_name = _class_name(value)
        elif kind == 'sql':
            made.sql = _sql(made, value)
        elif kind == 'workflow':
            made.workflow = workflow_of(value)
        else:
            made.shell = command_of(value)
    except WrongValue as wrong:
        message = f'setting "{kind}" of {what} must be {wrong.expected}'
        found.append(site.diagnostic('wrong-type', message, hint=wrong.hint, setting=kind))
    made.kind = kind.rstrip('_')


def _class_name(value: object) -> str:
    if isinstance(value, str):
        parts = value.split('.')
        if len(parts) > 1 and all(part.isidentifier() for part in parts):
            return value
        hint = None
        if '.py' in value or '/' in value:
            # Other tools write a path with the name behind it: jobs/load.py:LoadFlights.
            path, _, name = value.partition(':')
            module = path.strip().removesuffix('.py').replace('/', '.').strip('.')
            hint = f'write "{module}.{name.strip() or "LoadFlights"}"'
        raise WrongValue(f'the dotted name of a class, such as "jobs.load.LoadFlights", not {describe(value)}', hint)
    module = getattr(value, '__module__', None)
    name = getattr(value, '__qualname__', None)
    if not callable(value) or not isinstance(module, str) or not isinstance(name, str):
        raise WrongValue(f'the dotted name of a class, such as "jobs.load.LoadFlights", not {describe(value)}')
    if '<' in name:
        raise WrongValue(
            f'a class or function of a module, not {describe(value)}, which is defined inside a function',
            'move it to the top of a module',
        )
    return f'{module}.{name}'


def _sql(made: Template, value: object) -> dict[str, str]:
    if isinstance(value, Sql):
        if value.params:
            made.settings['params'] = value.to_json()['params']
        if value.writes is not None:
            made.settings['writes'] = [table.to_json() for table in value.writes]
        return {'file': value.file} if value.file is not None else {'text': value.text or ''}
    if isinstance(value, str) and value.strip():
        if '\n' in value or (' ' in value.strip() and not value.strip().endswith('.sql')):
            raise WrongValue('the path of a file, and this is a statement', 'write sql=Sql(text=...)')
        return {'file': value}
    raise WrongValue(f'the path of a file or Sql(text=...), not {describe(value)}')


class Workflow:
    """A DAG of jobs: a dict of templates to what each waits for, and settings of the whole.

    A value of the dict is a list, tuple or set of names or templates, or one of these alone. ``defaults`` are settings
    for each job that does not give its own. ``overrun`` says what a fire time does while earlier runs are not over,
    ``max_active`` how many runs of the schedule may be active at once, ``concurrency`` how many of its jobs may be under
    way at once in all its runs. ``notify`` names the channels of pinrail.toml that are told, by event or alone; ``sla``
    is how long after it was asked for a run is to have succeeded.
    """

    site: Site
    jobs: dict[Any, Any]
    schedule: Union[Cron, Every, Once, None]
    limits: dict[str, Any]
    owner: Optional[str]
    description: Optional[str]
    params: dict[str, Param]
    defaults: dict[str, Any]
    notify: dict[str, list[str]]
    sla: Optional[float]
    diagnostics: list[Diagnostic]

    if TYPE_CHECKING:

        def __init__(
            self,
            jobs: Mapping[Template, Dependencies],
            *,
            schedule: Union[Cron, Every, Once, None] = None,
            overrun: Literal['start-new', 'skip', 'delay', 'delay-until-success', 'abort-running'] = 'start-new',
            max_active: Optional[int] = None,
            concurrency: Optional[int] = None,
            owner: Optional[str] = None,
            description: Optional[str] = None,
            params: Optional[Mapping[str, Param]] = None,
            defaults: Optional[Mapping[str, Any]] = None,
            notify: Union[str, Collection[str], Mapping[str, Union[str, Collection[str]]], None] = None,
            sla: Optional[Duration] = None,
        ) -> None: ...

    else:

        def __init__(self, *args: object, **given: object) -> None:
            jobs = args[0] if args else given.pop('jobs', None)
            self._take(Site.of_caller('Workflow'), jobs, given)
            if len(args) > 1:
                self.diagnostics.append(
                    self.site.diagnostic(
                        'wrong-type',
                        'a workflow has a second argument without a name',
                        hint='write Workflow({...}, schedule=...)',
                    )
                )
            found = list(self.diagnostics)
            if collecting() is None:
                # Nobody will look at the whole later, so it is done now.
                from ._document import structure

                found += structure(self, None)
            settle(found)

    @classmethod
    def of_dict(cls, jobs: object, site: Site) -> Workflow:
        """The workflow that ``workflow = {...}`` is short for."""
        made = cls.__new__(cls)
        made._take(site, jobs, {})
        settle(made.diagnostics)
        return made

    def _take(self, site: Site, jobs: object, given: Mapping[str, object]) -> None:
        self.site = site
        self.diagnostics = []
        self.jobs = {}
        self.schedule = None
        self.limits = {}
        self.params = {}
        self.defaults = {}
        self.owner = self._checked(given, 'owner', text)
        self.description = self._checked(given, 'description', text)
        self.notify = self._checked(given, 'notify', notify) or {}
        self.sla = self._checked(given, 'sla', positive_seconds)
        for key in given:
            if key in NOT_YET:
                message = f'setting "{key}" of a workflow is not supported by this version'
                self._problem('not-supported', message, NOT_YET[key], key, name_only=True)
            elif key not in WORKFLOW_NAMES:
                self._problem(
                    'unknown-setting',
                    f'a workflow has a setting that does not exist: "{key}"',
                    meant(key, WORKFLOW_NAMES),
                    key,
                    name_only=True,
                )
        entries = as_dict(jobs)
        if entries is not None:
            self.jobs = dict(entries)
        else:
            self._problem(
                'wrong-type',
                f'a workflow must be a dict of templates to what each waits for, not {describe(jobs)}',
                "write Workflow({template(name='load', ...): [], ...})",
                'jobs',
            )
        schedule = given.get('schedule')
        if isinstance(schedule, (Cron, Every, Once)):
            self.schedule = schedule
        elif schedule is not None:
            hint = (
                f"write schedule=cron('{schedule}')"
                if isinstance(schedule, str) and len(schedule.split()) == 5
                else None
            )
            if isinstance(schedule, str) and hint is None:
                hint = f"write schedule=every('{schedule}')" if schedule[:1].isdigit() else None
            self._problem(
                'wrong-type',
                f'setting "schedule" of a workflow must be cron(...), every(...) or once(...), not {describe(schedule)}',
                hint,
                'schedule',
            )
        self._take_params(given.get('params'))
        self._take_defaults(given.get('defaults'))
        self._take_limits(given)
        if self.schedule is not None:
            for name in [name for name, param in self.params.items() if param.required]:
                message = f'parameter "{name}" has no default, and nobody gives a value when the schedule fires'
                self._problem('bad-schedule', message, 'write Param(..., default=...)', 'params', key=name)

    def _checked(self, given: Mapping[str, object], key: str, check: Callable[[object], T]) -> Optional[T]:
        value = given.get(key)
        if value is None:
            return None
        try:
            return check(value)
        except WrongValue as wrong:
            self._problem('wrong-type', f'setting "{key}" of a workflow must be {wrong.expected}', wrong.hint, key)
            return None

    def _take_limits(self, given: Mapping[str, object]) -> None:
        """What limits its runs. Only what differs from the default, so that other documents stay as they were."""
        for key, check in (('overrun', one_of(OVERRUN)), ('max_active', whole(1)), ('concurrency', whole(1))):
            value = given.get(key)
            if value is None:
                continue
            try:
                checked = check(value)
            except WrongValue as wrong:
                self._problem('wrong-type', f'setting "{key}" of a workflow must be {wrong.expected}', wrong.hint, key)
                continue
            if checked != 'start-new':
                self.limits[key] = checked

    def _entries(self, key: str, value: object) -> list[tuple[object, object]]:
        """The entries of a dict-valued setting, or none and a diagnostic."""
        if value is None:
            return []
        entries = as_dict(value)
        if entries is not None:
            return list(entries.items())
        self._problem('wrong-type', f'setting "{key}" of a workflow must be a dict, not {describe(value)}', None, key)
        return []

    def _take_params(self, value: object) -> None:
        folded: dict[str, str] = {}
        for name, param in self._entries('params', value):
            problem = name_problem(name)
            if problem is not None:
                self._problem('bad-name', f'parameter name {problem}', None, 'params')
            elif not isinstance(param, Param):
                hint = None
                if type(param) in _TYPES:
                    hint = f'write Param({type(param).__name__}, default={param!r})'
                elif isinstance(param, type) and param in _TYPES:
                    hint = f'write Param({param.__name__})'
                self._problem(
                    'wrong-type',
                    f'parameter "{name}" must be a Param(...), not {describe(param)}',
                    hint,
                    'params',
                    key=str(name),
                )
            elif folded.setdefault(str(name).lower(), str(name)) != name:
                self._problem(
                    'bad-name',
                    f'parameters "{folded[str(name).lower()]}" and "{name}" differ only in case',
                    None,
                    'params',
                    key=str(name),
                )
            else:
                self.params[str(name)] = param

    def _take_defaults(self, value: object) -> None:
        for key, one in self._entries('defaults', value):
            problem = default_problem(key, one)
            if problem is not None:
                code, message, hint = problem
                self._problem(code, message, hint, 'defaults', key=str(key))
            elif one is not None:
                self.defaults[str(key)] = SETTINGS[str(key)].check(one)

    def _problem(
        self,
        code: str,
        message: str,
        hint: Optional[str],
        setting: str,
        *,
        name_only: bool = False,
        key: Optional[str] = None,
    ) -> None:
        span = None
        call, source = self.site.call(), self.site.source
        if key is not None and call is not None and source is not None:
            node = source.value(call, setting)
            for constant in source.constants(node, key) if node is not None else ():
                span = source.span(constant)
                break
        self.diagnostics.append(
            self.site.diagnostic(code, message, hint=hint, setting=setting, name_only=name_only, span=span)
        )


def default_problem(key: object, value: object) -> Optional[tuple[str, str, Optional[str]]]:
    """What is wrong with an entry of ``defaults``: code, message and hint."""
    if not isinstance(key, str) or key not in DEFAULT_NAMES:
        if key in TEMPLATE_NAMES:
            return 'unknown-setting', f'setting "{key}" cannot have a default', 'give it in template(...)'
        hint = meant(key, DEFAULT_NAMES) if isinstance(key, str) else None
        return 'unknown-setting', f'the defaults have a setting that does not exist: {describe(key)}', hint
    try:
        if value is not None:
            SETTINGS[key].check(value)
    except WrongValue as wrong:
        return 'wrong-type', f'default "{key}" must be {wrong.expected}', wrong.hint
    return None


class Cron:
    """A schedule by the clock, made by ``cron(...)``."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self.diagnostics: list[Diagnostic] = []

    def to_json(self) -> dict[str, Any]:
        return self.fields


class Every(Cron):
    """A schedule by elapsed time, made by ``every(...)``."""


class Once(Cron):
    """A schedule with one fire time, made by ``once(...)``."""


def cron(
    cron: str,
    *,
    tz: str = 'UTC',
    covers: Literal['day', 'hour', 'week', 'month', 'between-fires'] = 'between-fires',
    start: Union[str, date, None] = None,
    end: Union[str, date, None] = None,
    catch_up: Literal['none', 'latest', 'all'] = 'latest',
    jitter: Union[int, float, str, None] = None,
    blackout: Sequence[Union[str, date, tuple[Union[str, date], Union[str, date]]]] = (),
) -> Cron:
    """Fires at the times of a five-field cron expression in the IANA zone ``tz``.

    ``covers`` is the interval of a run: the last complete local day, hour, week or month before it fires, or the time
    since the fire before. ``start`` and ``end`` are the first and the last local date with a fire time. ``catch_up``
    says which fire times are made up for that passed while nothing could fire. A run begins up to ``jitter`` later.
    ``blackout`` lists local dates, and pairs of a first and a last one, without fire times.
    """
    from . import _schedule

    site = Site.of_caller('cron')
    wrong: _schedule.Wrong = []
    expression, problem, hint = _schedule.cron_expression(cron)
    if problem is not None:
        wrong.append(('cron', problem, hint))
    problem, hint = _schedule.zone_problem(tz)
    if problem is not None:
        wrong.append(('tz', problem, hint))
    covered = _schedule.choice('cron', 'covers', covers, _schedule.COVERS, wrong, 'between-fires')
    first, last, bounds = _schedule.bounds('cron', start, end)
    wrong += bounds
    rest = _schedule.rest('cron', catch_up, jitter, blackout, wrong)
    zone = tz if isinstance(tz, str) else 'UTC'  # pyright: ignore[reportUnnecessaryIsInstance]
    fields = {'kind': 'cron', 'cron': expression, 'tz': zone, 'covers': covered, 'start': first, 'end': last, **rest}
    return _judged(Cron(fields), site, wrong)


def every(
    interval: Union[int, float, str],
    *,
    start: Union[str, date, None] = None,
    end: Union[str, date, None] = None,
    catch_up: Literal['none', 'latest', 'all'] = 'latest',
    jitter: Union[int, float, str, None] = None,
    blackout: Sequence[Union[str, date, tuple[Union[str, date], Union[str, date]]]] = (),
) -> Every:
    """Fires each time the interval has elapsed: seconds, or a text such as ``'15m'`` or ``'1h'``.

    The other arguments are those of ``cron``; dates are in UTC.
    """
    from . import _schedule

    site = Site.of_caller('every')
    wrong: _schedule.Wrong = []
    seconds = 3600.0
    try:
        seconds = positive_seconds(interval)
        if seconds != int(seconds):
            raise WrongValue(f'a duration of whole seconds, not {describe(interval)}')
    except WrongValue as problem:
        wrong.append(('interval', f'"interval" of every must be {problem.expected}', problem.hint))
    first, last, bounds = _schedule.bounds('every', start, end)
    wrong += bounds
    rest = _schedule.rest('every', catch_up, jitter, blackout, wrong)
    fields: dict[str, Any] = {'kind': 'interval', 'every_seconds': int(seconds), 'tz': 'UTC', 'covers': 'between-fires'}
    return _judged(Every({**fields, 'start': first, 'end': last, **rest}), site, wrong)


def once(
    at: Union[str, datetime],
    *,
    tz: str = 'UTC',
    covers: Literal['day', 'hour', 'week', 'month', 'between-fires'] = 'between-fires',
    catch_up: Literal['none', 'latest', 'all'] = 'latest',
) -> Once:
    """Fires one time, at a local time in the IANA zone ``tz`` such as ``'2026-12-24T06:00'``.

    ``covers`` and ``catch_up`` are those of ``cron``; between fires is the day before.
    """
    from . import _schedule

    site = Site.of_caller('once')
    wrong: _schedule.Wrong = []
    problem, hint = _schedule.zone_problem(tz)
    if problem is not None:
        wrong.append(('tz', problem, hint))
    covered = _schedule.choice('once', 'covers', covers, _schedule.COVERS, wrong, 'between-fires')
    moment = _schedule.moment(at)
    if moment is None or 'T' not in moment or moment.endswith('Z'):
        message = f'"at" of once must be a local time such as 2026-12-24T06:00, not {describe(at)}'
        hint = 'leave the offset out and name the zone with tz=' if moment and moment.endswith('Z') else None
        wrong.append(('at', message, hint))
        moment = '1970-01-01T00:00:00'
    rest = _schedule.rest('once', catch_up, None, (), wrong)
    zone = tz if isinstance(tz, str) else 'UTC'  # pyright: ignore[reportUnnecessaryIsInstance]
    at_second = moment.removesuffix('.000000')
    fields = {'kind': 'once', 'at': at_second, 'tz': zone, 'covers': covered, 'start': None, 'end': None, **rest}
    return _judged(Once(fields), site, wrong)


def _judged(made: _Made, site: Site, wrong: list[tuple[str, str, Optional[str]]]) -> _Made:
    """A schedule with what is wrong with it, at the caller's place."""
    made.diagnostics += [
        site.diagnostic('bad-schedule', message, hint=hint, setting=setting) for setting, message, hint in wrong
    ]
    settle(made.diagnostics)
    return made


_TYPES: dict[Any, str] = {
    int: 'int',
    float: 'float',
    str: 'str',
    bool: 'bool',
    date: 'date',
    datetime: 'datetime',
    Decimal: 'decimal',
}
_REQUIRED: Any = type('Required', (), {'__repr__': lambda self: 'required'})()  # pyright: ignore[reportUnknownLambdaType]


class Param:
    """A parameter of a workflow: its type (``int, float, str, bool, date, datetime, Decimal``) and its default.

    Without a default each run must give it. ``choices`` lists the only values that it may have.
    """

    def __init__(
        self,
        type: type[Any],
        *,
        default: Any = _REQUIRED,
        help: str = '',
        choices: Optional[Sequence[Any]] = None,
    ) -> None:
        site = Site.of_caller('Param')
        self.diagnostics: list[Diagnostic] = []
        self.type = 'str'
        self.required = default is _REQUIRED
        self.default: Any = None
        self.help = ''
        self.choices: Optional[list[Any]] = None

        def problem(setting: str, message: str, hint: Optional[str] = None) -> None:
            self.diagnostics.append(site.diagnostic('wrong-type', message, hint=hint, setting=setting))

        if type in _TYPES:
            self.type = _TYPES[type]
            if not self.required:
                self.default, wrong = typed(self.type, default)
                if wrong is not None:
                    problem('default', f'"default" of Param must be {wrong}')
            if choices is not None:
                self._take_choices(choices, problem)
        else:
            names = ', '.join(kind.__name__ for kind in _TYPES)
            hint = did_you_mean(type, _TYPES.values()) if isinstance(type, str) else None
            problem('type', f'"type" of Param must be one of {names}, not {describe(type)}', hint)
        if isinstance(help, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            self.help = help
        else:
            problem('help', f'"help" of Param must be text, not {describe(help)}')
        settle(self.diagnostics)

    def _take_choices(self, choices: object, problem: Callable[[str, str], None]) -> None:
        given = as_list(choices)
        if not given:
            problem('choices', f'"choices" of Param must be a list of values, not {describe(choices)}')
            return
        self.choices = []
        for choice in given:
            value, wrong = typed(self.type, choice)
            if wrong is not None:
                problem('choices', f'a choice of Param must be {wrong}')
            else:
                self.choices.append(value)
        if not self.required and self.default not in self.choices:
            problem('default', f'"default" of Param must be one of its choices, not {describe(self.default)}')

    def to_json(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            'type': self.type,
            'required': self.required,
            'help': self.help,
            'choices': self.choices,
        }
        if not self.required:
            body['default'] = self.default
        return body


def typed(kind: str, value: object) -> tuple[Any, Optional[str]]:
    """The JSON form of a parameter's value, or what it must be instead. None is a value of every type."""
    expected = {
        'int': 'a whole number',
        'float': 'a number',
        'str': 'text',
        'bool': 'True or False',
        'date': 'a date',
        'datetime': 'a datetime',
        'decimal': 'a Decimal',
    }[kind]
    if isinstance(value, bool):
        return (value, None) if kind == 'bool' else (None, f'{expected}, not {describe(value)}')
    if value is None:
        return None, None
    if kind == 'int' and isinstance(value, int):
        return value, None
    if kind == 'float' and isinstance(value, (int, float)) and value - value == 0:
        return float(value), None
    if kind == 'str' and isinstance(value, str):
        return value, None
    if kind == 'decimal' and isinstance(value, (Decimal, int, str)):
        try:
            if Decimal(value).is_finite():
                return str(value), None
        except InvalidOperation:
            pass
    if kind in ('date', 'datetime'):
        from ._schedule import moment

        shown = moment(value, only_date=kind == 'date')
        if shown is not None:
            return shown, None
    return None, f'{expected}, not {describe(value)}'
