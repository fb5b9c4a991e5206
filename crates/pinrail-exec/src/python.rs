//! Python classes and functions: forked from a warm process that has the job's module loaded, or started cold.
//!
//! A warm process belongs to one (project, bundle, interpreter, module) and holds nothing of any attempt. Forking takes
//! a few milliseconds where a start takes a hundred; the two largest costs of a short job are the fork with its page
//! table copy, and the interpreter's own work at exit.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pinrail_model::document::{ExecutorKind, Sha};
use pinrail_model::ids::AttemptId;
use pinrail_model::names::ProjectName;
use pinrail_model::seam::exec::{Assignment, AttemptSink, Executor, Stretch};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use crate::channel::{Outputs, STREAMS_LINGER, Streams, account, converse, judge, socket};
use crate::commands::{CommandSocket, while_serving};
use crate::confine::{Around, Ruleset};
use crate::local::{ATTEMPT_VARIABLE, CACHE_VARIABLE, INSTALLATION_VARIABLE, Launcher, kill_strays};
use crate::process;
use crate::shell::{Ended, cannot, environment, no_scratch, of_environment, run_process, stop, uses};
use crate::wire::{Event, Exit, Inbox, Spawn, send};

/// Settings of the Python executor.
#[derive(Debug, Clone)]
pub struct PythonConfig {
    /// The folder that holds the `pinrail` package.
    pub sdk: PathBuf,
    /// Where compiled modules are kept, outside of the bundles.
    pub cache: PathBuf,
    /// A folder of programs that jobs find before all others.
    pub bin: PathBuf,
    /// Warm processes at the same time.
    pub most_warm: usize,
    /// Bytes of memory that unused warm processes may hold together.
    pub most_warm_memory: u64,
    /// How long an unused warm process stays.
    pub idle: Duration,
}

/// Runs Python; warm, or cold under the name of the shell executor.
#[derive(Debug)]
pub struct Python {
    launcher: Arc<Launcher>,
    config: PythonConfig,
    warm: Mutex<HashMap<Key, Arc<Warm>>>,
    serial: std::sync::atomic::AtomicU64,
}

type Key = (ProjectName, Sha, PathBuf, String);

impl Python {
    #[must_use]
    pub fn new(launcher: Arc<Launcher>, config: PythonConfig) -> Self {
        Self { launcher, config, warm: Mutex::default(), serial: std::sync::atomic::AtomicU64::new(0) }
    }

    /// What a job's process needs to find programs, our own first.
    pub(crate) fn programs(&self) -> BTreeMap<String, String> {
        let mut env = base_env();
        let path = env.get("PATH").map_or_else(|| DEFAULT_PATH.to_owned(), Clone::clone);
        env.insert("PATH".to_owned(), format!("{}:{path}", self.config.bin.display()));
        env
    }

    /// The environment of every Python process: what finding programs and modules needs, and nothing of the server's.
    fn env(&self) -> BTreeMap<String, String> {
        let mut env = self.programs();
        env.insert("PYTHONPATH".to_owned(), self.config.sdk.display().to_string());
        env.insert(CACHE_VARIABLE.to_owned(), self.config.cache.display().to_string());
        env.insert("PYTHONUNBUFFERED".to_owned(), "1".to_owned());
        env
    }

    /// Runs a stretch in a process of its own, as the `shell` executor does with classes.
    pub async fn run_cold(&self, assignment: &Assignment, sink: &dyn AttemptSink) -> Stretch {
        let (ours, theirs) = match socket() {
            Ok(pair) => pair,
            Err(error) => return cannot(error),
        };
        let socket = CommandSocket::open(&self.launcher, assignment, sink);
        let mut env = environment(self.env(), assignment, socket.as_ref());
        env.insert("PINRAIL_RUNNER_FD".to_owned(), "3".to_owned());
        let interpreter = assignment.code.interpreter.display().to_string();
        let spawn = Spawn {
            key: assignment.attempt.to_string(),
            argv: vec![interpreter, "-m".to_owned(), "pinrail.run".to_owned()],
            env,
            cwd: assignment.code.root.display().to_string(),
            memory: assignment.job.memory_bytes,
            data: assignment.job.memory_bytes,
            extra: 1,
            offline: false,
            project: Some(assignment.project.clone()),
            user: None,
            uses: uses(assignment),
            confined: false,
        };
        let outputs = Arc::new(Outputs::default());
        let both = async {
            let conversation = converse(ours, assignment, sink, Arc::clone(&outputs));
            tokio::join!(conversation, run_process(&self.launcher, spawn, vec![theirs], sink))
        };
        let (said, ended) = while_serving(socket.as_ref(), assignment, sink, &outputs, both).await;
        match ended {
            Ended::Exit(exit, over) => {
                account(exit, sink);
                judge(said, exit, over, assignment)
            }
            Ended::Refused(message, _) => cannot(message),
            Ended::Lost => Stretch::Lost,
        }
    }

