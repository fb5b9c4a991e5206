//! What every request begins with: the caller, a body, parameters; and what every error ends as.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use pinrail_model::near::nearest;
use serde::de::DeserializeOwned;

use crate::app::App;
use crate::problem::Problem;
use crate::tokens::Principal;

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(code = self.code, detail = self.detail, "a request failed");
        }
        let mut response = (status, Json(&self)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
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
        let header = parts.headers.get(header::AUTHORIZATION).ok_or_else(missing)?;
        let token = header.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).ok_or_else(missing)?;
        app.authenticate(token.trim()).await.map(Self)
    }
}

/// A JSON body of a known shape, whatever content type it came with: `curl -d` sends forms.
pub(super) struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        let bytes = Bytes::from_request(request, app).await.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                Problem::new("too-large", "the body is too large")
            } else {
                Problem::new("bad-request", rejection.body_text())
            }
        })?;
        let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(bytes).map(Self).map_err(|e| json_problem(&e))
    }
}

fn json_problem(error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    if error.is_data() {
        let problem =
            Problem::new(if text.starts_with("unknown field") { "unknown-field" } else { "bad-request" }, text.clone());
        return match unknown_field(&text) {
            Some((name, known)) => match nearest(&name, known.iter().map(String::as_str)) {
                Some(near) => problem.hint(format!("Did you mean \"{near}\"?")),
                None => problem,
            },
            None => problem,
        };
    }
    Problem::new("bad-json", format!("the body is not JSON: {text}"))
}

/// The name and the candidates in serde's message "unknown field `x`, expected one of `a`, `b`".
fn unknown_field(text: &str) -> Option<(String, Vec<String>)> {
    let mut quoted = text.split('`').skip(1).step_by(2).map(str::to_owned);
    let name = quoted.next()?;
    text.starts_with("unknown field").then(|| (name, quoted.collect()))
}

/// Query parameters of a known shape; an unknown one is an error that names the nearest.
pub(super) struct Parameters<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<Arc<App>> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Problem> {
        match axum::extract::Query::<T>::try_from_uri(&parts.uri) {
            Ok(query) => Ok(Self(query.0)),
            Err(rejection) => {
                let text = rejection.body_text();
                let text = text.rsplit_once(": ").map_or(text.as_str(), |(_, last)| last).to_owned();
                Err(match unknown_field(&text) {
                    Some((name, known)) => {
                        let problem = Problem::new("unknown-parameter", format!("unknown parameter \"{name}\""));
                        match nearest(&name, known.iter().map(String::as_str)) {
                            Some(near) => problem.hint(format!("Did you mean \"{near}\"?")),
                            None => problem.hint(format!("Known are {}.", known.join(", "))),
                        }
                    }
                    None => Problem::new("bad-parameter", text),
                })
            }
        }
    }
}

/// A part of the path of a known kind; what cannot be one is not found.
pub(super) fn part<T: std::str::FromStr>(code: &'static str, what: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(80).collect();
        let problem = Problem::new(code, format!("no {what} \"{shown}\" in the projects that this token can see"));
        if code == "run-not-found" { problem.hint("List runs with GET /api/v1/runs.") } else { problem }
    })
}
