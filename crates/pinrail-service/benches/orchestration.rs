//! What `cargo xtask bench orchestration` measures inside a process: the service as it is served (owner, store in SQLite,
//! router, attempts), with jobs that end at once in place of processes. Each figure is a process of its own, which prints
//! one JSON object; `fill-...` makes state folders for a server that is measured from outside.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request};
use pinrail_model::document::{Document, ExecutorKind, Sha, canonical};
use pinrail_model::ids::{AttemptId, BackfillId, RunId, fresh};
use pinrail_model::names::{ProjectName, WorkflowName};
use pinrail_model::run::{Class, Executed, Graph, Phase, Report};
use pinrail_model::schedule::interval_at;
use pinrail_model::seam::exec::{
    Assignment, AttemptSink, Executor, Sandbox, SandboxCommand, SandboxError, SandboxOutput, Stretch,
};
use pinrail_model::seam::store::{
    Answer, BundleRow, Durability, NewRun, ProjectRow, Query, Reply, RunRow, Store, Transition, VersionRow, Who, Write,
};
use pinrail_model::time::{Clock, Micros};
use pinrail_model::trigger::Trigger;
use pinrail_service::app::App;
use pinrail_service::attempt::{AttemptParts, Attempts};
use pinrail_service::bundles::{Bundles, Manifest};
use pinrail_service::compile::Compiler;
use pinrail_service::environments::{Environments, environments_folder};
use pinrail_service::http::router;
use pinrail_service::owner::{self, OwnerParts};
use pinrail_service::queries::Queries;
use pinrail_service::system::{SystemClock, SystemIds};
use pinrail_service::vault::Vault;
use pinrail_service::workers::{LEASE, Workers};
use pinrail_store::SqliteStore;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tower::ServiceExt;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Moves that a task makes from its creation to its success: see the table of legal moves.
const MOVES: usize = 7;
/// Rows in one transition when a store is filled.
const AT_ONCE: usize = 10_000;

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let figures = runtime.block_on(async {
        match words.as_slice() {
            ["transitions", folder, runs, width] => transitions(Path::new(folder), runs.parse()?, width.parse()?).await,
            ["backfill", folder, runs] => backfill(Path::new(folder), runs.parse()?).await,
            ["storm", folder, schedules] => storm(Path::new(folder), schedules.parse()?).await,
            ["simulate", folder, workflows, jobs, hours] => {
                simulate(Path::new(folder), workflows.parse()?, jobs.parse()?, hours.parse()?).await
            }
            ["fill-workflows", folder, number] => fill_workflows(Path::new(folder), number.parse()?).await,
            ["fill-runs", folder, number] => fill_runs(Path::new(folder), number.parse()?).await,
            other => Err(format!("unknown measurement {other:?}").into()),
        }
    })?;
    println!("{figures}");
    // What is still under way in this process is of no interest.
    std::process::exit(0)
}

#[allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn now() -> Instant {
    Instant::now()
}

fn project() -> ProjectName {
    "bench".parse().unwrap_or_else(|_| unreachable!("it is a name"))
}

// What is measured.

/// State transitions a second: runs of a workflow whose jobs are all free to begin.
async fn transitions(folder: &Path, runs: usize, width: usize) -> Result<Value, Failure> {
    let document = workflow("wide", width, None);
    let service = Service::start(folder, 256, std::slice::from_ref(&document)).await?;
    let mut seconds = Vec::new();
    for round in 0..4 {
        let started = now();
        let mut ids = Vec::new();
        for run in 0..runs {
            let body = json!({"workflow": "wide", "at": day(round * runs + run)});
            let made = service.post("/projects/bench/runs", &body).await?;
            ids.push(made["id"].as_str().unwrap_or_default().to_owned());
        }
        for id in ids {
            let ended = service.ended(&id).await?;
            if ended["state"] != "succeeded" {
                return Err(format!("a run ended as {}", ended["state"]).into());
            }
        }
        // The first round warms up.
        if round > 0 {
            seconds.push(started.elapsed().as_secs_f64());
        }
    }
    let (seconds, moves) = (quantile(&seconds, 0.5), (runs * width * MOVES) as f64);
    Ok(json!({"per_second": moves / seconds, "tasks_per_second": (runs * width) as f64 / seconds}))
}

