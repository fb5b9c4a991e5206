//! The tables of the namespace `system` as queries see them: what the seam gives, in columns.
//!
//! Not responsible for who may see which rows (the seam's `SystemTables` filters by project).

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use pinrail_model::names::{ProjectName, TableRef};
use pinrail_model::seam::lake::{Column, LakeError, SYSTEM, SystemTables};
use serde_json::Value;

use crate::error::{self, Result};
use crate::types::UTC;

/// Whether a name is reserved for the platform's own tables.
pub(crate) fn is_system(table: &TableRef) -> bool {
    table.namespace.as_str() == SYSTEM
}

/// The refusal of a statement that would write one.
pub(crate) fn refuse_write(table: &TableRef) -> Result<()> {
    if !is_system(table) {
        return Ok(());
    }
    Err(error::user("name-reserved", format!("table \"{table}\" belongs to the platform and cannot be written"))
        .remedy("Choose another namespace."))
}

/// Names of all of them.
pub(crate) fn names(system: &dyn SystemTables) -> Vec<TableRef> {
    system.tables().iter().filter_map(|(name, _)| format!("{SYSTEM}.{name}").parse().ok()).collect()
}

/// The columns of one.
pub(crate) fn columns(system: &dyn SystemTables, table: &TableRef) -> Option<Vec<Column>> {
    let found = system.tables().into_iter().find(|(name, _)| *name == table.name.as_str());
    found.map(|(_, columns)| columns)
}

/// One of them with its rows of this moment; none if there is no such table.
pub(crate) async fn provider(
    system: &dyn SystemTables,
    project: &ProjectName,
    table: &TableRef,
) -> Result<Option<Arc<dyn TableProvider>>> {
    let Some(columns) = columns(system, table) else { return Ok(None) };
    let rows = system.rows(project, table.name.as_str()).await?;
    let fields: Vec<Field> = columns.iter().map(|c| Field::new(&c.name, arrow_type(&c.kind), true)).collect();
    let arrays = fields.iter().enumerate().map(|(at, field)| array(&rows, at, field.data_type())).collect();
    let schema = Arc::new(Schema::new(fields));
    let failed = |message: String| error::platform("query-failed", message);
    let batch = RecordBatch::try_new(schema.clone(), arrays).map_err(|e| failed(e.to_string()))?;
    let table = MemTable::try_new(schema, vec![vec![batch]]).map_err(error::from_datafusion)?;
    Ok(Some(Arc::new(table)))
}

fn arrow_type(iceberg: &str) -> DataType {
    match iceberg {
        "long" => DataType::Int64,
        "double" => DataType::Float64,
        "timestamptz" => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
        _ => DataType::Utf8,
    }
}

fn array(rows: &[Vec<Value>], at: usize, kind: &DataType) -> ArrayRef {
    let values = rows.iter().map(|row| row.get(at));
    match kind {
        DataType::Int64 => Arc::new(values.map(|v| v.and_then(Value::as_i64)).collect::<Int64Array>()),
        DataType::Float64 => Arc::new(values.map(|v| v.and_then(Value::as_f64)).collect::<Float64Array>()),
        DataType::Timestamp(..) => {
            let times: TimestampMicrosecondArray = values.map(|v| v.and_then(Value::as_i64)).collect();
            Arc::new(times.with_timezone(UTC))
        }
        _ => Arc::new(values.map(|v| v.and_then(Value::as_str)).collect::<StringArray>()),
    }
}

/// For a lake that nobody has told of any.
pub(crate) struct NoSystemTables;

#[async_trait::async_trait]
impl SystemTables for NoSystemTables {
    fn tables(&self) -> Vec<(&'static str, Vec<Column>)> {
        Vec::new()
    }

    async fn rows(&self, _: &ProjectName, _: &str) -> std::result::Result<Vec<Vec<Value>>, LakeError> {
        Ok(Vec::new())
    }
}
