//! Python environments: the packages that a project's lock names, beside an interpreter, content-addressed.
//!
//! An environment is the digest of what it is made of: interpreter, pins, wheels. It is built once, in a folder of another
//! name that becomes its own when all of it is on the disk, and never changes afterwards. Files that environments have in
//! common are there once (`share`).
//!
//! Where projects have users of their own, an environment is its project's alone: the user builds it, since packages may
//! run code of theirs meanwhile, and then it becomes the server's (`take`).
//!
//! Not responsible for resolving: which versions go together was decided when the lock was written. Nor for forgetting:
//! retention asks which environments were not used lately.
//!
//! Of the time of a build, the two largest costs are installing (fetching and unpacking wheels), and reading every file
//! once more for its digest.

mod build;
mod lock;
mod share;
mod take;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use nix::fcntl::{Flock, FlockArg};
use pinrail_model::document::{Digesting, Sha, canonical};
use pinrail_model::fault::{Evidence, Fault, Reason};
use pinrail_model::names::ProjectName;
use pinrail_model::seam::exec::{Sandbox, SandboxCommand};
use pinrail_model::step;
use pinrail_model::time::{Clock, Micros};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

pub use build::{Builder, builder};
pub(crate) use lock::{known_extras, read};
pub(crate) use share::unshared;

use crate::compile::{Diagnostic, plain};
use crate::problem::Problem;
use crate::project::Project;
use crate::tenancy::Tenancy;
use lock::Lock;

/// Raised when the same lock is to be built in another way, so that nothing old is taken for it.
const FORMAT: u32 = 1;
/// What is said about an environment, in a file in it.
const LABEL: &str = "pinrail-environment.json";
/// Which bundles use an environment and when they last did, as files in it: `PROJECT.BUNDLE`, by their times.
const USED: &str = "used";
/// Files that environments share, by digest.
pub(crate) const SHARED: &str = "files";
/// Held by the process that builds.
const LOCK: &str = "lock";
/// Decisions that are remembered, each of which saves an attempt some milliseconds; then it is begun anew.
const MOST_DECIDED: usize = 10_000;
/// An interpreter says what it is in well under a second.
const PROBE_LIMIT: Duration = Duration::from_secs(30);
const PROBE_MEMORY: u64 = 512 << 20;

/// Why there is no environment.
#[derive(Debug, Clone, PartialEq)]
pub enum EnvironmentError {
    /// The lock, or what it names, is wrong: at least one diagnostic.
    Wrong(Vec<Diagnostic>),
    /// The index of packages cannot be reached.
    Unreachable { message: String, hint: String },
    /// This machine cannot build it.
    Machine { message: String, hint: String },
}

impl EnvironmentError {
    fn machine(message: impl Into<String>, hint: &str) -> Self {
        Self::Machine { message: message.into(), hint: hint.to_owned() }
    }

    fn io(path: &Path, error: &std::io::Error) -> Self {
        let message = format!("\"{}\" cannot be read or written: {error}", path.display());
        Self::machine(message, "Look at the disk's free space and at the folder's permissions.")
    }

    /// Whose fault it is that a job has no environment, with the evidence.
    #[must_use]
    pub fn fault(&self) -> (Fault, Evidence) {
        match self {
            Self::Wrong(found) => {
                let first = found.first();
                let place = first.and_then(|one| Some(format!("{}:{}: ", one.file.as_ref()?, one.line?)));
                let message = first.map_or_else(String::new, |one| one.message.clone());
                let evidence = Evidence::new(format!("{}{message}", place.unwrap_or_default()));
                let hint = first.and_then(|one| one.hint.clone());
                (Fault::User, hint.into_iter().fold(evidence.reason(Reason::EnvironmentImpossible), Evidence::remedy))
            }
            Self::Unreachable { message, hint } => {
                (Fault::External, Evidence::new(message).reason(Reason::EnvironmentUnreachable).remedy(hint))
            }
            Self::Machine { message, hint } => {
                (Fault::Platform, Evidence::new(message).reason(Reason::MachineFailed).remedy(hint))
            }
        }
    }
}

