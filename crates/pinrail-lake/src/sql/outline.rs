//! What a text reads and writes, by the text alone: for the edges of a workflow, before any table is there.
//!
//! Templates whose values no run changes are filled in; every other one stands for itself, as a text or a name that holds
//! its braces, which no table has.
//!
//! Not responsible for whether the text would run: a check with the tables says so.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::{Expr, Ident, Statement as Ast, Value as SqlValue};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, Whitespace};
use pinrail_model::names::{DEFAULT_NAMESPACE, JobName, TableRef};
use pinrail_model::seam::lake::{SYSTEM, Value, WriteMode};
use pinrail_model::tables::{Draft, Effect, Outline, Part, Partition, Touch};

use super::header::{Declared, Header};
use super::names;
use super::parse::{self, InsertInto, Kind, TRAVEL};
use crate::error::{self, Result};
use crate::template::{self, Rendered, Values};

/// Whether a text stands for a template that is left open.
pub(crate) fn is_open(text: &str) -> bool {
    text.contains("{{")
}

pub(crate) fn of(draft: &Draft) -> Result<Outline> {
    let header = Header::parse(&draft.text, draft.declares_job)?;
    let values = values(draft);
    let rendered = template::render(&draft.text, &values)?;
    let mut looking = Looking { rendered: &rendered, outline: Outline::default() };
    for statement in parse::parse(&rendered)? {
        let at = statement.at;
        looking.statement(statement.kind, at).map_err(|e| parse::placed(e, &rendered, at))?;
    }
    let mut outline = looking.outline;
    if let (Some(declared), Some(line)) = (header.writes(&values)?, header.writes_line()) {
        let said = draft.text.lines().nth(line.saturating_sub(1) as usize).unwrap_or_default();
        outline.writes = declared.into_iter().map(|declared| touch(declared, said, line)).collect();
    }
    outline.reads.sort_by_key(|(_, at)| *at);
    outline.outputs = upstream(&draft.text)?;
    Ok(outline)
}

/// The values that are known, and for the others their own templates.
fn values(draft: &Draft) -> Values {
    let open = paths(&draft.text).map(|path| (path.to_owned(), Value::String(format!("{{{{ {path} }}}}"))));
    let mut values: BTreeMap<_, _> = open.collect();
    values.extend(draft.constants.clone());
    values
}

/// What stands between the braces of templates, without filters.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    text.split("{{").skip(1).filter_map(|rest| rest.split(['}', '|']).next()).map(str::trim)
}

/// The jobs whose outputs templates name. One in a comment is not filled in, so nothing is waited for.
fn upstream(text: &str) -> Result<BTreeSet<JobName>> {
    let is_comment = |token: &Token| {
        matches!(token, Token::Whitespace(Whitespace::SingleLineComment { .. } | Whitespace::MultiLineComment(_)))
    };
    let tokens = template::tokenize(text)?;
    let bare: String = tokens.iter().filter(|t| !is_comment(&t.token)).map(|t| t.token.to_string()).collect();
    let job = |path: &str| path.strip_prefix("upstream.")?.split_once('.')?.0.parse().ok();
    Ok(paths(&bare).filter_map(job).collect())
}

/// What a line of the header declares.
fn touch(declared: Declared, said: &str, line: u32) -> Touch {
    let text = |value: &Value| match value {
        Value::Null => Part::Constant("null".to_owned()),
        Value::Boolean(value) => Part::Constant(value.to_string()),
        Value::Integer(number) => Part::Constant(number.to_string()),
        Value::Double(number) => Part::Constant(number.to_string()),
        Value::Decimal(text) | Value::String(text) | Value::Date(text) => Part::of_text(text),
        Value::Timestamp(micros) => Part::Constant(micros.to_string()),
        Value::List(items) => Part::Computed(format!("{items:?}")),
    };
    let partition = declared.partition.iter().map(|(column, value)| (column.to_lowercase(), text(value)));
    let effect = match declared.writes.mode {
        WriteMode::Replace => Effect::Replaces,
        WriteMode::Append => Effect::Appends,
    };
    let table = declared.writes.table;
    let lower = said.to_lowercase();
    let found = lower.find(&table.to_string()).or_else(|| lower.find(table.name.as_str()));
    let column = found.map_or(1, |found| lower[..found].chars().count() + 1);
    let at = Some((line, u32::try_from(column).unwrap_or(1)));
    Touch { partition: partition.collect(), table, effect, at }
}

struct Looking<'a> {
    rendered: &'a Rendered,
    outline: Outline,
}

