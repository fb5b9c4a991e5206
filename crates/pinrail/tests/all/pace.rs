//! What the past is good for: the longest path first, and why a run was slower than the ones before.

use crate::support::{Project, task, wait_until};

fn good(project: &Project, arguments: &[&str]) -> String {
    let ran = project.run(arguments);
    assert_eq!(ran.code, Some(0), "{arguments:?}: {ran:?}");
    ran.out
}

fn began(run: &serde_json::Value, job: &str) -> String {
    task(run, job)["attempts"][0]["started_at"].as_str().unwrap().to_owned()
}

#[test]
fn of_two_jobs_the_one_that_took_longer_goes_first_the_next_time() {
    let workflow = "workflow = {template(name='short', shell='true', pools='one'): [],
                                template(name='long', shell='sleep 0.4', pools='one'): []}";
    let project = Project::new(&[("workflows/w.py", workflow)]);
    let _server = project.up();
    good(&project, &["deploy"]);
    good(&project, &["pools", "set", "one", "--slots", "1"]);
    good(&project, &["run", "w", "--at", "2024-05-01"]);
    let first = project.last_run();
    assert!(began(&first, "short") < began(&first, "long"), "nothing is known yet, so they go as the file has them");
    good(&project, &["run", "w", "--at", "2024-05-02"]);
    let second = project.last_run();
    assert!(began(&second, "long") < began(&second, "short"), "{second}");
}

#[test]
fn a_run_that_is_slower_than_the_last_ones_is_explained_without_being_asked() {
    let workflow = "workflow = {template(name='load', shell='sleep $(cat data)'): [],
                                template(name='report', shell='true'): ['load']}";
    let project = Project::new(&[("workflows/w.py", workflow), ("data", "0")]);
    let _server = project.up();
    good(&project, &["run", "w", "--at", "2024-05-01"]);
    let said = good(&project, &["explain", "--slow"]);
    assert!(said.contains("no earlier run of the same jobs succeeded"), "{said}");
    for day in 2..=6 {
        good(&project, &["run", "w", "--at", &format!("2024-05-0{day}")]);
    }
    project.write("data", "1.5");
    good(&project, &["run", "w", "--at", "2024-05-07"]);
    let said = good(&project, &["explain"]);
    assert!(said.contains("    difference  load worked longer (execute)\n"), "{said}");
    assert!(said.contains(" (median of 6 runs)\n") && said.contains("    path        load 1."), "{said}");
    let document = project.run(&["explain", "--slow", "--json"]).json();
    assert_eq!((&document["code"], &document["job"]), (&"slow-work".into(), &"load".into()), "{document}");
    assert_eq!((&document["runs"], &document["is_slow"]), (&6.into(), &true.into()), "{document}");
    assert_eq!(project.run(&["explain", "--json"]).json()["pace"], document);
}

#[test]
fn what_people_said_of_jobs_is_shown() {
    let outside = tempfile::tempdir().unwrap();
    let wait = format!("until test -e {}; do sleep 0.05; done", outside.path().join("go").display());
    let workflow = format!(
        "workflow = {{template(name='a', shell='{wait}'): [], template(name='b', shell='true'): ['a'],
                     template(name='c', shell='true'): ['a']}}"
    );
    let project = Project::new(&[("workflows/w.py", &workflow)]);
    let _server = project.up();
    good(&project, &["run", "w", "--detach"]);
    wait_until("a is at work", || task(&project.last_run(), "a")["state"] == "executing");
    good(&project, &["disable", "last", "--job", "b", "--reason", "not today"]);
    good(&project, &["hold", "last", "--job", "c", "--reason", "look first"]);
    let shown = good(&project, &["show"]);
    assert!(shown.contains("off by      admin at ") && shown.contains(": not today\n"), "{shown}");
    assert!(shown.contains("held by     admin at ") && shown.contains(": look first\n"), "{shown}");
    let run = project.last_run();
    assert_eq!(task(&run, "b")["disabled"]["by"], "admin");
    assert_eq!(task(&run, "c")["hold"]["reason"], "look first");
    good(&project, &["mark", "last", "--job", "c", "--as", "succeeded", "--reason", "by hand"]);
    let said = good(&project, &["explain", "--job", "c"]);
    assert!(said.contains("    marked by   admin at ") && said.contains(": by hand\n"), "{said}");
    std::fs::write(outside.path().join("go"), "").unwrap();
    assert_eq!(project.wait_for_end()["state"], "succeeded");
}

#[test]
fn a_pool_that_nobody_set_is_told_of_before_a_job_waits_for_it() {
    let workflow = "workflow = {template(name='a', shell='true', pools='report'): []}";
    let project = Project::new(&[("workflows/w.py", workflow)]);
    let _server = project.up();
    good(&project, &["deploy"]);
    good(&project, &["pools", "set", "reports", "--slots", "1"]);
    for command in [["check"], ["deploy"]] {
        let ran = project.run(&command);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let said = ran.out + &ran.err;
        assert!(said.contains("job \"a\" waits for pool \"report\", which is not set"), "{said}");
        assert!(said.contains("Did you mean \"reports\"?"), "{said}");
    }
    let refused = project.run(&["pools", "remove", "report"]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.err.contains("has no pool \"report\"\n  hint: Did you mean \"reports\"?"), "{refused:?}");
    good(&project, &["pools", "set", "report", "--slots", "1"]);
    assert!(!project.run(&["check"]).out.contains("which is not set"));
    good(&project, &["pools", "remove", "report"]);
}
