//! Who is told of what: notices that follow from what happened to a run, by the rules that its workflow was deployed with.
//!
//! A notice is decided here and stored with the event it tells of; a reconciler of the service delivers it. So nothing
//! here sends anything, and nothing that was sent can be undone by a crash.
//!
//! Invariants:
//! - the same happening gives the same key however often it is looked at, so a notice is stored once;
//! - an estimate names the sample that it rests on, and without one there is none.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::document::{Document, seconds};
use crate::explain::{Explanation, Failure, Why, explain};
use crate::fault::Fault;
use crate::ids::{Ids, NoticeId, RunId, fresh};
use crate::names::{ChannelName, JobName, ProjectName, SecretName, TaskName, WorkflowName};
use crate::run::{Cause, Class, Happening, Position, Run, RunState, TaskIx};
use crate::schedule::{ds, zone};
use crate::time::{Interval, Micros};

/// What people can be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NoticeEvent {
    /// A job has failed for good, or is held until somebody looks at it.
    Failure,
    /// The first such failure of a run, and again the first after each retry by hand.
    FirstFailure,
    /// A run has succeeded, and the one that ended before it had failed.
    Recovery,
    /// A job takes longer than its `warn_after`.
    Slow,
    /// The run will probably not succeed within the workflow's `sla`.
    SlaAtRisk,
    /// The run has not succeeded within the workflow's `sla`.
    SlaMissed,
}

impl NoticeEvent {
    pub const ALL: [Self; 6] =
        [Self::Failure, Self::FirstFailure, Self::Recovery, Self::Slow, Self::SlaAtRisk, Self::SlaMissed];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::FirstFailure => "first-failure",
            Self::Recovery => "recovery",
            Self::Slow => "slow",
            Self::SlaAtRisk => "sla-at-risk",
            Self::SlaMissed => "sla-missed",
        }
    }
}

impl fmt::Display for NoticeEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for NoticeEvent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|event| event.name() == text).ok_or_else(|| {
            format!("\"{text}\" is nothing to be told of; there are {}", Self::ALL.map(Self::name).join(", "))
        })
    }
}

/// Which channels are told of what, as a workflow says it.
pub type On = BTreeMap<NoticeEvent, Vec<ChannelName>>;

/// What a run tells of, taken from its workflow when it was made.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Rules {
    #[serde(default)]
    pub on: On,
    /// The run is to have succeeded this long after it was due.
    #[serde(default)]
    pub sla_seconds: Option<f64>,
}

impl Rules {
    /// The rules of a workflow; none when it tells nobody.
    #[must_use]
    pub fn of(document: &Document) -> Option<Self> {
        let on: On = document.notify.iter().filter(|(_, to)| !to.is_empty()).map(|(e, to)| (*e, to.clone())).collect();
        (!on.is_empty()).then_some(Self { on, sla_seconds: document.sla_seconds })
    }
}

/// Where notices go, as a project declares it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Channel {
    /// Letters by the server's mail server.
    Email {
        /// Addresses.
        to: Vec<String>,
    },
    /// A JSON document to a URL, signed if there is a secret.
    Webhook {
        #[serde(flatten)]
        url: Address,
        /// The project's secret that signs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<SecretName>,
    },
    /// `{"text": ...}` to a URL, as chat systems take it.
    Chat {
        #[serde(flatten)]
        url: Address,
    },
}

impl Channel {
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Email { .. } => "email",
            Self::Webhook { .. } => "webhook",
            Self::Chat { .. } => "chat",
        }
    }
}

/// A URL, or the secret that holds it: that of a chat system lets everybody write who knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    Url(String),
    UrlSecret(SecretName),
}

