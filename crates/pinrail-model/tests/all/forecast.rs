//! What schedules come to on a virtual clock: exact times of small scenes, and that large ones are the same each time.

use std::collections::BTreeMap;
use std::time::Duration;

use pinrail_model::document::Document;
use pinrail_model::simulation::{Fate, Forecast, LimitForecast, LimitKind, Scene, Workers, forecast, forecast_while};
use pinrail_model::time::Micros;
use serde_json::{Value, json};

fn at(text: &str) -> Micros {
    serde_json::from_value(json!(text)).unwrap()
}

fn document(name: &str, cron: &str, jobs: Value, more: Value) -> Document {
    let schedule = json!({"kind": "cron", "cron": cron, "tz": "UTC"});
    let mut document = json!({
        "format": 1, "workflow": name, "source": {"file": "workflows/w.py", "line": 1},
        "schedule": schedule, "jobs": jobs,
    });
    for (key, value) in more.as_object().unwrap() {
        document[key] = value.clone();
    }
    Document::read(&document).unwrap()
}

fn job(name: &str, more: Value) -> Value {
    let mut job = json!({"name": name, "kind": "shell", "shell": ["true"]});
    for (key, value) in more.as_object().unwrap() {
        job[key] = value.clone();
    }
    job
}

/// One week from a Monday on; all that is given takes so many seconds.
fn scene(documents: Vec<Document>, took: &[(&str, &str, u64)]) -> Scene {
    let mut durations: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for (workflow, job, seconds) in took {
        let of = durations.entry(workflow.parse().unwrap()).or_default();
        of.insert(job.parse().unwrap(), Duration::from_secs(*seconds));
    }
    Scene {
        project: "shop".parse().unwrap(),
        documents,
        took: durations,
        assumed: Duration::from_secs(60),
        pools: BTreeMap::new(),
        quota: None,
        workers: vec![Workers { slots: 9, labels: Default::default() }],
        from: at("2024-05-06T00:00:00Z"),
        until: at("2024-05-13T00:00:00Z"),
        most_told: 1000,
    }
}

fn limit<'a>(found: &'a Forecast, kind: LimitKind, name: Option<&str>) -> &'a LimitForecast {
    found.limits.iter().find(|limit| limit.kind == kind && limit.name.as_deref() == name).unwrap()
}

/// Two daily workflows share a pool; the second of them has 90 minutes.
fn shop() -> Scene {
    let pooled = json!({"pools": {"orders": 1}});
    let documents = vec![
        document("report", "0 6 * * *", json!([job("ask", pooled.clone())]), json!({"sla_seconds": 5400.0})),
        document("load", "0 6 * * *", json!([job("copy", pooled)]), json!({})),
    ];
    let mut scene = scene(documents, &[("load", "copy", 3600), ("report", "ask", 3000)]);
    scene.pools.insert("orders".parse().unwrap(), 1);
    scene
}

#[test]
fn two_workflows_that_share_a_pool_of_one_slot_wait_for_each_other() {
    let found = forecast(&shop());
    assert_eq!((found.run_count, found.attempts, found.cut), (14, 14, false));
    let pool = limit(&found, LimitKind::Pool, Some("orders"));
    assert_eq!((pool.waits, pool.most_waiting, pool.most_taken, pool.capacity), (7, 1, 1, Some(1)));
    // The copy goes first, because it takes longer.
    assert_eq!(pool.waited_seconds, 7.0 * 3600.0);
    assert_eq!(pool.busy, Some(7.0 * 6600.0 / (7.0 * 86_400.0)));
    let longest = pool.longest.as_ref().unwrap();
    assert_eq!((longest.seconds, longest.job.as_str(), longest.workflow.as_str()), (3600.0, "ask", "report"));
    assert_eq!((longest.since, longest.goes_on), (at("2024-05-06T06:00:00Z"), false));
    assert_eq!((pool.hours[6].taken, pool.hours[6].most_waiting), (1.0, 1));
    assert_eq!((pool.hours[7].taken, pool.hours[7].most_waiting), (3000.0 / 3600.0, 0));
    assert_eq!(limit(&found, LimitKind::Slots, None).waits, 0);
    // 06:00 and an hour of waiting and 50 minutes, where 07:30 was due.
    assert_eq!((found.missed_count, found.missed.len()), (7, 7));
    let missed = &found.missed[0];
    assert_eq!((missed.workflow.as_str(), missed.due_at), ("report", at("2024-05-06T07:30:00Z")));
    assert_eq!((missed.late_seconds, missed.fate), (Some(1200.0), Fate::Succeeded));
    let run = found.runs.iter().find(|run| run.workflow.as_str() == "report").unwrap();
    assert_eq!((run.began_at, run.ended_at), (Some(at("2024-05-06T06:00:00Z")), Some(at("2024-05-06T07:50:00Z"))));
    assert_eq!(run.waited_seconds, 3600.0);
}

#[test]
fn a_second_slot_removes_the_waiting_and_the_missed_slas() {
    let mut scene = shop();
    scene.pools.insert("orders".parse().unwrap(), 2);
    let found = forecast(&scene);
    let pool = limit(&found, LimitKind::Pool, Some("orders"));
    assert_eq!((pool.waits, pool.most_waiting, pool.most_taken, pool.waited_seconds), (0, 0, 2, 0.0));
    assert_eq!(found.missed_count, 0);
    assert!(found.workflows.iter().all(|workflow| workflow.succeeded == 7 && workflow.longest_seconds <= 3600.0));
}

