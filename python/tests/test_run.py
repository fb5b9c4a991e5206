"""The runner in a process of its own, from the server's end of the socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from typing import Any

import pytest
from conftest import Attempt, Files, Peer, Runner, environment

PHASES = ['setup', 'execute', 'complete', 'cleanup']

ALL_PHASES = """
from pinrail import Job

class Load(Job):
    def __init__(self):
        self.mine = 0

    def note(self, ctx, phase):
        self.mine += 1
        ctx.state.setdefault('seen', []).append([phase, self.mine])
        print(phase, 'speaks')

    def setup(self, ctx):
        self.note(ctx, 'setup')

    def execute(self, ctx):
        self.note(ctx, 'execute')
        return {'pair': (1, 2)}

    def complete(self, ctx, result):
        self.note(ctx, 'complete')
        ctx.output('result', result)

    def cleanup(self, ctx):
        self.note(ctx, 'cleanup')
"""


def test_all_phases_in_order_each_on_a_new_instance(runner: Runner) -> None:
    runner.files.write({'jobs/load.py': ALL_PHASES})
    done = runner('jobs.load.Load', PHASES)
    assert done.code == 0, done.err
    hello, started, loaded, *messages = done.attempt.messages
    assert loaded == {'type': 'loaded', 'phases': PHASES}
    messages.insert(0, started)
    assert (hello['type'], hello['protocol']) == ('hello', 1) and hello['pid'] > 1
    seen = [[phase, 1] for phase in PHASES]
    result = {'pair': [1, 2]}
    assert messages == [
        {'type': 'phase-started', 'phase': 'setup'},
        {'type': 'phase-ended', 'phase': 'setup', 'ok': True, 'state': {'seen': seen[:1]}},
        {'type': 'phase-started', 'phase': 'execute'},
        {'type': 'phase-ended', 'phase': 'execute', 'ok': True, 'state': {'seen': seen[:2]}, 'result': result},
        {'type': 'phase-started', 'phase': 'complete'},
        {'type': 'output', 'name': 'result', 'value': result},
        {'type': 'phase-ended', 'phase': 'complete', 'ok': True, 'state': {'seen': seen[:3]}},
        {'type': 'phase-started', 'phase': 'cleanup'},
        {'type': 'phase-ended', 'phase': 'cleanup', 'ok': True, 'state': {'seen': seen}},
    ]
    assert done.out == ''.join(f'{phase} speaks\n' for phase in PHASES)


def test_a_phase_in_another_process_finds_state_and_result(runner: Runner) -> None:
    runner.files.write({'jobs/load.py': ALL_PHASES})
    done = runner('jobs.load.Load', ['complete'], state={'seen': [['setup', 1]]}, result=[7])
    assert done.attempt.of('output')[0]['value'] == [7]
    assert done.attempt.ended[0]['state'] == {'seen': [['setup', 1], ['complete', 1]]}


def test_complete_gets_what_a_spec_came_to(runner: Runner) -> None:
    runner.files.write(
        {
            'jobs/a.py': """
                class A:
                    def execute(self, ctx): ...
                    def complete(self, ctx, result):
                        ctx.output('seen', [result.state, result.rows, result.counters, result.schema, result.url])
                """
        }
    )
    came = {'state': 'succeeded', 'rows': 3, 'counters': {'rows_written': 3.0}, 'schema': None, 'of': 'a newer server'}
    done = runner('jobs.a.A', ['complete'], specified=True, result=came)
    assert done.attempt.of('output')[0]['value'] == ['succeeded', 3, {'rows_written': 3.0}, [], None], done.err


def test_cleanup_runs_after_a_spec_that_came_to_nothing(runner: Runner) -> None:
    runner.files.write(
        {'jobs/a.py': "class A:\n    def execute(self, ctx): ...\n    def cleanup(self, ctx): ctx.log('cleared')"}
    )
    done = runner('jobs.a.A', ['cleanup'], specified=True, result=None)
    assert done.attempt.of('log')[0]['text'] == 'cleared', done.err


@pytest.mark.parametrize('phase', PHASES)
def test_a_failure_ends_the_process_after_its_phase(runner: Runner, phase: str) -> None:
    runner.files.write(
        {
            'jobs/load.py': f"""
                import json

                def helper(text):
                    return json.loads(text)

                class Load:
                    def setup(self, ctx): ...
                    def execute(self, ctx): ...
                    def complete(self, ctx, result): ...
                    def cleanup(self, ctx): ...
                    def {phase}(self, ctx, *result):
                        helper('nonsense')
                """
        }
    )
    done = runner('jobs.load.Load', PHASES)
    assert done.code == 1
    assert [ended['phase'] for ended in done.attempt.ended] == PHASES[: PHASES.index(phase) + 1]
    assert done.attempt.error == {
        'kind': 'exception',
        'type': 'JSONDecodeError',
        'message': 'Expecting value: line 1 column 1 (char 0)',
        'hint': None,
        'frames': [
            {'file': 'jobs/load.py', 'line': 12, 'function': phase, 'code': "helper('nonsense')"},
            {'file': 'jobs/load.py', 'line': 4, 'function': 'helper', 'code': 'return json.loads(text)'},
        ],
        'exit_code': None,
    }
    assert 'pinrail/run.py' not in done.err and 'json.loads(text)' in done.err


def test_absent_phases_are_reported_as_not_defined(runner: Runner) -> None:
    runner.files.write(
        {
            'jobs/load.py': """
                from pinrail import Job
                class Load(Job):
                    def execute(self, ctx): ...
                def hello(ctx):
                    ctx.log(f'hello {ctx.ds}')
                """
        }
    )
    for target in ('jobs.load.Load', 'jobs.load.hello'):
        done = runner(target, PHASES)
        assert done.code == 0
        assert [ended.get('defined') for ended in done.attempt.ended] == [False, None, False, False]
        assert len(done.attempt.of('phase-started')) == 4
    assert done.attempt.of('log') == [{'type': 'log', 'level': 'info', 'text': 'hello 2013-01-01'}]


@pytest.mark.parametrize(
    ('target', 'source', 'kind', 'message'),
    [
        ('jobs.load.Load', 'import nonsense_module\n', 'exception', "No module named 'nonsense_module'"),
        (
            'jobs.load.Load',
            'class Lod: ...\n',
            'user-error',
            'no "Load" in jobs/load.py, asked for by "jobs.load.Load"',
        ),
        ('jobs.lod.Load', '', 'user-error', 'no module "jobs.lod", asked for by "jobs.lod.Load"'),
        ('jobs.load.Load', 'Load = 5\n', 'user-error', '"jobs.load.Load" is neither a class nor a function, but int'),
        ('jobs.load.Load', 'class Load: ...\n', 'user-error', 'class "Load" has no execute'),
        ('jobs.load.Load', 'async def Load(ctx): ...\n', 'user-error', 'the phase is a coroutine'),
        ('jobs.load.Load', 'raise SystemExit(75)\n', 'exit', 'execute exited with 75: to be tried again later'),
        ('jobs.load.Load', 'def Load(ctx): raise MemoryError\n', 'memory', 'out of memory'),
        ('jobs.load.Load', 'def Load(ctx): raise KeyboardInterrupt\n', 'exception', ''),
    ],
)
def test_what_can_be_wrong_with_a_target(runner: Runner, target: str, source: str, kind: str, message: str) -> None:
    runner.files.write({'jobs/load.py': source})
    done = runner(target, ['execute'])
    assert (done.attempt.error['kind'], done.attempt.error['message']) == (kind, message)
    assert done.code == (75 if kind == 'exit' else 1)
    assert len(done.attempt.of('phase-started')) == 1


def test_a_syntax_error_is_shown_at_its_line(runner: Runner) -> None:
    runner.files.write({'jobs/load.py': 'x = 1\ndef load(ctx)\n    pass\n'})
    error = runner('jobs.load.load', ['setup', 'execute']).attempt.error
    assert error['type'] == 'SyntaxError'
    assert error['frames'] == [{'file': 'jobs/load.py', 'line': 2, 'function': '<module>', 'code': 'def load(ctx)'}]


@pytest.mark.parametrize(
    ('code', 'exit_code', 'message'),
    [
        ('75', 75, 'execute exited with 75: to be tried again later'),
        ('76', 76, 'execute exited with 76: not to be tried again'),
        ('3', 3, 'execute exited with 3'),
        ('0', 1, 'execute called sys.exit instead of returning'),
        ('"no more"', 1, 'no more'),
    ],
)
def test_sys_exit(runner: Runner, code: str, exit_code: int, message: str) -> None:
    runner.files.write({'jobs/load.py': f'import sys\ndef load(ctx):\n    sys.exit({code})\n'})
    done = runner('jobs.load.load', ['setup', 'execute', 'complete'])
    assert (done.code, done.attempt.error['kind'], done.attempt.error['message']) == (exit_code, 'exit', message)
    assert done.attempt.error['exit_code'] == (0 if code == '0' else exit_code)


def test_failed_checks_are_all_reported_and_end_the_attempt_when_the_phase_returns(runner: Runner) -> None:
    runner.files.write(
        {
            'jobs/load.py': """
                from pinrail import Sql
                def load(ctx):
                    ctx.check('fine', True)
                    ctx.check('odd', False, level='warning')
                    ctx.check('enough flights', 112 > 300_000, detail='112 rows')
                    ctx.check('no gaps', [])
                    ctx.output('after', 1)
                    return Sql('select 1')
                """
        }
    )
    done = runner('jobs.load.load', ['execute', 'complete'])
    assert done.code == 1
    assert [(check['name'], check['ok'], check['level']) for check in done.attempt.of('check')] == [
        ('fine', True, 'error'),
        ('odd', False, 'warning'),
        ('enough flights', False, 'error'),
        ('no gaps', False, 'error'),
    ]
    assert done.attempt.of('output')
    assert done.attempt.error == {
        'kind': 'check',
        'type': 'CheckFailed',
        'message': 'check "enough flights" failed: 112 rows (and 1 more: "no gaps")',
        'hint': None,
        'frames': [
            {
                'file': 'jobs/load.py',
                'line': 5,
                'function': 'load',
                'code': "ctx.check('enough flights', 112 > 300_000, detail='112 rows')",
            }
        ],
        'exit_code': None,
    }


def test_a_user_error_has_its_hint_and_no_traceback(runner: Runner) -> None:
    runner.files.write(
        {
            'jobs/a.py': "from pinrail import UserError\ndef a(ctx):\n    raise UserError('x is missing', hint='make x')\n"
        }
    )
    done = runner('jobs.a.a', ['execute'])
    assert (done.attempt.error['kind'], done.attempt.error['hint']) == ('user-error', 'make x')
    assert done.err == 'error: x is missing\n  hint: make x\n'
    assert done.attempt.error['frames'][0]['line'] == 3


@pytest.mark.parametrize(
    ('spec', 'expected'),
    [
        (
            "Sql(file='sql/load.sql', params={'d': date(2013, 1, 1)}, writes=Table('a.b', {'day': '{{ ds }}'}))",
            {
                'kind': 'sql',
                'file': 'sql/load.sql',
                'params': {'d': '2013-01-01'},
                'writes': [{'table': 'a.b', 'partition': {'day': '{{ ds }}'}, 'mode': 'replace'}],
            },
        ),
        ("Sql('select 1')", {'kind': 'sql', 'text': 'select 1', 'params': {}, 'writes': None}),
        ("Shell('ls | wc', env={'A': 'b'})", {'kind': 'shell', 'command': ['sh', '-c', 'ls | wc'], 'env': {'A': 'b'}}),
        ("Shell(['ls', '-l'])", {'kind': 'shell', 'command': ['ls', '-l'], 'env': {}}),
    ],
)
def test_a_spec_ends_the_process(runner: Runner, spec: str, expected: dict[str, Any]) -> None:
    runner.files.write(
        {
            'jobs/a.py': f'from datetime import date\nfrom pinrail import *\ndef a(ctx):\n    ctx.state["x"] = 1\n    return {spec}\n'
        }
    )
    done = runner('jobs.a.a', ['setup', 'execute', 'complete'])
    assert done.code == 0
    assert done.attempt.ended[1:] == [
        {'type': 'phase-ended', 'phase': 'execute', 'ok': True, 'state': {'x': 1}, 'spec': expected}
    ]


@pytest.mark.parametrize(
    ('body', 'message'),
    [
        ('return object()', 'execute returned what is not a JSON value: object is not a JSON value'),
        ('return "x" * 600_000', 'execute returned 600,002 bytes as JSON: at most 524,288 bytes'),
        ('ctx.state["x"] = {1}', 'ctx.state is not a JSON value: set is not a JSON value'),
        ('ctx.state["x"] = "x" * 70_000', 'ctx.state takes 70,008 bytes as JSON: at most 65,536 bytes'),
        ('ctx.state = 5', 'ctx.state must stay a dict, and it is int'),
        ('ctx.output("x", "x" * 70_000)', 'output "x" takes 70,002 bytes as JSON: at most 65,536 bytes'),
        ('ctx.output("a b", 1)', None),
        ('ctx.check("x", True, detail="x" * 2_000_000)', None),
        ('return Sql("x" * 2_000_000)', None),
    ],
)
def test_what_a_phase_cannot_leave(runner: Runner, body: str, message: str) -> None:
    runner.files.write({'jobs/a.py': f'from pinrail import Sql\ndef a(ctx):\n    {body}\n'})
    error = runner('jobs.a.a', ['execute', 'complete']).attempt.error
    assert error['kind'] == 'user-error'
    assert message is None or error['message'] == message


def test_nothing_later_starts_before_proceed(runner: Runner) -> None:
    runner.files.write({'jobs/load.py': ALL_PHASES})
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen(
            [sys.executable, '-m', 'pinrail.run'],
            pass_fds=[theirs.fileno()],
            env=environment(PINRAIL_RUNNER_FD=str(theirs.fileno())),
            stdout=subprocess.DEVNULL,
        )
        theirs.close()
        peer = Peer(ours)
        peer.send(runner.start('jobs.load.Load', ['setup', 'execute']))
        while (message := peer.receive()) is not None and message['type'] != 'phase-ended':
            pass
        ours.settimeout(0.2)
        with pytest.raises(socket.timeout):
            peer.receive()
        ours.settimeout(30)
        peer.send({'type': 'proceed'})
        assert peer.receive() == {'type': 'phase-started', 'phase': 'execute'}
    # The server is gone; the process notices where it next speaks or listens, and says nothing.
    assert process.wait(30) in (0, 1)


def test_a_newer_protocol_is_refused(runner: Runner) -> None:
    runner.files.write({'jobs/load.py': ALL_PHASES})
    done = runner('jobs.load.Load', ['setup', 'execute'], protocol=2)
    assert done.attempt.error['message'] == 'the server speaks runner protocol 2, this SDK speaks 1'


def test_values_and_requests(runner: Runner) -> None:
    runner.files.write(
        {
            'jobs/a.py': """
                import threading
                from datetime import date, datetime, timezone
                from decimal import Decimal

                def a(ctx):
                    assert ctx.ds == date(2013, 1, 1)
                    assert ctx.interval.start == datetime(2013, 1, 1, 5, tzinfo=timezone.utc)
                    assert (ctx.params.d, ctx.params.m, ctx.params.n) == (date(2013, 2, 3), Decimal('0.10'), 5)
                    assert ctx.upstream['load'].outputs['rows'] == 1 and ctx.upstream['load'].state == 'succeeded'
                    assert (ctx.run.id, ctx.attempt.id, ctx.attempt.number) == ('run_1', 'att_1', 2)
                    assert (ctx.workflow, ctx.job, ctx.tz) == ('flights', 'load', 'America/New_York')
                    rows = ctx.sql('select 1')
                    assert rows[0].n == 1 and rows[0]['d'] == Decimal('1.50') and rows[0] == (1, Decimal('1.50'))
                    assert ctx.secret('ftp') == 'pass'
                    url = ctx.save('report.html', '<p>')
                    ctx.metric('m', Decimal('1.5'), unit='s')
                    ctx.counter('c', Decimal(3))
                    ctx.metric('nan', float('nan'))
                    ctx.progress(2, 'half')
                    threads = [threading.Thread(target=lambda: [ctx.sql('q') for _ in range(20)]) for _ in range(4)]
                    [thread.start() for thread in threads]
                    [thread.join() for thread in threads]
                    return url
                """
        }
    )
    saved: list[str] = []

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if request['request'] == 'secret':
            return {'reply': {'value': 'pass'}}
        if request['request'] == 'save':
            with open(request['path']) as file:
                saved.append(file.read())
            assert request['path'].startswith(str(runner.scratch))
            return {'reply': {'url': '/files/1'}}
        columns = [{'name': 'n', 'type': 'long'}, {'name': 'd', 'type': 'decimal(5,2)'}]
        return {'reply': {'columns': columns, 'rows': [[1, '1.50']]}}

    done = runner(
        'jobs.a.a',
        ['execute'],
        answer,
        params={'d': '2013-02-03', 'm': '0.10', 'n': 5},
        param_types={'d': 'date', 'm': 'decimal', 'n': 'int'},
        upstream={'load': {'state': 'succeeded', 'outputs': {'rows': 1}}},
        secrets=['ftp'],
    )
    assert done.attempt.ended[-1]['ok'], done.attempt.error
    assert done.attempt.ended[-1]['result'] == '/files/1' and saved == ['<p>']
    assert done.attempt.of('metric')[0] == {'type': 'metric', 'name': 'm', 'value': 1.5, 'unit': 's'}
    assert done.attempt.of('metric')[1]['value'] == 'NaN'
    assert done.attempt.of('counter') == [{'type': 'counter', 'name': 'c', 'value': 3, 'unit': None}]
    assert done.attempt.of('progress') == [{'type': 'progress', 'done': 1.0, 'text': 'half'}]
    requests = [message for message in done.attempt.messages if 'request' in message]
    assert [request['id'] for request in requests] == list(range(1, len(requests) + 1)) and len(requests) == 83
    assert list(runner.scratch.glob('.saved/*')) == []


def test_a_refused_request_is_the_users_error_with_code_and_hint(runner: Runner) -> None:
    runner.files.write({'jobs/a.py': "def a(ctx):\n    ctx.sql('select x')\n"})
    error = {'code': 'column-not-found', 'message': 'column "x" not found', 'hint': 'columns: y'}
    found = runner('jobs.a.a', ['execute'], lambda _: {'error': error}).attempt.error
    assert (found['kind'], found['type'], found['message'], found['hint']) == (
        'user-error',
        'SqlError',
        'column "x" not found',
        'columns: y',
    )
    assert found['frames'][-1]['line'] == 2


def test_long_logs_are_sent_in_parts_and_odd_characters_do_no_harm(runner: Runner) -> None:
    runner.files.write(
        {'jobs/a.py': "def a(ctx):\n    ctx.log('\\x00' * 300_000)\n    ctx.log('\\udcff')\n    print('\\udcff')\n"}
    )
    done = runner('jobs.a.a', ['execute'])
    assert done.code == 0
    assert sum(len(log['text']) for log in done.attempt.of('log')) == 300_001
    assert [log.get('more') for log in done.attempt.of('log')] == [True, True, None, None]
    assert done.out == '\\udcff\n'


def test_a_fork_that_returns_from_the_phase_does_not_speak_for_the_attempt(runner: Runner) -> None:
    runner.files.write(
        {
            'jobs/a.py': """
                import os
                def a(ctx):
                    child = os.fork()
                    if child:
                        return os.waitpid(child, 0)[1]
                    ctx.log('from the child')

                def b(ctx):
                    child = os.fork()
                    return os.waitpid(child, 0)[1] if child else 5
                """
        }
    )
    done = runner('jobs.a.a', ['execute', 'complete'])
    assert [ended['ok'] for ended in done.attempt.ended] == [True, True]
    assert done.attempt.ended[0]['result'] == 256 and 'ctx was used in a process that the job forked' in done.err
    done = runner('jobs.a.b', ['execute', 'complete'])
    assert [ended.get('result') for ended in done.attempt.ended] == [0, None]


def test_threads_and_exit_functions_end_before_the_process(runner: Runner) -> None:
    runner.files.write(
        {
            'jobs/a.py': """
                import atexit, threading, time
                def late():
                    time.sleep(0.1)
                    print('thread')
                def a(ctx):
                    atexit.register(print, 'exit')
                    threading.Thread(target=late).start()
                """
        }
    )
    assert runner('jobs.a.a', ['execute']).out == 'thread\nexit\n'


def test_sigterm_kills_and_descriptors_are_not_inherited(runner: Runner) -> None:
    runner.files.write(
        {
            'jobs/a.py': """
                import os, signal, subprocess, sys
                def a(ctx):
                    listing = 'import os; print(len(os.listdir("/proc/self/fd")))'
                    print(subprocess.run([sys.executable, '-c', listing], close_fds=False, stdout=-1, text=True).stdout.strip())
                    print(os.environ.get('PINRAIL_RUNNER_FD'), os.getcwd() in sys.path[1:], sys.path[0])
                    os.kill(os.getpid(), signal.SIGTERM)
                """
        }
    )
    done = runner('jobs.a.a', ['execute'])
    assert done.code == -signal.SIGTERM and done.attempt.ended == []
    assert done.out == f'4\nNone False {runner.files.root}\n'


def test_it_says_how_it_is_started() -> None:
    done = subprocess.run([sys.executable, '-m', 'pinrail.run'], env=environment(), capture_output=True, text=True)
    assert done.returncode == 2 and 'PINRAIL_RUNNER_FD' in done.stderr


def test_a_file_declared_twice_is_imported_from_the_root_not_from_the_working_folder(
    files: Files, runner: Runner
) -> None:
    files.write({'jobs/a.py': 'def a(ctx):\n    return __file__\n'})
    done = runner('jobs.a.a', ['execute'])
    assert done.attempt.ended[0]['result'] == str(files.root / 'jobs/a.py')
    assert json.dumps(os.fspath(files.root))
    assert isinstance(done.attempt, Attempt)
