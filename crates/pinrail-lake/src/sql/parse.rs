//! From text to statements.
//!
//! Two clauses that the parser does not know are cut out of the tokens first: `PARTITIONED BY` of `CREATE TABLE`, and
//! `FOR VERSION|TIMESTAMP AS OF`, which becomes part of the table's name until the names are resolved.
//!
//! Not responsible for whether tables and columns exist.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::helpers::stmt_create_table::CreateTableBuilder;
use datafusion::sql::sqlparser::ast::{
    ColumnDef, ColumnOption, CreateTable, DescribeAlias, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident,
    Insert, ObjectName, ObjectType, Query, ShowStatementOptions, Statement as Ast, TableObject, Value as SqlValue,
    visit_relations,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::{Keyword, RESERVED_FOR_COLUMN_ALIAS};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer, Word};
use iceberg::spec::{NestedFieldRef, Transform};
use pinrail_model::names::{DEFAULT_NAMESPACE, NamespaceName, TableRef};
use pinrail_model::near::nearest;
use pinrail_model::seam::lake::LakeError;

use crate::error::{self, Result, unsupported};
use crate::partition::Cut;
use crate::sql::outline;
use crate::template::Rendered;
use crate::types::{self, FieldIds};

/// Between a table's name and the point in its past, in a name that only we make.
pub(crate) const TRAVEL: char = '@';

/// How deep brackets may be nested. The parser looks at what is within some of them again and again, each level
/// multiplying the time, so deeper texts are refused before it sees them.
const DEEPEST: usize = 40;
/// The same for brackets with a WITH of their own: each of them doubles the time.
const DEEPEST_WITH: usize = 12;
/// How deep the parser may go; a subquery in brackets costs it several levels.
const DEEPEST_PARSE: usize = 200;
/// Operators in one expression, and set operations and joins in one query. Each is a level of a tree that libraries
/// walk recursively; a text must not be able to exhaust the stack of the process.
const LONGEST_CHAIN: usize = 250;

/// One statement and where it begins in the rendered text.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    pub(crate) kind: Kind,
    pub(crate) at: Location,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Query(Box<Query>),
    Explain { query: Box<Ast>, analyze: bool },
    CreateTableAs { table: TableRef, or_replace: bool, if_not_exists: bool, cuts: Vec<Cut>, query: Box<Query> },
    CreateTable { table: TableRef, or_replace: bool, if_not_exists: bool, cuts: Vec<Cut>, columns: Vec<NestedFieldRef> },
    CreateSchema,
    DropTable { tables: Vec<TableRef>, if_exists: bool },
    DropSchema { namespace: NamespaceName, if_exists: bool },
    Truncate { table: TableRef },
    Insert(Box<InsertInto>),
    ShowTables { namespace: Option<NamespaceName> },
    ShowSchemas,
    Describe { table: TableRef },
}

