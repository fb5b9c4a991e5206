//! Replays: what has run runs again from exactly what it was made of, beside the tables that count.

use serde_json::{Value, json};

#[cfg(feature = "lake")]
use crate::support::task;
use crate::support::{Project, Ran};

#[track_caller]
fn ran(project: &Project, arguments: &[&str], code: i32) -> Ran {
    let ran = project.run(arguments);
    assert_eq!(ran.code, Some(code), "{arguments:?}: {ran:?}");
    ran
}

fn id(run: &Value) -> String {
    run["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_replay_has_the_code_the_date_and_the_parameters_of_its_run() {
    let workflow = |text: &str, default: &str| {
        format!(
            "from pinrail import Param
workflow = Workflow({{
    template(name='a', shell='echo {text} $PINRAIL_DS $PINRAIL_PARAM_X; pinrail output rows 3'): [],
    template(name='b', shell='echo after'): ['a'],
}}, params={{'x': Param(str, default='{default}')}})"
        )
    };
    let project = Project::new(&[("workflows/w.py", &workflow("first", "p"))]);
    let first = ran(&project, &["run", "w", "--at", "2013-01-02", "--param", "x=q", "--json"], 0).json();
    project.write("workflows/w.py", &workflow("second", "z"));
    let told = ran(&project, &["replay", &id(&first)], 0);
    assert!(told.out.contains("2 jobs ended as in run "), "{told:?}");
    assert!(told.out.contains(" · target replay_"), "{told:?}");
    assert!(project.log("a").contains("first 2013-01-02 q"), "{}", project.log("a"));
    let replayed = project.last_run();
    assert_eq!((&replayed["replay_of"], &replayed["bundle"]), (&first["id"], &first["bundle"]));
    // One job of it, with what the one above had left.
    let one = ran(&project, &["replay", &id(&first), "--job", "b", "--json"], 0).json();
    assert_eq!(one["run"]["tasks"].as_array().unwrap().len(), 1);
    assert_eq!((&one["of"], &one["jobs"][0]["same"]), (&first["id"], &json!(true)));
    // A replay is no run of the workflow's own: the same interval runs beside it, and it can be done again itself.
    ran(&project, &["replay", "last"], 0);
    assert_eq!(project.last_run()["replay_of"], one["run"]["id"]);
    let dropped = ran(&project, &["replay", "last", "--drop"], 0);
    assert!(dropped.out.contains("dropped 0 tables of replay "), "{dropped:?}");
}

#[test]
fn what_comes_out_otherwise_is_told() {
    let project = Project::new(&[(".pinrailignore", "number.txt\n")]);
    let number = project.path().join("number.txt");
    std::fs::write(&number, "1").unwrap();
    let workflow = format!(
        "workflow = {{template(name='a', shell='pinrail output n $(cat {})'): [],
                     template(name='b', shell='exit 3'): ['a']}}",
        number.display()
    );
    project.write("workflows/w.py", &workflow);
    let first = ran(&project, &["run", "w", "--json"], 1).json();
    std::fs::write(&number, "2").unwrap();
    let told = ran(&project, &["replay", &id(&first)], 1);
    assert!(told.out.contains("n 1 → 2"), "{told:?}");
    assert!(told.out.contains("  failed, fault "), "{told:?}");
    assert!(told.out.contains("1 of 2 jobs ended otherwise than in run "), "{told:?}");
}

#[test]
fn a_run_that_is_not_over_is_not_replayed() {
    let project = Project::new(&[("workflows/w.py", "workflow = {template(name='a', shell='sleep 600'): []}")]);
    let _server = project.up();
    let run = ran(&project, &["run", "w", "--detach", "--json"], 0).json();
    let refused = ran(&project, &["replay", &id(&run)], 4);
    assert!(refused.err.contains("is not over, so there is nothing to compare with"), "{refused:?}");
    ran(&project, &["cancel", &id(&run)], 0);
    project.wait_for_end();
    let header = project.admin();
    let post = ["-X", "POST", "-H", &header, "-H", "Content-Type: application/json", "-d", "{}"];
    let (status, problem) = project.curl(&format!("/api/v1/runs/{}/replay/drop", id(&run)), &post);
    assert_eq!(status, 409, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("is no replay"), "{problem}");
}

