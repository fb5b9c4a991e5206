//! What this machine has of what jobs need. Everything is tried, nothing is believed.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use pinrail_exec::confine::Hidden;
use pinrail_exec::users::Users;
use pinrail_exec::{Launcher, LocalSandbox};
use pinrail_model::seam::exec::{Sandbox, SandboxCommand};
use pinrail_service::environments::{Builder, builder};
use pinrail_service::project::Project;
use pinrail_store::SqliteStore;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::client::Place;
use crate::failure::{FAILED, Failure};
use crate::output::{Output, cell, visible};
use crate::python::{Interpreter, OLDEST, interpreter_of};
use crate::state::live;
use crate::user::make_private;

/// Less free space than this stops the state database sooner or later, and less than that at once.
const LITTLE_SPACE: u64 = 1 << 30;
const NO_SPACE: u64 = 64 << 20;
/// How long a contained process may take to look around.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of memory that it may take, many times of what it needs.
const MEMORY: u64 = 256 << 20;

/// What was found about one thing.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Ok,
    /// It is needed.
    Missing,
    /// Jobs run without it.
    Note,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, state: State::Ok, detail: detail.into(), remedy: None }
    }

    fn note(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { state: State::Note, remedy: Some(remedy.into()), ..Self::ok(name, detail) }
    }

    fn missing(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { state: State::Missing, remedy: Some(remedy.into()), ..Self::ok(name, detail) }
    }
}

pub fn doctor(place: &Place, output: Output) -> Result<ExitCode, Failure> {
    let mut checks = vec![system()];
    let project = place.project();
    checks.push(match &project {
        Ok(project) => Check::ok("project", format!("{} in {}", project.name, project.folder.display())),
        Err(failure) => Check::note("project", failure.message.clone(), failure.hint.clone().unwrap_or_default()),
    });
    let path = interpreter_of(project.as_ref().ok());
    let interpreter = Interpreter::ask(&path);
    checks.push(python(&interpreter));
    checks.extend(containment(interpreter.as_ref().ok()));
    checks.extend(state(&place.state()?));
    checks.push(server(place));
    checks.extend(project.as_ref().ok().and_then(|project| notices(place, project)));
    checks.push(engine());
    if let Ok(interpreter) = &interpreter {
        checks.push(builds(interpreter, project.as_ref().is_ok_and(|project| project.lock.is_some())));
        checks.extend(comforts(interpreter));
    }
    let ok = !checks.iter().any(|check| check.state == State::Missing);
    if !output.json {
        for check in &checks {
            output.say(&line(output, check));
        }
    }
    output.document(&json!({"ok": ok, "checks": checks}));
    Ok(ExitCode::from(if ok { 0 } else { FAILED }))
}

fn line(output: Output, check: &Check) -> String {
    let mark = match check.state {
        State::Ok => output.good("✔"),
        State::Missing => output.bad("✘"),
        State::Note => output.dim("–"),
    };
    let remedy = check.remedy.as_ref().map_or_else(String::new, |remedy| format!(" · {remedy}"));
    format!("  {mark} {:<18} {}{remedy}", check.name, check.detail)
}

fn system() -> Check {
    let Ok(found) = nix::sys::utsname::uname() else {
        return Check::missing("system", "the operating system does not say what it is", "Use Linux.");
    };
    let text = |part: &std::ffi::OsStr| part.to_string_lossy().into_owned();
    let shown = format!("{} {} on {}", text(found.sysname()), text(found.release()), text(found.machine()));
    if cfg!(target_os = "linux") {
        return Check::ok("system", shown);
    }
    Check::missing("system", shown, "Jobs are contained by means that only Linux has; run pinrail there.")
}

fn python(asked: &Result<Interpreter, Failure>) -> Check {
    match asked {
        Ok(interpreter) if interpreter.is_new_enough() => {
            Check::ok("python", format!("{} ({})", interpreter.shown(), interpreter.executable))
        }
        Ok(interpreter) => {
            let [major, minor] = OLDEST;
            let remedy =
                format!("Name Python {major}.{minor} or later in pinrail.toml: [python] interpreter = \"...\".");
            Check::missing("python", format!("{} ({})", interpreter.shown(), interpreter.executable), remedy)
        }
        Err(failure) => Check::missing("python", failure.message.clone(), failure.hint.clone().unwrap_or_default()),
    }
}

#[derive(Deserialize)]
struct Contained {
    no_new_privileges: bool,
    offline: bool,
    own_session: bool,
    adopts: bool,
    hidden: bool,
}

