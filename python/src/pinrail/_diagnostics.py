"""Diagnostics: what is wrong in a workflow file, where, and what to do; collected, raised and rendered.

While a ``Collector`` is active, as in ``pinrail.compile``, diagnostics gather in it and the file goes on, so that
several mistakes are reported at once. Elsewhere, as in pytest or at the prompt, the first call with a mistake raises
``DefinitionError`` with the same text.

Invariant: a message is lower case, has no full stop and quotes the thing; the place is the user's, never this
package's.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Optional

from . import _source
from ._errors import DefinitionError
from ._source import Source, Span

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ast
    from collections.abc import Iterable, Mapping, Sequence
    from types import FrameType

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


class Diagnostic:
    """One mistake or doubt. ``file`` is relative to the project where it lies in it; lines and columns count from 1."""

    __slots__ = ('level', 'code', 'message', 'file', 'line', 'column', 'width', 'source', 'hint', 'workflow', 'related')

    def __init__(
        self,
        code: str,
        message: str,
        *,
        level: str = 'error',
        hint: str | None = None,
        file: str | None = None,
        line: int = 1,
        column: int = 1,
        width: int = 1,
        source: str = '',
        workflow: str | None = None,
        related: Iterable[dict[str, Any]] = (),
    ) -> None:
        self.level = level
        self.code = code
        self.message = message
        self.file = file
        self.line = line
        self.column = column
        self.width = width
        self.source = source
        self.hint = hint
        self.workflow = workflow
        self.related = list(related)

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    def sort_key(self) -> tuple[str, int, int, str, str]:
        return (self.file or '', self.line, self.column, self.code, self.message)


class Collector:
    """Diagnostics of one compile; ``root`` is the project's folder, absolute and free of links."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.diagnostics: list[Diagnostic] = []
        self._seen: dict[tuple[str, int, str, str | None], int] = {}

    def ordinal(self, file: str, line: int, func: str, name: str | None) -> int:
        """How many equal calls began on this line before."""
        key = (file, line, func, name)
        number = self._seen.get(key, 0)
        self._seen[key] = number + 1
        return number


_active: list[Collector] = []


def collecting() -> Collector | None:
    return _active[-1] if _active else None


def begin(collector: Collector) -> None:
    _active.append(collector)


def end() -> None:
    _active.pop()


def settle(diagnostics: Sequence[Diagnostic]) -> None:
    """Collects the diagnostics of one call, or raises those that are errors where nothing collects."""
    collector = collecting()
    if collector is not None:
        collector.diagnostics.extend(diagnostics)
    elif any(one.level == 'error' for one in diagnostics):
        raise DefinitionError([one for one in diagnostics if one.level == 'error'])


