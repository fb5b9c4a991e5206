"""What DAG files of Airflow become."""

from __future__ import annotations

import subprocess
from typing import Any, Optional

import pytest
from conftest import Files
from importing import airflow

from pinrail import Shell, UserError
from pinrail.importing import _jinja
from pinrail.importing._run import run


def test_a_dag_as_a_context_with_operators_and_default_args(files: Files) -> None:
    made = airflow(
        files,
        """
        from datetime import datetime, timedelta
        from airflow import DAG
        from airflow.operators.bash import BashOperator
        from airflow.operators.empty import EmptyOperator

        with DAG(
            'shop', description='The shop', schedule='0 6 * * *', start_date=datetime(2024, 1, 1), catchup=False,
            default_args={'owner': 'anna', 'retries': 2, 'retry_delay': timedelta(minutes=3)}, tags=['x'],
            max_active_runs=1,
        ) as dag:
            load = BashOperator(task_id='load', bash_command='echo load', execution_timeout=timedelta(hours=1))
            check = BashOperator(task_id='check', bash_command='echo check', retries=0, priority_weight=5, pool='db')
            done = EmptyOperator(task_id='done', trigger_rule='all_done')
            load >> check >> done
        """,
    )
    assert made.workflow['workflow'] == 'shop'
    assert made.workflow['description'] == 'The shop'
    schedule = made.workflow['schedule']
    # The first interval of Airflow begins at 06:00 and ends, which is when it is run, a day later.
    assert (schedule['cron'], schedule['start'], schedule['tz']) == ('0 6 * * *', '2024-01-02', 'UTC')
    jobs = made.jobs
    assert [job['shell'] for job in jobs.values()] == [
        ['bash', '-c', 'echo load'],
        ['bash', '-c', 'echo check'],
        ['true'],
    ]
    assert made.edges == {'load>check', 'check>done'}
    assert [(job['retries'], job['retry_delay_seconds'], job['owner']) for job in jobs.values()] == [
        (2, 180, 'anna'),
        (0, 180, 'anna'),
        (2, 180, 'anna'),
    ]
    assert jobs['load']['timeout_seconds'] == 3600
    # The weight of a task counts for those above it too.
    assert [job['priority'] for job in jobs.values()] == [7, 6, 0]
    assert jobs['check']['pools'] == {'db': 1}
    assert jobs['done']['run_if'] == 'all_done'
    assert made.workflow['max_active'] == 1
    assert made.notes() == []
    assert made.notes('changed') == ['12: pool "db" has no slots until it is set: jobs that name it wait']
    assert made.notes('cosmetic') == ['6: tags of DAG "shop"']


def test_every_way_to_say_what_waits_for_what(files: Files) -> None:
    made = airflow(
        files,
        """
        from airflow import DAG
        from airflow.models.baseoperator import chain, cross_downstream
        from airflow.operators.bash import BashOperator
        from airflow.utils.edgemodifier import Label

        dag = DAG('edges', schedule=None)
        a, b, c, d, e, f, g, h = [BashOperator(task_id=name, bash_command=':', dag=dag) for name in 'abcdefgh']
        a >> [b, c]
        d << b
        [b, c] >> e
        f.set_upstream([d, e])
        f.set_downstream(g)
        g >> Label('ok') >> h
        tasks = {name: BashOperator(task_id=f'n_{name}', bash_command=':', dag=dag) for name in ('1', '2', '3', '4')}
        chain(tasks['1'], [tasks['2'], tasks['3']], tasks['4'])
        cross_downstream([a, b], [g, h])
        """,
    )
    assert made.edges == {
        *('a>b', 'a>c', 'b>d', 'b>e', 'c>e', 'd>f', 'e>f', 'f>g', 'g>h'),
        *('n_1>n_2', 'n_1>n_3', 'n_2>n_4', 'n_3>n_4'),
        *('a>g', 'a>h', 'b>g', 'b>h'),
    }
    assert made.notes() == []


def test_taskflow_functions_become_jobs_that_pass_on_their_results(files: Files) -> None:
    made = airflow(
        files,
        """
        import json
        from airflow.decorators import dag, task

        FACTOR = 10

        def times(value):
            return value * FACTOR

        @dag(schedule='@daily', catchup=False)
        def numbers(limit: int = 3):
            @task
            def extract(limit):
                '''Reads.

                  An indented line.
                '''
                return {'values': list(range(limit))}

            @task(multiple_outputs=True, retries=4)
            def total(data: dict, *, name):
                text = '''
            kept as it is'''
                return {'total': times(sum(data['values'])), 'name': json.dumps(name), 'text': text}

            @task
            def tell(total, name, pair):
                print(total, name)

            summed = total(extract(limit), name='x')
            tell(summed['total'], summed['name'], [summed['text'], 1])
            tell.override(task_id='again')(1, 2, 3)
            tell(4, 5, 6)

        numbers()
        """,
    )
    assert made.edges == {'extract>total', 'total>tell'}
    assert set(made.jobs) == {'extract', 'total', 'tell', 'again', 'tell__1'}
    assert made.jobs['total']['retries'] == 4
    assert made.workflow['params']['limit'] == {
        'type': 'int',
        'required': False,
        'default': 3,
        'help': '',
        'choices': None,
    }
    played = made.play(params={'limit': 4})
    assert played.errors == {}
    assert played.outputs['extract'] == {'return_value': {'values': [0, 1, 2, 3]}}
    assert played.outputs['total'] == {'return_value': {'total': 60, 'name': '"x"', 'text': '\n    kept as it is'}}
    text = made.text('jobs/dags.py')
    assert text.startswith('# The jobs of ')
    assert 'airflow' not in text.split('\n', 1)[1]
    assert "def tell_job(ctx):\n    tell(\n        ctx.upstream['total'].outputs['return_value']['total']," in text
    assert 'FACTOR = 10\n' in text
    assert "    '''Reads.\n\n      An indented line.\n    '''\n" in text
    assert made.notes() == []


