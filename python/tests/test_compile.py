"""What workflow files compile to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import JOBS, Files, environment

SEED = (
    "workflow = {template(name='jobA',class='jobs.example.examplejobA'):[],\n"
    "\t\t\t\ttemplate(name='jobB',class='jobs.example.examplejobB'):[\"jobA\"],\n"
    '\t\t\t    template(name=\'jobC\',class=\'jobs.example.examplejobC\'):["jobA","jobB"]}\n'
)
SEED_TYPED = """
from pinrail import template

workflow = {
    template(name='jobA', class_='jobs.example.examplejobA'): [],
    template(name='jobB', class_='jobs.example.examplejobB'): ['jobA'],
    template(name='jobC', class_='jobs.example.examplejobC'): ['jobA', 'jobB'],
}
"""
SEED_JOBS = """
class examplejobA:
    def execute(self, ctx): ...

class examplejobB:
    def execute(self, ctx): ...

class examplejobC:
    def execute(self, ctx): ...
"""


def without_sources(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_sources(one) for key, one in value.items() if key != 'source'}  # pyright: ignore
    if isinstance(value, list):
        return [without_sources(one) for one in value]  # pyright: ignore
    return value


def one(compiled: dict[str, Any]) -> dict[str, Any]:
    assert compiled['diagnostics'] == []
    (workflow,) = compiled['workflows']
    return workflow


def test_the_seed_loads_byte_for_byte_and_means_the_same_as_its_typed_copy(files: Files) -> None:
    files.write({'workflows/seed.py': SEED, 'jobs/example.py': SEED_JOBS})
    seed = one(files.compile())
    assert [(job['name'], job['class'], job['after']) for job in seed['jobs']] == [
        ('jobA', 'jobs.example.examplejobA', []),
        ('jobB', 'jobs.example.examplejobB', ['jobA']),
        ('jobC', 'jobs.example.examplejobC', ['jobA', 'jobB']),
    ]
    assert [job['source'] for job in seed['jobs']] == [{'file': 'workflows/seed.py', 'line': n} for n in (1, 2, 3)]
    files.write({'workflows/seed.py': SEED_TYPED})
    typed = one(files.compile())
    assert without_sources(typed) == without_sources(seed)
    subprocess.run([sys.executable, '-m', 'py_compile', str(files.root / 'workflows/seed.py')], check=True)


def test_columns_of_the_seed_spelling_are_those_of_the_file(files: Files) -> None:
    files.write({'workflows/seed.py': SEED.replace('examplejobC', 'examplejobX'), 'jobs/example.py': SEED_JOBS})
    (found,) = files.compile()['diagnostics']
    assert found['line'] == 3
    assert found['source'] == SEED.split('\n')[2].replace('examplejobC', 'examplejobX')
    assert found['source'][found['column'] - 1 :][: found['width']] == "'jobs.example.examplejobX'"


def test_a_whole_document(files: Files) -> None:
    files.write(
        {
            'workflows/flights.py': """
                from datetime import date
                from decimal import Decimal

                from pinrail import Param, Shell, Sql, Table, Workflow, cron, template

                load = template(name='load', class_='jobs.load.One', memory='512MB', retries=2, secrets=['ftp'])
                workflow = Workflow({
                    load: [],
                    template(name='day', sql=Sql(text='select 1'), timeout='1h30m', warn_after=90, priority=5,
                             writes=Table('marts.day', partition={'day': '{{ ds }}'})): load,
                    template(name='clean', shell='rm -f x', run_if='all_done', may_fail=True,
                             retry_on='timeout', retry_delay='1.5s', env={'A': 'b'}, secret_env={'PW': 'pw'}): {'day', 'load'},
                    template(name='words', shell=['ls', '-l'], params={'until': date(2013, 1, 2)}): (load, 'day'),
                }, schedule=cron('0 6 * * mon-fri', tz='America/New_York', covers='day', start=date(2013, 1, 1)),
                   owner='anna', description='flights of New York',
                   params={'least': Param(int, default=500, help='fewer is odd'),
                           'day': Param(date, default='2013-01-02'),
                           'rate': Param(Decimal, default=Decimal('0.10'), choices=['0.10', Decimal('0.2')])},
                   defaults={'retries': 1, 'executor': 'sql', 'env': {'A': 'a', 'Z': 'z'}})
                """,
            'jobs/load.py': JOBS,
        }
    )
    plain: dict[str, Any] = {
        'executor': None,
        'run_if': 'all_succeeded',
        'retries': 1,
        'retry_delay_seconds': None,
        'retry_on': None,
        'memory_bytes': None,
        'warn_after_seconds': None,
        'timeout_seconds': 7,
        'cleanup_timeout_seconds': None,
        'may_fail': False,
        'secrets': [],
        'secret_env': {},
        'env': {'A': 'a', 'Z': 'z'},
        'writes': None,
        'params': {},
        'priority': 0,
        'description': None,
        'owner': None,
    }

    def job(name: str, kind: str, line: int, **more: Any) -> dict[str, Any]:
        targets: dict[str, Any] = {'class': None, 'sql': None, 'shell': None}
        return {
            'name': name,
            'kind': kind,
            **targets,
            'after': [],
            **plain,
            'source': {'file': 'workflows/flights.py', 'line': line},
            **more,
        }

    assert one(files.compile({'retries': 4, 'timeout': 7})) == {
        'format': 1,
        'workflow': 'flights',
        'description': 'flights of New York',
        'owner': 'anna',
        'params': {
            'least': {'type': 'int', 'required': False, 'default': 500, 'help': 'fewer is odd', 'choices': None},
            'day': {'type': 'date', 'required': False, 'default': '2013-01-02', 'help': '', 'choices': None},
            'rate': {'type': 'decimal', 'required': False, 'default': '0.10', 'help': '', 'choices': ['0.10', '0.2']},
        },
        'schedule': {
            'kind': 'cron',
            'cron': '0 6 * * mon-fri',
            'tz': 'America/New_York',
            'covers': 'day',
            'start': '2013-01-01',
            'end': None,
        },
        'source': {'file': 'workflows/flights.py', 'line': 7},
        'jobs': [
            job(
                'load',
                'class',
                6,
                **{'class': 'jobs.load.One'},
                memory_bytes=512_000_000,
                retries=2,
                secrets=['ftp'],
            ),
            job(
                'day',
                'sql',
                9,
                sql={'text': 'select 1'},
                after=['load'],
                executor='sql',
                timeout_seconds=5400,
                warn_after_seconds=90,
                priority=5,
                writes=[{'table': 'marts.day', 'partition': {'day': '{{ ds }}'}, 'mode': 'replace'}],
            ),
            job(
                'clean',
                'shell',
                11,
                shell=['sh', '-c', 'rm -f x'],
                after=['load', 'day'],
                run_if='all_done',
                may_fail=True,
                retry_on=['timeout'],
                retry_delay_seconds=1.5,
                env={'A': 'b', 'Z': 'z'},
                secret_env={'PW': 'pw'},
                secrets=['pw'],
            ),
            job('words', 'shell', 13, shell=['ls', '-l'], after=['load', 'day'], params={'until': '2013-01-02'}),
        ],
    }


def test_every_and_no_schedule(files: Files) -> None:
    files.write(
        {
            'workflows/a.py': "workflow = Workflow({template(name='x', shell='true'): []}, schedule=every('1h'))\n",
            'workflows/b.py': "workflow = {template(name='x', shell='true'): []}\n",
        }
    )
    a, b = files.compile()['workflows']
    assert a['schedule'] == {
        'kind': 'interval',
        'every_seconds': 3600,
        'tz': 'UTC',
        'covers': 'between-fires',
        'start': None,
        'end': None,
    }
    assert b['schedule'] is None


def test_schedules_and_limits_that_say_more(files: Files) -> None:
    files.write(
        {
            'workflows/a.py': """
                workflow = Workflow({
                    template(name='x', shell='true', pools='reports', key='{{ params.n }}', labels={'gpu', 'big'}): [],
                    template(name='y', shell='true', pools={'reports': 2}, concurrency=1): [],
                    template(name='z', shell='true', pools=['a', 'b']): [],
                }, schedule=cron('0 6 * * *', catch_up='all', jitter='5m',
                                 blackout=['2026-12-25', ('2026-12-24', '2027-01-01')]),
                   overrun='delay', max_active=2, concurrency=9, params={'n': Param(int, default=1)})
                """,
            'workflows/b.py': """
                workflow = Workflow({template(name='x', shell='true'): []}, overrun='start-new',
                                    schedule=once('2026-12-24T06:00', tz='Europe/Berlin', covers='day'))
                """,
        }
    )
    a, b = files.compile()['workflows']
    assert [a[key] for key in ('overrun', 'max_active', 'concurrency')] == ['delay', 2, 9]
    assert a['schedule'] == {
        'kind': 'cron',
        'cron': '0 6 * * *',
        'tz': 'UTC',
        'covers': 'between-fires',
        'start': None,
        'end': None,
        'catch_up': 'all',
        'jitter_seconds': 300,
        'blackout': [['2026-12-25', '2026-12-25'], ['2026-12-24', '2027-01-01']],
    }
    names = ('pools', 'concurrency', 'key', 'labels')
    x, y, z = ({name: job[name] for name in names if name in job} for job in a['jobs'])
    assert x == {'pools': {'reports': 1}, 'key': '{{ params.n }}', 'labels': ['big', 'gpu']}
    assert y == {'pools': {'reports': 2}, 'concurrency': 1}
    assert z == {'pools': {'a': 1, 'b': 1}}
    assert b['schedule'] == {
        'kind': 'once',
        'at': '2026-12-24T06:00:00',
        'tz': 'Europe/Berlin',
        'covers': 'day',
        'start': None,
        'end': None,
    }
    assert not {'overrun', 'max_active', 'concurrency'} & set(b)


def test_several_and_generated_workflows(files: Files) -> None:
    files.write(
        {
            'workflows/_common.py': """
                def chain(count):
                    jobs = [template(name=f'j{n}', shell=['echo', str(n)]) for n in range(count)]
                    return Workflow({job: jobs[:n][-1:] for n, job in enumerate(jobs)})
                """,
            'workflows/team/many.py': """
                from workflows._common import chain

                workflows = {f'chain_{n}': chain(n) for n in (1, 2, 3)}
                workflows['plain'] = {template(name='x', shell='true'): []}
                """,
        }
    )
    compiled = files.compile()
    assert compiled['diagnostics'] == []
    assert [workflow['workflow'] for workflow in compiled['workflows']] == ['chain_1', 'chain_2', 'chain_3', 'plain']
    assert [job['after'] for job in compiled['workflows'][2]['jobs']] == [[], ['j0'], ['j1']]
    assert compiled['workflows'][0]['source'] == {'file': 'workflows/_common.py', 'line': 3}


def test_a_class_and_a_function_themselves_as_class_(files: Files) -> None:
    files.write(
        {
            'workflows/a.py': """
                from jobs.load import One, hello
                workflow = {template(name='one', class_=One): [], template(name='hello', class_=hello): 'one'}
                """,
            'jobs/load.py': JOBS + '\ndef hello(ctx): ...\n',
        }
    )
    assert [job['class'] for job in one(files.compile())['jobs']] == ['jobs.load.One', 'jobs.load.hello']


def compile_process(root: Path, *more: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, '-m', 'pinrail.compile', '--root', str(root), *more]
    return subprocess.run(command, env=environment(**env), capture_output=True, text=True)


def test_the_output_is_one_document_whatever_the_hash_seed_and_what_files_print(files: Files) -> None:
    names = [f'job_{n}' for n in range(12)]
    lines = ''.join(f"    template(name='{name}', shell='true', secrets={{'a', 'b', 'c'}}): [],\n" for name in names)
    files.write(
        {
            'workflows/sets.py': 'import os\nprint("hello")\nos.system("echo from a child")\nworkflow = {\n'
            + lines
            + f"    template(name='last', shell='true'): {{{', '.join(map(repr, names))}}},\n"
            + "    template(name='wrong', shell='true'): {'x1', 'x2', 'x3', 'x4'},\n}\n"
            + "workflows = {'ok': {template(name='a', shell='true'): [], template(name='b', shell='true'): {'a'}}}\n"
        }
    )
    first, second = (compile_process(files.root, PYTHONHASHSEED=seed) for seed in ('1', '2'))
    assert (first.returncode, first.stdout) == (0, second.stdout)
    assert first.stdout.count('\n') == 1
    assert sorted(first.stderr.split('\n')) == ['', 'from a child', 'hello']
    document = json.loads(first.stdout)
    assert [found['message'][-4:] for found in document['diagnostics']] == ['"x1"', '"x2"', '"x3"', '"x4"']
    assert [workflow['workflow'] for workflow in document['workflows']] == ['ok']
    assert list((files.root / 'workflows').iterdir()) == [files.root / 'workflows/sets.py']


def test_defaults_come_as_json(files: Files) -> None:
    files.write({'workflows/a.py': "workflow = {template(name='a', shell='true'): []}\n"})
    done = compile_process(files.root, '--project', 'p', '--defaults', '{"memory": "1GiB"}')
    assert json.loads(done.stdout)['workflows'][0]['jobs'][0]['memory_bytes'] == 1 << 30


def test_extras_are_those_of_the_project(files: Files) -> None:
    files.write(
        {
            'workflows/a.py': """
