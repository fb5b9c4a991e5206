//! Why something waits, in words: for limits, workers, other runs, or for a person who holds it.

use serde_json::Value;

use super::schedules::{control, short};
use crate::client::Client;
use crate::output::{cell, plural, visible};

/// Holders that are named; `--json` has all of them.
const MOST_NAMED: usize = 3;

/// What an explanation is about: a job, or a run that has not begun.
pub fn subject(explanation: &Value) -> String {
    explanation["job"].as_str().map_or_else(|| format!("run {}", short(&explanation["run"])), str::to_owned)
}

/// Adds the names of their jobs to the first holders of what the first explanation waits for.
pub fn name_holders(client: &Client, explanations: &mut Value) {
    let holders = explanations["items"][0]["holders"].as_array_mut();
    for holder in holders.into_iter().flatten().take(MOST_NAMED) {
        // One that is not in the token's reach stays without a name.
        let Ok(run) = client.get(&format!("/runs/{}", cell(&holder["run"]))) else { continue };
        let task = &run["tasks"][holder["task"].as_u64().unwrap_or_default() as usize];
        holder["job"] = task["name"].clone();
        holder["workflow"] = run["workflow"].clone();
        let attempt = task["attempts"].as_array().and_then(|attempts| attempts.last());
        holder["since"] = attempt.map(|attempt| attempt["started_at"].clone()).unwrap_or_default();
    }
}

/// The lines of an explanation that is about waiting; none when it is about something else.
pub fn lines(explanation: &Value) -> Option<Vec<String>> {
    let who = subject(explanation);
    let number = |name: &str| explanation[name].as_u64().unwrap_or_default();
    let head = match explanation["code"].as_str()? {
        "waiting-for-slot" if number("slots") == 0 && number("place") > 0 => {
            format!("  {who} waits for a worker: none takes jobs, and the server has no slots of its own")
        }
        "waiting-for-slot" => {
            format!("  {who} waits for a worker slot: {} of {} are held", number("held"), number("slots"))
        }
        "waiting-for-conditions" => {
            let conditions = explanation["conditions"].as_array().cloned().unwrap_or_default();
            return Some(conditions.iter().flat_map(|condition| condition_lines(&who, condition)).collect());
        }
        "waiting-for-limit" => limit(&who, explanation),
        "waiting-for-worker" => {
            let labels: Vec<String> = explanation["labels"].as_array().into_iter().flatten().map(cell).collect();
            let workers = match number("workers") {
                0 => "none is there".to_owned(),
                1 => "the one that has them is full".to_owned(),
                count => format!("all {count} that have them are full"),
            };
            format!("  {who} waits for a worker with the labels {}: {workers}", labels.join(", "))
        }
        "held-by-scope" => {
            let scope = &explanation["scope"];
            let what = match scope["scope"].as_str() {
                Some("workflow") => format!("workflow {}", cell(&scope["workflow"])),
                Some("project") => format!("project {}", cell(&scope["project"])),
                _ => "the platform".to_owned(),
            };
            format!("  {who} waits: {what} is {}", control("held", &explanation["control"]))
        }
        "run-held" => format!("  {who} waits: its run is {}", control("held", &explanation["control"])),
        "waiting-for-interval" => {
            let other = short(&explanation["other"]);
            format!("  {who} has not begun: run {other} of the same workflow and interval is under way")
        }
        "waiting-for-runs" => {
            let names = runs(&explanation["runs"]);
            let most = plural(number("most_active"), "run");
            match explanation["overrun"].as_str() {
                _ if names.is_empty() => format!("  {who} has not begun: its turn comes next"),
                Some("start-new") => {
                    format!("  {who} has not begun: at most {most} at once, and {names} are under way")
                }
                Some("abort-running") => format!("  {who} has not begun: {names} must end first, being stopped"),
                _ => format!("  {who} has not begun: {names} must end first (overrun is delay)"),
            }
        }
        "waiting-for-success" => {
            let other = short(&explanation["other"]);
            format!("  {who} has not begun: run {other} failed and must succeed first (overrun is delay-until-success)")
        }
        "waiting-in-backfill" => {
            format!("  {who} has not begun: its turn in backfill {} is still to come", short(&explanation["backfill"]))
        }
        _ => return None,
    };
    let mut lines = vec![head];
    lines.extend(holders(&explanation["holders"]));
    if number("place") > 0 {
        lines.push(format!("    queue       {} of {}", number("place"), number("of")));
    }
    Some(lines)
}

/// What is full, with its values.
fn limit(who: &str, explanation: &Value) -> String {
    let (held, capacity) = (&explanation["held"], &explanation["capacity"]);
    let of = format!("{held} of {capacity}");
    let limit = &explanation["limit"];
    match limit["kind"].as_str() {
        Some("pool") if *capacity == 0 => {
            format!("  {who} waits: pool \"{}\" has no slots; nobody has set it", cell(&limit["name"]))
        }
        Some("pool") => format!("  {who} waits: pool \"{}\" is full ({of} slots)", cell(&limit["name"])),
        Some("quota") => format!("  {who} waits: the quota of project {} is used up ({of})", cell(&limit["project"])),
        Some("workflow") => {
            format!("  {who} waits: workflow {} has as many jobs at work as may be ({of})", cell(&limit["workflow"]))
        }
        Some("job") => {
            format!("  {who} waits: as many of job {} are at work as may be, in all runs ({of})", cell(&limit["job"]))
        }
        _ => format!("  {who} waits: another job with the key \"{}\" is at work, one at a time", cell(&limit["key"])),
    }
}

fn runs(list: &Value) -> String {
    let ids: Vec<String> = list.as_array().into_iter().flatten().map(|run| format!("run {}", short(run))).collect();
    if ids.len() > MOST_NAMED {
        return format!("{} and {} more", ids[..MOST_NAMED].join(", "), ids.len() - MOST_NAMED);
    }
    ids.join(", ")
}

fn holders(list: &Value) -> Vec<String> {
    let all: Vec<&Value> = list.as_array().into_iter().flatten().collect();
    let mut lines = Vec::new();
    for (at, holder) in all.iter().take(MOST_NAMED).enumerate() {
        let head = if at == 0 { "held by" } else { "" };
        let job = holder["job"].as_str().map(|job| format!(" {job}")).unwrap_or_default();
        let workflow = holder["workflow"].as_str().map(|name| format!(" of {name}")).unwrap_or_default();
        let since = holder["since"].as_str().map(|at| format!(" since {at}")).unwrap_or_default();
        lines.push(format!("    {head:<11} {}{job}{workflow}{since}", short(&holder["run"])));
    }
    if all.len() > MOST_NAMED {
        lines.push(format!("    {:<11} and {} more", "", all.len() - MOST_NAMED));
    }
    lines
}

/// A condition with what was last seen of it.
fn condition_lines(who: &str, condition: &Value) -> [String; 3] {
    let found = match condition["found"].as_str() {
        Some("") | None => "nobody has looked yet".to_owned(),
        Some(found) => format!("{} (at {})", visible(found), cell(&condition["at"])),
    };
    let until = cell(&condition["until"]);
    [
        format!("  {who} waits for {}", visible(&cell(&condition["what"]))),
        format!("    last look   {found}"),
        format!("    given up    {until}"),
    ]
}
