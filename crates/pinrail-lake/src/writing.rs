//! What each writing statement means to its table: which rows go where, which files they replace, who may.
//!
//! Not responsible for making it true: a [`Proposal`] goes to the catalog, which stages or publishes it.
//!
//! Invariants:
//! - a job that declares what it writes writes nothing else, and no row outside of its partition;
//! - what a job declares is replaced by the first write of its attempt, unless it said `append`;
//! - a SELECT with declared rows may add columns to its table, but neither drop nor retype one.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema as ArrowSchema, SchemaRef as ArrowSchemaRef};
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast::{Expr, Ident, Query as SqlQuery, SelectItem, SetExpr};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use futures::StreamExt;
use iceberg::spec::{NestedField, NestedFieldRef, PrimitiveType, Schema, TableMetadata, Transform, Type};
use pinrail_model::ids::TableId;
use pinrail_model::names::{NamespaceName, TableRef};
use pinrail_model::near::nearest;
use pinrail_model::seam::lake::{Intent, LakeError, WriteMode};

use crate::cast::{self, Fitting, Source};
use crate::catalog::Scope;
use crate::commit::{self, Base, Change, Proposal, Shape};
use crate::engine::{Fate, Planned, Run};
use crate::error::{self, Result};
use crate::partition::{self, Cut, Partition};
use crate::sql::explain::shortened;
use crate::sql::header::{self, Declared};
use crate::sql::parse::{InsertInto, Kind};
use crate::system;
use crate::tables::Table;
use crate::types::{self, FieldIds};
use crate::write::{self, Destination, Written};

/// What stands under a name when a statement wants to write there.
struct Ground {
    /// The table that the statement sees.
    table: Option<Table>,
    /// What the new state is made from: the table, or what the attempt has dropped.
    base: Option<Base>,
    id: TableId,
}

/// How the rows of a query become rows of a table.
struct Rows {
    planned: Planned,
    fitting: Fitting,
}

/// Which files a write replaces.
enum Replaces {
    Nothing,
    /// There is no table, and nobody else may make it meanwhile.
    Absence,
    /// Naming none means the whole table.
    Partitions(Vec<Partition>),
    /// Those partitions that get rows.
    Touched,
}

