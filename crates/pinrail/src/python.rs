//! The Python interpreter of a project, and what it has.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pinrail_service::project::Project;
use serde::Deserialize;

use crate::failure::{FAILED, Failure};

/// The oldest Python that jobs run on.
pub const OLDEST: [u32; 2] = [3, 9];

/// An interpreter as it describes itself.
#[derive(Debug, Clone, Deserialize)]
pub struct Interpreter {
    /// How it is called, from any folder.
    #[serde(skip)]
    pub path: PathBuf,
    /// Where it is by its own word: what people should type.
    pub executable: String,
    pub version: [u32; 3],
    /// It belongs to the operating system, which does not want packages in it (PEP 668).
    pub managed: bool,
    /// The version of pytest, if it is installed.
    pub pytest: Option<String>,
    /// The version of the SDK, if it is installed, which only editors need.
    pub sdk: Option<String>,
    /// The version of pip, which builds Python environments where there is no uv.
    pub pip: Option<String>,
    /// It can make virtual environments.
    pub venv: bool,
}

impl Interpreter {
    /// Asks an interpreter.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn ask(path: &Path) -> Result<Self, Failure> {
        let path = &callable(path);
        let refused = |how: &str| {
            Failure::new(FAILED, format!("the Python interpreter \"{}\" {how}", path.display()))
                .hint("Name another one, Python 3.9 or later, in pinrail.toml: [python] interpreter = \"python3\".")
        };
        let output = Command::new(path)
            .args(["-c", include_str!("probe.py")])
            .stdin(Stdio::null())
            .output()
            .map_err(|e| refused(&format!("cannot be run: {e}")))?;
        let mut interpreter: Self = serde_json::from_slice(&output.stdout).map_err(|_| {
            let said = String::from_utf8_lossy(&output.stderr);
            refused(&format!("cannot be used: {}", said.lines().next_back().unwrap_or("it says nothing")))
        })?;
        interpreter.path = path.to_path_buf();
        Ok(interpreter)
    }

    /// Whether jobs can run on it.
    pub fn is_new_enough(&self) -> bool {
        self.version[..2] >= OLDEST[..]
    }

    /// The version as people write it.
    pub fn shown(&self) -> String {
        self.version.map(|part| part.to_string()).join(".")
    }

    /// The command that installs a package where this interpreter finds it.
    pub fn install_command(&self, package: &str) -> String {
        if self.managed {
            return format!(
                "{} -m venv .venv && .venv/bin/python -m pip install {package}, and in pinrail.toml: \
                 [python] interpreter = \".venv/bin/python\"",
                self.executable
            );
        }
        format!("{} -m pip install {package}", self.executable)
    }
}

/// A path that holds in every folder; what is not a path is looked for where programs are.
fn callable(path: &Path) -> PathBuf {
    let is_path = path.components().count() > 1;
    if is_path { std::path::absolute(path).unwrap_or_else(|_| path.to_owned()) } else { path.to_owned() }
}

/// The interpreter where nothing names one.
pub fn default_interpreter() -> PathBuf {
    std::env::var_os("PINRAIL_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from)
}

/// Where Python environments are when a state folder shares those of another one, as throw-away ones of tests do.
pub fn shared_environments() -> Option<PathBuf> {
    let folder = std::env::var_os("PINRAIL_ENVIRONMENTS").filter(|folder| !folder.is_empty())?;
    std::path::absolute(folder).ok()
}

/// The interpreter that a project names, a path being relative to its folder; else the default one.
pub fn interpreter_of(project: Option<&Project>) -> PathBuf {
    let named = project.and_then(|project| Some((project, project.interpreter.as_ref()?)));
    match named {
        Some((project, name)) if name.contains('/') => project.folder.join(name),
        Some((_, name)) => PathBuf::from(name),
        None => default_interpreter(),
    }
}
