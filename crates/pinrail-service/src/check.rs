//! What is wrong with a project's definitions before anything runs: its workflow files, and the SQL of their jobs against
//! the tables as they are and as the jobs above will make them.
//!
//! Not responsible for SQL that a class or function builds while it runs.
//!
//! Invariants:
//! - nothing is run and nothing is kept: tables change while files do not;
//! - what only a run can tell, such as an output of a job above, is no reason to complain.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use pinrail_model::document::{Document, Job, Sha, SqlSource};
use pinrail_model::fault::Fault;
use pinrail_model::names::{JobName, PoolName, ProjectName, TableRef, TargetName};
use pinrail_model::near::nearest;
use pinrail_model::schedule::{self, interval_at};
use pinrail_model::seam::lake::{FileScope, InTurn, LakeError, Query as SqlQuery, View};
use serde_json::Value;

use crate::app::{App, param_types};
use crate::compile::{Compiled, Diagnostic, plain};
use crate::edges::declares;
use crate::problem::Problem;
use crate::tokens::Principal;
use crate::values::{Scope, declared, typed};

/// What is wrong with a text whatever the values are that a run fills in.
const WITHOUT_VALUES: [&str; 12] = [
    "column-not-found",
    "function-not-found",
    "header-invalid",
    "sql-syntax",
    "statement-unsupported",
    "table-not-found",
    "template-filter",
    "template-misplaced",
    "template-syntax",
    "template-undefined",
    "writes-differ",
    "writes-nothing",
];
/// What depends on columns of tables, which a job of another kind may change before.
const BY_TABLES: [&str; 5] = ["cast-failed", "column-ambiguous", "column-count", "column-not-found", "sql-invalid"];

/// The SQL of a job on its way through the engine.
struct Text<'a> {
    job: &'a Job,
    text: String,
    /// A value of it is known only when it runs.
    open: bool,
    /// A job above may write any table.
    above: bool,
}

impl App {
    /// Compiles the workflow files of a bundle, and checks the SQL of their jobs as a target would run it. Needs the SQL
    /// engine for the latter.
    ///
    /// # Errors
    /// When the bundle or the target is not known or the interpreter cannot be run.
    pub async fn check(
        &self,
        principal: &Principal,
        project: &ProjectName,
        (bundle, target): (Sha, Option<&TargetName>),
    ) -> Result<Compiled, Problem> {
        let mut compiled = self.compile(principal, project, bundle).await?;
        self.warn_of_pools(project, &mut compiled).await?;
        let sketches = std::mem::take(&mut compiled.sketches);
        if self.engine.is_none() {
            return Ok(compiled);
        }
        let (root, settings) = self.bundle(project, bundle).await?;
        let target = self.target_of_bundle(project, &settings, target).await?;
        let view = View::now(project.clone(), target);
        let files = self.files_of(project, root.clone(), settings).await?;
        let looked_at = compiled.documents.values().chain(&sketches);
        let documents: Vec<Document> = looked_at.filter_map(|json| Document::read(json).ok()).collect();
        for document in &documents {
            for found in self.check_sql(&view, document, &root, &files).await {
                // Two jobs may have one file.
                let same = |known: &Diagnostic| {
                    (&known.file, known.line, &known.message) == (&found.file, found.line, &found.message)
                };
                if !compiled.diagnostics.iter().any(same) {
                    compiled.diagnostics.push(found);
                }
            }
        }
        Ok(compiled)
    }

