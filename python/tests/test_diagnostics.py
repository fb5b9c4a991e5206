"""What a person sees for each mistake in a workflow file."""

from __future__ import annotations

import os
import sys
import textwrap

import pytest
from conftest import JOBS, Files

import pinrail
from pinrail import DefinitionError, Param, Sql, Table, Workflow, cron, every, template


def expect(files: Files, text: str, **more: str) -> None:
    """Compiles the written files and compares what is reported."""
    assert files.report() == textwrap.dedent(text).strip('\n')


def test_unknown_dependency(files: Files) -> None:
    files.write(
        {
            'workflows/flights.py': """
                workflow = {
                    template(name='daily_delays', shell='true'): [],
                    template(name='weather_effect', shell='true'): [],
                    template(name='report', shell='true'): ['daily_delay', 'weather_effect'],
                }
                """
        }
    )
    expect(
        files,
        """
error: workflow "flights" names a job that does not exist: "daily_delay"
   ╭─ workflows/flights.py:4
 4 │     template(name='report', shell='true'): ['daily_delay', 'weather_effect'],
   │                                             ^^^^^^^^^^^^^ did you mean "daily_delays"?
""",
    )
    (found,) = files.compile()['diagnostics']
    assert {key: found[key] for key in ('code', 'level', 'line', 'column', 'width', 'workflow', 'related')} == {
        'code': 'unknown-dependency',
        'level': 'error',
        'line': 4,
        'column': 45,
        'width': 13,
        'workflow': 'flights',
        'related': [],
    }


def test_cycle_with_its_path(files: Files) -> None:
    files.write(
        {
            'workflows/w.py': """
                workflow = {
                    template(name='start', shell='true'): [],
                    template(name='a', shell='true'): ['start', 'c'],
                    template(name='b', shell='true'): ['a'],
                    template(name='c', shell='true'): 'b',
                    template(name='end', shell='true'): 'c',
                    template(name='self', shell='true'): 'self',
                }
                """
        }
    )
    expect(
        files,
        """
error: the jobs of workflow "w" wait for each other: a -> c -> b -> a
   ╭─ workflows/w.py:3
 3 │     template(name='a', shell='true'): ['start', 'c'],
   │                                                 ^^^
   ╰─ workflows/w.py:5: "c" waits for "b"
   ╰─ workflows/w.py:4: "b" waits for "a"
error: the jobs of workflow "w" wait for each other: self -> self
   ╭─ workflows/w.py:7
 7 │     template(name='self', shell='true'): 'self',
   │                                          ^^^^^^
""",
    )


def test_duplicate_names_with_both_lines(files: Files) -> None:
    files.write(
        {
            'workflows/w.py': """
                workflow = {
                    template(name='a', shell='true'): [],
                    template(name='a', shell='false'): [],
                    template(name='A', shell='true'): [],
                }
                """
        }
    )
    expect(
        files,
        """
error: workflow "w" has two jobs named "a"
   ╭─ workflows/w.py:3
 3 │     template(name='a', shell='false'): [],
   │                   ^^^ rename one of them
   ╰─ workflows/w.py:2: "a" is first declared here
error: workflow "w" has two jobs whose names differ only in case: "a" and "A"
   ╭─ workflows/w.py:4
 4 │     template(name='A', shell='true'): [],
   │                   ^^^ rename one of them
   ╰─ workflows/w.py:2: "a" is first declared here
""",
    )


@pytest.mark.parametrize(
    ('written', 'meant'),
    [('jobs/a.py:A', 'jobs.a.A'), ('jobs/a.py', 'jobs.a.LoadFlights'), ('jobs/a', 'jobs.a.LoadFlights')],
)
def test_a_class_by_its_path(files: Files, written: str, meant: str) -> None:
    files.write({'workflows/w.py': f"workflow = {{template(name='a', class_='{written}'): []}}\n"})
    (found,) = files.compile()['diagnostics']
    assert found['hint'] == f'write "{meant}"'


