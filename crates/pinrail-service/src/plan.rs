//! What a deploy would do: to the jobs of a workflow, and to its fire times. Pure but for the time it is given.

use std::collections::BTreeMap;
use std::time::Duration;

use pinrail_model::document::{Document, Job};
use pinrail_model::names::JobName;
use pinrail_model::schedule::{Covers, Fires, Schedule};
use pinrail_model::time::{Interval, Micros};
use pinrail_model::trigger::{FireTimes, compare};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How far ahead fire times are compared.
const AHEAD: Duration = Duration::from_secs(7 * 86_400);

/// What a deploy does to the jobs of a workflow.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobChanges {
    pub added: Vec<JobName>,
    pub removed: Vec<JobName>,
    pub changed: Vec<JobChange>,
}

/// What changed of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobChange {
    pub job: JobName,
    /// Names of settings.
    pub settings: Vec<String>,
}

/// What a deploy does to the fire times of a workflow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScheduleChange {
    /// The schedule in words, before and after.
    pub before: Option<String>,
    pub after: Option<String>,
    /// The zone of the new schedule.
    pub tz: Option<String>,
    /// The next fire times of the new schedule, with what their runs cover.
    pub next: Vec<NextFire>,
    /// What the change does in the next seven days; none when the schedule stays.
    pub times: Option<FireTimes>,
    /// Local dates of the next two weeks that no run covers.
    #[schema(value_type = Vec<String>)]
    pub uncovered: Vec<chrono::NaiveDate>,
}

/// A fire time to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NextFire {
    pub fire_at: Micros,
    /// When its run begins: later by its share of the jitter.
    pub begins_at: Micros,
    /// What its run covers.
    pub interval: Interval,
}

/// Fire times that are shown.
const SHOWN: usize = 5;

/// The next fire times of a schedule.
#[must_use]
pub fn next_fires(schedule: &Schedule, workflow: &str, after: Micros) -> Vec<NextFire> {
    let horizon = after.plus(Duration::from_secs(10 * 366 * 86_400));
    let fires = schedule.fires_between(after, horizon, SHOWN).unwrap_or_default();
    let next = |fire_at: Micros| {
        let interval = schedule.interval_of(fire_at).ok()?;
        Some(NextFire { fire_at, begins_at: fire_at.plus(schedule.delay_of(workflow, fire_at)), interval })
    };
    fires.into_iter().filter_map(next).collect()
}

/// A schedule in words.
#[must_use]
pub fn told(schedule: &Schedule) -> String {
    let mut text = match &schedule.fires {
        Fires::Cron(cron) => format!("{cron} {}", schedule.tz),
        Fires::Every(seconds) => format!("every {}", elapsed(*seconds)),
        Fires::Once(at) => format!("once at {} {}", at.format("%Y-%m-%d %H:%M:%S"), schedule.tz),
    };
    match schedule.covers {
        Covers::BetweenFires => {}
        Covers::Hour => text.push_str(", covers the hour before"),
        Covers::Day => text.push_str(", covers the day before"),
        Covers::Week => text.push_str(", covers the week before"),
        Covers::Month => text.push_str(", covers the month before"),
    }
    text
}

/// Whole seconds in the largest unit that they are a multiple of.
fn elapsed(seconds: u64) -> String {
    let units = [(86_400, "d"), (3600, "h"), (60, "min")];
    let unit = units.into_iter().find(|(length, _)| seconds.is_multiple_of(*length));
    unit.map_or_else(|| format!("{seconds} s"), |(length, name)| format!("{} {name}", seconds / length))
}

/// What a deploy does to the schedule of a workflow; none when it has none before and after.
#[must_use]
pub fn schedule_change(before: Option<&Document>, after: Option<&Document>, now: Micros) -> Option<ScheduleChange> {
    let (old, new) = (before.and_then(|d| d.schedule.as_ref()), after.and_then(|d| d.schedule.as_ref()));
    if old.is_none() && new.is_none() {
        return None;
    }
    let name = after.or(before).map(|document| document.workflow.to_string()).unwrap_or_default();
    let times = if old == new { None } else { compare(old, new, now, now.plus(AHEAD)).ok() };
    Some(ScheduleChange {
        before: old.map(told),
        after: new.map(told),
        tz: new.map(|schedule| schedule.tz.clone()),
        next: new.map(|schedule| next_fires(schedule, &name, now)).unwrap_or_default(),
        times,
        uncovered: new.and_then(|schedule| schedule.uncovered(now, 15).ok()).unwrap_or_default(),
    })
}

/// What a deploy does to the jobs of a workflow.
#[must_use]
pub fn job_changes(before: Option<&Document>, after: &Document) -> JobChanges {
    let named = |document: &Document| -> BTreeMap<JobName, Job> {
        document.jobs.iter().map(|job| (job.name.clone(), job.clone())).collect()
    };
    let (old, new) = (before.map(named).unwrap_or_default(), named(after));
    let mut changes = JobChanges {
        added: new.keys().filter(|name| !old.contains_key(*name)).cloned().collect(),
        removed: old.keys().filter(|name| !new.contains_key(*name)).cloned().collect(),
        changed: Vec::new(),
    };
    for (name, job) in &new {
        let Some(was) = old.get(name) else { continue };
        let settings = differing(was, job);
        if !settings.is_empty() {
            changes.changed.push(JobChange { job: name.clone(), settings });
        }
    }
    changes
}

/// The settings in which two versions of a job differ; where it stands does not count.
fn differing(old: &Job, new: &Job) -> Vec<String> {
    let fields = |job: &Job| match serde_json::to_value(job) {
        Ok(serde_json::Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    };
    let (old, new) = (fields(old), fields(new));
    let mut names: Vec<String> = old.keys().chain(new.keys()).filter(|name| *name != "source").cloned().collect();
    names.sort();
    names.dedup();
    names.retain(|name| old.get(name) != new.get(name));
    names
}
