//! Commands: a process of the user's choice in the unpacked bundle, judged by its exit status.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pinrail_model::document::ExecutorKind;
use pinrail_model::ids::AttemptId;
use pinrail_model::run::{Phase, Report};
use pinrail_model::seam::exec::{Assignment, AttemptSink, Executor, Stretch};
use tokio::sync::mpsc;

use crate::channel::{Outputs, STREAMS_LINGER, Said, Streams, account, broken, judge};
use crate::commands::{CommandSocket, SOCKET_VARIABLE, while_serving};
use crate::local::{ATTEMPT_VARIABLE, Launcher};
use crate::python::Python;
use crate::wire::{Event, Exit, Spawn};

/// Runs commands.
#[derive(Debug)]
pub struct Shell {
    launcher: Arc<Launcher>,
    /// Runs classes that were submitted to this executor, each in a fresh interpreter.
    python: Arc<Python>,
}

impl Shell {
    #[must_use]
    pub fn new(launcher: Arc<Launcher>, python: Arc<Python>) -> Self {
        Self { launcher, python }
    }
}

#[async_trait]
impl Executor for Shell {
    fn kind(&self) -> ExecutorKind {
        ExecutorKind::Shell
    }

    async fn run(&self, assignment: &Assignment, sink: &dyn AttemptSink) -> Stretch {
        if let Err(error) = std::fs::create_dir_all(&assignment.scratch) {
            return no_scratch(&error);
        }
        if assignment.command.is_empty() {
            return self.python.run_cold(assignment, sink).await;
        }
        // The phases around the command belong to the platform: there is nothing of the user's to run in them. A command
        // that `execute` returned is not a job of its own and has none.
        let whole = assignment.phases.contains(&Phase::Setup);
        if whole {
            sink.report(Report::PhaseStarted(Phase::Setup));
            sink.report(Report::PhaseEnded { phase: Phase::Setup, ok: true });
            if let Err(message) = sink.fix_view().await {
                return cannot(message);
            }
            sink.report(Report::PhaseStarted(Phase::Execute));
        }
        let socket = CommandSocket::open(&self.launcher, assignment, sink);
        let spawn = Spawn {
            key: assignment.attempt.to_string(),
            argv: assignment.command.clone(),
            env: environment(self.python.programs(), assignment, socket.as_ref()),
            cwd: assignment.folder.display().to_string(),
            memory: assignment.job.memory_bytes,
            data: None,
            extra: 0,
            offline: false,
            project: Some(assignment.project.clone()),
            user: None,
            uses: uses(assignment),
            confined: false,
        };
        let outputs = Arc::new(Outputs::default());
        let running = run_process(&self.launcher, spawn, Vec::new(), sink);
        let ended = while_serving(socket.as_ref(), assignment, sink, &outputs, running).await;
        let (exit, over) = match ended {
            Ended::Exit(exit, over) => (exit, over),
            Ended::Refused(message, _) => return refused(message),
            Ended::Lost => return Stretch::Lost,
        };
        account(exit, sink);
        let returned = if whole { vec![Phase::Setup] } else { Vec::new() };
        let stretch = judge(Said { returned, outputs, ..Said::default() }, exit, over, assignment);
        if whole && matches!(stretch, Stretch::Completed { .. }) {
            sink.report(Report::PhaseEnded { phase: Phase::Execute, ok: true });
            sink.report(Report::Executed(pinrail_model::run::Executed::default()));
            sink.report(Report::PhaseStarted(Phase::Complete));
            sink.report(Report::PhaseEnded { phase: Phase::Complete, ok: true });
        }
        stretch
    }

    async fn stop(&self, attempt: AttemptId, grace: Duration) {
        stop(&self.launcher, &attempt.to_string(), grace).await;
    }
}

