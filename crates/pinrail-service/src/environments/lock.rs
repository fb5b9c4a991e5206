//! Lock files: the exact packages that an environment has, read from what `uv` and `pip` write.
//!
//! All forms come to the same list of pins. Markers are handed on as they are: who installs knows the interpreter.
//!
//! Invariant: a pin names one version, or a file by its digest. Whatever could be another package tomorrow is refused.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

use pinrail_model::near::nearest;
use toml::{Table, Value};

use crate::compile::{Diagnostic, plain};
use crate::project::{FILE, Project};

/// The lock file of `uv`.
const UV: &str = "uv.lock";
/// More ways than this to need one package are no lock that anybody could read; each is looked at.
const MOST_WAYS: usize = 256;

/// One package of a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// In lower case, with `-` between words.
    pub name: String,
    /// None: a file, by its digest.
    pub version: Option<String>,
    /// What follows the name: `==1.2`, or ` @ ` and an address.
    exact: String,
    marker: Option<String>,
    /// As in `sha256:...`.
    hashes: BTreeSet<String>,
    pub file: String,
    pub line: u32,
}

impl Pin {
    /// A diagnostic at its line.
    pub(super) fn at(&self, root: &Path, diagnostic: Diagnostic) -> Diagnostic {
        with_text(root, Diagnostic { file: Some(self.file.clone()), line: Some(self.line), ..diagnostic })
    }
}

/// What a lock says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lock {
    pub pins: Vec<Pin>,
    /// Where packages come from, as options of `pip` and `uv`; none: wherever these are set up to look.
    pub indexes: Vec<String>,
}

impl Lock {
    /// How many packages it names.
    #[must_use]
    pub fn packages(&self) -> usize {
        self.pins.iter().map(|pin| &pin.name).collect::<BTreeSet<_>>().len()
    }

    /// Whether every package is known by its digest.
    #[must_use]
    pub fn is_hashed(&self) -> bool {
        !self.pins.is_empty() && self.pins.iter().all(|pin| !pin.hashes.is_empty())
    }

    /// The pins as a file for `pip` and `uv`: the same for locks that mean the same.
    #[must_use]
    pub fn requirements(&self) -> String {
        let hashed = self.is_hashed();
        let mut lines: Vec<String> = self.pins.iter().map(|pin| pin.requirement(hashed)).collect();
        lines.sort_unstable();
        lines.dedup();
        lines.concat()
    }

    /// Adds the pins of another lock.
    fn join(&mut self, other: Self) -> Result<(), Box<Diagnostic>> {
        for pin in other.pins {
            let same = |known: &&mut Pin| known.name == pin.name && known.marker == pin.marker;
            match self.pins.iter_mut().find(same) {
                Some(known) if known.exact == pin.exact => known.hashes.extend(pin.hashes),
                Some(known) => {
                    let message = format!(
                        "\"{}\" is pinned twice: \"{0}{}\" here and \"{0}{}\" in {}:{}",
                        pin.name, pin.exact, known.exact, known.file, known.line
                    );
                    let hint = "Pin the same version in all lock files that are used together.";
                    return Err(Box::new(wrong(&pin.file, pin.line, message, hint)));
                }
                None => self.pins.push(pin),
            }
        }
        self.indexes.extend(other.indexes);
        Ok(())
    }
}

impl Pin {
    fn requirement(&self, hashed: bool) -> String {
        let marker = self.marker.as_ref().map_or_else(String::new, |marker| format!(" ; {marker}"));
        let hashes: String =
            self.hashes.iter().filter(|_| hashed).map(|hash| format!(" \\\n    --hash={hash}")).collect();
        format!("{}{}{marker}{hashes}\n", self.name, self.exact)
    }
}

/// A mistake in a lock, at its line.
fn wrong(file: &str, line: u32, message: impl Into<String>, hint: &str) -> Diagnostic {
    Diagnostic {
        file: Some(file.to_owned()),
        line: Some(line),
        hint: Some(hint.to_owned()),
        ..plain("error", "bad-lock", message.into())
    }
}

