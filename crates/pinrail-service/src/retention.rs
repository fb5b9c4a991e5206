//! Forgets what nobody needs any more: old history, old logs, bundles that no run names, what attempts and requests left
//! behind. One pass after another, each of which looks at everything anew.
//!
//! Not responsible for which files of the warehouse nothing names: the lake tells.
//!
//! Invariants: a file goes only after the database has stopped naming it, or when it can be made again; so a pass may end
//! anywhere, and the next one goes on. Nothing is deleted while a backup or a request relies on its being there.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use pinrail_model::document::Sha;
use pinrail_model::ids::{AttemptId, Ids, fresh};
use pinrail_model::names::ProjectName;
use pinrail_model::seam::lake::Catalog;
use pinrail_model::seam::store::{
    Answer, Durability, Forget, Load, ProjectRow, Query, Store, StoreError, StoredRun, Transition, Who, Write,
};
use pinrail_model::step;
use pinrail_model::time::{Clock, Micros};

use crate::attempt::projects_scratch;
use crate::bundles::Bundles;
use crate::environments::{SHARED, Use, environments_folder, unshared, uses};
use crate::queries::results_folder;
use crate::replay::drop_scratch;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Logs are most of a state folder; a failure is looked into within a month or not at all.
const LOGS: Duration = DAY.saturating_mul(30);
/// Reports are looked at for a quarter; what must last is a table.
const FILES: Duration = DAY.saturating_mul(90);
/// How a run went, moment by moment; its tasks and attempts tell the rest for longer.
const EVENTS: Duration = DAY.saturating_mul(90);
/// Many rows an attempt; half a year shows any trend.
const COUNTERS: Duration = DAY.saturating_mul(180);
/// A month can be compared with the same month of the year before.
const RUNS: Duration = DAY.saturating_mul(400);
/// A client that repeats a request does so within a day.
const IDEMPOTENCY: Duration = DAY;
/// Whoever sent a command, or committed a transition, asks for the answer within a minute; a day covers a night.
const REPLIES: Duration = DAY;
/// A result is fetched within a day or asked for again.
const RESULTS: Duration = DAY;
/// Who asked what, for a month.
const QUERIES: Duration = DAY.saturating_mul(30);
/// Who was told of what, as long as who asked what.
const NOTICES: Duration = DAY.saturating_mul(30);
/// What tables were before, for whoever looks into a mistake within a month.
const TABLE_HISTORY: Duration = DAY.saturating_mul(30);
/// The tables of a replay, for whoever looks at them within a week; the run itself stays as others do.
const REPLAYS: Duration = DAY.saturating_mul(7);
/// A list of tokens tells for a month who could do what until lately.
const TOKENS: Duration = DAY.saturating_mul(30);
/// A bundle that was sent or checked but never run, or whose runs are forgotten.
const BUNDLES: Duration = DAY.saturating_mul(30);
/// Unpacked bundles are made again from their blobs in well under a second.
const UNPACKED: Duration = DAY.saturating_mul(7);
/// Compilations are made again in under a second.
const COMPILED: Duration = DAY.saturating_mul(30);
/// A Python environment is built again from its lock, but that takes minutes and an index that answers; those of deployed
/// versions stay.
const ENVIRONMENTS: Duration = DAY.saturating_mul(30);
/// What a statement wrote and nobody named is garbage at once; three days leave time to look into a crash, and are more
/// than any publication takes.
const ORPHANS: Duration = DAY.saturating_mul(3);
/// What was written or used so recently may be about to be named.
const GRACE: Duration = DAY;

