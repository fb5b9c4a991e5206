//! Installs the packages of a plan into a new folder, by `uv` if it is there, else by what the interpreter has.
//!
//! The programs that do it are contained as user code is, but with a network, unless a folder of wheels is given. They run
//! code of packages: at the latest when the new environment is asked whether it is complete.

use std::collections::BTreeMap;
use std::fs;
use std::fs::Permissions;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pinrail_model::seam::exec::{Sandbox, SandboxCommand, SandboxEnd, SandboxError, SandboxOutput};

use super::lock::{Pin, normal};
use super::{EnvironmentError, Interpreter, Plan, Wheels, about, aside, found_on_path, short};
use crate::compile::Diagnostic;

/// One step of a build: fetching gigabytes takes minutes, more is a network that does not work.
const LIMIT: Duration = Duration::from_secs(15 * 60);
/// Enough to unpack the largest wheels and to compile usual packages.
const MEMORY: u64 = 4 << 30;
/// Lines of a builder's own words that are told.
const MOST_WORDS: usize = 8;
/// How often builders try a connection again, so that an index that is away is told of within seconds.
const RETRIES: &str = "2";
/// A `pip` of this version or later installs into another interpreter's environment.
const OLDEST_PIP: u32 = 23;
/// Scripts are small; a larger file is a program.
const LARGEST_SCRIPT: u64 = 1 << 20;
/// What lies in the folder of a build.
const REQUIREMENTS: &str = "requirements.txt";
const WHEELS: &str = "wheels";

/// What builds environments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Builder {
    /// Where it is.
    Uv(PathBuf),
    /// The interpreter's own.
    Pip,
}

impl Builder {
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Uv(_) => "uv",
            Self::Pip => "pip",
        }
    }
}

/// The best builder of this machine.
#[must_use]
pub fn builder() -> Builder {
    found_on_path(Path::new("uv")).map_or(Builder::Pip, Builder::Uv)
}

/// A build under way.
struct Build<'a> {
    sandbox: &'a dyn Sandbox,
    plan: &'a Plan,
    folder: &'a Path,
    /// For what it needs meanwhile.
    work: &'a Path,
    /// The wheels from which alone it is built, if the project has some.
    wheels: &'a Path,
    builder: &'static str,
}

/// Builds a plan into a folder that does not exist yet.
pub(super) async fn build(
    sandbox: &dyn Sandbox,
    builder: &Builder,
    plan: &Plan,
    folder: &Path,
) -> Result<(), EnvironmentError> {
    // Beside the environment, which has to be made by the builder, and named like it, to go with it.
    let work = folder.with_extension(format!("{}-work", folder.extension().unwrap_or_default().to_string_lossy()));
    let (requirements, wheels) = (work.join(REQUIREMENTS), work.join(WHEELS));
    let (text, from, to) = (plan.lock.requirements(), plan.wheels.clone(), work.clone());
    let (given, user) = (folder.to_owned(), plan.user);
    aside(folder, move || {
        lay_out(&to, &text, from.as_ref())?;
        match user {
            Some(user) => give(&given, &to, user),
            None => make_caches(),
        }
    })
    .await?;
    let build = Build { sandbox, plan, folder, work: &work, wheels: &wheels, builder: builder.name() };
    match builder {
        Builder::Uv(uv) => build.by_uv(&uv.display().to_string(), &requirements).await?,
        Builder::Pip => build.by_pip(&requirements).await?,
    }
    aside(folder, move || fs::remove_dir_all(work)).await
}

/// For temporary files of a build: what comes to lie directly in `/tmp` cannot be read by contained processes where the
/// state folder is there too.
const TEMPORARY: &str = "tmp";

/// Lets a user build: makes the environment's folder, which is the user's until it is built.
fn give(folder: &Path, work: &Path, user: u32) -> std::io::Result<()> {
    for own in [folder.to_owned(), work.join(TEMPORARY)] {
        fs::create_dir_all(&own)?;
        lchown(own, Some(user), None)?;
    }
    // Wheels are links to files of the bundle, which can be read as they are.
    fs::set_permissions(work, Permissions::from_mode(0o755))?;
    fs::set_permissions(work.join(WHEELS), Permissions::from_mode(0o755))?;
    fs::set_permissions(work.join(REQUIREMENTS), Permissions::from_mode(0o644))
}

