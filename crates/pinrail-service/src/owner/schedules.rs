//! The owner's schedules: they fire into runs, and a deploy says which there are.
//!
//! When many fire at once, the two largest costs are the commit of what begins (two thirds: a run's, task's, attempt's and
//! trigger's rows with their history), and what precedes it, where each workflow's document is read by itself (a third).

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use pinrail_model::document::{Document, Sha};
use pinrail_model::ids::{RunId, fresh};
use pinrail_model::names::{ProjectName, WorkflowName};
use pinrail_model::run::{Cause, Control, Event, Graph, RunState};
use pinrail_model::seam::store::{Activation, Answer, Query, StoreError, Who, Write};
use pinrail_model::step;
use pinrail_model::target::{Lane, name_of};
use pinrail_model::time::Micros;
use pinrail_model::trigger::{Fire, PassedOver, Trigger};
use serde_json::{Value, json};

use super::{Batch, Held, Maker, Owner, Refusal};

/// The owner looks at the wall clock at least this often while there is a schedule: it may have jumped.
const LONGEST_SLEEP: Duration = Duration::from_secs(15);
/// Documents that are kept at hand.
const MOST_DOCUMENTS: usize = 2000;

/// Workflow documents that were read lately, by project and version.
#[derive(Default)]
pub(super) struct Documents {
    by_version: HashMap<(ProjectName, Sha), Arc<Known>>,
}

/// A workflow document with the graph of its jobs, which its runs share.
pub(super) struct Known {
    document: Document,
    graph: Graph,
}

impl Known {
    /// The graph of all jobs, or of what a selection names.
    pub fn graph(&self, jobs: Option<&str>) -> Result<Graph, String> {
        match jobs {
            None => Ok(self.graph.clone()),
            Some(_) => Graph::of_document(&self.document, jobs),
        }
    }
}

impl Owner {
    /// Whether this owner fires schedules: an embedded one works on what it is asked for.
    pub(super) fn fires(&self) -> bool {
        self.parts.only.is_none()
    }

    /// How long until a schedule is due; none without schedules.
    pub(super) fn until_due(&self, now: Micros) -> Option<Duration> {
        self.wheel.peek().map(|Reverse((due, ..))| due.since(now).min(LONGEST_SLEEP))
    }

    /// Makes the runs of all fire times that are due.
    pub(super) fn fire(&mut self, batch: &mut Batch) {
        let now = self.parts.clock.now().wall;
        let mut fired = 0;
        while let Some(Reverse((due, key))) = self.wheel.peek().cloned() {
            if due > now || fired >= super::MOST_AT_ONCE {
                return;
            }
            self.wheel.pop();
            let Some(trigger) = self.triggers.get_mut(&key) else { continue };
            // It has changed since, and has another entry.
            if trigger.due_at() != Some(due) {
                continue;
            }
            let fires = trigger.advance(now);
            fired += fires.len();
            step!("schedule.fired");
            for fire in fires {
                self.make(&key, fire, batch);
            }
            batch.triggers.insert(key.clone());
            self.turn_wheel(&key);
        }
    }

    fn turn_wheel(&mut self, key: &Lane) {
        if let Some(due) = self.triggers.get(key).and_then(Trigger::due_at) {
            self.wheel.push(Reverse((due, key.clone())));
        }
    }

    /// Makes the run of one fire time, as the overrun policy says.
    fn make(&mut self, key: &Lane, fire: Fire, batch: &mut Batch) {
        let Some(trigger) = self.triggers.get_mut(key) else { return };
        let outcome = self.shard.on_fire(key, trigger.overrun);
        if let Some(run) = outcome.passed_over {
            trigger.pass(&[fire.at], PassedOver::Overrun { run });
            return;
        }
        let trigger = trigger.clone();
        for run in outcome.stopped {
            let reason = Some(format!("the fire time {} came, and overrun is abort-running", fire.at));
            // One that has ended meanwhile needs no stop.
            let _ = self.apply(run, &Event::Stop { task: None, by: "schedule".to_owned(), reason }, batch);
        }
        let id: RunId = fresh(self.parts.ids.as_ref());
        let run = trigger.run(fire, id, self.parts.clock.now().wall);
        let unique_key = Some(trigger.run_key(fire.at));
        self.runs.insert(id, Held { run, unique_key, last_event: 0 });
        batch.changes.entry(id).or_default().created_by = Some(Maker::Schedule);
        // A run that was just made can be created.
        let _ = self.apply(id, &Event::Created, batch);
    }

