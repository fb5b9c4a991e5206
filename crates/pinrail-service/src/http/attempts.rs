//! Attempts and their logs.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Json, Response};
use pinrail_model::ids::AttemptId;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::extract::{At, Caller, Parameters};
use super::page::{LARGEST_PAGE, PageQuery};
use super::stream::{last_event_id, log_events};
use crate::app::App;
use crate::logs;
use crate::problem::Problem;
use crate::views::{self, LogFrame, Page, PlacedAttempt};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::default().routes(routes!(attempt)).routes(routes!(attempt_log))
}

/// Reads an attempt.
#[utoipa::path(
    get, path = "/attempts/{id}", tag = "attempts", security(("token" = ["viewer"])),
    params(("id" = AttemptId, Path)),
    responses((status = 200, description = "The attempt", body = PlacedAttempt)),
)]
async fn attempt(
    State(app): Shared,
    Caller(caller): Caller,
    At(id): At<AttemptId>,
) -> Result<Json<PlacedAttempt>, Problem> {
    Ok(Json(views::placed_attempt(&app.attempt(&caller, id).await?)))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct LogQuery {
    /// Go on until the attempt is over, as server-sent events whose ids are the frames' numbers.
    #[serde(default)]
    follow: bool,
    /// Only frames after this number.
    after: Option<u64>,
    /// Where the page begins: `next` of the page before.
    cursor: Option<String>,
    /// Frames at most; 500 unless said otherwise, fewer where they are long.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
}

/// Text on a page at most, unless its only frame has more.
const LONGEST_PAGE: usize = 4 << 20;

/// Reads or follows the log of an attempt.
#[utoipa::path(
    get, path = "/attempts/{id}/log", tag = "attempts", security(("token" = ["viewer"])),
    params(
        ("id" = AttemptId, Path), LogQuery,
        ("Last-Event-ID" = Option<u64>, Header, description = "The last frame that is known; as `after`"),
    ),
    responses(
        (
            status = 200, description = "A page of frames, or events with one frame each",
            content((Page<LogFrame> = "application/json"), (String = "text/event-stream")),
        ),
        (status = 204, description = "Nothing is left to follow: the attempt is over"),
    ),
)]
async fn attempt_log(
    State(app): Shared,
    Caller(caller): Caller,
    At(id): At<AttemptId>,
    Parameters(query): Parameters<LogQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let stored = app.attempt(&caller, id).await?;
    // Who comes back sends the same URL and a later header.
    let after = query.after.unwrap_or(0).max(last_event_id(&headers)?);
    if query.follow {
        return log_events(app, &stored, after).await;
    }
    let wanted = PageQuery { cursor: query.cursor, limit: query.limit.or(Some(LARGEST_PAGE)) }.of("frames")?;
    let after = wanted.after()?.unwrap_or(after);
    let (folder, most) = (app.attempts.logs(), wanted.limit);
    let read = tokio::task::spawn_blocking(move || logs::read_some(&folder, id, after, most, LONGEST_PAGE)).await;
    let (frames, more) = read.map_err(|e| Problem::new("internal", e.to_string()))?;
    let items: Vec<LogFrame> = frames.iter().map(views::frame).collect();
    let next = items.last().filter(|_| more).map(|last| wanted.cursor(&last.seq.to_string()));
    Ok(Json(Page { items, next }).into_response())
}
