//! The steps of an owner, without the waiting: the driver commits what [`Owner::seal`] gives and says so with
//! [`Owner::conclude`], which answers with the work that may begin.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::admit::{Admitted, LimitId, Scope, Shard, admit};
use crate::backfill::{Backfill, Progress, SLICE};
use crate::document::{Document, Sha};
use crate::ids::{AttemptId, BackfillId, RunId};
use crate::names::{ProjectName, WorkflowName};
use crate::run::{
    Cause, Control, Effects, Event, Graph, Loss, NewCode, Pending, Refused, Run, RunState, Stop, TaskIx, Timer, Work,
    apply, beside,
};
use crate::seam::lake::Written;
use crate::seam::store::{
    Activation, BackfillChange, BackfillRow, Code, Command, CommandKind, LimitName, LimitSet, NewRun, RunRow, Write,
};
use crate::target::{Lane, name_of};
use crate::time::{Micros, Now};
use crate::trigger::{Fire, PassedOver, Trigger};

/// When, on the monotonic clock, which task, in which epoch, and what for.
type Alarm = (Duration, RunId, TaskIx, u64, Timer);

/// Runs that are made of fire times in one turn at most.
const MOST_FIRED: usize = 4096;
/// Decisions of admission in one turn that no shard comes to honestly.
const MOST_ADMITTED: usize = 1_000_000;

/// What surrounds the owner: clocks, chance, and what is stored.
pub trait Surroundings {
    fn now(&self) -> Now;
    /// 80 random bits, never the same twice.
    fn random(&mut self) -> u128;
    fn document(&self, version: Sha) -> Option<Arc<Document>>;
    /// The graph of a pending run; by default that of its document.
    fn graph(&mut self, run: &Run) -> Option<Arc<Graph>> {
        Graph::of_document(self.document(run.version)?.as_ref(), run.jobs.as_deref()).ok().map(Arc::new)
    }
    /// A run as it is stored.
    fn stored(&self, run: RunId) -> Option<Run>;
    fn stored_backfill(&self, id: BackfillId) -> Option<(Backfill, Progress)>;
    /// Whether the attempt of a task wrote no table.
    fn has_nothing_to_publish(&self, run: &Run, task: TaskIx) -> bool;
    /// Whether every event is to be seen; seeing costs a copy of the run.
    fn sees(&self) -> bool {
        false
    }
    fn see(&mut self, _seen: &Seen<'_>) {}
}

/// An event and what it did.
pub struct Seen<'a> {
    pub before: &'a Run,
    pub after: &'a Run,
    pub event: &'a Event,
    pub result: &'a Result<(), Refused>,
    pub fx: &'a Effects,
    /// As it was when the event came.
    pub shard: &'a Shard,
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub String);

/// What was decided and is to be stored.
#[derive(Debug, Default)]
pub struct Batch {
    pub changes: BTreeMap<RunId, Change>,
    /// What follows from the changes of runs and from commands, in a transition after those.
    pub writes: Vec<Write>,
    /// The answer to a command: with the one change that it came to, else with what follows.
    pub reply: Option<Write>,
    /// Whether work may begin only when it is durable.
    pub durable: bool,
    triggers: BTreeSet<Lane>,
    backfills: BTreeSet<BackfillId>,
}

/// What became of one run.
#[derive(Debug, Default)]
pub struct Change {
    pub fx: Effects,
    /// At most one run may have it: what makes a fire time one run.
    pub unique_key: Option<String>,
    /// The run as it was before a publication that may be refused.
    pub before: Option<Box<Run>>,
}

impl Batch {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
            && self.writes.is_empty()
            && self.reply.is_none()
            && self.triggers.is_empty()
            && self.backfills.is_empty()
    }
}

/// A backfill that is not over, in memory.
pub struct Filling {
    pub backfill: Backfill,
    pub progress: Progress,
    /// Indexes in the order in which they begin.
    sequence: Vec<u32>,
}

/// An owner of a shard.
pub struct Owner<S> {
    pub around: S,
    pub runs: BTreeMap<RunId, Run>,
    pub shard: Shard,
    pub triggers: BTreeMap<Lane, Trigger>,
    pub backfills: BTreeMap<BackfillId, Filling>,
    /// Backfills whose next rows are to be made.
    pub fills: VecDeque<BackfillId>,
    /// Where admission and a run disagreed; always empty in a correct core.
    pub disagreements: Vec<String>,
    timers: BinaryHeap<Reverse<Alarm>>,
    wheel: BinaryHeap<Reverse<(Micros, Lane)>>,
    batch: Batch,
}