/// A notice as receivers get it, without its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Notice {
    pub event: NoticeEvent,
    pub at: Micros,
    pub project: ProjectName,
    pub workflow: WorkflowName,
    pub run: RunId,
    pub interval: Interval,
    /// The local date that the run is for.
    pub ds: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// What happened, one line.
    pub title: String,
    /// What is known of it, line by line.
    pub lines: Vec<String>,
    /// The command that helps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What became of a notice to one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NoticeState {
    Pending,
    Delivered,
    /// It was tried for a day.
    Failed,
}

impl NoticeState {
    pub const ALL: [Self; 3] = [Self::Pending, Self::Delivered, Self::Failed];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

impl FromStr for NoticeState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|state| state.name() == text);
        found.ok_or_else(|| format!("\"{text}\" is not the state of a notice"))
    }
}

/// A notice to one channel, with how far its delivery is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoticeRow {
    pub id: NoticeId,
    /// What no other notice has.
    pub key: String,
    pub channel: ChannelName,
    pub notice: Notice,
    pub delivery: Delivery,
}

/// How far a delivery is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub state: NoticeState,
    pub tries: u32,
    /// When it is tried next, if it is pending.
    pub due_at: Micros,
    /// When it was delivered or given up.
    pub ended_at: Option<Micros>,
    /// What the endpoint answered last, or why it could not be asked.
    pub answer: Option<String>,
}

/// What a change of a run is to tell, one row for each channel. Empty for a run without rules.
#[must_use]
pub fn rows(run: &Run, history: &[Happening], now: Micros, ids: &dyn Ids) -> Vec<NoticeRow> {
    let Some(rules) = rules(run) else { return Vec::new() };
    let told = history.iter().flat_map(|happening| follow(run, happening, now));
    told.flat_map(|told| addressed(run, rules, told, now, ids)).collect()
}

/// What a look at an unfinished run, given how long its jobs usually take, is to tell.
#[must_use]
pub fn watched(run: &Run, usual: &Usual, now: Micros, ids: &dyn Ids) -> Vec<NoticeRow> {
    let Some(rules) = rules(run) else { return Vec::new() };
    let Some(deadline) = deadline(run) else { return Vec::new() };
    if run.state().is_final() {
        return Vec::new();
    }
    let told = if now > deadline { Some(missed(run, deadline)) } else { at_risk(run, usual, deadline, now) };
    told.into_iter().flat_map(|told| addressed(run, rules, told, now, ids)).collect()
}

/// Backfills tell nobody: whoever asked for one follows it, and it may fail a thousand times for one reason.
fn rules(run: &Run) -> Option<&Rules> {
    run.notify.as_deref().filter(|_| run.class != Class::Backfill)
}

/// When a run is to have succeeded: the workflow's `sla` after its fire time, or after it was asked for.
#[must_use]
pub fn deadline(run: &Run) -> Option<Micros> {
    let due = match run.cause {
        Cause::Schedule { fire_at } => fire_at,
        _ => run.created_at,
    };
    Some(due.plus(seconds(rules(run)?.sla_seconds?)))
}

/// A notice before it has channels.
struct Told {
    event: NoticeEvent,
    task: Option<TaskIx>,
    /// Tells it from others of the same run, event and job: a generation or an attempt.
    number: u32,
    fault: Option<Fault>,
    title: String,
    lines: Vec<String>,
    next: Option<String>,
}

impl Told {
    fn of_run(event: NoticeEvent, number: u32, title: String, lines: Vec<String>) -> Self {
        Self { event, task: None, number, fault: None, title, lines, next: None }
    }
}

