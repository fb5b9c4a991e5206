"""Sensors of Airflow as conditions, at which the server looks while the job holds no slot.

A sensor stays a job of its own, which only waits: what stands above and below it, and its trigger rule, stay as they
are. Sensors that only a command or a function can answer are jobs that look themselves, see ``_operators``.
"""

from __future__ import annotations

import ast
import datetime
import pathlib
import re
import urllib.parse
from typing import Callable, NamedTuple, Optional

from .._narrow import as_dict, as_list
from . import _jinja
from ._airflow import Dag, Task
from ._evaluate import Function, Ref, Thing, Unknown, Value
from ._jinja import NotTranslated
from ._jobs import literal_of
from ._project import new_name
from ._report import Report

# Arguments of every sensor. Those of the last line have no meaning where nobody holds a slot.
PATIENCE = ('poke_interval', 'timeout', 'soft_fail', 'never_fail')
ARGUMENTS = frozenset(
    (*PATIENCE, 'exponential_backoff', 'max_wait')
    + ('mode', 'deferrable', 'silent_fail', 'poll_interval', 'poke_timeout', 'start_trigger_args', 'start_from_trigger')
)
# What the sensors below take beside, which default_args may give as well.
OF_SENSORS = ARGUMENTS | frozenset(('fs_conn_id', 'http_conn_id', 'conn_id', 'external_dag_id', 'check_existence'))
# How often Airflow looks when nobody says, and how long it waits.
EVERY_SECONDS = 60.0
TIMEOUT_SECONDS = 7 * 86400.0

_URL = re.compile(r'https?://', re.IGNORECASE)
_WEEKDAYS = ('sunday', 'monday', 'tuesday', 'wednesday', 'thursday', 'friday', 'saturday')


class Call(NamedTuple):
    """A condition as source text: its class, and its arguments."""

    name: str
    arguments: list[str]


class Sensor:
    """One sensor: its arguments as texts for a condition, and what there is to tell of it."""

    def __init__(self, task: Task, params: set[str], output: Callable[[str, str], str], report: Report) -> None:
        self.task = task
        self.zone: Optional[str] = None
        self.params = params
        self.report = report
        self.pulls: list[tuple[str, str]] = []
        self.used: set[str] = set(ARGUMENTS)
        # The source of a statement with its templates translated.
        self.sql: Callable[[str], str] = str
        # Workflows that are waited for.
        self.workflows: list[str] = []
        self._output = output

    def given(self, name: str, absent: Value = None) -> Value:
        self.used.add(name)
        return self.task.given(name, absent)

    def plain(self, name: str) -> Optional[str]:
        """An argument as text with Airflow's own templates, None where it is not given. Raises ``NotTranslated``."""
        value = self.given(name)
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, pathlib.PurePosixPath):
            return str(value)
        text = value.text() if isinstance(value, Thing) else None
        if text is None:
            why = value.why if isinstance(value, Unknown) else 'it is no text'
            raise NotTranslated(f'{name} is only known at run time ({why})', 'write wait_for= by hand')
        return text

    def filled(self, text: str) -> str:
        """A text of Airflow as one of a condition. Raises ``NotTranslated``."""
        made, pulls = _jinja.server_text(text, self.params, self._output)
        self.pulls += pulls
        return made

    def changed(self, what: str, todo: Optional[str] = None) -> None:
        self.report.changed(self.task.file, self.task.line, what, todo)

    def left_out(self, what: str, todo: str) -> None:
        self.report.left_out(self.task.file, self.task.line, what, todo)

    @property
    def shown(self) -> str:
        return f'{self.task.kind} "{self.task.id}"'


def kind_of(task: Task) -> str:
    """The name of a sensor without what says that it is deferred, which all conditions are."""
    return task.kind[: -len('Async')] if task.kind.endswith('SensorAsync') else task.kind


def seconds_of(value: Value) -> Optional[float]:
    """A time that is given as seconds or as ``timedelta``; None where it is neither."""
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def patience(task: Task) -> tuple[Optional[float], Optional[float], bool]:
    """How often a sensor looks and how long it waits, in seconds where it says so, and whether it is skipped then."""
    limits = [seconds_of(task.given(name)) for name in ('timeout', 'execution_timeout')]
    timeout = min((one for one in limits if one is not None and one > 0), default=None)
    every = seconds_of(task.given('poke_interval'))
    skips = task.given('soft_fail') is True or task.given('never_fail') is True
    return (every if every else None), timeout, skips


