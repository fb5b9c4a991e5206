//! Edges of compiled workflows: jobs that take theirs from their SQL get them here, and edges and tables must agree.
//!
//! It is done when the workflow files are compiled and before a document is sealed: a document lists all edges, so runs
//! need no SQL to know them, and its version changes when they do.
//!
//! Not responsible for reading SQL, nor for what the findings are (`pinrail_model::tables`).
//!
//! Invariant: what is found depends on the bundle's files alone, never on tables, values of runs or the time.

use std::collections::BTreeMap;
use std::path::Path;

use pinrail_model::document::{Document, Job, JobKind, Source, SqlSource};
use pinrail_model::seam::lake::{LakeError, QueryEngine};
use pinrail_model::tables::{self, Draft, Edge, Finding, JobTables, Outline, Place, Reason};
use serde_json::{Value, json};

use crate::app::param_types;
use crate::check::{of_error, placed};
use crate::compile::{Compiled, Diagnostic, named, plain};
use crate::conditions::mistake;
use crate::subruns;
use crate::values::typed;

/// The mark of a job in what the workflow files print, beside the jobs that it lists.
const AUTO: &str = "auto";
/// Jobs on a cycle that are shown.
const SHOWN_OF_CYCLE: usize = 40;

/// Whether a text is the declaration of its job, whose settings are in its header.
pub(crate) fn declares(job: &Job, file: Option<&str>) -> bool {
    file.is_some_and(|file| job.source.file == file)
}

/// Whether the workflows hold SQL, of which a build without the engine knows nothing.
pub(crate) fn need_engine(compiled: &Compiled) -> bool {
    let jobs = |json: &Value| json["jobs"].as_array().into_iter().flatten().any(|job| job["kind"] == "sql");
    compiled.documents.values().chain(&compiled.sketches).any(jobs)
}

/// Completes the documents that the workflow files came to, and seals the good ones.
pub(crate) async fn settle(compiled: &mut Compiled, agreed: Vec<Value>, root: &Path, engine: Option<&dyn QueryEngine>) {
    for json in std::mem::take(&mut compiled.sketches) {
        // What makes a sketch unreadable has been told of the workflow that it is of.
        if let (Some(document), found) = complete(json, root, engine).await {
            compiled.sketches.push(document.seal().0);
            add(compiled, found);
        }
    }
    for json in agreed {
        let (file, workflow) = named(&json);
        let (document, found) = complete(json, root, engine).await;
        let good = found.iter().all(|diagnostic| diagnostic.level != "error");
        add(compiled, found);
        match document {
            Some(document) if good => {
                let (sealed, version) = document.seal();
                compiled.documents.insert(version, sealed);
            }
            document => {
                compiled.breaks(file, workflow);
                compiled.sketches.extend(document.map(|document| document.seal().0));
            }
        }
    }
    subruns::settle(compiled);
}

fn add(compiled: &mut Compiled, found: Vec<Diagnostic>) {
    for diagnostic in found {
        if !compiled.diagnostics.contains(&diagnostic) {
            compiled.diagnostics.push(diagnostic);
        }
    }
}

/// The document with all its edges, and what is wrong with it; none if it cannot be read.
async fn complete(
    mut json: Value,
    root: &Path,
    engine: Option<&dyn QueryEngine>,
) -> (Option<Document>, Vec<Diagnostic>) {
    let auto = take_auto(&mut json);
    let document = match Document::take(json) {
        Ok(document) => document,
        Err(errors) => {
            let found = errors.into_iter().map(|error| Diagnostic {
                file: Some(error.place.file),
                line: Some(error.place.line),
                hint: error.hint,
                ..plain("error", error.code, error.message)
            });
            return (None, found.collect());
        }
    };
    let texts = document.jobs.iter().map(|job| text(job, root)).collect();
    let mut looked = Looked { document, auto, texts, tables: Vec::new(), found: Vec::new() };
    looked.look(engine).await;
    looked.conditions();
    if looked.found.iter().all(|diagnostic| diagnostic.level != "error") {
        looked.connect();
    }
    let Looked { document, mut found, .. } = looked;
    // An error is counted for the workflow's file, so it names it.
    let workflow = &document.source;
    for error in found.iter_mut().filter(|found| found.level == "error") {
        let named = error.file.as_ref() == Some(&workflow.file)
            || error.related.iter().any(|other| other["file"] == workflow.file);
        if !named {
            error.related.push(of_source(workflow, format!("workflow \"{}\" is declared here", document.workflow)));
        }
    }
    (Some(document), found)
}

/// Which jobs take their edges from their SQL, and the document without the marks.
fn take_auto(json: &mut Value) -> Vec<bool> {
    let jobs = json["jobs"].as_array_mut().into_iter().flatten();
    jobs.map(|job| job.as_object_mut().and_then(|job| job.remove(AUTO)) == Some(Value::Bool(true))).collect()
}

/// The SQL of a job. A file that is not there has been told where it is named.
fn text(job: &Job, root: &Path) -> Option<String> {
    match job.sql.as_ref()? {
        SqlSource::Text(text) => Some(text.clone()),
        SqlSource::File(file) => std::fs::read_to_string(root.join(file)).ok(),
    }
}

