//! The user's own folders, for what belongs to no project.

use std::path::{Path, PathBuf};

use crate::failure::{FAILED, Failure};

/// Where settings lie.
pub fn config() -> Result<PathBuf, Failure> {
    folder("XDG_CONFIG_HOME", ".config")
}

/// Where files lie that can be made again.
pub fn cache() -> Result<PathBuf, Failure> {
    folder("XDG_CACHE_HOME", ".cache")
}

/// Where programs that stay keep what they need between two starts.
pub fn state() -> Result<PathBuf, Failure> {
    folder("XDG_STATE_HOME", ".local/state")
}

fn folder(variable: &str, below_home: &str) -> Result<PathBuf, Failure> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute(variable).or_else(|| Some(absolute("HOME")?.join(below_home)));
    let base = base.ok_or_else(|| {
        Failure::new(FAILED, format!("neither {variable} nor HOME names a folder"))
            .hint(format!("Set {variable} to an absolute path."))
    })?;
    Ok(base.join("pinrail"))
}

/// Makes a folder that only its owner can look into.
///
/// # Errors
/// When it cannot be made.
pub fn make_private(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(folder)?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
}
