//! The routes. Writes live under `/projects/{project}`, single things by id, actions are verbs at their end.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body as HttpBody, Bytes};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post, put};
use pinrail_model::document::Sha;
use pinrail_model::ids::{AttemptId, RunId, TokenId};
use pinrail_model::names::{JobName, ProjectName, WorkflowName};
use pinrail_model::seam::lake::{LakeError, ResultFormat, ResultSink};
use pinrail_model::seam::store::{Answer, Query, Who};
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{Body, Caller, Parameters, part};
use super::stream::{frame, last_event_id, log_events, run_events};
use crate::app::{App, RunRequest};
use crate::bundles::Manifest;
use crate::logs;
use crate::problem::Problem;
use crate::tokens::Role;
use crate::views;

type Answered = Result<Json<Value>, Problem>;
type Shared = State<Arc<App>>;

/// The largest JSON body.
const LARGEST_BODY: usize = 4 << 20;
/// The largest blob: a bundle's own limit.
const LARGEST_BLOB: usize = crate::bundles::LARGEST as usize;
/// How long a request may wait for the end of a run.
const LONGEST_WAIT: u64 = 60;
const PAGE: u32 = 50;
const LARGEST_PAGE: u32 = 500;

/// The whole API.
pub fn router(app: Arc<App>) -> Router {
    let blobs = Router::new()
        .route("/projects/{project}/blobs/{sha}", put(put_blob))
        .layer(DefaultBodyLimit::max(LARGEST_BLOB));
    let api = Router::new()
        .route("/projects", get(projects))
        .route("/projects/{project}/bundles", post(announce_bundle))
        .route("/projects/{project}/compilations", post(compile))
        .route("/projects/{project}/deploys", post(deploy))
        .route("/projects/{project}/workflows", get(workflows))
        .route("/projects/{project}/runs", post(create_run))
        .route("/projects/{project}/tables", get(tables))
        .route("/projects/{project}/queries", post(query))
        .route("/runs", get(runs))
        .route("/runs/{id}", get(run))
        .route("/runs/{id}/cancel", post(cancel))
        .route("/runs/{id}/retry", post(retry))
        .route("/runs/{id}/events", get(events))
        .route("/runs/{id}/explain", get(explain))
        .route("/runs/{id}/counters", get(counters))
        .route("/runs/{id}/files", get(files))
        .route("/runs/{id}/files/{job}/{name}", get(file))
        .route("/attempts/{id}", get(attempt))
        .route("/attempts/{id}/log", get(log))
        .route("/tokens", get(tokens).post(create_token))
        .route("/tokens/{id}/revoke", post(revoke_token))
        .merge(super::backup::routes())
        .merge(super::secrets::routes())
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .merge(blobs);
    Router::new()
        .nest("/api/v1", api)
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(app)
}

async fn not_found(request: axum::extract::Request) -> Problem {
    let path: String = request.uri().path().chars().take(200).collect();
    Problem::new("route-not-found", format!("there is nothing at \"{path}\"")).hint("The API is below /api/v1.")
}

async fn method_not_allowed(request: axum::extract::Request) -> Problem {
    Problem::new("method-not-allowed", format!("{} is not allowed here", request.method()))
}

/// Ready means that the database answers.
async fn ready(State(app): Shared) -> Result<&'static str, Problem> {
    app.store.read(&Who::default(), Query::Projects).await?;
    Ok("ready\n")
}

pub(super) fn project(text: &str) -> Result<ProjectName, Problem> {
    text.parse().map_err(|_| crate::tokens::project_not_found(&text.chars().take(80).collect::<String>()))
}

// Projects, bundles, workflows.

