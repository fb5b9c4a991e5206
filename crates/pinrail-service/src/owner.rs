//! The owner of the shard: one loop that takes what has happened, lets the two pure machines decide, makes the decision
//! durable, and only then acts on it.
//!
//! All that waits at one moment is decided together and committed at once, so a commit's `fdatasync` is shared; what
//! nobody relies on (phase stamps, counters) is written behind, in order, and costs no wait.
//!
//! The two largest costs of a transition are the pages that its commit writes to SQLite's log, with their `fdatasync` (a
//! sixth of the processor time of everything), and SQLite's work on rows and indexes (a tenth); deciding is a fraction of
//! either. What attempts cost besides is said in [`crate::attempt`].

mod backfills;
mod schedules;
mod surgery;
mod usual;
pub mod workers;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use pinrail_model::admit::{Admitted, Shard, admit};
use pinrail_model::document::{Document, Sha, first_message};
use pinrail_model::explain::{Explanation, explain, explain_pending, most_telling, name};
use pinrail_model::ids::{BackfillId, CommandId, Ids, RunId, SessionId, fresh};
use pinrail_model::names::TaskName;
use pinrail_model::notify::{self, Usual};
use pinrail_model::run::{
    Attempt, Cause, Class, Control, Effects, Event, Graph, Loss, NewCode, Outcome, Position, Refused, Run, TaskIx,
    Timer, Work, apply, beside,
};
use pinrail_model::seam::lake::{PointerSwap, Written};
use pinrail_model::seam::store::{
    Answer, AttemptRow, Code, Command, CommandKind, CounterRow, Durability, EventRow, Load, NewRun, Publication, Query,
    Reply, RunRow, Store, StoreError, StoredRun, TaskRow, Transition, Who, Write,
};
use pinrail_model::step;
use pinrail_model::target::Lane;
use pinrail_model::time::{Clock, Interval, Micros, Now};
use pinrail_model::trigger::Trigger;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use self::backfills::Filling;
use self::schedules::Documents;
use self::usual::Usuals;
use self::workers::WorkerInput;
use crate::attempt::{Attempts, Ticket};
use crate::conditions::{self, Changed};
use crate::problem::Problem;

/// Inputs that are decided upon together at most.
const MOST_AT_ONCE: usize = 4096;
/// Decisions of admission in one batch: what was free is given away in the next turn, so that nobody waits for all of it.
const MOST_ADMITTED: usize = 10_000;

/// What reaches the owner.
pub enum Input {
    /// Something that happened to a task.
    Event {
        run: RunId,
        event: Event,
    },
    /// Somebody looked at a condition; answered with whether it is still waited for.
    Observed {
        run: RunId,
        event: Event,
        answer: oneshot::Sender<bool>,
    },
    /// An attempt is ready to become true.
    Publish {
        run: RunId,
        task: TaskIx,
        epoch: u64,
        swaps: Vec<PointerSwap>,
        written: Vec<Written>,
        answer: oneshot::Sender<Published>,
    },
    /// The inbox has commands.
    Nudge,
    /// The next rows of a backfill are to be made.
    Fill(BackfillId),
    /// Rows that nobody waits for.
    Behind(Vec<Write>),
    Worker(WorkerInput),
    Explain {
        run: RunId,
        job: Option<TaskName>,
        /// None: the run has no such job.
        answer: oneshot::Sender<Result<Option<Explained>, Problem>>,
    },
    /// How long the jobs of a workflow take, which was asked for.
    Usual(Usual),
    /// Answered when everything before it is durable.
    Settle(oneshot::Sender<()>),
    /// Answered when it is durable, with whether it was accepted.
    Durable {
        run: RunId,
        event: Event,
        answer: oneshot::Sender<bool>,
    },
    /// How many runs are unfinished.
    Busy(oneshot::Sender<usize>),
    Figures(oneshot::Sender<Figures>),
    /// The unfinished runs that have an SLA.
    Promised(oneshot::Sender<Vec<Run>>),
}

/// The explanations of a run's tasks, and what an estimate needs besides.
#[derive(Debug)]
pub struct Explained {
    pub explanations: Vec<Explanation>,
    pub run: Run,
    /// The runs that it waits for, if it has not begun.
    pub others: Vec<Run>,
}

/// What the owner has in memory and has done since it took over the shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// Unfinished runs by their state.
    pub runs: BTreeMap<&'static str, u64>,
    /// Tasks of unfinished runs by their state.
    pub tasks: BTreeMap<&'static str, u64>,
    pub slots: u32,
    pub slots_held: u32,
    /// Commits that were waited for, because work depended on them.
    pub commits_waited: u64,
    /// Commits that nobody waited for.
    pub commits_behind: u64,
}

/// What became of a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    Done,
    /// A pointer has moved; prepare again.
    Moved(String),
    /// The attempt is no longer ours.
    Stale,
}

/// Sends to the owner.
#[derive(Debug, Clone)]
pub struct OwnerHandle {
    inputs: mpsc::UnboundedSender<Input>,
}

impl OwnerHandle {
    /// Tells the owner. One that has stopped hears nothing, and nothing can be done about it here.
    pub fn tell(&self, input: Input) {
        let _ = self.inputs.send(input);
    }

    pub fn event(&self, run: RunId, event: Event) {
        self.tell(Input::Event { run, event });
    }

    /// Asks the owner; none when it has stopped.
    pub async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Input) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.tell(make(answer));
        answered.await.ok()
    }
}

/// What an owner is made of.
pub struct OwnerParts {
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    pub slots: u32,
    /// Runs that are resumed at start; none: all that are unfinished.
    pub only: Option<BTreeSet<RunId>>,
}

/// A channel to an owner that is still to be started: attempts and API need its handle first.
#[must_use]
pub fn channel() -> (OwnerHandle, mpsc::UnboundedReceiver<Input>) {
    let (inputs, receiver) = mpsc::unbounded_channel();
    (OwnerHandle { inputs }, receiver)
}

