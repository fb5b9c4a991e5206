//! The life of one run: a pure state machine over its tasks and their attempts.
//!
//! [`apply`] takes one event and says what changed and what is to be done; it performs nothing. [`crate::admit`] is the
//! other machine: it decides which ready task gets a slot. Together they serve production, tests, `explain` and
//! simulation, so neither knows a clock, a process or a database.
//!
//! Invariants (property tests in `tests/machine.rs`):
//! - no job starts before the jobs it waits for allow it; children start only after a publication or a final outcome;
//! - every report carries the epoch of its task; one from an earlier epoch changes nothing;
//! - an attempt's outcome is written once and never changes; it follows at least one start of cleanup and, for a failed
//!   attempt, the recorded end of cleanup;
//! - a task moves only along [`EDGES`].

mod apply;
mod edges;
mod graph;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

pub use apply::apply;
pub use edges::{EDGES, Edge, edges_markdown};
pub use graph::Graph;

use crate::admit::{LimitId, Need};
use crate::condition::{Look, Watch};
use crate::document::{ExecutorKind, Job, JobKind, MapOver, Sha};
use crate::fault::{Evidence, Fault};
use crate::ids::{AttemptId, BackfillId, RunId, SessionId};
use crate::names::{JobName, ProjectName, TaskName, WorkflowName};
use crate::seam::exec::Spec;
use crate::seam::lake::Written;
use crate::select::{parts, select};
use crate::target::{Lane, Place, Target};
use crate::time::{Interval, Micros};
use crate::trigger::Overrun;

/// One execution of a workflow.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    pub id: RunId,
    pub project: ProjectName,
    /// Whose tables it writes, as it was when the run was made; none: the project had no targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Arc<Target>>,
    pub workflow: WorkflowName,
    pub class: Class,
    pub cause: Cause,
    pub interval: Interval,
    /// IANA name of the zone in which `ds` is a local date.
    pub tz: String,
    pub params: BTreeMap<String, Value>,
    /// Types of the parameters whose JSON does not say it: `date`, `datetime`, `decimal`.
    #[serde(default)]
    pub param_types: BTreeMap<String, crate::document::ParamType>,
    pub bundle: Sha,
    /// Version of the workflow document.
    pub version: Sha,
    pub created_at: Micros,
    pub started_at: Option<Micros>,
    pub ended_at: Option<Micros>,
    pub stop: Option<Stop>,
    /// It has not begun, and has no tasks yet: [`crate::admit`] says when it may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,
    /// Nothing new of it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Control>,
    /// dbt-like selection of its jobs; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobs: Option<String>,
    /// The run that this one does again, beside the tables that count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_of: Option<RunId>,
    /// Outputs of jobs that this run leaves out, from the run that last succeeded for the same interval.
    #[serde(default)]
    pub outside: BTreeMap<JobName, BTreeMap<String, Value>>,
    /// Executors chosen at submission, by job.
    #[serde(default)]
    pub executors: BTreeMap<JobName, ExecutorKind>,
    /// Who is told of what becomes of it; none for a run of code that is not deployed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<Arc<crate::notify::Rules>>,
    /// In the order of [`Graph::jobs`]. Shared, so that deciding on a copy of a run costs little.
    #[serde(skip)]
    pub tasks: Vec<Arc<Task>>,
    #[serde(skip)]
    pub graph: Arc<Graph>,
    /// Of mapped jobs, the index of an instance that had not ended when somebody looked last: where to look first. Nothing
    /// else depends on it.
    #[serde(skip)]
    pub open: BTreeMap<TaskIx, u32>,
}

/// Who comes first when slots are short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    Interactive,
    Scheduled,
    Backfill,
}

/// What made a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Cause {
    /// Asked for by a person or program.
    Request { by: String },
    /// A job without a workflow.
    OneOff { by: String },
    /// The workflow's schedule.
    Schedule { fire_at: Micros },
    /// One of a range or list.
    Backfill { id: BackfillId, index: u32 },
    /// A job of another run, whose work it is.
    Job { run: RunId, job: TaskName },
}

impl Cause {
    /// Everything but a job of its own.
    #[must_use]
    pub fn is_of_a_workflow(&self) -> bool {
        !matches!(self, Self::OneOff { .. })
    }

    /// What a workflow's other runs must not share its interval with. What jobs ask for are many runs at a time, which
    /// differ by their parameters.
    #[must_use]
    pub fn minds_others(&self) -> bool {
        !matches!(self, Self::OneOff { .. } | Self::Job { .. })
    }
}

/// What decides when a run that was made may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Pending {
    /// The earlier runs of its schedule.
    Schedule { overrun: Overrun, most_active: u32 },
    /// Its place in the backfill.
    Backfill,
    /// Nothing but a run for the same interval: its turn has come.
    Turn,
}

