//! The workflow document: what a workflow file compiles to, immutable, versioned, and all that scheduling ever sees.
//!
//! It is canonical JSON (keys sorted, no white space); its SHA-256 is the version of the workflow. Unknown fields are
//! an error, a higher `format` names the version that is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::condition::Condition;
use crate::fault::Fault;
use crate::names::{JobName, OutputName, ParamName, PoolName, SecretName, WorkflowName};
use crate::near::nearest;
use crate::schedule::Schedule;
use crate::seam::lake::WriteMode;
use crate::trigger::Overrun;

/// The format that this version writes and the highest it reads.
pub const FORMAT: u32 = 1;
/// A workflow with more jobs than this is refused: lists and locks are sized for it.
pub const MOST_JOBS: usize = 20_000;
/// A list that a job is mapped over and that is longer than this is refused, unless the job says that it may be: a list
/// that is longer than anybody thought is more often a mistake than work to do.
pub const USUAL_INSTANCES: u32 = 1_000;
/// What a job may say at most: each item is a task with rows of its own.
pub const MOST_INSTANCES: u32 = 10_000;
/// What the instances of a job leave may take so much together, in bytes of JSON: it is given to each attempt below.
pub const LARGEST_GATHERED: usize = 4 << 20;
/// A run with more tasks than this, instances among them, does not get any more.
pub const MOST_TASKS: usize = 50_000;

/// A workflow, compiled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Document {
    pub format: u32,
    pub workflow: WorkflowName,
    #[serde(default)]
    pub description: Option<String>,
    #[serde(default)]
    pub owner: Option<String>,
    #[serde(default)]
    pub params: BTreeMap<ParamName, Param>,
    #[serde(default)]
    pub schedule: Option<Schedule>,
    /// What is done when a fire time finds earlier runs unfinished.
    #[serde(default, skip_serializing_if = "is_default")]
    pub overrun: Overrun,
    /// Runs of the schedule that may be active at once; none: [`crate::trigger::MOST_ACTIVE`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_active: Option<u32>,
    /// Attempts of all its runs that may be under way at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// A run is to have succeeded this long after it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sla_seconds: Option<f64>,
    /// Which channels are told of what.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub notify: crate::notify::On,
    pub source: Source,
    /// In file order.
    pub jobs: Vec<Job>,
}

/// Where something was declared.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub file: String,
    pub line: u32,
}

/// A parameter of a workflow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Param {
    #[serde(rename = "type")]
    pub kind: ParamType,
    /// Absent when the parameter is required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<serde_json::Value>,
    #[serde(default)]
    pub required: bool,
    #[serde(default)]
    pub help: String,
    #[serde(default)]
    pub choices: Option<Vec<serde_json::Value>>,
}

/// The type of a parameter; the JSON of `date`, `datetime` and `decimal` is a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ParamType {
    Int,
    Float,
    Str,
    Bool,
    Date,
    Datetime,
    Decimal,
}

/// What a job is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JobKind {
    Class,
    Sql,
    Shell,
    /// A run of another workflow of the project, from the same code and for the same interval.
    Workflow,
}

/// The SQL of a job: a file of the project, or a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SqlSource {
    File(String),
    Text(String),
}

/// When a job runs, by what became of the jobs that it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunIf {
    #[default]
    AllSucceeded,
    AllDone,
    AnyFailed,
    NoneFailed,
}

/// What runs a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExecutorKind {
    Python,
    Shell,
    Sql,
    Workflow,
}

impl ExecutorKind {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Shell => "shell",
            Self::Sql => "sql",
            Self::Workflow => "workflow",
        }
    }

    /// The executors that can run a kind of job, the default first.
    #[must_use]
    pub fn possible(kind: JobKind) -> &'static [Self] {
        match kind {
            JobKind::Class => &[Self::Python, Self::Shell],
            JobKind::Sql => &[Self::Sql],
            JobKind::Shell => &[Self::Shell],
            JobKind::Workflow => &[Self::Workflow],
        }
    }
}

impl fmt::Display for ExecutorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ExecutorKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Python, Self::Shell, Self::Sql, Self::Workflow];
        all.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            let names: Vec<_> = all.iter().map(|kind| kind.name()).collect();
            format!("executor \"{text}\" does not exist; there are {}", names.join(", "))
        })
    }
}

