//! The HTTP client of the command line, and the choice of the server that a command uses.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pinrail_exec::local::ATTEMPT_VARIABLE;
use pinrail_service::bundles::{Manifest, scan};
use pinrail_service::project::{FILE, Project};
use serde_json::{Value, json};
use ureq::http::Response;
use ureq::{Agent, Body};

use crate::failure::{DEFINITION, FAILED, Failure, REFUSED, UNREACHABLE, USAGE};
use crate::logins::{Logins, server};
use crate::output::Output;
use crate::server::{Server, Wanted};
use crate::state::{Locked, Using, in_use, join, served};

/// Where a command finds what it works on.
#[derive(Debug, Clone, Default)]
pub struct Place {
    pub url: Option<String>,
    pub token: Option<String>,
    pub state: Option<PathBuf>,
    pub project: Option<PathBuf>,
    /// The target that was named.
    pub target: Option<String>,
}

impl Place {
    /// The project of the current folder, or of the folder that was named.
    pub fn project(&self) -> Result<Project, Failure> {
        let start = match &self.project {
            Some(folder) => folder
                .canonicalize()
                .map_err(|e| Failure::new(USAGE, format!("the folder \"{}\" cannot be used: {e}", folder.display())))?,
            None => std::env::current_dir()?,
        };
        let folder = Project::find(&start).ok_or_else(|| {
            Failure::new(DEFINITION, format!("no {FILE} in \"{}\" or above it", start.display()))
                .hint("Make a project with `pinrail init NAME`, or an empty pinrail.toml in your folder.")
        })?;
        Ok(Project::read(&folder)?)
    }

    /// The target of a project that a command works at: the one that was named, else the usual one of the folder. None in a
    /// project without targets, and where the server is to say that none is named.
    pub fn target(&self, project: &Project) -> Option<String> {
        self.target.clone().or_else(|| project.targets.usual().map(ToString::to_string))
    }

    /// Keeps the items of a list that are of the target that was named.
    pub fn of_target(&self, mut list: Value) -> Value {
        if let (Some(target), Some(items)) = (&self.target, list["items"].as_array_mut()) {
            items.retain(|item| item["target"] == target.as_str());
        }
        list
    }

    /// The state folder: named, or `.pinrail` in the project, or in the current folder.
    pub fn state(&self) -> Result<PathBuf, Failure> {
        if let Some(state) = &self.state {
            return Ok(state.clone());
        }
        if std::env::var_os(ATTEMPT_VARIABLE).is_some() {
            let failure = Failure::new(REFUSED, "a command of a job has no state folder of its own to work on");
            return Err(failure.hint(
                "Inside a job there are `pinrail output`, `pinrail save` and `pinrail secret read`; tables are read and \
                 written by SQL jobs and by `ctx.sql`.",
            ));
        }
        let here = match &self.project {
            Some(folder) => folder.clone(),
            None => std::env::current_dir()?,
        };
        Ok(Project::find(&here).unwrap_or(here).join(".pinrail"))
    }

    /// The server that a command uses: the one that is named, else the live one of the state folder, else one in this
    /// process for the time of the call.
    pub fn connect(&self) -> Result<Client, Failure> {
        self.reach(false)
    }

    /// The server for a command that makes a run. One that does not wait for its end needs a server that stays, and is
    /// refused without one before anything is made.
    pub fn connect_for_run(&self, detach: bool) -> Result<Client, Failure> {
        self.reach(detach)
    }

