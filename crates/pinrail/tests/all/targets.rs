//! Targets as people use them: each has tables, versions and schedules of its own, and a protected one takes deployed code
//! only, however a folder reaches for it.

use serde_json::{Value, json};

use crate::support::{Project, Ran, wait_until};

const TARGETS: &str = "[project]
name = \"demo\"
[targets.dev]
prefix = \"dev\"
read_from = \"prod\"
schedules = false
[targets.dev.vars]
bucket = \"scratch\"
rows = 5
[targets.prod]
protected = true
[targets.prod.vars]
bucket = \"warehouse\"
rows = 1000
";

/// A project with the targets `dev`, the usual one, and `prod`, which is protected.
fn project(files: &[(&str, &str)]) -> Project {
    let project = Project::new(files);
    project.write("pinrail.toml", TARGETS);
    project
}

fn said(ran: &Ran) -> String {
    format!("{}{}", ran.out, ran.err)
}

#[track_caller]
fn good(project: &Project, arguments: &[&str]) -> Ran {
    let ran = project.run(arguments);
    assert_eq!(ran.code, Some(0), "{arguments:?}: {ran:?}");
    ran
}

/// A command that the target's protection refuses.
#[track_caller]
fn refused(project: &Project, arguments: &[&str]) -> String {
    let ran = project.run(arguments);
    assert_eq!(ran.code, Some(4), "{arguments:?}: {ran:?}");
    assert!(said(&ran).contains("is protected"), "{arguments:?}: {ran:?}");
    said(&ran)
}

/// One word of each item of a list.
fn listed(project: &Project, arguments: &[&str], words: &[&str]) -> Vec<Vec<String>> {
    let found = good(project, &[arguments, &["--json"]].concat()).json();
    let text = |item: &Value, word: &&str| item[*word].as_str().unwrap_or("-").to_owned();
    found["items"].as_array().unwrap().iter().map(|item| words.iter().map(|word| text(item, word)).collect()).collect()
}

#[test]
fn a_run_belongs_to_a_target_and_has_its_values() {
    let project = project(&[
        (
            "workflows/w.py",
            "workflow = {template(name='a', shell='echo $PINRAIL_TARGET $PINRAIL_VAR_BUCKET $PINRAIL_VAR_ROWS'): [],
                         template(name='b', class_='jobs.b.b'): []}",
        ),
        (
            "jobs/b.py",
            "def b(ctx):
    ctx.log(f'{ctx.target} {ctx.vars.bucket} {ctx.vars.rows + 1}')
    ctx.vars.bukket",
        ),
    ]);
    project.write("pinrail.toml", &format!("{TARGETS}[targets.ci]\nprefix = \"ci\"\n"));
    let ran = project.run(&["run", "w"]);
    assert!(ran.out.contains(" · target dev · run "), "the usual one: {ran:?}");
    assert!(project.log("a").contains("dev scratch 5"), "{}", project.log("a"));
    assert!(project.log("b").contains("dev scratch 6"), "{}", project.log("b"));
    assert!(project.log("b").contains("no variable of the target \"bukket\""), "{}", project.log("b"));
    assert!(project.log("b").contains("did you mean \"bucket\"?"), "{}", project.log("b"));
    good(&project, &["submit", "--target", "ci", "--", "sh", "-c", "echo at $PINRAIL_TARGET"]);
    assert!(project.run(&["logs"]).out.contains("at ci"));
    let mut by_environment = project.command(&["submit", "--", "true"]);
    assert!(by_environment.env("PINRAIL_TARGET", "ci").output().unwrap().status.success());
    let runs = listed(&project, &["runs"], &["workflow", "target"]);
    assert_eq!(runs, [["true", "ci"], ["sh", "ci"], ["w", "dev"]]);
    assert_eq!(listed(&project, &["runs", "--target", "dev"], &["workflow"]), [["w"]]);
    let heads = good(&project, &["runs"]).out.lines().next().unwrap_or_default().to_owned();
    assert!(heads.trim_end().ends_with("  target"), "{heads}");
    let unknown = project.run(&["run", "w", "--target", "prd"]);
    assert_eq!(unknown.code, Some(4), "{unknown:?}");
    assert!(unknown.err.contains("target \"prd\" is not declared in pinrail.toml"), "{unknown:?}");
    assert!(unknown.err.contains("Did you mean \"prod\"?"), "{unknown:?}");
}

