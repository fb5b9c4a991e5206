//! Backfills as people use them: followed to the end, paused, edited, cancelled, and going on after a SIGKILL.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Project, Ran, wait_until};

/// A job that fails for one day until a file says that it is mended, and leaves a line for each time it has run.
fn project(shell: &str) -> (Project, tempfile::TempDir) {
    let outside = tempfile::tempdir().unwrap();
    let shell = shell.replace("OUT", &outside.path().display().to_string());
    let workflow = format!(
        "workflow = Workflow({{template(name='a', shell='''{shell}'''): [], template(name='b', shell='true'): ['a']}},
                             params={{'n': Param(int, default=1)}})"
    );
    let project = Project::new(&[("workflows/w.py", &workflow)]);
    (project, outside)
}

fn deployed(project: &Project) {
    let ran = project.run(&["deploy"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

fn runs(project: &Project, more: &[&str]) -> Vec<Value> {
    let found = project.run(&[&["runs", "--backfill", "last", "--json", "--limit", "500"], more].concat()).json();
    found["items"].as_array().unwrap().clone()
}

fn last_backfill(project: &Project) -> Value {
    project.run(&["backfills", "last", "--json"]).json()
}

#[test]
fn a_backfill_of_one_job_takes_what_those_above_it_left() {
    let project = Project::new(&[
        (
            "workflows/w.py",
            "workflow = {template(name='a', shell='pinrail output n $PINRAIL_DS'): [],
                     template(name='b', class_='jobs.b.B'): ['a']}",
        ),
        ("jobs/b.py", "def B(ctx):\n    print('a left', ctx.upstream['a'].outputs['n'])\n"),
    ]);
    let _server = project.up();
    deployed(&project);
    let days = ["--from", "2024-01-01", "--to", "2024-01-03"];
    let missing = project.run(&[&["backfill", "w", "--job", "b"], &days[..]].concat());
    assert_eq!(missing.code, Some(4), "{missing:?}");
    assert!(missing.err.contains("a did not succeed for this interval"), "{}", missing.err);
    let all = project.run(&[&["backfill", "w"], &days[..]].concat());
    assert_eq!(all.code, Some(0), "{all:?}");
    let one = project.run(&[&["backfill", "w", "--job", "b", "--redo"], &days[..]].concat());
    assert_eq!(one.code, Some(0), "{one:?}");
    assert!(one.out.starts_with("  3 runs of b (class backfill"), "{}", one.out);
    let mut said: Vec<String> = runs(&project, &[])
        .iter()
        .map(|run| {
            project.run(&["logs", run["id"].as_str().unwrap()]).out.lines().last().unwrap_or_default().to_owned()
        })
        .collect();
    said.sort();
    assert_eq!(said, ["a left 2024-01-01", "a left 2024-01-02", "a left 2024-01-03"]);
}

#[test]
fn a_backfill_with_a_failing_day_ends_when_that_day_is_retried() {
    let (project, outside) = project("test $PINRAIL_DS != 2024-01-03 || test -e OUT/mended");
    let _server = project.up();
    deployed(&project);
    let days = ["--from", "2024-01-01", "--to", "2024-01-05"];
    let plan = project.run(&[&["backfill", "w", "--dry-run"], &days[..]].concat());
    assert_eq!(plan.code, Some(0), "{plan:?}");
    assert!(plan.out.starts_with("  5 runs of w (class backfill, at most 4 at once, newest first)\n"), "{}", plan.out);
    assert!(project.run(&["backfills", "--json"]).json()["items"].as_array().unwrap().is_empty());

    let ran = project.run(&[&["backfill", "w", "--concurrency", "2"], &days[..]].concat());
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.out.contains("at most 2 at once"), "{}", ran.out);
    assert!(ran.out.contains("4 succeeded, 1 failed\n"), "{}", ran.out);
    let failed = runs(&project, &["--in", "failed"]);
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!((&failed[0]["ds"], &failed[0]["class"]), (&"2024-01-03".into(), &"backfill".into()));
    assert_eq!(last_backfill(&project)["state"], "failed");

    std::fs::write(outside.path().join("mended"), "").unwrap();
    let retried = project.run(&["retry", failed[0]["id"].as_str().unwrap()]);
    assert_eq!(retried.code, Some(0), "{retried:?}");
    wait_until("the backfill has succeeded", || last_backfill(&project)["state"] == "succeeded");
    let again = project.run(&[&["backfill", "w"], &days[..]].concat());
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(
        again.out.contains("5 intervals succeeded before with the same code: nothing is to be done"),
        "{}",
        again.out
    );
    let redo = project.run(&["backfill", "w", "--at", "2024-01-02", "--redo", "--oldest-first", "--param", "n=3"]);
    assert_eq!(redo.code, Some(0), "{redo:?}");
    assert!(redo.out.starts_with("  1 run of w (class backfill, at most 4 at once, oldest first) · "), "{redo:?}");
    assert_eq!(runs(&project, &[])[0]["params"]["n"], 3);
    let listed = project.run(&["backfills"]).out;
    assert_eq!(listed.lines().count(), 3, "{listed}");
}

#[test]
fn a_backfill_is_paused_edited_resumed_and_cancelled() {
    let (project, outside) =
        project("until test -e OUT/go; do sleep 0.05; done; test $PINRAIL_PARAM_N != 9 || sleep 600");
    let _server = project.up();
    deployed(&project);
    let begun =
        project.run(&["backfill", "w", "--from", "2024-01-01", "--to", "2024-01-10", "--concurrency", "1", "--detach"]);
    assert_eq!(begun.code, Some(0), "{begun:?}");
    assert!(begun.out.contains("follow with `pinrail backfills "), "{begun:?}");
    let id = last_backfill(&project)["id"].as_str().unwrap().to_owned();
    let short = &id[id.len() - 4..];
    wait_until("one run is at work", || last_backfill(&project)["running"] == 1);
    let paused = project.run(&["backfills", "pause", short, "--reason", "look first"]);
    assert!(paused.out.contains("is paused; runs that have begun go on"), "{paused:?}");
    std::fs::write(outside.path().join("go"), "").unwrap();
    wait_until("what had begun is over", || {
        let now = last_backfill(&project);
        now["running"] == 0 && now["succeeded"] == 1
    });
    let shown = project.run(&["backfills", short]).out;
    assert!(shown.contains("paused by admin at ") && shown.contains(": look first"), "{shown}");
    let explained = project.run(&["explain", "w@2024-01-02"]).out;
    assert!(explained.contains(&format!("backfill {short} is paused by admin at ")), "{explained}");

    let edited = project.run(&["backfills", "edit", short, "--concurrency", "3", "--param", "n=9"]);
    assert_eq!(edited.code, Some(0), "{edited:?}");
    assert!(edited.out.contains("at most 3 at once"), "{edited:?}");
    assert_eq!(project.run(&["backfills", "resume", short]).code, Some(0));
    wait_until("three run with the new value", || {
        runs(&project, &["--in", "running"]).iter().filter(|run| run["params"]["n"] == 9).count() == 3
    });
    let cancelled = project.run(&["backfills", "cancel", short, "--reason", "wrong code"]);
    assert_eq!(cancelled.code, Some(0), "{cancelled:?}");
    wait_until("it is cancelled", || last_backfill(&project)["state"] == "cancelled");
    let ended = last_backfill(&project);
    assert_eq!((&ended["succeeded"], &ended["cancelled"]), (&1.into(), &9.into()), "{ended}");
    assert!(runs(&project, &[]).iter().all(|run| matches!(run["state"].as_str(), Some("succeeded" | "cancelled"))));
    let refused = project.run(&["backfills", "resume", short]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
}

#[test]
fn a_backfill_goes_on_after_the_server_was_killed_without_doubling_or_losing_a_run() {
    let (project, outside) = project("echo $PINRAIL_DS >> OUT/ran; sleep 0.05");
    let server = project.up();
    deployed(&project);
    let begun = project.run(&["backfill", "w", "--from", "2024-01-01", "--to", "2024-02-09", "--detach"]);
    assert_eq!(begun.code, Some(0), "{begun:?}");
    wait_until("some runs are over", || last_backfill(&project)["succeeded"].as_u64().unwrap_or(0) >= 5);
    server.kill();
    let server = project.up();
    wait_until("some more runs are over", || last_backfill(&project)["succeeded"].as_u64().unwrap_or(0) >= 20);
    server.kill();
    let _server = project.up();
    wait_until("all are over", || last_backfill(&project)["state"] == "succeeded");
    let ended = last_backfill(&project);
    assert_eq!(
        (&ended["total"], &ended["succeeded"], &ended["running"]),
        (&40.into(), &40.into(), &0.into()),
        "{ended}"
    );
    let all = runs(&project, &[]);
    let mut days: BTreeMap<&str, u32> = BTreeMap::new();
    all.iter().for_each(|run| *days.entry(run["ds"].as_str().unwrap()).or_default() += 1);
    assert_eq!((all.len(), days.len()), (40, 40), "each day has one run");
    // A job that was under way when the server died runs again; no other does.
    let ran = std::fs::read_to_string(outside.path().join("ran")).unwrap();
    let attempts: usize = all
        .iter()
        .map(|run| project.run(&["show", run["id"].as_str().unwrap(), "--json"]).json())
        .map(|run| crate::support::task(&run, "a")["attempts"].as_array().unwrap().len())
        .sum();
    assert!((40..=attempts).contains(&ran.lines().count()), "{} lines of {attempts} attempts", ran.lines().count());
    assert!(attempts <= 48, "at most four were under way at each death: {attempts}");
}

#[test]
fn ctrl_c_leaves_a_backfill_that_goes_on() {
    let (project, outside) = project("until test -e OUT/go; do sleep 0.05; done");
    let _server = project.up();
    deployed(&project);
    let mut command = project.command(&["backfill", "w", "--at", "2024-01-01"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut progress = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut progress).unwrap();
    assert_eq!(progress, "  0/1 · 0 failed\n");
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let left: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(left.code, Some(130), "{left:?}");
    assert!(left.out.contains("detached; it goes on: follow with `pinrail backfills "), "{left:?}");
    std::fs::write(outside.path().join("go"), "").unwrap();
    wait_until("it has succeeded", || last_backfill(&project)["state"] == "succeeded");
}

#[test]
fn what_makes_no_backfill_is_refused() {
    let (project, _outside) = project("true");
    for (arguments, code) in [
        (vec!["backfill", "w"], 2),
        (vec!["backfill", "w", "--from", "2024-01-01"], 2),
        (vec!["backfill", "w", "--from", "2024-01-01", "--to", "2024-01-02"], 4),
        (vec!["backfill", "w", "--from", "2024-01-01", "--to", "2024-01-02", "--detach"], 2),
        (vec!["backfills", "nope"], 4),
        (vec!["backfills", "pause", "K3F9"], 4),
    ] {
        let refused = project.run(&arguments);
        assert_eq!(refused.code, Some(code), "{arguments:?}: {refused:?}");
    }
    deployed(&project);
    let refused = project.run(&["backfill", "w", "--from", "2024-01-02", "--to", "2024-01-01"]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.err.contains("the range ends before it begins"), "{refused:?}");
}
