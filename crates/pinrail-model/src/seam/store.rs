//! The one database, behind coarse verbs. Each change is a [`Transition`]: all of it or nothing, and asking again with
//! the same id after an unknown outcome gives the first answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::admit::Scope;
use crate::backfill::{Backfill, BackfillState, Progress};
use crate::document::{ExecutorKind, Sha};
use crate::explain::Unpublished;
use crate::fault::Fault;
use crate::ids::{AttemptId, BackfillId, CommandId, NoticeId, RunId, TokenId, TransitionId};
use crate::names::{
    ChannelName, JobName, PoolName, ProjectName, SecretName, TableRef, TargetName, TaskName, WorkflowName,
};
use crate::notify::{Channel, Delivery, NoticeRow, NoticeState, Rules, Usual};
use crate::run::{Attempt, Cause, Class, Control, Ending, Graph, Run, Task, gathered};
use crate::seam::lake::{PointerSwap, Pointers};
use crate::target::{Lane, Place, Target, name_of};
use crate::time::{Interval, Micros};
use crate::trigger::Trigger;

/// The state of everything.
///
/// Implementations promise: a transition is atomic; replies come in the order of the calls; what was committed with
/// [`Durability::Waited`] survives the loss of the machine's power.
#[async_trait]
pub trait Store: Pointers {
    /// Appends to the inbox of the owner, durably.
    async fn send(&self, commands: Vec<Command>) -> Result<(), StoreError>;
    /// The commands without a reply, in order, after a sequence number.
    async fn take(&self, after: u64) -> Result<Vec<(u64, Command)>, StoreError>;
    /// Runs with their tasks and attempts.
    async fn load(&self, what: Load) -> Result<Vec<StoredRun>, StoreError>;
    /// Commits transitions in order; each is refused or made by itself, and those that are made become durable together.
    /// The answers are in the same order.
    async fn commit(&self, transitions: Vec<Transition>, durability: Durability) -> Result<Vec<Reply>, StoreError>;
    /// The answer to a transition that was committed, if it was.
    async fn resolve(&self, id: TransitionId) -> Result<Option<Reply>, StoreError>;
    /// Reads for people and programs; never sees another project than `who` may.
    async fn read(&self, who: &Who, query: Query) -> Result<Answer, StoreError>;
    /// Returns when something about the topic is newer than what the caller knows; spurious returns are allowed.
    async fn follow(&self, topic: Topic, after: u64) -> Result<(), StoreError>;
    /// Writes a consistent copy of everything, as of one moment, to a new file; writers go on meanwhile.
    async fn copy(&self, to: std::path::PathBuf) -> Result<(), StoreError>;
    /// Forgets what is older than a time, `most` runs or rows at once; gives how many. Asked again, it goes on from there.
    async fn forget(&self, what: Forget, before: Micros, most: u32) -> Result<u64, StoreError>;
    /// Becomes the owner: every earlier owner's commits are refused from now on. Gives the new shard epoch.
    async fn lease(&self, holder: &str) -> Result<u64, StoreError>;
}

/// Why the database could not do something. Nothing was changed, unless `unknown` says that nobody can tell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error(
        "the state folder \"{folder}\" was written by a newer version of pinrail (schema {found}, this one knows {known})"
    )]
    Newer { folder: String, found: i64, known: i64 },
    #[error("the state database failed: {0}")]
    Failed(String),
    /// The change may or may not have happened; ask again with the same id.
    #[error("the state database did not answer: {0}")]
    Unknown(String),
}