impl Looking<'_> {
    fn statement(&mut self, kind: Kind, at: Location) -> Result<()> {
        match kind {
            Kind::Query(query) => self.query(Ast::Query(query)),
            Kind::Explain { query, .. } => self.query(*query),
            Kind::CreateTableAs { table, query, .. } => {
                self.query(Ast::Query(query))?;
                self.wrote(table, Partition::new(), Effect::Replaces, at);
                Ok(())
            }
            Kind::CreateTable { table, if_not_exists, .. } => {
                let effect = if if_not_exists { Effect::Makes } else { Effect::Replaces };
                self.wrote(table, Partition::new(), effect, at);
                Ok(())
            }
            Kind::DropTable { tables, .. } => {
                tables.into_iter().for_each(|table| self.wrote(table, Partition::new(), Effect::Replaces, at));
                Ok(())
            }
            Kind::Truncate { table } => {
                self.wrote(table, Partition::new(), Effect::Replaces, at);
                Ok(())
            }
            Kind::Insert(insert) => self.insert(*insert, at),
            Kind::Describe { table } => {
                self.read(table, at);
                Ok(())
            }
            Kind::CreateSchema | Kind::DropSchema { .. } | Kind::ShowTables { .. } | Kind::ShowSchemas => Ok(()),
        }
    }

    fn insert(&mut self, insert: InsertInto, at: Location) -> Result<()> {
        let known = !insert.partition.is_empty() && insert.partition.iter().all(|(_, value)| value.is_some());
        let effect = match (insert.overwrite, known) {
            (false, _) => Effect::Appends,
            (true, true) => Effect::Replaces,
            (true, false) => Effect::ReplacesFound,
        };
        let part = |(column, value): &(Ident, Option<Expr>)| Some((column.value.to_lowercase(), part(value.as_ref()?)));
        let partition = insert.partition.iter().filter_map(part).collect();
        self.query(Ast::Query(insert.query))?;
        self.wrote(insert.table, partition, effect, at);
        Ok(())
    }

    fn query(&mut self, mut ast: Ast) -> Result<()> {
        let names = names::fold(&mut ast)?;
        let statement = DfStatement::Statement(Box::new(ast));
        let (references, _) = resolve_table_references(&statement, false)
            .map_err(|e| error::user("sql-invalid", error::tidy(&e.strip_backtrace())))?;
        for reference in references {
            let name = reference.table();
            if reference.schema().is_none() && (names.functions.contains_key(name) || names.files.contains_key(name)) {
                continue;
            }
            // Nothing that happens now changes the past.
            if name.contains(TRAVEL) {
                continue;
            }
            let full = reference.schema().map_or_else(|| name.to_owned(), |schema| format!("{schema}.{name}"));
            let at = names.places.get(&full).copied().unwrap_or(Location { line: 1, column: 1 });
            if is_open(&full) {
                let place = self.rendered.original(at.line, at.column);
                self.outline.open.push((full, place));
                continue;
            }
            let number = |n: u64| u32::try_from(n).unwrap_or(0);
            let table = match reference.catalog() {
                Some(_) => {
                    let message = format!("\"{reference}\" has more parts than namespace and table");
                    Err(error::user("name-invalid", message))
                }
                None => parse::make_ref(reference.schema().unwrap_or(DEFAULT_NAMESPACE), name),
            };
            self.read(table.map_err(|e| e.at(number(at.line), number(at.column)))?, at);
        }
        Ok(())
    }

    fn read(&mut self, table: TableRef, at: Location) {
        let known = self.outline.reads.iter().any(|(read, _)| *read == table);
        if !known && table.namespace.as_str() != SYSTEM {
            self.outline.reads.push((table, self.rendered.original(at.line, at.column)));
        }
    }

    fn wrote(&mut self, table: TableRef, partition: Partition, effect: Effect, at: Location) {
        let at = Some(self.rendered.original(at.line, at.column));
        let touch = Touch { table, partition, effect, at };
        let same =
            |known: &Touch| (&known.table, &known.partition, known.effect) == (&touch.table, &touch.partition, effect);
        if !self.outline.writes.iter().any(same) {
            self.outline.writes.push(touch);
        }
    }
}