workflow = {
    template(name='a', shell='true', extras='ml'): [],
    template(name='b', shell='true', extras={'ml', 'gpu'}): [],
    template(name='c', shell='true', extras=[]): [],
    template(name='d', shell='true', extras=['gpus']): [],
    template(name='e', sql='a.sql', extras=['ml']): [],
}
""",
            'a.sql': 'select 1',
        }
    )
    done = compile_process(files.root, '--extras', '["gpu", "ml"]')
    compiled = json.loads(done.stdout)
    assert [(found['code'], found['line'], found['hint']) for found in compiled['diagnostics']] == [
        ('unknown-extra', 5, 'did you mean "gpu"?'),
        ('unknown-extra', 6, None),
    ]
    jobs = {job['name']: job.get('extras') for job in compiled['sketches'][0]['jobs']}
    assert jobs == {'a': ['ml'], 'b': ['gpu', 'ml'], 'c': None}
    wrong = compile_process(files.root, '--extras', '["ml"]', '--defaults', '{"extras": "mk"}')
    found = json.loads(wrong.stdout)['diagnostics'][0]
    assert (found['file'], found['message']) == ('pinrail.toml', 'extra "mk" of the defaults is none of the project\'s')
    # Nobody knows which there are: whoever runs the job will.
    assert [found['line'] for found in json.loads(compile_process(files.root).stdout)['diagnostics']] == [6]


@pytest.mark.parametrize(
    'words', [['--rot', '.'], ['--root'], ['--root', '/nowhere/at/all'], ['--root', '.', '--defaults', '[']]
)
def test_wrong_usage_is_exit_code_2(words: list[str]) -> None:
    done = subprocess.run([sys.executable, '-m', 'pinrail.compile', *words], env=environment(), capture_output=True)
    assert (done.returncode, done.stdout) == (2, b'')


def test_a_watched_compilation_tells_what_it_loads_and_ends_what_takes_too_long(files: Files) -> None:
    files.write(
        {
            'workflows/a.py': "workflow = {template(name='a', shell='true'): []}\n",
            'workflows/b.py': 'import time\ntry:\n    time.sleep(60)\nexcept Exception:\n    pass\n',
            'workflows/c.py': 'import os\nos._exit(7)\n',
        }
    )
    done = compile_process(files.root, '--watched', '1')
    assert done.returncode == 7
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{'loading': f'workflows/{n}.py'} for n in 'abc']
    files.write({'workflows/c.py': ''})
    done = compile_process(files.root, '--watched', '1')
    document = json.loads(done.stdout.splitlines()[-1])
    assert [workflow['workflow'] for workflow in document['workflows']] == ['a']
    late = document['diagnostics'][0]
    assert (late['code'], late['file'], late['line']) == ('import-timeout', 'workflows/b.py', 3)
    assert late['message'] == 'workflows/b.py cannot be loaded: importing it takes longer than 1 s'


def test_an_error_for_want_of_a_network_says_so(files: Files) -> None:
    files.write({'workflows/a.py': 'import errno\nraise OSError(errno.ENETUNREACH, "Network is unreachable")\n'})
    (found,) = files.compile()['diagnostics']
    assert (found['line'], found['hint']) == (2, 'workflow files are loaded without a network; do this in a job')


def test_a_job_is_mapped_over_an_output_of_another(files: Files) -> None:
    files.write(
        {
            'workflows/w.py': """
                listing = template(name='listing', shell='true')
                workflow = {
                    listing: [],
                    template(name='load', shell='true', map='listing.files', max_instances=20, concurrency=4): 'listing',
                    template(name='again', shell='true', map=listing.output('files')): [listing],
                }
                """
        }
    )
    (made,) = files.compile()['workflows']
    listing, load, again = made['jobs']
    assert 'map' not in listing and 'max_instances' not in load
    assert load['map'] == {'job': 'listing', 'output': 'files', 'max_instances': 20}
    assert again['map'] == {'job': 'listing', 'output': 'files'}


def test_what_is_wrong_with_a_map_is_told_at_its_place(files: Files) -> None:
    files.write(
        {
            'workflows/w.py': """
                workflow = {
                    template(name='listing', shell='true'): [],
                    template(name='a', shell='true', map='listing.files'): [],
                    template(name='b', shell='true', map='lsting.files'): ['listing'],
                    template(name='c', shell='true', map=['x']): ['listing'],
                    template(name='d', shell='true', map='listing.my files'): ['listing'],
                    template(name='e', shell='true', map='listing.files', max_instances=10_001): ['listing'],
                    template(name='f', shell='true', max_instances=2): ['listing'],
                }
                """
        }
    )
    found = [(one['line'], one['code'], one['message'], one['hint']) for one in files.compile()['diagnostics']]
    form = "write map='listing.files': a job that it waits for and the name of an output"
    assert found == [
        (
            3,
            'bad-map',
            'job "a" is mapped over "listing.files" and does not wait for "listing"',
            "add it to what the job waits for: template(...): ['listing']",
        ),
        (
            4,
            'bad-map',
            'job "b" is mapped over "lsting.files" and does not wait for "lsting"',
            'did you mean "listing"?',
        ),
        (5, 'wrong-type', 'setting "map" of job "c" must be a job and an output of it, not [\'x\']', form),
        (
            6,
            'wrong-type',
            'setting "map" of job "d" must be a job and an output of it, and an output\'s name "my files" must begin with a'
            ' letter or underscore and go on with letters, digits, underscores or hyphens',
            None,
        ),
        (
            7,
            'wrong-type',
            'setting "max_instances" of job "e" must be a whole number of 10000 or less, not 10001',
            None,
        ),
        (8, 'bad-map', 'job "f" has a limit of instances and is not mapped over anything', form),
    ]
