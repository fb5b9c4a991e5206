//! Inputs: the files of a project's folder that `[files]` names. They are no part of a bundle: jobs read them in place, and
//! what a run found of them is recorded with it.
//!
//! Invariant: nothing outside of the project's folder is given, whatever links say.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use globset::{GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};
use pinrail_model::explain::ChangedInput;
use pinrail_model::seam::store::InputRow;
use pinrail_model::time::Micros;

use crate::bundles::{BundleError, NEVER};
use crate::project::Project;

/// The most that are recorded of one run: what has more is no list of files that a person looks through.
const MOST_RECORDED: usize = 10_000;

/// What `[files]` matches.
///
/// # Errors
/// The first pattern that is none.
pub(crate) fn in_place(project: &Project) -> Result<GlobSet, BundleError> {
    let mut patterns = GlobSetBuilder::new();
    for pattern in project.files.iter().flat_map(BTreeMap::values) {
        let bad = |e: globset::Error| BundleError::Pattern { pattern: pattern.clone(), message: e.kind().to_string() };
        // One that names a folder means everything below it.
        for pattern in [pattern.clone(), format!("{}/**", pattern.trim_end_matches('/'))] {
            patterns.add(GlobBuilder::new(&pattern).literal_separator(true).build().map_err(bad)?);
        }
    }
    patterns.build().map_err(|e| BundleError::Pattern { pattern: String::new(), message: e.kind().to_string() })
}

/// The files and folders that `[files]` matches in a project's folder, as relative paths; of a folder that is matched as a
/// whole nothing below it.
fn matched(folder: &Path, settings: &Project, state: &Path) -> Vec<PathBuf> {
    let Ok(patterns) = in_place(settings) else { return Vec::new() };
    let begins: Vec<PathBuf> = settings.files.iter().flat_map(BTreeMap::values).map(|p| literal(p)).collect();
    beneath(folder, |path| patterns.is_match(path), &begins, state)
}

/// The first file of a project's folder, by name, that a pattern matches, with its size in bytes.
pub(crate) fn first_match(folder: &Path, text: &str, pattern: &GlobMatcher, state: &Path) -> Option<(String, u64)> {
    let found = beneath(folder, |path| pattern.is_match(path), &[literal(text)], state);
    found.iter().find_map(|path| {
        let metadata = fs::metadata(folder.join(path)).ok().filter(Metadata::is_file)?;
        Some((path.display().to_string(), metadata.len()))
    })
}

/// What below a project's folder is matched, as relative paths, looking only where a match may be.
fn beneath(folder: &Path, is_match: impl Fn(&Path) -> bool, begins: &[PathBuf], state: &Path) -> Vec<PathBuf> {
    let Ok(root) = folder.canonicalize() else { return Vec::new() };
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(root.join(&at)).into_iter().flatten().flatten() {
            let path = at.join(entry.file_name());
            let never = entry.file_name().to_str().is_some_and(|name| NEVER.contains(&name));
            let real = entry.path().canonicalize().ok();
            if never || !real.is_some_and(|real| real.starts_with(&root) && !real.starts_with(state)) {
                continue;
            }
            if is_match(&path) {
                found.push(path);
            } else if entry.file_type().is_ok_and(|kind| kind.is_dir())
                && begins.iter().any(|begin| begin.starts_with(&path) || path.starts_with(begin))
            {
                open.push(path);
            }
        }
    }
    found.sort_unstable();
    found
}

/// The folders that a pattern names before its first wildcard.
fn literal(pattern: &str) -> PathBuf {
    pattern.split('/').take_while(|part| !part.contains(['*', '?', '[', '{'])).filter(|part| *part != ".").collect()
}

/// The inputs as they are now; none when they are too many to be recorded.
#[must_use]
pub(crate) fn look(folder: &Path, settings: &Project, state: &Path) -> Option<Vec<InputRow>> {
    let mut rows = Vec::new();
    let mut open = matched(folder, settings, state);
    while let Some(path) = open.pop() {
        let place = folder.join(&path);
        let Ok(metadata) = fs::metadata(&place) else { continue };
        if metadata.is_dir() {
            let entries = fs::read_dir(&place).into_iter().flatten().flatten();
            // Links below it could lead in a circle.
            let entries = entries.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_symlink()));
            open.extend(entries.map(|entry| path.join(entry.file_name())));
        } else if let Some(path) = path.to_str() {
            rows.push(InputRow { path: path.to_owned(), size: metadata.len(), modified_at: modified_at(&metadata) });
        }
        if rows.len() > MOST_RECORDED {
            return None;
        }
    }
    rows.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Some(rows)
}

fn modified_at(metadata: &Metadata) -> Micros {
    let since = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    Micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// What is not as it was before.
#[must_use]
pub(crate) fn changes(before: &[InputRow], now: &[InputRow]) -> Vec<ChangedInput> {
    let by_path =
        |rows: &[InputRow]| rows.iter().map(|row| (row.path.clone(), row.clone())).collect::<BTreeMap<_, _>>();
    let (before, now) = (by_path(before), by_path(now));
    let mut paths: Vec<&String> = before.keys().chain(now.keys()).collect();
    paths.sort_unstable();
    paths.dedup();
    let differing = paths.into_iter().filter(|path| before.get(*path) != now.get(*path));
    differing
        .map(|path| ChangedInput {
            path: path.clone(),
            before: before.get(path).map(|row| row.size),
            after: now.get(path).map(|row| row.size),
            modified_at: now.get(path).map(|row| row.modified_at),
        })
        .collect()
}

/// Makes the folder that a command works in, from an unpacked bundle with links to the project's inputs in their places;
/// none when there are no inputs, so that the bundle itself will do.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn working_folder(
    target: &Path,
    root: &Path,
    folder: &Path,
    settings: &Project,
    state: &Path,
) -> std::io::Result<Option<PathBuf>> {
    if target.is_dir() {
        // An attempt that is resumed finds its folder as it left it.
        return Ok(Some(target.to_owned()));
    }
    let inputs = matched(folder, settings, state);
    if inputs.is_empty() {
        return Ok(None);
    }
    // Whole when it has its name: from then on its names may be anybody's.
    let new = target.with_extension("new");
    let _ = fs::remove_dir_all(&new);
    // What a bundle has goes first, as everywhere.
    link_tree(root, &new)?;
    for input in inputs {
        let place = new.join(&input);
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)?;
        }
        there_already(std::os::unix::fs::symlink(folder.join(&input), place))?;
    }
    fs::rename(&new, target)?;
    Ok(Some(target.to_owned()))
}

/// A folder of the same files: what a command adds, removes or replaces there changes nothing in the bundle.
fn link_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            link_tree(&entry.path(), &place)?;
        } else {
            there_already(fs::hard_link(entry.path(), place))?;
        }
    }
    Ok(())
}

/// What a bundle has stays.
fn there_already(made: std::io::Result<()>) -> std::io::Result<()> {
    made.or_else(|error| if error.kind() == ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
}
