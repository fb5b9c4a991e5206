//! Python environments from lock files, built by pip and by uv, from wheels that are made here: no index is asked.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::support::{Project, Ran, repository, task, test_python, venv, wait_until};

const TOML: &str = "[project]
name = \"demo\"
[python]
lock = \"requirements.txt\"
wheels = \"wheels\"
[python.extras]
loud = \"loud.txt\"
";
const WORKFLOW: &str = "
import greeting

workflow = {
    template(name='greet', class_='jobs.a.greet'): [],
    template(name='shout', class_='jobs.a.shout', extras=['loud']): ['greet'],
    template(name='cold', class_='jobs.a.greet', executor='shell'): ['greet'],
    template(name='command', shell='python -c \"import greeting; print(greeting.WORD)\"; which greeting'): ['shout'],
}
";
const JOBS: &str = "
import shutil
import sys

def greet(ctx):
    import greeting
    ctx.output('script', shutil.which('greeting'))
    ctx.output('word', greeting.WORD)
    ctx.output('prefix', sys.prefix)
    try:
        import shouting
    except ImportError:
        ctx.output('alone', True)

def shout(ctx):
    import shouting
    ctx.output('word', shouting.loud())
    ctx.output('prefix', sys.prefix)
";
const GREETING: &str = "WORD = 'hello'\ndef main(): print(WORD)\n";
const SHOUTING: &str = "import greeting\ndef loud(): return greeting.WORD.upper()\n";

/// What builds environments.
#[derive(Clone, Copy, PartialEq)]
enum Builder {
    Pip,
    Uv,
}

impl Builder {
    fn name(self) -> &'static str {
        if self == Self::Uv { "uv" } else { "pip" }
    }

    /// Where programs are for a command that is to use it.
    fn path(self) -> OsString {
        let own = std::env::var_os("PATH").unwrap();
        let without_uv = std::env::split_paths(&own).filter(|folder| !folder.join("uv").exists());
        let python = PathBuf::from(test_python());
        let beside = python.parent().unwrap().to_owned();
        if self == Self::Pip {
            return std::env::join_paths(without_uv).unwrap();
        }
        assert!(
            beside.join("uv").exists(),
            "no uv beside {}: run the tests through `cargo xtask test`",
            python.display()
        );
        std::env::join_paths(without_uv.chain([beside])).unwrap()
    }
}

pub fn wheel(folder: &Path, name: &str, version: &str, source: &str, requirements: &[&str]) {
    let mut make = Command::new(test_python());
    make.arg(repository().join("crates/pinrail/tests/all/make_wheel.py")).arg(folder).args([name, version, source]);
    let made = make.args(requirements).output().unwrap();
    assert!(made.status.success(), "{made:?}");
}

fn project() -> Project {
    let project = Project::new(&[
        ("pinrail.toml", TOML),
        ("workflows/w.py", WORKFLOW),
        ("jobs/a.py", JOBS),
        ("requirements.txt", "greeting==1.0\n"),
        ("loud.txt", "shouting==2.0\n"),
    ]);
    wheel(&project.path().join("wheels"), "greeting", "1.0", GREETING, &[]);
    wheel(&project.path().join("wheels"), "shouting", "2.0", SHOUTING, &["greeting"]);
    project
}

fn command(project: &Project, builder: Builder, arguments: &[&str]) -> Command {
    let mut command = project.command(arguments);
    command.env("PATH", builder.path()).env("PINRAIL_PYTHON", test_python());
    command
}

fn run(project: &Project, builder: Builder, arguments: &[&str]) -> Ran {
    command(project, builder, arguments).output().unwrap().into()
}

/// The environments, and what else lies beside them.
fn listed(project: &Project) -> (BTreeSet<String>, BTreeSet<String>) {
    let entries = std::fs::read_dir(project.state().join("environments")).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.partition(|name| name.len() == 64)
}

fn nothing_is_left_over(project: &Project) {
    let (_, others) = listed(project);
    assert!(others.iter().all(|name| name == "files" || name == "lock"), "{others:?}");
}

pub fn digest(task: &Value) -> String {
    task["attempts"][0]["environment"].as_str().unwrap_or_else(|| panic!("no environment: {task}")).to_owned()
}