/// Makes the folders where builders keep what they fetched: one made by them beside the way to the state folder could not
/// be read by them.
fn make_caches() -> std::io::Result<()> {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let usual = named("XDG_CACHE_HOME").or_else(|| Some(named("HOME")?.join(".cache")));
    for folder in [usual, named("UV_CACHE_DIR"), named("PIP_CACHE_DIR")].into_iter().flatten() {
        // Without one nothing is kept.
        let _ = fs::create_dir_all(folder);
    }
    Ok(())
}

/// Puts what the builder needs into a folder. It gets to see no other wheels, and nothing of the project.
fn lay_out(work: &Path, requirements: &str, wheels: Option<&Wheels>) -> std::io::Result<()> {
    let folder = work.join(WHEELS);
    fs::create_dir_all(&folder)?;
    fs::create_dir_all(work.join(TEMPORARY))?;
    if let Some(wheels) = wheels {
        for name in wheels.files.keys() {
            let (source, target) = (wheels.folder.join(name), folder.join(name));
            fs::hard_link(&source, &target).or_else(|_| fs::copy(&source, &target).map(drop))?;
        }
    }
    fs::write(work.join(REQUIREMENTS), requirements)
}

impl Build<'_> {
    async fn by_uv(&self, uv: &str, requirements: &Path) -> Result<(), EnvironmentError> {
        let interpreter = self.plan.interpreter.path.display().to_string();
        let (folder, python) = (self.folder.display().to_string(), self.python());
        let quiet = ["--no-progress", "--color", "never", "--no-python-downloads"];
        let mut make = words(&[uv, "venv", "--quiet", "--no-project", "--python", &interpreter]);
        make.extend(words(&quiet));
        make.push(folder);
        self.run(make).await?;
        if !self.plan.lock.pins.is_empty() {
            let mut install = words(&[uv, "pip", "install", "--no-deps", "--link-mode", "copy", "--python", &python]);
            install.extend(words(&quiet));
            install.extend(self.sources());
            if self.plan.wheels.is_some() {
                install.extend(words(&["--offline", "--no-build"]));
            }
            install.extend(words(&["-r", &requirements.display().to_string()]));
            self.run(install).await?;
        }
        self.check(words(&[uv, "pip", "check", "--color", "never", "--python", &python])).await
    }

    async fn by_pip(&self, requirements: &Path) -> Result<(), EnvironmentError> {
        let Interpreter { path, version, pip, venv, ensurepip, .. } = &self.plan.interpreter;
        let major = pip.as_deref().and_then(|pip| pip.split('.').next()?.parse::<u32>().ok());
        let outside = major.is_some_and(|major| major >= OLDEST_PIP);
        if !venv || !(outside || *ensurepip) {
            let missing = if *venv { "pip" } else { "venv" };
            let message = format!(
                "nothing here can build a Python environment: there is no `uv`, and Python {version} has no {missing}"
            );
            let hint = "Install uv, or the package of your system that has pip and venv, such as python3-venv.";
            return Err(EnvironmentError::machine(message, hint));
        }
        let interpreter = path.display().to_string();
        let (folder, python) = (self.folder.display().to_string(), self.python());
        let mut make = words(&[&interpreter, "-m", "venv"]);
        make.extend(outside.then(|| "--without-pip".to_owned()));
        make.push(folder);
        self.run(make).await?;
        let pip = || {
            let mut pip = if outside {
                words(&[&interpreter, "-m", "pip", "--python", &python])
            } else {
                words(&[&python, "-m", "pip"])
            };
            pip.extend(words(&["--disable-pip-version-check", "--no-color", "--no-input"]));
            pip
        };
        if !self.plan.lock.pins.is_empty() {
            let mut install = pip();
            install.extend(words(&["install", "--no-deps", "--no-compile", "--no-warn-script-location"]));
            install.extend(words(&["--progress-bar", "off"]));
            install.extend(self.sources());
            if self.plan.wheels.is_some() {
                install.extend(words(&["--only-binary", ":all:"]));
            }
            install.extend(words(&["-r", &requirements.display().to_string()]));
            self.run(install).await?;
        }
        let mut check = pip();
        check.push("check".to_owned());
        self.check(check).await
    }

    fn python(&self) -> String {
        self.folder.join("bin/python").display().to_string()
    }

    /// Where packages come from, and by what they are known; `pip` and `uv` understand the same words.
    fn sources(&self) -> Vec<String> {
        let mut options = Vec::new();
        match &self.plan.wheels {
            Some(_) => options.extend(words(&["--no-index", "--find-links", &self.wheels.display().to_string()])),
            None => options.extend(self.plan.lock.indexes.clone()),
        }
        if self.plan.lock.is_hashed() {
            options.push("--require-hashes".to_owned());
        }
        options
    }

    async fn output(&self, argv: Vec<String>) -> Result<SandboxOutput, EnvironmentError> {
        let mut env = settings(self.plan.wheels.is_some(), self.plan.user.is_some());
        env.insert("TMPDIR".to_owned(), self.work.join(TEMPORARY).display().to_string());
        let command = SandboxCommand {
            project: Some(self.plan.project.clone()),
            argv,
            env,
            cwd: self.folder.parent().unwrap_or(self.folder).to_owned(),
            limit: LIMIT,
            memory: MEMORY,
            network: self.plan.wheels.is_none(),
        };
        self.sandbox.run(command).await.map_err(|error| match error {
            SandboxError::Program(message) => {
                EnvironmentError::machine(message, "`pinrail doctor` says what builds environments here.")
            }
            SandboxError::Isolation { message, hint } => EnvironmentError::Machine { message, hint },
        })
    }

    async fn run(&self, argv: Vec<String>) -> Result<(), EnvironmentError> {
        let output = self.output(argv).await?;
        match output.end {
            SandboxEnd::Exit(0) => Ok(()),
            end => Err(self.failure(end, &words_of(&output))),
        }
    }

    /// Whether each package finds those that it needs. That a version is another than a package wishes is the decision of
    /// whoever wrote the lock.
    async fn check(&self, argv: Vec<String>) -> Result<(), EnvironmentError> {
        let output = self.output(argv).await?;
        let said = words_of(&output);
        let missing: Vec<Diagnostic> =
            said.iter().filter(|line| line.contains("not installed")).map(|line| self.incomplete(line)).collect();
        if missing.is_empty() { Ok(()) } else { Err(EnvironmentError::Wrong(missing)) }
    }

    fn incomplete(&self, line: &str) -> Diagnostic {
        let hint = "A lock names all packages, also those that others need; `uv lock`, `uv pip compile` and `pip freeze` \
                    write such locks.";
        let message = format!("the lock is not complete: {}", line.trim());
        self.at(self.pin_in(line), message, hint)
    }

    /// Why a build failed, in words that lead to what is to be done.
    fn failure(&self, end: SandboxEnd, said: &[String]) -> EnvironmentError {
        let head = format!("Python environment {} cannot be built", short(self.plan.digest));
        let errors = said.iter().position(|line| line.to_lowercase().starts_with("error")).unwrap_or(0);
        let errors = &said[errors.max(said.len().saturating_sub(MOST_WORDS))..];
        // Where the server keeps things is of no use to people.
        let place = self.folder.parent().unwrap_or(self.folder).display().to_string();
        let last: String =
            errors.iter().map(|line| format!("\n{}: {}", self.builder, line.replace(&place, "…"))).collect();
        let limit = match end {
            SandboxEnd::TooLong => Some(format!("{head}: it takes longer than {} minutes", LIMIT.as_secs() / 60)),
            SandboxEnd::TooMuchMemory => Some(format!("{head}: it needs more than {} GiB of memory", MEMORY >> 30)),
            _ => None,
        };
        if let Some(message) = limit {
            let hint = "Have the packages as wheels in a folder that [python] wheels names.";
            return EnvironmentError::Wrong(vec![about(&self.plan.file, format!("{message}{last}"), hint)]);
        }
        let has = |marks: &[&str]| {
            said.iter().any(|line| {
                let line = line.to_lowercase();
                marks.iter().any(|mark| line.contains(mark))
            })
        };
        if has(&["no space left on device"]) {
            return EnvironmentError::machine(format!("{head}: the disk is full"), "Free some space.");
        }
        if self.plan.wheels.is_none() && has(UNREACHABLE) {
            return EnvironmentError::Unreachable {
                message: format!("{head}: the index of packages cannot be reached{last}"),
                hint: "Look at the network and at how pip or uv are set up here, or have the wheels in a folder that \
                       [python] wheels names."
                    .to_owned(),
            };
        }
        let failed: Vec<&String> = said.iter().filter(|line| !line.to_lowercase().starts_with("warning")).collect();
        let pin = failed.iter().find_map(|line| self.pin_in(line));
        let what = pin.map_or_else(
            || "a package".to_owned(),
            |pin| match &pin.version {
                Some(version) => format!("\"{}\" {version}", pin.name),
                None => format!("\"{}\"", pin.name),
            },
        );
        let (message, hint) = if has(&["hash"]) && has(&["do not match", "mismatch", "mismatched"]) {
            let hint =
                "Either the lock is wrong or the file is not the one that was locked; lock again only if you know why.";
            (format!("{head}: the file of {what} has another hash than the lock says"), hint)
        } else if has(NOTHING_FITS) {
            let Interpreter { version, platform, .. } = &self.plan.interpreter;
            let place = match &self.plan.wheels {
                Some(wheels) => format!("the folder \"{}\" has no wheel of {what} that fits", wheels.name),
                None => format!("there is no file of {what} that fits"),
            };
            (
                format!("{head}: {place} Python {version} on {platform}"),
                "Lock a version that has one, or use another interpreter.",
            )
        } else {
            (format!("{head}: {} failed at {what}", self.builder), "Its own words say why.")
        };
        EnvironmentError::Wrong(vec![self.at(pin, format!("{message}{last}"), hint)])
    }

    fn at(&self, pin: Option<&Pin>, message: String, hint: &str) -> Diagnostic {
        let diagnostic = about(&self.plan.file, message, hint);
        pin.map_or(diagnostic.clone(), |pin| pin.at(&self.plan.root, diagnostic))
    }

    /// The package that a line of the builder is about: the first that it names.
    fn pin_in(&self, line: &str) -> Option<&Pin> {
        let line = line.to_lowercase().replace('_', "-");
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let at = |pin: &Pin| {
            line.match_indices(&pin.name).map(|(at, _)| at).find(|at| {
                let (before, after) = (&line[..*at], &line[at + pin.name.len()..]);
                !before.ends_with(is_word) && !after.starts_with(is_word)
            })
        };
        self.plan.lock.pins.iter().filter_map(|pin| Some((at(pin)?, pin))).min_by_key(|(at, _)| *at).map(|(_, pin)| pin)
    }
}

