"""Workflow files as text and as syntax trees: the ``class=`` spelling, and where things stand in the source.

Responsible for finding the call, setting or dependency that a diagnostic is about, given no more than the line on
which a call began. Not responsible for what is wrong with it.

Invariant: a column is a 1-based count of characters of the original source, whatever its encoding, tabs or spelling
of ``class``.
"""

from __future__ import annotations

import ast
import io
import os
import tokenize
from importlib.util import decode_source
from typing import NamedTuple, Optional, Union

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class Span(NamedTuple):
    """A stretch of one line: the first line of what is meant, from ``column``, ``width`` characters."""

    line: int
    column: int
    width: int


class Source:
    """One source file. ``tree`` is None when it cannot be parsed; ``error`` then says why."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text
        self.lines = text.split('\n')
        self.tree: Optional[ast.Module] = None
        self.error: Union[SyntaxError, ValueError, None] = None
        try:
            self.tree = ast.parse(respell(text), path)
        except (SyntaxError, ValueError, RecursionError) as error:
            self.error = error if isinstance(error, (SyntaxError, ValueError)) else ValueError('too deeply nested')
        self._values: Optional[dict[ast.Call, ast.expr]] = None

    def line(self, number: int) -> str:
        return self.lines[number - 1] if 0 < number <= len(self.lines) else ''

    def line_span(self, number: int) -> Span:
        """The whole line without the blanks around it."""
        text = self.line(number)
        trimmed = text.strip()
        return Span(number, len(text) - len(text.lstrip()) + 1 if trimmed else 1, max(1, len(trimmed)))

    def span(self, node: Union[ast.expr, ast.keyword, ast.stmt]) -> Span:
        """The place of a syntax node; of one over several lines, its first."""
        start = self._characters(node.lineno, node.col_offset)
        if node.end_lineno == node.lineno and node.end_col_offset is not None:
            end = self._characters(node.lineno, node.end_col_offset)
        else:
            end = len(self.line(node.lineno).rstrip())
        return Span(node.lineno, start + 1, max(1, end - start))

    def _characters(self, line: int, offset: int) -> int:
        return len(self.line(line).encode('utf-8')[:offset].decode('utf-8', 'replace'))

    def call(self, line: int, func: str, name: Optional[str] = None, ordinal: int = 0) -> Optional[ast.Call]:
        """The call of ``func`` that begins on ``line``; of several, the one whose ``name=`` is ``name``.

        ``ordinal`` counts equal ones in the order of their evaluation. A call whose arguments are computed, as in a
        loop, is found when it is the only one of its line.
        """
        if self.tree is None:
            return None
        on_line = [node for node in ast.walk(self.tree) if isinstance(node, ast.Call) and node.lineno == line]
        calls = sorted((node for node in on_line if _called(node) == func), key=lambda node: node.col_offset)
        if not calls and name is not None:
            # The function was imported under another name.
            calls = [node for node in on_line if _text(_keyword(node, 'name')) == name]
        named = [node for node in calls if name is not None and _text(_keyword(node, 'name')) == name]
        if named:
            return named[min(ordinal, len(named) - 1)]
        if len(calls) == 1:
            return calls[0]
        if name is None and calls:
            return calls[min(ordinal, len(calls) - 1)]
        return None

    def setting(self, call: ast.Call, name: str) -> Optional[Span]:
        """The place of a setting's name in a call."""
        for keyword in call.keywords:
            if keyword.arg is not None and _spelling(keyword.arg) == _spelling(name):
                place = self.span(keyword)
                # The original may have "class" where the tree has "klass"; both have five letters.
                return Span(place.line, place.column, len(keyword.arg))
        return None

    def value(self, call: ast.Call, name: str) -> Optional[ast.expr]:
        """The value of a setting in a call; a first positional argument counts as ``text``, ``name`` and the like."""
        found = _keyword(call, name)
        if found is None and call.args and name in _POSITIONAL.get(_called(call) or '', ()):
            index = _POSITIONAL[_called(call) or ''].index(name)
            found = call.args[index] if index < len(call.args) else None
        return found

    def dependencies(self, call: ast.Call) -> Optional[ast.expr]:
        """What stands behind the colon of a template in the dict of a workflow."""
        if self.tree is None:
            return None
        if self._values is None:
            self._values = {}
            assigned: dict[str, ast.Call] = {}
            for node in ast.walk(self.tree):
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                    for target in node.targets:
                        if isinstance(target, ast.Name):
                            assigned[target.id] = node.value
            for node in ast.walk(self.tree):
                if not isinstance(node, ast.Dict):
                    continue
                for key, value in zip(node.keys, node.values):
                    if isinstance(key, ast.Name):
                        key = assigned.get(key.id)
                    if isinstance(key, ast.Call):
                        self._values.setdefault(key, value)
        return self._values.get(call)

    def constants(self, node: ast.AST, text: str) -> Iterator[ast.Constant]:
        """The string constants below a node that are ``text``."""
        for one in ast.walk(node):
            if isinstance(one, ast.Constant) and one.value == text:
                yield one

    def assignment(self, name: str) -> Optional[Union[ast.Assign, ast.AnnAssign]]:
        """The last assignment to a variable of the module."""
        found: Optional[Union[ast.Assign, ast.AnnAssign]] = None
        for node in self.tree.body if self.tree is not None else ():
            if isinstance(node, ast.Assign):
                targets = node.targets
            elif isinstance(node, ast.AnnAssign):
                targets = [node.target]
            else:
                continue
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                found = node
        return found

    def reads(self, name: str) -> bool:
        """Whether any code of the file reads the variable."""
        if self.tree is None:
            return False
        return any(
            isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load)
            for node in ast.walk(self.tree)
        )


