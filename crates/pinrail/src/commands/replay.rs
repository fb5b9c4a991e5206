//! Runs again what has run, beside the tables that count, and tells what came out otherwise.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::run::{detached, follow, last};
use super::show::find;
use crate::client::Place;
use crate::failure::{FAILED, Failure};
use crate::output::{Output, cell, command, hint, human, plural, seconds, table};

/// The arguments of `replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// An id, its last characters, `last`, or workflow@date
    #[arg(default_value = "last")]
    run: String,
    /// Jobs: a, a+ (and below), +a (and above)
    #[arg(long, value_name = "SELECT")]
    job: Option<String>,
    /// Drop the replay's tables when it has ended; of a run that is a replay, drop them and run nothing
    #[arg(long)]
    drop: bool,
    /// Print the id and return
    #[arg(long, conflicts_with = "drop")]
    detach: bool,
}

pub fn replay(place: &Place, output: Output, args: &ReplayArgs) -> Result<ExitCode, Failure> {
    let client = place.connect_for_run(args.detach)?;
    let first = find(place, &client, &args.run)?;
    let drop = |run: &Value| client.post(&format!("/runs/{}/replay/drop", cell(&run["id"])), &json!({}));
    if args.drop && first["replay_of"].is_string() {
        let dropped = drop(&first)?;
        output.say(&format!("dropped {} of replay {}", tables(&dropped), last(&first)));
        output.document(&dropped);
        return Ok(ExitCode::SUCCESS);
    }
    let run = client.post(&format!("/runs/{}/replay", cell(&first["id"])), &json!({"jobs": args.job}))?;
    let target = cell(&run["target"]);
    output.say(&format!(
        "{} · {} · replay of run {} · target {target} · run {}",
        cell(&run["workflow"]),
        cell(&run["ds"]),
        last(&first),
        last(&run)
    ));
    if args.detach {
        return Ok(detached(output, &run));
    }
    let run = follow(&client, output, &cell(&run["id"]))?;
    let jobs = compared(&first, &run);
    let differ = jobs.iter().filter(|job| job["same"] != true).count();
    if !output.json {
        tell(output, &jobs);
        let of = plural(jobs.len() as u64, "job");
        output.say(&match differ {
            0 => format!("  {of} ended as in run {}", last(&first)),
            _ => format!("  {differ} of {of} ended otherwise than in run {}", last(&first)),
        });
    }
    if args.drop {
        output.say(&hint(&format!("  dropped {}", tables(&drop(&run)?))));
    } else {
        output.say(&format!("  next:  {}   its tables", command(&format!("pinrail tables --target {target}"))));
        output.say(&format!("         {}   drops them", command(&format!("pinrail replay {} --drop", last(&run)))));
    }
    output.document(&json!({"run": run, "of": first["id"], "jobs": jobs}));
    Ok(ExitCode::from(if differ == 0 { 0 } else { FAILED }))
}

fn tables(dropped: &Value) -> String {
    plural(dropped["tables"].as_u64().unwrap_or_default(), "table")
}

/// What is compared of a job in one of the runs.
fn outcome(task: &Value) -> Value {
    let attempt = task["attempts"].as_array().and_then(|attempts| attempts.last()).cloned().unwrap_or_default();
    json!({
        "state": task["state"],
        "fault": attempt["fault"],
        "outputs": task["outputs"],
        "written": attempt["written"],
    })
}

/// Each job of the replay, with what it came to in both runs.
fn compared(first: &Value, replay: &Value) -> Vec<Value> {
    let tasks = |run: &Value| run["tasks"].as_array().cloned().unwrap_or_default();
    let before = tasks(first);
    let one = |task: &Value| {
        let then = before.iter().find(|known| known["name"] == task["name"]).cloned().unwrap_or_default();
        let (then_is, now_is) = (outcome(&then), outcome(task));
        json!({
            "job": task["name"],
            "same": then_is == now_is,
            "then": then_is,
            "now": now_is,
            "then_seconds": took(&then),
            "now_seconds": took(task),
        })
    };
    tasks(replay).iter().map(one).collect()
}

fn took(task: &Value) -> Option<f64> {
    let attempt = task["attempts"].as_array()?.last()?;
    seconds(&attempt["started_at"], &attempt["ended_at"])
}

fn tell(output: Output, jobs: &[Value]) {
    let mut rows = vec![["job", "then", "now", "took then", "took now", ""].map(str::to_owned).to_vec()];
    for job in jobs {
        let time = |name: &str| job[name].as_f64().map(human).unwrap_or_default();
        rows.push(vec![
            cell(&job["job"]),
            state(&job["then"]),
            state(&job["now"]),
            time("then_seconds"),
            time("now_seconds"),
            differences(&job["then"], &job["now"]).join(", "),
        ]);
    }
    output.say(&table(&rows));
}

fn state(outcome: &Value) -> String {
    match outcome["fault"].as_str() {
        Some(fault) => format!("{}, fault {fault}", cell(&outcome["state"])),
        None => cell(&outcome["state"]),
    }
}

/// What differs beside the state, in a few words.
fn differences(then: &Value, now: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let names = |value: &Value| value.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let mut outputs = names(&then["outputs"]);
    outputs.extend(names(&now["outputs"]));
    outputs.sort();
    outputs.dedup();
    for name in outputs {
        let (before, after) = (&then["outputs"][&name], &now["outputs"][&name]);
        if before != after {
            found.push(format!("{name} {before} → {after}"));
        }
    }
    let written = |outcome: &Value| outcome["written"].as_array().cloned().unwrap_or_default();
    let (before, after) = (written(then), written(now));
    for entry in &after {
        let earlier = before.iter().find(|known| known["table"] == entry["table"]);
        let rows = |entry: Option<&Value>| entry.map_or_else(|| "not written".to_owned(), |e| cell(&e["rows"]));
        if earlier != Some(entry) {
            found.push(format!("{} {} → {} rows", cell(&entry["table"]), rows(earlier), rows(Some(entry))));
        }
    }
    let gone = before.iter().filter(|known| !after.iter().any(|entry| entry["table"] == known["table"]));
    found.extend(gone.map(|entry| format!("{} not written", cell(&entry["table"]))));
    found
}
