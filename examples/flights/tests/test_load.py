"""The load, on few real rows."""

from pathlib import Path
from typing import Callable

from jobs.load import LoadFlights
from pinrail.testing import Project, fake_context

Few = Callable[..., Project]


def test_five_tables_appear_together(few: Few) -> None:
    p = few()
    a = p.run_job('load', ds='2013-01-01', params={'min_rows': 100})
    assert a.state == 'succeeded', a.logs
    assert a.outputs['flights'] == 112
    assert p.tables() == [f'raw.{name}' for name in ('airlines', 'airports', 'flights', 'planes', 'weather')]


def test_values_are_cleaned(few: Few) -> None:
    p = few()
    p.run_job('load', ds='2013-01-01', params={'min_rows': 100})
    missing = p.sql('select count(*) as n from raw.flights where dep_time is null and dep_delay is null')[0]
    assert missing.n == 6
    assert p.sql('select max(dep_time) as latest from raw.flights')[0].latest < 2400
    assert p.sql('select max(wind_speed) as strongest from raw.weather')[0].strongest < 200


def test_too_few_flights(few: Few) -> None:
    p = few()
    a = p.run_job('load', ds='2013-01-01')
    assert a.state == 'failed' and a.fault == 'data'
    assert p.tables() == []  # nothing was published


def test_a_column_that_is_missing(few: Few) -> None:
    p = few(weather='tests/few/planes.csv')
    a = p.run_job('load', ds='2013-01-01')
    assert a.state == 'failed' and a.fault == 'data'
    assert 'no column origin, time_hour' in a.logs


def test_a_missing_file_names_the_remedy(few: Few) -> None:
    p = few()
    Path(p.folder, 'data/planes.csv').unlink()
    a = p.run_job('load', ds='2013-01-01')
    assert a.state == 'failed' and a.fault == 'user'
    assert 'data/planes.csv is missing' in a.logs


def test_cleanup_minds_nothing_that_is_gone() -> None:
    ctx = fake_context()
    (ctx.scratch / 'lists').mkdir()
    LoadFlights().cleanup(ctx)
    LoadFlights().cleanup(ctx)
    assert not (ctx.scratch / 'lists').exists()