impl Kind {
    /// Whether the statement changes tables.
    pub(crate) fn writes(&self) -> bool {
        match self {
            Self::CreateTableAs { .. }
            | Self::CreateTable { .. }
            | Self::CreateSchema
            | Self::DropTable { .. }
            | Self::DropSchema { .. }
            | Self::Truncate { .. }
            | Self::Insert(_) => true,
            Self::Query(_)
            | Self::Explain { .. }
            | Self::ShowTables { .. }
            | Self::ShowSchemas
            | Self::Describe { .. } => false,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct InsertInto {
    pub(crate) table: TableRef,
    pub(crate) columns: Vec<Ident>,
    pub(crate) overwrite: bool,
    /// `PARTITION (column = value)`; a column without value is a dynamic one.
    pub(crate) partition: Vec<(Ident, Option<Expr>)>,
    pub(crate) query: Box<Query>,
}

/// Cuts a rendered text into statements.
pub(crate) fn parse(rendered: &Rendered) -> Result<Vec<Statement>> {
    let tokens = Tokenizer::new(&GenericDialect {}, &rendered.text).tokenize_with_location().map_err(|e| {
        let (line, column) = rendered.original(e.location.line, e.location.column);
        untokenized(&e.message).at(line, column)
    })?;
    let mut statements = Vec::new();
    for part in tokens.split(|t| t.token == Token::SemiColon) {
        let part: Vec<_> = part.iter().filter(|t| !matches!(t.token, Token::Whitespace(_))).cloned().collect();
        let Some(first) = part.first() else { continue };
        let at = first.span.start;
        let kind = statement(part).map_err(|e| placed(e, rendered, at))?;
        statements.push(Statement { kind, at });
    }
    if statements.is_empty() {
        return Err(error::user("sql-syntax", "the text holds no statement"));
    }
    Ok(statements)
}

/// A text that cannot even be cut into tokens: a quote or comment that does not end.
pub(crate) fn untokenized(message: &str) -> LakeError {
    let invalid = |message: &str| error::user("sql-syntax", message);
    if message.starts_with("Unterminated string literal") {
        return invalid("the text is not closed by a quote")
            .remedy("Close it with '. A quote inside of a text is doubled: 'it''s'.");
    }
    if message.starts_with("Expected close delimiter") {
        return invalid("the quoted name is not closed")
            .remedy("Close it with the quote that it begins with. Text stands in single quotes.");
    }
    if message.contains("multi-line comment") {
        return invalid("the comment is not closed").remedy("Close it with */.");
    }
    invalid(&error::tidy(message))
}

/// Places of errors are those of the rendered text until they leave here.
pub(crate) fn placed(error: LakeError, rendered: &Rendered, start: Location) -> LakeError {
    let known = error.place.filter(|(line, _)| *line > 0);
    let (line, column) = known.map_or((start.line, start.column), |(l, c)| (u64::from(l), u64::from(c)));
    let (line, column) = rendered.original(line, column);
    error.at(line, column)
}

fn reset(open: &mut [usize]) {
    if let Some(count) = open.last_mut() {
        *count = 0;
    }
}

fn raise(open: &mut [usize]) {
    if let Some(count) = open.last_mut() {
        *count += 1;
    }
}

/// Refuses chains of operators that would become too deep a tree, before there is a tree.
fn refuse_long_chains(tokens: &[TokenWithSpan]) -> Result<()> {
    // One count of operators for each open parenthesis; what separates expressions begins a new one.
    let (mut open, mut queries) = (vec![0_usize], 0_usize);
    // Which of them hold a WITH.
    let mut with = vec![false];
    for token in tokens {
        match &token.token {
            Token::LParen | Token::LBracket | Token::LBrace => {
                open.push(1);
                with.push(false);
                if open.len() > DEEPEST {
                    return Err(too_deep(token));
                }
            }
            Token::RParen | Token::RBracket | Token::RBrace => {
                let inner = if open.len() > 1 { with.pop().and(open.pop()) } else { None };
                // Subscripts and calls may follow one another without any operator.
                if let (Some(_), Some(outer)) = (inner, open.last_mut()) {
                    *outer += 1;
                }
            }
            Token::Comma => reset(&mut open),
            Token::Word(word) => match word.keyword {
                Keyword::WITH => {
                    if let Some(here) = with.last_mut() {
                        *here = true;
                    }
                    if with.iter().filter(|here| **here).count() > DEEPEST_WITH {
                        return Err(too_deep(token));
                    }
                }
                Keyword::UNION | Keyword::EXCEPT | Keyword::INTERSECT | Keyword::JOIN => {
                    queries += 1;
                    reset(&mut open);
                }
                Keyword::SELECT
                | Keyword::FROM
                | Keyword::WHERE
                | Keyword::GROUP
                | Keyword::HAVING
                | Keyword::ORDER
                | Keyword::WHEN
                | Keyword::THEN
                | Keyword::ELSE
                | Keyword::VALUES => {
                    reset(&mut open);
                }
                Keyword::AND | Keyword::OR | Keyword::NOT | Keyword::IS | Keyword::LIKE | Keyword::IN | Keyword::AT => {
                    raise(&mut open);
                }
                _ => {}
            },
            Token::Number(..) | Token::SingleQuotedString(_) | Token::Period | Token::EOF => {}
            _ => raise(&mut open),
        }
        if open.iter().sum::<usize>() > LONGEST_CHAIN || queries > LONGEST_CHAIN {
            let error =
                error::user("sql-syntax", format!("the statement has more than {LONGEST_CHAIN} operators in a row"))
                    .remedy("Write x IN (...) instead of a chain of ORs, or put the values into a table.");
            return Err(at(error, token.span.start));
        }
    }
    Ok(())
}

fn too_deep(token: &TokenWithSpan) -> LakeError {
    at(error::user("sql-syntax", "the statement is nested too deeply"), token.span.start)
}

fn statement(tokens: Vec<TokenWithSpan>) -> Result<Kind> {
    refuse_long_chains(&tokens)?;
    let (tokens, cuts) = take_partitioning(tokens)?;
    let tokens = as_doubles(mark_travels(tokens));
    let end = tokens.last().map_or(Location { line: 1, column: 1 }, |t| t.span.end);
    let mut parser =
        Parser::new(&GenericDialect {}).with_recursion_limit(DEEPEST_PARSE).with_tokens_with_locations(tokens);
    let ast = match parser.parse_statement() {
        Ok(ast) => ast,
        Err(e) => return Err(meant(syntax(&e, end), &parser.into_tokens())),
    };
    let rest = parser.peek_token();
    if rest.token != Token::EOF {
        let error = at(error::user("sql-syntax", format!("unexpected \"{}\"", rest.token)), rest.span.start);
        return Err(meant(error, &parser.into_tokens()));
    }
    if let ControlFlow::Break(text) =
        visit_relations(&ast, |name| text_as_name(name).map_or(CONTINUE, ControlFlow::Break))
    {
        return Err(not_a_table(&text, &parser.into_tokens()));
    }
    if cuts.is_some() && !matches!(ast, Ast::CreateTable(_)) {
        return Err(error::user("sql-syntax", "PARTITIONED BY belongs to CREATE TABLE only"));
    }
    kind(ast, cuts.unwrap_or_default())
}

const CONTINUE: ControlFlow<String> = ControlFlow::Continue(());

/// The parser takes a text for a name.
fn text_as_name(name: &ObjectName) -> Option<String> {
    let mut parts = name.0.iter().filter_map(|part| part.as_ident());
    parts.find(|ident| ident.quote_style == Some('\'')).map(|ident| ident.value.clone())
}

/// How to read the file that a name looks like.
pub(crate) fn reading(name: &str) -> Option<String> {
    let (_, extension) = name.rsplit_once('.')?;
    let function = match extension.to_lowercase().as_str() {
        "csv" | "tsv" | "txt" => "read_csv",
        "json" | "jsonl" | "ndjson" => "read_json",
        "parquet" => "read_parquet",
        _ => return None,
    };
    Some(format!("Write {function}('{}') to read a file.", name.replace('\'', "''")))
}

/// Other engines read the file that such a text names. Its identifier has lost its place, so the tokens are asked.
fn not_a_table(text: &str, tokens: &[TokenWithSpan]) -> LakeError {
    let is = |token: &TokenWithSpan| matches!(&token.token, Token::SingleQuotedString(found) if found == text);
    let names_table = |before: &TokenWithSpan| {
        before.token == Token::Comma
            || [Keyword::FROM, Keyword::JOIN, Keyword::INTO, Keyword::TABLE].iter().any(|word| is_word(before, *word))
    };
    let found = tokens.windows(2).find(|pair| names_table(&pair[0]) && is(&pair[1])).map(|pair| &pair[1]);
    let error = error::user("name-invalid", format!("'{text}' is a text, not a table"));
    let error = error
        .remedy(reading(text).unwrap_or_else(|| {
            "Write the table's name without quotes, or read_csv('path') to read a file.".to_owned()
        }));
    match found.or_else(|| tokens.iter().find(|token| is(token))) {
        Some(token) => at(error, token.span.start),
        None => error,
    }
}

fn at(error: LakeError, place: Location) -> LakeError {
    error.at(u32::try_from(place.line).unwrap_or(0), u32::try_from(place.column).unwrap_or(0))
}

/// The parser puts the place into its message.
fn syntax(error: &ParserError, end: Location) -> LakeError {
    let message = match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text.clone(),
        ParserError::RecursionLimitExceeded => "the statement is nested too deeply".to_owned(),
    };
    let (text, place) = match message.rsplit_once(" at Line: ") {
        Some((text, place)) => (text.to_owned(), place.split_once(", Column: ")),
        None => (message.clone(), None),
    };
    let place = place.and_then(|(l, c)| Some(Location { line: l.parse().ok()?, column: c.trim().parse().ok()? }));
    let text = text.replace("found: EOF", "found: the end of the statement");
    at(self::error::user("sql-syntax", self::error::tidy(&text)), place.filter(|p| p.line > 0).unwrap_or(end))
}

/// Words that begin a statement or a clause: what a misspelt word is likely to mean.
const OPENING: [&str; 9] = ["SELECT", "INSERT", "CREATE", "DROP", "TRUNCATE", "DESCRIBE", "EXPLAIN", "SHOW", "WITH"];
const CLAUSES: [&str; 12] =
    ["FROM", "WHERE", "GROUP", "ORDER", "HAVING", "LIMIT", "JOIN", "UNION", "VALUES", "BETWEEN", "PARTITION", "OFFSET"];

/// Adds what the author may have meant to an error of syntax.
fn meant(error: LakeError, tokens: &[TokenWithSpan]) -> LakeError {
    if error.evidence.remedy.is_some() {
        return error;
    }
    let tokens: Vec<_> = tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
    let start = |token: &TokenWithSpan| {
        Some((u32::try_from(token.span.start.line).ok()?, u32::try_from(token.span.start.column).ok()?))
    };
    let found = tokens.iter().position(|token| error.place.is_some() && start(token) == error.place);
    let misspelt = |index: usize, words: &'static [&'static str]| match &tokens.get(index)?.token {
        Token::Word(word) if word.quote_style.is_none() && word.keyword == Keyword::NoKeyword => {
            let upper = word.value.to_uppercase();
            nearest(&upper, words.iter().copied()).filter(|near| *near != upper)
        }
        _ => None,
    };
    let count = |keyword| tokens.iter().filter(|token| is_word(token, keyword)).count();
    if found == Some(0) {
        return error.remedy(match misspelt(0, &OPENING) {
            Some(near) => format!("Did you mean {near}?"),
            None => format!("A statement begins with {}.", OPENING.join(", ")),
        });
    }
    // The parser takes a misspelt clause for an alias and stumbles over what follows.
    let near = found.and_then(|index| misspelt(index, &CLAUSES).or_else(|| misspelt(index - 1, &CLAUSES)));
    if let Some(near) = near {
        return error.remedy(format!("Did you mean {near}?"));
    }
    if count(Keyword::CASE) > count(Keyword::END) {
        return error.remedy("Write CASE WHEN condition THEN value ELSE value END.");
    }
    let depth = tokens.iter().fold(0_i64, |depth, token| match token.token {
        Token::LParen => depth + 1,
        Token::RParen => depth - 1,
        _ => depth,
    });
    if depth != 0 {
        let (kind, number) = if depth > 0 { ("opened", "not closed") } else { ("closed", "not opened") };
        return error.remedy(format!("A parenthesis is {kind}, but {number}."));
    }
    match found.map(|index| (&tokens[index - 1].token, &tokens[index].token)) {
        Some((Token::Comma, _)) => error.remedy("A comma stands between two items, not after the last one."),
        Some((_, Token::Div)) => error.remedy("A file is read with read_csv('path')."),
        Some((_, Token::Word(word))) if RESERVED_FOR_COLUMN_ALIAS.contains(&word.keyword) => {
            error.remedy(format!("A column that is called {0} is written \"{0}\", in double quotes.", word.value))
        }
        Some((_, Token::Word(_) | Token::Number(..) | Token::SingleQuotedString(_))) => {
            error.remedy("A comma, an operator or a keyword may be missing before it.")
        }
        _ => error,
    }
}

fn is_word(token: &TokenWithSpan, keyword: Keyword) -> bool {
    matches!(&token.token, Token::Word(word) if word.keyword == keyword && word.quote_style.is_none())
}

fn is_named(token: &TokenWithSpan, text: &str) -> bool {
    matches!(&token.token, Token::Word(word) if word.value.eq_ignore_ascii_case(text) && word.quote_style.is_none())
}

/// Takes `PARTITIONED BY (...)` out of a `CREATE TABLE`.
fn take_partitioning(mut tokens: Vec<TokenWithSpan>) -> Result<(Vec<TokenWithSpan>, Option<Vec<Cut>>)> {
    if !tokens.first().is_some_and(|t| is_word(t, Keyword::CREATE)) {
        return Ok((tokens, None));
    }
    let mut depth = 0;
    let start = tokens.iter().enumerate().position(|(index, token)| {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            _ => {}
        }
        depth == 0 && is_named(token, "PARTITIONED") && tokens.get(index + 1).is_some_and(|t| is_word(t, Keyword::BY))
    });
    let Some(start) = start else { return Ok((tokens, None)) };
    let place = tokens[start].span.start;
    let missing = || at(error::user("sql-syntax", "PARTITIONED BY needs a list of columns in parentheses"), place);
    if tokens.get(start + 2).map(|t| &t.token) != Some(&Token::LParen) {
        return Err(missing());
    }
    let mut depth = 0;
    let end = tokens[start + 2..].iter().position(|token| {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            _ => {}
        }
        depth == 0
    });
    let end = start + 2 + end.ok_or_else(missing)?;
    let inside: Vec<_> = tokens[start + 3..end].to_vec();
    tokens.drain(start..=end);
    let mut parser = Parser::new(&GenericDialect {}).with_tokens_with_locations(inside);
    let exprs = parser.parse_comma_separated(Parser::parse_expr).map_err(|e| syntax(&e, place))?;
    if parser.peek_token().token != Token::EOF {
        return Err(missing());
    }
    let cuts: Result<Vec<_>> = exprs.iter().map(cut).collect();
    cuts.map(|cuts| (tokens, Some(cuts))).map_err(|e| if e.place.is_none() { at(e, place) } else { e })
}