impl Run<'_> {
    pub(crate) async fn write_statement(&mut self, scope: &Scope, kind: Kind) -> Result<()> {
        match kind {
            Kind::CreateSchema => Ok(()),
            Kind::DropSchema { namespace, if_exists } => self.drop_schema(scope, &namespace, if_exists).await,
            Kind::DropTable { tables, if_exists } => {
                for table in tables {
                    self.drop_table(scope, &table, if_exists).await?;
                }
                Ok(())
            }
            Kind::Truncate { table } => self.truncate(scope, table).await,
            Kind::Insert(insert) => self.insert(scope, *insert).await,
            Kind::CreateTable { table, or_replace, if_not_exists, cuts, columns } => {
                if !self.may_create(scope, &table, or_replace, if_not_exists).await? {
                    return Ok(());
                }
                let schema = Schema::builder().with_fields(columns).build().map_err(|e| invalid_columns(&e))?;
                let replaces = if or_replace { Replaces::Partitions(Vec::new()) } else { Replaces::Nothing };
                self.create(scope, table, (schema, &cuts), None, replaces).await
            }
            Kind::CreateTableAs { table, or_replace, if_not_exists, cuts, query } => {
                if !self.may_create(scope, &table, or_replace, if_not_exists).await? {
                    return Ok(());
                }
                let Some(planned) = self.plan_query(scope, query).await? else {
                    self.made.made(table.clone(), None);
                    self.wrote(&table);
                    return Ok(());
                };
                let schema = schema_of(planned.table_schema()?.as_ref(), &mut FieldIds::after(0))?;
                let replaces = if or_replace { Replaces::Partitions(Vec::new()) } else { Replaces::Absence };
                self.create(scope, table, (schema, &cuts), Some(planned), replaces).await
            }
            _ => Err(error::unsupported("this statement writes nothing")),
        }
    }

    async fn ground(&self, scope: &Scope, name: &TableRef) -> Result<Ground> {
        let book = &self.lake.book;
        let table = book.own(scope, name).await?;
        let id = table.as_ref().map_or_else(|| book.new_id(scope, name), |table| table.id);
        let base = match (&table, scope.overlay(name).and_then(|overlay| overlay.base.clone())) {
            (Some(table), _) => Some(Base::from(table)),
            (None, Some(location)) => Some(Base { metadata: book.tables.metadata(&location).await?, location }),
            (None, None) => None,
        };
        Ok(Ground { table, base, id })
    }

    /// A table that must exist; none only in a check.
    async fn existing(&self, scope: &Scope, name: &TableRef) -> Result<Option<Ground>> {
        let ground = self.ground(scope, name).await?;
        if ground.table.is_some() {
            return Ok(Some(ground));
        }
        if self.dry {
            return Ok(None);
        }
        Err(self.lake.book.cannot_write(scope, name).await?)
    }

    /// What the job declared about a table; an error if it declared others only.
    fn allowance(&self, scope: &Scope, table: &TableRef) -> Result<Option<Declared>> {
        system::refuse_write(table)?;
        let from_view = scope.attempt.as_ref().map(|attempt| attempt.writes.as_slice()).unwrap_or_default();
        let declared: Vec<Declared> = match &self.declared {
            Some(declared) => declared.clone(),
            None => from_view.iter().map(|w| header::declared(w, &Default::default())).collect::<Result<_>>()?,
        };
        if declared.is_empty() {
            return Ok(None);
        }
        match declared.iter().find(|d| d.writes.table == *table) {
            Some(found) => Ok(Some(found.clone())),
            None => {
                let names: Vec<_> = declared.iter().map(|d| d.writes.table.to_string()).collect();
                Err(error::user(
                    "write-not-declared",
                    format!("table \"{table}\" is not among the tables that this job writes"),
                )
                .remedy(format!("The job declares {}; add the table there.", names.join(", "))))
            }
        }
    }

    /// Whole-table statements need the whole table.
    fn allowed_whole(&self, scope: &Scope, table: &TableRef, what: &str) -> Result<()> {
        match self.allowance(scope, table)? {
            Some(declared) if !declared.partition.is_empty() => Err(error::user(
                "write-not-declared",
                format!("{what} of table \"{table}\" is refused: the job owns one partition of it"),
            )
            .remedy("Declare the whole table, or write the partition only.")),
            _ => Ok(()),
        }
    }

    async fn may_create(&self, scope: &Scope, table: &TableRef, or_replace: bool, if_not_exists: bool) -> Result<bool> {
        self.allowed_whole(scope, table, "making")?;
        let exists = match self.made.get(table) {
            // Not known to the last column, but something writes it.
            Some(Fate::Made(_)) => true,
            Some(Fate::Dropped) => false,
            None => self.lake.book.own(scope, table).await?.is_some(),
        };
        if exists && !or_replace && !if_not_exists {
            return Err(error::user("table-exists", format!("table \"{table}\" exists already"))
                .remedy("Write CREATE TABLE IF NOT EXISTS or CREATE OR REPLACE TABLE."));
        }
        Ok(!exists || or_replace)
    }

    /// Makes or replaces a table, empty or with the rows of a query.
    async fn create(
        &mut self,
        scope: &Scope,
        name: TableRef,
        (schema, cuts): (Schema, &[Cut]),
        planned: Option<Planned>,
        replaces: Replaces,
    ) -> Result<()> {
        let ground = self.ground(scope, &name).await?;
        let schema = match &ground.base {
            Some(base) => with_old_ids(&schema, &base.metadata)?,
            None => schema,
        };
        let spec = partition::spec(cuts, &schema)?;
        let width = planned.as_ref().map_or(0, |planned| planned.schema().fields().len());
        let rows = match planned {
            Some(planned) => Some(Rows {
                planned,
                fitting: Fitting {
                    sources: (0..width).map(Source::Column).collect(),
                    schema: types::written_schema(&schema)?,
                },
            }),
            None => None,
        };
        self.wrote(&name);
        if self.dry {
            self.made.made(name, Some(types::query_schema(&schema)?));
            return Ok(());
        }
        let replaces = if ground.base.is_some() { Replaces::Partitions(Vec::new()) } else { replaces };
        let shape = Shape { schema, spec: Some(spec) };
        self.write(scope, name, ground, Some(shape), rows, replaces).await
    }

    async fn drop_table(&mut self, scope: &Scope, name: &TableRef, if_exists: bool) -> Result<()> {
        self.allowed_whole(scope, name, "dropping")?;
        if self.dry {
            self.made.dropped(name.clone());
            self.wrote(name);
            return Ok(());
        }
        match self.lake.book.own(scope, name).await? {
            Some(table) => {
                self.lake.book.drop_table(scope, &table).await?;
                self.wrote(name);
                Ok(())
            }
            None if if_exists => Ok(()),
            None => Err(self.lake.book.cannot_write(scope, name).await?),
        }
    }

    async fn drop_schema(&self, scope: &Scope, namespace: &NamespaceName, if_exists: bool) -> Result<()> {
        let tables = self.lake.book.own_names(scope).await?;
        let inside: Vec<_> = tables.iter().filter(|t| t.namespace == *namespace).map(ToString::to_string).collect();
        if inside.is_empty() {
            if if_exists || self.dry {
                return Ok(());
            }
            return Err(error::user("schema-not-found", format!("schema \"{namespace}\" not found"))
                .remedy("A schema exists as long as it has a table."));
        }
        Err(error::user("schema-not-empty", format!("schema \"{namespace}\" has tables: {}", inside.join(", ")))
            .remedy("Drop its tables; the schema goes with the last one."))
    }

    async fn truncate(&mut self, scope: &Scope, name: TableRef) -> Result<()> {
        self.allowed_whole(scope, &name, "truncating")?;
        self.wrote(&name);
        let Some(ground) = self.existing(scope, &name).await? else { return Ok(()) };
        if self.dry {
            return Ok(());
        }
        self.write(scope, name, ground, None, None, Replaces::Partitions(Vec::new())).await
    }

    async fn insert(&mut self, scope: &Scope, insert: InsertInto) -> Result<()> {
        let allowance = self.allowance(scope, &insert.table)?;
        self.wrote(&insert.table);
        let known = match self.made.get(&insert.table) {
            // Made by this very text, which is only checked.
            Some(_) => None,
            None => self.existing(scope, &insert.table).await?,
        };
        let planned = self.plan_query(scope, insert.query.clone()).await?;
        let (Some(ground), Some(planned)) = (known, planned) else { return Ok(()) };
        let Some(table) = ground.table.clone() else { return Ok(()) };
        let schema = table.metadata.current_schema().clone();
        let written = types::written_schema(&schema)?;
        let mut constants = Vec::new();
        let mut dynamic = insert.partition.is_empty();
        for (column, value) in &insert.partition {
            let field = field_of(&schema, column, &insert.table)?;
            identity_field(&table.metadata, &field, &insert.table)?;
            match value {
                None => dynamic = true,
                Some(value) => {
                    let value = self.constant(scope, value).await?;
                    constants.push((
                        field.name.clone(),
                        cast::scalar(&value, arrow_kind(&written, &field.name)?, &field.name)?,
                    ));
                }
            }
        }
        let mut sources = insert_sources(&insert, &schema, &planned.schema(), &constants)?;
        let owned = own_partition(allowance.as_ref(), &table.metadata, &written, &insert.table)?;
        restrict(&mut sources, &written, &owned)?;
        let rows = Rows { planned, fitting: Fitting { sources, schema: written } };
        if self.dry {
            return check_kinds(&rows);
        }
        let partitioned = !table.metadata.default_partition_spec().is_unpartitioned();
        let replaces = if insert.overwrite {
            match (partitioned, dynamic) {
                (false, _) => Replaces::Partitions(Vec::new()),
                (true, true) => Replaces::Touched,
                (true, false) => Replaces::Partitions(vec![named(&table.metadata, &constants)?]),
            }
        } else {
            first_replacement(scope, allowance.as_ref(), &table, &owned)?
        };
        self.write(scope, insert.table, ground, None, Some(rows), replaces).await
    }

    /// The value of a constant expression, by the engine's own arithmetic.
    async fn constant(&mut self, scope: &Scope, expr: &Expr) -> Result<ScalarValue> {
        let query = Parser::new(&GenericDialect {})
            .try_with_sql("SELECT NULL")
            .and_then(|mut parser| parser.parse_query())
            .map_err(|e| error::user("sql-syntax", error::tidy(&e.to_string())))?;
        let query = with_item(query, expr.clone());
        let planned = self.plan_query(scope, query).await?;
        let planned = planned.ok_or_else(|| error::user("sql-syntax", format!("\"{expr}\" is not a constant")))?;
        let (_, mut rows) = self.execute(planned).await?;
        match rows.next().await {
            Some(Ok(batch)) if batch.num_rows() == 1 => {
                let value = ScalarValue::try_from_array(batch.column(0), 0).map_err(error::from_datafusion)?;
                if value.is_null() {
                    return Err(error::user("sql-invalid", "the value of a partition cannot be NULL"));
                }
                Ok(value)
            }
            Some(Err(e)) => Err(error::from_datafusion(e)),
            _ => Err(error::user("sql-syntax", format!("\"{expr}\" is not a constant"))),
        }
    }

    /// The rows of a single SELECT, written to where the job says. Planned is none only in a check.
    pub(crate) async fn write_declared(
        &mut self,
        scope: &Scope,
        declared: &Declared,
        planned: Option<Planned>,
    ) -> Result<()> {
        let name = declared.writes.table.clone();
        self.wrote(&name);
        let Some(planned) = planned else { return Ok(()) };
        // The attempt's own declaration may be narrower than the text's.
        self.allowance(scope, &name)?;
        let ground = self.ground(scope, &name).await?;
        let given = planned.table_schema()?;
        let values: Vec<(String, ScalarValue)> = declared
            .partition
            .iter()
            .map(|(column, value)| Ok((column.clone(), header::scalar(value, column)?)))
            .collect::<Result<_>>()?;
        let (shape, schema) = match &ground.table {
            None => {
                let mut ids = FieldIds::after(0);
                let schema = first_schema(&given, &values, &mut ids)?;
                let schema = match &ground.base {
                    Some(base) => with_old_ids(&schema, &base.metadata)?,
                    None => schema,
                };
                let cuts: Vec<_> = values.iter().map(|(column, _)| Cut::identity(column.clone())).collect();
                let spec = partition::spec(&cuts, &schema)?;
                (Some(Shape { schema: schema.clone(), spec: Some(spec) }), Arc::new(schema))
            }
            Some(table) => match evolved(table, &given, &values)? {
                Some(schema) => (Some(Shape { schema: schema.clone(), spec: None }), Arc::new(schema)),
                None => (None, table.metadata.current_schema().clone()),
            },
        };
        let written = types::written_schema(&schema)?;
        let owned: Vec<(String, ScalarValue)> = values
            .into_iter()
            .map(|(column, value)| {
                let value = cast::scalar(&value, arrow_kind(&written, &column)?, &column)?;
                Ok((column, value))
            })
            .collect::<Result<_>>()?;
        let mut sources = by_name(&schema, &given);
        restrict(&mut sources, &written, &owned)?;
        let rows = Rows { planned, fitting: Fitting { sources, schema: written } };
        if self.dry {
            self.made.made(name, Some(types::query_schema(&schema)?));
            return check_kinds(&rows);
        }
        let replaces = match declared.writes.mode {
            WriteMode::Append => Replaces::Nothing,
            WriteMode::Replace if owned.is_empty() => Replaces::Partitions(Vec::new()),
            WriteMode::Replace => Replaces::Partitions(vec![named_in(&schema, &owned)?]),
        };
        self.write(scope, name, ground, shape, Some(rows), replaces).await
    }

    /// Writes the rows, finds what they replace, and hands the whole to the catalog.
    async fn write(
        &mut self,
        scope: &Scope,
        name: TableRef,
        ground: Ground,
        shape: Option<Shape>,
        rows: Option<Rows>,
        replaces: Replaces,
    ) -> Result<()> {
        let book = &self.lake.book;
        let batch = book.store().begin();
        let folder = book.folder(&scope.project, ground.id);
        let now_ms = book.clock.now().wall.0.div_euclid(1_000);
        let shaped = commit::shaped(ground.base.as_ref(), &folder, shape.as_ref(), now_ms)?;
        let (schema, spec) = (shaped.current_schema().clone(), shaped.default_partition_spec().clone());
        // A new table's ids are the library's: nested fields may have got others than they had here.
        let shape = shape.map(|shape| match ground.base {
            Some(_) => shape,
            None => Shape { schema: schema.as_ref().clone(), spec: Some(spec.as_ref().clone().into_unbound()) },
        });
        let attempt = scope.attempt.as_ref().map(|attempt| attempt.attempt.to_string());
        let written = match rows {
            None => Written::default(),
            Some(rows) => {
                let destination = Destination {
                    schema: schema.clone(),
                    spec,
                    folder: format!("{folder}/data/{}", attempt.as_deref().unwrap_or("adhoc")),
                    batch: &batch,
                    ids: book.ids.as_ref(),
                };
                let (plan, stream) = self.execute(rows.planned).await?;
                let fitting = Fitting { sources: rows.fitting.sources, schema: types::written_schema(&schema)? };
                let written = write::write(&destination, &fitting, stream).await?;
                // The names of data files are durable before any manifest has them.
                batch.settle().await?;
                self.measure(&plan);
                written
            }
        };
        self.count("rows_written", written.rows);
        self.count("bytes_written", written.bytes);
        self.count("files_written", written.files.len() as u64);
        let book = &self.lake.book;
        let base = ground.base.as_ref().map(|base| base.metadata.as_ref());
        let (intent, partitions) = match replaces {
            Replaces::Nothing => (Intent::Changes, None),
            Replaces::Absence => (Intent::New, None),
            Replaces::Partitions(partitions) => {
                (Intent::Overwrite { partitions: partitions.clone() }, Some(partitions))
            }
            Replaces::Touched => {
                let mut touched: Vec<Partition> = Vec::new();
                for new in &written.files {
                    let Some(metadata) = base else { continue };
                    let partition = commit::partition_of(metadata, new.spec_id, &new.file);
                    if !touched.contains(&partition) {
                        touched.push(partition);
                    }
                }
                // Nothing written replaces nothing; an empty list would mean everything.
                if touched.is_empty() {
                    (Intent::Changes, None)
                } else {
                    (Intent::Overwrite { partitions: touched.clone() }, Some(touched))
                }
            }
        };
        let removed = match (partitions, base) {
            (Some(partitions), Some(metadata)) => commit::files_among(&book.tables, metadata, &partitions).await?,
            _ => Default::default(),
        };
        let change = Change { added: written.files, removed };
        let proposal = Proposal { table: name, base: ground.base, shape, change, intent };
        book.accept(scope, ground.id, proposal, &batch).await
    }
}

