//! Looks at what tasks wait for outside of their runs, and tells the owner what it sees. A waiting task holds no process, no
//! slot and no thread: a look is a short piece of work, few at a time, and between two looks there is a timer.
//!
//! What this server itself changes (tables, runs) wakes whoever may wait for it; everything else is looked at now and then.
//!
//! Not responsible for what follows from a look, and for time limits (the owner's state machine).
//!
//! The two largest costs are the SELECT of a condition on a table and the connection of one on a URL.

use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::path::{Component, Path};
use std::sync::Arc;
use std::time::Duration;

use globset::GlobBuilder;
use minijinja::{Environment, UndefinedBehavior, Value as Jinja, context};
use pinrail_model::condition::{Condition, Look, That, matching};
use pinrail_model::document::{Document, ParamType};
use pinrail_model::names::{JobName, ProjectName, WorkflowName};
use pinrail_model::run::{Event, Run, TaskIx};
use pinrail_model::schedule::{ds, zone};
use pinrail_model::seam::lake::{FileScope, LakeError, Query as SqlQuery, QueryLimits, ResultFormat, View};
use pinrail_model::seam::store::{Answer, Query, StoreError, Who};
use pinrail_model::target::{Lane, Target, name_of};
use pinrail_model::time::{Interval, Micros};
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, broadcast};

use crate::attempt::{Attempts, upstream};
use crate::inputs;
use crate::owner::{Input, OwnerHandle};
use crate::sink::Collected;
use crate::values::Scope;

/// Looks at once: they must not keep attempts from working.
const MOST_LOOKS: usize = 4;
/// Changes that a watcher may fall behind; more, and it looks all the same.
const NEWS: usize = 1024;
/// How long an endpoint may take to answer.
const HTTP_LIMIT: Duration = Duration::from_secs(10);
/// As much of an answer as is searched, in bytes.
const MOST_BODY: u64 = 1 << 20;
/// The least time between two looks at one thing, whatever is changed meanwhile.
const PAUSE: Duration = Duration::from_millis(200);

/// Something that this server has changed.
#[derive(Debug, Clone)]
pub(crate) enum Changed {
    Tables(ProjectName),
    Run(ProjectName, WorkflowName),
}

/// What the watchers of a server share.
#[derive(Debug)]
pub(crate) struct Conditions {
    looks: Semaphore,
    changes: broadcast::Sender<Changed>,
}

impl Default for Conditions {
    fn default() -> Self {
        Self { looks: Semaphore::new(MOST_LOOKS), changes: broadcast::Sender::new(NEWS) }
    }
}

impl Conditions {
    /// Wakes whoever may wait for it.
    pub fn changed(&self, change: Changed) {
        // Nobody may be waiting.
        let _ = self.changes.send(change);
    }
}

/// The run for which something is looked at.
struct Looker {
    attempts: Arc<Attempts>,
    project: ProjectName,
    target: Option<Arc<Target>>,
    interval: Interval,
    tz: String,
    params: BTreeMap<String, Value>,
    param_types: BTreeMap<String, ParamType>,
    /// Job to `state` and `outputs`.
    upstream: BTreeMap<String, Value>,
}

/// What a look saw, in words.
type Sight = (Look, String);