/// How often a server that stays looks for what to forget, and how often one that serves single commands does.
const EVERY: Duration = Duration::from_secs(60 * 60);
const AT_MOST_EVERY: Duration = DAY;
/// Runs or rows that are forgotten in one transaction: nobody who writes waits longer for it.
const SLICE: u32 = 200;
/// Files that are deleted at once, and folders, which may hold thousands: nobody who needs files waits longer for it.
const FILES_AT_ONCE: usize = 200;
const FOLDERS_AT_ONCE: usize = 1;
/// How often and how long it is tried to find a moment in which nobody relies on files.
const TRIES: u32 = 20;
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// When the last pass ended, and when orphans were last looked for, in files of the state folder.
const STAMP: &str = "retained";
const ORPHANS_STAMP: &str = "orphans-removed";

/// How long things are kept.
#[derive(Debug, Clone)]
pub struct Keep {
    pub logs: Duration,
    pub files: Duration,
    pub events: Duration,
    pub counters: Duration,
    pub runs: Duration,
    pub idempotency: Duration,
    pub replies: Duration,
    pub tokens: Duration,
    pub results: Duration,
    pub queries: Duration,
    pub notices: Duration,
    pub table_history: Duration,
    pub replays: Duration,
    pub bundles: Duration,
    pub unpacked: Duration,
    pub compiled: Duration,
    pub environments: Duration,
    pub orphans: Duration,
    pub grace: Duration,
}

impl Default for Keep {
    fn default() -> Self {
        Self {
            logs: LOGS,
            files: FILES,
            events: EVENTS,
            counters: COUNTERS,
            runs: RUNS,
            idempotency: IDEMPOTENCY,
            replies: REPLIES,
            tokens: TOKENS,
            results: RESULTS,
            queries: QUERIES,
            notices: NOTICES,
            table_history: TABLE_HISTORY,
            replays: REPLAYS,
            bundles: BUNDLES,
            unpacked: UNPACKED,
            compiled: COMPILED,
            environments: ENVIRONMENTS,
            orphans: ORPHANS,
            grace: GRACE,
        }
    }
}

/// The reconciler of one state folder.
pub struct Retention {
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    pub bundles: Bundles,
    /// None: no tables are served.
    pub catalog: Option<Arc<dyn Catalog>>,
    pub state: PathBuf,
    pub keep: Keep,
}

/// What one pass forgot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Runs or rows, by kind, all together.
    pub rows: u64,
    pub bundles: u64,
    /// Files and folders.
    pub files: u64,
}

