"""The Pinrail project that an import makes: workflows and jobs as data, their source text, and the files.

Invariant: nothing is written when any of the files is there already.
"""

from __future__ import annotations

import ast
import os
from dataclasses import dataclass, field
from typing import Optional

from .._errors import UserError
from .._names import is_name, usable

WIDTH = 120
# What a workflow file may use of Pinrail.
_NAMES = ('File', 'Param', 'RunOf', 'Sql', 'SqlTrue', 'Url', 'Workflow', 'cron', 'every', 'template')


@dataclass
class Job:
    """One entry of a workflow. ``kind`` is ``class_``, ``sql`` or ``shell``; settings are source texts."""

    name: str
    kind: str
    target: str
    settings: dict[str, str] = field(default_factory=dict[str, str])
    after: list[str] = field(default_factory=list[str])


@dataclass
class Workflow:
    """A workflow file: its name, where it comes from, and its parts as source texts."""

    name: str
    origin: str
    jobs: list[Job] = field(default_factory=list[Job])
    settings: dict[str, str] = field(default_factory=dict[str, str])
    params: dict[str, str] = field(default_factory=dict[str, str])
    defaults: dict[str, str] = field(default_factory=dict[str, str])


class Project:
    """The files to be made, by path."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.files: dict[str, str] = {}

    def add(self, path: str, text: str) -> None:
        self.files[path] = text

    def is_taken(self, path: str) -> bool:
        """Whether the import has made this file already, in any spelling of its case."""
        return path.lower() in (one.lower() for one in self.files)

    def write(self) -> None:
        """Writes all files or none. Raises ``UserError`` when one of them exists."""
        found = [path for path in sorted(self.files) if os.path.lexists(os.path.join(self.root, path))]
        if found:
            shown = ', '.join(found[:5]) + (f' and {len(found) - 5} more' if len(found) > 5 else '')
            raise UserError(
                f'{shown} {"exists" if len(found) == 1 else "exist"} already: nothing was written',
                'Remove or rename what is there, or import into another folder with --into.',
            )
        for path, text in sorted(self.files.items()):
            whole = os.path.join(self.root, path)
            os.makedirs(os.path.dirname(whole), exist_ok=True)
            with open(whole, 'x', encoding='utf-8') as file:
                file.write(text)


def new_name(wanted: str, taken: set[str]) -> str:
    """A name that Pinrail accepts, as near to ``wanted`` as can be, and in no other case among ``taken``."""
    name = wanted if is_name(wanted) else usable(wanted.replace('.', '_')) or 'unnamed'
    if not is_name(name):
        name = usable(name) or 'unnamed'
    base, number = name, 1
    while name.lower() in taken:
        number += 1
        name = f'{base[:60]}_{number}'
    taken.add(name.lower())
    return name


def identifier(name: str) -> str:
    """A Python identifier for a name of Pinrail."""
    text = name.replace('-', '_')
    return text if text.isidentifier() else f'_{text}'


def text_of(value: str) -> str:
    """A text as Python source, over several lines where it has several and that is no risk."""
    if '\n' in value.strip('\n') and '\r' not in value:
        for mark in ("'''", '"""'):
            for prefix in ('', 'r'):
                candidate = f'{prefix}{mark}{value}{mark}'
                try:
                    if ast.literal_eval(candidate) == value:
                        return candidate
                except (SyntaxError, ValueError):
                    continue
    return repr(value)


def workflow_source(workflow: Workflow) -> str:
    """The text of a workflow file."""
    body: list[str] = []
    for job in workflow.jobs:
        body += _entry(job)
    lines = ['workflow = Workflow(', '    {', *body, '    },']
    settings = dict(workflow.settings)
    if workflow.params:
        settings['params'] = _dict(workflow.params, 4)
    if workflow.defaults:
        settings['defaults'] = _dict(workflow.defaults, 4)
    lines += [f'    {name}={value},' for name, value in settings.items()]
    lines.append(')')
    text = '\n'.join(lines)
    used = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    names = [name for name in _NAMES if name in used]
    return f'# {workflow.origin}\nfrom pinrail import {", ".join(names)}\n\n{text}\n'


def _dict(entries: dict[str, str], indent: int) -> str:
    one = '{' + ', '.join(f'{name!r}: {value}' for name, value in entries.items()) + '}'
    if len(one) < WIDTH - 30:
        return one
    pad = ' ' * indent
    return '{\n' + ''.join(f'{pad}    {name!r}: {value},\n' for name, value in entries.items()) + pad + '}'


def _entry(job: Job) -> list[str]:
    arguments = {'name': repr(job.name), job.kind: job.target, **job.settings}
    after = '[' + ', '.join(repr(name) for name in job.after) + ']'
    one = f'        template({", ".join(f"{name}={value}" for name, value in arguments.items())}): {after},'
    if len(one) <= WIDTH or '\n' in one:
        return [one]
    if len(after) > WIDTH - 20:
        after = '[\n' + ''.join(f'            {name!r},\n' for name in job.after) + '        ]'
    return [
        '        template(',
        *(f'            {name}={value},' for name, value in arguments.items()),
        f'        ): {after},',
    ]


def project_name(folder: str) -> Optional[str]:
    """The name for a new project in a folder."""
    name = os.path.basename(os.path.abspath(folder))
    return name if is_name(name) else usable(name)
