//! Secrets: set by people, given to the jobs that declare them, seen nowhere.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::service::request;
use crate::support::{Project, below, task, wait_until};

const VALUE: &str = "s3cr3t-of-anna";

pub fn set(project: &Project, name: &str, value: &str) {
    let ran = project.run_with(&["secret", "set", name], value);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!format!("{ran:?}").contains(value.trim()), "{ran:?}");
}

fn one(template: &str, job: &str) -> Project {
    let workflow = format!("workflow = {{template(name='a', {template}): []}}");
    Project::new(&[("workflows/w.py", &workflow), ("jobs/a.py", job)])
}

#[test]
fn a_secret_is_set_listed_replaced_and_removed_but_never_shown() {
    let project = one("shell='true'", "");
    set(&project, "ftp", "first-value");
    set(&project, "ftp", &format!("{VALUE}\n"));
    let listed = project.run(&["secret", "list", "--json"]);
    assert!(!listed.out.contains(VALUE), "{}", listed.out);
    let items = listed.json()["items"].clone();
    assert_eq!((items.as_array().unwrap().len(), &items[0]["name"]), (1, &json!("ftp")));
    assert_eq!((&items[0]["set_by"], &items[0]["usable"]), (&json!("admin"), &json!(true)));
    let key = std::fs::metadata(project.state().join("secrets.key")).unwrap();
    assert_eq!((key.mode() & 0o777, key.len()), (0o600, 32));
    assert!(files_with(&project.state(), VALUE).is_empty(), "the database holds it sealed");
    assert_eq!(project.run(&["secret", "rm", "ftp"]).code, Some(0));
    let again = project.run(&["secret", "rm", "ftp"]);
    assert_eq!(again.code, Some(4));
    assert!(again.err.contains("secret \"ftp\" is not set in project \"demo\""), "{}", again.err);
    assert_eq!(project.run(&["secret", "list", "--json"]).json()["items"], json!([]));
}

#[test]
fn what_cannot_be_a_secret_is_refused_with_the_reason() {
    let project = one("shell='true'", "");
    set(&project, "ftp", VALUE);
    let long = "x".repeat((64 << 10) + 1);
    for (name, value, code, said) in [
        ("short", "abc\n", 4, "has 3 bytes without white space around it; at least 4 are needed"),
        ("blank", "        ", 4, "has 0 bytes"),
        ("long", long.as_str(), 4, "has 65537 bytes; at most 65536 are allowed"),
        ("nul", "ab\0cd", 4, "holds a NUL byte"),
        ("FTP", "other-value", 4, "secret \"FTP\" differs only in case from secret \"ftp\""),
        ("a/b", "other-value", 2, "secret name \"a/b\" is not allowed"),
    ] {
        let ran = project.run_with(&["secret", "set", name], value);
        assert_eq!(ran.code, Some(code), "{name}: {ran:?}");
        assert!(ran.err.contains(said), "{name}: {}", ran.err);
    }
}

#[test]
fn only_a_developer_of_the_project_may_touch_secrets() {
    let project = one("shell='true'", "");
    let _server = project.up();
    set(&project, "ftp", VALUE);
    assert_eq!(project.run(&["check"]).code, Some(0));
    let admin = std::fs::read_to_string(project.state().join("admin.token")).unwrap();
    let bundles = "/api/v1/projects/other/bundles";
    assert_eq!(request(&project, "POST", bundles, Some(&admin), Some("{\"files\": {}}")).0, 200);
    let token = |arguments: &[&str]| {
        let made = project.run(&[&["token", "create", "--json"], arguments].concat()).json();
        made["token"].as_str().unwrap().to_owned()
    };
    let path = "/api/v1/projects/demo/secrets";
    let one = format!("{path}/ftp");
    let body = Some("{\"value\": \"stolen-value\"}");
    for (token, status) in [
        (None, 401),
        (Some(token(&["--role", "operator"])), 403),
        (Some(token(&["--role", "admin", "--for", "other"])), 404),
    ] {
        assert_eq!(request(&project, "GET", path, token.as_deref(), None).0, status);
        assert_eq!(request(&project, "PUT", &one, token.as_deref(), body).0, status);
        assert_eq!(request(&project, "DELETE", &one, token.as_deref(), None).0, status);
    }
    let developer = token(&["--role", "developer", "--for", "demo"]);
    assert_eq!(request(&project, "GET", &one, Some(&developer), None).0, 405, "a value cannot be asked for");
    assert_eq!(request(&project, "PUT", &one, Some(&developer), Some("{\"valu\": \"x\"}")).0, 400);
    assert_eq!(request(&project, "PUT", &one, Some(&developer), body).0, 200);
    assert_eq!(request(&project, "DELETE", &one, Some(&developer), None).0, 204);
}

