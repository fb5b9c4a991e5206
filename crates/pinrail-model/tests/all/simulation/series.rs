//! Many cases, or one that failed: `cargo xtask simulate` plays them in a release build.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use super::case::{Case, LEAST_FAULTS, LEAST_TASKS};
use super::checks::Coverage;
use super::seed_of;
use super::shrink::shrink;
use super::world::{Broken, play};

/// The last lines of a failing case that are shown.
const MOST_LINES: usize = 200;
/// Cases that are played unless told otherwise: what an unoptimised build plays in seconds. `cargo xtask test` has a
/// release build play [`ALL_MOVES`].
const CASES: u64 = 100;
/// So many cases reach every legal move.
const ALL_MOVES: u64 = 10_000;

struct Options {
    cases: u64,
    seed: u64,
    case_seed: Option<u64>,
    threads: u64,
}

#[derive(Default)]
struct Sum {
    coverage: Coverage,
    tasks: u64,
    instances: u64,
    least_tasks: usize,
    least_faults: usize,
    runs: u64,
    attempts: u64,
    events: u64,
    faults: u64,
}

/// A number from outside: what `cargo xtask simulate` was told.
fn told(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[test]
fn random_cases_break_no_rule() {
    let options = Options {
        cases: told("PINRAIL_CASES").unwrap_or(CASES),
        seed: told("PINRAIL_SEED").unwrap_or(1),
        case_seed: told("PINRAIL_CASE_SEED"),
        threads: told("PINRAIL_THREADS").unwrap_or(1),
    };
    match options.case_seed {
        Some(seed) => one(seed),
        None => many(&options),
    }
}

#[test]
fn a_seed_gives_one_history() {
    for number in 0..5 {
        let case = Case::new(seed_of(7, number));
        let digest = || play(&case, false).map(|outcome| outcome.digest).map_err(|broken| broken.rule);
        assert_eq!(digest(), digest());
    }
}

#[allow(clippy::disallowed_methods, reason = "how long it took is told, not decided upon")]
fn many(options: &Options) {
    let start = Instant::now();
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let (sum, failure) =
        (Mutex::new(Sum { least_tasks: usize::MAX, least_faults: usize::MAX, ..Sum::default() }), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                let mut own = Sum { least_tasks: usize::MAX, least_faults: usize::MAX, ..Sum::default() };
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= options.cases {
                        break;
                    }
                    let seed = seed_of(options.seed, number);
                    let case = Case::new(seed);
                    match play(&case, false) {
                        Ok(outcome) => {
                            own.coverage.add(&outcome.coverage);
                            own.tasks += outcome.tasks as u64;
                            own.instances += outcome.instances as u64;
                            own.least_tasks = own.least_tasks.min(case.tasks());
                            own.least_faults = own.least_faults.min(case.faults());
                            own.runs += outcome.runs as u64;
                            own.attempts += outcome.attempts as u64;
                            own.events += outcome.events;
                            own.faults += case.faults() as u64;
                        }
                        Err(broken) => {
                            stop.store(true, Ordering::Relaxed);
                            *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some((number, seed, broken));
                        }
                    }
                }
                let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                sum.coverage.add(&own.coverage);
                sum.least_tasks = sum.least_tasks.min(own.least_tasks);
                sum.least_faults = sum.least_faults.min(own.least_faults);
                sum.tasks += own.tasks;
                sum.instances += own.instances;
                sum.runs += own.runs;
                sum.attempts += own.attempts;
                sum.events += own.events;
                sum.faults += own.faults;
            });
        }
    });
    if let Some((number, seed, broken)) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        println!("after {:.1} s:", start.elapsed().as_secs_f64());
        println!("case {number} of series {} breaks a rule: {}", options.seed, broken.rule);
        return one(seed);
    }
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    let seconds = start.elapsed().as_secs_f64();
    let each = |count: u64| count as f64 / options.cases.max(1) as f64;
    println!("{} cases of series {} in {seconds:.1} s: every rule held", options.cases, options.seed);
    println!(
        "a case has {:.0} tasks (at least {} asked for, {:.1} are instances), {:.1} runs, {:.0} attempts, {:.0} events, {:.1} faults",
        each(sum.tasks),
        sum.least_tasks,
        each(sum.instances),
        each(sum.runs),
        each(sum.attempts),
        each(sum.events),
        each(sum.faults)
    );
    tell(&sum.coverage);
    assert!(sum.least_tasks >= LEAST_TASKS && sum.least_faults >= LEAST_FAULTS);
    assert!(sum.instances > options.cases || options.cases < CASES, "no job is mapped");
    if options.cases >= ALL_MOVES {
        assert_eq!(sum.coverage.missing(), [], "legal moves that no case makes");
    }
}

fn tell(coverage: &Coverage) {
    let missing = coverage.missing();
    let all = pinrail_model::run::EDGES.len();
    println!("legal moves of a task reached: {} of {all}", all - missing.len());
    for edge in pinrail_model::run::EDGES {
        let times = coverage.edges.get(&(edge.from, edge.to)).copied().unwrap_or(0);
        println!("  {times:>12}  {:<10} → {:<10}  {}", edge.from.name(), edge.to.name(), edge.why);
    }
    println!("kinds of event met at a position: {}", coverage.events.len());
}

/// Plays one case, and if it breaks a rule, the smallest that does.
fn one(seed: u64) {
    let case = Case::new(seed);
    let Err(broken) = play(&case, false) else {
        println!("case {seed}: every rule held");
        return;
    };
    println!("case {seed}: {}", broken.rule);
    // Each of the smaller cases may panic too.
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let small = shrink(&case);
    std::panic::set_hook(told);
    let broken = play(&small, true).err().unwrap_or(Broken { rule: String::new(), trace: Vec::new() });
    println!("\nthe smallest case that breaks a rule: {}", broken.rule);
    for (ix, workflow) in small.workflows.iter().enumerate() {
        println!("workflow w{ix}, overrun {}, at most {} active", workflow.overrun.name(), workflow.max_active);
        if let Some(schedule) = &workflow.schedule {
            println!(
                "  {:?} {} catch-up {:?} covers {:?}",
                schedule.fires, schedule.tz, schedule.catch_up, schedule.covers
            );
        }
        for (ix, job) in workflow.jobs.iter().enumerate() {
            println!("  j{ix} {job:?}");
        }
    }
    println!("workers {:?}, pools {:?}, quotas {:?}", small.workers, small.pools, small.quotas);
    for deed in &small.deeds {
        println!("{:>9.3}  {:?}", deed.at.as_secs_f64(), deed.what);
    }
    println!();
    let left_out = broken.trace.len().saturating_sub(MOST_LINES);
    if left_out > 0 {
        println!("({left_out} earlier lines are left out)");
    }
    for line in broken.trace.iter().skip(left_out) {
        println!("{line}");
    }
    panic!("a rule is broken: {}\nagain: cargo xtask simulate --case-seed {seed}", broken.rule);
}
