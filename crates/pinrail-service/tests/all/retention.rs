//! Retention on a clock of the test's own: what is old goes, what is named or used stays, and a pass may end anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use pinrail_model::document::{Document, ExecutorKind, Sha};
use pinrail_model::ids::{AttemptId, Ids, RunId, SessionId, TableId, TransitionId};
use pinrail_model::names::ProjectName;
use pinrail_model::run::{Cause, Class, CleanupEnd, Effects, Ending, Event, Graph, Outcome, Position, Run, apply};
use pinrail_model::seam::exec::Stream;
use pinrail_model::seam::lake::{Catalog, LakeError, PointerSwap, TableInfo, View, Written};
use pinrail_model::seam::store::{
    Answer, AttemptRow, BundleFile, BundleRow, CounterRow, Durability, EventRow, FileRow, ProjectRow, Query, RunRow,
    Store, TaskRow, Transition, VersionRow, Who, Write,
};
use pinrail_model::target::{Place, Target};
use pinrail_model::time::{Clock, Interval, Micros, Now};
use pinrail_service::bundles::{Bundles, Manifest, sha};
use pinrail_service::logs::LogWriter;
use pinrail_service::retention::{Keep, Retention, compiled_file};
use pinrail_store::SqliteStore;
use pinrail_testkit::faulty::Faulty;
use serde_json::json;

const DAY: i64 = 24 * 60 * 60 * 1_000_000;
/// Far enough from 1970 for everything to be older than today.
const TODAY: i64 = 1000;

struct Hands(AtomicI64);

impl Clock for Hands {
    fn now(&self) -> Now {
        Now { wall: Micros(self.0.load(Ordering::SeqCst)), mono: Duration::ZERO }
    }
}

struct Counted(AtomicU64);

impl Ids for Counted {
    fn parts(&self) -> (u64, u128) {
        ((TODAY * DAY / 1000) as u64, u128::from(self.0.fetch_add(1, Ordering::SeqCst)))
    }
}

struct State {
    folder: tempfile::TempDir,
    store: Arc<dyn Store>,
    clock: Arc<Hands>,
    bundles: Bundles,
    ids: Arc<Counted>,
}

fn project() -> ProjectName {
    "p".parse().unwrap()
}

fn place() -> Place {
    Place::plain(project())
}

fn document() -> serde_json::Value {
    json!({"format": 1, "workflow": "w", "source": {"file": "w.py", "line": 1},
           "jobs": [{"name": "a", "kind": "shell", "shell": ["true"]}]})
}

fn manifest(name: &str) -> Manifest {
    let file = BundleFile { sha: Sha::of(name.as_bytes()), size: name.len() as u64, executable: false };
    BTreeMap::from([("a.py".to_owned(), file)])
}

