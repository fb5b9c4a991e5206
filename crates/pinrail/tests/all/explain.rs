//! What people are told of a run: every failure, who stopped it, what a command last said, and nothing that a terminal obeys.

use crate::support::{Project, wait_until};

#[test]
fn a_command_that_failed_is_explained_with_its_last_words() {
    let command = "for n in 1 2 3 4 5 6 7; do echo line $n >&2; done; echo not this; exit 3";
    let workflow = format!("workflow = {{template(name='a', shell='{command}'): []}}");
    let project = Project::new(&[("workflows/w.py", &workflow)]);
    let ran = project.run(&["run", "w"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let words = "    stderr      line 3\n                line 4\n                line 5\n                line 6\n                line 7\n";
    assert!(ran.out.contains(&format!("    exit code   3\n{words}")), "{}", ran.out);
}

#[test]
fn secrets_are_masked_in_the_last_words_of_a_command() {
    let workflow = "workflow = {template(name='a', shell='echo bad $PW >&2; exit 3', secret_env={'PW': 'pw'}): []}";
    let project = Project::new(&[("workflows/w.py", workflow)]);
    assert_eq!(project.run_with(&["secret", "set", "pw"], "correct horse").code, Some(0));
    let said = project.run(&["run", "w"]).out;
    assert!(said.contains("    stderr      bad ***\n"), "{said}");
}

#[test]
fn every_failure_of_a_run_is_told_of() {
    let project = Project::new(&[(
        "workflows/w.py",
        "workflow = {template(name='a', shell='exit 3'): [], template(name='b', shell='echo one >&2; echo two >&2; exit 4'): [],
                     template(name='c', shell='true', run_if='any_failed'): ['a'], template(name='d', shell='true'): ['a']}",
    )]);
    let ran = project.run(&["run", "w"]);
    for said in [&ran.out, &project.run(&["explain"]).out] {
        assert!(said.contains("  a failed in execute · attempt 1 of 1"), "{said}");
        assert!(said.contains("    downstream  d did not start\n"), "what did start is not said to have not: {said}");
        assert!(
            said.contains(
                "  b failed as well in execute · fault user\n    the job ended with exit code 4\n    stderr      two\n"
            ),
            "{said}"
        );
        assert!(said.contains(" --job b"), "{said}");
    }
    assert!(!project.run(&["explain", "--job", "a"]).out.contains("as well"));
}

#[test]
fn who_cancelled_what_had_not_begun_and_why_is_told() {
    let workflow = "workflow = {template(name='a', shell='sleep 600'): [], template(name='b', shell='true'): ['a'],
                                template(name='c', shell='true'): ['b']}";
    let project = Project::new(&[("workflows/w.py", workflow)]);
    let _server = project.up();
    assert_eq!(project.run(&["run", "w", "--detach"]).code, Some(0));
    let said = project.run(&["cancel", "--job", "b", "--reason", "wrong\u{1b}[31m day"]);
    assert!(said.out.starts_with("job \"b\" of run "), "{said:?}");
    wait_until("b is cancelled", || project.run(&["explain", "--job", "b"]).out.contains("b was cancelled"));
    let said = project.run(&["explain", "--job", "b"]).out;
    assert!(said.contains("    stopped by admin\n    reason      wrong\\x1b[31m day\n"), "{said}");
    let mut said = String::new();
    wait_until("a is shown at work", || {
        said = project.run(&["show"]).out;
        said.contains("▸ a ")
    });
    assert!(said.contains("a job above it did not succeed"), "{said}");
    assert_eq!(project.run(&["cancel", "--reason", "enough"]).code, Some(0));
    project.wait_for_end();
    let said = project.run(&["explain", "--job", "a"]).out;
    assert!(said.contains("reason      enough"), "{said}");
}

#[test]
fn what_a_job_says_is_shown_and_not_obeyed() {
    let job = "def a(ctx):\n    print('\\x1b[2J\\r')\n    raise ValueError('\\x00 \\x1b[31mred')\n\ndef b(ctx):\n    b(ctx)\n";
    let project = Project::new(&[("jobs/a.py", job)]);
    let ran = project.run(&["submit", "jobs.a.a"]);
    assert!(ran.out.contains("ValueError: \\x00 \\x1b[31mred\n"), "{}", ran.out);
    let log = project.run(&["logs"]).out;
    assert!(log.starts_with("\\x1b[2J") && !log.contains('\u{1b}') && !log.contains('\0'), "{log:?}");
    let ran = project.run(&["submit", "jobs.a.b"]);
    assert!(ran.out.contains("RecursionError"), "{}", ran.out);
    assert!(ran.out.contains(" times)\n") && ran.out.matches("your code").count() < 10, "{}", ran.out);
}

#[test]
fn an_attempt_that_there_was_not_has_no_log() {
    let project = Project::new(&[("workflows/w.py", "workflow = {template(name='a', shell='echo hi'): []}")]);
    assert_eq!(project.run(&["run", "w"]).code, Some(0));
    assert_eq!(project.run(&["logs", "--attempt", "1"]).out, "hi\n");
    for arguments in [vec!["logs", "--attempt", "9"], vec!["logs", "--job", "a", "--attempt", "9"]] {
        let refused = project.run(&arguments);
        assert_eq!((refused.code, refused.out.as_str()), (Some(4), ""), "{refused:?}");
        assert!(refused.err.contains("attempt 9\n  hint: There is only attempt 1."), "{}", refused.err);
    }
}
