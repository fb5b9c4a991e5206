//! The project's own files: check, deploy, list.

use std::process::ExitCode;

use pinrail_service::compile::Diagnostic;
use serde_json::{Value, json};

use super::schedules::{Paused, workflow_changes};
use crate::client::Place;
use crate::failure::{DEFINITION, Failure};
use crate::output::{Output, cell, hint, plural, table};

pub fn check(place: &Place, output: Output) -> Result<ExitCode, Failure> {
    let project = place.project()?;
    let client = place.connect()?;
    let bundle = client.send_code(&project, &place.state()?, output)?;
    let answer = client.post(
        &format!("/projects/{}/compilations", project.name),
        &json!({"bundle": bundle, "target": place.target(&project)}),
    )?;
    let diagnostics: Vec<Diagnostic> = serde_json::from_value(answer["diagnostics"].clone()).unwrap_or_default();
    let errors = diagnostics.iter().filter(|d| d.level == "error").count();
    if !output.json {
        for diagnostic in &diagnostics {
            output.say(&render(diagnostic, output));
        }
        let workflows = answer["documents"].as_object().map_or(0, serde_json::Map::len);
        output.say(&summary(errors, diagnostics.len() - errors, workflows));
    }
    output.document(&answer);
    Ok(ExitCode::from(if errors > 0 { DEFINITION } else { 0 }))
}

fn summary(errors: usize, warnings: usize, workflows: usize) -> String {
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    if errors + warnings == 0 {
        return format!("{} checked, nothing to complain about", plural(workflows, "workflow"));
    }
    format!("{}, {}", plural(errors, "error"), plural(warnings, "warning"))
}

/// A diagnostic with its line and a caret below the place.
pub fn render(diagnostic: &Diagnostic, output: Output) -> String {
    let level = if diagnostic.level == "error" { output.bad("error") } else { output.good("warning") };
    let mut text = format!("{level}: {}", diagnostic.message);
    if diagnostic.level == "warning" {
        text.push_str(&output.dim(&format!("  ({})", diagnostic.code)));
    }
    let (Some(file), Some(line)) = (&diagnostic.file, diagnostic.line) else {
        if let Some(hint) = &diagnostic.hint {
            text.push_str(&format!("\n   hint: {hint}"));
        }
        return text;
    };
    let number = line.to_string();
    let margin = " ".repeat(number.len() + 2);
    text.push_str(&format!("\n{margin}╭─ {file}:{line}"));
    let mut hint = diagnostic.hint.clone();
    if let Some(source) = &diagnostic.source {
        text.push_str(&format!("\n {number} │ {source}"));
        let column = diagnostic.column.unwrap_or(1).max(1) as usize;
        let before: String = source.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let carets = "^".repeat(diagnostic.width.unwrap_or(1).max(1) as usize);
        let said = hint.take().map_or_else(String::new, |hint| format!(" {hint}"));
        text.push_str(&format!("\n{margin}│ {before}{}{said}", output.bad(&carets)));
    }
    for related in &diagnostic.related {
        let place = format!("{}:{}", cell(&related["file"]), cell(&related["line"]));
        text.push_str(&format!("\n{margin}  {place}: {}", cell(&related["message"])));
    }
    if let Some(hint) = hint {
        text.push_str(&format!("\n{margin}  hint: {hint}"));
    }
    text
}

/// Shows the definition errors that a problem carries.
pub fn tell_definition_errors(failure: &Failure, output: Output) {
    let diagnostics = failure.problem.as_ref().map(|problem| problem["diagnostics"].clone()).unwrap_or_default();
    for diagnostic in serde_json::from_value::<Vec<Diagnostic>>(diagnostics).unwrap_or_default() {
        eprintln!("{}", render(&diagnostic, output));
    }
}

