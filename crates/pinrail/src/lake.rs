//! The lake on runtimes of its own: one for the catalog, and one for each query that runs. A query may keep every one of
//! its threads busy, and control and the other queries still get their share of the processor.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use pinrail_lake::{Lake, LakeConfig, Stop};
use pinrail_model::fault::Fault;
use pinrail_model::ids::Ids;
use pinrail_model::names::ProjectName;
use pinrail_model::seam::lake::{
    Catalog, Checked, Column, InTurn, LakeError, PointerSwap, Pointers, Query, QueryDone, QueryEngine, QueryLimits,
    ResultFormat, ResultSink, SystemTables, TableInfo, View, Written,
};
use pinrail_model::seam::store::{self, Answer, Store, SystemTable, Who, system_columns};
use pinrail_model::tables::{Draft, Outline};
use pinrail_model::time::{Clock, Micros};
use serde_json::Value;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::failure::{FAILED, Failure};

/// Libraries walk statements recursively; memory is used only as far as it is touched.
const STACK: usize = 16 << 20;
/// Queries that run at once; more wait for their turn. Each has threads, and all share one pool of memory.
const MOST_QUERIES: usize = 32;
/// Chunks of a result that wait for a slow reader before the query waits too.
const CHUNKS: usize = 4;

/// The lake, reached from other runtimes.
pub struct OnItsOwn {
    lake: Arc<Lake>,
    handle: Handle,
    /// Threads of each query.
    threads: usize,
    /// Held by each query that runs.
    turns: Semaphore,
}

/// Ends a runtime of the lake when it is dropped.
pub struct LakeRuntime(Option<Runtime>);

impl LakeRuntime {
    fn new(name: &'static str, threads: usize) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name(name)
            .thread_stack_size(STACK)
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    fn handle(&self) -> Option<&Handle> {
        self.0.as_ref().map(Runtime::handle)
    }
}

impl Drop for LakeRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Also where nothing may block: within another runtime, or while the query still computes.
            runtime.shutdown_background();
        }
    }
}

/// Opens the warehouse of a state folder.
pub fn open(
    state: &Path,
    ids: Arc<dyn Ids>,
    clock: Arc<dyn Clock>,
    store: Arc<dyn Store>,
) -> Result<(LakeRuntime, Arc<OnItsOwn>), Failure> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let runtime = LakeRuntime::new("catalog", cores)?;
    let config = LakeConfig { partitions: cores, ..LakeConfig::new(state.join("warehouse")) };
    let pointers: Arc<dyn Pointers> = store.clone();
    let lake = Lake::new(config, ids, clock, pointers)
        .map_err(|e| Failure::new(FAILED, format!("the server cannot start: {e}")))?
        .with_system(Arc::new(StateTables(store)));
    let handle = runtime.handle().cloned().ok_or_else(|| Failure::new(FAILED, "the SQL engine has no threads"))?;
    Ok((
        runtime,
        Arc::new(OnItsOwn { lake: Arc::new(lake), handle, threads: cores, turns: Semaphore::new(MOST_QUERIES) }),
    ))
}

/// The state database as tables.
struct StateTables(Arc<dyn Store>);

#[async_trait]
impl SystemTables for StateTables {
    fn tables(&self) -> Vec<(&'static str, Vec<Column>)> {
        let column = |(name, kind): &(&str, &str)| Column { name: (*name).to_owned(), kind: (*kind).to_owned() };
        SystemTable::ALL.map(|table| (table.name(), system_columns(table).iter().map(column).collect())).to_vec()
    }

    async fn rows(&self, project: &ProjectName, table: &str) -> Result<Vec<Vec<Value>>, LakeError> {
        let failed = |message: String| LakeError::new("state-failed", Fault::Platform, message);
        let found = SystemTable::ALL.into_iter().find(|known| known.name() == table);
        let table = found.ok_or_else(|| failed(format!("there is no table \"system.{table}\"")))?;
        let who = Who { project: Some(project.clone()) };
        match self.0.read(&who, store::Query::System(table)).await.map_err(|e| failed(e.to_string()))? {
            Answer::Rows(rows) => Ok(rows),
            _ => Err(failed(format!("the state gave no rows for \"system.{}\"", table.name()))),
        }
    }
}

/// Work that ends when nobody waits for it any more.
struct Owned<T>(JoinHandle<T>);

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Stops a query when nobody waits for it any more, also while it computes.
struct Stopping(Stop);