/// The same with the line's text and a caret below all of it.
fn with_source(mut diagnostic: Diagnostic, text: &str) -> Diagnostic {
    let at = diagnostic.line.unwrap_or(1).saturating_sub(1) as usize;
    if let Some(source) = text.lines().nth(at).filter(|source| diagnostic.source.is_none() && !source.is_empty()) {
        let indent = source.chars().take_while(|c| c.is_whitespace()).count();
        diagnostic.column = u32::try_from(indent + 1).ok();
        diagnostic.width = u32::try_from(source.trim().chars().count()).ok();
        diagnostic.source = Some(source.to_owned());
    }
    diagnostic
}

/// What a project's lock says for a base environment with these extras; none when the project has no lock.
///
/// # Errors
/// What is wrong with the lock files, each at its place.
pub(crate) fn read(root: &Path, settings: &Project, extras: &[String]) -> Result<Option<Lock>, Vec<Diagnostic>> {
    let Some(name) = &settings.lock else {
        return match extras.first() {
            None => Ok(None),
            Some(extra) => {
                let message = format!("there is no extra \"{extra}\": the project has no lock");
                Err(vec![wrong(FILE, 1, message, "Name a lock file in pinrail.toml: [python] lock = \"uv.lock\".")])
            }
        };
    };
    let known = known_extras(root, settings)?;
    if let Some(extra) = extras.iter().find(|extra| !known.contains(extra)) {
        let hint = match nearest(extra, known.iter().map(String::as_str)) {
            Some(near) => format!("Did you mean \"{near}\"?"),
            None if known.is_empty() => where_extras_are(name).to_owned(),
            None => format!("There are {}.", known.join(", ")),
        };
        return Err(vec![wrong(name, 1, format!("the project has no extra \"{extra}\""), &hint)]);
    }
    let mut lock = read_one(root, name, extras)?;
    if name.rsplit('/').next() != Some(UV) {
        for (extra, file) in settings.extras.iter().filter(|(extra, _)| extras.contains(extra)) {
            let further = read_one(root, file, &[]).map_err(|mut found| {
                found.iter_mut().for_each(|one| one.message.push_str(&format!(" (extra \"{extra}\")")));
                found
            })?;
            lock.join(further).map_err(|diagnostic| vec![*diagnostic])?;
        }
    }
    let hashed = lock.pins.iter().find(|pin| !pin.hashes.is_empty());
    if let (Some(with), Some(pin)) = (hashed, lock.pins.iter().find(|pin| pin.hashes.is_empty())) {
        let message = format!("\"{}\" has no hash, but others have, such as \"{}\"", pin.name, with.name);
        let hint = "Give hashes to all packages or to none; `uv pip compile --generate-hashes` gives them to all.";
        return Err(vec![with_text(root, wrong(&pin.file, pin.line, message, hint))]);
    }
    Ok(Some(lock))
}

/// The extras that templates may name, in order; none without a lock.
///
/// # Errors
/// When the lock cannot be read.
pub(crate) fn known_extras(root: &Path, settings: &Project) -> Result<Vec<String>, Vec<Diagnostic>> {
    let Some(name) = &settings.lock else { return Ok(Vec::new()) };
    if name.rsplit('/').next() != Some(UV) {
        return Ok(settings.extras.keys().cloned().collect());
    }
    let text = text_of(root, name)?;
    let table = table(name, &text).map_err(|found| vec![with_source(*found, &text)])?;
    let packages = packages(&table, "package");
    let roots = packages.iter().filter(|package| is_root(package));
    let of = |package: &&Table, field: &str| -> Vec<String> {
        package.get(field).and_then(Value::as_table).into_iter().flat_map(Table::keys).cloned().collect()
    };
    let both =
        roots.flat_map(|package| [of(package, "optional-dependencies"), of(package, "dev-dependencies")].concat());
    Ok(both.collect::<BTreeSet<String>>().into_iter().collect())
}

fn where_extras_are(lock: &str) -> &'static str {
    if lock.ends_with(UV) {
        "Extras of a uv.lock are the optional dependencies and the groups of its pyproject.toml."
    } else {
        "Name its lock file in pinrail.toml, below [python.extras]: NAME = \"FILE\"."
    }
}

/// The line of `pinrail.toml` that names a file.
fn setting_line(root: &Path, name: &str) -> u32 {
    let text = std::fs::read_to_string(root.join(FILE)).unwrap_or_default();
    let at = text.lines().position(|line| !line.trim_start().starts_with('#') && line.contains(&format!("\"{name}\"")));
    at.and_then(|at| u32::try_from(at + 1).ok()).unwrap_or(1)
}

