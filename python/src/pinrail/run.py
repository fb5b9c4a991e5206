"""What runs inside an attempt's process: ``python -m pinrail.run``, and the children of ``pinrail.warm``.

Reads the start message from the socket ``PINRAIL_RUNNER_FD``, runs the phases it names, each on a new instance of the
job's class and with a new context, and reports how each ended. It decides nothing else: retries, publication and the
attempt's outcome are the server's. docs/runner-protocol.md is the contract.

Invariants: no later phase starts before the server has said ``proceed``; after a failed phase none starts; what one
phase hands to the next goes through JSON also within one process, so that it behaves the same in two.
"""

from __future__ import annotations

import json
import os
import sys

from ._channel import Channel, ChannelClosed, ServerGone
from ._context import Context, encoded_state, failed_checks
from ._errors import UserError, did_you_mean
from ._frames import relative, user_frames
from ._job import PHASES, Job
from ._specs import Result, Spec
from ._values import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NoReturn

PROTOCOL = 1

# What ``execute`` returns travels in one line of at most 1 MiB, with the state.
RESULT_LIMIT = 512 << 10
MESSAGE_LIMIT = 32 << 10

# Exit codes by which a job says what should come of it: 75 later again, 76 never again.
RETRY_LATER, PERMANENT = 75, 76


def serve(channel: Channel) -> int:
    """Runs the phases of one start message and returns the exit code of the process."""
    try:
        return _serve(channel)
    except ServerGone:
        # Nobody is left to report to, and what this attempt did will be discarded.
        return 1
    except ChannelClosed as error:
        _print_error(str(error), 'close only what the job itself has opened')
        flush()
        return 1


def _serve(channel: Channel) -> int:
    channel.event({'type': 'hello', 'protocol': PROTOCOL, 'pid': os.getpid()})
    start = channel.receive()
    root = os.path.realpath(start['root'])
    phases: list[str] = start['phases']
    state: dict[str, Any] = start.get('state') or {}
    result: Any = start.get('result')
    # A spec that failed or was lost came to nothing, and only cleanup is left to run.
    if start.get('specified') and result is not None:
        result = Result.from_json(result)
    target: Any = None
    for index, phase in enumerate(phases):
        if index:
            _await_proceed(channel)
        channel.event({'type': 'phase-started', 'phase': phase})
        ctx = Context(channel, start, state)
        try:
            if index == 0:
                _check_protocol(start, phases)
                prepare_path(start['root'])
                target = load(str(start['class']), root)
                channel.event({'type': 'loaded', 'phases': _defined(target)})
            defined, returned = _call(target, phase, ctx, result)
            _stop_fork(channel, 0)
            ended = _checks_failed(phase, ctx) if failed_checks(ctx) else _ended(phase, defined, ctx, returned)
            flush()
            channel.event(ended)
        except (ServerGone, ChannelClosed):
            raise
        except BaseException as error:
            if not channel.owned:
                _report(error, root)
            _stop_fork(channel, 1)
            return _failed(channel, phase, error, root, _state_of(ctx))
        if not ended['ok']:
            return 1
        if 'spec' in ended:
            # An engine does the work; another process completes it.
            return 0
        state = json.loads(encode(ended['state']))
        if phase == 'execute':
            result = json.loads(encode(ended['result']))
    return 0


def _check_protocol(start: Mapping[str, Any], phases: list[str]) -> None:
    asked = start.get('protocol')
    if asked != PROTOCOL:
        raise UserError(
            f'the server speaks runner protocol {asked}, this SDK speaks {PROTOCOL}',
            'install the SDK of the server: pinrail sdk install',
        )
    for phase in phases:
        if phase not in PHASES:
            raise UserError(f'the server asked for an unknown phase "{phase}"')


def _await_proceed(channel: Channel) -> None:
    while channel.receive().get('type') != 'proceed':
        pass


def prepare_path(root: str) -> None:
    """Puts the bundle's root first on ``sys.path``, in place of the working folder that ``python -m`` put there."""
    if sys.path and sys.path[0] in ('', os.getcwd()):
        del sys.path[0]
    if not sys.path or sys.path[0] != root:
        sys.path.insert(0, root)


