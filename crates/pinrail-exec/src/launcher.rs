//! The launcher: a process of its own, single-threaded, that starts, watches, kills and reaps all user processes.
//!
//! It is a subreaper, and so is every process that it starts: what a job lets go of comes back to the job's own root
//! while that lives, and to the launcher afterwards. So whatever is a child of the launcher and not a root is a
//! leftover, and is killed. When the server goes, its end of the control socket closes, and the launcher kills
//! everything and leaves; when the launcher itself is killed, the kernel kills the roots.
//!
//! A worker's launcher holds its lease: everything is killed when that is not renewed, also while the worker is frozen.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use crate::confine;
use crate::process;
use crate::wire::{Event, Exit, Inbox, Order, Spawn, send};

/// How often memory is sampled and pending kills are looked after.
const TICK: Duration = Duration::from_millis(200);
/// How soon after a signal it is looked whether it has worked.
const SOON: Duration = Duration::from_millis(5);

/// Runs the launcher on an inherited control socket until the server goes. Never returns to user code.
///
/// # Errors
/// When the kernel refuses something without which no job could be contained.
pub fn run(control: UnixStream) -> std::io::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)?;
    confine::close_to_others();
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    // The terminal's Ctrl-C is for the server, which decides what becomes of jobs.
    let _ = nix::unistd::setsid();
    let mut launcher = Running {
        control,
        roots: BTreeMap::new(),
        ending: BTreeMap::new(),
        sweeps: Vec::new(),
        sampled: now(),
        lease: None,
    };
    let served = launcher.serve(&signals);
    // Also when the socket ended in an error: a server killed with unread news resets the connection.
    launcher.kill_everything();
    match served {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
        other => other,
    }
}

struct Running {
    control: UnixStream,
    /// Attempt (or warm process) to its first process.
    roots: BTreeMap<String, Root>,
    /// What is to be killed when its grace is over.
    ending: BTreeMap<String, Instant>,
    /// Who waits to hear that no leftovers are there.
    sweeps: Vec<String>,
    /// When memory was last looked at.
    sampled: Instant,
    /// When everything is to be killed.
    lease: Option<Instant>,
}

#[derive(Debug)]
struct Root {
    pid: i32,
    start_time: u64,
    memory: Option<u64>,
    /// Started by a warm process, which waits for it.
    foreign: bool,
    over: bool,
}

impl Running {
    fn serve(&mut self, signals: &SignalFd) -> std::io::Result<()> {
        let mut inbox = Inbox::default();
        loop {
            let timeout = self.timeout();
            let (control_ready, child_ended) = {
                let mut fds = [
                    PollFd::new(std::os::fd::AsFd::as_fd(&self.control), PollFlags::POLLIN),
                    PollFd::new(std::os::fd::AsFd::as_fd(signals), PollFlags::POLLIN),
                ];
                match poll(&mut fds, timeout) {
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
                let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
                (ready(&fds[0]), ready(&fds[1]))
            };
            if child_ended {
                while let Ok(Some(_)) = signals.read_signal() {}
                self.reap();
            }
            if control_ready {
                if !inbox.fill(&self.control)? {
                    return Ok(());
                }
                while let Some(order) = inbox.line() {
                    self.obey(order?, &mut inbox);
                }
            }
            self.look_after();
        }
    }

    fn timeout(&self) -> PollTimeout {
        let wait = if !self.ending.is_empty() || !self.sweeps.is_empty() {
            SOON
        } else {
            let lease = self.lease.map(|due| due.saturating_duration_since(now()) + SOON);
            let tick = self.has_limited().then_some(TICK);
            let Some(wait) = lease.into_iter().chain(tick).min() else { return PollTimeout::NONE };
            wait
        };
        PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO)
    }

    fn say(&self, event: &Event) {
        // A server that is gone closes the socket, which the loop sees next.
        let _ = send(&self.control, event, &[]);
    }