def test_task_groups_give_names_and_edges(files: Files) -> None:
    made = airflow(
        files,
        """
        from airflow import DAG
        from airflow.decorators import task, task_group
        from airflow.operators.empty import EmptyOperator
        from airflow.utils.task_group import TaskGroup

        @task
        def work(n):
            return n

        @task_group
        def pair(n):
            return work(work(n))

        with DAG('groups', schedule=None):
            start = EmptyOperator(task_id='start')
            with TaskGroup('outer', default_args={'retries': 3}) as outer:
                one = EmptyOperator(task_id='one')
                with TaskGroup(group_id='inner') as inner:
                    two = EmptyOperator(task_id='two')
                    three = EmptyOperator(task_id='three')
                with TaskGroup('flat', prefix_group_id=False):
                    EmptyOperator(task_id='free')
                one >> inner
            end = EmptyOperator(task_id='end')
            start >> outer >> end
            for n in range(2):
                pair(n)
        """,
    )
    assert made.edges == {
        *('start>outer_one', 'start>outer_free', 'outer_one>outer_inner_two', 'outer_one>outer_inner_three'),
        *('outer_inner_two>end', 'outer_inner_three>end', 'outer_free>end'),
        *('pair_work>pair_work__1', 'pair__1_work>pair__1_work__1'),
    }
    assert made.jobs['outer_inner_two']['retries'] == 3
    assert made.notes() == []


def test_files_are_programs_that_make_dags(files: Files) -> None:
    made = airflow(
        files,
        """
        from airflow import DAG
        from airflow.operators.bash import BashOperator

        TEAMS = {'red': '@daily', 'blue': None}

        def make(team, schedule, *, suffix='_load'):
            with DAG(team + suffix, schedule=schedule, catchup=False) as dag:
                previous = None
                for step, name in enumerate(sorted(['b', 'a'])):
                    if step == 5:
                        continue
                    task = BashOperator(task_id=f'{name}_{step:02d}', bash_command='echo {}'.format(team.upper()))
                    if previous:
                        previous >> task
                    previous = task
                return dag

        for team, schedule in TEAMS.items():
            globals()[f'dag_{team}'] = make(team, schedule)
        """,
    )
    assert sorted(made.workflows) == ['blue_load', 'red_load']
    red = made.workflows['red_load']
    assert [(job['name'], job['after'], job['shell'][2]) for job in red['jobs']] == [
        ('a_00', [], 'echo RED'),
        ('b_01', ['a_00'], 'echo RED'),
    ]
    assert made.workflows['blue_load']['schedule'] is None
    assert made.notes() == []


def test_nothing_of_a_file_is_run_and_what_only_a_run_knows_is_told(files: Files) -> None:
    touched = files.root / 'touched'
    made = airflow(
        files,
        f"""
        import os
        from datetime import datetime
        from airflow import DAG
        from airflow.models import Variable
        from airflow.operators.bash import BashOperator

        open({str(touched)!r}, 'w').write('ran')
        os.system('touch {touched}')
        STAGE = os.environ.get('STAGE')

        with DAG('known', schedule='@daily', start_date=datetime.now(), catchup=False) as dag:
            for name in Variable.get('names', deserialize_json=True):
                BashOperator(task_id=name, bash_command='x')
            if STAGE == 'prod':
                BashOperator(task_id='prod', bash_command='x')
            else:
                BashOperator(task_id='dev', bash_command='x')
            BashOperator(task_id='say', bash_command=Variable.get('command'))
            BashOperator(task_id=f'{{STAGE}}_task', bash_command='x')
            make_more_tasks(dag)
        """,
    )
    assert not touched.exists()
    assert set(made.jobs) == {'prod', 'dev', 'say'}
    assert made.notes() == [
        '11: start_date: datetime.now() is the clock at the moment of the import',
        "12: for name in Variable.get('names', deserialize_json=True):...: a loop over \"Variable.get('names', "
        'deserialize_json=True)", which is only known at run time',
        '18: BashOperator "say": its command is only known at run time (the Airflow variable \'command\')',
        '19: a BashOperator whose task_id is only known at run time '
        '(a text with parts that are only known at run time)',
        '20: make_more_tasks(dag): "make_more_tasks" is not defined in the file',
    ]
    assert made.notes('changed') == [
        '14: the condition "STAGE == \'prod\'" is only known at run time: what stands below it is translated both ways'
    ]
    played = made.play()
    assert isinstance(played.errors['say'], UserError)


def test_tasks_that_only_a_run_makes_are_told_wherever_they_stand(files: Files) -> None:
    made = airflow(
        files,
        """
        import yaml
        from airflow.decorators import dag, task, task_group
        from airflow.models.dag import DAG
        from airflow.operators.bash import BashOperator
        from dbt_tasks import DbtTasks, add_tests

        def make(name):
            with DAG(name, schedule=None):
                BashOperator(task_id='a', bash_command='x')

        for name in yaml.safe_load(open('names.yaml')):
            make(name)

        @dag(schedule=None)
        def known():
            @task
            def one(x, y=1):
                return x

            @task_group
            def pair(x):
                return one(x)

            given = one(1)
            a = one.expand_kwargs([{'x': 1}])
            b = pair.expand(x=[1, 2])
            c = DbtTasks(group_id='models')
            d = add_tests(given)
            e = given.map(len)

        known()
        """,
    )
    assert set(made.jobs) == {'one'}
    assert [note.split('(')[0] for note in made.notes()] == [
        '11: for name in yaml.safe_load',
        '25: a = one.expand_kwargs',
        '26: b = pair.expand',
        '27: c = DbtTasks',
        '28: d = add_tests',
        '29: e = given.map',
    ]


