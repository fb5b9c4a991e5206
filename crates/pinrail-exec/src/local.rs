//! The server's end of the launcher: asks it for processes and hands its news to whoever waits for them.
//!
//! A launcher that dies is replaced; what it had started is gone (the kernel kills the roots, the rest is found by its
//! environment), and everybody who waited for news learns of the loss by the end of their channel.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pinrail_model::seam::exec::Assignment;
use tokio::sync::{mpsc, watch};

use crate::confine::{Around, Hidden, Ruleset};
use crate::process;
use crate::users::Users;
use crate::wire::{Event, Inbox, Order, Spawn, send};

/// The environment variable that marks everything that belongs to an attempt.
pub const ATTEMPT_VARIABLE: &str = "PINRAIL_ATTEMPT";
/// The environment variable that tells attempts of different installations on one machine apart.
pub const INSTALLATION_VARIABLE: &str = "PINRAIL_INSTALLATION";
/// The hidden subcommand that is the launcher.
pub const LAUNCHER_COMMAND: &str = "__launcher";
/// Where the launcher finds its control socket.
pub const CONTROL_FD: RawFd = 3;

/// A running launcher.
#[derive(Debug)]
pub struct Launcher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    binary: PathBuf,
    hidden: Hidden,
    users: Users,
    control: Mutex<UnixStream>,
    waiting: Mutex<HashMap<String, mpsc::UnboundedSender<Event>>>,
    /// The first process of each attempt.
    roots: watch::Sender<HashMap<String, i32>>,
    /// Set when the server itself is leaving: then a lost launcher is not replaced.
    leaving: std::sync::atomic::AtomicBool,
}

impl Launcher {
    /// Starts the launcher: `binary` again, with a hidden subcommand. What is hidden is so from all that it starts.
    ///
    /// # Errors
    /// When the process or its thread cannot be started.
    pub fn start(binary: &Path, hidden: Hidden, users: Users) -> std::io::Result<Self> {
        let control = spawn_launcher(binary)?;
        let shared = Arc::new(Shared {
            binary: binary.to_owned(),
            hidden,
            users,
            control: Mutex::new(control.try_clone()?),
            waiting: Mutex::default(),
            roots: watch::Sender::default(),
            leaving: std::sync::atomic::AtomicBool::new(false),
        });
        let listener = Arc::clone(&shared);
        std::thread::Builder::new().name("launcher".to_owned()).spawn(move || listen(&listener, control))?;
        Ok(Self { shared })
    }

    /// Asks for a process; its news come through the channel, which ends when the launcher is lost.
    pub(crate) fn spawn(&self, spawn: Spawn, fds: &[OwnedFd]) -> mpsc::UnboundedReceiver<Event> {
        match self.ruleset(&spawn.uses) {
            Ok(ruleset) => self.spawn_with(spawn, fds, ruleset.as_ref()),
            Err(error) => {
                let message = format!("the state folder cannot be hidden from \"{}\": {error}", spawn.argv[0]);
                refused(spawn.key, message)
            }
        }
    }

    /// The same with a ruleset that was made before.
    pub(crate) fn spawn_with(
        &self,
        mut spawn: Spawn,
        fds: &[OwnedFd],
        ruleset: Option<&Ruleset>,
    ) -> mpsc::UnboundedReceiver<Event> {
        let key = spawn.key.clone();
        if let Err(message) = self.dress(&mut spawn) {
            return refused(key, message);
        }
        let news = self.expect(&key);
        let mut raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        if let Some(ruleset) = ruleset {
            spawn.confined = true;
            spawn.extra += 1;
            raw.push(ruleset.as_raw_fd());
        }
        self.order(&key, &Order::Spawn(Box::new(spawn)), &raw);
        news
    }

    /// Makes a process its project's user's.
    fn dress(&self, spawn: &mut Spawn) -> Result<(), String> {
        let Some(user) = self.shared.users.of(spawn.project.as_ref())? else { return Ok(()) };
        spawn.env.insert("HOME".to_owned(), user.home.clone());
        spawn.env.insert("USER".to_owned(), user.name.clone());
        if let Some(cache) = spawn.env.get_mut(CACHE_VARIABLE) {
            let own = user.own_folder(Path::new(&cache));
            let own =
                own.map_err(|e| format!("user \"{}\" cannot be given a folder in \"{cache}\": {e}", user.name))?;
            *cache = own.display().to_string();
        }
        spawn.user = Some(user.clone());
        Ok(())
    }

    /// Gives the user of an attempt's project what the attempt is to write.
    pub(crate) fn give(&self, assignment: &Assignment, socket: &Path) -> std::io::Result<()> {
        let beside = assignment.folder.parent() == assignment.scratch.parent();
        let folder = beside.then_some(assignment.folder.as_path());
        let places: Vec<&Path> =
            [Some(assignment.scratch.as_path()), Some(socket), folder].into_iter().flatten().collect();
        self.shared.users.give(&assignment.project, &places)
    }

