//! Logs: one file of frames per attempt, made when the first byte comes.
//!
//! The first 16 MiB and about the last 48 MiB are kept, the gap is marked. A frame's sequence number is its address,
//! for ever. Bytes are kept as they came, also when they are no UTF-8.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pinrail_model::ids::AttemptId;
use pinrail_model::run::Phase;
use pinrail_model::seam::exec::Stream;
use pinrail_model::time::Micros;

/// Kept from the beginning.
const HEAD: u64 = 16 << 20;
/// The end is kept in segments of this size, as many as make up 48 MiB.
const SEGMENT: u64 = 8 << 20;
const SEGMENTS: usize = 6;
/// More bytes than this are written as several frames.
const LARGEST_FRAME: usize = 1 << 20;
/// Sequence, time, phase, stream, length.
const HEADER: usize = 8 + 8 + 1 + 1 + 4;

/// Some bytes that an attempt wrote at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub seq: u64,
    pub at: Micros,
    pub phase: Option<Phase>,
    pub stream: Stream,
    pub bytes: Vec<u8>,
}

/// Writes the log of one attempt.
#[derive(Debug)]
pub struct LogWriter {
    folder: PathBuf,
    attempt: AttemptId,
    state: Mutex<State>,
    news: tokio::sync::watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    file: Option<File>,
    /// Of the file that is being written.
    written: u64,
    last: u64,
    segments: VecDeque<u64>,
    /// What an earlier process wrote has been looked at.
    resumed: bool,
    /// It was told of once that something could not be written.
    failed: bool,
}

impl LogWriter {
    /// Goes on where an earlier process left off, unless the attempt is `fresh`. Nothing is read before it must be.
    #[must_use]
    pub fn new(folder: &Path, attempt: AttemptId, fresh: bool) -> Self {
        Self {
            folder: folder.to_owned(),
            attempt,
            state: Mutex::new(State { resumed: fresh, ..State::default() }),
            news: tokio::sync::watch::Sender::new(0),
        }
    }

    /// Appends a frame, or more for many bytes. A log that cannot be written is reported once and lost; the job goes on.
    pub fn append(&self, at: Micros, phase: Option<Phase>, stream: Stream, bytes: &[u8]) {
        for part in bytes.chunks(LARGEST_FRAME) {
            self.append_frame(at, phase, stream, part);
        }
        if bytes.is_empty() {
            self.append_frame(at, phase, stream, bytes);
        }
    }

    fn append_frame(&self, at: Micros, phase: Option<Phase>, stream: Stream, bytes: &[u8]) {
        let mut state = self.state();
        if !std::mem::replace(&mut state.resumed, true) {
            self.resume(&mut state);
        }
        let seq = state.last + 1;
        let frame = encode(seq, at, phase, stream, bytes);
        if let Err(error) = self.write(&mut state, seq, &frame)
            && !std::mem::replace(&mut state.failed, true)
        {
            tracing::error!(attempt = %self.attempt, %error, "a log cannot be written; what follows may miss");
        }
        state.last = seq;
        drop(state);
        self.news.send_replace(seq);
    }

    fn resume(&self, state: &mut State) {
        state.segments = segments(&self.folder, self.attempt).into();
        // Whatever stands before the last file is known to be older.
        let before = state.segments.back().map_or(0, |first| first - 1);
        state.last = read(&self.folder, self.attempt, before).last().map_or(before, |frame| frame.seq);
    }

    /// Tells of every new frame, by its number.
    #[must_use]
    pub fn news(&self) -> tokio::sync::watch::Receiver<u64> {
        self.news.subscribe()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, state: &mut State, seq: u64, frame: &[u8]) -> std::io::Result<()> {
        let limit = if state.segments.is_empty() { HEAD } else { SEGMENT };
        let full = state.written + frame.len() as u64 > limit && state.written > 0;
        if full {
            state.segments.push_back(seq);
            state.file = None;
            if state.segments.len() > SEGMENTS
                && let Some(oldest) = state.segments.pop_front()
            {
                std::fs::remove_file(path(&self.folder, self.attempt, oldest))?;
            }
        }
        if state.file.is_none() {
            std::fs::create_dir_all(&self.folder)?;
            let first = state.segments.back().copied().unwrap_or(0);
            let file = OpenOptions::new().create(true).append(true).open(path(&self.folder, self.attempt, first))?;
            state.written = file.metadata()?.len();
            state.file = Some(file);
        }
        if let Some(file) = &mut state.file {
            file.write_all(frame)?;
            state.written += frame.len() as u64;
        }
        Ok(())
    }
}

