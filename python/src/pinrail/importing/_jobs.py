"""The jobs module of one DAG file: the functions of its tasks with all that they use, and the jobs that call them.

A function keeps its text and its comments: it is moved, not rewritten. Only names are exchanged, where two functions of
the same name meet in one module, and where Airflow's own names have a counterpart in ``jobs/airflow_context.py``.
"""

from __future__ import annotations

import ast
import builtins
import datetime
import io
import pathlib
import tokenize
from collections.abc import Iterable
from typing import Any, NamedTuple, Optional, Union

from .._narrow import as_dict, as_list
from ._airflow import Dag, Group, ParamRef, Task, TaskMaker, XCom
from ._beside import CONTEXT_MODULE, COUNTERPARTS, Beside, imported_names
from ._evaluate import STANDARD, Class, Def, Evaluator, Function, Ref, Scope, Thing, Unknown, Value, Zoned
from ._jinja import Code, NotTranslated, Pull, dotted, is_template, text_code
from ._report import Report

# Names of the context module that ask the job which runs.
_ASKING = frozenset(('get_current_context', 'Variable'))


class _Edit(NamedTuple):
    """A piece of one line of the source, in bytes, and what stands there instead."""

    line: int
    start: int
    end: int
    text: str


class JobsModule:
    """Collects the parts of a module and gives its text."""

    def __init__(self, name: str, ev: Evaluator, report: Report, dag_folder: str, beside: Beside) -> None:
        self.name = name
        self.ev = ev
        self.report = report
        self.lines = ev.source.split('\n')
        self.folder = dag_folder
        self.beside = beside
        self._told: set[str] = set()
        self.taken: set[str] = set()
        self.uses_context = False
        self._imports: dict[str, None] = {}
        # Functions of other modules that jobs call, by dotted name.
        self._imported: dict[str, str] = {}
        # Statements of the source by their first line, and functions and values that stood deeper, in order of need.
        self._top: dict[int, str] = {}
        self._values: dict[str, str] = {}
        self._functions: dict[str, str] = {}
        self._function_names: dict[tuple[ast.AST, tuple[tuple[str, str], ...]], str] = {}
        self._jobs: list[str] = []
        self._in_strings = _lines_inside_strings(ev.source)
        self._pending: set[str] = set()
        # Functions that need the context, directly or through others, by their names in the module.
        self._asking: set[str] = set()
        # Names that are imported from copies which may ask for it.
        self._copied: set[str] = set()

    @property
    def is_empty(self) -> bool:
        return not self._jobs

    def need_import(self, line: str) -> None:
        self._imports[line] = None

    def context(self, name: str) -> str:
        """The name of something that the context module has, imported."""
        self.uses_context = True
        self.need_import(f'from jobs.{CONTEXT_MODULE} import {name}')
        self.taken.add(name)
        return name

    def new_name(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self.taken or hasattr(builtins, name) or name in self.ev.module.names:
            number += 1
            name = f'{wanted}_{number}'
        self.taken.add(name)
        return name

    def imported(self, name: str, line: int) -> str:
        """Imports a function by its dotted name; gives what it is called in the module."""
        owner, _, last = name.rpartition('.')
        if name not in self._imported:
            known = last if last not in self.taken else self.new_name(last)
            self.taken.add(known)
            self._imported[name] = known
            self.need_import(f'from {owner} import {last}' + ('' if known == last else f' as {known}'))
            if self.tell_import(ast.ImportFrom(owner, [ast.alias(last)], 0, lineno=line)):
                self._asking.add(known)
        return self._imported[name]

    def job(self, name: str, body: list[str], comment: str = '') -> str:
        """Adds a job function of one argument; gives its name."""
        made = self.new_name(name)
        doc = [f'    """{comment}"""'] if comment else []
        self._jobs.append('\n'.join([f'def {made}(ctx):', *doc, *(f'    {line}' if line else '' for line in body)]))
        return made

    def text(self, origin: str) -> str:
        lines = _merged(self._imports)
        standard = [one for one in lines if not _is_own(one)]
        own = [one for one in lines if _is_own(one)]
        head = ['\n'.join(['from __future__ import annotations', *([''] if standard else []), *standard])]
        if own:
            head.append('\n'.join(own))
        top = [self._top[line] for line in sorted(self._top)]
        loose = [_spaced(top)] if top else []
        values = ['\n'.join(f'{name} = {text}' for name, text in self._values.items())] if self._values else []
        blocks = [*self._functions.values(), *self._jobs]
        parts = '\n\n'.join([*head, *loose, *values]).strip('\n')
        return f'# {origin}\n{parts}\n\n\n' + '\n\n\n'.join(one.strip('\n') for one in blocks) + '\n'

    # Functions.

    def function(self, made: Function, wanted: Optional[str] = None) -> str:
        """Moves a function into the module, with all that it uses; gives its name there."""
        node = made.node
        elsewhere = self._elsewhere(made)
        if elsewhere is not None:
            return elsewhere
        # One function may have several surroundings: made in a loop, or by a function that is called twice.
        around = tuple(sorted(self._around(made)))
        known = self._function_names.get((node, around))
        if known is not None:
            return known
        at_top = node in self.ev.tree.body
        wished = wanted or (made.name if not isinstance(node, ast.Lambda) else 'function')
        if at_top or (wished not in self.taken and not hasattr(builtins, wished)):
            name = wished
            self.taken.add(name)
        else:
            name = self.new_name(wished)
        self._function_names[(node, around)] = name
        edits, inserted = self._uses(node, made.scope, name)
        if isinstance(node, ast.Lambda):
            text = f'def {name}({ast.unparse(node.args)}):\n    return {ast.unparse(node.body)}'
        else:
            text = self._moved(node, name, edits, inserted)
        if at_top:
            # In its place among the statements, which may call it.
            self._top[node.lineno] = text
        else:
            self._functions[name] = text
        return name

    def _elsewhere(self, made: Function) -> Optional[str]:
        """The name of a function of another file, imported. Raises ``NotTranslated`` where it cannot be imported."""
        scope = made.scope
        while scope.outer is not None:
            scope = scope.outer
        if scope is self.ev.module:
            return None
        module: Value = scope.names.get('__dotted__')
        if scope is not made.scope or isinstance(made.node, ast.Lambda) or not isinstance(module, str):
            raise NotTranslated(
                'its function stands inside another one of another file', 'move it to the top of its file'
            )
        return self.imported(f'{module}.{made.name}', made.node.lineno)

    def _around(self, made: Function) -> set[tuple[str, str]]:
        """The plain values that a function takes from functions around it."""
        found: set[tuple[str, str]] = set()
        for one in free_names(made.node):
            scope = made.scope.find(one.id)
            if scope is not None and scope is not self.ev.module:
                found.add((one.id, literal_of(scope.names[one.id]) or ''))
        return found

    def _moved(self, node: Def, name: str, edits: list[_Edit], inserted: list[str]) -> str:
        """The text of a function at the top of a module, without its decorators."""
        changed = self._edited(edits)
        first = changed.get(node.lineno, self.lines[node.lineno - 1])
        if name != node.name:
            at = first.index(node.name, node.col_offset + 4)
            changed[node.lineno] = first[:at] + name + first[at + len(node.name) :]
        docstring = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
        documented = range(docstring.lineno, (docstring.end_lineno or 0) + 1) if docstring is not None else range(0)
        lines: list[str] = []
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1):
            line = changed.get(number, self.lines[number - 1])
            if number not in self._in_strings or number in documented:
                blank = line[: node.col_offset].strip() == ''
                line = line[node.col_offset :] if blank else line.lstrip()
            lines.append(line)
            last_of_doc = docstring is not None and number == docstring.end_lineno
            if inserted and (last_of_doc or (docstring is None and number == node.body[0].lineno - 1)):
                pad = ' ' * (node.body[0].col_offset - node.col_offset)
                lines += [pad + one for one in inserted]
        return '\n'.join(lines)

    def _edited(self, edits: list[_Edit]) -> dict[int, str]:
        """The lines that edits change, by their numbers."""
        changed: dict[int, str] = {}
        for edit in sorted(edits, key=lambda one: (one.line, one.start), reverse=True):
            line = changed.get(edit.line, self.lines[edit.line - 1]).encode()
            changed[edit.line] = (line[: edit.start] + edit.text.encode() + line[edit.end :]).decode()
        return changed

    def own_class(self, made: Class, line: int) -> str:
        """Brings a class into the module; gives its name there. Raises ``NotTranslated``."""
        scope = made.scope.outer
        name = made.node.name
        if scope is self.ev.module and self._bring_statement(name):
            return name
        module: Value = None if scope is None or scope is self.ev.module else scope.names.get('__dotted__')
        if not isinstance(module, str):
            raise NotTranslated('its class is defined inside a function', 'move it to the top of its file')
        return self.imported(f'{module}.{name}', line)

    def needs_context(self, function: str) -> bool:
        """Whether a function of the module asks for the context of Airflow by itself."""
        return function in self._asking

    def _uses(self, node: ast.AST, scope: Scope, function: str = '') -> tuple[list[_Edit], list[str]]:
        """Brings what a piece of code uses into the module; gives the edits of the code, and imports for its begin."""
        edits: list[_Edit] = []
        inserted: list[str] = []
        places: dict[str, list[ast.Name]] = {}
        for one in free_names(node):
            places.setdefault(one.id, []).append(one)
        for name, names in places.items():
            found = scope.find(name)
            if found is None or name == '__name__':
                continue
            now = self._bring(name, found, names[0].lineno, inserted)
            if now in _ASKING or now in self._asking or now in self._copied:
                self._asking.add(function)
            if now != name:
                edits += [_Edit(one.lineno, one.col_offset, one.end_col_offset or 0, now) for one in names]
        for name in annotation_names(node):
            # Nothing evaluates annotations, but those who read them want to know their names.
            value = self.ev.module.names.get(name)
            if isinstance(value, Ref) and value.name.split('.')[0] in STANDARD:
                self._bring_statement(name)
        for one in ast.walk(node):
            if isinstance(one, ast.ImportFrom) and (one.module or '').startswith('airflow'):
                if all(alias.name in COUNTERPARTS for alias in one.names) and one.lineno == one.end_lineno:
                    for alias in one.names:
                        self.uses_context = True
                        self._tell_counterpart(alias.name, one.lineno)
                        if alias.name in _ASKING:
                            self._asking.add(function)
                    module = f'from jobs.{CONTEXT_MODULE} import '
                    edits.append(
                        _Edit(
                            one.lineno,
                            one.col_offset,
                            one.end_col_offset or 0,
                            module + ast.unparse(one).partition(' import ')[2],
                        )
                    )
                else:
                    self._needs_airflow(', '.join(alias.name for alias in one.names), one.lineno)
            elif isinstance(one, (ast.Import, ast.ImportFrom)):
                if self.tell_import(one):
                    self._asking.add(function)
            elif isinstance(one, ast.Call) and dotted(one.func) == 'Variable.get' and one.args:
                self._tell_variable(one)
        return edits, inserted

    def _tell_variable(self, call: ast.Call) -> None:
        name = call.args[0].value if isinstance(call.args[0], ast.Constant) else ast.unparse(call.args[0])
        self.report.left_out(
            self.ev.file,
            call.lineno,
            f'a job reads the Airflow variable "{name}"',
            f'add "{name}" to params of the workflow, or set it as a secret and declare it: secrets=["{name}"]',
        )

    def _tell_counterpart(self, name: str, line: int) -> None:
        if name == 'AirflowSkipException':
            self.report.left_out(
                self.ev.file,
                line,
                'a job skips itself: it fails here',
                'let it return early; it cannot skip what is below it',
            )
        elif name == 'AirflowFailException':
            self.report.changed(
                self.ev.file,
                line,
                'a job that fails for good is tried again, as often as retries says',
                'exit with code 76',
            )

    def _bring(self, name: str, scope: Scope, line: int, inserted: list[str]) -> str:
        """Makes one name known in the module; gives what it is called there."""
        value = scope.names[name]
        if isinstance(value, TaskMaker):
            value = value.function
        if isinstance(value, Ref) and value.name.startswith('airflow'):
            if value.last in COUNTERPARTS:
                self._tell_counterpart(value.last, line)
                return self.context(value.last)
            owner, _, last = value.name.rpartition('.')
            alias = '' if last == name else f' as {name}'
            inserted.append(f'from {owner} import {last}{alias}' if owner else f'import {value.name}{alias}')
            self._needs_airflow(value.last, line)
            return name
        if isinstance(value, Function):
            return self.function(value)
        if scope is self.ev.module and self._bring_statement(name):
            return name
        if isinstance(value, Class):
            self._unusable(name, line, 'a class that is defined inside a function')
            return name
        literal = literal_of(value)
        if literal is None:
            self._unusable(name, line, value.why if isinstance(value, Unknown) else 'a part of a DAG')
            return name
        if self._values.get(name, literal) != literal or (name in self.taken and name not in self._values):
            now = next(
                (key for key, one in self._values.items() if key.startswith(f'{name}_') and one == literal), None
            )
            now = now or self.new_name(name)
            self._values[now] = literal
            return now
        self.taken.add(name)
        self._values[name] = literal
        return name

    def _unusable(self, name: str, line: int, why: str) -> None:
        self.report.left_out(
            self.ev.file,
            line,
            f'a job uses "{name}": {why}',
            f'give the job what it needs from "{name}" in jobs/{self.name}.py',
        )

    def _needs_airflow(self, what: str, line: int) -> None:
        todo = f"replace it in jobs/{self.name}.py, or install apache-airflow for the project's interpreter"
        self.report.left_out(self.ev.file, line, f'a job uses {what} of Airflow', todo)

    def _bring_statement(self, name: str) -> bool:
        """Takes over the statements of the module that make a name, with what they use."""
        if name in self._pending:
            return True
        self._pending.add(name)
        found = False
        for statement in self.ev.tree.body:
            if name not in bound_names(statement) or isinstance(statement, (ast.With, ast.AsyncWith, ast.For)):
                continue
            if isinstance(statement, ast.If) and any(isinstance(one, ast.With) for one in ast.walk(statement)):
                # A whole DAG under a condition; a plain value of it comes along by itself.
                continue
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                if self._bring_import(name, statement):
                    found = True
                continue
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            value = self.ev.module.names.get(name)
            if isinstance(value, Thing) and not isinstance(value, (Ref, Class)):
                return False
            # The names of a guarded import (try ... except ImportError) are found in it as well.
            edits, inserted = self._uses(statement, self.ev.module)
            for line in inserted:
                self.need_import(line)
            first = min([statement.lineno, *(one.lineno for one in getattr(statement, 'decorator_list', []))])
            changed = self._edited(edits)
            last = statement.end_lineno or first
            self._top[first] = '\n'.join(
                changed.get(number, self.lines[number - 1]) for number in range(first, last + 1)
            )
            self.taken |= bound_names(statement)
            found = True
        return found

    def _bring_import(self, name: str, statement: Union[ast.Import, ast.ImportFrom]) -> bool:
        for alias in statement.names:
            if name != (alias.asname or alias.name.split('.')[0]):
                continue
            if self.tell_import(statement):
                self._copied.add(name)
            shown = alias.name + (f' as {alias.asname}' if alias.asname else '')
            if isinstance(statement, ast.Import):
                self.need_import(f'import {shown}')
            else:
                module = '.' * statement.level + (statement.module or '')
                found = self.beside.find(module, self.folder) if statement.level else None
                self.need_import(f'from {module if found is None else found.name} import {shown}')
            self.taken.add(name)
            return True
        return False

    def tell_import(self, node: Union[ast.Import, ast.ImportFrom]) -> bool:
        """Copies what an import finds beside the DAG file, and notes what has to be installed when the jobs run.

        Whether something was copied that may ask for the context.
        """
        is_beside = False
        for name in imported_names(node):
            found = self.beside.find(name, self.folder)
            if found is not None:
                self.beside.copy(found)
                is_beside = True
        for name in imported_names(node)[: None if isinstance(node, ast.Import) else 1]:
            top = name.split('.')[0]
            if is_beside or top in STANDARD or top in ('pinrail', '__future__', 'jobs'):
                continue
            if not top:
                self.report.left_out(
                    self.ev.file,
                    node.lineno,
                    f'a job imports "{name}", which is not beside the DAG file',
                    'copy that module into the project and import it from there',
                )
            elif top == 'airflow':
                self._needs_airflow(name, node.lineno)
            elif top not in self._told:
                self._told.add(top)
                self.report.changed(
                    self.ev.file, node.lineno, f'a job imports "{top}"', "install it for the project's interpreter"
                )
        return is_beside and self.beside.uses_context

    # Arguments.

    def code(self, value: Value, params: set[str], pull: Pull) -> Code:
        """A value of the DAG file as a Python expression for a job. Raises ``NotTranslated``."""
        if isinstance(value, Unknown):
            raise NotTranslated(f'"{value.text}": {value.why}', 'write the value into the job')
        if isinstance(value, XCom):
            path = ''.join(f'[{one!r}]' for one in value.path)
            return Code(pull(value.task.id, value.key) + path, set(), [(value.task.id, value.key)])
        if isinstance(value, ParamRef):
            return Code(f'ctx.params[{value.name!r}]')
        if isinstance(value, (Function, TaskMaker)):
            return Code(self.function(value if isinstance(value, Function) else value.function))
        if isinstance(value, Ref):
            raise NotTranslated(f'"{value.name}" is only known at run time', 'write the value into the job')
        if isinstance(value, str) and is_template(value):
            return text_code(value, params, pull)
        entries = as_dict(value)
        if entries is not None:
            pairs = [(self.code(key, params, pull), self.code(one, params, pull)) for key, one in entries.items()]
            return _joined('{', [(f'{key.text}: ', one) for key, one in pairs], '}')
        items = as_list(value)
        if items is not None:
            marks = ('[', ']') if isinstance(value, list) else ('(', ',)' if len(items) == 1 else ')')
            return _joined(marks[0], [('', self.code(one, params, pull)) for one in items], marks[1])
        literal = literal_of(value)
        if literal is None:
            raise NotTranslated('it is no plain value', 'write the value into the job')
        return Code(literal, {'import datetime'} if 'datetime.' in literal else set())


