//! Forgetting by age. Old runs are looked for by a reader, so that the writer only deletes, and never for long.
//!
//! Ids begin with the time at which they were made. What ended before a time was made before it, so a range of ids holds
//! all that is old, and nothing else has to be looked at.

use pinrail_model::ids::{CommandId, NoticeId, QueryId, RunId, TransitionId};
use pinrail_model::seam::store::{Forget, StoreError};
use pinrail_model::time::Micros;
use rusqlite::{Connection, Params, params};

use super::read::{all, one};
use super::{failed, prepare};

fn millis(at: Micros) -> u64 {
    u64::try_from(at.0 / 1000).unwrap_or(0)
}

/// What must be left of a run, with the run as `r`, for there to be something to forget; none for what belongs to no run.
fn left_of_a_run(what: Forget) -> Option<&'static str> {
    match what {
        Forget::Runs => Some("1"),
        // The last line stays.
        Forget::Events => Some("(select e.seq from events e where e.run = r.id limit 1 offset 1) is not null"),
        Forget::Counters => Some("exists (select 1 from counters c where c.run = r.id)"),
        Forget::Files => Some("exists (select 1 from files f where f.run = r.id)"),
        Forget::Idempotency
        | Forget::Commands
        | Forget::Transitions
        | Forget::Tokens
        | Forget::AdHocs
        | Forget::Notices
        | Forget::TableHistory => None,
    }
}

/// The oldest runs of which something is to be forgotten; none when the kind does not belong to runs.
pub(super) fn find(
    connection: &Connection,
    what: Forget,
    before: Micros,
    most: u32,
) -> Result<Option<Vec<String>>, StoreError> {
    let Some(left) = left_of_a_run(what) else { return Ok(None) };
    let sql = format!(
        "select r.id from runs r where r.id < ?1 and r.finished = 1 and r.ended_at < ?2 and {left} order by r.id limit ?3"
    );
    let first = RunId::from_parts(millis(before), 0).to_string();
    all(connection, &sql, params![first, before.0, most], |row| row.get(0)).map(Some)
}

/// What belongs to a run, the run itself last: a row without its run would never be found again.
const OF_A_RUN: &[&str] = &[
    "delete from phases where attempt in (select id from attempts where run = ?1)",
    "delete from logs where attempt in (select id from attempts where run = ?1)",
    "delete from overlays where attempt in (select id from attempts where run = ?1)",
    "delete from unpublished where attempt in (select id from attempts where run = ?1)",
    "delete from inputs where run = ?1",
    "delete from attempts where run = ?1",
    "delete from tasks where run = ?1",
    "delete from events where run = ?1",
    "delete from counters where run = ?1",
    "delete from files where run = ?1",
    "delete from publications where run = ?1",
    "delete from runs where id = ?1",
];

/// Forgets something of these runs, unless one of them was retried meanwhile; gives how many were old.
pub(super) fn of_runs(
    connection: &Connection,
    what: Forget,
    before: Micros,
    runs: &[String],
) -> Result<u64, StoreError> {
    let statements: &[&str] = match what {
        Forget::Runs => OF_A_RUN,
        Forget::Events => &["delete from events where run = ?1 and seq < (select max(seq) from events where run = ?1)"],
        Forget::Counters => &["delete from counters where run = ?1"],
        Forget::Files => &["delete from files where run = ?1"],
        Forget::Idempotency
        | Forget::Commands
        | Forget::Transitions
        | Forget::Tokens
        | Forget::AdHocs
        | Forget::Notices
        | Forget::TableHistory => &[],
    };
    let mut count = 0;
    for run in runs {
        let sql = "select 1 from runs where id = ?1 and finished = 1 and ended_at < ?2";
        let old: Option<i64> = one(connection, sql, params![run, before.0], |row| row.get(0))?;
        if old.is_some() {
            statements.iter().try_for_each(|sql| delete(connection, sql, [run]).map(|_| ()))?;
            count += 1;
        }
    }
    Ok(count)
}

