//! A worker: joins a server, runs the processes that it is given, and reports what they do.
//!
//! It decides nothing. Its session is a lease that each answer of the server renews, counted from when the request was
//! sent, so that it ends here no later than there. When it has run out, or the server says that it is over, all processes
//! are killed before a new session begins.
//!
//! The two largest costs that a worker adds to a short job are the two requests between its steps (orders one way,
//! reports the other), and making its scratch folder a second time.

mod outbox;
mod sink;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pinrail_model::document::{ExecutorKind, JobKind, Sha};
use pinrail_model::fault::{Evidence, Fault, Reason};
use pinrail_model::ids::{AttemptId, SessionId};
use pinrail_model::names::ProjectName;
use pinrail_model::run::{Phase, Report, RetryWish, Verdict};
use pinrail_model::seam::exec::{Assignment, AttemptSink, Executor, Stream, Stretch};
use pinrail_model::step;
use pinrail_model::time::Clock;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::attempt::projects_scratch;
use crate::bundles::{Bundles, Manifest};
use crate::environments::{Code, Environments};
use crate::inputs::working_folder;
use crate::project::Project;
use crate::workers::wire::{Frame, Order, Run, SeenFolder};
use crate::workers::{Joined, Joining, PROTOCOL};
use outbox::Outbox;
use sink::{Asked, Teller};

/// How soon a server that does not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// How long a request may take that waits for nothing.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the server takes at most to say that there are no orders, and then some.
const ORDERS_PATIENCE: Duration = Duration::from_secs(10);
/// How long a large file may take on its way.
const FILE_PATIENCE: Duration = Duration::from_secs(300);
/// How long code that is not used stays: as long as people come back to it.
const KEPT: Duration = Duration::from_secs(30 * 86_400);
/// How much earlier than the server a worker takes its lease for over, so that clocks may run a little apart.
const MARGIN: u32 = 20;

/// How a worker reaches its server.
#[async_trait]
pub trait Line: Send + Sync {
    /// Posts JSON; gives the answer's.
    async fn post(&self, path: &str, body: Value, patience: Duration) -> Result<Value, LineError>;
    /// The bytes of an answer.
    async fn get(&self, path: &str, patience: Duration) -> Result<Vec<u8>, LineError>;
}

/// Why there is no answer, or no good one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    #[error("{0}")]
    Unreachable(String),
    #[error("{message}")]
    Refused { status: u16, code: String, message: String, hint: Option<String> },
}

/// What a worker is made of.
pub struct WorkParts {
    pub line: Arc<dyn Line>,
    pub clock: Arc<dyn Clock>,
    pub executors: HashMap<ExecutorKind, Arc<dyn Executor>>,
    pub bundles: Bundles,
    /// The worker's own folder.
    pub state: PathBuf,
    /// The Python interpreter of projects that name none.
    pub interpreter: PathBuf,
    pub environments: Arc<Environments>,
    /// Has all processes killed after so long, unless it is called again; with none, never. It works also while this
    /// process is frozen.
    pub guard: Box<dyn Fn(Option<Duration>) + Send + Sync>,
    /// Kills what carries an installation's name and these attempts' ids.
    pub kill_marked: fn(&str, &BTreeSet<String>),
}

/// As what a worker joins.
#[derive(Debug, Clone)]
pub struct Offer {
    pub name: String,
    pub labels: BTreeSet<String>,
    pub slots: u32,
    /// The projects whose processes have a user each; with none, all are the worker's own user's.
    pub users_of: BTreeSet<ProjectName>,
}

/// What a person wants of a worker that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    Work,
    /// Finish what there is, then end.
    Drain,
    /// End at once.
    End,
}

/// What a worker tells whoever watches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Joined {
        name: String,
        slots: u32,
    },
    /// The server cannot be reached, and is asked again and again.
    Waiting(String),
    /// The session is over, and with it all processes.
    Lost(String),
    Draining,
}

/// The session before, as it is kept on disk: a worker that was killed says with its next start that nothing of it lives.
#[derive(Serialize, Deserialize)]
struct Former {
    session: SessionId,
    installation: String,
}