/// What can be forgotten by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Forget {
    /// Runs that ended before, with everything that belongs to them.
    Runs,
    /// The history of runs that ended before, but for its last line, from which the numbering goes on.
    Events,
    /// The counters of runs that ended before.
    Counters,
    /// The files for people of runs that ended before.
    Files,
    /// Stored replies to requests with an idempotency key.
    Idempotency,
    /// Commands that were answered, with their answers.
    Commands,
    /// Answers to transitions.
    Transitions,
    /// Tokens that expired or were revoked before.
    Tokens,
    /// Ad hoc queries that were asked before.
    AdHocs,
    /// Notices that were delivered or given up, and were of something before.
    Notices,
    /// What table pointers were before the latest [`Write::MarkCatalogs`] that is older, as far as no attempt of an
    /// unfinished run looks at it.
    TableHistory,
}

impl Forget {
    pub const ALL: [Self; 11] = [
        Self::Runs,
        Self::Events,
        Self::Counters,
        Self::Files,
        Self::Idempotency,
        Self::Commands,
        Self::Transitions,
        Self::Tokens,
        Self::AdHocs,
        Self::Notices,
        Self::TableHistory,
    ];
}

/// When a commit returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Once it is durable.
    Waited,
    /// At once; it becomes durable with the next waited commit or shortly after, in order.
    Behind,
}

/// One change.
#[derive(Debug, Clone)]
pub struct Transition {
    pub id: TransitionId,
    /// The owner's shard epoch; none for changes that no owner orders (tokens, secrets, deploys).
    pub shard_epoch: Option<u64>,
    pub fence: Option<Fence>,
    pub writes: Vec<Write>,
    pub publications: Vec<Publication>,
    pub events: Vec<EventRow>,
}

impl Transition {
    #[must_use]
    pub fn new(id: TransitionId, writes: Vec<Write>) -> Self {
        Self { id, shard_epoch: None, fence: None, writes, publications: Vec::new(), events: Vec::new() }
    }
}

/// The change holds only while this attempt's task has this epoch in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    pub attempt: AttemptId,
    pub epoch: u64,
}

/// Pointers that become true with the transition, once per (task, generation).
#[derive(Debug, Clone, PartialEq)]
pub struct Publication {
    pub place: Place,
    pub attempt: AttemptId,
    pub run: RunId,
    pub job: JobName,
    pub instance: String,
    pub generation: u32,
    pub at: Micros,
    pub swaps: Vec<PointerSwap>,
}

/// What became of a transition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    Committed,
    /// Another owner has taken over.
    Stale,
    /// The fence no longer holds, or the task generation was published already.
    Fenced,
    /// A pointer has moved.
    Conflict(TableRef),
    /// Something unique exists already; who has it.
    Exists(String),
    /// What was to be changed is not there.
    Missing,
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Committed => f.write_str("it was committed"),
            Self::Stale => f.write_str("another owner has taken over"),
            Self::Fenced => f.write_str("the attempt is over, or its task was published already"),
            Self::Conflict(table) => write!(f, "table \"{table}\" has changed"),
            Self::Exists(other) => write!(f, "\"{other}\" is there already"),
            Self::Missing => f.write_str("what it changes is not there"),
        }
    }
}