/// Seconds until a backfill is accepted, until all its runs were listed, and until all have rows, while runs are asked for beside it.
async fn backfill(folder: &Path, runs: usize) -> Result<Value, Failure> {
    let daily = json!({"kind": "cron", "cron": "0 0 * * *"});
    let documents = [workflow("daily", 1, Some(&daily)), workflow("other", 1, None)];
    let service = Arc::new(Service::start(folder, 64, &documents).await?);
    let stop = Arc::new(AtomicBool::new(false));
    let others = tokio::spawn(others(Arc::clone(&service), Arc::clone(&stop)));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let started = now();
    let wanted = json!({"workflow": "daily", "from": day(0), "to": day(runs - 1), "concurrency": 16});
    let made = service.post("/projects/bench/backfills", &wanted).await?;
    let accepted = started.elapsed().as_secs_f64();
    let id = made["id"].as_str().ok_or_else(|| format!("no backfill: {made}"))?;
    let backfill: BackfillId = id.parse().map_err(|_| format!("no id: {id}"))?;
    let listed = service.count(&format!("/runs?project=bench&backfill={id}"), runs).await?;
    if listed < runs {
        return Err(format!("only {listed} of {runs} runs are in the list").into());
    }
    let listed = started.elapsed().as_secs_f64();
    while service.rows_of(backfill).await? < runs {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let made = started.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs(2)).await;
    stop.store(true, Ordering::SeqCst);
    let delays = others.await??;
    Ok(json!({
        "accepted_seconds": accepted, "listed_seconds": listed, "made_seconds": made,
        "other_starts": delays.len(), "other_p50_seconds": quantile(&delays, 0.5), "other_p99_seconds": quantile(&delays, 0.99),
    }))
}

/// Asks for a run every 20 ms; gives the seconds from each request to the moment at which its job was begun.
async fn others(service: Arc<Service>, stop: Arc<AtomicBool>) -> Result<Vec<f64>, Failure> {
    let mut waiting = Vec::new();
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    while !stop.load(Ordering::SeqCst) {
        tick.tick().await;
        let (service, body) = (Arc::clone(&service), json!({"workflow": "other", "at": day(waiting.len())}));
        waiting.push(tokio::spawn(async move {
            let asked = now();
            let made = service.post("/projects/bench/runs", &body).await?;
            let id: RunId = made["id"].as_str().unwrap_or_default().parse().map_err(|_| "no id".to_owned())?;
            Ok::<_, Failure>((id, asked))
        }));
    }
    let mut delays = Vec::new();
    for asked in waiting {
        let (id, asked) = asked.await??;
        service.ended(&id.to_string()).await?;
        let begun = service.jobs.begun(id).ok_or("a run did not begin")?;
        delays.push(begun.saturating_duration_since(asked).as_secs_f64());
    }
    Ok(delays)
}

/// Seconds from the moment at which all schedules are due to the last of their jobs being begun. Nothing ends meanwhile.
async fn storm(folder: &Path, schedules: usize) -> Result<Value, Failure> {
    let clock = SystemClock::new();
    let lead = 5 + schedules as i64 / 5000;
    let due = (clock.now().wall.0 / 1_000_000 + lead) * 1_000_000;
    let at = Micros(due).to_utc().naive_utc();
    let once = json!({"kind": "once", "at": at});
    let documents: Vec<Value> = (0..schedules).map(|n| workflow(&format!("w{n:06}"), 1, Some(&once))).collect();
    // One slot is kept for what is about to finish.
    let slots = u32::try_from(schedules)? + 1;
    let service = Service::start(folder, slots, &documents).await?;
    if service.app.clock.now().wall >= Micros(due) {
        return Err("the schedules were due before they were known".into());
    }
    let wall = service.app.clock.now().wall;
    service.jobs.hold();
    tokio::time::sleep(Micros(due).since(wall)).await;
    let started = now();
    let started = started - service.app.clock.now().wall.since(Micros(due));
    let mut begun = service.jobs.all();
    while begun.len() < schedules && started.elapsed() < Duration::from_secs(30) {
        tokio::time::sleep(Duration::from_millis(5)).await;
        begun = service.jobs.all();
    }
    let delays: Vec<f64> = begun.iter().map(|at| at.saturating_duration_since(started).as_secs_f64()).collect();
    if delays.len() < schedules {
        return Err(format!("only {} of {schedules} jobs began", delays.len()).into());
    }
    Ok(json!({
        "last_seconds": delays.iter().copied().fold(0.0, f64::max),
        "p50_seconds": quantile(&delays, 0.5), "p99_seconds": quantile(&delays, 0.99),
    }))
}

