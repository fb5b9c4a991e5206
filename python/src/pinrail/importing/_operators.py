"""DAGs of Airflow as workflows of Pinrail: schedules, settings, and what each operator becomes.

What Pinrail has is in the tables below; when it learns more, they are the place to say so. A task that cannot be
translated becomes a job that fails and says what to do, so that the graph stays whole.
"""

from __future__ import annotations

import ast
import datetime
import os
import re
from typing import Any, Callable, Optional

from .._narrow import as_dict, as_list
from . import _choosing, _jinja, _project, _waiting
from ._airflow import Dag, ParamDef, Task, TaskMaker, Timetable, XCom
from ._evaluate import Elsewhere, Evaluator, Function, Native, Partial, Ref, Unknown, Value, Zone, Zoned, zone_name
from ._jinja import Code, NotTranslated, is_text
from ._jobs import JobsModule, literal_of, returns_value
from ._limits import Channels, Pools, notify, priorities
from ._project import Job, Project, Workflow, identifier, new_name, text_of
from ._report import Report
from .airflow_context import output_name

# What a trigger rule becomes, and what is different then.
TRIGGER_RULES: dict[str, tuple[str, Optional[str]]] = {
    'all_success': ('all_succeeded', None),
    'all_done': ('all_done', None),
    'none_failed': ('none_failed', None),
    'one_success': ('none_failed', 'the job starts when all above it have ended, and only if none has failed'),
    'one_done': ('all_done', 'the job starts when all above it have ended'),
    'all_done_min_one_success': ('all_done', 'the job runs also when none above it has succeeded'),
    'one_failed': ('any_failed', 'the job starts when all above it have ended, not at the first failure'),
    'none_failed_min_one_success': ('none_failed', 'the job runs also when all above it were skipped'),
    'none_failed_or_skipped': ('none_failed', 'the job runs also when all above it were skipped'),
    'all_done_setup_success': ('all_done', 'the job runs also when a setup has failed'),
    'always': ('all_done', 'the job waits until all above it have ended'),
    'dummy': ('all_done', 'the job waits until all above it have ended'),
}
# What to do about mails.
NOTIFY = 'declare a channel in pinrail.toml ([notify.NAME]), and notify={"failure": ["NAME"]} of the workflow'
# Arguments of every operator without a counterpart, and what to do.
NOT_YET = {
    'depends_on_past': 'let the job check what the run before has left',
    'wait_for_downstream': 'let the job check what the run before has left',
    'email': NOTIFY,
    'on_failure_callback': 'notify= of the workflow tells people; a job with run_if="any_failed" does more',
    'on_success_callback': 'add a job behind it',
    'on_retry_callback': 'write it into the job',
    'on_execute_callback': 'write it into the job',
    'on_skipped_callback': 'write it into the job',
    'pre_execute': 'write it into the job',
    'post_execute': 'write it into the job',
    'sla': 'sla="..." of the workflow tells when a run is late, warn_after="..." of a job when that is slow',
    'queue': 'labels=["..."] sends a job to the workers that have this label',
    'executor': 'jobs run where the server and its workers run',
    'executor_config': 'memory="..." limits a job',
    'resources': 'memory="..." limits a job',
    'run_as_user': 'jobs run as the user of the server',
    'max_active_tis_per_dagrun': 'the items of a list are done one after the other',
    'max_retry_delay': 'the wait doubles with each retry, up to 10 minutes',
    'weight_rule': 'give each job its priority by priority=',
    'inlets': 'wait for a job instead',
    'outlets': 'wait for a job instead',
    'start_date': 'give the workflow a schedule with start=',
    'end_date': 'give the workflow a schedule with end=',
    'ignore_first_depends_on_past': 'leave it out',
    'retry_policy': 'retry_on=[...] says which faults are tried again',
}
# Arguments that only concern the pages and the internals of Airflow.
COSMETIC = frozenset(
    'doc doc_md doc_rst doc_json doc_yaml task_display_name ui_color ui_fgcolor map_index_template email_on_failure '
    'email_on_retry wait_for_past_depends_before_skipping allow_nested_operators show_return_value_in_logs '
    'do_xcom_push multiple_outputs render_template_as_native_obj'.split()
)
# Arguments that are translated below.
_HANDLED = frozenset(
    'task_id owner retries retry_delay execution_timeout trigger_rule priority_weight params default_args '
    'retry_exponential_backoff pool pool_slots max_active_tis_per_dag task_concurrency'.split()
)
DAG_NOT_YET = {
    'dagrun_timeout': 'timeout="..." ends a job, sla="..." of the workflow tells when a run is late',
    'on_failure_callback': 'notify= of the workflow tells people; a job with run_if="any_failed" does more',
    'on_success_callback': 'add a job at the end',
    'sla_miss_callback': 'sla="..." and notify={"sla-missed": [...]} of the workflow tell of it',
    'template_searchpath': "files are found from the project's folder",
    'render_template_as_native_obj': 'templates give text; a job that needs more reads it from ctx',
    'user_defined_macros': 'write what they do into the jobs',
    'user_defined_filters': 'write what they do into the jobs',
    'jinja_environment_kwargs': 'templates are translated when they are imported',
    'fail_stop': 'other jobs of the run go on',
    'fail_fast': 'other jobs of the run go on',
    'access_control': 'roles are given per project',
    'deadline': 'sla="..." and notify={"sla-missed": [...]} of the workflow tell of it',
    'allowed_run_types': 'every workflow can be run by hand',
}
DAG_COSMETIC = frozenset(
    'tags doc_md dag_display_name default_view orientation owner_links auto_register is_paused_upon_creation '
    'full_filepath template_undefined start_date end_date '
    'disable_bundle_versioning'.split()
)
# Arguments that make a task wait for the run before.
_PAST = ('depends_on_past', 'wait_for_downstream')
# What adds to the weight of a task: those below it, unless it says otherwise.
_WEIGHT_RULES = ('downstream', 'upstream', 'absolute')
# The pool of all tasks that name none: here the slots of the workers.
_DEFAULT_POOL = 'default_pool'
# What a job that decides has to leave where somebody else writes it; the jobs below it ask for that already.
_DECIDING = {
    _choosing.WAYS: "let the job leave the ids of the tasks that go on: ctx.output('ways', ['...'])",
    _choosing.GOES_ON: "let the job leave whether those below it go on: ctx.output('goes_on', True)",
}
ADVICE = {
    'TriggerDagRunOperator': "write template(name='...', workflow='...'): the job waits for that run",
    'EmailOperator': 'write a job that sends the mail',
    'SubDagOperator': 'import the DAG of its own, or write its jobs into this one',
}
# What functions of Airflow may take from the context by name.
CONTEXT_NAMES = frozenset(
    'ds ds_nodash ts ts_nodash yesterday_ds tomorrow_ds data_interval_start data_interval_end logical_date '
    'execution_date next_execution_date run_id params ti task_instance task_instance_key_str dag_run dag task'.split()
)
_SQL_OPERATORS = re.compile(
    r'(SQLExecuteQuery|Postgres|MySql|M[Ss]Sql|Mssql|Sqlite|Snowflake|Trino|Presto|Hive|Oracle|Vertica|J[Dd][Bb][Cc]|'
    r'Redshift(SQL)?|DatabricksSql|Exasol|Click[Hh]ouse|Duck[Dd][Bb]|BigQueryExecuteQuery)Operator'
)
# Statements that the SQL of Pinrail knows, by their first word.
_STATEMENTS = frozenset('select with values create insert truncate drop show describe explain'.split())
# Airflow's own wait before a retry, which is longer than Pinrail's.
RETRY_SECONDS = 300
# What stands around a command whose last line of output is the result of its task.
LAST_LINE = (
    'set -o pipefail\n{ ',
    '\n} | tee "$TMPDIR/stdout" &&\npinrail output --text return_value "$(tail -n 1 "$TMPDIR/stdout")"',
)
# A longer call stands on several lines.
LONGEST_CALL = 90
# The lines of a job that does something with what a call gives.
Finish = Callable[['DagTranslator', Task, str], list[str]]


