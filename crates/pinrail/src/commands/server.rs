//! Starting and stopping a server, and the tokens for it.

use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use serde_json::{Value, json};

use crate::client::Place;
use crate::failure::{FAILED, Failure, REFUSED};
use crate::output::{Output, cell, table};
use crate::server::{Server, Wanted};
use crate::state::{Locked, live};

/// How long a server may take to become ready, or to stop.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

pub fn up(place: &Place, output: Output, detach: bool, wanted: &Wanted) -> Result<ExitCode, Failure> {
    let folder = place.state()?;
    if detach {
        return up_detached(&folder, output, wanted);
    }
    let locked = Locked::take_over(&folder)?;
    let server = Server::start(locked, wanted)?;
    output.say(&format!("ready at {} (state in {})", server.url, folder.display()));
    output.document(&json!({"url": server.url, "pid": std::process::id()}));
    server.wait_for_signal()?;
    Ok(ExitCode::SUCCESS)
}

/// The same in the background, with its log in the state folder.
fn up_detached(folder: &std::path::Path, output: Output, wanted: &Wanted) -> Result<ExitCode, Failure> {
    // Only to look: the process below takes the lock for itself, and would say so in its log if it could not.
    drop(Locked::take_over(folder)?);
    let log_path = folder.join("server.log");
    let log = std::fs::OpenOptions::new().create(true).append(true).open(&log_path)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("up").arg("--listen").arg(wanted.listen.to_string()).arg("--state").arg(folder);
    if let Some(slots) = wanted.slots {
        command.arg("--slots").arg(slots.to_string());
    }
    for pair in &wanted.run_as {
        command.arg("--run-as").arg(pair);
    }
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // A session of its own, so that it does not die with the terminal.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn()?;
    for _ in 0..PATIENCE.as_millis() / LOOK_AGAIN.as_millis() {
        if let Some(live) = live(folder).filter(|live| live.pid == child.id()) {
            output.say(&format!("ready at {} (process {}, log in {})", live.url, live.pid, log_path.display()));
            output.document(&json!({"url": live.url, "pid": live.pid}));
            return Ok(ExitCode::SUCCESS);
        }
        if child.try_wait()?.is_some() {
            let log = std::fs::read_to_string(&log_path).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let at = lines.iter().rposition(|line| line.starts_with("error: "));
            let said = at.and_then(|at| lines[at].strip_prefix("error: ")).unwrap_or("it ended at once");
            let hint = at.and_then(|at| lines.get(at + 1)?.strip_prefix("  hint: ")).map(str::to_owned);
            return Err(Failure { hint, ..Failure::new(FAILED, said) });
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Err(Failure::new(FAILED, "the server does not become ready").hint(format!("Look into {}.", log_path.display())))
}

pub fn down(place: &Place, output: Output) -> Result<ExitCode, Failure> {
    let folder = place.state()?;
    let Some(server) = live(&folder) else {
        return Err(Failure::new(REFUSED, format!("no server is running over \"{}\"", folder.display())));
    };
    let pid = Pid::from_raw(i32::try_from(server.pid).unwrap_or(0));
    kill(pid, Signal::SIGTERM).map_err(|e| Failure::new(FAILED, format!("process {pid} cannot be stopped: {e}")))?;
    for _ in 0..PATIENCE.as_millis() / LOOK_AGAIN.as_millis() {
        if live(&folder).is_none_or(|now| now.pid != server.pid) {
            output.say("stopped");
            output.document(&json!({"stopped": server.pid}));
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Err(Failure::new(FAILED, format!("process {pid} does not stop")))
}

/// The token that is asked for, as the API takes it.
#[derive(Serialize)]
pub struct NewToken {
    pub name: String,
    pub role: String,
    pub project: Option<String>,
    pub expires_in_seconds: Option<u64>,
}

pub fn token_create(place: &Place, output: Output, token: &NewToken) -> Result<ExitCode, Failure> {
    let made = place.connect()?.post("/tokens", &json!(token))?;
    if !output.json {
        output.say(made["token"].as_str().unwrap_or_default());
    }
    output.document(&made);
    Ok(ExitCode::SUCCESS)
}

pub fn token_list(place: &Place, output: Output) -> Result<ExitCode, Failure> {
    let found = place.connect()?.list("/tokens")?;
    if !output.json {
        let heads = ["id", "name", "role", "project", "created_at", "expires_at", "revoked_at"];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        let items = found["items"].as_array().into_iter().flatten();
        rows.extend(items.map(|item: &Value| heads.map(|head| cell(&item[head])).to_vec()));
        output.say(&table(&rows));
    }
    output.document(&found);
    Ok(ExitCode::SUCCESS)
}

pub fn token_revoke(place: &Place, output: Output, id: &str) -> Result<ExitCode, Failure> {
    place.connect()?.post(&format!("/tokens/{id}/revoke"), &json!({}))?;
    output.say("revoked");
    output.document(&json!({"revoked": id}));
    Ok(ExitCode::SUCCESS)
}