fn invalid_columns(error: &iceberg::Error) -> LakeError {
    error::user("sql-invalid", format!("the table's columns are not valid: {}", error.message()))
}

/// `SELECT expr`, from a parsed `SELECT NULL`.
fn with_item(mut query: Box<SqlQuery>, expr: Expr) -> Box<SqlQuery> {
    if let SetExpr::Select(select) = query.body.as_mut() {
        select.projection = vec![SelectItem::UnnamedExpr(expr)];
    }
    query
}

/// The columns of a query's result as columns of a table.
fn schema_of(given: &ArrowSchema, ids: &mut FieldIds) -> Result<Schema> {
    let mut fields: Vec<NestedFieldRef> = Vec::new();
    for field in given.fields() {
        if fields.iter().any(|f| f.name == *field.name()) {
            return Err(error::user(
                "column-ambiguous",
                format!("the SELECT gives two columns named \"{}\"", field.name()),
            )
            .remedy("Name one of them otherwise with AS."));
        }
        fields.push(ids.column(field.name(), |ids| types::from_arrow(field.data_type(), ids))?);
    }
    Schema::builder().with_fields(fields).build().map_err(|e| invalid_columns(&e))
}

/// The schema of a table that a declared SELECT makes: its columns, then the partition's.
fn first_schema(given: &ArrowSchema, values: &[(String, ScalarValue)], ids: &mut FieldIds) -> Result<Schema> {
    let schema = schema_of(given, ids)?;
    let mut fields = schema.as_struct().fields().to_vec();
    for (column, value) in values {
        if !fields.iter().any(|f| f.name == *column) {
            fields.push(ids.column(column, |ids| types::from_arrow(&value.data_type(), ids))?);
        }
    }
    Schema::builder().with_fields(fields).build().map_err(|e| invalid_columns(&e))
}

