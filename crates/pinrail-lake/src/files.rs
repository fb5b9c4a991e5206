//! Files of the project as tables: which ones a statement may open, and how they are read.
//!
//! A path is opened once, checked on what was opened, and from then on known by its open file: no later change of a
//! link can lead a query elsewhere.
//!
//! Invariants:
//! - no file outside of the scope's two folders is read, nor one below a forbidden folder, whatever links say;
//! - a path that is refused and a file that is missing are told apart, so that a typing mistake does not look like a
//!   security matter.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::TableType;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result as DfResult;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::sql::sqlparser::ast::{Expr as SqlExpr, Value as SqlValue};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Location;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path as StorePath;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use pinrail_model::near::nearest;
use pinrail_model::seam::lake::{FileScope, LakeError};

use crate::csv;
use crate::error::{self, Result, into_datafusion};
use crate::sql::names::FileCall;
use crate::types::{self, FieldIds};

/// How DataFusion names the open files of a statement.
pub(crate) const FILES_URL: &str = "files://project/";
/// Files that one pattern may match.
const MOST_FILES: usize = 10_000;
/// A JSON file that is one array is read into memory; larger ones belong into lines.
const LARGEST_ARRAY: u64 = 256 << 20;

/// `ELOOP` on Linux; the standard library has no stable name for it.
const TOO_MANY_LINKS: i32 = 40;

/// What a statement has read from files that DataFusion does not count.
#[derive(Debug, Default)]
pub(crate) struct ReadCounters {
    pub(crate) rows: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// An open file of the project.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    file: Arc<File>,
    /// As the statement has it.
    name: String,
    size: u64,
}

impl Opened {
    /// Reads from the beginning, independently of other readers.
    fn reader(&self) -> io::Result<File> {
        // The descriptor's own path, since a clone would share the position with other readers.
        let mut file = match File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd())) {
            Ok(file) => file,
            Err(_) => self.file.try_clone()?,
        };
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    }
}

fn refused(path: &str, why: impl fmt::Display) -> LakeError {
    error::user("path-refused", format!("path \"{path}\" is refused: {why}"))
}

fn not_found(path: &str) -> LakeError {
    error::user("file-not-found", format!("file \"{path}\" not found"))
        .remedy("Paths are relative to the project's folder; large inputs are listed under [files] in pinrail.toml.")
}

/// Opens the files that a path or pattern names.
pub(crate) fn open(scope: &FileScope, path: &str) -> Result<Vec<Opened>> {
    let path = path.strip_prefix("./").unwrap_or(path);
    check_text(path)?;
    if !path.contains(['*', '?', '[']) {
        return Ok(vec![open_one(scope, path)?.ok_or_else(|| not_found(path))?]);
    }
    let pattern: Vec<&str> = path.split('/').collect();
    let mut names = BTreeMap::new();
    for base in [&scope.root, &scope.project].into_iter().flatten() {
        walk(base, base, &pattern, &mut names)?;
    }
    let mut opened = Vec::new();
    for name in names.into_keys() {
        // A pattern takes what the scope allows; only a path that is named outright is told why it is refused.
        match open_one(scope, &name) {
            Ok(Some(file)) => opened.push(file),
            Err(e) if e.code != "path-refused" || e.evidence.message.contains("link") => return Err(e),
            Ok(None) | Err(_) => {}
        }
    }
    if opened.is_empty() {
        return Err(error::user("file-not-found", format!("no file matches \"{path}\"")).remedy(
            "Paths are relative to the project's folder; large inputs are listed under [files] in pinrail.toml.",
        ));
    }
    Ok(opened)
}

