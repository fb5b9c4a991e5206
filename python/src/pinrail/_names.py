"""The rule for names of projects, workflows, jobs, secrets, parameters and outputs, spelt without ``re``."""

from __future__ import annotations

# Names are at most this long, so that they fit into file names and the labels of engines.
NAME_LIMIT = 64


def is_name(name: object) -> bool:
    """Whether ``name`` matches ``[A-Za-z_][A-Za-z0-9_-]{0,63}``."""
    if not isinstance(name, str) or not name or len(name) > NAME_LIMIT or not name.isascii():
        return False
    return (name[0].isalpha() or name[0] == '_') and name.replace('_', 'a').replace('-', 'a').isalnum()


def name_problem(name: object) -> str | None:
    """What is wrong with a name, as the end of a sentence that begins with what it names."""
    if not isinstance(name, str):
        return f'must be text, not {name!r}'
    if not name:
        return 'is empty'
    if len(name) > NAME_LIMIT:
        return f'"{name}" has {len(name)} characters: at most {NAME_LIMIT}'
    if not is_name(name):
        return f'"{name}" must begin with a letter or underscore and go on with letters, digits, underscores or hyphens'
    return None


def usable(name: str) -> str | None:
    """The nearest usable name, for a hint."""
    cleaned = ''.join(letter if letter.isascii() and (letter.isalnum() or letter in '_-') else '_' for letter in name)
    cleaned = cleaned.strip('_') if cleaned.strip('_') else cleaned
    if cleaned and not (cleaned[0].isalpha() or cleaned[0] == '_'):
        cleaned = '_' + cleaned
    cleaned = cleaned[:NAME_LIMIT]
    return cleaned if is_name(cleaned) and cleaned != name else None
