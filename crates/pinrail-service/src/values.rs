//! What SQL can name of a run: template values by dotted path, typed, and the partitions that a job declares.

use std::collections::BTreeMap;
use std::sync::Arc;

use pinrail_model::document::{Job, ParamType};
use pinrail_model::seam::lake::{Value as SqlValue, Writes};
use pinrail_model::target::Target;
use pinrail_model::time::{Interval, Micros};
use serde_json::{Value, json};

/// The run that a text is filled in for.
pub(crate) struct Scope<'a> {
    pub ds: &'a str,
    pub interval: Interval,
    pub params: &'a BTreeMap<String, Value>,
    pub param_types: &'a BTreeMap<String, ParamType>,
    pub target: Option<&'a Arc<Target>>,
}

impl Scope<'_> {
    /// The template values; the text's own parameters win over the run's. `upstream` gives job, name and value.
    pub fn values<'a>(
        &self,
        own: &BTreeMap<String, Value>,
        upstream: impl IntoIterator<Item = (&'a str, &'a String, &'a Value)>,
    ) -> BTreeMap<String, SqlValue> {
        let mut values = BTreeMap::from([
            ("ds".to_owned(), SqlValue::Date(self.ds.to_owned())),
            ("interval.start".to_owned(), SqlValue::Timestamp(self.interval.start.0)),
            ("interval.end".to_owned(), SqlValue::Timestamp(self.interval.end.0)),
        ]);
        for (name, value) in self.params.iter().chain(own) {
            values.insert(format!("params.{name}"), typed(value, self.param_types.get(name).copied()));
        }
        values.extend(vars(self.target));
        for (job, name, value) in upstream {
            values.insert(format!("upstream.{job}.{name}"), typed(value, None));
        }
        values
    }
}

/// What a text of a mapped job names: its item, what the item has by name, and its index.
pub(crate) fn of_instance(index: u32, item: &Value) -> BTreeMap<String, SqlValue> {
    let fields = item.as_object().into_iter().flatten();
    let fields = fields.map(|(name, value)| (format!("item.{name}"), typed(value, None)));
    let whole = [("item".to_owned(), typed(item, None)), ("index".to_owned(), typed(&Value::from(index), None))];
    fields.chain(whole).collect()
}

/// The values that a target gives.
pub(crate) fn vars(target: Option<&Arc<Target>>) -> BTreeMap<String, SqlValue> {
    let vars = target.into_iter().flat_map(|target| &target.vars);
    vars.map(|(name, value)| (format!("var.{name}"), typed(value, None))).collect()
}

/// What the workflow file declares that a job writes, its partition templates filled in.
pub(crate) fn declared(job: &Job, ds: &str) -> Vec<Writes> {
    let declared = job.writes.iter().flatten();
    declared
        .filter_map(|writes| {
            let fill = |(column, text): (&String, &String)| (column.clone(), fill(text, ds));
            let partition = writes.partition.iter().map(fill).collect();
            Some(Writes { table: writes.table.parse().ok()?, partition, mode: writes.mode })
        })
        .collect()
}

/// Fills `{{ ds }}` into the partition value of a declaration.
pub(crate) fn fill(text: &str, ds: &str) -> Value {
    let inner = text.trim().strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}")).map(str::trim);
    if inner == Some("ds") { json!(ds) } else { json!(text) }
}

/// A JSON value with the type that a parameter gives it.
pub(crate) fn typed(value: &Value, kind: Option<ParamType>) -> SqlValue {
    match (value, kind) {
        (Value::Null, _) => SqlValue::Null,
        (Value::Bool(value), _) => SqlValue::Boolean(*value),
        (Value::String(text), Some(ParamType::Date)) => SqlValue::Date(text.clone()),
        (Value::String(text), Some(ParamType::Decimal)) => SqlValue::Decimal(text.clone()),
        (Value::String(text), Some(ParamType::Datetime)) => {
            // One without a zone is what it says.
            let bare = || text.parse::<chrono::NaiveDateTime>().ok().map(|at| at.and_utc().timestamp_micros());
            let at = serde_json::from_value::<Micros>(Value::String(text.clone())).ok().map(|at| at.0);
            at.or_else(bare).map_or_else(|| SqlValue::String(text.clone()), SqlValue::Timestamp)
        }
        (Value::String(text), _) => SqlValue::String(text.clone()),
        (Value::Number(number), _) => {
            number.as_i64().map_or_else(|| SqlValue::Double(number.as_f64().unwrap_or(f64::NAN)), SqlValue::Integer)
        }
        (Value::Array(items), _) => SqlValue::List(items.iter().map(|item| typed(item, None)).collect()),
        (Value::Object(_), _) => SqlValue::String(value.to_string()),
    }
}
