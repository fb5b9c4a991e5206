//! Backups: one tar archive of everything that a state folder cannot make again, taken while its server works.
//!
//! The database is copied first, as of one moment. What it names was synced before and is deleted by nobody while the
//! backup goes on, so the files that are read afterwards hold at least that. Left out is what belongs to this
//! installation or comes back by itself: the admin's token, the lock, scratch folders, unpacked and compiled bundles.
//!
//! Invariant: an archive without its last entry, or with other bytes than were written, is not unpacked to the end.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use pinrail_model::time::Micros;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tar::{Archive, Builder, EntryType, Header};
use tokio::sync::mpsc;

use crate::app::{App, admin_only, everywhere_only};
use crate::problem::Problem;
use crate::system::random;
use crate::tokens::Principal;
use crate::vault::KEY_FILE;

/// The first entry: what the archive is.
const LABEL: &str = "pinrail-backup.json";
/// The last entry: that it is whole.
const SEAL: &str = "pinrail-backup.end";
/// The layout of archives that this version writes and the highest it reads.
const FORMAT: u32 = 1;
const DATABASE: &str = "state.db";
/// Folders of files that never change, or only grow.
const FOLDERS: &[&str] = &["blobs", "logs", "warehouse"];
/// Where tables lie, and in it the list of places where they lay before.
const WAREHOUSE: &str = "warehouse";
const FORMER_ROOTS: &str = "former-roots";

/// Bytes that are handed on at once, and how many such pieces wait for a slow reader.
const PIECE: usize = 256 << 10;
const PIECES: usize = 4;
/// A label longer than this is not one of ours.
const LONGEST_LABEL: u64 = 64 << 10;

/// What an archive says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    pub format: u32,
    /// The version of pinrail that wrote it.
    pub pinrail: String,
    pub created_at: Micros,
    pub installation: String,
    /// Where its tables lay; their metadata names files by this path.
    pub warehouse: String,
    pub with_key: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seal {
    files: u64,
    sha256: String,
}

/// Why an archive cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("it is not a backup of pinrail")]
    NotOurs,
    #[error("it was written by a newer version of pinrail (format {found}, this one reads {FORMAT})")]
    Newer { found: u32 },
    #[error("the path \"{0}\" is not allowed in a backup")]
    Path(String),
    #[error("it is cut off or was changed after it was written")]
    Damaged,
    #[error("\"{path}\" cannot be written")]
    Io { path: String, source: io::Error },
}

impl App {
    /// Begins a backup; its bytes come through the channel, which ends with an error when the backup cannot be
    /// finished.
    ///
    /// # Errors
    /// For everybody but the admin of all projects, and when the database cannot be copied.
    pub async fn backup(
        &self,
        principal: &Principal,
        with_key: bool,
    ) -> Result<mpsc::Receiver<io::Result<Bytes>>, Problem> {
        admin_only(principal)?;
        if principal.project.is_some() {
            return Err(everywhere_only());
        }
        let held = self.bundles.hold().await;
        let scratch = Scratch::new(&self.state).map_err(state_failed)?;
        self.store.copy(scratch.0.join(DATABASE)).await?;
        let label = Label {
            format: FORMAT,
            pinrail: env!("CARGO_PKG_VERSION").to_owned(),
            created_at: self.now(),
            installation: self.attempts.parts.installation.clone(),
            warehouse: self.state.join(WAREHOUSE).display().to_string(),
            with_key,
        };
        let (pieces, receiver) = mpsc::channel(PIECES);
        let state = self.state.clone();
        tokio::task::spawn_blocking(move || {
            let mut out = Pieces { to: pieces, gathered: Vec::with_capacity(PIECE) };
            let written = write(&state, &scratch.0.join(DATABASE), &label, &mut out).and_then(|()| out.flush());
            drop(held);
            if let Err(error) = written {
                tracing::error!(%error, "a backup cannot be finished");
                // A reader that has gone wants no reason.
                let _ = out.to.blocking_send(Err(error));
            }
        });
        Ok(receiver)
    }
}

fn state_failed(error: io::Error) -> Problem {
    Problem::new("state-failed", error.to_string()).hint("Look at the disk.")
}

/// A folder for the copy of the database, removed when the backup is over.
struct Scratch(PathBuf);

impl Scratch {
    fn new(state: &Path) -> io::Result<Self> {
        let folder = state.join("scratch").join(format!("backup-{:x}", u64::from_le_bytes(random())));
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left, retention removes.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Gathers small writes and hands them to an async reader.
struct Pieces {
    to: mpsc::Sender<io::Result<Bytes>>,
    gathered: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.gathered, Vec::with_capacity(PIECE));
        self.to.blocking_send(Ok(piece.into())).map_err(|_| ErrorKind::BrokenPipe.into())
    }
}

