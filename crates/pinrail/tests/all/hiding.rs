//! The state folder and the server's processes, as code of users sees them: it tries every way to read them that there
//! is, as root and as an ordinary user, in each kind of process; and it can do what it could without that.

use serde_json::{Value, json};

use crate::isolation::interpreter;
use crate::support::{Project, Ran, Server, launcher, task, users};

/// Tries ways to what is hidden; says of each what came of it.
const PROBE: &str = r#"
import ctypes, errno, json, os, signal, subprocess, sys, tempfile

LIBC = ctypes.CDLL(None, use_errno=True)
REFUSED = (errno.EACCES, errno.EPERM, errno.EXDEV)

def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), 'refused by the kernel')
    return result

def read(path, **how):
    fd = os.open(path, os.O_RDONLY, **how)
    try:
        return os.read(fd, 16)
    finally:
        os.close(fd)

def printed(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode or not done.stdout:
        raise PermissionError(errno.EACCES, done.stderr.decode())
    return done.stdout

def by_handle(path):
    """As root may open a file without its path."""
    handle = ctypes.create_string_buffer((128).to_bytes(4, sys.byteorder), 136)
    mount = ctypes.c_int()
    checked(LIBC.name_to_handle_at(-100, path.encode(), handle, ctypes.byref(mount), 0))
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    fd = checked(LIBC.open_by_handle_at(folder, handle, os.O_RDONLY))
    return os.read(fd, 16)

def file_ways(path, project, place):
    name, state = os.path.basename(path), os.path.dirname(path)
    made = os.path.join(place, 'made-' + name)
    def link():
        os.symlink(path, made + '.symbolic')
        return read(made + '.symbolic')
    def hard_link():
        os.link(path, made + '.hard')
        return read(made + '.hard')
    def moved():
        os.rename(path, made + '.moved')
        os.rename(made + '.moved', path)
        return b'moved'
    def reopened():
        return read('/proc/self/fd/%d' % os.open(path, os.O_PATH))
    def beneath():
        return read(name, dir_fd=os.open(state, os.O_PATH))
    def child():
        code, out = os.pipe(), []
        if os.fork() == 0:
            try:
                os.write(code[1], read(path))
            finally:
                os._exit(0)
        os.close(code[1])
        out = os.read(code[0], 16)
        os.wait()
        if not out:
            raise PermissionError(errno.EACCES, 'the child read nothing')
        return out
    return {
        'its path': lambda: read(path),
        'dots': lambda: read(os.path.join(project, 'data/../.pinrail/../.pinrail', name)),
        'a link made before': lambda: read(os.path.join(project, 'data', 'link-' + name)),
        'a link to the folder': lambda: read(os.path.join(project, 'data/state', name)),
        'a link made now': link,
        'a hard link': hard_link,
        'moving it': moved,
        'its descriptor': reopened,
        'its folder': beneath,
        'the own root': lambda: read('/proc/self/root' + path),
        'a thread of its own': lambda: read('/proc/thread-self/root' + path),
        'a forked process': child,
        'another program': lambda: printed('cat', path),
        'a copy': lambda: printed('sh', '-c', 'cp "$0" "$1" && cat "$1"', path, made + '.copy'),
        'a mount': lambda: printed(
            'unshare', '-rm', 'sh', '-c', 'mount --bind "$0" "$1" && cat "$1/$2"', state, place, name),
        'its handle': lambda: by_handle(path),
        'writing to it as well': lambda: os.close(os.open(path, os.O_RDWR)) or b'opened',
    }

def process_ways(pid, path):
    proc = '/proc/%d' % pid
    def environment():
        with open(proc + '/environ', 'rb') as file:
            return file.read().strip(b'\0')
    def descriptors():
        return b' '.join(os.fsencode(os.readlink(proc + '/fd/' + fd)) for fd in os.listdir(proc + '/fd'))
    def memory():
        with open(proc + '/maps') as maps:
            start = int(maps.readline().split('-')[0], 16)
        with open(proc + '/mem', 'rb', buffering=0) as mem:
            mem.seek(start)
            return mem.read(16)
    def stolen():
        return b'%d' % checked(LIBC.syscall(438, checked(LIBC.syscall(434, pid, 0)), 0, 0))
    def vector():
        class Part(ctypes.Structure):
            _fields_ = [('base', ctypes.c_void_p), ('length', ctypes.c_size_t)]
        buffer = ctypes.create_string_buffer(16)
        own, other = Part(ctypes.addressof(buffer), 16), Part(ctypes.addressof(buffer), 16)
        try:
            checked(LIBC.process_vm_readv(pid, ctypes.byref(own), 1, ctypes.byref(other), 1, 0))
        except OSError as error:
            # Nothing lies at this address there: it was looked.
            if error.errno != errno.EFAULT:
                raise
        return b'looked'
    def traced():
        checked(LIBC.ptrace(0x4206, pid, 0, 0))
        return b'seized'
    return {
        'environment': environment,
        'memory': memory,
        'working folder': lambda: os.fsencode(os.readlink(proc + '/cwd')),
        'root': lambda: read(proc + '/root' + path),
        'a descriptor': descriptors,
        'a stolen descriptor': stolen,
        'its memory by a system call': vector,
        'tracing': traced,
    }

def signals(pid):
    return {'signal %d' % number: lambda number=number: os.kill(pid, number) or b'sent' for number in (0, signal.SIGCONT)}

def tried(way):
    try:
        found = way()
    except OSError as error:
        return 'refused' if error.errno in REFUSED else repr(error)
    return 'read' if found else 'read nothing'

def seen(place=None):
    with open(os.path.join(PROJECT, 'data/told.json')) as file:
        told = json.load(file)
    place = place or tempfile.mkdtemp()
    found = {}
    for path in told['files']:
        for name, way in file_ways(path, PROJECT, place).items():
            found['%s by %s' % (os.path.basename(path), name)] = tried(way)
    for who, pid in told['processes'].items():
        ways = process_ways(pid, told['files'][0])
        if told['signals']:
            ways.update(signals(pid))
        for name, way in ways.items():
            found['%s of the %s' % (name, who)] = tried(way)
    return found

if __name__ == '__main__':
    print(json.dumps(seen()))
"#;

/// What nobody but the server may read.
const SECRETS: [&str; 4] = ["admin.token", "state.db", "state.db-wal", "secrets.key"];

const WORKFLOW: &str = "
import json, probe
workflow = Workflow({
    template(name='python', class_='jobs.a.run'): [],
    template(name='cold', class_='jobs.a.run', executor='shell'): [],
    template(name='import', class_='jobs.imported.run'): [],
    template(name='command', shell=['PYTHON', 'probe.py']): [],
})
workflows = {'loading': {template(name='a', shell=['echo', json.dumps(probe.seen())]): []}}
";

/// A project with a server over it, and with links to what it hides.
fn served(user: Option<u32>) -> (Project, Server) {
    let project = Project::new(&[
        (".pinrailignore", "data\nserver.log\n"),
        ("data/a.csv", "x\n1\n"),
        ("jobs/a.py", "import probe\ndef run(ctx):\n    ctx.output('seen', probe.seen(str(ctx.scratch)))\n"),
        ("jobs/imported.py", "import probe\nSEEN = probe.seen()\ndef run(ctx):\n    ctx.output('seen', SEEN)\n"),
    ]);
    project.write("probe.py", &format!("PROJECT = {:?}\n{PROBE}", project.path()));
    project.write("workflows/w.py", &WORKFLOW.replace("PYTHON", &interpreter(user)));
    std::os::unix::fs::symlink(project.state(), project.path().join("data/state")).unwrap();
    for name in SECRETS {
        std::os::unix::fs::symlink(format!("../.pinrail/{name}"), project.path().join(format!("data/link-{name}")))
            .unwrap();
    }
    let project = match user {
        Some(user) => project.of_user(user),
        None => project,
    };
    let server = project.up_with(&[("SECRET_OF_THE_SERVER", "hush"), ("PINRAIL_PYTHON", &interpreter(user))]);
    assert_eq!(project.run_with(&["secret", "set", "ftp"], "hush").code, Some(0), "there is a key");
    (project, server)
}

fn tell(project: &Project, server: &Server, signals: bool) {
    let files: Vec<_> = SECRETS.iter().map(|name| project.state().canonicalize().unwrap().join(name)).collect();
    let processes = json!({"server": server.child.id(), "launcher": launcher(server)});
    project.write("data/told.json", &json!({"files": files, "processes": processes, "signals": signals}).to_string());
}

/// Whether a user of the tests has no rights of root's.
fn is_ordinary(user: Option<u32>) -> bool {
    user.is_some() || users().len() == 1
}

/// The ways and what came of them.
fn ways(seen: &Value) -> Vec<(&str, &str)> {
    seen.as_object().unwrap().iter().map(|(way, outcome)| (way.as_str(), outcome.as_str().unwrap())).collect()
}

#[test]
fn nothing_that_a_user_writes_can_read_the_state_folder_or_look_into_the_server() {
    for user in users() {
        let (project, server) = served(user);
        tell(&project, &server, true);
        let ran = project.run(&["run", "w", "--json"]);
        assert_eq!(ran.code, Some(0), "{user:?}: {ran:?}");
        let run = ran.json();
        let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let command = parse(&project.log("command"));
        let checked = project.run(&["check", "--json"]).json();
        let loading = checked["documents"].as_object().unwrap().values().find(|d| d["workflow"] == "loading").unwrap();
        let loading = parse(loading["jobs"][0]["shell"][1].as_str().unwrap());
        let outputs = |name| task(&run, name)["outputs"]["seen"].clone();
        for (kind, seen) in [
            ("a job in Python", outputs("python")),
            ("a class on shell", outputs("cold")),
            ("a module while it is loaded", outputs("import")),
            ("a command", command),
            ("a workflow file", loading),
        ] {
            refused(&seen, &format!("{kind} as {user:?}"));
        }
    }
}

/// All ways were tried, and none led anywhere.
fn refused(seen: &Value, who: &str) {
    let ways = ways(seen);
    assert_eq!(ways.len(), 17 * SECRETS.len() + 10 * 2, "{who}: {seen}");
    // Root may read what others had in their environment at their start; the server's is not there any more.
    let fine = |way: &str, outcome: &str| {
        outcome == "refused" || (way.starts_with("environment") && outcome == "read nothing")
    };
    let got: Vec<_> = ways.into_iter().filter(|(way, outcome)| !fine(way, outcome)).collect();
    assert!(got.is_empty(), "{who}: {got:?}");
}

#[cfg(feature = "lake")]
#[test]
fn no_statement_of_sql_reads_what_is_hidden() {
    let (project, server) = served(None);
    std::os::unix::fs::symlink("/proc/self", project.path().join("data/self")).unwrap();
    let state = project.state().canonicalize().unwrap().display().to_string();
    let mut paths = vec!["/proc/self/environ".to_owned(), "data/self/environ".to_owned()];
    paths.push(format!("/proc/{}/environ", server.child.id()));
    paths.push(format!("data/{}proc/self/environ", "../".repeat(20)));
    for name in SECRETS {
        paths.extend([
            format!(".pinrail/{name}"),
            format!("{state}/{name}"),
            format!("data/../.pinrail/../.pinrail/{name}"),
            format!("data/link-{name}"),
            format!("data/state/{name}"),
            format!("/proc/self/root{state}/{name}"),
            format!("data/self/root{state}/{name}"),
        ]);
    }
    // The path comes with the run: nothing that reads the text alone can tell.
    project.write("sql/read.sql", "-- output: n\nselect count(*) as n from read_csv({{ params.path }})");
    let workflow = "
def of(path):
    return Workflow({template(name='a', sql='sql/read.sql'): []}, params={'path': Param(str, default=path)})
workflows = {'fine': of('data/a.csv'), **{f'w{i}': of(path) for i, path in enumerate(PATHS)}}
";
    project.write("workflows/w.py", &workflow.replace("PATHS", &format!("{paths:?}")));
    let fine = project.run(&["run", "fine", "--json"]);
    assert_eq!(task(&fine.json(), "a")["outputs"]["n"], 1, "{fine:?}");
    for (at, path) in paths.iter().enumerate() {
        let ran = project.run(&["run", &format!("w{at}"), "--json"]);
        assert_eq!(ran.code, Some(1), "{path}: {ran:?}");
        let why = project.run(&["explain"]).out;
        assert!(why.contains("path-refused"), "{path}: {why}");
        for function in ["read_csv", "read_json", "read_parquet"] {
            let ran = project.run(&["sql", &format!("select * from {function}('{path}')"), "--json"]);
            assert!(ran.code != Some(0) && ran.out.contains("path-refused"), "{function} {path}: {ran:?}");
        }
    }
}

#[test]
fn what_builds_a_python_environment_reads_as_little() {
    for user in users() {
        let (project, server) = served(user);
        drop(server);
        let builder = "#!PYTHON
import json, os, sys
sys.path.insert(0, PROJECT)
sys.dont_write_bytecode = True
import probe
seen = probe.seen(os.environ['TMPDIR'])
with open(PROJECT + '/data/seen.json', 'w') as file:
    json.dump(seen, file)
sys.exit('error: it builds nothing')
";
        let builder = builder.replace("PROJECT", &format!("{:?}", project.path()));
        project.write("data/bin/uv", &builder.replace("PYTHON", &interpreter(user)));
        let (uv, path) = (project.path().join("data/bin/uv"), std::env::var("PATH").unwrap());
        std::fs::set_permissions(&uv, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        project.write("pinrail.toml", "[project]\nname = \"demo\"\n[python]\nlock = \"requirements.txt\"\n");
        project.write("requirements.txt", "greeting==1.0\n");
        let path = format!("{}:{path}", uv.parent().unwrap().display());
        let server = project.up_with(&[("PATH", &path), ("PINRAIL_PYTHON", &interpreter(user))]);
        tell(&project, &server, true);
        let checked = project.run(&["check"]);
        assert!(checked.out.contains("uv: error: it builds nothing"), "{user:?}: {checked:?}");
        let seen = std::fs::read_to_string(project.path().join("data/seen.json")).unwrap();
        refused(&serde_json::from_str(&seen).unwrap(), &format!("a builder as {user:?}"));
    }
}

#[test]
fn a_second_mount_of_the_project_is_no_way_to_its_state_folder() {
    let place = tempfile::tempdir().unwrap();
    let project = Project::new(&[("workflows/w.py", "workflow = {template(name='a', shell=['sh', 'a.sh']): []}")]);
    let script = "
cat PLACE/pinrail.toml || exit 2
cat PLACE/.pinrail/admin.token && exit 3
echo hidden
";
    project.write("a.sh", &script.replace("PLACE", place.path().to_str().unwrap()));
    let pinrail = project.command(&[]).get_program().to_owned();
    let mut command = std::process::Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
    command.arg("mount --bind . \"$PLACE\" && exec \"$PINRAIL\" run w");
    command.env("PINRAIL", pinrail).env("PLACE", place.path()).current_dir(project.path());
    let ran: Ran = command.output().unwrap().into();
    assert_eq!(ran.code, Some(0), "{ran:?} {}", project.log("a"));
    assert!(project.log("a").contains("hidden\n"), "{}", project.log("a"));
}

/// Becomes a program for which the kernel has no Landlock.
const WITHOUT: &str = "
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, 0x50000 | 38), (0x06, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack('HL', len(steps), ctypes.addressof(code)))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0, os.strerror(ctypes.get_errno())
os.execvp(sys.argv[1], sys.argv[1:])
";

/// Ends a server in the background with the test.
struct Down<'a>(&'a Project);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        self.0.run(&["down"]);
    }
}

