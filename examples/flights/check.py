"""Compares every row of every result table with what Python computes from the raw files. It knows nothing of the SQL.

    python check.py 2013-01-01 2013-02-01..2013-02-28        the days that were run

Tables are read by ``pinrail sql`` (``PINRAIL_BIN``, else the one on ``PATH``). Exit status 0 means that every cell is
as it must be; 1 names the first cells that differ.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from operator import itemgetter
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional, Union

# A value as the JSON of a result has it: whole numbers, doubles, and text for everything else.
Cell = Union[int, float, str, None]
Cells = tuple[Cell, ...]
# A line of a raw file by column; a missing value is None.
Line = dict[str, Optional[str]]

FOLDER = Path(__file__).resolve().parent
# How many differences of a table are named.
SHOWN = 5
# More minutes than this are late.
LATE = 15
# No wind blows at this speed in miles per hour: the gauge was broken, and the table has no value there.
IMPOSSIBLE_WIND = 200.0


class Raw(NamedTuple):
    """A table that holds a raw file: its columns with their types, those that tell rows apart, and a row of a line."""

    columns: str
    key: str
    convert: Callable[[Line], Cells]


@dataclass
class Expected:
    """What a table must hold: the types of its columns, those that tell rows apart, and its rows in any order."""

    table: str
    columns: dict[str, str]
    key: tuple[str, ...]
    rows: list[Cells]


def lines(folder: Path, name: str) -> Iterator[Line]:
    """The lines of a raw file; ``NA`` marks a missing value."""
    with (folder / f'{name}.csv').open(newline='', encoding='utf-8') as file:
        reader = csv.reader(file)
        header = next(reader)
        for values in reader:
            yield dict(zip(header, [None if value == 'NA' else value for value in values]))


def whole(text: str | None) -> int | None:
    return None if text is None else int(text)


def double(text: str | None) -> float | None:
    return None if text is None else float(text)


def fixed(value: str | Decimal | None, digits: int) -> str | None:
    """An exact decimal as the result writes it; half a last digit counts away from zero."""
    if value is None:
        return None
    return format(Decimal(value).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_HALF_UP), 'f')


def mean(values: Sequence[int | Decimal], digits: int) -> str | None:
    return fixed(Decimal(sum(values)) / len(values), digits) if values else None


def instant(text: str | None) -> str | None:
    return None if text is None else text.replace('Z', '.000000Z')


def time_of_day(text: str | None) -> int | None:
    """Hours and minutes; midnight is both 0 and 2400 in the file."""
    return None if text is None else int(text) % 2400


def day_of(line: Line) -> str:
    return date(int(line['year'] or 0), int(line['month'] or 0), int(line['day'] or 0)).isoformat()


def wind(text: str | None) -> float | None:
    speed = double(text)
    return None if speed is None or speed >= IMPOSSIBLE_WIND else speed


def flight(line: Line) -> Cells:
    return (
        day_of(line),
        line['carrier'],
        whole(line['flight']),
        line['tailnum'],
        line['origin'],
        line['dest'],
        whole(line['sched_dep_time']),
        time_of_day(line['dep_time']),
        whole(line['dep_delay']),
        whole(line['sched_arr_time']),
        time_of_day(line['arr_time']),
        whole(line['arr_delay']),
        whole(line['air_time']),
        whole(line['distance']),
        instant(line['time_hour']),
    )


def weather_report(line: Line) -> Cells:
    return (
        line['origin'],
        instant(line['time_hour']),
        fixed(line['temp'], 2),
        fixed(line['dewp'], 2),
        fixed(line['humid'], 2),
        whole(line['wind_dir']),
        wind(line['wind_speed']),
        double(line['wind_gust']),
        fixed(line['precip'], 2),
        fixed(line['pressure'], 1),
        fixed(line['visib'], 2),
    )


def plane(line: Line) -> Cells:
    return (
        line['tailnum'],
        whole(line['year']),
        line['type'],
        line['manufacturer'],
        line['model'],
        whole(line['engines']),
        whole(line['seats']),
        whole(line['speed']),
        line['engine'],
    )


def airport(line: Line) -> Cells:
    return (
        line['faa'],
        line['name'],
        double(line['lat']),
        double(line['lon']),
        whole(line['alt']),
        whole(line['tz']),
        line['dst'],
        line['tzone'],
    )


def airline(line: Line) -> Cells:
    return line['carrier'], line['name']


RAW = {
    'flights': Raw(
        """
        flight_day date
        carrier string
        flight int
        tailnum string
        origin string
        dest string
        sched_dep_time int
        dep_time int
        dep_delay int
        sched_arr_time int
        arr_time int
        arr_delay int
        air_time int
        distance int
        hour_at timestamptz
        """,
        'flight_day carrier flight origin dest sched_dep_time',
        flight,
    ),
    'weather': Raw(
        """
        origin string
        hour_at timestamptz
        temp decimal(5, 2)
        dewp decimal(5, 2)
        humid decimal(5, 2)
        wind_dir int
        wind_speed double
        wind_gust double
        precip decimal(4, 2)
        pressure decimal(5, 1)
        visib decimal(4, 2)
        """,
        'origin hour_at',
        weather_report,
    ),
    'planes': Raw(
        """
        tailnum string
        year int
        type string
        manufacturer string
        model string
        engines int
        seats int
        speed int
        engine string
        """,
        'tailnum',
        plane,
    ),
    'airports': Raw(
        """
        faa string
        name string
        lat double
        lon double
        alt int
        tz int
        dst string
        tzone string
        """,
        'faa',
        airport,
    ),
    'airlines': Raw('carrier string\nname string', 'carrier', airline),
}


def expected_raw(folder: Path, name: str) -> Expected:
    raw = RAW[name]
    columns = dict(line.strip().split(' ', 1) for line in raw.columns.strip().splitlines())
    return Expected(f'raw.{name}', columns, tuple(raw.key.split()), [raw.convert(line) for line in lines(folder, name)])


def picked(expected: Expected, columns: str) -> Iterator[Any]:
    """Some columns of each row."""
    names = list(expected.columns)
    return map(itemgetter(*(names.index(column) for column in columns.split())), expected.rows)


def counted(delays: Sequence[int | None]) -> tuple[tuple[int, int, int], list[int]]:
    """How many flights there are, how many were cancelled and how many late; and the delays of those that left."""
    left = [delay for delay in delays if delay is not None]
    return (len(delays), len(delays) - len(left), sum(delay > LATE for delay in left)), left


def daily_delays(flights: Expected, days: Sequence[str]) -> Expected:
    groups: defaultdict[tuple[str, str], list[int | None]] = defaultdict(list)
    wanted = set(days)
    for day, carrier, delay in picked(flights, 'flight_day carrier dep_delay'):
        if day in wanted:
            groups[carrier, day].append(delay)
    rows: list[Cells] = []
    for (carrier, day), delays in groups.items():
        counts, left = counted(delays)
        rows.append((carrier, *counts, max(left, default=None), mean(left, 2), day))
    columns = {
        'carrier': 'string',
        'flights': 'long',
        'cancelled': 'long',
        'late': 'long',
        'worst_delay': 'int',
        'mean_delay': 'decimal(9, 2)',
        'day': 'date',
    }
    return Expected('marts.daily_delays', columns, ('day', 'carrier'), rows)


class Report(NamedTuple):
    """The weather at an airport in an hour."""

    kind: str
    temp: Decimal | None
    precip: Decimal | None


NOT_RECORDED = Report('not recorded', None, None)


def reports(weather: Expected) -> dict[tuple[str, str], Report]:
    found: dict[tuple[str, str], Report] = {}
    for origin, hour, *fractions, speed in picked(weather, 'origin hour_at temp precip visib wind_speed'):
        temp, precip, visib = (None if text is None else Decimal(text) for text in fractions)
        kind = 'fair'
        # The first of these counts, so it is asked last.
        if speed is not None and speed >= 25:
            kind = 'strong wind'
        if visib is not None and visib < 1:
            kind = 'fog'
        if precip is not None and precip > 0:
            kind = 'snow or ice' if temp is not None and temp <= 32 else 'rain'
        found[origin, hour] = Report(kind, temp, precip)
    return found


def weather_effect(flights: Expected, weather: Expected) -> Expected:
    reported = reports(weather)
    groups: defaultdict[tuple[str, str], list[tuple[int | None, Report]]] = defaultdict(list)
    for origin, hour, delay in picked(flights, 'origin hour_at dep_delay'):
        report = reported.get((origin, hour), NOT_RECORDED)
        groups[origin, report.kind].append((delay, report))
    rows: list[Cells] = []
    for (origin, kind), seen in groups.items():
        counts, left = counted([delay for delay, _ in seen])
        temps = [report.temp for _, report in seen if report.temp is not None]
        precips = [report.precip for _, report in seen if report.precip is not None]
        precip = fixed(sum(precips, Decimal(0)), 2) if precips else None
        rows.append((origin, kind, *counts, mean(left, 2), mean(temps, 2), precip))
    columns = {
        'origin': 'string',
        'weather': 'string',
        'flights': 'long',
        'cancelled': 'long',
        'late': 'long',
        'mean_delay': 'decimal(9, 2)',
        'mean_temp': 'decimal(5, 2)',
        'precip': 'decimal(14, 2)',
    }
    return Expected('marts.weather_effect', columns, ('origin', 'weather'), rows)


def expected_tables(folder: Path, days: Sequence[str]) -> list[Expected]:
    """What every table must hold after these days were run, from the raw files in ``folder``."""
    raw = {name: expected_raw(folder, name) for name in RAW}
    return [*raw.values(), daily_delays(raw['flights'], days), weather_effect(raw['flights'], raw['weather'])]


def compare(expected: Expected, answer: dict[str, Any]) -> list[str]:
    """What differs between a table and what it must hold: nothing, or the first differences by row and column."""
    found = {column['name']: column['type'] for column in answer['columns']}
    if list(found.items()) != list(expected.columns.items()):
        return [f'{expected.table} has the columns {found}, expected {expected.columns}']
    rows: list[Cells] = [tuple(row) for row in answer['rows']]
    # Text, whole numbers and doubles compare exactly; as a bag, a row that is there twice is one too many.
    surplus, lacking = Counter(rows), Counter(expected.rows)
    surplus, lacking = surplus - lacking, lacking - surplus
    if not surplus and not lacking:
        return []
    faults: list[str] = []
    names = list(expected.columns)
    at = [names.index(column) for column in expected.key]
    wanted = {tuple(row[index] for index in at): row for row in lacking}
    for row in surplus:
        key = tuple(row[index] for index in at)
        place = f'{expected.table}, row {", ".join(str(value) for value in key)}'
        other = wanted.pop(key, None)
        if other is None:
            faults.append(f'{place}: is too much')
            continue
        pairs = zip(names, row, other)
        faults.extend(f'{place}: {name} is {is_!r}, expected {want!r}' for name, is_, want in pairs if is_ != want)
    faults.extend(f'{expected.table}, row {", ".join(str(value) for value in key)}: is missing' for key in wanted)
    return faults


def start_reading(project: Path, table: str) -> subprocess.Popen[bytes]:
    """Asks for a table as ``pinrail sql --json`` prints it."""
    command = [os.environ.get('PINRAIL_BIN') or 'pinrail', 'sql', f'select * from {table}', '--json']
    return subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE)


def answer_of(reading: subprocess.Popen[bytes], table: str) -> dict[str, Any]:
    out, _ = reading.communicate()
    if reading.returncode != 0:
        raise SystemExit(f'error: {table} cannot be read: {out.decode(errors="replace").strip()}')
    return json.loads(out)


def days_of(text: str) -> list[str]:
    """The days of ``2013-01-01``, or of ``2013-01-01..2013-01-31`` with both ends, in ISO form."""
    first, _, last = text.partition('..')
    begin, end = date.fromisoformat(first), date.fromisoformat(last or first)
    if end < begin:
        raise ValueError(text)
    return [(begin + timedelta(days=number)).isoformat() for number in range((end - begin).days + 1)]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description='Compares every result table with the raw files.')
    parser.add_argument('days', nargs='+', type=days_of, help='the days that were run: DAY or FROM..TO')
    parser.add_argument('--project', type=Path, default=FOLDER, help='the project [default: the folder of this file]')
    given = parser.parse_args(arguments)
    # The largest table is read while the expected rows are computed.
    flights = start_reading(given.project, 'raw.flights')
    tables = expected_tables(given.project / 'data', [day for days in given.days for day in days])
    cells, wrong = 0, 0
    for expected in tables:
        table = expected.table
        reading = flights if table == 'raw.flights' else start_reading(given.project, table)
        faults = compare(expected, answer_of(reading, table))
        size = len(expected.rows) * len(expected.columns)
        cells += size
        wrong += len(faults)
        print(f'  {table:<22}{len(expected.rows):>9,} rows{size:>12,} cells   {differences(len(faults))}')
        for fault in faults[:SHOWN]:
            print(f'    {fault}')
    print(f'  {cells:,} cells compared, {differences(wrong)}', flush=True)
    return 1 if wrong else 0


def differences(count: int) -> str:
    return f'{count or "no"} difference{"" if count == 1 else "s"}'


if __name__ == '__main__':
    sys.exit(main())
