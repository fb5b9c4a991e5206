//! What people type and nobody may see.

use std::io::BufRead;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

use crate::failure::{DETACHED, FAILED, Failure};
use crate::interrupts;

/// A line from the terminal, which shows nothing of it; with its line end.
///
/// # Errors
/// When the terminal cannot be silenced or read, and after a Ctrl-C.
pub fn typed(prompt: &str) -> Result<Vec<u8>, Failure> {
    interrupts::count();
    let silent = Silent::new()?;
    // Asked for when nothing that is typed shows any more. Nobody sees a prompt that cannot be written.
    eprint!("{prompt}: ");
    let mut line = Vec::new();
    let read = await_line().and_then(|()| Ok(std::io::stdin().lock().read_until(b'\n', &mut line)?));
    drop(silent);
    interrupts::obey();
    read?;
    Ok(line)
}

/// How long a wait for a line lasts before it is looked for a Ctrl-C.
const LOOK_AGAIN_MS: u16 = 100;

/// Waits for a whole line, or for Ctrl-C, which must not leave a terminal that shows nothing.
fn await_line() -> Result<(), Failure> {
    let stdin = std::io::stdin();
    loop {
        // Looked at each time: a Ctrl-C just before the wait does not end it.
        if interrupts::seen() > 0 {
            return Err(Failure::new(DETACHED, "nothing was kept"));
        }
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, LOOK_AGAIN_MS) {
            Ok(0) | Err(Errno::EINTR) => {}
            Err(error) => return Err(Failure::new(FAILED, format!("the terminal cannot be read: {error}"))),
            Ok(_) => return Ok(()),
        }
    }
}

/// The terminal shows nothing of what is typed, until this is dropped.
struct Silent(Termios);

impl Silent {
    fn new() -> Result<Self, Failure> {
        let failed = |error: Errno| Failure::new(FAILED, format!("the terminal cannot be silenced: {error}"));
        let before = tcgetattr(std::io::stdin()).map_err(failed)?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(std::io::stdin(), SetArg::TCSAFLUSH, &silent).map_err(failed)?;
        Ok(Self(before))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing.
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSAFLUSH, &self.0);
        eprintln!();
    }
}
