//! Commands for use inside an attempt. They speak for it over the socket that its processes inherit by name, with the
//! requests of the runner protocol (docs/runner-protocol.md).

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use pinrail_exec::commands::SOCKET_VARIABLE;
use serde_json::{Value, json};

use crate::failure::{Failure, REFUSED, UNREACHABLE, USAGE};
use crate::output::Output;

pub fn output(output: Output, name: &str, value: &str, text: bool) -> Result<ExitCode, Failure> {
    let value = match serde_json::from_str::<Value>(value) {
        Ok(json) if !text => json,
        _ => Value::from(value),
    };
    Attempt::find("output")?.ask(json!({"request": "output", "name": name, "value": value}))?;
    output.document(&json!({"name": name, "value": value}));
    Ok(ExitCode::SUCCESS)
}

pub fn secret(output: Output, name: &str) -> Result<ExitCode, Failure> {
    let reply = Attempt::find("secret read")?.ask(json!({"request": "secret", "name": name}))?;
    if !output.json {
        // Exactly the value: a shell takes line ends off by itself, a pipe wants none added.
        let mut out = std::io::stdout();
        out.write_all(reply["value"].as_str().unwrap_or_default().as_bytes())?;
        out.flush()?;
    }
    output.document(&json!({"name": name, "value": reply["value"]}));
    Ok(ExitCode::SUCCESS)
}

pub fn save(output: Output, file: &Path, name: Option<&str>) -> Result<ExitCode, Failure> {
    let attempt = Attempt::find("save")?;
    let refused = |message: String| Failure::new(REFUSED, message);
    let own = file.file_name().and_then(std::ffi::OsStr::to_str);
    let name = name.or(own).ok_or_else(|| {
        refused(format!("\"{}\" has no name to save it under", file.display())).hint("Give one with --name.")
    })?;
    if !file.is_file() {
        return Err(refused(format!("\"{}\" is not a file", file.display())));
    }
    // The server takes files out of the scratch folder only, whatever else the job can read.
    let copy = Copied(attempt.scratch().join(format!(".save-{}", std::process::id())));
    std::fs::copy(file, &copy.0)
        .map_err(|e| refused(format!("\"{}\" cannot be copied into the scratch folder: {e}", file.display())))?;
    let reply = attempt.ask(json!({"request": "save", "name": name, "path": copy.0}))?;
    output.document(&json!({"name": name, "url": reply["url"]}));
    Ok(ExitCode::SUCCESS)
}

/// A copy that goes when it is no longer needed.
struct Copied(PathBuf);

impl Drop for Copied {
    fn drop(&mut self) {
        // With the scratch folder it goes anyway.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The attempt that this process belongs to.
struct Attempt {
    socket: PathBuf,
}

impl Attempt {
    fn find(command: &str) -> Result<Self, Failure> {
        let socket = std::env::var_os(SOCKET_VARIABLE).map(PathBuf::from).ok_or_else(|| {
            Failure::new(USAGE, format!("`pinrail {command}` works inside an attempt only"))
                .hint("Use it in a command that a job runs.")
        })?;
        Ok(Self { socket })
    }

    /// The socket lies beside the scratch folder and is named like it.
    fn scratch(&self) -> PathBuf {
        self.socket.with_extension("")
    }

    fn ask(&self, mut request: Value) -> Result<Value, Failure> {
        request["id"] = json!(1);
        let answer = self.exchange(&request).map_err(|e| {
            Failure::new(UNREACHABLE, format!("the server of this attempt cannot be reached: {e}"))
                .hint("Was it stopped, or has the attempt ended?")
        })?;
        match answer.get("error") {
            None => Ok(answer["reply"].clone()),
            Some(error) => {
                let message = error["message"].as_str().unwrap_or("the server refused");
                Err(Failure { hint: error["hint"].as_str().map(str::to_owned), ..Failure::new(REFUSED, message) })
            }
        }
    }

    fn exchange(&self, request: &Value) -> std::io::Result<Value> {
        // The name of a socket is shorter than many paths, so it is reached by way of its folder's descriptor.
        // Which the user of a shared server's project may enter, but not list.
        let parent = self.socket.parent().unwrap_or(Path::new("/"));
        let folder = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(parent)?;
        let name = self.socket.file_name().unwrap_or_default();
        let near = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        let mut stream = UnixStream::connect(near)?;
        stream.write_all(format!("{request}\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        serde_json::from_str(&line).map_err(|_| std::io::ErrorKind::UnexpectedEof.into())
    }
}