pub fn deploy(place: &Place, output: Output, dry_run: bool) -> Result<ExitCode, Failure> {
    let project = place.project()?;
    let client = place.connect()?;
    let bundle = client.send_code(&project, &place.state()?, output)?;
    let body = json!({"bundle": bundle, "dry_run": dry_run, "target": place.target(&project)});
    let deployed = client.post(&format!("/projects/{}/deploys", project.name), &body).inspect_err(|failure| {
        if !output.json {
            tell_definition_errors(failure, output);
        }
    })?;
    let broken = deployed["broken"].as_array().is_some_and(|files| !files.is_empty());
    if !output.json {
        let diagnostics =
            serde_json::from_value::<Vec<Diagnostic>>(deployed["diagnostics"].clone()).unwrap_or_default();
        // Other warnings are `pinrail check`'s to tell; with this one a job would never begin.
        let told = |diagnostic: &&Diagnostic| diagnostic.level == "error" || diagnostic.code == "pool-not-set";
        for diagnostic in diagnostics.iter().filter(told) {
            eprintln!("{}", render(diagnostic, output));
        }
        let paused = Paused::of(&client, project.name.as_str(), &deployed["target"])?;
        let verb = if dry_run { "would deploy" } else { "deployed" };
        let there = deployed["target"].as_str().map_or_else(String::new, |target| format!(" to target {target}"));
        output.say(&format!("{verb} project {}{there} (bundle {})", project.name, short(&deployed["bundle"])));
        for workflow in deployed["workflows"].as_array().into_iter().flatten() {
            let (name, version) = (cell(&workflow["name"]), short(&workflow["version"]));
            let jobs = plural(workflow["jobs"].as_u64().unwrap_or_default(), "job");
            let change = match workflow["change"].as_str() {
                Some("files") => "unchanged but for files of the project",
                Some(change) => change,
                None => "deployed",
            };
            output.say(&format!("  {name}  version {version}, {jobs}, {change}"));
            workflow_changes(workflow, &paused).iter().for_each(|line| output.say(line));
        }
        for name in deployed["removed"].as_array().into_iter().flatten() {
            output.say(&format!("  {}  removed: no workflow file has it any longer", cell(name)));
        }
        for kept in deployed["kept"].as_array().into_iter().flatten() {
            let (name, version) = (cell(&kept["name"]), short(&kept["version"]));
            let since = cell(&kept["deployed_at"]);
            output.say(&format!("  {name}  keeps version {version} of {since}: {} has errors", cell(&kept["file"])));
        }
        for note in deployed["notes"].as_array().into_iter().flatten() {
            output.say(&format!("  note: {}", cell(note)));
        }
        let mut workflows = deployed["workflows"].as_array().into_iter().flatten();
        if client.embedded().is_some() && workflows.any(|workflow| workflow["schedule"]["after"].is_string()) {
            output.say(&hint("  note: schedules fire while a server is up: `pinrail up`"));
        }
    }
    output.document(&deployed);
    Ok(ExitCode::from(if broken { DEFINITION } else { 0 }))
}

/// A table without its last column if no row has anything there: what a project without targets has no use for.
pub fn without_empty_last(mut rows: Vec<Vec<String>>) -> Vec<Vec<String>> {
    if rows.iter().skip(1).all(|row| row.last().is_none_or(String::is_empty)) {
        rows.iter_mut().for_each(|row| drop(row.pop()));
    }
    rows
}

/// The first characters of a digest.
pub fn short(digest: &Value) -> String {
    digest.as_str().unwrap_or_default().chars().take(8).collect()
}

pub fn workflows(place: &Place, output: Output) -> Result<ExitCode, Failure> {
    let project = place.project()?;
    let found = place.of_target(place.connect()?.list(&format!("/projects/{}/workflows", project.name))?);
    if !output.json {
        let mut rows = vec![["workflow", "version", "jobs", "deployed at", "target"].map(str::to_owned).to_vec()];
        for item in found["items"].as_array().into_iter().flatten() {
            let jobs = item["document"]["jobs"].as_array().map_or(0, Vec::len);
            let (name, version, at) = (cell(&item["name"]), short(&item["version"]), cell(&item["deployed_at"]));
            rows.push(vec![name, version, jobs.to_string(), at, cell(&item["target"])]);
        }
        output.say(&table(&without_empty_last(rows)));
    }
    output.document(&found);
    Ok(ExitCode::SUCCESS)
}