/// `column`, `bucket(16, column)`, `truncate(4, column)`, `day(column)` and so on.
fn cut(expr: &Expr) -> Result<Cut> {
    let invalid = || {
        error::user("sql-syntax", format!("\"{expr}\" is not a way to partition a table"))
            .remedy("Use a column, bucket(n, column), truncate(n, column), year, month, day or hour(column).")
    };
    if let Expr::Identifier(column) = expr {
        return Ok(Cut::identity(column.value.clone()));
    }
    let Expr::Function(function) = expr else { return Err(invalid()) };
    let FunctionArguments::List(list) = &function.args else { return Err(invalid()) };
    let args: Option<Vec<&Expr>> = list
        .args
        .iter()
        .map(|arg| match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
            _ => None,
        })
        .collect();
    let args = args.ok_or_else(invalid)?;
    let name = function.name.to_string().to_lowercase();
    let (width, column) = match args.as_slice() {
        [Expr::Identifier(column)] => (None, column),
        [Expr::Value(width), Expr::Identifier(column)] | [Expr::Identifier(column), Expr::Value(width)] => {
            let SqlValue::Number(digits, _) = &width.value else { return Err(invalid()) };
            let width: u32 = digits.to_string().parse().map_err(|_| invalid())?;
            (Some(width).filter(|w| *w > 0), column)
        }
        _ => return Err(invalid()),
    };
    let transform = match (name.as_str(), width) {
        ("bucket", Some(count)) => Transform::Bucket(count),
        ("truncate", Some(width)) => Transform::Truncate(width),
        ("identity", None) => Transform::Identity,
        ("year" | "years", None) => Transform::Year,
        ("month" | "months", None) => Transform::Month,
        ("day" | "days", None) => Transform::Day,
        ("hour" | "hours", None) => Transform::Hour,
        _ => return Err(invalid()),
    };
    Ok(Cut { column: column.value.clone(), transform })
}

