//! Looks at how SQLite carries out each statement that the conformance suite makes the store prepare: none may scan a
//! table that grows with use.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use pinrail_model::seam::store::Store;
use rusqlite::types::Null;
use rusqlite::{Connection, params_from_iter};

use super::{SqliteStore, migrate};

static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Notes a statement.
pub(super) fn seen(sql: &str) {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner).insert(sql.to_owned());
}

/// Tables that hold a row for each thing that people set up by hand.
const SMALL: &[&str] = &["projects", "catalogs", "triggers", "active", "targets", "holds", "limits"];

/// Statements that may look at everything: what they begin with, and why.
const WHOLE: &[(&str, &str)] = &[
    ("select data, state from runs  where 1 order by id desc limit", "it walks the key and ends early"),
    ("select id, name, hash, project, role, created_at, expires_at, revoked_at from tokens order", "people list them"),
    ("select id, name, hash, project, role, created_at, expires_at, revoked_at from tokens\n", "people list them"),
    ("delete from tokens", "retention asks for it, once an hour"),
    ("select a.job, cast(avg(", "it goes through the few runs that it has just found"),
    ("select id, key, channel, state, tries, min(due_at)", "it walks what is not delivered yet"),
    ("select u.namespace, u.name", "it goes through the few rows that it has just found"),
    ("select b.project, b.sha from bundles b", "retention asks for it, once an hour"),
    ("select f.value ->> 'sha' from bundles", "retention asks for it, once an hour"),
    ("select id, project, nullif(target", "system.runs is asked for as a whole"),
    ("select t.run, r.project, t.job", "system.tasks is asked for as a whole"),
    ("select id, run, project, job, cast(", "system.attempts is asked for as a whole"),
    ("select c.attempt, c.run, c.grp", "system.counters is asked for as a whole"),
];

/// The tables that a statement scans, by the names that it gives them.
fn scanned(connection: &Connection, sql: &str) -> Vec<String> {
    let mut statement = connection.prepare(&format!("explain query plan {sql}")).unwrap();
    // The planner does not look at the values.
    let values = vec![Null; statement.parameter_count()];
    let rows = statement.query_map(params_from_iter(values), |row| row.get(3)).unwrap();
    let steps: Vec<String> = rows.map(Result::unwrap).collect();
    let scan = |step: &String| {
        let table = step.strip_prefix("SCAN ")?.split(' ').next()?;
        let made = step.contains("VIRTUAL TABLE") || table == "CONSTANT" || table.starts_with('(');
        let unfinished = ["runs_unfinished", "runs_awake", "backfills_unfinished"]
            .iter()
            .any(|index| step.ends_with(&format!("USING INDEX {index}")));
        (!made && !unfinished && !SMALL.contains(&table)).then(|| step.clone())
    };
    steps.iter().filter_map(scan).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_statement_scans_a_table_that_grows() {
    let folder = tempfile::tempdir().unwrap();
    let serial = std::sync::atomic::AtomicU32::new(0);
    pinrail_testkit::conformance::all(|| {
        let n = serial.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = folder.path().join(n.to_string());
        async move {
            std::fs::create_dir(&path).unwrap();
            Arc::new(SqliteStore::open(&path).unwrap()) as Arc<dyn Store>
        }
    })
    .await;
    let mut connection = Connection::open_in_memory().unwrap();
    migrate::migrate(&mut connection, Path::new("x")).unwrap();
    let statements = SEEN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut scans = Vec::new();
    for sql in &statements {
        let whole = WHOLE.iter().any(|(beginning, _)| sql.starts_with(beginning));
        let found = scanned(&connection, sql);
        if !found.is_empty() && !whole {
            scans.push(format!("{found:?} in {sql}"));
        }
    }
    assert!(scans.is_empty(), "{}", scans.join("\n"));
    for (beginning, why) in WHOLE {
        let known = |sql: &String| sql.starts_with(beginning) && !scanned(&connection, sql).is_empty();
        assert!(statements.iter().any(known), "no statement that scans begins with {beginning:?} ({why})");
    }
}
