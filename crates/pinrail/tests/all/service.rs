//! The service and its command line: which server, which code, what is refused.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::{Project, task, wait_until};

const TWO: &str = "
from pinrail import Param, Workflow, cron, template
workflow = Workflow({
    template(name='a', shell='echo $PINRAIL_DS $PINRAIL_PARAM_N'): [],
    template(name='b', shell='true'): ['a'],
}, schedule=cron('0 6 * * *', tz='America/New_York', covers='day'), params={'n': Param(int, default=3)})
";

fn two() -> Project {
    Project::new(&[("workflows/w.py", TWO)])
}

#[test]
fn a_folder_runs_on_an_embedded_server_and_on_a_live_one() {
    let project = two();
    let ran = project.run(&["run", "w", "--at", "2013-01-02", "--param", "n=5"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.starts_with("w · 2013-01-02 · this folder ("), "{}", ran.out);
    assert_eq!(project.log("a"), "2013-01-02 5\n");
    let _server = project.up();
    assert_eq!(project.run(&["run", "w", "--at", "2013-01-03"]).code, Some(0));
    assert_eq!(project.log("a"), "2013-01-03 3\n");
    let runs = project.run(&["runs", "--json"]).json();
    assert_eq!(runs["items"].as_array().unwrap().len(), 2);
}

#[test]
fn a_deployed_version_does_not_change_with_the_folder() {
    let project = two();
    let _server = project.up();
    let refused = project.run(&["run", "w", "--deployed"]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.err.contains("no deployed workflow \"w\""), "{}", refused.err);
    let deployed = project.run(&["deploy"]);
    assert_eq!(deployed.code, Some(0), "{deployed:?}");
    assert!(deployed.out.contains("      next fire time "), "{}", deployed.out);
    project.write("workflows/w.py", "workflow = {template(name='new', shell='echo new'): []}");
    let run = project.run(&["run", "w", "--deployed", "--json"]).json();
    assert_eq!(task(&run, "a")["state"], "succeeded");
    let run = project.run(&["run", "w", "--json"]).json();
    assert_eq!(task(&run, "new")["state"], "succeeded");
}

#[test]
fn nobody_detaches_from_a_server_that_does_not_stay() {
    let project = two();
    for arguments in [vec!["run", "w", "--detach"], vec!["submit", "--detach", "--", "true"], vec!["retry", "--detach"]]
    {
        let refused = project.run(&arguments);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.out.is_empty() && refused.err.contains("--detach needs a server that stays"), "{refused:?}");
        assert!(!project.state().exists(), "nothing was made");
    }
}

