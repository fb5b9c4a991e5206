//! A simulated shard: the two machines, a worker that does what it is told, and faults.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pinrail_model::admit::{Admitted, Shard, admit};
use pinrail_model::condition::Look;
use pinrail_model::document::{ExecutorKind, Job, Sha};
use pinrail_model::fault::{Evidence, Fault};
use pinrail_model::ids::{AttemptId, RunId, SessionId};
use pinrail_model::run::*;
use pinrail_model::seam::exec::Spec;
use pinrail_model::time::{Interval, Micros, Now};
use serde_json::json;

/// What a job of the simulation is like.
#[derive(Debug, Clone, Default)]
pub struct JobPlan {
    pub after: Vec<usize>,
    pub run_if: &'static str,
    pub retries: u32,
    pub may_fail: bool,
    /// `execute` returns a spec.
    pub spec: bool,
    /// Faults of its first attempts, one each.
    pub faults: Vec<Fault>,
    /// Conditions of it, each with what becomes of the job when it is given up.
    pub waits: Vec<&'static str>,
    /// Looks that find nothing before the first that does.
    pub looks: usize,
    /// It is mapped over the list that the first job that it waits for leaves.
    pub map: bool,
    /// Items that the list may have at most.
    pub most: Option<u32>,
    /// What it leaves as the output `list`, by attempt; the last of them from then on.
    pub lists: Vec<serde_json::Value>,
}

pub fn jobs(plans: &[JobPlan]) -> Vec<Job> {
    let name = |ix: usize| format!("j{ix}");
    let jobs = plans.iter().enumerate().map(|(ix, plan)| {
        serde_json::from_value(json!({
            "name": name(ix), "kind": "class", "class": "jobs.x.y",
            "after": plan.after.iter().map(|p| name(*p)).collect::<Vec<_>>(),
            "run_if": if plan.run_if.is_empty() { "all_succeeded" } else { plan.run_if },
            "retries": plan.retries, "may_fail": plan.may_fail,
            "map": plan.map.then(|| json!({
                "job": name(plan.after[0]), "output": "list", "max_instances": plan.most,
            })),
            "wait_for": plan.waits.iter().map(|otherwise| json!({
                "that": {"kind": "file", "path": "a"}, "otherwise": otherwise, "timeout_seconds": 60,
            })).collect::<Vec<_>>(),
        }))
        .unwrap()
    });
    jobs.collect()
}

/// Work under way, as a worker sees it.
#[derive(Debug, Clone)]
struct Underway {
    work: Work,
    stage: usize,
}

pub struct World {
    pub run: Run,
    pub shard: Shard,
    pub now: Now,
    plans: Vec<JobPlan>,
    underway: Vec<Underway>,
    ids: u128,
    /// (task, generation, epoch) of every begun attempt, for "no task runs twice in one epoch".
    pub begun: BTreeMap<(TaskIx, u64), u32>,
    pub publications: BTreeMap<(TaskIx, u32), u32>,
    outcomes: BTreeMap<AttemptId, Outcome>,
    pub moves: std::collections::BTreeSet<(&'static str, &'static str)>,
}

impl World {
    pub fn new(plans: Vec<JobPlan>, slots: u32) -> Self {
        let graph = Graph::new(&jobs(&plans), None);
        let sha = Sha::of(b"");
        let run = Run {
            id: RunId::from_parts(1, 1),
            project: "p".parse().unwrap(),
            target: None,
            workflow: "w".parse().unwrap(),
            class: Class::Interactive,
            cause: Cause::Request { by: "test".to_owned() },
            interval: Interval::default_for_tests(),
            tz: "UTC".to_owned(),
            params: BTreeMap::new(),
            param_types: BTreeMap::new(),
            bundle: sha,
            version: sha,
            created_at: Micros(0),
            started_at: None,
            ended_at: None,
            stop: None,
            pending: None,
            hold: None,
            jobs: None,
            replay_of: None,
            outside: BTreeMap::new(),
            executors: BTreeMap::new(),
            notify: None,
            tasks: Run::new_tasks(&graph, sha, sha),
            graph: Arc::new(graph),
            open: Default::default(),
        };
        let mut world = Self {
            run,
            shard: shard(slots),
            now: Now::default(),
            plans,
            underway: Vec::new(),
            ids: 0,
            begun: BTreeMap::new(),
            publications: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            moves: Default::default(),
        };
        world.apply(&Event::Created).unwrap();
        world
    }