fn follow(run: &Run, happening: &Happening, now: Micros) -> Vec<Told> {
    let ended = |state: &str| happening.data["state"] == state;
    match (happening.kind, happening.task) {
        // Of a mapped job people hear once, when all its instances have ended.
        ("task-ended", Some(ix)) if run.tasks[ix].instance.is_some() => Vec::new(),
        ("task-ended", Some(ix)) if ended("failed") && !run.graph.jobs[ix].may_fail => failed(run, ix, now),
        // What a person holds is no failure.
        ("task-held", Some(ix)) if run.tasks[ix].hold.is_none() => failed(run, ix, now),
        ("attempt-slow", Some(ix)) => vec![slow(run, ix)],
        ("run-ended", _) if ended(RunState::Succeeded.name()) => {
            let took = run.started_at.map(|at| format!("it took {}", human(now.since(at))));
            let title = format!("{} succeeded again", run.workflow);
            let lines = took.into_iter().collect();
            let recovered = Told::of_run(NoticeEvent::Recovery, retries(run), title, lines);
            let late = deadline(run).filter(|deadline| now > *deadline).map(|deadline| missed(run, deadline));
            std::iter::once(recovered).chain(late).collect()
        }
        _ => Vec::new(),
    }
}

/// How often a run was retried by hand, as far as its tasks tell.
fn retries(run: &Run) -> u32 {
    run.tasks.iter().map(|task| task.generation).max().unwrap_or(0)
}

fn failed(run: &Run, ix: TaskIx, now: Micros) -> Vec<Told> {
    let explanation = explain(run, None, ix, now);
    let (title, lines) = words(&run.tasks[ix].job, &explanation);
    let fault = explanation.why.failure().map(|failure| failure.fault);
    let first = explanation.first.map(|first| format!("{first}, then: ")).unwrap_or_default();
    let next = explanation.next.map(|next| format!("{first}{next}"));
    let told = |(event, number)| {
        let (title, lines, next) = (title.clone(), lines.clone(), next.clone());
        Told { event, task: Some(ix), number, fault, title, lines, next }
    };
    let generation = run.tasks[ix].generation;
    [(NoticeEvent::Failure, generation), (NoticeEvent::FirstFailure, retries(run))].map(told).into()
}

fn slow(run: &Run, ix: TaskIx) -> Told {
    let (job, task) = (&run.graph.jobs[ix], &run.tasks[ix]);
    let limit = job.warn_after_seconds.map_or(Duration::ZERO, seconds);
    let number = task.attempt().map_or(0, |attempt| attempt.number);
    let since = task.attempt().map(|attempt| format!("attempt {number} began at {}", attempt.started_at));
    Told {
        event: NoticeEvent::Slow,
        task: Some(ix),
        number,
        fault: None,
        title: format!("{} has worked for longer than its warn time of {}", job.name, human(limit)),
        lines: since.into_iter().collect(),
        next: Some(format!("pinrail logs {} --job {} -f", run.id.short(), job.name)),
    }
}

fn missed(run: &Run, deadline: Micros) -> Told {
    let open = run.tasks.iter().filter(|task| task.position != Position::Done);
    let open: Vec<String> =
        open.take(MOST_NAMED).map(|task| format!("{} ({})", task.name(), task.state_name())).collect();
    let mut lines = vec![format!("it was to have succeeded at {deadline}")];
    if !open.is_empty() {
        lines.push(format!("not done: {}", open.join(", ")));
    }
    let title = format!("{} missed its SLA", run.workflow);
    let next = Some(format!("pinrail explain {}", run.id.short()));
    Told { next, ..Told::of_run(NoticeEvent::SlaMissed, 0, title, lines) }
}

/// Jobs that a notice names at most.
const MOST_NAMED: usize = 5;
/// Lines that a notice has at most, and characters of a line: it is read on a telephone.
const MOST_LINES: usize = 30;
const LONGEST_LINE: usize = 400;

