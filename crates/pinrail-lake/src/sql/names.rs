//! Names in a query: folds tables, finds what they refer to, and spells columns as their tables do.
//!
//! Unquoted tables and aliases fold to lower case. Columns keep their case; an unquoted one that nothing is called
//! exactly takes the only spelling that differs by case.
//!
//! Not responsible for scopes: a column name is looked up among all names of the statement. Where two tables spell a
//! name differently, a qualified column is looked up in its own table.
//!
//! Invariant: quoted identifiers are never changed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;

use arrow::datatypes::SchemaRef;
use datafusion::sql::sqlparser::ast::{
    DataType, Expr, FunctionArg, FunctionArgExpr, FunctionArgOperator, Ident, JoinConstraint, JoinOperator, ObjectName,
    ObjectNamePart, OrderByKind, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, Statement as Ast,
    TableAlias, TableFactor, TableWithJoins, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::Location;
use iceberg::spec::SnapshotRef;
use pinrail_model::names::TableRef;

use super::parse::{self, TRAVEL};
use crate::error::{self, Result};
use crate::tables::Table;

/// Functions that read files of the project.
pub(crate) const FILE_FUNCTIONS: [&str; 3] = ["read_csv", "read_parquet", "read_json"];
/// Begins the name that stands for a call of one of them.
const FILE_CALL: &str = "@file ";

/// A call of `read_csv` and its like.
#[derive(Debug, Clone)]
pub(crate) struct FileCall {
    pub(crate) function: String,
    pub(crate) path: Option<String>,
    pub(crate) options: Vec<(String, Expr)>,
    pub(crate) at: Location,
}

/// A point in a table's past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Travel {
    Version(i64),
    /// As written.
    Timestamp(String),
}

/// What a relation name of the statement stands for.
#[derive(Debug, Clone)]
pub(crate) enum Relation {
    Table { table: TableRef, travel: Option<Travel>, at: Location },
    File(FileCall),
}

/// The relations of a statement by the name they have in it, and what else errors may be about, with its places.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) files: BTreeMap<String, FileCall>,
    pub(crate) places: HashMap<String, Location>,
    /// Names of columns, functions and types, and texts.
    pub(crate) idents: Vec<(String, Location)>,
    /// Columns in double quotes.
    pub(crate) quoted: BTreeSet<String>,
    /// Table functions of the engine itself, such as `generate_series`, where they are first called.
    pub(crate) functions: BTreeMap<String, Location>,
    /// Alias or table name to the relation's name in the statement.
    aliases: HashMap<String, String>,
    /// Names that the statement itself gives to columns.
    given: BTreeSet<String>,
}

/// Folds table names and takes file functions and points in time out of the statement.
pub(crate) fn fold(ast: &mut Ast) -> Result<Names> {
    let mut folder = Folder { names: Names::default() };
    match VisitMut::visit(ast, &mut folder) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(folder.names),
    }
}

struct Folder {
    names: Names,
}

type Flow = ControlFlow<pinrail_model::seam::lake::LakeError>;

fn fold_ident(ident: &mut Ident) {
    if ident.quote_style.is_none() {
        ident.value = ident.value.to_lowercase();
    }
}

fn fold_alias(alias: &mut TableAlias) {
    fold_ident(&mut alias.name);
}

impl VisitorMut for Folder {
    type Break = pinrail_model::seam::lake::LakeError;

