//! Server-sent events: a run's history and an attempt's log, both resumable by `Last-Event-ID`.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use futures::stream::unfold;
use pinrail_model::ids::{AttemptId, RunId};
use pinrail_model::seam::store::{Answer, Query, Topic, Who};
use serde::Serialize;
use serde_json::json;

use crate::app::App;
use crate::logs::read;
use crate::problem::Problem;
use crate::views::frame;

/// Lines of history that are read at once.
const PAGE: u32 = 1000;

/// The event after which a client wants to go on.
pub(super) fn last_event_id(headers: &HeaderMap) -> u64 {
    headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok()).unwrap_or(0)
}

fn respond(stream: impl Stream<Item = Result<Bytes, Problem>> + Send + 'static) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(stream)).into_response()
}

fn event(id: u64, kind: &str, data: &impl Serialize) -> String {
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("id: {id}\nevent: {kind}\ndata: {data}\n\n")
}

/// Follows a run until it has ended.
pub(super) fn run_events(app: Arc<App>, run: RunId, after: u64) -> Response {
    respond(unfold(Some((app, after)), move |state| async move {
        let (app, after) = state?;
        loop {
            match app.store.read(&Who::default(), Query::Events { run, after, limit: PAGE }).await {
                Ok(Answer::Events(events)) if !events.is_empty() => {
                    let last = events.last().map_or(after, |event| event.seq);
                    // A run that is retried goes on; who follows it may come back with the last id.
                    let ended = events.last().is_some_and(|event| event.kind == "run-ended");
                    let text: String = events
                        .iter()
                        .map(|e| event(e.seq, &e.kind, &json!({"at": e.at, "job": e.job, "data": e.data})))
                        .collect();
                    return Some((Ok(text.into()), (!ended).then_some((app, last))));
                }
                Ok(_) => {}
                Err(error) => return Some((Err(error.into()), None)),
            }
            if let Err(error) = app.store.follow(Topic::Run(run), after).await {
                return Some((Err(error.into()), None));
            }
        }
    }))
}

/// Follows a log until its attempt is over.
pub(super) fn log_events(app: Arc<App>, attempt: AttemptId, after: u64) -> Response {
    respond(unfold(Some((app, after)), move |state| async move {
        let (app, after) = state?;
        loop {
            let news = app.attempts.log_news(attempt);
            let frames = read(&app.attempts.logs(), attempt, after);
            if let Some(last) = frames.last().map(|frame| frame.seq) {
                let text: String = frames.iter().map(|f| event(f.seq, "frame", &frame(f))).collect();
                return Some((Ok(text.into()), Some((app, last))));
            }
            let over = match app.store.read(&Who::default(), Query::Attempt(attempt)).await {
                Ok(Answer::Attempt(found)) => found.attempt.cleanup.is_some(),
                _ => true,
            };
            let mut news = news.filter(|_| !over)?;
            let waited = tokio::time::timeout(LOOK_AGAIN, news.wait_for(|last| *last > after)).await;
            if matches!(waited, Ok(Err(_))) {
                return None;
            }
        }
    }))
}

/// A silent attempt ends without a last frame, so now and then it is looked whether it is over.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(500);