def file(sensor: Sensor) -> list[Call]:
    """``FileSensor`` with a relative path."""
    path = path_of(sensor)
    if path.endswith('/'):
        # A folder that has a file.
        path += '**/*'
    conn = sensor.given('fs_conn_id', 'fs_default')
    sensor.given('recursive')
    named = f'"{conn}"' if isinstance(conn, str) else 'its connection'
    sensor.changed(
        f'file "{path}" of {sensor.shown} is looked for in the project\'s folder, in Airflow in that of {named}'
    )
    return [Call('File', [repr(sensor.filled(path))])]


def path_of(sensor: Sensor) -> str:
    """The path of a ``FileSensor``, with Airflow's templates. Raises ``NotTranslated``."""
    path = sensor.plain('filepath')
    if not path:
        raise NotTranslated('it has no path', 'write wait_for=File("PATH")')
    return path[2:] if path.startswith('./') else path


def sql(sensor: Sensor) -> list[Call]:
    """``SqlSensor``: true where the first value of the first row is."""
    text = sensor.plain('sql')
    if not text or text.rstrip().endswith('.sql'):
        raise NotTranslated('its SQL is not in the file', 'write wait_for=SqlTrue("select ...")')
    for name in ('success', 'failure', 'selector', 'parameters'):
        if sensor.given(name) is not None:
            todo = 'write what it does into the SQL: wait_for=SqlTrue("select count(*) > 10 from ...")'
            raise NotTranslated(f'{name} decides with Python what its SQL says', todo)
    if sensor.given('fail_on_empty') is True:
        sensor.left_out(f'fail_on_empty=True of {sensor.shown}: it waits for a row', 'let a job look at the rows')
    sensor.given('hook_params')
    conn = literal_of(sensor.given('conn_id'))
    sensor.changed(f'conn_id={conn} of {sensor.shown}: the SQL runs in Pinrail, over its tables')
    return [Call('SqlTrue', [repr(truth_of(sensor.sql(text.strip().rstrip(';').strip())))])]


def truth_of(statement: str) -> str:
    """A SELECT whose first value is true or false where Airflow takes that of ``statement`` for it.

    Raises ``NotTranslated`` for what is not a SELECT of one column.
    """
    found = re.match(r'select\s+', statement, re.IGNORECASE)
    item, rest = _first_item(statement[found.end() :]) if found is not None else ('', '')
    if found is None or not item or rest.lstrip().startswith(',') or re.match(r'(distinct\b|\*|top\b)', item, re.I):
        raise NotTranslated(
            'its SQL is no SELECT of one value',
            'write wait_for=SqlTrue("select ...") with a value that is true or false',
        )
    gap = ' ' if rest else ''
    head, rest = statement[: found.end()], rest.lstrip()
    outside = _outside_of_brackets(item)
    if re.match(r'(not\s+)?exists\b', outside, re.IGNORECASE):
        raise NotTranslated('EXISTS is no value in Pinrail', 'write wait_for=SqlTrue("select count(*) > 0 from ...")')
    is_case = re.match(r'case\b', outside, re.IGNORECASE) is not None
    if not is_case and re.search(r'[<>=]|\b(is|in|like|between|not|true|false|and|or)\b', outside, re.IGNORECASE):
        return statement
    if re.fullmatch(r'(count|sum)\s*\(\s*\)(\s+as\s+\w+)?', outside, re.IGNORECASE):
        value = re.sub(r'\)\s+as\s+\w+$', ')', item, flags=re.IGNORECASE)
        return f'{head}{value} > 0{gap}{rest}' if value[:1] in 'cC' else f'{head}{value} <> 0{gap}{rest}'
    if re.fullmatch(r'[1-9]\d*', item):
        return f'{head}true{gap}{rest}'
    return f"select cast(first as varchar) not in ('', '0', '0.0', 'false') from ({statement}) as found (first)"


