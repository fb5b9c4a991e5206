//! Skips manifests and files that cannot hold a row that a query asks for.
//!
//! What is known of a manifest are the bounds of its partition values, of a file its partition and its column bounds.
//! DataFusion's pruning decides over both; equality with a bucketed column is decided here, because a bucket says
//! nothing about bounds.
//!
//! Invariant: unknown means keep. Bounds of a column with NaN count as unknown, because SQL sorts NaN above all.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt64Array};
use arrow::datatypes::{DataType, Int32Type, SchemaRef as ArrowSchemaRef};
use datafusion::catalog::Session;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, DFSchema};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{Expr, Operator, utils::conjunction};
use datafusion::physical_optimizer::pruning::PruningPredicate;
use datafusion::scalar::ScalarValue;
use iceberg::spec::{
    DataFile, Datum, Literal, ManifestEntryRef, ManifestFile, NestedFieldRef, PartitionField, PartitionSpecRef,
    PrimitiveLiteral, PrimitiveType, Schema, TableMetadata, Transform, Type,
};
use iceberg::transform::create_transform_function;

const DAY_MICROS: i64 = 86_400_000_000;
const HOUR_MICROS: i64 = 3_600_000_000;

/// The filters of one scan.
pub(crate) struct Pruner<'a> {
    predicate: Option<PruningPredicate>,
    equalities: Vec<(String, Vec<ScalarValue>)>,
    metadata: &'a TableMetadata,
    schema: &'a Schema,
    arrow: &'a ArrowSchemaRef,
}

impl<'a> Pruner<'a> {
    pub(crate) fn new(
        state: &dyn Session,
        filters: &[Expr],
        metadata: &'a TableMetadata,
        schema: &'a Schema,
        arrow: &'a ArrowSchemaRef,
    ) -> DfResult<Self> {
        let predicate = match conjunction(filters.iter().cloned()) {
            None => None,
            Some(filter) => {
                let names = DFSchema::try_from(arrow.as_ref().clone())?;
                // A filter that pruning does not understand prunes nothing.
                let filter = state.create_physical_expr(filter, &names);
                filter.and_then(|filter| PruningPredicate::try_new(filter, arrow.clone())).ok()
            }
        };
        let equalities = filters.iter().filter_map(equality).collect();
        Ok(Self { predicate, equalities, metadata, schema, arrow })
    }

    /// Those manifests that may hold wanted files.
    pub(crate) fn manifests<'m>(&self, manifests: &[&'m ManifestFile]) -> DfResult<Vec<&'m ManifestFile>> {
        let Some(predicate) = &self.predicate else { return Ok(manifests.to_vec()) };
        let kept = predicate.prune(&OfManifests { pruner: self, manifests })?;
        Ok(manifests.iter().zip(kept).filter_map(|(m, keep)| keep.then_some(*m)).collect())
    }

    /// Those files that may hold wanted rows.
    pub(crate) fn files(&self, files: Vec<(i32, ManifestEntryRef)>) -> DfResult<Vec<(i32, ManifestEntryRef)>> {
        let files: Vec<_> =
            files.into_iter().filter(|(spec_id, entry)| self.bucket_fits(*spec_id, entry.data_file())).collect();
        let Some(predicate) = &self.predicate else { return Ok(files) };
        let kept = predicate.prune(&OfFiles { pruner: self, files: &files })?;
        Ok(files.into_iter().zip(kept).filter_map(|(file, keep)| keep.then_some(file)).collect())
    }

    fn spec(&self, spec_id: i32) -> Option<&PartitionSpecRef> {
        self.metadata.partition_spec_by_id(spec_id)
    }

    fn column(&self, column: &Column) -> Option<(&NestedFieldRef, &PrimitiveType, &DataType)> {
        let field = self.schema.field_by_name(&column.name)?;
        let kind = field.field_type.as_primitive_type()?;
        Some((field, kind, self.arrow.field_with_name(&column.name).ok()?.data_type()))
    }

    /// Whether the file's bucket is one that a wanted value falls into.
    fn bucket_fits(&self, spec_id: i32, file: &DataFile) -> bool {
        self.equalities.iter().all(|(name, values)| {
            let fits = || -> Option<bool> {
                let column = self.schema.field_by_name(name)?;
                let kind = self.arrow.field_with_name(name).ok()?.data_type();
                let spec = self.spec(spec_id)?;
                let at = spec
                    .fields()
                    .iter()
                    .position(|f| f.source_id == column.id && matches!(f.transform, Transform::Bucket(_)))?;
                let Some(Literal::Primitive(PrimitiveLiteral::Int(bucket))) = &file.partition()[at] else {
                    return None;
                };
                let wanted = buckets(spec.fields().get(at)?.transform, values, kind)?;
                Some(wanted.contains(bucket))
            };
            fits().unwrap_or(true)
        })
    }
}

