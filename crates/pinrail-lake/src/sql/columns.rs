//! What the columns of a query are called where the query does not say: in a result by the expression as it is written,
//! in a table by the function that is called.
//!
//! Not responsible for columns of inner queries: those are the planner's.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::sql::sqlparser::ast::{Expr, Query, SelectItem, SetExpr, Spanned};
use datafusion::sql::sqlparser::tokenizer::Location;

use crate::error::{self, Result};

/// A column without a name of its own.
#[derive(Debug, Clone)]
pub(crate) struct Unnamed {
    text: String,
    /// The function that it is a call of.
    function: Option<String>,
    at: Location,
}

/// The unnamed columns of a query with as many columns as this, by position.
pub(crate) fn unnamed(query: &Query, count: usize) -> Vec<Option<Unnamed>> {
    let mut found = vec![None; count];
    let Some(items) = projection(&query.body) else { return found };
    let is_star = |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
    // A star stands for some number of columns: what is before the first and after the last has a known position.
    let before = items.iter().position(is_star).unwrap_or(items.len());
    let after = items.iter().rev().position(is_star).unwrap_or(0);
    if before + after > count || (before == items.len() && before != count) {
        return found;
    }
    for (place, item) in found.iter_mut().zip(&items[..before]) {
        *place = one(item);
    }
    for (place, item) in found[count - after..].iter_mut().zip(&items[items.len() - after..]) {
        *place = one(item);
    }
    found
}

/// The SELECT list that names the columns: the leftmost one.
fn projection(body: &SetExpr) -> Option<&[SelectItem]> {
    match body {
        SetExpr::Select(select) => Some(&select.projection),
        SetExpr::Query(query) => projection(&query.body),
        SetExpr::SetOperation { left, .. } => projection(left),
        _ => None,
    }
}

fn one(item: &SelectItem) -> Option<Unnamed> {
    let SelectItem::UnnamedExpr(expr) = item else { return None };
    if is_column(expr) {
        return None;
    }
    let function = match expr {
        Expr::Function(function) => function.name.0.last().and_then(|part| part.as_ident()),
        _ => None,
    };
    Some(Unnamed {
        text: as_written(&expr.to_string()),
        function: function.map(|name| name.value.to_lowercase()),
        at: expr.span().start,
    })
}

/// Numbers with an exponent have become casts when the text was parsed.
fn as_written(text: &str) -> String {
    let (begin, end) = ("CAST('", "' AS DOUBLE)");
    let mut parts = text.split(begin);
    let mut written = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let number = part.split_once(end).filter(|(digits, _)| {
            digits.contains(['e', 'E']) && digits.bytes().all(|b| b.is_ascii_digit() || b".eE+-".contains(&b))
        });
        match number {
            Some((digits, rest)) => written.extend([digits, rest]),
            None => written.extend([begin, part]),
        }
    }
    written
}

/// A column, also one below a cast, has the column's name.
fn is_column(expr: &Expr) -> bool {
    match expr {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::CompoundFieldAccess { .. } => true,
        Expr::Cast { expr, .. } | Expr::Nested(expr) => is_column(expr),
        _ => false,
    }
}

/// The columns of a result: unnamed ones are called as they are written.
pub(crate) fn shown(schema: &SchemaRef, unnamed: &[Option<Unnamed>]) -> SchemaRef {
    if unnamed.iter().all(Option::is_none) {
        return schema.clone();
    }
    let mut names: Vec<String> = Vec::with_capacity(schema.fields().len());
    for (index, field) in schema.fields().iter().enumerate() {
        let Some(Some(column)) = unnamed.get(index) else {
            names.push(field.name().clone());
            continue;
        };
        let numbered = (2..).map(|number| format!("{}_{number}", column.text));
        let mut free = std::iter::once(column.text.clone()).chain(numbered).filter(|name| !names.contains(name));
        names.push(free.next().unwrap_or_default());
    }
    renamed(schema, names)
}

/// The columns of a table that is made of a result.
pub(crate) fn of_table(schema: &SchemaRef, unnamed: &[Option<Unnamed>]) -> Result<SchemaRef> {
    let mut names = Vec::with_capacity(schema.fields().len());
    for (index, field) in schema.fields().iter().enumerate() {
        names.push(match unnamed.get(index) {
            Some(Some(Unnamed { function: Some(function), .. })) => function.clone(),
            Some(Some(Unnamed { text, at, .. })) => {
                let error = error::user("column-unnamed", format!("column {} has no name: {text}", index + 1))
                    .remedy(format!("Give it one: {text} AS name."));
                let (line, column) = (u32::try_from(at.line).unwrap_or(0), u32::try_from(at.column).unwrap_or(0));
                return Err(if line > 0 { error.at(line, column) } else { error });
            }
            _ => field.name().clone(),
        });
    }
    Ok(renamed(schema, names))
}

fn renamed(schema: &SchemaRef, names: Vec<String>) -> SchemaRef {
    let fields = schema.fields().iter().zip(names);
    let fields = fields.map(|(field, name)| Field::new(name, field.data_type().clone(), field.is_nullable()));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}
