//! Snapshots: turns a change of files (and of the table's shape) into new metadata, and replays changes on a newer head.
//!
//! Not responsible for pointers (`catalog`), nor for making data files (`write`).
//!
//! Invariants:
//! - one call of [`Committer::write`] adds exactly one snapshot, also for an empty change;
//! - a change is replayed only if it means the same on the head: no removed file is gone, nobody added to a partition
//!   that is overwritten, and the columns agree; anything else is a `conflict` that names the partition or file;
//! - field ids never change: a replaced table keeps the ids of columns that keep name and type.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::str::FromStr;
use std::sync::Arc;

use iceberg::MetadataLocation;
use iceberg::spec::{
    DataFile, FormatVersion, ManifestContentType, ManifestEntryRef, ManifestFile, ManifestListWriter, ManifestWriter,
    ManifestWriterBuilder, Operation, PartitionSpec, Schema, SchemaRef, Snapshot, SortOrder, Summary, TableMetadata,
    TableMetadataBuilder, TableMetadataRef, UnboundPartitionSpec,
};
use pinrail_model::ids::Ids;
use pinrail_model::names::TableRef;
use pinrail_model::seam::lake::{AttemptView, Intent};
use pinrail_model::time::Clock;

use crate::error::{self, Result};
use crate::partition::{self, Partition};
use crate::store::Batch;
use crate::tables::{Table, Tables};

/// From this many manifests of the current partitioning on, a commit merges the small ones, so that planning a read
/// does not slow down with the number of commits.
const MERGE_FROM: usize = 100;
/// A manifest larger than this is left alone by merging.
const SMALL_MANIFEST: i64 = 8 << 20;

/// A data file that is not yet part of a table.
#[derive(Debug, Clone)]
pub(crate) struct NewFile {
    pub(crate) spec_id: i32,
    pub(crate) file: DataFile,
}

/// What a commit does to the files of a table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Change {
    pub(crate) added: Vec<NewFile>,
    pub(crate) removed: BTreeSet<String>,
}

/// Columns and partitioning that a commit gives to a table.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) schema: Schema,
    /// None: the partitioning stays.
    pub(crate) spec: Option<UnboundPartitionSpec>,
}

/// Everything that a statement, or a whole attempt, wants to happen to one table.
#[derive(Debug, Clone)]
pub(crate) struct Proposal {
    pub(crate) table: TableRef,
    /// What it was made from; none: the table did not exist.
    pub(crate) base: Option<Base>,
    /// Required without a base.
    pub(crate) shape: Option<Shape>,
    pub(crate) change: Change,
    pub(crate) intent: Intent,
}

/// A table's metadata with the location it was read from.
#[derive(Debug, Clone)]
pub(crate) struct Base {
    pub(crate) location: String,
    pub(crate) metadata: TableMetadataRef,
}

impl From<&Table> for Base {
    fn from(table: &Table) -> Self {
        Self { location: table.location.clone(), metadata: table.metadata.clone() }
    }
}

/// Writes the metadata of one commit.
pub(crate) struct Committer<'a> {
    pub(crate) tables: &'a Tables,
    pub(crate) batch: &'a Arc<Batch>,
    pub(crate) ids: &'a dyn Ids,
    pub(crate) clock: &'a dyn Clock,
    pub(crate) attempt: Option<&'a AttemptView>,
}

