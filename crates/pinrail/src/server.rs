//! A server in this process: everything wired together, listening.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pinrail_exec::Launcher;
use pinrail_exec::LocalSandbox;
use pinrail_exec::confine::{Hidden, close_server};
use pinrail_exec::local::kill_marked;
use pinrail_exec::python::{Python, PythonConfig};
use pinrail_exec::shell::Shell;
use pinrail_exec::users::Users;
use pinrail_model::document::ExecutorKind;
use pinrail_model::ids::Ids;
use pinrail_model::seam::exec::{Executor, Sandbox};
use pinrail_model::seam::lake::{Catalog, QueryEngine};
use pinrail_model::seam::store::{Answer, Query, Store, StoreError, Who};
use pinrail_model::time::Clock;
use pinrail_service::app::App;
use pinrail_service::attempt::{AttemptParts, Attempts};
use pinrail_service::bundles::Bundles;
use pinrail_service::compile::Compiler;
use pinrail_service::environments::{Environments, environments_folder};
use pinrail_service::http::serve;
use pinrail_service::notify::{Deliveries, Sender};
use pinrail_service::owner::{self, Input, OwnerHandle, OwnerParts};
use pinrail_service::queries::Queries;
use pinrail_service::retention::{Keep, Retention};
use pinrail_service::system::{SystemClock, SystemIds, installation};
use pinrail_service::tenancy::Tenancy;
use pinrail_service::vault::Vault;
use pinrail_service::workers::Workers;
use pinrail_store::SqliteStore;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::commands::doctor::{NOT_HIDDEN, NOT_HIDDEN_REMEDY};
use crate::failure::{FAILED, Failure, REFUSED, USAGE};
use crate::interrupts;
use crate::python::{default_interpreter, shared_environments};
use crate::sdk;
use crate::state::{Live, Locked, Unused};

/// Async threads for control: what they do is short, the machine's cores are for jobs and queries.
const CONTROL_THREADS: usize = 2;
/// Warm Python processes at the same time, what unused ones may hold together, and how long an unused one stays.
const MOST_WARM: usize = 4;
const MOST_WARM_MEMORY: u64 = 512 << 20;
const WARM_IDLE: Duration = Duration::from_secs(60);

/// What processes of users may read of the state folder besides their own: the SDK and its byte code, this binary.
const SHARED: &[&str] = &["sdk", "pycache", "bin"];
/// And Python environments, if they are there.
const SHARED_ENVIRONMENTS: &str = "environments";

/// How often a server that would leave looks whether it is still used, and when it says so.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
const PATIENT_LOOKS: u32 = 50;

/// How a server is wanted.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub listen: SocketAddr,
    /// Serves one command; resumes nothing but unfinished cleanups.
    pub embedded: bool,
    pub slots: Option<u32>,
    /// After how long of silence a worker counts as lost.
    pub lease: Duration,
    /// Pairs PROJECT=USER: whose processes the jobs of each project are.
    pub run_as: Vec<String>,
}

/// A running server. Dropping it stops it.
pub struct Server {
    pub url: String,
    pub token: String,
    embedded: bool,
    owner: OwnerHandle,
    state: Locked,
    runtime: Option<Runtime>,
    _lake: Option<Box<dyn Send>>,
    // After the runtime: attempts may still speak to it while the runtime ends.
    _launcher: Arc<Launcher>,
}

