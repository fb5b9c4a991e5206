//! `cargo xtask demo`: the main story over real data, played by the real binary and compared with the raw files.
//!
//! Everything happens in `target/demo`; nothing is taken on trust: each step says what must be true and fails if not.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::api::{Api, Event};
use crate::python;
use crate::run::{Step, cargo, root};

/// The days that are run: one as it should be, the other one with a broken file and a killed server.
const GOOD_DAY: &str = "2013-01-01";
const BAD_DAY: &str = "2013-01-02";
/// Lines that are left of the broken file.
const BROKEN_LINES: usize = 113;
/// Both ends of the year whose days are computed anew, and of the month that workers look at meanwhile.
const YEAR: [&str; 2] = ["2013-01-01", "2013-12-31"];
const MONTH: [&str; 2] = ["2013-06-01", "2013-06-30"];
const DAYS_OF_YEAR: usize = 365;
const DAYS_OF_MONTH: usize = 30;
/// Every job of the workflow, and every table that it writes.
const JOBS: usize = 5;
const TABLES: usize = 7;
/// How often a condition is looked at, and for how long.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
const LONGEST_WAIT: u32 = 60_000 / 5;

/// What `cargo xtask demo` may be given.
#[derive(Default)]
struct Options {
    /// Leave the server up at the end.
    keep: bool,
    /// Change one row before the comparison, which must then fail.
    plant_error: bool,
    /// Play it with this binary instead of building one.
    binary: Option<PathBuf>,
}

impl Options {
    fn parse(words: &[&str]) -> Result<Self> {
        let mut options = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "--keep" => options.keep = true,
                "--plant-error" => options.plant_error = true,
                "--binary" => {
                    let path = words.next().context("--binary needs the path of a pinrail binary")?;
                    options.binary = Some(Path::new(path).canonicalize().with_context(|| format!("no \"{path}\""))?);
                }
                other => bail!("unknown option \"{other}\": there are --keep, --plant-error and --binary PATH"),
            }
        }
        Ok(options)
    }
}

/// Plays the demonstration. An error means that something was not as it must be.
pub fn demo(words: &[&str]) -> Result<()> {
    let options = Options::parse(words)?;
    println!("The main story of pinrail over real data: 336,776 flights that left New York in 2013.");
    println!(
        "Needed are Rust, a C compiler and Python; the crates and the data are fetched. All of it stays in target/"
    );
    println!("and in the user's cache folder.");
    let mut times = Times::default();
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => times.take("build the binary", build)?,
    };
    let mut story = times.take("set up the project and fetch its data", || Story::begin(binary, options.keep))?;
    times.take("start a server, deploy", || story.deploy())?;
    let first = times.take("run a day over REST, watch its events", || story.run_over_rest())?;
    times.take("a job alone, on an executor of choice", || story.one_job())?;
    let second = times.take("a broken file, and why", || story.broken_file())?;
    times.take("repair it, kill the server in the middle", || story.kill_and_recover(&second))?;
    times.take("count what was published", || story.count_snapshots(&[&first, &second]))?;
    times.take("every day of the year again, and lose a worker", || story.year_and_lost_worker())?;
    if options.plant_error {
        story.plant_error()?;
    }
    times.take("compare every cell with the raw files", || story.compare())?;
    story.results(&first)?;
    times.tell();
    story.end()
}

