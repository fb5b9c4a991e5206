//! `pinrail`: one binary, the server and its command line.
//!
//! This crate wires: it is the only one that sees interfaces and implementations together. Commands talk to a server
//! over HTTP, also to the one that they start themselves for the time of a call.

mod cli;
mod client;
mod commands;
mod examples;
mod failure;
mod interrupts;
#[cfg(feature = "lake")]
mod lake;
mod logins;
mod output;
mod python;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod reference;
mod sdk;
mod server;
mod state;
mod terminal;
mod user;

use std::os::fd::FromRawFd;
use std::process::ExitCode;

use pinrail_exec::local::{CONTROL_FD, LAUNCHER_COMMAND};

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(LAUNCHER_COMMAND) {
        return launcher();
    }
    arm_steps();
    cli::main()
}

/// The launcher is this binary again, before it has started any thread.
#[allow(unsafe_code, reason = "the server has put the control socket at this number for this process alone")]
fn launcher() -> ExitCode {
    // SAFETY: the number is part of the contract with `Launcher::start`, and nothing else in this process uses it.
    let control = unsafe { std::os::unix::net::UnixStream::from_raw_fd(CONTROL_FD) };
    match pinrail_exec::launcher::run(control) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pinrail: the launcher cannot work: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Tests name a step to die at, and a file to log the passed steps in.
fn arm_steps() {
    let die_at = std::env::var("PINRAIL_DIE_AT").ok().map(|text| match text.rsplit_once(':') {
        Some((name, count)) => (name.to_owned(), count.parse().unwrap_or(1)),
        None => (text, 1),
    });
    let log = std::env::var_os("PINRAIL_STEPS")
        .and_then(|path| std::fs::OpenOptions::new().create(true).append(true).open(path).ok());
    if die_at.is_some() || log.is_some() {
        pinrail_model::steps::arm(die_at, log);
    }
}
