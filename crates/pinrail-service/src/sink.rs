//! What an executor reports into, and what a job may ask for while it runs: logs, counters, SQL, files.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;
use pinrail_model::document::SqlSource;
use pinrail_model::fault::{Evidence, Fault};
use pinrail_model::run::{Phase, Report};
use pinrail_model::seam::exec::{AttemptSink, Request, RequestError, Stream};
use pinrail_model::seam::lake::{
    AttemptView, FileScope, LakeError, PointerSwap, Query as SqlQuery, QueryDone, QueryLimits, ResultFormat,
    ResultSink, Value as SqlValue, View, Writes,
};
use pinrail_model::seam::store::{CounterRow, FileRow, Write};
use serde_json::{Value, json};

use crate::attempt::{OneWork, head};
use crate::mask::StreamMask;
use crate::owner::Input;
use crate::secrets::{declared, set_again};
use crate::values::{self, Scope};

/// Rows that a job gets from one `ctx.sql`. More belongs into a table.
const MOST_ROWS: u64 = 1_000_000;

/// The largest file for people: it is held in memory on its way, and larger ones belong into a table.
const LARGEST_FILE: u64 = 256 << 20;

/// The sink of one piece of work.
pub(crate) struct Sink {
    work: Arc<OneWork>,
    view: OnceLock<u64>,
    /// What masks streams that arrive in pieces, by stream.
    streams: Mutex<BTreeMap<u8, StreamMask>>,
}

/// What a job that only reads is told: most likely its header is missing.
const NOTHING_DONE: &[u8] = b"warning: the statements write no table and leave no output\n\
    hint: Begin the file with -- writes: namespace.table, or with -- output: name.";

/// A fault with its evidence.
pub(crate) type Failure = (Fault, Evidence);

impl Sink {
    pub fn new(work: Arc<OneWork>) -> Self {
        let view = OnceLock::new();
        if let Some(seq) = work.ticket.attempt.view {
            let _ = view.set(seq);
        }
        Self { work, view, streams: Mutex::default() }
    }

    fn view(&self) -> View {
        let ticket = &self.work.ticket;
        View {
            project: ticket.project.clone(),
            at: self.view.get().copied(),
            attempt: Some(AttemptView {
                run: ticket.run,
                attempt: ticket.attempt.id,
                epoch: ticket.epoch,
                generation: ticket.generation,
                writes: self.declared(),
            }),
        }
    }

    /// What the workflow file declares that the job writes, its partition templates filled in.
    fn declared(&self) -> Vec<Writes> {
        values::declared(&self.work.ticket.job, &self.work.ticket.ds())
    }

    /// Where the rows of a job's one SELECT go, unless the job says something of its own.
    fn declared_for_select(&self) -> Option<Vec<Writes>> {
        Some(self.declared()).filter(|declared| !declared.is_empty())
    }

    /// Declarations that `execute` returned, with `{{ ds }}` filled in.
    fn filled(&self, mut writes: Vec<Writes>) -> Vec<Writes> {
        let ds = self.work.ticket.ds();
        for value in writes.iter_mut().flat_map(|writes| writes.partition.values_mut()) {
            if let Value::String(text) = value {
                *value = values::fill(text, &ds);
            }
        }
        writes
    }

    async fn query(
        &self,
        text: String,
        file: Option<String>,
        params: &BTreeMap<String, Value>,
        writes: Option<Vec<Writes>>,
    ) -> Result<SqlQuery, Failure> {
        let code = self.work.code().await.map_err(|evidence| (Fault::Platform, evidence))?;
        let project = crate::project::Project::read_bundle(&code.root, &self.work.ticket.project).ok();
        let patterns = project.and_then(|project| project.files).map(|files| files.into_values().collect());
        let files = FileScope {
            root: Some(code.root),
            forbidden: vec![self.work.attempts.parts.state.clone()],
            project: code.project,
            patterns,
        };
        Ok(SqlQuery { text, file, values: self.values(params), files, writes })
    }