/// What can be refused without looking at the disk.
fn check_text(path: &str) -> Result<()> {
    let why = if path.is_empty() {
        "it is empty"
    } else if path.contains('\0') {
        "it holds a NUL character"
    } else if path.contains("://") || path.starts_with("file:") {
        "URLs are not files of the project"
    } else if path.starts_with('/') || path.starts_with('~') || path.contains('\\') {
        "it is not relative to the project"
    } else if path.split('/').any(|part| part == "..") {
        "it leads upwards"
    } else if path.split('/').any(|part| part.is_empty() || part == ".") {
        "it has an empty part"
    } else {
        return Ok(());
    };
    Err(refused(path, why).remedy("Write a path relative to the project's folder, such as 'data/flights.csv'."))
}

fn open_one(scope: &FileScope, name: &str) -> Result<Option<Opened>> {
    if let Some(root) = &scope.root
        && let Some(opened) = open_beneath(root, name, scope)?
    {
        return Ok(Some(opened));
    }
    let Some(project) = &scope.project else { return Ok(None) };
    let opened = open_beneath(project, name, scope)?;
    let listed = scope.patterns.as_ref().is_none_or(|patterns| patterns.iter().any(|p| matches(p, name)));
    match opened {
        Some(_) if !listed => Err(refused(name, "the project does not list it under [files]")
            .remedy(format!("Add it to [files] in pinrail.toml: {} = \"{name}\"", key_for(name)))),
        other => Ok(other),
    }
}

/// A name for the line to add.
fn key_for(name: &str) -> String {
    let stem = name.rsplit('/').next().unwrap_or(name).split('.').next().unwrap_or("files");
    let key: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if key.is_empty() { "files".to_owned() } else { key }
}

fn open_beneath(base: &Path, name: &str, scope: &FileScope) -> Result<Option<Opened>> {
    let failed = |e: io::Error| error::from_io(&format!("file \"{name}\" could not be opened"), &e);
    let base = match base.canonicalize() {
        Ok(base) => base,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let target = match base.join(name).canonicalize() {
        Ok(target) => target,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
        Err(e) if e.raw_os_error() == Some(TOO_MANY_LINKS) => return Err(refused(name, "a link leads to itself")),
        Err(e) => return Err(failed(e)),
    };
    check_target(&base, &target, name, scope)?;
    if !std::fs::metadata(&target).map_err(failed)?.is_file() {
        return Err(refused(name, "it is not a file").remedy("Name a file, or a pattern such as 'data/*.csv'."));
    }
    let file = File::open(&target).map_err(failed)?;
    // Between the check and the opening a link may have changed: what counts is what is open now.
    if let Ok(actual) = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())) {
        check_target(&base, &actual, name, scope)?;
    }
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(refused(name, "it is not a file"));
    }
    Ok(Some(Opened { file: Arc::new(file), name: name.to_owned(), size: metadata.len() }))
}

fn check_target(base: &Path, target: &Path, name: &str, scope: &FileScope) -> Result<()> {
    if !target.starts_with(base) {
        return Err(refused(name, "a link leads out of the project"));
    }
    for forbidden in &scope.forbidden {
        let forbidden = if forbidden.is_absolute() { forbidden.clone() } else { base.join(forbidden) };
        let forbidden = forbidden.canonicalize().unwrap_or(forbidden);
        // An unpacked bundle lies inside of the state folder, which is forbidden to everything else.
        if target.starts_with(&forbidden) && !base.starts_with(&forbidden) {
            return Err(refused(name, "no query may read this folder"));
        }
    }
    Ok(())
}

