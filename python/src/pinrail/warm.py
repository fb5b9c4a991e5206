"""A fork server for one module: ``python -m pinrail.warm --root DIR --module jobs.load``.

Imports the module once, then forks a child per attempt, which behaves as ``python -m pinrail.run`` does. The control
socket ``PINRAIL_WARM_FD`` carries JSON lines; the descriptors of an attempt (runner socket, stdout, stderr, and where
the line says so its ruleset) arrive with the first byte of its line. docs/runner-protocol.md is the contract.

Invariants: this process holds no secret and no data of an attempt; it never runs the user's code again after the
import; a child never outlives it; it waits only for children that it started for attempts; it sleeps until there is
something to do.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import json
import os
import resource
import select
import signal
import socket
import sys

from ._channel import Channel
from .run import flush, leave, line_buffered, prepare_path, serve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

# The system call by which a process takes a ruleset of Landlock upon itself.
LANDLOCK_RESTRICT_SELF = 446

# The runner socket's place in a child; everything above is closed.
RUNNER_FD = 3
FDS_PER_FORK = 3


def _no_call(*_: int) -> int:
    return -1


def _load(name: str) -> Callable[..., int]:
    """A C function, loaded before any fork; where there is none one that always fails."""
    try:
        import ctypes

        return getattr(ctypes.CDLL(None), name)
    except (ImportError, OSError, AttributeError, TypeError):
        return _no_call


def threads() -> int:
    """Threads of this process beyond the main one, those of C libraries included where that can be seen."""
    try:
        return len(os.listdir('/proc/self/task')) - 1
    except OSError:
        threading = sys.modules.get('threading')
        return threading.active_count() - 1 if threading is not None else 0


class Warm:
    """The loop over the control socket and the deaths of children."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._prctl = _load('prctl')
        self._syscall = _load('syscall')
        # What outlives an attempt belongs to the server's launcher, which kills it; here it would only be adopted.
        self._prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        self._children: dict[int, str] = {}
        self._unread = b''
        self._fds: list[int] = []
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

        def woken(number: int, frame: object) -> None:
            """The descriptor set below is what wakes the loop; Python only writes to it where a handler is set."""

        self._previous = signal.signal(signal.SIGCHLD, woken)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

    def run(self) -> None:
        """Serves until the control socket ends, then kills what is left."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        self.send({'type': 'ready', 'threads': threads(), 'confines': self._syscall is not _no_call})
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if self._wake_read in ready:
                os.read(self._wake_read, 4096)
                self._reap()
            if self._control.fileno() in ready and not self._receive():
                break
        for pid in self._children:
            # The child leads a group of its own, unless it has not come so far yet.
            for kill in (os.killpg, os.kill):
                try:
                    kill(pid, signal.SIGKILL)
                except OSError:
                    pass

    def send(self, message: dict[str, Any]) -> None:
        try:
            self._control.sendall(json.dumps(message).encode() + b'\n')
        except (BrokenPipeError, ConnectionResetError):
            # The end of the socket is seen, and acted on, where it is read.
            pass

    def _receive(self) -> bool:
        """Reads what has arrived; False at the end of the socket.

        Lines may come in pieces or several at once. The kernel delivers descriptors no later than the byte they were
        attached to and in order, so the next ones always belong to the next line.
        """
        try:
            data, fds, _, _ = socket.recv_fds(self._control, 1 << 16, 64, getattr(socket, 'MSG_CMSG_CLOEXEC', 0))
        except ConnectionResetError:
            return False
        self._fds.extend(fds)
        if not data:
            return False
        *lines, self._unread = (self._unread + data).split(b'\n')
        for line in lines:
            message = json.loads(line)
            if message.get('type') == 'fork':
                self._fork(message)
        return True

    def _fork(self, message: dict[str, Any]) -> None:
        key: str = message['key']
        needed = FDS_PER_FORK + (1 if message.get('confined') else 0)
        fds, self._fds = self._fds[:needed], self._fds[needed:]
        try:
            if len(fds) < needed:
                raise OSError(f'{len(fds)} descriptors came with the request: {needed} are needed')
            flush()
            parent = os.getpid()
            pid = os.fork()
        except OSError as error:
            self.send({'type': 'fork-failed', 'key': key, 'message': str(error)})
        else:
            if pid == 0:
                self._child(parent, message, fds)
            self._children[pid] = key
            self.send({'type': 'forked', 'key': key, 'pid': pid})
        for fd in fds:
            os.close(fd)

    def _child(self, parent: int, message: dict[str, Any], fds: list[int]) -> NoReturn:
        """Becomes the attempt's process. Nothing that belongs to the fork server survives in it."""
        code = 1
        try:
            self._prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                # The fork server died before the death signal was set.
                os._exit(1)
            self._prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, self._previous)
            if message.get('confined') and self._syscall(LANDLOCK_RESTRICT_SELF, fds[FDS_PER_FORK], 0) != 0:
                raise OSError('the ruleset of the attempt cannot be taken on')
            _take_descriptors(fds[:FDS_PER_FORK])
            _limit_memory(message.get('memory_bytes'))
            environment: dict[str, str | None] = message.get('env') or {}
            for name, value in environment.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            _mark(environment.get('PINRAIL_ATTEMPT'))
            _reseed()
            # The exit functions registered so far are the fork server's.
            getattr(atexit, '_clear')()
            code = serve(Channel(RUNNER_FD))
            leave(code)
        except BaseException:
            import traceback

            traceback.print_exc()
            flush()
        finally:
            os._exit(code or 1)

    def _reap(self) -> None:
        # Only these children, one by one: a process that the user's module started is not ours to wait for.
        for pid in list(self._children):
            try:
                ended, status, usage = os.wait4(pid, os.WNOHANG)
            except ChildProcessError:
                ended, status, usage = pid, None, None
            if ended != pid:
                continue
            key = self._children.pop(pid)
            signalled = status is not None and os.WIFSIGNALED(status)
            self.send(
                {
                    'type': 'exited',
                    'key': key,
                    'pid': pid,
                    'exit_code': os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None,
                    'signal': os.WTERMSIG(status) if status is not None and signalled else None,
                    'max_rss_bytes': usage.ru_maxrss * (1 if sys.platform == 'darwin' else 1024) if usage else 0,
                    'user_seconds': usage.ru_utime if usage else 0.0,
                    'system_seconds': usage.ru_stime if usage else 0.0,
                }
            )


