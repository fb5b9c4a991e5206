//! `cargo xtask bench core`: the figures that the project promises, measured on this machine beside a peer; `cargo xtask
//! bench orchestration`: those of scheduling.
//!
//! The server is a release build; each figure is of three runs, the best or the median; the exit status is 1 when one is beyond its
//! limit. Timed from outside: from the request to the answer that the run has ended.

mod orchestration;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::api::Api;
use crate::python;
use crate::run::{Step, cargo, root};

/// What the peer is, pinned.
const PEER: &str = "luigi==3.8.1";
/// Runs of which the best counts.
const RUNS: usize = 3;
/// How long the server is left alone before its idleness is measured, and for how long that is.
const IDLE_BEFORE: Duration = Duration::from_secs(60);
const IDLE_FOR: Duration = Duration::from_secs(20);

/// One line of the result.
struct Figure {
    name: &'static str,
    unit: &'static str,
    ours: f64,
    limit: f64,
    /// The limit is the least that it may be, and not the most.
    at_least: bool,
    /// The peer's figure, with what it is.
    peer: Vec<(&'static str, f64)>,
    /// What else was seen.
    notes: Vec<String>,
}

impl Figure {
    fn is_missed(&self) -> bool {
        // One that is no number is missed as well.
        let kept = if self.at_least { self.ours >= self.limit } else { self.ours <= self.limit };
        !kept
    }
}

pub fn bench(words: &[&str]) -> Result<()> {
    match words {
        ["core"] => core(None),
        ["core", "--binary", path] => {
            core(Some(std::fs::canonicalize(path).with_context(|| format!("no binary at {path}"))?))
        }
        ["orchestration", options @ ..] => orchestration::orchestration(options),
        other => bail!("unknown benchmark {other:?}: there are `core` and `orchestration`"),
    }
}

fn core(binary: Option<PathBuf>) -> Result<()> {
    let binary = binary.map_or_else(build, Ok)?;
    let venv = python::venv_of("target/bench-venv", &[PEER])?;
    let python = venv.join("bin/python");
    let folder = root().join("target/bench");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    let project = folder.join("project");
    crate::demo::copy(&root().join("bench/core/project"), &project)?;
    let mut figures = Vec::new();
    let started = now();
    let server = Server::start(&binary, &project, &python)?;
    figures.push(figure("ready", "s", started.elapsed().as_secs_f64(), 1.0));
    server.deploy(&binary, &project)?;
    for (workflow, name, limit, width) in
        [("chain", "chain of 40 jobs of 10 ms", 0.9, "1"), ("fan_out", "fan-out of 300 no-op jobs", 1.5, "2")]
    {
        let ours = best(|| server.run(workflow))?;
        let peer = workflow.replace('_', "-");
        let in_process = best(|| luigi(&python, &peer, "1"))?;
        let mut figure = figure(name, "s", ours, limit);
        figure.peer.push(("luigi, one process", in_process));
        if width != "1" {
            figure.peer.push(("luigi, a process each", best(|| luigi(&python, &peer, width))?));
        }
        figures.push(figure);
    }
    println!("xtask: leaving the server alone for {} s", (IDLE_BEFORE + IDLE_FOR).as_secs());
    std::thread::sleep(IDLE_BEFORE);
    let before = server.cpu_seconds()?;
    std::thread::sleep(IDLE_FOR);
    let busy = (server.cpu_seconds()? - before) / IDLE_FOR.as_secs_f64() * 100.0;
    figures.push(figure("idle: one core", "%", busy, 0.5));
    figures.push(figure("idle: resident memory", "MB", server.resident_megabytes()?, 100.0));
    figures.push(figure("idle: processes beside server and launcher", "", server.other_processes()?, 0.0));
    let python = String::from_utf8_lossy(&Command::new(&python).arg("--version").output()?.stdout).trim().to_owned();
    conclude("best of three", &figures, &binary, &[python, PEER.to_owned()])
}

/// Shows all figures; an error names those beyond their limits.
fn conclude(what: &str, figures: &[Figure], binary: &Path, versions: &[String]) -> Result<()> {
    tell(what, figures, binary, versions)?;
    let missed: Vec<&str> = figures.iter().filter(|f| f.is_missed()).map(|f| f.name).collect();
    ensure!(missed.is_empty(), "beyond the limit: {}", missed.join(", "));
    Ok(())
}

fn figure(name: &'static str, unit: &'static str, ours: f64, limit: f64) -> Figure {
    Figure { name, unit, ours, limit, at_least: false, peer: Vec::new(), notes: Vec::new() }
}

/// The whole workspace in the profile `bench`, in a target folder of its own that is kept.
fn build() -> Result<PathBuf> {
    let target = root().join("target-bench");
    let mut build = cargo(&["build", "--workspace", "--profile", "bench"]);
    build.env("CARGO_TARGET_DIR", &target);
    Step::new("release build").run(build)?;
    Ok(target.join("release/pinrail"))
}

#[allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn now() -> Instant {
    Instant::now()
}

fn best(mut measure: impl FnMut() -> Result<f64>) -> Result<f64> {
    (0..RUNS).map(|_| measure()).try_fold(f64::INFINITY, |least, one| Ok(least.min(one?)))
}