#[test]
fn a_job_gets_the_secrets_that_it_declares_and_no_other() {
    let job = "
from pinrail import UserError

class A:
    def setup(self, ctx):
        assert ctx.secret('ftp') == 'VALUE'

    def execute(self, ctx):
        try:
            ctx.secret('other')
        except UserError as error:
            ctx.output('undeclared', str(error))
        # Past the check of the SDK, as a runner of one's own could.
        ctx.output('asked', ctx._port.request('secret', {'name': 'other'})['error']['code'])
        return len(ctx.secret('ftp'))

    def complete(self, ctx, result):
        ctx.output('length', result)

    def cleanup(self, ctx):
        assert ctx.secret('ftp') == 'VALUE'
";
    let project = one("class_='jobs.a.A', secrets=['ftp']", &job.replace("VALUE", VALUE));
    set(&project, "ftp", VALUE);
    set(&project, "other", "of somebody else");
    for executor in ["python", "shell"] {
        let run = project.run(&["run", "w", "--executor", executor, "--json"]).json();
        assert_eq!(run["state"], "succeeded", "{run}");
        let done = task(&run, "a");
        assert_eq!(done["attempts"][0]["cleanup"]["ok"], true, "{run}");
        let outputs = &done["outputs"];
        assert_eq!(outputs["length"], VALUE.len());
        assert_eq!(outputs["undeclared"], "secret \"other\" is not declared by job \"a\"");
        assert_eq!(outputs["asked"], "secret-not-declared");
    }
}

#[test]
fn a_command_gets_a_declared_secret_in_its_environment() {
    let project = one("shell='test \"$PASSWORD\" = s3cr3t-of-anna', secret_env={'PASSWORD': 'ftp'}", "");
    set(&project, "ftp", VALUE);
    assert_eq!(project.run(&["run", "w"]).code, Some(0));
}

#[test]
fn a_declared_secret_that_is_not_set_stops_the_job_before_it_begins() {
    let job = "def a(ctx):\n    open(OUT, 'w')\n";
    let project = one("class_='jobs.a.a', secrets=['ftp'], retries=2", job);
    let trace = project.path().join("begun");
    project.write("jobs/a.py", &job.replace("OUT", &format!("{trace:?}")));
    let run = project.run(&["run", "w", "--json"]).json();
    assert_eq!(run["state"], "failed");
    let attempts = task(&run, "a")["attempts"].as_array().unwrap();
    assert_eq!((attempts.len(), &attempts[0]["fault"]), (1, &json!("user")), "nobody sets it between two tries");
    assert!(!trace.exists());
    let said = project.run(&["explain"]).out;
    assert!(said.contains("secret \"ftp\" is not set in project \"demo\""), "{said}");
    assert!(said.contains("pinrail secret set ftp"), "{said}");
    set(&project, "ftp", VALUE);
    assert_eq!(project.run(&["retry"]).code, Some(0));
    assert!(trace.exists());
}

/// A job that gives its secret away wherever it can, and then waits to be looked at.
const TALKATIVE: &str = "
import os, sys, time

class A:
    def setup(self, ctx):
        value = ctx.secret('ftp')
        middle = len(value) // 2
        for out in (sys.stdout, sys.stderr):
            out.write('whole ' + value + ' half ' + value[:middle])
            out.flush()
            time.sleep(0.05)
            out.write(value[middle:] + ' end\\n')
            out.flush()
        ctx.log('it is ' + value)
        ctx.log('x' * (128 * 1024 - middle) + value)
        ctx.metric('metric ' + value, 1, unit=value)
        ctx.counter('counter ' + value, 1)
        ctx.progress(0.5, value)
        ctx.output('value', {'nested': [value], value: 1})

    def execute(self, ctx):
        value = ctx.secret('ftp')
        open(ctx.params.flag, 'w').write(str(os.getpid()))
        while os.path.exists(ctx.params.flag):
            time.sleep(0.01)
        if ctx.params.ends == 'check':
            ctx.check('is ' + value, False, detail='found ' + value)
        elif ctx.params.ends == 'exit':
            sys.exit('exits with ' + value)
        elif ctx.params.ends == 'raise':
            raise RuntimeError('raises ' + value)

    def cleanup(self, ctx):
        raise ValueError('cleanup of ' + ctx.secret('ftp'))
