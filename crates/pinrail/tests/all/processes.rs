//! Processes that die, escape, resist, fork, eat memory and flood.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Project, alive, below, launcher, sigkill, status, task, wait_until};

fn shell_project(template: &str) -> Project {
    Project::new(&[("workflows/w.py", &format!("workflow = {{template(name='a', {template}): []}}"))])
}

fn python_project(settings: &str, job: &str) -> Project {
    Project::new(&[
        ("workflows/w.py", &format!("workflow = {{template(name='a', class_='jobs.a.a'{settings}): []}}")),
        ("jobs/a.py", job),
    ])
}

pub fn pid_in(project: &Project, file: &str) -> u32 {
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
    let job = "import os, time\ndef a(ctx):\n    if ctx.attempt.number == 1:\n        open(PATH, 'w').write(str(os.getppid()))\n        time.sleep(30)\n";
    let project = python_project("", "");
    project.write("jobs/a.py", &job.replace("PATH", &format!("{:?}", project.path().join("warm"))));
    project.write(".pinrailignore", "warm\nserver.log\n");
    let _server = project.up();
    assert_eq!(project.run(&["run", "w", "--detach"]).code, Some(0));
    sigkill(pid_in(&project, "warm"));
    let run = project.wait_for_end();
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

/// A job whose first attempt double-forks into a session of its own, says with which pid, and then does something.
pub fn escaping(then: &str) -> Project {
    let job = "
import os, time

def a(ctx):
    if ctx.attempt.number > 1:
        return
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            with open(PATH + '.new', 'w') as file:
                file.write(str(os.getpid()))
            os.rename(PATH + '.new', PATH)
            time.sleep(600)
        os._exit(0)
    while not os.path.exists(PATH):
        time.sleep(0.01)
    THEN
";
    let project = python_project("", "");
    let path = format!("{:?}", project.path().join("escaped"));
    project.write("jobs/a.py", &job.replace("PATH", &path).replace("THEN", then));
    project.write(".pinrailignore", "escaped*\nserver.log\n.user\n");
    project
}

#[test]
fn what_double_forks_into_a_session_of_its_own_is_gone_with_the_server() {
    let project = escaping("time.sleep(600)");
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
fn what_outlives_a_python_job_is_killed_with_it() {
    for executor in ["python", "shell"] {
        let project = escaping("return");
        // It holds the job's standard output as well, which must keep nobody waiting.
        let ran = project.run(&["run", "w", "--executor", executor, "--json"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(!alive(pid_in(&project, "escaped")), "{executor}");
    }
}

#[test]
fn a_killed_launcher_takes_its_processes_along_and_is_replaced() {
    let project = escaping("time.sleep(600)");
    let server = project.up();
    assert_eq!(project.run(&["run", "w", "--detach"]).code, Some(0));
    let pid = pid_in(&project, "escaped");
    sigkill(launcher(&server));
    let run = project.wait_for_end();
    assert_eq!(run["state"], "succeeded", "{run}");
    let attempts = task(&run, "a")["attempts"].as_array().unwrap();
    assert_eq!((&attempts[0]["state"], &attempts[0]["fault"]), (&"lost".into(), &"platform".into()));
    assert!(!alive(pid), "what had escaped is found by its attempt");
}

#[test]
fn a_server_killed_together_with_any_of_its_processes_is_resumed_without_leftovers() {
    for victim in ["__launcher", "pinrail.warm", "the job"] {
        let project = escaping("open(PATH + '.job', 'w').write(str(os.getpid()))\n    time.sleep(600)");
        let path = format!("{:?}", project.path().join("escaped"));
        let job = std::fs::read_to_string(project.path().join("jobs/a.py")).unwrap();
        project.write("jobs/a.py", &job.replace("PATH", &path));
        let server = project.up();
        assert_eq!(project.run(&["run", "w", "--detach"]).code, Some(0));
        let escaped = pid_in(&project, "escaped");
        let job = pid_in(&project, "escaped.job");
        let found = below(server.child.id()).into_iter().find(|(_, line)| line.contains(victim));
        sigkill(found.map_or(job, |(pid, _)| pid));
        server.kill();
        let _next = project.up();
        let run = project.wait_for_end();
        assert_eq!(run["state"], "succeeded", "{victim}: {run}");
        assert!(!alive(escaped) && !alive(job), "{victim}");
    }
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
    let project = shell_project("shell=['sh', 'stubborn.sh'], timeout=0.5");
    project.write("stubborn.sh", "trap 'echo asked' TERM\necho $$\nwhile true; do sleep 0.1; done\n");
    let run = project.run(&["run", "w", "--json"]).json();
    assert_eq!(first_attempt(&run)["fault"], "timeout");
    assert_eq!(run["state"], "failed");
    let log = project.log("a");
    let (pid, rest) = log.split_once('\n').unwrap();
    assert!(rest.contains("asked"), "it is asked first: {log}");
    assert!(!alive(pid.parse().unwrap()));
}

#[test]
fn a_job_over_its_memory_limit_says_so() {
    let hungry = "
import time
def eat():
    x = []
    while True:
        x.append(bytearray(b'x') * (8 << 20))
        time.sleep(0.02)
def a(ctx):
    eat()
";
    // None of them is over the limit by itself.
    let together = "
import os, time
def a(ctx):
    for _ in range(3):
        if os.fork() == 0:
            x = [bytearray(b'x') * (8 << 20) for _ in range(9)]
            time.sleep(60)
    os.wait()
";
    let alone = "import time\nx=[]\nwhile True:\n x.append(bytearray(b'x')*(8<<20)); time.sleep(0.02)\n";
    let python = |job: &str| python_project(", memory='128MB'", job);
    let shell = |command: &str| {
        let project = shell_project(&format!("shell='{command}', memory='64MB'"));
        project.write("eat.py", alone);
        project
    };
    for (project, what) in [
        (python(hungry), "python"),
        (python(together), "forks of python"),
        (shell("python3 eat.py"), "a command"),
        (shell("sh -c \"python3 eat.py; true\"; true"), "a child of a command"),
    ] {
        let run = project.run(&["run", "w", "--json"]).json();
        assert_eq!(first_attempt(&run)["fault"], "out-of-memory", "{what}: {run}");
        let said = project.run(&["explain"]).out;
        assert!(said.contains("out of memory") || said.contains("more than its limit of"), "{what}: {said}");
    }
}

#[test]
fn an_allocation_beyond_the_limit_fails_at_the_users_line() {
    for executor in ["python", "shell"] {
        let project = python_project(", memory='128MB'", "def a(ctx):\n    return len(b'x' * (1 << 30))\n");
        let run = project.run(&["run", "w", "--executor", executor, "--json"]).json();
        assert_eq!(first_attempt(&run)["fault"], "out-of-memory", "{executor}: {run}");
        let said = project.run(&["explain"]).out;
        assert!(said.contains("jobs/a.py:2"), "{said}");
    }
}

/// What the server may need at most while a job floods, in KiB: far less than the flood, more than it needs when idle.
const SERVER_MEMORY: u64 = 160 << 10;

#[test]
fn a_flood_keeps_its_beginning_and_its_end_and_the_server_its_memory() {
    let project = shell_project("shell='echo first; head -c 1000000000 /dev/zero | tr \"\\\\0\" x; echo; echo last'");
    let server = project.up();
    let ran = project.run(&["run", "w", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let log = project.log("a");
    assert!(log.starts_with("first\nxxx") && log.ends_with("xxx\nlast\n"));
    assert!(log.contains("pieces of this log are left out: its first 16 MiB and its last 48 MiB are kept"));
    assert!((48 << 20..66 << 20).contains(&log.len()), "{}", log.len());
    let most = status(server.child.id(), "VmHWM");
    assert!(most < SERVER_MEMORY, "{most} KiB");
}

#[test]
fn bytes_that_are_no_utf8_are_kept_and_shown_replaced() {
    let project = shell_project("shell=\"printf 'a\\\\377b'\"");
    assert_eq!(project.run(&["run", "w"]).code, Some(0));
    assert_eq!(project.log("a"), "a\u{fffd}b");
}

#[test]
fn a_job_that_closes_its_descriptors_is_told_so_and_its_files_are_its_own() {
    let job = "
import os
def a(ctx):
    os.closerange(CLOSED, 100)
    opened = [open(PATH, 'w') for _ in range(8)]
    ctx.log('where does this go?')
";
    for executor in ["python", "shell"] {
        for closed in ["0", "3"] {
            let project = python_project("", "");
            let path = project.path().join("own");
            project.write("jobs/a.py", &job.replace("CLOSED", closed).replace("PATH", &format!("{path:?}")));
            let run = project.run(&["run", "w", "--executor", executor, "--json"]).json();
            assert_eq!(first_attempt(&run)["fault"], "user", "{run}");
            let said = project.run(&["explain"]).out;
            assert!(said.contains("nor close descriptors that it did not open"), "{said}");
            let written = std::fs::read_to_string(path).unwrap();
            assert!(!written.contains("type"), "no message of ours is in it: {written}");
            if closed == "3" {
                assert!(project.log("a").contains("the job closed descriptor 3"), "{}", project.log("a"));
            }
        }
    }
}

#[test]
fn warm_processes_keep_to_their_memory_together() {
    let names = ["a", "b", "c"];
    let jobs = names.map(|name| format!("template(name='{name}', class_='jobs.{name}.run'): [],")).join("\n");
    let project = Project::new(&[("workflows/w.py", &format!("workflow = {{{jobs}}}"))]);
    for name in names {
        project.write(&format!("jobs/{name}.py"), "held = b'x' * (230 << 20)\ndef run(ctx):\n    pass\n");
    }
    let server = project.up();
    assert_eq!(project.run(&["run", "w"]).code, Some(0));
    let warm = || -> Vec<u32> {
        let found = below(server.child.id()).into_iter().filter(|(_, line)| line.contains("pinrail.warm"));
        found.map(|(pid, _)| pid).collect()
    };
    wait_until("what is too much has gone", || warm().len() < names.len());
    let held: u64 = warm().iter().map(|pid| status(*pid, "VmRSS")).sum();
    assert!((1..=512 << 10).contains(&held), "{held} KiB: within the limit, and not all of them gone");
}
