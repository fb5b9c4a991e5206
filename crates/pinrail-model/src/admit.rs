//! Who goes next: the second of the two state machines, over the runs that are to begin and the ready tasks of a shard.
//!
//! **Runs.** A run of a schedule waits in its workflow's line as its overrun policy says; a backfill puts as many of its
//! runs into the line as it may have active. No two runs of a workflow for one interval are ever under way.
//!
//! **Tasks.** What was begun is finished first: attempts that want a slot to complete or to clean up go before new ones,
//! and one slot of each worker is kept for them, so that a flood of new work cannot keep results from being published.
//! New attempts go by class; of each ten, one goes to a lower class that waits. Within a class, projects share by weight:
//! the one that holds least for its weight is next. Within a project they go by the priority their author gave, then by
//! the length of the path that hangs on them, then by age. A task whose pool, key, quota or limit is full is set aside
//! there and holds up nobody else.
//!
//! The shard is derived from the runs and rebuilt with them; nothing of it is stored.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::backfill::{Backfill, Progress};
use crate::ids::{BackfillId, RunId, SessionId};
use crate::names::{JobName, PoolName, ProjectName, WorkflowName};
use crate::run::{Cause, Class, Control, Pending, Position, Run, RunState, Step, TaskIx};
use crate::target::Lane;
use crate::time::{Interval, Micros};
use crate::trigger::Overrun;

/// A task of the shard.
pub type Key = (RunId, TaskIx);

/// Slots of a worker kept for attempts that are about to finish, where it has more than one.
pub const RESERVED: u32 = 1;
/// Starts in a row that go before a lower class that waits.
const MOST_PASSED_OVER: u32 = 9;

/// What a person can hold as a whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "scope", rename_all = "kebab-case")]
pub enum Scope {
    Platform,
    Project { project: ProjectName },
    Workflow { project: ProjectName, workflow: WorkflowName },
}

impl Scope {
    /// Whether it reaches a workflow.
    #[must_use]
    pub fn holds(&self, project: &ProjectName, workflow: &WorkflowName) -> bool {
        match self {
            Self::Platform => true,
            Self::Project { project: held } => held == project,
            Self::Workflow { project: of, workflow: held } => of == project && held == workflow,
        }
    }
}

/// What has room for so many attempts at once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LimitId {
    /// Held by a person: no room at all.
    Scope(Scope),
    Run(RunId),
    /// All attempts of a project.
    Quota(ProjectName),
    Pool(ProjectName, PoolName),
    Workflow(Lane),
    Job(Lane, JobName),
    /// One at a time.
    Key(ProjectName, String),
    /// Workers that have these labels.
    Labels(Vec<String>),
}

/// What an attempt takes of a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    pub limit: LimitId,
    pub slots: u32,
}

/// The occupancy and the queues of one shard.
#[derive(Debug, Default)]
pub struct Shard {
    sessions: BTreeMap<SessionId, Session>,
    /// Room for attempts, where it is limited. A pool that is not here does not exist.
    capacities: BTreeMap<LimitId, u32>,
    held: BTreeMap<LimitId, u32>,
    parked: BTreeMap<LimitId, BTreeSet<Queued>>,
    /// Limits that may have room again for what is parked there.
    freed: BTreeSet<LimitId>,
    holds: BTreeMap<Scope, Control>,
    weights: BTreeMap<ProjectName, u32>,
    /// Attempts under way, and when it was last given a slot, by project.
    shares: BTreeMap<ProjectName, Share>,
    served: u64,
    passed_over: BTreeMap<Class, u32>,
    /// Want a slot to go on.
    returning: BTreeSet<(Micros, RunId, TaskIx)>,
    ready: BTreeMap<Class, BTreeMap<ProjectName, BTreeSet<Queued>>>,
    places: HashMap<Key, Place>,
    lines: BTreeMap<Lane, Line>,
    runs: HashMap<RunId, RunPlace>,
    /// Lines in which something may begin.
    moved: BTreeSet<Lane>,
    backfills: BTreeMap<BackfillId, Batch>,
    /// Ready tasks that have come, gone or been parked since somebody asked; none: nobody asks.
    stirred: Option<Vec<Key>>,
}

/// A worker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Session {
    pub slots: u32,
    pub labels: BTreeSet<String>,
    /// It finishes what it has and takes nothing new.
    pub draining: bool,
    held: u32,
}

#[derive(Debug, Default)]
struct Share {
    held: u32,
    served: u64,
}

/// A ready task, in the order in which slots are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Queued {
    pub class: Class,
    /// The negative of the author's priority and of the weight, so that the order is ascending.
    pub priority: i64,
    pub weight: i64,
    pub ready_at: Micros,
    pub run: RunId,
    pub task: TaskIx,
}