impl State {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(folder.path()).unwrap());
        let clock = Arc::new(Hands(AtomicI64::new(0)));
        let bundles = Bundles::new(folder.path(), clock.clone());
        Self { folder, store, clock, bundles, ids: Arc::new(Counted(AtomicU64::new(0))) }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn on_day(&self, day: i64) -> Micros {
        self.clock.0.store(day * DAY, Ordering::SeqCst);
        Micros(day * DAY)
    }

    fn retention(&self, store: Arc<dyn Store>) -> Retention {
        let (clock, ids, bundles) = (self.clock.clone(), self.ids.clone(), self.bundles.clone());
        Retention {
            store,
            clock,
            ids,
            bundles,
            catalog: None,
            state: self.folder.path().to_owned(),
            keep: Keep::default(),
        }
    }

    async fn commit(&self, writes: Vec<Write>, events: Vec<EventRow>) {
        let id = TransitionId::from_parts(1, u128::from(self.ids.0.fetch_add(1, Ordering::SeqCst)));
        let transition = Transition { events, ..Transition::new(id, writes) };
        self.store.commit(vec![transition], Durability::Waited).await.unwrap();
    }

    /// A bundle of one file, unpacked and compiled.
    async fn bundle(&self, name: &str, day: i64) -> Sha {
        let at = self.on_day(day);
        self.bundles.put(name.as_bytes()).unwrap();
        self.bundles.unpack(&manifest(name)).unwrap();
        let bundle = sha(&manifest(name));
        let file = compiled_file(self.folder.path(), &project(), bundle);
        write(&file, "{}");
        set_modified(&file, at);
        let version = VersionRow {
            project: project(),
            workflow: "w".parse().unwrap(),
            version: Sha::of(b"v"),
            bundle,
            document: document(),
            created_at: at,
        };
        let row = BundleRow { project: project(), sha: bundle, manifest: manifest(name), created_at: at };
        self.commit(vec![Write::Bundle(row), Write::Version(version)], Vec::new()).await;
        bundle
    }

    /// A run of a bundle with a log, a file for people, counters and history; over, unless it goes on.
    async fn run(&self, n: u64, bundle: Sha, day: i64, over: bool) -> (RunId, AttemptId) {
        let at = self.on_day(day);
        let millis = (at.0 / 1000) as u64;
        let document = Document::read(&document()).unwrap();
        let graph = Graph::new(&document.jobs, None);
        let mut run = Run {
            id: RunId::from_parts(millis, u128::from(n)),
            project: project(),
            target: None,
            workflow: document.workflow,
            class: Class::Interactive,
            cause: Cause::Request { by: "test".to_owned() },
            interval: Interval { start: Micros(0), end: Micros(1) },
            tz: "UTC".to_owned(),
            params: BTreeMap::new(),
            param_types: BTreeMap::new(),
            bundle,
            version: Sha::of(b"v"),
            created_at: at,
            started_at: None,
            ended_at: None,
            stop: None,
            pending: None,
            hold: None,
            jobs: None,
            replay_of: None,
            outside: BTreeMap::new(),
            executors: BTreeMap::new(),
            notify: None,
            tasks: Run::new_tasks(&graph, bundle, Sha::of(b"v")),
            graph: Arc::new(graph),
            open: Default::default(),
        };
        let id = AttemptId::from_parts(millis, u128::from(n));
        let now = Now { wall: at, mono: Duration::ZERO };
        let claimed = Event::Claimed {
            task: 0,
            attempt: id,
            session: SessionId::from_parts(1, 1),
            executor: ExecutorKind::Shell,
        };
        for event in [Event::Created, claimed] {
            apply(&mut run, &event, now, &mut Effects::default()).unwrap();
        }
        let task = Arc::make_mut(&mut run.tasks[0]);
        if over {
            run.ended_at = Some(at);
            task.position = Position::Done;
            task.ending = Some(Ending::Succeeded);
            let attempt = Arc::make_mut(task.attempts.last_mut().unwrap());
            attempt.ended_at = Some(at);
            attempt.outcome = Some(Outcome::Succeeded);
            attempt.cleanup = Some(CleanupEnd { ok: true, detail: None });
        }
        let (task, job) = (task.clone(), task.job.clone());
        let attempt = AttemptRow {
            run: run.id,
            project: project(),
            job,
            instance: String::new(),
            epoch: task.epoch,
            attempt: task.attempt().unwrap().clone(),
        };
        let text = format!("report {n}");
        let file = self.bundles.put(text.as_bytes()).unwrap();
        let counter = CounterRow {
            attempt: id,
            run: run.id,
            group: "user".to_owned(),
            name: "n".to_owned(),
            value: 1.0,
            unit: None,
        };
        let file = FileRow {
            run: run.id,
            attempt: id,
            job: task.name(),
            name: "r.txt".to_owned(),
            sha: file,
            size: text.len() as u64,
        };
        let event = |seq| EventRow { run: run.id, seq, at, kind: "k".to_owned(), job: None, data: json!({}) };
        let writes = vec![
            Write::Run(Box::new(RunRow { run: run.clone(), state: run.state().name(), unique_key: None })),
            Write::Task(Box::new(TaskRow { run: run.id, ix: 0, instance: String::new(), task })),
            Write::Attempt(Box::new(attempt)),
            Write::Counters(vec![counter]),
            Write::File(file),
        ];
        self.commit(writes, vec![event(1), event(2)]).await;
        LogWriter::new(&self.path("logs"), id, true).append(at, None, Stream::Stdout, b"said");
        write(&self.path(&format!("scratch/projects/p/{id}/left")), "x");
        write(&self.path(&format!("scratch/projects/p/{id}.socket")), "");
        (run.id, id)
    }

    /// All files and folders below the state folder, but for the database and the stamp of the last pass.
    fn listing(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        list(self.folder.path(), self.folder.path(), &mut found);
        found.retain(|path| !path.starts_with("state.db") && path != "retained");
        found
    }

    /// What the database says of everything that is looked at here.
    async fn rows(&self, runs: &[RunId]) -> Vec<String> {
        let who = Who::default();
        let mut said = Vec::new();
        for run in runs {
            let run = *run;
            let queries = [
                Query::Run(run),
                Query::Events { run, after: 0, limit: 9 },
                Query::Counters { run },
                Query::Files(run),
            ];
            for query in queries {
                said.push(format!("{:?}", self.store.read(&who, query).await.unwrap()));
            }
        }
        let before = Micros(i64::MAX);
        for query in [Query::Blobs, Query::IdleBundles { before }] {
            said.push(format!("{:?}", self.store.read(&who, query).await.unwrap()));
        }
        said
    }

    /// Every blob that the database names is there.
    async fn names_nothing_that_is_gone(&self) {
        let Answer::Blobs(named) = self.store.read(&Who::default(), Query::Blobs).await.unwrap() else {
            panic!("not blobs")
        };
        for sha in named {
            self.bundles.get(sha).unwrap();
        }
    }
}

