//! What must hold, whatever happens. Each rule is written down here once more, apart from the code that keeps it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pinrail_model::admit::{Barred, LimitId, RESERVED, Shard};
use pinrail_model::backfill::Progress;
use pinrail_model::document::RunIf;
use pinrail_model::explain::{Why, explain, explain_pending};
use pinrail_model::ids::{AttemptId, RunId, SessionId};
use pinrail_model::run::{
    Cause, EDGES, Ending, Event, Pending, Position, Refused, Run, RunState, Task, TaskIx, Timer, Work,
};
use pinrail_model::simulation::{Owner, Seen, Surroundings};
use pinrail_model::time::{Micros, Now};

use super::rows::Rows;

/// How often each legal edge was taken, and each kind of event met each position.
#[derive(Debug, Clone, Default)]
pub struct Coverage {
    pub edges: BTreeMap<(Position, Position), u64>,
    pub events: BTreeMap<(&'static str, Position), u64>,
}

impl Coverage {
    pub fn add(&mut self, other: &Self) {
        for (edge, times) in &other.edges {
            *self.edges.entry(*edge).or_default() += times;
        }
        for (event, times) in &other.events {
            *self.events.entry(*event).or_default() += times;
        }
    }

    /// Legal edges that were never taken.
    pub fn missing(&self) -> Vec<(Position, Position)> {
        let taken = |edge: &(Position, Position)| self.edges.contains_key(edge);
        EDGES.iter().map(|edge| (edge.from, edge.to)).filter(|edge| !taken(edge)).collect()
    }
}

/// What is checked from event to event.
#[derive(Default)]
pub struct Checks {
    pub coverage: Coverage,
    /// The first rule that was broken.
    pub broken: Option<String>,
    /// When, on the monotonic clock, live attempts with a time limit are to be over.
    pub limits: BTreeMap<AttemptId, std::time::Duration>,
    occupancy: BTreeMap<LimitId, u32>,
    begun: BTreeSet<RunId>,
    /// Runs that were given other code, which may have taken away what a job had waited for when it ended.
    reloaded: BTreeSet<RunId>,
}

/// Time that an owner may need for what is due, and that a death may cost a time limit.
const SLACK: std::time::Duration = std::time::Duration::from_secs(120);

impl Checks {
    fn hold(&mut self, holds: bool, rule: impl FnOnce() -> String) {
        if !holds && self.broken.is_none() {
            self.broken = Some(rule());
        }
    }

    // After each event.

    pub fn event(&mut self, seen: &Seen<'_>, now: Now) {
        let (before, after) = (seen.before, seen.after);
        let id = after.id;
        if let Some(task) = task_of(seen.event) {
            let at = before.tasks.get(task).map(|task| task.position);
            *self.coverage.events.entry((name(seen.event), at.unwrap_or(Position::Waiting))).or_default() += 1;
        }
        for (_, from, to) in &seen.fx.moves {
            *self.coverage.edges.entry((*from, *to)).or_default() += 1;
            let legal = EDGES.iter().any(|edge| (edge.from, edge.to) == (*from, *to));
            self.hold(legal, || format!("a task of run {id} moved from {from} to {to}"));
        }
        if let Some(stale) = stale(before, seen.event) {
            let refused = *seen.result == Err(Refused::Stale);
            self.hold(refused, || format!("a report of epoch {stale} changed run {id}: {:?}", seen.event));
        }
        self.only_what_is_told_changes(seen);
        if seen.result.is_err() {
            return;
        }
        let live = after.tasks.iter().any(|task| task.position != Position::Done);
        self.hold(after.state().is_final() != (live || after.pending.is_some()), || {
            format!("run {id} is {} although its tasks say otherwise", after.state().name())
        });
        self.hold(after.ended_at.is_some() == after.state().is_final(), || {
            format!("run {id} is {} and has ended at {:?}", after.state().name(), after.ended_at)
        });
        for ix in &seen.fx.touched {
            let task = &after.tasks[*ix];
            let old = before.tasks.get(*ix);
            self.hold(old.is_none_or(|old| old.epoch <= task.epoch), || format!("an epoch of run {id} went back"));
            if let Err(why) = sound(task) {
                self.hold(false, || format!("job {} of run {id}: {why}", task.job));
            }
        }
        self.maps(before, after);
        if matches!(seen.event, Event::Reload { .. } | Event::Retry { code: Some(_), .. }) {
            self.reloaded.insert(id);
        }
        if let Event::Claimed { task, .. } = seen.event {
            self.claimed(before, after, *task, now);
        }
    }

