//! The synced local store: everything that table metadata will name is written through here.
//!
//! A [`Batch`] belongs to one commit. It syncs each file when it is closed and remembers the folders that changed;
//! [`Batch::settle`] syncs each of them once. Reading goes straight to the disk and may not leave the warehouse.
//!
//! Not responsible for pointers: whoever swaps one settles the batch first.
//!
//! Invariants:
//! - after `settle`, every file that the batch closed, and every folder on the way to it, survives a power cut;
//! - no path outside of the warehouse's root is read or written, whatever the metadata says.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use iceberg::io::{
    FileIO, FileIOBuilder, FileMetadata, FileRead, FileWrite, InputFile, OutputFile, Storage, StorageConfig,
    StorageFactory,
};
use iceberg::{Error, ErrorKind};
use pinrail_model::step;
use serde::{Deserialize, Serialize};

use crate::error;

/// The file layer below the store: what has to be durable goes through these calls, so that a test can lose what was
/// not synced.
pub trait Files: Debug + Send + Sync {
    /// Makes a new file; it is an error if it exists.
    fn create(&self, path: &Path) -> io::Result<Box<dyn FileSink>>;
    /// Makes one folder; that it exists already is no error.
    fn make_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
}

/// A file being written.
pub trait FileSink: Send {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes the bytes durable, not yet the name.
    fn sync(&mut self) -> io::Result<()>;
}

/// The disk.
#[derive(Debug, Default, Clone, Copy)]
pub struct LocalFiles;

impl Files for LocalFiles {
    fn create(&self, path: &Path) -> io::Result<Box<dyn FileSink>> {
        Ok(Box::new(LocalSink(std::fs::File::create_new(path)?)))
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        match std::fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::File::open(path)?.sync_all()
    }
}

struct LocalSink(std::fs::File);

impl FileSink for LocalSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::Write::write_all(&mut self.0, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// The file in the warehouse that tells where it was before.
const FORMER_ROOTS: &str = "former-roots";

/// The warehouse folder and the file layer under it.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    root: Arc<PathBuf>,
    /// Where the warehouse was when files that are now in it were written: metadata still names them so.
    former: Arc<Vec<PathBuf>>,
    files: Arc<dyn Files>,
    /// Folders whose names are known to be durable, so that a commit into an old table syncs only what it changed.
    settled: Arc<Mutex<HashSet<PathBuf>>>,
    /// The commits that are being made.
    live: Arc<Mutex<Vec<Weak<Batch>>>>,
}

impl Store {
    /// Opens the warehouse, making its folder if need be. The root is made canonical, so that locations compare.
    pub(crate) fn open(root: &Path, files: Arc<dyn Files>) -> io::Result<Self> {
        std::fs::create_dir_all(root)?;
        let root = root.canonicalize()?;
        if let Some(parent) = root.parent() {
            files.sync_dir(parent)?;
        }
        let settled = Arc::new(Mutex::new(HashSet::from([root.clone()])));
        let former = Arc::new(former_roots(&root)?);
        Ok(Self { root: Arc::new(root), former, files, settled, live: Arc::default() })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The location of a path below the root, as metadata names it.
    pub(crate) fn location(&self, relative: &str) -> String {
        format!("file://{}/{relative}", self.root.display())
    }

    /// The path of a location below the root, relative to it.
    pub(crate) fn relative(&self, location: &str) -> iceberg::Result<String> {
        let path = locate(&self.root, &self.former, location)?;
        let relative = path.strip_prefix(self.root.as_path()).map_err(|_| outside(location))?;
        relative.to_str().map(str::to_owned).ok_or_else(|| outside(location))
    }

    /// For reading only.
    pub(crate) fn reader(&self) -> FileIO {
        self.io(None)
    }

    /// For the files of one commit.
    pub(crate) fn begin(&self) -> Arc<Batch> {
        let batch = Arc::new(Batch {
            store: self.clone(),
            dirty: Mutex::default(),
            fresh: Mutex::default(),
            created: Mutex::default(),
        });
        let mut live = lock(&self.live);
        live.retain(|other| other.strong_count() > 0);
        live.push(Arc::downgrade(&batch));
        batch
    }

    /// The files of all commits that are being made: nothing may name them yet.
    pub(crate) fn being_written(&self) -> HashSet<PathBuf> {
        let live: Vec<_> = lock(&self.live).iter().filter_map(Weak::upgrade).collect();
        live.iter().flat_map(|batch| lock(&batch.created).clone()).collect()
    }

    fn io(&self, batch: Option<Arc<Batch>>) -> FileIO {
        let storage =
            LakeStorage { inner: Some(Inner { root: self.root.clone(), former: self.former.clone(), batch }) };
        FileIOBuilder::new(Arc::new(LakeStorageFactory { storage })).build()
    }
}

/// The files of one commit.
#[derive(Debug)]
pub(crate) struct Batch {
    store: Store,
    /// Folders that got a new name since they were last synced.
    dirty: Mutex<BTreeSet<PathBuf>>,
    /// Folders that count as settled once `dirty` has been synced.
    fresh: Mutex<HashSet<PathBuf>>,
    created: Mutex<Vec<PathBuf>>,
}

impl Batch {
    pub(crate) fn io(self: &Arc<Self>) -> FileIO {
        self.store.io(Some(self.clone()))
    }

