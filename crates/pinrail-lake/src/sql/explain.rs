//! Says in our words what is wrong with a query: which name, where, and which name is meant.

use std::collections::BTreeSet;

use datafusion::common::{Column, SchemaError};
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::sql::sqlparser::tokenizer::Location;
use pinrail_model::near::nearest;
use pinrail_model::seam::lake::LakeError;

use super::names::Names;
use super::wording::{self, Told};
use crate::error::{self, from_datafusion, unwrapped};

/// An error of planning; its place is that of the rendered text.
pub(crate) fn explain(error: DataFusionError, names: &Names, state: &SessionState) -> LakeError {
    // Where the planner knows what it means, it knows better than a search for the name.
    let span = error.diagnostic().and_then(|diagnostic| diagnostic.span).map(|span| span.start);
    let from = span.filter(|span| span.line > 0).map(|span| Location { line: span.line, column: span.column });
    let error = unwrapped(error);
    if let DataFusionError::SchemaError(schema, _) = &error {
        match schema.as_ref() {
            SchemaError::FieldNotFound { field, valid_fields } => {
                return column_not_found(field, valid_fields, names, from);
            }
            // A column of a table and a name that the SELECT gives, in one result.
            SchemaError::AmbiguousReference { field } if field.relation.is_some() => {
                let error = error::user("sql-invalid", format!("two columns are called \"{}\"", field.name));
                let error = error.remedy("Give one of them another name: expression AS name.");
                return placed(error, &field.name, names, from);
            }
            SchemaError::AmbiguousReference { field } => {
                let error =
                    error::user("column-ambiguous", format!("column \"{}\" is in more than one table", field.name));
                return placed(error.remedy("Write it with its table: table.column."), &field.name, names, from);
            }
            _ => {}
        }
    }
    let error = told(error, names, state);
    match from {
        Some(from) if error.code == "sql-invalid" => at(error, from),
        _ => error,
    }
}

fn told(error: DataFusionError, names: &Names, state: &SessionState) -> LakeError {
    if let DataFusionError::External(_) = &error {
        let error = from_datafusion(error);
        // The planner calls a table function by its name alone.
        return match error.place {
            None if error.code == "function-not-found" => {
                let called = names.functions.iter().find(|(name, _)| error.evidence.message.contains(name.as_str()));
                called.map_or(error.clone(), |(_, place)| at(error, *place))
            }
            _ => error,
        };
    }
    let message = error.strip_backtrace();
    if let Some(name) = quoted_after(&message, "Invalid function '") {
        return function_not_found(&name, names, state);
    }
    match wording::told(&message) {
        Some(Told { error, about: Some(name) }) => placed(error, &name, names, None),
        Some(Told { error, about: None }) => error,
        None => from_datafusion(error),
    }
}

fn at(error: LakeError, place: Location) -> LakeError {
    error.at(u32::try_from(place.line).unwrap_or(0), u32::try_from(place.column).unwrap_or(0))
}

fn quoted_after(message: &str, prefix: &str) -> Option<String> {
    let rest = &message[message.find(prefix)? + prefix.len()..];
    rest.split('\'').next().map(str::to_owned)
}

