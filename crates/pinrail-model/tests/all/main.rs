//! Tests of the core from outside.
#![allow(clippy::unwrap_used)]

mod admission;
mod edges;
mod forecast;
mod machine;
mod notices;
mod scenarios;
mod simulation;
mod world;
