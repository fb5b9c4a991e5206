//! Does what the owner decided for one attempt: runs its phases, hands specs to engines, publishes, cleans up.
//!
//! Every piece of work ends in reports to the owner. Nothing here decides what comes next; a report of an attempt that
//! was stopped meanwhile carries an old epoch and is ignored. Cleanup begins when nothing works on the attempt any more, and
//! nothing starts for it afterwards.
//!
//! Of the server's own time for an attempt, the two largest costs are making and removing its scratch folder and command
//! socket (the file system's search for inodes: a quarter of the processor time of everything where ext4 has no journal),
//! and writing its rows for each report.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use futures::FutureExt;
use pinrail_model::document::{ExecutorKind, Job, JobKind, ParamType, Sha, SqlSource};
use pinrail_model::fault::{Evidence, Fault, Reason};
use pinrail_model::ids::{AttemptId, RunId, SessionId};
use pinrail_model::names::{JobName, ProjectName, TaskName, WorkflowName};
use pinrail_model::run::{
    Attempt, CleanupEnd, Event, Executed, Instance, Loss, Phase, Report, RetryWish, Run, TaskIx, Verdict, Work,
};
use pinrail_model::schedule::{ds, zone};
use pinrail_model::seam::exec::{Assignment, AttemptSink, CodePlaceOnDisk, Executor, Spec, Stream, Stretch};
use pinrail_model::seam::lake::{Catalog, Pointers, QueryEngine};
use pinrail_model::seam::store::{Answer, Query, Store, StoreError, Who};
use pinrail_model::step;
use pinrail_model::target::Target;
use pinrail_model::time::{Clock, Interval};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::app::App;
use crate::bundles::Bundles;
use crate::conditions::Conditions;
use crate::environments::{Code, Environments};
use crate::inputs::working_folder;
use crate::logs::LogWriter;
use crate::owner::{Input, OwnerHandle, Published};
use crate::places::Places;
use crate::project::Project;
use crate::secrets::{Revealed, declared};
use crate::sink::Sink;
use crate::subruns::{Asked, SubRuns, left_behind};
use crate::tenancy::Tenancy;
use crate::vault::Vault;
use crate::workers::Workers;

/// How long a process may take to end by itself when it is asked to.
const GRACE: Duration = Duration::from_secs(10);
/// How often a publication is prepared again because somebody else's came first.
const MOST_PREPARATIONS: usize = 10;

/// What attempts need of the server.
pub struct AttemptParts {
    pub state: PathBuf,
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub bundles: Bundles,
    /// What runs processes on this machine.
    pub executors: HashMap<ExecutorKind, Arc<dyn Executor>>,
    pub workers: Arc<Workers>,
    /// The embedded engine; none in a build without it.
    pub engine: Option<Arc<dyn QueryEngine>>,
    pub catalog: Option<Arc<dyn Catalog>>,
    pub interpreter: PathBuf,
    pub environments: Arc<Environments>,
    pub vault: Arc<Vault>,
    /// What this installation is called.
    pub installation: String,
    /// Who shares this server.
    pub tenancy: Tenancy,
    /// Kills what carries the installation's name and these attempts' ids.
    pub kill_marked: fn(&str, &BTreeSet<String>),
}

/// All attempts of this server.
pub struct Attempts {
    pub parts: AttemptParts,
    pub(crate) conditions: Conditions,
    pub(crate) places: Places,
    live: Mutex<HashMap<AttemptId, Arc<Live>>>,
    sub_runs: OnceLock<Weak<dyn SubRuns>>,
}

/// What is known of an attempt between its pieces of work.
pub(crate) struct Live {
    pub log: LogWriter,
    /// It has staged tables, or nobody knows that it has not.
    pub wrote: std::sync::atomic::AtomicBool,
    /// Something of the user's has run, and its class defines `cleanup`; or nobody knows better.
    pub cleans_up: std::sync::atomic::AtomicBool,
    /// What its statements and processes counted so far, by group and name.
    pub counted: Mutex<BTreeMap<(String, String), f64>>,
    /// It was told of once that there are too many.
    pub counters_refused: std::sync::atomic::AtomicBool,
    /// Nothing more is started for it but its cleanup.
    pub stop: watch::Sender<bool>,
    /// Held by whatever works on it, so that cleanup begins when nothing does.
    busy: tokio::sync::Mutex<()>,
    revealed: Mutex<Arc<Revealed>>,
}

