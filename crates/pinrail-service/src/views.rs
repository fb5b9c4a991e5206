//! What the API shows of runs: the shapes that scripts rely on.

use pinrail_model::run::{Attempt, Run, Task};
use pinrail_model::seam::store::{StoredRun, attempt_fault, attempt_state};
use serde_json::{Value, json};

/// A run as the API gives it.
#[must_use]
pub fn run(stored: &StoredRun) -> Value {
    let run = &stored.run;
    let tasks: Vec<Value> = stored.tasks.iter().map(task).collect();
    let mut view = head(run, &stored.state);
    view["tasks"] = tasks.into();
    view
}

/// A run without its tasks, for lists.
#[must_use]
pub fn run_line(stored: &StoredRun) -> Value {
    head(&stored.run, &stored.state)
}

fn head(run: &Run, state: &str) -> Value {
    json!({
        "id": run.id,
        "project": run.project,
        "workflow": run.workflow,
        "state": state,
        "class": run.class,
        "cause": run.cause,
        "ds": pinrail_model::schedule::zone(&run.tz).ok().map(|tz| pinrail_model::schedule::ds(run.interval, tz)),
        "interval": run.interval,
        "params": run.params,
        "bundle": run.bundle,
        "version": run.version,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "stop": run.stop,
    })
}

fn task(task: &Task) -> Value {
    json!({
        "name": task.job,
        "state": task.state_name(),
        "generation": task.generation,
        "held": task.held,
        "backoff_until": task.backoff_until,
        "outputs": task.outputs,
        "bundle": task.bundle,
        "attempts": task.attempts.iter().map(|a| attempt(a)).collect::<Vec<_>>(),
    })
}

/// An attempt as the API gives it.
#[must_use]
pub fn attempt(attempt: &Attempt) -> Value {
    let phases: Vec<Value> = attempt
        .phases
        .iter()
        .map(|p| json!({"name": p.name, "state": p.state, "started_at": p.started_at, "ended_at": p.ended_at}))
        .collect();
    json!({
        "id": attempt.id,
        "number": attempt.number,
        "generation": attempt.generation,
        "state": attempt_state(attempt),
        "fault": attempt_fault(attempt),
        "executor": attempt.executor,
        "started_at": attempt.started_at,
        "ended_at": attempt.ended_at,
        "phases": phases,
        "cleanup": attempt.cleanup,
    })
}
