"""Sensors of Airflow as conditions and as jobs that look themselves; branches and short circuits as ``when``."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Optional

import pytest
from conftest import Files
from importing import Imported, airflow

HEAD = """
from datetime import datetime, time, timedelta
from airflow import DAG
from airflow.operators.bash import BashOperator
from airflow.operators.empty import EmptyOperator
from airflow.operators.python import BranchPythonOperator, PythonOperator, ShortCircuitOperator
from airflow.operators.weekday import BranchDayOfWeekOperator
from airflow.sensors.bash import BashSensor
from airflow.sensors.date_time import DateTimeSensor
from airflow.sensors.external_task import ExternalTaskMarker, ExternalTaskSensor
from airflow.sensors.filesystem import FileSensor
from airflow.sensors.python import PythonSensor
from airflow.sensors.time_delta import TimeDeltaSensor, TimeDeltaSensorAsync
from airflow.sensors.time_sensor import TimeSensor
from airflow.sensors.weekday import DayOfWeekSensor
from airflow.providers.common.sql.sensors.sql import SqlSensor
from airflow.providers.http.sensors.http import HttpSensor
from airflow.utils.weekday import WeekDay
from airflow.utils.task_group import TaskGroup
"""


def in_dag(files: Files, body: str, dag: str = "DAG('d', schedule=None)") -> Imported:
    lines = ''.join(f'    {line}\n' for line in body.strip('\n').split('\n'))
    return airflow(files, f'{HEAD}\nwith {dag}:\n{lines}')


def file(path: str) -> dict[str, Any]:
    return {'kind': 'file', 'path': path}


def sql(text: str) -> dict[str, Any]:
    return {'kind': 'sql', 'sql': text}


CONDITIONS: list[tuple[str, Optional[dict[str, Any]], Optional[str]]] = [
    ("FileSensor(filepath='in/a.csv')", file('in/a.csv'), None),
    ("FileSensor(filepath='./in/')", file('in/**/*'), None),
    ("FileSensor(filepath='in/{{ ds_nodash }}.csv')", file("in/{{ ds|replace('-', '') }}.csv"), None),
    (
        'FileSensor(filepath=\'in/{{ logical_date.strftime("%Y/%m") }}/x\')',
        file('in/{{ interval.start[:4] }}/{{ interval.start[5:7] }}/x'),
        None,
    ),
    (
        'FileSensor(filepath=\'in/{{ ti.xcom_pull(task_ids="above") }}\')',
        file('in/{{ upstream.above.return_value }}'),
        None,
    ),
    ("FileSensor(filepath='in/{{ macros.random() }}')", None, '"macros.random" has no counterpart'),
    ("SqlSensor(conn_id='x', sql='SELECT count(*) FROM a.t;')", sql('SELECT count(*) > 0 FROM a.t'), None),
    ("SqlSensor(conn_id='x', sql='select count(*) > 5 from a.t')", sql('select count(*) > 5 from a.t'), None),
    ("SqlSensor(conn_id='x', sql='select 1 from a.t')", sql('select true from a.t'), None),
    (
        "SqlSensor(conn_id='x', sql=\"select state from a.t where day = '{{ ds }}'\")",
        sql(
            "select cast(first as varchar) not in ('', '0', '0.0', 'false') "
            "from (select state from a.t where day = '{{ ds }}') as found (first)"
        ),
        None,
    ),
    (
        "SqlSensor(conn_id='x', sql='select case when count(*) > 3 then 1 else 0 end from t')",
        sql(
            "select cast(first as varchar) not in ('', '0', '0.0', 'false') "
            'from (select case when count(*) > 3 then 1 else 0 end from t) as found (first)'
        ),
        None,
    ),
    ("SqlSensor(conn_id='x', sql='select exists(select 1 from t)')", None, 'EXISTS is no value in Pinrail'),
    ("SqlSensor(conn_id='x', sql='select a, b from t')", None, 'its SQL is no SELECT of one value'),
    ("SqlSensor(conn_id='x', sql='select 1', success=lambda n: n > 3)", None, 'success decides with Python'),
    (
        "HttpSensor(endpoint='https://a.example/{{ ds }}', request_params={'q': 'a b'}, "
        "response_check=lambda response: 'ok' in response.text)",
        {'kind': 'http', 'url': 'https://a.example/{{ ds }}?q=a%20b', 'status': 200, 'contains': 'ok'},
        None,
    ),
    (
        "HttpSensor(endpoint='https://a.example/', response_check=lambda r: r.json()['n'] > 1)",
        None,
        'response_check decides with Python',
    ),
    ("HttpSensor(endpoint='https://a.example/', method='POST')", None, "its method is 'POST'"),
    ("HttpSensor(endpoint='https://a.example/', headers={'A': 'b'})", None, 'a condition sends no headers'),
    ("ExternalTaskSensor(external_dag_id='other')", {'kind': 'run', 'workflow': 'other'}, None),
    (
        "ExternalTaskSensor(external_dag_id='other', external_task_id='g.a', execution_delta=timedelta(0))",
        {'kind': 'run', 'workflow': 'other', 'job': 'g_a'},
        None,
    ),
    (
        "ExternalTaskSensor(external_dag_id='other', execution_delta=timedelta(hours=1))",
        None,
        'execution_delta waits for another interval',
    ),
    (
        "ExternalTaskSensor(external_dag_id='other', allowed_states=['failed'])",
        None,
        "it waits for the state ['failed']",
    ),
    (
        'TimeDeltaSensor(delta=timedelta(minutes=10))',
        sql("select now() >= {{ interval.end }} + interval '600 seconds'"),
        None,
    ),
    ('TimeDeltaSensorAsync(delta=timedelta(0))', sql('select now() >= {{ interval.end }}'), None),
    (
        "DateTimeSensor(target_time='{{ data_interval_start + macros.timedelta(hours=30) }}')",
        sql("select now() >= {{ interval.start }} + interval '108000 seconds'"),
        None,
    ),
    (
        "DateTimeSensor(target_time='2024-01-01T02:00:00+02:00')",
        sql("select now() >= timestamp '2024-01-01T00:00:00Z'"),
        None,
    ),
    ("DateTimeSensor(target_time='{{ prev_ds }}')", None, 'the run before is not known'),
    ('TimeSensor(target_time=time(14, 30))', sql("select cast(now() as time) >= time '14:30:00'"), None),
    ('TimeSensor(target_time=datetime.now().time())', None, 'target_time is only known at run time'),
    (
        'DayOfWeekSensor(week_day={WeekDay.SATURDAY, WeekDay.SUNDAY})',
        sql('select extract(dow from now()) in (0, 6)'),
        None,
    ),
    ("DayOfWeekSensor(week_day='Monday', use_task_logical_date=True)", None, 'a date of the run never changes'),
]


@pytest.mark.parametrize('sensor, condition, note', CONDITIONS)
def test_a_sensor_is_a_job_that_waits_for_a_condition(
    files: Files, sensor: str, condition: Optional[dict[str, Any]], note: Optional[str]
) -> None:
    name, _, arguments = sensor.partition('(')
    made = in_dag(files, f"above = EmptyOperator(task_id='above')\nabove >> {name}(task_id='wait', {arguments}")
    job = made.jobs['wait']
    assert job['after'] == ['above']
    if condition is None:
        assert len(made.notes()) == 1 and str(note) in made.notes()[0]
        assert job['kind'] == 'class'
    else:
        assert made.notes() == []
        assert (job['shell'], made.conditions('wait')) == (['true'], [condition])


def test_how_often_and_how_long_a_sensor_looks(files: Files) -> None:
    made = in_dag(
        files,
        """