def test_a_class_of_which_only_the_module_is_alike_is_not_suggested(files: Files) -> None:
    files.write(
        {
            'workflows/w.py': "workflow = {template(name='a', class_='jobs.arrivals.Missing'): []}\n",
            'jobs/arrivals.py': 'def noarg(ctx): ...\n',
        }
    )
    (found,) = files.compile()['diagnostics']
    assert found['hint'] is None


def test_a_secret_of_the_environment_by_a_bad_name(files: Files) -> None:
    files.write({'workflows/w.py': "workflow = {template(name='a', shell='true', secret_env={'X': 'a b'}): []}\n"})
    (found,) = files.compile()['diagnostics']
    assert 'must be a dict of variables to names of secrets, and a secret\'s name "a b"' in found['message']


def test_several_mistakes_at_once(files: Files) -> None:
    files.write(
        {
            'workflows/w.py': """
                from pinrail import Table, Workflow, template

                workflow = Workflow({
                    template(name='a', shell='true', retrys=2): [],
                    template(name='b', shell='true', retries='two',
                             memory='512'): [],
                    template(name='c', shell='true', sql='x.sql'): [],
                    template(name='d'): [],
                    template(name='e e', shell='true'): [],
                    template(name='f', shell='true', executor='python'): [],
                    template(name='g', shell='true', run_if='allsucceeded', writes=Table('Marts.x')): 7,
                }, retries=2, ownr='x', limits={'max_active': 1}, defaults={'retry': 1}, params={'n': 5}, schedule='0 6 * * *')
                """
        }
    )
    line = (files.root / 'workflows/w.py').read_text().split('\n')[11]
    expect(
        files,
        f"""
error: job "a" has a setting that does not exist: "retrys"
   ╭─ workflows/w.py:4
 4 │     template(name='a', shell='true', retrys=2): [],
   │                                      ^^^^^^ did you mean "retries"?
error: setting "retries" of job "b" must be a whole number of 0 or more, not "two"
   ╭─ workflows/w.py:5
 5 │     template(name='b', shell='true', retries='two',
   │                                              ^^^^^
error: setting "memory" of job "b" must be a size, not "512"
   ╭─ workflows/w.py:6
 6 │              memory='512'): [],
   │                     ^^^^^ write "512MB"
error: job "c" has sql and shell: exactly one of them is needed
   ╭─ workflows/w.py:7
 7 │     template(name='c', shell='true', sql='x.sql'): [],
   │                        ^^^^^ make two jobs of it
error: job "d" has none of class_, sql, shell and workflow
   ╭─ workflows/w.py:8
 8 │     template(name='d'): [],
   │     ^^^^^^^^^^^^^^^^^^ say what it runs by one of them
error: job name "e e" must begin with a letter or underscore and go on with letters, digits, underscores or hyphens
   ╭─ workflows/w.py:9
 9 │     template(name='e e', shell='true'): [],
   │                   ^^^^^ write "e_e"
error: executor "python" cannot run job "f", which is of kind shell
   ╭─ workflows/w.py:10
10 │     template(name='f', shell='true', executor='python'): [],
   │                                               ^^^^^^^^ possible: "shell"
error: setting "run_if" of job "g" must be "all_succeeded", "all_done", "any_failed" or "none_failed", not "allsucceeded"
   ╭─ workflows/w.py:11
11 │     template(name='g', shell='true', run_if='allsucceeded', writes=Table('Marts.x')): 7,
   │                                             ^^^^^^^^^^^^^^ did you mean "all_succeeded"?
error: table name "Marts.x" must be made of lower-case letters, digits and underscores
   ╭─ workflows/w.py:11
11 │     template(name='g', shell='true', run_if='allsucceeded', writes=Table('Marts.x')): 7,
   │                                                                          ^^^^^^^^^ write "marts.x"
error: what job "g" of workflow "w" waits for must be names or templates, not 7
   ╭─ workflows/w.py:11
11 │     template(name='g', shell='true', run_if='allsucceeded', writes=Table('Marts.x')): 7,
   │                                                                                       ^
error: a workflow has a setting that does not exist: "retries"
   ╭─ workflows/w.py:12
12 │ {line}
   │    ^^^^^^^
error: a workflow has a setting that does not exist: "ownr"
   ╭─ workflows/w.py:12
12 │ {line}
   │               ^^^^ did you mean "owner"?
error: setting "limits" of a workflow is not supported by this version
   ╭─ workflows/w.py:12
12 │ {line}
   │                         ^^^^^^ write max_active= or concurrency=
error: the defaults have a setting that does not exist: "retry"
   ╭─ workflows/w.py:12
12 │ {line}
   │                                                             ^^^^^^^ did you mean "retries"?
error: parameter "n" must be a Param(...), not 5
   ╭─ workflows/w.py:12
12 │ {line}
   │                                                                                  ^^^ write Param(int, default=5)
error: setting "schedule" of a workflow must be cron(...), every(...) or once(...), not "0 6 * * *"
   ╭─ workflows/w.py:12
12 │ {line}
   │                                                                                                    ^^^^^^^^^^^ write schedule=cron('0 6 * * *')
""",
    )
    assert {found['code'] for found in files.compile()['diagnostics']} == {
        'unknown-setting',
        'wrong-type',
        'two-kinds',
        'no-kind',
        'bad-name',
        'bad-executor',
        'not-supported',
    }
    assert all(found['workflow'] == 'w' for found in files.compile()['diagnostics'] if found['code'] != 'bad-name')


