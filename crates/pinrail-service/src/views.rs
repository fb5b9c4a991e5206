//! What the API shows: the shapes that scripts rely on, one type each.

use std::collections::BTreeMap;

use pinrail_model::document::{ExecutorKind, Sha};
use pinrail_model::fault::Fault;
use pinrail_model::ids::{AttemptId, RunId, TokenId};
use pinrail_model::names::{ProjectName, SecretName, TargetName, TaskName, WorkflowName};
use pinrail_model::run::{Cause, Class, CleanupEnd, Control, Ending, Ends, Position, RunState, Stop};
use pinrail_model::seam::exec::Stream;
use pinrail_model::seam::lake::Written;
use pinrail_model::seam::store::{
    ActiveVersion, SecretRow, StoredAttempt, StoredRun, TokenRow, attempt_fault, attempt_state,
};
use pinrail_model::target::name_of;
use pinrail_model::time::{Interval, Micros};
use serde::Serialize;
use serde_json::Value;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::logs::Frame;
use crate::tokens::Role;

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Where the next page begins, for `?cursor=`; null on the last page.
    pub next: Option<String>,
}

/// A run as it stands in lists.
#[derive(Debug, Serialize, ToSchema)]
pub struct RunLine {
    pub id: RunId,
    pub project: ProjectName,
    /// Whose tables it writes; null in a project without targets.
    pub target: Option<TargetName>,
    pub workflow: WorkflowName,
    #[schema(value_type = RunState)]
    pub state: String,
    pub class: Class,
    pub cause: Cause,
    /// The local date that the run is for, in the zone of its workflow.
    #[schema(value_type = Option<String>, format = Date)]
    pub ds: Option<chrono::NaiveDate>,
    pub interval: Interval,
    pub params: BTreeMap<String, Value>,
    pub bundle: Sha,
    /// The version of the workflow: the digest of its document.
    pub version: Sha,
    pub created_at: Micros,
    pub started_at: Option<Micros>,
    pub ended_at: Option<Micros>,
    /// Who wanted it to end before its time.
    pub stop: Option<Stop>,
    /// The run that it does again, at a target of its own.
    pub replay_of: Option<RunId>,
}

/// A run with its tasks.
#[derive(Debug, Serialize, ToSchema)]
pub struct Run {
    #[serde(flatten)]
    pub line: RunLine,
    /// One for each job, in the order of the workflow file. Instances of mapped jobs are only counted here;
    /// `/runs/{id}/tasks` has them.
    pub tasks: Vec<Task>,
}

/// One job within a run, or an instance of a mapped one.
#[derive(Debug, Serialize, ToSchema)]
pub struct Task {
    pub name: TaskName,
    #[schema(value_type = TaskState)]
    pub state: &'static str,
    /// What an instance of a mapped job works on.
    pub item: Option<Value>,
    /// The instances of a mapped job, once its list is known.
    pub instances: Option<Instances>,
    /// One more after each retry by hand.
    pub generation: u32,
    /// Why it is held, if it is.
    pub held: Option<String>,
    /// Who said what became of it, if no attempt did.
    pub marked: Option<Control>,
    /// Who keeps it from beginning.
    pub hold: Option<Control>,
    /// Who has switched it off.
    pub disabled: Option<Control>,
    /// Its latest attempt took longer than `warn_after`.
    pub slow: bool,
    /// When it is tried again, if it waits for that.
    pub backoff_until: Option<Micros>,
    /// What it left for the jobs below: of a mapped job, for each output the list of what its instances left.
    pub outputs: BTreeMap<String, Value>,
    pub bundle: Sha,
    /// By number.
    pub attempts: Vec<Attempt>,
}

/// The instances of a mapped job, in short.
#[derive(Debug, Serialize, ToSchema)]
pub struct Instances {
    /// Items of the list.
    pub count: u32,
    /// How many are in which state.
    pub states: BTreeMap<&'static str, u32>,
    /// When the first attempt began.
    pub started_at: Option<Micros>,
    /// When the last one ended, if all have.
    pub ended_at: Option<Micros>,
}

/// One try of a task.
#[derive(Debug, Serialize, ToSchema)]
pub struct Attempt {
    pub id: AttemptId,
    /// Unique within the task, from 1.
    pub number: u32,
    pub generation: u32,
    #[schema(value_type = AttemptState)]
    pub state: &'static str,
    /// Whose fault it is that it did not succeed.
    pub fault: Option<Fault>,
    pub executor: ExecutorKind,
    /// The Python environment that its processes have, if its project has a lock.
    pub environment: Option<Sha>,
    /// The run of another workflow that is its work.
    pub sub_run: Option<RunId>,
    pub started_at: Micros,
    pub ended_at: Option<Micros>,
    /// In the order in which they were begun.
    pub phases: Vec<Phase>,
    /// The tables that its success changed.
    pub written: Vec<Written>,
    /// Checks that failed and are only to be told of.
    pub warnings: Vec<String>,
    /// How its cleanup ended; null while it has not.
    pub cleanup: Option<CleanupEnd>,
}

