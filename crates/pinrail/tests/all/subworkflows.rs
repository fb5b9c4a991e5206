//! Runs of workflows that are the work of jobs: what they are asked for with, what comes of them, and who ends them.

use serde_json::{Value, json};

use crate::crash::steps;
use crate::support::{Project, task, wait_until};

fn good(project: &Project, arguments: &[&str]) -> String {
    let ran = project.run(arguments);
    assert_eq!(ran.code, Some(0), "{arguments:?}: {ran:?}");
    ran.out
}

/// The latest run of a workflow, as a command line names it.
fn last(project: &Project, workflow: &str) -> String {
    runs(project, workflow)[0]["id"].as_str().unwrap().to_owned()
}

/// All runs of a workflow, the latest first.
fn runs(project: &Project, workflow: &str) -> Vec<Value> {
    let listed = project.run(&["runs", "--workflow", workflow, "--json"]).json();
    let ids = listed["items"].as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap().to_owned());
    ids.map(|id| project.shown(&id)).collect()
}

fn attempts<'a>(run: &'a Value, job: &str) -> &'a [Value] {
    task(run, job)["attempts"].as_array().unwrap()
}

const COUNT: &str = "
class Count:
    def execute(self, ctx):
        ctx.output('rows', 7)

class Check:
    def execute(self, ctx):
        ctx.log(f'{ctx.ds} {ctx.params}')
        ctx.output('seen', [ctx.ds, ctx.params['rows'], ctx.params['name']])

class Report:
    def execute(self, ctx):
        ctx.output('told', ctx.upstream['check'].outputs['look']['seen'])
";

#[test]
fn a_run_of_a_workflow_is_a_job_with_parameters_and_outputs() {
    let project = Project::new(&[
        ("jobs/a.py", COUNT),
        (
            "workflows/w.py",
            "workflow = {
                 template(name='count', class_='jobs.a.Count'): [],
                 template(name='check', workflow='quality',
                          params={'rows': '{{ upstream.count.rows }}', 'name': 'of {{ ds }}'}): ['count'],
                 template(name='report', class_='jobs.a.Report'): ['check'],
             }",
        ),
        (
            "workflows/quality.py",
            "workflow = Workflow({template(name='look', class_='jobs.a.Check'): []},
                                 params={'rows': Param(int), 'name': Param(str), 'more': Param(float, default=1.5)})",
        ),
    ]);
    let _server = project.up();
    good(&project, &["run", "w", "--at", "2024-01-02"]);
    let run = runs(&project, "w").remove(0);
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(task(&run, "report")["outputs"]["told"], json!(["2024-01-02", 7, "of 2024-01-02"]));
    let child = runs(&project, "quality").remove(0);
    assert_eq!(attempts(&run, "check")[0]["sub_run"], child["id"]);
    assert_eq!(child["cause"], json!({"kind": "job", "run": run["id"], "job": "check"}));
    assert_eq!(child["params"], json!({"rows": 7, "name": "of 2024-01-02", "more": 1.5}));
    let shown = good(&project, &["show", child["id"].as_str().unwrap()]);
    assert!(shown.contains("the work of job check of run "), "{shown}");
    let shown = good(&project, &["show", run["id"].as_str().unwrap()]);
    assert!(shown.contains("its work is run "), "{shown}");
}

#[test]
fn a_python_job_decides_which_workflow_runs() {
    let project = Project::new(&[
        (
            "jobs/a.py",
            "
from pinrail import RunWorkflow

class Choose:
    def execute(self, ctx):
        return RunWorkflow('other', {'n': 3})
    def complete(self, ctx, result):
        ctx.output('run', result.run)
",
        ),
        ("workflows/w.py", "workflow = {template(name='choose', class_='jobs.a.Choose'): []}"),
        ("workflows/other.py", "workflow = Workflow({template(name='a', shell='true'): []}, params={'n': Param(int)})"),
    ]);
    good(&project, &["run", "w"]);
    let (run, child) = (runs(&project, "w").remove(0), runs(&project, "other").remove(0));
    assert_eq!(task(&run, "choose")["outputs"]["run"], child["id"]);
    assert_eq!(child["params"], json!({"n": 3}));
}

/// A workflow whose second job fails until there is a file, and one that runs it.
fn failing() -> Project {
    let project = Project::new(&[
        ("workflows/w.py", "workflow = {template(name='sub', workflow='other'): []}"),
        (
            "workflows/other.py",
            "workflow = {template(name='a', shell='true'): [], template(name='b', shell='test -f ok/yes'): ['a']}",
        ),
    ]);
    project.write("pinrail.toml", "[project]\nname = \"demo\"\n[files]\nok = \"ok\"\n");
    project
}

