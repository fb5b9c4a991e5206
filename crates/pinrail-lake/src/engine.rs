//! One run of a text: its statements in order, each planned against what it sees, carried out and counted.
//!
//! Not responsible for what a write means to a table (`writing`), nor for the files and pointers below.
//!
//! Invariants:
//! - a check goes the same way as a run up to the point where data would move;
//! - only queries are planned by DataFusion; a plan that would define, copy or set anything is refused here too.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::datasource::empty::EmptyTable;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::{Query as SqlQuery, Statement as Ast};
use datafusion::sql::sqlparser::tokenizer::Location;
use futures::StreamExt;
use pinrail_model::names::{NamespaceName, TableRef, TargetName};
use pinrail_model::seam::lake::{
    Checked, Column, LakeError, Query, QueryDone, QueryLimits, ResultFormat, ResultSink, View,
};

use crate::catalog::{self, Scope};
use crate::error::{self, Result};
use crate::files::{self, Handles, ReadCounters};
use crate::lake::Lake;
use crate::partition;
use crate::results::{self, Encoder};
use crate::scan::LakeTable;
use crate::sql::casts::{self, Cast};
use crate::sql::columns::{self, Unnamed};
use crate::sql::explain::explain;
use crate::sql::header::{self, Declared, Header};
use crate::sql::names::{self, Names, Relation};
use crate::sql::parse::{self, Kind, Statement};
use crate::sql::plan::{self, Providers};
use crate::stop::{Stop, Stoppable};
use crate::system;
use crate::template::{self, Rendered, Values};
use crate::types;

/// One text on its way through the engine.
pub(crate) struct Run<'a> {
    pub(crate) lake: &'a Lake,
    pub(crate) view: &'a View,
    query: &'a Query,
    rendered: Rendered,
    header: Header,
    /// What the text may write, and for a single SELECT where its rows go.
    pub(crate) declared: Option<Vec<Declared>>,
    /// Nothing is run: tables that the text would make are known by their columns only.
    pub(crate) dry: bool,
    pub(crate) made: Made,
    runtime: Arc<RuntimeEnv>,
    handles: Arc<Handles>,
    file_reads: Arc<ReadCounters>,
    stop: Stop,
    /// Those of the statement under way.
    casts: Vec<Cast>,
    reads: Vec<TableRef>,
    /// Tables of other targets that were read.
    read_from: BTreeMap<TableRef, TargetName>,
    pub(crate) written: Vec<TableRef>,
    pub(crate) counters: BTreeMap<String, f64>,
}

/// What a checked text would have made of tables.
#[derive(Debug, Default)]
pub(crate) struct Made(HashMap<TableRef, Fate>);

/// What becomes of a table.
#[derive(Debug)]
pub(crate) enum Fate {
    /// It is there, with these columns if they can be known.
    Made(Option<SchemaRef>),
    Dropped,
}

impl Made {
    pub(crate) fn made(&mut self, table: TableRef, columns: Option<SchemaRef>) {
        self.0.insert(table, Fate::Made(columns));
    }

    pub(crate) fn dropped(&mut self, table: TableRef) {
        self.0.insert(table, Fate::Dropped);
    }

    pub(crate) fn unknown(&mut self, tables: &[TableRef]) {
        self.0.extend(tables.iter().map(|table| (table.clone(), Fate::Made(None))));
    }

    pub(crate) fn get(&self, table: &TableRef) -> Option<&Fate> {
        self.0.get(table)
    }
}

/// A planned query.
pub(crate) struct Planned {
    state: SessionState,
    pub(crate) plan: LogicalPlan,
    unnamed: Vec<Option<Unnamed>>,
}

impl Planned {
    pub(crate) fn schema(&self) -> SchemaRef {
        self.plan.schema().inner().clone()
    }

    /// The columns as a result shows them.
    fn shown_schema(&self) -> SchemaRef {
        columns::shown(&self.schema(), &self.unnamed)
    }

    /// The columns as a table that is made of them has them.
    pub(crate) fn table_schema(&self) -> Result<SchemaRef> {
        columns::of_table(&self.schema(), &self.unnamed)
    }
}

/// Which tables a query sees.
struct Seen {
    providers: Providers,
    schemas: HashMap<String, SchemaRef>,
    /// A check met a table or file that is not there yet.
    unknown: bool,
}