    fn pre_visit_query(&mut self, query: &mut Query) -> Flow {
        for cte in query.with.iter_mut().flat_map(|with| &mut with.cte_tables) {
            fold_alias(&mut cte.alias);
            self.names.given.extend(cte.alias.columns.iter().map(|c| c.name.value.clone()));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> Flow {
        for item in &mut select.projection {
            match item {
                SelectItem::ExprWithAlias { alias, .. } => {
                    self.names.given.insert(alias.value.clone());
                }
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => fold_name(name),
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &mut ObjectName) -> Flow {
        fold_name(relation);
        if let Some(ident) = relation.0.first().and_then(ObjectNamePart::as_ident) {
            self.names.places.entry(plain_name(relation)).or_insert(ident.span.start);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> Flow {
        match factor {
            // The planner would read the whole table.
            TableFactor::Table { sample: Some(_), name, .. } => {
                let place = name.0.first().and_then(ObjectNamePart::as_ident).map(|ident| ident.span.start);
                let error = error::unsupported("TABLESAMPLE is not supported")
                    .remedy("Write WHERE random() < 0.1 for about a tenth of the rows, or LIMIT n.");
                let at = |n: u64| u32::try_from(n).unwrap_or(0);
                return ControlFlow::Break(place.map_or(error.clone(), |p| error.at(at(p.line), at(p.column))));
            }
            TableFactor::Table { name, alias, args, .. } => {
                if let Some(alias) = alias {
                    fold_alias(alias);
                    self.names.given.extend(alias.columns.iter().map(|c| c.name.value.clone()));
                }
                fold_name(name);
                let function = plain_name(name);
                if let (Some(list), true) = (&args, FILE_FUNCTIONS.contains(&function.as_str())) {
                    let at = name
                        .0
                        .first()
                        .and_then(ObjectNamePart::as_ident)
                        .map_or(Location { line: 1, column: 1 }, |i| i.span.start);
                    match file_call(&function, &list.args, at) {
                        Ok(call) => {
                            let stand_in = format!("{FILE_CALL}{}", self.names.files.len());
                            self.names.files.insert(stand_in.clone(), call);
                            *name = ObjectName::from(vec![quoted(stand_in, at)]);
                            *args = None;
                            alias.get_or_insert_with(|| alias_of(&function));
                        }
                        Err(error) => return ControlFlow::Break(error),
                    }
                } else if args.is_some() {
                    let at = name.0.first().and_then(ObjectNamePart::as_ident).map(|ident| ident.span.start);
                    self.names.functions.entry(function).or_insert(at.unwrap_or(Location { line: 1, column: 1 }));
                } else if let Some((table, _)) =
                    name.0.last().and_then(ObjectNamePart::as_ident).and_then(|i| i.value.split_once(TRAVEL))
                {
                    alias.get_or_insert_with(|| alias_of(table));
                }
                let shown = alias.as_ref().map_or_else(
                    || name.0.last().and_then(ObjectNamePart::as_ident).map(|i| i.value.clone()).unwrap_or_default(),
                    |alias| alias.name.value.clone(),
                );
                self.names.aliases.insert(shown, plain_name(name));
            }
            TableFactor::Derived { alias: Some(alias), .. }
            | TableFactor::TableFunction { alias: Some(alias), .. }
            | TableFactor::Function { alias: Some(alias), .. }
            | TableFactor::UNNEST { alias: Some(alias), .. }
            | TableFactor::NestedJoin { alias: Some(alias), .. } => {
                fold_alias(alias);
                self.names.given.extend(alias.columns.iter().map(|c| c.name.value.clone()));
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> Flow {
        match expr {
            Expr::Identifier(ident) => {
                self.names.idents.push((ident.value.clone(), ident.span.start));
                if ident.quote_style.is_some() {
                    self.names.quoted.insert(ident.value.clone());
                }
            }
            Expr::Value(value) => {
                if let Some(text) = value.value.clone().into_string() {
                    self.names.idents.push((text, value.span.start));
                }
            }
            Expr::Cast { data_type: DataType::Custom(name, _), .. } => {
                if let Some(ident) = name.0.last().and_then(ObjectNamePart::as_ident) {
                    self.names.idents.push((ident.value.clone(), ident.span.start));
                }
            }
            Expr::CompoundIdentifier(parts) => {
                if let Some(last) = parts.last() {
                    self.names.idents.push((last.value.clone(), last.span.start));
                }
            }
            Expr::Function(function) => {
                if let Some(ident) = function.name.0.last().and_then(ObjectNamePart::as_ident) {
                    self.names.idents.push((ident.value.to_lowercase(), ident.span.start));
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

fn quoted(value: String, at: Location) -> Ident {
    Ident { value, quote_style: Some('"'), span: datafusion::sql::sqlparser::tokenizer::Span::new(at, at) }
}

fn alias_of(name: &str) -> TableAlias {
    TableAlias { explicit: true, name: Ident::new(name), columns: Vec::new(), at: None }
}

fn fold_name(name: &mut ObjectName) {
    for part in &mut name.0 {
        if let ObjectNamePart::Identifier(ident) = part {
            fold_ident(ident);
        }
    }
}

/// The parts without quotes, joined by dots.
fn plain_name(name: &ObjectName) -> String {
    let parts: Vec<_> = name.0.iter().filter_map(ObjectNamePart::as_ident).map(|i| i.value.as_str()).collect();
    parts.join(".")
}

fn file_call(function: &str, args: &[FunctionArg], at: Location) -> Result<FileCall> {
    let invalid = |what: String| {
        let (line, column) = (u32::try_from(at.line).unwrap_or(0), u32::try_from(at.column).unwrap_or(0));
        error::user("sql-syntax", format!("{function}: {what}"))
            .remedy(format!("Write {function}('path', option => value)."))
            .at(line, column)
    };
    let mut call = FileCall { function: function.to_owned(), path: None, options: Vec::new(), at };
    for arg in args {
        match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value))) if call.path.is_none() => {
                let path = value.value.clone().into_string();
                call.path = Some(path.ok_or_else(|| invalid("the path must be a string".to_owned()))?);
            }
            FunctionArg::Named {
                name,
                arg: FunctionArgExpr::Expr(value),
                operator:
                    FunctionArgOperator::RightArrow | FunctionArgOperator::Assignment | FunctionArgOperator::Equals,
            } => call.options.push((name.value.to_lowercase(), value.clone())),
            FunctionArg::ExprNamed { name: Expr::Identifier(name), arg: FunctionArgExpr::Expr(value), .. } => {
                call.options.push((name.value.to_lowercase(), value.clone()));
            }
            // `nullstr = 'NA'` parses as a comparison.
            FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::BinaryOp { left, right, .. }))
                if matches!(&**left, Expr::Identifier(_)) && call.path.is_some() =>
            {
                if let Expr::Identifier(name) = &**left {
                    call.options.push((name.value.to_lowercase(), (**right).clone()));
                }
            }
            other => return Err(invalid(format!("argument \"{other}\" is not understood"))),
        }
    }
    if call.path.is_none() {
        return Err(invalid("the path is missing".to_owned()));
    }
    Ok(call)
}

impl Names {
    /// What a relation of the statement (namespace, if it has one, and name) stands for.
    pub(crate) fn relation(&self, namespace: Option<&str>, name: &str) -> Result<Relation> {
        if let Some(call) = self.files.get(name).filter(|_| namespace.is_none()) {
            return Ok(Relation::File(call.clone()));
        }
        let full = namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}.{name}"));
        let at = self.places.get(&full).copied().unwrap_or(Location { line: 1, column: 1 });
        let placed = |e: pinrail_model::seam::lake::LakeError| {
            e.at(u32::try_from(at.line).unwrap_or(0), u32::try_from(at.column).unwrap_or(0))
        };
        let (name, travel) = match name.split_once(TRAVEL) {
            Some((name, point)) => (name, Some(travel(point).map_err(placed)?)),
            None => (name, None),
        };
        let namespace = namespace.unwrap_or(pinrail_model::names::DEFAULT_NAMESPACE);
        let table = parse::make_ref(namespace, name).map_err(|e| match parse::reading(name) {
            Some(remedy) => placed(e.remedy(remedy)),
            None => placed(e),
        })?;
        Ok(Relation::Table { table, travel, at })
    }
}

fn travel(point: &str) -> Result<Travel> {
    match point.split_once(' ') {
        Some(("version", digits)) => digits
            .parse()
            .map(Travel::Version)
            .map_err(|_| error::user("snapshot-not-found", format!("\"{digits}\" is not the id of a snapshot"))),
        Some((_, text)) => Ok(Travel::Timestamp(text.to_owned())),
        None => Err(error::user("sql-syntax", "a point in time is missing after AS OF")),
    }
}

/// The snapshot that a table had at a point in its past.
pub(crate) fn snapshot_at(table: &Table, travel: &Travel) -> Result<SnapshotRef> {
    let metadata = &table.metadata;
    match travel {
        Travel::Version(id) => metadata
            .snapshot_by_id(*id)
            .cloned()
            .ok_or_else(|| no_snapshot(table, format!("table \"{}\" has no snapshot {id}", table.name))),
        Travel::Timestamp(text) => {
            let nanos = arrow::compute::kernels::cast_utils::string_to_timestamp_nanos(text).map_err(|_| {
                error::user("sql-syntax", format!("\"{text}\" is not a time"))
                    .remedy("Write it like '2013-01-02 03:04:05', in UTC unless it names a zone.")
            })?;
            let millis = nanos.div_euclid(1_000_000);
            let entry = metadata.history().iter().rev().find(|entry| entry.timestamp_ms <= millis);
            entry
                .and_then(|entry| metadata.snapshot_by_id(entry.snapshot_id))
                .cloned()
                .ok_or_else(|| no_snapshot(table, format!("table \"{}\" had no snapshot at {text}", table.name)))
        }
    }
}

/// Names the points of a table's past that there are.
fn no_snapshot(table: &Table, message: String) -> pinrail_model::seam::lake::LakeError {
    /// The latest are the likeliest to be meant.
    const MOST: usize = 3;
    let history = table.metadata.history();
    let shown = history.iter().rev().take(MOST).map(|entry| {
        let at = pinrail_model::time::Micros(entry.timestamp_ms.saturating_mul(1_000));
        format!("{} of {at}", entry.snapshot_id)
    });
    let shown = shown.collect::<Vec<_>>().join(", ");
    error::user("snapshot-not-found", message).remedy(match history.len() {
        0 => "The table has no snapshots yet.".to_owned(),
        count if count > MOST => format!("Its {count} snapshots end with {shown}."),
        _ => format!("Its snapshots are {shown}."),
    })
}

/// Spells unquoted columns as the tables do. `schemas` has the columns of each relation by its name in the statement.
pub(crate) fn spell(
    ast: &mut Ast,
    names: &Names,
    schemas: &HashMap<String, SchemaRef>,
    is_aggregate: &dyn Fn(&str) -> bool,
) {
    let mut all: HashMap<String, BTreeSet<String>> = HashMap::new();
    let columns = schemas.values().flat_map(|schema| schema.fields().iter().map(|f| f.name().clone()));
    for name in columns.chain(names.given.iter().cloned()) {
        all.entry(name.to_lowercase()).or_default().insert(name);
    }
    let _: ControlFlow<()> = VisitMut::visit(ast, &mut Speller { names, schemas, is_aggregate, all });
}

struct Speller<'a> {
    names: &'a Names,
    schemas: &'a HashMap<String, SchemaRef>,
    is_aggregate: &'a dyn Fn(&str) -> bool,
    all: HashMap<String, BTreeSet<String>>,
}

impl Speller<'_> {
    fn spell(&self, ident: &mut Ident) {
        if ident.quote_style.is_some() {
            return;
        }
        if let Some(spellings) = self.all.get(&ident.value.to_lowercase())
            && !spellings.contains(&ident.value)
            && let (Some(only), 1) = (spellings.first(), spellings.len())
        {
            ident.value.clone_from(only);
        }
    }

    /// A column of one known table.
    fn spell_in(&self, ident: &mut Ident, schema: &SchemaRef) {
        if ident.quote_style.is_some() || schema.field_with_name(&ident.value).is_ok() {
            return;
        }
        let mut like = schema.fields().iter().filter(|f| f.name().eq_ignore_ascii_case(&ident.value));
        if let (Some(only), None) = (like.next(), like.next()) {
            ident.value.clone_from(only.name());
        }
    }

    fn spell_compound(&self, parts: &mut [Ident]) {
        let Some((first, rest)) = parts.split_first_mut() else { return };
        let folded = if first.quote_style.is_some() { first.value.clone() } else { first.value.to_lowercase() };
        if let (Some(relation), [column, ..]) = (self.names.aliases.get(&folded), &mut *rest) {
            first.value = folded;
            match self.schemas.get(relation) {
                Some(schema) => self.spell_in(column, schema),
                None => self.spell(column),
            }
            return;
        }
        // namespace.table.column, or a field of a struct column.
        match rest {
            [table, column, ..] if self.names.aliases.contains_key(&table.value.to_lowercase()) => {
                fold_ident(first);
                fold_ident(table);
                match self.names.aliases.get(&table.value).and_then(|relation| self.schemas.get(relation)) {
                    Some(schema) => self.spell_in(column, schema),
                    None => self.spell(column),
                }
            }
            [column] if !self.all.contains_key(&folded) => {
                fold_ident(first);
                self.spell(column);
            }
            _ => self.spell(first),
        }
    }

    fn spell_join(&self, from: &mut TableWithJoins) {
        for join in &mut from.joins {
            if let JoinOperator::Join(JoinConstraint::Using(columns))
            | JoinOperator::Inner(JoinConstraint::Using(columns))
            | JoinOperator::Left(JoinConstraint::Using(columns))
            | JoinOperator::LeftOuter(JoinConstraint::Using(columns))
            | JoinOperator::Right(JoinConstraint::Using(columns))
            | JoinOperator::RightOuter(JoinConstraint::Using(columns))
            | JoinOperator::FullOuter(JoinConstraint::Using(columns)) = &mut join.join_operator
            {
                for part in columns.iter_mut().flat_map(|name| &mut name.0) {
                    if let ObjectNamePart::Identifier(ident) = part {
                        self.spell(ident);
                    }
                }
            }
        }
    }
}

impl Speller<'_> {
    /// Which columns of what a SELECT reads are hidden by its own aliases, each with the name of its table. One that may
    /// be in several tables is left out.
    fn hidden(&self, select: &Select) -> HashMap<String, Ident> {
        let mut read = Vec::new();
        for from in &select.from {
            let factors = std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation));
            for factor in factors {
                let Some(name) = name_of(factor) else { return HashMap::new() };
                read.push((self.columns_of(factor, &name), name));
            }
        }
        let mut hidden = HashMap::new();
        for item in &select.projection {
            let SelectItem::ExprWithAlias { alias, .. } = item else { continue };
            // What is not known may have any column.
            let has = |columns: &Option<Vec<String>>| columns.as_ref().is_none_or(|names| names.contains(&alias.value));
            let mut with = read.iter().filter(|(columns, _)| has(columns));
            if let (Some((_, name)), None) = (with.next(), with.next()) {
                hidden.insert(alias.value.clone(), name.clone());
            }
        }
        hidden
    }

    /// The columns of a relation, if they are known before it is planned.
    fn columns_of(&self, factor: &TableFactor, name: &Ident) -> Option<Vec<String>> {
        let (TableFactor::Table { alias, .. } | TableFactor::Derived { alias, .. }) = factor else { return None };
        if let Some(alias) = alias.as_ref().filter(|alias| !alias.columns.is_empty()) {
            return Some(alias.columns.iter().map(|column| column.name.value.clone()).collect());
        }
        let schema = self.schemas.get(self.names.aliases.get(&name.value)?)?;
        Some(schema.fields().iter().map(|field| field.name().clone()).collect())
    }
}

/// The name by which columns of a relation can be qualified.
fn name_of(factor: &TableFactor) -> Option<Ident> {
    match factor {
        TableFactor::Table { alias: Some(alias), .. } | TableFactor::Derived { alias: Some(alias), .. } => {
            Some(alias.name.clone())
        }
        TableFactor::Table { name, args: None, .. } => name.0.last()?.as_ident().cloned(),
        _ => None,
    }
}

/// Qualifies hidden columns inside of aggregate functions: `sum(late) AS late ... ORDER BY sum(late)` means the column,
/// since an aggregate function cannot stand in another one, but the planner would take the alias.
struct Revealer<'a> {
    hidden: &'a HashMap<String, Ident>,
    is_aggregate: &'a dyn Fn(&str) -> bool,
    inside: usize,
}

impl Revealer<'_> {
    fn aggregates(&self, expr: &Expr) -> bool {
        let Expr::Function(function) = expr else { return false };
        let name = function.name.0.last().and_then(ObjectNamePart::as_ident);
        function.over.is_none() && name.is_some_and(|name| (self.is_aggregate)(&name.value.to_lowercase()))
    }
}

