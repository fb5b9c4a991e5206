//! Compiling workflow files: a contained subprocess without network imports them and prints documents; this process
//! never does. Twice with different hash seeds, because a workflow that depends on chance is not configuration.
//!
//! The two largest costs of a large workflow are the two imports, which share the processors, and the making of JSON trees of
//! its document: from what was printed, for the store, and from the store.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pinrail_model::document::{Sha, canonical};
use pinrail_model::seam::exec::{Sandbox, SandboxCommand, SandboxEnd, SandboxError, SandboxOutput};
use pinrail_model::seam::lake::QueryEngine;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::edges;
use crate::problem::Problem;
use crate::project::Project;

/// Importing a workflow file takes milliseconds; one that takes this long waits for something it cannot have.
const FILE_LIMIT: Duration = Duration::from_secs(8);
/// For all files together, and for one that cannot be interrupted.
const LIMIT: Duration = Duration::from_secs(60);
/// The code of a file whose import took too long, which on another day it may not.
pub const TIMEOUT: &str = "import-timeout";
/// Declaring workflows takes little; a file that loads data would do so for each of the two imports of each bundle.
const MEMORY: u64 = 1 << 30;

/// The codes of the problems with which an operation that compiles may answer.
pub const CODES: &[&str] = &[
    "bad-bundle",
    "definition-errors",
    "interpreter-failed",
    "isolation-missing",
    "packages-unreachable",
    "environment-failed",
];

/// What workflow files came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Compiled {
    /// Good documents by their version.
    #[schema(value_type = BTreeMap<Sha, Object>)]
    pub documents: BTreeMap<Sha, Value>,
    pub diagnostics: Vec<Diagnostic>,
    /// Files with errors, each with the workflows that it declares, as far as they are known.
    #[serde(default)]
    pub broken: BTreeMap<String, Vec<String>>,
    /// What is sound of workflows with errors: for a look at their SQL, never to be run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(ignore)]
    pub sketches: Vec<Value>,
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

impl Diagnostic {
    /// Whether another one says the same of the same place. Messages may name addresses in memory.
    fn is_like(&self, other: &Self) -> bool {
        (&self.level, &self.code, &self.file, self.line) == (&other.level, &other.code, &other.file, other.line)
    }
}

impl Compiled {
    /// Nothing but what is wrong with the Python environment, without which no workflow file can be imported.
    #[must_use]
    pub fn without_environment(diagnostics: Vec<Diagnostic>) -> Self {
        let broken = BTreeMap::from([(crate::project::FILE.to_owned(), Vec::new())]);
        Self { documents: BTreeMap::new(), diagnostics, broken, sketches: Vec::new() }
    }

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

    /// Adds what only the other import has to say; gives the files on which they disagree.
    fn join(&mut self, diagnostics: Vec<Diagnostic>, broken: BTreeMap<String, Vec<String>>) -> BTreeSet<String> {
        let says = |list: &[Diagnostic], said: &Diagnostic| list.iter().any(|other| other.is_like(said));
        let less: Vec<_> = self.diagnostics.iter().filter(|said| !says(&diagnostics, said)).cloned().collect();
        let more: Vec<_> = diagnostics.into_iter().filter(|said| !says(&self.diagnostics, said)).collect();
        let mut doubtful: BTreeSet<String> = less.iter().chain(&more).filter_map(|said| said.file.clone()).collect();
        self.diagnostics.extend(more);
        doubtful.extend(self.broken.keys().filter(|file| !broken.contains_key(*file)).cloned());
        for (file, names) in broken {
            if !self.broken.contains_key(&file) {
                doubtful.insert(file.clone());
            }
            let known = self.broken.entry(file).or_default();
            for name in names {
                if !known.contains(&name) {
                    known.push(name);
                }
            }
        }
        doubtful
    }

    /// Files whose import took too long, which is not their doing alone.
    fn late(&self) -> BTreeSet<String> {
        let late = self.diagnostics.iter().filter(|diagnostic| diagnostic.code == TIMEOUT);
        late.filter_map(|diagnostic| diagnostic.file.clone()).collect()
    }

    /// A workflow that cannot be used breaks the file that it is from.
    pub(crate) fn breaks(&mut self, file: String, workflow: String) {
        self.broken.entry(file).or_default().push(workflow);
    }
}

/// The file that a document is from, and its workflow.
pub(crate) fn named(document: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&document["source"]["file"]), text(&document["workflow"]))
}