impl<S: Surroundings> Owner<S> {
    #[must_use]
    pub fn new(around: S) -> Self {
        Self {
            around,
            runs: BTreeMap::new(),
            shard: Shard::default(),
            triggers: BTreeMap::new(),
            backfills: BTreeMap::new(),
            fills: VecDeque::new(),
            disagreements: Vec::new(),
            timers: BinaryHeap::new(),
            wheel: BinaryHeap::new(),
            batch: Batch::default(),
        }
    }

    // Time.

    /// When there is something to do next on either clock: a timer's monotonic time, a schedule's wall time.
    #[must_use]
    pub fn next_due(&self) -> (Option<Duration>, Option<Micros>) {
        (self.timers.peek().map(|Reverse((due, ..))| *due), self.wheel.peek().map(|Reverse((due, ..))| *due))
    }

    /// Applies what timers and schedules say is due.
    pub fn wake(&mut self) {
        self.ring();
        self.fire();
    }

    fn ring(&mut self) {
        let now = self.around.now().mono;
        while let Some(Reverse((due, run, task, epoch, timer))) = self.timers.peek().copied() {
            if due > now {
                return;
            }
            self.timers.pop();
            // A timer of an earlier epoch has become pointless.
            let _ = self.apply(run, &Event::Elapsed { task, epoch, timer });
        }
    }

    fn fire(&mut self) {
        let now = self.around.now().wall;
        let mut fired = 0;
        while let Some(Reverse((due, key))) = self.wheel.peek().cloned() {
            if due > now || fired >= MOST_FIRED {
                return;
            }
            self.wheel.pop();
            let Some(trigger) = self.triggers.get_mut(&key) else { continue };
            // It has changed since, and has another entry.
            if trigger.due_at() != Some(due) {
                continue;
            }
            let fires = trigger.advance(now);
            fired += fires.len();
            for fire in fires {
                self.make(&key, fire);
            }
            self.batch.triggers.insert(key.clone());
            self.turn_wheel(&key);
        }
    }

    fn turn_wheel(&mut self, key: &Lane) {
        if let Some(due) = self.triggers.get(key).and_then(Trigger::due_at) {
            self.wheel.push(Reverse((due, key.clone())));
        }
    }

    fn make(&mut self, key: &Lane, fire: Fire) {
        let Some(trigger) = self.triggers.get_mut(key) else { return };
        let outcome = self.shard.on_fire(key, trigger.overrun);
        if let Some(run) = outcome.passed_over {
            trigger.pass(&[fire.at], PassedOver::Overrun { run });
            return;
        }
        let now = self.around.now().wall;
        let id = run_id(now, self.around.random());
        let (run, unique_key) = (trigger.run(fire, id, now), trigger.run_key(fire.at));
        for run in outcome.stopped {
            let reason = Some(format!("the fire time {} came, and overrun is abort-running", fire.at));
            // One that has ended meanwhile needs no stop.
            let _ = self.apply(run, &Event::Stop { task: None, by: "schedule".to_owned(), reason });
        }
        self.runs.insert(id, run);
        self.batch.changes.entry(id).or_default().unique_key = Some(unique_key);
        let _ = self.apply(id, &Event::Created);
    }

    // Events.

    /// Applies an event in memory; what it means for the store and the world waits in the batch.
    ///
    /// # Errors
    /// What the run refuses; nothing has changed then.
    pub fn apply(&mut self, id: RunId, event: &Event) -> Result<(), Refused> {
        let Some(run) = self.runs.get_mut(&id) else { return Err(Refused::Stale) };
        let now = self.around.now();
        let state = run.state();
        let before = self.around.sees().then(|| run.clone());
        let mut fx = Effects::default();
        let result = apply(run, event, now, &mut fx);
        if let Some(before) = before {
            let shard = &self.shard;
            self.around.see(&Seen { before: &before, after: run, event, result: &result, fx: &fx, shard });
        }
        result?;
        if fx.run_touched {
            self.shard.follow_run(run);
        }
        self.shard.follow(run, fx.touched.iter().copied());
        let after = run.state();
        // An attempt that wrote no table is published in the same transaction in which it completed.
        let mut at_once = Vec::new();
        let around = &self.around;
        fx.work.retain(|work| match work {
            Work::Publish { task, epoch } if around.has_nothing_to_publish(run, *task) => {
                at_once.push((*task, *epoch));
                false
            }
            _ => true,
        });
        self.batch.durable |= fx.durable;
        self.batch.changes.entry(id).or_default().fx.add(fx);
        if state != after {
            self.run_moved(id, state, after);
        }
        for (task, epoch) in at_once {
            let _ = self.apply(id, &Event::Published { task, epoch, written: Vec::new() });
        }
        Ok(())
    }