";

const TALKATIVE_FLOW: &str = "
from pinrail import Param, Workflow, template
workflow = Workflow({
    template(name='a', class_='jobs.a.A', secrets=['ftp']): [],
}, params={'ends': Param(str), 'flag': Param(str)})
";

#[test]
fn no_secret_shows_anywhere() {
    let project = Project::new(&[("workflows/w.py", TALKATIVE_FLOW), ("jobs/a.py", TALKATIVE)]);
    let flag = project.path().join("flag");
    let _server = project.up();
    set(&project, "ftp", VALUE);
    for ends in ["check", "exit", "raise", "well"] {
        let flag_text = format!("flag={}", flag.display());
        let ends_text = format!("ends={ends}");
        let started = project.run(&["run", "w", "--detach", "--param", &flag_text, "--param", &ends_text]);
        assert_eq!(started.code, Some(0), "{started:?}");
        let mut pid = None;
        wait_until("the job executes", || {
            pid = std::fs::read_to_string(&flag).ok().and_then(|text| text.parse::<u32>().ok());
            pid.is_some()
        });
        for entry in std::fs::read_dir("/proc").unwrap().map(Result::unwrap) {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&line).contains(VALUE), "{:?}", entry.path());
        }
        let environment = std::fs::read(format!("/proc/{}/environ", pid.unwrap())).unwrap();
        assert!(!String::from_utf8_lossy(&environment).contains(VALUE));
        std::fs::remove_file(&flag).unwrap();
        let run = project.wait_for_end();
        assert_eq!(run["state"], if ends == "well" { "succeeded" } else { "failed" }, "{run}");
        let frames = project.run(&["logs", "--json"]).json()["items"].clone();
        let said = |stream: &str| -> String {
            let frames = frames.as_array().unwrap().iter().filter(|frame| frame["stream"] == stream);
            frames.map(|frame| frame["text"].as_str().unwrap()).collect()
        };
        assert!(said("stdout").starts_with("whole *** half *** end\n"), "{}", said("stdout"));
        assert!(said("stderr").starts_with("whole *** half *** end\n"), "{}", said("stderr"));
        assert!(said("log").starts_with("it is ***x"), "the text around it stays");
        if ends == "well" {
            assert_eq!(task(&run, "a")["outputs"]["value"], json!({"nested": ["***"], "***": 1}));
        } else {
            let explained = project.run(&["explain", "--json"]).json();
            assert!(explained["items"][0]["failure"]["message"].as_str().unwrap().contains("***"), "{explained}");
        }
        assert_eq!(task(&run, "a")["attempts"][0]["cleanup"]["detail"], "ValueError: cleanup of ***");
        for command in ["logs", "show", "explain", "counters", "files", "runs"] {
            for arguments in [vec![command], vec![command, "--json"]] {
                let ran = project.run(&arguments);
                let seen = format!("{}{}", ran.out, ran.err);
                assert!(!seen.contains(VALUE) && !halves(&seen), "{arguments:?}: {seen}");
            }
        }
        assert!(!events(&project, &run).contains(VALUE));
    }
    let found = files_with(&project.state(), VALUE);
    assert!(found.is_empty(), "{found:?}");
    assert!(!std::fs::read_to_string(project.path().join("server.log")).unwrap().contains(VALUE));
}

/// Whether a log part ends with the first half of the value.
fn halves(seen: &str) -> bool {
    seen.contains(&VALUE[..VALUE.len() / 2])
}

/// The history of a run, as a script follows it.
fn events(project: &Project, run: &Value) -> String {
    let live: Value =
        serde_json::from_str(&std::fs::read_to_string(project.state().join("server.json")).unwrap()).unwrap();
    let token = std::fs::read_to_string(project.state().join("admin.token")).unwrap();
    let url = format!("{}/api/v1/runs/{}/events", live["url"].as_str().unwrap(), run["id"].as_str().unwrap());
    let mut command = std::process::Command::new("curl");
    command.args(["-sN", &url, "-H", &format!("Authorization: Bearer {token}")]);
    let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(text.contains("run-ended"), "{text}");
    text
}

/// The files below a folder that hold a text.
pub fn files_with(folder: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files_with(&entry.path(), text));
        } else {
            let bytes = std::fs::read(entry.path()).unwrap_or_default();
            if bytes.windows(text.len()).any(|part| part == text.as_bytes()) {
                found.push(entry.path().display().to_string());
            }
        }
    }
    found
}

