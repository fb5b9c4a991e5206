"""Loads the raw files into tables."""

import csv
import shutil

from pinrail import Context, Job, Sql, UserError

# What sql/load.sql reads of each file. More columns do no harm; one that is missing would.
COLUMNS = {
    'flights': 'year month day carrier flight tailnum origin dest sched_dep_time dep_time dep_delay sched_arr_time'
    ' arr_time arr_delay air_time distance time_hour',
    'weather': 'origin time_hour temp dewp humid wind_dir wind_speed wind_gust precip pressure visib',
    'planes': 'tailnum year type manufacturer model engines seats speed engine',
    'airports': 'faa name lat lon alt tz dst tzone',
    'airlines': 'carrier name',
}


class LoadFlights(Job):
    """Loads the five raw files into tables, all or none."""

    def setup(self, ctx: Context) -> None:
        """Looks whether the files are there and have the columns that the load reads."""
        for name, columns in COLUMNS.items():
            path = ctx.file(f'data/{name}.csv')
            if not path.exists():
                raise UserError(f'data/{name}.csv is missing', hint='run python data/fetch.py first')
            with path.open(newline='', encoding='utf-8') as file:
                header = next(csv.reader(file), ())
            missing = [column for column in columns.split() if column not in header]
            detail = f'{len(header)} columns' if not missing else f'no column {", ".join(missing)}'
            ctx.check(f'header of data/{name}.csv', not missing, detail=detail)

    def execute(self, ctx: Context) -> Sql:
        """Leaves the work to the SQL engine; no Python process waits meanwhile."""
        return Sql(file='sql/load.sql')

    def complete(self, ctx: Context, result: object) -> None:
        """Checks the tables, which nobody else sees before this has returned."""
        for name in COLUMNS:
            with ctx.file(f'data/{name}.csv').open(newline='', encoding='utf-8') as file:
                lines = sum(1 for _ in csv.reader(file)) - 1
            rows = ctx.sql(f'select count(*) as n from raw.{name}')[0].n
            ctx.check(f'all rows of {name}', rows == lines, detail=f'{rows:,} rows of {lines:,}')
            ctx.output(name, rows)
            if name == 'flights':
                ctx.counter('flights', rows)
                expected = ctx.params.min_rows
                ctx.check('enough flights', rows >= expected, detail=f'{rows:,} rows, expected {expected:,} or more')
        self.save_unknown_planes(ctx)

    def save_unknown_planes(self, ctx: Context) -> None:
        """Leaves a list for people: the tail numbers that data/planes.csv does not know."""
        unknown = ctx.sql(
            """
            select f.tailnum, f.carrier, count(*) as flights
            from raw.flights f left join raw.planes p on p.tailnum = f.tailnum
            where f.tailnum is not null and p.tailnum is null
            group by f.tailnum, f.carrier order by flights desc, f.tailnum, f.carrier
            """
        )
        folder = ctx.scratch / 'lists'
        folder.mkdir(exist_ok=True)
        with (folder / 'unknown_planes.csv').open('w', newline='', encoding='utf-8') as file:
            csv.writer(file).writerows([unknown.columns, *unknown])
        ctx.save('unknown_planes.csv', folder / 'unknown_planes.csv')
        ctx.output('unknown_planes', len(unknown))

    def cleanup(self, ctx: Context) -> None:
        """Clears the scratch folder. It runs after success, failure and kill alike, perhaps twice."""
        shutil.rmtree(ctx.scratch / 'lists', ignore_errors=True)
        ctx.log('scratch folder cleared')
