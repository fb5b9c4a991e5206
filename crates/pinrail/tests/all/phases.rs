//! The four phases: in order, on success, on a failure in each, after a kill and in a retry.

use std::process::Stdio;

use pinrail_model::time::Micros;

use crate::support::{Project, Ran, phases, task, wait_until};

/// A job that logs its phases and fails in the one that its parameter names, on its first attempt only.
const JOB: &str = "
class Phased:
    def setup(self, ctx):
        self.enter(ctx, 'setup')
        ctx.state['from setup'] = True

    def execute(self, ctx):
        self.enter(ctx, 'execute')
        assert ctx.state['from setup'] and not hasattr(self, 'entered_setup')
        return {'answer': 42}

    def complete(self, ctx, result):
        self.enter(ctx, 'complete')
        assert result == {'answer': 42}
        ctx.output('answer', result['answer'])

    def cleanup(self, ctx):
        self.enter(ctx, 'cleanup')

    def enter(self, ctx, phase):
        setattr(self, 'entered_' + phase, True)
        ctx.log(phase)
        if ctx.params.fails == phase and ctx.attempt.number == 1:
            raise ValueError('told to fail in ' + phase)

def after(ctx):
    ctx.log('answer ' + str(ctx.upstream['phased'].outputs['answer']))
";

const WORKFLOW: &str = "
from pinrail import Param, Workflow, template
workflow = Workflow({
    template(name='phased', class_='jobs.a.Phased', executor=EXECUTOR, retries=1, retry_delay=0): [],
    template(name='after', class_='jobs.a.after'): ['phased'],
}, params={'fails': Param(str, default='')})
";

fn project(executor: &str) -> Project {
    let workflow = WORKFLOW.replace("EXECUTOR", executor);
    Project::new(&[("workflows/w.py", &workflow), ("jobs/a.py", JOB)])
}