class DagTranslator:
    """Translates the DAGs of one file into a project."""

    def __init__(self, ev: Evaluator, project: Project, report: Report, jobs: JobsModule, taken: set[str]) -> None:
        self.ev = ev
        self.project = project
        self.report = report
        self.jobs = jobs
        self.taken = taken
        self.dag: Dag = Dag('', {}, None, ev, ast.Pass())  # pyright: ignore[reportArgumentType]
        self.names: dict[str, str] = {}
        self.params: set[str] = set()
        self.pulled: set[tuple[str, str]] = set()
        self.choices = _choosing.Choices(self.dag)
        # Workflows that others wait for, with the place that says so.
        self.awaited: dict[str, tuple[str, int]] = {}
        self.task: Optional[Task] = None
        self.airflow_3 = False
        self.pools = Pools()
        self.channels = Channels(False)
        # Of the DAG that is being translated: priorities by task id, and what settings of the workflow say already.
        self.priorities: dict[str, int] = {}
        self.said: set[str] = set()
        # Jobs that fail until somebody writes them.
        self.unwritten = 0

    @property
    def file(self) -> str:
        """The file of what is being translated, which may be made by a function of another file."""
        return self.dag.file if self.task is None else self.task.file

    def workflow(self, dag: Dag) -> Workflow:
        """The workflow of a DAG; its SQL files are added to the project, its functions to the jobs module."""
        self.dag, self.task = dag, None
        name = new_name(dag.id, self.taken)
        line = getattr(dag.node, 'lineno', 1)
        if name != dag.id:
            self.report.changed(self.file, line, f'DAG "{dag.id}" is workflow "{name}" here')
        made = Workflow(name, f'Translated from {self.ev.file} by `pinrail import airflow`.')
        self._settings(dag, made, line)
        self._limits(dag, made, line)
        self._told(dag, made, line)
        self.priorities = self._weigh(dag)
        self.choices = _choosing.Choices(dag)
        used: set[str] = set()
        self.names = {task_id: new_name(task_id.replace('.', '_'), used) for task_id in dag.tasks}
        for task_id, job_name in self.names.items():
            if job_name != task_id.replace('.', '_'):
                self.report.changed(self.file, dag.tasks[task_id].line, f'task "{task_id}" is job "{job_name}" here')
        self.pulled = {pull for task in dag.tasks.values() for pull in self._pulls(task)}
        for task in dag.tasks.values():
            made.jobs.append(self._job(task, made))
        self.task = None
        self._default_settings(dag, made, line)
        return made

    # The workflow as a whole.

    def _settings(self, dag: Dag, made: Workflow, line: int) -> None:
        given = dag.kwargs
        schedule = given.get('schedule', given.get('schedule_interval', given.get('timetable')))
        absent = not {'schedule', 'schedule_interval', 'timetable'} & set(given)
        if absent and not self.airflow_3:
            self.report.changed(
                self.file,
                line,
                'the DAG names no schedule, which means each day in Airflow 2: it has none here',
                'add schedule=cron("@daily") if it is meant',
            )
        text = self._schedule(schedule, dag, line)
        if text is not None:
            made.settings['schedule'] = self._caught_up(text, given.get('catchup', not self.airflow_3), line)
        description = given.get('description')
        if isinstance(description, str) and description.strip():
            made.settings['description'] = text_of(description.strip())
        elif description is not None:
            self._cannot(line, 'description', description)
        self._take_params(dag, made, line)
        for key, value in given.items():
            if key in DAG_NOT_YET and value not in (None, False):
                self.report.left_out(self.file, line, f'{key}={_text(value)} of DAG "{dag.id}"', DAG_NOT_YET[key])
            elif key in DAG_COSMETIC - {'start_date', 'end_date'} and value is not None:
                self.report.cosmetic(self.file, line, f'{key} of DAG "{dag.id}"')
            elif key not in DAG_NOT_YET and key not in DAG_COSMETIC and key not in _DAG_HANDLED:
                self.report.left_out(
                    self.file, line, f'{key}={_text(value)} of DAG "{dag.id}"', 'leave it out, or write it by hand'
                )

    def _caught_up(self, schedule: str, catchup: Value, line: int) -> str:
        """The text of a schedule with what is made up for."""
        if isinstance(catchup, Unknown):
            self._cannot(line, 'catchup', catchup)
        if catchup is not True:
            # The latest fire time that was missed is made up for, as in Airflow.
            return schedule
        since = re.search(r"start='([^']*)'", schedule)
        if since is not None:
            self.report.changed(
                self.file,
                line,
                f'catchup: the first deploy makes the runs from {since[1]} on, as Airflow does where it has made none',
                'set start= to the day of the move, or catch_up="latest"',
            )
        return f"{schedule[:-1]}, catch_up='all')"

    def _limits(self, dag: Dag, made: Workflow, line: int) -> None:
        """How many runs of a DAG, and how many of its tasks, may be under way."""
        self.said = set()
        runs = dag.kwargs.get('max_active_runs')
        if _is_count(runs) and 'schedule' in made.settings:
            made.settings['max_active'] = str(runs)
        elif _is_count(runs):
            what = f'max_active_runs={runs} of DAG "{dag.id}": runs by hand are not limited'
            self.report.left_out(self.file, line, what, 'concurrency= limits the jobs of all its runs')
        elif runs is not None:
            self._cannot(line, f'max_active_runs of DAG "{dag.id}"', runs)
        for key in ('max_active_tasks', 'concurrency'):
            tasks = dag.kwargs.get(key)
            if _is_count(tasks):
                made.settings['concurrency'] = str(tasks)
                if self.airflow_3:
                    what = f'{key}={tasks} of DAG "{dag.id}" counts the jobs of all its runs, in Airflow 3 of each run'
                    self.report.changed(self.file, line, what)
            elif tasks is not None:
                self._cannot(line, f'{key} of DAG "{dag.id}"', tasks)
        past = [task for task in dag.tasks.values() if any(task.given(key) is True for key in _PAST)]
        if past and 'schedule' in made.settings:
            made.settings['overrun'] = "'delay-until-success'"
            self.said.update(_PAST)
            key = next(key for key in _PAST if past[0].given(key) is True)
            where = (self.file, line) if key in dag.default_args else (past[0].file, past[0].line)
            who = f'task "{past[0].id}"' + (f' and {len(past) - 1} more' if len(past) > 1 else '')
            self.report.changed(*where, f'{key} of {who}: a run waits until the one before has succeeded as a whole')

    def _told(self, dag: Dag, made: Workflow, line: int) -> None:
        """Who is told of failures and of late runs, as far as ``default_args`` says it for all tasks."""
        given = dag.default_args
        limit = given.get('sla')
        late = isinstance(limit, datetime.timedelta) and limit.total_seconds() > 0 and 'schedule' in made.settings
        if late and isinstance(limit, datetime.timedelta):
            made.settings['sla'] = repr(duration(limit.total_seconds()))
            self.said.add('sla')
        fails = given.get('email_on_failure', True)
        channel = self.channels.name(given.get('email')) if isinstance(fails, bool) and (fails or late) else None
        if channel is not None:
            events = [*(['failure'] if fails else []), *(['sla-missed'] if late else [])]
            made.settings['notify'] = notify(events, channel)
            self.said.add('email')
        elif late:
            what = f'sla of default_args of DAG "{dag.id}": nobody is told of a late run'
            self.report.changed(
                self.file, line, what, 'notify={"sla-missed": ["NAME"]} of the workflow tells a channel'
            )

    def _weigh(self, dag: Dag) -> dict[str, int]:
        """The priorities of tasks, by what their weights and rules come to."""
        weights: dict[str, float] = {}
        for task in dag.tasks.values():
            weight = task.given('priority_weight', 1)
            weights[task.id] = weight if isinstance(weight, int) and not isinstance(weight, bool) else 1
        above = {task.id: [one.id for one in task.after if one.id in weights] for task in dag.tasks.values()}
        below: dict[str, list[str]] = {name: [] for name in weights}
        for name, names in above.items():
            for one in names:
                below[one].append(name)
        by_rule: dict[str, dict[str, int]] = {}
        for rule, edges in zip(_WEIGHT_RULES, (above, below, {})):
            by_rule[rule] = priorities(weights, edges)
        found: dict[str, int] = {}
        for task in dag.tasks.values():
            rule = str(task.given('weight_rule') or 'downstream')
            amount = by_rule.get(rule, by_rule['absolute']).get(task.id)
            if amount is not None:
                found[task.id] = amount
        return found

    def _take_params(self, dag: Dag, made: Workflow, line: int) -> None:
        self.params = set()
        declared: dict[str, Value] = {}
        entries = as_dict(dag.kwargs.get('params'))
        if dag.kwargs.get('params') is not None and entries is None:
            self._cannot(line, 'params', dag.kwargs['params'])
        for name, value in {**(entries or {}), **dag.arguments}.items():
            declared[str(name)] = value
        folded: set[str] = set()
        for name, value in declared.items():
            text = _param(value)
            if text is None or not _project.is_name(name) or name.lower() in folded:
                self.report.left_out(
                    self.file,
                    line,
                    f'parameter "{name}" of DAG "{dag.id}": {_text(value)} is of no type that parameters have',
                    'pass it as text, or write it into the jobs',
                )
                continue
            folded.add(name.lower())
            made.params[name] = text
            self.params.add(name)

    def _schedule(self, value: Value, dag: Dag, line: int) -> Optional[str]:
        """``cron(...)`` or ``every(...)`` for the schedule of a DAG, or None."""
        if value is None or value == 'None':
            return None
        zone, start, end = self._bounds(dag, line)
        about_moment = self.airflow_3
        if isinstance(value, Timetable):
            zone = zone_name(value.kwargs.get('timezone')) or zone
            inner = value.args[0] if value.args else value.kwargs.get('cron', value.kwargs.get('delta'))
            about_moment = 'Trigger' in value.name
            if value.name in (
                'CronDataIntervalTimetable',
                'CronTriggerTimetable',
                'DeltaDataIntervalTimetable',
                'DeltaTriggerTimetable',
            ):
                value = inner
        if isinstance(value, str):
            text = value.strip()
            if text in ('@once', '@continuous'):
                self.report.left_out(self.file, line, f'schedule "{text}"', 'start the workflow by `pinrail run`')
                return None
            expression, problem = _cron(text)
            if problem is not None:
                self.report.left_out(self.file, line, f'schedule "{text}": {problem}', 'write schedule=cron(...)')
                return None
            if about_moment:
                self.report.changed(
                    self.file,
                    line,
                    'a run is about the time before it fires (ds is the day on which that begins), '
                    'in Airflow 3 about the moment at which it fires',
                )
            tz = '' if zone in (None, 'UTC') else f', tz={zone!r}'
            return f'cron({expression!r}{tz}{_bounds(start, end, None if about_moment else expression)})'
        if isinstance(value, datetime.timedelta):
            seconds = int(value.total_seconds())
            if seconds <= 0:
                return None
            first = dag.kwargs.get('start_date', dag.default_args.get('start_date'))
            if (
                isinstance(first, datetime.datetime)
                and int((first.replace(tzinfo=None) - datetime.datetime(1970, 1, 1)).total_seconds()) % seconds
            ):
                self.report.changed(
                    self.file,
                    line,
                    f'every {duration(seconds)} is counted from 1970-01-01 in UTC, not from start_date',
                    'write a cron expression if the hour matters',
                )
            return f'every({duration(seconds)!r}{_bounds(start, end, None)})'
        shown = value.name if isinstance(value, (Timetable, Ref)) else _text(value)
        self.report.left_out(
            self.file,
            line,
            f'schedule {shown} of DAG "{dag.id}"',
            'write schedule=cron(...) or every(...), or start it by hand',
        )
        return None

    def _bounds(
        self, dag: Dag, line: int
    ) -> tuple[Optional[str], Optional[datetime.datetime], Optional[datetime.datetime]]:
        """The zone, the start and the end of a DAG's schedule."""
        zone: Optional[str] = None
        moments: list[Optional[datetime.datetime]] = []
        for key in ('start_date', 'end_date'):
            value = dag.kwargs.get(key, dag.default_args.get(key))
            if isinstance(value, Zoned) and value.zone is not None:
                zone = zone or value.zone
            if isinstance(value, datetime.datetime):
                moments.append(value)
            elif isinstance(value, datetime.date):
                moments.append(datetime.datetime(value.year, value.month, value.day))
            else:
                if value is not None:
                    self._cannot(line, key, value)
                moments.append(None)
        return zone, moments[0], moments[1]

    def _default_settings(self, dag: Dag, made: Workflow, line: int) -> None:
        """What ``default_args`` says for all jobs."""
        given = dag.default_args
        if dag.kwargs.get('default_args') is not None and as_dict(dag.kwargs['default_args']) is None:
            self._cannot(line, 'default_args', dag.kwargs['default_args'])
        what = f'default_args of DAG "{dag.id}"'
        made.defaults.update(self._common(given, line, what, trigger=False))
        for key, value in given.items():
            if not any(key in known for known in (_HANDLED, COSMETIC, NOT_YET, _OF_OPERATORS)):
                self.report.left_out(self.file, line, f'{key}={_text(value)} of {what}', 'write it into the jobs')

    def _cannot(self, line: int, what: str, value: Value) -> None:
        why = f'{_text(value)} cannot be translated'
        if isinstance(value, Unknown):
            # What is not known says itself which name it is about.
            why = value.why if value.text and value.text in value.why else f'{_text(value)} is {value.why}'
        self.report.left_out(self.file, line, f'{what}: {why}', 'write it by hand')

    # Settings of jobs.

    def _common(self, given: dict[str, Value], line: int, what: str, *, trigger: bool) -> dict[str, str]:
        """The settings that all operators have, as source texts."""
        settings: dict[str, str] = {}
        retries = given.get('retries')
        if isinstance(retries, int) and not isinstance(retries, bool) and retries > 0:
            settings['retries'] = str(retries)
            settings['retry_delay'] = repr(duration(RETRY_SECONDS))
        elif retries is not None and retries != 0:
            self._cannot(line, f'retries of {what}', retries)
        elif retries == 0:
            settings['retries'] = '0'
        for key, setting in (('retry_delay', 'retry_delay'), ('execution_timeout', 'timeout')):
            value = given.get(key)
            seconds = value.total_seconds() if isinstance(value, datetime.timedelta) else value
            if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and seconds > 0:
                settings[setting] = repr(duration(seconds))
            elif value is not None and seconds != 0:
                self._cannot(line, f'{key} of {what}', value)
        priority = given.get('priority_weight')
        if priority is not None and (isinstance(priority, bool) or not isinstance(priority, int)):
            self._cannot(line, f'priority_weight of {what}', priority)
        settings.update(self._slots(given, line, what))
        owner = given.get('owner')
        if isinstance(owner, str) and owner.strip():
            settings['owner'] = repr(owner)
        elif owner:
            self._cannot(line, f'owner of {what}', owner)
        rule = given.get('trigger_rule')
        if rule is not None and trigger:
            found = TRIGGER_RULES.get(str(rule))
            if found is None:
                self.report.left_out(
                    self.file,
                    line,
                    f'trigger_rule {_text(rule)} of {what}: the job waits until all above it succeeded',
                    'choose one of run_if="all_succeeded", "all_done", "any_failed", "none_failed"',
                )
            else:
                if found[1] is not None:
                    self.report.changed(
                        self.file, line, f'trigger_rule "{rule}" of {what} is run_if="{found[0]}": {found[1]}'
                    )
                if found[0] != 'all_succeeded':
                    settings['run_if'] = repr(found[0])
        for key, value in given.items():
            if key == 'email' and given.get('email_on_failure') is False and given.get('email_on_retry') is False:
                continue
            if key == 'weight_rule' and str(value) in _WEIGHT_RULES:
                continue
            if key in self.said and (value is True if key in _PAST else value == self.dag.default_args.get(key)):
                continue
            if key == 'email_on_failure' and trigger and value is False and 'email' in self.said:
                self.report.changed(self.file, line, f'{key}=False of {what}: its failures are told as the others are')
            if key in NOT_YET and value not in (None, False, [], ()):
                if trigger or key not in ('start_date', 'end_date'):
                    self.report.left_out(self.file, line, f'{key}={_text(value)} of {what}', NOT_YET[key])
            elif key in COSMETIC and key.startswith(('doc', 'ui_', 'task_display', 'map_index')):
                self.report.cosmetic(self.file, line, f'{key} of {what}')
        return settings

    def _slots(self, given: dict[str, Value], line: int, what: str) -> dict[str, str]:
        """The pools of a task, and how many of it may be under way in all runs."""
        settings: dict[str, str] = {}
        pool, slots = given.get('pool'), given.get('pool_slots', 1)
        if isinstance(pool, str) and pool != _DEFAULT_POOL and _is_count(slots):
            name, is_new = self.pools.name(pool)
            settings['pools'] = repr(name) if slots == 1 else repr({name: slots})
            if is_new:
                renamed = '' if name == pool else f' is pool "{name}" here and'
                self.report.changed(
                    self.file,
                    line,
                    f'pool "{pool}"{renamed} has no slots until it is set: jobs that name it wait',
                    f'pinrail pools set {name} --slots N',
                )
        elif isinstance(pool, str) and pool != _DEFAULT_POOL:
            self._cannot(line, f'pool_slots of {what}', slots)
        elif pool is not None and not isinstance(pool, str):
            self._cannot(line, f'pool of {what}', pool)
        elif slots != 1:
            shown = f'pool_slots={_text(slots)} of {what}: a job without a pool takes one slot of a worker'
            self.report.left_out(self.file, line, shown, 'give it a pool')
        for key in ('max_active_tis_per_dag', 'task_concurrency'):
            most = given.get(key)
            if _is_count(most):
                settings['concurrency'] = str(most)
            elif most is not None:
                self._cannot(line, f'{key} of {what}', most)
        return settings

    def _job(self, task: Task, workflow: Workflow) -> Job:
        """The job of a task."""
        self.task = task
        after = [self.names[one.id] for one in task.after if one.id in self.names]
        job = Job(self.names[task.id], 'shell', '', after=after)
        what = f'task "{task.id}"'
        # What the DAG gives all tasks stands in the defaults of the workflow, but for what has no default there.
        common = self.dag.default_args
        inherited = {
            key: one for key, one in task.inherited.items() if common.get(key) is not one or key == 'trigger_rule'
        }
        own = {**inherited, **task.kwargs}
        job.settings = self._common(own, task.line, what, trigger=True)
        if task.id in self.priorities:
            job.settings['priority'] = str(self.priorities[task.id])
        if task.given('retry_delay') is not None and 'retry_delay' not in own:
            # The workflow's own default is meant, not Airflow's.
            job.settings.pop('retry_delay', None)
        if task.teardown:
            job.settings.setdefault('run_if', "'all_done'")
            job.settings.setdefault('may_fail', 'True')
            self.report.changed(
                task.file, task.line, f'{what} is a teardown: it runs when all above it have ended, and may fail'
            )
        own = as_dict(task.kwargs.get('params'))
        self._ask(task, job)
        before = set(self.params)
        if own is not None:
            texts = {str(name): literal_of(value) for name, value in own.items() if not isinstance(value, ParamDef)}
            kept = {name: text for name, text in texts.items() if text is not None}
            self.params |= set(kept)
            job.settings['params'] = '{' + ', '.join(f'{name!r}: {text}' for name, text in kept.items()) + '}'
            if len(kept) < len(own):
                self._cannot(task.line, f'params of {what}', task.kwargs['params'])
        try:
            self._body(task, job, workflow)
        except NotTranslated as wrong:
            self._untranslated(task, job, f'{wrong}', _DECIDING.get(_choosing.decides(task) or '', wrong.todo))
        self.params = before
        return job

    def _ask(self, task: Task, job: Job) -> None:
        """A job asks those that decide about it before it begins."""
        choices = self.choices.of(task)
        if choices:
            job.settings['when'] = repr(_choosing.when(choices, self.names, also_skipped='run_if' in job.settings))
            deciders = [self.names[one.decider.id] for one in choices]
            job.after += [name for name in dict.fromkeys(deciders) if name not in job.after]

    def _body(self, task: Task, job: Job, workflow: Workflow) -> None:
        """What the job runs."""
        kind = task.kind
        if task.expanded is not None and not (kind.startswith('@task') and set(task.expanded) != {''}):
            raise NotTranslated(
                'its tasks are made at run time, one for each item', 'write one job that goes through the items'
            )
        maker = _BODIES.get(kind)
        if '.' not in task.operator and not kind.startswith('@'):
            self._own(task, job)
            return
        if maker is not None:
            maker(self, task, job)
        elif _SQL_OPERATORS.fullmatch(kind):
            self._sql(task, job, workflow)
        elif _waiting.kind_of(task) in _waiting.CONDITIONS:
            self.sensor(task, job)
        elif kind.endswith(('Sensor', 'SensorAsync')):
            todo = _waiting.ADVICE.get(_waiting.kind_of(task), _waiting.OTHERWISE)
            raise NotTranslated('there is no condition like it', todo)
        elif _choosing.decides(task) is not None:
            raise NotTranslated('it chooses which tasks run', '')
        else:
            raise NotTranslated('it is an operator without a counterpart', ADVICE.get(kind, 'write a job that does it'))

    def _unhandled(self, task: Task, *known: str) -> None:
        """Tells of the arguments of an operator that nothing has used."""
        for key, value in task.kwargs.items():
            if key not in known and key not in _HANDLED and key not in COSMETIC and key not in NOT_YET:
                self.report.left_out(
                    task.file, task.line, f'{key}={_text(value)} of {_named(task)}', 'write it into the job'
                )

    def _untranslated(self, task: Task, job: Job, why: str, todo: str) -> None:
        """A job that fails and says why."""
        self.unwritten += 1
        what = f'{_named(task)}: {why}'
        self.report.left_out(task.file, task.line, what, todo)
        self.jobs.need_import('from pinrail import UserError')
        shown = f'{_named(task)} of {task.file}:{task.line} is not translated: {why}'
        lines = ['raise UserError(', f'    {shown!r},', f'    hint={todo!r},', ')']
        job.kind, job.target = 'class_', self._class(job, lines)

    def _class(self, job: Job, body: list[str]) -> str:
        name = self.jobs.job(f'{identifier(job.name)}_job', body)
        return repr(f'jobs.{self.jobs.name}.{name}')

    # Outputs of other tasks.

    def pull(self, task_id: str, key: str) -> str:
        """The expression that reads an output. Raises ``NotTranslated`` for a task that is not in the DAG."""
        if task_id not in self.names:
            raise NotTranslated(f'the DAG has no task "{task_id}"', 'read what it needs from a table')
        if self.dag.tasks[task_id].kind == 'BashOperator' and key != 'return_value' and self.task is not None:
            self.report.left_out(
                self.file,
                self.task.line,
                f'task "{self.task.id}" reads "{key}" of "{task_id}", which is a command',
                f'let the command leave it: pinrail output {output_name(key)} VALUE',
            )
        return f'ctx.upstream[{self.names[task_id]!r}].outputs[{output_name(key)!r}]'

    def _pulls(self, task: Task) -> list[tuple[str, str]]:
        """The outputs that a task reads, as far as it says so by constants."""
        found: list[tuple[str, str]] = []

        def look(value: Value) -> None:
            if isinstance(value, str) and 'xcom_pull' in value:
                for part in _jinja.parts_of(value):
                    try:
                        if part.kind == 'expr':
                            found.extend(_jinja.expression(part.text, set(), lambda one, key: '').pulls)
                    except NotTranslated:
                        continue
            elif isinstance(value, XCom):
                found.append((value.task.id, value.key))
            for one in (as_dict(value) or {}).values() if as_dict(value) is not None else as_list(value) or ():
                look(one)

        for value in [*task.kwargs.values(), *task.args, *task.call_kwargs.values()]:
            look(value)
        function = task.function or task.kwargs.get('python_callable')
        if isinstance(function, TaskMaker):
            function = function.function
        if isinstance(function, Function):
            found += pulls_of(function.node)
        return found

    def _wait_for(self, job: Job, pulls: list[tuple[str, str]]) -> None:
        """A job waits for the jobs whose outputs it reads."""
        for task_id, _ in pulls:
            name, task = self.names.get(task_id), self.task
            if name is not None and name not in job.after and name != job.name:
                if task is not None and task in _ancestors(self.dag.tasks[task_id]):
                    what = f'job "{job.name}" reads an output of "{name}", which is below it'
                    self.report.left_out(task.file, task.line, what, 'read it elsewhere')
                    continue
                job.after.append(name)
                above = task is not None and task_id in (one.id for one in _ancestors(task))
                if not above and task is not None:
                    self.report.changed(
                        task.file, task.line, f'job "{job.name}" waits for "{name}", whose output it reads'
                    )

    # Operators.

    def empty(self, task: Task, job: Job) -> None:
        self._unhandled(task)
        job.kind, job.target = 'shell', "['true']"

    def bash(self, task: Task, job: Job) -> None:
        """``BashOperator``: a command, or a Python job that makes one from outputs of other jobs."""
        text = task.given('bash_command')
        if not isinstance(text, str):
            if isinstance(text, Unknown) or text is None:
                raise NotTranslated(
                    f'its command is only known at run time ({getattr(text, "why", "there is none")})',
                    'write the command',
                )
            text = getattr(text, 'text', lambda: None)()
            if not isinstance(text, str):
                raise NotTranslated('its command is no text', 'write the command')
        self._unhandled(task, *_BASH)
        if text.endswith(('.sh', '.bash')):
            # Without a blank at its end it is not a command but the template of one.
            text = self._file_beside(text) or self._script(task, text)
        if task.kind == 'BashSensor':
            if task.given('retry_exit_code') is not None:
                what = f'retry_exit_code of {_named(task)}: the command is tried again after each failure'
                self.report.changed(task.file, task.line, what)
            text = self._again(task, job, f'(\n{text}\n)' if '\n' in text or '#' in text else f'( {text} )')
        self._command(task, job, text)

    def _command(self, task: Task, job: Job, text: str) -> None:
        """A job that runs a command with templates of Airflow."""
        made = _jinja.command(text, self.params, self.pull)
        environment: dict[str, Code] = {}
        entries = as_dict(task.given('env'))
        if task.given('env') is not None and entries is None:
            self._cannot(task.line, f'env of task "{task.id}"', task.given('env'))
        for key, value in (entries or {}).items():
            code = self.jobs.code(value, self.params, self.pull)
            environment[str(key)] = (
                code if isinstance(value, str) else Code(f'str({code.text})', code.imports, code.pulls)
            )
        for name, (expression, wrong) in made.missing.items():
            self.report.left_out(
                task.file,
                task.line,
                f'"{{{{ {expression} }}}}" in the command of task "{task.id}": {wrong}',
                f'{wrong.todo}; the command fails until the variable {name} is set by env=',
            )
        if re.search(r'\bexit\s+99\b', text):
            self.report.changed(
                task.file, task.line, f'exit code 99 fails job "{job.name}"; in Airflow it skips the task'
            )
        command = made.text
        cwd = task.given('cwd')
        if isinstance(cwd, str) and not _jinja.is_template(cwd):
            command = f'cd {_quoted(cwd)} && {{ {command}\n}}'
        elif cwd is not None:
            self._cannot(task.line, f'cwd of task "{task.id}"', cwd)
        if self._is_read(task):
            command = LAST_LINE[0] + command + LAST_LINE[1]
        values = {**made.values, **environment}
        plain = {key: ast.literal_eval(one.text) for key, one in environment.items() if _is_literal(one.text)}
        if not made.values and len(plain) == len(environment):
            job.target = f"['bash', '-c', {text_of(command)}]"
            if plain:
                job.settings['env'] = repr({key: str(one) for key, one in plain.items()})
            return
        self.jobs.need_import('from pinrail import Shell')
        for one in values.values():
            self._wait_for(job, one.pulls)
            for line in one.imports:
                self.jobs.need_import(line)
        texts = [f'{key!r}: {one.text if is_text(one.text) else f"str({one.text})"}' for key, one in values.items()]
        env = f'{{{", ".join(texts)}}}'
        if len(env) > LONGEST_CALL:
            env = '{\n' + ''.join(f'            {text},\n' for text in texts) + '        }'
        lines = ['return Shell(', f"    ['bash', '-c', {text_of(command)}],", f'    env={env},', ')']
        job.kind, job.target = 'class_', self._class(job, lines)

    def python(self, task: Task, job: Job, finish: Optional[Finish] = None) -> None:
        """``PythonOperator``: a job that calls the function. ``finish`` makes the lines that do so."""
        function = task.given('python_callable')
        if isinstance(function, TaskMaker):
            function = function.function
        args = as_list(task.given('op_args', [])) or []
        kwargs = as_dict(task.given('op_kwargs', {})) or {}
        for key in ('op_args', 'op_kwargs'):
            if isinstance(task.given(key), Unknown):
                raise NotTranslated(
                    f'{key} is only known at run time ({task.given(key).why})', 'write a job that calls the function'
                )
        if isinstance(function, Partial):
            args, kwargs = [*function.args, *args], {**function.kwargs, **kwargs}
            function = function.function
        self._unhandled(task, 'provide_context', *_PYTHON, *(_FINISHED if finish is not None else ()))
        self._virtual(task)
        self._call(
            task,
            job,
            function,
            args,
            {str(key): one for key, one in kwargs.items()},
            templates=task.given('templates_dict'),
            finish=finish,
        )

    def taskflow(self, task: Task, job: Job, finish: Optional[Finish] = None) -> None:
        """``@task``: a job that calls the function with the outputs of other jobs."""
        self._unhandled(task, *_PYTHON, *(_FINISHED if finish is not None else ()))
        self._virtual(task)
        if task.expanded is not None and finish is not None:
            raise NotTranslated('it is made at run time, once for each item', 'write a job that goes through the items')
        if task.expanded is not None:
            self._mapped(task, job)
            return
        templates = task.given('templates_dict')
        self._call(task, job, task.function, task.args, task.call_kwargs, templates=templates, finish=finish)

    def taskflow_bash(self, task: Task, job: Job) -> None:
        """``@task.bash``: a job that returns the command which its function gives."""
        self._unhandled(task, 'env', 'append_env', 'output_encoding', 'skip_on_exit_code')
        self.jobs.need_import('from pinrail import Shell')
        self._call(task, job, task.function, task.args, task.call_kwargs, command=True)

    # Branches and sensors.

    def deciding(self, task: Task, job: Job) -> None:
        """``BranchPythonOperator``, ``ShortCircuitOperator`` and their like: a job that leaves what it decides."""
        (self.taskflow if task.kind.startswith('@') else self.python)(task, job, DagTranslator._decision)

    def _decision(self, task: Task, call: str) -> list[str]:
        lines: list[str] = []
        if self._is_read(task):
            lines, call = [f'value = {call}', "ctx.output('return_value', value)"], 'value'
        if _choosing.decides(task) == _choosing.GOES_ON:
            return [*lines, f"ctx.output('{_choosing.GOES_ON}', bool({call}))"]
        self.jobs.context('chosen_ways')
        known = repr(self.choices.known.get(task, []))
        if len(known) + len(call) > LONGEST_CALL:
            lines += ['known = [', *(f'    {one!r},' for one in self.choices.known[task]), ']']
            known = 'known'
        return [*lines, f"ctx.output('{_choosing.WAYS}', chosen_ways({call}, {known}))"]

    def branch_day_of_week(self, task: Task, job: Job) -> None:
        """``BranchDayOfWeekOperator``: a way for some weekdays, and another one for the others."""
        by_run = [task.given(key) is True for key in ('use_task_logical_date', 'use_task_execution_day')]
        days = _waiting.weekdays(task.given('week_day'))
        ways = [literal_of(task.given(f'follow_task_ids_if_{one}')) for one in ('true', 'false')]
        if days is None or None in ways:
            raise NotTranslated('what it chooses is only known at run time', '')
        self._unhandled(
            task, 'week_day', 'follow_task_ids_if_true', 'follow_task_ids_if_false', 'use_task_logical_date',
            'use_task_execution_day',
        )  # fmt: skip
        zone = self._bounds(self.dag, task.line)[0] or 'UTC'
        self.jobs.need_import('from zoneinfo import ZoneInfo')
        if any(by_run):
            now = f'ctx.interval.start.astimezone(ZoneInfo({zone!r}))'
        else:
            self.jobs.need_import('from datetime import datetime')
            now = f'datetime.now(ZoneInfo({zone!r}))'
        # Sunday is 7 here.
        numbers = sorted(day or 7 for day in days)
        lines = [f'is_so = {now}.isoweekday() in {numbers}']
        lines += self._decision(task, f'{ways[0]} if is_so else {ways[1]}')
        job.kind, job.target = 'class_', self._class(job, lines)

    def sensor(self, task: Task, job: Job) -> None:
        """A sensor with a condition: a job that does nothing once the server has seen what it waits for."""
        sensor = _waiting.Sensor(task, self.params, self._output_of, self.report)
        sensor.zone = self._bounds(self.dag, task.line)[0]
        sensor.sql = lambda text: self._condition_sql(text, sensor)
        kind = _waiting.kind_of(task)
        if kind == 'FileSensor' and _waiting.path_of(sensor).startswith('/'):
            self._file_outside(task, job, sensor)
            return
        calls = _waiting.CONDITIONS[kind](sensor)
        self._unhandled(task, *sensor.used)
        self._wait_for(job, sensor.pulls)
        every, timeout, skips = self._patience(task)
        common = [
            *([f'timeout={duration(timeout)!r}'] if timeout is not None else []),
            *([f'every={duration(every)!r}'] if every is not None else []),
            *(["otherwise='skip'"] if skips else []),
        ]
        texts = [f'{call.name}({", ".join([*call.arguments, *common])})' for call in calls]
        job.settings.pop('timeout', None)
        job.settings['wait_for'] = texts[0] if len(texts) == 1 else f'[{", ".join(texts)}]'
        job.kind, job.target = 'shell', "['true']"
        for workflow in sensor.workflows:
            self.awaited.setdefault(workflow, (task.file, task.line))

    def _patience(self, task: Task) -> tuple[Optional[float], Optional[float], bool]:
        for key in ('poke_interval', 'timeout'):
            if task.given(key) is not None and _waiting.seconds_of(task.given(key)) is None:
                self._cannot(task.line, f'{key} of {_named(task)}', task.given(key))
        if task.given('exponential_backoff') is True:
            what = f'exponential_backoff=True of {_named(task)}: the time between two looks stays the same'
            self.report.changed(task.file, task.line, what)
        return _waiting.patience(task)

    def _output_of(self, task_id: str, key: str) -> str:
        """An output as conditions name it. Raises ``NotTranslated`` for a task that is not in the DAG."""
        self.pull(task_id, key)
        parts = ['upstream', self.names[task_id], output_name(key)]
        return parts[0] + ''.join(f'.{one}' if one.isidentifier() else f'[{one!r}]' for one in parts[1:])

    def _condition_sql(self, text: str, sensor: _waiting.Sensor) -> str:
        _must_be_known(text)
        made, pulls, _ = _jinja.sql(text, self.params, lambda one: self.names.get(one, one))
        sensor.pulls += pulls
        return made

    def _file_outside(self, task: Task, job: Job, sensor: _waiting.Sensor) -> None:
        """``FileSensor`` with a path that the server does not look at: a job that looks itself."""
        path = _waiting.path_of(sensor)
        sensor.given('fs_conn_id')
        sensor.given('recursive')
        self._unhandled(task, *sensor.used)
        what = f'"{path}" of {_named(task)} is outside of the project: the job looks itself, in a slot'
        self.report.changed(task.file, task.line, what, 'with the file in the project\'s folder: wait_for=File("PATH")')
        pieces = [
            f'{{{{ {part.text} }}}}' if part.kind == 'expr' else re.sub(r'[^\w./*?\[\]@%+=:,-]', r'\\\g<0>', part.text)
            for part in _jinja.parts_of(path)
        ]
        look = f'[ -n "$(find -L {"".join(pieces)} -type f -print -quit 2> /dev/null)" ]'
        before = 'shopt -s globstar\n' if '**' in path else ''
        self._command(task, job, before + self._again(task, job, look))

    def python_sensor(self, task: Task, job: Job) -> None:
        """``PythonSensor``, ``@task.sensor``: a job that calls the function until it says yes."""
        self._looks_itself(task, job)
        (self.taskflow if task.kind.startswith('@') else self.python)(task, job, DagTranslator._poked)

    def _poked(self, task: Task, call: str) -> list[str]:
        self.jobs.context('poked')
        every = _waiting.patience(task)[0] or _waiting.EVERY_SECONDS
        text = f'poked(lambda: {call}, every={int(every) if every == int(every) else every})'
        return [f"ctx.output('return_value', {text})"] if self._is_read(task) else [text]

    def _again(self, task: Task, job: Job, command: str) -> str:
        """A command that is tried until it succeeds."""
        self._looks_itself(task, job)
        every = _waiting.patience(task)[0] or _waiting.EVERY_SECONDS
        return f'until {command}; do sleep {int(every) if every == int(every) else every}; done'

    def _looks_itself(self, task: Task, job: Job) -> None:
        """The limits of a job that looks itself: it holds a slot, as a sensor in the mode "poke" does."""
        _, timeout, skips = self._patience(task)
        job.settings['timeout'] = repr(duration(timeout or _waiting.TIMEOUT_SECONDS))
        retries = task.given('retries')
        if _is_count(retries):
            # As in Airflow, one that has waited in vain is not tried again.
            job.settings['retry_on'] = "['user', 'external', 'unknown']"
        if skips:
            what = f'soft_fail=True of {_named(task)}: it fails when it has waited in vain'
            todo = 'let it succeed, leave an output, and write when= in the jobs below'
            self.report.left_out(task.file, task.line, what, todo)
        freed = task.given('mode') == 'reschedule' or task.given('deferrable') is True
        if freed or task.kind.endswith('Async'):
            self.report.changed(task.file, task.line, f'{_named(task)} holds a slot while it waits')

    def marker(self, task: Task, job: Job) -> None:
        """``ExternalTaskMarker``: it does nothing, until somebody clears it."""
        self._unhandled(
            task, 'external_dag_id', 'external_task_id', 'execution_date', 'logical_date', 'recursion_depth'
        )
        what = f'{_named(task)}: a retry of this run does not reach over to the other workflow'
        self.report.changed(task.file, task.line, what)
        job.kind, job.target = 'shell', "['true']"

    def _virtual(self, task: Task) -> None:
        for key in ('requirements', 'python', 'python_version'):
            value = task.given(key)
            if value is not None:
                self.report.left_out(
                    task.file,
                    task.line,
                    f'{key}={_text(value)} of task "{task.id}": it runs in the project\'s own environment',
                    "install what it needs for the project's interpreter",
                )

    def _call(
        self,
        task: Task,
        job: Job,
        function: Value,
        args: list[Value],
        kwargs: dict[str, Value],
        *,
        templates: Value = None,
        command: bool = False,
        finish: Optional[Finish] = None,
    ) -> None:
        lines: list[str] = []
        called, node = self._callable(function)
        positional = self._codes(job, args)
        named = dict(zip(kwargs, self._codes(job, list(kwargs.values()))))
        context = self._context(called, node, positional, named, templates, job)
        if context is not None:
            lines.append(context)
        call = self._run_to_its_end(_called(called, positional, named), node)
        gives = node is None or returns_value(node) or is_generator(node)
        if finish is not None:
            lines += finish(self, task, call)
        elif command:
            if node is not None and _has_templates(node):
                what = f'the command that task "{task.id}" makes is a template of Jinja'
                self.report.left_out(task.file, task.line, what, 'take the values from ctx')
            environment = as_dict(task.given('env', {}))
            if environment is None:
                self._cannot(task.line, f'env of task "{task.id}"', task.given('env'))
            pairs = zip(environment or {}, self._codes(job, list((environment or {}).values())))
            env = ', '.join(f'{key!r}: {text}' for key, text in pairs)
            if self._is_read(task):
                call = f'{LAST_LINE[0]!r} + {call} + {LAST_LINE[1]!r}'
            lines.append(f"return Shell(['bash', '-c', {call}]" + (f', env={{{env}}})' if env else ')'))
        elif gives and task.given('do_xcom_push', True) is not False:
            apart = task.given('multiple_outputs') is True and self._is_pulled_apart(task)
            if apart or len(call) > LONGEST_CALL:
                lines += [f'value = {call}', "ctx.output('return_value', value)"]
            else:
                lines.append(f"ctx.output('return_value', {call})")
            if apart:
                lines += ['for key, one in value.items():', '    ctx.output(key, one)']
        else:
            lines.append(call)
        job.kind, job.target = 'class_', self._class(job, lines)

    def _run_to_its_end(self, call: str, node: Optional[ast.AST]) -> str:
        """A call whose function is a generator or a coroutine, which do nothing when they are only called."""
        if isinstance(node, ast.AsyncFunctionDef):
            self.jobs.need_import('import asyncio')
            return f'asyncio.run({call})'
        return f'list({call})' if node is not None and is_generator(node) else call

    def _is_read(self, task: Task) -> bool:
        """Whether another task reads what a command prints last."""
        return (task.id, 'return_value') in self.pulled and task.given('do_xcom_push', True) is not False

    def _is_pulled_apart(self, task: Task) -> bool:
        """Whether another task reads entries of the dict that a task gives as outputs of their own."""
        return any(one == task.id and key != 'return_value' for one, key in self.pulled)

    def _callable(self, function: Value) -> tuple[str, Optional[Any]]:
        """The name of a function in the jobs module, and its syntax tree where it is the file's own."""
        if isinstance(function, Function):
            wanted = (
                None
                if not isinstance(function.node, ast.Lambda)
                else identifier(self.names[self.task.id] if self.task else 'function')
            )
            return self.jobs.function(function, wanted), function.node
        if isinstance(function, Ref) and not function.name.startswith('airflow') and '.' in function.name:
            there = function.value if isinstance(function, Elsewhere) else None
            name = self.jobs.imported(function.name, self.task.line if self.task else 1)
            return name, there.node if isinstance(there, Function) else None
        why = function.why if isinstance(function, Unknown) else f'"{_text(function)}" is not a function of the file'
        raise NotTranslated(f'its function is not there: {why}', 'write a job that calls the function')

    def _codes(self, job: Job, values: list[Value]) -> list[str]:
        texts: list[str] = []
        for value in values:
            code = self.jobs.code(value, self.params, self.pull)
            self._wait_for(job, code.pulls)
            for line in code.imports:
                self.jobs.need_import(line)
            texts.append(code.text)
        return texts

    def _context(
        self,
        called: str,
        node: Optional[Any],
        positional: list[str],
        named: dict[str, str],
        templates: Value,
        job: Job,
    ) -> Optional[str]:
        """Adds what a function takes from the context of Airflow to its arguments; gives the line that makes it."""
        if node is None:
            if not self.jobs.needs_context(called):
                return None
            self.jobs.context('airflow_context')
            return 'airflow_context(ctx)'
        spec: ast.arguments = node.args
        names = [one.arg for one in [*spec.posonlyargs, *spec.args]][len(positional) :] + [
            one.arg for one in spec.kwonlyargs
        ]
        optional = (
            {one.arg for one in spec.args[len(spec.args) - len(spec.defaults) :]} if spec.defaults else set[str]()
        )
        wanted = [name for name in names if name in CONTEXT_NAMES and name not in named]
        everything = spec.kwarg is not None and (uses_name(node, spec.kwarg.arg))
        current = self.jobs.needs_context(called)
        for name in names:
            if (
                name not in named
                and name not in CONTEXT_NAMES
                and name not in optional
                and name not in (one.arg for one in spec.kwonlyargs)
            ):
                raise NotTranslated(f'its function takes "{name}", which nothing gives', f'give "{name}" in the job')
        self._wait_for(job, pulls_of(node))
        if not wanted and not everything and not current:
            return None
        self.jobs.context('airflow_context')
        more = ''
        if templates is not None:
            code = self._codes(job, [templates])[0]
            more = f', templates_dict={code}'
        for name in wanted:
            named[name] = f'context[{name!r}]'
        if everything:
            given = (*named, *[one.arg for one in spec.args][: len(positional)])
            rest = f'{{key: one for key, one in context.items() if key not in {given!r}}}'
            named['**'] = rest if named or positional else 'context'
        return f'context = airflow_context(ctx{more})' if wanted or everything else f'airflow_context(ctx{more})'

    def _mapped(self, task: Task, job: Job) -> None:
        """``expand``: one job that calls the function for each item, in order."""
        called, node = self._callable(task.function)
        expanded = task.expanded or {}
        fixed = dict(zip(task.call_kwargs, self._codes(job, list(task.call_kwargs.values()))))
        lists = dict(zip(expanded, self._codes(job, list(expanded.values()))))
        arguments = {**fixed, **{key: key for key in lists}}
        context = self._context(called, node, [], arguments, None, job)
        self.report.changed(
            self.file,
            task.line,
            f'task "{task.id}" is mapped over a list: it is one job that goes through the list in order',
        )
        call = self._run_to_its_end(_called(called, [], arguments), node)
        loops = ' '.join(f'for {key} in {one}' for key, one in lists.items())
        lines = [context] if context is not None else []
        lines += [f'values = [{call} {loops}]', "ctx.output('return_value', values)"]
        job.kind, job.target = 'class_', self._class(job, lines)

    def _own(self, task: Task, job: Job) -> None:
        """An operator whose class is the file's own: a job that makes one and calls its ``execute``."""
        todo = 'write what its execute does as a job'
        names = task.cls.ancestors() if task.cls is not None else []
        bases = {name.rsplit('.', 1)[-1] for name in names if '.' in name}
        if task.cls is None or bases != {'BaseOperator'}:
            shown = ', '.join(sorted(bases)) or 'what is not known'
            raise NotTranslated(f"its class is the file's own and derives from {shown}", todo)
        name = self.jobs.own_class(task.cls, task.line)
        skipped = _HANDLED | COSMETIC | set(NOT_YET)
        given = {key: value for key, value in task.kwargs.items() if key not in skipped}
        words = dict(zip(given, self._codes(job, list(given.values()))))
        self.jobs.context('airflow_context')
        made = _called(name, [], {'task_id': repr(task.id), **words})
        lines = ['context = airflow_context(ctx)', f"ctx.output('return_value', {made}.execute(context))"]
        job.kind, job.target = 'class_', self._class(job, lines)

    def _sql(self, task: Task, job: Job, workflow: Workflow) -> None:
        """An operator of SQL: a file of statements."""
        text = task.given('sql', task.given('hql'))
        items = as_list(text)
        if items is not None and all(isinstance(one, str) for one in items):
            text = ';\n'.join(str(one).strip().rstrip(';') for one in items)
        if not isinstance(text, str):
            raise NotTranslated('its SQL is only known at run time', 'write the SQL into a file of sql/')
        text = text.strip()
        if text.endswith(('.sql', '.hql')) and '\n' not in text:
            found = self._file_beside(text)
            if found is None:
                raise NotTranslated(f'the file {text} is not beside the DAG file', 'write the SQL into a file of sql/')
            text = found.strip()
        self._unhandled(task, 'sql', 'hql', *_SQL_ARGUMENTS)
        for key in _SQL_ARGUMENTS:
            if key.endswith('conn_id') and task.given(key) is not None:
                self.report.changed(
                    task.file,
                    task.line,
                    f'{key}={_text(task.given(key))} of {_named(task)}: the SQL runs in Pinrail, over its tables',
                )
            elif task.given(key) not in (None, False, True) and key in ('parameters', 'handler'):
                self.report.left_out(
                    task.file,
                    task.line,
                    f'{key}={_text(task.given(key))} of {_named(task)}',
                    'write the values into the SQL as {{ params.name }}',
                )
        path = f'sql/{workflow.name}/{job.name}.sql'
        origin = f'-- Task "{task.id}" of {task.file}, line {task.line}\n'
        try:
            _must_be_known(text)
            made, pulls, bare = _jinja.sql(text, self.params, lambda one: self.names.get(one, one))
        except NotTranslated as wrong:
            self.project.add(path, f'{origin}{text}\n')
            raise NotTranslated(f'{wrong}', f'{wrong.todo}; its SQL is in {path}, for sql= of the job') from None
        for path_of_value in bare:
            self.report.changed(
                task.file,
                task.line,
                f'"{{{{ {path_of_value} }}}}" in the SQL of task "{task.id}" is a literal, not a piece of SQL',
                f'write {{{{ {path_of_value} | ident }}}} if it is a name',
            )
        self._wait_for(job, pulls)
        self.project.add(path, f'{origin}{made}\n')
        job.kind, job.target = 'sql', repr(path)

    def _script(self, task: Task, text: str) -> str:
        what = f'the command of task "{task.id}" is the file {text}, which is not beside the DAG file'
        self.report.left_out(task.file, task.line, what, 'copy it into the project')
        return f'bash {text}'

    def _file_beside(self, path: str) -> Optional[str]:
        """The text of a file that a DAG file names, without the line end at its end."""
        for root in (self.jobs.folder, *self.jobs.beside.roots):
            for folder in ('', 'sql', 'include'):
                whole = os.path.join(root, folder, path)
                if os.path.isfile(whole):
                    with open(whole, encoding='utf-8', errors='replace') as file:
                        return file.read().rstrip('\n')
        return None


