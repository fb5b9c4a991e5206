//! What keeps user processes from reading the state folder: rulesets of Landlock, a part of the Linux kernel.
//!
//! A ruleset can only allow. So what surrounds the state folder is allowed piece by piece: in each folder on the way
//! from the root to it all that is there at the moment but the next folder on the way; in the state folder itself what
//! the process is to use. What appears later directly in one of these few folders cannot be read by processes that were
//! started before.
//!
//! Only reading is ruled, and moving from one folder to another, by which what is hidden could come to be read. Writing
//! is not: allowed in none of the folders on the way, it would be missed there every day (a report beside
//! `pinrail.toml`). Jobs of a single user are trusted as the user, who has many other ways to do harm; a shared server
//! has owners of files.
//!
//! The server makes a ruleset and hands it over as a descriptor; a process takes it upon itself as the last thing
//! before its program begins. Whoever has taken one can neither look into processes that have not (their memory,
//! environment and open files), nor send them signals.
//!
//! The two largest costs of a ruleset are one system call to find and one to allow each thing beside the way.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirEntryExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::local::{ATTEMPT_VARIABLE, INSTALLATION_VARIABLE};

const READ_FILE: u64 = 1 << 2;
/// Moving and linking from one folder to another, which is refused wherever it is not allowed.
const REFER: u64 = 1 << 13;
/// Whoever has taken a ruleset with this upon itself signals only processes that have taken it as well.
const SCOPE_SIGNAL: u64 = 1 << 1;

/// The oldest version of the kernel's interface that is of use: before it nothing could be moved between folders at
/// all.
const OLDEST: u32 = 2;
const SCOPES_SINCE: u32 = 6;

/// What is hidden from user processes, and what all of them may use of it all the same.
#[derive(Debug)]
pub struct Hidden {
    /// The state folder, without links in its path.
    folder: PathBuf,
    /// By which it is known again.
    identity: (u64, u64),
    /// Folders in it that all may read, held from the beginning on: a name could come to mean something else.
    shared: Vec<File>,
}

/// A ruleset to be taken upon itself by a process.
#[derive(Debug)]
pub(crate) struct Ruleset {
    fd: OwnedFd,
    around: Around,
}

/// What lies beside the way to what is hidden: each thing's path, and the number of the file that it names.
#[derive(Debug)]
pub(crate) struct Around(HashSet<(PathBuf, u64)>);

impl Ruleset {
    /// Whether a process with this ruleset reaches all that is there now.
    pub fn covers(&self, now: &Around) -> bool {
        now.0.is_subset(&self.around.0)
    }

    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl AsRawFd for Ruleset {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Hidden {
    /// Hides a folder; those in it that all processes may read are made if they are not there.
    ///
    /// # Errors
    /// When one of them cannot be made or looked at.
    pub fn new(folder: &Path, shared: &[&str]) -> Result<Self> {
        let folder = folder.canonicalize()?;
        let open = |name: &&str| {
            let path = folder.join(name);
            std::fs::create_dir_all(&path)?;
            open_path(&path)
        };
        let shared = shared.iter().map(open).collect::<Result<_>>()?;
        Ok(Self { identity: identity(&folder)?, folder, shared })
    }

    /// A ruleset for a process that is to use some folders of what is hidden; none where the kernel has none.
    ///
    /// # Errors
    /// When the kernel refuses to make one, a folder on the way cannot be listed, or the state folder is no longer
    /// there.
    pub(crate) fn ruleset(&self, uses: &[PathBuf]) -> Result<Option<Ruleset>> {
        let Some(version) = version() else { return Ok(None) };
        let fd = create(READ_FILE | REFER, if version < SCOPES_SINCE { 0 } else { SCOPE_SIGNAL })?;
        if identity(&self.folder)? != self.identity {
            return Err(Error::other(format!("\"{}\" is another folder than it was", self.folder.display())));
        }
        let around = self.around()?;
        for (path, _) in &around.0 {
            // What vanishes meanwhile needs no rule.
            let Ok(place) = open_path(path) else { continue };
            let folder = place.metadata().is_ok_and(|found| found.is_dir());
            allow(&fd, &place, if folder { READ_FILE | REFER } else { READ_FILE })?;
        }
        for place in &self.shared {
            allow(&fd, place, READ_FILE | REFER)?;
        }
        for path in uses.iter().filter(|path| path.starts_with(&self.folder)) {
            allow(&fd, &open_path(path)?, READ_FILE | REFER)?;
        }
        Ok(Some(Ruleset { fd, around }))
    }

    /// The folder by all its paths: what it lies in may be mounted more than once.
    fn everywhere(&self) -> Vec<PathBuf> {
        let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
        let mounts: Vec<Mount> = text.split(|byte| *byte == b'\n').filter_map(Mount::parse).collect();
        let mut places = vec![self.folder.clone()];
        // The last one of the longest path is what is seen there.
        let own = mounts.iter().filter(|mount| self.folder.starts_with(&mount.place));
        if let Some(own) = own.max_by_key(|mount| mount.place.as_os_str().len())
            && let Ok(below) = self.folder.strip_prefix(&own.place)
        {
            let within = own.root.join(below);
            let others = mounts.iter().filter(|mount| mount.device == own.device);
            let paths = others.filter_map(|mount| Some(mount.place.join(within.strip_prefix(&mount.root).ok()?)));
            places.extend(paths.filter(|path| identity(path).is_ok_and(|found| found == self.identity)));
        }
        places
    }

    /// What lies beside the way to the folder at the moment.
    ///
    /// # Errors
    /// When a folder on the way cannot be listed.
    pub(crate) fn around(&self) -> Result<Around> {
        let hidden = self.everywhere();
        let way: HashSet<&Path> = hidden.iter().flat_map(|place| place.ancestors()).collect();
        let mut around = HashSet::new();
        for folder in way.iter().filter(|folder| !hidden.iter().any(|place| folder.starts_with(place))) {
            let entries = match folder.read_dir() {
                // What may not be listed cannot be allowed piece by piece.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let path = entry.path();
                // What a link leads to has a place of its own.
                if !way.contains(path.as_path()) && entry.file_type().is_ok_and(|kind| !kind.is_symlink()) {
                    around.insert((path, entry.ino()));
                }
            }
        }
        Ok(Around(around))
    }
}

/// A part of a file system, and where it is seen.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    device: Vec<u8>,
    /// Its path in the file system.
    root: PathBuf,
    place: PathBuf,
}

impl Mount {
    /// From a line of `/proc/self/mountinfo`.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ').skip(2);
        let (device, root, place) = (fields.next()?.to_owned(), fields.next()?, fields.next()?);
        Some(Self { device, root: unescaped(root), place: unescaped(place) })
    }
}

