//! A workflow's schedule at work: which fire times are due, and which were missed.
//!
//! Pure, as all that decides. What became of each fire time is in the answer: it makes a run, or it is passed over with
//! the reason; none is passed over in silence. Which run may begin when is [`crate::admit`]'s to say.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::document::{Document, ParamType, Sha};
use crate::ids::RunId;
use crate::names::{ProjectName, WorkflowName};
use crate::notify::Rules;
use crate::run::{Cause, Class, Control, Graph, Pending, Run};
use crate::schedule::{CatchUp, Schedule};
use crate::target::{Lane, Target};
use crate::time::{Interval, Micros};

/// A fire time that is later than this was missed, and `catch_up` says what becomes of it.
pub const LATE: Duration = Duration::from_secs(60);
/// Fire times that are made into runs at once; the rest follow in the next turn.
pub const MOST_AT_ONCE: usize = 500;
/// Missed fire times that are counted at once; a schedule for every minute that was paused for a year has many more, and
/// then the count is of the first of them.
const MOST_LOOKED_AT: usize = 5000;
/// Passed-over stretches that a trigger remembers.
const MOST_PASSED: usize = 20;

/// What is done when a run is to begin while earlier ones of its workflow are not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Overrun {
    /// It begins beside them, up to the most that may be active; then it waits.
    #[default]
    StartNew,
    /// The fire time is passed over.
    Skip,
    /// It waits until they are over.
    Delay,
    /// It waits until they are over and the one before has succeeded.
    DelayUntilSuccess,
    /// They are stopped, and it begins when they have ended.
    AbortRunning,
}

impl Overrun {
    pub const ALL: [Self; 5] = [Self::StartNew, Self::Skip, Self::Delay, Self::DelayUntilSuccess, Self::AbortRunning];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::StartNew => "start-new",
            Self::Skip => "skip",
            Self::Delay => "delay",
            Self::DelayUntilSuccess => "delay-until-success",
            Self::AbortRunning => "abort-running",
        }
    }
}

/// Runs of a workflow that its schedule may have active at once when its author says nothing.
pub const MOST_ACTIVE: u32 = 16;

/// The schedule of one workflow, as its owner keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trigger {
    pub project: ProjectName,
    pub workflow: WorkflowName,
    /// The target of its runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Arc<Target>>,
    pub version: Sha,
    pub bundle: Sha,
    pub schedule: Schedule,
    pub overrun: Overrun,
    pub most_active: u32,
    /// Parameters of its runs: the defaults of the workflow.
    pub params: BTreeMap<String, Value>,
    pub param_types: BTreeMap<String, ParamType>,
    /// What its runs tell of.
    #[serde(default)]
    pub notify: Option<Rules>,
    /// Every fire time until here, included, has been dealt with.
    pub done_until: Micros,
    #[serde(default)]
    pub paused: Option<Control>,
    /// The latest stretches of fire times that made no run, newest last.
    #[serde(default)]
    pub passed: Vec<Passed>,
    /// The run that last failed, while none succeeded since: what `delay-until-success` waits for.
    #[serde(default)]
    pub failed: Option<RunId>,
}

/// Fire times that made no run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Passed {
    pub from: Micros,
    pub to: Micros,
    pub count: u32,
    pub why: PassedOver,
}

/// Why a fire time made no run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum PassedOver {
    /// It passed while no server was there to fire, and `catch_up` leaves it out.
    Missed,
    /// It passed while the schedule was paused, and `catch_up` leaves it out.
    Paused,
    /// An earlier run was not over, and `overrun` is `skip`.
    Overrun { run: RunId },
    /// The schedule was replaced by another before it was made up for.
    Replaced,
}

/// A fire time that makes a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fire {
    pub at: Micros,
    pub interval: Interval,
}

