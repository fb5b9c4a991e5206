//! The service over a real database, without the binary around it.
#![allow(clippy::unwrap_used)]

mod document;
mod idempotency;
mod matrix;
mod metrics;
mod pages;
mod problems;
mod retention;
mod streams;
mod world;
