//! Workers: what people see of them, and the operations by which they work.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json};
use pinrail_model::document::Sha;
use pinrail_model::ids::SessionId;
use pinrail_model::names::ProjectName;
use pinrail_model::time::Micros;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::extract::{Body, Caller, Made, Parameters, Working};
use super::page::PageQuery;
use crate::app::App;
use crate::owner::workers::WorkerSeen;
use crate::problem::Problem;
use crate::views::Page;
use crate::workers::wire::Frame;
use crate::workers::{Joined, Joining};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::default()
        .routes(routes!(workers, join))
        .routes(routes!(drain_worker))
        .routes(routes!(orders))
        .routes(routes!(reports))
        .routes(routes!(worker_bundle))
        .routes(routes!(worker_blob))
        .routes(routes!(leave))
}

/// A worker, or the server as its own.
#[derive(Serialize, ToSchema)]
struct Worker {
    /// None: the server itself.
    name: Option<String>,
    /// `up`, or `draining`: it finishes what it has and takes nothing new.
    state: &'static str,
    labels: BTreeSet<String>,
    slots: u32,
    /// Slots that attempts hold.
    used: u32,
    since: Micros,
    /// When it was heard last; none: the server itself.
    heard_at: Option<Micros>,
}

fn worker(found: WorkerSeen) -> Worker {
    let WorkerSeen { seen, slots, held, draining, since } = found;
    Worker {
        name: seen.as_ref().map(|seen| seen.name.clone()),
        state: if draining { "draining" } else { "up" },
        heard_at: seen.as_ref().map(|seen| seen.beat_at),
        labels: seen.map(|seen| seen.labels).unwrap_or_default(),
        slots,
        used: held,
        since,
    }
}