#[test]
fn a_project_without_targets_has_none() {
    let project = Project::new(&[("workflows/w.py", "workflow = {template(name='a', shell='env'): []}")]);
    let ran = good(&project, &["run", "w"]);
    assert!(!ran.out.contains("target"), "{ran:?}");
    assert!(!project.log("a").contains("PINRAIL_TARGET"), "{}", project.log("a"));
    assert_eq!(project.last_run()["target"], Value::Null);
    good(&project, &["deploy"]);
    for list in [["runs"], ["workflows"]] {
        assert!(!good(&project, &list).out.contains("target"), "{list:?}");
    }
    let named = project.run(&["run", "w", "--target", "dev"]);
    assert_eq!(named.code, Some(4), "{named:?}");
    assert!(named.err.contains("declare it with a section [targets.dev]"), "{named:?}");
}

#[test]
fn a_protected_target_runs_what_is_deployed_to_it_and_nothing_else() {
    let workflow = |text: &str| format!("workflow = {{template(name='a', shell='echo {text}'): []}}");
    let project = project(&[("workflows/w.py", &workflow("first"))]);
    let _server = project.up();
    let told = refused(&project, &["run", "w", "--target", "prod"]);
    assert!(told.contains("pinrail deploy --target prod"), "{told}");
    refused(&project, &["submit", "--target", "prod", "--", "true"]);
    let deployed = good(&project, &["deploy", "--target", "prod"]);
    assert!(deployed.out.contains("deployed project demo to target prod "), "{deployed:?}");
    let ran = good(&project, &["run", "w", "--target", "prod", "--deployed", "--at", "2013-01-01"]);
    assert!(ran.out.contains("deployed version · target prod"), "{ran:?}");
    assert!(project.log("a").contains("first"));
    let at_prod = project.last_run()["id"].as_str().unwrap().to_owned();
    // The folder as it is now is not what is deployed.
    project.write("workflows/w.py", &workflow("second"));
    refused(&project, &["run", "w", "--target", "prod", "--at", "2013-01-02"]);
    refused(&project, &["retry", &at_prod, "--job", "a", "--code", "folder"]);
    good(&project, &["retry", &at_prod, "--job", "a", "--code", "deployed"]);
    good(&project, &["retry", &at_prod, "--job", "a"]);
    assert!(project.log("a").contains("first"));
    // What the folder says of the target is not what was deployed.
    for toml in [
        "[project]\nname = \"demo\"\n[targets.prod]\nprotected = false\n",
        "[project]\nname = \"demo\"\n[targets.prod]\nprefix = \"elsewhere\"\n",
        "[project]\nname = \"demo\"\n[targets.dev]\n",
        "[project]\nname = \"demo\"\n",
    ] {
        project.write("pinrail.toml", toml);
        refused(&project, &["run", "w"]);
        refused(&project, &["submit", "--", "true"]);
    }
    // Nor does a deploy elsewhere take its tables.
    let told = refused(&project, &["deploy"]);
    assert!(told.contains("a project without targets would have the tables of target \"prod\""), "{told}");
    project.write("pinrail.toml", "[project]\nname = \"demo\"\n[targets.dev]\n");
    let told = refused(&project, &["deploy"]);
    assert!(told.contains("target \"dev\" would have the tables of target \"prod\""), "{told}");
    // A program that names neither code nor target reaches the same tables.
    let header = project.admin();
    let body = json!({"job": {"shell": ["true"]}}).to_string();
    let post = ["-H", &header, "-H", "Content-Type: application/json", "-d", &body];
    let (status, problem) = project.curl("/api/v1/projects/demo/runs", &post);
    assert_eq!((status, &problem["code"]), (409, &json!("target-protected")), "{problem}");
    // Whoever may deploy to it may end its protection.
    project.write("pinrail.toml", "[project]\nname = \"demo\"\n[targets.prod]\n");
    refused(&project, &["run", "w"]);
    good(&project, &["deploy"]);
    good(&project, &["run", "w", "--at", "2013-01-02"]);
    assert!(project.log("a").contains("second"));
}