/// The same columns, those that keep name and type with the ids they had, the others with ids never used before.
fn with_old_ids(schema: &Schema, old: &TableMetadata) -> Result<Schema> {
    let mut ids = FieldIds::after(old.last_column_id());
    let mut fields = Vec::new();
    for field in schema.as_struct().fields() {
        let known = old
            .schemas_iter()
            .filter_map(|s| s.field_by_name(&field.name))
            .find(|f| f.field_type.is_primitive() && f.field_type == field.field_type);
        fields.push(match known {
            Some(known) => NestedField::optional(known.id, &field.name, (*field.field_type).clone()).into(),
            None => {
                let arrow =
                    iceberg::arrow::type_to_arrow_type(&field.field_type).map_err(|e| error::from_iceberg(&e))?;
                ids.column(&field.name, |ids| types::from_arrow(&arrow, ids))?
            }
        });
    }
    Schema::builder().with_fields(fields).build().map_err(|e| invalid_columns(&e))
}

/// A column by name: exactly, then by the only spelling that differs by case.
fn field_of(schema: &Schema, column: &Ident, table: &TableRef) -> Result<NestedFieldRef> {
    let fields = schema.as_struct().fields();
    if let Some(field) = fields.iter().find(|f| f.name == column.value) {
        return Ok(field.clone());
    }
    let mut like = fields.iter().filter(|f| column.quote_style.is_none() && f.name.eq_ignore_ascii_case(&column.value));
    if let (Some(field), None) = (like.next(), like.next()) {
        return Ok(field.clone());
    }
    let error = error::user("column-not-found", format!("column \"{}\" not found in {table}", column.value));
    let error = match nearest(&column.value, fields.iter().map(|f| f.name.as_str())) {
        Some(near) => error.remedy(format!("Did you mean {near}?")),
        None => error.remedy(format!(
            "The columns are {}.",
            shortened(&fields.iter().map(|f| f.name.as_str()).collect::<Vec<_>>())
        )),
    };
    let place = column.span.start;
    Err(error.at(u32::try_from(place.line).unwrap_or(0), u32::try_from(place.column).unwrap_or(0)))
}