impl Trigger {
    /// The schedule of a document at work; none without one. It begins now, or where its `start` says if all is caught up.
    #[must_use]
    pub fn of(
        project: &ProjectName,
        target: Option<Arc<Target>>,
        document: &Document,
        code: (Sha, Sha),
        now: Micros,
        params: BTreeMap<String, Value>,
        param_types: BTreeMap<String, ParamType>,
    ) -> Option<Self> {
        let schedule = document.schedule.clone()?;
        let done_until = match (schedule.catch_up, schedule.start) {
            (CatchUp::All, Some(start)) => {
                // Before the first moment of that day in every zone.
                let midnight = Micros::from_utc(start.and_time(chrono::NaiveTime::MIN).and_utc());
                midnight.minus(Duration::from_secs(2 * 86_400))
            }
            _ => now,
        };
        let (version, bundle) = code;
        Some(Self {
            project: project.clone(),
            workflow: document.workflow.clone(),
            target,
            version,
            bundle,
            schedule,
            overrun: document.overrun,
            most_active: document.max_active.unwrap_or(MOST_ACTIVE),
            params,
            param_types,
            notify: Rules::of(document),
            done_until,
            paused: None,
            passed: Vec::new(),
            failed: None,
        })
    }

    /// The run of a fire time; it has to be created, and then waits for its turn.
    #[must_use]
    pub fn run(&self, fire: Fire, id: RunId, created_at: Micros) -> Run {
        Run {
            id,
            project: self.project.clone(),
            workflow: self.workflow.clone(),
            target: self.target.clone(),
            class: Class::Scheduled,
            cause: Cause::Schedule { fire_at: fire.at },
            interval: fire.interval,
            tz: self.schedule.tz.clone(),
            params: self.params.clone(),
            param_types: self.param_types.clone(),
            bundle: self.bundle,
            version: self.version,
            created_at,
            started_at: None,
            ended_at: None,
            stop: None,
            pending: Some(Pending::Schedule { overrun: self.overrun, most_active: self.most_active }),
            hold: None,
            jobs: None,
            replay_of: None,
            outside: BTreeMap::new(),
            executors: BTreeMap::new(),
            notify: self.notify.clone().map(Arc::new),
            tasks: Vec::new(),
            graph: Arc::new(Graph::default()),
            open: Default::default(),
        }
    }

    /// Where its runs mind each other.
    #[must_use]
    pub fn lane(&self) -> Lane {
        Lane::of(&self.project, &self.workflow, self.target.as_ref())
    }

    /// What makes a fire time one run.
    #[must_use]
    pub fn run_key(&self, fire_at: Micros) -> String {
        let at_target = self.target.as_ref().map_or_else(String::new, |target| format!("@{}", target.name));
        format!("schedule {}/{}{at_target} {fire_at}", self.project, self.workflow)
    }

    /// When there is something to do next; none when there will be no more fire times, or while it is paused.
    #[must_use]
    pub fn due_at(&self) -> Option<Micros> {
        if self.paused.is_some() {
            return None;
        }
        self.next_fire().map(|fire| self.begins_at(fire))
    }

    /// The next fire time that has not been dealt with.
    #[must_use]
    pub fn next_fire(&self) -> Option<Micros> {
        self.schedule.next_fire(self.done_until).ok().flatten()
    }

    /// When the run of a fire time begins: later by its share of the jitter.
    #[must_use]
    pub fn begins_at(&self, fire: Micros) -> Micros {
        fire.plus(self.schedule.delay_of(self.workflow.as_str(), fire))
    }

    /// Deals with what is due: gives the fire times that make runs, oldest first, and takes note of what is passed over.
    /// When there is more than fits, the trigger is due again at once.
    pub fn advance(&mut self, now: Micros) -> Vec<Fire> {
        let Some(due) = self.due_at().filter(|due| *due <= now) else { return Vec::new() };
        let ready = |at: &Micros| self.begins_at(*at) <= now;
        let most = if self.schedule.catch_up == CatchUp::All { MOST_AT_ONCE } else { MOST_LOOKED_AT };
        let fires = self.schedule.fires_between(self.done_until, now.max(due), most).unwrap_or_default();
        // Of a full count, more may follow: then none of these is the latest.
        let full = fires.len() == most;
        // One that is still to be delayed by its jitter holds up those after it; their order is kept.
        let fires: Vec<Micros> = fires.into_iter().take_while(ready).collect();
        let Some(last) = fires.last().copied() else { return Vec::new() };
        let on_time = |at: &Micros| now.since(self.begins_at(*at)) <= LATE;
        let (kept, passed): (Vec<Micros>, Vec<Micros>) = match self.schedule.catch_up {
            CatchUp::All => (fires, Vec::new()),
            CatchUp::Latest => fires.into_iter().partition(|at| (*at == last && !full) || on_time(at)),
            CatchUp::None => fires.into_iter().partition(on_time),
        };
        self.done_until = last;
        self.pass(&passed, PassedOver::Missed);
        let fire = |at: Micros| Some(Fire { at, interval: self.schedule.interval_of(at).ok()? });
        kept.into_iter().filter_map(fire).collect()
    }

