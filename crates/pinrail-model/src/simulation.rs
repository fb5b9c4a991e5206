//! The shard's owner on a virtual clock: what production decides, with nothing carried out.
//!
//! [`Owner`] takes the steps of the service's owner in the same order over the same functions ([`crate::run::apply`],
//! [`crate::admit::admit`], [`crate::trigger`], [`crate::backfill`]); time, ids, rows and work belong to whoever drives
//! it. The random cases of the test kit drive it with faults and look at every event; `pinrail simulate` drives it with
//! recorded durations.
//!
//! It decides nothing itself: a rule that both owners need stands where the thing is that it is about.

mod forecast;
mod owner;

pub use forecast::{
    Fate, Forecast, Hour, JobOf, LimitForecast, LimitKind, LongestWait, Missed, RunForecast, Scene, Workers,
    WorkflowForecast, forecast, forecast_while,
};
pub use owner::{Batch, Change, Filling, Owner, Refusal, Seen, Surroundings};
