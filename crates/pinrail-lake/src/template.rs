//! Templates: `{{ path }}` in SQL, filled in on the tokens of the statement, so that a value is always a value.
//!
//! The text is cut by the very tokenizer that later parses it; there is no second opinion on where a string ends.
//!
//! Not responsible for which values exist: the caller brings them.
//!
//! Invariants:
//! - a value can neither end the literal it stands in nor begin another token;
//! - comments are left alone;
//! - what cannot be filled in safely is an error with line and column, never a guess.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, Whitespace};
use pinrail_model::seam::lake::{LakeError, Value};
use pinrail_model::time::Micros;

use crate::error::{self, Result};

/// A text with its templates filled in, and the way back to where each part came from.
#[derive(Debug, Clone)]
pub(crate) struct Rendered {
    pub(crate) text: String,
    /// Ascending: from this place of the rendered text on, places are these of the original.
    jumps: Vec<(Location, Location)>,
}

impl Rendered {
    /// The place in the original text of a place in the rendered one.
    pub(crate) fn original(&self, line: u64, column: u64) -> (u32, u32) {
        let place = Location { line, column };
        let jump = self.jumps.iter().take_while(|(rendered, _)| *rendered <= place).last();
        let (line, column) = match jump {
            Some((rendered, original)) if rendered.line == line => {
                (original.line, original.column + (column - rendered.column))
            }
            Some((rendered, original)) => (original.line + (line - rendered.line), column),
            None => (line, column),
        };
        (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
    }
}

/// The values by dotted path.
pub(crate) type Values = BTreeMap<String, Value>;

pub(crate) fn render(text: &str, values: &Values) -> Result<Rendered> {
    if let Some(at) = text.find('\0') {
        return Err(bad("sql-syntax", "the text holds a NUL character", Lines::of(text).place(at)));
    }
    let tokens = tokenize(text)?;
    let lines = Lines::of(text);
    let mut output = Output::new(text.len());
    let mut index = 0;
    // Open braces of SQL's own.
    let mut braces = 0_usize;
    while index < tokens.len() {
        let token = &tokens[index];
        let (start, end) = (lines.offset(token.span.start), lines.offset(token.span.end));
        let source = &text[start..end];
        if opens(&tokens, index) {
            let close = closing(&tokens, index).ok_or_else(|| unbalanced(token.span.start))?;
            let inside = &text[lines.offset(tokens[index + 1].span.end)..lines.offset(tokens[close].span.start)];
            let after = lines.offset(tokens[close + 1].span.end);
            check_apart(text, start, after, token.span.start)?;
            let expression = Expression::parse(inside, values, token.span.start)?;
            let dots = is_dot(tokens[..index].iter().rev()) || is_dot(tokens[close + 2..].iter());
            if dots && expression.filter != Some(Filter::Ident) {
                return Err(misplaced(token.span.start));
            }
            let literal = as_code(&expression)?;
            output.push_value(&literal, &lines, after);
            index = close + 2;
            continue;
        }
        match &token.token {
            Token::SingleQuotedString(_) => output.push_quoted(source, '\'', values, &lines, start)?,
            Token::Word(word) if word.quote_style.is_some() => {
                let quote = word.quote_style.unwrap_or('"');
                output.push_quoted(source, quote, values, &lines, start)?;
            }
            Token::Whitespace(_) => output.push(source),
            Token::LBrace => {
                braces += 1;
                output.push(source);
            }
            Token::RBrace
                if tokens.get(index + 1).is_some_and(|next| next.token == Token::RBrace && adjacent(token, next))
                    && braces < 2 =>
            {
                return Err(unbalanced(token.span.start));
            }
            Token::RBrace => {
                braces = braces.saturating_sub(1);
                output.push(source);
            }
            _ if source.contains("{{") && source.len() > 2 => {
                return Err(bad(
                    "template-misplaced",
                    "a template cannot stand inside this kind of literal",
                    token.span.start,
                )
                .remedy("Write it inside an ordinary '...' string, or outside of quotes."));
            }
            _ => output.push(source),
        }
        index += 1;
    }
    Ok(Rendered { text: output.text, jumps: output.jumps })
}

/// Fills in one expression of a header value; a text without template is none.
pub(crate) fn whole_value(text: &str, values: &Values, line: u32) -> Result<Option<Value>> {
    let at = Location { line: u64::from(line), column: 1 };
    match text.trim().strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}")) {
        Some(inside) => Ok(Some(Expression::parse(inside, values, at)?.value)),
        None if text.contains("{{") || text.contains("}}") => {
            Err(bad("template-misplaced", "a template of the header must be the whole value", at))
        }
        None => Ok(None),
    }
}