#[derive(Debug)]
struct Place {
    project: ProjectName,
    workflow: WorkflowName,
    needs: Vec<Need>,
    labels: Vec<String>,
    /// What it wants a slot for, if it wants one again, is its cleanup.
    cleans: bool,
    run_held: bool,
    /// It counts as work of its project's.
    counts: bool,
    at: At,
}

#[derive(Debug, Clone)]
enum At {
    /// An attempt is under way; with a session, a local process of it lives there.
    Working(Option<SessionId>),
    Returning(Micros),
    Ready(Queued),
    Parked(Queued, LimitId),
}

/// The runs of a workflow that are under way or wait for those.
#[derive(Debug, Default)]
struct Line {
    active: BTreeMap<RunId, Active>,
    waiting: BTreeMap<(Micros, RunId), Waiting>,
    /// Those of its schedule, of which only the first can begin, however many wait; and the others.
    scheduled: BTreeSet<(Micros, RunId)>,
    others: BTreeSet<(Micros, RunId)>,
    /// The scheduled run that failed last, while none succeeded since.
    failed: Option<RunId>,
}

#[derive(Debug, Clone, Copy)]
struct Active {
    interval: Interval,
    scheduled: bool,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    interval: Interval,
    pending: Pending,
}

#[derive(Debug)]
struct RunPlace {
    line: Lane,
    /// Its place among the waiting, if it waits.
    waits: Option<(Micros, RunId)>,
    backfill: Option<BackfillId>,
}

#[derive(Debug)]
struct Batch {
    line: Lane,
    concurrency: u32,
    /// Runs of it in the line.
    inside: u32,
    /// Whether there are more that may enter.
    more: bool,
}

/// What admission decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admitted {
    /// A pending run begins.
    Begin { run: RunId },
    /// The next run of a backfill enters the line of its workflow.
    Advance { backfill: BackfillId },
    /// An attempt goes on.
    Grant { run: RunId, task: TaskIx, session: SessionId },
    /// A new attempt begins.
    Claim { run: RunId, task: TaskIx, session: SessionId },
}

/// What a fire time comes to under its overrun policy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OnFire {
    /// It makes no run, because of this one.
    pub passed_over: Option<RunId>,
    /// These are stopped for it.
    pub stopped: Vec<RunId>,
}

/// Why a pending run does not begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Barred {
    /// One for the same interval is under way.
    SameInterval(RunId),
    /// As many as may be are under way.
    Overrun {
        overrun: Overrun,
        most_active: u32,
        active: Vec<RunId>,
    },
    /// Another of its schedule comes first.
    Behind(RunId),
    /// The one before did not succeed.
    Failed(RunId),
    Held(Scope, Control),
    /// It waits for its turn in its backfill.
    InBackfill,
    /// Nothing: it begins in a moment.
    Nothing,
}

/// Where a ready task stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// What has no room for it; none: a slot of any worker.
    pub limit: Option<LimitId>,
    pub capacity: u32,
    pub held: u32,
    /// From 1.
    pub place: u32,
    pub of: u32,
    pub holders: Vec<Key>,
    /// Who comes before it, next first; of a long queue the first.
    pub ahead: Vec<Key>,
}

/// Tasks ahead of one that are named: more of them say no more about when its turn comes.
const MOST_AHEAD: usize = 1000;

impl Shard {
    // Workers.

    /// A worker has come, or says anew what it can take.
    pub fn join(&mut self, id: SessionId, slots: u32, labels: BTreeSet<String>) {
        let session = self.sessions.entry(id).or_default();
        session.slots = slots.max(1);
        session.labels = labels;
        session.draining = false;
        self.offer_to_workers();
    }