#[test]
fn each_target_has_its_own_version_schedule_and_backfills() {
    let workflow = |text: &str| {
        format!(
            "workflow = Workflow({{template(name='a', shell='echo {text} $PINRAIL_TARGET'): []}},
                                 schedule=cron('0 6 * * *', tz='UTC', covers='day'))"
        )
    };
    let project = project(&[("workflows/w.py", &workflow("old"))]);
    let _server = project.up();
    good(&project, &["deploy", "--target", "prod"]);
    project.write("workflows/w.py", &workflow("new"));
    let plan = good(&project, &["plan"]).out;
    assert!(plan.contains("would deploy project demo to target dev "), "{plan}");
    assert!(!plan.contains("next fire time"), "schedules of dev do not fire: {plan}");
    good(&project, &["deploy"]);
    let workflows = listed(&project, &["workflows"], &["name", "target"]);
    assert_eq!(workflows, [["w", "dev"], ["w", "prod"]]);
    let versions = listed(&project, &["workflows"], &["version"]);
    assert_ne!(versions[0], versions[1]);
    assert_eq!(listed(&project, &["workflows", "--target", "prod"], &["version"]), versions[1..]);
    assert_eq!(listed(&project, &["schedules"], &["workflow", "target"]), [["w", "prod"]]);
    good(&project, &["run", "w", "--deployed", "--at", "2013-01-01"]);
    assert!(project.log("a").contains("new dev"), "{}", project.log("a"));
    // The same interval at another target is another run.
    good(&project, &["run", "w", "--deployed", "--target", "prod", "--at", "2013-01-01"]);
    assert!(project.log("a").contains("old prod"), "{}", project.log("a"));
    // A backfill leaves out what is done at its own target.
    let days = ["--from", "2013-01-01", "--to", "2013-01-03", "--json"];
    let made = good(&project, &[&["backfill", "w", "--target", "prod"], &days[..]].concat()).json();
    assert_eq!((&made["target"], &made["total"], &made["done_before"]), (&json!("prod"), &json!(2), &json!(1)));
    let made = good(&project, &[&["backfill", "w", "--redo"], &days[..]].concat()).json();
    assert_eq!((&made["target"], &made["total"]), (&json!("dev"), &json!(3)));
    assert_eq!(listed(&project, &["backfills"], &["target"]), [["dev"], ["prod"]]);
    assert_eq!(listed(&project, &["backfills", "--target", "prod"], &["target"]), [["prod"]]);
    good(&project, &["pause", "w"]);
    assert!(good(&project, &["schedules", "w", "--target", "prod"]).out.contains("would fire"));
    // Programs say which, where there are several.
    let header = project.admin();
    let body = json!({"workflow": "w", "at": "2013-02-01"}).to_string();
    let post = ["-H", &header, "-H", "Content-Type: application/json", "-d", &body];
    let (status, problem) = project.curl("/api/v1/projects/demo/runs", &post);
    assert_eq!((status, &problem["code"]), (400, &json!("bad-parameter")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("is deployed to the targets dev, prod"), "{problem}");
    let body = json!({"workflow": "w", "at": "2013-02-01", "target": "prod"}).to_string();
    let post = ["-H", &header, "-H", "Content-Type: application/json", "-d", &body];
    let (status, run) = project.curl("/api/v1/projects/demo/runs", &post);
    assert_eq!((status, &run["target"]), (201, &json!("prod")), "{run}");
}

#[test]
fn schedules_fire_at_the_targets_that_let_them() {
    let workflow = "workflow = Workflow({template(name='a', shell='true'): []},
                                        schedule=every('1s', catch_up='none'), overrun='delay')";
    let project = project(&[("workflows/w.py", workflow)]);
    let _server = project.up();
    good(&project, &["deploy"]);
    good(&project, &["deploy", "--target", "prod"]);
    wait_until("a run at prod has succeeded", || {
        !listed(&project, &["runs", "--in", "succeeded", "--target", "prod"], &["target"]).is_empty()
    });
    assert!(listed(&project, &["runs", "--target", "dev"], &["target"]).is_empty());
}