    /// Syncs every folder that changed since the last call, each once.
    pub(crate) async fn settle(self: &Arc<Self>) -> error::Result<()> {
        let batch = self.clone();
        blocking(move || batch.settle_now())
            .await
            .map_err(|e| error::from_io("a folder of the warehouse could not be synced", &e))
    }

    fn settle_now(&self) -> io::Result<()> {
        step!("lake.before-settle");
        let dirty = std::mem::take(&mut *lock(&self.dirty));
        let fresh = std::mem::take(&mut *lock(&self.fresh));
        // Deepest first: a name is durable only if every folder above it is, and the last sync finishes the chain.
        for folder in dirty.iter().rev() {
            self.store.files.sync_dir(folder)?;
        }
        lock(&self.store.settled).extend(fresh);
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn FileSink>> {
        let folder = path.parent().unwrap_or(&self.store.root);
        self.make_way(folder)?;
        step!("lake.before-create");
        lock(&self.created).push(path.to_owned());
        let sink = self.store.files.create(path)?;
        lock(&self.dirty).insert(folder.to_owned());
        Ok(sink)
    }

    /// Makes the folders down to `folder`. One that another commit has just made counts as dirty here too: that commit
    /// may not have synced it yet when this one publishes.
    fn make_way(&self, folder: &Path) -> io::Result<()> {
        let settled = lock(&self.store.settled).contains(folder) && folder.is_dir();
        if settled || folder == self.store.root.as_path() {
            return Ok(());
        }
        let parent = folder.parent().unwrap_or(&self.store.root);
        self.make_way(parent)?;
        self.store.files.make_dir(folder)?;
        lock(&self.dirty).insert(parent.to_owned());
        lock(&self.fresh).insert(folder.to_owned());
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs file work where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn outside(location: &str) -> Error {
    Error::new(ErrorKind::DataInvalid, format!("location \"{location}\" is outside of the warehouse"))
}

fn failed(path: &str, source: io::Error) -> Error {
    Error::new(ErrorKind::Unexpected, format!("file \"{path}\" failed: {source}")).with_source(source)
}

/// The path of a location; an error if it is not plainly below the root, or below one that the warehouse had before. What
/// lies at a former place now, if anything, is never touched: the path that is given is below the root in any case.
fn locate(root: &Path, former: &[PathBuf], location: &str) -> iceberg::Result<PathBuf> {
    let text = location.strip_prefix("file://").or_else(|| location.strip_prefix("file:")).unwrap_or(location);
    let path = Path::new(text);
    let plain = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    if plain && path.starts_with(root) {
        return Ok(path.to_owned());
    }
    let moved = former.iter().filter(|_| plain).find_map(|former| path.strip_prefix(former).ok());
    moved.map(|rest| root.join(rest)).ok_or_else(|| outside(location))
}

/// The places where the warehouse was before, one absolute path a line, in a file that restoring a backup writes.
fn former_roots(root: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_to_string(root.join(FORMER_ROOTS)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => Ok(other?.lines().map(PathBuf::from).filter(|former| former.is_absolute()).collect()),
    }
}

/// iceberg's view of the store. It has to be serialisable by iceberg's contract; a deserialised one opens nothing.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct LakeStorage {
    #[serde(skip)]
    inner: Option<Inner>,
}

#[derive(Debug, Clone)]
struct Inner {
    root: Arc<PathBuf>,
    former: Arc<Vec<PathBuf>>,
    batch: Option<Arc<Batch>>,
}

impl LakeStorage {
    fn path(&self, location: &str) -> iceberg::Result<PathBuf> {
        let inner = self.inner.as_ref().ok_or_else(|| outside(location))?;
        locate(&inner.root, &inner.former, location)
    }

    fn batch(&self, location: &str) -> iceberg::Result<Arc<Batch>> {
        self.inner.as_ref().and_then(|inner| inner.batch.clone()).ok_or_else(|| {
            Error::new(ErrorKind::FeatureUnsupported, format!("file \"{location}\" was opened for reading only"))
        })
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct LakeStorageFactory {
    storage: LakeStorage,
}

#[typetag::serde(name = "pinrail-lake")]
impl StorageFactory for LakeStorageFactory {
    fn build(&self, _config: &StorageConfig) -> iceberg::Result<Arc<dyn Storage>> {
        Ok(Arc::new(self.storage.clone()))
    }
}

#[async_trait]
#[typetag::serde(name = "pinrail-lake")]
impl Storage for LakeStorage {
    async fn exists(&self, path: &str) -> iceberg::Result<bool> {
        let file = self.path(path)?;
        blocking(move || file.try_exists()).await.map_err(|e| failed(path, e))
    }

    async fn metadata(&self, path: &str) -> iceberg::Result<FileMetadata> {
        let file = self.path(path)?;
        let size = blocking(move || Ok(std::fs::metadata(file)?.len())).await.map_err(|e| failed(path, e))?;
        Ok(FileMetadata { size })
    }

    async fn read(&self, path: &str) -> iceberg::Result<Bytes> {
        let file = self.path(path)?;
        blocking(move || std::fs::read(file)).await.map(Bytes::from).map_err(|e| failed(path, e))
    }

    async fn reader(&self, path: &str) -> iceberg::Result<Box<dyn FileRead>> {
        let file = self.path(path)?;
        let file = blocking(move || std::fs::File::open(file)).await.map_err(|e| failed(path, e))?;
        Ok(Box::new(LakeRead { file: Arc::new(file), path: path.to_owned() }))
    }

    async fn write(&self, path: &str, bytes: Bytes) -> iceberg::Result<()> {
        let mut writer = self.writer(path).await?;
        writer.write(bytes).await?;
        writer.close().await
    }

    async fn writer(&self, path: &str) -> iceberg::Result<Box<dyn FileWrite>> {
        let file = self.path(path)?;
        let batch = self.batch(path)?;
        let sink = blocking(move || batch.create(&file)).await.map_err(|e| failed(path, e))?;
        Ok(Box::new(LakeWrite { sink: Some(sink), path: path.to_owned() }))
    }

    async fn delete(&self, path: &str) -> iceberg::Result<()> {
        self.batch(path)?;
        let file = self.path(path)?;
        blocking(move || match std::fs::remove_file(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        })
        .await
        .map_err(|e| failed(path, e))
    }

    async fn delete_prefix(&self, path: &str) -> iceberg::Result<()> {
        Err(Error::new(ErrorKind::FeatureUnsupported, format!("folder \"{path}\" is deleted by nobody but retention")))
    }

    async fn delete_stream(&self, mut paths: BoxStream<'static, String>) -> iceberg::Result<()> {
        while let Some(path) = paths.next().await {
            self.delete(&path).await?;
        }
        Ok(())
    }

    fn new_input(&self, path: &str) -> iceberg::Result<InputFile> {
        Ok(InputFile::new(Arc::new(self.clone()), path.to_owned()))
    }

    fn new_output(&self, path: &str) -> iceberg::Result<OutputFile> {
        Ok(OutputFile::new(Arc::new(self.clone()), path.to_owned()))
    }
}

struct LakeRead {
    file: Arc<std::fs::File>,
    path: String,
}

#[async_trait]
impl FileRead for LakeRead {
    async fn read(&self, range: Range<u64>) -> iceberg::Result<Bytes> {
        let file = self.file.clone();
        blocking(move || read_range(&file, &range)).await.map_err(|e| failed(&self.path, e))
    }
}

/// Reads exactly the range, wherever another reader of the same file is.
pub(crate) fn read_range(file: &std::fs::File, range: &Range<u64>) -> io::Result<Bytes> {
    let length = usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes.into())
}

struct LakeWrite {
    sink: Option<Box<dyn FileSink>>,
    path: String,
}

impl LakeWrite {
    async fn with(
        &mut self,
        work: impl FnOnce(&mut dyn FileSink) -> io::Result<()> + Send + 'static,
    ) -> iceberg::Result<()> {
        let mut sink = self
            .sink
            .take()
            .ok_or_else(|| Error::new(ErrorKind::Unexpected, format!("file \"{}\" is closed", self.path)))?;
        let sink = blocking(move || {
            work(sink.as_mut())?;
            Ok(sink)
        })
        .await
        .map_err(|e| failed(&self.path, e))?;
        self.sink = Some(sink);
        Ok(())
    }
}

#[async_trait]
impl FileWrite for LakeWrite {
    async fn write(&mut self, bytes: Bytes) -> iceberg::Result<()> {
        self.with(move |sink| sink.write(&bytes)).await
    }

    async fn close(&mut self) -> iceberg::Result<()> {
        self.with(|sink| sink.sync()).await?;
        self.sink = None;
        Ok(())
    }
}
