//! One function per kind of row. Columns hold everything that is filtered or sorted; the rest is one versioned JSON.

use pinrail_model::names::{Prefix, ProjectName, TargetName};
use pinrail_model::run::{Cause, Pending};
use pinrail_model::seam::store::{
    AttemptRow, CounterRow, EventRow, IdempotencyRow, Reply, RunRow, StoreError, TaskRow, TokenRow, VersionRow, Write,
    attempt_fault, attempt_state,
};
use pinrail_model::target::Target;
use pinrail_model::time::Micros;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use super::read::one;
use super::{broken, failed, notices, prepare, scheduling};

/// The stored form of a document, with its version beside it, so that a later one can read an earlier one.
#[derive(Serialize, Deserialize)]
#[serde(tag = "v")]
pub(super) enum Versioned<T> {
    #[serde(rename = "1")]
    V1 { data: T },
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(&Versioned::V1 { data: value }).map_err(|e| StoreError::Failed(e.to_string()))
}

pub(super) fn decode<T: for<'a> Deserialize<'a>>(what: &str, text: &str) -> Result<T, StoreError> {
    let Versioned::V1 { data } = serde_json::from_str(text).map_err(|e| broken(what, e))?;
    Ok(data)
}

fn micros(at: Option<Micros>) -> Option<i64> {
    at.map(|at| at.0)
}

/// Holds for a bundle `b` that was announced last before `?1` and that nothing names.
pub(super) const IDLE_BEFORE: &str = "b.created_at < ?1
    and not exists (select 1 from active a where a.project = b.project and a.bundle = b.sha)
    and not exists (select 1 from runs r where r.bundle = b.sha)
    and not exists (select 1 from tasks t where t.bundle = b.sha and t.generation > 1)";

/// Why a write cannot be: another row has its unique key, or what it changes is not there.
pub(super) fn refusal(connection: &Connection, write: &Write) -> Result<Option<Reply>, StoreError> {
    let missing = |found: Option<i64>| found.is_none().then_some(Reply::Missing);
    match write {
        Write::Run(row) => {
            let Some(key) = &row.unique_key else { return Ok(None) };
            let sql = "select id from runs where unique_key = ?1 and id <> ?2";
            Ok(one(connection, sql, params![key, row.run.id.to_string()], |row| row.get(0))?.map(Reply::Exists))
        }
        Write::DropSecret { project, name } => {
            let sql = "select 1 from secrets where project = ?1 and name = ?2";
            one(connection, sql, params![project.as_str(), name.as_str()], |row| row.get(0)).map(missing)
        }
        Write::RevokeToken { who, id, .. } => {
            let sql = "select 1 from tokens where id = ?1 and (?2 is null or project = ?2)";
            let project = who.project.as_ref().map(|project| project.as_str());
            one(connection, sql, params![id.to_string(), project], |row| row.get(0)).map(missing)
        }
        _ => Ok(None),
    }
}