FileSensor(task_id='plain', filepath='a')
FileSensor(task_id='given', filepath='a', poke_interval=15, timeout=timedelta(hours=1), soft_fail=True, mode='poke')
FileSensor(task_id='ended', filepath='a', timeout=600, execution_timeout=timedelta(minutes=5), retries=2)
FileSensor(task_id='unknown', filepath='a', poke_interval=datetime.now().hour, exponential_backoff=True, other=1)
""",
        "DAG('d', schedule=None, default_args={'poke_interval': 30})",
    )
    waits = {name: job['wait_for'][0] for name, job in made.jobs.items()}
    assert [
        (name, one.get('every_seconds'), one.get('timeout_seconds'), one.get('otherwise'))
        for name, one in waits.items()
    ] == [
        ('plain', 30.0, None, None),
        ('given', 15.0, 3600.0, 'skip'),
        ('ended', 30.0, 300.0, None),
        ('unknown', None, None, None),
    ]
    assert 'timeout_seconds' not in {key for job in made.jobs.values() for key, one in job.items() if one is not None}
    assert sorted(note.partition(': ')[2] for note in made.notes()) == [
        'other=1 of FileSensor "unknown"',
        'poke_interval of FileSensor "unknown": datetime.now().hour is the clock at the moment of the import',
    ]
    assert any('exponential_backoff=True' in note for note in made.notes('changed'))


def test_tasks_of_another_dag_are_jobs_of_another_workflow(files: Files) -> None:
    made = airflow(
        files,
        HEAD
        + """
