//! Running, following, cancelling, retrying.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::project::tell_definition_errors;
use super::schedules::deployed_bundle;
use super::show::{explain_run, failed_cleanups, find};
use crate::cli::{RunArgs, SubmitArgs};
use crate::client::{Client, Place, project_path};
use crate::failure::{CANCELLED, DETACHED, FAILED, Failure, USAGE};
use crate::interrupts;
use crate::output::{Output, cell, command, grouped, hint, human, plural, seconds};

/// Seconds that one request waits for news.
const POLL: &str = "10";

pub fn run(place: &Place, output: Output, args: &RunArgs) -> Result<ExitCode, Failure> {
    let project = place.project()?;
    if let Some(path) = args.workflow.strip_suffix(".py") {
        let name = path.rsplit('/').next().unwrap_or(path);
        let failure = Failure::new(USAGE, format!("\"{}\" is a file; a workflow is named as its file", args.workflow));
        return Err(failure.hint(format!("Did you mean `pinrail run {name}`?")));
    }
    let client = place.connect_for_run(args.detach)?;
    let target = place.target(&project);
    let mut body = json!({"workflow": args.workflow, "params": parameters(&args.params)?, "target": target});
    let mut code = "deployed version".to_owned();
    if !args.deployed {
        let bundle = client.send_code(&project, &place.state()?, output)?;
        code = this_folder(&bundle);
        body["bundle"] = bundle.into();
    }
    if let Some(at) = &args.at {
        body["at"] = json!(at);
    }
    if let Some(jobs) = &args.job {
        body["jobs"] = json!(jobs);
    }
    if let Some(upstream) = &args.upstream {
        let example = "Write it as --upstream '{\"load\": {\"rows\": 3}}'.";
        body["upstream"] = serde_json::from_str(upstream)
            .map_err(|e| Failure::new(USAGE, format!("--upstream is not JSON: {e}")).hint(example))?;
    }
    choose_executors(&mut body, &args.executors);
    let path = format!("/projects/{}/runs", project.name);
    let run = client.post(&path, &body).inspect_err(|failure| {
        if !output.json {
            tell_definition_errors(failure, output);
        }
    })?;
    let there = run["target"].as_str().map_or_else(String::new, |target| format!("target {target} · "));
    output.say(&format!("{} · {} · {code} · {there}run {}", args.workflow, cell(&run["ds"]), last(&run)));
    if args.detach {
        return Ok(detached(output, &run));
    }
    let run = follow_and_tell(&client, output, &run)?;
    if !output.json {
        tell_next(&client, output, &run)?;
    }
    Ok(exit_code(&run))
}

pub fn submit(place: &Place, output: Output, args: &SubmitArgs) -> Result<ExitCode, Failure> {
    if let (Some(target), []) = (&args.target, args.command.as_slice())
        && target.trim().contains(char::is_whitespace)
    {
        let failure = Failure::new(USAGE, format!("\"{target}\" is not a class, a function or an SQL file"));
        return Err(failure.hint(format!("A command stands behind --: `pinrail submit -- {target}`.")));
    }
    let params: BTreeMap<String, Value> =
        parameters(&args.params)?.into_iter().map(|(name, text)| (name, scalar(text))).collect();
    let client = place.connect_for_run(args.detach)?;
    let job = match (&args.target, args.command.as_slice()) {
        (Some(_), [_, ..]) => {
            return Err(Failure::new(USAGE, "give a class, an SQL file or a command, not two of them"));
        }
        (None, command) => json!({"shell": command}),
        (Some(target), []) if target.ends_with(".sql") => json!({"sql-file": project_path(&place.project()?, target)}),
        (Some(target), []) => json!({"class": target}),
    };
    let mut body = json!({"job": job, "params": params});
    let project = match place.project() {
        Ok(project) => {
            body["bundle"] = client.send_code(&project, &place.state()?, output)?.into();
            body["target"] = json!(place.target(&project));
            project.name.to_string()
        }
        // A command needs no project, and no files.
        Err(_) if args.target.is_none() => {
            body["bundle"] = client.post("/projects/scratch/bundles", &json!({"files": {}}))?["sha"].clone();
            "scratch".to_owned()
        }
        Err(failure) => return Err(failure),
    };
    if let Some(executor) = &args.executor {
        body["executor"] = json!(executor);
    }
    if let Some(at) = &args.at {
        body["at"] = json!(at);
    }
    let run = client.post(&format!("/projects/{project}/runs"), &body)?;
    output.say(&format!("{} · run {}", cell(&run["workflow"]), last(&run)));
    end(&client, output, &run, args.detach)
}

