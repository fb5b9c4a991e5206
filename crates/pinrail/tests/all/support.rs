//! Throw-away projects and the real binary over them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

/// A project in a folder of its own, with its state.
pub struct Project {
    folder: PathBuf,
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
        let project = Self { folder: holder.path().to_owned(), _holder: holder };
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
        Self { folder, _holder: holder }
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
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pinrail"));
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
