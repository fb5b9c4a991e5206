//! How commands end when they do not succeed: a message for people and an exit code for scripts.

use std::process::ExitCode;

use serde_json::Value;

use crate::output::{hint, visible};

/// The exit codes of every command.
pub const FAILED: u8 = 1;
pub const USAGE: u8 = 2;
pub const DEFINITION: u8 = 3;
pub const REFUSED: u8 = 4;
pub const CANCELLED: u8 = 5;
pub const UNREACHABLE: u8 = 6;
pub const DETACHED: u8 = 130;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    pub message: String,
    pub hint: Option<String>,
    /// The server's problem document, for `--json`.
    pub problem: Option<Box<Value>>,
}

impl Failure {
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, problem: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Tells it and gives the exit code.
    pub fn tell(&self, json: bool) -> ExitCode {
        if json {
            let document = self.problem.as_deref().cloned().unwrap_or_else(
                || serde_json::json!({"code": "command-failed", "detail": self.message, "hint": self.hint}),
            );
            println!("{document}");
        }
        if !self.message.is_empty() {
            eprintln!("error: {}", visible(&self.message));
        }
        if let Some(text) = &self.hint {
            eprintln!("  hint: {}", hint(&visible(text)));
        }
        ExitCode::from(self.code)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(FAILED, error.to_string())
    }
}

impl From<pinrail_service::bundles::BundleError> for Failure {
    fn from(error: pinrail_service::bundles::BundleError) -> Self {
        let hint = error.hint();
        Self::new(REFUSED, error.to_string()).hint(hint)
    }
}

impl From<pinrail_service::project::ProjectError> for Failure {
    fn from(error: pinrail_service::project::ProjectError) -> Self {
        Self { hint: error.hint.clone(), ..Self::new(DEFINITION, error.to_string()) }
    }
}
