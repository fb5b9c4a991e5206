//! Schedules and backfills: what is to run without anybody asking for each run.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use pinrail_model::ids::BackfillId;
use pinrail_model::names::{ProjectName, TargetName, WorkflowName};
use pinrail_model::seam::store::BackfillChange;
use serde::Deserialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::extract::{At, Body, Caller, Parameters, short_text};
use super::page::PageQuery;
use crate::app::App;
use crate::planning::{BackfillRequest, BackfillView, ScheduleView};
use crate::problem::Problem;
use crate::views::Page;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::default()
        .routes(routes!(schedules))
        .routes(routes!(pause_schedule))
        .routes(routes!(resume_schedule))
        .routes(routes!(create_backfill))
        .routes(routes!(backfills))
        .routes(routes!(backfill))
        .routes(routes!(edit_backfill))
        .routes(routes!(pause_backfill))
        .routes(routes!(resume_backfill))
        .routes(routes!(cancel_backfill))
}

/// Why something is done, for people.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReasonBody {
    #[serde(default)]
    pub reason: Option<String>,
}

/// Which schedule of a workflow, and why.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ScheduleBody {
    #[serde(default)]
    reason: Option<String>,
    /// The target of its runs; none: the only one at which the workflow has a schedule.
    #[serde(default)]
    target: Option<TargetName>,
}

impl ScheduleBody {
    fn parts(self) -> Result<(Option<TargetName>, Option<String>), Problem> {
        Ok((self.target, ReasonBody { reason: self.reason }.short()?))
    }
}

impl ReasonBody {
    pub fn short(self) -> Result<Option<String>, Problem> {
        self.reason.map(|reason| short_text("/reason", reason)).transpose()
    }
}

/// Lists the schedules of a project's deployed workflows, with their next fire times.
#[utoipa::path(
    get, path = "/projects/{project}/schedules", tag = "schedules", security(("token" = ["viewer"])),
    params(("project" = ProjectName, Path), PageQuery),
    responses((status = 200, description = "A page of schedules", body = Page<ScheduleView>)),
)]
async fn schedules(
    State(app): Shared,
    Caller(caller): Caller,
    At(project): At<ProjectName>,
    Parameters(query): Parameters<PageQuery>,
) -> Result<Json<Page<ScheduleView>>, Problem> {
    let wanted = query.of("schedules")?;
    Ok(Json(wanted.page(app.schedules(&caller, &project).await?, |view| {
        format!("{}\0{}", view.workflow, view.target.as_ref().map_or("", TargetName::as_str))
    })))
}

/// Stops the schedule of a workflow from firing.
#[utoipa::path(
    post, path = "/projects/{project}/schedules/{workflow}/pause", tag = "schedules",
    security(("token" = ["operator"])),
    params(("project" = ProjectName, Path), ("workflow" = WorkflowName, Path)),
    request_body(content = ScheduleBody, example = json!({"reason": "the source is being repaired"})),
    responses((status = 200, description = "The schedule", body = ScheduleView)),
    extensions(("x-codes" = json!(["bad-parameter", "owner-gone", "schedule-not-found"]))),
)]
async fn pause_schedule(
    State(app): Shared,
    Caller(caller): Caller,
    At((project, workflow)): At<(ProjectName, WorkflowName)>,
    Body(body): Body<ScheduleBody>,
) -> Result<Json<ScheduleView>, Problem> {
    let (target, reason) = body.parts()?;
    app.pause(&caller, &project, (&workflow, target), true, reason).await.map(Json)
}

/// Lets the schedule of a workflow fire again. What passed meanwhile is caught up with as the schedule says.
#[utoipa::path(
    post, path = "/projects/{project}/schedules/{workflow}/resume", tag = "schedules",
    security(("token" = ["operator"])),
    params(("project" = ProjectName, Path), ("workflow" = WorkflowName, Path)),
    request_body(content = ScheduleBody, example = json!({})),
    responses((status = 200, description = "The schedule", body = ScheduleView)),
    extensions(("x-codes" = json!(["bad-parameter", "owner-gone", "schedule-not-found"]))),
)]
async fn resume_schedule(
    State(app): Shared,
    Caller(caller): Caller,
    At((project, workflow)): At<(ProjectName, WorkflowName)>,
    Body(body): Body<ScheduleBody>,
) -> Result<Json<ScheduleView>, Problem> {
    let (target, reason) = body.parts()?;
    app.pause(&caller, &project, (&workflow, target), false, reason).await.map(Json)
}

