//! Whether the service lives, is ready, and what it counts.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::Method;

use crate::world::{World, request, text};

/// The figures by name and labels.
async fn figures(world: &World) -> BTreeMap<String, u64> {
    let answer = world.send(request(Method::GET, "/metrics", None, Body::empty())).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = answer.text();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_needs_no_token() {
    let world = World::new().await;
    for (path, said) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let answer = world.send(request(Method::GET, path, None, Body::empty())).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, said));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_those_of_this_process() {
    let world = World::new().await;
    let none = figures(&world).await;
    assert_eq!(none["pinrail_worker_slots"], 4);
    assert_eq!(none["pinrail_worker_slots_held"], 0);
    assert_eq!(none["pinrail_commits_total{durability=\"waited\"}"], 0);
    assert!(none["process_resident_memory_bytes"] > 1 << 20);
    assert!(none["process_open_fds"] > 2);
    let run = world.run("demo", "listen").await;
    world.say("begun\n");
    world.wait_for_text(&format!("/api/v1/runs/{}", text(&run["id"])), "executing").await;
    world.get("/nowhere").await;
    let some = figures(&world).await;
    assert_eq!(some["pinrail_runs{state=\"running\"}"], 1);
    assert_eq!(some["pinrail_tasks{state=\"executing\"}"], 1);
    assert_eq!(some["pinrail_worker_slots_held"], 1);
    assert!(some["pinrail_commits_total{durability=\"waited\"}"] > 0);
    let made = "pinrail_http_requests_total{method=\"POST\",path=\"/api/v1/projects/{project}/runs\",status=\"201\"}";
    assert_eq!(some[made], 1);
    assert_eq!(some["pinrail_http_requests_total{method=\"GET\",path=\"\",status=\"404\"}"], 1);
    world.finish();
    world.get(&format!("/api/v1/runs/{}?wait=60", text(&run["id"]))).await;
    let over = figures(&world).await;
    assert!(!over.keys().any(|name| name.starts_with("pinrail_runs")), "{over:?}");
    assert_eq!(over["pinrail_worker_slots_held"], 0);
}
