//! `pinrail simulate`: what schedules, pools and durations come to, without anything being run.

use serde_json::{Value, json};

use crate::support::Project;

const REPORT: &str = "from pinrail import Workflow, cron, template
workflow = Workflow({template(name='ask', shell='true', pools='orders'): []},
                    schedule=cron('0 6 * * *', tz='UTC'), sla='90m')";
const LOAD: &str = "from pinrail import Workflow, cron, template
workflow = Workflow({template(name='copy', shell='true', pools='orders'): []},
                    schedule=cron('0 6 * * *', tz='UTC'))";

fn shop() -> Project {
    let project = Project::new(&[("workflows/report.py", REPORT), ("workflows/load.py", LOAD)]);
    // The project must be known before it has pools.
    assert_eq!(project.run(&["deploy"]).code, Some(0));
    let set = project.run(&["pools", "set", "orders", "--slots", "1"]);
    assert_eq!(set.code, Some(0), "{set:?}");
    project
}

fn simulated(project: &Project, more: &[&str]) -> Value {
    let mut arguments = vec!["simulate", "--json", "--from", "2024-05-06", "--slots", "4"];
    arguments.extend(more);
    let ran = project.run(&arguments);
    assert_eq!(ran.code, Some(0), "{arguments:?}: {ran:?}");
    ran.json()
}

fn pool(found: &Value) -> Value {
    found["limits"].as_array().unwrap().iter().find(|limit| limit["name"] == "orders").unwrap().clone()
}

const TOOK: [&str; 4] = ["--duration", "copy=3600", "--duration", "report/ask=3000"];

#[test]
fn a_pool_of_one_slot_makes_a_workflow_miss_its_sla_and_a_second_slot_mends_it() {
    let project = shop();
    let found = simulated(&project, &TOOK);
    let orders = pool(&found);
    assert_eq!((&orders["waits"], &orders["most_waiting"]), (&json!(7), &json!(1)), "{found}");
    assert_eq!((&orders["waited_seconds"], &orders["longest"]["job"]), (&json!(25_200.0), &json!("ask")));
    assert_eq!((&found["run_count"], &found["missed_count"]), (&json!(14), &json!(7)));
    let missed = &found["missed"][0];
    assert_eq!((&missed["workflow"], &missed["late_seconds"]), (&json!("report"), &json!(1200.0)));
    assert_eq!(missed["ended_at"], "2024-05-06T07:50:00.000000Z");
    let found = simulated(&project, &[&TOOK[..], &["--pool", "orders=2"]].concat());
    assert_eq!((&pool(&found)["waits"], &found["missed_count"]), (&json!(0), &json!(0)));
    assert_eq!(project.run(&["runs", "--json"]).json()["items"], json!([]), "nothing is run");
}

#[test]
fn people_read_what_waits_what_is_missed_and_what_was_assumed() {
    let project = shop();
    let ran = project.run(&["simulate", "--from", "2024-05-06", "--slots", "4", "--duration", "copy=7200", "--runs"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for line in [
        "2024-05-06 00:00 to 2024-05-13 00:00 UTC: 14 fire times, 14 attempts",
        "  longest at pool orders: ask of report 2024-05-06 06:00 waited 2.0 h from 2024-05-06 06:00",
        "7 SLAs missed",
        "  report 2024-05-06 06:00 was due 2024-05-06 07:30 and is late by 31 min: it ends 2024-05-06 08:01",
        "taken to last 60.0 s, because they never succeeded: report/ask",
    ] {
        assert!(ran.out.lines().any(|said| said == line), "{line} is not in {}", ran.out);
    }
}

#[test]
fn durations_are_those_that_were_recorded() {
    let project = shop();
    let ran = project.run(&["run", "report"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let found = simulated(&project, &[]);
    assert_eq!(found["assumed"], json!([{"workflow": "load", "job": "copy"}]), "{found}");
    // The copy goes first; a job that took next to no time follows.
    let longest = pool(&found)["longest"].clone();
    assert_eq!((&longest["job"], &longest["seconds"]), (&json!("ask"), &json!(60.0)));
}

#[test]
fn deployed_workflows_are_simulated_as_well_and_what_is_not_there_is_refused() {
    let project = shop();
    project.write("workflows/new.py", &LOAD.replace("copy", "other"));
    assert_eq!(simulated(&project, &["--days", "1"])["run_count"], 3);
    let found = simulated(&project, &["--code", "deployed", "--days", "1"]);
    assert_eq!(found["run_count"], 2, "{found}");
    for (flags, said) in [
        (["--pool", "order=2"], "no job names pool \"order\", and it is not set"),
        (["--duration", "asks=2"], "no workflow has a job \"asks\""),
        (["--pool", "orders"], "--pool \"orders\" is no name and number"),
        (["--from", "monday"], "--from \"monday\" is no date"),
    ] {
        let ran = project.run(&[&["simulate"], &flags[..]].concat());
        assert!(ran.code != Some(0) && ran.err.contains(said), "{ran:?}");
    }
}
