"""Where a project file lies: in the bundle, or in the project's folder when ``[files]`` of pinrail.toml matches it.

Invariant: no returned path, with links followed, lies outside of the bundle's root or the project's folder.
"""

from __future__ import annotations

import os
import posixpath
from pathlib import Path

from ._errors import UserError
from ._names import usable


def find(path: str, root: str, project_dir: str | None, patterns: list[str] | None) -> Path:
    """The place of ``path``. ``root`` and ``project_dir`` are absolute and free of links; ``patterns`` is ``[files]``.

    Without ``[files]`` a file of the project's folder is read in place.
    """
    if path.startswith(('/', '~')) or os.path.isabs(path):
        raise _outside(path, 'is an absolute path')
    clean = posixpath.normpath(path.replace(os.sep, '/')) if path else ''
    if not clean or '\0' in path:
        raise UserError(f'"{path}" is not the path of a project file')
    if clean == '..' or clean.startswith('../') or '..' in path.split('/'):
        raise _outside(path, 'leads out of the project')
    bundled = os.path.join(root, clean)
    if os.path.lexists(bundled):
        if not _within(bundled, root):
            raise _outside(path, 'is a link that leads out of the project')
        return Path(bundled)
    if project_dir is None:
        return Path(bundled)
    in_place = os.path.join(project_dir, clean)
    declared = patterns is None or any(matches(pattern, clean) for pattern in patterns)
    if not declared:
        if os.path.lexists(in_place):
            raise UserError(
                f'"{clean}" is in the project\'s folder but neither in the bundle nor under [files]',
                f'add this line under [files] in pinrail.toml: {_remedy(clean)}',
            )
        return Path(in_place)
    if os.path.lexists(in_place) and not _within(in_place, project_dir):
        raise _outside(path, 'is a link that leads out of the project')
    return Path(in_place)


def matches(pattern: str, path: str) -> bool:
    """Whether a glob matches a relative path: ``*`` and ``?`` stay within a folder, ``**`` spans folders.

    A pattern that names a folder matches everything below it.
    """
    import re

    pattern = posixpath.normpath(pattern)
    text = ''
    index = 0
    while index < len(pattern):
        letter = pattern[index]
        if pattern.startswith('**/', index):
            text += '(?:[^/]+/)*'
            index += 3
            continue
        if pattern.startswith('**', index):
            text += '.*'
            index += 2
            continue
        if letter == '*':
            text += '[^/]*'
        elif letter == '?':
            text += '[^/]'
        elif letter == '[' and ']' in pattern[index + 2 :]:
            end = pattern.index(']', index + 2)
            inner = pattern[index + 1 : end].replace('\\', '\\\\')
            text += '[' + ('^' + inner[1:] if inner[0] in '!^' else inner) + ']'
            index = end
        else:
            text += re.escape(letter)
        index += 1
    return re.fullmatch(text + '(?:/.*)?', path, re.DOTALL) is not None


def _within(path: str, folder: str) -> bool:
    real = os.path.realpath(path)
    return real == folder or real.startswith(folder + os.sep)


def _remedy(path: str) -> str:
    stem = posixpath.basename(path).split('.')[0]
    key = stem if stem and all(letter.isascii() and (letter.isalnum() or letter in '_-') for letter in stem) else 'data'
    return f'{usable(key) or key} = "{path}"'


def _outside(path: str, why: str) -> UserError:
    name = posixpath.basename(path.rstrip('/')) or 'input.csv'
    return UserError(
        f'"{path}" {why}',
        "put the file into the project's folder and add this line under [files] in pinrail.toml: "
        + _remedy(f'data/{name}'),
    )