    /// A worker takes nothing new from now on.
    pub fn drain(&mut self, id: SessionId, draining: bool) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.draining = draining;
        }
        self.offer_to_workers();
    }

    /// A worker is gone. What it held is lost by events of its own.
    pub fn part(&mut self, id: SessionId) {
        self.sessions.remove(&id);
    }

    #[must_use]
    pub fn sessions(&self) -> &BTreeMap<SessionId, Session> {
        &self.sessions
    }

    /// The tasks whose attempts have a process at a worker.
    pub fn of_session(&self, id: SessionId) -> impl Iterator<Item = Key> + '_ {
        self.places
            .iter()
            .filter(move |(_, place)| matches!(place.at, At::Working(Some(at)) if at == id))
            .map(|(key, _)| *key)
    }

    /// Slots of all workers.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.sessions.values().map(|session| session.slots).sum()
    }

    #[must_use]
    pub fn slots_held(&self) -> u32 {
        self.sessions.values().map(|session| session.held).sum()
    }

    fn offer_to_workers(&mut self) {
        let labels = self.parked.keys().filter(|limit| matches!(limit, LimitId::Labels(_))).cloned();
        let labels: Vec<LimitId> = labels.collect();
        self.freed.extend(labels);
    }

    // Limits.

    /// Sets the room of a limit, or with none takes the limit away.
    pub fn set_capacity(&mut self, limit: LimitId, capacity: Option<u32>) {
        match capacity {
            Some(capacity) => self.capacities.insert(limit.clone(), capacity),
            None => self.capacities.remove(&limit),
        };
        self.freed.insert(limit);
    }

    #[must_use]
    pub fn capacity(&self, limit: &LimitId) -> Option<u32> {
        match limit {
            LimitId::Scope(_) | LimitId::Run(_) => Some(0),
            LimitId::Key(..) => Some(1),
            limit => self.capacities.get(limit).copied(),
        }
    }

    /// A project's part of the slots, in proportion to the others'; 1 where nothing is set.
    pub fn set_weight(&mut self, project: ProjectName, weight: u32) {
        self.weights.insert(project, weight.max(1));
    }

    /// A person holds or releases a scope.
    pub fn set_hold(&mut self, scope: Scope, control: Option<Control>) {
        match control {
            Some(control) => self.holds.insert(scope.clone(), control),
            None => self.holds.remove(&scope),
        };
        self.freed.insert(LimitId::Scope(scope));
        self.moved.extend(self.lines.keys().cloned());
    }

    #[must_use]
    pub fn held_scope(&self, project: &ProjectName, workflow: &WorkflowName) -> Option<(Scope, &Control)> {
        if self.holds.is_empty() {
            return None;
        }
        let scopes = [
            Scope::Platform,
            Scope::Project { project: project.clone() },
            Scope::Workflow { project: project.clone(), workflow: workflow.clone() },
        ];
        scopes.into_iter().find_map(|scope| self.holds.get(&scope).map(|control| (scope.clone(), control)))
    }

    // Tasks.

    /// Takes note of what became of some tasks of a run.
    pub fn follow(&mut self, run: &Run, tasks: impl IntoIterator<Item = TaskIx>) {
        for task in tasks {
            self.leave((run.id, task));
            if let Some(at) = at(run, task) {
                self.enter(run, task, at);
            }
        }
    }

    /// A publication was refused: a run is again what it was before, and has not been given any tasks by it.
    pub fn follow_back(&mut self, before: &Run, after: Option<&Run>) {
        self.follow_run(before);
        let tasks = after.map_or(0, |after| after.tasks.len()).max(before.tasks.len());
        self.follow(before, 0..tasks);
    }

    /// Forgets a run.
    pub fn forget(&mut self, run: &Run) {
        for task in 0..run.tasks.len() {
            self.leave((run.id, task));
        }
        self.leave_line(run.id);
    }

    /// The tasks that wait for a slot; within a class and project, next first.
    pub fn queue(&self) -> impl Iterator<Item = &Queued> {
        self.ready.values().flat_map(|projects| projects.values().flatten())
    }

    /// Who holds slots of workers.
    pub fn holders(&self) -> impl Iterator<Item = Key> + '_ {
        self.places.iter().filter(|(_, place)| matches!(place.at, At::Working(Some(_)))).map(|(key, _)| *key)
    }

    /// From now on takes note of which ready tasks come, go or wait for something else.
    pub fn watch_waiting(&mut self) {
        self.stirred.get_or_insert_default();
    }

    /// Tasks of which that may be true since the last time; some stand there more than once.
    pub fn stirred(&mut self) -> Vec<Key> {
        self.stirred.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// What a ready task waits for, where none is a slot of any worker; none for one that is not ready.
    #[must_use]
    pub fn waits_for(&self, key: Key) -> Option<Option<&LimitId>> {
        match &self.places.get(&key)?.at {
            At::Parked(_, limit) => Some(Some(limit)),
            At::Ready(_) => Some(None),
            At::Working(_) | At::Returning(_) => None,
        }
    }

    fn stir(&mut self, key: Key) {
        if let Some(stirred) = &mut self.stirred {
            stirred.push(key);
        }
    }

    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.places.is_empty()
    }

    /// Where a ready task stands; none for one that is not ready.
    #[must_use]
    pub fn standing(&self, key: Key) -> Option<Standing> {
        let place = self.places.get(&key)?;
        match &place.at {
            At::Parked(queued, limit) => {
                let parked = self.parked.get(limit);
                let takes = |place: &Place| match limit {
                    LimitId::Quota(project) => &place.project == project && place.counts,
                    limit => place.needs.iter().any(|need| need.limit == *limit),
                };
                let working = |place: &&Place| matches!(place.at, At::Working(_) | At::Returning(_));
                let holders = self.places.iter().filter(|(_, place)| working(place) && takes(place));
                Some(Standing {
                    limit: Some(limit.clone()),
                    capacity: self.capacity(limit).unwrap_or(0),
                    held: self.taken(limit),
                    place: parked.map_or(0, |parked| parked.range(..queued).count() as u32) + 1,
                    of: parked.map_or(0, |parked| parked.len() as u32),
                    holders: sorted(holders.map(|(key, _)| *key)),
                    ahead: named(parked.into_iter().flat_map(|parked| parked.range(..queued))),
                })
            }
            At::Ready(queued) => {
                let before = self.queue().filter(|other| *other < queued).count() as u32;
                let takes = self.sessions.values().filter(|session| !session.draining);
                let capacity: u32 = takes.map(|session| session.slots - session.reserved()).sum();
                Some(Standing {
                    limit: None,
                    capacity,
                    held: self.slots_held(),
                    place: before + 1,
                    of: self.queue().count() as u32,
                    holders: sorted(self.holders()),
                    ahead: named(self.queue().filter(|other| *other < queued)),
                })
            }
            At::Working(_) | At::Returning(_) => None,
        }
    }

    fn taken(&self, limit: &LimitId) -> u32 {
        match limit {
            LimitId::Quota(project) => self.shares.get(project).map_or(0, |share| share.held),
            limit => self.held.get(limit).copied().unwrap_or(0),
        }
    }

    fn leave(&mut self, key: Key) {
        let Some(place) = self.places.remove(&key) else { return };
        if matches!(place.at, At::Ready(_) | At::Parked(..)) {
            self.stir(key);
        }
        match &place.at {
            At::Working(session) => {
                if let Some(session) = session.and_then(|id| self.sessions.get_mut(&id)) {
                    session.held -= 1;
                    self.offer_to_workers();
                }
                self.release(&place);
            }
            At::Returning(since) => {
                self.returning.remove(&(*since, key.0, key.1));
                self.release(&place);
            }
            At::Ready(queued) => {
                self.take_from_ready(&place.project, queued);
                // What it was let through for may serve the next one there, unless it takes it itself.
                let others = place.limits().into_iter().filter(|limit| self.parked.contains_key(limit));
                let others: Vec<LimitId> = others.collect();
                self.freed.extend(others);
            }
            At::Parked(queued, limit) => {
                if let Some(parked) = self.parked.get_mut(limit) {
                    parked.remove(queued);
                    if parked.is_empty() {
                        self.parked.remove(limit);
                    }
                }
            }
        }
    }

    fn release(&mut self, place: &Place) {
        for need in &place.needs {
            if let Some(held) = self.held.get_mut(&need.limit) {
                *held = held.saturating_sub(need.slots);
                if *held == 0 {
                    self.held.remove(&need.limit);
                }
            }
            if self.parked.contains_key(&need.limit) {
                self.freed.insert(need.limit.clone());
            }
        }
        if let Some(share) = self.shares.get_mut(&place.project).filter(|_| place.counts) {
            share.held -= 1;
        }
        if !self.parked.is_empty() {
            self.freed.insert(LimitId::Quota(place.project.clone()));
        }
    }

    fn take_from_ready(&mut self, project: &ProjectName, queued: &Queued) {
        let Some(projects) = self.ready.get_mut(&queued.class) else { return };
        if let Some(queue) = projects.get_mut(project) {
            queue.remove(queued);
            if queue.is_empty() {
                projects.remove(project);
            }
        }
        if projects.is_empty() {
            self.ready.remove(&queued.class);
        }
    }

    fn enter(&mut self, run: &Run, task: TaskIx, at: At) {
        let key = (run.id, task);
        let place = Place {
            project: run.project.clone(),
            workflow: run.workflow.clone(),
            needs: run.needs(task),
            labels: run.graph.jobs[task].labels.clone(),
            cleans: run.tasks[task].attempt().is_some_and(|attempt| attempt.wants == Some(Step::Clean)),
            run_held: run.hold.is_some(),
            counts: !run.delegates(task),
            at: at.clone(),
        };
        let job = &run.graph.jobs[task];
        if let Some(most) = job.concurrency {
            self.widen(LimitId::Job(run.lane(), job.name.clone()), most);
        }
        if let Some(most) = run.graph.concurrency {
            self.widen(LimitId::Workflow(run.lane()), most);
        }
        match at {
            At::Working(_) | At::Returning(_) => {
                for need in &place.needs {
                    *self.held.entry(need.limit.clone()).or_default() += need.slots;
                }
                self.shares.entry(place.project.clone()).or_default().held += u32::from(place.counts);
                if let At::Working(Some(session)) = at
                    && let Some(session) = self.sessions.get_mut(&session)
                {
                    session.held += 1;
                }
                if let At::Returning(since) = at {
                    self.returning.insert((since, key.0, key.1));
                }
            }
            At::Ready(queued) => self.queue_up(place.project.clone(), queued),
            At::Parked(..) => {}
        }
        self.places.insert(key, place);
    }

    /// Sets a limit that a workflow says itself; another version of it may say more.
    fn widen(&mut self, limit: LimitId, most: u32) {
        if self.capacities.get(&limit) != Some(&most) {
            self.capacities.insert(limit.clone(), most);
            self.freed.insert(limit);
        }
    }

    fn queue_up(&mut self, project: ProjectName, queued: Queued) {
        self.stir((queued.run, queued.task));
        self.ready.entry(queued.class).or_default().entry(project).or_default().insert(queued);
    }

    /// Lets what is parked at a limit with room try again: as many as there is room for.
    fn offer(&mut self, limit: &LimitId) {
        let Some(parked) = self.parked.get_mut(limit) else { return };
        let capacity = match limit {
            LimitId::Key(..) => Some(1),
            limit => self.capacities.get(limit).copied(),
        };
        let held = match limit {
            LimitId::Quota(project) => self.shares.get(project).map_or(0, |share| share.held),
            limit => self.held.get(limit).copied().unwrap_or(0),
        };
        let room = match (limit, capacity) {
            (LimitId::Scope(scope), _) if self.holds.contains_key(scope) => 0,
            (LimitId::Scope(_) | LimitId::Run(_) | LimitId::Labels(_), _) => usize::MAX,
            (_, Some(capacity)) => capacity.saturating_sub(held) as usize,
            // A pool that is taken away has no room; whatever else is no longer limited has all.
            (LimitId::Pool(..), None) => 0,
            (_, None) => usize::MAX,
        };
        // One that needs more than there is room for holds up nobody behind it.
        let (mut left, mut again) = (room, Vec::new());
        for queued in parked.iter() {
            if left == 0 {
                break;
            }
            let place = self.places.get(&(queued.run, queued.task));
            let wanted = place.map_or(1, |place| place.wants_of(limit, capacity)) as usize;
            if wanted <= left {
                left -= wanted;
                again.push(*queued);
            }
        }
        for queued in &again {
            parked.remove(queued);
        }
        if parked.is_empty() {
            self.parked.remove(limit);
        }
        for queued in again {
            let Some(place) = self.places.get_mut(&(queued.run, queued.task)) else { continue };
            place.at = At::Ready(queued);
            let project = place.project.clone();
            self.queue_up(project, queued);
        }
    }

    /// The first limit that has no room for a task.
    fn full(&self, key: Key) -> Option<LimitId> {
        let place = self.places.get(&key)?;
        if let Some((scope, _)) = self.held_scope(&place.project, &place.workflow) {
            return Some(LimitId::Scope(scope));
        }
        if place.run_held {
            return Some(LimitId::Run(key.0));
        }
        if let Some(quota) = self.capacities.get(&LimitId::Quota(place.project.clone()))
            && place.counts
            && self.shares.get(&place.project).map_or(0, |share| share.held) >= *quota
        {
            return Some(LimitId::Quota(place.project.clone()));
        }
        let full = place.needs.iter().find(|need| {
            let capacity = match (&need.limit, self.capacity(&need.limit)) {
                (LimitId::Pool(..), None) => 0,
                (_, None) => return false,
                (_, Some(capacity)) => capacity,
            };
            // One that wants more than there will ever be gets all of it.
            let wanted = need.slots.min(capacity.max(1));
            self.taken(&need.limit) + wanted > capacity
        });
        full.map(|need| need.limit.clone())
    }

    fn park(&mut self, queued: Queued, limit: LimitId) {
        let Some(place) = self.places.get_mut(&(queued.run, queued.task)) else { return };
        place.at = At::Parked(queued, limit.clone());
        let project = place.project.clone();
        let mut others = place.limits();
        others.retain(|other| *other != limit);
        self.stir((queued.run, queued.task));
        self.take_from_ready(&project, &queued);
        // What it was let through for may serve the next one there.
        let others = others.into_iter().filter(|other| self.parked.contains_key(other));
        let others: Vec<LimitId> = others.collect();
        self.freed.extend(others);
        self.parked.entry(limit).or_default().insert(queued);
    }

    /// A worker with a free slot that has the labels: the one with most room.
    fn worker(&self, labels: &[String], reserve: bool) -> Option<SessionId> {
        let free = |session: &Session| {
            let kept = if reserve { session.reserved() } else { 0 };
            session.slots.saturating_sub(session.held + kept)
        };
        let fits = |session: &Session| labels.iter().all(|label| session.labels.contains(label));
        self.sessions
            .iter()
            .filter(|(_, session)| fits(session) && free(session) > 0 && (!session.draining || !reserve))
            // One that is to be empty gets what nobody else can finish.
            .max_by_key(|(id, session)| (!session.draining, free(session), std::cmp::Reverse(**id)))
            .map(|(id, _)| *id)
    }

    /// The class whose turn it is, of those that have somebody ready.
    fn class(&self) -> Option<Class> {
        let starved = self
            .ready
            .keys()
            .skip(1)
            .filter(|class| self.passed_over.get(class).is_some_and(|times| *times >= MOST_PASSED_OVER));
        let longest = starved.max_by_key(|class| (self.passed_over.get(class), **class));
        longest.or_else(|| self.ready.keys().next()).copied()
    }

    /// The project that holds least for its weight; of several, the one that was served longest ago.
    fn project(&self, class: Class) -> Option<ProjectName> {
        let projects = self.ready.get(&class)?;
        let load = |project: &ProjectName| {
            let weight = u64::from(self.weights.get(project).copied().unwrap_or(1));
            let (held, served) = self.shares.get(project).map_or((0, 0), |share| (share.held, share.served));
            (u64::from(held + 1) * LEAST_COMMON / weight, served)
        };
        projects.keys().min_by_key(|project| load(project)).cloned()
    }

    fn claim(&mut self) -> Option<Admitted> {
        loop {
            // Without a free slot anywhere nothing is looked at.
            self.worker(&[], true)?;
            let class = self.class()?;
            let project = self.project(class)?;
            let queued = *self.ready.get(&class)?.get(&project)?.first()?;
            let key = (queued.run, queued.task);
            if let Some(limit) = self.full(key) {
                self.park(queued, limit);
                self.offer_freed();
                continue;
            }
            let labels = self.places.get(&key).map(|place| place.labels.clone()).unwrap_or_default();
            let Some(session) = self.worker(&labels, true) else {
                self.park(queued, LimitId::Labels(labels));
                self.offer_freed();
                continue;
            };
            for lower in self.ready.keys().filter(|lower| **lower > class) {
                *self.passed_over.entry(*lower).or_default() += 1;
            }
            self.passed_over.remove(&class);
            self.served += 1;
            self.shares.entry(project).or_default().served = self.served;
            return Some(Admitted::Claim { run: queued.run, task: queued.task, session });
        }
    }

    fn offer_freed(&mut self) {
        while let Some(limit) = self.freed.pop_first() {
            self.offer(&limit);
        }
    }

    fn grant(&self) -> Option<Admitted> {
        // Without a free slot anywhere nothing is looked at.
        self.worker(&[], false)?;
        // One whose labels no worker with a free slot has keeps nobody else from going on.
        self.returning.iter().find_map(|(_, run, task)| {
            let place = self.places.get(&(*run, *task))?;
            let has = |session: &Session| place.labels.iter().all(|label| session.labels.contains(label));
            // Cleaning up elsewhere is better than never, should the one worker with the labels not come back.
            let elsewhere = place.cleans && !self.sessions.values().any(has);
            let session = self.worker(if elsewhere { &[] } else { &place.labels }, false)?;
            Some(Admitted::Grant { run: *run, task: *task, session })
        })
    }

    // Runs.

    /// Takes note of where a run is.
    pub fn follow_run(&mut self, run: &Run) {
        // One that had failed before says nothing new of its schedule.
        let goes_on = self.runs.contains_key(&run.id);
        let failed = self.leave_line(run.id);
        if !run.cause.minds_others() || run.pending == Some(Pending::Backfill) {
            return;
        }
        let key = run.lane();
        let line = self.lines.entry(key.clone()).or_default();
        line.failed = failed.or(line.failed);
        let scheduled = matches!(run.cause, Cause::Schedule { .. });
        let backfill = match run.cause {
            Cause::Backfill { id, .. } => Some(id),
            _ => None,
        };
        let state = run.state();
        if state.is_final() {
            if scheduled {
                match state {
                    RunState::Succeeded if line.failed == Some(run.id) => line.failed = None,
                    RunState::Failed | RunState::Cancelled if goes_on && !run.tasks.is_empty() => {
                        line.failed = Some(run.id)
                    }
                    _ => {}
                }
            }
            self.tidy(&key);
            self.moved.insert(key);
            return;
        }
        let waits = run.pending.map(|pending| {
            let since = match run.cause {
                Cause::Schedule { fire_at } => fire_at,
                _ => run.created_at,
            };
            line.wait((since, run.id), Waiting { interval: run.interval, pending });
            (since, run.id)
        });
        if waits.is_none() {
            line.active.insert(run.id, Active { interval: run.interval, scheduled });
        }
        if let Some(batch) = backfill.and_then(|id| self.backfills.get_mut(&id)) {
            batch.inside += 1;
        }
        self.moved.insert(key.clone());
        self.runs.insert(run.id, RunPlace { line: key, waits, backfill });
    }

    /// What the schedule's line knows of its last failure, as it was stored.
    pub fn set_failed(&mut self, lane: &Lane, failed: Option<RunId>) {
        if failed.is_some() || self.lines.contains_key(lane) {
            self.lines.entry(lane.clone()).or_default().failed = failed;
        }
    }

    /// The scheduled run that failed last, while none succeeded since.
    #[must_use]
    pub fn failed(&self, lane: &Lane) -> Option<RunId> {
        self.lines.get(lane)?.failed
    }

    fn leave_line(&mut self, run: RunId) -> Option<RunId> {
        let place = self.runs.remove(&run)?;
        let mut failed = None;
        if let Some(line) = self.lines.get_mut(&place.line) {
            line.active.remove(&run);
            if let Some(waits) = place.waits {
                line.waiting.remove(&waits);
                line.scheduled.remove(&waits);
                line.others.remove(&waits);
            }
            failed = line.failed;
            self.tidy(&place.line);
            self.moved.insert(place.line.clone());
        }
        if let Some(batch) = place.backfill.and_then(|id| self.backfills.get_mut(&id)) {
            batch.inside = batch.inside.saturating_sub(1);
        }
        failed
    }

    fn tidy(&mut self, key: &Lane) {
        let empty = |line: &Line| line.active.is_empty() && line.waiting.is_empty() && line.failed.is_none();
        if self.lines.get(key).is_some_and(empty) {
            self.lines.remove(key);
        }
    }

    /// The run of a workflow for an interval that is under way, if there is one.
    #[must_use]
    pub fn same_interval(&self, lane: &Lane, interval: Interval) -> Option<RunId> {
        let line = self.lines.get(lane)?;
        line.active.iter().find(|(_, active)| active.interval == interval).map(|(id, _)| *id)
    }

    /// What a fire time of a workflow comes to.
    #[must_use]
    pub fn on_fire(&self, lane: &Lane, overrun: Overrun) -> OnFire {
        let Some(line) = self.lines.get(lane) else { return OnFire::default() };
        let active = line.active.iter().filter(|(_, active)| active.scheduled).map(|(id, _)| *id);
        let waiting = line.scheduled.iter().map(|(_, id)| *id);
        let mut all = active.chain(waiting);
        match overrun {
            Overrun::Skip => OnFire { passed_over: all.next(), stopped: Vec::new() },
            Overrun::AbortRunning => OnFire { passed_over: None, stopped: all.collect() },
            Overrun::StartNew | Overrun::Delay | Overrun::DelayUntilSuccess => OnFire::default(),
        }
    }

    /// Why a pending run does not begin.
    #[must_use]
    pub fn barred(&self, run: &Run) -> Barred {
        let key = run.lane();
        let Some(place) = self.runs.get(&run.id) else { return Barred::InBackfill };
        let Some(line) = self.lines.get(&key) else { return Barred::Nothing };
        let Some(waiting) = place.waits.and_then(|waits| Some((waits, *line.waiting.get(&waits)?))) else {
            return Barred::Nothing;
        };
        if let Some((scope, control)) = self.held_scope(&key.project, &key.workflow) {
            return Barred::Held(scope, control.clone());
        }
        line.bars(waiting.0, waiting.1)
    }

    fn begin(&mut self) -> Option<Admitted> {
        while let Some(key) = self.moved.first().cloned() {
            if self.held_scope(&key.project, &key.workflow).is_none()
                && let Some((_, run)) = self.lines.get(&key).and_then(Line::free)
            {
                return Some(Admitted::Begin { run });
            }
            self.moved.remove(&key);
        }
        None
    }

    // Backfills.

    /// Takes note of how far a backfill is; one that is over is forgotten.
    pub fn follow_backfill(&mut self, backfill: &Backfill, progress: &Progress) {
        let more = progress.next < progress.made && progress.paused.is_none() && progress.cancelled.is_none();
        if backfill.state(progress).is_final() {
            self.backfills.remove(&backfill.id);
            return;
        }
        let line = backfill.lane();
        let batch = self.backfills.entry(backfill.id).or_insert(Batch { line, concurrency: 0, inside: 0, more });
        batch.more = more;
        batch.concurrency = backfill.concurrency;
    }

    /// Takes note of a backfill that was resumed after a restart with runs in the line before it was known.
    pub fn recount_backfill(&mut self, id: BackfillId) {
        let inside = self.runs.values().filter(|place| place.backfill == Some(id)).count() as u32;
        if let Some(batch) = self.backfills.get_mut(&id) {
            batch.inside = inside;
        }
    }

    /// Runs of a backfill that are in the line of their workflow.
    #[must_use]
    pub fn inside(&self, id: BackfillId) -> u32 {
        self.backfills.get(&id).map_or(0, |batch| batch.inside)
    }

    fn advance(&self) -> Option<Admitted> {
        let fits = |batch: &Batch| {
            let (project, workflow) = (&batch.line.project, &batch.line.workflow);
            batch.more && batch.inside < batch.concurrency && self.held_scope(project, workflow).is_none()
        };
        // No backfill has all its runs in before another has any.
        let next =
            self.backfills.iter().filter(|(_, batch)| fits(batch)).min_by_key(|(id, batch)| (batch.inside, **id));
        next.map(|(id, _)| Admitted::Advance { backfill: *id })
    }
}

