//! A new project from an example.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use pinrail_model::names::ProjectName;
use pinrail_model::near::nearest;
use pinrail_service::project::{FILE, Project};
use serde_json::json;

use crate::examples;
use crate::failure::{FAILED, Failure, REFUSED, USAGE};
use crate::output::{Output, plural};
use crate::python::interpreter_of;

/// The example that a project is made of when none is named.
const SMALLEST: &str = "tiny";
/// What an example with data brings to fetch them. The last line that it prints says what it has fetched.
const FETCH: &str = "data/fetch.py";
/// Names of what is in the way that are told; the rest is counted.
const MOST_NAMED: usize = 5;

pub fn init(output: Output, target: &str, example: Option<&str>) -> Result<ExitCode, Failure> {
    let example = example.unwrap_or(SMALLEST);
    let files = files_of(example)?;
    let folder = PathBuf::from(target);
    let name = name_of(&folder)?;
    must_be_empty(&folder)?;
    write(&files, &folder, &name)?;
    let project = Project::read(&folder.canonicalize()?)?;
    let created = format!("  created {}", plural(files.len() as u64, "file"));
    let paths: Vec<&str> = files.iter().map(|(path, _)| path.as_str()).collect();
    let mut document =
        json!({"project": name, "folder": project.folder, "example": example, "files": paths, "fetched": null});
    if !paths.contains(&FETCH) {
        let next = first_workflow(&paths).map(|workflow| format!(" · next: cd {target} && pinrail run {workflow}"));
        output.say(&format!("{created}{}", next.unwrap_or_default()));
        output.document(&document);
        return Ok(ExitCode::SUCCESS);
    }
    match fetch(&project) {
        Ok(fetched) => {
            output.say(&format!("{created} · {fetched}"));
            document["fetched"] = fetched.into();
            output.document(&document);
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => {
            output.say(&created);
            let interpreter = interpreter_of(Some(&project));
            let hint =
                format!("The project stands. Fetch later with `cd {target} && {} {FETCH}`.", interpreter.display());
            Err(failure.hint(hint))
        }
    }
}

fn files_of(example: &str) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let files = examples::files(example);
    if !files.is_empty() {
        return Ok(files);
    }
    let names = examples::names();
    let near = nearest(example, names.iter().map(String::as_str)).map(|near| format!("Did you mean \"{near}\"? "));
    let all = names.into_iter().collect::<Vec<_>>().join(", ");
    Err(Failure::new(USAGE, format!("there is no example \"{example}\""))
        .hint(format!("{}There are {all}.", near.unwrap_or_default())))
}

/// A project is named as its folder.
fn name_of(folder: &Path) -> Result<ProjectName, Failure> {
    let absolute = std::path::absolute(folder)?;
    let last = absolute.components().next_back().and_then(|last| last.as_os_str().to_str()).unwrap_or_default();
    last.parse().map_err(|e: pinrail_model::names::BadName| {
        Failure::new(USAGE, e.to_string()).hint("Give the folder a name that the project can have.")
    })
}

fn must_be_empty(folder: &Path) -> Result<(), Failure> {
    let shown = folder.display();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::new(REFUSED, format!("\"{shown}\" cannot become a project: {error}"))),
    };
    let mut names: Vec<String> =
        entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect();
    if names.is_empty() {
        return Ok(());
    }
    names.sort();
    let more = match names.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    names.truncate(MOST_NAMED);
    Err(Failure::new(REFUSED, format!("the folder \"{shown}\" is not empty: {}{more} in the way", names.join(", ")))
        .hint("Name another folder, or put a pinrail.toml into this one: an empty one makes it a project."))
}

/// Writes the project, or nothing.
fn write(files: &[(String, Vec<u8>)], folder: &Path, name: &ProjectName) -> Result<(), Failure> {
    let was_there = folder.is_dir();
    let written = std::fs::create_dir_all(folder)
        .and_then(|()| examples::write(files, folder))
        .and_then(|()| rename(&folder.join(FILE), name));
    written.map_err(|error| {
        // It was empty or not there, so all that is in it now is ours.
        for (path, _) in files {
            let first = path.split('/').next().map(|first| folder.join(first));
            let _ = first.map(|first| std::fs::remove_dir_all(&first).or_else(|_| std::fs::remove_file(&first)));
        }
        if !was_there {
            let _ = std::fs::remove_dir(folder);
        }
        Failure::new(FAILED, format!("the project \"{name}\" cannot be written: {error}"))
    })
}

/// An example that has a name gets the new project's.
fn rename(file: &Path, name: &ProjectName) -> std::io::Result<()> {
    let text = std::fs::read_to_string(file)?;
    let mut inside = false;
    let lines = text.lines().map(|line| {
        if line.starts_with('[') {
            inside = line.trim() == "[project]";
        }
        let is_name = inside && line.split('=').next().is_some_and(|key| key.trim() == "name");
        if is_name { format!("name = \"{name}\"\n") } else { format!("{line}\n") }
    });
    std::fs::write(file, lines.collect::<String>())
}

fn first_workflow<'a>(paths: &[&'a str]) -> Option<&'a str> {
    let mut names = paths.iter().filter_map(|path| path.strip_prefix("workflows/")?.strip_suffix(".py"));
    names.find(|name| !name.contains('/') && !name.starts_with('_'))
}

/// Runs what fetches the example's data; gives its last line.
fn fetch(project: &Project) -> Result<String, Failure> {
    let interpreter = interpreter_of(Some(project));
    let failed = |how: String| Failure::new(FAILED, format!("{FETCH} {how}"));
    let output = Command::new(&interpreter)
        .arg(FETCH)
        .current_dir(&project.folder)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| failed(format!("cannot be run with \"{}\": {e}", interpreter.display())))?;
    if !output.status.success() {
        let how = output.status.code().map_or_else(|| "a signal".to_owned(), |code| format!("exit code {code}"));
        return Err(failed(format!("ended with {how}")));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("fetched its data").trim().to_owned())
}