#[test]
fn a_success_goes_through_all_phases_and_hands_its_output_on() {
    for executor in ["'python'", "'shell'"] {
        let project = project(executor);
        let ran = project.run(&["run", "w", "--json"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let run = ran.json();
        let attempts = task(&run, "phased")["attempts"].as_array().unwrap().clone();
        assert_eq!(attempts.len(), 1);
        let all = ["setup succeeded", "execute succeeded", "complete succeeded", "cleanup succeeded"];
        assert_eq!(phases(&attempts[0]), all, "{executor}");
        assert_eq!(project.log("phased"), "setup\nexecute\ncomplete\ncleanup\n");
        assert_eq!(project.log("after"), "answer 42\n");
    }
}

#[test]
fn a_failure_in_any_phase_ends_in_cleanup_and_a_retry_starts_clean() {
    for (fails, expected) in [
        ("setup", vec!["setup failed", "cleanup succeeded"]),
        ("execute", vec!["setup succeeded", "execute failed", "cleanup succeeded"]),
        ("complete", vec!["setup succeeded", "execute succeeded", "complete failed", "cleanup succeeded"]),
    ] {
        let project = project("'python'");
        let ran = project.run(&["run", "w", "--param", &format!("fails={fails}"), "--json"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let run = ran.json();
        let attempts = task(&run, "phased")["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), 2, "{fails}");
        assert_eq!((&attempts[0]["state"], &attempts[0]["fault"]), (&"failed".into(), &"user".into()));
        assert_eq!(phases(&attempts[0]), expected, "{fails}");
        assert_eq!(attempts[1]["state"], "succeeded");
        assert_eq!((&attempts[0]["number"], &attempts[1]["number"]), (&1.into(), &2.into()));
    }
}

#[test]
fn a_failed_cleanup_is_a_warning() {
    let project = project("'python'");
    let ran = project.run(&["run", "w", "--param", "fails=cleanup"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let said = "  cleanup of phased failed: ValueError: told to fail in cleanup\n    next        pinrail logs ";
    for shown in [ran.out, project.run(&["show"]).out, project.run(&["explain", "--job", "phased"]).out] {
        assert!(shown.contains(said), "{shown}");
    }
    let run = project.last_run();
    assert_eq!(run["state"], "succeeded");
    let attempt = &task(&run, "phased")["attempts"][0];
    assert_eq!(phases(attempt)[3], "cleanup failed");
    assert_eq!(attempt["cleanup"]["detail"], "ValueError: told to fail in cleanup");
}

#[test]
fn a_failure_is_explained_with_the_users_own_line() {
    let project = Project::new(&[
        (
            "workflows/w.py",
            "workflow = {template(name='a', class_='jobs.a.a'): [], template(name='b', class_='jobs.a.a'): 'a'}",
        ),
        ("jobs/a.py", "def helper(x):\n    return x['missing']\n\ndef a(ctx):\n    return helper({})\n"),
    ]);
    let ran = project.run(&["run", "w"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let said = project.run(&["explain"]).out;
    assert!(said.contains("a failed in execute · attempt 1 of 1 · fault user"), "{said}");
    assert!(said.contains("KeyError: 'missing'"), "{said}");
    assert!(said.contains("jobs/a.py:2  return x['missing']"), "{said}");
    assert!(said.contains("downstream  b did not start"), "{said}");
    assert!(said.contains("next        fix the file, then: pinrail retry "), "{said}");
    project.write("jobs/a.py", "def a(ctx):\n    raise ValueError('again')\n");
    assert_eq!(project.run(&["retry", "--code", "folder"]).code, Some(1));
    let said = project.run(&["explain"]).out;
    assert!(said.contains("ValueError: again") && said.contains("attempt 1 of 1"), "{said}");
    project.write("jobs/a.py", "def a(ctx):\n    pass\n");
    assert_eq!(project.run(&["retry", "--code", "folder"]).code, Some(0));
    // A key that stands twice is lost to whoever reads it as JSON.
    let said = project.run(&["explain", "--job", "a", "--json"]);
    assert_eq!(said.json()["items"][0]["state"], "succeeded");
    assert_eq!(said.out.matches("\"state\"").count(), 1, "{}", said.out);
    let refused = project.run(&["cancel"]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.err.contains("the run is over already: succeeded"), "{}", refused.err);
}

#[test]
fn a_failed_check_is_a_data_fault_that_is_not_retried() {
    let project = Project::new(&[
        ("workflows/w.py", "workflow = {template(name='a', class_='jobs.a.a', retries=3): []}"),
        ("jobs/a.py", "def a(ctx):\n    ctx.check('enough rows', False, detail='3 rows')\n    ctx.log('goes on')\n"),
    ]);
    let run = project.run(&["run", "w", "--json"]).json();
    let attempts = task(&run, "a")["attempts"].as_array().unwrap();
    assert_eq!((attempts.len(), &attempts[0]["fault"]), (1, &"data".into()));
    assert!(project.log("a").contains("goes on"), "the phase runs to its end, so that all checks are reported");
}

#[test]
fn a_cancelled_run_cleans_up_and_a_retry_goes_on() {
    let project = Project::new(&[
        (
            "workflows/w.py",
            "workflow = {template(name='a', class_='jobs.a.A'): [], template(name='b', class_='jobs.a.b'): 'a'}",
        ),
        (
            "jobs/a.py",
            "import time\nclass A:\n    def execute(self, ctx):\n        ctx.log('works')\n        time.sleep(60 if ctx.attempt.number == 1 else 0)\n    def cleanup(self, ctx):\n        ctx.log('cleaned')\ndef b(ctx): pass\n",
        ),
    ]);
    let _server = project.up();
    assert_eq!(project.run(&["run", "w", "--detach"]).code, Some(0));
    wait_until("the job works", || project.log("a").contains("works"));
    assert_eq!(project.run(&["cancel", "--reason", "enough"]).code, Some(0));
    let run = project.wait_for_end();
    assert_eq!(run["state"], "cancelled");
    assert_eq!(task(&run, "a")["attempts"][0]["state"], "cancelled");
    assert_eq!(task(&run, "a")["attempts"][0]["fault"], "cancelled");
    assert!(project.log("a").contains("cleaned"));
    let again = project.run(&["retry", "--json"]);
    assert_eq!(again.code, Some(0), "{again:?}");
    let run = again.json();
    assert_eq!(run["state"], "succeeded");
    assert_eq!(task(&run, "a")["attempts"][1]["number"], 2);
}

#[test]
fn execute_lasts_as_long_as_what_it_returned() {
    let jobs = "from pinrail import Shell\ndef a(ctx): return Shell(['sleep', '0.3'])\n";
    let project = Project::new(&[
        ("workflows/w.py", "workflow = {template(name='a', class_='jobs.a.a'): []}"),
        ("jobs/a.py", jobs),
    ]);
    let run = project.run(&["run", "w", "--json"]).json();
    let phases = task(&run, "a")["attempts"][0]["phases"].as_array().unwrap();
    let execute: Vec<_> = phases.iter().filter(|phase| phase["name"] == "execute").collect();
    assert_eq!(execute.len(), 1, "{run}");
    let at = |name: &str| serde_json::from_value::<Micros>(execute[0][name].clone()).unwrap();
    assert!(at("ended_at").since(at("started_at")) >= std::time::Duration::from_millis(300), "{run}");
}

#[test]
fn files_named_in_the_project_are_read_in_place() {
    let project = Project::new(&[
        ("pinrail.toml", "[project]\nname = \"demo\"\n[files]\nraw = \"data/*.csv\"\nmore = \"large\"\n"),
        ("workflows/w.py", "workflow = {template(name='a', class_='jobs.a.a'): []}"),
        ("jobs/a.py", "def a(ctx): ctx.log(ctx.file('data/x.csv').read_text() + ctx.file('large/y/z').read_text())\n"),
        ("data/x.csv", "one"),
        ("data/kept.txt", "in the bundle"),
        ("large/y/z", "two"),
    ]);
    assert_eq!(project.run(&["run", "w"]).code, Some(0));
    assert_eq!(project.log("a"), "onetwo\n");
    let bundle = std::fs::read_dir(project.state().join("bundles")).unwrap().next().unwrap().unwrap().path();
    assert!(bundle.join("data/kept.txt").exists());
    assert!(!bundle.join("data/x.csv").exists() && !bundle.join("large").exists());
    // Commands find them where they are in the project, and leave the bundle alone.
    let command = "cat data/x.csv large/y/z data/kept.txt; cat jobs/a.py >/dev/null && rm -r jobs data && touch new";
    let ran = project.run(&["submit", "--", "sh", "-c", command]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(project.log("sh"), "onetwoin the bundle");
    assert!(bundle.join("data/kept.txt").exists() && bundle.join("jobs/a.py").exists() && !bundle.join("new").exists());
    assert!(project.path().join("data/x.csv").exists());
}

#[test]
fn a_failure_names_the_inputs_that_changed_since_the_last_success() {
    let project = Project::new(&[
        ("pinrail.toml", "[project]\nname = \"demo\"\n[files]\nraw = \"data/**/*.csv\"\n"),
        ("workflows/w.py", "workflow = {template(name='a', shell='test $(wc -c < data/x.csv) -gt 1000'): []}"),
        ("data/x.csv", &"x".repeat(2500)),
        ("data/old/y.csv", "y"),
        ("data/same.csv", "z"),
    ]);
    assert_eq!(project.run(&["run", "w", "--at", "2013-01-01"]).code, Some(0));
    project.write("data/x.csv", "too few");
    std::fs::remove_dir_all(project.path().join("data/old")).unwrap();
    let ran = project.run(&["run", "w", "--at", "2013-01-02"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.out.contains("    since       data/old/y.csv is gone\n"), "{}", ran.out);
    assert!(ran.out.contains(": 2.5 kB → 7 B\n"), "{}", ran.out);
    assert!(!ran.out.contains("same.csv"), "{}", ran.out);
    // A retry looks again.
    project.write("data/x.csv", "nearly enough");
    assert_eq!(project.run(&["retry"]).code, Some(1));
    let said = project.run(&["explain", "--json"]).json();
    assert_eq!(said["items"][0]["changed"][1]["after"], 13, "{said}");
}

#[test]
fn cleanup_finds_what_setup_left_whatever_came_between() {
    let jobs = "
import os, signal
class Base:
    def setup(self, ctx): ctx.state['cluster'] = 7
    def cleanup(self, ctx): ctx.log(f'cleanup has {sorted(ctx.state.items())}')
class Raises(Base):
    def execute(self, ctx):
        ctx.state['more'] = 1
        raise ValueError('no')
class Exits(Base):
    def execute(self, ctx): os._exit(3)
class Dies(Base):
    def execute(self, ctx): os.kill(os.getpid(), signal.SIGKILL)
class Checks(Base):
    def execute(self, ctx): ctx.check('never', False)
class Ends(Base):
    def execute(self, ctx): pass
    def complete(self, ctx, result): ctx.state['more'] = 2
";
    let project = Project::new(&[
        (
            "workflows/w.py",
            "workflow = {template(name=n.lower(), class_=f'jobs.a.{n}'): [] for n in ('Raises', 'Exits', 'Dies', 'Checks', 'Ends')}",
        ),
        ("jobs/a.py", jobs),
    ]);
    assert_eq!(project.run(&["run", "w"]).code, Some(1));
    let only = "cleanup has [('cluster', 7)]";
    for (job, said) in [
        ("raises", "cleanup has [('cluster', 7), ('more', 1)]"),
        ("exits", only),
        ("dies", only),
        ("checks", only),
        ("ends", "cleanup has [('cluster', 7), ('more', 2)]"),
    ] {
        let log = project.log(job);
        assert!(log.contains(said), "{job}: {log}");
    }
}

#[test]
fn nothing_of_a_job_begins_after_it_was_cancelled() {
    let project = Project::new(&[
        (
            "workflows/w.py",
            "workflows = {'slow': {template(name='a', class_='jobs.a.a'): []}, 'after': {template(name='b', class_='jobs.a.b'): []}}",
        ),
        (
            "jobs/a.py",
            "import os, time
open('PLACE/imports', 'w').close()
while not os.path.exists('PLACE/go'): time.sleep(0.01)
def a(ctx): open('PLACE/ran', 'w').close()
def b(ctx): pass
",
        ),
    ]);
    let place = tempfile::tempdir().unwrap();
    let jobs = std::fs::read_to_string(project.path().join("jobs/a.py")).unwrap();
    project.write("jobs/a.py", &jobs.replace("PLACE", place.path().to_str().unwrap()));
    let _server = project.up();
    assert_eq!(project.run(&["run", "slow", "--detach"]).code, Some(0));
    wait_until("the module is being loaded", || place.path().join("imports").exists());
    assert_eq!(project.run(&["cancel"]).code, Some(0));
    assert_eq!(project.wait_for_end()["state"], "cancelled");
    // The module has loaded when a job of it succeeds, in the same warm process.
    std::fs::write(place.path().join("go"), "").unwrap();
    assert_eq!(project.run(&["run", "after"]).code, Some(0));
    assert!(!place.path().join("ran").exists(), "the job ran after its run was cancelled");
}

#[test]
fn an_unfinished_run_does_not_overwrite_a_newer_one_later() {
    let project = Project::new(&[
        (
            "workflows/w.py",
            "workflow = Workflow({template(name='a', class_='jobs.a.a'): []}, params={'v': Param(str)})",
        ),
        (
            "jobs/a.py",
            "import os, time
def a(ctx):
    while ctx.params.v == 'old' and ctx.attempt.number == 1: time.sleep(0.01)
    with open('PLACE', 'a') as file: file.write(f'{ctx.params.v} ')
",
        ),
    ]);
    let place = tempfile::tempdir().unwrap();
    let written = place.path().join("written");
    let jobs = std::fs::read_to_string(project.path().join("jobs/a.py")).unwrap();
    project.write("jobs/a.py", &jobs.replace("PLACE", written.to_str().unwrap()));
    let server = project.up();
    let old = project.run(&["run", "w", "--at", "2024-05-01", "--param", "v=old", "--detach", "--json"]).json();
    let state = || project.run(&["show", old["id"].as_str().unwrap(), "--json"]).json();
    wait_until("the job works", || task(&state(), "a")["state"] == "executing");
    drop(server);
    let new = project.run(&["run", "w", "--at", "2024-05-01", "--param", "v=new", "--json"]);
    assert_eq!(new.code, Some(0), "{new:?}");
    let _server = project.up();
    assert_eq!(state()["state"], "cancelled");
    assert_eq!(std::fs::read_to_string(written).unwrap(), "new ");
}

#[test]
fn only_files_of_the_scratch_folder_are_saved() {
    let jobs = "
import json, os, socket
def a(ctx):
    os.symlink(ctx.scratch.parents[3] / 'admin.token', ctx.scratch / 'link.txt')
    os.mkfifo(ctx.scratch / 'pipe.txt')
    server = socket.socket(socket.AF_UNIX)
    server.connect(os.environ['PINRAIL_SOCKET'])
    for name in ('link.txt', 'pipe.txt'):
        request = {'id': 1, 'request': 'save', 'name': name, 'path': str(ctx.scratch / name)}
        server.sendall((json.dumps(request) + chr(10)).encode())
        ctx.log(server.recv(4096).decode())
";
    let project = Project::new(&[
        ("workflows/w.py", "workflow = {template(name='a', class_='jobs.a.a'): []}"),
        ("jobs/a.py", jobs),
    ]);
    let ran = project.run(&["run", "w"]);
    assert_eq!(ran.code, Some(0), "{ran:?} {}", project.log("a"));
    let log = project.log("a");
    assert!(log.contains("is not in the attempt's scratch folder"), "{log}");
    assert!(log.contains("is not a file"), "{log}");
    assert_eq!(project.run(&["files", "--json"]).json()["items"], serde_json::json!([]));
}

#[test]
fn amounts_of_one_name_are_added_up_and_metrics_are_not() {
    let project = Project::new(&[
        ("workflows/w.py", "workflow = {template(name='a', class_='jobs.a.A'): []}"),
        (
            "jobs/a.py",
            "class A:
    def execute(self, ctx):
        ctx.counter('rows', 2)
        ctx.counter('rows', 3)
        ctx.metric('queue', 9)
        ctx.metric('queue', 4)
    def complete(self, ctx, result):
        ctx.counter('rows', 5)
",
        ),
    ]);
    assert_eq!(project.run(&["run", "w"]).code, Some(0));
    let counters = project.run(&["counters", "--json"]).json();
    let value = |name: &str| {
        let items = counters["items"].as_array().unwrap();
        items.iter().find(|item| item["name"] == name).unwrap_or_else(|| panic!("{counters}"))["value"].as_f64()
    };
    assert_eq!((value("rows"), value("queue")), (Some(10.0), Some(4.0)));
}

#[test]
fn a_retry_does_not_go_on_beside_another_run_of_its_interval() {
    let project = Project::new(&[
        (
            "workflows/w.py",
            "workflow = Workflow({template(name='a', class_='jobs.a.a'): []}, params={'secs': Param(int)})",
        ),
        ("jobs/a.py", "import time\ndef a(ctx): time.sleep(ctx.params.secs)\n"),
    ]);
    let server = project.up();
    let first = project.run(&["run", "w", "--at", "2024-05-01", "--param", "secs=0", "--json"]).json();
    let first = first["id"].as_str().unwrap();
    assert_eq!(project.run(&["run", "w", "--at", "2024-05-01", "--param", "secs=60", "--detach"]).code, Some(0));
    let refused = project.run(&["retry", first, "--job", "a"]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.err.contains("for the same interval is active"), "{refused:?}");
    drop(server);
    // Without a server that stays, the one that was left unfinished ends here.
    let again = project.run(&["retry", first, "--job", "a"]);
    assert_eq!(again.code, Some(0), "{again:?}");
    let why = project.run(&["runs", "--json"]).json();
    let states: Vec<&str> = why["items"].as_array().unwrap().iter().map(|run| run["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["cancelled", "succeeded"]);
}

#[test]
fn a_job_that_was_submitted_goes_on_with_mended_code() {
    let project = Project::new(&[("jobs/a.py", "def a(ctx): return ctx.nothing\n")]);
    assert_eq!(project.run(&["submit", "jobs.a.a"]).code, Some(1));
    assert!(project.run(&["explain"]).out.contains(" --code folder"));
    project.write("jobs/a.py", "def a(ctx): pass\n");
    assert_eq!(project.run(&["retry"]).code, Some(1), "the run keeps its code");
    let mended = project.run(&["retry", "--code", "folder"]);
    assert_eq!(mended.code, Some(0), "{mended:?}");
}

#[test]
fn a_command_of_a_job_makes_no_state_of_its_own() {
    let project =
        Project::new(&[("workflows/w.py", "workflow = {template(name='a', shell='pinrail tables; test $? = 4'): []}")]);
    let ran = project.run(&["run", "w"]);
    assert_eq!(ran.code, Some(0), "{ran:?} {}", project.log("a"));
    assert!(project.log("a").contains("no state folder of its own"), "{}", project.log("a"));
}

#[test]
fn a_job_that_is_slow_or_warns_is_marked() {
    let project = Project::new(&[
        ("workflows/w.py", "workflow = {template(name='a', class_='jobs.a.a', warn_after='0.1s'): []}"),
        (
            "jobs/a.py",
            "import os, time
def a(ctx):
    ctx.check('even', False, detail='3', level='warning')
    while not os.path.exists('PLACE/go'): time.sleep(0.01)
",
        ),
    ]);
    let place = tempfile::tempdir().unwrap();
    let jobs = std::fs::read_to_string(project.path().join("jobs/a.py")).unwrap();
    project.write("jobs/a.py", &jobs.replace("PLACE", place.path().to_str().unwrap()));
    let _server = project.up();
    let mut command = project.command(&["run", "w"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let is_slow = || {
        let shown = project.run(&["show", "--json"]);
        shown.code == Some(0) && task(&shown.json(), "a")["slow"] == true
    };
    wait_until("the job is marked as slow", is_slow);
    std::fs::write(place.path().join("go"), "").unwrap();
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(format!("{}{}", ran.out, ran.err).contains(" s   slow, 1 warning"), "{ran:?}");
    let shown = project.run(&["show"]).out;
    assert!(shown.contains("warning: check \"even\" failed: 3"), "{shown}");
    assert_eq!(task(&project.run(&["show", "--json"]).json(), "a")["slow"], true);
}
