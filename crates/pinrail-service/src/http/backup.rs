//! A backup over HTTP: one archive, streamed while it is made.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use tokio_stream::wrappers::ReceiverStream;

use super::extract::{Caller, Parameters};
use crate::app::App;
use crate::problem::Problem;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/backup", get(backup))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BackupQuery {
    /// Include the key of the secrets.
    #[serde(default)]
    with_key: bool,
}

async fn backup(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Parameters(query): Parameters<BackupQuery>,
) -> Result<Response, Problem> {
    let pieces = app.backup(&caller, query.with_key).await?;
    let headers = [(header::CONTENT_TYPE, "application/x-tar"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(ReceiverStream::new(pieces))).into_response())
}