    fn only_what_is_told_changes(&mut self, seen: &Seen<'_>) {
        let (before, after) = (seen.before, seen.after);
        let told = |ix: &usize| seen.result.is_ok() && seen.fx.touched.contains(ix);
        let all = before.tasks.len().max(after.tasks.len());
        let changed = (0..all).filter(|ix| !told(ix)).find(|ix| match (before.tasks.get(*ix), after.tasks.get(*ix)) {
            (Some(before), Some(after)) => !Arc::ptr_eq(before, after),
            _ => true,
        });
        if let Some(ix) = changed {
            let what = if seen.result.is_ok() { "accepted and did not tell of" } else { "refused and yet changed" };
            let (id, event) = (after.id, seen.event);
            self.hold(false, || format!("an event was {what} task {ix} of run {id}: {event:?}"));
        }
        let row = |run: &Run| {
            let controls = (run.stop.clone(), run.hold.clone(), run.pending);
            (controls, run.started_at, run.ended_at, run.bundle, run.version, run.state())
        };
        if !(seen.result.is_ok() && seen.fx.run_touched) && row(before) != row(after) {
            self.hold(false, || format!("run {} has changed and its row is not written: {:?}", after.id, seen.event));
        }
    }

    /// A mapped job was spread over the list that there is, and ends when and as its instances have.
    fn maps(&mut self, before: &Run, after: &Run) {
        let id = after.id;
        for (ix, task) in after.tasks.iter().enumerate().filter(|(_, task)| task.instance.is_none()) {
            let of_it = |other: &&Arc<Task>| other.job == task.job && other.instance.is_some();
            let instances: Vec<&Arc<Task>> = after.tasks.iter().filter(of_it).collect();
            let indices = instances.iter().enumerate().all(|(place, task)| task.index() == Some(place as u32));
            self.hold(indices, || format!("the instances of job {} of run {id} are not numbered", task.job));
            let count = task.spread.map_or(0, |count| count as usize);
            self.hold(instances.len() >= count, || format!("job {} of run {id} lacks instances", task.job));
            let (own, aside) = instances.split_at(count.min(instances.len()));
            let idle = aside.iter().all(|aside| aside.ending == Some(Ending::Skipped));
            let busy = |task: &&&Arc<Task>| task.position != Position::Done;
            self.hold(idle && !aside.iter().any(|aside| busy(&aside)), || {
                format!("an instance of job {} of run {id} goes on although it was set aside", task.job)
            });
            if task.spread.is_none() {
                continue;
            }
            let ended = own.iter().all(|own| own.ending.is_some());
            let is_over = task.position == Position::Done;
            self.hold(is_over == ended || task.marked.is_some(), || {
                format!("job {} of run {id} is {} and not as its instances", task.job, task.position)
            });
            let failed = own.iter().any(|own| own.ending == Some(Ending::Failed));
            let agree = (task.ending == Some(Ending::Failed)) == failed;
            self.hold(!is_over || agree || task.marked.is_some(), || {
                format!("job {} of run {id} has become {:?} against its instances", task.job, task.ending)
            });
            if before.tasks.get(ix).is_some_and(|before| before.spread != task.spread)
                && let Some(map) = &after.graph.jobs[ix].map
            {
                let parent =
                    after.tasks.iter().position(|parent| parent.job == map.job).map(|parent| after.outputs(parent));
                let list = parent.and_then(|outputs| outputs.get(map.output.as_str()).cloned());
                let items: serde_json::Value =
                    own.iter().filter_map(|own| own.instance.as_ref()).map(|own| own.item.clone()).collect();
                self.hold(list == Some(items), || format!("job {} of run {id} was spread over another list", task.job));
            }
        }
    }

