//! Which tables a statement sees, and how what it wrote becomes true: staged for an attempt, or published at once.
//!
//! Not responsible for files and metadata (`commit`, `write`) nor for the durable pointers (the seam's `Pointers`).
//!
//! Invariants:
//! - one statement sees one catalog sequence, whatever is published meanwhile, and its attempt's overlays on top;
//! - a pointer is staged or swapped only after everything that its metadata names has been synced;
//! - a publication adds exactly one snapshot to each table, also when nothing changed.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use iceberg::spec::{Schema, TableMetadata};
use pinrail_model::ids::{Ids, TableId, fresh};
use pinrail_model::names::{ProjectName, TableRef, TargetName};
use pinrail_model::seam::lake::{
    AttemptView, Intent, LakeError, Overlay, PointerError, PointerSwap, Pointers, SystemTables, TableInfo, View,
    Writes, Written,
};
use pinrail_model::step;
use pinrail_model::target::{Place, Target};
use pinrail_model::time::Clock;

use crate::commit::{self, Base, Change, Committer, Proposal, Shape};
use crate::error::{self, Result};
use crate::partition;
use crate::store::{Batch, Store};
use crate::tables::{Table, Tables};
use crate::types;

/// How often a statement that belongs to no attempt tries to publish before it gives up.
const PUBLISH_TRIES: usize = 10;

/// The parts of the lake that know tables.
pub(crate) struct Book {
    pub(crate) tables: Arc<Tables>,
    pub(crate) pointers: Arc<dyn Pointers>,
    pub(crate) ids: Arc<dyn Ids>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) system: Arc<dyn SystemTables>,
}

/// What one statement sees.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    pub(crate) project: ProjectName,
    target: Option<Arc<Target>>,
    /// Where everything is that it writes.
    place: Place,
    at: u64,
    pub(crate) attempt: Option<AttemptView>,
    overlays: HashMap<TableRef, Overlay>,
}

impl Scope {
    pub(crate) fn overlay(&self, table: &TableRef) -> Option<&Overlay> {
        self.overlays.get(table)
    }

    /// Where a table that the target lacks is looked for, in turn, and as of when.
    fn sources(&self) -> impl Iterator<Item = (&TargetName, Place, u64)> {
        let sources = self.target.iter().flat_map(|target| &target.reads);
        sources.map(|source| {
            let place = Place { project: self.project.clone(), prefix: source.prefix.clone() };
            (&source.target, place, source.at.unwrap_or(self.at))
        })
    }

    /// Refuses what belongs to no attempt at a target that takes deployed runs only.
    fn may_write(&self, table: &TableRef) -> Result<()> {
        match &self.target {
            Some(target) if target.protected && self.attempt.is_none() => {
                let name = &target.name;
                let message = format!("table \"{table}\" is not changed: target \"{name}\" is protected");
                Err(error::user("target-protected", message).remedy(format!(
                    "Queries may read it; make the change a job of a workflow, and deploy that with \
                     `pinrail deploy --target {name}`."
                )))
            }
            _ => Ok(()),
        }
    }
}

impl Book {
    pub(crate) async fn scope(&self, view: &View) -> Result<Scope> {
        let at = match view.at {
            Some(at) => at,
            None => self.pointers.head(&view.project).await?,
        };
        let overlays = match &view.attempt {
            Some(attempt) => self.pointers.overlays(attempt.attempt).await?,
            None => Vec::new(),
        };
        let overlays = overlays.into_iter().map(|overlay| (overlay.table.clone(), overlay)).collect();
        let (project, target, place) = (view.project.clone(), view.target.clone(), view.place());
        Ok(Scope { project, target, place, at, attempt: view.attempt.clone(), overlays })
    }

    /// The table that a statement of this scope reads under a name: the target's own, or that of the first target that it
    /// reads from and that has it.
    pub(crate) async fn find(&self, scope: &Scope, name: &TableRef) -> Result<Option<Table>> {
        if let Some(own) = self.own(scope, name).await? {
            return Ok(Some(own));
        }
        for (target, place, at) in scope.sources() {
            if let Some(pointer) = self.pointers.find(&place, name, Some(at)).await? {
                let table = self.load(pointer.id, name, pointer.location, false).await?;
                return Ok(Some(Table { read_from: Some(target.clone()), ..table }));
            }
        }
        Ok(None)
    }