impl From<EnvironmentError> for Problem {
    fn from(error: EnvironmentError) -> Self {
        match error {
            EnvironmentError::Wrong(found) => {
                let detail = found.first().map_or_else(String::new, |one| one.message.clone());
                Self::new("definition-errors", detail).with("diagnostics", &found)
            }
            EnvironmentError::Unreachable { message, hint } => Self::new("packages-unreachable", message).hint(hint),
            EnvironmentError::Machine { message, hint } => Self::new("environment-failed", message).hint(hint),
        }
    }
}

/// Where the code lies that wants an environment.
#[derive(Debug, Clone, Copy)]
pub struct Code<'a> {
    pub project: &'a ProjectName,
    pub bundle: Sha,
    /// The unpacked bundle.
    pub root: &'a Path,
    /// The project's own folder, if it is here.
    pub folder: Option<&'a Path>,
    pub settings: &'a Project,
}

impl Code<'_> {
    /// The interpreter that `pinrail.toml` names: a path relative to the project, or a program on the path.
    #[must_use]
    pub fn interpreter(&self, otherwise: &Path) -> PathBuf {
        match &self.settings.interpreter {
            None => otherwise.to_owned(),
            Some(name) if name.contains('/') => self.folder.unwrap_or(self.root).join(name),
            Some(name) => PathBuf::from(name),
        }
    }
}

/// An interpreter as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Interpreter {
    /// How it is called, by its own word: what is found on the path may only choose one.
    path: PathBuf,
    /// What a virtual environment refers to: never one itself.
    executable: PathBuf,
    version: String,
    implementation: String,
    platform: String,
    pip: Option<String>,
    venv: bool,
    ensurepip: bool,
}

/// What an environment will be made of.
#[derive(Debug, Clone)]
struct Plan {
    digest: Sha,
    project: ProjectName,
    /// Who builds it and is the only one to use it, if the project has a user.
    user: Option<u32>,
    /// The unpacked bundle, for the lines that diagnostics show.
    root: PathBuf,
    interpreter: Interpreter,
    lock: Lock,
    /// The project's lock file, for what concerns all of it.
    file: String,
    wheels: Option<Wheels>,
    extras: Vec<String>,
}

impl Plan {
    /// How many packages it has, in words.
    fn packages(&self) -> String {
        let count = self.lock.packages();
        format!("{count} locked package{}", if count == 1 { "" } else { "s" })
    }
}

/// The digest of an environment as people see it.
fn short(digest: Sha) -> String {
    digest.short()[..4].to_owned()
}

/// A folder of wheels.
#[derive(Debug, Clone)]
struct Wheels {
    /// As `pinrail.toml` names it.
    name: String,
    folder: PathBuf,
    /// In the project's folder and not in the bundle: it may change while the bundle does not.
    in_place: bool,
    /// The wheels of packages that the lock names, with their digests.
    files: BTreeMap<String, Sha>,
}

/// An environment that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    pub digest: Sha,
    pub folder: PathBuf,
}

impl Environment {
    /// Its interpreter.
    #[must_use]
    pub fn python(&self) -> PathBuf {
        self.folder.join("bin/python")
    }
}

/// An environment that a bundle asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WantedEnvironment {
    /// Its digest, by which it is known everywhere.
    pub digest: Sha,
    /// What it has beyond the lock.
    pub extras: Vec<String>,
    /// How many the lock names for it, also those that another system or version of Python would need.
    pub packages: usize,
    /// Whether it is there.
    pub ready: bool,
    /// What builds it: `uv` or `pip`.
    pub builder: String,
    /// Its folder on the server's machine, when it is there.
    pub folder: Option<String>,
}

