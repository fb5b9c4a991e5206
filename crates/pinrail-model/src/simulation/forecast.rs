//! What the schedules of a project come to in some days: its workflows played on a virtual clock by the same machines,
//! each attempt taking as long as it usually does.
//!
//! Pure, and the same for the same input. What is left out, on purpose: the phases of an attempt are one stretch of
//! time, what a job waits for outside of its run is there at once, nothing fails but by its own time limit, and at the
//! beginning nothing is under way.
//!
//! The two largest costs of a long play are the memory that each event takes and gives back (a quarter), and the shard's
//! books of tasks that come and go (a seventh).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::owner::{Batch, Owner, Surroundings};
use crate::admit::{Key, LimitId};
use crate::backfill::{Backfill, Progress};
use crate::condition::Look;
use crate::document::{Document, Job, Sha, seconds};
use crate::ids::{RunId, SessionId};
use crate::names::{JobName, PoolName, ProjectName, WorkflowName};
use crate::run::{CleanupEnd, Event, Executed, Graph, Phase, Report, Run, RunState, TaskIx, Work};
use crate::seam::store::{LimitName, Write};
use crate::target::Lane;
use crate::time::{Interval, Micros, Now};
use crate::trigger::Trigger;

/// Attempts of one forecast; more take longer than anybody waits for an answer.
pub const MOST_ATTEMPTS: u64 = 5_000_000;
const HOUR: Duration = Duration::from_secs(3600);

/// What is played.
#[derive(Debug, Clone)]
pub struct Scene {
    pub project: ProjectName,
    pub documents: Vec<Document>,
    /// How long an attempt of a job takes.
    pub took: BTreeMap<WorkflowName, BTreeMap<JobName, Duration>>,
    /// The same of a job that is not there.
    pub assumed: Duration,
    pub pools: BTreeMap<PoolName, u32>,
    /// Attempts of the project at once.
    pub quota: Option<u32>,
    pub workers: Vec<Workers>,
    /// The first moment.
    pub from: Micros,
    /// Nothing begins or ends then or later.
    pub until: Micros,
    /// Runs, and missed SLAs, that are told one by one.
    pub most_told: usize,
}

/// A worker process of the scene.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workers {
    pub slots: u32,
    pub labels: BTreeSet<String>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Forecast {
    pub from: Micros,
    /// Where it ends: earlier than was asked for when there was too much to play.
    pub until: Micros,
    /// Whether it ends earlier than was asked for.
    pub cut: bool,
    /// Attempts that began.
    pub attempts: u64,
    /// By name; those without a schedule are left out.
    pub workflows: Vec<WorkflowForecast>,
    /// Everything that attempts share: worker slots first, then pools by name, then other limits.
    pub limits: Vec<LimitForecast>,
    /// Runs that did not succeed in time, by fire time; the first of them.
    pub missed: Vec<Missed>,
    pub missed_count: u64,
    /// By fire time; the first of them.
    pub runs: Vec<RunForecast>,
    pub run_count: u64,
    /// Jobs that never succeeded, for which nothing was given: they took `assumed_seconds`.
    pub assumed: Vec<JobOf>,
    pub assumed_seconds: f64,
    /// Jobs that wait for something outside of their run, which was taken to be there at once.
    pub conditions_met: Vec<JobOf>,
    /// Mapped jobs, which were played once in each run: nobody knows how many items there will be.
    pub played_once: Vec<JobOf>,
}

/// A job of a workflow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct JobOf {
    pub workflow: WorkflowName,
    pub job: JobName,
}

/// The runs of one workflow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkflowForecast {
    pub workflow: WorkflowName,
    /// Fire times: those that made runs and those that were passed over.
    pub fires: u32,
    pub passed_over: u32,
    pub succeeded: u32,
    pub failed: u32,
    pub cancelled: u32,
    /// Not over at the end.
    pub unfinished: u32,
    /// Runs that began later than they were made, because of earlier ones.
    pub delayed: u32,
    pub longest_delay_seconds: f64,
    /// From the fire time to the end, of the runs that succeeded.
    pub longest_seconds: f64,
    pub sla_seconds: Option<f64>,
    pub missed: u32,
}

