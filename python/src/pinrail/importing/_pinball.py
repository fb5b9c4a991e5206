"""Workflow files of Pinball: ``WORKFLOWS = {name: WorkflowConfig(...)}``, their templates, schedules and classes.

Job classes are found by name in the files that are imported, also where they are Python 2 of the simple kind.
"""

from __future__ import annotations

import ast
import datetime
import os
import re
from typing import Any, NamedTuple, Optional

from .._narrow import as_dict, as_list
from .._source import decode
from . import _jinja, pinball_jobs
from ._evaluate import Class, Evaluator, Ref, Scope, Thing, Unknown, Value, World, common_call, shown
from ._jinja import Part
from ._limits import Channels, notify, priorities
from ._operators import NOTIFY, duration
from ._project import Job, Project, Workflow, identifier, new_name, text_of, workflow_source
from ._report import Report

_MODULE = 'pinball_jobs'
# What the classes of ``pinball_jobs`` are called there; any other base needs an engine or more of Pinball.
_BASES = frozenset(('JobBase', 'PythonJob', 'CommandLineJob'))
_EVENT = 'PINBALL:EVENT_ATTR:'
# The overrun policies by their numbers in Pinball; a schedule that says nothing has the first.
_OVERRUN = ('skip', 'abort-running', 'delay', 'delay-until-success', 'start-new')
# What Pinball lets run of a workflow at once when nobody says it.
_MOST_RUNNING = 3
_DAY = 86400


class Config(Thing):
    """``WorkflowConfig``, ``JobConfig``, ``ScheduleConfig`` or a template: its name and its arguments."""

    def __init__(self, kind: str, bases: list[str], given: dict[str, Value], node: ast.AST) -> None:
        self.kind = kind
        self.bases = bases
        self.given = given
        self.line: int = getattr(node, 'lineno', 1)

    def attribute(self, name: str, ev: Evaluator, node: ast.AST) -> Value:
        return self.given.get(name, Unknown(f'"{name}" of {self.kind}', node))


_ARGUMENTS = {
    'WorkflowConfig': ('jobs', 'final_job_config', 'schedule', 'notify_emails'),
    'JobConfig': ('template', 'dependency'),
    'FinalJobConfig': ('template', 'dependency'),
    'ScheduleConfig': ('recurrence', 'reference_timestamp', 'overrun_policy', 'max_running_instances'),
    'CommandJobTemplate': ('name', 'command', 'write_lock', 'max_attempts', 'emails', 'priority'),
    'JobTemplate': ('name', 'executor', 'executor_config', 'write_lock', 'max_attempts', 'emails', 'priority'),
    'ConditionTemplate': ('name', 'max_attempts', 'retry_delay_sec', 'emails', 'priority'),
}


class _Source(NamedTuple):
    """A file: its text as Python 3, its syntax tree, and the line at which it is Python 2, if it is."""

    path: str
    text: str
    tree: ast.Module
    old: Optional[int]


class PinballWorld(World):
    """The names of Pinball. What a file imports from another file of the import is looked up there."""

    def __init__(self, pinball: Pinball) -> None:
        self.pinball = pinball

    def value(self, name: str) -> Value:
        if name.startswith(('pinball.', 'pinball_ext.config', 'pinball_ext.workflow', 'pinball_ext.job_templates')):
            return None
        module, _, last = name.rpartition('.')
        found = self.pinball.module(module) if module else None
        return None if found is None else found.names.get(last)

    def call(self, name: str, args: list[Value], kwargs: dict[str, Value], ev: Evaluator, node: ast.Call) -> Value:
        last = name.rsplit('.', 1)[-1]
        kind = _kind(last)
        return common_call(name, args, kwargs, node) if kind is None else _config(last, [kind], args, kwargs, node)

    def instance(self, cls: Class, args: list[Value], kwargs: dict[str, Value], ev: Evaluator, node: ast.Call) -> Value:
        names = [name.rsplit('.', 1)[-1] for name in cls.ancestors()]
        kinds = [kind for kind in map(_kind, names[:-1]) if kind is not None]
        if kinds:
            return _config(names[-1], kinds, args, kwargs, node)
        return super().instance(cls, args, kwargs, ev, node)


