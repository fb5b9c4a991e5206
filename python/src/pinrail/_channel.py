"""The runner's end of the connection to the server: JSON lines over one inherited stream socket.

Responsible for framing, ordering and the one outstanding request; what the messages mean is elsewhere. Invariants: a
line is written whole under a lock, so threads of a job may log while another one queries; only the process that opened
the channel may use it, so a fork of the job cannot speak for the attempt.
"""

from __future__ import annotations

import json
import os
from _thread import allocate_lock

from ._errors import UserError
from ._values import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# A line beyond this is refused by the server, so it is refused here, where the user's line is known.
LINE_LIMIT = 1 << 20


class ServerGone(BaseException):
    """The connection ended. It is no ``Exception``, so that user code which catches everything still ends."""


class ChannelClosed(BaseException):
    """The job closed the descriptor. No ``Exception`` either: nothing more of this attempt can be heard."""

    def __init__(self, fd: int) -> None:
        super().__init__(f'the job closed descriptor {fd}, by which it speaks with pinrail')


class Port:
    """What a context needs of the outside: events without a reply, and requests with one."""

    def event(self, message: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def request(self, kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The answer's object, which holds ``reply`` or ``error``."""
        raise NotImplementedError


class Channel(Port):
    """The connected socket with descriptor ``fd``."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)
        self._fd = fd
        self._pid = os.getpid()
        self._socket = _file_of(fd)
        self._unread = b''
        self._send_lock = allocate_lock()
        self._request_lock = allocate_lock()
        self._last_id = 0
        # A fork of the job must neither speak nor keep the connection open after the job has ended.
        os.register_at_fork(after_in_child=self._close)

    def _close(self) -> None:
        if _file_of(self._fd) == self._socket:
            os.close(self._fd)

    @property
    def owned(self) -> bool:
        """Whether this process opened the channel, rather than being a fork of the one that did."""
        return os.getpid() == self._pid

    def event(self, message: Mapping[str, Any]) -> None:
        if not self.owned:
            raise UserError(
                'ctx was used in a process that the job forked',
                'return the value to the process that runs the phase, and use ctx there; print works everywhere',
            )
        # A lone surrogate, as in a file name that is not UTF-8, must not end the job.
        line = encode(message).encode('utf-8', 'replace') + b'\n'
        if len(line) > LINE_LIMIT:
            raise UserError(
                f'a message of {len(line):,} bytes is too long: at most {LINE_LIMIT:,} bytes',
                'write large data to a table or with ctx.save',
            )
        view = memoryview(line)
        with self._send_lock:
            # A file of the job's may have got the number meanwhile.
            if _file_of(self._fd) != self._socket:
                raise ChannelClosed(self._fd)
            while view:
                try:
                    view = view[os.write(self._fd, view) :]
                except (BrokenPipeError, ConnectionResetError):
                    raise ServerGone from None

    def receive(self) -> dict[str, Any]:
        """The next message of the server. Raises ``ServerGone`` at the end of the connection."""
        pieces: list[bytes] = []
        chunk = self._unread
        while True:
            end = chunk.find(b'\n')
            if end >= 0:
                break
            pieces.append(chunk)
            try:
                chunk = os.read(self._fd, 1 << 16)
            except ConnectionResetError:
                chunk = b''
            if not chunk:
                raise ServerGone
        pieces.append(chunk[:end])
        self._unread = chunk[end + 1 :]
        return json.loads(b''.join(pieces))

    def request(self, kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        with self._request_lock:
            self._last_id += 1
            number = self._last_id
            self.event({'id': number, 'request': kind, **fields})
            while True:
                answer = self.receive()
                if answer.get('id') == number:
                    return answer


def _file_of(fd: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino
