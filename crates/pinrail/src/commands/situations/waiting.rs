//! Why something waits, and what became of what no longer does.

use pinrail_model::admit::{LimitId, Scope};
use pinrail_model::backfill::{Backfill, Order, Progress};
use pinrail_model::condition::Look;
use pinrail_model::document::Sha;
use pinrail_model::explain::{Explanation, Why, explain, place_in_backfill};
use pinrail_model::ids::BackfillId;
use pinrail_model::run::{Cause, Class, Event, Loss, Pending, Run};
use pinrail_model::trigger::Overrun;
use serde_json::{Value, json};

use super::Situation;
use super::scene::{Scene, anna, at, id, project};

fn one(name: &str) -> Value {
    json!([{"name": name}])
}

fn plain(_: &mut Run) {}

fn as_is(_: &mut Explanation) {}

/// Two jobs, one after the other, of which the first works since noon.
fn chain() -> Scene {
    let mut scene = Scene::new(4);
    let jobs = json!([{"name": "load"}, {"name": "report", "after": ["load"]}]);
    scene.add(1, "daily", jobs, plain).admit().execute(1, 0).until(60);
    scene
}

/// Two slots, one for new work: it is held since noon, and two wait for it.
fn full() -> Scene {
    let mut scene = Scene::new(1);
    scene.add(1, "hourly", json!([{"name": "sync", "owner": "logistics"}]), plain).admit().execute(1, 0);
    scene.until(10).add(2, "daily", one("load"), plain);
    scene.until(20).add(3, "daily", one("load"), plain).admit().until(60);
    scene
}

/// Of two runs that need a limit one holds it since noon, and the other waits.
fn limited(limit: Option<(LimitId, u32)>, job: Value) -> Scene {
    let mut scene = Scene::new(8);
    if let Some((limit, capacity)) = limit {
        scene.limit(limit, capacity);
    }
    scene.add(1, "daily", json!([job]), plain).admit();
    scene.add(2, "daily", json!([job]), plain).admit().until(60);
    scene.took("daily", &[("load", 300)], 12);
    scene
}

fn pool() -> LimitId {
    LimitId::Pool(project(), "orders".parse().expect("a name"))
}

fn scheduled(overrun: Overrun, most_active: u32, at_second: u64) -> impl FnOnce(&mut Run) {
    move |run| {
        run.class = Class::Scheduled;
        run.cause = Cause::Schedule { fire_at: at(at_second) };
        run.pending = Some(Pending::Schedule { overrun, most_active });
    }
}

/// A run of a schedule that works since noon, and the next one.
fn line(overrun: Overrun, most_active: u32) -> Scene {
    let mut scene = Scene::new(8);
    scene.add(1, "daily", one("load"), scheduled(overrun, most_active, 0)).admit().execute(1, 0);
    scene.until(60).add(2, "daily", one("load"), scheduled(overrun, most_active, 60)).admit();
    scene.took("daily", &[("load", 300)], 20);
    scene
}

fn of_backfill(run: &mut Run) {
    run.class = Class::Backfill;
    run.cause = Cause::Backfill { id: BackfillId::from_parts(1, 9), index: 5 };
    run.pending = Some(Pending::Backfill);
}

fn in_backfill(explanation: &mut Explanation, paused: bool) {
    let (sha, scene) = (Sha::of(b""), Scene::new(1));
    let backfill = Backfill {
        id: BackfillId::from_parts(1, 9),
        project: project(),
        workflow: "daily".parse().expect("a name"),
        target: None,
        version: sha,
        bundle: sha,
        by: "ben".to_owned(),
        created_at: scene.now(),
        class: Class::Backfill,
        tz: "UTC".to_owned(),
        jobs: None,
        params: Default::default(),
        param_types: Default::default(),
        executors: Default::default(),
        outside: Default::default(),
        order: Order::Newest,
        concurrency: 2,
        intervals: vec![pinrail_model::time::Interval { start: at(0), end: at(1) }; 12],
        done_before: Vec::new(),
    };
    let paused = paused.then(|| anna(Some("the old database is slow")));
    let progress = Progress { made: 12, next: 4, running: 2, paused, ..Progress::default() };
    place_in_backfill(explanation, &backfill, &progress, 5);
}