/// Steps with how long they took.
#[derive(Default)]
struct Times(Vec<(&'static str, Duration)>);

impl Times {
    #[allow(clippy::disallowed_methods, reason = "how long a step takes is told, not decided upon")]
    fn take<T>(&mut self, name: &'static str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("\n{}. {name}", self.0.len() + 1);
        let start = Instant::now();
        let done = step().with_context(|| format!("step {} of the demonstration, \"{name}\"", self.0.len() + 1))?;
        self.0.push((name, start.elapsed()));
        Ok(done)
    }

    fn tell(&self) {
        println!("\nHow long each step took:");
        for (name, took) in &self.0 {
            println!("  {name:<44}{:>7.1} s", took.as_secs_f64());
        }
        let whole: Duration = self.0.iter().map(|(_, took)| *took).sum();
        println!("  {:<44}{:>7.1} s", "together", whole.as_secs_f64());
    }
}

/// The binary with everything in it. The whole workspace is built, as the tests build it, so that nothing is built twice.
fn build() -> Result<PathBuf> {
    Step::new("build").run(cargo(&["build", "--workspace"]))?;
    Ok(python::binary())
}

/// A project that is set up, and the server over it.
struct Story {
    binary: PathBuf,
    project: PathBuf,
    server: Option<Server>,
    keep: bool,
}

struct Server {
    api: Api,
    pid: u64,
}

impl Story {
    /// A fresh copy of the example with its data.
    fn begin(binary: PathBuf, keep: bool) -> Result<Self> {
        let project = root().join("target/demo/flights");
        let story = Self { binary, project, server: None, keep };
        if story.project.exists() {
            // A server that an earlier demonstration has left up.
            let _ = story.pinrail(&["down"]).output()?;
            std::fs::remove_dir_all(&story.project)?;
        }
        copy(&root().join("examples/flights"), &story.project)?;
        println!("  examples/flights is copied to {}", story.project.display());
        let mut fetch = Command::new("python3");
        fetch.arg("data/fetch.py").current_dir(&story.project);
        expect(&mut fetch, 0)?;
        Ok(story)
    }

    /// A command of the binary, in the project.
    fn pinrail(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).current_dir(&self.project);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PINRAIL_")) {
            command.env_remove(name);
        }
        command
    }

    /// A command as a user types it, shown with what it prints.
    fn typed(&self, arguments: &[&str], status: i32) -> Result<String> {
        let words: Vec<String> = arguments.iter().map(|word| quoted(word)).collect();
        println!("  $ pinrail {}", words.join(" "));
        let output = self.pinrail(arguments).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        for line in text.lines() {
            println!("    {line}");
        }
        ensure!(output.status.code() == Some(status), "it ended with {}, not with {status}", output.status);
        Ok(text)
    }

    /// A command whose answer is for us.
    fn asked(&self, arguments: &[&str]) -> Result<Value> {
        let output = expect_output(self.pinrail(arguments).arg("--json"))?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn api(&self) -> Result<&Api> {
        self.server.as_ref().map(|server| &server.api).context("no server is up")
    }

    fn up(&mut self) -> Result<()> {
        let ready = self.asked(&["up", "--detach", "--listen", "127.0.0.1:0"])?;
        let url = ready["url"].as_str().context("the server names no URL")?;
        let token = std::fs::read_to_string(self.project.join(".pinrail/admin.token"))?;
        println!("  $ pinrail up --detach\n    ready at {url}");
        let pid = ready["pid"].as_u64().context("the server names no process")?;
        self.server = Some(Server { api: Api::new(url, &token), pid });
        Ok(())
    }

    fn deploy(&mut self) -> Result<()> {
        self.up()?;
        self.typed(&["deploy"], 0).map(drop)
    }

    /// Submits the deployed workflow as any program would, twice by mistake, and watches it.
    fn run_over_rest(&self) -> Result<String> {
        let api = self.api()?;
        let body = json!({"workflow": "flights", "at": GOOD_DAY});
        let key = format!("demo-{GOOD_DAY}");
        println!("  POST /api/v1/projects/flights/runs {body}");
        let run = api.post("/projects/flights/runs", &key, &body)?;
        let id = run["id"].as_str().context("the run has no id")?.to_owned();
        let again = api.post("/projects/flights/runs", &key, &body)?;
        ensure!(again["id"] == *id, "the same idempotency key did not find run {id}: {again}");
        println!("  GET /api/v1/runs/{id}/events");
        api.follow(&id, 0, |event| Ok(tell(event)))?;
        self.expect_success(&id)?;
        Ok(id)
    }

    fn expect_success(&self, id: &str) -> Result<Value> {
        let run = self.api()?.get(&format!("/runs/{id}"))?;
        ensure!(run["state"] == "succeeded", "run {id} is {}, not succeeded", run["state"]);
        let good = run["tasks"].as_array().into_iter().flatten().filter(|task| task["state"] == "succeeded").count();
        ensure!(good == JOBS, "{good} of {JOBS} jobs succeeded");
        Ok(run)
    }

    /// The report once more, in a process that starts cold.
    fn one_job(&self) -> Result<()> {
        self.typed(&["submit", "jobs.report.DelayReport", "--at", GOOD_DAY, "--executor", "shell"], 0)?;
        let run = self.asked(&["show"])?;
        let executor = &run["tasks"][0]["attempts"][0]["executor"];
        ensure!(executor == "shell", "the job ran on {executor}");
        Ok(())
    }

    /// Cuts the largest file off and runs: the load must fail as the data's fault and change nothing.
    fn broken_file(&self) -> Result<String> {
        let file = self.project.join("data/flights.csv");
        let whole = std::fs::read(&file)?;
        std::fs::write(self.project.join("flights.whole"), &whole)?;
        let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').take(BROKEN_LINES).collect();
        std::fs::write(&file, lines.concat())?;
        println!("  data/flights.csv is cut off after {BROKEN_LINES} lines");
        let before = self.snapshots()?;
        self.typed(&["run", "flights", "--at", BAD_DAY, "--deployed"], 1)?;
        let why = self.typed(&["explain"], 0)?;
        for said in ["load failed in complete", "fault data", "check \"enough flights\" failed: 112 rows", "next"] {
            ensure!(why.contains(said), "explain does not say \"{said}\"");
        }
        ensure!(self.snapshots()? == before, "a job that failed has changed a table");
        println!("  all {} tables are as they were", before.len());
        let run = self.asked(&["show"])?;
        expect_cleanup(&run["tasks"][0]["attempts"][0])?;
        Ok(run["id"].as_str().context("the run has no id")?.to_owned())
    }

    /// Repairs the file, retries, kills the server while the load is writing tables, and starts another one.
    fn kill_and_recover(&mut self, id: &str) -> Result<()> {
        std::fs::rename(self.project.join("flights.whole"), self.project.join("data/flights.csv"))?;
        println!("  data/flights.csv is whole again");
        self.typed(&["retry", id, "--detach"], 0)?;
        let mut attempt = String::new();
        let mut last = 0;
        self.api()?.follow(id, 0, |event| {
            last = event.id;
            let second = event.kind == "attempt-started" && event.data["number"] == 2;
            if second {
                event.data["attempt"].as_str().unwrap_or_default().clone_into(&mut attempt);
            }
            Ok(!second)
        })?;
        ensure!(!attempt.is_empty(), "the retry has started no attempt");
        let warehouse = self.project.join(".pinrail/warehouse/flights");
        wait_until("the load writes tables", || has_staged(&warehouse, &attempt))?;
        let server = self.server.take().context("no server is up")?;
        // Every shell has a kill of its own; not every machine has the program.
        expect(Command::new("sh").args(["-c", &format!("kill -KILL {}", server.pid)]), 0)?;
        println!("  load writes its tables, and the server (process {}) gets SIGKILL", server.pid);
        // The kernel takes a moment to end a large process; its lock goes last.
        let lock = std::fs::File::open(self.project.join(".pinrail/lock"))?;
        wait_until("the killed server is gone", || lock.try_lock_shared().is_ok())?;
        drop(lock);
        self.up()?;
        self.api()?.follow(id, last, |event| Ok(tell(event)))?;
        let run = self.expect_success(id)?;
        let load = run["tasks"].as_array().into_iter().flatten().find(|task| task["name"] == "load");
        let attempts: Vec<&Value> = load.and_then(|load| load["attempts"].as_array()).into_iter().flatten().collect();
        let ends: Vec<&Value> = attempts.iter().map(|attempt| &attempt["state"]).collect();
        ensure!(ends == ["failed", "lost", "succeeded"], "the attempts of load ended as {ends:?}");
        for attempt in attempts {
            expect_cleanup(attempt)?;
        }
        println!("  load failed by its data, was lost with the server, and then succeeded; all three were cleaned up");
        Ok(())
    }

    /// The ids of the runs that published each table's snapshots, from the tables' own metadata.
    fn snapshots(&self) -> Result<Vec<(String, Vec<String>)>> {
        let tables = self.api()?.get("/projects/flights/tables")?;
        let mut found = Vec::new();
        for table in tables["items"].as_array().into_iter().flatten() {
            let location = table["location"].as_str().unwrap_or_default().trim_start_matches("file://");
            let metadata: Value = serde_json::from_slice(&std::fs::read(location)?)?;
            let mut runs: Vec<String> = metadata["snapshots"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|snapshot| snapshot["summary"]["pinrail.run-id"].as_str().unwrap_or("nobody").to_owned())
                .collect();
            runs.sort();
            found.push((table["table"].as_str().unwrap_or_default().to_owned(), runs));
        }
        Ok(found)
    }

    /// Each of the runs has published each table exactly once, however often its jobs were tried.
    fn count_snapshots(&self, runs: &[&str]) -> Result<()> {
        let found = self.snapshots()?;
        ensure!(found.len() == TABLES, "there are {} tables, expected {TABLES}", found.len());
        let mut expected: Vec<String> = runs.iter().map(|run| (*run).to_owned()).collect();
        expected.sort();
        for (table, snapshots) in &found {
            ensure!(*snapshots == expected, "{table} was published by {snapshots:?}, expected {expected:?}");
        }
        println!("  {TABLES} tables, each with exactly one snapshot of each of the {} runs", runs.len());
        Ok(())
    }

    /// Computes all days of the year in the engine while two workers look at those of a month; one of the workers is killed
    /// at its work.
    fn year_and_lost_worker(&self) -> Result<()> {
        let mut doomed = Worker::start(self, "alpha")?;
        let _other = Worker::start(self, "beta")?;
        let names =
            || -> Result<usize> { Ok(self.items(&["workers"])?.iter().filter(|w| w["name"].is_string()).count()) };
        wait_until("both workers are there", || names().is_ok_and(|count| count == 2))?;
        self.typed(&["workers"], 0)?;
        let year = self.backfill("daily_delays", YEAR)?;
        let month = self.backfill("quality", MONTH)?;
        let mut lost = None;
        wait_until("worker alpha is at work", || {
            lost = self.at_work(&month, "alpha").ok().flatten();
            lost.is_some()
        })?;
        let lost = lost.context("no run is at work at alpha")?;
        self.typed(&["explain", &lost], 0)?;
        doomed.kill()?;
        println!("  worker alpha (process {}) gets SIGKILL", doomed.0.id());
        let queued = self.items(&["runs", "--backfill", &year, "--in", "queued", "--limit", "500"])?;
        // The newest day goes first, so that this one has longest to wait.
        if let Some(id) = queued.last().and_then(|run| run["id"].as_str()) {
            self.typed(&["explain", id], 0)?;
        }
        for (id, days) in [(&year, DAYS_OF_YEAR), (&month, DAYS_OF_MONTH)] {
            wait_until("the backfill is over", || {
                self.asked(&["backfills", id]).is_ok_and(|b| b["state"] != "running")
            })?;
            let runs = self.items(&["runs", "--backfill", id, "--in", "succeeded", "--limit", "500"])?;
            ensure!(runs.len() == days, "{} of {days} runs of backfill {id} succeeded", runs.len());
        }
        self.typed(&["backfills"], 0)?;
        let run = self.asked(&["show", &lost])?;
        let attempts: Vec<&Value> = run["tasks"][0]["attempts"].as_array().into_iter().flatten().collect();
        let ends: Vec<&Value> = attempts.iter().map(|attempt| &attempt["state"]).collect();
        ensure!(ends == ["lost", "succeeded"], "the attempts of {lost} ended as {ends:?}");
        self.typed(&["show", &lost], 0)?;
        self.typed(&["explain", &lost, "--slow"], 0)?;
        let days = self.asked(&["sql", "select count(distinct day) as days from marts.daily_delays"])?;
        ensure!(days["rows"][0][0] == DAYS_OF_YEAR, "marts.daily_delays has not each day once: {days}");
        Ok(())
    }

    /// Begins a backfill of one job for all days between two, also those that are done; gives its id.
    fn backfill(&self, job: &str, [from, to]: [&str; 2]) -> Result<String> {
        let what = ["backfill", "flights", "--job", job, "--from", from, "--to", to, "--redo"];
        self.typed(&[&what[..], &["--dry-run"]].concat(), 0)?;
        let words: Vec<String> = what[..8].iter().map(|word| quoted(word)).collect();
        println!("  $ pinrail {} --redo --detach", words.join(" "));
        let begun = self.asked(&[&what[..], &["--detach"]].concat())?;
        Ok(begun["id"].as_str().context("the backfill has no id")?.to_owned())
    }

    /// A run of a backfill that a worker is executing.
    fn at_work(&self, backfill: &str, worker: &str) -> Result<Option<String>> {
        for run in self.items(&["runs", "--backfill", backfill, "--in", "running"])? {
            let id = run["id"].as_str().context("the run has no id")?;
            let said = self.items(&["explain", id])?;
            if said.iter().any(|said| said["worker"] == worker && said["position"] == "executing") {
                return Ok(Some(id.to_owned()));
            }
        }
        Ok(None)
    }

    fn items(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        match self.asked(arguments)?["items"].take() {
            Value::Array(items) => Ok(items),
            other => bail!("{arguments:?} gave {other}, no items"),
        }
    }

    /// Makes one value wrong by one minute.
    fn plant_error(&self) -> Result<()> {
        println!("\nA wrong row is planted; the comparison must find it.");
        let wrong = format!(
            "insert overwrite marts.daily_delays select carrier, flights, cancelled, late, \
             worst_delay + case when carrier = 'UA' then 1 else 0 end, mean_delay, day \
             from marts.daily_delays where day = '{GOOD_DAY}'"
        );
        self.asked(&["sql", &wrong]).map(drop)
    }

    /// Compares all tables with what Python computes from the raw files.
    fn compare(&self) -> Result<()> {
        let mut check = Command::new("python3");
        check.args(["check.py", &YEAR.join("..")]).current_dir(&self.project).env("PINRAIL_BIN", &self.binary);
        check.env_remove("PINRAIL_STATE");
        let status = check.status().context("python3 cannot be run")?;
        ensure!(status.success(), "the tables are not what the raw files say");
        Ok(())
    }

    /// What came out, for people.
    fn results(&self, run: &str) -> Result<()> {
        let page = self.project.join("report.html");
        std::fs::write(&page, self.api()?.bytes(&format!("/runs/{run}/files/report/report.html"))?)?;
        println!("\nWhat came out ({GOOD_DAY}; the page with the plot is {}):", page.display());
        self.typed(
            &[
                "sql",
                "select name, flights, cancelled, late, mean_delay from marts.daily_delays join raw.airlines \
                 using (carrier) where day = '2013-01-01' order by mean_delay desc limit 5",
            ],
            0,
        )?;
        self.typed(
            &[
                "sql",
                "select weather, sum(flights) as flights, sum(late) as late from marts.weather_effect \
                 group by weather order by 2 desc",
            ],
            0,
        )?;
        self.typed(&["tables"], 0).map(drop)
    }

    /// Says how to go on, and leaves.
    fn end(mut self) -> Result<()> {
        let (binary, folder) = (self.binary.display(), self.project.display());
        println!("\nTo go on by hand:\n  cd {folder}\n  alias pinrail={binary}");
        if self.keep {
            println!("  pinrail runs                     the server is still up; pinrail down stops it");
        } else {
            println!("  pinrail up --detach              pinrail down stops it");
            println!("  pinrail runs");
        }
        println!("  pinrail run flights --at 2013-06-14");
        println!("  pinrail logs flights@{BAD_DAY} --job quality");
        println!("  pinrail sql \"select * from marts.weather_effect order by mean_delay desc limit 5\"");
        if !self.keep {
            self.stop()?;
        }
        self.server = None;
        println!("\nEverything was right.");
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        self.server = None;
        expect_output(&mut self.pinrail(&["down"])).map(drop)
    }
}

/// A process that takes jobs from the server.
struct Worker(Child);

impl Worker {
    fn start(story: &Story, name: &str) -> Result<Self> {
        let folder = root().join("target/demo").join(name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700))?;
        let token = expect_output(&mut story.pinrail(&["token", "create", "--name", name, "--role", "worker"]))?;
        let (file, log) = (folder.join("token"), std::fs::File::create(folder.join("log"))?);
        std::fs::write(&file, token.stdout)?;
        let url = story.api()?.url();
        let mut work = story.pinrail(&["work", "--url", &url, "--name", name, "--slots", "2"]);
        work.arg("--folder").arg(&folder).arg("--token-file").arg(&file);
        let child = work.stdout(log.try_clone()?).stderr(log).stdin(Stdio::null()).spawn()?;
        println!("  $ pinrail work --url {url} --name {name} --slots 2 --folder ... --token-file ...");
        Ok(Self(child))
    }

    fn kill(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // One that was killed before has gone; the other one has nothing to do any more.
        let _ = self.kill();
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        // The story ended early. What it did is left to be looked at; its server need not stay for that.
        if self.server.is_some() {
            let _ = self.stop();
        }
    }
}

