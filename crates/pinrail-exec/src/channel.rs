//! What is common to all local processes: their streams, their ends, and the conversation of the runner protocol
//! (docs/runner-protocol.md).

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use pinrail_model::fault::{CodePlace, Evidence, Fault, Reason};
use pinrail_model::names::OutputName;
use pinrail_model::run::{Ends, Executed, Phase, Report, RetryWish, Verdict};
use pinrail_model::seam::exec::{Assignment, AttemptSink, Request, RequestError, Spec, Stream, Stretch};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;

use crate::wire::Exit;

/// The longest line that a job may send, in bytes.
const LONGEST_LINE: u64 = 1 << 20;
/// The largest output, in bytes of JSON: it travels with every attempt below.
const LARGEST_OUTPUT: usize = 64 << 10;
/// The largest list: jobs are mapped over them. Less than a line, in which it comes.
const LARGEST_LIST: usize = (1 << 20) - (4 << 10);
/// Outputs of one attempt: all travel with every attempt below.
const MOST_OUTPUTS: usize = 100;
/// How much of a stream is read at once.
const CHUNK: usize = 32 << 10;
/// Exit codes by which a job says what should come of it.
const RETRY_LATER: i32 = 75;
const PERMANENT: i32 = 76;
/// By this a shell says that it did not find a program.
const NOT_FOUND: i32 = 127;

/// The two standard streams of a process: the ends that it gets, and the ends that are read here.
pub(crate) struct Streams {
    pub theirs: Vec<OwnedFd>,
    out: Receiver,
    err: Receiver,
}

impl Streams {
    pub fn new() -> std::io::Result<Self> {
        let (out, out_theirs) = pipe2(OFlag::O_CLOEXEC)?;
        let (err, err_theirs) = pipe2(OFlag::O_CLOEXEC)?;
        Ok(Self { theirs: vec![out_theirs, err_theirs], out: receiver(out)?, err: receiver(err)? })
    }

    /// Reads both streams to their end.
    pub async fn drain(out: &mut Receiver, err: &mut Receiver, sink: &dyn AttemptSink) {
        tokio::join!(copy(out, Stream::Stdout, sink), copy(err, Stream::Stderr, sink));
    }

    pub fn ends(self) -> (Receiver, Receiver) {
        (self.out, self.err)
    }
}

fn receiver(fd: OwnedFd) -> std::io::Result<Receiver> {
    nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Receiver::from_owned_fd(fd)
}

async fn copy(from: &mut Receiver, stream: Stream, sink: &dyn AttemptSink) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(read) = from.read(&mut buffer).await {
        if read == 0 {
            break;
        }
        sink.piece(stream, &buffer[..read], false);
    }
    sink.piece(stream, &[], true);
}

/// A socket for the runner protocol: ours, and the one that the process gets.
pub(crate) fn socket() -> std::io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = StdStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}

/// What an attempt leaves for the jobs that wait for it, said by any of its processes.
#[derive(Debug, Default)]
pub(crate) struct Outputs(Mutex<BTreeMap<String, Value>>);

