//! The project's own tests, and the SDK for editors.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{Project, Ran, test_python, venv};

const JOB: (&str, &str) = ("jobs/a.py", "def double(ctx):\n    ctx.output('twice', 2 * ctx.params.n)\n");
const WORKFLOW: (&str, &str) = (
    "workflows/w.py",
    "workflow = Workflow({template(name='double', class_='jobs.a.double'): []}, params={'n': Param(int, default=1)})\n",
);

/// Fails on purpose when it is told to.
const TESTS: &str = "
import os
from jobs.a import double
from pinrail.testing import fake_context, project

def test_alone():
    ctx = fake_context(params={'n': 3})
    double(ctx)
    assert ctx.outputs == {'twice': 6}

def test_whole():
    result = project().run_job('double', params={'n': 4})
    assert (result.state, result.outputs) == ('succeeded', {'twice': 8})
    assert 'FAIL' not in os.environ
";

fn run(project: &Project, python: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
    let mut command = project.command(arguments);
    command.env("PINRAIL_PYTHON", python).envs(environment.iter().copied());
    command.output().unwrap().into()
}

#[test]
fn a_projects_tests_run_with_the_carried_sdk_and_this_binary() {
    let project = Project::new(&[WORKFLOW, JOB, ("tests/test_a.py", TESTS)]);
    let python = test_python();
    let passed = run(&project, &python, &["test"], &[]);
    assert_eq!(passed.code, Some(0), "{passed:?}");
    assert!(passed.out.contains("2 passed"), "{}", passed.out);
    let failed = run(&project, &python, &["test", "--json"], &[("FAIL", "1")]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.err.contains("1 failed, 1 passed"), "{}", failed.err);
    assert_eq!((&failed.json()["passed"], &failed.json()["exit_code"]), (&false.into(), &1.into()));
    let selected = run(&project, &python, &["test", "--", "-k", "alone", "-q"], &[("FAIL", "1")]);
    assert_eq!(selected.code, Some(0), "{selected:?}");
    assert!(selected.out.contains("1 passed, 1 deselected"), "{}", selected.out);
    assert_eq!(run(&project, &python, &["test", "--", "--nonsense"], &[]).code, Some(2));
    assert_eq!(run(&project, &python, &["test", "--", "-k", "nothing"], &[]).code, Some(1));
}

#[test]
fn the_tests_run_on_the_interpreter_that_the_project_names() {
    let project = Project::new(&[WORKFLOW, JOB, ("tests/test_a.py", TESTS)]);
    project.write("pinrail.toml", "[project]\nname = \"demo\"\n[python]\ninterpreter = \".venv/bin/python\"\n");
    let missing = project.run(&["test"]);
    assert_eq!(missing.code, Some(1), "{missing:?}");
    assert!(missing.err.contains(".venv/bin/python\" cannot be run"), "{}", missing.err);
    venv(&project.path().join(".venv"));
    let without = project.run(&["test"]);
    assert_eq!(without.code, Some(1), "{without:?}");
    assert!(without.err.contains("pytest is not installed for \""), "{}", without.err);
    assert!(without.err.contains(".venv/bin/python -m pip install pytest"), "{}", without.err);
    // Borrowed from an interpreter that has it, instead of installing it again.
    let paths = "import pytest, site; print('\\n'.join(site.getsitepackages()))";
    let found = Command::new(test_python()).args(["-c", paths]).output().unwrap().stdout;
    let packages = "import sysconfig; print(sysconfig.get_path('purelib'), end='')";
    let folder = Command::new(project.path().join(".venv/bin/python")).args(["-c", packages]).output().unwrap().stdout;
    std::fs::write(Path::new(&String::from_utf8(folder).unwrap()).join("borrowed.pth"), found).unwrap();
    let passed = project.run(&["test"]);
    assert_eq!(passed.code, Some(0), "{passed:?}");
}

#[test]
fn a_project_without_tests_is_told_where_they_belong() {
    let project = Project::new(&[WORKFLOW, JOB]);
    let refused = project.run(&["test"]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.err.contains("the project \"demo\" has no folder tests/"), "{}", refused.err);
}

