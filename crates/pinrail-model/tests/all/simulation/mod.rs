//! Random cases over the orchestration core: a whole shard on a virtual clock, with people, workers and faults, every
//! rule checked after every event.
//!
//! A case is data and follows from its seed, so it can be played again and made smaller. `cargo xtask simulate` plays
//! many in a release build, ten thousand of them before every change that lands.

mod case;
mod checks;
mod dice;
mod rows;
mod series;
mod shrink;
mod world;

use dice::number_of;

/// The seed of a case of a series.
fn seed_of(series: u64, case: u64) -> u64 {
    number_of(&[series, case])
}