impl Place {
    /// Whatever it may be parked at, persons' holds excepted.
    fn limits(&self) -> Vec<LimitId> {
        let mut limits: Vec<LimitId> = self.needs.iter().map(|need| need.limit.clone()).collect();
        limits.push(LimitId::Quota(self.project.clone()));
        if !self.labels.is_empty() {
            limits.push(LimitId::Labels(self.labels.clone()));
        }
        limits
    }

    /// Slots that an attempt takes of a limit; one that wants more than there will ever be gets all of it.
    fn wants_of(&self, limit: &LimitId, capacity: Option<u32>) -> u32 {
        let need = self.needs.iter().find(|need| need.limit == *limit);
        need.map_or(1, |need| need.slots.min(capacity.unwrap_or(u32::MAX).max(1)))
    }
}

/// Divided by weights; large enough for none to be lost in whole numbers.
const LEAST_COMMON: u64 = 1 << 20;

impl Session {
    fn reserved(&self) -> u32 {
        if self.slots > RESERVED { RESERVED } else { 0 }
    }

    #[must_use]
    pub fn held(&self) -> u32 {
        self.held
    }
}

impl Line {
    fn wait(&mut self, at: (Micros, RunId), waiting: Waiting) {
        self.waiting.insert(at, waiting);
        let kind = match waiting.pending {
            Pending::Schedule { .. } => &mut self.scheduled,
            Pending::Turn | Pending::Backfill => &mut self.others,
        };
        kind.insert(at);
    }