impl<'a> Run<'a> {
    pub(crate) fn new(
        lake: &'a Lake,
        query: &'a Query,
        view: &'a View,
        memory: Option<u64>,
        dry: bool,
    ) -> Result<Self> {
        let in_file = |mut e: LakeError| {
            name_file(&mut e, query);
            e
        };
        let header = Header::parse(&query.text, query.declares_job).map_err(in_file)?;
        let rendered = template::render(&query.text, &query.values).map_err(in_file)?;
        let declared = declared(query, &header, &query.values).map_err(in_file)?;
        let handles = Arc::new(Handles::default());
        Ok(Self {
            lake,
            view,
            query,
            rendered,
            header,
            declared,
            dry,
            made: Made::default(),
            runtime: lake.runtime(&handles, memory),
            handles,
            file_reads: Arc::default(),
            stop: Stop::default(),
            casts: Vec::new(),
            reads: Vec::new(),
            read_from: BTreeMap::new(),
            written: Vec::new(),
            counters: BTreeMap::new(),
        })
    }

    pub(crate) fn stopped_by(mut self, stop: &Stop) -> Self {
        self.stop = stop.clone();
        self
    }

    pub(crate) async fn run(
        mut self,
        limits: &QueryLimits,
        format: ResultFormat,
        sink: &mut dyn ResultSink,
    ) -> Result<QueryDone> {
        let statements = parse::parse(&self.rendered).map_err(|e| self.in_file(e))?;
        let mut output = Output { limits: limits.clone(), format, outputs: self.header.output(), ..Output::new() };
        self.check_header(&statements).map_err(|e| self.in_file(e))?;
        let last = statements.iter().rposition(|s| self.gives_rows(s, statements.len()));
        let count = statements.len();
        for (index, statement) in statements.into_iter().enumerate() {
            let at = statement.at;
            let deliver = last == Some(index);
            let result = self.statement(statement, count, deliver, &mut output, sink).await;
            result.map_err(|e| self.place(casts::explained(e, &self.casts), at))?;
        }
        if last.is_none() {
            let empty = Arc::new(Schema::empty());
            let (encoder, head) = Encoder::begin(&empty, &[], format)?;
            sink.chunk(head).await?;
            sink.chunk(encoder.finish()?).await?;
        }
        output.check_outputs().map_err(|e| self.in_file(e))?;
        self.count("rows_read", self.file_reads.rows.load(Ordering::Relaxed));
        self.count("bytes_read", self.file_reads.bytes.load(Ordering::Relaxed));
        Ok(QueryDone {
            rendered: self.rendered.text,
            columns: output.columns,
            rows: output.rows,
            truncated: output.truncated,
            counters: self.counters,
            written: self.written,
            read_from: self.read_from,
            outputs: output.values,
        })
    }

    /// Checks a text that comes after others.
    pub(crate) async fn check_after(mut self, made: &mut Made) -> Result<Checked> {
        self.made = std::mem::take(made);
        let checked = self.check_all().await;
        *made = std::mem::take(&mut self.made);
        checked
    }

    pub(crate) async fn check(mut self) -> Result<Checked> {
        self.check_all().await
    }

    async fn check_all(&mut self) -> Result<Checked> {
        let statements = parse::parse(&self.rendered).map_err(|e| self.in_file(e))?;
        self.check_header(&statements).map_err(|e| self.in_file(e))?;
        let count = statements.len();
        let mut columns = Vec::new();
        for statement in statements {
            let at = statement.at;
            let found = self.check_statement(statement, count).await;
            let found = found.map_err(|e| self.place(casts::explained(e, &self.casts), at))?;
            columns = found.unwrap_or(columns);
        }
        Ok(Checked {
            rendered: self.rendered.text.clone(),
            reads: std::mem::take(&mut self.reads),
            writes: std::mem::take(&mut self.written),
            columns,
            header: self.header.to_map(),
        })
    }

    /// Puts a place of the rendered text, or the statement's beginning, into an error.
    fn place(&self, error: LakeError, start: Location) -> LakeError {
        // The parser forgets the places of some names.
        let known = error.place.filter(|(line, _)| *line > 0);
        let (line, column) = known.map_or((start.line, start.column), |(l, c)| (u64::from(l), u64::from(c)));
        let (line, column) = self.rendered.original(line, column);
        self.in_file(error.at(line, column))
    }

    fn in_file(&self, mut error: LakeError) -> LakeError {
        name_file(&mut error, self.query);
        error
    }

