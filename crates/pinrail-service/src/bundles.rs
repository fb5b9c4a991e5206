//! Bundles: content-addressed snapshots of a project's files. Blobs are kept by digest; a bundle is the digest of its
//! sorted list of paths; a bundle is unpacked once into a folder that its attempts share.
//!
//! Invariants: a blob's file is complete and synced before its name exists; no path of a bundle leaves its folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use pinrail_model::document::{Digesting, Sha};
use pinrail_model::seam::store::BundleFile;
use pinrail_model::step;
use pinrail_model::time::Clock;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::inputs::in_place;
use crate::project::{Project, is_inside};

/// What a bundle consists of, by path.
pub type Manifest = BTreeMap<String, BundleFile>;

/// The most that all files of a bundle may hold together.
pub const LARGEST: u64 = 256 << 20;
/// What is read of a file at once.
const PIECE: usize = 64 << 10;
/// Bytes of a path, so that it fits below any state folder, and of a name in it, as file systems allow.
const LONGEST_PATH: usize = 1024;
const LONGEST_NAME: usize = 255;
/// Never part of a bundle, whatever ignore files say: made by tools, large, or not code.
pub(crate) const NEVER: &[&str] = &[".git", ".pinrail", "__pycache__", ".venv", ".pytest_cache", "node_modules"];

/// Why a bundle cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("\"{0}\" is a symbolic link; a bundle holds files only")]
    Link(String),
    #[error("the path \"{0}\" is not allowed in a bundle")]
    Path(String),
    #[error("the project's files hold {0} MiB; a bundle holds at most {max} MiB", max = LARGEST >> 20)]
    TooLarge(u64),
    #[error("the pattern \"{pattern}\" under [files] in pinrail.toml is not valid: {message}")]
    Pattern { pattern: String, message: String },
    #[error("\"{path}\" is said to have {said} bytes but has {found}")]
    Size { path: String, said: u64, found: u64 },
    #[error("blob {0} is missing")]
    Missing(Sha),
    #[error("\"{path}\" cannot be read or written: {reason}")]
    Io { path: String, reason: std::io::Error },
}

impl BundleError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Link(_) => "Name it in .pinrailignore, or put the file in its place.",
            Self::Path(_) => {
                "Paths are relative, in UTF-8, with forward slashes and without `..`; a name has at most 255 bytes."
            }
            Self::Size { .. } => "Send the sizes that the files have.",
            Self::TooLarge(_) => "Name large inputs under [files] in pinrail.toml; they are read in place.",
            Self::Pattern { .. } => "Write it as \"data/*.csv\"; ** spans folders.",
            Self::Missing(_) => "Deploy again.",
            Self::Io { .. } => "Check that the file exists and its permissions.",
        }
    }
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> BundleError + '_ {
    move |reason| BundleError::Io { path: path.display().to_string(), reason }
}

/// Lists and digests the files of a project's folder, without what is ignored, what `[files]` names (which is read in
/// place) and the state folder.
///
/// # Errors
/// Links, unreadable files, and more than [`LARGEST`] bytes.
pub fn scan(project: &Project, state: Option<&Path>) -> Result<Manifest, BundleError> {
    let folder = &project.folder;
    let in_place = in_place(project)?;
    let state = state.and_then(|state| state.canonicalize().ok());
    let walk = ignore::WalkBuilder::new(folder)
        .hidden(false)
        .require_git(false)
        .git_global(false)
        .git_exclude(false)
        .parents(false)
        .add_custom_ignore_filename(".pinrailignore")
        .filter_entry(move |entry| {
            let never = entry.file_name().to_str().is_some_and(|name| NEVER.contains(&name));
            let is_state = || entry.path().canonicalize().ok().is_some_and(|path| Some(path) == state);
            entry.depth() == 0 || !(never || (entry.file_type().is_some_and(|t| t.is_dir()) && is_state()))
        })
        .build();
    let mut manifest = Manifest::new();
    let mut total = 0;
    for entry in walk {
        let entry = entry.map_err(|e| unreadable(folder, e))?;
        let Some(kind) = entry.file_type() else { continue };
        let relative = entry.path().strip_prefix(folder).unwrap_or(entry.path());
        if in_place.is_match(relative) {
            continue;
        }
        let path = relative.to_str().ok_or_else(|| BundleError::Path(relative.to_string_lossy().into_owned()))?;
        let path = path.to_owned();
        if kind.is_symlink() {
            return Err(BundleError::Link(path));
        }
        if kind.is_file() {
            let file = digest(entry.path(), total)?;
            total += file.size;
            manifest.insert(path, file);
        }
    }
    Ok(manifest)
}