def test_schedules(files: Files) -> None:
    files.write(
        {
            'workflows/w.py': """
                a = cron('0 25 * * *', tz='America/New_Yrk', covers='dy')
                b = cron('0 6 * *')
                c = every('soon')
                d = every(60, start='2013-01-02', end='2013-01-01')
                e = cron('0 6 * * *', start='2013-01-02T06:00')
                workflow = {template(name='a', shell='true'): []}
                """
        }
    )
    report = files.report()
    assert report == textwrap.dedent(
        """
error: cron expression "0 25 * * *" has a wrong hour: "25" is not from 0 to 23
   ╭─ workflows/w.py:1
 1 │ a = cron('0 25 * * *', tz='America/New_Yrk', covers='dy')
   │          ^^^^^^^^^^^^
error: time zone "America/New_Yrk" does not exist
   ╭─ workflows/w.py:1
 1 │ a = cron('0 25 * * *', tz='America/New_Yrk', covers='dy')
   │                           ^^^^^^^^^^^^^^^^^ did you mean "America/New_York"?
error: "covers" of cron must be one of "day", "hour", "week", "month", "between-fires", not "dy"
   ╭─ workflows/w.py:1
 1 │ a = cron('0 25 * * *', tz='America/New_Yrk', covers='dy')
   │                                                     ^^^^ did you mean "day"?
error: cron expression "0 6 * *" has 4 fields: 5 are needed
   ╭─ workflows/w.py:2
 2 │ b = cron('0 6 * *')
   │          ^^^^^^^^^ they are minute, hour, day of the month, month, day of the week
error: "interval" of every must be a duration, not "soon"
   ╭─ workflows/w.py:3
 3 │ c = every('soon')
   │           ^^^^^^ write a number of seconds, or "30s", "5m", "1h"
error: "end" of every is before its start: 2013-01-01 is before 2013-01-02
   ╭─ workflows/w.py:4
 4 │ d = every(60, start='2013-01-02', end='2013-01-01')
   │                                       ^^^^^^^^^^^^
error: "start" of cron must be a date like 2013-01-02, not "2013-01-02T06:00"
   ╭─ workflows/w.py:5
 5 │ e = cron('0 6 * * *', start='2013-01-02T06:00')
   │                             ^^^^^^^^^^^^^^^^^^ write start='2013-01-02': it includes all fire times of that day
"""
    ).strip('\n')