    fn claimed(&mut self, before: &Run, after: &Run, ix: TaskIx, now: Now) {
        let (id, task) = (after.id, &before.tasks[ix]);
        self.hold(may_begin(before, ix), || format!("job {} of run {id} begins before its rule allows it", task.job));
        self.hold(before.stop.is_none(), || format!("job {} of run {id} begins although the run is stopped", task.job));
        self.hold(task.stopped.is_none(), || format!("job {} of run {id} begins although it was stopped", task.job));
        self.hold(before.hold.is_none() && task.hold.is_none(), || {
            format!("job {} of run {id} begins although it is held", task.job)
        });
        self.hold(task.disabled.is_none(), || format!("job {} of run {id} begins although it is off", task.job));
        let is_mapped = before.graph.jobs[ix].map.is_some();
        self.hold(!is_mapped, || format!("job {} of run {id} begins itself, and it is mapped", task.job));
        if let Some(index) = task.index() {
            let of = before.tasks.iter().find(|of| of.job == task.job && of.instance.is_none());
            let counts =
                of.is_some_and(|of| of.spread.is_some_and(|count| index < count) && of.position != Position::Done);
            self.hold(counts, || format!("{} of run {id} begins and is no part of its job", task.name()));
        }
        let limit = after.graph.jobs[ix].timeout_seconds.map(pinrail_model::document::seconds);
        if let (Some(limit), Some(attempt)) = (limit, after.tasks[ix].attempt()) {
            self.limits.insert(attempt.id, now.mono + limit + SLACK);
        }
    }

    // When the owner has decided on something.

    pub fn sealed<S: Surroundings>(&mut self, owner: &Owner<S>) {
        let occupancy = occupancy(owner.runs.values());
        for (limit, held) in &occupancy.limits {
            let most = capacity(&owner.shard, owner.runs.values(), limit);
            let had = self.occupancy.get(limit).copied().unwrap_or(0);
            let full = most.is_none_or(|most| *held <= most.max(had));
            self.hold(full || *held <= had, || format!("{limit:?} has {held} of {most:?} slots taken"));
        }
        for (session, state) in owner.shard.sessions() {
            let held = occupancy.sessions.get(session).copied().unwrap_or(0);
            self.hold(held == state.held(), || {
                format!("worker {session} has {held} attempts, the shard counts {}", state.held())
            });
        }
        self.occupancy = occupancy.limits;
        self.lines(owner);
    }

    // When the owner has come to rest.

    pub fn at_rest<S: Surroundings>(&mut self, owner: &Owner<S>, rows: &Rows, now: Now, thorough: bool) {
        if let Some(first) = owner.disagreements.first() {
            self.hold(false, || first.clone());
        }
        self.nothing_idles(owner, &occupancy(owner.runs.values()));
        if thorough {
            self.everything_is_explained(owner, now.wall);
            self.backfills_count(owner, rows);
            self.limits_are_kept(owner, now);
        }
    }

    fn lines<S: Surroundings>(&mut self, owner: &Owner<S>) {
        let mut intervals = BTreeSet::new();
        let mut scheduled: BTreeMap<_, u32> = BTreeMap::new();
        let begun = |run: &&Run| run.pending.is_none() && !run.state().is_final();
        for run in owner.runs.values().filter(begun) {
            let lane = run.lane();
            let alone = intervals.insert((lane.clone(), run.interval));
            self.hold(alone, || format!("two runs of {} are under way for {:?}", run.workflow, run.interval));
            if matches!(run.cause, Cause::Schedule { .. }) {
                *scheduled.entry(lane).or_default() += 1;
            }
        }
        for run in owner.runs.values().filter(begun) {
            let Cause::Schedule { .. } = run.cause else { continue };
            let is_new = self.begun.insert(run.id);
            let lane = run.lane();
            let most = owner.triggers.get(&lane).map(|t| (t.overrun, t.most_active));
            // A deploy may have changed the policy after the run was made with another one.
            let Some((overrun, most)) = most.filter(|_| is_new) else { continue };
            let active = scheduled.get(&lane).copied().unwrap_or(0);
            let most = if overrun == pinrail_model::trigger::Overrun::StartNew { most.max(1) } else { 1 };
            self.hold(active <= most, || format!("run {} begins as one of {active}, where {most} may", run.id));
        }
    }

