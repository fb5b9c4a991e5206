//! SQL through the binary: jobs, ad hoc statements, tables of the platform itself.

use serde_json::{Value, json};

use crate::support::{Project, Server, task, wait_until};

const WORKFLOW: &str = "
from pinrail import Table
workflow = {
    template(name='load', sql='sql/load.sql'): [],
    template(name='count', class_='jobs.a.Count'): ['load'],
}
";
const LOAD: &str =
    "-- writes: raw.numbers partition (day = {{ ds }})\nselect i as n from generate_series(1, 3) as s(i)";
const COUNT: &str = "
class Count:
    def execute(self, ctx):
        rows = ctx.sql('select n, cast(n as decimal(10, 2)) / 4 as part, day from raw.numbers order by n')
        ctx.output('first', [rows[0].n, str(rows[0].part), rows[0].day.isoformat()])
        ctx.sql('create table marts.total as select sum(n) as total from raw.numbers')
    def complete(self, ctx, result):
        ctx.check('sum', ctx.sql('select total from marts.total')[0].total == 6)
        ctx.counter('seen', 3)
";

fn numbers() -> Project {
    Project::new(&[("workflows/w.py", WORKFLOW), ("sql/load.sql", LOAD), ("jobs/a.py", COUNT)])
}

fn rows(project: &Project, sql: &str) -> Value {
    let ran = project.run(&["sql", sql, "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran.json()["rows"].clone()
}

#[test]
fn sql_jobs_and_python_jobs_share_tables_that_appear_with_success() {
    let project = numbers();
    let run = project.run(&["run", "w", "--at", "2013-01-02", "--json"]).json();
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(task(&run, "count")["outputs"]["first"], json!([1, "0.250000", "2013-01-02"]));
    assert_eq!(rows(&project, "select total from marts.total"), json!([[6]]));
    // A rerun replaces its partition; the table that is made anew is refused, and nothing of that attempt stays.
    let run = project.run(&["run", "w", "--at", "2013-01-02", "--json"]).json();
    let attempt = &task(&run, "count")["attempts"][0];
    assert_eq!((&run["state"], &attempt["fault"]), (&json!("failed"), &json!("user")), "{run}");
    assert_eq!(rows(&project, "select count(*), min(day) from raw.numbers"), json!([[3, "2013-01-02"]]));
}

#[test]
fn a_failure_names_the_tables_that_were_not_published() {
    let job =
        |then: &str| format!("def a(ctx):\n    ctx.sql('create or replace table t.old as select 1 as x')\n{then}");
    let project = Project::new(&[
        ("workflows/w.py", "workflow = {template(name='a', class_='jobs.a.a'): []}"),
        ("jobs/a.py", &job("")),
    ]);
    assert_eq!(project.run(&["run", "w"]).code, Some(0));
    project
        .write("jobs/a.py", &job("    ctx.sql('create table t.new as select 2 as x')\n    raise ValueError('no')\n"));
    let ran = project.run(&["run", "w"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.out.contains("    not published: t.old keeps the snapshot of 20"), "{}", ran.out);
    assert!(ran.out.contains("    not published: t.new was not made\n"), "{}", ran.out);
}

#[test]
fn the_platform_is_a_set_of_tables() {
    let project = numbers();
    assert_eq!(project.run(&["run", "w", "--at", "2013-01-02"]).code, Some(0));
    let attempts = "select a.job, a.state, a.fault, r.workflow, a.ended_at > a.started_at
                      from system.attempts a join system.runs r using (run_id) order by job";
    let expected = json!([["count", "succeeded", null, "w", true], ["load", "succeeded", null, "w", true]]);
    assert_eq!(rows(&project, attempts), expected);
    let counters = "select job, c.\"group\", name, value from system.counters c join system.attempts using (attempt_id)
                     where name in ('rows_written', 'seen') order by 1, 2, 3";
    let expected = json!([
        ["count", "sql", "rows_written", 1.0],
        ["count", "user", "seen", 3.0],
        ["load", "sql", "rows_written", 3.0]
    ]);
    assert_eq!(rows(&project, counters), expected);
    let timed =
        "select count(*) from system.counters where \"group\" = 'phase' and name = 'execute_seconds' and value > 0";
    assert_eq!(rows(&project, timed), json!([[2]]));
    assert_eq!(
        rows(&project, "select job, state, attempts from system.tasks order by job")[0],
        json!(["count", "succeeded", 1])
    );
    assert_eq!(rows(&project, "describe system.tasks")[2], json!(["job", "string", null]));
    for refused in
        ["create table system.x as select 1 as a", "drop table system.runs", "insert into system.runs select 1"]
    {
        let ran = project.run(&["sql", refused]);
        assert_ne!(ran.code, Some(0), "{refused}");
        assert!(ran.err.contains("belongs to the platform and cannot be written"), "{ran:?}");
    }
    let missing = project.run(&["sql", "select * from system.attempt"]);
    assert!(missing.err.contains("Did you mean system.attempts?"), "{missing:?}");
}

#[test]
fn statements_see_the_projects_files_and_nothing_else() {
    let project = Project::new(&[("data.csv", "a,b\n1,NA\n2,x\n"), ("secret/.git/config", "a\n1\n")]);
    assert_eq!(
        rows(&project, "select a, b from read_csv('data.csv', nullstr => 'NA') order by a"),
        json!([[1, null], [2, "x"]])
    );
    std::os::unix::fs::symlink("/etc/passwd", project.path().join("linked.csv")).unwrap();
    std::fs::write(project.path().join(".pinrailignore"), "linked.csv\n").unwrap();
    for path in [
        "/etc/passwd",
        "../x.csv",
        ".pinrail/state.db",
        ".pinrail/admin.token",
        "file:///etc/passwd",
        "linked.csv",
        ".git/config",
    ] {
        let ran = project.run(&["sql", &format!("select * from read_csv('{path}')")]);
        assert_ne!(ran.code, Some(0), "{path}: {ran:?}");
        assert!(ran.err.contains("error: "), "{path}: {ran:?}");
    }
}

#[test]
fn a_mistake_in_a_job_is_told_with_file_line_and_column() {
    let project = numbers();
    project.write("sql/load.sql", "-- writes: raw.numbers\nselect i as n\nfrom generate_series(1, 3) as s(j)");
    let ran = project.run(&["run", "w"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.out.contains("sql/load.sql:2:8: column \"i\" not found"), "{ran:?}");
    assert!(
        project.log("load").starts_with("error: sql/load.sql:2:8: column \"i\" not found"),
        "{}",
        project.log("load")
    );
}

#[test]
fn a_query_is_followed_fetched_in_any_format_and_cancelled() {
    let project = numbers();
    let _server = project.up();
    // A project begins with its first bundle.
    assert_eq!(project.run(&["check"]).code, Some(0));
    let admin = project.admin();
    let ask = |method: &str, path: &str, body: &Value| {
        project.curl(path, &["-X", method, "-H", &admin, "-d", &body.to_string()])
    };
    let (status, query) =
        ask("POST", "/api/v1/projects/demo/queries", &json!({"sql": "select 1 as a, 'x' as b", "wait": 60}));
    assert_eq!((status, &query["state"], &query["rows"]), (201, &json!("succeeded"), &json!(1)), "{query}");
    let path = format!("/api/v1/queries/{}", query["id"].as_str().unwrap());
    let result = |format: &str| {
        let url = format!("{}{path}/result?format={format}", project.url());
        std::process::Command::new("curl").args(["-s", "-H", &admin, &url]).output().unwrap().stdout
    };
    let rows = serde_json::from_slice::<Value>(&result("json")).unwrap();
    assert_eq!(
        rows,
        json!({"columns": [{"name": "a", "type": "long"}, {"name": "b", "type": "string"}], "rows": [[1, "x"]]})
    );
    assert_eq!(String::from_utf8(result("csv")).unwrap(), "a,b\r\n1,x\r\n");
    assert_eq!(&result("arrow")[..4], [0xff; 4], "an Arrow IPC stream begins with a continuation mark");

    let (_, failed) = ask("POST", "/api/v1/projects/demo/queries", &json!({"sql": "selec 1", "wait": 60}));
    assert_eq!((&failed["state"], &failed["error"]["code"]), (&json!("failed"), &json!("bad-sql")), "{failed}");
    let endless = "create table t as select a.i from generate_series(1, 100000000) as a(i) cross join generate_series(1, 1000) as c(j)";
    let (_, begun) = ask("POST", "/api/v1/projects/demo/queries", &json!({"sql": endless}));
    assert_eq!(begun["state"], "running");
    let path = format!("/api/v1/queries/{}", begun["id"].as_str().unwrap());
    assert_eq!(project.curl(&format!("{path}/result"), &["-H", &admin]).0, 409);
    let (_, cancelled) = ask("POST", &format!("{path}/cancel"), &json!({}));
    assert_eq!(cancelled["state"], "cancelled", "{cancelled}");
    assert_eq!(ask("POST", &format!("{path}/cancel"), &json!({})).0, 409);
    let (_, listed) = project.curl("/api/v1/projects/demo/queries", &["-H", &admin]);
    assert_eq!(listed["items"].as_array().unwrap().len(), 3);
    assert_eq!(project.run(&["tables", "--json"]).json()["items"], json!([]));
}

/// Threads of queries that a server has.
fn threads_of_queries(server: &Server) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.child.id())).unwrap();
    let names = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.trim() == "query").count()
}