_POSITIONAL = {
    'Workflow': ('jobs',),
    'cron': ('cron',),
    'every': ('interval',),
    'once': ('at',),
    'Param': ('type',),
    'Table': ('name', 'partition', 'mode'),
    'Sql': ('text',),
    'RunWorkflow': ('workflow', 'params'),
    'Shell': ('command', 'env'),
}

_cache: dict[str, Optional[Source]] = {}


def source_of(path: str) -> Optional[Source]:
    """The source of a file, read once; None when it cannot be read or decoded."""
    if path not in _cache:
        try:
            with open(path, 'rb') as file:
                _cache[path] = Source(path, decode(file.read()))
        except (OSError, SyntaxError, ValueError):
            _cache[path] = None
    return _cache[path]


def forget() -> None:
    """Empties the cache, for a compile of other files in the same process."""
    _cache.clear()


def decode(data: bytes) -> str:
    """The text of a source file by its encoding line, with all line ends as ``\\n``."""
    return decode_source(data)


def respell(text: str) -> str:
    """``text`` with ``klass`` for each ``class`` that is the name of an argument in a call.

    Both have five letters, so every column stays true. A file that cannot be split into tokens is returned as it is;
    the compiler then says what is wrong with it.
    """
    if 'class' not in text:
        return text
    places: list[tuple[int, int]] = []
    brackets: list[str] = []
    candidate: Optional[tuple[int, int]] = None
    try:
        for token in tokenize.generate_tokens(io.StringIO(text, newline='').readline):
            if candidate is not None and token.type == tokenize.OP and token.string == '=':
                places.append(candidate)
            candidate = None
            if token.type == tokenize.OP and token.string in ('(', '[', '{'):
                brackets.append(token.string)
            elif token.type == tokenize.OP and token.string in (')', ']', '}') and brackets:
                brackets.pop()
            elif token.type == tokenize.NAME and token.string == 'class' and brackets[-1:] == ['(']:
                candidate = token.start
    except (tokenize.TokenError, SyntaxError):
        return text
    if not places:
        return text
    lines = text.split('\n')
    for row, column in places:
        line = lines[row - 1]
        lines[row - 1] = line[:column] + 'klass' + line[column + 5 :]
    return '\n'.join(lines)


def relative_to(path: str, root: str) -> Optional[str]:
    """``path`` relative to ``root`` with forward slashes, or None when it lies elsewhere."""
    return path[len(root) + 1 :].replace(os.sep, '/') if path.startswith(root + os.sep) else None


def _called(call: ast.Call) -> Optional[str]:
    func = call.func
    return func.id if isinstance(func, ast.Name) else func.attr if isinstance(func, ast.Attribute) else None


def _spelling(name: str) -> str:
    return 'class_' if name in ('class_', 'klass', 'class') else name


def _keyword(call: ast.Call, name: str) -> Optional[ast.expr]:
    for keyword in call.keywords:
        if keyword.arg is not None and _spelling(keyword.arg) == _spelling(name):
            return keyword.value
    return None


def _text(node: Optional[ast.expr]) -> Optional[str]:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
