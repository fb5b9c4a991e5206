"""The fork server, from the server's end of its control socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, Optional

import pytest
from conftest import Attempt, Files, Peer, Runner, environment, eventually

MODULE = """
import os, random, signal, subprocess, sys, time
import atexit

atexit.register(print, 'exit function of the fork server')
print('imported')
LOADED_BY = os.getpid()

def noop(ctx): ...

def look(ctx):
    return {
        'forked': LOADED_BY != os.getpid(),
        'fds': sorted(int(fd) for fd in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{fd}')),
        'session': os.getsid(0) == os.getpid(),
        'random': random.random(),
        'env': [os.environ.get('ONE'), os.environ.get('HOME'), os.environ.get('PINRAIL_WARM_FD')],
        'child': signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL,
        'stdin': sys.stdin.read(),
        'popen': subprocess.run(['true']).returncode,
        'path': sys.path[0],
    }

def speak(ctx):
    print('out')
    print('err', file=sys.stderr)
    atexit.register(print, 'mine')

def wait(ctx):
    print('waiting', flush=True)
    time.sleep(60)

def detach(ctx):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(write, str(os.getpid()).encode())
            time.sleep(20)
        os._exit(0)
    os.waitpid(child, 0)
    grandchild = int(os.read(read, 20))
    return [grandchild, open(f'/proc/{grandchild}/stat').read().split()[3] == str(os.getpid())]

def let_go(ctx):
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        os.write(write, str(os.getpid()).encode())
        time.sleep(20)
        os._exit(0)
    return int(os.read(read, 20))

def close(ctx):
    os.close(3)
    files = [open(os.environ['TAKEN'], 'w') for _ in range(4)]
    assert 3 in [file.fileno() for file in files]
    ctx.log('into the file?')

def eat(ctx):
    return len(bytearray(400_000_000))
"""


class Child:
    """One forked attempt."""

    def __init__(self, key: str, sock: socket.socket, out: int, err: int) -> None:
        self.key = key
        self.peer = Peer(sock)
        self.out = out
        self.err = err

    def drive(self, start: dict[str, Any]) -> Attempt:
        return Attempt(self.peer).drive(start)

    def output(self) -> str:
        with os.fdopen(self.out) as file:
            return file.read()

    def errors(self) -> str:
        with os.fdopen(self.err) as file:
            return file.read()


class Warm:
    def __init__(self, files: Files, module: str) -> None:
        ours, theirs = socket.socketpair()
        self.control = Peer(ours)
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'pinrail.warm', '--root', str(files.root), '--module', module],
            pass_fds=[theirs.fileno()],
            env=environment(PINRAIL_WARM_FD=str(theirs.fileno()), HOME='/home', PINRAIL_ATTEMPT='0' * 7),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        theirs.close()
        self.ready = self.control.receive()

    def request(
        self, key: str, env: Optional[dict[str, Optional[str]]] = None, memory: Optional[int] = None
    ) -> tuple[bytes, list[int], Child]:
        ours, theirs = socket.socketpair()
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        message = {'type': 'fork', 'key': key, 'memory_bytes': memory, 'env': env or {}}
        line = json.dumps(message).encode() + b'\n'
        return line, [theirs.detach(), out_write, err_write], Child(key, ours, out_read, err_read)

    def fork(self, key: str, env: Optional[dict[str, Optional[str]]] = None, memory: Optional[int] = None) -> Child:
        line, fds, child = self.request(key, env, memory)
        socket.send_fds(self.control.sock, [line], fds)
        for fd in fds:
            os.close(fd)
        return child

    def stop(self) -> None:
        self.control.sock.close()
        try:
            self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()


@pytest.fixture
def warm(files: Files) -> Iterator[Warm]:
    files.write({'jobs/load.py': MODULE})
    started = Warm(files, 'jobs.load')
    yield started
    started.stop()


def test_a_child_is_a_process_of_its_own(warm: Warm, runner: Runner) -> None:
    assert warm.ready == {'type': 'ready', 'threads': 0, 'confines': True}
    results: list[dict[str, Any]] = []
    for number in range(2):
        child = warm.fork(f'k{number}', {'ONE': '1', 'HOME': None})
        attempt = child.drive(runner.start('jobs.load.look', ['setup', 'execute', 'complete']))
        assert attempt.ended[1]['ok'], attempt.error
        results.append(attempt.ended[1]['result'])
        forked, exited = warm.control.receive(), warm.control.receive()
        assert forked is not None and exited is not None
        assert forked == {'type': 'forked', 'key': child.key, 'pid': attempt.messages[0]['pid']}
        assert exited['max_rss_bytes'] > 1 << 20 and exited['user_seconds'] + exited['system_seconds'] >= 0
        assert {key: exited[key] for key in ('type', 'key', 'pid', 'exit_code', 'signal')} == {
            'type': 'exited',
            'key': child.key,
            'pid': forked['pid'],
            'exit_code': 0,
            'signal': None,
        }
    assert results[0].pop('random') != results[1].pop('random')
    assert results[0] == {
        'forked': True,
        'fds': [0, 1, 2, 3],
        'session': True,
        'env': ['1', None, None],
        'child': True,
        'stdin': '',
        'popen': 0,
        'path': str(runner.files.root),
    }


def test_output_goes_to_the_attempts_descriptors_and_exit_functions_of_the_parent_do_not_run(
    warm: Warm, runner: Runner
) -> None:
    child = warm.fork('k')
    child.drive(runner.start('jobs.load.speak', ['execute']))
    assert (child.output(), child.errors()) == ('out\nmine\n', 'err\n')
    warm.control.sock.shutdown(socket.SHUT_RDWR)
    assert warm.process.stdout is not None and warm.process.stdout.read() == b'imported\n'


def test_several_requests_at_once_and_one_in_pieces(warm: Warm, runner: Runner) -> None:
    requests = [warm.request(f'k{number}') for number in range(3)]
    for line, fds, _ in requests[:2]:
        socket.send_fds(warm.control.sock, [line], fds)
    line, fds, _ = requests[2]
    socket.send_fds(warm.control.sock, [line[:7]], fds)
    time.sleep(0.05)
    warm.control.sock.sendall(line[7:20])
    warm.control.sock.sendall(line[20:])
    for _, fds, child in requests:
        for fd in fds:
            os.close(fd)
        attempt = child.drive(runner.start('jobs.load.speak', ['execute']))
        assert attempt.ended[0]['ok'] and child.output() == 'out\nmine\n'
    messages = [warm.control.receive() for _ in range(6)]
    assert sorted(message['key'] for message in messages if message and message['type'] == 'exited') == [
        'k0',
        'k1',
        'k2',
    ]


def test_many_forks_leave_nothing_behind(warm: Warm, runner: Runner) -> None:
    start = runner.start('jobs.load.noop', ['setup', 'execute', 'complete'])
    folder = f'/proc/{warm.process.pid}/fd'
    before = len(os.listdir(folder))
    keys: set[str] = set()
    for number in range(100):
        child = warm.fork(f'k{number}')
        assert len(child.drive(start).ended) == 3
        child.peer.sock.close()
        os.close(child.out)
        os.close(child.err)
    while len(keys) < 100:
        message = warm.control.receive()
        assert message is not None
        if message['type'] == 'exited':
            assert message['exit_code'] == 0
            keys.add(message['key'])
    assert len(os.listdir(folder)) == before


def test_a_killed_child_is_reported_with_its_signal(warm: Warm, runner: Runner) -> None:
    child = warm.fork('k')
    child.peer.send(runner.start('jobs.load.wait', ['execute']))
    forked = warm.control.receive()
    assert forked is not None
    os.read(child.out, 10)
    os.kill(forked['pid'], signal.SIGKILL)
    exited = warm.control.receive()
    assert exited is not None and (exited['exit_code'], exited['signal']) == (None, signal.SIGKILL)
    # The fork server is none the worse for it.
    assert warm.fork('l').drive(runner.start('jobs.load.noop', ['execute'])).ended[0]['ok']


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet counts as ended."""
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] == 'Z'
    except FileNotFoundError:
        return True


