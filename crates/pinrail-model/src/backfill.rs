//! Many runs of a workflow that were asked for together: one row that at once counts as its runs.
//!
//! Its runs are rows as all others, made in slices; their ids follow from the backfill's and their index, so that making
//! a slice again makes nothing twice, and that those which have no rows yet are known all the same. What of it may begin is
//! [`crate::admit`]'s to say.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::document::{ExecutorKind, ParamType, Sha};
use crate::ids::{BackfillId, RunId};
use crate::names::{JobName, ProjectName, WorkflowName};
use crate::run::{Cause, Class, Control, Graph, Pending, Run, RunState};
use crate::target::{Lane, Target};
use crate::time::{Interval, Micros};

/// Runs of one backfill at most: hourly intervals of more than a hundred years.
pub const MOST_RUNS: usize = 1_000_000;
/// Rows that are made in one transaction: others wait for it, for no longer than a few milliseconds.
pub const SLICE: u32 = 100;
/// Runs of a backfill that are active at once when nobody says how many.
pub const CONCURRENCY: u32 = 4;

/// What was asked for; changes only as a whole, by whoever edits it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Backfill {
    pub id: BackfillId,
    pub project: ProjectName,
    pub workflow: WorkflowName,
    /// The target of its runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Arc<Target>>,
    pub version: Sha,
    pub bundle: Sha,
    pub by: String,
    pub created_at: Micros,
    pub class: Class,
    pub tz: String,
    /// dbt-like selection of jobs; none: all.
    pub jobs: Option<String>,
    pub params: BTreeMap<String, Value>,
    pub param_types: BTreeMap<String, ParamType>,
    pub executors: BTreeMap<JobName, ExecutorKind>,
    /// Outputs of jobs that the selection leaves out, by index.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "by_index")]
    pub outside: BTreeMap<u32, BTreeMap<JobName, BTreeMap<String, Value>>>,
    pub order: Order,
    pub concurrency: u32,
    /// In order of time; a run's index is its place here.
    pub intervals: Vec<Interval>,
    /// Indexes whose work was found done when it was asked for; they make no runs.
    #[serde(default)]
    pub done_before: Vec<u32>,
}

/// Which runs begin first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    #[default]
    Newest,
    Oldest,
}

/// How far it is. Small, because it is written at each step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Places in the order of execution whose rows are as they should be.
    pub made: u32,
    /// Places whose rows exist, perhaps with parameters from before an edit.
    #[serde(default)]
    pub exist: u32,
    /// Runs that will have rows and have none yet.
    #[serde(default)]
    pub unmade: u32,
    /// Places in the order of execution that have begun or been passed over.
    pub next: u32,
    #[serde(default)]
    pub paused: Option<Control>,
    #[serde(default)]
    pub cancelled: Option<Control>,
    pub running: u32,
    pub succeeded: u32,
    pub failed: u32,
    /// Runs that were cancelled, before or after they began.
    pub stopped: u32,
    #[serde(default)]
    pub ended_at: Option<Micros>,
}

/// What a backfill is, derived from its progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BackfillState {
    Running,
    Paused,
    Succeeded,
    Failed,
    Cancelled,
}

impl BackfillState {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

impl Backfill {
    /// Where its runs mind each other.
    #[must_use]
    pub fn lane(&self) -> Lane {
        Lane::of(&self.project, &self.workflow, self.target.as_ref())
    }

    /// Runs that it makes.
    #[must_use]
    pub fn total(&self) -> u32 {
        (self.intervals.len() - self.done_before.len()) as u32
    }

    /// The indexes of its runs in the order in which they begin.
    #[must_use]
    pub fn sequence(&self) -> Vec<u32> {
        let mut done = self.done_before.iter().copied().peekable();
        let mut indexes: Vec<u32> = (0..self.intervals.len() as u32)
            .filter(|index| {
                let is_done = done.peek() == Some(index);
                if is_done {
                    done.next();
                }
                !is_done
            })
            .collect();
        if self.order == Order::Newest {
            indexes.reverse();
        }
        indexes
    }

