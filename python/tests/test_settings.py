"""Durations, sizes, cron expressions and names."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Optional

import pytest

from pinrail._names import is_name, usable
from pinrail._schedule import cron_expression
from pinrail._settings import extras, seconds, size
from pinrail._specs import WrongValue, table_name_problem


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        (0, 0),
        (90, 90),
        (1.5, 1.5),
        ('30s', 30),
        ('5m', 300),
        ('1h', 3600),
        ('1h30m', 5400),
        ('1d', 86400),
        ('250ms', 0.25),
        (timedelta(minutes=2), 120),
        *((wrong, None) for wrong in (-1, True, '5', '', 'm', '5 x', '-5m', float('nan'), float('inf'), None, b'')),
    ],
)
def test_durations(given: Any, expected: Optional[float]) -> None:
    if expected is None:
        with pytest.raises(WrongValue):
            seconds(given)
    else:
        assert seconds(given) == expected


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ('ml', ['ml']),
        (('b', 'a', 'b'), ['a', 'b']),
        ({'x.y', 'X-1'}, ['X-1', 'x.y']),
        ([], []),
        *((wrong, None) for wrong in ('', 'a b', 'a/b', '-a', ['a', 1], 7, {'a': 1}, None)),
    ],
)
def test_extras(given: Any, expected: Optional[list[str]]) -> None:
    if expected is None:
        with pytest.raises(WrongValue):
            extras(given)
    else:
        assert extras(given) == expected


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        (1, 1),
        ('512MB', 512_000_000),
        ('1.5 GB', 1_500_000_000),
        ('1gib', 1 << 30),
        ('2KiB', 2048),
        *((wrong, None) for wrong in (0, -1, True, 1.5, '512', '512M', 'MB', '0MB', '', None)),
    ],
)
def test_sizes(given: Any, expected: Optional[int]) -> None:
    if expected is None:
        with pytest.raises(WrongValue):
            size(given)
    else:
        assert size(given) == expected


@pytest.mark.parametrize(
    ('given', 'problem'),
    [
        ('0 6 * * *', None),
        ('*/5 0-6,12 1,15 jan-mar MON-fri', None),
        ('0  6 * * 7', None),
        ('1-59/2 * * * *', None),
        ('@daily', None),
        ('@dayly', 'is unknown'),
        ('* * * *', '4 fields'),
        ('60 * * * *', '"60" is not from 0 to 59'),
        ('* * 0 * *', 'not from 1 to 31'),
        ('* * * foo *', 'wrong month'),
        ('*/0 * * * *', 'step'),
        ('5/2 * * * *', 'step without a range'),
        ('6-5 * * * *', 'ends before it begins'),
        (', * * * *', 'not a number'),
        ('- * * * *', 'not a number'),
        ('1- * * * *', 'not a number'),
        (5, 'must be text'),
    ],
)
def test_cron_expressions(given: Any, problem: Optional[str]) -> None:
    _, found, _ = cron_expression(given)
    assert (found is None) if problem is None else problem in (found or '')


@pytest.mark.parametrize(
    ('name', 'good'),
    [
        ('a', True),
        ('_a-1', True),
        ('A' * 64, True),
        ('A' * 65, False),
        ('1a', False),
        ('-a', False),
        ('a b', False),
        ('ä', False),
        ('a.b', False),
        ('', False),
        ('a\n', False),
    ],
)
def test_names(name: str, good: bool) -> None:
    assert is_name(name) is good


def test_usable_names() -> None:
    assert [usable(name) for name in ('a b', '1a', 'ä', 'good', '')] == ['a_b', '_1a', '_', None, None]


@pytest.mark.parametrize(
    ('name', 'good'),
    [
        ('a', True),
        ('marts.daily_1', True),
        ('a.b.c', False),
        ('A', False),
        ('a__b', False),
        ('1a', False),
        ('', False),
        ('a.', False),
        ('a-b', False),
        ('a' * 129, False),
    ],
)
def test_table_names(name: str, good: bool) -> None:
    assert (table_name_problem(name) is None) is good
