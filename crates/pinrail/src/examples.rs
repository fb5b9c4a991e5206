//! The example projects that the binary carries: the repository's `examples/`, without data and what runs leave behind.

use std::collections::BTreeSet;
use std::path::Path;

use rust_embed::Embed;

#[derive(Embed)]
#[folder = "../../examples"]
#[exclude = "*/.pinrail/*"]
#[exclude = "*/__pycache__/*"]
#[exclude = "*/.pytest_cache/*"]
#[exclude = "*/data/*.csv"]
#[exclude = "*/data/*.zip"]
struct Examples;

/// The names of the examples.
pub fn names() -> BTreeSet<String> {
    Examples::iter().filter_map(|path| Some(path.split_once('/')?.0.to_owned())).collect()
}

/// The files of an example with their contents, by path.
pub fn files(name: &str) -> Vec<(String, Vec<u8>)> {
    let inside = |path: &str| path.strip_prefix(name).and_then(|rest| rest.strip_prefix('/')).map(str::to_owned);
    let mut files: Vec<_> =
        Examples::iter().filter_map(|path| Some((inside(&path)?, Examples::get(&path)?.data.into_owned()))).collect();
    files.sort();
    files
}

/// Writes files below a folder.
///
/// # Errors
/// The first one that cannot be written.
pub fn write(files: &[(String, Vec<u8>)], folder: &Path) -> std::io::Result<()> {
    for (path, bytes) in files {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, bytes)?;
    }
    Ok(())
}