/// What a walk through a folder met, with the place where.
fn unreadable(folder: &Path, error: ignore::Error) -> BundleError {
    let path = match &error {
        ignore::Error::WithPath { path, .. } => path.clone(),
        ignore::Error::WithDepth { err, .. } => match err.as_ref() {
            ignore::Error::WithPath { path, .. } => path.clone(),
            _ => folder.to_owned(),
        },
        _ => folder.to_owned(),
    };
    let text = error.to_string();
    // Its text would name the path again.
    let reason = match error.into_io_error() {
        Some(error) => error.kind().into(),
        None => std::io::Error::other(text),
    };
    io(&path)(reason)
}

/// The digest of one file, given how many bytes the files before it hold. One that is too large, such as an input that
/// was forgotten, is not read at all.
fn digest(path: &Path, before: u64) -> Result<BundleFile, BundleError> {
    let mut file = File::open(path).map_err(io(path))?;
    let metadata = file.metadata().map_err(io(path))?;
    let mut size = metadata.len();
    let mut digesting = Digesting::default();
    let mut piece = vec![0; PIECE];
    let mut read = 0;
    loop {
        // It may grow while it is read.
        size = size.max(read);
        if before.saturating_add(size) > LARGEST {
            return Err(BundleError::TooLarge(before.saturating_add(size) >> 20));
        }
        let count = file.read(&mut piece).map_err(io(path))?;
        if count == 0 {
            break;
        }
        digesting.add(&piece[..count]);
        read += count as u64;
    }
    let executable = std::os::unix::fs::MetadataExt::mode(&metadata) & 0o100 != 0;
    Ok(BundleFile { sha: digesting.finish(), size: read, executable })
}

/// The digest of a bundle.
#[must_use]
pub fn sha(manifest: &Manifest) -> Sha {
    Sha::of(serde_json::to_string(manifest).unwrap_or_default().as_bytes())
}

/// Checks a manifest that came from outside.
///
/// # Errors
/// The first path that could leave its folder, or too many bytes.
pub fn check(manifest: &Manifest) -> Result<(), BundleError> {
    let unsafe_path = |path: &&String| {
        !is_inside(path)
            || path.ends_with('/')
            || path.len() > LONGEST_PATH
            || path.split('/').any(|part| part.is_empty() || part == "." || part == ".git" || part.len() > LONGEST_NAME)
    };
    if let Some(path) = manifest.keys().find(unsafe_path) {
        return Err(BundleError::Path(path.chars().take(200).collect()));
    }
    // A file where another path needs a folder.
    for path in manifest.keys() {
        let mut parents = Path::new(path).ancestors().skip(1).filter_map(Path::to_str);
        if let Some(parent) = parents.find(|parent| manifest.contains_key(*parent)) {
            return Err(BundleError::Path(parent.to_owned()));
        }
    }
    let total: u64 = manifest.values().map(|file| file.size).fold(0, u64::saturating_add);
    if total > LARGEST { Err(BundleError::TooLarge(total >> 20)) } else { Ok(()) }
}

type SyncFolder = Arc<dyn Fn(&Path) -> std::io::Result<()> + Send + Sync>;

