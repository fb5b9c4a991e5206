//! Whose fault a failure is, with the evidence for it. Without evidence it is `unknown`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Whose fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The job's own code, query or command.
    User,
    /// The data did not pass a check.
    Data,
    /// A job that this one needs did not succeed.
    Upstream,
    /// Pinrail itself, or the machine under it.
    Platform,
    /// A system that neither the user nor Pinrail runs.
    External,
    /// Another writer changed the same table or partition.
    Conflict,
    /// Somebody stopped it.
    Cancelled,
    /// It exceeded its own time limit.
    Timeout,
    /// It exceeded its own memory limit, or the machine's.
    OutOfMemory,
    /// There is no evidence for any of the others.
    Unknown,
}

impl Fault {
    pub const ALL: [Self; 10] = [
        Self::User,
        Self::Data,
        Self::Upstream,
        Self::Platform,
        Self::External,
        Self::Conflict,
        Self::Cancelled,
        Self::Timeout,
        Self::OutOfMemory,
        Self::Unknown,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Data => "data",
            Self::Upstream => "upstream",
            Self::Platform => "platform",
            Self::External => "external",
            Self::Conflict => "conflict",
            Self::Cancelled => "cancelled",
            Self::Timeout => "timeout",
            Self::OutOfMemory => "out-of-memory",
            Self::Unknown => "unknown",
        }
    }

    /// Whether the job is tried again unless it says otherwise. A job killed by nobody knows whom may well pass next
    /// time; a failed check or a job too large for its memory will not.
    #[must_use]
    pub fn retried_by_default(self) -> bool {
        matches!(self, Self::User | Self::External | Self::Timeout | Self::Unknown)
    }

    /// How many attempts of one generation may end with this fault at no cost to the user's retries.
    #[must_use]
    pub fn free_attempts(self) -> u32 {
        match self {
            Self::Platform => 3,
            Self::External | Self::Conflict => 5,
            _ => 0,
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|fault| fault.name() == text).ok_or_else(|| format!("\"{text}\" is not a fault"))
    }
}

/// Where in the user's own code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CodePlace {
    pub file: String,
    pub line: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// The fact that holds the code of a statement's error, such as `column-not-found`.
pub const ERROR: &str = "error";

/// What is known of a failure: enough to answer "what happened, where, what now" without a log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Evidence {
    /// What happened, one lower-case line without full stop.
    pub message: String,
    /// What to do about it: a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// The user's frames, innermost last; nothing of ours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub code: Vec<CodePlace>,
    /// Measured facts, such as `exit code` `3`, `signal` `KILL`, `check` `enough flights`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<(String, String)>,
}

impl Evidence {
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::default() }
    }

    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    #[must_use]
    pub fn fact(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.facts.push((name.into(), value.to_string()));
        self
    }
}
