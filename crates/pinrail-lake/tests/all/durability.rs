//! Nothing that a pointer names may be lost by a power cut. A recording file layer knows what is durable: a file's
//! bytes once the file was synced, its name once its folder was, a folder's name once the folder above it was.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use pinrail_lake::{FileSink, Files, Lake, LakeConfig, LocalFiles};

use crate::support::{Bench, SteppingClock, head, json};

#[derive(Debug, Default)]
struct State {
    /// Files whose bytes are not durable.
    unsynced: BTreeSet<PathBuf>,
    /// Files and folders whose names are not durable.
    unnamed: BTreeSet<PathBuf>,
    /// What would have been lost by a power cut at the moment of a commit.
    lost: BTreeSet<PathBuf>,
    synced_files: usize,
    synced_folders: Vec<PathBuf>,
}

#[derive(Debug, Clone, Default)]
struct Recording {
    state: Arc<Mutex<State>>,
    /// A broken layer, to prove that the test notices.
    forgets_folders: bool,
    forgets_files: bool,
}

struct RecordingSink {
    inner: Box<dyn FileSink>,
    path: PathBuf,
    layer: Recording,
}

impl Files for Recording {
    fn create(&self, path: &Path) -> io::Result<Box<dyn FileSink>> {
        let inner = LocalFiles.create(path)?;
        let mut state = self.state.lock().unwrap();
        state.unsynced.insert(path.to_owned());
        state.unnamed.insert(path.to_owned());
        Ok(Box::new(RecordingSink { inner, path: path.to_owned(), layer: self.clone() }))
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        if !path.exists() {
            self.state.lock().unwrap().unnamed.insert(path.to_owned());
        }
        LocalFiles.make_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        if !self.forgets_folders {
            let mut state = self.state.lock().unwrap();
            state.unnamed.retain(|name| name.parent() != Some(path));
            state.synced_folders.push(path.to_owned());
        }
        LocalFiles.sync_dir(path)
    }
}

impl FileSink for RecordingSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.layer.state.lock().unwrap().unsynced.insert(self.path.clone());
        self.inner.write(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        if !self.layer.forgets_files {
            let mut state = self.layer.state.lock().unwrap();
            state.unsynced.remove(&self.path);
            state.synced_files += 1;
        }
        self.inner.sync()
    }
}

impl Recording {
    /// A bench whose commits note what is not durable when they happen.
    fn bench(self) -> (Bench, Arc<Mutex<State>>) {
        let state = self.state.clone();
        let bench = Bench::with_files(Arc::new(self));
        let noted = state.clone();
        bench.pointers.on_commit(move || {
            let mut state = noted.lock().unwrap();
            let now: Vec<_> = state.unsynced.union(&state.unnamed).cloned().collect();
            state.lost.extend(now);
        });
        (bench, state)
    }
}

/// Takes away what was not durable when a pointer was swapped or staged, and opens the rest anew.
fn after_power_cut(bench: &Bench, state: &Arc<Mutex<State>>) -> Lake {
    for path in &state.lock().unwrap().lost {
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        } else if path.exists() {
            std::fs::remove_file(path).unwrap();
        }
    }
    let config = LakeConfig::new(bench.warehouse());
    Lake::new(config, bench.ids.clone(), Arc::new(SteppingClock::default()), bench.pointers.clone()).unwrap()
}

async fn work(b: &Bench) {
    b.rows("create table t (x int, p int) partitioned by (p); insert into t select i, i % 3 from generate_series(1, 30) as s(i)").await;
    b.rows("create table u as select * from t; insert overwrite t partition (p = 1) select 100; insert into u values (1, 1)").await;
}

#[tokio::test]
async fn what_a_pointer_names_survives() {
    let (mut b, state) = Recording::default().bench();
    work(&b).await;
    let view = b.attempt(vec![]);
    b.rows_of(&view, "insert into t values (5, 5); create table v as select 1 as x").await;
    b.lake = after_power_cut(&b, &state);
    assert!(state.lock().unwrap().lost.is_empty(), "{:?}", state.lock().unwrap().lost);
    assert_eq!(b.rows_of(&view, "select count(*) from t").await, json("[[22]]"), "staged files survive, too");
    assert_eq!(b.rows_of(&head(), "select sum(x) from t").await, json("[[420]]"));
    b.publish(&view).await.unwrap();
    b.lake = after_power_cut(&b, &state);
    assert_eq!(
        b.rows("select (select count(*) from t), (select count(*) from u), x from v").await,
        json("[[22,31,1]]")
    );
}

#[tokio::test]
async fn a_layer_that_forgets_is_noticed() {
    for broken in [
        Recording { forgets_folders: true, ..Recording::default() },
        Recording { forgets_files: true, ..Recording::default() },
    ] {
        let (mut b, state) = broken.bench();
        work(&b).await;
        b.lake = after_power_cut(&b, &state);
        assert!(b.try_run(&b.query("select count(*) from t"), &head()).await.is_err());
    }
}

#[tokio::test]
async fn a_commit_syncs_each_folder_once() {
    let (b, state) = Recording::default().bench();
    b.rows("create table t (x int, p int) partitioned by (p); insert into t values (1, 1)").await;
    {
        let mut state = state.lock().unwrap();
        state.synced_files = 0;
        state.synced_folders.clear();
    }
    b.rows("insert into t select i, i from generate_series(1, 10) as s(i)").await;
    let state = state.lock().unwrap();
    assert_eq!(state.synced_files, 13, "ten data files, manifest, manifest list, metadata");
    let folders: Vec<_> = state.synced_folders.iter().map(|f| f.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(folders, ["adhoc", "metadata"]);
}
