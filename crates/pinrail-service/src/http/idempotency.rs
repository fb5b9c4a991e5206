//! Requests with an `Idempotency-Key` are carried out once: the reply is stored and given again.
//!
//! A request is noted before it is carried out and its reply before it is given, both under the caller's token. If the
//! server dies in between, nobody knows what became of it: the same request is then carried out again, and the key is
//! refused to any other. A run is made once even then, because the key is part of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use pinrail_model::document::Sha;
use pinrail_model::step;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::OwnedMutexGuard;

use super::extract::{Caller, LARGEST_BODY, read_body};
use crate::app::App;
use crate::problem::Problem;
use crate::tokens::Principal;

/// The header with the key.
pub(super) static KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(super) const LONGEST_KEY: usize = 255;
/// Replies of the API are small; a larger one is a result that can be asked for again.
const LARGEST_KEPT: usize = 256 << 10;

/// A mark on a reply that must not be stored, with the reason.
#[derive(Debug, Clone, Copy)]
pub(super) struct NotKept(pub &'static str);

/// What makes a request with a key unlike any other of its caller: the key and the digest of the request. With the
/// digest, a key that is used again after its reply was forgotten does not find what another request made.
#[derive(Debug, Clone)]
pub(super) struct OwnKey(pub String);

/// The key of a request.
fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(&KEY) else { return Ok(None) };
    match value.to_str() {
        Ok(text) if !text.is_empty() && text.len() <= LONGEST_KEY => Ok(Some(text.to_owned())),
        _ => {
            let detail = format!("the header Idempotency-Key must have 1 to {LONGEST_KEY} visible ASCII characters");
            Err(Problem::new("bad-parameter", detail))
        }
    }
}

/// The app, and the keys that requests are being carried out under at this moment.
#[derive(Clone)]
pub(super) struct Keyed {
    app: Arc<App>,
    turns: Arc<Turns>,
}

impl Keyed {
    pub fn new(app: Arc<App>) -> Self {
        Self { app, turns: Arc::default() }
    }
}

/// Lets requests with the same key wait for each other.
#[derive(Default)]
struct Turns(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

struct Turn {
    turns: Arc<Turns>,
    place: String,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<tokio::sync::Mutex<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take(self: &Arc<Self>, place: String) -> Turn {
        let mutex = Arc::clone(self.lock().entry(place.clone()).or_default());
        let guard = mutex.lock_owned().await;
        Turn { turns: Arc::clone(self), place, guard: Some(guard) }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut turns = self.turns.lock();
        self.guard = None;
        // Nobody else waits for it: whoever does holds a clone.
        if turns.get(&self.place).is_some_and(|mutex| Arc::strong_count(mutex) == 1) {
            turns.remove(&self.place);
        }
    }
}

/// A reply as it is stored.
#[derive(Serialize, Deserialize)]
struct Kept {
    content_type: Option<String>,
    location: Option<String>,
    body: String,
}

/// Gives a request with a known key the first reply again, and stores the replies of others.
pub(super) async fn replay(State(keyed): State<Keyed>, request: Request, next: Next) -> Result<Response, Problem> {
    if request.method() != Method::POST {
        return Ok(next.run(request).await);
    }
    let Some(key) = key(request.headers())? else { return Ok(next.run(request).await) };
    let (mut parts, body) = request.into_parts();
    let Caller(caller) = Caller::from_request_parts(&mut parts, &keyed.app).await?;
    let bytes = read_body(body, LARGEST_BODY).await?;
    let digest = Sha::of(&[parts.uri.to_string().as_bytes(), b"\n", &bytes].concat());
    parts.extensions.insert(OwnKey(format!("{key}/{digest}")));
    let request = Request::from_parts(parts, Body::from(bytes));
    // Carried out to its end even if the client goes away meanwhile.
    let carried = tokio::spawn(async move {
        let _turn = keyed.turns.take(format!("{}/{key}", caller.id)).await;
        carry_out(&keyed.app, Asked { caller: &caller, key: &key, digest }, request, next).await
    });
    carried.await.map_err(|e| Problem::new("internal", e.to_string()))?
}

/// Who asks with which key, and the digest of the request.
struct Asked<'a> {
    caller: &'a Principal,
    key: &'a str,
    digest: Sha,
}

