//! What people do to runs and to wholes: marks, holds, switches, other code, limits.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Json;
use pinrail_model::admit::Scope;
use pinrail_model::document::Sha;
use pinrail_model::ids::RunId;
use pinrail_model::names::{ProjectName, WorkflowName};
use pinrail_model::run::{Control, Ending};
use pinrail_model::seam::store::{LimitName, LimitSet};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::backfills::ReasonBody;
use super::extract::{At, Body, Caller, Parameters, short_text};
use super::page::PageQuery;
use crate::app::App;
use crate::problem::Problem;
use crate::views::{self, Page, Run};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::default()
        .routes(routes!(mark_run))
        .routes(routes!(hold_run))
        .routes(routes!(release_run))
        .routes(routes!(disable_jobs))
        .routes(routes!(enable_jobs))
        .routes(routes!(reload_run))
        .routes(routes!(holds))
        .routes(routes!(hold_platform))
        .routes(routes!(release_platform))
        .routes(routes!(hold_project))
        .routes(routes!(release_project))
        .routes(routes!(limits))
        .routes(routes!(set_limit))
}

fn short(reason: Option<String>) -> Result<Option<String>, Problem> {
    reason.map(|reason| short_text("/reason", reason)).transpose()
}

/// What a person may say became of a job.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
enum Marked {
    Succeeded,
    Failed,
    Skipped,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MarkBody {
    /// Which jobs, as in `a`, `a+`, `+a`.
    jobs: String,
    state: Marked,
    #[serde(default)]
    reason: Option<String>,
}

/// Says what became of jobs of a run, whether they ran or not. What waits for them goes on accordingly.
#[utoipa::path(
    post, path = "/runs/{id}/mark", tag = "runs", security(("token" = ["operator"])),
    params(("id" = RunId, Path)),
    request_body(content = MarkBody, example = json!({"jobs": "load", "state": "succeeded", "reason": "done by hand"})),
    responses((status = 200, description = "The run", body = Run)),
    extensions(("x-codes" = json!(["bad-document", "job-not-found", "owner-gone", "wrong-state"]))),
)]
async fn mark_run(
    State(app): Shared,
    Caller(caller): Caller,
    At(id): At<RunId>,
    Body(body): Body<MarkBody>,
) -> Result<Json<Run>, Problem> {
    let ending = match body.state {
        Marked::Succeeded => Ending::Succeeded,
        Marked::Failed => Ending::Failed,
        Marked::Skipped => Ending::Skipped,
    };
    let stored = app.mark(&caller, id, body.jobs, ending, short(body.reason)?).await?;
    Ok(Json(views::run(&stored)))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct HoldBody {
    /// Which jobs, as in `a`, `a+`, `+a`; none: the whole run.
    #[serde(default)]
    jobs: Option<String>,
    #[serde(default)]
    reason: Option<String>,
}

/// Keeps a run, or jobs of it, from beginning. What has begun goes on.
#[utoipa::path(
    post, path = "/runs/{id}/hold", tag = "runs", security(("token" = ["operator"])),
    params(("id" = RunId, Path)), request_body(content = HoldBody, example = json!({"reason": "look first"})),
    responses((status = 200, description = "The run", body = Run)),
    extensions(("x-codes" = json!(["bad-document", "job-not-found", "owner-gone", "wrong-state"]))),
)]
async fn hold_run(
    State(app): Shared,
    Caller(caller): Caller,
    At(id): At<RunId>,
    Body(body): Body<HoldBody>,
) -> Result<Json<Run>, Problem> {
    let stored = app.hold_run(&caller, id, body.jobs, true, short(body.reason)?).await?;
    Ok(Json(views::run(&stored)))
}

/// Lets a held run, or held jobs of it, go on.
#[utoipa::path(
    post, path = "/runs/{id}/release", tag = "runs", security(("token" = ["operator"])),
    params(("id" = RunId, Path)), request_body(content = HoldBody, example = json!({})),
    responses((status = 200, description = "The run", body = Run)),
    extensions(("x-codes" = json!(["bad-document", "job-not-found", "owner-gone", "wrong-state"]))),
)]
async fn release_run(
    State(app): Shared,
    Caller(caller): Caller,
    At(id): At<RunId>,
    Body(body): Body<HoldBody>,
) -> Result<Json<Run>, Problem> {
    let stored = app.hold_run(&caller, id, body.jobs, false, short(body.reason)?).await?;
    Ok(Json(views::run(&stored)))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SwitchBody {
    /// Which jobs, as in `a`, `a+`, `+a`.
    jobs: String,
    #[serde(default)]
    reason: Option<String>,
}

/// Switches off jobs of a run that have not begun: they end without having run, and what waits for them goes on.
#[utoipa::path(
    post, path = "/runs/{id}/disable", tag = "runs", security(("token" = ["operator"])),
    params(("id" = RunId, Path)), request_body(content = SwitchBody, example = json!({"jobs": "report"})),
    responses((status = 200, description = "The run", body = Run)),
    extensions(("x-codes" = json!(["bad-document", "job-not-found", "owner-gone", "wrong-state"]))),
)]
async fn disable_jobs(
    State(app): Shared,
    Caller(caller): Caller,
    At(id): At<RunId>,
    Body(body): Body<SwitchBody>,
) -> Result<Json<Run>, Problem> {
    let stored = app.disable(&caller, id, body.jobs, true, short(body.reason)?).await?;
    Ok(Json(views::run(&stored)))
}