    /// A run of a backfill whose turn is still to come.
    #[must_use]
    pub fn run(&self, index: u32) -> Run {
        Run {
            id: self.run_id(index),
            project: self.project.clone(),
            workflow: self.workflow.clone(),
            target: self.target.clone(),
            class: self.class,
            cause: Cause::Backfill { id: self.id, index },
            interval: self.intervals[index as usize],
            tz: self.tz.clone(),
            params: self.params.clone(),
            param_types: self.param_types.clone(),
            bundle: self.bundle,
            version: self.version,
            created_at: self.created_at,
            started_at: None,
            ended_at: None,
            stop: None,
            pending: Some(Pending::Backfill),
            hold: None,
            jobs: self.jobs.clone(),
            replay_of: None,
            outside: self.outside.get(&index).cloned().unwrap_or_default(),
            executors: self.executors.clone(),
            notify: None,
            tasks: Vec::new(),
            graph: Arc::new(Graph::default()),
            open: Default::default(),
        }
    }

    #[must_use]
    pub fn run_id(&self, index: u32) -> RunId {
        run_id(self.id, self.created_at, index)
    }

    /// The runs that have no rows yet, in the order of their ids.
    #[must_use]
    pub fn unmade(&self, progress: &Progress) -> Unmade<'_> {
        let mut indexes = self.sequence();
        indexes.drain(..indexes.len().saturating_sub(progress.unmade as usize));
        indexes.sort_unstable();
        Unmade { backfill: self, indexes }
    }

    #[must_use]
    pub fn state(&self, progress: &Progress) -> BackfillState {
        let ended = progress.succeeded + progress.failed + progress.stopped;
        let over = ended >= self.total();
        match (over, &progress.cancelled, &progress.paused) {
            // Rows that were not made when it was cancelled never will be; a run that is retried is queued at first.
            (_, Some(_), _) if ended >= progress.rows() => BackfillState::Cancelled,
            (_, Some(_), _) => BackfillState::Running,
            (true, ..) if progress.failed > 0 => BackfillState::Failed,
            (true, ..) if progress.succeeded == 0 && progress.stopped > 0 => BackfillState::Cancelled,
            (true, ..) => BackfillState::Succeeded,
            (false, _, Some(_)) => BackfillState::Paused,
            (false, ..) => BackfillState::Running,
        }
    }
}

/// Runs of a backfill that have no rows yet.
#[derive(Debug)]
pub struct Unmade<'a> {
    backfill: &'a Backfill,
    indexes: Vec<u32>,
}

impl Unmade<'_> {
    /// The one with an id.
    #[must_use]
    pub fn find(&self, id: RunId) -> Option<Run> {
        let found = self.indexes.binary_search_by_key(&id, |index| self.backfill.run_id(*index)).ok()?;
        Some(self.backfill.run(self.indexes[found]))
    }

    /// Those with ids before one, or all of them, the last first.
    pub fn before(&self, id: Option<RunId>) -> impl Iterator<Item = Run> {
        let end = id.map_or(self.indexes.len(), |id| self.indexes.partition_point(|ix| self.backfill.run_id(*ix) < id));
        self.indexes[..end].iter().rev().map(|index| self.backfill.run(*index))
    }
}

impl Progress {
    /// Of a backfill that was just asked for.
    #[must_use]
    pub fn begin(backfill: &Backfill) -> Self {
        Self { unmade: backfill.total(), ..Self::default() }
    }

    /// Nothing more of it begins, and no more rows are made.
    pub fn cancel(&mut self, control: &Control) {
        self.cancelled = Some(control.clone());
        self.unmade = 0;
    }

