//! What people do to runs and to wholes: marks, holds, switches, other code, pools.

use crate::support::{Project, task, wait_until};

fn good(project: &Project, arguments: &[&str]) -> String {
    let ran = project.run(arguments);
    assert_eq!(ran.code, Some(0), "{arguments:?}: {ran:?}");
    ran.out
}

#[test]
fn a_failed_job_is_marked_and_the_run_goes_on() {
    let project = Project::new(&[(
        "workflows/w.py",
        "workflow = {template(name='a', shell='exit 1'): [], template(name='b', shell='true'): ['a'],
                     template(name='c', shell='true'): ['b']}",
    )]);
    let _server = project.up();
    assert_eq!(project.run(&["run", "w"]).code, Some(1));
    let said = good(&project, &["mark", "--job", "a", "--as", "succeeded", "--reason", "loaded by hand"]);
    assert!(said.starts_with("a of run ") && said.ends_with(" marked as succeeded\n"), "{said}");
    let run = project.wait_for_end();
    assert_eq!((&run["state"], &task(&run, "c")["state"]), (&"succeeded".into(), &"succeeded".into()), "{run}");
    assert_eq!(project.run(&["run", "w", "--at", "2024-01-02"]).code, Some(1));
    good(&project, &["skip", "w@2024-01-02", "--job", "a"]);
    let run = project.wait_for_end();
    assert_eq!(task(&run, "a")["state"], "skipped", "{run}");
}

#[test]
fn a_run_and_a_job_are_held_and_released() {
    let project = Project::new(&[(
        "workflows/w.py",
        "workflow = {template(name='a', shell='until test -e go; do sleep 0.05; done'): [],
                     template(name='b', shell='true'): ['a']}",
    )]);
    let _server = project.up();
    good(&project, &["run", "w", "--detach"]);
    wait_until("a is at work", || task(&project.last_run(), "a")["state"] == "executing");
    let run = project.last_run()["id"].as_str().unwrap().to_owned();
    let said = good(&project, &["hold", &run, "--job", "b", "--reason", "look first"]);
    assert!(said.contains(&format!("pinrail release {} --job b", &run[run.len() - 4..])), "{said}");
    good(&project, &["mark", &run, "--job", "b", "--as", "skipped"]);
    good(&project, &["cancel", &run]);
    project.wait_for_end();

    good(&project, &["hold", "--workflow", "w", "--reason", "the source is being repaired"]);
    let listed = good(&project, &["holds"]);
    assert!(listed.contains("workflow w of project demo  held by admin at "), "{listed}");
    good(&project, &["run", "w", "--at", "2024-01-02", "--detach"]);
    let mut said = String::new();
    wait_until("the run waits", || {
        said = project.run(&["explain", "w@2024-01-02"]).out;
        said.contains("workflow w is held by admin at ")
    });
    assert!(said.contains(": the source is being repaired") && said.contains("pinrail release --workflow w"), "{said}");
    good(&project, &["release", "--workflow", "w"]);
    wait_until("it goes on", || task(&project.last_run(), "a")["state"] == "executing");
    assert_eq!(good(&project, &["holds"]), "nothing is held as a whole\n");
    let said = good(&project, &["hold", "--platform", "--abort", "--reason", "upgrade"]);
    assert!(said.contains("the platform is held: nothing new begins, what is under way is being stopped"), "{said}");
    assert_eq!(project.wait_for_end()["state"], "cancelled");
    good(&project, &["release", "--platform"]);
    assert_eq!(project.run(&["hold"]).code, Some(2), "what is to be held must be said");
}

