//! What every request begins with: the caller, the parts of the path, parameters, a body; and what every error ends as.

use std::sync::Arc;

use axum::Json;
use axum::body::to_bytes;
use axum::extract::{FromRequest, FromRequestParts, MatchedPath, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use pinrail_model::document::Sha;
use pinrail_model::ids::{AttemptId, BackfillId, QueryId, RunId, TokenId};
use pinrail_model::names::{ProjectName, WorkflowName};
use pinrail_model::near::nearest;
use serde::de::DeserializeOwned;
use serde_path_to_error::{Path, Segment};

use super::document;
use super::once::Once;
use crate::app::{App, attempt_not_found, run_not_found, token_not_found};
use crate::planning::backfill_not_found;
use crate::problem::Problem;
use crate::queries::query_not_found;
use crate::tokens::{Principal, project_not_found};

/// The largest JSON body.
pub(super) const LARGEST_BODY: usize = 4 << 20;
/// The largest file: a bundle's own limit.
const LARGEST_BLOB: usize = crate::bundles::LARGEST as usize;

/// The longest text for people: a paragraph.
const LONGEST_TEXT: usize = 1000;

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(code = self.code, detail = self.detail, "a request failed");
        }
        let mut response = (status, Json(&self)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(Problem::MEDIA_TYPE));
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The caller, known by a good bearer token.
pub(super) struct Caller(pub Principal);

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let missing = || {
            Problem::new("token-missing", "this needs a bearer token")
                .hint("Send the header `Authorization: Bearer TOKEN`; `pinrail token create` makes one.")
        };
        let header = parts.headers.get(header::AUTHORIZATION).and_then(|header| header.to_str().ok());
        let (scheme, token) = header.and_then(|header| header.split_once(' ')).ok_or_else(missing)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(missing());
        }
        app.authenticate(token.trim()).await.map(Self)
    }
}

/// The variable parts of the path, in their order; what cannot be what it should is not found.
pub(super) struct At<T>(pub T);

/// One variable part of a path.
pub(super) trait Part: Sized {
    fn read(text: &str) -> Result<Self, Problem>;
}

/// Enough of what somebody sent to recognise it by.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

macro_rules! parts {
    ($($kind:ty, $problem:expr;)*) => {$(
        impl Part for $kind {
            fn read(text: &str) -> Result<Self, Problem> {
                let problem: fn(&str) -> Problem = $problem;
                text.parse().map_err(|_| problem(&shown(text)))
            }
        }
    )*};
}

parts! {
    ProjectName, project_not_found;
    RunId, run_not_found;
    BackfillId, |text| backfill_not_found(text);
    WorkflowName, |text| Problem::new("schedule-not-found", format!("no deployed workflow \"{text}\" has a schedule"));
    AttemptId, attempt_not_found;
    TokenId, token_not_found;
    QueryId, query_not_found;
    Sha, |text| Problem::new("bad-bundle", format!("\"{text}\" is not a SHA-256"));
    String, |text| Problem::new("route-not-found", format!("there is nothing at \"{text}\""));
}

async fn path_parts(parts: &mut Parts, app: &Arc<App>) -> Result<std::vec::IntoIter<String>, Problem> {
    let found = RawPathParams::from_request_parts(parts, app).await;
    let found = found.map_err(|rejection| Problem::new("route-not-found", rejection.body_text()))?;
    Ok(found.iter().map(|(_, text)| text.to_owned()).collect::<Vec<_>>().into_iter())
}

fn next<T: Part>(parts: &mut impl Iterator<Item = String>) -> Result<T, Problem> {
    T::read(&parts.next().ok_or_else(|| Problem::new("internal", "the path has too few parts"))?)
}

impl<A: Part> FromRequestParts<Arc<App>> for At<A> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        Ok(Self(next(&mut path_parts(parts, app).await?)?))
    }
}

impl<A: Part, B: Part> FromRequestParts<Arc<App>> for At<(A, B)> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let mut found = path_parts(parts, app).await?;
        Ok(Self((next(&mut found)?, next(&mut found)?)))
    }
}

