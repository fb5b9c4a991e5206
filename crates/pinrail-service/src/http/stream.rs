//! Server-sent events: a run's history and an attempt's log, both resumable by `Last-Event-ID`. Ids are the sequence
//! numbers under which events and frames are kept, so that nothing is lost or doubled however often a client comes back.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use futures::stream::unfold;
use pinrail_model::ids::AttemptId;
use pinrail_model::run::RunState;
use pinrail_model::seam::store::{Answer, Query, StoredAttempt, StoredRun, Topic, Who};
use serde::Serialize;
use serde_json::json;

use crate::app::App;
use crate::logs::{Frame, read_some};
use crate::problem::Problem;
use crate::views::frame;

/// Lines of history that are read at once.
const PAGE: u32 = 1000;
/// Bytes of a log that are read at once.
const PIECE: usize = 1 << 20;
/// After so long without news a comment is sent, so that proxies and both ends see that the connection lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const COMMENT: &str = ": nothing new\n\n";
/// A silent attempt ends without a last frame, so now and then it is looked whether it is over.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The event after which a client wants to go on.
pub(super) fn last_event_id(headers: &HeaderMap) -> Result<u64, Problem> {
    let Some(id) = headers.get("last-event-id") else { return Ok(0) };
    let number = id.to_str().ok().and_then(|id| id.parse().ok());
    number.ok_or_else(|| {
        Problem::new("bad-parameter", "the header Last-Event-ID is not a number")
            .hint("Send the `id` of the last event that was received, or leave the header out to begin with the first.")
    })
}

/// A client that comes back for more of what has ended is told that there is no more, and browsers cease to come back.
fn no_more() -> Response {
    StatusCode::NO_CONTENT.into_response()
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
pub(super) fn run_events(app: Arc<App>, stored: &StoredRun, after: u64) -> Result<Response, Problem> {
    let (run, last) = (stored.run.id, stored.last_event);
    if after > last {
        let detail = format!("run {run} has had {last} events; there is none with the number {after}");
        return Err(Problem::new("bad-parameter", detail));
    }
    let states = [RunState::Succeeded, RunState::Failed, RunState::Cancelled];
    if after == last && states.iter().any(|state| state.name() == stored.state) {
        return Ok(no_more());
    }
    Ok(respond(unfold(Some((app, after)), move |state| async move {
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
            match tokio::time::timeout(KEEP_ALIVE, app.store.follow(Topic::Run(run), after)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Some((Err(error.into()), None)),
                Err(_) => return Some((Ok(COMMENT.into()), Some((app, after)))),
            }
        }
    })))
}

/// Follows a log until its attempt is over.
pub(super) async fn log_events(app: Arc<App>, stored: &StoredAttempt, after: u64) -> Result<Response, Problem> {
    let attempt = stored.attempt.id;
    if is_over(stored) && frames(&app, attempt, after).await?.is_empty() {
        return Ok(no_more());
    }
    Ok(respond(unfold(Some((app, after)), move |state| async move {
        let (app, after) = state?;
        for _ in 0..KEEP_ALIVE.as_millis() / LOOK_AGAIN.as_millis() {
            let news = app.attempts.log_news(attempt);
            // Looked at before the frames are: what was written before the end is among them.
            let over = match app.store.read(&Who::default(), Query::Attempt(attempt)).await {
                Ok(Answer::Attempt(found)) => is_over(&found),
                Ok(_) => true,
                Err(error) => return Some((Err(error.into()), None)),
            };
            let found = match frames(&app, attempt, after).await {
                Ok(found) => found,
                Err(problem) => return Some((Err(problem), None)),
            };
            if let Some(last) = found.last().map(|frame| frame.seq) {
                let text: String = found.iter().map(|f| event(f.seq, "frame", &frame(f))).collect();
                return Some((Ok(text.into()), Some((app, last))));
            }
            if over {
                return None;
            }
            let written = async {
                if let Some(mut news) = news
                    && news.wait_for(|last| *last > after).await.is_ok()
                {
                    return;
                }
                // Nobody writes it at this moment.
                std::future::pending().await
            };
            // Either there is something, or it is time to look again.
            let _ = tokio::time::timeout(LOOK_AGAIN, written).await;
        }
        Some((Ok(COMMENT.into()), Some((app, after))))
    })))
}

fn is_over(stored: &StoredAttempt) -> bool {
    stored.attempt.cleanup.is_some()
}

/// Some frames of a log, read off the async threads.
async fn frames(app: &App, attempt: AttemptId, after: u64) -> Result<Vec<Frame>, Problem> {
    let folder = app.attempts.logs();
    let read = tokio::task::spawn_blocking(move || read_some(&folder, attempt, after, usize::MAX, PIECE)).await;
    read.map(|(frames, _)| frames).map_err(|e| Problem::new("internal", e.to_string()))
}