def _first_item(text: str) -> tuple[str, str]:
    """The first item of a list of columns, and what stands behind it."""
    depth, quote = 0, ''
    for place, letter in enumerate(text):
        if quote:
            quote = '' if letter == quote else quote
        elif letter in '\'"':
            quote = letter
        elif letter in '()':
            depth += 1 if letter == '(' else -1
        elif depth == 0 and (letter == ',' or re.match(r'\s(from|where|limit|union|order)\b', text[place:], re.I)):
            return text[:place].strip(), text[place:]
    return text.strip(), ''


def _outside_of_brackets(text: str) -> str:
    """A text without what is in brackets and quotes."""
    bare = re.sub(r"'[^']*'|\"[^\"]*\"", "''", text)
    before = None
    while before != bare:
        before, bare = bare, re.sub(r'\([^()]+\)', '()', bare)
    return bare


def http(sensor: Sensor) -> list[Call]:
    """``HttpSensor`` of an address that stands in the file."""
    endpoint = sensor.plain('endpoint') or ''
    conn = sensor.given('http_conn_id', 'http_default')
    status, contains = _response(sensor)
    said = ''.join(f', {one}' for one in (status, contains) if one)
    address = endpoint if _URL.match(endpoint) else f'https://HOST/{endpoint.lstrip("/")}'
    todo = f'write wait_for=Url("{address}"{said})'
    method = sensor.given('method', 'GET')
    if not isinstance(method, str) or method.upper() != 'GET':
        raise NotTranslated(
            f'its method is {literal_of(method)}', 'write a job that asks, with retries= and retry_delay='
        )
    for name in ('headers', 'extra_options', 'response_error_codes_allowlist', 'data'):
        if sensor.given(name):
            raise NotTranslated(f'a condition sends no {name}', 'write a job that asks, with retries= and retry_delay=')
    sensor.given('tcp_keep_alive')
    if not _URL.match(endpoint):
        raise NotTranslated(f'the host of connection {literal_of(conn)} is not in the file', todo)
    query = sensor.given('request_params')
    if query:
        pairs = as_dict(query)
        if pairs is None or not all(isinstance(one, (str, int, float)) for one in pairs.values()):
            raise NotTranslated('request_params is only known at run time', todo)
        texts = [f'{_quoted(str(key))}={_quoted(str(one))}' for key, one in pairs.items()]
        endpoint += ('&' if '?' in endpoint else '?') + '&'.join(texts)
    return [Call('Url', [repr(sensor.filled(endpoint)), *(one for one in (status, contains) if one)])]


def _quoted(text: str) -> str:
    return text if _jinja.is_template(text) else urllib.parse.quote(text, safe='')


def _response(sensor: Sensor) -> tuple[str, str]:
    """``status=`` and ``contains=`` for the check of an answer. Raises ``NotTranslated`` for one that says more."""
    check = sensor.given('response_check')
    if check is None:
        return '', ''
    body = check.node.body if isinstance(check, Function) and isinstance(check.node, ast.Lambda) else None
    if isinstance(check, Function) and isinstance(check.node, ast.FunctionDef):
        returned = [one for one in check.node.body if isinstance(one, ast.Return)]
        body = returned[0].value if len(returned) == 1 and len(check.node.body) == 1 else None
    if isinstance(body, ast.Compare) and len(body.ops) == 1:
        left, right = body.left, body.comparators[0]
        if isinstance(body.ops[0], ast.In) and isinstance(left, ast.Constant) and isinstance(left.value, str):
            if re.fullmatch(r'\w+\.(text|content\.decode\(\))', ast.unparse(right)):
                return '', f'contains={left.value!r}'
        if isinstance(body.ops[0], ast.Eq) and isinstance(right, ast.Constant) and isinstance(right.value, int):
            if re.fullmatch(r'\w+\.status_code', ast.unparse(left)):
                return f'status={right.value}', ''
    raise NotTranslated(
        'response_check decides with Python', 'write wait_for=Url("https://...", status=200, contains="...")'
    )