    /// The table that a statement of this scope may write under a name: never another target's.
    pub(crate) async fn own(&self, scope: &Scope, name: &TableRef) -> Result<Option<Table>> {
        let (id, location, staged) = match scope.overlay(name) {
            Some(Overlay { staged: None, .. }) => return Ok(None),
            Some(Overlay { id, staged: Some(location), .. }) => (*id, location.clone(), true),
            None => match self.pointers.find(&scope.place, name, Some(scope.at)).await? {
                Some(pointer) => (pointer.id, pointer.location, false),
                None => return Ok(None),
            },
        };
        self.load(id, name, location, staged).await.map(Some)
    }

    async fn load(&self, id: TableId, name: &TableRef, location: String, staged: bool) -> Result<Table> {
        let metadata = self.tables.metadata(&location).await?;
        Ok(Table { id, name: name.clone(), location, metadata, staged, read_from: None })
    }

    async fn head(&self, place: &Place, name: &TableRef) -> Result<Option<Table>> {
        match self.pointers.find(place, name, None).await? {
            Some(pointer) => self.load(pointer.id, name, pointer.location, false).await.map(Some),
            None => Ok(None),
        }
    }

    /// Names of all tables of the scope.
    pub(crate) async fn names(&self, scope: &Scope) -> Result<Vec<TableRef>> {
        let mut names = self.own_names(scope).await?;
        for (_, place, at) in scope.sources() {
            names.extend(self.pointers.list(&place, Some(at)).await?.into_iter().map(|pointer| pointer.table));
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Names of the tables that the scope may write.
    pub(crate) async fn own_names(&self, scope: &Scope) -> Result<Vec<TableRef>> {
        let pointers = self.pointers.list(&scope.place, Some(scope.at)).await?;
        let mut names: Vec<_> =
            pointers.into_iter().map(|p| p.table).filter(|name| !scope.overlays.contains_key(name)).collect();
        names.extend(scope.overlays.values().filter(|o| o.staged.is_some()).map(|o| o.table.clone()));
        names.sort();
        Ok(names)
    }

    /// The error for a table that a statement wants to change and that its target has not.
    pub(crate) async fn cannot_write(&self, scope: &Scope, name: &TableRef) -> Result<LakeError> {
        let read = self.find(scope, name).await?.and_then(|table| table.read_from);
        let (Some(source), Some(target)) = (read, &scope.target) else {
            return Ok(not_found(name, &self.own_names(scope).await?));
        };
        let message = format!(
            "target \"{}\" has no table \"{name}\"; that of target \"{source}\" is read and never written",
            target.name
        );
        let remedy =
            format!("Make it first: CREATE TABLE {name} AS SELECT * FROM {name}, with a WHERE for less of it.");
        Ok(error::user("table-not-found", message).remedy(remedy))
    }

    pub(crate) async fn list(&self, view: &View) -> Result<Vec<TableInfo>> {
        let scope = self.scope(view).await?;
        let mut infos = Vec::new();
        for name in self.names(&scope).await? {
            if let Some(table) = self.find(&scope, &name).await? {
                infos.push(info(&table));
            }
        }
        Ok(infos)
    }

    /// The folder of a table: built from ids, never from names.
    pub(crate) fn folder(&self, project: &ProjectName, id: TableId) -> String {
        self.store().location(&format!("{project}/{id}"))
    }

    pub(crate) fn store(&self) -> &Store {
        &self.tables.store
    }

    /// A fresh id for a table that does not exist, or the id of the one that the attempt has dropped.
    pub(crate) fn new_id(&self, scope: &Scope, name: &TableRef) -> TableId {
        scope.overlay(name).map_or_else(|| fresh(self.ids.as_ref()), |overlay| overlay.id)
    }

    fn committer<'a>(&'a self, batch: &'a Arc<Batch>, attempt: Option<&'a AttemptView>) -> Committer<'a> {
        Committer { tables: &self.tables, batch, ids: self.ids.as_ref(), clock: self.clock.as_ref(), attempt }
    }

    /// Makes a statement's proposal true: for its attempt alone, or for everybody.
    pub(crate) async fn accept(
        &self,
        scope: &Scope,
        id: TableId,
        proposal: Proposal,
        batch: &Arc<Batch>,
    ) -> Result<()> {
        scope.may_write(&proposal.table)?;
        match &scope.attempt {
            Some(attempt) => self.stage(scope, attempt, id, proposal, batch).await,
            None => self.publish(scope, id, proposal, batch).await,
        }
    }

