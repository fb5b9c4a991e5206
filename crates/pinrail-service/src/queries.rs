//! Ad hoc queries: SQL that people and programs run beside workflows. Each is a resource: it is asked for, followed,
//! cancelled, and its result is fetched, in any format and as often as wanted, until it is forgotten.
//!
//! A result is spooled as an Arrow IPC stream to a file while the query runs, so a slow reader stops nobody. What a
//! query changed was committed statement by statement and does not depend on its result.
//!
//! Not responsible for what the statements mean (the engine).

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pinrail_model::document::Sha;
use pinrail_model::fault::Fault;
use pinrail_model::ids::{QueryId, fresh};
use pinrail_model::names::{ProjectName, TableRef, TargetName};
use pinrail_model::seam::lake::{
    Column, LakeError, Query as SqlQuery, QueryDone, QueryLimits, ResultFormat, ResultSink, View,
};
use pinrail_model::seam::store::{Answer, Query, QueryRow, Write};
use pinrail_model::target::name_of;
use pinrail_model::time::Micros;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use utoipa::ToSchema;

use crate::app::{App, no_engine, sql_problem};
use crate::problem::Problem;
use crate::tokens::{Principal, Role};
use crate::values::vars;

/// The most bytes that are kept of a result; what comes after is cut and said so.
const LARGEST_RESULT: u64 = 1 << 30;

/// Where a query is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum QueryState {
    Running,
    Succeeded,
    Failed,
    Cancelled,
    /// The server died while it ran.
    Lost,
}

/// An ad hoc query as the API gives it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AdHoc {
    pub id: QueryId,
    pub project: ProjectName,
    /// Whose tables it saw; null in a project without targets.
    #[serde(default)]
    pub target: Option<TargetName>,
    pub state: QueryState,
    /// The statements as they were given.
    pub sql: String,
    /// Who asked.
    pub by: String,
    pub created_at: Micros,
    pub ended_at: Option<Micros>,
    /// Bytes of its result so far.
    pub result_bytes: u64,
    /// Columns of the result, once it has succeeded.
    pub columns: Vec<Column>,
    /// Rows of the result, once it has succeeded.
    pub rows: u64,
    /// The result was larger than is kept.
    pub truncated: bool,
    /// `rows_read`, `bytes_read`, `rows_written`, ...
    pub counters: BTreeMap<String, f64>,
    /// Tables that were written.
    #[schema(value_type = Vec<String>)]
    pub written: Vec<TableRef>,
    /// Tables that the target has not, with the target that they were read from.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, TargetName>)]
    pub read_from: BTreeMap<TableRef, TargetName>,
    /// Why it failed, as a problem document.
    #[schema(value_type = Option<Problem>)]
    pub error: Option<Value>,
}

/// The queries of this server that are under way, and where results lie.
pub struct Queries {
    folder: PathBuf,
    live: Mutex<HashMap<QueryId, Arc<Live>>>,
}

struct Live {
    bytes: AtomicU64,
    /// True once it has ended and its row says how.
    ended: watch::Sender<bool>,
    abort: Mutex<Option<tokio::task::AbortHandle>>,
}