pub fn parameters(given: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut parameters = BTreeMap::new();
    for text in given {
        let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
            Failure::new(USAGE, format!("\"{text}\" is not a parameter")).hint("Write --param NAME=VALUE.")
        })?;
        if parameters.insert(name.to_owned(), value.to_owned()).is_some() {
            let message = format!("parameter \"{name}\" is given twice");
            return Err(Failure::new(USAGE, message).hint("Give each parameter once."));
        }
    }
    Ok(parameters)
}

/// A number or true or false where it is one, else the text: nothing says what a job without a workflow wants.
fn scalar(text: String) -> Value {
    match serde_json::from_str(&text) {
        Ok(value @ (Value::Number(_) | Value::Bool(_))) => value,
        _ => text.into(),
    }
}

/// The files as they are, and by which digest.
fn this_folder(bundle: &str) -> String {
    format!("this folder ({})", bundle.chars().take(4).collect::<String>())
}

fn choose_executors(body: &mut Value, given: &[String]) {
    for choice in given {
        match choice.split_once('=') {
            Some((job, executor)) => body["executors"][job] = json!(executor),
            None => body["executor"] = json!(choice),
        }
    }
}

pub fn last(run: &Value) -> String {
    let id = run["id"].as_str().unwrap_or_default();
    id[id.len().saturating_sub(pinrail_model::ids::SHORT)..].to_owned()
}

/// Waits for a run's end and tells how it went, or says how to follow it.
fn end(client: &Client, output: Output, run: &Value, detach: bool) -> Result<ExitCode, Failure> {
    if detach {
        return Ok(detached(output, run));
    }
    follow_and_tell(client, output, run).map(|run| exit_code(&run))
}

pub fn detached(output: Output, run: &Value) -> ExitCode {
    let id = cell(&run["id"]);
    output.say(&hint(&format!("  follow with `pinrail logs {id} -f`, end with `pinrail cancel {id}`")));
    output.document(run);
    ExitCode::SUCCESS
}

/// The run as it has ended.
fn follow_and_tell(client: &Client, output: Output, run: &Value) -> Result<Value, Failure> {
    let run = follow(client, output, &cell(&run["id"]))?;
    tell(client, output, &run);
    output.document(&run);
    Ok(run)
}

fn exit_code(run: &Value) -> ExitCode {
    ExitCode::from(match run["state"].as_str() {
        Some("succeeded") => 0,
        Some("cancelled") => CANCELLED,
        _ => FAILED,
    })
}

fn has_ended(run: &Value) -> bool {
    matches!(run["state"].as_str(), Some("succeeded" | "failed" | "cancelled"))
}