/// Blobs and unpacked bundles below the state folder.
#[derive(Clone)]
pub struct Bundles {
    blobs: PathBuf,
    unpacked: PathBuf,
    clock: Arc<dyn Clock>,
    /// Makes the names in a folder durable.
    sync_folder: SyncFolder,
    /// Whether the folder of blobs and those in it are known to be durable; held while one is made.
    settled: Arc<Mutex<bool>>,
    /// Held for reading from the moment when a blob has its name until the name is durable.
    naming: Arc<std::sync::RwLock<()>>,
    /// Held for reading while files must stay, for writing while what nobody needs is deleted.
    keeping: Arc<RwLock<()>>,
}

impl Bundles {
    #[must_use]
    pub fn new(state: &Path, clock: Arc<dyn Clock>) -> Self {
        Self {
            blobs: state.join("blobs"),
            unpacked: state.join("bundles"),
            clock,
            sync_folder: Arc::new(|folder| File::open(folder)?.sync_all()),
            settled: Arc::default(),
            naming: Arc::default(),
            keeping: Arc::default(),
        }
    }

    /// As long as this is held, no file of the state folder that somebody may need is deleted.
    pub async fn hold(&self) -> OwnedRwLockReadGuard<()> {
        Arc::clone(&self.keeping).read_owned().await
    }

    /// Held while files are deleted; none while somebody needs them to stay. Never waited for, so that nobody who holds
    /// them has to wait in turn.
    pub(crate) fn sweep(&self) -> Option<OwnedRwLockWriteGuard<()>> {
        Arc::clone(&self.keeping).try_write_owned().ok()
    }

    /// Notes that a file or folder is in use: retention goes by that. What cannot be noted counts as unused, no more.
    fn touch(&self, path: &Path) -> std::io::Result<()> {
        let now = u64::try_from(self.clock.now().wall.0).unwrap_or(0);
        File::open(path)?.set_modified(UNIX_EPOCH + Duration::from_micros(now))
    }

    /// Where blobs lie, in folders by their first two letters.
    pub(crate) fn blobs(&self) -> &Path {
        &self.blobs
    }

    /// Where bundles lie unpacked, each in a folder named as its digest.
    pub(crate) fn unpacked(&self) -> &Path {
        &self.unpacked
    }

    fn blob(&self, sha: Sha) -> PathBuf {
        let text = sha.to_string();
        self.blobs.join(&text[..2]).join(text)
    }

    /// The digests of a manifest that are not here yet. Those that are here count as used.
    #[must_use]
    pub fn missing(&self, manifest: &Manifest) -> Vec<Sha> {
        let mut missing: Vec<Sha> = manifest.values().map(|file| file.sha).collect();
        missing.sort_unstable();
        missing.dedup();
        missing.retain(|sha| self.touch(&self.blob(*sha)).is_err());
        // What another request has just named is here only once its name is durable.
        drop(self.naming.write().unwrap_or_else(PoisonError::into_inner));
        missing
    }

