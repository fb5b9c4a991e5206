//! The transition function of one run. It reads like the specification it is: one small function per event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::edges::is_legal;
use super::{
    Attempt, CleanupEnd, Control, Effects, Ending, Ends, Event, Executed, Graph, Happening, Instance, Loss, NewCode,
    Outcome, Pending, Phase, PhaseRecord, PhaseState, Position, Refused, Report, RetryWish, Run, RunState, Step, Stop,
    Task, TaskIx, Timer, Verdict, Work,
};
use crate::condition::{Look, Otherwise, Seen, Watch};
use crate::document::{LARGEST_GATHERED, MOST_INSTANCES, MOST_TASKS, RunIf};
use crate::fault::{Evidence, Fault, Reason};
use crate::ids::{AttemptId, SessionId};
use crate::seam::lake::Written;
use crate::time::{Micros, Now};

/// Warnings of one attempt; they travel with its row.
const MOST_WARNINGS: usize = 20;
/// The owner may die this often in a row under a task before the task is suspected of causing it.
const MOST_OWNER_DEATHS: u32 = 10;
/// The second worker that is lost with the same task makes the task a suspect.
const MOST_SESSIONS_LOST: u32 = 2;

/// Applies one event: changes the run and says what is to be done once the change is stored.
///
/// # Errors
/// [`Refused`] when the event does not fit; then nothing has changed, and `fx` has nothing of a person's event.
pub fn apply(run: &mut Run, event: &Event, now: Now, fx: &mut Effects) -> Result<(), Refused> {
    // What a person asks for is about several tasks, of which the last may be the one that refuses.
    let saved = event.is_a_persons().then(|| run.clone());
    let before = run.state();
    let mut machine = Machine { run, now: now.wall, fx };
    let result = machine.obey(event);
    match (result, saved) {
        (Ok(()), _) => {
            machine.follow_run_state(before);
            Ok(())
        }
        (Err(refused), saved) => {
            if let Some(saved) = saved {
                *run = saved;
                *fx = Effects::default();
            }
            Err(refused)
        }
    }
}

struct Machine<'a> {
    run: &'a mut Run,
    now: Micros,
    fx: &'a mut Effects,
}