struct Owner {
    parts: OwnerParts,
    attempts: Arc<Attempts>,
    handle: OwnerHandle,
    epoch: u64,
    since: Micros,
    runs: BTreeMap<RunId, Held>,
    shard: Shard,
    timers: BinaryHeap<Reverse<Alarm>>,
    triggers: BTreeMap<Lane, Trigger>,
    /// When, on the wall clock, which schedule is due. Entries of what has changed since are passed over.
    wheel: BinaryHeap<Reverse<(Micros, Lane)>>,
    backfills: BTreeMap<BackfillId, Filling>,
    documents: Documents,
    usuals: Usuals,
    /// The last command that was taken.
    taken: u64,
    commits_waited: u64,
    commits_behind: u64,
}

/// When, on the monotonic clock, which task, in which epoch, and what for.
type Alarm = (Duration, RunId, TaskIx, u64, Timer);

struct Held {
    run: Run,
    unique_key: Option<String>,
    last_event: u64,
}

/// Takes over the shard, resumes what was unfinished, and works until its runtime ends. The task ends by itself, with the
/// reason, only when the state can no longer be written; then only another start can go on.
///
/// # Errors
/// When the state cannot be read.
pub async fn start(
    parts: OwnerParts,
    attempts: Arc<Attempts>,
    handle: OwnerHandle,
    inputs: mpsc::UnboundedReceiver<Input>,
) -> Result<tokio::task::JoinHandle<Result<(), StoreError>>, StoreError> {
    let holder: SessionId = fresh(parts.ids.as_ref());
    let epoch = parts.store.lease(&holder.to_string()).await?;
    let mut shard = Shard::default();
    if parts.slots > 0 {
        shard.join(SessionId::SERVER, parts.slots, BTreeSet::new());
    }
    let since = parts.clock.now().wall;
    let mut owner = Owner {
        parts,
        attempts,
        handle,
        epoch,
        since,
        runs: BTreeMap::new(),
        shard,
        timers: BinaryHeap::new(),
        triggers: BTreeMap::new(),
        wheel: BinaryHeap::new(),
        backfills: BTreeMap::new(),
        documents: Documents::default(),
        usuals: Usuals::default(),
        taken: 0,
        commits_waited: 0,
        commits_behind: 0,
    };
    owner.recover().await?;
    Ok(tokio::spawn(owner.work(inputs)))
}

/// Changes that are decided but not yet committed.
#[derive(Default)]
struct Batch {
    changes: BTreeMap<RunId, Change>,
    /// What follows from the changes of runs and from commands, in a transition after those.
    replies: Vec<Write>,
    /// Schedules and backfills whose rows changed.
    triggers: BTreeSet<Lane>,
    backfills: BTreeSet<BackfillId>,
    durable: bool,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.replies.is_empty() && self.triggers.is_empty() && self.backfills.is_empty()
    }
}

/// A batch that nothing is added to any more, with the rows that it comes to.
struct Sealed {
    changes: BTreeMap<RunId, Change>,
    backfills: BTreeSet<BackfillId>,
    transitions: Vec<Transition>,
    durability: Durability,
}

impl Sealed {
    async fn commit(&mut self, store: &dyn Store) -> Result<Vec<Reply>, StoreError> {
        step!("owner.before-commit");
        let answers = store.commit(std::mem::take(&mut self.transitions), self.durability).await?;
        step!("owner.after-commit");
        Ok(answers)
    }
}

#[derive(Default)]
struct Change {
    fx: Effects,
    publications: Vec<Publication>,
    /// The run as it was, for a publication that may be refused.
    before: Option<Box<Run>>,
    answer: Option<oneshot::Sender<Published>>,
    /// What made the run. One that exists already under its key never was: a command is answered with the other one.
    created_by: Option<Maker>,
    reply: Option<Write>,
}

/// Who made a run.
#[derive(Clone, Copy)]
enum Maker {
    Command(CommandId),
    /// A schedule that fired; after a crash it may do so again.
    Schedule,
}

/// A run, by what no other active run may share with it.
struct Beside<'a> {
    run: RunId,
    lane: &'a Lane,
    interval: Interval,
}

impl Beside<'_> {
    fn is_of(&self, run: &Run) -> bool {
        run.cause.minds_others() && run.interval == self.interval && run.lane() == *self.lane
    }
}

/// What an attempt wants to make true, and who asks.
struct Prepared {
    task: TaskIx,
    epoch: u64,
    swaps: Vec<PointerSwap>,
    written: Vec<Written>,
    answer: oneshot::Sender<Published>,
}

impl Owner {
    async fn work(mut self, mut inputs: mpsc::UnboundedReceiver<Input>) -> Result<(), StoreError> {
        loop {
            let due = self.timers.peek().map(|Reverse((due, ..))| *due);
            let now = self.parts.clock.now();
            let wait = due.map(|due| due.saturating_sub(now.mono));
            let lease = self.attempts.parts.workers.until_overdue();
            let wait = wait.into_iter().chain(self.until_due(now.wall)).chain(lease).min();
            let first = tokio::select! {
                input = inputs.recv() => match input {
                    Some(input) => Some(input),
                    None => return Ok(()),
                },
                () = sleep(wait) => None,
            };
            let mut waiting: Vec<Input> = first.into_iter().collect();
            while waiting.len() < MOST_AT_ONCE {
                let Ok(next) = inputs.try_recv() else { break };
                waiting.push(next);
            }
            // Whatever was not committed did not happen; the next owner goes on from there.
            self.turn(waiting).await?;
        }
    }

