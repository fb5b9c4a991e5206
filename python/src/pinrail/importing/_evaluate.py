"""Follows what a Python file does when it is imported, without importing it.

Workflow files are programs: they make tasks in loops, in comprehensions and by functions of their own. The evaluator
runs the statements of a file over plain values and over the ``Thing``s that a ``World`` (the other tool's names) gives
it. It calls no code of the file's imports and none of the file's own but by walking its syntax tree.

Invariants: what cannot be known is an ``Unknown`` with the reason, never a guess; a condition that is not known is
taken both ways, with a note; every file ends within a number of steps.
"""

from __future__ import annotations

import ast
import datetime
import json
import operator
import os
import pathlib
import sys
import textwrap
from typing import Any, Callable, Optional, Union

from .._narrow import as_dict, as_list
from ._report import Report

# A value of the evaluated file: plain, a ``Thing`` or an ``Unknown``.
Value = Any


def _standard() -> frozenset[str]:
    """Modules of Python's own library; before 3.10 the interpreter has no list of them."""
    known: Optional[frozenset[str]] = getattr(sys, 'stdlib_module_names', None)
    if known is not None:
        return known
    folder = os.path.dirname(os.__file__)
    names = [*os.listdir(folder), *os.listdir(os.path.join(folder, 'lib-dynload')), *sys.builtin_module_names]
    return frozenset(name.partition('.')[0] for name in names)


STANDARD = _standard()

MOST_STEPS = 500_000
MOST_ROUNDS = 10_000
MOST_CALLS = 60
# Texts and lists do not grow beyond this by multiplication.
MOST_LENGTH = 1_000_000


class Unknown:
    """A value that only the other tool, or a run, knows."""

    def __init__(self, why: str, node: Optional[ast.AST] = None, *, matters: bool = False) -> None:
        self.why = why
        # Whether tasks are lost with it, so that a note has to tell of it wherever it goes.
        self.matters = matters
        self.text = '' if node is None else shown(node)
        self.line = getattr(node, 'lineno', 0)
        # Whether a note tells of it already.
        self.is_told = False

    def __repr__(self) -> str:
        return f'Unknown({self.why!r})'


class Thing:
    """A value with behaviour. What a kind of thing does not define is not known."""

    def attribute(self, name: str, ev: Evaluator, node: ast.AST) -> Value:
        return Unknown(f'"{name}" is only known at run time', node)

    def assign(self, name: str, value: Value, ev: Evaluator, node: ast.AST) -> None:
        del name, value, ev, node

    def item(self, key: Value, ev: Evaluator, node: ast.AST) -> Value:
        del key, ev
        return Unknown('only known at run time', node)

    def call(self, args: list[Value], kwargs: dict[str, Value], ev: Evaluator, node: ast.Call) -> Value:
        del args, kwargs, ev
        return Unknown('only known at run time', node)

    def enter(self, ev: Evaluator) -> Value:
        del ev
        return self

    def leave(self, ev: Evaluator) -> None:
        del ev

    def text(self) -> Optional[str]:
        """What the thing is inside an f-string."""
        return None

    def truth(self) -> Optional[bool]:
        return True


class Ref(Thing):
    """Something imported, by its dotted name."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def last(self) -> str:
        return self.name.rsplit('.', 1)[-1]

    def attribute(self, name: str, ev: Evaluator, node: ast.AST) -> Value:
        known = ev.world.value(f'{self.name}.{name}')
        return Ref(f'{self.name}.{name}') if known is None else known

    def call(self, args: list[Value], kwargs: dict[str, Value], ev: Evaluator, node: ast.Call) -> Value:
        return ev.world.call(self.name, args, kwargs, ev, node)

    def truth(self) -> Optional[bool]:
        return False if self.name == 'typing.TYPE_CHECKING' else None

    def __repr__(self) -> str:
        return f'Ref({self.name})'


class Elsewhere(Ref):
    """Something imported from another file of the import: what it is there, and the evaluator of that file."""

    def __init__(self, name: str, value: Value, ev: Evaluator) -> None:
        super().__init__(name)
        self.value = value
        self.ev = ev

    def attribute(self, name: str, ev: Evaluator, node: ast.AST) -> Value:
        return self.value.attribute(name, self.ev, node)

    def call(self, args: list[Value], kwargs: dict[str, Value], ev: Evaluator, node: ast.Call) -> Value:
        return self.value.call(args, kwargs, self.ev, node)


class Native(Thing):
    """A function of Python, or of a ``World``."""

    def __init__(self, run: Callable[[list[Value], dict[str, Value], ast.Call], Value]) -> None:
        self._run = run

    def call(self, args: list[Value], kwargs: dict[str, Value], ev: Evaluator, node: ast.Call) -> Value:
        return self._run(args, kwargs, node)


class Partial(Thing):
    """``functools.partial(...)``."""

    def __init__(self, args: list[Value], kwargs: dict[str, Value]) -> None:
        self.function = args[0] if args else None
        self.args = args[1:]
        self.kwargs = kwargs

    def call(self, args: list[Value], kwargs: dict[str, Value], ev: Evaluator, node: ast.Call) -> Value:
        if not isinstance(self.function, Thing):
            return super().call(args, kwargs, ev, node)
        return self.function.call([*self.args, *args], {**self.kwargs, **kwargs}, ev, node)


class Scope:
    """Variables of a module or of a function's call."""

    def __init__(self, outer: Optional[Scope] = None) -> None:
        self.outer = outer
        self.names: dict[str, Value] = {}

    def find(self, name: str) -> Optional[Scope]:
        scope: Optional[Scope] = self
        while scope is not None and name not in scope.names:
            scope = scope.outer
        return scope