impl Drop for Stopping {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn failed(message: &str) -> LakeError {
    LakeError::new("engine-failed", Fault::Platform, message)
}

impl<T> Owned<Result<T, LakeError>> {
    async fn end(mut self) -> Result<T, LakeError> {
        match (&mut self.0).await {
            Ok(result) => result,
            Err(error) => {
                let message = if error.is_panic() { "the engine failed on this statement" } else { "the engine stops" };
                Err(failed(message))
            }
        }
    }
}

impl OnItsOwn {
    /// Work that is short, or waits for files most of the time.
    fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, LakeError>> + Send + 'static,
    ) -> Owned<Result<T, LakeError>> {
        Owned(self.handle.spawn(work))
    }
}

#[async_trait]
impl Catalog for OnItsOwn {
    async fn list(&self, view: &View) -> Result<Vec<TableInfo>, LakeError> {
        let (lake, view) = (Arc::clone(&self.lake), view.clone());
        self.spawn(async move { lake.list(&view).await }).end().await
    }

    async fn prepare(&self, view: &View) -> Result<Vec<PointerSwap>, LakeError> {
        let (lake, view) = (Arc::clone(&self.lake), view.clone());
        self.spawn(async move { lake.prepare(&view).await }).end().await
    }

    async fn written(&self, swaps: &[PointerSwap]) -> Result<Vec<Written>, LakeError> {
        let (lake, swaps) = (Arc::clone(&self.lake), swaps.to_vec());
        self.spawn(async move { lake.written(&swaps).await }).end().await
    }

    async fn orphans(&self, before: Micros) -> Result<Vec<PathBuf>, LakeError> {
        let lake = Arc::clone(&self.lake);
        self.spawn(async move { lake.orphans(before).await }).end().await
    }
}

/// Hands chunks over to the runtime of whoever wants the result.
struct Passed(mpsc::Sender<Vec<u8>>);

#[async_trait]
impl ResultSink for Passed {
    async fn chunk(&mut self, bytes: Vec<u8>) -> Result<(), LakeError> {
        // Whoever no longer takes the result has dropped the query with it.
        let _ = self.0.send(bytes).await;
        Ok(())
    }
}

#[async_trait]
impl QueryEngine for OnItsOwn {
    async fn check(&self, query: &Query, view: &View) -> Result<Checked, LakeError> {
        let (lake, query, view) = (Arc::clone(&self.lake), query.clone(), view.clone());
        self.spawn(async move { lake.check(&query, &view).await }).end().await
    }

    async fn check_in_turn(&self, queries: &[InTurn], view: &View) -> Vec<Result<Checked, LakeError>> {
        let (lake, queries, view) = (Arc::clone(&self.lake), queries.to_vec(), view.clone());
        let count = queries.len();
        let checked = self.spawn(async move { Ok(lake.check_in_turn(&queries, &view).await) }).end().await;
        checked.unwrap_or_else(|error| vec![Err(error); count])
    }

    async fn outline(&self, drafts: &[Draft]) -> Vec<Result<Outline, LakeError>> {
        let (lake, drafts) = (Arc::clone(&self.lake), drafts.to_vec());
        let count = drafts.len();
        let outlines = self.spawn(async move { Ok(lake.outline(&drafts).await) }).end().await;
        outlines.unwrap_or_else(|error| vec![Err(error); count])
    }

    async fn run(
        &self,
        query: &Query,
        view: &View,
        limits: &QueryLimits,
        format: ResultFormat,
        sink: &mut dyn ResultSink,
    ) -> Result<QueryDone, LakeError> {
        let (lake, query, view, limits) = (Arc::clone(&self.lake), query.clone(), view.clone(), limits.clone());
        let _turn = self.turns.acquire().await.map_err(|_| failed("the engine stops"))?;
        let (chunks, mut passed) = mpsc::channel(CHUNKS);
        let threads = LakeRuntime::new("query", self.threads);
        let threads = threads.map_err(|e| failed(&format!("a query cannot have threads: {e}")))?;
        let stopping = Stopping(Stop::default());
        let stop = stopping.0.clone();
        let handle = threads.handle().unwrap_or(&self.handle);
        let running = Owned(handle.spawn(async move {
            let mut sink = Passed(chunks);
            lake.run_until(&stop, (&query, &view), &limits, format, &mut sink).await
        }));
        while let Some(bytes) = passed.recv().await {
            sink.chunk(bytes).await?;
        }
        running.end().await
    }

    async fn encode(
        &self,
        arrow: Box<dyn std::io::Read + Send>,
        format: ResultFormat,
        sink: &mut dyn ResultSink,
    ) -> Result<(), LakeError> {
        let lake = Arc::clone(&self.lake);
        let (chunks, mut passed) = mpsc::channel(CHUNKS);
        let running = self.spawn(async move { lake.encode(arrow, format, &mut Passed(chunks)).await });
        while let Some(bytes) = passed.recv().await {
            sink.chunk(bytes).await?;
        }
        running.end().await
    }
}
