"""What workflow files of Pinball become."""

from __future__ import annotations

import subprocess
from typing import Any, Optional

import pytest
from conftest import Files
from importing import pinball

from pinrail import Shell, UserError

HEAD = """
from datetime import datetime, timedelta
from pinball.config.pinball_config import PinballConfig
from pinball_ext.job_templates import CommandConditionTemplate, CommandJobTemplate, JobTemplate
from pinball_ext.workflow.config import JobConfig, ScheduleConfig, WorkflowConfig
"""


def test_workflows_with_commands_schedules_and_a_final_job(files: Files) -> None:
    made = pinball(
        files,
        HEAD
        + """
FINAL = CommandJobTemplate('final', 'echo done')

WORKFLOWS = {
    'load': WorkflowConfig(
        jobs={
            'fetch': JobConfig(CommandJobTemplate('Fetch', 'curl x', max_attempts=3, abort_timeout_sec=600), []),
            'clean': JobConfig(CommandJobTemplate('Clean', 'echo 100%%', priority=2.0, warn_timeout_sec=90), ['fetch']),
            'other': JobConfig(CommandJobTemplate('Other', "echo it's", write_lock='x', emails=['a@b.c']), ['fetch']),
        },
        final_job_config=JobConfig(FINAL),
        schedule=ScheduleConfig(recurrence=timedelta(days=1), reference_timestamp=datetime(2015, 2, 1, 6, 30)),
        notify_emails=PinballConfig.DEFAULT_EMAIL),
    'tell': WorkflowConfig(
        jobs={'a': JobConfig(CommandJobTemplate('A', 'true'))},
        final_job_config=None, schedule=None, notify_emails='anna@example.org,ops@example.org'),
}
""",
    )
    tell = made.workflows.pop('tell')
    assert tell['notify'] == {'first-failure': ['anna'], 'recovery': ['anna']}
    assert 'to = ["anna@example.org", "ops@example.org"]' in made.text('pinrail.toml')
    assert made.edges == {'fetch>clean', 'fetch>other', 'clean>final', 'other>final'}
    schedule = made.workflow['schedule']
    assert (schedule['cron'], schedule['covers'], schedule['start']) == ('30 6 * * *', 'day', '2015-02-01')
    jobs = made.jobs
    assert [job['shell'][2] for job in jobs.values()] == ['curl x', 'echo 100%', "echo it's", 'echo done']
    assert (jobs['fetch']['retries'], jobs['fetch']['timeout_seconds']) == (2, 600)
    # A job has the sum of the priorities of all that waits for it; one that says nothing has 1.
    assert [job['priority'] for job in jobs.values()] == [5, 3, 0, 0]
    assert (jobs['clean']['warn_after_seconds'], jobs['other']['key']) == (90, 'x')
    assert made.notes() == [
        '9: notify_emails of workflow "load"',
        '13: emails=[\'a@b.c\'] of job "other"',
    ]


SCHEDULES: list[tuple[str, Optional[dict[str, Any]]]] = [
    ('timedelta(weeks=1), datetime(2015, 2, 1, 3)', {'cron': '0 3 * * 0'}),
    ('timedelta(hours=1), datetime(2015, 2, 1, 3, 15)', {'cron': '15 * * * *', 'covers': 'hour'}),
    ('timedelta(hours=6), datetime(2015, 2, 1, 9)', {'cron': '0 3-23/6 * * *'}),
    ('timedelta(minutes=20), datetime(2015, 2, 1, 9, 25)', {'cron': '5-59/20 * * * *'}),
    ('timedelta(days=2), datetime(2015, 2, 1)', {'every_seconds': 172800}),
    ("recurrence='1d', time='02.30.00.000', start_date='2015-02-01'", {'cron': '30 2 * * *', 'start': '2015-02-01'}),
    ('recurrence=EVERY', None),
]


@pytest.mark.parametrize('given, expected', SCHEDULES)
def test_schedules(files: Files, given: str, expected: Optional[dict[str, Any]]) -> None:
    made = pinball(
        files,
        HEAD
        + f"""
WORKFLOWS = {{
    'w': WorkflowConfig(
        jobs={{'a': JobConfig(CommandJobTemplate('A', 'true'), [])}},
        final_job_config=JobConfig(CommandJobTemplate('final', 'true')),
        schedule=ScheduleConfig({given})),
}}
""",
    )
    schedule = made.workflow['schedule']
    if expected is None:
        assert schedule is None
        assert len(made.notes()) == 1
    else:
        assert {key: schedule[key] for key in expected} == expected
        assert made.notes() == []


