//! Application functions of schedules, backfills, limits and holds: authorize, check, read or send to the inbox.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::NaiveDate;
use pinrail_model::admit::Scope;
use pinrail_model::backfill::{Backfill, BackfillState, CONCURRENCY, MOST_RUNS, Order, Progress};
use pinrail_model::document::{Document, Sha};
use pinrail_model::ids::{BackfillId, RunId, fresh};
use pinrail_model::names::{JobName, PoolName, ProjectName, TargetName, WorkflowName};
use pinrail_model::near::nearest;
use pinrail_model::notify::SAMPLE;
use pinrail_model::run::{Class, Control, Ending, Graph};
use pinrail_model::schedule::{interval_at, zone_of};
use pinrail_model::seam::store::{
    Answer, BackfillChange, BackfillRow, Code, CommandKind, LimitName, LimitRow, Query, StoredRun, Who,
};
use pinrail_model::select::select;
use pinrail_model::target::{Lane, Target, name_of};
use pinrail_model::time::{Interval, Micros};
use pinrail_model::trigger::{Passed, Trigger};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::app::{App, find_workflow, left_out, param_types, params};
use crate::plan::{NextFire, next_fires, told};
use crate::problem::Problem;
use crate::tokens::{Principal, Role};

/// A workflow's schedule, as people see it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ScheduleView {
    pub project: ProjectName,
    pub workflow: WorkflowName,
    /// Null in a project without targets.
    pub target: Option<TargetName>,
    pub version: Sha,
    /// In words.
    pub schedule: String,
    pub tz: String,
    pub overrun: pinrail_model::trigger::Overrun,
    pub max_active: u32,
    /// Who paused it; null while it fires.
    pub paused: Option<Control>,
    /// The next fire times with what their runs cover; also while it is paused.
    pub next: Vec<NextFire>,
    /// Every fire time until here has been dealt with.
    pub done_until: Micros,
    /// The latest fire times that made no run, with the reason.
    pub passed: Vec<Passed>,
    /// The run that failed last, while none succeeded since.
    pub failed: Option<RunId>,
}

fn view(trigger: Trigger, now: Micros) -> ScheduleView {
    let after = if trigger.paused.is_some() { now.max(trigger.done_until) } else { trigger.done_until };
    ScheduleView {
        schedule: told(&trigger.schedule),
        tz: trigger.schedule.tz.clone(),
        next: next_fires(&trigger.schedule, trigger.workflow.as_str(), after),
        project: trigger.project,
        workflow: trigger.workflow,
        target: name_of(trigger.target.as_ref()),
        version: trigger.version,
        overrun: trigger.overrun,
        max_active: trigger.most_active,
        paused: trigger.paused,
        done_until: trigger.done_until,
        passed: trigger.passed,
        failed: trigger.failed,
    }
}

/// What a backfill is asked for with: a range of dates, or a list of dates or times.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackfillRequest {
    #[schema(value_type = String)]
    pub workflow: Option<WorkflowName>,
    /// The first and the last local date, both included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Date)]
    pub from: Option<NaiveDate>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Date)]
    pub to: Option<NaiveDate>,
    /// Dates or times of intervals, instead of a range.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub at: Vec<String>,
    /// Which jobs, as in `a`, `a+`, `+a`; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobs: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, Value>,
    /// Runs that are active at once; 4 unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Which runs begin first.
    #[serde(default)]
    pub order: Order,
    /// `backfill`, unless it is to compete with scheduled runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// Runs again also what has succeeded with the same code.
    #[serde(default)]
    pub redo: bool,
    /// The bundle to run; none: the deployed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<Sha>,
    /// The target of its runs; none: the usual one of the bundle, or the only one that has the deployed workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetName>,
    /// Only say what it would come to.
    #[serde(default)]
    pub dry_run: bool,
}

