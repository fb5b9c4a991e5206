//! A case at work: an owner on a virtual clock, workers that do what they are told, people, and what goes wrong.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use pinrail_model::admit::Scope;
use pinrail_model::backfill::{Backfill, Order, Progress};
use pinrail_model::condition::Look;
use pinrail_model::document::{Document, Sha};
use pinrail_model::fault::{Evidence, Fault};
use pinrail_model::ids::{BackfillId, CommandId, RunId, SessionId};
use pinrail_model::run::{
    Class, CleanupEnd, Ends, Event, Executed, Loss, Phase, Position, Report, RetryWish, Run, TaskIx, Verdict, Work,
};
use pinrail_model::seam::exec::Spec;
use pinrail_model::seam::store::{Activation, BackfillChange, Code, Command, CommandKind, LimitName, NewRun};
use pinrail_model::simulation::{Batch, Owner, Seen, Surroundings};
use pinrail_model::time::{Interval, Micros, Now};
use serde_json::{Value, json};

use super::case::{Act, Case, LABEL, LIST, POOLS, PROJECTS, Trouble, project_name, version, workflow_name};
use super::checks::{Checks, Coverage, name};
use super::dice::{Dice, number_of};
use super::rows::{Store, Transition};

/// How often anything may happen at one moment before the owner is said not to come to rest.
const MOST_AT_ONCE: usize = 5000;
/// How often anything may happen in a case.
const MOST_STEPS: usize = 60_000;
/// How often people look at what is held at the end, beside once for each run that is not over.
const MOST_ROUNDS: usize = 60;
/// A worker that is not heard of is lost.
const LEASE: Duration = Duration::from_secs(15);
/// The owner looks at the wall clock at least this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(15);
/// How long schedules go on after the last deed.
const AFTERWARDS: Duration = Duration::from_secs(1800);
/// One of so many moments of rest is looked at thoroughly.
const THOROUGH: u64 = 64;
const DAY: i64 = 86_400_000_000;

/// What a case came to when every rule held.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub coverage: Coverage,
    pub runs: usize,
    pub tasks: usize,
    /// Tasks among them that are instances of mapped jobs.
    pub instances: usize,
    pub attempts: usize,
    pub events: u64,
    /// Of everything that happened, in order.
    pub digest: u64,
}

/// A rule that was broken, with what led to it if that was asked for.
#[derive(Debug, Clone)]
pub struct Broken {
    pub rule: String,
    pub trace: Vec<String>,
}

/// What surrounds the owner.
pub struct Around {
    now: Now,
    dice: Dice,
    documents: Arc<BTreeMap<Sha, Arc<Document>>>,
    store: Store,
    inbox: Vec<Command>,
    checks: Checks,
    events: u64,
    digest: u64,
    trace: Option<Vec<String>>,
}

impl Around {
    fn tell(&mut self, line: impl FnOnce() -> String) {
        let at = self.now.mono;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>9.3}  {}", at.as_secs_f64(), line()));
        }
    }
}

impl Surroundings for Around {
    fn now(&self) -> Now {
        self.now
    }

    fn random(&mut self) -> u128 {
        u128::from(self.dice.roll()) << 16 | u128::from(self.dice.roll() & 0xffff)
    }

    fn document(&self, version: Sha) -> Option<Arc<Document>> {
        self.documents.get(&version).cloned()
    }

    fn stored(&self, run: RunId) -> Option<Run> {
        self.store.seen.load(run, &self.documents, false)
    }

    fn stored_backfill(&self, id: BackfillId) -> Option<(Backfill, Progress)> {
        self.store.seen.backfills.get(&id).cloned()
    }

    fn has_nothing_to_publish(&self, run: &Run, task: TaskIx) -> bool {
        run.graph.jobs[task].writes.is_none()
    }

    fn sees(&self) -> bool {
        true
    }

    fn see(&mut self, seen: &Seen<'_>) {
        self.events += 1;
        let moves = seen.fx.moves.iter();
        let moved = moves.fold(0, |sum, (ix, from, to)| number_of(&[sum, *ix as u64, *from as u64, *to as u64]));
        self.digest = number_of(&[self.digest, self.now.mono.as_nanos() as u64, u64::from(seen.result.is_ok()), moved]);
        self.checks.event(seen, self.now);
        self.tell(|| {
            let moves =
                seen.fx.moves.iter().map(|(ix, from, to)| format!(" · {} {from} → {to}", seen.after.tasks[*ix].name()));
            let moves: String = moves.collect();
            let result = match seen.result {
                Ok(()) => moves,
                Err(refused) => format!(" refused: {refused}"),
            };
            format!("{} {} {}{result}", seen.after.workflow, seen.after.id.short(), describe(seen.after, seen.event))
        });
    }
}

fn describe(run: &Run, event: &Event) -> String {
    let job = |ix: &TaskIx| run.tasks.get(*ix).map_or_else(|| ix.to_string(), |task| task.name().to_string());
    let kind = name(event);
    match event {
        Event::Reported { task, epoch, report: Report::Failed(verdict) } => {
            format!("{}#{epoch} {kind}: {}", job(task), verdict.fault)
        }
        Event::Reported { task, epoch, report: Report::PhaseStarted(phase) } => {
            format!("{}#{epoch} {kind}: {}", job(task), phase.name())
        }
        Event::Reported { task, epoch, .. }
        | Event::Published { task, epoch, .. }
        | Event::Lost { task, epoch, .. }
        | Event::Observed { task, epoch, .. }
        | Event::Elapsed { task, epoch, .. } => format!("{}#{epoch} {kind}", job(task)),
        Event::Claimed { task, .. } | Event::Granted { task, .. } => format!("{} {kind}", job(task)),
        Event::Stop { task: Some(task), .. } => format!("{} {kind}", job(task)),
        Event::Mark { tasks, ending, .. } => {
            format!("{} {kind} {}", tasks.iter().map(job).collect::<Vec<_>>().join(" "), ending.name())
        }
        Event::Retry { tasks, .. } | Event::Disable { tasks, .. } | Event::Hold { tasks: Some(tasks), .. } => {
            format!("{} {kind}", tasks.iter().map(job).collect::<Vec<_>>().join(" "))
        }
        _ => kind.to_owned(),
    }
}