/// A Python environment of a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct KnownEnvironment {
    pub digest: Sha,
    /// The version of its interpreter.
    pub python: String,
    pub lock: String,
    pub extras: Vec<String>,
    /// By name.
    pub packages: BTreeMap<String, String>,
    /// What built it: `uv` or `pip`.
    pub builder: String,
    pub built_at: Micros,
    pub last_used_at: Micros,
    /// Bytes of all its files.
    pub size_bytes: u64,
    /// Bytes of those files that no other environment has.
    pub own_bytes: u64,
    /// The project's bundles that used it within the last month, or that are still deployed.
    pub bundles: Vec<Sha>,
}

/// What stands in an environment about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Label {
    format: u32,
    python: String,
    platform: String,
    lock: String,
    extras: Vec<String>,
    packages: BTreeMap<String, String>,
    builder: String,
    built_at: Micros,
}

type Flight = Shared<BoxFuture<'static, Result<(), EnvironmentError>>>;
/// Size and time of the last change: another file has others.
type Stamp = (u64, i64, i64);
/// A bundle of a project, extras and the interpreter that it names.
type Asked = (ProjectName, Sha, Vec<String>, PathBuf);

/// The environments of a machine's state folder.
pub struct Environments {
    folder: PathBuf,
    interpreter: PathBuf,
    sandbox: Arc<dyn Sandbox>,
    clock: Arc<dyn Clock>,
    tenancy: Tenancy,
    /// What is being built, for all who wait for it.
    flights: Mutex<HashMap<Sha, Flight>>,
    /// One build at a time: each takes all that the machine has.
    building: tokio::sync::Mutex<()>,
    /// By project: what an interpreter says of itself may depend on who runs it.
    interpreters: Mutex<HashMap<(ProjectName, PathBuf), (Stamp, Interpreter)>>,
    decided: Mutex<HashMap<Asked, (Stamp, Environment)>>,
    wheels: Mutex<HashMap<PathBuf, (Stamp, Sha)>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the environments of a state folder are.
#[must_use]
pub fn environments_folder(state: &Path) -> PathBuf {
    state.join("environments")
}

impl Environments {
    /// The environments in a folder, made with an interpreter where a project names none.
    #[must_use]
    pub fn new(
        folder: PathBuf,
        interpreter: PathBuf,
        sandbox: Arc<dyn Sandbox>,
        clock: Arc<dyn Clock>,
        tenancy: Tenancy,
    ) -> Arc<Self> {
        Arc::new(Self {
            folder,
            interpreter,
            sandbox,
            clock,
            tenancy,
            flights: Mutex::default(),
            building: tokio::sync::Mutex::default(),
            interpreters: Mutex::default(),
            decided: Mutex::default(),
            wheels: Mutex::default(),
        })
    }

    /// The environment of a bundle with these extras, built if it is not there, which is told of before; none when the
    /// project has no lock.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub async fn ensure(
        self: &Arc<Self>,
        code: Code<'_>,
        extras: &[String],
        tell: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<Option<Environment>, EnvironmentError> {
        if code.settings.lock.is_none() && extras.is_empty() {
            return Ok(None);
        }
        if let Some(environment) = self.decided(code, extras) {
            self.note_use(&environment, code);
            return Ok(Some(environment));
        }
        let Some(plan) = self.plan(code, extras).await? else { return Ok(None) };
        let environment = Environment { digest: plan.digest, folder: self.folder.join(plan.digest.to_string()) };
        if !environment.folder.is_dir() {
            tell(&format!("building Python environment {} ({})", short(plan.digest), plan.packages()));
            self.fly(plan.clone()).await?;
        }
        self.note_use(&environment, code);
        if let Some(stamp) = stamp(&environment.python()).filter(|_| plan.wheels.is_none_or(|wheels| !wheels.in_place))
        {
            let asked = self.asked(code, extras);
            let mut decided = locked(&self.decided);
            if decided.len() >= MOST_DECIDED {
                decided.clear();
            }
            decided.insert(asked, (stamp, environment.clone()));
        }
        Ok(Some(environment))
    }