fn text_of(root: &Path, name: &str) -> Result<String, Vec<Diagnostic>> {
    match std::fs::read_to_string(root.join(name)) {
        Ok(text) => Ok(text),
        Err(error) => {
            let line = setting_line(root, name);
            let (message, hint) = if error.kind() == std::io::ErrorKind::NotFound {
                let hint = "Make it with `uv lock`, `uv pip compile` or `pip freeze`. What .gitignore or .pinrailignore \
                            names is not part of the project's code.";
                (format!("the lock file \"{name}\" does not exist"), hint)
            } else {
                (format!("the lock file \"{name}\" cannot be read: {error}"), "Save it as UTF-8 text.")
            };
            Err(vec![with_text(root, wrong(FILE, line, message, hint))])
        }
    }
}

fn with_text(root: &Path, diagnostic: Diagnostic) -> Diagnostic {
    let file = diagnostic.file.clone().unwrap_or_default();
    let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
    with_source(diagnostic, &text)
}

fn read_one(root: &Path, name: &str, extras: &[String]) -> Result<Lock, Vec<Diagnostic>> {
    let text = text_of(root, name)?;
    let base = name.rsplit('/').next().unwrap_or(name);
    let read = if base == UV {
        uv(name, &text, extras).map_err(|found| vec![*found])
    } else if base == "pylock.toml" || (base.starts_with("pylock.") && base.ends_with(".toml")) {
        pylock(name, &text).map_err(|found| vec![*found])
    } else if base.ends_with(".txt") {
        requirements(name, &text)
    } else {
        let message = format!("\"{name}\" is no lock file that pinrail reads");
        let hint = "It reads uv.lock, pylock.toml and requirements in a file that ends in .txt; other tools can write \
                    one of these.";
        Err(vec![with_text(root, wrong(FILE, setting_line(root, name), message, hint))])
    };
    read.map_err(|found| found.into_iter().map(|one| with_source(one, &text)).collect())
}