    fn obey(&mut self, order: Order, inbox: &mut Inbox) {
        match order {
            Order::Spawn(spawn) => {
                let fds: Vec<OwnedFd> = (0..spawn.extra + 2).filter_map(|_| inbox.fds.pop_front()).collect();
                self.spawn(&spawn, fds);
            }
            Order::Watch { key, pid, memory } => {
                let start_time = process::one(pid).map_or(0, |process| process.start_time);
                self.roots.insert(key, Root { pid, start_time, memory, foreign: true, over: false });
            }
            Order::Unwatch { key } => {
                self.roots.remove(&key);
            }
            Order::Kill { key, grace_ms } => {
                if let Some(root) = self.roots.get(&key) {
                    // A group that is gone is what is wanted.
                    let _ = killpg(Pid::from_raw(root.pid), Signal::SIGTERM);
                }
                self.ending.insert(key, now() + Duration::from_millis(grace_ms));
            }
            Order::Sweep { key } => self.sweeps.push(key),
            Order::Lease { ms } => self.lease = ms.map(|ms| now() + Duration::from_millis(ms)),
        }
    }

    fn spawn(&mut self, spawn: &Spawn, fds: Vec<OwnedFd>) {
        let refused = |message: String| Event::Refused { key: spawn.key.clone(), message, hint: None };
        if fds.len() != spawn.extra + 2 || spawn.argv.is_empty() {
            return self.say(&refused("a command without descriptors or arguments".to_owned()));
        }
        match start(spawn, fds) {
            Ok(pid) => {
                let start_time = process::one(pid).map_or(0, |process| process.start_time);
                let root = Root { pid, start_time, memory: spawn.memory, foreign: false, over: false };
                self.roots.insert(spawn.key.clone(), root);
                self.say(&Event::Started { key: spawn.key.clone(), pid });
            }
            Err(error) if error.raw_os_error() == Some(NOT_OFFLINE) => self.say(&Event::Refused {
                key: spawn.key.clone(),
                message: "this system does not let pinrail take the network away from the processes of user files"
                    .to_owned(),
                hint: Some(OFFLINE_HINT.to_owned()),
            }),
            Err(error) => self.say(&refused(format!("\"{}\" cannot be started: {error}", spawn.argv[0]))),
        }
    }

    fn reap(&mut self) {
        while let Some((pid, exit)) = wait() {
            let key = self.roots.iter().find(|(_, root)| root.pid == pid && !root.foreign).map(|(key, _)| key.clone());
            if let Some(key) = key {
                self.roots.remove(&key);
                self.say(&Event::Exited { key, exit });
            }
        }
    }

