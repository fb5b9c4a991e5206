//! Looking at runs: lists, details, logs, files, counters, reasons.

use std::io::Write;
use std::process::ExitCode;

use pinrail_model::fault::Reason;
use serde_json::Value;

use super::project::without_empty_last;
use super::run::{Left, last, task_line};
use super::schedules::short;
use super::{backfills, pace, waiting};
use crate::client::{Client, Place, encoded};
use crate::failure::{FAILED, Failure, REFUSED};
use crate::output::{Output, cell, command, hint, human, plural, seconds, size, table, visible};

/// How much of an output is shown to people; `--json` has all of it.
const WIDEST_OUTPUT: usize = 100;
/// And of an item.
const WIDEST_ITEM: usize = 60;

/// The run that a reference means.
pub fn find(place: &Place, client: &Client, reference: &str) -> Result<Value, Failure> {
    let project = place.project().ok().map(|project| format!("&project={}", project.name)).unwrap_or_default();
    let encoded = encoded(reference);
    // A one-off command outside of a project is found as well: first in the project, then everywhere.
    let found = client.get(&format!("/runs?find={encoded}{project}"));
    let found = match found {
        Err(failure) if failure.code == REFUSED && !project.is_empty() => client.get(&format!("/runs?find={encoded}")),
        other => other,
    }?;
    Ok(found["items"][0].clone())
}

pub fn runs(
    place: &Place,
    output: Output,
    workflow: Option<&str>,
    state: Option<&str>,
    backfill: Option<&str>,
    limit: u32,
) -> Result<ExitCode, Failure> {
    let client = place.connect()?;
    let mut path = format!("/runs?limit={limit}");
    if let Some(reference) = backfill {
        path.push_str(&format!("&backfill={}", backfills::find(place, &client, reference)?));
    }
    if let Ok(project) = place.project() {
        path.push_str(&format!("&project={}", project.name));
    }
    for (name, value) in [("workflow", workflow), ("state", state), ("target", place.target.as_deref())] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={value}"));
        }
    }
    let found = client.get(&path)?;
    if !output.json {
        let heads = ["run", "workflow", "ds", "state", "created at", "took", "target"];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        for run in found["items"].as_array().into_iter().flatten() {
            let id = cell(&run["id"]);
            let short = id[id.len().saturating_sub(pinrail_model::ids::SHORT)..].to_owned();
            let took = seconds(&run["created_at"], &run["ended_at"]).map(human).unwrap_or_default();
            rows.push(vec![
                short,
                cell(&run["workflow"]),
                cell(&run["ds"]),
                cell(&run["state"]),
                cell(&run["created_at"]),
                took,
                cell(&run["target"]),
            ]);
        }
        output.say(&table(&without_empty_last(rows)));
    }
    output.document(&found);
    Ok(ExitCode::SUCCESS)
}

pub fn show(
    place: &Place,
    output: Output,
    reference: &str,
    job: Option<&str>,
    state: Option<&str>,
) -> Result<ExitCode, Failure> {
    let client = place.connect()?;
    let run = find(place, &client, reference)?;
    if job.is_some() || state.is_some() {
        return show_tasks(&client, output, &run, job, state);
    }
    if !output.json {
        let left = Left::of(&client, &run)?;
        let there = run["target"].as_str().map_or_else(String::new, |target| format!("target {target} · "));
        let line = format!(
            "{} · {} · {} · {there}run {}",
            cell(&run["workflow"]),
            cell(&run["ds"]),
            cell(&run["state"]),
            cell(&run["id"])
        );
        output.say(&line);
        if run["cause"]["kind"] == "job" {
            let (job, above) = (cell(&run["cause"]["job"]), short(&run["cause"]["run"]));
            output.say(&output.dim(&format!("  the work of job {job} of run {above}")));
        }
        for task in run["tasks"].as_array().into_iter().flatten() {
            output.say(&task_line(output, task, &left));
            let attempt = task["attempts"].as_array().and_then(|attempts| attempts.last());
            if let Some(sub_run) = attempt.map(|attempt| &attempt["sub_run"]).filter(|run| run.is_string()) {
                output.say(&output.dim(&format!("      its work is run {}", short(sub_run))));
            }
            for warning in attempt.and_then(|attempt| attempt["warnings"].as_array()).into_iter().flatten() {
                output.say(&output.dim(&format!("      warning: {}", visible(&cell(warning)))));
            }
            for line in waiting::said_of(task) {
                output.say(&output.dim(&format!("      {line}")));
            }
            for (name, value) in task["outputs"].as_object().into_iter().flatten() {
                let text: String = value.to_string().chars().take(WIDEST_OUTPUT).collect();
                output.say(&output.dim(&format!("      {name} = {text}")));
            }
        }
        environments_of(&run).iter().for_each(|line| output.say(&output.dim(line)));
    }
    if !output.json {
        failed_cleanups(&run, None).iter().for_each(|line| output.say(line));
    }
    output.document(&run);
    Ok(ExitCode::SUCCESS)
}