/// A name as all tools compare it.
pub(super) fn normal(name: &str) -> String {
    let words = name.split(['-', '_', '.']).filter(|word| !word.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
}

// Requirements: lines of `pip`.

const PIN_IT: &str = "Write NAME==VERSION; `uv pip compile` and `pip freeze` write such files.";

fn requirements(file: &str, text: &str) -> Result<Lock, Vec<Diagnostic>> {
    let (mut lock, mut found) = (Lock::default(), Vec::new());
    for (line, words) in logical_lines(text) {
        let read = if words.starts_with('-') {
            option(file, line, &words).map(|options| lock.indexes.extend(options))
        } else {
            pin(file, line, &words).and_then(|pin| lock.join(Lock { pins: vec![pin], indexes: Vec::new() }))
        };
        found.extend(read.err().map(|diagnostic| *diagnostic));
    }
    if found.is_empty() { Ok(lock) } else { Err(found) }
}

/// The lines of a file without comments, continued ones joined, each with the number of its first.
fn logical_lines(text: &str) -> Vec<(u32, String)> {
    let mut lines: Vec<(u32, String)> = Vec::new();
    let mut open = false;
    for (number, line) in (1_u32..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let comment = if line.trim_start().starts_with('#') { Some(0) } else { line.find(" #") };
        let line = line[..comment.unwrap_or(line.len())].trim();
        let (line, continued) = line.strip_suffix('\\').map_or((line, false), |line| (line.trim_end(), true));
        match lines.last_mut().filter(|_| open) {
            Some((_, whole)) => {
                whole.push(' ');
                whole.push_str(line);
            }
            None => lines.push((number, line.to_owned())),
        }
        // A comment between two parts of a line does not end it.
        open = continued || (open && comment.is_some() && line.is_empty());
    }
    lines.retain(|(_, line)| !line.trim().is_empty());
    lines
}

/// An option that has a line of its own.
fn option(file: &str, line: u32, words: &str) -> Result<Vec<String>, Box<Diagnostic>> {
    let (name, value) = words.split_once(['=', ' ']).map_or((words, ""), |(name, value)| (name, value.trim()));
    let refused = |hint: &str| Err(Box::new(wrong(file, line, format!("\"{name}\" is not allowed in a lock"), hint)));
    match name {
        "-i" | "--index-url" => Ok(vec!["--index-url".to_owned(), value.to_owned()]),
        "--extra-index-url" => Ok(vec![name.to_owned(), value.to_owned()]),
        "--require-hashes" => Ok(Vec::new()),
        "-r" | "--requirement" => refused("Put everything into one file; an extra has a file of its own."),
        "-c" | "--constraint" => refused("A lock names exact versions and needs no constraints."),
        "-e" | "--editable" => refused("Code of the project belongs into its folder; other code into a wheel."),
        "-f" | "--find-links" => refused("Name a folder of wheels in pinrail.toml: [python] wheels = \"wheels\"."),
        _ => refused("Set it where `pip` or `uv` are set up."),
    }
}

fn pin(file: &str, line: u32, words: &str) -> Result<Pin, Box<Diagnostic>> {
    let refused = |message: String, hint: &str| Box::new(wrong(file, line, message, hint));
    let (requirement, rest) = words.split_once(" --").map_or((words, ""), |(first, rest)| (first, rest));
    let mut hashes = BTreeSet::new();
    for option in rest.split(" --").map(str::trim).filter(|option| !option.is_empty()) {
        match option.strip_prefix("hash").and_then(|hash| hash.trim_start_matches(['=', ' ']).split_once(':')) {
            Some((kind, digest)) if is_digest(kind, digest) => {
                hashes.insert(format!("{kind}:{digest}"));
            }
            Some((kind, digest)) => {
                let message = format!("\"{kind}:{digest}\" is no hash");
                return Err(refused(message, "Write sha256: and 64 hexadecimal digits."));
            }
            _ => return Err(refused(format!("\"--{option}\" is not allowed in a lock"), "Leave it out.")),
        }
    }
    let is_word = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let name = &requirement[..requirement.find(|c| !is_word(c)).unwrap_or(requirement.len())];
    if name.is_empty() {
        return Err(refused(format!("\"{requirement}\" names no package"), PIN_IT));
    }
    let mut rest = requirement[name.len()..].trim_start();
    if let Some((_, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        // What the package's extras need is pinned by lines of its own.
        rest = after.trim_start();
    }
    let name = normal(name);
    if let Some(address) = rest.strip_prefix('@') {
        let (address, marker) = split(address, " ;");
        if hashes.is_empty() {
            let hint =
                "Add --hash=sha256:... to the line, or put the wheel into a folder of wheels and pin its version.";
            return Err(refused(format!("\"{name}\" is an address without a hash"), hint));
        }
        let exact = format!(" @ {address}");
        return Ok(Pin { name, version: None, exact, marker, hashes, file: file.to_owned(), line });
    }
    let (version, marker) = split(rest, ";");
    let exact = version.strip_prefix("===").or_else(|| version.strip_prefix("==")).map(str::trim);
    match exact.filter(|version| !version.is_empty() && version.chars().all(|c| is_word(c) || "+!".contains(c))) {
        Some(version) => Ok(Pin {
            exact: format!("=={version}"),
            version: Some(version.to_owned()),
            name,
            marker,
            hashes,
            file: file.to_owned(),
            line,
        }),
        None => {
            let shown = if version.is_empty() { name.clone() } else { format!("{name}{version}") };
            Err(refused(format!("\"{shown}\" does not say which version of {name} it is"), PIN_IT))
        }
    }
}

/// Whether a text may be a digest of a kind.
fn is_digest(kind: &str, digest: &str) -> bool {
    let known = [("sha256", 64), ("sha384", 96), ("sha512", 128)];
    known.contains(&(kind, digest.len())) && digest.chars().all(|c| c.is_ascii_hexdigit())
}

fn split(text: &str, at: &str) -> (String, Option<String>) {
    let (first, rest) = text.split_once(at).map_or((text, None), |(first, rest)| (first, Some(rest)));
    (first.trim().to_owned(), rest.map(|rest| rest.trim().to_owned()).filter(|rest| !rest.is_empty()))
}

// TOML.

fn table(file: &str, text: &str) -> Result<Table, Box<Diagnostic>> {
    text.parse().map_err(|error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start);
        let line = text.get(..at).map_or(1, |before| before.matches('\n').count() + 1);
        let line = u32::try_from(line).unwrap_or(1);
        Box::new(wrong(file, line, format!("the lock is not valid: {}", error.message()), "Make it again."))
    })
}

