//! When something that waits is likely to begin: from how long the jobs before it usually take.
//!
//! An estimate says on how many runs it rests. Where one of them is missing there is none, and the reason is said.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Ahead, Explanation, Holder, Named, Why};
use crate::backfill::{Backfill, Progress};
use crate::ids::RunId;
use crate::names::{JobName, ProjectName, TaskName, WorkflowName};
use crate::notify::Usual;
use crate::run::{Cause, Position, Run, TaskIx};
use crate::time::Micros;
use crate::trigger::Overrun;

/// What is expected, in how long, and by how many runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Estimate {
    pub event: Upcoming,
    /// From now on; 0: at any moment, because what it waits for works longer than usual.
    pub seconds: f64,
    /// The successful runs that it rests on: those of the job with the fewest.
    pub runs: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Upcoming {
    Begins,
    Ends,
}

/// How long jobs usually take, by workflow.
#[derive(Debug, Clone, Default)]
pub struct History {
    workflows: BTreeMap<(ProjectName, WorkflowName), Usual>,
}

impl History {
    pub fn insert(&mut self, project: ProjectName, workflow: WorkflowName, usual: Usual) {
        self.workflows.insert((project, workflow), usual);
    }

    fn job(&self, project: &ProjectName, workflow: &WorkflowName, job: &JobName) -> Guess {
        let usual = self.workflows.get(&(project.clone(), workflow.clone()));
        let sample = usual.and_then(|usual| usual.jobs.get(job)).map_or(0, Vec::len);
        let median = usual.and_then(|usual| usual.of(job));
        let median = median.ok_or_else(|| format!("job \"{job}\" of workflow \"{workflow}\" has not succeeded yet"))?;
        Ok(Span { time: median, runs: sample as u32 })
    }
}

/// A time with the number of runs that it rests on; otherwise why there is none.
type Guess = Result<Span, String>;

#[derive(Debug, Clone, Copy)]
struct Span {
    time: Duration,
    runs: u32,
}

impl Span {
    const NOTHING: Self = Self { time: Duration::ZERO, runs: u32::MAX };

    fn after(self, before: Self) -> Self {
        Self { time: self.time + before.time, runs: self.runs.min(before.runs) }
    }

    fn less(self, gone: Duration) -> Self {
        Self { time: self.time.saturating_sub(gone), ..self }
    }
}

/// The one of two that takes longer. What is not known may take longest.
fn later(a: Guess, b: Guess) -> Guess {
    let (a, b) = (a?, b?);
    Ok(if (a.time, Reverse(a.runs)) >= (b.time, Reverse(b.runs)) { a } else { b })
}

fn latest(all: impl IntoIterator<Item = Guess>) -> Guess {
    all.into_iter().reduce(later).unwrap_or(Ok(Span::NOTHING))
}

/// Says of explained tasks of a run when they are likely to begin or to end. A path through jobs is reckoned without
/// what they may wait for slots.
pub fn estimate(run: &Run, explanations: &mut [Explanation], history: &History, now: Micros) {
    let ends = ends(run, history, now);
    let places: BTreeMap<TaskName, TaskIx> = run.tasks.iter().enumerate().map(|(ix, task)| (task.name(), ix)).collect();
    for explanation in explanations {
        let Some(ix) = explanation.job.as_ref().and_then(|job| places.get(job)).copied() else { continue };
        let (event, guess) = match &explanation.why {
            Why::WaitingForJobs { .. } => (Upcoming::Begins, parents(run, ix, &ends)),
            Why::Working { .. } | Why::WaitingForWorkflow { .. } => (Upcoming::Ends, own(run, ix, history, now)),
            Why::WaitingForSlot { holders, place, .. } => {
                (Upcoming::Begins, turn(holders, *place, &explanation.ahead, history, now))
            }
            Why::WaitingForLimit { capacity: 0, .. } => (Upcoming::Begins, Err("there are no slots at all".to_owned())),
            Why::WaitingForLimit { holders, place, .. } => {
                (Upcoming::Begins, turn(holders, *place, &explanation.ahead, history, now))
            }
            Why::WaitingForWorker { .. } => {
                (Upcoming::Begins, Err("nobody knows when a worker has room for it".to_owned()))
            }
            Why::HeldByScope { .. } | Why::RunHeld { .. } | Why::Held { .. } => {
                (Upcoming::Begins, Err("it waits for a person".to_owned()))
            }
            _ => continue,
        };
        put(explanation, event, guess);
    }
}