    /// The graph with which a pending run begins; none when its workflow is lost or its selection has become impossible.
    pub(super) async fn graph_of(&mut self, id: RunId) -> Result<Option<Arc<Graph>>, StoreError> {
        let Some(run) = self.runs.get(&id).map(|held| &held.run) else { return Ok(None) };
        let (project, workflow, version) = (run.project.clone(), run.workflow.clone(), run.version);
        let jobs = run.jobs.clone();
        let Some(known) = self.known_at(&project, version).await? else { return Ok(None) };
        let Ok(graph) = known.graph(jobs.as_deref()) else { return Ok(None) };
        Ok(Some(Arc::new(self.weighed(&project, &workflow, graph))))
    }

    /// A version of a workflow; none when it is lost or cannot be read.
    pub(super) async fn known_at(
        &mut self,
        project: &ProjectName,
        version: Sha,
    ) -> Result<Option<Arc<Known>>, StoreError> {
        let key = (project.clone(), version);
        if let Some(known) = self.documents.by_version.get(&key) {
            return Ok(Some(Arc::clone(known)));
        }
        let query = Query::Version { project: project.clone(), version };
        let Answer::Version(row) = self.parts.store.read(&Who::default(), query).await? else { return Ok(None) };
        let Ok(document) = Document::read(&row.document) else { return Ok(None) };
        let Ok(graph) = Graph::of_document(&document, None) else { return Ok(None) };
        let known = Arc::new(Known { document, graph });
        if self.documents.by_version.len() >= MOST_DOCUMENTS {
            self.documents.by_version.clear();
        }
        self.documents.by_version.insert(key, Arc::clone(&known));
        Ok(Some(known))
    }

    /// Ends a run that cannot begin.
    pub(super) fn impossible(&self, id: RunId) -> Event {
        let version = self.runs.get(&id).map_or_else(String::new, |held| held.run.version.to_string());
        let reason =
            Some(format!("version \"{version}\" of its workflow cannot be read or lacks the jobs it was asked for"));
        Event::Stop { task: None, by: "pinrail".to_owned(), reason }
    }

    /// Takes note of a run that went from one state to another.
    pub(super) fn run_moved(&mut self, id: RunId, before: RunState, after: RunState, batch: &mut Batch) {
        let Some(run) = self.runs.get(&id).map(|held| &held.run) else { return };
        let key = run.lane();
        match run.cause {
            Cause::Schedule { .. } if after.is_final() => {
                let failed = self.shard.failed(&key);
                if let Some(trigger) = self.triggers.get_mut(&key)
                    && trigger.failed != failed
                {
                    trigger.failed = failed;
                    batch.triggers.insert(key);
                }
            }
            Cause::Backfill { id: backfill, .. } => self.backfill_moved(backfill, before, after, batch),
            _ => {}
        }
    }

    pub(super) fn trigger_row(&self, key: &Lane) -> Option<Write> {
        self.triggers.get(key).map(|trigger| Write::Trigger(Box::new(trigger.clone())))
    }