/// Who holds or switches something, when and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Control {
    pub by: String,
    pub at: Micros,
    pub reason: Option<String>,
}

impl Control {
    /// Who and why, in words.
    #[must_use]
    pub fn told(&self) -> String {
        match &self.reason {
            Some(reason) => format!("held by {}: {reason}", self.by),
            None => format!("held by {}", self.by),
        }
    }
}

/// Why something is to end before its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stop {
    pub by: String,
    pub at: Micros,
    pub reason: Option<String>,
}

/// One job within a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    pub job: JobName,
    pub position: Position,
    /// +1 at each retry by hand.
    pub generation: u32,
    /// +1 at each change of owner: claim, takeover, stop.
    pub epoch: u64,
    /// What became of this generation; children look at nothing else.
    pub ending: Option<Ending>,
    /// When it became ready, for its age in the queue.
    pub ready_at: Option<Micros>,
    /// When a task in `backoff` is ready again.
    pub backoff_until: Option<Micros>,
    /// Why a task is `held`.
    pub held: Option<String>,
    /// Who ended it before its time, if it had no attempt that could say so.
    #[serde(default)]
    pub stopped: Option<Stop>,
    /// Who keeps it from beginning; it becomes `held` when it could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Control>,
    /// Who switched it off: when it could begin, it ends without having run, and what waits for it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Control>,
    /// Who said what became of it, instead of an attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marked: Option<Control>,
    /// What is known of the conditions that it waits for, once the jobs that it waits for allow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<Watch>,
    /// Why it was given up before it had an attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_up: Option<Box<Verdict>>,
    /// Deaths of the owner in a row while this task had a live attempt.
    #[serde(default)]
    pub owner_deaths: u32,
    /// Workers that were lost with this task.
    #[serde(default)]
    pub sessions_lost: u32,
    /// The attempt has outlived its warn time.
    #[serde(default)]
    pub slow: bool,
    #[serde(default)]
    pub outputs: BTreeMap<String, Value>,
    /// Which item of its job's list it works on; none: it is a job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Box<Instance>>,
    /// A mapped job has been spread over so many items, and ends as its instances do; those beyond are set aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<u32>,
    pub bundle: Sha,
    pub version: Sha,
    /// By number, through all generations.
    #[serde(skip)]
    pub attempts: Vec<Arc<Attempt>>,
}

/// One of the tasks that a mapped job is spread over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// From 0, in the order of the list.
    pub index: u32,
    pub item: Value,
}

impl Instance {
    /// What a template names of its item: `item` all of it, `item.NAME` what it has by that name.
    #[must_use]
    pub fn named(&self, path: &str) -> Option<&Value> {
        match path.strip_prefix("item")? {
            "" => Some(&self.item),
            rest => self.item.get(rest.strip_prefix('.')?),
        }
    }
}

/// Where a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Position {
    /// For the jobs that it names.
    Waiting,
    /// For a slot.
    Ready,
    /// Claimed; nothing of the user's has run yet.
    Preparing,
    Setup,
    Executing,
    /// An engine works; no local process, no worker slot.
    Submitted,
    /// `complete` runs, or its publication is under way.
    Completing,
    Cleaning,
    /// Until its next try.
    Backoff,
    /// Until a person looks at it.
    Held,
    Done,
}

impl Position {
    pub const ALL: [Self; 11] = [
        Self::Waiting,
        Self::Ready,
        Self::Preparing,
        Self::Setup,
        Self::Executing,
        Self::Submitted,
        Self::Completing,
        Self::Cleaning,
        Self::Backoff,
        Self::Held,
        Self::Done,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Ready => "ready",
            Self::Preparing => "preparing",
            Self::Setup => "setup",
            Self::Executing => "executing",
            Self::Submitted => "submitted",
            Self::Completing => "completing",
            Self::Cleaning => "cleaning",
            Self::Backoff => "backoff",
            Self::Held => "held",
            Self::Done => "done",
        }
    }

    /// Whether the next thing that happens to the task is a new attempt, if anything does.
    #[must_use]
    pub fn is_before_an_attempt(self) -> bool {
        matches!(self, Self::Waiting | Self::Ready | Self::Backoff | Self::Held)
    }

    /// Whether an attempt is under way that has neither published nor failed.
    #[must_use]
    pub fn is_live(self) -> bool {
        matches!(self, Self::Preparing | Self::Setup | Self::Executing | Self::Submitted | Self::Completing)
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What became of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    Succeeded,
    Failed,
    Skipped,
    Cancelled,
    UpstreamFailed,
    /// Switched off: for what waits for it, as if it had succeeded.
    Disabled,
}