/// Writes a whole archive.
fn write(state: &Path, database: &Path, label: &Label, to: &mut dyn Write) -> io::Result<()> {
    let mut pack = Pack { builder: Builder::new(to), digest: Sha256::new(), files: 0 };
    let text = serde_json::to_vec(label)?;
    pack.add(LABEL, label.created_at.0 / 1_000_000, text.len() as u64, &mut text.as_slice())?;
    pack.file(DATABASE, database)?;
    if label.with_key {
        // There may be none: then nothing was ever sealed.
        pack.file(KEY_FILE, &state.join(KEY_FILE))?;
    }
    for folder in FOLDERS {
        pack.folder(folder, &state.join(folder))?;
    }
    pack.seal(label.created_at.0 / 1_000_000)
}

struct Pack<'a> {
    builder: Builder<&'a mut dyn Write>,
    digest: Sha256,
    files: u64,
}

impl Pack<'_> {
    fn folder(&mut self, name: &str, folder: &Path) -> io::Result<()> {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let mut names = entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
        names.sort_unstable();
        for file in names {
            let path = folder.join(&file);
            let name = format!("{name}/{}", file.to_string_lossy());
            match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_dir() => self.folder(&name, &path)?,
                Ok(metadata) if metadata.is_file() => self.file(&name, &path)?,
                // Made under another name and renamed meanwhile, or the oldest part of a flood of log.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
        Ok(())
    }

    /// Adds a file as long as it is now; one that is gone was not needed by what the database names.
    fn file(&mut self, name: &str, path: &Path) -> io::Result<()> {
        let mut file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let metadata = file.metadata()?;
        self.add(name, metadata.mtime(), metadata.len(), &mut file)
    }

    fn add(&mut self, name: &str, modified: i64, size: u64, from: &mut dyn Read) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(modified).unwrap_or(0));
        header.set_size(size);
        begin(&mut self.digest, name, size);
        let mut counted = Digested { from: from.take(size), digest: &mut self.digest, bytes: 0 };
        self.builder.append_data(&mut header, name, &mut counted)?;
        if counted.bytes != size {
            return Err(io::Error::other(format!("\"{name}\" became shorter while it was read")));
        }
        self.files += 1;
        Ok(())
    }

    fn seal(mut self, modified: i64) -> io::Result<()> {
        let seal = Seal { files: self.files, sha256: hex::encode(self.digest.clone().finalize()) };
        let text = serde_json::to_vec(&seal)?;
        self.add(SEAL, modified, text.len() as u64, &mut text.as_slice())?;
        self.builder.finish()
    }
}

/// What the digest of an archive takes in before the bytes of a file.
fn begin(digest: &mut Sha256, name: &str, size: u64) {
    digest.update((name.len() as u64).to_le_bytes());
    digest.update(name);
    digest.update(size.to_le_bytes());
}

/// Reads, and takes what it reads into a digest.
struct Digested<'a, R> {
    from: R,
    digest: &'a mut Sha256,
    bytes: u64,
}

impl<R: Read> Read for Digested<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.digest.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

/// Unpacks an archive into a new folder, durably; gives what it says of itself. `root` is where the folder will be in the
/// end, so that tables are found there. What was unpacked of an archive that turns out to be bad is for the caller to
/// remove.
///
/// # Errors
/// [`RestoreError`], the first that is found.
pub fn unpack(from: impl Read, folder: &Path, root: &Path) -> Result<Label, RestoreError> {
    let mut unpack = Unpack { folder, digest: Sha256::new(), files: 0, folders: BTreeSet::from([folder.to_owned()]) };
    let mut archive = Archive::new(from);
    let mut label = None;
    for entry in archive.entries().map_err(|_| RestoreError::NotOurs)? {
        // Bytes that are no tar archive fail here, at the latest; after the label they are damage.
        let bad = || if label.is_none() { RestoreError::NotOurs } else { RestoreError::Damaged };
        let mut entry = entry.map_err(|_| bad())?;
        let path = entry.path().map_err(|_| bad())?.into_owned();
        let name = path.to_str().ok_or_else(bad)?.to_owned();
        if entry.header().entry_type() != EntryType::Regular {
            return Err(if label.is_none() { RestoreError::NotOurs } else { RestoreError::Path(name) });
        }
        let size = entry.size();
        match &label {
            None if name == LABEL => label = Some(unpack.label(&mut entry, size)?),
            None => return Err(RestoreError::NotOurs),
            Some(label) if name == SEAL => {
                unpack.check(&mut entry)?;
                unpack.remember_root(label, root)?;
                unpack.settle()?;
                return Ok(label.clone());
            }
            Some(_) => unpack.file(&name, &mut entry, size)?,
        }
    }
    Err(if label.is_none() { RestoreError::NotOurs } else { RestoreError::Damaged })
}