/// A workflow whose SQL is looked at.
struct Looked {
    document: Document,
    auto: Vec<bool>,
    texts: Vec<Option<String>>,
    tables: Vec<JobTables>,
    found: Vec<Diagnostic>,
}

impl Looked {
    /// Finds out what the jobs read and write.
    async fn look(&mut self, engine: Option<&dyn QueryEngine>) {
        let mut outlines = self.outlines(engine).await;
        for ix in 0..self.document.jobs.len() {
            let job = &self.document.jobs[ix];
            let mut known = JobTables::default();
            match outlines.remove(&ix) {
                Some(Ok(outline)) => known.outline = outline,
                // A check tells of it otherwise; without edges there is nothing to run.
                Some(Err(error)) if self.auto[ix] => {
                    let text = self.texts[ix].as_deref().unwrap_or_default();
                    self.found.push(of_error(&self.document, job, text, error, "error"));
                }
                None if self.auto[ix] && engine.is_none() => {
                    let message = format!("the edges of job \"{}\" cannot be found: its SQL says them", job.name);
                    let hint = "This build of pinrail has no SQL engine. List the jobs that it waits for instead.";
                    self.found.push(self.of_job(ix, plain("error", "engine-missing", message), hint));
                }
                Some(Err(_)) | None => {}
            }
            let declared = tables::declared(job);
            known.unknown = job.kind == JobKind::Class && declared.is_none();
            if let Some(declared) = declared {
                known.outline.writes = declared;
            }
            if let Some((name, at)) = known.outline.open.first()
                && self.document.jobs.len() > 1
            {
                self.found.push(self.open(ix, name, *at));
            }
            self.tables.push(known);
        }
    }

    async fn outlines(&self, engine: Option<&dyn QueryEngine>) -> BTreeMap<usize, Result<Outline, LakeError>> {
        let Some(engine) = engine else { return BTreeMap::new() };
        let types = param_types(&self.document);
        let draft = |(job, text): (&Job, &Option<String>)| {
            let value =
                |(name, value): (&String, &Value)| (format!("params.{name}"), typed(value, types.get(name).copied()));
            let file = match &job.sql {
                Some(SqlSource::File(file)) => Some(file.as_str()),
                _ => None,
            };
            let constants = job.params.iter().map(value).collect();
            Some(Draft { text: text.clone()?, constants, declares_job: declares(job, file) })
        };
        let drafts = self.document.jobs.iter().zip(&self.texts).map(draft).enumerate();
        let (jobs, drafts): (Vec<usize>, Vec<Draft>) = drafts.filter_map(|(ix, draft)| Some((ix, draft?))).unzip();
        jobs.into_iter().zip(engine.outline(&drafts).await).collect()
    }

    /// Adds the edges that are in the SQL, and compares all edges with the tables.
    fn connect(&mut self) {
        let edges = tables::resolve(&self.document.jobs, &self.auto, &self.tables);
        let names: Vec<_> = self.document.jobs.iter().map(|job| job.name.clone()).collect();
        for edge in &edges {
            self.document.jobs[edge.job].after.push(names[edge.parent].clone());
        }
        let order: BTreeMap<_, _> = names.iter().zip(0..).collect();
        for job in &mut self.document.jobs {
            job.after.sort_by_key(|name| order.get(name).copied().unwrap_or(usize::MAX));
        }
        if let Some(path) = tables::cycle(&self.document.jobs) {
            let found = self.cycle(&path, &edges);
            self.found.push(found);
            // What is left can be looked at as if nobody had asked for these edges.
            for edge in &edges {
                self.document.jobs[edge.job].after.retain(|name| *name != names[edge.parent]);
            }
            return;
        }
        let findings = tables::findings(&self.document.jobs, &self.auto, &self.tables);
        let told: Vec<_> = findings.iter().map(|finding| self.told(finding)).collect();
        self.found.extend(told);
    }

    fn told(&self, finding: &Finding<'_>) -> Diagnostic {
        match finding {
            Finding::MissingDependency { reader, writer, table, at } => {
                let (reads, writes) = (self.name(*reader), self.name(*writer));
                let message = format!("{reads} reads {table}, which {writes} writes, but does not wait for it");
                let hint = format!("Add {writes} to the jobs that {reads} waits for.");
                self.at(*reader, Some(*at), plain("warning", "missing-dependency", message), &hint)
            }
            Finding::UnknownWriter { reader, writer, table, at } => {
                let (reads, writes) = (self.name(*reader), self.name(*writer));
                let message = format!(
                    "whether {reads} waits for {writes} is not known: it reads {table}, and {writes} does not say what it writes"
                );
                let hint = format!("Say it with writes= in the template of {writes}, or list the job.");
                self.at(*reader, Some(*at), plain("warning", "unknown-writer", message), &hint)
            }
            Finding::DoubleWriter { job, other, write, others, certain } => {
                let (name, before, table) = (self.name(*job), self.name(*other), &write.table);
                let (level, message, hint) = if *certain {
                    let message = format!("{name} and {before} both write {table}, and neither waits for the other");
                    ("error", message, "Let one wait for the other, or give each a partition of its own.")
                } else {
                    let message = format!(
                        "{name} and {before} may write the same rows of {table}, and neither waits for the other"
                    );
                    let hint = "Whether their rows are the same is seen only when they run: let one wait for the other, \
                                or give each a partition by a constant.";
                    ("warning", message, hint)
                };
                let related = self.at(*other, others.at, plain(level, "double-writer", String::new()), "");
                let related = vec![place(&related, format!("{before} writes it here"))];
                let found = self.at(*job, write.at, plain(level, "double-writer", message), hint);
                Diagnostic { related, ..found }
            }
        }
    }