pub(crate) fn tokenize(text: &str) -> Result<Vec<TokenWithSpan>> {
    Tokenizer::new(&GenericDialect {}, text).with_unescape(false).tokenize_with_location().map_err(|e| {
        let (line, column) =
            (u32::try_from(e.location.line).unwrap_or(0), u32::try_from(e.location.column).unwrap_or(0));
        crate::sql::parse::untokenized(&e.message).at(line, column)
    })
}

struct Output {
    text: String,
    here: Location,
    jumps: Vec<(Location, Location)>,
}

impl Output {
    fn new(capacity: usize) -> Self {
        Self { text: String::with_capacity(capacity), here: Location { line: 1, column: 1 }, jumps: Vec::new() }
    }

    fn push(&mut self, text: &str) {
        text.chars().for_each(|c| advance(&mut self.here, c));
        self.text.push_str(text);
    }

    /// A value; what follows it comes from the offset `after` of the original.
    fn push_value(&mut self, value: &str, lines: &Lines<'_>, after: usize) {
        self.push(value);
        self.jumps.push((self.here, lines.place(after)));
    }

    /// A quoted token: templates in it become escaped text. `start` is its offset in the original.
    fn push_quoted(
        &mut self,
        source: &str,
        quote: char,
        values: &Values,
        lines: &Lines<'_>,
        start: usize,
    ) -> Result<()> {
        let mut done = 0;
        while let Some(open) = source[done..].find("{{").map(|found| done + found) {
            let at = lines.place(start + open);
            let close = source[open..].find("}}").map(|found| open + found).ok_or_else(|| unbalanced(at))?;
            self.push(&source[done..open]);
            let expression = Expression::parse(&source[open + 2..close], values, at)?;
            let escaped = as_text(&expression)?.replace(quote, &format!("{quote}{quote}"));
            self.push_value(&escaped, lines, start + close + 2);
            done = close + 2;
        }
        if let Some(stray) = source[done..].find("}}") {
            return Err(unbalanced(lines.place(start + done + stray)));
        }
        self.push(&source[done..]);
        Ok(())
    }
}

/// From the tokenizer's places to bytes and back. Both are asked for in order, so each search goes on from where its
/// last one ended: a long line must not cost its length once for every token or template.
struct Lines<'a> {
    text: &'a str,
    last: Cell<(Location, usize)>,
    last_placed: Cell<(Location, usize)>,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        let start = (Location { line: 1, column: 1 }, 0);
        Self { text, last: Cell::new(start), last_placed: Cell::new(start) }
    }

    fn offset(&self, at: Location) -> usize {
        let (mut here, mut offset) = self.last.get();
        if at < here {
            (here, offset) = (Location { line: 1, column: 1 }, 0);
        }
        for c in self.text[offset..].chars() {
            if here >= at {
                break;
            }
            advance(&mut here, c);
            offset += c.len_utf8();
        }
        self.last.set((here, offset));
        offset
    }

    fn place(&self, offset: usize) -> Location {
        let (mut here, mut from) = self.last_placed.get();
        if offset < from {
            (here, from) = (Location { line: 1, column: 1 }, 0);
        }
        self.text[from..offset].chars().for_each(|c| advance(&mut here, c));
        self.last_placed.set((here, offset));
        here
    }
}

fn advance(place: &mut Location, c: char) {
    if c == '\n' {
        *place = Location { line: place.line + 1, column: 1 };
    } else {
        place.column += 1;
    }
}

fn adjacent(a: &TokenWithSpan, b: &TokenWithSpan) -> bool {
    a.span.end == b.span.start
}