    /// Applies an event, takes on the work it makes, lets admission decide, and checks the invariants.
    pub fn apply(&mut self, event: &Event) -> Result<(), Refused> {
        self.tick();
        let before: Vec<Position> = self.run.tasks.iter().map(|task| task.position).collect();
        let mut fx = Effects::default();
        let mut next = self.run.clone();
        let result = apply(&mut next, event, self.now, &mut fx);
        if result.is_err() {
            assert!(fx.work.is_empty(), "a refused event made work: {event:?}");
            return result;
        }
        self.run = next;
        for (ix, from) in before.into_iter().enumerate() {
            let to = self.run.tasks[ix].position;
            if from != to {
                self.moves.insert((from.name(), to.name()));
            }
        }
        if fx.run_touched {
            self.shard.follow_run(&self.run);
        }
        self.shard.follow(&self.run, fx.touched.iter().copied());
        for work in fx.work {
            if let Work::Begin { task, epoch } = work {
                *self.begun.entry((task, epoch)).or_default() += 1;
            }
            self.underway.push(Underway { work, stage: 0 });
        }
        self.check();
        self.admit();
        Ok(())
    }

    fn plan(&self, task: TaskIx) -> &JobPlan {
        &self.plans[self.run.tasks[task].job.as_str()[1..].parse::<usize>().unwrap()]
    }

    fn outputs(&self, task: TaskIx) -> BTreeMap<String, serde_json::Value> {
        let lists = &self.plan(task).lists;
        let list = lists.get(self.run.tasks[task].attempts.len() - 1).or(lists.last());
        list.map(|list| ("list".to_owned(), list.clone())).into_iter().collect()
    }

    fn admit(&mut self) {
        if let Some(admitted) = admit(&mut self.shard) {
            let event = match admitted {
                Admitted::Claim { task, session, .. } => {
                    self.ids += 1;
                    self.starts_after_its_inputs(task);
                    let attempt = AttemptId::from_parts(1, self.ids);
                    Event::Claimed { task, attempt, session, executor: ExecutorKind::Python }
                }
                Admitted::Grant { task, session, .. } => Event::Granted { task, session },
                Admitted::Begin { .. } | Admitted::Advance { .. } => unreachable!("the run has begun"),
            };
            // An earlier decision of this round may already have stopped being right only if admission is wrong.
            self.apply(&event).unwrap();
        }
    }

    fn starts_after_its_inputs(&self, task: TaskIx) {
        for parent in self.run.graph.inputs(task) {
            assert!(self.run.tasks[*parent].ending.is_some() || self.plan(task).run_if == "any_failed");
        }
        if matches!(self.plan(task).run_if, "" | "all_succeeded") {
            for parent in self.run.graph.inputs(task) {
                let parent = &self.run.tasks[*parent];
                assert!(parent.ending.is_some_and(Ending::is_good));
                let said = parent.marked.is_some() || parent.disabled.is_some() || parent.spread.is_some();
                assert!(said || parent.attempts.iter().any(|a| a.outcome == Some(Outcome::Succeeded)));
            }
        }
    }

