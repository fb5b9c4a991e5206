//! Files that nothing names are found, and no other.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pinrail_model::seam::lake::{Catalog, View};
use pinrail_model::time::Micros;

use crate::support::{Bench, attempt_of, head, json};

/// Later than every file.
const LATER: Micros = Micros(i64::MAX);

fn files_below(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.insert(entry.path());
        }
    }
    found
}

async fn orphans(b: &Bench, before: Micros) -> BTreeSet<PathBuf> {
    b.lake.orphans(before).await.unwrap().into_iter().collect()
}

fn folder_of(b: &Bench, table: &str) -> PathBuf {
    let location = b.pointers.location(table).unwrap();
    Path::new(location.strip_prefix("file://").unwrap()).parent().unwrap().parent().unwrap().to_owned()
}

async fn staged(b: &Bench, view: &View, text: &str) -> BTreeSet<PathBuf> {
    let before = files_below(&b.warehouse());
    b.rows_of(view, text).await;
    files_below(&b.warehouse()).difference(&before).cloned().collect()
}

#[tokio::test]
async fn what_nothing_names_is_found_and_what_anything_names_is_not() {
    let b = Bench::default();
    // Snapshots of the past, a table that was made anew, and one that was dropped keep their files.
    b.rows("create table t (x int) partitioned by (x); insert into t values (1), (2); insert overwrite t values (3)")
        .await;
    b.rows("create or replace table t as select 4 as y").await;
    b.rows("create table gone as select 1 as x; drop table gone").await;
    for x in 0..5 {
        b.rows(&format!("insert into t values ({x})")).await;
    }
    assert_eq!(orphans(&b, LATER).await, BTreeSet::new());
    let data = folder_of(&b, "main.t").join("data");
    let planted = [data.join("0123456789ab.parquet"), folder_of(&b, "main.t").join("metadata/snap-1-m0.avro")];
    planted.iter().for_each(|path| std::fs::write(path, "never committed").unwrap());
    // What does not lie where tables have their files is not looked at.
    std::fs::write(b.warehouse().join("former-roots"), "").unwrap();
    std::fs::write(data.join("../notes.txt"), "mine").unwrap();
    assert_eq!(orphans(&b, LATER).await, BTreeSet::from(planted.clone()));

    let (live, dead) = (b.attempt(Vec::new()), b.attempt(Vec::new()));
    let kept =
        staged(&b, &live, "insert into t values (10); insert into t values (11); create table of_live (x int)").await;
    let lost = staged(&b, &dead, "insert into t values (20); create table of_dead as select 1 as x").await;
    assert!(kept.len() > 4 && lost.len() > 4);
    assert_eq!(orphans(&b, LATER).await, BTreeSet::from(planted.clone()), "overlays name their files");
    b.pointers.discard(attempt_of(&dead));
    let found = orphans(&b, LATER).await;
    assert_eq!(found, lost.iter().chain(&planted).cloned().collect());

    found.iter().for_each(|path| std::fs::remove_file(path).unwrap());
    b.publish(&live).await.unwrap();
    assert_eq!(b.rows("select count(*), max(y) from t").await, json("[[8,11]]"));
    let now_garbage = orphans(&b, LATER).await;
    let of_data: Vec<_> = now_garbage.iter().filter(|path| path.parent().unwrap().ends_with("data")).collect();
    assert!(of_data.is_empty(), "{of_data:?}");
}

#[tokio::test]
async fn only_what_is_old_enough_is_found() {
    let b = Bench::default();
    b.rows("create table t as select 1 as x").await;
    let data = folder_of(&b, "main.t").join("data");
    let day = |day: u64| UNIX_EPOCH + Duration::from_secs(day * 24 * 60 * 60);
    let plant = |name: &str, at: SystemTime| {
        std::fs::write(data.join(name), "x").unwrap();
        std::fs::File::options().write(true).open(data.join(name)).unwrap().set_modified(at).unwrap();
    };
    plant("old.parquet", day(9));
    plant("young.parquet", day(11));
    let before = Micros(10 * 24 * 60 * 60 * 1_000_000);
    assert_eq!(orphans(&b, before).await, BTreeSet::from([data.join("old.parquet")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_running_statement_has_written_is_not_found() {
    let b = Arc::new(Bench::default());
    b.rows("create table t (x int)").await;
    let (found, other, handle) = (Arc::new(Mutex::new(None)), Arc::clone(&b), tokio::runtime::Handle::current());
    let seen = Arc::clone(&found);
    // At this moment everything is written and nothing is named.
    b.pointers.on_commit(move || {
        let look = async { (orphans(&other, LATER).await, files_below(&other.warehouse()).len()) };
        *seen.lock().unwrap() = Some(tokio::task::block_in_place(|| handle.block_on(look)));
    });
    let before = files_below(&b.warehouse()).len();
    b.rows_of(&head(), "insert into t values (1)").await;
    let (orphans, files) = found.lock().unwrap().take().unwrap();
    assert!(files > before);
    assert_eq!(orphans, BTreeSet::new());
}