/// Collects the names below `folder` that match the rest of a pattern. Links to folders are not followed.
fn walk(base: &Path, folder: &Path, pattern: &[&str], names: &mut BTreeMap<String, ()>) -> Result<()> {
    let Some((first, rest)) = pattern.split_first() else { return Ok(()) };
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    if *first == "**" {
        walk(base, folder, rest, names)?;
    }
    for entry in entries.flatten() {
        let name = entry.file_name();
        let (Some(text), Ok(kind)) = (name.to_str(), entry.file_type()) else { continue };
        let hidden = text.starts_with('.') && !first.starts_with('.');
        if *first == "**" && kind.is_dir() {
            if !hidden {
                walk(base, &entry.path(), pattern, names)?;
            }
        } else if !hidden && (*first == "**" || segment_matches(first, text)) {
            if rest.is_empty() {
                let path = entry.path();
                if let Some(relative) = path.strip_prefix(base).ok().and_then(Path::to_str).filter(|_| !kind.is_dir()) {
                    names.insert(relative.to_owned(), ());
                }
            } else if kind.is_dir() {
                walk(base, &entry.path(), rest, names)?;
            }
        }
        if names.len() > MOST_FILES {
            return Err(error::user("file-not-found", format!("a pattern matches more than {MOST_FILES} files")));
        }
    }
    Ok(())
}

/// Whether a pattern of `[files]` covers a path.
fn matches(pattern: &str, name: &str) -> bool {
    fn parts(pattern: &[&str], name: &[&str]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((&"**", rest)), _) => (0..=name.len()).any(|skip| parts(rest, &name[skip..])),
            (Some((p, ps)), Some((n, ns))) => segment_matches(p, n) && parts(ps, ns),
            _ => false,
        }
    }
    let pattern: Vec<_> = pattern.trim_start_matches("./").split('/').collect();
    parts(&pattern, &name.split('/').collect::<Vec<_>>())
}

/// `*`, `?` and `[abc]` within one part of a path.
fn segment_matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        let class = (pattern.get(p) == Some(&'[')).then(|| pattern[p..].iter().position(|c| *c == ']')).flatten();
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            Some('[') if class.is_some_and(|end| in_class(&pattern[p + 1..p + end], name[n])) => {
                p += class.unwrap_or(0) + 1;
                n += 1;
                continue;
            }
            Some(c) if (*c == '?' || *c == name[n]) && class.is_none() => {
                p += 1;
                n += 1;
                continue;
            }
            _ => {}
        }
        let Some((at, taken)) = star else { return false };
        star = Some((at, taken + 1));
        (p, n) = (at + 1, taken + 1);
    }
    pattern[p..].iter().all(|c| *c == '*')
}

fn in_class(class: &[char], c: char) -> bool {
    let (negated, class) = match class.split_first() {
        Some(('!' | '^', rest)) => (true, rest),
        _ => (false, class),
    };
    let mut index = 0;
    let mut found = false;
    while index < class.len() {
        if class.get(index + 1) == Some(&'-') && index + 2 < class.len() {
            found |= (class[index]..=class[index + 2]).contains(&c);
            index += 3;
        } else {
            found |= class[index] == c;
            index += 1;
        }
    }
    found != negated
}

/// A file function as a table.
pub(crate) async fn provider(
    call: &FileCall,
    scope: &FileScope,
    state: &dyn Session,
    handles: &Arc<Handles>,
    counters: &Arc<ReadCounters>,
) -> Result<Arc<dyn TableProvider>> {
    let place = |e: LakeError| placed(e, call.at);
    let (scope, path) = (scope.clone(), call.path.clone().unwrap_or_default());
    let opened = blocking(move || open(&scope, &path)).await.map_err(place)?;
    let provider = match call.function.as_str() {
        "read_csv" => {
            let format = csv_format(call).map_err(place)?;
            let (files, f) = (opened.clone(), format.clone());
            let schema = blocking(move || csv_schema(&files, &f)).await.map_err(place)?;
            streamed(opened, schema, Arc::new(Reading::Csv(format)), counters, call.at)
        }
        "read_json" => {
            no_options(call).map_err(place)?;
            let files = opened.clone();
            let schema = blocking(move || json_schema(&files)).await.map_err(place)?;
            streamed(opened, schema, Arc::new(Reading::Json), counters, call.at)
        }
        _ => {
            no_options(call).map_err(place)?;
            parquet(opened, state, handles).await
        }
    };
    provider.map_err(place)
}

