//! Bad input in files, flags and bodies: an error that names thing, place and remedy, and nothing half done.

use std::os::unix::ffi::OsStrExt;

use serde_json::{Value, json};

use crate::service::request;
use crate::support::{ORDINARY, Project, users};

const GOOD: &str = "workflow = {template(name='a', shell='true'): []}";

fn good() -> Project {
    Project::new(&[("workflows/w.py", GOOD)])
}

#[test]
fn a_bad_settings_file_is_refused_with_its_line() {
    let project = good();
    for (text, code, said) in [
        (&b"a = "[..], 3, "pinrail.toml:1: "),
        (b"[project]\nname = 3", 3, "pinrail.toml:2: \"name\" in [project] must be a text"),
        (b"[project]\nname = \"a/b\"", 3, "pinrail.toml:2: project name \"a/b\" is not allowed"),
        (b"[project]\nname = \"..\"", 3, "pinrail.toml:2: project name \"..\" is not allowed"),
        (b"[project]\n\nname = \"\xff\"", 3, "pinrail.toml:3: this line is not UTF-8\n  hint: Save the file as UTF-8."),
        (b"project = 3", 3, "pinrail.toml:1: \"project\" must be a section: [project]"),
        (b"[projects]", 3, "pinrail.toml:1: unknown section [projects]\n  hint: did you mean [project]?"),
        (b"[files]\nx = 3", 3, "pinrail.toml:2: \"x\" in [files] must be a pattern"),
        (
            b"[files]\nx = \"/etc/*\"",
            3,
            "pinrail.toml:2: the pattern \"/etc/*\" in [files] leaves the project's folder",
        ),
        (b"[files]\nx = \"a[\"", 4, "the pattern \"a[\" under [files] in pinrail.toml is not valid"),
        (b"[defaults]\nretries = \"x\"", 3, "pinrail.toml:2"),
        (b"[defaults]\nretries = 1979-05-27", 3, "must be a whole number of 0 or more, not \"1979-05-27\""),
        (b"[defaults]\nretrys = 1", 3, "pinrail.toml:2"),
        (b"[python]\ninterpreter = \"nowhere/python\"", 4, "hint: Name a Python interpreter"),
        (b"[python]\ninterpreter = \"false\"", 4, "\"false\" ended the interpreter with exit code 1"),
    ] {
        // A temporary folder's name is not a project's.
        let named: &[u8] =
            if text.starts_with(b"[files]") || text.starts_with(b"[defaults]") || text.starts_with(b"[python]") {
                b"\n[project]\nname = \"demo\"\n"
            } else {
                b""
            };
        std::fs::write(project.path().join("pinrail.toml"), [text, named].concat()).unwrap();
        let ran = project.run(&["check"]);
        let shown = String::from_utf8_lossy(text);
        assert_eq!(ran.code, Some(code), "{shown}: {ran:?}");
        let seen = format!("{}{}", ran.out, ran.err);
        assert!(seen.contains(said), "{shown}: {seen}");
    }
}

#[test]
fn a_bad_workflow_file_is_shown_with_its_line() {
    let project = Project::new(&[("workflows/good.py", GOOD)]);
    for (text, said) in [
        (&b"workflow = {template("[..], "workflows/w.py:1"),
        (b"x = 1\nx = (\n", "workflows/w.py:2"),
        (b"# \xff", "workflows/w.py is not text in its encoding"),
        (b"x = 1\0", "source code string cannot contain null bytes"),
        (b"\nimport nowhere", "workflows/w.py:2"),
        (b"workflow = {template(name='a/b', shell='true'): []}", "job name \"a/b\" must begin with a letter"),
        (b"workflow = {template(name='..', shell='true'): []}", "job name \"..\" must begin with a letter"),
        (b"workflows = {'../x': {template(name='a', shell='true'): []}}", "workflow name \"../x\""),
        (
            b"workflow = {template(name='a', shell='true'): 'b', template(name='b', shell='true'): 'a'}",
            "wait for each other: a -> b -> a",
        ),
        (b"\nimport sys; sys.exit(3)", "workflows/w.py:2"),
        (b"raise KeyboardInterrupt", "workflows/w.py cannot be loaded: KeyboardInterrupt"),
        (b"import os; os._exit(3)", "workflows/w.py ended the interpreter with exit code 3 while it was loaded"),
        (b"import os; os.kill(os.getpid(), 9)", "workflows/w.py ended the interpreter with signal 9"),
        (b"import os; os.closerange(0, 100)", "workflows/w.py ended the interpreter"),
        (b"def f(): f()\nf()", "RecursionError"),
        (b"x = []\nwhile True: x.append('a' * (1 << 24) + str(len(x)))", "MemoryError"),
    ] {
        std::fs::write(project.path().join("workflows/w.py"), text).unwrap();
        let ran = project.run(&["check"]);
        let shown = String::from_utf8_lossy(text);
        assert_eq!(ran.code, Some(3), "{shown}: {ran:?}");
        let seen = format!("{}{}", ran.out, ran.err);
        assert!(seen.contains(said), "{shown}: {seen}");
        assert!(!seen.contains("pinrail_service"), "people see no log of ours: {seen}");
    }
}

