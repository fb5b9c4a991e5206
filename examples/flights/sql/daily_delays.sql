-- How late each airline was on the run's day.
-- writes: marts.daily_delays partition (day = {{ ds }})
select
    carrier,
    count(*) as flights,
    count(*) - count(dep_delay) as cancelled,
    count(*) filter (where dep_delay > 15) as late,
    max(dep_delay) as worst_delay,
    cast(avg(cast(dep_delay as decimal(9, 2))) as decimal(9, 2)) as mean_delay
from raw.flights
where flight_day = {{ ds }}
group by carrier