impl Committer<'_> {
    /// Adds one snapshot to the base, or makes the table at `folder` with its first one, and writes the metadata.
    pub(crate) async fn write(
        &self,
        base: Option<&Base>,
        folder: &str,
        shape: Option<&Shape>,
        change: Change,
    ) -> Result<Base> {
        self.write_inner(base, folder, shape, change).await.map_err(|e| error::from_iceberg(&e))?
    }

    /// The outer result is the library's failure, the inner one ours.
    async fn write_inner(
        &self,
        base: Option<&Base>,
        folder: &str,
        shape: Option<&Shape>,
        change: Change,
    ) -> iceberg::Result<Result<Base>> {
        let now_ms = self.clock.now().wall.0.div_euclid(1_000);
        let shaped = match shaped(base, folder, shape, now_ms) {
            Ok(shaped) => shaped,
            Err(error) => return Ok(Err(error)),
        };
        if shaped.format_version() != FormatVersion::V2 {
            return Ok(Err(error::unsupported("only Iceberg tables of format version 2 can be written")));
        }
        let snapshot_id = self.snapshot_id(&shaped);
        let (manifests, removed_size) = match self.manifests(&shaped, snapshot_id, &change).await {
            Ok(manifests) => manifests?,
            Err(error) => return Ok(Err(error)),
        };
        let list = format!("{}/metadata/snap-{snapshot_id}.avro", shaped.location());
        let sequence = shaped.next_sequence_number();
        let output = self.batch.io().new_output(&list)?.writer().await?;
        let summary = summary(&shaped, snapshot_id, &manifests, &change, removed_size, self.attempt);
        let mut writer = ManifestListWriter::v2(output, snapshot_id, shaped.current_snapshot_id(), sequence);
        writer.add_manifests(manifests.into_iter())?;
        writer.close().await?;
        let snapshot = Snapshot::builder()
            .with_snapshot_id(snapshot_id)
            .with_parent_snapshot_id(shaped.current_snapshot_id())
            .with_sequence_number(sequence)
            .with_schema_id(shaped.current_schema_id())
            .with_manifest_list(list)
            .with_summary(summary)
            .with_timestamp_ms(timestamp_ms(base, now_ms))
            .build();
        let builder = match base {
            Some(base) => apply((*base.metadata).clone().into_builder(Some(base.location.clone())), shape)?,
            None => shaped.into_builder(None),
        };
        let metadata = builder.set_branch_snapshot(snapshot, "main")?.build()?.metadata;
        self.write_metadata(base, metadata).await.map(Ok)
    }

    async fn write_metadata(&self, base: Option<&Base>, metadata: TableMetadata) -> iceberg::Result<Base> {
        let location = match base.map(|base| MetadataLocation::from_str(&base.location)) {
            Some(Ok(previous)) => previous.with_next_version().with_new_metadata(&metadata),
            // A foreign engine may have named its metadata file otherwise.
            _ => MetadataLocation::new_with_metadata(metadata.location(), &metadata),
        };
        metadata.write_to(&self.batch.io(), &location).await?;
        let base = Base { location: location.to_string(), metadata: Arc::new(metadata) };
        self.tables.learn(&base.location, base.metadata.clone());
        Ok(base)
    }

    fn snapshot_id(&self, metadata: &TableMetadata) -> i64 {
        loop {
            let (_, random) = self.ids.parts();
            let id = i64::try_from(random & u128::from(i64::MAX.unsigned_abs())).unwrap_or(1).max(1);
            if metadata.snapshot_by_id(id).is_none() {
                return id;
            }
        }
    }

    /// The manifests of the new snapshot, and the bytes of the files that it removes.
    async fn manifests(
        &self,
        shaped: &TableMetadata,
        snapshot_id: i64,
        change: &Change,
    ) -> Result<iceberg::Result<(Vec<ManifestFile>, u64)>> {
        let current = self.tables.current_manifests(shaped).await?;
        let (mut kept, mut small, mut removed_size) = (Vec::new(), Vec::new(), 0);
        let mut output = Manifests { committer: self, shaped, snapshot_id, count: 0, written: Vec::new() };
        let merging =
            current.iter().filter(|m| m.partition_spec_id == shaped.default_partition_spec_id()).count() >= MERGE_FROM;
        for file in current.iter() {
            if file.content == ManifestContentType::Deletes || (change.removed.is_empty() && !merging) {
                kept.extend(has_live_files(file).then(|| file.clone()));
                continue;
            }
            let manifest = self.tables.manifest(file).await?;
            let gone = || manifest.live.iter().filter(|entry| change.removed.contains(entry.file_path()));
            if gone().next().is_some() {
                removed_size += gone().map(|entry| entry.data_file().file_size_in_bytes()).sum::<u64>();
                if let Err(error) =
                    output.rewrite(&manifest.live, manifest.spec_id, &manifest.schema, &change.removed).await
                {
                    return Ok(Err(error));
                }
            } else if merging
                && file.manifest_length < SMALL_MANIFEST
                && manifest.spec_id == shaped.default_partition_spec_id()
            {
                small.extend(manifest.live.iter().cloned());
            } else {
                kept.extend(has_live_files(file).then(|| file.clone()));
            }
        }
        if !small.is_empty() {
            let spec_id = shaped.default_partition_spec_id();
            if let Err(error) = output.rewrite(&small, spec_id, shaped.current_schema(), &BTreeSet::new()).await {
                return Ok(Err(error));
            }
        }
        if let Err(error) = output.add(&change.added).await {
            return Ok(Err(error));
        }
        kept.append(&mut output.written);
        Ok(Ok((kept, removed_size)))
    }
}