    /// Places whose runs have rows, whatever their parameters.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.exist.max(self.made)
    }

    /// Of the indexes in the order of execution, those whose runs have rows and have not had their turn.
    #[must_use]
    pub fn dormant<'a>(&self, sequence: &'a [u32]) -> &'a [u32] {
        let (next, rows) = (self.next as usize, self.rows() as usize);
        &sequence[next..rows.max(next)]
    }

    /// The next indexes whose rows are to be made, each with whether it has a row already, perhaps with parameters from
    /// before an edit. They count as made from now on.
    pub fn next_slice(&mut self, backfill: &Backfill, sequence: &[u32], most: u32) -> Vec<(u32, bool)> {
        let total = backfill.total();
        if self.made >= total || self.cancelled.is_some() {
            return Vec::new();
        }
        let (first, until) = (self.made, (self.made + most).min(total));
        let places = sequence.iter().zip(0_u32..).skip(first as usize).take((until - first) as usize);
        let slice = places.map(|(index, place)| (*index, place < self.exist)).collect();
        self.made = until;
        self.exist = self.exist.max(until);
        self.unmade = total - self.exist;
        slice
    }

    /// Takes note that one of its runs went from one state to another.
    pub fn follow(&mut self, before: RunState, after: RunState) {
        if before == after {
            return;
        }
        for (state, by) in [(before, -1_i64), (after, 1)] {
            let count = match state {
                RunState::Queued => continue,
                RunState::Running => &mut self.running,
                RunState::Succeeded => &mut self.succeeded,
                RunState::Failed => &mut self.failed,
                RunState::Cancelled => &mut self.stopped,
            };
            *count = u32::try_from(i64::from(*count) + by).unwrap_or(0);
        }
    }
}

/// The id of a run of a backfill: as old as the backfill, in the order of its intervals, its last characters as different
/// as those of other runs.
#[must_use]
pub fn run_id(backfill: BackfillId, created_at: Micros, index: u32) -> RunId {
    let digest = |text: String| Sha256::digest(text);
    let family = digest(backfill.to_string());
    let own = digest(format!("{backfill} {index}"));
    let mut random: u128 = 0;
    for byte in &family[..5] {
        random = random << 8 | u128::from(*byte);
    }
    // Up to 2^24 indexes are more than there may be.
    random = random << 24 | u128::from(index & 0x00ff_ffff);
    for byte in &own[..2] {
        random = random << 8 | u128::from(*byte);
    }
    RunId::from_parts(u64::try_from(created_at.0 / 1000).unwrap_or(0), random)
}

