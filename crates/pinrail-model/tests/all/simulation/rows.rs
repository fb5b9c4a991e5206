//! What a simulated store has: rows that are durable, rows that will be, and what a death leaves of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use pinrail_model::admit::Scope;
use pinrail_model::backfill::{Backfill, Progress};
use pinrail_model::document::{Document, Sha};
use pinrail_model::ids::{BackfillId, CommandId, RunId};
use pinrail_model::names::ProjectName;
use pinrail_model::run::{Attempt, Cause, Control, Graph, Outcome, Pending, Run, RunState, Task, TaskIx};
use pinrail_model::seam::store::{LimitName, Write};
use pinrail_model::simulation::Change;
use pinrail_model::target::Lane;
use pinrail_model::trigger::Trigger;

type Documents = BTreeMap<Sha, Arc<Document>>;
/// Fire times of a trigger that are looked at when its row changes.
const MOST_FIRES: usize = 10_000;

/// Rows as they are at one moment.
#[derive(Clone, Default)]
pub struct Rows {
    pub runs: BTreeMap<RunId, StoredRun>,
    pub triggers: BTreeMap<Lane, Trigger>,
    pub backfills: BTreeMap<BackfillId, (Backfill, Progress)>,
    pub holds: BTreeMap<Scope, Control>,
    pub limits: BTreeMap<(ProjectName, LimitName), u32>,
    pub answered: BTreeSet<CommandId>,
    keys: BTreeMap<String, RunId>,
    fires: BTreeMap<Lane, BTreeSet<pinrail_model::time::Micros>>,
}

/// A run's row and those of its tasks.
#[derive(Clone)]
pub struct StoredRun {
    /// Without its tasks.
    pub row: Arc<Run>,
    pub state: RunState,
    pub tasks: Vec<Arc<Task>>,
}

/// One transition.
#[derive(Clone)]
pub enum Transition {
    Run { id: RunId, row: Option<Arc<Run>>, state: RunState, key: Option<String>, tasks: Vec<(TaskIx, Arc<Task>)> },
    Write(Arc<Write>),
}

impl Transition {
    /// The rows that a change of a run comes to: only those that it says it touched.
    pub fn of(run: &Run, change: &Change) -> Self {
        let row =
            change.fx.run_touched.then(|| Arc::new(Run { tasks: Vec::new(), graph: Arc::default(), ..run.clone() }));
        let tasks = change.fx.touched.iter().filter_map(|ix| Some((*ix, Arc::clone(run.tasks.get(*ix)?))));
        Self::Run { id: run.id, row, state: run.state(), key: change.unique_key.clone(), tasks: tasks.collect() }
    }
}

impl Rows {
    /// The run that has a key already.
    pub fn who_has(&self, key: &str, but: RunId) -> Option<RunId> {
        self.keys.get(key).copied().filter(|has| *has != but)
    }

    /// Makes a transition true.
    ///
    /// # Errors
    /// What must never be written, whatever happens.
    pub fn apply(&mut self, transition: &Transition) -> Result<(), String> {
        match transition {
            Transition::Run { id, row, state, key, tasks } => {
                if let Some(key) = key {
                    self.keys.insert(key.clone(), *id);
                }
                if let Some(row) = row {
                    if let Cause::Schedule { fire_at } = row.cause {
                        self.fires.entry(row.lane()).or_default().insert(fire_at);
                    }
                    let empty = || StoredRun { row: Arc::clone(row), state: *state, tasks: Vec::new() };
                    let stored = self.runs.entry(*id).or_insert_with(empty);
                    stored.row = Arc::clone(row);
                    stored.state = *state;
                }
                let stored = self.runs.get_mut(id).ok_or_else(|| format!("run {id} has tasks and no row"))?;
                for (ix, task) in tasks {
                    if *ix == stored.tasks.len() {
                        stored.tasks.push(Arc::clone(task));
                    } else {
                        let old =
                            stored.tasks.get_mut(*ix).ok_or_else(|| format!("task {ix} of run {id} has no row"))?;
                        follows(old, task).map_err(|why| format!("task {ix} of run {id}: {why}"))?;
                        *old = Arc::clone(task);
                    }
                }
                Ok(())
            }
            Transition::Write(write) => self.write(write),
        }
    }