/// A number with an exponent is a double, as everywhere; the planner would take it for a decimal of negative scale.
fn as_doubles(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut output = Vec::with_capacity(tokens.len());
    for TokenWithSpan { token, span } in tokens {
        match token {
            Token::Number(digits, long) if digits.contains(['e', 'E']) && !long => {
                let cast = [
                    Token::make_keyword("CAST"),
                    Token::LParen,
                    Token::SingleQuotedString(digits),
                    Token::make_keyword("AS"),
                    Token::make_keyword("DOUBLE"),
                    Token::RParen,
                ];
                output.extend(cast.map(|token| TokenWithSpan { token, span }));
            }
            token => output.push(TokenWithSpan { token, span }),
        }
    }
    output
}

/// `t FOR VERSION AS OF 12` becomes the quoted name `"t@version 12"`.
fn mark_travels(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut index = 1;
    while index + 4 < tokens.len() {
        let (name, rest) = (&tokens[index - 1], &tokens[index..]);
        let version = is_named(&rest[1], "VERSION") || is_named(&rest[1], "SYSTEM_VERSION");
        let time = is_named(&rest[1], "TIMESTAMP") || is_named(&rest[1], "SYSTEM_TIME");
        let clause = is_word(&rest[0], Keyword::FOR)
            && (version || time)
            && is_word(&rest[2], Keyword::AS)
            && is_word(&rest[3], Keyword::OF);
        let Token::Word(word) = &name.token else {
            index += 1;
            continue;
        };
        // `TIMESTAMP '...'` and `'...'` mean the same here.
        let typed = is_named(&rest[4], "TIMESTAMP") || is_named(&rest[4], "DATE");
        let value = rest.get(if typed { 5 } else { 4 }).map(|t| &t.token);
        let point = match value {
            Some(Token::Number(digits, _)) if clause && version => format!("version {digits}"),
            Some(Token::SingleQuotedString(text)) if clause && time => format!("timestamp {text}"),
            // A version that a run decides, in a text that is only looked at.
            Some(Token::SingleQuotedString(text)) if clause && outline::is_open(text) => format!("version {text}"),
            _ => {
                index += 1;
                continue;
            }
        };
        let length = if typed { 6 } else { 5 };
        let table = if word.quote_style.is_some() { word.value.clone() } else { word.value.to_lowercase() };
        let marked =
            Word { value: format!("{table}{TRAVEL}{point}"), quote_style: Some('"'), keyword: Keyword::NoKeyword };
        tokens[index - 1] =
            TokenWithSpan { token: Token::Word(marked), span: Span::new(name.span.start, rest[length - 1].span.end) };
        tokens.drain(index..index + length);
    }
    tokens
}