impl VisitorMut for Revealer<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        self.inside += usize::from(self.aggregates(expr));
        if let (Expr::Identifier(ident), 1..) = (&*expr, self.inside)
            && let Some(table) = self.hidden.get(&ident.value)
        {
            *expr = Expr::CompoundIdentifier(vec![table.clone(), ident.clone()]);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        self.inside -= usize::from(self.aggregates(expr));
        ControlFlow::Continue(())
    }
}

/// Gives the repetition of an unnamed expression a name of its own: `select i, i` is fine in SQL, but not in the planner.
/// A cast is named after its column, as the planner does without saying so.
fn tell_apart(select: &mut Select) {
    let (mut planned, mut taken): (HashSet<String>, HashSet<String>) = Default::default();
    for item in &select.projection {
        match item {
            SelectItem::ExprWithAlias { alias, .. } => taken.insert(alias.value.clone()),
            SelectItem::UnnamedExpr(expr) if !planned_name(expr).1 => taken.insert(last_part(&planned_name(expr).0)),
            _ => false,
        };
    }
    for item in &mut select.projection {
        let SelectItem::UnnamedExpr(expr) = item else { continue };
        let (name, is_cast) = planned_name(expr);
        if planned.insert(name.clone()) && !is_cast {
            continue;
        }
        let last = last_part(&name);
        let numbered = (2..).map(|number| format!("{last}_{number}"));
        let free = std::iter::once(last.clone()).filter(|_| is_cast).chain(numbered).find(|n| !taken.contains(n));
        let alias = free.unwrap_or(last);
        taken.insert(alias.clone());
        *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: Ident::with_quote('"', alias) };
    }
}

