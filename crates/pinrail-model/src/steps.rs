//! Named steps: every durable write and every external action passes one, so that tests can kill the real binary before
//! and after each and look from outside at what is left.
//!
//! Unarmed, a step costs one relaxed load. The list of names is collected from the source by the crash test, which fails
//! on a step that is never reached.

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

static ARMED: AtomicBool = AtomicBool::new(false);
static PLAN: OnceLock<Plan> = OnceLock::new();

struct Plan {
    /// `name` to die at, and at which passing of it.
    die_at: Option<(String, u32)>,
    passed: AtomicU32,
    /// Every step that is passed is appended here.
    log: Option<std::fs::File>,
}

/// Arms the steps of this process: to die at one, to log all that are passed, or both. Only the first call counts.
pub fn arm(die_at: Option<(String, u32)>, log: Option<std::fs::File>) {
    if PLAN.set(Plan { die_at, passed: AtomicU32::new(0), log }).is_ok() {
        ARMED.store(true, Ordering::Release);
    }
}

/// Passes a step. Called through [`crate::step!`] only.
pub fn pass(name: &str) {
    if ARMED.load(Ordering::Relaxed) {
        pass_armed(name);
    }
}

#[cold]
fn pass_armed(name: &str) {
    let Some(plan) = PLAN.get() else { return };
    if let Some(mut log) = plan.log.as_ref() {
        // A line that cannot be written would only hide that the step was reached, which the test then reports.
        let _ = writeln!(log, "{name}");
    }
    if let Some((wanted, at)) = &plan.die_at
        && wanted == name
        && plan.passed.fetch_add(1, Ordering::SeqCst) + 1 == *at
    {
        std::process::abort();
    }
}

/// A point at which a test may kill the process.
#[macro_export]
macro_rules! step {
    ($name:literal) => {
        $crate::steps::pass($name)
    };
}
