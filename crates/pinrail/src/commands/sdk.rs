//! The SDK that the binary carries, for editors.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use serde_json::{Value, json};

use crate::client::Place;
use crate::failure::{FAILED, Failure, REFUSED};
use crate::output::{Output, cell};
use crate::python::{Interpreter, OLDEST, interpreter_of};
use crate::{sdk, state, user};

/// Where the carried SDK lies unpacked: in the project's state folder, or in the user's cache outside of a project.
pub fn folder(place: &Place) -> Result<PathBuf, Failure> {
    let below = if place.state.is_some() || place.project().is_ok() {
        state::make(&place.state()?)?
    } else {
        let cache = user::cache()?;
        user::make_private(&cache)?;
        cache
    };
    Ok(sdk::unpack(&below)?)
}

pub fn path(place: &Place, output: Output) -> Result<ExitCode, Failure> {
    let folder = folder(place)?;
    if !output.json {
        output.say(&folder.display().to_string());
    }
    output.document(&json!({"path": folder, "version": env!("CARGO_PKG_VERSION")}));
    Ok(ExitCode::SUCCESS)
}

pub fn install(place: &Place, output: Output, python: Option<&Path>, force: bool) -> Result<ExitCode, Failure> {
    let path = python.map_or_else(|| interpreter_of(place.project().ok().as_ref()), Path::to_owned);
    let interpreter = Interpreter::ask(&path)?;
    if !interpreter.is_new_enough() {
        let [major, minor] = OLDEST;
        let detail = format!("\"{}\" is Python {}", path.display(), interpreter.shown());
        return Err(Failure::new(REFUSED, detail).hint(format!("The SDK needs Python {major}.{minor} or later.")));
    }
    let sdk = folder(place)?;
    let mut command = Command::new(&interpreter.path);
    // The package installs itself: it knows its interpreter, and Python's own library writes its records.
    command.args(["-m", "pinrail._install"]).args(force.then_some("--force"));
    command.env("PYTHONPATH", &sdk).env("PYTHONDONTWRITEBYTECODE", "1").current_dir(&sdk).stdin(Stdio::null());
    let done = command.output()?;
    let answer: Value = serde_json::from_slice(&done.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&done.stderr);
        let last = said.lines().next_back().unwrap_or("it says nothing");
        Failure::new(FAILED, format!("the SDK cannot be installed with \"{}\": {last}", path.display()))
    })?;
    if let Some(message) = answer["error"].as_str() {
        return Err(Failure { hint: answer["hint"].as_str().map(str::to_owned), ..Failure::new(REFUSED, message) });
    }
    let instead = answer["replaced"].as_str().map_or_else(String::new, |old| format!(", instead of {old}"));
    output.say(&format!(
        "installed the SDK {} into {} (Python {}){instead}",
        cell(&answer["version"]),
        cell(&answer["path"]),
        interpreter.shown()
    ));
    output.document(&answer);
    Ok(ExitCode::SUCCESS)
}