/// Shows tasks as they end, until the run has.
pub fn follow(client: &Client, output: Output, id: &str) -> Result<Value, Failure> {
    interrupts::count();
    let mut shown: BTreeMap<String, String> = BTreeMap::new();
    let mut cancelled = false;
    loop {
        let wait = if interrupts::seen() > 0 || client.embedded().is_some() { "1" } else { POLL };
        let run = wait_for_change(client, id, wait, &shown)?;
        show_ended(client, output, &run, &mut shown)?;
        if has_ended(&run) {
            return Ok(run);
        }
        match (interrupts::seen(), client.embedded()) {
            (0, _) => {}
            (1, Some(_)) if !cancelled => {
                cancelled = true;
                output.say("  cancelling; Ctrl-C again leaves at once");
                client.post(&format!("/runs/{id}/cancel"), &json!({"reason": "Ctrl-C"}))?;
            }
            (1, Some(_)) => {}
            (_, None) => {
                output.say(&hint(&format!(
                    "  detached; it goes on. Follow with `pinrail show {id}`, end with `pinrail cancel {id}`"
                )));
                return Err(Failure::new(DETACHED, ""));
            }
            (_, Some(_)) => return Err(Failure::new(DETACHED, "left before the run had ended")),
        }
    }
}

/// The run as soon as a task has ended that was not shown yet, or after a while.
fn wait_for_change(client: &Client, id: &str, wait: &str, shown: &BTreeMap<String, String>) -> Result<Value, Failure> {
    let run = client.get(&format!("/runs/{id}"))?;
    let news = run["tasks"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|task| is_over(task) && shown.get(&cell(&task["name"])) != Some(&cell(&task["state"])));
    if news || has_ended(&run) || interrupts::seen() > 0 {
        return Ok(run);
    }
    client.get(&format!("/runs/{id}?wait={wait}"))
}

fn is_over(task: &Value) -> bool {
    matches!(
        task["state"].as_str(),
        Some("succeeded" | "failed" | "skipped" | "disabled" | "cancelled" | "upstream-failed" | "held")
    )
}

/// Shows the tasks that have ended since it was looked last.
fn show_ended(
    client: &Client,
    output: Output,
    run: &Value,
    shown: &mut BTreeMap<String, String>,
) -> Result<(), Failure> {
    let tasks = run["tasks"].as_array().into_iter().flatten();
    let ended: Vec<&Value> =
        tasks.filter(|task| is_over(task) && shown.get(&cell(&task["name"])) != Some(&cell(&task["state"]))).collect();
    if ended.is_empty() {
        return Ok(());
    }
    let left = Left::of(client, run)?;
    for task in ended {
        shown.insert(cell(&task["name"]), cell(&task["state"]));
        output.say(&task_line(output, task, &left));
    }
    Ok(())
}

/// What jobs of a run left that people want to see at once.
pub struct Left {
    /// Amounts that an attempt counted, by its id.
    counted: BTreeMap<String, Vec<String>>,
    /// Files that a job saved, by its name.
    files: BTreeMap<String, Vec<String>>,
}

/// Amounts and files that one line shows; `pinrail counters` and `pinrail files` show all.
const MOST_SHOWN: usize = 3;

impl Left {
    pub fn of(client: &Client, run: &Value) -> Result<Self, Failure> {
        let id = cell(&run["id"]);
        let mut left = Self { counted: BTreeMap::new(), files: BTreeMap::new() };
        // Of instances only counts are shown, and ten thousand of them leave very many numbers.
        let query = "?instances=false&limit=500";
        for counter in client.list(&format!("/runs/{id}/counters{query}"))?["items"].as_array().into_iter().flatten() {
            if counter["group"] == "user" {
                let (value, name) = (counter["value"].as_f64().unwrap_or_default(), cell(&counter["name"]));
                let whole = value >= 0.0 && value.fract() == 0.0 && value < 1e15;
                let value = if whole { grouped(value as u64) } else { value.to_string() };
                left.counted.entry(cell(&counter["attempt"])).or_default().push(format!("{value} {name}"));
            }
        }
        for file in client.list(&format!("/runs/{id}/files{query}"))?["items"].as_array().into_iter().flatten() {
            left.files.entry(cell(&file["job"])).or_default().push(cell(&file["name"]));
        }
        Ok(left)
    }

    fn has_page(&self) -> bool {
        self.files.values().flatten().any(|name| name.ends_with(".html"))
    }