/// The call that an error comes from, unless it knows better.
fn placed(error: LakeError, at: Location) -> LakeError {
    if error.place.is_some() {
        return error;
    }
    error.at(u32::try_from(at.line).unwrap_or(0), u32::try_from(at.column).unwrap_or(0))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(error::platform("query-failed", e.to_string())),
    }
}

fn no_options(call: &FileCall) -> Result<()> {
    match call.options.first() {
        None => Ok(()),
        Some((name, _)) => Err(error::user("sql-syntax", format!("{} has no option \"{name}\"", call.function))
            .remedy(format!("Write {}('path') alone.", call.function))),
    }
}

fn csv_format(call: &FileCall) -> Result<csv::Format> {
    const OPTIONS: [&str; 7] = ["nullstr", "header", "delim", "delimiter", "sep", "quote", "types"];
    let invalid = |name: &str, what: &str| error::user("sql-syntax", format!("read_csv: {name} must be {what}"));
    let mut format = csv::Format::default();
    for (name, value) in &call.options {
        match name.as_str() {
            "nullstr" => {
                format.nulls = texts(value).ok_or_else(|| invalid(name, "a string or an array of strings"))?;
            }
            "header" => format.header = boolean(value).ok_or_else(|| invalid(name, "true or false"))?,
            "delim" | "delimiter" | "sep" => {
                format.delimiter = character(value).ok_or_else(|| invalid(name, "one ASCII character"))?;
            }
            "quote" => format.quote = character(value).ok_or_else(|| invalid(name, "one ASCII character"))?,
            "types" => format.types = column_types(value)?,
            other => {
                let error = error::user("sql-syntax", format!("read_csv has no option \"{other}\""));
                return Err(match nearest(other, OPTIONS) {
                    Some(near) => error.remedy(format!("Did you mean {near}?")),
                    None => error.remedy("The options are nullstr, header, delim, quote and types."),
                });
            }
        }
    }
    Ok(format)
}

fn text(value: &SqlExpr) -> Option<String> {
    match value {
        SqlExpr::Value(value) => value.value.clone().into_string(),
        _ => None,
    }
}

fn texts(value: &SqlExpr) -> Option<Vec<String>> {
    match value {
        SqlExpr::Array(array) => array.elem.iter().map(text).collect(),
        other => text(other).map(|one| vec![one]),
    }
}

fn boolean(value: &SqlExpr) -> Option<bool> {
    match value {
        SqlExpr::Value(value) => match value.value {
            SqlValue::Boolean(value) => Some(value),
            _ => None,
        },
        _ => None,
    }
}

fn character(value: &SqlExpr) -> Option<u8> {
    match text(value)?.as_bytes() {
        [b'\\', b't'] => Some(b'\t'),
        [one] if one.is_ascii() && !matches!(one, b'\n' | b'\r') => Some(*one),
        _ => None,
    }
}

/// `types => 'a long, b decimal(10, 2)'` or `types => {'a': 'long'}`.
fn column_types(value: &SqlExpr) -> Result<Vec<(String, DataType)>> {
    let invalid = || {
        error::user("sql-syntax", "read_csv: types must name columns with their types")
            .remedy("Write types => 'a long, b decimal(10, 2)' or types => {'a': 'long'}.")
    };
    let definitions = match value {
        SqlExpr::Dictionary(fields) => {
            let fields = fields.iter().map(|f| Some(format!("\"{}\" {}", f.key.value, text(&f.value)?)));
            fields.collect::<Option<Vec<_>>>().ok_or_else(invalid)?.join(", ")
        }
        other => text(other).ok_or_else(invalid)?,
    };
    let mut parser = Parser::new(&GenericDialect {}).try_with_sql(&definitions).map_err(|_| invalid())?;
    let columns = parser.parse_comma_separated(Parser::parse_column_def).map_err(|_| invalid())?;
    let mut types = Vec::new();
    for column in columns {
        let kind = types::from_sql(&column.data_type, &mut FieldIds::after(0))?;
        let kind = iceberg::arrow::type_to_arrow_type(&kind).map_err(|e| error::from_iceberg(&e))?;
        types.push((column.name.value, kind));
    }
    Ok(types)
}