fn kind(ast: Ast, cuts: Vec<Cut>) -> Result<Kind> {
    match ast {
        Ast::Query(query) => {
            refuse_writing_queries(&query)?;
            Ok(Kind::Query(query))
        }
        Ast::Explain { statement, analyze, describe_alias: DescribeAlias::Explain, .. } => match &*statement {
            Ast::Query(query) => {
                refuse_writing_queries(query)?;
                Ok(Kind::Explain { query: statement, analyze })
            }
            _ => Err(unsupported("only queries can be explained")),
        },
        Ast::ExplainTable { table_name, .. } => Ok(Kind::Describe { table: table_ref(&table_name)? }),
        Ast::CreateTable(create) => create_table(create, cuts),
        Ast::CreateSchema { schema_name, .. } => {
            let text = schema_name.to_string();
            namespace(&text, text.starts_with('"'))?;
            Ok(Kind::CreateSchema)
        }
        Ast::Drop { object_type: ObjectType::Table, if_exists, names, .. } => {
            let tables = names.iter().map(table_ref).collect::<Result<_>>()?;
            Ok(Kind::DropTable { tables, if_exists })
        }
        Ast::Drop { object_type: ObjectType::Schema, if_exists, names, cascade: false, .. } => match names.as_slice() {
            [name] => Ok(Kind::DropSchema { namespace: namespace_of(name)?, if_exists }),
            _ => Err(unsupported("one schema is dropped at a time")),
        },
        Ast::Drop { object_type: ObjectType::Schema, .. } => {
            Err(unsupported("DROP SCHEMA ... CASCADE is not supported").remedy("Drop the schema's tables first."))
        }
        Ast::Truncate(truncate) => match truncate.table_names.as_slice() {
            [_] if truncate.if_exists || truncate.identity.is_some() || truncate.on_cluster.is_some() => {
                Err(unsupported("TRUNCATE takes a table and nothing else"))
            }
            [one] if truncate.partitions.is_none() => Ok(Kind::Truncate { table: table_ref(&one.name)? }),
            [_] => Err(unsupported("TRUNCATE of a partition is not supported")
                .remedy("Write INSERT OVERWRITE t PARTITION (column = value) SELECT ... WHERE false.")),
            _ => Err(unsupported("one table is truncated at a time")),
        },
        Ast::Insert(insert) => insert_into(insert),
        Ast::ShowTables { show_options, .. } => Ok(Kind::ShowTables { namespace: show_in(&show_options)? }),
        Ast::ShowSchemas { .. } | Ast::ShowDatabases { .. } => Ok(Kind::ShowSchemas),
        other => Err(refused(&other)),
    }
}