impl Ending {
    pub const ALL: [Self; 6] =
        [Self::Succeeded, Self::Failed, Self::Skipped, Self::Cancelled, Self::UpstreamFailed, Self::Disabled];

    /// Whether what waits for it may take its work for done.
    #[must_use]
    pub fn is_good(self) -> bool {
        matches!(self, Self::Succeeded | Self::Disabled)
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
            Self::UpstreamFailed => "upstream-failed",
            Self::Disabled => "disabled",
        }
    }
}

/// One try of a task.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Attempt {
    pub id: AttemptId,
    /// Unique within the task, through all generations.
    pub number: u32,
    pub generation: u32,
    pub session: SessionId,
    pub executor: ExecutorKind,
    /// The task's epoch in which it began; its time limits are set in this one, and hold for as long as it lives.
    #[serde(default)]
    pub first_epoch: u64,
    /// The Python environment that its processes have, if its project has a lock.
    #[serde(default)]
    pub environment: Option<Sha>,
    pub started_at: Micros,
    pub ended_at: Option<Micros>,
    pub phases: Vec<PhaseRecord>,
    /// What its phases so far left in `ctx.state`: what `setup` made outside must be found by cleanup, whatever comes between.
    #[serde(default)]
    pub state_left: Value,
    /// What `execute` left, durable before `complete` may run in another process.
    pub executed: Option<Executed>,
    /// Where an engine runs what `execute` returned.
    pub handle: Option<Value>,
    /// The catalog sequence that all its reads agree on, fixed at the end of `setup`.
    pub view: Option<u64>,
    /// The tables that its success changed.
    #[serde(default)]
    pub written: Vec<Written>,
    /// Checks that failed and are only to be told of.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// How it will end, once cleanup is over.
    pub verdict: Option<Verdict>,
    /// Written once.
    pub outcome: Option<Outcome>,
    pub cleanups_started: u32,
    pub cleanup: Option<CleanupEnd>,
    /// Whether it holds a worker slot, and what it would do with one.
    pub slot: bool,
    pub wants: Option<Step>,
    /// `complete` was begun again after its process vanished through no fault of its own.
    #[serde(default)]
    pub resumed: u32,
}

/// The field of an attempt's handle that names the run of a workflow.
pub const RUN: &str = "run";

impl Attempt {
    /// The workflow that what `execute` left is a run of.
    #[must_use]
    pub fn sub_workflow(&self) -> Option<&WorkflowName> {
        match self.executed.as_ref()?.spec.as_ref()? {
            Spec::Workflow { workflow, .. } => Some(workflow),
            Spec::Sql { .. } | Spec::Shell { .. } => None,
        }
    }

    /// The run of another workflow that is its work, once there is one.
    #[must_use]
    pub fn sub_run(&self) -> Option<RunId> {
        self.sub_workflow()?;
        self.handle.as_ref()?.get(RUN)?.as_str()?.parse().ok()
    }
}

/// One phase of an attempt, as often as it was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseRecord {
    pub name: Phase,
    pub state: PhaseState,
    pub started_at: Micros,
    pub ended_at: Option<Micros>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[schema(as = PhaseName)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    Setup,
    Execute,
    Complete,
    Cleanup,
}

impl Phase {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Execute => "execute",
            Self::Complete => "complete",
            Self::Cleanup => "cleanup",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PhaseState {
    Running,
    Succeeded,
    Failed,
    /// No trustworthy end was seen.
    Lost,
}

/// What survives `execute`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Executed {
    /// What `execute` returned, or what the engine reported.
    pub result: Value,
    /// What `execute` asked an engine to do.
    pub spec: Option<Spec>,
    pub outputs: BTreeMap<String, Value>,
}

/// A failure on its way to being an outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub ends: Ends,
    pub fault: Fault,
    /// The phase in which it struck.
    pub phase: Option<Phase>,
    /// The job itself said that a retry is useless (exit 76) or all it needs (exit 75).
    #[serde(default)]
    pub retry: RetryWish,
    /// Who vanished, when that is what ended it.
    #[serde(default)]
    pub lost: Option<Loss>,
    pub evidence: Evidence,
}

impl Verdict {
    /// A failure of the job itself.
    #[must_use]
    pub fn failed(fault: Fault, phase: Option<Phase>, evidence: Evidence) -> Self {
        Self { ends: Ends::Failed, fault, phase, retry: RetryWish::None, lost: None, evidence }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryWish {
    #[default]
    None,
    Later,
    Never,
}

/// How an attempt that did not succeed ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Ends {
    Failed,
    Cancelled,
    /// No trustworthy end was seen: owner, worker, launcher or warm process vanished.
    Lost,
}

impl Ends {
    pub const ALL: [Self; 3] = [Self::Failed, Self::Cancelled, Self::Lost];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }
}

