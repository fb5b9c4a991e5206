"""What the tests of importers share: an import in a folder of its own, and its jobs run over a context of the test."""

from __future__ import annotations

import importlib
import sys
from datetime import date, datetime, timezone
from types import SimpleNamespace
from typing import Any, Callable

from conftest import Files

from pinrail.importing._run import run


class Imported:
    """A project that was made of one or more files."""

    def __init__(self, files: Files, tool: str, sources: dict[str, str]) -> None:
        files.write({f'from/{name}': text for name, text in sources.items()})
        self.root = files.root / 'into'
        self.document = run(tool, [str(files.root / 'from')], str(self.root), new=True)
        self.compiled = Files(self.root).compile()
        assert self.compiled['diagnostics'] == [], self.compiled['diagnostics']
        self.workflows: dict[str, Any] = {one['workflow']: one for one in self.compiled['workflows']}

    @property
    def workflow(self) -> dict[str, Any]:
        (one,) = self.workflows.values()
        return one

    @property
    def jobs(self) -> dict[str, Any]:
        """The jobs of the only workflow, by name."""
        return {job['name']: job for job in self.workflow['jobs']}

    @property
    def edges(self) -> set[str]:
        """The edges of the only workflow, as ``before>after``."""
        return {f'{above}>{name}' for name, job in self.jobs.items() for above in job['after']}

    def conditions(self, job: str) -> list[dict[str, Any]]:
        """What a job waits for or asks, without what is said of when and how long."""
        return [one['that'] for one in self.jobs[job].get('wait_for', [])]

    def notes(self, level: str = 'left-out') -> list[str]:
        """The notes of a level: line and what."""
        return [f'{note["line"]}: {note["what"]}' for note in self.document['notes'] if note['level'] == level]

    def text(self, path: str) -> str:
        return (self.root / path).read_text(encoding='utf-8')

    def play(self, **given: Any) -> Played:
        """Runs the Python jobs of the only workflow in order."""
        return Played(self, **given)


class Played:
    """The Python jobs of a workflow, run one after the other in this process: their outputs, and what they returned."""

    def __init__(self, imported: Imported, **given: Any) -> None:
        self.outputs: dict[str, dict[str, Any]] = {}
        self.returned: dict[str, Any] = {}
        self.errors: dict[str, Exception] = {}
        sys.path.insert(0, str(imported.root))
        before = set(sys.modules)
        sys.dont_write_bytecode = True
        try:
            left = dict(imported.jobs)
            while left:
                name = next(name for name, job in left.items() if not set(job['after']) & set(left))
                job = left.pop(name)
                self.outputs[name] = {}
                if job['kind'] == 'class':
                    self._one(name, job, given)
        finally:
            sys.path.remove(str(imported.root))
            for name in set(sys.modules) - before:
                if name.partition('.')[0] in ('jobs', 'common', 'shared'):
                    del sys.modules[name]

    def _one(self, name: str, job: dict[str, Any], given: dict[str, Any]) -> None:
        module, _, function = job['class'].rpartition('.')
        run_job: Callable[[Any], Any] = getattr(importlib.import_module(module), function)
        if isinstance(run_job, type):
            run_job = run_job().execute
        try:
            self.returned[name] = run_job(self._ctx(name, job, given))
        except Exception as error:
            self.errors[name] = error

    def _ctx(self, name: str, job: dict[str, Any], given: dict[str, Any]) -> Any:
        upstream = {
            one: SimpleNamespace(state='succeeded', outputs=given.get('upstream', {}).get(one, self.outputs[one]))
            for one in job['after']
        }
        return SimpleNamespace(
            ds=date(2024, 5, 1),
            interval=SimpleNamespace(
                start=datetime(2024, 5, 1, tzinfo=timezone.utc), end=datetime(2024, 5, 2, tzinfo=timezone.utc)
            ),
            params=given.get('params', {}),
            upstream=upstream,
            run=SimpleNamespace(id='run_1', url=None),
            attempt=SimpleNamespace(id='att_1', number=1),
            workflow='w',
            job=name,
            output=self.outputs[name].__setitem__,
            secret=given.get('secret'),
        )


def _file(name: str) -> str:
    """The name of a file that is given as the name of an argument: ``old_jobs__py``."""
    return name[:-4] + '.py' if name.endswith('__py') else name


def airflow(files: Files, text: str, **more: str) -> Imported:
    """An import of one DAG file, ``dags.py``, and of others beside it."""
    return Imported(files, 'airflow', {'dags.py': text, **{_file(name): one for name, one in more.items()}})


def pinball(files: Files, text: str, **more: str) -> Imported:
    return Imported(files, 'pinball', {'workflows.py': text, **{_file(name): one for name, one in more.items()}})