    /// Applies a publication that the store may refuse. What was decided before must have been committed.
    ///
    /// # Errors
    /// When the attempt is no longer the task's.
    pub fn publish(&mut self, id: RunId, task: TaskIx, epoch: u64, written: Vec<Written>) -> Result<(), Refused> {
        let before = self.runs.get(&id).map(|run| Box::new(run.clone()));
        self.apply(id, &Event::Published { task, epoch, written })?;
        self.batch.changes.entry(id).or_default().before = before;
        Ok(())
    }

    fn run_moved(&mut self, id: RunId, before: RunState, after: RunState) {
        let Some(run) = self.runs.get(&id) else { return };
        match run.cause {
            Cause::Schedule { .. } if after.is_final() => {
                let key = run.lane();
                let failed = self.shard.failed(&key);
                if let Some(trigger) = self.triggers.get_mut(&key)
                    && trigger.failed != failed
                {
                    trigger.failed = failed;
                    self.batch.triggers.insert(key);
                }
            }
            Cause::Backfill { id, .. } => {
                let now = self.around.now().wall;
                if let Some(filling) = self.backfills.get_mut(&id) {
                    filling.progress.follow(before, after);
                    let over = filling.backfill.state(&filling.progress).is_final();
                    filling.progress.ended_at = over.then_some(now);
                    self.shard.follow_backfill(&filling.backfill, &filling.progress);
                    self.batch.backfills.insert(id);
                }
            }
            _ => {}
        }
    }

    // Batches.

