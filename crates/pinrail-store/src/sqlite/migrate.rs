//! Forward-only migrations, counted in `user_version`.

use std::io::{ErrorKind, Read};
use std::path::Path;

use pinrail_model::seam::store::StoreError;
use rusqlite::Connection;

use super::failed;

/// In order; what has been released is never edited.
const MIGRATIONS: &[&str] = &[
    include_str!("../../migrations/0001_start.sql"),
    include_str!("../../migrations/0002_retention.sql"),
    include_str!("../../migrations/0003_explain.sql"),
    include_str!("../../migrations/0004_indexes.sql"),
    include_str!("../../migrations/0005_notices.sql"),
    include_str!("../../migrations/0006_orchestration.sql"),
    include_str!("../../migrations/0007_targets.sql"),
];

/// The schema that this version writes.
pub(super) const KNOWN: i64 = MIGRATIONS.len() as i64;

/// The schema of a database, as it was last migrated.
pub(super) fn found(connection: &Connection) -> Result<i64, StoreError> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)
}

/// Brings the database to the current schema; one of a later version is left untouched.
pub(super) fn migrate(connection: &mut Connection, folder: &Path) -> Result<(), StoreError> {
    let found = found(connection)?;
    if found > KNOWN {
        return Err(StoreError::Newer { folder: folder.display().to_string(), found, known: KNOWN });
    }
    let old = found < KNOWN;
    for (at, migration) in MIGRATIONS.iter().enumerate().skip(usize::try_from(found).unwrap_or(0)) {
        let transaction = connection.transaction().map_err(failed)?;
        transaction.execute_batch(migration).map_err(failed)?;
        transaction.pragma_update(None, "user_version", at as i64 + 1).map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    if old {
        // Into the file itself, where an older version looks before it touches anything.
        connection.query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(())).map_err(failed)?;
    }
    Ok(())
}

/// Refuses a database of a later version by its header alone: opening it would already write beside it, or take its log
/// into it. No file is no database yet.
pub(super) fn check_header(database: &Path, folder: &Path) -> Result<(), StoreError> {
    let mut header = [0; 64];
    let read = std::fs::File::open(database).and_then(|mut file| file.read_exact(&mut header));
    match read {
        Ok(()) => {}
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof) => return Ok(()),
        Err(error) => return Err(StoreError::Failed(format!("\"{}\" cannot be read: {error}", database.display()))),
    }
    // The format keeps `user_version` here, most significant byte first.
    let found = i64::from(i32::from_be_bytes([header[60], header[61], header[62], header[63]]));
    if found > KNOWN {
        return Err(StoreError::Newer { folder: folder.display().to_string(), found, known: KNOWN });
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_schema_is_what_the_migrations_give() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, Path::new("x")).unwrap();
        let mut statement = connection
            .prepare("select sql from sqlite_schema where sql is not null and name not like 'sqlite_%' order by type desc, name")
            .unwrap();
        let rows: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let dump = rows.join(";\n\n") + ";\n";
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema.sql");
        if std::env::var_os("PINRAIL_UPDATE").is_some() {
            std::fs::write(&file, &dump).unwrap();
        }
        assert!(
            std::fs::read_to_string(&file).unwrap_or_default() == dump,
            "schema.sql is not current; run PINRAIL_UPDATE=1 cargo test -p pinrail-store"
        );
    }

    #[test]
    fn a_newer_database_is_refused_and_left_alone() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        let error = migrate(&mut connection, Path::new("/s")).unwrap_err();
        assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error}");
        let tables: i64 = connection.query_row("select count(*) from sqlite_schema", [], |row| row.get(0)).unwrap();
        assert_eq!(tables, 0);
    }
}
