//! Backfills: many runs that are asked for together, followed, paused, edited and cancelled as one.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::project::without_empty_last;
use super::run::parameters;
use super::schedules::{control, interval, short};
use crate::client::{Client, Place};
use crate::failure::{CANCELLED, DETACHED, FAILED, Failure, REFUSED};
use crate::interrupts;
use crate::output::{Output, cell, command, grouped, hint, human, plural, table};

/// How often it is asked how far a backfill is.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How often it is looked for Ctrl-C meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Without a terminal a line is printed for one answer of so many, so that logs do not fill.
const ANSWERS_A_LINE: u32 = 10;
/// Characters of the bar.
const BAR: u64 = 20;

/// The arguments of `backfill`.
#[derive(Debug, Args)]
pub struct BackfillArgs {
    /// A deployed workflow
    workflow: String,
    /// The first date
    #[arg(long, value_name = "DATE", requires = "to", required_unless_present = "at")]
    from: Option<String>,
    /// The last date, included
    #[arg(long, value_name = "DATE", requires = "from")]
    to: Option<String>,
    /// A date or time of one interval; may be given several times
    #[arg(long, conflicts_with_all = ["from", "to"])]
    at: Vec<String>,
    /// Jobs: a, a+ (and below), +a (and above)
    #[arg(long, value_name = "SELECT")]
    job: Option<String>,
    /// A parameter
    #[arg(long = "param", value_name = "NAME=VALUE")]
    params: Vec<String>,
    /// Runs at once [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: Option<u32>,
    /// Begin with the oldest interval instead of the newest
    #[arg(long)]
    oldest_first: bool,
    /// Run again also what has succeeded with the same code
    #[arg(long)]
    redo: bool,
    /// Compete with scheduled runs instead of letting them go first
    #[arg(long, value_parser = ["backfill", "scheduled"], default_value = "backfill")]
    class: String,
    /// Only say what it would come to
    #[arg(long)]
    dry_run: bool,
    /// Print the id and return
    #[arg(long)]
    detach: bool,
}

