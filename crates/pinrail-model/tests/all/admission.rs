//! Who goes next, told for single queues: overrun policies, limits, and the order in which slots are given.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pinrail_model::admit::{Admitted, Barred, LimitId, Scope, Shard, admit};
use pinrail_model::document::{ExecutorKind, Job, Sha};
use pinrail_model::ids::{AttemptId, RunId, SessionId};
use pinrail_model::run::*;
use pinrail_model::target::Lane;
use pinrail_model::time::{Interval, Micros, Now};
use pinrail_model::trigger::Overrun;
use serde_json::{Value, json};

const DAY: i64 = 86_400_000_000;

/// A shard, and the runs that it decides about.
struct Yard {
    shard: Shard,
    runs: BTreeMap<RunId, Run>,
    ids: u128,
}

/// A run that is asked for: of project `p` and workflow `w`, interactive, unless it says otherwise.
struct Asked {
    project: &'static str,
    workflow: &'static str,
    class: Class,
    cause: Cause,
    pending: Option<Pending>,
    params: Value,
    jobs: Value,
    concurrency: Option<u32>,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            project: "p",
            workflow: "w",
            class: Class::Interactive,
            cause: Cause::Request { by: "test".to_owned() },
            pending: None,
            params: json!({}),
            jobs: json!([{}]),
            concurrency: None,
        }
    }
}

impl Asked {
    /// The run of the schedule for a day.
    fn fired(day: i64, overrun: Overrun, most_active: u32) -> Self {
        Self {
            class: Class::Scheduled,
            cause: Cause::Schedule { fire_at: Micros(day * DAY) },
            pending: Some(Pending::Schedule { overrun, most_active }),
            ..Self::default()
        }
    }

    /// Jobs are given by what makes them special; they are called j0, j1 and so on.
    fn graph(&self) -> Graph {
        let jobs = self.jobs.as_array().unwrap().iter().enumerate().map(|(ix, more)| {
            let mut job = json!({
                "name": format!("j{ix}"), "kind": "class", "class": "jobs.x.y", "after": [], "run_if": "all_succeeded",
                "retries": 0, "may_fail": false,
            });
            job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            serde_json::from_value::<Job>(job).unwrap()
        });
        Graph::new(&jobs.collect::<Vec<_>>(), None).limited(self.concurrency)
    }
}

impl Yard {
    fn new(slots: u32) -> Self {
        let mut shard = Shard::default();
        shard.join(SessionId::from_parts(1, 1), slots, BTreeSet::new());
        Self { shard, runs: BTreeMap::new(), ids: 0 }
    }

    /// Adds a run; its interval is the day of its number unless a schedule says another.
    fn ask(&mut self, asked: &Asked) -> RunId {
        self.ids += 1;
        let sha = Sha::of(b"");
        let graph = asked.graph();
        let day = match asked.cause {
            Cause::Schedule { fire_at } => fire_at.0,
            _ => 1_000_000 * DAY + i64::try_from(self.ids).unwrap() * DAY,
        };
        let waits = asked.pending.is_some();
        let run = Run {
            id: RunId::from_parts(1, self.ids),
            project: asked.project.parse().unwrap(),
            workflow: asked.workflow.parse().unwrap(),
            class: asked.class,
            cause: asked.cause.clone(),
            interval: Interval { start: Micros(day), end: Micros(day + DAY) },
            tz: "UTC".to_owned(),
            params: serde_json::from_value(asked.params.clone()).unwrap(),
            param_types: BTreeMap::new(),
            bundle: sha,
            version: sha,
            created_at: Micros(0),
            started_at: None,
            ended_at: None,
            stop: None,
            pending: asked.pending,
            hold: None,
            jobs: None,
            outside: BTreeMap::new(),
            executors: BTreeMap::new(),
            notify: None,
            target: None,
            replay_of: None,
            tasks: if waits { Vec::new() } else { Run::new_tasks(&graph, sha, sha) },
            graph: if waits { Arc::default() } else { Arc::new(graph) },
            open: Default::default(),
        };
        let id = run.id;
        self.runs.insert(id, run);
        self.apply(id, &Event::Created);
        id
    }