/// One row to insert or replace.
#[derive(Debug, Clone)]
pub enum Write {
    Run(Box<RunRow>),
    Task(Box<TaskRow>),
    Attempt(Box<AttemptRow>),
    Counters(Vec<CounterRow>),
    /// Forgets what the attempt staged, but for the names of the tables.
    DiscardOverlays(AttemptId),
    /// The answer to a command.
    CommandReply {
        command: CommandId,
        reply: Value,
    },
    Project(ProjectRow),
    /// Announces a bundle, perhaps again: `created_at` is when it was announced last.
    Bundle(BundleRow),
    /// Forgets a bundle and its compiled workflows, if it is still as [`Query::IdleBundles`] says.
    DropBundle {
        project: ProjectName,
        sha: Sha,
        before: Micros,
    },
    Version(VersionRow),
    /// Makes these versions the active ones of a project's target: what schedules and runs by name use.
    Activate {
        project: ProjectName,
        /// As the bundle declares it; none: the project has no targets. It takes the place of every other one that has the
        /// same tables.
        target: Option<Arc<Target>>,
        bundle: Sha,
        versions: BTreeMap<WorkflowName, Sha>,
        /// Workflows whose active version stays.
        keep: BTreeSet<WorkflowName>,
        at: Micros,
    },
    Secret(SecretRow),
    /// [`Reply::Missing`] when it is not set.
    DropSecret {
        project: ProjectName,
        name: SecretName,
    },
    Token(TokenRow),
    /// [`Reply::Missing`] when there is none that `who` may see. The first time counts.
    RevokeToken {
        who: Who,
        id: TokenId,
        at: Micros,
    },
    /// Takes note of a request with a key, or of the reply to one that has none yet.
    Idempotency(IdempotencyRow),
    /// Nothing was done under the key.
    DropIdempotency {
        principal: String,
        key: String,
    },
    Query(Box<QueryRow>),
    Log(LogRow),
    File(FileRow),
    Trigger(Box<Trigger>),
    DropTrigger(Lane),
    /// A target that is made for one run alone.
    Scratch {
        project: ProjectName,
        target: Arc<Target>,
    },
    /// Forgets such a target, if it is one.
    DropScratch {
        project: ProjectName,
        name: TargetName,
    },
    Backfill(Box<BackfillRow>),
    /// How far a backfill is, and what that makes of it.
    Progress {
        id: BackfillId,
        state: BackfillState,
        progress: Box<Progress>,
    },
    /// A whole that is held, or with none no longer.
    Hold {
        scope: Scope,
        control: Option<Control>,
    },
    /// Room for attempts, or with no value no limit.
    Limit {
        project: ProjectName,
        name: LimitName,
        set: Option<LimitSet>,
    },
    /// The files under `[files]` as the run found them, in place of what it found before.
    Inputs {
        run: RunId,
        rows: Vec<InputRow>,
    },
    /// Takes note of notices, each once; one of a recovery only if the workflow had failed before.
    Notices(Vec<NoticeRow>),
    /// How far the delivery of a notice is.
    Delivery {
        id: NoticeId,
        delivery: Delivery,
    },
    /// What a project's channels are from now on.
    Channels {
        project: ProjectName,
        channels: BTreeMap<ChannelName, Channel>,
    },
    /// What this installation is called from now on.
    Installation(String),
    /// Notes how far the catalogs of all projects are at a time, for [`Forget::TableHistory`].
    MarkCatalogs {
        at: Micros,
    },
}

#[derive(Debug, Clone)]
pub struct RunRow {
    pub run: Run,
    pub state: &'static str,
    /// At most one run may have it.
    pub unique_key: Option<String>,
}

#[derive(Debug, Clone)]
pub struct TaskRow {
    pub run: RunId,
    /// The place in the run, for the order of lists.
    pub ix: u32,
    pub instance: String,
    pub task: Task,
}

#[derive(Debug, Clone)]
pub struct AttemptRow {
    pub run: RunId,
    pub project: ProjectName,
    pub job: JobName,
    pub instance: String,
    pub epoch: u64,
    pub attempt: Attempt,
}

/// A number that an attempt left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Counter)]
pub struct CounterRow {
    pub attempt: AttemptId,
    pub run: RunId,
    /// `user`, `process`, `sql`, ...
    pub group: String,
    pub name: String,
    pub value: f64,
    pub unit: Option<String>,
}

/// A line of a run's history; `seq` is the run's own, from 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRow {
    pub run: RunId,
    pub seq: u64,
    pub at: Micros,
    pub kind: String,
    pub job: Option<TaskName>,
    pub data: Value,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Project)]
pub struct ProjectRow {
    pub name: ProjectName,
    /// The folder that a server on the same disk reads `[files]` from.
    pub folder: Option<String>,
    pub created_at: Micros,
}

/// What a bundle consists of: path to blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleRow {
    pub project: ProjectName,
    pub sha: Sha,
    pub manifest: BTreeMap<String, BundleFile>,
    pub created_at: Micros,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BundleFile {
    pub sha: Sha,
    pub size: u64,
    #[serde(default)]
    pub executable: bool,
}