#[test]
fn a_query_that_computes_without_a_pause_neither_blocks_others_nor_outlives_its_cancellation() {
    let project = numbers();
    let server = project.up();
    let admin = project.admin();
    let ask = |path: &str, body: &Value| project.curl(path, &["-X", "POST", "-H", &admin, "-d", &body.to_string()]);
    // Sends the project, which a query must be of.
    assert_eq!(rows(&project, "select 1 as a"), json!([[1]]));
    let pairs = "select count(*) from generate_series(1, 100000) as a(i) cross join generate_series(1, 100000) as b(j)";
    let endless = [
        " where i * 2 + j = 7",
        " cross join generate_series(1, 100000) as c(k)",
        " where i + j < 0",
        " where (i + j) % 1000001 = 1000000",
    ];
    let begun: Vec<Value> =
        endless.map(|rest| ask("/api/v1/projects/demo/queries", &json!({"sql": format!("{pairs}{rest}")})).1).to_vec();
    // More of them than the machine has processors do not keep a small one, or the catalog, from its answer.
    assert_eq!(rows(&project, "select 1 as a"), json!([[1]]));
    assert_eq!(project.run(&["tables", "--json"]).json()["items"], json!([]));
    assert!(threads_of_queries(&server) > 0);
    for query in begun {
        let (_, cancelled) = ask(&format!("/api/v1/queries/{}/cancel", query["id"].as_str().unwrap()), &json!({}));
        assert_eq!(cancelled["state"], "cancelled", "{cancelled}");
    }
    wait_until("no query computes any more", || threads_of_queries(&server) == 0);
}

