//! The lake: tables and embedded SQL.