with DAG('first', schedule=None):
    with TaskGroup('g'):
        EmptyOperator(task_id='a') >> EmptyOperator(task_id='b')
    ExternalTaskMarker(task_id='mark', external_dag_id='second', external_task_id='many')

with DAG('second', schedule=None):
    ExternalTaskSensor(task_id='group', external_dag_id='first', external_task_group_id='g')
    ExternalTaskSensor(task_id='many', external_dag_id='first', external_task_ids=['mark', 'g.a'], failed_states=['x'])
    ExternalTaskSensor(task_id='gone', external_dag_id='third')
""",
    )
    jobs = {job['name']: [one['that'] for one in job.get('wait_for', [])] for job in made.workflows['second']['jobs']}
    assert [one['job'] for one in jobs['group']] == ['g_a', 'g_b']
    assert [one['job'] for one in jobs['many']] == ['mark', 'g_a']
    assert made.workflows['first']['jobs'][2]['shell'] == ['true']
    assert made.notes() == []
    changed = made.notes('changed')
    assert [note.partition(': ')[2] for note in changed] == [
        'ExternalTaskMarker "mark": a retry of this run does not reach over to the other workflow',
        'failed_states of ExternalTaskSensor "many": it goes on waiting until the other run has succeeded',
        'workflow "third" is waited for, and is not among those that are imported',
    ]


def test_times_are_those_of_the_zone_of_the_dag(files: Files) -> None:
    made = airflow(
        files,
        HEAD
        + """
import pendulum
with DAG('d', schedule='@daily', catchup=False, start_date=pendulum.datetime(2024, 1, 1, tz='Europe/Rome')):
    TimeSensor(task_id='wait', target_time=time(6))
""",
    )
    assert made.conditions('wait') == [sql("select cast(now() at time zone 'Europe/Rome' as time) >= time '06:00:00'")]


def test_sensors_without_a_condition_look_themselves(files: Files, tmp_path: Path) -> None:
    there = tmp_path / 'a (1).csv'
    made = airflow(
        files,
        HEAD
        + f"""
from airflow.decorators import task
from airflow.sensors.base import PokeReturnValue

LOOKS = []

def ready(times):
    LOOKS.append(1)
    return len(LOOKS) >= times

with DAG('d', schedule=None, default_args={{'retries': 1}}):
    FileSensor(task_id='path', filepath={str(there)!r}, poke_interval=0.01, timeout=60)
    BashSensor(task_id='command', bash_command='test -e {tmp_path}/{{{{ ds }}}}', poke_interval=0.01)
    PythonSensor(task_id='function', python_callable=ready, op_args=[3], poke_interval=0.01, soft_fail=True)

    @task.sensor(poke_interval=0.01, timeout=3600, mode='reschedule')
    def found():
        return PokeReturnValue(is_done=True, xcom_value=42)

    @task
    def told(value):
        return value + 1

    told(found())
""",
    )
    assert [note.partition(': ')[2] for note in made.notes()] == [
        'soft_fail=True of PythonSensor "function": it fails when it has waited in vain'
    ]
    assert any('is outside of the project: the job looks itself, in a slot' in note for note in made.notes('changed'))
    assert any('@task.sensor "found" holds a slot while it waits' in note for note in made.notes('changed'))
    jobs = made.jobs
    assert {name: job.get('timeout_seconds') for name, job in jobs.items()} == {
        'path': 60.0,
        'command': 604800.0,
        'function': 604800.0,
        'found': 3600.0,
        'told': None,
    }
    # One that has waited in vain is not tried again.
    assert jobs['path']['retry_on'] == ['user', 'external', 'unknown']
    for name, file in [('path', there), ('command', tmp_path / '2024-05-01')]:
        process = subprocess.Popen(jobs[name]['shell'], env={'PINRAIL_DS': '2024-05-01', 'PATH': '/usr/bin:/bin'})
        assert process.poll() is None
        file.write_text('x')
        assert process.wait(60) == 0
    played = made.play()
    assert played.errors == {}
    assert played.outputs['told'] == {'return_value': 43}


def test_a_branch_leaves_its_ways_and_the_jobs_below_ask_for_them(files: Files) -> None:
    made = in_dag(
        files,
        """