/// A backfill with how far it is.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct BackfillView {
    /// Null for a dry run.
    pub id: Option<BackfillId>,
    pub project: ProjectName,
    pub workflow: WorkflowName,
    /// Null in a project without targets.
    pub target: Option<TargetName>,
    pub jobs: Option<String>,
    pub state: BackfillState,
    pub by: String,
    pub created_at: Micros,
    pub ended_at: Option<Micros>,
    pub class: Class,
    pub order: Order,
    pub concurrency: u32,
    pub params: BTreeMap<String, Value>,
    pub version: Sha,
    pub bundle: Sha,
    pub first: Option<Interval>,
    pub last: Option<Interval>,
    /// Runs that it makes.
    pub total: u32,
    pub queued: u32,
    pub running: u32,
    pub succeeded: u32,
    pub failed: u32,
    pub cancelled: u32,
    /// Intervals that make no run, because all selected jobs have succeeded for them with the same code.
    pub done_before: u32,
    pub paused: Option<Control>,
    pub stopped: Option<Control>,
    /// How long what is left will take, as far as earlier runs tell.
    pub estimate: Option<Estimate>,
}

/// How long something will take, with what says so.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Estimate {
    pub seconds: f64,
    /// Runs that it rests on.
    pub sample: u32,
}

impl App {
    // Schedules.

    /// The schedules of a project's deployed workflows.
    ///
    /// # Errors
    /// When the project is not in the caller's reach.
    pub async fn schedules(&self, principal: &Principal, project: &ProjectName) -> Result<Vec<ScheduleView>, Problem> {
        principal.may(Role::Viewer, project)?;
        let query = Query::Triggers { project: Some(project.clone()) };
        match self.store.read(&Self::who(principal), query).await? {
            Answer::Triggers(rows) => Ok(rows.into_iter().map(|trigger| view(trigger, self.now())).collect()),
            _ => Ok(Vec::new()),
        }
    }

    /// Pauses the schedule of a workflow, or resumes it.
    ///
    /// # Errors
    /// 404 when it has none.
    pub async fn pause(
        &self,
        principal: &Principal,
        project: &ProjectName,
        (workflow, target): (&WorkflowName, Option<TargetName>),
        paused: bool,
        reason: Option<String>,
    ) -> Result<ScheduleView, Problem> {
        principal.may(Role::Operator, project)?;
        let not_found =
            || Problem::new("schedule-not-found", format!("no deployed workflow \"{workflow}\" has a schedule"));
        let having = self.schedules(principal, project).await?;
        let mut having = having.into_iter().filter(|view| view.workflow == *workflow).map(|view| view.target);
        let target = match (target, having.next(), having.next()) {
            (Some(named), ..) => Some(named),
            (None, Some(only), None) => only,
            (None, None, _) => return Err(not_found()),
            (None, Some(_), Some(_)) => {
                let detail = format!("workflow \"{workflow}\" has a schedule at several targets, and none is named");
                return Err(Problem::new("bad-parameter", detail).hint("Say which: --target NAME."));
            }
        };
        let (of, named, at) = (project.clone(), workflow.clone(), target.clone());
        self.command(principal, CommandKind::Pause { project: of, workflow: named, target: at, paused, reason })
            .await?;
        let found = self.schedules(principal, project).await?;
        found.into_iter().find(|view| view.workflow == *workflow && view.target == target).ok_or_else(not_found)
    }

    // Backfills.

