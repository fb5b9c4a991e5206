//! Fits the columns of a query to the columns of a table, exactly or not at all.
//!
//! Invariants:
//! - a value that the table's type cannot hold exactly is an error that names the column and the value;
//! - text is read as the table's type, numbers never become booleans and booleans never become numbers.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt64Array, new_null_array};
use arrow::compute::{CastOptions, can_cast_types, cast_with_options};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::scalar::ScalarValue;

use crate::error::{self, Result};

/// Where a column of the table takes its values from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A column of the query, by position.
    Column(usize),
    /// The same value in every row.
    Constant(ScalarValue),
    Null,
    /// The query's column must hold the constant in every row, and does not have to be looked at again.
    Checked(usize, ScalarValue),
}

/// Makes batches of the table's schema out of batches of the query's.
#[derive(Debug)]
pub(crate) struct Fitting {
    pub(crate) sources: Vec<Source>,
    /// The table's schema with field ids.
    pub(crate) schema: SchemaRef,
}

impl Fitting {
    pub(crate) fn fit(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut columns = Vec::with_capacity(self.sources.len());
        for (source, field) in self.sources.iter().zip(self.schema.fields()) {
            let column = match source {
                Source::Column(index) => exact(batch.column(*index), field.data_type(), field.name())?,
                Source::Constant(value) => constant(value, field.data_type(), field.name(), batch.num_rows())?,
                Source::Null => new_null_array(field.data_type(), batch.num_rows()),
                Source::Checked(index, value) => {
                    let column = exact(batch.column(*index), field.data_type(), field.name())?;
                    let expected = constant(value, field.data_type(), field.name(), batch.num_rows())?;
                    agree(&column, &expected, field.name())?;
                    column
                }
            };
            columns.push(column);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|e| error::user("cast-failed", error::tidy(&e.to_string())))
    }
}

/// Every row must be in the partition that the statement or the job owns.
fn agree(column: &ArrayRef, expected: &ArrayRef, name: &str) -> Result<()> {
    let same = arrow::compute::kernels::cmp::not_distinct(column, expected)
        .map_err(|e| error::user("cast-failed", error::tidy(&e.to_string())))?;
    match (0..same.len()).find(|row| !same.value(*row)) {
        None => Ok(()),
        Some(row) => Err(error::data(
            "row-outside-partition",
            format!("a row has {name} = {}, but only {name} = {} may be written", show(column, row), show(expected, 0)),
        )
        .remedy(format!("Leave \"{name}\" out of the SELECT, or filter on it."))),
    }
}

fn constant(value: &ScalarValue, kind: &DataType, name: &str, rows: usize) -> Result<ArrayRef> {
    let one = value.to_array().map_err(error::from_datafusion)?;
    let one = exact(&one, kind, name)?;
    let indices = UInt64Array::from(vec![0; rows]);
    arrow::compute::take(&one, &indices, None).map_err(|e| error::user("cast-failed", error::tidy(&e.to_string())))
}

/// The value of a constant in a column's type.
pub(crate) fn scalar(value: &ScalarValue, kind: &DataType, name: &str) -> Result<ScalarValue> {
    let one = value.to_array().map_err(error::from_datafusion)?;
    ScalarValue::try_from_array(&exact(&one, kind, name)?, 0).map_err(error::from_datafusion)
}

/// Casts a column without losing anything.
pub(crate) fn exact(column: &ArrayRef, to: &DataType, name: &str) -> Result<ArrayRef> {
    let from = column.data_type();
    if from == to {
        return Ok(column.clone());
    }
    if !is_allowed(from, to) {
        return Err(impossible(from, to, name));
    }
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let cast = cast_with_options(column, to, &strict).map_err(|_| lost(column, to, name, None))?;
    if needs_proof(from, to) {
        let back = cast_with_options(&cast, from, &CastOptions::default()).map_err(|_| impossible(from, to, name))?;
        let same = arrow::compute::kernels::cmp::not_distinct(&back, column).map_err(|_| impossible(from, to, name))?;
        if let Some(row) = (0..same.len()).find(|row| !same.value(*row)) {
            return Err(lost(column, to, name, Some(row)));
        }
    }
    Ok(cast)
}

