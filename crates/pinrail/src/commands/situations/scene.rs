//! Runs on a shard, brought to where a situation begins.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pinrail_model::admit::{Admitted, LimitId, Scope, Shard, admit};
use pinrail_model::condition::Look;
use pinrail_model::document::{ExecutorKind, Job, Sha};
use pinrail_model::explain::{Explanation, History, estimate, estimate_pending, explain, explain_pending, name};
use pinrail_model::fault::{Evidence, Fault, Reason};
use pinrail_model::ids::{AttemptId, RunId, SessionId};
use pinrail_model::names::ProjectName;
use pinrail_model::notify::Usual;
use pinrail_model::run::*;
use pinrail_model::time::{Interval, Micros, Now};
use serde_json::{Value, json};

/// 2026-05-01T12:00:00Z.
const NOON: i64 = 1_777_636_800_000_000;
const DAY: i64 = 86_400_000_000;

pub struct Scene {
    pub shard: Shard,
    pub runs: BTreeMap<RunId, Run>,
    pub history: History,
    seconds: u64,
    attempts: u128,
}

/// A moment, in seconds after noon.
pub fn at(seconds: u64) -> Micros {
    Micros(NOON).plus(Duration::from_secs(seconds))
}

pub fn project() -> ProjectName {
    "shop".parse().expect("a name")
}

pub fn id(number: u128) -> RunId {
    RunId::from_parts(1, number)
}

pub fn anna(reason: Option<&str>) -> Control {
    Control { by: "anna".to_owned(), at: at(0), reason: reason.map(str::to_owned) }
}

impl Scene {
    /// A shard of a server with so many slots of its own.
    pub fn new(slots: u32) -> Self {
        let mut shard = Shard::default();
        if slots > 0 {
            shard.join(SessionId::SERVER, slots, BTreeSet::new());
        }
        Self { shard, runs: BTreeMap::new(), history: History::default(), seconds: 0, attempts: 0 }
    }

    pub fn now(&self) -> Micros {
        at(self.seconds)
    }

    /// A worker without labels joins.
    pub fn join(&mut self, slots: u32) -> &mut Self {
        self.shard.join(SessionId::from_parts(1, 1), slots, BTreeSet::new());
        self
    }

    /// Lets time pass until so many seconds after noon.
    pub fn until(&mut self, seconds: u64) -> &mut Self {
        self.seconds = seconds;
        self
    }

    /// Jobs of a workflow took so many seconds each, in so many runs.
    pub fn took(&mut self, workflow: &str, jobs: &[(&str, u64)], runs: usize) -> &mut Self {
        let took =
            |(job, seconds): &(&str, u64)| (job.parse().expect("a name"), vec![Duration::from_secs(*seconds); runs]);
        let usual = Usual { jobs: jobs.iter().map(took).collect() };
        self.history.insert(project(), workflow.parse().expect("a name"), usual);
        self
    }

    /// A run of a workflow with these jobs, for a day of its own, changed before it is made.
    pub fn add(&mut self, number: u128, workflow: &str, jobs: Value, change: impl FnOnce(&mut Run)) -> &mut Self {
        let jobs = jobs.as_array().expect("a list").iter().map(|job| {
            let mut whole = json!({"kind": "shell", "shell": ["true"], "after": [], "run_if": "all_succeeded"});
            let whole_job = whole.as_object_mut().expect("an object");
            whole_job.extend(job.as_object().expect("an object").clone());
            serde_json::from_value(whole).expect("a job")
        });
        let jobs: Vec<Job> = jobs.collect();
        let (sha, day) = (Sha::of(b""), number as i64 * DAY);
        let mut run = Run {
            id: id(number),
            project: project(),
            workflow: workflow.parse().expect("a name"),
            target: None,
            class: Class::Interactive,
            cause: Cause::Request { by: "ben".to_owned() },
            interval: Interval { start: Micros(day), end: Micros(day + DAY) },
            tz: "UTC".to_owned(),
            params: BTreeMap::new(),
            param_types: BTreeMap::new(),
            bundle: sha,
            version: sha,
            created_at: self.now(),
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
            tasks: Vec::new(),
            graph: Arc::new(Graph::new(&jobs, None)),
            open: Default::default(),
        };
        change(&mut run);
        if run.pending.is_none() {
            run.tasks = Run::new_tasks(&run.graph, sha, sha);
        }
        self.runs.insert(run.id, run);
        self.apply(number, &Event::Created)
    }

    pub fn apply(&mut self, number: u128, event: &Event) -> &mut Self {
        let now = Now { wall: self.now(), mono: Duration::from_secs(self.seconds) };
        let run = self.runs.get_mut(&id(number)).expect("a run");
        let mut fx = Effects::default();
        apply(run, event, now, &mut fx).expect("an event that fits");
        if fx.run_touched {
            self.shard.follow_run(run);
        }
        self.shard.follow(run, fx.touched);
        self
    }

