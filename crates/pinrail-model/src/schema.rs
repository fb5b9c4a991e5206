//! How types that are texts in JSON are described to programs that read the API's document.

use utoipa::openapi::schema::{Object, ObjectBuilder, SchemaFormat, Type};

/// A text with a pattern that it matches and an example.
#[must_use]
pub fn text(description: &str, pattern: Option<&str>, example: &str) -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(description))
        .pattern(pattern)
        .examples([example])
        .build()
}

/// A time in ISO 8601.
#[must_use]
pub fn time(description: &str, example: &str) -> Object {
    let mut object = text(description, None, example);
    object.format = Some(SchemaFormat::Custom("date-time".to_owned()));
    object
}

/// Describes a type by an object of [`text`] or [`time`], under its own name or another.
macro_rules! describe {
    ($name:ident, $object:expr) => {
        crate::schema::describe!($name as stringify!($name), $object);
    };
    ($name:ident as $shown:expr, $object:expr) => {
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::schema::Schema::Object($object).into()
            }
        }

        impl utoipa::ToSchema for $name {
            fn name() -> std::borrow::Cow<'static, str> {
                std::borrow::Cow::Borrowed($shown)
            }
        }
    };
}
pub(crate) use describe;