    fn reach(&self, stays: bool) -> Result<Client, Failure> {
        if let Some(url) = &self.url {
            let server = server(url)?;
            let token = match &self.token {
                Some(token) => token.clone(),
                None => Logins::read()?.token(&server).map(str::to_owned).ok_or_else(|| {
                    Failure::new(USAGE, format!("no token for {server}"))
                        .hint(format!("Store one with `pinrail login {server}`, or set PINRAIL_TOKEN."))
                })?,
            };
            return Ok(Client::elsewhere(server, token));
        }
        let folder = self.state()?;
        // A server that is just starting has the lock but has not said where it listens.
        for _ in 0..100 {
            if let Some((live, using)) = join(&folder).filter(|(live, _)| live.answers()) {
                return Ok(Client::new(live.url, self.token_of(&folder)?, Serving::Elsewhere(using)));
            }
            if stays {
                if !served(&folder) {
                    let failure = Failure::new(USAGE, "--detach needs a server that stays");
                    return Err(failure.hint("Start one with `pinrail up --detach`."));
                }
            } else if let Some(locked) = Locked::take(&folder)? {
                let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                let server =
                    Server::start(locked, &Wanted { listen, embedded: true, slots: None, run_as: Vec::new() })?;
                return Ok(Client::new(server.url.clone(), server.token.clone(), Serving::Here(Box::new(server))));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(in_use(&folder))
    }

    fn token_of(&self, folder: &Path) -> Result<String, Failure> {
        if let Some(token) = &self.token {
            return Ok(token.clone());
        }
        let file = folder.join("admin.token");
        let token = std::fs::read_to_string(&file)
            .map_err(|e| Failure::new(REFUSED, format!("\"{}\" cannot be read: {e}", file.display())))?;
        Ok(token.trim().to_owned())
    }
}

/// A path as people type it, relative to where they are, as one relative to the project. One that leads nowhere or out of
/// the project stays as it is, to be refused where it is used.
pub fn project_path(project: &Project, typed: &str) -> String {
    let (Ok(path), Ok(root)) = (Path::new(typed).canonicalize(), project.folder.canonicalize()) else {
        return typed.to_owned();
    };
    path.strip_prefix(root).map_or_else(|_| typed.to_owned(), |inside| inside.display().to_string())
}

/// A connection to one server.
pub struct Client {
    pub url: String,
    token: String,
    agent: Agent,
    serving: Serving,
}

/// Where the server of a connection is.
enum Serving {
    Here(Box<Server>),
    /// What keeps it from leaving, if it would.
    Elsewhere(#[expect(dead_code, reason = "it is held")] Option<Using>),
}

impl Client {
    fn new(url: String, token: String, serving: Serving) -> Self {
        let config = Agent::config_builder().http_status_as_error(false).timeout_connect(Some(CONNECT)).build();
        Self { url, token, agent: Agent::new_with_config(config), serving }
    }

    /// A connection to a server that others started.
    pub fn elsewhere(url: String, token: String) -> Self {
        Self::new(url, token, Serving::Elsewhere(None))
    }

    /// The server in this process, if that is the one.
    pub fn embedded(&self) -> Option<&Server> {
        match &self.serving {
            Serving::Here(server) => Some(server),
            Serving::Elsewhere(_) => None,
        }
    }

    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        let request = self.agent.get(format!("{}/api/v1{path}", self.url));
        self.answer(request.header("authorization", format!("Bearer {}", self.token)).call())
    }

    /// All items of a list, page by page.
    pub fn list(&self, path: &str) -> Result<Value, Failure> {
        let mut items = Vec::new();
        let mut page = self.get(path)?;
        loop {
            if let Some(more) = page["items"].as_array_mut() {
                items.append(more);
            }
            let Some(next) = page["next"].as_str() else { return Ok(json!({"items": items, "next": null})) };
            let joint = if path.contains('?') { '&' } else { '?' };
            page = self.get(&format!("{path}{joint}cursor={next}"))?;
        }
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.answer(self.send(path, body))
    }

    fn send(&self, path: &str, body: &Value) -> Result<Response<Body>, ureq::Error> {
        let request = self.agent.post(format!("{}/api/v1{path}", self.url));
        let request = request.header("authorization", format!("Bearer {}", self.token));
        request.content_type("application/json").send(body.to_string().as_bytes())
    }

    /// The bytes of an answer as they are.
    pub fn bytes(&self, path: &str, body: Option<&Value>) -> Result<Vec<u8>, Failure> {
        let response = match body {
            Some(body) => self.send(path, body),
            None => {
                let request = self.agent.get(format!("{}/api/v1{path}", self.url));
                request.header("authorization", format!("Bearer {}", self.token)).call()
            }
        };
        let mut response = response.map_err(|e| self.unreachable(&e))?;
        if response.status().is_success() {
            let config = response.body_mut().with_config().limit(u64::MAX);
            return config.read_to_vec().map_err(|e| self.unreachable(&e));
        }
        Err(problem(&mut response))
    }

    /// Writes the bytes of an answer to a file as they come; gives their number.
    pub fn download(&self, path: &str, to: &mut impl std::io::Write) -> Result<u64, Failure> {
        let request = self.agent.get(format!("{}/api/v1{path}", self.url));
        let request = request.header("authorization", format!("Bearer {}", self.token));
        let mut response = request.call().map_err(|e| self.unreachable(&e))?;
        if !response.status().is_success() {
            return Err(problem(&mut response));
        }
        Ok(std::io::copy(&mut response.into_body().into_reader(), to)?)
    }

    /// Follows server-sent events; the visitor says when it has had enough.
    pub fn follow(&self, path: &str, mut visit: impl FnMut(u64, &str, &Value) -> bool) -> Result<(), Failure> {
        let request = self.agent.get(format!("{}/api/v1{path}", self.url));
        let request = request.header("authorization", format!("Bearer {}", self.token));
        let mut response = request.call().map_err(|e| self.unreachable(&e))?;
        if !response.status().is_success() {
            return Err(problem(&mut response));
        }
        let reader = BufReader::new(response.into_body().into_reader());
        let (mut id, mut kind) = (0, String::new());
        for line in reader.lines() {
            let line = line.map_err(|error| {
                Failure::new(UNREACHABLE, format!("the connection to the server at {} was lost: {error}", self.url))
                    .hint("Follow again when it is up; what is logged meanwhile is kept.")
            })?;
            if let Some(text) = line.strip_prefix("id: ") {
                id = text.parse().unwrap_or(id);
            } else if let Some(text) = line.strip_prefix("event: ") {
                text.clone_into(&mut kind);
            } else if let Some(text) = line.strip_prefix("data: ") {
                let data = serde_json::from_str(text).unwrap_or_default();
                if !visit(id, &kind, &data) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn answer(&self, response: Result<Response<Body>, ureq::Error>) -> Result<Value, Failure> {
        let mut response = response.map_err(|e| self.unreachable(&e))?;
        if !response.status().is_success() {
            return Err(problem(&mut response));
        }
        let config = response.body_mut().with_config().limit(u64::MAX);
        let bytes = config.read_to_vec().map_err(|e| self.unreachable(&e))?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes)
            .map_err(|_| Failure::new(UNREACHABLE, format!("{} did not answer as a pinrail server does", self.url)))
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        Failure::new(UNREACHABLE, format!("the server at {} cannot be reached: {error}", self.url))
            .hint("Is it running? `pinrail up` starts one.")
    }

    /// Sends a project's files as they are, changed ones only; gives the digest of the bundle.
    pub fn send_bundle(&self, project: &Project, state: &Path) -> Result<String, Failure> {
        let manifest: Manifest = scan(project, Some(state))?;
        let path = format!("/projects/{}/bundles", project.name);
        let body = json!({"files": manifest, "folder": project.folder});
        let answer = self.post(&path, &body)?;
        let missing: Vec<&str> = answer["missing"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if missing.is_empty() {
            return Ok(answer["sha"].as_str().unwrap_or_default().to_owned());
        }
        for (name, file) in &manifest {
            let sha = file.sha.to_string();
            if missing.contains(&sha.as_str()) {
                let bytes = std::fs::read(project.folder.join(name))?;
                self.put(&format!("/projects/{}/blobs/{sha}", project.name), &bytes)?;
            }
        }
        let answer = self.post(&path, &body)?;
        match answer["missing"].as_array() {
            Some(missing) if missing.is_empty() => Ok(answer["sha"].as_str().unwrap_or_default().to_owned()),
            _ => Err(Failure::new(FAILED, "the project's files changed while they were sent").hint("Try again.")),
        }
    }

    /// Sends a project's files as they are, and has the Python environments built that they ask for, which is told of.
    pub fn send_code(&self, project: &Project, state: &Path, output: Output) -> Result<String, Failure> {
        let bundle = self.send_bundle(project, state)?;
        crate::commands::environments::prepare(self, project, &bundle, &[], output)?;
        Ok(bundle)
    }

    pub fn put(&self, path: &str, bytes: &[u8]) -> Result<Value, Failure> {
        let request = self.agent.put(format!("{}/api/v1{path}", self.url));
        let request = request.header("authorization", format!("Bearer {}", self.token));
        self.answer(request.send(bytes))
    }

    pub fn patch(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let request = self.agent.patch(format!("{}/api/v1{path}", self.url));
        let request = request.header("authorization", format!("Bearer {}", self.token));
        self.answer(request.content_type("application/json").send(body.to_string().as_bytes()))
    }

    pub fn delete(&self, path: &str) -> Result<Value, Failure> {
        let request = self.agent.delete(format!("{}/api/v1{path}", self.url));
        self.answer(request.header("authorization", format!("Bearer {}", self.token)).call())
    }
}

/// A text as a part of a path or query.
pub fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// A problem document as a failure of the command.
fn problem(response: &mut Response<Body>) -> Failure {
    let status = response.status().as_u16();
    let text = response.body_mut().read_to_string().unwrap_or_default();
    let document: Value = serde_json::from_str(&text).unwrap_or_default();
    let code = match (document["code"].as_str(), status) {
        (Some("definition-errors"), _) => DEFINITION,
        (_, 400..500) => REFUSED,
        _ => FAILED,
    };
    let message = document["detail"].as_str().map_or_else(|| format!("the server answered {status}"), str::to_owned);
    // Where in a body it was that nobody typed.
    let pointer = format!(" (at {})", document["pointer"].as_str().unwrap_or_default());
    let message = message.strip_suffix(&pointer).map_or(message.clone(), str::to_owned);
    Failure {
        code,
        message,
        hint: document["hint"].as_str().map(str::to_owned),
        problem: Some(Box::new(document)).filter(|document| !document.is_null()),
    }
}