    /// Makes a backfill, or says what it would come to.
    ///
    /// # Errors
    /// Everything that makes it impossible, before any of it exists.
    pub async fn create_backfill(
        &self,
        principal: &Principal,
        project: &ProjectName,
        request: BackfillRequest,
    ) -> Result<BackfillView, Problem> {
        principal.may(Role::Operator, project)?;
        let _held = self.bundles.hold().await;
        let workflow =
            request.workflow.clone().ok_or_else(|| Problem::new("bad-request", "a backfill needs \"workflow\""))?;
        let named = request.target.as_ref();
        let target = match request.bundle {
            Some(bundle) => self.target_in(project, bundle, named).await?,
            None => self.target_of_deployed(principal, project, Some(&workflow), named).await?,
        };
        let (document, version, bundle) =
            self.code_for(principal, project, (&workflow, target.as_ref()), request.bundle).await?;
        self.may_run_there(principal, project, target.as_ref(), Some((&workflow, bundle))).await?;
        let lane = Lane::of(project, &workflow, target.as_ref());
        let intervals = self.intervals(&document, &request)?;
        let values = params(&document, &request.params)?;
        if request.concurrency == Some(0) {
            return Err(Problem::new("bad-parameter", "parameter \"concurrency\": it must be at least 1"));
        }
        let selected = request.jobs.as_ref().map(|jobs| select(&document.jobs, jobs)).transpose();
        let selected = selected.map_err(|message| Problem::new("job-not-found", message))?;
        let needed: BTreeSet<JobName> = match &request.jobs {
            Some(jobs) => left_out(&document, jobs)?.into_iter().cloned().collect(),
            None => BTreeSet::new(),
        };
        let done = self.done(&lane, &intervals).await?;
        let wanted: Vec<JobName> = document
            .jobs
            .iter()
            .filter(|job| selected.as_ref().is_none_or(|names| names.contains(&job.name)))
            .map(|job| job.name.clone())
            .collect();
        let is_done = |interval: &Interval| {
            wanted.iter().all(|job| done.get(&(*interval, job.clone())).is_some_and(|shas| shas.contains(&bundle)))
        };
        let done_before: Vec<u32> = if request.redo {
            Vec::new()
        } else {
            (0..intervals.len() as u32).filter(|ix| is_done(&intervals[*ix as usize])).collect()
        };
        let outside =
            self.outside_of(&lane, &document, request.jobs.as_deref(), &needed, &intervals, &done_before).await?;
        let backfill = Backfill {
            id: fresh(self.ids.as_ref()),
            project: project.clone(),
            workflow,
            target,
            version,
            bundle,
            by: principal.name.clone(),
            created_at: self.now(),
            class: request.class.unwrap_or(Class::Backfill),
            tz: zone_of(document.schedule.as_ref()).to_owned(),
            jobs: request.jobs.clone(),
            params: values,
            param_types: param_types(&document),
            executors: BTreeMap::new(),
            outside,
            order: request.order,
            concurrency: request.concurrency.unwrap_or(CONCURRENCY),
            intervals,
            done_before,
        };
        let id = backfill.id;
        if request.dry_run || backfill.total() == 0 {
            let row = BackfillRow { backfill, progress: Progress::default() };
            let mut view = self.backfill_view(&row).await?;
            view.id = None;
            return Ok(view);
        }
        self.command(principal, CommandKind::CreateBackfill(Box::new(backfill))).await?;
        self.backfill(principal, id).await
    }

    async fn code_for(
        &self,
        principal: &Principal,
        project: &ProjectName,
        (workflow, target): (&WorkflowName, Option<&Arc<Target>>),
        bundle: Option<Sha>,
    ) -> Result<(Document, Sha, Sha), Problem> {
        match bundle {
            Some(bundle) => {
                let compiled = self.compile(principal, project, bundle).await?;
                find_workflow(&compiled, workflow, bundle)
            }
            None => self.deployed(principal, project, workflow, target).await,
        }
    }

    /// The intervals that are asked for, in order of time, each once.
    fn intervals(&self, document: &Document, request: &BackfillRequest) -> Result<Vec<Interval>, Problem> {
        let bad = |message: String| Problem::new("bad-parameter", message);
        let schedule = document.schedule.as_ref();
        let mut intervals = match (request.from, request.to, request.at.as_slice()) {
            (Some(from), Some(to), []) if from <= to => match schedule {
                Some(schedule) => schedule.intervals_between(from, to, MOST_RUNS + 1).map_err(bad)?,
                None => {
                    let days = from.iter_days().take_while(|day| *day <= to).take(MOST_RUNS + 1);
                    let of = |day: NaiveDate| interval_at(None, Some(&day.to_string()), self.now());
                    days.map(of).collect::<Result<_, _>>().map_err(bad)?
                }
            },
            (Some(from), Some(to), []) => return Err(bad(format!("the range ends before it begins: {from} to {to}"))),
            (None, None, at) if !at.is_empty() => {
                let of = |text: &String| interval_at(schedule, Some(text), self.now());
                at.iter().map(of).collect::<Result<_, _>>().map_err(bad)?
            }
            _ => {
                let detail = "a backfill needs either \"from\" and \"to\" or \"at\"";
                return Err(Problem::new("bad-request", detail).hint("Dates are like 2013-01-31, both included."));
            }
        };
        intervals.sort_by_key(|interval| (interval.start, interval.end));
        intervals.dedup();
        if intervals.len() > MOST_RUNS {
            return Err(bad(format!("a backfill makes at most {MOST_RUNS} runs; these are more")));
        }
        if intervals.is_empty() {
            return Err(bad("no run of this schedule covers a day of the range".to_owned()));
        }
        Ok(intervals)
    }