impl Outputs {
    /// Keeps an output; the last of a name counts.
    pub fn put(&self, name: String, value: Value) -> Result<(), RequestError> {
        let refused = |message: String, hint: &str| {
            Err(RequestError { code: "output-refused".to_owned(), message, hint: Some(hint.to_owned()) })
        };
        if let Err(error) = name.parse::<OutputName>() {
            return refused(error.to_string(), "Names are letters, digits, underscores and hyphens.");
        }
        let size = serde_json::to_string(&value).map_or(0, |text| text.len());
        let most = if value.is_array() { LARGEST_LIST } else { LARGEST_OUTPUT };
        if size > most {
            let message = format!("output \"{name}\" takes {size} bytes as JSON; at most {most} are allowed");
            return refused(message, "Write large data to a table or save it as a file, and leave its name.");
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST_OUTPUTS && !kept.contains_key(&name) {
            let message = format!("output \"{name}\" is one too many; an attempt leaves at most {MOST_OUTPUTS}");
            return refused(message, "Leave one output that holds an object or a list.");
        }
        kept.insert(name, value);
        Ok(())
    }

    pub fn all(&self) -> BTreeMap<String, Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a process said of itself until it closed the socket.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// It spoke the protocol at all.
    pub hello: bool,
    pub outputs: Arc<Outputs>,
    /// What the process was given of `ctx.state`, then what its phases left in it.
    pub state: Value,
    pub result: Value,
    pub spec: Option<Spec>,
    pub failure: Option<Verdict>,
    /// Phases that returned.
    pub returned: Vec<Phase>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
enum Line {
    Hello {},
    Loaded {
        phases: Vec<Phase>,
    },
    PhaseStarted {
        phase: Phase,
    },
    PhaseEnded(Box<PhaseEnded>),
    Log {
        text: String,
        /// The text goes on in the next event.
        #[serde(default)]
        more: bool,
    },
    Metric {
        name: String,
        value: f64,
        #[serde(default)]
        unit: Option<String>,
    },
    Counter {
        name: String,
        value: f64,
        #[serde(default)]
        unit: Option<String>,
    },
    Progress {
        #[serde(default)]
        done: Option<f64>,
        #[serde(default)]
        text: Option<String>,
    },
    Output {
        name: String,
        value: Value,
    },
    Check {
        name: String,
        ok: bool,
        #[serde(default)]
        detail: Option<String>,
        #[serde(default)]
        level: Option<String>,
    },
    #[serde(other)]
    Unknown,
}

#[derive(Deserialize)]
struct PhaseEnded {
    phase: Phase,
    ok: bool,
    #[serde(default)]
    state: Value,
    #[serde(default)]
    result: Value,
    #[serde(default)]
    spec: Option<Spec>,
    #[serde(default)]
    error: Option<JobError>,
}

#[derive(Deserialize)]
struct JobError {
    kind: String,
    #[serde(default, rename = "type")]
    class: Option<String>,
    #[serde(default)]
    message: String,
    #[serde(default)]
    hint: Option<String>,
    #[serde(default)]
    frames: Vec<CodePlace>,
    #[serde(default)]
    exit_code: Option<i32>,
}

/// Talks the runner protocol until the process closes its end.
pub(crate) async fn converse(
    mut socket: UnixStream,
    assignment: &Assignment,
    sink: &dyn AttemptSink,
    outputs: Arc<Outputs>,
) -> Said {
    let given = assignment.context.get("state").filter(|state| !state.is_null());
    let state = given.cloned().unwrap_or_else(|| json!({}));
    let mut said = Said { outputs, state, ..Said::default() };
    if write(&mut socket, &start_message(assignment)).await.is_err() {
        return said;
    }
    let (read, mut reply) = socket.split();
    let mut reader = BufReader::new(read);
    let mut line = Vec::new();
    while next_line(&mut reader, &mut line).await {
        let Ok(message) = serde_json::from_slice::<Value>(&line) else {
            let text = "the job sent a line that is not JSON or is longer than 1 MiB";
            sink.log(None, Stream::System, text.as_bytes());
            continue;
        };
        let answer = if message.get("request").is_some() {
            Some(answer(message, sink, Some(&said.outputs)).await)
        } else {
            match serde_json::from_value::<Line>(message) {
                Ok(line) => heard(line, assignment, sink, &mut said).await,
                Err(error) => {
                    sink.log(None, Stream::System, format!("the job sent a bad message: {error}").as_bytes());
                    None
                }
            }
        };
        if let Some(answer) = answer
            && write(&mut reply, &answer).await.is_err()
        {
            break;
        }
    }
    said
}

/// Reads a line, or as much of one as may be sent; false at the end.
pub(crate) async fn next_line(reader: &mut (impl AsyncBufReadExt + Unpin), line: &mut Vec<u8>) -> bool {
    line.clear();
    matches!(reader.take(LONGEST_LINE + 1).read_until(b'\n', line).await, Ok(read) if read > 0)
}

fn start_message(assignment: &Assignment) -> Value {
    let mut start = assignment.context.clone();
    start.insert("type".to_owned(), json!("start"));
    start.insert("protocol".to_owned(), json!(1));
    start.insert("attempt".to_owned(), json!({"id": assignment.attempt, "number": assignment.number}));
    start.insert("workflow".to_owned(), json!(assignment.workflow));
    start.insert("job".to_owned(), json!(assignment.job.name));
    start.insert("class".to_owned(), json!(assignment.job.class));
    start.insert("phases".to_owned(), json!(assignment.phases));
    start.insert("root".to_owned(), json!(assignment.code.root));
    start.insert("project_dir".to_owned(), json!(assignment.code.project));
    start.insert("scratch".to_owned(), json!(assignment.scratch));
    Value::Object(start)
}

pub(crate) async fn write(to: &mut (impl AsyncWriteExt + Unpin), message: &Value) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line).await
}

/// The answer to a request. Outputs are not taken when they no longer count.
pub(crate) async fn answer(mut message: Value, sink: &dyn AttemptSink, outputs: Option<&Outputs>) -> Value {
    let id = message.get("id").cloned().unwrap_or_default();
    if let Some(fields) = message.as_object_mut() {
        fields.remove("id");
    }
    let answer = match serde_json::from_value::<Request>(message) {
        Ok(Request::Output { name, value }) => match outputs {
            Some(outputs) => outputs.put(name, value).map(|()| json!({})),
            None => Err(RequestError {
                code: "too-late".to_owned(),
                message: format!("output \"{name}\" comes too late: the attempt is being cleaned up"),
                hint: None,
            }),
        },
        Ok(request) => sink.request(request).await,
        Err(error) => Err(RequestError { code: "bad-request".to_owned(), message: error.to_string(), hint: None }),
    };
    match answer {
        Ok(reply) => json!({"id": id, "reply": reply}),
        Err(error) => json!({"id": id, "error": error}),
    }
}

