"""Values on the wire: typed rows from JSON by Iceberg type name, and plain JSON from Python values.

Invariants: decoding never loses digits (decimals, microseconds and bytes come back exactly), and a value that Python
cannot hold, such as a date beyond the year 9999, stays the text it was sent as. Encoding never writes ``NaN`` or
``Infinity`` as bare words, because they are not JSON.
"""

from __future__ import annotations

import json
import operator

from ._narrow import as_dict, as_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, Optional

    Decoder = Optional[Callable[[Any], Any]]
    _Values = tuple[Any, ...]
    _RowList = list['Row']
else:
    _Values = tuple
    _RowList = list


# The plain lookup, which ``Row`` overrides.
_item: Any = tuple.__getitem__  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


class Row(_Values):
    """One row of a result: ``row.n``, ``row['n']`` and ``row[0]`` are the same value; equal to a tuple of its values.

    Names are resolved exactly, then without regard to case if that is unique. A column whose name Python cannot
    spell as an attribute is reached by ``row['its name']``.
    """

    __slots__ = ()
    _pinrail_names: tuple[str, ...] = ()
    _pinrail_index: Mapping[str, int] = {}

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return _item(self, self._pinrail_find(key))
        return _item(self, key)

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)
        return _item(self, self._pinrail_find(name))

    def _pinrail_find(self, name: str) -> int:
        position = self._pinrail_index.get(name)
        if position is not None:
            return position
        folded = [index for index, known in enumerate(self._pinrail_names) if known.lower() == name.lower()]
        if len(folded) == 1:
            return folded[0]
        from ._errors import MissingName, did_you_mean

        hint = did_you_mean(name, self._pinrail_names) if not folded else None
        raise MissingName(f'no column "{name}" among {", ".join(self._pinrail_names)}', hint)

    def keys(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return self._pinrail_names

    def __repr__(self) -> str:
        shown = (f'{name}={value!r}' for name, value in zip(self._pinrail_names, self))
        return f'Row({", ".join(shown)})'

    def __reduce__(self) -> Any:
        return _rebuild_row, (self._pinrail_names, tuple(self))


class Rows(_RowList):
    """The rows of a result: a list, with the ``columns`` and their Iceberg ``types`` also when there are no rows."""

    def __init__(self, rows: Sequence[Row], columns: Sequence[str], types: Sequence[str]) -> None:
        super().__init__(rows)
        self.columns = tuple(columns)
        self.types = tuple(types)


def row_type(names: Sequence[str]) -> type[Row]:
    """A class of rows with these columns.

    Each column is a property of the class, so that ``row.count`` is the column and not the method of tuples.
    """
    index: dict[str, int] = {}
    for position, name in enumerate(names):
        index.setdefault(name, position)
    body: dict[str, Any] = {'__slots__': (), '_pinrail_names': tuple(names), '_pinrail_index': index}
    for name, position in index.items():
        if name.isidentifier() and not name.startswith(('__', '_pinrail_')):
            body[name] = property(operator.itemgetter(position))
    return type('Row', (Row,), body)


def _rebuild_row(names: tuple[str, ...], values: tuple[Any, ...]) -> Row:
    return row_type(names)(values)


def make_rows(reply: Mapping[str, Any]) -> Rows:
    """Rows from ``{"columns": [{"name", "type"}], "rows": [[...]]}``."""
    names = [str(column['name']) for column in reply['columns']]
    types = [str(column['type']) for column in reply['columns']]
    make = row_type(names)
    decoders = [decoder(one) for one in types]
    raw: list[list[Any]] = reply['rows']
    if any(decoders):
        rows = [
            make(
                [value if decode is None or value is None else decode(value) for decode, value in zip(decoders, values)]
            )
            for values in raw
        ]
    else:
        rows = [make(values) for values in raw]
    return Rows(rows, names, types)


def decoder(type_name: str) -> Decoder:
    """What turns the JSON form of an Iceberg type into its Python value; None where they are the same."""
    kind = type_name.strip()
    head = kind.split('(', 1)[0].split('<', 1)[0].split('[', 1)[0].strip()
    if head in _SIMPLE:
        return _SIMPLE[head]
    inner = kind[kind.find('<') + 1 : -1] if kind.endswith('>') else ''
    if head == 'list':
        return _list_decoder(inner)
    if head == 'map':
        parts = _split(inner)
        return _map_decoder(parts[0], parts[1]) if len(parts) == 2 else None
    if head == 'struct':
        return _struct_decoder(_split(inner))
    return None


def _list_decoder(inner: str) -> Decoder:
    item = decoder(inner)
    if item is None:
        return None
    decode = item
    return lambda values: [None if value is None else decode(value) for value in values]


def _map_decoder(key_type: str, value_type: str) -> Decoder:
    key_decoder = decoder(key_type)
    value_decoder = decoder(value_type)

    def decode(value: Any) -> dict[Any, Any]:
        # A map is an object, or pairs where its keys are not texts.
        entries = as_dict(value)
        pairs: Any = value if entries is None else entries.items()
        result: dict[Any, Any] = {}
        for key, one in pairs:
            if isinstance(key, str) and key_type.strip() in ('int', 'long'):
                key = int(key)
            elif key_decoder is not None:
                key = key_decoder(key)
            result[key] = one if one is None or value_decoder is None else value_decoder(one)
        return result

    return decode


def _struct_decoder(fields: Sequence[str]) -> Decoder:
    decoders: dict[str, Decoder] = {}
    for field in fields:
        # Both spellings are in use: "a: int" and, with field ids, "1: a: optional int".
        parts = [part.strip() for part in field.split(':', 2)] if '<' not in field.split(':', 1)[0] else []
        if len(parts) == 3 and parts[0].isdigit():
            name, kind = parts[1], parts[2]
        elif len(parts) >= 2:
            name, kind = parts[0], ':'.join(parts[1:])
        else:
            continue
        for word in ('optional ', 'required '):
            if kind.startswith(word):
                kind = kind[len(word) :]
        decoders[name] = decoder(kind)

    def decode(value: Any) -> Any:
        given = as_dict(value)
        if given is None:
            return value
        result: dict[str, Any] = {}
        for name, one in given.items():
            decode_one = decoders.get(name)
            result[name] = one if one is None or decode_one is None else decode_one(one)
        return result

    return decode


def _split(text: str) -> list[str]:
    """Splits at the commas that stand outside of brackets."""
    parts: list[str] = []
    depth = 0
    start = 0
    for index, letter in enumerate(text):
        if letter in '<(':
            depth += 1
        elif letter in '>)':
            depth -= 1
        elif letter == ',' and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    parts.append(text[start:])
    return [part for part in parts if part.strip()]


def parse_decimal(value: Any) -> Any:
    from decimal import Decimal

    return Decimal(value)


def parse_date(value: str) -> Any:
    from datetime import date

    try:
        return date.fromisoformat(value)
    except ValueError:
        return value


def parse_time(value: str) -> Any:
    from datetime import time

    try:
        return time.fromisoformat(value)
    except ValueError:
        return value


def parse_datetime(value: str) -> Any:
    """A datetime from ISO 8601, aware when the text names a zone. Python 3.9 and 3.10 do not read a ``Z``."""
    from datetime import datetime

    try:
        return datetime.fromisoformat(value[:-1] + '+00:00' if value.endswith('Z') else value)
    except ValueError:
        return value


def _parse_uuid(value: str) -> Any:
    from uuid import UUID

    return UUID(value)


def _parse_bytes(value: str) -> bytes:
    from binascii import a2b_base64

    return a2b_base64(value)


_SIMPLE: dict[str, Decoder] = {
    'boolean': None,
    'int': None,
    'long': int,
    'float': float,
    'double': float,
    'decimal': parse_decimal,
    'date': parse_date,
    'time': parse_time,
    'timestamp': parse_datetime,
    'timestamptz': parse_datetime,
    'string': None,
    'uuid': _parse_uuid,
    'fixed': _parse_bytes,
    'binary': _parse_bytes,
}

_PARAMETERS: dict[str, Decoder] = {
    'date': parse_date,
    'datetime': parse_datetime,
    'decimal': parse_decimal,
    'float': float,
}


def parameter(type_name: str | None, value: Any) -> Any:
    """A parameter's value from JSON, by the type of its declaration."""
    decode = _PARAMETERS.get(type_name or '')
    return value if decode is None or value is None else decode(value)


def encode(value: object) -> str:
    """JSON text on one line. Raises ``TypeError`` or ``ValueError`` for what has no JSON form."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(',', ':'), default=_plain_one)
    except ValueError:
        # A NaN or an infinity, which only a walk through the value can turn into text; or a reference to itself.
        return json.dumps(plain(value), ensure_ascii=False, allow_nan=False, separators=(',', ':'))


def is_finite(value: object) -> bool:
    """Whether a value that has a JSON form has it without giving NaN or an infinity as text."""
    try:
        json.dumps(value, allow_nan=False, default=_plain_one)
    except ValueError:
        return False
    return True


def plain(value: Any, _inside: tuple[int, ...] = ()) -> Any:
    """A copy made of JSON types alone: decimals, times, NaN and infinities as text, bytes as base64."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        if value != value:
            return 'NaN'
        if value in (float('inf'), float('-inf')):
            return 'Infinity' if value > 0 else '-Infinity'
        return value
    if id(value) in _inside:
        raise ValueError('the value contains itself')
    inside = (*_inside, id(value))
    entries = as_dict(value)
    if entries is not None:
        result: dict[str, Any] = {}
        for key, one in entries.items():
            if not isinstance(key, str):
                if not isinstance(key, (int, float)) and key is not None:
                    raise TypeError(f'a key is not text: {key!r}')
                key = json.dumps(key)
            result[key] = plain(one, inside)
        return result
    items = as_list(value)
    if items is not None:
        return [plain(one, inside) for one in items]
    return plain(_plain_one(value), inside)


def _plain_one(value: Any) -> Any:
    """The JSON form of a value that ``json`` does not know."""
    isoformat = getattr(value, 'isoformat', None)
    if isoformat is not None:
        text: str = isoformat()
        return text[:-6] + 'Z' if text.endswith('+00:00') else text
    kind: Any = type(value)  # pyright: ignore[reportUnknownVariableType]
    if kind.__module__ in ('decimal', 'uuid', 'fractions') or hasattr(value, '__fspath__'):
        return str(value)
    if isinstance(value, (bytes, bytearray)):
        from binascii import b2a_base64

        return b2a_base64(value, newline=False).decode('ascii')
    item = getattr(value, 'item', None)
    if item is not None and getattr(value, 'shape', None) == ():
        # The scalars of numpy and its kin, recognised without importing them.
        return item()
    raise TypeError(f'{kind.__name__} is not a JSON value')
