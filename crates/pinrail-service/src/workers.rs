//! Workers elsewhere: their sessions as the server has them, and the executor that runs an attempt's phases at one.
//!
//! A worker runs processes and nothing else. What an attempt means, its tables, its secrets and its log stay here: a
//! remote executor hands an assignment over and feeds what comes back into the same sink that a local one reports into.
//!
//! Not responsible for: which worker gets what, and when one counts as lost. The owner decides both, by its own clock.
//!
//! Invariants:
//! - a worker's lease ends for the worker no later than for the owner, and with it all its processes: so what was lost
//!   there is dead, or can do nothing more that counts;
//! - what a session says after its end is refused;
//! - nothing is started anew for an attempt before what was started for it elsewhere is gone.

mod requests;
pub(crate) mod wire;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use pinrail_model::document::ExecutorKind;
use pinrail_model::ids::{AttemptId, SessionId, TokenId};
use pinrail_model::seam::exec::{Assignment, AttemptSink, Executor, Request, RequestError, Stream, Stretch};
use pinrail_model::time::{Clock, Micros, Now};
use serde_json::Value;
use tokio::sync::{Notify, mpsc, oneshot, watch};

pub use wire::{Joined, Joining, PROTOCOL};

use crate::problem::Problem;
use wire::{Ask, Frame, Order, Run, SeenFolder};

/// How long a worker may be silent before it counts as lost.
pub const LEASE: Duration = Duration::from_secs(15);
/// Heartbeats in a lease: two may get lost on the way.
const BEATS: u32 = 3;
/// Orders that are given at once.
const MOST_ORDERS: usize = 100;
/// The longest name of a worker, and of a label.
const LONGEST_NAME: usize = 63;
/// Labels of one worker.
const MOST_LABELS: usize = 100;
/// Processes of one worker at the same time.
const MOST_SLOTS: u32 = 10_000;

/// All sessions.
pub struct Workers {
    clock: Arc<dyn Clock>,
    lease: Duration,
    /// Since when this server takes workers, on the monotonic clock.
    since: Duration,
    inner: Mutex<Inner>,
    /// Something about sessions of earlier servers has become clear.
    cleared: Notify,
}

#[derive(Default)]
struct Inner {
    sessions: BTreeMap<SessionId, Arc<Session>>,
    /// Where processes of an attempt were last started, if not here.
    places: HashMap<AttemptId, SessionId>,
    /// Sessions with an earlier server, whose processes may live until their leases have run out.
    doubtful: BTreeSet<SessionId>,
}

/// A worker as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub name: String,
    pub labels: BTreeSet<String>,
    pub slots: u32,
    pub since: Micros,
    pub beat_at: Micros,
}

