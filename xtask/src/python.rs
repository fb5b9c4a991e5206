//! The Python side: a virtual environment for tests, the SDK's tests, the strict type check.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::run::{Step, root};

/// What the tests need of the package index, pinned. `basedpyright` carries its own runtime.
const PACKAGES: &[&str] = &["pytest==9.2.0", "basedpyright==1.40.2", "pyiceberg[pyarrow]==0.12.0", "uv==0.13.9"];

/// The virtual environment of the tests.
pub fn venv() -> Result<PathBuf> {
    venv_of("target/test-venv", PACKAGES)
}

/// A virtual environment below the repository, made when it is missing or made for other packages.
pub fn venv_of(folder: &str, packages: &[&str]) -> Result<PathBuf> {
    let venv = root().join(folder);
    let stamp = venv.join("packages");
    let wanted = packages.join("\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(venv);
    }
    println!("xtask: installing into {folder}: {}", packages.join(", "));
    let mut make = Command::new("python3");
    make.args(["-m", "venv", "--clear"]).arg(&venv);
    Step::new("virtual environment").run(make)?;
    let mut install = Command::new(venv.join("bin/python"));
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(packages);
    Step::new("packages").run(install)?;
    std::fs::write(stamp, wanted)?;
    Ok(venv)
}

/// The binary of a build in this repository.
pub fn binary() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join("debug/pinrail")
}

/// The tests of the SDK and of the examples, on the binary of the last build, and the strict type check of both.
pub fn test(venv: &Path) -> Result<()> {
    let folder = root().join("python");
    let mut pytest = Command::new(venv.join("bin/python"));
    pytest.args(["-m", "pytest", "-q", "tests"]).current_dir(&folder).env("PINRAIL_BIN", binary());
    Step::new("Python tests").run(pytest)?;
    // An example is run with its own tests, as its users run them.
    let mut example = Command::new(venv.join("bin/python"));
    example.args(["-m", "pytest", "-q", "tests"]).current_dir(root().join("examples/flights"));
    example.env("PINRAIL_BIN", binary()).env("PYTHONPATH", folder.join("src"));
    Step::new("tests of the example flights").run(example)?;
    let mut types = Command::new(venv.join("bin/basedpyright"));
    types.current_dir(&folder);
    Step::new("Python types").run(types)
}