OVERRUNS: list[tuple[str, dict[str, Any], list[str]]] = [
    ('', {'overrun': 'skip'}, []),
    ('overrun_policy=OverrunPolicy.DELAY_UNTIL_SUCCESS', {'overrun': 'delay-until-success'}, []),
    ('overrun_policy=1', {'overrun': 'abort-running'}, []),
    ('overrun_policy=OverrunPolicy.START_NEW', {'max_active': 3}, []),
    ('overrun_policy=OverrunPolicy.START_NEW, max_running_instances=7', {'max_active': 7}, []),
    ('overrun_policy=POLICY', {}, ['11: overrun_policy="POLICY" is not defined in the file']),
    (
        'max_running_instances=MOST',
        {'overrun': 'skip'},
        ['11: max_running_instances="MOST" is not defined in the file'],
    ),
]


@pytest.mark.parametrize('given, expected, notes', OVERRUNS)
def test_overrun_policies(files: Files, given: str, expected: dict[str, Any], notes: list[str]) -> None:
    made = pinball(
        files,
        HEAD
        + f"""
from pinball.scheduler.overrun_policy import OverrunPolicy
WORKFLOWS = {{
    'w': WorkflowConfig(
        jobs={{'a': JobConfig(CommandJobTemplate('A', 'true'), [])}},
        final_job_config=JobConfig(CommandJobTemplate('final', 'true')),
        schedule=ScheduleConfig(timedelta(days=1), datetime(2015, 2, 1), {given})),
}}
""",
    )
    kept = {key: made.workflow[key] for key in ('overrun', 'max_active') if key in made.workflow}
    assert {key: value for key, value in kept.items() if value not in (None, 'start-new')} == expected
    assert made.notes() == notes


def test_job_classes_run_with_pinballs_phases_also_those_of_python_2(files: Files) -> None:
    made = pinball(
        files,
        HEAD
        + """
WORKFLOWS = {
    'w': WorkflowConfig(
        jobs={
            'old': JobConfig(JobTemplate('Old'), []),
            'new': JobConfig(JobTemplate('New', executor='emr'), ['old']),
            'gone': JobConfig(JobTemplate('Gone'), ['new']),
            'hadoop': JobConfig(JobTemplate('Count'), []),
        },
        final_job_config=JobConfig(CommandJobTemplate('final', 'true')),
        schedule=None),
}
""",
        old_jobs__py="""
            from pinball_ext.job.basic_jobs import PythonJob

            class Old(PythonJob):
                def _setup(self):
                    self.seen = [self.params['end_date']]

                def _execute(self):
                    try:
                        print 'PINBALL:EVENT_ATTR:key=%s' % self.seen
                    except ValueError, e:
                        print e
            """,
        new_jobs__py="""
            from pinball_ext.job.basic_jobs import CommandLineJob
            from pinball_ext.job.hadoop_jobs import HadoopJob

            class Base(CommandLineJob):
                pass

            class New(Base):
                def _get_command(self):
                    return 'echo'

                def _complete(self):
                    self.output = self._job_output
                    print('PINBALL:EVENT_ATTR:line=' + self._job_output.strip())

            class Count(HadoopJob):
                pass
            """,
    )
    assert {name: job.get('class') for name, job in made.jobs.items()} == {
        'old': 'jobs.old_jobs.Old_job',
        'new': 'jobs.new_jobs.New_job',
        'gone': 'jobs.w.Gone',
        'hadoop': 'jobs.w.hadoop_job',
        'final': None,
    }
    assert made.notes() == [
        '2: a job imports "pinball_ext.job.hadoop_jobs"',
        '10: executor=\'emr\' of job "new"',
        '11: class Gone is not in the imported files',
        '12: job "hadoop": class Count derives from HadoopJob',
    ]
    assert made.notes('changed') == ['9: the file is Python 2: print and except were turned into Python 3']
    copy = made.root / 'jobs/new_jobs.py'
    copy.write_text(copy.read_text().replace('from pinball_ext.job.hadoop_jobs import HadoopJob', 'HadoopJob = Base'))
    copy.write_text(copy.read_text().replace('HadoopJob = Base', '').replace('Count(HadoopJob)', 'Count(Base)'))
    played = made.play()
    assert played.outputs['old'] == {'key': "['2024-05-01']"}
    assert played.outputs['new'] == {'line': '--end_date=2024-05-01'}
    assert {name: type(error) for name, error in played.errors.items()} == {'gone': UserError, 'hadoop': UserError}