    /// What header and statements must agree on.
    fn check_header(&self, statements: &[Statement]) -> Result<()> {
        let single_query = matches!(statements, [Statement { kind: Kind::Query(_), .. }]);
        let declares = self.declared.as_ref().is_some_and(|d| !d.is_empty());
        if single_query && self.declared.as_ref().is_some_and(|d| d.len() > 1) {
            return Err(error::user("header-invalid", "one SELECT writes one table, but more are declared")
                .remedy("Write statements of their own, such as INSERT OVERWRITE, for several tables."));
        }
        if let (Some((line, _)), true) = (self.header.output(), single_query && declares) {
            return Err(error::user("header-invalid", "a SELECT whose rows are written leaves no output")
                .remedy("Leave the output from a job of its own that reads the table.")
                .at(line, 1));
        }
        if declares && !single_query { self.check_rows_are_taken(statements) } else { Ok(()) }
    }

    /// Only a SELECT that stands alone is written to where the text declares; beside other statements its rows would go
    /// nowhere.
    fn check_rows_are_taken(&self, statements: &[Statement]) -> Result<()> {
        let is_query = |statement: &&Statement| matches!(statement.kind, Kind::Query(_));
        // With outputs the last result is what they are taken from.
        let outputs = self.header.output().and_then(|_| statements.iter().rposition(|s| is_query(&s)));
        let lost = statements.iter().enumerate().find(|(index, s)| is_query(s) && Some(*index) != outputs);
        let table = self.declared.iter().flatten().next().map(|d| d.writes.table.to_string()).unwrap_or_default();
        let (what, at) = match lost {
            Some((_, statement)) => {
                ("the rows of this SELECT go nowhere: it is not the text's only statement", statement.at)
            }
            None if statements.iter().all(|s| !s.kind.writes()) => match statements.first() {
                Some(first) => ("the text declares what it writes, but no statement writes", first.at),
                None => return Ok(()),
            },
            None => return Ok(()),
        };
        let (line, column) = self.rendered.original(at.line, at.column);
        Err(error::user("writes-nothing", what)
            .remedy(format!(
                "Leave one SELECT in the text, or write INSERT OVERWRITE {table} SELECT ... in front of it."
            ))
            .at(line, column))
    }

    fn gives_rows(&self, statement: &Statement, count: usize) -> bool {
        match &statement.kind {
            Kind::Query(_) => !self.is_written(count),
            Kind::Explain { .. } | Kind::ShowTables { .. } | Kind::ShowSchemas | Kind::Describe { .. } => true,
            _ => false,
        }
    }

    /// Whether a query's rows go to the declared table rather than to the caller.
    fn is_written(&self, count: usize) -> bool {
        count == 1 && self.declared.as_ref().is_some_and(|d| !d.is_empty())
    }

    async fn statement(
        &mut self,
        statement: Statement,
        count: usize,
        deliver: bool,
        output: &mut Output,
        sink: &mut dyn ResultSink,
    ) -> Result<()> {
        let scope = self.lake.book.scope(self.view).await?;
        match statement.kind {
            Kind::Query(query) => {
                let planned = self.plan(&scope, Ast::Query(query)).await?;
                let planned = planned.ok_or_else(|| error::platform("query-failed", "the query was not planned"))?;
                if self.is_written(count)
                    && let Some(declared) = self.declared.as_ref().and_then(|d| d.first()).cloned()
                {
                    return self.write_declared(&scope, &declared, Some(planned)).await;
                }
                let schema = planned.shown_schema();
                let (plan, rows) = self.execute(planned).await?;
                self.stream(rows, &schema, deliver, output, sink).await?;
                self.measure(&plan);
                Ok(())
            }
            Kind::Explain { query, analyze } => {
                let explained = Ast::Explain {
                    describe_alias: datafusion::sql::sqlparser::ast::DescribeAlias::Explain,
                    analyze,
                    verbose: false,
                    query_plan: false,
                    estimate: false,
                    statement: query,
                    format: None,
                    options: None,
                };
                let planned = self.plan(&scope, explained).await?;
                let planned = planned.ok_or_else(|| error::platform("query-failed", "the query was not planned"))?;
                let schema = planned.schema();
                let (_, rows) = self.execute(planned).await?;
                self.stream(rows, &schema, deliver, output, sink).await
            }
            Kind::ShowTables { .. } | Kind::ShowSchemas | Kind::Describe { .. } => {
                let batch = self.describe(&scope, &statement.kind).await?;
                if deliver { output.whole(&batch, sink).await } else { Ok(()) }
            }
            writes => self.write_statement(&scope, writes).await,
        }
    }

