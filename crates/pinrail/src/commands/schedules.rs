//! Schedules: what fires when, pausing and resuming; and what a deploy does to them.

use std::collections::BTreeMap;
use std::process::ExitCode;

use pinrail_model::names::WorkflowName;
use pinrail_model::schedule::zone;
use pinrail_model::time::Micros;
use serde_json::{Value, json};

use super::project::without_empty_last;
use crate::client::{Client, Place};
use crate::failure::{Failure, REFUSED, USAGE};
use crate::output::{Output, cell, command, plural, table, visible};

/// Fire times of a kind that are named one by one; `--json` has all of them.
const MOST_NAMED: usize = 3;

pub fn schedules(place: &Place, output: Output, workflow: Option<&str>) -> Result<ExitCode, Failure> {
    let project = place.project()?;
    let client = place.connect()?;
    let found = place.of_target(client.list(&format!("/projects/{}/schedules", project.name))?);
    let items: Vec<&Value> = found["items"].as_array().into_iter().flatten().collect();
    if let Some(name) = workflow {
        let one = items.iter().find(|item| item["workflow"] == name).ok_or_else(|| {
            Failure::new(REFUSED, format!("no deployed workflow \"{name}\" has a schedule")).hint(
                "List those that have with `pinrail schedules`; `pinrail deploy` makes the folder's the active ones.",
            )
        })?;
        details(one).iter().filter(|_| !output.json).for_each(|line| output.say(line));
        output.document(one);
        return Ok(ExitCode::SUCCESS);
    }
    if !output.json {
        if items.is_empty() {
            output.say("no deployed workflow has a schedule");
        } else {
            let heads = ["workflow", "schedule", "next fire time", "covers", "zone", "", "target"];
            let mut rows = vec![heads.map(str::to_owned).to_vec()];
            rows.extend(items.iter().map(|item| row(item)));
            output.say(&table(&without_empty_last(rows)));
        }
    }
    output.document(&found);
    Ok(ExitCode::SUCCESS)
}

fn row(item: &Value) -> Vec<String> {
    let tz = cell(&item["tz"]);
    let next = &item["next"][0];
    let (fire, covers) = match next["fire_at"].is_null() {
        true => ("never again".to_owned(), String::new()),
        false => (local(&next["fire_at"], &tz), interval(&next["interval"], &tz)),
    };
    let passed = item["passed"].as_array().and_then(|passed| passed.last()).map(|one| passed_over(one, &tz));
    let paused = item["paused"].as_object().map(|_| control("paused", &item["paused"]));
    let notes: Vec<String> = paused.into_iter().chain(passed).collect();
    vec![cell(&item["workflow"]), cell(&item["schedule"]), fire, covers, tz, notes.join("; "), cell(&item["target"])]
}

/// One schedule, with its next fire times and those that made no run.
fn details(item: &Value) -> Vec<String> {
    let tz = cell(&item["tz"]);
    let mut lines = vec![format!("{} · {} · times in {tz}", cell(&item["workflow"]), cell(&item["schedule"]))];
    let most = item["max_active"].as_u64().unwrap_or_default();
    lines.push(format!("  overrun     {}, at most {} at once", cell(&item["overrun"]), plural(most, "run")));
    if !item["paused"].is_null() {
        lines.push(format!("  {}", control("paused", &item["paused"])));
        let resume = command(&format!("pinrail resume {}", cell(&item["workflow"])));
        lines.push(format!("  next        {resume}"));
    }
    let next: Vec<&Value> = item["next"].as_array().into_iter().flatten().collect();
    if next.is_empty() {
        lines.push("  it fires never again".to_owned());
    }
    for (at, fire) in next.iter().enumerate() {
        let head = match (at, item["paused"].is_null()) {
            (0, true) => "fires",
            (0, false) => "would fire",
            _ => "",
        };
        let late = if fire["begins_at"] == fire["fire_at"] {
            String::new()
        } else {
            format!(", begins {}", local(&fire["begins_at"], &tz))
        };
        let covers = interval(&fire["interval"], &tz);
        lines.push(format!("  {head:<11} {}, covers {covers}{late}", local(&fire["fire_at"], &tz)));
    }
    for passed in item["passed"].as_array().into_iter().flatten().rev() {
        lines.push(format!("  {}", passed_over(passed, &tz)));
    }
    if let Some(run) = item["failed"].as_str() {
        let short = &run[run.len().saturating_sub(pinrail_model::ids::SHORT)..];
        lines.push(format!(
            "  failed      run {short}, and none has succeeded since: {}",
            command(&format!("pinrail explain {short}"))
        ));
    }
    lines
}