    /// Runs a stretch in a fork of a warm process; none when it cannot be forked, and nothing has happened.
    async fn run_forked(&self, warm: &Warm, assignment: &Assignment, sink: &dyn AttemptSink) -> Option<Stretch> {
        // The folders of other attempts, which the warm process must reach for its own to be reached, are hidden again.
        let ruleset = self.launcher.ruleset(&uses(assignment)).ok()?;
        let (ours, theirs) = socket().ok()?;
        let mut streams = Streams::new().ok()?;
        let mut fds = vec![theirs];
        fds.append(&mut streams.theirs);
        let confined = ruleset.is_some();
        fds.extend(ruleset.map(Ruleset::into_fd));
        let key = assignment.attempt.to_string();
        let socket = CommandSocket::open(&self.launcher, assignment, sink);
        let env = environment(BTreeMap::new(), assignment, socket.as_ref());
        if sink.is_stopped() {
            return Some(Stretch::Lost);
        }
        let (pid, ended) = warm.fork(&key, &env, assignment.job.memory_bytes, fds, confined)?;
        let (mut out, mut err) = streams.ends();
        let watched = async {
            let mut over = None;
            let pid = match pid.await {
                Ok(Some(pid)) => pid,
                Ok(None) => return Fork::Failed,
                Err(_) => return Fork::Lost,
            };
            let mut news = self.launcher.watch(&key, pid, assignment.job.memory_bytes);
            if sink.is_stopped() {
                self.launcher.kill(&key, Duration::ZERO).await;
            }
            tokio::pin!(ended);
            let exit = loop {
                tokio::select! {
                    exit = &mut ended => break exit.ok(),
                    Some(event) = news.recv() => if let Event::OverMemory { bytes, .. } = event { over = Some(bytes) },
                }
            };
            // The launcher speaks before it kills, but by another way than the warm process tells of the death.
            let killed = exit.is_some_and(|exit| exit.signal == Some(libc::SIGKILL));
            if killed && over.is_none() && assignment.job.memory_bytes.is_some() {
                let news = tokio::time::timeout(NEWS_UNDER_WAY, news.recv()).await;
                if let Ok(Some(Event::OverMemory { bytes, .. })) = news {
                    over = Some(bytes);
                }
            }
            self.launcher.unwatch(&key);
            exit.map_or(Fork::Lost, |exit| Fork::Ended(exit, over))
        };
        let watched = async {
            let fork = watched.await;
            if matches!(fork, Fork::Lost) {
                // Nobody else may know of it any more: the launcher can have died as well, and its successor kills
                // only those that are waited for. What has escaped still holds the socket and the streams.
                kill_strays(installation(assignment), &key).await;
            }
            fork
        };
        let drained = Streams::drain(&mut out, &mut err, sink);
        tokio::pin!(drained);
        let mut open = true;
        let outputs = Arc::new(Outputs::default());
        let both = async { tokio::join!(converse(ours, assignment, sink, Arc::clone(&outputs)), watched) };
        let both = while_serving(socket.as_ref(), assignment, sink, &outputs, both);
        tokio::pin!(both);
        let (said, fork) = loop {
            tokio::select! {
                done = &mut both => break done,
                () = &mut drained, if open => open = false,
            }
        };
        if open && tokio::time::timeout(STREAMS_LINGER, &mut drained).await.is_err() {
            self.launcher.sweep(&key).await;
            drained.await;
        }
        match fork {
            Fork::Ended(exit, over) => {
                account(exit, sink);
                Some(judge(said, exit, over, assignment))
            }
            Fork::Lost => Some(Stretch::Lost),
            Fork::Failed => None,
        }
    }

