"""Rows and JSON."""

from __future__ import annotations

import json
import pickle
from datetime import date, datetime, time, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from pinrail._values import decoder, encode, make_rows, plain


@pytest.mark.parametrize(
    ('kind', 'given', 'expected'),
    [
        ('boolean', True, True),
        ('int', 5, 5),
        ('long', '9007199254740993', 9007199254740993),
        ('double', 'Infinity', float('inf')),
        ('double', 5, 5.0),
        ('decimal(38, 2)', '12345678901234567890.10', Decimal('12345678901234567890.10')),
        ('date', '2013-01-01', date(2013, 1, 1)),
        ('date', '+12013-01-01', '+12013-01-01'),
        ('time', '06:00:00.000001', time(6, 0, 0, 1)),
        ('timestamp', '2013-01-01T06:00:00.123456', datetime(2013, 1, 1, 6, 0, 0, 123456)),
        ('timestamptz', '2013-01-01T06:00:00.000000Z', datetime(2013, 1, 1, 6, tzinfo=timezone.utc)),
        ('string', 'ü', 'ü'),
        ('uuid', 'f79c3e09-677c-4bbd-a479-3f349cb785e7', UUID('f79c3e09-677c-4bbd-a479-3f349cb785e7')),
        ('binary', 'AP8=', b'\x00\xff'),
        ('fixed[2]', 'AP8=', b'\x00\xff'),
        ('list<decimal(5,2)>', ['1.50', None], [Decimal('1.50'), None]),
        ('list<int>', [1], [1]),
        ('map<string,date>', {'a': '2013-01-01'}, {'a': date(2013, 1, 1)}),
        ('map<int, string>', {'1': 'a'}, {1: 'a'}),
        ('map<date,int>', [['2013-01-01', 1]], {date(2013, 1, 1): 1}),
        (
            'struct<a: date, b: list<struct<c: binary>>>',
            {'a': '2013-01-01', 'b': [{'c': 'AA=='}]},
            {'a': date(2013, 1, 1), 'b': [{'c': b'\x00'}]},
        ),
        ('struct<1: a: optional decimal(5, 2)>', {'a': '1.50'}, {'a': Decimal('1.50')}),
        ('something new', 'x', 'x'),
    ],
)
def test_values_by_type(kind: str, given: Any, expected: Any) -> None:
    decode = decoder(kind)
    value = given if decode is None else decode(given)
    assert value == expected and type(value) is type(expected)


def test_nan() -> None:
    decode = decoder('double')
    assert decode is not None and decode('NaN') != decode('NaN')


def test_rows() -> None:
    columns = [
        {'name': name, 'type': kind}
        for name, kind in (('n', 'long'), ('Day', 'date'), ('count', 'long'), ('a b', 'int'))
    ]
    rows = make_rows({'columns': columns, 'rows': [[1, '2013-01-01', 2, None]]})
    (row,) = rows
    assert row.n == row['n'] == row[0] == 1
    assert row.day == row.Day == row['DAY'] == date(2013, 1, 1)
    assert row.count == 2 and row['a b'] is None and row[1:3] == (date(2013, 1, 1), 2)
    assert row == (1, date(2013, 1, 1), 2, None) and len(row) == 4 and list(row)[0] == 1
    assert repr(row) == 'Row(n=1, Day=datetime.date(2013, 1, 1), count=2, a b=None)'
    assert rows.columns == ('n', 'Day', 'count', 'a b') and rows.types[1] == 'date'
    assert dict(zip(row.keys(), row))['count'] == 2
    assert pickle.loads(pickle.dumps(row)).day == row.day
    with pytest.raises(AttributeError, match='no column "nn" among n, Day, count, a b'):
        row.nn
    with pytest.raises(KeyError):
        row['nn']
    assert make_rows({'columns': columns, 'rows': []}).columns[0] == 'n'


def test_json() -> None:
    value = {
        'd': Decimal('1.50'),
        'day': date(2013, 1, 1),
        'at': datetime(2013, 1, 1, tzinfo=timezone.utc),
        'b': b'\x00',
        'n': [float('nan'), float('-inf'), (1,)],
        5: None,
    }
    expected = {
        'd': '1.50',
        'day': '2013-01-01',
        'at': '2013-01-01T00:00:00Z',
        'b': 'AA==',
        'n': ['NaN', '-Infinity', [1]],
        '5': None,
    }
    assert json.loads(encode(value)) == plain(value) == expected
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ValueError, match='contains itself'):
        encode(loop)
    with pytest.raises(TypeError):
        encode({(1, 2): 3})
