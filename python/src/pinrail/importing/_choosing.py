"""Branches and short circuits of Airflow: what the jobs below them have to ask before they begin.

A job that decides leaves an output, ``ways`` (the ids of the tasks that it chose) or ``goes_on``, and each job below it
that Airflow would skip has a ``when`` that reads it. That holds also where the decision has to be written by hand.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

from ._airflow import Dag, Task

WAYS = 'ways'
GOES_ON = 'goes_on'
_BRANCHES = ('BaseBranchOperator', 'BranchMixIn')


class Choice(NamedTuple):
    """What one task has to ask of one that decides; for a branch, the ids that stand for the task."""

    decider: Task
    ids: list[str]


def decides(task: Task) -> Optional[str]:
    """The output by which a task decides what goes on below it, if it does."""
    kind = task.kind
    if task.cls is not None:
        names = {name.rsplit('.', 1)[-1] for name in task.cls.ancestors()}
        return WAYS if names & set(_BRANCHES) else None
    if 'short_circuit' in kind or kind in ('ShortCircuitOperator', 'LatestOnlyOperator'):
        return GOES_ON
    return WAYS if 'branch' in kind.lower() else None


class Choices:
    """What is asked of whom in one DAG."""

    def __init__(self, dag: Dag) -> None:
        self._of: dict[Task, list[Choice]] = {}
        # The ids that a branch may choose.
        self.known: dict[Task, list[str]] = {}
        self._below: dict[Task, list[Task]] = {task: [] for task in dag.tasks.values()}
        for task in dag.tasks.values():
            for above in task.after:
                self._below.setdefault(above, []).append(task)
        for decider in dag.tasks.values():
            what = decides(decider)
            if what == WAYS:
                self._branch(decider, dag)
            elif what == GOES_ON:
                self._circuit(decider)

    def of(self, task: Task) -> list[Choice]:
        return self._of.get(task, [])

    def _descendants(self, task: Task) -> list[Task]:
        found: dict[Task, None] = {}
        waiting = list(self._below.get(task, ()))
        while waiting:
            one = waiting.pop(0)
            if one not in found:
                found[one] = None
                waiting += self._below.get(one, ())
        return list(found)

    def _branch(self, decider: Task, dag: Dag) -> None:
        # A task below one that was chosen goes on too, although it stands behind the branch itself.
        reaches = {one: set(self._descendants(one)) for one in self._descendants(decider)}
        known: dict[str, None] = {}
        for task in self._below[decider]:
            others = [one for one, below in reaches.items() if task in below]
            chosen = {task, *others}
            groups = [name for name, group in dag.groups.items() if chosen.intersection(group.roots())]
            ids = [task.id, *(one.id for one in others), *groups]
            known.update(dict.fromkeys(ids))
            if not task.teardown:
                self._of.setdefault(task, []).append(Choice(decider, ids))
        self.known[decider] = list(known)

    def _circuit(self, decider: Task) -> None:
        whole = decider.kind != 'LatestOnlyOperator' and decider.given('ignore_downstream_trigger_rules') is not False
        for task in self._descendants(decider) if whole else self._below[decider]:
            # Those that wait for the success of all above them are skipped with these anyway.
            asks = decider in task.after or waits_otherwise(task)
            if asks and not task.teardown:
                self._of.setdefault(task, []).append(Choice(decider, []))


def waits_otherwise(task: Task) -> bool:
    """Whether a task may run after one that was skipped."""
    return str(task.given('trigger_rule') or 'all_success') != 'all_success'


def when(choices: list[Choice], names: dict[str, str], *, also_skipped: bool) -> str:
    """The expression for ``when=``; ``also_skipped``: those that decide may have been skipped, and decide nothing."""
    terms: list[str] = []
    for decider, ids in choices:
        name = names[decider.id]
        job = f'upstream.{name}' if name.isidentifier() else f'upstream[{name!r}]'
        if decides(decider) == GOES_ON:
            terms.append(f'{job}.{GOES_ON}' + ('|default(true)' if also_skipped else ''))
            continue
        found = [f'{one!r} in {job}.{WAYS}' + (f'|default([{ids[0]!r}])' if also_skipped else '') for one in ids]
        term = ' or '.join(found)
        terms.append(f'({term})' if len(found) > 1 and len(choices) > 1 else term)
    return ' and '.join(terms)