/// What attempts share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LimitKind {
    /// Slots of workers.
    Slots,
    Pool,
    Quota,
    /// The `concurrency` of a workflow.
    Workflow,
    /// The `concurrency` of a job.
    Job,
    /// All keys together, of which each has room for one.
    Key,
    /// Slots of workers with certain labels.
    Labels,
}

/// How full a limit was, and who waited at it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LimitForecast {
    pub kind: LimitKind,
    /// The pool, the workflow, `workflow/job`, or the labels.
    pub name: Option<String>,
    /// None: it is not set, or there is no one number.
    pub capacity: Option<u32>,
    /// The part of its slots, over all the time, that was taken.
    pub busy: Option<f64>,
    /// The most that was taken at once.
    pub most_taken: u32,
    /// How often an attempt had to wait for it.
    pub waits: u64,
    /// The most that waited at once.
    pub most_waiting: u32,
    /// By all that waited for it.
    pub waited_seconds: f64,
    pub longest: Option<LongestWait>,
    /// Hour by hour from the first moment on.
    pub hours: Vec<Hour>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Hour {
    /// Slots taken, on average.
    pub taken: f64,
    pub most_waiting: u32,
}

/// The longest that an attempt waited for a limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LongestWait {
    pub seconds: f64,
    pub since: Micros,
    pub workflow: WorkflowName,
    pub job: JobName,
    pub fire_at: Micros,
    /// It waits at the end.
    pub goes_on: bool,
}

/// What became of a fire time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    Succeeded,
    Failed,
    Cancelled,
    /// Its run was not over at the end.
    Unfinished,
    /// It made no run: an earlier one was not over, and `overrun` is `skip`.
    PassedOver,
}

/// A fire time, and its run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunForecast {
    pub workflow: WorkflowName,
    pub fire_at: Micros,
    /// None where it made no run.
    pub interval: Option<Interval>,
    pub fate: Fate,
    /// When its turn had come.
    pub began_at: Option<Micros>,
    pub ended_at: Option<Micros>,
    /// What its jobs waited for slots and limits, added up.
    pub waited_seconds: f64,
}

/// A run that did not succeed in time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Missed {
    pub workflow: WorkflowName,
    pub fire_at: Micros,
    pub due_at: Micros,
    pub fate: Fate,
    pub ended_at: Option<Micros>,
    /// By how much; of a run that is not over, by how much at least; none for one that did not succeed at all.
    pub late_seconds: Option<f64>,
}

/// Plays a scene.
#[must_use]
pub fn forecast(scene: &Scene) -> Forecast {
    forecast_while(scene, &|| true)
}

/// Plays a scene as long as somebody wants to know, and is cut where nobody does any more.
#[must_use]
pub fn forecast_while(scene: &Scene, wanted: &dyn Fn() -> bool) -> Forecast {
    let mut stage = Stage::new(scene);
    let until = stage.play(wanted);
    stage.tell(until)
}

/// The world of the owner.
struct Around {
    now: Now,
    ids: u128,
    programs: HashMap<Sha, (Arc<Document>, Arc<Graph>)>,
}

impl Surroundings for Around {
    fn now(&self) -> Now {
        self.now
    }

    fn random(&mut self) -> u128 {
        self.ids += 1;
        self.ids
    }

    fn document(&self, version: Sha) -> Option<Arc<Document>> {
        self.programs.get(&version).map(|(document, _)| Arc::clone(document))
    }

    fn graph(&mut self, run: &Run) -> Option<Arc<Graph>> {
        self.programs.get(&run.version).map(|(_, graph)| Arc::clone(graph))
    }

    fn stored(&self, _run: RunId) -> Option<Run> {
        None
    }