Def = Union[ast.FunctionDef, ast.AsyncFunctionDef]


class Function(Thing):
    """A function of the file, with the variables around it."""

    def __init__(self, node: Union[Def, ast.Lambda], scope: Scope) -> None:
        self.node = node
        self.scope = scope
        self.name = node.name if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) else 'lambda'

    def call(self, args: list[Value], kwargs: dict[str, Value], ev: Evaluator, node: ast.Call) -> Value:
        return ev.invoke(self, args, kwargs, node)


class Class(Thing):
    """A class of the file."""

    def __init__(self, node: ast.ClassDef, bases: list[Value], scope: Scope) -> None:
        self.node = node
        self.bases = bases
        self.scope = scope

    def ancestors(self) -> list[str]:
        """The dotted names of what the class is made of, its own last."""
        names: list[str] = []
        for base in self.bases:
            names += base.ancestors() if isinstance(base, Class) else [base.name] if isinstance(base, Ref) else []
        return [*names, self.node.name]

    def attribute(self, name: str, ev: Evaluator, node: ast.AST) -> Value:
        if name in self.scope.names:
            return self.scope.names[name]
        return Unknown(f'"{name}" of class {self.node.name} is only known at run time', node)

    def call(self, args: list[Value], kwargs: dict[str, Value], ev: Evaluator, node: ast.Call) -> Value:
        return ev.world.instance(self, args, kwargs, ev, node)


class World:
    """The names of the other tool. What it does not know of them is ``Unknown``."""

    def value(self, name: str) -> Value:
        """The value of an imported name, where it has one."""
        del name
        return None

    def call(self, name: str, args: list[Value], kwargs: dict[str, Value], ev: Evaluator, node: ast.Call) -> Value:
        return common_call(name, args, kwargs, node)

    def instance(self, cls: Class, args: list[Value], kwargs: dict[str, Value], ev: Evaluator, node: ast.Call) -> Value:
        del args, kwargs, ev
        return Unknown(f'an object of class {cls.node.name}', node)

    def function(self, made: Function, decorators: list[Value], ev: Evaluator, node: Def) -> Value:
        """What a function of the file is after its decorators."""
        del ev, node
        return made if not decorators else Unknown(f'function {made.name} is changed by a decorator')

    def lost(self, value: Unknown, ev: Evaluator, node: ast.AST) -> None:
        """A statement whose value is not known, and which may have mattered."""


class _Return(Exception):
    def __init__(self, value: Value) -> None:
        super().__init__()
        self.value = value


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class TooLong(Exception):
    """The file does more than an import should."""