    /// The first that may begin.
    fn free(&self) -> Option<(Micros, RunId)> {
        let is_free = |at: &&(Micros, RunId)| self.bars(**at, self.waiting[*at]) == Barred::Nothing;
        let (scheduled, other) = (self.scheduled.first().filter(is_free), self.others.iter().find(is_free));
        scheduled.into_iter().chain(other).min().copied()
    }

    fn bars(&self, at: (Micros, RunId), waiting: Waiting) -> Barred {
        if let Some((run, _)) = self.active.iter().find(|(_, active)| active.interval == waiting.interval) {
            return Barred::SameInterval(*run);
        }
        let Pending::Schedule { overrun, most_active } = waiting.pending else { return Barred::Nothing };
        let active: Vec<RunId> = self.active.iter().filter(|(_, active)| active.scheduled).map(|(id, _)| *id).collect();
        let most = if overrun == Overrun::StartNew { most_active.max(1) } else { 1 };
        if active.len() >= most as usize {
            return Barred::Overrun { overrun, most_active: most, active };
        }
        if overrun == Overrun::DelayUntilSuccess
            && let Some(failed) = self.failed
        {
            return Barred::Failed(failed);
        }
        match self.scheduled.first() {
            Some(first) if *first != at => Barred::Behind(first.1),
            _ => Barred::Nothing,
        }
    }
}