    /// Whether the blobs are as large as a manifest from outside says: its sizes are what its limit is checked by.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check_sizes(&self, manifest: &Manifest) -> Result<(), BundleError> {
        for (path, file) in manifest {
            let blob = self.blob(file.sha);
            let found = fs::metadata(&blob).map_err(io(&blob))?.len();
            if found != file.size {
                return Err(BundleError::Size { path: path.clone(), said: file.size, found });
            }
        }
        Ok(())
    }

    /// Keeps a blob, durably; gives its digest.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, bytes: &[u8]) -> Result<Sha, BundleError> {
        let sha = Sha::of(bytes);
        let path = self.blob(sha);
        let folder = path.parent().unwrap_or(&self.blobs);
        if self.touch(&path).is_ok() {
            // Whoever named it may have died, or not come to this yet.
            self.make_way(folder).and_then(|()| (self.sync_folder)(folder)).map_err(io(folder))?;
            return Ok(sha);
        }
        self.make_way(folder).map_err(io(folder))?;
        let temporary = path.with_extension(format!("{:x}", u64::from_le_bytes(crate::system::random())));
        let written = File::create(&temporary).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()?;
            self.touch(&temporary)
        });
        if let Err(error) = written {
            // On a full disk the half of a file is in the way of everybody.
            let _ = fs::remove_file(&temporary);
            return Err(io(&path)(error));
        }
        step!("blob.before-rename");
        let _naming = self.naming.read().unwrap_or_else(PoisonError::into_inner);
        fs::rename(&temporary, &path).map_err(io(&path))?;
        (self.sync_folder)(folder).map_err(io(folder))?;
        Ok(sha)
    }

    /// Makes a folder of blobs, durably. What an earlier server made, which may have died before it was durable, is made
    /// so once.
    fn make_way(&self, folder: &Path) -> std::io::Result<()> {
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        if !*settled {
            make_folder(&self.blobs)?;
            (self.sync_folder)(self.blobs.parent().unwrap_or(&self.blobs))?;
        }
        if make_folder(folder)? || !*settled {
            (self.sync_folder)(&self.blobs)?;
        }
        *settled = true;
        Ok(())
    }

    /// The bytes of a blob.
    ///
    /// # Errors
    /// When it is not here or not readable.
    pub fn get(&self, sha: Sha) -> Result<Vec<u8>, BundleError> {
        let path = self.blob(sha);
        fs::read(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => BundleError::Missing(sha),
            _ => io(&path)(e),
        })
    }

    /// The folder in which a bundle lies unpacked, if it does. It counts as used.
    #[must_use]
    pub fn at_hand(&self, bundle: Sha) -> Option<PathBuf> {
        let folder = self.unpacked.join(bundle.to_string());
        self.touch(&folder).is_ok().then_some(folder)
    }

    /// The folder in which a bundle lies unpacked, made if it is not there.
    ///
    /// # Errors
    /// Missing blobs, or a full disk.
    pub fn unpack(&self, manifest: &Manifest) -> Result<PathBuf, BundleError> {
        check(manifest)?;
        let bundle = sha(manifest);
        if let Some(folder) = self.at_hand(bundle) {
            return Ok(folder);
        }
        let target = self.unpacked.join(bundle.to_string());
        let temporary = target.with_extension(format!("{:x}", u64::from_le_bytes(crate::system::random())));
        if let Err(error) = self.unpack_into(&temporary, manifest) {
            let _ = fs::remove_dir_all(&temporary);
            return Err(error);
        }
        self.touch(&temporary).map_err(io(&temporary))?;
        match fs::rename(&temporary, &target) {
            Ok(()) => Ok(target),
            // Somebody else unpacked the same bundle at the same time.
            Err(_) if target.is_dir() => {
                let _ = fs::remove_dir_all(&temporary);
                Ok(target)
            }
            Err(error) => Err(io(&target)(error)),
        }
    }

    fn unpack_into(&self, folder: &Path, manifest: &Manifest) -> Result<(), BundleError> {
        fs::create_dir_all(folder).map_err(io(folder))?;
        let mut folders = BTreeSet::from([folder.to_owned()]);
        for (path, file) in manifest {
            let path = folder.join(path);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(io(parent))?;
                let made = parent.ancestors().take_while(|ancestor| *ancestor != folder);
                folders.extend(made.map(Path::to_owned));
            }
            let bytes = self.get(file.sha)?;
            let mut out = File::create(&path).map_err(io(&path))?;
            out.write_all(&bytes).and_then(|()| out.sync_data()).map_err(io(&path))?;
            let mode = if file.executable { 0o755 } else { 0o644 };
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).map_err(io(&path))?;
        }
        for folder in &folders {
            // Whoever runs its jobs reads it, whatever the server's own files are like.
            fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).map_err(io(folder))?;
        }
        // Once it has its name nobody looks again whether all files are there.
        folders.iter().try_for_each(|folder| (self.sync_folder)(folder).map_err(io(folder)))
    }
}

