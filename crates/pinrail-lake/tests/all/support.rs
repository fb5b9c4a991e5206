//! A lake over a throw-away folder, with table pointers in memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use pinrail_lake::{Files, Lake, LakeConfig, LocalFiles};
use pinrail_model::ids::{AttemptId, Ids, RunId, TableId};
use pinrail_model::names::{Prefix, ProjectName, TableRef};
use pinrail_model::seam::lake::{
    AttemptView, Catalog, Checked, FileScope, LakeError, Overlay, Pointer, PointerError, PointerSwap, Pointers, Query,
    QueryDone, QueryEngine, QueryLimits, ResultFormat, ResultSink, Value, View, WriteMode, Writes,
};
use pinrail_model::target::{Place, Source, Target};
use pinrail_model::time::{Clock, Micros, Now};
use serde_json::Value as Json;

/// Pointers as the state database keeps them: history by catalog sequence, compare-and-swap, fenced staging.
#[derive(Default)]
pub struct MemoryPointers {
    inner: Mutex<Inner>,
    on_commit: Mutex<Option<Box<dyn Fn() + Send>>>,
}

#[derive(Default)]
struct Inner {
    seq: u64,
    /// From this sequence on the table has this pointer, or none.
    history: Vec<(u64, Option<Prefix>, TableRef, Option<Pointer>)>,
    overlays: Vec<Overlay>,
    epochs: BTreeMap<AttemptId, u64>,
    /// The table whose pointer moves before the next swap.
    meddle: Option<TableRef>,
}

impl Inner {
    fn find(&self, prefix: Option<&Prefix>, table: &TableRef, at: Option<u64>) -> Option<Pointer> {
        let at = at.unwrap_or(u64::MAX);
        let is_it = |(seq, of, name, _): &&(u64, Option<Prefix>, TableRef, Option<Pointer>)| {
            *seq <= at && of.as_ref() == prefix && name == table
        };
        self.history.iter().rev().find(is_it).and_then(|(.., pointer)| pointer.clone())
    }

    fn swap(&mut self, prefix: Option<&Prefix>, swaps: Vec<PointerSwap>) -> Result<(), PointerError> {
        for swap in &swaps {
            let current = self.find(prefix, &swap.table, None);
            if current.as_ref().map(|p| &p.location) != swap.expect.as_ref() || current.is_some_and(|p| p.id != swap.id)
            {
                return Err(PointerError::Conflict(swap.table.clone()));
            }
        }
        self.seq += 1;
        for swap in swaps {
            let pointer = swap.new.map(|location| Pointer { id: swap.id, table: swap.table.clone(), location });
            self.history.push((self.seq, prefix.cloned(), swap.table, pointer));
        }
        Ok(())
    }
}

impl MemoryPointers {
    /// Publishes an attempt's swaps as the service does, together with its success.
    pub fn publish(&self, view: &View, swaps: Vec<PointerSwap>) -> Result<(), PointerError> {
        self.committing();
        let attempt = attempt_of(view);
        let mut inner = self.inner.lock().unwrap();
        inner.swap(view.place().prefix.as_ref(), swaps)?;
        inner.overlays.retain(|overlay| overlay.attempt != attempt);
        Ok(())
    }

    /// Forgets what an attempt has staged, as the service does when it fails.
    pub fn discard(&self, attempt: AttemptId) {
        self.inner.lock().unwrap().overlays.retain(|overlay| overlay.attempt != attempt);
    }

    pub fn set_epoch(&self, attempt: AttemptId, epoch: u64) {
        self.inner.lock().unwrap().epochs.insert(attempt, epoch);
    }

    pub fn seq(&self) -> u64 {
        self.inner.lock().unwrap().seq
    }

    pub fn location(&self, table: &str) -> Option<String> {
        self.inner.lock().unwrap().find(None, &table.parse().unwrap(), None).map(|p| p.location)
    }

    /// Points a table at metadata that another engine has written.
    pub fn repoint(&self, table: &str, location: &str) {
        let table: TableRef = table.parse().unwrap();
        let mut inner = self.inner.lock().unwrap();
        let pointer = inner.find(None, &table, None).unwrap();
        let swap =
            PointerSwap { id: pointer.id, table, expect: Some(pointer.location), new: Some(location.to_owned()) };
        inner.swap(None, vec![swap]).unwrap();
    }

    /// Called at each swap and each staging, before anything is changed.
    pub fn on_commit(&self, call: impl Fn() + Send + 'static) {
        *self.on_commit.lock().unwrap() = Some(Box::new(call));
    }

    /// Lets the next swap come too late: the pointer has moved to metadata of the same content.
    pub fn meddle(&self, table: &str) {
        self.inner.lock().unwrap().meddle = Some(table.parse().unwrap());
    }

    fn committing(&self) {
        if let Some(call) = self.on_commit.lock().unwrap().as_ref() {
            call();
        }
    }
}

#[async_trait]
impl Pointers for MemoryPointers {
    async fn head(&self, _project: &ProjectName) -> Result<u64, PointerError> {
        Ok(self.seq())
    }