/// A stretch of fire times that made no run, with the reason.
fn passed_over(passed: &Value, tz: &str) -> String {
    let why = match passed["why"]["kind"].as_str() {
        Some("missed") => "no server was there to fire".to_owned(),
        Some("paused") => "the schedule was paused".to_owned(),
        Some("overrun") => {
            let run = cell(&passed["why"]["run"]);
            format!("run {} was not over", &run[run.len().saturating_sub(pinrail_model::ids::SHORT)..])
        }
        _ => "the schedule was replaced".to_owned(),
    };
    let (from, to) = (local(&passed["from"], tz), local(&passed["to"], tz));
    let count = passed["count"].as_u64().unwrap_or(1);
    if count == 1 {
        return format!("passed over {from}: {why}");
    }
    format!("passed over {} from {from} to {to}: {why}", plural(count, "fire time"))
}

/// Who did something, when and why, in words.
pub fn control(what: &str, control: &Value) -> String {
    let reason = control["reason"].as_str().map(|text| format!(": {}", visible(text))).unwrap_or_default();
    format!("{what} by {} at {}{reason}", cell(&control["by"]), cell(&control["at"]))
}

/// A time of the API in a zone, to the minute where it is a whole one.
pub fn local(at: &Value, tz: &str) -> String {
    let (Ok(at), Ok(tz)) = (serde_json::from_value::<Micros>(at.clone()), zone(tz)) else { return cell(at) };
    let text = at.to_utc().with_timezone(&tz).format("%Y-%m-%dT%H:%M:%S").to_string();
    text.strip_suffix(":00").map_or(text.clone(), str::to_owned)
}

/// An interval in a zone.
pub fn interval(interval: &Value, tz: &str) -> String {
    format!("{} → {}", local(&interval["start"], tz), local(&interval["end"], tz))
}

pub fn pause(
    place: &Place,
    output: Output,
    workflow: &str,
    paused: bool,
    reason: Option<&str>,
) -> Result<ExitCode, Failure> {
    let project = place.project()?;
    let workflow: WorkflowName = workflow.parse().map_err(|e| Failure::new(USAGE, format!("{e}")))?;
    let verb = if paused { "pause" } else { "resume" };
    let path = format!("/projects/{}/schedules/{workflow}/{verb}", project.name);
    let schedule = place.connect()?.post(&path, &json!({"reason": reason, "target": place.target}))?;
    if paused {
        output.say(&format!("the schedule of {workflow} is paused; runs that have been made go on"));
        output.say(&format!("  next        {}", command(&format!("pinrail resume {workflow}"))));
    } else {
        let tz = cell(&schedule["tz"]);
        let next = &schedule["next"][0]["fire_at"];
        let next = if next.is_null() { "never again".to_owned() } else { format!("{} {tz}", local(next, &tz)) };
        output.say(&format!("the schedule of {workflow} is at work, next fire time {next}"));
    }
    output.document(&schedule);
    Ok(ExitCode::SUCCESS)
}

/// Who has paused which schedules, in words, by workflow.
pub struct Paused(BTreeMap<String, String>);

impl Paused {
    /// Those of a project at a target, null in one without targets.
    pub fn of(client: &Client, project: &str, target: &Value) -> Result<Self, Failure> {
        let found = client.list(&format!("/projects/{project}/schedules"))?;
        let items = found["items"].as_array().into_iter().flatten();
        let items = items.filter(|item| !item["paused"].is_null() && item["target"] == *target);
        Ok(Self(items.map(|item| (cell(&item["workflow"]), control("paused", &item["paused"]))).collect()))
    }
}