fn path(folder: &Path, attempt: AttemptId, first: u64) -> PathBuf {
    if first == 0 { folder.join(format!("{attempt}.log")) } else { folder.join(format!("{attempt}.{first:020}.log")) }
}

/// The first sequence numbers of the segments after the head, in order.
fn segments(folder: &Path, attempt: AttemptId) -> Vec<u64> {
    // One more frame would have found room in the head: there are none, as nearly always, and the folder of all logs need
    // not be listed.
    let head = std::fs::metadata(path(folder, attempt, 0)).map_or(0, |metadata| metadata.len());
    if head + (HEADER + LARGEST_FRAME) as u64 <= HEAD {
        return Vec::new();
    }
    let prefix = format!("{attempt}.");
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut found: Vec<u64> =
        names.filter_map(|name| name.strip_prefix(&prefix)?.strip_suffix(".log")?.parse().ok()).collect();
    found.sort_unstable();
    found
}

fn encode(seq: u64, at: Micros, phase: Option<Phase>, stream: Stream, bytes: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER + bytes.len());
    frame.extend(seq.to_le_bytes());
    frame.extend(at.0.to_le_bytes());
    frame.push(phase.map_or(0, |phase| phase as u8 + 1));
    frame.push(stream as u8);
    frame.extend((bytes.len() as u32).to_le_bytes());
    frame.extend_from_slice(bytes);
    frame
}

/// The frames after a sequence number, oldest first. A frame that a crash cut off ends the reading of its file.
#[must_use]
pub fn read(folder: &Path, attempt: AttemptId, after: u64) -> Vec<Frame> {
    read_some(folder, attempt, after, usize::MAX, usize::MAX).0
}

/// As [`read`], but at most so many frames, and no further one once there are so many bytes; and whether there are more.
/// Where frames were let go, a frame of the platform's own stands for them, under the number of the last of them.
#[must_use]
pub fn read_some(folder: &Path, attempt: AttemptId, after: u64, most: usize, bytes: usize) -> (Vec<Frame>, bool) {
    let mut frames = Vec::new();
    let (mut size, mut last) = (0, after);
    let files: Vec<u64> = std::iter::once(0).chain(segments(folder, attempt)).collect();
    for (at, first) in files.iter().enumerate() {
        // All of it is known if the next file begins no later than what is wanted.
        if files.get(at + 1).is_some_and(|next| *next <= after + 1) {
            continue;
        }
        let Ok(file) = File::open(path(folder, attempt, *first)) else { continue };
        let mut reader = BufReader::with_capacity(1 << 20, file);
        while let Some(found) = decode(&mut reader, after) {
            let Some(frame) = found else { continue };
            if frames.len() == most || size >= bytes {
                return (frames, true);
            }
            let let_go = frame.seq - last - 1;
            last = frame.seq;
            if let_go > 0 {
                frames.push(gap(let_go, &frame));
                if frames.len() == most {
                    return (frames, true);
                }
            }
            size += frame.bytes.len();
            frames.push(frame);
        }
    }
    (frames, false)
}

fn gap(let_go: u64, next: &Frame) -> Frame {
    let text = format!(
        "\n... {let_go} pieces of this log are left out: its first {} MiB and its last {} MiB are kept ...\n",
        HEAD >> 20,
        (SEGMENT * SEGMENTS as u64) >> 20
    );
    Frame { seq: next.seq - 1, at: next.at, phase: next.phase, stream: Stream::System, bytes: text.into_bytes() }
}

