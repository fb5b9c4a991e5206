//! Runs again what has run, from exactly what it was made of, beside the tables that count.
//!
//! A replay has a target of its own, made for it: what its jobs write goes there, and what they read and it lacks is read
//! as the first run found it. Side effects outside of tables happen again; that is for whoever asks for it to know.
//!
//! Invariants:
//! - a replay changes no table but those of its own target;
//! - nobody is told of what becomes of it, and no run waits for it or is left out because of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pinrail_model::document::{Document, Sha, first_message};
use pinrail_model::ids::{Ids, RunId, fresh};
use pinrail_model::names::{JobName, ProjectName, TargetName};
use pinrail_model::run::{Cause, Class, Ending, Run, Task};
use pinrail_model::seam::lake::PointerSwap;
use pinrail_model::seam::store::{CommandKind, Durability, NewRun, Reply, Store, StoredRun, Transition, Write};
use pinrail_model::select::select;
use pinrail_model::target::{Place, Source, Target};
use serde_json::Value;

use crate::app::{App, is_final, left_out};
use crate::problem::Problem;
use crate::tokens::{Principal, Role};

/// How much of a run's id its replay's target has in its name.
const SUFFIX: usize = 10;
/// What a replay calls the tables of a project without targets.
const ORIGINAL: &str = "original";

impl App {
    /// Runs a run again, or jobs of it.
    ///
    /// # Errors
    /// 409 when it is not over, or when jobs above the selected ones did not succeed in it; 400 when its code is gone.
    pub async fn replay(&self, principal: &Principal, id: RunId, jobs: Option<String>) -> Result<StoredRun, Problem> {
        let stored = self.run(principal, id).await?;
        let run = &stored.run;
        principal.may(Role::Operator, &run.project)?;
        if !is_final(&stored.state) {
            let detail = format!("run {id} is not over, so there is nothing to compare with");
            return Err(
                Problem::new("wrong-state", detail).hint(format!("Wait for it, or end it with `pinrail cancel {id}`."))
            );
        }
        // Its code must not be forgotten before the replay names it.
        let _held = self.bundles.hold().await;
        let jobs = jobs.or_else(|| run.jobs.clone());
        let (document, names) = selected(&stored, jobs.as_deref())?;
        let tasks: Vec<&Task> = stored.tasks.iter().filter(|task| names.contains(&task.job)).collect();
        let (bundle, version) = code_of(run, &tasks);
        self.known_bundle(&run.project, bundle).await.map_err(|problem| {
            problem.hint("The files of the run are no longer kept; run the workflow again instead.")
        })?;
        let outside = match &jobs {
            Some(jobs) => outside(&stored, &document, jobs)?,
            None => run.outside.clone(),
        };
        let new: RunId = fresh(self.ids.as_ref());
        let target = Arc::new(scratch(run, new, &tasks, self.now())?);
        // A target without a run is found and removed by retention; a run without its target could not be looked at.
        self.commit(vec![Write::Scratch { project: run.project.clone(), target: Arc::clone(&target) }]).await?;
        let inputs = self.inputs(&run.project, bundle).await?;
        let made = NewRun {
            id: new,
            project: run.project.clone(),
            target: Some(target),
            workflow: run.workflow.clone(),
            version,
            bundle,
            class: Class::Interactive,
            one_off: matches!(run.cause, Cause::OneOff { .. }),
            job: None,
            interval: run.interval,
            tz: run.tz.clone(),
            params: run.params.clone(),
            param_types: run.param_types.clone(),
            outside,
            executors: run.executors.clone(),
            by: principal.name.clone(),
            jobs,
            unique_key: None,
            notify: None,
            replay_of: Some(id),
        };
        self.command(principal, CommandKind::CreateRun(Box::new(made))).await?;
        self.record_inputs(new, inputs).await?;
        self.run(principal, new).await
    }

    /// Drops the tables that a replay has made; gives how many there were.
    ///
    /// # Errors
    /// 409 when the run is no replay, or is not over.
    pub async fn drop_replay(&self, principal: &Principal, id: RunId) -> Result<usize, Problem> {
        let stored = self.run(principal, id).await?;
        principal.may(Role::Operator, &stored.run.project)?;
        let wrong = |detail: String| Err(Problem::new("wrong-state", detail));
        let Some(target) = stored.run.target.as_ref().filter(|_| stored.run.replay_of.is_some()) else {
            return wrong(format!("run {id} is no replay, and its tables are not dropped"));
        };
        if !is_final(&stored.state) {
            return wrong(format!("run {id} is not over, and still works on its tables"));
        }
        let dropped = drop_scratch(self.store.as_ref(), self.ids.as_ref(), &stored.run.project, target).await;
        dropped.map_err(|message| Problem::new("state-failed", message).hint("Try again."))
    }
}