impl Machine<'_> {
    // Events.

    fn obey(&mut self, event: &Event) -> Result<(), Refused> {
        match event {
            Event::Created => self.created(),
            Event::Turned => self.turned()?,
            Event::Admitted { graph } => self.admitted(graph)?,
            Event::Claimed { task, attempt, session, executor } => {
                self.known(*task)?;
                self.claimed(*task, *attempt, *session, *executor)?;
            }
            Event::Granted { task, session } => {
                self.known(*task)?;
                self.granted(*task, *session);
            }
            Event::Reported { task, epoch, report } => {
                self.owned(*task, *epoch)?;
                self.reported(*task, report)?;
            }
            Event::Published { task, epoch, written } => {
                self.owned(*task, *epoch)?;
                self.published(*task, written)?;
            }
            Event::Lost { task, epoch, by } => {
                self.owned(*task, *epoch)?;
                self.lost(*task, *by);
            }
            Event::Elapsed { task, epoch, timer } => {
                self.known(*task)?;
                if !self.run.tasks[*task].heeds(*epoch, *timer) {
                    return Err(Refused::Stale);
                }
                self.elapsed(*task, *timer);
            }
            Event::Observed { task, epoch, condition, look, what, found } => {
                self.owned(*task, *epoch)?;
                self.observed(*task, *condition, look, what, found)?;
            }
            Event::Stop { task, by, reason } => self.stop(*task, by, reason.as_deref())?,
            Event::Retry { tasks, by, code } => self.retry(tasks, by, code.as_ref())?,
            Event::Mark { tasks, ending, control } => self.mark(tasks, *ending, control)?,
            Event::Hold { tasks, control, by } => self.hold_tasks(tasks.as_deref(), control.as_ref(), by)?,
            Event::Disable { tasks, control, by } => self.disable(tasks, control.as_ref(), by)?,
            Event::Reload { by, code } => self.reload(by, code)?,
        }
        Ok(())
    }

    // What every event begins with.

    fn known(&self, ix: TaskIx) -> Result<(), Refused> {
        if ix < self.run.tasks.len() { Ok(()) } else { Err(Refused::NoSuchTask(ix)) }
    }

    fn owned(&self, ix: TaskIx, epoch: u64) -> Result<(), Refused> {
        self.known(ix)?;
        if self.run.tasks[ix].epoch == epoch { Ok(()) } else { Err(Refused::Stale) }
    }

    fn task(&mut self, ix: TaskIx) -> &mut Task {
        self.fx.touched.insert(ix);
        Arc::make_mut(&mut self.run.tasks[ix])
    }

    fn with_attempt<T>(&mut self, ix: TaskIx, change: impl FnOnce(&mut Attempt) -> T) -> Option<T> {
        self.task(ix).attempts.last_mut().map(|attempt| change(Arc::make_mut(attempt)))
    }

    fn position(&self, ix: TaskIx) -> Position {
        self.run.tasks[ix].position
    }

    /// The one place where a task moves. An illegal move is refused, so that no caller can invent one.
    fn shift(&mut self, ix: TaskIx, to: Position) -> Result<(), Refused> {
        let from = self.position(ix);
        if !is_legal(from, to) {
            let job = self.run.tasks[ix].name();
            return Err(Refused::WrongState(format!("job \"{job}\" cannot go from {from} to {to}")));
        }
        self.task(ix).position = to;
        self.fx.moves.push((ix, from, to));
        Ok(())
    }

    /// The move from a position to itself: what was under way there was lost and is begun again.
    fn again(&mut self, ix: TaskIx) {
        let at = self.position(ix);
        self.fx.moves.push((ix, at, at));
    }

    fn note(&mut self, kind: &'static str, task: Option<TaskIx>, data: Value) {
        self.fx.history.push(Happening { kind, task, data });
    }

    // Readiness.

    fn created(&mut self) {
        self.fx.durable = true;
        self.fx.run_touched = true;
        self.note("run-created", None, json!({}));
        self.begin();
    }

    fn turned(&mut self) -> Result<(), Refused> {
        if self.run.pending != Some(Pending::Backfill) {
            return Err(Refused::WrongState("it is not waiting for its turn".to_owned()));
        }
        self.fx.durable = true;
        self.fx.run_touched = true;
        self.run.pending = Some(Pending::Turn);
        Ok(())
    }

    fn admitted(&mut self, graph: &Arc<Graph>) -> Result<(), Refused> {
        if self.run.pending.take().is_none() {
            return Err(Refused::WrongState("the run has begun already".to_owned()));
        }
        self.fx.durable = true;
        self.fx.run_touched = true;
        self.run.tasks = Run::new_tasks(graph, self.run.bundle, self.run.version);
        self.run.graph = Arc::clone(graph);
        self.note("run-admitted", None, json!({}));
        self.begin();
        Ok(())
    }

    /// Everything that waits for nothing is ready.
    fn begin(&mut self) {
        for ix in 0..self.run.tasks.len() {
            self.fx.touched.insert(ix);
        }
        for ix in 0..self.run.tasks.len() {
            self.settle_from(ix);
        }
    }

    /// Settles a waiting task and, when it ended without running, all that this decides below it.
    fn settle_from(&mut self, ix: TaskIx) {
        let mut open = vec![ix];
        while let Some(ix) = open.pop() {
            if self.position(ix) != Position::Waiting {
                continue;
            }
            match self.allowed(ix) {
                Allowed::NotYet => {}
                Allowed::Yes if self.run.tasks[ix].disabled.is_some() => {
                    self.end_without(ix, Ending::Disabled, &mut open);
                }
                Allowed::Yes if !self.run.conditions_met(ix) => self.watch(ix),
                Allowed::Yes if self.run.graph.jobs[ix].map.is_some() => self.spread_or_hold(ix, &mut open),
                Allowed::Yes => self.make_ready(ix),
                Allowed::Over(ending) => match too_large(self.run, ix).filter(|_| ending == Ending::Succeeded) {
                    Some(evidence) => self.refuse_map(ix, evidence, &mut open),
                    None => self.end_without(ix, ending, &mut open),
                },
                Allowed::Never(ending) => self.end_without(ix, ending, &mut open),
            }
        }
    }

    /// It ends without an attempt, which decides about what is below.
    fn end_without(&mut self, ix: TaskIx, ending: Ending, open: &mut Vec<TaskIx>) {
        if self.shift(ix, Position::Done).is_ok() {
            self.end_task(ix, ending);
            open.extend(self.run.graph.children[ix].iter().copied());
        }
    }

    fn settle_children(&mut self, ix: TaskIx) {
        let graph = Arc::clone(&self.run.graph);
        for child in &graph.children[ix] {
            self.settle_from(*child);
        }
    }

    /// Asked after each end of an instance, so that what does not end a mapped job is told at the first look.
    fn allowed(&mut self, ix: TaskIx) -> Allowed {
        match self.open_instance(ix) {
            Some(open) => {
                self.run.open.insert(ix, open);
                Allowed::NotYet
            }
            None => allowed(self.run, ix),
        }
    }

    /// The index of an instance of a mapped job that has not ended, looked for from the last one that was found.
    fn open_instance(&self, ix: TaskIx) -> Option<u32> {
        let instances = self.run.instances(ix)?;
        let first = self.run.open.get(&ix).map_or(0, |open| *open as usize).min(instances.len());
        let is_open = |index: &usize| self.run.tasks[instances[*index]].ending.is_none();
        (first..instances.len()).chain(0..first).find(is_open).map(|index| index as u32)
    }

    fn make_ready(&mut self, ix: TaskIx) {
        if let Some(hold) = &self.run.tasks[ix].hold {
            let why = hold.told();
            // Nothing moves to `held` but from where this is called.
            let _ = self.hold(ix, why);
            return;
        }
        if self.shift(ix, Position::Ready).is_ok() {
            let now = self.now;
            self.task(ix).ready_at = Some(now);
            self.note("task-ready", Some(ix), json!({}));
        }
    }

    // A mapped job.

    fn spread_or_hold(&mut self, ix: TaskIx, open: &mut Vec<TaskIx>) {
        if self.run.tasks[ix].hold.is_some() {
            self.make_ready(ix);
            return;
        }
        match self.items(ix) {
            Ok(items) => self.spread(ix, items, open),
            Err(evidence) => self.refuse_map(ix, evidence, open),
        }
    }

    fn refuse_map(&mut self, ix: TaskIx, evidence: Evidence, open: &mut Vec<TaskIx>) {
        let verdict = Verdict::failed(Fault::User, None, evidence.reason(Reason::BadMap));
        if self.shift(ix, Position::Done).is_ok() {
            self.task(ix).given_up = Some(Box::new(verdict));
            self.end_task(ix, Ending::Failed);
            open.extend(self.run.graph.children[ix].iter().copied());
        }
    }

    /// Makes a task of each item of the list. The job itself ends when they have; of an empty list at once.
    fn spread(&mut self, ix: TaskIx, items: Vec<Value>, open: &mut Vec<TaskIx>) {
        self.fx.durable = true;
        let count = items.len();
        self.run.graph = Arc::new(self.run.graph.spread(ix, count));
        let graph = Arc::clone(&self.run.graph);
        let places = graph.instances.get(&ix).map_or(&[][..], |places| &places[..count]);
        let task = self.task(ix);
        task.spread = Some(count as u32);
        let (job, bundle, version) = (task.job.clone(), task.bundle, task.version);
        self.note("task-spread", Some(ix), json!({"instances": count}));
        for (index, (place, item)) in places.iter().zip(items).enumerate() {
            if *place == self.run.tasks.len() {
                self.run.tasks.push(Arc::new(Task::new(job.clone(), bundle, version)));
            } else if self.shift(*place, Position::Waiting).is_ok() {
                self.reset(*place);
            }
            let task = self.task(*place);
            (task.bundle, task.version) = (bundle, version);
            task.instance = Some(Box::new(Instance { index: index as u32, item }));
        }
        open.push(ix);
        open.extend(places.iter().rev());
    }

    /// The list that a mapped job is to be spread over.
    fn items(&self, ix: TaskIx) -> Result<Vec<Value>, Evidence> {
        let Some(map) = &self.run.graph.jobs[ix].map else { return Ok(Vec::new()) };
        let (job, output) = (map.job.as_str(), map.output.as_str());
        let left = match self.run.find(job) {
            Some(parent) => self.run.outputs(parent).get(output).cloned(),
            None => self.run.outside.get(&map.job).and_then(|outputs| outputs.get(output)).cloned(),
        };
        let what = format!("output \"{output}\" of job \"{job}\"");
        let items = match left {
            Some(Value::Array(items)) => items,
            Some(other) => {
                let kind = match other {
                    Value::Null => "null",
                    Value::Bool(_) => "a boolean",
                    Value::Number(_) => "a number",
                    Value::String(_) => "a text",
                    Value::Array(_) | Value::Object(_) => "an object",
                };
                let remedy = "Leave a list; an instance begins for each of its items.";
                return Err(Evidence::new(format!("{what} is {kind}, not a list")).remedy(remedy));
            }
            None => {
                let remedy = format!("Let job \"{job}\" leave it, an empty list if there is nothing to do.");
                return Err(Evidence::new(format!("job \"{job}\" left no output \"{output}\"")).remedy(remedy));
            }
        };
        let count = items.len();
        let fewer = "map over fewer and larger items, for example over lists of them";
        let most = map.most();
        if count > most as usize {
            let message = format!("{what} has {count} items; the job is mapped over {most} at most");
            let remedy = format!("Raise `max_instances` in the template, to {MOST_INSTANCES} at most, or {fewer}.");
            return Err(Evidence::new(message).fact("limit", format!("max_instances = {most}")).remedy(remedy));
        }
        let known = self.run.graph.instances.get(&ix).map_or(0, Vec::len);
        let tasks = self.run.tasks.len() + count.saturating_sub(known);
        if tasks > MOST_TASKS {
            let message = format!(
                "{what} has {count} items; with them the run would have {tasks} tasks, and {MOST_TASKS} are the most"
            );
            return Err(Evidence::new(message).remedy(format!("Start several runs, or {fewer}.")));
        }
        Ok(items)
    }

    /// The instances are no longer part of their job: its list will be read again.
    fn set_aside(&mut self, ix: TaskIx) -> Result<(), Refused> {
        for place in self.run.graph.instances.get(&ix).cloned().unwrap_or_default() {
            if self.run.tasks[place].ending == Some(Ending::Skipped) {
                continue;
            }
            self.shift(place, Position::Waiting)?;
            self.reset(place);
            self.shift(place, Position::Done)?;
            self.task(place).ending = Some(Ending::Skipped);
        }
        Ok(())
    }

    /// A new generation of a task, of which nothing is known yet.
    fn reset(&mut self, ix: TaskIx) {
        let task = self.task(ix);
        task.generation += 1;
        task.epoch += 1;
        task.ending = None;
        task.held = None;
        task.hold = None;
        task.marked = None;
        task.stopped = None;
        task.watch = None;
        task.given_up = None;
        task.backoff_until = None;
        task.owner_deaths = 0;
        task.sessions_lost = 0;
        task.spread = None;
        // What was said of an item is not said of the one that comes to its place.
        if task.instance.is_some() {
            task.disabled = None;
            task.outputs = BTreeMap::new();
        }
    }

    /// What a person who names a mapped job means once it was spread: its instances, of those that `which` chooses.
    fn meant(&self, ix: TaskIx, which: impl Fn(&Task) -> bool) -> Vec<TaskIx> {
        match self.run.instances(ix).filter(|_| self.position(ix) == Position::Waiting) {
            Some(instances) => instances.iter().copied().filter(|ix| which(&self.run.tasks[*ix])).collect(),
            None => vec![ix],
        }
    }

    /// Refuses what is asked of an instance that its job's list no longer has an item for.
    fn counts(&self, ix: TaskIx) -> Result<(), Refused> {
        if !is_set_aside(self.run, ix) {
            return Ok(());
        }
        let (name, job) = (self.run.tasks[ix].name(), &self.run.tasks[ix].job);
        Err(Refused::WrongState(format!("\"{name}\" is not part of job \"{job}\" any more, whose list is another one")))
    }

    // What it waits for outside of the run.

    fn watch(&mut self, ix: TaskIx) {
        if self.run.tasks[ix].watch.is_some() {
            return;
        }
        // How long it has waited already must be known after a restart.
        self.fx.durable = true;
        let (now, conditions) = (self.now, self.run.graph.jobs[ix].wait_for.len());
        let task = self.task(ix);
        task.epoch += 1;
        task.watch = Some(Watch::new(now, conditions));
        self.note("task-watching", Some(ix), json!({"conditions": conditions}));
        let work = self.run.watching(ix, now);
        self.fx.work.extend(work);
    }

    fn observed(&mut self, ix: TaskIx, at: usize, look: &Look, what: &str, found: &str) -> Result<(), Refused> {
        let waits = self.position(ix) == Position::Waiting && self.run.tasks[ix].spread.is_none();
        let seen = self.run.tasks[ix].watch.as_ref().and_then(|watch| watch.seen.get(at));
        let Some(seen) = seen.filter(|_| waits).cloned() else {
            let job = &self.run.tasks[ix].job;
            return Err(Refused::WrongState(format!("job \"{job}\" does not wait for a condition {at}")));
        };
        let new = Seen { met: *look == Look::Met, what: what.to_owned(), found: found.to_owned(), at: Some(self.now) };
        // A look that saw the same is worth no row.
        if (seen.met, &seen.what, &seen.found) == (new.met, &new.what, &new.found) && *look == Look::NotYet {
            return Ok(());
        }
        if let Some(watch) = &mut self.task(ix).watch {
            watch.seen[at] = new;
        }
        match look {
            Look::NotYet => Ok(()),
            Look::Met => {
                self.fx.durable = true;
                self.note("condition-met", Some(ix), json!({"condition": what, "found": found}));
                self.settle_from(ix);
                Ok(())
            }
            Look::Never => self.leave_out(ix),
            Look::Wrong => {
                let evidence = Evidence::new(format!("what it waits for cannot be looked at: {found}"));
                self.give_up(ix, Verdict::failed(Fault::User, None, evidence.fact("condition", what)))
            }
        }
    }

    /// It waited long enough for something.
    fn lose_patience(&mut self, ix: TaskIx) -> Result<(), Refused> {
        let Some(watch) = &self.run.tasks[ix].watch else { return Ok(()) };
        let waited = self.now.since(watch.since);
        let conditions = self.run.graph.jobs[ix].wait_for.iter().zip(&watch.seen);
        let unmet = conditions.filter(|(_, seen)| !seen.met);
        let Some((condition, seen)) = unmet.min_by_key(|(condition, _)| condition.patience()) else { return Ok(()) };
        if let Some(after) = condition.patience().checked_sub(waited).filter(|after| !after.is_zero()) {
            // Something else is waited for longer, or the wall clock was set back.
            let epoch = self.run.tasks[ix].epoch;
            self.fx.work.push(Work::Set { task: ix, epoch, timer: Timer::Patience, after });
            return Ok(());
        }
        match condition.otherwise {
            Otherwise::Skip => self.leave_out(ix),
            Otherwise::Fail => {
                let what = if seen.what.is_empty() { condition.that.to_string() } else { seen.what.clone() };
                let limit = condition.patience().as_secs_f64();
                let evidence = Evidence::new(format!("it waited {limit} s for {what} in vain"))
                    .fact("last seen", &seen.found)
                    .remedy("Find out why it does not come, or raise the condition's `timeout`.");
                self.give_up(ix, Verdict::failed(Fault::Upstream, None, evidence))
            }
        }
    }

    fn leave_out(&mut self, ix: TaskIx) -> Result<(), Refused> {
        self.shift(ix, Position::Done)?;
        self.end_task(ix, Ending::Skipped);
        self.settle_children(ix);
        Ok(())
    }

    fn give_up(&mut self, ix: TaskIx, verdict: Verdict) -> Result<(), Refused> {
        self.shift(ix, Position::Done)?;
        self.task(ix).given_up = Some(Box::new(verdict));
        self.end_task(ix, Ending::Failed);
        self.settle_children(ix);
        Ok(())
    }

    fn end_task(&mut self, ix: TaskIx, ending: Ending) {
        self.task(ix).ending = Some(ending);
        self.fx.durable = true;
        self.note("task-ended", Some(ix), json!({"state": ending.name()}));
    }

    // Slots.

    fn claimed(
        &mut self,
        ix: TaskIx,
        id: AttemptId,
        session: SessionId,
        executor: crate::document::ExecutorKind,
    ) -> Result<(), Refused> {
        self.shift(ix, Position::Preparing)?;
        self.fx.durable = true;
        let now = self.now;
        let task = self.task(ix);
        task.epoch += 1;
        task.slow = false;
        task.outputs.clear();
        let number = task.attempts.len() as u32 + 1;
        let first_epoch = task.epoch;
        task.attempts.push(Arc::new(Attempt {
            id,
            number,
            first_epoch,
            generation: task.generation,
            session,
            executor,
            environment: None,
            started_at: now,
            ended_at: None,
            phases: Vec::new(),
            state_left: Value::Null,
            executed: None,
            handle: None,
            view: None,
            written: Vec::new(),
            warnings: Vec::new(),
            verdict: None,
            outcome: None,
            cleanups_started: 0,
            cleanup: None,
            slot: true,
            wants: None,
            resumed: 0,
        }));
        let epoch = task.epoch;
        self.note("attempt-started", Some(ix), json!({"attempt": id, "number": number, "executor": executor}));
        self.fx.work.push(Work::Begin { task: ix, epoch });
        self.set_limits(ix);
        Ok(())
    }

    /// Sets what is left of the attempt's time limits. A new owner has but the wall clock to tell by, so that one which set
    /// them before does not do it again.
    fn set_limits(&mut self, ix: TaskIx) {
        let timers = self.run.limits(ix, self.now);
        self.fx.work.extend(timers);
    }

    /// Does a step at once on a slot that is held, or asks for one.
    fn step(&mut self, ix: TaskIx, step: Step, graceful: bool) {
        let epoch = self.run.tasks[ix].epoch;
        let held = self.with_attempt(ix, |attempt| {
            attempt.wants = if attempt.slot { None } else { Some(step) };
            attempt.slot
        });
        if held == Some(true) {
            self.fx.work.push(match step {
                Step::Complete => Work::Complete { task: ix, epoch },
                Step::Clean => Work::Clean { task: ix, epoch, graceful },
            });
        }
    }

    fn granted(&mut self, ix: TaskIx, session: SessionId) {
        let wants = self.with_attempt(ix, |attempt| {
            if attempt.wants.is_some() {
                attempt.slot = true;
                attempt.session = session;
            }
            attempt.wants
        });
        if let Some(Some(step)) = wants {
            self.step(ix, step, true);
        }
    }

    // What workers report.

    fn reported(&mut self, ix: TaskIx, report: &Report) -> Result<(), Refused> {
        match report {
            Report::Equipped { environment } => {
                self.with_attempt(ix, |attempt| attempt.environment = Some(*environment));
                Ok(())
            }
            Report::PhaseStarted(phase) => self.phase_started(ix, *phase),
            Report::PhaseEnded { phase, ok } => {
                self.phase_ended(ix, *phase, if *ok { PhaseState::Succeeded } else { PhaseState::Failed });
                Ok(())
            }
            Report::Left { state } => {
                // What follows `setup` acts on the world; later it is stored with how the attempt goes on.
                self.fx.durable |= self.position(ix) == Position::Setup;
                self.with_attempt(ix, |attempt| attempt.state_left = state.clone());
                Ok(())
            }
            Report::Warned { text } => {
                self.with_attempt(ix, |attempt| {
                    if attempt.warnings.len() < MOST_WARNINGS {
                        attempt.warnings.push(text.clone());
                    }
                });
                Ok(())
            }
            Report::Viewed { catalog_seq } => {
                self.with_attempt(ix, |attempt| attempt.view = Some(*catalog_seq));
                Ok(())
            }
            Report::Executed(executed) => self.executed(ix, executed),
            Report::Specified(executed) => self.specified(ix, executed),
            Report::Submitted { handle } => {
                self.live(ix, Position::Submitted)?;
                self.fx.durable = true;
                self.with_attempt(ix, |attempt| attempt.handle = Some(handle.clone()));
                Ok(())
            }
            Report::EngineEnded { result, outputs } => self.engine_ended(ix, result, outputs),
            Report::Completed { outputs } => self.completed(ix, outputs),
            Report::Failed(verdict) => self.failed(ix, verdict.clone(), true),
            Report::CleanupEnded(end) => self.cleanup_ended(ix, end),
        }
    }

    fn live(&self, ix: TaskIx, position: Position) -> Result<(), Refused> {
        let at = self.position(ix);
        if at == position {
            return Ok(());
        }
        Err(Refused::WrongState(format!("job \"{}\" is {at}, not {position}", self.run.tasks[ix].name())))
    }

    fn phase_started(&mut self, ix: TaskIx, phase: Phase) -> Result<(), Refused> {
        match (phase, self.position(ix)) {
            (Phase::Setup, Position::Preparing) => self.shift(ix, Position::Setup)?,
            (Phase::Execute, Position::Setup) => self.shift(ix, Position::Executing)?,
            (Phase::Execute, Position::Executing | Position::Submitted)
            | (Phase::Complete, Position::Completing)
            | (Phase::Cleanup, Position::Cleaning) => {}
            (phase, at) => {
                let job = self.run.tasks[ix].name();
                return Err(Refused::WrongState(format!("job \"{job}\" is {at}, {} cannot begin", phase.name())));
            }
        }
        let now = self.now;
        // Said by the supervisor and by the process itself; the first one counts.
        let begins = self.with_attempt(ix, |attempt| {
            let running = attempt.phases.iter().any(|p| p.name == phase && p.state == PhaseState::Running);
            if !running {
                let record = PhaseRecord { name: phase, state: PhaseState::Running, started_at: now, ended_at: None };
                attempt.phases.push(record);
            }
            !running
        });
        if begins == Some(true) {
            self.note("phase-started", Some(ix), json!({"phase": phase.name()}));
        }
        Ok(())
    }

    fn phase_ended(&mut self, ix: TaskIx, phase: Phase, state: PhaseState) {
        let now = self.now;
        let ended = self.with_attempt(ix, |attempt| {
            let open = attempt.phases.iter_mut().rev().find(|p| p.name == phase && p.state == PhaseState::Running);
            open.map(|record| {
                record.state = state;
                record.ended_at = Some(now);
            })
        });
        if ended.flatten().is_some() {
            let data = json!({"phase": phase.name(), "state": state});
            self.note("phase-ended", Some(ix), data);
        }
    }

    /// Ends whatever phase is open: its process is gone.
    fn close_phases(&mut self, ix: TaskIx, state: PhaseState) {
        let open = self
            .with_attempt(ix, |attempt| attempt.phases.iter().find(|p| p.state == PhaseState::Running).map(|p| p.name));
        if let Some(Some(phase)) = open {
            self.phase_ended(ix, phase, state);
        }
    }

    fn executed(&mut self, ix: TaskIx, executed: &Executed) -> Result<(), Refused> {
        self.shift(ix, Position::Completing)?;
        self.keep(ix, executed);
        Ok(())
    }

    fn specified(&mut self, ix: TaskIx, executed: &Executed) -> Result<(), Refused> {
        self.shift(ix, Position::Submitted)?;
        self.fx.durable = true;
        self.keep(ix, executed);
        self.with_attempt(ix, |attempt| attempt.slot = false);
        let epoch = self.run.tasks[ix].epoch;
        self.fx.work.push(Work::Submit { task: ix, epoch });
        Ok(())
    }

    fn keep(&mut self, ix: TaskIx, executed: &Executed) {
        self.task(ix).outputs.extend(executed.outputs.clone());
        self.with_attempt(ix, |attempt| attempt.executed = Some(executed.clone()));
    }

    fn engine_ended(&mut self, ix: TaskIx, result: &Value, outputs: &BTreeMap<String, Value>) -> Result<(), Refused> {
        self.live(ix, Position::Submitted)?;
        self.shift(ix, Position::Completing)?;
        self.fx.durable = true;
        self.phase_ended(ix, Phase::Execute, PhaseState::Succeeded);
        self.task(ix).outputs.extend(outputs.clone());
        self.with_attempt(ix, |attempt| {
            attempt.executed.get_or_insert_default().result = result.clone();
        });
        self.step(ix, Step::Complete, true);
        Ok(())
    }

    fn completed(&mut self, ix: TaskIx, outputs: &BTreeMap<String, Value>) -> Result<(), Refused> {
        self.live(ix, Position::Completing)?;
        self.task(ix).outputs.extend(outputs.clone());
        let epoch = self.run.tasks[ix].epoch;
        self.fx.work.push(Work::Publish { task: ix, epoch });
        Ok(())
    }

    // Success is the commit.

    fn published(&mut self, ix: TaskIx, written: &[Written]) -> Result<(), Refused> {
        self.live(ix, Position::Completing)?;
        self.shift(ix, Position::Cleaning)?;
        self.fx.durable = true;
        let now = self.now;
        self.with_attempt(ix, |attempt| {
            attempt.outcome = Some(Outcome::Succeeded);
            attempt.written = written.to_vec();
            attempt.ended_at = Some(now);
            attempt.cleanups_started += 1;
        });
        let task = self.task(ix);
        task.owner_deaths = 0;
        task.epoch += 1;
        self.note("attempt-succeeded", Some(ix), json!({"written": written}));
        self.end_task(ix, Ending::Succeeded);
        self.step(ix, Step::Clean, true);
        self.settle_children(ix);
        Ok(())
    }

    // Failure: the verdict first, then cleanup, then the outcome.

    fn failed(&mut self, ix: TaskIx, verdict: Verdict, graceful: bool) -> Result<(), Refused> {
        if !self.position(ix).is_live() {
            return Err(Refused::WrongState(format!("job \"{}\" has no live attempt", self.run.tasks[ix].name())));
        }
        self.fx.durable = true;
        let open = if verdict.ends == Ends::Lost { PhaseState::Lost } else { PhaseState::Failed };
        self.close_phases(ix, open);
        self.shift(ix, Position::Cleaning)?;
        let task = self.task(ix);
        task.epoch += 1;
        let data = json!({"fault": verdict.fault, "message": verdict.evidence.message, "ends": verdict.ends});
        self.with_attempt(ix, |attempt| {
            attempt.verdict = Some(verdict);
            attempt.cleanups_started += 1;
        });
        self.note("attempt-failed", Some(ix), data);
        self.step(ix, Step::Clean, graceful);
        Ok(())
    }

    fn cleanup_ended(&mut self, ix: TaskIx, end: &CleanupEnd) -> Result<(), Refused> {
        self.live(ix, Position::Cleaning)?;
        self.fx.durable = true;
        self.close_phases(ix, if end.ok { PhaseState::Succeeded } else { PhaseState::Failed });
        let now = self.now;
        let verdict = self.with_attempt(ix, |attempt| {
            attempt.cleanup = Some(end.clone());
            attempt.slot = false;
            attempt.wants = None;
            let verdict = attempt.verdict.take();
            if let Some(verdict) = &verdict {
                attempt.outcome = Some(Outcome::Ended(verdict.clone()));
                attempt.ended_at = Some(now);
            }
            verdict
        });
        self.task(ix).epoch += 1;
        if !end.ok {
            self.note("cleanup-failed", Some(ix), json!({"message": end.detail}));
        }
        let Some(Some(verdict)) = verdict else {
            return self.shift(ix, Position::Done);
        };
        if verdict.ends != Ends::Lost {
            self.task(ix).owner_deaths = 0;
        }
        self.note("attempt-ended", Some(ix), json!({"state": Outcome::Ended(verdict.clone()).name()}));
        match self.next_try(ix, &verdict) {
            Next::Again(after) => self.back_off(ix, after),
            Next::Hold(why) => self.hold(ix, why),
            Next::End(ending) => {
                self.shift(ix, Position::Done)?;
                self.end_task(ix, ending);
                self.settle_children(ix);
                Ok(())
            }
        }
    }

    fn back_off(&mut self, ix: TaskIx, after: Duration) -> Result<(), Refused> {
        self.shift(ix, Position::Backoff)?;
        let until = self.now.plus(after);
        let task = self.task(ix);
        task.backoff_until = Some(until);
        let epoch = task.epoch;
        self.fx.work.push(Work::Set { task: ix, epoch, timer: Timer::Backoff, after });
        self.note("task-backoff", Some(ix), json!({"until": until}));
        Ok(())
    }

    fn hold(&mut self, ix: TaskIx, why: String) -> Result<(), Refused> {
        self.shift(ix, Position::Held)?;
        self.note("task-held", Some(ix), json!({"reason": why}));
        self.task(ix).held = Some(why);
        Ok(())
    }

    /// Whether and when a failed attempt is followed by another.
    fn next_try(&self, ix: TaskIx, verdict: &Verdict) -> Next {
        let (task, job) = (&self.run.tasks[ix], &self.run.graph.jobs[ix]);
        if self.run.stop.is_some() || task.stopped.is_some() || verdict.ends == Ends::Cancelled {
            return Next::End(Ending::Cancelled);
        }
        if task.owner_deaths >= MOST_OWNER_DEATHS {
            return Next::Hold(format!("the server died {} times in a row while this job ran", task.owner_deaths));
        }
        if task.sessions_lost >= MOST_SESSIONS_LOST {
            return Next::Hold(format!("{} workers were lost while they ran this job", task.sessions_lost));
        }
        if verdict.lost == Some(Loss::Owner) {
            // A dead server is nobody's fault here, and the restart was the wait.
            return Next::Again(Duration::ZERO);
        }
        let ended = |wanted: &dyn Fn(&Verdict) -> bool| {
            let this = task.attempts.iter().filter(|attempt| attempt.generation == task.generation);
            let verdicts = this.filter_map(|attempt| match &attempt.outcome {
                Some(Outcome::Ended(verdict)) if verdict.lost != Some(Loss::Owner) => Some(verdict),
                _ => None,
            });
            verdicts.filter(|verdict| wanted(verdict)).count() as u32
        };
        let free = verdict.fault.free_attempts();
        let same = ended(&|v| v.fault == verdict.fault);
        if free > 0 && same <= free {
            return Next::Again(job.retry_delay(same));
        }
        let counted = ended(&|v| v.fault.free_attempts() == 0 && v.ends == Ends::Failed);
        let wanted = match verdict.retry {
            RetryWish::Later => true,
            RetryWish::Never => false,
            RetryWish::None => job.retries_on(verdict.fault),
        };
        if free == 0 && wanted && counted <= job.retries {
            return Next::Again(job.retry_delay(counted));
        }
        Next::End(Ending::Failed)
    }

    // Losses.

    fn lost(&mut self, ix: TaskIx, by: Loss) {
        match by {
            Loss::Owner => self.task(ix).owner_deaths += 1,
            Loss::Session => self.task(ix).sessions_lost += 1,
            Loss::Launcher => {}
        }
        match self.position(ix) {
            Position::Preparing | Position::Setup | Position::Executing => self.lose_attempt(ix, by),
            Position::Submitted => self.reattach(ix),
            Position::Completing => self.complete_again(ix, by),
            Position::Cleaning => self.clean_again(ix),
            _ => {}
        }
    }

    fn lose_attempt(&mut self, ix: TaskIx, by: Loss) {
        let phase = self.run.tasks[ix].attempt().and_then(|attempt| attempt.phases.last()).map(|record| record.name);
        let (message, reason) = match by {
            Loss::Owner => ("the server died while the job ran", Reason::ServerLost),
            Loss::Session => ("the worker was lost while the job ran", Reason::WorkerLost),
            Loss::Launcher => ("the process that started the job was lost", Reason::ProcessLost),
        };
        let evidence = Evidence::new(message).reason(reason);
        let verdict = Verdict { ends: Ends::Lost, lost: Some(by), ..Verdict::failed(Fault::Platform, phase, evidence) };
        self.release_lost_slot(ix, by);
        // The position is live, so this cannot be refused.
        let _ = self.failed(ix, verdict, true);
    }

    fn reattach(&mut self, ix: TaskIx) {
        self.again(ix);
        self.fx.durable = true;
        let task = self.task(ix);
        task.epoch += 1;
        let epoch = task.epoch;
        self.fx.work.push(Work::Reattach { task: ix, epoch });
        self.set_limits(ix);
        self.note("attempt-reattached", Some(ix), json!({}));
    }

    fn complete_again(&mut self, ix: TaskIx, by: Loss) {
        let resumed = self.with_attempt(ix, |attempt| {
            attempt.resumed += 1;
            attempt.resumed
        });
        if resumed.unwrap_or(0) > Fault::Platform.free_attempts() && by != Loss::Owner
            || self.run.tasks[ix].owner_deaths >= MOST_OWNER_DEATHS
        {
            return self.lose_attempt(ix, by);
        }
        self.again(ix);
        self.fx.durable = true;
        self.close_phases(ix, PhaseState::Lost);
        self.task(ix).epoch += 1;
        self.release_lost_slot(ix, by);
        if by == Loss::Owner {
            self.set_limits(ix);
        }
        self.note("complete-resumed", Some(ix), json!({}));
        self.step(ix, Step::Complete, true);
    }

    fn clean_again(&mut self, ix: TaskIx) {
        self.again(ix);
        self.fx.durable = true;
        self.close_phases(ix, PhaseState::Lost);
        self.task(ix).epoch += 1;
        self.with_attempt(ix, |attempt| {
            attempt.cleanups_started += 1;
            attempt.slot = false;
        });
        self.step(ix, Step::Clean, true);
    }

    /// The slot was on whoever is gone; only a launcher leaves its server's slots intact.
    fn release_lost_slot(&mut self, ix: TaskIx, by: Loss) {
        if by != Loss::Launcher {
            self.with_attempt(ix, |attempt| attempt.slot = false);
        }
    }

    // Time.

    fn elapsed(&mut self, ix: TaskIx, timer: Timer) {
        match (timer, self.position(ix)) {
            (Timer::Backoff, Position::Backoff) => self.try_again(ix),
            // The position is waiting, so this cannot be refused.
            (Timer::Patience, Position::Waiting) => drop(self.lose_patience(ix)),
            (Timer::Warn, at) if at.is_live() => {
                self.task(ix).slow = true;
                self.note(
                    "attempt-slow",
                    Some(ix),
                    json!({"warn_after_seconds": self.run.graph.jobs[ix].warn_after_seconds}),
                );
            }
            (Timer::Abort, at) if at.is_live() => {
                let limit = self.run.graph.jobs[ix].timeout_seconds.unwrap_or_default();
                let evidence =
                    Evidence::new(format!("the job exceeded its time limit of {limit} s")).reason(Reason::TimeLimit);
                let phase = self.run.tasks[ix].attempt().and_then(|a| a.phases.last()).map(|record| record.name);
                // The position is live, so this cannot be refused.
                let _ = self.failed(ix, Verdict::failed(Fault::Timeout, phase, evidence), true);
            }
            _ => {}
        }
    }

    /// A job that it waits for may have been retried by hand meanwhile; then it waits again.
    fn try_again(&mut self, ix: TaskIx) {
        self.task(ix).backoff_until = None;
        if matches!(self.allowed(ix), Allowed::Yes) && self.run.graph.jobs[ix].map.is_none() {
            self.make_ready(ix);
        } else if self.shift(ix, Position::Waiting).is_ok() {
            self.settle_from(ix);
        }
    }

    // People.

    fn stop(&mut self, task: Option<TaskIx>, by: &str, reason: Option<&str>) -> Result<(), Refused> {
        let stop = Stop { by: by.to_owned(), at: self.now, reason: reason.map(str::to_owned) };
        let all: Vec<TaskIx> = match task {
            Some(ix) => {
                self.known(ix)?;
                let meant = self.meant(ix, |_| true);
                let own = (!meant.contains(&ix)).then_some(ix);
                meant.into_iter().chain(own).collect()
            }
            None if self.run.state().is_final() => {
                return Err(Refused::WrongState(format!("the run is over already: {}", self.run.state().name())));
            }
            None => {
                self.run.stop.get_or_insert(stop.clone());
                self.run.pending = None;
                self.fx.run_touched = true;
                (0..self.run.tasks.len()).collect()
            }
        };
        self.fx.durable = true;
        self.note("stop-requested", task, json!({"by": by, "reason": reason}));
        for ix in all {
            self.stop_task(ix, &stop)?;
        }
        Ok(())
    }

    fn stop_task(&mut self, ix: TaskIx, stop: &Stop) -> Result<(), Refused> {
        match self.position(ix) {
            // It ends with its instances.
            Position::Waiting if self.run.tasks[ix].spread.is_some() => {
                self.task(ix).stopped = Some(stop.clone());
                Ok(())
            }
            Position::Waiting | Position::Ready | Position::Backoff | Position::Held => {
                self.shift(ix, Position::Done)?;
                self.task(ix).epoch += 1;
                self.task(ix).stopped = Some(stop.clone());
                self.end_task(ix, Ending::Cancelled);
                self.settle_children(ix);
                Ok(())
            }
            at if at.is_live() => {
                let mut evidence = Evidence::new(format!("stopped by {}", stop.by)).reason(Reason::Stopped);
                if let Some(reason) = &stop.reason {
                    evidence = evidence.fact("reason", reason);
                }
                let phase = self.run.tasks[ix].attempt().and_then(|a| a.phases.last()).map(|record| record.name);
                let failed = Verdict::failed(Fault::Cancelled, phase, evidence);
                self.failed(ix, Verdict { ends: Ends::Cancelled, ..failed }, true)
            }
            // Cleanup goes on; what was published or failed stays so. What was lost would be tried again, and is not now.
            Position::Cleaning => {
                self.task(ix).stopped = Some(stop.clone());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn retry(&mut self, tasks: &[TaskIx], by: &str, code: Option<&NewCode>) -> Result<(), Refused> {
        for ix in tasks {
            self.known(*ix)?;
        }
        let graph = Arc::clone(&self.run.graph);
        let of_a_job = |ix: &TaskIx| {
            self.run.tasks[*ix].instance.is_some() && graph.children[*ix].iter().any(|job| tasks.contains(job))
        };
        // With a mapped job all of it begins anew.
        let tasks: Vec<TaskIx> = tasks.iter().copied().filter(|ix| !of_a_job(ix)).collect();
        for ix in &tasks {
            if let Some(marked) = self.run.job_of(*ix).filter(|job| job.marked.is_some()) {
                let (job, instance) = (&marked.job, self.run.tasks[*ix].name());
                return Err(Refused::WrongState(format!(
                    "job \"{job}\" was marked as {}, and \"{instance}\" with it; retry \"{job}\"",
                    marked.state_name()
                )));
            }
        }
        // A job is opened again by one of its instances.
        let opened = tasks
            .iter()
            .filter(|ix| self.run.tasks[**ix].instance.is_some())
            .flat_map(|ix| &graph.children[*ix])
            .copied();
        let opens: BTreeSet<TaskIx> = tasks.iter().copied().chain(opened).collect();
        for ix in &tasks {
            self.counts(*ix)?;
            let own = graph.instances.get(ix).into_iter().flatten();
            let busy = own.map(|own| &self.run.tasks[*own]).find(|own| own.position != Position::Done);
            if let Some(own) = busy.filter(|_| self.position(*ix) == Position::Done) {
                return Err(Refused::WrongState(format!("job \"{}\" is {}; stop it first", own.name(), own.position)));
            }
            let task = &self.run.tasks[*ix];
            if !matches!(task.position, Position::Done | Position::Held) {
                return Err(Refused::WrongState(format!(
                    "job \"{}\" is {}; stop it first",
                    task.name(),
                    task.position
                )));
            }
            let lacking = graph.inputs(*ix).iter().find(|parent| {
                !opens.contains(parent)
                    && self.run.tasks[**parent].ending.is_some_and(|ending| !ending.is_good())
                    && self.run.graph.jobs[*ix].run_if == RunIf::AllSucceeded
            });
            if let Some(parent) = lacking {
                let parent = &self.run.tasks[*parent].job;
                let message =
                    format!("job \"{}\" waits for \"{parent}\", which did not succeed; retry it as well", task.name());
                return Err(Refused::WrongState(message));
            }
        }
        if tasks.is_empty() {
            return Err(Refused::WrongState("no job of this run failed".to_owned()));
        }
        self.fx.durable = true;
        self.fx.run_touched = true;
        self.run.stop = None;
        self.run.ended_at = None;
        let before = Arc::clone(&self.run.graph);
        if let Some(code) = code {
            self.run.graph = Arc::clone(&code.graph);
            self.run.bundle = code.bundle;
            self.run.version = code.version;
        }
        let names: Vec<_> = tasks.iter().map(|ix| self.run.tasks[*ix].name().to_string()).collect();
        self.note("run-retried", None, json!({"by": by, "jobs": names}));
        for ix in &tasks {
            self.shift(*ix, Position::Waiting)?;
            self.reset(*ix);
            self.set_aside(*ix)?;
        }
        self.reopen_below(&tasks)?;
        if let Some(code) = code {
            self.take_code(code, &before);
        }
        self.look_again()
    }

    /// Everything that has not begun is looked at again: new code may name other jobs to wait for.
    fn look_again(&mut self) -> Result<(), Refused> {
        for ix in 0..self.run.tasks.len() {
            // With new code it may have become a mapped one, which does nothing itself.
            let begins = matches!(self.allowed(ix), Allowed::Yes) && self.run.graph.jobs[ix].map.is_none();
            if self.position(ix) == Position::Ready && !begins {
                self.shift(ix, Position::Waiting)?;
            }
            self.settle_from(ix);
        }
        Ok(())
    }

    /// Whatever has an attempt still to begin takes the new job with its files; the rest stays what it was.
    fn take_code(&mut self, code: &NewCode, before: &Graph) {
        let (new, old): (Vec<TaskIx>, Vec<TaskIx>) =
            (0..self.run.tasks.len()).partition(|ix| has_not_begun(&self.run.tasks[*ix]));
        for ix in new {
            let same = before.jobs[ix].wait_for == code.graph.jobs[ix].wait_for;
            let task = self.task(ix);
            task.bundle = code.bundle;
            task.version = code.version;
            if !same {
                task.watch = None;
            }
        }
        self.run.graph = Arc::new(code.graph.with_jobs_of(before, old.into_iter()));
    }

    fn reload(&mut self, by: &str, code: &NewCode) -> Result<(), Refused> {
        if self.run.state().is_final() {
            let state = self.run.state().name();
            return Err(Refused::WrongState(format!("the run is over already: {state}; retry it with the new code")));
        }
        self.fx.durable = true;
        self.fx.run_touched = true;
        self.run.bundle = code.bundle;
        self.run.version = code.version;
        self.note("run-reloaded", None, json!({"by": by, "version": code.version}));
        // One that is pending takes the jobs when it begins.
        if self.run.pending.is_some() {
            return Ok(());
        }
        let before = Arc::clone(&self.run.graph);
        self.take_code(code, &before);
        self.look_again()
    }

    /// What became of tasks is said by a person: a generation without an attempt.
    fn mark(&mut self, tasks: &[TaskIx], ending: Ending, control: &Control) -> Result<(), Refused> {
        if self.run.pending.is_some() {
            return Err(Refused::WrongState("the run has not begun".to_owned()));
        }
        for ix in tasks {
            self.known(*ix)?;
            self.counts(*ix)?;
        }
        // What is said of a mapped job is said of all of it that has not ended.
        let open = |ix: &TaskIx| self.meant(*ix, |task| task.ending.is_none() && task.position != Position::Done);
        let mut all: Vec<TaskIx> = tasks.iter().flat_map(open).filter(|ix| !tasks.contains(ix)).collect();
        all.extend(tasks);
        let tasks = &all[..];
        for ix in tasks {
            let task = &self.run.tasks[*ix];
            if task.position.is_live() || task.position == Position::Cleaning {
                return Err(Refused::WrongState(format!(
                    "job \"{}\" is {}; stop it first",
                    task.name(),
                    task.position
                )));
            }
        }
        self.fx.durable = true;
        self.fx.run_touched = true;
        self.run.ended_at = None;
        let names: Vec<_> = tasks.iter().map(|ix| self.run.tasks[*ix].name().to_string()).collect();
        let data = json!({"by": control.by, "reason": control.reason, "jobs": names, "state": ending.name()});
        self.note("tasks-marked", None, data);
        for ix in tasks {
            if self.position(*ix) == Position::Done {
                self.shift(*ix, Position::Waiting)?;
            }
            self.shift(*ix, Position::Done)?;
            let task = self.task(*ix);
            task.generation += 1;
            task.epoch += 1;
            task.held = None;
            task.hold = None;
            task.stopped = None;
            task.backoff_until = None;
            task.watch = None;
            task.given_up = None;
            task.marked = Some(control.clone());
            self.end_task(*ix, ending);
        }
        // What was ruled out by how these had ended may begin now, and the other way round.
        self.reopen_below(tasks)?;
        for ix in 0..self.run.tasks.len() {
            self.settle_from(ix);
        }
        Ok(())
    }

    /// Holds tasks or the whole run, or lets them go.
    fn hold_tasks(&mut self, tasks: Option<&[TaskIx]>, control: Option<&Control>, by: &str) -> Result<(), Refused> {
        let names = match tasks {
            None => {
                self.run.hold = control.cloned();
                self.fx.run_touched = true;
                None
            }
            Some(tasks) => {
                for ix in tasks {
                    self.known(*ix)?;
                    let meant = self.meant(*ix, |task| match control {
                        Some(_) => has_not_begun(task) && task.position != Position::Held,
                        None => has_not_begun(task),
                    });
                    self.someone(*ix, &meant)?;
                    for ix in meant {
                        self.hold_or_release(ix, control, by)?;
                    }
                }
                Some(tasks.iter().map(|ix| self.run.tasks[*ix].name().to_string()).collect::<Vec<_>>())
            }
        };
        self.fx.durable = true;
        let kind = if control.is_some() { "hold-requested" } else { "released" };
        let reason = control.and_then(|control| control.reason.as_deref());
        self.note(kind, None, json!({"by": by, "reason": reason, "jobs": names}));
        // Admission looks at the run's hold through each of its tasks.
        self.fx.touched.extend(0..self.run.tasks.len());
        Ok(())
    }

    /// Refuses what is asked of a mapped job that has no instance left to do it to.
    fn someone(&self, ix: TaskIx, meant: &[TaskIx]) -> Result<(), Refused> {
        let job = &self.run.tasks[ix].job;
        let why = || Refused::WrongState(format!("every instance of job \"{job}\" has begun"));
        if meant.is_empty() { Err(why()) } else { Ok(()) }
    }

    fn hold_or_release(&mut self, ix: TaskIx, control: Option<&Control>, by: &str) -> Result<(), Refused> {
        let (at, job) = (self.position(ix), self.run.tasks[ix].name());
        match (control, at) {
            (Some(control), Position::Ready) => {
                self.task(ix).hold = Some(control.clone());
                self.hold(ix, control.told())
            }
            (Some(control), Position::Waiting | Position::Backoff) => {
                self.task(ix).hold = Some(control.clone());
                Ok(())
            }
            (Some(_), at) => {
                Err(Refused::WrongState(format!("job \"{job}\" is {at}; only what has not begun can be held")))
            }
            (None, Position::Held) => {
                self.shift(ix, Position::Waiting)?;
                let task = self.task(ix);
                task.hold = None;
                task.held = None;
                task.owner_deaths = 0;
                task.sessions_lost = 0;
                self.settle_from(ix);
                Ok(())
            }
            (None, Position::Waiting) => {
                let now = self.now;
                let task = self.task(ix);
                // Nothing is waited for any longer.
                if task.hold.take().is_none()
                    && let Some(watch) = &mut task.watch
                {
                    for seen in watch.seen.iter_mut().filter(|seen| !seen.met) {
                        *seen = Seen { met: true, found: format!("released by {by}"), at: Some(now), ..seen.clone() };
                    }
                }
                self.settle_from(ix);
                Ok(())
            }
            (None, _) => {
                self.task(ix).hold = None;
                Ok(())
            }
        }
    }

    /// Switches tasks off or on that have not begun.
    fn disable(&mut self, tasks: &[TaskIx], control: Option<&Control>, by: &str) -> Result<(), Refused> {
        for ix in tasks {
            self.known(*ix)?;
        }
        let mut all = Vec::with_capacity(tasks.len());
        for ix in tasks {
            let meant = self.meant(*ix, has_not_begun);
            self.someone(*ix, &meant)?;
            all.extend(meant);
        }
        let tasks = &all[..];
        for ix in tasks {
            let task = &self.run.tasks[*ix];
            if !task.position.is_before_an_attempt() {
                let (job, at) = (task.name(), task.position);
                return Err(Refused::WrongState(format!(
                    "job \"{job}\" is {at}; only what has not begun can be switched"
                )));
            }
        }
        self.fx.durable = true;
        let names: Vec<_> = tasks.iter().map(|ix| self.run.tasks[*ix].name().to_string()).collect();
        let kind = if control.is_some() { "tasks-disabled" } else { "tasks-enabled" };
        let reason = control.and_then(|control| control.reason.as_deref());
        self.note(kind, None, json!({"by": by, "reason": reason, "jobs": names}));
        for ix in tasks {
            self.task(*ix).disabled = control.cloned();
            // What was about to begin looks again whether it is to.
            if control.is_some() && self.position(*ix) != Position::Waiting {
                self.shift(*ix, Position::Waiting)?;
                let task = self.task(*ix);
                task.backoff_until = None;
                task.held = None;
            }
            self.settle_from(*ix);
        }
        Ok(())
    }

    /// What has not begun and waits for a retried job waits again.
    fn reopen_below(&mut self, tasks: &[TaskIx]) -> Result<(), Refused> {
        let mut open = tasks.to_vec();
        while let Some(ix) = open.pop() {
            for child in self.run.graph.children[ix].clone() {
                let task = &self.run.tasks[child];
                // What a person said stays said, of a mapped job for its instances as well.
                let of_marked = self.run.job_of(child).is_some_and(|job| job.marked.is_some());
                let unbegun = task.marked.is_none()
                    && !of_marked
                    && !is_set_aside(self.run, child)
                    && (matches!(task.ending, Some(Ending::UpstreamFailed | Ending::Skipped | Ending::Disabled))
                        || is_instance_of(self.run, ix, child));
                if task.position == Position::Ready || (task.position == Position::Done && unbegun) {
                    self.shift(child, Position::Waiting)?;
                    let task = self.task(child);
                    task.ending = None;
                    task.stopped = None;
                    task.given_up = None;
                    // What it waits for may hang on what the others do this time.
                    task.watch = None;
                    open.push(child);
                } else if task.position == Position::Waiting && task.watch.is_some() {
                    self.task(child).watch = None;
                }
            }
        }
        Ok(())
    }

    // The run as a whole.

    fn follow_run_state(&mut self, before: RunState) {
        let state = self.run.state();
        if state == before && !self.fx.run_touched {
            return;
        }
        self.fx.run_touched = true;
        if self.run.started_at.is_none() && state != RunState::Queued {
            self.run.started_at = Some(self.now);
        }
        if state.is_final() && self.run.ended_at.is_none() {
            self.run.ended_at = Some(self.now);
            self.fx.durable = true;
            self.note("run-ended", None, json!({"state": state.name()}));
        }
    }
}

/// Whether a waiting task may begin.
pub(crate) enum Allowed {
    NotYet,
    Yes,
    Never(Ending),
    /// A mapped job ends as its instances did.
    Over(Ending),
}

pub(crate) fn allowed(run: &Run, ix: TaskIx) -> Allowed {
    if let Some(instances) = run.instances(ix) {
        return fan_in(run, instances).map_or(Allowed::NotYet, Allowed::Over);
    }
    if run.stop.is_some() {
        return Allowed::Never(Ending::Cancelled);
    }
    let endings: Vec<Option<Ending>> = run.graph.inputs(ix).iter().map(|parent| run.tasks[*parent].ending).collect();
    let any = |wanted: &[Ending]| endings.iter().flatten().any(|ending| wanted.contains(ending));
    let all_ended = endings.iter().all(Option::is_some);
    let bad = [Ending::Failed, Ending::UpstreamFailed, Ending::Cancelled];
    match run.graph.jobs[ix].run_if {
        RunIf::AllSucceeded if any(&bad) => Allowed::Never(Ending::UpstreamFailed),
        RunIf::AllSucceeded if any(&[Ending::Skipped]) => Allowed::Never(Ending::Skipped),
        RunIf::NoneFailed if any(&bad) => Allowed::Never(Ending::UpstreamFailed),
        RunIf::AnyFailed if any(&[Ending::Failed, Ending::UpstreamFailed]) => Allowed::Yes,
        RunIf::AnyFailed if all_ended => Allowed::Never(Ending::Skipped),
        RunIf::AllSucceeded | RunIf::AllDone | RunIf::NoneFailed if all_ended => Allowed::Yes,
        _ => Allowed::NotYet,
    }
}

/// What becomes of a mapped job when all its instances have ended.
fn fan_in(run: &Run, instances: &[TaskIx]) -> Option<Ending> {
    let endings = || instances.iter().map(|ix| run.tasks[*ix].ending);
    if !endings().all(|ending| ending.is_some()) {
        return None;
    }
    let any = |wanted: Ending| endings().any(|ending| ending == Some(wanted));
    let worst = [Ending::Failed, Ending::Cancelled, Ending::UpstreamFailed].into_iter().find(|ending| any(*ending));
    let all = |wanted: Ending| !instances.is_empty() && endings().all(|ending| ending == Some(wanted));
    let none_ran = [Ending::Skipped, Ending::Disabled].into_iter().find(|ending| all(*ending));
    Some(worst.or(none_ran).unwrap_or(Ending::Succeeded))
}

/// What is wrong if the instances of a mapped job left more than is given to the jobs below.
fn too_large(run: &Run, ix: TaskIx) -> Option<Evidence> {
    let instances = run.instances(ix)?;
    let outputs = instances.iter().flat_map(|instance| run.tasks[*instance].outputs.values());
    let size: usize = outputs.map(|value| value.to_string().len()).sum();
    if size <= LARGEST_GATHERED {
        return None;
    }
    let (job, count) = (&run.tasks[ix].job, instances.len());
    let message = format!(
        "what the {count} instances of job \"{job}\" left takes {size} bytes as JSON; at most {LARGEST_GATHERED} are allowed"
    );
    let remedy = "Write large data to a table or save it as a file, and leave its name.";
    Some(Evidence::new(message).fact("limit", LARGEST_GATHERED).remedy(remedy))
}

/// Whether a task is an instance that is no part of its job any more, or not yet again.
fn is_set_aside(run: &Run, ix: TaskIx) -> bool {
    let Some(index) = run.tasks[ix].index() else { return false };
    run.graph.children[ix].first().is_none_or(|job| run.tasks[*job].spread.is_none_or(|count| index >= count))
}

fn is_instance_of(run: &Run, ix: TaskIx, job: TaskIx) -> bool {
    run.tasks[ix].instance.is_some() && run.tasks[job].spread.is_some() && run.graph.children[ix].first() == Some(&job)
}

/// Whether a task takes other code: none of it is under way, has ended or was spread.
fn has_not_begun(task: &Task) -> bool {
    task.position.is_before_an_attempt() && task.spread.is_none()
}

enum Next {
    Again(Duration),
    Hold(String),
    End(Ending),
}
