//! A whole service in this process, over a throw-away state folder: the real router, owner and store; scripted jobs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request};
use pinrail_model::document::ExecutorKind;
use pinrail_model::ids::AttemptId;
use pinrail_model::names::ProjectName;
use pinrail_model::run::{Executed, Phase, Report};
use pinrail_model::seam::exec::{
    Assignment, AttemptSink, Executor, Sandbox, SandboxCommand, SandboxEnd, SandboxError, SandboxOutput, Stream,
    Stretch,
};
use pinrail_model::seam::store::Store;
use pinrail_service::app::App;
use pinrail_service::attempt::{AttemptParts, Attempts};
use pinrail_service::bundles::{Bundles, Manifest};
use pinrail_service::compile::Compiler;
use pinrail_service::environments::{Environments, environments_folder};
use pinrail_service::http::router;
use pinrail_service::owner::{self, OwnerParts};
use pinrail_service::queries::Queries;
use pinrail_service::system::{SystemClock, SystemIds};
use pinrail_service::tokens::Role;
use pinrail_service::vault::Vault;
use pinrail_store::SqliteStore;
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};
use tower::ServiceExt;

/// A service with its admin's token.
pub struct World {
    pub app: Arc<App>,
    pub admin: String,
    router: Router,
    job: mpsc::UnboundedSender<Tell>,
    folder: tempfile::TempDir,
}

/// Known from the beginning: that of most tests, and that of the document's examples.
const PROJECTS: [&str; 2] = ["demo", "flights"];

