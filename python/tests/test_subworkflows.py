"""Jobs that are runs of workflows, as workflow files and jobs write them."""

from __future__ import annotations

from typing import Any

import pytest

from pinrail import DefinitionError, Param, RunWorkflow, Workflow, template
from pinrail._document import document


def jobs(workflow: Workflow) -> list[dict[str, Any]]:
    made, _ = document(workflow, 'w', {})
    assert made is not None
    return made['jobs']


def test_the_document_has_the_workflow_and_none_of_the_defaults_of_processes() -> None:
    check = template(name='check', workflow='quality', params={'day': '{{ ds }}'}, key='{{ ds }}')
    defaults = {'pools': 'small', 'memory': '1GB', 'retries': 2}
    [job] = jobs(Workflow({check: []}, params={'day': Param(str, default='')}, defaults=defaults))
    assert (job['kind'], job['workflow'], job['params']) == ('workflow', 'quality', {'day': '{{ ds }}'})
    assert job['retries'] == 2
    assert not job.get('pools') and not job.get('memory_bytes')


@pytest.mark.parametrize('setting', [{'memory': '1GB'}, {'pools': 'p'}, {'writes': 'raw.t'}])
def test_what_says_nothing_of_a_run_is_refused(setting: dict[str, str]) -> None:
    with pytest.raises(DefinitionError, match='its work is a run of a workflow'):
        template(name='check', workflow='quality', **setting)  # pyright: ignore[reportArgumentType]


def test_a_spec_names_a_workflow_and_its_parameters() -> None:
    spec = RunWorkflow('quality', {'rows': 7})
    assert spec.to_json() == {'kind': 'workflow', 'workflow': 'quality', 'params': {'rows': 7}}
    with pytest.raises(DefinitionError, match='the name of a workflow; it "qua lity" must begin'):
        RunWorkflow('qua lity')
