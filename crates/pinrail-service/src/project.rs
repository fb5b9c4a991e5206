//! `pinrail.toml`: what a project is and needs. An empty file is enough.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pinrail_model::names::ProjectName;
use pinrail_model::near::nearest;

use crate::channels::Channels;
use crate::targets::Targets;

/// A project as its folder declares it.
#[derive(Debug, Clone, PartialEq)]
pub struct Project {
    pub name: ProjectName,
    pub folder: PathBuf,
    pub owner: Option<String>,
    pub interpreter: Option<String>,
    /// The lock file of its Python environment; none: jobs run on the interpreter as it is.
    pub lock: Option<String>,
    /// A folder of wheels, from which alone environments are built.
    pub wheels: Option<String>,
    /// Further lock files, by the extra that templates name.
    pub extras: BTreeMap<String, String>,
    /// Patterns of large inputs that are read in place; none: there is no `[files]`.
    pub files: Option<BTreeMap<String, String>>,
    /// Template settings that every job of the project starts from.
    pub defaults: serde_json::Map<String, serde_json::Value>,
    /// Where notices go.
    pub notify: Channels,
    /// Its surroundings, such as dev and prod.
    pub targets: Targets,
}

/// The name of the file that makes a folder a project.
pub const FILE: &str = "pinrail.toml";

/// What is wrong with a `pinrail.toml`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct ProjectError {
    pub file: String,
    pub line: usize,
    pub message: String,
    pub hint: Option<String>,
}

/// A section of the file.
#[derive(Debug)]
pub struct Section {
    pub name: &'static str,
    /// What the user's own keys mean, where there is no list of keys.
    pub meaning: &'static str,
    /// Each key with what it says; none: the user names the keys.
    pub keys: &'static [(&'static str, &'static str)],
}

/// All that can stand in the file.
pub const SECTIONS: &[Section] = &[
    Section {
        name: "project",
        meaning: "",
        keys: &[
            ("name", "The project's name; without it that of its folder"),
            ("owner", "Whose project it is, for people"),
            ("target", "The target that is meant when none is named; without it `dev`, or the only one"),
        ],
    },
    Section {
        name: "python",
        meaning: "",
        keys: &[
            (
                "interpreter",
                "What runs Python jobs: a program, or a path in the project; without it `PINRAIL_PYTHON`, else `python3`",
            ),
            (
                "lock",
                "The exact packages of the project's Python environment: a `uv.lock`, a `pylock.toml`, or requirements in a \
                 file that ends in `.txt`; without it jobs have what the interpreter has",
            ),
            ("wheels", "A folder of wheels, from which the environment is built without a network"),
            ("extras", "A section of its own, `[python.extras]`: a further lock file for each extra of a template"),
        ],
    },
    Section {
        name: "files",
        meaning: "A pattern such as `\"data/*.csv\"`: inputs that are not part of a bundle and read in place",
        keys: &[],
    },
    Section {
        name: "defaults",
        meaning: "A setting of a template, for each job that does not give its own",
        keys: &[],
    },
    Section {
        name: "notify",
        meaning: "A section of its own, `[notify.NAME]`: a channel for notices; `[notify.on]`: who is told of what",
        keys: &[],
    },
    Section {
        name: "targets",
        meaning: "A section of its own, `[targets.NAME]`, with `prefix`, `read_from`, `protected`, `schedules` and `vars`",
        keys: &[],
    },
];
/// Sections that a later version will understand; using one now must not be silently ignored.
const LATER: &[&str] = &["pools"];

impl Project {
    /// The project that a folder belongs to: the nearest one with a `pinrail.toml`, upwards.
    #[must_use]
    pub fn find(from: &Path) -> Option<PathBuf> {
        from.ancestors().find(|folder| folder.join(FILE).is_file()).map(Path::to_owned)
    }

    /// Reads a project's `pinrail.toml`.
    ///
    /// # Errors
    /// What is wrong with it, with line and remedy.
    pub fn read(folder: &Path) -> Result<Self, ProjectError> {
        let file = folder.join(FILE);
        let text = text(std::fs::read(&file).map_err(|e| unreadable(&file, &e))?)?;
        let own = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Self::parse(folder, &own, &text)
    }

