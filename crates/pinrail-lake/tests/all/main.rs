//! The lake through its seam: SQL in, rows and files out, with table pointers in memory.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "tests")]

mod attempts;
mod durability;
mod files;
mod foreign;
mod mistakes;
mod orphans;
mod queries;
mod results;
mod statements;
mod support;
mod targets;
