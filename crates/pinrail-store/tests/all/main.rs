//! The conformance suite over SQLite, and what only a file can show.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use pinrail_model::ids::{AttemptId, RunId, TransitionId};
use pinrail_model::seam::store::{
    Answer, Durability, ProjectRow, Publication, Query, Reply, Store, StoreError, Transition, Who, Write,
};
use pinrail_model::target::Place;
use pinrail_model::time::Micros;
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

fn project(name: &str) -> Write {
    Write::Project(ProjectRow { name: name.parse().unwrap(), folder: None, created_at: Micros(0) })
}

async fn projects(store: &SqliteStore) -> Vec<String> {
    match store.read(&Who::default(), Query::Projects).await.unwrap() {
        Answer::Projects(rows) => rows.into_iter().map(|row| row.name.to_string()).collect(),
        other => panic!("{other:?}"),
    }
}

/// A store in which the project `bad` cannot be written, in the way that is given.
fn refusing(folder: &std::path::Path, how: &str) -> SqliteStore {
    let store = SqliteStore::open(folder).unwrap();
    let connection = rusqlite::Connection::open(folder.join("state.db")).unwrap();
    let trigger = format!(
        "create trigger refuse before insert on projects when new.name = 'bad' begin select raise({how}, 'as told'); end"
    );
    connection.execute_batch(&trigger).unwrap();
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_in_the_middle_leaves_nothing_and_others_are_not_concerned() {
    let folder = tempfile::tempdir().unwrap();
    let store = refusing(folder.path(), "abort");
    let commit = |names: &[(u128, &str)]| {
        let transition =
            |(n, name): &(u128, &str)| Transition::new(TransitionId::from_parts(1, *n), vec![project(name)]);
        store.commit(names.iter().map(transition).collect(), Durability::Waited)
    };
    let (failed, other) = tokio::join!(commit(&[(1, "one"), (2, "bad"), (3, "three")]), commit(&[(4, "four")]));
    assert!(matches!(&failed, Err(StoreError::Failed(why)) if why.contains("as told")), "{failed:?}");
    assert_eq!(other, Ok(vec![Reply::Committed]));
    assert_eq!(projects(&store).await, ["four"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_takes_back_as_a_whole_is_not_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let store = refusing(folder.path(), "rollback");
    let commit = async |n: u128, name: String| {
        let transition = Transition::new(TransitionId::from_parts(1, n), vec![project(&name)]);
        let answer = store.commit(vec![transition], Durability::Waited).await;
        (name, answer)
    };
    // They share transactions, however they fall.
    let names = (0..40).map(|n| if n == 9 { "bad".to_owned() } else { format!("p{n:02}") });
    let answers = futures::future::join_all((1..).zip(names).map(|(n, name)| commit(n, name))).await;
    let mut committed = Vec::new();
    for (name, answer) in answers {
        match answer {
            Ok(replies) => {
                assert_eq!(replies, [Reply::Committed], "{name}");
                committed.push(name);
            }
            Err(error) => assert!(matches!(error, StoreError::Failed(_)), "{name}: {error}"),
        }
    }
    assert!(!committed.contains(&"bad".to_owned()));
    assert_eq!(projects(&store).await, committed, "whoever was told of a failure has left nothing");
    assert_eq!(commit(99, "later".to_owned()).await.1, Ok(vec![Reply::Committed]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_or_an_answer_that_cannot_be_read_is_not_taken_for_none() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path()).unwrap();
    store.lease("one").await.unwrap();
    let publication = Publication {
        place: Place::plain("p".parse().unwrap()),
        attempt: AttemptId::from_parts(1, 1),
        run: RunId::from_parts(1, 1),
        job: "a".parse().unwrap(),
        instance: String::new(),
        generation: 1,
        at: Micros(1),
        swaps: Vec::new(),
    };
    let id = TransitionId::from_parts(1, 1);
    let publish = Transition { publications: vec![publication], ..Transition::new(id, Vec::new()) };
    let connection = rusqlite::Connection::open(folder.path().join("state.db")).unwrap();
    connection.execute("update meta set value = 'one' where key = 'shard-epoch'", []).unwrap();
    connection.execute("insert into transitions (id, reply) values (?1, 'yes')", [id.to_string()]).unwrap();
    assert!(store.lease("two").await.is_err());
    assert!(store.commit(vec![publish], Durability::Waited).await.is_err());
    assert!(store.resolve(id).await.is_err());
}