    async fn check_statement(&mut self, statement: Statement, count: usize) -> Result<Option<Vec<Column>>> {
        let scope = self.lake.book.scope(self.view).await?;
        match statement.kind {
            Kind::Query(query) => {
                let planned = self.plan(&scope, Ast::Query(query)).await?;
                let columns = planned.as_ref().map(|p| types::result_columns(&p.shown_schema())).unwrap_or_default();
                if self.is_written(count)
                    && let Some(declared) = self.declared.as_ref().and_then(|d| d.first()).cloned()
                {
                    self.write_declared(&scope, &declared, planned).await?;
                }
                Ok(Some(columns))
            }
            Kind::Explain { query, .. } => {
                self.plan(&scope, *query).await?;
                Ok(Some(vec![text_column("plan_type"), text_column("plan")]))
            }
            Kind::ShowTables { .. } | Kind::ShowSchemas => {
                let batch = self.describe(&scope, &statement.kind).await?;
                Ok(Some(types::result_columns(&batch.schema())))
            }
            Kind::Describe { table } => {
                self.read(&table);
                Ok(Some(describe_schema().fields().iter().map(|f| text_column(f.name())).collect()))
            }
            writes => {
                self.write_statement(&scope, writes).await?;
                Ok(None)
            }
        }
    }

    fn read(&mut self, table: &TableRef) {
        if !self.reads.contains(table) {
            self.reads.push(table.clone());
        }
    }

    pub(crate) fn wrote(&mut self, table: &TableRef) {
        if !self.written.contains(table) {
            self.written.push(table.clone());
        }
    }

    pub(crate) fn count(&mut self, name: &str, number: u64) {
        #[expect(clippy::cast_precision_loss, reason = "counters are shown, not computed with")]
        let number = number as f64;
        *self.counters.entry(name.to_owned()).or_default() += number;
    }

    pub(crate) async fn plan_query(&mut self, scope: &Scope, query: Box<SqlQuery>) -> Result<Option<Planned>> {
        self.plan(scope, Ast::Query(query)).await
    }

    /// Plans a query; none if a check met a table that is not there yet.
    async fn plan(&mut self, scope: &Scope, mut ast: Ast) -> Result<Option<Planned>> {
        let written = match &ast {
            Ast::Query(query) => Some(query.clone()),
            _ => None,
        };
        self.casts = casts::of(&ast);
        let names = names::fold(&mut ast)?;
        let seen = self.look(scope, &ast, &names).await?;
        if seen.unknown {
            return Ok(None);
        }
        let state = self.state();
        let is_aggregate = |name: &str| state.aggregate_functions().contains_key(name);
        names::spell(&mut ast, &names, &seen.schemas, &is_aggregate);
        let plan = plan::plan(&state, &seen.providers, ast).map_err(|e| explain(e, &names, &state))?;
        refuse_effects(&plan)?;
        // Type errors come out when the plan is analysed, and a check must tell them too.
        let plan = state.optimize(&plan).map_err(|e| explain(e, &names, &state))?;
        let unnamed = written.map(|query| columns::unnamed(&query, plan.schema().fields().len())).unwrap_or_default();
        Ok(Some(Planned { state, plan, unnamed }))
    }

    fn state(&self) -> SessionState {
        let mut state = self.lake.state.clone();
        let now = self.lake.book.clock.now().wall.to_utc();
        state.execution_props_mut().query_execution_start_time = Some(now);
        SessionStateBuilder::new_from_existing(state)
            .with_runtime_env(self.runtime.clone())
            .with_physical_optimizer_rule(Arc::new(Stoppable(self.stop.clone())))
            .build()
    }

    /// Finds what the relations of a statement stand for.
    async fn look(&mut self, scope: &Scope, ast: &Ast, names: &Names) -> Result<Seen> {
        let statement = DfStatement::Statement(Box::new(ast.clone()));
        let (references, _) = resolve_table_references(&statement, false).map_err(error::from_datafusion)?;
        let mut seen = Seen { providers: HashMap::new(), schemas: HashMap::new(), unknown: false };
        for reference in references {
            if reference.catalog().is_some() {
                return Err(error::user(
                    "name-invalid",
                    format!("\"{reference}\" has more parts than namespace and table"),
                ));
            }
            if reference.schema().is_none() && names.functions.contains_key(reference.table()) {
                continue;
            }
            let relation = names.relation(reference.schema(), reference.table())?;
            match self.provider(scope, &relation).await? {
                Some(provider) => {
                    let key = plan::key(&reference);
                    seen.schemas.insert(key.clone(), provider.schema());
                    seen.providers.insert(key, provider);
                }
                None => seen.unknown = true,
            }
        }
        Ok(seen)
    }

