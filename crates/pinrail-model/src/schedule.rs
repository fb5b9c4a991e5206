//! When a workflow runs and which interval a run covers. Pure: fire times come from the schedule and a given moment.

use chrono::{
    DateTime, Datelike, Days, Months, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Timelike, Utc,
};
use chrono_tz::Tz;
use croner::parser::CronParser;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::{Interval, Micros};

/// When a workflow runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Schedule {
    Cron {
        cron: String,
        #[serde(default = "utc")]
        tz: String,
        #[serde(default)]
        covers: Covers,
        /// First and last local date with a fire time.
        #[serde(default)]
        start: Option<NaiveDate>,
        #[serde(default)]
        end: Option<NaiveDate>,
    },
    Interval {
        every_seconds: u64,
        #[serde(default = "utc")]
        tz: String,
        #[serde(default)]
        covers: Covers,
        #[serde(default)]
        start: Option<NaiveDate>,
        #[serde(default)]
        end: Option<NaiveDate>,
    },
}

fn utc() -> String {
    "UTC".to_owned()
}

/// Which stretch of time a run is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Covers {
    /// From the previous fire time to this one.
    #[default]
    BetweenFires,
    /// The last complete local calendar unit before the fire time.
    Hour,
    Day,
    Week,
    Month,
}

impl Schedule {
    /// Whether cron text and zone can be understood.
    ///
    /// # Errors
    /// What cannot, quoted.
    pub fn check(&self) -> Result<(), String> {
        zone(self.tz())?;
        match self {
            Self::Cron { cron, .. } => parse(cron).map(|_| ()),
            Self::Interval { every_seconds: 0, .. } => Err("a schedule cannot fire every 0 seconds".to_owned()),
            Self::Interval { .. } => Ok(()),
        }
    }

    #[must_use]
    pub fn tz(&self) -> &str {
        match self {
            Self::Cron { tz, .. } | Self::Interval { tz, .. } => tz,
        }
    }

    #[must_use]
    pub fn covers(&self) -> Covers {
        match self {
            Self::Cron { covers, .. } | Self::Interval { covers, .. } => *covers,
        }
    }

    /// The first fire time after `at`.
    fn next(&self, at: DateTime<Tz>) -> Result<DateTime<Tz>, String> {
        match self {
            Self::Cron { cron, .. } => parse(cron)?
                .find_next_occurrence(&at, false)
                .map_err(|e| format!("schedule \"{cron}\" never fires: {e}")),
            Self::Interval { every_seconds, .. } => {
                let every = (*every_seconds).max(1).cast_signed();
                Ok(seconds_since_epoch((at.timestamp().div_euclid(every) + 1) * every, at.timezone()))
            }
        }
    }

    /// The last fire time before `at`.
    fn previous(&self, at: DateTime<Tz>) -> Result<DateTime<Tz>, String> {
        match self {
            Self::Cron { cron, .. } => parse(cron)?
                .find_previous_occurrence(&at, false)
                .map_err(|e| format!("schedule \"{cron}\" never fires: {e}")),
            Self::Interval { every_seconds, .. } => {
                let every = (*every_seconds).max(1).cast_signed();
                Ok(seconds_since_epoch((at.timestamp() - 1).div_euclid(every) * every, at.timezone()))
            }
        }
    }

    /// What the run that fires at `fire` covers.
    fn covered(&self, fire: DateTime<Tz>) -> Result<Interval, String> {
        let unit = match self.covers() {
            Covers::BetweenFires => return Ok(interval(self.previous(fire)?, fire)),
            unit => unit,
        };
        let tz = fire.timezone();
        let end = unit.floor(fire.naive_local());
        let mut start = unit.floor(end - TimeDelta::nanoseconds(1));
        // A unit that the clock skips is none: the one before it was the last.
        for _ in 0..MOST_SKIPPED_MINUTES {
            if at_local(start, tz) < at_local(end, tz) {
                break;
            }
            start = unit.floor(start - TimeDelta::nanoseconds(1));
        }
        Ok(interval(at_local(start, tz), at_local(end, tz)))
    }
}

impl Covers {
    fn floor(self, at: NaiveDateTime) -> NaiveDateTime {
        let date = match self {
            Self::Hour => return at.date().and_time(NaiveTime::from_hms_opt(at.hour(), 0, 0).unwrap_or_default()),
            Self::Day | Self::BetweenFires => at.date(),
            Self::Week => at.date() - Days::new(u64::from(at.date().weekday().num_days_from_monday())),
            Self::Month => at.date().with_day(1).unwrap_or(at.date()),
        };
        date.and_time(NaiveTime::MIN)
    }
}

