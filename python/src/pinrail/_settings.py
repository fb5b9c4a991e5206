"""The settings of templates and workflows: which there are, what each may be, and its form in the document.

A check takes the value as it was written and returns it resolved (durations in seconds, sizes in bytes), or raises
``WrongValue``. One table serves ``template(...)``, ``Workflow(defaults=...)`` and ``[defaults]`` of pinrail.toml, so
a setting means the same in all three.
"""

from __future__ import annotations

import re
from typing import Any, Callable, NamedTuple, Optional

from ._errors import did_you_mean, near
from ._names import name_problem
from ._narrow import as_dict, as_list
from ._specs import WrongValue, describe, tables_of, texts_of

FAULTS = (
    'user',
    'data',
    'upstream',
    'platform',
    'external',
    'conflict',
    'cancelled',
    'timeout',
    'out-of-memory',
    'unknown',
)
RUN_IF = ('all_succeeded', 'all_done', 'any_failed', 'none_failed')
# Which executors can run a job of which kind; the first is the one that does when none is chosen.
EXECUTORS = {'class': ('python', 'shell'), 'sql': ('sql',), 'shell': ('shell',), 'workflow': ('workflow',)}
# What says something of processes and tables, which a run of a workflow has in its own jobs.
NOT_OF_A_RUN = ('executor', 'pools', 'memory', 'extras', 'secrets', 'secret_env', 'env', 'writes', 'cleanup_timeout')

# Instances that a mapped job may have: each is a task with rows of its own.
MOST_INSTANCES = 10_000

_DURATION = re.compile(r'(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)')
_DURATION_UNITS = {'ms': 0.001, 's': 1, 'm': 60, 'h': 3600, 'd': 86400}
_SIZE = re.compile(r'(\d+(?:\.\d+)?)\s*([KMGT]i?B|B)', re.IGNORECASE)
_EXTRA = re.compile(r'[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?')
_SIZE_UNITS = {'b': 1, 'kb': 10**3, 'mb': 10**6, 'gb': 10**9, 'tb': 10**12} | {
    'kib': 2**10,
    'mib': 2**20,
    'gib': 2**30,
    'tib': 2**40,
}


def seconds(value: object) -> float:
    """A duration: a number of seconds, a text such as ``'30s'``, ``'5m'``, ``'1h30m'``, or a ``timedelta``."""
    expected = f'a duration, not {describe(value)}'
    hint = 'write a number of seconds, or "30s", "5m", "1h"'
    amount: Optional[float] = None
    if isinstance(value, bool):
        pass
    elif isinstance(value, (int, float)):
        amount = value
    elif isinstance(value, str):
        text = value.strip()
        if text and not _DURATION.sub('', text).strip():
            amount = sum(float(number) * _DURATION_UNITS[unit] for number, unit in _DURATION.findall(text))
            amount = round(amount, 6)
    elif hasattr(value, 'total_seconds'):
        amount = getattr(value, 'total_seconds')()
    if amount is None or not 0 <= amount < 10**10:
        raise WrongValue(expected, hint)
    return int(amount) if amount == int(amount) else amount


def positive_seconds(value: object) -> float:
    amount = seconds(value)
    if not amount:
        raise WrongValue(f'a duration above zero, not {describe(value)}')
    return amount


def size(value: object) -> int:
    """A size in bytes: a whole number, or a text such as ``'512MB'`` (10**6) or ``'1GiB'`` (2**30)."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is not None:
            amount = int(float(match[1]) * _SIZE_UNITS[match[2].lower()])
            if amount > 0:
                return amount
        short = re.fullmatch(r'(\d+)\s*([KMGT])?', value.strip(), re.IGNORECASE)
        if short is not None and int(short[1]):
            raise WrongValue(f'a size, not {describe(value)}', f'write "{short[1]}{(short[2] or "M").upper()}B"')
    raise WrongValue(f'a size, not {describe(value)}', 'write "512MB", "2GiB" or a whole number of bytes')


def whole(least: Optional[int] = None) -> Callable[[object], int]:
    expected = 'a whole number' + ('' if least is None else f' of {least} or more')

    def check(value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and (least is None or value >= least):
            return value
        hint = f'write {value}' if isinstance(value, str) and value.strip().isdigit() else None
        raise WrongValue(f'{expected}, not {describe(value)}', hint)

    return check


def truth(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise WrongValue(f'True or False, not {describe(value)}')


def text(value: object) -> str:
    if isinstance(value, str) and value.strip():
        return value
    raise WrongValue(f'text, not {describe(value)}')


def one_of(choices: tuple[str, ...]) -> Callable[[object], str]:
    listed = ', '.join(f'"{choice}"' for choice in choices[:-1]) + f' or "{choices[-1]}"'

    def check(value: object) -> str:
        if isinstance(value, str) and value in choices:
            return value
        hint = did_you_mean(value, choices) if isinstance(value, str) else None
        raise WrongValue(f'{listed}, not {describe(value)}', hint)

    return check


def faults(value: object) -> list[str]:
    """One fault or several, without repetition, in the order of the closed list."""
    given = _texts('faults', value)
    for fault in given:
        if fault not in FAULTS:
            raise WrongValue(
                f'made of faults, and "{fault}" is none',
                did_you_mean(fault, FAULTS) or f'faults are {", ".join(FAULTS)}',
            )
    return [fault for fault in FAULTS if fault in given]


def secrets(value: object) -> list[str]:
    names = _texts('names of secrets', value)
    for name in names:
        problem = name_problem(name)
        if problem is not None:
            raise WrongValue(f"a list of names, and a secret's name {problem}")
    return list(dict.fromkeys(names))


def extras(value: object) -> list[str]:
    """Names of extras, each once: what a Python environment has beyond the project's lock."""
    names = _texts('names of extras', value)
    for name in names:
        if _EXTRA.fullmatch(name) is None:
            raise WrongValue(f'a list of names, and "{name}" is no name of an extra')
    return sorted(set(names))


