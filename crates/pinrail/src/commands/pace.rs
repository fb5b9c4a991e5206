//! How fast a run was, in words.

use serde_json::Value;

use crate::output::{cell, command, human, plural};

/// A part of a job's time that is shown takes at least this part of it, or differs.
const SHOWN: f64 = 0.05;

/// What made the difference, and the critical path with where its time went.
pub fn text(pace: &Value) -> String {
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    let took = human(number(&pace["seconds"]));
    let run = super::schedules::short(&pace["run"]);
    let sample = plural(pace["runs"].as_u64().unwrap_or_default(), "run");
    let job = cell(&pace["job"]);
    let against = match pace["usual_seconds"].as_f64() {
        None => "no earlier run of the same jobs succeeded, so nothing says what is usual".to_owned(),
        Some(usual) => format!("usually {} (median of {sample})", human(usual)),
    };
    let mut lines = vec![format!("  run {run} took {took}, {against}")];
    let part = part_name(pace["part"].as_str().unwrap_or_default());
    let differs = match pace["code"].as_str().unwrap_or_default() {
        "slow-work" => Some(format!("{job} worked longer ({part})")),
        "slow-waiting" => Some(format!("{job} waited longer for a slot, a pool or a limit")),
        "slow-tries" => Some(format!("{job} failed and was tried again")),
        "slow-new-job" => Some(format!("{job} is new: no earlier run has it")),
        "slow-between" => Some("no one job: small differences, or the time between jobs".to_owned()),
        _ => None,
    };
    lines.extend(differs.map(|differs| format!("    difference  {differs}")));
    for (at, job) in pace["path"].as_array().into_iter().flatten().enumerate() {
        let head = if at == 0 { "path" } else { "" };
        lines.push(format!("    {head:<11} {}", path_job(job)));
    }
    lines.extend(pace["next"].as_str().map(|next| format!("    next        {}", command(next))));
    lines.join("\n")
}

fn path_job(job: &Value) -> String {
    let seconds = job["seconds"].as_f64().unwrap_or_default();
    let usual = job["usual_seconds"].as_f64();
    let more = usual.map(|usual| format!(" ({})", against(seconds, usual))).unwrap_or_default();
    let parts = job["parts"].as_array().into_iter().flatten().filter_map(|part| {
        let taken = part["seconds"].as_f64().unwrap_or_default();
        let name = part_name(part["part"].as_str().unwrap_or_default());
        (taken >= seconds * SHOWN).then(|| format!("{name} {}", human(taken)))
    });
    format!("{} {}{more}: {}", cell(&job["job"]), human(seconds), parts.collect::<Vec<_>>().join(", "))
}

fn against(seconds: f64, usual: f64) -> String {
    match seconds - usual {
        more if more > 0.0 => format!("+{}, usually {}", human(more), human(usual)),
        _ => format!("usually {}", human(usual)),
    }
}

fn part_name(part: &str) -> &str {
    match part {
        "queued" => "waiting for a slot",
        "backoff" => "waiting to be tried again",
        "failed" => "failed attempts",
        other => other,
    }
}