/// How an attempt ended; never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Succeeded,
    Ended(Verdict),
}

impl Outcome {
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Ended(verdict) => verdict.ends.name(),
        }
    }
}

/// The recorded end of cleanup. One that failed is a warning, never a failure of the attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CleanupEnd {
    pub ok: bool,
    pub detail: Option<String>,
}

/// A piece of work that needs a worker slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    Complete,
    Clean,
}

/// What a run is, derived from its tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    Queued,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl RunState {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// A task of a run, by its place in [`Run::tasks`].
pub type TaskIx = usize;

/// What happened. Whatever is random or measured arrives here as data.
#[derive(Debug, Clone)]
pub enum Event {
    /// The run was just made. One that is not pending finds what is ready.
    Created,
    /// It is the turn of a pending run of a backfill.
    Turned,
    /// `admit` lets a pending run begin with these jobs.
    Admitted {
        graph: Arc<Graph>,
    },
    /// `admit` gave a ready task a slot.
    Claimed {
        task: TaskIx,
        attempt: AttemptId,
        session: SessionId,
        executor: ExecutorKind,
    },
    /// `admit` gave an attempt that wants one a slot again, perhaps elsewhere.
    Granted {
        task: TaskIx,
        session: SessionId,
    },
    /// Whoever works on an attempt says what it saw.
    Reported {
        task: TaskIx,
        epoch: u64,
        report: Report,
    },
    /// The publication is part of the transaction that stores this event's consequences.
    Published {
        task: TaskIx,
        epoch: u64,
        written: Vec<Written>,
    },
    /// Whoever worked on an attempt is gone.
    Lost {
        task: TaskIx,
        epoch: u64,
        by: Loss,
    },
    Elapsed {
        task: TaskIx,
        epoch: u64,
        timer: Timer,
    },
    /// Whoever watches a condition of a waiting task says what it saw.
    Observed {
        task: TaskIx,
        epoch: u64,
        condition: usize,
        look: Look,
        /// The condition with its templates filled in.
        what: String,
        found: String,
    },
    /// A person or program wants the run, or one of its tasks, to end.
    Stop {
        task: Option<TaskIx>,
        by: String,
        reason: Option<String>,
    },
    /// A person or program wants these tasks again, perhaps with other code.
    Retry {
        tasks: Vec<TaskIx>,
        by: String,
        code: Option<NewCode>,
    },
    /// A person or program says what became of these tasks, whether they ran or not.
    Mark {
        tasks: Vec<TaskIx>,
        ending: Ending,
        control: Control,
    },
    /// A person or program keeps these tasks (none: the run) from beginning; without a control, lets them.
    Hold {
        tasks: Option<Vec<TaskIx>>,
        control: Option<Control>,
        by: String,
    },
    /// A person or program switches these tasks off, or with none on again.
    Disable {
        tasks: Vec<TaskIx>,
        control: Option<Control>,
        by: String,
    },
    /// Whatever has not begun takes other code.
    Reload {
        by: String,
        code: NewCode,
    },
}

impl Event {
    /// Whether a person or program asked for it; else it happened.
    #[must_use]
    pub fn is_a_persons(&self) -> bool {
        matches!(
            self,
            Self::Stop { .. }
                | Self::Retry { .. }
                | Self::Mark { .. }
                | Self::Hold { .. }
                | Self::Disable { .. }
                | Self::Reload { .. }
        )
    }
}

/// Other code for the tasks of a retry.
#[derive(Debug, Clone)]
pub struct NewCode {
    pub graph: Arc<Graph>,
    pub bundle: Sha,
    pub version: Sha,
}

/// What a worker saw.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Report {
    /// It has its Python environment.
    Equipped {
        environment: Sha,
    },
    PhaseStarted(Phase),
    PhaseEnded {
        phase: Phase,
        ok: bool,
    },
    /// What a phase that has ended left in `ctx.state`.
    Left {
        state: Value,
    },
    /// A check failed that is only to be told of.
    Warned {
        text: String,
    },
    /// `setup` is over and the view of tables is fixed.
    Viewed {
        catalog_seq: u64,
    },
    /// `execute` returned a value; `complete` goes on in the same process.
    Executed(Executed),
    /// `execute` returned a spec, and its process has ended well.
    Specified(Executed),
    /// An engine has accepted the spec.
    Submitted {
        handle: Value,
    },
    /// The engine is done with it.
    EngineEnded {
        result: Value,
        outputs: BTreeMap<String, Value>,
    },
    /// `complete` has returned and its process has ended well.
    Completed {
        outputs: BTreeMap<String, Value>,
    },
    Failed(Verdict),
    CleanupEnded(CleanupEnd),
}