fn buckets(transform: Transform, values: &[ScalarValue], kind: &DataType) -> Option<HashSet<i32>> {
    let function = create_transform_function(&transform).ok()?;
    let mut buckets = HashSet::new();
    for value in values {
        let value = value.cast_to(kind).ok()?;
        let bucket = function.transform(value.to_array().ok()?).ok()?;
        buckets.insert(bucket.as_primitive_opt::<Int32Type>().filter(|b| b.is_valid(0))?.value(0));
    }
    Some(buckets)
}

/// `column = literal` and `column in (literals)`.
fn equality(filter: &Expr) -> Option<(String, Vec<ScalarValue>)> {
    match filter {
        Expr::BinaryExpr(binary) if binary.op == Operator::Eq => match (&*binary.left, &*binary.right) {
            (Expr::Column(column), Expr::Literal(value, _)) | (Expr::Literal(value, _), Expr::Column(column)) => {
                Some((column.name.clone(), vec![value.clone()]))
            }
            _ => None,
        },
        Expr::InList(list) if !list.negated => {
            let Expr::Column(column) = &*list.expr else { return None };
            let values = list.list.iter().map(|item| match item {
                Expr::Literal(value, _) => Some(value.clone()),
                _ => None,
            });
            Some((column.name.clone(), values.collect::<Option<_>>()?))
        }
        _ => None,
    }
}

/// A list of values that may be unknown, as an array of the column's type.
fn array(values: impl Iterator<Item = Option<ScalarValue>>, kind: &DataType) -> Option<ArrayRef> {
    let mut known = false;
    let null = ScalarValue::try_from(kind).ok()?;
    let values: Vec<_> = values
        .map(|value| match value.and_then(|v| v.cast_to(kind).ok()) {
            Some(value) => {
                known = true;
                value
            }
            None => null.clone(),
        })
        .collect();
    if !known {
        return None;
    }
    ScalarValue::iter_to_array(values).ok()
}

struct OfManifests<'a> {
    pruner: &'a Pruner<'a>,
    manifests: &'a [&'a ManifestFile],
}

impl OfManifests<'_> {
    fn bounds(&self, column: &Column, upper: bool) -> Option<ArrayRef> {
        let (field, kind, arrow) = self.pruner.column(column)?;
        let of = |manifest: &ManifestFile| -> Option<ScalarValue> {
            let spec = self.pruner.spec(manifest.partition_spec_id)?;
            let (at, cut) = spec.fields().iter().enumerate().find(|(_, f)| f.source_id == field.id && ordered(f))?;
            let summary = manifest.partitions.as_ref()?.get(at)?;
            if summary.contains_nan != Some(false) && is_float(kind) {
                return None;
            }
            let bytes = if upper { summary.upper_bound.as_ref()? } else { summary.lower_bound.as_ref()? };
            let result = cut.transform.result_type(&Type::Primitive(kind.clone())).ok()?;
            let bound = Datum::try_from_bytes(bytes, result.as_primitive_type()?.clone()).ok()?;
            source_bound(cut.transform, bound.literal(), kind, upper)
        };
        array(self.manifests.iter().map(|m| of(m)), arrow)
    }
}

/// Partition fields whose bounds say something about the bounds of their column.
fn ordered(field: &PartitionField) -> bool {
    matches!(
        field.transform,
        Transform::Identity | Transform::Year | Transform::Month | Transform::Day | Transform::Hour
    )
}

/// The bound of the column that follows from a bound of the partition value.
fn source_bound(
    transform: Transform,
    bound: &PrimitiveLiteral,
    kind: &PrimitiveType,
    upper: bool,
) -> Option<ScalarValue> {
    if transform == Transform::Identity {
        return scalar(bound, kind);
    }
    let PrimitiveLiteral::Int(number) = bound else { return None };
    let number = i64::from(*number) + i64::from(upper);
    let first_day = |months: i64| {
        let (year, month) = (1970 + months.div_euclid(12), months.rem_euclid(12) + 1);
        let date = chrono::NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, u32::try_from(month).ok()?, 1)?;
        Some((date - chrono::NaiveDate::default()).num_days())
    };
    // The start of the unit, or for an upper bound the start of the next one, less one.
    let start_micros = match transform {
        Transform::Year => first_day(number.checked_mul(12)?)?.checked_mul(DAY_MICROS)?,
        Transform::Month => first_day(number)?.checked_mul(DAY_MICROS)?,
        Transform::Day => number.checked_mul(DAY_MICROS)?,
        Transform::Hour => number.checked_mul(HOUR_MICROS)?,
        _ => return None,
    };
    let micros = start_micros - i64::from(upper);
    match kind {
        PrimitiveType::Date => Some(ScalarValue::Date32(i32::try_from(micros.div_euclid(DAY_MICROS)).ok())),
        PrimitiveType::Timestamp => Some(ScalarValue::TimestampMicrosecond(Some(micros), None)),
        PrimitiveType::Timestamptz => {
            Some(ScalarValue::TimestampMicrosecond(Some(micros), Some(crate::types::UTC.into())))
        }
        _ => None,
    }
}