/// What a job declares that it writes; partition values are templates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeclaredWrites {
    pub table: String,
    #[serde(default)]
    pub partition: BTreeMap<String, String>,
    #[serde(default)]
    pub mode: WriteMode,
}

/// The list that a mapped job is spread over: one instance for each item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MapOver {
    /// One of the jobs that it waits for.
    pub job: JobName,
    /// An output of that job, which is a list.
    pub output: OutputName,
    /// Items that the list may have at most; none: 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_instances: Option<u32>,
}

impl MapOver {
    /// Items that the list may have at most.
    #[must_use]
    pub fn most(&self) -> u32 {
        self.max_instances.unwrap_or(USUAL_INSTANCES)
    }
}

impl fmt::Display for MapOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.job, self.output)
    }
}

/// A node of a workflow, its settings resolved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Job {
    pub name: JobName,
    pub kind: JobKind,
    #[serde(default)]
    pub class: Option<String>,
    #[serde(default)]
    pub sql: Option<SqlSource>,
    #[serde(default)]
    pub shell: Option<Vec<String>>,
    /// The workflow of which a run is its work; `params` are those of that run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<WorkflowName>,
    #[serde(default)]
    pub executor: Option<ExecutorKind>,
    /// Jobs that this one waits for, in file order.
    #[serde(default)]
    pub after: Vec<JobName>,
    /// It runs once for each item of a list that is known when the jobs before it have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<MapOver>,
    #[serde(default)]
    pub run_if: RunIf,
    #[serde(default)]
    pub retries: u32,
    #[serde(default)]
    pub retry_delay_seconds: Option<f64>,
    /// Faults that are tried again; none: user, external, timeout and unknown.
    #[serde(default)]
    pub retry_on: Option<Vec<Fault>>,
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// After this an attempt is reported as slow; it goes on.
    #[serde(default)]
    pub warn_after_seconds: Option<f64>,
    /// After this an attempt is stopped.
    #[serde(default)]
    pub timeout_seconds: Option<f64>,
    #[serde(default)]
    pub cleanup_timeout_seconds: Option<f64>,
    /// A failure of this job does not fail the run.
    #[serde(default)]
    pub may_fail: bool,
    /// What its Python environment has beyond the project's lock.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extras: Vec<String>,
    #[serde(default)]
    pub secrets: Vec<SecretName>,
    /// Environment variable to secret, for shell jobs.
    #[serde(default)]
    pub secret_env: BTreeMap<String, SecretName>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    #[serde(default)]
    pub writes: Option<Vec<DeclaredWrites>>,
    #[serde(default)]
    pub params: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    pub priority: i32,
    /// Pools that its attempts take slots of.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pools: BTreeMap<PoolName, u32>,
    /// Attempts of it that may be under way at once, in all runs of the workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// A template of `ds` and parameters: of what has the same value in the project, one is under way at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Labels that a worker must have to run it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// What must be so outside of the run before it begins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wait_for: Vec<Condition>,
    #[serde(default)]
    pub description: Option<String>,
    #[serde(default)]
    pub owner: Option<String>,
    #[serde(default)]
    pub source: Source,
}

impl Job {
    /// The executor that runs it when the submission says nothing.
    #[must_use]
    pub fn executor(&self) -> ExecutorKind {
        self.executor.unwrap_or(ExecutorKind::possible(self.kind)[0])
    }

    /// The wait before a try after `failures` counted ones: the given delay, doubled each time, ten minutes at most.
    #[must_use]
    pub fn retry_delay(&self, failures: u32) -> Duration {
        let first = self.retry_delay_seconds.map_or(FIRST_RETRY_DELAY, seconds);
        first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_RETRY_DELAY.max(first))
    }

    #[must_use]
    pub fn retries_on(&self, fault: Fault) -> bool {
        self.retry_on.as_ref().map_or(fault.retried_by_default(), |faults| faults.contains(&fault))
    }

    /// What an instance of it is: the same without the list and without what is waited for before it is spread.
    #[must_use]
    pub fn instance(&self) -> Self {
        Self { map: None, wait_for: Vec::new(), ..self.clone() }
    }

    #[must_use]
    pub fn cleanup_timeout(&self) -> Duration {
        self.cleanup_timeout_seconds.map_or(CLEANUP_TIMEOUT, seconds)
    }
}

