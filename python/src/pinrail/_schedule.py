"""Checks of schedules: cron expressions, time zones and bounds. When a schedule fires is the server's to compute."""

from __future__ import annotations

import re
from datetime import date, datetime, timezone
from typing import Any, Optional

from ._errors import did_you_mean, near
from ._narrow import as_list
from ._specs import WrongValue, describe

COVERS = ('day', 'hour', 'week', 'month', 'between-fires')
CATCH_UP = ('none', 'latest', 'all')

_FIELDS = (
    ('minute', 0, 59, ()),
    ('hour', 0, 23, ()),
    ('day of the month', 1, 31, ()),
    ('month', 1, 12, ('jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec')),
    ('day of the week', 0, 7, ('sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat')),
)
_SHORT = {
    '@hourly': '0 * * * *',
    '@daily': '0 0 * * *',
    '@midnight': '0 0 * * *',
    '@weekly': '0 0 * * 0',
    '@monthly': '0 0 1 * *',
    '@yearly': '0 0 1 1 *',
    '@annually': '0 0 1 1 *',
}


def cron_expression(value: object) -> tuple[str, Optional[str], Optional[str]]:
    """The expression with single blanks, what is wrong with it, and a hint."""
    if not isinstance(value, str):
        return '', f'a cron expression must be text, not {describe(value)}', "write cron('0 6 * * *')"
    if value.strip().startswith('@'):
        full = _SHORT.get(value.strip().lower())
        found = near(value.strip().lower(), _SHORT)
        if full is None:
            return '', f'cron expression "{value}" is unknown', f'did you mean "{found}"?' if found else None
        return full, None, None
    fields = value.split()
    if len(fields) != 5:
        hint = 'they are minute, hour, day of the month, month, day of the week'
        return '', f'cron expression "{value}" has {len(fields)} fields: 5 are needed', hint
    for field, (what, low, high, names) in zip(fields, _FIELDS):
        problem = _field_problem(field, low, high, names)
        if problem is not None:
            return '', f'cron expression "{value}" has a wrong {what}: {problem}', None
    return ' '.join(fields), None, None


def _field_problem(field: str, low: int, high: int, names: tuple[str, ...]) -> Optional[str]:
    for part in field.split(','):
        span, slash, step = part.partition('/')
        if slash and (not (step.isascii() and step.isdigit()) or int(step) == 0):
            return f'"{part}" has a step that is not a number above zero'
        if span == '*':
            continue
        first, dash, last = span.partition('-')
        bounds = [_number(word, names, low) for word in ((first, last) if dash else (first,))]
        for word, number in zip((first, last), bounds):
            if number is None:
                return f'"{word or part}" is not a number' + (' or a name' if names else '')
            if not low <= number <= high:
                return f'"{word}" is not from {low} to {high}'
        if dash and bounds[0] is not None and bounds[1] is not None and bounds[0] > bounds[1]:
            return f'"{span}" ends before it begins'
        if slash and not dash:
            return f'"{part}" has a step without a range'
    return None


def _number(word: str, names: tuple[str, ...], low: int) -> Optional[int]:
    if word.isascii() and word.isdigit():
        return int(word)
    folded = word.lower()
    return names.index(folded) + low if folded in names else None


def zone_problem(tz: object) -> tuple[Optional[str], Optional[str]]:
    """What is wrong with the name of a time zone, and a hint. Without a zone database only its form is checked."""
    if not isinstance(tz, str):
        return f'"tz" must be the name of a time zone, not {describe(tz)}', "write tz='America/New_York'"
    if tz == 'UTC':
        return None, None
    if re.fullmatch(r'[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*', tz):
        try:
            import zoneinfo
        except ImportError:
            return None, None
        known = zoneinfo.available_timezones()
        if not known or tz in known:
            return None, None
        found = near(tz, known)
        if found is None:
            ends = {name.rsplit('/', 1)[-1]: name for name in sorted(known)}
            last = near(tz.rsplit('/', 1)[-1].replace(' ', '_'), ends)
            found = ends[last] if last is not None else None
        return f'time zone "{tz}" does not exist', f'did you mean "{found}"?' if found else None
    return f'time zone "{tz}" does not exist', 'write an IANA name such as "America/New_York"'