fn opens(tokens: &[TokenWithSpan], index: usize) -> bool {
    let pair = (&tokens[index], tokens.get(index + 1));
    matches!(pair, (a, Some(b)) if a.token == Token::LBrace && b.token == Token::LBrace && adjacent(a, b))
}

/// The index of the first of the two closing braces. Comments and quotes cannot be part of an expression.
fn closing(tokens: &[TokenWithSpan], open: usize) -> Option<usize> {
    for index in open + 2..tokens.len() {
        match &tokens[index].token {
            Token::RBrace => {
                let next = tokens.get(index + 1)?;
                return (next.token == Token::RBrace && adjacent(&tokens[index], next)).then_some(index);
            }
            Token::Whitespace(Whitespace::SingleLineComment { .. } | Whitespace::MultiLineComment(_))
            | Token::LBrace
            | Token::SingleQuotedString(_)
            | Token::SemiColon => return None,
            _ => {}
        }
    }
    None
}

/// A value next to a letter or a quote would become part of another token: `x{{ v }}` a hexadecimal literal.
fn check_apart(text: &str, start: usize, end: usize, at: Location) -> Result<()> {
    let sticky = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '@' | '#' | '\'' | '"' | '`' | '&');
    let before = text[..start].chars().next_back().is_some_and(sticky);
    let after = text[end..].chars().next().is_some_and(sticky);
    if before || after { Err(misplaced(at)) } else { Ok(()) }
}

fn misplaced(at: Location) -> LakeError {
    bad("template-misplaced", "a template cannot be part of a name or literal", at)
        .remedy("Put spaces around it, or write {{ name | ident }} for a whole name.")
}

/// Whether the nearest token is a dot, or a number with one at its end: what stands beside it is part of a name or number.
fn is_dot<'a>(mut tokens: impl Iterator<Item = &'a TokenWithSpan>) -> bool {
    match tokens.find(|token| !matches!(token.token, Token::Whitespace(_))).map(|token| &token.token) {
        Some(Token::Period) => true,
        Some(Token::Number(digits, _)) => digits.starts_with('.') || digits.ends_with('.'),
        _ => false,
    }
}

struct Expression {
    value: Value,
    filter: Option<Filter>,
    at: Location,
    path: String,
}

#[derive(PartialEq)]
enum Filter {
    Ident,
    List,
}

impl Expression {
    fn parse(inside: &str, values: &Values, at: Location) -> Result<Self> {
        let (path, filter) = match inside.split_once('|') {
            Some((path, filter)) => (path.trim(), Some(filter.trim())),
            None => (inside.trim(), None),
        };
        let filter = match filter {
            None => None,
            Some("ident") => Some(Filter::Ident),
            Some("list") => Some(Filter::List),
            Some(other) => {
                let error = bad("template-filter", format!("template filter \"{other}\" does not exist"), at);
                return Err(match pinrail_model::near::nearest(other, ["ident", "list"]) {
                    Some(near) => error.remedy(format!("Did you mean \"{near}\"?")),
                    None => error.remedy("The filters are \"ident\" and \"list\"."),
                });
            }
        };
        if !is_path(path) {
            return Err(bad("template-syntax", format!("\"{path}\" is not the name of a template value"), at)
                .remedy("Write {{ ds }}, {{ params.name }} or {{ upstream.job.output }}."));
        }
        match values.get(path) {
            Some(value) => Ok(Self { value: value.clone(), filter, at, path: path.to_owned() }),
            None => {
                let error = bad("template-undefined", format!("template value \"{path}\" is not defined"), at);
                Err(match pinrail_model::near::nearest(path, values.keys().map(String::as_str)) {
                    Some(near) => error.remedy(format!("Did you mean \"{near}\"?")),
                    None if values.is_empty() => error.remedy("No template values are defined here."),
                    None => {
                        let names: Vec<_> = values.keys().map(String::as_str).collect();
                        error.remedy(format!("The values are {}.", names.join(", ")))
                    }
                })
            }
        }
    }
}

fn is_path(path: &str) -> bool {
    !path.is_empty()
        && path.split('.').all(|part| {
            part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
        })
}

fn bad(code: &'static str, message: impl Into<String>, at: Location) -> LakeError {
    let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    error::user(code, message).at(number(at.line), number(at.column))
}