    /// With which bundles jobs have succeeded, by interval and job.
    async fn done(
        &self,
        lane: &Lane,
        intervals: &[Interval],
    ) -> Result<BTreeMap<(Interval, JobName), BTreeSet<Sha>>, Problem> {
        let (Some(first), Some(last)) = (intervals.first(), intervals.last()) else { return Ok(BTreeMap::new()) };
        let lane = lane.clone();
        let query = Query::SucceededBetween { lane, from: first.start, until: Micros(last.start.0 + 1) };
        let mut found: BTreeMap<(Interval, JobName), BTreeSet<Sha>> = BTreeMap::new();
        if let Answer::SucceededBetween(rows) = self.store.read(&Who::default(), query).await? {
            for row in rows {
                found.entry((row.interval, row.job)).or_default().insert(row.bundle);
            }
        }
        Ok(found)
    }

    /// Outputs of the jobs that the selection leaves out, which must have succeeded for each interval or, where one run
    /// covers none in particular, at all.
    async fn outside_of(
        &self,
        lane: &Lane,
        document: &Document,
        jobs: Option<&str>,
        needed: &BTreeSet<JobName>,
        intervals: &[Interval],
        done_before: &[u32],
    ) -> Result<BTreeMap<u32, BTreeMap<JobName, BTreeMap<String, Value>>>, Problem> {
        let mut outside = BTreeMap::new();
        let Some(jobs) = jobs.filter(|_| !needed.is_empty()) else { return Ok(outside) };
        let mut latest = None;
        for (index, interval) in intervals.iter().enumerate() {
            let index = index as u32;
            if done_before.contains(&index) {
                continue;
            }
            let found = match self.outside(lane, document, jobs, *interval).await {
                Ok(found) => found,
                Err(missing) => {
                    // What writes no partition of the interval, such as a load of everything, needs to have run once.
                    if latest.is_none() {
                        latest = Some(self.latest_outputs(lane, needed).await?);
                    }
                    match latest.as_ref().and_then(Option::as_ref) {
                        Some(found) if self.is_whole(document, needed) => found.clone(),
                        _ => return Err(missing),
                    }
                }
            };
            outside.insert(index, found);
        }
        Ok(outside)
    }

    /// Whether none of these jobs is about an interval: what they write is the same whatever the run's date is.
    fn is_whole(&self, document: &Document, jobs: &BTreeSet<JobName>) -> bool {
        jobs.iter().filter_map(|name| document.job(name.as_str())).all(|job| {
            let partitioned = |writes: &pinrail_model::document::DeclaredWrites| !writes.partition.is_empty();
            !job.writes.as_ref().is_some_and(|writes| writes.iter().any(partitioned))
        })
    }

    /// What jobs left in the last run in which all of them succeeded.
    async fn latest_outputs(
        &self,
        lane: &Lane,
        jobs: &BTreeSet<JobName>,
    ) -> Result<Option<BTreeMap<JobName, BTreeMap<String, Value>>>, Problem> {
        let query = Query::Runs {
            project: Some(lane.project.clone()),
            workflow: Some(lane.workflow.clone()),
            target: lane.target.clone(),
            state: Some("succeeded".to_owned()),
            backfill: None,
            ends_with: None,
            before: None,
            limit: SAMPLE,
        };
        let Answer::Runs(runs) = self.store.read(&Who::default(), query).await? else { return Ok(None) };
        for listed in runs {
            let Answer::Run(stored) = self.store.read(&Who::default(), Query::Run(listed.run.id)).await? else {
                continue;
            };
            let good = stored.tasks.iter().filter(|task| task.ending == Some(Ending::Succeeded));
            let outputs: BTreeMap<JobName, BTreeMap<String, Value>> =
                good.filter(|task| jobs.contains(&task.job)).map(|t| (t.job.clone(), t.outputs.clone())).collect();
            if outputs.len() == jobs.len() {
                return Ok(Some(outputs));
            }
        }
        Ok(None)
    }