def test_what_jobs_print_for_each_other_are_outputs(files: Files) -> None:
    made = pinball(
        files,
        HEAD
        + """
WORKFLOWS = {
    'w': WorkflowConfig(
        jobs={
            'give': JobConfig(CommandJobTemplate('Give', 'echo PINBALL:EVENT_ATTR:city=Rome'), []),
            'take': JobConfig(CommandJobTemplate('Take', "echo '%%(city)s' on %(end_date)s"), ['give']),
        },
        final_job_config=JobConfig(CommandJobTemplate('final', 'true')),
        schedule=None),
}
""",
    )
    give = made.jobs['give']['shell'][2]
    fake = files.root / 'bin'
    files.write({'bin/pinrail': '#!/bin/sh\necho "left $3=$4" >&2\n'})
    (fake / 'pinrail').chmod(0o755)
    environment = {'PATH': f'{fake}:/usr/bin:/bin', 'TMPDIR': str(files.root)}
    done = subprocess.run(['bash', '-c', give], env=environment, stderr=subprocess.PIPE, text=True, check=True)
    assert done.stderr == 'left city=Rome\n'
    take = made.play(upstream={'give': {'city': 'Rome'}}).returned['take']
    assert isinstance(take, Shell)
    done = subprocess.run(take.command, env=take.env, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == 'Rome on 2024-05-01\n'


def test_conditions_queries_and_templates_of_other_files(files: Files) -> None:
    made = pinball(
        files,
        HEAD
        + """
from jobs.templates import FINAL_JOB, EmrTemplate
from elsewhere import UNKNOWN

class FileCondition(CommandConditionTemplate):
    pass

WORKFLOWS = {
    'w': WorkflowConfig(
        jobs={
            'ready': JobConfig(FileCondition('ready', retry_delay_sec=60, max_attempts=5, command='test -e /x'), []),
            'blind': JobConfig(CommandConditionTemplate('blind'), []),
            'query': JobConfig(EmrTemplate('Users'), ['ready', 'blind']),
            'unknown': JobConfig(UNKNOWN, ['nobody']),
        },
        final_job_config=JobConfig(FINAL_JOB),
        schedule=None),
}
""",
        **{
            'jobs/templates.py': """
                from pinball_ext import job_templates
                from pinball_ext.job.hive_jobs import HiveJob

                FINAL_JOB = job_templates.CommandJobTemplate('final', 'echo end')

                class EmrTemplate(job_templates.JobTemplate):
                    def __init__(self, name):
                        super().__init__(name=name, executor='emr')

                class Users(HiveJob):
                    _QUERY_TEMPLATE = '''
                        SELECT *
                        FROM users WHERE day = '%(end_date)s'
                    '''
                """
        },
    )
    ready = made.jobs['ready']
    assert (ready['shell'], ready['retries'], ready['retry_delay_seconds']) == (['sh', '-c', 'test -e /x'], 4, 60)
    assert made.jobs['final']['shell'] == ['sh', '-c', 'echo end']
    assert made.text('sql/w/query.sql').split('\n', 1)[1] == "SELECT *\nFROM users WHERE day = '{{ ds }}'\n"
    assert made.notes() == [
        '16: job "blind": the command of CommandConditionTemplate is only known to Pinball',
        '18: job "unknown" waits for "nobody", which is not in the workflow',
        '18: job "unknown": "elsewhere.UNKNOWN" is not among the imported files',
    ]
    assert [one.split(':', 1)[1] for one in made.notes('changed')] == [
        ' the query of Users runs in Pinrail, over its tables, not in Hive',
        ' job "ready": what template FileCondition sets by itself is not there, such as its executor',
        ' condition "ready" is a job that is tried until it succeeds; the wait doubles, up to 10 minutes',
        ' job "query": what template EmrTemplate sets by itself is not there, such as its executor',
    ]
    assert set(made.play().errors) == {'blind', 'unknown'}
    assert [one['unwritten'] for one in made.document['sources'] if one['workflows']] == [2]
