//! The lake itself: what the process builds once and hands around behind the seam's two traits.

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use async_trait::async_trait;
use datafusion::error::DataFusionError;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{
    GreedyMemoryPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::AggregateUDF;
use datafusion::prelude::SessionConfig;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use pinrail_model::ids::Ids;
use pinrail_model::seam::lake::{
    Catalog, Checked, InTurn, LakeError, PointerSwap, Pointers, Query, QueryDone, QueryEngine, QueryLimits,
    ResultFormat, ResultSink, SystemTables, TableInfo, View, Written,
};
use pinrail_model::tables::{Draft, Outline};
use pinrail_model::time::{Clock, Micros};
use url::Url;

use crate::catalog::{Book, LakeConfig};
use crate::checked::{CheckArithmetic, Sum};
use crate::engine::{Made, Run};
use crate::error::{self, Result};
use crate::files::Handles;
use crate::orphans;
use crate::results;
use crate::sql::outline;
use crate::stop::Stop;
use crate::store::{Files, LocalFiles, Store};
use crate::system::NoSystemTables;
use crate::tables::Tables;

/// Tables and embedded SQL over a local warehouse.
pub struct Lake {
    pub(crate) book: Book,
    /// What every statement starts from.
    pub(crate) state: SessionState,
    runtime: Arc<RuntimeEnv>,
    warehouse: Arc<dyn ObjectStore>,
}

impl fmt::Debug for Lake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lake").field("root", &self.book.store().root()).finish_non_exhaustive()
    }
}

impl Lake {
    /// Opens the warehouse, making its folder if need be.
    pub fn new(
        config: LakeConfig,
        ids: Arc<dyn Ids>,
        clock: Arc<dyn Clock>,
        pointers: Arc<dyn Pointers>,
    ) -> Result<Self> {
        Self::with_files(config, ids, clock, pointers, Arc::new(LocalFiles))
    }

    /// The same over another file layer, for tests that lose what was not synced.
    pub fn with_files(
        config: LakeConfig,
        ids: Arc<dyn Ids>,
        clock: Arc<dyn Clock>,
        pointers: Arc<dyn Pointers>,
        files: Arc<dyn Files>,
    ) -> Result<Self> {
        let store = Store::open(&config.root, files).map_err(|e| {
            error::from_io(&format!("the warehouse \"{}\" could not be opened", config.root.display()), &e)
        })?;
        let warehouse = LocalFileSystem::new_with_prefix(store.root())
            .map_err(|e| error::platform("storage-failed", error::one_line(&e.to_string())))?;
        let spill = DiskManagerMode::Directories(vec![config.spill.clone()]);
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(GreedyMemoryPool::new(config.memory)))
            .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(spill))
            .build_arc()
            .map_err(error::from_datafusion)?;
        let mut state = SessionStateBuilder::new()
            .with_config(session_config(config.partitions))
            .with_runtime_env(runtime.clone())
            .with_default_features()
            .build();
        state.add_analyzer_rule(Arc::new(CheckArithmetic));
        state.register_udaf(Arc::new(AggregateUDF::new_from_impl(Sum::default()))).map_err(error::from_datafusion)?;
        let book =
            Book { tables: Arc::new(Tables::new(store)), pointers, ids, clock, system: Arc::new(NoSystemTables) };
        Ok(Self { book, state, runtime, warehouse: Arc::new(warehouse) })
    }

    /// The same with tables that the platform keeps about itself.
    #[must_use]
    pub fn with_system(mut self, system: Arc<dyn SystemTables>) -> Self {
        self.book.system = system;
        self
    }

    /// Runs a text as [`QueryEngine::run`] does. Unlike a dropped future, `stop` also ends a statement that computes
    /// without a pause, from any other thread.
    ///
    /// # Errors
    /// What is wrong with the text or its tables.
    pub async fn run_until(
        &self,
        stop: &Stop,
        (query, view): (&Query, &View),
        limits: &QueryLimits,
        format: ResultFormat,
        sink: &mut dyn ResultSink,
    ) -> std::result::Result<QueryDone, LakeError> {
        let run = async {
            Run::new(self, query, view, limits.memory, false)?.stopped_by(stop).run(limits, format, sink).await
        };
        Roomy(Box::pin(run)).await
    }

    /// The surroundings of one text: its own open files, and its own share of memory if it is bounded.
    pub(crate) fn runtime(&self, handles: &Arc<Handles>, memory: Option<u64>) -> Arc<RuntimeEnv> {
        let mut runtime = self.runtime.as_ref().clone();
        runtime.object_store_registry = Arc::new(Stores { warehouse: self.warehouse.clone(), files: handles.clone() });
        if let Some(limit) = memory {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            runtime.memory_pool =
                Arc::new(QueryPool { all: self.runtime.memory_pool.clone(), limit, used: AtomicUsize::new(0) });
        }
        Arc::new(runtime)
    }
}