/// A given number of seconds as a duration; what no duration can hold becomes the longest or none.
#[must_use]
pub fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

/// Long enough for a hiccup to pass, short enough not to be noticed.
const FIRST_RETRY_DELAY: Duration = Duration::from_secs(1);
const LONGEST_RETRY_DELAY: Duration = Duration::from_secs(600);
/// A cleanup removes what lies outside; one that needs longer says so.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(300);

/// The version of a workflow: the SHA-256 of its document.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sha([u8; 32]);

impl Sha {
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The first characters, as people see it.
    #[must_use]
    pub fn short(&self) -> String {
        hex::encode(&self.0[..4])
    }
}

/// A digest of bytes that are not all there yet.
#[derive(Debug, Default)]
pub struct Digesting(Sha256);

impl Digesting {
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    #[must_use]
    pub fn finish(self) -> Sha {
        Sha(self.0.finalize().into())
    }
}

impl fmt::Display for Sha {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Sha {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| format!("\"{text}\" is not a SHA-256"))?;
        Ok(Self(bytes))
    }
}

crate::schema::describe!(
    Sha,
    crate::schema::text(
        "A SHA-256 in hexadecimal digits.",
        Some("^[0-9a-f]{64}$"),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    )
);

impl Serialize for Sha {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// JSON with sorted keys and no white space, whatever order the value's maps have.
///
/// # Panics
/// Never: memory takes all that is written to it, and JSON is text.
#[must_use]
pub fn canonical(value: &serde_json::Value) -> String {
    let mut text = Vec::new();
    put_canonical(value, &mut text).expect("memory can be written");
    String::from_utf8(text).expect("JSON is UTF-8")
}

fn put_canonical(value: &serde_json::Value, text: &mut Vec<u8>) -> serde_json::Result<()> {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            let mut fields: Vec<_> = map.iter().collect();
            fields.sort_unstable_by_key(|(key, _)| *key);
            for (at, (key, value)) in fields.into_iter().enumerate() {
                text.push(if at == 0 { b'{' } else { b',' });
                serde_json::to_writer(&mut *text, key)?;
                text.push(b':');
                put_canonical(value, text)?;
            }
            text.extend_from_slice(if map.is_empty() { b"{}" } else { b"}" });
            Ok(())
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                text.push(if at == 0 { b'[' } else { b',' });
                put_canonical(item, text)?;
            }
            text.extend_from_slice(if items.is_empty() { b"[]" } else { b"]" });
            Ok(())
        }
        scalar => serde_json::to_writer(text, scalar),
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DocumentError {
    /// Stable, kebab-case.
    pub code: &'static str,
    pub message: String,
    pub hint: Option<String>,
    /// Where it was declared, as far as the document says.
    pub place: Source,
}

/// What to say of a document that cannot be used, in one sentence: the first thing that is wrong with it.
#[must_use]
pub fn first_message(errors: &[DocumentError]) -> String {
    errors.first().map_or_else(|| "the document cannot be read".to_owned(), |error| error.message.clone())
}

impl DocumentError {
    fn new(code: &'static str, place: &Source, message: String) -> Self {
        Self { code, message, hint: None, place: place.clone() }
    }
}

impl Document {
    /// Reads a document and checks everything that the state machines rely on.
    ///
    /// # Errors
    /// All that is wrong with it, at least one.
    pub fn read(json: &serde_json::Value) -> Result<Self, Vec<DocumentError>> {
        Self::checked(json.get("format"), || Self::deserialize(json))
    }

    /// The same of a value that nobody else needs.
    ///
    /// # Errors
    /// As [`Document::read`].
    pub fn take(json: serde_json::Value) -> Result<Self, Vec<DocumentError>> {
        let format = json.get("format").cloned();
        Self::checked(format.as_ref(), || serde_json::from_value(json))
    }

    fn checked(
        format: Option<&serde_json::Value>,
        read: impl FnOnce() -> serde_json::Result<Self>,
    ) -> Result<Self, Vec<DocumentError>> {
        let nowhere = Source::default();
        let format = format.and_then(serde_json::Value::as_u64).unwrap_or(0);
        if format > u64::from(FORMAT) {
            let message = format!("this workflow document has format {format}; this version of pinrail reads {FORMAT}");
            return Err(vec![DocumentError::new("format-too-new", &nowhere, message)]);
        }
        let document = read().map_err(|e| vec![DocumentError::new("bad-document", &nowhere, e.to_string())])?;
        let errors = document.faults();
        if errors.is_empty() { Ok(document) } else { Err(errors) }
    }