/// The parser allows `WITH x AS (...) INSERT ...` and the like inside of queries.
fn refuse_writing_queries(query: &Query) -> Result<()> {
    use datafusion::sql::sqlparser::ast::SetExpr;
    match query.body.as_ref() {
        SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
            Err(unsupported("a query cannot write").remedy("Write INSERT INTO t WITH ... SELECT instead."))
        }
        SetExpr::Select(select) if select.into.is_some() => {
            Err(unsupported("SELECT ... INTO is not supported").remedy("Write CREATE TABLE t AS SELECT instead."))
        }
        _ => Ok(()),
    }
}

fn refused(ast: &Ast) -> LakeError {
    let text = ast.to_string();
    let words: Vec<_> = text.split_whitespace().take(2).collect();
    let word = match ast {
        Ast::Update(_) => "UPDATE".to_owned(),
        Ast::Delete(_) => "DELETE".to_owned(),
        Ast::Merge(_) => "MERGE".to_owned(),
        _ => words.join(" "),
    };
    let remedy = match ast {
        Ast::Update(_) | Ast::Delete(_) | Ast::Merge(_) => {
            "Replace the rows instead: INSERT OVERWRITE t [PARTITION (column = value)] SELECT ..."
        }
        _ => {
            "Supported are SELECT, CREATE TABLE, CREATE SCHEMA, DROP, TRUNCATE, INSERT INTO, INSERT OVERWRITE, SHOW, \
             DESCRIBE and EXPLAIN."
        }
    };
    unsupported(format!("{word} is not supported")).remedy(remedy)
}

