//! Several worker processes: jobs at them, labels, loss, drains, frozen workers, servers that die.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::crash::{Counter, Expected, SECRET, is_over, steps, story, successes, tables_are_right};
use crate::environments;
use crate::processes::{escaping, pid_in};
use crate::support::{Project, Server, alive, below, phases, sigkill, task, test_python, wait_until};

/// A lease that tests can wait for.
const LEASE: &str = "2";
/// Servers here have no slots of their own.
const NOT_HERE: &[&str] = &["--slots", "0", "--worker-lease", LEASE];

/// A worker process; killed when it is dropped.
struct Worker {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Worker {
    fn start(project: &Project, name: &str, arguments: &[&str]) -> Self {
        Self::start_by(project, &project.url(), name, arguments)
    }

    /// One that reaches the server by another address.
    fn start_by(project: &Project, url: &str, name: &str, arguments: &[&str]) -> Self {
        Self::start_in(project, url, name, arguments, &[])
    }

    fn start_in(
        project: &Project,
        url: &str,
        name: &str,
        arguments: &[&str],
        environment: &[(&str, OsString)],
    ) -> Self {
        let worker = Self::spawn(project, url, name, arguments, environment);
        wait_until("the worker has joined", || worker.seen(project).is_some());
        worker
    }

    /// One that may die before it has joined.
    fn spawn(project: &Project, url: &str, name: &str, arguments: &[&str], environment: &[(&str, OsString)]) -> Self {
        let folder = project.path().join(".user");
        std::fs::create_dir_all(&folder).unwrap();
        let token = folder.join("worker.token");
        if !token.exists() {
            let made = project.run(&["token", "create", "--name", "worker", "--role", "worker"]);
            assert_eq!(made.code, Some(0), "{made:?}");
            std::fs::write(&token, made.out).unwrap();
            std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let log = folder.join("workers.log");
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut command = project.command(&["work", "--url", url, "--name", name]);
        if !arguments.contains(&"--slots") {
            command.args(["--slots", "2"]);
        }
        command.arg("--folder").arg(folder.join(name)).arg("--token-file").arg(token).args(arguments);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let child = command.stdout(Stdio::null()).stderr(file).spawn().unwrap();
        Self { child, name: name.to_owned(), log }
    }

    /// What the server says of it.
    fn seen(&self, project: &Project) -> Option<Value> {
        let found = project.run(&["workers", "--json"]).json();
        found["items"].as_array().unwrap().iter().find(|worker| worker["name"] == *self.name).cloned()
    }

    fn signal(&self, signal: &str) {
        send(signal, &[self.child.id()]);
    }

    fn session(&self, project: &Project) -> String {
        let file = project.path().join(".user").join(&self.name).join("session.json");
        let text = std::fs::read_to_string(file).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["session"].as_str().unwrap().to_owned()
    }

    /// Processes of jobs here: what its launcher has started, but for warm processes that nothing runs in.
    fn jobs(&self) -> Vec<u32> {
        let all = below(self.child.id()).into_iter();
        all.filter(|(_, line)| line.contains("sleep 600")).map(|(pid, _)| pid).collect()
    }

    fn launcher(&self) -> u32 {
        let found = below(self.child.id()).into_iter().find(|(_, line)| line.contains("__launcher"));
        found.expect("the worker has a launcher").0
    }

    fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end; gives the exit code.
    fn ended(&mut self) -> Option<i32> {
        wait_until("the worker ends", || self.is_over());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("what workers said:\n{log}");
        }
    }
}

/// Something between workers and their server that breaks connections.
struct Cut {
    address: String,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Cut {
    fn before(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = server.strip_prefix("http://").unwrap().to_owned();
        let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let known = Arc::clone(&open);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map(Result::unwrap) {
                let Ok(other) = TcpStream::connect(&server) else { continue };
                known.lock().unwrap().extend([stream.try_clone().unwrap(), other.try_clone().unwrap()]);
                for (mut from, mut to) in [(stream.try_clone().unwrap(), other.try_clone().unwrap()), (other, stream)] {
                    std::thread::spawn(move || {
                        // Until somebody closes it, or cuts it in the middle.
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        Self { address: format!("http://{address}"), open }
    }

    /// Breaks every connection that there is.
    fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn send(signal: &str, pids: &[u32]) {
    let pids = pids.iter().map(u32::to_string);
    let status = std::process::Command::new("kill").arg(signal).args(pids).status().unwrap();
    assert!(status.success());
}

/// A free address of this machine.
fn address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn up(project: &Project) -> Server {
    project.up_at("127.0.0.1:0", NOT_HERE)
}

/// At which workers an attempt of a job ran, from its log.
fn places(project: &Project, job: &str, attempt: u64) -> Vec<String> {
    let log = project.run(&["logs", "--job", job, "--attempt", &attempt.to_string()]).out;
    let lines = log.lines().filter_map(|line| line.split_once("worker \"")?.1.split_once("\" runs"));
    lines.map(|(name, _)| name.to_owned()).collect()
}

/// A job that on its first attempt goes on until it is killed; each execution is noted outside.
const STAYS: &str = "
import os, subprocess

class Stays:
    def setup(self, ctx):
        ctx.state['made'] = 'by setup'

    def execute(self, ctx):
        with open(NOTES, 'a') as notes:
            notes.write('execute %d\\n' % ctx.attempt.number)
        if ctx.attempt.number == 1:
            subprocess.run(['sleep', '600'])
        return ctx.attempt.number

    def complete(self, ctx, result):
        ctx.output('number', result)

    def cleanup(self, ctx):
        with open(NOTES, 'a') as notes:
            notes.write('cleanup %d %s\\n' % (ctx.attempt.number, ctx.state.get('made')))
";

/// A project whose one job stays, and where it is noted what it does.
fn staying(settings: &str) -> (Project, PathBuf) {
    let workflow = format!("workflow = {{template(name='a', class_='jobs.a.Stays'{settings}): []}}");
    let project = Project::new(&[("workflows/w.py", &workflow), (".pinrailignore", ".user\nserver.log\nnotes\n")]);
    let notes = project.path().join("notes");
    project.write("jobs/a.py", &STAYS.replace("NOTES", &format!("{:?}", notes.to_str().unwrap())));
    (project, notes)
}

fn noted(notes: &std::path::Path) -> Vec<String> {
    let text = std::fs::read_to_string(notes).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn start(project: &Project) {
    let ran = project.run(&["run", "w", "--detach"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

/// The worker that runs the job, and the other one.
fn by_work(one: Worker, other: Worker) -> (Worker, Worker) {
    wait_until("the job runs", || one.jobs().len() + other.jobs().len() == 1);
    if one.jobs().is_empty() { (other, one) } else { (one, other) }
}

#[test]
fn everything_that_a_job_can_do_it_can_do_at_a_worker() {
    let job = "
import os, sys
from pathlib import Path

class All:
    def setup(self, ctx):
        ctx.state['from'] = 'setup'

    def execute(self, ctx):
        print('to stdout')
        sys.stderr.buffer.write(b'half a character: \\xc3\\n')
        ctx.log('a line')
        ctx.counter('rows', 3)
        ctx.progress(0.5, 'half')
        file = Path(ctx.scratch) / 'report.html'
        file.write_bytes(b'<p>' + b'x' * 300_000)
        assert ctx.save('report.html', file)
        assert 'server' not in os.environ['TMPDIR'] and os.environ['TMPDIR'] == str(ctx.scratch)
        return {'secret': len(ctx.secret('key')), 'text': ctx.secret('key')}

    def complete(self, ctx, result):
        assert ctx.state['from'] == 'setup'
        ctx.output('length', result['secret'])
        print('the value is ' + result['text'])

    def cleanup(self, ctx):
        print('cleanup after ' + ctx.state['from'])

def large(ctx):
    for number in range(80):
        ctx.output('o%d' % number, 'x' * 60_000)
";
    let workflow = "workflow = {
        template(name='all', class_='jobs.a.All', secrets=['key']): [],
        template(name='command', shell=['sh', '-c', 'pinrail output upper --text \"$(cat jobs/word.txt)\"; cat jobs/word.txt']): ['all'],
        template(name='cold', class_='jobs.a.All', executor='shell', secrets=['key']): ['command'],
        template(name='large', class_='jobs.a.large'): [],
    }";
    let project = Project::new(&[
        ("workflows/w.py", workflow),
        ("jobs/a.py", job),
        ("jobs/word.txt", "word"),
        (".pinrailignore", ".user\nserver.log\n"),
    ]);
    let _server = up(&project);
    assert_eq!(project.run_with(&["secret", "set", "key"], "a-secret-value").code, Some(0));
    let worker = Worker::start(&project, "one", &[]);
    let ran = project.run(&["run", "w", "--json"]);
    let run = ran.json();
    assert_eq!(run["state"], "succeeded", "{run}\n{}", project.log("all"));
    for name in ["all", "cold"] {
        let job = task(&run, name);
        assert_eq!(job["outputs"], json!({"length": 14}), "{job}");
        let attempts = job["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), 1);
        let all = ["setup succeeded", "execute succeeded", "complete succeeded", "cleanup succeeded"];
        assert_eq!(phases(&attempts[0]), all);
        let log = project.log(name);
        for wanted in
            ["to stdout", "a line", "half a character: ", "50 % half", "the value is ***", "cleanup after setup"]
        {
            assert!(log.contains(wanted), "{wanted} is not in {log}");
        }
        assert_eq!(places(&project, name, 1), ["one", "one"]);
        let counters = project.run(&["counters", "--json"]).out;
        assert!(counters.contains("\"rows\"") && counters.contains("peak_memory_bytes"), "{counters}");
    }
    assert_eq!(task(&run, "command")["outputs"], json!({"upper": "word"}));
    assert_eq!(task(&run, "large")["outputs"].as_object().unwrap().len(), 80);
    let file = project.run(&["files", "last", "report.html"]);
    assert_eq!(file.out.len(), 300_003, "{:?}", file.err);
    // Nothing is left of the attempts.
    wait_until("the scratch folders are gone", || {
        let folder = project.path().join(".user/one/scratch/projects/demo");
        std::fs::read_dir(folder).map_or(0, Iterator::count) == 0
    });
    let seen = worker.seen(&project).unwrap();
    assert_eq!((&seen["state"], &seen["slots"], &seen["used"]), (&json!("up"), &json!(2), &json!(0)));
}

#[test]
fn a_job_at_a_worker_knows_its_target_and_cannot_read_the_workers_folder() {
    let job = "
def a(ctx):
    ctx.log(f'python at {ctx.target} with {ctx.vars.rows + 1}')
    try:
        (ctx.scratch.parents[3] / 'session.json').read_text()
    except PermissionError:
        ctx.log('python is refused')
";
    let shell = "echo command at $PINRAIL_TARGET with $PINRAIL_VAR_ROWS; \
                 cat $TMPDIR/../../../../session.json || echo command is refused";
    let workflow = format!(
        "workflow = {{
        template(name='python', class_='jobs.a.a'): [],
        template(name='cold', class_='jobs.a.a', executor='shell'): [],
        template(name='command', shell=\"{shell}\"): [],
    }}"
    );
    let project = Project::new(&[
        ("workflows/w.py", &workflow),
        ("jobs/a.py", job),
        (".pinrailignore", ".user\nserver.log\n"),
        ("pinrail.toml", "[project]\nname = \"demo\"\n[targets.dev]\n[targets.dev.vars]\nrows = 5\n"),
    ]);
    let _server = up(&project);
    let _worker = Worker::start(&project, "one", &[]);
    let run = project.run(&["run", "w", "--json"]).json();
    assert_eq!(run["state"], "succeeded", "{run}");
    for (name, kind, rows) in [("python", "python", 6), ("cold", "python", 6), ("command", "command", 5)] {
        let log = project.log(name);
        assert!(log.contains("worker \"one\" runs"), "{log}");
        assert!(log.contains(&format!("{kind} at dev with {rows}")), "{log}");
        assert!(log.contains(&format!("{kind} is refused")), "{log}");
        assert!(!log.contains("\"installation\""), "{log}");
    }
}

#[test]
fn a_job_waits_for_a_worker_with_its_labels() {
    let project = Project::new(&[
        ("workflows/w.py", "workflow = {template(name='a', shell=['true'], labels=['gpu']): []}"),
        (".pinrailignore", ".user\nserver.log\n"),
    ]);
    let _server = project.up_at("127.0.0.1:0", &["--worker-lease", LEASE]);
    let _plain = Worker::start(&project, "plain", &["--labels", "zone=b"]);
    start(&project);
    let mut said = String::new();
    wait_until("it waits for a worker", || {
        said = project.run(&["explain"]).out;
        said.contains("a waits for a worker with the labels gpu: none is there")
    });
    assert!(said.contains("next        pinrail work --labels gpu"), "{said}");
    let worker = Worker::start(&project, "special", &["--labels", "gpu,zone=b"]);
    let run = project.wait_for_end();
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(places(&project, "a", 1), ["special"]);
    let listed = project.run(&["workers"]).out;
    assert!(listed.contains("gpu,zone=b") && listed.contains("(server)"), "{listed}");
    drop(worker);
}

#[test]
fn what_a_killed_worker_held_is_done_again_by_another() {
    let (project, notes) = staying("");
    let _server = up(&project);
    let (one, other) = (Worker::start(&project, "one", &[]), Worker::start(&project, "other", &[]));
    start(&project);
    let (working, idle) = by_work(one, other);
    let job = working.jobs()[0];
    let said = project.run(&["explain"]).out;
    assert!(said.contains(&format!("a is at work at {}: executing since ", working.name)), "{said}");
    sigkill(working.child.id());
    let run = project.wait_for_end();
    assert_eq!(run["state"], "succeeded", "{run}");
    let attempts = task(&run, "a")["attempts"].as_array().unwrap();
    let states: Vec<_> = attempts.iter().map(|attempt| (&attempt["state"], &attempt["fault"])).collect();
    assert_eq!(states, [(&json!("lost"), &json!("platform")), (&json!("succeeded"), &Value::Null)], "{run}");
    assert!(!alive(job), "a process of the lost worker lives");
    assert_eq!(noted(&notes), ["execute 1", "cleanup 1 by setup", "execute 2", "cleanup 2 by setup"]);
    assert_eq!(places(&project, "a", 2), [idle.name.clone(), idle.name.clone()]);
    assert!(working.seen(&project).is_none());
}

#[test]
fn a_job_under_which_two_workers_were_lost_is_held() {
    let project = Project::new(&[
        ("workflows/w.py", "workflow = {template(name='a', shell=['sleep', '600']): []}"),
        (".pinrailignore", ".user\nserver.log\n"),
    ]);
    let _server = up(&project);
    let (one, other) = (Worker::start(&project, "one", &[]), Worker::start(&project, "other", &[]));
    start(&project);
    let (first, second) = by_work(one, other);
    sigkill(first.child.id());
    wait_until("the other one has it", || !second.jobs().is_empty());
    let _third = Worker::start(&project, "third", &[]);
    sigkill(second.child.id());
    wait_until("it is held", || task(&project.last_run(), "a")["state"] == "held");
    let why = project.run(&["explain"]).out;
    assert!(why.contains("2 workers were lost while they ran this job"), "{why}");
    assert_eq!(task(&project.last_run(), "a")["attempts"].as_array().unwrap().len(), 2);
}

#[test]
fn a_job_whose_only_worker_is_lost_is_cleaned_up_elsewhere_and_can_be_cancelled() {
    let (project, notes) = staying(", labels=['gpu']");
    let _server = up(&project);
    let _plain = Worker::start(&project, "plain", &[]);
    let special = Worker::start(&project, "special", &["--labels", "gpu"]);
    start(&project);
    wait_until("the job runs", || !special.jobs().is_empty());
    sigkill(special.child.id());
    wait_until("it waits for another", || project.run(&["explain"]).out.contains("with the labels gpu: none is there"));
    assert_eq!(noted(&notes), ["execute 1", "cleanup 1 by setup"]);
    assert_eq!(places(&project, "a", 1), ["special", "plain"]);
    assert_eq!(project.run(&["cancel"]).code, Some(0));
    assert_eq!(project.wait_for_end()["state"], "cancelled");
}

#[test]
fn locked_packages_are_built_at_the_worker() {
    let project = environments::project();
    project.write(".pinrailignore", ".user\nserver.log\n");
    let path = environments::Builder::Pip.path();
    let _server = environments::up(&project, &[]);
    let environment = [("PATH", path), ("PINRAIL_PYTHON", test_python().into())];
    // So many slots that all is given to it.
    let _worker = Worker::start_in(&project, &project.url(), "one", &["--slots", "100"], &environment);
    let ran = environments::run(&project, environments::Builder::Pip, &["run", "w", "--json"]);
    let run = ran.json();
    assert_eq!(run["state"], "succeeded", "{run}");
    let own = project.path().canonicalize().unwrap().join(".user/one/environments");
    for (job, word) in [("greet", "hello"), ("shout", "HELLO")] {
        let outputs = &task(&run, job)["outputs"];
        assert_eq!(outputs["word"], word);
        assert!(outputs["prefix"].as_str().unwrap().starts_with(own.to_str().unwrap()), "{outputs}");
        assert!(task(&run, job)["attempts"][0]["environment"].is_string(), "{run}");
        assert_eq!(places(&project, job, 1)[0], "one");
    }
}

#[test]
fn a_worker_that_is_started_again_says_at_once_what_is_lost() {
    let (project, _) = staying("");
    // A lease that nobody would wait for.
    let _server = project.up_at("127.0.0.1:0", &["--slots", "0", "--worker-lease", "3600"]);
    let worker = Worker::start(&project, "one", &[]);
    start(&project);
    wait_until("the job runs", || !worker.jobs().is_empty());
    drop(worker);
    let _again = Worker::start(&project, "one", &[]);
    let run = project.wait_for_end();
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(task(&run, "a")["attempts"].as_array().unwrap().len(), 2);
}

#[test]
fn a_worker_that_freezes_past_its_lease_does_nothing_more_that_counts() {
    let (project, notes) = staying("");
    let _server = up(&project);
    let (one, other) = (Worker::start(&project, "one", &[]), Worker::start(&project, "other", &[]));
    start(&project);
    let (frozen, _idle) = by_work(one, other);
    let (job, session) = (frozen.jobs()[0], frozen.session(&project));
    frozen.signal("-STOP");
    // Its launcher ends what it runs while it is frozen.
    wait_until("its process is gone", || !alive(job));
    let run = project.wait_for_end();
    assert_eq!(run["state"], "succeeded", "{run}");
    // What it says in its old session is refused.
    let token = std::fs::read_to_string(project.path().join(".user/worker.token")).unwrap();
    let header = format!("Authorization: Bearer {}", token.trim());
    let body = json!({"session": session, "first": 1, "frames": []}).to_string();
    let (status, answer) = project.curl("/api/v1/workers/reports", &["-H", &header, "-d", &body]);
    assert_eq!((status, &answer["code"]), (409, &json!("session-closed")), "{answer}");
    frozen.signal("-CONT");
    wait_until("it joins anew", || frozen.seen(&project).is_some());
    assert_ne!(frozen.session(&project), session);
    let run = project.last_run();
    let states: Vec<_> = task(&run, "a")["attempts"].as_array().unwrap().iter().map(|a| a["state"].clone()).collect();
    assert_eq!(states, [json!("lost"), json!("succeeded")], "{run}");
    assert_eq!(noted(&notes), ["execute 1", "cleanup 1 by setup", "execute 2", "cleanup 2 by setup"]);
}

#[test]
fn a_worker_that_comes_back_leaves_alone_what_another_does_for_the_same_attempt() {
    for killed in [false, true] {
        let (project, notes) = staying("");
        let (go, waits) = (project.path().join("go"), project.path().join("waits"));
        let job = std::fs::read_to_string(project.path().join("jobs/a.py")).unwrap();
        let cleanup = format!(
            "def cleanup(self, ctx):
        open({waits:?}, 'w').close()
        while not os.path.exists({go:?}): time.sleep(0.02)\n"
        );
        let job = job.replace("def cleanup(self, ctx):\n", &cleanup).replace("import os,", "import os, time,");
        project.write("jobs/a.py", &job);
        project.write(".pinrailignore", ".user\nserver.log\nnotes\ngo\nwaits\n");
        let _server = up(&project);
        let (one, other) = (Worker::start(&project, "one", &[]), Worker::start(&project, "other", &[]));
        start(&project);
        let (mut away, idle) = by_work(one, other);
        let session = away.session(&project);
        away.signal(if killed { "-KILL" } else { "-STOP" });
        wait_until("the other one cleans up", || waits.exists() && idle.seen(&project).unwrap()["used"] == 1);
        if killed {
            away = Worker::start(&project, &away.name, &[]);
        } else {
            away.signal("-CONT");
        }
        wait_until("it joins anew", || away.session(&project) != session && away.seen(&project).is_some());
        std::fs::write(&go, "").unwrap();
        let run = project.wait_for_end();
        let attempts = task(&run, "a")["attempts"].as_array().unwrap();
        let states: Vec<_> = attempts.iter().map(|attempt| attempt["state"].clone()).collect();
        assert_eq!(states, [json!("lost"), json!("succeeded")], "{run}");
        assert_eq!(phases(&attempts[0]).last().unwrap(), "cleanup succeeded", "{run}");
        assert_eq!(noted(&notes), ["execute 1", "cleanup 1 by setup", "execute 2", "cleanup 2 by setup"]);
    }
}

#[test]
fn what_a_worker_says_that_was_frozen_with_all_its_processes_comes_too_late() {
    let (project, notes) = staying("");
    let go = project.path().join("go");
    let waits = format!(
        "while not os.path.exists({go:?}): time.sleep(0.02)
            with open({notes:?}, 'a') as notes:
                notes.write('returns 1\\n')"
    );
    let job = std::fs::read_to_string(project.path().join("jobs/a.py")).unwrap();
    let job = job.replace("subprocess.run(['sleep', '600'])", &waits).replace("import os,", "import os, time,");
    project.write("jobs/a.py", &job);
    project.write(".pinrailignore", ".user\nserver.log\nnotes\ngo\n");
    let _server = up(&project);
    let worker = Worker::start(&project, "one", &[]);
    start(&project);
    wait_until("the job runs", || noted(&notes) == ["execute 1"]);
    let session = worker.session(&project);
    let all: Vec<u32> = below(worker.child.id()).into_iter().map(|(pid, _)| pid).collect();
    worker.signal("-STOP");
    send("-STOP", &all);
    let _other = Worker::start(&project, "other", &[]);
    let run = project.wait_for_end();
    let (launcher, jobs): (Vec<u32>, Vec<u32>) = all.iter().partition(|pid| **pid == worker.launcher());
    // Its process comes to its end before anybody can keep it from that.
    std::fs::write(&go, "").unwrap();
    send("-CONT", &jobs);
    wait_until("its execute returns", || noted(&notes).iter().any(|line| line == "returns 1"));
    worker.signal("-CONT");
    send("-CONT", &launcher);
    wait_until("it joins anew", || worker.session(&project) != session && worker.seen(&project).is_some());
    assert!(!jobs.iter().any(|pid| alive(*pid)), "processes of its former session live");
    let now = project.last_run();
    for run in [run, now] {
        let job = task(&run, "a");
        let states: Vec<_> = job["attempts"].as_array().unwrap().iter().map(|a| a["state"].clone()).collect();
        assert_eq!(states, [json!("lost"), json!("succeeded")], "{run}");
        assert_eq!(job["outputs"], json!({"number": 2}), "{run}");
    }
    let expected = ["execute 1", "cleanup 1 by setup", "execute 2", "cleanup 2 by setup", "returns 1"];
    assert_eq!(noted(&notes), expected);
}

#[test]
fn a_killed_launcher_of_a_worker_takes_its_processes_along_and_is_replaced() {
    let project = escaping("time.sleep(600)");
    let _server = project.up_at("127.0.0.1:0", &["--slots", "0", "--worker-lease", "3600"]);
    let worker = Worker::start(&project, "one", &[]);
    start(&project);
    let escaped = pid_in(&project, "escaped");
    sigkill(worker.launcher());
    let run = project.wait_for_end();
    assert_eq!(run["state"], "succeeded", "{run}");
    let attempts = task(&run, "a")["attempts"].as_array().unwrap();
    assert_eq!((&attempts[0]["state"], &attempts[0]["fault"]), (&json!("lost"), &json!("platform")), "{run}");
    assert!(!alive(escaped), "what had escaped is found by its attempt");
    assert_eq!(places(&project, "a", 2)[0], "one");
}

#[test]
fn a_worker_killed_together_with_its_launcher_ends_what_had_escaped_when_it_is_started_again() {
    let project = escaping("time.sleep(600)");
    let _server = project.up_at("127.0.0.1:0", &["--slots", "0", "--worker-lease", "3600"]);
    let worker = Worker::start(&project, "one", &[]);
    start(&project);
    let escaped = pid_in(&project, "escaped");
    worker.signal("-STOP");
    sigkill(worker.launcher());
    drop(worker);
    let _again = Worker::start(&project, "one", &[]);
    let run = project.wait_for_end();
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(task(&run, "a")["attempts"][0]["state"], "lost", "{run}");
    assert!(!alive(escaped), "what had escaped is found by its attempt");
}

/// A worker that may be told where to die, a run, a drain; then another worker for what is left.
fn tell(project: &Project, die_at: Option<&str>, log: Option<&std::path::Path>, next: &str) -> Value {
    project.write(".pinrailignore", ".user\nserver.log\n");
    let _server = up(project);
    assert_eq!(project.run_with(&["secret", "set", "key"], SECRET).code, Some(0));
    let die = die_at.map(|at| ("PINRAIL_DIE_AT", at.into()));
    let environment: Vec<_> = die.into_iter().chain(log.map(|log| ("PINRAIL_STEPS", log.into()))).collect();
    let mut worker = Worker::spawn(project, &project.url(), "one", &[], &environment);
    let ran = project.run(&["run", "w", "--at", "2013-01-01", "--detach"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    // A drain goes best with something to finish.
    let early = die_at.is_some_and(|at| at.starts_with("work.draining"));
    wait_until("the run is over, or its worker", || {
        worker.is_over()
            || is_over(&project.last_run())
            || early && worker.seen(project).is_some_and(|seen| seen["used"] == 1)
    });
    if !worker.is_over() {
        worker.signal("-TERM");
    }
    assert_eq!(worker.ended().is_none(), die_at.is_some(), "{die_at:?}");
    let _next = Worker::start(project, next, &[]);
    project.wait_for_end()
}

#[test]
fn a_worker_that_dies_at_any_step_loses_nothing_and_doubles_nothing() {
    let logged = tempfile::tempdir().unwrap();
    let log = logged.path().join("steps");
    let counter = Counter::start();
    successes(&tell(&story(&counter), None, Some(&log), "other"), "no death");
    let passed = std::fs::read_to_string(&log).unwrap();
    let passed: Vec<&str> = passed.lines().collect();
    let mut expected = Vec::new();
    for step in steps().into_iter().filter(|step| step.starts_with("work.")) {
        let times = passed.iter().filter(|name| **name == step).count();
        assert!(times > 0, "step {step} is never reached");
        // The first passing, and one in the middle; how often a worker says something differs from run to run.
        for at in BTreeSet::from([1, times.div_ceil(2)]) {
            // Somebody starts it again, or another one is there.
            for next in ["one", "other"] {
                let die_at = format!("{step}:{at}");
                eprintln!("a death at {die_at}, then {next}");
                let project = story(&counter);
                let run = tell(&project, Some(&die_at), None, next);
                successes(&run, &die_at);
                if cfg!(feature = "lake") {
                    expected.push(Expected::new(project, &[run], &die_at));
                }
            }
        }
    }
    counter.heard_no_execution_twice("deaths of a worker at each step");
    tables_are_right(&expected);
}

#[test]
fn a_drained_worker_finishes_what_it_has_and_ends() {
    let project = Project::new(&[
        (
            "workflows/w.py",
            "workflow = {template(name='a', shell=['sh', '-c', 'while [ ! -e GO ]; do sleep 0.05; done']): []}",
        ),
        (".pinrailignore", ".user\nserver.log\ngo\n"),
    ]);
    let go = project.path().join("go");
    let text = std::fs::read_to_string(project.path().join("workflows/w.py")).unwrap();
    project.write("workflows/w.py", &text.replace("GO", go.to_str().unwrap()));
    let _server = up(&project);
    for by_signal in [false, true] {
        let _ = std::fs::remove_file(&go);
        let mut worker = Worker::start(&project, "one", &[]);
        start(&project);
        let first = project.last_run()["id"].as_str().unwrap().to_owned();
        wait_until("the job runs", || worker.seen(&project).unwrap()["used"] == 1);
        if by_signal {
            worker.signal("-TERM");
        } else {
            assert_eq!(project.run(&["workers", "drain", "one"]).code, Some(0));
        }
        wait_until("it is draining", || worker.seen(&project).is_some_and(|seen| seen["state"] == "draining"));
        // What comes now is for others.
        assert_eq!(project.run(&["submit", "--detach", "--", "true"]).code, Some(0));
        std::fs::write(&go, "").unwrap();
        assert_eq!(worker.ended(), Some(0));
        assert_eq!(project.run(&["show", &first, "--json"]).json()["state"], "succeeded");
        let why = project.run(&["explain"]).out;
        assert!(why.contains("waits for a worker: none takes jobs"), "{why}");
        assert!(why.contains("next        pinrail work"), "{why}");
        let mut next = Worker::start(&project, "next", &[]);
        assert_eq!(project.wait_for_end()["state"], "succeeded");
        next.signal("-TERM");
        assert_eq!(next.ended(), Some(0));
    }
    assert_eq!(project.run(&["workers", "drain", "nobody"]).code, Some(4));
}

#[test]
fn a_second_signal_ends_a_worker_at_once() {
    let (project, _) = staying("");
    // A lease that nobody would wait for.
    let _server = project.up_at("127.0.0.1:0", &["--slots", "0", "--worker-lease", "3600"]);
    let mut worker = Worker::start(&project, "one", &[]);
    start(&project);
    wait_until("the job runs", || !worker.jobs().is_empty());
    let job = worker.jobs()[0];
    worker.signal("-TERM");
    wait_until("it is draining", || worker.seen(&project).is_some_and(|seen| seen["state"] == "draining"));
    worker.signal("-TERM");
    assert_eq!(worker.ended(), Some(0));
    assert!(!alive(job));
    let _next = Worker::start(&project, "next", &[]);
    let run = project.wait_for_end();
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(task(&run, "a")["attempts"][0]["state"], "lost");
}

#[test]
fn workers_go_on_with_a_server_that_was_killed_and_started_again() {
    let (project, notes) = staying("");
    let address = address();
    // A lease that nobody would wait for.
    let arguments = ["--slots", "0", "--worker-lease", "3600"];
    let server = project.up_at(&address, &arguments);
    let worker = Worker::start(&project, "one", &[]);
    start(&project);
    wait_until("the job runs", || !worker.jobs().is_empty());
    let (job, session) = (worker.jobs()[0], worker.session(&project));
    server.kill();
    assert!(alive(job), "a worker waits for its server as long as its lease lasts");
    let _server = project.up_at(&address, &arguments);
    let run = project.wait_for_end();
    assert_eq!(run["state"], "succeeded", "{run}");
    assert!(!alive(job));
    assert_ne!(worker.session(&project), session);
    assert_eq!(noted(&notes), ["execute 1", "cleanup 1 by setup", "execute 2", "cleanup 2 by setup"]);
}

#[test]
fn a_worker_without_its_server_ends_its_processes_when_its_lease_has_run_out() {
    let (project, _) = staying("");
    let server = up(&project);
    let worker = Worker::start(&project, "one", &[]);
    start(&project);
    wait_until("the job runs", || !worker.jobs().is_empty());
    let job = worker.jobs()[0];
    server.kill();
    wait_until("the process is gone", || !alive(job));
}

#[test]
fn a_cancelled_job_ends_at_its_worker() {
    let (project, _) = staying("");
    let _server = up(&project);
    let worker = Worker::start(&project, "one", &[]);
    start(&project);
    wait_until("the job runs", || !worker.jobs().is_empty());
    let job = worker.jobs()[0];
    assert_eq!(project.run(&["cancel"]).code, Some(0));
    let run = project.wait_for_end();
    assert_eq!(run["state"], "cancelled", "{run}");
    assert!(!alive(job));
    assert_eq!(phases(&task(&run, "a")["attempts"][0]).last().unwrap(), "cleanup succeeded");
}

#[test]
fn a_token_of_a_worker_is_good_for_nothing_else() {
    let project = Project::new(&[(".pinrailignore", ".user\nserver.log\n")]);
    let _server = up(&project);
    let token = project.run(&["token", "create", "--role", "worker"]).out;
    let url = project.url();
    let refused = project.run(&["runs", "--url", &url, "--token", token.trim()]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.err.contains("this needs the role \"viewer\"; the token has \"worker\""), "{refused:?}");
    let refused = project.run(&["token", "create", "--role", "worker", "--for", "demo"]);
    assert!(refused.err.contains("a worker's token is not for one project"), "{refused:?}");
    let viewer = project.run(&["token", "create", "--role", "developer"]).out;
    let refused = project.run(&["work", "--url", &url, "--token", viewer.trim(), "--name", "x"]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.err.contains("this needs the role \"worker\""), "{refused:?}");
}

#[test]
fn broken_connections_lose_nothing_and_double_nothing() {
    let job = "
import time

class Counts:
    def execute(self, ctx):
        for number in range(300):
            ctx.log('line %d' % number)
            time.sleep(0.02)
        ctx.output('end', number)
";
    let project = Project::new(&[
        ("workflows/w.py", "workflow = {template(name='a', class_='jobs.a.Counts'): []}"),
        ("jobs/a.py", job),
        (".pinrailignore", ".user\nserver.log\n"),
    ]);
    let _server = project.up_at("127.0.0.1:0", &["--slots", "0", "--worker-lease", "3600"]);
    let between = Cut::before(&project.url());
    let _worker = Worker::start_by(&project, &between.address, "one", &[]);
    start(&project);
    // Each time after something has come through.
    let mut lines = 0;
    for _ in 0..10 {
        between.cut();
        wait_until("more lines come", || {
            let now = project.log("a").lines().count();
            std::mem::replace(&mut lines, now) < now
        });
    }
    let run = project.wait_for_end();
    assert_eq!(run["state"], "succeeded", "{run}");
    let attempts = task(&run, "a")["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 1, "{run}");
    let log = project.log("a");
    let lines: Vec<&str> = log.lines().filter(|line| line.starts_with("line ")).collect();
    let wanted: Vec<String> = (0..300).map(|number| format!("line {number}")).collect();
    assert_eq!(lines, wanted);
}

#[cfg(feature = "lake")]
#[test]
fn rows_of_a_job_whose_worker_was_killed_are_there_once() {
    let job = "
import subprocess

def a(ctx):
    ctx.sql('insert into raw.seen values (1)')
    if ctx.attempt.number == 1:
        subprocess.run(['sleep', '600'])
";
    let project = Project::new(&[
        ("workflows/w.py", "workflow = {template(name='a', class_='jobs.a.a'): []}"),
        ("jobs/a.py", job),
        (".pinrailignore", ".user\nserver.log\n"),
    ]);
    let _server = up(&project);
    assert_eq!(project.run(&["sql", "create table raw.seen as select 0 as n"]).code, Some(0));
    let (one, other) = (Worker::start(&project, "one", &[]), Worker::start(&project, "other", &[]));
    start(&project);
    let (working, _idle) = by_work(one, other);
    sigkill(working.child.id());
    let run = project.wait_for_end();
    assert_eq!(run["state"], "succeeded", "{run}");
    let found = project.run(&["sql", "select n from raw.seen order by n", "--json"]).json();
    assert_eq!(found["rows"], json!([[0], [1]]));
}
