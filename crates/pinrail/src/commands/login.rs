//! Tokens for servers elsewhere.

use std::io::{BufRead, IsTerminal, Read};
use std::process::ExitCode;

use serde_json::json;

use crate::client::Client;
use crate::failure::{Failure, REFUSED, USAGE};
use crate::logins::{Logins, file, is_open, server};
use crate::output::Output;
use crate::terminal::typed;

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
    let mut line = Vec::new();
    if stdin.is_terminal() {
        line = typed(&format!("token for {server}"))?;
    } else {
        stdin.lock().take(LONGEST).read_until(b'\n', &mut line)?;
    }
    let token = String::from_utf8(line).unwrap_or_default();
    let token = token.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::new(USAGE, "standard input gives no token")
            .hint("Paste one, or pipe it in; `pinrail token create` makes one where the server runs."));
    }
    Ok(token.to_owned())
}