    /// The warm process for a job, started if there is none and one may be had.
    async fn warm(&self, assignment: &Assignment) -> Option<Arc<Warm>> {
        let module = assignment.job.class.as_deref()?.rsplit_once('.')?.0.to_owned();
        let code = &assignment.code;
        let key: Key = (assignment.project.clone(), code.bundle, code.interpreter.clone(), module.clone());
        let around = self.launcher.around().ok()?;
        let warm = {
            let mut pool = lock(&self.warm);
            pool.retain(|_, warm| !warm.is_lost());
            match pool.get(&key) {
                Some(warm) if warm.reaches(&around) => Arc::clone(warm),
                _ => {
                    // One that does not reach what has come since it was started leaves when its last attempt has ended.
                    pool.remove(&key);
                    make_room(&mut pool, self.config.most_warm);
                    let warm = Arc::new(self.start_warm(assignment, &module)?);
                    pool.insert(key, Arc::clone(&warm));
                    warm
                }
            }
        };
        if warm.ready().await { Some(warm) } else { None }
    }

    /// Lets idle warm processes go, the longest unused first, until those that stay keep to their number and memory. While
    /// all are at work there may be more.
    fn trim(&self) {
        let mut pool = lock(&self.warm);
        let mut held: Vec<(Key, u64)> = pool.iter().map(|(key, warm)| (key.clone(), warm.memory())).collect();
        held.sort_by_key(|(key, _)| pool.get(key).map(|warm| warm.last_used()));
        let mut total: u64 = held.iter().map(|(_, bytes)| bytes).sum();
        for (key, bytes) in held {
            if total <= self.config.most_warm_memory && pool.len() <= self.config.most_warm.max(1) {
                return;
            }
            if pool.get(&key).is_some_and(|warm| warm.is_idle()) {
                pool.remove(&key);
                total -= bytes;
            }
        }
    }

    fn start_warm(&self, assignment: &Assignment, module: &str) -> Option<Warm> {
        let ruleset = self.launcher.ruleset(&warm_uses(assignment)).ok()?;
        let serial = self.serial.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let key = format!("warm-{serial}");
        let (ours, theirs) = UnixStream::pair().ok()?;
        let mut env = self.env();
        let environment = assignment.code.environment.iter();
        env.extend(environment.flat_map(|folder| of_environment(folder, env.get("PATH"))).collect::<Vec<_>>());
        env.insert("PINRAIL_WARM_FD".to_owned(), "3".to_owned());
        // A free place of the right length, into which each fork writes its attempt.
        env.insert(ATTEMPT_VARIABLE.to_owned(), "0".repeat(assignment.attempt.to_string().len()));
        env.insert(INSTALLATION_VARIABLE.to_owned(), installation(assignment).to_owned());
        let root = assignment.code.root.display().to_string();
        let interpreter = assignment.code.interpreter.display().to_string();
        let arguments = ["-m", "pinrail.warm", "--root", &root, "--module", module];
        let spawn = Spawn {
            key,
            argv: std::iter::once(interpreter.as_str()).chain(arguments).map(str::to_owned).collect(),
            env,
            cwd: root.clone(),
            memory: None,
            data: None,
            extra: 1,
            offline: false,
            project: Some(assignment.project.clone()),
            user: None,
            uses: warm_uses(assignment),
            confined: false,
        };
        // What a warm process prints belongs to no attempt; children print to streams of their own.
        let null = || std::fs::OpenOptions::new().write(true).open("/dev/null").map(OwnedFd::from).ok();
        let news = self.launcher.spawn_with(spawn, &[null()?, null()?, theirs.into()], ruleset.as_ref());
        Warm::listen(ours, news, self.config.idle, ruleset)
    }
}

/// What a warm process uses of the state folder: its code, and the folder in which those of its attempts will be.
fn warm_uses(assignment: &Assignment) -> Vec<PathBuf> {
    let folders = assignment.scratch.parent().map(Path::to_owned);
    [Some(assignment.code.root.clone()), folders].into_iter().flatten().collect()
}

/// By what the processes of an assignment are known besides their attempt.
fn installation(assignment: &Assignment) -> &str {
    assignment.env.get(INSTALLATION_VARIABLE).map_or("", String::as_str)
}

/// What became of a fork of a warm process.
enum Fork {
    /// With the bytes by which it was over its memory limit, if it was.
    Ended(Exit, Option<u64>),
    Lost,
    /// There was none.
    Failed,
}

/// How long news of a killed process may be under way before it was killed by somebody else.
const NEWS_UNDER_WAY: Duration = Duration::from_millis(500);
/// Where programs are when the server itself was not told.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What a process needs to find programs; nothing else of the server's environment.
#[must_use]
pub fn base_env() -> BTreeMap<String, String> {
    let kept = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "USER"];
    let mut env: BTreeMap<String, String> =
        kept.into_iter().filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?))).collect();
    env.entry("LANG".to_owned()).or_insert_with(|| "C.UTF-8".to_owned());
    env
}

