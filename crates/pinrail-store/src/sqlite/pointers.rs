//! Table pointers: the head, the history that gives attempts a consistent view, overlays, publications.

use async_trait::async_trait;
use pinrail_model::ids::{AttemptId, TableId};
use pinrail_model::names::{ProjectName, TableRef};
use pinrail_model::seam::lake::{Overlay, Pointer, PointerError, PointerSwap, Pointers};
use pinrail_model::seam::store::{Publication, Reply, StoreError};
use pinrail_model::target::Place;
use pinrail_model::time::Micros;
use rusqlite::{Connection, Row, params};

use super::read::{all, one};
use super::rows::execute;
use super::writer::{Order, holds};
use super::{SqliteStore, broken, failed, prepare};

#[async_trait]
impl Pointers for SqliteStore {
    async fn head(&self, project: &ProjectName) -> Result<u64, PointerError> {
        let project = project.clone();
        self.reading(move |connection| head(connection, &project)).await.map_err(unreadable)
    }

    async fn find(&self, place: &Place, table: &TableRef, at: Option<u64>) -> Result<Option<Pointer>, PointerError> {
        let (place, table) = (place.clone(), table.clone());
        self.reading(move |connection| find(connection, &place, &table, at)).await.map_err(unreadable)
    }

    async fn list(&self, place: &Place, at: Option<u64>) -> Result<Vec<Pointer>, PointerError> {
        let place = place.clone();
        self.reading(move |connection| list(connection, &place, at)).await.map_err(unreadable)
    }

    async fn overlays(&self, attempt: AttemptId) -> Result<Vec<Overlay>, PointerError> {
        self.reading(move |connection| {
            let sql = "select body from overlays where attempt = ?1 order by namespace, name";
            let bodies: Vec<String> = all(connection, sql, [attempt.to_string()], |row| row.get(0))?;
            bodies.iter().map(|body| serde_json::from_str(body).map_err(|e| broken("an overlay", e))).collect()
        })
        .await
        .map_err(unreadable)
    }

    async fn stage(&self, epoch: u64, overlay: Overlay) -> Result<(), PointerError> {
        let overlay = Box::new(overlay);
        self.ordered(|answer| Order::Stage { epoch, overlay, answer }).await.map_err(unreadable)?
    }

    async fn swap(&self, place: &Place, swaps: Vec<PointerSwap>) -> Result<(), PointerError> {
        let place = place.clone();
        self.ordered(|answer| Order::Swap { place, swaps, answer }).await.map_err(unreadable)?
    }

    async fn named(&self) -> Result<Vec<(TableId, String)>, PointerError> {
        self.reading(named).await.map_err(unreadable)
    }
}

fn unreadable(error: StoreError) -> PointerError {
    PointerError::Failed(error.to_string())
}

fn head(connection: &Connection, project: &ProjectName) -> Result<u64, StoreError> {
    let sql = "select seq from catalogs where project = ?1";
    let seq: Option<i64> = one(connection, sql, [project.as_str()], |row| row.get(0))?;
    Ok(seq.unwrap_or(0).cast_unsigned())
}

fn find(
    connection: &Connection,
    place: &Place,
    table: &TableRef,
    at: Option<u64>,
) -> Result<Option<Pointer>, StoreError> {
    let key = (place.project.as_str(), place.stored(&table.namespace), table.name.as_str());
    let found = match at {
        None => one(
            connection,
            "select namespace, name, id, location from tables where project = ?1 and namespace = ?2 and name = ?3",
            params![key.0, key.1, key.2],
            pointer_row,
        )?,
        Some(at) => one(
            connection,
            "select namespace, name, id, location from table_history
              where project = ?1 and namespace = ?2 and name = ?3 and from_seq <= ?4
              order by from_seq desc limit 1",
            params![key.0, key.1, key.2, at.cast_signed()],
            pointer_row,
        )?,
    };
    Ok(found.flatten().map(|raw| pointer(place, raw)).transpose()?.flatten())
}

fn list(connection: &Connection, place: &Place, at: Option<u64>) -> Result<Vec<Pointer>, StoreError> {
    let project = place.project.as_str();
    let rows = match at {
        None => {
            let sql = "select namespace, name, id, location from tables where project = ?1 order by 1, 2";
            all(connection, sql, [project], pointer_row)?
        }
        // With `max`, SQLite gives the other columns from the row that has it.
        Some(at) => all(
            connection,
            "select namespace, name, id, location, max(from_seq) from table_history
              where project = ?1 and from_seq <= ?2 group by namespace, name order by 1, 2",
            params![project, at.cast_signed()],
            pointer_row,
        )?,
    };
    rows.into_iter().flatten().filter_map(|raw| pointer(place, raw).transpose()).collect()
}

/// History and overlays are read by one statement, because what a publication moves from one to the other must not be
/// missed in between. Every current pointer is in the history.
fn named(connection: &Connection) -> Result<Vec<(TableId, String)>, StoreError> {
    let mut statement = connection
        .prepare_cached(
            "select id, location, from_seq as age from table_history where location is not null
              union all
             select body ->> '$.id', body ->> '$.base', 0 from overlays where body ->> '$.base' is not null
              union all
             select body ->> '$.id', body ->> '$.staged', 9223372036854775807 from overlays
              where body ->> '$.staged' is not null
              order by 1, 3",
        )
        .map_err(failed)?;
    let rows: Vec<(String, String)> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).and_then(Iterator::collect).map_err(failed)?;
    let parsed =
        rows.into_iter().map(|(id, location)| Ok((id.parse().map_err(|e| broken("a table id", e))?, location)));
    parsed.collect()
}

