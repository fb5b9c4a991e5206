//! The project's channels for notices: tried, and what went through them.

use std::process::ExitCode;

use pinrail_model::names::ChannelName;
use pinrail_model::near::nearest;
use serde_json::{Value, json};

use crate::client::{Place, encoded};
use crate::failure::{FAILED, Failure, REFUSED};
use crate::output::{Output, cell, table, visible};

/// Sends a test through a channel as this folder declares it, or else as it is deployed.
pub fn test(place: &Place, output: Output, name: &str, event: &str) -> Result<ExitCode, Failure> {
    let project = place.project()?;
    let channels = &project.notify.channels;
    let declared = channels.iter().find(|(known, _)| known.as_str() == name).map(|(_, channel)| channel);
    let mut body = json!({"event": event});
    match declared {
        Some(channel) => body["channel"] = json!(channel),
        // What is not declared here may have been deployed from elsewhere, unless there is something to mistake it for.
        None if channels.is_empty() => {}
        None => {
            let failure = Failure::new(REFUSED, format!("pinrail.toml declares no channel \"{name}\""));
            let names: Vec<&str> = channels.keys().map(ChannelName::as_str).collect();
            return Err(failure.hint(match nearest(name, names.iter().copied()) {
                Some(near) => format!("Did you mean \"{near}\"?"),
                None => format!("There are {}.", names.join(", ")),
            }));
        }
    }
    let path = format!("/projects/{}/channels/{}/test", project.name, encoded(name));
    let tested = place.connect()?.post(&path, &body)?;
    let answer = visible(&cell(&tested["answer"])).into_owned();
    let took = tested["delivered"] == true;
    let mark = if took { output.good("✔") } else { output.bad("✘") };
    let what = if took { "took a test notice and answered" } else { "did not take a test notice" };
    output.say(&format!("  {mark} {name} ({}) {what}: {answer}", cell(&tested["kind"])));
    output.document(&tested);
    Ok(ExitCode::from(if took { 0 } else { FAILED }))
}

pub fn log(place: &Place, output: Output, state: Option<&str>, limit: u32) -> Result<ExitCode, Failure> {
    let project = place.project()?;
    let state = state.map(|state| format!("&state={state}")).unwrap_or_default();
    let found = place.connect()?.get(&format!("/projects/{}/notices?limit={limit}{state}", project.name))?;
    if !output.json {
        let heads = ["at", "event", "of", "job", "channel", "state", "tries", "answer"];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        rows.extend(found["items"].as_array().into_iter().flatten().map(line));
        output.say(&table(&rows));
    }
    output.document(&found);
    Ok(ExitCode::SUCCESS)
}

fn line(notice: &Value) -> Vec<String> {
    let mut cells = vec![cell(&notice["at"]), cell(&notice["event"])];
    cells.push(format!("{}@{}", cell(&notice["workflow"]), cell(&notice["ds"])));
    cells.extend(["job", "channel", "state", "tries", "answer"].map(|name| cell(&notice[name])));
    cells
}