/// What `explain` says of a failure, as a title and lines.
fn words(job: &JobName, explanation: &Explanation) -> (String, Vec<String>) {
    let (title, mut lines) = match &explanation.why {
        Why::Failed { failure, tries } | Why::EndingBadly { failure, tries } => {
            let phase = failure.phase.map(|phase| format!(" in {}", phase.name())).unwrap_or_default();
            let helps = if failure.retry_helps { "" } else { ": a retry will not help" };
            let tries = format!("attempt {} of {}", tries.number, tries.allowed);
            let title = format!("{job} failed{phase} · {tries} · fault {}{helps}", failure.fault);
            (title, evidence(failure))
        }
        Why::Held { reason } => (format!("{job} is held: {reason}"), Vec::new()),
        _ => (format!("{job} failed"), Vec::new()),
    };
    if !explanation.downstream.is_empty() {
        let names: Vec<&str> = explanation.downstream.iter().take(MOST_NAMED).map(TaskName::as_str).collect();
        let more = explanation.downstream.len() - names.len();
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        lines.push(format!("downstream: {}{more} did not start", names.join(", ")));
    }
    lines.truncate(MOST_LINES);
    (plain(&title), lines.iter().map(|line| plain(line)).collect())
}

fn evidence(failure: &Failure) -> Vec<String> {
    let evidence = &failure.evidence;
    let mut lines: Vec<String> = evidence.message.lines().map(str::to_owned).collect();
    // The innermost place is the one to look at.
    if let Some(place) = evidence.code.last() {
        let code = place.code.as_deref().map(|code| format!("  {}", code.trim())).unwrap_or_default();
        lines.push(format!("your code: {}:{}{code}", place.file, place.line));
    }
    for (name, value) in &evidence.facts {
        let mut value = value.lines();
        lines.push(format!("{name}: {}", value.next().unwrap_or_default()));
        lines.extend(value.map(|line| format!("  {line}")));
    }
    lines.extend(evidence.telling_remedy().map(|remedy| format!("remedy: {remedy}")));
    lines
}

/// A line without what a terminal or a mail reader would obey.
fn plain(line: &str) -> String {
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_LINE).collect()
}

fn addressed(run: &Run, rules: &Rules, told: Told, now: Micros, ids: &dyn Ids) -> Vec<NoticeRow> {
    let Some(channels) = rules.on.get(&told.event) else { return Vec::new() };
    let job = told.task.and_then(|ix| run.tasks.get(ix)).map(|task| task.job.clone());
    let date = zone(&run.tz).map_or_else(|_| String::new(), |tz| ds(run.interval, tz).to_string());
    // Of a first failure the job is not part of the key, or there would be several.
    let part = match told.event {
        NoticeEvent::FirstFailure => "",
        _ => job.as_ref().map_or("", JobName::as_str),
    };
    let key = format!("{}/{}/{part}/{}", run.id, told.event, told.number);
    let notice = Notice {
        event: told.event,
        at: now,
        project: run.project.clone(),
        workflow: run.workflow.clone(),
        run: run.id,
        interval: run.interval,
        ds: date,
        job,
        fault: told.fault,
        title: told.title,
        lines: told.lines,
        next: told.next,
    };
    let row = |channel: &ChannelName| NoticeRow {
        id: fresh(ids),
        key: format!("{key}/{channel}"),
        channel: channel.clone(),
        notice: notice.clone(),
        delivery: Delivery { state: NoticeState::Pending, tries: 0, due_at: now, ended_at: None, answer: None },
    };
    channels.iter().map(row).collect()
}

// SLA at risk.

/// How long the jobs of a workflow took in its latest successful runs, by job.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Usual {
    pub jobs: BTreeMap<JobName, Vec<Duration>>,
}

/// Successful runs that an estimate rests on at most: the latest.
pub const SAMPLE: u32 = 20;
/// Fewer runs than this say nothing about the next one.
const LEAST_SAMPLE: usize = 3;

impl Usual {
    /// The middle of how long each job took.
    #[must_use]
    pub fn medians(&self) -> BTreeMap<JobName, Duration> {
        self.jobs.iter().filter_map(|(job, took)| Some((job.clone(), middle(took)?))).collect()
    }

    /// The middle of how long a job took, if it ever succeeded.
    #[must_use]
    pub fn of(&self, job: &JobName) -> Option<Duration> {
        middle(self.jobs.get(job)?)
    }