struct Unpack<'a> {
    folder: &'a Path,
    digest: Sha256,
    files: u64,
    /// Folders that got a new name.
    folders: BTreeSet<PathBuf>,
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> RestoreError + '_ {
    move |source| RestoreError::Io { path: path.display().to_string(), source }
}

impl Unpack<'_> {
    fn label(&mut self, entry: &mut impl Read, size: u64) -> Result<Label, RestoreError> {
        let mut text = Vec::new();
        begin(&mut self.digest, LABEL, size);
        let mut digested = Digested { from: entry, digest: &mut self.digest, bytes: 0 };
        (&mut digested).take(LONGEST_LABEL).read_to_end(&mut text).map_err(|_| RestoreError::NotOurs)?;
        self.files += 1;
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } = serde_json::from_slice(&text).map_err(|_| RestoreError::NotOurs)?;
        if format > FORMAT {
            return Err(RestoreError::Newer { found: format });
        }
        serde_json::from_slice(&text).map_err(|_| RestoreError::NotOurs)
    }

    fn file(&mut self, name: &str, entry: &mut impl Read, size: u64) -> Result<(), RestoreError> {
        let path = self.folder.join(allowed(name)?);
        let parent = path.parent().unwrap_or(self.folder);
        fs::create_dir_all(parent).map_err(failed(parent))?;
        let above = parent.ancestors().take_while(|above| above.starts_with(self.folder));
        self.folders.extend(above.map(Path::to_owned));
        let mut out = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path).map_err(failed(&path))?;
        begin(&mut self.digest, name, size);
        let mut digested = Digested { from: entry, digest: &mut self.digest, bytes: 0 };
        let mut buffer = vec![0; PIECE];
        loop {
            let read = digested.read(&mut buffer).map_err(|_| RestoreError::Damaged)?;
            if read == 0 {
                break;
            }
            out.write_all(&buffer[..read]).map_err(failed(&path))?;
        }
        if digested.bytes != size {
            return Err(RestoreError::Damaged);
        }
        out.sync_all().map_err(failed(&path))?;
        self.files += 1;
        Ok(())
    }

    fn check(&self, entry: &mut impl Read) -> Result<(), RestoreError> {
        let mut text = Vec::new();
        entry.take(LONGEST_LABEL).read_to_end(&mut text).map_err(|_| RestoreError::Damaged)?;
        let found: Seal = serde_json::from_slice(&text).map_err(|_| RestoreError::Damaged)?;
        let wanted = Seal { files: self.files, sha256: hex::encode(self.digest.clone().finalize()) };
        if found == wanted { Ok(()) } else { Err(RestoreError::Damaged) }
    }

    /// Tables name their files by the path at which they were written; so the warehouse keeps a list of the paths at which
    /// it was before.
    fn remember_root(&self, label: &Label, root: &Path) -> Result<(), RestoreError> {
        let folder = self.folder.join(WAREHOUSE);
        let list = folder.join(FORMER_ROOTS);
        if !folder.is_dir() || root.join(WAREHOUSE) == Path::new(&label.warehouse) {
            return Ok(());
        }
        let before = fs::read_to_string(&list).unwrap_or_default();
        if before.lines().any(|line| line == label.warehouse) {
            return Ok(());
        }
        let mut file = File::create(&list).map_err(failed(&list))?;
        file.write_all(format!("{before}{}\n", label.warehouse).as_bytes()).map_err(failed(&list))?;
        file.sync_all().map_err(failed(&list))
    }

    /// Makes the names durable, the deepest first.
    fn settle(&self) -> Result<(), RestoreError> {
        for folder in self.folders.iter().rev() {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder))?;
        }
        Ok(())
    }
}

