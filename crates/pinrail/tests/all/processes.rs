//! Processes that die, escape, resist, fork, eat memory and flood.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Project, task, wait_until};

fn shell_project(template: &str) -> Project {
    Project::new(&[("workflows/w.py", &format!("workflow = {{template(name='a', {template}): []}}"))])
}

fn python_project(settings: &str, job: &str) -> Project {
    Project::new(&[
        ("workflows/w.py", &format!("workflow = {{template(name='a', class_='jobs.a.a'{settings}): []}}")),
        ("jobs/a.py", job),
    ])
}

fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

fn pid_in(project: &Project, file: &str) -> i32 {
    let path = project.path().join(file);
    let mut pid = None;
    wait_until("the pid is written", || {
        pid = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
        pid.is_some()
    });
    pid.unwrap()
}

fn first_attempt(run: &Value) -> &Value {
    &task(run, "a")["attempts"][0]
}

#[test]
fn a_job_killed_by_somebody_else_is_of_unknown_fault() {
    let project = python_project("", "import os, signal\ndef a(ctx):\n    os.kill(os.getpid(), signal.SIGKILL)\n");
    let run = project.run(&["run", "w", "--json"]).json();
    assert_eq!(first_attempt(&run)["state"], "failed");
    assert_eq!(first_attempt(&run)["fault"], "unknown");
}

#[test]
fn a_lost_warm_process_is_the_platforms_fault_and_free() {
    let job = "import os, signal, time\ndef a(ctx):\n    if ctx.attempt.number == 1:\n        os.kill(os.getppid(), signal.SIGKILL)\n        time.sleep(30)\n";
    let project = python_project("", job);
    let run = project.run(&["run", "w", "--json"]).json();
    assert_eq!(run["state"], "succeeded", "{run}");
    let attempts = task(&run, "a")["attempts"].as_array().unwrap();
    assert_eq!((&attempts[0]["state"], &attempts[0]["fault"]), (&"lost".into(), &"platform".into()));
    assert_eq!(attempts[1]["state"], "succeeded");
}

#[test]
fn a_job_begins_without_blocked_signals() {
    // Not by way of a shell script around an interpreter, which would put it right.
    let project = shell_project("shell=['grep', 'SigBlk', '/proc/self/status']");
    assert_eq!(project.run(&["run", "w"]).code, Some(0));
    assert_eq!(project.log("a"), "SigBlk:\t0000000000000000\n");
}