#[derive(Debug, Subcommand)]
pub enum BackfillsCommand {
    /// Let no further runs begin
    Pause {
        id: String,
        /// Why, for people
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let runs begin again
    Resume {
        id: String,
        /// Why, for people
        #[arg(long)]
        reason: Option<String>,
    },
    /// Stop what is under way, and begin nothing further
    Cancel {
        id: String,
        /// Why, for people
        #[arg(long)]
        reason: Option<String>,
    },
    /// Change the runs that have not begun
    #[command(arg_required_else_help = true)]
    Edit {
        id: String,
        /// Runs at once
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        concurrency: Option<u32>,
        /// A parameter
        #[arg(long = "param", value_name = "NAME=VALUE")]
        params: Vec<String>,
    },
}

pub fn backfill(place: &Place, output: Output, args: &BackfillArgs) -> Result<ExitCode, Failure> {
    let project = place.project()?;
    let params = parameters(&args.params)?;
    let client = place.connect_for_run(args.detach && !args.dry_run)?;
    let mut body = json!({
        "workflow": args.workflow,
        "at": args.at,
        "params": params,
        "order": if args.oldest_first { "oldest" } else { "newest" },
        "class": args.class,
        "redo": args.redo,
        "target": place.target(&project),
        "dry_run": args.dry_run,
    });
    for (name, value) in [("from", &args.from), ("to", &args.to), ("jobs", &args.job)] {
        if let Some(value) = value {
            body[name] = json!(value);
        }
    }
    if let Some(concurrency) = args.concurrency {
        body["concurrency"] = json!(concurrency);
    }
    let made = client.post(&format!("/projects/{}/backfills", project.name), &body)?;
    headline(&made).iter().for_each(|line| output.say(line));
    if made["id"].is_null() {
        if made["total"] != 0 && args.dry_run {
            output.say("  nothing was begun: --dry-run");
        }
        output.document(&made);
        return Ok(ExitCode::SUCCESS);
    }
    if args.detach {
        output.say(&format!("  {}", follow_hint(&made)));
        output.document(&made);
        return Ok(ExitCode::SUCCESS);
    }
    let ended = follow(&client, output, &made)?;
    tell_end(output, &ended);
    output.document(&ended);
    Ok(ExitCode::from(match ended["state"].as_str() {
        Some("succeeded") => 0,
        Some("cancelled") => CANCELLED,
        _ => FAILED,
    }))
}

/// What is asked for, in a line or two.
fn headline(made: &Value) -> Vec<String> {
    let what = made["jobs"].as_str().map_or_else(|| cell(&made["workflow"]), str::to_owned);
    let order = if made["order"] == "oldest" { "oldest first" } else { "newest first" };
    let total = made["total"].as_u64().unwrap_or_default();
    let mut lines = Vec::new();
    if total > 0 {
        let terms = format!("class {}, at most {} at once, {order}", cell(&made["class"]), made["concurrency"]);
        let estimate = &made["estimate"];
        let estimate = match estimate["seconds"].as_f64() {
            Some(seconds) if seconds < 1.0 => format!(" · less than a second by {}", sample(estimate)),
            Some(seconds) => format!(" · about {} by {}", human(seconds), sample(estimate)),
            None => String::new(),
        };
        lines.push(format!("  {} of {what} ({terms}){estimate}", plural(total, "run")));
    }
    let done = made["done_before"].as_u64().unwrap_or_default();
    if done > 0 {
        let rest = if total == 0 { "nothing is to be done" } else { "left out" };
        let again = "--redo runs them again";
        lines.push(format!("  {} succeeded before with the same code: {rest}; {again}", plural(done, "interval")));
    }
    lines
}

/// What an estimate rests on.
fn sample(estimate: &Value) -> String {
    match estimate["sample"].as_u64() {
        Some(1) | None => "the last run".to_owned(),
        Some(count) => format!("the last {count} runs"),
    }
}

fn follow_hint(backfill: &Value) -> String {
    let id = short(&backfill["id"]);
    hint(&format!("follow with `pinrail backfills {id}`, end with `pinrail backfills cancel {id}`"))
}

/// Shows how far a backfill is, until it has ended.
fn follow(client: &Client, output: Output, made: &Value) -> Result<Value, Failure> {
    interrupts::count();
    let path = format!("/backfills/{}", cell(&made["id"]));
    let bar = Bar { drawn: std::io::stderr().is_terminal() };
    let mut answers = 0;
    loop {
        let backfill = client.get(&path)?;
        let over = is_over(&backfill);
        if bar.drawn || over || answers % ANSWERS_A_LINE == 0 {
            bar.show(output, &progress(&backfill), over);
        }
        if over {
            return Ok(backfill);
        }
        answers += 1;
        let mut slept = Duration::ZERO;
        while slept < ASK_AGAIN {
            if interrupts::seen() > 0 {
                bar.end();
                return Err(left(client, output, made));
            }
            std::thread::sleep(LOOK_AGAIN);
            slept += LOOK_AGAIN;
        }
    }
}

fn left(client: &Client, output: Output, made: &Value) -> Failure {
    if client.embedded().is_some() {
        let id = short(&made["id"]);
        output.say(&hint(&format!("  left; its runs wait for a server: `pinrail up` goes on with backfill {id}")));
    } else {
        output.say(&format!("  detached; it goes on: {}", follow_hint(made)));
    }
    Failure::new(DETACHED, "")
}

fn is_over(backfill: &Value) -> bool {
    matches!(backfill["state"].as_str(), Some("succeeded" | "failed" | "cancelled"))
}

/// How far it is, on one line.
fn progress(backfill: &Value) -> String {
    let count = |name: &str| backfill[name].as_u64().unwrap_or_default();
    let total = count("total");
    let ended = count("succeeded") + count("failed") + count("cancelled");
    let full = (ended * BAR).checked_div(total).unwrap_or(BAR);
    let bar: String = (0..BAR).map(|at| if at < full { '█' } else { '░' }).collect();
    let mut parts =
        vec![format!("{}/{}", grouped(ended), grouped(total)), format!("{} failed", grouped(count("failed")))];
    if count("cancelled") > 0 {
        parts.push(format!("{} cancelled", grouped(count("cancelled"))));
    }
    if let (Some(seconds), "running") = (backfill["estimate"]["seconds"].as_f64(), cell(&backfill["state"]).as_str()) {
        parts.push(format!("{} left", human(seconds)));
    }
    if !backfill["paused"].is_null() && !is_over(backfill) {
        parts.push(control("paused", &backfill["paused"]));
    }
    format!("{bar}  {}", parts.join(" · "))
}

/// Where progress is shown: over and over on one line of a terminal, else line by line.
struct Bar {
    drawn: bool,
}

impl Bar {
    fn show(&self, output: Output, text: &str, over: bool) {
        if !self.drawn {
            let parts = text.split_once("  ").map_or(text, |(_, parts)| parts);
            if !over {
                eprintln!("  {parts}");
            }
            return;
        }
        let note =
            if over { String::new() } else { output.dim("       Ctrl-C detaches; it goes on; pinrail backfills") };
        // A terminal that has gone needs no progress.
        let _ = write!(std::io::stderr(), "\r\x1b[K  {text}{note}");
        if over {
            self.end();
        }
    }