impl Workers {
    /// No workers yet; each that comes has a lease of this length.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, lease: Duration) -> Arc<Self> {
        let since = clock.now().mono;
        Arc::new(Self { clock, lease, since, inner: Mutex::default(), cleared: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// What a worker is told that has joined.
    pub(crate) fn joined(&self, session: SessionId, installation: &str) -> Joined {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Joined {
            session,
            installation: installation.to_owned(),
            lease_ms: ms(self.lease),
            heartbeat_ms: ms(self.lease / BEATS),
        }
    }

    // For the owner.

    /// Takes a worker in, whom a token lets work.
    pub(crate) fn join(&self, id: SessionId, joining: &Joining, token: TokenId) {
        let now = self.clock.now();
        let session = Session {
            id,
            token,
            name: joining.name.clone(),
            labels: joining.labels.clone(),
            slots: joining.slots,
            since: now.wall,
            state: Mutex::new(SessionState { beat: now, ..SessionState::default() }),
            news: Notify::new(),
            closed: watch::Sender::new(false),
        };
        self.lock().sessions.insert(id, Arc::new(session));
    }

    /// The session of a worker by its name.
    pub(crate) fn named(&self, name: &str) -> Option<SessionId> {
        self.lock().sessions.values().find(|session| session.name == name).map(|session| session.id)
    }

    pub(crate) fn knows(&self, id: SessionId) -> bool {
        self.lock().sessions.contains_key(&id)
    }

    /// A worker that was with an earlier server, or with this one, says that nothing lives of a session.
    pub(crate) fn confirm(&self, former: SessionId) {
        if self.lock().doubtful.remove(&former) {
            self.cleared.notify_waiters();
        }
    }

    /// Ends a session: whatever waits for it learns that it is lost, and what it says from now on is refused.
    pub(crate) fn close(&self, id: SessionId) {
        if let Some(session) = self.lock().sessions.remove(&id) {
            session.closed.send_replace(true);
            session.news.notify_waiters();
        }
    }

    /// Sessions whose lease has run out.
    pub(crate) fn overdue(&self) -> Vec<SessionId> {
        let now = self.clock.now().mono;
        let over = |session: &&Arc<Session>| lock(&session.state).beat.mono + self.lease <= now;
        self.lock().sessions.values().filter(over).map(|session| session.id).collect()
    }

    /// How long it is at least until a lease runs out.
    pub(crate) fn until_overdue(&self) -> Option<Duration> {
        let now = self.clock.now().mono;
        let due = |session: &Arc<Session>| (lock(&session.state).beat.mono + self.lease).saturating_sub(now);
        self.lock().sessions.values().map(due).min()
    }

    /// Whether nothing of any attempt runs at a worker.
    pub(crate) fn is_empty(&self, id: SessionId) -> bool {
        let session = self.lock().sessions.get(&id).cloned();
        session.is_none_or(|session| lock(&session.state).stretches.is_empty())
    }

    /// Tells a worker that it may go.
    pub(crate) fn send_home(&self, id: SessionId) {
        let session = self.lock().sessions.get(&id).cloned();
        if let Some(session) = session
            && !std::mem::replace(&mut lock(&session.state).sent_home, true)
        {
            session.order(Order::Leave {});
        }
    }

    pub(crate) fn seen(&self, id: SessionId) -> Option<Seen> {
        let session = self.lock().sessions.get(&id).cloned()?;
        let beat_at = lock(&session.state).beat.wall;
        let (name, labels) = (session.name.clone(), session.labels.clone());
        Some(Seen { name, labels, slots: session.slots, since: session.since, beat_at })
    }

    /// At the start of a server: an attempt had processes with a worker of an earlier one.
    pub(crate) fn doubt(&self, attempt: AttemptId, session: SessionId) {
        let mut inner = self.lock();
        inner.places.insert(attempt, session);
        inner.doubtful.insert(session);
    }

    // For attempts.

    /// What runs stretches in a session; none for the server's own.
    pub(crate) fn executor(self: &Arc<Self>, session: SessionId, kind: ExecutorKind) -> Option<Arc<dyn Executor>> {
        if session == SessionId::SERVER {
            return None;
        }
        Some(Arc::new(Remote { workers: Arc::clone(self), session, kind }))
    }

    /// Ends what lives of an attempt at a worker, wherever that is; returns when nothing does.
    pub(crate) async fn stop(&self, attempt: AttemptId, grace: Duration) {
        let Some(place) = self.place(attempt) else { return };
        let session = self.lock().sessions.get(&place).cloned();
        match session {
            Some(session) => session.stop(attempt, grace).await,
            None => self.gone(place).await,
        }
    }

    /// Returns when nothing of an attempt can live at another worker than this.
    pub(crate) async fn settle(&self, attempt: AttemptId, at: SessionId) {
        if let Some(place) = self.place(attempt).filter(|place| *place != at) {
            self.stop(attempt, Duration::ZERO).await;
            tracing::debug!(%attempt, %place, "what an attempt had elsewhere is gone");
        }
    }

    /// An attempt is over.
    pub(crate) fn forget(&self, attempt: AttemptId) {
        let mut inner = self.lock();
        let Some(place) = inner.places.remove(&attempt) else { return };
        if let Some(session) = inner.sessions.get(&place) {
            session.order(Order::Forget { attempt });
        }
    }

    fn place(&self, attempt: AttemptId) -> Option<SessionId> {
        self.lock().places.get(&attempt).copied()
    }

    /// Waits until no process of a session that is over can live: of this server's, none does when it is closed; a worker
    /// of an earlier server's says so when it comes back, or its lease has run out by its own clock.
    async fn gone(&self, id: SessionId) {
        loop {
            let mut cleared = std::pin::pin!(self.cleared.notified());
            cleared.as_mut().enable();
            if !self.lock().doubtful.contains(&id) {
                return;
            }
            let rest = (self.since + self.lease).saturating_sub(self.clock.now().mono);
            if rest.is_zero() {
                self.lock().doubtful.remove(&id);
                return;
            }
            // Either it is cleared up, or the lease has run out.
            let _ = tokio::time::timeout(rest, cleared).await;
        }
    }

    // For the API.

    /// The session of a worker that speaks, which is thereby known to live.
    ///
    /// # Errors
    /// 409 when it is over, or is not the caller's.
    pub(crate) fn speaking(&self, id: SessionId, token: TokenId) -> Result<Arc<Session>, Problem> {
        let session = self.lock().sessions.get(&id).filter(|session| session.token == token).cloned();
        let session = session.ok_or_else(closed)?;
        lock(&session.state).beat = self.clock.now();
        Ok(session)
    }
}

/// The answer to a worker whose session is over.
fn closed() -> Problem {
    Problem::new(
        "session-closed",
        "the session of this worker is over: its lease ran out, or the server is another one",
    )
    .hint("What it held was lost and is done again elsewhere; the worker ends its processes and joins anew.")
}

/// Checks how a worker introduces itself.
///
/// # Errors
/// The first thing that is not allowed.
pub(crate) fn check(joining: &Joining) -> Result<(), Problem> {
    let bad = |pointer: &str, detail: String| {
        Err(Problem::new("bad-request", format!("{detail} (at {pointer})")).with("pointer", pointer))
    };
    if joining.protocol != PROTOCOL {
        let detail = format!("the worker speaks version {} of the protocol, the server {PROTOCOL}", joining.protocol);
        return Err(
            Problem::new("worker-version", detail).hint("Start the worker with the server's version of pinrail.")
        );
    }
    let fits = |text: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.=/:".contains(c);
        (1..=LONGEST_NAME).contains(&text.len()) && text.chars().all(plain)
    };
    if !fits(&joining.name) {
        return bad("/name", format!("\"{}\" is not a name for a worker", joining.name));
    }
    if let Some(label) = joining.labels.iter().find(|label| !fits(label)) {
        return bad("/labels", format!("\"{label}\" is not a label"));
    }
    if joining.labels.len() > MOST_LABELS {
        return bad("/labels", format!("a worker has at most {MOST_LABELS} labels"));
    }
    if !(1..=MOST_SLOTS).contains(&joining.slots) {
        return bad("/slots", format!("a worker has 1 to {MOST_SLOTS} slots, not {}", joining.slots));
    }
    Ok(())
}

/// One worker, for as long as its lease is renewed.
pub(crate) struct Session {
    id: SessionId,
    /// Whoever joined with it alone may speak in the session.
    token: TokenId,
    pub name: String,
    labels: BTreeSet<String>,
    slots: u32,
    since: Micros,
    state: Mutex<SessionState>,
    /// There are orders, or there will be no more.
    news: Notify,
    closed: watch::Sender<bool>,
}

#[derive(Default)]
struct SessionState {
    beat: Now,
    /// What the worker is not known to have, by number.
    orders: VecDeque<(u64, Order)>,
    last_order: u64,
    last_frame: u64,
    last_stretch: u64,
    last_stop: u64,
    stretches: HashMap<u64, mpsc::UnboundedSender<Frame>>,
    stops: HashMap<u64, oneshot::Sender<()>>,
    sent_home: bool,
    /// Polls so far: an earlier one ends when the worker asks again.
    polls: u64,
}

impl Session {
    fn order(&self, order: Order) {
        let mut state = lock(&self.state);
        state.last_order += 1;
        let number = state.last_order;
        state.orders.push_back((number, order));
        drop(state);
        self.news.notify_waiters();
    }