    fn check(&mut self) {
        for (ix, task) in self.run.tasks.iter().enumerate() {
            for (number, attempt) in task.attempts.iter().enumerate() {
                assert_eq!(attempt.number as usize, number + 1);
                if let Some(outcome) = &attempt.outcome {
                    let first = self.outcomes.entry(attempt.id).or_insert_with(|| outcome.clone());
                    assert_eq!(first, outcome, "an outcome changed");
                    assert!(attempt.cleanups_started > 0);
                    if *outcome != Outcome::Succeeded {
                        assert!(attempt.cleanup.is_some());
                    }
                }
                let last = number + 1 == task.attempts.len();
                assert!(last || attempt.outcome.is_some(), "two live attempts of one task");
                assert!(!(attempt.slot && attempt.wants.is_some()));
            }
            for times in self.begun.values() {
                assert_eq!(*times, 1, "a task ran twice in one epoch");
            }
            if task.position == Position::Done {
                assert!(task.ending.is_some());
                let attempt = task.attempts.last();
                assert!(attempt.is_none_or(|a| a.outcome.is_some() && a.cleanup.is_some() && !a.slot));
            }
            if let Some(times) = self.publications.get(&(ix, task.generation)) {
                assert_eq!(*times, 1);
            }
        }
        assert!(self.shard.slots_held() <= self.shard.slots());
    }

    /// How many pieces of work could go on.
    pub fn underway(&self) -> usize {
        self.underway.len()
    }

    /// Lets the first piece of work of a kind go one step further; false if there is none.
    pub fn work_on(&mut self, kind: impl Fn(&Work) -> bool) -> bool {
        let found = self.underway.iter().position(|underway| kind(&underway.work));
        found.inspect(|which| self.work(*which)).is_some()
    }

    /// Lets one piece of work go one step further.
    pub fn work(&mut self, which: usize) {
        let mut underway = self.underway.swap_remove(which % self.underway.len());
        let stage = underway.stage;
        underway.stage += 1;
        if let Work::Set { timer: Timer::Patience, after, .. } = &underway.work {
            self.now.wall = self.now.wall.plus(*after);
            self.now.mono += *after;
        }
        let (event, goes_on) = match underway.work.clone() {
            Work::Begin { task, epoch } => self.begin(task, epoch, stage),
            Work::Submit { task, epoch } if stage == 0 => {
                (reported(task, epoch, Report::Submitted { handle: json!("h") }), true)
            }
            Work::Submit { task, epoch } | Work::Reattach { task, epoch } => {
                (reported(task, epoch, Report::EngineEnded { result: json!(1), outputs: BTreeMap::new() }), false)
            }
            Work::Complete { task, epoch } if stage == 0 => {
                (reported(task, epoch, Report::PhaseStarted(Phase::Complete)), true)
            }
            Work::Complete { task, epoch } => {
                (reported(task, epoch, Report::Completed { outputs: self.outputs(task) }), false)
            }
            Work::Publish { task, epoch } => (Event::Published { task, epoch, written: Vec::new() }, false),
            Work::Clean { task, epoch, .. } if stage == 0 => {
                (reported(task, epoch, Report::PhaseStarted(Phase::Cleanup)), true)
            }
            Work::Clean { task, epoch, .. } => {
                (reported(task, epoch, Report::CleanupEnded(CleanupEnd { ok: task % 3 != 1, detail: None })), false)
            }
            Work::Watch { task, epoch } => {
                let conditions = self.run.graph.jobs[task].wait_for.len();
                let look = if stage >= self.plan(task).looks { Look::Met } else { Look::NotYet };
                let (condition, found) = (stage % conditions, format!("look {stage}"));
                let event = Event::Observed { task, epoch, condition, look, what: "a file".to_owned(), found };
                (event, stage + 1 < self.plan(task).looks.saturating_add(conditions))
            }
            Work::Set { task, epoch, timer, .. } => (Event::Elapsed { task, epoch, timer }, false),
        };
        let published = matches!(event, Event::Published { .. });
        let task = task_of(&event);
        let generation = self.run.tasks[task].generation;
        if self.apply(&event).is_ok() {
            if published {
                *self.publications.entry((task, generation)).or_default() += 1;
            }
            if goes_on {
                self.underway.push(underway);
            }
        }
    }

