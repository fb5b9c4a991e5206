//! What the lake offers (tables and embedded SQL) and what it needs (somewhere durable to keep table pointers).
//!
//! The lake prepares files and hands pointer swaps to whoever commits them; it never opens a database. So an attempt's
//! tables and its outcome can become true in one transaction that the lake knows nothing of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::fault::{Evidence, Fault};
use crate::ids::{AttemptId, RunId, TableId};
use crate::names::{ProjectName, TableRef, TargetName};
use crate::tables::{Draft, Outline};
use crate::target::{Place, Target};
use crate::time::Micros;

/// Where a table's current metadata file is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    pub id: TableId,
    pub table: TableRef,
    /// Full location of an Iceberg metadata file.
    pub location: String,
}

/// One change of one pointer: create (`expect` none), replace, or drop (`new` none).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointerSwap {
    pub id: TableId,
    pub table: TableRef,
    /// The location that must still be current; none: no such table exists.
    pub expect: Option<String>,
    pub new: Option<String>,
}

/// An attempt's uncommitted state of one table. `staged` none: dropped by the attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    pub attempt: AttemptId,
    pub id: TableId,
    pub table: TableRef,
    /// The pointer that the attempt's first write found; none: the attempt created the table.
    pub base: Option<String>,
    pub staged: Option<String>,
    /// Declared by the job: also published when nothing changed, and (for overwrites) conflict-checked by partition.
    pub intent: Intent,
}

/// How the attempt's changes are replayed when somebody else has published in between.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Intent {
    /// By the net change of files: appends always replay, removals conflict if the file is gone.
    #[default]
    Changes,
    /// As `Changes`, and a file that somebody added to one of these partitions since the base is a conflict.
    /// An empty list means the whole table.
    Overwrite { partitions: Vec<BTreeMap<String, serde_json::Value>> },
    /// The table is made with its rows; one that somebody else has made meanwhile is a conflict.
    New,
}

/// Whose tables a statement sees.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    pub project: ProjectName,
    /// Whose tables they are; none: the project has no targets.
    pub target: Option<Arc<Target>>,
    /// Reads see the project as of this catalog sequence; none: the head.
    pub at: Option<u64>,
    /// Writes are staged for this attempt and read back by it alone; none: every statement commits by itself.
    pub attempt: Option<AttemptView>,
}

impl View {
    /// What a statement of its own sees: the tables as they are now.
    #[must_use]
    pub fn now(project: ProjectName, target: Option<Arc<Target>>) -> Self {
        Self { project, target, at: None, attempt: None }
    }

    /// Where what it writes goes.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { project: self.project.clone(), prefix: self.target.as_ref().and_then(|target| target.prefix.clone()) }
    }
}

/// The attempt behind a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptView {
    pub run: RunId,
    pub attempt: AttemptId,
    /// The owner's epoch: a stale one may not stage.
    pub epoch: u64,
    pub generation: u32,
    /// What the job declared it writes; empty: any table of the project.
    pub writes: Vec<Writes>,
}

/// A table, or one partition of it, that a job owns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writes {
    pub table: TableRef,
    /// Column to value; empty: the whole table.
    #[serde(default)]
    pub partition: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    pub mode: WriteMode,
}

/// What a publication does to what was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WriteMode {
    #[default]
    Replace,
    Append,
}

/// Why pointers could not be read or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PointerError {
    /// Somebody else published one of the tables first; nothing was changed.
    #[error("table \"{0}\" was changed by somebody else")]
    Conflict(TableRef),
    /// The attempt is no longer the owner's; nothing was changed.
    #[error("the attempt has ended or was taken over")]
    Fenced,
    #[error("the state database failed: {0}")]
    Failed(String),
}

/// The durable table pointers, kept by whoever owns the state database. Tables have the names that people write; where they
/// are of, a target's prefix included, is the place's business.
#[async_trait]
pub trait Pointers: Send + Sync {
    /// The project's current catalog sequence, raised by every publication.
    async fn head(&self, project: &ProjectName) -> Result<u64, PointerError>;
    /// The table as of a catalog sequence (none: now), without overlays.
    async fn find(&self, place: &Place, table: &TableRef, at: Option<u64>) -> Result<Option<Pointer>, PointerError>;
    /// All tables of the place as of a catalog sequence (none: now), by name, without overlays.
    async fn list(&self, place: &Place, at: Option<u64>) -> Result<Vec<Pointer>, PointerError>;
    /// The attempt's overlays, by table.
    async fn overlays(&self, attempt: AttemptId) -> Result<Vec<Overlay>, PointerError>;
    /// Adds or replaces one overlay durably, if (attempt, epoch) still owns its task.
    async fn stage(&self, epoch: u64, overlay: Overlay) -> Result<(), PointerError>;
    /// Commits swaps that belong to no attempt: all of them or none.
    async fn swap(&self, place: &Place, swaps: Vec<PointerSwap>) -> Result<(), PointerError>;
    /// The locations of all metadata files that are or were a pointer's, of any project and dropped tables too, and those
    /// of all overlays; oldest first within a table. All as of one moment.
    async fn named(&self) -> Result<Vec<(TableId, String)>, PointerError>;
}

