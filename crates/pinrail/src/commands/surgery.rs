//! What people do to runs that are under way or over, and to wholes: marks, holds, switches, other code.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::run::last;
use super::schedules::control;
use super::show::find;
use crate::client::Place;
use crate::failure::Failure;
use crate::output::{Output, cell, command, table};

/// The arguments of `mark`.
#[derive(Debug, Args)]
pub struct MarkArgs {
    #[command(flatten)]
    pub jobs: JobsArgs,
    /// What became of them
    #[arg(long = "as", value_name = "STATE", value_parser = ["succeeded", "failed", "skipped"])]
    pub ending: String,
}

/// Jobs of a run, and why something is done to them.
#[derive(Debug, Args)]
pub struct JobsArgs {
    /// An id, its last characters, `last`, or workflow@date
    #[arg(default_value = "last")]
    pub run: String,
    /// Jobs: a, a+ (and below), +a (and above)
    #[arg(long, value_name = "SELECT")]
    pub job: String,
    /// Why, for people
    #[arg(long)]
    pub reason: Option<String>,
}

/// What is held or let go: a run, jobs of it, or a whole.
#[derive(Debug, Args)]
pub struct ScopeArgs {
    /// An id, its last characters, `last`, or workflow@date
    #[arg(required_unless_present_any = ["workflow", "all", "platform"])]
    run: Option<String>,
    /// Only these jobs of the run: a, a+ (and below), +a (and above)
    #[arg(long, value_name = "SELECT", requires = "run")]
    job: Option<String>,
    /// All runs of a workflow
    #[arg(long, value_name = "WORKFLOW", conflicts_with_all = ["run", "all", "platform"])]
    workflow: Option<String>,
    /// All runs of the project
    #[arg(long, conflicts_with_all = ["run", "platform"])]
    all: bool,
    /// All runs of all projects
    #[arg(long, conflicts_with = "run")]
    platform: bool,
    /// Why, for people
    #[arg(long)]
    reason: Option<String>,
}

pub fn mark(place: &Place, output: Output, args: &JobsArgs, state: &str) -> Result<ExitCode, Failure> {
    let body = json!({"jobs": args.job, "state": state, "reason": args.reason});
    on_jobs(place, output, args, "mark", &body, &format!("marked as {state}"))
}

pub fn switch(place: &Place, output: Output, args: &JobsArgs, off: bool) -> Result<ExitCode, Failure> {
    let (verb, said) = if off { ("disable", "switched off") } else { ("enable", "switched on again") };
    on_jobs(place, output, args, verb, &json!({"jobs": args.job, "reason": args.reason}), said)
}

fn on_jobs(
    place: &Place,
    output: Output,
    args: &JobsArgs,
    verb: &str,
    body: &Value,
    said: &str,
) -> Result<ExitCode, Failure> {
    let client = place.connect()?;
    let id = cell(&find(place, &client, &args.run)?["id"]);
    let run = client.post(&format!("/runs/{id}/{verb}"), body)?;
    output.say(&format!("{} of run {} {said}", args.job, last(&run)));
    output.document(&run);
    Ok(ExitCode::SUCCESS)
}

pub fn hold(place: &Place, output: Output, args: &ScopeArgs, abort: bool) -> Result<ExitCode, Failure> {
    on_scope(place, output, args, Some(abort))
}

pub fn release(place: &Place, output: Output, args: &ScopeArgs) -> Result<ExitCode, Failure> {
    on_scope(place, output, args, None)
}

/// Holds something, where it is said whether what is under way is stopped as well, or lets it go.
fn on_scope(place: &Place, output: Output, args: &ScopeArgs, abort: Option<bool>) -> Result<ExitCode, Failure> {
    let verb = if abort.is_some() { "hold" } else { "release" };
    let mut body = json!({"reason": args.reason});
    if let Some(run) = &args.run {
        let client = place.connect()?;
        let id = cell(&find(place, &client, run)?["id"]);
        if let Some(jobs) = &args.job {
            body["jobs"] = json!(jobs);
        }
        let run = client.post(&format!("/runs/{id}/{verb}"), &body)?;
        let what = args.job.as_ref().map_or_else(String::new, |jobs| format!("{jobs} of "));
        let name = last(&run);
        if abort.is_some() {
            let job = args.job.as_ref().map_or_else(String::new, |jobs| format!(" --job {jobs}"));
            output.say(&format!("{what}run {name} is held: nothing new of it begins"));
            output.say(&format!("  next        {}", command(&format!("pinrail release {name}{job}"))));
        } else {
            output.say(&format!("{what}run {name} is let go"));
        }
        output.document(&run);
        return Ok(ExitCode::SUCCESS);
    }
    if abort == Some(true) {
        body["abort"] = json!(true);
    }
    let (path, what, option) = if args.platform {
        (format!("/{verb}"), "the platform".to_owned(), "--platform".to_owned())
    } else {
        let project = place.project()?.name;
        let path = format!("/projects/{project}/{verb}");
        match &args.workflow {
            None => (path, format!("project {project}"), "--all".to_owned()),
            Some(workflow) => {
                body["workflow"] = json!(workflow);
                (path, format!("workflow {workflow}"), format!("--workflow {workflow}"))
            }
        }
    };
    let held = place.connect()?.post(&path, &body)?;
    match abort {
        None => output.say(&format!("{what} is let go")),
        Some(stopped) => {
            let rest = if stopped { "what is under way is being stopped" } else { "what is under way goes on" };
            output.say(&format!("{what} is held: nothing new begins, {rest}"));
            output.say(&format!("  next        {}", command(&format!("pinrail release {option}"))));
        }
    }
    output.document(&held);
    Ok(ExitCode::SUCCESS)
}

pub fn holds(place: &Place, output: Output) -> Result<ExitCode, Failure> {
    let found = place.connect()?.list("/holds")?;
    if !output.json {
        let mut rows = vec![["held", "by"].map(str::to_owned).to_vec()];
        for item in found["items"].as_array().into_iter().flatten() {
            let what = match item["scope"].as_str() {
                Some("workflow") => {
                    format!("workflow {} of project {}", cell(&item["workflow"]), cell(&item["project"]))
                }
                Some("project") => format!("project {}", cell(&item["project"])),
                _ => "the platform".to_owned(),
            };
            rows.push(vec![what, control("held", item)]);
        }
        let none = rows.len() == 1;
        output.say(&if none { "nothing is held as a whole".to_owned() } else { table(&rows) });
    }
    output.document(&found);
    Ok(ExitCode::SUCCESS)
}

pub fn reload(place: &Place, output: Output, reference: &str, code: &str) -> Result<ExitCode, Failure> {
    let client = place.connect()?;
    let id = cell(&find(place, &client, reference)?["id"]);
    let bundle = match code {
        "folder" => Some(client.send_bundle(&place.project()?, &place.state()?)?),
        _ => None,
    };
    let run = client.post(&format!("/runs/{id}/reload"), &json!({"bundle": bundle}))?;
    let whose = if code == "folder" { "this folder's code" } else { "the deployed code" };
    output.say(&format!("run {} goes on with {whose} for the jobs that have not begun", last(&run)));
    output.document(&run);
    Ok(ExitCode::SUCCESS)
}
