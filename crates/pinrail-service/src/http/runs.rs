//! Runs: made below their project, read and acted upon by id.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use pinrail_model::document::Sha;
use pinrail_model::explain::{Explanation, Pace};
use pinrail_model::ids::{BackfillId, RunId};
use pinrail_model::names::{ProjectName, TargetName, TaskName, WorkflowName};
use pinrail_model::run::RunState;
use pinrail_model::seam::store::{Answer, CounterRow, FileRow, Query, Who};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::extract::{At, Body, Caller, Parameters, short_text};
use super::idempotency::OwnKey;
use super::page::{PageQuery, Wanted};
use super::stream::{last_event_id, run_events};
use crate::app::{App, RunRequest, RunsPage};
use crate::problem::Problem;
use crate::views::{self, Page, Run, RunLine};

/// How long a request may wait for the end of a run, in seconds.
const LONGEST_WAIT: u64 = 60;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::default()
        .routes(routes!(create_run))
        .routes(routes!(runs))
        .routes(routes!(run))
        .routes(routes!(run_tasks))
        .routes(routes!(cancel_run))
        .routes(routes!(retry_run))
        .routes(routes!(replay_run))
        .routes(routes!(drop_replay))
        .routes(routes!(follow_run))
        .routes(routes!(explain_run))
        .routes(routes!(run_pace))
        .routes(routes!(run_counters))
        .routes(routes!(run_files))
        .routes(routes!(run_file))
}

/// Makes a run of a workflow or of a one-off job.
#[utoipa::path(
    post, path = "/projects/{project}/runs", tag = "runs", security(("token" = ["operator"])),
    params(("project" = ProjectName, Path)),
    request_body(content = RunRequest, example = json!({"job": {"shell": ["echo", "hello"]}})),
    responses((status = 201, description = "The run", body = Run, headers(("Location", description = "Its path")))),
    extensions(("x-compiles" = json!(true)), ("x-codes" = json!([
        "bad-parameter", "bad-document", "executor-impossible", "job-not-found", "owner-gone", "parents-missing",
        "run-exists", "target-not-found", "target-protected", "version-not-found", "workflow-not-found", "wrong-state",
    ]))),
)]
async fn create_run(
    State(app): Shared,
    Caller(caller): Caller,
    At(project): At<ProjectName>,
    key: Option<Extension<OwnKey>>,
    Body(body): Body<RunRequest>,
) -> Result<Response, Problem> {
    let key = key.map(|Extension(OwnKey(key))| key);
    let stored = app.create_run(&caller, &project, body, key).await?;
    let location = format!("/api/v1/runs/{}", stored.run.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(views::run(&stored))).into_response())
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct RunsQuery {
    project: Option<ProjectName>,
    workflow: Option<WorkflowName>,
    /// Only runs at this target.
    target: Option<TargetName>,
    state: Option<RunState>,
    /// Only runs of this backfill.
    backfill: Option<BackfillId>,
    /// Where the page begins: `next` of the page before.
    cursor: Option<String>,
    /// Runs at most; 50 unless said otherwise.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// The one run that a reference means as people give it: an id, its last characters, `last`, `workflow@date`.
    find: Option<String>,
}