    /// Takes note of fire times that make no run.
    pub fn pass(&mut self, fires: &[Micros], why: PassedOver) {
        let (Some(from), Some(to)) = (fires.first().copied(), fires.last().copied()) else { return };
        let count = fires.len() as u32;
        match self.passed.last_mut().filter(|last| last.why == why) {
            Some(last) => {
                last.to = to;
                last.count += count;
            }
            None => self.passed.push(Passed { from, to, count, why }),
        }
        if self.passed.len() > MOST_PASSED {
            self.passed.remove(0);
        }
    }

    /// Stops firing until [`Trigger::resume`].
    pub fn pause(&mut self, control: Control) {
        self.paused = Some(control);
    }

    /// Goes on. What passed meanwhile is caught up with as the schedule says; with `none`, it is passed over here.
    pub fn resume(&mut self, now: Micros) {
        if self.paused.take().is_none() || self.schedule.catch_up != CatchUp::None {
            return;
        }
        let missed = self.schedule.fires_between(self.done_until, now, MOST_LOOKED_AT).unwrap_or_default();
        self.done_until = self.done_until.max(now);
        self.pass(&missed, PassedOver::Paused);
    }

    /// Takes over what a deploy says. Under another schedule, fire times before the deploy stay what they were: those of
    /// the old one that were not dealt with are passed over, those of the new one begin after it.
    pub fn replace(&mut self, new: Self, now: Micros) {
        let paused = self.paused.take();
        let (passed, failed) = (std::mem::take(&mut self.passed), self.failed);
        let old = std::mem::replace(self, Self { paused, passed, failed, ..new });
        if old.schedule == self.schedule {
            self.done_until = old.done_until;
            return;
        }
        let open = old.schedule.fires_between(old.done_until, now, MOST_LOOKED_AT).unwrap_or_default();
        self.pass(&open, PassedOver::Replaced);
        self.done_until = now.max(old.done_until);
    }
}

/// What a change of schedule does to fire times.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FireTimes {
    /// Fire times of the old schedule that the new one does not have.
    pub lost: Vec<Micros>,
    /// Fire times of the new schedule that the old one did not have.
    pub new: Vec<Micros>,
    /// Fire times of the new schedule whose interval the old one has already fired for, with that fire time.
    pub doubled: Vec<Doubled>,
    /// Intervals of the old schedule that no fire time of the new one covers any more.
    pub uncovered: Vec<Interval>,
}

/// An interval that has had its fire time and will have another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Doubled {
    pub fire: Micros,
    pub interval: Interval,
    pub fired_at: Micros,
}