def external(sensor: Sensor) -> list[Call]:
    """``ExternalTaskSensor``: the same interval of another workflow."""
    for name in ('execution_delta', 'execution_date_fn'):
        delta = sensor.given(name)
        if delta is not None and delta != datetime.timedelta(0):
            todo = 'write wait_for=RunOf("WORKFLOW"), or SqlTrue("select ...") over what the other run has written'
            raise NotTranslated(f'{name} waits for another interval, and RunOf for the matching ones', todo)
    dag_id = sensor.plain('external_dag_id')
    if not dag_id or _jinja.is_template(dag_id):
        raise NotTranslated('its DAG is only known at run time', 'write wait_for=RunOf("WORKFLOW", job="JOB")')
    _states(sensor)
    sensor.given('check_existence')
    workflow = new_name(dag_id, set())
    sensor.workflows.append(workflow)
    tasks = _external_tasks(sensor, dag_id)
    return [Call('RunOf', [repr(workflow), *([] if one is None else [f'job={_job_name(one)!r}'])]) for one in tasks]


def _external_tasks(sensor: Sensor, dag_id: str) -> list[Optional[str]]:
    """The ids of the tasks that are waited for; None is the whole run."""
    one = sensor.plain('external_task_id')
    many = as_list(sensor.given('external_task_ids'), sets=True)
    group = sensor.plain('external_task_group_id')
    if one is not None:
        return [one]
    if many is not None:
        if not all(isinstance(task, str) for task in many):
            raise NotTranslated('its tasks are only known at run time', 'write wait_for=RunOf("WORKFLOW", job="JOB")')
        return [str(task) for task in many]
    if group is None:
        return [None]
    found: Optional[Dag] = next((dag for dag in sensor.task.dag.world.dags if dag.id == dag_id), None)
    inside = found.groups.get(group) if found is not None else None
    if inside is None or not inside.tasks:
        raise NotTranslated(
            f'the tasks of group "{group}" are not in the file', 'write wait_for=[RunOf("WORKFLOW", job="JOB"), ...]'
        )
    return [task.id for task in inside.tasks]


def _states(sensor: Sensor) -> None:
    allowed = as_list(sensor.given('allowed_states'), sets=True)
    if allowed and 'success' not in [str(one).rsplit('.', 1)[-1].lower() for one in map(_name_of, allowed)]:
        raise NotTranslated(
            f'it waits for the state {literal_of(sensor.given("allowed_states"))}', 'RunOf waits for success'
        )
    if allowed and len(allowed) > 1:
        sensor.changed(f'allowed_states of {sensor.shown}: only success is one that is waited for')
    for name in ('failed_states', 'skipped_states'):
        if sensor.given(name):
            sensor.changed(f'{name} of {sensor.shown}: it goes on waiting until the other run has succeeded')


def _name_of(value: Value) -> str:
    return value.name if isinstance(value, Ref) else str(value)


def _job_name(task_id: str) -> str:
    return new_name(task_id.replace('.', '_'), set())


def time_delta(sensor: Sensor) -> list[Call]:
    """``TimeDeltaSensor``: some time after the end of the interval."""
    delta = seconds_of(sensor.given('delta'))
    if delta is None:
        raise NotTranslated('delta is only known at run time', 'write a later schedule')
    return [_moment(f'{{{{ interval.end }}}}{_plus(delta)}')]


def date_time(sensor: Sensor) -> list[Call]:
    """``DateTimeSensor``: a moment, or one of the run."""
    value = sensor.given('target_time')
    if isinstance(value, datetime.datetime):
        zone = getattr(value, 'zone', None) or 'UTC'
        if zone != 'UTC' or value.tzinfo is not None:
            raise NotTranslated('its moment has a time zone', 'write a later schedule')
        return [_moment(f"timestamp '{value.replace(tzinfo=None).isoformat()}Z'")]
    text = sensor.plain('target_time') or ''
    parts = _jinja.parts_of(text)
    if len(parts) == 1 and parts[0].kind == 'expr':
        return [_moment(_sql_moment(sensor, ast.parse(parts[0].text, mode='eval').body))]
    try:
        moment = datetime.datetime.fromisoformat(text.strip().replace('Z', '+00:00'))
    except ValueError:
        raise NotTranslated(f'"{text}" is no moment that is known', 'write a later schedule') from None
    if moment.tzinfo is not None:
        moment = moment.astimezone(datetime.timezone.utc).replace(tzinfo=None)
    return [_moment(f"timestamp '{moment.isoformat()}Z'")]


