"""Stops the pipeline when the loaded data are wrong."""

from pinrail import Context


def check_flights(ctx: Context) -> None:
    """Looks at the flights of the run's day, and at what the jobs below rely on."""
    day = ctx.sql(
        """
        select
            count(*) as flights,
            count(*) filter (where (dep_time is null) <> (dep_delay is null)) as half_departed,
            count(*) filter (where dep_delay not between -120 and 2880) as absurd
        from raw.flights where flight_day = {{ ds }}
        """
    )[0]
    expected = ctx.params.min_flights
    ctx.check('enough flights that day', day.flights >= expected, detail=f'{day.flights}, expected {expected} or more')
    ctx.check('departure and delay go together', day.half_departed == 0, detail=f'{day.half_departed} flights')
    ctx.check('delays are possible', day.absurd == 0, detail=f'{day.absurd} flights')

    # Otherwise a join would drop flights, or count some twice.
    strangers = ctx.sql('select distinct carrier from raw.flights except select carrier from raw.airlines')
    codes = ', '.join(row.carrier for row in strangers)
    ctx.check('airlines are known', not strangers, detail=f'{codes or "none"} not in raw.airlines')
    doubled = ctx.sql('select origin, hour_at from raw.weather group by origin, hour_at having count(*) > 1')
    ctx.check('one weather report an hour', not doubled, detail=f'{len(doubled)} hours have several')

    loaded = ctx.upstream['load'].outputs
    unknown = loaded['unknown_planes']
    ctx.check('planes are known', unknown == 0, detail=f'{unknown} tail numbers are not', level='warning')
    ctx.log(f'{ctx.ds}: {day.flights} of {loaded["flights"]:,} flights')