    fn stored_backfill(&self, _id: crate::ids::BackfillId) -> Option<(Backfill, Progress)> {
        None
    }

    fn has_nothing_to_publish(&self, _run: &Run, _task: TaskIx) -> bool {
        true
    }
}

/// A workflow of the scene.
struct Part {
    lane: Lane,
    graph: Arc<Graph>,
    sla: Option<Duration>,
    /// How long its jobs take, by place.
    took: Vec<Duration>,
    /// What they take of which limit.
    uses: Vec<Vec<(usize, u32)>>,
    told: WorkflowForecast,
}

/// A run that is not over.
struct Live {
    part: usize,
    fire_at: Micros,
    /// Later than the fire time by its share of the jitter.
    made_at: Micros,
    interval: Interval,
    began_at: Option<Micros>,
    waited: Duration,
    /// Where it is told of, if it is among the first.
    told: Option<usize>,
}

/// A limit, with what is known of it until a moment.
struct Meter {
    told: LimitForecast,
    taken: u32,
    waiting: u32,
    at: Micros,
    longest: Duration,
}

struct Stage<'a> {
    scene: &'a Scene,
    owner: Owner<Around>,
    parts: Vec<Part>,
    by_workflow: HashMap<WorkflowName, usize>,
    live: HashMap<RunId, Live>,
    /// When which attempt ends.
    ends: BinaryHeap<Reverse<End>>,
    meters: Vec<Meter>,
    by_limit: HashMap<LimitId, usize>,
    /// Where all keys are, if any job has one.
    keys: Option<usize>,
    /// Ready tasks, with the limit that they wait for and since when.
    waiting: HashMap<Key, (usize, Micros)>,
    told: Forecast,
}

/// When, after how many others began, which attempt ends, in which epoch.
type End = (Micros, u64, RunId, TaskIx, u64);

/// The meter of the worker slots.
const SLOTS: usize = 0;

impl<'a> Stage<'a> {
    fn new(scene: &'a Scene) -> Self {
        let around = Around { now: Now { wall: scene.from, mono: Duration::ZERO }, ids: 0, programs: HashMap::new() };
        let mut owner = Owner::new(around);
        owner.shard.watch_waiting();
        for (number, workers) in scene.workers.iter().enumerate() {
            let id = SessionId::from_parts(0, number as u128);
            owner.shard.join(id, workers.slots, workers.labels.clone());
        }
        let told = Forecast {
            from: scene.from,
            until: scene.until,
            cut: false,
            attempts: 0,
            workflows: Vec::new(),
            limits: Vec::new(),
            missed: Vec::new(),
            missed_count: 0,
            runs: Vec::new(),
            run_count: 0,
            assumed: Vec::new(),
            assumed_seconds: scene.assumed.as_secs_f64(),
            conditions_met: Vec::new(),
            played_once: Vec::new(),
        };
        let mut stage = Self {
            scene,
            owner,
            parts: Vec::new(),
            by_workflow: HashMap::new(),
            live: HashMap::new(),
            ends: BinaryHeap::new(),
            meters: Vec::new(),
            by_limit: HashMap::new(),
            keys: None,
            waiting: HashMap::new(),
            told,
        };
        stage.set_limits();
        let mut documents: Vec<&Document> = scene.documents.iter().filter(|d| d.schedule.is_some()).collect();
        documents.sort_by_key(|document| &document.workflow);
        let triggers = documents.into_iter().filter_map(|document| stage.enter(document)).collect();
        let pools = scene.pools.iter().map(|(pool, slots)| (LimitName::Pool(pool.clone()), *slots));
        let quota = scene.quota.map(|quota| (LimitName::Quota, quota));
        let limits = pools.chain(quota).map(|(name, value)| (scene.project.clone(), name, value)).collect();
        stage.owner.recover(Vec::new(), Vec::new(), limits, triggers, Vec::new());
        stage
    }

    // The scene.