SCHEDULES: list[tuple[str, Optional[dict[str, Any]], Optional[str]]] = [
    ("schedule='@daily'", {'cron': '0 0 * * *'}, None),
    ("schedule_interval='@hourly'", {'cron': '0 * * * *'}, None),
    ("schedule='@quarterly'", {'cron': '0 0 1 */3 *'}, None),
    ("schedule='5/15 * * * mon-fri'", {'cron': '5-59/15 * * * mon-fri'}, None),
    (
        "schedule='30 6 * * *', start_date=datetime(2024, 1, 2, 7), end_date=datetime(2024, 2, 2, 6)",
        {'start': '2024-01-04', 'end': '2024-02-02'},
        None,
    ),
    ("schedule='@daily', end_date=datetime(9999, 12, 31)", {'end': '9999-12-31'}, None),
    ('schedule=timedelta(hours=4)', {'every_seconds': 14400}, None),
    ("schedule='@daily', start_date=datetime(2024, 1, 2)", {'start': '2024-01-03'}, None),
    (
        "schedule='@daily', start_date=pendulum.datetime(2024, 1, 2, tz='Europe/Paris'), end_date=datetime(2025, 1, 1)",
        {'tz': 'Europe/Paris', 'start': '2024-01-03', 'end': '2025-01-02'},
        None,
    ),
    ("timetable=CronDataIntervalTimetable('0 1 * * *', timezone='UTC')", {'cron': '0 1 * * *'}, None),
    ('schedule=None', None, None),
    ("schedule='@once'", None, 'schedule "@once"'),
    ("schedule='0 6 * *'", None, 'schedule "0 6 * *": cron expression "0 6 * *" has 4 fields: 5 are needed'),
    ("schedule=[Dataset('x')]", None, 'schedule a list of DAG "d"'),
    ('schedule=EventsTimetable([])', None, 'schedule EventsTimetable of DAG "d"'),
]


@pytest.mark.parametrize('given, expected, note', SCHEDULES)
def test_schedules(files: Files, given: str, expected: Optional[dict[str, Any]], note: Optional[str]) -> None:
    made = airflow(
        files,
        f"""
        from datetime import datetime, timedelta
        import pendulum
        from airflow import DAG
        from airflow.datasets import Dataset
        from airflow.operators.empty import EmptyOperator
        from airflow.timetables.events import EventsTimetable
        from airflow.timetables.interval import CronDataIntervalTimetable

        with DAG('d', catchup=False, {given}):
            EmptyOperator(task_id='a')
        """,
    )
    schedule = made.workflow['schedule']
    if expected is None:
        assert schedule is None
    else:
        assert {key: schedule[key] for key in expected} == expected
    assert [one.partition(' ')[2] for one in made.notes()] == ([] if note is None else [note])


def test_what_airflow_does_by_default_and_pinrail_does_not_is_told(files: Files) -> None:
    made = airflow(
        files,
        """
        from airflow import DAG
        from airflow.operators.empty import EmptyOperator

        with DAG('d', schedule='@daily'):
            EmptyOperator(task_id='a', retries=1)
        with DAG('e'):
            EmptyOperator(task_id='a')
        """,
    )
    # Airflow 2 makes up for what was missed where nothing is said.
    assert made.workflows['d']['schedule']['catch_up'] == 'all'
    assert made.notes() == []
    assert made.notes('changed') == [
        '6: the DAG names no schedule, which means each day in Airflow 2: it has none here'
    ]
    assert made.workflows['d']['jobs'][0]['retry_delay_seconds'] == 300


LIMITS: list[tuple[str, str, dict[str, Any], dict[str, Any], list[str]]] = [
    (
        "schedule='@daily', max_active_runs=3, max_active_tasks=8",
        "pool='a b', pool_slots=2, max_active_tis_per_dag=1",
        {'max_active': 3, 'concurrency': 8},
        {'pools': {'a_b': 2}, 'concurrency': 1},
        ['changed 6: pool "a b" is pool "a_b" here and has no slots until it is set: jobs that name it wait'],
    ),
    (
        'schedule=None, max_active_runs=1, concurrency=2',
        "pool='default_pool', task_concurrency=4",
        {'concurrency': 2},
        {'concurrency': 4},
        ['left-out 5: max_active_runs=1 of DAG "d": runs by hand are not limited'],
    ),
    (
        "schedule='@daily', max_active_runs=LIMIT, default_args={'pool': 'p'}",
        'pool_slots=2, weight_rule=WeightRule.ABSOLUTE, priority_weight=4',
        {},
        {'pools': {'p': 1}, 'priority': 4},
        [
            'left-out 5: max_active_runs of DAG "d": "LIMIT" is not defined in the file',
            'changed 5: pool "p" has no slots until it is set: jobs that name it wait',
            'left-out 6: pool_slots=2 of task "a": a job without a pool takes one slot of a worker',
        ],
    ),
]


@pytest.mark.parametrize('of_dag, of_task, workflow, job, notes', LIMITS)
def test_pools_limits_and_weights(
    files: Files, of_dag: str, of_task: str, workflow: dict[str, Any], job: dict[str, Any], notes: list[str]
) -> None:
    made = airflow(
        files,
        f"""
        from airflow import DAG
        from airflow.operators.empty import EmptyOperator
        from airflow.utils.weight_rule import WeightRule

        with DAG('d', catchup=False, {of_dag}):
            EmptyOperator(task_id='a', {of_task}) >> EmptyOperator(task_id='b')
        """,
    )
    assert {key: made.workflow.get(key) for key in workflow} == workflow
    assert {key: made.jobs['a'].get(key) for key in job} == job
    assert [f'{note["level"]} {note["line"]}: {note["what"]}' for note in made.document['notes']] == notes


def test_mails_and_slas_of_all_tasks_are_a_channel_and_the_workflows_notify(files: Files) -> None:
    made = airflow(
        files,
        """
        from datetime import datetime, timedelta
        from airflow import DAG
        from airflow.operators.empty import EmptyOperator

        GIVEN = {'email': ['anna@example.org', 'ops@example.org'], 'sla': timedelta(hours=2), 'depends_on_past': True}
        with DAG('late', schedule='@daily', start_date=datetime(2024, 1, 1), default_args=GIVEN, catchup=True):
            EmptyOperator(task_id='a') >> EmptyOperator(task_id='b', email='x@example.org', email_on_failure=False)
        with DAG('quiet', schedule=None, default_args={**GIVEN, 'email_on_failure': False, 'email_on_retry': False}):
            EmptyOperator(task_id='a')
        """,
    )
    late = made.workflows['late']
    assert (late['notify'], late['sla_seconds']) == ({'failure': ['anna'], 'sla-missed': ['anna']}, 7200)
    assert late['overrun'] == 'delay-until-success'
    assert (late['schedule']['catch_up'], late['schedule']['start']) == ('all', '2024-01-02')
    assert made.text('pinrail.toml').split('\n', 3)[3] == (
        '[notify.anna]\nkind = "email"\nto = ["anna@example.org", "ops@example.org"]\n'
    )
    assert made.notes('changed') == [
        '6: catchup: the first deploy makes the runs from 2024-01-02 on, as Airflow does where it has made none',
        '6: depends_on_past of task "a" and 1 more: a run waits until the one before has succeeded as a whole',
        '7: email_on_failure=False of task "b": its failures are told as the others are',
    ]
    assert made.notes() == [
        '7: email=\'x@example.org\' of task "b"',
        '8: sla=datetime.timedelta(seconds=7200) of default_args of DAG "quiet"',
        '8: depends_on_past=True of default_args of DAG "quiet"',
    ]