    /// Reads the `pinrail.toml` of an unpacked bundle, whose folder is not named as the project. One that is missing is
    /// an empty one.
    ///
    /// # Errors
    /// What is wrong with it, with line and remedy.
    pub fn read_bundle(root: &Path, name: &ProjectName) -> Result<Self, ProjectError> {
        let file = root.join(FILE);
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(unreadable(&file, &error)),
        };
        Self::parse(root, name.as_str(), &text(bytes)?)
    }

    fn parse(folder: &Path, own: &str, text: &str) -> Result<Self, ProjectError> {
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
            let at = e.span().map_or(0, |span| span.start);
            error(text, at, e.message().to_owned(), None)
        })?;
        for (section, value) in &table {
            check_section(text, section, value)?;
        }
        let string = |section: &str, key: &str| -> Result<Option<String>, ProjectError> {
            match table.get(section).and_then(|s| s.get(key)) {
                None => Ok(None),
                Some(toml::Value::String(text)) => Ok(Some(text.clone())),
                Some(_) => Err(misplaced(text, key, format!("\"{key}\" in [{section}] must be a text"))),
            }
        };
        let given = string("project", "name")?;
        let name = given.as_deref().unwrap_or(own).parse().map_err(|e: pinrail_model::names::BadName| {
            let hint = "Give it a name in pinrail.toml: [project] and below it name = \"...\".".to_owned();
            ProjectError { hint: Some(hint), ..misplaced(text, "name", e.to_string()) }
        })?;
        let files = match table.get("files").and_then(toml::Value::as_table) {
            None => None,
            Some(files) => Some(patterns(text, files)?),
        };
        let defaults = table.get("defaults").map(json);
        let notify = table.get("notify").and_then(toml::Value::as_table);
        let notify = notify.map(|notify| Channels::read(text, notify)).transpose()?.unwrap_or_default();
        let lock = string("python", "lock")?;
        let wheels = string("python", "wheels")?.map(|folder| folder.trim_end_matches('/').to_owned());
        let extras = extras(text, table.get("python"))?;
        check_environment(text, lock.as_deref(), wheels.as_deref(), &extras)?;
        let none = toml::Table::new();
        let targets = table.get("targets").and_then(toml::Value::as_table).unwrap_or(&none);
        let targets = Targets::read(text, targets, string("project", "target")?.as_deref())?;
        Ok(Self {
            lock,
            wheels,
            extras,
            name,
            folder: folder.to_owned(),
            owner: string("project", "owner")?,
            interpreter: string("python", "interpreter")?,
            files,
            defaults: defaults.and_then(|value| value.as_object().cloned()).unwrap_or_default(),
            notify,
            targets,
        })
    }
}

fn unreadable(file: &Path, reason: &std::io::Error) -> ProjectError {
    let hint = format!("Check the permissions of \"{}\".", file.display());
    error("", 0, format!("{FILE} cannot be read: {reason}"), Some(hint))
}

/// The file as text, or where it stops being one.
fn text(bytes: Vec<u8>) -> Result<String, ProjectError> {
    String::from_utf8(bytes).map_err(|e| {
        let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let hint = Some("Save the file as UTF-8.".to_owned());
        ProjectError { file: FILE.to_owned(), line, message: "this line is not UTF-8".to_owned(), hint }
    })
}

/// A setting as JSON; times, which JSON does not have, as the texts that they are written as.
pub(crate) fn json(value: &toml::Value) -> serde_json::Value {
    match value {
        toml::Value::Datetime(at) => at.to_string().into(),
        toml::Value::Array(items) => items.iter().map(json).collect(),
        toml::Value::Table(fields) => fields.iter().map(|(name, value)| (name.clone(), json(value))).collect(),
        other => serde_json::to_value(other).unwrap_or_default(),
    }
}