#[test]
fn an_empty_variable_counts_as_none() {
    let project = two();
    let mut command = project.command(&["run", "w", "--at", "2013-01-02"]);
    let ran = command.env("PINRAIL_STATE", "").env("PINRAIL_URL", "").env("PINRAIL_TOKEN", "").output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    assert!(project.state().join("state.db").exists());
    let refused = project.run(&["runs", "--state", ""]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
}

#[test]
fn runs_at_once_share_the_first_ones_server() {
    let slow = "workflow = {template(name='a', shell='sleep 0.$(echo $PINRAIL_DS | cut -c 10)'): []}";
    let project = Project::new(&[("workflows/w.py", slow)]);
    let spawn = |at: &str| {
        let mut command = project.command(&["run", "w", "--at", at, "--json"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children = ["2013-01-01", "2013-01-02", "2013-01-03", "2013-01-09"].map(spawn);
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn a_second_server_is_refused_and_told_of_the_first() {
    let project = two();
    let server = project.up();
    let refused = project.run(&["up", "--listen", "127.0.0.1:0"]);
    assert_eq!(refused.code, Some(4));
    assert!(refused.err.contains(&format!("is served by process {}", server.child.id())), "{}", refused.err);
}

#[test]
fn a_killed_run_is_resumed_by_the_next_server() {
    let project = Project::new(&[
        (
            "workflows/w.py",
            "workflow = {template(name='a', class_='jobs.a.a'): [], template(name='b', class_='jobs.a.b'): 'a'}",
        ),
        (
            "jobs/a.py",
            "import time\ndef a(ctx):\n    ctx.log('works')\n    time.sleep(60 if ctx.attempt.number == 1 else 0)\ndef b(ctx): pass\n",
        ),
    ]);
    let mut first = project.command(&["run", "w"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // Before it serves, any other command would start a server of its own and keep the run alive.
    wait_until("it serves", || project.live()["pid"] == first.id());
    wait_until("the job works", || project.log("a").contains("works"));
    first.kill().unwrap();
    first.wait().unwrap();
    let said = project.run(&["explain"]).out;
    assert!(said.contains("a waits for a server; the one that worked on it is gone (last heard of at 20"), "{said}");
    assert!(said.contains("next        pinrail up"), "{said}");
    let _server = project.up();
    let run = project.wait_for_end();
    assert_eq!(run["state"], "succeeded");
    let attempts = task(&run, "a")["attempts"].as_array().unwrap();
    assert_eq!((&attempts[0]["state"], &attempts[0]["fault"]), (&"lost".into(), &"platform".into()));
    assert_eq!(attempts[1]["state"], "succeeded");
}

#[test]
fn jobs_are_selected_and_parents_must_have_succeeded() {
    let project = two();
    let refused = project.run(&["run", "w", "--job", "b", "--at", "2013-01-01"]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.err.contains("a did not succeed for this interval"), "{}", refused.err);
    assert!(refused.err.contains("--job b,+a"), "{}", refused.err);
    assert_eq!(project.run(&["run", "w", "--job", "a", "--at", "2013-01-01"]).code, Some(0));
    let run = project.run(&["run", "w", "--job", "b", "--at", "2013-01-01", "--json"]).json();
    assert_eq!(run["tasks"].as_array().unwrap().len(), 1);
    assert_eq!(run["state"], "succeeded");
}

#[test]
fn one_off_jobs_choose_their_executor() {
    let project = Project::new(&[("jobs/a.py", "def hello(ctx):\n    ctx.log('hello')\n")]);
    for executor in ["python", "shell"] {
        let ran = project.run(&["submit", "jobs.a.hello", "--executor", executor, "--json"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert_eq!(task(&ran.json(), "hello")["attempts"][0]["executor"], executor);
    }
    let refused = project.run(&["submit", "jobs.a.hello", "--executor", "sql"]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.err.contains("cannot run on executor \"sql\"; possible: python, shell"), "{}", refused.err);
    let outside = tempfile::tempdir().unwrap();
    let mut command = project.command(&["submit", "--json", "--", "sh", "-c", "echo $((6*7)); exit 3"]);
    let ran: crate::support::Ran = command.current_dir(outside.path()).output().unwrap().into();
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(task(&ran.json(), "sh")["attempts"][0]["fault"], "user");
}

#[test]
fn mistakes_in_a_command_name_the_remedy() {
    let project = two();
    for (arguments, code, said) in [
        (vec!["trigger", "w"], 2, "Did you mean `pinrail run`?"),
        (vec!["explian"], 2, "Did you mean `pinrail explain`?"),
        (vec!["run", "x"], 4, "no such workflow \"x\""),
        (vec!["run", "w", "--param", "m=1"], 4, "has no parameter \"m\""),
        (vec!["run", "w", "--param", "n=many"], 4, "parameter \"n\" must be of type int, not \"many\""),
        (vec!["run", "w", "--at", "someday"], 4, "\"someday\" is not a date"),
        (vec!["run", "w", "--job", "c"], 4, "job \"c\" not found"),
        (vec!["run", "w", "--executor", "spark"], 4, "spark"),
        (vec!["run", "w", "--executor", "a=python"], 4, "possible: shell"),
        (vec!["show", "nope"], 4, "no run \"nope\""),
        (vec!["show", "../../etc"], 4, "no run"),
        (vec!["down"], 4, "no server is running"),
    ] {
        let ran = project.run(&arguments);
        assert_eq!(ran.code, Some(code), "{arguments:?}: {ran:?}");
        assert!(ran.err.contains(said), "{arguments:?}: {}", ran.err);
    }
}

#[test]
fn definition_errors_are_shown_at_their_place() {
    let project = Project::new(&[(
        "workflows/flights.py",
        "workflow = {\n    template(name='daily_delays', shell='true'): [],\n    template(name='report', shell='true'): ['daily_delay'],\n}\n",
    )]);
    let ran = project.run(&["check"]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(
        ran.out.contains("error: workflow \"flights\" names a job that does not exist: \"daily_delay\""),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("╭─ workflows/flights.py:3"), "{}", ran.out);
    assert!(ran.out.contains("^^^^^^^^^^^^^ did you mean \"daily_delays\"?"), "{}", ran.out);
    assert!(ran.out.ends_with("1 error, 0 warnings\n"), "{}", ran.out);
    assert_eq!(project.run(&["run", "flights"]).code, Some(3));
    assert_eq!(project.run(&["deploy"]).code, Some(3));
}

#[test]
fn a_broken_file_disables_only_its_own_workflows() {
    let shell = |echo: &str| format!("template(name='a', shell='echo {echo}'): []");
    let one = |echo: &str| format!("workflow = {{{}}}\n", shell(echo));
    let several = |echo: &str, more: &str| {
        let a = shell(echo);
        format!("workflows = {{'x': Workflow({{{a}}}), 'y': Workflow({{{a}, {more}}})}}\n")
    };
    let project = Project::new(&[
        ("workflows/good.py", &one("first")),
        ("workflows/two.py", &several("first", "")),
        ("workflows/gone.py", &one("first")),
    ]);
    let _server = project.up();
    assert_eq!(project.run(&["deploy"]).code, Some(0));
    let says = |workflow: &str| {
        let run = project.run(&["run", workflow, "--deployed", "--json"]).json();
        project.run(&["logs", run["id"].as_str().unwrap()]).out
    };
    // One file is better, one has an error in one of its workflows, one is gone, one is new.
    project.write("workflows/good.py", &one("second"));
    project.write("workflows/two.py", &several("second", "template(name='b', shell='true'): ['c']"));
    std::fs::remove_file(project.path().join("workflows/gone.py")).unwrap();
    project.write("workflows/new.py", "workflow = nothing\n");
    let before = project.run(&["deploy", "--dry-run", "--json"]);
    assert_eq!(before.code, Some(3), "{before:?}");
    assert_eq!(says("good"), "first\n", "a dry run changes nothing");
    let deployed = project.run(&["deploy"]);
    assert_eq!(deployed.code, Some(3), "{deployed:?}");
    assert!(deployed.err.contains("a job that does not exist: \"c\""), "{}", deployed.err);
    assert!(deployed.err.contains("workflows/new.py cannot be loaded: NameError"), "{}", deployed.err);
    assert!(deployed.out.contains("  good  version "), "{}", deployed.out);
    for kept in ["x", "y"] {
        assert!(deployed.out.contains(&format!("  {kept}  keeps version ")), "{}", deployed.out);
    }
    assert!(deployed.out.contains(": workflows/two.py has errors\n"), "{}", deployed.out);
    assert_eq!([says("good"), says("x"), says("y")], ["second\n", "first\n", "first\n"]);
    assert_eq!(project.run(&["run", "gone", "--deployed"]).code, Some(4));
    assert_eq!(project.run(&["run", "new", "--deployed"]).code, Some(4));
    let answer = before.json();
    assert_eq!(answer["broken"], json!(["workflows/new.py", "workflows/two.py"]));
    assert_eq!(answer["kept"][0]["errors"], 1);
    // Settings that are wrong are wrong for all.
    project.write("pinrail.toml", "[project]\nname = \"demo\"\n[defaults]\nretries = \"many\"\n");
    let refused = project.run(&["deploy"]);
    assert_eq!(refused.code, Some(3), "{refused:?}");
    assert!(refused.err.contains("nothing was deployed"), "{}", refused.err);
    assert_eq!(says("good"), "second\n");
}

/// A request as a script makes it.
pub fn request(project: &Project, method: &str, path: &str, token: Option<&str>, body: Option<&str>) -> (u16, Value) {
    let authorization = token.map(|token| format!("Authorization: Bearer {token}"));
    let mut arguments = vec!["-X", method];
    arguments.extend(authorization.iter().flat_map(|header| ["-H", header]));
    arguments.extend(body.iter().flat_map(|body| ["-d", body]));
    project.curl(path, &arguments)
}

#[test]
fn every_error_is_a_problem_document() {
    let project = two();
    let _server = project.up();
    let admin = std::fs::read_to_string(project.state().join("admin.token")).unwrap();
    let admin = Some(admin.as_str());
    let runs = "/api/v1/projects/demo/runs";
    let large = format!("{{\"workflow\": \"{}\"}}", "x".repeat(5 << 20));
    let body_file = project.path().join("large.json");
    std::fs::write(&body_file, large).unwrap();
    let large = format!("@{}", body_file.display());
    for (method, path, token, body, status, code) in [
        ("GET", "/nope", None, None, 404, "route-not-found"),
        ("GET", "/api/v1/runs", None, None, 401, "token-missing"),
        ("GET", "/api/v1/runs", Some("wrong"), None, 401, "token-invalid"),
        ("DELETE", "/api/v1/runs", admin, None, 405, "method-not-allowed"),
        ("GET", "/api/v1/runs?limt=1", admin, None, 400, "unknown-parameter"),
        ("GET", "/api/v1/runs?limit=x", admin, None, 400, "bad-parameter"),
        ("GET", "/api/v1/runs/nope", admin, None, 404, "run-not-found"),
        ("POST", runs, admin, Some("{"), 400, "bad-json"),
        ("POST", runs, admin, Some("{\"workflw\": \"w\"}"), 400, "unknown-field"),
        ("POST", runs, admin, Some("{\"workflow\": 3}"), 400, "bad-request"),
        ("POST", runs, admin, Some("{}"), 400, "bad-request"),
        ("POST", runs, admin, Some("{\"workflow\": \"w\"}"), 404, "workflow-not-found"),
        ("POST", runs, admin, Some(large.as_str()), 413, "too-large"),
        ("POST", "/api/v1/projects/a..b/runs", admin, Some("{}"), 404, "project-not-found"),
    ] {
        let (found, problem) = request(&project, method, path, token, body);
        assert_eq!((found, problem["code"].as_str()), (status, Some(code)), "{method} {path}: {problem}");
        for member in ["type", "title", "detail", "status", "retryable"] {
            assert!(!problem[member].is_null(), "{path} lacks {member}: {problem}");
        }
    }
}

#[test]
fn tokens_are_scoped_expire_and_are_revoked() {
    let project = two();
    let _server = project.up();
    assert_eq!(project.run(&["deploy"]).code, Some(0));
    let make = |arguments: &[&str]| {
        let made = project.run(&[&["token", "create", "--json"], arguments].concat()).json();
        (made["token"].as_str().unwrap().to_owned(), made["id"].as_str().unwrap().to_owned())
    };
    let body = Some("{\"workflow\": \"w\"}");
    let post = |token: &str| request(&project, "POST", "/api/v1/projects/demo/runs", Some(token), body);
    let (viewer, id) = make(&["--role", "viewer"]);
    assert_eq!(post(&viewer).1["code"], "role-too-low");
    assert_eq!(request(&project, "GET", "/api/v1/runs", Some(&viewer), None).0, 200);
    assert_eq!(request(&project, "GET", "/api/v1/tokens", Some(&viewer), None).0, 403);
    assert_eq!(project.run(&["token", "revoke", &id]).code, Some(0));
    assert_eq!(request(&project, "GET", "/api/v1/runs", Some(&viewer), None).0, 401);
    let (expired, _) = make(&["--expires-in", "0"]);
    assert_eq!(request(&project, "GET", "/api/v1/runs", Some(&expired), None).0, 401);
    let (operator, _) = make(&["--role", "operator"]);
    let (status, run) = post(&operator);
    assert_eq!(status, 201);
    let admin = std::fs::read_to_string(project.state().join("admin.token")).unwrap();
    let bundles = "/api/v1/projects/other/bundles";
    assert_eq!(request(&project, "POST", bundles, Some(&admin), Some("{\"files\": {}}")).0, 200);
    let (elsewhere, _) = make(&["--role", "admin", "--for", "other"]);
    assert_eq!(post(&elsewhere).1["code"], "project-not-found");
    let path = format!("/api/v1/runs/{}", run["id"].as_str().unwrap());
    let (hidden, absent) = (
        request(&project, "GET", &path, Some(&elsewhere), None),
        request(&project, "GET", "/api/v1/runs/run_01ARZ3NDEKTSV4RRFFQ69G5FAV", Some(&elsewhere), None),
    );
    let anonymous = |answer: &(u16, Value)| {
        let mut problem = answer.1.clone();
        problem["detail"] = Value::Null;
        (answer.0, problem)
    };
    assert_eq!(anonymous(&hidden), anonymous(&absent), "what may not be seen looks like what is not there");
    assert_eq!(request(&project, "GET", "/api/v1/runs", Some(&elsewhere), None).1["items"], json!([]));
    let projects = request(&project, "GET", "/api/v1/projects", Some(&elsewhere), None).1;
    assert_eq!(projects["items"].as_array().unwrap().len(), 1, "{projects}");
    let admin = project.state().join("admin.token");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(admin).unwrap());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn an_active_run_for_the_same_interval_refuses_another() {
    let project = Project::new(&[("workflows/w.py", "workflow = {template(name='a', shell='sleep 30'): []}")]);
    let _server = project.up();
    let first = project.run(&["run", "w", "--at", "2013-01-01", "--detach", "--json"]).json();
    let second = project.run(&["run", "w", "--at", "2013-01-01", "--detach", "--json"]);
    assert_eq!(second.code, Some(4));
    let problem = second.json();
    assert_eq!((&problem["code"], &problem["run"]), (&json!("run-exists"), &first["id"]));
    assert_eq!(project.run(&["cancel"]).code, Some(0));
}

#[test]
fn one_job_runs_with_outputs_that_are_given_for_those_above() {
    let jobs = "def b(ctx): ctx.log(str(ctx.upstream['a'].outputs))\n";
    let workflow = "workflow = {template(name='a', shell='exit 1'): [], template(name='b', class_='jobs.b.b'): ['a']}";
    let project = Project::new(&[("workflows/w.py", workflow), ("jobs/b.py", jobs)]);
    assert_eq!(project.run(&["run", "w", "--job", "b"]).code, Some(4));
    assert_eq!(project.run(&["run", "w", "--job", "b", "--upstream", "{\"a\": {\"rows\": 3}}"]).code, Some(0));
    assert_eq!(project.log("b"), "{'rows': 3}\n");
    assert_eq!(project.run(&["run", "w", "--job", "b", "--upstream", "{}"]).code, Some(0));
    let refused = project.run(&["run", "w", "--job", "b", "--upstream", "{\"c\": {}}"]);
    assert!(refused.err.contains("job \"c\" not found"), "{refused:?}");
}

#[test]
fn a_deploy_says_what_it_changes() {
    let project = Project::new(&[
        ("workflows/same.py", "workflow = {template(name='a', shell='true'): []}"),
        ("workflows/other.py", "workflow = {template(name='a', shell='true'): []}"),
        ("workflows/gone.py", "workflow = {template(name='a', shell='true'): []}"),
    ]);
    let first = project.run(&["deploy"]);
    assert_eq!(first.out.matches(", 1 job, new\n").count(), 3, "{first:?}");
    assert_eq!(project.run(&["deploy"]).out.matches(", 1 job, unchanged\n").count(), 3);
    std::fs::remove_file(project.path().join("workflows/gone.py")).unwrap();
    project.write("workflows/other.py", "workflow = {template(name='b', shell='true'): []}");
    project.write("workflows/new.py", "workflow = {template(name='a', shell='true'): []}");
    for arguments in [vec!["deploy", "--dry-run"], vec!["deploy"]] {
        let said = project.run(&arguments).out;
        for (workflow, change) in
            [("same", "unchanged but for files of the project"), ("other", "changed"), ("new", "new")]
        {
            let line = said.lines().find(|line| line.starts_with(&format!("  {workflow}  version ")));
            assert!(line.is_some_and(|line| line.ends_with(&format!(", 1 job, {change}"))), "{workflow}: {said}");
        }
        assert!(said.contains("  gone  removed: no workflow file has it any longer\n"), "{said}");
    }
    assert!(!project.run(&["workflows"]).out.contains("gone"));
}

#[test]
fn one_job_without_a_workflow_has_parameters_of_the_types_that_they_look_like() {
    let job = "def a(ctx): ctx.log(repr([ctx.params.n, ctx.params.x, ctx.params.b, ctx.params.s]))\n";
    let project = Project::new(&[("jobs/a.py", job)]);
    let given = ["--param", "n=5", "--param", "x=1.5", "--param", "b=true", "--param", "s=null"];
    let ran = project.run(&[["submit", "jobs.a.a"].as_slice(), &given].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(project.log("a"), "[5, 1.5, True, 'null']\n");
    let ran = project.run(&["submit", "--param", "n=5", "--", "sh", "-c", "echo $PINRAIL_PARAM_N"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(project.log("sh"), "5\n");
}

#[test]
fn a_command_needs_no_project() {
    let project = Project::new(&[]);
    std::fs::remove_file(project.path().join("pinrail.toml")).unwrap();
    let ran = project.run(&["submit", "--", "echo", "hello"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(project.run(&["logs"]).out, "hello\n");
}

#[test]
fn what_is_suggested_works_with_the_state_folder_that_was_named() {
    let project = Project::new(&[("workflows/w.py", "workflow = {template(name='a', shell='exit 3'): []}")]);
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("some state");
    let state = state.to_str().unwrap();
    let ran = project.run(&["run", "w", "--state", state]);
    let next = ran.out.lines().find_map(|line| line.split_once("pinrail --state ")).map(|(_, rest)| rest);
    assert!(next.is_some_and(|rest| rest.starts_with(&format!("'{state}' retry "))), "{}", ran.out);
    let refused = project.run(&["--state", state, "run", "w", "--deployed"]);
    assert!(refused.err.contains(&format!("`pinrail --state '{state}' deploy`")), "{}", refused.err);
    // What the environment names need not be typed again.
    let ran = project.command(&["explain"]).env("PINRAIL_STATE", state).output().unwrap();
    let said = String::from_utf8(ran.stdout).unwrap();
    assert!(said.contains("pinrail retry ") && !said.contains("--state"), "{said}");
}
