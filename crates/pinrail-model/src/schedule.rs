//! When a workflow runs and which interval a run covers. Pure: fire times come from the schedule and a given moment.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use chrono::{
    DateTime, Datelike, Days, Months, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Timelike, Utc,
};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::CronParser;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::time::{Interval, Micros};

/// When a workflow runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Flat", into = "Flat")]
#[schemars(with = "Flat")]
pub struct Schedule {
    pub fires: Fires,
    /// IANA name of the zone of its local times and dates.
    pub tz: String,
    pub covers: Covers,
    /// First and last local date with a fire time.
    pub start: Option<NaiveDate>,
    pub end: Option<NaiveDate>,
    /// What becomes of fire times that passed while nothing could fire.
    pub catch_up: CatchUp,
    /// Runs begin up to this long after their fire time, each workflow at a moment of its own.
    pub jitter_seconds: u32,
    /// Local dates, both included, without fire times.
    pub blackout: Vec<(NaiveDate, NaiveDate)>,
}

/// The rule of the fire times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fires {
    /// A cron expression of five fields. Hours that are named fire once, also where the clock repeats or skips them; `*` and
    /// steps follow elapsed time.
    Cron(String),
    /// Each time so many seconds have passed since 1970, UTC.
    Every(u64),
    /// One local time.
    Once(NaiveDateTime),
}

/// What becomes of fire times that passed while nothing could fire: the server was down, or the schedule was paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CatchUp {
    None,
    #[default]
    Latest,
    All,
}

/// A schedule as the document has it.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Flat {
    kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cron: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    every_seconds: Option<u64>,
    /// The local time of `once`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<NaiveDateTime>,
    #[serde(default = "utc")]
    tz: String,
    #[serde(default)]
    covers: Covers,
    #[serde(default)]
    start: Option<NaiveDate>,
    #[serde(default)]
    end: Option<NaiveDate>,
    #[serde(default, skip_serializing_if = "is_default")]
    catch_up: CatchUp,
    #[serde(default, skip_serializing_if = "is_default")]
    jitter_seconds: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    blackout: Vec<(NaiveDate, NaiveDate)>,
}

#[derive(Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Cron,
    Interval,
    Once,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl TryFrom<Flat> for Schedule {
    type Error = String;

    fn try_from(flat: Flat) -> Result<Self, String> {
        let fires = match (flat.kind, flat.cron, flat.every_seconds, flat.at) {
            (Kind::Cron, Some(cron), None, None) => Fires::Cron(cron),
            (Kind::Interval, None, Some(seconds), None) => Fires::Every(seconds),
            (Kind::Once, None, None, Some(at)) => Fires::Once(at),
            _ => return Err("a schedule has exactly one of cron, every_seconds and at, as its kind says".to_owned()),
        };
        let Flat { tz, covers, start, end, catch_up, jitter_seconds, blackout, .. } = flat;
        Ok(Self { fires, tz, covers, start, end, catch_up, jitter_seconds, blackout })
    }
}

impl From<Schedule> for Flat {
    fn from(schedule: Schedule) -> Self {
        let Schedule { fires, tz, covers, start, end, catch_up, jitter_seconds, blackout } = schedule;
        let (kind, cron, every_seconds, at) = match fires {
            Fires::Cron(cron) => (Kind::Cron, Some(cron), None, None),
            Fires::Every(seconds) => (Kind::Interval, None, Some(seconds), None),
            Fires::Once(at) => (Kind::Once, None, None, Some(at)),
        };
        Self { kind, cron, every_seconds, at, tz, covers, start, end, catch_up, jitter_seconds, blackout }
    }
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
    /// A schedule in UTC, with everything else left to its default.
    #[must_use]
    pub fn new(fires: Fires) -> Self {
        Self {
            fires,
            tz: utc(),
            covers: Covers::default(),
            start: None,
            end: None,
            catch_up: CatchUp::default(),
            jitter_seconds: 0,
            blackout: Vec::new(),
        }
    }

    /// Whether cron text and zone can be understood.
    ///
    /// # Errors
    /// What cannot, quoted.
    pub fn check(&self) -> Result<(), String> {
        zone(&self.tz)?;
        match &self.fires {
            Fires::Cron(cron) => parse(cron).map(|_| ()),
            Fires::Every(0) => Err("a schedule cannot fire every 0 seconds".to_owned()),
            Fires::Every(_) | Fires::Once(_) => Ok(()),
        }
    }