def _spaced(statements: list[str]) -> str:
    """Statements with two blank lines around functions and classes."""
    text = ''
    was_block = False
    for statement in statements:
        is_block = statement.lstrip().startswith(('def ', 'async def ', 'class ', '@'))
        text += ('' if not text else '\n\n\n' if is_block or was_block else '\n') + statement
        was_block = is_block
    return text


def _merged(imports: Iterable[str]) -> list[str]:
    """Lines of imports with one for each module, sorted."""
    modules: dict[str, list[str]] = {}
    for line in imports:
        module, _, names = line.partition(' import ')
        modules.setdefault(module, []).append(names)
    return sorted(
        f'{module} import {", ".join(sorted(names))}' if names[0] else module for module, names in modules.items()
    )


def _is_own(line: str) -> bool:
    return line.startswith(('from jobs.', 'from pinrail '))


def _joined(start: str, items: list[tuple[str, Code]], end: str) -> Code:
    whole = Code(start + ', '.join(before + one.text for before, one in items) + end)
    for _, one in items:
        whole.imports |= one.imports
        whole.pulls += one.pulls
    return whole


def literal_of(value: Value) -> Optional[str]:
    """A plain value as Python source, or None."""
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return repr(value)
    if isinstance(value, datetime.datetime):
        plain = value.replace(tzinfo=None)
        zone = value.zone if isinstance(value, Zoned) else None
        shown = f'datetime.datetime({", ".join(str(part) for part in plain.timetuple()[:6])}'
        return shown + (', tzinfo=datetime.timezone.utc)' if zone == 'UTC' else ')')
    if isinstance(value, datetime.date):
        return f'datetime.date({value.year}, {value.month}, {value.day})'
    if isinstance(value, (datetime.timedelta, datetime.time)):
        return repr(value)
    if isinstance(value, pathlib.PurePosixPath):
        return repr(str(value))
    if isinstance(value, (Unknown, Thing, Dag, Group, Task)):
        return None
    entries = as_dict(value)
    if entries is not None:
        pairs = [(literal_of(key), literal_of(one)) for key, one in entries.items()]
        if any(key is None or one is None for key, one in pairs):
            return None
        return '{' + ', '.join(f'{key}: {one}' for key, one in pairs) + '}'
    items = as_list(value, sets=True)
    if items is None:
        return None
    texts = [literal_of(one) for one in items]
    if any(text is None for text in texts):
        return None
    listed = ', '.join(str(text) for text in texts)
    if isinstance(value, (set, frozenset)):
        return f'{{{listed}}}' if items else 'set()'
    return f'[{listed}]' if isinstance(value, list) else f'({listed}{"," if len(items) == 1 else ""})'


