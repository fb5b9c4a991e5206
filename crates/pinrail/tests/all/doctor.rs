//! What this machine has, by the doctor's word.

use serde_json::Value;

use crate::support::{Project, Ran, test_python, venv};

fn check<'a>(document: &'a Value, name: &str) -> &'a Value {
    let checks = document["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name}: {document}"))
}

#[test]
fn a_machine_that_has_all_is_well() {
    let project = Project::new(&[]);
    let mut command = project.command(&["doctor", "--json"]);
    let ran: Ran = command.env("PINRAIL_PYTHON", test_python()).output().unwrap().into();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let found = ran.json();
    assert_eq!(found["ok"], true);
    for name in [
        "system",
        "project",
        "python",
        "namespaces",
        "no-new-privileges",
        "subreaper",
        "landlock",
        "state",
        "schema",
        "environments",
        "pytest",
    ] {
        assert_eq!(check(&found, name)["state"], "ok", "{found}");
    }
    assert_eq!(check(&found, "server")["state"], "note");
    assert!(!project.state().exists(), "looking changes nothing");
    let _server = project.up();
    let plain = project.run(&["doctor"]);
    assert_eq!(plain.code, Some(0), "{plain:?}");
    assert!(plain.out.contains(&format!("at {}", project.url())), "{}", plain.out);
    assert!(plain.out.lines().all(|line| ["  ✔ ", "  – "].iter().any(|mark| line.starts_with(mark))), "{}", plain.out);
}

#[test]
fn what_is_missing_is_told_with_its_remedy() {
    let project = Project::new(&[]);
    let bare = venv(&project.path().join(".venv"));
    project.write("pinrail.toml", "[project]\nname = \"demo\"\n[python]\ninterpreter = \".venv/bin/python\"\n");
    let comfortless = project.run(&["doctor", "--json"]);
    assert_eq!(comfortless.code, Some(0), "what only people need does not fail it: {comfortless:?}");
    let remedy = check(&comfortless.json(), "pytest")["remedy"].clone();
    assert_eq!(remedy, format!("{} -m pip install pytest", bare.display()));
    assert_eq!(check(&comfortless.json(), "sdk")["state"], "note");
    assert_eq!(project.run(&["sdk", "install"]).code, Some(0));
    assert_eq!(check(&project.run(&["doctor", "--json"]).json(), "sdk")["state"], "ok");

    project.write("pinrail.toml", "[project]\nname = \"demo\"\n[python]\ninterpreter = \"no/python\"\n");
    let without = project.run(&["doctor"]);
    assert_eq!(without.code, Some(1), "{without:?}");
    assert!(without.out.contains("✘ python"), "{}", without.out);
    assert!(without.out.contains("Name another one, Python 3.9 or later"), "{}", without.out);

    let unreachable = project.run(&["doctor", "--url", "http://127.0.0.1:1", "--token", "x", "--json"]);
    assert_eq!(check(&unreachable.json(), "server")["state"], "missing");
    project.write("file", "");
    let no_folder = project.run(&["doctor", "--state", "file/state", "--json"]);
    assert_eq!(check(&no_folder.json(), "state")["state"], "missing", "{no_folder:?}");
}

#[test]
fn a_state_folder_of_a_newer_version_is_seen() {
    let project = Project::new(&[("workflows/w.py", "workflow = {template(name='a', shell='true'): []}")]);
    assert_eq!(project.run(&["run", "w"]).code, Some(0));
    let database = project.state().join("state.db");
    let script =
        "import sqlite3, sys; sqlite3.connect(sys.argv[1], isolation_level=None).execute('pragma user_version = 99')";
    let done = std::process::Command::new("python3").args(["-c", script]).arg(database).status().unwrap();
    assert!(done.success());
    let found = project.run(&["doctor", "--json"]);
    assert_eq!(found.code, Some(1), "{found:?}");
    assert!(check(&found.json(), "schema")["detail"].as_str().unwrap().starts_with("99, written by a newer version"));
}
