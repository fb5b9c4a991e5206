//! Commands inside an attempt: outputs, files and secrets of jobs that are commands.

use serde_json::json;

use crate::support::{Project, task};

fn flow(templates: &str, files: &[(&str, &str)]) -> Project {
    let project = Project::new(&[("workflows/w.py", &format!("workflow = {{\n{templates}\n}}"))]);
    for (path, text) in files {
        project.write(path, text);
    }
    project
}

#[test]
fn a_command_leaves_outputs_for_the_jobs_below_it() {
    let script = "
pinrail output rows 5
pinrail output rows 6
pinrail output name 'two words'
pinrail output list '[1, {\"a\": null}]'
pinrail output version 1.10 --text
pinrail output below -5
for n in 1 2 3 4 5 6 7 8; do pinrail output many_$n $n & done
wait
";
    let below = "
def b(ctx):
    outputs = ctx.upstream['a'].outputs
    ctx.output('got', [outputs['rows'], outputs['name'], outputs['list'], outputs['version'], outputs['below']])
    ctx.output('sum', sum(outputs[f'many_{n}'] for n in range(1, 9)))
";
    let project = flow(
        "template(name='a', shell=['sh', 'a.sh']): [], template(name='b', class_='jobs.b.b'): 'a',",
        &[("a.sh", script), ("jobs/b.py", below)],
    );
    let run = project.run(&["run", "w", "--json"]).json();
    assert_eq!(run["state"], "succeeded", "{run}");
    let got = &task(&run, "b")["outputs"];
    assert_eq!(got["got"], json!([6, "two words", [1, {"a": null}], "1.10", -5]));
    assert_eq!(got["sum"], 36);
    let shown = project.run(&["show"]).out;
    assert!(shown.contains("name = \"two words\""), "{shown}");
}

#[test]
fn what_execute_returned_as_a_command_may_leave_outputs_too() {
    let job = "
from pinrail import Shell

class A:
    def execute(self, ctx):
        ctx.output('first', 1)
        return Shell(['pinrail', 'output', 'second', '2'])

    def cleanup(self, ctx):
        import subprocess
        late = subprocess.run(['pinrail', 'output', 'third', '3'], capture_output=True, text=True)
        ctx.log(late.stderr)
        assert late.returncode == 4
";
    let below = "
import subprocess
def b(ctx):
    # Children of a Python job are processes of the attempt as well.
    subprocess.run(['pinrail', 'output', 'from_child', 'true'], check=True)
    ctx.output('sum', sum(ctx.upstream['a'].outputs.values()))
";
    let project = flow(
        "template(name='a', class_='jobs.a.A'): [], template(name='b', class_='jobs.b.b'): 'a',",
        &[("jobs/a.py", job), ("jobs/b.py", below)],
    );
    for executor in ["python", "shell"] {
        let run = project.run(&["run", "w", "--executor", executor, "--json"]).json();
        assert_eq!(run["state"], "succeeded", "{run}");
        assert_eq!(task(&run, "a")["outputs"], json!({"first": 1, "second": 2}));
        assert_eq!(task(&run, "a")["attempts"][0]["cleanup"]["ok"], true, "{run}");
        assert_eq!(task(&run, "b")["outputs"], json!({"from_child": true, "sum": 3}));
        assert!(project.log("a").contains("comes too late: the attempt is being cleaned up"));
    }
}

#[test]
fn an_output_that_cannot_be_one_is_refused() {
    let script = "
pinrail output a/b 1 && exit 1
pinrail output large \"$(head -c 65534 /dev/zero | tr '\\0' x)\" || exit 2
pinrail output too_large \"$(head -c 65535 /dev/zero | tr '\\0' x)\"
test $? = 4 || exit 3
";
    let project = flow("template(name='a', shell=['sh', 'a.sh']): [],", &[("a.sh", script)]);
    let run = project.run(&["run", "w", "--json"]).json();
    assert_eq!(run["state"], "succeeded", "{run}");
    let log = project.log("a");
    assert!(log.contains("output name \"a/b\" is not allowed"), "{log}");
    assert!(log.contains("output \"too_large\" takes 65537 bytes as JSON; at most 65536 are allowed"), "{log}");
    assert_eq!(task(&run, "a")["outputs"].as_object().unwrap().len(), 1);
}

#[test]
fn a_command_saves_files_for_people() {
    let script = "
echo one > one.txt && pinrail save one.txt
echo two > $TMPDIR/two.txt && pinrail save $TMPDIR/two.txt --name report.txt
pinrail save missing.txt && exit 1
pinrail save one.txt --name ../x && exit 2
test -z \"$(ls -A $TMPDIR | grep save-)\"
";
    let project = flow("template(name='a', shell=['sh', 'a.sh']): [],", &[("a.sh", script)]);
    let ran = project.run(&["run", "w"]);
    assert_eq!(ran.code, Some(0), "{ran:?} {}", project.log("a"));
    let files = project.run(&["files", "--json"]).json();
    let names: Vec<&str> = files["items"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["one.txt", "report.txt"]);
    assert_eq!(project.run(&["files", "last", "report.txt"]).out, "two\n");
    let log = project.log("a");
    assert!(log.contains("\"missing.txt\" is not a file"), "{log}");
    assert!(log.contains("\"../x\" is not a file name"), "{log}");
}

#[test]
fn a_command_reads_the_secrets_that_it_declares() {
    let script = "
test \"$(pinrail secret read ftp)\" = a-secret || exit 1
test \"$(pinrail secret read ftp | wc -c)\" = 8 || exit 2
pinrail secret read other && exit 3
pinrail secret read ftp
";
    let project = flow("template(name='a', shell=['sh', 'a.sh'], secrets=['ftp']): [],", &[("a.sh", script)]);
    for name in ["ftp", "other"] {
        assert_eq!(project.run_with(&["secret", "set", name], "a-secret").code, Some(0));
    }
    let ran = project.run(&["run", "w"]);
    assert_eq!(ran.code, Some(0), "{ran:?} {}", project.log("a"));
    let log = project.log("a");
    assert!(log.contains("secret \"other\" is not declared by job \"a\""), "{log}");
    assert!(log.contains("***") && !log.contains("a-secret"), "{log}");
}

#[test]
fn a_state_folder_with_a_long_path_serves_commands_too() {
    let project = flow("template(name='a', shell='pinrail output deep 1'): [],", &[]);
    let deep = project.path().join("deep".repeat(40)).join("state");
    let run = project.run(&["run", "w", "--json", "--state", deep.to_str().unwrap()]).json();
    assert_eq!(task(&run, "a")["outputs"]["deep"], 1, "{run}");
}

#[test]
fn outside_of_an_attempt_these_commands_say_so() {
    let project = flow("template(name='a', shell='true'): [],", &[]);
    for arguments in [vec!["output", "a", "1"], vec!["save", "workflows/w.py"], vec!["secret", "read", "ftp"]] {
        let ran = project.command(&arguments).env_remove("PINRAIL_SOCKET").output().unwrap();
        let ran = crate::support::Ran::from(ran);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.err.contains("works inside an attempt only"), "{}", ran.err);
        let gone = project.command(&arguments).env("PINRAIL_SOCKET", "/nowhere/.socket").output().unwrap();
        assert_ne!(gone.status.code(), Some(0));
    }
}