fn list(root: &Path, folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        found.insert(entry.path().strip_prefix(root).unwrap().display().to_string());
        if entry.file_type().unwrap().is_dir() {
            list(root, &entry.path(), found);
        }
    }
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn set_modified(path: &Path, at: Micros) {
    let at = UNIX_EPOCH + Duration::from_micros(at.0 as u64);
    std::fs::File::open(path).unwrap().set_modified(at).unwrap();
}

/// A state of many ages; the runs of it.
async fn story(state: &State) -> Vec<RunId> {
    let (idle, old, live, recent) = (
        state.bundle("idle", 1).await,
        state.bundle("old", 1).await,
        state.bundle("live", 1).await,
        state.bundle("recent", TODAY).await,
    );
    assert_ne!(idle, old);
    let runs = vec![
        state.run(1, old, TODAY - 401, true).await.0,
        state.run(2, old, TODAY - 181, true).await.0,
        state.run(3, old, TODAY - 91, true).await.0,
        state.run(4, old, TODAY - 31, true).await.0,
        state.run(5, live, TODAY - 500, false).await.0,
        state.run(6, recent, TODAY - 1, true).await.0,
    ];
    // Left by servers that died: a blob half written, one that no row came to name, bundles half unpacked, a backup.
    for (path, day) in [
        ("blobs/ab/half.1f", 1),
        ("blobs/ab/fresh.1f", TODAY),
        ("bundles/half.1f", 1),
        ("bundles/fresh.1f", TODAY),
        ("scratch/backup-1f", 1),
        ("scratch/backup-2f", TODAY),
    ] {
        let file = state.path(path);
        if path.starts_with("blobs") {
            write(&file, "half");
        } else {
            std::fs::create_dir_all(&file).unwrap();
        }
        set_modified(&file, Micros(day * DAY));
    }
    state.on_day(2);
    state.bundles.put(b"never named").unwrap();
    write(
        &state
            .path("pycache")
            .join(state.path("bundles").strip_prefix("/").unwrap())
            .join(old.to_string())
            .join("a.pyc"),
        "x",
    );
    state.on_day(TODAY);
    state.bundles.put(b"about to be named").unwrap();
    runs
}