/// What a deploy does to one workflow: to its jobs, its fire times and its runs.
pub fn workflow_changes(workflow: &Value, paused: &Paused) -> Vec<String> {
    let mut lines = Vec::new();
    if workflow["change"] != "new" {
        let diff = &workflow["diff"];
        for (field, verb) in [("added", "added"), ("removed", "removed")] {
            lines.extend(diff[field].as_array().into_iter().flatten().map(|job| format!("job {}  {verb}", cell(job))));
        }
        for change in diff["changed"].as_array().into_iter().flatten() {
            let settings: Vec<String> = change["settings"].as_array().into_iter().flatten().map(cell).collect();
            lines.push(format!("job {}  changed: {}", cell(&change["job"]), settings.join(", ")));
        }
    }
    lines.extend(fire_times(&workflow["schedule"]));
    lines.extend(next_fire(&workflow["schedule"], paused.0.get(&cell(&workflow["name"]))));
    lines.into_iter().map(|line| format!("      {line}")).collect()
}

fn fire_times(change: &Value) -> Vec<String> {
    if change.is_null() {
        return Vec::new();
    }
    let mut lines = Vec::new();
    match (change["before"].as_str(), change["after"].as_str()) {
        (Some(before), Some(after)) if before != after => lines.push(format!("schedule  {before} → {after}")),
        (None, Some(after)) => lines.push(format!("schedule  {after}")),
        (Some(before), None) => lines.push(format!("schedule  {before} → none: it fires no more")),
        _ => {}
    }
    let times = &change["times"];
    let tz = change["tz"].as_str().unwrap_or("UTC").to_owned();
    let count = |name: &str| times[name].as_array().map_or(0, Vec::len);
    let said = |count: usize, word: &str| if count == 0 { format!("none {word}") } else { format!("{count} {word}") };
    if change["before"].is_string() && !times.is_null() {
        let (lost, new, doubled) = (count("lost"), count("new"), count("doubled"));
        let told = [said(lost, "lost"), said(new, "new"), said(doubled, "doubled")].join(", ");
        lines.push(format!("fire times in the next 7 days: {told}"));
        for one in times["doubled"].as_array().into_iter().flatten().take(MOST_NAMED) {
            lines.push(format!(
                "  {} will run again for {}, which had its run at {}",
                local(&one["fire"], &tz),
                interval(&one["interval"], &tz),
                local(&one["fired_at"], &tz)
            ));
        }
        for one in times["uncovered"].as_array().into_iter().flatten().take(MOST_NAMED) {
            lines.push(format!("  no run will cover {}", interval(one, &tz)));
        }
        let more = count("uncovered").saturating_sub(MOST_NAMED);
        if more > 0 {
            lines.push(format!("  nor {}", plural(more as u64, "further interval")));
        }
    }
    let days: Vec<String> = change["uncovered"].as_array().into_iter().flatten().map(cell).collect();
    if !days.is_empty() {
        let shown = days.iter().take(MOST_NAMED).cloned().collect::<Vec<_>>().join(", ");
        let more = if days.len() > MOST_NAMED { ", ..." } else { "" };
        lines.push(format!(
            "warning: no run covers {} of the next two weeks: {shown}{more}",
            plural(days.len() as u64, "day")
        ));
    }
    lines
}

/// When the schedule fires next, or who keeps it from that.
fn next_fire(change: &Value, paused: Option<&String>) -> Option<String> {
    let next = change["next"].as_array()?.first()?;
    let tz = cell(&change["tz"]);
    let (fires, covers) = (local(&next["fire_at"], &tz), interval(&next["interval"], &tz));
    Some(match paused {
        Some(control) => format!("{control}; it would fire at {fires} {tz}"),
        None => format!("next fire time {fires} {tz}, covers {covers}"),
    })
}

/// The last characters of an id, as people see it.
pub fn short(id: &Value) -> String {
    let id = cell(id);
    id[id.len().saturating_sub(pinrail_model::ids::SHORT)..].to_owned()
}

/// The bundle of the version that is deployed where a run belongs.
pub fn deployed_bundle(client: &Client, run: &Value) -> Result<String, Failure> {
    let (project, workflow) = (cell(&run["project"]), cell(&run["workflow"]));
    let found = client.list(&format!("/projects/{project}/workflows"))?;
    let mut items = found["items"].as_array().into_iter().flatten();
    let one = items.find(|item| item["name"] == run["workflow"] && item["target"] == run["target"]);
    one.map(|item| cell(&item["bundle"])).ok_or_else(|| {
        Failure::new(REFUSED, format!("workflow \"{workflow}\" is not deployed"))
            .hint("Deploy it with `pinrail deploy`.")
    })
}
