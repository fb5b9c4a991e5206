//! Why a task is where it is: a pure function of the same state that decides what happens next, so it cannot disagree.

mod codes;
mod estimate;
mod slow;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use codes::{CODES, Code};
pub use estimate::{Estimate, History, Upcoming, estimate, estimate_pending, name, place_in_backfill};
pub use slow::{Pace, Part, PartTime, Parts, Past, PathJob, SLOW_CODES, pace, parts};

use crate::admit::{Barred, LimitId, Scope, Shard, Standing};
use crate::condition::{Condition, Seen};
use crate::fault::{ERROR, Evidence, Fault};
use crate::ids::{AttemptId, BackfillId, RunId, SessionId};
use crate::names::{ProjectName, TableRef, TaskName, WorkflowName};
use crate::run::{
    Attempt, Cause, Control, Ending, Ends, Outcome, Pending, Phase, Position, Run, Step, Stop, Task, TaskIx, Verdict,
};
use crate::time::Micros;
use crate::trigger::Overrun;

/// The answer for one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    pub run: RunId,
    /// None: the run has not begun, and it is about all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<TaskName>,
    /// The position or, when done, what became of it.
    pub state: String,
    #[serde(flatten)]
    pub why: Why,
    /// The worker at which it is under way; none: the server itself, or nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Jobs below that did not start because of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub downstream: Vec<TaskName>,
    /// Files under `[files]` that the run did not find as they were when its workflow had last succeeded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<ChangedInput>,
    /// Tables that the failed attempt had written, which are as they were before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unpublished: Vec<Unpublished>,
    /// The same, as long as it is not known what they are.
    #[serde(skip)]
    pub behind: Vec<crate::admit::Key>,
    /// Who comes before it, by workflow and job.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ahead: Vec<Ahead>,
    /// When it is likely to begin or, if it is at work, to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Estimate>,
    /// Why there is no estimate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_estimate: Option<String>,
    /// What a person said of the task: who marked it, holds it or has switched it off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<Said>,
    /// What a person has to do before `next`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<String>,
    /// The one command that would change it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The reason, with what it rests on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "code", rename_all = "kebab-case")]
pub enum Why {
    /// The jobs it waits for have not ended.
    WaitingForJobs {
        jobs: Vec<Awaited>,
        /// As many again, not named.
        #[serde(default, skip_serializing_if = "is_none")]
        more: u32,
    },
    /// Something outside of the run is not yet as it must be.
    WaitingForConditions {
        conditions: Vec<Looked>,
    },
    /// Every worker slot that new work may take is held.
    WaitingForSlot {
        slots: u32,
        held: u32,
        place: u32,
        of: u32,
        holders: Vec<Holder>,
    },
    /// Something that it needs has no room: a pool, a limit, a key.
    WaitingForLimit {
        limit: Limit,
        capacity: u32,
        held: u32,
        place: u32,
        of: u32,
        holders: Vec<Holder>,
    },
    /// No worker with its labels has a free slot.
    WaitingForWorker {
        labels: Vec<String>,
        /// Workers that have them.
        workers: u32,
        place: u32,
        of: u32,
    },
    /// A person holds a whole: nothing new in it begins.
    HeldByScope {
        scope: Scope,
        control: Control,
    },
    /// A person holds its run.
    RunHeld {
        control: Control,
    },
    /// Its run has not begun: one of the same workflow for the same interval is under way.
    WaitingForInterval {
        /// The explanation's own `run` is the one that waits.
        #[serde(rename = "other")]
        run: RunId,
    },
    /// Its run has not begun: as many of its schedule as may be are under way.
    WaitingForRuns {
        overrun: Overrun,
        most_active: u32,
        runs: Vec<RunId>,
    },
    /// Its run has not begun: the one before has to succeed first.
    WaitingForSuccess {
        /// The explanation's own `run` is the one that waits.
        #[serde(rename = "other")]
        run: RunId,
    },
    /// Its run has not begun: it waits for its turn in its backfill.
    WaitingInBackfill {
        backfill: BackfillId,
        /// Its place among the runs of the backfill that have not begun, from 1; 0 when it is not known.
        #[serde(default)]
        place: u32,
        #[serde(default)]
        of: u32,
        /// Who has paused the backfill.
        #[serde(default)]
        paused: Option<Control>,
    },
    /// A run of another workflow is its work.
    WaitingForWorkflow {
        workflow: WorkflowName,
        /// None: it is about to be made. The explanation's own `run` is the one that waits.
        other: Option<RunId>,
        since: Micros,
    },
    /// It has a result to finish and waits for the next free slot, before all new work.
    WaitingToFinish {
        slots: u32,
        held: u32,
        step: String,
    },
    /// It failed and will be tried again.
    BackingOff {
        until: Micros,
        tries: Tries,
        failure: Option<Failure>,
    },
    /// It took down whatever ran it; a person must look.
    Held {
        reason: String,
    },
    /// The server that ran it is gone, and the one that answers does not go on with it.
    WaitingForServer {
        /// The last that was heard of its attempt, if it has one.
        heard_at: Option<Micros>,
    },
    /// It is being worked on.
    Working {
        position: Position,
        phase: Option<Phase>,
        attempt: AttemptId,
        number: u32,
        since: Micros,
        slow: bool,
    },
    /// Its last attempt has failed and is being cleaned up.
    EndingBadly {
        failure: Failure,
        tries: Tries,
    },
    Failed {
        failure: Failure,
        tries: Tries,
    },
    Cancelled {
        failure: Option<Failure>,
        /// Who ended it, if it had no attempt that could say so.
        stopped: Option<Stop>,
    },
    /// A job it waits for did not succeed.
    UpstreamFailed {
        jobs: Vec<Awaited>,
    },
    /// Its trigger rule was not met, or a condition.
    Skipped {
        jobs: Vec<Awaited>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        conditions: Vec<Looked>,
    },
    /// It succeeded; its state says so.
    Ended,
}

