//! The conformance suite over SQLite, and what only a file can show.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use pinrail_model::ids::TransitionId;
use pinrail_model::seam::store::{Answer, Durability, Query, Store, Transition, Who, Write};
use pinrail_store::{SqliteStore, adopt};

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
async fn a_copy_is_a_whole_database_of_one_moment_while_writers_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(folder.path()).unwrap());
    let epoch = store.lease("one").await.unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (writer, stopped) = (Arc::clone(&store), Arc::clone(&stop));
    let writing = tokio::spawn(async move {
        let mut last = epoch;
        while !stopped.load(std::sync::atomic::Ordering::SeqCst) {
            last = writer.lease("one").await.unwrap();
        }
        last
    });
    let copy = tempfile::tempdir().unwrap();
    store.copy(copy.path().join("state.db")).await.unwrap();
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    let last = writing.await.unwrap();
    let again = SqliteStore::open(copy.path()).unwrap();
    let next = again.lease("two").await.unwrap();
    assert!((epoch + 1..=last + 1).contains(&next), "{epoch} {next} {last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_copy_is_an_installation_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path()).unwrap();
    let named = Transition::new(TransitionId::from_parts(1, 1), vec![Write::Installation("first".to_owned())]);
    store.commit(vec![named], Durability::Waited).await.unwrap();
    let copy = tempfile::tempdir().unwrap();
    store.copy(copy.path().join("state.db")).await.unwrap();
    assert!(adopt(copy.path(), "second").unwrap().secrets.is_empty());
    let files: Vec<_> = std::fs::read_dir(copy.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(files, ["state.db"], "nothing is left that belongs to its former place");
    for (store, name) in [(store, "first"), (SqliteStore::open(copy.path()).unwrap(), "second")] {
        let found = store.read(&Who::default(), Query::Installation).await.unwrap();
        assert!(matches!(found, Answer::Installation(found) if found == name));
    }
}