RULES = [
    ('all_success', 'all_succeeded', 'none'),
    ('all_done', 'all_done', 'none'),
    ('none_failed', 'none_failed', 'none'),
    ('one_failed', 'any_failed', 'changed'),
    ('none_failed_min_one_success', 'none_failed', 'changed'),
    ('always', 'all_done', 'changed'),
    ('one_success', 'none_failed', 'changed'),
    ('none_skipped', 'all_succeeded', 'left-out'),
    ('all_skipped', 'all_succeeded', 'left-out'),
]


@pytest.mark.parametrize('rule, run_if, level', RULES)
def test_trigger_rules(files: Files, rule: str, run_if: str, level: str) -> None:
    made = airflow(
        files,
        f"""
        from airflow import DAG
        from airflow.operators.empty import EmptyOperator
        from airflow.utils.trigger_rule import TriggerRule

        with DAG('d', schedule=None):
            EmptyOperator(task_id='a') >> EmptyOperator(task_id='b', trigger_rule=TriggerRule.{rule.upper()})
        """,
    )
    assert made.jobs['b']['run_if'] == run_if
    assert len(made.notes('changed')) == (level == 'changed')
    assert len(made.notes()) == (level == 'left-out')


COMMANDS = [
    ('echo {{ ds }}', 'echo ${PINRAIL_DS}', '2024-05-01'),
    ('echo \'{{ ds }} it\' "{{ ds }}"', 'echo \'\'"${PINRAIL_DS}"\' it\' "${PINRAIL_DS}"', '2024-05-01 it 2024-05-01'),
    ('echo {{ ds_nodash }} # it\'s "{{ ds }}', 'echo ${PINRAIL_DS//-/} # it\'s "${PINRAIL_DS}', '20240501'),
    ("echo \\'{{ params.city }}\\'", "echo \\'${PINRAIL_PARAM_CITY}\\'", "'a b'"),
    ("echo {# gone #}{{ params['city'] }}", 'echo ${PINRAIL_PARAM_CITY}', 'a b'),
]