impl Why {
    /// The failure that it is about.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed { failure, .. } | Self::EndingBadly { failure, .. } => Some(failure),
            Self::BackingOff { failure, .. } | Self::Cancelled { failure, .. } => failure.as_ref(),
            _ => None,
        }
    }

    /// The runs that have to end before its run begins.
    #[must_use]
    pub fn runs(&self) -> Vec<RunId> {
        match self {
            Self::WaitingForInterval { run } | Self::WaitingForSuccess { run } => vec![*run],
            Self::WaitingForRuns { runs, .. } => runs.clone(),
            _ => Vec::new(),
        }
    }

    /// Stable, kebab-case; each has a page in the docs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::WaitingForJobs { .. } => "waiting-for-jobs",
            Self::WaitingForConditions { .. } => "waiting-for-conditions",
            Self::WaitingForSlot { .. } => "waiting-for-slot",
            Self::WaitingForLimit { .. } => "waiting-for-limit",
            Self::WaitingForWorker { .. } => "waiting-for-worker",
            Self::HeldByScope { .. } => "held-by-scope",
            Self::RunHeld { .. } => "run-held",
            Self::WaitingForInterval { .. } => "waiting-for-interval",
            Self::WaitingForRuns { .. } => "waiting-for-runs",
            Self::WaitingForSuccess { .. } => "waiting-for-success",
            Self::WaitingInBackfill { .. } => "waiting-in-backfill",
            Self::WaitingForWorkflow { .. } => "waiting-for-workflow",
            Self::WaitingToFinish { .. } => "waiting-to-finish",
            Self::BackingOff { .. } => "backing-off",
            Self::Held { .. } => "held",
            Self::WaitingForServer { .. } => "waiting-for-server",
            Self::Working { .. } => "working",
            Self::EndingBadly { .. } => "ending-badly",
            Self::Failed { .. } => "failed",
            Self::Cancelled { .. } => "cancelled",
            Self::UpstreamFailed { .. } => "upstream-failed",
            Self::Skipped { .. } => "skipped",
            Self::Ended => "ended",
        }
    }
}

/// A file that has changed, come (no `before`) or gone (no `after`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChangedInput {
    /// Relative to the project's folder.
    pub path: String,
    /// Bytes that it had when the workflow last succeeded.
    pub before: Option<u64>,
    /// Bytes that the run found.
    pub after: Option<u64>,
    pub modified_at: Option<Micros>,
}

/// A table that was written and not published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Unpublished {
    #[schema(value_type = String)]
    pub table: TableRef,
    /// Whether there is such a table; if not, it would have been new.
    pub exists: bool,
    /// When it got the snapshot that it has, if that is known.
    pub snapshot_at: Option<Micros>,
}

