//! The workers of a server: who they are, and letting them go.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use crate::client::Place;
use crate::failure::Failure;
use crate::output::{Output, cell, table};

#[derive(Debug, Subcommand)]
pub enum WorkersCommand {
    /// Let a worker finish what it has and take nothing new; then it ends
    Drain {
        name: String,
        /// Let it take something again
        #[arg(long)]
        undo: bool,
    },
}

pub fn workers(place: &Place, output: Output, command: Option<&WorkersCommand>) -> Result<ExitCode, Failure> {
    let Some(WorkersCommand::Drain { name, undo }) = command else { return list(place, output) };
    place.connect()?.post("/workers/drain", &json!({"worker": name, "draining": !undo}))?;
    output.say(&if *undo {
        format!("worker {name} takes jobs again")
    } else {
        format!("worker {name} finishes what it has, takes nothing new, and ends")
    });
    output.document(&json!({"worker": name, "draining": !undo}));
    Ok(ExitCode::SUCCESS)
}

fn list(place: &Place, output: Output) -> Result<ExitCode, Failure> {
    let found = place.connect()?.list("/workers")?;
    if !output.json {
        let heads = ["worker", "state", "slots", "used", "labels", "since", "heard"];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        for item in found["items"].as_array().into_iter().flatten() {
            let labels: Vec<String> = item["labels"].as_array().into_iter().flatten().map(cell).collect();
            let name = item["name"].as_str().map_or_else(|| "(server)".to_owned(), str::to_owned);
            let of = |field: &str| cell(&item[field]);
            rows.push(vec![name, of("state"), of("slots"), of("used"), labels.join(","), of("since"), of("heard_at")]);
        }
        if rows.len() == 1 {
            output.say("no worker is connected, and the server has no slots of its own");
        } else {
            output.say(&table(&rows));
        }
    }
    output.document(&found);
    Ok(ExitCode::SUCCESS)
}
