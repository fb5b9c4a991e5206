//! The header of an SQL text: leading comment lines `-- key: value` that say where rows go and what comes out.
//!
//! Not responsible for settings of the job: who waits for whom, retries and the like stand in the workflow file. Where the
//! text itself declares its job (`sql_folder`), they stand in the header, and the workflow's compilation reads them.
//!
//! Invariant: what is accepted is acted on; any other key is refused.

use std::collections::BTreeMap;

use datafusion::scalar::ScalarValue;
use pinrail_model::near::nearest;
use pinrail_model::seam::lake::{LakeError, Value, WriteMode, Writes};
use serde_json::Value as Json;

use crate::error::{self, Result};
use crate::template::{self, Values};

/// All keys there are.
const KEYS: [&str; 2] = ["writes", "output"];
/// Settings of a job that somebody may look for here. They belong to the workflow file, where each has one place.
const SETTINGS: [&str; 6] = ["after", "description", "executor", "owner", "params", "retries"];
/// Those that a text may hold that declares its job.
const OWN_SETTINGS: [&str; 5] = ["after", "description", "executor", "owner", "retries"];

/// What the header says, with where each key stands.
#[derive(Debug, Clone, Default)]
pub(crate) struct Header {
    entries: BTreeMap<String, (u32, String)>,
}

/// One declared table, with partition values that still have their types.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Declared {
    pub(crate) writes: Writes,
    pub(crate) partition: Vec<(String, Value)>,
}

impl Header {
    /// `declares_job` lets settings of the job through.
    pub(crate) fn parse(text: &str, declares_job: bool) -> Result<Self> {
        let mut header = Self::default();
        for (line, number) in text.lines().zip(1_u32..) {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let Some(comment) = line.strip_prefix("--") else { break };
            let Some((key, value)) = comment.split_once(':') else { continue };
            let key = key.trim();
            // Prose has capitals, spaces or slashes before its first colon; one lower-case word is meant as a key.
            if key.is_empty() || !key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b == b'-') {
                continue;
            }
            if !(KEYS.contains(&key) || (declares_job && OWN_SETTINGS.contains(&key))) {
                return Err(unknown(key, number, declares_job));
            }
            if header.entries.insert(key.to_owned(), (number, value.trim().to_owned())).is_some() {
                return Err(error::user("header-invalid", format!("header key \"{key}\" is given twice")).at(number, 1));
            }
        }
        Ok(header)
    }

    pub(crate) fn to_map(&self) -> BTreeMap<String, String> {
        self.entries.iter().map(|(key, (_, value))| (key.clone(), value.clone())).collect()
    }

    /// Names of the values that a one-row result leaves, and the line that says so.
    pub(crate) fn output(&self) -> Option<(u32, Vec<String>)> {
        let (line, value) = self.entries.get("output")?;
        Some((*line, value.split(',').map(|name| name.trim().to_owned()).collect()))
    }

    /// The line that says what the text may write.
    pub(crate) fn writes_line(&self) -> Option<u32> {
        self.entries.get("writes").map(|(line, _)| *line)
    }

    /// The tables that the text may write, by its own word.
    pub(crate) fn writes(&self, values: &Values) -> Result<Option<Vec<Declared>>> {
        let Some((line, value)) = self.entries.get("writes") else { return Ok(None) };
        let parts = split_outside_parentheses(value);
        let declared: Result<Vec<_>> = parts.iter().map(|part| one_writes(part.trim(), values, *line)).collect();
        declared.map(Some).map_err(|e| if e.place.is_none() { e.at(*line, 1) } else { e })
    }
}

fn unknown(key: &str, line: u32, declares_job: bool) -> LakeError {
    let known = KEYS.into_iter().chain(OWN_SETTINGS.into_iter().filter(|_| declares_job));
    let quoted: Vec<_> = known.clone().map(|key| format!("\"{key}\"")).collect();
    let keys = match quoted.split_last() {
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    };
    if SETTINGS.contains(&key) {
        let place = match key {
            "after" => "in the workflow file, as the list of jobs that this one waits for".to_owned(),
            _ => format!("in the workflow file: template(..., {key}=...)"),
        };
        let folder =
            if OWN_SETTINGS.contains(&key) { ", unless sql_folder(...) makes the job of this file" } else { "" };
        return error::user("header-invalid", format!("header key \"{key}\" is not supported"))
            .remedy(format!("Say it {place}{folder}. The keys of a header are {keys}."))
            .at(line, 1);
    }
    let error = error::user("header-invalid", format!("header key \"{key}\" does not exist")).at(line, 1);
    match nearest(key, known) {
        Some(near) => error.remedy(format!("Did you mean \"{near}\"?")),
        None => error.remedy(format!(
            "The keys are {keys}. A comment whose first word ends in a colon goes below the first line of SQL."
        )),
    }
}