/// What has room for so many attempts at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Limit {
    Pool {
        name: String,
        /// Whether anybody has set it; one that is not set has no slots.
        is_set: bool,
    },
    Quota {
        project: String,
    },
    Workflow {
        workflow: String,
    },
    Job {
        job: String,
    },
    Key {
        key: String,
    },
}

/// A job that another one waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Awaited {
    pub job: TaskName,
    pub state: String,
}

/// A condition of a task, and what was last seen of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Looked {
    #[serde(flatten)]
    pub seen: Seen,
    /// When it is given up, if it is not met.
    pub until: Micros,
}

/// Who holds a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Holder {
    pub run: RunId,
    /// Its place in the run, from 0.
    #[schema(value_type = usize)]
    pub task: TaskIx,
    /// What it is, for those who may see its project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is: Option<Named>,
}

impl Holder {
    fn new((run, task): crate::admit::Key) -> Self {
        Self { run, task, is: None }
    }
}

/// What a task is, whose it is, and since when it is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Named {
    pub project: ProjectName,
    pub workflow: WorkflowName,
    pub job: TaskName,
    /// Who asked for its run; none for one of a schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Who looks after the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    pub since: Micros,
}

/// Tasks that come before another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ahead {
    /// None where the asker may not see the project.
    pub project: Option<ProjectName>,
    pub workflow: Option<WorkflowName>,
    pub job: Option<TaskName>,
    pub tasks: u32,
}

/// What a person said of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Said {
    pub what: SaidWhat,
    #[serde(flatten)]
    pub control: Control,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SaidWhat {
    /// What became of it.
    Marked,
    /// That it is not to begin.
    Held,
    /// That it is to be passed over.
    SwitchedOff,
}

fn said(task: &Task) -> Option<Said> {
    let of = |what, control: &Option<Control>| control.clone().map(|control| Said { what, control });
    of(SaidWhat::Marked, &task.marked)
        .or_else(|| of(SaidWhat::SwitchedOff, &task.disabled))
        .or_else(|| of(SaidWhat::Held, &task.hold))
}

/// How often it was tried and may be, since it was last retried by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tries {
    pub number: u32,
    /// Attempts that the user's retries allow, and the free ones (platform, external, conflict) that were made.
    pub allowed: u32,
}

/// A failure with its evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// None: it failed before it had one.
    pub attempt: Option<AttemptId>,
    pub phase: Option<Phase>,
    pub ends: Ends,
    pub fault: Fault,
    /// Whether trying again without a change may help.
    pub retry_helps: bool,
    #[serde(flatten)]
    pub evidence: Evidence,
}

/// Explains one task; without a shard as one that no server works on.
#[must_use]
pub fn explain(run: &Run, shard: Option<&Shard>, ix: TaskIx, now: Micros) -> Explanation {
    let task = &run.tasks[ix];
    let mut behind = Vec::new();
    let why = match (task.position, shard) {
        (Position::Waiting, shard) if task.watch.as_ref().is_some_and(|watch| !watch.is_met()) => {
            let conditions = looked(run, ix);
            let heard_at = conditions.iter().filter_map(|looked| looked.seen.at).max();
            shard.map_or(Why::WaitingForServer { heard_at }, |_| Why::WaitingForConditions { conditions })
        }
        (Position::Waiting, _) => {
            let mut jobs = awaited(run, ix, |t| t.ending.is_none());
            let more = jobs.len().saturating_sub(MOST_AWAITED) as u32;
            jobs.truncate(MOST_AWAITED);
            Why::WaitingForJobs { jobs, more }
        }
        (Position::Held, _) => Why::Held { reason: task.held.clone().unwrap_or_default() },
        (Position::Done, _) => done(run, ix),
        (_, None) => Why::WaitingForServer { heard_at: task.attempt().map(heard_at) },
        (Position::Ready, Some(shard)) => {
            let standing = shard.standing((run.id, ix));
            behind.extend(standing.iter().flat_map(|standing| &standing.ahead).copied());
            waiting_for_slot(run, shard, standing)
        }
        (Position::Backoff, Some(_)) => Why::BackingOff {
            until: task.backoff_until.unwrap_or(now),
            tries: tries(run, ix),
            failure: task.attempt().and_then(failure),
        },
        (position, Some(shard)) => under_way(run, shard, ix, position),
    };
    let failed = matches!(why, Why::Failed { .. } | Why::EndingBadly { .. } | Why::Held { .. });
    let alone = shard.is_none_or(|shard| shard.sessions().keys().all(|id| *id == SessionId::SERVER));
    let (first, next) = next(run, task, &why, alone);
    Explanation {
        job: Some(task.name()),
        state: task.state_name().to_owned(),
        downstream: if failed { below(run, ix) } else { Vec::new() },
        behind,
        said: said(task),
        first,
        next,
        ..Explanation::new(run, with_remedy(why))
    }
}