type Raw = (String, String, String, String);

fn pointer_row(row: &Row<'_>) -> rusqlite::Result<Option<Raw>> {
    let location: Option<String> = row.get(3)?;
    let (namespace, name, id) = (row.get(0)?, row.get(1)?, row.get(2)?);
    Ok(location.map(|location| (namespace, name, id, location)))
}

/// A row as a pointer of its place; none when it is another target's.
fn pointer(place: &Place, (stored, name, id, location): Raw) -> Result<Option<Pointer>, StoreError> {
    let Some(namespace) = place.written(&stored) else { return Ok(None) };
    let table = TableRef {
        namespace: namespace.parse().map_err(|e| broken("a namespace", e))?,
        name: name.parse().map_err(|e| broken("a table name", e))?,
    };
    Ok(Some(Pointer { id: id.parse().map_err(|e| broken("a table id", e))?, table, location }))
}

/// Adds or replaces an overlay if its attempt is still the owner's.
pub(super) fn stage(connection: &Connection, epoch: u64, overlay: &Overlay) -> Result<(), PointerError> {
    if !holds(connection, overlay.attempt, epoch).map_err(unreadable)? {
        return Err(PointerError::Fenced);
    }
    let body = serde_json::to_string(overlay).map_err(|e| PointerError::Failed(e.to_string()))?;
    let table = &overlay.table;
    execute(
        connection,
        "insert into overlays (attempt, namespace, name, body) values (?1, ?2, ?3, ?4)
         on conflict (attempt, namespace, name) do update set body = excluded.body",
        params![overlay.attempt.to_string(), table.namespace.as_str(), table.name.as_str(), body],
    )
    .map_err(unreadable)
}

/// The first table whose pointer is not where the swaps expect it.
pub(super) fn moved(
    connection: &Connection,
    place: &Place,
    swaps: &[PointerSwap],
) -> Result<Option<TableRef>, StoreError> {
    for swap in swaps {
        let found = find(connection, place, &swap.table, None)?;
        if found.as_ref().map(|pointer| &pointer.location) != swap.expect.as_ref() {
            return Ok(Some(swap.table.clone()));
        }
    }
    Ok(None)
}

/// Swaps all pointers under one new catalog sequence. None of them has moved.
pub(super) fn swap_all(
    connection: &Connection,
    place: &Place,
    swaps: &[PointerSwap],
    at: Option<Micros>,
) -> Result<u64, StoreError> {
    let sql = "insert into catalogs (project, seq) values (?1, 1)
               on conflict (project) do update set seq = seq + 1 returning seq";
    let seq: i64 = prepare(connection, sql)?.query_row([place.project.as_str()], |row| row.get(0)).map_err(failed)?;
    for swap in swaps {
        put(connection, place, swap, seq, at)?;
    }
    Ok(seq.cast_unsigned())
}

fn put(
    connection: &Connection,
    place: &Place,
    swap: &PointerSwap,
    seq: i64,
    at: Option<Micros>,
) -> Result<(), StoreError> {
    let (namespace, name, id) = (place.stored(&swap.table.namespace), swap.table.name.as_str(), swap.id.to_string());
    let project = place.project.as_str();
    match &swap.new {
        Some(location) => execute(
            connection,
            "insert into tables (project, namespace, name, id, location) values (?1, ?2, ?3, ?4, ?5)
             on conflict (project, namespace, name) do update set id = excluded.id, location = excluded.location",
            params![project, namespace, name, id, location],
        )?,
        None => execute(
            connection,
            "delete from tables where project = ?1 and namespace = ?2 and name = ?3",
            params![project, namespace, name],
        )?,
    }
    execute(
        connection,
        "insert into table_history (project, namespace, name, from_seq, id, location, at)
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         on conflict (project, namespace, name, from_seq) do update
         set id = excluded.id, location = excluded.location, at = excluded.at",
        params![project, namespace, name, seq, id, swap.new, at.map(|at| at.0)],
    )
}

/// Why a publication cannot be: a pointer has moved, or there was one for its task and generation.
pub(super) fn refusal(connection: &Connection, publication: &Publication) -> Result<Option<Reply>, StoreError> {
    if let Some(table) = moved(connection, &publication.place, &publication.swaps)? {
        return Ok(Some(Reply::Conflict(table)));
    }
    let earlier: Option<i64> = one(
        connection,
        "select 1 from publications where run = ?1 and job = ?2 and instance = ?3 and generation = ?4",
        params![publication.run.to_string(), publication.job.as_str(), publication.instance, publication.generation],
        |row| row.get(0),
    )?;
    Ok(earlier.map(|_| Reply::Fenced))
}

/// Makes an attempt's tables true, once per task and generation.
pub(super) fn publish(connection: &Connection, publication: &Publication) -> Result<(), StoreError> {
    let seq = if publication.swaps.is_empty() {
        head(connection, &publication.place.project)?
    } else {
        swap_all(connection, &publication.place, &publication.swaps, Some(publication.at))?
    };
    execute(
        connection,
        "insert into publications (run, job, instance, generation, attempt, project, catalog_seq, at)
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            publication.run.to_string(),
            publication.job.as_str(),
            publication.instance,
            publication.generation,
            publication.attempt.to_string(),
            publication.place.project.as_str(),
            seq.cast_signed(),
            publication.at.0,
        ],
    )?;
    execute(connection, "delete from overlays where attempt = ?1", [publication.attempt.to_string()])
}