/// One phase of an attempt.
#[derive(Debug, Serialize, ToSchema)]
pub struct Phase {
    pub name: pinrail_model::run::Phase,
    pub state: pinrail_model::run::PhaseState,
    pub started_at: Micros,
    pub ended_at: Option<Micros>,
}

/// An attempt with where it belongs.
#[derive(Debug, Serialize, ToSchema)]
pub struct PlacedAttempt {
    #[serde(flatten)]
    pub attempt: Attempt,
    pub run: RunId,
    pub job: TaskName,
}

/// Some bytes that an attempt wrote at once.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogFrame {
    /// Its address for ever, and the id of its event.
    pub seq: u64,
    pub at: Micros,
    pub phase: Option<pinrail_model::run::Phase>,
    pub stream: Stream,
    /// Bytes that are no UTF-8 are shown replaced.
    pub text: String,
}

/// An active workflow of a project.
#[derive(Debug, Serialize, ToSchema)]
pub struct Workflow {
    pub name: WorkflowName,
    /// Where it is active; null in a project without targets.
    pub target: Option<TargetName>,
    pub version: Sha,
    pub bundle: Sha,
    pub deployed_at: Micros,
    /// The workflow document; docs/generated/workflow.schema.json describes it.
    #[schema(value_type = Object)]
    pub document: Value,
}

/// A token without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub struct Token {
    pub id: TokenId,
    pub name: String,
    /// The one project that it is for; null: every project.
    pub project: Option<ProjectName>,
    pub role: Role,
    pub created_at: Micros,
    pub expires_at: Option<Micros>,
    pub revoked_at: Option<Micros>,
}

/// A token that was just made. Its secret is shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub struct NewToken {
    pub id: TokenId,
    pub name: String,
    /// The one project that it is for; null: every project.
    pub project: Option<ProjectName>,
    pub role: Role,
    pub expires_at: Option<Micros>,
    /// What goes behind `Authorization: Bearer`.
    pub token: String,
}

/// A secret of a project without its value.
#[derive(Debug, Serialize, ToSchema)]
pub struct Secret {
    pub name: SecretName,
    pub set_at: Micros,
    pub set_by: String,
    /// Whether it can be opened with the key that the server has.
    pub usable: bool,
}

/// How the state of a task is called in the API's document: its position or, when done, what became of it.
pub struct TaskState;

impl TaskState {
    /// Whether a task can be in a state of this name.
    #[must_use]
    pub fn is_one(name: &str) -> bool {
        Self::names().any(|known| known == name)
    }

    fn names() -> impl Iterator<Item = &'static str> {
        let positions = Position::ALL.into_iter().filter(|position| *position != Position::Done).map(Position::name);
        positions.chain(Ending::ALL.into_iter().map(Ending::name))
    }
}

/// How the state of an attempt is called in the API's document.
pub struct AttemptState;

fn one_of(description: &str, names: Vec<&'static str>) -> RefOr<Schema> {
    let object = ObjectBuilder::new().schema_type(Type::String).description(Some(description)).enum_values(Some(names));
    Schema::Object(object.build()).into()
}

impl PartialSchema for TaskState {
    fn schema() -> RefOr<Schema> {
        one_of("Where a task is or, when done, what became of it.", Self::names().collect())
    }
}

impl ToSchema for TaskState {}

impl PartialSchema for AttemptState {
    fn schema() -> RefOr<Schema> {
        let names = ["running", "succeeded"].into_iter().chain(Ends::ALL.map(Ends::name));
        one_of("Whether and how an attempt has ended.", names.collect())
    }
}

impl ToSchema for AttemptState {}

/// A run as the API gives it.
#[must_use]
pub fn run(stored: &StoredRun) -> Run {
    let jobs = stored.tasks.iter().filter(|task| task.instance.is_none());
    Run { line: run_line(&stored.run, &stored.state), tasks: jobs.map(|one| task(stored, one)).collect() }
}

/// The tasks of a run behind a place: of one job, if it is named, with its instances, or one instance; and in one state,
/// if it is named. Each with its place. Instances that an earlier list of their job had are not among them.
#[must_use]
pub fn tasks(
    stored: &StoredRun,
    name: Option<&TaskName>,
    state: Option<&str>,
    after: Option<usize>,
    limit: usize,
) -> Vec<(usize, Task)> {
    let spread = stored.tasks.iter().filter(|task| task.instance.is_none());
    let spread: BTreeMap<_, _> = spread.map(|task| (&task.job, task.spread.unwrap_or(0))).collect();
    let counts = |task: &pinrail_model::run::Task| match task.index() {
        Some(index) => spread.get(&task.job).is_some_and(|count| index < *count),
        None => true,
    };
    let named = |task: &pinrail_model::run::Task| match name {
        Some(name) if name.index().is_some() => task.name() == *name,
        Some(name) => task.job.as_str() == name.as_str() && counts(task),
        None => counts(task),
    };
    let behind = stored.tasks.iter().enumerate().skip(after.map_or(0, |after| after + 1));
    let found = behind.filter(|(_, task)| named(task) && state.is_none_or(|state| task.state_name() == state));
    found.take(limit).map(|(ix, one)| (ix, task(stored, one))).collect()
}