    fn end(&self) {
        if self.drawn {
            eprintln!();
        }
    }
}

fn tell_end(output: Output, ended: &Value) {
    let count = |name: &str| ended[name].as_u64().unwrap_or_default();
    let state = cell(&ended["state"]);
    let shown = if state == "succeeded" { output.good(&state) } else { output.bad(&state) };
    let counts = format!("{} succeeded, {} failed", grouped(count("succeeded")), grouped(count("failed")));
    let cancelled = count("cancelled");
    let cancelled = if cancelled > 0 { format!(", {} cancelled", grouped(cancelled)) } else { String::new() };
    let took = crate::output::seconds(&ended["created_at"], &ended["ended_at"]).map(human);
    let took = took.map(|took| format!(" in {took}")).unwrap_or_default();
    output.say(&format!("  {shown}{took} · {counts}{cancelled}"));
    if !ended["stopped"].is_null() {
        output.say(&format!("  {}", control("cancelled", &ended["stopped"])));
    }
    if count("failed") > 0 {
        let list = command(&format!("pinrail runs --backfill {} --in failed", short(&ended["id"])));
        output.say(&format!("    next        {list}, then: {}", command("pinrail retry RUN")));
    }
}

pub fn backfills(place: &Place, output: Output, id: Option<&str>) -> Result<ExitCode, Failure> {
    let client = place.connect()?;
    if let Some(id) = id {
        let found = client.get(&format!("/backfills/{}", find(place, &client, id)?))?;
        if !output.json {
            details(output, &found);
        }
        output.document(&found);
        return Ok(ExitCode::SUCCESS);
    }
    let found = place.of_target(client.get(&format!("/backfills?limit=50{}", of_project(place)))?);
    if !output.json {
        let heads = ["backfill", "workflow", "jobs", "state", "done", "failed", "first", "last", "by", "created at"];
        let mut rows = vec![heads.into_iter().chain(["target"]).map(str::to_owned).collect()];
        for item in found["items"].as_array().into_iter().flatten() {
            let count = |name: &str| item[name].as_u64().unwrap_or_default();
            let ended = count("succeeded") + count("failed") + count("cancelled");
            rows.push(vec![
                short(&item["id"]),
                cell(&item["workflow"]),
                cell(&item["jobs"]),
                cell(&item["state"]),
                format!("{}/{}", grouped(ended), grouped(count("total"))),
                grouped(count("failed")),
                begins(&item["first"]),
                begins(&item["last"]),
                cell(&item["by"]),
                cell(&item["created_at"]),
                cell(&item["target"]),
            ]);
        }
        output.say(&table(&without_empty_last(rows)));
    }
    output.document(&found);
    Ok(ExitCode::SUCCESS)
}

/// The beginning of an interval, in UTC.
fn begins(interval: &Value) -> String {
    super::schedules::local(&interval["start"], "UTC")
}

fn details(output: Output, backfill: &Value) {
    output.say(&format!("{} · backfill {}", cell(&backfill["workflow"]), cell(&backfill["id"])));
    headline(backfill).iter().for_each(|line| output.say(line));
    output.say(&format!("  {} · {}", cell(&backfill["state"]), progress(backfill)));
    let (first, last) = (interval(&backfill["first"], "UTC"), interval(&backfill["last"], "UTC"));
    output.say(&format!("  first       {first} (UTC)"));
    output.say(&format!("  last        {last} (UTC)"));
    let params = backfill["params"].as_object().into_iter().flatten();
    let params: Vec<String> = params.map(|(name, value)| format!("{name}={}", cell(value))).collect();
    if !params.is_empty() {
        output.say(&format!("  parameters  {}", params.join(", ")));
    }
    output.say(&format!("  asked for by {} at {}", cell(&backfill["by"]), cell(&backfill["created_at"])));
    if !backfill["stopped"].is_null() {
        output.say(&format!("  {}", control("cancelled", &backfill["stopped"])));
    }
    output.say(&format!("  its runs    {}", command(&format!("pinrail runs --backfill {}", short(&backfill["id"])))));
}

pub fn change(place: &Place, output: Output, wanted: &BackfillsCommand) -> Result<ExitCode, Failure> {
    let client = place.connect()?;
    let (id, verb, reason) = match wanted {
        BackfillsCommand::Pause { id, reason } => (id, "pause", reason),
        BackfillsCommand::Resume { id, reason } => (id, "resume", reason),
        BackfillsCommand::Cancel { id, reason } => (id, "cancel", reason),
        BackfillsCommand::Edit { id, concurrency, params } => {
            return edit(place, &client, output, id, *concurrency, params);
        }
    };
    let id = find(place, &client, id)?;
    let changed = client.post(&format!("/backfills/{id}/{verb}"), &json!({"reason": reason}))?;
    let said = match verb {
        "pause" => "is paused; runs that have begun go on",
        "resume" => "goes on",
        _ => "is being cancelled",
    };
    output.say(&format!("backfill {} {said}", short(&changed["id"])));
    output.say(&format!("  {}", progress(&changed)));
    output.document(&changed);
    Ok(ExitCode::SUCCESS)
}

fn edit(
    place: &Place,
    client: &Client,
    output: Output,
    id: &str,
    concurrency: Option<u32>,
    params: &[String],
) -> Result<ExitCode, Failure> {
    let params = parameters(params)?;
    let id = find(place, client, id)?;
    let mut body = json!({});
    if let Some(concurrency) = concurrency {
        body["concurrency"] = json!(concurrency);
    }
    if !params.is_empty() {
        body["params"] = json!(params);
    }
    let changed = client.patch(&format!("/backfills/{id}"), &body)?;
    output.say(&format!("backfill {} is changed for the runs that have not begun", short(&changed["id"])));
    headline(&changed).iter().for_each(|line| output.say(line));
    output.document(&changed);
    Ok(ExitCode::SUCCESS)
}

/// The id of a backfill that is named by its last characters, or `last`.
pub fn find(place: &Place, client: &Client, reference: &str) -> Result<String, Failure> {
    if reference.parse::<pinrail_model::ids::BackfillId>().is_ok() {
        return Ok(reference.to_owned());
    }
    let found = client.list(&format!("/backfills?limit=500{}", of_project(place)))?;
    let ids: Vec<String> = found["items"].as_array().into_iter().flatten().map(|item| cell(&item["id"])).collect();
    if let ("last", Some(id)) = (reference, ids.first()) {
        return Ok(id.clone());
    }
    let ending = reference.to_ascii_uppercase();
    let meant: Vec<&String> = ids.iter().filter(|id| ending.len() > 1 && id.ends_with(&ending)).collect();
    match meant.as_slice() {
        [id] => Ok((*id).clone()),
        [] => {
            let failure = Failure::new(REFUSED, format!("no backfill \"{reference}\" in this project"));
            Err(failure.hint("List them with `pinrail backfills`."))
        }
        several => {
            let ids: Vec<&str> = several.iter().map(|id| id.as_str()).collect();
            Err(Failure::new(REFUSED, format!("\"{reference}\" could be {}", ids.join(", "))).hint("Give more of it."))
        }
    }
}

/// The part of a query that keeps to the project, where there is one.
fn of_project(place: &Place) -> String {
    place.project().ok().map(|project| format!("&project={}", project.name)).unwrap_or_default()
}