/// A piece of work that somebody does.
#[derive(Debug, Clone)]
struct Process {
    run: RunId,
    task: TaskIx,
    epoch: u64,
    /// The worker on which it lives; none: in the server.
    session: Option<SessionId>,
    kind: Kind,
    stage: u8,
    tries: u8,
    /// It is thought to be dead, and will say something all the same.
    zombie: bool,
    /// What all its durations are of.
    seed: u64,
    engine: bool,
    trouble: Trouble,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Begin,
    Submit,
    Reattach,
    Complete,
    Publish,
    Clean,
}

/// Somebody who looks at a condition of a task.
#[derive(Debug, Clone)]
struct Watcher {
    run: RunId,
    task: TaskIx,
    epoch: u64,
    condition: usize,
    vain: Option<u32>,
    look: Look,
    every: Duration,
}

enum Input {
    Event(RunId, Event),
    /// From a process that waits for the answer.
    Publish(u64),
    Lost(SessionId),
    /// Who vanished, and with what.
    Launcher(Vec<(RunId, TaskIx, u64)>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Deed(usize),
    Step(u64),
    Look(u64),
    Forgotten(SessionId),
    Committed,
    Start,
}

struct Worker {
    session: SessionId,
    slots: u32,
    label: bool,
    draining: bool,
}

struct Committing {
    batch: Batch,
    transitions: Vec<Transition>,
    conflicts: BTreeSet<RunId>,
    existing: BTreeSet<RunId>,
}

/// The world of a case.
pub struct World<'a> {
    case: &'a Case,
    owner: Option<Owner<Around>>,
    alive: bool,
    committing: Option<Committing>,
    queue: BinaryHeap<Reverse<(Duration, u64, Next)>>,
    sequence: u64,
    inputs: VecDeque<Input>,
    processes: BTreeMap<u64, Process>,
    watchers: BTreeMap<u64, Watcher>,
    workers: Vec<Worker>,
    jump: i64,
    slow: (u8, Duration),
    fails: Option<bool>,
    commands: u64,
    rests: u64,
    quiet: bool,
    /// Publications whose process waits for an answer, by run and task.
    publishing: BTreeMap<(RunId, TaskIx), u64>,
}

/// Plays a case.
///
/// # Errors
/// The first rule that was broken.
pub fn play(case: &Case, traced: bool) -> Result<Outcome, Broken> {
    let mut world = World::new(case, traced);
    // A panic in the core is a broken rule as well.
    let played = catch_unwind(AssertUnwindSafe(|| world.play()));
    let rule = match played {
        Ok(Ok(())) => return Ok(world.outcome()),
        Ok(Err(rule)) => rule,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            format!("the core panics: {}", text.unwrap_or_default())
        }
    };
    Err(Broken { rule, trace: world.owner.and_then(|owner| owner.around.trace).unwrap_or_default() })
}

impl<'a> World<'a> {
    fn new(case: &'a Case, traced: bool) -> Self {
        let around = Around {
            now: Now { wall: case.start, mono: Duration::ZERO },
            dice: Dice::new(number_of(&[case.seed, 1])),
            documents: Arc::new(case.documents()),
            store: Store::default(),
            inbox: Vec::new(),
            checks: Checks::default(),
            events: 0,
            digest: 0,
            trace: traced.then(Vec::new),
        };
        let mut world = Self {
            case,
            owner: Some(Owner::new(around)),
            alive: false,
            committing: None,
            queue: BinaryHeap::new(),
            sequence: 0,
            inputs: VecDeque::new(),
            processes: BTreeMap::new(),
            watchers: BTreeMap::new(),
            workers: Vec::new(),
            jump: 0,
            slow: (0, Duration::ZERO),
            fails: None,
            commands: 0,
            rests: 0,
            quiet: false,
            publishing: BTreeMap::new(),
        };
        for plan in &case.workers {
            world.worker_comes(plan.slots, plan.label);
        }
        for project in 0..PROJECTS {
            for (pool, slots) in case.pools[project].iter().enumerate() {
                world.limit(project, Some(pool), *slots);
            }
            world.limit(project, None, case.quotas[project]);
        }
        for workflow in 0..case.workflows.len() {
            world.deploy(workflow, false);
        }
        for (ix, deed) in case.deeds.iter().enumerate() {
            world.at(deed.at, Next::Deed(ix));
        }
        world.start();
        world
    }

    fn owner(&mut self) -> &mut Owner<Around> {
        self.owner.as_mut().expect("there is an owner but while one follows another")
    }

    fn around(&mut self) -> &mut Around {
        &mut self.owner().around
    }

    fn outcome(&mut self) -> Outcome {
        let around = self.around();
        let runs = &around.store.seen.runs;
        Outcome {
            coverage: around.checks.coverage.clone(),
            runs: runs.len(),
            tasks: runs.values().map(|run| run.tasks.len()).sum(),
            instances: runs.values().flat_map(|run| &run.tasks).filter(|task| task.instance.is_some()).count(),
            attempts: runs.values().flat_map(|run| &run.tasks).map(|task| task.attempts.len()).sum(),
            events: around.events,
            digest: around.digest,
        }
    }

    // Time.

    fn at(&mut self, at: Duration, next: Next) {
        self.sequence += 1;
        self.queue.push(Reverse((at, self.sequence, next)));
    }

    fn after(&mut self, after: Duration, next: Next) {
        let at = self.around().now.mono + after;
        self.at(at, next);
    }

    fn set_time(&mut self, mono: Duration) {
        let wall = self.case.start.plus(mono).0 + self.jump;
        self.around().now = Now { wall: Micros(wall), mono };
    }

    fn play(&mut self) -> Result<(), String> {
        let last = self.case.deeds.last().map_or(Duration::ZERO, |deed| deed.at);
        self.until_quiet(last + AFTERWARDS)?;
        self.quiesce()?;
        self.until_quiet(Duration::MAX)?;
        // Runs that wait for the success of the one before are let go one after the other.
        let most = MOST_ROUNDS + self.around().store.seen.unfinished().count();
        for _ in 0..most {
            if !self.let_go() {
                return self.is_over();
            }
            self.until_quiet(Duration::MAX)?;
        }
        Err("runs do not end, however often their held jobs are tried again".to_owned())
    }

