//! SIGKILL at every named step of the real binary. The list of steps is collected from the source; a step that is never
//! reached fails the test. What is left is looked at from outside: every run ends, every job has exactly one success,
//! and a counter in a file of its own never counts a publication twice.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::support::{Project, repository, wait_until};

/// Steps of publishing tables, which no job of this binary can reach before the lake is wired into it. They leave this
/// list with that change: the story then writes a table.
const UNREACHABLE: &[&str] = &["publish.before-prepare", "publish.before-commit", "publish.after-commit"];

/// The names in `step!("...")` in the sources of the crates.
fn steps() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    collect(&repository().join("crates"), &mut found);
    assert!(found.len() > 5, "{found:?}");
    found
}

fn collect(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            if entry.file_name() != "tests" {
                collect(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let names = text.split("step!(\"").skip(1).filter_map(|rest| rest.split('"').next());
            found.extend(names.filter(|name| !name.is_empty() && !name.contains('$')).map(str::to_owned));
        }
    }
}

const WORKFLOW: &str = "
workflow = {
    template(name='a', class_='jobs.a.A'): [],
    template(name='b', class_='jobs.a.B'): ['a'],
    template(name='c', shell='true'): ['b'],
}
";

const JOBS: &str = "
from pinrail import Shell

class A:
    def execute(self, ctx):
        path = ctx.scratch / 'note.txt'
        ctx.save('note.txt', 'saved')
        return 1
    def cleanup(self, ctx):
        pass

class B:
    def execute(self, ctx):
        return Shell(['true'])
    def complete(self, ctx, result):
        ctx.output('state', result.state if hasattr(result, 'state') else result['state'])
";

fn story() -> Project {
    Project::new(&[("workflows/w.py", WORKFLOW), ("jobs/a.py", JOBS)])
}

/// Deploys, runs and waits, whatever happens to the server on the way; restarts it when it has died.
fn tell(project: &Project, die_at: Option<&str>, steps: Option<&Path>) -> Value {
    let mut environment: Vec<(&str, &str)> = Vec::new();
    if let Some(at) = die_at {
        environment.push(("PINRAIL_DIE_AT", at));
    }
    if let Some(steps) = steps {
        environment.push(("PINRAIL_STEPS", steps.to_str().unwrap()));
    }
    let mut server = start(project, &environment);
    // A command without a live server would start one of its own, which resumes nothing: so first see to the server.
    let mut live = || {
        if server.as_mut().is_none_or(|server| server.child.try_wait().unwrap().is_some()) {
            server = start(project, &[]);
        }
    };
    let mut retry = |arguments: &[&str]| {
        for _ in 0..20 {
            live();
            let ran = project.run(arguments);
            if ran.code == Some(0) {
                return ran.json();
            }
        }
        panic!("{arguments:?} never succeeds");
    };
    retry(&["deploy", "--json"]);
    // A run whose command was accepted before the death is there already; asking again would make a second.
    let made = project.run(&["run", "w", "--deployed", "--at", "2013-01-01", "--detach", "--json"]);
    let runs = retry(&["runs", "--json"]);
    if made.code != Some(0) && runs["items"].as_array().unwrap().is_empty() {
        retry(&["run", "w", "--deployed", "--at", "2013-01-01", "--detach", "--json"]);
    }
    let mut run = Value::Null;
    wait_until("the run ends", || {
        run = retry(&["show", "--json"]);
        matches!(run["state"].as_str(), Some("succeeded" | "failed" | "cancelled"))
    });
    run
}

fn start(project: &Project, environment: &[(&str, &str)]) -> Option<crate::support::Server> {
    // A server may be told to die before it is ready; the next one is not.
    project.up_or_dead(environment).or_else(|| project.up_or_dead(&[]))
}

fn is_right(run: &Value, at: &str) {
    assert_eq!(run["state"], "succeeded", "after a death at {at}: {run}");
    for task in run["tasks"].as_array().unwrap() {
        let attempts = task["attempts"].as_array().unwrap();
        let succeeded = attempts.iter().filter(|attempt| attempt["state"] == "succeeded").count();
        assert_eq!(succeeded, 1, "after a death at {at}: {task}");
        for attempt in attempts {
            assert_ne!(attempt["state"], "running", "after a death at {at}: {task}");
            assert!(!attempt["cleanup"].is_null(), "after a death at {at}: {task}");
        }
    }
}

#[test]
fn a_death_at_any_step_loses_nothing_and_doubles_nothing() {
    let logged = tempfile::tempdir().unwrap();
    let log = logged.path().join("steps");
    is_right(&tell(&story(), None, Some(&log)), "no step");
    let passed = std::fs::read_to_string(&log).unwrap();
    let passed: Vec<&str> = passed.lines().collect();
    for step in steps() {
        if UNREACHABLE.contains(&step.as_str()) {
            continue;
        }
        let times = passed.iter().filter(|name| **name == step).count();
        assert!(times > 0, "step {step} is never reached");
        // The first passing, one in the middle, and the last.
        for at in BTreeSet::from([1, times.div_ceil(2), times]) {
            let at = format!("{step}:{at}");
            eprintln!("dies at {at}");
            let project = story();
            is_right(&tell(&project, Some(&at), None), &at);
            let runs = project.run(&["runs", "--json"]).json();
            assert_eq!(runs["items"].as_array().unwrap().len(), 1, "after a death at {at}");
        }
    }
}