    /// What a process that is started now could reach beside what is hidden.
    pub(crate) fn around(&self) -> std::io::Result<Around> {
        self.shared.hidden.around()
    }

    /// What keeps a process out of what is hidden; none where the kernel has no such thing.
    pub(crate) fn ruleset(&self, uses: &[PathBuf]) -> std::io::Result<Option<Ruleset>> {
        self.shared.hidden.ruleset(uses)
    }

    pub(crate) fn watch(&self, key: &str, pid: i32, memory: Option<u64>) -> mpsc::UnboundedReceiver<Event> {
        let news = self.expect(key);
        self.shared.roots.send_modify(|roots| {
            roots.insert(key.to_owned(), pid);
        });
        self.order(key, &Order::Watch { key: key.to_owned(), pid, memory }, &[]);
        news
    }

    pub(crate) fn unwatch(&self, key: &str) {
        lock(&self.shared.waiting).remove(key);
        self.shared.roots.send_modify(|roots| {
            roots.remove(key);
        });
        self.order(key, &Order::Unwatch { key: key.to_owned() }, &[]);
    }

    /// Whether a process is the first one of an attempt or below it. Waits until the attempt has a first one.
    pub(crate) async fn owns(&self, key: &str, pid: i32) -> bool {
        let mut roots = self.shared.roots.subscribe();
        let root = match roots.wait_for(|roots| roots.contains_key(key)).await {
            Ok(roots) => roots[key],
            Err(_) => return false,
        };
        process::is_below(pid, root)
    }

    /// Ends a process and all that it started; returns when nothing of it lives.
    pub(crate) async fn kill(&self, key: &str, grace: Duration) {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.until_gone(&killed(key), &Order::Kill { key: key.to_owned(), grace_ms }).await;
    }

    /// Kills whatever has outlived its root; returns when nothing has.
    pub(crate) async fn sweep(&self, key: &str) {
        let waiter = format!("{key}#swept");
        self.until_gone(&waiter, &Order::Sweep { key: waiter.clone() }).await;
    }