    /// In a few words, what a success came to.
    fn told(&self, task: &Value, attempt: &Value) -> String {
        let counted = self.counted.get(&cell(&attempt["id"])).into_iter().flatten().take(MOST_SHOWN).cloned();
        let files = self.files.get(&cell(&task["name"])).into_iter().flatten().take(MOST_SHOWN).cloned();
        let written = attempt["written"].as_array().map_or(&[][..], Vec::as_slice);
        let tables = match written {
            [] => None,
            [one] if one["rows"].is_u64() => {
                let partition = one["partition"].as_str().map_or_else(String::new, |name| format!(" [{name}]"));
                let rows = plural(one["rows"].as_u64().unwrap_or(0), "row");
                Some(format!("{rows} → {}{partition}", cell(&one["table"])))
            }
            several => Some(plural(several.len() as u64, "table")),
        };
        counted.chain(tables).chain(files).collect::<Vec<_>>().join(", ")
    }
}

/// One line about a mapped job: how many of its instances are in which state.
fn map_line(output: Output, task: &Value, count: u64) -> String {
    let (name, state, instances) = (cell(&task["name"]), cell(&task["state"]), &task["instances"]);
    let name = match count {
        0 => name,
        1 => format!("{name}[0]"),
        count => format!("{name}[0..{}]", count - 1),
    };
    let states = instances["states"].as_object();
    let mut states: Vec<(u64, &str)> =
        states.into_iter().flatten().map(|(state, count)| (count.as_u64().unwrap_or(0), state.as_str())).collect();
    states.sort_by_key(|(_, state)| match *state {
        "succeeded" => 0,
        "failed" => 1,
        _ => 2,
    });
    let mut notes: Vec<String> = states.iter().map(|(count, state)| format!("{count} {state}")).collect();
    if count == 0 {
        notes.push("its list is empty".to_owned());
    }
    let mark = match state.as_str() {
        "succeeded" => output.good("✔"),
        "failed" => output.bad("✘"),
        "waiting" => "▸".to_owned(),
        _ => output.dim("–"),
    };
    let took = seconds(&instances["started_at"], &instances["ended_at"]).map(human).unwrap_or_default();
    format!("  {mark} {name:<16} {:<8} {took:>8}   {}", "", notes.join(", ")).trim_end().to_owned()
}

/// One line about a task.
pub fn task_line(output: Output, task: &Value, left: &Left) -> String {
    if let Some(count) = task["instances"]["count"].as_u64() {
        return map_line(output, task, count);
    }
    let (name, state) = (cell(&task["name"]), cell(&task["state"]));
    let attempt = task["attempts"].as_array().and_then(|attempts| attempts.last()).cloned().unwrap_or_default();
    let took = seconds(&attempt["started_at"], &attempt["ended_at"]).map(human).unwrap_or_default();
    let (mark, note) = match state.as_str() {
        "succeeded" => (output.good("✔"), left.told(task, &attempt)),
        "failed" => (output.bad("✘"), format!("fault {}", cell(&attempt["fault"]))),
        "upstream-failed" => (output.dim("–"), "a job above it did not succeed".to_owned()),
        "skipped" | "disabled" | "cancelled" | "held" => (output.dim("–"), state.clone()),
        "waiting" | "ready" | "backoff" => (output.dim("·"), state.clone()),
        _ => ("▸".to_owned(), state.clone()),
    };
    let number = task["attempts"].as_array().map_or(0, Vec::len);
    let tries = if number > 1 { format!("{number} attempts") } else { String::new() };
    let cleanup = if attempt["cleanup"]["ok"] == false { "cleanup failed".to_owned() } else { String::new() };
    let slow = if task["slow"] == true { "slow".to_owned() } else { String::new() };
    let warnings = match attempt["warnings"].as_array().map_or(0, Vec::len) {
        0 => String::new(),
        count => plural(count as u64, "warning"),
    };
    let notes: Vec<String> =
        [tries, slow, note, warnings, cleanup].into_iter().filter(|note| !note.is_empty()).collect();
    let notes = notes.join(", ");
    format!("  {mark} {name:<16} {:<8} {took:>8}   {notes}", cell(&attempt["executor"])).trim_end().to_owned()
}

