//! A worker process: joins a server and runs its jobs here.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clap::Args;
use pinrail_exec::local::kill_marked;
use pinrail_exec::users::Users;
use pinrail_service::bundles::Bundles;
use pinrail_service::tenancy::Tenancy;
use pinrail_service::work::{Line, LineError, Offer, Said, Wish, WorkParts, work as serve};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use ureq::http::Response;
use ureq::{Agent, Body};

use super::server::MOST_SLOTS;
use crate::client::Place;
use crate::failure::{FAILED, Failure, REFUSED, UNREACHABLE, USAGE};
use crate::output::{Output, plural};
use crate::python::default_interpreter;
use crate::server::{Parts, default_slots, start_launcher, warn_if_not_hidden};
use crate::state::Locked;
use crate::user;

/// Async threads: what they do is short, the machine's cores are for jobs.
const THREADS: usize = 2;

/// How a worker is to be.
#[derive(Debug, Args)]
pub struct WorkArgs {
    /// A file with the worker's token [default: as for every command]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// What people call it [default: the name of this machine]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// What it has that jobs ask for with `labels=`, separated by commas
    #[arg(long, value_name = "LABEL,...", value_delimiter = ',')]
    labels: Vec<String>,
    /// Processes at the same time [default: twice the cores and one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MOST_SLOTS))]
    slots: Option<u32>,
    /// Its own folder, for code and scratch files [default: ~/.local/state/pinrail/work/NAME]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// The user of this machine that runs the jobs of a project; once for each project. Only root can start such a worker
    #[arg(long, value_name = "PROJECT=USER")]
    run_as: Vec<String>,
}

pub fn work(place: &Place, output: Output, args: WorkArgs) -> Result<ExitCode, Failure> {
    let name = args.name.unwrap_or_else(host_name);
    let token = args.token_file.map(|file| {
        let read = std::fs::read_to_string(&file);
        read.map(|text| text.trim().to_owned())
            .map_err(|e| Failure::new(USAGE, format!("the token file \"{}\" cannot be read: {e}", file.display())))
    });
    let token = token.transpose()?;
    let with_token = Place { token: token.or_else(|| place.token.clone()), ..place.clone() };
    let (url, token) = with_token.staying()?;
    let folder = match args.folder {
        Some(folder) => folder,
        None => user::state()?.join("work").join(name.replace('/', "_")),
    };
    let locked = Locked::take(&folder)?.ok_or_else(|| {
        Failure::new(REFUSED, format!("another worker uses the folder \"{}\"", folder.display()))
            .hint("Give this one a name of its own with --name, or a folder with --folder.")
    })?;
    let users =
        Users::find(&args.run_as, &locked.folder).map_err(|e| Failure::new(REFUSED, e.to_string()).hint(e.hint()))?;
    let tenancy = if users.is_empty() { Tenancy::Local } else { Tenancy::Users(users.numbers()) };
    let users_of = users.numbers().into_keys().collect();
    let launcher = start_launcher(&locked.folder, users)?;
    warn_if_not_hidden();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let parts = Parts::new(&locked.folder, Arc::clone(&launcher), tenancy)?;
    let agent = Agent::config_builder().http_status_as_error(false).build().into();
    let work = WorkParts {
        line: Arc::new(Http { url: url.clone(), token, agent }),
        clock: Arc::clone(&parts.clock),
        executors: parts.executors(),
        bundles: Bundles::new(&locked.folder, Arc::clone(&parts.clock)),
        state: locked.folder.clone(),
        interpreter: default_interpreter(),
        environments: parts.environments(&locked.folder),
        guard: Box::new(move |lease| launcher.lease(lease)),
        kill_marked,
    };
    let slots = args.slots.unwrap_or_else(default_slots);
    let labels: BTreeSet<String> = args.labels.into_iter().collect();
    let say = |said: Said| match said {
        Said::Joined { name, slots } => {
            output.say(&format!("worker {name} works for {url} with {}", plural(u64::from(slots), "slot")));
        }
        Said::Waiting(why) => eprintln!("warning: {why}; asking again"),
        Said::Lost(why) => eprintln!("warning: {why}; all processes here are ended, and the worker joins anew"),
        Said::Draining => output.say("finishing what there is; again ends it at once"),
    };
    let ended = runtime.block_on(async {
        let wish = wishes()?;
        serve(work, Offer { name: name.clone(), labels, slots, users_of }, wish, say).await.map_err(failure)
    });
    // A request to a server that does not answer is not waited for.
    runtime.shutdown_background();
    ended?;
    output.say("nothing is left to do");
    output.document(&json!({"worker": name}));
    Ok(ExitCode::SUCCESS)
}

