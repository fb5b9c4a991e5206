//! What jobs usually take, kept at hand, so that a new run's tasks are weighed by the length of the path that hangs on
//! them and admission prefers the longest.
//!
//! No run waits for a read: the history of a workflow is read behind its first run, one workflow at a time, and kept
//! current by the runs that end. It is by workflow and not by version: a job that changed takes for now what it took.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use pinrail_model::names::{JobName, ProjectName, WorkflowName};
use pinrail_model::notify::{SAMPLE, Usual};
use pinrail_model::run::{Graph, Happening, Run, RunState};
use pinrail_model::seam::store::{Answer, Query, Who};

use super::{Input, Owner};

/// Workflows whose history is at hand.
const MOST_WORKFLOWS: usize = 10_000;
/// Workflows that wait to be read at most; one that is passed over is asked for again by its next run.
const MOST_WANTED: usize = 1000;

/// A workflow of a project.
pub(super) type Key = (ProjectName, WorkflowName);

/// What is known of how long jobs take.
#[derive(Default)]
pub(super) struct Usuals {
    known: BTreeMap<Key, Known>,
    wanted: VecDeque<Key>,
    reading: Option<Key>,
    /// A run ended while its workflow was being read: whether the answer has it is not known.
    again: bool,
}

#[derive(Default)]
struct Known {
    usual: Usual,
    medians: BTreeMap<JobName, Duration>,
}

impl Known {
    fn new(usual: Usual) -> Self {
        let medians = usual.medians();
        Self { usual, medians }
    }

    fn learn(&mut self, run: &Run) {
        // The instances of a mapped job count as one: what one of them usually takes.
        let mut all: BTreeMap<&JobName, (Duration, u32)> = BTreeMap::new();
        for task in &run.tasks {
            let Some(attempt) = task.attempt() else { continue };
            let Some(ended_at) = attempt.ended_at else { continue };
            let (sum, count) = all.entry(&task.job).or_default();
            *sum += ended_at.since(attempt.started_at);
            *count += 1;
        }
        for (job, (sum, count)) in all {
            let took = self.usual.jobs.entry(job.clone()).or_default();
            took.insert(0, sum / count);
            took.truncate(SAMPLE as usize);
        }
        self.medians = self.usual.medians();
    }
}

impl Owner {
    /// The graph with paths as long as its jobs usually take, if that is known.
    pub(super) fn weighed(&mut self, project: &ProjectName, workflow: &WorkflowName, graph: Graph) -> Graph {
        let key = (project.clone(), workflow.clone());
        match self.usuals.known.get(&key) {
            Some(known) if known.medians.is_empty() => graph,
            Some(known) => graph.weighed(&known.medians),
            None => {
                self.want(key);
                graph
            }
        }
    }

    fn want(&mut self, key: Key) {
        let usuals = &mut self.usuals;
        let is_known = usuals.reading.as_ref() == Some(&key) || usuals.wanted.contains(&key);
        if !is_known && usuals.wanted.len() < MOST_WANTED {
            usuals.wanted.push_back(key);
        }
        self.read_next();
    }

    fn read_next(&mut self) {
        if self.usuals.reading.is_some() {
            return;
        }
        let Some(key) = self.usuals.wanted.pop_front() else { return };
        self.usuals.reading = Some(key.clone());
        self.usuals.again = false;
        let (store, handle) = (Arc::clone(&self.parts.store), self.handle.clone());
        tokio::spawn(async move {
            let query = Query::Usual { project: key.0.clone(), workflow: key.1.clone(), runs: SAMPLE };
            let usual = match store.read(&Who::default(), query).await {
                Ok(Answer::Usual(usual)) => usual,
                Ok(_) => Usual::default(),
                Err(error) => {
                    tracing::warn!(%error, workflow = %key.1, "how long its jobs take could not be read");
                    Usual::default()
                }
            };
            handle.tell(Input::Usual(usual));
        });
    }

    /// The answer to the read that is under way.
    pub(super) fn take_usual(&mut self, usual: Usual) {
        let Some(key) = self.usuals.reading.take() else { return };
        if self.usuals.again {
            self.usuals.wanted.push_front(key);
        } else {
            if self.usuals.known.len() >= MOST_WORKFLOWS {
                self.usuals.known.clear();
            }
            self.usuals.known.insert(key, Known::new(usual));
        }
        self.read_next();
    }

    /// Takes note of a run that has just succeeded for good.
    pub(super) fn learn(usuals: &mut Usuals, run: &Run, history: &[Happening]) {
        let has_ended = history.iter().any(|happening| happening.kind == "run-ended");
        if !has_ended || run.state() != RunState::Succeeded {
            return;
        }
        let key = (run.project.clone(), run.workflow.clone());
        usuals.again |= usuals.reading.as_ref() == Some(&key);
        if let Some(known) = usuals.known.get_mut(&key) {
            known.learn(run);
        }
    }
}
