//! A backup over HTTP: one archive, streamed while it is made.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::extract::{Caller, Parameters};
use crate::app::App;
use crate::problem::Problem;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::default().routes(routes!(backup))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct BackupQuery {
    /// Include the key of the secrets.
    #[serde(default)]
    with_key: bool,
}

/// Makes a backup of everything, as of one moment.
///
/// The token must be one for every project. An archive without its end was cut off and is refused by `pinrail restore`.
#[utoipa::path(
    get, path = "/backup", tag = "server", security(("token" = ["admin"])), params(BackupQuery),
    responses((status = 200, description = "A tar archive", body = [u8], content_type = "application/x-tar")),
    extensions(("x-every-project" = json!(true))),
)]
async fn backup(
    State(app): Shared,
    Caller(caller): Caller,
    Parameters(query): Parameters<BackupQuery>,
) -> Result<Response, Problem> {
    let pieces = app.backup(&caller, query.with_key).await?;
    let headers = [(header::CONTENT_TYPE, "application/x-tar"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(ReceiverStream::new(pieces))).into_response())
}
