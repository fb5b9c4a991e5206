//! What the engine's planner and its functions say, in our words: which thing is wrong, and what to write instead.
//!
//! Not responsible for places: it names the thing, and `explain` knows where that stands. A sentence that is not known
//! here is told as it came.

use std::collections::BTreeSet;

use pinrail_model::seam::lake::LakeError;

use crate::error;
use crate::types::with_article;

/// A sentence of the engine, told anew.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) error: LakeError,
    /// The name or text of the statement that it is about, if it is about one.
    pub(crate) about: Option<String>,
}

/// Tells a sentence of the engine anew, if it is a known one.
pub(crate) fn told(message: &str) -> Option<Told> {
    [grouping, arguments, operands, aggregates, shapes, values, names].iter().find_map(|tell| tell(message))
}

fn tell(message: impl Into<String>, remedy: impl Into<String>, about: Option<&str>) -> Option<Told> {
    let error = error::user("sql-invalid", message).remedy(remedy);
    Some(Told { error, about: about.map(str::to_owned) })
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let rest = &text[text.find(before)? + before.len()..];
    Some(&rest[..rest.find(after)?])
}

/// An expression of a plan as its author may have written it: columns without their tables.
fn written(expression: &str) -> String {
    let is_name = |text: &str| text.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '"'));
    match expression.rsplit_once('.') {
        Some((_, column)) if is_name(expression) => column.trim_matches('"').to_owned(),
        _ => expression.to_owned(),
    }
}

/// The engine's name of a type in ours. Others stay as they are.
fn kind(name: &str) -> String {
    let name = name.trim();
    let ours = match name {
        "Utf8" | "LargeUtf8" | "Utf8View" | "String" => "string",
        "Int8" | "Int16" | "Int32" | "UInt8" | "UInt16" => "int",
        "Int64" | "UInt32" | "UInt64" => "long",
        "Float16" | "Float32" => "float",
        "Float64" => "double",
        "Boolean" => "boolean",
        "Date32" | "Date64" => "date",
        "Null" => "null",
        "Binary" | "LargeBinary" | "BinaryView" => "binary",
        _ if name.starts_with("Timestamp") && name.contains(['+', 'Z']) => "timestamptz",
        _ if name.starts_with("Timestamp") => "timestamp",
        _ if name.starts_with("Time") => "time",
        _ if name.starts_with("Interval") || name.starts_with("Duration") => "interval",
        _ if name.starts_with("Decimal") => return name.replace("Decimal128", "decimal").replace("Decimal", "decimal"),
        _ => return name.to_owned(),
    };
    ours.to_owned()
}

fn grouping(message: &str) -> Option<Told> {
    if let Some(expression) = between(message, "HAVING clause references: ", " must appear") {
        let message = format!("HAVING without GROUP BY needs an aggregate function: {}", written(expression));
        return tell(message, "HAVING filters groups; rows are filtered by WHERE.", None);
    }
    let clause = between(message, "olumn in ", " must be in GROUP BY")?;
    let column = written(between(message, "column \"", "\" must appear")?);
    tell(
        format!("\"{column}\" in {clause} is neither in GROUP BY nor inside of an aggregate function"),
        format!("Add it to GROUP BY, or aggregate it, for example max({column})."),
        Some(&column),
    )
}

/// A call with arguments that the function does not take.
fn arguments(message: &str) -> Option<Told> {
    /// Longer lists of signatures are no help.
    const MOST: usize = 5;
    let call = between(message, "No function matches the given name and argument types '", "'.")?;
    let (name, given) = call.strip_suffix(')')?.split_once('(')?;
    let given: Vec<_> = given.split(", ").map(kind).filter(|kind| !kind.is_empty()).collect();
    let message_of = match given.as_slice() {
        [] => format!("function \"{name}\" needs an argument"),
        given => format!("function \"{name}\" does not take ({})", given.join(", ")),
    };
    let candidates = message.split_once("Candidate functions:").map_or("", |(_, rest)| rest);
    let candidates: Vec<_> = candidates
        .split_whitespace()
        .filter_map(|call| call.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')'))
        .filter(|one| one.chars().all(char::is_alphanumeric) && !one.is_empty())
        .map(kind)
        .collect();
    let (mut takes, mut seen) = (candidates, BTreeSet::new());
    takes.retain(|kind| seen.insert(kind.clone()));
    let example = if takes.is_empty() || seen.contains("double") { "double" } else { takes[0].as_str() };
    let example = format!("cast the argument, for example {name}(cast(x as {example})).");
    let remedy = if takes.is_empty() || takes.len() > MOST {
        example.replacen('c', "C", 1)
    } else {
        format!("It takes {}; {example}", takes.join(", "))
    };
    tell(message_of, remedy, Some(name))
}