#[test]
fn without_landlock_jobs_run_and_it_is_said_that_nothing_is_hidden() {
    let job = "
import os
def run(ctx):
    ctx.output('read', bool(open(ctx.scratch.parents[3] / 'admin.token').read()))
    try:
        open(f'/proc/{SERVER}/environ').close()
        ctx.output('server', 'read')
    except PermissionError:
        ctx.output('server', 'refused')
";
    for user in users() {
        let project = Project::new(&[
            ("workflows/w.py", "workflow = {template(name='a', class_='jobs.a.run'): []}"),
            (".pinrailignore", "server.log\nwithout.py\n"),
            ("without.py", WITHOUT),
        ]);
        let project = match user {
            Some(user) => project.of_user(user),
            None => project,
        };
        let pinrail = project.command(&[]).get_program().to_owned();
        let without = |arguments: &[&str]| -> std::process::Command {
            let mut command = std::process::Command::new("python3");
            if let Some(user) = user {
                std::os::unix::process::CommandExt::uid(&mut command, user);
                std::os::unix::process::CommandExt::gid(&mut command, user);
                command.env("HOME", project.path());
            }
            command.arg("without.py").arg(&pinrail).args(arguments).current_dir(project.path());
            command
        };
        let doctor: Ran = without(&["doctor"]).output().unwrap().into();
        assert_eq!(doctor.code, Some(0), "{doctor:?}");
        assert!(doctor.out.contains("– landlock"), "{}", doctor.out);
        assert!(doctor.out.contains("this kernel offers no Landlock · Use Linux 5.19 or later"), "{}", doctor.out);

        let up: Ran = without(&["up", "--listen", "127.0.0.1:0", "--detach", "--json"]).output().unwrap().into();
        assert_eq!(up.code, Some(0), "{up:?}");
        let _down = Down(&project);
        let log = std::fs::read_to_string(project.state().join("server.log")).unwrap();
        assert!(log.contains("warning: jobs can read the state folder: this kernel offers no Landlock"), "{log}");
        project.write("jobs/a.py", &job.replace("SERVER", &up.json()["pid"].to_string()));
        let ran = project.run(&["run", "w", "--json"]).json();
        let outputs = &task(&ran, "a")["outputs"];
        assert_eq!(outputs["read"], true, "{ran}");
        assert_eq!(outputs["server"], if is_ordinary(user) { "refused" } else { "read" }, "a process of the same user");
    }
}