fn packages<'a>(table: &'a Table, key: &str) -> Vec<&'a Table> {
    table.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_table).collect()
}

fn text_at<'a>(table: &'a Table, key: &str) -> Option<&'a str> {
    table.get(key)?.as_str()
}

/// The line of a package in a lock of TOML, by its name and, if it is there several times, its version.
fn line_of(text: &str, name: &str, version: Option<&str>) -> u32 {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let (named, versioned) = (format!("name = \"{name}\""), version.map(|version| format!("version = \"{version}\"")));
    let is_it = |at: &usize| {
        lines[*at] == named && versioned.as_ref().is_none_or(|wanted| lines.get(at + 1).is_some_and(|l| l == wanted))
    };
    (0..lines.len()).find(is_it).and_then(|at| u32::try_from(at + 1).ok()).unwrap_or(1)
}

// `uv.lock`.

/// The project itself, whose code is in the bundle.
fn is_root(package: &Table) -> bool {
    let source = package.get("source").and_then(Value::as_table);
    source.is_some_and(|source| ["virtual", "editable"].iter().any(|kind| text_at(source, kind) == Some(".")))
}

/// What must hold for a package to be needed: one of these ways, of each all of its markers.
type Ways = BTreeSet<BTreeSet<String>>;

/// A package of a lock, alone or with one of its extras.
type Node<'a> = (usize, Option<&'a str>);

fn uv(file: &str, text: &str, extras: &[String]) -> Result<Lock, Box<Diagnostic>> {
    let table = table(file, text)?;
    let refused = |line: u32, message: String, hint: &str| Box::new(wrong(file, line, message, hint));
    if table.get("version").and_then(Value::as_integer) != Some(1) {
        let hint = "This version of pinrail reads version 1; write it with a uv of that version.";
        return Err(refused(1, "the version of this lock is not known".to_owned(), hint));
    }
    let packages = packages(&table, "package");
    let mut ways: BTreeMap<Node<'_>, Ways> = BTreeMap::new();
    let mut open: VecDeque<(Node<'_>, BTreeSet<String>)> = VecDeque::new();
    let roots = packages.iter().enumerate().filter(|(_, package)| is_root(package));
    for (at, package) in roots {
        let named = |field: &str, extra: &str| {
            let found = package.get(field).and_then(Value::as_table).and_then(|table| table.get(extra));
            found.and_then(Value::as_array)
        };
        let base = package.get("dependencies").and_then(Value::as_array);
        let chosen = extras.iter().flat_map(|extra| {
            [named("optional-dependencies", extra), named("dev-dependencies", extra)].into_iter().flatten()
        });
        for dependency in base.into_iter().chain(chosen).flatten().filter_map(Value::as_table) {
            follow(&packages, dependency, &BTreeSet::new(), at, &mut open);
        }
    }
    while let Some((node, way)) = open.pop_front() {
        let known = ways.entry(node).or_default();
        if known.iter().any(|other| other.is_subset(&way)) {
            continue;
        }
        known.retain(|other| !way.is_subset(other));
        known.insert(way.clone());
        let (at, extra) = node;
        let package = packages[at];
        let (name, version) = (text_at(package, "name").unwrap_or_default(), text_at(package, "version"));
        if known.len() > MOST_WAYS {
            let hint = "Write the lock with `uv export` to a file that ends in .txt, and name that one.";
            let message = format!("there are more than {MOST_WAYS} ways to need \"{name}\"");
            return Err(refused(line_of(text, name, version), message, hint));
        }
        let needs = match extra {
            None => package.get("dependencies"),
            Some(extra) => package.get("optional-dependencies").and_then(|extras| extras.get(extra)),
        };
        for dependency in needs.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_table) {
            follow(&packages, dependency, &way, at, &mut open);
        }
    }
    let mut lock = Lock::default();
    for ((at, extra), ways) in ways {
        if extra.is_none() && !is_root(packages[at]) {
            lock.pins.push(locked(file, text, packages[at], marker(&ways))?);
        }
    }
    match lock.pins.iter().find(|pin| pin.marker.as_ref().is_some_and(|marker| marker.contains("extra =="))) {
        Some(pin) => {
            let hint = "Write the lock of each with `uv export --extra NAME` to a file that ends in .txt.";
            Err(refused(pin.line, format!("\"{}\" depends on extras that conflict", pin.name), hint))
        }
        None => Ok(lock),
    }
}

