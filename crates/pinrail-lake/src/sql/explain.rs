//! Says in our words what is wrong with a query: which name, where, and which name is meant.

use datafusion::common::{Column, SchemaError};
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::sql::sqlparser::tokenizer::Location;
use pinrail_model::near::nearest;
use pinrail_model::seam::lake::LakeError;

use super::names::Names;
use crate::error::{self, from_datafusion, unwrapped};

/// An error of planning; its place is that of the rendered text.
pub(crate) fn explain(error: DataFusionError, names: &Names, state: &SessionState) -> LakeError {
    let error = unwrapped(error);
    if let DataFusionError::SchemaError(schema, _) = &error {
        match schema.as_ref() {
            SchemaError::FieldNotFound { field, valid_fields } => return column_not_found(field, valid_fields, names),
            SchemaError::AmbiguousReference { field } => {
                let error =
                    error::user("column-ambiguous", format!("column \"{}\" is in more than one table", field.name));
                return placed(error.remedy("Write it with its table: table.column."), &field.name, names);
            }
            _ => {}
        }
    }
    let message = error.strip_backtrace();
    if let Some(name) = quoted_after(&message, "Invalid function '") {
        return function_not_found(&name, names, state);
    }
    from_datafusion(error)
}

fn quoted_after(message: &str, prefix: &str) -> Option<String> {
    let rest = &message[message.find(prefix)? + prefix.len()..];
    rest.split('\'').next().map(str::to_owned)
}

fn column_not_found(field: &Column, valid: &[Column], names: &Names) -> LakeError {
    let relations: std::collections::BTreeSet<String> =
        valid.iter().filter_map(|c| c.relation.as_ref()).map(super::plan::key).collect();
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
    let by_case: Vec<&str> = candidates.iter().copied().filter(|c| c.eq_ignore_ascii_case(&field.name)).collect();
    let error = if by_case.is_empty() {
        match nearest(&field.name, candidates.iter().copied()) {
            Some(near) => error.remedy(format!("columns with a similar name: {near}")),
            None if candidates.is_empty() => error,
            None => error.remedy(format!("The columns are {}.", shortened(&candidates))),
        }
    } else {
        error.remedy(format!("columns that differ by case: {}; quote the one that is meant", by_case.join(", ")))
    };
    placed(error, &field.name, names)
}

fn shortened(names: &[&str]) -> String {
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
        None => error,
    };
    placed(error, name, names)
}

fn placed(error: LakeError, name: &str, names: &Names) -> LakeError {
    match names
        .idents
        .iter()
        .find(|(ident, _)| ident == name)
        .or_else(|| names.idents.iter().find(|(ident, _)| ident.eq_ignore_ascii_case(name)))
    {
        Some((_, Location { line, column })) => {
            error.at(u32::try_from(*line).unwrap_or(0), u32::try_from(*column).unwrap_or(0))
        }
        None => error,
    }
}