    fn write(&mut self, write: &Write) -> Result<(), String> {
        match write {
            Write::Run(row) => {
                let run = Arc::new(row.run.clone());
                let state = run.state();
                self.runs.insert(run.id, StoredRun { row: run, state, tasks: Vec::new() });
            }
            Write::CommandReply { command, .. } => {
                if !self.answered.insert(*command) {
                    return Err(format!("command {command} was answered twice"));
                }
            }
            Write::Trigger(trigger) => {
                let key = trigger.lane();
                if let Some(old) = self.triggers.get(&key) {
                    self.accounts_for(&key, old, trigger)?;
                }
                self.triggers.insert(key, trigger.as_ref().clone());
            }
            Write::DropTrigger(lane) => {
                self.triggers.remove(lane);
            }
            Write::Backfill(row) => {
                self.backfills.insert(row.backfill.id, (row.backfill.clone(), row.progress.clone()));
            }
            Write::Progress { id, progress, .. } => {
                let row = self.backfills.get_mut(id).ok_or_else(|| format!("backfill {id} has progress and no row"))?;
                row.1 = progress.as_ref().clone();
            }
            Write::Hold { scope, control } => match control {
                Some(control) => {
                    self.holds.insert(scope.clone(), control.clone());
                }
                None => {
                    self.holds.remove(scope);
                }
            },
            Write::Limit { project, name, set } => match set {
                Some(set) => {
                    self.limits.insert((project.clone(), name.clone()), set.value);
                }
                None => {
                    self.limits.remove(&(project.clone(), name.clone()));
                }
            },
            other => return Err(format!("nobody expects the row {other:?}")),
        }
        Ok(())
    }

    /// Each fire time that a trigger has dealt with is a run, or was passed over with a reason.
    fn accounts_for(&self, key: &Lane, old: &Trigger, new: &Trigger) -> Result<(), String> {
        if new.done_until < old.done_until {
            return Err(format!(
                "the schedule of {} goes back from {} to {}",
                key.workflow, old.done_until, new.done_until
            ));
        }
        let passed = |trigger: &Trigger| trigger.passed.iter().map(|passed| passed.count as usize).sum::<usize>();
        // Of a longer list the oldest have been forgotten.
        if new.passed.len() >= 20 || new.done_until == old.done_until {
            return Ok(());
        }
        let due = old.schedule.fires_between(old.done_until, new.done_until, MOST_FIRES)?;
        let fired = self.fires.get(key);
        let made = due.iter().filter(|at| fired.is_some_and(|fired| fired.contains(at))).count();
        let left_out = passed(new).checked_sub(passed(old)).ok_or("passed-over fire times were forgotten")?;
        if due.len() == made + left_out {
            return Ok(());
        }
        Err(format!(
            "the schedule of {} dealt with {} fire times after {} until {}: {made} runs, {left_out} passed over",
            key.workflow,
            due.len(),
            old.done_until,
            new.done_until
        ))
    }