/// `table [partition (column = value, ...)] [append]`
fn one_writes(text: &str, values: &Values, line: u32) -> Result<Declared> {
    let invalid = |why: &str| {
        error::user("header-invalid", format!("\"-- writes: {text}\" {why}"))
            .remedy("Write it as -- writes: namespace.table partition (column = {{ ds }}), or -- writes: namespace.table append.")
    };
    let (name, rest) = match text.find(|c: char| c.is_whitespace() || c == '(') {
        Some(end) => (&text[..end], text[end..].trim()),
        None => (text, ""),
    };
    let table = name.to_lowercase().parse().map_err(|e| invalid(&format!("does not name a table: {e}")))?;
    let mut rest = rest;
    let mut partition = Vec::new();
    if let Some(after) = strip_word(rest, "partition") {
        let inside = after.strip_prefix('(').ok_or_else(|| invalid("has no parenthesis after \"partition\""))?;
        let (inside, after) = closing_parenthesis(inside).ok_or_else(|| invalid("has unbalanced parentheses"))?;
        for item in split_outside_parentheses(inside) {
            let (column, value) = item.split_once('=').ok_or_else(|| invalid("has a partition without a value"))?;
            partition.push((column.trim().trim_matches('"').to_owned(), header_value(value.trim(), values, line)?));
        }
        rest = after.trim();
    }
    let mode = match rest {
        "" => WriteMode::Replace,
        "append" => WriteMode::Append,
        "replace" => WriteMode::Replace,
        other => return Err(invalid(&format!("ends with \"{other}\""))),
    };
    let json = partition.iter().map(|(column, value)| (column.clone(), to_json(value))).collect();
    Ok(Declared { writes: Writes { table, partition: json, mode }, partition })
}

fn strip_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let head = text.get(..word.len())?;
    head.eq_ignore_ascii_case(word).then(|| text[word.len()..].trim_start())
}

/// What stands before the closing parenthesis, and what after it; parentheses in quotes do not count.
fn closing_parenthesis(text: &str) -> Option<(&str, &str)> {
    let (mut depth, mut quoted) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            '\'' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted && depth == 0 => return Some((&text[..at], &text[at + 1..])),
            ')' if !quoted => depth -= 1,
            _ => {}
        }
    }
    None
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut depth, mut quoted, mut start, mut parts) = (0, false, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '\'' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn header_value(text: &str, values: &Values, line: u32) -> Result<Value> {
    if let Some(value) = template::whole_value(text, values, line)? {
        return Ok(value);
    }
    let quoted = |text: &str| {
        let inner = text.strip_prefix('\'')?.strip_suffix('\'')?;
        (!inner.replace("''", "").contains('\'')).then(|| inner.replace("''", "'"))
    };
    if let Some(rest) = strip_word(text, "date").and_then(quoted) {
        return Ok(Value::Date(rest));
    }
    if let Some(text) = quoted(text) {
        return Ok(Value::String(text));
    }
    match text.to_lowercase().as_str() {
        "true" => return Ok(Value::Boolean(true)),
        "false" => return Ok(Value::Boolean(false)),
        "null" => return Ok(Value::Null),
        _ => {}
    }
    text.parse().map(Value::Integer).map_err(|_| {
        error::user("header-invalid", format!("partition value \"{text}\" is neither a template nor a literal"))
            .remedy("Write {{ ds }}, 'text', DATE '2013-01-02' or a whole number.")
            .at(line, 1)
    })
}

/// Declarations of the workflow file have lost their types on the way; what looks like a date is one.
pub(crate) fn declared(writes: &Writes, values: &Values) -> Result<Declared> {
    let mut partition = Vec::new();
    for (column, value) in &writes.partition {
        let value = match value {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Boolean(*value),
            Json::Number(number) => match number.as_i64() {
                Some(number) => Value::Integer(number),
                None => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => match template::whole_value(text, values, 1)? {
                Some(value) => value,
                None if is_date(text) => Value::Date(text.clone()),
                None => Value::String(text.clone()),
            },
            other => {
                return Err(error::user(
                    "header-invalid",
                    format!("partition value {other} of column \"{column}\" is not a single value"),
                ));
            }
        };
        partition.push((column.clone(), value));
    }
    let json = partition.iter().map(|(column, value)| (column.clone(), to_json(value))).collect();
    Ok(Declared { writes: Writes { partition: json, ..writes.clone() }, partition })
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok()
}

fn to_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Boolean(value) => (*value).into(),
        Value::Integer(number) => (*number).into(),
        Value::Double(number) => (*number).into(),
        Value::Decimal(text) | Value::String(text) | Value::Date(text) => text.clone().into(),
        Value::Timestamp(micros) => pinrail_model::time::Micros(*micros).to_string().into(),
        Value::List(items) => items.iter().map(to_json).collect(),
    }
}

