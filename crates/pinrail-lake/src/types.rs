//! The types of columns: Iceberg's names for them, and the ways from Arrow and from SQL to Iceberg.
//!
//! Not responsible for values: [`crate::cast`] converts those.
//!
//! Invariant: every column and every nested field is nullable, so that any table can be read and extended by anyone.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema as ArrowSchema, SchemaRef as ArrowSchemaRef, TimeUnit};
use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, DataType as SqlType, ExactNumberInfo, StructBracketKind, TimezoneInfo,
};
use iceberg::spec::{ListType, MapType, NestedField, NestedFieldRef, PrimitiveType, Schema, StructType, Type};
use pinrail_model::seam::lake::Column;

use crate::error::{self, Result};

/// Where timestamps with a zone are kept: UTC, by Iceberg's own spelling.
pub(crate) const UTC: &str = "+00:00";

/// Hands out field ids.
#[derive(Debug)]
pub(crate) struct FieldIds(i32);

impl FieldIds {
    /// Ids above `last`.
    pub(crate) fn after(last: i32) -> Self {
        Self(last)
    }

    fn next(&mut self) -> i32 {
        self.0 += 1;
        self.0
    }

    /// A nullable column with a fresh id; the ids of what is nested in it follow.
    pub(crate) fn column(
        &mut self,
        name: &str,
        kind: impl FnOnce(&mut Self) -> Result<Type>,
    ) -> Result<NestedFieldRef> {
        let id = self.next();
        Ok(NestedField::optional(id, name, kind(self)?).into())
    }
}

/// Iceberg's name of a type, with what is nested in it.
pub(crate) fn name(kind: &Type) -> String {
    match kind {
        Type::Primitive(primitive) => primitive.to_string(),
        Type::List(list) => format!("list<{}>", name(&list.element_field.field_type)),
        Type::Map(map) => format!("map<{}, {}>", name(&map.key_field.field_type), name(&map.value_field.field_type)),
        Type::Struct(fields) => {
            let parts: Vec<_> =
                fields.fields().iter().map(|f| format!("{}: {}", f.name, name(&f.field_type))).collect();
            format!("struct<{}>", parts.join(", "))
        }
    }
}

/// Iceberg's name of the type that a column of a result has; what Iceberg has no type for keeps a name of its own.
pub(crate) fn result_name(kind: &DataType) -> String {
    match kind {
        DataType::Null => "unknown".to_owned(),
        DataType::Interval(_) | DataType::Duration(_) => "interval".to_owned(),
        other => match from_arrow(other, &mut FieldIds::after(0)) {
            Ok(kind) => name(&kind),
            Err(_) => other.to_string().to_lowercase(),
        },
    }
}

/// The columns of a result, as people see them.
pub(crate) fn result_columns(schema: &ArrowSchema) -> Vec<Column> {
    schema.fields().iter().map(|f| Column { name: f.name().clone(), kind: result_name(f.data_type()) }).collect()
}

/// The columns of a table, as people see them.
pub(crate) fn table_columns(schema: &Schema) -> Vec<Column> {
    let fields = schema.as_struct().fields().iter();
    fields.map(|f| Column { name: f.name.clone(), kind: name(&f.field_type) }).collect()
}