    /// What could go on does: nothing that has room waits.
    fn nothing_idles<S: Surroundings>(&mut self, owner: &Owner<S>, occupancy: &Occupancy) {
        let shard = &owner.shard;
        let free = |labels: &[String], new: bool| {
            shard.sessions().iter().any(|(id, session)| {
                let kept = if new && session.slots > RESERVED { RESERVED } else { 0 };
                let held = occupancy.sessions.get(id).copied().unwrap_or(0);
                let fits = labels.iter().all(|label| session.labels.contains(label));
                fits && session.slots > held + kept && !(new && session.draining)
            })
        };
        for run in owner.runs.values() {
            if run.pending.is_some() && run.pending != Some(Pending::Backfill) {
                let barred = shard.barred(run);
                self.hold(barred != Barred::Nothing, || format!("run {} waits and nothing bars it", run.id));
            }
            for (ix, task) in run.tasks.iter().enumerate() {
                let labels = &run.graph.jobs[ix].labels;
                match task.position {
                    Position::Ready => {
                        let room = free(labels, true) && has_room(owner, run, ix, occupancy);
                        self.hold(!room, || {
                            let at = shard.standing((run.id, ix)).map(|standing| standing.limit);
                            format!("job {} of run {} waits at {at:?} although there is room", task.job, run.id)
                        });
                    }
                    _ if task.attempt().is_some_and(|attempt| attempt.wants.is_some()) => {
                        self.hold(!free(labels, false), || {
                            format!("job {} of run {} wants to go on, and a slot is free", task.job, run.id)
                        });
                    }
                    _ => {}
                }
            }
        }
    }

    fn everything_is_explained<S: Surroundings>(&mut self, owner: &Owner<S>, now: Micros) {
        let shard = Some(&owner.shard);
        for run in owner.runs.values() {
            if run.pending.is_some() {
                let why = explain_pending(run, shard).why;
                let told = match &why {
                    Why::WaitingForRuns { runs, .. } => !runs.is_empty(),
                    Why::WaitingInBackfill { .. } => run.pending == Some(Pending::Backfill),
                    Why::WaitingForServer { .. } => false,
                    _ => true,
                };
                self.hold(told, || format!("nobody can tell why run {} does not begin: {why:?}", run.id));
                continue;
            }
            for (ix, task) in run.tasks.iter().enumerate() {
                let why = explain(run, shard, ix, now).why;
                let told = match (&why, task.position) {
                    (Why::Ended, at) => at == Position::Done || at == Position::Cleaning,
                    (Why::WaitingForJobs { jobs, .. }, _) => !jobs.is_empty(),
                    (Why::WaitingForSlot { place, of, .. } | Why::WaitingForLimit { place, of, .. }, _) => {
                        *place >= 1 && place <= of
                    }
                    (Why::Held { reason }, _) => !reason.is_empty(),
                    (Why::UpstreamFailed { jobs }, _) => {
                        !jobs.is_empty() || task.marked.is_some() || self.reloaded.contains(&run.id)
                    }
                    (Why::HeldByScope { control, .. }, _) => !control.by.is_empty(),
                    (Why::WaitingForServer { .. }, _) => false,
                    _ => true,
                };
                self.hold(told, || format!("nobody can tell why job {} of run {} is there: {why:?}", task.job, run.id));
            }
        }
    }