/// Operands whose types do not go together.
fn operands(message: &str) -> Option<Told> {
    const REMEDY: &str = "Cast one of them, so that both have one type: cast(x as type).";
    if let Some(both) = between(message, "Cannot coerce arithmetic expression ", " to valid types") {
        let (left, operator, right) = halves(both, &["+", "-", "*", "/", "%"])?;
        let remedy = if (left.as_str(), operator, right.as_str()) == ("string", "+", "string") {
            "Text is joined by ||."
        } else {
            REMEDY
        };
        return tell(format!("\"{operator}\" does not take {left} and {right}"), remedy, None);
    }
    let comparison = "Cannot infer common argument type for comparison operation ";
    if let Some((_, both)) = message.split_once(comparison) {
        let (left, _, right) = halves(both, &["=", "!=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM"])?;
        return tell(format!("{left} and {right} cannot be compared"), REMEDY, None);
    }
    let logical = "Cannot infer common argument type for logical boolean operation ";
    if let Some((_, both)) = message.split_once(logical) {
        let (left, operator, right) = halves(both, &["AND", "OR"])?;
        let message = format!("{operator} needs two conditions, not {left} and {right}");
        return tell(message, "Write a comparison, for example x = 1 or x is not null.", None);
    }
    if let Some((_, found)) = message.split_once("Join condition must be boolean type, but got ") {
        let message = format!("the condition of JOIN is {}, not boolean", kind(found.trim_end_matches('.')));
        return tell(message, "Write ON a.id = b.id, or USING (id).", None);
    }
    if let Some((_, found)) = message.split_once("Cannot create filter with non-boolean predicate ")
        && let Some((_, found)) = found.rsplit_once(" returning ")
    {
        let message = format!("the condition of WHERE is {}, not boolean", kind(found.trim_end_matches('.')));
        return tell(message, "Write a comparison, for example x = 1 or x is not null.", None);
    }
    let like = between(message, "There isn't a common type to coerce ", " in LIKE expression")?;
    let (left, right) = like.split_once(" and ")?;
    let message = format!("LIKE compares text with a pattern, not {} with {}", kind(left), kind(right));
    tell(message, "Cast it to text: cast(x as string) like '...'.", None)
}

fn halves<'a>(both: &str, operators: &[&'a str]) -> Option<(String, &'a str, String)> {
    let cut = |operator: &&'a str| {
        let (left, right) = both.split_once(&format!(" {operator} "))?;
        Some((kind(left), *operator, kind(right)))
    };
    operators.iter().find_map(cut)
}

fn aggregates(message: &str) -> Option<Told> {
    if message.contains("Physical plan does not support logical expression AggregateFunction") {
        return tell(
            "an aggregate function stands where none may be, such as inside of another one",
            "Aggregate in a subquery first: SELECT max(n) FROM (SELECT count(*) AS n FROM t GROUP BY x).",
            None,
        );
    }
    if message.contains("Aggregate functions are not allowed in the WHERE clause") {
        let remedy = "Filter groups with HAVING after GROUP BY.";
        return tell("an aggregate function stands in WHERE", remedy, None);
    }
    None
}

