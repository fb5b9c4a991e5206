"""One import from its paths to its files and its report."""

from __future__ import annotations

import ast
import os
import warnings
from typing import Any, Optional

from .._errors import UserError
from .._source import decode
from . import airflow_context
from ._airflow import AirflowWorld
from ._beside import CONTEXT_MODULE, Beside, Module
from ._evaluate import Evaluator
from ._jobs import JobsModule
from ._limits import Channels, Pools
from ._operators import DagTranslator
from ._project import Project, identifier, new_name, project_name, workflow_source
from ._report import Report


def run(tool: str, paths: list[str], into: str, *, new: bool = False) -> dict[str, Any]:
    """Imports files and folders into a project; gives the document of the command. Raises ``UserError``."""
    root = os.path.realpath(into)
    project, report, channels = Project(root), Report(), Channels(new)
    files = python_files(paths)
    if tool == 'airflow':
        sources = _Airflow(project, report, Beside(paths, project, report), channels).read(files)
    else:
        from ._pinball import Pinball

        sources = Pinball(project, report, channels).read(files)
    if not any(source['workflows'] for source in sources):
        shown = ', '.join(paths)
        what = {'airflow': 'DAG', 'pinball': 'WORKFLOWS'}[tool]
        notes = report.notes()
        hint = (
            f'{notes[0].file}:{notes[0].line}: {notes[0].what}'
            if notes
            else f'Name a file that has a {what}, or a folder of such files.'
        )
        raise UserError(f'no {what} found in {shown}', hint)
    if new:
        name = project_name(root) or 'imported'
        project.add('pinrail.toml', f'[project]\nname = "{name}"\n{channels.toml()}')
    project.write()
    return {
        'tool': tool,
        'project': root,
        'files': sorted(project.files),
        'sources': sources,
        'notes': [note.to_json() for note in report.notes()],
    }


def python_files(paths: list[str]) -> list[str]:
    """The Python files that are named, and those of the folders that are named. Raises ``UserError``."""
    files: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            for folder, folders, names in os.walk(path):
                folders[:] = sorted(one for one in folders if not one.startswith('.') and one != '__pycache__')
                files += [os.path.join(folder, name) for name in sorted(names) if name.endswith('.py')]
        elif os.path.isfile(path):
            files.append(path)
        else:
            raise UserError(f'"{path}" does not exist', 'Name files or folders.')
    return list(dict.fromkeys(os.path.normpath(one) for one in files))


def parsed(path: str, report: Report) -> Optional[tuple[str, ast.Module]]:
    """The text and the syntax tree of a file; None, with a note, when it has none."""
    try:
        with open(path, 'rb') as file:
            text = decode(file.read())
        with warnings.catch_warnings():
            # What the file's author writes, such as a strange escape, is no concern of the import.
            warnings.simplefilter('ignore')
            return text, ast.parse(text, path)
    except SyntaxError as error:
        report.left_out(path, error.lineno or 1, f'the file is not read: {error.msg}', 'it must be Python 3')
    except (OSError, ValueError, RecursionError) as error:
        report.left_out(path, 1, f'the file is not read: {error}', 'mend the file')
    return None


class _Airflow:
    """Reads DAG files, each in a world of its own."""

    def __init__(self, project: Project, report: Report, beside: Beside, channels: Channels) -> None:
        self.project = project
        self.beside = beside
        self.report = report
        self.channels = channels
        self.pools = Pools()
        self._workflows: set[str] = set()
        self._modules: set[str] = {CONTEXT_MODULE, '__init__'}
        self._uses_context = False
        # Workflows that are waited for, with the place that says so.
        self._awaited: dict[str, tuple[str, int]] = {}

    def read(self, files: list[str]) -> list[dict[str, Any]]:
        sources = [self._file(path) for path in files]
        made = {name for source in sources for name in source['workflows']}
        for name, (file, line) in self._awaited.items():
            if name not in made:
                what = f'workflow "{name}" is waited for, and is not among those that are imported'
                self.report.changed(file, line, what, 'import it too, or name the workflow that stands for it')
        if self._uses_context or self.beside.uses_context:
            with open(airflow_context.__file__, encoding='utf-8') as file:
                self.project.add(f'jobs/{CONTEXT_MODULE}.py', file.read())
        return sources

    def _file(self, path: str) -> dict[str, Any]:
        source: dict[str, Any] = {'file': path, 'workflows': [], 'jobs': 0, 'unwritten': 0}
        found = parsed(path, self.report)
        if found is None:
            return source
        text, tree = found
        loaded: dict[str, Optional[Evaluator]] = {}

        def load(name: str) -> Optional[Evaluator]:
            there = self.beside.find(name, os.path.dirname(path))
            if there is None or there.path == path:
                return None
            if there.path not in loaded:
                # First, so that two files which import each other come to an end.
                loaded[there.path] = None
                loaded[there.path] = self._evaluated(there, world)
            return loaded[there.path]

        world = AirflowWorld(load)
        ev = Evaluator(path, text, tree, world, self.report)
        ev.run()
        for maker in world.dag_makers:
            if not maker.called:
                line = getattr(maker.function.node, 'lineno', 1)
                self.report.left_out(
                    path, line, f'@dag function "{maker.function.name}" is never called: it makes no DAG', 'call it'
                )
        if not world.dags:
            return source
        stem = identifier(new_name(os.path.basename(path)[:-3], self._modules))
        jobs = JobsModule(stem, ev, self.report, os.path.dirname(path), self.beside)
        translator = DagTranslator(ev, self.project, self.report, jobs, self._workflows)
        translator.pools, translator.channels = self.pools, self.channels
        translator.airflow_3 = world.is_airflow_3
        translator.awaited = self._awaited
        for dag in world.dags:
            if not dag.tasks:
                line = getattr(dag.node, 'lineno', 1)
                self.report.left_out(path, line, f'DAG "{dag.id}" has no task', 'a workflow needs one')
                continue
            workflow = translator.workflow(dag)
            self.project.add(f'workflows/{workflow.name}.py', workflow_source(workflow))
            source['workflows'].append(workflow.name)
            source['jobs'] += len(workflow.jobs)
        source['unwritten'] = translator.unwritten
        if not jobs.is_empty:
            self.project.add(f'jobs/{stem}.py', jobs.text(f'The jobs of {path}, made by `pinrail import airflow`.'))
            self._uses_context |= jobs.uses_context
        return source

    def _evaluated(self, module: Module, world: AirflowWorld) -> Optional[Evaluator]:
        """The variables of a module beside the file, for what the file takes from it."""
        # What is wrong in it is told where it is imported itself.
        found = parsed(module.path, Report())
        if found is None:
            return None
        is_package = os.path.basename(module.path) == '__init__.py'
        package = module.name if is_package else module.name.rpartition('.')[0]
        ev = Evaluator(module.path, *found, world, self.report, package)
        ev.module.names['__dotted__'] = module.name
        ev.run()
        return ev
