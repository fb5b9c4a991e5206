//! Turns what the libraries below say into [`LakeError`]: whose fault, a stable code, one lower-case line.
//!
//! Not responsible for places in the text: only the code that knows the statement can add them.
//!
//! Invariant: an error of ours that passed through DataFusion comes out as it went in.

use datafusion::error::DataFusionError;
use pinrail_model::fault::Fault;
use pinrail_model::seam::lake::LakeError;

use crate::sql::wording;

pub(crate) type Result<T> = std::result::Result<T, LakeError>;

/// Something the author of the text can mend.
pub(crate) fn user(code: &'static str, message: impl Into<String>) -> LakeError {
    LakeError::new(code, Fault::User, message)
}

/// Rows that do not fit what was declared about them.
pub(crate) fn data(code: &'static str, message: impl Into<String>) -> LakeError {
    LakeError::new(code, Fault::Data, message)
}

/// Pinrail itself, or the disk under it.
pub(crate) fn platform(code: &'static str, message: impl Into<String>) -> LakeError {
    LakeError::new(code, Fault::Platform, message)
}

/// Another writer was there first.
pub(crate) fn conflict(message: impl Into<String>) -> LakeError {
    LakeError::new("conflict", Fault::Conflict, message)
}

/// A statement or clause that is not part of the supported language.
pub(crate) fn unsupported(message: impl Into<String>) -> LakeError {
    user("statement-unsupported", message)
}

pub(crate) fn from_iceberg(error: &iceberg::Error) -> LakeError {
    platform(
        "table-files-failed",
        format!("the table's files could not be read or written: {}", one_line(&error.to_string())),
    )
}

pub(crate) fn from_io(what: &str, error: &std::io::Error) -> LakeError {
    platform("storage-failed", format!("{what}: {error}"))
}

/// Carries one of our errors through DataFusion.
pub(crate) fn into_datafusion(error: LakeError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

pub(crate) fn iceberg_into_datafusion(error: &iceberg::Error) -> DataFusionError {
    into_datafusion(from_iceberg(error))
}

/// What running a plan may end with. Planning errors that name columns or functions are told by `sql::explain`.
pub(crate) fn from_datafusion(error: DataFusionError) -> LakeError {
    let error = unwrapped(error);
    if !matches!(error, DataFusionError::External(_))
        && let Some(told) = wording::told(&error.strip_backtrace())
    {
        return told.error;
    }
    match error {
        DataFusionError::External(inner) => match inner.downcast::<LakeError>() {
            Ok(ours) => *ours,
            Err(other) => match other.downcast::<iceberg::Error>() {
                Ok(error) => from_iceberg(&error),
                Err(other) => platform("query-failed", one_line(&other.to_string())),
            },
        },
        DataFusionError::ResourcesExhausted(message) => LakeError::new(
            "out-of-memory",
            Fault::OutOfMemory,
            format!("the query needs more memory than it may have: {}", one_line(&message)),
        )
        .remedy("Read fewer columns or rows at once, or give the job more memory."),
        DataFusionError::ArrowError(error, _) => user("query-failed", tidy(&error.to_string())),
        DataFusionError::Execution(message) => user("query-failed", tidy(&message)),
        DataFusionError::Plan(message) => user("sql-invalid", tidy(&message)),
        DataFusionError::NotImplemented(message) => unsupported(tidy(&message)),
        DataFusionError::SchemaError(error, _) => user("sql-invalid", tidy(&error.to_string())),
        DataFusionError::SQL(error, _) => user("sql-syntax", tidy(&error.to_string())),
        DataFusionError::ObjectStore(error) => platform("storage-failed", one_line(&error.to_string())),
        DataFusionError::IoError(error) => platform("storage-failed", one_line(&error.to_string())),
        DataFusionError::ParquetError(error) => {
            data("file-malformed", format!("a Parquet file could not be read: {}", one_line(&error.to_string())))
        }
        other => platform("query-failed", one_line(&other.strip_backtrace())),
    }
}

/// Takes off the layers that say where in the plan an error arose.
pub(crate) fn unwrapped(error: DataFusionError) -> DataFusionError {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => unwrapped(*inner),
        DataFusionError::Collection(mut all) if !all.is_empty() => unwrapped(all.swap_remove(0)),
        DataFusionError::Shared(shared) => match std::sync::Arc::try_unwrap(shared) {
            Ok(inner) => unwrapped(inner),
            Err(shared) => cloned(&shared),
        },
        // Streams wrap errors of plans once more on their way through Arrow.
        DataFusionError::ArrowError(arrow, backtrace) => match *arrow {
            arrow::error::ArrowError::ExternalError(inner) => match inner.downcast::<DataFusionError>() {
                Ok(inner) => unwrapped(*inner),
                Err(inner) => unwrapped_external(inner),
            },
            other => DataFusionError::ArrowError(Box::new(other), backtrace),
        },
        DataFusionError::External(inner) => match inner.downcast::<DataFusionError>() {
            Ok(inner) => unwrapped(*inner),
            Err(inner) => unwrapped_external(inner),
        },
        other => other,
    }
}

fn unwrapped_external(inner: Box<dyn std::error::Error + Send + Sync>) -> DataFusionError {
    match inner.downcast::<arrow::error::ArrowError>() {
        Ok(arrow) => unwrapped(DataFusionError::ArrowError(arrow, None)),
        Err(inner) => DataFusionError::External(inner),
    }
}

/// A shared error cannot be moved out; ours can be copied, others keep their text.
fn cloned(error: &DataFusionError) -> DataFusionError {
    if let DataFusionError::External(inner) = error.find_root()
        && let Some(ours) = inner.downcast_ref::<LakeError>()
    {
        return DataFusionError::External(Box::new(ours.clone()));
    }
    match error.find_root() {
        DataFusionError::ResourcesExhausted(message) => DataFusionError::ResourcesExhausted(message.clone()),
        DataFusionError::NotImplemented(message) => DataFusionError::NotImplemented(message.clone()),
        DataFusionError::Plan(message) => DataFusionError::Plan(message.clone()),
        other => DataFusionError::Execution(other.strip_backtrace()),
    }
}

/// One line in our style: lower case first letter, no full stop, no library prefix.
pub(crate) fn tidy(message: &str) -> String {
    let mut text = one_line(message);
    for prefix in [
        "Internal error: ",
        "Error during planning: ",
        "Execution error: ",
        "SQL error: ",
        "Schema error: ",
        "Arrow error: ",
        "Parser error: ",
        "Cast error: ",
        "sql parser error: ",
    ] {
        if let Some(rest) = text.strip_prefix(prefix) {
            text = rest.to_owned();
        }
    }
    // Whose mistake it is, is ours to say.
    let text = text.split(" This issue was likely caused by a bug").next().unwrap_or_default();
    let text = text.trim_end_matches('.');
    let mut chars = text.chars();
    match chars.next() {
        // A word in capitals (`CAST`, `ORDER`) is SQL and stays as it is.
        Some(first) if !chars.clone().next().is_some_and(char::is_uppercase) => {
            first.to_lowercase().collect::<String>() + chars.as_str()
        }
        _ => text.to_owned(),
    }
}

pub(crate) fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