pub fn waiting() -> Vec<Situation> {
    let mut all = Vec::new();
    let mut add = |name, code, told, fields, text| all.push(Situation { name, code, fields, text, told });

    let mut scene = chain();
    scene.took("daily", &[("load", 300), ("report", 20)], 12);
    add(
        "a job waits for another one, whose duration is known",
        "waiting-for-jobs",
        scene.told(1, Some("report"), as_is),
        json!({"state": "waiting", "jobs": [{"job": "load", "state": "executing"}],
               "estimate": {"event": "begins", "seconds": 240.0, "runs": 12}}),
        r"
  report waits for load (executing)
    starts      in about 4 min (from 12 runs)",
    );
    add(
        "a job waits for another one, which never succeeded before",
        "waiting-for-jobs",
        chain().told(1, Some("report"), as_is),
        json!({"estimate": null, "no_estimate": "job \"load\" of workflow \"daily\" has not succeeded yet"}),
        r#"
  report waits for load (executing)
    estimate    none: job "load" of workflow "daily" has not succeeded yet"#,
    );
    let mut scene = chain();
    scene.took("daily", &[("load", 30), ("report", 20)], 12);
    add(
        "a job waits for another one, which works longer than usual",
        "waiting-for-jobs",
        scene.told(1, Some("report"), as_is),
        json!({"estimate": {"seconds": 0.0, "runs": 12}}),
        r"
  report waits for load (executing)
    starts      at any moment: what it waits for takes longer than usual (from 12 runs)",
    );
    let mut scene = Scene::new(8);
    let that = json!({"kind": "file", "path": "in/{{ ds }}.csv"});
    let job = json!([{"name": "load", "wait_for": [{"that": that, "timeout_seconds": 3600.0}]}]);
    scene.add(1, "daily", job, plain).admit().until(60);
    scene.observe(1, Look::NotYet, "file \"in/2026-05-01.csv\"", "no such file");
    add(
        "a condition is not met",
        "waiting-for-conditions",
        scene.told(1, Some("load"), as_is),
        json!({"conditions": [{"met": false, "what": "file \"in/2026-05-01.csv\""}], "next": "pinrail release 0001 --job load"}),
        r#"
  load waits for file "in/2026-05-01.csv"
    last look   no such file (at 2026-05-01T12:01:00.000000Z)
    given up    2026-05-01T13:00:00.000000Z
    next        pinrail release 0001 --job load"#,
    );
    let mut scene = full();
    scene.took("hourly", &[("sync", 120)], 20).took("daily", &[("load", 90)], 7);
    add(
        "every slot of the worker is held",
        "waiting-for-slot",
        scene.told(3, Some("load"), as_is),
        json!({"state": "ready", "slots": 1, "held": 1, "place": 2, "of": 2,
               "holders": [{"is": {"job": "sync", "workflow": "hourly", "owner": "logistics", "by": "ben"}}],
               "ahead": [{"workflow": "daily", "job": "load", "tasks": 1}],
               "estimate": {"seconds": 150.0, "runs": 7}, "next": "pinrail up --slots 3"}),
        r"
  load waits for a worker slot: 1 of 1 are held
    held by     0001 sync of hourly since 2026-05-01T12:00:00.000000Z, asked for by ben, owner logistics
    queue       2 of 2, behind load of daily
    starts      in about 2 min (from 7 runs)
    next        end the server, then: pinrail up --slots 3",
    );
    let mut scene = Scene::new(0);
    scene.join(1).add(1, "daily", one("load"), plain).admit().execute(1, 0);
    scene.until(20).add(2, "daily", one("load"), plain).admit().until(60);
    add(
        "every slot of the workers is held",
        "waiting-for-slot",
        scene.told(2, Some("load"), as_is),
        json!({"slots": 1, "held": 1, "next": "pinrail work"}),
        r#"
  load waits for a worker slot: 1 of 1 are held
    held by     0001 load of daily since 2026-05-01T12:00:00.000000Z, asked for by ben
    queue       1 of 1
    estimate    none: job "load" of workflow "daily" has not succeeded yet
    next        pinrail work"#,
    );
    let mut scene = Scene::new(0);
    scene.add(1, "daily", one("load"), plain).admit();
    add(
        "no worker takes jobs",
        "waiting-for-slot",
        scene.told(1, Some("load"), as_is),
        json!({"slots": 0, "held": 0, "next": "pinrail work"}),
        r"
  load waits for a worker: none takes jobs, and the server has no slots of its own
    queue       1 of 1
    estimate    none: nobody holds it
    next        pinrail work",
    );
    add(
        "a pool is full",
        "waiting-for-limit",
        limited(Some((pool(), 1)), json!({"name": "load", "pools": {"orders": 1}})).told(2, Some("load"), as_is),
        json!({"limit": {"kind": "pool", "name": "orders", "is_set": true}, "capacity": 1, "held": 1,
               "estimate": {"seconds": 240.0, "runs": 12}, "next": "pinrail pools set orders --slots 2"}),
        r#"
  load waits: pool "orders" is full (1 of 1 slots)
    held by     0001 load of daily since 2026-05-01T12:00:00.000000Z, asked for by ben
    queue       1 of 1
    starts      in about 4 min (from 12 runs)
    next        pinrail pools set orders --slots 2"#,
    );
    add(
        "a pool was never set",
        "waiting-for-limit",
        limited(None, json!({"name": "load", "pools": {"orders": 1}})).told(2, Some("load"), as_is),
        json!({"limit": {"kind": "pool", "is_set": false}, "capacity": 0, "no_estimate": "there are no slots at all",
               "next": "pinrail pools set orders --slots 1"}),
        r#"
  load waits: pool "orders" has no slots; nobody has set it
    queue       2 of 2, behind load of daily
    estimate    none: there are no slots at all
    next        pinrail pools set orders --slots 1"#,
    );
    add(
        "the quota of the project is used up",
        "waiting-for-limit",
        limited(Some((LimitId::Quota(project()), 1)), json!({"name": "load"})).told(2, Some("load"), as_is),
        json!({"limit": {"kind": "quota", "project": "shop"}, "next": "pinrail limits set quota 2"}),
        r"
  load waits: the quota of project shop is used up (1 of 1)
    held by     0001 load of daily since 2026-05-01T12:00:00.000000Z, asked for by ben
    queue       1 of 1
    starts      in about 4 min (from 12 runs)
    next        pinrail limits set quota 2",
    );
    let mut scene = Scene::new(8);
    let of_one = |run: &mut Run| {
        let graph = pinrail_model::run::Graph::of(
            &[run.graph.jobs[0].as_ref().clone()],
            [(&run.graph.jobs[0].name, None)].into_iter(),
        );
        run.graph = std::sync::Arc::new(graph.expect("its own job").limited(Some(1)));
    };
    scene.add(1, "daily", one("load"), of_one).admit().add(2, "daily", one("load"), of_one).admit().until(60);
    add(
        "the workflow has as many jobs at work as it may",
        "waiting-for-limit",
        scene.told(2, Some("load"), as_is),
        json!({"limit": {"kind": "workflow", "workflow": "daily"}, "capacity": 1, "next": "pinrail reload 0002 --code folder"}),
        r#"
  load waits: workflow daily has as many jobs at work as may be (1 of 1)
    held by     0001 load of daily since 2026-05-01T12:00:00.000000Z, asked for by ben
    queue       1 of 1
    estimate    none: job "load" of workflow "daily" has not succeeded yet
    next        raise `concurrency` in the workflow file, then: pinrail reload 0002 --code folder"#,
    );
    add(
        "the job is at work as often as it may be",
        "waiting-for-limit",
        limited(None, json!({"name": "load", "concurrency": 1})).told(2, Some("load"), as_is),
        json!({"limit": {"kind": "job", "job": "load"}, "first": "raise `concurrency` in the workflow file"}),
        r"
  load waits: as many of job load are at work as may be, in all runs (1 of 1)
    held by     0001 load of daily since 2026-05-01T12:00:00.000000Z, asked for by ben
    queue       1 of 1
    starts      in about 4 min (from 12 runs)
    next        raise `concurrency` in the workflow file, then: pinrail reload 0002 --code folder",
    );
    add(
        "another job has the same key",
        "waiting-for-limit",
        limited(None, json!({"name": "load", "key": "customer 7"})).told(2, Some("load"), as_is),
        json!({"limit": {"kind": "key", "key": "customer 7"}, "next": "pinrail cancel 0001"}),
        r#"
  load waits: another job with the key "customer 7" is at work, one at a time
    held by     0001 load of daily since 2026-05-01T12:00:00.000000Z, asked for by ben
    queue       1 of 1
    starts      in about 4 min (from 12 runs)
    next        pinrail cancel 0001"#,
    );
    let mut scene = Scene::new(8);
    scene.add(1, "daily", json!([{"name": "train", "labels": ["gpu"]}]), plain).admit();
    add(
        "no worker has the labels",
        "waiting-for-worker",
        scene.told(1, Some("train"), as_is),
        json!({"labels": ["gpu"], "workers": 0, "no_estimate": "nobody knows when a worker has room for it",
               "next": "pinrail work --labels gpu"}),
        r"
  train waits for a worker with the labels gpu: none is there
    queue       1 of 1
    estimate    none: nobody knows when a worker has room for it
    next        pinrail work --labels gpu",
    );
    let mut scene = Scene::new(8);
    let workflow = Scope::Workflow { project: project(), workflow: "daily".parse().expect("a name") };
    scene.hold_scope(workflow, anna(Some("the source is being moved"))).add(1, "daily", one("load"), plain).admit();
    add(
        "a person holds the workflow",
        "held-by-scope",
        scene.told(1, Some("load"), as_is),
        json!({"control": {"by": "anna", "reason": "the source is being moved"},
               "next": "pinrail release --workflow daily"}),
        r"
  load waits: workflow daily is held by anna at 2026-05-01T12:00:00.000000Z: the source is being moved
    estimate    none: it waits for a person
    next        pinrail release --workflow daily",
    );
    let mut scene = Scene::new(8);
    scene.add(1, "daily", one("load"), |run| run.hold = Some(anna(None))).admit();
    add(
        "a person holds the run",
        "run-held",
        scene.told(1, Some("load"), as_is),
        json!({"control": {"by": "anna"}, "next": "pinrail release 0001"}),
        r"
  load waits: its run is held by anna at 2026-05-01T12:00:00.000000Z
    estimate    none: it waits for a person
    next        pinrail release 0001",
    );
    let mut scene = Scene::new(8);
    scene.add(1, "daily", one("load"), plain).admit().execute(1, 0);
    let interval = scene.runs[&id(1)].interval;
    scene.until(60).add(2, "daily", one("load"), |run| {
        scheduled(Overrun::Delay, 1, 60)(run);
        run.interval = interval;
    });
    scene.admit().took("daily", &[("load", 300)], 3);
    add(
        "a run for the same interval is under way",
        "waiting-for-interval",
        scene.told(2, None, as_is),
        json!({"job": null, "other": id(1), "estimate": {"seconds": 240.0, "runs": 3}, "next": "pinrail explain 0001"}),
        r"
  run 0002 has not begun: run 0001 of the same workflow and interval is under way
    starts      in about 4 min (from 3 runs)
    next        pinrail explain 0001",
    );
    add(
        "the run before has to end first",
        "waiting-for-runs",
        line(Overrun::Delay, 1).told(2, None, as_is),
        json!({"overrun": "delay", "runs": [id(1)], "estimate": {"seconds": 240.0, "runs": 20}}),
        r"
  run 0002 has not begun: run 0001 must end first (overrun is delay)
    starts      in about 4 min (from 20 runs)
    next        pinrail explain 0001",
    );
    add(
        "as many runs of the schedule as may be are under way",
        "waiting-for-runs",
        line(Overrun::StartNew, 1).told(2, None, as_is),
        json!({"overrun": "start-new", "most_active": 1}),
        r"
  run 0002 has not begun: at most 1 run at once, and run 0001 is under way
    starts      in about 4 min (from 20 runs)
    next        pinrail explain 0001",
    );
    let mut scene = line(Overrun::DelayUntilSuccess, 1);
    scene.fail(1, 0).clean(1, 0).admit();
    add(
        "the run before failed and has to succeed first",
        "waiting-for-success",
        scene.told(2, None, as_is),
        json!({"other": id(1), "no_estimate": "the failed run has to be mended first", "next": "pinrail retry 0001"}),
        r"
  run 0002 has not begun: run 0001 failed and must succeed first (overrun is delay-until-success)
    estimate    none: the failed run has to be mended first
    next        pinrail retry 0001",
    );
    let mut scene = Scene::new(8);
    scene.add(1, "daily", one("load"), of_backfill);
    add(
        "the turn in the backfill is to come",
        "waiting-in-backfill",
        scene.told(1, None, |explanation| in_backfill(explanation, false)),
        json!({"place": 3, "of": 8, "paused": null}),
        r"
  run 0001 has not begun: its turn in backfill 0009 is still to come
    queue       3 of 8
    estimate    none: `pinrail backfills 0009` has one
    next        pinrail backfills 0009",
    );
    add(
        "the backfill is paused",
        "waiting-in-backfill",
        scene.told(1, None, |explanation| in_backfill(explanation, true)),
        json!({"paused": {"by": "anna"}, "no_estimate": "it waits for a person"}),
        r"
  run 0001 has not begun: backfill 0009 is paused by anna at 2026-05-01T12:00:00.000000Z: the old database is slow
    queue       3 of 8
    estimate    none: it waits for a person
    next        pinrail backfills resume 0009",
    );
    let mut scene = Scene::new(1);
    scene.add(1, "daily", json!([{"name": "query", "kind": "class", "class": "jobs.x.y", "shell": null}]), plain);
    scene.admit().execute(1, 0);
    let spec = pinrail_model::seam::exec::Spec::Shell { command: vec!["true".to_owned()], env: Default::default() };
    let executed = pinrail_model::run::Executed { spec: Some(spec), ..Default::default() };
    scene.report(1, 0, pinrail_model::run::Report::Specified(executed));
    scene.add(2, "hourly", one("sync"), plain).admit().until(60);
    scene.report(1, 0, pinrail_model::run::Report::EngineEnded { result: json!(1), outputs: Default::default() });
    add(
        "an engine has ended and complete waits for a slot",
        "waiting-to-finish",
        scene.told(1, Some("query"), as_is),
        json!({"step": "complete", "slots": 1, "held": 1}),
        r"
  query waits for a worker slot for complete",
    );
    let mut scene = Scene::new(1);
    let job = json!([{"name": "check", "kind": "workflow", "workflow": "quality", "shell": null}]);
    scene.add(1, "daily", job, plain).admit().execute(1, 0).took("daily", &[("check", 300)], 12).until(60);
    let spec = pinrail_model::seam::exec::Spec::Workflow {
        workflow: "quality".parse().expect("a name"),
        params: Default::default(),
    };
    let executed = pinrail_model::run::Executed { spec: Some(spec), ..Default::default() };
    scene.report(1, 0, pinrail_model::run::Report::Specified(executed));
    let handle = json!({"run": id(7)});
    scene.report(1, 0, pinrail_model::run::Report::Submitted { handle });
    add(
        "a run of another workflow is its work",
        "waiting-for-workflow",
        scene.told(1, Some("check"), as_is),
        json!({"workflow": "quality", "other": id(7), "estimate": {"seconds": 240.0, "runs": 12},
               "next": "pinrail explain 0007"}),
        r#"
  check waits for run 0007 of workflow "quality", which is its work, since 2026-05-01T12:00:00.000000Z
    ends        in about 4 min (from 12 runs)
    next        pinrail explain 0007"#,
    );
    let mut scene = Scene::new(8);
    scene.add(1, "daily", json!([{"name": "load", "retries": 2, "retry_delay_seconds": 30}]), plain).admit();
    scene.execute(1, 0).until(60).fail(1, 0).clean(1, 0);
    add(
        "it failed and is tried again",
        "backing-off",
        scene.told(1, Some("load"), as_is),
        json!({"until": at(90), "tries": {"number": 1, "allowed": 3}, "failure": {"reason": "exit-code"}}),
        r"
  load failed and is tried again at 2026-05-01T12:01:30.000000Z (attempt 2 of 3)
    the job ended with exit code 3
    exit code   3",
    );
    let mut scene = Scene::new(8);
    scene.add(1, "daily", one("load"), plain);
    let hold = Event::Hold { tasks: Some(vec![0]), control: Some(anna(Some("look first"))), by: "anna".to_owned() };
    scene.apply(1, &hold);
    add(
        "a person holds the job",
        "held",
        scene.told(1, Some("load"), as_is),
        json!({"reason": "held by anna: look first", "said": {"what": "held", "by": "anna"},
               "next": "pinrail release 0001 --job load"}),
        r"
  load is held by anna: look first
    estimate    none: it waits for a person
    next        pinrail release 0001 --job load",
    );
    let mut scene = Scene::new(8);
    scene.add(1, "daily", one("load"), plain).admit();
    for _ in 0..2 {
        let epoch = scene.runs[&id(1)].tasks[0].epoch;
        scene.apply(1, &Event::Lost { task: 0, epoch, by: Loss::Session }).admit().clean(1, 0);
        if scene.runs[&id(1)].tasks[0].backoff_until.is_some() {
            let epoch = scene.runs[&id(1)].tasks[0].epoch;
            let timer = pinrail_model::run::Timer::Backoff;
            scene.apply(1, &Event::Elapsed { task: 0, epoch, timer }).admit();
        }
    }
    add(
        "two workers were lost with it",
        "held",
        scene.told(1, Some("load"), as_is),
        json!({"reason": "2 workers were lost while they ran this job", "next": "pinrail retry 0001"}),
        r"
  load is held: 2 workers were lost while they ran this job
    estimate    none: it waits for a person
    next        pinrail retry 0001",
    );
    let mut scene = chain();
    scene.took("daily", &[("load", 300), ("report", 20)], 12);
    add(
        "it is at work",
        "working",
        scene.told(1, Some("load"), as_is),
        json!({"position": "executing", "phase": "execute", "number": 1,
               "estimate": {"event": "ends", "seconds": 240.0, "runs": 12}}),
        r"
  load is at work: executing since 2026-05-01T12:00:00.000000Z (attempt 1)
    ends        in about 4 min (from 12 runs)
    next        pinrail logs 0001 --job load -f",
    );
    let run = &chain().runs[&id(1)];
    let document = serde_json::to_value(explain(run, None, 0, at(60))).expect("a document");
    let text = super::super::show::explain_text(&document);
    add(
        "the server that worked on it is gone",
        "waiting-for-server",
        (document, text),
        json!({"heard_at": at(0), "next": "pinrail up"}),
        r"
  load waits for a server; the one that worked on it is gone (last heard of at 2026-05-01T12:00:00.000000Z)
    next        pinrail up",
    );
    all
}