#[derive(Deserialize)]
struct Printed {
    workflows: Vec<Value>,
    diagnostics: Vec<Diagnostic>,
    #[serde(default)]
    broken: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    sketches: Vec<Value>,
}

/// What compiling needs of the machine.
#[derive(Debug, Clone)]
pub struct Compiler {
    pub sdk: PathBuf,
    pub cache: PathBuf,
    pub interpreter: PathBuf,
}

impl Compiler {
    /// Compiles the workflow files of an unpacked bundle, whose templates may name these extras.
    ///
    /// # Errors
    /// When the interpreter cannot be run or the compilation did not end; what is wrong in the files is a diagnostic.
    pub async fn compile(
        &self,
        sandbox: &dyn Sandbox,
        engine: Option<&dyn QueryEngine>,
        root: &Path,
        project: &Project,
        extras: &[String],
    ) -> Result<Compiled, Problem> {
        let print = |seed| self.print(sandbox, root, project, extras, seed);
        let (first, second) = tokio::try_join!(print("1"), print("4242"))?;
        // What is the same to the byte needs to be read but once.
        let same = (&first.end, said(&first)) == (&second.end, said(&second));
        let interpreter = self.interpreter_of(project);
        let second = if same { None } else { Some(printed(&second, &interpreter)?) };
        let (mut compiled, agreed) = compare(printed(&first, &interpreter)?, second);
        edges::settle(&mut compiled, agreed, root, engine).await;
        Ok(compiled)
    }

    async fn print(
        &self,
        sandbox: &dyn Sandbox,
        root: &Path,
        project: &Project,
        extras: &[String],
        seed: &'static str,
    ) -> Result<SandboxOutput, Problem> {
        let interpreter = self.interpreter_of(project);
        let defaults = Value::Object(project.defaults.clone()).to_string();
        let notify = project.notify.for_compiler().to_string();
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
            "--notify",
            &notify,
            "--extras",
            &json!(extras).to_string(),
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
        let (project, cwd) = (Some(project.name.clone()), root.to_owned());
        let command = SandboxCommand { project, argv, env, cwd, limit: LIMIT, memory: MEMORY, network: false };
        sandbox.run(command).await.map_err(|error| match error {
            SandboxError::Program(message) => Problem::new("interpreter-failed", message).hint(INTERPRETER),
            SandboxError::Isolation { message, hint } => Problem::new("isolation-missing", message).hint(hint),
        })
    }

    fn interpreter_of(&self, project: &Project) -> PathBuf {
        project.interpreter.as_ref().map_or_else(|| self.interpreter.clone(), PathBuf::from)
    }
}

/// The last line of what a compilation printed, which is what it has to say.
fn said(output: &SandboxOutput) -> &[u8] {
    output.stdout.split(|byte| *byte == b'\n').rev().find(|line| !line.is_empty()).unwrap_or_default()
}