    async fn provider(&mut self, scope: &Scope, relation: &Relation) -> Result<Option<Arc<dyn TableProvider>>> {
        let (table, travel, at) = match relation {
            Relation::File(call) => {
                let state = self.state();
                let found = files::provider(call, &self.query.files, &state, &self.handles, &self.file_reads).await;
                return match found {
                    // What is not fetched yet may be there when the text runs.
                    Err(e) if self.dry && e.code == "file-not-found" => Ok(None),
                    other => other.map(Some),
                };
            }
            Relation::Table { table, travel, at } => (table, travel, at),
        };
        let placed = |e: LakeError| e.at(u32::try_from(at.line).unwrap_or(0), u32::try_from(at.column).unwrap_or(0));
        self.read(table);
        match self.made.get(table) {
            Some(Fate::Made(columns)) => {
                let empty = |schema: &SchemaRef| Arc::new(EmptyTable::new(schema.clone())) as Arc<dyn TableProvider>;
                return Ok(columns.as_ref().map(empty));
            }
            Some(Fate::Dropped) => return Err(placed(self.not_found(scope, table).await?)),
            None => {}
        }
        if system::is_system(table) {
            if travel.is_some() {
                return Err(placed(error::unsupported("tables of the platform have no past to read")));
            }
            let found = system::provider(self.lake.book.system.as_ref(), &scope.project, table).await?;
            return match found {
                Some(provider) => Ok(Some(provider)),
                None => Err(placed(self.not_found(scope, table).await?)),
            };
        }
        let Some(found) = self.lake.book.find(scope, table).await? else {
            if self.dry {
                return Ok(None);
            }
            return Err(placed(self.not_found(scope, table).await?));
        };
        if let Some(target) = &found.read_from {
            self.read_from.insert(table.clone(), target.clone());
        }
        let tables = self.lake.book.tables.clone();
        let provider = match travel {
            None => LakeTable::current(tables, &found)?,
            Some(travel) => {
                let snapshot = names::snapshot_at(&found, travel).map_err(placed)?;
                LakeTable::at(tables, &found, snapshot)?
            }
        };
        Ok(Some(Arc::new(provider)))
    }

    /// All tables that a statement may name, sorted.
    async fn known(&self, scope: &Scope) -> Result<Vec<TableRef>> {
        let mut known = self.lake.book.names(scope).await?;
        known.extend(system::names(self.lake.book.system.as_ref()));
        known.sort();
        Ok(known)
    }

    async fn not_found(&self, scope: &Scope, table: &TableRef) -> Result<LakeError> {
        Ok(catalog::not_found(table, &self.known(scope).await?))
    }

    pub(crate) async fn execute(
        &self,
        planned: Planned,
    ) -> Result<(Arc<dyn ExecutionPlan>, SendableRecordBatchStream)> {
        let physical = planned.state.query_planner().create_physical_plan(&planned.plan, &planned.state).await;
        let physical = physical.map_err(error::from_datafusion)?;
        let rows = execute_stream(physical.clone(), planned.state.task_ctx()).map_err(error::from_datafusion)?;
        Ok((physical, rows))
    }

    /// Adds what a finished plan has read to the counters.
    pub(crate) fn measure(&mut self, plan: &Arc<dyn ExecutionPlan>) {
        if let Some(metrics) = plan.metrics().filter(|_| plan.name() == "DataSourceExec") {
            let bytes = metrics.sum_by_name("bytes_scanned").map_or(0, |v| v.as_usize());
            // Rows of a VALUES list come from memory and are not counted as read.
            if bytes > 0 {
                self.count("rows_read", metrics.output_rows().unwrap_or(0) as u64);
                self.count("bytes_read", bytes as u64);
            }
        }
        for child in plan.children() {
            self.measure(child);
        }
    }

