//! Tables as they are at one metadata file, and the caches that make a second look free.
//!
//! Metadata files, manifest lists and manifests never change once written, so all three are cached by location across
//! tables and commits: a statement after a commit reads only the manifests that the commit added.
//!
//! Not responsible for which metadata file is current: [`crate::catalog`] asks the pointers.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use iceberg::spec::{
    ManifestContentType, ManifestEntryRef, ManifestFile, ManifestList, SchemaRef, SnapshotRef, TableMetadata,
    TableMetadataRef,
};
use pinrail_model::ids::TableId;
use pinrail_model::names::{TableRef, TargetName};

use crate::error::{self, Result};
use crate::store::Store;

/// Metadata files kept in memory.
const METADATA_FILES: usize = 1_000;
/// Manifest lists kept in memory.
const MANIFEST_LISTS: usize = 1_000;
/// Data files whose manifests are kept in memory: a few hundred bytes each.
const MANIFEST_FILES: usize = 200_000;

/// A table at one metadata file.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) id: TableId,
    pub(crate) name: TableRef,
    pub(crate) location: String,
    pub(crate) metadata: TableMetadataRef,
    /// Whether the attempt that looks has staged it.
    pub(crate) staged: bool,
    /// The other target whose table it is, which is read and never written.
    pub(crate) read_from: Option<TargetName>,
}

/// The files of one manifest that are part of the table.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) spec_id: i32,
    /// The schema at the time of writing, by which deleted entries are written again.
    pub(crate) schema: SchemaRef,
    pub(crate) live: Vec<ManifestEntryRef>,
}

/// Reads what metadata names.
#[derive(Debug)]
pub(crate) struct Tables {
    pub(crate) store: Store,
    metadata: Cache<String, TableMetadataRef>,
    lists: Cache<String, Arc<Vec<ManifestFile>>>,
    manifests: Cache<String, Arc<Manifest>>,
}

impl Tables {
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            metadata: Cache::new(METADATA_FILES),
            lists: Cache::new(MANIFEST_LISTS),
            manifests: Cache::new(MANIFEST_FILES),
        }
    }

    pub(crate) async fn metadata(&self, location: &str) -> Result<TableMetadataRef> {
        if let Some(found) = self.metadata.get(location) {
            return Ok(found);
        }
        let metadata = TableMetadata::read_from(&self.store.reader(), location).await;
        let metadata = Arc::new(metadata.map_err(|e| error::from_iceberg(&e))?);
        self.metadata.put(location.to_owned(), metadata.clone(), 1);
        Ok(metadata)
    }

    /// Remembers what was just written, so that nobody has to read it back.
    pub(crate) fn learn(&self, location: &str, metadata: TableMetadataRef) {
        self.metadata.put(location.to_owned(), metadata, 1);
    }

    pub(crate) async fn manifest_list(
        &self,
        metadata: &TableMetadata,
        snapshot: &SnapshotRef,
    ) -> Result<Arc<Vec<ManifestFile>>> {
        let location = snapshot.manifest_list();
        if let Some(found) = self.lists.get(location) {
            return Ok(found);
        }
        let read = async {
            let bytes = self.store.reader().new_input(location)?.read().await?;
            ManifestList::parse_with_version(&bytes, metadata.format_version())
        };
        let list: Vec<_> = read.await.map_err(|e| error::from_iceberg(&e))?.consume_entries().into_iter().collect();
        let list = Arc::new(list);
        self.lists.put(location.to_owned(), list.clone(), 1);
        Ok(list)
    }

    pub(crate) async fn manifest(&self, file: &ManifestFile) -> Result<Arc<Manifest>> {
        if let Some(found) = self.manifests.get(&file.manifest_path) {
            return Ok(found);
        }
        let manifest = file.load_manifest(&self.store.reader()).await.map_err(|e| error::from_iceberg(&e))?;
        let (entries, metadata) = manifest.into_parts();
        let manifest = Arc::new(Manifest {
            spec_id: file.partition_spec_id,
            schema: metadata.schema().clone(),
            live: entries.into_iter().filter(|entry| entry.is_alive()).collect(),
        });
        self.manifests.put(file.manifest_path.clone(), manifest.clone(), manifest.live.len() + 1);
        Ok(manifest)
    }

    /// The manifests of a table's current snapshot; none before its first one.
    pub(crate) async fn current_manifests(&self, metadata: &TableMetadata) -> Result<Arc<Vec<ManifestFile>>> {
        match metadata.current_snapshot() {
            Some(snapshot) => self.manifest_list(metadata, snapshot).await,
            None => Ok(Arc::default()),
        }
    }

    /// Every live data file of the current snapshot with the id of its partition spec.
    pub(crate) async fn live_files(&self, metadata: &TableMetadata) -> Result<Vec<(i32, ManifestEntryRef)>> {
        let mut files = Vec::new();
        for file in self.current_manifests(metadata).await?.iter().filter(|m| m.content == ManifestContentType::Data) {
            let manifest = self.manifest(file).await?;
            files.extend(manifest.live.iter().map(|entry| (manifest.spec_id, entry.clone())));
        }
        Ok(files)
    }
}

/// A small cache of immutable things: the oldest goes first.
#[derive(Debug)]
struct Cache<K, V> {
    capacity: usize,
    inner: Mutex<Kept<K, V>>,
}

#[derive(Debug)]
struct Kept<K, V> {
    values: HashMap<K, V>,
    order: VecDeque<(K, usize)>,
    weight: usize,
}

impl<K: Hash + Eq + Clone, V: Clone> Cache<K, V> {
    fn new(capacity: usize) -> Self {
        Self { capacity, inner: Mutex::new(Kept { values: HashMap::new(), order: VecDeque::new(), weight: 0 }) }
    }

    fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).values.get(key).cloned()
    }

    fn put(&self, key: K, value: V, weight: usize) {
        let mut kept = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.values.insert(key.clone(), value).is_none() {
            kept.order.push_back((key, weight));
            kept.weight += weight;
        }
        while kept.weight > self.capacity {
            let Some((oldest, weight)) = kept.order.pop_front() else { break };
            kept.values.remove(&oldest);
            kept.weight -= weight;
        }
    }
}
