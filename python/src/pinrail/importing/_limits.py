"""What an import makes of limits and of people to be told: pools, priorities, and channels of mail.

It is kept for the whole import: a pool or an address that several files name is one here.
"""

from __future__ import annotations

import json
import re
from typing import Iterable, Mapping, Optional, Sequence

from .._narrow import as_list
from ._project import new_name

# What people write as addresses; anything else would make a pinrail.toml that cannot be read.
_ADDRESS = re.compile(r'[\w%+-]+(\.[\w%+-]+)*@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*', re.ASCII)


class Pools:
    """The pools of an import, by the name that the other tool gives them."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._taken: set[str] = set()

    def name(self, theirs: str) -> tuple[str, bool]:
        """The name of a pool here, and whether it is met for the first time."""
        is_new = theirs not in self._names
        if is_new:
            self._names[theirs] = new_name(theirs, self._taken)
        return self._names[theirs], is_new


class Channels:
    """The channels of mail of an import. Only a project that it makes can declare them: no file is changed."""

    def __init__(self, is_new: bool) -> None:
        self._is_new = is_new
        self._names: dict[tuple[str, ...], str] = {}
        # [notify.on] says who is told of what.
        self._taken: set[str] = {'on'}

    def name(self, addresses: object) -> Optional[str]:
        """The channel for a list of addresses or a text of them; None where none can be declared."""
        found = _addresses(addresses)
        if not self._is_new or not found:
            return None
        if found not in self._names:
            self._names[found] = new_name(found[0].partition('@')[0], self._taken)
        return self._names[found]

    def toml(self) -> str:
        """The sections of pinrail.toml that declare them."""
        return ''.join(
            f'\n[notify.{name}]\nkind = "email"\nto = {json.dumps(addresses)}\n'
            for addresses, name in self._names.items()
        )


def _addresses(value: object) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else as_list(value, sets=True) or []
    if not all(isinstance(item, str) for item in items):
        return ()
    found = [one for item in items for one in re.split(r'[\s,;]+', str(item)) if one]
    return tuple(dict.fromkeys(found)) if all(_ADDRESS.fullmatch(one) for one in found) else ()


def priorities(weights: Mapping[str, float], after: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """Priorities where a job's is the sum of the weights of all that hangs on it, its own included.

    A job has 1 as its weight that says nothing. Those on which nothing with another weight hangs are left out: among
    them the longest way goes first here, which is what the sum of ones stands for.
    """
    below: dict[str, list[str]] = {name: [] for name in weights}
    for name, above in after.items():
        for one in above:
            if one in below:
                below[one].append(name)
    raised = _reached([name for name, weight in weights.items() if weight != 1], after)
    return {name: round(sum(weights[one] for one in _reached([name], below))) for name in weights if name in raised}


def _reached(names: Iterable[str], edges: Mapping[str, Iterable[str]]) -> set[str]:
    found = set(names)
    waiting = list(found)
    while waiting:
        for one in edges.get(waiting.pop(), ()):
            if one not in found:
                found.add(one)
                waiting.append(one)
    return found


def notify(events: Sequence[str], channel: str) -> str:
    """The source text of ``notify=`` for one channel."""
    return '{' + ', '.join(f'{event!r}: {[channel]!r}' for event in events) + '}'
