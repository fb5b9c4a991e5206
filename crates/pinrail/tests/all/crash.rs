//! SIGKILL of the real binary: at every named step, and at random times. The list of steps is collected from the source;
//! a step that is never reached fails the test. What is left is looked at from outside: every run ends, every job has
//! exactly one success, a counter in this process sees no attempt execute twice, and pyiceberg finds each row once
//! and one snapshot for each success.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::support::{Project, Server, repository, wait_until};

/// What a build without the lake cannot reach, and what belongs to stories of their own: a backfill, a schedule, a
/// notice, an environment, a worker, a run of a workflow for a job.
fn reachable(step: &str) -> bool {
    if ["backfill.", "schedule.", "notify.", "environment.", "work.", "sub-run."]
        .iter()
        .any(|part| step.starts_with(part))
    {
        return false;
    }
    cfg!(feature = "lake") || !(step.starts_with("publish.") || step.starts_with("lake."))
}

/// The names in `step!("...")` in the sources of the crates.
pub fn steps() -> BTreeSet<String> {
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
from pinrail import Table

tables = {
    template(name='load', sql='sql/load.sql'): [],
    template(name='more', class_='jobs.a.More', writes=Table('raw.events', mode='append')): ['load'],
    template(name='daily', sql='sql/daily.sql'): ['more'],
}
workflow = {
    template(name='a', class_='jobs.a.A'): [],
    template(name='b', class_='jobs.a.B'): ['a'],
    template(name='c', shell='test $KEY = a-secret', secret_env={'KEY': 'key'}): ['b'],
    **TABLES
}
";

const JOBS: &str = "
import socket
from pinrail import Shell

def seen(ctx, phase):
    with socket.create_connection(('127.0.0.1', PORT)) as counter:
        counter.sendall(f'{ctx.attempt.id} {phase}'.encode())

class A:
    def execute(self, ctx):
        seen(ctx, 'execute')
        ctx.save('note.txt', 'saved')
        return 1
    def complete(self, ctx, result):
        seen(ctx, 'complete')
    def cleanup(self, ctx):
        pass

class B:
    def execute(self, ctx):
        seen(ctx, 'execute')
        return Shell(['true'])
    def complete(self, ctx, result):
        ctx.output('state', result.state)

class More:
    def execute(self, ctx):
        seen(ctx, 'execute')
        ctx.sql('insert into raw.events select day, n + 10 from raw.events where day = {{ ds }} and n = 1')
        ctx.sql('insert into raw.events select day, n + 10 from raw.events where day = {{ ds }} and n = 2')
    def complete(self, ctx, result):
        rows = ctx.sql('select count(*) as n from raw.events where day = {{ ds }}')[0].n
        ctx.check('sees its own rows', rows == 5, detail=f'{rows} rows')
        seen(ctx, 'complete')
";

/// What job c must find; read from standard input by the one command that sets it.
pub const SECRET: &str = "a-secret";
const LOAD: &str = "-- writes: raw.events append\nselect {{ ds }} as day, n from (values (1), (2), (3)) as v(n)";
const DAILY: &str = "-- writes: marts.daily partition (day = {{ ds }})
select count(*) as n, sum(n) as total from raw.events where day = {{ ds }}";
/// What a run adds: rows of `raw.events`, and the row of its partition in `marts.daily`.
const EVENTS: [i64; 5] = [1, 2, 3, 11, 12];

/// Hears which phase of which attempt has run, outside of every process that is killed.
pub struct Counter {
    port: u16,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Counter {
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let hears = Arc::clone(&heard);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut text = String::new();
                // A job that was killed while it spoke said nothing.
                if std::io::Read::read_to_string(&mut stream.unwrap(), &mut text).is_ok() && !text.is_empty() {
                    hears.lock().unwrap().push(text);
                }
            }
        });
        Self { port, heard }
    }

    /// `execute` runs once in an attempt. `complete` is asked again of the attempt whose server died in it.
    pub fn heard_no_execution_twice(&self, at: &str) {
        let heard = self.heard.lock().unwrap();
        let executions: Vec<&String> = heard.iter().filter(|text| text.ends_with(" execute")).collect();
        let different: BTreeSet<&&String> = executions.iter().collect();
        assert_eq!(different.len(), executions.len(), "after {at}: {executions:?}");
        assert!(heard.iter().any(|text| text.ends_with(" complete")));
    }
}