    fn backfills_count<S: Surroundings>(&mut self, owner: &Owner<S>, rows: &Rows) {
        for (id, filling) in &owner.backfills {
            let mut counted = Progress::default();
            let mut there = 0;
            for index in filling.backfill.sequence() {
                let run = filling.backfill.run_id(index);
                let stored = rows.runs.get(&run).map(|stored| stored.state);
                let Some(state) = owner.runs.get(&run).map(Run::state).or(stored) else { continue };
                there += 1;
                counted.follow(RunState::Queued, state);
            }
            let p = &filling.progress;
            let same = (p.running, p.succeeded, p.failed, p.stopped)
                == (counted.running, counted.succeeded, counted.failed, counted.stopped);
            self.hold(same, || format!("backfill {id} says {p:?}, its runs {counted:?}"));
            self.hold(there >= p.next.min(p.exist), || format!("backfill {id} has {there} rows, and says {p:?}"));
        }
    }

    fn limits_are_kept<S: Surroundings>(&mut self, owner: &Owner<S>, now: Now) {
        for run in owner.runs.values() {
            for task in run.tasks.iter().filter(|task| task.position.is_live()) {
                let limit = task.attempt().and_then(|attempt| self.limits.get(&attempt.id).copied());
                self.hold(limit.is_none_or(|limit| now.mono <= limit), || {
                    format!("job {} of run {} is {} beyond its time limit", task.job, run.id, task.position)
                });
            }
        }
    }

    /// An owner began anew: time limits count on from what the wall clock says, which may have jumped meanwhile.
    pub fn restarted(&mut self, runs: &BTreeMap<RunId, Run>, now: Now) {
        self.occupancy = occupancy(runs.values()).limits;
        for run in runs.values() {
            for (ix, task) in run.tasks.iter().enumerate() {
                let limit = run.graph.jobs[ix].timeout_seconds.map(pinrail_model::document::seconds);
                if let (Some(limit), Some(attempt)) = (limit, task.attempt()) {
                    self.limits.insert(attempt.id, now.mono + limit + SLACK);
                }
            }
        }
    }

    /// Work begins only for what is durable.
    pub fn dispatched(&mut self, run: RunId, work: &Work, durable: &Rows) {
        let (Work::Begin { task, epoch }
        | Work::Submit { task, epoch }
        | Work::Reattach { task, epoch }
        | Work::Complete { task, epoch }
        | Work::Publish { task, epoch }
        | Work::Clean { task, epoch, .. }) = work
        else {
            return;
        };
        let stored = durable.runs.get(&run).and_then(|stored| stored.tasks.get(*task));
        let ready = stored.is_some_and(|stored| {
            let attempt = stored.attempt();
            let says = match work {
                Work::Clean { .. } => attempt.is_some_and(|a| a.verdict.is_some() || a.outcome.is_some()),
                Work::Complete { .. } => attempt.is_some_and(|a| a.executed.is_some()),
                Work::Submit { .. } => attempt.is_some_and(|a| a.executed.as_ref().is_some_and(|e| e.spec.is_some())),
                _ => attempt.is_some(),
            };
            stored.epoch == *epoch && says
        });
        self.hold(ready, || format!("{work:?} of run {run} begins before what it rests on is durable"));
    }
}

/// Who holds what, counted from the tasks alone.
struct Occupancy {
    limits: BTreeMap<LimitId, u32>,
    sessions: BTreeMap<SessionId, u32>,
}

fn occupancy<'a>(runs: impl Iterator<Item = &'a Run>) -> Occupancy {
    let mut occupancy = Occupancy { limits: BTreeMap::new(), sessions: BTreeMap::new() };
    for run in runs {
        for (ix, task) in run.tasks.iter().enumerate() {
            if !task.position.is_live() && task.position != Position::Cleaning {
                continue;
            }
            for need in run.needs(ix) {
                *occupancy.limits.entry(need.limit).or_default() += need.slots;
            }
            let counts = u32::from(!run.delegates(ix));
            *occupancy.limits.entry(LimitId::Quota(run.project.clone())).or_default() += counts;
            if let Some(attempt) = task.attempt().filter(|attempt| attempt.slot) {
                *occupancy.sessions.entry(attempt.session).or_default() += 1;
            }
        }
    }
    occupancy
}