@pytest.mark.parametrize('how', ['kill', 'close'])
def test_children_do_not_outlive_the_fork_server(warm: Warm, runner: Runner, how: str) -> None:
    child = warm.fork('k')
    child.peer.send(runner.start('jobs.load.wait', ['execute']))
    forked = warm.control.receive()
    assert forked is not None
    os.read(child.out, 10)
    if how == 'kill':
        warm.process.kill()
    else:
        warm.control.sock.shutdown(socket.SHUT_RDWR)
    assert warm.process.wait(10) == (-signal.SIGKILL if how == 'kill' else 0)
    assert eventually(lambda: gone(forked['pid']))


def test_a_detached_grandchild_stays_below_the_attempt(warm: Warm, runner: Runner) -> None:
    attempt = warm.fork('k').drive(runner.start('jobs.load.detach', ['execute']))
    grandchild, adopted = attempt.ended[0]['result']
    os.kill(grandchild, signal.SIGKILL)
    assert adopted


@pytest.mark.skipif(sys.platform != 'linux', reason='only there somebody adopts what outlives its parents')
def test_what_outlives_an_attempt_is_not_adopted_by_the_fork_server(warm: Warm, runner: Runner) -> None:
    attempt = warm.fork('k').drive(runner.start('jobs.load.let_go', ['execute']))
    left: int = attempt.ended[0]['result']

    def adopter() -> str:
        with open(f'/proc/{left}/stat') as file:
            return file.read().rpartition(')')[2].split()[1]

    assert [(warm.control.receive() or {})['type'] for _ in range(2)] == ['forked', 'exited']
    assert adopter() != str(warm.process.pid)
    os.kill(left, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != 'linux', reason='only there the environment of a process can be read')
