//! The seed snippet, byte for byte, and its typed twin.

use serde_json::Value;

use crate::support::{Project, repository};

const SEED: &str = "workflow = {template(name='jobA',class='jobs.example.examplejobA'):[],\n\t\t\t\ttemplate(name='jobB',class='jobs.example.examplejobB'):[\"jobA\"],\n\t\t\t    template(name='jobC',class='jobs.example.examplejobC'):[\"jobA\",\"jobB\"]}\n";

#[test]
fn the_seed_runs_verbatim() {
    let file = repository().join("examples/seed/workflows/example.py");
    assert_eq!(std::fs::read_to_string(file).unwrap(), SEED);
    let seed = Project::example("seed");
    let ran = seed.run(&["run", "example", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let run = ran.json();
    assert_eq!(run["state"], "succeeded");
    let names: Vec<&str> = run["tasks"].as_array().unwrap().iter().map(|task| task["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["jobA", "jobB", "jobC"]);
    assert_eq!(seed.log("jobB"), "setup\nexecute\ncomplete jobB\ncleanup\n");
}

#[test]
fn the_typed_twin_compiles_to_the_same_document() {
    let seed = Project::example("seed");
    let ran = seed.run(&["check", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let answer = ran.json();
    let mut documents: Vec<Value> = answer["documents"].as_object().unwrap().values().cloned().collect();
    assert_eq!(documents.len(), 2);
    for document in &mut documents {
        // They are two files: names and places differ, nothing else may.
        document["workflow"] = Value::Null;
        document["source"] = Value::Null;
        for job in document["jobs"].as_array_mut().unwrap() {
            job["source"] = Value::Null;
        }
    }
    assert_eq!(documents[0], documents[1]);
}