fn unbalanced(at: Location) -> LakeError {
    bad("template-syntax", "the braces of a template are not balanced", at)
}

/// Outside of quotes: a typed literal.
fn as_code(expression: &Expression) -> Result<String> {
    match (&expression.filter, &expression.value) {
        (Some(Filter::Ident), value) => {
            let name = plain_text(value, expression)?;
            if name.is_empty() {
                return Err(bad(
                    "template-value",
                    format!("\"{}\" is empty and cannot be a name", expression.path),
                    expression.at,
                ));
            }
            Ok(format!("\"{}\"", name.replace('"', "\"\"")))
        }
        (Some(Filter::List), Value::List(items)) => {
            if items.is_empty() {
                // `x in ()` is no SQL; nothing is in a list of nothing but NULL.
                return Ok("(NULL)".to_owned());
            }
            let items: Result<Vec<_>> = items.iter().map(|item| literal(item, expression)).collect();
            Ok(format!("({})", items?.join(", ")))
        }
        (Some(Filter::List), value) => Ok(format!("({})", literal(value, expression)?)),
        (None, value) => literal(value, expression),
    }
}

fn literal(value: &Value, expression: &Expression) -> Result<String> {
    // A minus sign after another one would begin a comment.
    let signed = |digits: String| if digits.starts_with('-') { format!("({digits})") } else { digits };
    Ok(match value {
        Value::Null => "NULL".to_owned(),
        Value::Boolean(true) => "TRUE".to_owned(),
        Value::Boolean(false) => "FALSE".to_owned(),
        // The smallest integer has no positive counterpart that a parser could negate.
        Value::Integer(i64::MIN) => "(-9223372036854775807 - 1)".to_owned(),
        Value::Integer(number) => signed(number.to_string()),
        Value::Decimal(digits) => signed(decimal(digits, expression)?),
        Value::Double(number) => double(*number),
        Value::String(text) => format!("'{}'", checked(text, expression)?.replace('\'', "''")),
        Value::Date(date) => format!("DATE '{}'", checked_date(date, expression)?),
        Value::Timestamp(micros) => {
            format!("TIMESTAMP '{}'", timestamp(*micros).trim_end_matches('Z').replace('T', " "))
        }
        Value::List(_) => {
            return Err(bad("template-value", format!("\"{}\" is a list", expression.path), expression.at)
                .remedy(format!("Write {{{{ {} | list }}}}.", expression.path)));
        }
    })
}

/// Inside of quotes: the text, not yet escaped.
fn as_text(expression: &Expression) -> Result<String> {
    if expression.filter.is_some() {
        return Err(bad("template-misplaced", "a filter has no meaning inside of quotes", expression.at));
    }
    plain_text(&expression.value, expression)
}

fn plain_text(value: &Value, expression: &Expression) -> Result<String> {
    match value {
        Value::Null => {
            Err(bad("template-value", format!("\"{}\" is null and has no text", expression.path), expression.at)
                .remedy("Write it outside of quotes."))
        }
        Value::List(_) => {
            Err(bad("template-value", format!("\"{}\" is a list and has no text", expression.path), expression.at)
                .remedy(format!("Write {{{{ {} | list }}}} outside of quotes.", expression.path)))
        }
        Value::Boolean(value) => Ok(value.to_string()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Decimal(digits) => decimal(digits, expression),
        Value::Double(number) => Ok(number.to_string()),
        Value::String(text) => checked(text, expression).map(str::to_owned),
        Value::Date(date) => checked_date(date, expression).map(str::to_owned),
        Value::Timestamp(micros) => Ok(timestamp(*micros)),
    }
}

fn checked<'a>(text: &'a str, expression: &Expression) -> Result<&'a str> {
    if text.contains('\0') {
        return Err(bad("template-value", format!("\"{}\" holds a NUL character", expression.path), expression.at));
    }
    Ok(text)
}

/// The caller's promise that it is a date is not taken on trust: it becomes part of the statement.
fn checked_date<'a>(date: &'a str, expression: &Expression) -> Result<&'a str> {
    match chrono::NaiveDate::parse_from_str(date, "%Y-%m-%d") {
        Ok(parsed) if parsed.to_string() == date => Ok(date),
        _ => {
            Err(bad("template-value", format!("\"{}\" is not a date like 2013-01-02", expression.path), expression.at))
        }
    }
}

