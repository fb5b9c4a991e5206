//! Results on their way out: JSON, CSV or an Arrow IPC stream, made batch by batch.
//!
//! JSON values: integers as numbers; decimals, NaN and infinities as strings; dates and times ISO 8601, times with six
//! digits and `Z` only where they have a zone; binary base64; lists as arrays, structs as objects, maps as objects if
//! their keys are text and as arrays of pairs otherwise.
//!
//! Invariant: every format sees the same plain batches, so that no two of them differ in what a value is.

use std::io::{BufReader, Read, Write as _};
use std::sync::Arc;

use arrow::array::{Array, AsArray, MapArray, RecordBatch, StructArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Decimal256Type, DecimalType, Field, Float16Type, Float32Type, Float64Type,
    Int8Type, Int16Type, Int32Type, Int64Type, Schema, SchemaRef, Time64MicrosecondType, TimestampMicrosecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use chrono::{DateTime, Days, NaiveDate, NaiveTime};
use pinrail_model::seam::lake::{Column, LakeError, ResultFormat, ResultSink};
use serde_json::Value as Json;
use tokio::sync::mpsc;

use crate::error::{self, Result};
use crate::types;

/// Encodes one result.
pub(crate) struct Encoder {
    schema: SchemaRef,
    kind: Kind,
    first_row: bool,
}

enum Kind {
    Json,
    Csv,
    Arrow(StreamWriter<Vec<u8>>),
}

/// The schema that a result has once it is plain.
pub(crate) fn plain_schema(schema: &Schema) -> SchemaRef {
    let fields: Vec<_> =
        schema.fields().iter().map(|f| Field::new(f.name(), types::plain(f.data_type()), f.is_nullable())).collect();
    Arc::new(Schema::new(fields))
}

impl Encoder {
    /// An encoder and the bytes that come before the first row.
    pub(crate) fn begin(schema: &SchemaRef, columns: &[Column], format: ResultFormat) -> Result<(Self, Vec<u8>)> {
        let (kind, head) = match format {
            ResultFormat::Json => {
                let mut head = br#"{"columns":"#.to_vec();
                to_json(&mut head, columns)?;
                head.extend_from_slice(br#","rows":["#);
                (Kind::Json, head)
            }
            ResultFormat::Csv => {
                let mut head = Vec::new();
                for (index, column) in columns.iter().enumerate() {
                    if index > 0 {
                        head.push(b',');
                    }
                    csv_text(&mut head, &column.name);
                }
                if !columns.is_empty() {
                    head.extend_from_slice(b"\r\n");
                }
                (Kind::Csv, head)
            }
            ResultFormat::Arrow => {
                let mut writer = StreamWriter::try_new(Vec::new(), schema).map_err(failed)?;
                let head = std::mem::take(writer.get_mut());
                (Kind::Arrow(writer), head)
            }
        };
        Ok((Self { schema: schema.clone(), kind, first_row: true }, head))
    }

    /// The bytes of a batch, which must be plain.
    pub(crate) fn batch(&mut self, batch: &RecordBatch) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        match &mut self.kind {
            Kind::Arrow(writer) => {
                writer.write(batch).map_err(failed)?;
                return Ok(std::mem::take(writer.get_mut()));
            }
            Kind::Json => {
                for row in 0..batch.num_rows() {
                    if !self.first_row {
                        out.push(b',');
                    }
                    self.first_row = false;
                    out.push(b'[');
                    for (index, column) in batch.columns().iter().enumerate() {
                        if index > 0 {
                            out.push(b',');
                        }
                        json_value(&mut out, column, row)?;
                    }
                    out.push(b']');
                }
            }
            Kind::Csv => {
                for row in 0..batch.num_rows() {
                    for (index, column) in batch.columns().iter().enumerate() {
                        if index > 0 {
                            out.push(b',');
                        }
                        csv_value(&mut out, column, row)?;
                    }
                    out.extend_from_slice(b"\r\n");
                }
            }
        }
        Ok(out)
    }

    /// The bytes that come after the last row.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>> {
        match &mut self.kind {
            Kind::Json => Ok(b"]}".to_vec()),
            Kind::Csv => Ok(Vec::new()),
            Kind::Arrow(writer) => {
                writer.finish().map_err(failed)?;
                Ok(std::mem::take(writer.get_mut()))
            }
        }
    }

    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }
}