    fn begin(&self, task: TaskIx, epoch: u64, stage: usize) -> (Event, bool) {
        let number = self.run.tasks[task].attempts.len();
        let fault = self.plan(task).faults.get(number.wrapping_sub(1)).copied();
        let executed = Executed { result: json!(1), spec: None, outputs: BTreeMap::new() };
        let (report, goes_on) = match stage {
            0 => (Report::PhaseStarted(Phase::Setup), true),
            1 => (Report::PhaseEnded { phase: Phase::Setup, ok: true }, true),
            2 => (Report::PhaseStarted(Phase::Execute), true),
            3 => match fault {
                Some(fault) => {
                    (Report::Failed(Verdict::failed(fault, Some(Phase::Execute), Evidence::new("x"))), false)
                }
                None if self.plan(task).spec => {
                    let spec = Spec::Shell { command: vec!["x".to_owned()], env: BTreeMap::new() };
                    (Report::Specified(Executed { spec: Some(spec), ..executed }), false)
                }
                None => (Report::PhaseEnded { phase: Phase::Execute, ok: true }, true),
            },
            4 => (Report::Executed(executed), true),
            _ => (Report::Completed { outputs: self.outputs(task) }, false),
        };
        (reported(task, epoch, report), goes_on)
    }

    /// The worker's processes vanish: nothing that was under way goes on, but timers do.
    pub fn lose_all(&mut self, by: Loss) {
        self.underway.retain(|underway| matches!(underway.work, Work::Set { .. } | Work::Watch { .. }));
        for task in 0..self.run.tasks.len() {
            let epoch = self.run.tasks[task].epoch;
            let position = self.run.tasks[task].position;
            if position.is_live() || position == Position::Cleaning {
                self.apply(&Event::Lost { task, epoch, by }).unwrap();
            }
        }
    }

    /// The owner dies: the run is read back from what was stored, timers are set anew.
    pub fn restart(&mut self) {
        let graph = Graph::of(&jobs(&self.plans), self.run.tasks.iter().map(|task| task.node())).unwrap();
        assert_eq!((&graph.parents, &graph.children), (&self.run.graph.parents, &self.run.graph.children));
        assert_eq!((&graph.jobs, &graph.instances), (&self.run.graph.jobs, &self.run.graph.instances));
        let tasks = self.run.tasks.iter().map(|task| {
            let mut read: Task = serde_json::from_str(&serde_json::to_string(&**task).unwrap()).unwrap();
            let attempts = task
                .attempts
                .iter()
                .map(|attempt| Arc::new(serde_json::from_str(&serde_json::to_string(&**attempt).unwrap()).unwrap()));
            read.attempts = attempts.collect();
            Arc::new(read)
        });
        let tasks = tasks.collect();
        let mut run: Run = serde_json::from_str(&serde_json::to_string(&self.run).unwrap()).unwrap();
        run.tasks = tasks;
        run.graph = Arc::new(graph);
        self.shard = shard(self.shard.slots());
        self.shard.follow_run(&run);
        self.shard.follow(&run, 0..run.tasks.len());
        self.underway.clear();
        for work in run.timers(self.now.wall) {
            self.underway.push(Underway { work, stage: 0 });
        }
        self.run = run;
        self.lose_all(Loss::Owner);
    }

    /// Works on until nothing is under way.
    pub fn finish(&mut self) {
        for _ in 0..100_000 {
            if self.underway.is_empty() {
                return;
            }
            self.work(0);
        }
        panic!("the run does not end: {:?}", self.run.tasks);
    }

    fn tick(&mut self) {
        self.now.wall = self.now.wall.plus(Duration::from_millis(1));
        self.now.mono += Duration::from_millis(1);
    }
}

fn reported(task: TaskIx, epoch: u64, report: Report) -> Event {
    Event::Reported { task, epoch, report }
}

fn task_of(event: &Event) -> TaskIx {
    match event {
        Event::Reported { task, .. } | Event::Published { task, .. } => *task,
        Event::Elapsed { task, .. } | Event::Observed { task, .. } => *task,
        _ => unreachable!("a worker says nothing else"),
    }
}

fn shard(slots: u32) -> Shard {
    let mut shard = Shard::default();
    shard.join(SessionId::from_parts(1, 1), slots, BTreeSet::new());
    shard
}

trait ForTests {
    fn default_for_tests() -> Interval;
}

impl ForTests for Interval {
    fn default_for_tests() -> Interval {
        Interval { start: Micros(0), end: Micros(86_400_000_000) }
    }
}
