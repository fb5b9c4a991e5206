//! Whose fault a failure is, with the evidence for it. Without evidence it is `unknown`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Whose fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The job's own code, query or command.
    User,
    /// The data did not pass a check.
    Data,
    /// A job that this one needs did not succeed.
    Upstream,
    /// Pinrail itself, or the machine under it.
    Platform,
    /// A system that neither the user nor Pinrail runs.
    External,
    /// Another writer changed the same table or partition.
    Conflict,
    /// Somebody stopped it.
    Cancelled,
    /// It exceeded its own time limit.
    Timeout,
    /// It exceeded its own memory limit, or the machine's.
    OutOfMemory,
    /// There is no evidence for any of the others.
    Unknown,
}

impl Fault {
    pub const ALL: [Self; 10] = [
        Self::User,
        Self::Data,
        Self::Upstream,
        Self::Platform,
        Self::External,
        Self::Conflict,
        Self::Cancelled,
        Self::Timeout,
        Self::OutOfMemory,
        Self::Unknown,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Data => "data",
            Self::Upstream => "upstream",
            Self::Platform => "platform",
            Self::External => "external",
            Self::Conflict => "conflict",
            Self::Cancelled => "cancelled",
            Self::Timeout => "timeout",
            Self::OutOfMemory => "out-of-memory",
            Self::Unknown => "unknown",
        }
    }

    /// Whether the job is tried again unless it says otherwise. A job killed by nobody knows whom may well pass next
    /// time; a failed check or a job too large for its memory will not.
    #[must_use]
    pub fn retried_by_default(self) -> bool {
        matches!(self, Self::User | Self::External | Self::Timeout | Self::Unknown)
    }

    /// How many attempts of one generation may end with this fault at no cost to the user's retries.
    #[must_use]
    pub fn free_attempts(self) -> u32 {
        match self {
            Self::Platform => 3,
            Self::External | Self::Conflict => 5,
            _ => 0,
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|fault| fault.name() == text).ok_or_else(|| format!("\"{text}\" is not a fault"))
    }
}

/// The way in which an attempt failed: stable, for programs. docs/generated/explain.md has a section for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    Exception,
    Said,
    CheckFailed,
    ExitCode,
    CommandNotFound,
    CommandRefused,
    Crashed,
    Killed,
    EndedEarly,
    Unsaid,
    MemoryLimit,
    MemoryError,
    QueryMemory,
    TimeLimit,
    Stopped,
    SecretMissing,
    EnvironmentImpossible,
    EnvironmentUnreachable,
    FileMissing,
    ExecutorMissing,
    EngineMissing,
    BadMap,
    SqlFailed,
    DataRefused,
    Conflict,
    ServerLost,
    WorkerLost,
    ProcessLost,
    CodeMissing,
    MachineFailed,
    StorageFailed,
    StateFailed,
    ServerFailed,
    WorkflowFailed,
    WorkflowRefused,
}

impl Reason {
    pub const ALL: [Self; 35] = [
        Self::Exception,
        Self::Said,
        Self::CheckFailed,
        Self::ExitCode,
        Self::CommandNotFound,
        Self::CommandRefused,
        Self::Crashed,
        Self::Killed,
        Self::EndedEarly,
        Self::Unsaid,
        Self::MemoryLimit,
        Self::MemoryError,
        Self::QueryMemory,
        Self::TimeLimit,
        Self::Stopped,
        Self::SecretMissing,
        Self::EnvironmentImpossible,
        Self::EnvironmentUnreachable,
        Self::FileMissing,
        Self::ExecutorMissing,
        Self::EngineMissing,
        Self::BadMap,
        Self::SqlFailed,
        Self::DataRefused,
        Self::Conflict,
        Self::ServerLost,
        Self::WorkerLost,
        Self::ProcessLost,
        Self::CodeMissing,
        Self::MachineFailed,
        Self::StorageFailed,
        Self::StateFailed,
        Self::ServerFailed,
        Self::WorkflowFailed,
        Self::WorkflowRefused,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        self.told().0
    }