#[test]
fn what_a_command_does_with_its_secret_shows_nowhere_but_in_its_own_environment() {
    let script = "
printf '%s' \"$PASSWORD\"
printf '%s' \"$PASSWORD\" >&2
pinrail secret read ftp
pinrail output value \"$PASSWORD\"
pinrail secret read other
pinrail --json secret read ftp
echo $$ > PATH.new && mv PATH.new PATH
while test -e PATH; do sleep 0.05; done
exit 3
";
    let project = one("shell=['sh', 'leak.sh'], secrets=['ftp'], secret_env={'PASSWORD': 'ftp'}", "");
    let flag = project.path().join("flag");
    project.write("leak.sh", &script.replace("PATH", flag.to_str().unwrap()));
    project.write(".pinrailignore", "flag*\nserver.log\n");
    let server = project.up_with(&[("PINRAIL_LOG", "trace")]);
    set(&project, "ftp", VALUE);
    set(&project, "other", "of-somebody-else");
    assert_eq!(project.run(&["run", "w", "--detach"]).code, Some(0));
    wait_until("the command waits", || flag.exists());
    let own: u32 = std::fs::read_to_string(&flag).unwrap().trim().parse().unwrap();
    let children: Vec<u32> = below(own).into_iter().map(|(pid, _)| pid).collect();
    let mut looked_at = 0;
    for (pid, line) in below(server.child.id()).into_iter().chain([(server.child.id(), String::new())]) {
        assert!(!line.contains(VALUE), "{line}");
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let holds = environment.windows(VALUE.len()).any(|part| part == VALUE.as_bytes());
        assert_eq!(holds, holds && (pid == own || children.contains(&pid)), "{line}");
        looked_at += 1;
    }
    assert!(looked_at >= 3, "the server, the launcher and the command");
    std::fs::remove_file(&flag).unwrap();
    let run = project.wait_for_end();
    assert_eq!(run["state"], "failed", "{run}");
    for arguments in [
        vec!["logs"],
        vec!["logs", "--json"],
        vec!["show", "--json"],
        vec!["explain"],
        vec!["explain", "--json"],
        vec!["runs", "--json"],
        vec!["counters", "--json"],
    ] {
        let ran = project.run(&arguments);
        let seen = format!("{}{}", ran.out, ran.err);
        assert!(!seen.contains(VALUE) && !halves(&seen), "{arguments:?}: {seen}");
        assert!(!seen.contains("of-somebody-else"), "{arguments:?}: {seen}");
    }
    let log = project.log("a");
    assert!(log.contains("secret \"other\" is not declared by job \"a\""), "{log}");
    assert!(files_with(&project.state(), VALUE).is_empty(), "{:?}", files_with(&project.state(), VALUE));
    assert!(files_with(&project.state(), "of-somebody-else").is_empty());
    let traced = std::fs::read_to_string(project.path().join("server.log")).unwrap();
    assert!(!traced.contains(VALUE), "also when everything is traced");
}

#[test]
fn a_secret_that_errors_and_bundles_could_hold_is_in_none() {
    // Refusals name what was sent, but never a value.
    let project = one("shell='true'", "");
    let _server = project.up();
    let admin = std::fs::read_to_string(project.state().join("admin.token")).unwrap();
    for body in [
        json!({"value": [VALUE]}).to_string(),
        json!({"valu": VALUE}).to_string(),
        json!({"value": VALUE, "more": VALUE}).to_string(),
        json!({"value": format!("{VALUE}\0")}).to_string(),
        format!("{{\"value\": \"{VALUE}"),
        format!("\"{VALUE}\""),
        VALUE.to_owned(),
    ] {
        let (status, problem) =
            request(&project, "PUT", "/api/v1/projects/demo/secrets/ftp", Some(&admin), Some(&body));
        assert_eq!(status, 400, "{body}: {problem}");
        assert!(!problem.to_string().contains(VALUE), "{problem}");
    }
    assert!(files_with(&project.state(), VALUE).is_empty());
    set(&project, "ftp", VALUE);
    assert_eq!(project.run(&["deploy"]).code, Some(0));
    assert!(files_with(&project.state(), VALUE).is_empty(), "a bundle holds the project's files and nothing else");
    assert!(!std::fs::read_to_string(project.path().join("server.log")).unwrap().contains(VALUE));
}