async fn projects(State(app): Shared, Caller(caller): Caller) -> Answered {
    Ok(Json(json!({"items": app.projects(&caller).await?, "next": null})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BundleBody {
    files: Manifest,
    /// The project's folder, for a server that shares its disk.
    #[serde(default)]
    folder: Option<String>,
}

async fn announce_bundle(
    State(app): Shared,
    Caller(caller): Caller,
    Path(name): Path<String>,
    Body(body): Body<BundleBody>,
) -> Answered {
    let (sha, missing) = app.announce_bundle(&caller, &project(&name)?, body.files, body.folder).await?;
    Ok(Json(json!({"sha": sha, "missing": missing})))
}

async fn put_blob(
    State(app): Shared,
    Caller(caller): Caller,
    Path((name, sha)): Path<(String, String)>,
    bytes: Bytes,
) -> Result<StatusCode, Problem> {
    let sha: Sha = sha.parse().map_err(|message: String| Problem::new("bad-bundle", message))?;
    app.put_blob(&caller, &project(&name)?, sha, bytes.to_vec()).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CodeBody {
    bundle: Sha,
    #[serde(default)]
    dry_run: bool,
}

async fn compile(
    State(app): Shared,
    Caller(caller): Caller,
    Path(name): Path<String>,
    Body(body): Body<CodeBody>,
) -> Answered {
    let compiled = app.compile(&caller, &project(&name)?, body.bundle).await?;
    Ok(Json(json!({"documents": compiled.documents, "diagnostics": compiled.diagnostics})))
}

async fn deploy(
    State(app): Shared,
    Caller(caller): Caller,
    Path(name): Path<String>,
    Body(body): Body<CodeBody>,
) -> Answered {
    let deployed = app.deploy(&caller, &project(&name)?, body.bundle, body.dry_run).await?;
    Ok(Json(serde_json::to_value(deployed).unwrap_or_default()))
}

async fn workflows(State(app): Shared, Caller(caller): Caller, Path(name): Path<String>) -> Answered {
    let items: Vec<Value> = app
        .workflows(&caller, &project(&name)?)
        .await?
        .into_iter()
        .map(|v| {
            json!({"name": v.workflow, "version": v.version, "bundle": v.bundle, "deployed_at": v.deployed_at, "document": v.document})
        })
        .collect();
    Ok(Json(json!({"items": items, "next": null})))
}

// Runs.

async fn create_run(
    State(app): Shared,
    Caller(caller): Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
    Body(body): Body<RunRequest>,
) -> Result<Response, Problem> {
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).map(str::to_owned);
    let stored = app.create_run(&caller, &project(&name)?, body, key).await?;
    let location = format!("/api/v1/runs/{}", stored.run.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(views::run(&stored))).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RunsQuery {
    project: Option<ProjectName>,
    workflow: Option<WorkflowName>,
    state: Option<String>,
    /// The id after which the page begins.
    cursor: Option<RunId>,
    limit: Option<u32>,
    /// A reference as people give it: last characters, `last`, `workflow@date`.
    find: Option<String>,
}

async fn runs(State(app): Shared, Caller(caller): Caller, Parameters(query): Parameters<RunsQuery>) -> Answered {
    if let Some(reference) = query.find {
        let stored = app.find_run(&caller, query.project, &reference).await?;
        return Ok(Json(json!({"items": [views::run(&stored)], "next": null})));
    }
    let limit = query.limit.unwrap_or(PAGE).clamp(1, LARGEST_PAGE);
    let found = app.runs(&caller, query.project, query.workflow, query.state, query.cursor, limit).await?;
    let next = if found.len() == limit as usize { found.last().map(|stored| stored.run.id) } else { None };
    let items: Vec<Value> = found.iter().map(views::run_line).collect();
    Ok(Json(json!({"items": items, "next": next})))
}

fn run_id(text: &str) -> Result<RunId, Problem> {
    part("run-not-found", "run", text)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WaitQuery {
    /// Seconds to wait for the run's end.
    wait: Option<u64>,
}

async fn run(
    State(app): Shared,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Parameters(query): Parameters<WaitQuery>,
) -> Answered {
    let id = run_id(&id)?;
    let stored = match query.wait {
        None => app.run(&caller, id).await?,
        Some(wait) => app.wait(&caller, id, Duration::from_secs(wait.min(LONGEST_WAIT))).await?,
    };
    Ok(Json(views::run(&stored)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CancelBody {
    #[serde(default)]
    job: Option<JobName>,
    #[serde(default)]
    reason: Option<String>,
}

async fn cancel(
    State(app): Shared,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Body(body): Body<CancelBody>,
) -> Answered {
    let stored = app.cancel(&caller, run_id(&id)?, body.job, body.reason).await?;
    Ok(Json(views::run(&stored)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RetryBody {
    #[serde(default)]
    jobs: Option<String>,
    /// Go on with this bundle's code; none: that of the run.
    #[serde(default)]
    bundle: Option<Sha>,
}

async fn retry(
    State(app): Shared,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Body(body): Body<RetryBody>,
) -> Answered {
    let stored = app.retry(&caller, run_id(&id)?, body.jobs, body.bundle).await?;
    Ok(Json(views::run(&stored)))
}

async fn events(
    State(app): Shared,
    Caller(caller): Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = run_id(&id)?;
    app.run(&caller, id).await?;
    Ok(run_events(app, id, last_event_id(&headers)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExplainQuery {
    job: Option<JobName>,
}

async fn explain(
    State(app): Shared,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Parameters(query): Parameters<ExplainQuery>,
) -> Answered {
    let items = app.explain(&caller, run_id(&id)?, query.job).await?;
    Ok(Json(json!({"items": items, "next": null})))
}

async fn counters(State(app): Shared, Caller(caller): Caller, Path(id): Path<String>) -> Answered {
    let id = run_id(&id)?;
    app.run(&caller, id).await?;
    let items = match app.store.read(&Who::default(), Query::Counters { run: id }).await? {
        Answer::Counters(rows) => rows,
        _ => Vec::new(),
    };
    Ok(Json(json!({"items": items, "next": null})))
}

async fn files(State(app): Shared, Caller(caller): Caller, Path(id): Path<String>) -> Answered {
    let id = run_id(&id)?;
    app.run(&caller, id).await?;
    let items = match app.store.read(&Who::default(), Query::Files(id)).await? {
        Answer::Files(rows) => rows,
        _ => Vec::new(),
    };
    Ok(Json(json!({"items": items, "next": null})))
}

async fn file(
    State(app): Shared,
    Caller(caller): Caller,
    Path((id, job, name)): Path<(String, String, String)>,
) -> Result<Response, Problem> {
    let id = run_id(&id)?;
    app.run(&caller, id).await?;
    let missing = || Problem::new("file-not-found", format!("run {id} has no file \"{name}\" of job \"{job}\""));
    let Answer::Files(rows) = app.store.read(&Who::default(), Query::Files(id)).await? else { return Err(missing()) };
    let row = rows.into_iter().find(|row| row.job.as_str() == job && row.name == name).ok_or_else(missing)?;
    let bytes = app.bundles.get(row.sha).map_err(|e| Problem::new("state-failed", e.to_string()))?;
    // What a job wrote is shown as a file, never run as a page of ours.
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CONTENT_DISPOSITION, "attachment"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, bytes).into_response())
}

// Attempts.

fn attempt_id(text: &str) -> Result<AttemptId, Problem> {
    part("attempt-not-found", "attempt", text)
}

async fn attempt(State(app): Shared, Caller(caller): Caller, Path(id): Path<String>) -> Answered {
    let found = app.attempt(&caller, attempt_id(&id)?).await?;
    let mut view = views::attempt(&found.attempt);
    view["run"] = json!(found.run);
    view["job"] = json!(found.job);
    Ok(Json(view))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogQuery {
    #[serde(default)]
    follow: bool,
    after: Option<u64>,
}

async fn log(
    State(app): Shared,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Parameters(query): Parameters<LogQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = attempt_id(&id)?;
    app.attempt(&caller, id).await?;
    let after = query.after.unwrap_or_else(|| last_event_id(&headers));
    if query.follow {
        return Ok(log_events(app, id, after));
    }
    let folder = app.attempts.logs();
    let frames = tokio::task::spawn_blocking(move || logs::read(&folder, id, after)).await;
    let frames = frames.map_err(|e| Problem::new("internal", e.to_string()))?;
    let items: Vec<Value> = frames.iter().map(frame).collect();
    Ok(Json(json!({"items": items, "next": null})).into_response())
}

// SQL.

async fn tables(State(app): Shared, Caller(caller): Caller, Path(name): Path<String>) -> Answered {
    let items = app.tables(&caller, &project(&name)?).await?;
    Ok(Json(json!({"items": items, "next": null})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QueryBody {
    sql: String,
    #[serde(default)]
    bundle: Option<Sha>,
    #[serde(default)]
    format: Option<ResultFormat>,
}

struct Whole(Vec<u8>);

#[async_trait]
impl ResultSink for Whole {
    async fn chunk(&mut self, bytes: Vec<u8>) -> Result<(), LakeError> {
        self.0.extend(bytes);
        Ok(())
    }
}

async fn query(
    State(app): Shared,
    Caller(caller): Caller,
    Path(name): Path<String>,
    Body(body): Body<QueryBody>,
) -> Result<Response, Problem> {
    let format = body.format.unwrap_or(ResultFormat::Json);
    let mut whole = Whole(Vec::new());
    let done = app.sql(&caller, &project(&name)?, body.sql, body.bundle, format, &mut whole).await?;
    let kind = match format {
        ResultFormat::Json => "application/json",
        ResultFormat::Csv => "text/csv",
        ResultFormat::Arrow => "application/vnd.apache.arrow.stream",
    };
    let bytes = if whole.0.is_empty() && format == ResultFormat::Json {
        serde_json::to_vec(&json!({"columns": done.columns, "rows": []})).unwrap_or_default()
    } else {
        whole.0
    };
    Ok(([(header::CONTENT_TYPE, kind)], HttpBody::from(bytes)).into_response())
}

// Tokens.

async fn tokens(State(app): Shared, Caller(caller): Caller) -> Answered {
    let items: Vec<Value> = app
        .tokens(&caller)
        .await?
        .into_iter()
        .map(|row| {
            json!({"id": row.id, "name": row.name, "project": row.project, "role": row.role,
                   "created_at": row.created_at, "expires_at": row.expires_at, "revoked_at": row.revoked_at})
        })
        .collect();
    Ok(Json(json!({"items": items, "next": null})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenBody {
    name: String,
    #[serde(default)]
    project: Option<ProjectName>,
    role: Role,
    #[serde(default)]
    expires_in_seconds: Option<u64>,
}

async fn create_token(
    State(app): Shared,
    Caller(caller): Caller,
    Body(body): Body<TokenBody>,
) -> Result<Response, Problem> {
    let lives = body.expires_in_seconds.map(Duration::from_secs);
    let (row, token) = app.create_token(&caller, &body.name, body.project, body.role, lives).await?;
    let view = json!({"id": row.id, "name": row.name, "project": row.project, "role": row.role,
                      "expires_at": row.expires_at, "token": token});
    Ok((StatusCode::CREATED, Json(view)).into_response())
}

async fn revoke_token(
    State(app): Shared,
    Caller(caller): Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let id: TokenId = part("token-not-found", "token", &id)?;
    app.revoke_token(&caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