/// Seconds that a simulation of seven days takes, asked for as a client does: workflows of so many jobs, each of which waits
/// for another and one in ten of which takes of a pool, every so many hours.
async fn simulate(folder: &Path, workflows: usize, jobs: usize, hours: usize) -> Result<Value, Failure> {
    let documents: Vec<Value> = (0..workflows)
        .map(|number| {
            // None of them fires while this is measured.
            let cron = format!("{} */{hours} * * *", number % 60);
            let schedule = json!({"kind": "cron", "cron": cron, "start": "2100-01-01"});
            let mut document = workflow(&format!("w{number:04}"), jobs, Some(&schedule));
            document["sla_seconds"] = json!(900.0);
            for (ix, job) in document["jobs"].as_array_mut().into_iter().flatten().enumerate() {
                if ix > 0 {
                    job["after"] = json!([format!("j{}", (ix - 1) / 3)]);
                }
                if ix % 10 == 0 {
                    job["pools"] = json!({format!("p{}", ix % 7): 1});
                }
            }
            document
        })
        .collect();
    let service = Service::start(folder, 64, &documents).await?;
    let pools: BTreeMap<String, u32> = (0..jobs).step_by(10).map(|ix| (format!("p{}", ix % 7), 40)).collect();
    let asked = json!({"days": 7, "from": "2100-01-04T00:00:00Z", "slots": 400, "pools": pools});
    let started = now();
    let found = service.post("/projects/bench/simulations", &asked).await?;
    let seconds = started.elapsed().as_secs_f64();
    if found["cut"] != false {
        return Err(format!("the simulation was cut at {}", found["until"]).into());
    }
    Ok(json!({"seconds": seconds, "jobs_a_day": found["attempts"].as_f64().unwrap_or_default() / 7.0}))
}

async fn fill_workflows(folder: &Path, number: usize) -> Result<Value, Failure> {
    let daily = |n: usize| json!({"kind": "cron", "cron": format!("{} {} * * *", n % 60, n / 60 % 24)});
    let documents: Vec<Value> = (0..number).map(|n| workflow(&format!("w{n:06}"), 2, Some(&daily(n)))).collect();
    let store = SqliteStore::open(folder)?;
    plant(&store, &documents).await?;
    Ok(json!({"workflows": number}))
}

/// Runs that are over, of a hundred workflows.
async fn fill_runs(folder: &Path, number: usize) -> Result<Value, Failure> {
    let documents: Vec<Value> = (0..100).map(|n| workflow(&format!("w{n:03}"), 1, None)).collect();
    let store = SqliteStore::open(folder)?;
    plant(&store, &documents).await?;
    let read: Vec<(Document, Sha)> = documents
        .iter()
        .map(|json| Ok((Document::read(json).map_err(|e| format!("{e:?}"))?, version(json))))
        .collect::<Result<_, Failure>>()?;
    let (clock, ids) = (SystemClock::new(), SystemIds);
    let mut made = 0;
    while made < number {
        let mut writes = Vec::with_capacity(AT_ONCE);
        for n in made..(made + AT_ONCE).min(number) {
            let (document, version) = &read[n % read.len()];
            let at = clock.now().wall;
            let new = NewRun {
                id: fresh(&ids),
                project: project(),
                target: None,
                workflow: document.workflow.clone(),
                version: *version,
                bundle: pinrail_service::bundles::sha(&Manifest::new()),
                class: Class::Interactive,
                one_off: false,
                job: None,
                interval: interval_at(None, Some(&day(n / read.len()).to_string()), at)?,
                tz: "UTC".to_owned(),
                params: BTreeMap::new(),
                param_types: BTreeMap::new(),
                outside: BTreeMap::new(),
                executors: BTreeMap::new(),
                by: "bench".to_owned(),
                jobs: None,
                unique_key: None,
                notify: None,
                replay_of: None,
            };
            let mut run = new.run(Graph::of_document(document, None)?, at);
            (run.started_at, run.ended_at) = (Some(at), Some(at));
            let state = if n % 10 == 0 { "failed" } else { "succeeded" };
            writes.push(Write::Run(Box::new(RunRow { run, state, unique_key: None })));
        }
        made += writes.len();
        commit(&store, writes).await?;
    }
    Ok(json!({"runs": number}))
}

/// The days from 1970 on.
fn day(number: usize) -> chrono::NaiveDate {
    chrono::NaiveDate::default() + chrono::Days::new(number as u64)
}

fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len() as f64 * part).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

// What it is measured on.

/// The document of a workflow of jobs that do not wait for each other.
fn workflow(name: &str, jobs: usize, schedule: Option<&Value>) -> Value {
    let jobs: Vec<Value> =
        (0..jobs).map(|n| json!({"name": format!("j{n}"), "kind": "shell", "shell": ["true"]})).collect();
    let mut document = json!({
        "format": 1, "workflow": name, "source": {"file": format!("workflows/{name}.py"), "line": 1}, "jobs": jobs,
    });
    if let Some(schedule) = schedule {
        document["schedule"] = schedule.clone();
    }
    document
}

fn version(document: &Value) -> Sha {
    Sha::of(canonical(document).as_bytes())
}

async fn commit(store: &dyn Store, writes: Vec<Write>) -> Result<(), Failure> {
    let replies = store.commit(vec![Transition::new(fresh(&SystemIds), writes)], Durability::Waited).await?;
    if replies == [Reply::Committed] { Ok(()) } else { Err(format!("the store said {replies:?}").into()) }
}

/// Makes workflows the deployed ones of the project, as a deploy does in the end.
async fn plant(store: &dyn Store, documents: &[Value]) -> Result<(), Failure> {
    let (at, bundle) = (SystemClock::new().now().wall, pinrail_service::bundles::sha(&Manifest::new()));
    commit(
        store,
        vec![
            Write::Project(ProjectRow { name: project(), folder: None, created_at: at }),
            Write::Bundle(BundleRow { project: project(), sha: bundle, manifest: Manifest::new(), created_at: at }),
        ],
    )
    .await?;
    let mut versions: BTreeMap<WorkflowName, Sha> = BTreeMap::new();
    for part in documents.chunks(AT_ONCE) {
        let mut writes = Vec::new();
        for json in part {
            let document = Document::read(json).map_err(|errors| format!("{errors:?}"))?;
            let (workflow, version) = (document.workflow.clone(), version(json));
            let row = VersionRow {
                project: project(),
                workflow: workflow.clone(),
                version,
                bundle,
                document: json.clone(),
                created_at: at,
            };
            writes.push(Write::Version(row));
            let (params, types) = (BTreeMap::new(), BTreeMap::new());
            let trigger = Trigger::of(&project(), None, &document, (version, bundle), at, params, types);
            writes.extend(trigger.map(|trigger| Write::Trigger(Box::new(trigger))));
            versions.insert(workflow, version);
        }
        commit(store, writes).await?;
    }
    let activate = Write::Activate { project: project(), target: None, bundle, versions, keep: BTreeSet::new(), at };
    commit(store, vec![activate]).await
}

/// A whole service in this process.
struct Service {
    app: Arc<App>,
    admin: String,
    router: Router,
    jobs: Arc<Jobs>,
}