    async fn turn(&mut self, inputs: Vec<Input>) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        self.ring(&mut batch);
        self.fire(&mut batch).await?;
        self.expire(&mut batch).await?;
        for input in inputs {
            match input {
                Input::Event { run, event } => {
                    self.flush_if_publishing(run, &mut batch).await?;
                    // A refused report is a late one; whoever sent it is being stopped.
                    let _ = self.apply(run, &event, &mut batch);
                }
                Input::Observed { run, event, answer } => {
                    self.flush_if_publishing(run, &mut batch).await?;
                    let waits = self.apply(run, &event, &mut batch).is_ok() && self.still_waits(run, &event);
                    // A watcher that has gone needs no answer.
                    let _ = answer.send(waits);
                }
                Input::Publish { run, task, epoch, swaps, written, answer } => {
                    self.flush(&mut batch).await?;
                    self.publish(run, Prepared { task, epoch, swaps, written, answer }, &mut batch);
                }
                Input::Nudge => self.take_commands(&mut batch).await?,
                Input::Fill(id) => self.fill(id, &mut batch).await?,
                Input::Behind(writes) => {
                    self.parts.store.commit(vec![self.transition(writes)], Durability::Behind).await?;
                }
                Input::Worker(input) => self.worker(input, &mut batch).await?,
                Input::Explain { run, job, answer } => {
                    let _ = answer.send(self.explain(run, job.as_ref()).await.map_err(Problem::from));
                }
                Input::Usual(usual) => self.take_usual(usual),
                Input::Durable { run, event, answer } => {
                    self.flush_if_publishing(run, &mut batch).await?;
                    let accepted = self.apply(run, &event, &mut batch).is_ok();
                    self.flush(&mut batch).await?;
                    // An asker that has gone no longer wants to know.
                    let _ = answer.send(accepted);
                }
                Input::Settle(answer) => {
                    self.flush(&mut batch).await?;
                    // An asker that has gone no longer wants to know.
                    let _ = answer.send(());
                }
                Input::Busy(answer) => {
                    let busy = self.runs.values().filter(|held| !held.run.state().is_final()).count();
                    let _ = answer.send(busy);
                }
                Input::Promised(answer) => {
                    let runs = self.runs.values().map(|held| &held.run);
                    let promised = runs.filter(|run| notify::deadline(run).is_some() && !run.state().is_final());
                    let _ = answer.send(promised.cloned().collect());
                }
                Input::Figures(answer) => {
                    let _ = answer.send(self.figures());
                }
            }
        }
        self.flush(&mut batch).await?;
        self.send_home();
        Ok(())
    }

    /// Whether the condition that an event is about is not met and still of interest.
    fn still_waits(&self, run: RunId, event: &Event) -> bool {
        let Event::Observed { task, condition, .. } = event else { return false };
        let task = self.runs.get(&run).and_then(|held| held.run.tasks.get(*task));
        let waiting = task.filter(|task| task.position == Position::Waiting);
        let seen = waiting.and_then(|task| task.watch.as_ref()?.seen.get(*condition));
        seen.is_some_and(|seen| !seen.met)
    }

    fn figures(&self) -> Figures {
        let mut figures = Figures {
            slots: self.shard.slots(),
            slots_held: self.shard.slots_held(),
            commits_waited: self.commits_waited,
            commits_behind: self.commits_behind,
            ..Figures::default()
        };
        for run in self.runs.values().map(|held| &held.run).filter(|run| !run.state().is_final()) {
            *figures.runs.entry(run.state().name()).or_default() += 1;
            for task in &run.tasks {
                *figures.tasks.entry(task.state_name()).or_default() += 1;
            }
        }
        figures
    }

    /// Applies an event to a run in memory; what it means for the database and the world waits in the batch.
    fn apply(&mut self, id: RunId, event: &Event, batch: &mut Batch) -> Result<(), Refused> {
        let Some(held) = self.runs.get_mut(&id) else { return Err(Refused::Stale) };
        let change = batch.changes.entry(id).or_default();
        let now = self.parts.clock.now();
        let work = change.fx.work.len();
        let before = held.run.state();
        // Only what this event touched is followed: a run of ten thousand jobs touches them all when it is made.
        let mut fx = Effects::default();
        apply(&mut held.run, event, now, &mut fx)?;
        batch.durable |= fx.durable;
        let after = held.run.state();
        if fx.run_touched {
            self.shard.follow_run(&held.run);
        }
        self.shard.follow(&held.run, fx.touched.iter().copied());
        change.fx.add(fx);
        if before != after {
            self.run_moved(id, before, after, batch);
        }
        self.publish_nothing(id, work, batch);
        Ok(())
    }

    /// An attempt that wrote no table is published in the same transaction in which it completed.
    fn publish_nothing(&mut self, id: RunId, from: usize, batch: &mut Batch) {
        let Some(change) = batch.changes.get_mut(&id) else { return };
        let Some(held) = self.runs.get(&id) else { return };
        let mut at_once = Vec::new();
        let mut index = 0;
        change.fx.work.retain(|work| {
            index += 1;
            let Work::Publish { task, epoch } = work else { return true };
            if index <= from || !self.attempts.has_nothing_to_publish(&held.run, *task) {
                return true;
            }
            at_once.push((*task, *epoch));
            false
        });
        for (task, epoch) in at_once {
            let publication = self.publication(id, task, Vec::new());
            if let (Some(publication), Some(change)) = (publication, batch.changes.get_mut(&id)) {
                change.publications.push(publication);
            }
            let _ = self.apply(id, &Event::Published { task, epoch, written: Vec::new() }, batch);
        }
    }

    fn publication(&self, id: RunId, task: TaskIx, swaps: Vec<PointerSwap>) -> Option<Publication> {
        let run = &self.runs.get(&id)?.run;
        let found = run.tasks.get(task)?;
        Some(Publication {
            place: run.place(),
            attempt: found.attempt()?.id,
            run: id,
            job: found.job.clone(),
            instance: found.instance_text(),
            generation: found.generation,
            at: self.parts.clock.now().wall,
            swaps,
        })
    }

    fn publish(&mut self, id: RunId, prepared: Prepared, batch: &mut Batch) {
        let Prepared { task, epoch, swaps, written, answer } = prepared;
        let before = self.runs.get(&id).map(|held| Box::new(held.run.clone()));
        let publication = self.publication(id, task, swaps);
        if self.apply(id, &Event::Published { task, epoch, written }, batch).is_err() {
            let _ = answer.send(Published::Stale);
            return;
        }
        if let Some(change) = batch.changes.get_mut(&id) {
            change.publications.extend(publication);
            change.before = before;
            change.answer = Some(answer);
        }
    }

    /// A run whose publication is undecided takes no further events before the answer.
    async fn flush_if_publishing(&mut self, run: RunId, batch: &mut Batch) -> Result<(), StoreError> {
        if batch.changes.get(&run).is_some_and(|change| change.before.is_some()) {
            self.flush(batch).await?;
        }
        Ok(())
    }

    /// Lets admission decide on what is ready, as part of the batch.
    async fn admit(&mut self, batch: &mut Batch) -> Result<(), StoreError> {
        for _ in 0..MOST_ADMITTED {
            let Some(admitted) = admit(&mut self.shard) else { break };
            let (run, event) = match admitted {
                Admitted::Grant { run, task, session } => (run, Event::Granted { task, session }),
                Admitted::Claim { run, task, session } => {
                    let Some(held) = self.runs.get(&run) else { continue };
                    let executor = held.run.executor(task);
                    let attempt = fresh(self.parts.ids.as_ref());
                    (run, Event::Claimed { task, attempt, session, executor })
                }
                Admitted::Begin { run } => match self.graph_of(run).await? {
                    Some(graph) => (run, Event::Admitted { graph }),
                    None => (run, self.impossible(run)),
                },
                Admitted::Advance { backfill } => {
                    self.advance(backfill, batch).await?;
                    continue;
                }
            };
            if let Err(error) = self.apply(run, &event, batch) {
                tracing::error!(%run, %error, "admission and the run disagree");
                return Ok(());
            }
        }
        Ok(())
    }

    /// Commits the batch and, when it is durable, does what it asks for.
    async fn flush(&mut self, batch: &mut Batch) -> Result<(), StoreError> {
        let Some(mut sealed) = self.seal(batch).await? else { return Ok(()) };
        let answers = sealed.commit(self.parts.store.as_ref()).await?;
        self.act(sealed, answers).await
    }

    /// Lets admission decide, and closes the batch; none when nothing was decided.
    async fn seal(&mut self, batch: &mut Batch) -> Result<Option<Sealed>, StoreError> {
        self.admit(batch).await?;
        if batch.is_empty() {
            return Ok(None);
        }
        let Batch { changes, mut replies, triggers, backfills, durable } = std::mem::take(batch);
        replies.extend(triggers.iter().filter_map(|key| self.trigger_row(key)));
        replies.extend(backfills.iter().filter_map(|id| self.progress_row(*id)));
        let mut transitions = Vec::with_capacity(changes.len() + 1);
        for (id, change) in &changes {
            transitions.extend(self.change_of(*id, change));
        }
        let answered = !replies.is_empty();
        if answered {
            transitions.push(self.transition(replies));
        }
        let durability = if durable || answered || changes.values().any(|change| change.reply.is_some()) {
            Durability::Waited
        } else {
            Durability::Behind
        };
        Ok(Some(Sealed { changes, backfills, transitions, durability }))
    }

    /// Does what a batch asks for, now that it is durable.
    async fn act(&mut self, sealed: Sealed, answers: Vec<Reply>) -> Result<(), StoreError> {
        let Sealed { changes, backfills, durability, .. } = sealed;
        match durability {
            Durability::Waited => self.commits_waited += 1,
            Durability::Behind => self.commits_behind += 1,
        }
        for ((id, change), reply) in changes.into_iter().zip(answers) {
            if let (Reply::Exists(other), Some(maker)) = (&reply, change.created_by) {
                self.leave_existing(id, maker, other).await?;
            } else {
                self.conclude(id, change, reply)?;
            }
        }
        for id in backfills {
            self.settle_backfill(id);
        }
        Ok(())
    }

    /// The run exists already under its key: it never was, and a command that made it hears of the other one.
    async fn leave_existing(&mut self, id: RunId, maker: Maker, other: &str) -> Result<(), StoreError> {
        if let Some(held) = self.runs.remove(&id) {
            self.shard.forget(&held.run);
        }
        let Maker::Command(command) = maker else { return Ok(()) };
        let write = Write::CommandReply { command, reply: json!({"ok": {"id": other}}) };
        self.parts.store.commit(vec![self.transition(vec![write])], Durability::Waited).await.map(|_| ())
    }

    fn conclude(&mut self, id: RunId, change: Change, reply: Reply) -> Result<(), StoreError> {
        match (reply, change.before) {
            (Reply::Committed, _) => {
                if change.publications.iter().any(|publication| !publication.swaps.is_empty()) {
                    let project = self.runs.get(&id).map(|held| held.run.project.clone());
                    project.into_iter().for_each(|project| self.attempts.conditions.changed(Changed::Tables(project)));
                }
                if let Some(answer) = change.answer {
                    let _ = answer.send(Published::Done);
                }
                if let Some(held) = self.runs.get(&id) {
                    Self::learn(&mut self.usuals, &held.run, &change.fx.history);
                }
                for work in change.fx.work {
                    self.dispatch(id, work);
                }
                self.forget_if_over(id);
                Ok(())
            }
            (Reply::Conflict(table), Some(before)) => {
                self.restore(*before);
                if let Some(answer) = change.answer {
                    let _ = answer.send(Published::Moved(table.to_string()));
                }
                Ok(())
            }
            (Reply::Fenced, Some(before)) => {
                self.restore(*before);
                if let Some(answer) = change.answer {
                    let _ = answer.send(Published::Stale);
                }
                Ok(())
            }
            // It was left to the other one after more of it had been decided.
            (Reply::Exists(_), _) if !self.runs.contains_key(&id) => Ok(()),
            (reply, _) => Err(StoreError::Failed(format!("the owner's change of run \"{id}\" was refused: {reply}"))),
        }
    }

    fn restore(&mut self, run: Run) {
        self.shard.follow_back(&run, self.runs.get(&run.id).map(|held| &held.run));
        if let Some(held) = self.runs.get_mut(&run.id) {
            held.run = run;
        }
    }

    fn forget_if_over(&mut self, id: RunId) {
        let over = self.runs.get(&id).is_some_and(|held| held.run.state().is_final());
        if over && let Some(held) = self.runs.remove(&id) {
            self.shard.forget(&held.run);
            self.attempts.forget(&held.run);
            self.attempts.conditions.changed(Changed::Run(held.run.project, held.run.workflow));
        }
    }

    fn dispatch(&mut self, id: RunId, work: Work) {
        if self.runs.get(&id).is_none_or(|held| !held.run.still_wants(&work)) {
            return;
        }
        if let Work::Set { task, epoch, timer, after } = work {
            let due = self.parts.clock.now().mono + after;
            self.timers.push(Reverse((due, id, task, epoch, timer)));
            return;
        }
        let Some(held) = self.runs.get(&id) else { return };
        if let Work::Watch { task, epoch } = work {
            conditions::watch(&self.attempts, &held.run, task, epoch, &self.handle);
            return;
        }
        let Some(ticket) = Ticket::new(&held.run, &work) else { return };
        self.attempts.dispatch(ticket, work, self.handle.clone());
    }

    fn ring(&mut self, batch: &mut Batch) {
        let now = self.parts.clock.now().mono;
        while let Some(Reverse((due, run, task, epoch, timer))) = self.timers.peek().copied() {
            if due > now {
                return;
            }
            self.timers.pop();
            // A timer of an earlier epoch has become pointless.
            let _ = self.apply(run, &Event::Elapsed { task, epoch, timer }, batch);
        }
    }

    fn transition(&self, writes: Vec<Write>) -> Transition {
        let mut transition = Transition::new(fresh(self.parts.ids.as_ref()), writes);
        transition.shard_epoch = Some(self.epoch);
        transition
    }

    /// The rows that a change comes to.
    fn change_of(&mut self, id: RunId, change: &Change) -> Option<Transition> {
        let now = self.parts.clock.now();
        let mut transition = self.transition(Vec::new());
        let held = self.runs.get_mut(&id)?;
        let run = &held.run;
        if change.fx.run_touched {
            transition.writes.push(Write::Run(Box::new(RunRow {
                run: run.clone(),
                state: run.state().name(),
                unique_key: held.unique_key.clone(),
            })));
        }
        for ix in &change.fx.touched {
            transition.writes.extend(task_rows(run, *ix));
        }
        for happening in &change.fx.history {
            held.last_event += 1;
            transition.events.push(EventRow {
                run: id,
                seq: held.last_event,
                at: now.wall,
                kind: happening.kind.to_owned(),
                job: happening.task.and_then(|ix| run.tasks.get(ix)).map(|task| task.name()),
                data: happening.data.clone(),
            });
        }
        let notices = notify::rows(run, &change.fx.history, now.wall, self.parts.ids.as_ref());
        transition.writes.extend((!notices.is_empty()).then_some(Write::Notices(notices)));
        transition.writes.extend(change.reply.clone());
        transition.publications.clone_from(&change.publications);
        Some(transition)
    }

    // Commands.

    async fn take_commands(&mut self, batch: &mut Batch) -> Result<(), StoreError> {
        for (seq, command) in self.parts.store.take(self.taken).await? {
            self.taken = self.taken.max(seq);
            // A command is answered with what became of it, so each is its own transaction.
            self.flush(batch).await?;
            let reply = match self.obey(&command, batch).await {
                Ok(reply) => json!({"ok": reply}),
                Err(refusal) => {
                    self.leave_refused(&command, batch);
                    refusal.reply()
                }
            };
            step!("command.before-reply");
            let reply = Write::CommandReply { command: command.id, reply };
            // The answer and what it promises are one transaction; what comes to several is answered with the last.
            let several = batch.changes.len() > 1 || !batch.replies.is_empty();
            match batch.changes.values_mut().next().filter(|_| !several) {
                Some(change) => change.reply = Some(reply),
                None => batch.replies.push(reply),
            }
            self.flush(batch).await?;
        }
        Ok(())
    }

    /// What a refused command had loaded of a run that is over is of no more use.
    fn leave_refused(&mut self, command: &Command, batch: &Batch) {
        let (CommandKind::Stop { run, .. }
        | CommandKind::Retry { run, .. }
        | CommandKind::Mark { run, .. }
        | CommandKind::HoldRun { run, .. }
        | CommandKind::Disable { run, .. }
        | CommandKind::Reload { run, .. }) = &command.kind
        else {
            return;
        };
        if !batch.changes.contains_key(run) {
            self.forget_if_over(*run);
        }
    }

    async fn obey(&mut self, command: &Command, batch: &mut Batch) -> Result<Value, Refusal> {
        match &command.kind {
            CommandKind::CreateRun(new) => self.create(new, command.id, batch).await,
            CommandKind::Stop { run, job, reason } => {
                self.hold(*run, batch).await?;
                let task = job.as_ref().map(|job| self.find(*run, job)).transpose()?;
                let event = Event::Stop { task, by: command.by.clone(), reason: reason.clone() };
                self.apply(*run, &event, batch).map_err(|e| Refusal::new("wrong-state", e.to_string()))?;
                Ok(json!({"id": run}))
            }
            CommandKind::Retry { run, jobs, code } => {
                self.hold(*run, batch).await?;
                self.make_way(*run, &command.by, batch).await?;
                self.wake_backfill(*run).await.map_err(|e| Refusal::new("state-failed", e.to_string()))?;
                let event = self.retry(*run, jobs.as_deref(), code.as_ref(), &command.by).await?;
                self.apply(*run, &event, batch).map_err(|e| Refusal::new("wrong-state", e.to_string()))?;
                Ok(json!({"id": run}))
            }
            CommandKind::Activate(activation) => self.activate(activation, batch).await,
            CommandKind::Pause { project, workflow, target, paused, reason } => {
                let control = paused.then(|| control(command, reason.as_deref()));
                let lane = Lane { project: project.clone(), workflow: workflow.clone(), target: target.clone() };
                self.pause(&lane, control, batch).await
            }
            CommandKind::CreateBackfill(backfill) => self.create_backfill(backfill, batch).await,
            CommandKind::ChangeBackfill { id, change, reason } => {
                self.change_backfill(*id, change, &control(command, reason.as_deref()), batch).await
            }
            CommandKind::HoldScope { scope, held, abort, reason } => {
                self.hold_scope(scope, *held, *abort, &control(command, reason.as_deref()), batch)
            }
            CommandKind::SetLimit { project, name, value, description } => {
                self.set_limit(project, name, *value, description.clone(), command, batch)
            }
            CommandKind::Mark { .. }
            | CommandKind::HoldRun { .. }
            | CommandKind::Disable { .. }
            | CommandKind::Reload { .. } => self.operate(command, batch).await,
        }
    }

    async fn create(&mut self, new: &NewRun, command: CommandId, batch: &mut Batch) -> Result<Value, Refusal> {
        if self.runs.contains_key(&new.id) {
            return Ok(json!({"id": new.id}));
        }
        if let Some(key) = &new.unique_key {
            let other = self.runs.values().find(|held| held.unique_key.as_ref() == Some(key));
            if let Some(other) = other {
                return Ok(json!({"id": other.run.id}));
            }
        }
        // What a job asked for twice, because a server died in between, may be over by now.
        if new.job.is_some() && self.is_stored(new.id).await? {
            return Ok(json!({"id": new.id}));
        }
        let lane = new.lane();
        let runs = self.runs.values().map(|held| &held.run);
        let same = beside(runs, &lane, new.interval, new.id).next();
        if let Some(same) = same.filter(|_| new.cause().minds_others()) {
            return Err(Refusal::active(same));
        }
        if new.cause().minds_others() {
            let beside = Beside { run: new.id, lane: &lane, interval: new.interval };
            self.supersede(&beside, &new.by, batch).await?;
        }
        let known = self.known_at(&new.project, new.version).await;
        let graph = match known.map_err(|e| Refusal::new("state-failed", e.to_string()))? {
            Some(known) => known.graph(new.jobs.as_deref()),
            // Read again, it says what is wrong with it.
            None => Graph::of_document(&self.document(new).await?, new.jobs.as_deref()),
        };
        let mut graph = graph.map_err(|message| Refusal::new("job-not-found", message))?;
        if !new.one_off {
            graph = self.weighed(&new.project, &new.workflow, graph);
        }
        let run = new.run(graph, self.parts.clock.now().wall);
        self.runs.insert(new.id, Held { run, unique_key: new.unique_key.clone(), last_event: 0 });
        batch.changes.entry(new.id).or_default().created_by = Some(Maker::Command(command));
        self.apply(new.id, &Event::Created, batch).map_err(|e| Refusal::new("wrong-state", e.to_string()))?;
        Ok(json!({"id": new.id}))
    }

    async fn is_stored(&self, run: RunId) -> Result<bool, Refusal> {
        let answer = self.parts.store.read(&Who::default(), Query::RunState(run)).await;
        let answer = answer.map_err(|e| Refusal::new("state-failed", e.to_string()))?;
        Ok(matches!(answer, Answer::RunState { .. }))
    }

    /// An embedded server leaves alone what others left unfinished, but it must not let that overwrite later what a new run
    /// of the same interval makes now: what a person began by hand ends here; what a schedule or the API began stays, and
    /// the new run is refused.
    async fn supersede(&mut self, beside: &Beside<'_>, by: &str, batch: &mut Batch) -> Result<(), Refusal> {
        if self.parts.only.is_none() {
            return Ok(());
        }
        let failed = |error: StoreError| Refusal::new("state-failed", error.to_string());
        let stored = self.parts.store.load(Load::Unfinished).await.map_err(failed)?;
        let same = stored.into_iter().filter(|stored| {
            let run = &stored.run;
            !self.runs.contains_key(&run.id) && beside.is_of(run)
        });
        let same: Vec<StoredRun> = same.collect();
        for stored in same {
            let id = stored.run.id;
            if stored.run.class != Class::Interactive {
                let message = format!(
                    "run {id} of workflow \"{}\" for the same interval is unfinished, and no server works on it: \
                     `pinrail up` goes on with it, `pinrail cancel {id}` ends it",
                    beside.lane.workflow
                );
                return Err(Refusal { run: Some(id), ..Refusal::new("run-exists", message) });
            }
            let held = rebuild(stored).map_err(|message| Refusal::new("bad-document", message))?;
            self.resume(id, held, batch);
            let reason = Some(format!("superseded by run {}", beside.run));
            let stop = Event::Stop { task: None, by: by.to_owned(), reason };
            self.apply(id, &stop, batch).map_err(|e| Refusal::new("wrong-state", e.to_string()))?;
            self.flush(batch).await.map_err(failed)?;
        }
        Ok(())
    }

    /// A run that goes on again must not meet another one of its interval, no more than a new one may.
    async fn make_way(&mut self, id: RunId, by: &str, batch: &mut Batch) -> Result<(), Refusal> {
        let Some(run) = self.runs.get(&id).map(|held| held.run.clone()) else { return Ok(()) };
        if !run.cause.minds_others() || !run.state().is_final() {
            return Ok(());
        }
        let lane = run.lane();
        let runs = self.runs.values().map(|held| &held.run);
        let others = beside(runs, &lane, run.interval, id);
        // One that has not begun may be waiting for just this, and waits on.
        let refusal = others.filter(|other| other.pending.is_none()).map(Refusal::active).next();
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        self.supersede(&Beside { run: id, lane: &lane, interval: run.interval }, by, batch).await
    }

    async fn document(&self, new: &NewRun) -> Result<Document, Refusal> {
        let query = Query::Version { project: new.project.clone(), version: new.version };
        let answer = self.parts.store.read(&Who::default(), query).await;
        match answer.map_err(|e| Refusal::new("state-failed", e.to_string()))? {
            Answer::Version(row) => {
                Document::read(&row.document).map_err(|errors| Refusal::new("bad-document", first_message(&errors)))
            }
            _ => Err(Refusal::new("version-not-found", format!("version \"{}\" is not known", new.version))),
        }
    }

    async fn retry(&self, id: RunId, jobs: Option<&str>, code: Option<&Code>, by: &str) -> Result<Event, Refusal> {
        let run = &self.runs.get(&id).ok_or_else(|| Refusal::new("run-not-found", format!("no run \"{id}\"")))?.run;
        let tasks: Vec<TaskIx> = match jobs {
            None => (0..run.tasks.len()).filter(|ix| run.wants_retry(*ix)).collect(),
            Some(selector) => selected(run, selector)?,
        };
        let code = match code {
            None => None,
            Some(code) => Some(self.new_code(run, code).await?),
        };
        Ok(Event::Retry { tasks, by: by.to_owned(), code })
    }

    async fn new_code(&self, run: &Run, code: &Code) -> Result<NewCode, Refusal> {
        let query = Query::Version { project: run.project.clone(), version: code.version };
        let answer = self.parts.store.read(&Who::default(), query).await;
        let Answer::Version(row) = answer.map_err(|e| Refusal::new("state-failed", e.to_string()))? else {
            return Err(Refusal::new("version-not-found", format!("version \"{}\" is not known", code.version)));
        };
        let document =
            Document::read(&row.document).map_err(|errors| Refusal::new("bad-document", first_message(&errors)))?;
        let graph = Graph::of(&document.jobs, run.tasks.iter().map(|task| task.node())).map_err(|job| {
            Refusal::new("job-not-found", format!("job \"{job}\" of the run does not exist in the new code"))
        })?;
        let graph = Arc::new(graph.limited(document.concurrency));
        Ok(NewCode { graph, bundle: code.bundle, version: code.version })
    }

    fn find(&self, run: RunId, job: &TaskName) -> Result<TaskIx, Refusal> {
        let found = self.runs.get(&run).and_then(|held| held.run.find(job.as_str()));
        found.ok_or_else(|| Refusal::new("job-not-found", format!("job \"{job}\" not found in run \"{run}\"")))
    }

    /// Has a run in memory, also one that is over. One that an embedded server had left alone is resumed.
    async fn hold(&mut self, id: RunId, batch: &mut Batch) -> Result<(), Refusal> {
        if self.runs.contains_key(&id) {
            return Ok(());
        }
        let stored = self.parts.store.load(Load::One(id)).await;
        let mut stored = stored.map_err(|e| Refusal::new("state-failed", e.to_string()))?;
        let Some(stored) = stored.pop() else {
            return Err(match self.unmade(id) {
                Some(_) => Refusal::new("wrong-state", format!("run \"{id}\" has no row yet; try again in a moment")),
                None => Refusal::new("run-not-found", format!("no run \"{id}\"")),
            });
        };
        let held = rebuild(stored).map_err(|message| Refusal::new("bad-document", message))?;
        self.resume(id, held, batch);
        Ok(())
    }

    async fn explain(&mut self, id: RunId, job: Option<&TaskName>) -> Result<Option<Explained>, Refusal> {
        let now = self.parts.clock.now().wall;
        let at_hand = |id: RunId| self.runs.get(&id).map(|held| &held.run);
        if let Some(run) = at_hand(id) {
            let Some(mut explanations) = explanations(run, Some(&self.shard), job, now) else { return Ok(None) };
            for explanation in &mut explanations {
                name(explanation, at_hand);
                explanation.worker = self.worker_of(run, explanation);
            }
            let others = explanations.iter().flat_map(|one| one.why.runs()).filter_map(at_hand).cloned().collect();
            return Ok(Some(Explained { explanations, run: run.clone(), others }));
        }
        let stored = self.parts.store.load(Load::One(id)).await;
        let mut stored = stored.map_err(|e| Refusal::new("state-failed", e.to_string()))?;
        let Some(stored) = stored.pop() else {
            let Some(run) = self.unmade(id) else { return Ok(None) };
            let found = explanations(&run, Some(&self.shard), job, now);
            return Ok(found.map(|explanations| Explained { explanations, run, others: Vec::new() }));
        };
        let held = rebuild(stored).map_err(|message| Refusal::new("bad-document", message))?;
        // One that is unfinished here was left alone: an embedded server resumes what it is asked for.
        let found = explanations(&held.run, None, job, now);
        Ok(found.map(|explanations| Explained { explanations, run: held.run, others: Vec::new() }))
    }

    // Recovery: the normal path, from whatever was durable.

    async fn recover(&mut self) -> Result<(), StoreError> {
        let mut stored = self.parts.store.load(Load::Unfinished).await?;
        if let Some(only) = &self.parts.only {
            // An embedded server resumes what it is asked for, and ends what nobody will: unfinished cleanups.
            let kept = with_sub_runs(&stored, |stored| only.contains(&stored.run.id) || has_cleanup(stored));
            stored.retain(|stored| kept.contains(&stored.run.id));
        }
        let live: BTreeSet<String> = stored
            .iter()
            .flat_map(|stored| &stored.tasks)
            .filter_map(|task| task.attempts.last())
            .filter(|attempt| attempt.cleanup.is_none())
            .map(|attempt| attempt.id.to_string())
            .collect();
        for attempt in stored.iter().flat_map(|stored| &stored.tasks).filter_map(|task| task.attempts.last()) {
            if attempt.cleanup.is_none() && attempt.session != SessionId::SERVER {
                self.attempts.parts.workers.doubt(attempt.id, attempt.session);
            }
        }
        self.attempts.kill_leftovers(live).await;
        let mut batch = Batch::default();
        for stored in stored {
            let id = stored.run.id;
            match rebuild(stored) {
                Ok(held) => self.resume(id, held, &mut batch),
                Err(message) => tracing::error!(%id, message, "a run cannot be resumed"),
            }
        }
        step!("owner.recovered");
        self.recover_plans().await?;
        self.flush(&mut batch).await?;
        self.take_commands(&mut batch).await?;
        self.flush(&mut batch).await
    }

    fn resume(&mut self, id: RunId, held: Held, batch: &mut Batch) {
        let now: Now = self.parts.clock.now();
        self.shard.follow_run(&held.run);
        self.shard.follow(&held.run, 0..held.run.tasks.len());
        let timers = held.run.timers(now.wall);
        let lost = held.run.unattended();
        self.runs.insert(id, held);
        for work in timers {
            self.dispatch(id, work);
        }
        for (task, epoch) in lost {
            let event = Event::Lost { task, epoch, by: Loss::Owner };
            if let Err(error) = self.apply(id, &event, batch) {
                tracing::error!(%id, %error, "a task cannot be resumed");
            }
        }
    }
}