class Evaluator:
    """Runs the statements of one file in a world."""

    def __init__(
        self, file: str, text: str, tree: ast.Module, world: World, report: Report, package: Optional[str] = None
    ) -> None:
        self.file = file
        # From where relative imports count, where that is known.
        self.package = package
        self.source = text
        self.tree = tree
        self.world = world
        self.report = report
        self.module = Scope()
        self.module.names.update(
            {'__name__': 'imported', '__doc__': ast.get_docstring(tree, clean=False), '__file__': file}
        )
        self._steps = 0
        self._depth = 0

    def run(self) -> None:
        try:
            self.block(self.tree.body, self.module)
        except (_Return, _Break, _Continue):
            pass
        except (TooLong, RecursionError):
            self.report.left_out(
                self.file, 1, 'the file does too much when it is imported: the rest of it is not read', 'split it'
            )

    # Statements.

    def block(self, body: list[ast.stmt], scope: Scope) -> None:
        for statement in body:
            self._step()
            getattr(self, f'_do_{type(statement).__name__}', self._do_other)(statement, scope)

    def _step(self) -> None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise TooLong

    def _do_other(self, node: ast.stmt, scope: Scope) -> None:
        del scope
        if not isinstance(node, (ast.Pass, ast.Assert, ast.Global, ast.Nonlocal, ast.Delete)):
            self.world.lost(Unknown(f'a statement "{type(node).__name__.lower()}"', node), self, node)

    def _do_Import(self, node: ast.Import, scope: Scope) -> None:
        for alias in node.names:
            top = alias.name.split('.')[0]
            scope.names[alias.asname or top] = Ref(alias.name if alias.asname else top)

    def _do_ImportFrom(self, node: ast.ImportFrom, scope: Scope) -> None:
        module = '.' * node.level + (node.module or '')
        if node.level and self.package is not None:
            above = self.package.split('.')[: len(self.package.split('.')) - node.level + 1]
            module = '.'.join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            name = f'{module}.{alias.name}' if module.strip('.') else module + alias.name
            known = self.world.value(name)
            scope.names[alias.asname or alias.name] = Ref(name) if known is None else known

    def _do_Expr(self, node: ast.Expr, scope: Scope) -> None:
        value = self.value(node.value, scope)
        if isinstance(value, Unknown) and isinstance(node.value, ast.Call):
            self.world.lost(value, self, node)

    def _do_Assign(self, node: ast.Assign, scope: Scope) -> None:
        value = self.value(node.value, scope)
        if isinstance(value, Unknown) and isinstance(node.value, ast.Call):
            self.world.lost(value, self, node)
        for target in node.targets:
            self._bind(target, value, scope)

    def _do_AnnAssign(self, node: ast.AnnAssign, scope: Scope) -> None:
        if node.value is not None:
            self._bind(node.target, self.value(node.value, scope), scope)

    def _do_AugAssign(self, node: ast.AugAssign, scope: Scope) -> None:
        left = self.value(node.target, scope)
        right = self.value(node.value, scope)
        self._bind(node.target, self.binary(type(node.op), left, right, node), scope)

    def _bind(self, target: ast.expr, value: Value, scope: Scope) -> None:
        if isinstance(target, ast.Name):
            scope.names[target.id] = value
        elif isinstance(target, (ast.Tuple, ast.List)):
            items = as_list(value)
            star = next((n for n, one in enumerate(target.elts) if isinstance(one, ast.Starred)), None)
            if items is not None and star is not None and len(items) >= len(target.elts) - 1:
                after = len(target.elts) - star - 1
                middle = items[star : len(items) - after]
                items = [*items[:star], middle, *items[len(items) - after :]]
            if items is None or len(items) != len(target.elts):
                items = [Unknown('taken from a value that is only known at run time', target)] * len(target.elts)
            for one, item in zip(target.elts, items):
                self._bind(one.value if isinstance(one, ast.Starred) else one, item, scope)
        elif isinstance(target, ast.Attribute):
            owner = self.value(target.value, scope)
            if isinstance(owner, Thing):
                owner.assign(target.attr, value, self, target)
        elif isinstance(target, ast.Subscript):
            owner, key = self.value(target.value, scope), self.value(target.slice, scope)
            try:
                if as_dict(owner) is not None or as_list(owner) is not None:
                    owner[key] = value
            except (TypeError, IndexError, KeyError, ValueError):
                self.world.lost(Unknown('an assignment to a part of a value', target), self, target)

    def _do_FunctionDef(self, node: Def, scope: Scope) -> None:
        decorators = [self.value(one, scope) for one in node.decorator_list]
        scope.names[node.name] = self.world.function(Function(node, scope), decorators, self, node)

    _do_AsyncFunctionDef = _do_FunctionDef

    def _do_ClassDef(self, node: ast.ClassDef, scope: Scope) -> None:
        inner = Scope(scope)
        bases = [self.value(base, scope) for base in node.bases]
        for statement in node.body:
            # Only what can be known without running anything: constants of the class.
            if isinstance(statement, ast.Assign):
                self._do_Assign(statement, inner)
        scope.names[node.name] = Class(node, bases, inner)

    def _do_Return(self, node: ast.Return, scope: Scope) -> None:
        raise _Return(None if node.value is None else self.value(node.value, scope))

    def _do_Break(self, node: ast.Break, scope: Scope) -> None:
        del node, scope
        raise _Break

    def _do_Continue(self, node: ast.Continue, scope: Scope) -> None:
        del node, scope
        raise _Continue

    def _do_Raise(self, node: ast.Raise, scope: Scope) -> None:
        del scope
        self.world.lost(Unknown('the file raises an error here', node), self, node)
        raise _Return(Unknown('the file raises an error here', node))

    def _do_If(self, node: ast.If, scope: Scope) -> None:
        test = self.value(node.test, scope)
        known = self.truth(test)
        if known is not None:
            self.block(node.body if known else node.orelse, scope)
            return
        if any(not isinstance(one, (ast.Pass, ast.Import, ast.ImportFrom)) for one in [*node.body, *node.orelse]):
            self.report.changed(
                self.file,
                node.lineno,
                f'the condition "{shown(node.test)}" is only known at run time: what stands below it is translated'
                + (' both ways' if node.orelse else ''),
                'remove what is not wanted',
            )
        for branch in (node.body, node.orelse):
            try:
                self.block(branch, scope)
            except (_Return, _Break, _Continue):
                # The other way is still to be looked at.
                continue

    def _do_For(self, node: ast.For, scope: Scope) -> None:
        items = iterated(self.value(node.iter, scope))
        if items is None:
            self._not_followed(node, f'a loop over "{shown(node.iter)}", which is only known at run time')
            return
        for item in items[:MOST_ROUNDS]:
            self._step()
            self._bind(node.target, item, scope)
            try:
                self.block(node.body, scope)
            except _Break:
                return
            except _Continue:
                continue
        self.block(node.orelse, scope)

    _do_AsyncFor = _do_For

    def _do_While(self, node: ast.While, scope: Scope) -> None:
        for _ in range(MOST_ROUNDS):
            known = self.truth(self.value(node.test, scope))
            if known is None:
                self._not_followed(node, f'a loop while "{shown(node.test)}", which is only known at run time')
                return
            if not known:
                return
            try:
                self.block(node.body, scope)
            except _Break:
                return
            except _Continue:
                continue

    def _not_followed(self, node: ast.stmt, what: str) -> None:
        self.world.lost(Unknown(what, node), self, node)

    def _do_With(self, node: ast.With, scope: Scope) -> None:
        entered: list[Thing] = []
        for item in node.items:
            value = self.value(item.context_expr, scope)
            if isinstance(value, Thing):
                entered.append(value)
                value = value.enter(self)
            if item.optional_vars is not None:
                self._bind(item.optional_vars, value, scope)
        try:
            self.block(node.body, scope)
        finally:
            for one in reversed(entered):
                one.leave(self)

    _do_AsyncWith = _do_With

    def _do_Try(self, node: ast.Try, scope: Scope) -> None:
        self.block([*node.body, *node.orelse, *node.finalbody], scope)

    # Expressions.

    def value(self, node: ast.expr, scope: Scope) -> Value:
        self._step()
        return getattr(self, f'_of_{type(node).__name__}', self._of_other)(node, scope)

    def _of_other(self, node: ast.expr, scope: Scope) -> Value:
        del scope
        return Unknown('only known at run time', node)

    def _of_Constant(self, node: ast.Constant, scope: Scope) -> Value:
        del scope
        return node.value

    def _of_Name(self, node: ast.Name, scope: Scope) -> Value:
        found = scope.find(node.id)
        if found is not None:
            return found.names[node.id]
        builtin = _BUILTINS.get(node.id)
        if builtin is not None:
            return builtin
        return Unknown(f'"{node.id}" is not defined in the file', node)

    def _of_Attribute(self, node: ast.Attribute, scope: Scope) -> Value:
        owner = self.value(node.value, scope)
        if isinstance(owner, Thing):
            return owner.attribute(node.attr, self, node)
        if isinstance(owner, Unknown):
            return Unknown(owner.why, node)
        return plain_attribute(owner, node)

    def _of_Subscript(self, node: ast.Subscript, scope: Scope) -> Value:
        owner, key = self.value(node.value, scope), self.value(node.slice, scope)
        if isinstance(owner, Thing):
            return owner.item(key, self, node)
        if isinstance(owner, Unknown) or isinstance(key, Unknown):
            return Unknown('only known at run time', node)
        try:
            return owner[key]
        except Exception as error:
            return Unknown(f'{type(error).__name__} in "{shown(node)}"', node)

    def _of_Slice(self, node: ast.Slice, scope: Scope) -> Value:
        parts = [None if one is None else self.value(one, scope) for one in (node.lower, node.upper, node.step)]
        if any(isinstance(one, Unknown) for one in parts):
            return Unknown('only known at run time', node)
        return slice(*parts)

    def _items(self, nodes: list[ast.expr], scope: Scope) -> Optional[list[Value]]:
        items: list[Value] = []
        for one in nodes:
            if isinstance(one, ast.Starred):
                inner = iterated(self.value(one.value, scope))
                if inner is None:
                    return None
                items += inner
            else:
                items.append(self.value(one, scope))
        return items

    def _of_List(self, node: ast.List, scope: Scope) -> Value:
        items = self._items(node.elts, scope)
        return Unknown('a list of unknown length', node) if items is None else items

    def _of_Tuple(self, node: ast.Tuple, scope: Scope) -> Value:
        items = self._items(node.elts, scope)
        return Unknown('a tuple of unknown length', node) if items is None else tuple(items)

    def _of_Set(self, node: ast.Set, scope: Scope) -> Value:
        items = self._items(node.elts, scope)
        try:
            return Unknown('a set of unknown length', node) if items is None else set(items)
        except TypeError:
            return Unknown('a set of values that cannot be in one', node)

    def _of_Dict(self, node: ast.Dict, scope: Scope) -> Value:
        made: dict[Any, Any] = {}
        for key, one in zip(node.keys, node.values):
            item = self.value(one, scope)
            if key is None:
                inner = as_dict(item)
                if inner is None:
                    return Unknown('a dict with entries that are only known at run time', node)
                made.update(inner)
                continue
            name = self.value(key, scope)
            try:
                made[name] = item
            except TypeError:
                return Unknown('a dict with a key that cannot be one', node)
        return made

    def _of_JoinedStr(self, node: ast.JoinedStr, scope: Scope) -> Value:
        parts: list[str] = []
        for one in node.values:
            part = self.value(one.value, scope) if isinstance(one, ast.FormattedValue) else self.value(one, scope)
            if isinstance(one, ast.FormattedValue):
                spec = '' if one.format_spec is None else self.value(one.format_spec, scope)
                part = formatted(part, one.conversion, spec)
            if not isinstance(part, str):
                return Unknown('a text with parts that are only known at run time', node)
            parts.append(part)
        return ''.join(parts)

    def _of_Lambda(self, node: ast.Lambda, scope: Scope) -> Value:
        return Function(node, scope)

    def _of_IfExp(self, node: ast.IfExp, scope: Scope) -> Value:
        known = self.truth(self.value(node.test, scope))
        if known is None:
            return Unknown(f'the condition "{shown(node.test)}" is only known at run time', node)
        return self.value(node.body if known else node.orelse, scope)

    def _of_BoolOp(self, node: ast.BoolOp, scope: Scope) -> Value:
        result: Value = None
        for one in node.values:
            result = self.value(one, scope)
            known = self.truth(result)
            if known is None:
                return Unknown('only known at run time', node)
            if known is isinstance(node.op, ast.Or):
                return result
        return result

    def _of_UnaryOp(self, node: ast.UnaryOp, scope: Scope) -> Value:
        value = self.value(node.operand, scope)
        if isinstance(node.op, ast.Not):
            known = self.truth(value)
            return Unknown('only known at run time', node) if known is None else not known
        try:
            return _UNARY[type(node.op)](value)
        except (TypeError, KeyError):
            return Unknown('only known at run time', node)

    def _of_BinOp(self, node: ast.BinOp, scope: Scope) -> Value:
        return self.binary(type(node.op), self.value(node.left, scope), self.value(node.right, scope), node)

    def binary(self, kind: type[ast.operator], left: Value, right: Value, node: ast.AST) -> Value:
        shift = getattr(self.world, 'shift', None)
        if shift is not None and kind in (ast.RShift, ast.LShift):
            return shift(left, right, kind is ast.RShift, self, node)
        if isinstance(left, (Unknown, Thing)) or isinstance(right, (Unknown, Thing)):
            return Unknown('only known at run time', node)
        run = _BINARY.get(kind)
        if run is None or (kind is ast.Mult and _product(left, right) > MOST_LENGTH):
            return Unknown('only known at run time', node)
        if kind is ast.Pow and (not isinstance(right, int) or abs(right) > 64):
            return Unknown('only known at run time', node)
        try:
            return run(left, right)
        except Exception as error:
            return Unknown(f'{type(error).__name__} in "{shown(node)}"', node)

    def _of_Compare(self, node: ast.Compare, scope: Scope) -> Value:
        left = self.value(node.left, scope)
        for op, one in zip(node.ops, node.comparators):
            right = self.value(one, scope)
            if isinstance(op, (ast.Is, ast.IsNot)) and not isinstance(left, Unknown) and not isinstance(right, Unknown):
                held = (left is right) is isinstance(op, ast.Is)
            elif isinstance(left, (Unknown, Thing)) or isinstance(right, (Unknown, Thing)):
                return Unknown('only known at run time', node)
            else:
                try:
                    held = _COMPARE[type(op)](left, right)
                except (TypeError, KeyError):
                    return Unknown('only known at run time', node)
            if not held:
                return False
            left = right
        return True

    def _of_NamedExpr(self, node: ast.NamedExpr, scope: Scope) -> Value:
        value = self.value(node.value, scope)
        scope.names[node.target.id] = value
        return value

    def _of_ListComp(self, node: ast.ListComp, scope: Scope) -> Value:
        return self._comprehension(node, node.generators, lambda inner: self.value(node.elt, inner), scope)

    _of_GeneratorExp = _of_ListComp

    def _of_SetComp(self, node: ast.SetComp, scope: Scope) -> Value:
        made = self._comprehension(node, node.generators, lambda inner: self.value(node.elt, inner), scope)
        try:
            return made if isinstance(made, Unknown) else set(made)
        except TypeError:
            return Unknown('a set of values that cannot be in one', node)

    def _of_DictComp(self, node: ast.DictComp, scope: Scope) -> Value:
        def entry(inner: Scope) -> Value:
            return self.value(node.key, inner), self.value(node.value, inner)

        made = self._comprehension(node, node.generators, entry, scope)
        try:
            return made if isinstance(made, Unknown) else dict(made)
        except TypeError:
            return Unknown('a dict with a key that cannot be one', node)

    def _comprehension(
        self, node: ast.expr, generators: list[ast.comprehension], make: Callable[[Scope], Value], scope: Scope
    ) -> Value:
        made: list[Value] = []

        def over(rest: list[ast.comprehension], inner: Scope) -> bool:
            if not rest:
                made.append(make(inner))
                return True
            items = iterated(self.value(rest[0].iter, inner))
            if items is None:
                return False
            for item in items[:MOST_ROUNDS]:
                self._bind(rest[0].target, item, inner)
                held = [self.truth(self.value(test, inner)) for test in rest[0].ifs]
                if None in held:
                    return False
                if all(held) and not over(rest[1:], inner):
                    return False
            return True

        if over(generators, Scope(scope)):
            return made
        unknown = Unknown(f'a list made from "{shown(generators[0].iter)}", which is only known at run time', node)
        self.world.lost(unknown, self, node)
        return unknown

    def _of_Call(self, node: ast.Call, scope: Scope) -> Value:
        func = self.value(node.func, scope)
        args = self._items(node.args, scope)
        kwargs: dict[str, Value] = {}
        complete = args is not None
        for keyword in node.keywords:
            value = self.value(keyword.value, scope)
            if keyword.arg is not None:
                kwargs[keyword.arg] = value
                continue
            entries = as_dict(value)
            if entries is None:
                complete = False
            else:
                kwargs.update({str(key): one for key, one in entries.items()})
        if not complete:
            self.report.left_out(
                self.file, node.lineno, f'arguments of "{shown(node.func)}" are only known at run time', 'add them'
            )
        if isinstance(func, Thing):
            return func.call(args or [], kwargs, self, node)
        if isinstance(func, Unknown):
            return Unknown(func.why, node, matters=func.matters)
        return Unknown(f'"{shown(node.func)}" is not a function', node)

    def invoke(self, function: Function, args: list[Value], kwargs: dict[str, Value], node: ast.AST) -> Value:
        """The value of a call of one of the file's functions, whose body is walked through."""
        if self._depth >= MOST_CALLS:
            return Unknown('a function that calls itself too often', node)
        inner = Scope(function.scope)
        inner.names.update(self.arguments(function, args, kwargs, node))
        self._depth += 1
        try:
            if isinstance(function.node, ast.Lambda):
                return self.value(function.node.body, inner)
            self.block(function.node.body, inner)
        except _Return as returned:
            return returned.value
        finally:
            self._depth -= 1
        return None

    def arguments(
        self, function: Function, args: list[Value], kwargs: dict[str, Value], node: ast.AST
    ) -> dict[str, Value]:
        """The parameters of a function with their values for a call, defaults included."""
        spec = function.node.args
        names = [one.arg for one in [*spec.posonlyargs, *spec.args]]
        bound: dict[str, Value] = dict(zip(names, args))
        if spec.vararg is not None:
            bound[spec.vararg.arg] = tuple(args[len(names) :])
        rest: dict[str, Value] = {}
        keywords = {*names, *(one.arg for one in spec.kwonlyargs)}
        for name, value in kwargs.items():
            (bound if name in keywords else rest)[name] = value
        if spec.kwarg is not None:
            bound[spec.kwarg.arg] = rest
        for name, default in zip(names[len(names) - len(spec.defaults) :], spec.defaults):
            if name not in bound:
                bound[name] = self.value(default, function.scope)
        for one, default in zip(spec.kwonlyargs, spec.kw_defaults):
            if one.arg not in bound and default is not None:
                bound[one.arg] = self.value(default, function.scope)
        for name in keywords:
            bound.setdefault(name, Unknown(f'argument "{name}" is not given', node))
        return bound

    def truth(self, value: Value) -> Optional[bool]:
        if isinstance(value, Unknown):
            return None
        if isinstance(value, Thing):
            return value.truth()
        return bool(value)