impl Explanation {
    fn new(run: &Run, why: Why) -> Self {
        Self {
            run: run.id,
            job: None,
            state: run.state().name().to_owned(),
            why,
            worker: None,
            downstream: Vec::new(),
            changed: Vec::new(),
            unpublished: Vec::new(),
            behind: Vec::new(),
            ahead: Vec::new(),
            estimate: None,
            no_estimate: None,
            said: None,
            first: None,
            next: None,
        }
    }
}

/// A failure whose evidence knows no remedy has that of its reason.
fn with_remedy(mut why: Why) -> Why {
    let failure = match &mut why {
        Why::Failed { failure, .. } | Why::EndingBadly { failure, .. } => Some(failure),
        Why::BackingOff { failure, .. } | Why::Cancelled { failure, .. } => failure.as_mut(),
        _ => None,
    };
    if let Some(evidence) = failure.map(|failure| &mut failure.evidence)
        && let (Some(reason), None) = (evidence.reason, &evidence.remedy)
    {
        evidence.remedy = Some(reason.remedy().to_owned());
    }
    why
}

/// Explains a run that has not begun.
#[must_use]
pub fn explain_pending(run: &Run, shard: Option<&Shard>) -> Explanation {
    let barred = match run.pending {
        // Before its turn nobody holds it in memory, whether a server is there or not.
        Some(Pending::Backfill) => Some(Barred::InBackfill),
        _ => shard.map(|shard| shard.barred(run)),
    };
    let why = match barred {
        None => Why::WaitingForServer { heard_at: None },
        Some(Barred::SameInterval(other)) => Why::WaitingForInterval { run: other },
        Some(Barred::Overrun { overrun, most_active, active }) => {
            Why::WaitingForRuns { overrun, most_active, runs: active }
        }
        Some(Barred::Behind(other)) => {
            Why::WaitingForRuns { overrun: Overrun::Delay, most_active: 1, runs: vec![other] }
        }
        Some(Barred::Failed(other)) => Why::WaitingForSuccess { run: other },
        Some(Barred::Held(scope, control)) => Why::HeldByScope { scope, control },
        Some(Barred::InBackfill | Barred::Nothing) => match run.cause {
            Cause::Backfill { id, .. } => Why::WaitingInBackfill { backfill: id, place: 0, of: 0, paused: None },
            _ => Why::WaitingForRuns { overrun: Overrun::StartNew, most_active: 1, runs: Vec::new() },
        },
    };
    let next = match &why {
        Why::WaitingForInterval { run } => Some(format!("pinrail explain {}", run.short())),
        Why::WaitingForRuns { runs, .. } => runs.first().map(|run| format!("pinrail explain {}", run.short())),
        Why::WaitingForSuccess { run } => Some(format!("pinrail retry {}", run.short())),
        Why::WaitingInBackfill { backfill, .. } => Some(format!("pinrail backfills {}", backfill.short())),
        Why::HeldByScope { scope, .. } => Some(release(scope)),
        Why::WaitingForServer { .. } => Some("pinrail up".to_owned()),
        _ => None,
    };
    Explanation { next, ..Explanation::new(run, why) }
}

/// The command that lets a scope go.
fn release(scope: &Scope) -> String {
    match scope {
        Scope::Platform => "pinrail release --platform".to_owned(),
        Scope::Project { .. } => "pinrail release --all".to_owned(),
        Scope::Workflow { workflow, .. } => format!("pinrail release --workflow {workflow}"),
    }
}

