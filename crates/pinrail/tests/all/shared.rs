//! Servers that several people share: a user of the machine for each project, or one project.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::environments::{digest, wheel};
use crate::isolation::interpreter;
use crate::support::{ORDINARY, Project, Ran, Server, alive, task, test_python, users, wait_until};

/// Another user without rights, whom every system has: `daemon`.
const OTHER: u32 = 1;

const JOBS: &str = "
import json, os, subprocess

def seen():
    status = dict(line.rstrip().split(':', 1) for line in open('/proc/self/status'))
    mask = os.umask(0)
    os.umask(mask)
    return {
        'user': os.getresuid(), 'group': os.getresgid(), 'groups': os.getgroups(), 'umask': mask,
        'rights': status['CapEff'].strip(), 'name': os.environ['USER'], 'home': os.environ['HOME'],
        'new privileges': status['NoNewPrivs'].strip(),
    }

def a(ctx):
    ctx.save('note.txt', 'noted')
    subprocess.run(['pinrail', 'output', 'said', '1'], check=True)
    (ctx.scratch / 'file').write_text('mine')
    inputs = ctx.file('data/a.csv').read_text()
    others = []
    for entry in [ctx.scratch.parents[0], ctx.scratch.parents[1], ctx.scratch.parents[3]]:
        try:
            others.append(os.listdir(entry))
        except PermissionError:
            others.append('refused')
    ctx.output('seen', {**seen(), 'folders': others, 'inputs': inputs, 'secret': len(ctx.secret('ftp'))})

if __name__ == '__main__':
    print(json.dumps({**seen(), 'inputs': open('data/a.csv').read()}))
";

const WORKFLOW: &str = "
import json
from jobs.a import seen
workflow = Workflow({
    template(name='python', class_='jobs.a.a', secrets=['ftp']): [],
    template(name='cold', class_='jobs.a.a', executor='shell', secrets=['ftp']): [],
    template(name='command', shell='touch left && echo $(cat data/a.csv) >> left && PYTHON -m jobs.a'): [],
})
workflows = {
    'loading': {template(name='a', shell=['echo', json.dumps(seen())]): []},
    'waiting': {template(name='a', shell='echo $$ > $TMPDIR/pid; exec sleep 600'): []},
}
";