    /// The first fire time after a time; none when there will be no more.
    ///
    /// # Errors
    /// What cannot be understood, quoted.
    pub fn next_fire(&self, after: Micros) -> Result<Option<Micros>, String> {
        let tz = zone(&self.tz)?;
        let mut at = after.to_utc().with_timezone(&tz);
        if let Some(start) = self.start {
            // A fire time at the first moment of that day counts.
            at = at.max(at_local(start.and_time(NaiveTime::MIN), tz) - TimeDelta::microseconds(1));
        }
        loop {
            let Some(fire) = self.next(at)? else { return Ok(None) };
            let date = fire.date_naive();
            if self.end.is_some_and(|end| date > end) || fire.year() > LAST_YEAR {
                return Ok(None);
            }
            match self.blackout.iter().find(|(from, to)| (*from..=*to).contains(&date)) {
                None => return Ok(Some(Micros::from_utc(fire.to_utc()))),
                Some((_, to)) => {
                    let Some(clear) = to.succ_opt() else { return Ok(None) };
                    at = at_local(clear.and_time(NaiveTime::MIN), tz) - TimeDelta::microseconds(1);
                }
            }
        }
    }

    /// The fire times after one time and until another, included; `most` at most.
    ///
    /// # Errors
    /// What cannot be understood, quoted.
    pub fn fires_between(&self, after: Micros, until: Micros, most: usize) -> Result<Vec<Micros>, String> {
        let (mut found, mut at) = (Vec::new(), after);
        while found.len() < most {
            match self.next_fire(at)? {
                Some(fire) if fire <= until => found.push(fire),
                _ => break,
            }
            at = found.last().copied().unwrap_or(until);
        }
        Ok(found)
    }

    /// What the run that fires then covers.
    ///
    /// # Errors
    /// What cannot be understood, quoted.
    pub fn interval_of(&self, fire: Micros) -> Result<Interval, String> {
        self.covered(fire.to_utc().with_timezone(&zone(&self.tz)?))
    }

    /// How long after a fire time its run begins: always the same for a workflow and a fire time, spread over the jitter.
    #[must_use]
    pub fn delay_of(&self, workflow: &str, fire: Micros) -> Duration {
        if self.jitter_seconds == 0 {
            return Duration::ZERO;
        }
        let digest = Sha256::digest(format!("{workflow} {}", fire.0));
        let number = u64::from_be_bytes(std::array::from_fn(|ix| digest[ix]));
        Duration::from_micros(number % (u64::from(self.jitter_seconds) * 1_000_000))
    }

    /// The intervals with a local date from one to another, both included, in order; `most` at most.
    ///
    /// # Errors
    /// What cannot be understood, quoted.
    pub fn intervals_between(&self, from: NaiveDate, to: NaiveDate, most: usize) -> Result<Vec<Interval>, String> {
        let tz = zone(&self.tz)?;
        let mut found: Vec<Interval> = Vec::new();
        let mut fire = at_local(from.and_time(NaiveTime::MIN), tz);
        while found.len() < most {
            let Some(next) = self.next(fire)? else { break };
            fire = next;
            if self.covers == Covers::BetweenFires && self.is_blacked_out(fire.date_naive()) {
                continue;
            }
            let covered = self.covered(fire)?;
            let begins = ds(covered, tz);
            if begins > to {
                break;
            }
            if begins >= from && found.last() != Some(&covered) {
                found.push(covered);
            }
        }
        Ok(found)
    }

    /// The first local dates after a time whose calendar unit no fire time of the next so many days covers, such as
    /// weekends under a schedule for working days. Empty for what covers the time between fires.
    ///
    /// # Errors
    /// What cannot be understood, quoted.
    pub fn uncovered(&self, after: Micros, days: u32) -> Result<Vec<NaiveDate>, String> {
        let tz = zone(&self.tz)?;
        if self.covers == Covers::BetweenFires || !matches!(self.fires, Fires::Cron(_)) {
            return Ok(Vec::new());
        }
        let mut open: Option<Micros> = None;
        let (mut missing, mut at) = (Vec::new(), after);
        let until = after.plus(Duration::from_secs(u64::from(days) * 86_400));
        for _ in 0..MOST_FIRES {
            let Some(fire) = self.next_fire(at)?.filter(|fire| *fire <= until) else { break };
            at = fire;
            let covered = self.interval_of(fire)?;
            if let Some(mut from) = open {
                while from < covered.start {
                    let local = from.to_utc().with_timezone(&tz);
                    if missing.last() != Some(&local.date_naive()) {
                        missing.push(local.date_naive());
                    }
                    let next = self.covers.after(self.covers.floor(local.naive_local()));
                    let next = Micros::from_utc(at_local(next, tz).to_utc());
                    from = if next > from { next } else { from.plus(Duration::from_secs(3600)) };
                }
            }
            open = Some(open.map_or(covered.end, |open| open.max(covered.end)));
        }
        Ok(missing)
    }