    fn set_limits(&mut self) {
        let slots = self.scene.workers.iter().map(|workers| workers.slots).sum();
        self.meter(LimitKind::Slots, None, Some(slots));
        for (pool, slots) in &self.scene.pools {
            let meter = self.meter(LimitKind::Pool, Some(pool.to_string()), Some(*slots));
            self.by_limit.insert(LimitId::Pool(self.scene.project.clone(), pool.clone()), meter);
        }
        let named = self.scene.documents.iter().flat_map(|document| &document.jobs).flat_map(|job| job.pools.keys());
        let unset: BTreeSet<&PoolName> = named.filter(|pool| !self.scene.pools.contains_key(*pool)).collect();
        for pool in unset {
            let meter = self.meter(LimitKind::Pool, Some(pool.to_string()), None);
            self.by_limit.insert(LimitId::Pool(self.scene.project.clone(), pool.clone()), meter);
        }
        if self.scene.quota.is_some() {
            let meter = self.meter(LimitKind::Quota, None, self.scene.quota);
            self.by_limit.insert(LimitId::Quota(self.scene.project.clone()), meter);
        }
    }

    fn meter(&mut self, kind: LimitKind, name: Option<String>, capacity: Option<u32>) -> usize {
        self.meters.push(Meter {
            told: LimitForecast {
                kind,
                name,
                capacity,
                busy: None,
                most_taken: 0,
                waits: 0,
                most_waiting: 0,
                waited_seconds: 0.0,
                longest: None,
                hours: Vec::new(),
            },
            taken: 0,
            waiting: 0,
            at: self.scene.from,
            longest: Duration::ZERO,
        });
        self.meters.len() - 1
    }

    /// Puts a workflow on the stage; gives its schedule.
    fn enter(&mut self, document: &Document) -> Option<Trigger> {
        let mut document = document.clone();
        for job in document.jobs.iter_mut().filter(|job| job.map.is_some()) {
            job.map = None;
            let of = JobOf { workflow: document.workflow.clone(), job: job.name.clone() };
            self.told.played_once.push(of);
        }
        let document = &document;
        let (project, workflow) = (&self.scene.project, &document.workflow);
        let took = self.scene.took.get(workflow);
        let durations: Vec<Duration> = document
            .jobs
            .iter()
            .map(|job| {
                let of = || JobOf { workflow: workflow.clone(), job: job.name.clone() };
                if !job.wait_for.is_empty() {
                    self.told.conditions_met.push(of());
                }
                took.and_then(|took| took.get(&job.name)).copied().unwrap_or_else(|| {
                    self.told.assumed.push(of());
                    self.scene.assumed
                })
            })
            .collect();
        let graph = Graph::of_document(document, None).ok()?;
        let weights = document.jobs.iter().zip(&durations).map(|(job, took)| (job.name.clone(), *took)).collect();
        let graph = Arc::new(graph.weighed(&weights));
        let defaults =
            document.params.iter().filter_map(|(name, param)| Some((name.to_string(), param.default.clone()?)));
        let types = document.params.iter().map(|(name, param)| (name.to_string(), param.kind)).collect();
        let (_, version) = document.seal();
        // What fires in the first moment is part of the play.
        let before = self.scene.from.minus(Duration::from_micros(1));
        let trigger = Trigger::of(project, None, document, (version, version), before, defaults.collect(), types)?;
        let trigger = Trigger { done_until: before, ..trigger };
        let lane = trigger.lane();
        if let Some(most) = document.concurrency {
            let meter = self.meter(LimitKind::Workflow, Some(workflow.to_string()), Some(most));
            self.by_limit.insert(LimitId::Workflow(lane.clone()), meter);
        }
        let uses = document.jobs.iter().map(|job| self.uses(&lane, job, document.concurrency.is_some())).collect();
        self.owner.around.programs.insert(version, (Arc::new(document.clone()), Arc::clone(&graph)));
        self.by_workflow.insert(workflow.clone(), self.parts.len());
        self.parts.push(Part {
            lane,
            graph,
            sla: document.sla_seconds.map(seconds),
            took: durations,
            uses,
            told: WorkflowForecast {
                workflow: workflow.clone(),
                fires: 0,
                passed_over: 0,
                succeeded: 0,
                failed: 0,
                cancelled: 0,
                unfinished: 0,
                delayed: 0,
                longest_delay_seconds: 0.0,
                longest_seconds: 0.0,
                sla_seconds: document.sla_seconds,
                missed: 0,
            },
        });
        Some(trigger)
    }

