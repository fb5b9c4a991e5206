"""Who is told of what: the settings ``notify`` and ``sla`` of a workflow."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from conftest import Files, environment

from pinrail._diagnostics import render_diagnostics

USUAL = {event: ['ops'] for event in ('first-failure', 'recovery', 'slow', 'sla-at-risk', 'sla-missed')}


def compiled(files: Files, settings: str, project: Any) -> dict[str, Any]:
    """The compilation of a workflow with these settings, in a project with these channels."""
    text = f"from pinrail import Workflow, template\nworkflow = Workflow({{\n    template(name='a', shell='true'): [],\n}}, {settings})\n"
    files.write({'workflows/w.py': text})
    command = [sys.executable, '-m', 'pinrail.compile', '--root', str(files.root), '--notify', json.dumps(project)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ('settings', 'on', 'expected'),
    [
        ("notify='ops'", {}, USUAL),
        ("notify=['ops']", {}, USUAL),
        ("notify={'failure': ['ops', 'boss', 'ops']}", {}, {'failure': ['ops', 'boss']}),
        ("notify={'failure': {'ops', 'boss'}}", {}, {'failure': ['boss', 'ops']}),
        ('', {'failure': ['boss']}, {'failure': ['boss']}),
        ("notify={'slow': 'ops'}", {'failure': ['boss']}, {'failure': ['boss'], 'slow': ['ops']}),
        ("notify={'failure': []}", {'failure': ['boss'], 'slow': ['ops']}, {'slow': ['ops']}),
        ('notify={}', {}, None),
    ],
)
def test_a_workflow_names_channels_and_the_project_fills_in(
    files: Files, settings: str, on: dict[str, list[str]], expected: Any
) -> None:
    found = compiled(files, settings, {'channels': ['ops', 'boss'], 'on': on})
    assert found['diagnostics'] == []
    (document,) = found['workflows']
    assert document.get('notify') == expected


def test_an_sla_is_a_duration(files: Files) -> None:
    (document,) = compiled(files, "sla='1h30m'", {'channels': [], 'on': {}})['workflows']
    assert document['sla_seconds'] == 5400


@pytest.mark.parametrize(
    ('settings', 'code', 'message', 'hint', 'marked'),
    [
        (
            "notify={'failure': ['opps']}",
            'unknown-channel',
            'setting "notify" of a workflow names a channel that pinrail.toml does not declare: "opps"',
            'did you mean "ops"?',
            "'opps'",
        ),
        (
            "notify={'failed': 'ops'}",
            'wrong-type',
            'setting "notify" of a workflow must be a dict of events to channels, and "failed" is no event',
            'did you mean "failure"?',
            "{'failed': 'ops'}",
        ),
        (
            'notify=3',
            'wrong-type',
            'setting "notify" of a workflow must be names of channels, or a dict of events to them, not 3',
            None,
            '3',
        ),
        ('sla=0', 'wrong-type', 'setting "sla" of a workflow must be a duration above zero, not 0', None, '0'),
    ],
)
def test_mistakes_have_a_caret_and_a_hint(
    files: Files, settings: str, code: str, message: str, hint: Any, marked: str
) -> None:
    found = compiled(files, settings, {'channels': ['ops'], 'on': {}})
    assert found['workflows'] == []
    (one,) = found['diagnostics']
    assert (one['code'], one['message'], one['hint']) == (code, message, hint), render_diagnostics([one])
    assert one['source'][one['column'] - 1 :][: one['width']] == marked
