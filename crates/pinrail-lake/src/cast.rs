//! Fits the columns of a query to the columns of a table, exactly or not at all.
//!
//! Invariants:
//! - a value that the table's type cannot hold exactly is an error that names the column and the value;
//! - text is read as the table's type, numbers never become booleans and booleans never become numbers.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Builder, RecordBatch, RecordBatchOptions, StringArray, UInt64Array,
    new_null_array,
};
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
    if let (true, DataType::Decimal128(precision, scale)) = (is_text(from), to) {
        let texts = arrow::compute::cast(column, &DataType::Utf8).map_err(|_| impossible(from, to, name))?;
        let numbers = decimals(texts.as_string(), *precision, *scale);
        return numbers.map_err(|row| lost(column, to, name, Some(row)));
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

/// Arrow would round what has too many digits; the row of the first text that is not exactly such a number is the error.
fn decimals(texts: &StringArray, precision: u8, scale: i8) -> std::result::Result<ArrayRef, usize> {
    let mut numbers = Decimal128Builder::new().with_data_type(DataType::Decimal128(precision, scale));
    for (row, text) in texts.iter().enumerate() {
        match text {
            None => numbers.append_null(),
            Some(text) => numbers.append_value(decimal(text, precision, scale).ok_or(row)?),
        }
    }
    Ok(Arc::new(numbers.finish()))
}

/// The digits of a decimal, if the text is a number that it holds exactly: `1e3` is 1000, `1.50` has one digit after the
/// point.
pub(crate) fn decimal(text: &str, precision: u8, scale: i8) -> Option<i128> {
    let text = text.trim();
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let negative = mantissa.starts_with('-');
    let bare = mantissa.strip_prefix(['-', '+']).unwrap_or(mantissa);
    let (whole, fraction) = bare.split_once('.').unwrap_or((bare, ""));
    let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // Places by which the digits have to be moved to become a whole number of the smallest units.
    let mut places =
        i64::from(exponent).checked_sub(i64::try_from(fraction.len()).ok()?)?.checked_add(i64::from(scale))?;
    while places < 0 && digits.last() == Some(&b'0') {
        digits.pop();
        places += 1;
    }
    let digits = digits.iter().position(|digit| *digit != b'0').map_or(&[][..], |first| &digits[first..]);
    if digits.is_empty() {
        return Some(0);
    }
    let places = usize::try_from(places).ok()?;
    if digits.len().checked_add(places)? > usize::from(precision) {
        return None;
    }
    let number = digits.iter().fold(0_i128, |number, digit| number * 10 + i128::from(digit - b'0'));
    let number = number.checked_mul(10_i128.checked_pow(u32::try_from(places).ok()?)?)?;
    Some(if negative { -number } else { number })
}

fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// Whether a column of one type may be written to a column of another at all.
pub(crate) fn is_allowed(from: &DataType, to: &DataType) -> bool {
    let text = is_text;
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
pub(crate) const LONGEST_VALUE: usize = 80;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_a_decimal_only_if_it_is_exactly_one() {
        for (text, expected) in [
            ("1e3", Some(10_000)),
            ("1E+3", Some(10_000)),
            ("-1.5", Some(-15)),
            (" 1.50 ", Some(15)),
            ("+.5", Some(5)),
            ("5.", Some(50)),
            ("15e-1", Some(15)),
            ("0.0e99", Some(0)),
            ("9999.9", Some(99_999)),
            ("1.25", None),
            ("10000", None),
            ("1e4", None),
            ("1e2147483647", None),
            ("1e-2147483648", None),
            ("0e-2147483648", Some(0)),
            ("1e99999999999", None),
            ("", None),
            (".", None),
            ("-", None),
            ("1e", None),
            ("1 0", None),
            ("0x1", None),
            ("NaN", None),
        ] {
            assert_eq!(decimal(text, 5, 1), expected, "{text}");
        }
        assert_eq!(decimal(&"9".repeat(38), 38, 0), Some(10_i128.pow(38) - 1));
        assert_eq!(decimal("1200", 5, -2), Some(12));
        assert_eq!(decimal("1250", 5, -2), None);
    }
}