/// Who vanished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// The server that owned the shard.
    Owner,
    /// A worker process.
    Session,
    /// The launcher of local processes, or a warm Python process.
    Launcher,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Timer {
    /// A task in `backoff` is ready again.
    Backoff,
    /// A condition was waited for as long as its author would.
    Patience,
    /// An attempt takes longer than its author expected.
    Warn,
    /// An attempt takes longer than its author allows.
    Abort,
}

/// Why an event changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("task {0} does not exist")]
    NoSuchTask(TaskIx),
    /// From somebody who no longer owns the task.
    #[error("the attempt has ended or was taken over")]
    Stale,
    #[error("{0}")]
    WrongState(String),
}

/// What is to be done once the changes are durable, and what changed.
#[derive(Debug, Default)]
pub struct Effects {
    pub work: Vec<Work>,
    pub history: Vec<Happening>,
    /// Tasks whose rows (and whose latest attempt's) changed.
    pub touched: BTreeSet<TaskIx>,
    /// Which tasks moved along which edges, in order.
    pub moves: Vec<(TaskIx, Position, Position)>,
    pub run_touched: bool,
    /// Whether anybody may rely on the changes: then they must be durable before any work begins.
    pub durable: bool,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// Run the attempt's phases, from `setup` on.
    Begin {
        task: TaskIx,
        epoch: u64,
    },
    /// Hand what `execute` returned to its executor.
    Submit {
        task: TaskIx,
        epoch: u64,
    },
    /// Find what was submitted and go on watching it.
    Reattach {
        task: TaskIx,
        epoch: u64,
    },
    /// Run `complete` from the stored result.
    Complete {
        task: TaskIx,
        epoch: u64,
    },
    /// Prepare the overlay and commit it together with [`Event::Published`].
    Publish {
        task: TaskIx,
        epoch: u64,
    },
    /// Make sure that nothing of the attempt lives any more, then run `cleanup` within its limit.
    Clean {
        task: TaskIx,
        epoch: u64,
        graceful: bool,
    },
    /// Look at the conditions of a task that are not met, and tell what is seen.
    Watch {
        task: TaskIx,
        epoch: u64,
    },
    Set {
        task: TaskIx,
        epoch: u64,
        timer: Timer,
        after: Duration,
    },
}

/// A line of the run's history.
#[derive(Debug, Clone, PartialEq)]
pub struct Happening {
    /// Stable, kebab-case.
    pub kind: &'static str,
    pub task: Option<TaskIx>,
    pub data: Value,
}

impl Effects {
    /// Adds what a later event of the same run came to.
    pub fn add(&mut self, later: Self) {
        self.work.extend(later.work);
        self.history.extend(later.history);
        self.touched.extend(later.touched);
        self.moves.extend(later.moves);
        self.run_touched |= later.run_touched;
        self.durable |= later.durable;
    }
}

/// What instances left, in their order: a list for each output but one, with null for one that left none.
pub fn gathered<'a>(
    instances: impl ExactSizeIterator<Item = &'a BTreeMap<String, Value>>,
    but: Option<&str>,
) -> BTreeMap<String, Value> {
    let count = instances.len();
    let mut gathered: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (place, outputs) in instances.enumerate() {
        for (name, value) in outputs.iter().filter(|(name, _)| Some(name.as_str()) != but) {
            gathered.entry(name.clone()).or_insert_with(|| vec![Value::Null; count])[place] = value.clone();
        }
    }
    gathered.into_iter().map(|(name, values)| (name, Value::Array(values))).collect()
}

/// The other runs of a lane for an interval that are under way, of which there may be one, or wait to be.
pub fn beside<'a>(
    runs: impl Iterator<Item = &'a Run>,
    lane: &Lane,
    interval: Interval,
    except: RunId,
) -> impl Iterator<Item = &'a Run> {
    runs.filter(move |run| {
        run.interval == interval
            && run.id != except
            && run.cause.minds_others()
            && !run.state().is_final()
            && run.lane() == *lane
    })
}

impl Run {
    /// The tasks of a new run, all waiting.
    #[must_use]
    pub fn new_tasks(graph: &Graph, bundle: Sha, version: Sha) -> Vec<Arc<Task>> {
        graph.jobs.iter().map(|job| Arc::new(Task::new(job.name.clone(), bundle, version))).collect()
    }