fn identity_field(metadata: &TableMetadata, field: &NestedField, table: &TableRef) -> Result<()> {
    let spec = metadata.default_partition_spec();
    if spec.fields().iter().any(|f| f.source_id == field.id && f.transform == Transform::Identity) {
        return Ok(());
    }
    let cuts = partition::describe(metadata.current_schema(), spec);
    let error =
        error::user("partition-mismatch", format!("table \"{table}\" is not partitioned by column \"{}\"", field.name));
    Err(if cuts.is_empty() {
        error.remedy(format!("The table has no partitions; INSERT OVERWRITE {table} SELECT ... replaces all its rows."))
    } else {
        error.remedy(format!("It is partitioned by {}.", cuts.join(", ")))
    })
}

fn arrow_kind<'s>(schema: &'s ArrowSchemaRef, column: &str) -> Result<&'s DataType> {
    let field = schema.field_with_name(column);
    field.map(|f| f.data_type()).map_err(|_| error::user("column-not-found", format!("column \"{column}\" not found")))
}

/// Where each column of the table comes from in an INSERT.
fn insert_sources(
    insert: &InsertInto,
    schema: &Schema,
    given: &ArrowSchema,
    constants: &[(String, ScalarValue)],
) -> Result<Vec<Source>> {
    let fields = schema.as_struct().fields();
    let constant = |name: &str| constants.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
    let open: Vec<&NestedFieldRef> = fields.iter().filter(|f| constant(&f.name).is_none()).collect();
    let targets: Vec<String> = if insert.columns.is_empty() {
        open.iter().map(|f| f.name.clone()).collect()
    } else {
        let mut targets = Vec::new();
        for column in &insert.columns {
            let field = field_of(schema, column, &insert.table)?;
            if targets.contains(&field.name) || constant(&field.name).is_some() {
                return Err(error::user("column-ambiguous", format!("column \"{}\" is given twice", field.name)));
            }
            targets.push(field.name.clone());
        }
        targets
    };
    if targets.len() != given.fields().len() {
        return Err(error::user(
            "column-count",
            format!(
                "the SELECT gives {} columns, but {} are to be written: {}",
                given.fields().len(),
                targets.len(),
                targets.join(", ")
            ),
        )
        .remedy(format!(
            "Give each of them a value, or name those that you give: INSERT INTO {} ({}) ...",
            insert.table,
            targets.iter().take(given.fields().len().max(1)).cloned().collect::<Vec<_>>().join(", ")
        )));
    }
    let source = |field: &NestedFieldRef| match constant(&field.name) {
        Some(value) => Source::Constant(value),
        None => targets.iter().position(|t| *t == field.name).map_or(Source::Null, Source::Column),
    };
    Ok(fields.iter().map(source).collect())
}

