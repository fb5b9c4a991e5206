//! What can be seen to be wrong with runs of workflows that are the work of jobs, before anything runs.

use std::collections::{BTreeMap, BTreeSet};

use pinrail_model::document::{Document, Job, Source};
use pinrail_model::names::WorkflowName;
use pinrail_model::near::nearest;
use serde_json::Value;

use super::whole;
use crate::app::checked;
use crate::compile::{Compiled, Diagnostic, named, plain};
use crate::conditions::{environment, said, unknown};

/// Breaks the documents whose jobs cannot have the runs that they name.
pub(crate) fn settle(compiled: &mut Compiled) {
    // To read a document takes long where it has thousands of jobs, and few have such ones.
    let runs = |json: &Value| json["jobs"].as_array().into_iter().flatten().any(|job| job["kind"] == "workflow");
    if !compiled.documents.values().any(runs) {
        return;
    }
    let read = |json: &Value| Document::read(json).ok();
    let documents: Vec<_> = compiled.documents.iter().filter_map(|(v, json)| Some((*v, read(json)?))).collect();
    let sketches: Vec<Document> = compiled.sketches.iter().filter_map(read).collect();
    let all: BTreeMap<&WorkflowName, &Document> =
        sketches.iter().chain(documents.iter().map(|(_, document)| document)).map(|d| (&d.workflow, d)).collect();
    let good: BTreeSet<WorkflowName> = documents.iter().map(|(_, document)| document.workflow.clone()).collect();
    let mut wrong = Vec::new();
    for (version, document) in &documents {
        let mut found: Vec<Diagnostic> = jobs(document).flat_map(|(job, other)| of_job(job, other, &all)).collect();
        let broken = jobs(document).filter(|(_, other)| all.contains_key(other) && !good.contains(*other));
        found.extend(broken.map(|(job, other)| {
            let message = format!("job \"{}\" runs workflow \"{other}\", which has errors of its own", job.name);
            error(job, "unknown-workflow", message, None)
        }));
        found.extend(cycle(document, &all));
        if !found.is_empty() {
            let name = document.workflow.to_string();
            wrong.push((*version, found.into_iter().map(move |d| Diagnostic { workflow: Some(name.clone()), ..d })));
        }
    }
    for (version, found) in wrong {
        compiled.diagnostics.extend(found);
        if let Some(json) = compiled.documents.remove(&version) {
            let (file, workflow) = named(&json);
            compiled.breaks(file, workflow);
            compiled.sketches.push(json);
        }
    }
}

/// The jobs of a document that are runs of workflows, with those.
fn jobs(document: &Document) -> impl Iterator<Item = (&Job, &WorkflowName)> {
    document.jobs.iter().filter_map(|job| Some((job, job.workflow.as_ref()?)))
}

fn of_job(job: &Job, other: &WorkflowName, all: &BTreeMap<&WorkflowName, &Document>) -> Vec<Diagnostic> {
    let Some(document) = all.get(other) else {
        let near = nearest(other.as_str(), all.keys().map(|name| name.as_str()));
        let message = format!("job \"{}\" runs workflow \"{other}\", which the project does not have", job.name);
        return vec![error(job, "unknown-workflow", message, near.map(|near| format!("Did you mean \"{near}\"?")))];
    };
    let mut found: Vec<Diagnostic> = mistakes(job)
        .into_iter()
        .map(|message| error(job, "bad-parameter", format!("job \"{}\": {message}", job.name), None))
        .collect();
    for (name, value) in &job.params {
        let Some((known, param)) = document.params.iter().find(|(known, _)| known.as_str() == name) else {
            let near = nearest(name, document.params.keys().map(|known| known.as_str()));
            let message = format!("job \"{}\": workflow \"{other}\" has no parameter \"{name}\"", job.name);
            found.push(error(job, "bad-parameter", message, near.map(|near| format!("Did you mean \"{near}\"?"))));
            continue;
        };
        let constant = !value.as_str().is_some_and(|text| text.contains("{{") || text.contains("{%"));
        if let Some(problem) = constant.then(|| checked(known.as_str(), param, value).err()).flatten() {
            found.push(error(job, "bad-parameter", format!("job \"{}\": {}", job.name, problem.detail), problem.hint));
        }
    }
    for held in document.jobs.iter().filter(|held| job.key.is_some() && held.key == job.key) {
        let message = format!(
            "jobs \"{}\" and \"{}\" of workflow \"{other}\", which it runs, have the same key and would wait for each other",
            job.name, held.name
        );
        found.push(error(job, "bad-key", message, Some("Give the key to one of them.".to_owned())));
    }
    for (name, _) in document.params.iter().filter(|(_, param)| param.required) {
        if !job.params.contains_key(name.as_str()) {
            let message = format!("job \"{}\": parameter \"{name}\" of workflow \"{other}\" is required", job.name);
            let hint = Some(format!("Give it: params={{'{name}': ...}}."));
            found.push(error(job, "bad-parameter", message, hint));
        }
    }
    found
}

