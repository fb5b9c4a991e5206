//! Reads. Every statement that people's queries reach filters by project where the caller may see only one.

use std::collections::BTreeMap;

use pinrail_model::document::Sha;
use pinrail_model::explain::Unpublished;
use pinrail_model::ids::{AttemptId, RunId};
use pinrail_model::names::{JobName, ProjectName, TableRef};
use pinrail_model::run::{Attempt, Run, Task};
use pinrail_model::seam::store::{
    ActiveVersion, Answer, BundleRow, Command, CounterRow, EventRow, FileRow, IdempotencyRow, InputRow, ListedRun,
    Load, LogRow, ProjectRow, Query, QueryRow, SecretRow, StoreError, StoredAttempt, StoredReply, StoredRun,
    SucceededTask, SystemTable, TokenRow, Topic, VersionRow, Who,
};
use pinrail_model::time::Micros;
use rusqlite::{Connection, OptionalExtension, Params, Row, params};
use serde_json::Value;

use super::rows::{IDLE_BEFORE, decode};
use super::{broken, failed, sha};

fn all<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    row: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, StoreError> {
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    statement.query_map(params, row).and_then(Iterator::collect).map_err(failed)
}

fn one<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    row: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Option<T>, StoreError> {
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    statement.query_row(params, row).optional().map_err(failed)
}

fn parsed<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, StoreError>
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