    /// Adds a warning for each pool that a job names and nobody has set: its jobs would wait for ever.
    pub(crate) async fn warn_of_pools(&self, project: &ProjectName, compiled: &mut Compiled) -> Result<(), Problem> {
        let with_pools = compiled.documents.values().filter(|json| has_pools(json));
        let documents: Vec<Document> = with_pools.filter_map(|json| Document::read(json).ok()).collect();
        if documents.is_empty() {
            return Ok(());
        }
        let set = self.pools(project).await?;
        let known = || set.iter().map(PoolName::as_str);
        for document in &documents {
            for (job, pool) in document.jobs.iter().flat_map(|job| job.pools.keys().map(move |pool| (job, pool))) {
                if set.contains(pool) {
                    continue;
                }
                let message = format!("job \"{}\" waits for pool \"{pool}\", which is not set", job.name);
                let hint = match nearest(pool.as_str(), known()) {
                    Some(near) => format!("Did you mean \"{near}\"? Otherwise `pinrail pools set {pool} --slots N`."),
                    None => format!("`pinrail pools set {pool} --slots N` sets it."),
                };
                compiled.diagnostics.push(Diagnostic {
                    hint: Some(hint),
                    workflow: Some(document.workflow.to_string()),
                    file: Some(job.source.file.clone()),
                    line: Some(job.source.line),
                    ..plain("warning", "pool-not-set", message)
                });
            }
        }
        Ok(())
    }

    async fn check_sql(&self, view: &View, document: &Document, root: &Path, files: &FileScope) -> Vec<Diagnostic> {
        let (texts, queries) = match self.texts(view, document, root, files) {
            Some(texts) => texts.into_iter().unzip::<_, _, Vec<_>, Vec<_>>(),
            None => return Vec::new(),
        };
        let Some(engine) = &self.engine else { return Vec::new() };
        let checked = engine.check_in_turn(&queries, view).await;
        let wrong = texts.iter().zip(checked).filter_map(|(text, result)| Some((text, result.err()?)));
        let wrong = wrong.filter(|(text, error)| !text.open || WITHOUT_VALUES.contains(&error.code));
        wrong.map(|(text, error)| diagnostic(document, text, error)).collect()
    }

    /// The texts of a workflow's SQL jobs in an order in which they may run. None if there is no interval to run for.
    fn texts<'a>(
        &self,
        view: &View,
        document: &'a Document,
        root: &Path,
        files: &FileScope,
    ) -> Option<Vec<(Text<'a>, InTurn)>> {
        let schedule = document.schedule.as_ref();
        let interval = interval_at(schedule, None, self.now()).ok()?;
        let zone = schedule::zone(schedule::zone_of(schedule)).ok()?;
        let ds = schedule::ds(interval, zone).to_string();
        let params = document.params.iter();
        let params: BTreeMap<String, Value> =
            params.map(|(name, param)| (name.to_string(), param.default.clone().unwrap_or(Value::Null))).collect();
        let types = param_types(document);
        let (mut texts, mut unknown, mut writers): (Vec<_>, Vec<TableRef>, BTreeSet<&JobName>) = Default::default();
        for job in in_order(&document.jobs) {
            let writes = declared(job, &ds);
            let above = job.after.iter().any(|parent| writers.contains(parent));
            let Some(source) = &job.sql else {
                unknown.extend(writes.iter().map(|writes| writes.table.clone()));
                if above || writes.is_empty() {
                    writers.insert(&job.name);
                }
                continue;
            };
            if above {
                writers.insert(&job.name);
            }
            let (text, file) = match source {
                SqlSource::Text(text) => (text.clone(), None),
                // A file that is not there has been told where it is named.
                SqlSource::File(file) => match std::fs::read_to_string(root.join(file)) {
                    Ok(text) => (text, Some(file.clone())),
                    Err(_) => continue,
                },
            };
            let mut given = params.clone();
            given.extend(job.params.clone());
            let scope = Scope { ds: &ds, interval, params: &given, param_types: &types, target: view.target.as_ref() };
            let left: Vec<(&str, String)> = outputs(&text, job);
            let mut values = scope.values(&BTreeMap::new(), left.iter().map(|(job, name)| (*job, name, &Value::Null)));
            // Of a list that is not known yet nothing is known of what its items have.
            let items = paths(&text).filter(|path| job.map.is_some() && is_of_item(path));
            let items: Vec<_> = items.map(|path| (path.to_owned(), typed(&Value::Null, None))).collect();
            let is_open = |name: &str| given.get(name).is_some_and(Value::is_null);
            let open = !left.is_empty()
                || !items.is_empty()
                || paths(&text).any(|path| path.strip_prefix("params.").is_some_and(is_open));
            values.extend(items);
            let writes = Some(writes).filter(|declared| !declared.is_empty());
            let declares_job = declares(job, file.as_deref());
            let query = SqlQuery { text: text.clone(), file, values, files: files.clone(), writes, declares_job };
            texts.push((Text { job, text, open, above }, InTurn { query, unknown: std::mem::take(&mut unknown) }));
        }
        Some(texts)
    }
}