/// A workflow that runs itself by way of others.
fn cycle(document: &Document, all: &BTreeMap<&WorkflowName, &Document>) -> Option<Diagnostic> {
    let mut open: Vec<(&Job, Vec<&WorkflowName>)> = jobs(document).map(|(job, other)| (job, vec![other])).collect();
    let mut seen = BTreeSet::new();
    while let Some((first, path)) = open.pop() {
        let last = *path.last()?;
        if *last == document.workflow {
            let names: Vec<&str> = [&document.workflow].into_iter().chain(path).map(|name| name.as_str()).collect();
            let message = format!("workflow \"{}\" runs itself: {}", document.workflow, names.join(" -> "));
            return Some(error(first, "cycle", message, None));
        }
        if seen.insert(last) {
            let next = all.get(last).into_iter().flat_map(|document| jobs(document));
            open.extend(next.map(|(_, other)| (first, [path.as_slice(), &[other]].concat())));
        }
    }
    None
}

/// What is wrong with the templates of a job's parameters.
fn mistakes(job: &Job) -> Vec<String> {
    let environment = environment();
    let of = |(name, value): (&String, &Value)| {
        let text = value.as_str()?;
        let names = match whole(text) {
            Some(expression) => environment.compile_expression(expression).map(|e| e.undeclared_variables(true)),
            None => environment.template_from_str(text).map(|template| template.undeclared_variables(true)),
        };
        let wrong = match names {
            Ok(mut names) => {
                // A mapped job's own.
                names.retain(|name| job.map.is_none() || !matches!(name.split('.').next(), Some("item" | "index")));
                unknown(names, &job.after)
            }
            Err(error) => Some(said(&error)),
        };
        wrong.map(|wrong| format!("parameter \"{name}\": {wrong}"))
    };
    job.params.iter().filter_map(of).collect()
}

fn error(job: &Job, code: &str, message: String, hint: Option<String>) -> Diagnostic {
    let Source { file, line } = job.source.clone();
    Diagnostic { file: Some(file), line: Some(line), hint, ..plain("error", code, message) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn workflow(name: &str, params: &Value, jobs: &Value) -> Value {
        let source = json!({"file": format!("workflows/{name}.py"), "line": 1});
        json!({"format": 1, "workflow": name, "source": source, "params": params, "jobs": jobs})
    }

    fn runs(workflow: &str, params: &Value) -> Value {
        json!([{"name": "sub", "kind": "workflow", "workflow": workflow, "params": params}])
    }

    fn found(workflows: &[Value]) -> Vec<(String, String)> {
        let mut compiled = Compiled::default();
        for json in workflows {
            let (sealed, version) = Document::read(json).unwrap().seal();
            compiled.documents.insert(version, sealed);
        }
        settle(&mut compiled);
        assert_eq!(compiled.documents.len() + compiled.sketches.len(), workflows.len());
        let mut told: Vec<_> = compiled.diagnostics.into_iter().map(|d| (d.code, d.message)).collect();
        told.sort();
        told
    }

    #[test]
    fn a_run_that_cannot_be_is_told_of_with_the_parameter() {
        let leaf = json!([{"name": "a", "kind": "shell", "shell": ["true"]}]);
        let param = json!({"n": {"type": "int", "required": true}});
        let child = workflow("child", &param, &leaf);
        let parent = |params: Value| workflow("parent", &json!({}), &runs("child", &params));
        assert_eq!(found(&[child.clone(), parent(json!({"n": 3}))]), []);
        assert_eq!(found(&[child.clone(), parent(json!({"n": "{{ ds }}"}))]), []);
        let message = |params| found(&[child.clone(), parent(params)]).into_iter().map(|(_, m)| m).collect::<Vec<_>>();
        assert_eq!(message(json!({})), ["job \"sub\": parameter \"n\" of workflow \"child\" is required"]);
        assert_eq!(message(json!({"n": "x"})), ["job \"sub\": parameter \"n\" must be of type int, not \"x\""]);
        assert_eq!(message(json!({"n": 1, "m": 2})), ["job \"sub\": workflow \"child\" has no parameter \"m\""]);
        assert_eq!(message(json!({"n": "{{ dss }}"})).len(), 1);
        let nobody = found(&[workflow("parent", &json!({}), &runs("chil", &json!({})))]);
        assert_eq!(nobody[0].0, "unknown-workflow");
    }

    #[test]
    fn workflows_that_run_each_other_are_a_cycle() {
        let none = json!({});
        let told = found(&[workflow("a", &none, &runs("b", &none)), workflow("b", &none, &runs("a", &none))]);
        let messages: Vec<&str> = told.iter().map(|(_, message)| message.as_str()).collect();
        assert_eq!(messages, ["workflow \"a\" runs itself: a -> b -> a", "workflow \"b\" runs itself: b -> a -> b"]);
    }
}