/// The value of a partition in a statement: a literal, or whatever a run makes of an expression.
fn part(value: &Expr) -> Part {
    let literal = match value {
        Expr::Value(value) => match &value.value {
            SqlValue::Number(digits, _) => Some(digits.to_string()),
            SqlValue::Boolean(value) => Some(value.to_string()),
            other => other.clone().into_string(),
        },
        Expr::TypedString(typed) => typed.value.value.clone().into_string(),
        _ => None,
    };
    literal.map_or_else(|| Part::Computed(value.to_string()), |text| Part::of_text(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(text: &str) -> Outline {
        of(&Draft { text: text.to_owned(), ..Draft::default() }).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn reads(text: &str) -> Vec<String> {
        outline(text).reads.iter().map(|(table, (line, column))| format!("{table} {line}:{column}")).collect()
    }

    /// Writes in words.
    fn writes(text: &str) -> Vec<String> {
        let word = |touch: &Touch| {
            let parts: Vec<_> = touch.partition.iter().map(|(column, part)| format!("{column} {part:?}")).collect();
            format!("{} {:?} [{}]", touch.table, touch.effect, parts.join(", "))
        };
        outline(text).writes.iter().map(word).collect()
    }

    #[test]
    fn reads_are_the_tables_that_a_query_names_wherever_it_names_them() {
        for (text, expected) in [
            ("select 1", &[] as &[&str]),
            ("select * from T", &["main.t 1:15"]),
            (
                "select * from raw.a join b on true\nwhere x in (select y from marts.c)",
                &["raw.a 1:15", "main.b 1:26", "marts.c 2:27"],
            ),
            ("with a as (select * from raw.x) select * from a", &["raw.x 1:26"]),
            ("select (select max(v) from raw.x) as m from generate_series(1, 3) as s(i)", &["raw.x 1:28"]),
            ("select * from read_csv('data/x.csv') as c", &[]),
            ("select * from t for timestamp as of '2024-01-01'", &[]),
            ("select * from t for version as of {{ params.v }}", &[]),
            ("select * from system.runs", &[]),
            ("select * from raw.a where d = {{ ds }} limit {{ params.n }}", &["raw.a 1:15"]),
            ("select '{{ ds }}' as d\nfrom raw.a, raw.b", &["raw.a 2:6", "raw.b 2:13"]),
            ("create table m.t as select * from a; insert into m.t select * from b", &["main.a 1:35", "main.b 1:68"]),
            ("insert overwrite m.t partition (day = {{ ds }}) select * from a", &["main.a 1:63"]),
            ("explain select * from a", &["main.a 1:23"]),
            ("describe raw.a", &["raw.a 1:1"]),
            ("select * from a union all select * from a", &["main.a 1:15"]),
        ] {
            assert_eq!(reads(text), expected, "{text}");
        }
    }

    #[test]
    fn writes_are_what_the_header_says_or_else_the_statements() {
        for (text, expected) in [
            ("select * from t", &[] as &[&str]),
            ("-- writes: m.t\nselect 1", &["m.t Replaces []"]),
            ("-- writes: m.t append\nselect 1", &["m.t Appends []"]),
            (
                "-- writes: m.t partition (Day = {{ds}}, kind = 'a')\nselect 1",
                &["m.t Replaces [day Computed(\"{{ ds }}\"), kind Constant(\"a\")]"],
            ),
            ("-- writes: m.t, m.u append\ninsert into m.u select 1", &["m.t Replaces []", "m.u Appends []"]),
            ("insert overwrite t select 1", &["main.t ReplacesFound []"]),
            (
                "insert overwrite t partition (day = date '2024-05-01') select 1",
                &["main.t Replaces [day Constant(\"2024-05-01\")]"],
            ),
            (
                "insert overwrite t partition (day = {{ ds }}) select 1",
                &["main.t Replaces [day Computed(\"{{ ds }}\")]"],
            ),
            ("insert overwrite t partition (n = 1 + 1) select 1", &["main.t Replaces [n Computed(\"1 + 1\")]"]),
            ("create table if not exists t (a int); insert into t select 1", &["main.t Makes []", "main.t Appends []"]),
            (
                "create or replace table t as select 1 as a; drop table if exists u",
                &["main.t Replaces []", "main.u Replaces []"],
            ),
            ("truncate table t", &["main.t Replaces []"]),
        ] {
            assert_eq!(writes(text), expected, "{text}");
        }
    }

    #[test]
    fn a_table_that_a_run_names_is_left_open_and_one_that_the_job_names_is_known() {
        let text = "-- writes: m.t partition (kind = {{ params.kind }})\nselect * from raw.{{ params.from | ident }}";
        let open = outline(text);
        assert_eq!((open.open, open.reads), (vec![("raw.{{ params.from }}".to_owned(), (2, 15))], Vec::new()));
        let constants = [("params.kind", "a"), ("params.from", "x")];
        let constants = constants.map(|(path, text)| (path.to_owned(), Value::String(text.to_owned())));
        let known = of(&Draft { text: text.to_owned(), constants: constants.into(), ..Draft::default() }).unwrap();
        assert_eq!(known.reads, [("raw.x".parse().unwrap(), (2, 15))]);
        assert_eq!(known.writes[0].partition["kind"], Part::Constant("a".to_owned()));
    }

    #[test]
    fn outputs_of_jobs_above_are_named_by_templates_but_not_by_comments() {
        let text = "-- {{ upstream.no.rows }}\nselect {{ upstream.size.rows }} as a, '{{ upstream.load.x }}' as b /* {{ upstream.no.x }} */";
        let outputs: Vec<_> = outline(text).outputs.iter().map(ToString::to_string).collect();
        assert_eq!(outputs, ["load", "size"]);
    }

    #[test]
    fn what_cannot_be_parsed_is_told_with_its_place() {
        let fails = |text: &str| of(&Draft { text: text.to_owned(), ..Draft::default() }).unwrap_err();
        let error = fails("select {{ ds }} as day\nfrom t where");
        assert_eq!((error.code, error.place.map(|(line, _)| line)), ("sql-syntax", Some(2)));
        assert_eq!(fails("select * from a.b.c").code, "name-invalid");
        assert_eq!(fails("-- retries: 2\nselect 1").code, "header-invalid");
        assert_eq!(fails("select 1 from t where x = {{ ds").code, "template-syntax");
    }
}