_VENV = (
    'requirements',
    'python',
    'python_version',
    'system_site_packages',
    'venv_cache_path',
    'use_dill',
    'serializer',
    'expect_airflow',
    'templates_exts',
    'pip_install_options',
    'index_urls',
    'inherit_env',
)
_SQL_ARGUMENTS = (
    'conn_id',
    'postgres_conn_id',
    'mysql_conn_id',
    'mssql_conn_id',
    'sqlite_conn_id',
    'snowflake_conn_id',
    'trino_conn_id',
    'presto_conn_id',
    'hive_cli_conn_id',
    'oracle_conn_id',
    'redshift_conn_id',
    'databricks_conn_id',
    'jdbc_conn_id',
    'parameters',
    'handler',
    'autocommit',
    'split_statements',
    'return_last',
    'show_return_value_in_logs',
    'database',
    'hook_params',
)
_BASH = (
    *('bash_command', 'env', 'append_env', 'cwd', 'skip_on_exit_code', 'output_encoding', 'retry_exit_code'),
    *_waiting.ARGUMENTS,
)
_PYTHON = ('python_callable', 'op_args', 'op_kwargs', 'templates_dict', *_VENV)
# Arguments of what is done with the result of a function.
_FINISHED = (*_waiting.ARGUMENTS, 'ignore_downstream_trigger_rules')
# Arguments of single operators, which ``default_args`` may give as well.
_OF_OPERATORS = _waiting.OF_SENSORS | frozenset(
    ('bash_command', 'env', 'append_env', 'cwd', 'python_callable', 'op_args', 'op_kwargs', 'provide_context', 'sql')
    + ('templates_dict', *_VENV, *_SQL_ARGUMENTS)
)
_DAG_HANDLED = frozenset(
    ('schedule', 'schedule_interval', 'timetable', 'catchup', 'default_args', 'params', 'description', 'dag_id')
    + ('max_active_runs', 'max_active_tasks', 'concurrency')
)
_BODIES: dict[str, Callable[[DagTranslator, Task, Job], None]] = {
    'EmptyOperator': DagTranslator.empty,
    'DummyOperator': DagTranslator.empty,
    'BashOperator': DagTranslator.bash,
    'PythonOperator': DagTranslator.python,
    'PythonVirtualenvOperator': DagTranslator.python,
    'ExternalPythonOperator': DagTranslator.python,
    '@task': DagTranslator.taskflow,
    '@task.python': DagTranslator.taskflow,
    '@task.virtualenv': DagTranslator.taskflow,
    '@task.external_python': DagTranslator.taskflow,
    '@task.bash': DagTranslator.taskflow_bash,
    'BranchPythonOperator': DagTranslator.deciding,
    'BranchPythonVirtualenvOperator': DagTranslator.deciding,
    'BranchExternalPythonOperator': DagTranslator.deciding,
    'ShortCircuitOperator': DagTranslator.deciding,
    '@task.branch': DagTranslator.deciding,
    '@task.branch_virtualenv': DagTranslator.deciding,
    '@task.branch_external_python': DagTranslator.deciding,
    '@task.short_circuit': DagTranslator.deciding,
    'BranchDayOfWeekOperator': DagTranslator.branch_day_of_week,
    'PythonSensor': DagTranslator.python_sensor,
    '@task.sensor': DagTranslator.python_sensor,
    'BashSensor': DagTranslator.bash,
    'ExternalTaskMarker': DagTranslator.marker,
}