/// A project of a user's, in a folder that others may enter.
fn project(name: &str, user: u32) -> Project {
    let project = Project::new(&[
        ("pinrail.toml", &format!("[project]\nname = \"{name}\"\n[files]\nraw = \"data/*.csv\"\n")),
        ("data/a.csv", "x\n"),
        ("jobs/a.py", JOBS),
        ("workflows/w.py", &WORKFLOW.replace("PYTHON", &interpreter(Some(user)))),
    ]);
    std::fs::set_permissions(project.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let given = Command::new("chown").arg("-R").arg(format!("{user}:{user}")).arg(project.path()).status();
    assert!(given.unwrap().success());
    project
}

/// A state folder that others may enter, with a server over it.
struct Shared {
    state: tempfile::TempDir,
    _server: Server,
}

fn up(state: tempfile::TempDir, arguments: &[&str]) -> Result<Shared, Ran> {
    up_with(state, arguments, &[])
}

fn up_with(state: tempfile::TempDir, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Shared, Ran> {
    std::fs::set_permissions(state.path(), PermissionsExt::from_mode(0o711)).unwrap();
    let folder = state.path().join("state");
    let somewhere = Project::new(&[]);
    let mut command = somewhere.command(&["up", "--state", folder.to_str().unwrap()]);
    if !arguments.contains(&"--listen") {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    command.args(arguments).env("PINRAIL_PYTHON", interpreter(Some(ORDINARY))).stdout(Stdio::null());
    command.envs(environment.iter().copied());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut ended = false;
    wait_until("the server is ready or refuses", || {
        ended = child.try_wait().unwrap().is_some();
        ended || folder.join("server.json").exists()
    });
    if ended { Err(child.wait_with_output().unwrap().into()) } else { Ok(Shared { state, _server: Server { child } }) }
}

impl Shared {
    fn folder(&self) -> String {
        self.state.path().join("state").display().to_string()
    }

    fn run(&self, project: &Project, arguments: &[&str]) -> Ran {
        project.run(&[arguments, &["--state", &self.folder()]].concat())
    }

    /// Something that a user tries outside of Pinrail.
    fn tried_by(&self, user: u32, command: &str) -> Ran {
        let mut tried = Command::new("sh");
        tried.args(["-c", command]).current_dir(self.folder()).uid(user).gid(user);
        tried.output().unwrap().into()
    }
}

fn is_root() -> bool {
    users().len() > 1
}

#[test]
fn the_jobs_of_each_project_run_as_its_user_and_reach_only_what_is_theirs() {
    if !is_root() {
        return;
    }
    let shared = up(tempfile::tempdir().unwrap(), &["--run-as", "a=65534", "--run-as", "b=daemon"]).unwrap();
    for (name, user) in [("a", ORDINARY), ("b", OTHER)] {
        let project = project(name, user);
        let set = project.run_with(&["secret", "set", "ftp", "--state", &shared.folder()], "hush");
        assert_eq!(set.code, Some(0), "{set:?}");
        let ran = shared.run(&project, &["run", "w", "--json"]);
        let why = || shared.run(&project, &["explain"]).out;
        assert_eq!(ran.code, Some(0), "{ran:?} {}", why());
        let run = ran.json();
        let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let checked = shared.run(&project, &["check", "--json"]).json();
        let documents = checked["documents"].as_object().unwrap();
        let loading = documents.values().find(|document| document["workflow"] == "loading").unwrap();
        for (kind, seen) in [
            ("python", task(&run, "python")["outputs"]["seen"].clone()),
            ("cold", task(&run, "cold")["outputs"]["seen"].clone()),
            ("command", parse(&shared.run(&project, &["logs", "--job", "command"]).out)),
            ("loading", parse(loading["jobs"][0]["shell"][1].as_str().unwrap())),
        ] {
            assert_eq!(seen["user"], json!([user, user, user]), "{kind}: {seen}");
            assert_eq!(seen["group"], json!([user, user, user]), "{kind}: {seen}");
            assert_eq!(seen["groups"], json!([user]), "{kind}: {seen}");
            assert_eq!((&seen["umask"], &seen["new privileges"]), (&json!(0o022), &json!("1")), "{kind}: {seen}");
            assert_eq!(seen["rights"], "0000000000000000", "{kind}: {seen}");
            assert_eq!(seen["name"], if user == OTHER { "daemon" } else { "nobody" });
            if kind != "loading" {
                assert_eq!(seen["inputs"], "x\n", "{kind}: {seen}");
            }
            if ["python", "cold"].contains(&kind) {
                assert_eq!(seen["folders"], json!(["refused", "refused", "refused"]), "{kind}");
                assert_eq!((&seen["secret"], &task(&run, kind)["outputs"]["said"]), (&json!(4), &json!(1)));
                let saved = shared.run(&project, &["files", "last", "note.txt"]);
                assert_eq!(saved.out, "noted", "{saved:?}");
            }
        }
    }
    // Whatever a user tries, also beside Pinrail, the state folder gives nothing away.
    for command in
        ["ls .", "cat admin.token", "cat secrets.key", "cat state.db", "ls scratch scratch/projects/a", "ls bundles"]
    {
        for user in [ORDINARY, OTHER] {
            let tried = shared.tried_by(user, command);
            assert!(tried.code != Some(0) && tried.out.is_empty(), "{command}: {tried:?}");
        }
    }
    for entry in std::fs::read_dir(shared.folder()).unwrap().map(Result::unwrap) {
        let others = entry.metadata().unwrap().mode() & 0o066;
        assert!(others == 0 || entry.file_name() == "sdk", "{entry:?} can be read or written by others");
    }
}

#[test]
fn a_job_of_another_user_is_ended_like_any_other_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    let shared = up(tempfile::tempdir().unwrap(), &["--run-as", "a=65534"]).unwrap();
    let project = project("a", ORDINARY);
    let second = shared.run(&project, &["up", "--listen", "127.0.0.1:0"]);
    assert!(second.err.contains("is served by process"), "{second:?}");
    let ran = shared.run(&project, &["run", "waiting", "--detach"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let attempts = Path::new(&shared.folder()).join("scratch/projects/a");
    let mut pid = None;
    wait_until("the job waits", || {
        let folders = std::fs::read_dir(&attempts).into_iter().flatten().map(|entry| entry.unwrap().path().join("pid"));
        pid = folders.filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<u32>().ok()).next();
        pid.is_some()
    });
    let pid = pid.unwrap();
    assert_eq!(std::fs::metadata(format!("/proc/{pid}")).unwrap().uid(), ORDINARY);
    assert_eq!(shared.run(&project, &["cancel"]).code, Some(0));
    wait_until("it has ended and its folders are gone", || {
        !alive(pid) && std::fs::read_dir(&attempts).unwrap().count() == 0
    });
}

#[test]
fn what_a_users_job_plants_in_its_folder_is_not_followed_by_the_server() {
    if !is_root() {
        return;
    }
    let secret = tempfile::tempdir().unwrap();
    std::fs::write(secret.path().join("secret"), "hush").unwrap();
    std::fs::set_permissions(secret.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let job = "
import os, shutil
from pinrail import Shell

class A:
    def execute(self, ctx):
        # Where the server will make the folder that the command works in, and in what it was given.
        for name in ('project', 'folder', 'data'):
            os.symlink('SECRET', ctx.scratch / name)
        for name in (str(ctx.scratch) + '.folder', str(ctx.scratch) + '.new'):
            try:
                os.symlink('SECRET', name)
                raise AssertionError(name)
            except PermissionError:
                pass
        try:
            os.rename(ctx.scratch, str(ctx.scratch) + '.old')
            raise AssertionError('it is the folder of the server')
        except PermissionError:
            pass
        return Shell('rm -rf data && ln -s SECRET data && echo > more')

    def complete(self, ctx, result):
        pass

    def cleanup(self, ctx):
        pass
";
    let shared = up(tempfile::tempdir().unwrap(), &["--run-as", "a=65534"]).unwrap();
    let project = project("a", ORDINARY);
    project.write("jobs/b.py", &job.replace("SECRET", secret.path().to_str().unwrap()));
    project.write("workflows/b.py", "workflow = {template(name='b', class_='jobs.b.A'): []}");
    let ran = shared.run(&project, &["run", "b"]);
    assert_eq!(ran.code, Some(0), "{ran:?} {}", shared.run(&project, &["explain"]).out);
    let files: Vec<_> = std::fs::read_dir(secret.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files, ["secret"], "nothing was made or removed where the links led");
    let found = std::fs::metadata(secret.path()).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o777), (0, 0o700), "and nothing was given away");
}

#[test]
fn python_environments_of_each_project_are_built_by_its_user_and_changed_by_nobody() {
    if !is_root() {
        return;
    }
    let job = "
import os, sys, greeting
def run(ctx):
    places = [sys.prefix, os.path.dirname(greeting.__file__), os.path.join(sys.prefix, 'bin')]
    ctx.output('writable', [place for place in places + [greeting.__file__] if os.access(place, os.W_OK)])
    ctx.output('word', greeting.WORD)
    try:
        os.listdir(os.path.dirname(sys.prefix))
    except PermissionError:
        ctx.output('listed', 'refused')
";
    // Where any Python that finds the package says who runs it.
    let note = tempfile::tempdir().unwrap();
    std::fs::set_permissions(note.path(), PermissionsExt::from_mode(0o1777)).unwrap();
    let mark = format!("import os; os.close(os.open('{}/%d' % os.getuid(), os.O_CREAT, 0o666))", note.path().display());
    let add = "import sys, zipfile; zipfile.ZipFile(sys.argv[1], 'a').writestr('mark.pth', sys.argv[2])";
    let has_pip = Command::new(interpreter(Some(ORDINARY))).args(["-m", "pip", "--version"]).uid(ORDINARY).output();
    let builders = [("uv", true), ("pip", has_pip.is_ok_and(|pip| pip.status.success()))];
    for (builder, _) in builders.into_iter().filter(|(_, usable)| *usable) {
        let programs = tempfile::tempdir().unwrap();
        std::fs::set_permissions(programs.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let own = std::env::var_os("PATH").unwrap();
        let without = std::env::split_paths(&own).filter(|folder| !folder.join("uv").exists());
        let path = std::env::join_paths(without.chain([programs.path().to_owned()])).unwrap();
        if builder == "uv" {
            let uv = Path::new(&test_python()).with_file_name("uv");
            std::fs::copy(uv, programs.path().join("uv")).expect("uv is beside the Python of the tests");
        }
        let arguments = ["--run-as", "a=65534", "--run-as", "b=daemon"];
        let environment = [("PATH", path.to_str().unwrap())];
        let shared = up_with(tempfile::tempdir().unwrap(), &arguments, &environment).unwrap();
        let mut digests = Vec::new();
        for (name, user) in [("a", ORDINARY), ("b", OTHER)] {
            let lock = "lock = \"requirements.txt\"\nwheels = \"wheels\"\n";
            let project = Project::new(&[
                ("pinrail.toml", &format!("[project]\nname = \"{name}\"\n[python]\n{lock}")),
                ("requirements.txt", "greeting==1.0\n"),
                ("jobs/a.py", job),
                ("workflows/w.py", "import greeting\nworkflow = {template(name='a', class_='jobs.a.run'): []}"),
            ]);
            wheel(&project.path().join("wheels"), "greeting", "1.0", "WORD = 'hello'\n", &[]);
            let file = project.path().join("wheels/greeting-1.0-py3-none-any.whl");
            assert!(Command::new(test_python()).args(["-c", add]).arg(file).arg(&mark).status().unwrap().success());
            let ran = shared.run(&project, &["run", "w", "--json"]);
            assert_eq!(ran.code, Some(0), "{builder} {user}: {ran:?} {}", shared.run(&project, &["check"]).out);
            let run = ran.json();
            let outputs = &task(&run, "a")["outputs"];
            assert_eq!(outputs["word"], "hello");
            assert_eq!((&outputs["writable"], &outputs["listed"]), (&json!([]), &json!("refused")));
            let known = shared.run(&project, &["environments", "--json"]).json();
            assert_eq!(known["items"][0]["builder"], builder, "{known}");
            digests.push(digest(task(&run, "a")));
            let who: Vec<_> = std::fs::read_dir(note.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert!(who.iter().all(|who| who == &*ORDINARY.to_string() || who == &*OTHER.to_string()), "{who:?}");
            assert!(who.iter().any(|who| who == &*user.to_string()), "{who:?}");
        }
        assert_ne!(digests[0], digests[1], "what one user has built is not for another one");
        let mut folders = vec![Path::new(&shared.folder()).join("environments")];
        while let Some(folder) = folders.pop() {
            let found = std::fs::symlink_metadata(&folder).unwrap();
            assert_eq!((found.uid(), found.mode() & 0o022), (0, 0), "{}", folder.display());
            let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap());
            folders.extend(entries.filter(|entry| entry.file_type().unwrap().is_dir()).map(|entry| entry.path()));
        }
    }
}

#[test]
fn a_server_that_others_reach_takes_a_second_project_only_with_users() {
    let shared = up(tempfile::tempdir().unwrap(), &["--listen", "0.0.0.0:0"]);
    let shared = match shared {
        Ok(shared) => shared,
        Err(ran) => panic!("{ran:?}"),
    };
    let flow = "workflow = {template(name='a', shell='true'): []}";
    let of = |name: &str| {
        let settings = format!("[project]\nname = \"{name}\"\n");
        Project::new(&[("pinrail.toml", &settings), ("workflows/w.py", flow)])
    };
    let (first, second) = (of("first"), of("second"));
    for _ in 0..2 {
        assert_eq!(shared.run(&first, &["run", "w"]).code, Some(0));
    }
    let refused = shared.run(&second, &["run", "w"]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.err.contains("is reached from elsewhere and has a project already, \"first\""), "{refused:?}");
    assert!(refused.err.contains("pinrail up --run-as first=USER --run-as second=USER"), "{refused:?}");
    let secret = second.run_with(&["secret", "set", "ftp", "--state", &shared.folder()], "hush");
    assert_eq!(secret.code, Some(4), "{secret:?}");

    // A server of this machine alone takes both; then it cannot be opened to others as it is.
    let Shared { state, _server: server } = shared;
    drop(server);
    let folder = state.path().join("state").display().to_string();
    assert_eq!(second.run(&["run", "w", "--state", &folder]).code, Some(0));
    let refused = up(state, &["--listen", "0.0.0.0:0"]).err().expect("it is refused");
    assert!(refused.err.contains("has a project already"), "{refused:?}");
}

#[test]
fn users_that_cannot_be_are_refused_with_the_reason() {
    let refused = |pair: &str| {
        let ran = up(tempfile::tempdir().unwrap(), &["--run-as", pair]).err().expect("it is refused");
        assert_eq!(ran.code, Some(4), "{ran:?}");
        ran.err
    };
    for (pair, reason) in [
        ("sales", "\"sales\" does not say which project runs as which user"),
        ("sales=", "there is no user \"\""),
        ("sales=nobody-of-that-name", "there is no user \"nobody-of-that-name\""),
        ("sales=root", "project \"sales\" is to run as root"),
    ] {
        let said = refused(pair);
        assert!(said.contains(reason) && said.contains("hint: "), "{said}");
    }
    if !is_root() {
        assert!(refused("sales=65534").contains("only root can run processes of other users"));
        return;
    }
    let shared = up(tempfile::tempdir().unwrap(), &["--run-as", "sales=65534"]).unwrap();
    let other = Project::new(&[("workflows/w.py", "workflow = {template(name='a', shell='true'): []}")]);
    let ran = shared.run(&other, &["run", "w"]);
    assert!(ran.err.contains("project \"demo\" has no user on this server"), "{ran:?}");
    assert!(ran.err.contains("--run-as demo=USER"), "{ran:?}");
    // A state folder in a folder that is closed to the user.
    let closed = tempfile::tempdir().unwrap();
    std::fs::set_permissions(closed.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let path = closed.path().join("state").display().to_string();
    let ran = other.run(&["up", "--listen", "127.0.0.1:0", "--state", &path, "--run-as", "demo=65534"]);
    assert!(ran.err.contains("user \"nobody\" cannot enter"), "{ran:?}");
}
