//! What a job waits for outside of its run: looked at by the server, without a slot; and whether it begins at all.

use serde_json::Value;

use crate::support::{Project, task, wait_until};

fn good(project: &Project, arguments: &[&str]) -> String {
    let ran = project.run(arguments);
    assert_eq!(ran.code, Some(0), "{arguments:?}: {ran:?}");
    ran.out
}

/// The one condition that a job waits for, once somebody has looked.
fn waiting(project: &Project, run: &str) -> Value {
    let mut condition = Value::Null;
    wait_until("the job waits for a condition", || {
        let ran = project.run(&["explain", run, "--json"]);
        if ran.code != Some(0) {
            return false;
        }
        let explained = ran.json()["items"][0].clone();
        condition = explained["conditions"][0].clone();
        explained["code"] == "waiting-for-conditions" && condition["found"] != ""
    });
    condition
}

#[test]
fn a_file_is_waited_for_without_a_slot_also_over_the_death_of_the_server() {
    let project = Project::new(&[(
        "workflows/w.py",
        "workflow = {template(name='a', shell='cat data/in-{}.csv'.format('$PINRAIL_DS'),
                             wait_for=File('data/in-{{ ds }}*.csv', every='200ms')): [],
                     template(name='b', shell='true'): []}",
    )]);
    project.write("pinrail.toml", "[project]\nname = \"demo\"\n[files]\ndata = \"data\"\n");
    project.write("data/in-2023-12-31.csv", "not this one");
    let server = project.up();
    good(&project, &["run", "w", "--at", "2024-01-02", "--detach"]);
    let condition = waiting(&project, "w@2024-01-02");
    assert_eq!(
        (&condition["what"], &condition["found"], &condition["met"]),
        (&"file \"data/in-2024-01-02*.csv\"".into(), &"no such file".into(), &false.into())
    );
    wait_until("the other job is done", || task(&project.last_run(), "b")["state"] == "succeeded");
    assert_eq!(task(&project.last_run(), "a")["state"], "waiting");
    let told = good(&project, &["explain"]);
    assert!(told.contains("a waits for file \"data/in-2024-01-02*.csv\"\n    last look   no such file (at "), "{told}");
    assert!(told.contains("pinrail release ") && told.contains(" --job a"), "{told}");
    server.kill();
    let _server = project.up();
    project.write("data/in-2024-01-02.csv", "1\n");
    let run = project.wait_for_end();
    assert_eq!(run["state"], "succeeded", "{run}");
}

#[test]
fn what_does_not_come_is_given_up_and_a_person_can_let_it_go_on() {
    let project = Project::new(&[(
        "workflows/w.py",
        "workflow = {template(name='fails', shell='true', wait_for=File('none', timeout='300ms', every='100ms')): [],
                     template(name='skips', shell='true', wait_for=File('none', timeout='300ms', otherwise='skip')): [],
                     template(name='wrong', shell='true', wait_for=SqlTrue('selekt 1')): [],
                     template(name='goes', shell='true', wait_for=File('none')): []}",
    )]);
    let _server = project.up();
    good(&project, &["run", "w", "--detach"]);
    wait_until("two are given up", || {
        let run = project.last_run();
        ["fails", "wrong"].iter().all(|job| task(&run, job)["state"] == "failed")
            && task(&run, "skips")["state"] == "skipped"
    });
    let said = good(&project, &["explain", "--job", "fails"]);
    assert!(said.contains("it waited 0.3 s for file \"none\" in vain"), "{said}");
    let said = good(&project, &["explain", "--job", "skips"]);
    assert!(said.contains("skips was skipped: it waited for file \"none\": no such file"), "{said}");
    let said = good(&project, &["explain", "--job", "wrong"]);
    assert!(said.contains("what it waits for cannot be looked at: "), "{said}");
    let run = project.last_run()["id"].as_str().unwrap().to_owned();
    good(&project, &["release", &run, "--job", "goes"]);
    let run = project.wait_for_end();
    assert_eq!(task(&run, "goes")["state"], "succeeded", "{run}");
}

#[test]
fn branches_take_the_way_that_an_output_says() {
    let project = Project::new(&[(
        "workflows/w.py",
        "workflow = Workflow({
             template(name='count', shell='pinrail output rows $PINRAIL_PARAM_ROWS'): [],
             template(name='many', shell='true', when='upstream.count.rows|int > 10'): ['count'],
             template(name='few', shell='true', when='upstream.count.rows|int <= 10'): ['count'],
             template(name='end', shell='true', run_if='none_failed'): ['many', 'few'],
             template(name='bad', shell='true', when='upstream.count.nothing > 1', may_fail=True): ['count'],
         }, params={'rows': Param(int, default=5)})",
    )]);
    for (rows, taken, left) in [("5", "few", "many"), ("50", "many", "few")] {
        good(&project, &["run", "w", "--param", &format!("rows={rows}")]);
        let run = project.last_run();
        assert_eq!(task(&run, taken)["state"], "succeeded", "{run}");
        assert_eq!(task(&run, left)["state"], "skipped", "{run}");
        assert_eq!(task(&run, "end")["state"], "succeeded", "{run}");
        assert_eq!(task(&run, "bad")["state"], "failed", "{run}");
    }
    let said = good(&project, &["explain", "--job", "few"]);
    assert!(said.contains("few was skipped: it waited for that upstream.count.rows|int <= 10: it is false"), "{said}");
}