/// What a limit has room for; none where there is no limit.
fn capacity<'a>(shard: &Shard, mut runs: impl Iterator<Item = &'a Run>, limit: &LimitId) -> Option<u32> {
    match limit {
        // One that wants more than there will ever be gets all of it.
        LimitId::Pool(..) => {
            let widest = runs.flat_map(|run| &run.graph.jobs).flat_map(|job| job.pools.values()).max();
            shard.capacity(limit).map(|most| most.max(widest.copied().unwrap_or(0)))
        }
        // Two versions of a workflow may say different things; the one that was heard last counts.
        LimitId::Workflow(..) | LimitId::Job(..) | LimitId::Quota(_) => shard.capacity(limit),
        LimitId::Key(..) => Some(1),
        _ => runs.next().and(None),
    }
}

fn has_room<S: Surroundings>(owner: &Owner<S>, run: &Run, ix: TaskIx, occupancy: &Occupancy) -> bool {
    let shard = &owner.shard;
    if shard.held_scope(&run.project, &run.workflow).is_some() || run.hold.is_some() {
        return false;
    }
    let held = |limit: &LimitId| occupancy.limits.get(limit).copied().unwrap_or(0);
    let quota = LimitId::Quota(run.project.clone());
    let fits = |limit: &LimitId, slots: u32| match (limit, shard.capacity(limit)) {
        (LimitId::Pool(..), None) => false,
        (_, None) => true,
        (_, Some(most)) => held(limit) + slots.min(most.max(1)) <= most,
    };
    fits(&quota, 1) && run.needs(ix).iter().all(|need| fits(&need.limit, need.slots))
}

/// Whether the endings of the jobs that a job waits for let it begin.
fn may_begin(run: &Run, ix: TaskIx) -> bool {
    let endings: Vec<Option<Ending>> = run.graph.inputs(ix).iter().map(|parent| run.tasks[*parent].ending).collect();
    let is_bad = |e: &Ending| matches!(e, Ending::Failed | Ending::UpstreamFailed | Ending::Cancelled);
    let all = |good: &dyn Fn(&Ending) -> bool| endings.iter().all(|ending| ending.as_ref().is_some_and(good));
    match run.graph.jobs[ix].run_if {
        RunIf::AllSucceeded => all(&|e| e.is_good()),
        RunIf::AllDone => all(&|_| true),
        RunIf::NoneFailed => all(&|e| !is_bad(e)),
        RunIf::AnyFailed => endings.iter().flatten().any(|e| matches!(e, Ending::Failed | Ending::UpstreamFailed)),
    }
}

/// What holds for every task at every moment.
fn sound(task: &Task) -> Result<(), &'static str> {
    for (place, attempt) in task.attempts.iter().enumerate() {
        let is_last = place + 1 == task.attempts.len();
        if attempt.number as usize != place + 1 {
            return Err("its attempts are not numbered one after another");
        }
        if !is_last && (attempt.outcome.is_none() || attempt.slot) {
            return Err("it has two live attempts");
        }
        if attempt.slot && attempt.wants.is_some() {
            return Err("an attempt has a slot and waits for one");
        }
        if attempt.outcome.is_some() && attempt.cleanups_started == 0 {
            return Err("an attempt has ended without cleanup");
        }
    }
    let working = task.position.is_live() || task.position == Position::Cleaning;
    let last = task.attempts.last();
    if working && last.is_none_or(|last| last.cleanup.is_some()) {
        return Err("it is under way without an attempt");
    }
    if !working && last.is_some_and(|last| last.outcome.is_none() || last.cleanup.is_none() || last.slot) {
        return Err("it is not under way, and its attempt is");
    }
    match (task.position, task.ending) {
        (Position::Done, None) => Err("it is done and nothing became of it"),
        (Position::Done | Position::Cleaning, _) | (_, None) => Ok(()),
        (_, Some(_)) => Err("something became of it, and it is not done"),
    }
}

