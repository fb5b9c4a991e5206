//! The owner's schedules: they fire into runs, and a deploy says which there are.
//!
//! When many fire at once, they are made in slices: one is committed while the next is decided upon. The two largest costs are
//! the commits (a run's, task's, attempt's and trigger's rows with their history), and what follows each: the attempts that
//! begin, and what they report.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
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
/// Fire times that are made into runs in one commit.
const MOST_FIRED: usize = 1000;
/// Commits in a row between which nobody else gets a turn.
const MOST_SLICES: usize = 4;
/// How often in a row people get a turn before attempts do.
const MOST_STORMS: usize = 3;
/// Jobs of the documents that are kept at hand, of which each takes about a kilobyte.
const MOST_JOBS: usize = 100_000;
/// Documents of one read, which are in memory twice for a moment.
const READ_AT_ONCE: usize = 500;

/// Workflow documents that were read lately, by project and version.
#[derive(Default)]
pub(super) struct Documents {
    by_version: HashMap<(ProjectName, Sha), Arc<Known>>,
    jobs: usize,
}

impl Documents {
    /// Keeps a document at hand, if it can be read.
    fn keep(&mut self, project: &ProjectName, version: Sha, json: Value) {
        let Ok(document) = Document::take(json) else { return };
        let Ok(graph) = Graph::of_document(&document, None) else { return };
        self.jobs += document.jobs.len();
        self.by_version.insert((project.clone(), version), Arc::new(Known { document, graph }));
    }

    /// Makes room for others.
    fn tidy(&mut self) {
        if self.jobs > MOST_JOBS {
            *self = Self::default();
        }
    }
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

    /// Makes the runs of all fire times that are due. So many that they are a batch of their own begin before anything else
    /// is looked at, but for what people ask for: what attempts report can wait for a moment.
    pub(super) async fn fire(&mut self, batch: &mut Batch) -> Result<(), StoreError> {
        for _ in 0..MOST_STORMS {
            if self.make_due(batch).await? < MOST_FIRED {
                return Ok(());
            }
            self.storm(batch).await?;
            self.take_commands(batch).await?;
        }
        Ok(())
    }

    /// Commits slice after slice of what is due, and decides on the next one meanwhile: it has other runs.
    async fn storm(&mut self, batch: &mut Batch) -> Result<(), StoreError> {
        let store = Arc::clone(&self.parts.store);
        let mut sealed = self.seal(batch).await?;
        let mut slices = 1;
        while let Some(mut slice) = sealed {
            let next = async {
                if slices < MOST_SLICES {
                    self.make_due(batch).await?;
                }
                self.seal(batch).await
            };
            // The commit is under way before the next slice is begun, so that they stay in order.
            let (answers, next) = futures::future::join(slice.commit(store.as_ref()), next).await;
            self.act(slice, answers?).await?;
            sealed = next?;
            slices += 1;
        }
        Ok(())
    }

    /// Makes the runs of fire times that are due, and has at hand what they begin with; gives how many.
    async fn make_due(&mut self, batch: &mut Batch) -> Result<usize, StoreError> {
        let fired = self.fire_due(batch);
        let number = fired.len();
        let mut versions: BTreeMap<ProjectName, BTreeSet<Sha>> = BTreeMap::new();
        for (project, version) in fired {
            versions.entry(project).or_default().insert(version);
        }
        self.documents.tidy();
        for (project, versions) in versions {
            self.fetch(&project, versions).await?;
        }
        Ok(number)
    }

    /// Makes the runs of fire times that are due; gives their versions.
    fn fire_due(&mut self, batch: &mut Batch) -> Vec<(ProjectName, Sha)> {
        let now = self.parts.clock.now().wall;
        let mut fired = Vec::new();
        while let Some(Reverse((due, key))) = self.wheel.peek().cloned() {
            if due > now || fired.len() >= MOST_FIRED {
                break;
            }
            self.wheel.pop();
            let Some(trigger) = self.triggers.get_mut(&key) else { continue };
            // It has changed since, and has another entry.
            if trigger.due_at() != Some(due) {
                continue;
            }
            let fires = trigger.advance(now);
            fired.extend(fires.iter().map(|_| (trigger.project.clone(), trigger.version)));
            step!("schedule.fired");
            for fire in fires {
                self.make(&key, fire, batch);
            }
            batch.triggers.insert(key.clone());
            self.turn_wheel(&key);
        }
        fired
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
        if !self.documents.by_version.contains_key(&key) {
            self.documents.tidy();
            self.fetch(project, BTreeSet::from([version])).await?;
        }
        Ok(self.documents.by_version.get(&key).cloned())
    }

    /// Has versions at hand that are about to be needed: one read of many costs much less than many of one. Those for which
    /// there is no room are read when it is their turn.
    async fn fetch(&mut self, project: &ProjectName, mut versions: BTreeSet<Sha>) -> Result<(), StoreError> {
        versions.retain(|version| !self.documents.by_version.contains_key(&(project.clone(), *version)));
        let versions: Vec<Sha> = versions.into_iter().collect();
        for part in versions.chunks(READ_AT_ONCE) {
            if self.documents.jobs > MOST_JOBS {
                break;
            }
            let query = Query::Documents { project: project.clone(), versions: part.to_vec() };
            let Answer::Documents(read) = self.parts.store.read(&Who::default(), query).await? else { break };
            for (version, json) in read {
                self.documents.keep(project, version, json);
            }
        }
        Ok(())
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