/// What a person has to do about it, and the command after that; `alone` is a server without workers.
fn next(run: &Run, task: &Task, why: &Why, alone: bool) -> (Option<String>, Option<String>) {
    let run_id = run.id.short();
    let retry = format!("pinrail retry {run_id}");
    match why {
        Why::Failed { failure, .. } => {
            // A remedy says better what is to be done, unless it is about the code.
            let known =
                failure.evidence.remedy.is_some() && !failure.evidence.facts.iter().any(|(name, _)| name == ERROR);
            let fix = !known && matches!(failure.fault, Fault::User | Fault::Data);
            let mended = match failure.fault {
                Fault::User | Fault::Timeout | Fault::OutOfMemory => true,
                // Without a remedy it is the data that are to be mended, in place.
                Fault::Data => known,
                _ => false,
            };
            // A command that was submitted stands in no file.
            let job = run.find(task.name().as_str()).map(|ix| &run.graph.jobs[ix]);
            let bare = matches!(run.cause, Cause::OneOff { .. }) && job.is_some_and(|job| job.shell.is_some());
            let code = if mended && !bare { " --code folder" } else { "" };
            (fix.then(|| "fix the file".to_owned()), Some(format!("{retry}{code}")))
        }
        Why::Held { .. } if task.hold.is_some() => {
            (None, Some(format!("pinrail release {run_id} --job {}", shown(task))))
        }
        Why::Cancelled { .. } | Why::Held { .. } => (None, Some(retry)),
        Why::WaitingForServer { .. } => (None, Some("pinrail up".to_owned())),
        Why::WaitingForLimit { limit, capacity, holders, .. } => more_room(run_id, limit, *capacity, holders),
        Why::WaitingForSlot { slots, .. } if *slots > 0 && alone => {
            let more = slots + crate::admit::RESERVED + 1;
            (Some("end the server".to_owned()), Some(format!("pinrail up --slots {more}")))
        }
        Why::WaitingForWorker { labels, workers: 0, .. } => {
            (None, Some(format!("pinrail work --labels {}", labels.join(","))))
        }
        Why::WaitingForSlot { place: 1.., .. } => (None, Some("pinrail work".to_owned())),
        Why::HeldByScope { scope, .. } => (None, Some(release(scope))),
        Why::RunHeld { .. } => (None, Some(format!("pinrail release {run_id}"))),
        Why::WaitingForWorkflow { other: Some(other), .. } => {
            (None, Some(format!("pinrail explain {}", other.short())))
        }
        Why::WaitingForConditions { .. } => (None, Some(format!("pinrail release {run_id} --job {}", shown(task)))),
        Why::Working { .. } => (None, Some(format!("pinrail logs {run_id} --job {} -f", shown(task)))),
        _ => (None, None),
    }
}

/// The name of a task as it is written in a shell.
fn shown(task: &Task) -> String {
    let name = task.name();
    if task.instance.is_some() { format!("'{name}'") } else { name.to_string() }
}

/// What gives a limit more room, or frees it.
fn more_room(run: String, limit: &Limit, capacity: u32, holders: &[Holder]) -> (Option<String>, Option<String>) {
    match limit {
        Limit::Pool { name, .. } => (None, Some(format!("pinrail pools set {name} --slots {}", capacity + 1))),
        Limit::Quota { .. } => (None, Some(format!("pinrail limits set quota {}", capacity + 1))),
        Limit::Workflow { .. } | Limit::Job { .. } => {
            let first = "raise `concurrency` in the workflow file".to_owned();
            (Some(first), Some(format!("pinrail reload {run} --code folder")))
        }
        Limit::Key { .. } => (None, holders.first().map(|holder| format!("pinrail cancel {}", holder.run.short()))),
    }
}

/// The last that was heard of an attempt.
fn heard_at(attempt: &Attempt) -> Micros {
    let phases = attempt.phases.iter().map(|phase| phase.ended_at.unwrap_or(phase.started_at));
    phases.max().unwrap_or(attempt.started_at)
}

/// The task of a run that a person means by "why": one that failed, else one that waits or works, else the last.
#[must_use]
pub fn most_telling(run: &Run) -> Option<TaskIx> {
    let rank = |task: &Task| match (task.position, task.ending) {
        (Position::Done, Some(Ending::Failed)) => 0,
        (Position::Held, _) => 1,
        (Position::Cleaning, None) => 2,
        (Position::Backoff, _) => 3,
        (Position::Done, Some(Ending::Cancelled)) => 8,
        (Position::Done, _) => 9,
        (Position::Waiting, _) => 6,
        (Position::Ready, _) => 5,
        _ => 4,
    };
    (0..run.tasks.len()).min_by_key(|ix| rank(&run.tasks[*ix]))
}

/// Of a mapped job that was spread these are its instances.
fn awaited(run: &Run, ix: TaskIx, which: impl Fn(&Task) -> bool) -> Vec<Awaited> {
    let places = run.instances(ix).unwrap_or_else(|| run.graph.inputs(ix));
    let parents = places.iter().map(|parent| &run.tasks[*parent]);
    parents
        .filter(|task| which(task))
        .map(|task| Awaited { job: task.name(), state: task.state_name().to_owned() })
        .collect()
}