    async fn stream(
        &mut self,
        mut rows: SendableRecordBatchStream,
        schema: &SchemaRef,
        deliver: bool,
        output: &mut Output,
        sink: &mut dyn ResultSink,
    ) -> Result<()> {
        if deliver {
            return output.stream(rows, schema, sink).await;
        }
        while let Some(batch) = rows.next().await {
            batch.map_err(error::from_datafusion)?;
        }
        Ok(())
    }

    async fn describe(&mut self, scope: &Scope, kind: &Kind) -> Result<RecordBatch> {
        match kind {
            Kind::ShowTables { namespace } => {
                let names = self.known(scope).await?;
                let names: Vec<_> =
                    names.iter().filter(|name| namespace.as_ref().is_none_or(|n| *n == name.namespace)).collect();
                texts(
                    &["namespace", "name"],
                    vec![
                        names.iter().map(|n| Some(n.namespace.to_string())).collect(),
                        names.iter().map(|n| Some(n.name.to_string())).collect(),
                    ],
                )
            }
            Kind::ShowSchemas => {
                let mut namespaces: Vec<NamespaceName> =
                    self.known(scope).await?.into_iter().map(|name| name.namespace).collect();
                namespaces.dedup();
                texts(&["namespace"], vec![namespaces.iter().map(|n| Some(n.to_string())).collect()])
            }
            Kind::Describe { table } if system::is_system(table) => {
                let Some(columns) = system::columns(self.lake.book.system.as_ref(), table) else {
                    return Err(self.not_found(scope, table).await?);
                };
                texts(
                    &["name", "type", "partition"],
                    vec![
                        columns.iter().map(|c| Some(c.name.clone())).collect(),
                        columns.iter().map(|c| Some(c.kind.clone())).collect(),
                        columns.iter().map(|_| None).collect(),
                    ],
                )
            }
            Kind::Describe { table } => {
                let Some(found) = self.lake.book.find(scope, table).await? else {
                    return Err(self.not_found(scope, table).await?);
                };
                let schema = found.metadata.current_schema();
                let columns = types::table_columns(schema);
                let cuts = partition::by_column(schema, found.metadata.default_partition_spec());
                texts(
                    &["name", "type", "partition"],
                    vec![
                        columns.iter().map(|c| Some(c.name.clone())).collect(),
                        columns.iter().map(|c| Some(c.kind.clone())).collect(),
                        columns.iter().map(|c| cuts.get(&c.name).cloned()).collect(),
                    ],
                )
            }
            _ => Err(error::unsupported("this statement gives no rows")),
        }
    }
}

/// Where the text came from, for errors that only have a place in it.
fn name_file(error: &mut LakeError, query: &Query) {
    if let (Some(file), Some((line, _))) = (&query.file, error.place)
        && error.evidence.code.is_empty()
    {
        error.evidence.code.push(pinrail_model::fault::CodePlace {
            file: file.clone(),
            line,
            function: None,
            code: query.text.lines().nth(line.saturating_sub(1) as usize).map(|code| code.trim().to_owned()),
        });
    }
}

/// The declaration of the workflow file, or else the header's; they must not contradict each other.
fn declared(query: &Query, header: &Header, values: &Values) -> Result<Option<Vec<Declared>>> {
    let own = header.writes(values)?;
    let Some(writes) = &query.writes else { return Ok(own) };
    let given: Vec<_> = writes.iter().map(|w| header::declared(w, values)).collect::<Result<_>>()?;
    if let Some(own) = own
        && own.iter().map(|d| &d.writes).ne(given.iter().map(|d| &d.writes))
    {
        return Err(error::user("writes-differ", "the header and the workflow declare different tables or partitions")
            .remedy("Declare what the job writes in one place only."));
    }
    Ok(Some(given))
}

/// A query's plan defines, copies and sets nothing; the parser let only queries through, and this makes sure.
fn refuse_effects(plan: &LogicalPlan) -> Result<()> {
    match plan {
        LogicalPlan::Ddl(_) | LogicalPlan::Dml(_) | LogicalPlan::Copy(_) | LogicalPlan::Statement(_) => {
            Err(error::unsupported("this kind of statement is not supported"))
        }
        other => other.inputs().into_iter().try_for_each(refuse_effects),
    }
}

fn text_column(name: &str) -> Column {
    Column { name: name.to_owned(), kind: "string".to_owned() }
}

fn describe_schema() -> Schema {
    Schema::new(["name", "type", "partition"].map(|name| Field::new(name, DataType::Utf8, true)).to_vec())
}