/// Whether what is said about the Python environment can be.
fn check_environment(
    text: &str,
    lock: Option<&str>,
    wheels: Option<&str>,
    extras: &BTreeMap<String, String>,
) -> Result<(), ProjectError> {
    let mut paths = lock.into_iter().chain(wheels).chain(extras.values().map(String::as_str));
    if let Some(path) = paths.find(|path| !is_inside(path)) {
        let at = text.find(&format!("\"{path}")).unwrap_or(0);
        let message = format!("\"{path}\" in [python] is not a path within the project");
        return Err(error(text, at, message, Some("Give it relative to the project's folder.".to_owned())));
    }
    let needs = wheels.map(|_| "wheels").or(extras.keys().next().map(|_| "python.extras"));
    if let (None, Some(key)) = (lock, needs) {
        let hint = Some("Name the lock file of the project: lock = \"uv.lock\".".to_owned());
        return Err(ProjectError { hint, ..misplaced(text, key, format!("\"{key}\" needs a \"lock\" in [python]")) });
    }
    if let Some(lock) = lock.filter(|lock| !extras.is_empty() && lock.rsplit('/').next() == Some("uv.lock")) {
        let hint = "Its extras are the optional dependencies and groups of its pyproject.toml.".to_owned();
        let message = format!("[python.extras] goes with other locks than \"{lock}\"");
        return Err(ProjectError { hint: Some(hint), ..misplaced(text, "python.extras", message) });
    }
    Ok(())
}

/// The lock files of extras.
fn extras(text: &str, python: Option<&toml::Value>) -> Result<BTreeMap<String, String>, ProjectError> {
    let Some(given) = python.and_then(|python| python.get("extras")) else { return Ok(BTreeMap::new()) };
    let hint = || Some("Write [python.extras] and below it lines like ml = \"requirements-ml.txt\".".to_owned());
    let Some(table) = given.as_table() else {
        let message = "\"extras\" in [python] must be a section: [python.extras]".to_owned();
        return Err(ProjectError { hint: hint(), ..misplaced(text, "extras", message) });
    };
    let one = |(name, value): (&String, &toml::Value)| match value.as_str() {
        Some(file) => Ok((name.clone(), file.to_owned())),
        None => {
            let message = format!("\"{name}\" in [python.extras] must be a lock file");
            Err(ProjectError { hint: hint(), ..misplaced(text, name, message) })
        }
    };
    table.iter().map(one).collect()
}

fn patterns(text: &str, files: &toml::Table) -> Result<BTreeMap<String, String>, ProjectError> {
    files
        .iter()
        .map(|(name, value)| match value.as_str() {
            Some(pattern) if is_inside(pattern) => Ok((name.clone(), pattern.to_owned())),
            Some(pattern) => {
                Err(misplaced(text, name, format!("the pattern \"{pattern}\" in [files] leaves the project's folder")))
            }
            None => Err(misplaced(text, name, format!("\"{name}\" in [files] must be a pattern like \"data/*.csv\""))),
        })
        .collect()
}

/// Whether a relative path or pattern stays below its folder.
#[must_use]
pub fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.starts_with('/')
        && !path.contains('\0')
        && !path.contains('\\')
        && path.split('/').all(|part| part != "..")
}

fn check_section(text: &str, section: &str, value: &toml::Value) -> Result<(), ProjectError> {
    if LATER.contains(&section) {
        let message = format!("[{section}] is not supported by this version of pinrail");
        return Err(misplaced(text, section, message));
    }
    let Some(known) = SECTIONS.iter().find(|known| known.name == section) else {
        let hint =
            nearest(section, SECTIONS.iter().map(|known| known.name)).map(|near| format!("did you mean [{near}]?"));
        return Err(ProjectError { hint, ..misplaced(text, section, format!("unknown section [{section}]")) });
    };
    let Some(table) = value.as_table() else {
        return Err(misplaced(text, section, format!("\"{section}\" must be a section: [{section}]")));
    };
    let keys = || known.keys.iter().map(|(key, _)| *key);
    if let Some(key) = table.keys().find(|key| !known.keys.is_empty() && !keys().any(|known| known == key.as_str())) {
        let hint = nearest(key, keys()).map(|near| format!("did you mean \"{near}\"?"));
        return Err(ProjectError { hint, ..misplaced(text, key, format!("unknown setting \"{key}\" in [{section}]")) });
    }
    Ok(())
}