fn seconds_since_epoch(seconds: i64, tz: Tz) -> DateTime<Tz> {
    DateTime::<Utc>::from_timestamp(seconds, 0).unwrap_or(DateTime::<Utc>::MAX_UTC).with_timezone(&tz)
}

fn parse(cron: &str) -> Result<croner::Cron, String> {
    CronParser::new().parse(cron).map_err(|e| format!("cron \"{cron}\" cannot be understood: {e}"))
}

/// The zone of that IANA name.
///
/// # Errors
/// The name, quoted, with the nearest one.
pub fn zone(name: &str) -> Result<Tz, String> {
    name.parse().map_err(|_| {
        let near = crate::near::nearest(name, chrono_tz::TZ_VARIANTS.iter().map(|tz| tz.name()));
        let hint = near.map_or_else(String::new, |near| format!("; did you mean \"{near}\"?"));
        format!("time zone \"{name}\" does not exist{hint}")
    })
}

/// The instant of a local time; one that a jump of the clocks skips is the end of the jump, a doubled one the first.
fn at_local(local: NaiveDateTime, tz: Tz) -> DateTime<Tz> {
    (0..=MOST_SKIPPED_MINUTES)
        .find_map(|minutes| tz.from_local_datetime(&(local + TimeDelta::minutes(minutes))).earliest())
        .unwrap_or_else(|| tz.from_utc_datetime(&local))
}

/// No zone has ever jumped over more than a day.
const MOST_SKIPPED_MINUTES: i64 = 24 * 60;

fn interval(start: DateTime<Tz>, end: DateTime<Tz>) -> Interval {
    Interval { start: Micros::from_utc(start.to_utc()), end: Micros::from_utc(end.to_utc()) }
}

/// The local date of a run: what jobs call `ds`.
#[must_use]
pub fn ds(interval: Interval, tz: Tz) -> NaiveDate {
    interval.start.to_utc().with_timezone(&tz).date_naive()
}

/// The interval that a person means by `at`: a bare date is the interval with that `ds`, a time the one that begins
/// then, nothing the last complete one. Without a schedule a run covers a local day.
///
/// # Errors
/// What cannot be understood or matches no interval, or the several that a date matches.
pub fn interval_at(schedule: Option<&Schedule>, at: Option<&str>, now: Micros) -> Result<Interval, String> {
    let tz = zone(schedule.map_or("UTC", Schedule::tz))?;
    let now = now.to_utc().with_timezone(&tz);
    let Some(text) = at else {
        return match schedule {
            Some(schedule) => schedule.covered(last_fire(schedule, now)?),
            None => Ok(local_day(now.date_naive().pred_opt().unwrap_or(now.date_naive()), tz)),
        };
    };
    let text = text.trim();
    if let Ok(date) = text.parse::<NaiveDate>() {
        within_reach(date)?;
        return match schedule {
            Some(schedule) => of_date(schedule, date, tz),
            None => Ok(local_day(date, tz)),
        };
    }
    let start = read_time(text, tz)?;
    within_reach(start.date_naive())?;
    let Some(schedule) = schedule else {
        let day = local_day(start.date_naive(), tz);
        if day.start == Micros::from_utc(start.to_utc()) {
            return Ok(day);
        }
        return Err(format!("no run begins at {text}; without a schedule a run covers a day: {}", start.date_naive()));
    };
    let candidates = around(schedule, start.date_naive(), tz)?;
    let wanted = Micros::from_utc(start.to_utc());
    candidates.iter().find(|i| i.start == wanted).copied().ok_or_else(|| {
        let near: Vec<_> = candidates.iter().map(|i| shown(*i, tz)).collect();
        let near = if near.is_empty() { "none".to_owned() } else { near.join(", ") };
        format!("no run begins at {text}; on that day begin, in {}: {near}", tz.name())
    })
}

/// Times are written with four digits of the year, also those that begin or end next to a date in a zone of its own.
fn within_reach(date: NaiveDate) -> Result<(), String> {
    if (FIRST_YEAR..=LAST_YEAR).contains(&date.year()) {
        return Ok(());
    }
    Err(format!("{date} is out of reach; dates from the year {FIRST_YEAR} to {LAST_YEAR} can be used"))
}

const FIRST_YEAR: i32 = 1;
const LAST_YEAR: i32 = 9998;

fn last_fire(schedule: &Schedule, now: DateTime<Tz>) -> Result<DateTime<Tz>, String> {
    let before = schedule.previous(now)?;
    let next = schedule.next(before)?;
    Ok(if next <= now { next } else { before })
}

