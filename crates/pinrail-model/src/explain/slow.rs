//! Where the time of a run went: along its critical path, by job and part, against its workflow's latest successful runs.
//!
//! The critical path leads from the job that ended last back through what each job waited for last. Of every job on it
//! the time is divided into waiting (for slots, pools and limits; between tries) and work (by phase), so that the job and
//! the part that made the difference can be named.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Code;
use crate::ids::RunId;
use crate::names::JobName;
use crate::run::{Attempt, Outcome, Phase, Position, Run, Task, TaskIx};
use crate::time::Micros;

/// Fewer earlier runs than this do not tell what is unusual without being asked.
const LEAST_TO_TELL: usize = 5;
/// A difference of less than this part of the usual time is none.
const NO_DIFFERENCE: f64 = 0.1;
/// A difference of less than this, in seconds, is none.
const LEAST_DIFFERENCE: f64 = 0.05;

/// What a job's time goes into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// For a slot of a worker, a pool or another limit, from when the jobs before it allowed it to begin.
    Queued,
    /// Between two tries.
    Backoff,
    /// In attempts that failed, their cleanup included.
    Failed,
    /// Between getting a slot and the first phase: code and Python environment are put in place.
    Preparing,
    Setup,
    Execute,
    Complete,
    /// After `complete`, until what it wrote was true.
    Publishing,
}

impl Part {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Backoff => "backoff",
            Self::Failed => "failed",
            Self::Preparing => "preparing",
            Self::Setup => "setup",
            Self::Execute => "execute",
            Self::Complete => "complete",
            Self::Publishing => "publishing",
        }
    }

    fn code(self) -> &'static str {
        match self {
            Self::Queued => "slow-waiting",
            Self::Backoff | Self::Failed => "slow-tries",
            _ => "slow-work",
        }
    }
}

/// Seconds by part.
pub type Parts = BTreeMap<Part, f64>;

/// An earlier run that succeeded.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Past {
    /// From when it began, by its place in line, to its end.
    pub seconds: f64,
    pub jobs: BTreeMap<JobName, Parts>,
}

/// How fast a run was, or is so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Pace {
    pub run: RunId,
    /// What made the difference: one of the codes that begin with `slow-`, or `as-usual`, or `no-history`.
    pub code: String,
    pub seconds: f64,
    /// The median of the earlier runs.
    pub usual_seconds: Option<f64>,
    /// What nine of ten of the earlier runs did not exceed.
    pub p90_seconds: Option<f64>,
    /// Earlier successful runs of the same jobs that it is compared with: the latest, 20 at most.
    pub runs: u32,
    /// Whether it took longer than nine of ten of them, of at least five.
    pub is_slow: bool,
    /// The job that made the difference.
    pub job: Option<JobName>,
    /// What of that job's time did.
    pub part: Option<Part>,
    /// The jobs of the critical path, in order.
    pub path: Vec<PathJob>,
    /// A command that shows more of it.
    pub next: Option<String>,
}

/// One job of the critical path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PathJob {
    pub job: JobName,
    pub seconds: f64,
    /// The median of the runs in which it succeeded.
    pub usual_seconds: Option<f64>,
    pub runs: u32,
    pub parts: Vec<PartTime>,
}

/// What went into one part of a job's time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PartTime {
    pub part: Part,
    pub seconds: f64,
    pub usual_seconds: Option<f64>,
}

/// The codes of [`Pace`].
pub const SLOW_CODES: &[Code] = &[
    Code {
        code: "slow-work",
        meaning: "One job of the critical path worked for longer than usual; the part names the phase.",
        remedy: "Look at `pinrail counters` and `pinrail logs` of that job: more data, or a slower machine.",
    },
    Code {
        code: "slow-waiting",
        meaning: "One job of the critical path waited longer than usual for a slot of a worker, a pool or a limit.",
        remedy: "Give the pool or the server more slots, or the job a higher `priority`.",
    },
    Code {
        code: "slow-tries",
        meaning: "One job of the critical path failed and was tried again; the failed attempts and the waits between them took the time.",
        remedy: "Look with `pinrail logs --attempt 1` at why it failed first.",
    },
    Code {
        code: "slow-new-job",
        meaning: "A job on the critical path has not succeeded in any of the earlier runs, so nothing says what is usual for it.",
        remedy: "Nothing: the next runs are compared with this one.",
    },
    Code {
        code: "slow-between",
        meaning: "No job of the critical path took much longer than usual; small differences, or the time between jobs, make up the rest.",
        remedy: "Look at the jobs of the path one by one.",
    },
    Code { code: "as-usual", meaning: "The run took no longer than usual.", remedy: "Nothing." },
    Code {
        code: "no-history",
        meaning: "No earlier run of the same jobs of the workflow has succeeded.",
        remedy: "Ask again when there is one.",
    },
];