/// The instances of a mapped job, one line each; also a job alone, and whatever is in a state.
fn show_tasks(
    client: &Client,
    output: Output,
    run: &Value,
    job: Option<&str>,
    state: Option<&str>,
) -> Result<ExitCode, Failure> {
    let mut found = tasks_of(client, run, job, state)?;
    // What a mapped job is, its instances say.
    found.retain(|task| !(task["instances"].is_object() && job.is_some()));
    if !output.json {
        let mut rows = vec![["job", "item", "state", "attempts", "took"].map(str::to_owned).to_vec()];
        for task in &found {
            let attempt = task["attempts"].as_array().and_then(|attempts| attempts.last()).cloned().unwrap_or_default();
            let item: String = match &task["item"] {
                Value::Null => String::new(),
                Value::String(text) => text.chars().take(WIDEST_ITEM).collect(),
                item => item.to_string().chars().take(WIDEST_ITEM).collect(),
            };
            rows.push(vec![
                cell(&task["name"]),
                visible(&item).into_owned(),
                cell(&task["state"]),
                task["attempts"].as_array().map_or(0, Vec::len).to_string(),
                seconds(&attempt["started_at"], &attempt["ended_at"]).map(human).unwrap_or_default(),
            ]);
        }
        output.say(&table(&rows));
    }
    output.document(&serde_json::json!({"items": found, "next": null}));
    Ok(ExitCode::SUCCESS)
}

/// The tasks of a run, instances of mapped jobs among them; of one job, and in one state, if they are named.
fn tasks_of(client: &Client, run: &Value, job: Option<&str>, state: Option<&str>) -> Result<Vec<Value>, Failure> {
    let known: Vec<&Value> = run["tasks"].as_array().into_iter().flatten().collect();
    // Most runs have no instances, and are at hand.
    if state.is_none() && !job.is_some_and(|job| job.contains('[')) {
        let wanted = known.iter().filter(|task| job.is_none_or(|job| task["name"] == job));
        let wanted: Vec<Value> = wanted.map(|task| (**task).clone()).collect();
        if wanted.iter().all(|task| !task["instances"].is_object()) {
            return Ok(wanted);
        }
    }
    let query = [("job", job), ("state", state)];
    let query = query.iter().filter_map(|(name, value)| Some(format!("&{name}={}", encoded((*value)?))));
    let path = format!("/runs/{}/tasks?limit=500{}", cell(&run["id"]), query.collect::<String>());
    Ok(client.list(&path)?["items"].as_array().cloned().unwrap_or_default())
}

/// A job as it is written in a shell: the brackets of an instance mean something there.
fn quoted(job: &str) -> String {
    if job.contains('[') { format!("'{job}'") } else { job.to_owned() }
}