    async fn find(&self, place: &Place, table: &TableRef, at: Option<u64>) -> Result<Option<Pointer>, PointerError> {
        Ok(self.inner.lock().unwrap().find(place.prefix.as_ref(), table, at))
    }

    async fn list(&self, place: &Place, at: Option<u64>) -> Result<Vec<Pointer>, PointerError> {
        let inner = self.inner.lock().unwrap();
        let mut names: Vec<_> = inner.history.iter().map(|(_, _, name, _)| name.clone()).collect();
        names.sort();
        names.dedup();
        Ok(names.iter().filter_map(|name| inner.find(place.prefix.as_ref(), name, at)).collect())
    }

    async fn overlays(&self, attempt: AttemptId) -> Result<Vec<Overlay>, PointerError> {
        let inner = self.inner.lock().unwrap();
        Ok(inner.overlays.iter().filter(|o| o.attempt == attempt).cloned().collect())
    }

    async fn stage(&self, epoch: u64, overlay: Overlay) -> Result<(), PointerError> {
        self.committing();
        let mut inner = self.inner.lock().unwrap();
        if inner.epochs.get(&overlay.attempt).is_some_and(|current| *current != epoch) {
            return Err(PointerError::Fenced);
        }
        inner.overlays.retain(|o| o.attempt != overlay.attempt || o.table != overlay.table);
        inner.overlays.push(overlay);
        Ok(())
    }

    async fn swap(&self, place: &Place, swaps: Vec<PointerSwap>) -> Result<(), PointerError> {
        self.committing();
        let mut inner = self.inner.lock().unwrap();
        if let Some(table) = inner.meddle.take() {
            let pointer = inner.find(None, &table, None).unwrap();
            let path = pointer.location.strip_prefix("file://").unwrap().to_owned();
            let moved = path.replace("/metadata/", "/metadata/9");
            std::fs::copy(&path, &moved).unwrap();
            let swap = PointerSwap {
                id: pointer.id,
                table,
                expect: Some(pointer.location),
                new: Some(format!("file://{moved}")),
            };
            inner.swap(None, vec![swap]).unwrap();
        }
        inner.swap(place.prefix.as_ref(), swaps)
    }

    async fn named(&self) -> Result<Vec<(TableId, String)>, PointerError> {
        let inner = self.inner.lock().unwrap();
        let past = inner.history.iter().filter_map(|(.., pointer)| pointer.as_ref());
        let mut named: Vec<_> = past.map(|pointer| (pointer.id, pointer.location.clone())).collect();
        for overlay in &inner.overlays {
            let locations = overlay.base.iter().chain(&overlay.staged);
            named.extend(locations.map(|location| (overlay.id, location.clone())));
        }
        Ok(named)
    }
}

/// Ids that differ and are the same in every run of a test.
#[derive(Default)]
pub struct CountingIds(AtomicU64);

impl Ids for CountingIds {
    fn parts(&self) -> (u64, u128) {
        let number = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        // Spread over all bits, because snapshot ids take the low ones and people see the last characters.
        let random = u128::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835) & ((1 << 80) - 1);
        (1_700_000_000_000, random)
    }
}

/// A clock that goes forward one second with each look.
pub struct SteppingClock(AtomicU64);

impl Default for SteppingClock {
    fn default() -> Self {
        Self(AtomicU64::new(4_000_000_000))
    }
}

impl Clock for SteppingClock {
    fn now(&self) -> Now {
        let seconds = self.0.fetch_add(1, Ordering::Relaxed);
        Now { wall: Micros(i64::try_from(seconds).unwrap() * 1_000_000), mono: Duration::from_secs(seconds) }
    }
}

#[derive(Default)]
pub struct Collect(pub Vec<u8>);

#[async_trait]
impl ResultSink for Collect {
    async fn chunk(&mut self, bytes: Vec<u8>) -> Result<(), LakeError> {
        self.0.extend(bytes);
        Ok(())
    }
}

/// A lake, its pointers, and a project folder.
pub struct Bench {
    pub lake: Lake,
    pub pointers: Arc<MemoryPointers>,
    pub ids: Arc<CountingIds>,
    pub folder: tempfile::TempDir,
}

impl Default for Bench {
    fn default() -> Self {
        Self::with_files(Arc::new(LocalFiles))
    }
}