/// Lists the runs that the token can see, newest first.
#[utoipa::path(
    get, path = "/runs", tag = "runs", security(("token" = ["viewer"])), params(RunsQuery),
    responses((
        status = 200, body = Page<RunLine>,
        description = "A page of runs; with `find` the one run that is meant, with its tasks",
    )),
    extensions(("x-codes" = json!(["run-not-found"]))),
)]
async fn runs(
    State(app): Shared,
    Caller(caller): Caller,
    Parameters(query): Parameters<RunsQuery>,
) -> Result<Response, Problem> {
    if let Some(reference) = query.find {
        let stored = app.find_run(&caller, query.project, &reference).await?;
        return Ok(Json(Page { items: vec![views::run(&stored)], next: None }).into_response());
    }
    let wanted = PageQuery { cursor: query.cursor, limit: query.limit }.of("runs")?;
    let state = query.state.map(|state| state.name().to_owned());
    let one_more = u32::try_from(wanted.limit + 1).unwrap_or(u32::MAX);
    let page = RunsPage {
        project: query.project,
        workflow: query.workflow,
        target: query.target,
        state,
        backfill: query.backfill,
        before: wanted.after()?,
        limit: one_more,
    };
    let found = app.runs(&caller, page).await?;
    let lines = found.iter().map(|listed| views::run_line(&listed.run, &listed.state)).collect();
    Ok(Json(wanted.cut(lines, |run: &RunLine| run.id.to_string())).into_response())
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct WaitQuery {
    /// Seconds to wait for the run's end. Then the run is answered as it is.
    #[param(minimum = 0, maximum = 60)]
    wait: Option<u64>,
}

/// Reads a run.
#[utoipa::path(
    get, path = "/runs/{id}", tag = "runs", security(("token" = ["viewer"])),
    params(("id" = RunId, Path), WaitQuery),
    responses((status = 200, description = "The run", body = Run)),
)]
async fn run(
    State(app): Shared,
    Caller(caller): Caller,
    At(id): At<RunId>,
    Parameters(query): Parameters<WaitQuery>,
) -> Result<Json<Run>, Problem> {
    let stored = match query.wait {
        None => app.run(&caller, id).await?,
        Some(wait) => app.wait(&caller, id, checked_wait(wait)?).await?,
    };
    Ok(Json(views::run(&stored)))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct TasksQuery {
    /// Only this job with its instances, or one instance, as in `load[3]`.
    job: Option<TaskName>,
    /// Only what is in this state.
    #[param(value_type = Option<views::TaskState>)]
    state: Option<String>,
    /// Where the page begins: `next` of the page before.
    cursor: Option<String>,
    /// Tasks at most; 50 unless said otherwise.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
}

/// Lists the tasks of a run: its jobs, then the instances of mapped ones.
#[utoipa::path(
    get, path = "/runs/{id}/tasks", tag = "runs", security(("token" = ["viewer"])),
    params(("id" = RunId, Path), TasksQuery),
    responses((status = 200, description = "A page of tasks", body = Page<views::Task>)),
    extensions(("x-codes" = json!(["job-not-found"]))),
)]
async fn run_tasks(
    State(app): Shared,
    Caller(caller): Caller,
    At(id): At<RunId>,
    Parameters(query): Parameters<TasksQuery>,
) -> Result<Json<Page<views::Task>>, Problem> {
    let wanted = PageQuery { cursor: query.cursor, limit: query.limit }.of("tasks")?;
    let stored = app.run(&caller, id).await?;
    if let Some(job) = &query.job
        && !stored.tasks.iter().any(|task| task.name() == *job)
    {
        return Err(Problem::new("job-not-found", format!("job \"{job}\" not found in run \"{id}\"")));
    }
    if let Some(state) = query.state.as_deref().filter(|state| !views::TaskState::is_one(state)) {
        return Err(Problem::new("bad-parameter", format!("parameter \"state\": no task is ever \"{state}\"")));
    }
    let (after, limit) = (wanted.after()?, wanted.limit + 1);
    let found = views::tasks(&stored, query.job.as_ref(), query.state.as_deref(), after, limit);
    let Page { items, next } = wanted.cut(found, |(ix, _)| ix.to_string());
    Ok(Json(Page { items: items.into_iter().map(|(_, task)| task).collect(), next }))
}

