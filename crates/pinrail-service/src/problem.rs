//! What went wrong, for people and programs: RFC 9457 problem details with a stable code, a hint and whether trying
//! again may help. HTTP status codes are given here and nowhere else.

use pinrail_model::seam::store::StoreError;
use serde::ser::{Serialize, SerializeMap, Serializer};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

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

/// All codes with their status and what they mean, a sentence each; one that is not here is ours to mend and counts as 500.
pub const CODES: &[(&str, u16, &str)] = &[
    ("bad-request", 400, "The body is JSON but not what this operation takes; `pointer` says where."),
    ("bad-json", 400, "The body is not JSON; `line` and `column` say where."),
    ("unknown-field", 400, "The body has a field that this operation does not know; `pointer` says which."),
    ("unknown-parameter", 400, "The URL has a query parameter that this operation does not know."),
    ("bad-parameter", 400, "A parameter, of the URL or of the workflow, has a value that is not allowed."),
    ("bad-cursor", 400, "The cursor is not one that this list gave."),
    ("bad-bundle", 400, "A bundle or one of its files is not allowed, not complete, or not known."),
    ("bad-sql", 400, "The SQL text cannot be run; `detail` begins with line and column."),
    ("bad-channel", 400, "A channel for notices is not declared as it must be; `detail` says why."),
    ("bad-secret", 400, "The name or the value of a secret is not allowed; `detail` says why."),
    ("definition-errors", 400, "The workflow files have errors; `diagnostics` lists them with their places."),
    ("interpreter-failed", 400, "The Python interpreter cannot be started, or is none; `detail` says what it did."),
    ("packages-unreachable", 503, "The index that packages of a Python environment come from cannot be reached."),
    ("environment-failed", 501, "The server's machine cannot build a Python environment; `detail` says what it lacks."),
    ("executor-impossible", 400, "The chosen executor cannot run this kind of job."),
    ("worker-version", 400, "The worker speaks another version of the protocol than the server."),
    ("job-not-found", 400, "The request names a job that the workflow or the run does not have."),
    ("token-missing", 401, "There is no bearer token in the header `Authorization`."),
    ("token-invalid", 401, "The bearer token is unknown, expired or revoked."),
    ("role-too-low", 403, "The token's role does not allow this; `detail` names the role that does."),
    ("route-not-found", 404, "There is nothing at this path."),
    ("project-not-found", 404, "There is no such project that the token can see."),
    ("workflow-not-found", 404, "There is no such workflow in the bundle, or none is deployed."),
    ("run-not-found", 404, "There is no such run that the token can see."),
    ("target-not-found", 404, "The project declares no such target, or nothing is deployed to it."),
    ("attempt-not-found", 404, "There is no such attempt that the token can see."),
    ("version-not-found", 404, "The version of the workflow is not known."),
    ("file-not-found", 404, "The run left no such file, or the project has none."),
    ("query-not-found", 404, "There is no such query that the token can see."),
    ("worker-not-found", 404, "No worker of this name is connected."),
    ("schedule-not-found", 404, "There is no deployed workflow of that name with a schedule."),
    ("backfill-not-found", 404, "There is no such backfill that the token can see."),
    ("token-not-found", 404, "There is no such token that the caller can see."),
    ("channel-not-found", 404, "The project has no such channel for notices, or it is not deployed."),
    ("pool-not-found", 404, "The project has no such pool."),
    ("secret-not-found", 404, "The project has no such secret."),
    ("method-not-allowed", 405, "The path exists but not with this method; the header `Allow` lists those that do."),
    ("run-exists", 409, "A run for the same workflow and interval is active; `run` names it."),
    ("name-taken", 409, "There is one already whose name differs only in case."),
    ("worker-exists", 409, "A worker of this name is connected, or was until a moment ago."),
    ("worker-refused", 409, "The server does not take this worker; `detail` says why."),
    ("session-closed", 409, "The session of this worker is over: its lease ran out, or the server is another one."),
    ("target-protected", 409, "The target takes runs of deployed code only."),
    ("wrong-state", 409, "The thing is not in a state that allows this."),
    ("project-refused", 409, "The server does not take this project; `detail` says why."),
    ("parents-missing", 409, "Jobs that the selection leaves out have not succeeded for the same interval."),
    ("reply-not-kept", 409, "A request with this idempotency key was carried out, but its reply was not kept."),
    ("result-gone", 410, "The result of the query is no longer kept."),
    ("too-large", 413, "The body has more bytes than this operation takes; `limit` says how many it takes."),
    ("idempotency-mismatch", 422, "The idempotency key came before with another request."),
    ("internal", 500, "Something that should not happen has happened; the server's log says more."),
    ("bad-document", 500, "A stored workflow document cannot be read by this version."),
    ("engine-missing", 501, "This build has no SQL engine."),
    ("isolation-missing", 501, "This system does not let workflow files be loaded without a network."),
    ("state-failed", 503, "The state database or folder could not be read or written."),
    ("owner-gone", 503, "The server is stopping, or has not yet applied what it accepted."),
];

/// The page of all codes.
#[must_use]
pub fn codes_markdown() -> String {
    let mut page = String::from("| code | status | retry helps | meaning |\n|---|---|---|---|\n");
    for (code, status, meaning) in CODES {
        let helps = if retry_helps(*status) { "yes" } else { "no" };
        page.push_str(&format!("| <a id=\"{code}\"></a>`{code}` | {status} | {helps} | {meaning} |\n"));
    }
    page
}

/// Whether the same request may succeed later although nobody has mended anything.
fn retry_helps(status: u16) -> bool {
    status == 503
}

impl Problem {
    pub const MEDIA_TYPE: &str = "application/problem+json";

    #[must_use]
    pub fn new(code: &'static str, detail: impl Into<String>) -> Self {
        let status = CODES.iter().find(|(known, ..)| *known == code).map_or(500, |(_, status, _)| *status);
        let retryable = retry_helps(status);
        Self { code, status, detail: detail.into(), hint: None, retryable, more: serde_json::Map::new() }
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

impl PartialSchema for Problem {
    fn schema() -> RefOr<Schema> {
        let text = |description: &str| ObjectBuilder::new().schema_type(Type::String).description(Some(description));
        let object = ObjectBuilder::new()
            .description(Some("What went wrong (RFC 9457). Some codes have further members."))
            .property("type", text("Where the code is explained, relative to the server."))
            .property("code", text("Stable, for programs."))
            .property("title", text("The code in words."))
            .property("status", ObjectBuilder::new().schema_type(Type::Integer).description(Some("As in the answer.")))
            .property("detail", text("What happened, with the names and values of this request."))
            .property("hint", text("What to do about it: a sentence."))
            .property(
                "retryable",
                ObjectBuilder::new()
                    .schema_type(Type::Boolean)
                    .description(Some("Whether the same request may succeed later.")),
            );
        let required = ["type", "code", "title", "status", "detail", "retryable"];
        let object = required.into_iter().fold(object, ObjectBuilder::required);
        Schema::Object(object.build()).into()
    }
}

impl ToSchema for Problem {}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::new("state-failed", error.to_string())
            .hint("Try again; if it persists, look at the disk and the server's log.")
    }
}