    /// Whether nothing was decided since the last [`Owner::seal`].
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.batch.is_empty()
    }

    /// Whether the publication of a run is decided and not committed: the run takes no further events before it is.
    #[must_use]
    pub fn is_publishing(&self, run: RunId) -> bool {
        self.batch.changes.get(&run).is_some_and(|change| change.before.is_some())
    }

    /// Lets admission decide and gives what is to be committed.
    pub fn seal(&mut self) -> Batch {
        self.admit();
        let mut batch = std::mem::take(&mut self.batch);
        let triggers = batch.triggers.iter().filter_map(|key| self.triggers.get(key));
        batch.writes.extend(triggers.map(|trigger| Write::Trigger(Box::new(trigger.clone()))));
        let backfills = batch.backfills.iter().filter_map(|id| self.backfills.get(id));
        batch.writes.extend(backfills.map(Filling::progress_row));
        batch.durable |= !batch.writes.is_empty() || batch.reply.is_some();
        batch
    }

    fn admit(&mut self) {
        for _ in 0..MOST_ADMITTED {
            let Some(admitted) = admit(&mut self.shard) else { return };
            let (run, event) = match admitted {
                Admitted::Grant { run, task, session } => (run, Event::Granted { task, session }),
                Admitted::Claim { run, task, session } => {
                    let Some(held) = self.runs.get(&run) else {
                        self.disagreements.push(format!("admission names run {run}, which is not there"));
                        return;
                    };
                    let executor = held.executor(task);
                    let millis = millis(self.around.now().wall);
                    let attempt = AttemptId::from_parts(millis, self.around.random());
                    (run, Event::Claimed { task, attempt, session, executor })
                }
                Admitted::Begin { run } => {
                    let graph = self.runs.get(&run).and_then(|held| self.around.graph(held));
                    (run, graph.map_or_else(impossible, |graph| Event::Admitted { graph }))
                }
                Admitted::Advance { backfill } => {
                    self.advance(backfill);
                    continue;
                }
            };
            if let Err(error) = self.apply(run, &event) {
                self.disagreements.push(format!("admission and run {run} disagree about {event:?}: {error}"));
                return;
            }
        }
        self.disagreements.push("admission does not come to an end".to_owned());
    }

    /// The batch is committed, but for publications of these runs, whose pointers had moved. Gives what may begin; timers
    /// are set here, and what is over is forgotten.
    pub fn conclude(&mut self, batch: Batch, conflicts: &BTreeSet<RunId>) -> Vec<(RunId, Work)> {
        let now = self.around.now().mono;
        let mut begin = Vec::new();
        for (id, change) in batch.changes {
            if let (true, Some(before)) = (conflicts.contains(&id), change.before) {
                self.shard.follow_back(&before, self.runs.get(&id));
                self.runs.insert(id, *before);
                continue;
            }
            let Some(run) = self.runs.get(&id) else { continue };
            for work in change.fx.work.into_iter().filter(|work| run.still_wants(work)) {
                match work {
                    Work::Set { task, epoch, timer, after } => {
                        self.timers.push(Reverse((now.saturating_add(after), id, task, epoch, timer)));
                    }
                    work => begin.push((id, work)),
                }
            }
            if run.state().is_final()
                && let Some(run) = self.runs.remove(&id)
            {
                self.shard.forget(&run);
            }
        }
        for id in batch.backfills {
            if self.backfills.get(&id).is_some_and(|f| f.backfill.state(&f.progress).is_final()) {
                self.backfills.remove(&id);
            }
        }
        begin
    }

    /// The run exists already under its key: it never was.
    pub fn leave_existing(&mut self, id: RunId) {
        if let Some(run) = self.runs.remove(&id) {
            self.shard.forget(&run);
        }
    }

    // Workers.

    /// A worker is gone with all that it held.
    pub fn lose_session(&mut self, id: crate::ids::SessionId) {
        let mut held: Vec<_> = self.shard.of_session(id).collect();
        held.sort_unstable();
        self.shard.part(id);
        self.lose(&held, Loss::Session);
    }

    /// What worked on these tasks is gone.
    pub fn lose(&mut self, tasks: &[(RunId, TaskIx)], by: Loss) {
        for (run, task) in tasks {
            let Some(epoch) = self.runs.get(run).and_then(|run| run.tasks.get(*task)).map(|task| task.epoch) else {
                continue;
            };
            // One that has gone on meanwhile is not lost.
            let _ = self.apply(*run, &Event::Lost { task: *task, epoch, by });
        }
    }

    // Recovery.

    /// Takes over what is unfinished. Gives what may begin at once: looks at conditions.
    pub fn recover(
        &mut self,
        runs: Vec<Run>,
        holds: Vec<(Scope, Control)>,
        limits: Vec<(ProjectName, LimitName, u32)>,
        triggers: Vec<Trigger>,
        backfills: Vec<(Backfill, Progress)>,
    ) -> Vec<(RunId, Work)> {
        let begin = runs.into_iter().flat_map(|run| self.resume(run)).collect();
        for (scope, control) in holds {
            self.shard.set_hold(scope, Some(control));
        }
        for (project, name, value) in limits {
            self.apply_limit(&project, &name, Some(value));
        }
        for trigger in triggers {
            let key = trigger.lane();
            self.shard.set_failed(&key, trigger.failed);
            self.triggers.insert(key.clone(), trigger);
            self.turn_wheel(&key);
        }
        for (backfill, progress) in backfills {
            self.hold_backfill(backfill, progress);
        }
        begin
    }

    fn resume(&mut self, run: Run) -> Vec<(RunId, Work)> {
        let (now, id) = (self.around.now(), run.id);
        let mut begin = Vec::new();
        self.shard.follow_run(&run);
        self.shard.follow(&run, 0..run.tasks.len());
        for work in run.timers(now.wall) {
            match work {
                Work::Set { task, epoch, timer, after } => {
                    self.timers.push(Reverse((now.mono.saturating_add(after), id, task, epoch, timer)));
                }
                work => begin.push((id, work)),
            }
        }
        let unattended = run.unattended();
        self.runs.insert(id, run);
        for (task, epoch) in unattended {
            if let Err(error) = self.apply(id, &Event::Lost { task, epoch, by: Loss::Owner }) {
                self.disagreements.push(format!("task {task} of run {id} cannot be resumed: {error}"));
            }
        }
        begin
    }

    // Backfills.

    fn hold_backfill(&mut self, backfill: Backfill, progress: Progress) {
        let (id, sequence) = (backfill.id, backfill.sequence());
        self.shard.follow_backfill(&backfill, &progress);
        self.shard.recount_backfill(id);
        self.backfills.insert(id, Filling { backfill, progress, sequence });
        self.fills.push_back(id);
    }

    fn wake_backfill(&mut self, id: RunId) {
        let Some(Cause::Backfill { id, .. }) = self.runs.get(&id).map(|run| run.cause.clone()) else { return };
        if !self.backfills.contains_key(&id)
            && let Some((backfill, progress)) = self.around.stored_backfill(id)
        {
            self.hold_backfill(backfill, progress);
        }
    }

    /// The rows of the next runs of a backfill, to be committed before anything else is decided.
    pub fn fill(&mut self, id: BackfillId) -> Vec<Write> {
        let mut writes = Vec::new();
        let Some(filling) = self.backfills.get_mut(&id) else { return writes };
        let (backfill, progress) = (&filling.backfill, &mut filling.progress);
        let slice = progress.next_slice(backfill, &filling.sequence, SLICE);
        if slice.is_empty() {
            return writes;
        }
        self.shard.follow_backfill(backfill, progress);
        for (index, again) in slice {
            let run = backfill.run(index);
            // What was cancelled by itself before an edit stays so.
            let stays = again && self.around.stored(run.id).is_some_and(|old| old.pending != Some(Pending::Backfill));
            if !stays {
                let row = RunRow { state: run.state().name(), run, unique_key: None };
                writes.push(Write::Run(Box::new(row)));
            }
        }
        writes.push(filling.progress_row());
        self.fills.push_back(id);
        writes
    }

    fn advance(&mut self, id: BackfillId) {
        let Some(filling) = self.backfills.get_mut(&id) else { return };
        let Some(index) = filling.sequence.get(filling.progress.next as usize).copied() else { return };
        filling.progress.next += 1;
        self.batch.backfills.insert(id);
        let run = filling.backfill.run_id(index);
        self.shard.follow_backfill(&filling.backfill, &filling.progress);
        // One that a person holds is in memory before its turn.
        if !self.runs.contains_key(&run) {
            let stored = self.around.stored(run).filter(|stored| stored.pending == Some(Pending::Backfill));
            let Some(stored) = stored else { return };
            self.runs.insert(run, stored);
        }
        // One that was cancelled by itself, or that has begun before a crash, has had its turn.
        if self.runs.get(&run).is_none_or(|run| run.pending != Some(Pending::Backfill)) {
            return;
        }
        if let Err(error) = self.apply(run, &Event::Turned) {
            self.disagreements.push(format!("run {run} of a backfill cannot take its turn: {error}"));
        }
    }

    fn change_backfill(&mut self, id: BackfillId, change: &BackfillChange, control: &Control) -> Result<(), Refusal> {
        if !self.backfills.contains_key(&id)
            && let Some((backfill, progress)) = self.around.stored_backfill(id)
        {
            self.hold_backfill(backfill, progress);
        }
        let filling = self.backfills.get_mut(&id).ok_or_else(|| Refusal(format!("no backfill \"{id}\"")))?;
        let state = filling.backfill.state(&filling.progress);
        if state.is_final() {
            self.backfills.remove(&id);
            return Err(Refusal(format!("backfill \"{id}\" is over already: {}", state.name())));
        }
        let progress = &mut filling.progress;
        match change {
            BackfillChange::Pause => progress.paused = Some(control.clone()),
            BackfillChange::Resume => progress.paused = None,
            BackfillChange::Edit { concurrency, params } => {
                let backfill = &mut filling.backfill;
                backfill.concurrency = concurrency.unwrap_or(backfill.concurrency).max(1);
                if let Some(params) = params {
                    backfill.params.clone_from(params);
                    // Rows whose turn is still to come are made again with them.
                    progress.made = progress.next.min(backfill.total());
                }
            }
            BackfillChange::Cancel => {
                progress.cancel(control);
                self.cancel_backfill(id, control);
            }
        }
        let now = self.around.now().wall;
        if let Some(filling) = self.backfills.get_mut(&id) {
            let over = filling.backfill.state(&filling.progress).is_final();
            filling.progress.ended_at = over.then_some(now);
            self.shard.follow_backfill(&filling.backfill, &filling.progress);
            let row = BackfillRow { backfill: filling.backfill.clone(), progress: filling.progress.clone() };
            self.batch.writes.push(Write::Backfill(Box::new(row)));
            self.fills.push_back(id);
        }
        Ok(())
    }

    fn cancel_backfill(&mut self, id: BackfillId, control: &Control) {
        let live = self.runs.values().filter(|run| matches!(run.cause, Cause::Backfill { id: of, .. } if of == id));
        for run in live.map(|run| run.id).collect::<Vec<_>>() {
            let (by, reason) = (control.by.clone(), control.reason.clone());
            // One that has ended meanwhile needs no stop.
            let _ = self.apply(run, &Event::Stop { task: None, by, reason });
        }
        let Some(filling) = self.backfills.get_mut(&id) else { return };
        let dormant = filling.progress.dormant(&filling.sequence).iter();
        let dormant: Vec<RunId> = dormant.map(|index| filling.backfill.run_id(*index)).collect();
        filling.progress.next = filling.backfill.total();
        // What is in memory was stopped there.
        for run in dormant.into_iter().filter(|run| !self.runs.contains_key(run)) {
            let stored = self.around.stored(run).filter(|stored| stored.pending == Some(Pending::Backfill));
            let Some(mut run) = stored else { continue };
            run.pending = None;
            run.stop = Some(Stop { by: control.by.clone(), at: control.at, reason: control.reason.clone() });
            run.ended_at = Some(control.at);
            filling.progress.stopped += 1;
            let row = RunRow { state: run.state().name(), run, unique_key: None };
            self.batch.writes.push(Write::Run(Box::new(row)));
        }
    }

    // Commands.

    /// Carries out a command and puts its answer into the batch. What was decided before must have been committed.
    ///
    /// # Errors
    /// Why it was not carried out; that is in the batch too.
    pub fn obey(&mut self, command: &Command) -> Result<(), Refusal> {
        let result = self.carry_out(command);
        let reply = match &result {
            Ok(()) => json!({"ok": {}}),
            Err(Refusal(message)) => json!({"error": {"message": message}}),
        };
        if result.is_err()
            && let Some(run) = subject(&command.kind)
            && !self.batch.changes.contains_key(&run)
            && self.runs.get(&run).is_some_and(|run| run.state().is_final())
            && let Some(run) = self.runs.remove(&run)
        {
            self.shard.forget(&run);
        }
        self.batch.reply = Some(Write::CommandReply { command: command.id, reply });
        result
    }

    fn carry_out(&mut self, command: &Command) -> Result<(), Refusal> {
        let by = command.by.clone();
        let control = |reason: &Option<String>| Control { by: by.clone(), at: command.at, reason: reason.clone() };
        let refused = |error: Refused| Refusal(error.to_string());
        match &command.kind {
            CommandKind::CreateRun(new) => self.create(new),
            CommandKind::Stop { run, job, reason } => {
                let held = self.hold(*run)?;
                let task = job.as_ref().map(|job| held.find(job.as_str()).ok_or(Refusal(format!("no job \"{job}\""))));
                let event = Event::Stop { task: task.transpose()?, by, reason: reason.clone() };
                self.apply(*run, &event).map_err(refused)
            }
            CommandKind::Retry { run, jobs, code } => {
                self.hold(*run)?;
                self.make_way(*run)?;
                self.wake_backfill(*run);
                let held = self.hold(*run)?;
                let tasks = match jobs {
                    None => (0..held.tasks.len()).filter(|ix| held.wants_retry(*ix)).collect(),
                    Some(jobs) => held.select(jobs).map_err(Refusal)?,
                };
                let code = code.as_ref().map(|code| self.new_code(*run, code)).transpose()?;
                self.apply(*run, &Event::Retry { tasks, by, code }).map_err(refused)
            }
            CommandKind::Mark { run, jobs, ending, reason } => {
                self.hold(*run)?;
                self.make_way(*run)?;
                self.wake_backfill(*run);
                let tasks = self.hold(*run)?.select(jobs).map_err(Refusal)?;
                let event = Event::Mark { tasks, ending: *ending, control: control(reason) };
                self.apply(*run, &event).map_err(refused)
            }
            CommandKind::HoldRun { run, jobs, held, reason } => {
                let run_held = self.hold(*run)?;
                let tasks = jobs.as_ref().map(|jobs| run_held.select(jobs)).transpose().map_err(Refusal)?;
                let event = Event::Hold { tasks, control: held.then(|| control(reason)), by: by.clone() };
                self.apply(*run, &event).map_err(refused)
            }
            CommandKind::Disable { run, jobs, disabled, reason } => {
                let tasks = self.hold(*run)?.select(jobs).map_err(Refusal)?;
                let event = Event::Disable { tasks, control: disabled.then(|| control(reason)), by: by.clone() };
                self.apply(*run, &event).map_err(refused)
            }
            CommandKind::Reload { run, code } => {
                self.hold(*run)?;
                let code = self.new_code(*run, code)?;
                self.apply(*run, &Event::Reload { by, code }).map_err(refused)
            }
            CommandKind::Activate(activation) => {
                self.activate(activation);
                Ok(())
            }
            CommandKind::Pause { project, workflow, target, paused, reason } => {
                let key = Lane { project: project.clone(), workflow: workflow.clone(), target: target.clone() };
                let now = self.around.now().wall;
                let trigger = self.triggers.get_mut(&key).ok_or_else(|| Refusal("no such schedule".to_owned()))?;
                if *paused {
                    trigger.pause(control(reason))
                } else {
                    trigger.resume(now)
                }
                self.batch.triggers.insert(key.clone());
                self.turn_wheel(&key);
                Ok(())
            }
            CommandKind::CreateBackfill(backfill) => {
                let progress = Progress::begin(backfill);
                let row = BackfillRow { backfill: backfill.as_ref().clone(), progress: progress.clone() };
                self.batch.writes.push(Write::Backfill(Box::new(row)));
                self.hold_backfill(backfill.as_ref().clone(), progress);
                Ok(())
            }
            CommandKind::ChangeBackfill { id, change, reason } => self.change_backfill(*id, change, &control(reason)),
            CommandKind::HoldScope { scope, held, abort, reason } => {
                self.hold_scope(scope, *held, *abort, &control(reason));
                Ok(())
            }
            CommandKind::SetLimit { project, name, value, description } => {
                self.apply_limit(project, name, *value);
                let set = value.map(|value| LimitSet {
                    value,
                    by: by.clone(),
                    at: command.at,
                    description: description.clone(),
                });
                self.batch.writes.push(Write::Limit { project: project.clone(), name: name.clone(), set });
                Ok(())
            }
        }
    }

    fn create(&mut self, new: &NewRun) -> Result<(), Refusal> {
        let taken = self.runs.contains_key(&new.id) || self.around.stored(new.id).is_some();
        if taken {
            return Ok(());
        }
        if new.cause().minds_others()
            && let Some(other) = beside(self.runs.values(), &new.lane(), new.interval, new.id).next()
        {
            return Err(Refusal(format!("run {} for the same interval is active", other.id)));
        }
        let document = self.around.document(new.version).ok_or_else(|| Refusal("no such version".to_owned()))?;
        let graph = Graph::of_document(&document, new.jobs.as_deref()).map_err(Refusal)?;
        self.runs.insert(new.id, new.run(graph, self.around.now().wall));
        self.batch.changes.entry(new.id).or_default().unique_key = new.unique_key.clone();
        self.apply(new.id, &Event::Created).map_err(|error| Refusal(error.to_string()))
    }

    /// Has a run in memory, also one that is over.
    fn hold(&mut self, id: RunId) -> Result<&Run, Refusal> {
        if !self.runs.contains_key(&id) {
            let stored = self.around.stored(id).ok_or_else(|| Refusal(format!("no run \"{id}\"")))?;
            self.resume(stored);
        }
        self.runs.get(&id).ok_or_else(|| Refusal(format!("no run \"{id}\"")))
    }

    /// A run that goes on again must not meet another one of its interval, no more than a new one may.
    fn make_way(&mut self, id: RunId) -> Result<(), Refusal> {
        let Some(run) = self.runs.get(&id) else { return Ok(()) };
        if !run.cause.minds_others() || !run.state().is_final() {
            return Ok(());
        }
        let lane = run.lane();
        let mut others = beside(self.runs.values(), &lane, run.interval, id);
        // One that has not begun may be waiting for just this, and waits on.
        match others.find(|other| other.pending.is_none()) {
            Some(other) => Err(Refusal(format!("run {} for the same interval is active", other.id))),
            None => Ok(()),
        }
    }

    fn new_code(&mut self, run: RunId, code: &Code) -> Result<NewCode, Refusal> {
        let document = self.around.document(code.version).ok_or_else(|| Refusal("no such version".to_owned()))?;
        let run = self.hold(run)?;
        let graph = Graph::of(&document.jobs, run.tasks.iter().map(|task| task.node()))
            .map_err(|job| Refusal(format!("job \"{job}\" does not exist in the new code")))?;
        let graph = Arc::new(graph.limited(document.concurrency));
        Ok(NewCode { graph, bundle: code.bundle, version: code.version })
    }

    fn activate(&mut self, activation: &Activation) {
        let Activation { project, target, bundle, versions, keep, at, channels: _ } = activation;
        let name = name_of(target.as_ref());
        let of_project = self.triggers.values().filter(|trigger| trigger.project == *project).cloned();
        let (own, others): (Vec<Trigger>, Vec<Trigger>) =
            of_project.partition(|trigger| name_of(trigger.target.as_ref()) == name);
        for before in others.iter().filter(|trigger| activation.takes_over(trigger.target.as_ref())) {
            self.drop_trigger(before.lane());
        }
        let mut stored: BTreeMap<WorkflowName, Trigger> =
            own.into_iter().map(|trigger| (trigger.workflow.clone(), trigger)).collect();
        let fires = target.as_ref().is_none_or(|target| target.schedules);
        for (workflow, version) in versions {
            let Some(document) = self.around.document(*version) else { continue };
            let old = stored.remove(workflow);
            let (code, params, types) = ((*version, *bundle), BTreeMap::new(), BTreeMap::new());
            let new = Trigger::of(project, target.clone(), &document, code, *at, params, types).filter(|_| fires);
            let key = Lane { project: project.clone(), workflow: workflow.clone(), target: name.clone() };
            match (new, old) {
                (Some(new), Some(mut old)) => {
                    old.replace(new, *at);
                    self.triggers.insert(key.clone(), old);
                }
                (Some(new), None) => {
                    self.triggers.insert(key.clone(), new);
                }
                (None, Some(_)) => self.drop_trigger(key.clone()),
                (None, None) => continue,
            }
            self.batch.triggers.insert(key.clone());
            self.turn_wheel(&key);
        }
        for (_, gone) in stored.into_iter().filter(|(workflow, _)| !keep.contains(workflow)) {
            self.drop_trigger(gone.lane());
        }
    }

    fn drop_trigger(&mut self, key: Lane) {
        self.triggers.remove(&key);
        self.batch.writes.push(Write::DropTrigger(key));
    }

    fn hold_scope(&mut self, scope: &Scope, held: bool, abort: bool, control: &Control) {
        let wanted = held.then(|| control.clone());
        self.shard.set_hold(scope.clone(), wanted.clone());
        self.batch.writes.push(Write::Hold { scope: scope.clone(), control: wanted });
        if !abort {
            return;
        }
        let live = self.runs.values().filter(|run| scope.holds(&run.project, &run.workflow) && !run.state().is_final());
        for run in live.map(|run| run.id).collect::<Vec<_>>() {
            let (by, reason) = (control.by.clone(), control.reason.clone());
            // One that has ended meanwhile needs no stop.
            let _ = self.apply(run, &Event::Stop { task: None, by, reason });
        }
    }

    /// Sets a limit of a project, or takes it away.
    pub fn apply_limit(&mut self, project: &ProjectName, name: &LimitName, value: Option<u32>) {
        match name {
            LimitName::Pool(pool) => self.shard.set_capacity(LimitId::Pool(project.clone(), pool.clone()), value),
            LimitName::Quota => self.shard.set_capacity(LimitId::Quota(project.clone()), value),
            LimitName::Weight => self.shard.set_weight(project.clone(), value.unwrap_or(1)),
        }
    }
}

impl Filling {
    fn progress_row(&self) -> Write {
        let state = self.backfill.state(&self.progress);
        Write::Progress { id: self.backfill.id, state, progress: Box::new(self.progress.clone()) }
    }
}

fn millis(at: Micros) -> u64 {
    u64::try_from(at.0 / 1000).unwrap_or(0)
}

fn run_id(at: Micros, random: u128) -> RunId {
    RunId::from_parts(millis(at), random)
}

fn impossible() -> Event {
    Event::Stop { task: None, by: "pinrail".to_owned(), reason: Some("its workflow cannot be read".to_owned()) }
}

/// The run that a command is about, if it is about one that exists.
fn subject(kind: &CommandKind) -> Option<RunId> {
    match kind {
        CommandKind::Stop { run, .. }
        | CommandKind::Retry { run, .. }
        | CommandKind::Mark { run, .. }
        | CommandKind::HoldRun { run, .. }
        | CommandKind::Disable { run, .. }
        | CommandKind::Reload { run, .. } => Some(*run),
        _ => None,
    }
}