    fn apply(&mut self, id: RunId, event: &Event) {
        let run = self.runs.get_mut(&id).unwrap();
        let mut fx = Effects::default();
        apply(run, event, Now::default(), &mut fx).unwrap();
        if fx.run_touched {
            self.shard.follow_run(run);
        }
        self.shard.follow(run, fx.touched);
    }

    /// Lets admission decide until nothing more can go on; the tasks that were given slots, in order.
    fn claims(&mut self) -> Vec<(RunId, TaskIx)> {
        let mut claims = Vec::new();
        while let Some(admitted) = admit(&mut self.shard) {
            match admitted {
                Admitted::Claim { run, task, session } => {
                    claims.push((run, task));
                    self.ids += 1;
                    let attempt = AttemptId::from_parts(1, self.ids);
                    let executor = ExecutorKind::Python;
                    self.apply(run, &Event::Claimed { task, attempt, session, executor });
                }
                Admitted::Begin { run } => {
                    let graph = Arc::new(Asked::default().graph());
                    self.apply(run, &Event::Admitted { graph });
                }
                other => unreachable!("{other:?}"),
            }
        }
        claims
    }

    /// A person says what became of all jobs of a run, none of which is under way.
    fn end(&mut self, id: RunId, ending: Ending) {
        let control = Control { by: "test".to_owned(), at: Micros(0), reason: None };
        let tasks = (0..self.runs[&id].tasks.len()).collect();
        self.apply(id, &Event::Mark { tasks, ending, control });
    }

    fn barred(&self, id: RunId) -> Barred {
        self.shard.barred(&self.runs[&id])
    }

    fn begun(&self, id: RunId) -> bool {
        self.runs[&id].pending.is_none()
    }

    fn limit_of(&self, key: (RunId, TaskIx)) -> Option<LimitId> {
        self.shard.standing(key).unwrap().limit
    }
}

/// Two runs of a schedule whose jobs get no slots, so that what holds them is their line alone.
fn two(overrun: Overrun, most_active: u32) -> (Yard, RunId, RunId) {
    let mut yard = Yard::new(1);
    yard.shard.set_capacity(LimitId::Quota("p".parse().unwrap()), Some(0));
    let first = yard.ask(&Asked::fired(1, overrun, most_active));
    yard.claims();
    let second = yard.ask(&Asked::fired(2, overrun, most_active));
    yard.claims();
    assert!(yard.begun(first));
    (yard, first, second)
}

#[test]
fn runs_of_a_schedule_begin_beside_each_other_up_to_the_most_that_may_be_active() {
    let (mut yard, first, second) = two(Overrun::StartNew, 2);
    assert!(yard.begun(second));
    let third = yard.ask(&Asked::fired(3, Overrun::StartNew, 2));
    yard.claims();
    let active = vec![first, second];
    assert_eq!(yard.barred(third), Barred::Overrun { overrun: Overrun::StartNew, most_active: 2, active });
    yard.end(first, Ending::Failed);
    yard.claims();
    assert!(yard.begun(third));
}

#[test]
fn delay_waits_for_the_end_of_the_run_before_and_delay_until_success_for_its_success() {
    let (mut yard, first, second) = two(Overrun::Delay, 16);
    assert!(!yard.begun(second));
    yard.end(first, Ending::Failed);
    yard.claims();
    assert!(yard.begun(second));

    let (mut yard, first, second) = two(Overrun::DelayUntilSuccess, 16);
    yard.end(first, Ending::Failed);
    yard.claims();
    assert_eq!(yard.barred(second), Barred::Failed(first));
    yard.end(first, Ending::Succeeded);
    yard.claims();
    assert!(yard.begun(second));
}

