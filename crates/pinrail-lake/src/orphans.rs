//! Files of the warehouse that nothing names: what a statement wrote whose attempt ended otherwise, or whose process died
//! between writing and committing.
//!
//! Not responsible for deleting them, nor for snapshots that are too old: whatever metadata names stays.
//!
//! Invariants: a file that is found was written before the given time and is named by no metadata file of any pointer,
//! present or past, nor of any overlay, and no statement that runs now has written it. It is looked in this order: files
//! first, then what runs, then what is named. So what a statement finishes meanwhile is seen in one place or the other.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use pinrail_model::ids::TableId;
use pinrail_model::time::Micros;

use crate::catalog::Book;
use crate::error::{self, Result};
use crate::store::blocking;

/// The folders of a table's files.
const FOLDERS: [&str; 2] = ["data", "metadata"];

/// The files that were last written before a time and that nothing names.
pub(crate) async fn find(book: &Book, before: Micros) -> Result<Vec<PathBuf>> {
    let root = book.store().root().to_owned();
    let old = blocking(move || written_before(&root, before)).await;
    let old = old.map_err(|e| error::from_io("the warehouse could not be listed", &e))?;
    if old.is_empty() {
        return Ok(Vec::new());
    }
    let being_written = book.store().being_written();
    let mut named: HashMap<TableId, Vec<String>> = HashMap::new();
    for (id, location) in book.pointers.named().await? {
        named.entry(id).or_default().push(location);
    }
    let mut orphans = Vec::new();
    for (id, mut files) in old {
        files.retain(|file| !being_written.contains(file));
        let locations = named.remove(&id).unwrap_or_default();
        // What cannot be read cannot be said to be named by nothing.
        match strike_named(book, &locations, &mut files).await {
            Ok(()) => orphans.extend(files),
            Err(error) => tracing::warn!(table = %id, %error, "orphans of a table cannot be told from its files"),
        }
    }
    Ok(orphans)
}

/// Old files by table. Whatever does not lie where the lake puts files is not its to judge.
fn written_before(root: &Path, before: Micros) -> io::Result<BTreeMap<TableId, BTreeSet<PathBuf>>> {
    let mut found: BTreeMap<TableId, BTreeSet<PathBuf>> = BTreeMap::new();
    for project in folders(root)? {
        for table in folders(&project)? {
            let id = table.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            let Some(id) = id else { continue };
            for folder in FOLDERS.map(|folder| table.join(folder)).into_iter().filter(|folder| folder.is_dir()) {
                files_before(&folder, before, found.entry(id).or_default())?;
            }
        }
    }
    found.retain(|_, files| !files.is_empty());
    Ok(found)
}

/// Old files of a folder and of those in it: data files of an attempt have one of their own.
fn files_before(folder: &Path, before: Micros, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let written = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        if metadata.is_dir() {
            files_before(&entry.path(), before, found)?;
        } else if metadata.is_file() && i64::try_from(written).is_ok_and(|at| Micros(at) < before) {
            found.insert(entry.path());
        }
    }
    Ok(())
}

fn folders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Takes every file out that one of the metadata files names, as soon as none is left asking no more.
async fn strike_named(book: &Book, locations: &[String], files: &mut BTreeSet<PathBuf>) -> Result<()> {
    let path = |location: &str| match book.store().relative(location) {
        Ok(relative) => Ok(book.store().root().join(relative)),
        Err(e) => Err(error::from_iceberg(&e)),
    };
    for location in locations {
        files.remove(&path(location)?);
    }
    let mut seen = HashSet::new();
    // A later metadata file names nearly all that an earlier one does.
    for location in locations.iter().rev() {
        if files.is_empty() {
            return Ok(());
        }
        let metadata = book.tables.metadata(location).await?;
        for entry in metadata.metadata_log() {
            files.remove(&path(&entry.metadata_file)?);
        }
        let snapshots: Vec<_> = metadata.snapshots().cloned().collect();
        for snapshot in &snapshots {
            files.remove(&path(snapshot.manifest_list())?);
        }
        let current = metadata.current_snapshot_id();
        let mut order: Vec<_> = snapshots.iter().collect();
        order.sort_by_key(|snapshot| (Some(snapshot.snapshot_id()) != current, -snapshot.sequence_number()));
        for snapshot in order {
            if files.is_empty() {
                return Ok(());
            }
            if !seen.insert(snapshot.manifest_list().to_owned()) {
                continue;
            }
            for manifest in book.tables.manifest_list(&metadata, snapshot).await?.iter() {
                if !seen.insert(manifest.manifest_path.clone()) {
                    continue;
                }
                files.remove(&path(&manifest.manifest_path)?);
                for entry in &book.tables.manifest(manifest).await?.live {
                    files.remove(&path(entry.file_path())?);
                }
            }
        }
        for statistics in metadata.statistics_iter() {
            files.remove(&path(&statistics.statistics_path)?);
        }
        for statistics in metadata.partition_statistics_iter() {
            files.remove(&path(&statistics.statistics_path)?);
        }
    }
    Ok(())
}
