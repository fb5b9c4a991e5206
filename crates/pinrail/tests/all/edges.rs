//! Edges and tables through the binary: what `check` says of them, and edges that are taken from SQL.

use serde_json::{Value, json};

use crate::support::Project;

/// What each job of the only workflow waits for, as `check` has compiled it.
fn after(project: &Project) -> Value {
    let ran = project.run(&["check", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let documents = ran.json()["documents"].as_object().unwrap().clone();
    assert_eq!(documents.len(), 1, "{documents:?}");
    let jobs = documents.values().next().unwrap()["jobs"].as_array().unwrap().clone();
    jobs.iter().map(|job| (job["name"].as_str().unwrap().to_owned(), job["after"].clone())).collect()
}

#[test]
fn two_jobs_that_declare_the_same_rows_are_refused() {
    let workflow = |second: &str, waits: &str| {
        format!(
            "workflow = {{
    template(name='a', class_='jobs.a.a', writes=Table('marts.t', partition={{'day': '{{{{ ds }}}}'}})): [],
    template(name='b', class_='jobs.a.a', writes={second}): {waits},
}}
"
        )
    };
    let same = "Table('marts.t', partition={'day': '{{ds}}'})";
    let project = Project::new(&[("workflows/w.py", &workflow(same, "[]")), ("jobs/a.py", "def a(ctx): pass\n")]);
    let refused = [
        "error: \"b\" and \"a\" both write marts.t, and neither waits for the other",
        "workflows/w.py:3",
        "workflows/w.py:2: \"a\" writes it here",
        "Let one wait for the other",
    ];
    for arguments in [&["check"] as &[&str], &["deploy"], &["run", "w"]] {
        let ran = project.run(arguments);
        assert_eq!(ran.code, Some(3), "{arguments:?}: {ran:?}");
        for part in refused {
            assert!(format!("{}{}", ran.out, ran.err).contains(part), "{arguments:?}: {part}: {ran:?}");
        }
    }
    for (second, waits, code, said) in [
        (same, "'a'", 0, "nothing to complain about"),
        (
            "Table('marts.t', partition={'day': '2013-01-02'})",
            "[]",
            0,
            "warning: \"b\" and \"a\" may write the same rows",
        ),
        ("Table('marts.t', partition={'day': '{{ ds }}', 'kind': 'x'})", "[]", 0, "0 errors, 1 warning"),
        ("'marts.t'", "[]", 3, "both write marts.t"),
        ("'marts.u'", "[]", 0, "nothing to complain about"),
    ] {
        project.write("workflows/w.py", &workflow(second, waits));
        let ran = project.run(&["check"]);
        assert_eq!(ran.code, Some(code), "{second}: {ran:?}");
        assert!(ran.out.contains(said), "{second}: {ran:?}");
    }
}

#[cfg(not(feature = "lake"))]
#[test]
fn a_build_without_the_engine_refuses_what_only_sql_says() {
    let project = Project::new(&[
        ("workflows/w.py", "workflow = {template(name='a', sql='sql/a.sql', after='auto'): []}"),
        ("sql/a.sql", "select 1 as x"),
    ]);
    for arguments in [&["check"] as &[&str], &["deploy"], &["run", "w"]] {
        let ran = project.run(arguments);
        assert_eq!(ran.code, Some(3), "{arguments:?}: {ran:?}");
        let said = format!("{}{}", ran.out, ran.err);
        assert!(said.contains("the edges of job \"a\" cannot be found: its SQL says them"), "{ran:?}");
        assert!(said.contains("This build of pinrail has no SQL engine. List the jobs"), "{ran:?}");
    }
    // A folder whose files list what they wait for needs no engine.
    project.write("workflows/w.py", "workflow = sql_folder('sql')");
    project.write("sql/a.sql", "-- after:\nselect 1 as x");
    project.write("sql/b.sql", "-- after: a\nselect 1 as x");
    assert_eq!(after(&project), json!({"a": [], "b": ["a"]}));
}

#[cfg(feature = "lake")]
mod with_engine {
    use super::*;
    use crate::support::task;