/// The environment of an attempt's process: where programs are, what the job is told, and by what it is known.
pub(crate) fn environment(
    mut env: BTreeMap<String, String>,
    assignment: &Assignment,
    socket: Option<&CommandSocket>,
) -> BTreeMap<String, String> {
    let environment = assignment.code.environment.as_ref();
    env.extend(environment.into_iter().flat_map(|folder| of_environment(folder, env.get("PATH"))).collect::<Vec<_>>());
    env.extend(assignment.env.clone());
    env.insert(ATTEMPT_VARIABLE.to_owned(), assignment.attempt.to_string());
    if let Some(socket) = socket {
        env.insert(SOCKET_VARIABLE.to_owned(), socket.path());
    }
    env
}

/// What an attempt's process uses of the state folder: its code, and its own folders.
pub(crate) fn uses(assignment: &Assignment) -> Vec<PathBuf> {
    vec![assignment.code.root.clone(), assignment.scratch.clone(), assignment.folder.clone()]
}

/// What makes the programs of a Python environment the ones that a process finds.
pub(crate) fn of_environment(folder: &std::path::Path, path: Option<&String>) -> BTreeMap<String, String> {
    let bin = folder.join("bin").display().to_string();
    let path = path.map(|path| ("PATH".to_owned(), format!("{bin}:{path}")));
    path.into_iter().chain([("VIRTUAL_ENV".to_owned(), folder.display().to_string())]).collect()
}

fn refused(message: String) -> Stretch {
    use pinrail_model::fault::{Evidence, Fault, Reason};
    let evidence = Evidence::new(message).reason(Reason::CommandRefused);
    Stretch::Failed(pinrail_model::run::Verdict::failed(Fault::User, Some(Phase::Execute), evidence))
}

/// How a process ended, as far as anybody knows.
pub(crate) enum Ended {
    Exit(Exit, Option<u64>),
    /// With what to do, when the program is not at fault.
    Refused(String, Option<String>),
    Lost,
}

/// Runs one process to its end and reads its streams to theirs.
pub(crate) async fn run_process(
    launcher: &Launcher,
    spawn: Spawn,
    extra: Vec<std::os::fd::OwnedFd>,
    sink: &dyn AttemptSink,
) -> Ended {
    let Ok(mut streams) = Streams::new() else {
        return Ended::Refused("no more files can be opened".to_owned(), None);
    };
    let mut fds = std::mem::take(&mut streams.theirs);
    fds.extend(extra);
    let key = spawn.key.clone();
    if sink.is_stopped() {
        return Ended::Lost;
    }
    let mut news = launcher.spawn(spawn, &fds);
    // Ours must be closed, or the streams would never end.
    drop(fds);
    if sink.is_stopped() {
        launcher.kill(&key, Duration::ZERO).await;
    }
    let (mut out, mut err) = streams.ends();
    let drained = Streams::drain(&mut out, &mut err, sink);
    tokio::pin!(drained);
    let ending = next_end(&mut news);
    tokio::pin!(ending);
    let mut open = true;
    let ended = loop {
        tokio::select! {
            event = &mut ending => break event,
            () = &mut drained, if open => open = false,
        }
    };
    if open && tokio::time::timeout(STREAMS_LINGER, &mut drained).await.is_err() {
        // Something that outlived its root still holds them.
        launcher.sweep(&key).await;
        drained.await;
    }
    ended
}

async fn next_end(news: &mut mpsc::UnboundedReceiver<Event>) -> Ended {
    let mut over = None;
    while let Some(event) = news.recv().await {
        match event {
            Event::OverMemory { bytes, .. } => over = Some(bytes),
            Event::Exited { exit, .. } => return Ended::Exit(exit, over),
            Event::Refused { message, hint, .. } => return Ended::Refused(message, hint),
            Event::Started { .. } | Event::Gone { .. } => {}
        }
    }
    Ended::Lost
}

/// Ends an attempt's process if it lives, then whatever has outlived it.
pub(crate) async fn stop(launcher: &Launcher, key: &str, grace: Duration) {
    launcher.kill(key, grace).await;
}

pub(crate) fn no_scratch(error: &std::io::Error) -> Stretch {
    cannot(format!("the scratch folder cannot be made: {error}"))
}

/// A failure before anything of the user's ran.
pub(crate) fn cannot(message: impl std::fmt::Display) -> Stretch {
    broken(None, message.to_string())
}
