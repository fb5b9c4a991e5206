//! What a worker has to say and the server does not have yet, in order.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::workers::wire::Frame;

/// Bytes that are sent in one request, unless a single frame has more.
const MOST_SENT: usize = 512 << 10;
/// Bytes that may wait before a file that is being sent waits as well.
const ROOM: usize = 4 << 20;
/// Bytes that may wait before output of jobs is left out, because the connection is slower than they are.
const MOST_WAITING: usize = 64 << 20;

/// Frames that wait, the first of them with its number.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    /// There are frames to send.
    pub news: Notify,
    /// There is room again.
    room: Notify,
}

#[derive(Default)]
struct Waiting {
    /// With their sizes.
    frames: VecDeque<(usize, Frame)>,
    /// The number of the last frame that the server has.
    heard: u64,
    bytes: usize,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something. What must arrive is always taken.
    pub fn say(&self, frame: Frame) {
        let size = frame.size();
        let mut waiting = self.lock();
        waiting.bytes += size;
        waiting.frames.push_back((size, frame));
        drop(waiting);
        self.news.notify_one();
    }

    /// Whether there is room for output, which may be left out.
    pub fn has_room(&self) -> bool {
        self.lock().bytes < MOST_WAITING
    }

    /// Returns when there is room for what can wait.
    pub async fn room(&self) {
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            if self.lock().bytes < ROOM {
                return;
            }
            room.await;
        }
    }

    /// The next frames to send and the number of the first. They stay until the server has them.
    pub fn next(&self) -> (u64, Vec<Frame>) {
        let waiting = self.lock();
        let mut bytes = 0;
        let fits = |(size, _): &&(usize, Frame)| {
            bytes += size;
            bytes <= MOST_SENT || bytes == *size
        };
        let frames = waiting.frames.iter().take_while(fits).map(|(_, frame)| frame.clone());
        (waiting.heard + 1, frames.collect())
    }

    /// The server has everything up to this number.
    pub fn heard(&self, last: u64) {
        let mut waiting = self.lock();
        while waiting.heard < last {
            let Some((size, _)) = waiting.frames.pop_front() else { return };
            waiting.bytes -= size;
            waiting.heard += 1;
        }
        drop(waiting);
        self.room.notify_waiters();
    }

    pub fn is_empty(&self) -> bool {
        self.lock().frames.is_empty()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::workers::wire::Bytes;
    use pinrail_model::seam::exec::Stream;

    fn piece(size: usize) -> Frame {
        Frame::Piece { stretch: 1, stream: Stream::Stdout, bytes: Bytes(vec![b'x'; size]), last: false }
    }

    #[test]
    fn what_is_not_known_to_have_arrived_is_sent_again() {
        let outbox = Outbox::default();
        outbox.say(piece(1));
        outbox.say(piece(2));
        let (first, frames) = outbox.next();
        assert_eq!((first, frames.len()), (1, 2));
        outbox.heard(1);
        let (first, frames) = outbox.next();
        assert_eq!((first, frames.len()), (2, 1));
        // An old answer changes nothing.
        outbox.heard(1);
        assert!(!outbox.is_empty());
        outbox.heard(2);
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_request_holds_no_more_than_fits_but_always_something() {
        let outbox = Outbox::default();
        outbox.say(piece(2 * MOST_SENT));
        outbox.say(piece(MOST_SENT / 2));
        outbox.say(piece(MOST_SENT / 2));
        assert_eq!(outbox.next().1.len(), 1);
        outbox.heard(1);
        assert_eq!(outbox.next().1.len(), 1);
    }

    #[tokio::test]
    async fn files_wait_for_room_and_output_is_left_out_at_last() {
        let outbox = Outbox::default();
        outbox.say(piece(ROOM));
        assert!(outbox.has_room());
        let waits = outbox.room();
        tokio::pin!(waits);
        assert!(futures::poll!(&mut waits).is_pending());
        outbox.heard(1);
        waits.await;
        outbox.say(piece(MOST_WAITING));
        assert!(!outbox.has_room());
    }
}