/// What no longer waits.
pub fn over() -> Vec<Situation> {
    let mut all = Vec::new();
    let mut add = |name, code, told, fields, text| all.push(Situation { name, code, fields, text, told });

    let mut scene = chain();
    scene.fail(1, 0);
    add(
        "it failed and is being cleaned up",
        "ending-badly",
        scene.told(1, Some("load"), as_is),
        json!({"failure": {"reason": "exit-code"}, "downstream": ["report"]}),
        r"
  load failed in execute · attempt 1 of 1 · fault user
    the job ended with exit code 3
    exit code   3
    downstream  report did not start",
    );
    scene.clean(1, 0);
    add(
        "it failed for good",
        "failed",
        scene.told(1, Some("load"), as_is),
        json!({"failure": {"fault": "user", "remedy": "Look at its last words, and at all of them with `pinrail logs`."},
               "first": "fix the file", "next": "pinrail retry 0001 --code folder"}),
        r"
  load failed in execute · attempt 1 of 1 · fault user
    the job ended with exit code 3
    exit code   3
    downstream  report did not start
    next        fix the file, then: pinrail retry 0001 --code folder",
    );
    add(
        "what it needs has failed",
        "upstream-failed",
        scene.told(1, Some("report"), as_is),
        json!({"state": "upstream-failed", "jobs": [{"job": "load", "state": "failed"}]}),
        r"
  report did not start: load (failed)",
    );
    let mut scene = chain();
    let stop = Event::Stop { task: None, by: "anna".to_owned(), reason: Some("wrong day".to_owned()) };
    scene.apply(1, &stop).clean(1, 0);
    add(
        "a person stopped it at work",
        "cancelled",
        scene.told(1, Some("load"), as_is),
        json!({"failure": {"fault": "cancelled", "reason": "stopped"}, "next": "pinrail retry 0001"}),
        r"
  load was cancelled
    stopped by anna
    reason      wrong day
    next        pinrail retry 0001",
    );
    let mut scene = Scene::new(8);
    scene.add(
        1,
        "daily",
        json!([{"name": "load"}, {"name": "alarm", "after": ["load"], "run_if": "any_failed"}]),
        plain,
    );
    scene.admit().execute(1, 0).succeed(1, 0);
    add(
        "its trigger rule was not met",
        "skipped",
        scene.told(1, Some("alarm"), as_is),
        json!({"state": "skipped", "jobs": [{"job": "load", "state": "succeeded"}]}),
        r"
  alarm was skipped: load (succeeded)",
    );
    let mut scene = Scene::new(8);
    scene.add(1, "daily", one("load"), plain);
    let ending = pinrail_model::run::Ending::Succeeded;
    scene.apply(1, &Event::Mark { tasks: vec![0], ending, control: anna(Some("loaded by hand")) });
    add(
        "a person said that it succeeded",
        "ended",
        scene.told(1, Some("load"), as_is),
        json!({"state": "succeeded", "said": {"what": "marked", "by": "anna", "reason": "loaded by hand"}}),
        r"
  load succeeded
    marked by   anna at 2026-05-01T12:00:00.000000Z: loaded by hand",
    );
    let mut scene = Scene::new(8);
    scene.add(1, "daily", json!([{"name": "load"}, {"name": "mail", "after": ["load"]}]), plain).admit();
    scene.apply(1, &Event::Disable { tasks: vec![1], control: Some(anna(None)), by: "anna".to_owned() });
    scene.execute(1, 0).succeed(1, 0);
    add(
        "a person has switched it off",
        "ended",
        scene.told(1, Some("mail"), as_is),
        json!({"state": "disabled", "said": {"what": "switched-off", "by": "anna"}}),
        r"
  mail was switched off: it did not run
    off by      anna at 2026-05-01T12:00:00.000000Z",
    );
    let mut scene = chain();
    scene.runs.values().for_each(|run| assert_eq!(run.tasks.len(), 2));
    scene.apply(1, &Event::Lost { task: 0, epoch: scene.runs[&id(1)].tasks[0].epoch, by: Loss::Owner });
    let why =
        scene.told(1, Some("load"), |explanation| assert!(matches!(explanation.why, Why::WaitingToFinish { .. })));
    add(
        "the server died under it and cleanup waits for a slot",
        "waiting-to-finish",
        why,
        json!({"step": "cleanup"}),
        r"
  load waits for a worker slot for cleanup",
    );
    all
}