impl Queries {
    /// Results go below the state folder.
    #[must_use]
    pub fn new(state: &Path) -> Self {
        Self { folder: results_folder(state), live: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<QueryId, Arc<Live>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, id: QueryId) -> PathBuf {
        self.folder.join(format!("{id}.arrow"))
    }

    fn live(&self, id: QueryId) -> Option<Arc<Live>> {
        self.lock().get(&id).cloned()
    }
}

/// Where results of ad hoc queries lie.
pub(crate) fn results_folder(state: &Path) -> PathBuf {
    state.join("results")
}

/// Writes a result to its file.
struct Spool {
    file: BufWriter<File>,
    live: Arc<Live>,
}

#[async_trait]
impl ResultSink for Spool {
    async fn chunk(&mut self, bytes: Vec<u8>) -> Result<(), LakeError> {
        let after = self.live.bytes.load(Ordering::Relaxed) + bytes.len() as u64;
        self.file.write_all(&bytes).map_err(|e| spool_failed(&e))?;
        self.live.bytes.store(after, Ordering::Relaxed);
        Ok(())
    }
}

fn spool_failed(error: &std::io::Error) -> LakeError {
    LakeError::new("storage-failed", Fault::Platform, format!("the result cannot be kept: {error}"))
}

impl App {
    /// Begins a query; its statements commit one by one.
    ///
    /// # Errors
    /// When the caller may not, or the bundle is not known. What is wrong with the text is told by the query itself.
    pub async fn begin_query(
        self: &Arc<Self>,
        principal: &Principal,
        project: &ProjectName,
        text: String,
        (bundle, target): (Option<Sha>, Option<&TargetName>),
    ) -> Result<AdHoc, Problem> {
        principal.may(Role::Operator, project)?;
        self.engine.as_ref().ok_or_else(no_engine)?;
        let (bundle, target) = match bundle {
            Some(bundle) => (bundle, self.target_in(project, bundle, target).await?),
            None => {
                let target = self.target_of_deployed(principal, project, None, target).await?;
                (self.deployed_bundle(principal, project, target.as_ref()).await?, target)
            }
        };
        let (root, settings) = self.bundle(project, bundle).await?;
        let files = self.files_of(project, root, settings).await?;
        let query = AdHoc {
            sql: text.clone(),
            by: principal.name.clone(),
            target: name_of(target.as_ref()),
            ..AdHoc::new(fresh(self.ids.as_ref()), project.clone(), QueryState::Running, self.now())
        };
        self.keep_query(&query).await?;
        let live = Arc::new(Live { bytes: 0.into(), ended: watch::Sender::new(false), abort: Mutex::default() });
        self.queries.lock().insert(query.id, Arc::clone(&live));
        let (app, mut ended) = (Arc::clone(self), query.clone());
        let values = vars(target.as_ref());
        let statement = SqlQuery { text, file: None, values, files, writes: None, declares_job: false };
        let work = tokio::spawn({
            let (app, live) = (Arc::clone(self), Arc::clone(&live));
            let (view, id) = (View::now(project.clone(), target), query.id);
            async move { app.run_query(id, statement, view, live).await }
        });
        *live.abort.lock().unwrap_or_else(PoisonError::into_inner) = Some(work.abort_handle());
        tokio::spawn(async move {
            match work.await {
                Ok(Ok(done)) => succeed(&mut ended, done),
                Ok(Err(error)) => fail(&mut ended, &sql_problem(error)),
                Err(error) if error.is_cancelled() => ended.state = QueryState::Cancelled,
                Err(_) => fail(&mut ended, &Problem::new("internal", "the query ended in a way it should not")),
            }
            ended.ended_at = Some(app.now());
            ended.result_bytes = live.bytes.load(Ordering::Relaxed);
            if let Err(error) = app.keep_query(&ended).await {
                tracing::warn!(%error, id = %ended.id, "the end of a query cannot be stored");
            }
            app.queries.lock().remove(&ended.id);
            live.ended.send_replace(true);
        });
        Ok(query)
    }

    async fn run_query(
        &self,
        id: QueryId,
        statement: SqlQuery,
        view: View,
        live: Arc<Live>,
    ) -> Result<QueryDone, LakeError> {
        let engine = self.engine.as_ref().ok_or_else(|| spool_failed(&std::io::Error::other("no engine")))?;
        std::fs::create_dir_all(&self.queries.folder).map_err(|e| spool_failed(&e))?;
        let file = File::create(self.queries.file(id)).map_err(|e| spool_failed(&e))?;
        let mut spool = Spool { file: BufWriter::new(file), live };
        let limits = QueryLimits { bytes: Some(LARGEST_RESULT), ..QueryLimits::default() };
        let done = engine.run(&statement, &view, &limits, ResultFormat::Arrow, &mut spool).await?;
        spool.file.flush().map_err(|e| spool_failed(&e))?;
        Ok(done)
    }

    async fn keep_query(&self, query: &AdHoc) -> Result<(), Problem> {
        let data = serde_json::to_value(query).map_err(|e| Problem::new("internal", e.to_string()))?;
        self.commit(vec![Write::Query(Box::new(QueryRow {
            id: query.id,
            project: query.project.clone(),
            state: data["state"].as_str().unwrap_or_default().to_owned(),
            created_at: query.created_at,
            data,
        }))])
        .await
    }

    /// One query, as it is now.
    ///
    /// # Errors
    /// 404 when there is none in the caller's reach.
    pub async fn query(&self, principal: &Principal, id: QueryId) -> Result<AdHoc, Problem> {
        // Looked for first: a query that ends in between is then found as it ended.
        let live = self.queries.live(id);
        match self.store.read(&Self::who(principal), Query::AdHoc { id }).await? {
            Answer::AdHoc(row) => Ok(shown(*row, live.as_deref())),
            _ => Err(query_not_found(&id.to_string())),
        }
    }

    /// Waits until a query has ended, or as long as the caller wants.
    ///
    /// # Errors
    /// 404 when there is none in the caller's reach.
    pub async fn wait_query(&self, principal: &Principal, id: QueryId, patience: Duration) -> Result<AdHoc, Problem> {
        self.query(principal, id).await?;
        if let Some(live) = self.queries.live(id) {
            let mut ended = live.ended.subscribe();
            // Whether it has ended or patience has, the query is told as it then is.
            let _ = tokio::time::timeout(patience, ended.wait_for(|ended| *ended)).await;
        }
        self.query(principal, id).await
    }

