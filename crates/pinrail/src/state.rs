//! The state folder: who serves it, and what stands in it.
//!
//! The lock is an OS file lock, which dies with its holder; `server.json` tells where the holder listens.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::failure::{FAILED, Failure, REFUSED};
use crate::user::make_private;

/// What `server.json` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Live {
    pub pid: u32,
    pub url: String,
    pub installation: String,
    /// Serves one command only and leaves when it is idle.
    pub embedded: bool,
}

impl Live {
    /// Whether anybody answers there: the announcement of a server that was killed stays until the next one's, and for a
    /// moment the kernel still accepts connections for it.
    pub fn answers(&self) -> bool {
        let address = self.url.strip_prefix("http://").and_then(|address| address.parse::<SocketAddr>().ok());
        let ask = |address| {
            let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
            stream.set_read_timeout(Some(ANSWER))?;
            stream.write_all(b"HEAD / HTTP/1.0\r\n\r\n")?;
            stream.read_exact(&mut [0])
        };
        address.is_some_and(|address| ask(address).is_ok())
    }
}

/// How long a process that is being ended may keep its lock, and how often it is looked for that.
const LOOKS: u32 = 100;
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How long a server of this machine may take to accept a connection, and to answer.
const ANSWER: Duration = Duration::from_secs(1);

/// A state folder that this process alone may write to.
#[derive(Debug)]
pub struct Locked {
    pub folder: PathBuf,
    _lock: Flock<File>,
}

fn lock_file(folder: &Path) -> PathBuf {
    folder.join("lock")
}

fn users_file(folder: &Path) -> PathBuf {
    folder.join("users")
}

fn server_file(folder: &Path) -> PathBuf {
    folder.join("server.json")
}

impl Locked {
    /// Makes the folder if need be and locks it; none when somebody else has the lock.
    pub fn take(folder: &Path) -> Result<Option<Self>, Failure> {
        let cannot = |e: std::io::Error| unusable(folder, &e);
        let path = make(folder)?;
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).open(lock_file(&path)).map_err(cannot)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => {
                // A server for several people had opened it to them.
                make_private(&path).map_err(cannot)?;
                Ok(Some(Self { folder: path, _lock: lock }))
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(cannot(error.into())),
        }
    }

    /// The same for a server that is to stay: when a former one was killed, the kernel takes a moment to end it and to
    /// give its lock back. One that lives is refused at once.
    pub fn take_over(folder: &Path) -> Result<Self, Failure> {
        for _ in 0..LOOKS {
            if let Some(locked) = Self::take(folder)? {
                return Ok(locked);
            }
            if live(folder).is_some_and(|live| live.answers()) {
                break;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Err(in_use(folder))
    }

    /// Says where this process listens.
    pub fn announce(&self, live: &Live) -> Result<(), Failure> {
        let temporary = self.folder.join("server.json.new");
        let mut file = File::create(&temporary)?;
        file.write_all(serde_json::to_string(live).unwrap_or_default().as_bytes())?;
        std::fs::rename(&temporary, server_file(&self.folder))?;
        Ok(())
    }

    /// Whether no other command uses this server; from then on until its end none can begin to.
    pub fn unused(&self) -> Option<Unused> {
        let file = open_users(&self.folder).ok()?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock).ok().map(Unused)
    }

    /// Takes the announcement back, before the lock goes.
    pub fn withdraw(&self) {
        let _ = std::fs::remove_file(server_file(&self.folder));
    }
}

/// Held by a command while it uses the server of another process, so that this one stays as long.
#[derive(Debug)]
pub struct Using(#[expect(dead_code, reason = "it is held")] Flock<File>);

/// Held by a server of one command while it leaves.
#[derive(Debug)]
pub struct Unused(#[expect(dead_code, reason = "it is held")] Flock<File>);

fn open_users(folder: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(users_file(folder))
}

/// The live server of a folder, kept alive for the caller if it is one that leaves when it is idle.
pub fn join(folder: &Path) -> Option<(Live, Option<Using>)> {
    let found = live(folder)?;
    if !found.embedded {
        return Some((found, None));
    }
    // This waits while that server leaves; then another one, or none, is live.
    let using = Flock::lock(open_users(folder).ok()?, FlockArg::LockShared).ok()?;
    let still = live(folder).filter(|now| now.url == found.url && now.pid == found.pid)?;
    Some((still, Some(Using(using))))
}

fn unusable(folder: &Path, error: &std::io::Error) -> Failure {
    Failure::new(FAILED, format!("the state folder \"{}\" cannot be used: {error}", folder.display()))
        .hint("Check its permissions, or name another folder with --state.")
}

/// Makes a state folder if it is not there: only its owner may look into it, and version control ignores it.
pub fn make(folder: &Path) -> Result<PathBuf, Failure> {
    let private = || {
        if !folder.is_dir() {
            make_private(folder)?;
        }
        let ignore = folder.join(".gitignore");
        if !ignore.exists() {
            std::fs::write(ignore, "*\n")?;
        }
        folder.canonicalize()
    };
    private().map_err(|error| unusable(folder, &error))
}

/// Whether somebody serves a state folder, or is just beginning to.
pub fn served(folder: &Path) -> bool {
    // Whoever can lock it shared proves that nobody has it.
    File::open(lock_file(folder)).is_ok_and(|file| Flock::lock(file, FlockArg::LockSharedNonblock).is_err())
}

/// Who serves a state folder now.
pub fn live(folder: &Path) -> Option<Live> {
    if !served(folder) {
        return None;
    }
    let text = std::fs::read_to_string(server_file(folder)).ok()?;
    serde_json::from_str(&text).ok()
}

/// The refusal for a second server.
pub fn in_use(folder: &Path) -> Failure {
    let live = live(folder);
    let holder = match &live {
        Some(live) => format!("process {} at {}", live.pid, live.url),
        None => "another process that is just starting or stopping".to_owned(),
    };
    let refused = Failure::new(REFUSED, format!("the state folder \"{}\" is served by {holder}", folder.display()));
    match live {
        Some(live) if live.embedded => refused.hint(
            "That is a command such as `pinrail run`; wait until it has ended, or name another folder with --state.",
        ),
        _ => refused.hint("Use that server, stop it with `pinrail down`, or name another folder with --state."),
    }
}
