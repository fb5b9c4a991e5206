//! The project's secrets: set, listed, removed; never printed.

use std::io::{IsTerminal, Read};
use std::process::ExitCode;

use pinrail_model::names::SecretName;
use serde_json::json;

use crate::client::Place;
use crate::failure::{Failure, USAGE};
use crate::output::{Output, cell, table};
use crate::terminal::typed;

pub fn set(place: &Place, output: Output, name: &str) -> Result<ExitCode, Failure> {
    // Before the value is asked for: nobody types a password twice for a misspelt name.
    let project = place.project()?;
    let name: SecretName = name.parse().map_err(|e| Failure::new(USAGE, format!("{e}")))?;
    let value = if std::io::stdin().is_terminal() {
        without_line_end(typed(&format!("value of {name} (not shown, ends with the line)"))?)
    } else {
        piped()?
    };
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