    /// What an attempt of a job takes of the limits that have a meter.
    fn uses(&mut self, lane: &Lane, job: &Job, of_workflow: bool) -> Vec<(usize, u32)> {
        let mut uses = vec![(SLOTS, 1)];
        for (pool, slots) in &job.pools {
            let limit = LimitId::Pool(lane.project.clone(), pool.clone());
            let most = self.scene.pools.get(pool).copied().unwrap_or(0);
            uses.extend(self.by_limit.get(&limit).map(|meter| (*meter, (*slots).min(most))));
        }
        uses.extend(self.by_limit.get(&LimitId::Quota(lane.project.clone())).map(|meter| (*meter, 1)));
        if of_workflow {
            uses.extend(self.by_limit.get(&LimitId::Workflow(lane.clone())).map(|meter| (*meter, 1)));
        }
        if let Some(most) = job.concurrency {
            let meter = self.meter(LimitKind::Job, Some(format!("{}/{}", lane.workflow, job.name)), Some(most));
            self.by_limit.insert(LimitId::Job(lane.clone(), job.name.clone()), meter);
            uses.push((meter, 1));
        }
        if job.key.is_some() {
            let meter = match self.keys {
                Some(meter) => meter,
                None => self.meter(LimitKind::Key, None, None),
            };
            self.keys = Some(meter);
            uses.push((meter, 1));
        }
        if !job.labels.is_empty() {
            let limit = LimitId::Labels(job.labels.clone());
            let having = self.scene.workers.iter().filter(|w| job.labels.iter().all(|label| w.labels.contains(label)));
            let slots = having.map(|workers| workers.slots).sum();
            let meter = match self.by_limit.get(&limit) {
                Some(meter) => *meter,
                None => self.meter(LimitKind::Labels, Some(job.labels.join(",")), Some(slots)),
            };
            self.by_limit.insert(limit, meter);
            uses.push((meter, 1));
        }
        uses
    }

    // The play.

    /// Plays to the end; gives when that is.
    fn play(&mut self, wanted: &dyn Fn() -> bool) -> Micros {
        loop {
            self.settle();
            if self.told.attempts > MOST_ATTEMPTS || !wanted() {
                self.told.cut = true;
                return self.owner.around.now.wall;
            }
            let (timer, schedule) = self.owner.next_due();
            let timer = timer.map(|mono| self.scene.from.plus(mono));
            let end = self.ends.peek().map(|Reverse((at, ..))| *at);
            let Some(next) = [timer, schedule, end].into_iter().flatten().min() else { return self.scene.until };
            if next >= self.scene.until {
                return self.scene.until;
            }
            let now = &mut self.owner.around.now;
            now.wall = now.wall.max(next);
            now.mono = now.wall.since(self.scene.from);
            // What ends in the moment in which its time is up has ended in time.
            self.end_attempts();
            self.owner.wake();
        }
    }

    fn end_attempts(&mut self) {
        let now = self.owner.around.now.wall;
        while let Some(Reverse((at, _, run, task, epoch))) = self.ends.peek().copied() {
            if at > now {
                return;
            }
            self.ends.pop();
            let reports = [
                Report::PhaseStarted(Phase::Setup),
                Report::PhaseStarted(Phase::Execute),
                Report::Executed(Executed::default()),
                Report::Completed { outputs: BTreeMap::new() },
            ];
            for report in reports {
                // It was stopped before.
                if self.owner.apply(run, &Event::Reported { task, epoch, report }).is_err() {
                    break;
                }
            }
        }
    }

