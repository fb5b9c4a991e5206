//! On a shared server the processes of each project run as a user of its own, and what they use belongs to that user.
//!
//! The state folder can then be entered, but not listed, by everybody; what is in it stays its owner's but for the few
//! folders that processes of users need. Those that hold what belongs to one project are its user's, or have names that
//! cannot be guessed. Invariant: the server follows no name in a folder that a user may change.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::Result;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use nix::unistd::{Uid, User as Account};
use pinrail_model::names::ProjectName;
use serde::{Deserialize, Serialize};

/// Folders of the state folder that processes of users enter.
const ENTERED: &[&str] = &["bin", "bundles", "environments", "pycache", "scratch", "sdk"];

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: String,
}

/// Who runs the processes of which project.
#[derive(Debug, Clone, Default)]
pub struct Users(BTreeMap<ProjectName, User>);

/// Why a user cannot run the processes of a project.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    #[error("\"{0}\" does not say which project runs as which user")]
    NoPair(String),
    #[error("project \"{0}\" is to run as two users")]
    Twice(ProjectName),
    #[error("there is no user \"{0}\"")]
    Unknown(String),
    #[error("project \"{0}\" is to run as root")]
    Root(ProjectName),
    #[error("only root can run processes of other users")]
    NotRoot,
    #[error("user \"{user}\" cannot enter \"{folder}\", on the way to the state folder")]
    OutOfReach { user: String, folder: String },
}

impl UsersError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoPair(_) => "Write PROJECT=USER, such as --run-as sales=anna.",
            Self::Twice(_) => "Name each project once.",
            Self::Unknown(_) => "Make it with `useradd --create-home NAME`, or name another one, also by its number.",
            Self::Root(_) => "Name a user without rights of the server's.",
            Self::NotRoot => "Start the server as root, or without --run-as for yourself alone.",
            Self::OutOfReach { .. } => {
                "Name a folder that everybody may enter with --state, such as /var/lib/pinrail/state."
            }
        }
    }
}

impl Users {
    /// The users that pairs `PROJECT=USER` name, for a state folder that they must be able to enter.
    ///
    /// # Errors
    /// What is wrong with the first pair that cannot be.
    pub fn find(pairs: &[String], state: &Path) -> std::result::Result<Self, UsersError> {
        let mut users = BTreeMap::new();
        for pair in pairs {
            let no_pair = || UsersError::NoPair(pair.clone());
            let (project, name) = pair.split_once('=').ok_or_else(no_pair)?;
            let project: ProjectName = project.parse().map_err(|_| no_pair())?;
            let user = account(name).ok_or_else(|| UsersError::Unknown(name.to_owned()))?;
            if user.uid == 0 {
                return Err(UsersError::Root(project));
            }
            let closed = state.ancestors().skip(1).find(|folder| !may_enter(&user, folder));
            if let Some(folder) = closed {
                return Err(UsersError::OutOfReach { user: user.name, folder: folder.display().to_string() });
            }
            if users.insert(project.clone(), user).is_some() {
                return Err(UsersError::Twice(project));
            }
        }
        if !users.is_empty() && !Uid::effective().is_root() {
            return Err(UsersError::NotRoot);
        }
        Ok(Self(users))
    }

    /// Whether all processes are the server's own user's.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The numbers of the users by project.
    #[must_use]
    pub fn numbers(&self) -> BTreeMap<ProjectName, u32> {
        self.0.iter().map(|(project, user)| (project.clone(), user.uid)).collect()
    }

    /// Who runs processes of a project; none: the server's own user.
    pub(crate) fn of(&self, project: Option<&ProjectName>) -> std::result::Result<Option<&User>, String> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let project = project.ok_or("processes that belong to no project have no user here")?;
        let missing = || format!("project \"{project}\" has no user here; the server needs --run-as {project}=USER");
        self.0.get(project).map(Some).ok_or_else(missing)
    }

    /// Makes a state folder ready for processes of other users, and closes to them what is not theirs, also what this
    /// process makes from now on.
    ///
    /// # Errors
    /// When permissions cannot be changed.
    pub fn admit(state: &Path) -> Result<()> {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
        for name in ENTERED {
            fs::create_dir_all(state.join(name))?;
        }
        for entry in fs::read_dir(state)? {
            let entry = entry?;
            let entered = ENTERED.iter().any(|name| entry.file_name() == *name);
            match entry.file_type()? {
                kind if kind.is_symlink() => {}
                kind if kind.is_dir() && entered => mode(&entry.path(), 0o711)?,
                kind if kind.is_dir() => mode(&entry.path(), 0o700)?,
                _ => mode(&entry.path(), 0o600)?,
            }
        }
        // A copy of the database may lie there, left by a backup.
        for entry in fs::read_dir(state.join("scratch"))? {
            mode(&entry?.path(), 0o700)?;
        }
        open_up(&state.join("sdk"))?;
        mode(state, 0o711)
    }

    /// Gives a project's user the folders and the socket of an attempt, which lie in a folder of the server's. Folders
    /// below are given as well, files are not: they may be links to ones that others share. What was given once is left
    /// alone.
    pub(crate) fn give(&self, project: &ProjectName, places: &[&Path]) -> Result<()> {
        let Some(user) = self.of(Some(project)).map_err(std::io::Error::other)? else { return Ok(()) };
        for place in places {
            // The folder of the project, that of projects, and that of attempts.
            for folder in place.ancestors().skip(1).take(3) {
                mode(folder, 0o711)?;
            }
            give_tree(place, user)?;
            if place.is_dir() {
                mode(place, 0o700)?;
            }
        }
        Ok(())
    }
}

impl User {
    /// A folder of this user's alone in one of the server's, made if it is not there.
    pub(crate) fn own_folder(&self, folder: &Path) -> Result<std::path::PathBuf> {
        let own = folder.join(format!("user-{}", self.uid));
        match fs::create_dir(&own) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        mode(&own, 0o700)?;
        lchown(&own, Some(self.uid), Some(self.gid))?;
        Ok(own)
    }
}

fn account(name: &str) -> Option<User> {
    let found = match name.parse() {
        Ok(uid) => Account::from_uid(Uid::from_raw(uid)),
        Err(_) => Account::from_name(name),
    };
    let found = found.ok()??;
    let home = found.dir.display().to_string();
    Some(User { name: found.name, uid: found.uid.as_raw(), gid: found.gid.as_raw(), home })
}

/// By the permissions of its owner, its group or everybody. What cannot be looked at is not entered.
fn may_enter(user: &User, folder: &Path) -> bool {
    let Ok(metadata) = fs::metadata(folder) else { return false };
    let bit = match metadata {
        ref found if found.uid() == user.uid => 0o100,
        ref found if found.gid() == user.gid => 0o010,
        _ => 0o001,
    };
    metadata.mode() & bit != 0
}

fn mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Lets everybody read a folder of the server's.
fn open_up(folder: &Path) -> Result<()> {
    mode(folder, 0o755)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { open_up(&entry.path())? } else { mode(&entry.path(), 0o644)? }
    }
    Ok(())
}

/// The deepest first: once a folder is the user's, nothing below it is looked at any more.
fn give_tree(place: &Path, user: &User) -> Result<()> {
    let metadata = fs::symlink_metadata(place)?;
    if metadata.uid() == user.uid {
        return Ok(());
    }
    if metadata.is_dir() {
        for entry in fs::read_dir(place)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                give_tree(&entry.path(), user)?;
            }
        }
    }
    lchown(place, Some(user.uid), Some(user.gid))
}