/// Never before what the table already says: clocks jump, a table's history must not.
fn timestamp_ms(base: Option<&Base>, now_ms: i64) -> i64 {
    let Some(base) = base else { return now_ms };
    let last = base.metadata.history().last().map_or(0, |entry| entry.timestamp_ms);
    now_ms.max(last).max(base.metadata.last_updated_ms())
}

/// The manifests that one commit writes.
struct Manifests<'a> {
    committer: &'a Committer<'a>,
    shaped: &'a TableMetadata,
    snapshot_id: i64,
    count: usize,
    written: Vec<ManifestFile>,
}

impl Manifests<'_> {
    fn writer(&mut self, spec: &PartitionSpec, schema: &SchemaRef) -> iceberg::Result<ManifestWriter> {
        let path = format!("{}/metadata/snap-{}-m{}.avro", self.shaped.location(), self.snapshot_id, self.count);
        self.count += 1;
        let output = self.committer.batch.io().new_output(path)?;
        Ok(ManifestWriterBuilder::new(output, Some(self.snapshot_id), schema.clone(), spec.clone()).build_v2_data())
    }

    fn spec(&self, spec_id: i32) -> iceberg::Result<Arc<PartitionSpec>> {
        self.shaped.partition_spec_by_id(spec_id).cloned().ok_or_else(|| {
            iceberg::Error::new(
                iceberg::ErrorKind::DataInvalid,
                format!("partition spec {spec_id} is not in the table"),
            )
        })
    }

    /// Writes entries again: those of `removed` as deleted, the others as they were.
    async fn rewrite(
        &mut self,
        entries: &[ManifestEntryRef],
        spec_id: i32,
        schema: &SchemaRef,
        removed: &BTreeSet<String>,
    ) -> iceberg::Result<()> {
        let spec = self.spec(spec_id)?;
        let mut writer = self.writer(&spec, schema)?;
        for entry in entries {
            let (file, sequence) = (entry.data_file().clone(), entry.sequence_number().unwrap_or(0));
            if removed.contains(entry.file_path()) {
                writer.add_delete_file(file, sequence, entry.file_sequence_number)?;
            } else {
                let snapshot = entry.snapshot_id().unwrap_or(self.snapshot_id);
                writer.add_existing_file(file, snapshot, sequence, entry.file_sequence_number)?;
            }
        }
        self.written.push(writer.write_manifest_file().await?);
        Ok(())
    }

    async fn add(&mut self, added: &[NewFile]) -> iceberg::Result<()> {
        let mut by_spec: BTreeMap<i32, Vec<&DataFile>> = BTreeMap::new();
        for new in added {
            by_spec.entry(new.spec_id).or_default().push(&new.file);
        }
        for (spec_id, files) in by_spec {
            let spec = self.spec(spec_id)?;
            let mut writer = self.writer(&spec, self.shaped.current_schema())?;
            for file in files {
                writer.add_file(file.clone(), -1)?;
            }
            self.written.push(writer.write_manifest_file().await?);
        }
        Ok(())
    }
}

fn has_live_files(file: &ManifestFile) -> bool {
    file.has_added_files() || file.has_existing_files()
}