    async fn stage(
        &self,
        scope: &Scope,
        attempt: &AttemptView,
        id: TableId,
        proposal: Proposal,
        batch: &Arc<Batch>,
    ) -> Result<()> {
        let folder = self.folder(&scope.project, id);
        let committer = self.committer(batch, Some(attempt));
        let staged = committer.write(proposal.base.as_ref(), &folder, proposal.shape.as_ref(), proposal.change).await?;
        batch.settle().await?;
        let earlier = scope.overlay(&proposal.table);
        let overlay = Overlay {
            attempt: attempt.attempt,
            id,
            table: proposal.table,
            base: match earlier {
                Some(overlay) => overlay.base.clone(),
                None => proposal.base.map(|base| base.location),
            },
            staged: Some(staged.location),
            intent: merged(earlier.map(|overlay| overlay.intent.clone()), proposal.intent),
        };
        self.stage_pointer(attempt, overlay).await
    }

    async fn stage_pointer(&self, attempt: &AttemptView, overlay: Overlay) -> Result<()> {
        step!("lake.before-stage");
        self.pointers.stage(attempt.epoch, overlay).await?;
        step!("lake.after-stage");
        Ok(())
    }

    async fn publish(&self, scope: &Scope, id: TableId, proposal: Proposal, batch: &Arc<Batch>) -> Result<()> {
        for _ in 0..PUBLISH_TRIES {
            let head = self.head(&scope.place, &proposal.table).await?;
            let swap = self.on_head(&scope.project, id, &proposal, head.as_ref(), batch, None).await?;
            batch.settle().await?;
            step!("lake.before-swap");
            let swapped = self.pointers.swap(&scope.place, vec![swap]).await;
            step!("lake.after-swap");
            match swapped {
                Err(PointerError::Conflict(_)) => {}
                other => return Ok(other?),
            }
        }
        Err(error::conflict(format!(
            "table \"{}\" was changed by somebody else in each of {PUBLISH_TRIES} tries",
            proposal.table
        )))
    }

    /// Writes the proposal as one snapshot on the head.
    async fn on_head(
        &self,
        project: &ProjectName,
        id: TableId,
        proposal: &Proposal,
        head: Option<&Table>,
        batch: &Arc<Batch>,
        attempt: Option<&AttemptView>,
    ) -> Result<PointerSwap> {
        let Some(head) = head else {
            if proposal.base.is_some() {
                return Err(error::conflict(format!("table \"{}\" was dropped by somebody else", proposal.table)));
            }
            let folder = self.folder(project, id);
            let made = self.committer(batch, attempt);
            let made = made.write(None, &folder, proposal.shape.as_ref(), proposal.change.clone()).await?;
            return Ok(swap(id, &proposal.table, None, Some(made.location)));
        };
        let unmoved = proposal.base.as_ref().is_some_and(|base| base.location == head.location);
        let (shape, change) = if unmoved {
            (proposal.shape.clone(), proposal.change.clone())
        } else {
            if proposal.base.is_some() && head.id != id {
                return Err(error::conflict(format!(
                    "table \"{}\" was dropped and made again by somebody else",
                    proposal.table
                )));
            }
            commit::replay(&self.tables, proposal, head).await?
        };
        let folder = self.folder(project, head.id);
        let made = self.committer(batch, attempt).write(Some(&head.into()), &folder, shape.as_ref(), change).await?;
        Ok(swap(head.id, &proposal.table, Some(head.location.clone()), Some(made.location)))
    }

    /// Drops a table: at once, or for the attempt.
    pub(crate) async fn drop_table(&self, scope: &Scope, table: &Table) -> Result<()> {
        scope.may_write(&table.name)?;
        let Some(attempt) = &scope.attempt else {
            let gone = swap(table.id, &table.name, Some(table.location.clone()), None);
            return Ok(self.pointers.swap(&scope.place, vec![gone]).await?);
        };
        let base = match scope.overlay(&table.name) {
            Some(overlay) => overlay.base.clone(),
            None => Some(table.location.clone()),
        };
        let overlay = Overlay {
            attempt: attempt.attempt,
            id: table.id,
            table: table.name.clone(),
            base,
            staged: None,
            intent: Intent::Overwrite { partitions: Vec::new() },
        };
        self.stage_pointer(attempt, overlay).await
    }

