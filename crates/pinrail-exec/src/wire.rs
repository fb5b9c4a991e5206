//! JSON lines over a Unix stream socket, with descriptors attached to a line.

use std::collections::{BTreeMap, VecDeque};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use pinrail_model::names::ProjectName;
use serde::{Deserialize, Serialize};

use crate::users::User;

/// What the server asks of the launcher.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub(crate) enum Order {
    /// Start a process. Attached: standard output, standard error, and `extra` more that become 3, 4, ...
    Spawn(Box<Spawn>),
    /// A process that somebody else started below the launcher, and waits for.
    Watch { key: String, pid: i32, memory: Option<u64> },
    /// A watched process has been waited for.
    Unwatch { key: String },
    /// End it: TERM to its group, KILL to its whole tree after the grace. Answered by `gone`.
    Kill { key: String, grace_ms: u64 },
    /// Kill whatever processes without a living root there are. Answered by `gone`.
    Sweep { key: String },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Spawn {
    pub key: String,
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub cwd: String,
    /// Bytes of memory that the whole tree may use.
    pub memory: Option<u64>,
    /// Bytes beyond which an allocation of one process fails, where its program can say so better than a kill.
    #[serde(default)]
    pub data: Option<u64>,
    pub extra: usize,
    /// Without a network.
    pub offline: bool,
    /// Whose process it is; of no concern to the launcher.
    #[serde(skip)]
    pub project: Option<ProjectName>,
    /// Who runs it, if not the server's own user.
    #[serde(default)]
    pub user: Option<User>,
    /// Folders that it may read although they are in the hidden one; of no concern to the launcher.
    #[serde(skip)]
    pub uses: Vec<PathBuf>,
    /// The last of the extra descriptors is the ruleset that it takes upon itself, and is not handed on.
    #[serde(default)]
    pub confined: bool,
}

/// What the launcher says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Event {
    Started {
        key: String,
        pid: i32,
    },
    /// It could not be started at all.
    Refused {
        key: String,
        message: String,
        /// What to do, when it is the system and not the program that is at fault.
        #[serde(default)]
        hint: Option<String>,
    },
    Exited {
        key: String,
        exit: Exit,
    },
    /// The tree exceeded its memory limit and is being killed.
    OverMemory {
        key: String,
        bytes: u64,
    },
    Gone {
        key: String,
    },
}

/// How a process ended, as the kernel accounted for it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Exit {
    #[serde(default)]
    pub exit_code: Option<i32>,
    #[serde(default)]
    pub signal: Option<i32>,
    #[serde(default)]
    pub max_rss_bytes: u64,
    #[serde(default)]
    pub user_seconds: f64,
    #[serde(default)]
    pub system_seconds: f64,
}

/// Writes one line with its descriptors.
pub(crate) fn send<T: Serialize>(to: &UnixStream, message: &T, fds: &[RawFd]) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let rights = [ControlMessage::ScmRights(fds)];
    let mut control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    let mut rest = line.as_slice();
    while !rest.is_empty() {
        let sent = match sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(rest)], control, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(sent) => sent,
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        rest = &rest[sent..];
        control = &[];
    }
    Ok(())
}

/// Collects lines and the descriptors that came with them.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    pub fds: VecDeque<OwnedFd>,
}

/// A line longer than this is not from us.
const LONGEST_LINE: usize = 64 << 20;

impl Inbox {
    /// Reads what is there. False at the end of the stream.
    pub fn fill(&mut self, from: &UnixStream) -> std::io::Result<bool> {
        let mut buffer = vec![0_u8; 64 << 10];
        let mut space = nix::cmsg_space!([RawFd; 16]);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = match recvmsg::<()>(from.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Ok(message) => message,
            Err(nix::errno::Errno::EINTR | nix::errno::Errno::EAGAIN) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = control {
                self.fds.extend(fds.into_iter().map(own));
            }
        }
        let read = message.bytes;
        self.bytes.extend_from_slice(&buffer[..read]);
        if self.bytes.len() > LONGEST_LINE {
            return Err(std::io::Error::other("a line is too long"));
        }
        Ok(read > 0)
    }

    /// The next whole line.
    pub fn line<T: for<'a> Deserialize<'a>>(&mut self) -> Option<std::io::Result<T>> {
        let end = self.bytes.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.bytes.drain(..=end).collect();
        Some(serde_json::from_slice(&line[..end]).map_err(Into::into))
    }
}

#[allow(unsafe_code, reason = "the kernel has just handed these descriptors to this process alone")]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: `fd` was received by SCM_RIGHTS a moment ago and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
