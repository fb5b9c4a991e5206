//! Who may do what: every operation of the document, with every kind of token. An operation that is added is checked
//! with the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request};
use pinrail_model::backfill::{Backfill, Order, Progress};
use pinrail_model::document::{Document, Sha};
use pinrail_model::ids::{Ids, TransitionId, fresh};
use pinrail_model::names::{ProjectName, WorkflowName};
use pinrail_model::run::Class;
use pinrail_model::schedule::{Fires, Schedule};
use pinrail_model::seam::store::{BackfillRow, Durability, FileRow, QueryRow, Transition, VersionRow, Write};
use pinrail_model::time::{Clock, Interval, Micros};
use pinrail_model::trigger::{Overrun, Trigger};
use pinrail_service::system::{SystemClock, SystemIds};
use pinrail_service::tokens::Role;
use serde_json::{Value, json};

use crate::world::{Answer, World, request, text};

/// The project whose things are asked for, and the one that the stranger belongs to.
const MINE: &str = "mine";
const OTHER: &str = "other";
const FILE: &str = "report.html";
const WORKFLOW: &str = "flights";
const SECRET: &str = "theirs_too";

/// An operation of the document.
struct Operation {
    method: Method,
    path: String,
    declared: Value,
}

impl Operation {
    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// The role that it needs; none: it is open.
    fn role(&self) -> Option<Role> {
        self.declared["security"][0]["token"][0].as_str().map(|role| role.parse().unwrap())
    }

    /// Whether it needs its role in every project.
    fn is_for_all(&self) -> bool {
        self.declared["x-every-project"] == true
    }

    /// Whether it is about one thing, and not about all that the caller can see.
    fn is_about_one(&self) -> bool {
        self.path.contains('{')
    }

    /// The request, about these things.
    fn request(&self, things: &Things, token: Option<&str>) -> Request<Body> {
        let mut path = self.path.clone();
        for parameter in self.declared["parameters"].as_array().into_iter().flatten() {
            if parameter["in"] == "path" {
                let name = text(&parameter["name"]);
                path = path.replace(&format!("{{{name}}}"), &things.value(&self.name(), name, &parameter["schema"]));
            }
        }
        let content = &self.declared["requestBody"]["content"];
        let body = match (&content["application/json"], content.is_null()) {
            (_, true) => Body::empty(),
            (Value::Null, _) => Body::from(things.blob.clone()),
            (json, _) => {
                assert!(!json["example"].is_null(), "{} has no example of its body", self.name());
                Body::from(json["example"].to_string())
            }
        };
        request(self.method.clone(), &path, token, body)
    }

    /// Whether the document says that the operation may answer so.
    fn check_documented(&self, answer: &Answer) {
        let code = answer.code();
        let declared = &self.declared["responses"][answer.status.to_string()];
        assert!(!declared.is_null(), "{} answers {} {code}, which is not documented", self.name(), answer.status);
        // Some things that are no problem have a code as well.
        if code.is_empty() || answer.status < 400 {
            return;
        }
        let codes =
            &declared["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"]["code"]["enum"];
        let codes = codes.as_array().unwrap_or_else(|| panic!("{} {declared}", self.name()));
        assert!(codes.contains(&json!(code)), "{} answers {code}, which is not documented", self.name());
    }
}

/// One of each kind of thing.
struct Things {
    run: String,
    attempt: String,
    job: String,
    token: String,
    query: String,
    backfill: String,
    blob: Vec<u8>,
}