/// Takes in one message; the answer, if the process waits for one.
async fn heard(line: Line, assignment: &Assignment, sink: &dyn AttemptSink, said: &mut Said) -> Option<Value> {
    match line {
        Line::Hello {} => said.hello = true,
        Line::Loaded { phases } => sink.defines(&phases),
        Line::PhaseStarted { phase } => sink.report(Report::PhaseStarted(phase)),
        Line::PhaseEnded(ended) => return phase_ended(*ended, assignment, sink, said).await,
        Line::Log { text, more } => sink.piece(Stream::Log, text.as_bytes(), !more),
        Line::Metric { name, value, unit } => sink.counter("metric", &name, value, unit.as_deref()),
        Line::Counter { name, value, unit } => sink.counter("user", &name, value, unit.as_deref()),
        Line::Progress { done, text } => sink.progress(done, text.as_deref()),
        Line::Output { name, value } => {
            if let Err(error) = said.outputs.put(name, value) {
                sink.log(None, Stream::System, error.message.as_bytes());
            }
        }
        Line::Check { name, ok, detail, level } => {
            let (state, level) = (if ok { "passed" } else { "failed" }, level.unwrap_or_else(|| "error".to_owned()));
            let detail = detail.map_or_else(String::new, |detail| format!(": {detail}"));
            if !ok && level == "warning" {
                sink.report(Report::Warned { text: format!("check \"{name}\" failed{detail}") });
            }
            sink.log(None, Stream::System, format!("check \"{name}\" ({level}) {state}{detail}").as_bytes());
        }
        Line::Unknown => {}
    }
    None
}

async fn phase_ended(
    ended: PhaseEnded,
    assignment: &Assignment,
    sink: &dyn AttemptSink,
    said: &mut Said,
) -> Option<Value> {
    let PhaseEnded { phase, ok, state, result, spec, error } = ended;
    // A spec that was returned is still to be carried out: the phase ends when the engine has.
    if !(ok && phase == Phase::Execute && spec.is_some()) {
        sink.report(Report::PhaseEnded { phase, ok });
    }
    if !state.is_null() && state != said.state {
        sink.report(Report::Left { state: state.clone() });
        said.state = state;
        // What `setup` made outside would be forgotten if the server died in `execute`.
        if phase == Phase::Setup {
            sink.settled().await;
        }
    }
    if !ok {
        said.failure = Some(verdict_of(phase, error));
        return None;
    }
    said.returned.push(phase);
    let last = assignment.phases.last() == Some(&phase);
    match phase {
        Phase::Setup => {
            if let Err(message) = sink.fix_view().await {
                said.failure = Some(Verdict::failed(
                    Fault::Platform,
                    Some(phase),
                    Evidence::new(message).reason(Reason::StateFailed),
                ));
                return None;
            }
        }
        Phase::Execute => {
            said.result = result;
            said.spec = spec;
            if said.spec.is_none() {
                sink.report(Report::Executed(executed(said)));
            }
        }
        Phase::Complete | Phase::Cleanup => {}
    }
    (!last && said.spec.is_none()).then(|| json!({"type": "proceed"}))
}

fn executed(said: &Said) -> Executed {
    Executed { result: said.result.clone(), spec: said.spec.clone(), outputs: said.outputs.all() }
}

fn verdict_of(phase: Phase, error: Option<JobError>) -> Verdict {
    let Some(error) = error else {
        return Verdict::failed(
            Fault::User,
            Some(phase),
            Evidence::new("the job failed without saying why").reason(Reason::Unsaid),
        );
    };
    let (fault, reason) = match error.kind.as_str() {
        "check" => (Fault::Data, Reason::CheckFailed),
        "memory" => (Fault::OutOfMemory, Reason::MemoryError),
        "exit" => (Fault::User, Reason::ExitCode),
        "user-error" if error.class.as_deref() == Some("SqlError") => (Fault::User, Reason::SqlFailed),
        "user-error" => (Fault::User, Reason::Said),
        _ => (Fault::User, Reason::Exception),
    };
    let message = match (&error.class, error.kind.as_str()) {
        (Some(class), "exception") if error.message.is_empty() => class.clone(),
        (Some(class), "exception") => format!("{class}: {}", error.message),
        _ => error.message,
    };
    let mut evidence =
        Evidence { message, reason: Some(reason), remedy: error.hint, code: error.frames, facts: Vec::new() };
    let mut retry = RetryWish::None;
    if let Some(code) = error.exit_code {
        evidence = evidence.fact("exit code", code);
        retry = wish(code);
    }
    Verdict { retry, ..Verdict::failed(fault, Some(phase), evidence) }
}