#[test]
fn what_waits_for_a_slot_of_a_worker_is_told_apart_from_what_waits_for_a_pool() {
    let mut scene = shop();
    // One of the two slots is kept for what finishes.
    scene.workers[0].slots = 2;
    let found = forecast(&scene);
    let (slots, pool) = (limit(&found, LimitKind::Slots, None), limit(&found, LimitKind::Pool, Some("orders")));
    assert_eq!((slots.waits, slots.waited_seconds), (7, 7.0 * 3600.0));
    assert_eq!((pool.waits, pool.waited_seconds), (0, 0.0));
}

#[test]
fn a_pool_that_nobody_has_set_holds_its_jobs_to_the_end() {
    let mut scene = shop();
    scene.pools.clear();
    let found = forecast(&scene);
    let pool = limit(&found, LimitKind::Pool, Some("orders"));
    assert_eq!((pool.capacity, pool.busy, pool.waits, pool.most_waiting), (None, None, 14, 14));
    assert!(pool.longest.as_ref().is_some_and(|longest| longest.goes_on));
    assert!(found.workflows.iter().all(|workflow| workflow.unfinished == 7));
    let last = found.missed.last().unwrap();
    assert_eq!((last.fate, last.late_seconds), (Fate::Unfinished, Some(16.5 * 3600.0)));
}

#[test]
fn overrun_policies_decide_as_they_do_in_earnest() {
    let found = |overrun: &str| {
        let hourly = document("w", "0 * * * *", json!([job("a", json!({}))]), json!({"overrun": overrun}));
        let mut scene = scene(vec![hourly], &[("w", "a", 5400)]);
        scene.until = at("2024-05-06T06:00:00Z");
        forecast(&scene)
    };
    let counts = |found: &Forecast| {
        let w = &found.workflows[0];
        (w.fires, w.succeeded, w.cancelled, w.unfinished, w.passed_over, w.delayed)
    };
    assert_eq!(counts(&found("start-new")), (6, 5, 0, 1, 0, 0));
    // It runs from 0 to 1:30, so that 1 is passed over, and so on.
    let skipped = found("skip");
    assert_eq!(counts(&skipped), (6, 3, 0, 0, 3, 0));
    assert_eq!((skipped.runs[1].fate, skipped.runs[1].fire_at), (Fate::PassedOver, at("2024-05-06T01:00:00Z")));
    let delayed = found("delay");
    assert_eq!(counts(&delayed), (6, 3, 0, 3, 0, 3));
    assert_eq!(delayed.workflows[0].longest_delay_seconds, 5400.0);
    assert_eq!(counts(&found("abort-running")), (6, 0, 5, 1, 0, 0));
}

#[test]
fn jobs_go_in_their_order_and_what_is_assumed_is_named() {
    let jobs = json!([
        job("a", json!({"wait_for": [{"that": {"kind": "file", "path": "x"}}]})),
        job("b", json!({"after": ["a"]})),
        job("c", json!({"after": ["a"], "timeout_seconds": 100.0})),
    ]);
    let found =
        forecast(&scene(vec![document("w", "0 6 * * *", jobs, json!({}))], &[("w", "a", 600), ("w", "c", 200)]));
    let assumed: Vec<&str> = found.assumed.iter().map(|of| of.job.as_str()).collect();
    assert_eq!((assumed, found.assumed_seconds), (vec!["b"], 60.0));
    assert_eq!(found.conditions_met[0].job.as_str(), "a");
    // What takes longer than its own limit fails.
    assert_eq!((found.workflows[0].failed, found.runs[0].fate), (7, Fate::Failed));
    assert_eq!(found.runs[0].ended_at, Some(at("2024-05-06T06:11:40Z")));
}

#[test]
fn a_forecast_is_the_same_each_time() {
    let documents = (0..40).map(|number| {
        let jobs: Vec<Value> = (0..10)
            .map(|ix| {
                let after: Vec<String> =
                    (0..ix).filter(|parent| (ix + parent) % 3 == 0).map(|p| format!("j{p}")).collect();
                job(&format!("j{ix}"), json!({"after": after, "pools": {"p": 1 + ix % 2}, "key": "{{ ds }}"}))
            })
            .collect();
        document(
            &format!("w{number}"),
            &format!("{} */2 * * *", number % 7),
            json!(jobs),
            json!({"sla_seconds": 900.0}),
        )
    });
    let mut scene = scene(documents.collect(), &[]);
    scene.pools.insert("p".parse().unwrap(), 5);
    scene.until = at("2024-05-07T00:00:00Z");
    let found = forecast(&scene);
    assert_eq!(found, forecast(&scene));
    let key = limit(&found, LimitKind::Key, None);
    assert!(key.waits > 0 && key.most_taken > 0, "{key:?}");
    let waited: f64 = found.runs.iter().map(|run| run.waited_seconds).sum();
    let at_limits: f64 = found.limits.iter().map(|limit| limit.waited_seconds).sum();
    assert!((waited - at_limits).abs() < 0.001, "{waited} {at_limits}");
}

#[test]
fn nothing_is_played_for_nobody() {
    let cut = forecast_while(&shop(), &|| false);
    assert_eq!((cut.cut, cut.attempts, cut.until), (true, 0, shop().from));
    assert!(!forecast_while(&shop(), &|| true).cut);
}