/// The metadata before the new snapshot, with its shape applied: what data files and manifests are written by.
///
/// The library stamps what it builds with its own clock and refuses a stamp before the table's last snapshot. Time here
/// is the injected clock's, so intermediate metadata is built without history, and the stamp of a new table replaced.
pub(crate) fn shaped(base: Option<&Base>, folder: &str, shape: Option<&Shape>, now_ms: i64) -> Result<TableMetadata> {
    let failed = |e: iceberg::Error| error::from_iceberg(&e);
    match (base, shape) {
        (Some(base), None) => Ok(base.metadata.as_ref().clone()),
        (Some(base), Some(_)) => {
            let timeless = edited(&base.metadata, |json| {
                json.remove("snapshot-log");
                json.remove("metadata-log");
                json.insert("last-updated-ms".to_owned(), 0.into());
            })?;
            let built = apply(timeless.into_builder(None), shape).and_then(TableMetadataBuilder::build);
            Ok(built.map_err(failed)?.metadata)
        }
        (None, Some(shape)) => {
            let built = TableMetadataBuilder::new(
                shape.schema.clone(),
                shape.spec.clone().unwrap_or_default(),
                SortOrder::unsorted_order(),
                folder.to_owned(),
                FormatVersion::V2,
                HashMap::from([("write.parquet.compression-codec".to_owned(), "zstd".to_owned())]),
            );
            let built = built.and_then(TableMetadataBuilder::build).map_err(failed)?.metadata;
            edited(&built, |json| {
                json.insert("last-updated-ms".to_owned(), now_ms.into());
            })
        }
        (None, None) => Err(error::platform("table-files-failed", "a new table needs columns")),
    }
}

fn edited(
    metadata: &TableMetadata,
    edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>),
) -> Result<TableMetadata> {
    let failed = |e: serde_json::Error| error::platform("table-files-failed", e.to_string());
    let mut json = serde_json::to_value(metadata).map_err(failed)?;
    if let Some(fields) = json.as_object_mut() {
        edit(fields);
    }
    serde_json::from_value(json).map_err(failed)
}

fn apply(builder: TableMetadataBuilder, shape: Option<&Shape>) -> iceberg::Result<TableMetadataBuilder> {
    let Some(shape) = shape else { return Ok(builder) };
    let builder = builder.add_current_schema(shape.schema.clone())?;
    match &shape.spec {
        Some(spec) => builder.add_default_partition_spec(spec.clone()),
        None => Ok(builder),
    }
}

/// Begins the property by which a snapshot tells what it changed in a partition; here only where it is one.
pub(crate) const ONE_PARTITION: &str = "partitions.";

/// Iceberg's usual counts, and who made the snapshot.
fn summary(
    before: &TableMetadata,
    snapshot_id: i64,
    manifests: &[ManifestFile],
    change: &Change,
    removed_size: u64,
    attempt: Option<&AttemptView>,
) -> Summary {
    let operation = match (change.added.is_empty(), change.removed.is_empty()) {
        (_, true) => Operation::Append,
        (true, false) => Operation::Delete,
        (false, false) => Operation::Overwrite,
    };
    let mut counts: HashMap<String, String> = HashMap::new();
    let mut put = |key: &str, value: u64| counts.insert(key.to_owned(), value.to_string());
    let added_size: u64 = change.added.iter().map(|n| n.file.file_size_in_bytes()).sum();
    put("added-data-files", change.added.len() as u64);
    put("added-records", change.added.iter().map(|n| n.file.record_count()).sum());
    put("added-files-size", added_size);
    if !change.removed.is_empty() {
        let ours = manifests.iter().filter(|m| m.added_snapshot_id == snapshot_id);
        put("removed-files-size", removed_size);
        put("deleted-data-files", change.removed.len() as u64);
        put("deleted-records", ours.filter_map(|m| m.deleted_rows_count).sum());
    }
    let data = || manifests.iter().filter(|m| m.content == ManifestContentType::Data);
    let files = |m: &ManifestFile| u64::from(m.added_files_count.unwrap_or(0) + m.existing_files_count.unwrap_or(0));
    put("total-data-files", data().map(files).sum());
    put("total-records", data().map(|m| m.added_rows_count.unwrap_or(0) + m.existing_rows_count.unwrap_or(0)).sum());
    put("total-delete-files", manifests.iter().filter(|m| m.content == ManifestContentType::Deletes).map(files).sum());
    let partitions: HashSet<_> = change.added.iter().map(|n| (n.spec_id, n.file.partition())).collect();
    put("changed-partition-count", partitions.len() as u64);
    if let Some(size) = size_before(before).map(|size| (size + added_size).saturating_sub(removed_size)) {
        put("total-files-size", size);
    }
    if let (1, Some(one)) = (partitions.len(), change.added.first())
        && let Some(spec) = before.partition_spec_by_id(one.spec_id).filter(|spec| !spec.is_unpartitioned())
    {
        let path = spec.partition_to_path(one.file.partition(), before.current_schema().clone());
        counts.insert(format!("{ONE_PARTITION}{path}"), format!("added-data-files={}", change.added.len()));
    }
    if let Some(attempt) = attempt {
        counts.insert("pinrail.run-id".to_owned(), attempt.run.to_string());
        counts.insert("pinrail.attempt-id".to_owned(), attempt.attempt.to_string());
        counts.insert("pinrail.generation".to_owned(), attempt.generation.to_string());
    }
    Summary { operation, additional_properties: counts }
}