fn wish(code: i32) -> RetryWish {
    match code {
        RETRY_LATER => RetryWish::Later,
        PERMANENT => RetryWish::Never,
        _ => RetryWish::None,
    }
}

/// What a stretch came to, from what the process said and how it ended. The supervisor's account wins: a process that
/// said that all is well and was then killed did not end well.
pub(crate) fn judge(said: Said, exit: Exit, over_memory: Option<u64>, assignment: &Assignment) -> Stretch {
    let phase = current_phase(&said, assignment);
    if let Some(bytes) = over_memory {
        let limit = assignment.job.memory_bytes.unwrap_or(0);
        let message = format!("the job used {} of memory, more than its limit of {}", size(bytes), size(limit));
        let evidence = Evidence::new(message).reason(Reason::MemoryLimit).fact("bytes", bytes).fact("limit", limit);
        return Stretch::Failed(Verdict::failed(Fault::OutOfMemory, phase, evidence));
    }
    if let Some(failure) = said.failure {
        return Stretch::Failed(failure);
    }
    let unfinished = said.hello && said.returned != assignment.phases && said.spec.is_none();
    if let Some(mut failure) = bad_end(exit, phase) {
        // A runner says why a phase failed; one that ended without a word was ended by what it ran.
        if unfinished && exit.exit_code.is_some() {
            failure.evidence = failure.evidence.remedy(Reason::EndedEarly.remedy());
        }
        return Stretch::Failed(failure);
    }
    if unfinished {
        let evidence =
            Evidence::new("the job's process ended before its phases had returned").reason(Reason::EndedEarly);
        return Stretch::Failed(Verdict::failed(Fault::User, phase, evidence));
    }
    if said.spec.is_some() {
        return Stretch::Specified(executed(&said));
    }
    if assignment.phases == [Phase::Cleanup] {
        return Stretch::Cleaned;
    }
    Stretch::Completed { outputs: said.outputs.all() }
}

fn current_phase(said: &Said, assignment: &Assignment) -> Option<Phase> {
    assignment.phases.iter().find(|phase| !said.returned.contains(phase)).or(assignment.phases.last()).copied()
}

/// The verdict for an exit that is not 0.
pub(crate) fn bad_end(exit: Exit, phase: Option<Phase>) -> Option<Verdict> {
    if let Some(number) = exit.signal {
        let name = nix::sys::signal::Signal::try_from(number).map_or_else(|_| number.to_string(), |s| s.to_string());
        let crash = [libc::SIGSEGV, libc::SIGABRT, libc::SIGBUS, libc::SIGILL, libc::SIGFPE].contains(&number);
        let (fault, reason, message) = if crash {
            (Fault::User, Reason::Crashed, format!("the job crashed with {name}"))
        } else {
            let message = format!("the job was killed with {name} by somebody other than pinrail");
            (Fault::Unknown, Reason::Killed, message)
        };
        return Some(Verdict::failed(fault, phase, Evidence::new(message).reason(reason).fact("signal", name)));
    }
    let code = exit.exit_code.filter(|code| *code != 0)?;
    let reason = if code == NOT_FOUND { Reason::CommandNotFound } else { Reason::ExitCode };
    let message = format!("the job ended with exit code {code}");
    let evidence = Evidence::new(message).reason(reason).fact("exit code", code);
    Some(Verdict { retry: wish(code), ..Verdict::failed(Fault::User, phase, evidence) })
}

/// The failure of something of ours before any user code ran.
pub(crate) fn broken(phase: Option<Phase>, message: String) -> Stretch {
    let evidence = Evidence::new(message).reason(Reason::MachineFailed);
    Stretch::Failed(Verdict { ends: Ends::Failed, ..Verdict::failed(Fault::Platform, phase, evidence) })
}

fn size(bytes: u64) -> String {
    if bytes >= 1 << 30 {
        format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
    } else {
        format!("{} MiB", bytes >> 20)
    }
}

/// Records what the kernel accounted for.
pub(crate) fn account(exit: Exit, sink: &dyn AttemptSink) {
    sink.counter("process", "cpu_user_seconds", exit.user_seconds, Some("s"));
    sink.counter("process", "cpu_system_seconds", exit.system_seconds, Some("s"));
    sink.counter("process", "peak_memory_bytes", exit.max_rss_bytes as f64, Some("bytes"));
}

/// How long the streams of an ended process may stay open before whatever holds them is killed.
pub(crate) const STREAMS_LINGER: Duration = Duration::from_millis(20);
