//! Compiling workflow files: a contained subprocess without network imports them and prints documents; this process
//! never does. Twice with different hash seeds, because a workflow that depends on chance is not configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pinrail_model::document::{Document, Sha, canonical};
use pinrail_model::seam::exec::{Sandbox, SandboxCommand, SandboxEnd, SandboxError, SandboxOutput};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::problem::Problem;
use crate::project::Project;

/// Importing a workflow file takes milliseconds; one that takes this long waits for something it cannot have.
const FILE_LIMIT: Duration = Duration::from_secs(8);
/// For all files together, and for one that cannot be interrupted.
const LIMIT: Duration = Duration::from_secs(60);
/// Declaring workflows takes little; a file that loads data would do so for each of the two imports of each bundle.
const MEMORY: u64 = 1 << 30;

/// What workflow files came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Compiled {
    /// Good documents by their version.
    #[schema(value_type = BTreeMap<Sha, Object>)]
    pub documents: BTreeMap<Sha, Value>,
    pub diagnostics: Vec<Diagnostic>,
    /// Files with errors, each with the workflows that it declares, as far as they are known.
    #[serde(default)]
    pub broken: BTreeMap<String, Vec<String>>,
}

/// Something that is wrong or dubious, at its place in the user's file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Diagnostic {
    /// `error` or `warning`
    pub level: String,
    pub code: String,
    pub message: String,
    #[serde(default)]
    pub file: Option<String>,
    #[serde(default)]
    pub line: Option<u32>,
    /// 1-based, in characters.
    #[serde(default)]
    pub column: Option<u32>,
    #[serde(default)]
    pub width: Option<u32>,
    #[serde(default)]
    pub source: Option<String>,
    #[serde(default)]
    pub hint: Option<String>,
    #[serde(default)]
    pub workflow: Option<String>,
    /// Other places that have to do with it: `file`, `line`, `message`.
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    pub related: Vec<Value>,
}

impl Compiled {
    #[must_use]
    pub fn errors(&self) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.level == "error").count()
    }

    /// How many of the errors are in one file, or come from there.
    #[must_use]
    pub fn errors_of(&self, file: &str) -> usize {
        let concerns = |diagnostic: &&Diagnostic| {
            diagnostic.file.as_deref() == Some(file) || diagnostic.related.iter().any(|other| other["file"] == file)
        };
        self.diagnostics.iter().filter(|diagnostic| diagnostic.level == "error").filter(concerns).count()
    }

    /// A document that cannot be used breaks the file that it is from.
    fn breaks(&mut self, document: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let names = self.broken.entry(text(&document["source"]["file"])).or_default();
        names.push(text(&document["workflow"]));
    }
}

#[derive(Deserialize)]
struct Printed {
    workflows: Vec<Value>,
    diagnostics: Vec<Diagnostic>,
    #[serde(default)]
    broken: BTreeMap<String, Vec<String>>,
}

/// What compiling needs of the machine.
#[derive(Debug, Clone)]
pub struct Compiler {
    pub sdk: PathBuf,
    pub cache: PathBuf,
    pub interpreter: PathBuf,
}

impl Compiler {
    /// Compiles the workflow files of an unpacked bundle.
    ///
    /// # Errors
    /// When the interpreter cannot be run or the compilation did not end; what is wrong in the files is a diagnostic.
    pub async fn compile(&self, sandbox: &dyn Sandbox, root: &Path, project: &Project) -> Result<Compiled, Problem> {
        let (first, second) =
            tokio::try_join!(self.print(sandbox, root, project, "1"), self.print(sandbox, root, project, "4242"))?;
        let Printed { workflows, diagnostics, broken } = first;
        let mut compiled = Compiled { documents: BTreeMap::new(), diagnostics, broken };
        for (at, json) in workflows.iter().enumerate() {
            if second.workflows.get(at).map(canonical) != Some(canonical(json)) {
                compiled.diagnostics.push(by_chance(json));
                compiled.breaks(json);
                continue;
            }
            match Document::read(json) {
                Ok(document) => {
                    let (text, version) = document.seal();
                    compiled.documents.insert(version, serde_json::from_str(&text).unwrap_or_default());
                }
                Err(errors) => {
                    compiled.breaks(json);
                    compiled.diagnostics.extend(errors.into_iter().map(|error| Diagnostic {
                        file: Some(error.place.file),
                        line: Some(error.place.line),
                        hint: error.hint,
                        ..plain("error", error.code, error.message)
                    }));
                }
            }
        }
        Ok(compiled)
    }