#[test]
fn a_job_that_meets_what_is_hidden_is_told_why() {
    let project = Project::new(&[
        (
            "workflows/w.py",
            "workflows = {name: {template(name=name, class_=f'jobs.a.{name}'): []} for name in ('new', 'state', 'other')}",
        ),
        (".pinrailignore", "new.csv\n"),
    ]);
    let jobs = "
def new(ctx):
    open(PROJECT + '/new.csv', 'w').close()
    open(PROJECT + '/new.csv')
def state(ctx):
    open(PROJECT + '/.pinrail/admin.token')
def other(ctx):
    raise PermissionError(13, 'Permission denied', PROJECT + '/workflows/w.py')
";
    project.write("jobs/a.py", &jobs.replace("PROJECT", &format!("{:?}", project.path())));
    for (workflow, hint) in [
        ("new", Some("can be read from the next attempt on")),
        ("state", Some("the state folder is hidden from jobs")),
        ("other", None),
    ] {
        assert_eq!(project.run(&["run", workflow]).code, Some(1), "{workflow}");
        let why = project.run(&["explain"]).out;
        assert!(why.contains("PermissionError"), "{why}");
        assert_eq!(why.contains("the state folder"), hint.is_some(), "{why}");
        assert!(hint.is_none_or(|hint| why.contains(hint)), "{why}");
    }
}

