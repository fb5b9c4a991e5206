//! SQL as it will run: a job's or a file's text, its templates filled in, checked against the tables and not run.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use pinrail_model::document::{Document, Job, Sha, SqlSource, first_message};
use pinrail_model::names::{JobName, ProjectName, TargetName, WorkflowName};
use pinrail_model::near::nearest;
use pinrail_model::schedule::{self, interval_at};
use pinrail_model::seam::lake::{Checked, Query as SqlQuery, View};
use pinrail_model::seam::store::{Answer, Query, Who};
use pinrail_model::target::{Lane, Target};
use pinrail_model::time::Interval;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::app::{App, find_job, find_workflow, no_engine, param_types, params, sql_problem};
use crate::compile::Compiled;
use crate::edges::declares;
use crate::problem::Problem;
use crate::project::is_inside;
use crate::tokens::{Principal, Role};
use crate::values::{Scope, declared, of_instance};

/// What is to be rendered: a job or a file.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenderRequest {
    /// The bundle that holds the text.
    pub bundle: Sha,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobName>,
    /// The path of an SQL file, relative to the project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The workflow that the job or the file's parameters belong to; none: the only one that it can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<WorkflowName>,
    /// A date or time of the interval; none: the last complete one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, Value>,
    /// Whose tables and values it sees; none: the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetName>,
}

/// The text that was found, and the job that it is of.
struct Found<'a> {
    text: String,
    file: Option<String>,
    workflow: Option<&'a Document>,
    job: Option<&'a Job>,
}

impl App {
    /// Fills in the templates of a job's or a file's SQL, and checks it without running it.
    ///
    /// # Errors
    /// What cannot be found, or could be several; what is wrong with the text, with line and column.
    pub async fn render(
        &self,
        principal: &Principal,
        project: &ProjectName,
        request: RenderRequest,
    ) -> Result<Checked, Problem> {
        principal.may(Role::Operator, project)?;
        let (root, settings) = self.bundle(project, request.bundle).await?;
        let target = self.target_of_bundle(project, &settings, request.target.as_ref()).await?;
        let compiled = self.compile(principal, project, request.bundle).await?;
        let documents = documents(&compiled, &request)?;
        let found = match (&request.job, &request.file) {
            (Some(job), None) => of_job(&documents, job, &root, &compiled)?,
            (None, Some(file)) => of_file(&documents, file, &root, request.workflow.is_some())?,
            _ => return Err(Problem::new("bad-request", "what is rendered is either a \"job\" or a \"file\"")),
        };
        let schedule = found.workflow.and_then(|document| document.schedule.as_ref());
        let interval = interval_at(schedule, request.at.as_deref(), self.now())
            .map_err(|message| Problem::new("bad-parameter", message))?;
        let zone = schedule::zone(schedule::zone_of(schedule)).map_err(|message| Problem::new("internal", message))?;
        let ds = schedule::ds(interval, zone).to_string();
        let (params, types) = match found.workflow {
            Some(document) => (params(document, &request.params)?, param_types(document)),
            None if request.params.is_empty() => Default::default(),
            None => {
                return Err(Problem::new("bad-parameter", "parameters are a workflow's, and none is named")
                    .hint("Name it: --workflow NAME."));
            }
        };
        let upstream = self.left_above((project, target.as_ref()), found.workflow, found.job, interval).await?;
        let engine = self.engine.as_ref().ok_or_else(no_engine)?;
        let scope = Scope { ds: &ds, interval, params: &params, param_types: &types, target: target.as_ref() };
        let left = upstream.iter().flat_map(|(job, outputs)| outputs.iter().map(|(n, v)| (job.as_str(), n, v)));
        let mut values = scope.values(&BTreeMap::new(), left);
        // Of a mapped job the first instance is shown, as far as its list is known.
        if let Some(map) = found.job.and_then(|job| job.map.as_ref())
            && let Some(list) = upstream.get(&map.job).and_then(|outputs| outputs.get(map.output.as_str()))
            && let Some(item) = list.get(0)
        {
            values.extend(of_instance(0, item));
        }
        let files = self.files_of(project, root, settings).await?;
        let writes = found.job.map(|job| declared(job, &ds)).filter(|declared| !declared.is_empty());
        let file = found.file;
        let declares_job = found.job.is_some_and(|job| declares(job, file.as_deref()));
        let query = SqlQuery { text: found.text, file: file.clone(), values, files, writes, declares_job };
        let view = View::now(project.clone(), target);
        engine.check(&query, &view).await.map_err(|error| {
            // With its file the place is one that an editor can go to.
            let before = file.map_or_else(String::new, |file| file + if error.place.is_some() { ":" } else { ": " });
            let problem = sql_problem(error);
            Problem { detail: format!("{before}{}", problem.detail), ..problem }
        })
    }