    /// The middle of how long a job took, if there are enough runs to tell.
    fn median(&self, job: &JobName) -> Option<Duration> {
        middle(self.jobs.get(job).filter(|took| took.len() >= LEAST_SAMPLE)?)
    }
}

fn middle(took: &[Duration]) -> Option<Duration> {
    let mut took = took.to_vec();
    took.sort_unstable();
    took.get(took.len() / 2).copied()
}

/// The work that is left of a run, by what its jobs usually take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Along the longest way through the jobs that are not done.
    pub time: Duration,
    /// The jobs of that way, in order, each with what is left of it.
    pub path: Vec<(JobName, Duration)>,
    /// Of the job with the fewest.
    pub sample: usize,
}

/// How much work is left of a run, without waiting for slots; none when a job that is left has run too seldom.
#[must_use]
pub fn left(run: &Run, usual: &Usual, now: Micros) -> Option<Left> {
    let mut own = vec![Duration::ZERO; run.tasks.len()];
    let mut sample = usize::MAX;
    // A mapped job that was spread is what its instances are.
    let open = run.tasks.iter().enumerate().filter(|(_, task)| task.ending.is_none() && task.spread.is_none());
    for (ix, task) in open {
        let median = usual.median(&task.job)?;
        sample = sample.min(usual.jobs.get(&task.job).map_or(0, Vec::len));
        let pause = match task.position {
            Position::Backoff => task.backoff_until.map_or(Duration::ZERO, |until| until.since(now)),
            _ => Duration::ZERO,
        };
        let worked = match task.attempt() {
            Some(attempt) if task.position.is_live() => now.since(attempt.started_at),
            _ => Duration::ZERO,
        };
        own[ix] = pause + median.saturating_sub(worked);
    }
    // Until when each job works, and which one it waits for last; a job weighs more than those below it.
    let mut order: Vec<TaskIx> = (0..run.tasks.len()).filter(|ix| run.tasks[*ix].ending.is_none()).collect();
    order.sort_by_key(|ix| std::cmp::Reverse(run.graph.weight[*ix]));
    let mut ends: Vec<(Duration, Option<TaskIx>)> = vec![(Duration::ZERO, None); run.tasks.len()];
    for ix in &order {
        let open = run.graph.parents[*ix].iter().copied().filter(|parent| run.tasks[*parent].ending.is_none());
        let last = open.max_by_key(|parent| ends[*parent].0);
        ends[*ix] = (own[*ix] + last.map_or(Duration::ZERO, |last| ends[last].0), last);
    }
    let mut at = order.into_iter().max_by_key(|ix| ends[*ix].0);
    let time = ends[at?].0;
    let mut path = Vec::new();
    while let Some(ix) = at {
        path.push((run.tasks[ix].job.clone(), own[ix]));
        at = ends[ix].1;
    }
    path.reverse();
    Some(Left { time, path, sample })
}

fn at_risk(run: &Run, usual: &Usual, deadline: Micros, now: Micros) -> Option<Told> {
    let left = left(run, usual, now)?;
    if now.plus(left.time) <= deadline {
        return None;
    }
    let way: Vec<String> =
        left.path.iter().take(MOST_NAMED).map(|(job, time)| format!("{job} {}", human(*time))).collect();
    let more = left.path.len() - way.len();
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let lines = vec![
        format!("about {} of work are left, and the SLA ends in {}", human(left.time), human(deadline.since(now))),
        format!("left: {}{more}", way.join(", ")),
        format!("by the median of {} successful runs, without waiting for slots", left.sample),
    ];
    let title = format!("{} will probably miss its SLA", run.workflow);
    let next = Some(format!("pinrail explain {}", run.id.short()));
    Some(Told { next, ..Told::of_run(NoticeEvent::SlaAtRisk, 0, title, lines) })
}

/// A duration as people say it.
#[must_use]
pub fn human(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}