#[test]
fn a_job_is_not_served_by_the_socket_of_another_one() {
    let jobs = "
import glob, os, subprocess, time

def until(name):
    while not os.path.exists(f'{PROJECT}/data/{name}'):
        time.sleep(0.01)

def done(name):
    open(f'{PROJECT}/data/{name}', 'w').close()

def waits(ctx):
    (ctx.scratch / 'secret').write_text('hush')
    done('waiting')
    until('asked')

def asks(ctx):
    until('waiting')
    folder = f'{PROJECT}/.pinrail/scratch/projects/demo'
    answers = []
    for path in glob.glob(f'{folder}/*.socket'):
        env = {**os.environ, 'PINRAIL_SOCKET': path}
        if path != os.environ['PINRAIL_SOCKET']:
            command = ['pinrail', 'secret', 'read', 'ftp']
            answers.append(subprocess.run(command, env=env, stderr=subprocess.PIPE, text=True).stderr)
    for path in glob.glob(f'{folder}/*/secret'):
        try:
            answers.append(open(path).read())
        except PermissionError:
            answers.append('refused')
    ctx.output('answers', answers)
    done('asked')
";
    for executor in ["python", "shell"] {
        let project = Project::new(&[
            (".pinrailignore", "data\nserver.log\n"),
            ("data/a.csv", "x\n"),
            (
                "workflows/w.py",
                "workflow = {template(name='waits', class_='jobs.a.waits', secrets=['ftp']): [], \
                             template(name='asks', class_='jobs.a.asks'): []}",
            ),
        ]);
        project.write("jobs/a.py", &format!("PROJECT = {:?}\n{jobs}", project.path()));
        assert_eq!(project.run_with(&["secret", "set", "ftp"], "hush").code, Some(0));
        let ran = project.run(&["run", "w", "--executor", executor, "--json"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let outputs = task(&ran.json(), "asks")["outputs"]["answers"].clone();
        let said = outputs[0].as_str().unwrap();
        assert!(said.contains("this process does not belong to the attempt"), "{executor}: {outputs}");
        assert_eq!(outputs[1], "refused", "{executor}: {outputs}");
    }
}

/// Without this the first test would pass also with ways that lead nowhere.
#[test]
fn the_ways_that_are_refused_lead_to_the_state_folder() {
    for user in users() {
        let (project, server) = served(user);
        tell(&project, &server, false);
        let mut command = std::process::Command::new(interpreter(user));
        command.arg("probe.py").current_dir(project.path());
        if let Some(user) = user {
            std::os::unix::process::CommandExt::uid(&mut command, user);
            std::os::unix::process::CommandExt::gid(&mut command, user);
        }
        let ran: Ran = command.output().unwrap().into();
        for (way, outcome) in ways(&ran.json()) {
            let of_process = way.contains(" of the ");
            // A user's own server is closed to him, and only root opens files by their handles.
            let refused = is_ordinary(user) && (of_process || way.contains("its handle"));
            let expected = match refused {
                true => "refused",
                false if way.starts_with("environment") => "read nothing",
                false => "read",
            };
            assert_eq!(outcome, expected, "{way} as {user:?}");
        }
    }
}

#[test]
fn a_job_still_does_what_its_user_could() {
    let script = "
import os, subprocess, sys, tempfile
def run(ctx):
    project = PROJECT
    assert open(f'{project}/data/a.csv').read() == 'x\\n1\\n'
    assert open(f'{project}/new.csv').read() == 'new'
    with open(f'{project}/report.txt', 'a') as file:
        file.write('.')
    os.rename(f'{project}/report.txt', f'{project}/report.new')
    os.rename(f'{project}/report.new', f'{project}/report.txt')
    os.makedirs(f'{project}/data/out', exist_ok=True)
    with open(ctx.scratch / 'part', 'w') as file:
        file.write('part')
    os.rename(ctx.scratch / 'part', f'{project}/data/out/part')
    assert open(f'{project}/data/out/part').read() == 'part'
    with tempfile.NamedTemporaryFile(dir=ctx.scratch) as file:
        file.write(b'x')
        file.flush()
        assert open(file.name).read() == 'x'
    assert 'a.csv' in os.listdir(f'{project}/data') and '.pinrail' in os.listdir(project)
    assert os.listdir('/')
    child = subprocess.Popen(['sleep', '600'])
    child.kill()
    assert child.wait() == -9
    assert open('/proc/self/environ').read() and open(f'/proc/{os.getpid()}/status').read()
    assert subprocess.run([sys.executable, '-c', 'print(1)'], stdout=subprocess.PIPE).stdout == b'1\\n'
";
    for user in users() {
        let project = Project::new(&[
            (".pinrailignore", "data\nnew.csv\nreport*\nserver.log\n"),
            ("data/a.csv", "x\n1\n"),
            ("workflows/w.py", "workflow = {template(name='a', class_='jobs.a.run'): []}"),
        ]);
        project.write("jobs/a.py", &script.replace("PROJECT", &format!("{:?}", project.path())));
        let project = match user {
            Some(user) => project.of_user(user),
            None => project,
        };
        let _server = project.up();
        // What comes after a warm process was started is there for the next attempt.
        for runs in 1..4 {
            let _ = std::fs::remove_file(project.path().join("new.csv"));
            project.write("new.csv", "new");
            for executor in ["python", "shell"] {
                let ran = project.run(&["run", "w", "--executor", executor]);
                assert_eq!(ran.code, Some(0), "{user:?}: {ran:?} {}", project.log("a"));
            }
            let report = std::fs::read_to_string(project.path().join("report.txt")).unwrap();
            assert_eq!(report.len(), runs * 2);
        }
    }
}