def free_names(node: ast.AST) -> list[ast.Name]:
    """The names that a piece of code reads and does not bind itself; annotations and decorators do not count."""
    bound: set[str] = set()
    reads: list[ast.Name] = []

    def visit(one: ast.AST) -> None:
        if isinstance(one, ast.Name):
            if isinstance(one.ctx, ast.Load):
                reads.append(one)
            else:
                bound.add(one.id)
            return
        if isinstance(one, ast.arg):
            bound.add(one.arg)
            return
        if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if one is not node:
                bound.add(one.name)
            for part in [one.args, *one.body]:
                visit(part)
            return
        if isinstance(one, ast.ClassDef):
            bound.add(one.name)
            for part in [*one.decorator_list, *one.bases, *one.body]:
                visit(part)
            return
        if isinstance(one, (ast.Import, ast.ImportFrom)):
            bound.update(alias.asname or alias.name.split('.')[0] for alias in one.names)
            return
        if isinstance(one, ast.ExceptHandler) and one.name:
            bound.add(one.name)
        if isinstance(one, ast.AnnAssign):
            visit(one.target)
            if one.value is not None:
                visit(one.value)
            return
        for child in ast.iter_child_nodes(one):
            visit(child)

    visit(node)
    return [one for one in reads if one.id not in bound]


