"""Every morning at six in New York: load the files, look at yesterday's flights, compute, report."""

from pinrail import Param, Workflow, cron, template

workflow = Workflow(
    {
        template(name='load', class_='jobs.load.LoadFlights', memory='512MB', retries=2): [],
        template(name='quality', class_='jobs.quality.check_flights'): ['load'],
        template(name='daily_delays', sql='sql/daily_delays.sql'): ['quality'],
        template(name='weather_effect', sql='sql/weather_effect.sql'): ['quality'],
        template(name='report', class_='jobs.report.DelayReport'): ['daily_delays', 'weather_effect'],
    },
    schedule=cron('0 6 * * *', tz='America/New_York', covers='day'),
    params={
        'min_rows': Param(int, default=300_000, help='fewer rows than this in data/flights.csv are not the whole year'),
        'min_flights': Param(int, default=500, help='fewer flights than this in a day is suspicious'),
    },
)
