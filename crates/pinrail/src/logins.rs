//! The tokens that the user has stored, by server: one file that only its owner can read.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use ureq::http::Uri;

use crate::failure::{FAILED, Failure, REFUSED, USAGE};
use crate::user;

/// The form of the file that this version writes.
const FORMAT: u32 = 1;

/// Stored tokens.
#[derive(Debug, Serialize, Deserialize)]
pub struct Logins {
    format: u32,
    tokens: BTreeMap<String, String>,
}

/// Where they are stored.
pub fn file() -> Result<PathBuf, Failure> {
    Ok(user::config()?.join("tokens.json"))
}

impl Logins {
    /// What is stored; nothing when there is no file.
    ///
    /// # Errors
    /// When the file cannot be read, others can read it too, or a later version wrote it.
    pub fn read() -> Result<Self, Failure> {
        let file = file()?;
        let shown = file.display();
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self { format: FORMAT, tokens: BTreeMap::new() });
            }
            Err(error) => return Err(Failure::new(FAILED, format!("\"{shown}\" cannot be read: {error}"))),
        };
        if std::fs::metadata(&file)?.permissions().mode() & 0o077 != 0 {
            return Err(Failure::new(REFUSED, format!("others can read the tokens in \"{shown}\""))
                .hint(format!("Run `chmod 600 {shown}`, and revoke the tokens if somebody may have seen them.")));
        }
        match serde_json::from_str(&text) {
            Ok(Self { format, .. }) if format > FORMAT => {
                Err(Failure::new(REFUSED, format!("\"{shown}\" was written by a newer version of pinrail")))
            }
            Ok(logins) => Ok(logins),
            Err(error) => Err(Failure::new(FAILED, format!("\"{shown}\" is not a file of tokens: {error}"))
                .hint("Remove it and log in again.")),
        }
    }

    /// The token for a server.
    pub fn token(&self, server: &str) -> Option<&str> {
        self.tokens.get(server).map(String::as_str)
    }

    /// The servers for which there is a token.
    pub fn servers(&self) -> impl Iterator<Item = &str> {
        self.tokens.keys().map(String::as_str)
    }

    /// Stores a token, durably.
    ///
    /// # Errors
    /// When the file cannot be written; then the former one stands.
    pub fn store(&mut self, server: &str, token: &str) -> Result<(), Failure> {
        self.tokens.insert(server.to_owned(), token.to_owned());
        self.write()
    }

    /// Forgets a token; says whether there was one.
    ///
    /// # Errors
    /// When the file cannot be written; then the former one stands.
    pub fn forget(&mut self, server: &str) -> Result<bool, Failure> {
        let known = self.tokens.remove(server).is_some();
        if known {
            self.write()?;
        }
        Ok(known)
    }

    fn write(&self) -> Result<(), Failure> {
        let file = file()?;
        let folder = user::config()?;
        let temporary = folder.join(format!("tokens.json.{}", std::process::id()));
        let written = user::make_private(&folder).and_then(|()| {
            let mut out =
                std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
            out.write_all(serde_json::to_string_pretty(self).unwrap_or_default().as_bytes())?;
            out.sync_all()?;
            std::fs::rename(&temporary, &file)
        });
        written.map_err(|e| Failure::new(FAILED, format!("\"{}\" cannot be written: {e}", file.display())))
    }
}

/// A server's URL in the one form in which it is compared and stored.
///
/// # Errors
/// When it is no URL of a server.
pub fn server(text: &str) -> Result<String, Failure> {
    let wrong = |why: &str| {
        let shown: String = text.chars().take(200).collect();
        Failure::new(USAGE, format!("\"{shown}\" is not the URL of a server: {why}"))
            .hint("Write it like http://127.0.0.1:7070 or https://pinrail.example.org.")
    };
    let uri: Uri = text.trim().parse().map_err(|_| wrong("it cannot be read"))?;
    let scheme = uri.scheme_str().filter(|scheme| ["http", "https"].contains(scheme));
    let scheme = scheme.ok_or_else(|| wrong("it begins neither with http:// nor with https://"))?;
    let authority = uri.authority().filter(|authority| !authority.host().is_empty());
    let authority = authority.ok_or_else(|| wrong("it names no host"))?;
    if authority.as_str().contains('@') {
        return Err(wrong("a token does not belong into it"));
    }
    if uri.query().is_some() {
        return Err(wrong("it has a question mark"));
    }
    Ok(format!("{scheme}://{}{}", authority.as_str().to_ascii_lowercase(), uri.path().trim_end_matches('/')))
}

/// Whether what is sent to a server can be read on its way.
pub fn is_open(server: &str) -> bool {
    let Some(rest) = server.strip_prefix("http://") else { return false };
    let host = rest.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host != "localhost" && !address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_one_spelling() {
        assert_eq!(server(" HTTP://LocalHost:7070/ ").unwrap(), "http://localhost:7070");
        assert_eq!(server("https://x.example.org/pinrail/").unwrap(), "https://x.example.org/pinrail");
        for text in ["", "localhost:7070", "ftp://x", "http://", "http://a:b@x", "http://x/?token=1", "a b"] {
            assert_eq!(server(text).unwrap_err().code, USAGE, "{text}");
        }
    }

    #[test]
    fn only_loopback_is_closed_without_encryption() {
        for (text, open) in [
            ("http://127.0.0.1:7070", false),
            ("http://[::1]:7070", false),
            ("http://localhost", false),
            ("https://x.example.org", false),
            ("http://x.example.org", true),
            ("http://10.0.0.1:7070", true),
        ] {
            assert_eq!(is_open(text), open, "{text}");
        }
    }
}