/// Starts a process as workflow files are compiled, and has it look around.
fn containment(interpreter: Option<&Interpreter>) -> Vec<Check> {
    let Some(interpreter) = interpreter else {
        return vec![Check::note("containment", "not looked at without Python", "Mend that first.")];
    };
    let found = match look_around(interpreter) {
        Ok(found) => found,
        Err(message) => {
            let remedy = "Workflow files are compiled without a network, in a user namespace of their own: allow these \
                          (sysctl kernel.apparmor_restrict_unprivileged_userns=0 or \
                          kernel.unprivileged_userns_clone=1; in a container its security options).";
            return vec![Check::missing("containment", message, remedy)];
        }
    };
    let check = |name, holds: bool, good: &str, bad: &str, remedy: &str| {
        if holds { Check::ok(name, good) } else { Check::missing(name, bad, remedy) }
    };
    let kernel = "Use a kernel that offers it, or a container that does not take it away.";
    vec![
        check(
            "namespaces",
            found.offline,
            "workflow files are compiled without a network",
            "the network cannot be taken from a process",
            kernel,
        ),
        check(
            "no-new-privileges",
            found.no_new_privileges,
            "jobs cannot gain privileges",
            "jobs could gain privileges",
            kernel,
        ),
        check(
            "subreaper",
            found.adopts && found.own_session,
            "no process escapes its job",
            "processes could escape their job",
            kernel,
        ),
        if found.hidden {
            Check::ok("landlock", "the state folder is hidden from jobs")
        } else {
            Check::note("landlock", NOT_HIDDEN, NOT_HIDDEN_REMEDY)
        },
    ]
}

/// What is said where the kernel offers nothing to hide the state folder with.
pub const NOT_HIDDEN: &str = "jobs can read the state folder: this kernel offers no Landlock";
pub const NOT_HIDDEN_REMEDY: &str =
    "Use Linux 5.19 or later with landlock among its security modules, in a container that lets it be used.";

fn look_around(interpreter: &Interpreter) -> Result<Contained, String> {
    let secret = Secret::new().map_err(|e| e.to_string())?;
    let hidden = Hidden::new(&secret.0, &[]).map_err(|e| e.to_string())?;
    let launcher = std::env::current_exe()
        .and_then(|binary| Launcher::start(&binary, hidden, Users::default()))
        .map_err(|e| e.to_string())?;
    let sandbox = LocalSandbox::new(Arc::new(launcher));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let argv = [&interpreter.path.display().to_string(), "-c", include_str!("doctor.py"), &secret.file()];
    let argv = argv.map(str::to_owned).to_vec();
    let cwd = PathBuf::from("/");
    let command = SandboxCommand {
        project: None,
        argv,
        env: BTreeMap::new(),
        cwd,
        limit: PATIENCE,
        memory: MEMORY,
        network: false,
    };
    let printed = runtime.block_on(sandbox.run(command)).map_err(|e| e.to_string())?;
    serde_json::from_slice(&printed.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&printed.stderr);
        format!("a contained process failed: {}", said.lines().next_back().unwrap_or("it said nothing"))
    })
}

/// A folder as secret as the state folder, for as long as it is tried to look into it.
struct Secret(PathBuf);

impl Secret {
    fn new() -> std::io::Result<Self> {
        let folder = std::env::temp_dir().join(format!(".pinrail-doctor-{}", std::process::id()));
        make_private(&folder)?;
        let secret = Self(folder);
        std::fs::write(secret.file(), "")?;
        Ok(secret)
    }

