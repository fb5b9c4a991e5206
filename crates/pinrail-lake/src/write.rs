//! Rows to data files: a stream of batches is fitted to the table, cut by partition and written as Parquet.
//!
//! Not responsible for what the files mean: nothing here is part of a table until a commit names it.
//!
//! Invariants:
//! - every file returned has been synced; its folder is synced when the batch settles;
//! - partition values come from the rows as they are written, after casting, never from positions of the input;
//! - column bounds are never narrower than the values.
//!
//! The two largest costs are looking values up in Parquet's dictionaries and encoding the columns.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StructArray, UInt32Array};
use arrow::row::{RowConverter, SortField};
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use iceberg::arrow::{PartitionValueCalculator, arrow_struct_to_literal};
use iceberg::spec::{DataFile, DataFileBuilder, Datum, Literal, PartitionSpecRef, PrimitiveLiteral, SchemaRef, Struct};
use iceberg::writer::CurrentFileStatus;
use iceberg::writer::file_writer::{FileWriter, FileWriterBuilder, ParquetWriter, ParquetWriterBuilder};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use pinrail_model::ids::Ids;

use crate::cast::Fitting;
use crate::commit::NewFile;
use crate::error::{self, Result};
use crate::store::Batch;

/// A file that has grown to this is finished and the next one begun.
const FILE_SIZE: usize = 256 << 20;
/// Partitions written at once: each holds a row group in memory. Beyond it the largest is finished early.
const OPEN_PARTITIONS: usize = 512;
/// Rows of a row group: enough for good compression, few enough that a reader can skip and share them out.
const ROW_GROUP_ROWS: usize = 256 * 1024;
/// Text bounds in manifests are cut to this many characters; longer ones only make metadata large.
const BOUND_CHARACTERS: usize = 32;

/// Where rows go.
pub(crate) struct Destination<'a> {
    pub(crate) schema: SchemaRef,
    pub(crate) spec: PartitionSpecRef,
    /// Location of the folder for data files.
    pub(crate) folder: String,
    pub(crate) batch: &'a Arc<Batch>,
    pub(crate) ids: &'a dyn Ids,
}

/// What was written.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) files: Vec<NewFile>,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

/// Writes all rows of a stream.
pub(crate) async fn write(
    destination: &Destination<'_>,
    fitting: &Fitting,
    mut rows: SendableRecordBatchStream,
) -> Result<Written> {
    let mut writer = Writer::new(destination)?;
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(error::from_datafusion)?;
        if batch.num_rows() > 0 {
            writer.write(&fitting.fit(&batch)?).await?;
        }
    }
    writer.finish().await
}

struct Open {
    writer: ParquetWriter,
    partition: Struct,
}

struct Writer<'a> {
    to: &'a Destination<'a>,
    builder: ParquetWriterBuilder,
    cutter: Option<Cutter>,
    open: HashMap<Vec<u8>, Open>,
    written: Written,
}

impl<'a> Writer<'a> {
    fn new(to: &'a Destination<'a>) -> Result<Self> {
        let level = ZstdLevel::try_new(1).map_err(|e| error::platform("table-files-failed", e.to_string()))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            // iceberg takes file bounds only from untruncated statistics and skips a row group that has others, so
            // that the bounds would be narrower than the values. The bounds are cut when the file is finished.
            .set_statistics_truncate_length(None)
            .build();
        let cutter = if to.spec.is_unpartitioned() { None } else { Some(Cutter::new(to)?) };
        let builder = ParquetWriterBuilder::new(properties, to.schema.clone());
        Ok(Self { to, builder, cutter, open: HashMap::new(), written: Written::default() })
    }