    /// Makes versions active, and their schedules those that fire. Also an owner that fires none stores them.
    pub(super) async fn activate(&mut self, new: &Activation, batch: &mut Batch) -> Result<Value, Refusal> {
        let Activation { project, target, bundle, versions, keep, channels, at } = new.clone();
        let name = name_of(target.as_ref());
        let failed = |error: StoreError| Refusal::new("state-failed", error.to_string());
        let query = Query::Triggers { project: Some(project.clone()) };
        let stored = match self.parts.store.read(&Who::default(), query).await.map_err(failed)? {
            Answer::Triggers(rows) => rows,
            _ => Vec::new(),
        };
        let (own, others): (Vec<Trigger>, Vec<Trigger>) =
            stored.into_iter().partition(|trigger| name_of(trigger.target.as_ref()) == name);
        for before in others.iter().filter(|trigger| new.takes_over(trigger.target.as_ref())) {
            self.drop_trigger(before.lane(), batch);
        }
        let mut stored: BTreeMap<WorkflowName, Trigger> =
            own.into_iter().map(|trigger| (trigger.workflow.clone(), trigger)).collect();
        for (workflow, version) in &versions {
            let known = self.known_at(&project, *version).await.map_err(failed)?;
            let known = known
                .ok_or_else(|| Refusal::new("version-not-found", format!("version \"{version}\" is not known")))?;
            let document = &known.document;
            let old = stored.remove(workflow);
            let fires = target.as_ref().is_none_or(|target| target.schedules);
            let params = crate::app::params(document, &BTreeMap::new()).unwrap_or_default();
            let types = crate::app::param_types(document);
            let code = (*version, bundle);
            match Trigger::of(&project, target.clone(), document, code, at, params, types).filter(|_| fires) {
                Some(new) => {
                    let trigger = match old {
                        Some(mut old) => {
                            old.replace(new, at);
                            old
                        }
                        None => new,
                    };
                    self.put_trigger(trigger, batch);
                }
                None => {
                    if let Some(old) = old {
                        self.drop_trigger(old.lane(), batch);
                    }
                }
            }
        }
        for (_, gone) in stored.into_iter().filter(|(workflow, _)| !keep.contains(workflow)) {
            self.drop_trigger(gone.lane(), batch);
        }
        batch.replies.push(Write::Channels { project: project.clone(), channels });
        batch.replies.push(Write::Activate { project, target, bundle, versions, keep, at });
        Ok(json!({}))
    }

    fn put_trigger(&mut self, trigger: Trigger, batch: &mut Batch) {
        let key = trigger.lane();
        batch.replies.push(Write::Trigger(Box::new(trigger.clone())));
        if self.fires() {
            self.triggers.insert(key.clone(), trigger);
            self.turn_wheel(&key);
        }
    }

    fn drop_trigger(&mut self, lane: Lane, batch: &mut Batch) {
        self.triggers.remove(&lane);
        batch.replies.push(Write::DropTrigger(lane));
    }

    /// Pauses a schedule, or resumes it.
    pub(super) async fn pause(
        &mut self,
        lane: &Lane,
        control: Option<Control>,
        batch: &mut Batch,
    ) -> Result<Value, Refusal> {
        let query = Query::Triggers { project: Some(lane.project.clone()) };
        let answer = self.parts.store.read(&Who::default(), query).await;
        let Answer::Triggers(rows) = answer.map_err(|e| Refusal::new("state-failed", e.to_string()))? else {
            return Err(Refusal::new("state-failed", "schedules cannot be read".to_owned()));
        };
        let found = rows.into_iter().find(|trigger| trigger.lane() == *lane);
        let mut trigger = found.ok_or_else(|| {
            Refusal::new("schedule-not-found", format!("no deployed workflow \"{}\" has a schedule", lane.workflow))
        })?;
        match control {
            Some(control) => trigger.pause(control),
            None => trigger.resume(self.parts.clock.now().wall),
        }
        self.put_trigger(trigger, batch);
        Ok(json!({}))
    }

    /// Reads what is to happen.
    pub(super) async fn recover_plans(&mut self) -> Result<(), StoreError> {
        let read = async |query| self.parts.store.read(&Who::default(), query).await;
        let (holds, limits) = (read(Query::Holds).await?, read(Query::Limits { project: None }).await?);
        let triggers = if self.fires() { read(Query::Triggers { project: None }).await? } else { Answer::Nothing };
        if let Answer::Holds(holds) = holds {
            for (scope, control) in holds {
                self.shard.set_hold(scope, Some(control));
            }
        }
        if let Answer::Limits(limits) = limits {
            for row in limits {
                self.apply_limit(&row.project, &row.name, Some(row.set.value));
            }
        }
        if let Answer::Triggers(triggers) = triggers {
            for trigger in triggers {
                let key = trigger.lane();
                self.shard.set_failed(&key, trigger.failed);
                self.triggers.insert(key.clone(), trigger);
                self.turn_wheel(&key);
            }
        }
        self.recover_backfills().await
    }
}
