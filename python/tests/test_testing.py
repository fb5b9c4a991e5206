"""``pinrail.testing.project``: its own parts always, its work with the binary where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from conftest import JOBS, Files

from pinrail import UserError
from pinrail.testing import PinrailMissing, create_table, literal, project

needs_binary = pytest.mark.skipif(
    not (os.environ.get('PINRAIL_BIN') or shutil.which('pinrail')),
    reason='no pinrail binary: set PINRAIL_BIN to run the tests that need one',
)


@pytest.mark.parametrize(
    ('value', 'expected'),
    [
        (None, 'null'),
        (True, 'true'),
        (5, 'cast(5 as bigint)'),
        (1.5, "cast('1.5' as double)"),
        (Decimal('1.50'), "cast('1.50' as decimal(3, 2))"),
        (Decimal('0.001'), "cast('0.001' as decimal(4, 3))"),
        (Decimal('1E+3'), "cast('1000' as decimal(4, 0))"),
        ("it's", "'it''s'"),
        (date(2013, 1, 1), "date '2013-01-01'"),
        (datetime(2013, 1, 1, 6), "timestamp '2013-01-01 06:00:00.000000'"),
        (
            datetime(2013, 1, 1, 6, tzinfo=timezone.utc),
            "cast('2013-01-01T06:00:00.000000Z' as timestamp with time zone)",
        ),
        (b'\x00\xff', "x'00ff'"),
    ],
)
def test_literals(value: Any, expected: str) -> None:
    assert literal(value) == expected


def test_tables_are_made_by_one_statement() -> None:
    rows = [{'a': 1, 'b': None}, {'a': None, 'b': 'x'}]
    assert create_table('raw.t', rows) == (
        'create table raw.t as select * from (values (cast(1 as bigint), null), (null, \'x\')) as t("a", "b")'
    )
    with pytest.raises(UserError, match='has no rows'):
        create_table('t', [])


FAKE = """#!%s
import json, os, sys
words = sys.argv[1:]
with open(os.path.join(os.path.dirname(sys.argv[0]), 'calls'), 'a') as file:
    file.write(json.dumps([os.getcwd(), *words]) + '\\n')
if words[0] == 'run':
    print(json.dumps({'id': 'run_1', 'state': 'failed', 'tasks': [
        {'name': 'load', 'state': 'failed', 'attempts': [{'number': 1, 'state': 'failed', 'fault': 'data'}]}]}))
    sys.exit(1)
if words[0] == 'sql':
    print(json.dumps({'columns': [{'name': 'n', 'type': 'long'}], 'rows': [[1]]}))
if words[0] == 'tables':
    print(json.dumps({'items': [{'namespace': 'marts', 'name': 'daily'}]}))
if words[0] == 'logs':
    print('a line')
if words[0] == 'explain':
    print(json.dumps({'items': [{'job': 'load', 'failure': {'message': 'too few rows'}}], 'next': None}))
if words[0] == 'secret':
    with open(os.path.join(os.path.dirname(sys.argv[0]), 'secret'), 'w') as file:
        file.write(words[2] + '=' + sys.stdin.read())
    print('{}')
"""


def test_the_commands_that_a_project_runs(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / 'bin' / 'pinrail'
    fake.parent.mkdir()
    fake.write_text(FAKE % sys.executable)
    fake.chmod(0o755)
    monkeypatch.setenv('PINRAIL_BIN', str(fake))
    files.write(
        {
            'pinrail.toml': '',
            'workflows/flights.py': "workflow = {template(name='load', class_='jobs.load.One'): []}\n",
            'jobs/load.py': JOBS,
            'tests/few.csv': 'few',
            'data/flights.csv': 'many',
            '.git/x': '',
        }
    )
    monkeypatch.chdir(files.root / 'jobs')
    p = project(files={'data/flights.csv': 'tests/few.csv'}, tables={'raw.x': [{'a': 1}]}, secrets={'ftp': 'a b'})
    assert Path(p.folder, 'data/flights.csv').read_text() == 'few'
    assert (files.root / 'data/flights.csv').read_text() == 'many' and not Path(p.folder, '.git').exists()
    result = p.run_job('load', ds=date(2013, 1, 1), params={'n': 5, 's': 'x', 'd': date(2013, 1, 2)})
    assert (result.state, result.fault, result.outputs) == ('failed', 'data', {})
    assert (fake.parent / 'secret').read_text() == 'ftp=a b\n'
    assert repr(result) == "Result(state='failed', fault='data', message='too few rows', outputs={})"
    assert result.rows('marts.daily')[0].n == 1 and result.logs == 'a line\n' and p.tables() == ['marts.daily']
    with pytest.raises(UserError, match='no workflow has a job "laod"'):
        p.run_job('laod')
    state = ['--state', p.state, '--json']
    run = [
        'run',
        'flights',
        '--job',
        'load',
        '--upstream',
        '{}',
        '--at',
        '2013-01-01',
        '--param',
        'n=5',
        '--param',
        's=x',
        '--param',
        'd=2013-01-02',
    ]
    calls = [__import__('json').loads(line) for line in (fake.parent / 'calls').read_text().splitlines()]
    assert calls == [
        [p.folder, 'sql', 'create schema if not exists raw', *state],
        [p.folder, 'sql', 'create table raw.x as select * from (values (cast(1 as bigint))) as t("a")', *state],
        [p.folder, 'secret', 'set', 'ftp', *state],
        [p.folder, *run, *state],
        [p.folder, 'explain', 'run_1', '--job', 'load', *state],
        [p.folder, 'sql', 'select * from marts.daily', *state],
        [p.folder, 'logs', 'run_1', '--state', p.state],
        [p.folder, 'tables', *state],
    ]


def test_an_interpreter_within_the_project_is_called_where_it_is(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PINRAIL_BIN', sys.executable)
    files.write({'pinrail.toml': '[python]\n  interpreter = ".venv/bin/python"  # ours\n'})
    venv = files.root / '.venv/bin'
    venv.mkdir(parents=True)
    (venv / 'python').symlink_to(sys.executable)
    p = project(root=files.root)
    named = Path(p.folder, '.venv/bin/python')
    assert subprocess.run([named, '-c', 'print(6 * 7)'], stdout=subprocess.PIPE, text=True).stdout == '42\n'


def test_without_a_binary_it_says_what_to_do(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('PINRAIL_BIN', raising=False)
    monkeypatch.setenv('PATH', '/nowhere')
    with pytest.raises(PinrailMissing) as caught:
        project(root=files.root)
    assert caught.value.hint == 'set PINRAIL_BIN to its path, or run pinrail test'


@needs_binary
def test_a_job_on_the_real_engine(files: Files) -> None:
    files.write(
        {
            'pinrail.toml': '',
            'workflows/w.py': "workflow = {template(name='day', sql='sql/day.sql'): []}\n",
            'sql/day.sql': '-- writes: marts.day partition (day = {{ ds }})\nselect count(*) as n from raw.x\n',
        }
    )
    p = project(root=files.root, tables={'raw.x': [{'a': 1, 'd': Decimal('1.50')}, {'a': 2, 'd': None}]})
    result = p.run_job('day', ds='2013-01-01')
    assert result.state == 'succeeded'
    assert [tuple(row) for row in result.rows('marts.day')] == [(2, date(2013, 1, 1))]
    assert p.tables() == ['marts.day', 'raw.x']
