//! The figures of scheduling, each the median of its repeats. What a server does is timed from outside; what needs jobs that cost nothing is timed by
//! `crates/pinrail-service/benches/orchestration.rs`, which runs the same service on the same store in one process.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Figure, RUNS, Server, conclude, figure, now};
use crate::demo::copy;
use crate::run::{cargo, root};

/// Requests of each kind to the list of a million runs, of which the median counts.
const PAGES: usize = 21;
/// Runs of 10,000 waiting tasks.
const WAITING_RUNS: usize = 20;

/// What is measured with.
struct Bench {
    binary: PathBuf,
    inside: PathBuf,
    folder: PathBuf,
}

type Measure = fn(&Bench) -> Result<Vec<Figure>>;

const MEASURES: &[(&str, Measure)] = &[
    ("transitions", transitions),
    ("large", large),
    ("page", page),
    ("start", start),
    ("backfill", backfill),
    ("storm", storm),
    ("waiting", waiting),
    ("resume", resume),
    ("lost", lost),
    ("simulate", simulate),
    ("year", year),
];

pub fn orchestration(options: &[&str]) -> Result<()> {
    let (mut built, mut only) = ((None, None), None);
    for option in options.chunks(2) {
        match option {
            ["--binary", path] => built.0 = Some(std::fs::canonicalize(path)?),
            ["--inside", path] => built.1 = Some(std::fs::canonicalize(path)?),
            ["--only", names] => only = Some(names.split(',').collect::<Vec<_>>()),
            other => {
                bail!("unknown option {other:?}: there are `--only NAME,...`, `--binary PATH` and `--inside PATH`")
            }
        }
    }
    let unknown = |name: &&&str| !MEASURES.iter().any(|(known, _)| known == *name);
    if let Some(name) = only.iter().flatten().find(unknown) {
        let known: Vec<&str> = MEASURES.iter().map(|(name, _)| *name).collect();
        bail!("no measurement {name:?}: there are {}", known.join(", "));
    }
    let (binary, inside) = match built {
        (Some(binary), Some(inside)) => (binary, inside),
        (None, None) => build()?,
        _ => bail!("--binary and --inside go together"),
    };
    let bench = Bench { binary, inside, folder: root().join("target/bench-orchestration") };
    let mut figures = Vec::new();
    for (name, measure) in MEASURES {
        if only.as_ref().is_none_or(|only| only.contains(name)) {
            println!("xtask: measuring {name}");
            figures.extend(measure(&bench)?);
        }
    }
    conclude(
        "median of three",
        &figures,
        &bench.binary,
        &["built without the SQL engine, which plays no part in this".to_owned()],
    )
}

/// The server without its SQL engine, and what measures inside a process.
fn build() -> Result<(PathBuf, PathBuf)> {
    let packages = ["-p", "pinrail", "-p", "pinrail-service", "--bin", "pinrail", "--bench", "orchestration"];
    let mut build = cargo(&["build", "--no-default-features", "--profile", "bench", "--message-format", "json"]);
    build.args(packages).env("CARGO_TARGET_DIR", root().join("target-bench")).stderr(Stdio::inherit());
    println!("xtask: release build");
    let output = build.output().context("cargo cannot be run")?;
    ensure!(output.status.success(), "the release build failed");
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let made: Vec<(Value, PathBuf)> = messages
        .filter_map(|message| Some((message["target"]["name"].clone(), message["executable"].as_str()?.into())))
        .collect();
    let find = |name: &str| {
        let found = made.iter().find(|(target, _)| target == name).map(|(_, path)| path.clone());
        found.with_context(|| format!("the build made no {name:?}"))
    };
    Ok((find("pinrail")?, find("orchestration")?))
}