/// A workflow as one bundle has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionRow {
    pub project: ProjectName,
    pub workflow: WorkflowName,
    pub version: Sha,
    pub bundle: Sha,
    pub document: Value,
    pub created_at: Micros,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRow {
    pub project: ProjectName,
    pub name: SecretName,
    pub sealed: Vec<u8>,
    pub set_at: Micros,
    pub set_by: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    pub id: TokenId,
    pub name: String,
    /// SHA-256 of the secret part.
    pub hash: Sha,
    /// None: every project.
    pub project: Option<ProjectName>,
    pub role: String,
    pub created_at: Micros,
    pub expires_at: Option<Micros>,
    pub revoked_at: Option<Micros>,
}

/// A request that came with a key of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyRow {
    pub principal: String,
    pub key: String,
    /// The digest of the request: the same key may not come with another one.
    pub request: Sha,
    /// None: it was begun, and nobody knows what became of it.
    pub reply: Option<StoredReply>,
    pub at: Micros,
}

/// What a request was answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredReply {
    pub status: u16,
    pub body: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueryRow {
    pub id: crate::ids::QueryId,
    pub project: ProjectName,
    pub state: String,
    pub created_at: Micros,
    pub data: Value,
}

/// Where a part of an attempt's log lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRow {
    pub attempt: AttemptId,
    pub first: u64,
    pub last: u64,
    pub bytes: u64,
}

/// A file that an attempt left for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = File)]
pub struct FileRow {
    pub run: RunId,
    pub attempt: AttemptId,
    pub job: TaskName,
    pub name: String,
    pub sha: Sha,
    pub size: u64,
}

/// A backfill with how far it is.
#[derive(Debug, Clone, PartialEq)]
pub struct BackfillRow {
    pub backfill: Backfill,
    pub progress: Progress,
}

impl BackfillRow {
    #[must_use]
    pub fn state(&self) -> BackfillState {
        self.backfill.state(&self.progress)
    }
}

/// Something of a project that can be limited.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", content = "name", rename_all = "kebab-case")]
pub enum LimitName {
    /// Slots of a pool.
    Pool(PoolName),
    /// All attempts of the project.
    Quota,
    /// Its part of the workers' slots, in proportion to other projects'.
    Weight,
}

impl LimitName {
    /// Kind and name, as columns.
    #[must_use]
    pub fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::Pool(name) => ("pool", name.as_str()),
            Self::Quota => ("quota", ""),
            Self::Weight => ("weight", ""),
        }
    }
}

/// A limit as somebody set it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LimitSet {
    pub value: u32,
    pub by: String,
    pub at: Micros,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// A limit of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitRow {
    pub project: ProjectName,
    pub name: LimitName,
    pub set: LimitSet,
}

/// A file under `[files]` as a run found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputRow {
    /// Relative to the project's folder.
    pub path: String,
    pub size: u64,
    pub modified_at: Micros,
}