def test_what_a_schedule_says_beyond_its_fire_times(files: Files) -> None:
    files.write(
        {
            'workflows/w.py': """
                a = cron('0 6 * * *', catch_up='al', jitter='2d', blackout='2026-12-25')
                b = every('1h', blackout=['2026-12-25', ('2027-01-01', '2026-12-24')], jitter='soon')
                c = once('2026-12-24')
                d = once('2026-12-24T06:00+01:00', tz='Europe/Berlin')
                workflow = Workflow({template(name='a', shell='true', pools={'r': 0}, concurrency=0, key='{{ ds'): []},
                                    schedule=every('1h'), overrun='delay-until', max_active=0,
                                    params={'n': Param(int)})
                """
        }
    )
    expect(
        files,
        """
error: "catch_up" of cron must be one of "none", "latest", "all", not "al"
   ╭─ workflows/w.py:1
 1 │ a = cron('0 6 * * *', catch_up='al', jitter='2d', blackout='2026-12-25')
   │                                ^^^^ did you mean "all"?
error: "jitter" of cron must be whole seconds, at most a day, not "2d"
   ╭─ workflows/w.py:1
 1 │ a = cron('0 6 * * *', catch_up='al', jitter='2d', blackout='2026-12-25')
   │                                             ^^^^
error: "blackout" of cron must be a list of dates, not "2026-12-25"
   ╭─ workflows/w.py:1
 1 │ a = cron('0 6 * * *', catch_up='al', jitter='2d', blackout='2026-12-25')
   │                                                            ^^^^^^^^^^^^ write blackout=['2026-12-25', ('2026-12-24', '2027-01-01')]
error: "blackout" of every has a pair that ends before it begins: 2026-12-24 is before 2027-01-01
   ╭─ workflows/w.py:2
 2 │ b = every('1h', blackout=['2026-12-25', ('2027-01-01', '2026-12-24')], jitter='soon')
   │                          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
error: "jitter" of every must be a duration, not "soon"
   ╭─ workflows/w.py:2
 2 │ b = every('1h', blackout=['2026-12-25', ('2027-01-01', '2026-12-24')], jitter='soon')
   │                                                                               ^^^^^^ write a number of seconds, or "30s", "5m", "1h"
error: "at" of once must be a local time such as 2026-12-24T06:00, not "2026-12-24"
   ╭─ workflows/w.py:3
 3 │ c = once('2026-12-24')
   │          ^^^^^^^^^^^^
error: "at" of once must be a local time such as 2026-12-24T06:00, not "2026-12-24T06:00+01:00"
   ╭─ workflows/w.py:4
 4 │ d = once('2026-12-24T06:00+01:00', tz='Europe/Berlin')
   │          ^^^^^^^^^^^^^^^^^^^^^^^^ leave the offset out and name the zone with tz=
error: setting "pools" of job "a" must be a dict of pools to slots of 1 or more, and "r" has 0
   ╭─ workflows/w.py:5
 5 │ workflow = Workflow({template(name='a', shell='true', pools={'r': 0}, concurrency=0, key='{{ ds'): []},
   │                                                             ^^^^^^^^
error: setting "concurrency" of job "a" must be a whole number of 1 or more, not 0
   ╭─ workflows/w.py:5
 5 │ workflow = Workflow({template(name='a', shell='true', pools={'r': 0}, concurrency=0, key='{{ ds'): []},
   │                                                                                   ^
error: setting "key" of job "a" must be a template, not "{{ ds"
   ╭─ workflows/w.py:5
 5 │ workflow = Workflow({template(name='a', shell='true', pools={'r': 0}, concurrency=0, key='{{ ds'): []},
   │                                                                                          ^^^^^^^ write key='{{ params.customer }}'
error: setting "overrun" of a workflow must be "start-new", "skip", "delay", "delay-until-success" or "abort-running", not "delay-until"
   ╭─ workflows/w.py:6
 6 │                     schedule=every('1h'), overrun='delay-until', max_active=0,
   │                                                   ^^^^^^^^^^^^^ did you mean "delay-until-success"?
error: setting "max_active" of a workflow must be a whole number of 1 or more, not 0
   ╭─ workflows/w.py:6
 6 │                     schedule=every('1h'), overrun='delay-until', max_active=0,
   │                                                                             ^
error: parameter "n" has no default, and nobody gives a value when the schedule fires
   ╭─ workflows/w.py:7
 7 │                     params={'n': Param(int)})
   │                             ^^^ write Param(..., default=...)
""",
    )