fn of_date(schedule: &Schedule, date: NaiveDate, tz: Tz) -> Result<Interval, String> {
    match around(schedule, date, tz)?.as_slice() {
        [one] => Ok(*one),
        [] => Err(format!("no run of this schedule covers {date}")),
        several => {
            let list: Vec<_> = several.iter().map(|i| shown(*i, tz)).collect();
            let (count, zone) = (several.len(), tz.name());
            Err(format!("{count} runs begin on {date}; name one by its time in {zone}: {}", list.join(", ")))
        }
    }
}

fn shown(interval: Interval, tz: Tz) -> String {
    interval.start.to_utc().with_timezone(&tz).format("%Y-%m-%dT%H:%M:%S").to_string()
}

/// The distinct intervals that begin on a local date, in order.
fn around(schedule: &Schedule, date: NaiveDate, tz: Tz) -> Result<Vec<Interval>, String> {
    // A run that covers a month fires up to a month and a fire gap after the month began; look that far.
    let from = at_local(date.and_time(NaiveTime::MIN), tz);
    let until = from.checked_add_months(Months::new(2)).unwrap_or(from) + TimeDelta::days(2);
    let mut found: Vec<Interval> = Vec::new();
    let mut fire = from;
    for _ in 0..MOST_FIRES {
        fire = schedule.next(fire)?;
        let covered = schedule.covered(fire)?;
        let begins = ds(covered, tz);
        if begins == date && found.last() != Some(&covered) {
            found.push(covered);
        }
        if begins > date || fire > until {
            break;
        }
    }
    Ok(found)
}

/// A schedule that fires every second for an hour of a day has 3,600 candidates; more than this is nobody's intention.
const MOST_FIRES: usize = 100_000;

fn local_day(date: NaiveDate, tz: Tz) -> Interval {
    let next = date.succ_opt().unwrap_or(date);
    interval(at_local(date.and_time(NaiveTime::MIN), tz), at_local(next.and_time(NaiveTime::MIN), tz))
}