def _product(left: Value, right: Value) -> int:
    """How long a text or list becomes by multiplication; 0 for numbers."""
    for items, times in ((left, right), (right, left)):
        if isinstance(times, int) and (isinstance(items, str) or as_list(items) is not None):
            return len(items) * times
    return 0


def shown(node: ast.AST) -> str:
    """The source of a syntax node on one line, cut short."""
    text = ' '.join(ast.unparse(node).split())
    return text if len(text) <= 60 else text[:57] + '...'


def dotted_names(node: ast.AST) -> set[str]:
    """The plain names below a syntax node."""
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def iterated(value: Value) -> Optional[list[Value]]:
    """What a loop over the value goes through, in order; None where that is not known."""
    entries = as_dict(value)
    if entries is not None:
        return list(entries)
    if isinstance(value, (set, frozenset)):
        unordered: Any = value  # pyright: ignore[reportUnknownVariableType]
        return sorted(unordered, key=str)
    if isinstance(value, (str, range)):
        return list(value)
    return as_list(value)


def formatted(value: Value, conversion: int, spec: Value) -> Optional[str]:
    """A part of an f-string, or None where it is not known."""
    if isinstance(value, Unknown) or not isinstance(spec, str):
        return None
    if isinstance(value, Thing):
        return value.text()
    try:
        return format(repr(value) if conversion == ord('r') else str(value) if conversion == ord('s') else value, spec)
    except (TypeError, ValueError):
        return None