#[test]
fn what_was_deployed_before_there_were_targets_is_taken_over() {
    let workflow = "workflow = Workflow({template(name='a', shell='true'): []},
                                        schedule=cron('0 6 * * *', tz='UTC', covers='day'))";
    let project = Project::new(&[("workflows/w.py", workflow)]);
    good(&project, &["deploy"]);
    assert_eq!(listed(&project, &["schedules"], &["workflow", "target"]), [["w", "-"]]);
    good(&project, &["run", "w", "--at", "2013-01-01"]);
    let earlier = project.last_run()["id"].as_str().unwrap().to_owned();
    project.write("pinrail.toml", TARGETS);
    // A target with tables of its own leaves alone what works on others.
    good(&project, &["deploy"]);
    assert_eq!(listed(&project, &["workflows"], &["target"]), [["-"], ["dev"]]);
    let deployed = good(&project, &["deploy", "--target", "prod"]);
    assert!(deployed.out.contains("what was deployed without a target is active no longer: \"w\""), "{deployed:?}");
    assert_eq!(listed(&project, &["workflows"], &["target"]), [["dev"], ["prod"]]);
    assert_eq!(listed(&project, &["schedules"], &["workflow", "target"]), [["w", "prod"]]);
    // What ran on these tables before they were protected does not run again there by itself.
    project.write("workflows/w.py", &workflow.replace("true", "exit 0"));
    good(&project, &["deploy", "--target", "prod"]);
    refused(&project, &["retry", &earlier, "--job", "a"]);
    // Another name for the same tables takes their place; nobody is left at work on them.
    project.write("pinrail.toml", "[project]\nname = \"demo\"\n[targets.prod]\n");
    good(&project, &["deploy"]);
    project.write("pinrail.toml", "[project]\nname = \"demo\"\n[targets.live]\n");
    let deployed = good(&project, &["deploy"]);
    assert!(
        deployed.out.contains("what was deployed to target \"prod\", which has the same tables, is active no longer"),
        "{deployed:?}"
    );
    assert_eq!(listed(&project, &["workflows"], &["target"]), [["dev"], ["live"]]);
    assert_eq!(listed(&project, &["schedules"], &["workflow", "target"]), [["w", "live"]]);
}

#[cfg(feature = "lake")]
mod tables {
    use super::*;

    const LOAD: &str = "-- writes: marts.daily partition (day = {{ ds }})
select i as n, {{ var.bucket }} as bucket from generate_series(1, {{ var.rows }}) as s(i)";

    fn rows(project: &Project, sql: &str, more: &[&str]) -> Value {
        good(project, &[&["sql", sql, "--json"], more].concat()).json()["rows"].clone()
    }

    fn tables(project: &Project, more: &[&str]) -> Vec<Vec<String>> {
        listed(project, &[&["tables"], more].concat(), &["table", "read_from"])
    }