/// Notes what a dependency needs, under the markers of the way to it.
fn follow<'a>(
    packages: &[&'a Table],
    dependency: &'a Table,
    way: &BTreeSet<String>,
    from: usize,
    open: &mut VecDeque<(Node<'a>, BTreeSet<String>)>,
) {
    let name = text_at(dependency, "name");
    let version = text_at(dependency, "version");
    let found = packages.iter().position(|package| {
        text_at(package, "name") == name && (version.is_none() || text_at(package, "version") == version)
    });
    let Some(at) = found.filter(|at| *at != from || dependency.contains_key("extra")) else { return };
    let mut way = way.clone();
    way.extend(text_at(dependency, "marker").map(str::to_owned));
    let extras = dependency.get("extra").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    for extra in extras {
        open.push_back(((at, Some(extra)), way.clone()));
    }
    open.push_back(((at, None), way));
}

/// The marker that says the same as the ways; none when one of them has no condition.
fn marker(ways: &Ways) -> Option<String> {
    if ways.iter().any(BTreeSet::is_empty) {
        return None;
    }
    let all = |way: &BTreeSet<String>| way.iter().map(|m| format!("({m})")).collect::<Vec<_>>().join(" and ");
    let each: Vec<String> = ways.iter().map(all).collect();
    Some(match each.as_slice() {
        [one] => one.clone(),
        several => several.iter().map(|way| format!("({way})")).collect::<Vec<_>>().join(" or "),
    })
}

fn locked(file: &str, text: &str, package: &Table, marker: Option<String>) -> Result<Pin, Box<Diagnostic>> {
    let (name, version) = (text_at(package, "name").unwrap_or_default(), text_at(package, "version"));
    let line = line_of(text, name, version);
    let source = package.get("source").and_then(Value::as_table);
    let kind = source.and_then(|source| source.keys().find(|key| *key != "subdirectory")).map_or("", String::as_str);
    let wheels = packages(package, "wheels").into_iter();
    let files = wheels.chain(package.get("sdist").and_then(Value::as_table));
    let hashes: BTreeSet<String> = files.filter_map(|file| text_at(file, "hash")).map(str::to_owned).collect();
    let exact = match (kind, version) {
        ("registry" | "path", Some(version)) => format!("=={version}"),
        ("url", _) if !hashes.is_empty() => {
            format!(" @ {}", source.and_then(|source| text_at(source, "url")).unwrap_or_default())
        }
        _ => {
            let hint = "Put it into the project's folder, or into a wheel of a folder that [python] wheels names.";
            let message = format!("\"{name}\" comes from a {kind} source, which has no digest");
            return Err(Box::new(wrong(file, line, message, hint)));
        }
    };
    let version = version.filter(|_| kind != "url").map(str::to_owned);
    Ok(Pin { name: normal(name), version, exact, marker, hashes, file: file.to_owned(), line })
}

// `pylock.toml`.

fn pylock(file: &str, text: &str) -> Result<Lock, Box<Diagnostic>> {
    let table = table(file, text)?;
    let refused = |line: u32, message: String, hint: &str| Box::new(wrong(file, line, message, hint));
    if text_at(&table, "lock-version").is_none_or(|version| version.split('.').next() != Some("1")) {
        let hint = "This version of pinrail reads version 1.";
        return Err(refused(1, "the version of this lock is not known".to_owned(), hint));
    }
    let mut lock = Lock::default();
    for package in packages(&table, "packages") {
        let (name, version) = (text_at(package, "name").unwrap_or_default(), text_at(package, "version"));
        let line = line_of(text, name, version);
        let marker = text_at(package, "marker").map(str::to_owned);
        if marker.as_ref().is_some_and(|m| m.contains("extras") || m.contains("dependency_groups")) {
            let hint = "Write one file for each extra, and name them below [python.extras] of pinrail.toml.";
            return Err(refused(line, format!("\"{name}\" depends on extras within the lock"), hint));
        }
        let Some(version) = version.filter(|_| ["vcs", "directory"].iter().all(|kind| !package.contains_key(*kind)))
        else {
            let hint = "Put it into the project's folder, or into a wheel of a folder that [python] wheels names.";
            return Err(refused(line, format!("\"{name}\" has no version and digest"), hint));
        };
        let files = packages_and_sdist(package);
        let hash = |file: &Table| {
            let hashes = file.get("hashes").and_then(Value::as_table).into_iter().flatten();
            hashes.filter_map(|(kind, digest)| Some(format!("{kind}:{}", digest.as_str()?))).collect::<Vec<_>>()
        };
        lock.pins.push(Pin {
            name: normal(name),
            version: Some(version.to_owned()),
            exact: format!("=={version}"),
            marker,
            hashes: files.into_iter().flat_map(hash).collect(),
            file: file.to_owned(),
            line,
        });
    }
    Ok(lock)
}

fn packages_and_sdist(package: &Table) -> Vec<&Table> {
    let sdist = package.get("sdist").and_then(Value::as_table);
    packages(package, "wheels").into_iter().chain(sdist).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The requirements that a lock comes to, one a line, without hashes.
    fn lines(lock: &Lock) -> Vec<String> {
        let text = lock.requirements().replace(" \\\n    ", " ");
        text.lines().map(|line| line.split(" --hash").next().unwrap().to_owned()).collect()
    }

    fn digest(digit: char) -> String {
        format!("sha256:{}", digit.to_string().repeat(64))
    }

    #[test]
    fn requirements_are_read_as_pip_reads_them() {
        let text = format!(
            "# by hand\n--index-url https://packages.example.org/simple\n\nFoo.Bar[extra]==1.0 \\\n    --hash={} \\\n    \
             # a remark in between\n    --hash={}\nbaz === 2+local ; python_version < '3.10' --hash={}  # why\n\
             qux @ https://packages.example.org/qux.whl ; os_name == 'nt' --hash={}\n",
            digest('a'),
            digest('b'),
            digest('c'),
            digest('d'),
        );
        let lock = requirements("r.txt", &text).unwrap();
        assert!(lock.is_hashed());
        assert_eq!(lock.indexes, ["--index-url", "https://packages.example.org/simple"]);
        assert_eq!(
            lines(&lock),
            [
                "baz==2+local ; python_version < '3.10'",
                "foo-bar==1.0",
                "qux @ https://packages.example.org/qux.whl ; os_name == 'nt'"
            ]
        );
        let places: Vec<(u32, usize)> = lock.pins.iter().map(|pin| (pin.line, pin.hashes.len())).collect();
        assert_eq!(places, [(4, 2), (8, 1), (9, 1)]);
        // The same packages in another order and with other remarks are the same lock.
        let other = requirements("r.txt", "b==2\na==1 # x\n").unwrap();
        assert_eq!(other.requirements(), requirements("s.txt", "\u{feff}A==1\n\nB==2").unwrap().requirements());
        assert_eq!(other.packages(), 2);
    }

    #[test]
    fn each_wrong_line_is_told_with_its_number() {
        let text =
            "a==1\nb\nc>=1\nd~=1.0\ne==1,<2\nf==1.*\n./g.whl\n--pre\nh @ https://h.example.org/h.whl\ni==1 --x=1";
        let found = requirements("r.txt", text).unwrap_err();
        let lines: Vec<u32> = found.iter().filter_map(|one| one.line).collect();
        assert_eq!(lines, (2..=10).collect::<Vec<u32>>());
        assert!(found.iter().all(|one| one.hint.is_some() && one.code == "bad-lock"));
    }

    const UV_LOCK: &str = r#"
version = 1
revision = 3
requires-python = ">=3.9"

[[package]]
name = "demo"
version = "0"
source = { editable = "." }
dependencies = [
    { name = "web", extra = ["socks"] },
    { name = "colour", marker = "sys_platform == 'win32'" },
    { name = "table", version = "1.0", source = { registry = "x" }, marker = "python_full_version < '3.10'" },
    { name = "table", version = "2.0", source = { registry = "x" }, marker = "python_full_version >= '3.10'" },
]

[package.optional-dependencies]
ml = [{ name = "number" }]

[package.dev-dependencies]
dev = [{ name = "test" }]

[[package]]
name = "web"
version = "3.1"
source = { registry = "x" }
sdist = { url = "x", hash = "sha256:aa" }
wheels = [{ url = "x", hash = "sha256:bb" }]

[package.optional-dependencies]
socks = [{ name = "socks", marker = "python_full_version >= '3.8'" }]

[[package]]
name = "socks"
version = "1.7"
source = { registry = "x" }

[[package]]
name = "table"
version = "1.0"
source = { registry = "x" }
dependencies = [{ name = "shared" }]

[[package]]
name = "table"
version = "2.0"
source = { registry = "x" }
dependencies = [{ name = "shared" }, { name = "table", version = "2.0" }]

[[package]]
name = "shared"
version = "5"
source = { registry = "x" }

[[package]]
name = "colour"
version = "0.4"
source = { registry = "x" }

[[package]]
name = "number"
version = "2.4"
source = { registry = "x" }
dependencies = [{ name = "shared" }]

[[package]]
name = "test"
version = "9"
source = { registry = "x" }
dependencies = [{ name = "colour", marker = "sys_platform == 'win32'" }]
"#;

    #[test]
    fn a_uv_lock_is_followed_from_the_project_under_the_markers_of_each_way() {
        let of = |extras: &[&str]| {
            let extras: Vec<String> = extras.iter().map(|extra| (*extra).to_owned()).collect();
            lines(&uv("uv.lock", UV_LOCK, &extras).unwrap())
        };
        let base = [
            "colour==0.4 ; (sys_platform == 'win32')",
            "shared==5 ; ((python_full_version < '3.10')) or ((python_full_version >= '3.10'))",
            "socks==1.7 ; (python_full_version >= '3.8')",
            "table==1.0 ; (python_full_version < '3.10')",
            "table==2.0 ; (python_full_version >= '3.10')",
            "web==3.1",
        ];
        assert_eq!(of(&[]), base);
        let ml = of(&["ml"]);
        assert!(ml.contains(&"number==2.4".to_owned()) && ml.contains(&"shared==5".to_owned()), "{ml:?}");
        assert!(of(&["dev"]).contains(&"test==9".to_owned()));
        let lock = uv("uv.lock", UV_LOCK, &[]).unwrap();
        let web = lock.pins.iter().find(|pin| pin.name == "web").unwrap();
        assert_eq!((web.hashes.len(), UV_LOCK.lines().nth(web.line as usize - 1)), (2, Some("name = \"web\"")));
        let second = lock.pins.iter().find(|pin| pin.version.as_deref() == Some("2.0")).unwrap();
        assert_eq!(UV_LOCK.lines().nth(second.line as usize), Some("version = \"2.0\""));
        let conflicting = UV_LOCK.replace("sys_platform == 'win32'", "extra == 'extra-4-demo-ml'");
        let refused = uv("uv.lock", &conflicting, &[]).unwrap_err();
        assert_eq!(refused.message, "\"colour\" depends on extras that conflict");
    }

    #[test]
    fn a_pylock_gives_its_packages_with_markers_and_hashes() {
        let text = format!(
            "lock-version = \"1.0\"\n[[packages]]\nname = \"A_b\"\nversion = \"1\"\nmarker = \"os_name == 'nt'\"\n\
             wheels = [{{ url = \"x\", hashes = {{ sha256 = \"{}\" }} }}]\n",
            &digest('a')[7..]
        );
        let lock = pylock("pylock.toml", &text).unwrap();
        assert_eq!((lines(&lock), lock.is_hashed()), (vec!["a-b==1 ; os_name == 'nt'".to_owned()], true));
        let extras = text.replace("os_name == 'nt'", "'ml' in extras");
        assert_eq!(pylock("pylock.toml", &extras).unwrap_err().line, Some(3));
        let code = text.replace("wheels = [", "vcs = {}\nx = [");
        assert_eq!(pylock("pylock.toml", &code).unwrap_err().message, "\"A_b\" has no version and digest");
        assert!(pylock("pylock.toml", "lock-version = \"2.0\"").is_err());
        assert_eq!(pylock("pylock.toml", "x = [").unwrap_err().line, Some(1));
    }
}