/// Makes one folder if it is not there; gives whether it was made.
fn make_folder(folder: &Path) -> std::io::Result<bool> {
    match fs::create_dir(folder) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn file() -> BundleFile {
        BundleFile { sha: Sha::of(b"x"), size: 1, executable: false }
    }

    #[derive(Debug)]
    struct Noon;

    impl Clock for Noon {
        fn now(&self) -> pinrail_model::time::Now {
            pinrail_model::time::Now::default()
        }
    }

    /// The bundles of a folder as a server that has just started sees them, and the folders that it makes durable.
    fn recorded(state: &Path) -> (Bundles, Arc<Mutex<Vec<String>>>) {
        let synced: Arc<Mutex<Vec<String>>> = Arc::default();
        let (list, root) = (Arc::clone(&synced), state.to_owned());
        let sync_folder: SyncFolder = Arc::new(move |folder: &Path| {
            list.lock().unwrap().push(folder.strip_prefix(&root).unwrap().display().to_string());
            Ok(())
        });
        (Bundles { sync_folder, ..Bundles::new(state, Arc::new(Noon)) }, synced)
    }

    #[test]
    fn the_name_of_a_blob_and_the_folders_above_it_are_durable_before_it_is_told() {
        let state = tempfile::tempdir().unwrap();
        let folder = format!("blobs/{}", &Sha::of(b"x").to_string()[..2]);
        let (bundles, synced) = recorded(state.path());
        bundles.put(b"x").unwrap();
        assert_eq!(*synced.lock().unwrap(), ["", "blobs", &folder]);
        let other = format!("blobs/{}", &Sha::of(b"y").to_string()[..2]);
        bundles.put(b"y").unwrap();
        assert_eq!(synced.lock().unwrap()[3..], ["blobs", &other]);
        // The next server cannot know how far the one before it came.
        let (bundles, synced) = recorded(state.path());
        bundles.put(b"x").unwrap();
        assert_eq!(*synced.lock().unwrap(), ["", "blobs", &folder]);
    }

    #[test]
    fn an_unpacked_bundle_is_durable_before_it_has_its_name() {
        let state = tempfile::tempdir().unwrap();
        let (bundles, synced) = recorded(state.path());
        bundles.put(b"x").unwrap();
        synced.lock().unwrap().clear();
        let manifest = Manifest::from([("a/b/c".to_owned(), file()), ("d".to_owned(), file())]);
        let root = bundles.unpack(&manifest).unwrap();
        assert!(root.join("a/b/c").is_file());
        let made: Vec<String> =
            synced.lock().unwrap().iter().map(|f| f.rsplit('/').next().unwrap().to_owned()).collect();
        assert!(made[0].starts_with(&sha(&manifest).to_string()) && made[1..] == ["a", "b"], "{made:?}");
    }

    #[test]
    fn a_file_that_is_too_large_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("pinrail.toml"), "[project]\nname = \"p\"\n").unwrap();
        let project = Project::read(folder.path()).unwrap();
        let scanned = scan(&project, None).unwrap();
        assert_eq!(
            scanned["pinrail.toml"],
            BundleFile { sha: Sha::of(b"[project]\nname = \"p\"\n"), size: 21, executable: false }
        );
        // More than any machine could hold, and a hole: nothing of it is on the disk.
        File::create(folder.path().join("forgotten.csv")).unwrap().set_len(8 << 40).unwrap();
        let error = scan(&project, None).unwrap_err();
        assert!(matches!(error, BundleError::TooLarge(mebibytes) if mebibytes == 8 << 20), "{error}");
    }

    #[test]
    fn paths_that_leave_the_folder_are_refused() {
        for path in ["/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/", "", "a\0b", ".git/config", "a\\b"] {
            assert!(check(&Manifest::from([(path.to_owned(), file())])).is_err(), "{path:?}");
        }
        assert!(check(&Manifest::from([("a".to_owned(), file()), ("a/b".to_owned(), file())])).is_err());
        assert!(check(&Manifest::from([("a/b..c".to_owned(), file())])).is_ok());
        assert!(check(&Manifest::from([("x".repeat(256), file())])).is_err());
        assert!(check(&Manifest::from([("x/".repeat(600) + "y", file())])).is_err());
        assert!(check(&Manifest::from([("a".to_owned(), BundleFile { size: u64::MAX, ..file() })])).is_err());
    }
}