pub fn story(counter: &Counter) -> Project {
    let workflow = WORKFLOW.replace("**TABLES", if cfg!(feature = "lake") { "**tables" } else { "" });
    let jobs = JOBS.replace("PORT", &counter.port.to_string());
    let files =
        [("workflows/w.py", &*workflow), ("jobs/a.py", &*jobs), ("sql/load.sql", LOAD), ("sql/daily.sql", DAILY)];
    Project::new(&files)
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
    let mut retry = |ask: &dyn Fn() -> Option<Value>| {
        for _ in 0..20 {
            live();
            if let Some(answer) = ask() {
                return answer;
            }
        }
        panic!("something never succeeds");
    };
    let succeeds = |arguments: &[&str]| {
        let ran = project.run_with(arguments, SECRET);
        (ran.code == Some(0)).then(|| ran.json())
    };
    retry(&|| succeeds(&["deploy", "--json"]));
    retry(&|| succeeds(&["secret", "set", "key", "--json"]));
    if cfg!(feature = "lake") {
        retry(&|| succeeds(&["sql", "--json", "create table if not exists adhoc.t as select 1 as n"]));
    }
    // A server that dies before it answers may have made the run; with a key the request can be sent again.
    retry(&|| {
        let body = "{\"workflow\": \"w\", \"at\": \"2013-01-01\"}";
        let headers = ["-H", &project.admin(), "-H", "Idempotency-Key: once", "-d", body];
        let (status, run) = project.curl("/api/v1/projects/demo/runs", &headers);
        (status == 201).then_some(run)
    });
    let mut run = Value::Null;
    wait_until("the run ends", || {
        run = retry(&|| succeeds(&["show", "--json"]));
        is_over(&run)
    });
    run
}

pub fn is_over(run: &Value) -> bool {
    matches!(run["state"].as_str(), Some("succeeded" | "failed" | "cancelled"))
}

fn start(project: &Project, environment: &[(&str, &str)]) -> Option<Server> {
    // A server may be told to die before it is ready; the next one is not.
    project.up_or_dead(environment).or_else(|| project.up_or_dead(&[]))
}

/// The attempts that made their tasks succeed, by job.
pub fn successes(run: &Value, at: &str) -> BTreeMap<String, String> {
    assert_eq!(run["state"], "succeeded", "after {at}: {run}");
    let mut found = BTreeMap::new();
    for task in run["tasks"].as_array().unwrap() {
        let attempts = task["attempts"].as_array().unwrap();
        let succeeded: Vec<&Value> = attempts.iter().filter(|attempt| attempt["state"] == "succeeded").collect();
        assert_eq!(succeeded.len(), 1, "after {at}: {task}");
        for attempt in attempts {
            assert_ne!(attempt["state"], "running", "after {at}: {task}");
            assert!(!attempt["cleanup"].is_null(), "after {at}: {task}");
        }
        found.insert(task["name"].as_str().unwrap().to_owned(), succeeded[0]["id"].as_str().unwrap().to_owned());
    }
    found
}

/// What a folder's tables must hold: where they are, and which attempts published them.
pub struct Expected {
    at: String,
    days: BTreeSet<String>,
    /// By table: its metadata, and the attempts whose snapshots it must have.
    tables: BTreeMap<&'static str, (String, BTreeSet<String>)>,
    // Its files must still be there when they are read.
    _project: Project,
}