impl Bench {
    /// An empty folder.
    fn empty(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join(name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// The project, copied to where no server has been.
    fn project(&self, name: &str) -> Result<PathBuf> {
        let folder = self.empty(name)?;
        copy(&root().join("bench/orchestration/project"), &folder)?;
        Ok(folder)
    }

    /// What one measurement inside a process prints.
    fn inside(&self, words: &[&str]) -> Result<Value> {
        let output = Command::new(&self.inside).args(words).stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "the measurement {words:?} failed");
        serde_json::from_slice(&output.stdout).with_context(|| format!("the measurement {words:?} printed no JSON"))
    }

    /// Measures inside a process as often as counts, each time in an empty folder.
    fn inside_often(&self, name: &str, numbers: &[&str]) -> Result<Vec<Value>> {
        let once = |_| {
            let folder = self.empty(name)?;
            let mut words = vec![name, path(&folder)];
            words.extend(numbers);
            self.inside(&words)
        };
        (0..RUNS).map(once).collect()
    }

    fn up(&self, project: &Path, options: &[&str]) -> Result<Server> {
        Server::start_with(&self.binary, project, Path::new("python3"), options)
    }

    fn deploy(&self, project: &Path) -> Result<()> {
        let mut deploy = Command::new(&self.binary);
        deploy.arg("deploy").current_dir(project).stdout(Stdio::null());
        ensure!(deploy.status()?.success(), "deploy failed");
        Ok(())
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// The median of one of the numbers of several measurements.
fn median_of(measured: &[Value], name: &str) -> f64 {
    median(measured.iter().map(|one| number(&one[name])).collect())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn transitions(bench: &Bench) -> Result<Vec<Figure>> {
    // The measurement repeats itself, and gives the median.
    let measured = bench.inside(&["transitions", path(&bench.empty("transitions")?), "20", "500"])?;
    let mut figure = figure("state transitions, 20 runs of 500 jobs", "/s", number(&measured["per_second"]), 10_000.0);
    figure.at_least = true;
    figure.notes.push(format!("{:.0} jobs a second, each with 7 legal moves", number(&measured["tasks_per_second"])));
    Ok(vec![figure])
}

fn large(bench: &Bench) -> Result<Vec<Figure>> {
    let project = bench.project("large")?;
    let server = bench.up(&project, &[])?;
    let (mut took, mut run_took) = (Vec::new(), Vec::new());
    // Another workflow each time, so that nothing is known of it.
    for round in 0..RUNS {
        let workflows = project.join("workflows");
        std::fs::remove_dir_all(&workflows)?;
        std::fs::create_dir(&workflows)?;
        let name = format!("large_{round}");
        std::fs::copy(root().join("bench/orchestration/large.py"), workflows.join(format!("{name}.py")))?;
        let started = now();
        bench.deploy(&project)?;
        let shown = server.api.get("/projects/bench/workflows")?;
        took.push(started.elapsed().as_secs_f64());
        ensure!(shown["items"].as_array().is_some_and(|items| items.iter().any(|item| item["name"] == name.as_str())));
        let started = now();
        let body = json!({"workflow": name, "at": "2013-01-01"});
        let run = server.api.post("/projects/bench/runs", &name, &body)?;
        let id = run["id"].as_str().unwrap_or_default();
        let tasks = server.api.get(&format!("/runs/{id}"))?["tasks"].as_array().map_or(0, Vec::len);
        run_took.push(started.elapsed().as_secs_f64());
        ensure!(tasks == 10_000, "the run has {tasks} tasks");
        server.api.post(&format!("/runs/{id}/cancel"), &format!("{name}-end"), &json!({}))?;
        server.ended(id)?;
    }
    let mut figure = figure("10,000 jobs compiled, deployed and listed", "s", median(took), 2.0);
    figure.notes.push(format!("a run of it made and shown with all its tasks: {:.3} s", median(run_took)));
    Ok(vec![figure])
}

fn page(bench: &Bench) -> Result<Vec<Figure>> {
    let project = filled(bench, "page", "fill-runs", "1000000")?;
    let server = bench.up(&project, &[])?;
    let deep = {
        let mut next = String::new();
        for _ in 0..20 {
            let cursor = if next.is_empty() { String::new() } else { format!("&cursor={next}") };
            let page = server.api.get(&format!("/runs?limit=500{cursor}"))?;
            next = page["next"].as_str().context("the list ends")?.to_owned();
        }
        format!("/runs?cursor={next}")
    };
    let kinds = [
        ("newest", "/runs".to_owned()),
        ("of a project", "/runs?project=bench".to_owned()),
        ("of a workflow", "/runs?project=bench&workflow=w042".to_owned()),
        ("failed", "/runs?project=bench&state=failed".to_owned()),
        ("of a workflow, failed", "/runs?project=bench&workflow=w040&state=failed".to_owned()),
        ("10,000 runs back", deep),
    ];
    let mut slowest = 0.0_f64;
    let mut notes = Vec::new();
    for (kind, path) in kinds {
        let mut times = Vec::with_capacity(PAGES);
        for _ in 0..PAGES {
            let started = now();
            let page = server.api.get(&path)?;
            times.push(started.elapsed().as_secs_f64() * 1e3);
            let found = page["items"].as_array().map_or(0, Vec::len);
            ensure!(found == 50, "{path} gave {found} runs");
        }
        times.sort_by(f64::total_cmp);
        notes.push(format!("{kind}: median {:.1} ms, slowest {:.1} ms", times[PAGES / 2], times[PAGES - 1]));
        slowest = slowest.max(times[PAGES / 2]);
    }
    let figure = figure("a page of runs out of 1,000,000, slowest kind", "ms", slowest, 20.0);
    Ok(vec![Figure { notes, ..figure }])
}

/// A project whose state was filled before its first server.
fn filled(bench: &Bench, name: &str, what: &str, number: &str) -> Result<PathBuf> {
    let project = bench.project(name)?;
    let state = project.join(".pinrail");
    std::fs::create_dir(&state)?;
    bench.inside(&[what, path(&state), number])?;
    Ok(project)
}

fn start(bench: &Bench) -> Result<Vec<Figure>> {
    let project = filled(bench, "start", "fill-workflows", "100000")?;
    let mut took = Vec::new();
    let mut megabytes = 0.0;
    for _ in 0..RUNS {
        let started = now();
        let server = bench.up(&project, &[])?;
        took.push(started.elapsed().as_secs_f64());
        megabytes = server.resident_megabytes()?;
    }
    let mut figure = figure("start with 100,000 scheduled workflows", "s", median(took), 3.0);
    figure.notes.push(format!("resident memory then: {megabytes:.0} MB"));
    Ok(vec![figure])
}

fn backfill(bench: &Bench) -> Result<Vec<Figure>> {
    let measured = bench.inside_often("backfill", &["10000"])?;
    let mut listed =
        figure("10,000 backfill runs accepted and listed", "s", median_of(&measured, "listed_seconds"), 1.0);
    listed.notes.push(format!(
        "accepted after {:.3} s, all with rows of their own after {:.3} s",
        median_of(&measured, "accepted_seconds"),
        median_of(&measured, "made_seconds")
    ));
    let p99 = median_of(&measured, "other_p99_seconds") * 1e3;
    let mut jitter = figure("start of other runs meanwhile, p99", "ms", p99, 100.0);
    jitter.notes.push(format!("median {:.1} ms", median_of(&measured, "other_p50_seconds") * 1e3));
    Ok(vec![listed, jitter])
}

fn storm(bench: &Bench) -> Result<Vec<Figure>> {
    let measured = bench.inside_often("storm", &["10000"])?;
    let last = median_of(&measured, "last_seconds");
    let mut storm = figure("10,000 schedules due at once, the last job begun", "s", last, 1.0);
    storm.notes.push(format!("half of them after {:.3} s", median_of(&measured, "p50_seconds")));
    let few = bench.inside_often("storm", &["100"])?;
    let p99 = median_of(&few, "p99_seconds") * 1e3;
    Ok(vec![storm, figure("start of 100 schedules due at once, p99", "ms", p99, 100.0)])
}

fn waiting(bench: &Bench) -> Result<Vec<Figure>> {
    let project = bench.project("waiting")?;
    let server = bench.up(&project, &["--slots", "1"])?;
    bench.deploy(&project)?;
    let begin = |number: usize| -> Result<()> {
        let body = json!({"workflow": "gate", "at": format!("2013-01-{:02}", number + 1)});
        server.api.post("/projects/bench/runs", &format!("gate-{number}"), &body).map(|_| ())
    };
    // The first one brings all that is needed once.
    begin(0)?;
    let before = server.resident_megabytes()?;
    for number in 1..=WAITING_RUNS {
        begin(number)?;
    }
    let bytes = (server.resident_megabytes()? - before) * 1e6 / (WAITING_RUNS * 10_000) as f64;
    Ok(vec![figure("memory of a waiting task, of 200,000", "B", bytes, 1000.0)])
}

/// A run of the long job, with its job at work.
fn long_run(server: &Server, day: usize) -> Result<String> {
    let body = json!({"workflow": "long", "at": format!("2013-01-{:02}", day + 1)});
    let run = server.api.post("/projects/bench/runs", &format!("long-{day}"), &body)?;
    let id = run["id"].as_str().context("no run")?.to_owned();
    wait_until(&server.api, &id, |attempts| execute_is(&attempts[0], "running"))?;
    Ok(id)
}

/// Whether the job's own command is at work in an attempt, or was when the attempt was lost.
fn execute_is(attempt: &Value, state: &str) -> bool {
    let phases = attempt["phases"].as_array();
    phases.is_some_and(|phases| phases.iter().any(|phase| phase["name"] == "execute" && phase["state"] == state))
}

/// Looks at the attempts of a run's one task every few milliseconds.
fn wait_until(api: &crate::api::Api, run: &str, seen: impl Fn(&Value) -> bool) -> Result<()> {
    let started = now();
    loop {
        let found = api.get(&format!("/runs/{run}"))?;
        if seen(&found["tasks"][0]["attempts"]) {
            return Ok(());
        }
        ensure!(started.elapsed() < Duration::from_secs(60), "waited in vain; the run is {found}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn resume(bench: &Bench) -> Result<Vec<Figure>> {
    let project = bench.project("resume")?;
    let mut server = bench.up(&project, &[])?;
    bench.deploy(&project)?;
    let (mut took, mut again) = (Vec::new(), Vec::new());
    for day in 0..RUNS {
        let run = long_run(&server, day)?;
        let killed = now();
        // Dropped, it is killed.
        drop(server);
        server = bench.up(&project, &[])?;
        again.push(killed.elapsed().as_secs_f64());
        wait_until(&server.api, &run, |attempts| execute_is(&attempts[1], "running"))?;
        took.push(killed.elapsed().as_secs_f64());
        server.api.post(&format!("/runs/{run}/cancel"), &format!("end-{day}"), &json!({}))?;
        server.ended(&run)?;
    }
    let mut figure = figure("killed server to resumed run", "s", median(took), 2.0);
    figure.notes.push(format!("the next server is ready after {:.3} s", median(again)));
    Ok(vec![figure])
}

/// A worker that is killed at the end.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        // It is ours, and what it did is not wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn lost(bench: &Bench) -> Result<Vec<Figure>> {
    let project = bench.project("lost")?;
    let server = bench.up(&project, &["--slots", "0"])?;
    bench.deploy(&project)?;
    let body = json!({"name": "measured", "role": "worker"});
    let token = server.api.post("/tokens", "worker", &body)?;
    let file = bench.empty("lost-worker")?.join("token");
    std::fs::write(&file, token["token"].as_str().context("no token")?)?;
    let mut found = Vec::new();
    for day in 0..RUNS {
        // A folder of its own: one that comes back into its own tells of the loss at once.
        let folder = bench.empty(&format!("lost-worker-{day}"))?;
        let name = format!("worker-{day}");
        let mut work = Command::new(&bench.binary);
        work.args(["work", "--url", &server.url, "--name", &name, "--slots", "1", "--token-file", path(&file)]);
        work.arg("--folder").arg(&folder).stdout(Stdio::null()).stderr(Stdio::null());
        let worker = Worker(work.spawn()?);
        let run = long_run(&server, day)?;
        // The lease runs from its last word, of which there is one every five seconds.
        std::thread::sleep(Duration::from_secs(2 * day as u64) + Duration::from_millis(500));
        let killed = now();
        drop(worker);
        // The attempt itself ends once it is cleaned up, for which there is no worker.
        wait_until(&server.api, &run, |attempts| execute_is(&attempts[0], "lost"))?;
        found.push(killed.elapsed().as_secs_f64());
        server.api.post(&format!("/runs/{run}/cancel"), &format!("lost-{day}"), &json!({}))?;
    }
    let slowest = found.iter().copied().fold(0.0, f64::max);
    let mut figure = figure("killed worker found lost, slowest of three", "s", slowest, 15.0);
    figure.notes.push(format!("quickest {:.3} s", found.iter().copied().fold(f64::INFINITY, f64::min)));
    Ok(vec![figure])
}

/// Workflows, jobs of each, and hours between two runs: about 400,000 jobs a day each.
const SHAPES: [[&str; 3]; 3] = [["400", "100", "2"], ["1700", "10", "1"], ["40", "1000", "2"]];

fn simulate(bench: &Bench) -> Result<Vec<Figure>> {
    let (mut slowest, mut notes) = (0.0_f64, Vec::new());
    for shape in SHAPES {
        let measured = bench.inside_often("simulate", &shape)?;
        let (took, jobs) = (median_of(&measured, "seconds"), median_of(&measured, "jobs_a_day"));
        let [workflows, each, hours] = shape;
        notes.push(format!("{workflows} workflows of {each} jobs every {hours} h, {jobs:.0} jobs a day: {took:.1} s"));
        slowest = slowest.max(took);
    }
    let figure = figure("7 days of 400,000 jobs simulated, slowest shape", "s", slowest, 60.0);
    Ok(vec![Figure { notes, ..figure }])
}

/// The days of the demonstration's data.
const YEAR: [&str; 2] = ["2013-01-01", "2013-12-31"];
const DAYS: usize = 365;

/// A backfill of one job for each day of the year, which has no limit of its own.
fn year(bench: &Bench) -> Result<Vec<Figure>> {
    let project = bench.empty("year")?;
    copy(&root().join("examples/flights"), &project)?;
    let server = bench.up(&project, &[])?;
    let mut asked = Command::new(&bench.binary);
    let asked = asked.args(["sql", "select 1"]).current_dir(&project).output()?;
    if !asked.status.success() {
        let why = String::from_utf8_lossy(&asked.stderr);
        println!("xtask: `year` is left out: name a binary with the SQL engine with --binary ({})", why.trim());
        return Ok(Vec::new());
    }
    let fetched = Command::new("python3").arg("data/fetch.py").current_dir(&project).stdout(Stdio::null()).status()?;
    ensure!(fetched.success(), "the data could not be fetched");
    bench.deploy(&project)?;
    let body = json!({"workflow": "flights", "at": YEAR[0], "jobs": "load"});
    let load = server.api.post("/projects/flights/runs", "load", &body)?;
    let ended = server.ended(load["id"].as_str().context("no run")?)?;
    ensure!(ended["state"] == "succeeded", "loading the data ended as {}", ended["state"]);
    let cores = std::thread::available_parallelism()?.get();
    let mut per_core = Vec::new();
    for round in 0..RUNS {
        let wanted = json!({
            "workflow": "flights", "jobs": "daily_delays", "from": YEAR[0], "to": YEAR[1], "redo": true,
            "concurrency": 2 * cores,
        });
        let started = now();
        let made = server.api.post("/projects/flights/backfills", &format!("year-{round}"), &wanted)?;
        let path = format!("/backfills/{}", made["id"].as_str().context("no backfill")?);
        let over = loop {
            let seen = server.api.get(&path)?;
            if seen["state"] != "running" {
                break seen;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let took = started.elapsed().as_secs_f64();
        ensure!(over["succeeded"] == DAYS, "not all days succeeded: {over}");
        per_core.push(DAYS as f64 / took / cores as f64);
    }
    let mut figure = figure("365 daily flight runs, of each core", "/s", median(per_core), 0.0);
    figure.at_least = true;
    figure.notes.push(format!("on {cores} cores"));
    Ok(vec![figure])
}