/// Compares two schedules from now on until a time; `none` stands for no schedule.
///
/// # Errors
/// What cannot be understood, quoted.
pub fn compare(
    old: Option<&Schedule>,
    new: Option<&Schedule>,
    now: Micros,
    until: Micros,
) -> Result<FireTimes, String> {
    let fires = |schedule: Option<&Schedule>, from: Micros, to: Micros| match schedule {
        Some(schedule) => schedule.fires_between(from, to, MOST_COMPARED),
        None => Ok(Vec::new()),
    };
    let (before, after) = (fires(old, now, until)?, fires(new, now, until)?);
    let lost = before.iter().filter(|at| !after.contains(at)).copied().collect();
    let fresh: Vec<Micros> = after.iter().filter(|at| !before.contains(at)).copied().collect();
    let mut times = FireTimes { lost, new: fresh, ..FireTimes::default() };
    let (Some(old), Some(new)) = (old, new) else { return Ok(times) };
    // What has fired in as long a time before is what can be doubled now.
    let past = fires(Some(old), now.minus(until.since(now)), now)?;
    let mut had = Vec::new();
    for fired_at in past {
        had.push((fired_at, old.interval_of(fired_at)?));
    }
    // The last intervals may get their fire times after the end.
    let mut covered = Vec::new();
    for fire in fires(Some(new), now, until.plus(until.since(now)))? {
        covered.push(new.interval_of(fire)?);
    }
    for fire in &after {
        let interval = new.interval_of(*fire)?;
        if let Some((fired_at, interval)) = had.iter().find(|(_, had)| *had == interval) {
            times.doubled.push(Doubled { fire: *fire, interval: *interval, fired_at: *fired_at });
        }
    }
    for fire in &before {
        let interval = old.interval_of(*fire)?;
        let reaches = covered.iter().any(|new| new.start < interval.end && interval.start < new.end);
        if !reaches && !times.uncovered.contains(&interval) {
            times.uncovered.push(interval);
        }
    }
    Ok(times)
}