# Methods of plain values that are called for what they give. Those of containers may hold things and unknowns.
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        'capitalize casefold endswith format join lower lstrip partition replace removeprefix removesuffix rpartition '
        'rsplit rstrip split splitlines startswith strip title upper zfill isdigit encode'.split()
    ),
    list: frozenset('append extend insert pop index copy count reverse'.split()),
    tuple: frozenset(('index', 'count')),
    dict: frozenset('get items keys values update setdefault pop copy'.split()),
    set: frozenset('add update union intersection difference discard'.split()),
    datetime.datetime: frozenset('strftime isoformat date replace time timestamp weekday isoweekday'.split()),
    datetime.date: frozenset('strftime isoformat replace weekday isoweekday'.split()),
    datetime.timedelta: frozenset(('total_seconds',)),
    pathlib.PurePosixPath: frozenset('joinpath as_posix with_suffix with_name'.split()),
}
_ATTRIBUTES: dict[type, frozenset[str]] = {
    datetime.datetime: frozenset('year month day hour minute second'.split()),
    datetime.date: frozenset('year month day'.split()),
    datetime.timedelta: frozenset(('days', 'seconds')),
    pathlib.PurePosixPath: frozenset('name stem suffix parent parents parts'.split()),
}


def plain_attribute(owner: Value, node: ast.Attribute) -> Value:
    """An attribute or a method of a plain value."""
    for kind, names in _ATTRIBUTES.items():
        if isinstance(owner, kind) and node.attr in names:
            return getattr(owner, node.attr)
    for kind, names in _METHODS.items():
        if isinstance(owner, kind) and node.attr in names:
            method = getattr(owner, node.attr)
            holds = kind in (list, dict, set, tuple)
            return Native(lambda args, kwargs, call: _safely(method, args, kwargs, call, holds))
    if isinstance(owner, pathlib.PurePosixPath) and node.attr in ('resolve', 'absolute'):
        return Native(lambda args, kwargs, call: owner)
    return Unknown(f'"{node.attr}" is only known at run time', node)


