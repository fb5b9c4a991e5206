//! The same request with the same key is carried out once.

use axum::body::Body;
use axum::http::{Method, Request};
use pinrail_model::ids::{Ids, TransitionId, fresh};
use pinrail_model::seam::store::{Durability, Transition, Write};
use pinrail_service::system::SystemIds;
use pinrail_service::tokens::Role;
use serde_json::{Value, json};

use crate::world::{Answer, World, request};

const RUNS: &str = "/api/v1/projects/demo/runs";

fn keyed(path: &str, token: &str, key: &str, body: &Value) -> Request<Body> {
    let mut request = request(Method::POST, path, Some(token), body.to_string());
    request.headers_mut().insert("idempotency-key", key.parse().unwrap());
    request
}

fn replayed(answer: &Answer) -> bool {
    answer.headers.get("idempotency-replayed").is_some_and(|value| value == "true")
}

async fn runs(world: &World) -> usize {
    world.get("/api/v1/runs").await.json()["items"].as_array().unwrap().len()
}

/// Forgets the reply to a request, as a crash does before it is stored and retention long after.
async fn forget(world: &World, key: &str) {
    let admin = world.app.authenticate(&world.admin).await.unwrap();
    let drop = Write::DropIdempotency { principal: admin.id.to_string(), key: key.to_owned() };
    let ids: &dyn Ids = &SystemIds;
    let transition = Transition::new(fresh::<TransitionId>(ids), vec![drop]);
    world.app.store.commit(vec![transition], Durability::Waited).await.unwrap();
}

fn job() -> Value {
    json!({"job": {"shell": ["true"]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_reply_is_given_again() {
    let world = World::new().await;
    let first = world.send(keyed(RUNS, &world.admin, "k", &job())).await;
    assert_eq!((first.status, replayed(&first)), (201, false), "{}", first.text());
    let id = first.json()["id"].as_str().unwrap().to_owned();
    world.get(&format!("/api/v1/runs/{id}?wait=60")).await;
    let second = world.send(keyed(RUNS, &world.admin, "k", &job())).await;
    assert_eq!((second.status, replayed(&second)), (201, true));
    assert_eq!(second.body, first.body, "also when the run has gone on meanwhile");
    for header in ["content-type", "location"] {
        assert_eq!(second.headers[header], first.headers[header]);
    }
    assert_eq!(runs(&world).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_belongs_to_one_request_of_one_token() {
    let world = World::new().await;
    assert_eq!(world.send(keyed(RUNS, &world.admin, "k", &job())).await.status, 201);
    let other = json!({"job": {"shell": ["listen"]}});
    let refused = world.send(keyed(RUNS, &world.admin, "k", &other)).await;
    assert_eq!((refused.status, refused.code().as_str()), (422, "idempotency-mismatch"));
    let elsewhere = world.send(keyed("/api/v1/projects/other/runs", &world.admin, "k", &job())).await;
    assert_eq!(elsewhere.code(), "idempotency-mismatch");
    assert_eq!(runs(&world).await, 1);
    // The same name does not make the same caller.
    for _ in 0..2 {
        let token = world.token(Some("demo"), Role::Operator, None).await;
        let answer = world.send(keyed(RUNS, &token, "k", &job())).await;
        assert_eq!((answer.status, replayed(&answer)), (201, false));
    }
    assert_eq!(runs(&world).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_at_once_are_carried_out_once() {
    let world = World::new().await;
    let asked = (0..8).map(|_| world.send(keyed(RUNS, &world.admin, "k", &job())));
    let answers = futures::future::join_all(asked).await;
    assert!(answers.iter().all(|answer| answer.status == 201 && answer.body == answers[0].body));
    assert_eq!(answers.iter().filter(|answer| !replayed(answer)).count(), 1);
    assert_eq!(runs(&world).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_made_once_even_if_its_reply_was_never_stored() {
    let world = World::new().await;
    let made = world.send(keyed(RUNS, &world.admin, "k", &job())).await.json();
    // What a server that died before it stored the reply has left.
    forget(&world, "k").await;
    let answer = world.send(keyed(RUNS, &world.admin, "k", &job())).await;
    assert_eq!((answer.status, replayed(&answer)), (201, false), "{}", answer.text());
    assert_eq!(answer.json()["id"], made["id"]);
    assert_eq!(runs(&world).await, 1);
    // A key whose reply has been forgotten is free for another request, and never finds the old one's run.
    forget(&world, "k").await;
    let other = json!({"job": {"shell": ["true", "again"]}});
    let answer = world.send(keyed(RUNS, &world.admin, "k", &other)).await;
    assert_eq!((answer.status, replayed(&answer)), (201, false), "{}", answer.text());
    assert_ne!(answer.json()["id"], made["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_leaves_its_key_free() {
    let world = World::new().await;
    for wrong in [json!({"workflow": "none"}), json!({"jb": 1})] {
        assert!(world.send(keyed(RUNS, &world.admin, "k", &wrong)).await.status >= 400);
    }
    let answer = world.send(keyed(RUNS, &world.admin, "k", &job())).await;
    assert_eq!((answer.status, replayed(&answer)), (201, false), "{}", answer.text());
    for key in ["", &"x".repeat(256)] {
        assert_eq!(world.send(keyed(RUNS, &world.admin, key, &job())).await.code(), "bad-parameter");
    }
    assert_eq!(world.send(keyed(RUNS, "nobody", "k", &job())).await.code(), "token-invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_never_stored() {
    let world = World::new().await;
    let body = json!({"name": "ci", "role": "viewer"});
    let first = world.send(keyed("/api/v1/tokens", &world.admin, "k", &body)).await;
    assert_eq!(first.status, 201);
    let made = first.json();
    let second = world.send(keyed("/api/v1/tokens", &world.admin, "k", &body)).await;
    assert_eq!((second.status, second.code().as_str(), replayed(&second)), (409, "reply-not-kept", true));
    assert_eq!(second.json()["id"], made["id"]);
    let tokens = world.get("/api/v1/tokens").await.json();
    assert_eq!(tokens["items"].as_array().unwrap().iter().filter(|token| token["name"] == "ci").count(), 1);
    let database = world.state_bytes();
    let secret = made["token"].as_str().unwrap().as_bytes();
    assert!(!database.windows(secret.len()).any(|window| window == secret));
}