/// A path of an archive that stays in its folder and is one that backups have.
fn allowed(name: &str) -> Result<&Path, RestoreError> {
    let path = Path::new(name);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    let first = name.split('/').next().unwrap_or_default();
    let known = name == DATABASE || name == KEY_FILE || (FOLDERS.contains(&first) && name.len() > first.len() + 1);
    if plain && known && !name.contains('\0') { Ok(path) } else { Err(RestoreError::Path(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label() -> Label {
        Label {
            format: FORMAT,
            pinrail: "0.1.0".to_owned(),
            created_at: Micros(5_000_000),
            installation: "a".repeat(10),
            warehouse: "/before/warehouse".to_owned(),
            with_key: true,
        }
    }

    /// A state folder with a file of each kind, and an archive of it.
    fn archive() -> Vec<u8> {
        let folder = tempfile::tempdir().expect("a folder");
        for (path, text) in [
            ("state.db", "database"),
            ("secrets.key", "key"),
            ("admin.token", "not this"),
            ("lock", ""),
            ("server.json", "nor this"),
            ("blobs/ab/abcd", "blob"),
            ("logs/att_1.log", ""),
            (
                "warehouse/p/a_name_that_is_longer_than_the_hundred_bytes_of_the_oldest_tar_format/tbl/metadata/00001-aaaaaaaaaaaa.json",
                "{}",
            ),
            ("scratch/att_1/x", "scratch"),
        ] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        }
        let mut bytes = Vec::new();
        write(folder.path(), &folder.path().join("state.db"), &label(), &mut bytes).expect("packed");
        bytes
    }

    fn unpacked(bytes: &[u8]) -> (tempfile::TempDir, Result<Label, RestoreError>) {
        let folder = tempfile::tempdir().expect("a folder");
        let found = unpack(bytes, folder.path(), Path::new("/now"));
        (folder, found)
    }

    #[test]
    fn what_was_packed_is_unpacked_and_nothing_else() {
        let (folder, found) = unpacked(&archive());
        assert_eq!(found.expect("unpacked"), label());
        let read = |path: &str| fs::read_to_string(folder.path().join(path)).expect("a file");
        assert_eq!(
            (read("state.db"), read("secrets.key"), read("blobs/ab/abcd")),
            ("database".into(), "key".into(), "blob".into())
        );
        assert_eq!(read("warehouse/former-roots"), "/before/warehouse\n");
        assert!(folder.path().join("logs/att_1.log").is_file());
        let mut names: Vec<_> =
            fs::read_dir(folder.path()).expect("a folder").map(|e| e.expect("an entry").file_name()).collect();
        names.sort();
        assert_eq!(names, ["blobs", "logs", "secrets.key", "state.db", "warehouse"]);
    }

    #[test]
    fn an_archive_that_is_cut_off_or_changed_is_refused() {
        let whole = archive();
        assert!(matches!(unpacked(b"").1, Err(RestoreError::NotOurs)));
        assert!(matches!(unpacked(&[7; 5000]).1, Err(RestoreError::NotOurs)));
        // The last kilobyte is tar's own end, which says nothing.
        for cut in (1024..whole.len() - 1024).step_by(512) {
            let found = unpacked(&whole[..cut]).1;
            assert!(matches!(found, Err(RestoreError::Damaged | RestoreError::NotOurs)), "{cut}: {found:?}");
        }
        let at = whole.windows(8).position(|part| part == b"database").expect("there");
        let mut changed = whole.clone();
        changed[at] ^= 1;
        assert!(matches!(unpacked(&changed).1, Err(RestoreError::Damaged)));
    }

    /// An archive with one file more, sealed as if it were right.
    fn with(name: &str, kind: EntryType) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut to: &mut dyn Write = &mut bytes;
        let mut pack = Pack { builder: Builder::new(&mut to), digest: Sha256::new(), files: 0 };
        let text = serde_json::to_vec(&label()).expect("a text");
        pack.add(LABEL, 0, text.len() as u64, &mut text.as_slice()).expect("packed");
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        // Past the checks of the library, as somebody else would write it.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        if kind == EntryType::Symlink {
            header.set_link_name("/etc/passwd").expect("a target");
        }
        header.set_cksum();
        pack.builder.append(&header, &[][..]).expect("packed");
        pack.seal(0).expect("sealed");
        bytes
    }

    #[test]
    fn an_archive_writes_nowhere_but_into_its_folder() {
        for name in ["../state.db", "/tmp/x", "blobs/../../x", "blobs", "admin.token", "blobs/", "./state.db"] {
            let found = unpacked(&with(name, EntryType::Regular)).1;
            assert!(matches!(found, Err(RestoreError::Path(_))), "{name}: {found:?}");
        }
        for kind in [EntryType::Symlink, EntryType::Link, EntryType::Directory, EntryType::Char] {
            assert!(matches!(unpacked(&with("blobs/x", kind)).1, Err(RestoreError::Path(_))), "{kind:?}");
        }
    }

    #[test]
    fn a_later_format_is_named() {
        let mut bytes = Vec::new();
        let later = Label { format: 9, ..label() };
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), &folder.path().join("none"), &later, &mut bytes).expect("packed");
        assert!(matches!(unpacked(&bytes).1, Err(RestoreError::Newer { found: 9 })));
    }
}