#[test]
fn a_workflow_file_that_does_not_end_is_ended_and_the_others_are_loaded() {
    let project = Project::new(&[
        ("workflows/good.py", GOOD),
        ("workflows/w.py", "import time\n\nwhile True:\n    time.sleep(1)\n"),
    ]);
    let ran = project.run(&["check", "--json"]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    let checked = ran.json();
    let found = &checked["diagnostics"][0];
    assert_eq!((&found["file"], &found["line"]), (&json!("workflows/w.py"), &json!(4)), "{found}");
    assert!(found["message"].as_str().unwrap().contains("importing it takes longer than"), "{found}");
    let documents: Vec<&Value> = checked["documents"].as_object().unwrap().values().collect();
    assert_eq!(documents.len(), 1);
    assert_eq!(documents[0]["workflow"], "good");
}

#[test]
fn what_a_workflow_file_prints_does_not_become_the_servers_burden() {
    let flood = "import os\nfor _ in range(2000): os.write(1, b'x' * 100000); os.write(2, b'y' * 100000)\n";
    let project = Project::new(&[("workflows/w.py", &format!("{flood}{GOOD}"))]);
    let server = project.up();
    assert_eq!(project.run(&["check"]).code, Some(0));
    let most = crate::support::status(server.child.id(), "VmHWM");
    assert!(most < 120 << 10, "{most} KiB after 800 MB of output");
}

#[test]
fn bad_flags_are_refused_and_make_nothing() {
    let workflow = "
from pinrail import Param, Workflow, template
workflow = Workflow({template(name='a', shell='true'): []}, params={'n': Param(str, default='x')})
";
    let project = Project::new(&[("workflows/w.py", workflow)]);
    let (file, nowhere) = (project.path().join("pinrail.toml"), project.path().join("nowhere"));
    let (file, nowhere) = (file.to_str().unwrap(), nowhere.to_str().unwrap());
    for (arguments, code, said) in [
        (vec!["run", "w", "--at", ""], 4, "\"\" is not a date"),
        (vec!["run", "w", "--at", "2013-02-30"], 4, "\"2013-02-30\" is not a date"),
        (vec!["run", "w", "--at", "2013-01-01T25:00"], 4, "is not a date like 2013-01-02 or a time"),
        (vec!["run", "w", "--at", "9999-12-31"], 4, "9999-12-31 is out of reach"),
        (vec!["run", "w", "--at", "+262000-01-01"], 4, "is out of reach"),
        (vec!["run", "w", "--at=-1"], 4, "\"-1\" is not a date"),
        (vec!["run", "../w"], 4, "workflow name \"../w\" is not allowed"),
        (vec!["run", "w", "--param", "n"], 2, "Write --param NAME=VALUE."),
        (vec!["run", "w", "--param", "=x"], 2, "Write --param NAME=VALUE."),
        (vec!["run", "w", "--param", "n=1", "--param", "n=2"], 2, "parameter \"n\" is given twice"),
        (vec!["run", "w", "--job", "../a"], 4, "../a"),
        (vec!["run", "w", "--state", file], 1, "pinrail.toml\" cannot be used: "),
        (vec!["run", "w", "--project", nowhere], 2, "cannot be used: No such file"),
        (vec!["run", "w", "--url", "nonsense", "--token", "x"], 2, "\"nonsense\" is not the URL of a server"),
        (vec!["run", "w", "--url", "http://127.0.0.1:1"], 2, "or set PINRAIL_TOKEN."),
        (vec!["up", "--slots", "10001"], 2, "10001 is not in 0..=10000"),
        (vec!["work", "--slots", "0"], 2, "0 is not in 1..=10000"),
        (vec!["up", "--listen", "nonsense"], 2, "--listen <ADDRESS>"),
        (vec!["up", "--listen", "192.0.2.1:7070"], 1, "cannot listen on 192.0.2.1:7070"),
        (vec!["runs", "--limit", "0"], 2, "0 is not in 1..=500"),
        (vec!["runs", "--in", "done"], 2, "possible values: queued, running, succeeded, failed, cancelled"),
        (vec!["submit", "jobs..a"], 4, "\"jobs..a\" is not a class or function with its module"),
        (vec!["submit", "jobs/a.py:A"], 4, "hint: Write it as jobs.a.A."),
        (vec!["submit", "echo hi"], 2, "hint: A command stands behind --: `pinrail submit -- echo hi`."),
        (vec!["run", "workflows/w.py"], 2, "hint: Did you mean `pinrail run w`?"),
        (vec!["run", "w", "--at", "2013-01-01T10:00"], 4, "without a schedule a run covers a day: 2013-01-01"),
        (vec!["run", "w", "--job", "a++"], 4, "\"a++\" is not a selection; write a, a+ or +a"),
        (vec!["run", "w", "--job", "a,"], 4, "\"a,\" is not a selection"),
        (vec!["token", "create", "--for", "dmo"], 4, "no project \"dmo\""),
        (vec!["submit", "../a.sql"], 4, "\"../a.sql\" is not a path inside the project"),
        (vec!["submit", "/etc/a.sql"], 4, "\"/etc/a.sql\" is not a path inside the project"),
        (vec!["submit", "--", ""], 4, "the command is empty"),
        (vec!["submit", "a.b", "--", "true"], 2, "not two of them"),
        (vec!["token", "create", "--role", "king"], 4, "king"),
        (vec!["token", "create", "--for", "a/b"], 4, "project name \"a/b\" is not allowed"),
    ] {
        let ran = project.run(&arguments);
        assert_eq!(ran.code, Some(code), "{arguments:?}: {ran:?}");
        assert!(ran.err.contains(said), "{arguments:?}: {}", ran.err);
        assert!(!ran.err.contains("at line 1 column"), "{arguments:?}: {}", ran.err);
    }
    assert_eq!(project.run(&["runs", "--json"]).json()["items"], json!([]), "no run was made");
}

#[test]
fn values_that_are_not_of_their_parameters_type_are_refused_with_an_example() {
    let workflow = "
from datetime import date, datetime
from decimal import Decimal
from pinrail import Param, Workflow, template
workflow = Workflow({template(name='a', shell='true'): []}, params={
    'i': Param(int, default=3), 'f': Param(float, default=1), 'b': Param(bool, default=True), 's': Param(str, default=''),
    'd': Param(date, default=None), 't': Param(datetime, default=None), 'm': Param(Decimal, default=1)})
";
    let project = Project::new(&[("workflows/w.py", workflow)]);
    let _server = project.up();
    assert_eq!(project.run(&["deploy"]).code, Some(0));
    for (param, kind, hint) in [
        ("f=nan", "float", "a finite number"),
        ("f=-inf", "float", "a finite number"),
        ("f=1e400", "float", "a finite number"),
        ("i=1.5", "int", "a whole number"),
        ("b=yes", "bool", "true or false"),
        ("d=yesterday", "date", "a date such as 2013-01-02"),
        ("t=noon", "datetime", "a time such as 2013-01-02T06:00:00"),
        ("m=nan", "decimal", "a decimal number"),
    ] {
        let (name, value) = param.split_once('=').unwrap();
        let refused = project.run(&["run", "w", "--param", param]);
        assert_eq!(refused.code, Some(4), "{refused:?}");
        let said = format!("parameter \"{name}\" must be of type {kind}, not \"{value}\"\n  hint: Write {hint}");
        assert!(refused.err.contains(&said), "{}", refused.err);
    }
    let runs = "/api/v1/projects/demo/runs";
    for name in ["i", "f", "b", "s", "m"] {
        let (status, problem) = post(&project, runs, &json!({"workflow": "w", "params": {name: null}}));
        assert_eq!((status, &problem["code"]), (400, &json!("bad-parameter")), "{problem}");
        assert!(problem["detail"].as_str().unwrap().starts_with(&format!("parameter \"{name}\" must be")), "{problem}");
    }
    assert_eq!(project.run(&["runs", "--json"]).json()["items"], json!([]), "no run was made");
    // One that has no value unless it is given may be given none.
    assert_eq!(post(&project, runs, &json!({"workflow": "w", "params": {"d": null}})).0, 201);
    assert_eq!(project.wait_for_end()["state"], "succeeded");
}

/// Posts a body that is too large for a command line.
fn post(project: &Project, path: &str, body: &Value) -> (u16, Value) {
    let file = project.state().join("body.json");
    std::fs::write(&file, body.to_string()).unwrap();
    let admin = std::fs::read_to_string(project.state().join("admin.token")).unwrap();
    request(project, "POST", path, Some(&admin), Some(&format!("@{}", file.display())))
}

#[test]
fn large_parameters_are_refused_by_size() {
    let workflow = "
from pinrail import Param, Workflow, template
workflow = Workflow({template(name='a', shell='true'): []}, params={'n': Param(str, default='x')})
";
    let project = Project::new(&[("workflows/w.py", workflow)]);
    let _server = project.up();
    assert_eq!(project.run(&["deploy"]).code, Some(0));
    let runs = "/api/v1/projects/demo/runs";
    for size in [70_000, 1_000_000] {
        let (status, problem) = post(&project, runs, &json!({"workflow": "w", "params": {"n": "x".repeat(size)}}));
        assert_eq!((status, &problem["code"]), (400, &json!("bad-parameter")), "{size}: {problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("at most 65536 are allowed") && detail.len() < 200, "{detail}");
        assert_eq!(problem["hint"], "Put large values into a file or a table, and pass its name.");
    }
    let (status, problem) = post(&project, runs, &json!({"workflow": "w", "params": {"n": {"deep": vec![1; 100]}}}));
    assert_eq!(status, 400, "{problem}");
    assert_eq!(project.run(&["runs", "--json"]).json()["items"], json!([]), "no run was made");
    let (status, _) = post(&project, runs, &json!({"workflow": "w", "params": {"n": "x".repeat(60_000)}}));
    assert_eq!(status, 201);
    assert_eq!(project.wait_for_end()["state"], "succeeded", "what is allowed also works");
}

#[test]
fn bundles_that_would_leave_their_folder_or_lie_are_refused() {
    let project = good();
    let _server = project.up();
    let admin = std::fs::read_to_string(project.state().join("admin.token")).unwrap();
    let sha = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
    let blob = format!("/api/v1/projects/demo/blobs/{sha}");
    assert_eq!(request(&project, "PUT", &blob, Some(&admin), Some("y")).1["code"], "bad-bundle", "another digest");
    assert_eq!(request(&project, "PUT", &blob, Some(&admin), Some("x")).0, 204);
    let file = json!({"sha": sha, "size": 1, "executable": false});
    let bundles = "/api/v1/projects/demo/bundles";
    let deep = format!("{}y", "x/".repeat(600));
    let long = "x".repeat(256);
    for paths in [
        vec!["../x"],
        vec!["/etc/x"],
        vec!["a/../../x"],
        vec![""],
        vec!["a//b"],
        vec!["./a"],
        vec!["a/"],
        vec!["a\0b"],
        vec!["a\\b"],
        vec![".git/config"],
        vec!["a", "a/b"],
        vec![deep.as_str()],
        vec![long.as_str()],
    ] {
        let files: serde_json::Map<String, Value> =
            paths.iter().map(|path| ((*path).to_owned(), file.clone())).collect();
        let (status, problem) = post(&project, bundles, &json!({"files": files}));
        assert_eq!((status, &problem["code"]), (400, &json!("bad-bundle")), "{paths:?}: {problem}");
        assert!(problem["hint"].is_string() && problem["detail"].as_str().unwrap().len() < 400, "{problem}");
    }
    for (file, said) in [
        (json!({"link": "/etc/passwd"}), "missing field `sha`"),
        (json!({"sha": "nonsense", "size": 1, "executable": false}), "\"nonsense\" is not a SHA-256"),
        (json!({"sha": sha, "size": -1, "executable": false}), "integer `-1`"),
        (json!({"sha": sha, "size": 0, "executable": false}), "\"a\" is said to have 0 bytes but has 1"),
        (json!({"sha": sha, "size": 1_u64 << 40, "executable": false}), "a bundle holds at most 256 MiB"),
    ] {
        let (status, problem) = post(&project, bundles, &json!({"files": {"a": file}}));
        assert_eq!(status, 400, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(said), "{problem}");
    }
    let unpacked = std::fs::read_dir(project.state().join("bundles")).map_or(0, Iterator::count);
    assert_eq!(unpacked, 0, "nothing was unpacked");
    assert_eq!(request(&project, "GET", "/api/v1/projects", Some(&admin), None).1["items"], json!([]));
}

#[test]
fn files_that_cannot_be_in_a_bundle_are_named() {
    let project = good();
    std::os::unix::fs::symlink("/etc/passwd", project.path().join("link")).unwrap();
    let ran = project.run(&["check"]);
    assert_eq!(ran.code, Some(4));
    assert!(ran.err.contains("\"link\" is a symbolic link") && ran.err.contains(".pinrailignore"), "{}", ran.err);
    std::fs::remove_file(project.path().join("link")).unwrap();
    let strange = project.path().join(std::ffi::OsStr::from_bytes(b"bad\xff"));
    std::fs::write(&strange, "").unwrap();
    let ran = project.run(&["check"]);
    assert_eq!(ran.code, Some(4));
    assert!(ran.err.contains("the path \"bad\u{fffd}\" is not allowed") && ran.err.contains("in UTF-8"), "{}", ran.err);
}

#[test]
fn what_cannot_be_read_or_written_is_named_with_the_reason() {
    use std::os::unix::fs::PermissionsExt;
    // Nothing is unreadable for root.
    let project = if users().len() > 1 { good().of_user(ORDINARY) } else { good() };
    assert_eq!(project.run(&["check"]).code, Some(0));
    project.write("folder/file", "");
    for (path, mode, code, said) in [
        ("folder", 0o000, 4, "folder\" cannot be read or written: permission denied"),
        ("folder/file", 0o000, 4, "folder/file\" cannot be read or written: Permission denied"),
        ("workflows/w.py", 0o000, 4, "workflows/w.py\" cannot be read or written: Permission denied"),
        ("pinrail.toml", 0o000, 3, "pinrail.toml cannot be read: Permission denied"),
        (".pinrail/state.db", 0o000, 1, "state.db\" cannot be read: Permission denied"),
        (".pinrail/lock", 0o000, 1, ".pinrail\" cannot be used: Permission denied"),
    ] {
        let full = project.path().join(path);
        let before = std::fs::metadata(&full).unwrap().permissions();
        std::fs::set_permissions(&full, PermissionsExt::from_mode(mode)).unwrap();
        let ran = project.run(&["check"]);
        std::fs::set_permissions(&full, before).unwrap();
        assert_eq!(ran.code, Some(code), "{path}: {ran:?}");
        assert!(ran.err.contains(said), "{path}: {}", ran.err);
        assert!(ran.err.contains("hint: "), "{path}: {}", ran.err);
    }
    assert_eq!(project.run(&["check"]).code, Some(0), "nothing of it stays");
}