    /// What a bundle asks for, and whether it is there.
    ///
    /// # Errors
    /// When that cannot be told.
    pub async fn wanted(
        self: &Arc<Self>,
        code: Code<'_>,
        extras: &[String],
    ) -> Result<Option<WantedEnvironment>, EnvironmentError> {
        let Some(plan) = self.plan(code, extras).await? else { return Ok(None) };
        let folder = self.folder.join(plan.digest.to_string());
        let ready = folder.is_dir();
        Ok(Some(WantedEnvironment {
            digest: plan.digest,
            packages: plan.lock.packages(),
            extras: plan.extras,
            builder: builder().name().to_owned(),
            folder: ready.then(|| folder.display().to_string()),
            ready,
        }))
    }

    /// The environments that a project's bundles used, the one last used first.
    #[must_use]
    pub fn list(&self, project: &ProjectName) -> Vec<KnownEnvironment> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut found: Vec<KnownEnvironment> = entries.filter_map(|entry| known(&entry.path(), project)).collect();
        found.sort_by_key(|one| (std::cmp::Reverse(one.last_used_at), one.digest));
        found
    }

    /// An environment that was decided on earlier, if nothing speaks against it.
    fn decided(&self, code: Code<'_>, extras: &[String]) -> Option<Environment> {
        let (then, environment) = locked(&self.decided).get(&self.asked(code, extras)).cloned()?;
        // Through the link to the interpreter: another one at its place makes another environment.
        (stamp(&environment.python()) == Some(then)).then_some(environment)
    }

    fn asked(&self, code: Code<'_>, extras: &[String]) -> Asked {
        (code.project.clone(), code.bundle, extras.to_vec(), code.interpreter(&self.interpreter))
    }

    /// Notes who uses an environment, and when: retention goes by that. What cannot be noted counts as unused, no more.
    fn note_use(&self, environment: &Environment, code: Code<'_>) {
        let now = u64::try_from(self.clock.now().wall.0).unwrap_or(0);
        let at = UNIX_EPOCH + Duration::from_micros(now);
        let marker = environment.folder.join(USED).join(format!("{}.{}", code.project, code.bundle));
        let noted = File::options().create(true).append(true).open(marker).and_then(|file| file.set_modified(at));
        let touched = File::open(&environment.folder).and_then(|folder| folder.set_modified(at));
        if let Err(error) = noted.and(touched) {
            tracing::warn!(%error, digest = %environment.digest, "the use of a Python environment cannot be noted");
        }
    }

    /// Decides what an environment is made of.
    async fn plan(self: &Arc<Self>, code: Code<'_>, extras: &[String]) -> Result<Option<Plan>, EnvironmentError> {
        let mut extras = extras.to_vec();
        extras.sort_unstable();
        extras.dedup();
        let (here, root, named) = (Arc::clone(self), code.root.to_owned(), extras.clone());
        let folder = self.tenancy.read_by_server(code.folder.map(Path::to_owned));
        let settings = code.settings.clone();
        let found = aside(&self.folder, move || Ok(here.read(&root, folder.as_deref(), &settings, &named))).await??;
        let Some((lock, wheels)) = found else { return Ok(None) };
        let interpreter = self.interpreter(code.project, &code.interpreter(&self.interpreter)).await?;
        let user = self.tenancy.user(code.project);
        let mut content = json!({
            "format": FORMAT,
            "python": interpreter.version,
            "implementation": interpreter.implementation,
            "platform": interpreter.platform,
            "executable": interpreter.executable,
            "requirements": lock.requirements(),
            "indexes": lock.indexes,
            "wheels": wheels.as_ref().map(|wheels| &wheels.files),
        });
        if user.is_some() {
            content["project"] = json!(code.project);
        }
        let digest = Sha::of(canonical(&content).as_bytes());
        let file = code.settings.lock.clone().unwrap_or_default();
        let root = code.root.to_owned();
        Ok(Some(Plan { digest, project: code.project.clone(), user, root, interpreter, lock, file, wheels, extras }))
    }