fn session_config(partitions: usize) -> SessionConfig {
    let mut config = SessionConfig::new().with_target_partitions(partitions.max(1)).with_information_schema(false);
    let options = config.options_mut();
    // Tables say string and binary; views would differ from them in every comparison of schemas.
    options.execution.parquet.schema_force_view_types = false;
    options.sql_parser.parse_float_as_decimal = true;
    // An instant such as now() has a zone, and it is always UTC.
    options.execution.time_zone = Some(crate::types::UTC.to_owned());
    config
}

#[async_trait]
impl Catalog for Lake {
    async fn list(&self, view: &View) -> std::result::Result<Vec<TableInfo>, LakeError> {
        self.book.list(view).await
    }

    async fn prepare(&self, view: &View) -> std::result::Result<Vec<PointerSwap>, LakeError> {
        self.book.prepare(view).await
    }

    async fn written(&self, swaps: &[PointerSwap]) -> std::result::Result<Vec<Written>, LakeError> {
        self.book.written(swaps).await
    }

    async fn orphans(&self, before: Micros) -> std::result::Result<Vec<PathBuf>, LakeError> {
        orphans::find(&self.book, before).await
    }
}

#[async_trait]
impl QueryEngine for Lake {
    async fn check(&self, query: &Query, view: &View) -> std::result::Result<Checked, LakeError> {
        Roomy(Box::pin(async { Run::new(self, query, view, None, true)?.check().await })).await
    }

    async fn check_in_turn(&self, queries: &[InTurn], view: &View) -> Vec<std::result::Result<Checked, LakeError>> {
        let mut checked = Vec::with_capacity(queries.len());
        let mut made = Made::default();
        for InTurn { query, unknown } in queries {
            made.unknown(unknown);
            let check = async { Run::new(self, query, view, None, true)?.check_after(&mut made).await };
            checked.push(Roomy(Box::pin(check)).await);
        }
        checked
    }

    async fn outline(&self, drafts: &[Draft]) -> Vec<std::result::Result<Outline, LakeError>> {
        let mut outlines = Vec::with_capacity(drafts.len());
        for draft in drafts {
            outlines.push(Roomy(Box::pin(async { outline::of(draft) })).await);
        }
        outlines
    }

    async fn run(
        &self,
        query: &Query,
        view: &View,
        limits: &QueryLimits,
        format: ResultFormat,
        sink: &mut dyn ResultSink,
    ) -> std::result::Result<QueryDone, LakeError> {
        self.run_until(&Stop::default(), (query, view), limits, format, sink).await
    }

    async fn encode(
        &self,
        arrow: Box<dyn std::io::Read + Send>,
        format: ResultFormat,
        sink: &mut dyn ResultSink,
    ) -> std::result::Result<(), LakeError> {
        results::encode(arrow, format, sink).await
    }
}

/// Stack that is left at least while a text is parsed and planned, whatever thread polls it.
const STACK_LEFT: usize = 6 << 20;
/// Stack that is taken when less is left; memory is only used as far as it is touched.
const STACK_TAKEN: usize = 16 << 20;

/// A future that has room on its stack: libraries walk the trees of a statement recursively, in debug builds with
/// kilobytes for each level, and a text must not be able to end the process.
struct Roomy<F>(Pin<Box<F>>);

impl<F: Future> Future for Roomy<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        stacker::maybe_grow(STACK_LEFT, STACK_TAKEN, || self.0.as_mut().poll(context))
    }
}

/// Where DataFusion reads: the warehouse, and the files that this text has opened.
#[derive(Debug)]
struct Stores {
    warehouse: Arc<dyn ObjectStore>,
    files: Arc<Handles>,
}

impl ObjectStoreRegistry for Stores {
    fn register_store(&self, _url: &Url, _store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        None
    }

    fn get_store(&self, url: &Url) -> datafusion::error::Result<Arc<dyn ObjectStore>> {
        match url.scheme() {
            "lake" => Ok(self.warehouse.clone()),
            "files" => Ok(self.files.clone()),
            other => Err(DataFusionError::Plan(format!("no query may read from \"{other}\""))),
        }
    }
}

/// A query's own bound within the pool of all queries.
#[derive(Debug)]
struct QueryPool {
    all: Arc<dyn MemoryPool>,
    limit: usize,
    used: AtomicUsize,
}

impl fmt::Display for QueryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "query pool of {} bytes", self.limit)
    }
}

impl MemoryPool for QueryPool {
    fn name(&self) -> &'static str {
        "query"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.all.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.all.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.used.fetch_add(additional, Ordering::Relaxed);
        self.all.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.used.fetch_sub(shrink, Ordering::Relaxed);
        self.all.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> datafusion::error::Result<()> {
        let used = self.used.fetch_add(additional, Ordering::Relaxed);
        let grown = if used + additional > self.limit {
            Err(DataFusionError::ResourcesExhausted(format!(
                "{additional} bytes more than the {used} in use would exceed the query's limit of {} bytes",
                self.limit
            )))
        } else {
            self.all.try_grow(reservation, additional)
        };
        if grown.is_err() {
            self.used.fetch_sub(additional, Ordering::Relaxed);
        }
        grown
    }

    fn reserved(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.limit)
    }
}