/// What builders say when there is no network, or nobody answers.
const UNREACHABLE: &[&str] = &[
    "temporary failure in name resolution",
    "name or service not known",
    "failed to establish a new connection",
    "connection broken by",
    "connection refused",
    "connection reset",
    "network is unreachable",
    "dns error",
    "error sending request",
    "tcp connect error",
    "operation timed out",
    "read timed out",
    "max retries exceeded",
];
/// What they say when no file fits.
const NOTHING_FITS: &[&str] = &[
    "no matching distribution",
    "could not find a version",
    "no solution found",
    "was not found in the",
    "not found in the package registry",
    "has no wheels with a matching",
    "no compatible",
    "no usable wheels",
    "no wheels are available",
    "there is no version of",
];

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// What a program said, line by line, what it calls output first.
fn words_of(output: &SandboxOutput) -> Vec<String> {
    let both = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let lines = both.iter().flat_map(|text| text.lines()).map(str::trim_end).filter(|line| !line.is_empty());
    lines.map(str::to_owned).collect()
}

/// How the machine's `pip` and `uv` are set up by variables, and the way to the network; nothing of it where a folder of
/// wheels is all that there is. A project's user gets none of the folders that are the server's.
fn settings(offline: bool, as_user: bool) -> BTreeMap<String, String> {
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    // Users without a home have no place for what was fetched.
    let uncached = [("PIP_NO_CACHE_DIR", "1"), ("UV_NO_CACHE", "1")].into_iter().filter(|_| as_user).map(owned);
    if offline {
        let alone = [("PIP_CONFIG_FILE", "/dev/null"), ("UV_NO_CONFIG", "1")];
        return alone.map(owned).into_iter().chain(uncached).collect();
    }
    let retries = ["PIP_RETRIES", "UV_HTTP_RETRIES"].map(|name| (name.to_owned(), RETRIES.to_owned()));
    let is_own = |name: &str| as_user && FOLDERS.contains(&name);
    let is_one = |name: &str| SETTINGS.contains(&name.to_ascii_uppercase().as_str()) || name.starts_with("UV_INDEX");
    let machine = std::env::vars().filter(|(name, _)| is_one(name) && !is_own(name));
    retries.into_iter().chain(machine).chain(uncached).collect()
}