/// How long a caller wants to wait, within the limit.
pub(super) fn checked_wait(seconds: u64) -> Result<Duration, Problem> {
    if seconds <= LONGEST_WAIT {
        return Ok(Duration::from_secs(seconds));
    }
    let detail = format!("parameter \"wait\": it must be from 0 to {LONGEST_WAIT}, not {seconds}");
    Err(Problem::new("bad-parameter", detail).hint("Ask again when the time is over, or follow /events."))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CancelBody {
    /// Only this job; none: the whole run.
    #[serde(default)]
    job: Option<TaskName>,
    #[serde(default)]
    reason: Option<String>,
}

/// Ends a run, or one job of it, before its time.
#[utoipa::path(
    post, path = "/runs/{id}/cancel", tag = "runs", security(("token" = ["operator"])),
    params(("id" = RunId, Path)), request_body(content = CancelBody, example = json!({"reason": "wrong day"})),
    responses((status = 200, description = "The run, which may still be ending", body = Run)),
    extensions(("x-codes" = json!(["bad-document", "job-not-found", "owner-gone", "wrong-state"]))),
)]
async fn cancel_run(
    State(app): Shared,
    Caller(caller): Caller,
    At(id): At<RunId>,
    Body(body): Body<CancelBody>,
) -> Result<Json<Run>, Problem> {
    let reason = body.reason.map(|reason| short_text("/reason", reason)).transpose()?;
    let stored = app.cancel(&caller, id, body.job, reason).await?;
    Ok(Json(views::run(&stored)))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RetryBody {
    /// Which jobs, as in `a`, `a+`, `+a`; none: those that did not succeed.
    #[serde(default)]
    jobs: Option<String>,
    /// Go on with this bundle's code; none: that of the run.
    #[serde(default)]
    bundle: Option<Sha>,
}

/// Runs what failed again, or what is selected.
#[utoipa::path(
    post, path = "/runs/{id}/retry", tag = "runs", security(("token" = ["operator"])),
    params(("id" = RunId, Path)), request_body(content = RetryBody, example = json!({})),
    responses((status = 200, description = "The run, which goes on", body = Run)),
    extensions(("x-compiles" = json!(true)), ("x-codes" = json!([
        "bad-document", "job-not-found", "owner-gone", "target-protected", "version-not-found", "workflow-not-found",
        "wrong-state",
    ]))),
)]
async fn retry_run(
    State(app): Shared,
    Caller(caller): Caller,
    At(id): At<RunId>,
    Body(body): Body<RetryBody>,
) -> Result<Json<Run>, Problem> {
    let stored = app.retry(&caller, id, body.jobs, body.bundle).await?;
    Ok(Json(views::run(&stored)))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReplayBody {
    /// Which jobs, as in `a`, `a+`, `+a`; none: those of the run.
    #[serde(default)]
    jobs: Option<String>,
}

/// Runs a run again from exactly what it was made of, at a target of its own.
///
/// What the jobs write goes to that target's tables alone; what they read and it lacks is read as the first run found it.
/// Side effects outside of tables happen again.
#[utoipa::path(
    post, path = "/runs/{id}/replay", tag = "runs", security(("token" = ["operator"])),
    params(("id" = RunId, Path)), request_body(content = ReplayBody, example = json!({"jobs": "daily_delays"})),
    responses((status = 201, description = "The new run", body = Run, headers(("Location", description = "Its path")))),
    extensions(("x-codes" = json!([
        "bad-bundle", "bad-document", "definition-errors", "job-not-found", "owner-gone", "parents-missing",
        "version-not-found", "wrong-state",
    ]))),
)]
async fn replay_run(
    State(app): Shared,
    Caller(caller): Caller,
    At(id): At<RunId>,
    Body(body): Body<ReplayBody>,
) -> Result<Response, Problem> {
    let stored = app.replay(&caller, id, body.jobs).await?;
    let location = format!("/api/v1/runs/{}", stored.run.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(views::run(&stored))).into_response())
}

/// What was dropped.
#[derive(Serialize, ToSchema)]
struct Dropped {
    /// How many there were.
    tables: usize,
}

/// Nothing but an empty object.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DropBody {}

/// Drops the tables that a replay has made.
#[utoipa::path(
    post, path = "/runs/{id}/replay/drop", tag = "runs", security(("token" = ["operator"])),
    params(("id" = RunId, Path)), request_body(content = DropBody, example = json!({})),
    responses((status = 200, description = "What was dropped", body = Dropped)),
    extensions(("x-codes" = json!(["wrong-state"]))),
)]
async fn drop_replay(
    State(app): Shared,
    Caller(caller): Caller,
    At(id): At<RunId>,
    Body(DropBody {}): Body<DropBody>,
) -> Result<Json<Dropped>, Problem> {
    Ok(Json(Dropped { tables: app.drop_replay(&caller, id).await? }))
}

/// Follows what happens to a run, until it has ended.
///
/// Server-sent events, numbered from 1; with the header `Last-Event-ID` those after that one.
#[utoipa::path(
    get, path = "/runs/{id}/events", tag = "runs", security(("token" = ["viewer"])),
    params(("id" = RunId, Path), ("Last-Event-ID" = Option<u64>, Header, description = "The last event that is known")),
    responses(
        (status = 200, description = "Events", body = String, content_type = "text/event-stream"),
        (status = 204, description = "The run has ended and there are no further events"),
    ),
    extensions(("x-codes" = json!(["bad-parameter"]))),
)]
async fn follow_run(
    State(app): Shared,
    Caller(caller): Caller,
    At(id): At<RunId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let stored = app.run(&caller, id).await?;
    run_events(app, &stored, last_event_id(&headers)?)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ExplainQuery {
    /// Only this job.
    job: Option<TaskName>,
    /// Where the page begins: `next` of the page before.
    cursor: Option<String>,
    /// Explanations at most; 50 unless said otherwise.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
}

/// Says of each job of a run why it is where it is, the most telling first.
///
/// Of the instances of mapped jobs only the most telling task of the run is among them; the others are asked for by name.
#[utoipa::path(
    get, path = "/runs/{id}/explain", tag = "runs", security(("token" = ["viewer"])),
    params(("id" = RunId, Path), ExplainQuery),
    responses((status = 200, description = "A page of explanations", body = Page<Explanation>)),
    extensions(("x-codes" = json!(["bad-document", "job-not-found", "owner-gone"]))),
)]
async fn explain_run(
    State(app): Shared,
    Caller(caller): Caller,
    At(id): At<RunId>,
    Parameters(query): Parameters<ExplainQuery>,
) -> Result<Json<Page<Explanation>>, Problem> {
    let wanted = PageQuery { cursor: query.cursor, limit: query.limit }.of("explanations")?;
    let items = app.explain(&caller, id, query.job).await?;
    wanted
        .page_in_order(items, |explanation| explanation.job.as_ref().map_or_else(String::new, ToString::to_string))
        .map(Json)
}

