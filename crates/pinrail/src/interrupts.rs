//! Ctrl-C, counted instead of obeyed, for commands that have something to do first.

use std::sync::atomic::{AtomicU32, Ordering};

static SEEN: AtomicU32 = AtomicU32::new(0);

/// Interrupts since [`count`] was called first.
pub fn seen() -> u32 {
    SEEN.load(Ordering::SeqCst)
}

/// From now on an interrupt does not end the process.
#[allow(unsafe_code, reason = "a signal handler can be installed in no other way without a second thread")]
pub fn count() {
    extern "C" fn interrupted(_: i32) {
        SEEN.fetch_add(1, Ordering::SeqCst);
    }
    let action = nix::sys::signal::SigAction::new(
        nix::sys::signal::SigHandler::Handler(interrupted),
        nix::sys::signal::SaFlags::SA_RESTART,
        nix::sys::signal::SigSet::empty(),
    );
    // SAFETY: the handler only adds to an atomic.
    let _ = unsafe { nix::sys::signal::sigaction(nix::sys::signal::Signal::SIGINT, &action) };
}