    /// The seam's `prepare`.
    pub(crate) async fn prepare(&self, view: &View) -> Result<Vec<PointerSwap>> {
        let attempt = view
            .attempt
            .as_ref()
            .ok_or_else(|| error::platform("not-an-attempt", "only an attempt's changes can be prepared"))?;
        let scope = self.scope(view).await?;
        let batch = self.store().begin();
        let mut swaps = Vec::new();
        let overlays: BTreeMap<_, _> = scope.overlays.values().map(|overlay| (&overlay.table, overlay)).collect();
        for overlay in overlays.into_values() {
            swaps.extend(self.prepare_overlay(&scope, attempt, overlay, &batch).await?);
        }
        for Writes { table, .. } in &attempt.writes {
            let done = scope.overlays.contains_key(table) || swaps.iter().any(|swap| swap.table == *table);
            if let (false, Some(head)) = (done, self.head(&scope.place, table).await?) {
                let committer = self.committer(&batch, Some(attempt));
                let folder = self.folder(&scope.project, head.id);
                let made = committer.write(Some(&(&head).into()), &folder, None, Change::default()).await?;
                swaps.push(swap(head.id, table, Some(head.location), Some(made.location)));
            }
        }
        batch.settle().await?;
        Ok(swaps)
    }

    /// What prepared swaps change, as their snapshots tell it.
    pub(crate) async fn written(&self, swaps: &[PointerSwap]) -> Result<Vec<Written>> {
        let mut written = Vec::with_capacity(swaps.len());
        for swap in swaps {
            let table = swap.table.clone();
            let Some(location) = &swap.new else {
                written.push(Written { table, rows: None, partition: None });
                continue;
            };
            let metadata = self.tables.metadata(location).await?;
            let told = metadata.current_snapshot().map(|snapshot| &snapshot.summary().additional_properties);
            let rows = told.map_or(Some(0), |told| told.get("added-records")?.parse().ok());
            let partition = told.and_then(|told| told.keys().find_map(|key| key.strip_prefix(commit::ONE_PARTITION)));
            written.push(Written { table, rows, partition: partition.map(str::to_owned) });
        }
        Ok(written)
    }

    async fn prepare_overlay(
        &self,
        scope: &Scope,
        attempt: &AttemptView,
        overlay: &Overlay,
        batch: &Arc<Batch>,
    ) -> Result<Option<PointerSwap>> {
        let head = self.head(&scope.place, &overlay.table).await?;
        let Some(staged) = &overlay.staged else { return dropped(overlay, head.as_ref()) };
        let staged_metadata = self.tables.metadata(staged).await?;
        let base = match &overlay.base {
            Some(location) => {
                Some(Base { location: location.clone(), metadata: self.tables.metadata(location).await? })
            }
            None => None,
        };
        // Most attempts write a table once and nobody interferes: then what was staged is what will be published.
        let unmoved = overlay.base.as_deref() == head.as_ref().map(|head| head.location.as_str());
        let earlier = base.as_ref().map_or(0, |base| base.metadata.snapshots().len());
        if unmoved && staged_metadata.snapshots().len() == earlier + 1 {
            return Ok(Some(swap(overlay.id, &overlay.table, overlay.base.clone(), Some(staged.clone()))));
        }
        let change = commit::net_change(&self.tables, base.as_ref(), &staged_metadata).await?;
        let proposal = Proposal {
            table: overlay.table.clone(),
            shape: staged_shape(base.as_ref().map(|base| base.metadata.as_ref()), &staged_metadata),
            base,
            change,
            intent: overlay.intent.clone(),
        };
        let swap = self.on_head(&scope.project, overlay.id, &proposal, head.as_ref(), batch, Some(attempt)).await?;
        Ok(Some(swap))
    }
}

fn swap(id: TableId, table: &TableRef, expect: Option<String>, new: Option<String>) -> PointerSwap {
    PointerSwap { id, table: table.clone(), expect, new }
}