/// Compares a run with earlier ones. `begun` is when its turn had come; none: when it was made.
#[must_use]
pub fn pace(run: &Run, begun: Option<Micros>, past: &[Past], now: Micros) -> Pace {
    let seconds = run.ended_at.unwrap_or(now).since(begun.unwrap_or(run.created_at)).as_secs_f64();
    let mut totals: Vec<f64> = past.iter().map(|past| past.seconds).collect();
    totals.sort_by(f64::total_cmp);
    let usual_seconds = middle(&totals);
    let p90_seconds = totals.get((totals.len() * 9).div_ceil(10).saturating_sub(1)).copied();
    let path: Vec<PathJob> = path(run).into_iter().map(|ix| path_job(run, ix, past, now)).collect();
    let mut pace = Pace {
        run: run.id,
        code: "no-history".to_owned(),
        seconds,
        usual_seconds,
        p90_seconds,
        runs: past.len() as u32,
        is_slow: !path.is_empty()
            && past.len() >= LEAST_TO_TELL
            && p90_seconds.is_some_and(|p90| differs(seconds, p90)),
        job: None,
        part: None,
        path,
        next: None,
    };
    if let Some(usual) = usual_seconds {
        (pace.code, pace.job, pace.part) = difference(&pace.path, seconds, usual);
    }
    if let Some(job) = pace.job.as_ref().filter(|_| pace.part != Some(Part::Queued)) {
        let first = if pace.code == "slow-tries" { " --attempt 1" } else { "" };
        pace.next = Some(format!("pinrail logs {} --job {job}{first}", run.id.short()));
    }
    pace
}

fn differs(seconds: f64, usual: f64) -> bool {
    seconds - usual > LEAST_DIFFERENCE.max(usual * NO_DIFFERENCE)
}

/// The code, the job and the part that made the difference.
fn difference(path: &[PathJob], seconds: f64, usual: f64) -> (String, Option<JobName>, Option<Part>) {
    if !differs(seconds, usual) {
        return ("as-usual".to_owned(), None, None);
    }
    let more = |job: &PathJob| job.seconds - job.usual_seconds.unwrap_or(0.0);
    let most = path.iter().max_by(|a, b| more(a).total_cmp(&more(b)));
    let Some(job) = most.filter(|job| differs(job.seconds, job.usual_seconds.unwrap_or(0.0))) else {
        return ("slow-between".to_owned(), None, None);
    };
    if job.usual_seconds.is_none() {
        return ("slow-new-job".to_owned(), Some(job.job.clone()), None);
    }
    let more = |part: &PartTime| part.seconds - part.usual_seconds.unwrap_or(0.0);
    let part = job.parts.iter().max_by(|a, b| more(a).total_cmp(&more(b))).map(|part| part.part);
    (part.map_or("slow-between", Part::code).to_owned(), Some(job.job.clone()), part)
}

fn path_job(run: &Run, ix: TaskIx, past: &[Past], now: Micros) -> PathJob {
    let task = &run.tasks[ix];
    let parts = parts(task, before(run, ix), now);
    let earlier: Vec<&Parts> = past.iter().filter_map(|past| past.jobs.get(&task.job)).collect();
    let mut totals: Vec<f64> = earlier.iter().map(|parts| parts.values().sum()).collect();
    totals.sort_by(f64::total_cmp);
    let usual = |part: Part| {
        let mut all: Vec<f64> = earlier.iter().map(|parts| parts.get(&part).copied().unwrap_or(0.0)).collect();
        all.sort_by(f64::total_cmp);
        middle(&all)
    };
    PathJob {
        job: task.job.clone(),
        seconds: parts.values().sum(),
        usual_seconds: middle(&totals),
        runs: totals.len() as u32,
        parts: parts
            .iter()
            .map(|(part, seconds)| PartTime { part: *part, seconds: *seconds, usual_seconds: usual(*part) })
            .collect(),
    }
}

fn middle(sorted: &[f64]) -> Option<f64> {
    sorted.get(sorted.len() / 2).copied()
}