/// Says where the time of a run went, against its workflow's latest successful runs of the same jobs.
///
/// The jobs of its critical path, each with its time by part: waiting apart from work. Of a run that is under way: so far.
#[utoipa::path(
    get, path = "/runs/{id}/pace", tag = "runs", security(("token" = ["viewer"])),
    params(("id" = RunId, Path)),
    responses((status = 200, description = "How fast it was, and what made the difference", body = Pace)),
    extensions(("x-codes" = json!(["bad-document"]))),
)]
async fn run_pace(State(app): Shared, Caller(caller): Caller, At(id): At<RunId>) -> Result<Json<Pace>, Problem> {
    app.pace(&caller, id).await.map(Json)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct LeftQuery {
    /// False: without what instances of mapped jobs left, of which there may be thousands.
    instances: Option<bool>,
    /// Where the page begins: `next` of the page before.
    cursor: Option<String>,
    /// Items at most; 50 unless said otherwise.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
}

impl LeftQuery {
    fn page(self, list: &'static str) -> Result<Wanted, Problem> {
        PageQuery { cursor: self.cursor, limit: self.limit }.of(list)
    }
}

/// Lists the numbers that the attempts of a run left.
#[utoipa::path(
    get, path = "/runs/{id}/counters", tag = "runs", security(("token" = ["viewer"])),
    params(("id" = RunId, Path), LeftQuery),
    responses((status = 200, description = "A page of counters", body = Page<CounterRow>)),
)]
async fn run_counters(
    State(app): Shared,
    Caller(caller): Caller,
    At(id): At<RunId>,
    Parameters(query): Parameters<LeftQuery>,
) -> Result<Json<Page<CounterRow>>, Problem> {
    let without = query.instances == Some(false);
    let wanted = query.page("counters")?;
    let stored = app.run(&caller, id).await?;
    let mut items = match app.store.read(&Who::default(), Query::Counters { run: id }).await? {
        Answer::Counters(rows) => rows,
        _ => Vec::new(),
    };
    if without {
        let instances = stored.tasks.iter().filter(|task| task.instance.is_some());
        let attempts: BTreeSet<_> = instances.flat_map(|task| &task.attempts).map(|attempt| attempt.id).collect();
        items.retain(|row| !attempts.contains(&row.attempt));
    }
    Ok(Json(wanted.page(items, |row| format!("{}\0{}\0{}", row.attempt, row.group, row.name))))
}

/// Lists the files that the jobs of a run left for people.
#[utoipa::path(
    get, path = "/runs/{id}/files", tag = "runs", security(("token" = ["viewer"])),
    params(("id" = RunId, Path), LeftQuery),
    responses((status = 200, description = "A page of files", body = Page<FileRow>)),
)]
async fn run_files(
    State(app): Shared,
    Caller(caller): Caller,
    At(id): At<RunId>,
    Parameters(query): Parameters<LeftQuery>,
) -> Result<Json<Page<FileRow>>, Problem> {
    let without = query.instances == Some(false);
    let wanted = query.page("files")?;
    app.run(&caller, id).await?;
    let mut items = match app.store.read(&Who::default(), Query::Files(id)).await? {
        Answer::Files(rows) => rows,
        _ => Vec::new(),
    };
    items.retain(|row| !without || row.job.index().is_none());
    Ok(Json(wanted.page(items, |row| format!("{}\0{}", row.job, row.name))))
}

/// Reads a file that a job left.
#[utoipa::path(
    get, path = "/runs/{id}/files/{job}/{name}", tag = "runs", security(("token" = ["viewer"])),
    params(("id" = RunId, Path), ("job" = TaskName, Path), ("name" = String, Path, description = "The file's name")),
    responses((status = 200, description = "Its bytes", body = [u8], content_type = "application/octet-stream")),
    extensions(("x-codes" = json!(["file-not-found"]))),
)]
async fn run_file(
    State(app): Shared,
    Caller(caller): Caller,
    At((id, job, name)): At<(RunId, String, String)>,
) -> Result<Response, Problem> {
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
