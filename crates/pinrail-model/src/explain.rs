//! Why a task is where it is: a pure function of the same state that decides what happens next, so it cannot disagree.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::admit::{RESERVED, Shard};
use crate::fault::{Evidence, Fault};
use crate::ids::{AttemptId, RunId};
use crate::names::JobName;
use crate::run::{Attempt, Ending, Ends, Outcome, Phase, Position, Run, Step, Task, TaskIx, Verdict};
use crate::time::Micros;

/// The answer for one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    pub run: RunId,
    pub job: JobName,
    /// The position or, when done, what became of it.
    pub state: String,
    #[serde(flatten)]
    pub why: Why,
    /// Jobs below that did not start because of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub downstream: Vec<JobName>,
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
    },
    /// Every worker slot that new work may take is held.
    WaitingForSlot {
        slots: u32,
        held: u32,
        place: u32,
        of: u32,
        holders: Vec<Holder>,
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
    },
    /// A job it waits for did not succeed.
    UpstreamFailed {
        jobs: Vec<Awaited>,
    },
    /// Its trigger rule was not met.
    Skipped {
        jobs: Vec<Awaited>,
    },
    Ended {
        state: String,
    },
}

impl Why {
    /// Stable, kebab-case; each has a page in the docs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::WaitingForJobs { .. } => "waiting-for-jobs",
            Self::WaitingForSlot { .. } => "waiting-for-slot",
            Self::WaitingToFinish { .. } => "waiting-to-finish",
            Self::BackingOff { .. } => "backing-off",
            Self::Held { .. } => "held",
            Self::Working { .. } => "working",
            Self::EndingBadly { .. } => "ending-badly",
            Self::Failed { .. } => "failed",
            Self::Cancelled { .. } => "cancelled",
            Self::UpstreamFailed { .. } => "upstream-failed",
            Self::Skipped { .. } => "skipped",
            Self::Ended { .. } => "ended",
        }
    }
}

/// A job that another one waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Awaited {
    pub job: JobName,
    pub state: String,
}

/// Who holds a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Holder {
    pub run: RunId,
    /// Its place in the run, from 0.
    #[schema(value_type = usize)]
    pub task: TaskIx,
}

/// How often it was tried and may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tries {
    pub number: u32,
    /// Attempts that the user's retries allow; free ones (platform, external, conflict) come on top.
    pub allowed: u32,
}

/// A failure with its evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    pub attempt: AttemptId,
    pub phase: Option<Phase>,
    pub ends: Ends,
    pub fault: Fault,
    /// Whether trying again without a change may help.
    pub retry_helps: bool,
    #[serde(flatten)]
    pub evidence: Evidence,
}