/// Who asks, when and why.
fn control(command: &Command, reason: Option<&str>) -> Control {
    Control { by: command.by.clone(), at: command.at, reason: reason.map(str::to_owned) }
}

/// Runs, and those that are the work of their jobs.
fn with_sub_runs(stored: &[StoredRun], mut wanted: impl FnMut(&StoredRun) -> bool) -> BTreeSet<RunId> {
    let mut kept: BTreeSet<RunId> = stored.iter().filter(|stored| wanted(stored)).map(|stored| stored.run.id).collect();
    loop {
        let of_kept = |cause: &Cause| matches!(cause, Cause::Job { run, .. } if kept.contains(run));
        let more: Vec<RunId> =
            stored.iter().map(|stored| &stored.run).filter(|run| of_kept(&run.cause)).map(|run| run.id).collect();
        let before = kept.len();
        kept.extend(more);
        if kept.len() == before {
            return kept;
        }
    }
}

fn has_cleanup(stored: &StoredRun) -> bool {
    stored.tasks.iter().any(|task| task.position == Position::Cleaning)
}

/// The tasks of a run that a selection names.
fn selected(run: &Run, selector: &str) -> Result<Vec<TaskIx>, Refusal> {
    run.select(selector).map_err(|message| Refusal::new("job-not-found", message))
}

