//! Tokens for servers elsewhere: stored, used, forgotten.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use crate::support::{Project, Ran, fed};

const WORKFLOW: (&str, &str) = ("workflows/w.py", "workflow = {template(name='a', shell='true'): []}");

fn token(project: &Project) -> String {
    std::fs::read_to_string(project.state().join("admin.token")).unwrap()
}

/// Another user's machine: a folder with settings of its own and without a project.
struct Elsewhere(Project);

impl Elsewhere {
    fn new() -> Self {
        let place = Project::new(&[]);
        std::fs::remove_file(place.path().join("pinrail.toml")).unwrap();
        Self(place)
    }

    fn run(&self, arguments: &[&str], input: &str) -> Ran {
        fed(&mut self.0.command(arguments), input)
    }

    fn stored(&self) -> std::path::PathBuf {
        self.0.path().join(".user/pinrail/tokens.json")
    }
}

#[test]
fn a_stored_token_is_used_for_its_url() {
    let project = Project::new(&[WORKFLOW]);
    let _server = project.up();
    assert_eq!(project.run(&["run", "w", "--at", "2013-01-01"]).code, Some(0));
    let url = project.url();
    let elsewhere = Elsewhere::new();
    let unknown = elsewhere.run(&["runs", "--url", &url], "");
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
    assert!(unknown.err.contains(&format!("Store one with `pinrail login {url}`")), "{}", unknown.err);
    let made = elsewhere.run(&["login", &format!("{url}/")], &format!("  {}\n", token(&project)));
    assert_eq!(made.code, Some(0), "{made:?}");
    assert!(!made.out.contains(&token(&project)));
    assert_eq!(std::fs::metadata(elsewhere.stored()).unwrap().mode() & 0o777, 0o600);
    let runs = elsewhere.run(&["runs", "--url", &url, "--json"], "");
    assert_eq!(runs.json()["items"][0]["workflow"], "w");
    let listed = elsewhere.run(&["login", "--list"], "");
    assert_eq!(listed.out, format!("{url}\n"));
    assert!(!elsewhere.run(&["login", "--list", "--json"], "").out.contains(&token(&project)));
    assert_eq!(elsewhere.run(&["login", "--forget", &url], "").code, Some(0));
    assert_eq!(elsewhere.run(&["login", "--forget", &url], "").code, Some(4));
    assert_eq!(elsewhere.run(&["runs", "--url", &url], "").code, Some(2));
}

#[test]
fn a_token_that_the_server_refuses_is_not_stored() {
    let project = Project::new(&[WORKFLOW]);
    let server = project.up();
    let url = project.url();
    let elsewhere = Elsewhere::new();
    for (url, input, code, said) in [
        (url.as_str(), "wrong\n", 4, "the bearer token is unknown"),
        (&url, "", 2, "standard input gives no token"),
        (&url, "two words\n", 2, "standard input gives no token"),
        ("localhost:7070", "x\n", 2, "is not the URL of a server"),
        ("http://me:secret@localhost", "x\n", 2, "a token does not belong into it"),
    ] {
        let ran = elsewhere.run(&["login", url], input);
        assert_eq!(ran.code, Some(code), "{url} {input:?}: {ran:?}");
        assert!(ran.err.contains(said), "{url} {input:?}: {}", ran.err);
    }
    server.kill();
    assert_eq!(elsewhere.run(&["login", &url], "x\n").code, Some(6));
    assert_eq!(elsewhere.run(&["login"], "").code, Some(2));
    assert!(!elsewhere.stored().exists());
}

#[test]
fn tokens_that_others_can_read_are_not_used() {
    let project = Project::new(&[WORKFLOW]);
    let _server = project.up();
    let elsewhere = Elsewhere::new();
    assert_eq!(elsewhere.run(&["login", &project.url()], &token(&project)).code, Some(0));
    std::fs::set_permissions(elsewhere.stored(), std::fs::Permissions::from_mode(0o640)).unwrap();
    let refused = elsewhere.run(&["runs", "--url", &project.url()], "");
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.err.contains("others can read the tokens in"), "{}", refused.err);
}

/// Types as people do: after the prompt, and on a terminal.
fn typed(elsewhere: &Elsewhere, url: &str, keys: &str) -> Ran {
    let typist = "
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:4])
seen = b''
while b'token for' not in seen or not seen.endswith(b': '):
    seen += os.read(terminal, 1024)
os.write(terminal, sys.argv[4].encode())
try:
    while chunk := os.read(terminal, 1024):
        seen += chunk
except OSError:
    pass
sys.stdout.buffer.write(seen)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";
    let mut command = Command::new("python3");
    command.args(["-c", typist, env!("CARGO_BIN_EXE_pinrail"), "login", url, keys]);
    for (name, value) in elsewhere.0.command(&[]).get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.output().unwrap().into()
}

#[test]
fn a_terminal_does_not_show_what_is_pasted() {
    let project = Project::new(&[WORKFLOW]);
    let _server = project.up();
    let elsewhere = Elsewhere::new();
    let stopped = typed(&elsewhere, &project.url(), "\x03");
    assert_eq!(stopped.code, Some(130), "{stopped:?}");
    assert!(!elsewhere.stored().exists());
    let ran = typed(&elsewhere, &project.url(), &format!("{}\n", token(&project)));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!ran.out.contains(&token(&project)), "{}", ran.out);
    assert!(ran.out.contains("is stored in"), "{}", ran.out);
}