#[test]
fn a_failure_is_told_with_its_job_and_a_retry_takes_it_up_where_it_failed() {
    let project = failing();
    let _server = project.up();
    assert_eq!(project.run(&["run", "w"]).code, Some(1));
    let child = runs(&project, "other").remove(0);
    let told = project.run(&["explain", &last(&project, "w")]).out;
    assert!(told.contains("of workflow \"other\" did not succeed: job \"b\" failed: "), "{told}");
    assert!(told.contains("fault user") && told.contains("a retry of this job takes that run up"), "{told}");
    project.write("ok/yes", "");
    good(&project, &["retry", &last(&project, "w")]);
    wait_until("it has succeeded", || runs(&project, "w")[0]["state"] == "succeeded");
    let children = runs(&project, "other");
    assert_eq!(children.len(), 1, "{children:?}");
    assert_eq!(children[0]["id"], child["id"]);
    assert_eq!(attempts(&children[0], "a").len(), 1);
    assert_eq!(attempts(&children[0], "b").len(), 2);
}

#[test]
fn one_that_was_mended_by_hand_is_taken_as_it_is() {
    let project = failing();
    let _server = project.up();
    assert_eq!(project.run(&["run", "w"]).code, Some(1));
    project.write("ok/yes", "");
    good(&project, &["retry", &last(&project, "other")]);
    wait_until("it is mended", || runs(&project, "other")[0]["state"] == "succeeded");
    good(&project, &["retry", &last(&project, "w")]);
    wait_until("it has succeeded", || runs(&project, "w")[0]["state"] == "succeeded");
    let children = runs(&project, "other");
    assert_eq!((children.len(), attempts(&children[0], "b").len()), (1, 2), "{children:?}");
}

#[test]
fn whoever_waits_is_explained_and_a_cancelled_job_ends_its_run() {
    let project = Project::new(&[
        ("workflows/w.py", "workflow = {template(name='sub', workflow='other'): []}"),
        ("workflows/other.py", "workflow = {template(name='a', shell='sleep 600'): []}"),
    ]);
    let _server = project.up();
    good(&project, &["run", "w", "--detach"]);
    wait_until("the other workflow is at work", || {
        runs(&project, "other").first().is_some_and(|run| task(run, "a")["state"] == "executing")
    });
    let child = last(&project, "other");
    let explained = project.run(&["explain", &last(&project, "w"), "--json"]).json()["items"][0].clone();
    assert_eq!(
        (&explained["code"], &explained["workflow"], &explained["other"]),
        (&"waiting-for-workflow".into(), &"other".into(), &child.as_str().into())
    );
    good(&project, &["cancel", &last(&project, "w")]);
    wait_until("both are over", || {
        runs(&project, "w")[0]["state"] == "cancelled" && runs(&project, "other")[0]["state"] == "cancelled"
    });
    let told = good(&project, &["explain", &child]);
    assert!(told.contains("the job whose work it is was stopped"), "{told}");
}

#[test]
fn a_quota_of_one_does_not_keep_a_job_from_its_own_run() {
    let project = Project::new(&[
        ("workflows/w.py", "workflow = {template(name='sub', workflow='other'): []}"),
        ("workflows/other.py", "workflow = {template(name='a', shell='true'): []}"),
    ]);
    let _server = project.up();
    good(&project, &["run", "other"]);
    good(&project, &["limits", "set", "quota", "1"]);
    good(&project, &["run", "w"]);
}

#[test]
fn what_cannot_be_is_refused_with_its_line() {
    let project = Project::new(&[
        ("workflows/a.py", "workflow = {template(name='sub', workflow='b'): []}"),
        ("workflows/b.py", "workflow = {template(name='sub', workflow='a'): []}"),
        ("workflows/c.py", "workflow = {template(name='sub', workflow='d', params={'m': 1}): []}"),
        ("workflows/d.py", "workflow = Workflow({template(name='a', shell='true'): []}, params={'n': Param(int)})"),
        ("workflows/e.py", "workflow = {template(name='sub', workflow='dd'): []}"),
    ]);
    let checked = project.run(&["check"]);
    assert_eq!(checked.code, Some(3), "{checked:?}");
    let told = format!("{}{}", checked.out, checked.err);
    for expected in [
        "workflow \"a\" runs itself: a -> b -> a",
        "job \"sub\": workflow \"d\" has no parameter \"m\"",
        "job \"sub\": parameter \"n\" of workflow \"d\" is required",
        "job \"sub\" runs workflow \"dd\", which the project does not have",
        "Did you mean \"d\"?",
    ] {
        assert!(told.contains(expected), "{expected}: {told}");
    }
}