    /// Lets the owner decide until there is nothing more to decide in this moment.
    fn settle(&mut self) {
        loop {
            let batch = self.owner.seal();
            self.follow_waiting();
            if batch.is_empty() {
                return;
            }
            self.take_note(&batch);
            for (run, work) in self.owner.conclude(batch, &BTreeSet::new()) {
                self.carry_out(run, &work);
            }
        }
    }

    fn carry_out(&mut self, run: RunId, work: &Work) {
        let now = self.owner.around.now.wall;
        match *work {
            Work::Begin { task, epoch } => {
                self.told.attempts += 1;
                let took = self.live.get(&run).map_or(Duration::ZERO, |live| self.parts[live.part].took[task]);
                self.ends.push(Reverse((now.plus(took), self.told.attempts, run, task, epoch)));
                self.take(run, task, true);
            }
            Work::Clean { task, epoch, .. } => {
                self.take(run, task, false);
                let report = Report::CleanupEnded(CleanupEnd { ok: true, detail: None });
                // Nobody else works on the attempt.
                let _ = self.owner.apply(run, &Event::Reported { task, epoch, report });
            }
            Work::Watch { task, epoch } => {
                let of = self.live.get(&run).map(|live| self.parts[live.part].graph.jobs[task].wait_for.len());
                for condition in 0..of.unwrap_or(0) {
                    let (what, found) = (String::new(), String::new());
                    let event = Event::Observed { task, epoch, condition, look: Look::Met, what, found };
                    // It may have been left out.
                    let _ = self.owner.apply(run, &event);
                }
            }
            // Nothing here has an engine, tables or losses, and the owner keeps its timers itself.
            Work::Submit { .. }
            | Work::Reattach { .. }
            | Work::Complete { .. }
            | Work::Publish { .. }
            | Work::Set { .. } => {}
        }
    }

    /// An attempt begins, or is over.
    fn take(&mut self, run: RunId, task: TaskIx, begins: bool) {
        let now = self.owner.around.now.wall;
        let Some(live) = self.live.get(&run) else { return };
        for (meter, slots) in &self.parts[live.part].uses[task] {
            let meter = &mut self.meters[*meter];
            meter.go_on(self.scene.from, now);
            meter.taken = if begins { meter.taken + slots } else { meter.taken.saturating_sub(*slots) };
            meter.told.most_taken = meter.told.most_taken.max(meter.taken);
        }
    }

    // What is seen.

    /// Looks where the tasks wait whose waiting may have changed.
    fn follow_waiting(&mut self) {
        let now = self.owner.around.now.wall;
        for key in self.owner.shard.stirred() {
            let limit = self.owner.shard.waits_for(key);
            let meter = limit.map(|limit| match limit {
                None => SLOTS,
                Some(LimitId::Key(..)) => self.keys.unwrap_or(SLOTS),
                Some(limit) => self.by_limit.get(limit).copied().unwrap_or(SLOTS),
            });
            let before = self.waiting.get(&key).map(|(meter, _)| *meter);
            if before == meter {
                continue;
            }
            if let Some((before, since)) = self.waiting.remove(&key) {
                self.stop_waiting(key, before, since, false);
            }
            if let Some(meter) = meter {
                self.waiting.insert(key, (meter, now));
                self.meters[meter].go_on(self.scene.from, now);
                self.meters[meter].waiting += 1;
            }
        }
    }

    fn stop_waiting(&mut self, (run, task): Key, meter: usize, since: Micros, goes_on: bool) {
        let now = self.owner.around.now.wall;
        let meter = &mut self.meters[meter];
        meter.go_on(self.scene.from, now);
        meter.waiting -= 1;
        let waited = now.since(since);
        if waited.is_zero() {
            return;
        }
        meter.told.waits += 1;
        let Some(live) = self.live.get_mut(&run) else { return };
        live.waited += waited;
        if waited > meter.longest {
            let part = &self.parts[live.part];
            meter.longest = waited;
            meter.told.longest = Some(LongestWait {
                seconds: waited.as_secs_f64(),
                since,
                workflow: part.lane.workflow.clone(),
                job: part.graph.jobs[task].name.clone(),
                fire_at: live.fire_at,
                goes_on,
            });
        }
    }

