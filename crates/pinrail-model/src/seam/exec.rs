//! What runs jobs: the specs that `execute` may return, and the executors behind one trait.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::document::{ExecutorKind, Job, Sha, SqlSource};
use crate::ids::{AttemptId, RunId};
use crate::names::{ProjectName, WorkflowName};
use crate::run::{Executed, Phase, Report, Verdict};
use crate::seam::lake::Writes;

/// What `execute` may return instead of doing the work itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Spec {
    Sql {
        #[serde(flatten)]
        source: SqlSource,
        #[serde(default)]
        params: BTreeMap<String, Value>,
        #[serde(default)]
        writes: Option<Vec<Writes>>,
    },
    Shell {
        command: Vec<String>,
        #[serde(default)]
        env: BTreeMap<String, String>,
    },
    /// A run of another workflow, from the code that asks for it and for the same interval.
    Workflow {
        workflow: WorkflowName,
        #[serde(default)]
        params: BTreeMap<String, Value>,
    },
}

impl Spec {
    #[must_use]
    pub fn executor(&self) -> ExecutorKind {
        match self {
            Self::Sql { .. } => ExecutorKind::Sql,
            Self::Shell { .. } => ExecutorKind::Shell,
            Self::Workflow { .. } => ExecutorKind::Workflow,
        }
    }
}

/// A stretch of an attempt's phases that runs in one process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Assignment {
    pub attempt: AttemptId,
    pub number: u32,
    pub epoch: u64,
    pub run: RunId,
    pub project: ProjectName,
    pub workflow: WorkflowName,
    pub job: Arc<Job>,
    /// A contiguous part of setup, execute, complete; or cleanup alone.
    pub phases: Vec<Phase>,
    pub code: CodePlaceOnDisk,
    /// The attempt's own folder: made by what runs a process in it, removed after its cleanup.
    pub scratch: PathBuf,
    /// Where a command works.
    pub folder: PathBuf,
    /// What the job is told: the fields of the runner protocol's `start` message beyond those above.
    pub context: serde_json::Map<String, Value>,
    /// Environment of shell jobs: `PINRAIL_DS` and its siblings, and the job's own.
    pub env: BTreeMap<String, String>,
    /// For a shell spec or job.
    pub command: Vec<String>,
    pub cleanup_limit: Duration,
}

/// Where the code of an attempt lies.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CodePlaceOnDisk {
    /// The unpacked bundle.
    pub root: PathBuf,
    /// The project's own folder, when the server shares its disk.
    pub project: Option<PathBuf>,
    /// Patterns of `[files]`; none: there is no such section.
    pub patterns: Option<Vec<String>>,
    pub bundle: Sha,
    /// The Python interpreter.
    pub interpreter: PathBuf,
    /// The folder of the Python environment that it belongs to, if the project has a lock.
    pub environment: Option<PathBuf>,
}

/// Which standard stream, or the job's own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    Stdout,
    Stderr,
    Log,
    /// What the platform itself says about the attempt.
    System,
}

/// Takes what an executor sees of an attempt, in order. Calls do not block for long.
#[async_trait]
pub trait AttemptSink: Send + Sync {
    fn report(&self, report: Report);
    /// Something whole: a line of a log, a remark of the platform's.
    fn log(&self, phase: Option<Phase>, stream: Stream, bytes: &[u8]);
    /// A piece of a stream or of a long text that may be cut anywhere; the last one, which may be empty, ends it.
    fn piece(&self, stream: Stream, bytes: &[u8], last: bool);
    fn counter(&self, group: &str, name: &str, value: f64, unit: Option<&str>);
    fn progress(&self, done: Option<f64>, text: Option<&str>);
    /// The job's class is loaded and defines these phases.
    fn defines(&self, phases: &[Phase]);
    /// Returns when what was reported before is durable.
    async fn settled(&self) {}
    /// `setup` has ended: fixes what the attempt will see of the tables.
    async fn fix_view(&self) -> Result<(), String>;
    /// The attempt is being stopped: nothing more may be started for it. Asked right before a process is started and again
    /// right after, when whoever stops the attempt may have looked for it too early.
    fn is_stopped(&self) -> bool {
        false
    }
    /// Ends when the attempt is being stopped.
    async fn stopped(&self) {
        std::future::pending().await
    }
    /// Answers a request of the job: SQL, a secret, a file for people.
    async fn request(&self, request: Request) -> Result<Value, RequestError>;
}

/// What a job may ask for while it runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    Sql { text: String },
    Secret { name: String },
    Save { name: String, path: PathBuf },
    Output { name: String, value: Value },
}

/// Why a request was not granted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RequestError {
    pub code: String,
    pub message: String,
    pub hint: Option<String>,
}

/// How a stretch of phases ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stretch {
    /// `execute` returned a spec, and the process has ended well.
    Specified(Executed),
    /// All phases returned, and the process has ended well.
    Completed {
        outputs: BTreeMap<String, Value>,
    },
    /// Cleanup returned.
    Cleaned,
    Failed(Verdict),
    /// Whatever runs processes has vanished.
    Lost,
}

/// Runs stretches of phases, on this machine or at a worker. Dropping the future of `run` does not end what it started; `stop` does.
#[async_trait]
pub trait Executor: Send + Sync {
    fn kind(&self) -> ExecutorKind;
    /// Runs to the end of the process; reports of phases go to the sink as they happen.
    async fn run(&self, assignment: &Assignment, sink: &dyn AttemptSink) -> Stretch;
    /// Ends whatever lives of an attempt: asks, waits the grace, kills. Returns when nothing lives.
    async fn stop(&self, attempt: AttemptId, grace: Duration);
    /// Processes that are kept for the next attempts.
    fn warm(&self) -> usize {
        0
    }
}

/// Runs a command of the platform's own on user files: contained like a job, without a network unless it builds a Python
/// environment, belonging to no attempt.
#[async_trait]
pub trait Sandbox: Send + Sync {
    /// Runs to the end or to a limit, and leaves no process behind.
    ///
    /// # Errors
    /// When it cannot be run, or not without a network.
    async fn run(&self, command: SandboxCommand) -> Result<SandboxOutput, SandboxError>;
}

/// Why a command cannot be run in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SandboxError {
    /// The program cannot be started.
    #[error("{0}")]
    Program(String),
    /// This system cannot contain it.
    #[error("{message}")]
    Isolation { message: String, hint: String },
}

/// What to run in a sandbox.
#[derive(Debug, Clone)]
pub struct SandboxCommand {
    /// Whose files it works on.
    pub project: Option<ProjectName>,
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub cwd: PathBuf,
    pub limit: Duration,
    /// Bytes of memory for it and all that it starts.
    pub memory: u64,
    /// It may use the network, as only programs of the platform's own choice do.
    pub network: bool,
}

/// What it left.
#[derive(Debug, Clone)]
pub struct SandboxOutput {
    pub end: SandboxEnd,
    pub stdout: Vec<u8>,
    /// Its last part.
    pub stderr: Vec<u8>,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxEnd {
    Exit(i32),
    Signal(i32),
    TooLong,
    TooMuchMemory,
}
