//! What an executor reports into, and what a job may ask for while it runs: logs, counters, SQL, files.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;
use nix::fcntl::OFlag;
use pinrail_model::document::{JobKind, SqlSource};
use pinrail_model::fault::{ERROR, Evidence, Fault, Reason};
use pinrail_model::run::{Phase, Report, Verdict};
use pinrail_model::seam::exec::{AttemptSink, Request, RequestError, Stream};
use pinrail_model::seam::lake::{
    AttemptView, FileScope, LakeError, PointerSwap, Query as SqlQuery, QueryDone, QueryLimits, ResultFormat,
    ResultSink, Value as SqlValue, View, Writes, Written,
};
use pinrail_model::seam::store::{CounterRow, FileRow, Write};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::attempt::{OneWork, head};
use crate::edges::declares;
use crate::mask::StreamMask;
use crate::owner::Input;
use crate::secrets::{declared, set_again};
use crate::values::{self, Scope};

/// Rows that a job gets from one `ctx.sql`. More belongs into a table.
const MOST_ROWS: u64 = 1_000_000;

/// Names of counters and metrics of one attempt: each is a row for as long as the run is kept.
const MOST_COUNTERS: usize = 1000;

/// The largest file for people: it is held in memory on its way, and larger ones belong into a table.
const LARGEST_FILE: u64 = 256 << 20;

/// What is kept of the end of stderr, in bytes and lines: enough for the sentence that says what was wrong.
const LAST_WORDS: usize = 2 << 10;
const LAST_LINES: usize = 5;

/// The sink of one piece of work.
pub(crate) struct Sink {
    work: Arc<OneWork>,
    view: OnceLock<u64>,
    /// Whether the attempt is being stopped; none: it is, and this is its cleanup.
    stop: Option<watch::Receiver<bool>>,
    /// What masks streams that arrive in pieces, by stream.
    streams: Mutex<BTreeMap<u8, StreamMask>>,
    /// The end of what went to stderr, masked.
    last_words: Mutex<Vec<u8>>,
}

/// What a job that only reads is told: most likely its header is missing.
const NOTHING_DONE: &[u8] = b"warning: the statements write no table and leave no output\n\
    hint: Begin the file with -- writes: namespace.table, or with -- output: name.";

/// A fault with its evidence.
pub(crate) type Failure = (Fault, Evidence);

impl Sink {
    pub fn new(work: Arc<OneWork>, stop: Option<watch::Receiver<bool>>) -> Self {
        let view = OnceLock::new();
        if let Some(seq) = work.ticket.attempt.view {
            let _ = view.set(seq);
        }
        Self { work, view, stop, streams: Mutex::default(), last_words: Mutex::default() }
    }