fn explanations(
    run: &Run,
    shard: Option<&Shard>,
    job: Option<&TaskName>,
    now: pinrail_model::time::Micros,
) -> Option<Vec<Explanation>> {
    if run.pending.is_some() {
        return job.is_none().then(|| vec![explain_pending(run, shard)]);
    }
    let first = match job {
        Some(job) => run.find(job.as_str())?,
        None => most_telling(run)?,
    };
    let mut order = vec![first];
    if job.is_none() {
        // Instances are told of by their job.
        order.extend((0..run.tasks.len()).filter(|ix| *ix != first && run.tasks[*ix].instance.is_none()));
    }
    Some(order.into_iter().map(|ix| explain(run, shard, ix, now)).collect())
}

/// A stored run with its graph.
pub(crate) fn whole(stored: StoredRun) -> Result<Run, String> {
    rebuild(stored).map(|held| held.run)
}

fn rebuild(stored: StoredRun) -> Result<Held, String> {
    let StoredRun { mut run, tasks, documents, last_event, unique_key, .. } = stored;
    let graph_of = |version: &Sha| {
        let json = documents.get(version).ok_or_else(|| format!("version \"{version}\" is not known"))?;
        let document = Document::read(json).map_err(|errors| first_message(&errors))?;
        Graph::of(&document.jobs, tasks.iter().map(|task| task.node()))
            .map_err(|job| format!("job \"{job}\" is not in version \"{version}\""))
    };
    if run.pending.is_some() {
        return Ok(Held { run, unique_key, last_event });
    }
    let mut graph = graph_of(&run.version)?;
    graph.concurrency = documents.get(&run.version).and_then(|json| json["concurrency"].as_u64()).map(|n| n as u32);
    // A retry with new code leaves what has begun with the old as it was.
    for version in documents.keys().filter(|version| **version != run.version) {
        let places = tasks.iter().enumerate().filter(|(_, task)| task.version == *version).map(|(ix, _)| ix);
        graph = graph.with_jobs_of(&graph_of(version)?, places);
    }
    run.graph = Arc::new(graph);
    run.tasks = tasks.into_iter().map(Arc::new).collect();
    Ok(Held { run, unique_key, last_event })
}

