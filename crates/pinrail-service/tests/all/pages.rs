//! Lists come in pages; walking them gives every item once.

use std::collections::BTreeSet;

use axum::http::Method;
use pinrail_service::tokens::Role;
use serde_json::{Value, json};

use crate::world::{World, text};

/// All items of a list, by pages of this size.
async fn walk(world: &World, path: &str, limit: usize) -> Vec<Value> {
    let joint = if path.contains('?') { '&' } else { '?' };
    let mut items = Vec::new();
    let mut cursor = String::new();
    loop {
        let answer = world.get(&format!("{path}{joint}limit={limit}{cursor}")).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let page = answer.json();
        let found = page["items"].as_array().unwrap();
        assert!(found.len() <= limit);
        items.extend(found.iter().cloned());
        let Some(next) = page["next"].as_str() else { return items };
        assert_eq!(found.len(), limit, "only the last page is short");
        cursor = format!("&cursor={next}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_is_walked_without_loss_or_doubles() {
    let world = World::new().await;
    let mut bundle = Value::Null;
    for project in ["a", "b", "c", "d", "e"] {
        let manifest = json!({"files": {}});
        bundle = world.post(&format!("/api/v1/projects/{project}/bundles"), &manifest).await.json()["sha"].clone();
        world.ended_run("a").await;
        world.token(Some(project), Role::Viewer, None).await;
    }
    let deployed = world.post("/api/v1/projects/a/deploys", &json!({"bundle": bundle})).await;
    assert_eq!(deployed.status, 200, "{}", deployed.text());
    let run = world.ended_run("a").await;
    let id = text(&run["id"]);
    let attempt = text(&run["tasks"][0]["attempts"][0]["id"]);
    for (path, at_least) in [
        ("/api/v1/projects".to_owned(), 5),
        ("/api/v1/projects/a/workflows".to_owned(), 1),
        ("/api/v1/runs?project=a".to_owned(), 6),
        (format!("/api/v1/runs/{id}/explain"), 1),
        (format!("/api/v1/runs/{id}/counters"), 1),
        (format!("/api/v1/runs/{id}/files"), 0),
        (format!("/api/v1/attempts/{attempt}/log"), 0),
        ("/api/v1/tokens".to_owned(), 6),
    ] {
        let whole = walk(&world, &path, 500).await;
        assert!(whole.len() >= at_least, "{path}: {whole:?}");
        for limit in [1, 2, 3] {
            assert_eq!(walk(&world, &path, limit).await, whole, "{path} by {limit}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_goes_on_behind_its_cursor_whatever_was_added_before_it() {
    let world = World::new().await;
    for _ in 0..3 {
        world.ended_run("a").await;
    }
    let first = world.get("/api/v1/runs?limit=2").await.json();
    let new = world.ended_run("a").await;
    let second = world.get(&format!("/api/v1/runs?limit=2&cursor={}", text(&first["next"]))).await.json();
    let ids: BTreeSet<&str> = [&first, &second]
        .into_iter()
        .flat_map(|page| page["items"].as_array().unwrap())
        .map(|run| text(&run["id"]))
        .collect();
    assert_eq!(ids.len(), 3);
    assert!(!ids.contains(text(&new["id"])));
    assert_eq!(second["next"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_comes_in_pages_of_frames() {
    let world = World::new().await;
    let run = world.run("a", "listen").await;
    for n in 1..=5 {
        world.say(&format!("line {n}\n"));
    }
    world.finish();
    let run = world.get(&format!("/api/v1/runs/{}?wait=60", text(&run["id"]))).await.json();
    let path = format!("/api/v1/attempts/{}/log", text(&run["tasks"][0]["attempts"][0]["id"]));
    let frames = walk(&world, &path, 2).await;
    let lines: Vec<&str> = frames.iter().map(|frame| text(&frame["text"])).collect();
    assert_eq!(lines, ["line 1\n", "line 2\n", "line 3\n", "line 4\n", "line 5\n"]);
    assert_eq!(walk(&world, &format!("{path}?after=3"), 1).await.len(), 2);
}

/// Found from the document, so that a list that is added is refused nothing.
#[tokio::test(flavor = "multi_thread")]
async fn cursors_and_limits_that_cannot_be_are_refused_by_every_list() {
    let world = World::new().await;
    world.ended_run("a").await;
    let run = world.ended_run("a").await;
    let (id, attempt) = (text(&run["id"]), text(&run["tasks"][0]["attempts"][0]["id"]));
    let foreign = world.get("/api/v1/runs?limit=1").await.json()["next"].clone();
    let other = hex::encode("projects a");
    let document = world.get("/api/v1/openapi.json").await.json();
    let mut lists = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let parameters = item["get"]["parameters"].as_array().cloned().unwrap_or_default();
        let answered = item["get"]["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].as_str();
        let is_list = answered.is_some_and(|schema| schema.contains("/Page_"));
        assert_eq!(is_list, parameters.iter().any(|p| p["name"] == "cursor"), "{path}");
        // Without an engine there are no tables to list.
        if !is_list || path.ends_with("/tables") {
            continue;
        }
        lists += 1;
        let thing = if path.contains("/attempts/") { attempt } else { id };
        let path = path.replace("{project}", "a").replace("{id}", thing);
        let last = if path.ends_with("/runs") { &other } else { text(&foreign) };
        for cursor in ["", "x", "00", "ff", &hex::encode("runs"), last] {
            let answer = world.ask(Method::GET, &format!("{path}?cursor={cursor}"), "").await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (400, "bad-cursor"),
                "{path} {cursor}: {}",
                answer.text()
            );
        }
        for limit in ["0", "501", "-1", "1.5", "x", ""] {
            let answer = world.ask(Method::GET, &format!("{path}?limit={limit}"), "").await;
            assert_eq!((answer.status, answer.code().as_str()), (400, "bad-parameter"), "{path} {limit}");
        }
    }
    assert!(lists >= 8, "{lists} lists");
}
