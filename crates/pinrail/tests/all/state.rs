//! Who may serve a state folder, and what a server does that can no longer write to it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::support::{Project, Ran};

fn project() -> Project {
    Project::new(&[("workflows/w.py", "workflow = {template(name='a', shell='true'): []}")])
}

/// Every file of a folder with its bytes; of a link, where it leads.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.insert(path.display().to_string(), Vec::new());
            found.extend(contents(&path));
        } else if kind.is_symlink() {
            let target = std::fs::read_link(&path).unwrap().display().to_string();
            found.insert(path.display().to_string(), target.into_bytes());
        } else {
            found.insert(path.display().to_string(), std::fs::read(&path).unwrap());
        }
    }
    found
}

#[test]
fn a_state_folder_of_a_newer_version_is_refused_and_left_as_it_is() {
    let project = project();
    assert_eq!(project.run(&["run", "w"]).code, Some(0));
    let database = project.state().join("state.db");
    let script =
        "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]); d.execute('pragma user_version = 99'); d.close()";
    assert!(Command::new("python3").args(["-c", script]).arg(&database).status().unwrap().success());
    // A newer version may have other things there as well, or lack what this one makes at its start.
    std::fs::remove_dir_all(project.state().join("sdk")).unwrap();
    let before = contents(&project.state());
    for arguments in [vec!["up", "--listen", "127.0.0.1:0"], vec!["run", "w"], vec!["runs"], vec!["check"]] {
        let ran = project.run(&arguments);
        assert_eq!(ran.code, Some(4), "{arguments:?}: {ran:?}");
        assert!(ran.err.contains("was written by a newer version of pinrail (schema 99"), "{}", ran.err);
        assert!(ran.err.contains("hint: Use that version or a later one"), "{}", ran.err);
    }
    let after = contents(&project.state());
    let differing: Vec<&String> =
        before.keys().chain(after.keys()).filter(|k| before.get(*k) != after.get(*k)).collect();
    assert!(differing.is_empty(), "{differing:?}");
}

#[test]
fn a_folder_is_served_again_directly_after_its_server_was_killed() {
    let project = project();
    for round in 0..6 {
        let mut server = project.up();
        // Not waited for: the kernel may still be ending it.
        server.child.kill().unwrap();
        if round % 2 == 0 {
            drop(project.up());
        } else {
            let ran = project.run(&["run", "w"]);
            assert_eq!(ran.code, Some(0), "{ran:?}");
        }
    }
}

/// Runs a script in a namespace in which the state folder is a small disk, as root or as anybody.
fn on_a_small_disk(project: &Project, script: &str) -> Ran {
    std::fs::create_dir_all(project.state()).unwrap();
    let mounted = format!("mount -t tmpfs -o size=4m tmpfs {:?} || exit 99\n{script}", project.state());
    let pinrail = project.command(&[]);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &mounted]).current_dir(project.path());
    command.env("PINRAIL", pinrail.get_program());
    let ran: Ran = command.output().unwrap().into();
    assert_ne!(ran.code, Some(99), "a small disk cannot be made here: {ran:?}");
    ran
}

const FILL: &str = "dd if=/dev/zero of=.pinrail/fill bs=4k 2>/dev/null";

#[test]
fn a_full_disk_is_said_and_nothing_is_half_done() {
    let project = project();
    let ran = on_a_small_disk(
        &project,
        &format!(
            "$PINRAIL run w >/dev/null || exit 1
             {FILL}
             $PINRAIL run w && exit 2
             rm .pinrail/fill
             $PINRAIL run w >/dev/null || exit 3
             $PINRAIL up --listen 127.0.0.1:0 --detach >/dev/null || exit 4
             {FILL}
             $PINRAIL run w && exit 5
             rm .pinrail/fill
             $PINRAIL run w >/dev/null || exit 6
             $PINRAIL runs --json
             $PINRAIL down >/dev/null"
        ),
    );
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.json()["items"].as_array().unwrap().len(), 3, "{}", ran.out);
    assert!(ran.err.contains("Look at the free space") && ran.err.contains("disk is full"), "{}", ran.err);
}

#[test]
fn a_disk_that_fills_during_a_run_ends_the_server_and_the_next_one_goes_on() {
    let project = project();
    project.write(
        "workflows/w.py",
        "workflow = {template(name='a', shell='while test ! -e go; do sleep 0.05; done'): []}",
    );
    project.write(".pinrailignore", "go");
    let workflow = std::fs::read_to_string(project.path().join("workflows/w.py")).unwrap();
    let flag = project.path().join("go").display().to_string();
    project.write("workflows/w.py", &workflow.replace("-e go", &format!("-e {flag}")));
    let ran = on_a_small_disk(
        &project,
        &format!(
            "$PINRAIL up --listen 127.0.0.1:0 2>server.err >/dev/null &
             server=$!
             until test -e .pinrail/server.json; do sleep 0.05; done
             $PINRAIL run w --detach >/dev/null || exit 1
             until $PINRAIL logs >/dev/null && $PINRAIL show --json | grep -q '\"state\": *\"running\"'; do sleep 0.05; done
             {FILL}
             touch go
             wait $server && exit 2
             cat server.err >&2
             rm .pinrail/fill
             $PINRAIL up --listen 127.0.0.1:0 --detach >/dev/null || exit 3
             until $PINRAIL show --json | grep -q '^{{[^[]*\"state\": *\"succeeded\"'; do sleep 0.05; done
             $PINRAIL show --json
             $PINRAIL down >/dev/null"
        ),
    );
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.err.contains("error: the server stops:"), "{}", ran.err);
    assert!(ran.err.contains("the next server goes on from there"), "{}", ran.err);
    assert_eq!(ran.json()["state"], "succeeded");
}