/// Where each column of the table comes from in a declared SELECT.
fn by_name(schema: &Schema, given: &ArrowSchema) -> Vec<Source> {
    let fields = schema.as_struct().fields().iter();
    fields.map(|field| position(given, &field.name).map_or(Source::Null, Source::Column)).collect()
}

fn position(given: &ArrowSchema, name: &str) -> Option<usize> {
    given.fields().iter().position(|f| f.name() == name).or_else(|| {
        let mut like = given.fields().iter().enumerate().filter(|(_, f)| f.name().eq_ignore_ascii_case(name));
        match (like.next(), like.next()) {
            (Some((index, _)), None) => Some(index),
            _ => None,
        }
    })
}

/// The partition that the job owns, in the table's types.
fn own_partition(
    allowance: Option<&Declared>,
    metadata: &TableMetadata,
    written: &ArrowSchemaRef,
    table: &TableRef,
) -> Result<Vec<(String, ScalarValue)>> {
    let Some(declared) = allowance else { return Ok(Vec::new()) };
    let mut owned = Vec::new();
    for (column, value) in &declared.partition {
        let field = field_of(metadata.current_schema(), &Ident::new(column), table)?;
        identity_field(metadata, &field, table)?;
        let value = header::scalar(value, column)?;
        owned.push((field.name.clone(), cast::scalar(&value, arrow_kind(written, &field.name)?, &field.name)?));
    }
    Ok(owned)
}