class Site:
    """Where the user called ``func``: the file and the line on which the call began."""

    __slots__ = ('path', 'line_number', 'func', 'name', 'ordinal')

    def __init__(self, path: str, line: int, func: str, name: str | None = None, ordinal: int = 0) -> None:
        self.path = path
        self.line_number = line
        self.func = func
        self.name = name
        self.ordinal = ordinal

    @classmethod
    def of_caller(cls, func: str, name: str | None = None) -> Site:
        """The innermost caller outside of this package, while compiling the innermost one in the project."""
        collector = collecting()
        frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
        found: tuple[str, int] | None = None
        while frame is not None:
            path = frame.f_code.co_filename
            if not path.startswith(_PACKAGE) and not path.startswith('<frozen'):
                place = (path, frame.f_lineno)
                found = found or place
                if collector is None or path.startswith(collector.root + os.sep):
                    found = place
                    break
            frame = frame.f_back
        path, line = found or ('<unknown>', 1)
        ordinal = collector.ordinal(path, line, func, name) if collector is not None else 0
        return cls(path, line, func, name, ordinal)

    @property
    def source(self) -> Source | None:
        return _source.source_of(self.path)

    @property
    def file(self) -> str:
        """The file as diagnostics name it: relative to the project while compiling, else to the working folder."""
        collector = collecting()
        base = collector.root if collector is not None else os.getcwd()
        return _source.relative_to(self.path, base) or self.path

    def call(self) -> ast.Call | None:
        source = self.source
        return None if source is None else source.call(self.line_number, self.func, self.name, self.ordinal)

    def span(self, setting: str | None = None, *, value: bool = False) -> Span:
        """The place of the call, of the name of a setting in it, or of the setting's value; else the whole line."""
        source = self.source
        if source is None:
            return Span(self.line_number, 1, 1)
        call = self.call()
        if call is None:
            return source.line_span(self.line_number)
        if setting is None:
            return source.span(call)
        node = source.value(call, setting)
        if node is not None and (value or source.setting(call, setting) is None):
            return source.span(node)
        return source.setting(call, setting) or source.span(call)

    def dependency(self, name: str | None) -> Span:
        """The place of a dependency behind the template: the constant ``name``, or all that stands there."""
        source, call = self.source, self.call()
        if source is None or call is None:
            return self.span()
        node = source.dependencies(call)
        if node is None:
            return source.line_span(self.line_number)
        for constant in source.constants(node, name) if name is not None else ():
            return source.span(constant)
        return source.span(node)

    def diagnostic(
        self,
        code: str,
        message: str,
        *,
        hint: str | None = None,
        setting: str | None = None,
        name_only: bool = False,
        span: Span | None = None,
        level: str = 'error',
        related: Iterable[dict[str, Any]] = (),
    ) -> Diagnostic:
        """A diagnostic about this call: at ``span``, at the value (or the name) of a setting, or at the call."""
        place = span or self.span(setting, value=not name_only)
        source = self.source
        return Diagnostic(
            code,
            message,
            level=level,
            hint=hint,
            file=self.file,
            line=place.line,
            column=place.column,
            width=place.width,
            source='' if source is None else source.line(place.line),
            related=related,
        )

    def related(self, message: str, span: Span | None = None) -> dict[str, Any]:
        return {'file': self.file, 'line': self.line_number if span is None else span.line, 'message': message}

    def to_json(self) -> dict[str, Any]:
        return {'file': self.file, 'line': self.line_number}


def at_line(path: str, file: str, line: int, code: str, message: str, **more: Any) -> Diagnostic:
    """A diagnostic about a line of a file."""
    source = _source.source_of(path)
    place = Span(line, 1, 1) if source is None else source.line_span(line)
    text = '' if source is None else source.line(line)
    return Diagnostic(code, message, file=file, line=line, column=place.column, width=place.width, source=text, **more)


def render_diagnostics(diagnostics: Sequence[Diagnostic | Mapping[str, Any]]) -> str:
    """Diagnostics as ``pinrail check`` prints them, one after the other."""
    return '\n'.join(_render(one.to_json() if isinstance(one, Diagnostic) else one) for one in diagnostics)


def _render(one: Mapping[str, Any]) -> str:
    suffix = f'  ({one["code"]})' if one['level'] == 'warning' else ''
    lines = [f'{one["level"]}: {one["message"]}{suffix}']
    file: Optional[str] = one['file']
    hint: Optional[str] = one['hint']
    if file is None:
        if hint:
            lines.append(f'   hint: {hint}')
        return '\n'.join(lines)
    number = str(one['line'])
    gutter = ' ' * max(len(number), 2)
    source: str = one['source']
    lines.append(f'{gutter} ╭─ {file}:{number}')
    if source.strip():
        column: int = one['column']
        # A tab stays a tab, so that the caret stands below its place however wide tabs are.
        pad = ''.join('\t' if letter == '\t' else ' ' for letter in source[: column - 1])
        caret = '^' * min(one['width'], max(1, len(source) - column + 1))
        lines.append(f'{number:>{len(gutter)}} │ {source.rstrip()}')
        lines.append(f'{gutter} │ {pad}{caret}' + (f' {hint}' if hint else ''))
    elif hint:
        lines.append(f'{gutter} │ hint: {hint}')
    for other in one['related']:
        lines.append(f'{gutter} ╰─ {other["file"]}:{other["line"]}: {other["message"]}')
    return '\n'.join(lines)