def test_missing_class_and_missing_sql_file(files: Files) -> None:
    files.write(
        {
            'workflows/w.py': """
                workflow = {
                    template(name='a', class_='jobs.load.LoadFlight'): [],
                    template(name='b', class_='jobs.lod.LoadFlights'): [],
                    template(name='c', class_='job.load.LoadFlights'): [],
                    template(name='d', class_='jobs.load.NoExecute'): [],
                    template(name='e', class_='jobs.load.two'): [],
                    template(name='f', class_='jobs.dynamic.Made'): [],
                    template(name='g', sql='sql/daily_delay.sql'): [],
                    template(name='h', sql='../secret.sql'): [],
                }
                """,
            'jobs/load.py': """
                class LoadFlights:
                    def execute(self, ctx): ...
                class NoExecute:
                    def exectue(self, ctx): ...
                def two(ctx, more): ...
                """,
            'jobs/dynamic.py': "Made = type('Made', (), {})\n",
            'sql/daily_delays.sql': 'select 1',
        }
    )
    expect(
        files,
        """
error: class "jobs.load.LoadFlight" of job "a" does not exist: "LoadFlight" is not in jobs/load.py
   ╭─ workflows/w.py:2
 2 │     template(name='a', class_='jobs.load.LoadFlight'): [],
   │                               ^^^^^^^^^^^^^^^^^^^^^^ did you mean "jobs.load.LoadFlights"?
error: class "jobs.lod.LoadFlights" of job "b" does not exist: module "jobs.lod" does not exist
   ╭─ workflows/w.py:3
 3 │     template(name='b', class_='jobs.lod.LoadFlights'): [],
   │                               ^^^^^^^^^^^^^^^^^^^^^^ did you mean "jobs.load.LoadFlights"?
error: class "job.load.LoadFlights" of job "c" does not exist: module "job" does not exist
   ╭─ workflows/w.py:4
 4 │     template(name='c', class_='job.load.LoadFlights'): [],
   │                               ^^^^^^^^^^^^^^^^^^^^^^ did you mean "jobs.load.LoadFlights"?
error: class "jobs.load.NoExecute" of job "d" has no execute (jobs/load.py:3)
   ╭─ workflows/w.py:5
 5 │     template(name='d', class_='jobs.load.NoExecute'): [],
   │                               ^^^^^^^^^^^^^^^^^^^^^ did you mean "exectue" to be "execute"?
error: function "jobs.load.two" of job "e" has 2 required arguments instead of one (jobs/load.py:5)
   ╭─ workflows/w.py:6
 6 │     template(name='e', class_='jobs.load.two'): [],
   │                               ^^^^^^^^^^^^^^^ a job is a function of the context alone: def hello(ctx)
warning: whether class "jobs.dynamic.Made" of job "f" exists is seen only when it runs: jobs/dynamic.py:1 assigns it from what only running it could tell  (undecidable-class)
   ╭─ workflows/w.py:7
 7 │     template(name='f', class_='jobs.dynamic.Made'): [],
   │                               ^^^^^^^^^^^^^^^^^^^
error: sql file "sql/daily_delay.sql" of job "g" does not exist
   ╭─ workflows/w.py:8
 8 │     template(name='g', sql='sql/daily_delay.sql'): [],
   │                            ^^^^^^^^^^^^^^^^^^^^^ did you mean "sql/daily_delays.sql"?
error: sql file "../secret.sql" of job "h" is not a path within the project
   ╭─ workflows/w.py:9
 9 │     template(name='h', sql='../secret.sql'): [],
   │                            ^^^^^^^^^^^^^^^
""",
    )