    fn until_quiet(&mut self, horizon: Duration) -> Result<(), String> {
        let (mut last, mut at_once) = (Duration::ZERO, 0);
        for _ in 0..MOST_STEPS {
            self.rest()?;
            if let Some(rule) = self.around().checks.broken.take() {
                return Err(rule);
            }
            let Some(at) = self.next_time().filter(|at| *at <= horizon) else { return Ok(()) };
            at_once = if at == last { at_once + 1 } else { 0 };
            if at_once > MOST_AT_ONCE {
                return Err("the owner does not come to rest".to_owned());
            }
            last = at;
            self.set_time(at);
            while let Some(Reverse((due, _, next))) = self.queue.peek().copied() {
                if due > at {
                    break;
                }
                self.queue.pop();
                self.happens(next)?;
                // What happens is dealt with one by one, unless chance has it otherwise.
                if !number_of(&[self.case.seed, self.sequence, due.as_nanos() as u64]).is_multiple_of(4) {
                    break;
                }
            }
        }
        Err("the case does not come to an end".to_owned())
    }

    fn next_time(&mut self) -> Option<Duration> {
        let now = self.around().now;
        let queued = self.queue.peek().map(|Reverse((at, ..))| *at);
        if !self.alive || self.committing.is_some() {
            return queued;
        }
        let (mono, wall) = self.owner().next_due();
        let fires = wall.map(|due| now.mono + due.since(now.wall).min(LONGEST_SLEEP));
        // A schedule never ends; when all else has, so has the case.
        let fires = fires.filter(|_| !self.quiet);
        [queued, mono.map(|due| due.max(now.mono)), fires].into_iter().flatten().min()
    }

    fn happens(&mut self, next: Next) -> Result<(), String> {
        match next {
            Next::Deed(ix) => self.act(self.case.deeds[ix].what),
            Next::Look(id) => {
                self.look(id);
                Ok(())
            }
            Next::Step(id) => {
                self.step(id);
                Ok(())
            }
            Next::Forgotten(session) => {
                self.inputs.push_back(Input::Lost(session));
                Ok(())
            }
            Next::Committed => self.committed(),
            Next::Start => {
                if !self.alive {
                    self.start();
                }
                Ok(())
            }
        }
    }

    // The owner.

    /// Lets the owner decide until there is nothing to decide, or a commit is waited for.
    fn rest(&mut self) -> Result<(), String> {
        for _ in 0..MOST_AT_ONCE {
            if !self.alive || self.committing.is_some() {
                return Ok(());
            }
            self.portion()?;
            let batch = self.owner().seal();
            if let Some(owner) = self.owner.as_mut() {
                let mut checks = std::mem::take(&mut owner.around.checks);
                checks.sealed(owner);
                owner.around.checks = checks;
            }
            if batch.is_empty() {
                self.check_rest();
                return Ok(());
            }
            self.commit(batch)?;
        }
        Err("the owner does not come to rest".to_owned())
    }

    fn check_rest(&mut self) {
        self.rests += 1;
        let thorough = self.rests.is_multiple_of(THOROUGH);
        let Some(owner) = self.owner.as_mut() else { return };
        let mut checks = std::mem::take(&mut owner.around.checks);
        checks.at_rest(owner, &owner.around.store.seen, owner.around.now, thorough);
        owner.around.checks = checks;
    }

    /// What is decided together.
    fn portion(&mut self) -> Result<(), String> {
        self.owner().wake();
        while let Some(input) = self.inputs.front() {
            let owner = self.owner.as_mut().expect("it is alive");
            match input {
                Input::Event(run, _) if owner.is_publishing(*run) => return Ok(()),
                Input::Publish(_) if !owner.is_settled() => return Ok(()),
                _ => {}
            }
            let Some(input) = self.inputs.pop_front() else { return Ok(()) };
            match input {
                Input::Event(run, event) => {
                    // A refused report is a late one; whoever sent it is being stopped.
                    let _ = self.owner().apply(run, &event);
                }
                Input::Publish(id) => self.publish(id),
                Input::Lost(session) => {
                    if self.owner().is_settled() {
                        self.owner().lose_session(session);
                    } else {
                        self.inputs.push_front(Input::Lost(session));
                    }
                    return Ok(());
                }
                Input::Launcher(lost) => {
                    for (run, task, epoch) in lost {
                        let _ = self.owner().apply(run, &Event::Lost { task, epoch, by: Loss::Launcher });
                    }
                    return Ok(());
                }
            }
        }
        if !self.owner().is_settled() {
            return Ok(());
        }
        let around = self.around();
        let answered = &around.store.seen.answered;
        if let Some(command) = around.inbox.iter().find(|command| !answered.contains(&command.id)).cloned() {
            self.around().tell(|| format!("{:?}", command.kind));
            if let Err(refusal) = self.owner().obey(&command) {
                self.around().tell(|| format!("refused: {}", refusal.0));
            }
        } else if let Some(backfill) = self.owner().fills.pop_front() {
            let writes = self.owner().fill(backfill);
            let rows = writes.into_iter().map(|write| Transition::Write(Arc::new(write))).collect();
            return self.around().store.commit(rows, true);
        }
        Ok(())
    }

    fn publish(&mut self, id: u64) {
        let Some(process) = self.processes.get(&id).cloned() else { return };
        if self.owner().publish(process.run, process.task, process.epoch, Vec::new()).is_ok() {
            self.publishing.insert((process.run, process.task), id);
        } else {
            self.processes.remove(&id);
        }
    }

    fn commit(&mut self, mut batch: Batch) -> Result<(), String> {
        let mut transitions = Vec::with_capacity(batch.changes.len() + batch.writes.len());
        let (mut conflicts, mut existing) = (BTreeSet::new(), BTreeSet::new());
        let owner = self.owner.as_ref().expect("it is alive");
        for (id, change) in &batch.changes {
            if change.before.is_some() && self.moved(*id) {
                conflicts.insert(*id);
                continue;
            }
            if change.unique_key.as_ref().is_some_and(|key| owner.around.store.seen.who_has(key, *id).is_some()) {
                existing.insert(*id);
                continue;
            }
            let Some(run) = owner.runs.get(id) else { continue };
            transitions.push(Transition::of(run, change));
        }
        let writes = std::mem::take(&mut batch.writes).into_iter().chain(batch.reply.take());
        transitions.extend(writes.map(|write| Transition::Write(Arc::new(write))));
        let committing = Committing { batch, transitions, conflicts, existing };
        if let Some(made) = self.fails.take() {
            self.committing = Some(committing);
            self.around()
                .tell(|| format!("the store fails; the commit was {}", if made { "made" } else { "not made" }));
            return self.die(if made { u8::MAX } else { 0 }, false, Duration::from_secs(1), Some(made));
        }
        let durable = committing.batch.durable;
        self.committing = Some(committing);
        if durable && self.slow.0 > 0 {
            self.slow.0 -= 1;
            self.after(self.slow.1, Next::Committed);
            return Ok(());
        }
        self.committed()
    }

