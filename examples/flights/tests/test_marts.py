"""The jobs below the load, on tables made for the test."""

from datetime import date, datetime, timezone
from decimal import Decimal

from jobs.quality import check_flights
from jobs.report import bars
from pinrail.testing import fake_context, project

DAY = date(2013, 1, 1)
FIVE = datetime(2013, 1, 1, 10, tzinfo=timezone.utc)


def test_daily_delays() -> None:
    flights = [
        {'carrier': 'AA', 'flight_day': DAY, 'dep_delay': 4},
        {'carrier': 'AA', 'flight_day': DAY, 'dep_delay': 17},
        {'carrier': 'AA', 'flight_day': DAY, 'dep_delay': None},
        {'carrier': 'AA', 'flight_day': date(2013, 1, 2), 'dep_delay': 500},
    ]
    p = project(tables={'raw.flights': flights})
    # The file alone, without the jobs that it waits for in the workflow.
    p.command('submit', 'sql/daily_delays.sql', '--at', '2013-01-01')
    (row,) = p.sql('select * from marts.daily_delays')
    assert (row.carrier, row.flights, row.cancelled, row.late) == ('AA', 3, 1, 1)
    assert (row.worst_delay, row.mean_delay, row.day) == (17, Decimal('10.50'), DAY)


def test_weather_effect() -> None:
    flights = [
        {'origin': 'JFK', 'hour_at': FIVE, 'dep_delay': 30},
        {'origin': 'EWR', 'hour_at': FIVE, 'dep_delay': 0},
    ]
    report = {'hour_at': FIVE, 'temp': Decimal('30.02'), 'precip': Decimal('0.10'), 'visib': Decimal(3)}
    p = project(tables={'raw.flights': flights, 'raw.weather': [{'origin': 'JFK', 'wind_speed': 5.0, **report}]})
    p.command('submit', 'sql/weather_effect.sql', '--at', '2013-01-01')
    found = {row.origin: (row.weather, row.mean_delay) for row in p.sql('select * from marts.weather_effect')}
    assert found == {'JFK': ('snow or ice', Decimal(30)), 'EWR': ('not recorded', Decimal(0))}


def test_quality_reports_all_that_is_wrong() -> None:
    def answer(text: str) -> list[dict[str, object]]:
        if 'airlines' in text:
            return [{'carrier': 'XX'}]
        return [] if 'weather' in text else [{'flights': 3, 'half_departed': 0, 'absurd': 1}]

    loaded = {'flights': 3, 'unknown_planes': 0}
    ctx = fake_context(params={'min_flights': 500}, upstream={'load': loaded}, sql=answer)
    check_flights(ctx)
    assert [check.name for check in ctx.checks if not check.ok] == [
        'enough flights that day',
        'delays are possible',
        'airlines are known',
    ]


def test_bars_of_nothing_and_of_less_than_nothing() -> None:
    assert bars([]).startswith('<svg')
    assert 'class="early"' in bars([('A & B', Decimal('-3.5'))]) and 'A &amp; B' in bars([('A & B', Decimal(0))])