fn instances(stored: &StoredRun, job: &pinrail_model::run::Task) -> Option<Instances> {
    let count = job.spread?;
    let of_it = stored.tasks.iter().filter(|task| task.job == job.job && task.index().is_some_and(|ix| ix < count));
    let mut found = Instances { count, states: BTreeMap::new(), started_at: None, ended_at: None };
    let mut ended = Some(Micros(i64::MIN));
    for task in of_it {
        *found.states.entry(task.state_name()).or_default() += 1;
        let (first, last) = (task.attempts.first(), task.attempts.last());
        let began = first.map(|attempt| attempt.started_at);
        found.started_at = found.started_at.into_iter().chain(began).min();
        ended = match last {
            Some(attempt) => ended.zip(attempt.ended_at).map(|(a, b)| a.max(b)),
            None => ended,
        };
    }
    found.ended_at = ended.filter(|_| job.ending.is_some() && found.started_at.is_some());
    Some(found)
}

/// A run without its tasks, for lists.
#[must_use]
pub fn run_line(run: &pinrail_model::run::Run, state: &str) -> RunLine {
    let tz = pinrail_model::schedule::zone(&run.tz);
    RunLine {
        id: run.id,
        project: run.project.clone(),
        target: name_of(run.target.as_ref()),
        workflow: run.workflow.clone(),
        state: state.to_owned(),
        class: run.class,
        cause: run.cause.clone(),
        ds: tz.ok().map(|tz| pinrail_model::schedule::ds(run.interval, tz)),
        interval: run.interval,
        params: run.params.clone(),
        bundle: run.bundle,
        version: run.version,
        created_at: run.created_at,
        started_at: run.started_at,
        ended_at: run.ended_at,
        stop: run.stop.clone(),
        replay_of: run.replay_of,
    }
}

fn task(stored: &StoredRun, task: &pinrail_model::run::Task) -> Task {
    Task {
        name: task.name(),
        item: task.instance.as_ref().map(|instance| instance.item.clone()),
        instances: instances(stored, task),
        state: task.state_name(),
        generation: task.generation,
        held: task.held.clone(),
        marked: task.marked.clone(),
        hold: task.hold.clone(),
        disabled: task.disabled.clone(),
        slow: task.slow,
        backoff_until: task.backoff_until,
        outputs: stored.outputs(task),
        bundle: task.bundle,
        attempts: task.attempts.iter().map(|attempt| self::attempt(attempt)).collect(),
    }
}

fn attempt(attempt: &pinrail_model::run::Attempt) -> Attempt {
    let phases = attempt.phases.iter().map(|phase| Phase {
        name: phase.name,
        state: phase.state,
        started_at: phase.started_at,
        ended_at: phase.ended_at,
    });
    Attempt {
        id: attempt.id,
        number: attempt.number,
        generation: attempt.generation,
        state: attempt_state(attempt),
        fault: attempt_fault(attempt),
        executor: attempt.executor,
        environment: attempt.environment,
        sub_run: attempt.sub_run(),
        started_at: attempt.started_at,
        ended_at: attempt.ended_at,
        phases: phases.collect(),
        written: attempt.written.clone(),
        warnings: attempt.warnings.clone(),
        cleanup: attempt.cleanup.clone(),
    }
}

/// An attempt as the API gives it.
#[must_use]
pub fn placed_attempt(stored: &StoredAttempt) -> PlacedAttempt {
    PlacedAttempt { attempt: attempt(&stored.attempt), run: stored.run, job: stored.job.clone() }
}

/// A part of a log as the API gives it.
#[must_use]
pub fn frame(frame: &Frame) -> LogFrame {
    LogFrame {
        seq: frame.seq,
        at: frame.at,
        phase: frame.phase,
        stream: frame.stream,
        text: String::from_utf8_lossy(&frame.bytes).into_owned(),
    }
}

/// An active workflow as the API gives it.
#[must_use]
pub fn workflow(version: ActiveVersion) -> Workflow {
    Workflow {
        name: version.workflow,
        target: version.target,
        version: version.version,
        bundle: version.bundle,
        deployed_at: version.deployed_at,
        document: version.document,
    }
}

/// A secret as the API gives it.
#[must_use]
pub fn secret(row: &SecretRow, usable: bool) -> Secret {
    Secret { name: row.name.clone(), set_at: row.set_at, set_by: row.set_by.clone(), usable }
}

/// A token as the API lists it.
///
/// # Errors
/// When its role is not one that this version knows.
pub fn token(row: TokenRow) -> Result<Token, crate::problem::Problem> {
    Ok(Token {
        id: row.id,
        name: row.name,
        project: row.project,
        role: row.role.parse()?,
        created_at: row.created_at,
        expires_at: row.expires_at,
        revoked_at: row.revoked_at,
    })
}