/// The namespace of the tables that the platform keeps about itself.
pub const SYSTEM: &str = "system";

/// Tables that the platform keeps about itself: read like others, never written by statements.
#[async_trait]
pub trait SystemTables: Send + Sync {
    /// Their names and columns.
    fn tables(&self) -> Vec<(&'static str, Vec<Column>)>;
    /// The rows of one of them that belong to a project, as JSON values in the order of the columns; times are integers,
    /// microseconds since 1970.
    async fn rows(&self, project: &ProjectName, table: &str) -> Result<Vec<Vec<serde_json::Value>>, LakeError>;
}

/// Tables and their life.
#[async_trait]
pub trait Catalog: Send + Sync {
    /// The tables that the view sees, with columns.
    async fn list(&self, view: &View) -> Result<Vec<TableInfo>, LakeError>;
    /// Replays the attempt's overlays (and declared but unchanged `writes`) on the current heads, outside of any
    /// transaction: one new snapshot for each table. The caller swaps the pointers together with the outcome, and asks
    /// again when one has moved meanwhile.
    async fn prepare(&self, view: &View) -> Result<Vec<PointerSwap>, LakeError>;
    /// What prepared swaps change, for people.
    async fn written(&self, swaps: &[PointerSwap]) -> Result<Vec<Written>, LakeError>;
    /// Files of tables, of all projects, that were last written before a time and that nothing names: no metadata of any
    /// pointer, present or past, or overlay, and no statement that runs now. What was prepared but not yet swapped is
    /// protected only by its age.
    async fn orphans(&self, before: Micros) -> Result<Vec<PathBuf>, LakeError>;
}

/// What an attempt's success changed of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Written {
    #[schema(value_type = String)]
    pub table: TableRef,
    /// Rows that it wrote; null when it dropped the table.
    pub rows: Option<u64>,
    /// The partition that they are in, such as `day=2013-01-01`, when it is one.
    pub partition: Option<String>,
}

/// What people see of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Table)]
pub struct TableInfo {
    pub table: TableRef,
    pub columns: Vec<Column>,
    pub partitioned_by: Vec<String>,
    pub location: String,
    pub snapshot_id: Option<i64>,
    pub rows: Option<u64>,
    pub bytes: Option<u64>,
    /// Staged by the attempt that looks, not yet published.
    pub staged: bool,
    /// The target whose table it is, where the one that looks has none of that name and reads it from there.
    pub read_from: Option<TargetName>,
}

/// A column of a table or result, its type by Iceberg's name, such as `decimal(10, 2)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Column {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
}

/// One SQL text with what its template needs.
#[derive(Debug, Clone)]
pub struct Query {
    /// May hold several statements and a header of `-- key: value` lines; templates not yet filled in.
    pub text: String,
    /// The project-relative file the text came from, for error messages.
    pub file: Option<String>,
    /// Template values by dotted path: `ds`, `interval.start`, `params.min_flights`, `upstream.load.rows`.
    pub values: BTreeMap<String, Value>,
    /// Which files `read_csv` and its siblings may open.
    pub files: FileScope,
    /// What the job declares it writes, from the workflow file; the text's own header counts if this is none.
    pub writes: Option<Vec<Writes>>,
    /// The text declares its job, so its header may hold settings of the job, which the workflow document has.
    pub declares_job: bool,
}

/// One of several texts that will run one after the other.
#[derive(Debug, Clone)]
pub struct InTurn {
    pub query: Query,
    /// Tables that something else will have written before it: their columns cannot be known.
    pub unknown: Vec<TableRef>,
}

/// A typed template value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Boolean(bool),
    Integer(i64),
    /// Exact digits, as written.
    Decimal(String),
    Double(f64),
    String(String),
    /// `2013-01-02`
    Date(String),
    /// Microseconds since 1970, UTC.
    Timestamp(i64),
    List(Vec<Value>),
}

/// The files that one statement may open: those below `root`, then those below `project` that match a pattern.
#[derive(Debug, Clone, Default)]
pub struct FileScope {
    /// The unpacked bundle.
    pub root: Option<PathBuf>,
    /// The project's own folder, for `[files]` that are read in place.
    pub project: Option<PathBuf>,
    /// Patterns of `[files]`; none: every file of the project's folder that the bundle left out.
    pub patterns: Option<Vec<String>>,
    /// Never opened, whatever the patterns say: state folder, `.git`.
    pub forbidden: Vec<PathBuf>,
}

