//! The real clock and the real randomness: the one place that reads either.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use pinrail_model::ids::{Ids, fresh};
use pinrail_model::seam::store::{Answer, Durability, Query, Store, StoreError, Transition, Who, Write};
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

/// A name for a new installation: 10 of `[a-z0-9]`, which fits into the tags of every engine.
#[must_use]
pub fn new_installation() -> String {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    // 128 random bits for 10 letters: no letter is noticeably likelier than another.
    let mut number = u128::from_le_bytes(random());
    let mut letter = || {
        let letter = LETTERS[(number % 36) as usize];
        number /= 36;
        char::from(letter)
    };
    (0..10).map(|_| letter()).collect()
}

/// What the installation of a state is called; it is given a name if it has none.
///
/// # Errors
/// When the state cannot be read or written.
pub async fn installation(store: &dyn Store, ids: &dyn Ids) -> Result<String, StoreError> {
    if let Answer::Installation(name) = store.read(&Who::default(), Query::Installation).await? {
        return Ok(name);
    }
    let name = new_installation();
    let transition = Transition::new(fresh(ids), vec![Write::Installation(name.clone())]);
    store.commit(vec![transition], Durability::Waited).await?;
    Ok(name)
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