#[test]
fn a_run_of_another_workflow_is_waited_for_by_matching_interval() {
    let project = Project::new(&[
        (
            "workflows/hourly.py",
            "workflow = Workflow({template(name='a', shell='true'): []}, schedule=cron('0 * * * *'))",
        ),
        (
            "workflows/daily.py",
            "workflow = Workflow({template(name='a', shell='true'): []}, schedule=cron('0 2 * * *', covers='day'))",
        ),
        (
            "workflows/w.py",
            "workflow = Workflow({template(name='one', shell='true', wait_for=RunOf('daily', job='a')): [],
                                  template(name='all', shell='true', wait_for=RunOf('hourly')): ['one']},
                                 schedule=cron('0 3 * * *', covers='day'))",
        ),
    ]);
    let _server = project.up();
    good(&project, &["deploy"]);
    good(&project, &["run", "w", "--deployed", "--at", "2024-01-02", "--detach"]);
    let condition = waiting(&project, "w@2024-01-02");
    assert_eq!(
        condition["found"],
        "succeeded for 0 of 1: the same interval; missing is that from 2024-01-02T00:00:00.000000Z"
    );
    good(&project, &["run", "daily", "--deployed", "--at", "2024-01-02"]);
    wait_until("the second job waits", || task(&project.shown("w@2024-01-02"), "one")["state"] == "succeeded");
    let condition = waiting(&project, "w@2024-01-02");
    let found = condition["found"].as_str().unwrap();
    assert!(found.starts_with("succeeded for 0 of 24: the 24 intervals from 2024-01-02T00:00:00"), "{found}");
    good(&project, &["backfill", "hourly", "--from", "2024-01-02", "--to", "2024-01-02"]);
    wait_until("it is over", || project.shown("w@2024-01-02")["state"] == "succeeded");
}

#[test]
fn a_condition_that_is_none_is_told_with_its_place() {
    let project = Project::new(&[
        (
            "workflows/w.py",
            "workflow = {template(name='a', shell='true', wait_for='data/x.csv'): [],
                     template(name='b', shell='true', wait_for=[File('x', otherwise='wait')]): [],
                     template(name='c', shell='true', wait_for=Url('http://x/', status='200')): []}",
        ),
        (
            "workflows/v.py",
            "workflow = {template(name='a', shell='true', wait_for=File('../x')): [],
                     template(name='b', shell='true', when='upstream.a.rows > '): ['a'],
                     template(name='c', shell='true', when='upstream.b.rows > 1'): ['a'],
                     template(name='d', shell='true', wait_for=File('{{ date }}.csv')): []}",
        ),
    ]);
    let ran = project.run(&["check"]);
    assert_eq!(ran.code, Some(3));
    for said in [
        "setting \"wait_for\" of job \"a\" must be a condition or a list of them, not \"data/x.csv\"",
        "conditions whose otherwise is \"fail\" or \"skip\", not \"wait\"",
        "\"status\" is \"200\", not a number such as 200",
        "condition of job \"a\": path \"../x\" is not relative to the project's folder, or leads out of it",
        "condition of job \"b\": expression \"upstream.a.rows > \": syntax error",
        "condition of job \"c\": it names \"upstream.b.rows\", and the job does not wait for that one",
        "condition of job \"d\": it names \"date\"; there are ds, interval, params, upstream and var",
    ] {
        assert!(ran.out.contains(said) || ran.err.contains(said), "{said}: {ran:?}");
    }
}

#[test]
fn an_endpoint_is_asked_until_it_answers_as_it_should() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answers = std::thread::spawn(move || {
        for answer in ["503 Unavailable\r\nContent-Length: 0\r\n\r\n", "200 OK\r\nContent-Length: 5\r\n\r\nready"] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let _ = std::io::Read::read(&mut stream, &mut request).unwrap();
            std::io::Write::write_all(&mut stream, format!("HTTP/1.1 {answer}").as_bytes()).unwrap();
        }
    });
    let project = Project::new(&[(
        "workflows/w.py",
        &format!(
            "workflow = {{template(name='a', shell='true',
                                   wait_for=Url('http://{address}/', contains='ready', every='200ms')): []}}"
        ),
    )]);
    good(&project, &["run", "w"]);
    answers.join().unwrap();
    assert_eq!(project.last_run()["state"], "succeeded");
}

#[cfg(feature = "lake")]
#[test]
fn tables_are_waited_for_and_a_publication_wakes_who_waits() {
    let project = Project::new(&[(
        "workflows/w.py",
        "workflow = {template(name='rows', shell='true', wait_for=Rows('raw.t', partition={'day': '{{ ds }}'}, every='1h')): [],
                     template(name='mark', shell='true', wait_for=Watermark('raw.t', 'n', '5', every='1h')): [],
                     template(name='true', shell='true', wait_for=SqlTrue('select count(*) > 1 from raw.t', every='1h')): [],
                     template(name='bad', shell='true', wait_for=SqlTrue('selekt 1'), may_fail=True): []}",
    ), (
        "workflows/fill.py",
        "workflow = {template(name='fill', sql=Sql(\"insert into raw.t select 5 as n, '2024-01-02' as day\")): []}",
    )]);
    let _server = project.up();
    good(&project, &["sql", "create table raw.t (n bigint, day varchar)"]);
    good(&project, &["sql", "insert into raw.t values (1, '2024-01-01')"]);
    good(&project, &["run", "w", "--at", "2024-01-02", "--detach"]);
    wait_until("it is told of all three", || {
        let told = project.run(&["explain", "w@2024-01-02", "--job", "rows"]).out;
        told.contains("last look   it is false")
    });
    assert_eq!(task(&project.shown("w@2024-01-02"), "mark")["state"], "waiting");
    good(&project, &["run", "fill"]);
    wait_until("it is over", || project.shown("w@2024-01-02")["state"] == "succeeded");
    let said = good(&project, &["explain", "w@2024-01-02", "--job", "bad"]);
    assert!(said.contains("what it waits for cannot be looked at"), "{said}");
}
