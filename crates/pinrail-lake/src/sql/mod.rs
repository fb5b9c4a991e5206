//! The SQL of the lake: from text to one of our own statements, and from queries to DataFusion's plans.
//!
//! Invariant: only queries ever reach DataFusion's planner; every other statement is carried out here or refused.

pub(crate) mod casts;
pub(crate) mod columns;
pub(crate) mod explain;
pub(crate) mod header;
pub(crate) mod names;
pub(crate) mod outline;
pub(crate) mod parse;
pub(crate) mod plan;
pub(crate) mod wording;