    #[must_use]
    pub fn state(&self) -> RunState {
        if self.pending.is_some() {
            return RunState::Queued;
        }
        // What is not over stands at the end more often than at the beginning.
        if self.tasks.iter().rev().any(|task| task.position != Position::Done) {
            let begun = self.tasks.iter().any(|task| !task.attempts.is_empty() || task.position == Position::Done);
            return if begun { RunState::Running } else { RunState::Queued };
        }
        // What becomes of instances counts through their job, of which a person may have said something else.
        let jobs = || self.tasks.iter().enumerate().filter(|(_, task)| task.instance.is_none());
        let ended = |ending| jobs().filter(move |(_, task)| task.ending == Some(ending));
        if self.stop.is_some() && ended(Ending::Cancelled).next().is_some() {
            RunState::Cancelled
        } else if ended(Ending::Failed).any(|(ix, _)| !self.graph.jobs[ix].may_fail) {
            RunState::Failed
        } else if ended(Ending::Cancelled).next().is_some() || (self.tasks.is_empty() && self.stop.is_some()) {
            RunState::Cancelled
        } else {
            RunState::Succeeded
        }
    }

    /// The tasks on which somebody worked, with their epochs: lost when whoever that was is gone.
    #[must_use]
    pub fn unattended(&self) -> Vec<(TaskIx, u64)> {
        let tasks = self.tasks.iter().enumerate();
        let worked_on = tasks.filter(|(_, task)| task.position.is_live() || task.position == Position::Cleaning);
        worked_on.map(|(ix, task)| (ix, task.epoch)).collect()
    }

    /// Whether a retry that names no jobs is about this one.
    #[must_use]
    pub fn wants_retry(&self, ix: TaskIx) -> bool {
        let Some(task) = self.tasks.get(ix) else { return false };
        let ending = matches!(task.ending, Some(Ending::Failed | Ending::UpstreamFailed | Ending::Cancelled));
        // One that ended as its instances did is opened again by those that are tried again.
        let is_fan_in = task.spread.is_some() && task.marked.is_none() && task.given_up.is_none();
        // Of one that is said to be as it should, nothing is wanted.
        let is_settled = task.instance.is_some() && self.job_of(ix).is_some_and(|job| job.marked.is_some());
        task.position == Position::Held || (task.position == Position::Done && ending && !is_fan_in && !is_settled)
    }

    /// Where its runs mind each other.
    #[must_use]
    pub fn lane(&self) -> Lane {
        Lane::of(&self.project, &self.workflow, self.target.as_ref())
    }

