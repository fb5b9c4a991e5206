//! Tokens for servers elsewhere.

use std::io::{BufRead, IsTerminal, Read};
use std::os::fd::AsFd;
use std::process::ExitCode;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use serde_json::json;

use crate::client::Client;
use crate::failure::{DETACHED, FAILED, Failure, REFUSED, USAGE};
use crate::interrupts;
use crate::logins::{Logins, file, is_open, server};
use crate::output::Output;

/// No token is longer.
const LONGEST: u64 = 4096;

/// Stores the token that standard input gives, once the server has accepted it.
pub fn login(output: Output, url: &str) -> Result<ExitCode, Failure> {
    let server = server(url)?;
    let mut logins = Logins::read()?;
    if is_open(&server) {
        eprintln!("warning: {server} is not encrypted: whoever shares the network can read the token");
    }
    let token = read_token(&server)?;
    // A wrong token, or one of another server, is not stored.
    Client::elsewhere(server.clone(), token.clone()).get("/projects?limit=1")?;
    logins.store(&server, &token)?;
    let file = file()?;
    output.say(&format!("the token for {server} is stored in {}", file.display()));
    output.document(&json!({"url": server, "file": file}));
    Ok(ExitCode::SUCCESS)
}

pub fn list(output: Output) -> Result<ExitCode, Failure> {
    let logins = Logins::read()?;
    let servers: Vec<&str> = logins.servers().collect();
    if !output.json {
        servers.iter().for_each(|server| output.say(server));
    }
    let items: Vec<_> = servers.iter().map(|server| json!({"url": server})).collect();
    output.document(&json!({"items": items, "next": null}));
    Ok(ExitCode::SUCCESS)
}

pub fn forget(output: Output, url: &str) -> Result<ExitCode, Failure> {
    let server = server(url)?;
    if !Logins::read()?.forget(&server)? {
        return Err(Failure::new(REFUSED, format!("no token for {server} is stored"))
            .hint("See `pinrail login --list` for those that are."));
    }
    output.say(&format!("the token for {server} is forgotten; it is good until it expires or is revoked"));
    output.document(&json!({"forgotten": server}));
    Ok(ExitCode::SUCCESS)
}

fn read_token(server: &str) -> Result<String, Failure> {
    let stdin = std::io::stdin();
    let mut line = String::new();
    if stdin.is_terminal() {
        // Silent before it asks: what is typed ahead must not show either.
        let silent = Silent::new()?;
        eprint!("token for {server}: ");
        await_line()?;
        stdin.lock().take(LONGEST).read_line(&mut line)?;
        drop(silent);
    } else {
        stdin.lock().take(LONGEST).read_line(&mut line)?;
    }
    let token = line.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::new(USAGE, "standard input gives no token")
            .hint("Paste one, or pipe it in; `pinrail token create` makes one where the server runs."));
    }
    Ok(token.to_owned())
}

/// Waits for a typed line, or for Ctrl-C, which must not leave a terminal that shows nothing.
fn await_line() -> Result<(), Failure> {
    interrupts::count();
    let stdin = std::io::stdin();
    loop {
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) if interrupts::seen() > 0 => return Err(Failure::new(DETACHED, "")),
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(Failure::new(FAILED, format!("standard input cannot be read: {error}"))),
            Ok(_) => return Ok(()),
        }
    }
}

/// The terminal shows nothing of what is typed, until this is dropped.
struct Silent(nix::sys::termios::Termios);

impl Silent {
    fn new() -> Result<Self, Failure> {
        let failed = |e| Failure::new(FAILED, format!("the terminal cannot be silenced: {e}"));
        let before = tcgetattr(std::io::stdin()).map_err(failed)?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(std::io::stdin(), SetArg::TCSANOW, &silent).map_err(failed)?;
        Ok(Self(before))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing.
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.0);
        eprintln!();
    }
}
