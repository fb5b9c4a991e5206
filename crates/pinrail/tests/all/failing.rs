//! Every way in which a job fails is told of with its reason, its fault, its evidence and what to do.

mod table;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use crate::support::Project;
use table::{FAILING, MODULE};

/// The text with what differs from run to run replaced.
fn steady(text: &str, run: &str, folder: &str) -> String {
    let short = &run[run.len() - 4..];
    let memory = |line: &str| match (line.split_once("used "), line.split_once(" of memory")) {
        (Some((before, _)), Some((_, after))) => format!("{before}used N MiB of memory{after}"),
        _ if line.trim_start().starts_with("bytes ") => "    bytes       N".to_owned(),
        _ => line.to_owned(),
    };
    text.replace(short, "K3F9").replace(folder, "/home/anna/demo").lines().map(memory).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_failure_is_told_of() {
    assert!(FAILING.len() >= 20);
    let line = |(job, template): (&str, &str)| format!("    template(name='{job}', {template}): [],\n");
    let jobs: String = FAILING.iter().map(|failing| line((failing.job, failing.template))).collect();
    let workflow = format!("workflow = {{\n{jobs}}}\n");
    let broken = "import not_there\n\n\ndef job(ctx):\n    not_there.go()\n";
    let files = [("jobs/fail.py", MODULE), ("jobs/broken.py", broken), ("workflows/w.py", workflow.as_str())];
    let project = Project::new(&files);
    let _server = project.up();
    let ran = project.run(&["run", "w", "--at", "2024-05-01"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let run = project.last_run()["id"].as_str().unwrap().to_owned();
    let folder = project.path().canonicalize().unwrap().display().to_string();
    let explained = project.run(&["explain", "--json"]).json();
    let documents: BTreeMap<&str, &Value> =
        explained["items"].as_array().unwrap().iter().map(|item| (item["job"].as_str().unwrap(), item)).collect();
    let mut wrong = String::new();
    for failing in FAILING {
        let document = documents[failing.job];
        let failure = &document["failure"];
        let fields = [&document["code"], &failure["reason"], &failure["fault"]];
        if fields != ["failed", failing.reason, failing.fault] || failure["remedy"].is_null() {
            let _ = writeln!(wrong, "== {}: fields\n{document:#}", failing.job);
        }
        let said = steady(&project.run(&["explain", "--job", failing.job]).out, &run, &folder);
        if said != failing.text.trim_start_matches('\n') {
            let _ = writeln!(wrong, "== {}: words\n{said}\n", failing.job);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