fn csv_schema(files: &[Opened], format: &csv::Format) -> Result<SchemaRef> {
    let mut columns: Option<csv::Columns> = None;
    for opened in files {
        let reader = opened.reader().map_err(|e| error::from_io(&opened.name, &e))?;
        let found = csv::infer(reader, format, &opened.name)?;
        columns = Some(match columns {
            None => found,
            Some(before) if before.names == found.names => before.and(&found),
            Some(before) => {
                return Err(error::data(
                    "file-malformed",
                    format!(
                        "{}: its columns are {}, those of the files before it {}",
                        opened.name,
                        found.names.join(", "),
                        before.names.join(", ")
                    ),
                ));
            }
        });
    }
    columns.map(csv::Columns::schema).ok_or_else(|| not_found(""))
}

fn json_start(opened: &Opened) -> Result<(BufReader<File>, bool)> {
    let failed = |e: io::Error| error::from_io(&opened.name, &e);
    let mut reader = BufReader::new(opened.reader().map_err(failed)?);
    loop {
        let buffer = reader.fill_buf().map_err(failed)?;
        let Some(first) = buffer.iter().position(|b| !b.is_ascii_whitespace()) else {
            let length = buffer.len();
            if length == 0 {
                return Ok((reader, false));
            }
            reader.consume(length);
            continue;
        };
        let is_array = buffer[first] == b'[';
        reader.seek(SeekFrom::Start(0)).map_err(failed)?;
        return Ok((reader, is_array));
    }
}

fn json_array(opened: &Opened, reader: impl Read) -> Result<Vec<serde_json::Value>> {
    if opened.size > LARGEST_ARRAY {
        return Err(error::data(
            "file-malformed",
            format!("{}: an array larger than 256 MiB cannot be read", opened.name),
        )
        .remedy("Write one object per line instead."));
    }
    serde_json::from_reader(reader).map_err(|e| {
        error::data("file-malformed", format!("{}:{}: {}", opened.name, e.line(), error::tidy(&e.to_string())))
    })
}

fn json_schema(files: &[Opened]) -> Result<SchemaRef> {
    let mut schemas = Vec::new();
    for opened in files {
        let (mut reader, is_array) = json_start(opened)?;
        let schema = if is_array {
            let values = json_array(opened, reader)?;
            arrow::json::reader::infer_json_schema_from_iterator(values.iter().map(Ok::<_, arrow::error::ArrowError>))
        } else {
            arrow::json::reader::infer_json_schema(&mut reader, None).map(|(schema, _)| schema)
        };
        schemas.push(schema.map_err(|e| json_malformed(opened, &e))?);
    }
    let schema = Schema::try_merge(schemas).map_err(|e| error::data("file-malformed", error::tidy(&e.to_string())))?;
    if schema.fields().is_empty() {
        return Err(error::data("file-malformed", "the JSON files hold no objects"));
    }
    let fields: Vec<_> =
        schema.fields().iter().map(|f| Field::new(f.name(), never_null(f.data_type()), true)).collect();
    Ok(Arc::new(Schema::new(fields)))
}

/// A column in which nothing but null was seen is text.
fn never_null(kind: &DataType) -> DataType {
    let field = |f: &Arc<Field>| Arc::new(Field::new(f.name(), never_null(f.data_type()), true));
    match kind {
        DataType::Null => DataType::Utf8,
        DataType::List(item) => DataType::List(field(item)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(field).collect()),
        other => other.clone(),
    }
}