/// Of these the folders of whoever started the server.
const FOLDERS: &[&str] = &["PIP_CACHE_DIR", "UV_CACHE_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"];

/// Where packages come from and how they are reached. Others, such as where they are installed or in which versions, are
/// not for the machine to say.
const SETTINGS: &[&str] = &[
    "ALL_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "PIP_CACHE_DIR",
    "PIP_CERT",
    "PIP_CLIENT_CERT",
    "PIP_CONFIG_FILE",
    "PIP_DEFAULT_TIMEOUT",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "PIP_INDEX_URL",
    "PIP_KEYRING_PROVIDER",
    "PIP_NO_INDEX",
    "PIP_PROXY",
    "PIP_RETRIES",
    "PIP_TIMEOUT",
    "PIP_TRUSTED_HOST",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "UV_CACHE_DIR",
    "UV_CONFIG_FILE",
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_HTTP_RETRIES",
    "UV_HTTP_TIMEOUT",
    "UV_INSECURE_HOST",
    "UV_KEYRING_PROVIDER",
    "UV_NATIVE_TLS",
    "UV_NO_INDEX",
    "UV_SYSTEM_CERTS",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
];

/// The packages that are installed in an environment, by name, with their versions.
pub(super) fn installed(environment: &Path) -> BTreeMap<String, String> {
    let below = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let places = below(environment.join("lib")).map(|python| python.join("site-packages"));
    let found = places.flat_map(below).filter_map(|path| {
        let name = path.file_name()?.to_str()?.strip_suffix(".dist-info")?.to_owned();
        let (package, version) = name.split_once('-')?;
        Some((normal(package), version.to_owned()))
    });
    found.collect()
}