/// What another engine's last snapshot may not tell.
fn size_before(before: &TableMetadata) -> Option<u64> {
    match before.current_snapshot() {
        None => Some(0),
        Some(snapshot) => snapshot.summary().additional_properties.get("total-files-size")?.parse().ok(),
    }
}

/// What the staged metadata changed against its base, whatever number of commits, by whatever engine, made it.
pub(crate) async fn net_change(tables: &Tables, base: Option<&Base>, staged: &TableMetadata) -> Result<Change> {
    let before = match base {
        Some(base) => tables.current_manifests(&base.metadata).await?,
        None => Arc::default(),
    };
    let after = tables.current_manifests(staged).await?;
    let paths = |list: &[ManifestFile]| list.iter().map(|m| m.manifest_path.clone()).collect::<HashSet<_>>();
    let (before_paths, after_paths) = (paths(&before), paths(&after));
    let delete_manifests = |list: &[ManifestFile]| {
        let deletes = list.iter().filter(|m| m.content == ManifestContentType::Deletes);
        deletes.map(|m| m.manifest_path.clone()).collect::<HashSet<_>>()
    };
    if !delete_manifests(&after).is_subset(&delete_manifests(&before)) {
        return Err(error::unsupported(
            "row-level delete files of another engine cannot be published by an attempt yet",
        )
        .remedy("Let the other engine write with copy-on-write."));
    }
    // A manifest that both have cannot hold a difference.
    let mut old = BTreeMap::new();
    for file in
        before.iter().filter(|m| m.content == ManifestContentType::Data && !after_paths.contains(&m.manifest_path))
    {
        let manifest = tables.manifest(file).await?;
        old.extend(manifest.live.iter().map(|e| (e.file_path().to_owned(), ())));
    }
    let mut added = Vec::new();
    for file in
        after.iter().filter(|m| m.content == ManifestContentType::Data && !before_paths.contains(&m.manifest_path))
    {
        let manifest = tables.manifest(file).await?;
        for entry in &manifest.live {
            if old.remove(entry.file_path()).is_none() {
                added.push(NewFile { spec_id: manifest.spec_id, file: entry.data_file().clone() });
            }
        }
    }
    Ok(Change { added, removed: old.into_keys().collect() })
}

/// What the proposal means on a head that is no longer its base, or why it means nothing there.
pub(crate) async fn replay(tables: &Tables, proposal: &Proposal, head: &Table) -> Result<(Option<Shape>, Change)> {
    let Some(base) = &proposal.base else { return replay_create(tables, proposal, head).await };
    let shape = replay_shape(proposal, base, head)?;
    let live = tables.live_files(&head.metadata).await?;
    let paths: HashSet<_> = live.iter().map(|(_, entry)| entry.file_path()).collect();
    if let Some(gone) = proposal.change.removed.iter().find(|path| !paths.contains(path.as_str())) {
        let name = gone.rsplit('/').next().unwrap_or(gone);
        return Err(error::conflict(format!(
            "table \"{}\" was changed by somebody else: its file {name}, which this replaces, is gone",
            proposal.table
        )));
    }
    if let Intent::Overwrite { partitions } = &proposal.intent {
        let before = tables.live_files(&base.metadata).await?;
        let known: HashSet<_> = before.iter().map(|(_, entry)| entry.file_path()).collect();
        for (spec_id, entry) in live.iter().filter(|(_, entry)| !known.contains(entry.file_path())) {
            let partition = partition_of(&head.metadata, *spec_id, entry.data_file());
            if partition::is_among(&partition, partitions) {
                return Err(error::conflict(format!(
                    "table \"{}\" was changed by somebody else: rows were added to {}, which this replaces",
                    proposal.table,
                    if partition.is_empty() { "it".to_owned() } else { partition::show(&partition) },
                )));
            }
        }
    }
    Ok((shape, proposal.change.clone()))
}