fn named<'a>(queue: impl Iterator<Item = &'a Queued>) -> Vec<Key> {
    queue.take(MOST_AHEAD).map(|queued| (queued.run, queued.task)).collect()
}

fn sorted(keys: impl Iterator<Item = Key>) -> Vec<Key> {
    let mut keys: Vec<Key> = keys.collect();
    keys.sort_unstable();
    keys
}

fn at(run: &Run, ix: TaskIx) -> Option<At> {
    let task = run.tasks.get(ix)?;
    if task.position == Position::Ready {
        return Some(At::Ready(Queued {
            class: run.class,
            priority: -i64::from(run.graph.jobs[ix].priority),
            weight: -run.graph.weight[ix].cast_signed(),
            ready_at: task.ready_at.unwrap_or(run.created_at),
            run: run.id,
            task: ix,
        }));
    }
    let attempt = task.attempt()?;
    if attempt.slot {
        Some(At::Working(Some(attempt.session)))
    } else if attempt.wants.is_some() {
        Some(At::Returning(attempt.started_at))
    } else if task.position.is_live() {
        Some(At::Working(None))
    } else {
        None
    }
}

/// Decides who goes next. The caller applies the decision to its run or backfill, tells the shard with
/// [`Shard::follow`], [`Shard::follow_run`] or [`Shard::follow_backfill`], and asks again until there is nothing more.
pub fn admit(shard: &mut Shard) -> Option<Admitted> {
    shard.offer_freed();
    shard.begin().or_else(|| shard.advance()).or_else(|| shard.grant()).or_else(|| shard.claim())
}