/// The conditions of a task that are not met.
fn looked(run: &Run, ix: TaskIx) -> Vec<Looked> {
    let Some(watch) = &run.tasks[ix].watch else { return Vec::new() };
    let conditions = run.graph.jobs[ix].wait_for.iter().zip(&watch.seen).filter(|(_, seen)| !seen.met);
    let named = |condition: &Condition, seen: &Seen| match seen.what.is_empty() {
        true => Seen { what: condition.that.to_string(), ..seen.clone() },
        false => seen.clone(),
    };
    conditions
        .map(|(condition, seen)| Looked { seen: named(condition, seen), until: watch.since.plus(condition.patience()) })
        .collect()
}

fn below(run: &Run, ix: TaskIx) -> Vec<TaskName> {
    let mut seen = vec![false; run.tasks.len()];
    let mut open = vec![ix];
    while let Some(at) = open.pop() {
        for child in &run.graph.children[at] {
            if !std::mem::replace(&mut seen[*child], true) {
                open.push(*child);
            }
        }
    }
    // One whose rule takes a failure for a reason to start may be at work by now.
    let stopped = |task: &Task| match task.ending {
        None => task.position == Position::Waiting,
        Some(ending) => matches!(ending, Ending::UpstreamFailed | Ending::Skipped),
    };
    // Instances are told of by their job.
    let jobs = (0..seen.len()).filter(|at| seen[*at] && run.tasks[*at].instance.is_none());
    jobs.filter(|at| stopped(&run.tasks[*at])).map(|at| run.tasks[at].name()).collect()
}

fn waiting_for_slot(run: &Run, shard: &Shard, standing: Option<Standing>) -> Why {
    let Some(standing) = standing else {
        return Why::WaitingForSlot { slots: 0, held: 0, place: 0, of: 0, holders: Vec::new() };
    };
    let holders = standing.holders.iter().copied().map(Holder::new).collect();
    let (capacity, held, place, of) = (standing.capacity, standing.held, standing.place, standing.of);
    let limit = match standing.limit {
        None => return Why::WaitingForSlot { slots: capacity, held, place, of, holders },
        Some(LimitId::Scope(scope)) => {
            let control = shard.held_scope(&run.project, &run.workflow).map(|(_, control)| control.clone());
            let nobody = || Control { by: String::new(), at: run.created_at, reason: None };
            return Why::HeldByScope { scope, control: control.unwrap_or_else(nobody) };
        }
        Some(LimitId::Run(_)) => match &run.hold {
            Some(control) => return Why::RunHeld { control: control.clone() },
            None => return Why::WaitingForSlot { slots: capacity, held, place, of, holders },
        },
        Some(LimitId::Labels(labels)) => {
            let has = |labels: &[String]| {
                let all = |session: &&crate::admit::Session| {
                    !session.draining && labels.iter().all(|label| session.labels.contains(label))
                };
                shard.sessions().values().filter(all).count() as u32
            };
            return Why::WaitingForWorker { workers: has(&labels), labels, place, of };
        }
        Some(LimitId::Pool(project, name)) => {
            let is_set = shard.capacity(&LimitId::Pool(project, name.clone())).is_some();
            Limit::Pool { name: name.to_string(), is_set }
        }
        Some(LimitId::Quota(project)) => Limit::Quota { project: project.to_string() },
        Some(LimitId::Workflow(lane)) => Limit::Workflow { workflow: lane.workflow.to_string() },
        Some(LimitId::Job(_, job)) => Limit::Job { job: job.to_string() },
        Some(LimitId::Key(_, key)) => Limit::Key { key },
    };
    Why::WaitingForLimit { limit, capacity, held, place, of, holders }
}

