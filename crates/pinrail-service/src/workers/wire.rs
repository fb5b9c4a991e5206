//! What travels between a server and its workers: orders one way, frames the other, each numbered from 1 within a
//! session and kept by its sender until the other side has said that it has it. So a connection that breaks loses and
//! doubles nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use pinrail_model::document::ExecutorKind;
use pinrail_model::ids::{AttemptId, SessionId};
use pinrail_model::names::ProjectName;
use pinrail_model::run::{Phase, Report};
use pinrail_model::seam::exec::{Assignment, Request, RequestError, Stream, Stretch};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Raised when workers of an earlier version can no longer be spoken with.
pub const PROTOCOL: u32 = 1;

/// How a worker introduces itself.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Joining {
    /// What its side of the protocol is.
    pub protocol: u32,
    /// What people call it.
    pub name: String,
    /// What it has that jobs may ask for.
    #[serde(default)]
    pub labels: BTreeSet<String>,
    /// Processes at the same time.
    pub slots: u32,
    /// The projects whose processes have a user each there; with none, all are the worker's own user's.
    #[serde(default)]
    pub users_of: BTreeSet<ProjectName>,
    /// Its session before this one, of which no process lives any more.
    #[serde(default)]
    pub former: Option<SessionId>,
}

/// What a worker is told when it has joined.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Joined {
    pub session: SessionId,
    /// What the server's state folder is called.
    pub installation: String,
    /// After so long without a request of it the worker counts as lost.
    pub lease_ms: u64,
    /// How often it says that it lives.
    pub heartbeat_ms: u64,
}

/// What a worker is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub(crate) enum Order {
    /// Run a stretch of phases.
    Run(Box<Run>),
    /// The answer to something that a stretch asked for.
    Reply { stretch: u64, ask: u64, reply: Answer },
    /// The attempt of a stretch is being stopped: nothing more is to be started in it.
    Stopping { stretch: u64 },
    /// End whatever lives of an attempt. Answered when nothing does.
    Stop { stop: u64, attempt: AttemptId, grace_ms: u64 },
    /// Remove what an attempt left behind.
    Forget { attempt: AttemptId },
    /// There is nothing more to do: the worker was to be empty, and is.
    Leave {},
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Run {
    pub stretch: u64,
    pub executor: ExecutorKind,
    /// With the server's own paths, which the worker replaces by its own.
    pub assignment: Assignment,
    /// The project's folder, for a worker that sees the same one.
    pub project: Option<SeenFolder>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    Granted(Value),
    Refused(RequestError),
}

impl From<Result<Value, RequestError>> for Answer {
    fn from(result: Result<Value, RequestError>) -> Self {
        result.map_or_else(Self::Refused, Self::Granted)
    }
}

/// What a worker has to say.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "frame", rename_all = "kebab-case")]
pub(crate) enum Frame {
    Report {
        stretch: u64,
        report: Report,
    },
    Log {
        stretch: u64,
        phase: Option<Phase>,
        stream: Stream,
        bytes: Bytes,
    },
    Piece {
        stretch: u64,
        stream: Stream,
        bytes: Bytes,
        last: bool,
    },
    Counter {
        stretch: u64,
        group: String,
        name: String,
        value: f64,
        unit: Option<String>,
    },
    Progress {
        stretch: u64,
        done: Option<f64>,
        text: Option<String>,
    },
    Defines {
        stretch: u64,
        phases: Vec<Phase>,
    },
    Ask {
        stretch: u64,
        ask: u64,
        what: Ask,
    },
    /// A piece of a file that an [`Ask::Save`] will name.
    File {
        stretch: u64,
        ask: u64,
        bytes: Bytes,
    },
    End {
        stretch: u64,
        end: Stretch,
    },
    Stopped {
        stop: u64,
    },
    /// The worker was told to end where it runs: it finishes what it has.
    Draining {},
}

impl Frame {
    /// The stretch that it is about.
    pub fn stretch(&self) -> Option<u64> {
        match self {
            Self::Report { stretch, .. }
            | Self::Log { stretch, .. }
            | Self::Piece { stretch, .. }
            | Self::Counter { stretch, .. }
            | Self::Progress { stretch, .. }
            | Self::Defines { stretch, .. }
            | Self::Ask { stretch, .. }
            | Self::File { stretch, .. }
            | Self::End { stretch, .. } => Some(*stretch),
            Self::Stopped { .. } | Self::Draining {} => None,
        }
    }

    /// About how many bytes it takes.
    pub fn size(&self) -> usize {
        match self {
            Self::Log { bytes, .. } | Self::Piece { bytes, .. } | Self::File { bytes, .. } => bytes.0.len() + ENVELOPE,
            // States, results and outputs are as large as jobs make them.
            other => serde_json::to_string(other).map_or(ENVELOPE, |text| text.len()),
        }
    }
}

/// What a frame takes beside what it carries.
const ENVELOPE: usize = 256;

/// What a stretch asks the server for, and waits.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ask {
    Settled,
    FixView,
    Request(Request),
    /// Keep the file that was sent before, of this many bytes, under this name.
    Save {
        name: String,
        size: u64,
    },
}

/// Bytes in JSON: as text when they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bytes(pub Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Written<'a> {
    #[serde(borrow)]
    Text(std::borrow::Cow<'a, str>),
    #[serde(borrow)]
    Hex(std::borrow::Cow<'a, str>),
}

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => Written::Text(text.into()).serialize(serializer),
            Err(_) => Written::Hex(hex::encode(&self.0).into()).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Text(text) => Ok(Self(text.into_owned().into_bytes())),
            Written::Hex(digits) => hex::decode(digits.as_ref()).map(Self).map_err(serde::de::Error::custom),
        }
    }
}

/// A folder, so that another process can tell whether it sees the very same one: the machine's boot, the file system and
/// the folder's number in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SeenFolder {
    pub path: PathBuf,
    boot: String,
    device: u64,
    inode: u64,
}

impl SeenFolder {
    /// A folder as this process sees it; none when it does not.
    pub fn look(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_dir)?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(Self { path: path.to_owned(), boot, device: metadata.dev(), inode: metadata.ino() })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_whatever_they_are() {
        for bytes in [&b""[..], b"a line\n\"quoted\"", b"\xff\x00half of a character \xc3"] {
            let text = serde_json::to_string(&Bytes(bytes.to_vec())).unwrap();
            assert_eq!(serde_json::from_str::<Bytes>(&text).unwrap().0, bytes, "{text}");
            let value: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(serde_json::from_value::<Bytes>(value).unwrap().0, bytes, "{text}");
        }
    }

    #[test]
    fn a_folder_is_known_again_and_another_is_not_taken_for_it() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let seen = SeenFolder::look(one.path()).unwrap();
        assert_eq!(SeenFolder::look(one.path()), Some(seen.clone()));
        assert_ne!(SeenFolder::look(other.path()), Some(seen));
        assert_eq!(SeenFolder::look(&one.path().join("absent")), None);
    }
}