    /// The document as it is stored, and its version: the digest of its canonical text.
    ///
    /// # Panics
    /// Never: a document consists of what JSON knows.
    #[must_use]
    pub fn seal(&self) -> (serde_json::Value, Sha) {
        let value = serde_json::to_value(self).expect("a document is JSON");
        let version = Sha::of(canonical(&value).as_bytes());
        (value, version)
    }

    #[must_use]
    pub fn job(&self, name: &str) -> Option<&Job> {
        self.jobs.iter().find(|job| job.name.as_str() == name)
    }

    fn faults(&self) -> Vec<DocumentError> {
        let mut errors = Vec::new();
        if self.jobs.is_empty() {
            let message = format!("workflow \"{}\" has no jobs", self.workflow);
            errors.push(DocumentError::new("no-jobs", &self.source, message));
        }
        if self.jobs.len() > MOST_JOBS {
            let message =
                format!("workflow \"{}\" has {} jobs; at most {MOST_JOBS} are allowed", self.workflow, self.jobs.len());
            errors.push(DocumentError::new("too-many-jobs", &self.source, message));
        }
        let mut seen: BTreeMap<String, &Job> = BTreeMap::new();
        for job in &self.jobs {
            if let Some(first) = seen.insert(job.name.as_str().to_lowercase(), job) {
                let message = format!("two jobs are named \"{}\" (the other on line {})", job.name, first.source.line);
                errors.push(DocumentError::new("duplicate-job", &job.source, message));
            }
            errors.extend(job_faults(job));
            if job.workflow.as_ref() == Some(&self.workflow) {
                let message = format!("workflow \"{}\" runs itself by its job \"{}\"", self.workflow, job.name);
                errors.push(DocumentError::new("cycle", &job.source, message));
            }
        }
        errors.extend(self.edge_faults());
        if errors.is_empty() {
            errors.extend(self.cycle());
        }
        if self.max_active == Some(0) || self.concurrency == Some(0) {
            let message = format!("workflow \"{}\" has max_active or concurrency 0; it could never run", self.workflow);
            errors.push(DocumentError::new("wrong-type", &self.source, message));
        }
        if self.schedule.is_some()
            && let Some((name, _)) = self.params.iter().find(|(_, param)| param.required)
        {
            let message = format!("workflow \"{}\" has a schedule, and parameter \"{name}\" no default", self.workflow);
            let mut error = DocumentError::new("bad-schedule", &self.source, message);
            error.hint = Some("nobody gives a value when a schedule fires; write default=...".to_owned());
            errors.push(error);
        }
        if let Some(schedule) = &self.schedule
            && let Err(message) = schedule.check()
        {
            errors.push(DocumentError::new("bad-schedule", &self.source, message));
        }
        errors
    }

    fn edge_faults(&self) -> Vec<DocumentError> {
        let names: BTreeSet<&str> = self.jobs.iter().map(|job| job.name.as_str()).collect();
        let mut errors = Vec::new();
        for job in &self.jobs {
            for parent in job.after.iter().filter(|parent| !names.contains(parent.as_str())) {
                let message = format!("workflow \"{}\" names a job that does not exist: \"{parent}\"", self.workflow);
                let mut error = DocumentError::new("unknown-dependency", &job.source, message);
                error.hint = nearest(parent.as_str(), names.iter().copied()).map(|n| format!("did you mean \"{n}\"?"));
                errors.push(error);
            }
        }
        errors
    }

    /// The first cycle with its whole path, if there is one.
    fn cycle(&self) -> Option<DocumentError> {
        let order = topological(&self.jobs).err()?;
        let path: Vec<_> = order.iter().map(|ix| self.jobs[*ix].name.as_str()).collect();
        let message = format!("workflow \"{}\" waits for itself: {}", self.workflow, path.join(" -> "));
        Some(DocumentError::new("cycle", &self.jobs[order[0]].source, message))
    }
}