/// The type of a column that is made from a query's result.
pub(crate) fn from_arrow(kind: &DataType, ids: &mut FieldIds) -> Result<Type> {
    let primitive = match kind {
        DataType::Boolean => PrimitiveType::Boolean,
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => PrimitiveType::Int,
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => PrimitiveType::Long,
        DataType::Float16 | DataType::Float32 => PrimitiveType::Float,
        DataType::Float64 => PrimitiveType::Double,
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => decimal(u64::from(*precision), i64::from(*scale))?,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => PrimitiveType::String,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => PrimitiveType::Binary,
        DataType::FixedSizeBinary(size) => PrimitiveType::Fixed(u64::try_from(*size).unwrap_or(0)),
        DataType::Date32 | DataType::Date64 => PrimitiveType::Date,
        DataType::Time32(_) | DataType::Time64(_) => PrimitiveType::Time,
        DataType::Timestamp(_, None) => PrimitiveType::Timestamp,
        DataType::Timestamp(_, Some(_)) => PrimitiveType::Timestamptz,
        DataType::Dictionary(_, value) => return from_arrow(value, ids),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => {
            let id = ids.next();
            let element = from_arrow(item.data_type(), ids)?;
            return Ok(Type::List(ListType::new(NestedField::list_element(id, element, false).into())));
        }
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|f| ids.column(f.name(), |ids| from_arrow(f.data_type(), ids)));
            return Ok(Type::Struct(StructType::new(fields.collect::<Result<_>>()?)));
        }
        DataType::Map(entries, _) => {
            let DataType::Struct(pair) = entries.data_type() else { return Err(no_type(kind)) };
            let [key, value] = pair.as_ref() else { return Err(no_type(kind)) };
            let (key_id, value_id) = (ids.next(), ids.next());
            let key = from_arrow(key.data_type(), ids)?;
            let value = from_arrow(value.data_type(), ids)?;
            return Ok(Type::Map(MapType::optional(key_id, key, value_id, value)));
        }
        _ => return Err(no_type(kind)),
    };
    Ok(Type::Primitive(primitive))
}

fn no_type(kind: &DataType) -> pinrail_model::seam::lake::LakeError {
    error::user(
        "type-unsupported",
        format!("no column of a table can hold values of type {}", kind.to_string().to_lowercase()),
    )
    .remedy("Cast the column to a type that tables have, such as long, decimal(10, 2), string or timestamp.")
}

fn decimal(precision: u64, scale: i64) -> Result<PrimitiveType> {
    match (u32::try_from(precision), u32::try_from(scale)) {
        (Ok(precision @ 1..=38), Ok(scale)) if scale <= precision => Ok(PrimitiveType::Decimal { precision, scale }),
        _ => Err(error::user("type-unsupported", format!("decimal({precision}, {scale}) is not a type of tables"))
            .remedy("Use a precision from 1 to 38 and a scale from 0 to the precision.")),
    }
}

/// `an int`, `a long`.
pub(crate) fn with_article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" };
    format!("{article} {kind}")
}

/// What to do about a type that there is not.
pub(crate) const SUPPORTED: &str = "Use boolean, int, long, float, double, decimal(p, s), date, timestamp, timestamptz, string, binary, array<...>, \
     struct<...> or map<..., ...>.";

