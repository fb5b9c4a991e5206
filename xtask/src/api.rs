//! The job service as any program meets it: HTTP over a socket, JSON, server-sent events.
//!
//! Requests are HTTP/1.0, so that an answer simply ends where the connection does.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// How long a server may be silent. It is the patience of a person at a slow machine.
const PATIENCE: Duration = Duration::from_secs(300);

type Reader = BufReader<TcpStream>;

/// A server and a token for it.
pub struct Api {
    address: String,
    token: String,
}

/// Something that happened in a run.
pub struct Event {
    pub id: u64,
    pub kind: String,
    pub job: String,
    pub data: Value,
}

impl Api {
    /// A server by its URL, such as `http://127.0.0.1:7070`.
    pub fn new(url: &str, token: &str) -> Self {
        Self { address: url.trim_start_matches("http://").to_owned(), token: token.trim().to_owned() }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn get(&self, path: &str) -> Result<Value> {
        json(self.read(path, &[])?)
    }

    /// The bytes at a path.
    pub fn bytes(&self, path: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read(path, &[])?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Posts with an idempotency key: the same request with the same key does nothing and is answered as the first was.
    pub fn post(&self, path: &str, key: &str, body: &Value) -> Result<Value> {
        let (status, reader) = self.send("POST", path, &[("idempotency-key", key)], Some(body))?;
        json(good("POST", path, status, reader)?)
    }

    /// Follows a run after one of its events, until it has ended or the visitor has seen enough.
    ///
    /// # Errors
    /// When the server ends before the run does, and what the visitor says.
    pub fn follow(&self, run: &str, after: u64, mut visit: impl FnMut(&Event) -> Result<bool>) -> Result<()> {
        let reader = self.read(&format!("/runs/{run}/events"), &[("last-event-id", &after.to_string())])?;
        let (mut id, mut kind, mut ended) = (after, String::new(), false);
        for line in reader.lines() {
            let line = line.context("the server went away")?;
            if let Some(text) = line.strip_prefix("id: ") {
                id = text.parse().context("an event without a number")?;
            } else if let Some(text) = line.strip_prefix("event: ") {
                text.clone_into(&mut kind);
            } else if let Some(text) = line.strip_prefix("data: ") {
                let body: Value = serde_json::from_str(text)?;
                let job = body["job"].as_str().unwrap_or_default().to_owned();
                let event = Event { id, kind: std::mem::take(&mut kind), job, data: body["data"].clone() };
                // A run that was retried has ended before, and goes on.
                ended = event.kind == "run-ended";
                if !visit(&event)? {
                    return Ok(());
                }
            }
        }
        ensure!(ended, "the events of run {run} stop before its end");
        Ok(())
    }

    fn read(&self, path: &str, headers: &[(&str, &str)]) -> Result<Reader> {
        let (status, reader) = self.send("GET", path, headers, None)?;
        good("GET", path, status, reader)
    }

    /// Sends a request and reads the head of the answer: its status, and a reader that is at its body.
    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Result<(u16, Reader)> {
        let mut stream = TcpStream::connect(&self.address).with_context(|| format!("no server at {}", self.address))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut head = format!(
            "{method} /api/v1{path} HTTP/1.0\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n",
            self.address,
            self.token,
            body.len()
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(format!("{head}\r\n{body}").as_bytes())?;
        let mut reader = BufReader::new(stream);
        let mut status = String::new();
        reader.read_line(&mut status)?;
        let mut line = String::new();
        while reader.read_line(&mut line)? > 2 {
            line.clear();
        }
        let status = status.split(' ').nth(1).and_then(|code| code.parse().ok()).context("not an HTTP answer")?;
        Ok((status, reader))
    }
}

/// An answer that is not an error.
fn good(method: &str, path: &str, status: u16, mut reader: Reader) -> Result<Reader> {
    if (200..300).contains(&status) {
        return Ok(reader);
    }
    let mut problem = String::new();
    reader.read_to_string(&mut problem)?;
    bail!("{method} {path} was answered by {status}: {problem}")
}

fn json(mut reader: Reader) -> Result<Value> {
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
}