/// A line for each Python environment that the last attempts of a run's jobs have.
fn environments_of(run: &Value) -> Vec<String> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for task in run["tasks"].as_array().into_iter().flatten() {
        let attempt = task["attempts"].as_array().and_then(|attempts| attempts.last());
        if let Some(digest) = attempt.and_then(|attempt| attempt["environment"].as_str()) {
            let (digest, job) = (digest.chars().take(8).collect(), cell(&task["name"]));
            match found.iter_mut().find(|(known, _)| *known == digest) {
                Some((_, jobs)) => jobs.push(job),
                None => found.push((digest, vec![job])),
            }
        }
    }
    found.into_iter().map(|(digest, jobs)| format!("  Python environment {digest}: {}", jobs.join(", "))).collect()
}

/// A line for each cleanup that failed: it changes no outcome, but may have left something behind.
pub fn failed_cleanups(run: &Value, job: Option<&str>) -> Vec<String> {
    let tasks = run["tasks"].as_array().into_iter().flatten();
    let tasks = tasks.filter(|task| job.is_none_or(|job| task["name"] == job));
    let failed = tasks.filter_map(|task| {
        let attempts = task["attempts"].as_array()?;
        let cleanup =
            attempts.iter().rev().map(|attempt| &attempt["cleanup"]).find(|cleanup| cleanup["ok"] == false)?;
        Some((cell(&task["name"]), cell(&cleanup["detail"])))
    });
    let line = |(job, detail): (String, String)| {
        let look = command(&format!("pinrail logs {} --job {}", last(run), quoted(&job)));
        format!("  cleanup of {job} failed: {}\n    next        {look}", visible(&detail))
    };
    failed.map(line).collect()
}

pub fn logs(
    place: &Place,
    output: Output,
    reference: &str,
    job: Option<&str>,
    number: Option<u64>,
    follow: bool,
) -> Result<ExitCode, Failure> {
    let client = place.connect()?;
    let run = find(place, &client, reference)?;
    let tasks = tasks_of(&client, &run, job, None)?;
    let wanted: Vec<&Value> = tasks.iter().collect();
    if let (Some(job), true) = (job, wanted.is_empty()) {
        return Err(Failure::new(REFUSED, format!("job \"{job}\" not found in run {}", cell(&run["id"]))));
    }
    if let Some(number) = number {
        let attempts = |task: &Value| task["attempts"].as_array().cloned().unwrap_or_default();
        if !wanted.iter().any(|task| attempts(task).iter().any(|attempt| attempt["number"] == number)) {
            let most = wanted.iter().map(|task| attempts(task).len()).max().unwrap_or(0);
            let what = job.map_or_else(|| "no job".to_owned(), |job| format!("job \"{job}\""));
            let verb = if job.is_some() { "has no" } else { "has an" };
            let message = format!("{what} of run {} {verb} attempt {number}", cell(&run["id"]));
            return Err(Failure::new(REFUSED, message).hint(match most {
                0 => "There is none yet.".to_owned(),
                1 => "There is only attempt 1.".to_owned(),
                most => format!("The last one is attempt {most}."),
            }));
        }
    }
    let several = wanted.len() > 1;
    let mut all = Vec::new();
    for task in wanted {
        let attempts: Vec<&Value> = task["attempts"].as_array().into_iter().flatten().collect();
        let attempt = match number {
            Some(number) => attempts.iter().find(|attempt| attempt["number"] == number),
            None => attempts.last(),
        };
        let Some(attempt) = attempt else { continue };
        if several && !output.json {
            output.say(&output.dim(&format!("── {} attempt {}", cell(&task["name"]), attempt["number"])));
        }
        let path = format!("/attempts/{}/log", cell(&attempt["id"]));
        if follow {
            client.follow(&format!("{path}?follow=true"), |_, _, frame| {
                print_frame(output, frame);
                true
            })?;
        } else {
            let found = client.list(&path)?;
            let frames = found["items"].as_array().cloned().unwrap_or_default();
            frames.iter().for_each(|frame| print_frame(output, frame));
            all.extend(frames.into_iter().map(|mut frame| {
                frame["job"] = task["name"].clone();
                frame
            }));
        }
    }
    output.document(&serde_json::json!({"items": all, "next": null}));
    Ok(ExitCode::SUCCESS)
}