/// Whether something about a topic is newer than what the caller knows.
pub(super) fn is_newer(connection: &Connection, topic: Topic, after: u64) -> Result<bool, StoreError> {
    let found: Option<i64> = match topic {
        Topic::Run(run) => one(
            connection,
            "select 1 from events where run = ?1 and seq > ?2 limit 1",
            params![run.to_string(), after.cast_signed()],
            |row| row.get(0),
        )?,
        Topic::Commands => one(
            connection,
            "select 1 from commands where reply is null and seq > ?1 limit 1",
            [after.cast_signed()],
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
            all(connection, "select id, data, unique_key, state from runs where finished = 0 order by id", [], run_row)?
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
    let attempts: Vec<(String, String)> = all(
        connection,
        "select job, data from attempts where run = ?1 order by job, instance, number",
        [&id],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let mut by_job: BTreeMap<String, Vec<std::sync::Arc<Attempt>>> = BTreeMap::new();
    for (job, text) in attempts {
        by_job.entry(job).or_default().push(std::sync::Arc::new(decode("an attempt", &text)?));
    }
    for task in &mut tasks {
        task.attempts = by_job.remove(task.job.as_str()).unwrap_or_default();
    }
    let mut documents = BTreeMap::new();
    let named = tasks.iter().map(|task| (task.version, task.bundle)).chain([(run.version, run.bundle)]);
    for (version, _) in named.collect::<std::collections::BTreeSet<_>>() {
        let text: Option<String> = one(
            connection,
            "select document from versions where project = ?1 and version = ?2 limit 1",
            params![run.project.as_str(), version.to_string()],
            |row| row.get(0),
        )?;
        if let Some(text) = text {
            documents.insert(version, json("a workflow document", &text)?);
        }
    }
    let last_event: Option<i64> =
        one(connection, "select max(seq) from events where run = ?1", [&id], |row| row.get(0))?.flatten();
    Ok(StoredRun { run, state, tasks, documents, last_event: last_event.unwrap_or(0).cast_unsigned(), unique_key })
}

/// What a caller may see; the caller's project, if it is bound to one, wins over what it asks for.
fn visible(who: &Who, project: &ProjectName) -> bool {
    who.project.as_ref().is_none_or(|only| only == project)
}

/// Answers a query.
pub(super) fn read(connection: &Connection, who: &Who, query: Query) -> Result<Answer, StoreError> {
    Ok(match query {
        Query::Run(id) => {
            let found = load(connection, Load::One(id))?.pop();
            let found = found.filter(|stored| visible(who, &stored.run.project));
            found.map_or(Answer::Nothing, |stored| Answer::Run(Box::new(stored)))
        }
        Query::RunState(id) => {
            let found: Option<(String, String, i64)> = one(
                connection,
                "select project, state, (select coalesce(max(seq), 0) from events where run = r.id) from runs r where id = ?1",
                [id.to_string()],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )?;
            let found = found.filter(|(project, ..)| who.project.as_ref().is_none_or(|own| own.as_str() == project));
            found.map_or(Answer::Nothing, |(_, state, last)| Answer::RunState { state, last_event: last.cast_unsigned() })
        }
        Query::Runs { project, workflow, state, logical, ends_with, before, limit } => {
            let project = who.project.clone().or(project);
            let rows = all(
                connection,
                "select data, state from runs
                  where (?1 is null or project = ?1) and (?2 is null or workflow = ?2) and (?3 is null or state = ?3)
                    and (?4 is null or interval_start = ?4) and (?5 is null or id like '%' || ?5)
                    and (?6 is null or id < ?6)
                  order by id desc limit ?7",
                params![
                    project.as_ref().map(|p| p.as_str()),
                    workflow.as_ref().map(|w| w.as_str()),
                    state,
                    logical.map(|at| at.0),
                    ends_with,
                    before.map(|id: RunId| id.to_string()),
                    limit
                ],
                |row| Ok((row.get::<_, String>(0)?, row.get(1)?)),
            )?;
            let listed = |(data, state): (String, String)| Ok(ListedRun { run: decode("a run", &data)?, state });
            Answer::Runs(rows.into_iter().map(listed).collect::<Result<_, StoreError>>()?)
        }
        Query::Attempt(id) => {
            let found: Option<(String, String, String, String)> = one(
                connection,
                "select project, run, job, data from attempts where id = ?1",
                [id.to_string()],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
            )?;
            let Some((project, run, job, data)) = found else { return Ok(Answer::Nothing) };
            let project: ProjectName = parsed("a project name", &project)?;
            if !visible(who, &project) {
                return Ok(Answer::Nothing);
            }
            let (run, job) = (parsed("a run id", &run)?, parsed("a job name", &job)?);
            Answer::Attempt(Box::new(StoredAttempt { project, run, job, attempt: decode("an attempt", &data)? }))
        }
        Query::Events { run, after, limit } => Answer::Events(events(connection, run, after, limit)?),
        Query::Counters { run } => Answer::Counters(counters(connection, run)?),
        Query::Projects => Answer::Projects(projects(connection, who)?),
        Query::Bundle { project, sha } => bundle(connection, &project, sha)?,
        Query::IdleBundles { before } => {
            let sql = format!("select b.project, b.sha from bundles b where {IDLE_BEFORE} order by 1, 2");
            let rows: Vec<(String, String)> = all(connection, &sql, [before.0], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let named = |(project, digest): (String, String)| Ok((parsed("a project name", &project)?, sha(&digest)?));
            Answer::Bundles(rows.into_iter().map(named).collect::<Result<_, StoreError>>()?)
        }
        Query::Blobs => {
            let digests: Vec<String> = all(
                connection,
                "select f.value ->> 'sha' from bundles b, json_each(b.manifest) f union select sha from files",
                [],
                |row| row.get(0),
            )?;
            Answer::Blobs(digests.iter().map(|digest| sha(digest)).collect::<Result<_, _>>()?)
        }
        Query::Version { project, version } => version_row(connection, &project, version)?,
        Query::ActiveVersions { project } => Answer::ActiveVersions(active_versions(connection, &project)?),
        Query::Succeeded { project, workflow, interval } => {
            let rows: Vec<(String, String, String)> = all(
                connection,
                "select r.id, t.job, t.data from tasks t join runs r on r.id = t.run
                  where r.project = ?1 and r.workflow = ?2 and r.interval_start = ?3 and r.interval_end = ?4
                    and t.ending = 'succeeded' order by r.id",
                params![project.as_str(), workflow.as_str(), interval.start.0, interval.end.0],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )?;
            Answer::Succeeded(
                rows.into_iter()
                    .map(|(run, job, data)| {
                        let task: Task = decode("a task", &data)?;
                        Ok(SucceededTask {
                            run: parsed("a run id", &run)?,
                            job: parsed("a job name", &job)?,
                            outputs: task.outputs,
                        })
                    })
                    .collect::<Result<_, StoreError>>()?,
            )
        }
        Query::Secrets { project } => Answer::Secrets(secrets(connection, &project, None)?),
        Query::Secret { project, name } => Answer::Secrets(secrets(connection, &project, Some(name.as_str()))?),
        Query::Tokens => Answer::Tokens(tokens(connection, who, None)?),
        Query::TokenByHash(hash) => Answer::Tokens(tokens(connection, &Who::default(), Some(hash))?),
        Query::Idempotency { principal, key } => {
            let found = one(
                connection,
                "select request, status, body, at from idempotency where principal = ?1 and key = ?2",
                params![principal, key],
                |row| {
                    Ok((
                        row.get::<_, String>(0)?,
                        row.get::<_, u16>(1)?,
                        row.get::<_, String>(2)?,
                        row.get::<_, i64>(3)?,
                    ))
                },
            )?;
            let Some((request, status, body, at)) = found else { return Ok(Answer::Nothing) };
            let request = sha(&request)?;
            let reply = (status != 0).then_some(StoredReply { status, body });
            Answer::Idempotency(Box::new(IdempotencyRow { principal, key, request, reply, at: Micros(at) }))
        }
        Query::CommandReply(id) => {
            let found: Option<String> = one(
                connection,
                "select reply from commands where id = ?1 and reply is not null",
                [id.to_string()],
                |row| row.get(0),
            )?;
            found.map_or(Ok(Answer::Nothing), |text| json("a reply", &text).map(Answer::Reply))?
        }
        Query::AdHoc { id } => {
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
            Answer::AdHoc(Box::new(QueryRow { id, project, state, created_at: Micros(created_at), data }))
        }
        Query::AdHocs { project, before, limit } => {
            if !visible(who, &project) {
                return Ok(Answer::AdHocs(Vec::new()));
            }
            let rows: Vec<(String, String, i64, String)> = all(
                connection,
                "select id, state, created_at, data from queries
                  where project = ?1 and (?2 is null or id < ?2) order by id desc limit ?3",
                params![project.as_str(), before.map(|id| id.to_string()), limit],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
            )?;
            let row = |(id, state, created_at, data): (String, String, i64, String)| {
                let (id, data) = (parsed("a query's id", &id)?, decode("a query", &data)?);
                Ok(QueryRow { id, project: project.clone(), state, created_at: Micros(created_at), data })
            };
            Answer::AdHocs(rows.into_iter().map(row).collect::<Result<_, StoreError>>()?)
        }
        Query::Logs(attempt) => Answer::Logs(all(
            connection,
            "select first, last, bytes from logs where attempt = ?1 order by first",
            [attempt.to_string()],
            |row| {
                let number = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
                Ok(LogRow { attempt, first: number(0)?, last: number(1)?, bytes: number(2)? })
            },
        )?),
        Query::Files(run) => Answer::Files(files(connection, run)?),
        Query::Inputs(run) => Answer::Inputs(inputs(connection, run)?),
        Query::InputsOfLastSuccess { project, workflow, before } => {
            let found: Option<String> = one(
                connection,
                "select id from runs where project = ?1 and workflow = ?2 and state = 'succeeded' and id < ?3
                  order by id desc limit 1",
                params![project.as_str(), workflow.as_str(), before.to_string()],
                |row| row.get(0),
            )?;
            let Some(run) = found else { return Ok(Answer::Nothing) };
            Answer::Inputs(inputs(connection, parsed("a run id", &run)?)?)
        }
        Query::Unpublished { project, attempt } => Answer::Unpublished(unpublished(connection, &project, attempt)?),
        Query::Installation => {
            let found: Option<String> =
                one(connection, "select value from meta where key = 'installation'", [], |row| row.get(0))?;
            found.map_or(Answer::Nothing, Answer::Installation)
        }
        Query::System(table) => Answer::Rows(system(connection, who, table)?),
    })
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
            let job: Option<JobName> = job.map(|job| parsed("a job name", &job)).transpose()?;
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
    let rows: Vec<(String, Option<String>, i64)> = all(
        connection,
        "select name, folder, created_at from projects where ?1 is null or name = ?1 order by name",
        [who.project.as_ref().map(|p| p.as_str())],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
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

fn active_versions(connection: &Connection, project: &ProjectName) -> Result<Vec<ActiveVersion>, StoreError> {
    let rows: Vec<(String, String, String, i64, String)> = all(
        connection,
        "select workflow, version, bundle, deployed_at, document from versions
          where project = ?1 and active = 1 order by workflow",
        [project.as_str()],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
    )?;
    rows.into_iter()
        .map(|(workflow, version, bundle, at, document)| {
            Ok(ActiveVersion {
                workflow: parsed("a workflow name", &workflow)?,
                version: sha(&version)?,
                bundle: sha(&bundle)?,
                deployed_at: Micros(at),
                document: json("a workflow document", &document)?,
            })
        })
        .collect()
}

fn secrets(connection: &Connection, project: &ProjectName, name: Option<&str>) -> Result<Vec<SecretRow>, StoreError> {
    let rows: Vec<(String, Vec<u8>, i64, String)> = all(
        connection,
        "select name, sealed, set_at, set_by from secrets where project = ?1 and (?2 is null or name = ?2) order by name",
        params![project.as_str(), name],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
    )?;
    rows.into_iter()
        .map(|(name, sealed, at, set_by)| {
            let name = parsed("a secret name", &name)?;
            Ok(SecretRow { project: project.clone(), name, sealed, set_at: Micros(at), set_by })
        })
        .collect()
}

fn tokens(connection: &Connection, who: &Who, hash: Option<Sha>) -> Result<Vec<TokenRow>, StoreError> {
    type Raw = (String, String, String, Option<String>, String, i64, Option<i64>, Option<i64>);
    let rows: Vec<Raw> = all(
        connection,
        "select id, name, hash, project, role, created_at, expires_at, revoked_at from tokens
          where (?1 is null or project = ?1) and (?2 is null or hash = ?2) order by id",
        params![who.project.as_ref().map(|p| p.as_str()), hash.map(|hash| hash.to_string())],
        |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?, row.get(7)?))
        },
    )?;
    rows.into_iter()
        .map(|(id, name, hash, project, role, created, expires, revoked)| {
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
        })
        .collect()
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
fn unpublished(
    connection: &Connection,
    project: &ProjectName,
    attempt: AttemptId,
) -> Result<Vec<Unpublished>, StoreError> {
    let rows: Vec<(String, String, bool, Option<i64>)> = all(
        connection,
        "select u.namespace, u.name, t.id is not null,
                (select h.at from table_history h
                  where h.project = ?2 and h.namespace = u.namespace and h.name = u.name
                  order by h.from_seq desc limit 1)
           from (select namespace, name from unpublished where attempt = ?1
                 union select namespace, name from overlays where attempt = ?1) u
           left join tables t on t.project = ?2 and t.namespace = u.namespace and t.name = u.name
          order by 1, 2",
        params![attempt.to_string(), project.as_str()],
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
            "select id, project, workflow, class, state, interval_start, interval_end, created_at, started_at, ended_at,
                    bundle, version from runs where ?1 is null or project = ?1 order by id"
        }
        SystemTable::Tasks => {
            "select t.run, r.project, t.job, t.state, t.generation, t.attempts from tasks t join runs r on r.id = t.run
              where ?1 is null or r.project = ?1 order by t.run, t.ix"
        }
        SystemTable::Attempts => {
            "select id, run, project, job, number, state, fault, executor, started_at, ended_at from attempts
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