fn failure(error: LineError) -> Failure {
    match error {
        LineError::Unreachable(message) => Failure::new(UNREACHABLE, message),
        LineError::Refused { status, message, hint, .. } => {
            let code = if (400..500).contains(&status) { REFUSED } else { FAILED };
            Failure { hint, ..Failure::new(code, message) }
        }
    }
}

/// What the signals of this process ask for: the first to finish, the second to end.
fn wishes() -> std::io::Result<watch::Receiver<Wish>> {
    let (wishing, wish) = watch::channel(Wish::Work);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        for wanted in [Wish::Drain, Wish::End] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            wishing.send_replace(wanted);
        }
        // Kept, so that whoever waits for another wish goes on waiting.
        wishing.closed().await;
    });
    Ok(wish)
}

/// The name of this machine.
fn host_name() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String =
        text.trim().chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).take(63).collect();
    if name.is_empty() { "worker".to_owned() } else { name }
}

/// HTTP, with the calls off the async threads.
struct Http {
    url: String,
    token: String,
    agent: Agent,
}

impl Http {
    async fn call(
        &self,
        call: impl FnOnce(&Agent, &str) -> Result<Response<Body>, ureq::Error> + Send + 'static,
    ) -> Result<Vec<u8>, LineError> {
        let (agent, url, bearer) = (self.agent.clone(), self.url.clone(), format!("Bearer {}", self.token));
        let called = tokio::task::spawn_blocking(move || {
            let unreachable =
                |e: ureq::Error| LineError::Unreachable(format!("the server at {url} cannot be reached: {e}"));
            let mut response = call(&agent, &bearer).map_err(unreachable)?;
            let status = response.status().as_u16();
            let bytes = response.body_mut().with_config().limit(u64::MAX).read_to_vec().map_err(unreachable)?;
            if (200..300).contains(&status) { Ok(bytes) } else { Err(refused(status, &bytes)) }
        });
        called.await.unwrap_or_else(|e| Err(LineError::Unreachable(e.to_string())))
    }
}

fn refused(status: u16, body: &[u8]) -> LineError {
    let document: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |field: &str| document[field].as_str().map(str::to_owned);
    match text("code") {
        Some(code) => {
            LineError::Refused { status, code, message: text("detail").unwrap_or_default(), hint: text("hint") }
        }
        // Something between, such as a proxy whose server is away.
        None => LineError::Unreachable(format!("the server is not there: something answers {status} in its place")),
    }
}

#[async_trait]
impl Line for Http {
    async fn post(&self, path: &str, body: Value, patience: Duration) -> Result<Value, LineError> {
        let url = format!("{}/api/v1{path}", self.url);
        let bytes = self
            .call(move |agent, bearer| {
                let request = agent.post(url).header("authorization", bearer).content_type("application/json");
                request.config().timeout_global(Some(patience)).build().send(body.to_string().as_bytes())
            })
            .await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes)
            .map_err(|e| LineError::Unreachable(format!("the server's answer is no JSON: {e}")))
    }

    async fn get(&self, path: &str, patience: Duration) -> Result<Vec<u8>, LineError> {
        let url = format!("{}/api/v1{path}", self.url);
        self.call(move |agent, bearer| {
            let request = agent.get(url).header("authorization", bearer);
            request.config().timeout_global(Some(patience)).build().call()
        })
        .await
    }
}