impl Live {
    /// The secrets that the attempt may use, as they were when its latest piece of work began.
    pub fn revealed(&self) -> Arc<Revealed> {
        Arc::clone(&self.revealed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A copy of all that one piece of work needs to know.
#[derive(Clone)]
pub struct Ticket {
    pub run: RunId,
    pub task: TaskIx,
    pub epoch: u64,
    pub generation: u32,
    pub project: ProjectName,
    pub target: Option<Arc<Target>>,
    pub workflow: WorkflowName,
    pub job: Arc<Job>,
    pub attempt: Arc<Attempt>,
    pub interval: Interval,
    pub tz: String,
    pub params: BTreeMap<String, Value>,
    pub param_types: BTreeMap<String, ParamType>,
    pub upstream: BTreeMap<String, Value>,
    /// Which item of its job's list it works on, if the job is mapped.
    pub instance: Option<Instance>,
    pub bundle: Sha,
    /// A run of a workflow that an earlier attempt has left behind.
    pub left_behind: Option<RunId>,
}

impl Ticket {
    /// What the work on a task needs; none when the task has no attempt.
    #[must_use]
    pub fn new(run: &Run, work: &Work) -> Option<Self> {
        let (Work::Begin { task, epoch }
        | Work::Submit { task, epoch }
        | Work::Reattach { task, epoch }
        | Work::Complete { task, epoch }
        | Work::Publish { task, epoch }
        | Work::Clean { task, epoch, .. }
        | Work::Watch { task, epoch }
        | Work::Set { task, epoch, .. }) = work;
        let (found, job) = (run.tasks.get(*task)?, run.graph.jobs.get(*task)?);
        let mut params = run.params.clone();
        // Of a job that runs a workflow they are that run's, and made of these.
        if job.kind != JobKind::Workflow {
            params.extend(job.params.clone());
        }
        Some(Self {
            run: run.id,
            task: *task,
            epoch: *epoch,
            generation: found.generation,
            project: run.project.clone(),
            target: run.target.clone(),
            workflow: run.workflow.clone(),
            job: Arc::clone(job),
            attempt: Arc::clone(found.attempts.last()?),
            interval: run.interval,
            tz: run.tz.clone(),
            params,
            param_types: run.param_types.clone(),
            upstream: upstream(run, *task),
            instance: found.instance.as_deref().cloned(),
            bundle: found.bundle,
            left_behind: left_behind(found),
        })
    }

    /// What its task is called: the job, or the instance of it.
    #[must_use]
    pub fn task_name(&self) -> TaskName {
        match &self.instance {
            Some(instance) => TaskName::of_instance(&self.job.name, instance.index),
            None => TaskName::from(&self.job.name),
        }
    }

    /// The local date that the job calls `ds`.
    #[must_use]
    pub fn ds(&self) -> String {
        zone(&self.tz).map(|tz| ds(self.interval, tz).to_string()).unwrap_or_default()
    }
}

/// What the jobs above left, within the run or in an earlier one.
pub(crate) fn upstream(run: &Run, task: TaskIx) -> BTreeMap<String, Value> {
    // An instance is given its item: ten thousand of them would be given the list ten thousand times.
    let list = run.map_of(task);
    let but = |job: &JobName| list.filter(|map| map.job == *job).map(|map| map.output.as_str());
    let after = run.graph.jobs.get(task).into_iter().flat_map(|job| &job.after);
    let outside = after.filter_map(|name| {
        let outputs = run.outside.get(name)?.iter().filter(|(output, _)| but(name) != Some(output.as_str()));
        let outputs: BTreeMap<_, _> = outputs.collect();
        Some((name.to_string(), json!({"state": "succeeded", "outputs": outputs})))
    });
    let inside = run.graph.inputs(task).iter().map(|ix| {
        let parent = &run.tasks[*ix];
        let mut left = json!({"state": parent.state_name(), "outputs": run.outputs_but(*ix, but(&parent.job))});
        if let Some(count) = parent.spread {
            left["instances"] = json!(count);
        }
        (parent.job.to_string(), left)
    });
    outside.chain(inside).collect()
}

impl Attempts {
    #[must_use]
    pub fn new(parts: AttemptParts) -> Arc<Self> {
        Arc::new(Self {
            parts,
            conditions: Conditions::default(),
            places: Places::default(),
            live: Mutex::default(),
            sub_runs: OnceLock::new(),
        })
    }

    /// Lets jobs have runs of workflows. Attempts are part of what makes runs, so that comes after them.
    pub fn may_run_workflows(&self, app: &Arc<App>) {
        let app: Weak<App> = Arc::downgrade(app);
        // There is one for ever.
        let _ = self.sub_runs.set(app);
    }

    pub(crate) fn sub_runs(&self) -> Option<Arc<dyn SubRuns>> {
        self.sub_runs.get()?.upgrade()
    }

    /// Where logs lie.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.parts.state.join("logs")
    }

    /// Tells of new frames in the log of an attempt that is under way.
    #[must_use]
    pub fn log_news(&self, attempt: AttemptId) -> Option<tokio::sync::watch::Receiver<u64>> {
        self.lock().get(&attempt).map(|live| live.log.news())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AttemptId, Arc<Live>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn live(&self, ticket: &Ticket, fresh: bool) -> Arc<Live> {
        let id = ticket.attempt.id;
        let make = || {
            Arc::new(Live {
                log: LogWriter::new(&self.logs(), id, fresh),
                wrote: (!fresh).into(),
                cleans_up: (!fresh && ticket.job.kind == JobKind::Class).into(),
                counted: Mutex::default(),
                counters_refused: false.into(),
                stop: watch::Sender::new(false),
                busy: tokio::sync::Mutex::default(),
                revealed: Mutex::default(),
            })
        };
        Arc::clone(self.lock().entry(id).or_insert_with(make))
    }

    /// Whether success has nothing to do with tables, so that it needs no preparation.
    pub(crate) fn has_nothing_to_publish(&self, run: &Run, task: TaskIx) -> bool {
        let declared = run.graph.jobs[task].writes.is_some();
        let Some(attempt) = run.tasks.get(task).and_then(|task| task.attempt()) else { return false };
        let wrote =
            self.lock().get(&attempt.id).is_none_or(|live| live.wrote.load(std::sync::atomic::Ordering::SeqCst));
        self.parts.catalog.is_none() || (!declared && !wrote)
    }

    /// Forgets the attempts of a run that is over.
    pub(crate) fn forget(&self, run: &Run) {
        let mut live = self.lock();
        for attempt in run.tasks.iter().flat_map(|task| &task.attempts) {
            live.remove(&attempt.id);
        }
    }

    /// The folder of a project on this machine, if the server knows it, and it is there and the project's own.
    pub(crate) async fn project_folder(&self, project: &ProjectName) -> Result<Option<PathBuf>, StoreError> {
        let folder = self.places.folder(self.parts.store.as_ref(), project).await?;
        Ok(folder.filter(|folder| folder.is_dir() && self.parts.tenancy.owns(project, folder)))
    }

    /// Kills whatever a former server left of these attempts.
    pub(crate) async fn kill_leftovers(&self, attempts: BTreeSet<String>) {
        if attempts.is_empty() {
            return;
        }
        let (kill, installation) = (self.parts.kill_marked, self.parts.installation.clone());
        if let Err(error) = tokio::task::spawn_blocking(move || kill(&installation, &attempts)).await {
            tracing::error!(%error, "leftovers could not be killed");
        }
    }

    /// Begins a piece of work; its end reaches the owner as a report.
    pub(crate) fn dispatch(self: &Arc<Self>, ticket: Ticket, work: Work, owner: OwnerHandle) {
        let fresh = matches!(work, Work::Begin { .. });
        let live = self.live(&ticket, fresh);
        let job = Arc::new(OneWork { attempts: Arc::clone(self), ticket, live, owner });
        tokio::spawn(async move {
            let cleans = matches!(work, Work::Clean { .. });
            if AssertUnwindSafe(Arc::clone(&job).work(work)).catch_unwind().await.is_ok() {
                return;
            }
            // The panic's hook has written where; the owner must hear of an end all the same.
            let message = "the server failed while it worked on this attempt; server.log says where";
            if cleans {
                job.report(Report::CleanupEnded(CleanupEnd { ok: false, detail: Some(message.to_owned()) }));
            } else {
                let evidence = Evidence::new(message).reason(Reason::ServerFailed);
                job.report(Report::Failed(Verdict::failed(Fault::Platform, None, evidence)));
            }
        });
    }
}

/// One piece of work on one attempt.
pub(crate) struct OneWork {
    pub attempts: Arc<Attempts>,
    pub ticket: Ticket,
    pub live: Arc<Live>,
    pub owner: OwnerHandle,
}

impl OneWork {
    async fn work(self: Arc<Self>, work: Work) {
        if let Work::Clean { graceful, .. } = work {
            self.reveal().await;
            return self.clean(graceful).await;
        }
        let live = Arc::clone(&self.live);
        let _busy = live.busy.lock().await;
        let withheld = self.reveal().await;
        match work {
            Work::Begin { .. } => self.begin(withheld).await,
            Work::Submit { .. } => self.submit().await,
            Work::Reattach { .. } => self.reattach().await,
            Work::Complete { .. } => self.complete().await,
            Work::Publish { .. } => self.publish().await,
            Work::Clean { .. } | Work::Watch { .. } | Work::Set { .. } => {}
        }
    }

    pub(crate) fn report(&self, mut report: Report) {
        self.live.revealed().masks.report(&mut report);
        let (task, epoch) = (self.ticket.task, self.ticket.epoch);
        self.owner.event(self.ticket.run, Event::Reported { task, epoch, report });
    }

    pub(crate) fn lost(&self) {
        let (task, epoch) = (self.ticket.task, self.ticket.epoch);
        self.owner.event(self.ticket.run, Event::Lost { task, epoch, by: Loss::Launcher });
    }

    pub(crate) fn fail(&self, fault: Fault, phase: Phase, evidence: Evidence) {
        self.report(Report::Failed(Verdict::failed(fault, Some(phase), evidence)));
    }

    /// Ends the attempt because a phase cannot even begin.
    pub(crate) fn cannot(self: &Arc<Self>, fault: Fault, phase: Phase, evidence: Evidence) {
        self.sink().tell_failure(phase, &evidence);
        // What is wrong with the code is as wrong at the next try.
        let retry = if fault == Fault::User { RetryWish::Never } else { RetryWish::None };
        self.report(Report::Failed(Verdict { retry, ..Verdict::failed(fault, Some(phase), evidence) }));
    }

    pub(crate) fn sink(self: &Arc<Self>) -> Sink {
        Sink::new(Arc::clone(self), Some(self.live.stop.subscribe()))
    }

    /// What runs processes where the attempt has its slot.
    fn executor(&self, kind: ExecutorKind) -> Option<Arc<dyn Executor>> {
        let parts = &self.attempts.parts;
        let local = parts.executors.get(&kind)?;
        Some(parts.workers.executor(self.ticket.attempt.session, kind).unwrap_or_else(|| Arc::clone(local)))
    }

    /// Opens the declared secrets; gives the reason when one of them cannot be had.
    async fn reveal(&self) -> Option<Evidence> {
        if declared(&self.ticket.job).is_empty() {
            return None;
        }
        let parts = &self.attempts.parts;
        let before = self.live.revealed();
        let (revealed, withheld) = Revealed::open(parts.store.as_ref(), &parts.vault, &self.ticket, &before).await;
        *self.live.revealed.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(revealed);
        withheld
    }

    // From setup on.

    async fn begin(self: Arc<Self>, withheld: Option<Evidence>) {
        step!("attempt.before-begin");
        if let Some(evidence) = withheld {
            // A try by itself would find the same; whoever sets the secret retries.
            let failed = Verdict::failed(Fault::User, Some(Phase::Setup), evidence);
            return self.report(Report::Failed(Verdict { retry: RetryWish::Never, ..failed }));
        }
        if self.ticket.job.kind == JobKind::Sql {
            return self.begin_sql().await;
        }
        if self.ticket.job.kind == JobKind::Workflow {
            return self.begin_workflow().await;
        }
        let phases = vec![Phase::Setup, Phase::Execute, Phase::Complete];
        let assignment = match self.assignment(phases).await {
            Ok(assignment) => assignment,
            Err((fault, evidence)) => return self.cannot(fault, Phase::Setup, evidence),
        };
        let Some(executor) = self.executor(self.ticket.attempt.executor) else {
            return self.fail(Fault::User, Phase::Setup, self.unavailable());
        };
        let sink = self.sink();
        let stretch = match executor.run(&assignment, &sink).await {
            Stretch::Failed(verdict) if self.ticket.job.kind == JobKind::Shell => {
                Stretch::Failed(sink.with_last_words(verdict))
            }
            stretch => stretch,
        };
        self.conclude(stretch);
    }

    fn unavailable(&self) -> Evidence {
        Evidence::new(format!("executor \"{}\" is not available here", self.ticket.attempt.executor))
            .reason(Reason::ExecutorMissing)
    }

    fn conclude(&self, stretch: Stretch) {
        match stretch {
            Stretch::Completed { outputs } => self.report(Report::Completed { outputs }),
            Stretch::Specified(executed) => self.report(Report::Specified(executed)),
            Stretch::Failed(verdict) => self.report(Report::Failed(verdict)),
            Stretch::Lost => self.lost(),
            Stretch::Cleaned => {}
        }
    }

    /// SQL jobs have no process: the platform sets up and the engine executes.
    async fn begin_sql(self: Arc<Self>) {
        let Some(source) = self.ticket.job.sql.clone() else {
            return self.fail(
                Fault::Platform,
                Phase::Setup,
                Evidence::new("the job's SQL is not in its workflow version").reason(Reason::StateFailed),
            );
        };
        self.report(Report::PhaseStarted(Phase::Setup));
        let sink = self.sink();
        if let Err(error) = sink.check_sql(&source).await {
            sink.tell_failure(Phase::Setup, &error.1);
            self.report(Report::PhaseEnded { phase: Phase::Setup, ok: false });
            return self.report(Report::Failed(Verdict::failed(error.0, Some(Phase::Setup), error.1)));
        }
        self.report(Report::PhaseEnded { phase: Phase::Setup, ok: true });
        if let Err(message) = sink.fix_view().await {
            return self.fail(Fault::Platform, Phase::Setup, Evidence::new(message).reason(Reason::StateFailed));
        }
        self.report(Report::PhaseStarted(Phase::Execute));
        let spec = Spec::Sql { source, params: BTreeMap::new(), writes: None };
        self.report(Report::Specified(Executed { spec: Some(spec), ..Executed::default() }));
    }

    // What `execute` returned.

    async fn submit(self: Arc<Self>) {
        step!("attempt.before-submit");
        let spec = self.ticket.attempt.executed.as_ref().and_then(|executed| executed.spec.clone());
        match spec {
            Some(Spec::Sql { source, params, writes }) => self.submit_sql(source, params, writes).await,
            Some(Spec::Shell { command, env }) => self.submit_shell(command, env).await,
            Some(Spec::Workflow { workflow, params }) => self.submit_workflow(Asked { workflow, params }).await,
            None => {
                let evidence = Evidence::new("what was to be submitted is lost").reason(Reason::StateFailed);
                self.fail(Fault::Platform, Phase::Execute, evidence);
            }
        }
    }

    async fn submit_sql(
        self: Arc<Self>,
        source: SqlSource,
        params: BTreeMap<String, Value>,
        writes: Option<Vec<pinrail_model::seam::lake::Writes>>,
    ) {
        let sink = self.sink();
        let ended = tokio::select! {
            biased;
            // A query that is ended by a stop has nothing more to say.
            () = sink.stopped() => return,
            ended = sink.run_sql(&source, &params, writes) => ended,
        };
        match ended {
            Ok((result, outputs)) => self.report(Report::EngineEnded { result, outputs }),
            Err((fault, evidence)) => {
                sink.tell_failure(Phase::Execute, &evidence);
                self.fail(fault, Phase::Execute, evidence);
            }
        }
    }

    async fn submit_shell(self: Arc<Self>, command: Vec<String>, env: BTreeMap<String, String>) {
        let Some(executor) = self.executor(ExecutorKind::Shell) else {
            let evidence = Evidence::new("executor \"shell\" is not available here").reason(Reason::ExecutorMissing);
            return self.fail(Fault::User, Phase::Execute, evidence);
        };
        let mut assignment = match self.assignment(vec![Phase::Execute]).await {
            Ok(assignment) => assignment,
            Err((fault, evidence)) => return self.cannot(fault, Phase::Execute, evidence),
        };
        assignment.command = command;
        assignment.folder = match self.working_folder(&assignment.code, &assignment.scratch).await {
            Ok(folder) => folder,
            Err(evidence) => return self.fail(Fault::Platform, Phase::Execute, evidence),
        };
        assignment.env.extend(env);
        let sink = self.sink();
        match executor.run(&assignment, &sink).await {
            Stretch::Completed { outputs } => {
                self.report(Report::EngineEnded { result: json!({"state": "succeeded"}), outputs });
            }
            Stretch::Failed(verdict) => self.report(Report::Failed(sink.with_last_words(verdict))),
            _ => self.lost_engine(Loss::Launcher),
        }
    }

    fn lost_engine(&self, by: Loss) {
        let (message, reason) = match by {
            Loss::Owner => ("the server died while what execute returned ran", Reason::ServerLost),
            _ => ("the process that ran what execute returned was lost", Reason::ProcessLost),
        };
        let evidence = Evidence::new(message).reason(reason);
        let lost = Verdict {
            ends: pinrail_model::run::Ends::Lost,
            lost: Some(by),
            ..Verdict::failed(Fault::Platform, Some(Phase::Execute), evidence)
        };
        self.report(Report::Failed(lost));
    }

    /// What ran on an engine of a server that is gone is gone with it. What it had staged is dropped with its attempt, so
    /// that the next one starts clean: run again within the same attempt, an INSERT would find its own rows. A run of a
    /// workflow goes on by itself.
    async fn reattach(self: Arc<Self>) {
        match self.ticket.attempt.sub_workflow() {
            Some(_) => self.submit().await,
            None => self.lost_engine(Loss::Owner),
        }
    }

    // Complete, in a process of its own.

    async fn complete(self: Arc<Self>) {
        if self.ticket.job.kind != JobKind::Class {
            self.report(Report::PhaseStarted(Phase::Complete));
            self.report(Report::PhaseEnded { phase: Phase::Complete, ok: true });
            return self.report(Report::Completed { outputs: BTreeMap::new() });
        }
        let assignment = match self.assignment(vec![Phase::Complete]).await {
            Ok(assignment) => assignment,
            Err((fault, evidence)) => return self.cannot(fault, Phase::Complete, evidence),
        };
        let Some(executor) = self.executor(self.ticket.attempt.executor) else {
            return self.fail(Fault::User, Phase::Complete, self.unavailable());
        };
        // What a lost worker has of it must be gone.
        self.attempts.parts.workers.settle(self.ticket.attempt.id, self.ticket.attempt.session).await;
        let sink = self.sink();
        let stretch = executor.run(&assignment, &sink).await;
        self.conclude(stretch);
    }

    // Success is the commit.

    async fn publish(self: Arc<Self>) {
        let (run, task, epoch) = (self.ticket.run, self.ticket.task, self.ticket.epoch);
        let sink = self.sink();
        for _ in 0..MOST_PREPARATIONS {
            step!("publish.before-prepare");
            let (swaps, written) = match sink.prepare().await {
                Ok(prepared) => prepared,
                Err((fault, evidence)) => return self.fail(fault, Phase::Complete, evidence),
            };
            step!("publish.before-commit");
            let publish = |answer| Input::Publish { run, task, epoch, swaps, written, answer };
            let published = self.owner.ask(publish).await;
            step!("publish.after-commit");
            match published {
                Some(Published::Moved(_)) => {}
                _ => return,
            }
        }
        let message = format!("other writers changed the same tables {MOST_PREPARATIONS} times in a row");
        self.fail(Fault::Conflict, Phase::Complete, Evidence::new(message).reason(Reason::Conflict));
    }

    // Cleanup.

    async fn clean(self: Arc<Self>, graceful: bool) {
        step!("attempt.before-clean");
        self.live.stop.send_replace(true);
        let grace = if graceful { GRACE } else { Duration::ZERO };
        for executor in self.attempts.parts.executors.values() {
            executor.stop(self.ticket.attempt.id, grace).await;
        }
        self.attempts.parts.workers.stop(self.ticket.attempt.id, grace).await;
        // What was about to start something has seen the stop, and undone it.
        let _idle = self.live.busy.lock().await;
        self.stop_sub_run().await;
        self.report(Report::PhaseStarted(Phase::Cleanup));
        let end = if self.live.cleans_up.load(std::sync::atomic::Ordering::SeqCst) {
            self.user_cleanup().await
        } else {
            CleanupEnd { ok: true, detail: None }
        };
        remove(&self.scratch());
        remove(&self.scratch().with_extension("folder"));
        self.attempts.parts.workers.forget(self.ticket.attempt.id);
        step!("attempt.after-clean");
        self.report(Report::CleanupEnded(end));
    }

    async fn user_cleanup(self: &Arc<Self>) -> CleanupEnd {
        let failed = |detail: String| CleanupEnd { ok: false, detail: Some(detail) };
        let assignment = match self.assignment(vec![Phase::Cleanup]).await {
            Ok(assignment) => assignment,
            Err((_, evidence)) => return failed(evidence.message),
        };
        let Some(executor) = self.executor(self.ticket.attempt.executor) else {
            return failed(self.unavailable().message);
        };
        // The stop was for what came before.
        let sink = Sink::new(Arc::clone(self), None);
        let limit = self.ticket.job.cleanup_timeout();
        match tokio::time::timeout(limit, executor.run(&assignment, &sink)).await {
            Ok(Stretch::Cleaned | Stretch::Completed { .. } | Stretch::Specified(_)) => {
                CleanupEnd { ok: true, detail: None }
            }
            Ok(Stretch::Failed(verdict)) => failed(verdict.evidence.message),
            Ok(Stretch::Lost) => failed("the process that ran cleanup was lost".to_owned()),
            Err(_) => {
                executor.stop(self.ticket.attempt.id, GRACE).await;
                failed(format!("cleanup exceeded its time limit of {} s", limit.as_secs()))
            }
        }
    }

    // What an executor is told.

    pub(crate) fn scratch(&self) -> PathBuf {
        let projects = projects_scratch(&self.attempts.parts.state);
        projects.join(self.ticket.project.as_str()).join(self.ticket.attempt.id.to_string())
    }

    pub(crate) async fn assignment(&self, phases: Vec<Phase>) -> Result<Assignment, (Fault, Evidence)> {
        let platform = |evidence: Evidence| {
            let reason = evidence.reason.unwrap_or(Reason::MachineFailed);
            (Fault::Platform, evidence.reason(reason))
        };
        let ticket = &self.ticket;
        let (mut code, settings) = self.place().await.map_err(platform)?;
        // A worker elsewhere builds its own.
        if let Some(settings) = settings.as_ref().filter(|_| ticket.attempt.session == SessionId::SERVER) {
            self.equip(&mut code, settings, &phases).await?;
        }
        let scratch = self.scratch();
        let is_class = ticket.job.kind == JobKind::Class;
        let folder =
            if is_class { code.root.clone() } else { self.working_folder(&code, &scratch).await.map_err(platform)? };
        Ok(Assignment {
            folder,
            attempt: ticket.attempt.id,
            number: ticket.attempt.number,
            epoch: ticket.epoch,
            run: ticket.run,
            project: ticket.project.clone(),
            workflow: ticket.workflow.clone(),
            job: Arc::clone(&ticket.job),
            phases,
            context: if is_class { self.context(&code) } else { Map::new() },
            env: self.env(&scratch),
            code,
            scratch,
            command: ticket.job.shell.clone().unwrap_or_default(),
            cleanup_limit: ticket.job.cleanup_timeout(),
        })
    }

    /// Where a command finds the project's files by their relative paths.
    async fn working_folder(&self, code: &CodePlaceOnDisk, scratch: &Path) -> Result<PathBuf, Evidence> {
        let (Some(_), Some(project)) = (&code.patterns, code.project.clone()) else { return Ok(code.root.clone()) };
        let settings = self.attempts.places.settings(&code.root, &self.ticket.project, code.bundle);
        let Some(settings) = settings else { return Ok(code.root.clone()) };
        // Beside the scratch folder, in which names may be anybody's.
        let (target, root, state) =
            (scratch.with_extension("folder"), code.root.clone(), self.attempts.parts.state.clone());
        let made =
            tokio::task::spawn_blocking(move || working_folder(&target, &root, &project, &settings, &state)).await;
        let made = made.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        let made = made.map_err(|e| {
            let message = format!("the command's working folder cannot be made: {e}");
            Evidence::new(message).reason(Reason::MachineFailed)
        })?;
        Ok(made.unwrap_or_else(|| code.root.clone()))
    }

    /// Gives the attempt the Python environment of its bundle, built if it is not there.
    async fn equip(
        &self,
        code: &mut CodePlaceOnDisk,
        settings: &Project,
        phases: &[Phase],
    ) -> Result<(), (Fault, Evidence)> {
        let (ticket, parts) = (&self.ticket, &self.attempts.parts);
        let wanting = Code {
            project: &ticket.project,
            bundle: code.bundle,
            root: &code.root,
            folder: code.project.as_deref(),
            settings,
        };
        let tell = |words: &str| {
            self.live.log.append(parts.clock.now().wall, phases.first().copied(), Stream::System, words.as_bytes());
        };
        let equipped = parts.environments.ensure(wanting, &ticket.job.extras, &tell);
        let equipped = if phases == [Phase::Cleanup] {
            equipped.await
        } else {
            let mut stop = self.live.stop.subscribe();
            tokio::select! {
                biased;
                // It is built to its end all the same, for whoever needs it next.
                _ = stop.wait_for(|stop| *stop) => {
                    let stopped = Evidence::new("the attempt was stopped").reason(Reason::Stopped);
                    return Err((Fault::Cancelled, stopped));
                }
                equipped = equipped => equipped,
            }
        };
        if let Some(environment) = equipped.map_err(|error| error.fault())? {
            code.interpreter = environment.python();
            if phases.contains(&Phase::Setup) {
                self.report(Report::Equipped { environment: environment.digest });
            }
            code.environment = Some(environment.folder);
        }
        Ok(())
    }

    /// The unpacked bundle and the project's own folder.
    pub(crate) async fn code(&self) -> Result<CodePlaceOnDisk, Evidence> {
        self.place().await.map(|(code, _)| code)
    }

    /// The same with what `pinrail.toml` says.
    async fn place(&self) -> Result<(CodePlaceOnDisk, Option<Arc<Project>>), Evidence> {
        let parts = &self.attempts.parts;
        let _held = parts.bundles.hold().await;
        let root = match parts.bundles.at_hand(self.ticket.bundle) {
            Some(root) => root,
            None => self.unpack().await?,
        };
        let project = self.attempts.project_folder(&self.ticket.project).await;
        let project = project.map_err(|e| Evidence::new(e.to_string()).reason(Reason::StateFailed))?;
        let bundle = self.ticket.bundle;
        let settings = self.attempts.places.settings(&root, &self.ticket.project, bundle);
        let files = settings.as_ref().and_then(|settings| settings.files.as_ref());
        let patterns = files.map(|files| files.values().cloned().collect());
        let base = project.as_deref().unwrap_or(&root);
        let interpreter = settings.as_ref().and_then(|settings| settings.interpreter.as_ref());
        let interpreter = interpreter.map_or_else(|| parts.interpreter.clone(), |name| resolve_interpreter(base, name));
        let code = CodePlaceOnDisk { root, project, patterns, bundle, interpreter, environment: None };
        Ok((code, settings))
    }

    async fn unpack(&self) -> Result<PathBuf, Evidence> {
        self.unpacked().await.map_err(|evidence| evidence.reason(Reason::CodeMissing))
    }

    async fn unpacked(&self) -> Result<PathBuf, Evidence> {
        let parts = &self.attempts.parts;
        let query = Query::Bundle { project: self.ticket.project.clone(), sha: self.ticket.bundle };
        let answer = parts.store.read(&Who::default(), query).await;
        let manifest = match answer.map_err(|e| Evidence::new(e.to_string()))? {
            Answer::Bundle(row) => row.manifest,
            _ => return Err(Evidence::new(format!("bundle {} is not known", self.ticket.bundle.short()))),
        };
        let bundles = parts.bundles.clone();
        let root = tokio::task::spawn_blocking(move || bundles.unpack(&manifest)).await;
        root.map_err(|e| Evidence::new(e.to_string()))?.map_err(|e| Evidence::new(e.to_string()).remedy(e.hint()))
    }

    fn context(&self, code: &CodePlaceOnDisk) -> Map<String, Value> {
        let ticket = &self.ticket;
        let executed = ticket.attempt.executed.as_ref();
        let context = json!({
            "run": {"id": ticket.run, "url": format!("/api/v1/runs/{}", ticket.run)},
            "files": code.patterns,
            "ds": ticket.ds(),
            "interval": ticket.interval,
            "tz": ticket.tz,
            "params": ticket.params,
            "param_types": ticket.param_types,
            "target": ticket.target.as_ref().map(|target| &target.name),
            "vars": ticket.target.as_ref().map(|target| &target.vars),
            "upstream": ticket.upstream,
            "instance": ticket.instance,
            "secrets": ticket.job.secrets,
            "state": ticket.attempt.state_left,
            "result": executed.map(|executed| &executed.result),
            "specified": executed.is_some_and(|executed| executed.spec.is_some()),
        });
        context.as_object().cloned().unwrap_or_default()
    }

    fn env(&self, scratch: &Path) -> BTreeMap<String, String> {
        let ticket = &self.ticket;
        let mut env: BTreeMap<String, String> = ticket.job.env.clone();
        let mut set = |name: &str, value: String| env.insert(name.to_owned(), value);
        let revealed = self.live.revealed();
        for (name, secret) in ticket.job.secret_env.iter().filter(|_| ticket.job.kind == JobKind::Shell) {
            if let Some(value) = revealed.value(secret) {
                set(name, value.to_owned());
            }
        }
        set("TMPDIR", scratch.display().to_string());
        set("PINRAIL_INSTALLATION", self.attempts.parts.installation.clone());
        set("PINRAIL_RUN", ticket.run.to_string());
        set("PINRAIL_DS", ticket.ds());
        set("PINRAIL_INTERVAL_START", ticket.interval.start.to_string());
        set("PINRAIL_INTERVAL_END", ticket.interval.end.to_string());
        for (name, value) in &ticket.params {
            let name: String = name.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_uppercase() }).collect();
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            set(&format!("PINRAIL_PARAM_{name}"), text);
        }
        if let Some(Instance { index, item }) = &ticket.instance {
            set("PINRAIL_INDEX", index.to_string());
            set("PINRAIL_ITEM", item.as_str().map_or_else(|| item.to_string(), str::to_owned));
        }
        if let Some(target) = &ticket.target {
            set("PINRAIL_TARGET", target.name.to_string());
            for (name, value) in &target.vars {
                let name: String = name.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_uppercase() }).collect();
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                set(&format!("PINRAIL_VAR_{name}"), text);
            }
        }
        env
    }
}

/// Where attempts have their own folders, by project.
pub(crate) fn projects_scratch(state: &Path) -> PathBuf {
    state.join("scratch/projects")
}

/// An interpreter as `pinrail.toml` names it: a path relative to the project, or a program on the path.
fn resolve_interpreter(folder: &Path, name: &str) -> PathBuf {
    if name.contains('/') { folder.join(name) } else { PathBuf::from(name) }
}

/// Removes a scratch folder. What cannot be removed is left to the reconciler.
fn remove(folder: &Path) {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(folder = %folder.display(), %error, "a scratch folder cannot be removed");
        }
        _ => {}
    }
}

/// The head of the catalog, for a view that is fixed now.
pub(crate) async fn head(pointers: &dyn Pointers, project: &ProjectName) -> Result<u64, String> {
    pointers.head(project).await.map_err(|e| e.to_string())
}
