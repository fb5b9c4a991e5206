"""What the tests share: projects made of texts, compiles, and runners at the other end of a socket pair."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

SOURCE = Path(__file__).resolve().parents[1] / 'src'

JOBS = """
class One:
    def execute(self, ctx): ...
"""


def environment(**more: str) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(('PINRAIL', 'PYTHON'))}
    # The compiled files stay out of the source folder, which the binary embeds.
    cache = os.path.join(tempfile.gettempdir(), 'pinrail-test-pycache')
    return {**clean, 'PYTHONPATH': str(SOURCE), 'PYTHONPYCACHEPREFIX': cache, **more}


class Files:
    """A project's folder, written file by file."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, files: dict[str, str]) -> Files:
        for name, text in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text).lstrip('\n') if text.startswith('\n') else text, encoding='utf-8')
        return self

    def compile(self, defaults: Optional[dict[str, Any]] = None) -> dict[str, Any]:
        from pinrail.compile import compile_project

        compiled = compile_project(str(self.root), defaults=defaults)
        # What the server reads is JSON, so the tests look at what came through it.
        return json.loads(json.dumps(compiled))

    def report(self, defaults: Optional[dict[str, Any]] = None) -> str:
        """The diagnostics as a person sees them."""
        from pinrail.compile import render_diagnostics

        return render_diagnostics(self.compile(defaults)['diagnostics'])


@pytest.fixture
def files(tmp_path: Path) -> Files:
    root = Path(os.path.realpath(tmp_path)) / 'project'
    root.mkdir()
    return Files(root)


class Peer:
    """The server's end of a socket that carries JSON lines."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(30)
        self._unread = b''

    def send(self, message: dict[str, Any]) -> None:
        self.sock.sendall(json.dumps(message).encode() + b'\n')

    def receive(self) -> Optional[dict[str, Any]]:
        """The next message, or None at the end."""
        while b'\n' not in self._unread:
            try:
                data = self.sock.recv(1 << 16)
            except ConnectionResetError:
                data = b''
            if not data:
                return None
            self._unread += data
        line, self._unread = self._unread.split(b'\n', 1)
        assert len(line) < 1 << 20
        return json.loads(line)


def empty_reply(request: dict[str, Any]) -> dict[str, Any]:
    return {'reply': {}}


class Attempt:
    """One attempt's messages, driven as a server would: ``proceed`` after each phase, answers to requests."""

    def __init__(self, peer: Peer, answer: Optional[Callable[[dict[str, Any]], dict[str, Any]]] = None) -> None:
        self.peer = peer
        self.messages: list[dict[str, Any]] = []
        self._answer = answer or empty_reply

    def drive(self, start: dict[str, Any]) -> Attempt:
        self.peer.send(start)
        left = len(start['phases'])
        while True:
            message = self.peer.receive()
            if message is None:
                return self
            self.messages.append(message)
            if 'request' in message:
                self.peer.send({'id': message['id'], **self._answer(message)})
            elif message['type'] == 'phase-ended':
                left -= 1
                if left and message['ok'] and 'spec' not in message:
                    self.peer.send({'type': 'proceed'})

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message.get('type') == kind]

    @property
    def ended(self) -> list[dict[str, Any]]:
        return self.of('phase-ended')

    @property
    def error(self) -> dict[str, Any]:
        assert not self.ended[-1]['ok'], self.ended
        return self.ended[-1]['error']


class Done:
    def __init__(self, attempt: Attempt, code: int, out: str, err: str) -> None:
        self.attempt = attempt
        self.code = code
        self.out = out
        self.err = err


class Runner:
    """Starts ``python -m pinrail.run`` over a project, as the server's launcher does."""

    def __init__(self, files: Files, scratch: Path) -> None:
        self.files = files
        self.scratch = scratch
        scratch.mkdir(exist_ok=True)

    def start(self, target: str, phases: list[str], **more: Any) -> dict[str, Any]:
        return {
            'type': 'start',
            'protocol': 1,
            'attempt': {'id': 'att_1', 'number': 2},
            'run': {'id': 'run_1', 'url': None},
            'workflow': 'flights',
            'job': 'load',
            'class': target,
            'phases': phases,
            'root': str(self.files.root),
            'project_dir': None,
            'files': None,
            'scratch': str(self.scratch),
            'ds': '2013-01-01',
            'interval': {'start': '2013-01-01T05:00:00Z', 'end': '2013-01-02T05:00:00Z'},
            'tz': 'America/New_York',
            'params': {},
            'param_types': {},
            'upstream': {},
            'secrets': [],
            'state': None,
            'result': None,
            **more,
        }

    def __call__(
        self,
        target: str,
        phases: list[str],
        answer: Optional[Callable[[dict[str, Any]], dict[str, Any]]] = None,
        **more: Any,
    ) -> Done:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            process = subprocess.Popen(
                [sys.executable, '-m', 'pinrail.run'],
                pass_fds=[theirs.fileno()],
                env=environment(PINRAIL_RUNNER_FD=str(theirs.fileno())),
                cwd=self.files.root,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            theirs.close()
            attempt = Attempt(Peer(ours), answer).drive(self.start(target, phases, **more))
            out, err = process.communicate(timeout=30)
        return Done(attempt, process.returncode, out, err)


@pytest.fixture
def runner(files: Files, tmp_path: Path) -> Runner:
    return Runner(files, tmp_path / 'scratch')


def eventually(condition: Callable[[], bool], seconds: float = 10) -> bool:
    """Waits until something is so; how long it took does not matter."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return condition()
