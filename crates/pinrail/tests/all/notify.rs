//! Notices, by what arrives at their receivers: endpoints of this process that answer, refuse or hang, and a mail server.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::support::{Project, Ran, Server, wait_until};

/// A request as an endpoint got it.
#[derive(Debug, Clone)]
struct Got {
    path: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    body: String,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_else(|| panic!("no {name}: {self:?}"))
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// What an endpoint does with a request.
enum Answer {
    Status(u16),
    /// Takes it and says nothing, until the other side leaves.
    Hang,
}

/// An endpoint. It ends with the test's process.
struct Receiver {
    url: String,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Receiver {
    /// Answers by the number of the request, from 0.
    fn new(answer: impl Fn(usize, &Got) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let got: Arc<Mutex<Vec<Got>>> = Arc::default();
        let (hears, answer) = (Arc::clone(&got), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().map(Result::unwrap) {
                let (hears, answer) = (Arc::clone(&hears), Arc::clone(&answer));
                std::thread::spawn(move || {
                    // A server that was killed while it spoke sent nothing.
                    let Some(request) = request(&stream) else { return };
                    let number = {
                        let mut all = hears.lock().unwrap();
                        all.push(request.clone());
                        all.len() - 1
                    };
                    match answer(number, &request) {
                        Answer::Status(status) => {
                            let body = "said so";
                            let head = format!(
                                "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                                body.len()
                            );
                            // Whoever has gone hears nothing.
                            let _ = (&stream).write_all(format!("{head}{body}").as_bytes());
                        }
                        Answer::Hang => {
                            let _ = (&stream).read(&mut [0]);
                        }
                    }
                });
            }
        });
        Self { url, got }
    }

