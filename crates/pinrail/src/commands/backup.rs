//! Backup of a state folder, and a state folder from a backup.

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use pinrail_service::backup::{Label, RestoreError, unpack};
use pinrail_service::system::new_installation;
use pinrail_store::{Adopted, adopt};
use serde_json::json;

use crate::client::Place;
use crate::failure::{FAILED, Failure, REFUSED};
use crate::output::Output;

pub fn backup(place: &Place, output: Output, file: &Path, with_key: bool) -> Result<ExitCode, Failure> {
    if file.symlink_metadata().is_ok() {
        return Err(Failure::new(REFUSED, format!("\"{}\" exists already", file.display()))
            .hint("A backup never replaces a file; name another one."));
    }
    let state = place.state()?;
    if place.url.is_none() && !state.join("state.db").exists() {
        return Err(Failure::new(REFUSED, format!("there is no state in \"{}\"", state.display()))
            .hint("Name the state folder with --state, or a server with --url."));
    }
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    let part = Temporary(PathBuf::from(name));
    let cannot = |e: std::io::Error| Failure::new(FAILED, format!("\"{}\" cannot be written: {e}", file.display()));
    // It holds everything that the project's people may see, and perhaps the secrets.
    let mut out =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&part.0).map_err(cannot)?;
    let bytes = place.connect()?.download(&format!("/backup?with_key={with_key}"), &mut out).map_err(|failure| {
        if failure.problem.is_some() { failure } else { failure.hint("Look into the server's log.") }
    })?;
    out.sync_all().map_err(cannot)?;
    fs::rename(&part.0, file).map_err(cannot)?;
    sync(file.parent()).map_err(cannot)?;
    output.say(&format!("{} · {} KiB · {}", file.display(), bytes >> 10, key_note(with_key)));
    output.document(&json!({"file": file, "bytes": bytes, "with_key": with_key}));
    Ok(ExitCode::SUCCESS)
}

fn key_note(with_key: bool) -> &'static str {
    if with_key { "with the key of the secrets" } else { "secrets are sealed and their key is not in it" }
}

pub fn restore(place: &Place, output: Output, file: &Path) -> Result<ExitCode, Failure> {
    let folder = absolute(&place.state()?)?;
    refuse_used(&folder)?;
    let archive =
        File::open(file).map_err(|e| Failure::new(REFUSED, format!("\"{}\" cannot be read: {e}", file.display())))?;
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut name = folder.as_os_str().to_owned();
    name.push(".restoring");
    let fresh = PathBuf::from(name);
    // All of it appears at once, by a rename; what a killed restore left cannot be taken for a state folder.
    fs::DirBuilder::new().mode(0o700).create(&fresh).map_err(|e| match e.kind() {
        ErrorKind::AlreadyExists => Failure::new(REFUSED, format!("\"{}\" exists", fresh.display()))
            .hint("An earlier restore was killed; remove that folder, if no other one is under way."),
        _ => e.into(),
    })?;
    let fresh = Temporary(fresh);
    let label = unpack(BufReader::new(archive), &fresh.0, &folder).map_err(|error| bad_archive(file, &error))?;
    let installation = new_installation();
    let adopted = adopt(&fresh.0, &installation).map_err(|e| Failure::new(FAILED, e.to_string()))?;
    sync(Some(&fresh.0))?;
    // It replaces an empty folder and nothing else.
    fs::rename(&fresh.0, &folder).map_err(|_| used(&folder))?;
    sync(folder.parent())?;
    tell(output, &folder, &label, &adopted);
    output.document(&json!({
        "state": folder, "installation": installation, "created_at": label.created_at, "secrets_to_set": to_set(&label, &adopted),
    }));
    Ok(ExitCode::SUCCESS)
}

/// The secrets that the restored folder cannot open.
fn to_set<'a>(label: &Label, adopted: &'a Adopted) -> &'a [String] {
    if label.with_key { &[] } else { &adopted.secrets }
}

fn tell(output: Output, folder: &Path, label: &Label, adopted: &Adopted) {
    output.say(&format!("{} is as it was at {}", folder.display(), label.created_at));
    if !to_set(label, adopted).is_empty() {
        output.say("  the backup is without the key of the secrets; set again, with `pinrail secret set`:");
        for name in &adopted.secrets {
            output.say(&format!("    {name}"));
        }
    }
    output.say("  a new admin token is made when it is first served; runs that were unfinished go on then");
}

fn bad_archive(file: &Path, error: &RestoreError) -> Failure {
    let cause = std::error::Error::source(error).map_or_else(String::new, |source| format!(": {source}"));
    let failure = Failure::new(REFUSED, format!("\"{}\" cannot be restored: {error}{cause}", file.display()));
    match error {
        RestoreError::Newer { .. } => failure.hint("Use that version."),
        RestoreError::Damaged => failure.hint("Copy it again from where it was made."),
        RestoreError::NotOurs | RestoreError::Path(_) => failure.hint("Make backups with `pinrail backup FILE`."),
        RestoreError::Io { .. } => failure.hint("Look at the disk."),
    }
}

/// The folder's path without what is relative, also when it does not exist yet.
fn absolute(folder: &Path) -> std::io::Result<PathBuf> {
    let folder = std::path::absolute(folder)?;
    match (folder.parent().map(Path::canonicalize), folder.file_name()) {
        (Some(Ok(parent)), Some(name)) => Ok(parent.join(name)),
        _ => Ok(folder),
    }
}

fn refuse_used(folder: &Path) -> Result<(), Failure> {
    match fs::read_dir(folder).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        _ => Err(used(folder)),
    }
}

fn used(folder: &Path) -> Failure {
    Failure::new(REFUSED, format!("\"{}\" is not an empty folder", folder.display()))
        .hint("Name another one with --state, or move it away.")
}

fn sync(folder: Option<&Path>) -> std::io::Result<()> {
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// A file or folder that goes unless it was renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // It may have been renamed, which is what is wanted.
        let _ = if self.0.is_dir() { fs::remove_dir_all(&self.0) } else { fs::remove_file(&self.0) };
    }
}
