//! Running other programs, with their names and times on standard output.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// The repository.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Cargo, in the repository. What `cargo xtask` itself was given is not for it.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG") || name == "CARGO_MANIFEST_DIR")
    {
        command.env_remove(name);
    }
    command
}

/// Something that is done and told of.
pub struct Step {
    name: String,
}

impl Step {
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// Runs a program to its end.
    #[allow(clippy::disallowed_methods, reason = "how long a step takes is told, not decided upon")]
    pub fn run(&self, mut command: Command) -> Result<()> {
        let start = Instant::now();
        println!("xtask: {}", self.name);
        let status = command.status().with_context(|| format!("{} cannot be run", self.name))?;
        if !status.success() {
            bail!("{} failed: {command:?} ended with {status}", self.name);
        }
        println!("xtask: {} took {:.0} s", self.name, start.elapsed().as_secs_f64());
        Ok(())
    }
}
