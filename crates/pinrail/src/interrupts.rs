//! Ctrl-C, counted instead of obeyed, for commands that have something to do first.

use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static SEEN: AtomicU32 = AtomicU32::new(0);

/// Interrupts since [`count`] was called first.
pub fn seen() -> u32 {
    SEEN.load(Ordering::SeqCst)
}

/// From now on an interrupt does not end the process.
pub fn count() {
    extern "C" fn interrupted(_: i32) {
        SEEN.fetch_add(1, Ordering::SeqCst);
    }
    handle(SigHandler::Handler(interrupted));
}

/// From now on an interrupt ends the process again.
pub fn obey() {
    handle(SigHandler::SigDfl);
}

#[allow(unsafe_code, reason = "a signal handler can be installed in no other way without a second thread")]
fn handle(handler: SigHandler) {
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the one handler that there is only adds to an atomic.
    let _ = unsafe { sigaction(Signal::SIGINT, &action) };
}