/// Columns that the proposal adds, if the head still has the columns that the proposal knew.
fn replay_shape(proposal: &Proposal, base: &Base, head: &Table) -> Result<Option<Shape>> {
    let changed = || {
        error::conflict(format!(
            "columns or partitioning of table \"{}\" were changed by somebody else",
            proposal.table
        ))
    };
    let same_spec = |a: &TableMetadata, b: &TableMetadata| {
        a.default_partition_spec_id() == b.default_partition_spec_id()
            && a.default_partition_spec() == b.default_partition_spec()
    };
    let (before, now) = (&base.metadata, &head.metadata);
    for new in &proposal.change.added {
        // The spec that the files were cut by must mean the same on the head, or be about to be added by the shape.
        let (old, new) = (before.partition_spec_by_id(new.spec_id), now.partition_spec_by_id(new.spec_id));
        if old != new {
            return Err(changed());
        }
    }
    let Some(shape) = &proposal.shape else { return Ok(None) };
    if same_fields(&shape.schema, now.current_schema()) && shape.spec.is_none() {
        return Ok(None);
    }
    if same_fields(before.current_schema(), now.current_schema()) && same_spec(before, now) {
        Ok(Some(shape.clone()))
    } else {
        Err(changed())
    }
}

/// Somebody else has made the table meanwhile: with the same columns and partitioning it is as if it had been there.
async fn replay_create(tables: &Tables, proposal: &Proposal, head: &Table) -> Result<(Option<Shape>, Change)> {
    if proposal.intent == Intent::New {
        return Err(error::conflict(format!("table \"{}\" was made by somebody else meanwhile", proposal.table)));
    }
    let same = proposal.shape.as_ref().is_some_and(|shape| {
        let spec = head.metadata.default_partition_spec();
        let wanted = shape.spec.clone().unwrap_or_default();
        let same_spec = spec.fields().len() == wanted.fields().len()
            && spec.fields().iter().zip(wanted.fields()).all(|(a, b)| {
                (a.source_id, a.transform, a.name.as_str()) == (b.source_id, b.transform, b.name.as_str())
            });
        same_spec && same_fields(&shape.schema, head.metadata.current_schema())
    });
    if !same {
        return Err(error::conflict(format!(
            "table \"{}\" was made by somebody else meanwhile, with other columns or partitioning",
            proposal.table
        )));
    }
    let mut change = proposal.change.clone();
    for new in &mut change.added {
        new.spec_id = head.metadata.default_partition_spec_id();
    }
    if let Intent::Overwrite { partitions } = &proposal.intent {
        change.removed = files_among(tables, &head.metadata, partitions).await?;
    }
    Ok((None, change))
}

/// The live files of the named partitions; naming none means all. A file that another engine wrote under another
/// partitioning cannot be said to be in one, and replacing around it would leave rows that should be gone.
pub(crate) async fn files_among(
    tables: &Tables,
    metadata: &TableMetadata,
    partitions: &[Partition],
) -> Result<BTreeSet<String>> {
    let mut among = BTreeSet::new();
    for (spec_id, entry) in tables.live_files(metadata).await? {
        let partition = partition_of(metadata, spec_id, entry.data_file());
        if let Some(field) = partitions.iter().flat_map(|named| named.keys()).find(|f| !partition.contains_key(*f)) {
            return Err(error::user(
                "partition-mismatch",
                format!("the table has files that were written before it was partitioned by \"{field}\""),
            )
            .remedy("Write the whole table anew: INSERT OVERWRITE t SELECT * FROM t."));
        }
        if partition::is_among(&partition, partitions) {
            among.insert(entry.file_path().to_owned());
        }
    }
    Ok(among)
}

pub(crate) fn partition_of(metadata: &TableMetadata, spec_id: i32, file: &DataFile) -> Partition {
    match metadata.partition_spec_by_id(spec_id) {
        Some(spec) => partition::of_file(spec, metadata.current_schema(), file.partition()),
        None => Partition::new(),
    }
}

/// Whether two schemas have the same columns, ids included.
pub(crate) fn same_fields(a: &Schema, b: &Schema) -> bool {
    a.as_struct().fields() == b.as_struct().fields()
}