def _sql_moment(sensor: Sensor, tree: ast.expr) -> str:
    """A moment of the run with times added to it, as SQL."""
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, (ast.Add, ast.Sub)) and isinstance(tree.right, ast.Call):
        parts = {one.arg: one.value.value for one in tree.right.keywords if isinstance(one.value, ast.Constant)}
        called = _jinja.dotted(tree.right.func).rsplit('.', 1)[-1]
        try:
            delta = datetime.timedelta(**{str(name): value for name, value in parts.items()})  # pyright: ignore
        except TypeError:
            delta = None
        if called == 'timedelta' and delta is not None and len(parts) == len(tree.right.keywords):
            seconds = delta.total_seconds() * (1 if isinstance(tree.op, ast.Add) else -1)
            return _sql_moment(sensor, tree.left) + _plus(seconds)
    name = _jinja.dotted(tree)
    made = sensor.filled(f'{{{{ {name} }}}}') if name else ''
    found = re.match(r'\{\{ (interval\.(start|end))\b', made)
    if found is None or name in ('ds', 'ts_nodash'):
        raise NotTranslated(f'"{ast.unparse(tree)}" is no moment of the run', 'write a later schedule')
    return f'{{{{ {found[1]} }}}}'


def time(sensor: Sensor) -> list[Call]:
    """``TimeSensor``: a time of the day, in the zone of the DAG."""
    at = sensor.given('target_time')
    if not isinstance(at, datetime.time) or at.tzinfo is not None:
        why = at.why if isinstance(at, Unknown) else literal_of(at)
        raise NotTranslated(f'target_time is only known at run time ({why})', 'write a later schedule')
    return [Call('SqlTrue', [repr(f"select cast({_now(sensor)} as time) >= time '{at.isoformat()}'")])]


def day_of_week(sensor: Sensor) -> list[Call]:
    """``DayOfWeekSensor``: the weekday of the clock."""
    if sensor.given('use_task_logical_date') is True or sensor.given('use_task_execution_day') is True:
        raise NotTranslated('a date of the run never changes while it waits', 'write a schedule with these weekdays')
    days = weekdays(sensor.given('week_day'))
    if days is None:
        raise NotTranslated('week_day is only known at run time', 'write a schedule with these weekdays')
    listed = ', '.join(str(day) for day in days)
    return [Call('SqlTrue', [repr(f'select extract(dow from {_now(sensor)}) in ({listed})')])]


def weekdays(value: Value) -> Optional[list[int]]:
    """The numbers of weekdays that are given by name or as ``WeekDay``; Sunday is 0."""
    items = as_list(value, sets=True)
    names = [_name_of(one).rsplit('.', 1)[-1].lower() for one in ([value] if items is None else items)]
    known = bool(names) and all(name in _WEEKDAYS for name in names)
    return sorted({_WEEKDAYS.index(name) for name in names}) if known else None


def _moment(moment: str) -> Call:
    return Call('SqlTrue', [repr(f'select now() >= {moment}')])


def _plus(seconds: float) -> str:
    whole = int(seconds) if seconds == int(seconds) else seconds
    return f" + interval '{whole} seconds'" if whole else ''


def _now(sensor: Sensor) -> str:
    return 'now()' if sensor.zone in (None, 'UTC') else f"now() at time zone '{sensor.zone}'"


CONDITIONS: dict[str, Callable[[Sensor], list[Call]]] = {
    'FileSensor': file,
    'SqlSensor': sql,
    'HttpSensor': http,
    'ExternalTaskSensor': external,
    'TimeDeltaSensor': time_delta,
    'DateTimeSensor': date_time,
    'TimeSensor': time,
    'DayOfWeekSensor': day_of_week,
}
# What to write for sensors that have no condition of their own.
ADVICE = {
    'S3KeySensor': 'write wait_for=Url("https://BUCKET.s3.amazonaws.com/KEY") if everybody may read it, '
    'else a job that asks the store, with retries= and retry_delay=',
    'HivePartitionSensor': 'write wait_for=Rows("TABLE", partition={"day": "{{ ds }}"})',
    'NamedHivePartitionSensor': 'write wait_for=Rows("TABLE", partition={"day": "{{ ds }}"})',
    'WaitSensor': 'write a later schedule, or a job that sleeps',
}
OTHERWISE = 'write a job that looks, with retries= and retry_delay='