def load(name: str, root: str) -> Any:
    """Imports the class or function with the dotted ``name``. Errors of the user's module pass through."""
    parts = name.split('.')
    target: Any = _import(parts[0], name)
    for index, part in enumerate(parts[1:], 1):
        if not hasattr(target, part) and hasattr(target, '__path__'):
            _import('.'.join(parts[: index + 1]), name)
        try:
            target = getattr(target, part)
        except AttributeError:
            where = getattr(target, '__file__', None)
            place = (where and relative(where, root)) or '.'.join(parts[:index])
            raise UserError(f'no "{part}" in {place}, asked for by "{name}"', did_you_mean(part, dir(target))) from None
    if not callable(target):
        raise UserError(f'"{name}" is neither a class nor a function, but {type(target).__name__}')
    return target


def _import(module: str, name: str) -> Any:
    try:
        __import__(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            raise UserError(f'no module "{module}", asked for by "{name}"') from None
        raise
    return sys.modules[module]


def _defined(target: Any) -> list[str]:
    """The phases that the target has code for, so that the server starts no process for the others."""
    if not isinstance(target, type):
        return ['execute']
    kind: Any = target
    return [name for name in PHASES if getattr(kind, name, None) not in (None, getattr(Job, name))]


def _call(target: Any, phase: str, ctx: Context, result: Any) -> tuple[bool, Any]:
    """Whether the target defines the phase, and what the phase returned."""
    if not isinstance(target, type):
        return (True, _finished(target(ctx))) if phase == 'execute' else (False, None)
    kind: Any = target
    method = getattr(kind, phase, None)
    if method is None or method is getattr(Job, phase):
        if phase == 'execute':
            raise UserError(f'class "{kind.__qualname__}" has no execute', did_you_mean('execute', dir(kind)))
        return False, None
    bound = getattr(kind(), phase)
    return True, _finished(bound(ctx, result) if phase == 'complete' else bound(ctx))


def _finished(returned: Any) -> Any:
    if hasattr(returned, '__await__'):
        close = getattr(returned, 'close', None)
        if close is not None:
            close()
        raise UserError('the phase is a coroutine', 'write def instead of async def, and asyncio.run(...) inside')
    return returned


def _ended(phase: str, defined: bool, ctx: Context, returned: Any) -> dict[str, Any]:
    """The message that ends a phase. Raises ``UserError`` when what the phase leaves cannot be kept."""
    message: dict[str, Any] = {'type': 'phase-ended', 'phase': phase, 'ok': True}
    if not defined:
        message['defined'] = False
    message['state'] = json.loads(encoded_state(ctx))
    if phase != 'execute':
        return message
    if isinstance(returned, Spec):
        message['spec'] = returned.to_json()
        return message
    try:
        size = len(encode(returned).encode('utf-8', 'replace'))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f'execute returned what is not a JSON value: {error}',
            'return numbers, texts, lists and dicts; write rows to a table and files with ctx.save',
        ) from None
    if size > RESULT_LIMIT:
        raise UserError(
            f'execute returned {size:,} bytes as JSON: at most {RESULT_LIMIT:,} bytes',
            'write large data to a table or with ctx.save, and return its name',
        )
    message['result'] = returned
    return message


def _checks_failed(phase: str, ctx: Context) -> dict[str, Any]:
    failed = failed_checks(ctx)
    name, detail, frame = failed[0]
    message = f'check "{name}" failed' + (f': {detail}' if detail else '')
    if len(failed) > 1:
        others = ', '.join(f'"{other[0]}"' for other in failed[1:6]) + (', ...' if len(failed) > 6 else '')
        message += f' (and {len(failed) - 1} more: {others})'
    error = _error('check', 'CheckFailed', message, None, [] if frame is None else [frame], None)
    return {'type': 'phase-ended', 'phase': phase, 'ok': False, 'state': _state_of(ctx), 'error': error}


def _failed(channel: Channel, phase: str, error: BaseException, root: str, state: Any) -> int:
    """Reports a phase that raised, and returns the exit code of the process."""
    code = 1
    hint: str | None = None
    exit_code: int | None = None
    message = _message_of(error)
    if isinstance(error, SystemExit):
        kind = 'exit'
        exit_code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        if exit_code == 0:
            message, hint = f'{phase} called sys.exit instead of returning', 'return from the phase to succeed'
        elif isinstance(error.code, int):
            message = f'{phase} exited with {exit_code}' + _meaning(exit_code)
        code = exit_code & 0xFF or 1
    elif isinstance(error, UserError):
        kind, hint = 'user-error', error.hint
    elif isinstance(error, MemoryError):
        kind = 'memory'
        message = message or 'out of memory'
    else:
        kind = 'exception'
        hint = _hidden(error, root)
    frames = user_frames(error, root)
    if kind in ('exception', 'memory'):
        _report(error, root)
    elif kind == 'user-error':
        # What the author says in so many words needs no traceback, but whoever reads the log needs the words.
        _print_error(message, hint)
    flush()
    report = _error(kind, type(error).__name__, message, hint, frames, exit_code)
    channel.event({'type': 'phase-ended', 'phase': phase, 'ok': False, 'state': state, 'error': report})
    return code