/// The next frame, passed over if it is not after a sequence number.
fn decode(reader: &mut (impl Read + Seek), after: u64) -> Option<Option<Frame>> {
    let mut header = [0; HEADER];
    reader.read_exact(&mut header).ok()?;
    let seq = u64::from_le_bytes(header[..8].try_into().ok()?);
    let length = u32::from_le_bytes(header[18..22].try_into().ok()?);
    if seq <= after {
        reader.seek_relative(length.into()).ok()?;
        return Some(None);
    }
    let at = Micros(i64::from_le_bytes(header[8..16].try_into().ok()?));
    let phase = match header[16] {
        1 => Some(Phase::Setup),
        2 => Some(Phase::Execute),
        3 => Some(Phase::Complete),
        4 => Some(Phase::Cleanup),
        _ => None,
    };
    let stream = match header[17] {
        0 => Stream::Stdout,
        1 => Stream::Stderr,
        2 => Stream::Log,
        _ => Stream::System,
    };
    let mut bytes = vec![0; length as usize];
    reader.read_exact(&mut bytes).ok()?;
    Some(Some(Frame { seq, at, phase, stream, bytes }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("pinrail-logs-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        folder
    }

    #[test]
    fn frames_are_read_back_as_they_came() {
        let (folder, id) = (folder("back"), AttemptId::from_parts(1, 1));
        let log = LogWriter::new(&folder, id, true);
        assert!(!folder.exists(), "a silent job has no log file");
        log.append(Micros(5), Some(Phase::Execute), Stream::Stdout, b"a\xff\n");
        log.append(Micros(6), None, Stream::System, b"b");
        let again = LogWriter::new(&folder, id, false);
        again.append(Micros(7), None, Stream::Stderr, b"c");
        let frames = read(&folder, id, 0);
        assert_eq!(
            frames.iter().map(|f| (f.seq, f.bytes.clone())).collect::<Vec<_>>(),
            [(1, b"a\xff\n".to_vec()), (2, b"b".to_vec()), (3, b"c".to_vec())]
        );
        assert_eq!(read(&folder, id, 2).len(), 1);
        let some = |after, most, bytes| {
            let (frames, more) = read_some(&folder, id, after, most, bytes);
            (frames.iter().map(|frame| frame.seq).collect::<Vec<_>>(), more)
        };
        assert_eq!(some(0, 2, 100), (vec![1, 2], true));
        assert_eq!(some(2, 2, 100), (vec![3], false));
        assert_eq!(some(0, 9, 3), (vec![1], true), "at least one, whatever its size");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn of_a_flood_the_beginning_and_the_end_are_kept() {
        let (folder, id) = (folder("flood"), AttemptId::from_parts(1, 2));
        let log = LogWriter::new(&folder, id, true);
        // As large as the pieces that streams are read in, so that segments are nearly full.
        let chunk = vec![b'x'; 32 << 10];
        for _ in 0..4096 {
            log.append(Micros(0), None, Stream::Stdout, &chunk);
        }
        let frames = read(&folder, id, 0);
        let at = frames.iter().position(|frame| frame.stream == Stream::System).unwrap();
        assert_eq!(frames[at - 1].seq, 511);
        let end = (4096 - frames[at].seq) >> 5;
        assert!((40..=48).contains(&end), "{end} MiB");
        let text = String::from_utf8_lossy(&frames[at].bytes).into_owned();
        assert!(text.contains(&format!("... {} pieces of this log are left out", frames[at].seq - 511)), "{text}");
        assert_eq!(frames.last().unwrap().seq, 4096);
        assert!(frames[at..].windows(2).all(|pair| pair[1].seq == pair[0].seq + 1));
        // Page by page it is the same, also when a page ends at the gap.
        let (page, more) = read_some(&folder, id, 0, at + 1, usize::MAX);
        assert!(more && page.last().unwrap().stream == Stream::System);
        let (rest, _) = read_some(&folder, id, page.last().unwrap().seq, usize::MAX, usize::MAX);
        assert_eq!([page, rest].concat(), frames);
        let again = LogWriter::new(&folder, id, false);
        again.append(Micros(0), None, Stream::Stdout, b"more");
        assert_eq!(read(&folder, id, 0).last().unwrap().seq, 4097);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
