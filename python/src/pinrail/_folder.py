"""``sql_folder('sql')``: a job for each SQL file of a folder, declared by the file's own header.

Responsible for the settings in the header (``after, description, executor, owner, retries``). ``writes`` and ``output``
belong to the text and are read where it runs; so is what is wrong with other keys.

Invariant: the header ends where the SQL engine says so, at the first line that is neither empty nor a ``--`` comment.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Optional

from ._diagnostics import Diagnostic, Site, collecting, settle
from ._errors import did_you_mean
from ._names import name_problem, usable
from ._settings import SETTINGS
from ._source import Span, decode, relative_to
from ._specs import WrongValue, describe
from ._workflow import Template, check_executor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_KEY = re.compile(r'\s*--\s*([a-z_-]+)\s*:(.*)')
_SETTINGS = ('description', 'executor', 'owner', 'retries')


class _FileSite(Site):
    """A job that is declared by a file: each setting stands on a line of the header. ``folder`` asked for it."""

    __slots__ = ('folder', 'lines')

    def __init__(self, path: str, folder: Site, lines: dict[str, int]) -> None:
        super().__init__(path, 1, 'sql_folder')
        self.folder = folder
        self.lines = lines

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
        # A mistake in the file is one of the workflow file too, which is why that one does not compile.
        related = [*related, self.folder.related('makes a job of this file')]
        return super().diagnostic(
            code, message, hint=hint, setting=setting, name_only=name_only, span=span, level=level, related=related
        )

    def span(self, setting: str | None = None, *, value: bool = False) -> Span:
        source = self.source
        line = self.lines.get(setting or '', 1)
        return Span(line, 1, 1) if source is None else source.line_span(line)

    def dependency(self, name: str | None) -> Span:
        return self.span('after')


def sql_folder(path: str) -> dict[Template, list[str]]:
    """The jobs of the ``.sql`` files in a folder of the project and in its sub folders, to what each lists behind
    ``-- after:``.

    Each job is named by its file's stem. Without ``-- after:`` it waits for the jobs that write the tables which it reads.
    Files and folders whose names begin with ``_`` or ``.`` are left out.
    """
    site = Site.of_caller('sql_folder')
    collector = collecting()
    root = collector.root if collector is not None else os.getcwd()
    wrong = _wrong_folder(path, root)
    if wrong is not None:
        return _nothing(site, *wrong)
    folder = os.path.normpath(os.path.join(root, path))
    jobs: dict[Template, list[str]] = {}
    for file in _sql_files(folder):
        made, after = _of_file(file, root, site)
        jobs[made] = after
    return jobs or _nothing(site, f'folder "{path}" holds no .sql file', None)


def _nothing(site: Site, message: str, hint: Optional[str]) -> dict[Template, list[str]]:
    """Reports a folder without jobs, and keeps the workflow from being taken for a sound one without them."""
    made = Template(site)
    made.diagnostics.append(site.diagnostic('missing-file', message, hint=hint))
    settle(made.diagnostics)
    return {made: []}


def _wrong_folder(path: object, root: str) -> Optional[tuple[str, Optional[str]]]:
    if not isinstance(path, str) or not path.strip():
        return f'sql_folder takes the path of a folder, not {describe(path)}', "write sql_folder('sql')"
    full = os.path.realpath(os.path.join(root, path))
    if os.path.isabs(path) or not full.startswith(os.path.realpath(root) + os.sep):
        return f'"{path}" is not a folder within the project', None
    if os.path.isdir(full):
        return None
    folders = [one for one in sorted(os.listdir(root)) if os.path.isdir(os.path.join(root, one)) and one[0] not in '._']
    return f'folder "{path}" does not exist', did_you_mean(path, folders)


def _sql_files(folder: str) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(one for one in folders if one[0] not in '_.')
        for file in sorted(files):
            if file.endswith('.sql') and file[0] not in '_.':
                yield os.path.join(place, file)


def _of_file(path: str, root: str, folder: Site) -> tuple[Template, list[str]]:
    """The job that a file declares, and the jobs that it lists."""
    file = relative_to(path, root) or path
    name = os.path.basename(path)[:-4]
    entries: list[tuple[str, str, int]] = []
    unreadable = False
    try:
        with open(path, 'rb') as opened:
            entries = list(_header(decode(opened.read())))
    except (OSError, SyntaxError, ValueError):
        unreadable = True
    lines = {key: line for key, _, line in reversed(entries)}
    site = _FileSite(path, folder, lines)
    made = Template(site)
    made.kind, made.sql = 'sql', {'file': file}
    found = made.diagnostics
    if unreadable:
        found.append(site.diagnostic('syntax-error', f'{file} is not text in UTF-8'))
    problem = name_problem(name)
    if problem is None:
        made.name = name
    else:
        better = (usable(name) or '').lstrip('_')
        hint = f'rename the file, for example to "{better}.sql"' if name_problem(better) is None else 'rename the file'
        found.append(site.diagnostic('bad-name', f'job name {problem}', hint=hint))
    values: dict[str, str] = {}
    for key, text, line in entries:
        if key in values:
            source = site.source
            place = Span(line, 1, 1) if source is None else source.line_span(line)
            found.append(site.diagnostic('header-invalid', f'header key "{key}" is given twice', span=place))
        values.setdefault(key, text)
    for key in _SETTINGS:
        if key in values:
            _take(made, name, key, values[key])
    check_executor(made, f'job "{name}"')
    after = [one.strip() for one in values.get('after', 'auto').split(',')]
    made.auto = 'auto' in after
    settle(found)
    return made, [one for one in after if one and one != 'auto']


def _header(text: str) -> Iterator[tuple[str, str, int]]:
    """The settings among the keys of a header, with their values and lines."""
    for number, line in enumerate(text.split('\n'), 1):
        if not line.strip():
            continue
        if not line.strip().startswith('--'):
            return
        match = _KEY.fullmatch(line.rstrip())
        if match is not None and match[1] in (*_SETTINGS, 'after'):
            yield match[1], match[2].strip(), number


def _take(made: Template, name: str, key: str, text: str) -> None:
    value: Any = int(text) if key == 'retries' and text.isdigit() else text
    try:
        made.settings[key] = SETTINGS[key].check(value)
    except WrongValue as wrong:
        message = f'header key "{key}" of job "{name}" must be {wrong.expected}'
        made.diagnostics.append(made.site.diagnostic('wrong-type', message, hint=wrong.hint, setting=key))