def _named(task: Task) -> str:
    return f'{task.kind} "{task.id}"'


def _is_count(value: Value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _ancestors(task: Task) -> set[Task]:
    found: set[Task] = set()
    waiting = list(task.after)
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += one.after
    return found


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return False
    return True


def _text(value: Value) -> str:
    """A value as a note shows it."""
    if isinstance(value, Unknown):
        return value.text or value.why
    if isinstance(value, (Ref, Function, Timetable)):
        return value.name
    if isinstance(value, Zone):
        return value.name
    shown = literal_of(value)
    if shown is None:
        known = [
            ('its Param', isinstance(value, ParamDef)),
            ('a function', isinstance(value, Native)),
            ('a dict', as_dict(value) is not None),
        ]
        shown = next(
            (name for name, is_so in known if is_so), 'a list' if as_list(value) is not None else 'a value of Airflow'
        )
    return shown if len(shown) <= 60 else shown[:57] + '...'


def duration(seconds: float) -> str:
    """Seconds as a text that Pinrail reads: ``'1h30m'``."""
    if seconds != int(seconds):
        return f'{seconds}s'
    left, parts = int(seconds), list[str]()
    for unit, size in (('d', 86400), ('h', 3600), ('m', 60), ('s', 1)):
        if left >= size:
            parts.append(f'{left // size}{unit}')
            left %= size
    return ''.join(parts) or '0s'


def _bounds(start: Optional[datetime.datetime], end: Optional[datetime.datetime], expression: Optional[str]) -> str:
    """The arguments ``start`` and ``end``, which are the first and the last day on which a schedule fires.

    Airflow 2 counts the begin of intervals, and a daily one (``expression``) fires a day after it has begun.
    """
    daily = re.fullmatch(r'(\d+) (\d+) \* \* \*', {'@daily': '0 0 * * *'}.get(expression or '', expression or ''))
    texts: list[str] = []
    for name, moment in (('start', start), ('end', end)):
        if moment is None:
            continue
        day = moment.date()
        if daily is not None:
            fires = datetime.time(int(daily[2]), int(daily[1]))
            begins_later = moment.time() > fires if name == 'start' else moment.time() >= fires
            later = datetime.timedelta(days=1 + begins_later if name == 'start' else int(begins_later))
            day = min(day, datetime.date.max - later) + later
        texts.append(f', {name}={day.isoformat()!r}')
    return ''.join(texts)


def _cron(text: str) -> tuple[str, Optional[str]]:
    """A cron expression of Airflow as one of Pinrail, and what is wrong with it."""
    from .._schedule import cron_expression

    if text.startswith('@'):
        short = {'@quarterly': '0 0 1 */3 *'}.get(text, text)
        _, problem, _ = cron_expression(short)
        return short, problem
    fields = text.replace('?', '*').split()
    # Airflow reads a step without a range as one to the end.
    most = ('59', '23', '31', '12', '6')
    if len(fields) == 5:
        fields = [re.sub(r'(?<![\d-])(\d+)/', rf'\1-{end}/', field) for field, end in zip(fields, most)]
    expression, problem, _ = cron_expression(' '.join(fields))
    return expression, problem


_PARAM_TYPES = {'string': 'str', 'integer': 'int', 'number': 'float', 'boolean': 'bool'}


def _param(value: Value) -> Optional[str]:
    """``Param(...)`` for a parameter of a DAG, or None where it has no type of Pinrail's."""
    declared = value if isinstance(value, ParamDef) else ParamDef([value], {})
    schema = declared.kwargs
    kinds = [schema['type']] if isinstance(schema.get('type'), str) else as_list(schema.get('type')) or []
    kinds = [kind for kind in kinds if kind != 'null']
    default = declared.default
    required = declared.required
    if isinstance(default, Unknown):
        # An argument of a @dag function that nothing gives: each run has to.
        if 'is not given' not in default.why:
            return None
        required, default = True, None
    if kinds:
        name = _PARAM_TYPES.get(str(kinds[0]), '') if len(kinds) == 1 else ''
    elif default is None:
        name = 'str'
    else:
        name = next((name for name in ('bool', 'int', 'float', 'str') if _fits(name, default)), '')
    if not name or not _fits(name, default):
        return None
    parts = [name]
    if not required:
        parts.append(f'default={default!r}')
    choices = as_list(schema.get('enum'))
    if choices and (required or default in choices) and all(_fits(name, one) for one in choices):
        parts.append(f'choices={choices!r}')
    help = schema.get('description') or schema.get('title')
    if isinstance(help, str):
        parts.append(f'help={help!r}')
    return f'Param({", ".join(parts)})'


def _fits(name: str, value: Value) -> bool:
    if value is None:
        return True
    if isinstance(value, bool):
        return name == 'bool'
    return isinstance(value, {'str': (str,), 'int': (int,), 'float': (int, float), 'bool': (bool,)}[name])


def pulls_of(node: ast.AST) -> list[tuple[str, str]]:
    """The outputs that a function reads by ``xcom_pull`` with constants, as (task id, key)."""
    found: list[tuple[str, str]] = []
    for one in ast.walk(node):
        if not (isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute) and one.func.attr == 'xcom_pull'):
            continue
        given: dict[str, ast.expr] = dict(zip(('task_ids', 'dag_id', 'key'), one.args))
        given.update({keyword.arg: keyword.value for keyword in one.keywords if keyword.arg is not None})
        key = given.get('key')
        name = key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else 'return_value'
        source = given.get('task_ids')
        for item in source.elts if isinstance(source, (ast.List, ast.Tuple)) else [source]:
            if isinstance(item, ast.Constant) and isinstance(item.value, str):
                found.append((item.value, name))
    return found


