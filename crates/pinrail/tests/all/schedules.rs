//! Schedules as people use them: they fire, are paused and resumed, and a plan says what a deploy does to them.

use serde_json::Value;

use crate::support::{Project, wait_until};

/// The runs of a project, newest first.
fn runs(project: &Project, more: &[&str]) -> Vec<Value> {
    let found = project.run(&[&["runs", "--json", "--limit", "500"], more].concat()).json();
    found["items"].as_array().unwrap().clone()
}

fn deploy(project: &Project) -> String {
    let deployed = project.run(&["deploy"]);
    assert_eq!(deployed.code, Some(0), "{deployed:?}");
    deployed.out
}

#[test]
fn a_schedule_fires_runs_is_paused_and_resumed() {
    let workflow = "workflow = Workflow({template(name='a', shell='echo $PINRAIL_INTERVAL_START'): []},
                                        schedule=every('1s', catch_up='none'), overrun='delay')";
    let project = Project::new(&[("workflows/w.py", workflow)]);
    let server = project.up();
    assert!(deploy(&project).contains("      next fire time "));
    wait_until("three runs have succeeded", || runs(&project, &["--in", "succeeded"]).len() >= 3);
    let fired = runs(&project, &[]);
    for run in &fired {
        assert_eq!((&run["class"], &run["cause"]["kind"]), (&"scheduled".into(), &"schedule".into()), "{run}");
    }
    let mut starts: Vec<&str> = fired.iter().map(|run| run["interval"]["start"].as_str().unwrap()).collect();
    starts.sort_unstable();
    starts.dedup();
    assert_eq!(starts.len(), fired.len(), "each interval has one run");

    let paused = project.run(&["pause", "w", "--reason", "the source is being repaired"]);
    assert_eq!(paused.code, Some(0), "{paused:?}");
    assert!(paused.out.contains("the schedule of w is paused"), "{}", paused.out);
    let listed = project.run(&["schedules"]).out;
    assert!(listed.contains("paused by admin at ") && listed.contains(": the source is being repaired"), "{listed}");
    let next = || project.run(&["schedules", "w", "--json"]).json()["next"][0]["fire_at"].clone();
    let first = next();
    wait_until("a fire time passes", || next() != first);
    let mut settled = Vec::new();
    wait_until("what was made before the pause is over", || {
        settled = runs(&project, &[]);
        settled.iter().all(|run| run["state"] == "succeeded")
    });
    // What is stored of a pause outlives the server, which must not fire after its start either.
    server.kill();
    let _server = project.up();
    assert!(project.run(&["schedules", "w"]).out.contains("would fire"), "it is paused");
    assert_eq!(runs(&project, &[]).len(), settled.len());

    let resumed = project.run(&["resume", "w"]);
    assert!(resumed.out.contains("the schedule of w is at work, next fire time "), "{resumed:?}");
    wait_until("it fires again", || runs(&project, &[]).len() > settled.len());
    let shown = project.run(&["schedules", "w"]).out;
    assert!(shown.contains("  overrun     delay"), "{shown}");
    assert!(shown.matches(", covers ").count() == 5, "{shown}");
    assert!(shown.contains("the schedule was paused"), "what passed meanwhile is told: {shown}");
}

#[test]
fn a_plan_tells_of_jobs_and_fire_times_and_changes_nothing() {
    let workflow = |hour: u32, more: &str| {
        format!(
            "workflow = Workflow({{template(name='a', shell='true'): [], {more}}},
                                 schedule=cron('0 {hour} * * *', tz='America/New_York', covers='day'))"
        )
    };
    let project = Project::new(&[("workflows/w.py", &workflow(6, "template(name='b', shell='true'): ['a']"))]);
    let said = deploy(&project);
    assert!(said.contains("schedule  0 6 * * * America/New_York, covers the day before\n"), "{said}");
    assert!(said.contains("note: schedules fire while a server is up: `pinrail up`"), "{said}");
    project.write("workflows/w.py", &workflow(7, "template(name='c', shell='true', retries=2): ['a']"));
    let plan = project.run(&["plan"]);
    assert_eq!(plan.code, Some(0), "{plan:?}");
    for line in [
        "would deploy project demo",
        "      job c  added\n",
        "      job b  removed\n",
        "schedule  0 6 * * * America/New_York, covers the day before → 0 7 * * * America/New_York, covers the day before\n",
        "fire times in the next 7 days: 7 lost, 7 new, ",
    ] {
        assert!(plan.out.contains(line), "{line}: {}", plan.out);
    }
    assert_eq!(project.run(&["plan", "--json"]).json()["dry_run"], true);
    assert!(project.run(&["schedules"]).out.contains("0 6 * * *"), "a plan changes nothing");
    project.write("workflows/w.py", &workflow(6, "template(name='b', shell='exit 0', retries=1): ['a']"));
    let plan = project.run(&["plan"]).out;
    assert!(plan.contains("      job b  changed: retries, shell\n"), "{plan}");
    assert!(!plan.contains("lost"), "the schedule stays: {plan}");
}

#[test]
fn what_has_no_schedule_is_refused_by_name() {
    let project = Project::new(&[("workflows/w.py", "workflow = {template(name='a', shell='true'): []}")]);
    deploy(&project);
    assert_eq!(project.run(&["schedules"]).out, "no deployed workflow has a schedule\n");
    for command in ["pause", "resume", "schedules"] {
        let refused = project.run(&[command, "w"]);
        assert_eq!(refused.code, Some(4), "{command}: {refused:?}");
        assert!(refused.err.contains("no deployed workflow \"w\" has a schedule"), "{refused:?}");
    }
}

#[test]
fn names_from_elsewhere_lead_to_the_commands() {
    let project = Project::new(&[]);
    for (word, meant) in [("unpause", "resume"), ("redo", "retry"), ("poison", "retry --job JOB+"), ("drain", "hold")] {
        let refused = project.run(&[word]);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.err.contains(&format!("Did you mean `pinrail {meant}`?")), "{refused:?}");
    }
}

#[test]
fn more_fire_times_than_fit_into_one_commit_make_one_run_each() {
    let workflow = "workflow = Workflow({template(name='a', shell='sleep 1000'): []}, overrun='delay',
        schedule=every('1m', start='2024-05-06', end='2024-05-07', catch_up='all'))";
    let project = Project::new(&[("workflows/w.py", workflow)]);
    let server = project.up();
    deploy(&project);
    let starts = || {
        let (mut starts, mut running, mut cursor) = (Vec::new(), 0, String::new());
        loop {
            let path = format!("/api/v1/runs?limit=500{cursor}");
            let (status, page) = project.curl(&path, &["-H", &project.admin()]);
            assert_eq!(status, 200, "{page}");
            for run in page["items"].as_array().unwrap() {
                starts.push(run["interval"]["start"].as_str().unwrap().to_owned());
                running += usize::from(run["state"] == "running");
            }
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return (starts, running),
            }
        }
    };
    let is_whole = || {
        let (mut starts, running) = starts();
        let number = starts.len();
        starts.sort_unstable();
        starts.dedup();
        assert_eq!(starts.len(), number, "each interval has one run");
        number == 2 * 24 * 60 && running == 1
    };
    wait_until("each minute of the two days has its run, of which the first began", is_whole);
    server.kill();
    let _server = project.up();
    wait_until("the next server finds the same", is_whole);
}