async fn carry_out(app: &App, asked: Asked<'_>, request: Request, next: Next) -> Result<Response, Problem> {
    let Asked { caller, key, digest } = asked;
    let earlier = app.earlier(caller, key).await?;
    let first = earlier.is_none();
    if let Some(earlier) = earlier {
        if earlier.request != digest {
            return Err(Problem::new("idempotency-mismatch", format!("the key \"{key}\" came with another request"))
                .hint("Use a new key for a new request; the same one only to send the very same request again."));
        }
        if let Some(reply) = earlier.reply {
            return again(reply.status, &reply.body);
        }
    }
    app.begin(caller, key, digest).await?;
    let response = next.run(request).await;
    let status = response.status();
    if status.is_client_error() && first {
        // Refused, so nothing was done: the key is free for the request as it should have been.
        app.forget(caller, key).await?;
    }
    if !status.is_success() {
        return Ok(response);
    }
    let secret = response.extensions().get::<NotKept>().copied();
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.map_err(|e| Problem::new("internal", e.to_string()))?;
    let text = std::str::from_utf8(&bytes).ok().filter(|text| text.len() <= LARGEST_KEPT);
    let reason = secret.map(|NotKept(reason)| reason).or_else(|| text.is_none().then_some("is not a small text"));
    let (status, kept) = match (reason, text) {
        (None, Some(text)) => (parts.status, kept(&parts.headers, text)),
        (reason, _) => not_kept(key, reason.unwrap_or_default(), &bytes),
    };
    step!("reply.before-store");
    let stored = serde_json::to_string(&kept).unwrap_or_default();
    app.remember(caller, key, digest, status.as_u16(), stored).await?;
    step!("reply.after-store");
    Ok(Response::from_parts(parts, Body::from(bytes)))
}

fn kept(headers: &HeaderMap, body: &str) -> Kept {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    Kept { content_type: text(header::CONTENT_TYPE), location: text(header::LOCATION), body: body.to_owned() }
}

/// What stands for a reply that cannot be stored.
fn not_kept(key: &str, reason: &str, reply: &[u8]) -> (StatusCode, Kept) {
    let detail =
        format!("the first request with the key \"{key}\" was carried out; its reply {reason} and was not kept");
    let mut problem = Problem::new("reply-not-kept", detail)
        .hint("Look for what it made; to have another one made, use another key.");
    let made: Value = serde_json::from_slice(reply).unwrap_or_default();
    if let Some(id) = made["id"].as_str() {
        problem = problem.with("id", id);
    }
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::CONFLICT);
    let body = serde_json::to_string(&problem).unwrap_or_default();
    (status, Kept { content_type: Some(Problem::MEDIA_TYPE.to_owned()), location: None, body })
}

fn again(status: u16, stored: &str) -> Result<Response, Problem> {
    let broken = |e: String| Problem::new("internal", format!("a stored reply cannot be read: {e}"));
    let kept: Kept = serde_json::from_str(stored).map_err(|e| broken(e.to_string()))?;
    let status = StatusCode::from_u16(status).map_err(|e| broken(e.to_string()))?;
    let mut response = (status, kept.body).into_response();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    for (name, text) in [(header::CONTENT_TYPE, kept.content_type), (header::LOCATION, kept.location)] {
        if let Some(value) = text.and_then(|text| HeaderValue::from_str(&text).ok()) {
            headers.insert(name, value);
        }
    }
    headers.insert(HeaderName::from_static("idempotency-replayed"), HeaderValue::from_static("true"));
    Ok(response)
}