    fn that_accepts() -> Self {
        Self::new(|_, _| Answer::Status(200))
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// The events and jobs of what it got, without those that it got twice.
    fn events(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let all = self.got().into_iter().filter(|got| seen.insert(got.header("pinrail-notice").to_owned()));
        let name = |notice: Value| {
            let job = notice["job"].as_str().map(|job| format!(" {job}")).unwrap_or_default();
            format!("{}{job}", notice["event"].as_str().unwrap())
        };
        all.map(|got| name(got.json())).collect()
    }

    /// Waits until it has got so many different notices, and gives what they are, sorted.
    fn wait_for(&self, count: usize) -> Vec<String> {
        wait_until(&format!("{count} notices have come: {:?}", self.events()), || self.events().len() >= count);
        let mut events = self.events();
        events.sort();
        events
    }
}

fn request(stream: &TcpStream) -> Option<Got> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|read| *read > 0)?;
    let path = first.split(' ').nth(1)?.to_owned();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.push((name.to_lowercase(), value.to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length")?.1.parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Got { path, headers, body: String::from_utf8(body).ok()? })
}

/// A project with a webhook `ops` at an endpoint and further settings of the file.
fn project(url: &str, more: &str, files: &[(&str, &str)]) -> Project {
    let project = Project::new(files);
    let ops = format!("[notify.ops]\nkind = \"webhook\"\nurl = \"{url}/hook\"\n");
    project.write("pinrail.toml", &format!("[project]\nname = \"demo\"\n{ops}{more}"));
    project
}

fn deploy(project: &Project) {
    let ran = project.run(&["deploy"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

fn log(project: &Project) -> Vec<Value> {
    project.run(&["notify", "log", "--limit", "500", "--json"]).json()["items"].as_array().unwrap().clone()
}

/// Waits until no notice is pending any more.
fn settled(project: &Project) -> Vec<Value> {
    wait_until("everything is delivered", || log(project).iter().all(|notice| notice["state"] != "pending"));
    log(project)
}

const FAILS: &str = "
workflow = Workflow({
    template(name='load', shell='echo it is broken >&2; exit 3'): [],
    template(name='report', shell='true'): ['load'],
}, notify={'failure': 'ops'})
";

/// Checks a signature as a receiver would, by another implementation than the one that made it.
fn is_signed(got: &Got, key: &str) -> bool {
    const VERIFY: &str = "
import hashlib, hmac, sys
key, header, body = sys.argv[1:]
parts = dict(part.split('=') for part in header.split(','))
wanted = hmac.new(key.encode(), f\"{parts['t']}.{body}\".encode(), hashlib.sha256).hexdigest()
sys.exit(0 if hmac.compare_digest(wanted, parts['v1']) else 1)
";
    let done = Command::new("python3").args(["-c", VERIFY, key, got.header("pinrail-signature"), &got.body]).status();
    done.unwrap().success()
}

#[test]
fn a_failure_of_deployed_code_is_told_in_the_words_of_explain_and_signed() {
    let receiver = Receiver::that_accepts();
    let project = project(&receiver.url, "secret = \"SIGNING\"\n", &[("workflows/w.py", FAILS)]);
    let _server = project.up_with(&[("PINRAIL_PUBLIC_URL", "https://pinrail.example.org/")]);
    assert_eq!(project.run_with(&["secret", "set", "SIGNING"], "a long key").code, Some(0));
    assert_eq!(project.run(&["run", "w", "--at", "2013-01-01"]).code, Some(1), "who runs a folder looks at it");
    deploy(&project);
    assert_eq!(project.run(&["run", "w", "--deployed", "--at", "2013-01-02"]).code, Some(1));
    let told = settled(&project);
    assert_eq!(told.len(), 1, "{told:?}");
    let got = receiver.got();
    assert_eq!(got.len(), 1, "{got:?}");
    assert!(is_signed(&got[0], "a long key") && !is_signed(&got[0], "another key"));
    let (notice, run) = (got[0].json(), project.last_run());
    let run_id = run["id"].as_str().unwrap();
    assert_eq!((got[0].path.as_str(), got[0].header("content-type")), ("/hook", "application/json"));
    assert_eq!(got[0].header("pinrail-notice"), notice["id"]);
    for (name, wanted) in [
        ("version", Value::from(1)),
        ("test", Value::from(false)),
        ("event", "failure".into()),
        ("project", "demo".into()),
        ("workflow", "w".into()),
        ("run", run_id.into()),
        ("run_url", format!("https://pinrail.example.org/api/v1/runs/{run_id}").into()),
        ("ds", "2013-01-02".into()),
        ("job", "load".into()),
        ("fault", "user".into()),
        ("title", "load failed in execute · attempt 1 of 1 · fault user".into()),
        ("next", format!("pinrail retry {}", &run_id[run_id.len() - 4..]).into()),
    ] {
        if name == "next" {
            assert!(notice[name].as_str().unwrap().contains(wanted.as_str().unwrap()), "{notice}");
        } else {
            assert_eq!(notice[name], wanted, "{name} of {notice}");
        }
    }
    let lines = notice["lines"].to_string();
    assert!(lines.contains("it is broken") && lines.contains("downstream: report did not start"), "{lines}");
    assert_eq!((&told[0]["state"], &told[0]["tries"]), (&"delivered".into(), &1.into()));
    let shown = project.run(&["notify", "log"]);
    assert!(shown.out.contains("w@2013-01-02") && shown.out.contains("200 OK said so"), "{}", shown.out);
    // The outbox is no way around the project's borders.
    let (status, body) = project.curl("/api/v1/projects/demo/notices", &["-H", &project.admin()]);
    assert_eq!((status, body["items"].as_array().unwrap().len()), (200, 1));
}

#[test]
fn what_happens_without_a_server_that_stays_is_told_by_the_next_one_and_secrets_stay_secret() {
    let receiver = Receiver::that_accepts();
    let workflow = "
workflow = Workflow({
    template(name='load', shell='echo $KEY is wrong >&2; exit 3', secret_env={'KEY': 'KEY'}): [],
}, notify={'failure': 'ops'})
";
    let project = project(&receiver.url, "", &[("workflows/w.py", workflow)]);
    assert_eq!(project.run_with(&["secret", "set", "KEY"], "hunter22").code, Some(0));
    deploy(&project);
    assert_eq!(project.run(&["run", "w", "--deployed"]).code, Some(1));
    assert_eq!(log(&project)[0]["state"], "pending");
    assert!(receiver.got().is_empty());
    let _server = project.up();
    receiver.wait_for(1);
    let body = &receiver.got()[0].body;
    assert!(body.contains("is wrong") && !body.contains("hunter22"), "{body}");
}

#[test]
fn the_first_failure_of_a_run_and_its_recovery_are_told_once() {
    let receiver = Receiver::that_accepts();
    let workflow = "
workflow = Workflow({
    template(name='a', shell='test -e /GOOD'): [],
    template(name='b', shell='test -e /GOOD'): [],
    template(name='c', shell='false', may_fail=True): [],
}, notify={'failure': 'ops', 'first-failure': 'ops', 'recovery': 'ops'})
";
    let project = project(&receiver.url, "", &[]);
    let good = project.path().join("good");
    project.write("workflows/w.py", &workflow.replace("/GOOD", good.to_str().unwrap()));
    let _server = project.up();
    deploy(&project);
    let run = |day: &str| project.run(&["run", "w", "--deployed", "--at", day]).code;
    assert_eq!(run("2013-01-01"), Some(1));
    let mut wanted = vec!["failure a", "failure b"];
    let first = |events: &[String]| events.iter().filter(|event| event.starts_with("first-failure")).count();
    let got = receiver.wait_for(3);
    assert_eq!((&got[..2], first(&got)), (&["failure a".to_owned(), "failure b".to_owned()][..], 1), "{got:?}");
    // A retry by hand is a new chance, and a new first failure.
    assert_eq!(project.run(&["retry"]).code, Some(1));
    wanted.extend(["failure a", "failure b"]);
    let got = receiver.wait_for(6);
    assert_eq!((got.len(), first(&got)), (6, 2), "{got:?}");
    project.write("good", "");
    assert_eq!(project.run(&["retry"]).code, Some(0));
    assert_eq!(receiver.wait_for(7).last().unwrap(), "recovery");
    assert_eq!(run("2013-01-02"), Some(0), "the one before it succeeded in the end");
    std::fs::remove_file(&good).unwrap();
    assert_eq!(run("2013-01-03"), Some(1));
    assert_eq!(receiver.wait_for(10).iter().filter(|event| *event == "recovery").count(), 1);
    project.write("good", "");
    assert_eq!(run("2013-01-04"), Some(0));
    let got = receiver.wait_for(11);
    assert_eq!(got.iter().filter(|event| *event == "recovery").count(), 2, "{got:?}");
    assert_eq!(settled(&project).len(), 11, "and nothing else");
}

#[test]
fn what_an_endpoint_refuses_is_sent_again_under_the_same_id() {
    let receiver = Receiver::new(|number, _| Answer::Status(if number < 2 { 503 } else { 204 }));
    let project = project(&receiver.url, "", &[("workflows/w.py", FAILS)]);
    let _server = project.up();
    deploy(&project);
    assert_eq!(project.run(&["run", "w", "--deployed"]).code, Some(1));
    let mut refused = Value::Null;
    wait_until("it was refused", || {
        refused = log(&project)[0].clone();
        refused["answer"].is_string()
    });
    assert!(refused["state"] != "pending" || refused["answer"] == "503 Service Unavailable said so", "{refused}");
    let told = settled(&project);
    assert_eq!((&told[0]["state"], &told[0]["tries"]), (&"delivered".into(), &3.into()), "{told:?}");
    let ids: BTreeSet<String> = receiver.got().iter().map(|got| got.header("pinrail-notice").to_owned()).collect();
    assert_eq!((ids.len(), receiver.got().len()), (1, 3));
}

#[test]
fn an_endpoint_that_hangs_holds_up_nobody_else() {
    let hangs = Receiver::new(|_, _| Answer::Hang);
    let receiver = Receiver::that_accepts();
    let more = format!("[notify.stuck]\nkind = \"chat\"\nurl = \"{}/chat\"\n", hangs.url);
    let workflow = FAILS.replace("'ops'", "['stuck', 'ops']");
    let project = project(&receiver.url, &more, &[("workflows/w.py", &workflow)]);
    let _server = project.up();
    deploy(&project);
    for day in ["2013-01-01", "2013-01-02", "2013-01-03"] {
        assert_eq!(project.run(&["run", "w", "--deployed", "--at", day]).code, Some(1));
    }
    receiver.wait_for(3);
    // Meanwhile the other one has not even answered the first.
    let told = log(&project);
    assert!(told.iter().all(|notice| (notice["channel"] == "stuck") == (notice["state"] == "pending")), "{told:?}");
    wait_until("it is noted that it does not answer", || {
        log(&project).iter().any(|notice| notice["answer"] == "no answer within 10 s")
    });
    let doctor = project.run(&["doctor"]);
    assert_eq!(doctor.code, Some(0), "{doctor:?}");
    assert!(doctor.out.contains("channel \"stuck\" takes no notices: no answer within 10 s"), "{}", doctor.out);
}

#[test]
fn a_slow_job_and_a_missed_sla_are_told() {
    let receiver = Receiver::that_accepts();
    let workflow = "
workflow = Workflow({
    template(name='a', shell='until test -e /GO; do sleep 0.05; done', warn_after=0.2): [],
}, notify='ops', sla='300ms')
";
    let project = project(&receiver.url, "", &[]);
    let go = project.path().join("go");
    project.write("workflows/w.py", &workflow.replace("/GO", go.to_str().unwrap()));
    let _server = project.up();
    deploy(&project);
    assert_eq!(project.run(&["run", "w", "--deployed", "--detach"]).code, Some(0));
    assert_eq!(receiver.wait_for(1), ["slow a"]);
    project.write("go", "");
    assert_eq!(receiver.wait_for(2), ["sla-missed", "slow a"]);
    let titles: Vec<String> = log(&project).iter().map(|notice| notice["title"].as_str().unwrap().to_owned()).collect();
    assert_eq!(titles, ["w missed its SLA", "a has worked for longer than its warn time of 0.2 s"]);
}

#[test]
fn an_sla_at_risk_is_told_before_it_is_missed_with_the_sample_that_says_so() {
    let receiver = Receiver::that_accepts();
    let workflow = "
workflow = Workflow({
    template(name='a', shell='until test -e /GO; do sleep 0.05; done'): [],
    template(name='b', shell='true'): ['a'],
}, notify={'sla-at-risk': 'ops', 'sla-missed': 'ops'}, sla='10m')
";
    let project = project(&receiver.url, "", &[("go", "")]);
    let go = project.path().join("go");
    project.write("workflows/w.py", &workflow.replace("/GO", go.to_str().unwrap()));
    let server = project.up();
    deploy(&project);
    for day in ["2013-01-01", "2013-01-02", "2013-01-03"] {
        assert_eq!(project.run(&["run", "w", "--deployed", "--at", day]).code, Some(0));
    }
    std::fs::remove_file(&go).unwrap();
    assert_eq!(project.run(&["run", "w", "--deployed", "--at", "2013-01-04", "--detach"]).code, Some(0));
    server.kill();
    // As if each job of the earlier runs had taken an hour.
    let script = "
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute(\"update attempts set ended_at = started_at + 3600000000 where state = 'succeeded'\")
";
    let done = Command::new("python3").args(["-c", script]).arg(project.state().join("state.db")).status().unwrap();
    assert!(done.success());
    let _server = project.up();
    assert_eq!(receiver.wait_for(1), ["sla-at-risk"]);
    let notice = receiver.got()[0].json();
    assert_eq!(notice["title"], "w will probably miss its SLA");
    let lines: Vec<&str> = notice["lines"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert!(
        ["about 2 h 0 min", "about 119 min"].iter().any(|about| lines[0].starts_with(about))
            && lines[0].contains(" of work are left, and the SLA ends in 9 min"),
        "{lines:?}"
    );
    assert!(lines[1].starts_with("left: a ") && lines[1].ends_with(", b 60 min"), "{lines:?}");
    assert_eq!(lines[2], "by the median of 3 successful runs, without waiting for slots");
}

/// A mail server that takes one letter after another and keeps them.
fn mail_server() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("smtp://{}", listener.local_addr().unwrap());
    let letters: Arc<Mutex<Vec<String>>> = Arc::default();
    let keeps = Arc::clone(&letters);
    std::thread::spawn(move || {
        for stream in listener.incoming().map(Result::unwrap) {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let say = |line: &str| (&stream).write_all(format!("{line}\r\n").as_bytes()).unwrap();
            say("220 mail.test ready");
            let mut envelope = String::new();
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 {
                    break;
                }
                let word = line.split([' ', ':']).next().unwrap().trim().to_uppercase();
                match word.as_str() {
                    "EHLO" | "HELO" => say("250 mail.test"),
                    "MAIL" | "RCPT" if line.contains("nobody@") => say("550 5.1.1 there is no such person"),
                    "MAIL" | "RCPT" => {
                        envelope.push_str(&line);
                        say("250 ok");
                    }
                    "DATA" => {
                        say("354 go on");
                        let mut letter = envelope.clone();
                        loop {
                            let mut line = String::new();
                            reader.read_line(&mut line).unwrap();
                            if line == ".\r\n" {
                                break;
                            }
                            letter.push_str(&line);
                        }
                        keeps.lock().unwrap().push(letter);
                        say("250 2.0.0 queued as 4711");
                    }
                    "QUIT" => {
                        say("221 bye");
                        break;
                    }
                    _ => say("502 not here"),
                }
            }
        }
    });
    (url, letters)
}

#[test]
fn letters_go_out_by_smtp() {
    let (url, letters) = mail_server();
    let receiver = Receiver::that_accepts();
    let more = "[notify.anna]\nkind = \"email\"\nto = [\"anna@example.org\", \"ben@example.org\"]\n\
                [notify.lost]\nkind = \"email\"\nto = \"nobody@example.org\"\n[notify.on]\nfailure = \"anna\"\n";
    let workflow = FAILS.replace(", notify={'failure': 'ops'}", "");
    let project = project(&receiver.url, more, &[("workflows/w.py", &workflow)]);
    let without: Ran = project.run(&["notify", "test", "anna"]);
    assert_eq!(without.code, Some(1), "{without:?}");
    assert!(without.out.contains("this server has no mail server: start it with PINRAIL_SMTP_URL"), "{without:?}");
    let _server =
        project.up_with(&[("PINRAIL_SMTP_URL", &url), ("PINRAIL_SMTP_FROM", "Pinrail <pinrail@example.org>")]);
    let tested = project.run(&["notify", "test", "anna"]);
    assert_eq!(tested.code, Some(0), "{tested:?}");
    assert!(
        tested.out.contains("✔ anna (email) took a test notice and answered: 250 2.0.0 queued as 4711"),
        "{tested:?}"
    );
    let refused = project.run(&["notify", "test", "lost"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.out.contains("there is no such person"), "{refused:?}");
    deploy(&project);
    assert_eq!(project.run(&["run", "w", "--deployed", "--at", "2013-01-02"]).code, Some(1));
    let told = settled(&project);
    assert_eq!(told[0]["state"], "delivered", "{told:?}");
    let letter = letters.lock().unwrap().last().unwrap().clone();
    for wanted in [
        "MAIL FROM:<pinrail@example.org>",
        "RCPT TO:<anna@example.org>",
        "RCPT TO:<ben@example.org>",
        "From: Pinrail <pinrail@example.org>",
        &format!("Message-ID: <{}@example.org>", told[0]["id"].as_str().unwrap()),
    ] {
        assert!(letter.contains(wanted), "no {wanted:?} in {letter}");
    }
    // Read as a mail reader reads it.
    let script = "
import email, email.policy, sys
letter = email.message_from_string(sys.stdin.read().split('\\r\\n', 3)[3], policy=email.policy.default)
print(letter['subject'])
print(letter.get_content())
";
    let read = crate::support::fed(Command::new("python3").args(["-c", script]), &letter);
    assert!(
        read.out.starts_with("[demo] w@2013-01-02: load failed in execute · attempt 1 of 1 · fault user\n"),
        "{read:?}"
    );
    assert!(read.out.contains("it is broken") && read.out.contains("/api/v1/runs/run_"), "{read:?}");
}

#[test]
fn a_channel_can_be_tried_before_it_is_deployed() {
    let receiver = Receiver::new(|_, got| Answer::Status(if got.path == "/hook" { 200 } else { 403 }));
    let more = "[notify.team]\nkind = \"chat\"\nurl_secret = \"CHAT\"\n";
    let project = project(&receiver.url, more, &[]);
    let tested = project.run(&["notify", "test", "ops", "--event", "sla-at-risk", "--json"]);
    assert_eq!(tested.code, Some(0), "{tested:?}");
    assert_eq!(
        tested.json(),
        serde_json::json!(
            {"channel": "ops", "kind": "webhook", "delivered": true, "answer": "200 OK said so"}
        )
    );
    let notice = receiver.got()[0].json();
    assert_eq!((&notice["test"], &notice["event"]), (&true.into(), &"sla-at-risk".into()));
    assert_eq!(notice["title"], "this is a test of channel \"ops\" of project \"demo\"");
    // The URL of a chat is a secret, which nothing repeats.
    let unset = project.run(&["notify", "test", "team"]);
    assert!(unset.out.contains("✘ team (chat) did not take a test notice: secret \"CHAT\" is not set"), "{unset:?}");
    let url = format!("{}/services/T0KEN", receiver.url);
    assert_eq!(project.run_with(&["secret", "set", "CHAT"], &url).code, Some(0));
    let refused = project.run(&["notify", "test", "team"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.out.contains("403 Forbidden") && !format!("{refused:?}").contains("T0KEN"), "{refused:?}");
    let text = receiver.got()[1].json()["text"].as_str().unwrap().to_owned();
    assert!(text.starts_with("this is a test of channel \"team\""), "{text}");
    let gone = project.run_with(&["secret", "set", "CHAT"], "http://127.0.0.1:9/T0KEN");
    assert_eq!(gone.code, Some(0));
    let nobody = project.run(&["notify", "test", "team"]);
    assert!(nobody.out.contains("it cannot be reached") && !format!("{nobody:?}").contains("T0KEN"), "{nobody:?}");
    let unknown = project.run(&["notify", "test", "opss"]);
    assert_eq!(unknown.code, Some(4), "{unknown:?}");
    assert!(
        unknown.err.contains("declares no channel \"opss\"") && unknown.err.contains("Did you mean \"ops\"?"),
        "{unknown:?}"
    );
    assert!(log(&project).is_empty(), "a test is no notice");
}

#[test]
fn a_workflow_that_names_an_unknown_channel_is_refused_with_a_caret() {
    let workflow = FAILS.replace("'ops'", "'opps'");
    let project = project("http://127.0.0.1:9", "", &[("workflows/w.py", &workflow)]);
    let checked = project.run(&["check"]);
    assert_eq!(checked.code, Some(3), "{checked:?}");
    let said = format!("{}{}", checked.out, checked.err);
    assert!(said.contains("names a channel that pinrail.toml does not declare: \"opps\""), "{said}");
    assert!(said.contains("did you mean \"ops\"?") && said.contains("^^^^^^"), "{said}");
}

/// The steps at which a notice could be lost or doubled.
const STEPS: [&str; 6] = [
    "owner.before-commit",
    "owner.after-commit",
    "store.before-commit",
    "store.after-commit",
    "notify.before-send",
    "notify.after-send",
];

#[test]
fn a_death_at_any_step_neither_loses_a_notice_nor_doubles_it() {
    let steps = tempfile::tempdir().unwrap();
    let steps = steps.path().join("steps");
    let passed = std::cell::RefCell::new(Vec::new());
    let tell = |environment: &[(&str, &str)], at: &str| {
        let receiver = Receiver::that_accepts();
        let project = project(&receiver.url, "", &[("workflows/w.py", FAILS)]);
        let first = project.up();
        deploy(&project);
        first.kill();
        let mut server = project.up_or_dead(environment);
        let ask = ["run", "w", "--deployed", "--at", "2013-01-02", "--detach", "--json"];
        // It may die before it answers; who asks again finds the run that is there.
        project.run(&ask);
        let alive = |server: &mut Option<Server>| {
            if server.as_mut().is_none_or(|server| server.child.try_wait().unwrap().is_some()) {
                *server = project.up_or_dead(&[]);
                if project.run(&["runs", "--json"]).json()["items"].as_array().unwrap().is_empty() {
                    project.run(&ask);
                }
            }
        };
        wait_until(&format!("the notice is delivered {at}"), || {
            alive(&mut server);
            let told = project.run(&["notify", "log", "--json"]);
            told.code == Some(0)
                && told.json()["items"]
                    .as_array()
                    .is_some_and(|all| !all.is_empty() && all.iter().all(|notice| notice["state"] == "delivered"))
        });
        let told = log(&project);
        assert_eq!(told.len(), 1, "{at}: {told:?}");
        let ids: BTreeSet<String> = receiver.got().iter().map(|got| got.header("pinrail-notice").to_owned()).collect();
        assert_eq!(ids, BTreeSet::from([told[0]["id"].as_str().unwrap().to_owned()]), "{at}");
        // Sent, but not noted as such, it is sent again.
        let times = receiver.got().len();
        assert!(if at.contains("notify.after-send") { times == 2 } else { times <= 2 }, "{times} times {at}");
    };
    tell(&[("PINRAIL_STEPS", steps.to_str().unwrap())], "without a death");
    passed.borrow_mut().extend(std::fs::read_to_string(&steps).unwrap().lines().map(str::to_owned));
    for step in STEPS {
        let times = passed.borrow().iter().filter(|name| *name == step).count();
        assert!(times > 0, "step {step} is never reached");
        for at in BTreeSet::from([times.div_ceil(2), times]) {
            let die_at = format!("{step}:{at}");
            eprintln!("a death at {die_at}");
            tell(&[("PINRAIL_DIE_AT", &die_at)], &format!("after a death at {die_at}"));
        }
    }
}