fn tell(client: &Client, output: Output, run: &Value) {
    let state = cell(&run["state"]);
    let took = seconds(&run["created_at"], &run["ended_at"]).map(human).unwrap_or_default();
    let shown = if state == "succeeded" { output.good(&state) } else { output.bad(&state) };
    output.say(&format!("  {shown} in {took}"));
    if state == "failed" {
        let path = format!("/runs/{}/explain", cell(&run["id"]));
        if let Ok(answer) = client.get(&path)
            && let Some(items) = answer["items"].as_array()
        {
            output.say(&explain_run(items, run));
            return;
        }
    }
    failed_cleanups(run, None).iter().for_each(|line| output.say(line));
}

/// After the first success of a workflow: what there is to see of it.
fn tell_next(client: &Client, output: Output, run: &Value) -> Result<(), Failure> {
    if run["state"] != "succeeded" {
        return Ok(());
    }
    let (project, workflow) = (cell(&run["project"]), cell(&run["workflow"]));
    let path = format!("/runs?project={project}&workflow={workflow}&limit=2");
    if client.get(&path)?["items"].as_array().is_none_or(|runs| runs.len() != 1) {
        return Ok(());
    }
    let mut next = Vec::new();
    if Left::of(client, run)?.has_page() {
        next.push((command("pinrail open"), "the report"));
    }
    let attempts = run["tasks"].as_array().into_iter().flatten().filter_map(|task| task["attempts"].as_array()?.last());
    let written = attempts.filter_map(|attempt| match attempt["written"].as_array()?.as_slice() {
        [one] if one["rows"].is_u64() => Some(cell(&one["table"])),
        _ => None,
    });
    if let Some(table) = written.into_iter().next() {
        next.push((command(&format!("pinrail sql \"select * from {table} limit 5\"")), ""));
    }
    if client.embedded().is_some() {
        next.push((command("pinrail up"), "a server that stays, with the API"));
    }
    for (at, (command, what)) in next.iter().enumerate() {
        let head = if at == 0 { "\n  next:" } else { "       " };
        output.say(format!("{head}  {command:<29} {what}").trim_end());
    }
    Ok(())
}

pub fn cancel(
    place: &Place,
    output: Output,
    reference: &str,
    job: Option<&str>,
    reason: Option<&str>,
) -> Result<ExitCode, Failure> {
    let client = place.connect()?;
    let id = cell(&find(place, &client, reference)?["id"]);
    let run = client.post(&format!("/runs/{id}/cancel"), &json!({"job": job, "reason": reason}))?;
    let what = job.map(|job| format!("job \"{job}\" of ")).unwrap_or_default();
    output.say(&format!("{what}run {} is being cancelled", last(&run)));
    output.document(&run);
    Ok(ExitCode::SUCCESS)
}

pub fn retry(
    place: &Place,
    output: Output,
    reference: &str,
    jobs: Option<&str>,
    code: &str,
    detach: bool,
) -> Result<ExitCode, Failure> {
    let client = place.connect_for_run(detach)?;
    let found = find(place, &client, reference)?;
    let id = cell(&found["id"]);
    let bundle = match code {
        "folder" => Some(client.send_code(&place.project()?, &place.state()?, output)?),
        "deployed" => Some(deployed_bundle(&client, &found)?),
        _ => None,
    };
    let run = client.post(&format!("/runs/{id}/retry"), &json!({"jobs": jobs, "bundle": bundle}))?;
    let code = match bundle {
        None => "the run's own code".to_owned(),
        Some(_) if code == "deployed" => "deployed version".to_owned(),
        Some(bundle) => this_folder(&bundle),
    };
    output.say(&format!("{} · {} · {code} · run {}", cell(&run["workflow"]), cell(&run["ds"]), last(&run)));
    end(&client, output, &run, detach)
}