    /// What jobs wait for outside of their runs, as far as it can be seen to be wrong.
    fn conditions(&mut self) {
        for ix in 0..self.document.jobs.len() {
            let job = &self.document.jobs[ix];
            let wrong = job.wait_for.iter().filter_map(|condition| mistake(&condition.that, &job.after));
            let found: Vec<Diagnostic> = wrong
                .map(|message| {
                    let message = format!("condition of job \"{}\": {message}", job.name);
                    self.of_job(ix, plain("error", "bad-condition", message), "docs/conditions.md says what there is.")
                })
                .collect();
            self.found.extend(found);
        }
    }

    /// A run decides which table the SQL of a job reads.
    fn open(&self, ix: usize, name: &str, at: Place) -> Diagnostic {
        let job = self.name(ix);
        let message = format!("which tables {job} reads is seen only when it runs: its SQL names {name}");
        let (level, hint) = if self.auto[ix] {
            ("error", "List the jobs that it waits for, or give the value in params= of the template.")
        } else {
            ("warning", "That it waits for the jobs that write them is not checked.")
        };
        self.at(ix, Some(at), plain(level, "undecidable-tables", message), hint)
    }

    /// Jobs that wait for each other, with the table behind each edge that comes from SQL.
    fn cycle(&self, path: &[usize], edges: &[Edge]) -> Diagnostic {
        let step = |pair: &[usize]| {
            let (job, parent) = (pair[0], pair[1]);
            let (waits, waited) = (self.name(job), self.name(parent));
            let source = &self.document.jobs[job].source;
            let edge = edges.iter().find(|edge| (edge.job, edge.parent) == (job, parent));
            match edge.map(|edge| &edge.reason) {
                None => of_source(source, format!("{waits} waits for {waited}")),
                Some(Reason::Names) => of_source(source, format!("{waits} names an output of {waited}")),
                Some(Reason::Reads(table, at)) => {
                    let at = self.at(job, Some(*at), plain("error", "cycle", String::new()), "");
                    place(&at, format!("{waits} reads {table}, which {waited} writes"))
                }
            }
        };
        let names: Vec<String> = path.iter().map(|ix| self.document.jobs[*ix].name.to_string()).collect();
        let shown = match names.len() {
            count if count > SHOWN_OF_CYCLE => {
                let (begin, end) = (&names[..SHOWN_OF_CYCLE - 2], &names[count - 2..]);
                let left = count - SHOWN_OF_CYCLE;
                [begin, &[format!("({left} more)")], end].concat().join(" -> ")
            }
            _ => names.join(" -> "),
        };
        let message = format!("the jobs of workflow \"{}\" wait for each other: {shown}", self.document.workflow);
        let hint = "List the jobs that one of them waits for, instead of taking them from its SQL.";
        let related = path.windows(2).take(SHOWN_OF_CYCLE).map(step).collect();
        Diagnostic { related, ..self.of_job(path[0], plain("error", "cycle", message), hint) }
    }

    fn name(&self, ix: usize) -> String {
        format!("\"{}\"", self.document.jobs[ix].name)
    }

    /// At a place of a job's SQL, or where the job is declared.
    fn at(&self, ix: usize, at: Option<Place>, found: Diagnostic, hint: &str) -> Diagnostic {
        let text = self.texts[ix].as_deref().filter(|_| at.is_some());
        match text {
            Some(text) => placed(&self.document.jobs[ix], text, at, self.hinted(found, hint), true),
            None => self.of_job(ix, found, hint),
        }
    }

    fn of_job(&self, ix: usize, found: Diagnostic, hint: &str) -> Diagnostic {
        let Source { file, line } = self.document.jobs[ix].source.clone();
        Diagnostic { file: Some(file), line: Some(line), ..self.hinted(found, hint) }
    }

    fn hinted(&self, found: Diagnostic, hint: &str) -> Diagnostic {
        Diagnostic { hint: Some(hint.to_owned()), workflow: Some(self.document.workflow.to_string()), ..found }
    }
}

/// Another place that has to do with it.
fn place(at: &Diagnostic, message: String) -> Value {
    json!({"file": at.file, "line": at.line, "message": message})
}

fn of_source(source: &Source, message: String) -> Value {
    json!({"file": source.file, "line": source.line, "message": message})
}
