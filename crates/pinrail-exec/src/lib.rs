//! What runs jobs on this machine: a launcher process that starts, watches and kills, and the executors above it.
//!
//! Not responsible for: deciding what runs when, or what a result means; the service does both through the seams.
//!
//! Invariants:
//! - no user process outlives its attempt: the launcher is a subreaper, so whatever escapes its parent comes back to it
//!   and is killed, and it kills everything when its server goes;
//! - user processes start with a clean environment, a session of their own, no new privileges, and no descriptor of ours;
//! - where the kernel has Landlock they cannot read the state folder, look into our processes or signal them (`confine`);
//! - on a shared server they are their project's user's (`users`).

mod channel;
pub mod commands;
pub mod confine;
pub mod launcher;
pub mod local;
mod process;
pub mod python;
mod sandbox;
pub mod shell;
pub mod users;
mod wire;

pub use local::Launcher;
pub use sandbox::LocalSandbox;