    /// Whether the pointers of a publication have moved under it.
    fn moved(&self, run: RunId) -> bool {
        let of = |((id, _), process): (&(RunId, TaskIx), &u64)| (*id == run).then_some(*process);
        let process = self.publishing.iter().find_map(of).and_then(|id| self.processes.get(&id));
        process.is_some_and(|p| matches!(p.trouble, Trouble::Conflicts(times) if p.tries < times))
    }

    /// The store has answered.
    fn committed(&mut self) -> Result<(), String> {
        let Some(Committing { batch, transitions, conflicts, existing }) = self.committing.take() else {
            return Ok(());
        };
        self.around().store.commit(transitions, batch.durable)?;
        for (key, process) in std::mem::take(&mut self.publishing) {
            if !conflicts.contains(&key.0) {
                self.processes.remove(&process);
                continue;
            }
            let Some(process_of) = self.processes.get_mut(&process) else { continue };
            process_of.tries += 1;
            if process_of.tries >= 10 {
                let (run, event) = (process_of.run, failed(process_of, Fault::Conflict, Phase::Complete));
                self.processes.remove(&process);
                self.inputs.push_back(Input::Event(run, event));
            } else {
                self.after(Duration::from_millis(200), Next::Step(process));
            }
        }
        let begin = self.owner().conclude(batch, &conflicts);
        for id in existing {
            self.owner().leave_existing(id);
        }
        for (run, work) in begin {
            self.dispatch(run, &work);
        }
        Ok(())
    }

    /// The server ends, and another one starts later.
    fn die(&mut self, keeps: u8, zombies: bool, down: Duration, made: Option<bool>) -> Result<(), String> {
        if !self.alive {
            return Ok(());
        }
        self.alive = false;
        if let Some(committing) = self.committing.take()
            && made.unwrap_or(keeps % 2 == 1)
        {
            self.around().store.commit(committing.transitions, committing.batch.durable)?;
        }
        self.around().store.die(keeps)?;
        self.around().tell(|| "the server dies".to_owned());
        self.inputs.clear();
        self.publishing.clear();
        self.watchers.clear();
        self.kill(|_| true, zombies);
        self.after(down, Next::Start);
        Ok(())
    }

    fn start(&mut self) {
        let Some(old) = self.owner.take() else { return };
        let mut owner = Owner::new(old.around);
        owner.around.tell(|| "the server starts".to_owned());
        for worker in &mut self.workers {
            worker.session = SessionId::from_parts(1, owner.around.random());
            let labels = worker.label.then(|| LABEL.to_owned()).into_iter().collect();
            owner.shard.join(worker.session, worker.slots, labels);
            owner.shard.drain(worker.session, worker.draining);
        }
        let rows = owner.around.store.seen.clone();
        let as_text = self.case.seed.is_multiple_of(4);
        let runs: Vec<Run> =
            rows.unfinished().filter_map(|id| rows.load(id, &owner.around.documents, as_text)).collect();
        let limits = rows.limits.into_iter().map(|((project, name), value)| (project, name, value)).collect();
        let counted = |(mut backfill, mut progress): (Backfill, Progress)| {
            let fresh = Progress::default();
            (progress.running, progress.succeeded) = (fresh.running, fresh.succeeded);
            (progress.failed, progress.stopped) = (fresh.failed, fresh.stopped);
            for index in 0..backfill.intervals.len() as u32 {
                if let Some(stored) = rows.runs.get(&backfill.run_id(index)) {
                    progress.follow(pinrail_model::run::RunState::Queued, stored.state);
                }
            }
            backfill.done_before.clear();
            (backfill, progress)
        };
        let open = rows.backfills.into_values().filter(|(backfill, progress)| !backfill.state(progress).is_final());
        let backfills = open.map(counted).collect();
        let triggers = rows.triggers.into_values().collect();
        let begin = owner.recover(runs, rows.holds.into_iter().collect(), limits, triggers, backfills);
        let now = owner.around.now;
        owner.around.checks.restarted(&owner.runs, now);
        self.owner = Some(owner);
        self.alive = true;
        for (run, work) in begin {
            self.dispatch(run, &work);
        }
    }

    // Workers.

    fn worker_comes(&mut self, slots: u32, label: bool) {
        let session = SessionId::from_parts(1, self.around().random());
        self.workers.push(Worker { session, slots, label, draining: false });
        if self.alive {
            let labels = label.then(|| LABEL.to_owned()).into_iter().collect();
            self.owner().shard.join(session, slots, labels);
        }
    }

    fn worker_lost(&mut self, which: u64, zombies: bool) {
        if self.workers.is_empty() {
            return;
        }
        let worker = self.workers.remove((which % self.workers.len() as u64) as usize);
        let session = worker.session;
        self.around().tell(|| format!("worker {} is lost", session.short()));
        self.kill(|process| process.session == Some(session), zombies);
        self.after(LEASE, Next::Forgotten(session));
    }

    /// Ends processes; one that is frozen instead says something after it was given up.
    fn kill(&mut self, which: impl Fn(&Process) -> bool, zombies: bool) {
        for process in self.processes.values_mut().filter(|process| which(process)) {
            process.zombie = true;
        }
        if !zombies {
            self.processes.retain(|_, process| !process.zombie);
        }
    }