/// A table that the attempt dropped. What others have put into it since must not vanish with it.
fn dropped(overlay: &Overlay, head: Option<&Table>) -> Result<Option<PointerSwap>> {
    match (&overlay.base, head) {
        (None, _) => Ok(None),
        (Some(base), Some(head)) if head.location == *base => {
            Ok(Some(swap(overlay.id, &overlay.table, Some(base.clone()), None)))
        }
        (Some(_), _) => {
            Err(error::conflict(format!("table \"{}\", which this drops, was changed by somebody else", overlay.table)))
        }
    }
}

/// Columns and partitioning that the staged metadata has and its base has not.
fn staged_shape(base: Option<&TableMetadata>, staged: &TableMetadata) -> Option<Shape> {
    let schema: Schema = staged.current_schema().as_ref().clone();
    let spec = staged.default_partition_spec();
    let same_spec = base.is_some_and(|base| base.default_partition_spec() == spec);
    let same_schema = base.is_some_and(|base| commit::same_fields(base.current_schema(), &schema));
    if same_spec && same_schema {
        return None;
    }
    Some(Shape { schema, spec: (!same_spec).then(|| spec.as_ref().clone().into_unbound()) })
}

/// What a second statement on a table adds to what the first one meant.
fn merged(earlier: Option<Intent>, new: Intent) -> Intent {
    match (earlier, new) {
        (None | Some(Intent::Changes), new) => new,
        (Some(earlier), Intent::Changes) => earlier,
        (Some(Intent::New), _) | (_, Intent::New) => Intent::New,
        (Some(Intent::Overwrite { partitions: mut all }), Intent::Overwrite { partitions: more }) => {
            // Naming none means the whole table, which no list of partitions makes smaller.
            if all.is_empty() || more.is_empty() {
                return Intent::Overwrite { partitions: Vec::new() };
            }
            all.extend(more.into_iter().filter(|partition| !all.contains(partition)).collect::<Vec<_>>());
            Intent::Overwrite { partitions: all }
        }
    }
}

fn info(table: &Table) -> TableInfo {
    let metadata = &table.metadata;
    let snapshot = metadata.current_snapshot();
    let count = |key: &str| -> Option<u64> {
        match snapshot {
            None => Some(0),
            Some(snapshot) => snapshot.summary().additional_properties.get(key)?.parse().ok(),
        }
    };
    TableInfo {
        table: table.name.clone(),
        columns: types::table_columns(metadata.current_schema()),
        partitioned_by: partition::describe(metadata.current_schema(), metadata.default_partition_spec()),
        location: table.location.clone(),
        snapshot_id: snapshot.map(|s| s.snapshot_id()),
        rows: count("total-records"),
        bytes: count("total-files-size"),
        staged: table.staged,
        read_from: table.read_from.clone(),
    }
}

/// The error for a name that no table has, with the table that is meant.
pub(crate) fn not_found(name: &TableRef, known: &[TableRef]) -> LakeError {
    let message = format!("table \"{name}\" not found");
    let names: Vec<String> = known.iter().map(ToString::to_string).collect();
    let same_name: Vec<&str> =
        known.iter().zip(&names).filter(|(t, _)| t.name == name.name).map(|(_, text)| text.as_str()).collect();
    let error = error::user("table-not-found", message);
    if !same_name.is_empty() {
        return error.remedy(format!("Did you mean {}?", same_name.join(" or ")));
    }
    match pinrail_model::near::nearest(&name.to_string(), names.iter().map(String::as_str)) {
        Some(near) => error.remedy(format!("Did you mean {near}?")),
        None => error.remedy("SHOW TABLES lists the tables."),
    }
}

/// Where the lake lives and what it may use.
#[derive(Debug, Clone)]
pub struct LakeConfig {
    /// The warehouse: a local folder that nobody else writes to.
    pub root: PathBuf,
    /// Where queries put what does not fit into memory.
    pub spill: PathBuf,
    /// Bytes of memory that all queries together may hold.
    pub memory: usize,
    /// Threads' worth of work that one query is cut into.
    pub partitions: usize,
}

impl LakeConfig {
    /// Memory of all queries together unless the caller says otherwise.
    pub const MEMORY: usize = 1 << 30;
    /// Parts of one query unless the caller says otherwise.
    pub const PARTITIONS: usize = 2;

    /// A warehouse folder with the defaults; spilled data goes beside it.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        let spill = root.with_extension("spill");
        Self { root, spill, memory: Self::MEMORY, partitions: Self::PARTITIONS }
    }
}
