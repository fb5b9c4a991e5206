//! Plays the schedules of a project on a virtual clock, and tells what comes of it.

use std::process::ExitCode;

use clap::Args;
use pinrail_model::time::Micros;
use serde_json::{Map, Value, json};

use super::project::tell_definition_errors;
use crate::client::Place;
use crate::failure::{Failure, USAGE};
use crate::output::{Output, cell, grouped, human, plural, table};

/// The arguments of `simulate`.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// How many days
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=92))]
    days: u32,
    /// The first day in UTC, or a time like 2024-05-01T06:00:00Z [default: now]
    #[arg(long, value_name = "DATE")]
    from: Option<String>,
    /// Slots of a pool, instead of what is set
    #[arg(long = "pool", value_name = "NAME=SLOTS")]
    pools: Vec<String>,
    /// Attempts of the project at once, instead of what is set
    #[arg(long, value_name = "N")]
    quota: Option<u32>,
    /// Slots of one worker with every label, instead of the workers that are connected
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    slots: Option<u32>,
    /// How long a job takes (JOB or WORKFLOW/JOB), instead of what it usually takes
    #[arg(long = "duration", value_name = "JOB=SECONDS")]
    durations: Vec<String>,
    /// How long a job takes that never succeeded
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    assume: f64,
    /// Whose workflows: those of this folder, or the deployed ones
    #[arg(long, value_parser = ["folder", "deployed"], default_value = "folder")]
    code: String,
    /// List the runs as well
    #[arg(long)]
    runs: bool,
}

/// Missed SLAs, and runs, that are shown; `--json` has more.
const SHOWN: usize = 20;
const RUNS_SHOWN: usize = 200;

pub fn simulate(place: &Place, output: Output, args: &SimulateArgs) -> Result<ExitCode, Failure> {
    let project = place.project()?;
    let mut body = json!({
        "days": args.days,
        "pools": pairs("pool", &args.pools, |text| text.parse::<u32>().ok().map(Value::from))?,
        "durations": pairs("duration", &args.durations, |text| text.parse::<f64>().ok().map(Value::from))?,
        "quota": args.quota,
        "slots": args.slots,
        "assumed_seconds": args.assume,
    });
    if let Some(from) = &args.from {
        body["from"] = json!(moment(from)?);
    }
    let client = place.connect()?;
    if args.code == "folder" {
        body["bundle"] = json!(client.send_code(&project, &place.state()?, output)?);
    } else {
        body["target"] = json!(place.target(&project));
    }
    let path = format!("/projects/{}/simulations", project.name);
    let found = client.post(&path, &body).inspect_err(|failure| {
        if !output.json {
            tell_definition_errors(failure, output);
        }
    })?;
    if !output.json {
        tell(output, &found, args.runs);
    }
    output.document(&found);
    Ok(ExitCode::SUCCESS)
}

fn pairs(flag: &str, given: &[String], read: impl Fn(&str) -> Option<Value>) -> Result<Value, Failure> {
    let mut found = Map::new();
    for text in given {
        let pair = text.split_once('=').and_then(|(name, value)| Some((name.to_owned(), read(value)?)));
        let (name, value) = pair.ok_or_else(|| {
            let example = if flag == "pool" { "warehouse=2" } else { "load=90" };
            Failure::new(USAGE, format!("--{flag} \"{text}\" is no name and number"))
                .hint(format!("Write it like --{flag} {example}."))
        })?;
        found.insert(name, value);
    }
    Ok(Value::Object(found))
}

fn moment(text: &str) -> Result<Micros, Failure> {
    let read = |text: String| serde_json::from_value::<Micros>(Value::String(text)).ok();
    read(text.to_owned()).or_else(|| read(format!("{text}T00:00:00Z"))).ok_or_else(|| {
        let failure = Failure::new(USAGE, format!("--from \"{text}\" is no date"));
        failure.hint("Write it like 2024-05-01 or 2024-05-01T06:00:00Z.")
    })
}

fn tell(output: Output, found: &Value, with_runs: bool) {
    let (from, until) = (minute(&found["from"]), minute(&found["until"]));
    let (runs, attempts) = (count(&found["run_count"]), count(&found["attempts"]));
    output.say(&format!("{from} to {until} UTC: {}, {}", plural(runs, "fire time"), plural(attempts, "attempt")));
    if found["cut"] == true {
        output.say("  it ends early: that is as much as one simulation plays");
    }
    output.say("");
    output.say(&table(&workflows(found)));
    output.say("");
    output.say(&table(&limits(found)));
    let longest = items(&found["limits"]).filter(|limit| limit["longest"].is_object());
    for limit in longest {
        output.say(&longest_wait(limit));
    }
    missed(output, found);
    if with_runs {
        output.say("");
        output.say(&table(&run_rows(found)));
        if runs > RUNS_SHOWN as u64 {
            output.say(&format!("(the first {RUNS_SHOWN}; --json has more)"));
        }
    }
    output.say("");
    for (list, said) in [
        (
            "assumed",
            format!("taken to last {}, because they never succeeded", human(number(&found["assumed_seconds"]))),
        ),
        ("conditions_met", "taken not to wait for what is outside of their runs".to_owned()),
        ("played_once", "played once, because nobody knows over how many items they will be mapped".to_owned()),
    ] {
        let jobs: Vec<String> = items(&found[list]).map(job_of).collect();
        if !jobs.is_empty() {
            output.say(&format!("{said}: {}", few(&jobs)));
        }
    }
}