    async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.written.rows += batch.num_rows() as u64;
        let pieces = match &self.cutter {
            None => vec![Piece { key: Vec::new(), partition: Struct::empty(), rows: batch.clone() }],
            Some(cutter) => cutter.cut(batch)?,
        };
        for piece in pieces {
            self.write_piece(piece).await?;
        }
        Ok(())
    }

    async fn write_piece(&mut self, piece: Piece) -> Result<()> {
        if !self.open.contains_key(&piece.key) && self.open.len() >= OPEN_PARTITIONS {
            let largest = self.open.iter().max_by_key(|(_, open)| open.writer.current_written_size());
            if let Some(key) = largest.map(|(key, _)| key.clone()) {
                self.close(&key).await?;
            }
        }
        let open = match self.open.entry(piece.key.clone()) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(free) => {
                let (millis, random) = self.to.ids.parts();
                let path = format!("{}/{millis:012x}{random:020x}.parquet", self.to.folder);
                let output = self.to.batch.io().new_output(path).map_err(|e| error::from_iceberg(&e))?;
                let writer = self.builder.build(output).await.map_err(|e| error::from_iceberg(&e))?;
                free.insert(Open { writer, partition: piece.partition })
            }
        };
        open.writer.write(&piece.rows).await.map_err(|e| error::from_iceberg(&e))?;
        if open.writer.current_written_size() >= FILE_SIZE {
            self.close(&piece.key).await?;
        }
        Ok(())
    }

    async fn close(&mut self, key: &[u8]) -> Result<()> {
        let Some(open) = self.open.remove(key) else { return Ok(()) };
        for builder in open.writer.close().await.map_err(|e| error::from_iceberg(&e))? {
            let file = finished(builder, &open.partition, self.to.spec.spec_id())?;
            self.written.bytes += file.file_size_in_bytes();
            self.written.files.push(NewFile { spec_id: self.to.spec.spec_id(), file });
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Written> {
        let keys: Vec<_> = self.open.keys().cloned().collect();
        for key in keys {
            self.close(&key).await?;
        }
        Ok(self.written)
    }
}

/// The file with its partition and with bounds of bearable length.
fn finished(mut builder: DataFileBuilder, partition: &Struct, spec_id: i32) -> Result<DataFile> {
    let failed = |e: iceberg::spec::DataFileBuilderError| error::platform("table-files-failed", e.to_string());
    let measured = builder.partition(partition.clone()).partition_spec_id(spec_id).build().map_err(failed)?;
    let lower = measured.lower_bounds().iter().filter_map(|(id, bound)| Some((*id, cut_lower(bound)?))).collect();
    let upper = measured.upper_bounds().iter().filter_map(|(id, bound)| Some((*id, cut_upper(bound)?))).collect();
    builder.lower_bounds(lower).upper_bounds(upper).build().map_err(failed)
}

/// A prefix sorts before everything that it begins.
fn cut_lower(bound: &Datum) -> Option<Datum> {
    match bound.literal() {
        PrimitiveLiteral::String(text) if text.chars().nth(BOUND_CHARACTERS).is_some() => {
            Some(Datum::string(text.chars().take(BOUND_CHARACTERS).collect::<String>()))
        }
        PrimitiveLiteral::Binary(bytes) if bytes.len() > BOUND_CHARACTERS => None,
        _ => Some(bound.clone()),
    }
}

/// The prefix with its last character raised sorts after everything that the prefix begins; without such a character
/// there is no bound.
fn cut_upper(bound: &Datum) -> Option<Datum> {
    match bound.literal() {
        PrimitiveLiteral::String(text) if text.chars().nth(BOUND_CHARACTERS).is_some() => {
            let mut prefix: Vec<char> = text.chars().take(BOUND_CHARACTERS).collect();
            while let Some(last) = prefix.pop() {
                if let Some(raised) = char::from_u32(last as u32 + 1) {
                    prefix.push(raised);
                    return Some(Datum::string(prefix.into_iter().collect::<String>()));
                }
            }
            None
        }
        PrimitiveLiteral::Binary(bytes) if bytes.len() > BOUND_CHARACTERS => None,
        _ => Some(bound.clone()),
    }
}

/// The rows of one batch that belong to one partition.
struct Piece {
    key: Vec<u8>,
    partition: Struct,
    rows: RecordBatch,
}

/// Cuts batches by partition. Rows are grouped by the bytes of their partition values, so that each batch costs one
/// pass and not one value object a row.
struct Cutter {
    calculator: PartitionValueCalculator,
    converter: RowConverter,
}

impl Cutter {
    fn new(to: &Destination<'_>) -> Result<Self> {
        let calculator =
            PartitionValueCalculator::try_new(&to.spec, &to.schema).map_err(|e| error::from_iceberg(&e))?;
        let kind = calculator.partition_arrow_type().clone();
        let converter = RowConverter::new(vec![SortField::new(kind)])
            .map_err(|e| error::platform("table-files-failed", e.to_string()))?;
        Ok(Self { calculator, converter })
    }

    fn cut(&self, batch: &RecordBatch) -> Result<Vec<Piece>> {
        let failed = |e: arrow::error::ArrowError| error::platform("table-files-failed", e.to_string());
        let values = self.calculator.calculate(batch).map_err(|e| error::from_iceberg(&e))?;
        let rows = self.converter.convert_columns(std::slice::from_ref(&values)).map_err(failed)?;
        let mut groups: HashMap<&[u8], Vec<u32>> = HashMap::new();
        for index in 0..batch.num_rows() {
            let row = u32::try_from(index).unwrap_or(u32::MAX);
            groups.entry(rows.row(index).data()).or_default().push(row);
        }
        let mut pieces = Vec::with_capacity(groups.len());
        for (key, rows) in groups {
            let partition = self.partition(&values, rows.first().copied().unwrap_or(0) as usize)?;
            let rows = if rows.len() == batch.num_rows() {
                batch.clone()
            } else {
                arrow::compute::take_record_batch(batch, &UInt32Array::from(rows)).map_err(failed)?
            };
            pieces.push(Piece { key: key.to_vec(), partition, rows });
        }
        Ok(pieces)
    }

    fn partition(&self, values: &ArrayRef, row: usize) -> Result<Struct> {
        let one: ArrayRef = match values.as_any().downcast_ref::<StructArray>() {
            Some(values) => Arc::new(values.slice(row, 1)),
            None => values.slice(row, 1),
        };
        let literals = arrow_struct_to_literal(&one, self.calculator.partition_type());
        match literals.map_err(|e| error::from_iceberg(&e))?.into_iter().next() {
            Some(Some(Literal::Struct(partition))) => Ok(partition),
            _ => Err(error::platform("table-files-failed", "a row has no partition")),
        }
    }
}