impl Former {
    /// By what the processes of the session are known. Another worker on this machine may have the same attempts later,
    /// and nobody is to take its processes for these.
    fn mark(&self) -> String {
        format!("{}/{}", self.installation, self.session)
    }
}

/// Works until it is drained or ended.
///
/// # Errors
/// When the server refuses the worker for good.
pub async fn work(
    parts: WorkParts,
    offer: Offer,
    wish: watch::Receiver<Wish>,
    say: impl Fn(Said) + Send + Sync,
) -> Result<(), LineError> {
    let parts = Arc::new(parts);
    let mut former = read_former(&parts.state);
    if let Some(former) = &former {
        end_leftovers(&parts, former);
    }
    clear_scratch(&parts.state);
    parts.bundles.forget_before(parts.clock.now().wall.minus(KEPT));
    loop {
        let Some((joined, sent)) = join(&parts, &offer, former.as_ref(), &mut wish.clone(), &say).await? else {
            return Ok(());
        };
        let now = Former { session: joined.session, installation: joined.installation.clone() };
        write_former(&parts.state, &now);
        step!("work.joined");
        say(Said::Joined { name: offer.name.clone(), slots: offer.slots });
        let over = serve(&parts, &joined, now.mark(), sent, wish.clone(), &say).await;
        match over {
            Over::Home => {
                forget_former(&parts.state);
                return Ok(());
            }
            Over::Lost(why) => {
                say(Said::Lost(why));
                former = Some(now);
            }
        }
    }
}

/// How a session ended.
enum Over {
    /// Nothing is left to do, and nothing lives.
    Home,
    Lost(String),
}

/// Joins, as soon as the server can be reached and lets it; gives also when the request was sent. None: it is no longer
/// wanted.
async fn join(
    parts: &WorkParts,
    offer: &Offer,
    former: Option<&Former>,
    wish: &mut watch::Receiver<Wish>,
    say: &(impl Fn(Said) + Send + Sync),
) -> Result<Option<(Joined, Duration)>, LineError> {
    let joining = Joining {
        protocol: PROTOCOL,
        name: offer.name.clone(),
        labels: offer.labels.clone(),
        slots: offer.slots,
        users_of: offer.users_of.clone(),
        former: former.map(|former| former.session),
    };
    let mut waits = None;
    loop {
        if *wish.borrow() > Wish::Work {
            return Ok(None);
        }
        let sent = parts.clock.now().mono;
        let answer = parts.line.post("/workers", json!(joining), PATIENCE).await;
        let why = match answer {
            Ok(answer) => match serde_json::from_value(answer) {
                Ok(joined) => return Ok(Some((joined, sent))),
                Err(error) => error.to_string(),
            },
            // The other one of the name may be this one's own predecessor, whose lease runs out.
            Err(LineError::Refused { code, message, .. }) if code == "worker-exists" => message,
            Err(LineError::Refused { status, message, .. }) if status >= 500 || status == 429 => message,
            Err(refused @ LineError::Refused { .. }) => return Err(refused),
            Err(LineError::Unreachable(message)) => message,
        };
        if waits.as_ref() != Some(&why) {
            say(Said::Waiting(why.clone()));
            waits = Some(why);
        }
        tokio::select! {
            () = tokio::time::sleep(ASK_AGAIN) => {}
            // Looked at above.
            _ = wish.changed() => {}
        }
    }
}

/// One session.
struct Serving {
    parts: Arc<WorkParts>,
    session: SessionId,
    mark: String,
    lease: Duration,
    heartbeat: Duration,
    outbox: Arc<Outbox>,
    stretches: Mutex<HashMap<u64, Under>>,
    /// Until when, on the monotonic clock, the lease is known to last.
    until: watch::Sender<Duration>,
    /// Why the session is over.
    over: watch::Sender<Option<String>>,
    /// The server has nothing more for this worker.
    home: watch::Sender<bool>,
    /// The server did not answer last, and that was told.
    away: AtomicBool,
}

/// A stretch that is under way.
struct Under {
    attempt: AttemptId,
    stop: watch::Sender<bool>,
    asked: Arc<Asked>,
}