fn job_faults(job: &Job) -> Vec<DocumentError> {
    let mut errors = Vec::new();
    let mut fault = |code, message| errors.push(DocumentError::new(code, &job.source, message));
    let given = [job.class.is_some(), job.sql.is_some(), job.shell.is_some(), job.workflow.is_some()];
    let wanted = match job.kind {
        JobKind::Class => [true, false, false, false],
        JobKind::Sql => [false, true, false, false],
        JobKind::Shell => [false, false, true, false],
        JobKind::Workflow => [false, false, false, true],
    };
    if given != wanted {
        fault("two-kinds", format!("job \"{}\" must have exactly one of class, sql, shell, workflow", job.name));
    }
    if job.shell.as_ref().is_some_and(|argv| argv.is_empty() || argv[0].is_empty()) {
        fault("wrong-type", format!("job \"{}\" has an empty command", job.name));
    }
    if job.pools.values().any(|slots| *slots == 0) || job.concurrency == Some(0) {
        fault("wrong-type", format!("job \"{}\" has a pool or concurrency of 0; it could never run", job.name));
    }
    if let Some(map) = job.map.as_ref().filter(|map| !job.after.contains(&map.job)) {
        fault(
            "bad-map",
            format!("job \"{}\" is mapped over \"{map}\" and does not wait for \"{}\"", job.name, map.job),
        );
    }
    if let Some(most) = job.map.as_ref().map(MapOver::most).filter(|most| !(1..=MOST_INSTANCES).contains(most)) {
        let message = format!(
            "job \"{}\" has a `max_instances` of {most}; it is at least 1 and at most {MOST_INSTANCES}",
            job.name
        );
        fault("bad-map", message);
    }
    if let Err(message) = check_executor(job, job.executor()) {
        fault("executor-impossible", message);
    }
    let times = [job.retry_delay_seconds, job.warn_after_seconds, job.timeout_seconds, job.cleanup_timeout_seconds];
    if times.into_iter().flatten().any(|seconds| !seconds.is_finite() || seconds < 0.0) {
        fault("wrong-type", format!("job \"{}\" has a negative or infinite time", job.name));
    }
    errors
}

/// Whether an executor can run a job at all.
///
/// # Errors
/// A message that names the possible ones.
pub fn check_executor(job: &Job, executor: ExecutorKind) -> Result<(), String> {
    let possible = ExecutorKind::possible(job.kind);
    if possible.contains(&executor) {
        return Ok(());
    }
    let names: Vec<_> = possible.iter().map(|kind| kind.name()).collect();
    let kind = match job.kind {
        JobKind::Class => "a Python class",
        JobKind::Sql => "SQL",
        JobKind::Shell => "a command",
        JobKind::Workflow => "a run of a workflow",
    };
    Err(format!(
        "job \"{}\" is {kind} and cannot run on executor \"{executor}\"; possible: {}",
        job.name,
        names.join(", ")
    ))
}