fn column_not_found(field: &Column, valid: &[Column], names: &Names, from: Option<Location>) -> LakeError {
    let relations: BTreeSet<String> = valid.iter().filter_map(|c| c.relation.as_ref()).map(super::plan::key).collect();
    // A table may be called by its name alone.
    let is_read = |name: &String| relations.iter().any(|read| read == name || read.rsplit('.').next() == Some(name));
    if let Some(relation) = field.relation.as_ref().map(super::plan::key).filter(|name| !is_read(name)) {
        return table_not_named(&relation, field, &relations, names, from);
    }
    let place = match (&field.relation, relations.len()) {
        (Some(relation), _) => format!(" in {}", super::plan::key(relation)),
        (None, 1) => relations.first().map(|only| format!(" in {only}")).unwrap_or_default(),
        _ => String::new(),
    };
    let error = error::user("column-not-found", format!("column \"{}\" not found{place}", field.name));
    let same_table = |c: &&Column| field.relation.is_none() || c.relation == field.relation;
    let mut candidates: Vec<&str> = valid.iter().filter(same_table).map(|c| c.name.as_str()).collect();
    if candidates.is_empty() {
        candidates = valid.iter().map(|c| c.name.as_str()).collect();
    }
    let mut seen = BTreeSet::new();
    candidates.retain(|name| seen.insert(*name));
    let by_case: Vec<&str> = candidates.iter().copied().filter(|c| c.eq_ignore_ascii_case(&field.name)).collect();
    let error = if by_case.is_empty() {
        let text = match names.quoted.contains(&field.name) {
            true => format!("Text stands in single quotes: '{}'. ", field.name.replace('\'', "''")),
            false => String::new(),
        };
        match nearest(&field.name, candidates.iter().copied()) {
            Some(near) => error.remedy(format!("{text}Did you mean {near}?")),
            None if candidates.is_empty() && !text.is_empty() => error.remedy(text.trim_end()),
            None if candidates.is_empty() && names.places.is_empty() => {
                error.remedy("FROM is missing: no table is read.")
            }
            None if candidates.is_empty() => {
                error.remedy("No column can stand here, only constants and functions of them.")
            }
            None => error.remedy(format!("{text}The columns are {}.", shortened(&candidates))),
        }
    } else {
        error.remedy(format!(
            "Quote the one that is meant: {}.",
            by_case.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(" or ")
        ))
    };
    placed(error, &field.name, names, from)
}

/// A column of a table that the query does not read, or reads by another name.
fn table_not_named(
    relation: &str,
    field: &Column,
    relations: &BTreeSet<String>,
    names: &Names,
    from: Option<Location>,
) -> LakeError {
    let error = error::user(
        "column-not-found",
        format!("column \"{relation}.{}\": no table is called \"{relation}\" here", field.name),
    );
    let known: Vec<&str> = relations.iter().map(String::as_str).collect();
    let error = match nearest(relation, known.iter().copied()) {
        Some(near) => error.remedy(format!("Did you mean {near}.{}?", field.name)),
        None if known.is_empty() => error,
        None => error.remedy(format!("The tables are {}.", shortened(&known))),
    };
    match from {
        Some(from) => at(error, from),
        None => placed(error, &field.name, names, None),
    }
}

pub(crate) fn shortened(names: &[&str]) -> String {
    /// More columns than this are no help in an error.
    const MOST: usize = 20;
    let shown = names.iter().take(MOST).copied().collect::<Vec<_>>().join(", ");
    if names.len() > MOST { format!("{shown} and {} more", names.len() - MOST) } else { shown }
}

fn function_not_found(name: &str, names: &Names, state: &SessionState) -> LakeError {
    let error = error::user("function-not-found", format!("function \"{name}\" does not exist"));
    let known = state
        .scalar_functions()
        .keys()
        .chain(state.aggregate_functions().keys())
        .chain(state.window_functions().keys());
    let error = match nearest(name, known.map(String::as_str)) {
        Some(near) => error.remedy(format!("Did you mean {near}?")),
        None => error.remedy("The functions are those of Apache DataFusion."),
    };
    placed(error, name, names, None)
}

/// Where the statement has a name or text, from a place on.
fn placed(error: LakeError, name: &str, names: &Names, from: Option<Location>) -> LakeError {
    let after = || names.idents.iter().filter(|(_, place)| from.is_none_or(|from| *place >= from));
    let exact = after().find(|(ident, _)| ident == name);
    match exact.or_else(|| after().find(|(ident, _)| ident.eq_ignore_ascii_case(name))) {
        Some((_, place)) => at(error, *place),
        None => error,
    }
}
