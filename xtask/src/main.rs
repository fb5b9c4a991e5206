//! The project's own tasks: `cargo xtask test`, and its parts.

mod api;
mod bench;
mod checks;
mod demo;
mod python;
mod run;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::run::{Step, cargo};

const HELP: &str = "\
cargo xtask demo      the main story over real data, every cell compared
                      --keep leaves its server up; --binary PATH plays it with another binary;
                      --plant-error changes a row before the comparison, which must then fail
cargo xtask test      everything that is checked before a change lands
cargo xtask lint      formatting, lints, layers, licences
cargo xtask python    the SDK's tests and its strict type check
cargo xtask bench core
                      the promised figures on this machine, from a release build, beside Luigi
cargo xtask bench orchestration [--only NAME,...]
                      those of scheduling, from a release build without the SQL engine: transitions, large, page,
                      start, backfill, storm, waiting, resume, lost
cargo xtask simulate [--cases N] [--seed S] [--case-seed X] [--threads N]
                      plays random cases of a whole shard on a virtual clock (10,000 unless told otherwise) and shows
                      the smallest that breaks a rule; --case-seed plays one again
cargo xtask crash [--kills N] [--seed S]
                      kills the server at random times (200 unless told otherwise) and looks at what is left
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match obey(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn obey(words: &[&str]) -> Result<()> {
    match words {
        ["demo", options @ ..] => demo::demo(options),
        ["test"] => test(),
        ["lint"] => lint(),
        ["python"] => {
            let venv = python::venv()?;
            Step::new("build").run(cargo(&["build", "--workspace"]))?;
            python::test(&venv)
        }
        ["bench", options @ ..] => bench::bench(options),
        ["crash", options @ ..] => crash(options),
        ["simulate", options @ ..] => simulate(options),
        [] | ["--help" | "help"] => {
            print!("{HELP}");
            Ok(())
        }
        other => bail!("unknown task {other:?}\n{HELP}"),
    }
}

/// The test of random deaths with more of them, its output shown.
fn crash(options: &[&str]) -> Result<()> {
    let venv = python::venv()?;
    let mut test = cargo(&["test", "--workspace", "--test", "all", "deaths_at_random_times", "--", "--nocapture"]);
    test.env("PINRAIL_TEST_PYTHON", venv.join("bin/python")).env("PINRAIL_KILLS", "200");
    for option in options.chunks(2) {
        match option {
            ["--kills", number] => test.env("PINRAIL_KILLS", number),
            ["--seed", number] => test.env("PINRAIL_SEED", number),
            other => bail!("unknown option {other:?}\n{HELP}"),
        };
    }
    Step::new("deaths at random times").run(test)
}

/// The test of random cases as a release build, with more of them, its output shown.
fn simulate(options: &[&str]) -> Result<()> {
    let name = "simulation::series::random_cases_break_no_rule";
    let mut test =
        cargo(&["test", "--release", "-p", "pinrail-model", "--test", "all", name, "--", "--exact", "--nocapture"]);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    test.env("PINRAIL_CASES", "10000").env("PINRAIL_THREADS", threads.to_string());
    for option in options.chunks(2) {
        match option {
            ["--cases", number] => test.env("PINRAIL_CASES", number),
            ["--seed", number] => test.env("PINRAIL_SEED", number),
            ["--case-seed", number] => test.env("PINRAIL_CASE_SEED", number),
            ["--threads", number] => test.env("PINRAIL_THREADS", number),
            other => bail!("unknown option {other:?}\n{HELP}"),
        };
    }
    Step::new("random cases").run(test)
}

/// Formatting, layers and licences cost seconds; clippy shares nothing with a build, so it comes once.
fn lint() -> Result<()> {
    Step::new("formatting").run(cargo(&["fmt", "--all", "--check"]))?;
    checks::all()?;
    Step::new("clippy").run(cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

#[allow(clippy::disallowed_methods, reason = "how long the checks take is told, not decided upon")]
fn test() -> Result<()> {
    let start = Instant::now();
    let venv = python::venv()?;
    Step::new("formatting").run(cargo(&["fmt", "--all", "--check"]))?;
    checks::all()?;
    // The binary first: tests from outside run it.
    Step::new("build").run(cargo(&["build", "--workspace"]))?;
    let mut tests = cargo(&["test", "--workspace"]);
    tests.env("PINRAIL_TEST_PYTHON", venv.join("bin/python"));
    Step::new("tests").run(tests)?;
    simulate(&[])?;
    python::test(&venv)?;
    Step::new("clippy").run(cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    println!("xtask: all passed in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}