async fn serve(
    parts: &Arc<WorkParts>,
    joined: &Joined,
    mark: String,
    sent: Duration,
    mut wish: watch::Receiver<Wish>,
    say: &(impl Fn(Said) + Send + Sync),
) -> Over {
    let lease = Duration::from_millis(joined.lease_ms);
    let lease = lease - lease / MARGIN;
    let serving = Arc::new(Serving {
        parts: Arc::clone(parts),
        session: joined.session,
        mark,
        lease,
        heartbeat: Duration::from_millis(joined.heartbeat_ms),
        outbox: Arc::default(),
        stretches: Mutex::default(),
        until: watch::Sender::new(sent + lease),
        over: watch::Sender::new(None),
        home: watch::Sender::new(false),
        away: AtomicBool::new(false),
    });
    serving.renew(sent);
    let mut tasks = JoinSet::new();
    tasks.spawn(Arc::clone(&serving).report());
    tasks.spawn(Arc::clone(&serving).obey());
    tasks.spawn(Arc::clone(&serving).watch_lease());
    let (mut over, mut home) = (serving.over.subscribe(), serving.home.subscribe());
    let (mut ending, mut draining) = (wish.clone(), false);
    let end = loop {
        tokio::select! {
            biased;
            () = until(&mut over, Option::is_some) => {
                let why = over.borrow().clone();
                break Over::Lost(why.unwrap_or_default());
            }
            () = until(&mut home, |home| *home) => break Over::Home,
            () = until(&mut ending, |wish| *wish == Wish::End) => break Over::Home,
            () = until(&mut wish, |wish| *wish >= Wish::Drain), if !draining => {
                draining = true;
                say(Said::Draining);
                serving.outbox.say(Frame::Draining {});
                step!("work.draining");
            }
        }
    };
    tasks.shutdown().await;
    serving.end_everything().await;
    (parts.guard)(None);
    clear_scratch(&parts.state);
    if matches!(end, Over::Home) {
        step!("work.before-leave");
        // A server that cannot be told finds out by itself.
        let _ = parts.line.post("/workers/leave", json!({"session": joined.session}), PATIENCE).await;
    }
    end
}

/// Waits until something holds of what is watched, and keeps nobody from changing it afterwards.
async fn until<T>(watched: &mut watch::Receiver<T>, holds: impl FnMut(&T) -> bool) {
    if watched.wait_for(holds).await.is_err() {
        // It will never be changed again.
        std::future::pending().await
    }
}

impl Serving {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Under>> {
        self.stretches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server has answered a request that was sent then. One that waited for orders may have been sent long before
    /// another that is answered already, and makes nothing shorter.
    fn renew(&self, sent: Duration) {
        self.until.send_if_modified(|until| {
            let later = sent + self.lease > *until;
            *until = (sent + self.lease).max(*until);
            later
        });
        let until = *self.until.borrow();
        (self.parts.guard)(Some(until.saturating_sub(self.parts.clock.now().mono)));
    }

    fn is_over(&self, why: String) {
        self.over.send_if_modified(|over| over.is_none().then(|| *over = Some(why)).is_some());
    }

    /// Ends the session when the lease has run out, and not before.
    async fn watch_lease(self: Arc<Self>) {
        loop {
            let rest = self.until.borrow().saturating_sub(self.parts.clock.now().mono);
            if rest.is_zero() {
                let seconds = self.lease.as_secs();
                return self.is_over(format!("the server could not be reached for {seconds} s"));
            }
            tokio::time::sleep(rest).await;
        }
    }

