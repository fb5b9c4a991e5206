//! Vocabulary and decisions: ids, names, the workflow document, the two state machines, `explain`, and the seams
//! behind which everything with I/O lives.
//!
//! Not responsible for: clocks, randomness, files, sockets, databases. Time and ids enter as data.
//!
//! Invariants:
//! - nothing here performs I/O, spawns, sleeps or reads a clock; no tokio, no arrow ([`steps`], which only tests arm, excepted);
//! - [`run::apply`] and [`admit::admit`] are the only code that decides what a task does next;
//! - every stored document carries its format number and refuses a newer one by name.

pub mod admit;
pub mod backfill;
pub mod condition;
pub mod document;
pub mod explain;
pub mod fault;
pub mod ids;
pub mod names;
pub mod near;
pub mod notify;
pub mod run;
pub mod schedule;
pub mod schema;
pub mod seam;
pub mod select;
pub mod simulation;
pub mod steps;
pub mod tables;
pub mod target;
pub mod time;
pub mod trigger;