/// A template value in the engine's types, as a partition column gets it.
pub(crate) fn scalar(value: &Value, column: &str) -> Result<ScalarValue> {
    let invalid =
        |what: &str| error::user("header-invalid", format!("partition value of column \"{column}\" is {what}"));
    Ok(match value {
        Value::Null => return Err(invalid("null")),
        Value::List(_) => return Err(invalid("a list")),
        Value::Boolean(value) => ScalarValue::Boolean(Some(*value)),
        Value::Integer(number) => ScalarValue::Int64(Some(*number)),
        Value::Double(number) => ScalarValue::Float64(Some(*number)),
        Value::String(text) => ScalarValue::Utf8(Some(text.clone())),
        Value::Decimal(text) => ScalarValue::Utf8(Some(text.clone())),
        Value::Date(text) => {
            let date = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").map_err(|_| invalid("not a date"))?;
            let days = (date - chrono::NaiveDate::default()).num_days();
            ScalarValue::Date32(i32::try_from(days).ok())
        }
        Value::Timestamp(micros) => ScalarValue::TimestampMicrosecond(Some(*micros), None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_ends_with_the_first_line_of_sql() {
        let header = Header::parse(
            "-- A job: it counts.\n-- writes: marts.daily\n\n-- sql/x.sql: prose\nselect 1\n-- output: x",
            false,
        )
        .unwrap();
        assert_eq!(header.to_map(), BTreeMap::from([("writes".to_owned(), "marts.daily".to_owned())]));
    }

    #[test]
    fn an_unknown_or_doubled_key_is_an_error_with_its_line() {
        let error = Header::parse("--\n-- wrties: a.b\nselect 1", false).unwrap_err();
        assert_eq!(error.place, Some((2, 1)));
        assert_eq!(error.evidence.remedy.unwrap(), "Did you mean \"writes\"?");
        let doubled = Header::parse("-- writes: a\n-- writes: b\n", false).unwrap_err();
        assert_eq!(
            (doubled.place, doubled.evidence.message.as_str()),
            (Some((2, 1)), "header key \"writes\" is given twice")
        );
    }

    #[test]
    fn a_setting_of_the_job_is_refused_with_its_place_in_the_workflow_file() {
        for key in SETTINGS {
            let error = Header::parse(&format!("-- writes: a.b\n-- {key}: x\nselect 1"), false).unwrap_err();
            assert_eq!(error.place, Some((2, 1)), "{key}");
            assert_eq!(error.evidence.message, format!("header key \"{key}\" is not supported"));
            let remedy = error.evidence.remedy.unwrap();
            assert!(remedy.contains("in the workflow file"), "{remedy}");
            assert!(remedy.ends_with("The keys of a header are \"writes\" and \"output\"."), "{remedy}");
            assert_eq!(remedy.contains("sql_folder"), key != "params", "{remedy}");
            let own = Header::parse(&format!("-- {key}: x\nselect 1"), true);
            assert_eq!(own.is_ok(), key != "params", "a text that declares its job may say {key}");
        }
        let near = Header::parse("-- retris: 2\nselect 1", true).unwrap_err();
        assert_eq!(near.evidence.remedy.unwrap(), "Did you mean \"retries\"?");
    }

    #[test]
    fn writes_names_table_partition_and_mode() {
        let values = Values::from([("ds".to_owned(), Value::Date("2013-01-02".to_owned()))]);
        let parse = |text: &str| Header::parse(text, false).unwrap().writes(&values);
        let one = parse("-- writes: marts.daily partition (day = {{ ds }}, kind = 'a,)b')").unwrap().unwrap();
        assert_eq!(
            one[0].partition,
            vec![
                ("day".to_owned(), Value::Date("2013-01-02".to_owned())),
                ("kind".to_owned(), Value::String("a,)b".to_owned())),
            ]
        );
        assert_eq!(one[0].writes.mode, WriteMode::Replace);
        let two = parse("-- writes: a append, b.c").unwrap().unwrap();
        assert_eq!((two[0].writes.mode, two[1].writes.table.to_string()), (WriteMode::Append, "b.c".to_owned()));
        for bad in [
            "-- writes: a/b",
            "-- writes: a partition day",
            "-- writes: a partition (day)",
            "-- writes: a upsert",
            "-- writes: a partition (day = {{ dss }})",
            "-- writes: a partition (day = x{{ ds }})",
            "-- writes:",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