/// An error at the first place where a word stands as key or section.
fn misplaced(text: &str, word: &str, message: String) -> ProjectError {
    let is_key = |line: &str| line.trim_start().trim_start_matches('[').trim_start_matches('"').starts_with(word);
    let line = text.lines().position(is_key).map_or(1, |at| at + 1);
    ProjectError { file: FILE.to_owned(), line, message, hint: None }
}

fn error(text: &str, at: usize, message: String, hint: Option<String>) -> ProjectError {
    let line = text.get(..at).map_or(1, |before| before.matches('\n').count() + 1);
    ProjectError { file: FILE.to_owned(), line, message, hint }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Project, ProjectError> {
        Project::parse(Path::new("/home/anna/flights"), "flights", text)
    }

    #[test]
    fn an_empty_file_is_a_project_named_as_its_folder() {
        assert_eq!(parse("").unwrap().name.as_str(), "flights");
        assert_eq!(
            parse("[project]\nname = \"x\"\n[files]\nraw = \"data/*.csv\"").unwrap().files.unwrap()["raw"],
            "data/*.csv"
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_an_empty_one_but_one_that_cannot_be_read_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let name = "flights".parse().unwrap();
        assert!(Project::read_bundle(folder.path(), &name).unwrap().files.is_none());
        std::fs::create_dir(folder.path().join(FILE)).unwrap();
        let error = Project::read_bundle(folder.path(), &name).unwrap_err();
        assert!(error.message.starts_with("pinrail.toml cannot be read: "), "{error}");
    }

    #[test]
    fn mistakes_are_named_with_line_and_remedy() {
        let say = |text: &str| {
            let e = parse(text).unwrap_err();
            format!("{e}{}", e.hint.as_ref().map_or_else(String::new, |h| format!(" ({h})")))
        };
        assert_eq!(say("\n[projct]\n"), "pinrail.toml:2: unknown section [projct] (did you mean [project]?)");
        assert_eq!(
            say("[project]\nnam = \"x\""),
            "pinrail.toml:2: unknown setting \"nam\" in [project] (did you mean \"name\"?)"
        );
        assert_eq!(say("[pools]"), "pinrail.toml:1: [pools] is not supported by this version of pinrail");
        assert_eq!(
            say("[files]\nraw = \"../x\""),
            "pinrail.toml:2: the pattern \"../x\" in [files] leaves the project's folder"
        );
        assert_eq!(
            say("[python]\nlock = \"../uv.lock\""),
            "pinrail.toml:2: \"../uv.lock\" in [python] is not a path within the project (Give it relative to the \
             project's folder.)"
        );
        assert_eq!(
            say("[python]\ninterpreter = \"python3\"\nwheels = \"wheels\""),
            "pinrail.toml:3: \"wheels\" needs a \"lock\" in [python] (Name the lock file of the project: lock = \
             \"uv.lock\".)"
        );
        assert_eq!(
            say("[python]\nlock = \"uv.lock\"\n[python.extras]\nml = \"ml.txt\""),
            "pinrail.toml:3: [python.extras] goes with other locks than \"uv.lock\" (Its extras are the optional \
             dependencies and groups of its pyproject.toml.)"
        );
        assert_eq!(
            say("[python]\nlock = \"a.txt\"\nextras = [\"ml\"]"),
            "pinrail.toml:3: \"extras\" in [python] must be a section: [python.extras] (Write [python.extras] and below \
             it lines like ml = \"requirements-ml.txt\".)"
        );
        assert_eq!(
            say("[python]\nlok = \"a.txt\""),
            "pinrail.toml:2: unknown setting \"lok\" in [python] (did you mean \"lock\"?)"
        );
        assert!(say("[project]\nname = \"a/b\"").contains("pinrail.toml:2: project name \"a/b\" is not allowed"));
        assert!(say("x = [").starts_with("pinrail.toml:1: "), "{}", say("x = ["));
    }
}