impl FileScope {
    /// What a project's SQL may open: its unpacked bundle, and of its own folder what the patterns of `[files]` match; not
    /// the state folder, nor what git keeps, which may hold credentials.
    #[must_use]
    pub fn of_project(root: PathBuf, project: Option<PathBuf>, patterns: Option<Vec<String>>, state: &Path) -> Self {
        Self { root: Some(root), project, patterns, forbidden: vec![state.to_owned(), PathBuf::from(".git")] }
    }
}

/// What a text would do, found without running it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Checked {
    /// The text with its templates filled in.
    pub rendered: String,
    pub reads: Vec<TableRef>,
    pub writes: Vec<TableRef>,
    /// Columns of the last result, when they can be known.
    pub columns: Vec<Column>,
    /// Keys of the header.
    pub header: BTreeMap<String, String>,
}

/// How a result is encoded on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ResultFormat {
    /// An Arrow IPC stream.
    Arrow,
    /// `{"columns": [{"name", "type"}], "rows": [[...]]}`
    Json,
    Csv,
}

/// What bounds one query.
#[derive(Debug, Clone, Default)]
pub struct QueryLimits {
    /// Rows of the last result that are delivered; the rest is cut and said so.
    pub rows: Option<u64>,
    /// Bytes of the last result, as it is encoded, that are delivered; it is cut before the first batch beyond them.
    pub bytes: Option<u64>,
    /// Bytes of memory that the query may hold.
    pub memory: Option<u64>,
}

/// What a query did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct QueryDone {
    pub rendered: String,
    pub columns: Vec<Column>,
    /// Rows of the last result (delivered ones).
    pub rows: u64,
    pub truncated: bool,
    /// `rows_read`, `bytes_read`, `rows_written`, `bytes_written`, ...
    pub counters: BTreeMap<String, f64>,
    /// Tables published (no attempt) or staged (attempt), each once.
    pub written: Vec<TableRef>,
    /// Tables that the target has not, with the target that they were read from.
    #[serde(default)]
    pub read_from: BTreeMap<TableRef, TargetName>,
    /// Values of a one-row result, for a header `-- output: name`.
    pub outputs: BTreeMap<String, serde_json::Value>,
}

/// Takes a result as it is made.
#[async_trait]
pub trait ResultSink: Send {
    async fn chunk(&mut self, bytes: Vec<u8>) -> Result<(), LakeError>;
}

/// Runs SQL. Dropping the future of `run` cancels the query; what it staged or wrote without committing is garbage.
#[async_trait]
pub trait QueryEngine: Send + Sync {
    async fn check(&self, query: &Query, view: &View) -> Result<Checked, LakeError>;
    /// Checks texts that will run one after the other: each sees the tables that those before it would make. Gives an
    /// answer for each, in the same order.
    async fn check_in_turn(&self, queries: &[InTurn], view: &View) -> Vec<Result<Checked, LakeError>>;
    /// Which tables texts read and write, by the texts alone: no table needs to be there. Gives an answer for each, in the
    /// same order.
    async fn outline(&self, drafts: &[Draft]) -> Vec<Result<Outline, LakeError>>;
    async fn run(
        &self,
        query: &Query,
        view: &View,
        limits: &QueryLimits,
        format: ResultFormat,
        sink: &mut dyn ResultSink,
    ) -> Result<QueryDone, LakeError>;
    /// Encodes a result that [`run`](Self::run) made as an Arrow IPC stream. A stream that does not end as it should is
    /// an error.
    async fn encode(
        &self,
        arrow: Box<dyn std::io::Read + Send>,
        format: ResultFormat,
        sink: &mut dyn ResultSink,
    ) -> Result<(), LakeError>;
}

/// Why the lake could not do something: whose fault, where in the text, what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", evidence.message)]
pub struct LakeError {
    /// Stable, kebab-case: `table-not-found`, `column-not-found`, `sql-syntax`, `template-undefined`, `path-refused`, ...
    pub code: &'static str,
    pub fault: Fault,
    pub evidence: Box<Evidence>,
    /// 1-based line and column in the query's text.
    pub place: Option<(u32, u32)>,
}

impl LakeError {
    #[must_use]
    pub fn new(code: &'static str, fault: Fault, message: impl Into<String>) -> Self {
        Self { code, fault, evidence: Box::new(Evidence::new(message)), place: None }
    }

    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.evidence.remedy = Some(remedy.into());
        self
    }

    #[must_use]
    pub fn at(mut self, line: u32, column: u32) -> Self {
        self.place = Some((line, column));
        self
    }
}

impl From<PointerError> for LakeError {
    fn from(error: PointerError) -> Self {
        let (code, fault) = match &error {
            PointerError::Conflict(_) => ("conflict", Fault::Conflict),
            PointerError::Fenced => ("fenced", Fault::Platform),
            PointerError::Failed(_) => ("state-failed", Fault::Platform),
        };
        Self::new(code, fault, error.to_string())
    }
}