/// Every row must be in the partition that is owned: what is left out gets its value, what is given is checked.
fn restrict(sources: &mut [Source], written: &ArrowSchemaRef, owned: &[(String, ScalarValue)]) -> Result<()> {
    for (source, field) in sources.iter_mut().zip(written.fields()) {
        let Some((column, value)) = owned.iter().find(|(column, _)| column == field.name()) else { continue };
        *source = match source {
            Source::Column(index) | Source::Checked(index, _) => Source::Checked(*index, value.clone()),
            Source::Null => Source::Constant(value.clone()),
            Source::Constant(given) if given == value => Source::Constant(value.clone()),
            Source::Constant(given) => {
                return Err(error::data(
                    "row-outside-partition",
                    format!("the statement writes {column} = {given}, but the job owns {column} = {value}"),
                ));
            }
        };
    }
    Ok(())
}

/// An INSERT INTO of a job that declared to replace begins by emptying what it owns, once in its attempt.
fn first_replacement(
    scope: &Scope,
    allowance: Option<&Declared>,
    table: &Table,
    owned: &[(String, ScalarValue)],
) -> Result<Replaces> {
    match allowance {
        Some(declared) if declared.writes.mode == WriteMode::Replace && scope.overlay(&table.name).is_none() => {
            if owned.is_empty() {
                Ok(Replaces::Partitions(Vec::new()))
            } else {
                Ok(Replaces::Partitions(vec![named(&table.metadata, owned)?]))
            }
        }
        _ => Ok(Replaces::Nothing),
    }
}

/// A partition by its identity columns, as files carry it.
fn named(metadata: &TableMetadata, values: &[(String, ScalarValue)]) -> Result<Partition> {
    named_in(metadata.current_schema(), values)
}