    /// Where its tables are.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { project: self.project.clone(), prefix: self.target.as_ref().and_then(|target| target.prefix.clone()) }
    }

    /// The place of a job's task, or of an instance, as in `load[3]`.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<TaskIx> {
        let (job, index) = match name.strip_suffix(']').and_then(|name| name.split_once('[')) {
            Some((job, index)) => (job, Some(index.parse::<usize>().ok()?)),
            None => (name, None),
        };
        let ix = self.tasks.iter().position(|task| task.job.as_str() == job && task.instance.is_none())?;
        match index {
            Some(index) => self.graph.instances.get(&ix)?.get(index).copied(),
            None => Some(ix),
        }
    }

    /// The tasks that a selection names: jobs in dbt's notation, instances as in `load[3]`.
    ///
    /// # Errors
    /// What is wrong with the selection, quoted.
    pub fn select(&self, selector: &str) -> Result<Vec<TaskIx>, String> {
        // One job is what is most often asked for.
        if let Some(ix) = self.find(selector) {
            return Ok(vec![ix]);
        }
        let (instances, names): (Vec<&str>, Vec<&str>) =
            selector.split(',').flat_map(parts).partition(|part| part.ends_with(']'));
        let find = |name: &&str| self.find(name).ok_or_else(|| format!("job \"{name}\" not found"));
        let mut chosen: BTreeSet<TaskIx> = instances.iter().map(find).collect::<Result<_, _>>()?;
        if !names.is_empty() {
            let jobs = || self.tasks.iter().enumerate().filter(|(_, task)| task.instance.is_none());
            let all: Vec<Job> = jobs().map(|(ix, _)| self.graph.jobs[ix].as_ref().clone()).collect();
            let names = select(&all, &names.join(","))?;
            chosen.extend(jobs().filter(|(_, task)| names.contains(&task.job)).map(|(ix, _)| ix));
        }
        Ok(chosen.into_iter().collect())
    }

    /// The mapped job of which a task is an instance.
    #[must_use]
    pub fn job_of(&self, ix: TaskIx) -> Option<&Task> {
        self.tasks[ix].instance.as_ref()?;
        self.tasks.get(*self.graph.children[ix].first()?).map(AsRef::as_ref)
    }

    /// What the job of an instance is mapped over.
    #[must_use]
    pub fn map_of(&self, ix: TaskIx) -> Option<&MapOver> {
        self.tasks[ix].instance.as_ref()?;
        self.graph.jobs[*self.graph.children[ix].first()?].map.as_ref()
    }

    /// The instances that a mapped job consists of; none: it was not spread.
    #[must_use]
    pub fn instances(&self, ix: TaskIx) -> Option<&[TaskIx]> {
        let count = self.tasks[ix].spread? as usize;
        Some(self.graph.instances.get(&ix).map_or(&[], |instances| &instances[..count.min(instances.len())]))
    }

    /// What a job left: of a mapped one a list for each output, with null for an instance that left none.
    #[must_use]
    pub fn outputs(&self, ix: TaskIx) -> Cow<'_, BTreeMap<String, Value>> {
        let Some(instances) = self.instances(ix) else { return Cow::Borrowed(&self.tasks[ix].outputs) };
        Cow::Owned(gathered(instances.iter().map(|instance| &self.tasks[*instance].outputs), None))
    }

    /// The same without one output.
    #[must_use]
    pub fn outputs_but(&self, ix: TaskIx, but: Option<&str>) -> BTreeMap<String, Value> {
        if let Some(instances) = self.instances(ix) {
            return gathered(instances.iter().map(|instance| &self.tasks[*instance].outputs), but);
        }
        let left = self.tasks[ix].outputs.iter().filter(|(name, _)| Some(name.as_str()) != but);
        left.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// The executor that runs a job: chosen at submission, else in the template.
    #[must_use]
    pub fn executor(&self, task: TaskIx) -> ExecutorKind {
        let job = &self.graph.jobs[task];
        self.executors.get(&job.name).copied().unwrap_or_else(|| job.executor())
    }

    /// Whether the work of a task is a run of its own. It takes nothing of pools nor of the quota and the share of its
    /// project: that run needs them.
    #[must_use]
    pub fn delegates(&self, task: TaskIx) -> bool {
        let live = self.tasks[task].attempt().filter(|attempt| attempt.outcome.is_none());
        self.graph.jobs[task].kind == JobKind::Workflow || live.is_some_and(|attempt| attempt.sub_workflow().is_some())
    }

    /// What an attempt of a task takes of limits.
    #[must_use]
    pub fn needs(&self, task: TaskIx) -> Vec<Need> {
        let job = &self.graph.jobs[task];
        let project = &self.project;
        // The jobs of a run that is its work may need the same pools.
        let pools = job.pools.iter().filter(|_| !self.delegates(task));
        let mut needs: Vec<Need> = pools
            .map(|(pool, slots)| Need { limit: LimitId::Pool(project.clone(), pool.clone()), slots: *slots })
            .collect();
        if self.graph.concurrency.is_some() {
            needs.push(Need { limit: LimitId::Workflow(self.lane()), slots: 1 });
        }
        if job.concurrency.is_some() {
            let limit = LimitId::Job(self.lane(), job.name.clone());
            needs.push(Need { limit, slots: 1 });
        }
        if let Some(key) = &job.key {
            needs.push(Need { limit: LimitId::Key(project.clone(), self.fill(key, task)), slots: 1 });
        }
        needs
    }

    /// A text with `{{ ds }}` and `{{ params.NAME }}` filled in, and with `{{ item }}`, `{{ item.NAME }}` and `{{ index }}` of
    /// an instance.
    fn fill(&self, text: &str, task: TaskIx) -> String {
        let instance = self.tasks[task].instance.as_deref();
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            filled.push_str(before);
            let Some((name, after)) = after.split_once("}}") else {
                filled.push_str("{{");
                rest = after;
                continue;
            };
            rest = after;
            match name.trim() {
                "ds" => {
                    if let Ok(zone) = crate::schedule::zone(&self.tz) {
                        filled.push_str(&crate::schedule::ds(self.interval, zone).to_string());
                    }
                }
                "index" => {
                    if let Some(instance) = instance {
                        filled.push_str(&instance.index.to_string());
                    }
                }
                name => {
                    let of_run = name.strip_prefix("params.").and_then(|name| self.params.get(name));
                    match of_run.or_else(|| instance?.named(name)) {
                        Some(Value::String(text)) => filled.push_str(text),
                        Some(value) => filled.push_str(&value.to_string()),
                        None => {}
                    }
                }
            }
        }
        filled.push_str(rest);
        filled
    }

    /// Whether nothing outside of the run keeps a task from beginning, as far as was seen.
    #[must_use]
    pub fn conditions_met(&self, task: TaskIx) -> bool {
        self.graph.jobs[task].wait_for.is_empty() || self.tasks[task].watch.as_ref().is_some_and(Watch::is_met)
    }

    /// Whether a piece of work is still to be done: what was decided after it, before it could begin, may have made it
    /// pointless.
    #[must_use]
    pub fn still_wants(&self, work: &Work) -> bool {
        let (Work::Begin { task, epoch }
        | Work::Submit { task, epoch }
        | Work::Reattach { task, epoch }
        | Work::Complete { task, epoch }
        | Work::Publish { task, epoch }
        | Work::Clean { task, epoch, .. }
        | Work::Watch { task, epoch }
        | Work::Set { task, epoch, .. }) = work;
        self.tasks.get(*task).is_some_and(|task| match work {
            Work::Set { timer, .. } => task.heeds(*epoch, *timer),
            _ => task.epoch == *epoch,
        })
    }

    /// Timers to set again after a restart, with the time that is left, and conditions to look at. Those of attempts follow
    /// from what becomes of the attempts.
    #[must_use]
    pub fn timers(&self, now: Micros) -> Vec<Work> {
        let mut timers = Vec::new();
        for (ix, task) in self.tasks.iter().enumerate() {
            match (task.position, &task.watch) {
                (Position::Waiting, Some(watch)) if !watch.is_met() => timers.extend(self.watching(ix, now)),
                (Position::Backoff, _) => {
                    let after = task.backoff_until.map_or(Duration::ZERO, |until| until.since(now));
                    timers.push(Work::Set { task: ix, epoch: task.epoch, timer: Timer::Backoff, after });
                }
                _ => {}
            }
        }
        timers
    }

    /// The timers of a live attempt, with the time that is left.
    fn limits(&self, ix: TaskIx, now: Micros) -> Vec<Work> {
        let (task, job) = (&self.tasks[ix], &self.graph.jobs[ix]);
        let Some(attempt) = task.attempt() else { return Vec::new() };
        let limits = [(Timer::Warn, job.warn_after_seconds), (Timer::Abort, job.timeout_seconds)];
        let timer = |(timer, limit): (Timer, Option<f64>)| {
            let after = crate::document::seconds(limit?).saturating_sub(now.since(attempt.started_at));
            Some(Work::Set { task: ix, epoch: task.epoch, timer, after })
        };
        limits.into_iter().filter_map(timer).collect()
    }

    /// What is to be done about the conditions of a task that are not met.
    pub(crate) fn watching(&self, ix: TaskIx, now: Micros) -> Vec<Work> {
        let (task, epoch) = (ix, self.tasks[ix].epoch);
        let Some(watch) = &self.tasks[ix].watch else { return Vec::new() };
        let conditions = self.graph.jobs[ix].wait_for.iter().zip(&watch.seen);
        let end = conditions.filter(|(_, seen)| !seen.met).map(|(condition, _)| condition.patience()).min();
        let after = end.unwrap_or_default().saturating_sub(now.since(watch.since));
        vec![Work::Set { task, epoch, timer: Timer::Patience, after }, Work::Watch { task, epoch }]
    }
}