fn texts(names: &[&str], columns: Vec<Vec<Option<String>>>) -> Result<RecordBatch> {
    let fields: Vec<_> = names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect();
    let arrays = columns.into_iter().map(|column| Arc::new(StringArray::from(column)) as ArrayRef).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
        .map_err(|e| error::platform("query-failed", e.to_string()))
}

/// The last result on its way to the caller.
struct Output {
    limits: QueryLimits,
    format: ResultFormat,
    columns: Vec<Column>,
    rows: u64,
    bytes: u64,
    truncated: bool,
    /// Names that the header gives to the values of the one row, and its line.
    outputs: Option<(u32, Vec<String>)>,
    /// All rows that were seen, also those that the limit cut off.
    seen: u64,
    values: BTreeMap<String, serde_json::Value>,
}

impl Output {
    fn new() -> Self {
        Self {
            limits: QueryLimits::default(),
            format: ResultFormat::Json,
            columns: Vec::new(),
            rows: 0,
            bytes: 0,
            truncated: false,
            outputs: None,
            seen: 0,
            values: BTreeMap::new(),
        }
    }

    async fn stream(
        &mut self,
        mut rows: SendableRecordBatchStream,
        schema: &SchemaRef,
        sink: &mut dyn ResultSink,
    ) -> Result<()> {
        self.columns = types::result_columns(schema);
        let plain = results::plain_schema(schema);
        let (mut encoder, head) = Encoder::begin(&plain, &self.columns, self.format)?;
        sink.chunk(head).await?;
        while let Some(batch) = rows.next().await {
            let batch = batch.map_err(error::from_datafusion)?;
            if !self.batch(&mut encoder, &batch, sink).await? {
                break;
            }
        }
        sink.chunk(encoder.finish()?).await
    }

    async fn whole(&mut self, batch: &RecordBatch, sink: &mut dyn ResultSink) -> Result<()> {
        self.columns = types::result_columns(&batch.schema());
        let plain = results::plain_schema(&batch.schema());
        let (mut encoder, head) = Encoder::begin(&plain, &self.columns, self.format)?;
        sink.chunk(head).await?;
        self.batch(&mut encoder, batch, sink).await?;
        sink.chunk(encoder.finish()?).await
    }

    /// Delivers a batch as far as the limit allows; whether more is wanted.
    async fn batch(&mut self, encoder: &mut Encoder, batch: &RecordBatch, sink: &mut dyn ResultSink) -> Result<bool> {
        let rows = batch.num_rows() as u64;
        let left = self.limits.rows.map_or(u64::MAX, |limit| limit.saturating_sub(self.rows));
        self.truncated |= rows > left;
        let batch = crate::cast::plain(&results::first_rows(batch, left), encoder.schema())?;
        if self.seen == 0 && rows > 0 && self.outputs.is_some() {
            self.take_outputs(&batch)?;
        }
        self.seen += rows;
        if batch.num_rows() > 0 {
            let bytes = encoder.batch(&batch)?;
            let after = self.bytes + bytes.len() as u64;
            if self.limits.bytes.is_some_and(|limit| after > limit) {
                self.truncated = true;
                return Ok(false);
            }
            sink.chunk(bytes).await?;
            (self.bytes, self.rows) = (after, self.rows + batch.num_rows() as u64);
        }
        Ok(!self.truncated)
    }

    fn take_outputs(&mut self, batch: &RecordBatch) -> Result<()> {
        let Some((line, names)) = &self.outputs else { return Ok(()) };
        if names.len() != batch.num_columns() {
            return Err(error::user(
                "output-invalid",
                format!(
                    "the header names {} outputs, but the SELECT gives {} columns",
                    names.len(),
                    batch.num_columns()
                ),
            )
            .at(*line, 1));
        }
        if batch.num_rows() > 0 {
            let values = results::row_values(batch, 0)?;
            self.values = names.iter().cloned().zip(values).collect();
        }
        Ok(())
    }

    fn check_outputs(&self) -> Result<()> {
        match &self.outputs {
            Some((line, names)) if self.seen != 1 => {
                let found =
                    if self.truncated || self.seen > 1 { "more than one".to_owned() } else { self.seen.to_string() };
                Err(error::data(
                    "output-invalid",
                    format!("output \"{}\" needs exactly one row, but there are {found}", names.join(", ")),
                )
                .at(*line, 1))
            }
            _ => Ok(()),
        }
    }
}
