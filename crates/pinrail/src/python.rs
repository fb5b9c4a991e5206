//! The Python interpreter of a project.

use std::path::PathBuf;

use pinrail_service::project::Project;

/// The interpreter where nothing names one.
pub fn default_interpreter() -> PathBuf {
    std::env::var_os("PINRAIL_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from)
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