fn under_way(run: &Run, shard: &Shard, ix: TaskIx, position: Position) -> Why {
    let task = &run.tasks[ix];
    let Some(attempt) = task.attempt() else { return Why::Ended };
    if let Some(step) = attempt.wants {
        let step = match step {
            Step::Complete => "complete",
            Step::Clean => "cleanup",
        };
        return Why::WaitingToFinish { slots: shard.slots(), held: shard.slots_held(), step: step.to_owned() };
    }
    if let (Position::Cleaning, Some(failure)) = (position, failure(attempt)) {
        return Why::EndingBadly { failure, tries: tries(run, ix) };
    }
    let phase = attempt.phases.last();
    if let (Position::Submitted, Some(workflow)) = (position, attempt.sub_workflow()) {
        let since = phase.map_or(attempt.started_at, |record| record.started_at);
        return Why::WaitingForWorkflow { workflow: workflow.clone(), other: attempt.sub_run(), since };
    }
    Why::Working {
        position,
        phase: phase.map(|record| record.name),
        attempt: attempt.id,
        number: attempt.number,
        since: phase.map_or(attempt.started_at, |record| record.started_at),
        slow: task.slow,
    }
}

fn done(run: &Run, ix: TaskIx) -> Why {
    let task = &run.tasks[ix];
    let failure = || match &task.given_up {
        Some(verdict) => Some(told(None, verdict)),
        None => task.attempt().and_then(failure).or_else(|| failed_instances(run, ix)),
    };
    let not_good = |t: &Task| !t.ending.is_some_and(Ending::is_good);
    match (task.ending, failure()) {
        (Some(Ending::Failed), Some(failure)) => Why::Failed { failure, tries: tries(run, ix) },
        // An attempt that ended before says nothing of the stop.
        (Some(Ending::Cancelled), failure) => match task.stopped.clone() {
            Some(stopped) => Why::Cancelled { failure: None, stopped: Some(stopped) },
            None => Why::Cancelled { failure, stopped: None },
        },
        (Some(Ending::UpstreamFailed), _) => Why::UpstreamFailed { jobs: awaited(run, ix, not_good) },
        (Some(Ending::Skipped), _) => Why::Skipped { jobs: awaited(run, ix, |_| true), conditions: looked(run, ix) },
        _ => Why::Ended,
    }
}

/// Instances that failed and that an explanation names, at most.
const MOST_NAMED: usize = 5;
/// Jobs, or instances of one, that an explanation says to be waited for, at most.
const MOST_AWAITED: usize = 10;

fn is_none(count: &u32) -> bool {
    *count == 0
}

/// What became of the first instance of a mapped job that failed, and how many did.
fn failed_instances(run: &Run, ix: TaskIx) -> Option<Failure> {
    let instances = run.instances(ix)?.iter().map(|ix| run.tasks[*ix].as_ref());
    let of = instances.len();
    let failed: Vec<&Task> = instances.filter(|task| task.ending == Some(Ending::Failed)).collect();
    let mut failure = failed.iter().find_map(|task| task.attempt().and_then(failure))?;
    let names: Vec<String> = failed.iter().take(MOST_NAMED).map(|task| task.name().to_string()).collect();
    let more = if failed.len() > names.len() { ", ..." } else { "" };
    let told = format!("{} of {of} failed: {}{more}", failed.len(), names.join(", "));
    failure.evidence = failure.evidence.fact("instances", told);
    Some(failure)
}

fn tries(run: &Run, ix: TaskIx) -> Tries {
    // Of a mapped job the first instance that failed is told of.
    let failed = |ix: &&TaskIx| run.tasks[**ix].ending == Some(Ending::Failed);
    let ix = run.instances(ix).and_then(|instances| instances.iter().find(failed)).copied().unwrap_or(ix);
    let task = &run.tasks[ix];
    let these = || task.attempts.iter().filter(|attempt| attempt.generation == task.generation);
    let number = these().count() as u32;
    // What a free attempt was followed by came on top of the user's retries.
    let is_free = |failure: Failure| failure.fault.free_attempts() > 0;
    let free = these().rev().skip(1).filter(|attempt| failure(attempt).is_some_and(is_free)).count() as u32;
    Tries { number, allowed: run.graph.jobs[ix].retries + 1 + free }
}

fn failure(attempt: &Attempt) -> Option<Failure> {
    let verdict: &Verdict = match (&attempt.outcome, &attempt.verdict) {
        (Some(Outcome::Ended(verdict)), _) | (None, Some(verdict)) => verdict,
        _ => return None,
    };
    Some(told(Some(attempt.id), verdict))
}

fn told(attempt: Option<AttemptId>, verdict: &Verdict) -> Failure {
    Failure {
        attempt,
        phase: verdict.phase,
        ends: verdict.ends,
        fault: verdict.fault,
        retry_helps: verdict.fault.retried_by_default() || verdict.fault.free_attempts() > 0,
        evidence: verdict.evidence.clone(),
    }
}
