//! The socket by which commands inside an attempt (`pinrail output`, `pinrail save`, `pinrail secret read`) reach the
//! server: the requests of the runner protocol, from any process of the attempt.
//!
//! It lies beside the attempt's scratch folder, which stays the job's alone. Whoever finds it is answered only if the
//! process is one of the attempt's.

use std::convert::Infallible;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use pinrail_model::run::Phase;
use pinrail_model::seam::exec::{Assignment, AttemptSink, Stream};
use serde_json::{Value, json};
use tokio::io::BufReader;
use tokio::net::{UnixListener, UnixStream};

use crate::channel::{Outputs, answer, next_line, write};
use crate::local::Launcher;

/// Where processes of an attempt find the socket.
pub const SOCKET_VARIABLE: &str = "PINRAIL_SOCKET";
/// What its name has more than that of the scratch folder.
const EXTENSION: &str = "socket";
/// Commands that are served at the same time; more wait until one is done.
const MOST_CONNECTIONS: usize = 16;
/// How long nothing is accepted after a failure to.
const HEAR_AGAIN: Duration = Duration::from_millis(50);

/// The listening socket of one process of an attempt, removed when that has ended.
pub(crate) struct CommandSocket {
    listener: UnixListener,
    path: PathBuf,
    launcher: Arc<Launcher>,
}

impl CommandSocket {
    /// Makes the socket of an attempt. An attempt without one still runs; it is told why.
    pub fn open(launcher: &Arc<Launcher>, assignment: &Assignment, sink: &dyn AttemptSink) -> Option<Self> {
        let bound = Self::bind(&assignment.scratch, launcher)
            .and_then(|socket| launcher.give(assignment, &socket.path).map(|()| socket));
        match bound {
            Ok(socket) => Some(socket),
            Err(error) => {
                let text = format!("`pinrail output` and its siblings cannot be used in this attempt: {error}");
                sink.log(None, Stream::System, text.as_bytes());
                None
            }
        }
    }

    /// The name of a socket holds 107 bytes, fewer than many paths: so it is bound by way of the folder's descriptor.
    fn bind(scratch: &Path, launcher: &Arc<Launcher>) -> std::io::Result<Self> {
        let path = scratch.with_extension(EXTENSION);
        // Left by an earlier process of the same attempt whose server was killed.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let folder = std::fs::File::open(path.parent().unwrap_or(scratch))?;
        let near = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string());
        let listener = StdListener::bind(near.join(path.file_name().unwrap_or_default()))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener: UnixListener::from_std(listener)?, path, launcher: Arc::clone(launcher) })
    }

    pub fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// Answers commands for as long as it is polled.
    async fn serve(&self, assignment: &Assignment, sink: &dyn AttemptSink, outputs: &Outputs) -> Infallible {
        let mut open = FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if open.len() < MOST_CONNECTIONS => match accepted {
                    Ok((stream, _)) => open.push(self.converse(stream, assignment, sink, outputs)),
                    // Out of descriptors, most likely: the command waits until there is one.
                    Err(error) => {
                        tracing::warn!(%error, "a command of an attempt cannot be heard yet");
                        tokio::time::sleep(HEAR_AGAIN).await;
                    }
                },
                Some(()) = open.next(), if !open.is_empty() => {}
            }
        }
    }

    async fn converse(
        &self,
        mut stream: UnixStream,
        assignment: &Assignment,
        sink: &dyn AttemptSink,
        outputs: &Outputs,
    ) {
        let peer = stream.peer_cred().ok().and_then(|peer| peer.pid()).unwrap_or_default();
        let belongs = self.launcher.owns(&assignment.attempt.to_string(), peer).await;
        let (read, mut reply) = stream.split();
        let mut reader = BufReader::new(read);
        let mut line = Vec::new();
        while next_line(&mut reader, &mut line).await {
            let message = serde_json::from_slice::<Value>(&line).unwrap_or_default();
            let outputs = (assignment.phases != [Phase::Cleanup]).then_some(outputs);
            let answer = if belongs { answer(message, sink, outputs).await } else { stranger() };
            if write(&mut reply, &answer).await.is_err() {
                return;
            }
        }
    }
}

/// What a process of somebody else's is told.
fn stranger() -> Value {
    json!({"id": 1, "error": {
        "code": "not-of-the-attempt",
        "message": "this process does not belong to the attempt",
        "hint": "Only what the job itself has started is answered.",
    }})
}

impl Drop for CommandSocket {
    fn drop(&mut self) {
        // What is left, the attempt's next process or retention removes.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Does some work and meanwhile answers the commands of the attempt; what they left goes into the outputs.
pub(crate) async fn while_serving<T>(
    socket: Option<&CommandSocket>,
    assignment: &Assignment,
    sink: &dyn AttemptSink,
    outputs: &Outputs,
    work: impl Future<Output = T>,
) -> T {
    let Some(socket) = socket else { return work.await };
    tokio::select! {
        biased;
        done = work => done,
        never = socket.serve(assignment, sink, outputs) => match never {},
    }
}