def test_an_import_error_is_cut_to_the_users_lines_and_disables_one_file(files: Files) -> None:
    files.write(
        {
            'workflows/bad.py': """
                from workflows._helper import table

                workflow = {template(name='a', shell=table('x')): []}
                """,
            'workflows/_helper.py': """
                import json

                def table(name):
                    return json.loads(name)
                """,
            'workflows/good.py': "workflow = {template(name='a', shell='true'): []}\n",
            'workflows/name.py': "workflow = {templte(name='a', shell='true'): []}\n",
        }
    )
    compiled = files.compile()
    assert [workflow['workflow'] for workflow in compiled['workflows']] == ['good']
    assert [found['workflow'] for found in compiled['diagnostics']] == ['bad', 'name']
    expect(
        files,
        """
error: workflows/bad.py cannot be loaded: JSONDecodeError: Expecting value: line 1 column 1 (char 0)
   ╭─ workflows/_helper.py:4
 4 │     return json.loads(name)
   │     ^^^^^^^^^^^^^^^^^^^^^^^
   ╰─ workflows/bad.py:3: from here
error: workflows/name.py cannot be loaded: NameError: name 'templte' is not defined
   ╭─ workflows/name.py:1
 1 │ workflow = {templte(name='a', shell='true'): []}
   │ ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ did you mean "template"?
""".replace("name 'templte' is not defined", "name 'templte' is not defined" + name_error_suffix()),
    )


def name_error_suffix() -> str:
    """What this Python adds to a NameError of a name that is near to a built-in one."""
    try:
        eval('templte', {'template': 1})
    except NameError as error:
        return str(error).partition('is not defined')[2]
    return ''


def test_syntax_errors(files: Files) -> None:
    files.write(
        {
            'workflows/w.py': "workflow = {\n    template(name='ä', class='x' 'y'): [],\n    )\n",
            'workflows/v.py': "workflow = {template(name='a', class_='jobs.broken.A'): []}\n",
            'jobs/broken.py': 'class A\n    pass\n',
        }
    )
    found = files.compile()['diagnostics']
    assert [(one['code'], one['file'], one['line'], one['workflow']) for one in found] == [
        ('syntax-error', 'jobs/broken.py', 1, 'v'),
        ('syntax-error', 'workflows/w.py', 3, 'w'),
    ]
    assert found[0]['related'] == [{'file': 'workflows/v.py', 'line': 1, 'message': 'job "a" names it'}]


def test_an_undecodable_file(files: Files) -> None:
    (files.root / 'workflows').mkdir()
    (files.root / 'workflows/w.py').write_bytes(b'workflow = "\xff"\n')
    (files.root / 'workflows/z.py').write_bytes(b'workflow = "\x00"\n')
    assert [one['code'] for one in files.compile()['diagnostics']] == ['syntax-error', 'syntax-error']


def test_workflows_of_one_name(files: Files) -> None:
    workflow = "workflow = {template(name='a', shell='true'): []}\n"
    files.write({'workflows/a/w.py': workflow, 'workflows/b/w.py': workflow, 'workflows/c/v.py': workflow})
    assert [one['workflow'] for one in files.compile()['workflows']] == ['v']
    expect(
        files,
        """
error: two workflows are named "w"
   ╭─ workflows/b/w.py:1
 1 │ workflow = {template(name='a', shell='true'): []}
   │ ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ rename one of them
   ╰─ workflows/a/w.py:1: "w" is first declared here
""",
    )


def test_what_a_file_declares(files: Files) -> None:
    files.write(
        {
            'workflows/a.py': 'workflow = [1]\n',
            'workflows/b.py': "worklow = {template(name='a', shell='true'): []}\n",
            'workflows/c.py': "workflows = Workflow({template(name='a', shell='true'): []})\n",
            'workflows/d-1.py': "workflow = {'load': []}\n",
            'workflows/1d.py': "workflow = {template(name='a', shell='true'): []}\n",
        }
    )
    expect(
        files,
        """
error: workflow name "1d" must begin with a letter or underscore and go on with letters, digits, underscores or hyphens
   ╭─ workflows/1d.py:1
 1 │ workflow = {template(name='a', shell='true'): []}
   │ ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ write "_1d"
error: workflow "a" must be a Workflow or a dict of templates, not [1]
   ╭─ workflows/a.py:1
 1 │ workflow = [1]
   │ ^^^^^^^^^^^^^^
warning: workflows/b.py declares no workflow  (no-workflow)
   ╭─ workflows/b.py:1
 1 │ worklow = {template(name='a', shell='true'): []}
   │ ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ rename "worklow" to "workflow"
error: "workflows" must be a dict of names to workflows, not an object of type Workflow
   ╭─ workflows/c.py:1
 1 │ workflows = Workflow({template(name='a', shell='true'): []})
   │ ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ name it "workflow"
error: workflow "d-1" has a key that is not a template: "load"
   ╭─ workflows/d-1.py:1
 1 │ workflow = {'load': []}
   │ ^^^^^^^^^^^^^^^^^^^^^^^ write template(name='load', ...)
""",
    )