    /// Kills what has outlived its grace, its limit or its root.
    fn look_after(&mut self) {
        self.check_memory();
        if self.lease.is_some_and(|due| due <= now()) {
            self.lease = None;
            self.kill_everything();
        }
        if self.ending.is_empty() && self.sweeps.is_empty() {
            return;
        }
        let mut gone = self.end_due();
        let leftovers = self.leftovers();
        if leftovers.is_empty() {
            gone.append(&mut self.sweeps);
        } else {
            for pid in leftovers {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            // Not before the leftovers are gone as well: ask again next time.
            self.sweeps.append(&mut gone);
            self.reap();
        }
        for key in gone {
            self.say(&Event::Gone { key });
        }
    }

    fn has_limited(&self) -> bool {
        self.roots.values().any(|root| root.memory.is_some() && !root.over)
    }

    fn check_memory(&mut self) {
        let now = now();
        if !self.has_limited() || now < self.sampled + TICK {
            return;
        }
        self.sampled = now;
        let table = process::table();
        let mut over = Vec::new();
        for (key, root) in &mut self.roots {
            let Some(limit) = root.memory.filter(|_| !root.over) else { continue };
            let members = process::tree(&table, root.pid);
            let bytes: u64 = members.iter().filter_map(|pid| table.get(pid)).map(|process| process.resident).sum();
            // An allocation that is refused is told at its line; that needs the limit on data to be reached first.
            if bytes > limit + CODE {
                root.over = true;
                over.push((key.clone(), bytes, members));
            }
        }
        for (key, bytes, members) in over {
            // Said first: the evidence must arrive before the exit that it explains.
            self.say(&Event::OverMemory { key, bytes });
            for pid in members {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }

    /// Ends trees whose grace is over; gives the keys of those that are gone.
    fn end_due(&mut self) -> Vec<String> {
        let now = now();
        let mut gone = Vec::new();
        for (key, due) in &self.ending {
            let alive = self
                .roots
                .get(key)
                .filter(|root| process::one(root.pid).is_some_and(|p| p.start_time == root.start_time && !p.zombie));
            match alive {
                None => gone.push(key.clone()),
                Some(root) if now >= *due => {
                    for pid in process::tree(&process::table(), root.pid) {
                        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                    }
                }
                Some(_) => {}
            }
        }
        for key in &gone {
            self.ending.remove(key);
        }
        gone
    }

    /// Children of the launcher that are no roots, with everything below them. There are none as a rule, so the whole
    /// table is read only when there is one.
    fn leftovers(&self) -> Vec<i32> {
        let is_root = |pid: &i32| self.roots.values().any(|root| root.pid == *pid && !root.foreign);
        let alive = |pid: &i32| process::one(*pid).is_some_and(|process| !process.zombie);
        let unknown: Vec<i32> = process::own_children().into_iter().filter(|pid| !is_root(pid) && alive(pid)).collect();
        if unknown.is_empty() {
            return unknown;
        }
        let table = process::table();
        unknown.into_iter().flat_map(|pid| process::tree(&table, pid)).collect()
    }

    /// The server is gone, or a worker's lease: so must be everything that was started.
    fn kill_everything(&mut self) {
        let me = std::process::id().cast_signed();
        for _ in 0..400 {
            let table = process::table();
            let below: Vec<i32> = process::tree(&table, me).into_iter().filter(|pid| *pid != me).collect();
            if below.iter().all(|pid| table.get(pid).is_none_or(|process| process.zombie)) {
                return;
            }
            for pid in below {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            self.reap();
            std::thread::sleep(SOON);
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the launcher is a process of its own and only waits")]
fn now() -> Instant {
    Instant::now()
}

/// One ended child with what the kernel accounted for.
#[allow(unsafe_code, reason = "nix has no wait4, which alone gives the resources of exactly one child")]
fn wait() -> Option<(i32, Exit)> {
    let mut status = 0;
    // SAFETY: `rusage` is plain data for which all zeros is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live locals of the right type.
    let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, &raw mut usage) };
    if pid <= 0 {
        return None;
    }
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    let exit = Exit {
        exit_code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        signal: libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)),
        max_rss_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
        user_seconds: seconds(usage.ru_utime),
        system_seconds: seconds(usage.ru_stime),
    };
    Some((pid, exit))
}

/// Starts a process in a session of its own, contained, with only the descriptors it was given.
#[allow(unsafe_code, reason = "what must happen between fork and exec can be said in no other way")]
fn start(spawn: &Spawn, fds: Vec<OwnedFd>) -> std::io::Result<i32> {
    let launcher = std::process::id().cast_signed();
    let mut fds = fds.into_iter();
    let (Some(out), Some(err)) = (fds.next(), fds.next()) else {
        return Err(std::io::Error::other("descriptors are missing"));
    };
    let mut extra: Vec<OwnedFd> = fds.collect();
    let ruleset = if spawn.confined { extra.pop() } else { None };
    let ruleset_raw = ruleset.as_ref().map(AsRawFd::as_raw_fd);
    let raw: Vec<i32> = extra.iter().map(AsRawFd::as_raw_fd).collect();
    let (offline, data, user) = (spawn.offline, spawn.data, spawn.user.as_ref().map(|user| (user.uid, user.gid)));
    let mut command = Command::new(&spawn.argv[0]);
    command.args(&spawn.argv[1..]).env_clear().envs(&spawn.env).current_dir(&spawn.cwd);
    command.stdin(Stdio::null()).stdout(Stdio::from(out)).stderr(Stdio::from(err));
    // SAFETY: the closure runs in the forked child of this single-threaded process and makes system calls only.
    unsafe {
        command.pre_exec(move || contain(launcher, offline, data, user, &raw, ruleset_raw));
    }
    let child = command.spawn()?;
    Ok(child.id().cast_signed())
}

/// What every user process begins with. Runs in the child, between fork and exec.
#[allow(unsafe_code, reason = "system calls that nix does not wrap")]
fn contain(
    launcher: i32,
    offline: bool,
    data: Option<u64>,
    user: Option<(u32, u32)>,
    extra: &[i32],
    ruleset: Option<i32>,
) -> std::io::Result<()> {
    // The launcher blocks SIGCHLD to read it as a descriptor, and a new program inherits what is blocked.
    SigSet::empty().thread_set_mask()?;
    nix::unistd::setsid()?;
    nix::sys::prctl::set_child_subreaper(true)?;
    limit(data)?;
    if offline {
        without_network()?;
    }
    if let Some((uid, gid)) = user {
        become_user(uid, gid)?;
    }
    nix::sys::prctl::set_no_new_privs()?;
    // After the change of the user, which takes it back.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    if nix::unistd::getppid().as_raw() != launcher {
        return Err(std::io::Error::other("the launcher is gone"));
    }
    if let Some(ruleset) = ruleset {
        confine::take(ruleset)?;
    }
    // Our own descriptors first move out of the way of the places where they are wanted.
    let mut moved = [0_i32; 8];
    for (at, fd) in extra.iter().enumerate().take(moved.len()) {
        // SAFETY: plain system call on an open descriptor.
        moved[at] = unsafe { libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, 64) };
        if moved[at] < 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    // SAFETY: plain system calls; the standard library's own error pipe is above and closes on exec.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        for (at, fd) in moved.iter().enumerate().take(extra.len()) {
            let wanted = 3 + at as i32;
            keep_error_pipe_away(wanted)?;
            if libc::dup2(*fd, wanted) < 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

/// Another user for good, in that user's own group and no other, who makes files as users do.
fn become_user(uid: u32, gid: u32) -> std::io::Result<()> {
    use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setgroups(&[gid])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    Ok(())
}

/// The standard library reports a failed exec through a pipe whose number it does not tell. The launcher has opened
/// descriptors from 3 on (control, signals, ...), so the pipe is never among the first ones.
fn keep_error_pipe_away(wanted: i32) -> std::io::Result<()> {
    if wanted < FIRST_FREE { Ok(()) } else { Err(std::io::Error::other("too many descriptors")) }
}

/// Below this are the control socket, the signal descriptor and the two that [`run`] reserves.
const FIRST_FREE: i32 = 5;

/// No core dumps, which would hold secrets; so many descriptors that a leak hits the job and not the machine.
fn limit(data: Option<u64>) -> std::io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(OPEN_FILES), hard)?;
    if let Some(bytes) = data {
        setrlimit(Resource::RLIMIT_DATA, bytes, bytes)?;
    }
    Ok(())
}

/// Bytes of code and libraries, which count as resident and not as data.
const CODE: u64 = 16 << 20;

/// Open files that a process begins with; it may raise that to the server's own limit.
const OPEN_FILES: u64 = 4096;

/// A network namespace without interfaces; an ordinary user gets it together with a user namespace.
fn without_network() -> std::io::Result<()> {
    use nix::sched::{CloneFlags, unshare};
    unshare(CloneFlags::CLONE_NEWNET)
        .or_else(|_| unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET))
        .map_err(|_| std::io::Error::from_raw_os_error(NOT_OFFLINE))
}

/// How the child says that it is the network which cannot be taken away: only a number comes through, and starting a
/// program never fails with this one.
const NOT_OFFLINE: i32 = libc::ENONET;
const OFFLINE_HINT: &str = "Let ordinary users make namespaces (sysctl user.max_net_namespaces above 0, \
    kernel.apparmor_restrict_unprivileged_userns=0, kernel.unprivileged_userns_clone=1; in a container its security \
    options), or run the server as root. `pinrail doctor` looks again.";
