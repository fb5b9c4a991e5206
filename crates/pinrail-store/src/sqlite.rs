//! The store in SQLite: write-ahead log, `synchronous = FULL`, one writer thread with group commit, a pool of readers.
//!
//! The two largest costs of a transition are the pages that the commit writes to the log, with their `fdatasync`, shared by
//! all that wait at that moment, and SQLite's work on rows and indexes. Encoding the JSON is a fifth of the latter.

mod forget;
mod migrate;
mod notices;
#[cfg(test)]
mod plans;
mod pointers;
mod read;
mod rows;
mod scheduling;
mod writer;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use pinrail_model::document::Sha;
use pinrail_model::ids::TransitionId;
use pinrail_model::seam::store::{
    Answer, Command, Durability, Forget, Load, Query, Reply, Store, StoreError, StoredRun, Topic, Transition, Who,
};
use pinrail_model::time::Micros;
use rusqlite::{CachedStatement, Connection, OpenFlags};
use tokio::sync::{Semaphore, broadcast, oneshot};

use writer::{Order, Writer};

/// How many connections read at the same time. Two cores gain nothing from more, and each keeps a page cache.
const READERS: usize = 4;
/// The database's file in a state folder.
const DATABASE: &str = "state.db";
/// News that a slow follower has not fetched; then it looks for itself, as it does at its start.
const NEWS_KEPT: usize = 1024;

/// Connections that read: no more than there are permits, opened when they are first needed.
#[derive(Debug)]
struct Readers {
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

/// State in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    writer: Writer,
    readers: Arc<Readers>,
    news: broadcast::Sender<Arc<HashSet<Topic>>>,
}

impl SqliteStore {
    /// Opens or makes the database `state.db` in a folder that the caller has locked, and brings it to the current
    /// schema. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`StoreError::Newer`] for a database of a later version, which is left untouched.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join(DATABASE);
        let mut connection = Connection::open(&path).map_err(failed)?;
        migrate::migrate(&mut connection, folder)?;
        settle(&connection)?;
        let (news, _) = broadcast::channel(NEWS_KEPT);
        let writer = Writer::start(connection, news.clone())?;
        let readers = Readers { permits: Arc::new(Semaphore::new(READERS)), idle: Mutex::default() };
        Ok(Self { path, writer, readers: Arc::new(readers), news })
    }

    /// The schema of the database in a folder, if there is one, and the one that this version writes; reads only.
    ///
    /// # Errors
    /// When the file is no database.
    pub fn schema(folder: &Path) -> Result<(Option<i64>, i64), StoreError> {
        let path = folder.join(DATABASE);
        if !path.exists() {
            return Ok((None, migrate::KNOWN));
        }
        Ok((Some(migrate::found(&reader(&path)?)?), migrate::KNOWN))
    }

    /// Runs a read on a connection of its own, off the async threads.
    async fn reading<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = Arc::clone(&self.readers.permits).acquire_owned().await;
        let permit = permit.map_err(|e| StoreError::Failed(e.to_string()))?;
        let (readers, path) = (Arc::clone(&self.readers), self.path.clone());
        let read = tokio::task::spawn_blocking(move || {
            // Kept until the read is over, also when nobody waits for it any more.
            let _permit = permit;
            let pooled = readers.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = pooled.map_or_else(|| reader(&path), Ok)?;
            let result = read(&connection);
            readers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            result
        });
        read.await.map_err(|e| StoreError::Failed(e.to_string()))?
    }

    /// Runs a read whose parts are all of one moment.
    async fn at_once<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.reading(move |connection| {
            // Nothing was written, so that it is rolled back in the end changes nothing.
            let snapshot = connection.unchecked_transaction().map_err(failed)?;
            read(&snapshot)
        })
        .await
    }

    async fn ordered<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.writer.order(make(answer))?;
        answered.await.map_err(|_| StoreError::Unknown("the writer has stopped".to_owned()))
    }
}

/// Looks whether a state folder may be opened at all, without writing anything.
///
/// # Errors
/// [`StoreError::Newer`] for a database of a later version, and a database that cannot be read.
pub fn check_version(folder: &Path) -> Result<(), StoreError> {
    migrate::check_header(&folder.join(DATABASE), folder)
}

/// What a copied database is, once it is an installation of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// The secrets that it holds, as `project/name`.
    pub secrets: Vec<String>,
}

/// Makes the copied database of a folder that nobody serves an installation of its own, durably.
///
/// # Errors
/// [`StoreError::Newer`] for a database of a later version, and whatever makes it no database of ours.
pub fn adopt(folder: &Path, installation: &str) -> Result<Adopted, StoreError> {
    let mut connection = Connection::open(folder.join(DATABASE)).map_err(failed)?;
    migrate::migrate(&mut connection, folder)?;
    settle(&connection)?;
    rows::installation(&connection, installation)?;
    let mut statement =
        connection.prepare("select project || '/' || name from secrets order by project, name").map_err(failed)?;
    let names = statement.query_map([], |row| row.get(0)).and_then(Iterator::collect).map_err(failed)?;
    drop(statement);
    // The last connection takes the log into the database and removes it, so that the folder may be moved.
    connection.close().map_err(|(_, error)| failed(error))?;
    Ok(Adopted { secrets: names })
}

