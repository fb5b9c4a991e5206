//! Forgetting by age. Old runs are looked for by a reader, so that the writer only deletes, and never for long.
//!
//! Ids begin with the time at which they were made. What ended before a time was made before it, so a range of ids holds
//! all that is old, and nothing else has to be looked at.

use pinrail_model::ids::{CommandId, RunId, TransitionId};
use pinrail_model::seam::store::{Forget, StoreError};
use pinrail_model::time::Micros;
use rusqlite::{Connection, OptionalExtension, Params, params};

use super::failed;

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
        Forget::Idempotency | Forget::Commands | Forget::Transitions | Forget::Tokens | Forget::AdHocs => None,
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
    let mut statement = connection.prepare_cached(&sql).map_err(failed)?;
    let ids = statement.query_map(params![first, before.0, most], |row| row.get(0));
    ids.and_then(Iterator::collect).map(Some).map_err(failed)
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
        Forget::Idempotency | Forget::Commands | Forget::Transitions | Forget::Tokens | Forget::AdHocs => &[],
    };
    let mut count = 0;
    for run in runs {
        let old: Option<i64> = connection
            .prepare_cached("select 1 from runs where id = ?1 and finished = 1 and ended_at < ?2")
            .and_then(|mut s| s.query_row(params![run, before.0], |row| row.get(0)).optional())
            .map_err(failed)?;
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
            "delete from queries where id in (select id from queries where created_at < ?1 limit ?2)",
            params![before.0, most],
        ),
        Forget::Runs | Forget::Events | Forget::Counters | Forget::Files => Ok(0),
    }
}

fn delete(connection: &Connection, sql: &str, params: impl Params) -> Result<u64, StoreError> {
    let deleted = connection.prepare_cached(sql).and_then(|mut statement| statement.execute(params));
    deleted.map(|rows| rows as u64).map_err(failed)
}