/// Finds the line that the reader stumbled over.
fn json_malformed(opened: &Opened, error: &arrow::error::ArrowError) -> LakeError {
    let lines = opened.reader().ok().map(|file| BufReader::new(file).lines().zip(1_u64..));
    let bad = lines.into_iter().flatten().find_map(|(line, number)| {
        let line = line.ok()?;
        let parsed = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&line);
        (!line.trim().is_empty() && parsed.is_err()).then_some(number)
    });
    let message = error::tidy(&error.to_string());
    match bad {
        Some(line) => error::data("file-malformed", format!("{}:{line}: {message}", opened.name)),
        None => error::data("file-malformed", format!("{}: {message}", opened.name)),
    }
}

#[derive(Debug)]
enum Reading {
    Csv(csv::Format),
    Json,
}

fn streamed(
    files: Vec<Opened>,
    schema: SchemaRef,
    reading: Arc<Reading>,
    counters: &Arc<ReadCounters>,
    at: Location,
) -> Result<Arc<dyn TableProvider>> {
    let parts = files.into_iter().map(|file| {
        let part = FilePart { file, schema: schema.clone(), reading: reading.clone(), counters: counters.clone(), at };
        Arc::new(part) as Arc<dyn PartitionStream>
    });
    let table = StreamingTable::try_new(schema.clone(), parts.collect()).map_err(error::from_datafusion)?;
    Ok(Arc::new(table))
}

/// One file, read on a thread of its own while the query works on what it has.
#[derive(Debug)]
struct FilePart {
    file: Opened,
    schema: SchemaRef,
    reading: Arc<Reading>,
    counters: Arc<ReadCounters>,
    /// Where the statement calls for it.
    at: Location,
}

impl PartitionStream for FilePart {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStreamBuilder::new(self.schema.clone(), 2);
        let sender = builder.tx();
        let (file, schema, reading, counters) =
            (self.file.clone(), self.schema.clone(), self.reading.clone(), self.counters.clone());
        let (batch_rows, at) = (context.session_config().batch_size(), self.at);
        builder.spawn_blocking(move || {
            counters.bytes.fetch_add(file.size, Ordering::Relaxed);
            // A closed channel means that nobody wants more: the query has ended or was cancelled.
            let give = |batch: RecordBatch| {
                counters.rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
                sender.blocking_send(Ok(batch)).is_ok()
            };
            let read = match reading.as_ref() {
                Reading::Csv(format) => file
                    .reader()
                    .map_err(|e| error::from_io(&file.name, &e))
                    .and_then(|reader| csv::read(reader, format, &file.name, &schema, batch_rows, give)),
                Reading::Json => read_json(&file, &schema, batch_rows, give),
            };
            read.map_err(|e| into_datafusion(placed(e, at)))
        });
        builder.build()
    }
}