    fn with_tables(jobs: &str) -> Project {
        project(&[
            (
                "workflows/w.py",
                "workflow = {template(name='load', sql='sql/load.sql'): [],
                             template(name='more', class_='jobs.a.more'): ['load']}",
            ),
            ("sql/load.sql", LOAD),
            ("jobs/a.py", jobs),
        ])
    }

    #[test]
    fn a_dev_run_reads_tables_of_prod_and_cannot_write_them() {
        let project =
            with_tables("def more(ctx):\n    ctx.sql('create table if not exists marts.known as select 1 as x')\n");
        let _server = project.up();
        good(&project, &["deploy", "--target", "prod"]);
        good(&project, &["run", "w", "--deployed", "--target", "prod", "--at", "2013-01-01"]);
        assert_eq!(
            rows(&project, "select count(*), min(bucket) from marts.daily", &["--target", "prod"]),
            json!([[1000, "warehouse"]])
        );
        // Before dev has written anything, it reads what prod has.
        assert_eq!(tables(&project, &[]), [["marts.daily", "prod"], ["marts.known", "prod"]]);
        assert_eq!(rows(&project, "select count(*) from marts.daily", &[]), json!([[1000]]));
        assert!(good(&project, &["tables"]).out.contains("read from"));
        // Every way that a job has: the header, ctx.sql with and without a declaration, names that reach for others.
        project.write(
            "jobs/a.py",
            "def more(ctx):
    ctx.output('seen', ctx.sql('select count(*) as n from marts.daily')[0].n)
    ctx.output('known', ctx.sql('select count(*) as n from marts.known')[0].n)
    for name in ('marts.known', 'prod__marts.known', 'dev__marts.known', '\"prod__marts\".known', 'prod.marts.known'):
        for statement in ('insert into {} values (7)', 'truncate table {}', 'drop table {}', 'insert overwrite {} select 7'):
            try:
                ctx.sql(statement.format(name))
            except Exception as error:
                ctx.log(f'refused: {error}')
            else:
                raise AssertionError(f'{statement} {name} was carried out')
    ctx.sql('create table marts.mine as select * from marts.known')
    ctx.sql('insert into marts.mine values (8)')
",
        );
        let run = good(&project, &["run", "w", "--at", "2013-01-02", "--json"]).json();
        let outputs = &crate::support::task(&run, "more")["outputs"];
        assert_eq!(outputs, &json!({"seen": 5, "known": 1}), "its own table, and the other's");
        assert!(project.log("more").contains("note: marts.known is read from target prod"), "{}", project.log("more"));
        assert_eq!(tables(&project, &[]), [["marts.daily", "-"], ["marts.known", "prod"], ["marts.mine", "-"]]);
        assert_eq!(tables(&project, &["--target", "prod"]), [["marts.daily", "-"], ["marts.known", "-"]]);
        let daily = "select count(*), min(bucket), min(day), max(day) from marts.daily";
        assert_eq!(
            rows(&project, daily, &["--target", "prod"]),
            json!([[1000, "warehouse", "2013-01-01", "2013-01-01"]])
        );
        assert_eq!(rows(&project, daily, &[]), json!([[5, "scratch", "2013-01-02", "2013-01-02"]]));
        assert_eq!(rows(&project, "select x from marts.known", &["--target", "prod"]), json!([[1]]));
        // Ad hoc statements: at dev they reach nothing of prod, at prod they change nothing.
        for statement in ["insert into marts.known values (9)", "drop table marts.known", "truncate table marts.known"]
        {
            let ran = project.run(&["sql", statement]);
            assert!(ran.err.contains("that of target \"prod\" is read and never written"), "{ran:?}");
            let ran = project.run(&["sql", statement, "--target", "prod"]);
            assert!(ran.err.contains("target \"prod\" is protected"), "{ran:?}");
        }
        // A folder that knows no targets reaches the same tables, and no further.
        project.write("pinrail.toml", "[project]\nname = \"demo\"\n");
        assert_eq!(rows(&project, "select x from marts.known", &[]), json!([[1]]));
        let ran = project.run(&["sql", "insert into marts.known values (9)"]);
        assert!(ran.err.contains("target \"prod\" is protected"), "{ran:?}");
        assert_eq!(
            rows(&project, "select workflow, target from system.runs order by 2", &[]),
            json!([["w", "dev"], ["w", "prod"]])
        );
    }

    #[test]
    fn a_failed_dev_run_names_its_own_tables() {
        let project = with_tables("def more(ctx):\n    raise ValueError('no')\n");
        good(&project, &["run", "w", "--at", "2013-01-01", "--job", "load"]);
        project.write("sql/load.sql", &format!("{LOAD} where 1 / (i - 3) > -5"));
        let ran = project.run(&["run", "w", "--at", "2013-01-01", "--job", "load"]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(!said(&ran).contains("dev__"), "{ran:?}");
        assert_eq!(rows(&project, "select count(*) from marts.daily", &[]), json!([[5]]));
    }

    #[test]
    fn sql_is_rendered_and_checked_with_the_values_of_a_target() {
        let project = with_tables("def more(ctx):\n    pass\n");
        let rendered = |more: &[&str]| good(&project, &[&["render", "load", "--at", "2013-01-01"], more].concat()).out;
        assert!(rendered(&[]).contains("'scratch' as bucket from generate_series(1, 5)"), "{}", rendered(&[]));
        assert!(rendered(&["--target", "prod"]).contains("generate_series(1, 1000)"));
        good(&project, &["check"]);
        assert_eq!(rows(&project, "select {{ var.rows }} as n", &["--target", "prod"]), json!([[1000]]));
        project.write("sql/load.sql", &LOAD.replace("var.rows", "var.row"));
        let checked = project.run(&["check"]);
        assert_eq!(checked.code, Some(3), "{checked:?}");
        assert!(checked.out.contains("template value \"var.row\" is not defined"), "{checked:?}");
        assert!(checked.out.contains("Did you mean \"var.rows\"?"), "{checked:?}");
    }
}