/// A request to the owner of the shard.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Command {
    pub id: CommandId,
    pub by: String,
    pub at: Micros,
    pub kind: CommandKind,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum CommandKind {
    CreateRun(Box<NewRun>),
    Stop {
        run: RunId,
        job: Option<TaskName>,
        reason: Option<String>,
    },
    Retry {
        run: RunId,
        jobs: Option<String>,
        code: Option<Code>,
    },
    /// Makes versions active and their schedules those that fire.
    Activate(Box<Activation>),
    /// Pauses or resumes a workflow's schedule.
    Pause {
        project: ProjectName,
        workflow: WorkflowName,
        #[serde(default)]
        target: Option<TargetName>,
        paused: bool,
        reason: Option<String>,
    },
    CreateBackfill(Box<Backfill>),
    ChangeBackfill {
        id: BackfillId,
        change: BackfillChange,
        reason: Option<String>,
    },
    /// Says what became of jobs.
    Mark {
        run: RunId,
        jobs: String,
        ending: Ending,
        reason: Option<String>,
    },
    /// Holds a run or jobs of it, or lets them go.
    HoldRun {
        run: RunId,
        jobs: Option<String>,
        held: bool,
        reason: Option<String>,
    },
    /// Switches jobs of a run off or on.
    Disable {
        run: RunId,
        jobs: String,
        disabled: bool,
        reason: Option<String>,
    },
    /// Gives a run other code for what has not begun.
    Reload {
        run: RunId,
        code: Code,
    },
    /// Holds a whole or lets it go; `abort` also stops what is under way in it.
    HoldScope {
        scope: Scope,
        held: bool,
        abort: bool,
        reason: Option<String>,
    },
    SetLimit {
        project: ProjectName,
        name: LimitName,
        value: Option<u32>,
        description: Option<String>,
    },
}

/// What a deploy makes active.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Activation {
    pub project: ProjectName,
    /// As the bundle declares it; none: the project has no targets.
    #[serde(default)]
    pub target: Option<Arc<Target>>,
    pub bundle: Sha,
    pub versions: BTreeMap<WorkflowName, Sha>,
    /// Workflows whose active version stays.
    pub keep: BTreeSet<WorkflowName>,
    /// Where the project's notices go from now on.
    #[serde(default)]
    pub channels: BTreeMap<ChannelName, Channel>,
    pub at: Micros,
}

impl Activation {
    /// Whether it takes the place of what is deployed to another target, or was before there were any: the tables are the
    /// same, and two versions at work on them would be one too many.
    #[must_use]
    pub fn takes_over(&self, other: Option<&Arc<Target>>) -> bool {
        let prefix = |target: Option<&Arc<Target>>| target.and_then(|target| target.prefix.clone());
        name_of(other) != name_of(self.target.as_ref()) && prefix(other) == prefix(self.target.as_ref())
    }
}

/// A change of a backfill as one thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum BackfillChange {
    Pause,
    Resume,
    Cancel,
    /// For the runs that have not begun.
    Edit {
        concurrency: Option<u32>,
        params: Option<BTreeMap<String, Value>>,
    },
}

/// The code of a retry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    pub bundle: Sha,
    pub version: Sha,
}

/// All that a new run is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewRun {
    pub id: RunId,
    pub project: ProjectName,
    #[serde(default)]
    pub target: Option<Arc<Target>>,
    pub workflow: WorkflowName,
    pub version: Sha,
    pub bundle: Sha,
    pub class: Class,
    pub one_off: bool,
    /// The run and its job that ask for it.
    #[serde(default)]
    pub job: Option<(RunId, TaskName)>,
    pub interval: Interval,
    pub tz: String,
    pub params: BTreeMap<String, Value>,
    pub param_types: BTreeMap<String, crate::document::ParamType>,
    /// Outputs of the jobs that the run leaves out.
    pub outside: BTreeMap<JobName, BTreeMap<String, Value>>,
    pub executors: BTreeMap<JobName, ExecutorKind>,
    pub by: String,
    /// dbt-like selection; none: every job.
    pub jobs: Option<String>,
    pub unique_key: Option<String>,
    /// Who is told of what becomes of it.
    #[serde(default)]
    pub notify: Option<Rules>,
    /// The run that it does again.
    #[serde(default)]
    pub replay_of: Option<RunId>,
}

impl NewRun {
    /// Where its runs mind each other.
    #[must_use]
    pub fn lane(&self) -> Lane {
        Lane::of(&self.project, &self.workflow, self.target.as_ref())
    }

    #[must_use]
    pub fn cause(&self) -> Cause {
        let by = self.by.clone();
        match &self.job {
            Some((run, job)) => Cause::Job { run: *run, job: job.clone() },
            None if self.one_off => Cause::OneOff { by },
            None => Cause::Request { by },
        }
    }