fn locked_packages_and_no_others(builder: Builder) {
    let project = project();
    let first = run(&project, builder, &["run", "w", "--at", "2024-01-01"]);
    assert_eq!(first.code, Some(0), "{first:?}");
    let told: Vec<&str> = first.out.lines().filter(|line| line.contains("building Python environment")).collect();
    assert_eq!(told.len(), 2, "{}", first.out);
    assert!(told[0].ends_with(&format!(" (1 locked package, {})…", builder.name())), "{}", first.out);
    assert!(told[1].ends_with(&format!(" with loud (2 locked packages, {})…", builder.name())), "{}", first.out);

    let shown = run(&project, builder, &["show", "--json"]).json();
    let (base, loud) = (digest(task(&shown, "greet")), digest(task(&shown, "shout")));
    assert_ne!(base, loud);
    assert_eq!([&digest(task(&shown, "cold")), &digest(task(&shown, "command"))], [&base, &base]);
    let output = |job: &str, name: &str| task(&shown, job)["outputs"][name].clone();
    let folder = |digest: &str| project.state().canonicalize().unwrap().join("environments").join(digest);
    for job in ["greet", "cold"] {
        assert_eq!(output(job, "word"), "hello");
        assert_eq!(output(job, "alone"), true);
        assert_eq!(output(job, "prefix"), folder(&base).to_str().unwrap());
        assert_eq!(output(job, "script"), folder(&base).join("bin/greeting").to_str().unwrap());
    }
    assert_eq!(output("shout", "word"), "HELLO");
    assert_eq!(output("shout", "prefix"), folder(&loud).to_str().unwrap());
    let said = run(&project, builder, &["logs", "--job", "command"]).out;
    assert!(said.contains("hello\n"), "{said}");
    assert!(said.contains(folder(&base).join("bin/greeting").to_str().unwrap()), "{said}");
    let script = Command::new(folder(&base).join("bin/greeting")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&script.stdout), "hello\n", "{script:?}");

    // A module that both have is on the disk once: two environments, and the name by its digest.
    let module = |digest: &str| {
        let found = Command::new(folder(digest).join("bin/python"))
            .args(["-c", "import greeting; print(greeting.__file__, end='')"])
            .output();
        std::fs::metadata(String::from_utf8(found.unwrap().stdout).unwrap()).unwrap()
    };
    assert_eq!(module(&base).ino(), module(&loud).ino());
    assert_eq!(module(&base).nlink(), 3);
    assert_eq!(module(&base).mode() & 0o222, 0);

    let known = run(&project, builder, &["environments", "--json"]).json();
    let known = known["items"].as_array().unwrap();
    let of = |digest: &str| known.iter().find(|one| one["digest"] == digest).unwrap().clone();
    assert_eq!(known.len(), 2);
    assert_eq!(of(&base)["packages"]["greeting"], "1.0");
    assert_eq!(of(&base)["packages"]["shouting"], Value::Null);
    assert_eq!((&of(&loud)["packages"]["shouting"], &of(&loud)["extras"][0]), (&"2.0".into(), &"loud".into()));
    assert_eq!((&of(&base)["builder"], &of(&base)["lock"]), (&builder.name().into(), &"requirements.txt".into()));
    assert!(of(&base)["own_bytes"].as_u64() < of(&base)["size_bytes"].as_u64());
    let shown = run(&project, builder, &["show"]).out;
    assert!(shown.contains(&format!("Python environment {}: greet, cold, command", &base[..8])), "{shown}");

    // Nothing is built twice, also for other code; another lock is another environment.
    project.write("jobs/b.py", "");
    let second = run(&project, builder, &["run", "w", "--at", "2024-01-02"]);
    assert_eq!(second.code, Some(0), "{second:?}");
    assert!(!second.out.contains("building"), "{}", second.out);
    wheel(&project.path().join("wheels"), "greeting", "1.1", "WORD = 'servus'\n", &[]);
    project.write("requirements.txt", "greeting == 1.1  # newer\n");
    let third = run(&project, builder, &["run", "w", "--at", "2024-01-03", "--json"]);
    assert_eq!(task(&third.json(), "greet")["outputs"]["word"], "servus", "{third:?}");
    assert_eq!(listed(&project).0.len(), 4);
    nothing_is_left_over(&project);
}