/// Says of an explained run that has not begun when it is likely to. The others are the runs that it waits for.
pub fn estimate_pending(explanation: &mut Explanation, others: &[Run], history: &History, now: Micros) {
    let all = |take: fn(Guess, Guess) -> Guess| {
        let ends = others.iter().map(|run| {
            if run.pending.is_some() {
                return Err(format!("run {} has not begun either", run.id.short()));
            }
            latest(ends(run, history, now))
        });
        ends.reduce(take).unwrap_or_else(|| Err("its turn comes next".to_owned()))
    };
    let guess = match &explanation.why {
        Why::WaitingForRuns { overrun: Overrun::StartNew, .. } => all(|a, b| match (a, b) {
            (Ok(a), Ok(b)) => Ok(if a.time <= b.time { a } else { b }),
            (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
            (first, _) => first,
        }),
        Why::WaitingForInterval { .. } | Why::WaitingForRuns { .. } => all(later),
        Why::WaitingForSuccess { .. } => Err("the failed run has to be mended first".to_owned()),
        Why::WaitingInBackfill { paused: Some(_), .. } | Why::HeldByScope { .. } => {
            Err("it waits for a person".to_owned())
        }
        Why::WaitingInBackfill { backfill, .. } => Err(format!("`pinrail backfills {}` has one", backfill.short())),
        _ => return,
    };
    put(explanation, Upcoming::Begins, guess);
}

fn put(explanation: &mut Explanation, event: Upcoming, guess: Guess) {
    match guess {
        Ok(span) if span.runs < u32::MAX => {
            let seconds = span.time.as_secs_f64();
            explanation.estimate = Some(Estimate { event, seconds, runs: span.runs });
        }
        Ok(_) => {}
        Err(why) => explanation.no_estimate = Some(why),
    }
}

/// What is left of one job, once it can begin.
fn own(run: &Run, ix: TaskIx, history: &History, now: Micros) -> Guess {
    let task = &run.tasks[ix];
    if task.ending.is_some() {
        return Ok(Span::NOTHING);
    }
    if task.position == Position::Held || task.hold.is_some() || run.hold.is_some() {
        return Err(format!("job \"{}\" is held", task.job));
    }
    // A mapped job is what its instances are.
    if task.spread.is_some() {
        return Ok(Span::NOTHING);
    }
    let usual = history.job(&run.project, &run.workflow, &task.job)?;
    match (task.position, task.attempt()) {
        (position, Some(attempt)) if position.is_live() => Ok(usual.less(now.since(attempt.started_at))),
        (Position::Cleaning, _) => Err(format!("job \"{}\" has failed and may be tried again", task.job)),
        (Position::Backoff, _) => {
            let pause = task.backoff_until.map_or(Duration::ZERO, |until| until.since(now));
            Ok(Span { time: pause + usual.time, ..usual })
        }
        _ => Ok(usual),
    }
}

/// When each job of a run is likely to be done.
fn ends(run: &Run, history: &History, now: Micros) -> Vec<Guess> {
    let mut ends: Vec<Guess> = vec![Ok(Span::NOTHING); run.tasks.len()];
    let mut order: Vec<TaskIx> = (0..run.tasks.len()).collect();
    // A job weighs more than those below it.
    order.sort_by_key(|ix| Reverse(run.graph.weight[*ix]));
    for ix in order {
        if run.tasks[ix].ending.is_none() {
            let before = parents(run, ix, &ends);
            ends[ix] = before.and_then(|before| Ok(own(run, ix, history, now)?.after(before)));
        }
    }
    ends
}

fn parents(run: &Run, ix: TaskIx, ends: &[Guess]) -> Guess {
    latest(run.graph.parents[ix].iter().map(|parent| ends[*parent].clone()))
}

/// When it is the turn of the one at a place of a queue for what others hold.
fn turn(holders: &[Holder], place: u32, ahead: &[Ahead], history: &History, now: Micros) -> Guess {
    let mut runs = u32::MAX;
    let mut free = BinaryHeap::new();
    for holder in holders {
        let unseen = || "who holds it is not known".to_owned();
        let Named { project, workflow, job, since, .. } = holder.is.as_ref().ok_or_else(unseen)?;
        let usual = history.job(project, workflow, &job.job())?;
        runs = runs.min(usual.runs);
        free.push(Reverse(usual.less(now.since(*since)).time));
    }
    let known = ahead.iter().map(|ahead| ahead.tasks).sum::<u32>();
    if known + 1 < place {
        return Err(format!("{} come before it", place - 1));
    }
    for group in ahead {
        let (Some(project), Some(workflow), Some(job)) = (&group.project, &group.workflow, &group.job) else {
            return Err("who comes before it is not known".to_owned());
        };
        let usual = history.job(project, workflow, &job.job())?;
        runs = runs.min(usual.runs);
        for _ in 0..group.tasks {
            let Some(Reverse(at)) = free.pop() else { break };
            free.push(Reverse(at + usual.time));
        }
    }
    match free.pop() {
        Some(Reverse(time)) => Ok(Span { time, runs }),
        None => Err("nobody holds it".to_owned()),
    }
}

/// Adds to an explanation what holders and those ahead are, as far as their runs are at hand.
pub fn name<'a>(explanation: &mut Explanation, find: impl Fn(RunId) -> Option<&'a Run>) {
    if let Why::WaitingForSlot { holders, .. } | Why::WaitingForLimit { holders, .. } = &mut explanation.why {
        for holder in holders {
            holder.is = find(holder.run).and_then(|run| named(run, holder.task));
        }
    }
    let mut groups: Vec<Ahead> = Vec::new();
    for (run, task) in std::mem::take(&mut explanation.behind) {
        let found = find(run).and_then(|run| Some((run, run.tasks.get(task)?)));
        let group = Ahead {
            project: found.map(|(run, _)| run.project.clone()),
            workflow: found.map(|(run, _)| run.workflow.clone()),
            job: found.map(|(_, task)| TaskName::from(&task.job)),
            tasks: 1,
        };
        let same = |other: &&mut Ahead| (&other.workflow, &other.job) == (&group.workflow, &group.job);
        match groups.last_mut().filter(same) {
            Some(last) if last.project == group.project => last.tasks += 1,
            _ => groups.push(group),
        }
    }
    explanation.ahead = groups;
}

fn named(run: &Run, ix: TaskIx) -> Option<Named> {
    let task = run.tasks.get(ix)?;
    let by = match &run.cause {
        Cause::Request { by } | Cause::OneOff { by } => Some(by.clone()),
        Cause::Schedule { .. } | Cause::Backfill { .. } | Cause::Job { .. } => None,
    };
    Some(Named {
        project: run.project.clone(),
        workflow: run.workflow.clone(),
        job: task.name(),
        by,
        owner: run.graph.jobs.get(ix)?.owner.clone(),
        since: task.attempt()?.started_at,
    })
}

/// Adds to the explanation of a run of a backfill how many come before it, and who has paused it.
pub fn place_in_backfill(explanation: &mut Explanation, backfill: &Backfill, progress: &Progress, index: u32) {
    if let Why::WaitingInBackfill { place, of, paused, .. } = &mut explanation.why {
        let left = backfill.sequence().split_off((progress.next as usize).min(backfill.total() as usize));
        *place = left.iter().position(|other| *other == index).map_or(0, |at| at as u32 + 1);
        *of = left.len() as u32;
        paused.clone_from(&progress.paused);
        if paused.is_some() {
            explanation.next = Some(format!("pinrail backfills resume {}", backfill.id.short()));
        }
    }
}
