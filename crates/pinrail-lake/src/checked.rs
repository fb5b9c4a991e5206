//! Whole-number arithmetic and sums that fail where a result does not fit, instead of wrapping around to a wrong one.
//!
//! DataFusion's own `+ - *` and `sum` wrap silently. The operators are replaced in the analysed plan, before anything is
//! folded or run; `sum` is an aggregate function of the same name.
//!
//! Not responsible for decimals in operators, division and casts: those fail by themselves. A sum over distinct values
//! within a moving window frame is the engine's own.
//!
//! Invariant: names of columns and types of results are those of the engine.

use std::any::type_name;
use std::mem::size_of_val;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowNativeTypeOp, ArrowNumericType, AsArray, BooleanArray, PrimitiveArray};
use arrow::buffer::NullBuffer;
use arrow::compute::kernels::numeric::{add, mul, neg, sub};
use arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, DecimalType, Field, FieldRef, Int64Type, UInt64Type,
};
use arrow::error::ArrowError;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::functions_aggregate::sum::Sum as EngineSum;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, merge_schema};
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, BinaryExpr, ColumnarValue, EmitTo, Expr, ExprSchemable, GroupsAccumulator,
    LogicalPlan, Operator, ReturnFieldArgs, ReversedUDAF, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::physical_expr_common::datum::apply;
use datafusion::scalar::ScalarValue;

use crate::error::{self, into_datafusion};
use crate::types::result_name;

/// Puts checked operators into a plan whose types are known.
#[derive(Debug)]
pub(crate) struct CheckArithmetic;

impl AnalyzerRule for CheckArithmetic {
    fn name(&self) -> &str {
        "check_arithmetic"
    }

    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> DfResult<LogicalPlan> {
        plan.transform_up_with_subqueries(checked_plan).map(|plan| plan.data)
    }
}

fn checked_plan(plan: LogicalPlan) -> DfResult<Transformed<LogicalPlan>> {
    let schema = merge_schema(&plan.inputs());
    let names = NamePreserver::new(&plan);
    let checked = plan.map_expressions(|expr| {
        let name = names.save(&expr);
        let expr = expr.transform_up(|expr| {
            let (operation, args) = match expr {
                Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                    let operation = Operation::of(op);
                    match operation.filter(|_| left.get_type(&schema).is_ok_and(|kind| kind.is_integer())) {
                        // Operands of two types are made equal before; where they are not, it is no arithmetic of ours.
                        Some(operation) if left.get_type(&schema)? == right.get_type(&schema)? => {
                            (operation, vec![*left, *right])
                        }
                        _ => return Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right }))),
                    }
                }
                Expr::Negative(inner) if inner.get_type(&schema).is_ok_and(|kind| kind.is_integer()) => {
                    (Operation::Negate, vec![*inner])
                }
                other => return Ok(Transformed::no(other)),
            };
            let function = Arc::new(ScalarUDF::new_from_impl(Arithmetic::new(operation)));
            Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(function, args))))
        })?;
        Ok(expr.update_data(|expr| name.restore(expr)))
    })?;
    if checked.transformed { checked.map_data(LogicalPlan::recompute_schema) } else { Ok(checked) }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Operation {
    Add,
    Subtract,
    Multiply,
    Negate,
}

impl Operation {
    fn of(operator: Operator) -> Option<Self> {
        match operator {
            Operator::Plus => Some(Self::Add),
            Operator::Minus => Some(Self::Subtract),
            Operator::Multiply => Some(Self::Multiply),
            _ => None,
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract | Self::Negate => "-",
            Self::Multiply => "*",
        }
    }
}

/// One operator over whole numbers of one type.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Arithmetic {
    operation: Operation,
    signature: Signature,
}