    /// Reads the lock and, if there are some, the wheels that it can mean. Wheels may be large.
    fn read(
        &self,
        root: &Path,
        folder: Option<&Path>,
        settings: &Project,
        extras: &[String],
    ) -> Result<Option<(Lock, Option<Wheels>)>, EnvironmentError> {
        let Some(lock) = lock::read(root, settings, extras).map_err(EnvironmentError::Wrong)? else { return Ok(None) };
        let wheels = settings.wheels.as_ref().map(|name| self.wheels(wheels_folder(root, folder, name)?, name, &lock));
        Ok(Some((lock, wheels.transpose()?)))
    }

    /// The wheels in a folder that a lock can mean.
    fn wheels(&self, found: (PathBuf, bool), name: &str, lock: &Lock) -> Result<Wheels, EnvironmentError> {
        let (folder, in_place) = found;
        let io = |error: &std::io::Error| EnvironmentError::io(&folder, error);
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&folder).map_err(|e| io(&e))? {
            let entry = entry.map_err(|e| io(&e))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some((package, _)) = name.strip_suffix(".whl").and_then(|name| name.split_once('-')) else { continue };
            let package = lock::normal(package);
            if lock.pins.iter().any(|pin| pin.name == package) {
                let path = entry.path();
                let digest = self.wheel(&path).map_err(|e| EnvironmentError::io(&path, &e))?;
                files.insert(name, digest);
            }
        }
        Ok(Wheels { name: name.to_owned(), folder, in_place, files })
    }

    fn wheel(&self, path: &Path) -> std::io::Result<Sha> {
        let now = stamp(path);
        if let Some((_, digest)) = locked(&self.wheels).get(path).filter(|(then, _)| Some(*then) == now) {
            return Ok(*digest);
        }
        let (mut file, mut digesting, mut piece) = (File::open(path)?, Digesting::default(), vec![0; 256 << 10]);
        loop {
            let count = file.read(&mut piece)?;
            if count == 0 {
                break;
            }
            digesting.add(&piece[..count]);
        }
        let digest = digesting.finish();
        if let Some(stamp) = now {
            locked(&self.wheels).insert(path.to_owned(), (stamp, digest));
        }
        Ok(digest)
    }

    /// Asks an interpreter what it is, once as long as its file stays the same.
    async fn interpreter(&self, project: &ProjectName, name: &Path) -> Result<Interpreter, EnvironmentError> {
        let path = found_on_path(name).unwrap_or_else(|| name.to_owned());
        let (now, asked) = (stamp(&path), (project.clone(), path.clone()));
        if let Some((_, known)) = locked(&self.interpreters).get(&asked).filter(|(then, _)| Some(*then) == now) {
            return Ok(known.clone());
        }
        let command = SandboxCommand {
            project: Some(project.clone()),
            argv: vec![path.display().to_string(), "-c".to_owned(), include_str!("environments/probe.py").to_owned()],
            env: BTreeMap::new(),
            cwd: PathBuf::from("/"),
            limit: PROBE_LIMIT,
            memory: PROBE_MEMORY,
            network: false,
        };
        let output = self.sandbox.run(command).await.map_err(|error| {
            let hint = "Name a Python interpreter (3.9 or later) in pinrail.toml: [python] interpreter = \"python3\".";
            EnvironmentError::machine(error.to_string(), hint)
        })?;
        let interpreter: Interpreter = serde_json::from_slice(&output.stdout).map_err(|_| {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().next_back().unwrap_or("it says nothing");
            let message = format!("the Python interpreter \"{}\" cannot be used: {said}", name.display());
            EnvironmentError::machine(message, "Name another one in pinrail.toml: [python] interpreter = \"python3\".")
        })?;
        if let Some(stamp) = now {
            locked(&self.interpreters).insert(asked, (stamp, interpreter.clone()));
        }
        Ok(interpreter)
    }

    /// Builds an environment, or waits for whoever builds it. It is built to its end also when nobody waits any more.
    async fn fly(self: &Arc<Self>, plan: Plan) -> Result<(), EnvironmentError> {
        let flight = {
            let mut flights = locked(&self.flights);
            let known = flights.get(&plan.digest).cloned();
            known.unwrap_or_else(|| {
                let (here, digest) = (Arc::clone(self), plan.digest);
                let built = tokio::spawn(async move {
                    let built = AssertUnwindSafe(here.build(&plan)).catch_unwind().await;
                    // Whoever comes now looks anew.
                    locked(&here.flights).remove(&plan.digest);
                    built.unwrap_or_else(|_| Err(failed("the server failed while it built a Python environment")))
                });
                let landed = async move { built.await.unwrap_or_else(|error| Err(failed(&error.to_string()))) };
                let flight = landed.boxed().shared();
                flights.insert(digest, flight.clone());
                flight
            })
        };
        flight.await
    }

    async fn build(&self, plan: &Plan) -> Result<(), EnvironmentError> {
        let _one = self.building.lock().await;
        let target = self.folder.join(plan.digest.to_string());
        let _held = self.lock_folder().await?;
        if target.is_dir() {
            // Another process was faster.
            return Ok(());
        }
        let (folder, place) = (self.folder.clone(), target.clone());
        aside(&target, move || remove_leftovers(&folder, &place)).await?;
        let temporary = target.with_extension(format!("{:x}", u64::from_le_bytes(crate::system::random())));
        step!("environment.before-build");
        let built = self.build_in(plan, &temporary, &target).await;
        if let Err(error) = built {
            let (folder, place) = (self.folder.clone(), target.clone());
            // What cannot be removed is left to the next build and to retention.
            let _ = aside(&target, move || remove_leftovers(&folder, &place)).await;
            return Err(error);
        }
        step!("environment.before-rename");
        let renamed = fs::rename(&temporary, &target).and_then(|()| File::open(&self.folder)?.sync_all());
        renamed.map_err(|error| EnvironmentError::io(&target, &error))?;
        step!("environment.after-rename");
        Ok(())
    }

    /// Builds under another name, and makes all of it durable.
    async fn build_in(&self, plan: &Plan, temporary: &Path, target: &Path) -> Result<(), EnvironmentError> {
        let builder = builder();
        build::build(self.sandbox.as_ref(), &builder, plan, temporary).await?;
        let mut label = Label {
            format: FORMAT,
            python: plan.interpreter.version.clone(),
            platform: plan.interpreter.platform.clone(),
            lock: plan.file.clone(),
            extras: plan.extras.clone(),
            packages: BTreeMap::new(),
            builder: builder.name().to_owned(),
            built_at: self.clock.now().wall,
        };
        let (from, to, shared) = (temporary.to_owned(), target.to_owned(), self.folder.join(SHARED));
        let user = plan.user;
        aside(temporary, move || {
            if let Some(user) = user {
                take::take(&from, user)?;
            }
            label.packages = build::installed(&from);
            build::relocate(&from, &to)?;
            if user.is_none() {
                // A user may still hold a file open that others would then share.
                share::share(&from, &shared)?;
            }
            fs::create_dir(from.join(USED))?;
            // Whoever built it may have left something of this name.
            File::create_new(from.join(LABEL))?.write_all(&serde_json::to_vec(&label)?)?;
            // Thousands of files: one call instead of one for each.
            nix::unistd::syncfs(File::open(&from)?).map_err(std::io::Error::from)
        })
        .await
    }

    /// Keeps builds of other processes off: several may share a folder.
    async fn lock_folder(&self) -> Result<Flock<File>, EnvironmentError> {
        let folder = self.folder.clone();
        aside(&self.folder, move || {
            fs::create_dir_all(&folder)?;
            let file = File::options().create(true).truncate(false).write(true).open(folder.join(LOCK))?;
            Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error.into())
        })
        .await
    }
}