branch = BranchPythonOperator(task_id='choose-it', python_callable=lambda ds: 'a' if ds == '2024-05-01' else ['b', 'g'])
a, b, c = [EmptyOperator(task_id=name) for name in 'abc']
with TaskGroup('g'):
    first = EmptyOperator(task_id='first')
    first >> EmptyOperator(task_id='second')
join = EmptyOperator(task_id='join', trigger_rule='none_failed_min_one_success')
branch >> [a, b, c, first, join]
a >> join
""",
    )
    whens = {name: [one['expression'] for one in made.conditions(name)] for name in made.jobs}
    assert whens == {
        'choose-it': [],
        'a': ["'a' in upstream['choose-it'].ways"],
        'b': ["'b' in upstream['choose-it'].ways"],
        'c': ["'c' in upstream['choose-it'].ways"],
        'g_first': ["'g.first' in upstream['choose-it'].ways or 'g' in upstream['choose-it'].ways"],
        'g_second': [],
        # It stands below a, and goes on with it.
        'join': [
            "'join' in upstream['choose-it'].ways|default(['join']) or "
            "'a' in upstream['choose-it'].ways|default(['join'])"
        ],
    }
    assert made.jobs['join']['run_if'] == 'none_failed'
    assert made.notes() == []
    assert made.play().outputs['choose-it'] == {'ways': ['a']}


def test_a_branch_with_a_way_that_is_none_fails(files: Files) -> None:
    made = in_dag(
        files,
        """
BranchPythonOperator(task_id='one', python_callable=lambda: 'nowhere') >> EmptyOperator(task_id='a')
BranchPythonOperator(task_id='none', python_callable=lambda: None) >> EmptyOperator(task_id='b')
""",
    )
    played = made.play()
    assert str(played.errors['one']).startswith('the branch chose "nowhere"; the ways that it has are a')
    assert played.outputs['none'] == {'ways': []}


def test_a_short_circuit_skips_all_that_is_below_it(files: Files) -> None:
    made = in_dag(
        files,
        """
short = ShortCircuitOperator(task_id='short', python_callable=lambda: [])
only = ShortCircuitOperator(task_id='only', python_callable=lambda: 1, ignore_downstream_trigger_rules=False)
a, b, c, d = [EmptyOperator(task_id=name, trigger_rule=rule) for name, rule in
              [('a', 'all_success'), ('b', 'all_success'), ('c', 'all_done'), ('d', 'all_done')]]
short >> a >> b >> c
only >> PythonOperator(task_id='e', python_callable=lambda one: one, op_args=[only.output]) >> d
""",
    )
    whens = {name: [one['expression'] for one in made.conditions(name)] for name in made.jobs}
    assert whens == {
        'short': [],
        'only': [],
        'a': ['upstream.short.goes_on'],
        'b': [],
        # It would run after a job that was skipped, and Airflow skips it as well.
        'c': ['upstream.short.goes_on|default(true)'],
        'd': [],
        'e': ['upstream.only.goes_on'],
    }
    assert set(made.jobs['c']['after']) == {'b', 'short'}
    assert made.notes() == []
    outputs = made.play().outputs
    assert outputs['short'] == {'goes_on': False}
    assert outputs['only'] == {'return_value': 1, 'goes_on': True}


def test_branches_of_taskflow_and_of_weekdays(files: Files) -> None:
    made = airflow(
        files,
        HEAD
        + """
from airflow.decorators import task

with DAG('d', schedule='@daily', start_date=datetime(2024, 1, 1), catchup=False):
    @task.branch
    def choose(value):
        return ['a'] if value > 1 else ['b']

    @task.short_circuit
    def check(value):
        return value

    @task
    def count():
        return 2

    a, b, c, d = [EmptyOperator(task_id=name) for name in 'abcd']
    counted = count()
    choose(counted) >> [a, b]
    [choose(1), check(0)] >> c
    day = BranchDayOfWeekOperator(task_id='day', follow_task_ids_if_true='d', follow_task_ids_if_false=[],
                                  week_day='Wednesday', use_task_logical_date=True)
    day >> d
""",
    )
    assert made.notes() == []
    # Both have to let it go on.
    assert made.conditions('c') == [
        {'kind': 'when', 'expression': "'c' in upstream.choose__1.ways and upstream.check.goes_on"}
    ]
    played = made.play()
    assert {name: played.outputs[name] for name in ('choose', 'check', 'day')} == {
        'choose': {'ways': ['a']},
        'check': {'goes_on': False},
        'day': {'ways': ['d']},
    }
    assert 'the ways that it has are c' in str(played.errors['choose__1'])