    fn is_blacked_out(&self, date: NaiveDate) -> bool {
        self.blackout.iter().any(|(from, to)| (*from..=*to).contains(&date))
    }

    /// The first fire time after `at`, whatever `start`, `end` and `blackout` say.
    fn next(&self, at: DateTime<Tz>) -> Result<Option<DateTime<Tz>>, String> {
        let tz = at.timezone();
        match &self.fires {
            Fires::Cron(cron) if names_hours(cron) => {
                let parsed = parse(cron)?;
                let mut local = at.naive_local().and_utc();
                loop {
                    local = parsed.find_next_occurrence(&local, false).map_err(|e| never(cron, &e))?;
                    let fire = at_local(local.naive_utc(), tz);
                    if fire > at {
                        return Ok(Some(fire));
                    }
                }
            }
            Fires::Cron(cron) => parse(cron)?.find_next_occurrence(&at, false).map(Some).map_err(|e| never(cron, &e)),
            Fires::Every(seconds) => {
                let every = (*seconds).max(1).cast_signed();
                Ok(Some(seconds_since_epoch((at.timestamp().div_euclid(every) + 1) * every, tz)))
            }
            Fires::Once(local) => Ok(Some(at_local(*local, tz)).filter(|fire| *fire > at)),
        }
    }

    /// The last fire time before `at`, whatever `start`, `end` and `blackout` say.
    fn previous(&self, at: DateTime<Tz>) -> Result<Option<DateTime<Tz>>, String> {
        let tz = at.timezone();
        match &self.fires {
            Fires::Cron(cron) if names_hours(cron) => {
                let parsed = parse(cron)?;
                // In the second pass of a repeated hour, later local times have been.
                let mut local = (at.naive_local() + TimeDelta::minutes(MOST_SKIPPED_MINUTES)).and_utc();
                loop {
                    local = parsed.find_previous_occurrence(&local, false).map_err(|e| never(cron, &e))?;
                    let fire = at_local(local.naive_utc(), tz);
                    if fire < at {
                        return Ok(Some(fire));
                    }
                }
            }
            Fires::Cron(cron) => {
                parse(cron)?.find_previous_occurrence(&at, false).map(Some).map_err(|e| never(cron, &e))
            }
            Fires::Every(seconds) => {
                let every = (*seconds).max(1).cast_signed();
                let last = (at.timestamp_micros() - 1).div_euclid(1_000_000);
                Ok(Some(seconds_since_epoch(last.div_euclid(every) * every, tz)))
            }
            Fires::Once(local) => Ok(Some(at_local(*local, tz)).filter(|fire| *fire < at)),
        }
    }

