-- The five files as tables. They appear together, when the job has succeeded; until then nobody else sees them.

create or replace table raw.flights partitioned by (month(flight_day)) as
select
    make_date(year, month, day) as flight_day,          -- the local day in New York
    carrier,
    cast(flight as int) as flight,
    tailnum,
    origin,
    dest,
    cast(sched_dep_time as int) as sched_dep_time,      -- local time as hours and minutes: 517 is 05:17
    cast(dep_time % 2400 as int) as dep_time,           -- midnight is both 0 and 2400 in the file
    cast(dep_delay as int) as dep_delay,                -- minutes, negative when early; none when it did not depart
    cast(sched_arr_time as int) as sched_arr_time,
    cast(arr_time % 2400 as int) as arr_time,
    cast(arr_delay as int) as arr_delay,
    cast(air_time as int) as air_time,                  -- minutes
    cast(distance as int) as distance,                  -- miles
    time_hour as hour_at                                -- the hour of the planned departure, as an instant
from read_csv('data/flights.csv', nullstr => 'NA');

create or replace table raw.weather as
select
    origin,
    time_hour as hour_at,
    cast(temp as decimal(5, 2)) as temp,                -- degrees Fahrenheit
    cast(dewp as decimal(5, 2)) as dewp,
    cast(humid as decimal(5, 2)) as humid,              -- per cent
    cast(wind_dir as int) as wind_dir,                  -- degrees
    case when wind_speed < 200 then wind_speed end as wind_speed,   -- miles per hour; one gauge was broken once
    wind_gust,
    cast(precip as decimal(4, 2)) as precip,            -- inches
    cast(pressure as decimal(5, 1)) as pressure,        -- millibars
    cast(visib as decimal(4, 2)) as visib               -- miles
from read_csv('data/weather.csv', nullstr => 'NA');

create or replace table raw.planes as
select
    tailnum,
    cast(year as int) as year,                          -- in which it was built
    type,
    manufacturer,
    model,
    cast(engines as int) as engines,
    cast(seats as int) as seats,
    cast(speed as int) as speed,                        -- miles per hour
    engine
from read_csv('data/planes.csv', nullstr => 'NA');

create or replace table raw.airports as
select
    faa,
    name,
    lat,
    lon,
    cast(alt as int) as alt,                            -- feet
    cast(tz as int) as tz,                              -- hours from UTC
    dst,                                                -- daylight saving time: A as in the USA, U unknown, N none
    tzone
from read_csv('data/airports.csv', nullstr => 'NA');

create or replace table raw.airlines as
select carrier, name
from read_csv('data/airlines.csv', nullstr => 'NA');
