//! The lake: tables in Iceberg's format, and embedded SQL over them, with an attempt's writes as a transaction.
//!
//! [`Lake`] implements the seam's `Catalog` and `QueryEngine` over a local warehouse folder. A text goes through
//! templates, header, parser and planner (`template`, `sql`), is run by DataFusion over tables (`scan`, `prune`) and
//! project files (`files`, `csv`), and leaves as a result (`results`) or as data files (`write`) in a commit
//! (`writing`, `commit`, `catalog`) whose every file is synced (`store`).
//!
//! Not responsible for: the durable table pointers (the seam's `Pointers`), who may do what, when anything runs.
//!
//! Invariants:
//! - nothing that a pointer names can be lost by a power cut;
//! - an attempt's writes are seen by that attempt alone until its pointers are swapped;
//! - SQL reads the project's tables and files and nothing else of the machine.

mod cast;
mod catalog;
mod checked;
mod commit;
mod csv;
mod engine;
mod error;
mod files;
mod lake;
mod orphans;
mod partition;
mod prune;
mod results;
mod scan;
mod sql;
mod stop;
mod store;
mod system;
mod tables;
mod template;
mod types;
mod write;
mod writing;

pub use catalog::LakeConfig;
pub use lake::Lake;
pub use stop::Stop;
pub use store::{FileSink, Files, LocalFiles};