/// Batches that are read ahead of a slow taker of the result.
const AHEAD: usize = 2;

/// Turns a finished Arrow IPC stream into another format. What cannot be read or decoded, also a missing end, is an
/// error: it must not look like a whole result.
pub(crate) async fn encode(
    arrow: Box<dyn Read + Send>,
    format: ResultFormat,
    sink: &mut dyn ResultSink,
) -> std::result::Result<(), LakeError> {
    let (pieces, mut made) = mpsc::channel(AHEAD);
    let work = tokio::task::spawn_blocking(move || {
        // A taker that has gone wants no more.
        let give = |bytes: Vec<u8>| pieces.blocking_send(bytes).is_ok();
        encode_all(arrow, format, give)
    });
    while let Some(bytes) = made.recv().await {
        sink.chunk(bytes).await?;
    }
    work.await.map_err(|e| error::platform("query-failed", format!("the result could not be encoded: {e}")))?
}

fn encode_all(arrow: Box<dyn Read + Send>, format: ResultFormat, give: impl Fn(Vec<u8>) -> bool) -> Result<()> {
    let mut source = Ending { source: BufReader::new(arrow), last: [0; END.len()] };
    let reader = StreamReader::try_new(&mut source, None).map_err(unreadable)?;
    let schema = reader.schema();
    let (mut encoder, head) = Encoder::begin(&schema, &types::result_columns(&schema), format)?;
    if !give(head) {
        return Ok(());
    }
    for batch in reader {
        if !give(encoder.batch(&batch.map_err(unreadable)?)?) {
            return Ok(());
        }
    }
    if source.last != END {
        return Err(error::platform("query-failed", "the kept result is damaged: its end is missing"));
    }
    give(encoder.finish()?);
    Ok(())
}

fn unreadable(error: arrow::error::ArrowError) -> LakeError {
    error::platform("query-failed", format!("the kept result is damaged: {}", error::one_line(&error.to_string())))
}

/// What an Arrow IPC stream ends with. Its reader also takes the end of a file for the end of the stream.
const END: [u8; 8] = [0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0];

/// Remembers the last bytes that were read.
struct Ending<R> {
    source: R,
    last: [u8; END.len()],
}

impl<R: Read> Read for Ending<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.source.read(buffer)?;
        let read = &buffer[..count.min(buffer.len())];
        let kept = END.len().saturating_sub(read.len());
        self.last.copy_within(END.len() - kept.., 0);
        self.last[kept..].copy_from_slice(&read[read.len() - (END.len() - kept)..]);
        Ok(count)
    }
}

/// One row as JSON values, for outputs.
pub(crate) fn row_values(batch: &RecordBatch, row: usize) -> Result<Vec<Json>> {
    let values = batch.columns().iter().map(|column| {
        let mut bytes = Vec::new();
        json_value(&mut bytes, column, row)?;
        serde_json::from_slice(&bytes).map_err(|e| error::platform("query-failed", e.to_string()))
    });
    values.collect()
}

fn failed(error: arrow::error::ArrowError) -> pinrail_model::seam::lake::LakeError {
    error::platform("query-failed", format!("the result could not be encoded: {error}"))
}

fn to_json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<()> {
    serde_json::to_writer(out, value).map_err(|e| error::platform("query-failed", e.to_string()))
}

/// Bytes are written to memory, which does not fail.
fn put(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(arguments);
}