    #[test]
    fn a_job_that_reads_what_another_writes_without_waiting_is_warned_of() {
        let workflow = |waits: &str| {
            format!(
                "workflow = {{
    template(name='load', class_='jobs.a.a', writes='raw.t'): [],
    template(name='effect', sql='sql/effect.sql'): ['load'],
    template(name='report', sql='sql/report.sql'): {waits},
    template(name='inline', sql=Sql(text='select 1 as x from marts.effect')): ['load'],
}}
"
            )
        };
        let project = Project::new(&[
            ("workflows/w.py", &workflow("['load']")),
            ("jobs/a.py", "def a(ctx): pass\n"),
            ("sql/effect.sql", "-- writes: marts.effect\nselect * from raw.t"),
            ("sql/report.sql", "-- writes: marts.report\nselect *\nfrom marts.effect"),
        ]);
        let ran = project.run(&["check"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        for part in [
            "warning: \"report\" reads marts.effect, which \"effect\" writes, but does not wait for it  (missing-dependency)\n",
            "sql/report.sql:3",
            " 3 │ from marts.effect\n   │      ^^^^^^^^^^^^ Add \"effect\" to the jobs that \"report\" waits for.",
            "warning: \"inline\" reads marts.effect, which \"effect\" writes, but does not wait for it",
            "workflows/w.py:5",
            "0 errors, 2 warnings",
        ] {
            assert!(ran.out.contains(part), "{part}: {}", ran.out);
        }
        let found = project.run(&["check", "--json"]).json()["diagnostics"].clone();
        assert_eq!((&found[0]["code"], &found[0]["line"]), (&json!("missing-dependency"), &json!(3)), "{found}");
        // A mistake elsewhere in the workflow hides nothing, and the warning is told once.
        project.write("workflows/w.py", &(workflow("['load']").replace("writes='raw.t'", "writes='raw.t', retris=1")));
        let ran = project.run(&["check"]);
        assert_eq!(ran.code, Some(3), "{ran:?}");
        project.write("workflows/w.py", &workflow("'effect'").replace("['load'],\n}", "['report'],\n}"));
        assert!(project.run(&["check"]).out.contains("nothing to complain about"));
    }

    #[test]
    fn sql_that_writes_the_same_table_is_refused_at_both_places() {
        let workflow = "workflow = {
    template(name='a', sql='sql/a.sql'): [],
    template(name='b', sql='sql/b.sql'): [],
}
";
        let project = Project::new(&[("workflows/w.py", workflow)]);
        for (a, b, code, said) in [
            ("-- writes: m.t", "-- writes: m.t", 3, "sql/a.sql:1: \"a\" writes it here"),
            ("-- writes: m.t", "create or replace table m.t as", 3, "sql/b.sql:1"),
            (
                "-- writes: m.t partition (day = {{ ds }})",
                "-- writes: m.t partition (day = {{ds}})",
                3,
                "both write m.t",
            ),
            (
                "-- writes: m.t partition (day = {{ ds }})",
                "insert overwrite m.t partition (day = {{ ds }})",
                3,
                "both write m.t",
            ),
            (
                "-- writes: m.t partition (kind = 'a')",
                "-- writes: m.t partition (kind = 'b')",
                0,
                "nothing to complain about",
            ),
            ("-- writes: m.t append", "-- writes: m.t append", 0, "nothing to complain about"),
            ("-- writes: m.t append", "-- writes: m.t", 3, "both write m.t"),
            ("insert overwrite m.t", "-- writes: m.t", 0, "warning: \"b\" and \"a\" may write the same rows of m.t"),
        ] {
            project.write("sql/a.sql", &format!("{a}\nselect 1 as x"));
            project.write("sql/b.sql", &format!("{b}\nselect 2 as x"));
            let ran = project.run(&["check"]);
            assert_eq!(ran.code, Some(code), "{a} and {b}: {ran:?}");
            assert!(ran.out.contains(said), "{a} and {b}: {said}: {}", ran.out);
        }
        // One file, two jobs, each with a partition of its own.
        project.write("sql/a.sql", "-- writes: m.t partition (kind = {{ params.kind }})\nselect 1 as x");
        let twice = |kinds: [&str; 2]| {
            let job = |kind: &str, name| {
                format!("template(name='{name}', sql='sql/a.sql', params={{'kind': '{kind}'}}): [],")
            };
            format!("workflow = {{{}{}}}", job(kinds[0], "a"), job(kinds[1], "b"))
        };
        for (kinds, code) in [(["x", "y"], 0), (["x", "x"], 3)] {
            project.write("workflows/w.py", &twice(kinds));
            let ran = project.run(&["check"]);
            assert_eq!(ran.code, Some(code), "{kinds:?}: {ran:?}");
        }
    }

    const FOLDER: &[(&str, &str)] = &[
        ("workflows/w.py", "workflow = Workflow(sql_folder('sql'), params={'least': Param(int, default=0)})"),
        (
            "sql/load.sql",
            "-- writes: raw.t partition (day = {{ ds }})\nselect i as n from generate_series(1, 3) as s(i)",
        ),
        (
            "sql/marts/daily.sql",
            "-- owner: anna\n-- retries: 2\n-- writes: marts.daily partition (day = {{ ds }})\nselect sum(n) as total from raw.t\nwhere day = {{ ds }} and n > {{ params.least }}",
        ),
        ("sql/marts/size.sql", "-- output: total\nselect total from marts.daily"),
        ("sql/a_first.sql", "-- writes: marts.last\nselect {{ upstream.size.total }} as total"),
    ];

    #[test]
    fn a_folder_of_sql_runs_in_the_order_of_its_tables() {
        let project = Project::new(FOLDER);
        let expected = json!({"a_first": ["size"], "load": [], "daily": ["load"], "size": ["daily"]});
        assert_eq!(after(&project), expected);
        let run = project.run(&["run", "w", "--at", "2013-01-02", "--json"]).json();
        assert_eq!(run["state"], "succeeded", "{run}");
        assert_eq!(task(&run, "size")["outputs"], json!({"total": 6}));
        // The version of the workflow holds the edges: one more read is another version, the same text the same.
        let version = |project: &Project| {
            project.run(&["check", "--json"]).json()["documents"].as_object().unwrap().keys().next().unwrap().clone()
        };
        let first = version(&project);
        project.write("sql/marts/size.sql", "-- output: total\nselect count(*) from marts.daily, raw.t");
        assert_ne!(version(&project), first);
        assert_eq!(after(&project)["size"], json!(["load", "daily"]));
        project.write("sql/marts/size.sql", "-- output: total\nselect max(total) from marts.daily");
        assert_eq!(version(&project), first);
        let deployed = project.run(&["deploy", "--json"]).json();
        assert_eq!(deployed["workflows"][0]["version"], json!(first), "{deployed}");
        let rendered = project.run(&["render", "daily", "--at", "2013-01-02"]);
        assert_eq!(rendered.code, Some(0), "{rendered:?}");
    }

    #[test]
    fn settings_in_a_header_belong_to_files_that_declare_their_jobs() {
        let project = Project::new(FOLDER);
        let file = "sql/marts/daily.sql";
        let submitted = project.run(&["submit", file]);
        assert_eq!(submitted.code, Some(1), "{submitted:?}");
        assert!(submitted.out.contains("header key \"owner\" is not supported"), "{submitted:?}");
        assert!(submitted.out.contains("unless sql_folder(...) makes the job of this file"), "{submitted:?}");
        project.write("workflows/w.py", "workflow = {template(name='daily', sql='sql/marts/daily.sql'): []}");
        let ran = project.run(&["check"]);
        assert_eq!(ran.code, Some(3), "{ran:?}");
        assert!(ran.out.contains("error: header key \"owner\" is not supported"), "{ran:?}");
        assert!(ran.out.contains("sql/marts/daily.sql:1"), "{ran:?}");
        project.write("workflows/w.py", FOLDER[0].1);
        project.write(file, "-- ownr: anna\n-- writes: marts.daily\nselect 1 as total");
        let ran = project.run(&["check"]);
        assert_eq!(ran.code, Some(3), "{ran:?}");
        assert!(ran.out.contains("error: header key \"ownr\" does not exist"), "{ran:?}");
        assert!(ran.out.contains("Did you mean \"owner\"?"), "{ran:?}");
        assert_eq!(ran.out.matches("does not exist").count(), 1, "told once: {ran:?}");
    }

    #[test]
    fn edges_that_cannot_be_found_are_errors_and_cycles_name_their_tables() {
        let project = Project::new(&[("workflows/w.py", "workflow = sql_folder('sql')")]);
        project.write("sql/a.sql", "-- writes: m.a\nselect *\nfrom m.b");
        project.write("sql/b.sql", "-- writes: m.b\nselect * from m.a");
        for arguments in [&["check"] as &[&str], &["deploy"], &["run", "w"]] {
            let ran = project.run(arguments);
            let said = format!("{}{}", ran.out, ran.err);
            assert_eq!(ran.code, Some(3), "{arguments:?}: {ran:?}");
            for part in [
                "error: the jobs of workflow \"w\" wait for each other: a -> b -> a",
                "sql/a.sql:3: \"a\" reads m.b, which \"b\" writes",
                "sql/b.sql:2: \"b\" reads m.a, which \"a\" writes",
            ] {
                assert!(said.contains(part), "{arguments:?}: {part}: {said}");
            }
        }
        // One that lists what it waits for ends the cycle: it reads what the run before has left.
        project.write("sql/b.sql", "-- writes: m.b\n-- after:\nselect * from m.a");
        assert_eq!(after(&project), json!({"a": ["b"], "b": []}));
        for (text, line, said) in [
            (
                "-- writes: m.a\nselect * from m.{{ params.from | ident }}",
                2,
                "which tables \"a\" reads is seen only when it runs",
            ),
            ("-- writes: m.a\nselec 1 as x", 2, "Did you mean SELECT?"),
        ] {
            project.write("sql/a.sql", text);
            let ran = project.run(&["check"]);
            assert_eq!(ran.code, Some(3), "{text}: {ran:?}");
            assert!(ran.out.contains(said), "{text}: {said}: {}", ran.out);
            assert!(ran.out.contains(&format!("sql/a.sql:{line}")), "{text}: {}", ran.out);
            assert_eq!(project.run(&["run", "w"]).code, Some(3), "{text}");
        }
    }

    #[test]
    fn a_workflow_whose_tables_are_wrong_keeps_its_last_good_version() {
        let project = Project::new(&[
            ("workflows/w.py", "workflow = {template(name=n, sql=f'sql/{n}.sql'): [] for n in ('a', 'b')}"),
            ("workflows/good.py", "workflow = {template(name='x', shell='true'): []}"),
            ("sql/a.sql", "-- writes: m.a\nselect 1 as x"),
            ("sql/b.sql", "-- writes: m.b\nselect 1 as x"),
        ]);
        assert_eq!(project.run(&["deploy"]).code, Some(0));
        project.write("sql/b.sql", "-- writes: m.a\nselect 1 as x");
        let deployed = project.run(&["deploy", "--json"]);
        assert_eq!(deployed.code, Some(3), "{deployed:?}");
        let deployed = deployed.json();
        let kept = &deployed["kept"][0];
        assert_eq!((&kept["name"], &kept["file"], &kept["errors"]), (&json!("w"), &json!("workflows/w.py"), &json!(1)));
        assert_eq!(deployed["workflows"][0]["name"], "good", "{deployed}");
    }

    #[test]
    fn a_job_of_which_nothing_is_known_is_named_to_those_that_may_need_it() {
        let workflow = |writes: &str| {
            format!("workflow = {{template(name='load', class_='jobs.a.a'{writes}): [], **sql_folder('sql')}}")
        };
        let project = Project::new(&[
            ("workflows/w.py", &workflow("")),
            ("jobs/a.py", "def a(ctx): pass\n"),
            ("sql/count.sql", "-- writes: m.n\nselect count(*) as n from raw.t"),
        ]);
        let ran = project.run(&["check"]);
        let expected = "warning: whether \"count\" waits for \"load\" is not known: it reads raw.t, and \"load\" does not say what it writes";
        assert!(ran.out.contains(expected), "{ran:?}");
        project.write("workflows/w.py", &workflow(", writes='raw.t'"));
        assert_eq!(after(&project), json!({"load": [], "count": ["load"]}));
        assert!(project.run(&["check"]).out.contains("nothing to complain about"));
    }
}