    fn dispatch(&mut self, id: RunId, work: &Work) {
        let Some(owner) = self.owner.as_mut() else { return };
        owner.around.checks.dispatched(id, work, &owner.around.store.durable);
        let (kind, task, epoch) = match *work {
            Work::Begin { task, epoch } => (Kind::Begin, task, epoch),
            Work::Submit { task, epoch } => (Kind::Submit, task, epoch),
            Work::Reattach { task, epoch } => (Kind::Reattach, task, epoch),
            Work::Complete { task, epoch } => (Kind::Complete, task, epoch),
            Work::Publish { task, epoch } => (Kind::Publish, task, epoch),
            Work::Clean { task, epoch, .. } => (Kind::Clean, task, epoch),
            Work::Watch { task, epoch } => return self.watch(id, task, epoch),
            Work::Set { .. } => return,
        };
        let Some(run) = owner.runs.get(&id) else { return };
        let Some(attempt) = run.tasks[task].attempt() else { return };
        let (workflow, job) = place(run, task);
        let plan = &self.case.workflows[workflow].jobs[job];
        let seed = number_of(&[
            self.case.seed,
            workflow as u64,
            run.interval.start.0.cast_unsigned(),
            job as u64,
            u64::from(attempt.number),
            kind as u64,
            run.tasks[task].index().map_or(0, |index| u64::from(index) + 1),
        ]);
        let local = matches!(kind, Kind::Begin | Kind::Complete | Kind::Clean);
        let process = Process {
            run: id,
            task,
            epoch,
            session: local.then_some(attempt.session),
            kind,
            stage: 0,
            tries: 0,
            zombie: false,
            seed,
            engine: plan.engine,
            trouble: plan.troubles.get(attempt.number as usize - 1).copied().unwrap_or(Trouble::None),
        };
        let of = |other: &Process| (other.run, other.task) == (id, task) && !other.zombie;
        if kind == Kind::Begin && self.processes.values().any(|other| of(other) && other.kind != Kind::Publish) {
            let rule = format!("two processes work on task {task} of run {id}");
            self.around().checks.broken.get_or_insert(rule);
        }
        // Whoever goes on makes sure first that nobody else does.
        self.processes.retain(|_, other| !of(other));
        self.sequence += 1;
        let pid = self.sequence;
        self.processes.insert(pid, process);
        let wait = Duration::from_millis(seed % 50);
        self.after(wait, Next::Step(pid));
    }

    fn watch(&mut self, id: RunId, task: TaskIx, epoch: u64) {
        let Some(run) = self.owner.as_ref().and_then(|owner| owner.runs.get(&id)) else { return };
        let Some(watch) = &run.tasks[task].watch else { return };
        let (workflow, job) = place(run, task);
        let waits = self.case.workflows[workflow].jobs[job].waits.iter().zip(&watch.seen).enumerate();
        let unmet = waits.filter(|(_, (_, seen))| !seen.met);
        let watchers: Vec<Watcher> = unmet
            .map(|(condition, (plan, _))| Watcher {
                run: id,
                task,
                epoch,
                condition,
                vain: plan.vain,
                look: plan.look.clone(),
                every: Duration::from_secs(u64::from(plan.every)),
            })
            .collect();
        for watcher in watchers {
            self.sequence += 1;
            let id = self.sequence;
            self.watchers.insert(id, watcher);
            self.after(Duration::ZERO, Next::Look(id));
        }
    }

    fn look(&mut self, id: u64) {
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        let look = match &mut watcher.vain {
            Some(0) => watcher.look.clone(),
            Some(vain) => {
                *vain -= 1;
                Look::NotYet
            }
            None => Look::NotYet,
        };
        let watcher = watcher.clone();
        let (task, epoch, condition) = (watcher.task, watcher.epoch, watcher.condition);
        let (what, found) = ("file".to_owned(), format!("{look:?}"));
        // One whose task has gone on looks once more before it hears of that.
        let goes_on = self.owner.as_ref().and_then(|owner| owner.runs.get(&watcher.run)).is_some_and(|run| {
            let task = &run.tasks[task];
            task.epoch == epoch && task.position == Position::Waiting && task.watch.is_some()
        });
        let seen = look != Look::NotYet;
        self.inputs.push_back(Input::Event(watcher.run, Event::Observed { task, epoch, condition, look, what, found }));
        if goes_on && !seen && watcher.vain.is_some() {
            self.after(watcher.every, Next::Look(id));
        } else {
            self.watchers.remove(&id);
        }
    }