    /// Template values by dotted path.
    fn values(&self, own: &BTreeMap<String, Value>) -> BTreeMap<String, SqlValue> {
        let ticket = &self.work.ticket;
        let (ds, interval) = (ticket.ds(), ticket.interval);
        let scope = Scope { ds: &ds, interval, params: &ticket.params, param_types: &ticket.param_types };
        let upstream = ticket.upstream.iter().flat_map(|(job, left)| {
            let outputs = left["outputs"].as_object().into_iter().flatten();
            outputs.map(move |(name, value)| (job.as_str(), name, value))
        });
        scope.values(own, upstream)
    }

    async fn text(&self, source: &SqlSource) -> Result<(String, Option<String>), Failure> {
        match source {
            SqlSource::Text(text) => Ok((text.clone(), None)),
            SqlSource::File(file) => {
                let code = self.work.code().await.map_err(|evidence| (Fault::Platform, evidence))?;
                if !crate::project::is_inside(file) {
                    return Err((Fault::User, Evidence::new(format!("\"{file}\" is not a path inside the project"))));
                }
                let text = std::fs::read_to_string(code.root.join(file)).map_err(|e| {
                    let evidence = Evidence::new(format!("\"{file}\" cannot be read: {e}"));
                    (
                        Fault::User,
                        evidence.remedy("Check the path in the workflow file; it is relative to the project."),
                    )
                })?;
                Ok((text, Some(file.clone())))
            }
        }
    }

    /// Checks a text before it is run: templates, syntax, tables, columns.
    pub async fn check_sql(&self, source: &SqlSource) -> Result<(), Failure> {
        let Some(engine) = &self.work.attempts.parts.engine else { return Err(no_engine()) };
        let (text, file) = self.text(source).await?;
        let query = self.query(text, file.clone(), &BTreeMap::new(), self.declared_for_select()).await?;
        engine.check(&query, &self.view()).await.map(|_| ()).map_err(|error| failure(error, file.as_deref()))
    }

    /// Runs a text for the attempt; its result is what `complete` gets.
    pub async fn run_sql(
        &self,
        source: &SqlSource,
        params: &BTreeMap<String, Value>,
        writes: Option<Vec<Writes>>,
    ) -> Result<(Value, BTreeMap<String, Value>), Failure> {
        let (text, file) = self.text(source).await?;
        let writes = writes.map(|writes| self.filled(writes)).or_else(|| self.declared_for_select());
        let query = self.query(text, file.clone(), params, writes).await?;
        let (done, _) = self.execute(&query, ResultFormat::Json).await.map_err(|e| failure(e, file.as_deref()))?;
        if done.written.is_empty() && done.outputs.is_empty() {
            self.log(Some(Phase::Execute), Stream::System, NOTHING_DONE);
        }
        let result = json!({
            "state": "succeeded",
            "rows": done.counters.get("rows_written").map_or(done.rows, |rows| *rows as u64),
            "schema": done.columns,
            "counters": done.counters,
            "url": null,
        });
        Ok((result, done.outputs))
    }

    async fn execute(&self, query: &SqlQuery, format: ResultFormat) -> Result<(QueryDone, Vec<u8>), LakeError> {
        let Some(engine) = &self.work.attempts.parts.engine else {
            let (fault, evidence) = no_engine();
            return Err(LakeError::new("engine-missing", fault, evidence.message));
        };
        // Said before the first file is staged: a crash in between must not publish without looking.
        self.work.live.wrote.store(true, Ordering::SeqCst);
        let mut collected = Collected(Vec::new());
        let limits = QueryLimits { rows: Some(MOST_ROWS), ..QueryLimits::default() };
        let done = engine.run(query, &self.view(), &limits, format, &mut collected).await?;
        for (name, value) in &done.counters {
            self.counter("sql", name, *value, None);
        }
        Ok((done, collected.0))
    }

    /// Says in the log what a statement failed of: there is no process that would.
    pub fn tell_failure(&self, phase: Phase, evidence: &Evidence) {
        let remedy = evidence.remedy.as_ref().map_or_else(String::new, |remedy| format!("\nhint: {remedy}"));
        self.log(Some(phase), Stream::System, format!("error: {}{remedy}", evidence.message).as_bytes());
    }