    /// The orders after a number, of which the worker has what comes before; waits for some until it is time to say that
    /// there are none.
    pub async fn orders(&self, after: u64, patience: Duration) -> Vec<(u64, Order)> {
        let poll = {
            let mut state = lock(&self.state);
            while state.orders.front().is_some_and(|(number, _)| *number <= after) {
                state.orders.pop_front();
            }
            state.polls += 1;
            state.polls
        };
        let wait = async {
            loop {
                let mut news = std::pin::pin!(self.news.notified());
                news.as_mut().enable();
                {
                    let state = lock(&self.state);
                    if !state.orders.is_empty() || state.polls != poll || *self.closed.borrow() {
                        return;
                    }
                }
                news.await;
            }
        };
        // Nothing new is an answer as well.
        let _ = tokio::time::timeout(patience, wait).await;
        let state = lock(&self.state);
        state.orders.iter().take(MOST_ORDERS).cloned().collect()
    }

    /// Takes frames in, the first of which has this number; gives the number of the last that is here.
    pub fn hear(&self, first: u64, frames: Vec<Frame>) -> Heard {
        let mut draining = false;
        let mut state = lock(&self.state);
        for (number, frame) in (first..).zip(frames) {
            // What was said before is a repetition; what leaves a gap will be said again from there.
            if number != state.last_frame + 1 {
                continue;
            }
            state.last_frame = number;
            match (frame.stretch(), frame) {
                (Some(stretch), frame) => {
                    // Nobody waits any more for a stretch that was given up.
                    if let Some(to) = state.stretches.get(&stretch) {
                        let _ = to.send(frame);
                    }
                }
                (None, Frame::Stopped { stop }) => {
                    if let Some(waiter) = state.stops.remove(&stop) {
                        let _ = waiter.send(());
                    }
                }
                (None, _) => draining = true,
            }
        }
        Heard { last: state.last_frame, draining }
    }