/// The epoch of a report that is not the task's.
fn stale(run: &Run, event: &Event) -> Option<u64> {
    let (Event::Reported { task, epoch, .. }
    | Event::Published { task, epoch, .. }
    | Event::Lost { task, epoch, .. }
    | Event::Observed { task, epoch, .. }
    | Event::Elapsed { task, epoch, .. }) = event
    else {
        return None;
    };
    let is_limit = matches!(event, Event::Elapsed { timer: Timer::Warn | Timer::Abort, .. });
    run.tasks.get(*task).filter(|found| !is_limit && found.epoch != *epoch).map(|_| *epoch)
}

fn task_of(event: &Event) -> Option<TaskIx> {
    match event {
        Event::Claimed { task, .. }
        | Event::Granted { task, .. }
        | Event::Reported { task, .. }
        | Event::Published { task, .. }
        | Event::Lost { task, .. }
        | Event::Observed { task, .. }
        | Event::Elapsed { task, .. } => Some(*task),
        Event::Stop { task, .. } => *task,
        Event::Retry { tasks, .. } | Event::Mark { tasks, .. } | Event::Disable { tasks, .. } => tasks.first().copied(),
        Event::Hold { tasks, .. } => tasks.as_ref().and_then(|tasks| tasks.first().copied()),
        Event::Created | Event::Turned | Event::Admitted { .. } | Event::Reload { .. } => None,
    }
}

/// What kind of event it is.
pub fn name(event: &Event) -> &'static str {
    use pinrail_model::condition::Look;
    use pinrail_model::run::{Loss, Report};
    match event {
        Event::Created => "created",
        Event::Turned => "turned",
        Event::Admitted { .. } => "admitted",
        Event::Claimed { .. } => "claimed",
        Event::Granted { .. } => "granted",
        Event::Published { .. } => "published",
        Event::Lost { by: Loss::Owner, .. } => "lost with its server",
        Event::Lost { by: Loss::Session, .. } => "lost with its worker",
        Event::Lost { by: Loss::Launcher, .. } => "lost with its launcher",
        Event::Elapsed { timer: Timer::Backoff, .. } => "back-off over",
        Event::Elapsed { timer: Timer::Warn, .. } => "warn time over",
        Event::Elapsed { timer: Timer::Abort, .. } => "time limit over",
        Event::Elapsed { timer: Timer::Patience, .. } => "patience over",
        Event::Observed { look: Look::Met, .. } => "condition met",
        Event::Observed { look: Look::NotYet, .. } => "condition not yet met",
        Event::Observed { look: Look::Never, .. } => "condition never met",
        Event::Observed { look: Look::Wrong, .. } => "condition cannot be looked at",
        Event::Stop { .. } => "stop",
        Event::Retry { .. } => "retry",
        Event::Mark { .. } => "mark",
        Event::Hold { control: Some(_), .. } => "hold",
        Event::Hold { control: None, .. } => "release",
        Event::Disable { control: Some(_), .. } => "disable",
        Event::Disable { control: None, .. } => "enable",
        Event::Reload { .. } => "reload",
        Event::Reported { report, .. } => match report {
            Report::PhaseStarted(_) => "phase started",
            Report::PhaseEnded { .. } => "phase ended",
            Report::Equipped { .. } => "equipped",
            Report::Left { .. } => "left",
            Report::Warned { .. } => "warned",
            Report::Viewed { .. } => "viewed",
            Report::Executed(_) => "executed",
            Report::Specified(_) => "specified",
            Report::Submitted { .. } => "submitted",
            Report::EngineEnded { .. } => "engine ended",
            Report::Completed { .. } => "completed",
            Report::Failed(_) => "failed",
            Report::CleanupEnded(_) => "cleanup ended",
        },
    }
}