    /// The run that is asked for, with the jobs of this graph; it has to be created.
    #[must_use]
    pub fn run(&self, graph: Graph, created_at: Micros) -> Run {
        Run {
            id: self.id,
            project: self.project.clone(),
            workflow: self.workflow.clone(),
            target: self.target.clone(),
            class: self.class,
            cause: self.cause(),
            interval: self.interval,
            tz: self.tz.clone(),
            params: self.params.clone(),
            param_types: self.param_types.clone(),
            bundle: self.bundle,
            version: self.version,
            created_at,
            started_at: None,
            ended_at: None,
            stop: None,
            pending: None,
            hold: None,
            jobs: self.jobs.clone(),
            replay_of: self.replay_of,
            outside: self.outside.clone(),
            executors: self.executors.clone(),
            notify: self.notify.clone().map(Arc::new),
            tasks: Run::new_tasks(&graph, self.bundle, self.version),
            graph: Arc::new(graph),
            open: Default::default(),
        }
    }
}

/// Which runs to load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// All but the dormant ones, which are runs of backfills whose turn is still to come.
    Unfinished,
    One(RunId),
}

/// A run as it was stored, with the documents that its tasks name and the last sequence number of its history.
#[derive(Debug, Clone)]
pub struct StoredRun {
    pub run: Run,
    /// Its state when it was last stored.
    pub state: String,
    /// In the order of the run.
    pub tasks: Vec<Task>,
    pub documents: BTreeMap<Sha, Value>,
    pub last_event: u64,
    pub unique_key: Option<String>,
}

impl StoredRun {
    /// What a task left: of a mapped job the lists of what its instances left.
    #[must_use]
    pub fn outputs(&self, task: &Task) -> BTreeMap<String, Value> {
        let Some(count) = task.spread else { return task.outputs.clone() };
        let of_it = |other: &&Task| other.job == task.job && other.index().is_some_and(|index| index < count);
        let mut instances: Vec<&Task> = self.tasks.iter().filter(of_it).collect();
        instances.sort_by_key(|instance| instance.index());
        gathered(instances.into_iter().map(|instance| &instance.outputs), None)
    }
}

/// A run as lists show it, without its tasks.
#[derive(Debug, Clone)]
pub struct ListedRun {
    pub run: Run,
    /// Its state when it was last stored.
    pub state: String,
}

/// Whose projects a read may see; none: all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Who {
    pub project: Option<ProjectName>,
}