    fn begin(self: &Arc<Self>) -> (Open, mpsc::UnboundedReceiver<Frame>) {
        let (frames, receiver) = mpsc::unbounded_channel();
        let mut state = lock(&self.state);
        state.last_stretch += 1;
        let stretch = state.last_stretch;
        state.stretches.insert(stretch, frames);
        (Open { session: Arc::clone(self), stretch }, receiver)
    }

    async fn stop(&self, attempt: AttemptId, grace: Duration) {
        let (stopped, waiter) = oneshot::channel();
        let stop = {
            let mut state = lock(&self.state);
            state.last_stop += 1;
            let stop = state.last_stop;
            state.stops.insert(stop, stopped);
            stop
        };
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.order(Order::Stop { stop, attempt, grace_ms });
        tokio::select! {
            _ = waiter => {}
            () = self.closed() => {}
        }
    }

    async fn closed(&self) {
        // It cannot end otherwise: the sender lives as long as this.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }
}

/// What a report came to.
pub(crate) struct Heard {
    pub last: u64,
    /// The worker wants to go.
    pub draining: bool,
}

/// A stretch that frames are expected of.
struct Open {
    session: Arc<Session>,
    stretch: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        lock(&self.session.state).stretches.remove(&self.stretch);
    }
}

/// Runs stretches at one worker.
struct Remote {
    workers: Arc<Workers>,
    session: SessionId,
    kind: ExecutorKind,
}

#[async_trait]
impl Executor for Remote {
    fn kind(&self) -> ExecutorKind {
        self.kind
    }

