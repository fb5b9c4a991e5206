//! Workflow files of other tools as a project.
//!
//! The SDK that the binary carries does the reading, in the project's interpreter; it parses the files and imports none
//! of them. This module finds the project, and tells what came of it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use pinrail_service::project::{FILE, Project};
use serde::Deserialize;
use serde_json::Value;

use super::sdk;
use crate::client::Place;
use crate::failure::{FAILED, Failure, REFUSED};
use crate::output::{Output, grouped, plural};
use crate::python::{Interpreter, OLDEST, interpreter_of};

/// Isolated from the current folder and from the user's own packages, of which none may stand in for what the SDK
/// imports; the SDK's folder is the first argument.
const PROGRAM: &str = "import sys; sys.path.insert(0, sys.argv.pop(1)); \
                       from pinrail.importing.__main__ import main; sys.exit(main())";

/// What the SDK says of an import.
#[derive(Debug, Deserialize)]
struct Imported {
    files: Vec<String>,
    sources: Vec<Source>,
    notes: Vec<Note>,
}

#[derive(Debug, Deserialize)]
struct Source {
    workflows: Vec<String>,
    jobs: u64,
    unwritten: u64,
}

#[derive(Debug, Deserialize)]
struct Note {
    level: String,
    file: String,
    line: u64,
    what: String,
    todo: Option<String>,
}

/// Imports files of `tool` into the project of the current folder, or into a named one.
pub fn import(
    place: &Place,
    output: Output,
    tool: &str,
    paths: &[PathBuf],
    into: Option<&Path>,
) -> Result<ExitCode, Failure> {
    let (folder, is_new) = target(place, into)?;
    let project = if is_new { None } else { Some(Project::read(&folder.canonicalize()?)?) };
    let interpreter = Interpreter::ask(&interpreter_of(project.as_ref()))?;
    if !interpreter.is_new_enough() {
        let [major, minor] = OLDEST;
        let detail = format!("\"{}\" is Python {}", interpreter.executable, interpreter.shown());
        return Err(Failure::new(REFUSED, detail).hint(format!("The import needs Python {major}.{minor} or later.")));
    }
    let mut command = Command::new(&interpreter.path);
    command.args(["-I", "-B", "-c", PROGRAM]).arg(sdk::folder(place)?).arg(tool).arg("--into").arg(&folder);
    command.args(is_new.then_some("--new")).arg("--").args(paths).stdin(Stdio::null());
    let done = command.output()?;
    let document: Value = serde_json::from_slice(&done.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&done.stderr);
        let last = said.lines().next_back().unwrap_or("it says nothing");
        Failure::new(FAILED, format!("the import ended with an error of its own: {last}"))
    })?;
    if let Some(message) = document["error"].as_str() {
        return Err(Failure { hint: document["hint"].as_str().map(str::to_owned), ..Failure::new(REFUSED, message) });
    }
    let imported: Imported = serde_json::from_value(document.clone())
        .map_err(|e| Failure::new(FAILED, format!("the answer of the import cannot be read: {e}")))?;
    tell(output, tool, &imported, into);
    output.document(&document);
    Ok(ExitCode::SUCCESS)
}

/// The project's folder, and whether the project is yet to be made.
fn target(place: &Place, into: Option<&Path>) -> Result<(PathBuf, bool), Failure> {
    let Some(into) = into else {
        let project = place.project().map_err(|failure| Failure {
            hint: Some("Name the folder of a project, or one to be made: --into DIR.".to_owned()),
            ..failure
        })?;
        return Ok((project.folder, false));
    };
    if into.join(FILE).is_file() {
        return Ok((into.to_owned(), false));
    }
    let shown = into.display();
    match std::fs::read_dir(into).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok((into.to_owned(), true)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok((into.to_owned(), true)),
        Err(error) => Err(Failure::new(REFUSED, format!("\"{shown}\" cannot become a project: {error}"))),
        Ok(false) => Err(Failure::new(REFUSED, format!("the folder \"{shown}\" has files but no {FILE}"))
            .hint("Name another folder, or put a pinrail.toml into this one: an empty one makes it a project.")),
    }
}

fn tell(output: Output, tool: &str, imported: &Imported, into: Option<&Path>) {
    let with = imported.sources.iter().filter(|source| !source.workflows.is_empty());
    let (mut workflows, mut jobs, mut unwritten, mut sources) = (0, 0, 0, 0);
    for source in with {
        workflows += source.workflows.len() as u64;
        jobs += source.jobs;
        unwritten += source.unwritten;
        sources += 1;
    }
    let without = imported.sources.len() as u64 - sources;
    let rest =
        if without == 0 { String::new() } else { format!(" · {} without a workflow", plural(without, "other file")) };
    output.say(&format!(
        "{} with {} from {} · wrote {}{rest}",
        plural(workflows, "workflow"),
        plural(jobs, "job"),
        plural(sources, "file"),
        plural(imported.files.len() as u64, "file")
    ));
    if unwritten > 0 {
        let verb = if unwritten == 1 { "fails until it is" } else { "fail until they are" };
        output.say(&format!("{} of these jobs {verb} written: see below", grouped(unwritten)));
    }
    for (level, title) in [("changed", "translated with a difference"), ("left-out", "not translated")] {
        let notes: Vec<&Note> = imported.notes.iter().filter(|note| note.level == level).collect();
        if notes.is_empty() {
            continue;
        }
        output.say(&format!("\n{title}: {}", notes.len()));
        for note in notes {
            output.say(&format!("  {}:{}  {}", note.file, note.line, note.what));
            if let Some(todo) = &note.todo {
                output.say(&format!("      {}", output.dim(todo)));
            }
        }
    }
    let looks = imported.notes.iter().filter(|note| note.level == "cosmetic").count() as u64;
    if looks > 0 {
        let what = plural(looks, "setting");
        output.say(&format!("\nleft out because only the pages of {tool} use them: {what} (--json lists them)"));
    }
    let go = into.map_or_else(String::new, |into| format!("cd {} && ", into.display()));
    output.say(&format!("\nnext: {go}pinrail check"));
}