/// Does what takes a while on disks where nobody else has to wait for it; a failure is one of this place.
async fn aside<T: Send + 'static>(
    place: &Path,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, EnvironmentError> {
    let done = tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    done.map_err(|error| EnvironmentError::io(place, &error))
}

/// Removes what builds of an environment left that failed or were killed. Under the lock, so nobody works on it.
fn remove_leftovers(folder: &Path, target: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some() && path.with_extension("") == target {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

/// A failure of our own.
fn failed(message: &str) -> EnvironmentError {
    EnvironmentError::machine(message, "Look at the server's log.")
}

/// A diagnostic about a lock as a whole.
fn about(file: &str, message: String, hint: &str) -> Diagnostic {
    Diagnostic {
        file: Some(file.to_owned()),
        line: Some(1),
        hint: Some(hint.to_owned()),
        ..plain("error", "environment-failed", message)
    }
}

/// The folder of wheels: of the bundle, or in place when it is no part of it.
fn wheels_folder(root: &Path, folder: Option<&Path>, name: &str) -> Result<(PathBuf, bool), EnvironmentError> {
    let in_bundle = root.join(name);
    if in_bundle.is_dir() {
        return Ok((in_bundle, false));
    }
    match folder.map(|folder| folder.join(name)).filter(|folder| folder.is_dir()) {
        Some(folder) => Ok((folder, true)),
        None => {
            let message = format!("the folder of wheels \"{name}\" does not exist");
            let hint = "Fill it with `pip download -d FOLDER -r LOCK`; it is part of the bundle, or, named below [files], \
                        read in place.";
            Err(EnvironmentError::Wrong(vec![about(crate::project::FILE, message, hint)]))
        }
    }
}

/// A program as it is found where programs are, if it is no path.
fn found_on_path(name: &Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return None;
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// By what it is told whether a file is still the same.
fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

/// When a file was last changed.
fn changed_at(path: &Path) -> Option<Micros> {
    let age = fs::metadata(path).ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(age.as_micros()).ok().map(Micros)
}

/// Who used an environment.
pub(crate) struct Use {
    pub project: ProjectName,
    pub bundle: Sha,
    /// The last time.
    pub at: Micros,
    /// The file that says so.
    pub marker: PathBuf,
}

/// Who used an environment, as far as it is noted.
pub(crate) fn uses(environment: &Path) -> Vec<Use> {
    let entries = fs::read_dir(environment.join(USED)).into_iter().flatten().flatten();
    let used = entries.filter_map(|entry| {
        let (name, marker) = (entry.file_name(), entry.path());
        let (project, bundle) = name.to_str()?.split_once('.')?;
        let (project, bundle, at) = (project.parse().ok()?, bundle.parse().ok()?, changed_at(&marker)?);
        Some(Use { project, bundle, at, marker })
    });
    used.collect()
}

/// An environment, if the project uses it.
fn known(folder: &Path, project: &ProjectName) -> Option<KnownEnvironment> {
    let digest: Sha = folder.file_name()?.to_str()?.parse().ok()?;
    let label: Label = serde_json::from_slice(&fs::read(folder.join(LABEL)).ok()?).ok()?;
    let mut used: Vec<(Sha, Micros)> =
        uses(folder).into_iter().filter(|used| used.project == *project).map(|used| (used.bundle, used.at)).collect();
    used.sort_by_key(|(bundle, at)| (std::cmp::Reverse(*at), *bundle));
    let last_used_at = used.first()?.1;
    let (size_bytes, own_bytes) = share::sizes(folder);
    Some(KnownEnvironment {
        digest,
        python: label.python,
        lock: label.lock,
        extras: label.extras,
        packages: label.packages,
        builder: label.builder,
        built_at: label.built_at,
        last_used_at,
        size_bytes,
        own_bytes,
        bundles: used.into_iter().map(|(bundle, _)| bundle).collect(),
    })
}

/// The extras that the jobs of a workflow's document name, each combination once.
pub(crate) fn extras_of(document: &Value) -> Vec<Vec<String>> {
    let jobs = document["jobs"].as_array().into_iter().flatten();
    let named = jobs.filter_map(|job| serde_json::from_value::<Vec<String>>(job["extras"].clone()).ok());
    let mut found: Vec<Vec<String>> = named.filter(|extras| !extras.is_empty()).collect();
    found.sort_unstable();
    found.dedup();
    found
}