def _kind(name: str) -> Optional[str]:
    """The known kind that a class is or is named like."""
    if name in _ARGUMENTS:
        return name
    if name.endswith(('ConditionTemplate', 'ConditionTemplateBase')):
        return 'ConditionTemplate'
    if name.endswith(('CommandJobTemplate', 'CommandTemplate')):
        return 'CommandJobTemplate'
    return 'JobTemplate' if name.endswith(('JobTemplate', 'JobTemplateBase')) else None


def _config(name: str, kinds: list[str], args: list[Value], kwargs: dict[str, Value], node: ast.Call) -> Config:
    # A class of one's own has arguments of its own; the first is the name with all templates.
    known = _ARGUMENTS[kinds[0]] if name in _ARGUMENTS else _ARGUMENTS[kinds[0]][:1]
    return Config(name, kinds, {**dict(zip(known, args)), **kwargs}, node)


class Pinball:
    """Imports files of Pinball into a project."""

    def __init__(self, project: Project, report: Report, channels: Channels) -> None:
        self.project = project
        self.report = report
        self.channels = channels
        self._sources: list[_Source] = []
        self._modules: dict[str, Scope] = {}
        self._workflows: set[str] = set()
        self._names: set[str] = {_MODULE, '__init__'}
        # Copies of the files of job classes: the module, and the job functions at its end.
        self._copies: dict[str, tuple[str, list[str]]] = {}
        self._uses_base = False
        self._unwritten = 0

    def read(self, files: list[str]) -> list[dict[str, Any]]:
        for path in files:
            source = self._parsed(path)
            if source is not None:
                self._sources.append(source)
        sources = [self._file(source) for source in self._sources]
        for path, (module, jobs) in self._copies.items():
            self._copy(path, module, jobs)
        if self._uses_base:
            with open(pinball_jobs.__file__, encoding='utf-8') as file:
                self.project.add(f'jobs/{_MODULE}.py', file.read())
        return sources

    def _parsed(self, path: str) -> Optional[_Source]:
        try:
            with open(path, 'rb') as file:
                text = decode(file.read())
        except (OSError, ValueError, SyntaxError) as error:
            self.report.left_out(path, 1, f'the file is not read: {error}', 'mend the file')
            return None
        try:
            return _Source(path, text, ast.parse(text, path), None)
        except SyntaxError as error:
            line = error.lineno or 1
            newer = modernised(text)
            try:
                return _Source(path, newer, ast.parse(newer, path), line)
            except SyntaxError as left:
                self.report.left_out(path, left.lineno or line, f'the file is not read: {left.msg}', 'make it Python 3')
                return None

    def module(self, name: str) -> Optional[Scope]:
        """The variables of a module that is among the files."""
        if name not in self._modules:
            tail = os.sep + name.lstrip('.').replace('.', os.sep) + '.py'
            for source in self._sources:
                if (os.sep + source.path).endswith(tail):
                    # First, so that two files which import each other come to an end.
                    self._modules[name] = Scope()
                    self._modules[name] = self._evaluated(source).module
                    break
        return self._modules.get(name)

    def _evaluated(self, source: _Source) -> Evaluator:
        ev = Evaluator(source.path, source.text, source.tree, PinballWorld(self), self.report)
        ev.run()
        return ev

    # Workflows.

    def _file(self, source: _Source) -> dict[str, Any]:
        made: dict[str, Any] = {'file': source.path, 'workflows': [], 'jobs': 0, 'unwritten': 0}
        self._unwritten = 0
        ev = self._evaluated(source)
        for variable, value in ev.module.names.items():
            entries = as_dict(value)
            if entries is None or not any(
                isinstance(one, Config) and one.kind == 'WorkflowConfig' for one in entries.values()
            ):
                if variable == 'WORKFLOWS' and isinstance(value, Unknown):
                    self.report.left_out(source.path, value.line, f'WORKFLOWS: {value.why}', 'write it as a dict')
                continue
            for name, config in entries.items():
                if isinstance(config, Config) and config.kind == 'WorkflowConfig':
                    workflow = self._workflow(str(name), config, source)
                    self.project.add(f'workflows/{workflow.name}.py', workflow_source(workflow))
                    made['workflows'].append(workflow.name)
                    made['jobs'] += len(workflow.jobs)
                else:
                    self.report.left_out(source.path, 1, f'workflow "{name}" is no WorkflowConfig', 'write it by hand')
        made['unwritten'] = self._unwritten
        return made

    def _workflow(self, name: str, config: Config, source: _Source) -> Workflow:
        made = Workflow(new_name(name, self._workflows), f'Translated from {source.path} by `pinrail import pinball`.')
        if made.name != name:
            self.report.changed(source.path, config.line, f'workflow "{name}" is "{made.name}" here')
        schedule = config.given.get('schedule')
        if isinstance(schedule, Config):
            text = self._schedule(schedule, source)
            if text is not None:
                made.settings['schedule'] = text
                self._overrun(schedule, made, source)
        elif schedule is not None:
            self.report.left_out(source.path, config.line, f'schedule of workflow "{name}"', 'write schedule=cron(...)')
        emails = config.given.get('notify_emails')
        channel = self.channels.name(emails)
        if channel is not None:
            made.settings['notify'] = notify(('first-failure', 'recovery'), channel)
            what = f'notify_emails of workflow "{name}" are told of the first failure and the recovery, not of each end'
            self.report.changed(source.path, config.line, what)
        elif emails:
            self.report.left_out(source.path, config.line, f'notify_emails of workflow "{name}"', NOTIFY)
        known = {*_ARGUMENTS['WorkflowConfig']}
        for key in config.given:
            if key not in known:
                self.report.left_out(source.path, config.line, f'{key} of workflow "{name}"', 'write it by hand')
        self._jobs(name, config, made, source)
        return made

    def _jobs(self, name: str, config: Config, made: Workflow, source: _Source) -> None:
        entries = as_dict(config.given.get('jobs'))
        if entries is None:
            self.report.left_out(
                source.path, config.line, f'jobs of workflow "{name}" are only known at run time', 'write them'
            )
            entries = {}
        used: set[str] = set()
        weights: dict[str, float] = {}
        names = {str(key): new_name(str(key), used) for key in entries}
        for key, one in entries.items():
            if names[str(key)] != key:
                self.report.changed(source.path, config.line, f'job "{key}" is "{names[str(key)]}" here')
            job = Job(names[str(key)], 'shell', "['true']")
            if isinstance(one, Config):
                for dependency in as_list(one.given.get('dependency'), sets=True) or ():
                    found = names.get(str(dependency))
                    if found is None:
                        self.report.left_out(
                            source.path,
                            one.line,
                            f'job "{key}" waits for "{dependency}", which is not in the workflow',
                            'add it',
                        )
                    else:
                        job.after.append(found)
            template, line = (one.given.get('template'), one.line) if isinstance(one, Config) else (one, config.line)
            self._job(job, template, made, source, line)
            weights[job.name] = _weight(template)
            made.jobs.append(job)
        final = config.given.get('final_job_config')
        if final is not None:
            template = final.given.get('template') if isinstance(final, Config) and 'template' in final.given else final
            waited = {one for job in made.jobs for one in job.after}
            job = Job(
                new_name('final', used),
                'shell',
                "['true']",
                after=[job.name for job in made.jobs if job.name not in waited],
            )
            self._job(job, template, made, source, config.line)
            weights[job.name] = _weight(template)
            made.jobs.append(job)
        found = priorities(weights, {job.name: job.after for job in made.jobs})
        for job in made.jobs:
            if job.name in found:
                job.settings['priority'] = str(found[job.name])

    def _schedule(self, schedule: Config, source: _Source) -> Optional[str]:
        given, line = schedule.given, schedule.line
        for key in given:
            if key not in (*_ARGUMENTS['ScheduleConfig'], 'time', 'start_date'):
                self.report.left_out(source.path, line, f'{key} of the schedule', 'write it by hand')
        seconds = _seconds(given.get('recurrence'))
        first = _reference(given)
        if seconds is None or seconds <= 0:
            self.report.left_out(
                source.path, line, 'a schedule whose recurrence is only known at run time', 'write cron(...)'
            )
            return None
        if first is None:
            self.report.changed(
                source.path, line, 'the schedule has no reference time that is known: it fires at midnight in UTC'
            )
            first = datetime.datetime(1970, 1, 1)
        if first.second:
            self.report.changed(source.path, line, f'the schedule fires at {first:%H:%M}, not at {first:%H:%M:%S}')
        start = f', start={first.date().isoformat()!r}' if first.year > 1970 else ''
        minute, hour, minutes, hours = first.minute, first.hour, seconds // 60, seconds // 3600
        if seconds == _DAY:
            return f"cron('{minute} {hour} * * *', covers='day'{start})"
        if seconds == 7 * _DAY:
            return f"cron('{minute} {hour} * * {first.isoweekday() % 7}'{start})"
        if seconds == 3600:
            return f"cron('{minute} * * * *', covers='hour'{start})"
        if seconds % 3600 == 0 and 24 % hours == 0:
            return f"cron('{minute} {hour % hours}-23/{hours} * * *'{start})"
        if seconds % 60 == 0 and 60 % minutes == 0:
            return f"cron('{minute % minutes}-59/{minutes} * * * *'{start})"
        self.report.changed(
            source.path,
            line,
            f'every {duration(seconds)} is counted from 1970-01-01 in UTC, not from the reference time',
        )
        return f'every({duration(seconds)!r}{start})'

    def _overrun(self, schedule: Config, made: Workflow, source: _Source) -> None:
        """What a fire time does while earlier runs are under way."""
        given, line = schedule.given, schedule.line
        value = given.get('overrun_policy')
        policy = _OVERRUN[0] if value is None else None
        if isinstance(value, Ref):
            policy = value.last.lower().replace('_', '-')
        elif isinstance(value, int) and 0 <= value < len(_OVERRUN):
            policy = _OVERRUN[value]
        if policy not in _OVERRUN:
            name = value.last if isinstance(value, Ref) else value.why if isinstance(value, Unknown) else repr(value)
            todo = 'choose one of overrun="skip", "delay", "delay-until-success", "abort-running", "start-new"'
            self.report.left_out(source.path, line, f'overrun_policy={name}', todo)
        elif policy != 'start-new':
            made.settings['overrun'] = repr(policy)
        most = given.get('max_running_instances')
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
            shown_most = most.why if isinstance(most, Unknown) else repr(most)
            self.report.left_out(source.path, line, f'max_running_instances={shown_most}', 'write max_active=')
        elif most is not None:
            made.settings['max_active'] = str(most)
        elif policy == 'start-new':
            made.settings['max_active'] = str(_MOST_RUNNING)

    # Jobs.

    def _job(self, job: Job, template: Value, workflow: Workflow, source: _Source, line: int) -> None:
        if not isinstance(template, Config):
            why = (
                template.why
                if isinstance(template, Unknown)
                else f'"{template.name}" is not among the imported files'
                if isinstance(template, Ref)
                else 'its template is not known'
            )
            self._untranslated(
                job, workflow, source, line, why, 'import the file of the template as well, or write the job'
            )
            return
        if template.kind not in (*_ARGUMENTS, 'CommandConditionTemplate'):
            self.report.changed(
                source.path,
                template.line,
                f'job "{job.name}": what template {template.kind} sets by itself is not there, such as its executor',
            )
        self._settings(job, template, source)
        kind = template.bases[0]
        if kind == 'CommandJobTemplate' and isinstance(template.given.get('command'), str):
            self._command(job, template.given['command'], workflow)
        elif kind == 'ConditionTemplate':
            self._condition(job, template, workflow, source)
        elif kind == 'JobTemplate' and isinstance(template.given.get('name'), str):
            self._class(job, template, workflow, source)
        else:
            self._untranslated(
                job,
                workflow,
                source,
                template.line,
                f'{template.kind} has no command that is known',
                'write the command',
            )

    def _settings(self, job: Job, template: Config, source: _Source) -> None:
        given = template.given
        attempts = given.get('max_attempts')
        if isinstance(attempts, int) and attempts > 1:
            job.settings['retries'] = str(attempts - 1)
        delay = given.get('retry_delay_sec')
        if isinstance(delay, (int, float)) and delay > 0:
            job.settings['retry_delay'] = repr(duration(delay))
        for key, setting in (('warn_timeout_sec', 'warn_after'), ('abort_timeout_sec', 'timeout')):
            value = given.get(key)
            if isinstance(value, (int, float)) and value > 0:
                job.settings[setting] = repr(duration(value))
        lock = given.get('write_lock')
        locks = isinstance(lock, str) and bool(lock.strip()) and '{{' not in lock and '}}' not in lock
        if locks:
            job.settings['key'] = repr(lock)
        for key, value in given.items():
            if key in (
                'name',
                'command',
                'max_attempts',
                'retry_delay_sec',
                'warn_timeout_sec',
                'abort_timeout_sec',
                'priority',
                'template_params',
            ) and not isinstance(value, Unknown):
                continue
            if key == 'write_lock' and locks:
                continue
            if value not in (None, [], ()):
                todo = {'emails': NOTIFY, 'write_lock': 'let the jobs wait for each other'}.get(key, 'write it by hand')
                name = (
                    value.last if isinstance(value, Ref) else value.why if isinstance(value, Unknown) else repr(value)
                )
                self.report.left_out(source.path, template.line, f'{key}={name} of job "{job.name}"', todo)

    def _command(self, job: Job, text: str, workflow: Workflow) -> None:
        """A command. What other jobs print for it as attributes of events are their outputs here."""
        # Pinball fills in twice: first its own parameters, then what jobs above have left, which is written with %%.
        values: dict[str, str] = {}
        parts: list[Part] = []
        for index, piece in enumerate(re.split(r'%{1,2}\((\w+)\)[sd]', text)):
            parts.append(Part('expr', piece) if index % 2 else Part('text', piece.replace('%%', '%')))

        def variable(name: str) -> str:
            values[name] = f'PINBALL_{name.upper()}'
            return values[name]

        command = _jinja.with_variables(parts, variable)
        if _EVENT in text:
            command = (
                f'set -o pipefail\n{{ {command}\n}} | tee "$TMPDIR/stdout" &&\n'
                f'sed -n \'s/^{_EVENT}//p\' "$TMPDIR/stdout" |\n'
                'while IFS== read -r name value; do pinrail output --text "$name" "$value"; done'
            )
        shell = ['bash', '-c'] if _EVENT in text else ['sh', '-c']
        if not values:
            job.target = f'{text_of(command)}' if shell[0] == 'sh' else f"['bash', '-c', {text_of(command)}]"
            return
        self._uses_base = True
        module = self._module(workflow)
        module.append(
            f'def {identifier(job.name)}_job(ctx):\n'
            '    attributes = event_attributes(ctx)\n'
            f"    attributes.setdefault('end_date', str(ctx.ds))\n"
            '    return Shell(\n'
            f'        [{shell[0]!r}, {shell[1]!r}, {text_of(command)}],\n'
            f'        env={{{", ".join(f"{name!r}: attributes[{key!r}]" for key, name in values.items())}}},\n'
            '    )'
        )
        job.kind, job.target = 'class_', repr(f'jobs.{identifier(workflow.name)}.{identifier(job.name)}_job')

    def _condition(self, job: Job, template: Config, workflow: Workflow, source: _Source) -> None:
        params = as_dict(template.given.get('template_params')) or {}
        command = template.given.get('command', params.get('command'))
        if not isinstance(command, str):
            self._untranslated(
                job,
                workflow,
                source,
                template.line,
                f'the command of {template.kind} is only known to Pinball',
                'write it',
            )
            return
        job.settings.setdefault('retries', '71' if template.kind == 'CommandConditionTemplate' else '9')
        job.settings.setdefault('retry_delay', "'10m'")
        self.report.changed(
            source.path,
            template.line,
            f'condition "{job.name}" is a job that is tried until it succeeds; the wait doubles, up to 10 minutes',
        )
        self._command(job, command, workflow)

    def _class(self, job: Job, template: Config, workflow: Workflow, source: _Source) -> None:
        """A job class: the copy of its file, or a class that is to be written."""
        name = str(template.given['name'])
        found = [
            (one, node)
            for one in self._sources
            for node in one.tree.body
            if isinstance(node, ast.ClassDef) and node.name == name
        ]
        if not found:
            self._skeleton(job, name, workflow, source, template.line)
            return
        where, node = found[0]
        if len(found) > 1:
            others = ', '.join(one.path for one, _ in found[1:])
            self.report.changed(
                source.path, template.line, f'class {name} of {where.path} is taken; there is one in {others} too'
            )
        bases = _bases(node, where)
        query = _query(node)
        if query is not None and 'HiveJob' in bases:
            self._query(job, name, query, node, workflow, where)
            return
        if not bases & _BASES:
            shown_bases = ', '.join(sorted(bases)) or 'nothing of Pinball'
            self._untranslated(
                job,
                workflow,
                source,
                template.line,
                f'class {name} derives from {shown_bases}',
                'write it as a job that returns Sql(...) or Shell(...)',
            )
            return
        if where.old is not None:
            self.report.changed(
                where.path,
                where.old,
                'the file is Python 2: print and except were turned into Python 3',
                'look through the copy in jobs/',
            )
        if where.path not in self._copies:
            module = identifier(new_name(os.path.basename(where.path)[:-3], self._names))
            self._copies[where.path] = (module, [])
        module, jobs = self._copies[where.path]
        function = f'{identifier(name)}_job'
        text = f'def {function}(ctx):\n    run_job(ctx, {name})'
        if text not in jobs:
            jobs.append(text)
        self._uses_base = True
        job.kind, job.target = 'class_', repr(f'jobs.{module}.{function}')

    def _query(self, job: Job, name: str, query: str, node: ast.ClassDef, workflow: Workflow, where: _Source) -> None:
        """A Hive job that is one query."""
        path = f'sql/{workflow.name}/{job.name}.sql'
        text = re.sub(r'%\(end_date\)s', '{{ ds }}', query).replace('%%', '%')
        for param in sorted(set(re.findall(r'%\((\w+)\)s', text))):
            self.report.left_out(
                where.path,
                node.lineno,
                f'"%({param})s" in the query of {name}',
                f'add a parameter "{param}" to the workflow',
            )
            text = text.replace(f'%({param})s', f'{{{{ params.{param} }}}}')
        lines = [line.rstrip() for line in text.strip('\n').split('\n')]
        indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
        body = '\n'.join(line[indent:] for line in lines).strip()
        self.project.add(path, f'-- {name} of {where.path}, line {node.lineno}\n{body}\n')
        self.report.changed(
            where.path, node.lineno, f'the query of {name} runs in Pinrail, over its tables, not in Hive'
        )
        for one in node.body:
            if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef)):
                self.report.left_out(where.path, one.lineno, f'{one.name} of {name}', 'write a job behind it')
        job.kind, job.target = 'sql', repr(path)

    def _skeleton(self, job: Job, name: str, workflow: Workflow, source: _Source, line: int) -> None:
        class_name = identifier(name)
        where = f'jobs/{identifier(workflow.name)}.py'
        text = (
            f'class {class_name}(Job):\n'
            f'    """Stands for the job class {name} of Pinball, whose source was not among the imported files."""\n\n'
            '    def execute(self, ctx):\n'
            f"        raise UserError('{class_name} is not written yet', hint='write its execute in {where}')"
        )
        module = self._module(workflow)
        if text not in module:
            module.append(text)
        self.report.left_out(
            source.path,
            line,
            f'class {name} is not in the imported files',
            f'import its file as well, or write it in {where}',
        )
        self._unwritten += 1
        job.kind, job.target = 'class_', repr(f'jobs.{identifier(workflow.name)}.{class_name}')

    def _untranslated(self, job: Job, workflow: Workflow, source: _Source, line: int, why: str, todo: str) -> None:
        self.report.left_out(source.path, line, f'job "{job.name}": {why}', todo)
        self._unwritten += 1
        name = f'{identifier(job.name)}_job'
        message = f'job "{job.name}" of {source.path}:{line} is not translated: {why}'
        self._module(workflow).append(
            f'def {name}(ctx):\n    raise UserError(\n        {message!r},\n        hint={todo!r},\n    )'
        )
        job.kind, job.target = 'class_', repr(f'jobs.{identifier(workflow.name)}.{name}')

    # Modules.

    def _module(self, workflow: Workflow) -> list[str]:
        """The parts of the module of a workflow's own jobs."""
        key = f'\0{workflow.name}'
        if key not in self._copies:
            self._names.add(workflow.name.lower())
            self._copies[key] = (identifier(workflow.name), [])
        return self._copies[key][1]

    def _copy(self, path: str, module: str, jobs: list[str]) -> None:
        parts = '\n\n\n'.join(jobs)
        if path.startswith('\0'):
            names = [name for name in ('Job', 'Shell', 'UserError') if re.search(rf'\b{name}\b', parts)]
            own = [f'from jobs.{_MODULE} import event_attributes'] if 'event_attributes' in parts else []
            head = '\n'.join([*own, *([f'from pinrail import {", ".join(names)}'] if names else [])])
            self.project.add(
                f'jobs/{module}.py',
                f'# The jobs of workflow {path[1:]}, made by `pinrail import pinball`.\n{head}\n\n\n{parts}\n',
            )
            return
        source = next(one for one in self._sources if one.path == path)
        text = re.sub(
            r'^(\s*)from pinball_ext\.job\.basic_jobs import',
            rf'\1from jobs.{_MODULE} import',
            source.text,
            flags=re.MULTILINE,
        )
        for node in ast.walk(source.tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                name = (node.module or '') if isinstance(node, ast.ImportFrom) else node.names[0].name
                if name.split('.')[0] in ('pinball', 'pinball_ext') and name != 'pinball_ext.job.basic_jobs':
                    self.report.left_out(
                        path, node.lineno, f'a job imports "{name}"', f'remove it from jobs/{module}.py'
                    )
        head = f'# A copy of {path}, made by `pinrail import pinball`.\n'
        self.project.add(
            f'jobs/{module}.py',
            f'{head}{text.rstrip()}\n\n\nfrom jobs.{_MODULE} import run_job  # noqa: E402\n\n\n{parts}\n',
        )


def modernised(text: str) -> str:
    """Python 2 whose print statements and except clauses are written as in Python 3; columns may move."""
    text = re.sub(r'^([ \t]*)print[ \t]+(?!\()([^\n]+?),?[ \t]*$', r'\1print(\2)', text, flags=re.MULTILINE)
    text = re.sub(r'^([ \t]*)print[ \t]*$', r'\1print()', text, flags=re.MULTILINE)
    return re.sub(
        r'^([ \t]*except[ \t]+[\w.()]+(?:[ \t]*,[ \t]*[\w.]+\))?)[ \t]*,[ \t]*(\w+)[ \t]*:',
        r'\1 as \2:',
        text,
        flags=re.MULTILINE,
    )


def _weight(template: Value) -> float:
    """What a job adds to the priority of the jobs above it."""
    given = template.given.get('priority') if isinstance(template, Config) else None
    return given if isinstance(given, (int, float)) and given else 1


def _bases(node: ast.ClassDef, source: _Source) -> set[str]:
    """The last names of what a class of a file is derived from, through classes of the same file."""
    found: set[str] = set()
    for base in node.bases:
        name = _jinja.dotted(base).rsplit('.', 1)[-1]
        inner = next((one for one in source.tree.body if isinstance(one, ast.ClassDef) and one.name == name), None)
        found |= {name} if inner is None else _bases(inner, source)
    return found


def _query(node: ast.ClassDef) -> Optional[str]:
    for one in node.body:
        if (
            isinstance(one, ast.Assign)
            and shown(one.targets[0]) == '_QUERY_TEMPLATE'
            and isinstance(one.value, ast.Constant)
        ):
            return one.value.value if isinstance(one.value.value, str) else None
    return None


_UNITS = {'s': 1, 'm': 60, 'h': 3600, 'd': _DAY, 'w': 7 * _DAY}


def _seconds(value: Value) -> Optional[int]:
    """A recurrence in seconds: a timedelta, a number, or a text such as ``1d``."""
    if isinstance(value, datetime.timedelta):
        return int(value.total_seconds())
    if isinstance(value, str):
        match = re.fullmatch(r'\s*(\d+)\s*([smhdw])\w*\s*', value.lower())
        return int(match[1]) * _UNITS[match[2]] if match is not None else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _reference(given: dict[str, Value]) -> Optional[datetime.datetime]:
    """The moment from which a schedule counts, in UTC."""
    value = given.get('reference_timestamp')
    if isinstance(value, datetime.datetime):
        return value.replace(tzinfo=None)
    day, time = given.get('start_date'), given.get('time')
    if not isinstance(day, str) and not isinstance(time, str):
        return None
    try:
        made = datetime.datetime.fromisoformat(day) if isinstance(day, str) else datetime.datetime(1970, 1, 1)
        parts = [int(part) for part in re.split(r'[.:]', time)[:3]] if isinstance(time, str) else [0]
        return made.replace(hour=parts[0], minute=(parts + [0])[1], second=(parts + [0, 0])[2])
    except ValueError:
        return None