@pytest.mark.parametrize('template, expected, printed', COMMANDS)
def test_templates_of_commands_are_variables_in_every_quote(template: str, expected: str, printed: str) -> None:
    made = _jinja.command(template, {'city'}, lambda task, key: '')
    assert made.text == expected
    environment = {'PINRAIL_DS': '2024-05-01', 'PINRAIL_PARAM_CITY': 'a b', 'PATH': '/usr/bin:/bin'}
    done = subprocess.run(['bash', '-c', made.text], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.rstrip('\n') == printed


def test_commands_read_what_other_jobs_have_left(files: Files) -> None:
    made = airflow(
        files,
        """
        from airflow import DAG
        from airflow.operators.bash import BashOperator
        from airflow.operators.python import PythonOperator

        with DAG('d', schedule=None, params={'city': 'Rome'}):
            give = BashOperator(task_id='give', bash_command="echo a; echo 'last line'")
            take = BashOperator(
                task_id='take',
                bash_command="echo {{ ti.xcom_pull(task_ids='give') }} '{{ macros.ds_add(ds, 7) }}' {{ params.city }}",
                env={'MONTH': '{{ logical_date.strftime("%m") }}', 'PLAIN': 'x'},
            )
            give >> take
            BashOperator(task_id='late', bash_command=f'echo {give.output} {take.output}')
            BashOperator(task_id='bad', bash_command='echo "{{ var.value.bucket }}"')
            BashOperator(task_id='loop', bash_command='{% for i in range(3) %} echo {{ i }} {% endfor %}')
            BashOperator(task_id='plain', bash_command='echo {{ params.country }}', env={'A': 'b'}, cwd='/tmp/x y')
        """,
    )
    assert made.edges == {'give>take', 'give>late', 'take>late'}
    give = made.jobs['give']['shell']
    assert give[:2] == ['bash', '-c']
    assert give[2].endswith('pinrail output --text return_value "$(tail -n 1 "$TMPDIR/stdout")"')
    played = made.play(upstream={'give': {'return_value': 'last line'}, 'take': {'return_value': 'x'}})
    take = played.returned['take']
    assert isinstance(take, Shell)
    assert take.env == {'VALUE_1': 'last line', 'VALUE_2': '2024-05-08', 'MONTH': '05', 'PLAIN': 'x'}
    environment = {**take.env, 'PINRAIL_PARAM_CITY': 'Rome', 'TMPDIR': str(files.root), 'PATH': '/usr/bin:/bin'}
    # The command goes on to leave its last line, which needs a server.
    done = subprocess.run(take.command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert done.stdout == 'last line 2024-05-08 Rome\n'
    assert isinstance(played.errors['loop'], UserError)
    bad = made.jobs['bad']['shell']
    done = subprocess.run(bad, stderr=subprocess.PIPE, text=True)
    assert done.returncode != 0
    assert 'AIRFLOW_VAR_VALUE_BUCKET: is not translated from Airflow' in done.stderr
    plain = made.jobs['plain']
    assert plain['env'] == {'A': 'b'}
    assert plain['shell'][2].startswith("cd '/tmp/x y' && {")
    assert [note.partition(':')[0] for note in made.notes()] == ['14', '15', '16']


def test_python_operators_call_their_functions(files: Files) -> None:
    made = airflow(
        files,
        """
        import logging
        from datetime import timedelta
        from functools import partial
        from typing import Any, Optional
        from airflow.models import TaskInstance
        from airflow import DAG
        from airflow.exceptions import AirflowException
        from airflow.operators.python import PythonOperator, get_current_context

        log = logging.getLogger(__name__)
        def limits():
            return {'low': int('1')}

        LIMITS = limits()

        def helper(value):
            log.info(value)
            return value + LIMITS['low']

        def add(a: Any, b: Optional[int] = 2, *, c: TaskInstance) -> Any:
            return helper(a + b + c)

        def seen(ds, ti, number, **context):
            ti.xcom_push(key='a key', value=[ds, number, context['run_id'], sorted(context['params'])])

        def pulled(**kwargs):
            return kwargs['ti'].xcom_pull(task_ids='seen', key='a key')

        def now():
            if not get_current_context()['ds']:
                raise AirflowException('no date')
            return get_current_context()['ds_nodash']

        async def later():
            return 'later'

        def many():
            yield 1
            yield 2

        with DAG('d', schedule=None, params={'x': 1}):
            PythonOperator(task_id='add', python_callable=add, op_args=[1], op_kwargs={'c': 3})
            PythonOperator(task_id='seen', python_callable=seen, op_kwargs={'number': timedelta(days=2).days})
            PythonOperator(task_id='pulled', python_callable=pulled)
            PythonOperator(task_id='now', python_callable=now)
            PythonOperator(task_id='short', python_callable=lambda: {'a': LIMITS['low']})
            PythonOperator(task_id='later', python_callable=later)
            PythonOperator(task_id='partial', python_callable=partial(add, 1, c=1), op_args=[3])
            PythonOperator(task_id='many', python_callable=many)
            PythonOperator(task_id='quiet', python_callable=add, op_args=[1], op_kwargs={'c': 1}, do_xcom_push=False)
            PythonOperator(task_id='dated', python_callable=print, op_args=['{{ ds }}', '{{ params.x }} {{ run_id }}'])
            PythonOperator(task_id='missing', python_callable=add, op_args=[1, 2, 3, 4])
        """,
    )
    assert made.edges == {'seen>pulled'}
    played = made.play(params={'x': 1})
    outputs = {name: one.get('return_value') for name, one in played.outputs.items() if one}
    assert outputs == {
        'add': 7,
        'seen': None,
        'pulled': ['2024-05-01', 2, 'run_1', ['x']],
        'now': '20240501',
        'short': {'a': 1},
        'later': 'later',
        'partial': 6,
        'many': [1, 2],
    }
    assert played.outputs['seen'] == {'a_key': ['2024-05-01', 2, 'run_1', ['x']]}
    assert isinstance(played.errors['dated'], UserError)
    assert set(played.errors) == {'dated', 'missing'}
    assert 'from airflow' not in made.text('jobs/dags.py')
    assert 'from typing import Any, Optional\n' in made.text('jobs/dags.py')


def test_functions_of_other_modules_are_imported(files: Files) -> None:
    made = airflow(
        files,
        """
        import tools.load
        from airflow import DAG
        from airflow.operators.python import PythonOperator
        from json import dumps as shown
        from tools.store import main

        with DAG('d', schedule=None):
            PythonOperator(task_id='a', python_callable=main, op_args=['x'])
            PythonOperator(task_id='b', python_callable=tools.load.main)
            PythonOperator(task_id='c', python_callable=shown, op_args=[1])
        """,
    )
    text = made.text('jobs/dags.py')
    assert 'from tools.store import main\n' in text
    assert 'from tools.load import main as main_2\n' in text
    assert 'from json import dumps\n' in text
    assert "ctx.output('return_value', main('x'))" in text
    assert "ctx.output('return_value', main_2())" in text
    assert made.notes('changed') == ['8: a job imports "tools"']


def test_functions_of_one_name_and_values_around_them_stay_apart(files: Files) -> None:
    made = airflow(
        files,
        """
        from airflow.decorators import dag, task

        def make(name, factor):
            @dag(dag_id=name, schedule=None)
            def build():
                @task
                def work():
                    return factor * 2

                work()

            return build()

        make('one', 1)
        make('two', 2)

        @dag(schedule=None)
        def three():
            @task
            def work():
                return 'three'

            work()

        three()
        """,
    )
    text = made.text('jobs/dags.py')
    outputs: list[Any] = []
    for name in ('one', 'two', 'three'):
        workflow = made.workflows[name]
        made.workflows = {name: workflow}
        outputs.append(made.play().outputs['work']['return_value'])
        made.workflows = {one['workflow']: one for one in made.compiled['workflows']}
    assert outputs == [2, 4, 'three'], text


def test_mapped_tasks_are_one_job_that_goes_through_the_list(files: Files) -> None:
    made = airflow(
        files,
        """
        from airflow import DAG
        from airflow.decorators import task
        from airflow.operators.bash import BashOperator

        with DAG('d', schedule=None):
            @task
            def items():
                return [1, 2]

            @task
            def times(n, by):
                return n * by

            @task
            def total(values):
                return sum(values)

            total(times.partial(by=10).expand(n=items()))
            BashOperator.partial(task_id='each').expand(bash_command=['echo 1', 'echo 2'])
        """,
    )
    played = made.play()
    assert played.outputs['times'] == {'return_value': [10, 20]}
    assert played.outputs['total'] == {'return_value': 30}
    assert isinstance(played.errors['each'], UserError)
    assert made.notes('changed') == [
        '18: task "times" is mapped over a list: it is one job that goes through the list in order'
    ]
    assert made.notes() == ['19: BashOperator "each": its tasks are made at run time, one for each item']


def test_what_has_no_counterpart_is_a_job_that_fails_and_a_note(files: Files) -> None:
    made = airflow(
        files,
        """
        from airflow import DAG
        from airflow.operators.latest_only import LatestOnlyOperator
        from airflow.operators.empty import EmptyOperator
        from airflow.providers.amazon.aws.sensors.s3 import S3KeySensor
        from airflow.providers.http.sensors.http import HttpSensor
        from airflow.providers.amazon.aws.operators.s3 import S3ListOperator

        class OwnOperator(EmptyOperator):
            def execute(self, context):
                return 1

        with DAG('d', schedule=None):
            key = S3KeySensor(task_id='key', bucket_key='s3://b/k', poke_interval=30)
            http = HttpSensor(task_id='http', endpoint='x', response_check=lambda r: 'yes' in r.text)
            latest = LatestOnlyOperator(task_id='latest')
            own = OwnOperator(task_id='own')
            s3 = S3ListOperator(task_id='s3', bucket='b')
            [key, http] >> latest >> [own, s3] >> EmptyOperator(task_id='a')
        """,
    )
    assert set(made.jobs) == {'key', 'http', 'latest', 'own', 's3', 'a'}
    assert 'latest>own' in made.edges and 's3>a' in made.edges
    assert made.notes() == [
        '13: S3KeySensor "key": there is no condition like it',
        '14: HttpSensor "http": the host of connection \'http_default\' is not in the file',
        '15: LatestOnlyOperator "latest": it chooses which tasks run',
        '16: OwnOperator "own": its class is the file\'s own and derives from EmptyOperator',
        '17: S3ListOperator "s3": it is an operator without a counterpart',
    ]
    todos = [note['todo'] for note in made.document['notes']]
    assert all(todos)
    assert todos[1] == 'write wait_for=Url("https://HOST/x", contains=\'yes\')'
    assert todos[2] == "let the job leave whether those below it go on: ctx.output('goes_on', True)"
    # The jobs below ask for what the one that is to be written will leave.
    assert made.conditions('own') == [{'kind': 'when', 'expression': 'upstream.latest.goes_on'}]
    assert made.conditions('a') == []
    assert [(one['jobs'], one['unwritten']) for one in made.document['sources']] == [(6, 5)]
    errors = made.play().errors
    assert set(errors) == {'key', 'http', 'latest', 'own', 's3'}
    assert 'dags.py:13 is not translated: there is no condition like it' in str(errors['key'])


def test_operators_of_ones_own_are_made_by_their_jobs(files: Files) -> None:
    made = airflow(
        files,
        """
        from airflow import DAG
        from airflow.models.baseoperator import BaseOperator
        from shared.operators import Twice

        PLUS = 1

        class Add(BaseOperator):
            template_fields = ('day',)

            def __init__(self, amount, day, **kwargs):
                super().__init__(**kwargs)
                self.amount = amount
                self.day = day

            def execute(self, context):
                from airflow.exceptions import AirflowException
                if self.amount < 0:
                    raise AirflowException('too small')
                self.log.info('adding')
                self.xcom_push(context, 'day', self.day)
                return self.amount + PLUS

        with DAG('d', schedule=None):
            add = Add(task_id='add', amount=1, day='{{ ds }}', retries=2)
            Twice(task_id='twice', value=add.output)
            Add(task_id='fails', amount=-1, day='')
        """,
        **{
            'shared/operators.py': """
                from airflow.models.baseoperator import BaseOperator

                class Twice(BaseOperator):
                    def __init__(self, value, *args, **kwargs):
                        super().__init__(*args, **kwargs)
                        self.value = value

                    def execute(self, context):
                        return 2 * self.value
                """
        },
    )
    assert made.notes() == []
    assert made.edges == {'add>twice'}
    assert made.jobs['add']['retries'] == 2
    played = made.play()
    assert played.outputs['add'] == {'day': '2024-05-01', 'return_value': 2}
    assert played.outputs['twice'] == {'return_value': 4}
    assert {name: str(error) for name, error in played.errors.items()} == {'fails': 'too small'}


def test_what_functions_need_of_airflow_is_told(files: Files) -> None:
    made = airflow(
        files,
        """
        import pandas
        from airflow import DAG
        from airflow.decorators import task
        from airflow.models import Variable
        from helpers import clean

        with DAG('d', schedule=None) as dag:
            @task
            def load():
                from airflow.providers.postgres.hooks.postgres import PostgresHook
                return clean(pandas.DataFrame(PostgresHook().get(Variable.get('x'), dag.dag_id)))

            load()
        """,
        helpers__py='def clean(x): return x',
    )
    assert made.notes() == [
        '10: a job uses PostgresHook of Airflow',
        '11: a job uses "dag": a part of a DAG',
        '11: a job reads the Airflow variable "x"',
    ]
    assert made.notes('changed') == ['1: a job imports "pandas"']
    assert made.text('helpers.py') == 'def clean(x): return x'
    assert 'from airflow.providers' in made.text('jobs/dags.py')


def test_variables_are_parameters_or_secrets_and_a_skip_is_a_failure(files: Files) -> None:
    made = airflow(
        files,
        """
        from airflow import DAG
        from airflow.decorators import task
        from airflow.models import Variable

        def city():
            return Variable.get('city')

        with DAG('d', schedule=None, params={'city': 'Rome'}):
            @task
            def declared():
                return city()

            @task
            def default():
                return Variable.get('other', default_var=5)

            @task
            def missing():
                from airflow.exceptions import AirflowSkipException
                if not Variable.get('no'):
                    raise AirflowSkipException()

            @task
            def skips():
                from airflow.exceptions import AirflowSkipException
                raise AirflowSkipException('nothing to do')

            [declared(), default(), missing(), skips()]
        """,
    )

    def secret(name: str) -> str:
        raise UserError(f'no secret "{name}"')

    played = made.play(params={'city': 'Rome'}, secret=secret)
    assert played.outputs['declared'] == {'return_value': 'Rome'}
    assert played.outputs['default'] == {'return_value': 5}
    assert {name: str(error) for name, error in played.errors.items()} == {
        'missing': 'the Airflow variable "no" is neither a parameter of the workflow nor a secret of the job',
        'skips': 'nothing to do',
    }
    assert made.notes() == [
        '6: a job reads the Airflow variable "city"',
        '15: a job reads the Airflow variable "other"',
        '19: a job skips itself: it fails here',
        '20: a job reads the Airflow variable "no"',
        '25: a job skips itself: it fails here',
    ]


def test_modules_beside_the_dag_files_are_followed_and_copied(files: Files) -> None:
    made = airflow(
        files,
        """
        from airflow import DAG
        from airflow.operators.python import PythonOperator
        from common.settings import DEFAULTS, add_job
        from common import texts

        with DAG('d', schedule=None, default_args=DEFAULTS) as dag:
            first = add_job('first', dag)
            PythonOperator(task_id='second', python_callable=texts.shout, op_args=[texts.WORD]) << first
        """,
        **{
            'common/__init__.py': '',
            'common/settings.py': """
                from airflow.operators.python import PythonOperator
                from .texts import shout

                DEFAULTS = {'retries': 3}

                def add_job(name, dag):
                    return PythonOperator(task_id=name, python_callable=shout, op_args=[name], dag=dag, pool='x')
                """,
            'common/texts.py': """
                from common.deep import upper

                WORD = 'word'

                def shout(text):
                    return upper(text)
                """,
            'common/deep.py': """
                from airflow.models import DagModel, Variable
                from airflow.utils.helpers import (
                    chunks,
                )

                class Own(DagModel):
                    pass

                def upper(text):
                    return text.upper() + Variable.get('mark', '!')

                def fails():
                    return chunks([1], 2)
                """,
            'unused.py': 'x = 1\n',
        },
    )
    assert made.edges == {'first>second'}
    assert made.jobs['first']['retries'] == 3
    assert [path for path in made.document['files'] if path.startswith(('common', 'unused'))] == [
        'common/__init__.py',
        'common/deep.py',
        'common/texts.py',
    ]
    assert made.text('common/texts.py').startswith('from common.deep import upper\n')
    assert [(note['file'].rsplit('from/')[1], note['line'], note['what']) for note in made.document['notes']] == [
        ('common/deep.py', 1, 'a job imports "airflow.models.DagModel" through this file'),
        ('common/deep.py', 2, 'a job imports "airflow.utils.helpers.chunks" through this file'),
        ('common/settings.py', 7, 'pool "x" has no slots until it is set: jobs that name it wait'),
    ]
    assert made.text('common/deep.py').split('\n')[5] == 'class Own(DagModel):'

    def secret(name: str) -> str:
        raise UserError(f'no secret "{name}"')

    played = made.play(secret=secret)
    assert played.outputs == {'first': {'return_value': 'FIRST!'}, 'second': {'return_value': 'WORD!'}}


def test_a_command_that_names_a_file_is_the_template_in_it(files: Files) -> None:
    made = airflow(
        files,
        """
        from airflow import DAG
        from airflow.operators.bash import BashOperator

        with DAG('d', schedule=None):
            BashOperator(task_id='template', bash_command='scripts/load.sh')
            BashOperator(task_id='command', bash_command='scripts/load.sh ')
            BashOperator(task_id='missing', bash_command='gone.sh')
        """,
        **{'scripts/load.sh': 'echo {{ ds }}\necho done\n'},
    )
    assert [job['shell'][2] for job in made.jobs.values()] == [
        'echo ${PINRAIL_DS}\necho done',
        'scripts/load.sh ',
        'bash gone.sh',
    ]
    assert made.notes() == ['7: the command of task "missing" is the file gone.sh, which is not beside the DAG file']


def test_sql_operators_become_sql_files(files: Files) -> None:
    made = airflow(
        files,
        """
        from airflow import DAG
        from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
        from airflow.providers.postgres.operators.postgres import PostgresOperator

        with DAG('d', schedule=None, params={'table': 'x'}):
            a = PostgresOperator(task_id='a', postgres_conn_id='db', sql='''
                insert into marts.days select '{{ ds }}' as day, '{{ data_interval_end }}' as until
            ''')
            b = SQLExecuteQueryOperator(task_id='b', conn_id='db', sql='sql/b.sql')
            c = SQLExecuteQueryOperator(task_id='c', sql=['select 1', "select '{{ params.table }}'"])
            d = SQLExecuteQueryOperator(task_id='d', sql='update x set y = 1')
            e = SQLExecuteQueryOperator(task_id='e', sql="select {{ params.table }}, {{ var.value.x }}")
            f = SQLExecuteQueryOperator(task_id='f', sql='create table x (id int primary key)')
            g = SQLExecuteQueryOperator(task_id='g', sql="drop table {{ ti.xcom_pull(task_ids='a') }}")
            a >> [b, c, d, e, f] >> g
        """,
        **{'sql/b.sql': 'select 2;\n'},
    )
    assert [made.jobs[name].get('sql') for name in 'abc'] == [{'file': f'sql/d/{name}.sql'} for name in 'abc']
    assert made.text('sql/d/a.sql').split('\n', 1)[1] == (
        "insert into marts.days select '{{ ds }}' as day, '{{ interval.end }}' as until\n"
    )
    assert made.text('sql/d/b.sql').endswith('\nselect 2;\n')
    assert made.text('sql/d/c.sql').endswith("\nselect 1;\nselect '{{ params.table }}'\n")
    assert [made.jobs[name]['kind'] for name in 'def'] == ['class', 'class', 'class']
    assert made.text('sql/d/d.sql').endswith('\nupdate x set y = 1\n')
    assert made.notes() == [
        '11: SQLExecuteQueryOperator "d": Pinrail has no statement UPDATE',
        '12: SQLExecuteQueryOperator "e": Airflow variables are not there',
        '13: SQLExecuteQueryOperator "f": a table of Pinrail has no PRIMARY KEY',
    ]
    assert made.text('sql/d/g.sql').endswith('\ndrop table {{ upstream.a.return_value }}\n')
    assert 'a>g' in made.edges
    assert [note.split(' of ')[0] for note in made.notes('changed')] == [
        "6: postgres_conn_id='db'",
        "9: conn_id='db'",
        '14: "{{ upstream.a.return_value }}" in the SQL',
    ]


def test_setups_and_teardowns(files: Files) -> None:
    made = airflow(
        files,
        """
        from airflow import DAG
        from airflow.decorators import setup, task, teardown
        from airflow.operators.bash import BashOperator

        with DAG('d', schedule=None):
            make = BashOperator(task_id='make', bash_command='x').as_setup()
            use = BashOperator(task_id='use', bash_command='x')
            remove = BashOperator(task_id='remove', bash_command='x').as_teardown(setups=make)
            make >> use >> remove

            @setup
            def begin():
                return 'cluster'

            @teardown
            def finish(cluster):
                print(cluster)

            @task
            def work():
                print('x')

            with finish(begin()):
                work()
        """,
    )
    assert made.edges == {'make>use', 'use>remove', 'make>remove', 'begin>work', 'begin>finish', 'work>finish'}
    assert [(made.jobs[name]['run_if'], made.jobs[name]['may_fail']) for name in ('remove', 'finish', 'use')] == [
        ('all_done', True),
        ('all_done', True),
        ('all_succeeded', False),
    ]


def test_parameters(files: Files) -> None:
    made = airflow(
        files,
        """
        from airflow import DAG
        from airflow.models.param import Param
        from airflow.operators.bash import BashOperator

        with DAG('d', schedule=None, params={
            'n': 3, 'text': 'x', 'flag': True, 'nothing': None,
            'limit': Param(5, type='integer', enum=[5, 6], description='how many'),
            'needed': Param(type='string'),
            'maybe': Param(None, type=['null', 'string']),
            'listed': ['a'], 'bad name': 1,
        }):
            BashOperator(task_id='a', bash_command='echo {{ params.own }}', params={'own': 'x'})
        """,
    )
    params = made.workflow['params']
    assert {name: (one['type'], one.get('default'), one['required']) for name, one in params.items()} == {
        'n': ('int', 3, False),
        'text': ('str', 'x', False),
        'flag': ('bool', True, False),
        'nothing': ('str', None, False),
        'limit': ('int', 5, False),
        'needed': ('str', None, True),
        'maybe': ('str', None, False),
    }
    assert params['limit']['choices'] == [5, 6]
    assert made.jobs['a']['params'] == {'own': 'x'}
    assert made.jobs['a']['shell'] == ['bash', '-c', 'echo ${PINRAIL_PARAM_OWN}']
    assert len(made.notes()) == 2


def test_names_that_pinrail_does_not_have(files: Files) -> None:
    made = airflow(
        files,
        """
        from airflow import DAG
        from airflow.operators.empty import EmptyOperator

        with DAG('my.dag v2', schedule=None):
            EmptyOperator(task_id='a.b') >> EmptyOperator(task_id='a_b')
        """,
    )
    assert made.workflow['workflow'] == 'my_dag_v2'
    assert made.edges == {'a_b>a_b_2'}
    assert made.notes('changed') == [
        '4: DAG "my.dag v2" is workflow "my_dag_v2" here',
        '5: task "a_b" is job "a_b_2" here',
    ]


def test_arguments_that_nothing_knows_are_told(files: Files) -> None:
    made = airflow(
        files,
        """
        from airflow import DAG
        from airflow.operators.bash import BashOperator

        with DAG('d', schedule=None, brand_new=1, depends_on_past=True):
            BashOperator(task_id='a', bash_command='x', on_failure_callback=print, whatever=[1], depends_on_past=True)
        """,
    )
    assert made.notes() == [
        '4: brand_new=1 of DAG "d"',
        '4: depends_on_past=True of DAG "d"',
        '5: on_failure_callback=a function of task "a"',
        '5: depends_on_past=True of task "a"',
        '5: whatever=[1] of BashOperator "a"',
    ]


def test_airflow_3_names(files: Files) -> None:
    made = airflow(
        files,
        """
        from airflow.sdk import DAG, asset, chain, dag, task, task_group
        from airflow.providers.standard.operators.bash import BashOperator

        @dag(schedule='@daily')
        def new():
            @task.bash(env={'A': '{{ ds }}'})
            def shell():
                return 'echo $A'

            @task.bash
            def read():
                return 'echo last'

            @task
            def tell(text):
                return text

            chain(BashOperator(task_id='a', bash_command='x'), shell(), tell(read()))

        new()

        @asset(schedule=None)
        def numbers():
            return 1
        """,
    )
    assert set(made.workflows) == {'new', 'numbers'}
    assert made.notes() == ['23: outlets=[\'numbers\'] of task "numbers"']
    assert made.notes('changed')[0].startswith('5: a run is about the time before it fires')
    del made.workflows['numbers']
    played = made.play(upstream={'read': {'return_value': 'last'}})
    shell = played.returned['shell']
    assert (shell.command, shell.env) == (['bash', '-c', 'echo $A'], {'A': '2024-05-01'})
    assert 'pinrail output --text return_value' in played.returned['read'].command[2]
    assert played.outputs['tell'] == {'return_value': 'last'}


def test_files_that_are_there_stay_as_they_are(files: Files) -> None:
    files.write(
        {
            'dags/d.py': """
                from airflow import DAG
                from airflow.operators.empty import EmptyOperator

                with DAG('d', schedule=None):
                    EmptyOperator(task_id='a')
                with DAG('e', schedule=None):
                    EmptyOperator(task_id='a')
                """,
            'workflows/e.py': 'workflow = {}\n',
        }
    )
    with pytest.raises(UserError, match='^workflows/e.py exists already: nothing was written$'):
        run('airflow', [str(files.root / 'dags')], str(files.root))
    assert not (files.root / 'workflows/d.py').exists()
    assert (files.root / 'workflows/e.py').read_text() == 'workflow = {}\n'
    with pytest.raises(UserError, match='does not exist'):
        run('airflow', [str(files.root / 'nothing')], str(files.root))
    files.write({'other/x.py': 'x = 1\n'})
    with pytest.raises(UserError, match='no DAG found'):
        run('airflow', [str(files.root / 'other')], str(files.root))


def test_a_project_that_is_there_gets_no_channels(files: Files) -> None:
    files.write(
        {
            'dags/d.py': """
                from airflow import DAG
                from airflow.operators.empty import EmptyOperator

                with DAG('d', schedule=None, default_args={'email': 'anna@example.org'}):
                    EmptyOperator(task_id='a')
                """
        }
    )
    document = run('airflow', [str(files.root / 'dags')], str(files.root))
    assert document['files'] == ['workflows/d.py']
    (note,) = document['notes']
    assert (note['level'], note['what']) == ('left-out', 'email=\'anna@example.org\' of default_args of DAG "d"')
    assert note['todo'].startswith('declare a channel in pinrail.toml ([notify.NAME])')


def test_files_that_cannot_be_parsed_are_told(files: Files) -> None:
    made = airflow(
        files,
        """
        from airflow import DAG
        from airflow.operators.empty import EmptyOperator

        with DAG('d', schedule=None):
            EmptyOperator(task_id='a')
        """,
        broken__py='x = 1\nprint "x"\n',
        endless__py='from airflow import DAG\nwhile True:\n    x = 1\n',
    )
    assert [one.split(':')[0] for one in made.notes()] == ['2']
    assert set(made.workflows) == {'d'}
