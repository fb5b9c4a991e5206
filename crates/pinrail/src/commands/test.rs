//! The project's own tests.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use serde_json::json;

use super::sdk;
use crate::client::Place;
use crate::failure::{DETACHED, FAILED, Failure, REFUSED, USAGE};
use crate::interrupts;
use crate::output::Output;
use crate::python::{Interpreter, interpreter_of};

/// Where a project's tests are.
const FOLDER: &str = "tests";

/// Runs pytest over the project with its interpreter; what follows `--` is pytest's.
pub fn test(place: &Place, output: Output, arguments: &[String]) -> Result<ExitCode, Failure> {
    let project = place.project()?;
    if arguments.is_empty() && !project.folder.join(FOLDER).is_dir() {
        return Err(Failure::new(REFUSED, format!("the project \"{}\" has no folder {FOLDER}/", project.name))
            .hint("Put files like tests/test_load.py there; `pinrail init --example tiny NAME` shows some."));
    }
    let interpreter = Interpreter::ask(&interpreter_of(Some(&project)))?;
    if interpreter.pytest.is_none() {
        return Err(Failure::new(FAILED, format!("pytest is not installed for \"{}\"", interpreter.executable))
            .hint(format!("Install it: {}", interpreter.install_command("pytest"))));
    }
    let mut command = Command::new(&interpreter.path);
    command.args(["-m", "pytest", "--rootdir", ".", "-o"]).arg(format!("testpaths={FOLDER}")).args(arguments);
    command.env("PYTHONPATH", python_path(&sdk::folder(place)?)?).env("PINRAIL_BIN", std::env::current_exe()?);
    command.current_dir(&project.folder).stdin(Stdio::null());
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

/// The carried SDK first, so that tests see the one that runs the jobs.
fn python_path(sdk: &Path) -> Result<OsString, Failure> {
    let own = std::env::var_os("PYTHONPATH").filter(|path| !path.is_empty());
    let others = own.iter().flat_map(std::env::split_paths);
    std::env::join_paths(std::iter::once(sdk.to_owned()).chain(others))
        .map_err(|e| Failure::new(FAILED, format!("PYTHONPATH cannot be set: {e}")))
}