impl Arithmetic {
    fn new(operation: Operation) -> Self {
        let operands = if operation == Operation::Negate { 1 } else { 2 };
        Self { operation, signature: Signature::any(operands, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Arithmetic {
    fn name(&self) -> &str {
        self.operation.sign()
    }

    fn schema_name(&self, args: &[Expr]) -> DfResult<String> {
        Ok(match args {
            [left, right] => format!("{} {} {}", left.schema_name(), self.name(), right.schema_name()),
            _ => format!("(- {})", args.iter().map(|arg| arg.schema_name().to_string()).collect::<String>()),
        })
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, kinds: &[DataType]) -> DfResult<DataType> {
        Ok(kinds.first().cloned().unwrap_or(DataType::Null))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> DfResult<FieldRef> {
        let kind = args.arg_fields.first().map_or(DataType::Null, |field| field.data_type().clone());
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), kind, nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let result = match (self.operation, args.args.as_slice()) {
            (Operation::Add, [left, right]) => apply(left, right, add),
            (Operation::Subtract, [left, right]) => apply(left, right, sub),
            (Operation::Multiply, [left, right]) => apply(left, right, mul),
            (_, [one]) => apply(one, one, |one, _| neg(one.get().0)),
            _ => Err(DataFusionError::Internal(format!("\"{}\" has too many operands", self.name()))),
        };
        result.map_err(|e| too_large(e, args.return_field.data_type()))
    }
}

/// The error that says which calculation it was.
fn too_large(error: DataFusionError, kind: &DataType) -> DataFusionError {
    let text = match &error {
        DataFusionError::ArrowError(arrow, _) => match arrow.as_ref() {
            ArrowError::ArithmeticOverflow(text) => text.clone(),
            _ => return error,
        },
        _ => return error,
    };
    let what = text.strip_prefix("Overflow happened on: ").unwrap_or(&text);
    does_not_fit(what, kind)
}

fn does_not_fit(what: &str, kind: &DataType) -> DataFusionError {
    let name = result_name(kind);
    let remedy = match kind {
        DataType::Decimal128(..) => "Sum doubles instead: cast(x as double).",
        _ => "Calculate with decimals instead: cast(x as decimal(38, 0)).",
    };
    into_datafusion(error::data("number-overflow", format!("{what} does not fit into a {name}")).remedy(remedy))
}

/// `sum`, checked where the engine's own wraps around.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Sum {
    engine: EngineSum,
}

/// Calls a generic item with the Arrow type of a sum that is ours.
macro_rules! of_type {
    ($kind:expr, $ours:ident => $made:expr, $other:expr) => {
        match $kind {
            DataType::Int64 => {
                type $ours = Int64Type;
                $made
            }
            DataType::UInt64 => {
                type $ours = UInt64Type;
                $made
            }
            DataType::Decimal128(..) => {
                type $ours = Decimal128Type;
                $made
            }
            _ => $other,
        }
    };
}

impl AggregateUDFImpl for Sum {
    fn name(&self) -> &str {
        self.engine.name()
    }

    fn signature(&self) -> &Signature {
        self.engine.signature()
    }

    fn return_type(&self, kinds: &[DataType]) -> DfResult<DataType> {
        self.engine.return_type(kinds)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> DfResult<Box<dyn Accumulator>> {
        let kind = args.return_field.data_type().clone();
        let distinct = args.is_distinct;
        of_type!(
            &kind,
            T => if distinct {
                Ok(Box::new(Distinct::<T> { values: self.engine.accumulator(args)?, sum: One::new(kind) }))
            } else {
                Ok(Box::new(One::<T>::new(kind)))
            },
            self.engine.accumulator(args)
        )
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> DfResult<Vec<FieldRef>> {
        self.engine.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.engine.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> DfResult<Box<dyn GroupsAccumulator>> {
        let kind = args.return_field.data_type().clone();
        of_type!(&kind, T => Ok(Box::new(Groups::<T>::new(kind))), self.engine.create_groups_accumulator(args))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> DfResult<Box<dyn Accumulator>> {
        if args.is_distinct {
            return self.engine.create_sliding_accumulator(args);
        }
        let kind = args.return_field.data_type().clone();
        of_type!(&kind, T => Ok(Box::new(One::<T>::new(kind))), self.engine.create_sliding_accumulator(args))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.engine.reverse_expr()
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.engine.order_sensitivity()
    }
}

/// Numbers that can be summed up in 128 bits.
trait Wide: ArrowNumericType + std::fmt::Debug + Send {
    fn wide(value: Self::Native) -> i128;
    fn narrow(sum: i128) -> Option<Self::Native>;
}

impl Wide for Int64Type {
    fn wide(value: i64) -> i128 {
        value.into()
    }

    fn narrow(sum: i128) -> Option<i64> {
        sum.try_into().ok()
    }
}

impl Wide for UInt64Type {
    fn wide(value: u64) -> i128 {
        value.into()
    }

    fn narrow(sum: i128) -> Option<u64> {
        sum.try_into().ok()
    }
}

impl Wide for Decimal128Type {
    fn wide(value: i128) -> i128 {
        value
    }

    fn narrow(sum: i128) -> Option<i128> {
        Self::is_valid_decimal_precision(sum, DECIMAL128_MAX_PRECISION).then_some(sum)
    }
}

/// The sum of all rows, or of those in a moving frame.
struct One<T: Wide> {
    sum: i128,
    /// Rows with a value: without any the sum is null.
    rows: u64,
    kind: DataType,
    marker: std::marker::PhantomData<fn() -> T>,
}

impl<T: Wide> One<T> {
    fn new(kind: DataType) -> Self {
        Self { sum: 0, rows: 0, kind, marker: std::marker::PhantomData }
    }

    fn too_large(&self) -> DataFusionError {
        does_not_fit("the sum", &self.kind)
    }

    /// The sum of a batch, and how many rows it is of.
    fn of(&self, values: &PrimitiveArray<T>) -> DfResult<(i128, u64)> {
        let mut sum = 0_i128;
        for value in values.iter().flatten() {
            sum = sum.checked_add(T::wide(value)).ok_or_else(|| self.too_large())?;
        }
        Ok((sum, (values.len() - values.null_count()) as u64))
    }
}

impl<T: Wide> std::fmt::Debug for One<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "One<{}>({})", type_name::<T>(), self.sum)
    }
}

impl<T: Wide> Accumulator for One<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        let (sum, rows) = self.of(values[0].as_primitive::<T>())?;
        self.sum = self.sum.checked_add(sum).ok_or_else(|| self.too_large())?;
        self.rows += rows;
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        self.update_batch(states)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        let (sum, rows) = self.of(values[0].as_primitive::<T>())?;
        self.sum = self.sum.checked_sub(sum).ok_or_else(|| self.too_large())?;
        self.rows -= rows;
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        let sum = match self.rows {
            0 => None,
            _ => Some(T::narrow(self.sum).ok_or_else(|| self.too_large())?),
        };
        ScalarValue::new_primitive::<T>(sum, &self.kind)
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// The sum of distinct values, which the engine collects.
#[derive(Debug)]
struct Distinct<T: Wide> {
    values: Box<dyn Accumulator>,
    sum: One<T>,
}

impl<T: Wide> Accumulator for Distinct<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        self.values.update_batch(values)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        self.values.merge_batch(states)
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        self.values.state()
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        let mut sum = One::<T>::new(self.sum.kind.clone());
        for state in self.values.state()? {
            let lists = state.to_array()?;
            for list in lists.as_list::<i32>().iter().flatten() {
                sum.update_batch(&[list])?;
            }
        }
        sum.evaluate()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.values.size()
    }
}

/// One sum for each group.
#[derive(Debug)]
struct Groups<T: Wide> {
    sums: Vec<T::Native>,
    /// Groups that have had a value: the sums of others are null.
    seen: Vec<bool>,
    kind: DataType,
}

impl<T: Wide> Groups<T> {
    fn new(kind: DataType) -> Self {
        Self { sums: Vec::new(), seen: Vec::new(), kind }
    }
}

impl<T: Wide> GroupsAccumulator for Groups<T> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        count: usize,
    ) -> DfResult<()> {
        let values = values[0].as_primitive::<T>();
        self.sums.resize(count, T::default_value());
        self.seen.resize(count, false);
        let counts = |row: usize| filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
        for (row, group) in groups.iter().copied().enumerate() {
            if values.is_valid(row) && counts(row) {
                let sum = self.sums[group].add_checked(values.value(row));
                self.sums[group] = sum.map_err(|_| does_not_fit("the sum", &self.kind))?;
                self.seen[group] = true;
            }
        }
        Ok(())
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        count: usize,
    ) -> DfResult<()> {
        self.update_batch(values, groups, filter, count)
    }

    fn evaluate(&mut self, emit: EmitTo) -> DfResult<ArrayRef> {
        let (sums, seen) = (emit.take_needed(&mut self.sums), emit.take_needed(&mut self.seen));
        if sums.iter().zip(&seen).any(|(sum, seen)| *seen && T::narrow(T::wide(*sum)).is_none()) {
            return Err(does_not_fit("the sum", &self.kind));
        }
        let sums = PrimitiveArray::<T>::new(sums.into(), Some(NullBuffer::from(seen)));
        Ok(Arc::new(sums.with_data_type(self.kind.clone())))
    }

    fn state(&mut self, emit: EmitTo) -> DfResult<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(emit)?])
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> DfResult<Vec<ArrayRef>> {
        let values = values[0].as_primitive::<T>();
        let counts = |row: usize| filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
        let kept = (0..values.len()).map(|row| values.is_valid(row) && counts(row));
        let nulls = NullBuffer::from_iter(kept);
        let state = PrimitiveArray::<T>::new(values.values().clone(), Some(nulls));
        Ok(vec![Arc::new(state.with_data_type(self.kind.clone()))])
    }

    fn supports_convert_to_state(&self) -> bool {
        true
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<T::Native>() + self.seen.capacity()
    }
}