impl<A: Part, B: Part, C: Part> FromRequestParts<Arc<App>> for At<(A, B, C)> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let mut found = path_parts(parts, app).await?;
        Ok(Self((next(&mut found)?, next(&mut found)?, next(&mut found)?)))
    }
}

/// A JSON body of a known shape, whatever content type it came with: `curl -d` sends forms.
pub(super) struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Arc<App>) -> Result<Self, Problem> {
        let bytes = read_body(request.into_body(), LARGEST_BODY).await?;
        let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        // First whether it is JSON at all, with the place where it ceases to be; then whether it is the right JSON.
        let Once(value) = serde_json::from_slice(bytes).map_err(|error| {
            let text = error.to_string();
            let is_json = text.starts_with("number out of range") || error.is_data();
            let what = if is_json { "cannot be read" } else { "is not JSON" };
            Problem::new("bad-json", format!("the body {what}: {text}"))
                .with("line", error.line())
                .with("column", error.column())
        })?;
        if !value.is_object() {
            // What it is instead is not quoted: it may be a secret without its braces.
            return Err(Problem::new("bad-request", "the body must be a JSON object").with("pointer", ""));
        }
        serde_path_to_error::deserialize(value).map(Self).map_err(|error| {
            let text = error.inner().to_string();
            misfit(&text, error.path())
        })
    }
}

/// The bytes of a file.
pub(super) struct Bytes(pub Vec<u8>);

impl FromRequest<Arc<App>> for Bytes {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Arc<App>) -> Result<Self, Problem> {
        Ok(Self(read_body(request.into_body(), LARGEST_BLOB).await?.into()))
    }
}

/// All of a body that is not too large.
pub(super) async fn read_body(body: axum::body::Body, limit: usize) -> Result<axum::body::Bytes, Problem> {
    to_bytes(body, limit).await.map_err(|error| {
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(found) = cause {
            if found.is::<http_body_util::LengthLimitError>() {
                let detail = format!("the body has more than {limit} bytes ({} MiB)", limit >> 20);
                return Problem::new("too-large", detail).with("limit", limit);
            }
            cause = found.source();
        }
        Problem::new("bad-request", format!("the body ended before its end: {error}"))
    })
}

/// A body that is JSON but not of the right shape, with a pointer to the place.
fn misfit(text: &str, path: &Path) -> Problem {
    let (code, detail, hint) = match unknown(text) {
        Some(Unknown { what: "field", name, known }) => {
            ("unknown-field", format!("unknown field \"{name}\""), suggestion(&name, &known))
        }
        Some(Unknown { what, name, known }) => {
            ("bad-request", format!("unknown {what} \"{name}\""), suggestion(&name, &known))
        }
        None => ("bad-request", wrong_kind(text).unwrap_or_else(|| text.to_owned()), None),
    };
    let pointer = pointer(path);
    let at = if pointer.is_empty() { String::new() } else { format!(" (at {pointer})") };
    let problem = Problem::new(code, format!("{detail}{at}")).with("pointer", pointer);
    Problem { hint, ..problem }
}

/// A JSON pointer (RFC 6901).
fn pointer(path: &Path) -> String {
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => pointer.push_str(&format!("/{}", key.replace('~', "~0").replace('/', "~1"))),
            Segment::Enum { variant } => pointer.push_str(&format!("/{variant}")),
            Segment::Unknown => {}
        }
    }
    pointer
}

/// A name that is not among those that are known.
struct Unknown<'a> {
    /// `field` or `value`.
    what: &'a str,
    name: String,
    known: Vec<String>,
}

/// A text for people, which is kept and shown: not empty, not a book.
pub(super) fn short_text(pointer: &str, text: String) -> Result<String, Problem> {
    let length = text.chars().count();
    if (1..=LONGEST_TEXT).contains(&length) {
        return Ok(text);
    }
    let detail = format!("a text of 1 to {LONGEST_TEXT} characters is wanted, not of {length} (at {pointer})");
    Err(Problem::new("bad-request", detail).with("pointer", pointer))
}