def _safely(
    run: Callable[..., Value], args: list[Value], kwargs: dict[str, Value], node: ast.AST, holds: bool = False
) -> Value:
    """The result of a function without effects, or Unknown. ``holds``: it only keeps what it is given."""
    if not holds and any(unknown_in(one) for one in [*args, *kwargs.values()]):
        return Unknown('only known at run time', node)
    try:
        made = run(*args, **kwargs)
    except Exception as error:
        return Unknown(f'{type(error).__name__} in "{shown(node)}"', node)
    if type(made).__name__ in ('dict_items', 'dict_keys', 'dict_values', 'zip', 'enumerate', 'map', 'reversed'):
        return list(made)
    return made


def unknown_in(value: Value) -> bool:
    """Whether a value is, or holds, something that is not plain."""
    if isinstance(value, (Unknown, Thing)):
        return True
    entries = as_dict(value)
    items = as_list(value, sets=True) if entries is None else [*entries, *entries.values()]
    return items is not None and any(unknown_in(one) for one in items)


def _native(run: Callable[..., Value], *, holds: bool = False) -> Native:
    return Native(lambda args, kwargs, node: _safely(run, args, kwargs, node, holds))


def _range(*args: int) -> list[int]:
    return list(range(*args))[:MOST_ROUNDS]