/// What people and programs read. What is not in the reach of who reads it is not there.
#[derive(Debug, Clone)]
pub enum Query {
    Run(RunId),
    /// No more of a run than whether it goes on.
    RunState(RunId),
    /// Newest first, without tasks.
    Runs {
        project: Option<ProjectName>,
        workflow: Option<WorkflowName>,
        target: Option<TargetName>,
        state: Option<String>,
        backfill: Option<BackfillId>,
        /// The last characters of the id, two at least.
        ends_with: Option<String>,
        before: Option<RunId>,
        limit: u32,
    },
    Attempt(AttemptId),
    Events {
        run: RunId,
        after: u64,
        limit: u32,
    },
    Counters {
        run: RunId,
    },
    Projects,
    Bundle {
        project: ProjectName,
        sha: Sha,
    },
    /// Bundles that were last announced before a time and that no run and no active version names.
    IdleBundles {
        before: Micros,
    },
    /// The blobs that bundles and files for people consist of.
    Blobs,
    Version {
        project: ProjectName,
        version: Sha,
    },
    /// The documents of several versions; those that are not known are left out.
    Documents {
        project: ProjectName,
        versions: Vec<Sha>,
    },
    /// Of all targets, by target and name.
    ActiveVersions {
        project: ProjectName,
    },
    /// The targets of a project as they were last deployed to, and those that were made for one run.
    Targets {
        project: ProjectName,
    },
    /// The latest succeeded task of each job of a workflow for one interval.
    Succeeded {
        lane: Lane,
        interval: Interval,
    },
    Secrets {
        project: ProjectName,
    },
    Secret {
        project: ProjectName,
        name: SecretName,
    },
    Tokens,
    TokenByHash(Sha),
    Idempotency {
        principal: String,
        key: String,
    },
    CommandReply(CommandId),
    AdHoc {
        id: crate::ids::QueryId,
    },
    /// Ad hoc queries of a project, newest first.
    AdHocs {
        project: ProjectName,
        before: Option<crate::ids::QueryId>,
        limit: u32,
    },
    Logs(AttemptId),
    Files(RunId),
    /// The files under `[files]` as a run found them.
    Inputs(RunId),
    /// The same of the last run of a workflow that succeeded before another run was made; nothing when none did.
    InputsOfLastSuccess {
        lane: Lane,
        before: RunId,
    },
    /// The tables that an attempt wrote and did not publish.
    Unpublished {
        place: Place,
        attempt: AttemptId,
    },
    /// Schedules at work, by name; of one project or of all.
    Triggers {
        project: Option<ProjectName>,
    },
    /// Backfills, newest first.
    Backfills {
        project: Option<ProjectName>,
        before: Option<BackfillId>,
        limit: u32,
    },
    Backfill(BackfillId),
    /// Those that are not over, for their owner.
    UnfinishedBackfills,
    /// How many runs of a backfill are in which state.
    BackfillCounts(BackfillId),
    Holds,
    Limits {
        project: Option<ProjectName>,
    },
    /// The intervals that begin in a stretch of time for which a run of a workflow succeeded.
    SucceededRuns {
        lane: Lane,
        from: Micros,
        until: Micros,
    },
    /// The succeeded tasks of a workflow for the intervals that begin in a stretch of time.
    SucceededBetween {
        lane: Lane,
        from: Micros,
        until: Micros,
    },
    /// Notices of a project, newest first.
    Notices {
        project: ProjectName,
        state: Option<NoticeState>,
        before: Option<NoticeId>,
        limit: u32,
    },
    /// Of each channel the pending notice that has been due for longest.
    DueNotices {
        at: Micros,
    },
    /// The channels of a project, as they were last deployed.
    Channels {
        project: ProjectName,
    },
    /// How long the jobs of a workflow took in its latest successful runs.
    Usual {
        project: ProjectName,
        workflow: WorkflowName,
        runs: u32,
    },
    /// What this installation is called; nothing before it was given a name.
    Installation,
    /// Everything of a table of `system.*`, as rows of JSON values.
    System(SystemTable),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemTable {
    Runs,
    Tasks,
    Attempts,
    Counters,
}

impl SystemTable {
    pub const ALL: [Self; 4] = [Self::Runs, Self::Tasks, Self::Attempts, Self::Counters];

    /// Its name within the namespace `system`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Runs => "runs",
            Self::Tasks => "tasks",
            Self::Attempts => "attempts",
            Self::Counters => "counters",
        }
    }
}

/// An active workflow of a project.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActiveVersion {
    pub target: Option<TargetName>,
    pub workflow: WorkflowName,
    pub version: Sha,
    pub bundle: Sha,
    pub deployed_at: Micros,
    pub document: Value,
}

/// What a task left when it succeeded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SucceededTask {
    pub run: RunId,
    pub job: JobName,
    pub outputs: BTreeMap<String, Value>,
}

/// A task that succeeded for an interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SucceededIn {
    pub interval: Interval,
    pub job: JobName,
    pub bundle: Sha,
}