/// Inserts, replaces or deletes rows.
pub(super) fn write(connection: &Connection, write: &Write) -> Result<(), StoreError> {
    match write {
        Write::Run(row) => run(connection, row)?,
        Write::Task(row) => task(connection, row)?,
        Write::Attempt(row) => attempt(connection, row)?,
        Write::Counters(rows) => counters(connection, rows)?,
        Write::DiscardOverlays(attempt) => {
            execute(
                connection,
                "insert into unpublished (attempt, namespace, name)
                 select attempt, namespace, name from overlays where attempt = ?1 on conflict do nothing",
                params![attempt.to_string()],
            )?;
            execute(connection, "delete from overlays where attempt = ?1", params![attempt.to_string()])?;
        }
        Write::CommandReply { command, reply } => execute(
            connection,
            "update commands set reply = ?2 where id = ?1",
            params![command.to_string(), reply.to_string()],
        )?,
        Write::Project(row) => execute(
            connection,
            "insert into projects (name, folder, created_at) values (?1, ?2, ?3)
             on conflict (name) do update set folder = coalesce(excluded.folder, folder)",
            params![row.name.as_str(), row.folder, row.created_at.0],
        )?,
        Write::Bundle(row) => {
            let manifest = serde_json::to_string(&row.manifest).map_err(|e| StoreError::Failed(e.to_string()))?;
            execute(
                connection,
                "insert into bundles (project, sha, manifest, created_at) values (?1, ?2, ?3, ?4)
                 on conflict (project, sha) do update set created_at = max(created_at, excluded.created_at)",
                params![row.project.as_str(), row.sha.to_string(), manifest, row.created_at.0],
            )?;
        }
        Write::DropBundle { project, sha, before } => {
            let sql = format!("select 1 from bundles b where {IDLE_BEFORE} and b.project = ?2 and b.sha = ?3");
            let params = params![before.0, project.as_str(), sha.to_string()];
            let idle: Option<i64> = one(connection, &sql, params, |row| row.get(0))?;
            if idle.is_some() {
                let params = params![project.as_str(), sha.to_string()];
                execute(connection, "delete from versions where project = ?1 and bundle = ?2", params)?;
                execute(connection, "delete from bundles where project = ?1 and sha = ?2", params)?;
            }
        }
        Write::Version(row) => version(connection, row)?,
        Write::Activate { project, target, bundle, versions, keep, at } => {
            let name = target.as_ref().map_or("", |target| target.name.as_str());
            let keep = serde_json::to_string(keep).map_err(|e| StoreError::Failed(e.to_string()))?;
            execute(
                connection,
                "delete from active
                  where project = ?1 and target = ?2 and workflow not in (select value from json_each(?3))",
                params![project.as_str(), name, keep],
            )?;
            let prefix = target.as_ref().and_then(|target| target.prefix.as_ref()).map_or("", Prefix::as_str);
            for table in ["active", "targets"] {
                let named = if table == "active" { "target" } else { "name" };
                let sql = format!(
                    "delete from {table} where project = ?1 and {named} in
                       (select name from targets where project = ?1 and name <> ?2 and prefix = ?3)"
                );
                execute(connection, &sql, params![project.as_str(), name, prefix])?;
            }
            if prefix.is_empty() && target.is_some() {
                execute(connection, "delete from active where project = ?1 and target = ''", [project.as_str()])?;
            }
            if let Some(target) = target {
                put_target(connection, project, target)?;
            }
            for (workflow, version) in versions {
                execute(
                    connection,
                    "insert into active (project, target, workflow, version, bundle, deployed_at)
                     values (?1, ?2, ?3, ?4, ?5, ?6)
                     on conflict (project, target, workflow) do update
                     set version = excluded.version, bundle = excluded.bundle, deployed_at = excluded.deployed_at",
                    params![project.as_str(), name, workflow.as_str(), version.to_string(), bundle.to_string(), at.0],
                )?;
            }
        }
        Write::Secret(row) => execute(
            connection,
            "insert into secrets (project, name, sealed, set_at, set_by) values (?1, ?2, ?3, ?4, ?5)
             on conflict (project, name) do update
             set sealed = excluded.sealed, set_at = excluded.set_at, set_by = excluded.set_by",
            params![row.project.as_str(), row.name.as_str(), row.sealed, row.set_at.0, row.set_by],
        )?,
        Write::DropSecret { project, name } => {
            let sql = "delete from secrets where project = ?1 and name = ?2";
            execute(connection, sql, params![project.as_str(), name.as_str()])?;
        }
        Write::Token(row) => token(connection, row)?,
        Write::RevokeToken { id, at, .. } => execute(
            connection,
            "update tokens set revoked_at = coalesce(revoked_at, ?2) where id = ?1",
            params![id.to_string(), at.0],
        )?,
        Write::Idempotency(row) => idempotency(connection, row)?,
        Write::DropIdempotency { principal, key } => {
            execute(connection, "delete from idempotency where principal = ?1 and key = ?2", params![principal, key])?;
        }
        Write::Query(row) => execute(
            connection,
            "insert into queries (id, project, state, created_at, data) values (?1, ?2, ?3, ?4, ?5)
             on conflict (id) do update set state = excluded.state, data = excluded.data",
            params![row.id.to_string(), row.project.as_str(), row.state, row.created_at.0, encode(&row.data)?],
        )?,
        Write::Log(row) => execute(
            connection,
            "insert into logs (attempt, first, last, bytes) values (?1, ?2, ?3, ?4)
             on conflict (attempt, first) do update set last = excluded.last, bytes = excluded.bytes",
            params![row.attempt.to_string(), row.first.cast_signed(), row.last.cast_signed(), row.bytes.cast_signed()],
        )?,
        Write::File(row) => execute(
            connection,
            "insert into files (run, job, name, attempt, sha, size) values (?1, ?2, ?3, ?4, ?5, ?6)
             on conflict (run, job, name) do update
             set attempt = excluded.attempt, sha = excluded.sha, size = excluded.size",
            params![
                row.run.to_string(),
                row.job.as_str(),
                row.name,
                row.attempt.to_string(),
                row.sha.to_string(),
                row.size.cast_signed()
            ],
        )?,
        Write::Inputs { run, rows } => {
            execute(connection, "delete from inputs where run = ?1", params![run.to_string()])?;
            for row in rows {
                execute(
                    connection,
                    "insert into inputs (run, path, size, modified_at) values (?1, ?2, ?3, ?4)",
                    params![run.to_string(), row.path, row.size.cast_signed(), row.modified_at.0],
                )?;
            }
        }
        Write::Trigger(trigger) => scheduling::trigger(connection, trigger)?,
        Write::Scratch { project, target } => put_target(connection, project, target)?,
        Write::DropScratch { project, name } => execute(
            connection,
            "delete from targets where project = ?1 and name = ?2 and data ->> '$.data.scratch' is not null",
            params![project.as_str(), name.as_str()],
        )?,
        Write::DropTrigger(lane) => execute(
            connection,
            "delete from triggers where project = ?1 and target = ?2 and workflow = ?3",
            params![lane.project.as_str(), target_column(lane.target.as_ref()), lane.workflow.as_str()],
        )?,
        Write::Backfill(row) => scheduling::backfill(connection, row)?,
        Write::Progress { id, state, progress } => scheduling::progress(connection, *id, *state, progress)?,
        Write::Hold { scope, control } => scheduling::hold(connection, scope, control.as_ref())?,
        Write::Limit { project, name, set } => scheduling::limit(connection, project, name, set.as_ref())?,
        Write::Notices(rows) => notices::insert(connection, rows)?,
        Write::Delivery { id, delivery } => notices::deliver(connection, *id, delivery)?,
        Write::Channels { project, channels } => notices::set_channels(connection, project, channels)?,
        Write::Installation(name) => installation(connection, name)?,
        Write::MarkCatalogs { at } => execute(
            connection,
            "insert into catalog_marks (project, at, seq)
             select project, ?1, seq from catalogs
              where not exists (
                select 1 from catalog_marks m where m.project = catalogs.project and m.seq = catalogs.seq)
             on conflict (project, at) do nothing",
            params![at.0],
        )?,
    }
    Ok(())
}