    /// Runs that are under way, without those of backfills whose turn is still to come.
    pub fn unfinished(&self) -> impl Iterator<Item = RunId> + '_ {
        let open = |stored: &StoredRun| !stored.state.is_final() && stored.row.pending != Some(Pending::Backfill);
        self.runs.iter().filter(move |(_, stored)| open(stored)).map(|(id, _)| *id)
    }

    /// A run as its owner reads it: from rows that were text in between.
    ///
    /// # Panics
    /// When a row cannot be read back, which is a fault in the core.
    pub fn load(&self, id: RunId, documents: &Documents, as_text: bool) -> Option<Run> {
        let stored = self.runs.get(&id)?;
        let mut run = if as_text { through_text::<Run>(&stored.row) } else { stored.row.as_ref().clone() };
        let task = |task: &Arc<Task>| {
            if !as_text {
                return Arc::clone(task);
            }
            let mut read: Task = through_text(task);
            read.attempts = task.attempts.iter().map(|attempt| Arc::new(through_text::<Attempt>(attempt))).collect();
            Arc::new(read)
        };
        let tasks: Vec<Arc<Task>> = stored.tasks.iter().map(task).collect();
        if run.pending.is_some() {
            return Some(run);
        }
        let graph = |version: &Sha| {
            let document = documents.get(version)?;
            Some(Graph::of(&document.jobs, tasks.iter().map(|task| task.node())).ok()?.limited(document.concurrency))
        };
        let mut whole = graph(&run.version)?;
        let others: BTreeSet<Sha> = tasks.iter().map(|task| task.version).filter(|v| *v != run.version).collect();
        for version in others {
            let places = tasks.iter().enumerate().filter(|(_, task)| task.version == version).map(|(ix, _)| ix);
            whole = whole.with_jobs_of(&graph(&version)?, places);
        }
        run.graph = Arc::new(whole);
        run.tasks = tasks;
        Some(run)
    }
}

fn through_text<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    let text = serde_json::to_string(value).expect("a row is JSON");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("a row cannot be read back: {error}: {text}"))
}

/// Whether a task's row may follow another.
fn follows(old: &Arc<Task>, new: &Arc<Task>) -> Result<(), String> {
    if Arc::ptr_eq(old, new) {
        return Ok(());
    }
    if new.epoch < old.epoch || new.generation < old.generation {
        return Err(format!("its epoch or generation went back from {} to {}", old.epoch, new.epoch));
    }
    if new.attempts.len() < old.attempts.len() {
        return Err("an attempt has vanished".to_owned());
    }
    for (before, after) in old.attempts.iter().zip(&new.attempts) {
        if Arc::ptr_eq(before, after) {
            continue;
        }
        if before.id != after.id || before.outcome.is_some() && before.outcome != after.outcome {
            return Err(format!("attempt {} has changed its outcome", before.number));
        }
    }
    let succeeded =
        |attempt: &&Arc<Attempt>| attempt.generation == new.generation && attempt.outcome == Some(Outcome::Succeeded);
    if new.attempts.iter().filter(succeeded).count() > 1 {
        return Err("it was published twice in one generation".to_owned());
    }
    Ok(())
}

/// A store: what its owner sees, and what would be there after a death.
#[derive(Default)]
pub struct Store {
    pub seen: Rows,
    pub durable: Rows,
    behind: VecDeque<Vec<Transition>>,
}

impl Store {
    /// Commits a call's transitions; what was committed behind before it becomes durable with a waited one.
    ///
    /// # Errors
    /// What must never be written.
    pub fn commit(&mut self, transitions: Vec<Transition>, waited: bool) -> Result<(), String> {
        for transition in &transitions {
            self.seen.apply(transition)?;
        }
        self.behind.push_back(transitions);
        if waited {
            self.sync(usize::MAX)?;
        }
        Ok(())
    }

    fn sync(&mut self, calls: usize) -> Result<(), String> {
        for _ in 0..calls {
            let Some(transitions) = self.behind.pop_front() else { break };
            for transition in &transitions {
                self.durable.apply(transition)?;
            }
        }
        Ok(())
    }

    /// The server is gone: of what was not durable, a part is kept, in order.
    ///
    /// # Errors
    /// What must never be written.
    pub fn die(&mut self, keeps: u8) -> Result<(), String> {
        self.sync(usize::from(keeps) % (self.behind.len() + 1))?;
        self.behind.clear();
        self.seen = self.durable.clone();
        Ok(())
    }
}