impl Things {
    /// Makes them in a project.
    async fn make(world: &World) -> Self {
        let manifest = json!({"files": {}});
        let bundle = world.post(&format!("/api/v1/projects/{MINE}/bundles"), &manifest).await.json()["sha"].clone();
        let deployed = world.post(&format!("/api/v1/projects/{MINE}/deploys"), &json!({"bundle": bundle})).await;
        assert_eq!(deployed.status, 200, "{}", deployed.text());
        let run = world.ended_run(MINE).await;
        let task = &run["tasks"][0];
        let attempt = &task["attempts"][0]["id"];
        let blob = b"a file".to_vec();
        world.app.bundles.put(&blob).unwrap();
        let file = FileRow {
            run: text(&run["id"]).parse().unwrap(),
            attempt: text(attempt).parse().unwrap(),
            job: text(&task["name"]).parse().unwrap(),
            name: FILE.to_owned(),
            sha: Sha::of(&blob),
            size: blob.len() as u64,
        };
        let ids: &dyn Ids = &SystemIds;
        let query = QueryRow {
            id: fresh(ids),
            project: MINE.parse().unwrap(),
            state: "cancelled".to_owned(),
            created_at: Micros(0),
            data: json!({}),
        };
        let asked = query.id.to_string();
        let mut writes = vec![Write::File(file), Write::Query(Box::new(query))];
        let backfill = a_backfill();
        let id = backfill.id.to_string();
        writes.extend(a_workflow(text(&bundle).parse().unwrap()));
        writes.push(Write::Backfill(Box::new(BackfillRow { backfill, progress: Progress::default() })));
        let transition = Transition::new(fresh::<TransitionId>(ids), writes);
        world.app.store.commit(vec![transition], Durability::Waited).await.unwrap();
        let token = world.app.make_token("theirs", Some(MINE.parse().unwrap()), Role::Viewer, None).await.unwrap().0;
        let things = Self {
            run: text(&run["id"]).to_owned(),
            attempt: text(attempt).to_owned(),
            job: text(&task["name"]).to_owned(),
            token: token.id.to_string(),
            query: asked,
            backfill: id,
            blob,
        };
        things.set_secret(world).await;
        things
    }

    /// Sets the secret, again if an operation has removed it.
    async fn set_secret(&self, world: &World) {
        let path = format!("/api/v1/projects/{MINE}/secrets/{SECRET}");
        let set = world.ask(Method::PUT, &path, json!({"value": "a value"}).to_string()).await;
        assert_eq!(set.status, 200, "{}", set.text());
    }

    /// The value of a variable part of a path.
    fn value(&self, operation: &str, name: &str, schema: &Value) -> String {
        let kind = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next());
        match (kind, name) {
            (Some("ProjectName"), _) => MINE.to_owned(),
            (Some("RunId"), _) => self.run.clone(),
            (Some("BackfillId"), _) => self.backfill.clone(),
            (Some("WorkflowName"), _) => WORKFLOW.to_owned(),
            (Some("AttemptId"), _) => self.attempt.clone(),
            (Some("TokenId"), _) => self.token.clone(),
            (Some("QueryId"), _) => self.query.clone(),
            (Some("JobName" | "TaskName"), _) => self.job.clone(),
            (Some("SecretName"), _) => SECRET.to_owned(),
            (Some("ChannelName"), _) => "ops".to_owned(),
            (Some("Sha"), _) => Sha::of(&self.blob).to_string(),
            (_, "name") => FILE.to_owned(),
            _ => panic!("the matrix does not know what {name} of {operation} is"),
        }
    }
}

/// A deployed workflow with a schedule, under the name that the examples of the document use.
fn a_workflow(bundle: Sha) -> Vec<Write> {
    let project: ProjectName = MINE.parse().unwrap();
    let json = json!({
        "format": 1, "workflow": WORKFLOW, "source": {"file": "w.py", "line": 1},
        "schedule": {"kind": "interval", "every_seconds": 86_400},
        "jobs": [{"name": "daily_delays", "kind": "shell", "shell": ["true"]}],
    });
    let document = Document::read(&json).unwrap();
    let (document, version) = document.seal();
    let workflow: WorkflowName = WORKFLOW.parse().unwrap();
    let trigger = Trigger {
        project: project.clone(),
        workflow: workflow.clone(),
        target: None,
        version,
        bundle,
        schedule: Schedule::new(Fires::Every(86_400)),
        overrun: Overrun::default(),
        most_active: 1,
        params: BTreeMap::new(),
        param_types: BTreeMap::new(),
        notify: None,
        done_until: SystemClock::default().now().wall,
        paused: None,
        passed: Vec::new(),
        failed: None,
    };
    let row = VersionRow {
        project: project.clone(),
        workflow: workflow.clone(),
        version,
        bundle,
        document,
        created_at: Micros(0),
    };
    let versions = BTreeMap::from([(workflow, version)]);
    vec![
        Write::Version(row),
        Write::Activate { project, target: None, bundle, versions, keep: BTreeSet::new(), at: Micros(0) },
        Write::Trigger(Box::new(trigger)),
    ]
}