fn has_pools(document: &Value) -> bool {
    document["jobs"].as_array().into_iter().flatten().any(|job| job.get("pools").is_some())
}

/// The jobs, each after those that it waits for.
fn in_order(jobs: &[Job]) -> Vec<&Job> {
    let (mut ordered, mut left): (Vec<&Job>, Vec<&Job>) = (Vec::new(), jobs.iter().collect());
    while !left.is_empty() {
        let waits = |job: &&Job| left.iter().any(|other| job.after.contains(&other.name));
        let (ready, rest): (Vec<_>, Vec<_>) = left.iter().copied().partition(|job| !waits(job));
        if ready.is_empty() {
            return ordered;
        }
        ordered.extend(ready);
        left = rest;
    }
    ordered
}

/// The paths of the templates of a text, also of those in comments.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    text.split("{{").skip(1).filter_map(|rest| rest.split(['}', '|']).next()).map(str::trim)
}

/// Whether a path names something of the item that an instance works on.
fn is_of_item(path: &str) -> bool {
    path == "item" || path == "index" || path.starts_with("item.")
}

/// The outputs of jobs above that a text names: job and name.
fn outputs<'a>(text: &'a str, job: &Job) -> Vec<(&'a str, String)> {
    let output = |path: &'a str| {
        let (parent, name) = path.strip_prefix("upstream.")?.split_once('.')?;
        job.after.iter().any(|known| known.as_str() == parent).then(|| (parent, name.to_owned()))
    };
    paths(text).filter_map(output).collect()
}

fn diagnostic(document: &Document, text: &Text<'_>, error: LakeError) -> Diagnostic {
    let certain = error.fault == Fault::User && !(text.above && BY_TABLES.contains(&error.code));
    of_error(document, text.job, &text.text, error, if certain { "error" } else { "warning" })
}

/// What the engine says of a job's SQL.
pub(crate) fn of_error(document: &Document, job: &Job, text: &str, error: LakeError, level: &str) -> Diagnostic {
    let LakeError { code, evidence, place, .. } = error;
    let found = Diagnostic {
        hint: evidence.remedy,
        workflow: Some(document.workflow.to_string()),
        ..plain(level, code, evidence.message)
    };
    placed(job, text, place, found, false)
}

/// Says where in a job's SQL something is found: in its file, or where the workflow file has the text. Of the latter the
/// message says whose text it is, unless it is about a table and names the job by itself.
pub(crate) fn placed(
    job: &Job,
    text: &str,
    place: Option<(u32, u32)>,
    found: Diagnostic,
    of_table: bool,
) -> Diagnostic {
    let Some(SqlSource::File(file)) = &job.sql else {
        let place = place.map_or_else(String::new, |(line, column)| format!("{line}:{column} of "));
        let message = match of_table {
            false => format!("{place}the SQL of job \"{}\": {}", job.name, found.message),
            true => found.message,
        };
        return Diagnostic { message, file: Some(job.source.file.clone()), line: Some(job.source.line), ..found };
    };
    let (line, column) = place.unwrap_or((1, 1));
    let source = text.lines().nth(line.saturating_sub(1) as usize).map(str::to_owned);
    let width = source.as_ref().map(|source| {
        let rest = source.chars().skip(column.saturating_sub(1) as usize);
        let name = rest.take_while(|c| c.is_alphanumeric() || *c == '_' || (*c == '.' && of_table)).count();
        u32::try_from(name.max(1)).unwrap_or(1)
    });
    Diagnostic { file: Some(file.clone()), line: Some(line), column: Some(column), width, source, ..found }
}