#[test]
fn skip_passes_a_fire_time_over_and_abort_running_stops_what_is_under_way() {
    let (yard, first, second) = two(Overrun::StartNew, 16);
    let lane = Lane { project: "p".parse().unwrap(), workflow: "w".parse().unwrap(), target: None };
    let on_fire = |overrun| yard.shard.on_fire(&lane, overrun);
    assert_eq!(on_fire(Overrun::Skip).passed_over, Some(first));
    assert_eq!(on_fire(Overrun::AbortRunning).stopped, [first, second]);
    assert_eq!(on_fire(Overrun::Delay), pinrail_model::admit::OnFire::default());
}

#[test]
fn two_runs_for_one_interval_are_never_under_way() {
    let (mut yard, first, _) = two(Overrun::StartNew, 16);
    let again = yard.ask(&Asked::fired(1, Overrun::StartNew, 16));
    yard.claims();
    assert_eq!(yard.barred(again), Barred::SameInterval(first));
}

#[test]
fn a_full_pool_parks_its_own_tasks_only() {
    let mut yard = Yard::new(10);
    let pool = LimitId::Pool("p".parse().unwrap(), "db".parse().unwrap());
    yard.shard.set_capacity(pool.clone(), Some(2));
    let pooled = json!({"pools": {"db": 2}});
    let run = yard.ask(&Asked { jobs: json!([pooled, pooled, {}, {}]), ..Asked::default() });
    assert_eq!(yard.claims(), [(run, 0), (run, 2), (run, 3)]);
    assert_eq!(yard.limit_of((run, 1)), Some(pool.clone()));
    assert_eq!(yard.shard.standing((run, 1)).unwrap().holders, [(run, 0)]);
    yard.shard.set_capacity(pool, Some(4));
    assert_eq!(yard.claims(), [(run, 1)]);
}

#[test]
fn of_jobs_with_one_key_one_is_under_way_at_a_time() {
    let mut yard = Yard::new(10);
    let jobs = json!([{"key": "{{ params.customer }}"}]);
    let mut ask = |workflow, customer| {
        yard.ask(&Asked { workflow, params: json!({"customer": customer}), jobs: jobs.clone(), ..Asked::default() })
    };
    let runs = [ask("w", "anna"), ask("v", "anna"), ask("w", "bert")];
    assert_eq!(yard.claims(), [(runs[0], 0), (runs[2], 0)]);
    assert_eq!(yard.limit_of((runs[1], 0)), Some(LimitId::Key("p".parse().unwrap(), "anna".to_owned())));
}

#[test]
fn a_workflow_a_job_and_a_project_have_limits_over_all_runs() {
    let mut yard = Yard::new(20);
    let job = json!([{"concurrency": 1}, {}, {}]);
    let mut ask = || yard.ask(&Asked { jobs: job.clone(), concurrency: Some(3), ..Asked::default() });
    let runs = [ask(), ask()];
    assert_eq!(yard.claims(), [(runs[0], 0), (runs[0], 1), (runs[0], 2)]);
    let limits: Vec<_> = (0..3).filter_map(|task| yard.limit_of((runs[1], task))).collect();
    assert!(limits.iter().all(|limit| matches!(limit, LimitId::Workflow(..))), "{limits:?}");

    let mut yard = Yard::new(20);
    let mut ask = || yard.ask(&Asked { jobs: job.clone(), ..Asked::default() });
    let runs = [ask(), ask()];
    assert_eq!(yard.claims().len(), 5);
    assert!(matches!(yard.limit_of((runs[1], 0)), Some(LimitId::Job(..))));

    let mut yard = Yard::new(20);
    yard.shard.set_capacity(LimitId::Quota("p".parse().unwrap()), Some(2));
    yard.ask(&Asked { jobs: json!([{}, {}, {}]), ..Asked::default() });
    let other = yard.ask(&Asked { project: "q", ..Asked::default() });
    let claims = yard.claims();
    assert_eq!(claims.len(), 3);
    assert!(claims.contains(&(other, 0)));
}

#[test]
fn projects_share_slots_by_their_weights() {
    let mut yard = Yard::new(13);
    yard.shard.set_weight("q".parse().unwrap(), 2);
    let jobs = Value::from(vec![json!({}); 20]);
    yard.ask(&Asked { jobs: jobs.clone(), ..Asked::default() });
    let double = yard.ask(&Asked { project: "q", jobs, ..Asked::default() });
    let claims = yard.claims();
    let shares = claims.iter().filter(|(run, _)| *run == double).count();
    assert_eq!((claims.len(), shares), (12, 8));
}