impl PruningStatistics for OfManifests<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, false)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, true)
    }

    fn num_containers(&self) -> usize {
        self.manifests.len()
    }

    fn null_counts(&self, _column: &Column) -> Option<ArrayRef> {
        None
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        None
    }

    fn contained(&self, _column: &Column, _values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

struct OfFiles<'a> {
    pruner: &'a Pruner<'a>,
    files: &'a [(i32, ManifestEntryRef)],
}

impl OfFiles<'_> {
    fn bounds(&self, column: &Column, upper: bool) -> Option<ArrayRef> {
        let (field, kind, arrow) = self.pruner.column(column)?;
        let of = |spec_id: i32, file: &DataFile| {
            let spec = self.pruner.spec(spec_id);
            let identity = spec.and_then(|spec| {
                spec.fields().iter().position(|f| f.source_id == field.id && f.transform == Transform::Identity)
            });
            match identity.map(|at| &file.partition()[at]) {
                Some(Some(Literal::Primitive(value))) if !value.is_nan() => scalar(value, kind),
                _ => bound(file, field.id, upper),
            }
        };
        array(self.files.iter().map(|(spec_id, entry)| of(*spec_id, entry.data_file())), arrow)
    }
}

impl PruningStatistics for OfFiles<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, false)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, true)
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let (field, ..) = self.pruner.column(column)?;
        let counts = self.files.iter().map(|(_, e)| e.data_file().null_value_counts().get(&field.id).copied());
        Some(Arc::new(UInt64Array::from_iter(counts)))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(UInt64Array::from_iter_values(self.files.iter().map(|(_, entry)| entry.record_count()))))
    }

    fn contained(&self, _column: &Column, _values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

fn is_float(kind: &PrimitiveType) -> bool {
    matches!(kind, PrimitiveType::Float | PrimitiveType::Double)
}

/// A column bound of a file, if it bounds all of its values.
pub(crate) fn bound(file: &DataFile, id: i32, upper: bool) -> Option<ScalarValue> {
    let bound = if upper { file.upper_bounds().get(&id)? } else { file.lower_bounds().get(&id)? };
    if is_float(bound.data_type()) && file.nan_value_counts().get(&id) != Some(&0) {
        return None;
    }
    scalar(bound.literal(), bound.data_type())
}

fn scalar(value: &PrimitiveLiteral, kind: &PrimitiveType) -> Option<ScalarValue> {
    let zone = || Some(crate::types::UTC.into());
    Some(match (value, kind) {
        (PrimitiveLiteral::Boolean(v), _) => ScalarValue::Boolean(Some(*v)),
        (PrimitiveLiteral::Int(v), PrimitiveType::Date) => ScalarValue::Date32(Some(*v)),
        (PrimitiveLiteral::Int(v), _) => ScalarValue::Int32(Some(*v)),
        (PrimitiveLiteral::Long(v), PrimitiveType::Time) => ScalarValue::Time64Microsecond(Some(*v)),
        (PrimitiveLiteral::Long(v), PrimitiveType::Timestamp) => ScalarValue::TimestampMicrosecond(Some(*v), None),
        (PrimitiveLiteral::Long(v), PrimitiveType::Timestamptz) => ScalarValue::TimestampMicrosecond(Some(*v), zone()),
        (PrimitiveLiteral::Long(v), PrimitiveType::Long) => ScalarValue::Int64(Some(*v)),
        (PrimitiveLiteral::Float(v), _) => ScalarValue::Float32(Some(v.0)),
        (PrimitiveLiteral::Double(v), _) => ScalarValue::Float64(Some(v.0)),
        (PrimitiveLiteral::String(v), _) => ScalarValue::Utf8(Some(v.clone())),
        (PrimitiveLiteral::Binary(v), PrimitiveType::Binary) => ScalarValue::LargeBinary(Some(v.clone())),
        (PrimitiveLiteral::Int128(v), PrimitiveType::Decimal { precision, scale }) => {
            ScalarValue::Decimal128(Some(*v), u8::try_from(*precision).ok()?, i8::try_from(*scale).ok()?)
        }
        _ => return None,
    })
}