#[tokio::test(flavor = "multi_thread")]
async fn what_tables_were_is_forgotten_a_month_after_it_was_true() {
    let state = State::new();
    let swap = |expect: Option<&str>, new: &str| PointerSwap {
        id: TableId::from_parts(1, 1),
        table: "a.x".parse().unwrap(),
        expect: expect.map(str::to_owned),
        new: Some(new.to_owned()),
    };
    let old = async || state.store.find(&place(), &"a.x".parse().unwrap(), Some(1)).await.unwrap().is_some();
    state.store.swap(&place(), vec![swap(None, "1")]).await.unwrap();
    state.store.swap(&place(), vec![swap(Some("1"), "2")]).await.unwrap();
    for (day, there) in [(0, true), (29, true), (31, false)] {
        state.on_day(TODAY + day);
        state.retention(Arc::clone(&state.store)).pass().await.unwrap();
        assert_eq!(old().await, there, "after {day} days");
    }
    let now = state.store.find(&place(), &"a.x".parse().unwrap(), Some(2)).await.unwrap();
    assert_eq!(now.unwrap().location, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_a_replay_go_after_a_week_and_no_others() {
    let state = State::new();
    let at = state.on_day(TODAY);
    let target = |name: &str, scratch| {
        Arc::new(Target {
            name: name.parse().unwrap(),
            prefix: Some(name.parse().unwrap()),
            reads: Vec::new(),
            protected: false,
            schedules: false,
            vars: BTreeMap::new(),
            scratch,
        })
    };
    let write = |target| Write::Scratch { project: project(), target };
    let known = Write::Project(ProjectRow { name: project(), folder: None, created_at: at });
    state.commit(vec![known, write(target("replay_x", Some(at))), write(target("dev", None))], Vec::new()).await;
    let places = ["replay_x", "dev"].map(|name| Place { project: project(), prefix: Some(name.parse().unwrap()) });
    let made = |n| PointerSwap {
        id: TableId::from_parts(1, n),
        table: "a.x".parse().unwrap(),
        expect: None,
        new: Some("1".to_owned()),
    };
    for (n, place) in [1, 2].into_iter().zip(&places) {
        state.store.swap(place, vec![made(n)]).await.unwrap();
    }
    for (day, there) in [(6, true), (8, false)] {
        state.on_day(TODAY + day);
        state.retention(Arc::clone(&state.store)).pass().await.unwrap();
        assert_eq!(state.store.list(&places[0], None).await.unwrap().len() == 1, there, "after {day} days");
        assert_eq!(state.store.list(&places[1], None).await.unwrap().len(), 1, "a declared target keeps its tables");
    }
    let query = Query::Targets { project: project() };
    let Answer::Targets(left) = state.store.read(&Who::default(), query).await.unwrap() else { panic!("not targets") };
    assert_eq!(left.iter().map(|target| target.name.as_str()).collect::<Vec<_>>(), ["dev"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_goes_and_what_is_named_or_used_stays() {
    let state = State::new();
    let runs = story(&state).await;
    state.on_day(TODAY);
    let forgotten = state.retention(Arc::clone(&state.store)).pass().await.unwrap();
    assert!(forgotten.rows > 0 && forgotten.bundles == 1 && forgotten.files > 0, "{forgotten:?}");
    let who = Who::default();
    let mut kept = Vec::new();
    for run in &runs {
        let read = async |query| state.store.read(&who, query).await.unwrap();
        let there = matches!(read(Query::Run(*run)).await, Answer::Run(_));
        let Answer::Events(events) = read(Query::Events { run: *run, after: 0, limit: 9 }).await else { panic!() };
        let Answer::Counters(counters) = read(Query::Counters { run: *run }).await else { panic!() };
        let Answer::Files(files) = read(Query::Files(*run)).await else { panic!() };
        kept.push((there, events.len(), counters.len(), files.len()));
    }
    let expected =
        [(false, 0, 0, 0), (true, 1, 0, 0), (true, 1, 1, 0), (true, 2, 1, 1), (true, 2, 1, 1), (true, 2, 1, 1)];
    assert_eq!(kept, expected);
    let files = state.listing();
    let logs = files.iter().filter(|path| path.starts_with("logs/")).count();
    assert_eq!(logs, 2, "that of the live run and the recent one: {files:?}");
    let scratch: Vec<_> = files.iter().filter(|path| path.starts_with("scratch/")).collect();
    assert_eq!(
        scratch.len(),
        6,
        "the live attempt's folder with its file and those above it, its socket, and the backup of today: {scratch:?}"
    );
    let there = |path: &str| files.contains(path);
    assert!(there("bundles/fresh.1f") && !there("bundles/half.1f"));
    assert!(there("blobs/ab/fresh.1f") && !there("blobs/ab/half.1f"));
    let unpacked = |name: &str| there(&format!("bundles/{}", sha(&manifest(name))));
    assert_eq!(["idle", "old", "live", "recent"].map(unpacked), [false, false, true, true]);
    let blob = |text: &str| state.bundles.get(Sha::of(text.as_bytes())).is_ok();
    assert_eq!(["idle", "old", "live", "recent"].map(blob), [false, true, true, true]);
    assert_eq!(["report 3", "report 4", "never named", "about to be named"].map(blob), [false, true, false, true]);
    assert!(!files.iter().any(|path| path.ends_with("a.pyc")), "{files:?}");
    assert!(!there(&format!("compiled/p-{}.json", sha(&manifest("idle")))));
    // A bundle that a run names can be unpacked again.
    state.bundles.unpack(&manifest("old")).unwrap();
    state.names_nothing_that_is_gone().await;
    let again = state.retention(Arc::clone(&state.store)).pass().await.unwrap();
    assert_eq!((again.rows, again.bundles, again.files), (0, 0, 0), "a second pass finds nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_that_ends_anywhere_is_finished_by_the_next() {
    let whole = State::new();
    let runs = story(&whole).await;
    whole.on_day(TODAY);
    whole.retention(Arc::clone(&whole.store)).pass().await.unwrap();
    let (files, rows) = (whole.listing(), whole.rows(&runs).await);
    for calls in 0.. {
        let state = State::new();
        story(&state).await;
        state.on_day(TODAY);
        let faulty = Arc::new(Faulty::after(Arc::clone(&state.store), calls));
        let ended = state.retention(faulty.clone()).pass().await;
        assert_eq!(ended.is_err(), faulty.has_failed());
        state.names_nothing_that_is_gone().await;
        state.retention(Arc::clone(&state.store)).pass().await.unwrap();
        assert_eq!(state.rows(&runs).await, rows, "after {calls} calls");
        // The folder that Python's modules lie in is named by the state folder's own path.
        let without = |files: &BTreeSet<String>| -> Vec<String> {
            files.iter().filter(|path| !path.starts_with("pycache/")).cloned().collect()
        };
        assert_eq!(without(&state.listing()), without(&files), "after {calls} calls");
        if !faulty.has_failed() {
            assert!(calls > 10, "{calls}");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_while_somebody_relies_on_it() {
    let state = State::new();
    state.on_day(1);
    let blob = state.bundles.put(b"old").unwrap();
    state.on_day(TODAY);
    let held = state.bundles.hold().await;
    state.retention(Arc::clone(&state.store)).pass().await.unwrap();
    assert!(state.bundles.get(blob).is_ok(), "as during a backup");
    drop(held);
    // Whoever finds it still there has used it: its row may come within a day.
    let missing = state.bundles.missing(&manifest("old"));
    assert!(missing.is_empty());
    state.retention(Arc::clone(&state.store)).pass().await.unwrap();
    assert!(state.bundles.get(blob).is_ok());
    state.on_day(TODAY + 2);
    state.retention(Arc::clone(&state.store)).pass().await.unwrap();
    assert!(state.bundles.get(blob).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn environments_go_when_nobody_used_them_for_a_month_and_nobody_may_need_them() {
    let state = State::new();
    let [idle, deployed, running] =
        [state.bundle("idle", 1).await, state.bundle("deployed", 1).await, state.bundle("running", 1).await];
    let at = state.on_day(1);
    let row = ProjectRow { name: project(), folder: None, created_at: at };
    let active = Write::Activate {
        project: project(),
        target: None,
        bundle: deployed,
        versions: BTreeMap::from([("w".parse().unwrap(), Sha::of(b"v"))]),
        keep: BTreeSet::new(),
        at,
    };
    state.commit(vec![Write::Project(row), active], Vec::new()).await;
    state.run(1, running, 1, false).await;
    let environment = |name: &str, used: &[Sha], day: i64| {
        let folder = state.path("environments").join(name);
        write(&folder.join("lib/module.py"), name);
        for bundle in used {
            write(&folder.join(format!("used/p.{bundle}")), "");
        }
        set_modified(&folder, Micros(day * DAY));
        folder
    };
    let named = |text: &str| Sha::of(text.as_bytes()).to_string();
    let gone = [
        environment(&named("idle"), &[idle], TODAY - 31),
        environment(&named("nobody's"), &[], TODAY - 31),
        environment(&format!("{}.1f", named("half built")), &[], TODAY - 2),
    ];
    let stays = [
        environment(&named("deployed"), &[idle, deployed], 1),
        environment(&named("running"), &[running], 1),
        environment(&named("recent"), &[idle, deployed], TODAY - 29),
        environment(&format!("{}.1f", named("being built")), &[], TODAY),
    ];
    for bundle in [idle, deployed] {
        set_modified(&stays[2].join(format!("used/p.{bundle}")), Micros(DAY));
    }
    let shared = |name: &str| state.path("environments/files/ab").join(name);
    for (name, of) in [("only", &gone[0]), ("both", &gone[1])] {
        write(&shared(name), name);
        std::fs::hard_link(shared(name), of.join("lib/linked.py")).unwrap();
    }
    std::fs::hard_link(shared("both"), stays[0].join("lib/linked.py")).unwrap();
    write(&shared("left"), "by a build that died");
    let modules = state.path("pycache").join(gone[0].strip_prefix("/").unwrap());
    write(&modules.join("module.pyc"), "x");
    state.on_day(TODAY);
    state.retention(Arc::clone(&state.store)).pass().await.unwrap();
    assert_eq!(gone.map(|folder| folder.exists()), [false; 3]);
    assert_eq!(stays.each_ref().map(|folder| folder.join("lib/module.py").exists()), [true; 4]);
    assert_eq!(["only", "both", "left"].map(|name| shared(name).exists()), [false, true, false]);
    assert!(!modules.exists());
    // Who used it so long ago that it is of no interest is forgotten.
    assert_eq!([idle, deployed].map(|bundle| stays[2].join(format!("used/p.{bundle}")).exists()), [false, true]);
}

/// A warehouse in which nothing names these files.
struct Orphanage {
    files: Vec<PathBuf>,
    asked: AtomicU64,
}

#[async_trait]
impl Catalog for Orphanage {
    async fn list(&self, _view: &View) -> Result<Vec<TableInfo>, LakeError> {
        Ok(Vec::new())
    }

    async fn prepare(&self, _view: &View) -> Result<Vec<PointerSwap>, LakeError> {
        Ok(Vec::new())
    }

    async fn written(&self, _swaps: &[PointerSwap]) -> Result<Vec<Written>, LakeError> {
        Ok(Vec::new())
    }

    async fn orphans(&self, before: Micros) -> Result<Vec<PathBuf>, LakeError> {
        assert_eq!(before.0 % DAY, 0);
        self.asked.fetch_add(1, Ordering::SeqCst);
        Ok(self.files.iter().filter(|path| path.exists()).cloned().collect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_of_tables_go_once_a_day_and_not_during_a_backup() {
    let state = State::new();
    let (orphan, renewed) = (state.path("warehouse/a.parquet"), state.path("warehouse/b.parquet"));
    for (path, day) in [(&orphan, TODAY - 4), (&renewed, TODAY - 2)] {
        write(path, "rows");
        set_modified(path, state.on_day(day));
    }
    let files = vec![orphan.clone(), renewed.clone()];
    let catalog = Arc::new(Orphanage { files, asked: AtomicU64::new(0) });
    let asked = || catalog.asked.load(Ordering::SeqCst);
    let pass = || async {
        let retention = state.retention(Arc::clone(&state.store));
        Retention { catalog: Some(catalog.clone()), ..retention }.pass().await.unwrap().files
    };
    state.on_day(TODAY);
    let held = state.bundles.hold().await;
    assert_eq!((pass().await, orphan.exists()), (0, true), "as during a backup");
    drop(held);
    assert_eq!((pass().await, asked()), (1, 2), "and again as soon as it is over");
    assert!(!orphan.exists() && renewed.exists(), "what was written since it was found stays");
    assert_eq!((pass().await, asked()), (0, 2), "once a day");
    state.on_day(TODAY + 2);
    assert_eq!((pass().await, asked()), (1, 3));
    assert!(!renewed.exists());
}