impl Server {
    /// Starts a server over a locked state folder.
    pub fn start(state: Locked, wanted: &Wanted) -> Result<Self, Failure> {
        let failed = |e: &dyn std::fmt::Display| {
            let hint = format!("Look at the free space and the permissions of \"{}\".", state.folder.display());
            Failure::new(FAILED, format!("the server cannot start: {e}")).hint(hint)
        };
        // Before anything is written.
        pinrail_store::check_version(&state.folder).map_err(|e| match e {
            StoreError::Newer { .. } => Failure::new(REFUSED, e.to_string())
                .hint("Use that version or a later one, or name another folder with --state."),
            other => failed(&other),
        })?;
        let users = Users::find(&wanted.run_as, &state.folder)
            .map_err(|e| Failure::new(REFUSED, e.to_string()).hint(e.hint()))?;
        let tenancy = tenancy(wanted, &users);
        let launcher = start_launcher(&state.folder, users).map_err(|e| failed(&e))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(CONTROL_THREADS)
            .thread_name("control")
            .enable_all()
            .build()?;
        let parts = Parts::new(&state.folder, Arc::clone(&launcher), tenancy)?;
        if !wanted.embedded {
            warn_if_not_hidden();
        }
        let sender = Arc::new(mail_sender()?);
        let (url, token, installation, owner, lake) = runtime.block_on(async {
            let (handle, inputs) = owner::channel();
            let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&state.folder).map_err(|e| failed(&e))?);
            let LakeParts { engine, catalog, running } = lake(&state.folder, &store, &parts)?;
            let installation = installation(store.as_ref(), parts.ids.as_ref()).await.map_err(|e| failed(&e))?;
            let workers = Workers::new(Arc::clone(&parts.clock), wanted.lease);
            let attempts = parts.attempts(&state.folder, &installation, &store, &engine, &catalog, workers);
            let owner_parts = OwnerParts {
                store: Arc::clone(&store),
                clock: Arc::clone(&parts.clock),
                ids: Arc::clone(&parts.ids),
                slots: wanted.slots.unwrap_or_else(default_slots),
                only: wanted.embedded.then(Default::default),
            };
            let retention = Retention {
                store: Arc::clone(&store),
                clock: Arc::clone(&parts.clock),
                ids: Arc::clone(&parts.ids),
                bundles: attempts.parts.bundles.clone(),
                catalog: catalog.clone(),
                state: state.folder.clone(),
                keep: Keep::default(),
            };
            let app = Arc::new(App {
                store,
                clock: Arc::clone(&parts.clock),
                ids: Arc::clone(&parts.ids),
                owner: handle.clone(),
                attempts: Arc::clone(&attempts),
                bundles: attempts.parts.bundles.clone(),
                compiler: parts.compiler.clone(),
                sandbox: Arc::clone(&parts.sandbox),
                engine,
                catalog,
                queries: Queries::new(&state.folder),
                sender: Arc::clone(&sender),
                state: state.folder.clone(),
            });
            attempts.may_run_workflows(&app);
            take(&app).await?;
            let deliveries = Deliveries {
                store: Arc::clone(&app.store),
                clock: Arc::clone(&parts.clock),
                ids: Arc::clone(&parts.ids),
                vault: Arc::clone(&attempts.parts.vault),
                owner: handle.clone(),
                sender: Arc::clone(&sender),
            };
            let token = app.ensure_admin().await.map_err(|e| failed(&e))?;
            let listener = TcpListener::bind(wanted.listen).await.map_err(|e| {
                Failure::new(FAILED, format!("cannot listen on {}: {e}", wanted.listen))
                    .hint("Choose another port with --listen 127.0.0.1:PORT.")
            })?;
            let url = format!("http://{}", listener.local_addr()?);
            sender.is_at(&set("PINRAIL_PUBLIC_URL").unwrap_or_else(|| url.clone()));
            // The API opens only when everything unfinished has been taken over.
            let working = owner::start(owner_parts, attempts, handle.clone(), inputs).await.map_err(|e| failed(&e))?;
            tokio::spawn(end_with(working));
            tokio::spawn(retention.work(!wanted.embedded));
            if !wanted.embedded {
                // One that serves a single command would end in the middle; what it leaves is delivered by one that stays.
                tokio::spawn(deliveries.work());
            }
            tokio::spawn(async move {
                if let Err(error) = serve(listener, app).await {
                    tracing::error!(%error, "the API stops");
                }
            });
            Ok::<_, Failure>((url, token, installation, handle, running))
        })?;
        let live = Live { pid: std::process::id(), url: url.clone(), installation, embedded: wanted.embedded };
        state.announce(&live)?;
        Ok(Self {
            url,
            token,
            embedded: wanted.embedded,
            owner,
            state,
            runtime: Some(runtime),
            _lake: lake,
            _launcher: launcher,
        })
    }

    /// Waits until SIGINT or SIGTERM.
    pub fn wait_for_signal(&self) -> Result<(), Failure> {
        let Some(runtime) = &self.runtime else { return Ok(()) };
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            Ok(())
        })
    }

    /// Stays until nobody uses this server any more, or the user wants it to end.
    fn leave(&self) -> Option<Unused> {
        let before = interrupts::seen();
        for look in 0_u32.. {
            if before > 1 || interrupts::seen() > before {
                return None;
            }
            if self.busy() == 0
                && let Some(unused) = self.state.unused()
            {
                return Some(unused);
            }
            if look == PATIENT_LOOKS {
                eprintln!("  waiting for another command that uses this server; Ctrl-C leaves at once");
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        None
    }

    /// How many runs are unfinished here.
    fn busy(&self) -> usize {
        let Some(runtime) = &self.runtime else { return 0 };
        runtime.block_on(self.owner.ask(Input::Busy)).unwrap_or(0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Held until this process has ended: whoever comes meanwhile finds no server and starts one.
        let unused = if self.embedded { self.leave() } else { None };
        self.state.withdraw();
        if let Some(runtime) = self.runtime.take() {
            // What is not durable did not happen; nothing is worth waiting for.
            runtime.shutdown_timeout(Duration::from_millis(200));
        }
        drop(unused);
    }
}

/// A variable of the environment that is set to something.
fn set(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// What notices are sent with: letters need a mail server, which belongs to the machine and not to a project.
fn mail_sender() -> Result<Sender, Failure> {
    match (set("PINRAIL_SMTP_URL"), set("PINRAIL_SMTP_FROM")) {
        (None, _) => Ok(Sender::default()),
        (Some(url), Some(from)) => Sender::with_mail(&url, &from).map_err(|message| {
            Failure::new(USAGE, format!("PINRAIL_SMTP_URL and PINRAIL_SMTP_FROM cannot be used: {message}"))
        }),
        (Some(_), None) => Err(Failure::new(USAGE, "PINRAIL_SMTP_URL is set, but not PINRAIL_SMTP_FROM")
            .hint("Say whom letters are from, for example PINRAIL_SMTP_FROM=pinrail@example.org.")),
    }
}

/// Starts what starts processes, and hides a state folder from them. To be called before there is another thread, half of
/// which the launcher would inherit.
pub fn start_launcher(state: &Path, users: Users) -> std::io::Result<Arc<Launcher>> {
    close_server();
    let environments = shared_environments().is_none().then_some(SHARED_ENVIRONMENTS);
    let shared: Vec<&str> = SHARED.iter().copied().chain(environments).collect();
    let hidden = Hidden::new(state, &shared)?;
    Ok(Arc::new(Launcher::start(&std::env::current_exe()?, hidden, users)?))
}

/// Says so where the kernel hides nothing.
pub fn warn_if_not_hidden() {
    if pinrail_exec::confine::version().is_none() {
        eprintln!("warning: {NOT_HIDDEN}\n  hint: {NOT_HIDDEN_REMEDY}");
    }
}

/// Who shares a server that is wanted so.
fn tenancy(wanted: &Wanted, users: &Users) -> Tenancy {
    if !users.is_empty() {
        return Tenancy::Users(users.numbers());
    }
    if wanted.listen.ip().is_loopback() { Tenancy::Local } else { Tenancy::Alone }
}

/// Refuses to serve projects that could not be taken now.
async fn take(app: &App) -> Result<(), Failure> {
    let tenancy = &app.attempts.parts.tenancy;
    let Tenancy::Alone = tenancy else { return Ok(()) };
    let known = app.store.read(&Who::default(), Query::Projects).await;
    let Answer::Projects(known) = known.map_err(|e| Failure::new(FAILED, e.to_string()))? else { return Ok(()) };
    for row in &known {
        let admitted = tenancy.admit(&row.name, known.iter().map(|row| &row.name));
        admitted.map_err(|problem| Failure { hint: problem.hint, ..Failure::new(REFUSED, problem.detail) })?;
    }
    Ok(())
}

/// Ends this process when its owner ends: an API over which nothing can proceed would only look alive. The next server
/// takes over as after a crash.
async fn end_with(working: tokio::task::JoinHandle<Result<(), StoreError>>) {
    let reason = match working.await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(error) if error.is_cancelled() => return,
        Err(error) => error.to_string(),
    };
    Failure::new(FAILED, format!("the server stops: {reason}"))
        .hint("What was committed is safe, and the next server goes on from there. Look at the disk's free space.")
        .tell(false);
    std::process::exit(i32::from(FAILED));
}

/// What the parts of a server, or of a worker, have in common.
pub struct Parts {
    pub clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    python: Arc<Python>,
    shell: Arc<Shell>,
    sandbox: Arc<dyn Sandbox>,
    compiler: Compiler,
    tenancy: Tenancy,
}

impl Parts {
    pub fn new(state: &Path, launcher: Arc<Launcher>, tenancy: Tenancy) -> Result<Self, Failure> {
        let sdk = sdk::unpack(state)?;
        let cache = state.join("pycache");
        let bin = link_to_self(state)?;
        let config = PythonConfig {
            sdk: sdk.clone(),
            cache: cache.clone(),
            bin,
            most_warm: MOST_WARM,
            most_warm_memory: MOST_WARM_MEMORY,
            idle: WARM_IDLE,
        };
        let python = Arc::new(Python::new(Arc::clone(&launcher), config));
        let sandbox = Arc::new(LocalSandbox::new(Arc::clone(&launcher)));
        let shell = Arc::new(Shell::new(launcher, Arc::clone(&python)));
        let compiler = Compiler { sdk, cache, interpreter: default_interpreter() };
        if matches!(tenancy, Tenancy::Users(_)) {
            Users::admit(state)?;
        }
        let (clock, ids) = (Arc::new(SystemClock::new()), Arc::new(SystemIds));
        Ok(Self { clock, ids, python, shell, sandbox, compiler, tenancy })
    }

    /// What runs processes on this machine.
    pub fn executors(&self) -> HashMap<ExecutorKind, Arc<dyn Executor>> {
        let python: Arc<dyn Executor> = self.python.clone();
        let shell: Arc<dyn Executor> = self.shell.clone();
        HashMap::from([(ExecutorKind::Python, python), (ExecutorKind::Shell, shell)])
    }

    /// The Python environments of a state folder, or those that this machine's servers share.
    pub fn environments(&self, state: &Path) -> Arc<Environments> {
        Environments::new(
            shared_environments().unwrap_or_else(|| environments_folder(state)),
            default_interpreter(),
            Arc::clone(&self.sandbox),
            Arc::clone(&self.clock),
            self.tenancy.clone(),
        )
    }

    fn attempts(
        &self,
        state: &Path,
        installation: &str,
        store: &Arc<dyn Store>,
        engine: &Option<Arc<dyn QueryEngine>>,
        catalog: &Option<Arc<dyn Catalog>>,
        workers: Arc<Workers>,
    ) -> Arc<Attempts> {
        Attempts::new(AttemptParts {
            state: state.to_owned(),
            store: Arc::clone(store),
            clock: Arc::clone(&self.clock),
            bundles: Bundles::new(state, Arc::clone(&self.clock)),
            executors: self.executors(),
            workers,
            engine: engine.clone(),
            catalog: catalog.clone(),
            interpreter: default_interpreter(),
            environments: self.environments(state),
            vault: Arc::new(Vault::new(state)),
            installation: installation.to_owned(),
            tenancy: self.tenancy.clone(),
            kill_marked,
        })
    }
}

/// A folder that holds this binary under its name and nothing else, for the path of jobs.
fn link_to_self(state: &Path) -> std::io::Result<PathBuf> {
    let (folder, binary) = (state.join("bin"), std::env::current_exe()?);
    let link = folder.join("pinrail");
    if std::fs::read_link(&link).is_ok_and(|target| target == binary) {
        return Ok(folder);
    }
    std::fs::create_dir_all(&folder)?;
    let temporary = folder.join("pinrail.new");
    // Left by a server that was killed just here.
    let _ = std::fs::remove_file(&temporary);
    std::os::unix::fs::symlink(binary, &temporary)?;
    std::fs::rename(temporary, link)?;
    Ok(folder)
}

/// Local processes at the same time: enough to keep the cores busy while some wait, and one for finishing.
pub fn default_slots() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(cores * 2 + 1).unwrap_or(u32::MAX)
}

/// The embedded engine with its tables, and what keeps it running.
struct LakeParts {
    engine: Option<Arc<dyn QueryEngine>>,
    catalog: Option<Arc<dyn Catalog>>,
    running: Option<Box<dyn Send>>,
}

#[cfg(feature = "lake")]
fn lake(state: &Path, store: &Arc<dyn Store>, parts: &Parts) -> Result<LakeParts, Failure> {
    let (running, lake) =
        crate::lake::open(state, Arc::clone(&parts.ids), Arc::clone(&parts.clock), Arc::clone(store))?;
    Ok(LakeParts { engine: Some(lake.clone()), catalog: Some(lake), running: Some(Box::new(running)) })
}

#[cfg(not(feature = "lake"))]
#[allow(clippy::unnecessary_wraps, reason = "a build with the lake can fail here")]
fn lake(_state: &Path, _store: &Arc<dyn Store>, _parts: &Parts) -> Result<LakeParts, Failure> {
    Ok(LakeParts { engine: None, catalog: None, running: None })
}