/// The name and the candidates in serde's message "unknown field `x`, expected one of `a`, `b`".
fn unknown(text: &str) -> Option<Unknown<'static>> {
    let what = if text.starts_with("unknown field") {
        "field"
    } else if text.starts_with("unknown variant") {
        "value"
    } else {
        return None;
    };
    let mut quoted = text.split('`').skip(1).step_by(2).map(str::to_owned);
    Some(Unknown { what, name: shown(&quoted.next()?), known: quoted.collect() })
}

/// serde's message "invalid type: string "x", expected a sequence" in the words of JSON.
fn wrong_kind(text: &str) -> Option<String> {
    let rest = text.strip_prefix("invalid type: ").or_else(|| text.strip_prefix("invalid value: "))?;
    let (found, expected) = rest.split_once(", expected ")?;
    let found = match found {
        "map" => "an object".to_owned(),
        "sequence" => "a list".to_owned(),
        "null" | "unit value" => "null".to_owned(),
        other => other.replacen("string", "the text", 1).replacen("boolean", "the value", 1),
    };
    let expected = match expected {
        "a sequence" => "a list",
        "a map" => "an object",
        "a string" | "string" => "a text",
        "a boolean" => "true or false",
        "map with a single key" => "an object with exactly one field",
        number if number.starts_with(['u', 'i']) && number[1..].parse::<u8>().is_ok() => "a whole number",
        other => other,
    };
    Some(format!("{expected} is wanted, not {found}"))
}

/// "Did you mean", or all that there is.
fn suggestion(name: &str, known: &[impl AsRef<str>]) -> Option<String> {
    let known: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
    match nearest(name, known.iter().copied()) {
        Some(near) => Some(format!("Did you mean \"{near}\"?")),
        None if known.is_empty() => None,
        None => Some(format!("Known: {}.", known.join(", "))),
    }
}

/// Refuses query parameters that the operation does not have, naming the nearest that it has.
pub(super) async fn known_parameters(request: Request, next: Next) -> Result<Response, Problem> {
    if let (Some(query), Some(path)) = (request.uri().query(), request.extensions().get::<MatchedPath>()) {
        let known = document::parameters(request.method().as_str(), path.as_str());
        let mut given = form_urlencoded::parse(query.as_bytes());
        if let Some((name, _)) = given.find(|(name, _)| !known.contains(&name.as_ref())) {
            let problem = Problem::new("unknown-parameter", format!("unknown parameter \"{}\"", shown(&name)));
            return Err(Problem { hint: suggestion(&name, &known), ..problem });
        }
    }
    Ok(next.run(request).await)
}

/// How the standard library's integers say that they could not be read.
const NO_NUMBER: [&str; 3] = ["invalid digit found", "cannot parse integer", "number too"];

/// Query parameters of a known shape.
pub(super) struct Parameters<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<Arc<App>> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Problem> {
        let rejection = match axum::extract::Query::<T>::try_from_uri(&parts.uri) {
            Ok(query) => return Ok(Self(query.0)),
            Err(rejection) => rejection,
        };
        let source = std::error::Error::source(&rejection).map_or_else(|| rejection.body_text(), ToString::to_string);
        // The parameter's name, where there is one, stands before the reason.
        let (name, reason) = source.split_once(": ").unwrap_or(("", &source));
        if let Some(twice) = reason.strip_prefix("duplicate field `").and_then(|rest| rest.strip_suffix('`')) {
            return Err(Problem::new("bad-parameter", format!("parameter \"{twice}\" is given twice")));
        }
        let given = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        let given = given.filter(|(known, _)| known == name).map(|(_, value)| shown(&value)).next().unwrap_or_default();
        Err(match unknown(reason) {
            Some(Unknown { name: value, known, .. }) => {
                let problem = Problem::new("bad-parameter", format!("parameter \"{name}\": unknown value \"{value}\""));
                Problem { hint: suggestion(&value, &known), ..problem }
            }
            None if name.is_empty() => Problem::new("bad-parameter", reason),
            None if NO_NUMBER.iter().any(|said| reason.starts_with(said)) => Problem::new(
                "bad-parameter",
                format!("parameter \"{name}\": \"{given}\" is not a number that it can be"),
            )
            .hint("Write a whole number."),
            None => Problem::new("bad-parameter", format!("parameter \"{name}\": {reason}")),
        })
    }
}