/// What a job that listens does next.
enum Tell {
    Log(String),
    End,
}

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The code of a problem, empty for anything else.
    pub fn code(&self) -> String {
        let problem: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        problem["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl World {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().to_owned();
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&state).unwrap());
        let (clock, ids) = (Arc::new(SystemClock::new()), Arc::new(SystemIds));
        let bundles = Bundles::new(&state, clock.clone());
        let (handle, inputs) = owner::channel();
        let (job, told) = mpsc::unbounded_channel();
        let scripted: Arc<dyn Executor> = Arc::new(Scripted { told: Mutex::new(told) });
        let attempts = Attempts::new(AttemptParts {
            state: state.clone(),
            tenancy: Default::default(),
            store: Arc::clone(&store),
            clock: clock.clone(),
            bundles: bundles.clone(),
            executors: HashMap::from([(ExecutorKind::Shell, scripted)]),
            engine: None,
            catalog: None,
            interpreter: "python3".into(),
            environments: Environments::new(
                environments_folder(&state),
                "python3".into(),
                Arc::new(Printed),
                clock.clone(),
                Default::default(),
            ),
            vault: Arc::new(Vault::new(&state)),
            installation: "installed".to_owned(),
            kill_marked: |_, _| {},
        });
        let owner_parts =
            OwnerParts { store: Arc::clone(&store), clock: clock.clone(), ids: ids.clone(), slots: 4, only: None };
        let compiler = Compiler { sdk: state.clone(), cache: state.clone(), interpreter: "python3".into() };
        let app = Arc::new(App {
            store,
            clock,
            ids,
            owner: handle.clone(),
            attempts: Arc::clone(&attempts),
            bundles,
            compiler,
            sandbox: Arc::new(Printed),
            engine: None,
            catalog: None,
            queries: Queries::new(&state),
            sender: Arc::default(),
            state,
        });
        let admin = app.ensure_admin().await.unwrap();
        owner::start(owner_parts, attempts, handle, inputs).await.unwrap();
        let everywhere = app.authenticate(&admin).await.unwrap();
        for project in PROJECTS {
            app.announce_bundle(&everywhere, &project.parse().unwrap(), Manifest::new(), None).await.unwrap();
        }
        Self { router: router(Arc::clone(&app)), app, admin, job, folder }
    }

    /// A token for one project, or for all.
    pub async fn token(&self, project: Option<&str>, role: Role, lives: Option<Duration>) -> String {
        let project = project.map(|name| name.parse::<ProjectName>().unwrap());
        self.app.make_token("test", project, role, lives).await.unwrap().1
    }

    /// What the job `listen` logs next.
    pub fn say(&self, line: &str) {
        self.job.send(Tell::Log(line.to_owned())).unwrap();
    }

    /// Lets the job `listen` end.
    pub fn finish(&self) {
        self.job.send(Tell::End).unwrap();
    }

    /// Everything in the state database, its log included.
    pub fn state_bytes(&self) -> Vec<u8> {
        let files = ["state.db", "state.db-wal"].map(|name| std::fs::read(self.folder.path().join(name)).unwrap());
        files.concat()
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let (head, body) = self.open(request).await.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap().to_vec();
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }

    /// An answer whose body is still coming.
    pub async fn open(&self, request: Request<Body>) -> axum::response::Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    pub async fn ask(&self, method: Method, path: &str, body: impl Into<Body>) -> Answer {
        self.send(request(method, path, Some(&self.admin), body)).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, Body::empty()).await
    }

    /// Waits until an answer contains a text.
    pub async fn wait_for_text(&self, path: &str, wanted: &str) {
        for _ in 0..3000 {
            if self.get(path).await.text().contains(wanted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("waited in vain for {wanted:?} at {path}");
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask(Method::POST, path, body.to_string()).await
    }

    /// A run of a one-off command in a project, made by the admin.
    pub async fn run(&self, project: &str, command: &str) -> Value {
        self.post(&format!("/api/v1/projects/{project}/bundles"), &json!({"files": {}})).await;
        let made = self.post(&format!("/api/v1/projects/{project}/runs"), &json!({"job": {"shell": [command]}})).await;
        assert_eq!(made.status, 201, "{}", made.text());
        made.json()
    }

    /// A run that has ended.
    pub async fn ended_run(&self, project: &str) -> Value {
        let run = self.run(project, "true").await;
        self.get(&format!("/api/v1/runs/{}?wait=60", text(&run["id"]))).await.json()
    }
}

pub fn request(method: Method, path: &str, token: Option<&str>, body: impl Into<Body>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request.body(body.into()).unwrap()
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a text"))
}

/// Runs commands by their first word: `true` succeeds, `listen` does what it is told.
struct Scripted {
    told: Mutex<mpsc::UnboundedReceiver<Tell>>,
}

#[async_trait]
impl Executor for Scripted {
    fn kind(&self) -> ExecutorKind {
        ExecutorKind::Shell
    }

    async fn run(&self, assignment: &Assignment, sink: &dyn AttemptSink) -> Stretch {
        if assignment.phases == [Phase::Cleanup] {
            return Stretch::Cleaned;
        }
        sink.report(Report::PhaseStarted(Phase::Setup));
        sink.report(Report::PhaseEnded { phase: Phase::Setup, ok: true });
        sink.report(Report::PhaseStarted(Phase::Execute));
        if assignment.command == ["listen"] {
            let mut told = self.told.lock().await;
            while let Some(Tell::Log(line)) = told.recv().await {
                sink.log(Some(Phase::Execute), Stream::Stdout, line.as_bytes());
            }
        }
        sink.counter("user", "rows", 1.0, None);
        sink.report(Report::PhaseEnded { phase: Phase::Execute, ok: true });
        sink.report(Report::Executed(Executed::default()));
        sink.report(Report::PhaseStarted(Phase::Complete));
        sink.report(Report::PhaseEnded { phase: Phase::Complete, ok: true });
        Stretch::Completed { outputs: BTreeMap::new() }
    }

    async fn stop(&self, _: AttemptId, _: Duration) {}
}

/// A compiler that finds one workflow in whatever it is given.
struct Printed;

#[async_trait]
impl Sandbox for Printed {
    async fn run(&self, _: SandboxCommand) -> Result<SandboxOutput, SandboxError> {
        let document = json!({
            "format": 1, "workflow": "w", "source": {"file": "workflows/w.py", "line": 1},
            "jobs": [{"name": "a", "kind": "shell", "shell": ["true"]}],
        });
        let printed = json!({"workflows": [document], "diagnostics": []});
        Ok(SandboxOutput { end: SandboxEnd::Exit(0), stdout: printed.to_string().into_bytes(), stderr: Vec::new() })
    }
}