    /// Sees what became of runs and fire times.
    fn take_note(&mut self, batch: &Batch) {
        for write in &batch.writes {
            if let Write::Trigger(trigger) = write {
                self.pass_over(trigger);
            }
        }
        for (id, change) in &batch.changes {
            if change.fx.run_touched {
                self.follow_run(*id);
            }
        }
    }

    fn pass_over(&mut self, trigger: &Trigger) {
        if trigger.passed.is_empty() {
            return;
        }
        let Some(part) = self.by_workflow.get(&trigger.workflow).copied() else { return };
        for passed in &trigger.passed {
            self.parts[part].told.passed_over += passed.count;
            self.parts[part].told.fires += passed.count;
            self.told.run_count += u64::from(passed.count);
            if self.told.runs.len() < self.scene.most_told {
                self.told.runs.push(RunForecast {
                    workflow: trigger.workflow.clone(),
                    fire_at: passed.from,
                    interval: None,
                    fate: Fate::PassedOver,
                    began_at: None,
                    ended_at: None,
                    waited_seconds: 0.0,
                });
            }
        }
        // They are counted now.
        if let Some(trigger) = self.owner.triggers.get_mut(&self.parts[part].lane) {
            trigger.passed.clear();
        }
    }

    fn follow_run(&mut self, id: RunId) {
        let Some(run) = self.owner.runs.get(&id) else { return };
        let now = self.owner.around.now.wall;
        let (began, ended) = (run.pending.is_none(), run.ended_at);
        let state = ended.map(|_| run.state());
        if !self.live.contains_key(&id) {
            let Some(part) = self.by_workflow.get(&run.workflow).copied() else { return };
            let crate::run::Cause::Schedule { fire_at } = run.cause else { return };
            let told = (self.told.runs.len() < self.scene.most_told).then_some(self.told.runs.len());
            let (interval, waited) = (run.interval, Duration::ZERO);
            let live = Live { part, fire_at, made_at: now, interval, began_at: None, waited, told };
            self.told.run_count += 1;
            if told.is_some() {
                self.told.runs.push(live.told(&self.parts[part].lane.workflow));
            }
            self.parts[part].told.fires += 1;
            self.live.insert(id, live);
        }
        let Some(live) = self.live.get_mut(&id) else { return };
        if began && live.began_at.is_none() {
            live.began_at = Some(now);
            let delay = now.since(live.made_at);
            let told = &mut self.parts[live.part].told;
            if !delay.is_zero() {
                told.delayed += 1;
                told.longest_delay_seconds = told.longest_delay_seconds.max(delay.as_secs_f64());
            }
        }
        if let Some(state) = state
            && let Some(live) = self.live.remove(&id)
        {
            self.end(live, state, now);
        }
    }

    fn end(&mut self, live: Live, state: RunState, now: Micros) {
        let fate = match state {
            RunState::Succeeded => Fate::Succeeded,
            RunState::Failed => Fate::Failed,
            RunState::Cancelled => Fate::Cancelled,
            RunState::Queued | RunState::Running => Fate::Unfinished,
        };
        let part = &mut self.parts[live.part];
        let took = now.since(live.fire_at);
        match fate {
            Fate::Succeeded => {
                part.told.succeeded += 1;
                part.told.longest_seconds = part.told.longest_seconds.max(took.as_secs_f64());
            }
            Fate::Failed => part.told.failed += 1,
            Fate::Cancelled => part.told.cancelled += 1,
            Fate::Unfinished => part.told.unfinished += 1,
            Fate::PassedOver => {}
        }
        let ended_at = (fate != Fate::Unfinished).then_some(now);
        let workflow = &part.lane.workflow;
        if let Some(told) = live.told {
            self.told.runs[told] = RunForecast { fate, ended_at, ..live.told(workflow) };
        }
        let Some(due_at) = part.sla.map(|sla| live.fire_at.plus(sla)) else { return };
        // One that ended otherwise has missed it as soon as it is due.
        let is_missed = match fate {
            Fate::Failed | Fate::Cancelled => due_at < self.scene.until,
            _ => now > due_at,
        };
        if !is_missed {
            return;
        }
        part.told.missed += 1;
        self.told.missed_count += 1;
        let late = matches!(fate, Fate::Succeeded | Fate::Unfinished).then(|| now.since(due_at).as_secs_f64());
        let (workflow, fire_at) = (workflow.clone(), live.fire_at);
        self.told.missed.push(Missed { workflow, fire_at, due_at, fate, ended_at, late_seconds: late });
    }