fn read_json(
    file: &Opened,
    schema: &SchemaRef,
    batch_rows: usize,
    mut give: impl FnMut(RecordBatch) -> bool,
) -> Result<()> {
    let malformed = |e: arrow::error::ArrowError| json_malformed(file, &e);
    let builder = arrow::json::ReaderBuilder::new(schema.clone()).with_batch_size(batch_rows);
    let (reader, is_array) = json_start(file)?;
    if !is_array {
        for batch in builder.build(reader).map_err(malformed)? {
            if !give(batch.map_err(malformed)?) {
                break;
            }
        }
        return Ok(());
    }
    let mut decoder = builder.build_decoder().map_err(malformed)?;
    for rows in json_array(file, reader)?.chunks(batch_rows) {
        decoder.serialize(rows).map_err(malformed)?;
        while let Some(batch) = decoder.flush().map_err(malformed)? {
            if !give(batch) {
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn parquet(files: Vec<Opened>, state: &dyn Session, handles: &Arc<Handles>) -> Result<Arc<dyn TableProvider>> {
    let metas: Vec<_> = files.iter().map(|file| handles.add(file.clone())).collect();
    let store: Arc<dyn ObjectStore> = handles.clone();
    let format = ParquetFormat::default().with_force_view_types(false).with_skip_metadata(true);
    let schema = format.infer_schema(state, &store, &metas).await.map_err(|e| {
        let names: Vec<_> = files.iter().map(|f| f.name.as_str()).collect();
        let inner = error::from_datafusion(e);
        error::data("file-malformed", format!("{}: {}", names.join(", "), inner.evidence.message))
    })?;
    Ok(Arc::new(ParquetFiles { schema, files: metas }))
}

/// Parquet files of the project, read by DataFusion through their open files.
#[derive(Debug)]
struct ParquetFiles {
    schema: SchemaRef,
    files: Vec<ObjectMeta>,
}

#[async_trait]
impl TableProvider for ParquetFiles {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let parts = self.files.iter().cloned().map(PartitionedFile::new_from_meta).collect();
        let groups = FileGroup::new(parts).split_files(state.config().target_partitions().max(1));
        let source =
            ParquetSource::new(self.schema.clone()).with_table_parquet_options(state.table_options().parquet.clone());
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::parse(FILES_URL)?, Arc::new(source))
            .with_file_groups(groups)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

/// The open files of a statement as a store that knows nothing else: a path is a number.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    files: Mutex<Vec<Opened>>,
}

impl Handles {
    fn add(&self, file: Opened) -> ObjectMeta {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let meta = meta_of(files.len(), &file);
        files.push(file);
        meta
    }
}

fn meta_of(number: usize, file: &Opened) -> ObjectMeta {
    ObjectMeta {
        location: StorePath::from(number.to_string()),
        last_modified: chrono::DateTime::<chrono::Utc>::UNIX_EPOCH,
        size: file.size,
        e_tag: None,
        version: None,
    }
}

impl fmt::Display for Handles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("project files")
    }
}

fn read_only() -> object_store::Error {
    object_store::Error::NotSupported { source: "project files are read only".into() }
}

#[async_trait]
impl ObjectStore for Handles {
    async fn get_opts(&self, location: &StorePath, options: GetOptions) -> object_store::Result<GetResult> {
        let missing = || object_store::Error::NotFound { path: location.to_string(), source: "no such file".into() };
        let number: usize = location.as_ref().parse().map_err(|_| missing())?;
        let file = {
            let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            files.get(number).cloned().ok_or_else(missing)?
        };
        let meta = meta_of(number, &file);
        let range: Range<u64> = match &options.range {
            Some(range) => range.as_range(file.size).map_err(|e| generic(e.into()))?,
            None => 0..file.size,
        };
        let wanted = if options.head { 0..0 } else { range.clone() };
        let handle = file.file.clone();
        let bytes: Bytes = crate::store::blocking(move || crate::store::read_range(&handle, &wanted))
            .await
            .map_err(|e| generic(e.into()))?;
        let payload = GetResultPayload::Stream(futures::stream::once(async move { Ok(bytes) }).boxed());
        Ok(GetResult { payload, meta, range, attributes: Default::default() })
    }

    async fn put_opts(&self, _: &StorePath, _: PutPayload, _: PutOptions) -> object_store::Result<PutResult> {
        Err(read_only())
    }

    async fn put_multipart_opts(
        &self,
        _: &StorePath,
        _: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        Err(read_only())
    }

    fn delete_stream(
        &self,
        _: BoxStream<'static, object_store::Result<StorePath>>,
    ) -> BoxStream<'static, object_store::Result<StorePath>> {
        futures::stream::once(async { Err(read_only()) }).boxed()
    }

    fn list(&self, _: Option<&StorePath>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        futures::stream::empty().boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&StorePath>) -> object_store::Result<ListResult> {
        Ok(ListResult { common_prefixes: Vec::new(), objects: Vec::new() })
    }

    async fn copy_opts(&self, _: &StorePath, _: &StorePath, _: CopyOptions) -> object_store::Result<()> {
        Err(read_only())
    }
}

fn generic(source: Box<dyn std::error::Error + Send + Sync>) -> object_store::Error {
    object_store::Error::Generic { store: "project files", source }
}
