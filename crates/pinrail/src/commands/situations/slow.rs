//! What made a run slower than the ones before.

use pinrail_model::explain::{Past, pace, parts};
use pinrail_model::run::Run;
use serde_json::{Value, json};

use super::Situation;
use super::scene::{Scene, at, id};

/// How long the parts of a run of `load` and, after it, `report` take, in seconds.
#[derive(Clone, Copy)]
struct Times {
    queued: u64,
    load: u64,
    /// An attempt of `load` that fails first.
    failed: u64,
    report: u64,
}

const USUAL: Times = Times { queued: 0, load: 60, failed: 0, report: 20 };

/// A run that ended, on a worker whose slots another run holds for as long as it is queued.
fn ended(times: Times, jobs: Value) -> Run {
    let mut scene = Scene::new(1);
    let mut second = 0;
    if times.queued > 0 {
        scene.add(9, "other", json!([{"name": "other"}]), |_| {}).admit().execute(9, 0);
    }
    scene.add(1, "daily", jobs, |_| {});
    if times.queued > 0 {
        second += times.queued;
        scene.until(second).succeed(9, 0);
    }
    scene.admit();
    if times.failed > 0 {
        second += times.failed;
        scene.execute(1, 0).until(second).fail(1, 0).clean(1, 0);
        second += 30;
        let epoch = scene.runs[&id(1)].tasks[0].epoch;
        let timer = pinrail_model::run::Timer::Backoff;
        scene.until(second).apply(1, &pinrail_model::run::Event::Elapsed { task: 0, epoch, timer }).admit();
    }
    let last = scene.runs[&id(1)].tasks.len();
    for (task, took) in [times.load, times.report, 5].into_iter().enumerate().take(last) {
        second += took;
        scene.execute(1, task).until(second).succeed(1, task).admit();
    }
    scene.runs.remove(&id(1)).expect("the run")
}

fn jobs() -> Value {
    json!([{"name": "load", "retries": 2, "retry_delay_seconds": 30}, {"name": "report", "after": ["load"]}])
}

fn past(run: &Run) -> Past {
    let seconds = run.ended_at.expect("it has ended").since(at(0)).as_secs_f64();
    let jobs = run.tasks.iter().map(|task| (task.job.clone(), parts(task, None, at(0)))).collect();
    Past { seconds, jobs }
}

/// What is said of a run, against so many earlier ones that took what is usual.
fn told(run: &Run, runs: usize) -> (Value, String) {
    let earlier = vec![past(&ended(USUAL, jobs())); runs];
    let pace = pace(run, Some(at(0)), &earlier, at(600));
    let document = serde_json::to_value(&pace).expect("a document");
    let text = super::super::pace::text(&document);
    (document, text)
}

pub fn slow() -> Vec<Situation> {
    let mut all = Vec::new();
    let mut add = |name, code, told, fields, text| all.push(Situation { name, code, fields, text, told });

    add(
        "a phase of one job took longer",
        "slow-work",
        told(&ended(Times { load: 300, ..USUAL }, jobs()), 20),
        json!({"seconds": 320.0, "usual_seconds": 80.0, "runs": 20, "is_slow": true, "job": "load", "part": "execute",
               "path": [{"job": "load", "seconds": 300.0, "usual_seconds": 60.0}, {"job": "report"}]}),
        r"
  run 0001 took 5 min, usually 80.0 s (median of 20 runs)
    difference  load worked longer (execute)
    path        load 5 min (+4 min, usually 60.0 s): execute 5 min
                report 20.0 s (usually 20.0 s): execute 20.0 s
    next        pinrail logs 0001 --job load",
    );
    add(
        "a job waited for a slot",
        "slow-waiting",
        told(&ended(Times { queued: 120, ..USUAL }, jobs()), 20),
        json!({"job": "load", "part": "queued", "is_slow": true,
               "path": [{"parts": [{"part": "queued", "seconds": 120.0, "usual_seconds": 0.0}]}]}),
        r"
  run 0001 took 3 min, usually 80.0 s (median of 20 runs)
    difference  load waited longer for a slot, a pool or a limit
    path        load 3 min (+2 min, usually 60.0 s): waiting for a slot 2 min, execute 60.0 s
                report 20.0 s (usually 20.0 s): execute 20.0 s",
    );
    add(
        "a job failed and was tried again",
        "slow-tries",
        told(&ended(Times { failed: 90, ..USUAL }, jobs()), 20),
        json!({"job": "load", "part": "failed", "path": [{"parts": [{"part": "backoff", "seconds": 30.0},
               {"part": "failed", "seconds": 90.0}, {"part": "execute", "seconds": 60.0}]}]}),
        r"
  run 0001 took 3 min, usually 80.0 s (median of 20 runs)
    difference  load failed and was tried again
    path        load 3 min (+2 min, usually 60.0 s): waiting to be tried again 30.0 s, failed attempts 90.0 s, execute 60.0 s
                report 20.0 s (usually 20.0 s): execute 20.0 s
    next        pinrail logs 0001 --job load --attempt 1",
    );
    let more = json!([{"name": "load"}, {"name": "report", "after": ["load"]}, {"name": "mail", "after": ["report"]}]);
    let mut long = ended(USUAL, more);
    long.ended_at = long.ended_at.map(|ended_at| ended_at.plus(std::time::Duration::from_secs(20)));
    add(
        "a job is new",
        "slow-new-job",
        told(&long, 8),
        json!({"job": "mail", "runs": 8}),
        r"
  run 0001 took 2 min, usually 80.0 s (median of 8 runs)
    difference  mail is new: no earlier run has it
    path        load 60.0 s (usually 60.0 s): execute 60.0 s
                report 20.0 s (usually 20.0 s): execute 20.0 s
                mail 5.0 s: execute 5.0 s
    next        pinrail logs 0001 --job mail",
    );
    let mut late = ended(USUAL, jobs());
    late.ended_at = late.ended_at.map(|ended_at| ended_at.plus(std::time::Duration::from_secs(60)));
    add(
        "no job took longer",
        "slow-between",
        told(&late, 20),
        json!({"job": null, "part": null}),
        r"
  run 0001 took 2 min, usually 80.0 s (median of 20 runs)
    difference  no one job: small differences, or the time between jobs
    path        load 60.0 s (usually 60.0 s): execute 60.0 s
                report 20.0 s (usually 20.0 s): execute 20.0 s",
    );
    add(
        "it took what is usual",
        "as-usual",
        told(&ended(USUAL, jobs()), 12),
        json!({"is_slow": false, "seconds": 80.0, "usual_seconds": 80.0, "p90_seconds": 80.0}),
        r"
  run 0001 took 80.0 s, usually 80.0 s (median of 12 runs)
    path        load 60.0 s (usually 60.0 s): execute 60.0 s
                report 20.0 s (usually 20.0 s): execute 20.0 s",
    );
    add(
        "it is the first",
        "no-history",
        told(&ended(USUAL, jobs()), 0),
        json!({"runs": 0, "usual_seconds": null, "is_slow": false}),
        r"
  run 0001 took 80.0 s, no earlier run of the same jobs succeeded, so nothing says what is usual
    path        load 60.0 s: execute 60.0 s
                report 20.0 s: execute 20.0 s",
    );
    all
}