fn json_value(out: &mut Vec<u8>, column: &dyn Array, row: usize) -> Result<()> {
    if column.is_null(row) {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    match column.data_type() {
        DataType::Null => out.extend_from_slice(b"null"),
        DataType::Boolean => put(out, format_args!("{}", column.as_boolean().value(row))),
        DataType::Int8 => put(out, format_args!("{}", column.as_primitive::<Int8Type>().value(row))),
        DataType::Int16 => put(out, format_args!("{}", column.as_primitive::<Int16Type>().value(row))),
        DataType::Int32 => put(out, format_args!("{}", column.as_primitive::<Int32Type>().value(row))),
        DataType::Int64 => put(out, format_args!("{}", column.as_primitive::<Int64Type>().value(row))),
        DataType::UInt8 => put(out, format_args!("{}", column.as_primitive::<UInt8Type>().value(row))),
        DataType::UInt16 => put(out, format_args!("{}", column.as_primitive::<UInt16Type>().value(row))),
        DataType::UInt32 => put(out, format_args!("{}", column.as_primitive::<UInt32Type>().value(row))),
        DataType::UInt64 => put(out, format_args!("{}", column.as_primitive::<UInt64Type>().value(row))),
        DataType::Float16 => float(out, f64::from(column.as_primitive::<Float16Type>().value(row)))?,
        DataType::Float32 => {
            let value = column.as_primitive::<Float32Type>().value(row);
            // The shortest digits of the narrow type, not of its widened value.
            if value.is_finite() { to_json(out, &value)? } else { float(out, f64::from(value))? }
        }
        DataType::Float64 => float(out, column.as_primitive::<Float64Type>().value(row))?,
        DataType::Utf8 => to_json(out, column.as_string::<i32>().value(row))?,
        DataType::LargeUtf8 => to_json(out, column.as_string::<i64>().value(row))?,
        DataType::Utf8View => to_json(out, column.as_string_view().value(row))?,
        DataType::List(_) => json_list(out, &column.as_list::<i32>().value(row))?,
        DataType::FixedSizeList(..) => json_list(out, &column.as_fixed_size_list().value(row))?,
        DataType::Struct(_) => json_struct(out, column.as_struct(), row)?,
        DataType::Map(..) => json_map(out, column.as_map(), row)?,
        _ => {
            let text = text_value(column, row)?;
            to_json(out, &text)?;
        }
    }
    Ok(())
}

fn float(out: &mut Vec<u8>, value: f64) -> Result<()> {
    match value {
        v if v.is_finite() => to_json(out, &v),
        v if v.is_nan() => to_json(out, "NaN"),
        v if v > 0.0 => to_json(out, "Infinity"),
        _ => to_json(out, "-Infinity"),
    }
}

fn json_list(out: &mut Vec<u8>, items: &dyn Array) -> Result<()> {
    out.push(b'[');
    for index in 0..items.len() {
        if index > 0 {
            out.push(b',');
        }
        json_value(out, items, index)?;
    }
    out.push(b']');
    Ok(())
}

fn json_struct(out: &mut Vec<u8>, column: &StructArray, row: usize) -> Result<()> {
    out.push(b'{');
    for (index, (field, values)) in column.fields().iter().zip(column.columns()).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        to_json(out, field.name())?;
        out.push(b':');
        json_value(out, values, row)?;
    }
    out.push(b'}');
    Ok(())
}