    /// A page of a project's queries, newest first.
    ///
    /// # Errors
    /// When the project is not in the caller's reach.
    pub async fn list_queries(
        &self,
        principal: &Principal,
        project: &ProjectName,
        before: Option<QueryId>,
        limit: u32,
    ) -> Result<Vec<AdHoc>, Problem> {
        principal.may(Role::Viewer, project)?;
        let query = Query::AdHocs { project: project.clone(), before, limit };
        let Answer::AdHocs(rows) = self.store.read(&Self::who(principal), query).await? else { return Ok(Vec::new()) };
        Ok(rows
            .into_iter()
            .map(|row| (self.queries.live(row.id), row))
            .map(|(live, row)| shown(row, live.as_deref()))
            .collect())
    }

    /// Ends a query. Statements that it has finished stay; the one under way leaves nothing.
    ///
    /// # Errors
    /// 409 when it has ended already.
    pub async fn cancel_query(&self, principal: &Principal, id: QueryId) -> Result<AdHoc, Problem> {
        let query = self.query(principal, id).await?;
        principal.may(Role::Operator, &query.project)?;
        let Some(live) = self.queries.live(id) else {
            return Err(Problem::new("wrong-state", format!("query {id} has already ended")));
        };
        if let Some(abort) = live.abort.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            abort.abort();
        }
        self.wait_query(principal, id, ABORT_PATIENCE).await
    }

    /// Sends a query's result in a format.
    ///
    /// # Errors
    /// 409 while it runs, why it failed if it did, 410 when the result is no longer kept.
    pub async fn query_result(
        &self,
        principal: &Principal,
        id: QueryId,
        format: ResultFormat,
        sink: &mut dyn ResultSink,
    ) -> Result<(), Problem> {
        let query = self.query(principal, id).await?;
        match query.state {
            QueryState::Succeeded => {}
            QueryState::Failed => return Err(told_again(query.error)),
            QueryState::Running => {
                let problem = Problem::new("wrong-state", format!("query {id} is still running"));
                return Err(problem.hint(format!("Wait for it with GET /api/v1/queries/{id}?wait=60.")));
            }
            QueryState::Cancelled | QueryState::Lost => {
                return Err(Problem::new("wrong-state", format!("query {id} has no result: it did not end by itself")));
            }
        }
        let file = File::open(self.queries.file(id)).map_err(|_| {
            Problem::new("result-gone", format!("the result of query {id} is no longer kept")).hint("Run it again.")
        })?;
        let engine = self.engine.as_ref().ok_or_else(no_engine)?;
        engine.encode(Box::new(file), format, sink).await.map_err(sql_problem)
    }
}

/// How long a cancelled query may take to end before the answer says that it still runs.
const ABORT_PATIENCE: Duration = Duration::from_secs(5);

fn succeed(query: &mut AdHoc, done: QueryDone) {
    query.state = QueryState::Succeeded;
    query.columns = done.columns;
    query.rows = done.rows;
    query.truncated = done.truncated;
    query.counters = done.counters;
    query.written = done.written;
    query.read_from = done.read_from;
}

fn fail(query: &mut AdHoc, problem: &Problem) {
    query.state = QueryState::Failed;
    query.error = serde_json::to_value(problem).ok();
}

impl AdHoc {
    /// A query of which nothing more is known.
    fn new(id: QueryId, project: ProjectName, state: QueryState, created_at: Micros) -> Self {
        Self {
            id,
            project,
            target: None,
            state,
            sql: String::new(),
            by: String::new(),
            created_at,
            ended_at: None,
            result_bytes: 0,
            columns: Vec::new(),
            rows: 0,
            truncated: false,
            counters: BTreeMap::new(),
            written: Vec::new(),
            read_from: BTreeMap::new(),
            error: None,
        }
    }
}

/// A query's row as people see it now.
fn shown(row: QueryRow, live: Option<&Live>) -> AdHoc {
    let lost = AdHoc::new(row.id, row.project, QueryState::Lost, row.created_at);
    let mut query: AdHoc = serde_json::from_value(row.data).unwrap_or(lost);
    if query.state == QueryState::Running {
        match live {
            Some(live) => query.result_bytes = live.bytes.load(Ordering::Relaxed),
            None => query.state = QueryState::Lost,
        }
    }
    query
}

/// The stored problem of a failed query.
fn told_again(error: Option<Value>) -> Problem {
    let text = |name: &str| error.as_ref().and_then(|error| error[name].as_str()).unwrap_or_default().to_owned();
    let mut problem = Problem::new("bad-sql", text("detail"));
    problem.hint = Some(text("hint")).filter(|hint| !hint.is_empty());
    if let Some(code) = error.as_ref().and_then(|error| error.get("sql_code")) {
        problem = problem.with("sql_code", code);
    }
    problem
}

pub(crate) fn query_not_found(id: &str) -> Problem {
    Problem::new("query-not-found", format!("no query \"{id}\" that this token can see"))
}