/// Asks for many runs of a workflow together, or with `dry_run` says what that would come to.
#[utoipa::path(
    post, path = "/projects/{project}/backfills", tag = "backfills", security(("token" = ["operator"])),
    params(("project" = ProjectName, Path)),
    request_body(content = BackfillRequest, example = json!({
        "workflow": "flights", "from": "2013-01-01", "to": "2013-12-31", "jobs": "daily_delays",
    })),
    responses(
        (status = 200, description = "What it would come to, or that all is done already", body = BackfillView),
        (status = 201, description = "The backfill", body = BackfillView, headers(("Location", description = "Its path"))),
    ),
    extensions(("x-compiles" = json!(true)), ("x-codes" = json!([
        "bad-parameter", "bad-document", "job-not-found", "owner-gone", "parents-missing", "target-not-found",
        "target-protected", "version-not-found", "workflow-not-found",
    ]))),
)]
async fn create_backfill(
    State(app): Shared,
    Caller(caller): Caller,
    At(project): At<ProjectName>,
    Body(body): Body<BackfillRequest>,
) -> Result<Response, Problem> {
    let made = app.create_backfill(&caller, &project, body).await?;
    Ok(match made.id {
        None => Json(made).into_response(),
        Some(id) => {
            (StatusCode::CREATED, [(header::LOCATION, format!("/api/v1/backfills/{id}"))], Json(made)).into_response()
        }
    })
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct BackfillsQuery {
    project: Option<ProjectName>,
    /// Where the page begins: `next` of the page before.
    cursor: Option<String>,
    /// Backfills at most; 50 unless said otherwise.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
}

/// Lists the backfills that the token can see, newest first.
#[utoipa::path(
    get, path = "/backfills", tag = "backfills", security(("token" = ["viewer"])), params(BackfillsQuery),
    responses((status = 200, description = "A page of backfills", body = Page<BackfillView>)),
)]
async fn backfills(
    State(app): Shared,
    Caller(caller): Caller,
    Parameters(query): Parameters<BackfillsQuery>,
) -> Result<Json<Page<BackfillView>>, Problem> {
    let wanted = PageQuery { cursor: query.cursor, limit: query.limit }.of("backfills")?;
    let one_more = u32::try_from(wanted.limit + 1).unwrap_or(u32::MAX);
    let found = app.backfills(&caller, query.project, wanted.after()?, one_more).await?;
    Ok(Json(wanted.cut(found, |view| view.id.map_or_else(String::new, |id| id.to_string()))))
}

/// Reads a backfill with how far it is. Its runs are listed with `GET /runs?backfill=`.
#[utoipa::path(
    get, path = "/backfills/{id}", tag = "backfills", security(("token" = ["viewer"])),
    params(("id" = BackfillId, Path)),
    responses((status = 200, description = "The backfill", body = BackfillView)),
)]
async fn backfill(
    State(app): Shared,
    Caller(caller): Caller,
    At(id): At<BackfillId>,
) -> Result<Json<BackfillView>, Problem> {
    app.backfill(&caller, id).await.map(Json)
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EditBody {
    /// Runs that are active at once.
    #[serde(default)]
    concurrency: Option<u32>,
    /// Parameters of the runs that have not begun; those that are left out stay.
    #[serde(default)]
    params: Option<BTreeMap<String, Value>>,
}

/// Changes a backfill for the runs that have not begun.
#[utoipa::path(
    patch, path = "/backfills/{id}", tag = "backfills", security(("token" = ["operator"])),
    params(("id" = BackfillId, Path)), request_body(content = EditBody, example = json!({"concurrency": 8})),
    responses((status = 200, description = "The backfill", body = BackfillView)),
    extensions(("x-codes" = json!(["bad-parameter", "bad-document", "owner-gone", "version-not-found", "wrong-state"]))),
)]
async fn edit_backfill(
    State(app): Shared,
    Caller(caller): Caller,
    At(id): At<BackfillId>,
    Body(body): Body<EditBody>,
) -> Result<Json<BackfillView>, Problem> {
    let change = BackfillChange::Edit { concurrency: body.concurrency, params: body.params };
    app.change_backfill(&caller, id, change, None).await.map(Json)
}

/// Lets no further runs of a backfill begin.
#[utoipa::path(
    post, path = "/backfills/{id}/pause", tag = "backfills", security(("token" = ["operator"])),
    params(("id" = BackfillId, Path)), request_body(content = ReasonBody, example = json!({})),
    responses((status = 200, description = "The backfill", body = BackfillView)),
    extensions(("x-codes" = json!(["owner-gone", "wrong-state"]))),
)]
async fn pause_backfill(
    State(app): Shared,
    Caller(caller): Caller,
    At(id): At<BackfillId>,
    Body(body): Body<ReasonBody>,
) -> Result<Json<BackfillView>, Problem> {
    app.change_backfill(&caller, id, BackfillChange::Pause, body.short()?).await.map(Json)
}

/// Lets the runs of a backfill begin again.
#[utoipa::path(
    post, path = "/backfills/{id}/resume", tag = "backfills", security(("token" = ["operator"])),
    params(("id" = BackfillId, Path)), request_body(content = ReasonBody, example = json!({})),
    responses((status = 200, description = "The backfill", body = BackfillView)),
    extensions(("x-codes" = json!(["owner-gone", "wrong-state"]))),
)]
async fn resume_backfill(
    State(app): Shared,
    Caller(caller): Caller,
    At(id): At<BackfillId>,
    Body(body): Body<ReasonBody>,
) -> Result<Json<BackfillView>, Problem> {
    app.change_backfill(&caller, id, BackfillChange::Resume, body.short()?).await.map(Json)
}

/// Ends a backfill: what is under way is stopped, and nothing further begins.
#[utoipa::path(
    post, path = "/backfills/{id}/cancel", tag = "backfills", security(("token" = ["operator"])),
    params(("id" = BackfillId, Path)), request_body(content = ReasonBody, example = json!({"reason": "wrong code"})),
    responses((status = 200, description = "The backfill, whose runs may still be ending", body = BackfillView)),
    extensions(("x-codes" = json!(["owner-gone", "wrong-state"]))),
)]
async fn cancel_backfill(
    State(app): Shared,
    Caller(caller): Caller,
    At(id): At<BackfillId>,
    Body(body): Body<ReasonBody>,
) -> Result<Json<BackfillView>, Problem> {
    app.change_backfill(&caller, id, BackfillChange::Cancel, body.short()?).await.map(Json)
}