fn last_part(name: &str) -> String {
    name.rsplit('.').next().unwrap_or(name).to_owned()
}

/// The name that the planner will give to an expression, and whether it is that of a column below a cast.
fn planned_name(expr: &Expr) -> (String, bool) {
    match expr {
        // The planner calls every subquery the same.
        Expr::Subquery(_) => ("(<subquery>)".to_owned(), false),
        Expr::Identifier(ident) => (ident.value.clone(), false),
        Expr::CompoundIdentifier(parts) => {
            (parts.iter().map(|part| part.value.as_str()).collect::<Vec<_>>().join("."), false)
        }
        Expr::Cast { expr, .. } | Expr::Nested(expr) => {
            let (name, below) = planned_name(expr);
            (name, below || matches!(**expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_)))
        }
        other => (other.to_string(), false),
    }
}

impl VisitorMut for Speller<'_> {
    type Break = ();

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let (SetExpr::Select(select), Some(order_by)) = (query.body.as_ref(), &mut query.order_by) else {
            return ControlFlow::Continue(());
        };
        let hidden = self.hidden(select);
        if let (false, OrderByKind::Expressions(items)) = (hidden.is_empty(), &mut order_by.kind) {
            for item in items {
                let mut revealer = Revealer { hidden: &hidden, is_aggregate: self.is_aggregate, inside: 0 };
                let _: ControlFlow<()> = VisitMut::visit(&mut item.expr, &mut revealer);
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        tell_apart(select);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        for from in &mut select.from {
            self.spell_join(from);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Identifier(ident) => self.spell(ident),
            Expr::CompoundIdentifier(parts) => self.spell_compound(parts),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
