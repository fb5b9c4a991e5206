//! The Python SDK that the binary carries, unpacked where interpreters can find it.

use std::path::{Path, PathBuf};

use pinrail_model::document::Sha;
use rust_embed::Embed;

#[derive(Embed)]
#[folder = "../../python/src"]
#[include = "pinrail/*.py"]
#[include = "pinrail/py.typed"]
struct Sdk;

/// Unpacks the SDK below a state folder, once per version of it; gives the folder for `PYTHONPATH`.
pub fn unpack(state: &Path) -> std::io::Result<PathBuf> {
    let mut names: Vec<_> = Sdk::iter().collect();
    names.sort();
    let files: Vec<(String, Vec<u8>)> =
        names.into_iter().filter_map(|name| Some((name.to_string(), Sdk::get(&name)?.data.into_owned()))).collect();
    let all: Vec<u8> = files.iter().flat_map(|(name, bytes)| [name.as_bytes(), bytes].concat()).collect();
    let folder = state.join("sdk").join(Sha::of(&all).short());
    if folder.is_dir() {
        return Ok(folder);
    }
    // Of this process alone: others may unpack the same at the same time.
    let temporary = folder.with_extension(std::process::id().to_string());
    let _ = std::fs::remove_dir_all(&temporary);
    for (name, bytes) in files {
        let path = temporary.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, bytes)?;
    }
    match std::fs::rename(&temporary, &folder) {
        Err(_) if folder.is_dir() => std::fs::remove_dir_all(&temporary)?,
        renamed => renamed?,
    }
    Ok(folder)
}
