//! What user code finds around it, as root and as an ordinary user: exactly what docs/isolation.md says.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::support::{Project, Ran, below, repository, task, users, wait_until};

/// Says what a process sees of its own containment.
const PROBE: &str = "
import json, os, resource, socket, sys

def descriptors():
    found = []
    for name in os.listdir('/proc/self/fd'):
        try:
            os.fstat(int(name))
            found.append(int(name))
        except OSError:
            pass
    return ' '.join(str(fd) for fd in sorted(found))

def network(port):
    try:
        socket.create_connection(('127.0.0.1', port), 5).close()
        return 'yes'
    except OSError:
        return 'no'

def seen(port):
    status = dict(line.rstrip().split(':', 1) for line in open('/proc/self/status'))
    return {
        'environment': sorted(os.environ),
        'no new privileges': 'yes' if status['NoNewPrivs'].strip() == '1' else 'no',
        'a session of its own': 'yes' if os.getsid(0) == os.getpid() else 'no',
        'core files': str(resource.getrlimit(resource.RLIMIT_CORE)[1]),
        'open files': str(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        'descriptors': descriptors(),
        'blocked signals': 'none' if int(status['SigBlk'], 16) == 0 else status['SigBlk'].strip(),
        'standard input': repr(os.read(0, 1)),
        'network': network(port),
        'user': os.getuid(),
    }

if __name__ == '__main__':
    print(json.dumps(seen(int(sys.argv[1]))))
";

/// Columns of the tables in the documentation.
const KINDS: [&str; 4] = ["job in Python", "class on `shell`", "command", "loading workflow files"];

/// The interpreter itself: what is found by its name may be a script that adds to the environment.
pub fn interpreter(user: Option<u32>) -> String {
    let mut command = std::process::Command::new("python3");
    if let Some(user) = user {
        // Another user may find another one.
        std::os::unix::process::CommandExt::uid(&mut command, user);
    }
    let output = command.args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn project(port: u16, user: Option<u32>) -> Project {
    let workflow = "
import json, probe
from pinrail import Workflow, template
workflow = Workflow({
    template(name='python', class_='jobs.a.run'): [],
    template(name='cold', class_='jobs.a.run', executor='shell'): [],
    template(name='command', shell=['PYTHON', 'probe.py', 'PORT']): [],
})
workflows = {'loading': {template(name='a', shell=['echo', json.dumps(probe.seen(PORT))]): []}}
";
    let job = "import probe\ndef run(ctx):\n    ctx.output('seen', probe.seen(PORT))\n";
    let filled = |text: &str| text.replace("PORT", &port.to_string()).replace("PYTHON", &interpreter(user));
    let project = Project::new(&[
        ("workflows/w.py", &filled(workflow)),
        ("jobs/a.py", &filled(job)),
        ("probe.py", PROBE),
        (".pinrailignore", "server.log\n"),
    ]);
    match user {
        Some(user) => project.of_user(user),
        None => project,
    }
}

/// What each kind of process saw.
fn observe(project: &Project, user: Option<u32>) -> BTreeMap<&'static str, Value> {
    let with_environment = |arguments: &[&str]| -> Ran {
        let mut command = project.command(arguments);
        for name in ["SECRET_OF_THE_SERVER", "PINRAIL_LOG", "PYTHONSTARTUP", "LD_LIBRARY_PATH", "BASH_ENV"] {
            command.env(name, "");
        }
        command.env("PINRAIL_PYTHON", interpreter(user));
        // All that may be handed on is there, so that the table lists all of it.
        command.env("LANG", "C.UTF-8").env("LC_ALL", "C.UTF-8").env("TZ", "UTC").env("USER", "anna");
        command.output().unwrap().into()
    };
    let ran = with_environment(&["run", "w", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let run = ran.json();
    let command = project.log("command");
    // The workflow file is loaded anew for a bundle that is not known.
    project.write("new", "");
    let checked = with_environment(&["check", "--json"]).json();
    let documents = checked["documents"].as_object().unwrap_or_else(|| panic!("{checked}"));
    let loading = documents.values().find(|document| document["workflow"] == "loading").unwrap();
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    BTreeMap::from([
        (KINDS[0], task(&run, "python")["outputs"]["seen"].clone()),
        (KINDS[1], task(&run, "cold")["outputs"]["seen"].clone()),
        (KINDS[2], parse(&command)),
        (KINDS[3], parse(loading["jobs"][0]["shell"][1].as_str().unwrap())),
    ])
}

/// The rows of the table of the documentation whose first column has this head: cells by row and column.
fn table(head: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let text = std::fs::read_to_string(repository().join("docs/isolation.md")).unwrap();
    let cells = |line: &str| -> Vec<String> {
        line.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&format!("| {head} |")));
    let heads = cells(lines.next().unwrap());
    lines
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let mut row = cells(line);
            let name = row.remove(0).trim_matches('`').to_owned();
            (name, heads[1..].iter().cloned().zip(row).collect())
        })
        .collect()
}