    fn step(&mut self, id: u64) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        // One that is frozen speaks up long after.
        if process.zombie && process.tries == 0 {
            process.tries = 1;
            return self.after(Duration::from_secs(20), Next::Step(id));
        }
        if process.kind == Kind::Publish {
            if process.zombie {
                let (run, task, epoch) = (process.run, process.task, process.epoch);
                self.processes.remove(&id);
                self.inputs.push_back(Input::Event(run, Event::Published { task, epoch, written: Vec::new() }));
            } else {
                self.inputs.push_back(Input::Publish(id));
            }
            return;
        }
        let stage = process.stage;
        process.stage += 1;
        let process = process.clone();
        let (reports, next) = process.say(stage);
        for report in reports {
            let event = Event::Reported { task: process.task, epoch: process.epoch, report };
            self.inputs.push_back(Input::Event(process.run, event));
        }
        match next {
            Some(wait) => self.after(wait, Next::Step(id)),
            None => {
                self.processes.remove(&id);
            }
        }
    }

    // People.

    fn send(&mut self, kind: CommandKind) {
        self.commands += 1;
        let now = self.around().now;
        let id = CommandId::from_parts(1, u128::from(self.commands));
        self.around().inbox.push(Command { id, at: now.wall, by: "anna".to_owned(), kind });
    }

    fn limit(&mut self, project: usize, pool: Option<usize>, value: Option<u32>) {
        let name = match pool {
            Some(pool) => LimitName::Pool(POOLS[pool].parse().expect("it is a name")),
            None => LimitName::Quota,
        };
        self.send(CommandKind::SetLimit { project: project_name(project), name, value, description: None });
    }

    fn deploy(&mut self, workflow: usize, later: bool) {
        let project = self.case.project(workflow);
        let mine = |other: &usize| self.case.project(*other) == project && *other != workflow;
        let keep = (0..self.case.workflows.len()).filter(mine).map(workflow_name).collect();
        let sha = version(workflow, later);
        let at = self.around().now.wall;
        let versions = BTreeMap::from([(workflow_name(workflow), sha)]);
        self.send(CommandKind::Activate(Box::new(Activation {
            project,
            target: None,
            bundle: sha,
            versions,
            keep,
            channels: BTreeMap::new(),
            at,
        })));
    }

    fn interval(&self, day: u32) -> Interval {
        let start = 946_684_800_000_000 + i64::from(day) * DAY;
        Interval { start: Micros(start), end: Micros(start + DAY) }
    }

    /// All runs that were ever stored.
    fn run(&mut self, which: u64) -> Option<RunId> {
        let runs = &self.around().store.seen.runs;
        let place = (which % runs.len().max(1) as u64) as usize;
        runs.keys().nth(place).copied()
    }

    /// A task of those at a position.
    fn task(&mut self, which: u64, at: impl Fn(&pinrail_model::run::Task) -> bool) -> Option<(RunId, String)> {
        let runs = &self.around().store.seen.runs;
        let tasks = runs.iter().flat_map(|(id, run)| run.tasks.iter().map(move |task| (*id, task)));
        let found: Vec<_> = tasks.filter(|(_, task)| at(task)).collect();
        let (run, task) = found.get((which % found.len().max(1) as u64) as usize)?;
        let below = if which >> 60 == 0 { "+" } else { "" };
        let below = if task.instance.is_some() { "" } else { below };
        Some((*run, format!("{}{below}", task.name())))
    }

    fn backfill(&mut self, which: u64) -> Option<BackfillId> {
        let backfills = &self.around().store.seen.backfills;
        backfills.keys().nth((which % backfills.len().max(1) as u64) as usize).copied()
    }

    fn scope(&self, which: u64) -> Scope {
        let workflow = (which / 8) as usize % self.case.workflows.len();
        let project = self.case.project(workflow);
        match which % 4 {
            0 => Scope::Platform,
            1 => Scope::Project { project },
            _ => Scope::Workflow { project, workflow: workflow_name(workflow) },
        }
    }

    fn code(&mut self, run: RunId, which: u64) -> Option<Code> {
        let row = &self.around().store.seen.runs.get(&run)?.row;
        let workflow = row.workflow.as_str()[1..].parse().ok()?;
        let sha = version(workflow, which & 1 << 40 == 0);
        Some(Code { bundle: sha, version: sha })
    }

    #[allow(clippy::too_many_lines, reason = "one line for each thing that can happen")]
    fn act(&mut self, act: Act) -> Result<(), String> {
        self.around().tell(|| format!("-- {act:?}"));
        let reason = None;
        let kind = match act {
            Act::Run { workflow, day } => self.new_run(workflow, day),
            Act::Backfill { workflow, from, days, concurrency, newest } => {
                let order = if newest { Order::Newest } else { Order::Oldest };
                self.new_backfill(workflow, (from, days), concurrency, order)
            }
            Act::PauseBackfill(which) => self.change(which, BackfillChange::Pause),
            Act::ResumeBackfill(which) => self.change(which, BackfillChange::Resume),
            Act::EditBackfill(which, concurrency) => {
                let params = Some(BTreeMap::from([("n".to_owned(), json!(concurrency))]));
                self.change(which, BackfillChange::Edit { concurrency: Some(concurrency), params })
            }
            Act::CancelBackfill(which) => self.change(which, BackfillChange::Cancel),
            Act::StopRun(which) => self.run(which).map(|run| CommandKind::Stop { run, job: None, reason }),
            Act::StopTask(which, at) => {
                let found = self.task(which, |task| task.position == at);
                let one = |(run, jobs): (RunId, String)| (run, jobs.trim_end_matches('+').parse().ok());
                found.map(one).map(|(run, job)| CommandKind::Stop { run, job, reason })
            }
            Act::Retry(which) => self.run(which).map(|run| CommandKind::Retry { run, jobs: None, code: None }),
            Act::RetryTask(which, at) => {
                let found = self.task(which, |task| task.position == at);
                found.map(|(run, jobs)| CommandKind::Retry { run, jobs: Some(jobs), code: None })
            }
            Act::RetryWithCode(which) => match self.run(which) {
                Some(run) => {
                    let code = self.code(run, which);
                    Some(CommandKind::Retry { run, jobs: None, code })
                }
                None => None,
            },
            Act::Mark(which, at, ending) => {
                let found = self.task(which, |task| task.position == at);
                found.map(|(run, jobs)| CommandKind::Mark { run, jobs, ending, reason })
            }
            Act::HoldTask(which, at) => {
                let found = self.task(which, |task| task.position == at);
                found.map(|(run, jobs)| CommandKind::HoldRun { run, jobs: Some(jobs), held: true, reason })
            }
            Act::ReleaseTask(which) => {
                let found = self.task(which, |task| task.hold.is_some() || task.position == Position::Held);
                found.map(|(run, jobs)| CommandKind::HoldRun { run, jobs: Some(jobs), held: false, reason })
            }
            Act::HoldRun(which) => {
                self.run(which).map(|run| CommandKind::HoldRun { run, jobs: None, held: true, reason })
            }
            Act::ReleaseRun(which) => {
                self.run(which).map(|run| CommandKind::HoldRun { run, jobs: None, held: false, reason })
            }
            Act::Disable(which, at) => {
                let found = self.task(which, |task| task.position == at);
                found.map(|(run, jobs)| CommandKind::Disable { run, jobs, disabled: true, reason })
            }
            Act::Enable(which) => {
                let found = self.task(which, |task| task.disabled.is_some());
                found.map(|(run, jobs)| CommandKind::Disable { run, jobs, disabled: false, reason })
            }
            Act::Reload(which) => match self.run(which) {
                Some(run) => self.code(run, which).map(|code| CommandKind::Reload { run, code }),
                None => None,
            },
            Act::Pause(workflow) => Some(self.pause(workflow, true)),
            Act::Resume(workflow) => Some(self.pause(workflow, false)),
            Act::Deploy { workflow, later } => {
                self.deploy(workflow, later);
                None
            }
            Act::HoldScope { scope, abort } => {
                Some(CommandKind::HoldScope { scope: self.scope(scope), held: true, abort, reason })
            }
            Act::ReleaseScope(scope) => {
                Some(CommandKind::HoldScope { scope: self.scope(scope), held: false, abort: false, reason })
            }
            Act::Pool { project, pool, slots } => {
                self.limit(project, Some(pool), slots);
                None
            }
            Act::Quota { project, slots } => {
                self.limit(project, None, slots);
                None
            }
            Act::Drain(which) => {
                self.drain(which);
                None
            }
            Act::ServerDies { down, keeps, zombies } => {
                self.die(keeps, zombies, Duration::from_secs(u64::from(down)), None)?;
                None
            }
            Act::WorkerLost { which, zombies } => {
                self.worker_lost(which, zombies);
                None
            }
            Act::WorkerComes { slots, label } => {
                self.worker_comes(slots, label);
                None
            }
            Act::LauncherLost => {
                self.launcher_lost();
                None
            }
            Act::ClockJumps(seconds) => {
                self.jump += i64::from(seconds) * 1_000_000;
                let mono = self.around().now.mono;
                self.set_time(mono);
                None
            }
            Act::StoreSlow { commits, millis } => {
                self.slow = (commits, Duration::from_millis(u64::from(millis)));
                None
            }
            Act::StoreFails { made } => {
                self.fails = Some(made);
                None
            }
        };
        if let Some(kind) = kind {
            self.send(kind);
        }
        Ok(())
    }

    fn new_run(&mut self, workflow: usize, day: u32) -> Option<CommandKind> {
        let id = RunId::from_parts(self.commands, self.around().random());
        let sha = version(workflow, false);
        Some(CommandKind::CreateRun(Box::new(NewRun {
            id,
            project: self.case.project(workflow),
            workflow: workflow_name(workflow),
            target: None,
            version: sha,
            bundle: sha,
            class: Class::Interactive,
            one_off: false,
            job: None,
            interval: self.interval(day),
            tz: "UTC".to_owned(),
            params: BTreeMap::new(),
            param_types: BTreeMap::new(),
            outside: BTreeMap::new(),
            executors: BTreeMap::new(),
            by: "anna".to_owned(),
            jobs: None,
            unique_key: None,
            notify: None,
            replay_of: None,
        })))
    }

    fn new_backfill(
        &mut self,
        workflow: usize,
        (from, days): (u32, u32),
        concurrency: u32,
        order: Order,
    ) -> Option<CommandKind> {
        let now = self.around().now.wall;
        let id = BackfillId::from_parts(u64::try_from(now.0 / 1000).ok()?, self.around().random());
        let sha = version(workflow, false);
        Some(CommandKind::CreateBackfill(Box::new(Backfill {
            id,
            project: self.case.project(workflow),
            workflow: workflow_name(workflow),
            target: None,
            version: sha,
            bundle: sha,
            by: "anna".to_owned(),
            created_at: now,
            class: Class::Backfill,
            tz: "UTC".to_owned(),
            jobs: None,
            params: BTreeMap::new(),
            param_types: BTreeMap::new(),
            executors: BTreeMap::new(),
            outside: BTreeMap::new(),
            order,
            concurrency,
            intervals: (from..from + days).map(|day| self.interval(day)).collect(),
            done_before: Vec::new(),
        })))
    }

    fn change(&mut self, which: u64, change: BackfillChange) -> Option<CommandKind> {
        self.backfill(which).map(|id| CommandKind::ChangeBackfill { id, change, reason: None })
    }

    fn pause(&self, workflow: usize, paused: bool) -> CommandKind {
        let project = self.case.project(workflow);
        CommandKind::Pause { project, workflow: workflow_name(workflow), target: None, paused, reason: None }
    }

    fn drain(&mut self, which: u64) {
        let place = (which % self.workers.len().max(1) as u64) as usize;
        let Some(worker) = self.workers.get_mut(place) else { return };
        worker.draining = true;
        let session = worker.session;
        if self.alive {
            self.owner().shard.drain(session, true);
        }
    }

    fn launcher_lost(&mut self) {
        let local = |process: &Process| process.session.is_some() && !process.zombie;
        let lost = self.processes.values().filter(|process| local(process));
        let lost = lost.map(|process| (process.run, process.task, process.epoch)).collect();
        self.kill(local, false);
        if self.alive {
            self.inputs.push_back(Input::Launcher(lost));
        }
    }

    // The end.

    /// Nothing goes wrong any more, nothing is held, and there are workers: everything must come to its end.
    fn quiesce(&mut self) -> Result<(), String> {
        self.around().tell(|| "-- nothing goes wrong any more".to_owned());
        self.quiet = true;
        self.fails = None;
        for workflow in 0..self.case.workflows.len() {
            let project = self.case.project(workflow);
            let (bundle, at) = (version(workflow, false), self.around().now.wall);
            let (versions, keep) = (BTreeMap::new(), BTreeSet::new());
            self.send(CommandKind::Activate(Box::new(Activation {
                project,
                target: None,
                bundle,
                versions,
                keep,
                channels: BTreeMap::new(),
                at,
            })));
        }
        let scopes: Vec<Scope> = self.around().store.seen.holds.keys().cloned().collect();
        for scope in scopes {
            self.send(CommandKind::HoldScope { scope, held: false, abort: false, reason: None });
        }
        for project in 0..PROJECTS {
            for pool in 0..POOLS.len() {
                self.limit(project, Some(pool), Some(2));
            }
            self.limit(project, None, None);
        }
        let backfills: Vec<BackfillId> = self.around().store.seen.backfills.keys().copied().collect();
        for id in backfills {
            self.send(CommandKind::ChangeBackfill { id, change: BackfillChange::Resume, reason: None });
        }
        let runs: Vec<RunId> = self.around().store.seen.runs.keys().copied().collect();
        for run in runs {
            self.send(CommandKind::HoldRun { run, jobs: None, held: false, reason: None });
        }
        self.worker_comes(4, true);
        Ok(())
    }

    /// Lets go what a person must look at; answers whether there was anything.
    fn let_go(&mut self) -> bool {
        let rows = &self.around().store.seen;
        let mut kinds = Vec::new();
        for (id, stored) in &rows.runs {
            for task in stored.tasks.iter().filter(|task| task.position == Position::Held) {
                let (run, jobs) = (*id, Some(task.name().to_string()));
                kinds.push(CommandKind::HoldRun { run, jobs, held: false, reason: None });
            }
            // What waits for the success of a run gets it.
            let waited_for = rows.unfinished().next().is_some() && kinds.is_empty();
            if waited_for && matches!(stored.state.name(), "failed" | "cancelled") {
                let jobs = stored.tasks.iter().filter(|task| task.instance.is_none());
                let failed = jobs.filter(|task| !task.ending.is_some_and(|ending| ending.is_good()));
                let jobs: Vec<String> = failed.map(|task| task.job.to_string()).collect();
                if !jobs.is_empty() {
                    let (run, jobs) = (*id, jobs.join(","));
                    let ending = pinrail_model::run::Ending::Succeeded;
                    kinds.push(CommandKind::Mark { run, jobs, ending, reason: None });
                }
            }
        }
        let any = !kinds.is_empty();
        for kind in kinds {
            self.send(kind);
        }
        any
    }

    fn is_over(&mut self) -> Result<(), String> {
        let around = self.around();
        if let Some(run) = around.store.seen.unfinished().next() {
            let stored = &around.store.seen.runs[&run];
            let tasks: Vec<String> =
                stored.tasks.iter().map(|task| format!("{} {}", task.name(), task.state_name())).collect();
            let pending = &stored.row.pending;
            return Err(format!("run {run} does not end; it is pending {pending:?}; {}", tasks.join(", ")));
        }
        for (id, (backfill, progress)) in &around.store.seen.backfills {
            if !backfill.state(progress).is_final() {
                return Err(format!("backfill {id} does not end: {progress:?}"));
            }
        }
        Ok(())
    }
}