def moment(value: object, *, only_date: bool = False) -> Optional[str]:
    """The ISO text of a date or datetime, or None. An aware datetime is turned to UTC."""
    try:
        if isinstance(value, str):
            text = value.strip()
            if re.fullmatch(r'\d{4}-\d\d-\d\d', text):
                date.fromisoformat(text)
                return text
            value = datetime.fromisoformat(text[:-1] + '+00:00' if text.endswith('Z') else text)
        if isinstance(value, datetime):
            if only_date:
                return None
            if value.tzinfo is not None:
                return value.astimezone(timezone.utc).replace(tzinfo=None).isoformat(timespec='microseconds') + 'Z'
            return value.isoformat(timespec='microseconds')
        if isinstance(value, date):
            return value.isoformat()
    except (ValueError, OverflowError):
        pass
    return None


def bounds(
    func: str, start: object, end: object
) -> tuple[Optional[str], Optional[str], list[tuple[str, str, Optional[str]]]]:
    """``start`` and ``end`` of a schedule, which are local dates, as ISO texts, and what is wrong with them."""
    wrong: list[tuple[str, str, Optional[str]]] = []
    texts: list[Optional[str]] = []
    for name, value in (('start', start), ('end', end)):
        text = None if value is None else moment(value, only_date=True)
        if value is not None and text is None:
            full = moment(value)
            hint = f'write {name}={full[:10]!r}: it includes all fire times of that day' if full else None
            wrong.append((name, f'"{name}" of {func} must be a date like 2013-01-02, not {describe(value)}', hint))
        texts.append(text)
    first, last = texts
    if first is not None and last is not None and first > last:
        wrong.append(('end', f'"end" of {func} is before its start: {last} is before {first}', None))
    return first, last, wrong


# A setting, what is wrong with it, and a hint.
Wrong = list[tuple[str, str, Optional[str]]]


def choice(func: str, name: str, value: object, choices: tuple[str, ...], wrong: Wrong, otherwise: str) -> str:
    """One of the choices; anything else is recorded, and ``otherwise`` is used."""
    if isinstance(value, str) and value in choices:
        return value
    listed = ', '.join(f'"{one}"' for one in choices)
    hint = did_you_mean(value, choices) if isinstance(value, str) else None
    wrong.append((name, f'"{name}" of {func} must be one of {listed}, not {describe(value)}', hint))
    return otherwise


def rest(func: str, catch_up: object, jitter: object, blackout: object, wrong: Wrong) -> dict[str, Any]:
    """What a schedule says beyond its fire times, as the document has it; nothing for what is left at its default."""
    from ._settings import seconds

    found: dict[str, Any] = {}
    how = choice(func, 'catch_up', catch_up, CATCH_UP, wrong, 'latest')
    if how != 'latest':
        found['catch_up'] = how
    try:
        amount = 0 if jitter is None else seconds(jitter)
        if amount != int(amount) or amount > MOST_JITTER:
            raise WrongValue(f'whole seconds, at most a day, not {describe(jitter)}')
        if amount:
            found['jitter_seconds'] = int(amount)
    except WrongValue as problem:
        wrong.append(('jitter', f'"jitter" of {func} must be {problem.expected}', problem.hint))
    pairs = _pairs(func, blackout, wrong)
    if pairs:
        found['blackout'] = pairs
    return found


# More would move a daily run into the next day's.
MOST_JITTER = 86_400


def _pairs(func: str, blackout: object, wrong: Wrong) -> list[list[str]]:
    """Dates and pairs of dates as pairs, both included."""
    items = as_list(blackout)
    hint = "write blackout=['2026-12-25', ('2026-12-24', '2027-01-01')]"
    if items is None:
        wrong.append(('blackout', f'"blackout" of {func} must be a list of dates, not {describe(blackout)}', hint))
        return []
    pairs: list[list[str]] = []
    for item in items:
        ends = as_list(item)
        given = [item, item] if ends is None else ends
        dates = [date for date in (moment(end, only_date=True) for end in given) if date is not None]
        if len(given) != 2 or len(dates) != 2:
            message = f'"blackout" of {func} must be made of dates and pairs of dates, not {describe(item)}'
            wrong.append(('blackout', message, hint))
        elif dates[0] > dates[1]:
            message = f'"blackout" of {func} has a pair that ends before it begins: {dates[1]} is before {dates[0]}'
            wrong.append(('blackout', message, None))
        else:
            pairs.append(dates)
    return pairs
