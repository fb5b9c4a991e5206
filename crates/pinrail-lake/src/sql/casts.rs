//! Errors of explicit casts, told with the cast that is meant: its type as its author knows it, its place, and the way
//! around.
//!
//! Not responsible for casts that the engine adds by itself: nobody wrote those.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{CastKind, Expr, Spanned, Statement as Ast, visit_expressions};
use datafusion::sql::sqlparser::tokenizer::Location;
use pinrail_model::seam::lake::LakeError;

use crate::types::{self, FieldIds, with_article};

/// A cast of a statement that may fail.
#[derive(Debug, Clone)]
pub(crate) struct Cast {
    /// What is cast, as it is written.
    inner: String,
    kind: String,
    at: Location,
}

/// The casts of a statement.
pub(crate) fn of(ast: &Ast) -> Vec<Cast> {
    let mut found = Vec::new();
    let _: ControlFlow<()> = visit_expressions(ast, |expr| {
        if let Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr: inner, data_type, .. } = expr
            && let Ok(kind) = types::from_sql(data_type, &mut FieldIds::after(0))
        {
            found.push(Cast { inner: inner.to_string(), kind: types::name(&kind), at: inner.span().start });
        }
        ControlFlow::Continue(())
    });
    found
}

/// A value that a cast to some kind of type refuses.
struct Refused<'a> {
    value: &'a str,
    family: &'a str,
    is_too_large: bool,
}

/// Tells an error of running anew, if it is that of exactly one of the casts.
pub(crate) fn explained(error: LakeError, casts: &[Cast]) -> LakeError {
    if error.code != "query-failed" || error.place.is_some() {
        return error;
    }
    let message = error.evidence.message.clone();
    let Some(Refused { value, family, is_too_large }) = refused(&message) else { return error };
    let mut meant = casts.iter().filter(|cast| family_of(&cast.kind) == family);
    let (Some(cast), None) = (meant.next(), meant.next()) else { return error };
    let (kind, inner) = (&cast.kind, &cast.inner);
    let mut told = error;
    let instead = format!("try_cast({inner} as {kind}) gives NULL instead.");
    (told.evidence.message, told.evidence.remedy) = if is_too_large {
        (format!("{value} does not fit into {}", with_article(kind)), Some(format!("Cast to a wider type; {instead}")))
    } else {
        (format!("\"{value}\" is not {}", with_article(kind)), Some(instead))
    };
    if cast.at.line == 0 {
        return told;
    }
    told.at(u32::try_from(cast.at.line).unwrap_or(0), u32::try_from(cast.at.column).unwrap_or(0))
}

fn refused(message: &str) -> Option<Refused<'_>> {
    let too_large = |value, family| Some(Refused { value, family, is_too_large: true });
    if let Some((value, rest)) = message.rsplit_once("\" is not a") {
        let kind = rest.strip_prefix('n').unwrap_or(rest).trim_start();
        return Some(Refused { value: value.strip_prefix('"')?, family: family_of(kind), is_too_large: false });
    }
    if let Some((value, _)) = message.split_once(" is too large to store in a Decimal") {
        return too_large(value.rsplit(' ').next().unwrap_or(value), "decimal");
    }
    let (value, kind) = message.split_once("an't cast value ")?.1.split_once(" to type ")?;
    let family = match kind {
        "Int8" | "Int16" | "Int32" | "UInt8" | "UInt16" => "int",
        "Int64" | "UInt32" | "UInt64" => "long",
        _ if kind.starts_with("Decimal") => "decimal",
        _ => return None,
    };
    too_large(value, family)
}

/// A type without its size: messages of the engine have another one.
fn family_of(kind: &str) -> &str {
    kind.split('(').next().unwrap_or(kind)
}