fn read_time(text: &str, tz: Tz) -> Result<DateTime<Tz>, String> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(at.with_timezone(&tz));
    }
    for format in ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M"] {
        if let Ok(local) = NaiveDateTime::parse_from_str(text, format) {
            return match tz.from_local_datetime(&local).earliest() {
                Some(at) => Ok(at),
                None => Err(format!("no run begins at {text}: the clock in {} skips that time", tz.name())),
            };
        }
    }
    Err(format!("\"{text}\" is not a date like 2013-01-02 or a time like 2013-01-02T06:00"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cron(cron: &str, tz: &str, covers: Covers) -> Schedule {
        Schedule::Cron { cron: cron.to_owned(), tz: tz.to_owned(), covers, start: None, end: None }
    }

    fn micros(text: &str) -> Micros {
        Micros::from_utc(DateTime::parse_from_rfc3339(text).unwrap().to_utc())
    }

    fn text(interval: Result<Interval, String>) -> String {
        interval.map_or_else(
            |e| e,
            |i| format!("{} {}", i.start.to_utc().format("%FT%TZ"), i.end.to_utc().format("%FT%TZ")),
        )
    }

    #[test]
    fn a_daily_schedule_covers_the_local_day_before() {
        let daily = cron("0 6 * * *", "America/New_York", Covers::Day);
        let now = micros("2026-11-23T12:00:00Z");
        assert_eq!(
            text(interval_at(Some(&daily), Some("2013-01-01"), now)),
            "2013-01-01T05:00:00Z 2013-01-02T05:00:00Z"
        );
        assert_eq!(text(interval_at(Some(&daily), None, now)), "2026-11-22T05:00:00Z 2026-11-23T05:00:00Z");
        // 06:00 in New York has not come yet: the last complete run is that of the day before.
        assert_eq!(
            text(interval_at(Some(&daily), None, micros("2026-11-23T10:59:59Z"))),
            "2026-11-21T05:00:00Z 2026-11-22T05:00:00Z"
        );
        // The day on which the clocks go forward has 23 hours.
        assert_eq!(
            text(interval_at(Some(&daily), Some("2013-03-10"), now)),
            "2013-03-10T05:00:00Z 2013-03-11T04:00:00Z"
        );
    }

    #[test]
    fn an_hour_that_the_clock_skips_has_no_run_and_a_doubled_one_has_one() {
        let hourly = cron("0 * * * *", "Europe/Berlin", Covers::Hour);
        let now = micros("2026-11-23T12:00:00Z");
        let at = |time: &str| text(interval_at(Some(&hourly), Some(time), now));
        assert_eq!(
            at("2024-03-31T02:00"),
            "no run begins at 2024-03-31T02:00: the clock in Europe/Berlin skips that time"
        );
        assert_eq!(at("2024-03-31T01:00"), "2024-03-31T00:00:00Z 2024-03-31T01:00:00Z");
        assert_eq!(at("2024-03-31T03:00"), "2024-03-31T01:00:00Z 2024-03-31T02:00:00Z");
        assert_eq!(at("2024-10-27T01:00"), "2024-10-26T23:00:00Z 2024-10-27T00:00:00Z");
        assert_eq!(at("2024-10-27T02:00"), "2024-10-27T00:00:00Z 2024-10-27T02:00:00Z");
        assert_eq!(at("2024-10-27T03:00"), "2024-10-27T02:00:00Z 2024-10-27T03:00:00Z");
        let day = at("2024-03-31");
        assert!(day.starts_with("23 runs begin on 2024-03-31; name one by its time in Europe/Berlin: "), "{day}");
        // A time that names its zone is told in the schedule's.
        let wrong = at("2024-05-01T00:30:00Z");
        assert!(wrong.contains("on that day begin, in Europe/Berlin: 2024-05-01T00:00:00"), "{wrong}");
    }

    #[test]
    fn several_intervals_of_a_day_are_listed() {
        let hourly = cron("0 */6 * * *", "UTC", Covers::BetweenFires);
        let now = micros("2026-11-23T12:00:00Z");
        let error = interval_at(Some(&hourly), Some("2013-01-01"), now).unwrap_err();
        assert!(error.starts_with("4 runs begin on 2013-01-01"), "{error}");
        assert_eq!(
            text(interval_at(Some(&hourly), Some("2013-01-01T06:00"), now)),
            "2013-01-01T06:00:00Z 2013-01-01T12:00:00Z"
        );
        assert!(interval_at(Some(&hourly), Some("2013-01-01T07:00"), now).unwrap_err().contains("no run begins at"));
        assert!(
            interval_at(Some(&hourly), Some("yesterday"), now).unwrap_err().contains("\"yesterday\" is not a date")
        );
    }

    #[test]
    fn without_a_schedule_a_run_covers_a_day() {
        let now = micros("2026-11-23T12:00:00Z");
        assert_eq!(text(interval_at(None, None, now)), "2026-11-22T00:00:00Z 2026-11-23T00:00:00Z");
        assert_eq!(text(interval_at(None, Some("2013-01-01"), now)), "2013-01-01T00:00:00Z 2013-01-02T00:00:00Z");
        assert_eq!(text(interval_at(None, Some("2013-01-01T00:00"), now)), "2013-01-01T00:00:00Z 2013-01-02T00:00:00Z");
        assert_eq!(
            text(interval_at(None, Some("2013-01-01T10:00"), now)),
            "no run begins at 2013-01-01T10:00; without a schedule a run covers a day: 2013-01-01"
        );
    }

    #[test]
    fn weeks_months_and_fixed_intervals() {
        let now = micros("2026-11-23T12:00:00Z");
        let monthly = cron("0 3 1 * *", "UTC", Covers::Month);
        assert_eq!(
            text(interval_at(Some(&monthly), Some("2013-02-01"), now)),
            "2013-02-01T00:00:00Z 2013-03-01T00:00:00Z"
        );
        let weekly = cron("0 3 * * 1", "UTC", Covers::Week);
        assert_eq!(
            text(interval_at(Some(&weekly), Some("2013-01-07"), now)),
            "2013-01-07T00:00:00Z 2013-01-14T00:00:00Z"
        );
        assert_eq!(
            text(interval_at(Some(&weekly), Some("2013-01-08"), now)),
            "no run of this schedule covers 2013-01-08"
        );
        let every =
            Schedule::Interval { every_seconds: 3600, tz: utc(), covers: Covers::BetweenFires, start: None, end: None };
        assert_eq!(text(interval_at(Some(&every), None, now)), "2026-11-23T11:00:00Z 2026-11-23T12:00:00Z");
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        assert!(cron("every day", "UTC", Covers::Day).check().unwrap_err().contains("\"every day\""));
        assert_eq!(
            cron("0 6 * * *", "America/New_Yrok", Covers::Day).check().unwrap_err(),
            "time zone \"America/New_Yrok\" does not exist; did you mean \"America/New_York\"?"
        );
    }
}