fn create_table(create: CreateTable, cuts: Vec<Cut>) -> Result<Kind> {
    let table = table_ref(&create.name)?;
    let extra = [
        (create.temporary, "TEMPORARY"),
        (create.external, "EXTERNAL"),
        (create.location.is_some(), "LOCATION"),
        (create.like.is_some(), "LIKE"),
        (create.clone.is_some(), "CLONE"),
        (create.partition_by.is_some(), "PARTITION BY"),
        (create.file_format.is_some(), "STORED AS"),
        (!create.constraints.is_empty(), "a constraint"),
        (create.comment.is_some(), "COMMENT"),
        (create.order_by.is_some() || create.cluster_by.is_some(), "ORDER BY"),
        (create.table_options.to_string() != "", "WITH (...)"),
    ];
    if let Some((_, what)) = extra.iter().find(|(present, _)| *present) {
        let error = unsupported(format!("CREATE TABLE with {what} is not supported"));
        return Err(if *what == "PARTITION BY" { error.remedy("Write PARTITIONED BY (...).") } else { error });
    }
    let (or_replace, if_not_exists) = (create.or_replace, create.if_not_exists);
    // Whatever other clause the parser knows shows in the statement's text.
    let plain = CreateTableBuilder::new(create.name.clone())
        .or_replace(or_replace)
        .if_not_exists(if_not_exists)
        .columns(create.columns.clone())
        .query(create.query.clone())
        .build();
    if plain.to_string() != create.to_string() {
        return Err(unsupported("CREATE TABLE with this clause is not supported")
            .remedy("A table has columns or AS SELECT, and PARTITIONED BY (...)."));
    }
    match create.query {
        Some(query) if create.columns.is_empty() => {
            refuse_writing_queries(&query)?;
            Ok(Kind::CreateTableAs { table, or_replace, if_not_exists, cuts, query })
        }
        Some(_) => Err(unsupported("CREATE TABLE with columns and AS SELECT is not supported")
            .remedy("Name and cast the columns in the SELECT.")),
        None if create.columns.is_empty() => Err(error::user("sql-syntax", "CREATE TABLE needs columns or AS SELECT")),
        None => {
            let mut ids = FieldIds::after(0);
            let columns = create.columns.iter().map(|c| column(c, &mut ids)).collect::<Result<_>>()?;
            Ok(Kind::CreateTable { table, or_replace, if_not_exists, cuts, columns })
        }
    }
}

fn column(column: &ColumnDef, ids: &mut FieldIds) -> Result<NestedFieldRef> {
    if let Some(option) = column.options.iter().find(|o| !matches!(o.option, ColumnOption::Null)) {
        let error = unsupported(format!("column \"{}\" with {} is not supported", column.name.value, option.option));
        return Err(at(error.remedy("All columns are nullable and have no default."), column.name.span.start));
    }
    ids.column(&column.name.value, |ids| types::from_sql(&column.data_type, ids))
        .map_err(|e| at(e, column.name.span.start))
}