#[async_trait]
impl Executor for Python {
    fn kind(&self) -> ExecutorKind {
        ExecutorKind::Python
    }

    async fn run(&self, assignment: &Assignment, sink: &dyn AttemptSink) -> Stretch {
        if let Err(error) = std::fs::create_dir_all(&assignment.scratch) {
            return no_scratch(&error);
        }
        let warm = tokio::select! {
            biased;
            // Its module may take long to load.
            () = sink.stopped() => return Stretch::Lost,
            warm = self.warm(assignment) => warm,
        };
        if let Some(warm) = warm {
            let stretch = self.run_forked(&warm, assignment, sink).await;
            drop(warm);
            self.trim();
            if let Some(stretch) = stretch {
                return stretch;
            }
        }
        self.run_cold(assignment, sink).await
    }

    async fn stop(&self, attempt: AttemptId, grace: Duration) {
        stop(&self.launcher, &attempt.to_string(), grace).await;
    }

    fn warm(&self) -> usize {
        lock(&self.warm).values().filter(|warm| !warm.is_lost()).count()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets the longest unused warm processes go, so that one more fits.
fn make_room(pool: &mut HashMap<Key, Arc<Warm>>, most: usize) {
    while pool.len() >= most.max(1) {
        let idle = pool.iter().filter(|(_, warm)| warm.is_idle()).min_by_key(|(_, warm)| warm.last_used());
        let Some(key) = idle.map(|(key, _)| key.clone()) else { return };
        pool.remove(&key);
    }
}

/// One warm process. Dropping it closes its control socket, upon which it leaves.
#[derive(Debug)]
struct Warm {
    control: Arc<UnixStream>,
    shared: Arc<WarmShared>,
    ruleset: Option<Ruleset>,
    ready: tokio::sync::watch::Receiver<Option<bool>>,
}

#[derive(Debug)]
struct WarmShared {
    state: Mutex<WarmState>,
    lost: std::sync::atomic::AtomicBool,
}

#[derive(Debug)]
struct WarmState {
    /// Who waits for the id of a fork; none: there was none to be had.
    forked: HashMap<String, oneshot::Sender<Option<i32>>>,
    running: HashMap<String, oneshot::Sender<Exit>>,
    last_used: Instant,
    pid: Option<i32>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
enum WarmLine {
    Ready {
        threads: u32,
        #[serde(default)]
        confines: bool,
    },
    Forked {
        key: String,
        pid: i32,
    },
    ForkFailed {
        key: String,
        message: String,
    },
    Exited {
        key: String,
        #[serde(flatten)]
        exit: Exit,
    },
    #[serde(other)]
    Unknown,
}

type Forked = (oneshot::Receiver<Option<i32>>, oneshot::Receiver<Exit>);

impl Warm {
    fn listen(
        control: UnixStream,
        mut news: mpsc::UnboundedReceiver<Event>,
        idle: Duration,
        ruleset: Option<Ruleset>,
    ) -> Option<Self> {
        let state = WarmState { forked: HashMap::new(), running: HashMap::new(), last_used: now(), pid: None };
        let shared = Arc::new(WarmShared { state: Mutex::new(state), lost: false.into() });
        let (say_ready, ready) = tokio::sync::watch::channel(None);
        let reader = control.try_clone().ok()?;
        let heard = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("warm".to_owned())
            .spawn(move || {
                hear(&reader, &heard, &say_ready);
                heard.lost.store(true, std::sync::atomic::Ordering::SeqCst);
                let mut state = lock(&heard.state);
                // Whoever waited learns of the loss by the end of their channel.
                state.forked.clear();
                state.running.clear();
            })
            .ok()?;
        let control = Arc::new(control);
        let (watched, socket) = (Arc::clone(&shared), Arc::downgrade(&control));
        tokio::spawn(async move {
            // Ends with the process; its exit is of no interest beyond that.
            let ended = async {
                while let Some(event) = news.recv().await {
                    if let Event::Started { pid, .. } = event {
                        lock(&watched.state).pid = Some(pid);
                    }
                }
            };
            tokio::pin!(ended);
            loop {
                tokio::select! {
                    () = &mut ended => break,
                    () = tokio::time::sleep(idle / 4) => {}
                }
                let Some(socket) = socket.upgrade() else { break };
                if watched.idle_for() >= Some(idle) {
                    watched.lost.store(true, std::sync::atomic::Ordering::SeqCst);
                    let _ = socket.shutdown(std::net::Shutdown::Both);
                    break;
                }
            }
        });
        Some(Self { control, shared, ruleset, ready })
    }

    /// Whether its forks can reach all that is there now.
    fn reaches(&self, around: &Around) -> bool {
        self.ruleset.as_ref().is_none_or(|own| own.covers(around))
    }

    /// Waits until the module is loaded. False when it must not be forked: it has threads, or it is gone.
    async fn ready(&self) -> bool {
        let mut ready = self.ready.clone();
        let usable = ready.wait_for(Option::is_some).await.map(|ready| *ready == Some(true));
        usable.unwrap_or(false)
    }

    fn fork(
        &self,
        key: &str,
        env: &BTreeMap<String, String>,
        memory: Option<u64>,
        fds: Vec<OwnedFd>,
        confined: bool,
    ) -> Option<Forked> {
        let (say_pid, pid) = oneshot::channel();
        let (say_exit, exit) = oneshot::channel();
        let mut state = lock(&self.shared.state);
        state.forked.insert(key.to_owned(), say_pid);
        state.running.insert(key.to_owned(), say_exit);
        state.last_used = now();
        let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let message = json!({"type": "fork", "key": key, "memory_bytes": memory, "env": env, "confined": confined});
        if self.is_lost() || send(&self.control, &message, &raw).is_err() {
            state.forked.remove(key);
            state.running.remove(key);
            return None;
        }
        Some((pid, exit))
    }

    fn is_lost(&self) -> bool {
        self.shared.lost.load(std::sync::atomic::Ordering::SeqCst)
    }

    fn is_idle(&self) -> bool {
        lock(&self.shared.state).running.is_empty()
    }

    fn last_used(&self) -> Instant {
        lock(&self.shared.state).last_used
    }

    /// Bytes of its resident memory.
    fn memory(&self) -> u64 {
        let pid = lock(&self.shared.state).pid;
        pid.and_then(process::one).map_or(0, |process| process.resident)
    }
}

impl Drop for Warm {
    fn drop(&mut self) {
        let _ = self.control.shutdown(std::net::Shutdown::Both);
    }
}

impl WarmShared {
    fn idle_for(&self) -> Option<Duration> {
        let state = lock(&self.state);
        state.running.is_empty().then(|| now().saturating_duration_since(state.last_used))
    }
}

#[allow(clippy::disallowed_methods, reason = "how long a process is unused is measured, not decided upon")]
fn now() -> Instant {
    Instant::now()
}

fn hear(control: &UnixStream, shared: &WarmShared, ready: &tokio::sync::watch::Sender<Option<bool>>) {
    let mut inbox = Inbox::default();
    while matches!(inbox.fill(control), Ok(true)) {
        while let Some(Ok(line)) = inbox.line::<WarmLine>() {
            let mut state = lock(&shared.state);
            match line {
                WarmLine::Ready { threads, confines } => {
                    if threads > 0 {
                        tracing::warn!(threads, "a module starts threads at import; its jobs are started cold");
                    }
                    ready.send_replace(Some(threads == 0 && confines));
                }
                WarmLine::Forked { key, pid } => {
                    if let Some(waiter) = state.forked.remove(&key) {
                        let _ = waiter.send(Some(pid));
                    }
                }
                WarmLine::ForkFailed { key, message } => {
                    tracing::warn!(attempt = key, message, "a warm process cannot be forked; the job is started cold");
                    state.running.remove(&key);
                    if let Some(waiter) = state.forked.remove(&key) {
                        let _ = waiter.send(None);
                    }
                }
                WarmLine::Exited { key, exit } => {
                    state.last_used = now();
                    if let Some(waiter) = state.running.remove(&key) {
                        let _ = waiter.send(exit);
                    }
                }
                WarmLine::Unknown => {}
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fork_that_failed_is_told_and_leaves_nothing_behind() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (_news, listened) = mpsc::unbounded_channel();
        let warm = Warm::listen(ours, listened, Duration::from_secs(60), None).unwrap();
        let (pid, _exit) = warm.fork("att_1", &BTreeMap::new(), None, Vec::new(), false).unwrap();
        send(&theirs, &json!({"type": "fork-failed", "key": "att_1", "message": "no memory"}), &[]).unwrap();
        assert_eq!(pid.await.unwrap(), None);
        assert!(warm.is_idle());
    }
}
