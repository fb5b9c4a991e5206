//! The real clock and the real randomness: the one place that reads either.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use pinrail_model::ids::Ids;
use pinrail_model::time::{Clock, Micros, Now};

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    #[must_use]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { wall: Micros(i64::try_from(wall.as_micros()).unwrap_or(i64::MAX)), mono: self.start.elapsed() }
    }
}

/// The kernel's randomness.
#[derive(Debug, Default)]
pub struct SystemIds;

impl Ids for SystemIds {
    #[allow(clippy::disallowed_methods, reason = "ids carry the time at which they were made")]
    fn parts(&self) -> (u64, u128) {
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        (u64::try_from(millis).unwrap_or(u64::MAX), u128::from_le_bytes(random()))
    }
}

/// Random bytes from the kernel. Without them there is no security to fall back on, so the process ends.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if getrandom::fill(&mut bytes).is_err() {
        std::process::abort();
    }
    bytes
}
