//! Seals the values of secrets, so that the database alone gives none of them away.
//!
//! Each value is sealed with XChaCha20-Poly1305 under the key of the state folder; the project's and the secret's name
//! are bound into the seal, so a row that is moved to another name does not open.
//!
//! Invariants: the key's file is whole, synced and readable by its owner alone before anything is sealed under it; a key
//! that exists is never replaced.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use pinrail_model::names::{ProjectName, SecretName};
use pinrail_model::seam::store::SecretRow;
use pinrail_model::step;

use crate::app::write_private;
use crate::system::random;

/// The key's file in the state folder.
pub const KEY_FILE: &str = "secrets.key";
/// Says how a sealed value is laid out, so that a later layout can be told from this one.
const LAYOUT: u8 = 1;
const NONCE: usize = 24;
const KEY: usize = 32;

/// Why a value cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("the key \"{path}\" cannot be read or made")]
    Key { path: String, source: std::io::Error },
    #[error("the key \"{path}\" is damaged: it has {size} bytes instead of {KEY}")]
    Damaged { path: String, size: usize },
    #[error("secret \"{name}\" was sealed with a key that this state folder does not have")]
    Foreign { name: SecretName },
    #[error("the value of secret \"{name}\" is too long to be sealed")]
    TooLong { name: SecretName },
}

/// The key of one state folder.
#[derive(Debug)]
pub struct Vault {
    file: PathBuf,
    key: Mutex<Option<[u8; KEY]>>,
}

impl Vault {
    #[must_use]
    pub fn new(state: &Path) -> Self {
        Self { file: state.join(KEY_FILE), key: Mutex::default() }
    }

    /// Seals a value for a secret of a project; makes the key if there is none yet. Waits for the disk.
    ///
    /// # Errors
    /// When the key cannot be read or made.
    pub fn seal(&self, project: &ProjectName, name: &SecretName, value: &str) -> Result<Vec<u8>, VaultError> {
        let key = self.key(true)?.ok_or_else(|| self.failed(ErrorKind::NotFound.into()))?;
        let nonce: [u8; NONCE] = random();
        let bound = bound(project, name);
        let payload = Payload { msg: value.as_bytes(), aad: &bound };
        let sealed = XChaCha20Poly1305::new(&key.into()).encrypt(&XNonce::from(nonce), payload);
        let sealed = sealed.map_err(|_| VaultError::TooLong { name: name.clone() })?;
        Ok([&[LAYOUT], nonce.as_slice(), &sealed].concat())
    }

    /// The value of a sealed row.
    ///
    /// # Errors
    /// [`VaultError::Foreign`] when the row was sealed under another key or another name, or was changed since.
    pub fn open(&self, row: &SecretRow) -> Result<String, VaultError> {
        let foreign = || VaultError::Foreign { name: row.name.clone() };
        let key = self.key(false)?.ok_or_else(foreign)?;
        let rest = row.sealed.strip_prefix(&[LAYOUT]).ok_or_else(foreign)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE>().ok_or_else(foreign)?;
        let bound = bound(&row.project, &row.name);
        let payload = Payload { msg: sealed, aad: &bound };
        let opened = XChaCha20Poly1305::new(&key.into()).decrypt(&XNonce::from(*nonce), payload);
        String::from_utf8(opened.map_err(|_| foreign())?).map_err(|_| foreign())
    }

    /// The key, read once; made when it is wanted for sealing and there is none.
    fn key(&self, make: bool) -> Result<Option<[u8; KEY]>, VaultError> {
        let mut known = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() {
            *known = match std::fs::read(&self.file) {
                Ok(bytes) => Some(self.whole(&bytes)?),
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(self.failed(error)),
                Err(_) if make => Some(self.make_key().map_err(|source| self.failed(source))?),
                Err(_) => None,
            };
        }
        Ok(*known)
    }

    fn whole(&self, bytes: &[u8]) -> Result<[u8; KEY], VaultError> {
        let path = self.file.display().to_string();
        bytes.try_into().map_err(|_| VaultError::Damaged { path, size: bytes.len() })
    }

    fn failed(&self, source: std::io::Error) -> VaultError {
        VaultError::Key { path: self.file.display().to_string(), source }
    }

    /// Makes the key's file durably. Nobody else does so meanwhile: a state folder has one server, and this one holds
    /// the lock.
    fn make_key(&self) -> std::io::Result<[u8; KEY]> {
        let key: [u8; KEY] = random();
        write_private(&self.file, &key)?;
        File::open(self.file.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        step!("secret.after-key");
        Ok(key)
    }
}

/// What a seal is bound to. Names hold no NUL, so two pairs never look alike.
fn bound(project: &ProjectName, name: &SecretName) -> Vec<u8> {
    [project.as_str(), "\0", name.as_str()].concat().into_bytes()
}

#[cfg(test)]
mod tests {
    use pinrail_model::time::Micros;

    use super::*;

    fn row(project: &str, name: &str, sealed: Vec<u8>) -> SecretRow {
        let (project, name) = (project.parse().expect("a name"), name.parse().expect("a name"));
        SecretRow { project, name, sealed, set_at: Micros(0), set_by: "anna".to_owned() }
    }

    fn seal(vault: &Vault, value: &str) -> Vec<u8> {
        vault.seal(&"p".parse().expect("a name"), &"ftp".parse().expect("a name"), value).expect("sealed")
    }

    #[test]
    fn a_value_opens_under_its_own_name_and_key_only() {
        let (folder, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let vault = Vault::new(folder.path());
        let sealed = seal(&vault, "pass word é");
        assert!(!sealed.windows(4).any(|part| part == b"pass"));
        assert_ne!(sealed, seal(&vault, "pass word é"), "equal values cannot be seen to be equal");
        // Another server of the same folder.
        let again = Vault::new(folder.path());
        assert_eq!(again.open(&row("p", "ftp", sealed.clone())).expect("opened"), "pass word é");
        for moved in [row("q", "ftp", sealed.clone()), row("p", "ftp2", sealed.clone()), row("p", "ftp", vec![1; 60])] {
            assert!(matches!(again.open(&moved), Err(VaultError::Foreign { .. })));
        }
        let elsewhere = Vault::new(other.path());
        assert!(matches!(elsewhere.open(&row("p", "ftp", sealed.clone())), Err(VaultError::Foreign { .. })));
        seal(&elsewhere, "x");
        assert!(matches!(elsewhere.open(&row("p", "ftp", sealed)), Err(VaultError::Foreign { .. })));
    }

    #[test]
    fn the_key_is_for_its_owner_alone_and_a_damaged_one_is_not_replaced() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        seal(&Vault::new(folder.path()), "pass");
        let file = folder.path().join(KEY_FILE);
        assert_eq!(std::fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1);
        std::fs::write(&file, "short").expect("written");
        let vault = Vault::new(folder.path());
        let (project, name) = ("p".parse().expect("a name"), "ftp".parse().expect("a name"));
        assert!(matches!(vault.seal(&project, &name, "pass"), Err(VaultError::Damaged { size: 5, .. })));
    }
}
