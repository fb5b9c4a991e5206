//! The one database: runs, commands, table pointers, publications. SQLite today; the conformance suite in the testkit
//! is written against the trait, so that PostgreSQL follows without changing a caller.
//!
//! Not responsible for: deciding anything. It keeps what it is told, atomically, and refuses what comes from a former
//! owner.
//!
//! Invariants:
//! - only this crate names a database driver;
//! - no file or network access other than the database happens inside a transaction;
//! - who may see one project sees nothing of another, whatever is asked for;
//! - no statement that anybody waits for scans a table that grows with use: a test looks at the plan of each;
//! - an order is carried out wholly or not at all, whatever becomes of those that share its transaction;
//! - migrations go forward only; the schema they give is committed in `schema.sql` and compared by a test.

mod sqlite;

pub use sqlite::{Adopted, SqliteStore, adopt, check_version};
