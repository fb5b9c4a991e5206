"""The exact comparison: right tables pass it, and one wrong row does not."""

from typing import Callable

import check
import pytest
from pinrail.testing import Project, binary

DAYS = ('2013-01-01', '2013-01-02')


@pytest.fixture(scope='module')
def computed(few: Callable[..., Project]) -> Project:
    """The project after both days were run."""
    p = few()
    for day in DAYS:
        p.command('run', 'flights', '--at', day, '--param', 'min_rows=1', '--param', 'min_flights=1')
    return p


@pytest.fixture(autouse=True)
def its_state(computed: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PINRAIL_STATE', computed.state)
    monkeypatch.setenv('PINRAIL_BIN', binary())


def checked(project: Project, *days: str) -> int:
    return check.main([*days, '--project', project.folder])


def test_right_tables_pass(computed: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert checked(computed, *DAYS) == 0
    assert 'cells compared, no differences' in capsys.readouterr().out


def test_a_day_that_was_not_run_is_missed(computed: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert checked(computed, *DAYS, '2013-01-03') == 0, 'there were no flights on that day'
    assert checked(computed, DAYS[0]) == 1
    assert 'marts.daily_delays, row 2013-01-02, ' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('planted', 'said'),
    [
        ("insert into raw.airlines values ('ZZ', 'Zeppelin')", 'raw.airlines, row ZZ: is too much'),
        ("insert into raw.airlines values ('AA', 'American Airlines Inc.')", 'raw.airlines, row AA: is too much'),
        (
            "insert overwrite marts.weather_effect select * from marts.weather_effect where weather <> 'fair'",
            'marts.weather_effect, row EWR, fair: is missing',
        ),
        (
            """
            insert overwrite marts.daily_delays
            select carrier, flights, cancelled, late, worst_delay, mean_delay + 0.01, day
            from marts.daily_delays where day = '2013-01-01'
            """,
            "marts.daily_delays, row 2013-01-01, AA: mean_delay is '",
        ),
    ],
)
def test_a_wrong_row_is_found(
    computed: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, planted: str, said: str
) -> None:
    monkeypatch.setattr(check, 'SHOWN', 1000)
    computed.sql(planted)
    assert checked(computed, *DAYS) == 1
    assert said in capsys.readouterr().out