    fn file(&self) -> String {
        self.0.join("secret").display().to_string()
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn state(folder: &Path) -> Vec<Check> {
    // What is not there yet would be made here.
    let there = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let base = there.ancestors().find(|path| path.exists()).unwrap_or(&there);
    let is = if base == there { "is writable" } else { "can be made" };
    let name = |what: &str| format!("{} {what}", folder.display());
    let mut checks = vec![match try_locks(base) {
        Ok(true) => Check::ok("state", name(&format!("{is}, and its files can be locked"))),
        Ok(false) => Check::missing(
            "state",
            name("has no file locks"),
            "Name a folder on a disk of this machine with --state, not on a network.",
        ),
        Err(error) => {
            Check::missing("state", name(&format!("cannot be written: {error}")), "Name another folder with --state.")
        }
    }];
    checks.push(match nix::sys::statvfs::statvfs(base) {
        Ok(found) => space(found.blocks_available() * found.fragment_size()),
        Err(error) => Check::note("space", format!("cannot be asked for: {error}"), "Look with `df`."),
    });
    let schema = match SqliteStore::schema(folder) {
        Ok((None, known)) => Check::ok("schema", format!("{known}, made at the first start")),
        Ok((Some(found), known)) if found > known => Check::missing(
            "schema",
            format!("{found}, written by a newer version; this one knows {known}"),
            "Use that version, or another state folder.",
        ),
        Ok((Some(found), known)) if found < known => Check::ok("schema", format!("{found}, becomes {known}")),
        Ok((Some(found), _)) => Check::ok("schema", found.to_string()),
        Err(error) => Check::missing("schema", error.to_string(), "Restore the state folder from a backup."),
    };
    checks.push(schema);
    checks
}

/// Whether a file can be written, and a lock on it keeps a second one off.
fn try_locks(folder: &Path) -> std::io::Result<bool> {
    let path = folder.join(format!(".pinrail-doctor-{}", std::process::id()));
    let open = || OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let tried = open().and_then(|first| Ok((first, open()?)));
    let _ = std::fs::remove_file(&path);
    let (first, second) = tried?;
    let Ok(held) = Flock::lock(first, FlockArg::LockExclusiveNonblock) else { return Ok(false) };
    let kept_off = Flock::lock(second, FlockArg::LockExclusiveNonblock).is_err();
    drop(held);
    Ok(kept_off)
}

fn space(bytes: u64) -> Check {
    let gib = bytes as f64 / f64::from(1 << 30);
    let detail = format!("{gib:.1} GiB free");
    if bytes < NO_SPACE {
        Check::missing("space", detail, "Free some space.")
    } else if bytes < LITTLE_SPACE {
        Check::note("space", detail, "Free some space soon.")
    } else {
        Check::ok("space", detail)
    }
}

fn server(place: &Place) -> Check {
    if place.url.is_some() {
        let answer = place.connect().and_then(|client| Ok((client.get("/projects?limit=1")?, client.url)));
        return match answer {
            Ok((_, url)) => Check::ok("server", format!("{url} answers and accepts the token")),
            Err(failure) => Check::missing("server", failure.message, failure.hint.unwrap_or_default()),
        };
    }
    match place.state().ok().and_then(|folder| live(&folder)) {
        Some(found) if found.embedded => {
            Check::ok("server", format!("process {} serves one command at {}", found.pid, found.url))
        }
        Some(found) => Check::ok("server", format!("process {} at {}", found.pid, found.url)),
        None => Check::note(
            "server",
            "none is running; each command starts one for itself",
            "`pinrail up --detach` starts one that stays.",
        ),
    }
}

/// Channels that did not take what was last sent, by the word of the server that delivers.
fn notices(place: &Place, project: &Project) -> Option<Check> {
    let served = place.url.is_some() || place.state().ok().and_then(|folder| live(&folder)).is_some();
    if !served {
        return None;
    }
    let client = place.connect().ok()?;
    let pending = client.get(&format!("/projects/{}/notices?state=pending&limit=500", project.name)).ok()?;
    let refused = |notice: &&Value| notice["tries"].as_u64() > Some(0) && notice["answer"].is_string();
    let last = pending["items"].as_array()?.iter().find(refused)?;
    let detail =
        format!("channel \"{}\" takes no notices: {}", cell(&last["channel"]), visible(&cell(&last["answer"])));
    let remedy = format!("Try it with `pinrail notify test {}`.", cell(&last["channel"]));
    Some(Check::note("notices", detail, remedy))
}

fn engine() -> Check {
    if cfg!(feature = "lake") {
        return Check::ok("sql", "this build has the SQL engine");
    }
    Check::note("sql", "this build has no SQL engine", "Build it with its default features.")
}

/// What builds Python environments here, which only projects with a lock need.
fn builds(interpreter: &Interpreter, needed: bool) -> Check {
    const NAME: &str = "environments";
    const REMEDY: &str = "Install uv, or the package of the system that has pip and venv, such as python3-venv.";
    match (builder(), &interpreter.pip) {
        (Builder::Uv(path), _) => Check::ok(NAME, format!("uv builds them ({})", path.display())),
        (Builder::Pip, Some(pip)) if interpreter.venv => Check::ok(NAME, format!("pip {pip} builds them")),
        (Builder::Pip, _) if needed => Check::missing(NAME, "there is neither uv nor pip to build them", REMEDY),
        (Builder::Pip, _) => Check::note(NAME, "there is neither uv nor pip to build them", REMEDY),
    }
}

/// What only people need.
fn comforts(interpreter: &Interpreter) -> [Check; 2] {
    let pytest = match &interpreter.pytest {
        Some(version) => Check::ok("pytest", version),
        None => Check::note("pytest", "not installed; `pinrail test` needs it", interpreter.install_command("pytest")),
    };
    let sdk = match &interpreter.sdk {
        Some(version) if version == env!("CARGO_PKG_VERSION") => Check::ok("sdk", version),
        Some(version) => {
            let detail = format!("{version}; jobs run with {}", env!("CARGO_PKG_VERSION"));
            Check::note("sdk", detail, "`pinrail sdk install` puts the same one into the interpreter.")
        }
        None => Check::note(
            "sdk",
            "not installed; jobs do not need it, editors do",
            "`pinrail sdk install` puts it into the interpreter.",
        ),
    };
    [pytest, sdk]
}