pub(super) fn installation(connection: &Connection, name: &str) -> Result<(), StoreError> {
    execute(
        connection,
        "insert into meta (key, value) values ('installation', ?1) on conflict (key) do update set value = excluded.value",
        params![name],
    )
}

pub(super) fn execute(connection: &Connection, sql: &str, params: impl rusqlite::Params) -> Result<(), StoreError> {
    prepare(connection, sql)?.execute(params).map_err(failed)?;
    Ok(())
}

fn run(connection: &Connection, row: &RunRow) -> Result<(), StoreError> {
    let run = &row.run;
    let class = serde_json::to_value(run.class).unwrap_or_default();
    let backfill = match run.cause {
        Cause::Backfill { id, .. } => Some(id.to_string()),
        _ => None,
    };
    execute(
        connection,
        "insert into runs (id, project, workflow, class, state, finished, interval_start, interval_end, created_at,
                           started_at, ended_at, bundle, version, unique_key, data, dormant, backfill, target)
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)
         on conflict (id) do update set state = excluded.state, finished = excluded.finished,
           started_at = excluded.started_at, ended_at = excluded.ended_at, data = excluded.data,
           dormant = excluded.dormant",
        params![
            run.id.to_string(),
            run.project.as_str(),
            run.workflow.as_str(),
            class.as_str(),
            row.state,
            run.state().is_final(),
            run.interval.start.0,
            run.interval.end.0,
            run.created_at.0,
            micros(run.started_at),
            micros(run.ended_at),
            run.bundle.to_string(),
            run.version.to_string(),
            row.unique_key,
            encode(run)?,
            run.pending == Some(Pending::Backfill),
            backfill,
            run.target.as_ref().map_or("", |target| target.name.as_str()),
        ],
    )
}

fn put_target(connection: &Connection, project: &ProjectName, target: &Target) -> Result<(), StoreError> {
    execute(
        connection,
        "insert into targets (project, name, prefix, data) values (?1, ?2, ?3, ?4)
         on conflict (project, name) do update set prefix = excluded.prefix, data = excluded.data",
        params![
            project.as_str(),
            target.name.as_str(),
            target.prefix.as_ref().map_or("", Prefix::as_str),
            encode(target)?
        ],
    )
}

/// A target as columns name it.
pub(super) fn target_column(target: Option<&TargetName>) -> &str {
    target.map_or("", TargetName::as_str)
}

fn task(connection: &Connection, row: &TaskRow) -> Result<(), StoreError> {
    let task = &row.task;
    execute(
        connection,
        "insert into tasks (run, job, instance, ix, position, state, ending, generation, epoch, attempts, bundle, version, data)
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
         on conflict (run, job, instance) do update set ix = excluded.ix, position = excluded.position,
           state = excluded.state, ending = excluded.ending, generation = excluded.generation, epoch = excluded.epoch,
           attempts = excluded.attempts, bundle = excluded.bundle, version = excluded.version, data = excluded.data",
        params![
            row.run.to_string(),
            task.job.as_str(),
            row.instance,
            row.ix,
            task.position.name(),
            task.state_name(),
            task.ending.map(pinrail_model::run::Ending::name),
            task.generation,
            task.epoch.cast_signed(),
            task.attempts.len() as i64,
            task.bundle.to_string(),
            task.version.to_string(),
            encode(task)?,
        ],
    )
}