#[test]
fn jobs_commands_and_workflow_files_have_the_locked_packages_and_no_others_by_pip() {
    locked_packages_and_no_others(Builder::Pip);
}

#[test]
fn jobs_commands_and_workflow_files_have_the_locked_packages_and_no_others_by_uv() {
    locked_packages_and_no_others(Builder::Uv);
}

/// Checks a project with each of these locks: it is told these words, and nothing is left of it.
fn checks(builder: Builder, cases: &[(&str, &[&str])]) {
    let project = project();
    for (lock, words) in cases {
        project.write("requirements.txt", lock);
        let checked = run(&project, builder, &["check"]);
        assert_eq!(checked.code, Some(3), "{lock:?}: {checked:?}");
        for word in *words {
            assert!(checked.out.contains(word), "{lock:?}: {word:?} is not in {}", checked.out);
        }
        let state = project.state().display().to_string();
        assert!(!checked.out.contains(&state), "{}", checked.out);
        nothing_is_left_over(&project);
    }
    assert!(listed(&project).0.is_empty(), "none of them is an environment");
}

#[test]
fn mistakes_in_a_lock_are_told_at_their_line() {
    let hashless = format!("greeting==1.0 --hash=sha256:{}\nshouting==2.0\n", "0".repeat(64));
    checks(
        Builder::Uv,
        &[
            (
                "greeting\n",
                &["\"greeting\" does not say which version of greeting it is", "─ requirements.txt:1", " 1 │ greeting"],
            ),
            ("# a\n\ngreeting>=1\n", &["\"greeting>=1\" does not say", "requirements.txt:3", "Write NAME==VERSION"]),
            ("greeting==1.*\n", &["\"greeting==1.*\" does not say"]),
            ("-r others.txt\n", &["\"-r\" is not allowed in a lock", "an extra has a file of its own"]),
            ("-e .\n", &["\"-e\" is not allowed in a lock"]),
            ("--pre\n", &["\"--pre\" is not allowed in a lock"]),
            ("greeting @ http://127.0.0.1:1/greeting.whl\n", &["\"greeting\" is an address without a hash"]),
            ("greeting==1.0 --hash=md5:00\n", &["\"md5:00\" is no hash"]),
            (
                "greeting==1.0\ngreeting==1.1\n",
                &["\"greeting\" is pinned twice", "in requirements.txt:1", "requirements.txt:2"],
            ),
            (&hashless, &["\"shouting\" has no hash, but others have, such as \"greeting\"", "requirements.txt:2"]),
        ],
    );
}

fn what_cannot_be_built(builder: Builder) {
    let wrong_hash = format!("# locked\ngreeting==1.0 \\\n    --hash=sha256:{}\n", "0".repeat(64));
    checks(
        builder,
        &[
            (
                &wrong_hash,
                &["the file of \"greeting\" 1.0 has another hash than the lock says", "─ requirements.txt:2"],
            ),
            ("greeting==7.0\n", &["the folder \"wheels\" has no wheel of \"greeting\" 7.0 that fits Python 3."]),
            (
                "shouting==2.0\n",
                &["the lock is not complete: ", "requires", "greeting", "not installed", "requirements.txt:1"],
            ),
            (
                "greeting==1.0\nshouting==3.0\n",
                &["no wheel of \"shouting\" 3.0 that fits", "requirements.txt:2", " 2 │ shouting==3.0"],
            ),
        ],
    );
}

#[test]
fn what_cannot_be_built_is_told_at_its_line_by_pip() {
    what_cannot_be_built(Builder::Pip);
}

#[test]
fn what_cannot_be_built_is_told_at_its_line_by_uv() {
    what_cannot_be_built(Builder::Uv);
}

#[test]
fn nothing_is_deployed_or_run_with_a_lock_that_is_wrong() {
    let project = project();
    project.write("requirements.txt", "greeting==7.0\n");
    let deployed = run(&project, Builder::Uv, &["deploy"]);
    assert_eq!(deployed.code, Some(3), "{deployed:?}");
    assert!(deployed.err.contains("nothing was deployed"), "{deployed:?}");
    let ran = run(&project, Builder::Uv, &["run", "w"]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.err.contains("no wheel of \"greeting\" 7.0"), "{ran:?}");
    assert_eq!(run(&project, Builder::Uv, &["runs", "--json"]).json()["items"], Value::Array(Vec::new()));
}

