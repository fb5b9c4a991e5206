//! Reads. A caller who may see one project sees nothing of another, whatever it asks for.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use pinrail_model::admit::Scope;
use pinrail_model::document::Sha;
use pinrail_model::explain::Unpublished;
use pinrail_model::ids::{AttemptId, BackfillId, CommandId, QueryId, RunId, TransitionId};
use pinrail_model::names::{ProjectName, SecretName, TableRef, TargetName, TaskName, WorkflowName};
use pinrail_model::run::{Attempt, Run, RunState, Task, gathered};
use pinrail_model::seam::store::{
    ActiveVersion, Answer, BackfillRow, BundleRow, Command, CommandKind, CounterRow, EventRow, FileRow, IdempotencyRow,
    InputRow, ListedRun, Load, LogRow, ProjectRow, Query, QueryRow, Reply, SecretRow, StoreError, StoredAttempt,
    StoredReply, StoredRun, SucceededTask, SystemTable, TokenRow, Topic, VersionRow, Who,
};
use pinrail_model::target::{Lane, Place, Target, name_of};
use pinrail_model::time::{Interval, Micros};
use rusqlite::{Connection, OptionalExtension, Params, Row, ToSql, params, params_from_iter};
use serde_json::Value;

use super::rows::{IDLE_BEFORE, decode, target_column};
use super::{broken, failed, notices, prepare, scheduling, sha};

pub(super) fn all<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    row: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, StoreError> {
    let mut statement = prepare(connection, sql)?;
    statement.query_map(params, row).and_then(Iterator::collect).map_err(failed)
}

pub(super) fn one<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    row: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Option<T>, StoreError> {
    let mut statement = prepare(connection, sql)?;
    statement.query_row(params, row).optional().map_err(failed)
}

pub(super) fn parsed<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, StoreError>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e| broken(what, e))
}

fn json(what: &str, text: &str) -> Result<Value, StoreError> {
    serde_json::from_str(text).map_err(|e| broken(what, e))
}