fn luigi(python: &Path, what: &str, workers: &str) -> Result<f64> {
    let output = Command::new(python).arg(root().join("bench/core/peer_luigi.py")).args([what, workers]).output()?;
    ensure!(output.status.success(), "the peer failed: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().parse().context("the peer printed no number")
}

/// A server that is stopped at the end.
struct Server {
    process: Child,
    url: String,
    api: Api,
    started: std::cell::Cell<u32>,
}

impl Server {
    fn start(binary: &Path, project: &Path, python: &Path) -> Result<Self> {
        Self::start_with(binary, project, python, &[])
    }

    fn start_with(binary: &Path, project: &Path, python: &Path, options: &[&str]) -> Result<Self> {
        let mut command = Command::new(binary);
        command.args(["up", "--listen", "127.0.0.1:0", "--json"]).args(options);
        command.current_dir(project).env("PINRAIL_PYTHON", python);
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let out = process.stdout.take().context("the server has no output")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line).with_context(|| format!("the server said {line:?}"))?;
        let token = std::fs::read_to_string(project.join(".pinrail/admin.token"))?;
        let url = ready["url"].as_str().unwrap_or_default().to_owned();
        let api = Api::new(&url, &token);
        Ok(Self { process, url, api, started: std::cell::Cell::new(0) })
    }

    fn deploy(&self, binary: &Path, project: &Path) -> Result<()> {
        let mut deploy = Command::new(binary);
        deploy.arg("deploy").current_dir(project).stdout(Stdio::null());
        Step::new("deploy").run(deploy)?;
        // The first runs compile, unpack and warm up.
        self.run("chain")?;
        self.run("fan_out").map(|_| ())
    }

    /// Seconds from the request to the answer that the run has ended.
    fn run(&self, workflow: &str) -> Result<f64> {
        let number = self.started.get();
        self.started.set(number + 1);
        let at = format!("2013-01-{:02}", 1 + number);
        let started = now();
        let body = json!({"workflow": workflow, "at": at});
        let run = self.api.post("/projects/bench/runs", &format!("{workflow}-{number}"), &body)?;
        let ended = self.ended(run["id"].as_str().with_context(|| format!("no run: {run}"))?)?;
        ensure!(ended["state"] == "succeeded", "{workflow} ended as {}", ended["state"]);
        Ok(started.elapsed().as_secs_f64())
    }

    /// A run, once it has ended.
    fn ended(&self, id: &str) -> Result<Value> {
        loop {
            let run = self.api.get(&format!("/runs/{id}?wait=60"))?;
            if matches!(run["state"].as_str(), Some("succeeded" | "failed" | "cancelled")) {
                return Ok(run);
            }
        }
    }

    fn status(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.process.id());
        std::fs::read_to_string(&path).with_context(|| format!("{path} cannot be read"))
    }

    /// User and system time of the server's own process.
    fn cpu_seconds(&self) -> Result<f64> {
        let stat = self.status("stat")?;
        let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
        Ok((ticks(11) + ticks(12)) / TICKS_PER_SECOND)
    }

    fn resident_megabytes(&self) -> Result<f64> {
        let status = self.status("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kilobytes * 1024.0 / 1e6)
    }

    /// Descendants of the server but for its launcher.
    fn other_processes(&self) -> Result<f64> {
        let children = |pid: &str| -> Vec<String> {
            let path = format!("/proc/{pid}/task/{pid}/children");
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.split_whitespace().map(str::to_owned).collect()
        };
        let me = self.process.id().to_string();
        let mut tasks = Vec::new();
        for entry in std::fs::read_dir(format!("/proc/{me}/task"))? {
            let path = entry?.path().join("children");
            tasks.extend(std::fs::read_to_string(path)?.split_whitespace().map(str::to_owned));
        }
        let below: usize = tasks.iter().map(|pid| children(pid).len()).sum();
        Ok((tasks.len().saturating_sub(1) + below) as f64)
    }
}

/// The unit of times in `/proc`, the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

impl Drop for Server {
    fn drop(&mut self) {
        // It is ours, and nothing of its state is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn tell(what: &str, figures: &[Figure], binary: &Path, versions: &[String]) -> Result<()> {
    println!("\n{what:<48} {:>9} {:>9}", "ours", "limit");
    for f in figures {
        let verdict = if f.is_missed() { "  MISSED" } else { "" };
        let bound = if f.at_least { " at least" } else { "" };
        println!("{:<48} {:>9.3} {:>9.3} {}{bound}{verdict}", f.name, f.ours, f.limit, f.unit);
        for (peer, theirs) in &f.peer {
            println!("  {peer:<46} {theirs:>9.3}           ours / theirs = {:.2}", f.ours / theirs);
        }
        for note in &f.notes {
            println!("  {note}");
        }
    }
    let version = |command: &mut Command| -> Result<String> {
        Ok(String::from_utf8_lossy(&command.output()?.stdout).trim().to_owned())
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("").trim_start_matches([' ', '\t', ':']);
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let memory = memory.lines().next().unwrap_or_default().trim_start_matches("MemTotal:").trim().to_owned();
    println!("\nhardware: {cores} cores, {model}, {memory}");
    println!("kernel:   {}", version(Command::new("uname").arg("-r"))?);
    println!("versions: {}, {}", version(Command::new(binary).arg("--version"))?, versions.join(", "));
    println!("load:     {}", std::fs::read_to_string("/proc/loadavg")?.trim());
    Ok(())
}
