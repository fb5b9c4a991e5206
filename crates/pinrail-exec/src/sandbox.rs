//! Commands of the platform's own on user files, such as compiling workflow files: contained like jobs, offline.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pinrail_model::run::{Phase, Report};
use pinrail_model::seam::exec::{AttemptSink, Request, RequestError, Sandbox, SandboxCommand, SandboxOutput, Stream};
use serde_json::Value;

use crate::local::Launcher;
use crate::python::base_env;
use crate::shell::{Ended, run_process};
use crate::wire::Spawn;

/// More output than this is not from a compilation; the rest is dropped.
const MOST_OUTPUT: usize = 64 << 20;

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
    async fn run(&self, command: SandboxCommand) -> Result<SandboxOutput, String> {
        let key = format!("sandbox-{}", self.serial.fetch_add(1, Ordering::Relaxed));
        let mut env = base_env();
        env.extend(command.env);
        let cwd = command.cwd.display().to_string();
        let spawn = Spawn { key: key.clone(), argv: command.argv, env, cwd, memory: None, extra: 0, offline: true };
        let collected = Collected::default();
        let ended =
            tokio::time::timeout(command.limit, run_process(&self.launcher, spawn, Vec::new(), &collected)).await;
        let exit_code = match ended {
            Ok(Ended::Exit(exit, _)) => exit.exit_code,
            Ok(Ended::Refused(message)) => return Err(message),
            Ok(Ended::Lost) => return Err("the launcher was lost".to_owned()),
            Err(_) => {
                self.launcher.kill(&key, Duration::ZERO).await;
                None
            }
        };
        let (stdout, stderr) = collected.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(SandboxOutput { exit_code, stdout, stderr })
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
        let into = if stream == Stream::Stdout { &mut both.0 } else { &mut both.1 };
        into.extend_from_slice(&bytes[..bytes.len().min(MOST_OUTPUT.saturating_sub(into.len()))]);
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