    /// A backfill.
    ///
    /// # Errors
    /// 404 when there is none in the caller's reach.
    pub async fn backfill(&self, principal: &Principal, id: BackfillId) -> Result<BackfillView, Problem> {
        let row = self.backfill_row(principal, id).await?;
        self.backfill_view(&row).await
    }

    async fn backfill_row(&self, principal: &Principal, id: BackfillId) -> Result<BackfillRow, Problem> {
        let found = match self.store.read(&Self::who(principal), Query::Backfill(id)).await? {
            Answer::Backfills(mut rows) => rows.pop(),
            _ => None,
        };
        found.ok_or_else(|| backfill_not_found(&id.to_string()))
    }

    /// A page of backfills, newest first.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub async fn backfills(
        &self,
        principal: &Principal,
        project: Option<ProjectName>,
        before: Option<BackfillId>,
        limit: u32,
    ) -> Result<Vec<BackfillView>, Problem> {
        let query = Query::Backfills { project, before, limit };
        let Answer::Backfills(rows) = self.store.read(&Self::who(principal), query).await? else {
            return Ok(Vec::new());
        };
        let mut views = Vec::with_capacity(rows.len());
        for row in rows {
            views.push(self.backfill_view(&row).await?);
        }
        Ok(views)
    }

    async fn backfill_view(&self, row: &BackfillRow) -> Result<BackfillView, Problem> {
        let BackfillRow { backfill, progress } = row;
        let total = backfill.total();
        let ended = progress.succeeded + progress.failed + progress.stopped;
        let queued = if progress.cancelled.is_some() { 0 } else { total.saturating_sub(ended + progress.running) };
        let state = row.state();
        let estimate = if state.is_final() { None } else { self.estimate(backfill, queued + progress.running).await? };
        Ok(BackfillView {
            id: Some(backfill.id),
            project: backfill.project.clone(),
            workflow: backfill.workflow.clone(),
            target: name_of(backfill.target.as_ref()),
            jobs: backfill.jobs.clone(),
            state,
            by: backfill.by.clone(),
            created_at: backfill.created_at,
            ended_at: progress.ended_at,
            class: backfill.class,
            order: backfill.order,
            concurrency: backfill.concurrency,
            params: backfill.params.clone(),
            version: backfill.version,
            bundle: backfill.bundle,
            first: backfill.intervals.first().copied(),
            last: backfill.intervals.last().copied(),
            total,
            queued,
            running: progress.running,
            succeeded: progress.succeeded,
            failed: progress.failed,
            cancelled: progress.stopped,
            done_before: backfill.done_before.len() as u32,
            paused: progress.paused.clone(),
            stopped: progress.cancelled.clone(),
            estimate,
        })
    }

    /// The longest path of the selected jobs by their median durations, times the waves that are left.
    async fn estimate(&self, backfill: &Backfill, left: u32) -> Result<Option<Estimate>, Problem> {
        let (project, workflow) = (backfill.project.clone(), backfill.workflow.clone());
        let version = Query::Version { project: project.clone(), version: backfill.version };
        let query = Query::Usual { project, workflow, runs: SAMPLE };
        let Answer::Usual(usual) = self.store.read(&Who::default(), query).await? else { return Ok(None) };
        let Answer::Version(row) = self.store.read(&Who::default(), version).await? else { return Ok(None) };
        let Ok(document) = Document::read(&row.document) else { return Ok(None) };
        let selected = backfill.jobs.as_ref().and_then(|jobs| select(&document.jobs, jobs).ok());
        let graph = Graph::new(&document.jobs, selected.as_ref());
        if graph.jobs.iter().any(|job| !usual.jobs.contains_key(&job.name)) {
            return Ok(None);
        }
        let sample = graph.jobs.iter().filter_map(|job| usual.jobs.get(&job.name)).map(Vec::len).min().unwrap_or(0);
        let graph = graph.weighed(&usual.medians());
        let one = graph.weight.iter().max().copied().unwrap_or(0) as f64 / 1000.0;
        let waves = f64::from(left.div_ceil(backfill.concurrency.max(1)));
        Ok(Some(Estimate { seconds: one * waves, sample: sample as u32 }))
    }

    /// Changes a backfill as a whole.
    ///
    /// # Errors
    /// 409 when it is over.
    pub async fn change_backfill(
        &self,
        principal: &Principal,
        id: BackfillId,
        change: BackfillChange,
        reason: Option<String>,
    ) -> Result<BackfillView, Problem> {
        let row = self.backfill_row(principal, id).await?;
        principal.may(Role::Operator, &row.backfill.project)?;
        let change = match change {
            BackfillChange::Edit { concurrency: Some(0), .. } => {
                return Err(Problem::new("bad-parameter", "parameter \"concurrency\": it must be at least 1"));
            }
            BackfillChange::Edit { concurrency, params: Some(given) } => {
                let version = Query::Version { project: row.backfill.project.clone(), version: row.backfill.version };
                let Answer::Version(stored) = self.store.read(&Who::default(), version).await? else {
                    return Err(Problem::new("version-not-found", "the version of the workflow is not known"));
                };
                let document = Document::read(&stored.document)
                    .map_err(|_| Problem::new("bad-document", "its workflow cannot be read"))?;
                let mut all = row.backfill.params.clone();
                all.extend(given);
                BackfillChange::Edit { concurrency, params: Some(params(&document, &all)?) }
            }
            change => change,
        };
        self.command(principal, CommandKind::ChangeBackfill { id, change, reason }).await?;
        self.backfill(principal, id).await
    }

    // Limits and holds.

    /// Pools, quota and weight of a project.
    ///
    /// # Errors
    /// When the project is not in the caller's reach.
    pub async fn limits(&self, principal: &Principal, project: &ProjectName) -> Result<Vec<LimitRow>, Problem> {
        principal.may(Role::Viewer, project)?;
        let query = Query::Limits { project: Some(project.clone()) };
        match self.store.read(&Self::who(principal), query).await? {
            Answer::Limits(rows) => Ok(rows),
            _ => Ok(Vec::new()),
        }
    }

    /// The pools of a project that are set.
    pub(crate) async fn pools(&self, project: &ProjectName) -> Result<Vec<PoolName>, Problem> {
        let query = Query::Limits { project: Some(project.clone()) };
        let Answer::Limits(rows) = self.store.read(&Who::default(), query).await? else { return Ok(Vec::new()) };
        let pool = |row: LimitRow| match row.name {
            LimitName::Pool(name) => Some(name),
            LimitName::Quota | LimitName::Weight => None,
        };
        Ok(rows.into_iter().filter_map(pool).collect())
    }

    /// Sets a limit of a project, or takes it away.
    ///
    /// # Errors
    /// When the caller may not.
    pub async fn set_limit(
        &self,
        principal: &Principal,
        project: &ProjectName,
        name: LimitName,
        value: Option<u32>,
        description: Option<String>,
    ) -> Result<Vec<LimitRow>, Problem> {
        // What a project may take of the whole is for those to say who look after the whole.
        match name {
            LimitName::Pool(_) => principal.may(Role::Developer, project)?,
            LimitName::Quota | LimitName::Weight => principal.may_everywhere(Role::Admin)?,
        }
        self.known_project(principal, project).await?;
        if let (LimitName::Pool(pool), None) = (&name, value) {
            let pools = self.pools(project).await?;
            if !pools.contains(pool) {
                let problem = Problem::new("pool-not-found", format!("project \"{project}\" has no pool \"{pool}\""));
                return Err(match nearest(pool.as_str(), pools.iter().map(PoolName::as_str)) {
                    Some(near) => problem.hint(format!("Did you mean \"{near}\"?")),
                    None => problem.hint("List them with `pinrail pools`."),
                });
            }
        }
        let of = project.clone();
        self.command(principal, CommandKind::SetLimit { project: of, name, value, description }).await?;
        self.limits(principal, project).await
    }

    /// Wholes that are held.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub async fn holds(&self, principal: &Principal) -> Result<Vec<(Scope, Control)>, Problem> {
        match self.store.read(&Self::who(principal), Query::Holds).await? {
            Answer::Holds(rows) => Ok(rows),
            _ => Ok(Vec::new()),
        }
    }

    /// Holds a whole or lets it go.
    ///
    /// # Errors
    /// When the caller may not.
    pub async fn hold_scope(
        &self,
        principal: &Principal,
        scope: Scope,
        held: bool,
        abort: bool,
        reason: Option<String>,
    ) -> Result<Vec<(Scope, Control)>, Problem> {
        match &scope {
            Scope::Platform => principal.may_everywhere(Role::Admin)?,
            Scope::Project { project } | Scope::Workflow { project, .. } => {
                principal.may(Role::Operator, project)?;
                self.known_project(principal, project).await?;
            }
        }
        self.command(principal, CommandKind::HoldScope { scope, held, abort, reason }).await?;
        self.holds(principal).await
    }

    // Surgery.

    /// Carries out a change of one run that needs an operator.
    async fn operate(&self, principal: &Principal, id: RunId, kind: CommandKind) -> Result<StoredRun, Problem> {
        let stored = self.run(principal, id).await?;
        principal.may(Role::Operator, &stored.run.project)?;
        self.command(principal, kind).await?;
        self.run(principal, id).await
    }

    /// Says what became of jobs of a run, whether they ran or not.
    ///
    /// # Errors
    /// 409 while one of them is at work.
    pub async fn mark(
        &self,
        principal: &Principal,
        run: RunId,
        jobs: String,
        ending: Ending,
        reason: Option<String>,
    ) -> Result<StoredRun, Problem> {
        self.operate(principal, run, CommandKind::Mark { run, jobs, ending, reason }).await
    }

    /// Keeps a run, or jobs of it, from beginning, or lets them.
    ///
    /// # Errors
    /// 409 when a job has begun.
    pub async fn hold_run(
        &self,
        principal: &Principal,
        run: RunId,
        jobs: Option<String>,
        held: bool,
        reason: Option<String>,
    ) -> Result<StoredRun, Problem> {
        self.operate(principal, run, CommandKind::HoldRun { run, jobs, held, reason }).await
    }

    /// Switches jobs of a run off or on.
    ///
    /// # Errors
    /// 409 when a job has begun.
    pub async fn disable(
        &self,
        principal: &Principal,
        run: RunId,
        jobs: String,
        disabled: bool,
        reason: Option<String>,
    ) -> Result<StoredRun, Problem> {
        self.operate(principal, run, CommandKind::Disable { run, jobs, disabled, reason }).await
    }

    /// Gives a run other code for the jobs that have not begun.
    ///
    /// # Errors
    /// 409 when it is over.
    pub async fn reload(&self, principal: &Principal, id: RunId, bundle: Option<Sha>) -> Result<StoredRun, Problem> {
        let stored = self.run(principal, id).await?;
        let project = stored.run.project.clone();
        principal.may(Role::Operator, &project)?;
        if !stored.run.cause.is_of_a_workflow() {
            let detail = format!("run {id} is of no workflow; there is no other code for its job");
            return Err(Problem::new("wrong-state", detail));
        }
        let _held = self.bundles.hold().await;
        let target = self.target_of_run(&stored.run).await?;
        let workflow = &stored.run.workflow;
        let (_, version, bundle) = self.code_for(principal, &project, (workflow, target.as_ref()), bundle).await?;
        self.may_run_there(principal, &project, target.as_ref(), Some((workflow, bundle))).await?;
        self.operate(principal, id, CommandKind::Reload { run: id, code: Code { bundle, version } }).await
    }

    /// How many runs of a workflow are under way.
    pub(crate) async fn in_flight(
        &self,
        principal: &Principal,
        project: &ProjectName,
        workflow: &WorkflowName,
        target: Option<&Arc<Target>>,
    ) -> Result<u32, Problem> {
        let mut count = 0;
        for state in ["queued", "running"] {
            let query = Query::Runs {
                project: Some(project.clone()),
                workflow: Some(workflow.clone()),
                target: name_of(target),
                state: Some(state.to_owned()),
                backfill: None,
                ends_with: None,
                before: None,
                limit: 1000,
            };
            if let Answer::Runs(runs) = self.store.read(&Self::who(principal), query).await? {
                count += runs.len() as u32;
            }
        }
        Ok(count)
    }
}

/// The answer for a backfill that is not there, or that the caller may not know of.
pub(crate) fn backfill_not_found(id: &str) -> Problem {
    Problem::new("backfill-not-found", format!("no backfill \"{id}\" in the projects that this token can see"))
        .hint("List them with GET /api/v1/backfills.")
}