fn reader(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn settle(connection: &Connection) -> Result<(), StoreError> {
    connection.pragma_update(None, "journal_mode", "wal").map_err(failed)?;
    connection.pragma_update(None, "synchronous", "full").map_err(failed)?;
    connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(128);
    Ok(())
}

/// Every statement of a serving store is prepared here, so that a test sees them all.
fn prepare<'c>(connection: &'c Connection, sql: &str) -> Result<CachedStatement<'c>, StoreError> {
    #[cfg(test)]
    plans::seen(sql);
    connection.prepare_cached(sql).map_err(failed)
}

fn failed(error: rusqlite::Error) -> StoreError {
    StoreError::Failed(error.to_string())
}

fn broken(what: &str, error: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(format!("{what} in the state database cannot be read: {error}"))
}

#[async_trait]
impl Store for SqliteStore {
    async fn send(&self, commands: Vec<Command>) -> Result<(), StoreError> {
        self.ordered(|answer| Order::Send { commands, answer }).await?
    }

    async fn take(&self, after: u64) -> Result<Vec<(u64, Command)>, StoreError> {
        self.reading(move |connection| read::take(connection, after)).await
    }

    async fn load(&self, what: Load) -> Result<Vec<StoredRun>, StoreError> {
        self.at_once(move |connection| read::load(connection, what)).await
    }

    async fn commit(&self, transitions: Vec<Transition>, durability: Durability) -> Result<Vec<Reply>, StoreError> {
        match durability {
            Durability::Waited => self.ordered(|answer| Order::Commit { transitions, answer: Some(answer) }).await?,
            Durability::Behind => {
                let replies = vec![Reply::Committed; transitions.len()];
                self.writer.order(Order::Commit { transitions, answer: None })?;
                Ok(replies)
            }
        }
    }

    async fn resolve(&self, id: TransitionId) -> Result<Option<Reply>, StoreError> {
        self.reading(move |connection| read::reply(connection, id)).await
    }

    async fn read(&self, who: &Who, query: Query) -> Result<Answer, StoreError> {
        let who = who.clone();
        self.at_once(move |connection| read::read(connection, &who, query)).await
    }

    async fn follow(&self, topic: Topic, after: u64) -> Result<(), StoreError> {
        let mut news = self.news.subscribe();
        // Subscribed first, then looked: news in between are not missed.
        if self.reading(move |connection| read::is_newer(connection, topic, after)).await? {
            return Ok(());
        }
        loop {
            match news.recv().await {
                Ok(topics) if topics.contains(&topic) => return Ok(()),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => return Ok(()),
                Err(broadcast::error::RecvError::Closed) => {
                    return Err(StoreError::Failed("the writer has stopped".to_owned()));
                }
            }
        }
    }

    async fn copy(&self, to: PathBuf) -> Result<(), StoreError> {
        self.reading(move |connection| {
            let mut copy = Connection::open(&to).map_err(failed)?;
            let backup = rusqlite::backup::Backup::new(connection, &mut copy).map_err(failed)?;
            // In one step, which is one read: in several, every write in between would begin the copy anew.
            match backup.step(-1).map_err(failed)? {
                rusqlite::backup::StepResult::Done => Ok(()),
                other => Err(StoreError::Failed(format!("the copy could not be finished: {other:?}"))),
            }
        })
        .await
    }

    async fn forget(&self, what: Forget, before: Micros, most: u32) -> Result<u64, StoreError> {
        let runs = self.reading(move |connection| forget::find(connection, what, before, most)).await?;
        if runs.as_ref().is_some_and(Vec::is_empty) {
            return Ok(0);
        }
        self.ordered(|answer| Order::Forget { what, before, most, runs, answer }).await?
    }

    async fn lease(&self, holder: &str) -> Result<u64, StoreError> {
        let holder = holder.to_owned();
        self.ordered(|answer| Order::Lease { holder, answer }).await?
    }
}

fn sha(text: &str) -> Result<Sha, StoreError> {
    text.parse().map_err(|e: String| broken("a digest", e))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn only_so_many_read_at_the_same_time() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path()).unwrap();
        let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let read = || {
            let (inside, most) = (Arc::clone(&inside), Arc::clone(&most));
            store.reading(move |connection| {
                most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                for _ in 0..50 {
                    connection.query_row("select count(*) from sqlite_schema", [], |_| Ok(())).map_err(failed)?;
                }
                inside.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            })
        };
        for done in futures::future::join_all((0..100).map(|_| read())).await {
            done.unwrap();
        }
        let most = most.load(Ordering::SeqCst);
        assert!((1..=READERS).contains(&most), "{most} at the same time");
        assert!(store.readers.idle.lock().unwrap().len() <= READERS);
    }
}