fn workflows(found: &Value) -> Vec<Vec<String>> {
    let heads = ["workflow", "fire times", "succeeded", "other ends", "began late", "longest", "SLA", "missed"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for item in items(&found["workflows"]) {
        let others = ["failed", "cancelled", "passed_over", "unfinished"].into_iter().filter_map(|name| {
            let many = count(&item[name]);
            (many > 0).then(|| format!("{} {}", grouped(many), name.replace('_', " ")))
        });
        let delayed = count(&item["delayed"]);
        let late = match delayed {
            0 => String::new(),
            many => format!("{}, by up to {}", grouped(many), human(number(&item["longest_delay_seconds"]))),
        };
        rows.push(vec![
            cell(&item["workflow"]),
            grouped(count(&item["fires"])),
            grouped(count(&item["succeeded"])),
            others.collect::<Vec<_>>().join(", "),
            late,
            human(number(&item["longest_seconds"])),
            item["sla_seconds"].as_f64().map(human).unwrap_or_default(),
            item["sla_seconds"].as_f64().map(|_| grouped(count(&item["missed"]))).unwrap_or_default(),
        ]);
    }
    rows
}

fn limits(found: &Value) -> Vec<Vec<String>> {
    let heads = ["limit", "slots", "busy", "most taken", "waits", "most waiting", "waited"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for item in items(&found["limits"]) {
        let waits = count(&item["waits"]) + u64::from(count(&item["most_waiting"]) > 0 && count(&item["waits"]) == 0);
        rows.push(vec![
            name_of(item),
            item["capacity"].as_u64().map_or_else(|| absent(item), grouped),
            item["busy"].as_f64().map(|busy| format!("{:.1} %", busy * 100.0)).unwrap_or_default(),
            grouped(count(&item["most_taken"])),
            grouped(waits),
            grouped(count(&item["most_waiting"])),
            human(number(&item["waited_seconds"])),
        ]);
    }
    rows
}

fn absent(limit: &Value) -> String {
    if limit["kind"] == "pool" { "not set".to_owned() } else { String::new() }
}

fn name_of(limit: &Value) -> String {
    let name = cell(&limit["name"]);
    match limit["kind"].as_str().unwrap_or_default() {
        "slots" => "worker slots".to_owned(),
        "quota" => "quota of the project".to_owned(),
        "key" => "keys".to_owned(),
        "labels" => format!("labels {name}"),
        kind => format!("{kind} {name}"),
    }
}

fn longest_wait(limit: &Value) -> String {
    let longest = &limit["longest"];
    let goes_on = if longest["goes_on"] == true { ", and waits at the end" } else { "" };
    format!(
        "  longest at {}: {} of {} waited {} from {}{goes_on}",
        name_of(limit),
        cell(&longest["job"]),
        fire_of(longest),
        human(number(&longest["seconds"])),
        minute(&longest["since"]),
    )
}

fn missed(output: Output, found: &Value) {
    let all = count(&found["missed_count"]);
    if all == 0 {
        return;
    }
    output.say("");
    output.say(&output.bad(&format!("{} missed", plural(all, "SLA"))));
    for missed in items(&found["missed"]).take(SHOWN) {
        let by = missed["late_seconds"].as_f64().map(human);
        let said = match (missed["fate"].as_str().unwrap_or_default(), by) {
            ("unfinished", Some(by)) => format!("is late by {by} at the end, and goes on"),
            (_, Some(by)) => format!("is late by {by}: it ends {}", minute(&missed["ended_at"])),
            (fate, None) => format!("{fate} {}", minute(&missed["ended_at"])),
        };
        output.say(&format!("  {} was due {} and {said}", fire_of(missed), minute(&missed["due_at"])));
    }
    if all > SHOWN as u64 {
        output.say(&format!("  and {} more (--json)", grouped(all - SHOWN as u64)));
    }
}

fn run_rows(found: &Value) -> Vec<Vec<String>> {
    let heads = ["fire time", "workflow", "began", "ended", "fate", "jobs waited"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for run in items(&found["runs"]).take(RUNS_SHOWN) {
        rows.push(vec![
            minute(&run["fire_at"]),
            cell(&run["workflow"]),
            minute(&run["began_at"]),
            minute(&run["ended_at"]),
            cell(&run["fate"]),
            human(number(&run["waited_seconds"])),
        ]);
    }
    rows
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

fn job_of(value: &Value) -> String {
    format!("{}/{}", cell(&value["workflow"]), cell(&value["job"]))
}

/// A run, by what fired it.
fn fire_of(value: &Value) -> String {
    format!("{} {}", cell(&value["workflow"]), minute(&value["fire_at"]))
}

/// A time in UTC to the minute, or to the second where that is not all.
fn minute(at: &Value) -> String {
    let Ok(at) = serde_json::from_value::<Micros>(at.clone()) else { return String::new() };
    let at = at.to_utc();
    let seconds = at.format("%S").to_string();
    at.format(if seconds == "00" { "%Y-%m-%d %H:%M" } else { "%Y-%m-%d %H:%M:%S" }).to_string()
}

/// The first of some names, and how many more there are.
fn few(names: &[String]) -> String {
    match names.len().checked_sub(10) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..10].join(", ")),
    }
}
