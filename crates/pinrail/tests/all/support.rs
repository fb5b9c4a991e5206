//! Throw-away projects and the real binary over them.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

/// A project in a folder of its own, with its state.
pub struct Project {
    folder: PathBuf,
    binary: PathBuf,
    /// Who runs the commands; none: whoever runs the tests.
    user: Option<u32>,
    /// Removed with the project.
    _holder: tempfile::TempDir,
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// The one JSON document that `--json` prints.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// Runs a command with a text on its standard input.
pub fn fed(command: &mut Command, text: &str) -> Ran {
    use std::io::Write;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // One that ends without reading closes the pipe, which is no fault.
    let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
    child.wait_with_output().unwrap().into()
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Project {
    /// A project named `demo` with these files.
    pub fn new(files: &[(&str, &str)]) -> Self {
        let holder = tempfile::tempdir().unwrap();
        let project = Self::at(holder.path().to_owned(), holder);
        project.write("pinrail.toml", "[project]\nname = \"demo\"\n");
        for (path, text) in files {
            project.write(path, text);
        }
        project
    }

    /// A copy of a folder of `examples/`.
    pub fn example(name: &str) -> Self {
        let holder = tempfile::tempdir().unwrap();
        // A project without a name is called as its folder.
        let folder = holder.path().join(name);
        copy(&repository().join("examples").join(name), &folder);
        Self::at(folder, holder)
    }

    fn at(folder: PathBuf, holder: tempfile::TempDir) -> Self {
        Self { folder, binary: env!("CARGO_BIN_EXE_pinrail").into(), user: None, _holder: holder }
    }

    /// The same project, all of it an ordinary user's, who runs the commands from now on. Only root can ask for that.
    pub fn of_user(mut self, user: u32) -> Self {
        self.user = Some(user);
        give(self.path(), user);
        // The build's folder may lie where that user cannot go.
        if self.command(&["--version"]).output().is_err() {
            let copied = self.path().join(".bin-pinrail");
            std::fs::copy(&self.binary, &copied).unwrap();
            self.write(".pinrailignore", ".bin-pinrail\nserver.log\n");
            self.binary = copied;
        }
        self
    }

    pub fn path(&self) -> &Path {
        &self.folder
    }

    pub fn state(&self) -> PathBuf {
        self.path().join(".pinrail")
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        if let Some(user) = self.user {
            give(self.path(), user);
        }
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        if let Some(user) = self.user {
            command.uid(user).gid(user).env("HOME", self.path());
        }
        command.args(arguments).current_dir(self.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PINRAIL_")) {
            command.env_remove(name);
        }
        // What belongs to the user and to no project is thrown away as well.
        command.env("XDG_CONFIG_HOME", self.path().join(".user")).env("XDG_CACHE_HOME", self.path().join(".user"));
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        self.command(arguments).output().unwrap().into()
    }

    /// A command that is given something on its standard input.
    pub fn run_with(&self, arguments: &[&str], input: &str) -> Ran {
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // One that does not read to the end closes its side, which is for it to answer for.
        let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes());
        child.wait_with_output().unwrap().into()
    }

    /// A server in the background, on a free port; killed when it is dropped.
    pub fn up(&self) -> Server {
        self.up_with(&[])
    }

    /// A server that may die before it is ready.
    pub fn up_or_dead(&self, environment: &[(&str, &str)]) -> Option<Server> {
        let mut server = self.spawn(environment);
        let mut dead = false;
        wait_until("the server is ready or dead", || {
            dead = server.child.try_wait().unwrap().is_some();
            dead || self.is_ready(&server)
        });
        (!dead).then_some(server)
    }

    pub fn up_with(&self, environment: &[(&str, &str)]) -> Server {
        let server = self.spawn(environment);
        wait_until("the server is ready", || self.is_ready(&server));
        server
    }

    fn spawn(&self, environment: &[(&str, &str)]) -> Server {
        let log = std::fs::File::create(self.path().join("server.log")).unwrap();
        let mut command = self.command(&["up", "--listen", "127.0.0.1:0"]);
        command.envs(environment.iter().copied()).stdout(Stdio::null()).stderr(log);
        Server { child: command.spawn().unwrap() }
    }

    fn is_ready(&self, server: &Server) -> bool {
        self.live()["pid"] == server.child.id()
    }

    /// What the state folder says of the server that serves it.
    pub fn live(&self) -> Value {
        let text = std::fs::read_to_string(self.state().join("server.json")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// A request as a script makes it, to the live server; status 0 when there is no answer.
    pub fn curl(&self, path: &str, arguments: &[&str]) -> (u16, Value) {
        let mut command = Command::new("curl");
        let url = format!("{}{path}", self.live()["url"].as_str().unwrap_or_default());
        command.args(["-s", "-w", "\n%{http_code}", &url]);
        let text = String::from_utf8(command.args(arguments).output().unwrap().stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
    }

    /// The header of the admin.
    pub fn admin(&self) -> String {
        let token = std::fs::read_to_string(self.state().join("admin.token")).unwrap_or_default();
        format!("Authorization: Bearer {token}")
    }

    /// Where the live server listens.
    pub fn url(&self) -> String {
        let live: Value = serde_json::from_slice(&std::fs::read(self.state().join("server.json")).unwrap()).unwrap();
        live["url"].as_str().unwrap().to_owned()
    }

    /// The run that was made last, as the API gives it.
    pub fn last_run(&self) -> Value {
        self.run(&["show", "--json"]).json()
    }

    /// A run as the command line finds it.
    pub fn shown(&self, run: &str) -> Value {
        self.run(&["show", run, "--json"]).json()
    }

    /// Waits until the last run has ended.
    pub fn wait_for_end(&self) -> Value {
        let mut run = Value::Null;
        wait_until("the run ends", || {
            run = self.last_run();
            matches!(run["state"].as_str(), Some("succeeded" | "failed" | "cancelled"))
        });
        run
    }

    /// What the last attempt of a job logged.
    pub fn log(&self, job: &str) -> String {
        self.run(&["logs", "--job", job]).out
    }
}

/// A server that dies with the test.
pub struct Server {
    pub child: Child,
}

impl Server {
    /// SIGKILL, and waits for the death.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An interpreter with pytest and pip.
pub fn test_python() -> String {
    std::env::var("PINRAIL_TEST_PYTHON")
        .expect("PINRAIL_TEST_PYTHON must name a Python with pytest: run the tests through `cargo xtask test`")
}

/// A new virtual environment, without anything in it; gives its interpreter.
pub fn venv(folder: &Path) -> PathBuf {
    let made = Command::new("python3").args(["-m", "venv", "--without-pip"]).arg(folder).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    folder.join("bin/python")
}

/// Who tests are to run as: whoever runs them, and an ordinary user besides when that is root.
pub fn users() -> Vec<Option<u32>> {
    let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if root { vec![None, Some(ORDINARY)] } else { vec![None] }
}

/// A user without any rights, whom every system has.
pub const ORDINARY: u32 = 65534;

/// Gives a folder with all that is in it to a user.
fn give(folder: &Path, user: u32) {
    std::os::unix::fs::lchown(folder, Some(user), Some(user)).unwrap();
    if folder.is_dir() && !folder.is_symlink() {
        std::fs::read_dir(folder).unwrap().for_each(|entry| give(&entry.unwrap().path(), user));
    }
}

/// Whether a process lives.
pub fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

/// All processes below one, by pid, with their command lines.
pub fn below(root: u32) -> Vec<(u32, String)> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().map(Result::unwrap) {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        // What ends while it is looked at is not there.
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        parents.extend(parent.map(|parent| (pid, parent, line)));
    }
    let mut found = vec![(root, String::new())];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at].0;
        found.extend(parents.iter().filter(|(_, p, _)| *p == parent).map(|(pid, _, line)| (*pid, line.clone())));
        at += 1;
    }
    found.split_off(1)
}

/// The launcher of a server.
pub fn launcher(server: &Server) -> u32 {
    let found = below(server.child.id()).into_iter().find(|(_, line)| line.contains("__launcher"));
    found.expect("the server has a launcher").0
}

pub fn sigkill(pid: u32) {
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

/// A line of `/proc/PID/status`, in KiB where it is an amount.
pub fn status(pid: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let name = entry.file_name();
        if name == "__pycache__" || name == ".pinrail" {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(name));
        } else {
            std::fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
}

/// Waits for a condition; a test that waits a minute has found something.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("waited in vain until {what}");
}

/// A task of a run.
pub fn task<'a>(run: &'a Value, name: &str) -> &'a Value {
    run["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|task| task["name"] == name)
        .unwrap_or_else(|| panic!("no {name}: {run}"))
}

/// The names and states of the phases of an attempt.
pub fn phases(attempt: &Value) -> Vec<String> {
    let phases = attempt["phases"].as_array().unwrap();
    phases.iter().map(|p| format!("{} {}", p["name"].as_str().unwrap(), p["state"].as_str().unwrap())).collect()
}
