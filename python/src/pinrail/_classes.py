"""Finds the class or function that a dotted name means by reading source, without importing anything.

Three answers: found; provably absent, with the near name; undecidable, where only an import could tell (a star
import, a module's ``__getattr__``, an assignment from a call, a module without source). Undecidable is never an error:
the first setup decides.
"""

from __future__ import annotations

import ast
import os
import sys
from typing import NamedTuple, Optional, Union

from ._errors import near
from ._job import PHASES
from ._source import Source, relative_to, source_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_Function = Union[ast.FunctionDef, ast.AsyncFunctionDef]


class Found(NamedTuple):
    """A class or function and the file that defines it."""

    node: Union[ast.ClassDef, _Function]
    source: Source
    module: str


class Absent(NamedTuple):
    """``message`` says what is not there; ``meant`` is the near dotted name; ``place`` a broken file and its line."""

    message: str
    meant: Optional[str] = None
    place: Optional[tuple[str, int]] = None


class Undecidable(NamedTuple):
    reason: str


Answer = Union[Found, Absent, Undecidable]


class Finder:
    """Finds classes below ``root``, and in installed packages as far as they have source."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._all: Optional[list[str]] = None

    def find(self, name: str) -> Answer:
        """What the dotted ``name`` means."""
        answer = self._resolve(name.split('.'), set())
        if not isinstance(answer, Absent) or answer.place is not None:
            return answer
        # A near name is only worth saying when it leads somewhere.
        if answer.meant is not None and isinstance(self._resolve(answer.meant.split('.'), set()), Found):
            return answer
        meant = near(name, self.known())
        # Long modules make names alike of which the last parts have nothing in common.
        last = name.rpartition('.')[2]
        alike = meant is not None and near(last, [meant.rpartition('.')[2]]) is not None
        return Absent(answer.message, meant if alike else None)

    def problem(self, found: Found) -> Optional[tuple[str, Optional[str]]]:
        """Why a class or function cannot be a job, and a hint."""
        node = found.node
        place = f'({self._shown(found.source)}:{node.lineno})'
        if isinstance(node, ast.ClassDef):
            if self._has_execute(found, set()) is not False:
                return None
            methods = [one.name for one in node.body if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef))]
            method = near('execute', [one for one in methods if one not in PHASES])
            hint = f'did you mean "{method}" to be "execute"?' if method else 'define execute(self, ctx)'
            return f'has no execute {place}', hint
        if node.decorator_list:
            return None
        arguments = node.args
        count = len(arguments.posonlyargs) + len(arguments.args) - len(arguments.defaults)
        keywords = sum(default is None for default in arguments.kw_defaults)
        if count == 1 and not keywords:
            return None
        return (
            f'has {count + keywords or "no"} required arguments instead of one {place}',
            'a job is a function of the context alone: def hello(ctx)',
        )

    def known(self) -> list[str]:
        """The dotted names of the project's classes and functions, outside of ``workflows`` and ``tests``."""
        if self._all is None:
            self._all = []
            for folder, folders, files in os.walk(self._root):
                folders[:] = sorted(
                    one
                    for one in folders
                    if one.isidentifier() and not (folder == self._root and one in ('workflows', 'tests'))
                )
                for file in sorted(files):
                    source = source_of(os.path.join(folder, file)) if file.endswith('.py') else None
                    if source is None or source.tree is None:
                        continue
                    module = (
                        (relative_to(source.path, self._root) or '')[:-3].replace('/', '.').removesuffix('.__init__')
                    )
                    for node in source.tree.body:
                        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith('_'):
                            self._all.append(f'{module}.{node.name}')
        return self._all

    def _shown(self, source: Source) -> str:
        return relative_to(source.path, self._root) or source.path

    # Modules are folders and files: the walk goes as far into packages as it can, then into the names of the module.

    def _resolve(self, parts: list[str], seen: set[tuple[str, str]]) -> Answer:
        base = self._base(parts[0])
        if isinstance(base, (Absent, Undecidable)):
            return base
        return self._in_module(base, parts[0], parts[1:], seen)

    def _base(self, name: str) -> Union[str, Absent, Undecidable]:
        """The path of a top-level module without ``.py``: a file or a folder."""
        here = os.path.join(self._root, name)
        if os.path.isfile(here + '.py') or os.path.isdir(here):
            return here
        if name in sys.builtin_module_names:
            return Undecidable(f'module "{name}" is built in')
        from importlib.machinery import PathFinder

        # A top-level name is looked up without importing anything.
        spec = PathFinder.find_spec(name)
        if spec is None:
            return Absent(f'module "{name}" does not exist')
        if spec.origin is not None and spec.origin.endswith('.py'):
            path = spec.origin[:-3]
            return os.path.dirname(path) if os.path.basename(path) == '__init__' else path
        return Undecidable(f'module "{name}" has no source')

    def _in_module(self, path: str, module: str, rest: list[str], seen: set[tuple[str, str]]) -> Answer:
        """``rest`` below the module at ``path`` (without ``.py``)."""
        package = os.path.isdir(path)
        file = os.path.join(path, '__init__.py') if package else path + '.py'
        source: Optional[Source] = None
        if os.path.isfile(file):
            source = source_of(file)
            if source is None:
                return Undecidable(f'{file} cannot be read')
            if source.error is not None:
                line = getattr(source.error, 'lineno', None) or 1
                return Absent(f'{self._shown(source)} is not valid Python', None, (source.path, line))
        if not rest:
            return Absent(f'"{module}" is a module, not a class or function')
        answer: Answer = Absent(f'"{rest[0]}" is not in {module}')
        if source is not None:
            answer = self._in_names(source, path, module, rest, seen)
            if isinstance(answer, Found):
                return answer
        if package:
            child = os.path.join(path, rest[0])
            if os.path.isfile(child + '.py') or os.path.isdir(child):
                return self._in_module(child, f'{module}.{rest[0]}', rest[1:], seen)
            if isinstance(answer, Absent) and source is None:
                names = [one.removesuffix('.py') for one in sorted(os.listdir(path))]
                found = near(rest[0], names)
                tail = '.'.join([found or '', *rest[1:]])
                message = f'module "{module}.{rest[0]}" does not exist' if len(rest) > 1 else answer.message
                return Absent(message, f'{module}.{tail}' if found else None)
            if isinstance(answer, Absent) and answer.meant is None and len(rest) > 1:
                found = near(rest[0], [one.removesuffix('.py') for one in sorted(os.listdir(path))])
                return Absent(
                    f'module "{module}.{rest[0]}" does not exist',
                    f'{module}.{".".join([found, *rest[1:]])}' if found else None,
                )
        return answer

    def _in_names(self, source: Source, path: str, module: str, rest: list[str], seen: set[tuple[str, str]]) -> Answer:
        """``rest`` among the names that a module's code binds."""
        name = rest[0]
        if (source.path, name) in seen:
            return Undecidable(f'"{name}" is imported in a circle')
        seen = seen | {(source.path, name)}
        body = source.tree.body if source.tree is not None else []
        answers: list[Answer] = []
        doubts: list[str] = []
        names: list[str] = []
        for node in _statements(body):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                names.append(node.name)
                if node.name == '__getattr__':
                    doubts.append(f'{self._shown(source)} defines __getattr__')
                if node.name == name:
                    answers.append(self._below(Found(node, source, module), rest[1:], seen))
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if alias.name == '*':
                        doubts.append(f'{self._shown(source)}:{node.lineno} imports a star')
                        continue
                    names.append(alias.asname or alias.name)
                    if names[-1] == name:
                        answers.append(self._imported(source, path, module, node, alias.name, rest[1:], seen))
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    names.append(alias.asname or alias.name.split('.')[0])
                    if names[-1] == name:
                        parts = alias.name.split('.') if alias.asname else [name]
                        answers.append(self._resolve([*parts, *rest[1:]], seen))
            elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                bound = [one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)]
                names += bound
                if name in bound:
                    simple = all(isinstance(target, ast.Name) for target in targets)
                    answers.append(
                        self._assigned(source, path, module, node, node.value if simple else None, rest, seen)
                    )
            if _writes_globals(node):
                doubts.append(f'{self._shown(source)}:{node.lineno} changes its globals')
            for one in (
                ast.walk(node) if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) else ()
            ):
                if isinstance(one, ast.NamedExpr) and one.target.id == name:
                    doubts.append(f'{self._shown(source)}:{one.lineno} assigns it')
        for kind in (Found, Undecidable):
            for answer in answers:
                if isinstance(answer, kind):
                    return answer
        if answers:
            return answers[-1]
        for node in _statements(body):
            if isinstance(node, (ast.For, ast.With, ast.AsyncFor, ast.AsyncWith)) and any(
                isinstance(one, ast.Name) and one.id == name and isinstance(one.ctx, ast.Store)
                for one in ast.walk(node)
            ):
                doubts.append(f'{self._shown(source)}:{node.lineno} binds it')
        if doubts:
            return Undecidable(doubts[0])
        found = near(name, names)
        meant = '.'.join([module, found, *rest[1:]]) if found else None
        return Absent(f'"{name}" is not in {self._shown(source)}', meant)

    def _imported(
        self,
        source: Source,
        path: str,
        module: str,
        node: ast.ImportFrom,
        original: str,
        rest: list[str],
        seen: set[tuple[str, str]],
    ) -> Answer:
        if node.level:
            package = module if os.path.isdir(path) else module.rpartition('.')[0]
            for _ in range(node.level - 1):
                package = package.rpartition('.')[0]
            if not package:
                return Undecidable(f'{self._shown(source)}:{node.lineno} imports relative to no package')
            target = package.split('.') + (node.module.split('.') if node.module else [])
        else:
            target = (node.module or '').split('.')
        answer = self._resolve([*target, original, *rest], seen)
        if isinstance(answer, Absent) and answer.place is None:
            return Absent(f'{answer.message}, from where {self._shown(source)}:{node.lineno} imports it', answer.meant)
        return answer

    def _assigned(
        self,
        source: Source,
        path: str,
        module: str,
        node: Union[ast.Assign, ast.AnnAssign, ast.AugAssign],
        value: Optional[ast.expr],
        rest: list[str],
        seen: set[tuple[str, str]],
    ) -> Answer:
        dotted = _dotted(value)
        if dotted is not None:
            return self._in_names(source, path, module, [*dotted, *rest[1:]], seen)
        if isinstance(value, (ast.Constant, ast.Dict, ast.List, ast.Tuple, ast.Set, ast.JoinedStr)):
            return Absent(f'"{rest[0]}" in {self._shown(source)}:{node.lineno} is neither a class nor a function')
        return Undecidable(f'{self._shown(source)}:{node.lineno} assigns it from what only running it could tell')

    def _below(self, found: Found, rest: list[str], seen: set[tuple[str, str]]) -> Answer:
        """``rest`` among the attributes of a class."""
        if not rest:
            return found
        if not isinstance(found.node, ast.ClassDef):
            return Undecidable(f'"{found.node.name}" is a function')
        names: list[str] = []
        for node in _statements(found.node.body):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                names.append(node.name)
                if node.name == rest[0]:
                    return self._below(Found(node, found.source, found.module), rest[1:], seen)
            elif rest[0] in {
                one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)
            }:
                return Undecidable(f'class "{found.node.name}" assigns "{rest[0]}"')
        if found.node.bases or found.node.keywords or found.node.decorator_list:
            return Undecidable(f'class "{found.node.name}" may inherit "{rest[0]}"')
        near_name = near(rest[0], names)
        meant = f'{found.module}.{found.node.name}.{near_name}' if near_name else None
        return Absent(f'"{rest[0]}" is not in class "{found.node.name}" of {self._shown(found.source)}', meant)

    def _has_execute(self, found: Found, seen: set[int]) -> Optional[bool]:
        """Whether a class defines or inherits ``execute``; None where only an import could tell."""
        node = found.node
        if not isinstance(node, ast.ClassDef) or id(node) in seen:
            return None
        seen.add(id(node))
        for one in _statements(node.body):
            if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                if one.name in ('execute', '__getattr__'):
                    return True
            elif any(isinstance(name, ast.Name) and name.id == 'execute' for name in ast.walk(one)):
                return True
        if node.keywords or node.decorator_list:
            return None
        answer: Optional[bool] = False
        for base in node.bases:
            dotted = _dotted(base.value if isinstance(base, ast.Subscript) else base)
            if dotted is None:
                return None
            if dotted == ['object']:
                continue
            path = found.source.path[:-3]
            path = os.path.dirname(path) if os.path.basename(path) == '__init__' else path
            resolved = self._in_names(found.source, path, found.module, dotted, set())
            if isinstance(resolved, Found) and resolved.module.split('.')[0] == 'pinrail':
                # The base class of this package names execute without doing anything.
                continue
            inherited = self._has_execute(resolved, seen) if isinstance(resolved, Found) else None
            if inherited:
                return True
            answer = None if inherited is None else answer
        return answer


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module or class that run when it does, those in branches and blocks included."""
    for node in body:
        yield node
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for field in ('body', 'orelse', 'finalbody'):
            inner = getattr(node, field, None)
            if isinstance(inner, list):
                yield from _statements(inner)  # pyright: ignore[reportUnknownArgumentType]
        for handler in getattr(node, 'handlers', ()):
            yield from _statements(handler.body)
        for case in getattr(node, 'cases', ()):
            yield from _statements(case.body)


def _writes_globals(node: ast.stmt) -> bool:
    """Whether a statement may bind names that it does not spell."""
    if not isinstance(node, (ast.Expr, ast.Assign, ast.AugAssign)):
        return False
    for one in ast.walk(node):
        if isinstance(one, ast.Call) and isinstance(one.func, ast.Name):
            if one.func.id in ('globals', 'exec', 'vars', 'locals', 'setattr', 'eval'):
                return True
    return False


def _dotted(node: Optional[ast.expr]) -> Optional[list[str]]:
    """The parts of ``a.b.c``, or None for any other expression."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        front = _dotted(node.value)
        return None if front is None else [*front, node.attr]
    return None