    fn view(&self) -> View {
        let ticket = &self.work.ticket;
        View {
            project: ticket.project.clone(),
            target: ticket.target.clone(),
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
        let parts = &self.work.attempts.parts;
        let folder = parts.tenancy.read_by_server(code.project);
        let files = FileScope::of_project(code.root, folder, code.patterns, &parts.state);
        let declares_job = declares(&self.work.ticket.job, file.as_deref());
        Ok(SqlQuery { text, file, values: self.values(params), files, writes, declares_job })
    }

    /// Template values by dotted path.
    fn values(&self, own: &BTreeMap<String, Value>) -> BTreeMap<String, SqlValue> {
        let ticket = &self.work.ticket;
        let (ds, interval) = (ticket.ds(), ticket.interval);
        let scope = Scope {
            ds: &ds,
            interval,
            params: &ticket.params,
            param_types: &ticket.param_types,
            target: ticket.target.as_ref(),
        };
        let upstream = ticket.upstream.iter().flat_map(|(job, left)| {
            let outputs = left["outputs"].as_object().into_iter().flatten();
            outputs.map(move |(name, value)| (job.as_str(), name, value))
        });
        let mut values = scope.values(own, upstream);
        if let Some(instance) = &ticket.instance {
            values.extend(values::of_instance(instance.index, &instance.item));
        }
        values
    }

    async fn text(&self, source: &SqlSource) -> Result<(String, Option<String>), Failure> {
        match source {
            SqlSource::Text(text) => Ok((text.clone(), None)),
            SqlSource::File(file) => {
                let code = self.work.code().await.map_err(|evidence| (Fault::Platform, evidence))?;
                if !crate::project::is_inside(file) {
                    let evidence = Evidence::new(format!("\"{file}\" is not a path inside the project"));
                    return Err((Fault::User, evidence.reason(Reason::FileMissing)));
                }
                let text = std::fs::read_to_string(code.root.join(file)).map_err(|e| {
                    let evidence = Evidence::new(format!("\"{file}\" cannot be read: {e}"));
                    (Fault::User, evidence.reason(Reason::FileMissing))
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
        let done = self.execute(&query, QueryLimits::default(), &mut Counted).await;
        let done = done.map_err(|e| failure(e, file.as_deref()))?;
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

    async fn execute(
        &self,
        query: &SqlQuery,
        limits: QueryLimits,
        result: &mut dyn ResultSink,
    ) -> Result<QueryDone, LakeError> {
        let Some(engine) = &self.work.attempts.parts.engine else {
            let (fault, evidence) = no_engine();
            return Err(LakeError::new("engine-missing", fault, evidence.message));
        };
        // Said before the first file is staged: a crash in between must not publish without looking.
        self.work.live.wrote.store(true, Ordering::SeqCst);
        let done = engine.run(query, &self.view(), &limits, ResultFormat::Json, result).await?;
        for (name, value) in &done.counters {
            self.counter("sql", name, *value, None);
        }
        for (table, target) in &done.read_from {
            let line = format!("note: {table} is read from target {target}; this one has no such table");
            self.log(None, Stream::System, line.as_bytes());
        }
        Ok(done)
    }

    /// The rows of a statement of the job's own code. They come back, whatever the job declares that it writes.
    async fn rows(&self, text: String) -> Result<Value, RequestError> {
        let bad = |(_, evidence): Failure| RequestError {
            code: "sql".to_owned(),
            message: evidence.message,
            hint: evidence.remedy,
        };
        let query = self.query(text, None, &BTreeMap::new(), None).await.map_err(bad)?;
        let mut collected = Collected(Vec::new());
        let limits = QueryLimits { rows: Some(MOST_ROWS), ..QueryLimits::default() };
        let done = self.execute(&query, limits, &mut collected).await.map_err(|error| bad(failure(error, None)))?;
        if done.truncated {
            return Err(RequestError {
                code: "too-many-rows".to_owned(),
                message: format!("the statement gives more than {MOST_ROWS} rows, which is the most that a job gets"),
                hint: Some("Aggregate or filter in SQL, or write the rows to a table.".to_owned()),
            });
        }
        if collected.0.is_empty() {
            return Ok(json!({"columns": [], "rows": []}));
        }
        serde_json::from_slice(&collected.0).map_err(|e| RequestError {
            code: "sql".to_owned(),
            message: e.to_string(),
            hint: None,
        })
    }

    /// Says in the log what a statement failed of: there is no process that would.
    pub fn tell_failure(&self, phase: Phase, evidence: &Evidence) {
        let remedy = evidence.remedy.as_ref().map_or_else(String::new, |remedy| format!("\nhint: {remedy}"));
        self.log(Some(phase), Stream::System, format!("error: {}{remedy}", evidence.message).as_bytes());
    }

    /// Adds the last lines of stderr to a failure of a command, which says nothing but its exit code otherwise.
    pub fn with_last_words(&self, mut verdict: Verdict) -> Verdict {
        let words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&words);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
        if !last.is_empty() {
            verdict.evidence = verdict.evidence.fact("stderr", last);
        }
        verdict
    }

    /// What an attempt has counted under a name so far: amounts of its processes and statements are summed, of peaks the
    /// highest counts, and a metric is what was measured last. None for one name more than an attempt may have.
    fn count(&self, group: &str, name: &str, value: f64) -> Option<f64> {
        let mut counted = self.work.live.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (group.to_owned(), name.to_owned());
        if counted.len() >= MOST_COUNTERS && !counted.contains_key(&key) {
            return None;
        }
        let so_far = counted.entry(key).or_default();
        *so_far = match group {
            "metric" => value,
            "process" if name.starts_with("peak_") => so_far.max(value),
            _ => *so_far + value,
        };
        Some(*so_far)
    }

    /// The pointers that make the attempt's tables true, and what that changes.
    pub async fn prepare(&self) -> Result<(Vec<PointerSwap>, Vec<Written>), Failure> {
        let Some(catalog) = &self.work.attempts.parts.catalog else { return Ok((Vec::new(), Vec::new())) };
        let swaps = catalog.prepare(&self.view()).await.map_err(|error| failure(error, None))?;
        let written = catalog.written(&swaps).await.map_err(|error| failure(error, None))?;
        Ok((swaps, written))
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
        let scratch = self.work.scratch();
        if !crate::project::is_inside(name) || name.contains('/') {
            return Err(refused(format!("\"{name}\" is not a file name")));
        }
        if self.work.live.revealed().masks.hides(name) {
            return Err(refused("the file's name holds the value of a secret".to_owned()));
        }
        let bundles = self.work.attempts.parts.bundles.clone();
        // Until the row that names it is on its way.
        let _held = bundles.hold().await;
        let path = path.to_owned();
        let kept = tokio::task::spawn_blocking(move || {
            let bytes = read_below(&scratch, &path)?;
            Ok((bundles.put(&bytes).map_err(|e| e.to_string())?, bytes.len() as u64))
        });
        let (sha, size) = kept.await.map_err(|e| refused(e.to_string()))?.map_err(refused)?;
        let ticket = &self.work.ticket;
        self.work.owner.tell(Input::Behind(vec![Write::File(FileRow {
            run: ticket.run,
            attempt: ticket.attempt.id,
            job: ticket.task_name(),
            name: name.to_owned(),
            sha,
            size,
        })]));
        Ok(json!({"url": format!("/api/v1/runs/{}/files/{}/{name}", ticket.run, ticket.task_name())}))
    }
}

/// The rows of a job that is SQL go nowhere but into tables and outputs.
struct Counted;

#[async_trait]
impl ResultSink for Counted {
    async fn chunk(&mut self, _: Vec<u8>) -> Result<(), LakeError> {
        Ok(())
    }
}

/// Collects a small result.
pub(crate) struct Collected(pub Vec<u8>);

#[async_trait]
impl ResultSink for Collected {
    async fn chunk(&mut self, bytes: Vec<u8>) -> Result<(), LakeError> {
        self.0.extend(bytes);
        Ok(())
    }
}

/// Reads a file of the attempt's own folder. The job may change names while this looks, so what counts is what was opened.
pub(crate) fn read_below(folder: &Path, path: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |e: std::io::Error| format!("\"{}\" cannot be read: {e}", path.display());
    let real = path.canonicalize().map_err(unreadable)?;
    // Opening a pipe that nobody writes to must not wait.
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(&real).map_err(unreadable)?;
    let opened = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or(real);
    if !folder.canonicalize().is_ok_and(|folder| opened.starts_with(folder)) {
        return Err(format!("\"{}\" is not in the attempt's scratch folder", path.display()));
    }
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(format!("\"{}\" is not a file", path.display()));
    }
    // Another user's job could have linked what that user cannot read.
    let owner = std::fs::metadata(folder).map_err(unreadable)?.uid();
    if owner != nix::unistd::geteuid().as_raw() && metadata.uid() != owner {
        return Err(format!("\"{}\" belongs to somebody else", path.display()));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(format!(
            "\"{}\" has more than {} MiB, which is the most that is kept",
            path.display(),
            LARGEST_FILE >> 20
        ));
    }
    Ok(bytes)
}

fn no_engine() -> Failure {
    (Fault::User, Evidence::new("this build of pinrail has no SQL engine").reason(Reason::EngineMissing))
}

/// Says in which file it was, when it was in one.
fn failure(error: LakeError, file: Option<&str>) -> Failure {
    let LakeError { code, fault, mut evidence, place } = error;
    evidence.facts.push((ERROR.to_owned(), code.to_owned()));
    evidence.reason.get_or_insert(match fault {
        Fault::Data => Reason::DataRefused,
        Fault::Conflict => Reason::Conflict,
        Fault::OutOfMemory => Reason::QueryMemory,
        Fault::Platform if code == "state-failed" || code == "fenced" => Reason::StateFailed,
        Fault::Platform => Reason::StorageFailed,
        _ => Reason::SqlFailed,
    });
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
        if matches!(report, Report::PhaseStarted(Phase::Setup)) && self.work.ticket.job.kind == JobKind::Class {
            self.work.live.cleans_up.store(true, Ordering::SeqCst);
        }
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
        if stream == Stream::Stderr {
            let mut words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
            words.extend_from_slice(&seen);
            let over = words.len().saturating_sub(LAST_WORDS);
            words.drain(..over);
        }
    }

    fn counter(&self, group: &str, name: &str, value: f64, unit: Option<&str>) {
        let ticket = &self.work.ticket;
        let Some(value) = self.count(group, name, value) else {
            if !self.work.live.counters_refused.swap(true, Ordering::SeqCst) {
                let text = format!(
                    "an attempt has at most {MOST_COUNTERS} counters and metrics; \"{name}\" and later ones are not kept"
                );
                self.log(None, Stream::System, text.as_bytes());
            }
            return;
        };
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

    async fn settled(&self) {
        self.work.owner.ask(Input::Settle).await;
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

    fn is_stopped(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| *stop.borrow())
    }

    async fn stopped(&self) {
        match self.stop.clone() {
            Some(mut stop) => {
                // It cannot end otherwise: the sender lives as long as this.
                let _ = stop.wait_for(|stop| *stop).await;
            }
            None => std::future::pending().await,
        }
    }

    async fn request(&self, request: Request) -> Result<Value, RequestError> {
        match request {
            Request::Sql { text } => tokio::select! {
                biased;
                () = self.stopped() => Err(RequestError {
                    code: "stopped".to_owned(),
                    message: "the attempt is being stopped".to_owned(),
                    hint: None,
                }),
                rows = self.rows(text) => rows,
            },
            Request::Save { name, path } => self.save(&name, &path).await,
            Request::Secret { name } => self.secret(&name),
            Request::Output { .. } => Ok(Value::Null),
        }
    }
}