impl Expected {
    pub fn new(project: Project, runs: &[Value], at: &str) -> Self {
        let found = project.run(&["tables", "--json"]).json();
        let location = |name: &str| {
            let tables = found["items"].as_array().unwrap();
            let table = tables.iter().find(|table| table["table"] == name);
            table.unwrap_or_else(|| panic!("after {at}: {name} is not among {found}"))["location"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        let all: Vec<_> = runs.iter().map(|run| successes(run, at)).collect();
        let of = |jobs: &[&str]| all.iter().flat_map(|run| jobs.iter().map(|job| run[*job].clone())).collect();
        let tables = BTreeMap::from([
            ("raw.events", (location("raw.events"), of(&["load", "more"]))),
            ("marts.daily", (location("marts.daily"), of(&["daily"]))),
        ]);
        let days = runs.iter().map(|run| run["ds"].as_str().unwrap().to_owned()).collect();
        Self { at: at.to_owned(), days, tables, _project: project }
    }
}

/// Reads all tables with an independent reader and compares rows and snapshots.
pub fn tables_are_right(expected: &[Expected]) {
    if expected.is_empty() {
        return;
    }
    let python = std::env::var("PINRAIL_TEST_PYTHON").expect(
        "PINRAIL_TEST_PYTHON must name a Python with pyiceberg and pyarrow: run the tests through `cargo xtask test`",
    );
    let locations: Vec<&String> = expected.iter().flat_map(|one| one.tables.values().map(|(at, _)| at)).collect();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/all/read_tables.py");
    let argument = serde_json::to_string(&locations).unwrap();
    let output = std::process::Command::new(python).arg(script).arg(argument).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: BTreeMap<String, Value> = serde_json::from_slice(&output.stdout).unwrap();
    for one in expected {
        for (name, (location, attempts)) in &one.tables {
            let table = &found[location];
            let snapshots: Vec<&str> = table["snapshots"]
                .as_array()
                .unwrap()
                .iter()
                .map(|s| s["pinrail.attempt-id"].as_str().unwrap())
                .collect();
            let published: BTreeSet<String> = snapshots.iter().map(|id| (*id).to_owned()).collect();
            assert_eq!((&published, snapshots.len()), (attempts, attempts.len()), "{name} after {}: {table}", one.at);
            let mut rows: Vec<(String, i64, i64)> = table["rows"]
                .as_array()
                .unwrap()
                .iter()
                .map(|row| (text(row), row["n"].as_i64().unwrap(), row["total"].as_i64().unwrap_or(0)))
                .collect();
            rows.sort();
            let of_day = |day: &String| match *name {
                "raw.events" => EVENTS.map(|n| (day.clone(), n, 0)).to_vec(),
                _ => vec![(day.clone(), 5, EVENTS.iter().sum())],
            };
            let wanted: Vec<_> = one.days.iter().flat_map(of_day).collect();
            assert_eq!(rows, wanted, "{name} after {}", one.at);
        }
    }
}

fn text(row: &Value) -> String {
    row["day"].as_str().unwrap().to_owned()
}

#[test]
fn a_death_at_any_step_loses_nothing_and_doubles_nothing() {
    let logged = tempfile::tempdir().unwrap();
    let log = logged.path().join("steps");
    let counter = Counter::start();
    successes(&tell(&story(&counter), None, Some(&log)), "no death");
    let passed = std::fs::read_to_string(&log).unwrap();
    let passed: Vec<&str> = passed.lines().collect();
    let mut expected = Vec::new();
    for step in steps().into_iter().filter(|step| reachable(step)) {
        let times = passed.iter().filter(|name| **name == step).count();
        assert!(times > 0, "step {step} is never reached");
        // The first passing, one in the middle, and the last.
        for at in BTreeSet::from([1, times.div_ceil(2), times]) {
            let at = format!("a death at {step}:{at}");
            eprintln!("{at}");
            let project = story(&counter);
            let run = tell(&project, at.strip_prefix("a death at "), None);
            successes(&run, &at);
            let runs = project.run(&["runs", "--json"]).json();
            assert_eq!(runs["items"].as_array().unwrap().len(), 1, "after {at}");
            if cfg!(feature = "lake") {
                expected.push(Expected::new(project, &[run], &at));
            }
        }
    }
    counter.heard_no_execution_twice("deaths at each step");
    tables_are_right(&expected);
}

/// A small generator: the kills of a seed are always the same.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// The first 28 days of each month, so that each number has its own date.
fn day(number: u64) -> String {
    format!("{}-{:02}-{:02}", 2013 + number / 336, 1 + number / 28 % 12, 1 + number % 28)
}

/// Longest time that a server lives, counted from its readiness; a run takes about as long.
const LONGEST_LIFE_MS: u64 = 700;
/// Kills unless `PINRAIL_KILLS` says otherwise.
const KILLS: u64 = 40;

/// A job under which the server died ten times or more in a row is held for somebody to look at; here it is let go on.
fn release(project: &Project, run: &Value) {
    let id = run["id"].as_str().unwrap();
    let run = project.run(&["show", id, "--json"]).json();
    for task in run["tasks"].as_array().unwrap() {
        if task["state"] == "held" {
            let why = task["held"].as_str().unwrap();
            assert!(
                why.starts_with("the server died 1") && why.ends_with(" times in a row while this job ran"),
                "{task}"
            );
            let job = task["name"].as_str().unwrap();
            assert_eq!(project.run(&["retry", id, "--job", job, "--detach"]).code, Some(0));
        }
    }
}

#[test]
fn deaths_at_random_times_lose_nothing_and_double_nothing() {
    let seed = number("PINRAIL_SEED").unwrap_or(u64::from(std::process::id())) | 1;
    let kills = number("PINRAIL_KILLS").unwrap_or(KILLS);
    eprintln!("{kills} kills, seed {seed}: repeat with PINRAIL_SEED={seed} PINRAIL_KILLS={kills}");
    let mut random = Random(seed);
    let counter = Counter::start();
    let project = story(&counter);
    let server = project.up();
    assert_eq!(project.run(&["deploy"]).code, Some(0));
    assert_eq!(project.run_with(&["secret", "set", "key"], SECRET).code, Some(0));
    server.kill();
    for kill in 0..kills {
        let server = project.up();
        let asked = project.run(&["run", "w", "--deployed", "--at", &day(kill), "--detach"]);
        assert_eq!(asked.code, Some(0), "{asked:?}");
        std::thread::sleep(Duration::from_millis(random.below(LONGEST_LIFE_MS)));
        server.kill();
    }
    let _server = project.up();
    let mut runs = Vec::new();
    wait_until("all runs end", || {
        let found = project.run(&["runs", "--limit", "500", "--json"]).json();
        runs = found["items"].as_array().unwrap().clone();
        runs.iter().filter(|run| !is_over(run)).for_each(|run| release(&project, run));
        runs.iter().all(is_over)
    });
    let at = format!("{kills} kills with seed {seed}");
    counter.heard_no_execution_twice(&at);
    let runs: Vec<Value> =
        runs.iter().map(|run| project.run(&["show", run["id"].as_str().unwrap(), "--json"]).json()).collect();
    for run in &runs {
        successes(run, &at);
    }
    eprintln!("{} runs, all succeeded", runs.len());
    if cfg!(feature = "lake") {
        tables_are_right(&[Expected::new(project, &runs, &at)]);
    }
}
