//! The project's secrets: set, listed, removed; never printed.

use std::io::{BufRead, IsTerminal, Read};
use std::process::ExitCode;

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use pinrail_model::names::SecretName;
use serde_json::json;

use crate::client::Place;
use crate::failure::{DETACHED, Failure, USAGE};
use crate::output::{Output, cell, table};

/// What a terminal sends for Ctrl-C while it makes no signal of it.
const INTERRUPT: u8 = 3;

pub fn set(place: &Place, output: Output, name: &str) -> Result<ExitCode, Failure> {
    // Before the value is asked for: nobody types a password twice for a misspelt name.
    let project = place.project()?;
    let name: SecretName = name.parse().map_err(|e| Failure::new(USAGE, format!("{e}")))?;
    let value = if std::io::stdin().is_terminal() { typed(&name)? } else { piped()? };
    let value = String::from_utf8(value).map_err(|_| {
        Failure::new(USAGE, format!("the value of secret \"{name}\" is not a text in UTF-8"))
            .hint("Encode binary values, for example with `base64`.")
    })?;
    let body = json!({"value": value}).to_string();
    let set = place.connect()?.put(&format!("/projects/{}/secrets/{name}", project.name), body.as_bytes())?;
    output.say(&format!("secret {name} of project {} is set", project.name));
    output.document(&set);
    Ok(ExitCode::SUCCESS)
}

/// The whole of standard input but for one line end, which `echo` and editors add.
fn piped() -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes)?;
    Ok(without_line_end(bytes))
}

fn without_line_end(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    bytes
}

/// A line from the terminal, which shows nothing of it.
fn typed(name: &SecretName) -> Result<Vec<u8>, Failure> {
    let terminal = std::io::stdin();
    let before = tcgetattr(&terminal).map_err(std::io::Error::from)?;
    let mut silent = before.clone();
    // Without signals too: a Ctrl-C in between would leave the terminal silent.
    silent.local_flags.remove(LocalFlags::ECHO | LocalFlags::ISIG);
    tcsetattr(&terminal, SetArg::TCSAFLUSH, &silent).map_err(std::io::Error::from)?;
    // Asked for when nothing that is typed shows any more. Nobody sees a prompt that cannot be written.
    eprint!("value of {name} (not shown, ends with the line): ");
    let mut line = Vec::new();
    let read = terminal.lock().read_until(b'\n', &mut line);
    let restored = tcsetattr(&terminal, SetArg::TCSAFLUSH, &before);
    eprintln!();
    read?;
    restored.map_err(std::io::Error::from)?;
    if line.contains(&INTERRUPT) {
        return Err(Failure::new(DETACHED, "nothing was set"));
    }
    Ok(without_line_end(line))
}

pub fn list(place: &Place, output: Output) -> Result<ExitCode, Failure> {
    let project = place.project()?;
    let found = place.connect()?.list(&format!("/projects/{}/secrets", project.name))?;
    if !output.json {
        let mut rows = vec![["secret", "set at", "by", ""].map(str::to_owned).to_vec()];
        for item in found["items"].as_array().into_iter().flatten() {
            // Sealed with the key of another state folder, as after a restore without the key.
            let note = if item["usable"] == false { "must be set again: its key is not here" } else { "" };
            rows.push(vec![cell(&item["name"]), cell(&item["set_at"]), cell(&item["set_by"]), note.to_owned()]);
        }
        output.say(&table(&rows));
    }
    output.document(&found);
    Ok(ExitCode::SUCCESS)
}

pub fn rm(place: &Place, output: Output, name: &str) -> Result<ExitCode, Failure> {
    let project = place.project()?;
    let name: SecretName = name.parse().map_err(|e| Failure::new(USAGE, format!("{e}")))?;
    place.connect()?.delete(&format!("/projects/{}/secrets/{name}", project.name))?;
    output.say(&format!("secret {name} of project {} is removed", project.name));
    output.document(&json!({"removed": name}));
    Ok(ExitCode::SUCCESS)
}