/// Whether a column of one type may be written to a column of another at all.
pub(crate) fn is_allowed(from: &DataType, to: &DataType) -> bool {
    let text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let number = |t: &DataType| t.is_numeric();
    match (from, to) {
        (DataType::Null, _) => true,
        (DataType::Dictionary(_, value), to) => is_allowed(value, to),
        (from, DataType::Boolean) => matches!(from, DataType::Boolean) || text(from),
        (DataType::Boolean, to) => text(to),
        (from, to) if number(from) && !number(to) => text(to),
        (from, to) if number(to) => number(from) || text(from),
        (DataType::Struct(from), DataType::Struct(to)) => {
            from.len() == to.len() && from.iter().zip(to).all(|(a, b)| is_allowed(a.data_type(), b.data_type()))
        }
        (from, to) => from.is_nested() == to.is_nested() && can_cast_types(from, to),
    }
}

/// Whether a cast between these types can succeed and still lose something.
fn needs_proof(from: &DataType, to: &DataType) -> bool {
    use DataType::{Date32, Date64, Float16, Float32, Float64, Time32, Time64, Timestamp};
    let float = |t: &DataType| matches!(t, Float16 | Float32 | Float64);
    let fine = |t: &DataType| match t {
        Timestamp(unit, _) | Time32(unit) | Time64(unit) => *unit == TimeUnit::Nanosecond,
        _ => false,
    };
    match (from, to) {
        (Float16, Float32 | Float64) | (Float32, Float64) => false,
        // A whole number becomes a float exactly up to the float's digits, a float a decimal up to the decimal's.
        (from, to) if float(from) || float(to) => from.is_numeric(),
        (from, to) if from.is_decimal() => to.is_decimal() || to.is_integer(),
        (Timestamp(..), Date32 | Date64) | (Date64, Date32) => true,
        (from, Timestamp(..) | Time32(_) | Time64(_)) => fine(from),
        _ => false,
    }
}

fn impossible(from: &DataType, to: &DataType, name: &str) -> pinrail_model::seam::lake::LakeError {
    let (from, to) = (crate::types::result_name(from), crate::types::result_name(to));
    error::user("cast-failed", format!("column \"{name}\" has type {to} and cannot take values of type {from}"))
        .remedy(format!("Cast the value to {to} in the SELECT."))
}

fn lost(column: &ArrayRef, to: &DataType, name: &str, row: Option<usize>) -> pinrail_model::seam::lake::LakeError {
    let row = row.or_else(|| first_failure(column, to));
    let value = row.map_or_else(|| "a value".to_owned(), |row| format!("\"{}\"", show(column, row)));
    let to = crate::types::result_name(to);
    error::data("cast-lossy", format!("{value} cannot be written to column \"{name}\" as {to} without loss"))
        .remedy(format!("Round or cast it to {to} in the SELECT."))
}

/// The row whose value cannot be cast.
fn first_failure(column: &ArrayRef, to: &DataType) -> Option<usize> {
    let lenient = cast_with_options(column, to, &CastOptions { safe: true, ..CastOptions::default() }).ok()?;
    (0..column.len()).find(|row| column.is_valid(*row) && lenient.is_null(*row))
}

pub(crate) fn show(column: &ArrayRef, row: usize) -> String {
    let options = FormatOptions::default().with_null("null");
    let shown = ArrayFormatter::try_new(column, &options).map(|f| f.value(row).to_string());
    shown.unwrap_or_default().chars().take(LONGEST_VALUE).collect()
}

/// Characters of a value that a message quotes.
const LONGEST_VALUE: usize = 80;

/// Makes a batch plain: no views, no dictionaries, microseconds.
pub(crate) fn plain(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns: Vec<ArrayRef> = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| arrow::compute::cast(column, field.data_type()))
        .collect::<std::result::Result<_, _>>()
        .map_err(|e| error::platform("query-failed", error::tidy(&e.to_string())))?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .map_err(|e| error::platform("query-failed", error::tidy(&e.to_string())))
}

/// No values of a type.
pub(crate) fn empty(kind: &DataType) -> ArrayRef {
    new_null_array(kind, 0)
}