fn decimal(digits: &str, expression: &Expression) -> Result<String> {
    let bare = digits.strip_prefix('-').unwrap_or(digits);
    let (whole, fraction) = bare.split_once('.').unwrap_or((bare, "0"));
    let numeric = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if numeric(whole) && numeric(fraction) {
        Ok(digits.to_owned())
    } else {
        Err(bad("template-value", format!("\"{}\" is not a decimal number", expression.path), expression.at))
    }
}

fn double(number: f64) -> String {
    if number.is_finite() {
        let mut text = String::new();
        // An exponent makes the literal a double whatever its digits.
        let _ = write!(text, "CAST('{number:e}' AS DOUBLE)");
        text
    } else {
        let name = if number.is_nan() {
            "NaN"
        } else if number > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        };
        format!("CAST('{name}' AS DOUBLE)")
    }
}

fn timestamp(micros: i64) -> String {
    Micros(micros).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, Value)]) -> Values {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn shown(text: &str, value: Value) -> String {
        render(text, &values(&[("x", value)])).unwrap().text
    }

    fn code(text: &str, value: Value) -> &'static str {
        render(text, &values(&[("x", value)])).unwrap_err().code
    }

    #[test]
    fn values_become_typed_literals_outside_of_quotes_and_text_inside() {
        let date = || Value::Date("2013-01-02".to_owned());
        assert_eq!(shown("select {{ x }}", date()), "select DATE '2013-01-02'");
        assert_eq!(shown("select '{{ x }}'", date()), "select '2013-01-02'");
        assert_eq!(shown("select {{x}}", Value::Integer(-5)), "select (-5)");
        assert_eq!(shown("select -{{x}}", Value::Integer(-5)), "select -(-5)");
        assert_eq!(shown("select {{x}}", Value::Decimal("1.50".to_owned())), "select 1.50");
        assert_eq!(shown("select {{x}}", Value::Null), "select NULL");
        assert_eq!(shown("select {{x}}", Value::Boolean(true)), "select TRUE");
        assert_eq!(shown("select {{x}}", Value::Timestamp(1)), "select TIMESTAMP '1970-01-01 00:00:00.000001'");
        assert_eq!(shown("select '{{x}}'", Value::Timestamp(1)), "select '1970-01-01T00:00:00.000001Z'");
        let list = Value::List(vec![Value::Integer(1), Value::String("a'b".to_owned())]);
        assert_eq!(shown("x in {{ x | list }}", list), "x in (1, 'a''b')");
        assert_eq!(shown("from {{ x | ident }}", Value::String("a\"b".to_owned())), "from \"a\"\"b\"");
        let name = || Value::String("a\"b".to_owned());
        assert_eq!(shown("from m.{{ x | ident }}", name()), "from m.\"a\"\"b\"");
        assert_eq!(shown("from {{ x | ident }}.t", name()), "from \"a\"\"b\".t");
        assert_eq!(shown("select \"{{ x }}\"", Value::String("a\"b".to_owned())), "select \"a\"\"b\"");
    }

    #[test]
    fn no_value_escapes_from_its_place() {
        let evil = [
            "'",
            "''",
            "' or 1=1 --",
            "\\'",
            "\\",
            "a\nb",
            "--",
            "/*",
            "*/",
            "$$",
            "$tag$",
            "\"",
            "`",
            ";",
            "{{ x }}",
            "}}",
            "' /* ",
            "\u{2019}",
            "\r\n'; drop table t; --",
        ];
        for text in evil {
            for around in [
                "select {{ x }} from t",
                "select '{{ x }}' from t",
                "select 'a{{ x }}b{{ x }}' from t",
                "select {{ x | ident }} from t",
                "select \"{{ x }}\" from t",
                "select `{{ x }}` from t",
                "select 1 /* {{ x }} */ from t",
                "select 1 -- {{ x }}\n from t",
            ] {
                let filled = shown(around, Value::String(text.to_owned()));
                let plain = shown(around, Value::String("x".to_owned()));
                let kinds = |sql: &str| -> Vec<_> {
                    let tokens = tokenize(sql).unwrap();
                    tokens.iter().map(|t| std::mem::discriminant(&t.token)).collect()
                };
                assert_eq!(kinds(&filled), kinds(&plain), "{filled}");
            }
        }
    }

    #[test]
    fn a_value_comes_back_out_of_its_literal_unchanged() {
        for text in ["it's", "a\nb", "\\", "''", "$$"] {
            let filled = shown("select {{ x }}", Value::String(text.to_owned()));
            let tokens = Tokenizer::new(&GenericDialect {}, &filled).tokenize().unwrap();
            assert!(tokens.contains(&Token::SingleQuotedString(text.to_owned())), "{filled}");
        }
    }

    #[test]
    fn what_cannot_be_filled_in_safely_is_refused() {
        let text = || Value::String("a".to_owned());
        for (sql, expected) in [
            ("select x{{ x }}", "template-misplaced"),
            ("select E{{ x }}", "template-misplaced"),
            ("select {{ x }}y", "template-misplaced"),
            ("select 'a'{{ x }}", "template-misplaced"),
            ("select E'{{ x }}'", "template-misplaced"),
            ("select X'{{ x }}'", "template-misplaced"),
            ("select N'{{ x }}'", "template-misplaced"),
            ("select $${{ x }}$$", "template-misplaced"),
            ("select $a${{ x }}$a$", "template-misplaced"),
            ("select * from m.{{ x }}", "template-misplaced"),
            ("select * from m . {{ x }}", "template-misplaced"),
            ("select * from m./* */{{ x }}", "template-misplaced"),
            ("select {{ x }}.y", "template-misplaced"),
            ("select {{ x }} .y", "template-misplaced"),
            ("select {{ x | list }}.y", "template-misplaced"),
            ("select 1.{{ x }}", "template-misplaced"),
            ("select {{ x }}.5", "template-misplaced"),
            ("select {{ x", "template-syntax"),
            ("select x }}", "template-syntax"),
            ("select '{{ x'", "template-syntax"),
            ("select 'x }}'", "template-syntax"),
            ("select {{ 1 + 1 }}", "template-syntax"),
            ("select {{ x | upper }}", "template-filter"),
            ("select '{{ x | list }}'", "template-misplaced"),
            ("select {{ y }}", "template-undefined"),
            ("select '\0'", "sql-syntax"),
        ] {
            assert_eq!(code(sql, text()), expected, "{sql}");
        }
        assert_eq!(code("select {{ x }}", Value::String("a\0b".to_owned())), "template-value");
        assert_eq!(code("select '{{ x }}'", Value::String("a\0b".to_owned())), "template-value");
        assert_eq!(code("select {{ x }}", Value::Date("2013-01-01' or '1'='1".to_owned())), "template-value");
        assert_eq!(code("select {{ x }}", Value::Decimal("1; drop".to_owned())), "template-value");
        assert_eq!(code("select {{ x }}", Value::List(vec![])), "template-value");
        assert_eq!(code("select '{{ x }}'", Value::Null), "template-value");
    }

    #[test]
    fn an_undefined_name_has_a_place_and_the_nearest_name() {
        let known = values(&[("params.min_flights", Value::Integer(1))]);
        let error = render("select 1,\n  {{ params.min_flight }}", &known).unwrap_err();
        assert_eq!((error.code, error.place), ("template-undefined", Some((2, 3))));
        assert_eq!(error.evidence.remedy.unwrap(), "Did you mean \"params.min_flights\"?");
    }

    #[test]
    fn places_lead_back_to_the_original() {
        let text = values(&[("x", Value::String("a\nlong\nvalue".to_owned()))]);
        let rendered = render("select {{ x }}, oops\nfrom t", &text).unwrap();
        assert_eq!(rendered.text, "select 'a\nlong\nvalue', oops\nfrom t");
        assert_eq!(rendered.original(1, 1), (1, 1));
        assert_eq!(rendered.original(3, 9), (1, 17), "oops");
        assert_eq!(rendered.original(4, 1), (2, 1), "from");
    }
}