    /// What an answer means for the session; true: it goes on.
    async fn goes_on<T>(&self, answer: Result<T, LineError>, sent: Duration) -> Option<T> {
        match answer {
            Ok(answer) => {
                self.away.store(false, Ordering::Relaxed);
                self.renew(sent);
                Some(answer)
            }
            Err(LineError::Refused { status: 400..=499, message, .. }) => {
                self.is_over(message);
                // Whoever watches that ends this.
                std::future::pending().await
            }
            Err(error) => {
                if !self.away.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "the server does not answer and is asked again");
                }
                tokio::time::sleep(ASK_AGAIN).await;
                None
            }
        }
    }

    /// Sends what there is to say, and otherwise that this lives.
    async fn report(self: Arc<Self>) {
        loop {
            if self.outbox.is_empty() {
                // Either there is something, or it is time.
                let _ = tokio::time::timeout(self.heartbeat, self.outbox.news.notified()).await;
            }
            let (first, frames) = self.outbox.next();
            let said = !frames.is_empty();
            let body = json!({"session": self.session, "first": first, "frames": frames});
            let sent = self.parts.clock.now().mono;
            let answer = self.parts.line.post("/workers/reports", body, PATIENCE).await;
            if let Some(answer) = self.goes_on(answer, sent).await {
                if said {
                    step!("work.after-report");
                }
                self.outbox.heard(answer["last"].as_u64().unwrap_or(0));
            }
        }
    }

    /// Asks for orders and carries them out.
    async fn obey(self: Arc<Self>) {
        let mut after = 0;
        let mut tasks = JoinSet::new();
        loop {
            let path = format!("/workers/orders?session={}&after={after}", self.session);
            let sent = self.parts.clock.now().mono;
            let answer = self.parts.line.get(&path, ORDERS_PATIENCE).await;
            let Some(bytes) = self.goes_on(answer, sent).await else { continue };
            let orders: Orders = match serde_json::from_slice(&bytes) {
                Ok(orders) => orders,
                Err(error) => return self.is_over(format!("the server gave an order that is not understood: {error}")),
            };
            for (number, order) in orders.orders.into_iter().filter(|(number, _)| *number > after).collect::<Vec<_>>() {
                after = number;
                self.carry_out(order, &mut tasks);
            }
            while tasks.try_join_next().is_some() {}
        }
    }

    fn carry_out(self: &Arc<Self>, order: Order, tasks: &mut JoinSet<()>) {
        match order {
            Order::Run(run) => {
                step!("work.before-start");
                let (stop, asked) = (watch::Sender::new(false), Arc::<Asked>::default());
                let teller = Teller {
                    stretch: run.stretch,
                    outbox: Arc::clone(&self.outbox),
                    scratch: self.scratch(&run.assignment.project, run.assignment.attempt),
                    stop: stop.subscribe(),
                    asked: Arc::clone(&asked),
                    left_out: Default::default(),
                };
                let under = Under { attempt: run.assignment.attempt, stop, asked };
                self.lock().insert(run.stretch, under);
                let serving = Arc::clone(self);
                tasks.spawn(async move {
                    let stretch = run.stretch;
                    let end = serving.run(*run, &teller).await;
                    step!("work.before-end");
                    serving.lock().remove(&stretch);
                    serving.outbox.say(Frame::End { stretch, end });
                });
            }
            Order::Reply { stretch, ask, reply } => {
                if let Some(under) = self.lock().get(&stretch) {
                    under.asked.answered(ask, reply);
                }
            }
            Order::Stopping { stretch } => {
                if let Some(under) = self.lock().get(&stretch) {
                    under.stop.send_replace(true);
                }
            }
            Order::Stop { stop, attempt, grace_ms } => {
                self.lock().values().filter(|under| under.attempt == attempt).for_each(|under| {
                    under.stop.send_replace(true);
                });
                let serving = Arc::clone(self);
                tasks.spawn(async move {
                    for executor in serving.parts.executors.values() {
                        executor.stop(attempt, Duration::from_millis(grace_ms)).await;
                    }
                    serving.outbox.say(Frame::Stopped { stop });
                });
            }
            Order::Forget { attempt } => {
                for folder in scratch_folders(&self.parts.state) {
                    let scratch = folder.join(attempt.to_string());
                    remove(&scratch);
                    remove(&scratch.with_extension("folder"));
                }
            }
            Order::Leave {} => {
                self.home.send_replace(true);
            }
        }
    }

    async fn run(&self, run: Run, teller: &Teller) -> Stretch {
        let phase = run.assignment.phases.first().copied();
        let Some(executor) = self.parts.executors.get(&run.executor).cloned() else {
            let message = format!("executor \"{}\" is not available at this worker", run.executor);
            let evidence = Evidence::new(message).reason(Reason::ExecutorMissing);
            return Stretch::Failed(Verdict::failed(Fault::User, phase, evidence));
        };
        let assignment = tokio::select! {
            biased;
            () = teller.stopped() => return Stretch::Lost,
            assignment = self.place(run, teller) => assignment,
        };
        match assignment {
            Ok(assignment) => executor.run(&assignment, teller).await,
            Err((fault, evidence)) => {
                let remedy = evidence.remedy.as_ref().map_or_else(String::new, |remedy| format!("\nhint: {remedy}"));
                let text = format!("error: {}{remedy}", evidence.message);
                teller.log(phase, Stream::System, text.as_bytes());
                // What is wrong with the code is as wrong at the next try.
                let retry = if fault == Fault::User { RetryWish::Never } else { RetryWish::None };
                Stretch::Failed(Verdict { retry, ..Verdict::failed(fault, phase, evidence) })
            }
        }
    }

    /// The assignment with the places of this machine.
    async fn place(&self, run: Run, teller: &Teller) -> Result<Assignment, (Fault, Evidence)> {
        let platform = |message: String, reason| (Fault::Platform, Evidence::new(message).reason(reason));
        let Run { mut assignment, project, .. } = run;
        let root = self.bundle(&assignment.project, assignment.code.bundle).await;
        let root = root.map_err(|message| platform(message, Reason::CodeMissing))?;
        let project = project.filter(|seen| SeenFolder::look(&seen.path).as_ref() == Some(seen)).map(|seen| seen.path);
        let scratch = self.scratch(&assignment.project, assignment.attempt);
        let settings = Project::read_bundle(&root, &assignment.project).ok();
        if let Some(settings) = &settings {
            let (bundle, folder) = (assignment.code.bundle, project.as_deref());
            let code = Code { project: &assignment.project, bundle, root: &root, folder, settings };
            assignment.code.interpreter = code.interpreter(&self.parts.interpreter);
            let tell = |words: &str| teller.log(assignment.phases.first().copied(), Stream::System, words.as_bytes());
            let equipped = self.parts.environments.ensure(code, &assignment.job.extras, &tell).await;
            if let Some(environment) = equipped.map_err(|error| error.fault())? {
                assignment.code.interpreter = environment.python();
                if assignment.phases.contains(&Phase::Setup) {
                    teller.report(Report::Equipped { environment: environment.digest });
                }
                assignment.code.environment = Some(environment.folder);
            }
        } else {
            assignment.code.interpreter.clone_from(&self.parts.interpreter);
        }
        assignment.env.insert("PINRAIL_INSTALLATION".to_owned(), self.mark.clone());
        assignment.env.insert("TMPDIR".to_owned(), scratch.display().to_string());
        assignment.folder.clone_from(&root);
        // Beside the scratch folder, in which names may be anybody's.
        let (target, state) = (scratch.with_extension("folder"), self.parts.state.clone());
        let links = match (&project, settings, assignment.job.kind) {
            (Some(folder), Some(settings), kind) if kind != JobKind::Class && settings.files.is_some() => {
                Some((folder.clone(), settings))
            }
            _ => None,
        };
        let (made, from) = (scratch.clone(), root.clone());
        let folder = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&made)?;
            let Some((folder, settings)) = links else { return Ok(None) };
            working_folder(&target, &from, &folder, &settings, &state)
        });
        let folder = folder.await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        let failed = |e: std::io::Error| {
            platform(format!("the attempt's folders cannot be made at the worker: {e}"), Reason::MachineFailed)
        };
        if let Some(folder) = folder.map_err(failed)? {
            assignment.folder = folder;
        }
        assignment.code.root = root;
        assignment.code.project = project;
        assignment.scratch = scratch;
        Ok(assignment)
    }

    /// The unpacked bundle, fetched if it is not here.
    async fn bundle(&self, project: &ProjectName, sha: Sha) -> Result<PathBuf, String> {
        let bundles = &self.parts.bundles;
        if let Some(root) = bundles.at_hand(sha) {
            return Ok(root);
        }
        let fetch = |what: String| async move {
            let path = format!("/workers/{what}&session={}", self.session);
            loop {
                match self.parts.line.get(&path, FILE_PATIENCE).await {
                    Ok(bytes) => return Ok(bytes),
                    Err(LineError::Unreachable(_)) => tokio::time::sleep(ASK_AGAIN).await,
                    Err(refused) => return Err(format!("the code cannot be had from the server: {refused}")),
                }
            }
        };
        let manifest = fetch(format!("bundle?project={project}&sha={sha}")).await?;
        let manifest: Manifest = serde_json::from_slice(&manifest).map_err(|e| e.to_string())?;
        if crate::bundles::sha(&manifest) != sha {
            return Err(format!("bundle {} came with other files than it has", sha.short()));
        }
        for blob in bundles.missing(&manifest) {
            let bytes = fetch(format!("blob?sha={blob}")).await?;
            let bundles = bundles.clone();
            let kept = tokio::task::spawn_blocking(move || bundles.put(&bytes)).await.map_err(|e| e.to_string())?;
            if kept.map_err(|e| e.to_string())? != blob {
                return Err(format!("file {} of bundle {} came damaged", blob.short(), sha.short()));
            }
        }
        let bundles = bundles.clone();
        let unpacked = tokio::task::spawn_blocking(move || bundles.unpack(&manifest)).await;
        unpacked.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
    }

    fn scratch(&self, project: &ProjectName, attempt: AttemptId) -> PathBuf {
        projects_scratch(&self.parts.state).join(project.as_str()).join(attempt.to_string())
    }

    /// Kills all that was started in the session; returns when nothing of it lives.
    async fn end_everything(&self) {
        let attempts: BTreeSet<AttemptId> = {
            let stretches = self.lock();
            stretches.values().for_each(|under| {
                under.stop.send_replace(true);
            });
            stretches.values().map(|under| under.attempt).collect()
        };
        let stops = attempts
            .iter()
            .flat_map(|attempt| self.parts.executors.values().map(|executor| executor.stop(*attempt, Duration::ZERO)));
        // Also what an executor was just about to start.
        (self.parts.guard)(Some(Duration::ZERO));
        futures::future::join_all(stops).await;
    }
}

