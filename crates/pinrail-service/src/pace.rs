//! What the past says of a run: when what waits is likely to begin, and what made a run slower than earlier ones.

use std::collections::{BTreeMap, BTreeSet};

use pinrail_model::explain::{
    Explanation, History, Pace, Past, Why, estimate, estimate_pending, pace, parts, place_in_backfill,
};
use pinrail_model::ids::RunId;
use pinrail_model::names::{JobName, ProjectName};
use pinrail_model::notify::SAMPLE;
use pinrail_model::run::{Cause, Run, Task};
use pinrail_model::seam::store::{Answer, ListedRun, Query, StoreError, Who};
use pinrail_model::time::Micros;

use crate::app::App;
use crate::owner::{Explained, whole};
use crate::problem::Problem;
use crate::tokens::{Principal, Role};

/// Workflows whose history one answer reads at most.
const MOST_WORKFLOWS: usize = 50;
/// Runs that are looked at for those that had the same jobs: backfills of single jobs may lie between.
const LOOKED_AT: u32 = 200;
/// Of a workflow with more jobs than this fewer runs are compared: each is read whole.
const MANY_JOBS: usize = 500;
const FEW_RUNS: usize = 5;

impl App {
    /// Adds to explanations when what waits is likely to begin, and takes from them what the caller may not see.
    pub(crate) async fn foresee(&self, principal: &Principal, found: &mut Explained) -> Result<(), Problem> {
        let now = self.now();
        if !found.run.state().is_final() {
            let history = self.history(found).await?;
            estimate(&found.run, &mut found.explanations, &history, now);
            for explanation in found.explanations.iter_mut().filter(|explanation| explanation.job.is_none()) {
                self.place(&found.run, explanation).await?;
                estimate_pending(explanation, &found.others, &history, now);
            }
        }
        for explanation in &mut found.explanations {
            hide(principal, explanation);
        }
        Ok(())
    }

    async fn place(&self, run: &Run, explanation: &mut Explanation) -> Result<(), Problem> {
        let Cause::Backfill { id, index } = run.cause else { return Ok(()) };
        if let Answer::Backfills(rows) = self.store.read(&Who::default(), Query::Backfill(id)).await?
            && let Some(row) = rows.first()
        {
            place_in_backfill(explanation, &row.backfill, &row.progress, index);
        }
        Ok(())
    }

    /// How long the jobs of all workflows take that play a part in the explanations.
    async fn history(&self, found: &Explained) -> Result<History, Problem> {
        let run = &found.run;
        let mut workflows = BTreeSet::from([(run.project.clone(), run.workflow.clone())]);
        workflows.extend(found.others.iter().map(|run| (run.project.clone(), run.workflow.clone())));
        for explanation in &found.explanations {
            if let Why::WaitingForSlot { holders, .. } | Why::WaitingForLimit { holders, .. } = &explanation.why {
                let named = holders.iter().filter_map(|holder| holder.is.as_ref());
                workflows.extend(named.map(|is| (is.project.clone(), is.workflow.clone())));
            }
            let ahead = explanation.ahead.iter();
            workflows.extend(ahead.filter_map(|ahead| Some((ahead.project.clone()?, ahead.workflow.clone()?))));
        }
        let mut history = History::default();
        for (project, workflow) in workflows.into_iter().take(MOST_WORKFLOWS) {
            let query = Query::Usual { project: project.clone(), workflow: workflow.clone(), runs: SAMPLE };
            if let Answer::Usual(usual) = self.store.read(&Who::default(), query).await? {
                history.insert(project, workflow, usual);
            }
        }
        Ok(history)
    }

    /// Where the time of a run went, against its workflow's latest successful runs of the same jobs.
    ///
    /// # Errors
    /// 404 when there is none in the caller's reach.
    pub async fn pace(&self, principal: &Principal, id: RunId) -> Result<Pace, Problem> {
        let stored = self.run(principal, id).await?;
        let now = self.now();
        let run = whole(stored).map_err(|message| Problem::new("bad-document", message))?;
        let mut earlier = Vec::new();
        let most = if run.tasks.len() > MANY_JOBS { FEW_RUNS } else { SAMPLE as usize };
        for listed in self.ended_before(&run, now).await?.into_iter().take(most) {
            earlier.extend(self.past(&listed.run).await?);
        }
        Ok(pace(&run, self.begun(id).await?, &earlier, now))
    }

    /// The latest runs of the same jobs at the same target that had succeeded before this one ended.
    async fn ended_before(&self, run: &Run, now: Micros) -> Result<Vec<ListedRun>, StoreError> {
        if !run.cause.is_of_a_workflow() {
            return Ok(Vec::new());
        }
        let lane = run.lane();
        let query = Query::Runs {
            project: Some(lane.project),
            workflow: Some(lane.workflow),
            target: lane.target,
            state: Some("succeeded".to_owned()),
            backfill: None,
            ends_with: None,
            before: None,
            limit: LOOKED_AT,
        };
        let Answer::Runs(mut found) = self.store.read(&Who::default(), query).await? else {
            return Ok(Vec::new());
        };
        let until = run.ended_at.unwrap_or(now);
        found.retain(|listed| {
            let other = &listed.run;
            other.id != run.id && other.jobs == run.jobs && other.ended_at.is_some_and(|ended_at| ended_at < until)
        });
        Ok(found)
    }

    async fn past(&self, run: &Run) -> Result<Option<Past>, StoreError> {
        let Some(ended_at) = run.ended_at else { return Ok(None) };
        let begun = self.begun(run.id).await?.unwrap_or(run.created_at);
        let Answer::Run(stored) = self.store.read(&Who::default(), Query::Run(run.id)).await? else {
            return Ok(None);
        };
        // Of a mapped job the instance counts that ended last: the critical path led through it.
        let ended = |task: &Task| task.attempt().and_then(|attempt| attempt.ended_at);
        let mut last: BTreeMap<&JobName, &Task> = BTreeMap::new();
        for task in &stored.tasks {
            let kept = last.entry(&task.job).or_insert(task);
            if ended(task) > ended(kept) {
                *kept = task;
            }
        }
        let jobs = last.into_iter().map(|(job, task)| (job.clone(), parts(task, None, ended_at)));
        let jobs = jobs.filter(|(_, parts)| !parts.is_empty()).collect();
        Ok(Some(Past { seconds: ended_at.since(begun).as_secs_f64(), jobs }))
    }

    /// When a run's turn had come.
    async fn begun(&self, id: RunId) -> Result<Option<Micros>, StoreError> {
        // The first of its history: that it was made and, if it waited for its turn, that it was let in.
        let query = Query::Events { run: id, after: 0, limit: 8 };
        let Answer::Events(events) = self.store.read(&Who::default(), query).await? else { return Ok(None) };
        let begins = events.iter().filter(|event| matches!(event.kind.as_str(), "run-created" | "run-admitted"));
        Ok(begins.map(|event| event.at).max())
    }
}

/// Takes the names from what is of projects that the caller may not see.
fn hide(principal: &Principal, explanation: &mut Explanation) {
    let sees = |project: &ProjectName| principal.may(Role::Viewer, project).is_ok();
    if let Why::WaitingForSlot { holders, .. } | Why::WaitingForLimit { holders, .. } = &mut explanation.why {
        for holder in holders.iter_mut().filter(|holder| holder.is.as_ref().is_some_and(|is| !sees(&is.project))) {
            holder.is = None;
        }
    }
    for ahead in &mut explanation.ahead {
        if ahead.project.as_ref().is_some_and(|project| !sees(project)) {
            (ahead.project, ahead.workflow, ahead.job) = (None, None, None);
        }
    }
}