fn a_backfill() -> Backfill {
    Backfill {
        id: fresh(&SystemIds as &dyn Ids),
        project: MINE.parse().unwrap(),
        workflow: WORKFLOW.parse().unwrap(),
        target: None,
        version: Sha::of(b""),
        bundle: Sha::of(b""),
        by: "anna".to_owned(),
        created_at: Micros(0),
        class: Class::Backfill,
        tz: "UTC".to_owned(),
        jobs: None,
        params: BTreeMap::new(),
        param_types: BTreeMap::new(),
        executors: BTreeMap::new(),
        outside: BTreeMap::new(),
        order: Order::Newest,
        concurrency: 1,
        intervals: vec![Interval { start: Micros(0), end: Micros(1) }],
        done_before: Vec::new(),
    }
}

async fn operations(world: &World) -> Vec<Operation> {
    let document = world.get("/api/v1/openapi.json").await.json();
    let paths = document["paths"].as_object().unwrap().iter();
    let operations = paths.flat_map(|(path, item)| {
        item.as_object().unwrap().iter().map(|(method, declared)| Operation {
            method: Method::from_bytes(method.to_uppercase().as_bytes()).unwrap(),
            path: path.clone(),
            declared: declared.clone(),
        })
    });
    operations.filter(|operation| operation.role().is_some()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_needs_no_token_is_open() {
    let world = World::new().await;
    let document = world.get("/api/v1/openapi.json").await.json();
    let mut open: Vec<&String> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, item)| item.as_object().unwrap().values().any(|declared| declared["security"] == json!([{}])))
        .map(|(path, _)| path)
        .collect();
    open.sort();
    assert_eq!(open, ["/api/v1/openapi.json", "/docs/errors/{code}", "/healthz", "/metrics", "/readyz"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_good_token_every_operation_is_refused() {
    let world = World::new().await;
    let things = Things::make(&world).await;
    let expired = world.token(Some(MINE), Role::Admin, Some(Duration::ZERO)).await;
    let (row, revoked) = world.app.make_token("gone", Some(MINE.parse().unwrap()), Role::Admin, None).await.unwrap();
    let admin = world.app.authenticate(&world.admin).await.unwrap();
    world.app.revoke_token(&admin, row.id).await.unwrap();
    for operation in operations(&world).await {
        let missing = world.send(operation.request(&things, None)).await;
        assert_eq!((missing.status, missing.code().as_str()), (401, "token-missing"), "{}", operation.name());
        let mut refused = Vec::new();
        for token in ["pinrail_unknown", &expired, &revoked] {
            let answer = world.send(operation.request(&things, Some(token))).await;
            assert_eq!((answer.status, answer.code().as_str()), (401, "token-invalid"), "{}", operation.name());
            operation.check_documented(&answer);
            refused.push(answer.body);
        }
        assert!(refused.iter().all(|body| *body == refused[0]), "{}: the answers tell tokens apart", operation.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_needs_the_role_that_the_document_says() {
    let world = World::new().await;
    let things = Things::make(&world).await;
    for operation in operations(&world).await {
        let needed = operation.role().unwrap();
        for (role, name) in Role::ALL {
            // Made anew each time: an operation may have ended it.
            let token = world.token(Some(MINE), role, None).await;
            things.set_secret(&world).await;
            let answer = world.send(operation.request(&things, Some(&token))).await;
            operation.check_documented(&answer);
            let case = format!("{} as {name}: {} {}", operation.name(), answer.status, answer.text());
            if role < needed {
                assert_eq!((answer.status, answer.code().as_str()), (403, "role-too-low"), "{case}");
                let detail = answer.json()["detail"].clone();
                assert_eq!(detail, format!("this needs the role \"{needed}\"; the token has \"{name}\""));
            } else {
                // A token for one project makes none for another, whatever its role.
                let elsewhere = operation.path == "/api/v1/tokens" && operation.method == Method::POST;
                let refused = matches!(answer.status, 401 | 403 | 404);
                assert_eq!(refused, elsewhere || operation.is_for_all(), "{case}");
            }
        }
        things.set_secret(&world).await;
        let answer = world.send(operation.request(&things, Some(&world.admin))).await;
        operation.check_documented(&answer);
        assert!(!matches!(answer.status, 401 | 403 | 404), "{}: {}", operation.name(), answer.text());
    }
}

/// A foreign thing is answered with the very bytes that a missing thing is answered with: the same request goes to a
/// world that has it and to one that never had it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ones_own_looks_like_what_is_not_there() {
    let (world, empty) = (World::new().await, World::new().await);
    let things = Things::make(&world).await;
    let mine = [MINE, &things.run, &things.attempt, &things.token, "theirs"];
    for operation in operations(&world).await {
        for (role, name) in Role::ALL {
            let (here, there) =
                (world.token(Some(OTHER), role, None).await, empty.token(Some(OTHER), role, None).await);
            let answer = world.send(operation.request(&things, Some(&here))).await;
            let absent = empty.send(operation.request(&things, Some(&there))).await;
            operation.check_documented(&answer);
            let case = format!("{} as {name} of another project: {}", operation.name(), answer.text());
            assert_eq!(answer.status, absent.status, "{case}");
            if operation.is_about_one() {
                let hidden =
                    if role == Role::Admin { matches!(answer.status, 404) } else { matches!(answer.status, 403 | 404) };
                assert!(hidden, "{case}");
                assert_eq!(answer.body, absent.body, "{case}");
                assert_eq!(answer.headers, absent.headers, "{case}");
            } else {
                for known in mine {
                    assert!(!answer.text().contains(known), "{case} tells of {known}");
                }
            }
        }
    }
}

/// An admin of one project is no admin of all.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_makes_a_token_with_more_rights_than_their_own() {
    let world = World::new().await;
    world.post(&format!("/api/v1/projects/{MINE}/bundles"), &json!({"files": {}})).await;
    let admin = world.token(Some(MINE), Role::Admin, None).await;
    for (project, status) in [(Some(MINE), 201), (Some(OTHER), 404), (None, 403)] {
        let body = json!({"name": "ci", "role": "viewer", "project": project});
        let asked = request(Method::POST, "/api/v1/tokens", Some(&admin), body.to_string());
        assert_eq!(world.send(asked).await.status, status, "{project:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_do_not_reach_beyond_ones_own() {
    let (world, empty) = (World::new().await, World::new().await);
    let things = Things::make(&world).await;
    let (here, there) =
        (world.token(Some(OTHER), Role::Admin, None).await, empty.token(Some(OTHER), Role::Admin, None).await);
    let last = &things.run[things.run.len() - 4..];
    for query in [
        format!("project={MINE}"),
        format!("workflow={}", things.job),
        "state=succeeded".to_owned(),
        "find=last".to_owned(),
        format!("find={}", things.run),
        format!("find={last}"),
        format!("find={last}&project={MINE}"),
        format!("find={}@2013-01-01", things.job),
        format!("cursor={}", hex::encode(format!("runs {}", "run_7ZZZZZZZZZZZZZZZZZZZZZZZZZ"))),
    ] {
        let path = format!("/api/v1/runs?{query}");
        let answer = world.send(request(Method::GET, &path, Some(&here), Body::empty())).await;
        let absent = empty.send(request(Method::GET, &path, Some(&there), Body::empty())).await;
        assert_eq!((answer.status, answer.text()), (absent.status, absent.text()), "{query}");
    }
    // A filter that leads beyond is no filter less.
    let own = world.ended_run(OTHER).await;
    let path = format!("/api/v1/runs?project={MINE}");
    let mine = world.send(request(Method::GET, &path, Some(&here), Body::empty())).await.json();
    assert_eq!(mine["items"], json!([]), "{}", own["id"]);
    // Of what is in reach, only what is one's own.
    let tokens = world.send(request(Method::GET, "/api/v1/tokens", Some(&here), Body::empty())).await.json();
    assert!(tokens["items"].as_array().unwrap().iter().all(|token| token["project"] == OTHER), "{tokens}");
}