/// Tells of an event that means something to people. Always true: there is more to come.
fn tell(event: &Event) -> bool {
    let (job, data) = (&event.job, &event.data);
    let word = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
    let line = match event.kind.as_str() {
        "attempt-started" => format!("{job:<16}attempt {} on {}", data["number"], word("executor")),
        "attempt-failed" => format!("{job:<16}fault {}: {}", word("fault"), word("message")),
        "task-backoff" => format!("{job:<16}waits for its next attempt"),
        "task-ended" => format!("{job:<16}{}", word("state")),
        "run-ended" => format!("{:<16}{}", "the run", word("state")),
        _ => return true,
    };
    println!("    {line}");
    true
}

/// Whatever became of an attempt, its cleanup must have run to its end.
fn expect_cleanup(attempt: &Value) -> Result<()> {
    let cleanup = attempt["phases"].as_array().into_iter().flatten().find(|phase| phase["name"] == "cleanup");
    let state = cleanup.map_or(&Value::Null, |cleanup| &cleanup["state"]);
    ensure!(state == "succeeded", "cleanup of attempt {} is {state}", attempt["number"]);
    Ok(())
}

/// Whether an attempt has begun to write data files.
fn has_staged(warehouse: &Path, attempt: &str) -> bool {
    let tables = std::fs::read_dir(warehouse).into_iter().flatten().flatten();
    tables.into_iter().any(|table| table.path().join("data").join(attempt).is_dir())
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    for _ in 0..LONGEST_WAIT {
        if holds() {
            return Ok(());
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    bail!("waited in vain until {what}")
}

/// A word as a shell would need it.
fn quoted(word: &str) -> String {
    if word.contains([' ', '*', '\'']) { format!("\"{word}\"") } else { word.to_owned() }
}

/// Runs a program that must end with a status; what it prints is seen.
fn expect(command: &mut Command, status: i32) -> Result<()> {
    let ended = command.status().with_context(|| format!("{command:?} cannot be run"))?;
    ensure!(ended.code() == Some(status), "{command:?} ended with {ended}");
    Ok(())
}

/// Runs a program that must succeed, for what it prints.
fn expect_output(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("{command:?} cannot be run"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        bail!("{command:?} ended with {}: {said}", output.status);
    }
    Ok(output)
}

/// Copies what a version of the project would hold: neither state nor data nor what Python leaves behind.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let data = from.ends_with("data") && Path::new(&name).extension().is_some_and(|end| end == "csv");
        if name == "__pycache__" || name == ".pinrail" || name == ".pytest_cache" || data {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to.join(name))?;
        } else {
            std::fs::copy(entry.path(), to.join(name))?;
        }
    }
    Ok(())
}
