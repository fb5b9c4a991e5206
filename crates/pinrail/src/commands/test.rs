//! The project's own tests.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use pinrail_service::project::Project;
use serde_json::{Value, json};

use super::environments::prepare;
use super::project::tell_definition_errors;
use super::sdk;
use crate::client::Place;
use crate::failure::{DETACHED, FAILED, Failure, REFUSED, USAGE};
use crate::interrupts;
use crate::output::Output;
use crate::python::{Interpreter, interpreter_of};

/// Where a project's tests are.
const FOLDER: &str = "tests";

/// Runs pytest over the project with its interpreter; what follows `--` is pytest's.
pub fn test(place: &Place, output: Output, extras: &[String], arguments: &[String]) -> Result<ExitCode, Failure> {
    let project = place.project()?;
    if arguments.is_empty() && !project.folder.join(FOLDER).is_dir() {
        return Err(Failure::new(REFUSED, format!("the project \"{}\" has no folder {FOLDER}/", project.name))
            .hint("Put files like tests/test_load.py there; `pinrail init --example tiny NAME` shows some."));
    }
    let environment = environment(place, output, &project, extras)?;
    let python =
        environment.as_ref().map_or_else(|| interpreter_of(Some(&project)), |folder| folder.join("bin/python"));
    let interpreter = Interpreter::ask(&python)?;
    if interpreter.pytest.is_none() && environment.is_some() {
        return Err(Failure::new(FAILED, "pytest is not in the project's lock").hint(
            "Add it, or lock it as an extra and name that: `pinrail test --extra NAME`; see docs/environments.md.",
        ));
    }
    if interpreter.pytest.is_none() {
        return Err(Failure::new(FAILED, format!("pytest is not installed for \"{}\"", interpreter.executable))
            .hint(format!("Install it: {}", interpreter.install_command("pytest"))));
    }
    let mut command = Command::new(&interpreter.path);
    command.args(["-m", "pytest", "--rootdir", ".", "-o"]).arg(format!("testpaths={FOLDER}")).args(arguments);
    command.env("PYTHONPATH", python_path(&sdk::folder(place)?)?).env("PINRAIL_BIN", std::env::current_exe()?);
    command.current_dir(&project.folder).stdin(Stdio::null());
    if let Some(folder) = environment.as_ref().and_then(|folder| folder.parent()) {
        // The throw-away state folders of the tests need not build it again.
        command.env("PINRAIL_ENVIRONMENTS", folder);
    }
    if output.json {
        command.stdout(std::io::stderr());
    }
    // Ctrl-C reaches pytest as well, which sums up before it ends.
    interrupts::count();
    let status = command.status()?;
    output.document(&json!({
        "passed": status.success(),
        "exit_code": status.code(),
        "pytest": interpreter.pytest,
        "interpreter": interpreter.executable,
    }));
    // Pytest's own codes: 1 some failed, 2 interrupted, 4 wrong usage, 5 no tests.
    Ok(ExitCode::from(match status.code() {
        Some(0) => 0,
        Some(2) if interrupts::seen() > 0 => DETACHED,
        Some(4) => USAGE,
        None if status.signal() == Some(nix::libc::SIGINT) => DETACHED,
        _ => FAILED,
    }))
}

/// The folder of the project's Python environment with these extras, built if need be; none when it has no lock. Always of
/// this machine, where the tests run.
fn environment(
    place: &Place,
    output: Output,
    project: &Project,
    extras: &[String],
) -> Result<Option<PathBuf>, Failure> {
    if project.lock.is_none() {
        return match extras.first() {
            None => Ok(None),
            Some(extra) => Err(Failure::new(USAGE, format!("there is no extra \"{extra}\": the project has no lock"))
                .hint("Name a lock file in pinrail.toml: [python] lock = \"uv.lock\".")),
        };
    }
    let place = Place { url: None, token: None, ..place.clone() };
    let client = place.connect()?;
    let bundle = client.send_bundle(project, &place.state()?)?;
    let told = prepare(&client, project, &bundle, extras, output)?;
    let found = match told {
        Some(answer) => answer,
        // Asked once more for its words.
        None => client
            .post(&format!("/projects/{}/environments", project.name), &json!({"bundle": bundle, "extras": extras}))
            .inspect_err(|failure| tell_definition_errors(failure, output))?,
    };
    let named = |one: &&Value| one["extras"].as_array().is_some_and(|found| found.len() == extras.len());
    let folder =
        found["environments"].as_array().into_iter().flatten().find(named).and_then(|one| one["folder"].as_str());
    folder.map(|folder| Some(PathBuf::from(folder))).ok_or_else(|| {
        Failure::new(FAILED, "the project's Python environment cannot be had").hint("`pinrail check` says why.")
    })
}

/// The carried SDK first, so that tests see the one that runs the jobs.
fn python_path(sdk: &Path) -> Result<OsString, Failure> {
    let own = std::env::var_os("PYTHONPATH").filter(|path| !path.is_empty());
    let others = own.iter().flat_map(std::env::split_paths);
    std::env::join_paths(std::iter::once(sdk.to_owned()).chain(others))
        .map_err(|e| Failure::new(FAILED, format!("PYTHONPATH cannot be set: {e}")))
}
