//! Commands of the platform's own on user files, such as compiling workflow files: contained like jobs, offline unless
//! they fetch packages.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pinrail_model::run::{Phase, Report};
use pinrail_model::seam::exec::{
    AttemptSink, Request, RequestError, Sandbox, SandboxCommand, SandboxEnd, SandboxError, SandboxOutput, Stream,
};
use serde_json::Value;

use crate::local::Launcher;
use crate::python::base_env;
use crate::shell::{Ended, run_process};
use crate::wire::Spawn;

/// More output than this is not from a compilation; the rest is dropped.
const MOST_OUTPUT: usize = 32 << 20;
/// What is kept of what a command prints for people: the end, where the error stands.
const MOST_ERRORS: usize = 64 << 10;

/// Runs sandboxed commands through the launcher.
#[derive(Debug)]
pub struct LocalSandbox {
    launcher: Arc<Launcher>,
    serial: AtomicU64,
}

impl LocalSandbox {
    #[must_use]
    pub fn new(launcher: Arc<Launcher>) -> Self {
        Self { launcher, serial: AtomicU64::new(0) }
    }
}

#[async_trait]
impl Sandbox for LocalSandbox {
    async fn run(&self, command: SandboxCommand) -> Result<SandboxOutput, SandboxError> {
        let key = format!("sandbox-{}", self.serial.fetch_add(1, Ordering::Relaxed));
        let mut env = base_env();
        env.extend(command.env);
        let spawn = Spawn {
            key: key.clone(),
            argv: command.argv,
            env,
            cwd: command.cwd.display().to_string(),
            memory: Some(command.memory),
            data: Some(command.memory),
            extra: 0,
            offline: !command.network,
            project: command.project,
            user: None,
            uses: vec![command.cwd],
            confined: false,
        };
        let collected = Collected::default();
        let running = run_process(&self.launcher, spawn, Vec::new(), &collected);
        let end = match tokio::time::timeout(command.limit, running).await {
            Ok(Ended::Exit(_, Some(_))) => SandboxEnd::TooMuchMemory,
            Ok(Ended::Exit(exit, None)) => match (exit.exit_code, exit.signal) {
                (Some(code), _) => SandboxEnd::Exit(code),
                (None, signal) => SandboxEnd::Signal(signal.unwrap_or(0)),
            },
            Ok(Ended::Refused(message, None)) => return Err(SandboxError::Program(message)),
            Ok(Ended::Refused(message, Some(hint))) => return Err(SandboxError::Isolation { message, hint }),
            Ok(Ended::Lost) => return Err(SandboxError::Program("the launcher was lost".to_owned())),
            Err(_) => SandboxEnd::TooLong,
        };
        // Also after an end of its own: what it started in the background has closed its streams, perhaps, but lives.
        self.launcher.kill(&key, Duration::ZERO).await;
        let (stdout, stderr) = collected.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(SandboxOutput { end, stdout, stderr })
    }
}

/// Keeps both streams apart.
#[derive(Debug, Default)]
struct Collected(Mutex<(Vec<u8>, Vec<u8>)>);

#[async_trait]
impl AttemptSink for Collected {
    fn report(&self, _: Report) {}

    fn log(&self, _: Option<Phase>, stream: Stream, bytes: &[u8]) {
        self.piece(stream, bytes, true);
    }

    fn piece(&self, stream: Stream, bytes: &[u8], _: bool) {
        let mut both = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if stream == Stream::Stdout {
            let room = MOST_OUTPUT.saturating_sub(both.0.len());
            both.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
        } else {
            both.1.extend_from_slice(bytes);
            // Twice as much before anything is moved, so that a flood is not moved with every piece.
            if both.1.len() > 2 * MOST_ERRORS {
                let surplus = both.1.len() - MOST_ERRORS;
                both.1.drain(..surplus);
            }
        }
    }

    fn counter(&self, _: &str, _: &str, _: f64, _: Option<&str>) {}

    fn progress(&self, _: Option<f64>, _: Option<&str>) {}

    fn defines(&self, _: &[Phase]) {}

    async fn fix_view(&self) -> Result<(), String> {
        Ok(())
    }

    async fn request(&self, _: Request) -> Result<Value, RequestError> {
        let message = "nothing can be asked for here".to_owned();
        Err(RequestError { code: "not-here".to_owned(), message, hint: None })
    }
}