/// The numbers of a task's workflow and job.
fn place(run: &Run, task: TaskIx) -> (usize, usize) {
    let number = |text: &str| text[1..].parse::<usize>().unwrap_or(0);
    (number(run.workflow.as_str()), number(run.tasks[task].job.as_str()))
}

fn failed(process: &Process, fault: Fault, phase: Phase) -> Event {
    let report = Report::Failed(Verdict::failed(fault, Some(phase), Evidence::new("it went wrong")));
    Event::Reported { task: process.task, epoch: process.epoch, report }
}

impl Process {
    fn lasts(&self, stage: u8, least: u64, most: u64) -> Duration {
        let number = number_of(&[self.seed, u64::from(stage)]);
        // Short ones are more frequent than long ones.
        let (a, b) = (number % 1000, number / 1000 % 1000);
        Duration::from_millis(least + (most - least) * a * b / 1_000_000)
    }

    /// What jobs below are mapped over: mostly a list, another one for each attempt.
    fn list(&self) -> Option<Value> {
        let number = number_of(&[self.seed, 77]);
        match number % 24 {
            0 => None,
            1 => Some(json!("text")),
            _ => Some((0..number / 24 % 5).map(|item| json!(number % 1000 + item)).collect()),
        }
    }

    /// What it reports at a stage, and how long the next one takes.
    fn say(&self, stage: u8) -> (Vec<Report>, Option<Duration>) {
        let fail = |fault: Fault, phase: Phase| {
            Report::Failed(Verdict::failed(fault, Some(phase), Evidence::new("it failed")))
        };
        let wish = |retry: RetryWish| {
            Report::Failed(Verdict {
                retry,
                ..Verdict::failed(Fault::User, Some(Phase::Execute), Evidence::new("exit"))
            })
        };
        let executed = || Executed { result: json!(1), spec: None, outputs: BTreeMap::new() };
        let completed = || {
            let ended = Report::PhaseEnded { phase: Phase::Complete, ok: true };
            let mut outputs = BTreeMap::from([("n".to_owned(), json!(1))]);
            outputs.extend(self.list().map(|list| (LIST.to_owned(), list)));
            (vec![ended, Report::Completed { outputs }], None)
        };
        let work = || match self.trouble {
            Trouble::Hangs => Duration::from_secs(36_000),
            _ => self.lasts(stage, 10, 1_500_000),
        };
        match (self.kind, stage) {
            (Kind::Begin, 0) => (vec![Report::PhaseStarted(Phase::Setup)], Some(self.lasts(stage, 0, 5000))),
            (Kind::Begin, 1) => match self.trouble {
                Trouble::Setup(fault) => {
                    (vec![Report::PhaseEnded { phase: Phase::Setup, ok: false }, fail(fault, Phase::Setup)], None)
                }
                _ => {
                    let left = Report::Left { state: json!({"n": 1}) };
                    let ended = Report::PhaseEnded { phase: Phase::Setup, ok: true };
                    let viewed = Report::Viewed { catalog_seq: 1 };
                    (vec![left, ended, viewed, Report::PhaseStarted(Phase::Execute)], Some(work()))
                }
            },
            (Kind::Begin, 2) => match self.trouble {
                Trouble::Execute(fault) => (vec![fail(fault, Phase::Execute)], None),
                Trouble::Later => (vec![wish(RetryWish::Later)], None),
                Trouble::Never => (vec![wish(RetryWish::Never)], None),
                _ if self.engine => {
                    let command = vec!["x".to_owned()];
                    let spec = Some(Spec::Shell { command, env: BTreeMap::new() });
                    (vec![Report::Specified(Executed { spec, ..executed() })], None)
                }
                _ => {
                    let ended = Report::PhaseEnded { phase: Phase::Execute, ok: true };
                    let started = Report::PhaseStarted(Phase::Complete);
                    (vec![ended, Report::Executed(executed()), started], Some(self.lasts(stage, 0, 20_000)))
                }
            },
            (Kind::Begin | Kind::Complete, 3) | (Kind::Complete, 1) => match self.trouble {
                Trouble::Complete(fault) => (vec![fail(fault, Phase::Complete)], None),
                _ => completed(),
            },
            (Kind::Complete, _) => (vec![Report::PhaseStarted(Phase::Complete)], Some(self.lasts(stage, 0, 20_000))),
            (Kind::Submit, 0) => (vec![Report::Submitted { handle: json!("h") }], Some(work())),
            (Kind::Reattach, 0) if self.seed.is_multiple_of(2) => {
                let lost = Verdict {
                    ends: Ends::Lost,
                    lost: Some(Loss::Owner),
                    ..Verdict::failed(Fault::Platform, Some(Phase::Execute), Evidence::new("lost"))
                };
                (vec![Report::Failed(lost)], None)
            }
            (Kind::Reattach, 0) => (Vec::new(), Some(work())),
            (Kind::Submit | Kind::Reattach, _) => match self.trouble {
                Trouble::Engine(fault) => (vec![fail(fault, Phase::Execute)], None),
                _ => (vec![Report::EngineEnded { result: Value::Null, outputs: BTreeMap::new() }], None),
            },
            (Kind::Clean, 0) => (vec![Report::PhaseStarted(Phase::Cleanup)], Some(self.lasts(stage, 0, 30_000))),
            (Kind::Clean, _) => {
                let ok = self.trouble != Trouble::Cleanup;
                let detail = (!ok).then(|| "it left something".to_owned());
                (vec![Report::CleanupEnded(CleanupEnd { ok, detail })], None)
            }
            (Kind::Begin | Kind::Publish, _) => (Vec::new(), None),
        }
    }
}