    /// What the run that fires at `fire` covers.
    fn covered(&self, fire: DateTime<Tz>) -> Result<Interval, String> {
        let unit = match self.covers {
            Covers::BetweenFires => return self.since_last(fire),
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

    /// From the fire time before. Where there was none, as for what fires once, it is the local day until then.
    fn since_last(&self, fire: DateTime<Tz>) -> Result<Interval, String> {
        let mut at = fire;
        while let Some(before) = self.previous(at)? {
            if !self.is_blacked_out(before.date_naive()) {
                return Ok(interval(before, fire));
            }
            at = before;
        }
        let start = fire.naive_local() - TimeDelta::days(1);
        Ok(interval(at_local(start, fire.timezone()), fire))
    }
}

/// Whether the field of hours names them one by one or by ranges, without `*` and steps.
fn names_hours(cron: &str) -> bool {
    cron.split_whitespace().nth(1).is_some_and(|hours| !hours.contains(['*', '/']))
}

fn never(cron: &str, error: &croner::errors::CronError) -> String {
    format!("schedule \"{cron}\" never fires: {error}")
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

    /// Where the unit after the one that begins here begins.
    fn after(self, begins: NaiveDateTime) -> NaiveDateTime {
        match self {
            Self::Hour => begins + TimeDelta::hours(1),
            Self::Day | Self::BetweenFires => begins + TimeDelta::days(1),
            Self::Week => begins + TimeDelta::days(7),
            Self::Month => begins.checked_add_months(Months::new(1)).unwrap_or(begins),
        }
    }
}

fn seconds_since_epoch(seconds: i64, tz: Tz) -> DateTime<Tz> {
    DateTime::<Utc>::from_timestamp(seconds, 0).unwrap_or(DateTime::<Utc>::MAX_UTC).with_timezone(&tz)
}

/// Expressions that a thread keeps parsed.
const MOST_PARSED: usize = 1000;

thread_local! {
    static PARSED: RefCell<BTreeMap<String, Rc<Cron>>> = const { RefCell::new(BTreeMap::new()) };
}

/// Parsing costs ten times what finding a fire time does, and a backfill asks for ten thousand of one expression.
fn parse(cron: &str) -> Result<Rc<Cron>, String> {
    if let Some(parsed) = PARSED.with_borrow(|known| known.get(cron).cloned()) {
        return Ok(parsed);
    }
    let parsed = CronParser::new().parse(cron);
    let parsed = Rc::new(parsed.map_err(|e| format!("cron \"{cron}\" cannot be understood: {e}"))?);
    PARSED.with_borrow_mut(|known| {
        if known.len() >= MOST_PARSED {
            known.clear();
        }
        known.insert(cron.to_owned(), Rc::clone(&parsed));
    });
    Ok(parsed)
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
    let tz = zone(zone_of(schedule))?;
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

/// The name of the zone of a workflow's dates.
#[must_use]
pub fn zone_of(schedule: Option<&Schedule>) -> &str {
    schedule.map_or("UTC", |schedule| &schedule.tz)
}

fn last_fire(schedule: &Schedule, now: DateTime<Tz>) -> Result<DateTime<Tz>, String> {
    // One at this moment counts.
    let last = schedule.previous(now + TimeDelta::microseconds(1))?;
    last.ok_or_else(|| "this schedule has not fired yet; name an interval".to_owned())
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
    let day = at_local(date.and_time(NaiveTime::MIN), tz);
    // What fires once may cover nothing but the day before.
    let from = day - TimeDelta::microseconds(1);
    let until = from.checked_add_months(Months::new(2)).unwrap_or(from) + TimeDelta::days(2);
    let mut found: Vec<Interval> = Vec::new();
    let mut fire = from;
    for _ in 0..MOST_FIRES {
        let Some(next) = schedule.next(fire)? else { break };
        fire = next;
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
        Schedule { tz: tz.to_owned(), covers, ..Schedule::new(Fires::Cron(cron.to_owned())) }
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
        assert_eq!(
            text(interval_at(Some(&daily), None, micros("2026-11-23T11:00:00Z"))),
            "2026-11-22T05:00:00Z 2026-11-23T05:00:00Z"
        );
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
        let every = Schedule::new(Fires::Every(3600));
        assert_eq!(text(interval_at(Some(&every), None, now)), "2026-11-23T11:00:00Z 2026-11-23T12:00:00Z");
    }

    fn local_fires(schedule: &Schedule, day: &str) -> String {
        let tz = zone(&schedule.tz).unwrap();
        let from = at_local(day.parse::<NaiveDate>().unwrap().and_time(NaiveTime::MIN), tz);
        let until = from + TimeDelta::hours(24);
        let [from, until] = [from, until].map(|at| Micros::from_utc(at.to_utc()));
        let from = Micros(from.0 - 1);
        let fires = schedule.fires_between(from, until, 100).unwrap();
        for fire in &fires {
            // Forwards and backwards are the same times.
            let at = fire.to_utc().with_timezone(&tz);
            let next = schedule.next(at).unwrap().unwrap();
            assert_eq!(schedule.previous(next).unwrap(), Some(at), "{schedule:?}");
        }
        let shown: Vec<_> =
            fires.iter().map(|fire| fire.to_utc().with_timezone(&tz).format("%H:%M%:::z").to_string()).collect();
        shown.join(" ")
    }

    #[test]
    fn named_hours_fire_once_where_the_clock_skips_or_repeats_them() {
        let spring = "2024-03-31";
        let autumn = "2024-10-27";
        let fires = |text: &str, day| local_fires(&cron(text, "Europe/Berlin", Covers::Day), day);
        assert_eq!(fires("30 2 * * *", spring), "03:00+02");
        assert_eq!(fires("30 2 * * *", autumn), "02:30+02");
        assert_eq!(fires("0,30 2 * * *", spring), "03:00+02");
        assert_eq!(fires("0 2,3 * * *", spring), "03:00+02");
        assert_eq!(fires("0 2,3 * * *", autumn), "02:00+02 03:00+01");
        assert_eq!(fires("15 2-4 * * *", spring), "03:00+02 03:15+02 04:15+02");
        assert_eq!(fires("15 2-4 * * *", autumn), "02:15+02 03:15+01 04:15+01");
    }

    #[test]
    fn every_hour_and_steps_follow_elapsed_time() {
        let fires = |text: &str, day| local_fires(&cron(text, "Europe/Berlin", Covers::Hour), day);
        let all = |text: &str, day| fires(text, day).split(' ').count();
        // From one midnight there are 24 hours, of which the last is the next day's in spring.
        assert_eq!(all("0 * * * *", "2024-03-31"), 25);
        assert!(fires("0 * * * *", "2024-10-27").contains("01:00+02 02:00+02 02:00+01 03:00+01"));
        assert!(fires("0 */2 * * *", "2024-10-27").starts_with("00:00+02 02:00+02 02:00+01 04:00+01"));
        assert!(fires("0 */2 * * *", "2024-03-31").starts_with("00:00+01 04:00+02 06:00+02"));
    }

    #[test]
    fn fire_times_keep_to_start_end_and_blackout() {
        let date = |text: &str| text.parse::<NaiveDate>().unwrap();
        let mut daily = cron("0 6 * * *", "America/New_York", Covers::BetweenFires);
        daily.start = Some(date("2024-01-02"));
        daily.end = Some(date("2024-01-08"));
        daily.blackout = vec![(date("2024-01-04"), date("2024-01-06"))];
        let fires = daily.fires_between(micros("2023-12-01T00:00:00Z"), micros("2024-02-01T00:00:00Z"), 100).unwrap();
        let shown: Vec<_> = fires.iter().map(|fire| fire.to_utc().format("%d").to_string()).collect();
        assert_eq!(shown, ["02", "03", "07", "08"]);
        // What fires after a blackout covers all since the last fire time, so that no data are left out.
        assert_eq!(text(daily.interval_of(fires[2])), "2024-01-03T11:00:00Z 2024-01-07T11:00:00Z");
        assert_eq!(daily.next_fire(fires[3]).unwrap(), None);
    }

    #[test]
    fn what_fires_once_does_so() {
        let mut once = Schedule::new(Fires::Once("2024-03-31T02:30:00".parse().unwrap()));
        once.tz = "Europe/Berlin".to_owned();
        let fire = once.next_fire(micros("2024-01-01T00:00:00Z")).unwrap();
        assert_eq!(fire, Some(micros("2024-03-31T01:00:00Z")));
        assert_eq!(once.next_fire(fire.unwrap()).unwrap(), None);
        assert_eq!(text(once.interval_of(fire.unwrap())), "2024-03-30T02:00:00Z 2024-03-31T01:00:00Z");
    }

    #[test]
    fn days_that_no_run_covers_are_found() {
        let now = micros("2024-01-01T00:00:00Z");
        let dates = |schedule: &Schedule| {
            schedule.uncovered(now, 15).unwrap().iter().map(NaiveDate::to_string).collect::<Vec<_>>().join(" ")
        };
        // It fires from Monday to Friday for the day before: Fridays and Saturdays are left out.
        assert_eq!(dates(&cron("0 6 * * 1-5", "UTC", Covers::Day)), "2024-01-05 2024-01-06 2024-01-12 2024-01-13");
        assert_eq!(dates(&cron("0 6 * * *", "UTC", Covers::Day)), "");
        assert_eq!(dates(&cron("0 6 * * 1-5", "UTC", Covers::BetweenFires)), "");
        assert_eq!(dates(&cron("0 */12 * * *", "UTC", Covers::Hour)).split(' ').count(), 15);
    }

    #[test]
    fn jitter_is_the_same_each_time_and_within_bounds() {
        let mut schedule = cron("0 6 * * *", "UTC", Covers::Day);
        let fire = micros("2024-01-01T06:00:00Z");
        assert_eq!(schedule.delay_of("a", fire), Duration::ZERO);
        schedule.jitter_seconds = 60;
        let delays: Vec<_> = (0..50).map(|ix| schedule.delay_of(&format!("w{ix}"), fire)).collect();
        assert!(delays.iter().all(|delay| *delay < Duration::from_secs(60)));
        assert!(delays.iter().any(|delay| *delay > Duration::from_secs(30)));
        assert_eq!(schedule.delay_of("w7", fire), delays[7]);
    }

    #[test]
    fn a_schedule_is_stored_as_it_was_before_it_could_do_more() {
        let stored = r#"{"kind":"cron","cron":"0 6 * * *","tz":"UTC","covers":"day","start":null,"end":null}"#;
        let read: Schedule = serde_json::from_str(stored).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), stored);
        let wrong = r#"{"kind":"cron","every_seconds":3}"#;
        assert!(serde_json::from_str::<Schedule>(wrong).is_err());
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