#[test]
fn what_names_a_lock_is_checked_where_it_stands() {
    let project = project();
    let says = |words: &[&str]| {
        let checked = run(&project, Builder::Uv, &["check"]);
        assert_eq!(checked.code, Some(3), "{checked:?}");
        for word in words {
            assert!(checked.out.contains(word) || checked.err.contains(word), "{word:?} is not in {checked:?}");
        }
    };
    project.write("workflows/w.py", &WORKFLOW.replace("extras=['loud']", "extras=['lout']"));
    says(&[
        "extra \"lout\" of job \"shout\" is none of the project's",
        "workflows/w.py:6",
        "^^^^^^^^ did you mean \"loud\"?",
    ]);
    project.write("workflows/w.py", &WORKFLOW.replace("extras=['loud']", "extras=7"));
    says(&["setting \"extras\" of job \"shout\" must be a list of names of extras"]);
    project.write("workflows/w.py", "workflow = {template(name='a', sql='a.sql', extras=['loud']): []}\n");
    project.write("a.sql", "select 1\n");
    says(&["job \"a\" has extras, and SQL has no Python environment"]);
    project.write("workflows/w.py", WORKFLOW);
    project.write("loud.txt", "shouting==2.0\ngreeting==1.1\n");
    says(&[
        "\"greeting\" is pinned twice: \"greeting==1.1\" here and \"greeting==1.0\" in requirements.txt:1",
        "loud.txt:2",
    ]);
    project.write("pinrail.toml", &TOML.replace("loud.txt", "lost.txt"));
    says(&["the lock file \"lost.txt\" does not exist (extra \"loud\")", "pinrail.toml:7"]);
    project.write("pinrail.toml", &TOML.replace("requirements.txt", "poetry.lock"));
    project.write("poetry.lock", "");
    says(&["\"poetry.lock\" is no lock file that pinrail reads", "pinrail.toml:4"]);
    project.write("pinrail.toml", &TOML.replace("\"wheels\"", "\"wheel\""));
    says(&["the folder of wheels \"wheel\" does not exist"]);
    project.write("pinrail.toml", &TOML.replace("lock = \"requirements.txt\"\n", ""));
    says(&["pinrail.toml:4: \"wheels\" needs a \"lock\" in [python]"]);
}