#[cfg(feature = "lake")]
#[test]
fn a_replay_reads_what_its_run_read_and_writes_tables_of_its_own() {
    let rows = |project: &Project, sql: &str, more: &[&str]| {
        ran(project, &[&["sql", sql, "--json"], more].concat(), 0).json()["rows"].clone()
    };
    let project = Project::new(&[
        (
            "workflows/w.py",
            "workflow = {template(name='a', sql='sql/a.sql'): [], template(name='b', class_='jobs.b.b'): ['a']}",
        ),
        ("sql/a.sql", "-- writes: marts.a partition (day = {{ ds }})\nselect x from raw.source"),
        (
            "jobs/b.py",
            "def b(ctx):
    ctx.sql('create table if not exists marts.log (x bigint)')
    ctx.sql('insert into marts.log select count(*) from marts.a')
    ctx.output('n', ctx.sql('select count(*) as n from marts.a')[0].n)",
        ),
    ]);
    ran(&project, &["sql", "create table raw.source as select 1 as x"], 0);
    let first = ran(&project, &["run", "w", "--at", "2013-01-01", "--json"], 0).json();
    ran(&project, &["sql", "insert into raw.source values (2)"], 0);
    let told = ran(&project, &["replay", &id(&first), "--json"], 0).json();
    let replay = &told["run"];
    assert_eq!(task(replay, "a")["attempts"][0]["written"][0]["rows"], 1, "as the source was then: {replay}");
    assert_eq!(task(replay, "b")["outputs"]["n"], 1);
    let all = "select (select count(*) from marts.a), (select count(*) from marts.log)";
    assert_eq!(rows(&project, all, &[]), json!([[1, 1]]), "nothing was added");
    let target = replay["target"].as_str().unwrap();
    assert_eq!(rows(&project, all, &["--target", target]), json!([[1, 1]]));
    let listed = ran(&project, &["tables", "--target", target, "--json"], 0).json();
    let of =
        |item: &Value| format!("{} {}", item["table"].as_str().unwrap(), item["read_from"].as_str().unwrap_or("-"));
    let listed: Vec<String> = listed["items"].as_array().unwrap().iter().map(of).collect();
    assert_eq!(listed, ["marts.a -", "marts.log -", "raw.source original"]);
    let dropped = ran(&project, &["replay", &id(replay), "--drop"], 0);
    assert!(dropped.out.contains("dropped 2 tables of replay "), "{dropped:?}");
    let gone = ran(&project, &["tables", "--target", target], 4);
    assert!(gone.err.contains(&format!("target \"{target}\"")), "{gone:?}");
    assert_eq!(rows(&project, all, &[]), json!([[1, 1]]));
    // At once, when it has ended.
    let told = ran(&project, &["replay", &id(&first), "--drop"], 0);
    assert!(told.out.contains("dropped 2 tables"), "{told:?}");
    // A replay of a run at a target reads what that one read.
    project.write("pinrail.toml", "[project]\nname = \"demo\"\n[targets.dev]\nprefix = \"dev\"\nread_from = \"prod\"\n[targets.prod]\nprotected = true\n");
    let dev = ran(&project, &["run", "w", "--at", "2013-01-01", "--json"], 0).json();
    assert_eq!(task(&dev, "b")["outputs"]["n"], 2);
    let told = ran(&project, &["replay", &id(&dev), "--json"], 0).json();
    assert_eq!(task(&told["run"], "b")["outputs"]["n"], 2);
    assert_eq!(told["jobs"].as_array().unwrap().iter().filter(|job| job["same"] == true).count(), 2, "{told}");
}