def annotation_names(node: ast.AST) -> set[str]:
    """The names in the annotations of a piece of code."""
    found: list[Optional[ast.expr]] = []
    for one in ast.walk(node):
        if isinstance(one, (ast.arg, ast.AnnAssign)):
            found.append(one.annotation)
        elif isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.append(one.returns)
    return {one.id for part in found if part is not None for one in ast.walk(part) if isinstance(one, ast.Name)}


def bound_names(statement: ast.stmt) -> set[str]:
    """The names that a statement binds."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {statement.name}
    names: set[str] = set()
    for one in ast.walk(statement):
        if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store):
            names.add(one.id)
        elif isinstance(one, (ast.Import, ast.ImportFrom)):
            names.update(alias.asname or alias.name.split('.')[0] for alias in one.names)
        elif isinstance(one, (ast.FunctionDef, ast.ClassDef)):
            names.add(one.name)
    return names


def returns_value(node: Union[Def, ast.Lambda]) -> bool:
    """Whether a function gives something back."""
    if isinstance(node, ast.Lambda):
        return True
    inside: list[ast.AST] = list(node.body)
    while inside:
        one = inside.pop()
        if isinstance(one, ast.Return) and one.value is not None:
            if not (isinstance(one.value, ast.Constant) and one.value.value is None):
                return True
        elif not isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            inside += ast.iter_child_nodes(one)
    return False


def _lines_inside_strings(text: str) -> set[int]:
    """The lines that begin inside a text of several lines."""
    lines: set[int] = set()
    start: Optional[int] = None
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            name: Any = tokenize.tok_name[token.type]
            if token.type == tokenize.STRING:
                lines.update(range(token.start[0] + 1, token.end[0] + 1))
            elif name == 'FSTRING_START':
                start = token.start[0]
            elif name == 'FSTRING_END' and start is not None:
                lines.update(range(start + 1, token.end[0] + 1))
                start = None
    except (tokenize.TokenError, SyntaxError):
        pass
    return lines
