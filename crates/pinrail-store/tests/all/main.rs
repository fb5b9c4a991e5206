//! The conformance suite over SQLite, and what only a file can show.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use pinrail_model::seam::store::Store;
use pinrail_store::SqliteStore;

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_conforms() {
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
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_a_whole_database() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path()).unwrap();
    let epoch = store.lease("one").await.unwrap();
    let copy = tempfile::tempdir().unwrap();
    store.backup(copy.path().join("state.db")).await.unwrap();
    let again = SqliteStore::open(copy.path()).unwrap();
    assert_eq!(again.lease("two").await.unwrap(), epoch + 1);
}