/// Makes the scripts of an environment speak of the place where it will be.
pub(super) fn relocate(from: &Path, to: &Path) -> std::io::Result<()> {
    let (old, new) = (from.display().to_string().into_bytes(), to.display().to_string().into_bytes());
    let bin = from.join("bin");
    let scripts = match fs::symlink_metadata(&bin) {
        // A link would lead to files of others.
        Ok(found) if found.is_dir() => fs::read_dir(bin)?.collect::<Result<Vec<_>, _>>()?,
        Ok(_) => Vec::new(),
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let files = scripts.into_iter().map(|entry| entry.path()).chain([from.join("pyvenv.cfg")]);
    for path in files {
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.is_file() && metadata.len() <= LARGEST_SCRIPT {
            let bytes = fs::read(&path)?;
            if let Some(changed) = replaced(&bytes, &old, &new) {
                fs::write(&path, changed)?;
            }
        }
    }
    Ok(())
}

/// The bytes with each place of some replaced; none when there is no such place.
fn replaced(bytes: &[u8], old: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    let (mut changed, mut rest, mut found) = (Vec::with_capacity(bytes.len()), bytes, false);
    while let Some(at) = rest.windows(old.len()).position(|window| window == old) {
        found = true;
        changed.extend_from_slice(&rest[..at]);
        changed.extend_from_slice(new);
        rest = &rest[at + old.len()..];
    }
    changed.extend_from_slice(rest);
    found.then_some(changed)
}
