//! SQL as it will run.

use crate::support::Project;

const FILES: &[(&str, &str)] = &[
    (
        "workflows/flights.py",
        "
workflow = Workflow({
    template(name='count', shell='pinrail output rows 5'): [],
    template(name='daily', sql='sql/daily.sql'): ['count'],
    template(name='twice', sql='sql/daily.sql'): ['count'],
    template(name='python', class_='jobs.a.a'): [],
}, params={'least': Param(int, default=3)})
",
    ),
    ("workflows/other.py", "workflow = {template(name='daily', sql='sql/plain.sql'): []}"),
    ("jobs/a.py", "def a(ctx): pass\n"),
    (
        "sql/daily.sql",
        "select {{ ds }} as day, {{ params.least }} as least, {{ upstream.count.rows }} as n, '{{ ds }}' as text\n",
    ),
    ("sql/plain.sql", "select {{ ds }} as day\n"),
];

#[test]
fn what_cannot_be_rendered_is_told_before_the_engine_is_asked() {
    let project = Project::new(FILES);
    project.write("secret.txt", "");
    for (arguments, code, said) in [
        (vec!["render", "daily"], 4, "job \"daily\" could be one of the workflows flights, other"),
        (vec!["render", "dayly", "--workflow", "other"], 4, "job \"dayly\" not found in workflow \"other\""),
        (vec!["render", "twise"], 4, "Did you mean \"twice\"?"),
        (vec!["render", "python"], 4, "job \"python\" is no SQL job"),
        (vec!["render", "twice", "--param", "leest=1"], 4, "Did you mean \"least\"?"),
        (vec!["render", "twice", "--param", "least"], 2, "Write --param NAME=VALUE."),
        (vec!["render", "twice", "--at", "someday"], 4, "\"someday\" is not a date"),
        (vec!["render", "sql/daily.sql", "--param", "least=1"], 4, "Name it: --workflow NAME."),
        (vec!["render", "sql/nothing.sql"], 4, "file \"sql/nothing.sql\" not found in the project"),
        (vec!["render", "../x.sql"], 4, "is not a path inside the project"),
        (vec!["render", "daily", "--workflow", "x"], 4, "no such workflow \"x\""),
        (vec!["render"], 2, "<JOB | FILE.sql>"),
    ] {
        let ran = project.run(&arguments);
        assert_eq!(ran.code, Some(code), "{arguments:?}: {ran:?}");
        assert!(ran.err.contains(said), "{arguments:?}: {}", ran.err);
    }
    project.write("workflows/other.py", "workflow = {template(name='daily', sql='sql/plan.sql'): []}");
    let broken = project.run(&["render", "daily", "--workflow", "other"]);
    assert_eq!(broken.code, Some(3), "{broken:?}");
    assert!(broken.err.contains("did you mean \"sql/plain.sql\"?"), "{}", broken.err);
}

#[cfg(not(feature = "lake"))]
#[test]
fn a_build_without_the_engine_says_so() {
    let project = Project::new(FILES);
    let ran = project.run(&["render", "twice", "--at", "2013-01-01", "--json"]);
    assert_eq!((ran.code, &ran.json()["code"]), (Some(1), &"engine-missing".into()));
}

#[cfg(feature = "lake")]
#[test]
fn templates_are_filled_in_as_for_the_run_of_the_interval() {
    let project = Project::new(FILES);
    let first = project.run(&["run", "flights", "--at", "2013-01-01", "--job", "count"]);
    assert_eq!(first.code, Some(0), "{first:?}");
    let rendered = project.run(&["render", "twice", "--at", "2013-01-01", "--param", "least=7"]);
    assert_eq!(rendered.code, Some(0), "{rendered:?}");
    let expected = "select date '2013-01-01' as day, 7 as least, 5 as n, '2013-01-01' as text";
    assert_eq!(rendered.out.to_lowercase().trim(), expected);
    // From within a folder, as a shell completes the path.
    let mut command = project.command(&["render", "plain.sql", "--at", "2013-01-02"]);
    let file: crate::support::Ran = command.current_dir(project.path().join("sql")).output().unwrap().into();
    assert_eq!(file.out.to_lowercase().trim(), "select date '2013-01-02' as day");
    let undefined = project.run(&["render", "twice", "--at", "2013-01-05"]);
    assert_eq!(undefined.code, Some(4), "{undefined:?}");
    assert!(undefined.err.contains("sql/daily.sql:1:"), "{}", undefined.err);
}