#[test]
fn statements_come_from_a_file_or_from_standard_input() {
    let project = Project::new(&[
        ("sql/few.sql", "-- Two of them.\ncreate table t as select 1 as a;\nselect a + 1 as b from t;\n"),
        ("sql/wrong.sql", "select 1 as a;\nselect\n  c\nfrom t\n"),
    ]);
    let file = |name: &str| project.path().join(name).display().to_string();
    let ran = project.run(&["sql", "-f", &file("sql/few.sql"), "--format", "csv"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "b\r\n2\r\n"), "{ran:?}");
    let wrong = file("sql/wrong.sql");
    let ran = project.run(&["sql", "--file", &wrong]);
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert!(ran.err.starts_with(&format!("error: {wrong}:3:3: column \"c\" not found in t")), "{ran:?}");
    let ran = project.run_with(&["sql", "-", "--format", "csv"], "-- From a pipe.\nselect a from t");
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "a\r\n1\r\n"), "{ran:?}");
    assert_eq!(project.run(&["sql"]).code, Some(2));
    let ran = project.run(&["sql", "-f", "nope.sql"]);
    assert!(ran.err.starts_with("error: file \"nope.sql\" cannot be read"), "{ran:?}");
}

#[test]
fn check_looks_into_the_sql_of_the_jobs() {
    let workflow = "
from pinrail import Param, Sql, Workflow
workflow = Workflow({
    template(name='load', sql='sql/load.sql'): [],
    template(name='size', sql='sql/size.sql'): ['load'],
    template(name='good', sql='sql/good.sql'): ['load', 'size'],
    template(name='inline', sql=Sql(text='select a, from raw.t')): ['load'],
    template(name='python', class_='jobs.a.Any'): [],
    template(name='after', sql=Sql(text='select gone from raw.kept')): ['python'],
}, params={'least': Param(int), 'word': Param(str, default='x')})
";
    let load = "create or replace table raw.t as select id, name from read_csv('data/t.csv');";
    let project = Project::new(&[
        ("workflows/w.py", workflow),
        ("jobs/a.py", "class Any:\n    def execute(self, ctx):\n        pass\n"),
        ("data/t.csv", "id,name\n1,a\n"),
        ("sql/load.sql", load),
        ("sql/size.sql", "-- output: rows\nselect count(*) from raw.t"),
        (
            "sql/good.sql",
            "-- writes: marts.good partition (day = {{ ds }})\nselect id, name from raw.t where id > {{ params.least }} and id < {{ upstream.size.rows }} and name <> {{ params.word }}",
        ),
    ]);
    assert_eq!(
        project.run(&["sql", "create table raw.t as select 1 as old; create table raw.kept as select 1 as kept"]).code,
        Some(0)
    );
    let ran = project.run(&["check"]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.out.contains("the SQL of job \"inline\""), "{ran:?}");
    assert!(
        ran.out.contains("warning: 1:8 of the SQL of job \"after\": column \"gone\" not found in raw.kept"),
        "{ran:?}"
    );
    assert!(
        ran.out.ends_with("1 error, 1 warning\n"),
        "what the load makes counts, not the table that is there: {ran:?}"
    );
    let rest = workflow.lines().filter(|line| !line.contains("inline") && !line.contains("'after'"));
    project.write("workflows/w.py", &rest.collect::<Vec<_>>().join("\n"));
    for (text, expected) in [
        (
            "-- wrties: marts.good\nselect 1 as a",
            ["error: header key \"wrties\" does not exist", "sql/good.sql:1", "Did you mean \"writes\"?"],
        ),
        (
            "-- writes: marts.good\nselect idd\nfrom raw.t where id > {{ params.least }}",
            ["error: column \"idd\" not found in raw.t", "sql/good.sql:2", "│        ^^^"],
        ),
        (
            "-- writes: marts.good\nselect id from raw.t\nwhere id = {{ params.leas }}",
            [
                "error: template value \"params.leas\" is not defined",
                "sql/good.sql:3",
                "Did you mean \"params.least\"?",
            ],
        ),
        (
            "-- writes: marts.good\nselect id from raw.t where id = {{ upstream.sise.rows }}",
            ["error: template value", "sql/good.sql:2", ""],
        ),
        (
            "-- writes: marts.good\ndrop table if exists raw.t; select 1 as a",
            ["error: the rows of this SELECT go nowhere", "sql/good.sql:2", "INSERT OVERWRITE marts.good"],
        ),
        (
            "drop table if exists raw.t; create table raw.t as select 1 as x; select id from raw.t",
            ["error: column \"id\" not found in raw.t", "sql/good.sql:1", "The columns are x."],
        ),
    ] {
        project.write("sql/good.sql", text);
        let ran = project.run(&["check"]);
        assert_eq!(ran.code, Some(3), "{text}: {ran:?}");
        for expected in expected {
            assert!(ran.out.contains(expected), "{text}: {expected}: {}", ran.out);
        }
    }
    project.write("sql/good.sql", "drop table if exists raw.t; create table raw.t as select 1 as id");
    let ran = project.run(&["check"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "1 workflow checked, nothing to complain about\n"), "{ran:?}");
}