    /// What happened: a sentence.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        self.told().1
    }

    /// Whether its remedy says no more than that the code or the command is to be mended, which everybody knows.
    #[must_use]
    pub fn is_plain(self) -> bool {
        matches!(self, Self::Exception | Self::ExitCode | Self::Stopped)
    }

    /// What to do when the evidence knows nothing better: a sentence.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        self.told().2
    }

    fn told(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Exception => (
                "exception",
                "The job's Python code raised an exception.",
                "Mend the line of your code that is named, or catch what it may raise.",
            ),
            Self::Said => (
                "said",
                "The job said by itself that it cannot go on: it raised `UserError`.",
                "Do what the message says.",
            ),
            Self::CheckFailed => (
                "check-failed",
                "A check of the job (`ctx.check`) did not hold; what it had written was not published.",
                "Mend the data, or the check if it asks for too much.",
            ),
            Self::ExitCode => (
                "exit-code",
                "The command, or the job's `sys.exit`, ended with an exit code other than 0.",
                "Look at its last words, and at all of them with `pinrail logs`.",
            ),
            Self::CommandNotFound => (
                "command-not-found",
                "A command ended with exit code 127, by which a shell says that it did not find a program.",
                "Check the program's name and the `PATH` that the command has.",
            ),
            Self::CommandRefused => (
                "command-refused",
                "The system did not start the command.",
                "Check the command's name, its path and that it may be executed.",
            ),
            Self::Crashed => (
                "crashed",
                "The process ended itself by a signal, as after a bad memory access.",
                "Look for compiled code that it loads: a library of another version, or a bug of it.",
            ),
            Self::Killed => (
                "killed",
                "Something other than Pinrail killed the process.",
                "Look at the machine: its memory, its log, and who else works on it.",
            ),
            Self::EndedEarly => (
                "ended-early",
                "The job's process ended before its phases had returned.",
                "Look into the log; a job must not call os._exit nor close descriptors that it did not open.",
            ),
            Self::Unsaid => {
                ("unsaid", "The runner reported a failure without a word.", "Look into the log with `pinrail logs`.")
            }
            Self::MemoryLimit => (
                "memory-limit",
                "The job's processes used more memory than `memory` in its template allows.",
                "Use less memory, or raise `memory` in its template.",
            ),
            Self::MemoryError => (
                "memory-error",
                "Python could not get the memory that the job asked for.",
                "Use less memory at once, or raise `memory` in its template.",
            ),
            Self::QueryMemory => (
                "query-memory",
                "A query needed more memory than queries have.",
                "Read fewer columns or rows at once, or split the statement.",
            ),
            Self::TimeLimit => (
                "time-limit",
                "It took longer than `timeout` in its template.",
                "Make it faster, or raise `timeout` in its template.",
            ),
            Self::Stopped => ("stopped", "A person or program stopped it.", "Retry it when it is to run again."),
            Self::SecretMissing => (
                "secret-missing",
                "A secret that the job declares is not set, or cannot be opened.",
                "Set it with `pinrail secret set NAME`.",
            ),
            Self::EnvironmentImpossible => (
                "environment-impossible",
                "The Python environment cannot be built from the lock as it is.",
                "Mend the lock or `pinrail.toml`.",
            ),
            Self::EnvironmentUnreachable => (
                "environment-unreachable",
                "The packages of the Python environment could not be fetched.",
                "Check the network, or name a folder of wheels.",
            ),
            Self::FileMissing => (
                "file-missing",
                "A file that the job names is not in the project.",
                "Check the path in the workflow file; it is relative to the project.",
            ),
            Self::ExecutorMissing => {
                ("executor-missing", "This server has no such executor.", "Choose another executor for the job.")
            }
            Self::EngineMissing => {
                ("engine-missing", "This build of Pinrail has no SQL engine.", "Use a build with the feature `lake`.")
            }
            Self::BadMap => (
                "bad-map",
                "The job is mapped over a list that is not there, is no list or is too long, or what its instances left is too \
                 large to be passed on.",
                "Let the job above leave a list, a shorter one, or raise `max_instances` in the template.",
            ),
            Self::SqlFailed => (
                "sql-failed",
                "A statement is wrong, or reads what is not there; the fact `error` holds the code.",
                "Mend the statement; `pinrail check` finds most such errors before a run.",
            ),
            Self::DataRefused => (
                "data-refused",
                "Values do not fit where a statement puts them.",
                "Mend the data, or convert them in the statement.",
            ),
            Self::Conflict => (
                "conflict",
                "Other writers changed the same table or partition again and again.",
                "Decide who owns the table or partition, and let only that job write it.",
            ),
            Self::ServerLost => {
                ("server-lost", "The server died while the job ran.", "Nothing: it is tried again at no cost.")
            }
            Self::WorkerLost => (
                "worker-lost",
                "The worker that ran the job was lost.",
                "Nothing: it is tried again at no cost; look at the machine if it happens again.",
            ),
            Self::ProcessLost => (
                "process-lost",
                "The process that watched over the job was lost, so nobody knows how the job ended.",
                "Nothing: it is tried again at no cost; look at the machine's log if it happens again.",
            ),
            Self::CodeMissing => (
                "code-missing",
                "The files of the run's code cannot be unpacked.",
                "Look at the disk's free space, and send the code again by a new run.",
            ),
            Self::MachineFailed => (
                "machine-failed",
                "The machine refused something that every job needs: a folder, a socket, a process.",
                "Look at the disk's free space, the limits of the server's user, and the server's log.",
            ),
            Self::StorageFailed => (
                "storage-failed",
                "Files of tables cannot be read or written.",
                "Look at the disk's free space and at the warehouse's permissions.",
            ),
            Self::StateFailed => (
                "state-failed",
                "The state database or the stored workflow cannot be read.",
                "Look at the disk and the server's log; `pinrail doctor` looks as well.",
            ),
            Self::ServerFailed => (
                "server-failed",
                "The server itself failed while it worked on the attempt.",
                "Look into server.log, which says where, and report it.",
            ),
            Self::WorkflowFailed => (
                "workflow-failed",
                "The run of another workflow that was its work did not succeed.",
                "Explain that run; a retry of the job takes up that run where it failed.",
            ),
            Self::WorkflowRefused => (
                "workflow-refused",
                "A run of the other workflow cannot be made as it is asked for.",
                "Mend the workflow's name or the parameters in the workflow file.",
            ),
        }
    }
}

/// Where in the user's own code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CodePlace {
    pub file: String,
    pub line: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// The fact that holds the code of a statement's error, such as `column-not-found`.
pub const ERROR: &str = "error";

/// What is known of a failure: enough to answer "what happened, where, what now" without a log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Evidence {
    /// What happened, one lower-case line without full stop.
    pub message: String,
    /// The way in which it failed; none in what earlier versions stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// What to do about it: a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// The user's frames, innermost last; nothing of ours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub code: Vec<CodePlace>,
    /// Measured facts, such as `exit code` `3`, `signal` `KILL`, `check` `enough flights`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<(String, String)>,
}

impl Evidence {
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::default() }
    }

    /// The remedy, if it is worth its line.
    #[must_use]
    pub fn telling_remedy(&self) -> Option<&str> {
        let remedy = self.remedy.as_deref()?;
        let is_plain = self.reason.is_some_and(|reason| reason.is_plain() && remedy == reason.remedy());
        (!is_plain).then_some(remedy)
    }

    #[must_use]
    pub fn reason(mut self, reason: Reason) -> Self {
        self.reason = Some(reason);
        self
    }

    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    #[must_use]
    pub fn fact(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.facts.push((name.into(), value.to_string()));
        self
    }
}
