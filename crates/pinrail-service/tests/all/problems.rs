//! What is wrong with a request is told in the same way whatever is wrong: one test per kind.

use axum::body::Body;
use axum::http::{Method, Request};
use pinrail_model::document::Sha;
use pinrail_model::ids::{RunId, TransitionId};
use pinrail_model::seam::store::{Durability, Load, Reply, RunRow, Transition, Write};
use serde_json::{Value, json};

use crate::world::{Answer, World, request, text};

const RUNS: &str = "/api/v1/projects/demo/runs";

/// Checks that an answer is a problem document with this status and code, and gives it.
fn problem(answer: &Answer, status: u16, code: &str) -> Value {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{}", answer.text());
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    let problem = answer.json();
    assert_eq!(problem["type"], format!("/docs/errors/{code}"));
    assert_eq!(problem["title"], code.replace('-', " "));
    assert_eq!(problem["status"], status);
    assert!(problem["detail"].is_string() && problem["retryable"].is_boolean(), "{problem}");
    problem
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_routes_are_named() {
    let world = World::new().await;
    for path in ["/nope", "/api/v1/nope", "/api/v1/runs/", "/api", "/"] {
        let problem = problem(&world.get(path).await, 404, "route-not-found");
        assert_eq!(problem["detail"], format!("there is nothing at \"{path}\""));
    }
    problem(&world.get("/api/v1/runs/%ff").await, 404, "route-not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_type_of_a_problem_leads_to_its_page() {
    let world = World::new().await;
    let problem = world.get("/api/v1/runs/nope").await.json();
    let page = world.get(problem["type"].as_str().unwrap()).await;
    assert_eq!(page.text(), "run-not-found (HTTP status 404)\n\nThere is no such run that the token can see.\n");
    assert_eq!(world.get("/docs/errors/none").await.code(), "route-not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_method_is_told_the_right_ones() {
    let world = World::new().await;
    let answer = world.ask(Method::DELETE, "/api/v1/tokens", Body::empty()).await;
    let problem = problem(&answer, 405, "method-not-allowed");
    assert_eq!(answer.headers["allow"], "GET,HEAD,POST");
    assert_eq!(problem["hint"], "Allowed here: GET, POST.");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_json_is_told_its_line_and_column() {
    let world = World::new().await;
    let answer = world.ask(Method::POST, RUNS, "{\n  \"workflow\": w}").await;
    let problem = problem(&answer, 400, "bad-json");
    assert_eq!((&problem["line"], &problem["column"]), (&json!(2), &json!(15)), "{problem}");
    assert_eq!(problem["detail"], "the body is not JSON: expected value at line 2 column 15");
    let cut = world.ask(Method::POST, RUNS, "{\"workflow\": ").await;
    assert_eq!(cut.code(), "bad-json");
    let bytes = world.ask(Method::POST, RUNS, vec![b'{', 0xff, 0xfe]).await;
    assert_eq!(bytes.code(), "bad-json");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_taken_whatever_its_content_type() {
    let world = World::new().await;
    for kind in [None, Some("application/x-www-form-urlencoded"), Some("text/plain"), Some("nonsense")] {
        let mut request = request(Method::POST, RUNS, Some(&world.admin), "{\"job\": {\"shell\": [\"true\"]}}");
        if let Some(kind) = kind {
            request.headers_mut().insert("content-type", kind.parse().unwrap());
        }
        let answer = world.send(request).await;
        assert_eq!(answer.status, 201, "{kind:?}: {}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_is_told_the_limit() {
    let world = World::new().await;
    let large = format!("{{\"workflow\": \"{}\"}}", "x".repeat(5 << 20));
    let problem = problem(&world.ask(Method::POST, RUNS, large).await, 413, "too-large");
    assert_eq!(problem["detail"], "the body has more than 4194304 bytes (4 MiB)");
    assert_eq!(problem["limit"], 4 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_are_told_the_nearest_and_where_they_are() {
    let world = World::new().await;
    let first = problem(&world.post(RUNS, &json!({"workflw": "w"})).await, 400, "unknown-field");
    assert_eq!(first["hint"], "Did you mean \"workflow\"?");
    assert_eq!(first["pointer"], "/workflw");
    let manifest = json!({"files": {"a/b.py": {"sha": "00", "size": 1}}});
    let nested = problem(&world.post("/api/v1/projects/demo/bundles", &manifest).await, 400, "bad-request");
    assert_eq!(nested["pointer"], "/files/a~1b.py/sha", "{nested}");
    let value = problem(&world.post("/api/v1/tokens", &json!({"name": "x", "role": "admn"})).await, 400, "bad-request");
    assert_eq!(value["hint"], "Did you mean \"admin\"?");
    assert_eq!(value["detail"], "unknown value \"admn\" (at /role)");
    let missing = problem(&world.post("/api/v1/tokens", &json!({"name": "x"})).await, 400, "bad-request");
    assert_eq!(missing["detail"], "missing field `role`");
    for name in ["", &"x".repeat(1001)] {
        let body = json!({"name": name, "role": "viewer"});
        let text = problem(&world.post("/api/v1/tokens", &body).await, 400, "bad-request");
        assert_eq!(text["pointer"], "/name");
    }
    let list = problem(&world.post(RUNS, &json!([1])).await, 400, "bad-request");
    assert!(list["detail"].is_string());
    for (body, said) in [
        (json!({"job": {"shell": "echo"}}), "a list is wanted, not the text \"echo\" (at /job/shell)"),
        (json!({"job": {}}), "an object with exactly one field is wanted, not an object (at /job)"),
        (json!({"workflow": 3}), "a text is wanted, not integer `3` (at /workflow)"),
    ] {
        assert_eq!(problem(&world.post(RUNS, &body).await, 400, "bad-request")["detail"], said);
    }
    let twice = world.ask(Method::POST, RUNS, "{\"job\": {\"shell\": [\"a\"], \"shell\": [\"b\"]}}").await;
    let detail = problem(&twice, 400, "bad-json")["detail"].clone();
    assert!(
        detail.as_str().unwrap().starts_with("the body cannot be read: field \"shell\" is given twice"),
        "{detail}"
    );
    let large = world.ask(Method::POST, RUNS, "{\"params\": {\"x\": 1e400}}").await;
    assert_eq!(
        problem(&large, 400, "bad-json")["detail"],
        "the body cannot be read: number out of range at line 1 column 22"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_parameters_are_told_the_nearest_at_every_operation() {
    let world = World::new().await;
    let answer = world.get("/api/v1/runs?workfow=w").await;
    assert_eq!(problem(&answer, 400, "unknown-parameter")["hint"], "Did you mean \"workflow\"?");
    let document = world.get("/api/v1/openapi.json").await.json();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys().filter(|_| path.starts_with("/api/")) {
            let path = format!("{path}?nonsense=1").replace(['{', '}'], "");
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            problem(&world.ask(method, &path, Body::empty()).await, 400, "unknown-parameter");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_values_of_parameters_are_named() {
    let world = World::new().await;
    for (path, detail, hint) in [
        (
            "/api/v1/runs?limit=x",
            "parameter \"limit\": \"x\" is not a number that it can be",
            Some("Write a whole number."),
        ),
        (
            "/api/v1/runs?state=runing",
            "parameter \"state\": unknown value \"runing\"",
            Some("Did you mean \"running\"?"),
        ),
        ("/api/v1/runs?limit=1&limit=2", "parameter \"limit\" is given twice", None),
        ("/api/v1/runs?find=..%2F..", "", None),
    ] {
        let answer = world.get(path).await;
        if detail.is_empty() {
            problem(&answer, 404, "run-not-found");
            continue;
        }
        let problem = problem(&answer, 400, "bad-parameter");
        assert_eq!(problem["detail"], detail);
        assert_eq!(problem["hint"].as_str(), hint);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn things_that_are_not_there_are_named() {
    let world = World::new().await;
    for (path, code) in [
        ("/api/v1/runs/nope", "run-not-found"),
        ("/api/v1/runs/run_01ARZ3NDEKTSV4RRFFQ69G5FAV", "run-not-found"),
        ("/api/v1/attempts/att_01ARZ3NDEKTSV4RRFFQ69G5FAV/log", "attempt-not-found"),
        ("/api/v1/projects/a..b/workflows", "project-not-found"),
    ] {
        problem(&world.get(path).await, 404, code);
    }
    let run = world.ended_run("demo").await;
    let file = format!("/api/v1/runs/{}/files/a/none.html", run["id"].as_str().unwrap());
    problem(&world.get(&file).await, 404, "file-not-found");
    let workflow = world.post(RUNS, &json!({"workflow": "w"})).await;
    problem(&workflow, 404, "workflow-not-found");
    let ghost = world.post("/api/v1/projects/ghost/runs", &json!({"job": {"shell": ["true"]}})).await;
    problem(&ghost, 404, "project-not-found");
    let misspelt = world.post("/api/v1/projects/demp/runs", &json!({"job": {"shell": ["true"]}})).await;
    assert_eq!(problem(&misspelt, 404, "project-not-found")["hint"], "Did you mean \"demo\"?");
    let token = json!({"name": "ci", "role": "viewer", "project": "demp"});
    problem(&world.post("/api/v1/tokens", &token).await, 404, "project-not-found");
    let projects = world.get("/api/v1/projects").await.json();
    let projects: Vec<&Value> = projects["items"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(projects, ["demo", "flights"], "none was made");
    let token = world.post("/api/v1/tokens/tok_01ARZ3NDEKTSV4RRFFQ69G5FAV/revoke", &json!({})).await;
    problem(&token, 404, "token-not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_missing_or_bad_is_asked_for() {
    let world = World::new().await;
    for (header, code) in [
        (None, "token-missing"),
        (Some("Basic YTpi"), "token-missing"),
        (Some("Bearer"), "token-missing"),
        (Some("Bearer nope"), "token-invalid"),
        (Some("bearer pinrail_"), "token-invalid"),
    ] {
        let mut request = Request::builder().uri("/api/v1/runs");
        if let Some(header) = header {
            request = request.header("authorization", header);
        }
        let answer = world.send(request.body(Body::empty()).unwrap()).await;
        problem(&answer, 401, code);
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_now_says_why() {
    let world = World::new().await;
    let run = world.ended_run("demo").await;
    let cancel = format!("/api/v1/runs/{}/cancel", run["id"].as_str().unwrap());
    problem(&world.post(&cancel, &json!({})).await, 409, "wrong-state");
    let query = world.post("/api/v1/projects/demo/queries", &json!({"sql": "select 1"})).await;
    problem(&query, 501, "engine-missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_from_a_bundle_that_is_not_known_is_refused_before_a_run_is_made() {
    let world = World::new().await;
    let bundle = Sha::of(b"nowhere");
    let asked = world.post(RUNS, &json!({"job": {"shell": ["true"]}, "bundle": bundle})).await;
    let problem = problem(&asked, 400, "bad-bundle");
    assert_eq!(problem["detail"], format!("bundle {bundle} is not known"));
    assert_eq!(problem["hint"], "Send it first.");
    assert_eq!(world.get("/api/v1/runs").await.json()["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_workflow_cannot_be_read_is_told_and_the_server_goes_on() {
    let world = World::new().await;
    let run = world.ended_run("demo").await;
    let id: RunId = text(&run["id"]).parse().unwrap();
    let refused = world.post(&format!("/api/v1/runs/{id}/retry"), &json!({"jobs": "nope"})).await;
    problem(&refused, 400, "job-not-found");
    // As if the version that the run names had never been stored; what a refused command had loaded is not looked at.
    let mut stored = world.app.store.load(Load::One(id)).await.unwrap().remove(0);
    stored.run.version = Sha::of(b"gone");
    let row = RunRow { run: stored.run, state: "succeeded", unique_key: None };
    let changed = Transition::new(TransitionId::from_parts(1, 1), vec![Write::Run(Box::new(row))]);
    assert_eq!(world.app.store.commit(vec![changed], Durability::Waited).await.unwrap(), [Reply::Committed]);
    let problem = problem(&world.get(&format!("/api/v1/runs/{id}/explain")).await, 500, "bad-document");
    assert_eq!(problem["detail"], format!("version \"{}\" is not known", Sha::of(b"gone")));
    assert_eq!(world.ended_run("demo").await["state"], "succeeded");
}