impl Bench {
    pub fn with_files(files: Arc<dyn Files>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("project")).unwrap();
        let (pointers, ids) = (Arc::new(MemoryPointers::default()), Arc::new(CountingIds::default()));
        let config = LakeConfig::new(folder.path().join("warehouse"));
        let lake =
            Lake::with_files(config, ids.clone(), Arc::new(SteppingClock::default()), pointers.clone(), files).unwrap();
        Self { lake, pointers, ids, folder }
    }

    pub fn project(&self) -> PathBuf {
        self.folder.path().join("project")
    }

    pub fn warehouse(&self) -> PathBuf {
        self.folder.path().join("warehouse")
    }

    /// Writes a file of the project.
    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.project().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn query(&self, text: &str) -> Query {
        Query {
            text: text.to_owned(),
            file: None,
            values: BTreeMap::from([
                ("ds".to_owned(), Value::Date("2013-01-02".to_owned())),
                ("n".to_owned(), Value::Integer(7)),
            ]),
            files: FileScope { root: None, project: Some(self.project()), patterns: None, forbidden: Vec::new() },
            writes: None,
            declares_job: false,
        }
    }

    pub async fn try_run(&self, query: &Query, view: &View) -> Result<(QueryDone, Json), LakeError> {
        let mut sink = Collect::default();
        let limits = QueryLimits::default();
        let done = self.lake.run(query, view, &limits, ResultFormat::Json, &mut sink).await?;
        let json: Json =
            serde_json::from_slice(&sink.0).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&sink.0)));
        Ok((done, json["rows"].clone()))
    }

    /// Runs a text for nobody's attempt and gives the rows of its last result.
    pub async fn rows(&self, text: &str) -> Json {
        self.rows_of(&head(), text).await
    }

    pub async fn rows_of(&self, view: &View, text: &str) -> Json {
        let result = self.try_run(&self.query(text), view).await;
        result.unwrap_or_else(|e| panic!("{text}\n{}: {e} ({:?})", e.code, e.evidence.remedy)).1
    }

    pub async fn done(&self, text: &str) -> QueryDone {
        self.try_run(&self.query(text), &head()).await.unwrap_or_else(|e| panic!("{text}\n{e:?}")).0
    }

    pub async fn error(&self, text: &str) -> LakeError {
        self.error_of(&head(), text).await
    }

    pub async fn error_of(&self, view: &View, text: &str) -> LakeError {
        match self.try_run(&self.query(text), view).await {
            Err(error) => error,
            Ok((_, rows)) => panic!("{text}\nsucceeded with {rows}"),
        }
    }

    pub async fn check(&self, text: &str) -> Result<Checked, LakeError> {
        self.lake.check(&self.query(text), &head()).await
    }

    /// An attempt that reads the project as it is now.
    pub fn attempt(&self, writes: Vec<Writes>) -> View {
        let attempt: AttemptId = pinrail_model::ids::fresh(self.ids.as_ref());
        let run: RunId = pinrail_model::ids::fresh(self.ids.as_ref());
        self.pointers.set_epoch(attempt, 1);
        View {
            project: project(),
            target: None,
            at: Some(self.pointers.seq()),
            attempt: Some(AttemptView { run, attempt, epoch: 1, generation: 3, writes }),
        }
    }

    /// Prepares and publishes, again when somebody was faster.
    pub async fn publish(&self, view: &View) -> Result<Vec<PointerSwap>, LakeError> {
        loop {
            let swaps = self.lake.prepare(view).await?;
            match self.pointers.publish(view, swaps.clone()) {
                Ok(()) => return Ok(swaps),
                Err(PointerError::Conflict(_)) => {}
                Err(other) => panic!("{other}"),
            }
        }
    }

    /// The current metadata of a table, as any reader would find it.
    pub fn metadata(&self, table: &str) -> Json {
        read_metadata(&self.pointers.location(table).unwrap_or_else(|| panic!("no table {table}")))
    }

    pub fn snapshots(&self, table: &str) -> Vec<Json> {
        let metadata = self.metadata(table);
        let mut snapshots = metadata["snapshots"].as_array().cloned().unwrap_or_default();
        snapshots.sort_by_key(|s| s["sequence-number"].as_i64());
        snapshots
    }
}

pub fn read_metadata(location: &str) -> Json {
    let path = location.strip_prefix("file://").unwrap();
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub fn project() -> ProjectName {
    "flights".parse().unwrap()
}

/// Nobody's attempt, now.
pub fn head() -> View {
    View::now(project(), None)
}

/// What somebody sees now at a target that has its name as prefix and reads from the tables without one.
pub fn head_at(target: &str) -> View {
    let source = Source { target: "prod".parse().unwrap(), prefix: None, at: None };
    let target = Target {
        name: target.parse().unwrap(),
        prefix: Some(target.parse().unwrap()),
        reads: vec![source],
        protected: false,
        schedules: true,
        vars: BTreeMap::new(),
        scratch: None,
    };
    View::now(project(), Some(Arc::new(target)))
}

pub fn attempt_of(view: &View) -> AttemptId {
    view.attempt.as_ref().unwrap().attempt
}

pub fn writes(table: &str, partition: &[(&str, &str)], mode: WriteMode) -> Writes {
    let partition = partition.iter().map(|(column, value)| ((*column).to_owned(), Json::from(*value))).collect();
    Writes { table: table.parse().unwrap(), partition, mode }
}

/// Rows of JSON without spaces, to compare with.
pub fn json(text: &str) -> Json {
    serde_json::from_str(text).unwrap()
}

/// All files below a folder.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}