#[test]
fn a_server_that_dies_at_any_step_leaves_one_run() {
    // The second command of the server is the one that makes the run for the job.
    let own: Vec<String> = steps().into_iter().filter(|step| step.starts_with("sub-run.")).collect();
    assert!(own.len() > 1, "{own:?}");
    for die in own.iter().map(|step| format!("{step}:1")).chain(["command.after-send:2".to_owned()]) {
        let project = Project::new(&[
            ("workflows/w.py", "workflow = {template(name='sub', workflow='other'): []}"),
            ("workflows/other.py", "workflow = {template(name='a', shell='true'): []}"),
        ]);
        let mut server = project.up_with(&[("PINRAIL_DIE_AT", &die)]);
        good(&project, &["run", "w", "--at", "2024-01-02", "--detach"]);
        wait_until("the server is dead", || server.child.try_wait().unwrap().is_some());
        let _server = project.up();
        wait_until("the run is over", || runs(&project, "w")[0]["state"] == "succeeded");
        let (run, children) = (runs(&project, "w").remove(0), runs(&project, "other"));
        assert_eq!(children.len(), 1, "after {die}: {children:?}");
        assert_eq!(attempts(&run, "sub").len(), 1, "after {die}: {run}");
        assert_eq!(attempts(&run, "sub")[0]["sub_run"], children[0]["id"], "after {die}");
    }
}

#[test]
fn a_run_that_was_named_and_never_made_is_made_by_the_next_attempt() {
    let project = Project::new(&[
        ("workflows/w.py", "workflow = {template(name='sub', workflow='other'): []}"),
        ("workflows/other.py", "workflow = {template(name='a', shell='true'): []}"),
    ]);
    let mut server = project.up_with(&[("PINRAIL_DIE_AT", "sub-run.named:1")]);
    good(&project, &["run", "w", "--at", "2024-01-02", "--detach"]);
    wait_until("the server is dead", || server.child.try_wait().unwrap().is_some());
    // The next server goes on with the job, or a person has cancelled it before.
    let _server = project.up();
    project.run(&["cancel", &last(&project, "w")]);
    wait_until("it is over", || matches!(runs(&project, "w")[0]["state"].as_str(), Some("cancelled" | "succeeded")));
    if runs(&project, "w")[0]["state"] == "cancelled" {
        good(&project, &["retry", &last(&project, "w")]);
    }
    wait_until("it has succeeded", || runs(&project, "w")[0]["state"] == "succeeded");
    assert_eq!(runs(&project, "other").len(), 1);
}

#[test]
fn a_mapped_job_has_a_run_for_each_item_and_parameters_are_handed_on() {
    let project = Project::new(&[
        (
            "jobs/a.py",
            "
class List:
    def execute(self, ctx):
        ctx.output('files', ['x', 'y', 'z'])
",
        ),
        (
            "workflows/w.py",
            "workflow = Workflow({
                 template(name='list', class_='jobs.a.List'): [],
                 template(name='each', workflow='one', map='list.files',
                          params={'file': '{{ item }}', 'day': '{{ params.day }}'}): ['list'],
             }, params={'day': Param(str, default='monday')})",
        ),
        (
            "workflows/one.py",
            "workflow = Workflow({template(name='a', shell='true'): []},
                                 params={'file': Param(str), 'day': Param(str)})",
        ),
    ]);
    let _server = project.up();
    good(&project, &["run", "w"]);
    let mut given: Vec<Value> = runs(&project, "one").iter().map(|run| run["params"].clone()).collect();
    given.sort_by_key(|params| params["file"].to_string());
    let expected: Vec<Value> = ["x", "y", "z"].map(|file| json!({"file": file, "day": "monday"})).into();
    assert_eq!(given, expected);
}

#[test]
fn a_run_that_failed_by_what_it_waited_for_says_so() {
    let project = Project::new(&[
        ("workflows/w.py", "workflow = {template(name='sub', workflow='other'): []}"),
        (
            "workflows/other.py",
            "workflow = {template(name='a', shell='true', wait_for=File('none', timeout='200ms', every='100ms')): []}",
        ),
    ]);
    let _server = project.up();
    assert_eq!(project.run(&["run", "w"]).code, Some(1));
    let told = project.run(&["explain", &last(&project, "w")]).out;
    assert!(told.contains("fault upstream") && told.contains("it waited 0.2 s for file"), "{told}");
}