    // The end.

    fn tell(mut self, until: Micros) -> Forecast {
        self.owner.around.now.wall = until;
        let mut waiting: Vec<_> = self.waiting.drain().collect();
        waiting.sort_unstable();
        for (key, (meter, since)) in waiting {
            self.stop_waiting(key, meter, since, true);
        }
        let mut unfinished: Vec<(RunId, Live)> = self.live.drain().collect();
        unfinished.sort_unstable_by_key(|(id, _)| *id);
        for (_, live) in unfinished {
            self.end(live, RunState::Running, until);
        }
        let mut told = self.told;
        told.until = until;
        told.runs.sort_by(|a, b| (a.fire_at, &a.workflow).cmp(&(b.fire_at, &b.workflow)));
        told.missed.sort_by(|a, b| (a.fire_at, &a.workflow).cmp(&(b.fire_at, &b.workflow)));
        told.missed.truncate(self.scene.most_told);
        told.workflows = self.parts.into_iter().map(|part| part.told).collect();
        let from = self.scene.from;
        told.limits = self.meters.into_iter().map(|meter| meter.tell(from, until)).collect();
        told
    }
}

impl Live {
    fn told(&self, workflow: &WorkflowName) -> RunForecast {
        RunForecast {
            workflow: workflow.clone(),
            fire_at: self.fire_at,
            interval: Some(self.interval),
            fate: Fate::Unfinished,
            began_at: self.began_at,
            ended_at: None,
            waited_seconds: self.waited.as_secs_f64(),
        }
    }
}

impl Meter {
    /// Nothing changed until now.
    fn go_on(&mut self, from: Micros, now: Micros) {
        while self.at < now {
            let hour = (self.at.since(from).as_secs() / HOUR.as_secs()) as usize;
            let until = now.min(from.plus(HOUR * (hour as u32 + 1)));
            if self.told.hours.len() <= hour {
                self.told.hours.resize(hour + 1, Hour::default());
            }
            let stretch = until.since(self.at).as_secs_f64();
            let seen = &mut self.told.hours[hour];
            // Seconds, until it is told.
            seen.taken += f64::from(self.taken) * stretch;
            seen.most_waiting = seen.most_waiting.max(self.waiting);
            self.told.waited_seconds += f64::from(self.waiting) * stretch;
            self.told.most_waiting = self.told.most_waiting.max(self.waiting);
            self.at = until;
        }
    }

    fn tell(mut self, from: Micros, until: Micros) -> LimitForecast {
        self.go_on(from, until);
        let taken: f64 = self.told.hours.iter().map(|hour| hour.taken).sum();
        let seconds = until.since(from).as_secs_f64();
        self.told.busy = self
            .told
            .capacity
            .filter(|slots| *slots > 0 && seconds > 0.0)
            .map(|slots| taken / (f64::from(slots) * seconds));
        for (number, hour) in self.told.hours.iter_mut().enumerate() {
            let begins = from.plus(HOUR * number as u32);
            let length = until.since(begins).min(HOUR).as_secs_f64();
            hour.taken /= length;
        }
        self.told
    }
}