/// White space and backslashes stand there as three octal digits.
fn unescaped(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.first_chunk::<3>().filter(|_| *first == b'\\');
        let code = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// By what a folder is known whatever it is called.
fn identity(folder: &Path) -> Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(folder)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// The version of the kernel's interface, if it is of use here.
#[must_use]
#[allow(unsafe_code, reason = "system calls that no library here wraps")]
pub fn version() -> Option<u32> {
    const ASK_VERSION: u32 = 1;
    // SAFETY: asked for its version, the call takes no structure.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, ASK_VERSION) };
    u32::try_from(version).ok().filter(|version| *version >= OLDEST)
}

#[repr(C)]
struct RulesetAttributes {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

#[allow(unsafe_code, reason = "system calls that no library here wraps")]
fn create(handled: u64, scoped: u64) -> Result<OwnedFd> {
    let attributes = RulesetAttributes { handled_access_fs: handled, handled_access_net: 0, scoped };
    let size = size_of::<RulesetAttributes>();
    // SAFETY: the structure is of the size that is told; a kernel that knows less of it wants zeros beyond.
    let fd = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attributes, size, 0_u32) };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just made this descriptor for this process alone.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(Error::last_os_error()),
    }
}

/// Allows something for all that is at or below a place.
#[allow(unsafe_code, reason = "system calls that no library here wraps")]
fn allow(ruleset: &OwnedFd, place: &File, access: u64) -> Result<()> {
    const PATH_BENEATH: u32 = 1;
    let rule = PathBeneath { allowed_access: access, parent_fd: place.as_raw_fd() };
    // SAFETY: the structure is what this kind of rule takes.
    let done = unsafe {
        libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), PATH_BENEATH, &raw const rule, 0_u32)
    };
    match Error::last_os_error() {
        _ if done == 0 => Ok(()),
        error => Err(error),
    }
}

fn open_path(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path)
}

/// Takes a ruleset upon this thread, for good. May be called between fork and exec.
#[allow(unsafe_code, reason = "system calls that no library here wraps")]
pub(crate) fn take(ruleset: RawFd) -> Result<()> {
    // SAFETY: a plain system call on a descriptor.
    match unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0_u32) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

/// Closes the memory and open files of this process to other processes of its user, root's apart.
pub(crate) fn close_to_others() {
    // Where the kernel refuses, the ruleset of user processes does the same.
    let _ = nix::sys::prctl::set_dumpable(false);
}

/// Closes the server's process to others as far as the kernel lets it, and moves its environment to where it is not
/// shown: root may read what others had in their environment when they began, whatever else is forbidden to it. What
/// tells of an attempt that this process belongs to stays to be seen. To be called while there is one thread.
#[allow(unsafe_code, reason = "the environment is memory that only its owner can move")]
pub fn close_server() {
    unsafe extern "C" {
        static mut environ: *mut *mut libc::c_char;
    }
    close_to_others();
    let shown = [ATTEMPT_VARIABLE, INSTALLATION_VARIABLE].map(|name| format!("{name}="));
    let mut moved = Vec::new();
    // SAFETY: nobody else reads or changes the environment now. Its end is a null pointer; its variables are texts that
    // end in NUL, in memory that the kernel gave to this process. The copies live as long as it.
    unsafe {
        let mut at = environ;
        while !at.is_null() && !(*at).is_null() {
            let text = std::ffi::CStr::from_ptr(*at);
            moved.push(text.to_owned().into_raw());
            if !shown.iter().any(|name| text.to_bytes().starts_with(name.as_bytes())) {
                let length = text.count_bytes();
                std::ptr::write_bytes(*at, 0, length);
            }
            at = at.add(1);
        }
        moved.push(std::ptr::null_mut());
        environ = moved.leak().as_mut_ptr();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_of_mounts_is_read_with_its_blanks() {
        let line = br"36 35 98:0 /a\040b /mnt/c\134d rw,noatime master:1 - ext4 /dev/root rw";
        let mount = Mount { device: b"98:0".to_vec(), root: "/a b".into(), place: r"/mnt/c\d".into() };
        assert_eq!((Mount::parse(line), Mount::parse(b"36 35")), (Some(mount), None));
    }
}