def test_a_variable_is_not_a_setting(files: Files) -> None:
    files.write(
        {
            'workflows/w.py': """
                schedule = cron('0 6 * * *')
                retries = 3
                owner = 'anna'
                workflow = Workflow({template(name='a', shell='true'): []}, owner=owner)
                """
        }
    )
    assert [one['workflow'] for one in files.compile()['workflows']] == ['w']
    expect(
        files,
        """
warning: variable "schedule" is not a setting: nothing reads it  (setting-as-variable)
   ╭─ workflows/w.py:1
 1 │ schedule = cron('0 6 * * *')
   │ ^^^^^^^^^^^^^^^^^^^^^^^^^^^^ write workflow = Workflow({...}, schedule=...)
warning: variable "retries" is not a setting: nothing reads it  (setting-as-variable)
   ╭─ workflows/w.py:2
 2 │ retries = 3
   │ ^^^^^^^^^^^ write workflow = Workflow({...}, defaults={'retries': ...})
""",
    )


def test_generated_templates_are_shown_by_their_line_and_misspelt_settings_exactly(files: Files) -> None:
    files.write(
        {
            'workflows/w.py': """
                jobs = {}
                for n in range(2):
                    jobs[template(name=f'j{n}', shell='true', retrys=1)] = [f'k{n}']
                workflow = jobs
                """
        }
    )
    expect(
        files,
        """
error: workflow "w" names a job that does not exist: "k0"
   ╭─ workflows/w.py:3
 3 │     jobs[template(name=f'j{n}', shell='true', retrys=1)] = [f'k{n}']
   │     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
error: workflow "w" names a job that does not exist: "k1"
   ╭─ workflows/w.py:3
 3 │     jobs[template(name=f'j{n}', shell='true', retrys=1)] = [f'k{n}']
   │     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
error: job "j0" has a setting that does not exist: "retrys"
   ╭─ workflows/w.py:3
 3 │     jobs[template(name=f'j{n}', shell='true', retrys=1)] = [f'k{n}']
   │                                               ^^^^^^ did you mean "retries"?
error: job "j1" has a setting that does not exist: "retrys"
   ╭─ workflows/w.py:3
 3 │     jobs[template(name=f'j{n}', shell='true', retrys=1)] = [f'k{n}']
   │                                               ^^^^^^ did you mean "retries"?
""",
    )


def test_wrong_defaults_of_the_project(files: Files) -> None:
    files.write(
        {
            'pinrail.toml': '[project]\nretries = 1\n[defaults]\nmemory = "lots"\nretrys = 1\n',
            'workflows/w.py': "workflow = {template(name='a', shell='true'): []}\n",
        }
    )
    found = files.compile({'memory': 'lots', 'retrys': 1})['diagnostics']
    assert [(one['file'], one['line'], one['code']) for one in found] == [
        ('pinrail.toml', 4, 'wrong-type'),
        ('pinrail.toml', 5, 'unknown-setting'),
    ]


def test_columns_count_characters_after_wide_letters_and_tabs(files: Files) -> None:
    files.write(
        {
            'workflows/w.py': "workflow = {\n\ttemplate(name='a', description='Zürich→', retrys=1, shell='true'): [],\n}\n"
        }
    )
    (found,) = files.compile()['diagnostics']
    assert found['source'][found['column'] - 1 :][: found['width']] == 'retrys'
    assert files.report().split('\n')[-1].startswith('   │ \t   ')


