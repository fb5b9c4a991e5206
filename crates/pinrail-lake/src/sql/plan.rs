//! From a query to DataFusion's logical plan: our tables, DataFusion's functions, nothing else.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::{TableFunctionArgs, TableProvider};
use datafusion::common::{DFSchema, TableReference};
use datafusion::config::ConfigOptions;
use datafusion::datasource::cte_worktable::CteWorkTable;
use datafusion::datasource::provider_as_source;
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner, TypePlanner};
use datafusion::logical_expr::{AggregateUDF, Expr, HigherOrderUDF, LogicalPlan, ScalarUDF, TableSource, WindowUDF};
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::planner::{ParserOptions, SqlToRel};
use datafusion::sql::sqlparser::ast::Statement as Ast;
use pinrail_model::near::nearest;

use super::names::FILE_FUNCTIONS;
use crate::error;

/// Tables by the name that the statement has for them.
pub(crate) type Providers = HashMap<String, Arc<dyn TableProvider>>;

/// Plans a query whose names have been folded and spelt.
pub(crate) fn plan(state: &SessionState, providers: &Providers, ast: Ast) -> DfResult<LogicalPlan> {
    let context = Context { state, providers };
    let options = ParserOptions::new()
        .with_parse_float_as_decimal(true)
        .with_enable_ident_normalization(false)
        .with_collect_spans(true)
        .with_map_string_types_to_utf8view(false);
    SqlToRel::new_with_options(&context, options).statement_to_plan(DfStatement::Statement(Box::new(ast)))
}

/// How a table reference is spelt as a key of [`Providers`].
pub(crate) fn key(reference: &TableReference) -> String {
    match reference.schema() {
        Some(schema) => format!("{schema}.{}", reference.table()),
        None => reference.table().to_owned(),
    }
}

struct Context<'a> {
    state: &'a SessionState,
    providers: &'a Providers,
}

impl ContextProvider for Context<'_> {
    fn get_table_source(&self, name: TableReference) -> DfResult<Arc<dyn TableSource>> {
        match self.providers.get(&key(&name)) {
            Some(provider) => Ok(provider_as_source(provider.clone())),
            None => Err(DataFusionError::Plan(format!("table \"{name}\" not found"))),
        }
    }

    fn get_table_function_source(&self, name: &str, args: Vec<Expr>) -> DfResult<Arc<dyn TableSource>> {
        let function = self.state.table_functions().get(name);
        let missing = || {
            let known = self.state.table_functions().keys().map(String::as_str).chain(FILE_FUNCTIONS);
            let error = error::user("function-not-found", format!("table function \"{name}\" does not exist"));
            error::into_datafusion(match nearest(name, known) {
                Some(near) => error.remedy(format!("Did you mean {near}?")),
                None => error.remedy(format!("Functions that read files are {}.", FILE_FUNCTIONS.join(", "))),
            })
        };
        let function = function.ok_or_else(missing)?;
        let empty = DFSchema::empty();
        let simplify = datafusion::optimizer::simplify_expressions::SimplifyContext::builder()
            .with_config_options(Arc::clone(self.state.config_options()))
            .build();
        let simplifier = datafusion::optimizer::simplify_expressions::ExprSimplifier::new(simplify);
        let args = args.into_iter().map(|arg| simplifier.coerce(arg, &empty).and_then(|e| simplifier.simplify(e)));
        let args: Vec<_> = args.collect::<DfResult<_>>()?;
        let provider = function.create_table_provider_with_args(TableFunctionArgs::new(&args, self.state))?;
        Ok(provider_as_source(provider))
    }

    fn create_cte_work_table(&self, name: &str, schema: SchemaRef) -> DfResult<Arc<dyn TableSource>> {
        Ok(provider_as_source(Arc::new(CteWorkTable::new(name, schema))))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        self.state.expr_planners()
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        None
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.state.scalar_functions().get(name).cloned()
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.state.higher_order_functions().get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.state.aggregate_functions().get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.state.window_functions().get(name).cloned()
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        self.state.config_options()
    }

    fn udf_names(&self) -> Vec<String> {
        self.state.scalar_functions().keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        self.state.higher_order_functions().keys().cloned().collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.state.aggregate_functions().keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.state.window_functions().keys().cloned().collect()
    }
}
