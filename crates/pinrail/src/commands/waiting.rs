//! Why something waits, in words: for limits, workers, other runs, or for a person who holds it.

use serde_json::Value;

use super::schedules::{control, short};
use crate::output::{cell, human, plural, visible};

/// Holders that are named; `--json` has all of them.
const MOST_NAMED: usize = 3;

/// What an explanation is about: a job, or a run that has not begun.
pub fn subject(explanation: &Value) -> String {
    explanation["job"].as_str().map_or_else(|| format!("run {}", short(&explanation["run"])), str::to_owned)
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
        "waiting-for-workflow" => {
            let workflow = cell(&explanation["workflow"]);
            match explanation["other"].is_string() {
                true => format!(
                    "  {who} waits for run {} of workflow \"{workflow}\", which is its work, since {}",
                    short(&explanation["other"]),
                    cell(&explanation["since"])
                ),
                false => format!("  {who} waits for its run of workflow \"{workflow}\" to be made"),
            }
        }
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
                    let verb =
                        if explanation["runs"].as_array().is_some_and(|runs| runs.len() == 1) { "is" } else { "are" };
                    format!("  {who} has not begun: at most {most} at once, and {names} {verb} under way")
                }
                Some("abort-running") => format!("  {who} has not begun: {names} must end first, being stopped"),
                _ => format!("  {who} has not begun: {names} must end first (overrun is delay)"),
            }
        }
        "waiting-for-success" => {
            let other = short(&explanation["other"]);
            format!("  {who} has not begun: run {other} failed and must succeed first (overrun is delay-until-success)")
        }
        "waiting-in-backfill" if !explanation["paused"].is_null() => {
            let backfill = short(&explanation["backfill"]);
            format!("  {who} has not begun: backfill {backfill} is {}", control("paused", &explanation["paused"]))
        }
        "waiting-in-backfill" => {
            format!("  {who} has not begun: its turn in backfill {} is still to come", short(&explanation["backfill"]))
        }
        _ => return None,
    };
    let mut lines = vec![head];
    lines.extend(holders(&explanation["holders"]));
    if number("place") > 0 {
        let behind = ahead(&explanation["ahead"]);
        lines.push(format!("    queue       {} of {}{behind}", number("place"), number("of")));
    }
    Some(lines)
}

/// What is full, with its values.
fn limit(who: &str, explanation: &Value) -> String {
    let (held, capacity) = (&explanation["held"], &explanation["capacity"]);
    let of = format!("{held} of {capacity}");
    let limit = &explanation["limit"];
    match limit["kind"].as_str() {
        Some("pool") if limit["is_set"] == false => {
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
        lines.push(format!("    {head:<11} {}", holder_text(holder)));
    }
    if all.len() > MOST_NAMED {
        lines.push(format!("    {:<11} and {} more", "", all.len() - MOST_NAMED));
    }
    lines
}

/// Who holds something: the run, the job, whose it is, since when.
fn holder_text(holder: &Value) -> String {
    let run = short(&holder["run"]);
    let is = &holder["is"];
    if is.is_null() {
        return run;
    }
    let by = is["by"].as_str().map(|by| format!(", asked for by {}", visible(by))).unwrap_or_default();
    let owner = is["owner"].as_str().map(|owner| format!(", owner {}", visible(owner))).unwrap_or_default();
    format!("{run} {} of {} since {}{by}{owner}", cell(&is["job"]), cell(&is["workflow"]), cell(&is["since"]))
}

/// Who comes before it.
fn ahead(list: &Value) -> String {
    let groups: Vec<&Value> = list.as_array().into_iter().flatten().collect();
    let group = |group: &&Value| {
        let times = match group["tasks"].as_u64() {
            Some(1) | None => String::new(),
            Some(tasks) => format!("{tasks} × "),
        };
        match (group["job"].as_str(), group["workflow"].as_str()) {
            (Some(job), Some(workflow)) => format!("{times}{job} of {workflow}"),
            _ => format!("{times}one of another project"),
        }
    };
    let named: Vec<String> = groups.iter().take(MOST_NAMED).map(group).collect();
    match (named.is_empty(), groups.len().saturating_sub(MOST_NAMED)) {
        (true, _) => String::new(),
        (_, 0) => format!(", behind {}", named.join(", ")),
        (_, more) => format!(", behind {} and {more} more", named.join(", ")),
    }
}

/// When it is likely to begin or to end, or why nobody can say.
pub fn foreseen(explanation: &Value) -> Option<String> {
    if let Some(why) = explanation["no_estimate"].as_str() {
        return Some(format!("    estimate    none: {}", visible(why)));
    }
    let estimate = &explanation["estimate"];
    let seconds = estimate["seconds"].as_f64()?;
    let head = if estimate["event"] == "ends" { "ends" } else { "starts" };
    let sample = plural(estimate["runs"].as_u64().unwrap_or_default(), "run");
    let what = if estimate["event"] == "ends" { "it takes" } else { "what it waits for takes" };
    Some(match seconds {
        0.0 => format!("    {head:<11} at any moment: {what} longer than usual (from {sample})"),
        seconds => format!("    {head:<11} in about {} (from {sample})", human(seconds)),
    })
}

/// What a person said of a task: who, when and why. Where the explanation is about just that, it stands there already.
pub fn said(said: &Value, code: &str) -> Option<String> {
    if said.is_null() || (said["what"] == "held" && code == "held") {
        return None;
    }
    Some(format!("    {}", said_text(said["what"].as_str().unwrap_or_default(), said)))
}

fn said_text(what: &str, control: &Value) -> String {
    let head = match what {
        "marked" => "marked by",
        "switched-off" => "off by",
        _ => "held by",
    };
    let reason = control["reason"].as_str().map(|reason| format!(": {}", visible(reason))).unwrap_or_default();
    format!("{head:<11} {} at {}{reason}", visible(&cell(&control["by"])), cell(&control["at"]))
}

/// The same of a task as it is shown.
pub fn said_of(task: &Value) -> Vec<String> {
    let of = |(field, what): (&str, &str)| (!task[field].is_null()).then(|| said_text(what, &task[field]));
    [("marked", "marked"), ("disabled", "switched-off"), ("hold", "held")].into_iter().filter_map(of).collect()
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
