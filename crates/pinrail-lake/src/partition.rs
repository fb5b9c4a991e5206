//! Partitions: how a table is cut, what a file's partition is, and which partitions a statement names.
//!
//! Not responsible for cutting rows (`write`) or for skipping files (`prune`).

use std::collections::BTreeMap;

use iceberg::spec::{Literal, PartitionSpec, Schema, Struct, Transform, UnboundPartitionField, UnboundPartitionSpec};
use serde_json::Value as Json;

use crate::error::{self, Result};

/// Partition field to value, as metadata would print it: what conflicts are told by.
pub(crate) type Partition = BTreeMap<String, Json>;

/// One `PARTITIONED BY` element.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cut {
    pub(crate) column: String,
    pub(crate) transform: Transform,
}

impl Cut {
    pub(crate) fn identity(column: impl Into<String>) -> Self {
        Self { column: column.into(), transform: Transform::Identity }
    }

    /// The partition field's name, by the custom of other engines.
    fn field_name(&self) -> String {
        let suffix = match self.transform {
            Transform::Bucket(_) => "bucket",
            Transform::Truncate(_) => "trunc",
            Transform::Year => "year",
            Transform::Month => "month",
            Transform::Day => "day",
            Transform::Hour => "hour",
            _ => return self.column.clone(),
        };
        format!("{}_{suffix}", self.column)
    }
}

/// As `PARTITIONED BY` would print it.
pub(crate) fn describe(schema: &Schema, spec: &PartitionSpec) -> Vec<String> {
    let fields = spec.fields().iter().filter(|f| f.transform != Transform::Void);
    fields
        .map(|field| {
            let column = schema.name_by_field_id(field.source_id).unwrap_or(&field.name);
            match field.transform {
                Transform::Identity => column.to_owned(),
                Transform::Bucket(count) => format!("bucket({count}, {column})"),
                Transform::Truncate(width) => format!("truncate({width}, {column})"),
                other => format!("{other}({column})"),
            }
        })
        .collect()
}

/// As `DESCRIBE` prints it: partition column to its cut.
pub(crate) fn by_column(schema: &Schema, spec: &PartitionSpec) -> BTreeMap<String, String> {
    let columns = spec.fields().iter().filter(|f| f.transform != Transform::Void);
    let names = columns.map(|f| schema.name_by_field_id(f.source_id).unwrap_or(&f.name).to_owned());
    names.zip(describe(schema, spec)).collect()
}

/// Binds the cuts to a schema.
pub(crate) fn spec(cuts: &[Cut], schema: &Schema) -> Result<UnboundPartitionSpec> {
    let mut builder = UnboundPartitionSpec::builder();
    for cut in cuts {
        let field = schema.field_by_name(&cut.column).ok_or_else(|| {
            let known: Vec<_> = schema.as_struct().fields().iter().map(|f| f.name.clone()).collect();
            error::user(
                "column-not-found",
                format!("column \"{}\" of PARTITIONED BY is not a column of the table", cut.column),
            )
            .remedy(format!("The table's columns are {}.", known.join(", ")))
        })?;
        cut.transform.result_type(&field.field_type).map_err(|_| {
            error::user(
                "sql-invalid",
                format!(
                    "column \"{}\" of type {} cannot be partitioned by {}",
                    cut.column,
                    crate::types::name(&field.field_type),
                    cut.transform
                ),
            )
        })?;
        let unbound = UnboundPartitionField::builder()
            .source_id(field.id)
            .name(cut.field_name())
            .transform(cut.transform)
            .build();
        builder = builder
            .add_partition_fields([unbound])
            .map_err(|e| error::user("sql-invalid", format!("the table cannot be partitioned so: {}", e.message())))?;
    }
    Ok(builder.build())
}

/// A file's partition, readable.
pub(crate) fn of_file(spec: &PartitionSpec, schema: &Schema, values: &Struct) -> Partition {
    let Ok(kinds) = spec.partition_type(schema) else { return Partition::new() };
    let fields = spec.fields().iter().zip(kinds.fields()).zip(values.iter());
    fields.map(|((field, kind), value)| (field.name.clone(), literal_json(value, &kind.field_type))).collect()
}

fn literal_json(value: Option<&Literal>, kind: &iceberg::spec::Type) -> Json {
    value.and_then(|v| v.clone().try_into_json(kind).ok()).unwrap_or(Json::Null)
}

/// Whether a file of this partition belongs to one of the named ones. Naming none means all.
pub(crate) fn is_among(partition: &Partition, named: &[Partition]) -> bool {
    named.is_empty() || named.iter().any(|n| n.iter().all(|(field, value)| partition.get(field) == Some(value)))
}

/// As people read it: `[day=2013-01-01]`.
pub(crate) fn show(partition: &Partition) -> String {
    let parts = partition.iter().map(|(field, value)| match value {
        Json::String(text) => format!("{field}={text}"),
        other => format!("{field}={other}"),
    });
    format!("[{}]", parts.collect::<Vec<_>>().join(", "))
}