/// Forgets rows that belong to no run; gives their number.
pub(super) fn rows(connection: &Connection, what: Forget, before: Micros, most: u32) -> Result<u64, StoreError> {
    match what {
        Forget::Idempotency => delete(
            connection,
            "delete from idempotency where (principal, key) in (select principal, key from idempotency where at < ?1 limit ?2)",
            params![before.0, most],
        ),
        Forget::Commands => delete(
            connection,
            "delete from commands where seq in (select seq from commands where id < ?1 and reply is not null limit ?2)",
            params![CommandId::from_parts(millis(before), 0).to_string(), most],
        ),
        Forget::Transitions => delete(
            connection,
            "delete from transitions where id in (select id from transitions where id < ?1 limit ?2)",
            params![TransitionId::from_parts(millis(before), 0).to_string(), most],
        ),
        Forget::Tokens => delete(
            connection,
            "delete from tokens where id in (select id from tokens where expires_at < ?1 or revoked_at < ?1 limit ?2)",
            params![before.0, most],
        ),
        Forget::AdHocs => delete(
            connection,
            "delete from queries where id in (select id from queries where id < ?1 limit ?2)",
            params![QueryId::from_parts(millis(before), 0).to_string(), most],
        ),
        Forget::Notices => delete(
            connection,
            "delete from notices where id in (select id from notices where id < ?1 and state <> 'pending' limit ?2)",
            params![NoticeId::from_parts(millis(before), 0).to_string(), most],
        ),
        Forget::TableHistory => table_history(connection, before, most),
        Forget::Runs | Forget::Events | Forget::Counters | Forget::Files => Ok(0),
    }
}

/// The oldest point of a project's catalog that somebody may still look at, given that nobody looks at what was no longer
/// true at a time, except the attempts of unfinished runs; none before the first mark.
fn oldest_view(connection: &Connection, project: &str, before: Micros) -> Result<Option<i64>, StoreError> {
    let sql = "select seq from catalog_marks where project = ?1 and at < ?2 order by at desc limit 1";
    let Some(marked): Option<i64> = one(connection, sql, params![project, before.0], |row| row.get(0))? else {
        return Ok(None);
    };
    let sql = "select min(a.data ->> '$.data.view') from runs r indexed by runs_unfinished cross join attempts a
                where r.finished = 0 and r.project = ?1 and a.run = r.id";
    let live: Option<i64> = one(connection, sql, [project], |row| row.get(0))?.flatten();
    Ok(Some(live.map_or(marked, |live| live.min(marked))))
}

/// Forgets what pointers were before the oldest view: of each table all but the latest row that the view sees, and that
/// one too when it says that the table was dropped.
fn table_history(connection: &Connection, before: Micros, most: u32) -> Result<u64, StoreError> {
    let sql = "select project from catalogs order by project";
    let projects: Vec<String> = all(connection, sql, [], |row| row.get(0))?;
    let mut count = 0;
    for project in projects {
        let Some(view) = oldest_view(connection, &project, before)? else { continue };
        let left = u64::from(most) - count;
        count += delete(
            connection,
            "delete from table_history where (project, namespace, name, from_seq) in (
               select h.project, h.namespace, h.name, h.from_seq from table_history h
                where h.project = ?1 and h.from_seq <= ?2
                  and exists (select 1 from table_history l where l.project = h.project and l.namespace = h.namespace
                                and l.name = h.name and l.from_seq > h.from_seq and l.from_seq <= ?2)
                limit ?3)",
            params![project, view, left.cast_signed()],
        )?;
        if count < u64::from(most) {
            // Nothing is left before these.
            count += delete(
                connection,
                "delete from table_history where (project, namespace, name, from_seq) in (
                   select h.project, h.namespace, h.name, h.from_seq from table_history h
                    where h.project = ?1 and h.from_seq <= ?2 and h.location is null limit ?3)",
                params![project, view, (u64::from(most) - count).cast_signed()],
            )?;
        }
        // The latest of the old marks is what the next call goes by; those before it have done their service.
        delete(
            connection,
            "delete from catalog_marks where project = ?1 and at < (
               select max(at) from catalog_marks where project = ?1 and at < ?2)",
            params![project, before.0],
        )?;
        if count >= u64::from(most) {
            break;
        }
    }
    Ok(count)
}

fn delete(connection: &Connection, sql: &str, params: impl Params) -> Result<u64, StoreError> {
    prepare(connection, sql)?.execute(params).map(|rows| rows as u64).map_err(failed)
}
