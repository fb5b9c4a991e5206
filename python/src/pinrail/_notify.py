"""The settings ``notify`` and ``sla`` of a workflow: who is told of what, and within what time a run is to succeed.

Channels are declared in pinrail.toml; a workflow names them. What it does not say about an event is what ``[notify.on]``
says.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

from ._diagnostics import Diagnostic, Site
from ._errors import did_you_mean
from ._names import name_problem
from ._narrow import as_dict, as_list
from ._specs import WrongValue, describe

EVENTS = ('failure', 'first-failure', 'recovery', 'slow', 'sla-at-risk', 'sla-missed')
# What a channel is told of that is named without an event: each thing once, however many jobs fail.
USUAL = ('first-failure', 'recovery', 'slow', 'sla-at-risk', 'sla-missed')


class ProjectNotify(NamedTuple):
    """What pinrail.toml says: its channels, None when nobody knows them, and who is told by default."""

    channels: Optional[list[str]]
    on: dict[str, list[str]]


UNKNOWN = ProjectNotify(None, {})


def notify(value: object) -> dict[str, list[str]]:
    """Names of channels by event: a dict, or names alone for what people usually want to know."""
    entries = as_dict(value)
    if entries is None:
        names = _names(value)
        return {event: names for event in USUAL}
    found: dict[str, list[str]] = {}
    for event, to in entries.items():
        if event not in EVENTS:
            hint = did_you_mean(event, EVENTS) if isinstance(event, str) else None
            raise WrongValue(
                f'a dict of events to channels, and {describe(event)} is no event',
                hint or f'events are {", ".join(EVENTS)}',
            )
        found[str(event)] = _names(to)
    return found


def _names(value: object) -> list[str]:
    items = [value] if isinstance(value, str) else as_list(value, sets=True)
    if items is None or not all(isinstance(item, str) for item in items):
        raise WrongValue(f'names of channels, or a dict of events to them, not {describe(value)}')
    names = [str(item) for item in items]
    for name in names:
        problem = name_problem(name)
        if problem is not None:
            raise WrongValue(f"names of channels, and a channel's name {problem}")
    # A set has no order of its own that would be the same in the next process.
    return list(dict.fromkeys(names if isinstance(value, str) or as_list(value) is not None else sorted(names)))


def problems(site: Site, own: dict[str, list[str]], project: ProjectNotify) -> list[Diagnostic]:
    """The channels that a workflow names and the project does not declare."""
    if project.channels is None:
        return []
    found: list[Diagnostic] = []
    for name in dict.fromkeys(name for names in own.values() for name in names):
        if name in project.channels:
            continue
        call, source = site.call(), site.source
        node = source.value(call, 'notify') if call is not None and source is not None else None
        constants = source.constants(node, name) if source is not None and node is not None else ()
        span = next((source.span(one) for one in constants), None) if source is not None else None
        hint = did_you_mean(name, project.channels)
        found.append(
            site.diagnostic(
                'unknown-channel',
                f'setting "notify" of a workflow names a channel that pinrail.toml does not declare: "{name}"',
                hint=hint or f'declare it: [notify.{name}] and below it kind = "email", "webhook" or "chat"',
                setting='notify',
                span=span,
            )
        )
    return found


def resolved(own: dict[str, list[str]], project: ProjectNotify) -> dict[str, Any]:
    """Who is told in the end."""
    return {event: names for event, names in {**project.on, **own}.items() if names}