def _take_descriptors(fds: list[int]) -> None:
    """Makes the three received descriptors 3 (runner), 1 and 2, standard input empty, and closes all others."""
    # Moved out of the way first, so that none of the low numbers is overwritten while it is still needed.
    runner, out, err = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 16) for fd in fds)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.dup2(runner, RUNNER_FD, inheritable=False)
    try:
        # Up to the limit there may be a million numbers, of which a dozen are open.
        highest = max(int(name) for name in os.listdir('/proc/self/fd'))
    except OSError:
        highest = os.sysconf('SC_OPEN_MAX')
    os.closerange(RUNNER_FD + 1, highest + 1)


def _limit_memory(limit: int | None) -> None:
    """Lets an allocation beyond the limit fail as ``MemoryError``, which names the user's line.

    The limit is on writable private memory. The server watches the resident memory of the whole tree besides.
    """
    if limit is None:
        return
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    except (OSError, ValueError):
        # The server's own watch remains.
        pass


def _mark(attempt: str | None) -> None:
    """Writes the attempt into the environment that others see of this process, in which its place was left free.

    By that a server finds what a former one left behind. The kernel shows the memory in which the environment stood when
    the program began, not what the program made of it since.
    """
    if attempt is None:
        return
    try:
        with open('/proc/self/stat', 'rb') as stat:
            begin, end = (int(field) for field in stat.read().rpartition(b')')[2].split()[47:49])
        with open('/proc/self/mem', 'r+b', buffering=0) as memory:
            memory.seek(begin)
            place = memory.read(end - begin).find(FREE_PLACE + b'0' * len(attempt) + b'\0')
            if place >= 0:
                memory.seek(begin + place + len(FREE_PLACE))
                memory.write(attempt.encode())
    except (OSError, ValueError):
        # The launcher still finds it by its ancestors; only a kill of everything at once would leave it unfound.
        pass


FREE_PLACE = b'PINRAIL_ATTEMPT='


def _reseed() -> None:
    """Gives each child random numbers of its own, as each process of its own would have."""
    random = sys.modules.get('random')
    if random is not None:
        random.seed()
    numpy_random = sys.modules.get('numpy.random')
    if numpy_random is not None:
        numpy_random.seed()


def _arguments(words: list[str]) -> tuple[str, str]:
    values = dict(zip(words[::2], words[1::2]))
    if set(values) != {'--root', '--module'} or len(words) != 4:
        print('usage: python -m pinrail.warm --root DIR --module MODULE', file=sys.stderr)
        sys.exit(2)
    return values['--root'], values['--module']


def main() -> NoReturn:
    root, module = _arguments(sys.argv[1:])
    number = os.environ.pop('PINRAIL_WARM_FD', '')
    if not number.isdigit():
        print('pinrail.warm is started by Pinrail, with the environment variable PINRAIL_WARM_FD', file=sys.stderr)
        sys.exit(2)
    # Only its place counts, see _mark.
    os.environ.pop('PINRAIL_ATTEMPT', None)
    os.set_inheritable(int(number), False)
    control = socket.socket(fileno=int(number))
    line_buffered()
    prepare_path(root)
    # What nearly every phase asks for is loaded here once instead of in each child.
    import datetime  # pyright: ignore[reportUnusedImport]
    import decimal  # pyright: ignore[reportUnusedImport]
    import pathlib  # pyright: ignore[reportUnusedImport]  # noqa: F401

    try:
        __import__(module)
    except BaseException:
        # Each child imports it again and reports the error as its attempt's.
        pass
    gc.collect()
    gc.freeze()
    Warm(control).run()
    flush()
    os._exit(0)


if __name__ == '__main__':
    main()