/// Explains one task.
#[must_use]
pub fn explain(run: &Run, shard: &Shard, ix: TaskIx, now: Micros) -> Explanation {
    let task = &run.tasks[ix];
    let why = match task.position {
        Position::Waiting => Why::WaitingForJobs { jobs: awaited(run, ix, |t| t.ending.is_none()) },
        Position::Ready => waiting_for_slot(run, shard, ix),
        Position::Backoff => Why::BackingOff {
            until: task.backoff_until.unwrap_or(now),
            tries: tries(run, ix),
            failure: task.attempt().and_then(failure),
        },
        Position::Held => Why::Held { reason: task.held.clone().unwrap_or_default() },
        Position::Done => done(run, ix),
        position => under_way(run, shard, ix, position),
    };
    let failed = matches!(why, Why::Failed { .. } | Why::EndingBadly { .. } | Why::Held { .. });
    let next = match &why {
        Why::Failed { .. } | Why::Cancelled { .. } | Why::Held { .. } => {
            Some(format!("pinrail retry {}", run.id.short()))
        }
        Why::Working { .. } => Some(format!("pinrail logs {} --job {} -f", run.id.short(), task.job)),
        _ => None,
    };
    let downstream = if failed { below(run, ix) } else { Vec::new() };
    Explanation { run: run.id, job: task.job.clone(), state: task.state_name().to_owned(), why, downstream, next }
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

fn awaited(run: &Run, ix: TaskIx, which: impl Fn(&Task) -> bool) -> Vec<Awaited> {
    let parents = run.graph.parents[ix].iter().map(|parent| &run.tasks[*parent]);
    parents
        .filter(|task| which(task))
        .map(|task| Awaited { job: task.job.clone(), state: task.state_name().to_owned() })
        .collect()
}

fn below(run: &Run, ix: TaskIx) -> Vec<JobName> {
    let mut seen = vec![false; run.tasks.len()];
    let mut open = vec![ix];
    while let Some(at) = open.pop() {
        for child in &run.graph.children[at] {
            if !std::mem::replace(&mut seen[*child], true) {
                open.push(*child);
            }
        }
    }
    let stopped = |task: &Task| matches!(task.ending, None | Some(Ending::UpstreamFailed | Ending::Skipped));
    (0..seen.len()).filter(|at| seen[*at] && stopped(&run.tasks[*at])).map(|at| run.tasks[at].job.clone()).collect()
}

fn waiting_for_slot(run: &Run, shard: &Shard, ix: TaskIx) -> Why {
    let place =
        shard.queue().position(|queued| (queued.run, queued.task) == (run.id, ix)).map_or(0, |at| at as u32 + 1);
    Why::WaitingForSlot {
        slots: shard.slots.saturating_sub(if shard.slots > RESERVED { RESERVED } else { 0 }),
        held: shard.slots_held(),
        place,
        of: shard.queue().count() as u32,
        holders: shard.holders().map(|(run, task)| Holder { run, task }).collect(),
    }
}

fn under_way(run: &Run, shard: &Shard, ix: TaskIx, position: Position) -> Why {
    let task = &run.tasks[ix];
    let Some(attempt) = task.attempt() else { return Why::Ended { state: task.state_name().to_owned() } };
    if let Some(step) = attempt.wants {
        let step = match step {
            Step::Complete => "complete",
            Step::Clean => "cleanup",
        };
        return Why::WaitingToFinish { slots: shard.slots, held: shard.slots_held(), step: step.to_owned() };
    }
    if let (Position::Cleaning, Some(failure)) = (position, failure(attempt)) {
        return Why::EndingBadly { failure, tries: tries(run, ix) };
    }
    let phase = attempt.phases.last();
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
    let failure = || task.attempt().and_then(failure);
    let not_good = |t: &Task| t.ending != Some(Ending::Succeeded);
    match (task.ending, failure()) {
        (Some(Ending::Failed), Some(failure)) => Why::Failed { failure, tries: tries(run, ix) },
        (Some(Ending::Cancelled), failure) => Why::Cancelled { failure },
        (Some(Ending::UpstreamFailed), _) => Why::UpstreamFailed { jobs: awaited(run, ix, not_good) },
        (Some(Ending::Skipped), _) => Why::Skipped { jobs: awaited(run, ix, |_| true) },
        _ => Why::Ended { state: task.state_name().to_owned() },
    }
}

fn tries(run: &Run, ix: TaskIx) -> Tries {
    let number = run.tasks[ix].attempts.len() as u32;
    Tries { number, allowed: run.graph.jobs[ix].retries + 1 }
}

fn failure(attempt: &Attempt) -> Option<Failure> {
    let verdict: &Verdict = match (&attempt.outcome, &attempt.verdict) {
        (Some(Outcome::Ended(verdict)), _) | (None, Some(verdict)) => verdict,
        _ => return None,
    };
    Some(Failure {
        attempt: attempt.id,
        phase: verdict.phase,
        ends: verdict.ends,
        fault: verdict.fault,
        retry_helps: verdict.fault.retried_by_default() || verdict.fault.free_attempts() > 0,
        evidence: verdict.evidence.clone(),
    })
}