def test_jobs_of_one_line_are_told_apart(files: Files) -> None:
    files.write(
        {'workflows/w.py': "workflow = {template(name='a', shell='x'): ['n'], template(name='b', shell='x'): ['n']}\n"}
    )
    assert [one['column'] for one in files.compile()['diagnostics']] == [45, 83]


def test_deferred_mistakes_point_at_a_template_kept_in_a_variable(files: Files) -> None:
    files.write({'workflows/w.py': "a = template(name='a', shell='x')\nworkflow = {a: ['nn']}\n"})
    (found,) = files.compile()['diagnostics']
    assert (found['line'], found['column'], found['width']) == (2, 17, 4)


# Outside of a compile the same mistakes are raised, several of one call at once.


def test_outside_of_a_compile_mistakes_are_raised() -> None:
    with pytest.raises(DefinitionError) as caught:
        template(name='a b', shell='true', retrys=1)  # pyright: ignore[reportCallIssue]
    text = str(caught.value)
    assert [one.code for one in caught.value.diagnostics] == ['unknown-setting', 'bad-name']
    assert 'did you mean "retries"?' in text and os.path.basename(__file__) in text
    with pytest.raises(DefinitionError, match='names a job that does not exist: "b"'):
        Workflow({template(name='a', shell='true'): ['b']})
    with pytest.raises(DefinitionError, match='a cron expression must be text, not 5'):
        cron(5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(DefinitionError, match='a duration above zero'):
        every(0)
    with pytest.raises(DefinitionError, match='"default" of Param must be a whole number, not "x"'):
        Param(int, default='x')
    with pytest.raises(DefinitionError, match='Sql has both text and file'):
        Sql('select 1', file='x.sql')
    with pytest.raises(DefinitionError, match='holds two underscores in a row'):
        Table('marts.a__b')


@pytest.mark.parametrize('name', pinrail.__all__)
def test_every_exported_name_exists(name: str) -> None:
    assert getattr(pinrail, name) is not None


def test_importing_pinrail_loads_nothing_that_only_workflow_files_need(files: Files) -> None:
    import subprocess

    from conftest import environment

    code = 'import pinrail.run, sys; print(*sorted(sys.modules))'
    loaded = subprocess.run(
        [sys.executable, '-c', code], env=environment(), capture_output=True, text=True
    ).stdout.split()
    heavy = {
        'ast',
        'difflib',
        'traceback',
        'inspect',
        'dataclasses',
        'typing',
        'asyncio',
        'pathlib',
        'decimal',
        'socket',
    }
    allowed = set(
        subprocess.run(
            [sys.executable, '-c', 'import sys; print(*sys.modules)'], env=environment(), capture_output=True, text=True
        ).stdout.split()
    )
    assert not (heavy - allowed) & set(loaded)
    assert 'pinrail._workflow' not in loaded
    assert JOBS


def test_each_broken_file_is_named_with_the_workflows_that_it_declares(files: Files) -> None:
    good = "{template(name='a', shell='x'): []}"
    bad = "{template(name='a', shell='x'): ['b']}"
    files.write(
        {
            'workflows/good.py': f'workflow = {good}\n',
            'workflows/two.py': f"workflows = {{'x': {good}, 'y': {bad}}}\n",
            'workflows/syntax.py': 'workflow = {\n',
            'workflows/load.py': 'workflow = nothing\n',
            'workflows/same.py': f"workflows = {{'good': {good}}}\n",
            'jobs/broken.py': 'def f(\n',
            'workflows/job.py': "workflow = {template(name='a', class_='jobs.broken.f'): []}\n",
            'workflows/fine.py': f'workflow = {good}\n',
        }
    )
    compiled = files.compile({'retries': 'many'})
    assert compiled['broken'] == {
        'pinrail.toml': [],
        'workflows/good.py': ['good'],
        'workflows/job.py': ['job'],
        'workflows/load.py': [],
        'workflows/same.py': ['good'],
        'workflows/syntax.py': [],
        'workflows/two.py': ['x', 'y'],
    }
    assert [one['workflow'] for one in compiled['workflows']] == ['fine', 'x']
