//! Python environments: having them built before they are needed, and showing which there are.

use std::process::ExitCode;

use pinrail_service::project::Project;
use serde_json::{Value, json};

use super::project::short;
use crate::client::{Client, Place};
use crate::failure::{DEFINITION, Failure};
use crate::output::{Output, cell, plural, size, table};

/// How often it is asked what is still to be built: the workflow files name extras, and can be read only when the
/// environment without any is there.
const ROUNDS: u32 = 2;

/// Has the Python environments of a bundle built that are not there, and says so, because it takes a while. What is wrong
/// with a lock is left to whoever needs the environment next, who tells it in words of their own.
pub fn prepare(
    client: &Client,
    project: &Project,
    bundle: &str,
    extras: &[String],
    output: Output,
) -> Result<Option<Value>, Failure> {
    if project.lock.is_none() {
        return Ok(None);
    }
    let path = format!("/projects/{}/environments", project.name);
    let ask = |build: &[&Value]| {
        let answer = client.post(&path, &json!({"bundle": bundle, "extras": extras, "build": build}));
        match answer {
            Err(failure) if failure.code == DEFINITION => Ok(None),
            other => other.map(Some),
        }
    };
    let mut latest = None;
    for _ in 0..ROUNDS {
        let Some(answer) = ask(&[])? else { break };
        let found = answer["environments"].as_array().cloned().unwrap_or_default();
        let missing: Vec<&Value> = found.iter().filter(|one| one["ready"] == false).collect();
        latest = Some(answer.clone());
        if missing.is_empty() {
            break;
        }
        for one in &missing {
            let packages = plural(one["packages"].as_u64().unwrap_or_default(), "locked package");
            let digest: String = short(&one["digest"]).chars().take(4).collect();
            let with = with_extras(one);
            output
                .say(&format!("  building Python environment {digest}{with} ({packages}, {})…", cell(&one["builder"])));
        }
        let digests: Vec<&Value> = missing.iter().map(|one| &one["digest"]).collect();
        latest = ask(&digests)?;
        if latest.is_none() {
            break;
        }
    }
    Ok(latest)
}

fn with_extras(environment: &Value) -> String {
    let extras: Vec<String> = environment["extras"].as_array().into_iter().flatten().map(cell).collect();
    if extras.is_empty() { String::new() } else { format!(" with {}", extras.join(", ")) }
}

pub fn environments(place: &Place, output: Output) -> Result<ExitCode, Failure> {
    let project = place.project()?;
    let found = place.connect()?.list(&format!("/projects/{}/environments", project.name))?;
    if !output.json {
        let items = found["items"].as_array().cloned().unwrap_or_default();
        let head = ["environment", "python", "lock", "packages", "size", "its own", "bundles", "last used"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for item in &items {
            let of = |field: &str| size(item[field].as_u64().unwrap_or_default());
            rows.push(vec![
                short(&item["digest"]),
                cell(&item["python"]),
                format!("{}{}", cell(&item["lock"]), with_extras(item)),
                item["packages"].as_object().map_or(0, serde_json::Map::len).to_string(),
                of("size_bytes"),
                of("own_bytes"),
                item["bundles"].as_array().map_or(0, Vec::len).to_string(),
                cell(&item["last_used_at"]),
            ]);
        }
        if items.is_empty() {
            output.say("no Python environments: the project has no lock, or nothing was checked or run yet");
        } else {
            output.say(&table(&rows));
        }
    }
    output.document(&found);
    Ok(ExitCode::SUCCESS)
}