/// The commands without reply after a sequence number, in order.
pub(super) fn take(connection: &Connection, after: u64) -> Result<Vec<(u64, Command)>, StoreError> {
    let rows: Vec<(i64, String)> = all(
        connection,
        "select seq, body from commands where reply is null and seq > ?1 order by seq",
        [after.cast_signed()],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    rows.into_iter()
        .map(|(seq, body)| Ok((seq.cast_unsigned(), serde_json::from_str(&body).map_err(|e| broken("a command", e))?)))
        .collect()
}

/// The answer to a transition that was committed, if it was.
pub(super) fn reply(connection: &Connection, id: TransitionId) -> Result<Option<Reply>, StoreError> {
    let sql = "select reply from transitions where id = ?1";
    let text: Option<String> = one(connection, sql, [id.to_string()], |row| row.get(0))?;
    text.map(|text| serde_json::from_str(&text).map_err(|e| broken("a reply", e))).transpose()
}

/// Whether something about a topic is newer than what the caller knows.
pub(super) fn is_newer(connection: &Connection, topic: Topic, after: u64) -> Result<bool, StoreError> {
    let found: Option<i64> = match topic {
        Topic::Run(run) => one(
            connection,
            "select 1 from events where run = ?1 and seq > ?2 limit 1",
            params![run.to_string(), after.cast_signed()],
            |row| row.get(0),
        )?,
        Topic::Reply(command) => one(
            connection,
            "select 1 from commands where id = ?1 and reply is not null",
            [command.to_string()],
            |row| row.get(0),
        )?,
    };
    Ok(found.is_some())
}

/// Runs with all that belongs to them.
pub(super) fn load(connection: &Connection, what: Load) -> Result<Vec<StoredRun>, StoreError> {
    let rows = match what {
        Load::Unfinished => {
            let sql = "select id, data, unique_key, state from runs where finished = 0 and dormant = 0 order by id";
            all(connection, sql, [], run_row)?
        }
        Load::One(id) => {
            all(connection, "select id, data, unique_key, state from runs where id = ?1", [id.to_string()], run_row)?
        }
    };
    rows.into_iter().map(|row| stored_run(connection, row)).collect()
}

type RawRun = (String, String, Option<String>, String);

fn run_row(row: &Row<'_>) -> rusqlite::Result<RawRun> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
}

fn stored_run(connection: &Connection, (id, data, unique_key, state): RawRun) -> Result<StoredRun, StoreError> {
    let run: Run = decode("a run", &data)?;
    let texts: Vec<String> =
        all(connection, "select data from tasks where run = ?1 order by ix, job", [&id], |row| row.get(0))?;
    let mut tasks: Vec<Task> = texts.iter().map(|text| decode("a task", text)).collect::<Result<_, _>>()?;
    let attempts: Vec<(String, String, String)> = all(
        connection,
        "select job, instance, data from attempts where run = ?1 order by job, instance, number",
        [&id],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    let mut by_task: BTreeMap<(String, String), Vec<std::sync::Arc<Attempt>>> = BTreeMap::new();
    for (job, instance, text) in attempts {
        by_task.entry((job, instance)).or_default().push(std::sync::Arc::new(decode("an attempt", &text)?));
    }
    for task in &mut tasks {
        task.attempts = by_task.remove(&(task.job.to_string(), task.instance_text())).unwrap_or_default();
    }
    let mut documents = BTreeMap::new();
    let named = tasks.iter().map(|task| (task.version, task.bundle)).chain([(run.version, run.bundle)]);
    for (version, _) in named.collect::<BTreeSet<_>>() {
        documents.extend(document(connection, &run.project, version)?.map(|document| (version, document)));
    }
    let last_event: Option<i64> =
        one(connection, "select max(seq) from events where run = ?1", [&id], |row| row.get(0))?.flatten();
    Ok(StoredRun { run, state, tasks, documents, last_event: last_event.unwrap_or(0).cast_unsigned(), unique_key })
}

/// Whether a caller may see what belongs to a project.
pub(super) fn visible(who: &Who, project: &ProjectName) -> bool {
    who.project.as_ref().is_none_or(|only| only == project)
}

/// Whether a caller may see what belongs to a run.
fn sees_run(connection: &Connection, who: &Who, run: RunId) -> Result<bool, StoreError> {
    let Some(project) = &who.project else { return Ok(true) };
    let sql = "select 1 from runs where id = ?1 and project = ?2";
    let found: Option<i64> = one(connection, sql, params![run.to_string(), project.as_str()], |row| row.get(0))?;
    Ok(found.is_some())
}

/// Whether a caller may see what belongs to an attempt.
fn sees_attempt(connection: &Connection, who: &Who, attempt: AttemptId) -> Result<bool, StoreError> {
    let Some(project) = &who.project else { return Ok(true) };
    let sql = "select 1 from attempts where id = ?1 and project = ?2";
    let found: Option<i64> = one(connection, sql, params![attempt.to_string(), project.as_str()], |row| row.get(0))?;
    Ok(found.is_some())
}

/// Whether a caller may see what became of a command.
fn sees_command(connection: &Connection, who: &Who, body: &str) -> Result<bool, StoreError> {
    let command: Command = serde_json::from_str(body).map_err(|e| broken("a command", e))?;
    match command.kind {
        CommandKind::CreateRun(new) => Ok(visible(who, &new.project)),
        CommandKind::Stop { run, .. }
        | CommandKind::Retry { run, .. }
        | CommandKind::Mark { run, .. }
        | CommandKind::HoldRun { run, .. }
        | CommandKind::Disable { run, .. }
        | CommandKind::Reload { run, .. } => sees_run(connection, who, run),
        CommandKind::Activate(activation) => Ok(visible(who, &activation.project)),
        CommandKind::CreateBackfill(backfill) => Ok(visible(who, &backfill.project)),
        CommandKind::Pause { project, .. } | CommandKind::SetLimit { project, .. } => Ok(visible(who, &project)),
        CommandKind::ChangeBackfill { id, .. } => Ok(scheduling::backfill_row(connection, who, id)?.is_some()),
        CommandKind::HoldScope { scope: Scope::Platform, .. } => Ok(who.project.is_none()),
        CommandKind::HoldScope { scope: Scope::Project { project } | Scope::Workflow { project, .. }, .. } => {
            Ok(visible(who, &project))
        }
    }
}

/// Answers a query.
pub(super) fn read(connection: &Connection, who: &Who, query: Query) -> Result<Answer, StoreError> {
    Ok(match query {
        Query::Run(id) => {
            let found = load(connection, Load::One(id))?.pop();
            let found = match found.filter(|stored| visible(who, &stored.run.project)) {
                Some(found) => Some(found),
                None => unmade(connection, who, id)?,
            };
            found.map_or(Answer::Nothing, |stored| Answer::Run(Box::new(stored)))
        }
        Query::RunState(id) => run_state(connection, who, id)?,
        Query::Runs { project, workflow, target, state, backfill, ends_with, before, limit } => {
            if project.as_ref().is_some_and(|project| !visible(who, project)) {
                return Ok(Answer::Runs(Vec::new()));
            }
            let project = project.or_else(|| who.project.clone());
            let wanted = RunsWanted { project, workflow, target, state, backfill, ends_with, before, limit };
            Answer::Runs(runs(connection, who, &wanted)?)
        }
        Query::Attempt(id) => attempt(connection, who, id)?,
        Query::Events { run, after, limit } if sees_run(connection, who, run)? => {
            Answer::Events(events(connection, run, after, limit)?)
        }
        Query::Events { .. } => Answer::Events(Vec::new()),
        Query::Counters { run } if sees_run(connection, who, run)? => Answer::Counters(counters(connection, run)?),
        Query::Counters { .. } => Answer::Counters(Vec::new()),
        Query::Projects => Answer::Projects(projects(connection, who)?),
        Query::Bundle { project, sha } if visible(who, &project) => bundle(connection, &project, sha)?,
        Query::Bundle { .. } => Answer::Nothing,
        Query::IdleBundles { before } => Answer::Bundles(idle_bundles(connection, who, before)?),
        Query::Blobs => Answer::Blobs(blobs(connection, who)?),
        Query::Version { project, version } if visible(who, &project) => version_row(connection, &project, version)?,
        Query::Version { .. } => Answer::Nothing,
        Query::Documents { project, versions } if visible(who, &project) => {
            Answer::Documents(documents(connection, &project, &versions)?)
        }
        Query::Documents { .. } => Answer::Documents(Vec::new()),
        Query::ActiveVersions { project } if visible(who, &project) => {
            Answer::ActiveVersions(active_versions(connection, &project)?)
        }
        Query::ActiveVersions { .. } => Answer::ActiveVersions(Vec::new()),
        Query::Targets { project } if visible(who, &project) => Answer::Targets(targets(connection, &project)?),
        Query::Targets { .. } => Answer::Targets(Vec::new()),
        Query::Succeeded { lane, interval } if visible(who, &lane.project) => {
            Answer::Succeeded(succeeded(connection, &lane, interval)?)
        }
        Query::Succeeded { .. } => Answer::Succeeded(Vec::new()),
        Query::Secrets { project } if visible(who, &project) => Answer::Secrets(secrets(connection, &project)?),
        Query::Secret { project, name } if visible(who, &project) => {
            Answer::Secrets(secret(connection, &project, &name)?.into_iter().collect())
        }
        Query::Secrets { .. } | Query::Secret { .. } => Answer::Secrets(Vec::new()),
        Query::Tokens => Answer::Tokens(tokens(connection, who)?),
        Query::TokenByHash(hash) => Answer::Tokens(token_by_hash(connection, who, hash)?.into_iter().collect()),
        Query::Idempotency { principal, key } => idempotency(connection, who, principal, key)?,
        Query::CommandReply(id) => command_reply(connection, who, id)?,
        Query::AdHoc { id } => ad_hoc(connection, who, id)?,
        Query::AdHocs { project, before, limit } if visible(who, &project) => {
            Answer::AdHocs(ad_hocs(connection, &project, before, limit)?)
        }
        Query::AdHocs { .. } => Answer::AdHocs(Vec::new()),
        Query::Logs(id) if sees_attempt(connection, who, id)? => Answer::Logs(logs(connection, id)?),
        Query::Logs(_) => Answer::Logs(Vec::new()),
        Query::Files(run) if sees_run(connection, who, run)? => Answer::Files(files(connection, run)?),
        Query::Files(_) => Answer::Files(Vec::new()),
        Query::Inputs(run) if sees_run(connection, who, run)? => Answer::Inputs(inputs(connection, run)?),
        Query::Inputs(_) => Answer::Inputs(Vec::new()),
        Query::InputsOfLastSuccess { lane, before } if visible(who, &lane.project) => {
            inputs_of_last_success(connection, &lane, before)?
        }
        Query::InputsOfLastSuccess { .. } => Answer::Nothing,
        Query::Unpublished { place, attempt }
            if sees_attempt(connection, who, attempt)? && visible(who, &place.project) =>
        {
            Answer::Unpublished(unpublished(connection, &place, attempt)?)
        }
        Query::Unpublished { .. } => Answer::Unpublished(Vec::new()),
        Query::Triggers { project } => Answer::Triggers(scheduling::triggers(connection, who, project.as_ref())?),
        Query::Backfills { project, before, limit } => {
            Answer::Backfills(scheduling::backfills(connection, who, project.as_ref(), before, limit)?)
        }
        Query::Backfill(id) => Answer::Backfills(scheduling::backfill_row(connection, who, id)?.into_iter().collect()),
        Query::UnfinishedBackfills => Answer::Backfills(scheduling::unfinished(connection, who)?),
        Query::BackfillCounts(id) => scheduling::counts(connection, who, id)?,
        Query::Holds => Answer::Holds(scheduling::holds(connection, who)?),
        Query::Limits { project } => Answer::Limits(scheduling::limits(connection, who, project.as_ref())?),
        Query::SucceededRuns { lane, from, until } if visible(who, &lane.project) => {
            Answer::Intervals(scheduling::succeeded_runs(connection, &lane, from, until)?)
        }
        Query::SucceededRuns { .. } => Answer::Intervals(Vec::new()),
        Query::SucceededBetween { lane, from, until } if visible(who, &lane.project) => {
            Answer::SucceededBetween(scheduling::succeeded_between(connection, &lane, from, until)?)
        }
        Query::SucceededBetween { .. } => Answer::SucceededBetween(Vec::new()),
        Query::Notices { project, state, before, limit } if visible(who, &project) => {
            Answer::Notices(notices::list(connection, &project, state, before, limit)?)
        }
        Query::Notices { .. } => Answer::Notices(Vec::new()),
        Query::DueNotices { at } => Answer::Notices(notices::due(connection, who.project.as_ref(), at)?),
        Query::Channels { project } if visible(who, &project) => {
            Answer::Channels(notices::channels(connection, &project)?)
        }
        Query::Channels { .. } => Answer::Nothing,
        Query::Usual { project, workflow, runs } if visible(who, &project) => {
            Answer::Usual(notices::usual(connection, &project, &workflow, runs)?)
        }
        Query::Usual { .. } => Answer::Nothing,
        Query::Installation => installation(connection)?,
        Query::System(table) => Answer::Rows(system(connection, who, table)?),
    })
}

/// A page of runs, as [`Query::Runs`] asks for it.
struct RunsWanted {
    project: Option<ProjectName>,
    workflow: Option<WorkflowName>,
    target: Option<TargetName>,
    state: Option<String>,
    backfill: Option<BackfillId>,
    ends_with: Option<String>,
    before: Option<RunId>,
    limit: u32,
}

/// The newest first. A statement for each shape, because a condition that may be absent keeps SQLite from using an index;
/// each walks the index that leaves the fewest rows over, and looks at no row that the index can already rule out.
fn runs(connection: &Connection, who: &Who, wanted: &RunsWanted) -> Result<Vec<ListedRun>, StoreError> {
    let RunsWanted { project, workflow, target, state, backfill, ends_with, before, limit } = wanted;
    let index = match (ends_with, state, workflow, project) {
        _ if backfill.is_some() => "indexed by runs_backfill",
        (Some(_), ..) => "indexed by runs_ending",
        (None, Some(_), ..) => "indexed by runs_state",
        (None, None, Some(_), _) => "indexed by runs_workflow",
        (None, None, None, Some(_)) => "indexed by runs_project",
        (None, None, None, None) => "",
    };
    let mut sql = format!("select data, state from runs {index} where 1");
    let mut values: Vec<Box<dyn ToSql>> = Vec::new();
    let mut and = |condition: &str, value: Box<dyn ToSql>| {
        sql.push_str(" and ");
        sql.push_str(condition);
        values.push(value);
    };
    if let Some(backfill) = backfill {
        and("backfill = ?", Box::new(backfill.to_string()));
    }
    if let Some(ending) = ends_with {
        // The index holds the last two characters, which is the least that people may give.
        let last: String = ending.chars().skip(ending.chars().count().saturating_sub(2)).collect();
        and("substr(id, -2) = ?", Box::new(last));
        and("id like '%' || ?", Box::new(ending.clone()));
    }
    if let Some(state) = state {
        and("state = ?", Box::new(state.clone()));
    }
    if let Some(workflow) = workflow {
        and("workflow = ?", Box::new(workflow.as_str().to_owned()));
    }
    if let Some(target) = target {
        and("target = ?", Box::new(target.as_str().to_owned()));
    }
    if let Some(project) = project {
        and("project = ?", Box::new(project.as_str().to_owned()));
    }
    if let Some(before) = before {
        and("id < ?", Box::new(before.to_string()));
    }
    sql.push_str(" order by id desc limit ?");
    values.push(Box::new(*limit));
    let rows: Vec<(String, String)> =
        all(connection, &sql, params_from_iter(values), |row| Ok((row.get(0)?, row.get(1)?)))?;
    let listed = |(data, state): (String, String)| Ok(ListedRun { run: decode("a run", &data)?, state });
    let mut found = rows.into_iter().map(listed).collect::<Result<Vec<_>, StoreError>>()?;
    let made = found.len();
    found.extend(unmade_runs(connection, who, wanted)?);
    if found.len() > made {
        found.sort_unstable_by_key(|listed| Reverse(listed.run.id));
        found.truncate(*limit as usize);
    }
    Ok(found)
}

/// What belongs on the page of the runs of backfills that have no rows yet.
fn unmade_runs(connection: &Connection, who: &Who, wanted: &RunsWanted) -> Result<Vec<ListedRun>, StoreError> {
    let queued = RunState::Queued.name();
    if wanted.state.as_ref().is_some_and(|state| state != queued) {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for BackfillRow { backfill, progress } in scheduling::unmade(connection, who)? {
        let is_of = |wanted: &RunsWanted| {
            wanted.backfill.is_none_or(|id| id == backfill.id)
                && wanted.project.as_ref().is_none_or(|project| *project == backfill.project)
                && wanted.workflow.as_ref().is_none_or(|workflow| *workflow == backfill.workflow)
                && wanted
                    .target
                    .as_ref()
                    .is_none_or(|target| Some(target) == name_of(backfill.target.as_ref()).as_ref())
        };
        if is_of(wanted) {
            let unmade = backfill.unmade(&progress);
            let ends = |run: &Run| wanted.ends_with.as_ref().is_none_or(|ending| run.id.to_string().ends_with(ending));
            let page = unmade.before(wanted.before).filter(ends).take(wanted.limit as usize);
            found.extend(page.map(|run| ListedRun { run, state: queued.to_owned() }));
        }
    }
    Ok(found)
}

/// A run of a backfill that has no row yet.
fn unmade(connection: &Connection, who: &Who, id: RunId) -> Result<Option<StoredRun>, StoreError> {
    let backfills = scheduling::unmade(connection, who)?;
    let found = backfills.iter().find_map(|row| row.backfill.unmade(&row.progress).find(id));
    let Some(run) = found else { return Ok(None) };
    let document = document(connection, &run.project, run.version)?;
    Ok(Some(StoredRun {
        state: run.state().name().to_owned(),
        tasks: Vec::new(),
        documents: document.map(|document| (run.version, document)).into_iter().collect(),
        last_event: 0,
        unique_key: None,
        run,
    }))
}

fn run_state(connection: &Connection, who: &Who, id: RunId) -> Result<Answer, StoreError> {
    let found: Option<(String, String)> =
        one(connection, "select project, state from runs where id = ?1", [id.to_string()], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let Some((project, state)) = found else {
        let unmade = unmade(connection, who, id)?;
        return Ok(unmade.map_or(Answer::Nothing, |run| Answer::RunState { state: run.state, last_event: 0 }));
    };
    if !visible(who, &parsed("a project name", &project)?) {
        return Ok(Answer::Nothing);
    }
    let last: Option<i64> =
        one(connection, "select max(seq) from events where run = ?1", [id.to_string()], |row| row.get(0))?.flatten();
    Ok(Answer::RunState { state, last_event: last.unwrap_or(0).cast_unsigned() })
}

/// What people call a task: its job, with the index of an instance.
const TASK: &str = "job || case instance when '' then '' else '[' || instance || ']' end";

fn attempt(connection: &Connection, who: &Who, id: AttemptId) -> Result<Answer, StoreError> {
    let sql = format!("select project, run, {TASK}, data from attempts where id = ?1");
    let found: Option<(String, String, String, String)> =
        one(connection, &sql, [id.to_string()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    let Some((project, run, job, data)) = found else { return Ok(Answer::Nothing) };
    let project: ProjectName = parsed("a project name", &project)?;
    if !visible(who, &project) {
        return Ok(Answer::Nothing);
    }
    let (run, job) = (parsed("a run id", &run)?, parsed("a job name", &job)?);
    Ok(Answer::Attempt(Box::new(StoredAttempt { project, run, job, attempt: decode("an attempt", &data)? })))
}

fn idle_bundles(connection: &Connection, who: &Who, before: Micros) -> Result<Vec<(ProjectName, Sha)>, StoreError> {
    let sql = format!("select b.project, b.sha from bundles b where {IDLE_BEFORE} order by 1, 2");
    let rows: Vec<(String, String)> = all(connection, &sql, [before.0], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let named = |(project, digest): (String, String)| Ok((parsed("a project name", &project)?, sha(&digest)?));
    let mut found: Vec<_> = rows.into_iter().map(named).collect::<Result<_, StoreError>>()?;
    found.retain(|(project, _)| visible(who, project));
    Ok(found)
}

fn blobs(connection: &Connection, who: &Who) -> Result<BTreeSet<Sha>, StoreError> {
    let digests: Vec<String> = match &who.project {
        None => all(
            connection,
            "select f.value ->> 'sha' from bundles b, json_each(b.manifest) f union select sha from files",
            [],
            |row| row.get(0),
        )?,
        Some(project) => all(
            connection,
            "select f.value ->> 'sha' from bundles b, json_each(b.manifest) f where b.project = ?1
              union select f.sha from runs r join files f on f.run = r.id where r.project = ?1",
            [project.as_str()],
            |row| row.get(0),
        )?,
    };
    digests.iter().map(|digest| sha(digest)).collect()
}

fn succeeded(connection: &Connection, lane: &Lane, interval: Interval) -> Result<Vec<SucceededTask>, StoreError> {
    let rows: Vec<(String, String, String)> = all(
        connection,
        "select r.id, t.job, t.data from runs r indexed by runs_interval cross join tasks t on t.run = r.id
          where r.project = ?1 and r.workflow = ?2 and r.interval_start = ?3 and r.interval_end = ?4
            and r.target = ?5 and t.ending = 'succeeded' order by r.id",
        params![
            lane.project.as_str(),
            lane.workflow.as_str(),
            interval.start.0,
            interval.end.0,
            target_column(lane.target.as_ref())
        ],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    let tasks: Vec<(String, String, Task)> = rows
        .into_iter()
        .map(|(run, job, data)| Ok((run, job, decode("a task", &data)?)))
        .collect::<Result<_, StoreError>>()?;
    let mut instances: BTreeMap<(&str, &str), BTreeMap<u32, &Task>> = BTreeMap::new();
    for (run, job, task) in &tasks {
        if let Some(index) = task.index() {
            instances.entry((run, job)).or_default().insert(index, task);
        }
    }
    let none = BTreeMap::new();
    let left = |run: &str, job: &str, task: &Task| match task.spread {
        None => task.outputs.clone(),
        Some(count) => {
            let of_it = instances.get(&(run, job));
            let outputs = |index| of_it.and_then(|of_it| of_it.get(&index)).map_or(&none, |task| &task.outputs);
            gathered((0..count).map(outputs), None)
        }
    };
    tasks
        .iter()
        .filter(|(_, _, task)| task.instance.is_none())
        .map(|(run, job, task)| {
            let outputs = left(run, job, task);
            Ok(SucceededTask { run: parsed("a run id", run)?, job: parsed("a job name", job)?, outputs })
        })
        .collect()
}

/// A request with a key, if the token that it came with is one that the caller may see.
fn idempotency(connection: &Connection, who: &Who, principal: String, key: String) -> Result<Answer, StoreError> {
    if let Some(project) = &who.project {
        let sql = "select 1 from tokens where id = ?1 and project = ?2";
        let seen: Option<i64> = one(connection, sql, params![principal, project.as_str()], |row| row.get(0))?;
        if seen.is_none() {
            return Ok(Answer::Nothing);
        }
    }
    let found: Option<(String, u16, String, i64)> = one(
        connection,
        "select request, status, body, at from idempotency where principal = ?1 and key = ?2",
        params![principal, key],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
    )?;
    let Some((request, status, body, at)) = found else { return Ok(Answer::Nothing) };
    let request = sha(&request)?;
    let reply = (status != 0).then_some(StoredReply { status, body });
    Ok(Answer::Idempotency(Box::new(IdempotencyRow { principal, key, request, reply, at: Micros(at) })))
}

fn command_reply(connection: &Connection, who: &Who, id: CommandId) -> Result<Answer, StoreError> {
    let found: Option<(String, String)> = one(
        connection,
        "select body, reply from commands where id = ?1 and reply is not null",
        [id.to_string()],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let Some((body, reply)) = found else { return Ok(Answer::Nothing) };
    if who.project.is_some() && !sees_command(connection, who, &body)? {
        return Ok(Answer::Nothing);
    }
    json("a reply", &reply).map(Answer::Reply)
}

fn ad_hoc(connection: &Connection, who: &Who, id: QueryId) -> Result<Answer, StoreError> {
    let found: Option<(String, String, i64, String)> = one(
        connection,
        "select project, state, created_at, data from queries where id = ?1",
        [id.to_string()],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
    )?;
    let Some((project, state, created_at, data)) = found else { return Ok(Answer::Nothing) };
    let project: ProjectName = parsed("a project name", &project)?;
    if !visible(who, &project) {
        return Ok(Answer::Nothing);
    }
    let data = decode("a query", &data)?;
    Ok(Answer::AdHoc(Box::new(QueryRow { id, project, state, created_at: Micros(created_at), data })))
}

fn ad_hocs(
    connection: &Connection,
    project: &ProjectName,
    before: Option<QueryId>,
    limit: u32,
) -> Result<Vec<QueryRow>, StoreError> {
    let raw = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
    let rows: Vec<(String, String, i64, String)> = match before {
        None => all(
            connection,
            "select id, state, created_at, data from queries where project = ?1 order by id desc limit ?2",
            params![project.as_str(), limit],
            raw,
        )?,
        Some(before) => all(
            connection,
            "select id, state, created_at, data from queries where project = ?1 and id < ?2 order by id desc limit ?3",
            params![project.as_str(), before.to_string(), limit],
            raw,
        )?,
    };
    rows.into_iter()
        .map(|(id, state, created_at, data)| {
            let (id, data) = (parsed("a query's id", &id)?, decode("a query", &data)?);
            Ok(QueryRow { id, project: project.clone(), state, created_at: Micros(created_at), data })
        })
        .collect()
}

fn logs(connection: &Connection, attempt: AttemptId) -> Result<Vec<LogRow>, StoreError> {
    let sql = "select first, last, bytes from logs where attempt = ?1 order by first";
    all(connection, sql, [attempt.to_string()], |row| {
        let number = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
        Ok(LogRow { attempt, first: number(0)?, last: number(1)?, bytes: number(2)? })
    })
}

fn installation(connection: &Connection) -> Result<Answer, StoreError> {
    let sql = "select value from meta where key = 'installation'";
    let found: Option<String> = one(connection, sql, [], |row| row.get(0))?;
    Ok(found.map_or(Answer::Nothing, Answer::Installation))
}

fn events(connection: &Connection, run: RunId, after: u64, limit: u32) -> Result<Vec<EventRow>, StoreError> {
    let rows: Vec<(i64, i64, String, Option<String>, String)> = all(
        connection,
        "select seq, at, kind, job, data from events where run = ?1 and seq > ?2 order by seq limit ?3",
        params![run.to_string(), after.cast_signed(), limit],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
    )?;
    rows.into_iter()
        .map(|(seq, at, kind, job, data)| {
            let job: Option<TaskName> = job.map(|job| parsed("a job name", &job)).transpose()?;
            Ok(EventRow { run, seq: seq.cast_unsigned(), at: Micros(at), kind, job, data: json("an event", &data)? })
        })
        .collect()
}

fn counters(connection: &Connection, run: RunId) -> Result<Vec<CounterRow>, StoreError> {
    let rows: Vec<(String, String, String, f64, Option<String>)> = all(
        connection,
        "select attempt, grp, name, value, unit from counters where run = ?1 order by attempt, grp, name",
        [run.to_string()],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
    )?;
    rows.into_iter()
        .map(|(attempt, group, name, value, unit)| {
            Ok(CounterRow { attempt: parsed("an attempt id", &attempt)?, run, group, name, value, unit })
        })
        .collect()
}

fn projects(connection: &Connection, who: &Who) -> Result<Vec<ProjectRow>, StoreError> {
    let raw = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let rows: Vec<(String, Option<String>, i64)> = match &who.project {
        None => all(connection, "select name, folder, created_at from projects order by name", [], raw)?,
        Some(project) => {
            let sql = "select name, folder, created_at from projects where name = ?1";
            all(connection, sql, [project.as_str()], raw)?
        }
    };
    rows.into_iter()
        .map(|(name, folder, at)| {
            Ok(ProjectRow { name: parsed("a project name", &name)?, folder, created_at: Micros(at) })
        })
        .collect()
}

fn bundle(connection: &Connection, project: &ProjectName, wanted: Sha) -> Result<Answer, StoreError> {
    let found: Option<(String, i64)> = one(
        connection,
        "select manifest, created_at from bundles where project = ?1 and sha = ?2",
        params![project.as_str(), wanted.to_string()],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let Some((manifest, at)) = found else { return Ok(Answer::Nothing) };
    let manifest = serde_json::from_str(&manifest).map_err(|e| broken("a bundle", e))?;
    Ok(Answer::Bundle(Box::new(BundleRow { project: project.clone(), sha: wanted, manifest, created_at: Micros(at) })))
}

fn version_row(connection: &Connection, project: &ProjectName, version: Sha) -> Result<Answer, StoreError> {
    let found: Option<(String, String, String, i64)> = one(
        connection,
        "select workflow, bundle, document, created_at from versions
          where project = ?1 and version = ?2 order by created_at desc limit 1",
        params![project.as_str(), version.to_string()],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
    )?;
    let Some((workflow, bundle, document, at)) = found else { return Ok(Answer::Nothing) };
    Ok(Answer::Version(Box::new(VersionRow {
        project: project.clone(),
        workflow: parsed("a workflow name", &workflow)?,
        version,
        bundle: sha(&bundle)?,
        document: json("a workflow document", &document)?,
        created_at: Micros(at),
    })))
}

fn document(connection: &Connection, project: &ProjectName, version: Sha) -> Result<Option<Value>, StoreError> {
    let text: Option<String> = one(
        connection,
        "select document from versions where project = ?1 and version = ?2 limit 1",
        params![project.as_str(), version.to_string()],
        |row| row.get(0),
    )?;
    text.map(|text| json("a workflow document", &text)).transpose()
}

/// One by one: SQLite finds each by its key in microseconds, and it is the way to the reader that costs.
fn documents(
    connection: &Connection,
    project: &ProjectName,
    versions: &[Sha],
) -> Result<Vec<(Sha, Value)>, StoreError> {
    let mut found = Vec::with_capacity(versions.len());
    for version in versions {
        found.extend(document(connection, project, *version)?.map(|document| (*version, document)));
    }
    Ok(found)
}

fn active_versions(connection: &Connection, project: &ProjectName) -> Result<Vec<ActiveVersion>, StoreError> {
    let rows: Vec<(String, String, String, String, i64, String)> = all(
        connection,
        "select a.target, a.workflow, a.version, a.bundle, a.deployed_at, v.document
           from active a cross join versions v
             on v.project = a.project and v.version = a.version and v.bundle = a.bundle
          where a.project = ?1 order by a.target, a.workflow",
        [project.as_str()],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?)),
    )?;
    rows.into_iter()
        .map(|(target, workflow, version, bundle, at, document)| {
            let target = if target.is_empty() { None } else { Some(parsed("a target name", &target)?) };
            Ok(ActiveVersion {
                target,
                workflow: parsed("a workflow name", &workflow)?,
                version: sha(&version)?,
                bundle: sha(&bundle)?,
                deployed_at: Micros(at),
                document: json("a workflow document", &document)?,
            })
        })
        .collect()
}

fn targets(connection: &Connection, project: &ProjectName) -> Result<Vec<Target>, StoreError> {
    let sql = "select data from targets where project = ?1 order by name";
    let texts: Vec<String> = all(connection, sql, [project.as_str()], |row| row.get(0))?;
    texts.iter().map(|text| decode("a target", text)).collect()
}

fn secrets(connection: &Connection, project: &ProjectName) -> Result<Vec<SecretRow>, StoreError> {
    let sql = "select name, sealed, set_at, set_by from secrets where project = ?1 order by name";
    let rows: Vec<RawSecret> = all(connection, sql, [project.as_str()], secret_row)?;
    rows.into_iter().map(|row| a_secret(project, row)).collect()
}

fn secret(connection: &Connection, project: &ProjectName, name: &SecretName) -> Result<Option<SecretRow>, StoreError> {
    let sql = "select name, sealed, set_at, set_by from secrets where project = ?1 and name = ?2";
    let found: Option<RawSecret> = one(connection, sql, params![project.as_str(), name.as_str()], secret_row)?;
    found.map(|row| a_secret(project, row)).transpose()
}

type RawSecret = (String, Vec<u8>, i64, String);

fn secret_row(row: &Row<'_>) -> rusqlite::Result<RawSecret> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
}

fn a_secret(project: &ProjectName, (name, sealed, at, set_by): RawSecret) -> Result<SecretRow, StoreError> {
    let name = parsed("a secret name", &name)?;
    Ok(SecretRow { project: project.clone(), name, sealed, set_at: Micros(at), set_by })
}

fn tokens(connection: &Connection, who: &Who) -> Result<Vec<TokenRow>, StoreError> {
    let rows = match &who.project {
        None => all(
            connection,
            "select id, name, hash, project, role, created_at, expires_at, revoked_at from tokens order by id",
            [],
            token_row,
        )?,
        Some(project) => all(
            connection,
            "select id, name, hash, project, role, created_at, expires_at, revoked_at from tokens
              where project = ?1 order by id",
            [project.as_str()],
            token_row,
        )?,
    };
    rows.into_iter().map(a_token).collect()
}

/// Asked for with every request.
fn token_by_hash(connection: &Connection, who: &Who, hash: Sha) -> Result<Option<TokenRow>, StoreError> {
    let found = one(
        connection,
        "select id, name, hash, project, role, created_at, expires_at, revoked_at from tokens where hash = ?1",
        [hash.to_string()],
        token_row,
    )?;
    let token = found.map(a_token).transpose()?;
    Ok(token.filter(|token| who.project.is_none() || token.project == who.project))
}

type RawToken = (String, String, String, Option<String>, String, i64, Option<i64>, Option<i64>);

fn token_row(row: &Row<'_>) -> rusqlite::Result<RawToken> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?, row.get(7)?))
}

fn a_token((id, name, hash, project, role, created, expires, revoked): RawToken) -> Result<TokenRow, StoreError> {
    Ok(TokenRow {
        id: parsed("a token id", &id)?,
        name,
        hash: sha(&hash)?,
        project: project.map(|project| parsed("a project name", &project)).transpose()?,
        role,
        created_at: Micros(created),
        expires_at: expires.map(Micros),
        revoked_at: revoked.map(Micros),
    })
}

fn files(connection: &Connection, run: RunId) -> Result<Vec<FileRow>, StoreError> {
    let rows: Vec<(String, String, String, String, i64)> = all(
        connection,
        "select job, name, attempt, sha, size from files where run = ?1 order by job, name",
        [run.to_string()],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
    )?;
    rows.into_iter()
        .map(|(job, name, attempt, digest, size)| {
            Ok(FileRow {
                run,
                attempt: parsed("an attempt id", &attempt)?,
                job: parsed("a job name", &job)?,
                name,
                sha: sha(&digest)?,
                size: size.cast_unsigned(),
            })
        })
        .collect()
}

fn inputs_of_last_success(connection: &Connection, lane: &Lane, before: RunId) -> Result<Answer, StoreError> {
    let found: Option<String> = one(
        connection,
        "select id from runs indexed by runs_state
          where state = 'succeeded' and id < ?3 and project = ?1 and workflow = ?2 and target = ?4
          order by id desc limit 1",
        params![lane.project.as_str(), lane.workflow.as_str(), before.to_string(), target_column(lane.target.as_ref())],
        |row| row.get(0),
    )?;
    let Some(run) = found else { return Ok(Answer::Nothing) };
    Ok(Answer::Inputs(inputs(connection, parsed("a run id", &run)?)?))
}

fn inputs(connection: &Connection, run: RunId) -> Result<Vec<InputRow>, StoreError> {
    all(
        connection,
        "select path, size, modified_at from inputs where run = ?1 order by path",
        [run.to_string()],
        |row| {
            let size = row.get::<_, i64>(1)?.cast_unsigned();
            Ok(InputRow { path: row.get(0)?, size, modified_at: Micros(row.get(2)?) })
        },
    )
}

/// What an attempt wrote that nobody else saw, whether it is discarded already or still to be.
fn unpublished(connection: &Connection, place: &Place, attempt: AttemptId) -> Result<Vec<Unpublished>, StoreError> {
    let rows: Vec<(String, String, bool, Option<i64>)> = all(
        connection,
        "select u.namespace, u.name, t.id is not null,
                (select h.at from table_history h
                  where h.project = ?2 and h.namespace = ?3 || u.namespace and h.name = u.name
                  order by h.from_seq desc limit 1)
           from (select namespace, name from unpublished where attempt = ?1
                 union select namespace, name from overlays where attempt = ?1) u
           left join tables t on t.project = ?2 and t.namespace = ?3 || u.namespace and t.name = u.name
          order by 1, 2",
        params![attempt.to_string(), place.project.as_str(), place.before()],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
    )?;
    rows.into_iter()
        .map(|(namespace, name, exists, at)| {
            let table =
                TableRef { namespace: parsed("a namespace", &namespace)?, name: parsed("a table name", &name)? };
            Ok(Unpublished { table, exists, snapshot_at: at.filter(|_| exists).map(Micros) })
        })
        .collect()
}

/// The rows of a system table, in the order of `system_columns`; times are microseconds.
fn system(connection: &Connection, who: &Who, table: SystemTable) -> Result<Vec<Vec<Value>>, StoreError> {
    let sql = match table {
        SystemTable::Runs => {
            "select id, project, nullif(target, ''), workflow, class, state, interval_start, interval_end, created_at, started_at,
                    ended_at, bundle, version from runs where ?1 is null or project = ?1 order by id"
        }
        SystemTable::Tasks => {
            "select t.run, r.project, t.job, cast(nullif(t.instance, '') as integer), t.data -> '$.data.instance.item', t.state,
                    t.generation, t.attempts from tasks t join runs r on r.id = t.run
              where ?1 is null or r.project = ?1 order by t.run, t.ix"
        }
        SystemTable::Attempts => {
            "select id, run, project, job, cast(nullif(instance, '') as integer), number, state, fault, executor,
                    started_at, ended_at from attempts
              where ?1 is null or project = ?1 order by id"
        }
        SystemTable::Counters => {
            "select c.attempt, c.run, c.grp, c.name, c.value, c.unit from counters c join runs r on r.id = c.run
              where ?1 is null or r.project = ?1 order by c.attempt, c.grp, c.name"
        }
    };
    let width = pinrail_model::seam::store::system_columns(table).len();
    all(connection, sql, [who.project.as_ref().map(|p| p.as_str())], |row| {
        (0..width)
            .map(|at| {
                Ok(match row.get_ref(at)? {
                    rusqlite::types::ValueRef::Null => Value::Null,
                    rusqlite::types::ValueRef::Integer(number) => number.into(),
                    rusqlite::types::ValueRef::Real(number) => number.into(),
                    rusqlite::types::ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned().into(),
                    rusqlite::types::ValueRef::Blob(_) => Value::Null,
                })
            })
            .collect()
    })
}