/// The type that `CREATE TABLE` names.
pub(crate) fn from_sql(kind: &SqlType, ids: &mut FieldIds) -> Result<Type> {
    let unsupported = || error::user("type-unsupported", format!("type \"{kind}\" is not supported")).remedy(SUPPORTED);
    let primitive = match kind {
        SqlType::Boolean | SqlType::Bool => PrimitiveType::Boolean,
        SqlType::TinyInt(_) | SqlType::SmallInt(_) | SqlType::Int(_) | SqlType::Integer(_) | SqlType::Int4(_) => {
            PrimitiveType::Int
        }
        SqlType::BigInt(_) | SqlType::Int8(_) | SqlType::Int64 => PrimitiveType::Long,
        SqlType::Real | SqlType::Float4 | SqlType::Float(_) => PrimitiveType::Float,
        SqlType::Double(_) | SqlType::DoublePrecision | SqlType::Float8 | SqlType::Float64 => PrimitiveType::Double,
        SqlType::Decimal(info) | SqlType::Numeric(info) | SqlType::Dec(info) => match info {
            ExactNumberInfo::PrecisionAndScale(precision, scale) => decimal(*precision, *scale)?,
            ExactNumberInfo::Precision(precision) => decimal(*precision, 0)?,
            ExactNumberInfo::None => decimal(38, 10)?,
        },
        SqlType::Date => PrimitiveType::Date,
        SqlType::Time(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => PrimitiveType::Time,
        SqlType::Timestamp(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) | SqlType::Datetime(_) => {
            PrimitiveType::Timestamp
        }
        SqlType::Timestamp(_, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => PrimitiveType::Timestamptz,
        SqlType::String(_)
        | SqlType::Text
        | SqlType::Varchar(_)
        | SqlType::CharacterVarying(_)
        | SqlType::Char(_)
        | SqlType::Character(_) => PrimitiveType::String,
        SqlType::Binary(_) | SqlType::Varbinary(_) | SqlType::Bytea | SqlType::Blob(_) | SqlType::Bytes(_) => {
            PrimitiveType::Binary
        }
        SqlType::Custom(custom, modifiers) if modifiers.is_empty() => {
            match custom.to_string().to_lowercase().as_str() {
                "long" => PrimitiveType::Long,
                "timestamptz" => PrimitiveType::Timestamptz,
                _ => return Err(unsupported()),
            }
        }
        SqlType::Array(
            ArrayElemTypeDef::AngleBracket(item)
            | ArrayElemTypeDef::SquareBracket(item, None)
            | ArrayElemTypeDef::Parenthesis(item),
        ) => {
            let id = ids.next();
            let element = from_sql(item, ids)?;
            return Ok(Type::List(ListType::new(NestedField::list_element(id, element, false).into())));
        }
        SqlType::Map(key, value) => {
            let (key_id, value_id) = (ids.next(), ids.next());
            let key = from_sql(key, ids)?;
            let value = from_sql(value, ids)?;
            return Ok(Type::Map(MapType::optional(key_id, key, value_id, value)));
        }
        SqlType::Struct(fields, StructBracketKind::AngleBrackets | StructBracketKind::Parentheses) => {
            let fields = fields.iter().map(|field| {
                let name = field.field_name.as_ref().ok_or_else(unsupported)?;
                ids.column(&name.value, |ids| from_sql(&field.field_type, ids))
            });
            return Ok(Type::Struct(StructType::new(fields.collect::<Result<_>>()?)));
        }
        _ => return Err(unsupported()),
    };
    Ok(Type::Primitive(primitive))
}

/// The Arrow schema of a table's rows as they are written: with field ids, by which every reader finds its columns.
pub(crate) fn written_schema(schema: &Schema) -> Result<ArrowSchemaRef> {
    iceberg::arrow::schema_to_arrow_schema(schema).map(Arc::new).map_err(|e| error::from_iceberg(&e))
}

/// The Arrow schema that queries see: the same without field ids, which would make equal types unequal.
pub(crate) fn query_schema(schema: &Schema) -> Result<ArrowSchemaRef> {
    let written = written_schema(schema)?;
    let fields: Vec<_> = written.fields().iter().map(|f| bare(f)).collect();
    Ok(Arc::new(ArrowSchema::new(fields)))
}

fn bare(field: &Field) -> Field {
    let kind = match field.data_type() {
        DataType::List(item) => DataType::List(Arc::new(bare(item))),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|f| bare(f)).collect()),
        DataType::Map(entries, sorted) => DataType::Map(Arc::new(bare(entries)), *sorted),
        other => other.clone(),
    };
    Field::new(field.name(), kind, field.is_nullable())
}

/// The plain Arrow type of a value that leaves the engine: no views, no dictionaries, microseconds.
pub(crate) fn plain(kind: &DataType) -> DataType {
    let field = |f: &Arc<Field>| Arc::new(Field::new(f.name(), plain(f.data_type()), f.is_nullable()));
    match kind {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Dictionary(_, value) => plain(value),
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.as_ref().map(|_| UTC.into())),
        DataType::Date64 => DataType::Date32,
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) | DataType::LargeListView(item) => {
            DataType::List(field(item))
        }
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(field).collect()),
        DataType::Map(entries, sorted) => DataType::Map(field(entries), *sorted),
        other => other.clone(),
    }
}
