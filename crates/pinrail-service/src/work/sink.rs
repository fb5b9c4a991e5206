//! What an executor of a worker reports into: everything goes to the server, which keeps, masks and answers.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use pinrail_model::run::{Phase, Report};
use pinrail_model::seam::exec::{AttemptSink, Request, RequestError, Stream};
use serde_json::Value;
use tokio::sync::{oneshot, watch};

use super::outbox::Outbox;
use crate::sink::read_below;
use crate::workers::wire::{Answer, Ask, Bytes, Frame};

/// Bytes of a file that are sent at once.
const PIECE: usize = 128 << 10;

/// The sink of one stretch.
pub(super) struct Teller {
    pub stretch: u64,
    pub outbox: Arc<Outbox>,
    /// The attempt's own folder here.
    pub scratch: PathBuf,
    pub stop: watch::Receiver<bool>,
    pub asked: Arc<Asked>,
    /// Bytes of output that were left out.
    pub left_out: AtomicU64,
}

/// What a stretch asked for and waits for.
#[derive(Default)]
pub(super) struct Asked {
    last: AtomicU64,
    open: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
}

impl Asked {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn answered(&self, ask: u64, reply: Answer) {
        if let Some(waiter) = self.lock().remove(&ask) {
            let _ = waiter.send(reply);
        }
    }
}

impl Teller {
    fn number(&self) -> u64 {
        self.asked.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    async fn ask(&self, ask: u64, what: Ask) -> Result<Value, RequestError> {
        let (reply, replied) = oneshot::channel();
        self.asked.lock().insert(ask, reply);
        self.outbox.say(Frame::Ask { stretch: self.stretch, ask, what });
        match replied.await {
            Ok(Answer::Granted(value)) => Ok(value),
            Ok(Answer::Refused(error)) => Err(error),
            Err(_) => Err(RequestError {
                code: "stopped".to_owned(),
                message: "the attempt is being stopped".to_owned(),
                hint: None,
            }),
        }
    }

    async fn save(&self, name: String, path: PathBuf) -> Result<Value, RequestError> {
        let refused = |message: String| RequestError { code: "save-refused".to_owned(), message, hint: None };
        let scratch = self.scratch.clone();
        let read = tokio::task::spawn_blocking(move || read_below(&scratch, &path)).await;
        let bytes = read.map_err(|e| refused(e.to_string()))?.map_err(refused)?;
        let ask = self.number();
        // An empty file has a piece as well, so that there is one.
        let pieces = bytes.chunks(PIECE).chain(bytes.is_empty().then_some(&[][..]));
        for piece in pieces {
            self.outbox.room().await;
            self.outbox.say(Frame::File { stretch: self.stretch, ask, bytes: Bytes(piece.to_vec()) });
        }
        self.ask(ask, Ask::Save { name, size: bytes.len() as u64 }).await
    }

    /// Whether output can be sent; what cannot is counted, and told of when it can be again.
    fn may_say(&self, bytes: usize) -> bool {
        if !self.outbox.has_room() {
            self.left_out.fetch_add(bytes as u64, Ordering::Relaxed);
            return false;
        }
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        if left_out > 0 {
            let text = format!("{left_out} bytes of output are left out: the connection to the server is too slow");
            let bytes = Bytes(text.into_bytes());
            self.outbox.say(Frame::Log { stretch: self.stretch, phase: None, stream: Stream::System, bytes });
        }
        true
    }
}

#[async_trait]
impl AttemptSink for Teller {
    fn report(&self, report: Report) {
        self.outbox.say(Frame::Report { stretch: self.stretch, report });
    }

    fn log(&self, phase: Option<Phase>, stream: Stream, bytes: &[u8]) {
        if self.may_say(bytes.len()) {
            self.outbox.say(Frame::Log { stretch: self.stretch, phase, stream, bytes: Bytes(bytes.to_vec()) });
        }
    }

    fn piece(&self, stream: Stream, bytes: &[u8], last: bool) {
        // The end of a stream is always told, or what is masked across pieces would be kept back.
        if self.may_say(bytes.len()) {
            self.outbox.say(Frame::Piece { stretch: self.stretch, stream, bytes: Bytes(bytes.to_vec()), last });
        } else if last {
            self.outbox.say(Frame::Piece { stretch: self.stretch, stream, bytes: Bytes(Vec::new()), last });
        }
    }

    fn counter(&self, group: &str, name: &str, value: f64, unit: Option<&str>) {
        self.outbox.say(Frame::Counter {
            stretch: self.stretch,
            group: group.to_owned(),
            name: name.to_owned(),
            value,
            unit: unit.map(str::to_owned),
        });
    }

    fn progress(&self, done: Option<f64>, text: Option<&str>) {
        self.outbox.say(Frame::Progress { stretch: self.stretch, done, text: text.map(str::to_owned) });
    }

    fn defines(&self, phases: &[Phase]) {
        self.outbox.say(Frame::Defines { stretch: self.stretch, phases: phases.to_vec() });
    }

    async fn settled(&self) {
        // A session that has ended lets nothing go on anyway.
        let _ = self.ask(self.number(), Ask::Settled).await;
    }

    async fn fix_view(&self) -> Result<(), String> {
        self.ask(self.number(), Ask::FixView).await.map(|_| ()).map_err(|error| error.message)
    }

    fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    async fn stopped(&self) {
        let mut stop = self.stop.clone();
        if stop.wait_for(|stop| *stop).await.is_err() {
            // Nobody can stop it any more but by ending it.
            std::future::pending().await
        }
    }

    async fn request(&self, request: Request) -> Result<Value, RequestError> {
        match request {
            Request::Save { name, path } => self.save(name, path).await,
            request => self.ask(self.number(), Ask::Request(request)).await,
        }
    }
}