/// When what became of a task was said: for those below it, not after its cleanup.
fn end(task: &Task) -> Option<Micros> {
    task.ending?;
    task.attempt()?.ended_at
}

/// What a task waited for; in the place of a mapped job its instances.
fn inputs(run: &Run, ix: TaskIx) -> impl Iterator<Item = TaskIx> {
    let inputs = run.graph.inputs(ix).iter();
    inputs.flat_map(|input| run.instances(*input).unwrap_or(std::slice::from_ref(input)).iter().copied())
}

fn before(run: &Run, ix: TaskIx) -> Option<Micros> {
    inputs(run, ix).filter_map(|parent| end(&run.tasks[parent])).max()
}

/// The jobs that decided when the run ended or, while it works, those that lead to what works longest.
fn path(run: &Run) -> Vec<TaskIx> {
    let has_attempt = |ix: &TaskIx| run.tasks[*ix].attempt().is_some();
    let open = |ix: &TaskIx| run.tasks[*ix].ending.is_none();
    let all = 0..run.tasks.len();
    let working = all.clone().filter(|ix| open(ix) && (has_attempt(ix) || run.tasks[*ix].position == Position::Ready));
    let since = |ix: &TaskIx| run.tasks[*ix].ready_at;
    let mut at = working.min_by_key(since).or_else(|| all.filter(has_attempt).max_by_key(|ix| end(&run.tasks[*ix])));
    let mut path = Vec::new();
    while let Some(ix) = at {
        path.push(ix);
        at = inputs(run, ix).filter(has_attempt).max_by_key(|parent| end(&run.tasks[*parent]));
    }
    path.reverse();
    path
}

/// Where the time of a task went, from when the jobs before it had allowed it to begin, as far as that is known.
#[must_use]
pub fn parts(task: &Task, before: Option<Micros>, now: Micros) -> Parts {
    let mut parts = Parts::new();
    let mut add = |part: Part, from: Micros, until: Micros| {
        let seconds = until.since(from).as_secs_f64();
        if seconds > 0.0 {
            *parts.entry(part).or_default() += seconds;
        }
    };
    // What a retry by hand came after was a person's time.
    let tries: Vec<&Attempt> =
        task.attempts.iter().map(AsRef::as_ref).filter(|attempt| attempt.generation == task.generation).collect();
    let first = tries.first().map(|attempt| attempt.started_at);
    let before = before.filter(|_| task.generation == 1);
    let ready = task.ready_at.into_iter().chain(first).min();
    let Some(mut at) = before.into_iter().chain(ready).min() else { return parts };
    for (number, attempt) in tries.iter().enumerate() {
        let began = attempt.started_at;
        // Of the earlier waits it is not stored when they were over.
        let ready = task.ready_at.filter(|ready| number + 1 == tries.len() && *ready > at && *ready <= began);
        let free = if number == 0 { at } else { ready.unwrap_or(began) };
        add(Part::Backoff, at, free);
        add(Part::Queued, free, began);
        let over = attempt.ended_at.unwrap_or(now);
        let has_failed = attempt.verdict.is_some() || matches!(attempt.outcome, Some(Outcome::Ended(_)));
        if has_failed {
            add(Part::Failed, began, over);
        } else {
            worked(attempt, over, &mut add);
        }
        at = over;
    }
    if tries.is_empty() || task.position.is_before_an_attempt() {
        let waits = if task.position == Position::Backoff { Part::Backoff } else { Part::Queued };
        add(waits, at, now);
    }
    parts
}

fn worked(attempt: &Attempt, over: Micros, add: &mut impl FnMut(Part, Micros, Micros)) {
    let mut at = attempt.started_at;
    let mut gap = Part::Preparing;
    for phase in attempt.phases.iter().filter(|phase| phase.name != Phase::Cleanup) {
        let part = match phase.name {
            Phase::Setup => Part::Setup,
            Phase::Execute => Part::Execute,
            Phase::Complete | Phase::Cleanup => Part::Complete,
        };
        // What an engine has finished waits for a slot to complete on.
        let before = if phase.name == Phase::Complete { Part::Queued } else { gap };
        add(before, at, phase.started_at);
        at = phase.ended_at.unwrap_or(over);
        add(part, phase.started_at, at);
        gap = part;
    }
    let last = if attempt.phases.iter().any(|phase| phase.name == Phase::Complete) { Part::Publishing } else { gap };
    add(last, at, over);
}