impl Retention {
    /// Works until the server ends. One that stays makes a pass at its start and then every hour; one that serves a single
    /// command leaves it at one a day, or it would cost every command something.
    pub async fn work(self, stays: bool) {
        loop {
            if stays || self.is_due(STAMP) {
                match self.pass().await {
                    Ok(forgotten) => tracing::info!(?forgotten, "retention"),
                    // The next pass goes on from there.
                    Err(error) => tracing::warn!(%error, "a pass of retention ended early"),
                }
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    fn is_due(&self, stamp: &str) -> bool {
        let text = fs::read_to_string(self.state.join(stamp)).unwrap_or_default();
        let last: Option<i64> = text.trim().parse().ok();
        last.is_none_or(|last| self.before(AT_MOST_EVERY) > Micros(last))
    }

    fn stamp(&self, stamp: &str) {
        if let Err(error) = fs::write(self.state.join(stamp), self.clock.now().wall.0.to_string()) {
            tracing::warn!(%error, "the time of a pass of retention cannot be noted");
        }
    }

    fn before(&self, age: Duration) -> Micros {
        self.clock.now().wall.minus(age)
    }

    /// Forgets everything that is old enough now.
    ///
    /// # Errors
    /// When the state cannot be read or written. A file that cannot be deleted is reported and tried again next time.
    pub async fn pass(&self) -> Result<Forgotten, StoreError> {
        step!("retention.before-rows");
        let mut forgotten = Forgotten { rows: self.rows().await?, ..Forgotten::default() };
        forgotten.rows += self.replays().await?;
        forgotten.bundles = self.idle_bundles().await?;
        step!("retention.before-files");
        forgotten.files += self.logs().await?;
        forgotten.files += self.scratch().await?;
        forgotten.files += self.unpacked().await?;
        forgotten.files += self.compiled().await;
        forgotten.files += self.environments().await?;
        forgotten.files += self.results().await;
        forgotten.files += self.blobs().await?;
        forgotten.files += self.orphans().await;
        step!("retention.after-files");
        self.stamp(STAMP);
        Ok(forgotten)
    }

    async fn rows(&self) -> Result<u64, StoreError> {
        let keep = &self.keep;
        let ages = Forget::ALL.map(|what| match what {
            Forget::Runs => (what, keep.runs),
            Forget::Events => (what, keep.events),
            Forget::Counters => (what, keep.counters),
            Forget::Files => (what, keep.files),
            Forget::Idempotency => (what, keep.idempotency),
            Forget::Commands | Forget::Transitions => (what, keep.replies),
            Forget::Tokens => (what, keep.tokens),
            Forget::AdHocs => (what, keep.queries),
            Forget::Notices => (what, keep.notices),
            Forget::TableHistory => (what, keep.table_history),
        });
        // What is true of the tables now will be history of this age.
        let mark = Transition::new(fresh(self.ids.as_ref()), vec![Write::MarkCatalogs { at: self.clock.now().wall }]);
        self.store.commit(vec![mark], Durability::Waited).await?;
        let mut all = 0;
        for (what, age) in ages {
            loop {
                let count = self.store.forget(what, self.before(age), SLICE).await?;
                all += count;
                if count == 0 {
                    break;
                }
            }
        }
        Ok(all)
    }

    /// Drops the tables of old replays, of which nobody said that they may go.
    async fn replays(&self) -> Result<u64, StoreError> {
        let before = self.before(self.keep.replays);
        let Answer::Projects(projects) = self.store.read(&Who::default(), Query::Projects).await? else { return Ok(0) };
        let mut count = 0;
        for project in projects.into_iter().map(|row| row.name) {
            let query = Query::Targets { project: project.clone() };
            let Answer::Targets(targets) = self.store.read(&Who::default(), query).await? else { continue };
            for target in targets.iter().filter(|target| target.scratch.is_some_and(|at| at < before)) {
                match drop_scratch(self.store.as_ref(), self.ids.as_ref(), &project, target).await {
                    Ok(_) => count += 1,
                    Err(error) => tracing::warn!(%error, target = %target.name, "tables of a replay cannot be dropped"),
                }
            }
        }
        Ok(count)
    }

    async fn idle_bundles(&self) -> Result<u64, StoreError> {
        let before = self.before(self.keep.bundles);
        let Answer::Bundles(idle) = self.store.read(&Who::default(), Query::IdleBundles { before }).await? else {
            return Ok(0);
        };
        let mut count = 0;
        for (project, sha) in idle {
            let Some(_held) = self.moment().await else { break };
            // First the compilation: with its workflows gone from the database it would be a lie.
            if let Err(error) = remove_compiled(&self.state, &project, sha) {
                tracing::warn!(%error, %sha, "a compilation cannot be deleted");
                continue;
            }
            let drop = Transition::new(fresh(self.ids.as_ref()), vec![Write::DropBundle { project, sha, before }]);
            self.store.commit(vec![drop], Durability::Waited).await?;
            count += 1;
        }
        Ok(count)
    }

    /// Logs of attempts that ended long ago, or that no run has any more.
    async fn logs(&self) -> Result<u64, StoreError> {
        let before = self.before(self.keep.logs);
        // What began later cannot have ended before.
        let first = AttemptId::from_parts(u64::try_from(before.0 / 1000).unwrap_or(0), 0);
        let mut gone = Vec::new();
        let mut known: Option<(AttemptId, bool)> = None;
        for path in listed(&self.state.join("logs")).await {
            let Some(id) = attempt_of(&path).filter(|id| *id < first) else { continue };
            let old = match known {
                Some((last, old)) if last == id => old,
                _ => self.is_over(id).await?.is_none_or(|ended| ended.is_some_and(|ended| ended < before)),
            };
            known = Some((id, old));
            if old {
                gone.push(path);
            }
        }
        Ok(self.delete(gone, FILES_AT_ONCE, |_| true).await)
    }

    /// What is known of an attempt: none if nothing, else when it ended, if it is over.
    async fn is_over(&self, id: AttemptId) -> Result<Option<Option<Micros>>, StoreError> {
        let Answer::Attempt(found) = self.store.read(&Who::default(), Query::Attempt(id)).await? else {
            return Ok(None);
        };
        Ok(Some(found.attempt.ended_at.filter(|_| found.attempt.cleanup.is_some())))
    }

    /// Scratch folders of attempts that are over: usually the attempt's end removes them. Others, such as a backup's, by
    /// age.
    async fn scratch(&self) -> Result<u64, StoreError> {
        let before = self.before(self.keep.grace);
        let mut gone = Vec::new();
        let projects = projects_scratch(&self.state);
        let mut folders = listed(&self.state.join("scratch")).await;
        folders.retain(|path| *path != projects);
        for project in listed(&projects).await {
            folders.extend(listed(&project).await);
        }
        for path in folders {
            let old = match attempt_of(&path) {
                Some(id) => self.is_over(id).await?.is_none_or(|ended| ended.is_some()),
                None => is_older(&path, before),
            };
            if old {
                gone.push(path);
            }
        }
        Ok(self.delete(gone, FOLDERS_AT_ONCE, |_| true).await)
    }

    /// Unpacked bundles that were not used lately and that no unfinished run may need at this moment, with the modules that
    /// Python compiled for them.
    async fn unpacked(&self) -> Result<u64, StoreError> {
        let folder = self.bundles.unpacked().to_owned();
        let (unused, grace) = (self.before(self.keep.unpacked), self.before(self.keep.grace));
        let named = |path: &Path| path.file_name()?.to_str()?.parse::<Sha>().ok();
        // What has another name was being unpacked or deleted when its server died.
        let mut old: Vec<PathBuf> = listed(&folder).await;
        old.retain(|path| is_older(path, if named(path).is_some() { unused } else { grace }));
        if old.is_empty() {
            return Ok(0);
        }
        let unfinished = self.store.load(Load::Unfinished).await?;
        let used: BTreeSet<Sha> = unfinished
            .iter()
            .flat_map(|stored| stored.tasks.iter().map(|task| task.bundle).chain([stored.run.bundle]))
            .collect();
        old.retain(|path| named(path).is_none_or(|sha| !used.contains(&sha)));
        let cache = self.state.join("pycache");
        let of_users =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"user-"));
        let mut caches = listed(&cache).await;
        caches.retain(of_users);
        caches.push(cache);
        let modules = caches
            .iter()
            .flat_map(|cache| old.iter().map(move |path| cache.join(path.strip_prefix("/").unwrap_or(path))));
        let modules: Vec<PathBuf> = modules.filter(|path| path.exists()).collect();
        let count = self.delete(old, FOLDERS_AT_ONCE, move |path| is_older(path, unused)).await;
        // Of a bundle that was unpacked again meanwhile they are compiled again.
        Ok(count + self.delete(modules, FOLDERS_AT_ONCE, |_| true).await)
    }

    async fn compiled(&self) -> u64 {
        let before = self.before(self.keep.compiled);
        let mut old = listed(&self.state.join("compiled")).await;
        old.retain(|path| is_older(path, before));
        self.delete(old, FILES_AT_ONCE, |_| true).await
    }

    /// Python environments that were not used lately and that neither an unfinished run nor a deployed version may need,
    /// then files that only those had.
    async fn environments(&self) -> Result<u64, StoreError> {
        let folder = environments_folder(&self.state);
        let (unused, grace) = (self.before(self.keep.environments), self.before(self.keep.grace));
        let is_one = |path: &Path| path.file_name().and_then(|name| name.to_str()?.parse::<Sha>().ok()).is_some();
        let mut all = listed(&folder).await;
        // What has another name, but for the shared files, was being built when its server died.
        all.retain(|path| path.is_dir() && path.file_name().is_some_and(|name| name != SHARED));
        let needed = if all.is_empty() { BTreeSet::new() } else { self.needed_bundles().await? };
        let is_needed = |used: &Use| needed.contains(&(used.project.clone(), used.bundle));
        let is_old = |path: &Path| is_older(path, if is_one(path) { unused } else { grace });
        let (old, kept): (Vec<PathBuf>, Vec<PathBuf>) =
            all.into_iter().partition(|path| is_old(path) && !uses(path).iter().any(is_needed));
        // A project under work makes a bundle for each change: which ones used an environment long ago tells nobody anything.
        let uses = kept.iter().flat_map(|path| uses(path)).filter(|used| !is_needed(used));
        let markers: Vec<PathBuf> = uses.map(|used| used.marker).filter(|marker| is_older(marker, unused)).collect();
        let cache = self.state.join("pycache");
        let modules = old.iter().map(|path| cache.join(path.strip_prefix("/").unwrap_or(path)));
        let modules: Vec<PathBuf> = modules.filter(|path| path.exists()).collect();
        let mut count = self.delete(old, FOLDERS_AT_ONCE, move |path| is_older(path, unused.max(grace))).await;
        count += self.delete(modules, FOLDERS_AT_ONCE, |_| true).await;
        count += self.delete(markers, FILES_AT_ONCE, move |path| is_older(path, unused)).await;
        let shared = folder.join(SHARED);
        let unshared = tokio::task::spawn_blocking(move || unshared(&shared)).await.unwrap_or_default();
        Ok(count + self.delete(unshared, FILES_AT_ONCE, |_| true).await)
    }

    /// The bundles of unfinished runs and of deployed versions.
    async fn needed_bundles(&self) -> Result<BTreeSet<(ProjectName, Sha)>, StoreError> {
        let unfinished = self.store.load(Load::Unfinished).await?;
        let of_run = |stored: &StoredRun| {
            let bundles: Vec<Sha> = stored.tasks.iter().map(|task| task.bundle).chain([stored.run.bundle]).collect();
            bundles.into_iter().map(|bundle| (stored.run.project.clone(), bundle)).collect::<Vec<_>>()
        };
        let mut needed: BTreeSet<(ProjectName, Sha)> = unfinished.iter().flat_map(of_run).collect();
        let Answer::Projects(projects) = self.store.read(&Who::default(), Query::Projects).await? else {
            return Ok(needed);
        };
        for ProjectRow { name, .. } in projects {
            let query = Query::ActiveVersions { project: name.clone() };
            if let Answer::ActiveVersions(versions) = self.store.read(&Who::default(), query).await? {
                needed.extend(versions.into_iter().map(|version| (name.clone(), version.bundle)));
            }
        }
        Ok(needed)
    }

    /// Results of ad hoc queries.
    async fn results(&self) -> u64 {
        let before = self.before(self.keep.results);
        let mut old = listed(&results_folder(&self.state)).await;
        old.retain(|path| is_older(path, before));
        self.delete(old, FILES_AT_ONCE, |_| true).await
    }

    /// Blobs that nothing names.
    async fn blobs(&self) -> Result<u64, StoreError> {
        let before = self.before(self.keep.grace);
        let mut old = Vec::new();
        for folder in listed(self.bundles.blobs()).await {
            old.extend(listed(&folder).await.into_iter().filter(|path| is_older(path, before)));
        }
        if old.is_empty() {
            return Ok(0);
        }
        let Answer::Blobs(named) = self.store.read(&Who::default(), Query::Blobs).await? else { return Ok(0) };
        // What has another name was being written when its server died.
        let sha = |path: &Path| path.file_name()?.to_str()?.parse::<Sha>().ok();
        old.retain(|path| sha(path).is_none_or(|sha| !named.contains(&sha)));
        // One that somebody has begun to need since was used since.
        Ok(self.delete(old, FILES_AT_ONCE, move |path| is_older(path, before)).await)
    }

    /// Files of tables that nothing names. Telling them apart takes a look at all files, so once a day is enough.
    async fn orphans(&self) -> u64 {
        let Some(catalog) = self.catalog.as_ref().filter(|_| self.is_due(ORPHANS_STAMP)) else { return 0 };
        let before = self.before(self.keep.orphans);
        let orphans = match catalog.orphans(before).await {
            Ok(orphans) => orphans,
            Err(error) => {
                tracing::warn!(%error, "the files of tables that nothing names cannot be found");
                return 0;
            }
        };
        let found = !orphans.is_empty();
        let count = self.delete(orphans, FILES_AT_ONCE, move |path| is_older(path, before)).await;
        // During a backup nothing is deleted; then the next pass tries again.
        if count > 0 || !found {
            self.stamp(ORPHANS_STAMP);
        }
        count
    }

    /// A moment in which nobody relies on files, if there is one soon.
    async fn moment(&self) -> Option<tokio::sync::OwnedRwLockWriteGuard<()>> {
        for _ in 0..TRIES {
            if let Some(held) = self.bundles.sweep() {
                return Some(held);
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
        None
    }

    /// Deletes files or folders, so many at once, as far as `still` holds when nobody relies on them; gives how many.
    async fn delete(
        &self,
        paths: Vec<PathBuf>,
        at_once: usize,
        still: impl Fn(&Path) -> bool + Send + Sync + 'static,
    ) -> u64 {
        let still = Arc::new(still);
        let mut count = 0;
        for slice in paths.chunks(at_once) {
            let Some(held) = self.moment().await else { break };
            let (slice, still) = (slice.to_vec(), Arc::clone(&still));
            let deleted = tokio::task::spawn_blocking(move || {
                let _held = held;
                slice.iter().filter(|path| still(path) && delete(path)).count() as u64
            });
            count += deleted.await.unwrap_or(0);
        }
        count
    }
}

/// The paths in a folder, in order; none if it cannot be read.
async fn listed(folder: &Path) -> Vec<PathBuf> {
    let folder = folder.to_owned();
    let list = move || {
        let entries = fs::read_dir(&folder).into_iter().flatten();
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort_unstable();
        paths
    };
    tokio::task::spawn_blocking(list).await.unwrap_or_default()
}

/// The attempt that a log file or a scratch folder is named by.
fn attempt_of(path: &Path) -> Option<AttemptId> {
    path.file_name()?.to_str()?.split('.').next()?.parse().ok()
}

/// Whether something was last changed or used before a time. What cannot be looked at is left alone.
fn is_older(path: &Path, before: Micros) -> bool {
    let modified = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
    let age = modified.ok().and_then(|modified| modified.duration_since(UNIX_EPOCH).ok());
    age.and_then(|age| i64::try_from(age.as_micros()).ok()).is_some_and(|at| Micros(at) < before)
}

fn delete(path: &Path) -> bool {
    let deleted = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match deleted {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "retention cannot delete this");
            false
        }
    }
}

/// Where the compilation of a bundle is kept.
#[must_use]
pub fn compiled_file(state: &Path, project: &ProjectName, bundle: Sha) -> PathBuf {
    state.join("compiled").join(format!("{project}-{bundle}.json"))
}

/// Deletes the compilation of a bundle so that it does not come back after a power cut.
fn remove_compiled(state: &Path, project: &ProjectName, bundle: Sha) -> std::io::Result<()> {
    match fs::remove_file(compiled_file(state, project, bundle)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => fs::File::open(state.join("compiled"))?.sync_all(),
    }
}