fn printed(output: &SandboxOutput, interpreter: &Path) -> Result<Printed, Problem> {
    if output.end == SandboxEnd::Exit(0)
        && let Ok(printed) = serde_json::from_slice(said(output))
    {
        return Ok(printed);
    }
    Err(no_document(output, serde_json::from_slice(said(output)).ok(), interpreter))
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

/// The documents that both imports agree on, and an error for each workflow and file on which they do not; without a second
/// one, it printed the same.
fn compare(first: Printed, second: Option<Printed>) -> (Compiled, Vec<Value>) {
    let Printed { workflows, diagnostics, broken, sketches } = first;
    let mut compiled = Compiled { documents: BTreeMap::new(), diagnostics, broken, sketches };
    let Some(second) = second else { return (compiled, workflows) };
    let mut doubtful = compiled.join(second.diagnostics, second.broken);
    let late = compiled.late();
    let mut agreed = Vec::new();
    // Compared one by one, the workflows of a large project would cost as much as their number's square.
    let [here, there] = [&workflows, &second.workflows].map(|list| list.iter().map(canonical).collect::<Vec<_>>());
    let [in_here, in_there] = [&here, &there].map(|texts| texts.iter().collect::<BTreeSet<_>>());
    let names: BTreeSet<String> = workflows.iter().map(named).map(|(_, name)| name).collect();
    let only_there = second.workflows.into_iter().zip(&there).filter(|(json, _)| !names.contains(&named(json).1));
    for (json, text) in workflows.into_iter().zip(&here).chain(only_there) {
        if !(in_here.contains(text) && in_there.contains(text)) {
            let (file, name) = named(&json);
            doubtful.remove(&file);
            if !late.contains(&file) {
                compiled.diagnostics.push(by_chance(&json));
            }
            compiled.breaks(file, name);
            continue;
        }
        agreed.push(json);
    }
    for file in doubtful.difference(&late).cloned() {
        let message = format!("what is wrong with \"{file}\" differs from one import to the next");
        compiled.broken.entry(file.clone()).or_default();
        compiled.diagnostics.push(Diagnostic {
            file: Some(file),
            hint: Some(BY_CHANCE.to_owned()),
            ..plain("error", "not-deterministic", message)
        });
    }
    (compiled, agreed)
}

const BY_CHANCE: &str = "Do not use random numbers, the time, or the order of a set in a workflow file.";

fn by_chance(json: &Value) -> Diagnostic {
    let name = json["workflow"].as_str().unwrap_or("?");
    let message = format!("workflow \"{name}\" differs from one import to the next");
    Diagnostic {
        file: json["source"]["file"].as_str().map(str::to_owned),
        line: json["source"]["line"].as_u64().map(|line| line as u32),
        hint: Some(BY_CHANCE.to_owned()),
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn workflow(name: &str, command: &str) -> Value {
        json!({"format": 1, "workflow": name, "source": {"file": format!("workflows/{name}.py"), "line": 1},
               "jobs": [{"name": "a", "kind": "shell", "shell": [command]}]})
    }

    fn wrong(code: &str, file: &str) -> Diagnostic {
        Diagnostic { file: Some(file.to_owned()), ..plain("error", code, "it is wrong".to_owned()) }
    }

    fn printed(workflows: &[&Value], diagnostics: &[Diagnostic], broken: &[&str]) -> Printed {
        let broken = broken.iter().map(|file| ((*file).to_owned(), Vec::new())).collect();
        let workflows = workflows.iter().copied().cloned().collect();
        Printed { workflows, diagnostics: diagnostics.to_vec(), broken, sketches: Vec::new() }
    }

    /// Where the imports disagree, and how many workflows are left; the same whichever import was the first.
    fn doubts(one: impl Fn() -> Printed, other: impl Fn() -> Printed) -> (Vec<String>, usize) {
        let found = [compare(one(), Some(other())), compare(other(), Some(one()))].map(|(compiled, agreed)| {
            let chance = compiled.diagnostics.iter().filter(|diagnostic| diagnostic.code == "not-deterministic");
            let mut files: Vec<String> = chance.map(|diagnostic| diagnostic.file.clone().unwrap()).collect();
            files.sort();
            assert!(files.iter().all(|file| compiled.broken.contains_key(file)), "{files:?} are broken");
            (files, agreed.len())
        });
        let [first, second] = found;
        assert_eq!(first, second);
        first
    }

    #[test]
    fn imports_that_agree_are_what_they_say() {
        let (a, b) = (workflow("a", "true"), workflow("b", "true"));
        let bad = [wrong("bad-name", "workflows/c.py")];
        let one = || printed(&[&a, &b], &bad, &["workflows/c.py"]);
        assert_eq!(doubts(one, || printed(&[&b, &a], &bad, &["workflows/c.py"])), (Vec::new(), 2));
    }

    #[test]
    fn a_workflow_that_only_one_import_has_or_that_differs_is_an_error() {
        let (a, b) = (workflow("a", "true"), workflow("b", "true"));
        let more = doubts(|| printed(&[&a], &[], &[]), || printed(&[&a, &b], &[], &[]));
        assert_eq!(more, (vec!["workflows/b.py".to_owned()], 1));
        let other = workflow("b", "false");
        let differs = doubts(|| printed(&[&a, &b], &[], &[]), || printed(&[&a, &other], &[], &[]));
        assert_eq!(differs, (vec!["workflows/b.py".to_owned()], 1));
    }

    #[test]
    fn what_is_wrong_in_only_one_import_is_an_error_but_not_that_it_took_too_long() {
        let a = workflow("a", "true");
        let bad = [wrong("bad-name", "workflows/c.py")];
        let broken = doubts(|| printed(&[&a], &[], &[]), || printed(&[&a], &bad, &["workflows/c.py"]));
        assert_eq!(broken, (vec!["workflows/c.py".to_owned()], 1));
        let (late, c) = ([wrong(TIMEOUT, "workflows/c.py")], workflow("c", "true"));
        let slow = doubts(|| printed(&[&a, &c], &[], &[]), || printed(&[&a], &late, &["workflows/c.py"]));
        assert_eq!(slow, (Vec::new(), 1));
    }
}