def test_others_see_to_which_attempt_a_child_belongs(warm: Warm, runner: Runner) -> None:
    child = warm.fork('k', {'PINRAIL_ATTEMPT': 'att_123'})
    child.peer.send(runner.start('jobs.load.wait', ['execute']))
    forked = warm.control.receive()
    assert forked is not None
    os.read(child.out, 10)
    with open(f'/proc/{forked["pid"]}/environ', 'rb') as file:
        assert b'PINRAIL_ATTEMPT=att_123' in file.read().split(b'\0')
    with open(f'/proc/{warm.process.pid}/environ', 'rb') as file:
        assert b'PINRAIL_ATTEMPT=0000000' in file.read().split(b'\0')


def test_a_job_that_closes_the_runner_socket_is_told_so_and_keeps_its_files(
    warm: Warm, runner: Runner, files: Files
) -> None:
    taken = files.root / 'taken'
    attempt = warm.fork('k', {'TAKEN': str(taken)}).drive(runner.start('jobs.load.close', ['execute']))
    assert [(warm.control.receive() or {})['type'] for _ in range(2)] == ['forked', 'exited']
    assert attempt.ended == []
    assert taken.read_text() == ''


def test_memory_beyond_the_limit_is_a_memory_error_of_the_users_line(warm: Warm, runner: Runner) -> None:
    attempt = warm.fork('k', memory=200_000_000).drive(runner.start('jobs.load.eat', ['execute']))
    assert (attempt.error['kind'], attempt.error['frames'][-1]['function']) == ('memory', 'eat')
    assert warm.fork('l').drive(runner.start('jobs.load.eat', ['execute'])).ended[0]['result'] == 400_000_000


def test_an_import_error_is_reported_by_each_child(files: Files, runner: Runner) -> None:
    files.write({'jobs/bad.py': 'x = 1\n1 / 0\n'})
    warm = Warm(files, 'jobs.bad')
    try:
        assert warm.ready is not None
        for key in ('a', 'b'):
            error = warm.fork(key).drive(runner.start('jobs.bad.x', ['setup', 'execute'])).error
            assert (error['type'], error['frames'][0]['line']) == ('ZeroDivisionError', 2)
    finally:
        warm.stop()


def test_threads_started_by_the_import_are_counted(files: Files) -> None:
    files.write(
        {'jobs/t.py': 'import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n'}
    )
    warm = Warm(files, 'jobs.t')
    try:
        assert warm.ready == {'type': 'ready', 'threads': 1, 'confines': True}
    finally:
        warm.stop()


def test_a_fork_without_descriptors_is_refused(warm: Warm, runner: Runner) -> None:
    warm.control.send({'type': 'fork', 'key': 'k', 'memory_bytes': None, 'env': {}})
    assert warm.control.receive() == {
        'type': 'fork-failed',
        'key': 'k',
        'message': '0 descriptors came with the request: 3 are needed',
    }
