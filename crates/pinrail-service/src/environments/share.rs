//! Files that environments have in common are on the disk once: each is a hard link to a file that is named by its digest.
//!
//! Invariant: a shared file is never written to again, so nothing that changes one environment changes another.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use pinrail_model::document::Digesting;

/// What is read of a file at once.
const PIECE: usize = 256 << 10;

/// The regular files below a folder, in no order.
pub(super) fn files_below(folder: &Path) -> io::Result<Vec<(PathBuf, fs::Metadata)>> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                open.push(entry.path());
            } else if metadata.is_file() {
                found.push((entry.path(), metadata));
            }
        }
    }
    Ok(found)
}

/// Makes every file below a folder a link to the one with the same bytes, which becomes the shared one if there is none.
pub(super) fn share(folder: &Path, shared: &Path) -> io::Result<()> {
    for (path, metadata) in files_below(folder)? {
        // Nothing is gained by sharing no bytes, and markers of packages are often empty.
        if metadata.len() > 0 {
            share_one(&path, metadata.mode() & 0o111 != 0, shared)?;
        }
    }
    Ok(())
}

fn share_one(path: &Path, executable: bool, shared: &Path) -> io::Result<()> {
    let digest = digest(path)?;
    // What may be executed is another file than what may not, whatever its bytes.
    let name = if executable { format!("{digest}-x") } else { digest.clone() };
    let common = shared.join(&digest[..2]).join(name);
    let beside = path.with_extension("pinrail-link");
    for _ in 0..TRIES {
        match fs::hard_link(&common, &beside) {
            Ok(()) => return fs::rename(&beside, path),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return stays_alone(error),
        }
        fs::create_dir_all(shared.join(&digest[..2]))?;
        fs::set_permissions(path, Permissions::from_mode(if executable { 0o555 } else { 0o444 }))?;
        match fs::hard_link(path, &common) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return stays_alone(error),
        }
    }
    Ok(())
}

/// A file has only so many links, and some file systems have none: then it stays a copy.
fn stays_alone(error: io::Error) -> io::Result<()> {
    use nix::libc::{EMLINK, EOPNOTSUPP, EPERM, EXDEV};
    let cannot = error.raw_os_error().is_some_and(|code| [EMLINK, EOPNOTSUPP, EPERM, EXDEV].contains(&code));
    if cannot { Ok(()) } else { Err(error) }
}

/// The shared file may come and go between two looks; it is not worth more than this.
const TRIES: u32 = 3;

fn digest(path: &Path) -> io::Result<String> {
    let (mut file, mut digesting, mut piece) = (File::open(path)?, Digesting::default(), vec![0; PIECE]);
    loop {
        let count = file.read(&mut piece)?;
        if count == 0 {
            return Ok(digesting.finish().to_string());
        }
        digesting.add(&piece[..count]);
    }
}

/// The shared files that no environment has any more. One that is linked while it is looked at only stops being shared.
pub(crate) fn unshared(shared: &Path) -> Vec<PathBuf> {
    let files = files_below(shared).unwrap_or_default();
    files.into_iter().filter(|(_, metadata)| metadata.nlink() == 1).map(|(path, _)| path).collect()
}

/// Bytes of an environment: all that it has, and those that it alone has.
pub(super) fn sizes(folder: &Path) -> (u64, u64) {
    let files = files_below(folder).unwrap_or_default();
    let all = files.iter().map(|(_, metadata)| metadata.len()).sum();
    // Its own name, and the name by the digest.
    let own = files.iter().filter(|(_, metadata)| metadata.nlink() <= 2).map(|(_, metadata)| metadata.len()).sum();
    (all, own)
}