fn installed(python: &Path) -> Option<String> {
    let listed = pip(python, &["list", "--format", "json"]);
    let packages: Vec<Value> = serde_json::from_slice(&listed).unwrap();
    let found = packages.iter().find(|package| package["name"] == "pinrail")?;
    Some(found["version"].as_str().unwrap().to_owned())
}

/// The pip of another interpreter, for one that has none.
fn pip(python: &Path, arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new(test_python());
    command.args(["-m", "pip", "--disable-pip-version-check", "--python"]).arg(python).args(arguments);
    let done = command.output().unwrap();
    assert!(done.status.success(), "{done:?}");
    done.stdout
}

#[test]
fn the_sdk_is_installed_so_that_pip_lists_and_uninstalls_it() {
    let project = Project::new(&[]);
    let python = venv(&project.path().join(".venv"));
    let sees = || Command::new(&python).args(["-c", "import pinrail"]).current_dir("/").output().unwrap().status;
    assert!(!sees().success());
    let made = project.run(&["sdk", "install", "--python", ".venv/bin/python"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    assert!(made.out.starts_with("installed the SDK 0.1.0 into "), "{}", made.out);
    assert!(sees().success());
    assert_eq!(installed(&python).as_deref(), Some("0.1.0"));
    let again = project.run(&["sdk", "install", "--python", ".venv/bin/python", "--json"]);
    assert_eq!((again.code, &again.json()["replaced"]), (Some(0), &"0.1.0".into()));
    pip(&python, &["uninstall", "--yes", "pinrail"]);
    assert_eq!(installed(&python), None);
    assert!(!sees().success());
    let refused = project.run(&["sdk", "install", "--python", "no/python"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("/no/python\" cannot be run"), "{}", refused.err);
}

#[test]
fn an_interpreter_of_the_operating_system_is_left_alone() {
    let project = Project::new(&[]);
    // An interpreter whose standard library carries the mark of PEP 668.
    let wrapper = project.path().join("python");
    let library = project.path().join("lib");
    let mark = "import os, sys, sysconfig
get = sysconfig.get_path
sysconfig.get_path = lambda name, *more: LIBRARY if name in ('stdlib', 'purelib') else get(name, *more)
sys.base_prefix = sys.prefix
os.__file__ = LIBRARY + '/os.py'
";
    project.write("lib/EXTERNALLY-MANAGED", "");
    project.write("lib/sitecustomize.py", &mark.replace("LIBRARY", &format!("{:?}", library.display().to_string())));
    let script = format!(
        "#!/bin/sh\nexport PYTHONPATH={}${{PYTHONPATH:+:$PYTHONPATH}}\nexec {} \"$@\"\n",
        library.display(),
        venv(&project.path().join(".venv")).display()
    );
    std::fs::write(&wrapper, script).unwrap();
    std::fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let refused = project.run(&["sdk", "install", "--python", "./python"]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.err.contains("belongs to the operating system"), "{}", refused.err);
    assert!(refused.err.contains("-m venv .venv") && refused.err.contains("--force"), "{}", refused.err);
    assert!(!library.join("pinrail").exists());
    let forced = project.run(&["sdk", "install", "--python", "./python", "--force"]);
    assert_eq!(forced.code, Some(0), "{forced:?}");
    assert!(library.join("pinrail/py.typed").exists());
}

#[test]
fn the_sdk_can_be_put_on_a_path() {
    let project = Project::new(&[]);
    let path = project.run(&["sdk", "path"]);
    assert_eq!(path.code, Some(0), "{path:?}");
    assert!(Path::new(path.out.trim()).join("pinrail/__init__.py").is_file(), "{}", path.out);
    let outside = tempfile::tempdir().unwrap();
    let elsewhere: Ran = project.command(&["sdk", "path"]).current_dir(outside.path()).output().unwrap().into();
    assert!(Path::new(elsewhere.out.trim()).join("pinrail/__init__.py").is_file(), "{elsewhere:?}");
    assert!(std::fs::read_dir(outside.path()).unwrap().next().is_none(), "nothing is left where it is called");
}
