//! The seams: traits with coarse verbs behind which everything with I/O lives. Each is `dyn`-safe, so that it can be
//! faked, fault-injected and simulated; results cross as plain data or encoded bytes.

pub mod exec;
pub mod lake;
pub mod store;
