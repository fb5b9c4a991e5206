//! Jobs that run once for each item of a list which is known only at run time.

use serde_json::{Value, json};

use crate::support::{Project, task, wait_until};

const JOBS: &str = "
def listing(ctx):
    ctx.output('files', [{'name': name, 'rows': rows} for name, rows in (('a', 3), ('b', 4), ('c', 5))])


def load(ctx):
    ctx.log(f'{ctx.index} is {ctx.item[\"name\"]}')
    assert 'files' not in ctx.upstream['listing'].outputs
    ctx.output('rows', ctx.item['rows'])


def report(ctx):
    ctx.log(f'together {sum(ctx.upstream[\"load\"].outputs[\"rows\"])}')


def numbers(ctx):
    ctx.output('n', list(range(100_000)))


def nothing(ctx):
    ctx.output('n', [])


def text(ctx):
    ctx.output('n', 'one')


def large(ctx):
    ctx.output('text', 'x' * 60_000)
";

/// What the API says of the tasks of a run.
fn tasks(project: &Project, run: &Value, query: &str) -> (u16, Value) {
    let path = format!("/api/v1/runs/{}/tasks{query}", run["id"].as_str().unwrap());
    project.curl(&path, &["-H", &project.admin()])
}

fn instances(project: &Project) -> Vec<Value> {
    let found = project.run(&["show", "--job", "load", "--json"]).json();
    found["items"].as_array().unwrap().clone()
}

fn attempts(instances: &[Value]) -> Vec<usize> {
    instances.iter().map(|task| task["attempts"].as_array().unwrap().len()).collect()
}