def environment(value: object) -> dict[str, str]:
    values = texts_of(value)
    for name in values:
        if name.startswith('PINRAIL_'):
            raise WrongValue(f'a dict of names to texts, and "{name}" is set by Pinrail itself', 'choose another name')
    return values


def secret_environment(value: object) -> dict[str, str]:
    values = environment(value)
    for name in values.values():
        problem = name_problem(name)
        if problem is not None:
            raise WrongValue(f"a dict of variables to names of secrets, and a secret's name {problem}")
    return values


def arguments(value: object) -> dict[str, Any]:
    """A dict of parameter names to JSON values."""
    from ._values import plain

    entries = as_dict(value)
    if entries is None:
        raise WrongValue(f'a dict of names to values, not {describe(value)}')
    for name in entries:
        problem = name_problem(name)
        if problem is not None:
            raise WrongValue(f'a dict of names to values, and a name {problem}')
    try:
        return plain(entries)
    except (TypeError, ValueError) as error:
        raise WrongValue(f'a dict of names to JSON values, and {error}') from None


def writes(value: object) -> list[dict[str, Any]]:
    return [table.to_json() for table in tables_of(value) or ()]


def _texts(what: str, value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    texts = as_list(value, sets=True)
    if texts is not None and all(isinstance(item, str) for item in texts):
        # A set has no order of its own that would be the same in the next process.
        return texts if as_list(value) is not None else sorted(texts)
    raise WrongValue(f'a list of {what}, not {describe(value)}')


def pools(value: object) -> dict[str, int]:
    """Pools and how many slots of each: a name, several, or a dict of names to slots."""
    entries = as_dict(value)
    given: dict[Any, Any] = {}
    if entries is None:
        given.update(dict.fromkeys(_texts('names of pools, or a dict of pools to slots', value), 1))
    else:
        given.update(entries)
    for name, slots in given.items():
        problem = name_problem(name)
        if problem is not None:
            raise WrongValue(f"made of names of pools, and a pool's name {problem}")
        if isinstance(slots, bool) or not isinstance(slots, int) or slots < 1:
            raise WrongValue(f'a dict of pools to slots of 1 or more, and "{name}" has {describe(slots)}')
    return given


def labels(value: object) -> list[str]:
    found = _texts('labels', value)
    for label in found:
        if not label.strip():
            raise WrongValue('a list of labels, and one is empty')
    return sorted(set(found))


def key(value: object) -> str:
    template = text(value)
    if template.count('{{') != template.count('}}'):
        raise WrongValue(f'a template, not {describe(value)}', "write key='{{ params.customer }}'")
    return template


def map_over(value: object) -> dict[str, Any]:
    """The list that a job is mapped over: ``'listing.files'``, a job and an output of it."""
    hint = "write map='listing.files': a job that it waits for and the name of an output"
    if not isinstance(value, str):
        raise WrongValue(f'a job and an output of it, not {describe(value)}', hint)
    job, dot, output = value.partition('.')
    if not dot:
        raise WrongValue(f'a job and an output of it, not {describe(value)}', hint)
    for part, what in ((job, "a job's name"), (output, "an output's name")):
        problem = name_problem(part)
        if problem is not None:
            raise WrongValue(f'a job and an output of it, and {what} {problem}')
    return {'job': job, 'output': output}


def instances(value: object) -> int:
    most = whole(1)(value)
    if most > MOST_INSTANCES:
        raise WrongValue(f'a whole number of {MOST_INSTANCES} or less, not {value}')
    return most


def waits(value: object) -> list[dict[str, Any]]:
    # Only a workflow file that waits for something needs them.
    from ._conditions import conditions

    return conditions(value)


class Setting(NamedTuple):
    """A setting: its field in the document, its check, what makes its value when nobody gives one,
    whether ``defaults`` may hold it, and whether the document leaves it out when it is empty: settings that came
    later must not change the versions of workflows that do not use them."""

    field: str
    check: Callable[[object], Any]
    absent: Callable[[], Any]
    default: bool
    left_out: bool = False


def _nothing() -> None:
    return None


def _all_succeeded() -> str:
    return 'all_succeeded'


SETTINGS = {
    'executor': Setting('executor', text, _nothing, True),
    'run_if': Setting('run_if', one_of(RUN_IF), _all_succeeded, False),
    'retries': Setting('retries', whole(0), int, True),
    'retry_delay': Setting('retry_delay_seconds', seconds, _nothing, True),
    'retry_on': Setting('retry_on', faults, _nothing, True),
    'memory': Setting('memory_bytes', size, _nothing, True),
    'warn_after': Setting('warn_after_seconds', positive_seconds, _nothing, True),
    'timeout': Setting('timeout_seconds', positive_seconds, _nothing, True),
    'cleanup_timeout': Setting('cleanup_timeout_seconds', positive_seconds, _nothing, True),
    'may_fail': Setting('may_fail', truth, bool, True),
    'extras': Setting('extras', extras, list, True),
    'secrets': Setting('secrets', secrets, list, True),
    'secret_env': Setting('secret_env', secret_environment, dict, True),
    'env': Setting('env', environment, dict, True),
    'writes': Setting('writes', writes, _nothing, False),
    'params': Setting('params', arguments, dict, False),
    'priority': Setting('priority', whole(), int, True),
    'pools': Setting('pools', pools, dict, True, True),
    'concurrency': Setting('concurrency', whole(1), _nothing, True, True),
    'key': Setting('key', key, _nothing, True, True),
    'labels': Setting('labels', labels, list, True, True),
    'map': Setting('map', map_over, _nothing, False, True),
    'max_instances': Setting('max_instances', instances, _nothing, False, True),
    'wait_for': Setting('wait_for', waits, list, False, True),
    'when': Setting('when', text, _nothing, False, True),
    'description': Setting('description', text, _nothing, False),
    'owner': Setting('owner', text, _nothing, True),
}
KINDS = ('class_', 'sql', 'shell', 'workflow')
TEMPLATE_NAMES = ('name', *KINDS, *SETTINGS, 'after')
OVERRUN = ('start-new', 'skip', 'delay', 'delay-until-success', 'abort-running')
WORKFLOW_NAMES = (
    'schedule',
    'overrun',
    'max_active',
    'concurrency',
    'owner',
    'description',
    'params',
    'defaults',
    'notify',
    'sla',
)
# Settings of a workflow that are planned, and what does nearly the same today.
NOT_YET = {'limits': 'write max_active= or concurrency='}
DEFAULT_NAMES = tuple(name for name, setting in SETTINGS.items() if setting.default)

# Words of other tools, and what they are called here.
_OTHER_WORDS = {
    'cls': 'class_',
    'command': 'shell',
    'bash': 'shell',
    'query': 'sql',
    'query_file': 'sql',
    'max_retries': 'retries',
    'retry': 'retries',
    'retry_wait': 'retry_delay',
    'trigger_rule': 'run_if',
    'mem': 'memory',
    'execution_timeout': 'timeout',
    'abort_after': 'timeout',
    'kill_after': 'timeout',
    'warn_timeout': 'warn_after',
    'arguments': 'params',
    'args': 'params',
    'parameters': 'params',
    'environment': 'env',
    'packages': 'extras',
    'requirements': 'extras',
    'cron': 'schedule',
    'task_id': 'name',
    'job': 'name',
    'default_args': 'defaults',
    'trigger_dag_id': 'workflow',
    'subworkflow': 'workflow',
    'subflow': 'workflow',
    'flow': 'workflow',
    'pool': 'pools',
    'max_active_runs': 'max_active',
    'max_active_tasks': 'concurrency',
    'tags': 'labels',
    'queue': 'labels',
    'overrun_policy': 'overrun',
    'sensor': 'wait_for',
    'sensors': 'wait_for',
    'condition': 'when',
    'if_': 'when',
    'expand': 'map',
    'for_each': 'map',
    'foreach': 'map',
    'map_over': 'map',
    'max_map_length': 'max_instances',
    'max_active_tis_per_dag': 'concurrency',
}


def meant(name: str, names: tuple[str, ...]) -> Optional[str]:
    """A hint for a setting that does not exist."""
    other = _OTHER_WORDS.get(name.lower())
    found = other if other in names else near(name, names)
    return None if found is None else f'did you mean "{found}"?'