def _nothing(args: list[Value], kwargs: dict[str, Value], node: ast.Call) -> Value:
    del args, kwargs, node
    return None


_BUILTINS: dict[str, Value] = {
    **{run.__name__: _native(run) for run in (str, int, float, bool, repr, min, max, sum, abs, round, any, all, ord)},
    **{run.__name__: _native(run, holds=True) for run in (len, list, tuple, dict, zip, enumerate, reversed)},
    'set': _native(set),
    'frozenset': _native(frozenset),
    'sorted': _native(sorted),
    'range': _native(_range),
    'print': Native(_nothing),
    'True': True,
    'False': False,
    'None': None,
}

_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.Div: lambda left, right: left / right,
    ast.FloorDiv: lambda left, right: left // right,
    ast.Mod: lambda left, right: left % right,
    ast.Pow: lambda left, right: left**right,
    ast.BitOr: lambda left, right: left | right,
    ast.BitAnd: lambda left, right: left & right,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, among: item in among,
    ast.NotIn: lambda item, among: item not in among,
}


class Zoned(datetime.datetime):
    """A moment in a zone that is named but not looked up: ``zone`` is its IANA name."""

    zone: Optional[str] = None


def _moment(args: list[Value], kwargs: dict[str, Value]) -> datetime.datetime:
    given = {key: one for key, one in kwargs.items() if key not in ('tz', 'tzinfo')}
    made = Zoned(*args[:7], **given)
    made.zone = zone_name(kwargs.get('tz', kwargs.get('tzinfo', args[7] if len(args) > 7 else None)))
    return made