#[test]
fn a_job_whose_sql_does_nothing_says_so() {
    let project =
        Project::new(&[("sql/idle.sql", "select 1 as a"), ("sql/busy.sql", "create table t as select 1 as a")]);
    assert_eq!(project.run(&["submit", "sql/idle.sql"]).code, Some(0));
    assert!(
        project.log("idle").contains("warning: the statements write no table and leave no output"),
        "{}",
        project.log("idle")
    );
    assert_eq!(project.run(&["submit", "sql/busy.sql"]).code, Some(0));
    assert!(!project.log("busy").contains("warning"), "{}", project.log("busy"));
}

#[test]
fn a_job_never_gets_part_of_a_result() {
    let project = Project::new(&[
        ("workflows/w.py", "workflow = {template(name='a', class_='jobs.a.a'): []}"),
        (
            "jobs/a.py",
            "def a(ctx): ctx.output('got', len(ctx.sql('select 1 as x from generate_series(1, 1000001)')))\n",
        ),
    ]);
    let ran = project.run(&["run", "w"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let why = project.run(&["explain"]).out;
    assert!(why.contains("more than 1000000 rows"), "{why}");
}

#[test]
fn sql_does_not_read_what_git_keeps() {
    let project = Project::new(&[(".git/config.csv", "url\nhttps://anna:secret@example.org/\n")]);
    let ran = project.run(&["sql", "select * from read_csv('.git/config.csv')"]);
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert!(ran.err.contains("no query may read this folder"), "{ran:?}");
}

#[test]
fn a_server_removes_files_of_tables_that_nothing_names() {
    let project = Project::new(&[]);
    let made = project.run(&["sql", "create table t as select 1 as x; insert into t values (2)"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let listed = project.run(&["tables", "--json"]).json();
    let location = listed["items"][0]["location"].as_str().unwrap().to_owned();
    let folder = std::path::Path::new(location.strip_prefix("file://").unwrap()).parent().unwrap().parent().unwrap();
    let orphan = folder.join("data/0123456789ab.parquet");
    std::fs::write(&orphan, "written, and never committed").unwrap();
    let decades_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    for folder in [folder.join("data"), folder.join("metadata")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let file = std::fs::File::open(entry.unwrap().path()).unwrap();
            file.set_modified(decades_ago).unwrap();
        }
    }
    let young = folder.join("data/0123456789ac.parquet");
    std::fs::write(&young, "being written").unwrap();
    // An earlier command may have looked for them today.
    let _ = std::fs::remove_file(project.state().join("orphans-removed"));
    let _server = project.up();
    wait_until("the orphan is gone", || !orphan.exists());
    assert!(young.exists());
    let rows = project.run(&["sql", "--json", "select x from t order by x"]).json();
    assert_eq!(rows["rows"], json!([[1], [2]]));
}

#[test]
fn a_wide_cell_is_cut_in_the_table_and_whole_elsewhere() {
    let project = numbers();
    let statement = "select repeat('x', 70000) as a";
    let ran = project.run(&["sql", statement]);
    assert_eq!(ran.code, Some(0), "{:?} {}", ran.code, ran.err);
    let shown = format!("a\n{}…\n(… ends what is wider than 120 characters; --json", "x".repeat(119));
    assert!(ran.out.starts_with(&shown), "{}", ran.out);
    assert_eq!(rows(&project, statement)[0][0], "x".repeat(70000));
}

#[test]
fn attempts_that_make_one_table_at_the_same_time_do_not_mix_their_rows() {
    let jobs = "
import os, time
def together(ctx):
    open(f'PLACE/{ctx.run.id}-{ctx.job}', 'w').close()
    while sum(name.startswith(ctx.run.id) for name in os.listdir('PLACE')) < 3: time.sleep(0.01)
def replaces(ctx):
    ctx.sql(f\"create or replace table raw.t as select '{ctx.job}' as j\")
    together(ctx)
def makes(ctx):
    if ctx.attempt.number == 1:
        ctx.sql(f\"create table raw.u as select '{ctx.job}' as j\")
        together(ctx)
";
    let place = tempfile::tempdir().unwrap();
    let project = Project::new(&[
        (
            "workflows/w.py",
            "workflows = {n: {template(name=f'{n}{i}', class_=f'jobs.a.{n}'): [] for i in range(3)} for n in ('replaces', 'makes')}",
        ),
        ("jobs/a.py", &jobs.replace("PLACE", place.path().to_str().unwrap())),
    ]);
    let ran = project.run(&["run", "replaces"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(rows(&project, "select count(*) from raw.t"), json!([[1]]));
    let ran = project.run(&["run", "makes", "--json"]).json();
    assert_eq!(rows(&project, "select count(*) from raw.u"), json!([[1]]));
    let attempts = ran["tasks"].as_array().unwrap().iter().flat_map(|task| task["attempts"].as_array().unwrap());
    assert_eq!(attempts.filter(|attempt| attempt["fault"] == "conflict").count(), 2, "{ran}");
}

#[test]
fn a_check_tells_of_sql_also_where_the_workflow_has_mistakes() {
    let workflow = "
workflow = {
    template(name='load', sql='sql/load.sql'): [],
    template(name='delays', sql='sql/delays.sql'): 'load',
    template(name='below', sql='sql/below.sql'): ['load', 'delay'],
    template(name='report', class_='jobs.a.report', retrys=3): 'below',
}
";
    let project = Project::new(&[
        ("workflows/w.py", workflow),
        ("sql/load.sql", "-- writes: raw.flights\nselect date '2013-01-01' as flight_day"),
        ("sql/delays.sql", "-- writes: marts.delays\nselect 1 as x from raw.flights\nwhere flight_dat = {{ ds }}"),
        ("sql/below.sql", "select * from marts.delay"),
        ("jobs/a.py", "def report(ctx): pass\n"),
    ]);
    let ran = project.run(&["check"]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    let said = format!("{}{}", ran.out, ran.err);
    for part in
        ["names a job that does not exist: \"delay\"", "retrys", "sql/delays.sql:3", "column \"flight_dat\" not found"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("table \"marts.delay\""), "what the misnamed job makes is not known: {said}");
}
