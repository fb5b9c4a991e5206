//! What a job waits for outside of its run, and whether it is to begin at all. Nothing here looks at the world: a watcher
//! of the service does, and says what it saw.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use chrono::Days;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::document::seconds;
use crate::names::{JobName, WorkflowName};
use crate::schedule::{Schedule, zone};
use crate::time::{Interval, Micros};

/// One thing that must be so before a job begins. Texts are templates of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    pub that: That,
    /// It is given up after this; none: [`PATIENCE`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<f64>,
    /// How often is looked, at most; none: as fits what is looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_seconds: Option<f64>,
    /// What becomes of the job when it is given up.
    #[serde(default)]
    pub otherwise: Otherwise,
}

/// How long is waited when nobody says.
pub const PATIENCE: Duration = Duration::from_secs(7 * 86_400);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum That {
    /// An expression over `upstream`, `params` and `ds`: looked at once, and when it is false the job is skipped.
    When { expression: String },
    /// A file of the project's folder, or one that a pattern matches.
    File { path: String },
    /// A table has rows; with a partition, rows in it.
    Partition {
        table: String,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        partition: BTreeMap<String, String>,
    },
    /// The greatest value of a column has come this far.
    Watermark { table: String, column: String, reaches: String },
    /// Another workflow, or a job of it, has succeeded for the matching intervals.
    Run {
        workflow: WorkflowName,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        job: Option<JobName>,
    },
    /// A GET is answered with this status and, if it is given, with this text in the body.
    Http {
        url: String,
        status: u16,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        contains: Option<String>,
    },
    /// The first value of the first row of a SELECT is true.
    Sql { sql: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Otherwise {
    #[default]
    Fail,
    Skip,
}

impl Condition {
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.timeout_seconds.map_or(PATIENCE, seconds)
    }
}

impl That {
    /// Whether it is looked at once, and is then so or not.
    #[must_use]
    pub fn is_decided_at_once(&self) -> bool {
        matches!(self, Self::When { .. })
    }
}

/// What people call it.
impl fmt::Display for That {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::When { expression } => write!(f, "that {expression}"),
            Self::File { path } => write!(f, "file \"{path}\""),
            Self::Partition { table, partition } if partition.is_empty() => write!(f, "rows in {table}"),
            Self::Partition { table, partition } => {
                let values = partition.iter().map(|(column, value)| format!("{column} = {value}"));
                write!(f, "partition ({}) of {table}", values.collect::<Vec<_>>().join(", "))
            }
            Self::Watermark { table, column, reaches } => write!(f, "{column} of {table} to reach {reaches}"),
            Self::Run { workflow, job: None } => write!(f, "a run of {workflow}"),
            Self::Run { workflow, job: Some(job) } => write!(f, "job {job} of {workflow}"),
            Self::Http { url, .. } => write!(f, "an answer of {url}"),
            Self::Sql { sql } => write!(f, "{}", one_line(sql)),
        }
    }
}

/// The beginning of a text, on one line.
fn one_line(text: &str) -> String {
    const MOST: usize = 60;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

/// Intervals of another workflow that are waited for at most.
const MOST_INTERVALS: usize = 10_000;
/// An interval that begins this many days before another one may still hold it.
const LONGEST: Days = Days::new(367);

/// The intervals of another workflow that belong to one of this one: all that lie within it, or else the one in which it
/// begins. A workflow without a schedule has the same.
///
/// # Errors
/// What of the schedule cannot be understood, quoted.
pub fn matching(other: Option<&Schedule>, own: Interval) -> Result<Vec<Interval>, String> {
    let Some(schedule) = other else { return Ok(vec![own]) };
    let tz = zone(&schedule.tz)?;
    let day = |at: Micros| at.to_utc().with_timezone(&tz).date_naive();
    let (first, last) = (day(own.start), day(own.end));
    let within = |interval: &Interval| interval.start >= own.start && interval.end <= own.end;
    let mut found = schedule.intervals_between(first, last, MOST_INTERVALS)?;
    found.retain(within);
    if found.is_empty() {
        let from = first.checked_sub_days(LONGEST).unwrap_or(first);
        let around = schedule.intervals_between(from, first, MOST_INTERVALS)?;
        found.extend(around.into_iter().rev().find(|i| i.start <= own.start && own.start < i.end));
    }
    Ok(found)
}

/// What is known of the conditions of a task that waits for them, one entry for each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    pub since: Micros,
    pub seen: Vec<Seen>,
}

/// What was last seen of one condition.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Seen {
    pub met: bool,
    /// The condition with its templates filled in; empty before the first look.
    pub what: String,
    /// What was found.
    pub found: String,
    pub at: Option<Micros>,
}

/// What a look at a condition came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    Met,
    NotYet,
    /// It is not so, and never will be: the job is skipped.
    Never,
    /// It cannot be looked at, now or later: the job fails.
    Wrong,
}

impl Watch {
    /// Nothing was seen yet.
    #[must_use]
    pub fn new(since: Micros, conditions: usize) -> Self {
        Self { since, seen: vec![Seen::default(); conditions] }
    }

    #[must_use]
    pub fn is_met(&self) -> bool {
        self.seen.iter().all(|seen| seen.met)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn schedule(text: &str) -> Schedule {
        serde_json::from_str(text).unwrap()
    }

    fn interval(start: &str, end: &str) -> Interval {
        let at = |text: &str| Micros(text.parse::<chrono::DateTime<chrono::Utc>>().unwrap().timestamp_micros());
        Interval { start: at(start), end: at(end) }
    }

    #[test]
    fn finer_intervals_are_those_within_and_coarser_the_one_around() {
        let hourly = schedule(r#"{"kind": "cron", "cron": "0 * * * *", "tz": "America/New_York"}"#);
        let daily = schedule(r#"{"kind": "cron", "cron": "0 2 * * *", "tz": "UTC", "covers": "day"}"#);
        let monthly = schedule(r#"{"kind": "cron", "cron": "0 2 1 * *", "tz": "UTC", "covers": "month"}"#);
        let day = interval("2024-01-02T00:00:00Z", "2024-01-03T00:00:00Z");
        let hours = matching(Some(&hourly), day).unwrap();
        assert_eq!((hours.len(), hours[0].start, hours[23].end), (24, day.start, day.end));
        assert_eq!(matching(Some(&daily), day).unwrap(), [day]);
        assert_eq!(matching(Some(&monthly), day).unwrap(), [interval("2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z")]);
        let hour = interval("2024-01-02T05:00:00Z", "2024-01-02T06:00:00Z");
        assert_eq!(matching(Some(&daily), hour).unwrap(), [day]);
        assert_eq!(matching(None, hour).unwrap(), [hour], "a workflow without a schedule has the same");
    }

    #[test]
    fn a_day_with_23_hours_waits_for_23() {
        let hourly = schedule(r#"{"kind": "cron", "cron": "0 * * * *", "tz": "Europe/Berlin"}"#);
        let day = interval("2024-03-30T23:00:00Z", "2024-03-31T22:00:00Z");
        assert_eq!(matching(Some(&hourly), day).unwrap().len(), 23);
    }
}