/// Drops all tables of a replay's target, and the target.
pub(crate) async fn drop_scratch(
    store: &dyn Store,
    ids: &dyn Ids,
    project: &ProjectName,
    target: &Target,
) -> Result<usize, String> {
    // Only what was made for a replay is ever dropped as a whole.
    let (Some(prefix), Some(_)) = (&target.prefix, target.scratch) else {
        return Err(format!("target \"{}\" is not a replay's", target.name));
    };
    let place = Place { project: project.clone(), prefix: Some(prefix.clone()) };
    let pointers = store.list(&place, None).await.map_err(|e| e.to_string())?;
    let gone = |pointer: pinrail_model::seam::lake::Pointer| PointerSwap {
        id: pointer.id,
        table: pointer.table,
        expect: Some(pointer.location),
        new: None,
    };
    let swaps: Vec<PointerSwap> = pointers.into_iter().map(gone).collect();
    let count = swaps.len();
    if count > 0 {
        store.swap(&place, swaps).await.map_err(|e| e.to_string())?;
    }
    let drop = Write::DropScratch { project: project.clone(), name: target.name.clone() };
    let replies = store.commit(vec![Transition::new(fresh(ids), vec![drop])], Durability::Waited).await;
    match replies.map_err(|e| e.to_string())?.first() {
        Some(Reply::Committed) => Ok(count),
        other => Err(format!("the target could not be removed: {other:?}")),
    }
}

/// The document of a run and the jobs that a selection of it means.
fn selected(stored: &StoredRun, jobs: Option<&str>) -> Result<(Document, BTreeSet<JobName>), Problem> {
    let json = stored.documents.get(&stored.run.version).or_else(|| stored.documents.values().next());
    let json = json.ok_or_else(|| Problem::new("bad-document", "the workflow of the run is no longer kept"))?;
    let document = Document::read(json).map_err(|errors| Problem::new("bad-document", first_message(&errors)))?;
    let names = match jobs {
        Some(jobs) => select(&document.jobs, jobs).map_err(|message| Problem::new("job-not-found", message))?,
        None => document.jobs.iter().map(|job| job.name.clone()).collect(),
    };
    Ok((document, names.into_iter().collect()))
}

/// The code that jobs of a run had last, if they had the same; else that of the run.
fn code_of(run: &Run, tasks: &[&Task]) -> (Sha, Sha) {
    let codes: BTreeSet<(Sha, Sha)> = tasks.iter().map(|task| (task.bundle, task.version)).collect();
    match codes.into_iter().collect::<Vec<_>>().as_slice() {
        [one] => *one,
        _ => (run.bundle, run.version),
    }
}

type Outputs = BTreeMap<JobName, BTreeMap<String, Value>>;

/// What the jobs above a selection left in the run itself, or before it where the run left them out as well.
fn outside(stored: &StoredRun, document: &Document, jobs: &str) -> Result<Outputs, Problem> {
    let mut found = Outputs::new();
    for job in left_out(document, jobs)? {
        let task = stored
            .tasks
            .iter()
            .find(|task| task.job == *job && task.instance.is_none() && task.ending == Some(Ending::Succeeded));
        let outputs = task.map(|task| stored.outputs(task)).or_else(|| stored.run.outside.get(job).cloned());
        let Some(outputs) = outputs else {
            let detail = format!("{job} did not succeed in run {}", stored.run.id);
            return Err(Problem::new("parents-missing", detail)
                .hint(format!("Select what is above as well: --job {jobs},+{job}")));
        };
        found.insert(job.clone(), outputs);
    }
    Ok(found)
}

/// The target of a replay: what its run lacks is read from where the first run's tables are, as they were when the first of
/// the jobs had looked.
fn scratch(run: &Run, replay: RunId, tasks: &[&Task], now: pinrail_model::time::Micros) -> Result<Target, Problem> {
    let id = replay.to_string().to_ascii_lowercase();
    let name = format!("replay_{}", &id[id.len().saturating_sub(SUFFIX)..]);
    let bad = |e: pinrail_model::names::BadName| Problem::new("internal", e.to_string());
    let at = tasks.iter().filter_map(|task| task.attempts.last()?.view).min();
    let original: TargetName = match &run.target {
        Some(target) => target.name.clone(),
        None => ORIGINAL.parse().map_err(bad)?,
    };
    let mut reads = vec![Source { target: original, prefix: run.place().prefix, at }];
    let further = run.target.iter().flat_map(|target| &target.reads);
    reads.extend(further.map(|source| Source { at: source.at.or(at), ..source.clone() }));
    Ok(Target {
        prefix: Some(name.parse().map_err(bad)?),
        name: name.parse().map_err(bad)?,
        reads,
        protected: false,
        schedules: false,
        vars: run.target.as_ref().map(|target| target.vars.clone()).unwrap_or_default(),
        scratch: Some(now),
    })
}