/// Switches jobs of a run on again that have not begun.
#[utoipa::path(
    post, path = "/runs/{id}/enable", tag = "runs", security(("token" = ["operator"])),
    params(("id" = RunId, Path)), request_body(content = SwitchBody, example = json!({"jobs": "report"})),
    responses((status = 200, description = "The run", body = Run)),
    extensions(("x-codes" = json!(["bad-document", "job-not-found", "owner-gone", "wrong-state"]))),
)]
async fn enable_jobs(
    State(app): Shared,
    Caller(caller): Caller,
    At(id): At<RunId>,
    Body(body): Body<SwitchBody>,
) -> Result<Json<Run>, Problem> {
    let stored = app.disable(&caller, id, body.jobs, false, short(body.reason)?).await?;
    Ok(Json(views::run(&stored)))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReloadBody {
    /// The code to go on with; none: the deployed one.
    #[serde(default)]
    bundle: Option<Sha>,
}

/// Gives a run other code for the jobs that have not begun.
#[utoipa::path(
    post, path = "/runs/{id}/reload", tag = "runs", security(("token" = ["operator"])),
    params(("id" = RunId, Path)), request_body(content = ReloadBody, example = json!({})),
    responses((status = 200, description = "The run", body = Run)),
    extensions(("x-compiles" = json!(true)), ("x-codes" = json!([
        "bad-document", "job-not-found", "owner-gone", "target-protected", "version-not-found", "workflow-not-found",
        "wrong-state",
    ]))),
)]
async fn reload_run(
    State(app): Shared,
    Caller(caller): Caller,
    At(id): At<RunId>,
    Body(body): Body<ReloadBody>,
) -> Result<Json<Run>, Problem> {
    let stored = app.reload(&caller, id, body.bundle).await?;
    Ok(Json(views::run(&stored)))
}

/// A whole that a person holds.
#[derive(Serialize, ToSchema)]
struct Held {
    #[serde(flatten)]
    scope: Scope,
    by: String,
    at: pinrail_model::time::Micros,
    reason: Option<String>,
}

fn held((scope, control): (Scope, Control)) -> Held {
    Held { scope, by: control.by, at: control.at, reason: control.reason }
}

fn page(found: Vec<(Scope, Control)>) -> Page<Held> {
    Page { items: found.into_iter().map(held).collect(), next: None }
}

/// Lists the wholes that are held: the platform, projects, workflows.
#[utoipa::path(
    get, path = "/holds", tag = "holds", security(("token" = ["viewer"])), params(PageQuery),
    responses((status = 200, description = "A page of holds", body = Page<Held>)),
)]
async fn holds(
    State(app): Shared,
    Caller(caller): Caller,
    Parameters(query): Parameters<PageQuery>,
) -> Result<Json<Page<Held>>, Problem> {
    let wanted = query.of("holds")?;
    let items = app.holds(&caller).await?.into_iter().map(held).collect();
    Ok(Json(wanted.page(items, |held: &Held| serde_json::to_string(&held.scope).unwrap_or_default())))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct HoldScopeBody {
    /// Also stop what is under way.
    #[serde(default)]
    abort: bool,
    #[serde(default)]
    reason: Option<String>,
}

/// Lets nothing new begin anywhere.
///
/// The token must be one for every project.
#[utoipa::path(
    post, path = "/hold", tag = "holds", security(("token" = ["admin"])),
    request_body(content = HoldScopeBody, example = json!({"reason": "upgrade"})),
    responses((status = 200, description = "What is held", body = Page<Held>)),
    extensions(("x-every-project" = json!(true)), ("x-codes" = json!(["owner-gone"]))),
)]
async fn hold_platform(
    State(app): Shared,
    Caller(caller): Caller,
    Body(body): Body<HoldScopeBody>,
) -> Result<Json<Page<Held>>, Problem> {
    app.hold_scope(&caller, Scope::Platform, true, body.abort, short(body.reason)?).await.map(page).map(Json)
}