/// Lists the workers: those that are connected, and the server itself if it has slots of its own.
#[utoipa::path(
    get, path = "/workers", tag = "workers", security(("token" = ["viewer"])), params(PageQuery),
    responses((status = 200, description = "A page of workers", body = Page<Worker>)),
    extensions(("x-codes" = json!(["owner-gone"]))),
)]
async fn workers(
    State(app): Shared,
    _: Caller,
    Parameters(query): Parameters<PageQuery>,
) -> Result<Json<Page<Worker>>, Problem> {
    let wanted = query.of("workers")?;
    let items = app.workers().await?.into_iter().map(worker).collect();
    Ok(Json(wanted.page(items, |worker: &Worker| worker.name.clone().unwrap_or_default())))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DrainBody {
    /// The worker's name.
    worker: String,
    /// Whether it is to take nothing new from now on, or may again.
    #[serde(default = "yes")]
    draining: bool,
}

fn yes() -> bool {
    true
}

/// Lets a worker finish what it has and take nothing new. When it has nothing more, it ends.
///
/// The token must be one for every project.
#[utoipa::path(
    post, path = "/workers/drain", tag = "workers", security(("token" = ["admin"])),
    request_body(content = DrainBody, example = json!({"worker": "worker-1", "draining": true})),
    responses((status = 204, description = "It is told")),
    extensions(("x-every-project" = json!(true)), ("x-codes" = json!(["owner-gone", "worker-not-found"]))),
)]
async fn drain_worker(
    State(app): Shared,
    Caller(caller): Caller,
    Body(body): Body<DrainBody>,
) -> Result<StatusCode, Problem> {
    app.drain_worker(&caller, &body.worker, body.draining).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// For workers: begins a session, in which the worker is given processes to run.
///
/// This and the other operations for workers are a protocol between a server and a worker of the same version.
#[utoipa::path(
    post, path = "/workers", tag = "workers", security(("token" = ["worker"])),
    request_body(content = Joining, example = json!({"protocol": 1, "name": "worker-1", "slots": 4, "labels": ["gpu"]})),
    responses((status = 201, description = "The session", body = Joined)),
    extensions(("x-every-project" = json!(true)), ("x-codes" = json!(["owner-gone", "worker-exists", "worker-refused", "worker-version"]))),
)]
async fn join(
    State(app): Shared,
    Working(caller): Working,
    Body(body): Body<Joining>,
) -> Result<(StatusCode, Json<Joined>), Problem> {
    Ok((StatusCode::CREATED, Json(app.join_worker(&caller, body).await?)))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct OrdersQuery {
    /// The worker's session.
    session: SessionId,
    /// The number of the last order that the worker has.
    after: u64,
}

/// For workers: what there is to do; answered as soon as there is something, or after some seconds.
#[utoipa::path(
    get, path = "/workers/orders", tag = "workers", security(("token" = ["worker"])), params(OrdersQuery),
    responses((status = 200, description = "Orders by their numbers", body = Object)),
    extensions(("x-every-project" = json!(true)), ("x-codes" = json!(["session-closed"]))),
)]
async fn orders(
    State(app): Shared,
    Working(caller): Working,
    Parameters(query): Parameters<OrdersQuery>,
) -> Result<Json<Value>, Problem> {
    let orders = app.orders(&caller, query.session, query.after).await?;
    Ok(Json(json!({"orders": orders})))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReportsBody {
    /// The worker's session.
    session: SessionId,
    /// The number of the first frame.
    first: u64,
    /// What the worker saw, in order; none: it lives.
    #[schema(value_type = Vec<Object>)]
    frames: Vec<Frame>,
}

/// For workers: what became of the orders. Each request is a sign of life.
#[utoipa::path(
    post, path = "/workers/reports", tag = "workers", security(("token" = ["worker"])),
    request_body(content = ReportsBody, example = json!({"session": "ses_01HF7YAT00G000000000000000", "first": 1, "frames": []})),
    responses((status = 200, description = "The number of the last frame that arrived", body = Object)),
    extensions(("x-every-project" = json!(true)), ("x-codes" = json!(["session-closed"]))),
)]
async fn reports(
    State(app): Shared,
    Working(caller): Working,
    Made(body): Made<ReportsBody>,
) -> Result<Json<Value>, Problem> {
    let last = app.hear_worker(&caller, body.session, body.first, body.frames)?;
    Ok(Json(json!({"last": last})))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct BundleQuery {
    /// The worker's session.
    session: SessionId,
    /// Whose bundle it is.
    project: ProjectName,
    /// The digest of the bundle.
    sha: Sha,
}

/// For workers: the files of a bundle with their digests.
#[utoipa::path(
    get, path = "/workers/bundle", tag = "workers", security(("token" = ["worker"])), params(BundleQuery),
    responses((status = 200, description = "The files by path", body = Object)),
    extensions(("x-every-project" = json!(true)), ("x-codes" = json!(["bad-bundle", "session-closed"]))),
)]
async fn worker_bundle(
    State(app): Shared,
    Working(caller): Working,
    Parameters(query): Parameters<BundleQuery>,
) -> Result<Json<Value>, Problem> {
    let manifest = app.bundle_for_worker(&caller, query.session, query.project, query.sha).await?;
    Ok(Json(json!(manifest)))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct BlobQuery {
    /// The worker's session.
    session: SessionId,
    /// The digest of the file.
    sha: Sha,
}

/// For workers: the bytes of a file of a bundle.
#[utoipa::path(
    get, path = "/workers/blob", tag = "workers", security(("token" = ["worker"])), params(BlobQuery),
    responses((status = 200, description = "The bytes", content_type = "application/octet-stream", body = Vec<u8>)),
    extensions(("x-every-project" = json!(true)), ("x-codes" = json!(["bad-bundle", "session-closed"]))),
)]
async fn worker_blob(
    State(app): Shared,
    Working(caller): Working,
    Parameters(query): Parameters<BlobQuery>,
) -> Result<impl IntoResponse, Problem> {
    let bytes = app.blob_for_worker(&caller, query.session, query.sha).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LeaveBody {
    /// The worker's session.
    session: SessionId,
}

/// For workers: all processes have ended, and the worker goes.
#[utoipa::path(
    post, path = "/workers/leave", tag = "workers", security(("token" = ["worker"])),
    request_body(content = LeaveBody, example = json!({"session": "ses_01HF7YAT00G000000000000000"})),
    responses((status = 204, description = "It is noted")),
    extensions(("x-every-project" = json!(true)), ("x-codes" = json!(["session-closed"]))),
)]
async fn leave(
    State(app): Shared,
    Working(caller): Working,
    Body(body): Body<LeaveBody>,
) -> Result<StatusCode, Problem> {
    app.worker_left(&caller, body.session)?;
    Ok(StatusCode::NO_CONTENT)
}