def zone_name(value: Value) -> Optional[str]:
    """The name of a time zone that is given as text, or made by ``pendulum.timezone`` and its like."""
    if isinstance(value, Ref) and value.last in ('UTC', 'utc'):
        return 'UTC'
    return value.name if isinstance(value, Zone) else value if isinstance(value, str) else None


class Zone(Thing):
    """A time zone, by its name."""

    def __init__(self, name: str) -> None:
        self.name = name


_CLOCK = 'the clock at the moment of the import'
_TIMES = ('datetime.datetime.now', 'datetime.datetime.utcnow', 'datetime.datetime.today', 'datetime.date.today')


def common_call(name: str, args: list[Value], kwargs: dict[str, Value], node: ast.Call) -> Value:
    """A call of Python's own library, or of pendulum, where its result depends on its arguments alone."""
    if name in _TIMES or (name.startswith('pendulum.') and name.rsplit('.', 1)[-1] in ('now', 'today', 'yesterday')):
        return Unknown(_CLOCK, node)
    if name in ('os.environ.get', 'os.getenv'):
        return Unknown(f'the environment variable {args[0]!r}' if args else 'an environment variable', node)
    if name in (
        'datetime.datetime',
        'pendulum.datetime',
        'pendulum.DateTime',
        'airflow.utils.timezone.datetime',
    ) or name.endswith('.timezone.datetime'):
        return _safely(lambda: _moment(args, kwargs), [], {}, node)
    if name in ('pendulum.timezone', 'pendulum.tz.timezone', 'zoneinfo.ZoneInfo', 'pytz.timezone', 'pendulum.Timezone'):
        return Zone(str(args[0])) if args else Unknown('a time zone', node)
    if name == 'functools.partial':
        return Partial(args, kwargs)
    run = _LIBRARY.get(name)
    if run is not None:
        return _safely(run, args, kwargs, node)
    return Unknown(f'"{name}" is not known to the importer', node)


def _duration(**parts: float) -> datetime.timedelta:
    return datetime.timedelta(
        days=parts.pop('days', 0) + 365 * parts.pop('years', 0) + 30 * parts.pop('months', 0), **parts
    )


def _path(*parts: Any) -> pathlib.PurePosixPath:
    return pathlib.PurePosixPath(*parts)


def _same(path: Any) -> Any:
    return path


def _joined_path(*parts: Any) -> str:
    return str(_path(*parts))


def _basename(path: Any) -> str:
    return _path(path).name


def _dirname(path: Any) -> str:
    return str(_path(path).parent)


def _without_suffix(path: Any) -> tuple[str, str]:
    suffix = _path(path).suffix
    return str(path)[: len(str(path)) - len(suffix)], suffix


_LIBRARY: dict[str, Callable[..., Value]] = {
    'datetime.timedelta': datetime.timedelta,
    'datetime.date': datetime.date,
    'datetime.time': datetime.time,
    'pendulum.duration': _duration,
    'datetime.datetime.fromisoformat': Zoned.fromisoformat,
    'datetime.datetime.strptime': Zoned.strptime,
    'pendulum.parse': Zoned.fromisoformat,
    'textwrap.dedent': textwrap.dedent,
    'json.dumps': json.dumps,
    'json.loads': json.loads,
    'pathlib.Path': _path,
    'os.path.join': _joined_path,
    'os.path.basename': _basename,
    'os.path.dirname': _dirname,
    'os.path.splitext': _without_suffix,
    'os.path.abspath': _same,
    'os.path.realpath': _same,
}