    async fn print(
        &self,
        sandbox: &dyn Sandbox,
        root: &Path,
        project: &Project,
        seed: &str,
    ) -> Result<Printed, Problem> {
        let interpreter = project.interpreter.as_ref().map_or_else(|| self.interpreter.clone(), PathBuf::from);
        let defaults = Value::Object(project.defaults.clone()).to_string();
        let root_text = root.display().to_string();
        let argv = [
            interpreter.display().to_string().as_str(),
            "-m",
            "pinrail.compile",
            "--root",
            &root_text,
            "--project",
            project.name.as_str(),
            "--defaults",
            &defaults,
            "--watched",
            &FILE_LIMIT.as_secs().to_string(),
        ]
        .map(str::to_owned)
        .to_vec();
        let env = BTreeMap::from(
            [
                ("PYTHONPATH", self.sdk.display().to_string()),
                ("PYTHONPYCACHEPREFIX", self.cache.display().to_string()),
                ("PYTHONHASHSEED", seed.to_owned()),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        let command = SandboxCommand { argv, env, cwd: root.to_owned(), limit: LIMIT, memory: MEMORY };
        let output = sandbox.run(command).await.map_err(|error| match error {
            SandboxError::Program(message) => Problem::new("interpreter-failed", message).hint(INTERPRETER),
            SandboxError::Isolation { message, hint } => Problem::new("isolation-missing", message).hint(hint),
        })?;
        let last = output.stdout.split(|byte| *byte == b'\n').rev().find(|line| !line.is_empty()).unwrap_or_default();
        if let Ok(printed) = serde_json::from_slice(last)
            && output.end == SandboxEnd::Exit(0)
        {
            return Ok(printed);
        }
        Err(no_document(&output, serde_json::from_slice(last).ok(), &interpreter))
    }
}

const INTERPRETER: &str =
    "Name a Python interpreter (3.9 or later) in pinrail.toml: [python] interpreter = \"python3\".";

/// Why a compilation printed no document: a file that ended the process, if one was being loaded.
fn no_document(output: &SandboxOutput, loading: Option<Loading>, interpreter: &Path) -> Problem {
    let how = match output.end {
        SandboxEnd::Exit(code) => format!("ended the interpreter with exit code {code}"),
        SandboxEnd::Signal(signal) => format!("ended the interpreter with signal {signal}"),
        SandboxEnd::TooLong => format!("did not end within {} s", LIMIT.as_secs()),
        SandboxEnd::TooMuchMemory => format!("needs more than {} MiB of memory", MEMORY >> 20),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = said.lines().rev().take(5).collect();
    let said: String = last.into_iter().rev().map(|line| format!("\n{line}")).collect();
    match loading {
        Some(Loading { loading }) => {
            Problem::new("definition-errors", format!("{loading} {how} while it was loaded{said}"))
                .hint("A workflow file only declares: it starts and ends no processes, and computes nothing large.")
        }
        None => {
            let detail = format!("\"{}\" {how} and compiled nothing{said}", interpreter.display());
            Problem::new("interpreter-failed", detail).hint(INTERPRETER)
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Loading {
    loading: String,
}

fn by_chance(json: &Value) -> Diagnostic {
    let name = json["workflow"].as_str().unwrap_or("?");
    let message = format!("workflow \"{name}\" differs from one import to the next");
    Diagnostic {
        file: json["source"]["file"].as_str().map(str::to_owned),
        line: json["source"]["line"].as_u64().map(|line| line as u32),
        hint: Some("Do not use random numbers, the time, or the order of a set in a workflow file.".to_owned()),
        ..plain("error", "not-deterministic", message)
    }
}

pub(crate) fn plain(level: &str, code: &str, message: String) -> Diagnostic {
    Diagnostic {
        level: level.to_owned(),
        code: code.to_owned(),
        message,
        file: None,
        line: None,
        column: None,
        width: None,
        source: None,
        hint: None,
        workflow: None,
        related: Vec::new(),
    }
}