#[test]
fn what_double_forks_into_a_session_of_its_own_is_gone_with_the_server() {
    let escape = "import os, time\ndef a(ctx):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n            open(PATH, 'w').write(str(os.getpid()))\n            time.sleep(600)\n        os._exit(0)\n    time.sleep(600)\n";
    let project = Project::new(&[("workflows/w.py", "workflow = {template(name='a', class_='jobs.a.a'): []}")]);
    let path = project.path().join("escaped");
    project.write("jobs/a.py", &escape.replace("PATH", &format!("{path:?}")));
    let server = project.up();
    project.run(&["run", "w", "--detach"]);
    let pid = pid_in(&project, "escaped");
    assert!(alive(pid));
    server.kill();
    for _ in 0..100 {
        if !alive(pid) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the process outlived its server by two seconds");
}

#[test]
fn what_outlives_its_job_is_killed_before_cleanup() {
    let project = shell_project("shell='setsid sleep 600 & echo $! > $OUT; sleep 0.1', env={'OUT': '@'}");
    let out = project.path().join("left");
    let workflow = std::fs::read_to_string(project.path().join("workflows/w.py")).unwrap();
    project.write("workflows/w.py", &workflow.replace('@', out.to_str().unwrap()));
    let ran = project.run(&["run", "w", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!alive(pid_in(&project, "left")));
}

#[test]
fn a_job_that_ignores_term_is_killed_after_the_time_limit_and_the_grace() {
    let project = shell_project("shell=\"trap '' TERM; echo on; while true; do sleep 1; done\", timeout=0.5");
    let run = project.run(&["run", "w", "--json"]).json();
    assert_eq!(first_attempt(&run)["fault"], "timeout");
    assert_eq!(run["state"], "failed");
}

#[test]
fn a_job_over_its_memory_limit_says_so() {
    let hungry = "def a(ctx):\n    import time\n    x = []\n    while True:\n        x.append(bytearray(b'x') * (8 << 20))\n        time.sleep(0.02)\n";
    let python = python_project(", memory='128MB'", hungry);
    let run = python.run(&["run", "w", "--json"]).json();
    assert_eq!(first_attempt(&run)["fault"], "out-of-memory", "{run}");
    let shell = shell_project(
        "shell=['python3', '-c', 'import time\\nx=[]\\nwhile True:\\n x.append(bytearray(b\"x\")*(8<<20)); time.sleep(0.02)'], memory='64MB'",
    );
    let run = shell.run(&["run", "w", "--json"]).json();
    assert_eq!(first_attempt(&run)["fault"], "out-of-memory", "{run}");
}

#[test]
fn a_flood_keeps_its_beginning_and_its_end() {
    let project =
        shell_project("shell='echo first; head -c 200000000 /dev/zero | tr \"\\\\0\" \"x\"; echo; echo last'");
    let ran = project.run(&["run", "w", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let log = project.log("a");
    assert!(log.starts_with("first\n") && log.ends_with("\nlast\n"));
    assert!(log.len() < 70 << 20, "{}", log.len());
}

#[test]
fn bytes_that_are_no_utf8_are_kept_and_shown_replaced() {
    let project = shell_project("shell=\"printf 'a\\\\377b'\"");
    assert_eq!(project.run(&["run", "w"]).code, Some(0));
    assert_eq!(project.log("a"), "a\u{fffd}b");
}

#[test]
fn a_job_sees_a_clean_environment_and_no_descriptor_of_ours() {
    let job = "import os\ndef a(ctx):\n    ctx.output('env', sorted(os.environ))\n    ctx.output('fds', sorted(int(n) for n in os.listdir('/proc/self/fd')))\n    ctx.output('nnp', [l for l in open('/proc/self/status') if l.startswith('NoNewPrivs')][0].split()[1])\n    ctx.output('session', os.getsid(0) == os.getpid())\n";
    for executor in ["python", "shell"] {
        let project = python_project("", job);
        let output = project
            .command(&["run", "w", "--executor", executor, "--json"])
            .env("SECRET_OF_THE_SERVER", "x")
            .output()
            .unwrap();
        let run = crate::support::Ran::from(output).json();
        assert_eq!(run["state"], "succeeded", "{run}");
        let outputs = &task(&run, "a")["outputs"];
        let names: Vec<&str> = outputs["env"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
        assert!(!names.contains(&"SECRET_OF_THE_SERVER"), "{names:?}");
        // Standard streams, the runner's socket, and the listing itself.
        assert!(outputs["fds"].as_array().unwrap().len() <= 5, "{outputs}");
        assert_eq!(outputs["nnp"], "1");
        assert_eq!(outputs["session"], true);
    }
}

#[test]
fn a_workflow_file_has_no_network_while_it_is_compiled() {
    let file = "import socket\ns = socket.socket()\ntry:\n    s.connect(('127.0.0.1', PORT))\n    reached = True\nexcept OSError:\n    reached = False\nworkflow = {template(name='reached' if reached else 'alone', class_='jobs.a.a'): []}\n";
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let project =
        Project::new(&[("workflows/w.py", &file.replace("PORT", &port)), ("jobs/a.py", "def a(ctx): pass\n")]);
    let answer = project.run(&["check", "--json"]).json();
    let documents = answer["documents"].as_object().unwrap();
    assert_eq!(documents.values().next().unwrap()["jobs"][0]["name"], "alone");
}