fn insert_into(insert: Insert) -> Result<Kind> {
    let extra = [
        (insert.on.is_some(), "ON CONFLICT"),
        (insert.returning.is_some(), "RETURNING"),
        (insert.or.is_some() || insert.replace_into || insert.ignore, "a conflict clause"),
        (insert.table_alias.is_some(), "an alias"),
        (!insert.assignments.is_empty(), "SET"),
        (insert.output.is_some(), "OUTPUT"),
    ];
    if let Some((_, what)) = extra.iter().find(|(present, _)| *present) {
        return Err(unsupported(format!("INSERT with {what} is not supported")));
    }
    let TableObject::TableName(name) = &insert.table else {
        return Err(unsupported("INSERT writes to a table only"));
    };
    let table = table_ref(name)?;
    let query = insert.source.ok_or_else(|| unsupported("INSERT needs a SELECT or VALUES"))?;
    refuse_writing_queries(&query)?;
    let columns: Result<Vec<_>> = insert.columns.iter().map(single).collect();
    let partition: Result<Vec<_>> = insert.partitioned.unwrap_or_default().into_iter().map(partition_item).collect();
    let insert = InsertInto { table, columns: columns?, overwrite: insert.overwrite, partition: partition?, query };
    Ok(Kind::Insert(Box::new(insert)))
}

fn partition_item(expr: Expr) -> Result<(Ident, Option<Expr>)> {
    use datafusion::sql::sqlparser::ast::BinaryOperator;
    match expr {
        Expr::Identifier(column) => Ok((column, None)),
        Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => match *left {
            Expr::Identifier(column) => Ok((column, Some(*right))),
            other => Err(error::user("sql-syntax", format!("\"{other}\" is not a column of PARTITION"))),
        },
        other => Err(error::user("sql-syntax", format!("\"{other}\" does not name a partition"))
            .remedy("Write PARTITION (column = value).")),
    }
}

fn single(name: &ObjectName) -> Result<Ident> {
    match name.0.as_slice() {
        [part] => {
            part.as_ident().cloned().ok_or_else(|| error::user("sql-syntax", format!("\"{name}\" is not a column")))
        }
        _ => Err(error::user("sql-syntax", format!("\"{name}\" is not a column of the table"))),
    }
}

fn show_in(options: &ShowStatementOptions) -> Result<Option<NamespaceName>> {
    let plain = options.starts_with.is_none() && options.limit.is_none() && options.filter_position.is_none();
    if !plain {
        return Err(unsupported("SHOW with a filter is not supported"));
    }
    match options.show_in.as_ref().and_then(|scope| scope.parent_name.as_ref()) {
        Some(name) => namespace_of(name).map(Some),
        None => Ok(None),
    }
}

fn folded(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

fn namespace_of(name: &ObjectName) -> Result<NamespaceName> {
    let ident = single(name).map_err(|_| error::user("sql-syntax", format!("\"{name}\" is not a schema")))?;
    namespace(&folded(&ident), true)
}

fn namespace(text: &str, quoted: bool) -> Result<NamespaceName> {
    let text = text.trim_matches('"');
    let text = if quoted { text.to_owned() } else { text.to_lowercase() };
    text.parse().map_err(|e: pinrail_model::names::BadName| error::user("name-invalid", e.to_string()))
}

/// A table's name as the statement has it, in the namespace `main` unless it says another.
pub(crate) fn table_ref(name: &ObjectName) -> Result<TableRef> {
    let parts: Option<Vec<_>> = name.0.iter().map(|part| part.as_ident()).collect();
    let parts = parts.ok_or_else(|| error::user("sql-syntax", format!("\"{name}\" is not the name of a table")))?;
    let place = parts.first().map(|ident| ident.span.start);
    let text = match parts.as_slice() {
        [table] => (DEFAULT_NAMESPACE.to_owned(), folded(table)),
        [namespace, table] => (folded(namespace), folded(table)),
        _ => {
            let error = error::user("name-invalid", format!("\"{name}\" has more parts than namespace and table"));
            return Err(place.map_or(error.clone(), |p| at(error, p)));
        }
    };
    make_ref(&text.0, &text.1).map_err(|e| place.map_or(e.clone(), |p| at(e, p)))
}

pub(crate) fn make_ref(namespace: &str, table: &str) -> Result<TableRef> {
    let invalid = |e: pinrail_model::names::BadName| error::user("name-invalid", e.to_string());
    Ok(TableRef { namespace: namespace.parse().map_err(invalid)?, name: table.parse().map_err(invalid)? })
}