/// The answer to a [`Query`], of the matching kind.
#[derive(Debug, Clone)]
pub enum Answer {
    Nothing,
    Run(Box<StoredRun>),
    Runs(Vec<ListedRun>),
    RunState { state: String, last_event: u64 },
    Attempt(Box<StoredAttempt>),
    Events(Vec<EventRow>),
    Counters(Vec<CounterRow>),
    Projects(Vec<ProjectRow>),
    Bundle(Box<BundleRow>),
    Bundles(Vec<(ProjectName, Sha)>),
    Blobs(std::collections::BTreeSet<Sha>),
    Version(Box<VersionRow>),
    Documents(Vec<(Sha, Value)>),
    ActiveVersions(Vec<ActiveVersion>),
    Targets(Vec<Target>),
    Succeeded(Vec<SucceededTask>),
    Secrets(Vec<SecretRow>),
    Tokens(Vec<TokenRow>),
    Idempotency(Box<IdempotencyRow>),
    Reply(Value),
    AdHoc(Box<QueryRow>),
    AdHocs(Vec<QueryRow>),
    Logs(Vec<LogRow>),
    Files(Vec<FileRow>),
    Inputs(Vec<InputRow>),
    Unpublished(Vec<Unpublished>),
    Triggers(Vec<Trigger>),
    Backfills(Vec<BackfillRow>),
    BackfillCounts(BTreeMap<String, u32>),
    Holds(Vec<(Scope, Control)>),
    Limits(Vec<LimitRow>),
    Intervals(Vec<Interval>),
    SucceededBetween(Vec<SucceededIn>),
    Notices(Vec<NoticeRow>),
    Channels(BTreeMap<ChannelName, Channel>),
    Usual(Usual),
    Installation(String),
    Rows(Vec<Vec<Value>>),
}

/// An attempt with where it belongs.
#[derive(Debug, Clone)]
pub struct StoredAttempt {
    pub project: ProjectName,
    pub run: RunId,
    pub job: TaskName,
    pub attempt: Attempt,
}

/// What one can wait for news about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Its history; `after` is a sequence number.
    Run(RunId),
    /// The reply to one command.
    Reply(CommandId),
}

/// The columns of a system table with their Iceberg types.
#[must_use]
pub fn system_columns(table: SystemTable) -> &'static [(&'static str, &'static str)] {
    match table {
        SystemTable::Runs => &[
            ("run_id", "string"),
            ("project", "string"),
            ("target", "string"),
            ("workflow", "string"),
            ("class", "string"),
            ("state", "string"),
            ("interval_start", "timestamptz"),
            ("interval_end", "timestamptz"),
            ("created_at", "timestamptz"),
            ("started_at", "timestamptz"),
            ("ended_at", "timestamptz"),
            ("bundle", "string"),
            ("version", "string"),
        ],
        SystemTable::Tasks => &[
            ("run_id", "string"),
            ("project", "string"),
            ("job", "string"),
            ("instance", "long"),
            ("item", "string"),
            ("state", "string"),
            ("generation", "long"),
            ("attempts", "long"),
        ],
        SystemTable::Attempts => &[
            ("attempt_id", "string"),
            ("run_id", "string"),
            ("project", "string"),
            ("job", "string"),
            ("instance", "long"),
            ("number", "long"),
            ("state", "string"),
            ("fault", "string"),
            ("executor", "string"),
            ("started_at", "timestamptz"),
            ("ended_at", "timestamptz"),
        ],
        SystemTable::Counters => &[
            ("attempt_id", "string"),
            ("run_id", "string"),
            ("group", "string"),
            ("name", "string"),
            ("value", "double"),
            ("unit", "string"),
        ],
    }
}

/// How an attempt's state is called in rows and answers.
#[must_use]
pub fn attempt_state(attempt: &Attempt) -> &'static str {
    attempt.outcome.as_ref().map_or("running", crate::run::Outcome::name)
}

/// The fault of an attempt, also while it is still being cleaned up.
#[must_use]
pub fn attempt_fault(attempt: &Attempt) -> Option<Fault> {
    match (&attempt.outcome, &attempt.verdict) {
        (Some(crate::run::Outcome::Ended(verdict)), _) | (None, Some(verdict)) => Some(verdict.fault),
        _ => None,
    }
}