#[derive(Deserialize)]
struct Orders {
    orders: Vec<(u64, Order)>,
}

/// The folders of projects in which attempts have theirs.
fn scratch_folders(state: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(projects_scratch(state)).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Removes a folder. What cannot be removed is removed with the next session's begin.
fn remove(folder: &Path) {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(folder = %folder.display(), %error, "a scratch folder cannot be removed");
        }
        _ => {}
    }
}

/// Nothing lives of the attempts whose folders are there.
fn clear_scratch(state: &Path) {
    remove(&projects_scratch(state));
}

/// Kills what a worker that was killed has left, which is known by its scratch folders.
fn end_leftovers(parts: &WorkParts, former: &Former) {
    let folders = scratch_folders(&parts.state);
    let entries = folders.iter().flat_map(std::fs::read_dir).flatten().flatten();
    let attempts: BTreeSet<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    if !attempts.is_empty() {
        (parts.kill_marked)(&former.mark(), &attempts);
    }
}

fn former_file(state: &Path) -> PathBuf {
    state.join("session.json")
}

fn read_former(state: &Path) -> Option<Former> {
    serde_json::from_slice(&std::fs::read(former_file(state)).ok()?).ok()
}

/// Without it a killed worker's next session begins all the same, only what it held is found lost later.
fn write_former(state: &Path, former: &Former) {
    let text = serde_json::to_string(former).unwrap_or_default();
    let temporary = state.join("session.json.new");
    if let Err(error) = std::fs::write(&temporary, text).and_then(|()| std::fs::rename(temporary, former_file(state))) {
        tracing::warn!(%error, "the session cannot be noted");
    }
}

fn forget_former(state: &Path) {
    let _ = std::fs::remove_file(former_file(state));
}