/// Watches the conditions of a task that are not met, until the owner no longer wants to know.
pub(crate) fn watch(attempts: &Arc<Attempts>, run: &Run, task: TaskIx, epoch: u64, owner: &OwnerHandle) {
    let (Some(job), Some(found)) = (run.graph.jobs.get(task), run.tasks.get(task)) else { return };
    let Some(watch) = &found.watch else { return };
    let mut params = run.params.clone();
    params.extend(job.params.clone());
    let looker = Arc::new(Looker {
        attempts: Arc::clone(attempts),
        project: run.project.clone(),
        target: run.target.clone(),
        interval: run.interval,
        tz: run.tz.clone(),
        params,
        param_types: run.param_types.clone(),
        upstream: upstream(run, task),
    });
    for (at, (condition, seen)) in job.wait_for.iter().zip(&watch.seen).enumerate() {
        if seen.met {
            continue;
        }
        let (looker, condition, owner, run) = (Arc::clone(&looker), condition.clone(), owner.clone(), run.id);
        tokio::spawn(async move {
            let mut news = looker.attempts.conditions.changes.subscribe();
            loop {
                let (look, what, found) = looker.look(&condition.that).await;
                let event = Event::Observed { task, epoch, condition: at, look, what, found };
                let goes_on = owner.ask(|answer| Input::Observed { run, event, answer }).await;
                if goes_on != Some(true) {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
                tokio::select! {
                    () = tokio::time::sleep(every(&condition)) => {}
                    () = looker.woken(&condition.that, &mut news) => {}
                }
            }
        });
    }
}

fn every(condition: &Condition) -> Duration {
    if let Some(given) = condition.every_seconds {
        return pinrail_model::document::seconds(given).max(PAUSE);
    }
    Duration::from_secs(match condition.that {
        That::When { .. } | That::File { .. } => 5,
        That::Http { .. } => 30,
        That::Partition { .. } | That::Watermark { .. } | That::Run { .. } | That::Sql { .. } => 60,
    })
}

impl Looker {
    /// Returns when something has changed that a condition may hang on.
    async fn woken(&self, that: &That, news: &mut broadcast::Receiver<Changed>) {
        loop {
            let touches = match (news.recv().await, that) {
                (Ok(Changed::Run(project, workflow)), That::Run { workflow: other, .. }) => {
                    project == self.project && workflow == *other
                }
                (Ok(Changed::Tables(project)), That::Partition { .. } | That::Watermark { .. } | That::Sql { .. }) => {
                    project == self.project
                }
                (Ok(_), _) => false,
                // It has missed some, which may have been those.
                (Err(broadcast::error::RecvError::Lagged(_)), _) => true,
                (Err(broadcast::error::RecvError::Closed), _) => std::future::pending().await,
            };
            if touches {
                return;
            }
        }
    }

    /// Looks once. Gives what was seen, the condition with its templates filled in, and words for what was found.
    async fn look(&self, that: &That) -> (Look, String, String) {
        let filled = match self.filled(that) {
            Ok(filled) => filled,
            Err(message) => return (Look::Wrong, that.to_string(), message),
        };
        let what = filled.to_string();
        let _turn = self.attempts.conditions.looks.acquire().await;
        let (look, found) = match &filled {
            That::When { expression } => self.when(expression),
            That::File { path } => self.file(path).await,
            That::Http { url, status, contains } => self.http(url, *status, contains.clone()).await,
            That::Run { workflow, job } => self.run(workflow, job.as_ref()).await.unwrap_or_else(|e| unseen(&e)),
            That::Partition { table, partition } => {
                let columns =
                    partition.iter().map(|(column, value)| format!("{} = {}", quoted(column), literal(value)));
                let clauses: Vec<String> = columns.collect();
                let only = if clauses.is_empty() { String::new() } else { format!(" where {}", clauses.join(" and ")) };
                self.sql(format!("select count(*) > 0 from (select 1 from {table}{only} limit 1) found")).await
            }
            That::Watermark { table, column, reaches } => {
                let (column, reaches) = (quoted(column), literal(reaches));
                self.sql(format!("select max({column}) >= {reaches}, max({column}) from {table}")).await
            }
            That::Sql { sql } => self.sql(sql.clone()).await,
        };
        (look, what, found)
    }

    /// The condition with its templates filled in. An SQL text keeps its own, which have types.
    fn filled(&self, that: &That) -> Result<That, String> {
        let fill = |text: &str| self.fill(text);
        Ok(match that {
            That::When { .. } | That::Sql { .. } | That::Run { .. } => that.clone(),
            That::File { path } => That::File { path: fill(path)? },
            That::Partition { table, partition } => That::Partition {
                table: table.clone(),
                partition: partition.iter().map(|(c, v)| Ok((c.clone(), fill(v)?))).collect::<Result<_, String>>()?,
            },
            That::Watermark { table, column, reaches } => {
                That::Watermark { table: table.clone(), column: column.clone(), reaches: fill(reaches)? }
            }
            That::Http { url, status, contains } => {
                That::Http { url: fill(url)?, status: *status, contains: contains.as_deref().map(fill).transpose()? }
            }
        })
    }

    fn fill(&self, text: &str) -> Result<String, String> {
        environment().render_str(text, self.context()).map_err(|e| said(&e))
    }

    /// `ds`, `interval`, `params`, `var` and `upstream.JOB.NAME`.
    fn context(&self) -> Jinja {
        let outputs = |value: &Value| value.get("outputs").cloned().unwrap_or(Value::Object(Map::new()));
        let upstream: BTreeMap<&String, Value> = self.upstream.iter().map(|(job, v)| (job, outputs(v))).collect();
        let interval = context! {
            start => self.interval.start.to_string(),
            end => self.interval.end.to_string(),
        };
        let var = self.target.as_ref().map(|target| &target.vars);
        context! { ds => self.ds(), interval, params => &self.params, var, upstream }
    }

    fn ds(&self) -> String {
        zone(&self.tz).map(|tz| ds(self.interval, tz).to_string()).unwrap_or_default()
    }

    fn when(&self, expression: &str) -> Sight {
        let environment = environment();
        let value = environment.compile_expression(expression).and_then(|compiled| compiled.eval(self.context()));
        match value {
            Ok(value) if value.is_undefined() => (Look::Wrong, "it names something that is not there".to_owned()),
            Ok(value) => {
                let said = serde_json::to_string(&value).unwrap_or_default();
                (if value.is_true() { Look::Met } else { Look::Never }, format!("it is {said}"))
            }
            Err(error) => (Look::Wrong, said(&error)),
        }
    }

    async fn file(&self, path: &str) -> Sight {
        if let Some(message) = leads_out(path) {
            return (Look::Wrong, message);
        }
        let folder = self.attempts.project_folder(&self.project).await;
        let folder = match folder.map(|folder| self.attempts.parts.tenancy.read_by_server(folder)) {
            Ok(Some(folder)) => folder,
            Ok(None) => return (Look::Wrong, "this server does not have the project's folder".to_owned()),
            Err(error) => return unseen(&error),
        };
        let glob = match GlobBuilder::new(path).literal_separator(true).build() {
            Ok(glob) => glob.compile_matcher(),
            Err(error) => return (Look::Wrong, format!("pattern \"{path}\": {}", error.kind())),
        };
        let (state, path) = (self.attempts.parts.state.clone(), path.to_owned());
        let found = tokio::task::spawn_blocking(move || inputs::first_match(&folder, &path, &glob, &state)).await;
        match found {
            Ok(Some((path, size))) => (Look::Met, format!("{path} is there, {size} bytes")),
            Ok(None) => (Look::NotYet, "no such file".to_owned()),
            Err(error) => (Look::NotYet, error.to_string()),
        }
    }

    async fn http(&self, url: &str, status: u16, contains: Option<String>) -> Sight {
        let url = url.to_owned();
        let asked = tokio::task::spawn_blocking(move || get(&url, contains.is_some()).map(|got| (got, contains))).await;
        match asked {
            Ok(Ok(((code, _), _))) if code != status => (Look::NotYet, format!("it answered {code}, not {status}")),
            Ok(Ok(((_, body), Some(text)))) if !body.contains(&text) => {
                (Look::NotYet, format!("it answered {status} without \"{text}\""))
            }
            Ok(Ok(_)) => (Look::Met, format!("it answered {status}")),
            Ok(Err(message)) => (Look::NotYet, message),
            Err(error) => (Look::NotYet, error.to_string()),
        }
    }

    /// Whether a workflow, or a job of it, has succeeded for the intervals that belong to the run's own.
    async fn run(&self, workflow: &WorkflowName, job: Option<&JobName>) -> Result<Sight, StoreError> {
        let store = &self.attempts.parts.store;
        let active = match store.read(&Who::default(), Query::ActiveVersions { project: self.project.clone() }).await? {
            Answer::ActiveVersions(rows) => {
                rows.into_iter().find(|row| row.workflow == *workflow && row.target == name_of(self.target.as_ref()))
            }
            _ => None,
        };
        let Some(document) = active.and_then(|active| Document::read(&active.document).ok()) else {
            return Ok((Look::NotYet, format!("no workflow \"{workflow}\" is deployed")));
        };
        if let Some(job) = job
            && !document.jobs.iter().any(|known| known.name == *job)
        {
            return Ok((Look::Wrong, format!("workflow \"{workflow}\" has no job \"{job}\"")));
        }
        let wanted = match matching(document.schedule.as_ref(), self.interval) {
            Ok(wanted) => wanted,
            Err(message) => return Ok((Look::Wrong, message)),
        };
        let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else {
            return Ok((Look::Wrong, format!("workflow \"{workflow}\" has no interval that begins in this one")));
        };
        let (from, until) = (first.start, Micros(last.start.0 + 1));
        let lane = Lane::of(&self.project, workflow, self.target.as_ref());
        let done: Vec<Interval> = match job {
            None => match store.read(&Who::default(), Query::SucceededRuns { lane, from, until }).await? {
                Answer::Intervals(rows) => rows,
                _ => Vec::new(),
            },
            Some(job) => match store.read(&Who::default(), Query::SucceededBetween { lane, from, until }).await? {
                Answer::SucceededBetween(rows) => {
                    rows.into_iter().filter(|row| row.job == *job).map(|row| row.interval).collect()
                }
                _ => Vec::new(),
            },
        };
        let missing: Vec<&Interval> = wanted.iter().filter(|interval| !done.contains(interval)).collect();
        // How the intervals belong together is said, because they may differ.
        let span = match (wanted.len(), first == &self.interval) {
            (1, true) => "the same interval".to_owned(),
            (1, false) => format!("the interval from {} to {}", first.start, first.end),
            (count, _) => format!("the {count} intervals from {} to {}", first.start, last.end),
        };
        Ok(match missing.first() {
            None => (Look::Met, format!("succeeded for {span}")),
            Some(next) => {
                let got = wanted.len() - missing.len();
                let of = wanted.len();
                (Look::NotYet, format!("succeeded for {got} of {of}: {span}; missing is that from {}", next.start))
            }
        })
    }

    /// Whether the first value of the first row is true.
    async fn sql(&self, text: String) -> Sight {
        let parts = &self.attempts.parts;
        let Some(engine) = &parts.engine else {
            return (Look::Wrong, "this build of pinrail has no SQL engine".to_owned());
        };
        let outputs =
            self.upstream.iter().filter_map(|(job, value)| Some((job.as_str(), value["outputs"].as_object()?)));
        let outputs: Vec<(&str, &String, &Value)> =
            outputs.flat_map(|(job, values)| values.iter().map(move |(name, value)| (job, name, value))).collect();
        let ds = self.ds();
        let scope = Scope {
            ds: &ds,
            interval: self.interval,
            params: &self.params,
            param_types: &self.param_types,
            target: self.target.as_ref(),
        };
        let query = SqlQuery {
            text,
            file: None,
            values: scope.values(&BTreeMap::new(), outputs),
            // It looks at tables alone.
            files: FileScope { root: None, project: None, patterns: Some(Vec::new()), forbidden: Vec::new() },
            writes: None,
            declares_job: false,
        };
        let view = View::now(self.project.clone(), self.target.clone());
        let checked = match engine.check(&query, &view).await {
            Ok(checked) => checked,
            Err(error) => return not_seen(&error),
        };
        if !checked.writes.is_empty() {
            return (Look::Wrong, "a condition reads, and this one writes".to_owned());
        }
        let mut rows = Collected(Vec::new());
        let limits = QueryLimits { rows: Some(1), ..QueryLimits::default() };
        if let Err(error) = engine.run(&query, &view, &limits, ResultFormat::Json, &mut rows).await {
            return not_seen(&error);
        }
        let result: Value = serde_json::from_slice(&rows.0).unwrap_or_default();
        let row = result["rows"][0].as_array().cloned().unwrap_or_default();
        let said = row.get(1).map_or_else(|| "it is".to_owned(), |value| format!("it is at {value}:"));
        match row.first() {
            Some(Value::Bool(true)) => (Look::Met, format!("{said} true")),
            Some(Value::Bool(false)) => (Look::NotYet, format!("{said} false")),
            Some(Value::Null) => (Look::NotYet, "there is no value yet".to_owned()),
            Some(other) => (Look::Wrong, format!("it gives {other}, where true or false is wanted")),
            None => (Look::NotYet, "it gives no row".to_owned()),
        }
    }
}

/// What of a condition can be seen to be wrong before anything runs; `after` are the jobs before its own.
pub(crate) fn mistake(that: &That, after: &[JobName]) -> Option<String> {
    let environment = environment();
    let template = |text: &str| {
        let template = environment.template_from_str(text).map_err(|e| said(&e));
        template.map_or_else(Some, |template| unknown(template.undeclared_variables(true), after))
    };
    match that {
        That::When { expression } => match environment.compile_expression(expression) {
            Ok(compiled) => unknown(compiled.undeclared_variables(true), after),
            Err(error) => Some(format!("expression \"{expression}\": {}", said(&error))),
        },
        That::File { path } => leads_out(path).or_else(|| template(path)),
        That::Partition { partition, .. } => partition.values().find_map(|value| template(value)),
        That::Watermark { reaches, .. } => template(reaches),
        That::Http { url, contains, .. } => template(url).or_else(|| template(contains.as_deref()?)),
        // The engine knows SQL, and other workflows may be deployed later.
        That::Run { .. } | That::Sql { .. } => None,
    }
}

/// A name that no run will have.
pub(crate) fn unknown(names: HashSet<String>, after: &[JobName]) -> Option<String> {
    let wrong = |name: &String| {
        let mut parts = name.split('.');
        match parts.next() {
            Some("upstream") => parts.next().is_some_and(|job| !after.iter().any(|known| known.as_str() == job)),
            Some(known) => !["ds", "interval", "params", "var"].contains(&known),
            None => false,
        }
    };
    let mut found: Vec<String> = names.into_iter().filter(wrong).collect();
    found.sort_unstable();
    let name = found.into_iter().next()?;
    Some(match name.strip_prefix("upstream.") {
        Some(_) => format!("it names \"{name}\", and the job does not wait for that one"),
        None => format!("it names \"{name}\"; there are ds, interval, params, upstream and var"),
    })
}

fn leads_out(path: &str) -> Option<String> {
    let inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    (!inside).then(|| format!("path \"{path}\" is not relative to the project's folder, or leads out of it"))
}

/// The state may be read again the next time.
fn unseen(error: &StoreError) -> Sight {
    (Look::NotYet, format!("the state could not be read: {error}"))
}

/// A table that is not there may come; a text that is wrong stays so.
fn not_seen(error: &LakeError) -> Sight {
    let look = match error.code {
        "table-not-found" | "namespace-not-found" => Look::NotYet,
        _ if error.fault.free_attempts() > 0 => Look::NotYet,
        _ => Look::Wrong,
    };
    (look, error.to_string())
}

pub(crate) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment
}

/// What is wrong with a template or an expression, on one line.
pub(crate) fn said(error: &minijinja::Error) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The status and, if it is wanted, the beginning of the body.
fn get(url: &str, with_body: bool) -> Result<(u16, String), String> {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(HTTP_LIMIT))
        .http_status_as_error(false)
        .user_agent(concat!("pinrail/", env!("CARGO_PKG_VERSION")));
    let agent: ureq::Agent = config.build().into();
    let mut response = agent.get(url).call().map_err(|error| match error {
        ureq::Error::Timeout(_) => format!("no answer within {} s", HTTP_LIMIT.as_secs()),
        other => format!("it cannot be reached: {other}"),
    })?;
    let mut body = Vec::new();
    if with_body {
        // An answer that breaks off is one as far as it goes.
        let _ = response.body_mut().as_reader().take(MOST_BODY).read_to_end(&mut body);
    }
    Ok((response.status().as_u16(), String::from_utf8_lossy(&body).into_owned()))
}