fn attempt(connection: &Connection, row: &AttemptRow) -> Result<(), StoreError> {
    let attempt = &row.attempt;
    execute(
        connection,
        "insert into attempts (id, run, project, job, instance, number, generation, epoch, executor, state, fault,
                               started_at, ended_at, data)
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
         on conflict (id) do update set epoch = excluded.epoch, state = excluded.state, fault = excluded.fault,
           ended_at = excluded.ended_at, data = excluded.data",
        params![
            attempt.id.to_string(),
            row.run.to_string(),
            row.project.as_str(),
            row.job.as_str(),
            row.instance,
            attempt.number,
            attempt.generation,
            row.epoch.cast_signed(),
            attempt.executor.name(),
            attempt_state(attempt),
            attempt_fault(attempt).map(pinrail_model::fault::Fault::name),
            attempt.started_at.0,
            micros(attempt.ended_at),
            encode(attempt)?,
        ],
    )?;
    for (seq, phase) in attempt.phases.iter().enumerate() {
        let state = serde_json::to_value(phase.state).unwrap_or_default();
        execute(
            connection,
            "insert into phases (attempt, seq, name, state, started_at, ended_at) values (?1, ?2, ?3, ?4, ?5, ?6)
             on conflict (attempt, seq) do update set state = excluded.state, ended_at = excluded.ended_at",
            params![
                attempt.id.to_string(),
                seq as i64,
                phase.name.name(),
                state.as_str(),
                phase.started_at.0,
                micros(phase.ended_at)
            ],
        )?;
    }
    Ok(())
}

fn counters(connection: &Connection, rows: &[CounterRow]) -> Result<(), StoreError> {
    for row in rows {
        execute(
            connection,
            "insert into counters (attempt, grp, name, run, value, unit) values (?1, ?2, ?3, ?4, ?5, ?6)
             on conflict (attempt, grp, name) do update set value = excluded.value, unit = excluded.unit",
            params![row.attempt.to_string(), row.group, row.name, row.run.to_string(), row.value, row.unit],
        )?;
    }
    Ok(())
}

fn version(connection: &Connection, row: &VersionRow) -> Result<(), StoreError> {
    execute(
        connection,
        "insert into versions (project, workflow, version, bundle, document, created_at) values (?1, ?2, ?3, ?4, ?5, ?6)
         on conflict do nothing",
        params![
            row.project.as_str(),
            row.workflow.as_str(),
            row.version.to_string(),
            row.bundle.to_string(),
            row.document.to_string(),
            row.created_at.0
        ],
    )
}

/// Status 0 stands for no reply yet; a reply is written once.
fn idempotency(connection: &Connection, row: &IdempotencyRow) -> Result<(), StoreError> {
    let (status, body) = row.reply.as_ref().map_or((0, ""), |reply| (reply.status, reply.body.as_str()));
    execute(
        connection,
        "insert into idempotency (principal, key, request, status, body, at) values (?1, ?2, ?3, ?4, ?5, ?6)
         on conflict (principal, key) do update set status = excluded.status, body = excluded.body
         where status = 0 and request = excluded.request",
        params![row.principal, row.key, row.request.to_string(), status, body, row.at.0],
    )
}

fn token(connection: &Connection, row: &TokenRow) -> Result<(), StoreError> {
    execute(
        connection,
        "insert into tokens (id, name, hash, project, role, created_at, expires_at, revoked_at)
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) on conflict (id) do nothing",
        params![
            row.id.to_string(),
            row.name,
            row.hash.to_string(),
            row.project.as_ref().map(|project| project.as_str()),
            row.role,
            row.created_at.0,
            micros(row.expires_at),
            micros(row.revoked_at)
        ],
    )
}

/// Appends a line of history; a line that is there already stays.
pub(super) fn event(connection: &Connection, row: &EventRow) -> Result<(), StoreError> {
    execute(
        connection,
        "insert into events (run, seq, at, kind, job, data) values (?1, ?2, ?3, ?4, ?5, ?6) on conflict do nothing",
        params![
            row.run.to_string(),
            row.seq.cast_signed(),
            row.at.0,
            row.kind,
            row.job.as_ref().map(|job| job.as_str()),
            row.data.to_string()
        ],
    )
}