    /// An attempt may have many processes and run many statements; what they count is summed, but for peaks.
    fn count(&self, group: &str, name: &str, value: f64) -> f64 {
        let mut counted = self.work.live.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let so_far = counted.entry((group.to_owned(), name.to_owned())).or_default();
        *so_far = if name.starts_with("peak_") { so_far.max(value) } else { *so_far + value };
        *so_far
    }

    /// The pointers that make the attempt's tables true.
    pub async fn prepare(&self) -> Result<Vec<PointerSwap>, Failure> {
        let Some(catalog) = &self.work.attempts.parts.catalog else { return Ok(Vec::new()) };
        catalog.prepare(&self.view()).await.map_err(|error| failure(error, None))
    }

    fn append(&self, phase: Option<Phase>, stream: Stream, bytes: &[u8]) {
        let at = self.work.attempts.parts.clock.now().wall;
        self.work.live.log.append(at, phase, stream, bytes);
    }

    /// The value of a secret that the job declares.
    fn secret(&self, name: &str) -> Result<Value, RequestError> {
        let ticket = &self.work.ticket;
        let refused = |code: &str, message: String, hint: String| {
            Err(RequestError { code: code.to_owned(), message, hint: Some(hint) })
        };
        let Some(known) = declared(&ticket.job).into_iter().find(|known| known.as_str() == name) else {
            let message = format!("secret \"{name}\" is not declared by job \"{}\"", ticket.job.name);
            return refused("secret-not-declared", message, "Declare it in its template: secrets=['NAME'].".to_owned());
        };
        match self.work.live.revealed().value(known) {
            Some(value) => Ok(json!({"value": value})),
            None => {
                let message = format!("secret \"{name}\" is not set in project \"{}\"", ticket.project);
                refused("secret-not-found", message, set_again(known))
            }
        }
    }

    async fn save(&self, name: &str, path: &Path) -> Result<Value, RequestError> {
        let refused = |message: String| RequestError { code: "save-refused".to_owned(), message, hint: None };
        let scratch = self.work.attempts.parts.state.join("scratch").join(self.work.ticket.attempt.id.to_string());
        let real = path.canonicalize().map_err(|e| refused(format!("\"{}\" cannot be read: {e}", path.display())))?;
        let inside = scratch.canonicalize().is_ok_and(|scratch| real.starts_with(scratch));
        if !inside {
            return Err(refused(format!("\"{}\" is not in the attempt's scratch folder", path.display())));
        }
        if !crate::project::is_inside(name) || name.contains('/') {
            return Err(refused(format!("\"{name}\" is not a file name")));
        }
        if self.work.live.revealed().masks.hides(name) {
            return Err(refused("the file's name holds the value of a secret".to_owned()));
        }
        let bundles = self.work.attempts.parts.bundles.clone();
        // Until the row that names it is on its way.
        let _held = bundles.hold().await;
        let kept = tokio::task::spawn_blocking(move || {
            let size = std::fs::metadata(&real).map_err(|e| e.to_string())?.len();
            if size > LARGEST_FILE {
                return Err(format!("the file has {} MiB; at most {} MiB are kept", size >> 20, LARGEST_FILE >> 20));
            }
            let bytes = std::fs::read(&real).map_err(|e| e.to_string())?;
            Ok((bundles.put(&bytes).map_err(|e| e.to_string())?, bytes.len() as u64))
        });
        let (sha, size) = kept.await.map_err(|e| refused(e.to_string()))?.map_err(refused)?;
        let ticket = &self.work.ticket;
        self.work.owner.tell(Input::Behind(vec![Write::File(FileRow {
            run: ticket.run,
            attempt: ticket.attempt.id,
            job: ticket.job.name.clone(),
            name: name.to_owned(),
            sha,
            size,
        })]));
        Ok(json!({"url": format!("/api/v1/runs/{}/files/{}/{name}", ticket.run, ticket.job.name)}))
    }
}

struct Collected(Vec<u8>);

#[async_trait]
impl ResultSink for Collected {
    async fn chunk(&mut self, bytes: Vec<u8>) -> Result<(), LakeError> {
        self.0.extend(bytes);
        Ok(())
    }
}