#[test]
fn classes_go_in_their_order_and_none_starves() {
    let mut yard = Yard::new(31);
    let jobs = Value::from(vec![json!({}); 40]);
    let class = |class| Asked { class, jobs: jobs.clone(), ..Asked::default() };
    let backfill = yard.ask(&class(Class::Backfill));
    let interactive = yard.ask(&class(Class::Interactive));
    let claims = yard.claims();
    let places: Vec<usize> = (0..claims.len()).filter(|at| claims[*at].0 == backfill).collect();
    assert_eq!(places, [9, 19, 29]);
    assert_eq!(claims.iter().filter(|(run, _)| *run == interactive).count(), 27);
}

#[test]
fn what_most_hangs_on_goes_first_after_what_its_author_prefers() {
    let mut yard = Yard::new(5);
    let jobs = json!([{}, {}, {"after": ["j1"]}, {"after": ["j2"]}, {"priority": 1}, {"priority": -1}]);
    let run = yard.ask(&Asked { jobs, ..Asked::default() });
    assert_eq!(yard.claims(), [(run, 4), (run, 1), (run, 0), (run, 5)]);
}

#[test]
fn durations_of_earlier_runs_make_the_critical_path() {
    let jobs = json!([{}, {"after": ["j0"]}, {"after": ["j1"]}, {}]);
    let graph = Asked { jobs, ..Asked::default() }.graph();
    assert_eq!(graph.weight, [3000, 2000, 1000, 1000]);
    let took = BTreeMap::from([("j3".parse().unwrap(), std::time::Duration::from_secs(60))]);
    assert_eq!(graph.weighed(&took).weight, [3000, 2000, 1000, 60_000]);
}

#[test]
fn what_is_held_begins_nothing_at_every_scope_and_goes_on_when_it_is_released() {
    let (project, workflow) = ("p".parse().unwrap(), "w".parse().unwrap());
    let scopes =
        [Scope::Platform, Scope::Project { project }, Scope::Workflow { project: "p".parse().unwrap(), workflow }];
    for scope in scopes {
        let mut yard = Yard::new(4);
        let control = Control { by: "anna".to_owned(), at: Micros(0), reason: None };
        yard.shard.set_hold(scope.clone(), Some(control.clone()));
        let run = yard.ask(&Asked::default());
        let fired = yard.ask(&Asked::fired(1, Overrun::StartNew, 16));
        assert_eq!(yard.claims(), []);
        assert_eq!(yard.limit_of((run, 0)), Some(LimitId::Scope(scope.clone())));
        assert_eq!(yard.barred(fired), Barred::Held(scope.clone(), control));
        yard.shard.set_hold(scope, None);
        assert_eq!(yard.claims(), [(run, 0), (fired, 0)]);
    }
}

#[test]
fn a_job_goes_only_to_a_worker_that_has_its_labels() {
    let mut yard = Yard::new(4);
    let run = yard.ask(&Asked { jobs: json!([{"labels": ["gpu"]}, {}]), ..Asked::default() });
    assert_eq!(yard.claims(), [(run, 1)]);
    assert_eq!(yard.limit_of((run, 0)), Some(LimitId::Labels(vec!["gpu".to_owned()])));
    yard.shard.join(SessionId::from_parts(1, 2), 2, BTreeSet::from(["gpu".to_owned()]));
    assert_eq!(yard.claims(), [(run, 0)]);
}

#[test]
fn a_worker_that_drains_gets_nothing_new() {
    let mut yard = Yard::new(4);
    yard.shard.drain(SessionId::from_parts(1, 1), true);
    let run = yard.ask(&Asked::default());
    assert_eq!(yard.claims(), []);
    yard.shard.drain(SessionId::from_parts(1, 1), false);
    assert_eq!(yard.claims(), [(run, 0)]);
}