/// Reads what is keyed by index. As a part of a tagged value its keys are texts, as those of all JSON are.
fn by_index<'de, D: Deserializer<'de>, T: Deserialize<'de>>(input: D) -> Result<BTreeMap<u32, T>, D::Error> {
    let texts = BTreeMap::<String, T>::deserialize(input)?;
    let indexes = texts.into_iter().map(|(key, value)| Ok((key.parse().map_err(D::Error::custom)?, value)));
    indexes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seam::store::CommandKind;

    fn backfill(count: i64, done_before: Vec<u32>, order: Order) -> Backfill {
        let day = 86_400_000_000;
        Backfill {
            id: BackfillId::from_parts(7, 7),
            project: "p".parse().unwrap(),
            workflow: "w".parse().unwrap(),
            target: None,
            version: Sha::of(b""),
            bundle: Sha::of(b""),
            by: "anna".to_owned(),
            created_at: Micros(7_000_000),
            class: Class::Backfill,
            tz: "UTC".to_owned(),
            jobs: None,
            params: BTreeMap::new(),
            param_types: BTreeMap::new(),
            executors: BTreeMap::new(),
            outside: BTreeMap::new(),
            order,
            concurrency: CONCURRENCY,
            intervals: (0..count).map(|ix| Interval { start: Micros(ix * day), end: Micros((ix + 1) * day) }).collect(),
            done_before,
        }
    }

    #[test]
    fn ids_follow_from_backfill_and_index_and_sort_by_it() {
        let one = backfill(100, vec![], Order::Newest);
        let ids: Vec<RunId> = (0..100).map(|index| one.run_id(index)).collect();
        assert!(ids.is_sorted());
        assert_eq!(ids[3], one.run_id(3));
        let endings: std::collections::BTreeSet<String> = ids.iter().map(RunId::short).collect();
        assert_eq!(endings.len(), 100);
    }

    #[test]
    fn outputs_of_jobs_that_are_left_out_are_read_as_they_were_written() {
        let outputs = BTreeMap::from([("a".parse().unwrap(), BTreeMap::from([("n".to_owned(), Value::from(3))]))]);
        let outside = BTreeMap::from([(0, outputs.clone()), (12, outputs)]);
        let asked = Backfill { outside, ..backfill(20, vec![], Order::Newest) };
        let text = serde_json::to_string(&CommandKind::CreateBackfill(Box::new(asked.clone()))).unwrap();
        match serde_json::from_str(&text).unwrap() {
            CommandKind::CreateBackfill(read) => assert_eq!(*read, asked),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_done_before_makes_no_runs() {
        assert_eq!(backfill(5, vec![1, 4], Order::Oldest).sequence(), [0, 2, 3]);
        assert_eq!(backfill(5, vec![1, 4], Order::Newest).sequence(), [3, 2, 0]);
        assert_eq!(backfill(5, vec![1, 4], Order::Newest).total(), 3);
    }

    #[test]
    fn runs_without_rows_are_known_by_their_ids() {
        for order in [Order::Newest, Order::Oldest] {
            let five = backfill(5, vec![3], order);
            let mut progress = Progress::begin(&five);
            let ids = |progress: &Progress, before| -> Vec<RunId> {
                five.unmade(progress).before(before).map(|run| run.id).collect()
            };
            let all: Vec<RunId> = [4, 2, 1, 0].map(|index| five.run_id(index)).to_vec();
            assert_eq!(ids(&progress, None), all);
            assert_eq!(ids(&progress, Some(all[1])), all[2..]);
            progress.next_slice(&five, &five.sequence(), 3);
            let (made, left) = match order {
                Order::Newest => (4, 0),
                Order::Oldest => (0, 4),
            };
            assert_eq!(ids(&progress, None), [five.run_id(left)]);
            let unmade = five.unmade(&progress);
            assert_eq!(unmade.find(five.run_id(left)).map(|run| run.id), Some(five.run_id(left)));
            assert!(unmade.find(five.run_id(made)).is_none() && unmade.find(five.run_id(3)).is_none());
            progress.next_slice(&five, &five.sequence(), 3);
            assert_eq!((progress.unmade, ids(&progress, None)), (0, vec![]));
        }
    }

    #[test]
    fn its_state_follows_from_its_progress() {
        let three = backfill(3, vec![], Order::Oldest);
        let mut progress = Progress::default();
        assert_eq!(three.state(&progress), BackfillState::Running);
        progress.next = 3;
        for _ in 0..3 {
            progress.follow(RunState::Queued, RunState::Running);
        }
        progress.follow(RunState::Running, RunState::Succeeded);
        progress.follow(RunState::Running, RunState::Failed);
        assert_eq!(three.state(&progress), BackfillState::Running);
        progress.follow(RunState::Running, RunState::Succeeded);
        assert_eq!(three.state(&progress), BackfillState::Failed);
        // A failed run that is retried and succeeds is all that was missing.
        progress.follow(RunState::Failed, RunState::Running);
        assert_eq!(three.state(&progress), BackfillState::Running);
        progress.follow(RunState::Running, RunState::Succeeded);
        assert_eq!(three.state(&progress), BackfillState::Succeeded);
        assert_eq!((progress.running, progress.succeeded, progress.failed), (0, 3, 0));
    }
}