    async fn run(&self, assignment: &Assignment, sink: &dyn AttemptSink) -> Stretch {
        let session = {
            let mut inner = self.workers.lock();
            let Some(session) = inner.sessions.get(&self.session).cloned() else { return Stretch::Lost };
            let before = inner.places.insert(assignment.attempt, self.session);
            if let Some(before) = before.filter(|before| *before != self.session).and_then(|id| inner.sessions.get(&id))
            {
                before.order(Order::Forget { attempt: assignment.attempt });
            }
            session
        };
        if sink.is_stopped() {
            return Stretch::Lost;
        }
        let phases: Vec<&str> = assignment.phases.iter().map(|phase| phase.name()).collect();
        let said = format!("worker \"{}\" runs {}", session.name, phases.join(", "));
        sink.log(None, Stream::System, said.as_bytes());
        let (open, mut frames) = session.begin();
        let project = assignment.code.project.as_deref().and_then(SeenFolder::look);
        let run = Run { stretch: open.stretch, executor: self.kind, assignment: assignment.clone(), project };
        session.order(Order::Run(Box::new(run)));
        let mut asked = FuturesUnordered::new();
        let mut told = false;
        loop {
            tokio::select! {
                biased;
                () = session.closed() => return Stretch::Lost,
                () = sink.stopped(), if !told => {
                    told = true;
                    session.order(Order::Stopping { stretch: open.stretch });
                }
                Some((ask, reply)) = asked.next(), if !asked.is_empty() => {
                    session.order(Order::Reply { stretch: open.stretch, ask, reply });
                }
                Some(frame) = frames.recv() => match frame {
                    Frame::Ask { ask, what, .. } => {
                        let sent = sent(&assignment.scratch, ask);
                        asked.push(async move { (ask, answer(what, &sent, sink).await.into()) });
                    }
                    Frame::End { end, .. } => return end,
                    frame => take_in(frame, &assignment.scratch, sink),
                },
            }
        }
    }

    async fn stop(&self, attempt: AttemptId, grace: Duration) {
        self.workers.stop(attempt, grace).await;
    }
}

/// Where a file lies that a worker has sent.
fn sent(scratch: &Path, ask: u64) -> std::path::PathBuf {
    scratch.join(format!("sent-{ask}"))
}

/// Hands a frame that wants no answer to the attempt.
fn take_in(frame: Frame, scratch: &Path, sink: &dyn AttemptSink) {
    match frame {
        Frame::Report { report, .. } => sink.report(report),
        Frame::Log { phase, stream, bytes, .. } => sink.log(phase, stream, &bytes.0),
        Frame::Piece { stream, bytes, last, .. } => sink.piece(stream, &bytes.0, last),
        Frame::Counter { group, name, value, unit, .. } => sink.counter(&group, &name, value, unit.as_deref()),
        Frame::Progress { done, text, .. } => sink.progress(done, text.as_deref()),
        Frame::Defines { phases, .. } => sink.defines(&phases),
        Frame::File { ask, bytes, .. } => {
            let open = || std::fs::OpenOptions::new().create(true).append(true).open(sent(scratch, ask));
            if let Err(error) =
                std::fs::create_dir_all(scratch).and_then(|()| open()).and_then(|mut file| file.write_all(&bytes.0))
            {
                // Before it is kept its size is compared.
                tracing::warn!(%error, "a file that a worker sends cannot be written");
            }
        }
        Frame::Ask { .. } | Frame::End { .. } | Frame::Stopped { .. } | Frame::Draining {} => {}
    }
}

async fn answer(what: Ask, sent: &Path, sink: &dyn AttemptSink) -> Result<Value, RequestError> {
    match what {
        Ask::Settled => {
            sink.settled().await;
            Ok(Value::Null)
        }
        Ask::FixView => match sink.fix_view().await {
            Ok(()) => Ok(Value::Null),
            Err(message) => Err(RequestError { code: "view".to_owned(), message, hint: None }),
        },
        // The path would be one of this machine.
        Ask::Request(Request::Save { .. }) => Err(RequestError {
            code: "save-refused".to_owned(),
            message: "a file of a worker is sent before it is kept".to_owned(),
            hint: None,
        }),
        Ask::Request(request) => sink.request(request).await,
        Ask::Save { name, size } => {
            let whole = std::fs::metadata(sent).is_ok_and(|metadata| metadata.len() == size);
            let kept = if whole {
                sink.request(Request::Save { name, path: sent.to_owned() }).await
            } else {
                let message = format!("the file for \"{name}\" did not arrive as a whole");
                Err(RequestError {
                    code: "save-refused".to_owned(),
                    message,
                    hint: Some("Look at the server's disk.".to_owned()),
                })
            };
            // Removed with the attempt's folder at the latest.
            let _ = std::fs::remove_file(sent);
            kept
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
