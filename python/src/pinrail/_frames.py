"""Which lines of a traceback are the user's: those of files below the project's root, and not of this package.

Invariant: paths are relative to the root with forward slashes, so that they read the same on every machine and in
every copy of the bundle.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Any

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
# Enough to see how a recursion began and where it ended.
_FIRST, _LAST = 10, 40


def relative(filename: str, root: str) -> str | None:
    """``filename`` relative to the absolute, link-free ``root``, or None when it is not the user's."""
    if filename.startswith('<') or filename.startswith(_PACKAGE):
        return None
    path = os.path.abspath(filename)
    if not path.startswith(root + os.sep):
        path = os.path.realpath(filename)
        if not path.startswith(root + os.sep):
            return None
    inside = path[len(root) + 1 :].replace(os.sep, '/')
    # A virtual environment in the project's folder is not the user's code.
    return None if 'site-packages/' in inside else inside


def _entry(filename: str, line: int, function: str, root: str) -> dict[str, Any] | None:
    inside = relative(filename, root)
    if inside is None:
        return None
    import linecache

    code = linecache.getline(filename, line).strip()
    return {'file': inside, 'line': line, 'function': function, 'code': code[:500]}


def caller_frame(root: str) -> dict[str, Any] | None:
    """The innermost of the calling frames that is the user's."""
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        entry = _entry(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name, root)
        if entry is not None:
            return entry
        frame = frame.f_back
    return None


def user_frames(error: BaseException, root: str) -> list[dict[str, Any]]:
    """The user's frames of an exception, outermost first; for a syntax error also the line that is wrong."""
    frames: list[dict[str, Any]] = []
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        entry = _entry(code.co_filename, trace.tb_lineno, code.co_name, root)
        if entry is not None:
            frames.append(entry)
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        entry = _entry(error.filename, error.lineno, '<module>', root)
        if entry is not None:
            frames.append(entry)
    if len(frames) > _FIRST + _LAST:
        frames = frames[:_FIRST] + frames[-_LAST:]
    return frames