#[test]
fn user_code_finds_around_it_what_the_documentation_says() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (limits, variables) = (table("what"), table("variable"));
    assert!(limits.len() >= 8 && variables.len() >= 15, "the tables are read");
    for user in users() {
        for (kind, seen) in observe(&project(port, user), user) {
            for (what, row) in &limits {
                assert_eq!(seen[what].as_str(), row.get(kind).map(String::as_str), "{what} of a {kind} as {user:?}");
            }
            let expected: BTreeSet<&str> =
                variables.iter().filter(|(_, row)| row[kind] == "yes").map(|(name, _)| name.as_str()).collect();
            let found: BTreeSet<&str> =
                seen["environment"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
            assert_eq!(found, expected, "the environment of a {kind} as {user:?}");
            let wanted = user.unwrap_or(std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()));
            assert!(seen["user"] == wanted || kind == KINDS[3], "{kind}: {seen}");
        }
    }
}

#[test]
fn a_workflow_file_that_wants_the_network_is_shown_with_its_line() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for user in users() {
        let file = format!("import socket\n\ns = socket.create_connection(('127.0.0.1', {port}))\n");
        let project = Project::new(&[("workflows/w.py", &file)]);
        let project = match user {
            Some(user) => project.of_user(user),
            None => project,
        };
        let ran = project.run(&["check"]);
        assert_eq!(ran.code, Some(3), "{user:?}: {ran:?}");
        assert!(ran.out.contains("Network is unreachable"), "{}", ran.out);
        assert!(ran.out.contains("╭─ workflows/w.py:3"), "{}", ran.out);
        assert!(ran.out.contains("workflow files are loaded without a network; do this in a job"), "{}", ran.out);
    }
}

#[test]
fn where_the_network_cannot_be_taken_away_workflow_files_are_not_loaded() {
    let project = Project::new(&[("workflows/w.py", "workflow = {template(name='a', shell='true'): []}")]);
    let pinrail = project.command(&[]).get_program().to_owned();
    let mut command = std::process::Command::new("unshare");
    // A namespace in which nobody may make one of the kind that is needed.
    command.args(["--user", "--map-root-user", "sh", "-c"]);
    command.arg("echo 0 > /proc/sys/user/max_net_namespaces && exec \"$PINRAIL\" check");
    let ran: Ran = command.env("PINRAIL", pinrail).current_dir(project.path()).output().unwrap().into();
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("does not let pinrail take the network away"), "{}", ran.err);
    assert!(ran.err.contains("hint: Let ordinary users make namespaces"), "{}", ran.err);
}

#[test]
fn nothing_that_a_workflow_file_starts_outlives_its_loading() {
    let file = "
import os, subprocess
subprocess.Popen(['sleep', '600.25'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
if os.fork() == 0:
    os.setsid()
    os.closerange(0, 100)
    os.execvp('sleep', ['sleep', '600.25'])
workflow = {template(name='a', shell='true'): []}
";
    let project = Project::new(&[("workflows/w.py", file)]);
    let server = project.up();
    assert_eq!(project.run(&["check"]).code, Some(0));
    let left = || below(server.child.id()).into_iter().filter(|(_, line)| line.contains("600.25")).count();
    wait_until("nothing is left", || left() == 0);
}