#[test]
fn a_uv_lock_gives_what_its_markers_and_extras_say() {
    let project = project();
    let root = "[[package]]
name = \"demo\"
version = \"0\"
source = { virtual = \".\" }
dependencies = [
    { name = \"greeting\" },
    { name = \"nowhere\", marker = \"sys_platform == 'plan9'\" },
]
[package.optional-dependencies]
loud = [{ name = \"shouting\" }]
";
    let package = |name: &str, version: &str, needs: &str| {
        format!(
            "[[package]]\nname = \"{name}\"\nversion = \"{version}\"\nsource = {{ registry = \"wheels\" }}\n\
             dependencies = [{needs}]\nwheels = [{{ path = \"{name}-{version}-py3-none-any.whl\" }}]\n"
        )
    };
    let packages = [
        package("greeting", "1.0", ""),
        package("nowhere", "9.0", "{ name = \"shouting\" }"),
        package("shouting", "2.0", "{ name = \"greeting\" }"),
    ];
    project.write("uv.lock", &format!("version = 1\nrevision = 3\n\n{root}\n{}", packages.concat()));
    project.write("pinrail.toml", "[project]\nname = \"demo\"\n[python]\nlock = \"uv.lock\"\nwheels = \"wheels/\"\n");
    for builder in [Builder::Pip, Builder::Uv] {
        let ran = run(&project, builder, &["run", "w", "--json"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert_eq!(task(&ran.json(), "greet")["outputs"]["alone"], true);
        assert_eq!(task(&ran.json(), "shout")["outputs"]["word"], "HELLO");
        std::fs::remove_dir_all(project.state()).unwrap();
    }
    project.write("uv.lock", &format!("version = 1\n{root}\n{}", packages.concat().replacen("registry", "git", 1)));
    let checked = run(&project, Builder::Pip, &["check"]);
    assert_eq!(checked.code, Some(3), "{checked:?}");
    assert!(checked.out.contains("\"greeting\" comes from a git source, which has no digest"), "{}", checked.out);
    project.write("uv.lock", "version = 2\n");
    let newer = run(&project, Builder::Pip, &["check"]);
    assert!(newer.out.contains("the version of this lock is not known"), "{}", newer.out);
}

/// An index of packages with one wheel, as `pip` asks it.
struct Index {
    port: u16,
    /// Connections are taken and never answered.
    mute: Arc<AtomicBool>,
    /// With the next connection nobody listens any more.
    gone: Arc<AtomicBool>,
}

impl Index {
    fn serving(wheels: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mute: Arc<AtomicBool> = Arc::default();
        let gone: Arc<AtomicBool> = Arc::default();
        let (is_mute, is_gone, wheels) = (Arc::clone(&mute), Arc::clone(&gone), wheels.to_owned());
        // Ends with the test's process.
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                if is_gone.load(Ordering::SeqCst) {
                    return;
                }
                if is_mute.load(Ordering::SeqCst) {
                    kept.push(stream);
                    continue;
                }
                let mut request = [0; 8192];
                let count = stream.read(&mut request).unwrap_or(0);
                let text = String::from_utf8_lossy(&request[..count]).into_owned();
                let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
                let body = match path.strip_prefix("/simple/") {
                    Some("greeting/") => {
                        b"<a href=\"/greeting-1.0-py3-none-any.whl\">greeting-1.0-py3-none-any.whl</a>".to_vec()
                    }
                    Some(_) => Vec::new(),
                    None => std::fs::read(wheels.join(path.trim_start_matches('/'))).unwrap_or_default(),
                };
                let kind = if path.ends_with('/') { "text/html" } else { "application/octet-stream" };
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                // One that asks only for the head goes away.
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
            }
        });
        Self { port, mute, gone }
    }

    /// Returns when nobody listens any more.
    fn leave(&self) {
        self.gone.store(true, Ordering::SeqCst);
        wait_until("the index is gone", || TcpStream::connect(("127.0.0.1", self.port)).is_err());
    }

    fn lock(&self) -> String {
        format!("--index-url http://127.0.0.1:{}/simple\ngreeting==1.0\n", self.port)
    }
}

const ONLINE: &str = "[project]\nname = \"demo\"\n[python]\nlock = \"requirements.txt\"\n";
const ALONE: &str = "workflow = {template(name='greet', class_='jobs.a.greet'): []}\n";

#[test]
fn an_index_that_nobody_serves_is_nobodys_mistake_and_may_be_tried_again() {
    let project = project();
    project.write("pinrail.toml", ONLINE);
    project.write("workflows/w.py", ALONE);
    project.write("requirements.txt", "--index-url http://127.0.0.1:1/simple\ngreeting==1.0\n");
    for builder in [Builder::Pip, Builder::Uv] {
        let checked = run(&project, builder, &["check", "--json"]);
        assert_eq!(checked.code, Some(1), "{checked:?}");
        let problem = checked.json();
        assert_eq!((&problem["code"], &problem["retryable"]), (&"packages-unreachable".into(), &true.into()));
        assert!(problem["detail"].as_str().unwrap().contains("the index of packages cannot be reached"), "{problem}");
    }
}

#[test]
fn an_index_that_is_gone_is_an_external_fault_of_the_attempt() {
    let project = project();
    project.write("pinrail.toml", ONLINE);
    project.write("workflows/w.py", ALONE);
    let index = Index::serving(&project.path().join("wheels"));
    project.write("requirements.txt", &index.lock());
    let deployed = run(&project, Builder::Uv, &["deploy"]);
    assert_eq!(deployed.code, Some(0), "{deployed:?}");
    std::fs::remove_dir_all(project.state().join("environments")).unwrap();
    index.leave();
    let _server = up(&project, &[]);
    let asked = run(&project, Builder::Uv, &["run", "w", "--deployed", "--detach"]);
    assert_eq!(asked.code, Some(0), "{asked:?}");
    let mut attempt = Value::Null;
    wait_until("the first attempt has failed", || {
        attempt = task(&project.last_run(), "greet")["attempts"][0].clone();
        attempt["state"] == "failed"
    });
    assert_eq!(attempt["fault"], "external", "{attempt}");
    let said = project.run(&["logs", "--job", "greet", "--attempt", "1"]).out;
    assert!(said.contains("the index of packages cannot be reached"), "{said}");
    assert_eq!(project.run(&["cancel"]).code, Some(0));
}

#[test]
fn whoever_cancels_does_not_wait_for_an_index_that_does_not_answer() {
    let project = project();
    project.write("pinrail.toml", ONLINE);
    project.write("workflows/w.py", ALONE);
    // Deployed while there was one, and run where the environment is not.
    let index = Index::serving(&project.path().join("wheels"));
    project.write("requirements.txt", &index.lock());
    let deployed = run(&project, Builder::Pip, &["deploy"]);
    assert_eq!(deployed.code, Some(0), "{deployed:?}");
    std::fs::remove_dir_all(project.state().join("environments")).unwrap();
    index.mute.store(true, Ordering::SeqCst);
    let _server = up(&project, &[]);
    let asked = run(&project, Builder::Pip, &["run", "w", "--deployed", "--detach", "--json"]);
    assert_eq!(asked.code, Some(0), "{asked:?}");
    wait_until("the attempt says that it builds", || project.log("greet").contains("building Python environment"));
    assert_eq!(run(&project, Builder::Pip, &["cancel"]).code, Some(0));
    let ended = project.wait_for_end();
    assert_eq!(
        (&ended["state"], &task(&ended, "greet")["attempts"][0]["environment"]),
        (&"cancelled".into(), &Value::Null)
    );
}

#[test]
fn a_folder_of_wheels_that_is_gone_fails_the_attempt_and_is_no_reason_to_try_again() {
    let project = project();
    // In place: not a part of the bundle.
    project.write("pinrail.toml", &format!("{TOML}[files]\nwheels = \"wheels\"\n"));
    project.write("workflows/w.py", &ALONE.replace(")", ", retries=3)"));
    assert_eq!(run(&project, Builder::Pip, &["deploy"]).code, Some(0));
    std::fs::remove_dir_all(project.state().join("environments")).unwrap();
    std::fs::remove_dir_all(project.path().join("wheels")).unwrap();
    let failed = run(&project, Builder::Pip, &["run", "w", "--deployed", "--json"]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    let failed = failed.json();
    let attempts = task(&failed, "greet")["attempts"].as_array().unwrap();
    assert_eq!((attempts.len(), &attempts[0]["fault"]), (1, &"user".into()), "{failed}");
    let explained = run(&project, Builder::Pip, &["explain"]);
    assert!(explained.out.contains("the folder of wheels \"wheels\" does not exist"), "{}", explained.out);
}

fn up(project: &Project, environment: &[(&str, &str)]) -> crate::support::Server {
    let path = Builder::Uv.path().into_string().unwrap();
    let python = test_python();
    let mut all = vec![("PATH", path.as_str()), ("PINRAIL_PYTHON", python.as_str())];
    all.extend(environment);
    project.up_with(&all)
}

#[test]
fn an_interpreter_without_pip_is_no_hindrance_and_its_own_packages_stay_with_it() {
    let project = project();
    let bare = venv(&project.path().join(".venv"));
    let packages = "import sysconfig; print(sysconfig.get_path('purelib'), end='')";
    let folder = Command::new(&bare).args(["-c", packages]).output().unwrap().stdout;
    std::fs::write(Path::new(&String::from_utf8(folder).unwrap()).join("shouting.py"), "").unwrap();
    project.write("workflows/w.py", ALONE);
    project.write("pinrail.toml", &TOML.replace("[python]", "[python]\ninterpreter = \".venv/bin/python\""));
    let ran = run(&project, Builder::Pip, &["run", "w", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let outputs = task(&ran.json(), "greet")["outputs"].clone();
    assert_eq!((&outputs["word"], &outputs["alone"]), (&"hello".into(), &true.into()));
}

#[test]
fn states_that_share_a_folder_of_environments_build_one_once() {
    let project = project();
    project.write("workflows/w.py", ALONE);
    let beside = tempfile::tempdir().unwrap();
    let (shared, steps) = (beside.path().join("shared"), beside.path().join("steps"));
    let checks: Vec<_> = ["one", "two", "three"]
        .map(|state| beside.path().join(state).display().to_string())
        .iter()
        .map(|state| {
            let mut check = command(&project, Builder::Uv, &["check", "--state", state]);
            check.env("PINRAIL_ENVIRONMENTS", &shared).env("PINRAIL_STEPS", &steps);
            check.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for check in checks {
        let checked: Ran = check.wait_with_output().unwrap().into();
        assert_eq!(checked.code, Some(0), "{checked:?}");
    }
    let passed = std::fs::read_to_string(&steps).unwrap();
    assert_eq!(passed.lines().filter(|step| *step == "environment.before-build").count(), 1, "{passed}");
    assert!(!project.state().exists() && !beside.path().join("one/environments").exists());
}

#[test]
fn runs_that_come_at_once_build_an_environment_once() {
    let project = project();
    project.write("workflows/w.py", ALONE);
    // Beside the project: what changes in it while it is sent is refused.
    let beside = tempfile::tempdir().unwrap();
    let steps = beside.path().join("steps");
    let _server = up(&project, &[("PINRAIL_STEPS", steps.to_str().unwrap())]);
    let runs: Vec<_> = (1..=4)
        .map(|day| {
            let at = format!("2024-01-0{day}");
            command(&project, Builder::Uv, &["run", "w", "--at", &at]).stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for run in runs {
        let ran: Ran = run.wait_with_output().unwrap().into();
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    let passed = std::fs::read_to_string(&steps).unwrap();
    assert_eq!(passed.lines().filter(|step| *step == "environment.before-build").count(), 1, "{passed}");
}

#[test]
fn a_death_at_any_step_of_a_build_leaves_nothing_half_built() {
    for step in ["environment.before-build", "environment.before-rename", "environment.after-rename"] {
        let project = project();
        project.write("workflows/w.py", ALONE);
        let mut server = up(&project, &[("PINRAIL_DIE_AT", &format!("{step}:1"))]);
        let died = run(&project, Builder::Uv, &["check"]);
        assert_ne!(died.code, Some(0), "{step}: {died:?}");
        wait_until("the server is dead", || server.child.try_wait().unwrap().is_some());
        let (built, _) = listed(&project);
        assert_eq!(built.len(), usize::from(step == "environment.after-rename"), "{step}: {built:?}");
        let ran = run(&project, Builder::Uv, &["run", "w", "--json"]);
        assert_eq!(ran.code, Some(0), "{step}: {ran:?}");
        assert_eq!(task(&ran.json(), "greet")["outputs"]["word"], "hello", "{step}");
        assert_eq!(listed(&project).0.len(), 1, "{step}");
        nothing_is_left_over(&project);
    }
}

#[test]
fn a_projects_tests_run_in_its_environment_and_share_it_with_their_own_states() {
    let project = project();
    // It stands in for the real one, which needs more than a module.
    let pytest = "import os, sys
if __name__ == '__main__':
    import greeting
    print(greeting.WORD, sys.prefix, os.environ['PINRAIL_ENVIRONMENTS'])
    from pinrail.testing import project
    made = project()
    result = made.run_job('greet', ds='2024-01-01')
    print(result.state, os.path.exists(os.path.join(made.state, 'environments')))
";
    wheel(&project.path().join("wheels"), "pytest", "9.9", pytest, &[]);
    project.write("tests/test_a.py", "");
    project.write("pinrail.toml", &format!("{TOML}dev = \"dev.txt\"\n"));
    project.write("dev.txt", "pytest==9.9\n");
    let without = run(&project, Builder::Uv, &["test"]);
    assert_eq!(without.code, Some(1), "{without:?}");
    assert!(without.err.contains("pytest is not in the project's lock"), "{without:?}");
    let tested = run(&project, Builder::Uv, &["test", "--extra", "dev"]);
    assert_eq!(tested.code, Some(0), "{tested:?}");
    let environments = project.state().canonicalize().unwrap().join("environments");
    assert!(tested.out.contains("building Python environment "), "{tested:?}");
    assert!(tested.out.contains(&format!("hello {}/", environments.display())), "{tested:?}");
    assert!(tested.out.contains("succeeded False"), "{tested:?}");
    let unknown = run(&project, Builder::Uv, &["test", "--extra", "def"]);
    assert_eq!(unknown.code, Some(3), "{unknown:?}");
    assert!(unknown.err.contains("the project has no extra \"def\""), "{unknown:?}");
}