fn no_engine() -> Failure {
    (Fault::User, Evidence::new("this build of pinrail has no SQL engine"))
}

/// Says in which file it was, when it was in one.
fn failure(error: LakeError, file: Option<&str>) -> Failure {
    let LakeError { code, fault, mut evidence, place } = error;
    evidence.facts.push(("code".to_owned(), code.to_owned()));
    if let Some((line, column)) = place {
        let file = file.unwrap_or("the statement");
        evidence.message = format!("{file}:{line}:{column}: {}", evidence.message);
    } else if let Some(file) = file {
        evidence.message = format!("{file}: {}", evidence.message);
    }
    (fault, *evidence)
}

#[async_trait]
impl AttemptSink for Sink {
    fn report(&self, report: Report) {
        self.work.report(report);
    }

    fn log(&self, phase: Option<Phase>, stream: Stream, bytes: &[u8]) {
        let seen = StreamMask::new(&self.work.live.revealed().masks).push(bytes, true).into_owned();
        self.append(phase, stream, &seen);
    }

    fn piece(&self, stream: Stream, bytes: &[u8], last: bool) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let masked = streams.entry(stream as u8);
        let masked = masked.or_insert_with(|| StreamMask::new(&self.work.live.revealed().masks));
        let seen = masked.push(bytes, last);
        // An empty line is a line of a log, and nothing of a stream.
        if !seen.is_empty() || (last && stream == Stream::Log) {
            self.append(None, stream, &seen);
        }
    }

    fn counter(&self, group: &str, name: &str, value: f64, unit: Option<&str>) {
        let ticket = &self.work.ticket;
        // The user's own are what the user says last.
        let value = if group == "process" || group == "sql" { self.count(group, name, value) } else { value };
        let masks = &self.work.live.revealed().masks;
        self.work.owner.tell(Input::Behind(vec![Write::Counters(vec![CounterRow {
            attempt: ticket.attempt.id,
            run: ticket.run,
            group: group.to_owned(),
            name: masks.text(name).into_owned(),
            value,
            unit: unit.map(|unit| masks.text(unit).into_owned()),
        }])]));
    }

    fn progress(&self, done: Option<f64>, text: Option<&str>) {
        let done = done.map_or_else(String::new, |done| format!("{:.0} % ", done * 100.0));
        self.log(None, Stream::System, format!("progress {done}{}", text.unwrap_or_default()).as_bytes());
    }

    fn defines(&self, phases: &[Phase]) {
        self.work.live.cleans_up.store(phases.contains(&Phase::Cleanup), Ordering::SeqCst);
    }

    async fn fix_view(&self) -> Result<(), String> {
        let parts = &self.work.attempts.parts;
        if parts.catalog.is_none() {
            return Ok(());
        }
        let catalog_seq = head(parts.store.as_ref(), &self.work.ticket.project).await?;
        let _ = self.view.set(catalog_seq);
        self.report(Report::Viewed { catalog_seq });
        Ok(())
    }

    async fn request(&self, request: Request) -> Result<Value, RequestError> {
        match request {
            Request::Sql { text } => {
                let bad = |(_, evidence): Failure| RequestError {
                    code: "sql".to_owned(),
                    message: evidence.message,
                    hint: evidence.remedy,
                };
                // Its rows come back, whatever the job declares that it writes.
                let query = self.query(text, None, &BTreeMap::new(), None).await.map_err(bad)?;
                let (_, bytes) =
                    self.execute(&query, ResultFormat::Json).await.map_err(|error| bad(failure(error, None)))?;
                if bytes.is_empty() {
                    return Ok(json!({"columns": [], "rows": []}));
                }
                serde_json::from_slice(&bytes).map_err(|e| RequestError {
                    code: "sql".to_owned(),
                    message: e.to_string(),
                    hint: None,
                })
            }
            Request::Save { name, path } => self.save(&name, &path).await,
            Request::Secret { name } => self.secret(&name),
            Request::Output { .. } => Ok(Value::Null),
        }
    }
}