    /// Lets admission give away what is free.
    pub fn admit(&mut self) -> &mut Self {
        while let Some(admitted) = admit(&mut self.shard) {
            let (run, event) = match admitted {
                Admitted::Claim { run, task, session } => {
                    self.attempts += 1;
                    let attempt = AttemptId::from_parts(1, self.attempts);
                    (run, Event::Claimed { task, attempt, session, executor: ExecutorKind::Shell })
                }
                Admitted::Grant { run, task, session } => (run, Event::Granted { task, session }),
                Admitted::Begin { run } => {
                    let graph = Arc::clone(&self.runs[&run].graph);
                    (run, Event::Admitted { graph })
                }
                Admitted::Advance { .. } => unreachable!("there is no backfill in the shard"),
            };
            self.apply(number_of(run), &event);
        }
        self
    }

    pub fn report(&mut self, number: u128, task: TaskIx, report: Report) -> &mut Self {
        let epoch = self.runs[&id(number)].tasks[task].epoch;
        self.apply(number, &Event::Reported { task, epoch, report })
    }

    /// It was looked whether the first condition of the first task is met.
    pub fn observe(&mut self, number: u128, look: Look, what: &str, found: &str) -> &mut Self {
        let epoch = self.runs[&id(number)].tasks[0].epoch;
        let (what, found) = (what.to_owned(), found.to_owned());
        self.apply(number, &Event::Observed { task: 0, epoch, condition: 0, look, what, found })
    }

    /// The attempt of a task goes through setup and works.
    pub fn execute(&mut self, number: u128, task: TaskIx) -> &mut Self {
        self.report(number, task, Report::PhaseStarted(Phase::Setup));
        self.report(number, task, Report::PhaseEnded { phase: Phase::Setup, ok: true });
        self.report(number, task, Report::PhaseStarted(Phase::Execute))
    }

    /// The attempt of a task, which works, succeeds.
    pub fn succeed(&mut self, number: u128, task: TaskIx) -> &mut Self {
        self.report(number, task, Report::PhaseEnded { phase: Phase::Execute, ok: true });
        self.report(number, task, Report::Executed(Executed::default()));
        self.report(number, task, Report::PhaseStarted(Phase::Complete));
        self.report(number, task, Report::PhaseEnded { phase: Phase::Complete, ok: true });
        let epoch = self.runs[&id(number)].tasks[task].epoch;
        self.apply(number, &Event::Published { task, epoch, written: Vec::new() });
        self.clean(number, task)
    }

    /// The attempt of a task, which works, fails.
    pub fn fail(&mut self, number: u128, task: TaskIx) -> &mut Self {
        let evidence = Evidence::new("the job ended with exit code 3").reason(Reason::ExitCode).fact("exit code", 3);
        let verdict = Verdict::failed(Fault::User, Some(Phase::Execute), evidence);
        self.report(number, task, Report::Failed(verdict))
    }

    pub fn clean(&mut self, number: u128, task: TaskIx) -> &mut Self {
        self.report(number, task, Report::CleanupEnded(CleanupEnd { ok: true, detail: None }))
    }

    pub fn hold_scope(&mut self, scope: Scope, control: Control) -> &mut Self {
        self.shard.set_hold(scope, Some(control));
        self
    }

    pub fn limit(&mut self, limit: LimitId, capacity: u32) -> &mut Self {
        self.shard.set_capacity(limit, Some(capacity));
        self
    }

    /// What is said of a job or, without one, of a run that has not begun.
    pub fn told(&self, number: u128, job: Option<&str>, change: impl FnOnce(&mut Explanation)) -> (Value, String) {
        let run = &self.runs[&id(number)];
        let mut explanation = match job {
            Some(job) => explain(run, Some(&self.shard), run.find(job).expect("a job"), self.now()),
            None => explain_pending(run, Some(&self.shard)),
        };
        change(&mut explanation);
        name(&mut explanation, |id| self.runs.get(&id));
        let others: Vec<Run> = explanation.why.runs().iter().filter_map(|id| self.runs.get(id)).cloned().collect();
        let mut all = [explanation];
        if job.is_some() {
            estimate(run, &mut all, &self.history, self.now());
        } else {
            estimate_pending(&mut all[0], &others, &self.history, self.now());
        }
        let [explanation] = all;
        let document = serde_json::to_value(&explanation).expect("a document");
        let text = super::super::show::explain_text(&document);
        (document, text)
    }
}

fn number_of(run: RunId) -> u128 {
    (0..100).find(|number| id(*number) == run).expect("a run of the scene")
}