    /// Gives an order until a launcher has carried it out: one that dies takes the order along, and its successor
    /// starts when the processes of the former are dead.
    async fn until_gone(&self, waiter: &str, order: &Order) {
        loop {
            let mut gone = self.expect(waiter);
            self.order(waiter, order, &[]);
            if gone.recv().await.is_some() || self.shared.leaving.load(std::sync::atomic::Ordering::SeqCst) {
                return;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    fn expect(&self, key: &str) -> mpsc::UnboundedReceiver<Event> {
        let (news, receiver) = mpsc::unbounded_channel();
        lock(&self.shared.waiting).insert(key.to_owned(), news);
        receiver
    }

    /// Sends an order; when that fails, whoever waits for its news learns of it by the end of the channel.
    fn order(&self, waiter: &str, order: &Order, fds: &[RawFd]) {
        if let Err(error) = send(&lock(&self.shared.control), order, fds) {
            tracing::warn!(%error, "the launcher cannot be reached");
            lock(&self.shared.waiting).remove(waiter);
        }
    }
}

/// News of a process that there will not be.
fn refused(key: String, message: String) -> mpsc::UnboundedReceiver<Event> {
    let (news, receiver) = mpsc::unbounded_channel();
    // The receiver is right here.
    let _ = news.send(Event::Refused { key, message, hint: None });
    receiver
}

/// Where Python keeps byte code.
pub(crate) const CACHE_VARIABLE: &str = "PYTHONPYCACHEPREFIX";
/// How long it takes until a launcher that could not be started is tried again.
const START_AGAIN: Duration = Duration::from_secs(1);
/// How long an order waits that a launcher was lost with.
const ASK_AGAIN: Duration = Duration::from_millis(10);

impl Drop for Launcher {
    fn drop(&mut self) {
        self.shared.leaving.store(true, std::sync::atomic::Ordering::SeqCst);
        // The launcher sees the end of its socket, kills what it started, and goes.
        let _ = lock(&self.shared.control).shutdown(std::net::Shutdown::Both);
    }
}

/// Who waits for the end of a kill; the process itself has a waiter of its own.
fn killed(key: &str) -> String {
    format!("{key}#killed")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen(shared: &Shared, mut control: UnixStream) {
    loop {
        hear(shared, &control);
        if shared.leaving.load(std::sync::atomic::Ordering::SeqCst) {
            return;
        }
        tracing::error!("the launcher is gone; starting another");
        let lost: BTreeSet<String> = lock(&shared.waiting).drain().map(|(key, _)| key).collect();
        shared.roots.send_modify(HashMap::clear);
        kill_all(|value| value(ATTEMPT_VARIABLE).is_some_and(|attempt| lost.contains(&attempt)));
        control = loop {
            match spawn_launcher(&shared.binary).and_then(|new| Ok((new.try_clone()?, new))) {
                Ok((ours, new)) => {
                    *lock(&shared.control) = ours;
                    break new;
                }
                Err(error) => tracing::error!(%error, "no launcher can be started; jobs wait for one"),
            }
            std::thread::sleep(START_AGAIN);
            if shared.leaving.load(std::sync::atomic::Ordering::SeqCst) {
                return;
            }
        };
    }
}

fn hear(shared: &Shared, control: &UnixStream) {
    let mut inbox = Inbox::default();
    while matches!(inbox.fill(control), Ok(true)) {
        while let Some(event) = inbox.line::<Event>() {
            match event {
                Ok(event) => deliver(shared, event),
                Err(error) => tracing::error!(%error, "the launcher said something that cannot be understood"),
            }
        }
    }
}

fn deliver(shared: &Shared, event: Event) {
    match &event {
        Event::Started { key, pid } => shared.roots.send_modify(|roots| {
            roots.insert(key.clone(), *pid);
        }),
        Event::Exited { key, .. } => shared.roots.send_modify(|roots| {
            roots.remove(key);
        }),
        Event::Refused { .. } | Event::OverMemory { .. } | Event::Gone { .. } => {}
    }
    let mut waiting = lock(&shared.waiting);
    let (key, last) = match &event {
        Event::Started { key, .. } | Event::OverMemory { key, .. } => (key.clone(), false),
        Event::Exited { key, .. } | Event::Refused { key, .. } => (key.clone(), true),
        Event::Gone { key } if waiting.contains_key(&killed(key)) => (killed(key), true),
        Event::Gone { key } => (key.clone(), true),
    };
    if let Some(news) = waiting.get(&key) {
        // A receiver that has gone no longer wants to know.
        let _ = news.send(event);
        if last {
            waiting.remove(&key);
        }
    }
}

/// Kills every process of an installation that carries one of these attempts' ids, wherever it is. For what a former
/// server left behind. A restored state folder knows the attempts of the one that it is a copy of; those are not its
/// own.
pub fn kill_marked(installation: &str, attempts: &BTreeSet<String>) {
    kill_all(|value| {
        value(INSTALLATION_VARIABLE).as_deref() == Some(installation)
            && value(ATTEMPT_VARIABLE).is_some_and(|attempt| attempts.contains(&attempt))
    });
}

/// Kills every process of an attempt, wherever it is.
pub(crate) async fn kill_strays(attempt: &str) {
    let attempt = attempt.to_owned();
    let killing = move || kill_all(|value| value(ATTEMPT_VARIABLE).as_deref() == Some(&attempt));
    // A panic would have been told of.
    let _ = tokio::task::spawn_blocking(killing).await;
}

/// Kills every process in whose environment something holds, until there is none. What the kernel cannot end in time,
/// such as a process that waits for a broken disk, is told of.
fn kill_all(holds: impl Fn(&dyn Fn(&str) -> Option<String>) -> bool) {
    let mut marked = Vec::new();
    for _ in 0..KILL_LOOKS {
        marked = process::with_environment(&holds);
        if marked.is_empty() {
            return;
        }
        for pid in &marked {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL);
        }
        std::thread::sleep(KILL_AGAIN);
    }
    tracing::error!(pids = ?marked, "processes of earlier attempts were killed and do not end");
}

/// How long, and how often, it is looked whether killed processes are gone.
const KILL_AGAIN: Duration = Duration::from_millis(5);
const KILL_LOOKS: u32 = 2000;

#[allow(unsafe_code, reason = "the control socket must have a known number in the launcher")]
fn spawn_launcher(binary: &Path) -> std::io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let fd = theirs.as_raw_fd();
    let mut command = Command::new(binary);
    command.arg(LAUNCHER_COMMAND).stdin(Stdio::null()).stdout(Stdio::null()).env_clear();
    // SAFETY: between fork and exec only system calls are made, on a descriptor that this function holds open.
    unsafe {
        command.pre_exec(move || {
            if fd == CONTROL_FD {
                // It is where it should be and only has to survive the exec.
                if libc::fcntl(fd, libc::F_SETFD, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            } else if libc::dup2(fd, CONTROL_FD) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let mut child = command.spawn()?;
    // Waited for in a thread of its own, so that it never stays a zombie.
    std::thread::Builder::new().name("launcher-wait".to_owned()).spawn(move || child.wait())?;
    Ok(ours)
}
