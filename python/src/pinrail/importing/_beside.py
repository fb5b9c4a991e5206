"""Modules of the DAG files' own folders: found by name as Python would find them there, and copied into the project.

Jobs are imported from the project's folder, so a copy at the same place below it is found by the same name.
"""

from __future__ import annotations

import ast
import os
from typing import NamedTuple, Optional

from .._source import decode
from ._evaluate import STANDARD
from ._project import Project
from ._report import Report

CONTEXT_MODULE = 'airflow_context'
# Names of Airflow that the context module has as well, by their last part.
COUNTERPARTS = frozenset(
    (
        *('get_current_context', 'Variable', 'BaseOperator', 'PokeReturnValue'),
        *('AirflowException', 'AirflowFailException', 'AirflowSkipException'),
    )
)


class Module(NamedTuple):
    """A module: its dotted name from the folder that it is imported from, and its file."""

    name: str
    path: str

    @property
    def target(self) -> str:
        """Where it lies in a project."""
        folder = self.name.replace('.', '/')
        return f'{folder}/__init__.py' if os.path.basename(self.path) == '__init__.py' else f'{folder}.py'


class Beside:
    """The modules below the folders that are imported from."""

    def __init__(self, paths: list[str], project: Project, report: Report) -> None:
        self.roots = [os.path.normpath(path) for path in paths if os.path.isdir(path)]
        self._project = project
        self._report = report
        self._copied: set[str] = set()
        # Whether a copy takes something from the context module.
        self.uses_context = False

    def find(self, name: str, folder: str) -> Optional[Module]:
        """The module that a file in ``folder`` imports by ``name``, which may begin with dots."""
        rest = name.lstrip('.')
        level = len(name) - len(rest)
        parts = rest.split('.') if rest else []
        if level:
            base = os.path.normpath(os.path.join(folder, *['..'] * (level - 1)))
            root = next((one for one in self.roots if base == one or base.startswith(one + os.sep)), base)
            inner = os.path.relpath(base, root)
            before = [] if inner == '.' else inner.split(os.sep)
            return _module(root, [*before, *parts])
        if parts[0] in STANDARD or parts[0] == 'airflow':
            # Python's own library comes first, and Airflow is not what lies beside a DAG file.
            return None
        for root in dict.fromkeys([os.path.normpath(folder or '.'), *self.roots]):
            found = _module(root, parts)
            if found is not None:
                return found
        return None

    def copy(self, module: Module) -> None:
        """Copies a module into the project, with those of the same folders that it imports."""
        if module.path in self._copied:
            return
        self._copied.add(module.path)
        with open(module.path, 'rb') as file:
            text = decode(file.read())
        if self._project.is_taken(module.target):
            self._report.left_out(
                module.path, 1, f'{module.target} has another origin: this file is not copied', 'rename one of them'
            )
            return
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError) as error:
            line = getattr(error, 'lineno', None) or 1
            self._report.left_out(module.path, line, 'the file is copied but is no Python 3', 'mend it')
            self._project.add(module.target, text)
            return
        self._project.add(module.target, self._without_airflow(text, tree, module))
        root = module.path[: -len(module.target)]
        parts = module.name.split('.')
        for count in range(1, len(parts)):
            above = os.path.join(root, *parts[:count], '__init__.py')
            if os.path.isfile(above):
                self.copy(Module('.'.join(parts[:count]), above))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                self._follow(node, module)

    def _without_airflow(self, text: str, tree: ast.Module, module: Module) -> str:
        """The text with what it imports from Airflow taken from the context module, line by line in its place."""
        lines = text.split('\n')
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or node.level or (node.module or '').split('.')[0] != 'airflow':
                continue
            own = [alias for alias in node.names if alias.name in COUNTERPARTS]
            others = [alias for alias in node.names if alias.name not in COUNTERPARTS]
            statements = [f'from jobs.{CONTEXT_MODULE} import {ast.unparse(alias)}' for alias in own]
            if others:
                statements.append(f'from jobs.{CONTEXT_MODULE} import of_airflow')
            for alias in others:
                statements.append(f'{alias.asname or alias.name} = of_airflow({f"{node.module}.{alias.name}"!r})')
                self._report.left_out(
                    module.path,
                    node.lineno,
                    f'a job imports "{node.module}.{alias.name}" through this file',
                    f'replace it in {module.target} where a job uses it',
                )
            self.uses_context = True
            first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
            lines[first] = lines[first][: node.col_offset] + '; '.join(statements)
            lines[first + 1 : last + 1] = [''] * (last - first)
        return '\n'.join(lines)

    def _follow(self, node: ast.AST, module: Module) -> None:
        for name in imported_names(node):
            if isinstance(node, ast.Import) and name.split('.')[0] == 'airflow':
                self._report.left_out(
                    module.path,
                    node.lineno,
                    f'a job imports "{name}" through this file',
                    f"replace it in {module.target}, or install apache-airflow for the project's interpreter",
                )
                continue
            found = self.find(name, os.path.dirname(module.path))
            if found is not None:
                self.copy(found)


def imported_names(node: ast.AST) -> list[str]:
    """The modules that an import statement may load, with dots in front where it is relative."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        module = '.' * node.level + (node.module or '')
        between = '' if module.endswith('.') or not module else '.'
        # What is imported from a package may be a module of it.
        return [module, *(f'{module}{between}{alias.name}' for alias in node.names)]
    return []


def _module(root: str, parts: list[str]) -> Optional[Module]:
    if not parts:
        return None
    whole = os.path.join(root, *parts)
    for path in (f'{whole}.py', os.path.join(whole, '__init__.py')):
        if os.path.isfile(path):
            return Module('.'.join(parts), path)
    return None