def _called(function: str, positional: list[str], named: dict[str, str]) -> str:
    """A call; the key ``**`` holds what is passed on as a whole."""
    words = [*positional, *(f'**{one}' if key == '**' else f'{key}={one}' for key, one in named.items())]
    call = f'{function}({", ".join(words)})'
    if len(call) <= LONGEST_CALL:
        return call
    # The body of a job stands four columns in.
    return f'{function}(\n' + ''.join(f'        {word},\n' for word in words) + '    )'


def is_generator(function: ast.AST) -> bool:
    inside = list(ast.iter_child_nodes(function))
    while inside:
        one = inside.pop()
        if isinstance(one, (ast.Yield, ast.YieldFrom)):
            return True
        if not isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            inside += ast.iter_child_nodes(one)
    return False


def _has_templates(node: ast.AST) -> bool:
    body: list[ast.stmt] = getattr(node, 'body', [])
    inside = [one for statement in body for one in ast.walk(statement)]
    texts = (one.value for one in inside if isinstance(one, ast.Constant) and isinstance(one.value, str))
    return any(_jinja.is_template(text) for text in texts)


def uses_name(node: ast.AST, name: str) -> bool:
    return any(isinstance(one, ast.Name) and one.id == name for one in ast.walk(node))


# What a CREATE TABLE of Pinrail's SQL does not have.
_CONSTRAINTS = re.compile(
    r'\b(primary\s+key|not\s+null|default|serial|bigserial|references|unique|auto_?increment|check)\b', re.IGNORECASE
)


def _must_be_known(text: str) -> None:
    """Raises ``NotTranslated`` for statements that Pinrail's SQL does not have."""
    for statement in re.split(r';\s*(?:\n|$)', _without_comments(text)):
        words = statement.split()
        if words and words[0].strip('(').lower() not in _STATEMENTS:
            raise NotTranslated(f'Pinrail has no statement {words[0].upper()}', 'replace rows by INSERT OVERWRITE')
        found = _CONSTRAINTS.search(statement) if [word.lower() for word in words[:2]] == ['create', 'table'] else None
        if found is not None:
            shown = ' '.join(found[0].upper().split())
            raise NotTranslated(f'a table of Pinrail has no {shown}', 'write the columns with their types alone')


def _without_comments(text: str) -> str:
    return re.sub(r'--[^\n]*|/\*.*?\*/', '', text, flags=re.DOTALL)