fn named_in(schema: &Schema, values: &[(String, ScalarValue)]) -> Result<Partition> {
    let mut partition = Partition::new();
    for (column, value) in values {
        let field = schema
            .field_by_name(column)
            .ok_or_else(|| error::user("column-not-found", format!("column \"{column}\" not found")))?;
        let array = value.to_array().map_err(error::from_datafusion)?;
        let literals = iceberg::arrow::arrow_primitive_to_literal(&array, &field.field_type);
        let literal = literals.map_err(|e| error::from_iceberg(&e))?.into_iter().next().flatten();
        let json = literal.and_then(|l| l.try_into_json(&field.field_type).ok()).unwrap_or(serde_json::Value::Null);
        partition.insert(column.clone(), json);
    }
    Ok(partition)
}

/// The table's columns with the new ones of a declared SELECT; none if there are no new ones. A column that the SELECT
/// leaves out, or gives in a type that the table's cannot take, is an error that names the statement to run first.
fn evolved(table: &Table, given: &ArrowSchema, values: &[(String, ScalarValue)]) -> Result<Option<Schema>> {
    let schema = table.metadata.current_schema();
    let name = &table.name;
    for (column, _) in values {
        let field = field_of(schema, &Ident::new(column), name)?;
        identity_field(&table.metadata, &field, name)?;
    }
    for field in schema.as_struct().fields() {
        let is_partition = values.iter().any(|(column, _)| *column == field.name);
        let Some(index) = position(given, &field.name) else {
            if is_partition {
                continue;
            }
            return Err(error::user(
                "column-dropped",
                format!("column \"{}\" of table \"{name}\" is not in the SELECT", field.name),
            )
            .remedy(format!("Add it; where it has no values, as null as {}.", field.name)));
        };
        let from = given.field(index).data_type();
        if !is_partition && !widens(from, &field.field_type)? {
            let (old, new) = (types::name(&field.field_type), types::result_name(from));
            return Err(error::user(
                "column-retyped",
                format!("column \"{}\" of table \"{name}\" has type {old}, but the SELECT gives {new}", field.name),
            )
            .remedy(format!("Cast it to {old}, or write to a new table.")));
        }
    }
    let mut ids = FieldIds::after(table.metadata.last_column_id());
    let known = |column: &str| schema.as_struct().fields().iter().any(|f| f.name.eq_ignore_ascii_case(column));
    let new: Vec<_> = given
        .fields()
        .iter()
        .filter(|f| !known(f.name()))
        .map(|f| ids.column(f.name(), |ids| types::from_arrow(f.data_type(), ids)))
        .collect::<Result<_>>()?;
    if new.is_empty() {
        return Ok(None);
    }
    let fields = schema.as_struct().fields().iter().cloned().chain(new);
    Schema::builder().with_fields(fields).build().map(Some).map_err(|e| invalid_columns(&e))
}

/// Whether every value of the query's type is one of the column's.
fn widens(from: &DataType, to: &Type) -> Result<bool> {
    if matches!(from, DataType::Null) {
        return Ok(true);
    }
    let from = types::from_arrow(from, &mut FieldIds::after(0))?;
    let (Type::Primitive(from), Type::Primitive(to)) = (&from, to) else {
        return Ok(types::name(&from) == types::name(to));
    };
    Ok(match (from, to) {
        (from, to) if from == to => true,
        (PrimitiveType::Int, PrimitiveType::Long | PrimitiveType::Double)
        | (PrimitiveType::Float, PrimitiveType::Double) => true,
        (PrimitiveType::Int, PrimitiveType::Decimal { precision, scale }) => precision - scale >= 10,
        (PrimitiveType::Long, PrimitiveType::Decimal { precision, scale }) => precision - scale >= 19,
        (PrimitiveType::Decimal { precision: p1, scale: s1 }, PrimitiveType::Decimal { precision: p2, scale: s2 }) => {
            s1 <= s2 && p1 - s1 <= p2 - s2
        }
        (PrimitiveType::Date, PrimitiveType::Timestamp) => true,
        _ => false,
    })
}

/// In a check: whether every column can take what it is given at all.
fn check_kinds(rows: &Rows) -> Result<()> {
    let given = rows.planned.schema();
    for (source, field) in rows.fitting.sources.iter().zip(rows.fitting.schema.fields()) {
        if let Source::Column(index) | Source::Checked(index, _) = source {
            let nothing = crate::cast::empty(given.field(*index).data_type());
            cast::exact(&nothing, field.data_type(), field.name())?;
        }
    }
    Ok(())
}
