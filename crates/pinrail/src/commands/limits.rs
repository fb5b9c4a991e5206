//! Pools, and what a project may take of the whole: its quota and its weight.

use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use pinrail_model::names::PoolName;
use serde_json::{Value, json};

use crate::client::Place;
use crate::failure::{Failure, USAGE};
use crate::output::{Output, cell, plural, table};

#[derive(Debug, Subcommand)]
pub enum PoolsCommand {
    /// Make a pool, or change its slots
    Set {
        name: String,
        /// Slots that its jobs may hold together
        #[arg(long, value_name = "N")]
        slots: u32,
        /// What it is for, for people
        #[arg(long)]
        description: Option<String>,
    },
    /// Remove a pool; jobs that name it wait until it is set again
    Remove { name: String },
}

#[derive(Debug, Subcommand)]
pub enum LimitsCommand {
    /// Set the quota or the weight of the project
    Set {
        limit: ProjectLimit,
        #[arg(value_name = "N")]
        value: u32,
    },
    /// Take the quota away, or go back to the weight 1
    Remove { limit: ProjectLimit },
}

/// A limit that a project has as a whole.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ProjectLimit {
    /// Attempts of the project at once
    Quota,
    /// Its part of the worker slots, in proportion to other projects
    Weight,
}

impl ProjectLimit {
    fn name(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::Weight => "weight",
        }
    }
}

pub fn pools(place: &Place, output: Output, command: Option<&PoolsCommand>) -> Result<ExitCode, Failure> {
    let (name, slots, description) = match command {
        None => return list(place, output, true),
        Some(PoolsCommand::Set { name, slots, description }) => (name, Some(*slots), description.as_deref()),
        Some(PoolsCommand::Remove { name }) => (name, None, None),
    };
    let name: PoolName = name.parse().map_err(|e| Failure::new(USAGE, format!("{e}")))?;
    let said = match slots {
        Some(slots) => format!("pool {name} has {}", plural(u64::from(slots), "slot")),
        None => format!("pool {name} is removed; jobs that name it wait until it is set again"),
    };
    set(place, output, &json!({"kind": "pool", "name": name}), slots, description, &said)
}

pub fn limits(place: &Place, output: Output, command: Option<&LimitsCommand>) -> Result<ExitCode, Failure> {
    let (limit, value) = match command {
        None => return list(place, output, false),
        Some(LimitsCommand::Set { limit, value }) => (*limit, Some(*value)),
        Some(LimitsCommand::Remove { limit }) => (*limit, None),
    };
    let name = limit.name();
    let said = match value {
        Some(value) => format!("{name} is {value}"),
        None => format!("{name} is not limited any more"),
    };
    set(place, output, &json!({"kind": name}), value, None, &said)
}

fn set(
    place: &Place,
    output: Output,
    limit: &Value,
    value: Option<u32>,
    description: Option<&str>,
    said: &str,
) -> Result<ExitCode, Failure> {
    let project = place.project()?;
    let body = json!({"limit": limit, "value": value, "description": description}).to_string();
    let path = format!("/projects/{}/limits", project.name);
    let limits = place.connect()?.put(&path, body.as_bytes())?;
    output.say(said);
    output.document(&limits);
    Ok(ExitCode::SUCCESS)
}

fn list(place: &Place, output: Output, only_pools: bool) -> Result<ExitCode, Failure> {
    let project = place.project()?;
    let mut found = place.connect()?.list(&format!("/projects/{}/limits", project.name))?;
    if let (true, Some(items)) = (only_pools, found["items"].as_array_mut()) {
        items.retain(|item| item["limit"]["kind"] == "pool");
    }
    let items: Vec<&Value> = found["items"].as_array().into_iter().flatten().collect();
    if !output.json {
        if items.is_empty() {
            output.say(&format!("project {} has no {}", project.name, if only_pools { "pools" } else { "limits" }));
        } else {
            let heads = if only_pools { ["pool", "slots"] } else { ["limit", "value"] };
            let mut rows = vec![[heads[0], heads[1], "by", "at", "description"].map(str::to_owned).to_vec()];
            for item in &items {
                let (kind, name) = (cell(&item["limit"]["kind"]), cell(&item["limit"]["name"]));
                let named = if only_pools { name } else { format!("{kind} {name}").trim_end().to_owned() };
                let more = ["value", "by", "at", "description"].map(|field| cell(&item[field]));
                rows.push([vec![named], more.to_vec()].concat());
            }
            output.say(&table(&rows));
        }
    }
    output.document(&found);
    Ok(ExitCode::SUCCESS)
}
