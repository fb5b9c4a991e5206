"""``python -m pinrail._install [--force]``: puts this package into the interpreter that runs it, for its editors.

Writes the package with the records that installers know (PEP 376), so that pip lists and uninstalls it. Prints one JSON
document: ``{"path", "version", "replaced"}``, or ``{"error", "hint"}`` with exit code 1.

Invariants: nothing but this package's own files is removed; a refused installation changes nothing.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import shutil
import site
import sys
import sysconfig
from typing import Optional

from . import __version__
from ._errors import UserError

_NAME = 'pinrail'
_FILES = {
    'METADATA': (
        f'Metadata-Version: 2.1\nName: {_NAME}\nVersion: {__version__}\n'
        'Summary: Write Pinrail workflows and jobs in Python\nLicense: Apache-2.0\nRequires-Python: >=3.9\n'
    ),
    'WHEEL': f'Wheel-Version: 1.0\nGenerator: {_NAME} {__version__}\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
    'INSTALLER': f'{_NAME}\n',
}


def place(force: bool) -> str:
    """The folder to install into: the interpreter's, or the user's where that is not writable."""
    purelib = sysconfig.get_path('purelib')
    in_venv = sys.prefix != sys.base_prefix
    if not in_venv and not force:
        marker = os.path.join(sysconfig.get_path('stdlib'), 'EXTERNALLY-MANAGED')
        if os.path.exists(marker):
            raise UserError(
                f'the interpreter "{sys.executable}" belongs to the operating system, which manages its packages',
                f'make one of your own: {sys.executable} -m venv .venv && pinrail sdk install --python '
                '.venv/bin/python; or insist with --force',
            )
    if _is_writable(purelib):
        return purelib
    if not in_venv and site.ENABLE_USER_SITE:
        return site.getusersitepackages()
    raise UserError(
        f'"{purelib}" is not writable, and the interpreter "{sys.executable}" reads no folder of the user',
        'name another interpreter with --python',
    )


def _is_writable(folder: str) -> bool:
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return os.access(folder, os.W_OK | os.X_OK)


def install(folder: str, force: bool) -> Optional[str]:
    """Installs into a folder; returns the version that was there before."""
    source = os.path.dirname(os.path.abspath(__file__))
    target = os.path.join(folder, _NAME)
    records = [one for one in os.listdir(folder) if _is_record(one)] if os.path.isdir(folder) else []
    strange = _strangers(folder, records)
    if strange and not force:
        raise UserError(
            f'"{strange[0]}" lies where the SDK would, and no installer knows it', 'remove it, or replace it with --force'
        )
    os.makedirs(folder, exist_ok=True)
    new = os.path.join(folder, f'.{_NAME}-{os.getpid()}')
    shutil.rmtree(new, ignore_errors=True)
    try:
        info = f'{_NAME}-{__version__}.dist-info'
        _write(new, source, info)
        for record in records:
            _remove(folder, record)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(os.path.join(new, _NAME), target)
        os.rename(os.path.join(new, info), os.path.join(folder, info))
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return records[0][len(_NAME) + 1 : -len('.dist-info')] if records else None


def _is_record(name: str) -> bool:
    return name.startswith(f'{_NAME}-') and name.endswith('.dist-info')


def _write(new: str, source: str, info: str) -> None:
    os.makedirs(os.path.join(new, _NAME))
    os.makedirs(os.path.join(new, info))
    rows: list[tuple[str, str, str]] = []
    for name in sorted(os.listdir(source)):
        if name.endswith('.py') or name == 'py.typed':
            with open(os.path.join(source, name), 'rb') as file:
                rows.append(_put(new, f'{_NAME}/{name}', file.read()))
    for name, text in _FILES.items():
        rows.append(_put(new, f'{info}/{name}', text.encode('utf-8')))
    rows.append((f'{info}/RECORD', '', ''))
    lines = io.StringIO()
    csv.writer(lines, lineterminator='\n').writerows(rows)
    _put(new, f'{info}/RECORD', lines.getvalue().encode('utf-8'))


def _put(new: str, path: str, content: bytes) -> tuple[str, str, str]:
    with open(os.path.join(new, path), 'wb') as file:
        file.write(content)
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b'=').decode('ascii')
    return (path, f'sha256={digest}', str(len(content)))


def _recorded(folder: str, record: str) -> list[str]:
    """The files of an earlier installation that lie in the folder."""
    inside = os.path.realpath(folder) + os.sep
    with open(os.path.join(folder, record, 'RECORD'), encoding='utf-8', newline='') as file:
        paths = [os.path.realpath(os.path.join(folder, row[0])) for row in csv.reader(file) if row]
    return [path for path in paths if path.startswith(inside) and os.path.isfile(path)]


def _strangers(folder: str, records: list[str]) -> list[str]:
    """Files in the package's folder that no record names and no interpreter makes."""
    known = {path for record in records for path in _recorded(folder, record)}
    found: list[str] = []
    for below, _, names in os.walk(os.path.join(os.path.realpath(folder), _NAME)):
        if os.path.basename(below) != '__pycache__':
            found += [os.path.join(below, name) for name in names]
    return sorted(set(found) - known)


def _remove(folder: str, record: str) -> None:
    for path in _recorded(folder, record):
        os.remove(path)
    shutil.rmtree(os.path.join(folder, record), ignore_errors=True)


def main(words: list[str]) -> int:
    force = '--force' in words
    try:
        folder = place(force)
        replaced = install(folder, force)
    except UserError as error:
        print(json.dumps({'error': error.message, 'hint': error.hint}))
        return 1
    except OSError as error:
        print(json.dumps({'error': f'the SDK cannot be written: {error}', 'hint': None}))
        return 1
    print(json.dumps({'path': folder, 'version': __version__, 'replaced': replaced}))
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