/// The jobs' positions, parents first; or the positions along one cycle, its first repeated at the end.
pub(crate) fn topological(jobs: &[Job]) -> Result<Vec<usize>, Vec<usize>> {
    let index: BTreeMap<&str, usize> = jobs.iter().enumerate().map(|(ix, job)| (job.name.as_str(), ix)).collect();
    let parents: Vec<Vec<usize>> =
        jobs.iter().map(|job| job.after.iter().filter_map(|p| index.get(p.as_str()).copied()).collect()).collect();
    let mut order = Vec::with_capacity(jobs.len());
    let mut state = vec![Visit::New; jobs.len()];
    // An explicit stack: a workflow may be a chain of thousands of jobs.
    for start in 0..jobs.len() {
        let mut stack = vec![(start, 0)];
        while let Some((at, next)) = stack.pop() {
            if next == 0 {
                if state[at] != Visit::New {
                    continue;
                }
                state[at] = Visit::Open;
            }
            match parents[at].get(next) {
                None => {
                    state[at] = Visit::Done;
                    order.push(at);
                }
                Some(&parent) => {
                    stack.push((at, next + 1));
                    match state[parent] {
                        Visit::New => stack.push((parent, 0)),
                        Visit::Done => {}
                        Visit::Open => {
                            // The open ones on the stack from the parent on, from child to parent, are the cycle.
                            let from = stack.iter().position(|(ix, _)| *ix == parent).unwrap_or(0);
                            let mut path: Vec<_> = stack[from..].iter().map(|(ix, _)| *ix).collect();
                            path.reverse();
                            path.push(path[0]);
                            return Err(path);
                        }
                    }
                }
            }
        }
    }
    Ok(order)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Visit {
    New,
    Open,
    Done,
}

/// The published JSON Schema of the document.
#[must_use]
pub fn json_schema() -> serde_json::Value {
    schemars::schema_for!(Document).to_value()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document(jobs: serde_json::Value) -> serde_json::Value {
        json!({"format": 1, "workflow": "w", "source": {"file": "workflows/w.py", "line": 1}, "jobs": jobs})
    }

    fn job(name: &str, after: &[&str]) -> serde_json::Value {
        json!({"name": name, "kind": "class", "class": "jobs.a.b", "after": after})
    }

    fn codes(jobs: serde_json::Value) -> Vec<&'static str> {
        Document::read(&document(jobs)).err().unwrap_or_default().iter().map(|e| e.code).collect()
    }

    #[test]
    fn a_document_is_the_same_whatever_the_order_of_its_keys() {
        let one = Document::read(&document(json!([job("a", &[]), job("b", &["a"])]))).unwrap();
        let (sealed, version) = one.seal();
        let again = Document::read(&serde_json::from_str(&sealed.to_string()).unwrap()).unwrap();
        assert_eq!(again.seal(), (sealed, version));
        assert_eq!(
            canonical(&json!({"b": 1, "a": [true, {"d": null, "c": "x\"y"}]})),
            r#"{"a":[true,{"c":"x\"y","d":null}],"b":1}"#
        );
    }

    #[test]
    fn wrong_documents_are_refused_with_the_reason() {
        assert_eq!(codes(json!([])), ["no-jobs"]);
        assert_eq!(codes(json!([job("a", &["b"])])), ["unknown-dependency"]);
        assert_eq!(codes(json!([job("a", &[]), job("A", &[])])), ["duplicate-job"]);
        assert_eq!(codes(json!([{"name": "a", "kind": "class", "sql": {"text": "select 1"}}])), ["two-kinds"]);
        assert_eq!(
            codes(json!([{"name": "a", "kind": "sql", "sql": {"text": "select 1"}, "executor": "python"}])),
            ["executor-impossible"]
        );
        assert_eq!(codes(json!([{"name": "a/b", "kind": "shell", "shell": ["x"]}])), ["bad-document"]);
        assert_eq!(codes(json!([{"name": "a", "kind": "shell", "shell": ["x"], "colour": 1}])), ["bad-document"]);
        let mapped = |after: &[&str]| {
            let mut mapped = job("b", after);
            mapped["map"] = json!({"job": "a", "output": "files"});
            codes(json!([job("a", &[]), mapped]))
        };
        assert_eq!(mapped(&["a"]), [""; 0]);
        assert_eq!(mapped(&[]), ["bad-map"]);
        let limited = |most: u32| {
            let mut mapped = job("b", &["a"]);
            mapped["map"] = json!({"job": "a", "output": "files", "max_instances": most});
            codes(json!([job("a", &[]), mapped]))
        };
        assert_eq!((limited(1), limited(10_000)), (vec![""; 0], vec![""; 0]));
        assert_eq!((limited(0), limited(10_001)), (vec!["bad-map"], vec!["bad-map"]));
        let newer = json!({"format": 2, "whatever": true});
        assert_eq!(Document::read(&newer).unwrap_err()[0].code, "format-too-new");
    }

    #[test]
    fn a_cycle_is_named_with_its_path() {
        let errors =
            Document::read(&document(json!([job("a", &["c"]), job("b", &["a"]), job("c", &["b"]), job("d", &["a"])])))
                .unwrap_err();
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].code, "cycle");
        assert!(
            errors[0].message.ends_with("b -> c -> a -> b")
                || errors[0].message.ends_with("a -> b -> c -> a")
                || errors[0].message.ends_with("c -> a -> b -> c"),
            "{}",
            errors[0].message
        );
    }

    #[test]
    fn retry_delays_double_up_to_a_limit() {
        let job: Job =
            serde_json::from_value(json!({"name": "a", "kind": "shell", "shell": ["x"], "retry_delay_seconds": 2.0}))
                .unwrap();
        assert_eq!(job.retry_delay(1), Duration::from_secs(2));
        assert_eq!(job.retry_delay(3), Duration::from_secs(8));
        assert_eq!(job.retry_delay(30), LONGEST_RETRY_DELAY);
    }
}
