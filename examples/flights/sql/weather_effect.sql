-- How the weather at the hour of departure goes with delays, over all flights.
-- writes: marts.weather_effect
with seen as (
    select
        f.origin,
        f.dep_delay,
        w.temp,
        w.precip,
        case
            when w.hour_at is null then 'not recorded'
            when w.precip > 0 and w.temp <= 32 then 'snow or ice'
            when w.precip > 0 then 'rain'
            when w.visib < 1 then 'fog'
            when w.wind_speed >= 25 then 'strong wind'
            else 'fair'
        end as weather
    from raw.flights f
    left join raw.weather w on w.origin = f.origin and w.hour_at = f.hour_at
)
select
    origin,
    weather,
    count(*) as flights,
    count(*) - count(dep_delay) as cancelled,
    count(*) filter (where dep_delay > 15) as late,
    cast(avg(cast(dep_delay as decimal(9, 2))) as decimal(9, 2)) as mean_delay,
    cast(avg(temp) as decimal(5, 2)) as mean_temp,
    sum(precip) as precip
from seen
group by origin, weather