/// A schedule for every minute has ten thousand fire times in a week.
const MOST_COMPARED: usize = 12_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Covers, Fires};

    fn at(text: &str) -> Micros {
        Micros::from_utc(chrono::DateTime::parse_from_rfc3339(text).unwrap().to_utc())
    }

    fn daily(catch_up: CatchUp) -> Trigger {
        let fires = Fires::Cron("0 6 * * *".to_owned());
        Trigger {
            project: "p".parse().unwrap(),
            workflow: "w".parse().unwrap(),
            target: None,
            version: Sha::of(b"1"),
            bundle: Sha::of(b"1"),
            schedule: Schedule { covers: Covers::Day, catch_up, ..Schedule::new(fires) },
            overrun: Overrun::default(),
            most_active: MOST_ACTIVE,
            params: BTreeMap::new(),
            param_types: BTreeMap::new(),
            notify: None,
            done_until: at("2024-01-01T12:00:00Z"),
            paused: None,
            passed: Vec::new(),
            failed: None,
        }
    }

    fn control() -> Control {
        Control { by: "anna".to_owned(), at: at("2024-01-01T12:00:00Z"), reason: None }
    }

    fn days(fires: &[Fire]) -> Vec<String> {
        fires.iter().map(|fire| fire.at.to_utc().format("%d").to_string()).collect()
    }

    #[test]
    fn a_fire_time_is_dealt_with_once() {
        let mut trigger = daily(CatchUp::None);
        assert_eq!(trigger.due_at(), Some(at("2024-01-02T06:00:00Z")));
        assert_eq!(trigger.advance(at("2024-01-02T05:59:59Z")), []);
        let fires = trigger.advance(at("2024-01-02T06:00:00Z"));
        assert_eq!(days(&fires), ["02"]);
        assert_eq!(fires[0].interval.start, at("2024-01-01T00:00:00Z"));
        assert_eq!(trigger.advance(at("2024-01-02T06:00:01Z")), []);
        // The clock goes back by hours: nothing is fired again.
        assert_eq!(trigger.advance(at("2024-01-02T01:00:00Z")), []);
        assert_eq!(trigger.advance(at("2024-01-02T06:00:00Z")), []);
    }

    #[test]
    fn what_was_missed_is_caught_up_with_as_the_schedule_says() {
        let now = at("2024-01-05T12:00:00Z");
        for (catch_up, made, passed) in [
            (CatchUp::None, vec![], 4),
            (CatchUp::Latest, vec!["05"], 3),
            (CatchUp::All, vec!["02", "03", "04", "05"], 0),
        ] {
            let mut trigger = daily(catch_up);
            assert_eq!(days(&trigger.advance(now)), made);
            assert_eq!(trigger.passed.iter().map(|passed| passed.count).sum::<u32>(), passed);
            assert_eq!(trigger.due_at(), Some(at("2024-01-06T06:00:00Z")));
        }
    }

    #[test]
    fn a_fire_time_on_time_is_no_missed_one() {
        let mut trigger = daily(CatchUp::None);
        let fires = trigger.advance(at("2024-01-03T06:00:30Z"));
        assert_eq!(days(&fires), ["03"]);
        assert_eq!(trigger.passed[0].why, PassedOver::Missed);
        assert_eq!(trigger.passed[0].count, 1);
    }

    #[test]
    fn everything_is_caught_up_with_in_turns() {
        let mut trigger = daily(CatchUp::All);
        trigger.schedule.fires = Fires::Every(60);
        let now = at("2024-01-01T22:00:00Z");
        let first = trigger.advance(now);
        assert_eq!(first.len(), MOST_AT_ONCE);
        assert!(trigger.due_at().unwrap() <= now);
        assert_eq!(trigger.advance(now).len(), 600 - MOST_AT_ONCE);
        assert!(trigger.due_at().unwrap() > now);
    }

    #[test]
    fn a_paused_schedule_fires_nothing_and_says_what_it_left_out() {
        let mut trigger = daily(CatchUp::None);
        trigger.pause(control());
        assert_eq!(trigger.due_at(), None);
        assert_eq!(trigger.advance(at("2024-01-03T06:00:00Z")), []);
        trigger.resume(at("2024-01-03T07:00:00Z"));
        assert_eq!(
            trigger.passed,
            [Passed {
                from: at("2024-01-02T06:00:00Z"),
                to: at("2024-01-03T06:00:00Z"),
                count: 2,
                why: PassedOver::Paused
            }]
        );
        let mut trigger = daily(CatchUp::Latest);
        trigger.pause(control());
        trigger.resume(at("2024-01-03T07:00:00Z"));
        assert_eq!(days(&trigger.advance(at("2024-01-03T07:00:00Z"))), ["03"]);
    }

    #[test]
    fn another_schedule_begins_at_the_deploy() {
        let mut trigger = daily(CatchUp::All);
        let mut new = daily(CatchUp::All);
        new.schedule.fires = Fires::Cron("0 7 * * *".to_owned());
        trigger.pause(control());
        trigger.replace(new, at("2024-01-02T06:30:00Z"));
        assert!(trigger.paused.is_some());
        assert_eq!(trigger.passed[0].why, PassedOver::Replaced);
        trigger.resume(at("2024-01-02T06:31:00Z"));
        assert_eq!(trigger.due_at(), Some(at("2024-01-02T07:00:00Z")));
        // The same schedule with other code goes on where it was.
        let mut trigger = daily(CatchUp::All);
        let newer = Trigger { version: Sha::of(b"2"), done_until: at("2024-01-09T00:00:00Z"), ..daily(CatchUp::All) };
        trigger.replace(newer, at("2024-01-09T00:00:00Z"));
        assert_eq!(trigger.next_fire(), Some(at("2024-01-02T06:00:00Z")));
    }

    #[test]
    fn jitter_delays_the_run_and_not_the_fire_time() {
        let mut trigger = daily(CatchUp::None);
        trigger.schedule.jitter_seconds = 600;
        let due = trigger.due_at().unwrap();
        let fire = at("2024-01-02T06:00:00Z");
        assert!(due > fire && due < fire.plus(Duration::from_secs(600)));
        assert_eq!(trigger.advance(fire), []);
        assert_eq!(trigger.advance(due)[0].at, fire);
    }

    #[test]
    fn a_change_of_schedule_tells_what_is_lost_new_and_doubled() {
        let old = daily(CatchUp::Latest).schedule;
        let mut new = old.clone();
        new.fires = Fires::Cron("0 7 * * *".to_owned());
        let now = at("2024-01-02T06:30:00Z");
        let times = compare(Some(&old), Some(&new), now, now.plus(Duration::from_secs(7 * 86_400))).unwrap();
        assert_eq!((times.lost.len(), times.new.len()), (7, 7));
        // Today's 06:00 has happened, and 07:00 will run for the same day too.
        assert_eq!(times.doubled.len(), 1);
        assert_eq!(times.doubled[0].fire, at("2024-01-02T07:00:00Z"));
        assert_eq!(times.uncovered, []);
        let gone = compare(Some(&old), None, now, now.plus(Duration::from_secs(7 * 86_400))).unwrap();
        assert_eq!((gone.lost.len(), gone.new.len()), (7, 0));
    }
}