impl Task {
    /// Whether a timer that was set in an epoch is still about it. A time limit goes on when somebody takes the attempt over.
    #[must_use]
    pub fn heeds(&self, epoch: u64, timer: Timer) -> bool {
        match (timer, self.attempt()) {
            (Timer::Warn | Timer::Abort, Some(attempt)) => (attempt.first_epoch..=self.epoch).contains(&epoch),
            _ => self.epoch == epoch,
        }
    }

    fn new(job: JobName, bundle: Sha, version: Sha) -> Self {
        Self {
            job,
            position: Position::Waiting,
            generation: 1,
            epoch: 0,
            ending: None,
            ready_at: None,
            backoff_until: None,
            held: None,
            stopped: None,
            hold: None,
            disabled: None,
            marked: None,
            watch: None,
            given_up: None,
            owner_deaths: 0,
            sessions_lost: 0,
            slow: false,
            outputs: BTreeMap::new(),
            instance: None,
            spread: None,
            bundle,
            version,
            attempts: Vec::new(),
        }
    }

    /// What people call it: the job, with the index of an instance, as in `load[3]`.
    #[must_use]
    pub fn name(&self) -> TaskName {
        match self.index() {
            Some(index) => TaskName::of_instance(&self.job, index),
            None => TaskName::from(&self.job),
        }
    }

    /// Which instance of its job it is, if it is one.
    #[must_use]
    pub fn index(&self) -> Option<u32> {
        self.instance.as_ref().map(|instance| instance.index)
    }

    /// Its index as rows have it; empty for a job.
    #[must_use]
    pub fn instance_text(&self) -> String {
        self.index().map_or_else(String::new, |index| index.to_string())
    }

    /// Its place in the graph, by name.
    #[must_use]
    pub fn node(&self) -> (&JobName, Option<u32>) {
        (&self.job, self.index())
    }

    /// What people call its state: the position or, when done, what became of it.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        match (self.position, self.ending) {
            (Position::Done, Some(ending)) => ending.name(),
            (position, _) => position.name(),
        }
    }

    #[must_use]
    pub fn attempt(&self) -> Option<&Attempt> {
        self.attempts.last().map(AsRef::as_ref)
    }
}