#[test]
fn a_job_runs_once_for_each_item_and_the_next_one_gets_a_list() {
    let project = Project::new(&[
        ("jobs/files.py", JOBS),
        (
            "workflows/w.py",
            "workflow = {template(name='listing', class_='jobs.files.listing'): [],
                         template(name='load', class_='jobs.files.load', map='listing.files'): ['listing'],
                         template(name='say', shell='echo $PINRAIL_INDEX: $PINRAIL_ITEM', map='load.rows'): ['load'],
                         template(name='report', class_='jobs.files.report'): ['load', 'say']}",
        ),
    ]);
    let ran = project.run(&["run", "w"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let line = ran.out.lines().find(|line| line.contains("load[0..2]")).unwrap();
    assert!(line.starts_with("  ✔ load[0..2]") && line.ends_with("   3 succeeded"), "{}", ran.out);
    assert_eq!(project.log("report"), "together 12\n");
    assert_eq!(project.log("load[1]"), "1 is b\n");
    assert_eq!(project.log("say[2]"), "2: 5\n");
    let run = project.last_run();
    assert_eq!(run["tasks"].as_array().unwrap().len(), 4, "instances are counted: {run}");
    let load = task(&run, "load");
    assert_eq!((&load["instances"]["count"], &load["instances"]["states"]), (&json!(3), &json!({"succeeded": 3})));
    assert_eq!(load["outputs"], json!({"rows": [3, 4, 5]}));
    let shown = project.run(&["show", "--job", "load"]).out;
    let line = shown.lines().find(|line| line.starts_with("load[1]")).unwrap();
    assert!(line.contains(r#"{"name":"b","rows":4}  succeeded  1"#), "{shown}");
    let one = project.run(&["show", "--job", "load[2]", "--json"]).json();
    assert_eq!(one["items"][0]["item"], json!({"name": "c", "rows": 5}));
    assert_eq!(one["items"].as_array().unwrap().len(), 1);
    assert_eq!(project.run(&["show", "--job", "load[7]"]).code, Some(4));
}

#[test]
fn of_an_empty_list_there_is_nothing_to_do() {
    let project = Project::new(&[
        ("jobs/files.py", JOBS),
        (
            "workflows/w.py",
            "workflow = {template(name='nothing', class_='jobs.files.nothing'): [],
                         template(name='load', shell='exit 1', map='nothing.n'): ['nothing'],
                         template(name='report', class_='jobs.files.report'): ['load']}",
        ),
    ]);
    let ran = project.run(&["run", "w"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("its list is empty"), "{}", ran.out);
    assert_eq!(project.log("report"), "together 0\n");
}

#[test]
fn one_instance_that_failed_is_tried_again_alone() {
    let outside = tempfile::tempdir().unwrap();
    let mended = outside.path().join("mended");
    let load =
        format!("test $PINRAIL_INDEX != 1 || test -e {} || {{ echo no such file >&2; exit 3; }}", mended.display());
    let project = Project::new(&[
        ("jobs/files.py", JOBS),
        (
            "workflows/w.py",
            &format!(
                "workflow = {{template(name='listing', class_='jobs.files.listing'): [],
                              template(name='load', shell='{load}', map='listing.files'): ['listing'],
                              template(name='report', shell='true'): ['load']}}"
            ),
        ),
    ]);
    let _server = project.up();
    let ran = project.run(&["run", "w"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let line = ran.out.lines().find(|line| line.contains("load[0..2]")).unwrap();
    assert!(line.starts_with("  ✘ load[0..2]") && line.ends_with("   2 succeeded, 1 failed"), "{}", ran.out);
    let said = project.run(&["explain"]).out;
    assert!(said.contains("  load failed in execute · attempt 1 of 1 · fault user"), "{said}");
    assert!(said.contains("1 of 3 failed: load[1]") && said.contains("no such file"), "{said}");
    let said = project.run(&["explain", "--job", "load[1]"]).out;
    assert!(said.contains("  load[1] failed in execute · attempt 1 of 1 · fault user"), "{said}");
    let failed = project.run(&["show", "--job", "load", "--in", "failed"]).out;
    assert!(failed.lines().count() == 2 && failed.contains("\nload[1] "), "{failed}");

    std::fs::write(&mended, "").unwrap();
    let ran = project.run(&["retry", "--job", "load[1]"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let run = project.last_run();
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(task(&run, "report")["state"], "succeeded", "what waits for the job goes on");
    let load = instances(&project);
    assert_eq!(attempts(&load), [1, 2, 1], "the others are left alone: {load:?}");
    assert_eq!(project.run(&["retry", "--job", "load[3]"]).code, Some(4), "there are three");
}

#[test]
fn what_cannot_be_mapped_over_is_refused_with_the_limit_named() {
    let map = |lister: &str, rest: &str| {
        format!(
            "workflow = {{template(name='n', class_='jobs.files.{lister}'): [],
                          template(name='load', class_='jobs.files.large', map='n.n'{rest}): ['n'],
                          template(name='report', shell='true'): ['load']}}"
        )
    };
    let project = Project::new(&[
        ("jobs/files.py", JOBS),
        ("workflows/numbers.py", &map("numbers", "")),
        ("workflows/most.py", &map("numbers", ", max_instances=10_000")),
        ("workflows/text.py", &map("text", "")),
        ("workflows/none.py", &map("report", "").replace("files.report", "files.large")),
    ]);
    let _server = project.up();
    let refused = |workflow: &str| {
        let ran = project.run(&["run", workflow]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let explained = project.run(&["explain", "--job", "load", "--json"]).json();
        let failure = &explained["items"][0]["failure"];
        assert_eq!((&failure["reason"], &failure["fault"]), (&json!("bad-map"), &json!("user")), "{explained}");
        assert_eq!(task(&project.last_run(), "report")["state"], "upstream-failed");
        (failure["message"].as_str().unwrap().to_owned(), project.run(&["explain", "--job", "load"]).out)
    };
    let (message, said) = refused("numbers");
    assert_eq!(message, "output \"n\" of job \"n\" has 100000 items; the job is mapped over 1000 at most");
    assert!(said.contains("Raise `max_instances` in the template, to 10000 at most"), "{said}");
    assert_eq!(refused("most").0, "output \"n\" of job \"n\" has 100000 items; the job is mapped over 10000 at most");
    assert_eq!(refused("text").0, "output \"n\" of job \"n\" is a text, not a list");
    assert_eq!(refused("none").0, "job \"n\" left no output \"n\"");

    project.write("workflows/most.py", &map("numbers", ", max_instances=10_001"));
    project.write("workflows/text.py", &map("text", "").replace(": ['n'],", ": [],"));
    let checked = project.run(&["check"]);
    assert_eq!(checked.code, Some(3), "{checked:?}");
    assert!(checked.out.contains("a whole number of 10000 or less, not 10001"), "{}", checked.out);
    assert!(checked.out.contains("job \"load\" is mapped over \"n.n\" and does not wait for \"n\""), "{}", checked.out);
}

#[test]
fn a_map_outlives_the_server() {
    let outside = tempfile::tempdir().unwrap();
    let (begun, go) = (outside.path().join("begun"), outside.path().join("go"));
    let load = format!(
        "echo $PINRAIL_INDEX >> {}; test $PINRAIL_INDEX = 0 || until test -e {}; do sleep 0.05; done",
        begun.display(),
        go.display()
    );
    let project = Project::new(&[
        ("jobs/files.py", JOBS),
        (
            "workflows/w.py",
            &format!(
                "workflow = {{template(name='listing', class_='jobs.files.listing'): [],
                              template(name='load', shell='{load}', map='listing.files', concurrency=1): ['listing'],
                              template(name='report', shell='true'): ['load']}}"
            ),
        ),
    ]);
    let server = project.up();
    assert_eq!(project.run(&["run", "w", "--detach"]).code, Some(0));
    let at_work = || std::fs::read_to_string(&begun).unwrap_or_default() == "0\n1\n";
    wait_until("the second instance is at work", at_work);
    let mut said = String::new();
    wait_until("what waits is explained", || {
        said = project.run(&["explain", "--job", "load[2]"]).out;
        said.contains("waits")
    });
    assert!(said.contains("  load[2] waits: as many of job load are at work as may be, in all runs (1 of 1"), "{said}");
    let said = project.run(&["explain", "--job", "load[1]"]).out;
    assert!(said.contains("  load[1] is at work") && said.contains(" --job 'load[1]' -f\n"), "{said}");
    let said = project.run(&["explain", "--job", "load"]).out;
    assert!(said.contains("  load waits for load[1] (executing), load[2] (ready)\n"), "{said}");
    let shown = project.run(&["show"]).out;
    assert!(
        shown.lines().any(|line| line.starts_with("  ▸ load[0..2]") && line.contains("1 succeeded, 1 executing")),
        "{shown}"
    );
    server.kill();

    let _server = project.up();
    std::fs::write(&go, "").unwrap();
    let run = project.wait_for_end();
    assert_eq!(run["state"], "succeeded", "{run}");
    let load = instances(&project);
    assert_eq!(attempts(&load), [1, 2, 1], "what was done stays done: {load:?}");
    let items: Vec<&Value> = load.iter().map(|task| &task["item"]["name"]).collect();
    assert_eq!(items, ["a", "b", "c"]);
}

#[test]
fn many_instances_are_counted_and_listed_by_pages() {
    let project = Project::new(&[
        (
            "jobs/many.py",
            "def listing(ctx):\n    ctx.output('n', list(range(120)))\n\n\ndef load(ctx):\n    assert ctx.item % 40 != 7\n",
        ),
        (
            "workflows/w.py",
            "workflow = {template(name='listing', class_='jobs.many.listing'): [],
                         template(name='load', class_='jobs.many.load', map='listing.n'): ['listing']}",
        ),
    ]);
    let _server = project.up();
    let ran = project.run(&["run", "w"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let run = project.last_run();
    assert_eq!(task(&run, "load")["instances"]["states"], json!({"failed": 3, "succeeded": 117}));
    assert!(ran.out.contains("3 of 120 failed: load[7], load[47], load[87]"), "{}", ran.out);
    let (mut names, mut query) = (Vec::new(), "?limit=50".to_owned());
    loop {
        let (status, page) = tasks(&project, &run, &query);
        assert_eq!(status, 200, "{page}");
        names.extend(page["items"].as_array().unwrap().iter().map(|task| task["name"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        query = format!("?limit=50&cursor={next}");
    }
    assert_eq!((names.len(), names[1].as_str(), names[121].as_str()), (122, "load", "load[119]"));
    let (_, failed) = tasks(&project, &run, "?job=load&state=failed&limit=2");
    let found: Vec<&Value> = failed["items"].as_array().unwrap().iter().map(|task| &task["name"]).collect();
    assert_eq!(found, ["load", "load[7]"]);
    assert_eq!(tasks(&project, &run, "?state=odd").0, 400);
    let (_, unknown) = tasks(&project, &run, "?job=lod");
    assert_eq!(unknown["code"], "job-not-found", "{unknown}");
    let left = |query: &str| {
        let path = format!("/api/v1/runs/{}/counters{query}", run["id"].as_str().unwrap());
        let (_, page) = project.curl(&path, &["-H", &project.admin()]);
        let items = page["items"].as_array().unwrap().iter();
        items.map(|counter| counter["attempt"].to_string()).collect::<std::collections::BTreeSet<_>>()
    };
    let listing = task(&run, "listing")["attempts"][0]["id"].to_string();
    assert_eq!(left("?instances=false&limit=500"), [listing].into());
    assert!(left("?limit=500").len() > 1);
    let explained = project.run(&["explain", "--json"]).json();
    assert_eq!(explained["items"].as_array().unwrap().len(), 2, "a job is explained once: {explained}");
}
