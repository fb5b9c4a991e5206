//! Starting and stopping a server, and the tokens for it.

use std::net::SocketAddr;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pinrail_service::workers::LEASE;
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

/// How a server is to be.
#[derive(Debug, clap::Args)]
pub struct UpArgs {
    /// Address and port of the API
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7070")]
    listen: SocketAddr,
    /// Return when the server is ready
    #[arg(long)]
    detach: bool,
    /// Local processes at the same time; with 0 all jobs run at workers [default: twice the cores and one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=MOST_SLOTS))]
    slots: Option<u32>,
    /// After how many seconds of silence a worker counts as lost
    #[arg(long, hide = true, value_name = "SECONDS", default_value_t = LEASE.as_secs(), value_parser = clap::value_parser!(u64).range(1..=3600))]
    worker_lease: u64,
    /// The user of this machine that runs the jobs of a project; once for each project. Only root can start such a server
    #[arg(long, value_name = "PROJECT=USER")]
    run_as: Vec<String>,
}

/// Each slot is a process; no machine has more to gain from them.
pub const MOST_SLOTS: i64 = 10_000;

pub fn up(place: &Place, output: Output, args: &UpArgs) -> Result<ExitCode, Failure> {
    let folder = place.state()?;
    if args.detach {
        return up_detached(&folder, output, args);
    }
    let locked = Locked::take_over(&folder)?;
    let lease = Duration::from_secs(args.worker_lease);
    let (listen, slots, run_as) = (args.listen, args.slots, args.run_as.clone());
    let server = Server::start(locked, &Wanted { listen, embedded: false, slots, lease, run_as })?;
    output.say(&format!("ready at {} (state in {})", server.url, folder.display()));
    output.document(&json!({"url": server.url, "pid": std::process::id()}));
    server.wait_for_signal()?;
    Ok(ExitCode::SUCCESS)
}

/// The same in the background, with its log in the state folder.
fn up_detached(folder: &std::path::Path, output: Output, args: &UpArgs) -> Result<ExitCode, Failure> {
    // Only to look: the process below takes the lock for itself, and would say so in its log if it could not.
    drop(Locked::take_over(folder)?);
    let log_path = folder.join("server.log");
    let log = std::fs::OpenOptions::new().create(true).append(true).open(&log_path)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("up").arg("--listen").arg(args.listen.to_string()).arg("--state").arg(folder);
    command.arg("--worker-lease").arg(args.worker_lease.to_string());
    if let Some(slots) = args.slots {
        command.arg("--slots").arg(slots.to_string());
    }
    for pair in &args.run_as {
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