def _hidden(error: BaseException, root: str) -> str | None:
    """Why a file that is the user's own cannot be read: the state folder, which holds the bundle, is hidden from jobs."""
    bundles = os.path.dirname(root)
    name = getattr(error, 'filename', None)
    if not isinstance(error, PermissionError) or not isinstance(name, str) or os.path.basename(bundles) != 'bundles':
        return None
    state, path = os.path.dirname(bundles), os.path.realpath(name)
    if path == state or path.startswith(state + os.sep):
        return 'the state folder is hidden from jobs; ask for tables, outputs and secrets through ctx'
    if state.startswith(os.path.dirname(path).rstrip(os.sep) + os.sep):
        return (
            'what comes to lie directly in a folder that holds the state folder can be read from the next attempt on; '
            'use a folder below it, or ctx.scratch'
        )
    return None


def _state_of(ctx: Context) -> Any:
    """What the phase left in ``ctx.state`` when it failed, for cleanup; ``None`` when it cannot be kept."""
    try:
        return json.loads(encoded_state(ctx))
    except UserError:
        return None


def _meaning(code: int) -> str:
    return {RETRY_LATER: ': to be tried again later', PERMANENT: ': not to be tried again'}.get(code, '')


def _message_of(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as inner:
        text = f'its message cannot be shown: {type(inner).__name__}'
    return text if len(text) <= MESSAGE_LIMIT else text[:MESSAGE_LIMIT] + '...'


def _error(
    kind: str, type_name: str, message: str, hint: str | None, frames: list[dict[str, Any]], exit_code: int | None
) -> dict[str, Any]:
    return {
        'kind': kind,
        'type': type_name,
        'message': message,
        'hint': hint,
        'frames': frames,
        'exit_code': exit_code,
    }


def _report(error: BaseException, root: str) -> None:
    """Prints the traceback to the log, from the user's first line on."""
    import traceback

    first = error.__traceback__
    while first is not None and relative(first.tb_frame.f_code.co_filename, root) is None:
        first = first.tb_next
    try:
        traceback.print_exception(type(error), error, first or error.__traceback__)
    except Exception:
        # Whatever is wrong with the exception or with stderr, the report to the server matters more.
        pass


def _print_error(message: str, hint: str | None) -> None:
    text = f'error: {message}\n' + (f'  hint: {hint}\n' if hint else '')
    try:
        sys.stderr.write(text)
    except (OSError, ValueError):
        # A closed stderr must not hide the error from the server.
        pass


def _stop_fork(channel: Channel, code: int) -> None:
    """Ends a process that the job forked and that came back from the phase as if it were the job."""
    if not channel.owned:
        flush()
        os._exit(code)


def flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            # Closed by the job, or by the server: nothing to save.
            pass


def line_buffered() -> None:
    """Makes what the job prints appear line by line, and never fail for a character."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, 'reconfigure', None)
        if reconfigure is not None:
            reconfigure(encoding='utf-8', errors='backslashreplace', line_buffering=True)


def leave(code: int) -> NoReturn:
    """Ends the process the same way in a cold and in a forked one: threads first, then exit functions, then out.

    After a failure threads are not waited for: the attempt is over.
    """
    import atexit

    threading = sys.modules.get('threading')
    if threading is not None and code == 0:
        getattr(threading, '_shutdown')()
    try:
        getattr(atexit, '_run_exitfuncs')()
    except BaseException as error:
        # The outcome is reported already; an exit function cannot change it, only be seen to fail.
        print(f'an exit function failed: {type(error).__name__}: {error}', file=sys.stderr)
    flush()
    os._exit(code)


def main() -> NoReturn:
    number = os.environ.pop('PINRAIL_RUNNER_FD', '')
    if not number.isdigit():
        print('pinrail.run is started by Pinrail, with the environment variable PINRAIL_RUNNER_FD', file=sys.stderr)
        sys.exit(2)
    line_buffered()
    leave(serve(Channel(int(number))))


if __name__ == '__main__':
    main()