fn print_frame(output: Output, frame: &Value) {
    if output.json {
        return;
    }
    let text = cell(&frame["text"]);
    let text = visible(&text);
    let raw = matches!(frame["stream"].as_str(), Some("stdout" | "stderr"));
    let mut out = std::io::stdout();
    // A reader that has gone wants no more.
    let _ = if raw { write!(out, "{text}") } else { writeln!(out, "{text}") };
}

pub fn files(place: &Place, output: Output, reference: &str, name: Option<&str>) -> Result<ExitCode, Failure> {
    let client = place.connect()?;
    let run = find(place, &client, reference)?;
    let found = client.list(&format!("/runs/{}/files", cell(&run["id"])))?;
    let items: Vec<&Value> = found["items"].as_array().into_iter().flatten().collect();
    if let Some(name) = name {
        let Some(file) = items.iter().find(|file| file["name"] == name) else {
            return Err(Failure::new(REFUSED, format!("run {} left no file \"{name}\"", cell(&run["id"]))));
        };
        let path = format!("/runs/{}/files/{}/{}", cell(&run["id"]), encoded(&cell(&file["job"])), encoded(name));
        std::io::stdout().write_all(&client.bytes(&path, None)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !output.json {
        let mut rows = vec![["job", "file", "bytes"].map(str::to_owned).to_vec()];
        rows.extend(items.iter().map(|file| vec![cell(&file["job"]), cell(&file["name"]), cell(&file["size"])]));
        output.say(&table(&rows));
    }
    output.document(&found);
    Ok(ExitCode::SUCCESS)
}

pub fn counters(place: &Place, output: Output, reference: &str) -> Result<ExitCode, Failure> {
    let client = place.connect()?;
    let run = find(place, &client, reference)?;
    let found = client.list(&format!("/runs/{}/counters?limit=500", cell(&run["id"])))?;
    if !output.json {
        let tasks = tasks_of(&client, &run, None, None)?;
        let mut rows = vec![["job", "attempt", "group", "name", "value", "unit"].map(str::to_owned).to_vec()];
        for counter in found["items"].as_array().into_iter().flatten() {
            let (job, number) = job_of(&tasks, &counter["attempt"]);
            rows.push(vec![
                job,
                number,
                cell(&counter["group"]),
                cell(&counter["name"]),
                cell(&counter["value"]),
                cell(&counter["unit"]),
            ]);
        }
        output.say(&table(&rows));
    }
    output.document(&found);
    Ok(ExitCode::SUCCESS)
}

/// The job that an attempt belongs to, and its number.
fn job_of(tasks: &[Value], id: &Value) -> (String, String) {
    let attempts = tasks.iter().flat_map(|task| {
        let attempts = task["attempts"].as_array().into_iter().flatten();
        attempts.map(move |attempt| (task, attempt))
    });
    let found = attempts.into_iter().find(|(_, attempt)| attempt["id"] == *id);
    found.map(|(task, attempt)| (cell(&task["name"]), cell(&attempt["number"]))).unwrap_or_default()
}

pub fn explain(
    place: &Place,
    output: Output,
    reference: &str,
    job: Option<&str>,
    slow: bool,
) -> Result<ExitCode, Failure> {
    let client = place.connect()?;
    let run = find(place, &client, reference)?;
    let pace = client.get(&format!("/runs/{}/pace", cell(&run["id"])))?;
    if slow {
        if !output.json {
            output.say(&pace::text(&pace));
        }
        output.document(&pace);
        return Ok(ExitCode::SUCCESS);
    }
    let job = job.map(|job| format!("?job={}", encoded(job))).unwrap_or_default();
    let mut found = client.list(&format!("/runs/{}/explain{job}", cell(&run["id"])))?;
    let items = found["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    if items.is_empty() {
        return Err(Failure::new(FAILED, "the run has no jobs"));
    }
    if !output.json {
        output.say(&explain_run(items, &run));
        if is_unusual(&pace) {
            output.say(&pace::text(&pace));
        }
    }
    found["pace"] = if is_unusual(&pace) { pace } else { Value::Null };
    output.document(&found);
    Ok(ExitCode::SUCCESS)
}

/// Whether a run is to be called slow without being asked.
fn is_unusual(pace: &Value) -> bool {
    pace["is_slow"] == true
}

/// How many failures are told of beside the first.
const MOST_OTHERS: usize = 5;

/// The first explanation as people read it, and in short what else failed. All of them are of one run.
pub fn explain_run(items: &[Value], run: &Value) -> String {
    let Some((first, others)) = items.split_first() else { return String::new() };
    let mut lines = vec![explain_text(first)];
    let run_name = last(run);
    let others: Vec<&Value> = others
        .iter()
        .filter(|item| matches!(item["code"].as_str(), Some("failed" | "ending-badly" | "held")))
        .collect();
    for other in others.iter().take(MOST_OTHERS) {
        let (job, failure) = (cell(&other["job"]), &other["failure"]);
        let phase = failure["phase"].as_str().map(|phase| format!(" in {phase}")).unwrap_or_default();
        let message = cell(if failure.is_null() { &other["reason"] } else { &failure["message"] });
        let fault = failure["fault"].as_str().map(|fault| format!(" · fault {fault}")).unwrap_or_default();
        let said = visible(message.lines().next().unwrap_or_default()).into_owned();
        lines.push(format!("  {job} failed as well{phase}{fault}\n    {said}"));
        let facts = failure["facts"].as_array().into_iter().flatten();
        let words = facts.filter(|fact| fact[0] == "stderr").map(|fact| cell(&fact[1]));
        // Of what a command last said, the very last line is most often the reason.
        lines.extend(words.filter_map(|text| Some(format!("    stderr      {}", visible(text.lines().last()?)))));
        lines.push(format!(
            "    next        {}",
            command(&format!("pinrail explain {run_name} --job {}", quoted(&job)))
        ));
    }
    if others.len() > MOST_OTHERS {
        let more = plural((others.len() - MOST_OTHERS) as u64, "further failure");
        lines.push(format!("  {more}: {}", command(&format!("pinrail show {run_name}"))));
    }
    // With --job only that one was asked about.
    let only = if items.len() == 1 { first["job"].as_str() } else { None };
    lines.extend(failed_cleanups(run, only));
    lines.join("\n")
}

/// An explanation as people read it.
pub(super) fn explain_text(explanation: &Value) -> String {
    let job = waiting::subject(explanation);
    let code = cell(&explanation["code"]);
    let names = |list: &Value| {
        let items = list.as_array().into_iter().flatten();
        items
            .map(|item| item["job"].as_str().unwrap_or_else(|| item.as_str().unwrap_or_default()).to_owned())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let states = |list: &Value| {
        let items = list.as_array().into_iter().flatten();
        items.map(|item| format!("{} ({})", cell(&item["job"]), cell(&item["state"]))).collect::<Vec<_>>().join(", ")
    };
    let mut lines = match code.as_str() {
        "waiting-for-jobs" => {
            let more = explanation["more"].as_u64().map(|more| format!(" and {more} more")).unwrap_or_default();
            vec![format!("  {job} waits for {}{more}", states(&explanation["jobs"]))]
        }
        "waiting-to-finish" => vec![format!("  {job} waits for a worker slot for {}", cell(&explanation["step"]))],
        "backing-off" => {
            let tries = &explanation["tries"];
            let next = format!("attempt {} of {}", tries["number"].as_u64().unwrap_or_default() + 1, tries["allowed"]);
            let until = cell(&explanation["until"]);
            let mut lines = vec![format!("  {job} failed and is tried again at {until} ({next})")];
            lines.extend(failure_lines(&explanation["failure"]));
            lines
        }
        // Of a person the reason says by itself that it is held.
        "held" if cell(&explanation["reason"]).starts_with("held by ") => {
            vec![format!("  {job} is {}", visible(&cell(&explanation["reason"])))]
        }
        "held" => vec![format!("  {job} is held: {}", cell(&explanation["reason"]))],
        "ended" if explanation["state"] == "disabled" => vec![format!("  {job} was switched off: it did not run")],
        "waiting-for-server" => {
            let heard = explanation["heard_at"].as_str();
            let heard = heard.map(|at| format!("; the one that worked on it is gone (last heard of at {at})"));
            vec![format!("  {job} waits for a server{}", heard.unwrap_or_default())]
        }
        "working" => vec![format!(
            "  {job} is at work{}: {} since {} (attempt {})",
            explanation["worker"].as_str().map(|worker| format!(" at {worker}")).unwrap_or_default(),
            cell(&explanation["position"]),
            cell(&explanation["since"]),
            explanation["number"]
        )],
        "failed" | "ending-badly" => {
            let failure = &explanation["failure"];
            let phase = failure["phase"].as_str().map(|phase| format!(" in {phase}")).unwrap_or_default();
            let helps = if failure["retry_helps"] == true { "" } else { ": a retry will not help" };
            let tries = format!("attempt {} of {}", explanation["tries"]["number"], explanation["tries"]["allowed"]);
            let mut lines = vec![format!("  {job} failed{phase} · {tries} · fault {}{helps}", cell(&failure["fault"]))];
            lines.extend(failure_lines(failure));
            lines
        }
        "cancelled" => {
            let mut lines = vec![format!("  {job} was cancelled")];
            lines.extend(failure_lines(&explanation["failure"]));
            let stopped = &explanation["stopped"];
            if !stopped.is_null() {
                lines.push(format!("    stopped by {}", cell(&stopped["by"])));
                lines.extend(stopped["reason"].as_str().map(|reason| format!("    reason      {}", visible(reason))));
            }
            lines
        }
        "upstream-failed" if explanation["jobs"].as_array().is_none_or(Vec::is_empty) => vec![format!(
            "  {job} did not start: a job did not succeed that it waited for in the code that the run had before"
        )],
        "upstream-failed" => vec![format!("  {job} did not start: {}", states(&explanation["jobs"]))],
        "skipped" if explanation["conditions"][0].is_object() => {
            let condition = &explanation["conditions"][0];
            let (what, found) = (cell(&condition["what"]), cell(&condition["found"]));
            vec![format!("  {job} was skipped: it waited for {}: {}", visible(&what), visible(&found))]
        }
        "skipped" if explanation["jobs"].as_array().is_none_or(Vec::is_empty) => vec![format!("  {job} was skipped")],
        "skipped" => vec![format!("  {job} was skipped: {}", states(&explanation["jobs"]))],
        _ => waiting::lines(explanation).unwrap_or_else(|| vec![format!("  {job} {}", cell(&explanation["state"]))]),
    };
    lines.extend(waiting::foreseen(explanation));
    lines.extend(waiting::said(&explanation["said"], &code));
    lines.extend(changed_lines(&explanation["changed"]));
    lines.extend(unpublished_lines(&explanation["unpublished"]));
    let downstream = names(&explanation["downstream"]);
    if !downstream.is_empty() {
        lines.push(format!("    downstream  {downstream} did not start"));
    }
    if let Some(next) = explanation["next"].as_str() {
        let first = explanation["first"].as_str().map(|first| format!("{first}, then: ")).unwrap_or_default();
        lines.push(format!("    next        {first}{}", command(next)));
    }
    lines.join("\n")
}

/// How many files or tables are named; `--json` has all of them.
const MOST_NAMED: usize = 3;

/// What is not as it was when the workflow last succeeded.
fn changed_lines(changed: &Value) -> Vec<String> {
    let files: Vec<&Value> = changed.as_array().into_iter().flatten().collect();
    let line = |(at, file): (usize, &&Value)| {
        let label = if at == 0 { "since" } else { "" };
        let path = cell(&file["path"]);
        let when = file["modified_at"].as_str().map(|at| format!(" at {at}")).unwrap_or_default();
        let what = match (file["before"].as_u64(), file["after"].as_u64()) {
            (Some(before), Some(after)) if before == after => format!("{path} changed{when}"),
            (Some(before), Some(after)) => format!("{path} changed{when}: {} → {}", size(before), size(after)),
            (None, _) => format!("{path} is new"),
            (_, None) => format!("{path} is gone"),
        };
        format!("    {label:<11} {what}")
    };
    let mut lines: Vec<String> = files.iter().take(MOST_NAMED).enumerate().map(line).collect();
    if files.len() > MOST_NAMED {
        lines.push(format!("    {:<11} and {} more files changed", "", files.len() - MOST_NAMED));
    }
    lines
}

/// What the attempt had written and nobody else has seen.
fn unpublished_lines(tables: &Value) -> Vec<String> {
    let (kept, unmade): (Vec<&Value>, Vec<&Value>) =
        tables.as_array().into_iter().flatten().partition(|table| table["exists"] == true);
    let named = |tables: &[&Value]| match tables {
        many if many.len() > MOST_NAMED => plural(many.len() as u64, "table"),
        few => few.iter().map(|table| cell(&table["table"])).collect::<Vec<_>>().join(", "),
    };
    let verb = |tables: &[&Value], one: &'static str, many: &'static str| if tables.len() == 1 { one } else { many };
    let mut said = Vec::new();
    if let Some(first) = kept.first() {
        let same = kept.iter().all(|table| table["snapshot_at"] == first["snapshot_at"]);
        let snapshot = match first["snapshot_at"].as_str().filter(|_| same) {
            Some(at) => format!("the snapshot of {at}"),
            None => verb(&kept, "its snapshot", "their snapshots").to_owned(),
        };
        said.push(format!("{} {} {snapshot}", named(&kept), verb(&kept, "keeps", "keep")));
    }
    if !unmade.is_empty() {
        said.push(format!("{} {} not made", named(&unmade), verb(&unmade, "was", "were")));
    }
    said.into_iter().map(|text| format!("    not published: {text}")).collect()
}

fn failure_lines(failure: &Value) -> Vec<String> {
    if failure.is_null() {
        return Vec::new();
    }
    let mut lines = vec![format!("    {}", visible(&cell(&failure["message"])))];
    lines.extend(code_lines(failure["code"].as_array().map(Vec::as_slice).unwrap_or_default()));
    for fact in failure["facts"].as_array().into_iter().flatten() {
        let (name, value) = (cell(&fact[0]), cell(&fact[1]));
        // Several lines, such as the last of a command, stand below each other.
        for (at, line) in visible(&value).lines().enumerate() {
            lines.push(format!("    {:<11} {line}", if at == 0 { name.as_str() } else { "" }));
        }
    }
    if let Some(remedy) = failure["remedy"].as_str().filter(|remedy| !says_nothing_new(failure, remedy)) {
        lines.push(format!("    remedy      {}", hint(&visible(remedy))));
    }
    lines
}

/// Whether a remedy is only that the code or the command is to be mended, which stands before the next command.
fn says_nothing_new(failure: &Value, remedy: &str) -> bool {
    let mut plain = Reason::ALL.into_iter().filter(|reason| reason.is_plain());
    plain.any(|reason| failure["reason"] == reason.name() && remedy == reason.remedy())
}

/// How many places of the user's code are shown at the beginning and at the end of a long way.
const FIRST_PLACES: usize = 3;
const LAST_PLACES: usize = 5;

/// The way through the user's code. What calls itself again and again is said once.
fn code_lines(places: &[Value]) -> Vec<String> {
    let line = |same: &[Value]| {
        let place = &same[0];
        let code = place["code"].as_str().map(|code| format!("  {}", visible(code.trim()))).unwrap_or_default();
        let times = if same.len() > 1 { format!("  ({} times)", same.len()) } else { String::new() };
        format!("    your code   {}:{}{code}{times}", cell(&place["file"]), place["line"])
    };
    let mut lines: Vec<String> = places.chunk_by(|a, b| a == b).map(line).collect();
    if lines.len() > FIRST_PLACES + LAST_PLACES {
        let left_out = lines.len() - FIRST_PLACES - LAST_PLACES;
        lines.splice(FIRST_PLACES..FIRST_PLACES + left_out, [format!("    ... {left_out} more ...")]);
    }
    lines
}
