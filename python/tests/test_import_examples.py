"""The numbers of docs/importing.md about Airflow's own example DAGs, where those are at hand.

``PINRAIL_AIRFLOW_EXAMPLES`` names a folder with the packages of the table as they are after ``pip download --no-deps``
and ``unzip``, each in a folder such as ``apache_airflow-2.11.2``.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import Files

from pinrail.importing import _operators
from pinrail.importing._airflow import Dag, Task
from pinrail.importing._project import Job, Workflow
from pinrail.importing._report import LEFT_OUT
from pinrail.importing._run import run

PAGE = Path(__file__).parents[2] / 'docs' / 'importing.md'
ROW = re.compile(r'^\| (apache-airflow\S*) (\S+) \| ([\d |]+) \| passes \|$', re.MULTILINE)
ROWS = [
    (name, version, [int(one) for one in numbers.split('|')])
    for name, version, numbers in ROW.findall(PAGE.read_text())
]
EXAMPLES = os.environ.get('PINRAIL_AIRFLOW_EXAMPLES')


class Counting(_operators.DagTranslator):
    """Says of each DAG and each task what became of it."""

    dags: Counter[str] = Counter()
    tasks: Counter[str] = Counter()

    def _count_left_out(self) -> int:
        return sum(note.level == LEFT_OUT for note in self.report.notes())

    def workflow(self, dag: Dag) -> Workflow:
        before = self._count_left_out()
        made = super().workflow(dag)
        self.dags['whole' if self._count_left_out() == before else 'in part'] += 1
        return made

    def _job(self, task: Task, workflow: Workflow) -> Job:
        before, unwritten = self._count_left_out(), self.unwritten
        made = super()._job(task, workflow)
        word = 'not' if self.unwritten > unwritten else 'whole' if self._count_left_out() == before else 'in part'
        self.tasks[word] += 1
        return made


def test_the_table_of_the_page_is_found() -> None:
    assert len(ROWS) == 3 and all(len(numbers) == 6 for _, _, numbers in ROWS)


@pytest.mark.skipif(EXAMPLES is None, reason='PINRAIL_AIRFLOW_EXAMPLES names no folder with the packages')
@pytest.mark.parametrize('name, version, numbers', ROWS, ids=[f'{name} {version}' for name, version, _ in ROWS])
def test_what_becomes_of_airflows_own_examples(
    files: Files, monkeypatch: pytest.MonkeyPatch, name: str, version: str, numbers: list[int]
) -> None:
    package = Path(str(EXAMPLES)) / f'{name.replace("-", "_")}-{version}'
    (folder,) = (one for one in package.rglob('example_dags') if one.is_dir())
    counting: Any = type('Counting', (Counting,), {'dags': Counter[str](), 'tasks': Counter[str]()})
    monkeypatch.setattr('pinrail.importing._run.DagTranslator', counting)
    run('airflow', [str(folder)], str(files.root / 'into'), new=True)
    tasks = counting.tasks
    found = [sum(counting.dags.values()), counting.dags['whole'], sum(tasks.values())]
    assert found + [tasks['whole'], tasks['in part'], tasks['not']] == numbers
    assert Files(files.root / 'into').compile()['diagnostics'] == []
