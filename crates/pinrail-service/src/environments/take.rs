//! An environment that a user has built becomes the server's, so that nobody changes it any more.
//!
//! Processes of the user may still be at it. Invariant: a folder is looked into only when it is the server's already, as
//! all above it are; what lies in it is then nobody's to rename or to replace, and a path leads where it seems to.

use std::fs::{self, Permissions};
use std::io::{Error, Result};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

/// Takes a folder that lies in one of the server's, and all that is in it, from a user. All may read it then.
///
/// # Errors
/// When it has anything that is not the user's, or neither a folder, a file nor a link.
pub(super) fn take(folder: &Path, user: u32) -> Result<()> {
    let own = nix::unistd::geteuid().as_raw();
    let mut open = vec![folder.to_owned()];
    while let Some(path) = open.pop() {
        let metadata = fs::symlink_metadata(&path)?;
        let kind = metadata.file_type();
        if kind.is_symlink() {
            continue;
        }
        // Such as a second name of a file that the user could not even read.
        if metadata.uid() != user || !(kind.is_dir() || kind.is_file()) {
            return Err(Error::other(format!("\"{}\" is nothing that a build makes", path.display())));
        }
        lchown(&path, Some(own), None)?;
        let executable = kind.is_dir() || metadata.mode() & 0o111 != 0;
        fs::set_permissions(&path, Permissions::from_mode(if executable { 0o755 } else { 0o644 }))?;
        if kind.is_dir() {
            for entry in fs::read_dir(&path)? {
                open.push(entry?.path());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_can_be_read_by_all_and_nothing_else_is_touched() {
        let place = tempfile::tempdir().unwrap();
        let (folder, beside) = (place.path().join("folder"), place.path().join("beside"));
        fs::create_dir_all(folder.join("bin")).unwrap();
        fs::write(folder.join("bin/program"), "").unwrap();
        fs::write(folder.join("module"), "").unwrap();
        fs::write(&beside, "").unwrap();
        let mode = |path: &Path, mode: u32| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        mode(&folder.join("bin/program"), 0o4700);
        mode(&folder.join("module"), 0o600);
        mode(&beside, 0o600);
        std::os::unix::fs::symlink(&beside, folder.join("link")).unwrap();
        let own = fs::metadata(&folder).unwrap().uid();
        take(&folder, own).unwrap();
        let is = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        let now = [folder.clone(), folder.join("bin"), folder.join("bin/program"), folder.join("module"), beside];
        assert_eq!(now.map(|path| is(&path)), [0o755, 0o755, 0o755, 0o644, 0o600]);
        assert!(take(&folder, own + 1).is_err());
        nix::unistd::mkfifo(&folder.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(take(&folder, own).is_err());
    }
}