/// What has too many or too few parts.
fn shapes(message: &str) -> Option<Told> {
    if let Some(operation) = between(message, "", " queries have different number of columns") {
        let operation = operation.rsplit(' ').next().unwrap_or(operation);
        let message = format!("the queries of {operation} have different numbers of columns");
        return tell(message, "Give each SELECT the same columns in the same order.", None);
    }
    if let Some((_, columns)) = message.split_once("The subquery should only return one column: ") {
        let columns: Vec<_> = columns.split(", ").map(written).collect();
        let message = format!("the subquery gives {} columns instead of one: {}", columns.len(), columns.join(", "));
        return tell(message, "Select one column in it.", None);
    }
    if message.contains("Scalar subquery returned more than one row") {
        let remedy = "Aggregate in it, filter more, or write x IN (SELECT ...).";
        return tell("a subquery that stands for one value gives more than one row", remedy, None);
    }
    if message.contains("FETCH clause is not supported") || message.ends_with(": TOP") {
        return tell("TOP and FETCH are not supported", "Write LIMIT n at the end.", None);
    }
    if message.contains("Substring without for/from is not valid") {
        return tell("substring needs a start", "Write substring(text, start, length).", Some("substr"));
    }
    if let Some((_, name)) = message.split_once("Schema contains duplicate unqualified field name ") {
        let message = format!("two columns are called {}", name.trim_end_matches('.'));
        return tell(message, "Give one of them another name: expression AS name.", None);
    }
    None
}

/// Values that are not of the type that they are read as: only running may meet them.
fn values(message: &str) -> Option<Told> {
    let tell = |message: String, remedy: String, about: Option<&str>| {
        let error = error::user("query-failed", message).remedy(remedy);
        Some(Told { error, about: about.map(str::to_owned) })
    };
    if let Some((_, rest)) = message.split_once("Cannot cast string '")
        && let Some((value, rest)) = rest.split_once("' to value of ")
    {
        let kind = kind(rest.split(" type").next().unwrap_or(rest));
        return tell(
            format!("\"{value}\" is not {0}", with_article(&kind)),
            format!(
                "Text that meets {} is read as one; try_cast(x as {kind}) gives NULL for what is none.",
                with_article(&kind)
            ),
            Some(value),
        );
    }
    if let Some((_, rest)) = message.split_once("Error parsing timestamp from '")
        && let Some((value, _)) = rest.split_once('\'')
    {
        let remedy = "Write it like '2024-05-01 12:30:00', or use to_timestamp(text, format).";
        return tell(format!("\"{value}\" is not a timestamp"), remedy.to_owned(), Some(value));
    }
    if let Some((_, rest)) = message.split_once("Invalid input syntax for type interval: \"")
        && let Some((value, _)) = rest.split_once('"')
    {
        let remedy = "Write it like '1 day' or '2 hours 30 minutes'.";
        return tell(format!("\"{value}\" is not an interval"), remedy.to_owned(), Some(value));
    }
    if message.contains("Divide by zero") {
        let remedy = "Write x / nullif(y, 0), which gives NULL instead.";
        return tell("division by zero".to_owned(), remedy.to_owned(), None);
    }
    None
}

/// Words that nothing is called by.
fn names(message: &str) -> Option<Told> {
    if let Some((_, name)) = message.split_once("Unsupported SQL type ") {
        let name = name.trim_end_matches('.');
        let error = error::user("type-unsupported", format!("type \"{name}\" is not supported"));
        return Some(Told { error: error.remedy(crate::types::SUPPORTED), about: Some(name.to_owned()) });
    }
    if let Some(part) = between(message, "Date part '", "' not supported") {
        let remedy = "The parts are year, quarter, month, week, day, hour, minute, second, dow, doy and epoch.";
        return tell(format!("\"{part}\" is not a part of a date"), remedy, Some(part));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_our_names() {
        for (theirs, ours) in [
            ("Utf8", "string"),
            ("Timestamp(ns)", "timestamp"),
            ("Timestamp(µs, \"+00:00\")", "timestamptz"),
            ("Decimal128(3, 2)", "decimal(3, 2)"),
            ("Time64(ns)", "time"),
            ("List(Int64)", "List(Int64)"),
        ] {
            assert_eq!(kind(theirs), ours);
        }
    }

    #[test]
    fn an_unknown_sentence_is_left_alone() {
        assert!(told("Something else happened: Cannot").is_none());
    }
}