#[test]
fn jobs_that_have_not_begun_are_switched_off_and_get_other_code() {
    let outside = tempfile::tempdir().unwrap();
    let go = outside.path().join("go");
    let workflow = |b: &str| {
        format!(
            "workflow = {{template(name='a', shell='until test -e {}; do sleep 0.05; done'): [],
                         template(name='b', shell='{b}'): ['a'], template(name='c', shell='exit 1'): ['b'],
                         template(name='d', shell='true'): ['c']}}",
            go.display()
        )
    };
    let project = Project::new(&[("workflows/w.py", &workflow("exit 1"))]);
    let _server = project.up();
    good(&project, &["deploy"]);
    good(&project, &["run", "w", "--deployed", "--detach"]);
    wait_until("a is at work", || task(&project.last_run(), "a")["state"] == "executing");
    good(&project, &["disable", "--job", "c,d", "--reason", "not today"]);
    good(&project, &["enable", "--job", "d"]);
    project.write("workflows/w.py", &workflow("true"));
    good(&project, &["deploy"]);
    let said = good(&project, &["reload"]);
    assert!(said.contains("goes on with the deployed code for the jobs that have not begun"), "{said}");
    std::fs::write(&go, "").unwrap();
    let run = project.wait_for_end();
    let states: Vec<&str> = ["a", "b", "c", "d"].map(|job| task(&run, job)["state"].as_str().unwrap()).to_vec();
    assert_eq!(states, ["succeeded", "succeeded", "disabled", "succeeded"], "{run}");
}

#[test]
fn a_failed_run_is_retried_with_the_deployed_code() {
    let project = Project::new(&[("workflows/w.py", "workflow = {template(name='a', shell='exit 1'): []}")]);
    let _server = project.up();
    assert_eq!(project.run(&["run", "w"]).code, Some(1));
    assert_eq!(project.run(&["retry", "--code", "deployed"]).code, Some(4), "it is not deployed");
    project.write("workflows/w.py", "workflow = {template(name='a', shell='true'): []}");
    good(&project, &["deploy"]);
    assert_eq!(project.run(&["retry"]).code, Some(1), "a run keeps its code");
    let said = good(&project, &["retry", "--code", "deployed"]);
    assert!(said.contains("· deployed version ·"), "{said}");
}

#[test]
fn a_full_pool_is_explained_by_who_holds_it() {
    let outside = tempfile::tempdir().unwrap();
    let go = outside.path().join("go");
    let wait = format!("until test -e {}; do sleep 0.05; done", go.display());
    let workflow = format!(
        "workflow = {{template(name='a', shell='{wait}', pools='reports'): [],
                     template(name='b', shell='true', pools='reports'): []}}"
    );
    let project = Project::new(&[("workflows/w.py", &workflow)]);
    let _server = project.up();
    good(&project, &["deploy"]);
    assert_eq!(good(&project, &["pools"]), "project demo has no pools\n");
    good(&project, &["run", "w", "--job", "b", "--at", "2024-01-03", "--detach"]);
    let unset = "b waits: pool \"reports\" has no slots; nobody has set it";
    wait_until("b waits for a pool", || project.run(&["explain", "w@2024-01-03"]).out.contains(unset));
    assert_eq!(
        good(&project, &["pools", "set", "reports", "--slots", "1", "--description", "the old database"]),
        "pool reports has 1 slot\n"
    );
    assert_eq!(project.wait_for_end()["state"], "succeeded");
    let listed = good(&project, &["pools"]);
    assert!(listed.contains("reports  1      admin  ") && listed.contains("the old database"), "{listed}");
    good(&project, &["run", "w", "--job", "a", "--at", "2024-01-01", "--detach"]);
    wait_until("a is at work", || task(&project.last_run(), "a")["state"] == "executing");
    good(&project, &["run", "w", "--job", "b", "--at", "2024-01-02", "--detach"]);
    let mut said = String::new();
    wait_until("b waits", || {
        said = project.run(&["explain", "w@2024-01-02"]).out;
        said.contains("waits")
    });
    assert!(said.contains("  b waits: pool \"reports\" is full (1 of 1 slots)\n"), "{said}");
    assert!(said.contains("    held by     ") && said.contains(" a of w since "), "{said}");
    assert!(said.contains("    queue       1 of 1\n"), "{said}");
    assert!(said.contains("pinrail pools set reports --slots 2"), "{said}");
    good(&project, &["pools", "set", "reports", "--slots", "2"]);
    assert_eq!(project.wait_for_end()["state"], "succeeded", "there is room now");
    std::fs::write(&go, "").unwrap();
    good(&project, &["pools", "remove", "reports"]);
    good(&project, &["limits", "set", "quota", "5"]);
    good(&project, &["limits", "set", "weight", "2"]);
    let listed = good(&project, &["limits"]);
    assert!(listed.contains("quota   5") && listed.contains("weight  2") && !listed.contains("pool"), "{listed}");
    good(&project, &["limits", "remove", "quota"]);
}
