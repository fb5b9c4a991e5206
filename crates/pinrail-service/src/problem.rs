//! What went wrong, for people and programs: RFC 9457 problem details with a stable code, a hint and whether trying
//! again may help. HTTP status codes are given here and nowhere else.

use pinrail_model::seam::store::StoreError;
use serde::ser::{Serialize, SerializeMap, Serializer};

/// An error as the API tells it. Type and title follow from the code.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    pub code: &'static str,
    pub status: u16,
    pub detail: String,
    pub hint: Option<String>,
    pub retryable: bool,
    /// Further members, such as the id of the active run.
    pub more: serde_json::Map<String, serde_json::Value>,
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", &format!("/docs/errors/{}", self.code))?;
        map.serialize_entry("code", self.code)?;
        map.serialize_entry("title", &self.code.replace('-', " "))?;
        map.serialize_entry("status", &self.status)?;
        map.serialize_entry("detail", &self.detail)?;
        if let Some(hint) = &self.hint {
            map.serialize_entry("hint", hint)?;
        }
        map.serialize_entry("retryable", &self.retryable)?;
        for (name, value) in &self.more {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// Codes with their status; an unknown one is ours to mend and counts as 500.
const STATUS: &[(&str, u16)] = &[
    ("bad-request", 400),
    ("bad-json", 400),
    ("unknown-field", 400),
    ("unknown-parameter", 400),
    ("bad-parameter", 400),
    ("bad-bundle", 400),
    ("bad-sql", 400),
    ("bad-secret", 400),
    ("definition-errors", 400),
    ("executor-impossible", 400),
    ("job-not-found", 400),
    ("token-missing", 401),
    ("token-invalid", 401),
    ("role-too-low", 403),
    ("route-not-found", 404),
    ("project-not-found", 404),
    ("workflow-not-found", 404),
    ("run-not-found", 404),
    ("attempt-not-found", 404),
    ("version-not-found", 404),
    ("file-not-found", 404),
    ("token-not-found", 404),
    ("secret-not-found", 404),
    ("method-not-allowed", 405),
    ("run-exists", 409),
    ("name-taken", 409),
    ("wrong-state", 409),
    ("parents-missing", 409),
    ("idempotency-conflict", 409),
    ("too-large", 413),
    ("engine-missing", 501),
    ("state-failed", 503),
    ("owner-gone", 503),
];

impl Problem {
    #[must_use]
    pub fn new(code: &'static str, detail: impl Into<String>) -> Self {
        let status = STATUS.iter().find(|(known, _)| *known == code).map_or(500, |(_, status)| *status);
        Self { code, status, detail: detail.into(), hint: None, retryable: status == 503, more: serde_json::Map::new() }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl Serialize) -> Self {
        self.more.insert(name.to_owned(), serde_json::to_value(value).unwrap_or_default());
        self
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::new("state-failed", error.to_string())
            .hint("Try again; if it persists, look at the disk and the server's log.")
    }
}