    /// What the jobs above left for the same interval, as far as they have run.
    async fn left_above(
        &self,
        (project, target): (&ProjectName, Option<&Arc<Target>>),
        document: Option<&Document>,
        job: Option<&Job>,
        interval: Interval,
    ) -> Result<BTreeMap<JobName, BTreeMap<String, Value>>, Problem> {
        let (Some(document), Some(job)) = (document, job) else { return Ok(BTreeMap::new()) };
        let query = Query::Succeeded { lane: Lane::of(project, &document.workflow, target), interval };
        let Answer::Succeeded(rows) = self.store.read(&Who::default(), query).await? else {
            return Ok(BTreeMap::new());
        };
        Ok(rows.into_iter().filter(|row| job.after.contains(&row.job)).map(|row| (row.job, row.outputs)).collect())
    }
}

/// The workflows that can be meant.
fn documents(compiled: &Compiled, request: &RenderRequest) -> Result<Vec<Document>, Problem> {
    if let Some(workflow) = &request.workflow {
        return Ok(vec![find_workflow(compiled, workflow, request.bundle)?.0]);
    }
    let read = |json| Document::read(json).map_err(|errors| Problem::new("internal", first_message(&errors)));
    compiled.documents.values().map(read).collect()
}

fn of_job<'a>(
    documents: &'a [Document],
    name: &JobName,
    root: &Path,
    compiled: &Compiled,
) -> Result<Found<'a>, Problem> {
    let having: Vec<_> = documents.iter().filter_map(|d| Some((d, d.job(name.as_str())?))).collect();
    let (document, job) = match having.as_slice() {
        [one] => *one,
        [] => match documents {
            [only] => (only, find_job(only, name)?),
            _ => return Err(nowhere(documents, name, compiled)),
        },
        several => {
            let names: Vec<_> = several.iter().map(|(document, _)| document.workflow.to_string()).collect();
            let detail = format!("job \"{name}\" could be one of the workflows {}", names.join(", "));
            return Err(Problem::new("bad-parameter", detail).hint("Say which: --workflow NAME."));
        }
    };
    let source = job.sql.as_ref().ok_or_else(|| {
        Problem::new("bad-parameter", format!("job \"{name}\" is no SQL job"))
            .hint("A file that its class names is rendered by its path: pinrail render sql/FILE.sql.")
    })?;
    let (text, file) = match source {
        SqlSource::Text(text) => (text.clone(), None),
        SqlSource::File(file) => (read(root, file)?, Some(file.clone())),
    };
    Ok(Found { text, file, workflow: Some(document), job: Some(job) })
}

fn nowhere(documents: &[Document], name: &JobName, compiled: &Compiled) -> Problem {
    if compiled.errors() > 0 {
        let detail = format!("job \"{name}\" not found, and there are {} definition errors", compiled.errors());
        return Problem::new("definition-errors", detail)
            .hint("Run `pinrail check`.")
            .with("diagnostics", &compiled.diagnostics);
    }
    let mut problem = Problem::new("job-not-found", format!("no workflow of the project has a job \"{name}\""));
    let names = documents.iter().flat_map(|document| &document.jobs).map(|job| job.name.as_str());
    problem.hint = nearest(name.as_str(), names).map(|near| format!("Did you mean \"{near}\"?"));
    problem
}

/// A file is rendered for the one job that has it, if there is one, or with the parameters of the workflow that is named.
fn of_file<'a>(documents: &'a [Document], file: &str, root: &Path, named: bool) -> Result<Found<'a>, Problem> {
    let text = read(root, file)?;
    let source = SqlSource::File(file.to_owned());
    let having: Vec<_> = documents
        .iter()
        .flat_map(|document| document.jobs.iter().map(move |job| (document, job)))
        .filter(|(_, job)| job.sql.as_ref() == Some(&source))
        .collect();
    let (workflow, job) = match having.as_slice() {
        [(document, job)] => (Some(*document), Some(*job)),
        _ => (documents.first().filter(|_| named), None),
    };
    Ok(Found { text, file: Some(file.to_owned()), workflow, job })
}

fn read(root: &Path, file: &str) -> Result<String, Problem> {
    let missing = |why: String| {
        Problem::new("file-not-found", format!("file \"{file}\" {why}"))
            .hint("The path is relative to the project; files that are ignored are not part of it.")
    };
    if !is_inside(file) {
        return Err(missing("is not a path inside the project".to_owned()));
    }
    std::fs::read_to_string(root.join(file)).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => missing("not found in the project".to_owned()),
        std::io::ErrorKind::InvalidData => missing("is not a text in UTF-8".to_owned()),
        _ => missing(format!("cannot be read: {error}")),
    })
}