fn task_rows(run: &Run, ix: TaskIx) -> Vec<Write> {
    let Some(task) = run.tasks.get(ix) else { return Vec::new() };
    let mut rows = vec![Write::Task(Box::new(TaskRow {
        run: run.id,
        ix: ix as u32,
        instance: task.instance_text(),
        task: task.as_ref().clone(),
    }))];
    if let Some(attempt) = task.attempt() {
        if attempt.cleanup.is_some() {
            rows.push(Write::Counters(phase_seconds(run, attempt)));
        }
        if matches!(attempt.outcome, Some(Outcome::Ended(_))) {
            rows.push(Write::DiscardOverlays(attempt.id));
        }
        rows.push(Write::Attempt(Box::new(AttemptRow {
            run: run.id,
            project: run.project.clone(),
            job: task.job.clone(),
            instance: task.instance_text(),
            epoch: task.epoch,
            attempt: attempt.clone(),
        })));
    }
    rows
}

/// How long the phases of an attempt took, as counters of it.
fn phase_seconds(run: &Run, attempt: &Attempt) -> Vec<CounterRow> {
    let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
    for phase in &attempt.phases {
        if let Some(ended_at) = phase.ended_at {
            *sums.entry(phase.name.name()).or_default() += ended_at.since(phase.started_at).as_secs_f64();
        }
    }
    let row = |(name, value): (&str, f64)| CounterRow {
        attempt: attempt.id,
        run: run.id,
        group: "phase".to_owned(),
        name: format!("{name}_seconds"),
        value,
        unit: Some("s".to_owned()),
    };
    sums.into_iter().map(row).collect()
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

/// Why a command was not carried out.
struct Refusal {
    code: &'static str,
    message: String,
    run: Option<RunId>,
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let hint = refusal.hint().map(str::to_owned);
        Self { hint, ..Self::new(refusal.code, refusal.message) }
    }
}

impl Refusal {
    /// No two active runs of a workflow have one interval.
    fn active(run: &Run) -> Self {
        let message = format!("run {} of workflow \"{}\" for the same interval is active", run.id, run.workflow);
        Self { run: Some(run.id), ..Self::new("run-exists", message) }
    }

    fn reply(&self) -> Value {
        json!({"error": {"code": self.code, "message": self.message, "hint": self.hint(), "run": self.run}})
    }

    fn hint(&self) -> Option<&'static str> {
        Some(match self.code {
            "job-not-found" => "`pinrail show RUN` lists the jobs of a run.",
            "version-not-found" => "Send the code again: run the command once more from the project's folder.",
            "bad-document" => {
                "Make a new run; this one was stored by another version of pinrail, or its workflow is lost."
            }
            "state-failed" => "Try again; if it persists, look at the disk and the server's log.",
            "run-not-found" => "List runs with `pinrail runs`.",
            _ => return None,
        })
    }

    fn new(code: &'static str, message: String) -> Self {
        Self { code, message, run: None }
    }
}