impl Service {
    async fn start(state: &Path, slots: u32, documents: &[Value]) -> Result<Self, Failure> {
        let state = state.to_owned();
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&state)?);
        plant(store.as_ref(), documents).await?;
        let (clock, ids) = (Arc::new(SystemClock::new()), Arc::new(SystemIds));
        let bundles = Bundles::new(&state, clock.clone());
        let (handle, inputs) = owner::channel();
        let jobs = Arc::new(Jobs::default());
        let executor: Arc<dyn Executor> = Arc::clone(&jobs) as Arc<dyn Executor>;
        let attempts = Attempts::new(AttemptParts {
            state: state.clone(),
            tenancy: Default::default(),
            store: Arc::clone(&store),
            clock: clock.clone(),
            bundles: bundles.clone(),
            executors: HashMap::from([(ExecutorKind::Shell, executor)]),
            engine: None,
            catalog: None,
            interpreter: "python3".into(),
            environments: Environments::new(
                environments_folder(&state),
                "python3".into(),
                Arc::new(NoSandbox),
                clock.clone(),
                Default::default(),
            ),
            vault: Arc::new(Vault::new(&state)),
            workers: Workers::new(clock.clone(), LEASE),
            installation: "measured".to_owned(),
            kill_marked: |_, _| {},
        });
        let parts = OwnerParts { store: Arc::clone(&store), clock: clock.clone(), ids: ids.clone(), slots, only: None };
        let app = Arc::new(App {
            store,
            clock,
            ids,
            owner: handle.clone(),
            attempts: Arc::clone(&attempts),
            bundles,
            compiler: Compiler { sdk: state.clone(), cache: state.clone(), interpreter: "python3".into() },
            sandbox: Arc::new(NoSandbox),
            engine: None,
            catalog: None,
            queries: Queries::new(&state),
            sender: Arc::default(),
            state,
        });
        let admin = app.ensure_admin().await.map_err(|problem| problem.detail)?;
        owner::start(parts, attempts, handle, inputs).await?;
        Ok(Self { router: router(Arc::clone(&app)), app, admin, jobs })
    }

    async fn ask(&self, method: Method, path: &str, body: Body) -> Result<Value, Failure> {
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header("authorization", format!("Bearer {}", self.admin))
            .body(body)?;
        let answer = self.router.clone().oneshot(request).await?;
        let status = answer.status();
        let bytes = to_bytes(answer.into_body(), usize::MAX).await?;
        if !status.is_success() {
            return Err(format!("{path} was answered by {status}: {}", String::from_utf8_lossy(&bytes)).into());
        }
        Ok(serde_json::from_slice(&bytes)?)
    }

    async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.ask(Method::GET, path, Body::empty()).await
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.ask(Method::POST, path, body.to_string().into()).await
    }

    /// A run that has ended.
    async fn ended(&self, id: &str) -> Result<Value, Failure> {
        loop {
            let run = self.get(&format!("/runs/{id}?wait=60")).await?;
            if matches!(run["state"].as_str(), Some("succeeded" | "failed" | "cancelled")) {
                return Ok(run);
            }
        }
    }

    /// How many rows a backfill has.
    async fn rows_of(&self, backfill: BackfillId) -> Result<usize, Failure> {
        match self.app.store.read(&Who::default(), Query::BackfillCounts(backfill)).await? {
            Answer::BackfillCounts(counts) => Ok(counts.values().map(|count| *count as usize).sum()),
            _ => Ok(0),
        }
    }

    /// How many a list has, read page by page until there are so many.
    async fn count(&self, path: &str, most: usize) -> Result<usize, Failure> {
        let (mut count, mut cursor) = (0, String::new());
        loop {
            let page = self.get(&format!("{path}&limit=500{cursor}")).await?;
            count += page["items"].as_array().map_or(0, Vec::len);
            match page["next"].as_str() {
                Some(next) if count < most => cursor = format!("&cursor={next}"),
                _ => return Ok(count),
            }
        }
    }
}

/// Jobs that end at once, and remember when they were begun.
struct Jobs {
    begun: Mutex<HashMap<RunId, Instant>>,
    /// Who may end.
    open: Semaphore,
}

impl Default for Jobs {
    fn default() -> Self {
        Self { begun: Mutex::default(), open: Semaphore::new(Semaphore::MAX_PERMITS) }
    }
}

impl Jobs {
    /// From now on none ends.
    fn hold(&self) {
        self.open.forget_permits(Semaphore::MAX_PERMITS);
    }

    fn begun(&self, run: RunId) -> Option<Instant> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).get(&run).copied()
    }

    fn all(&self) -> Vec<Instant> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).values().copied().collect()
    }
}

#[async_trait]
impl Executor for Jobs {
    fn kind(&self) -> ExecutorKind {
        ExecutorKind::Shell
    }

    async fn run(&self, assignment: &Assignment, sink: &dyn AttemptSink) -> Stretch {
        if assignment.phases == [Phase::Cleanup] {
            return Stretch::Cleaned;
        }
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).entry(assignment.run).or_insert_with(now);
        sink.report(Report::PhaseStarted(Phase::Setup));
        sink.report(Report::PhaseEnded { phase: Phase::Setup, ok: true });
        sink.report(Report::PhaseStarted(Phase::Execute));
        let open = self.open.acquire().await;
        sink.report(Report::PhaseEnded { phase: Phase::Execute, ok: true });
        sink.report(Report::Executed(Executed::default()));
        sink.report(Report::PhaseStarted(Phase::Complete));
        sink.report(Report::PhaseEnded { phase: Phase::Complete, ok: true });
        drop(open);
        Stretch::Completed { outputs: BTreeMap::new() }
    }

    async fn stop(&self, _: AttemptId, _: Duration) {}
}

/// Nothing is compiled here.
struct NoSandbox;

#[async_trait]
impl Sandbox for NoSandbox {
    async fn run(&self, _: SandboxCommand) -> Result<SandboxOutput, SandboxError> {
        Err(SandboxError::Program("nothing is compiled here".to_owned()))
    }
}