/// Lets the platform go on.
///
/// The token must be one for every project.
#[utoipa::path(
    post, path = "/release", tag = "holds", security(("token" = ["admin"])),
    request_body(content = ReasonBody, example = json!({})),
    responses((status = 200, description = "What is held", body = Page<Held>)),
    extensions(("x-every-project" = json!(true)), ("x-codes" = json!(["owner-gone"]))),
)]
async fn release_platform(
    State(app): Shared,
    Caller(caller): Caller,
    Body(body): Body<ReasonBody>,
) -> Result<Json<Page<Held>>, Problem> {
    app.hold_scope(&caller, Scope::Platform, false, false, body.short()?).await.map(page).map(Json)
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct HoldProjectBody {
    /// Only this workflow.
    #[serde(default)]
    workflow: Option<WorkflowName>,
    /// Also stop what is under way.
    #[serde(default)]
    abort: bool,
    #[serde(default)]
    reason: Option<String>,
}

fn scope(project: ProjectName, workflow: Option<WorkflowName>) -> Scope {
    match workflow {
        None => Scope::Project { project },
        Some(workflow) => Scope::Workflow { project, workflow },
    }
}

/// Lets nothing new begin in a project, or in one of its workflows.
#[utoipa::path(
    post, path = "/projects/{project}/hold", tag = "holds", security(("token" = ["operator"])),
    params(("project" = ProjectName, Path)),
    request_body(content = HoldProjectBody, example = json!({"reason": "the source is being repaired"})),
    responses((status = 200, description = "What is held", body = Page<Held>)),
    extensions(("x-codes" = json!(["owner-gone"]))),
)]
async fn hold_project(
    State(app): Shared,
    Caller(caller): Caller,
    At(project): At<ProjectName>,
    Body(body): Body<HoldProjectBody>,
) -> Result<Json<Page<Held>>, Problem> {
    let scope = scope(project, body.workflow);
    app.hold_scope(&caller, scope, true, body.abort, short(body.reason)?).await.map(page).map(Json)
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReleaseProjectBody {
    /// Only this workflow.
    #[serde(default)]
    workflow: Option<WorkflowName>,
    #[serde(default)]
    reason: Option<String>,
}

/// Lets a project, or one of its workflows, go on.
#[utoipa::path(
    post, path = "/projects/{project}/release", tag = "holds", security(("token" = ["operator"])),
    params(("project" = ProjectName, Path)), request_body(content = ReleaseProjectBody, example = json!({})),
    responses((status = 200, description = "What is held", body = Page<Held>)),
    extensions(("x-codes" = json!(["owner-gone"]))),
)]
async fn release_project(
    State(app): Shared,
    Caller(caller): Caller,
    At(project): At<ProjectName>,
    Body(body): Body<ReleaseProjectBody>,
) -> Result<Json<Page<Held>>, Problem> {
    let scope = scope(project, body.workflow);
    app.hold_scope(&caller, scope, false, false, short(body.reason)?).await.map(page).map(Json)
}

/// A limit of a project.
#[derive(Serialize, ToSchema)]
struct Limit {
    limit: LimitName,
    #[serde(flatten)]
    set: LimitSet,
}

/// Lists the pools of a project, its quota and its weight.
#[utoipa::path(
    get, path = "/projects/{project}/limits", tag = "limits", security(("token" = ["viewer"])),
    params(("project" = ProjectName, Path), PageQuery),
    responses((status = 200, description = "A page of limits", body = Page<Limit>)),
)]
async fn limits(
    State(app): Shared,
    Caller(caller): Caller,
    At(project): At<ProjectName>,
    Parameters(query): Parameters<PageQuery>,
) -> Result<Json<Page<Limit>>, Problem> {
    let wanted = query.of("limits")?;
    let rows = app.limits(&caller, &project).await?;
    let items = rows.into_iter().map(|row| Limit { limit: row.name, set: row.set }).collect();
    Ok(Json(wanted.page(items, |limit: &Limit| {
        let (kind, name) = limit.limit.parts();
        format!("{kind} {name}")
    })))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LimitBody {
    limit: LimitName,
    /// Slots of a pool, attempts of a quota, or a weight; none: no limit, and a pool is gone.
    #[serde(default)]
    value: Option<u32>,
    #[serde(default)]
    description: Option<String>,
}

/// Sets a limit of a project. A quota or weight takes an admin of every project.
#[utoipa::path(
    put, path = "/projects/{project}/limits", tag = "limits", security(("token" = ["developer"])),
    params(("project" = ProjectName, Path)),
    request_body(content = LimitBody, example = json!({"limit": {"kind": "pool", "name": "reports"}, "value": 2})),
    responses((status = 200, description = "All limits of the project", body = Page<Limit>)),
    extensions(("x-codes" = json!(["owner-gone", "pool-not-found"]))),
)]
async fn set_limit(
    State(app): Shared,
    Caller(caller): Caller,
    At(project): At<ProjectName>,
    Body(body): Body<LimitBody>,
) -> Result<Json<Page<Limit>>, Problem> {
    let rows = app.set_limit(&caller, &project, body.limit, body.value, short(body.description)?).await?;
    let items = rows.into_iter().map(|row| Limit { limit: row.name, set: row.set }).collect();
    Ok(Json(Page { items, next: None }))
}