fn json_map(out: &mut Vec<u8>, column: &MapArray, row: usize) -> Result<()> {
    let entries = column.value(row);
    let (keys, values) = (entries.column(0), entries.column(1));
    let as_object = matches!(keys.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    out.push(if as_object { b'{' } else { b'[' });
    for index in 0..entries.len() {
        if index > 0 {
            out.push(b',');
        }
        if as_object {
            json_value(out, keys, index)?;
            out.push(b':');
            json_value(out, values, index)?;
        } else {
            out.push(b'[');
            json_value(out, keys, index)?;
            out.push(b',');
            json_value(out, values, index)?;
            out.push(b']');
        }
    }
    out.push(if as_object { b'}' } else { b']' });
    Ok(())
}

/// Values that JSON has no own form for, and everything in CSV.
fn text_value(column: &dyn Array, row: usize) -> Result<String> {
    Ok(match column.data_type() {
        DataType::Decimal128(precision, scale) => {
            Decimal128Type::format_decimal(column.as_primitive::<Decimal128Type>().value(row), *precision, *scale)
        }
        DataType::Decimal256(precision, scale) => {
            Decimal256Type::format_decimal(column.as_primitive::<Decimal256Type>().value(row), *precision, *scale)
        }
        DataType::Date32 => date(column.as_primitive::<Date32Type>().value(row)),
        DataType::Timestamp(_, zone) => {
            let text = timestamp(column.as_primitive::<TimestampMicrosecondType>().value(row));
            if zone.is_some() { text + "Z" } else { text }
        }
        DataType::Time64(_) => time(column.as_primitive::<Time64MicrosecondType>().value(row)),
        DataType::Binary => base64(column.as_binary::<i32>().value(row)),
        DataType::LargeBinary => base64(column.as_binary::<i64>().value(row)),
        DataType::BinaryView => base64(column.as_binary_view().value(row)),
        DataType::FixedSizeBinary(_) => base64(column.as_fixed_size_binary().value(row)),
        _ => {
            let formatter = ArrayFormatter::try_new(column, &FormatOptions::default()).map_err(failed)?;
            formatter.value(row).to_string()
        }
    })
}

fn date(days: i32) -> String {
    let epoch = NaiveDate::default();
    let shifted = if days >= 0 {
        epoch.checked_add_days(Days::new(u64::from(days.unsigned_abs())))
    } else {
        epoch.checked_sub_days(Days::new(u64::from(days.unsigned_abs())))
    };
    shifted.map_or_else(|| format!("{days} days since 1970"), |date| date.to_string())
}

fn timestamp(micros: i64) -> String {
    match DateTime::from_timestamp_micros(micros) {
        Some(at) => at.naive_utc().format("%Y-%m-%dT%H:%M:%S%.6f").to_string(),
        None => format!("{micros} microseconds since 1970"),
    }
}

fn time(micros: i64) -> String {
    let seconds = u32::try_from(micros.div_euclid(1_000_000)).unwrap_or(u32::MAX);
    let nanos = u32::try_from(micros.rem_euclid(1_000_000)).unwrap_or(0) * 1_000;
    match NaiveTime::from_num_seconds_from_midnight_opt(seconds, nanos) {
        Some(time) => time.format("%H:%M:%S%.6f").to_string(),
        None => format!("{micros} microseconds since midnight"),
    }
}

/// Standard base64 with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let value =
            chunk.iter().fold(0_usize, |value, byte| value << 8 | usize::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            text.push(if place <= chunk.len() { char::from(DIGITS[value >> (18 - 6 * place) & 63]) } else { '=' });
        }
    }
    text
}

fn csv_value(out: &mut Vec<u8>, column: &dyn Array, row: usize) -> Result<()> {
    if column.is_null(row) {
        return Ok(());
    }
    match column.data_type() {
        // A column of nothing but nulls has no mask that says so.
        DataType::Null => {}
        DataType::Utf8 => csv_text(out, column.as_string::<i32>().value(row)),
        DataType::List(_) | DataType::FixedSizeList(..) | DataType::Struct(_) | DataType::Map(..) => {
            let mut json = Vec::new();
            json_value(&mut json, column, row)?;
            csv_text(out, &String::from_utf8_lossy(&json));
        }
        DataType::Float16 | DataType::Float32 | DataType::Float64 => {
            let mut json = Vec::new();
            json_value(&mut json, column, row)?;
            out.extend(json.into_iter().filter(|b| *b != b'"'));
        }
        _ => csv_text(out, &text_value(column, row)?),
    }
    Ok(())
}

/// Quoted where it must be; empty text always, to tell it from null.
fn csv_text(out: &mut Vec<u8>, text: &str) {
    if !text.is_empty() && !text.contains([',', '"', '\n', '\r']) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    out.extend_from_slice(text.replace('"', "\"\"").as_bytes());
    out.push(b'"');
}

/// A batch cut to its first rows.
pub(crate) fn first_rows(batch: &RecordBatch, rows: u64) -> RecordBatch {
    match usize::try_from(rows) {
        Ok(rows) if rows < batch.num_rows() => batch.slice(0, rows),
        _ => batch.clone(),
    }
}
