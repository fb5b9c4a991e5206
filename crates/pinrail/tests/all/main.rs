//! The real binary, from outside: command line, API, processes, crashes.
#![allow(clippy::unwrap_used)]

mod backfills;
mod backup;
mod conditions;
mod crash;
mod docs;
mod doctor;
mod edges;
mod environments;
mod explain;
mod failing;
mod hiding;
mod import;
mod init;
mod input;
mod inside;
mod isolation;
mod login;
mod map;
mod notify;
mod open;
mod pace;
mod phases;
mod processes;
mod python;
mod render;
mod replay;
mod retention;
mod schedules;
mod secrets;
mod seed;
mod service;
mod shared;
mod simulate;
#[cfg(feature = "lake")]
mod sql;
mod state;
mod subworkflows;
mod support;
mod surgery;
mod targets;
mod workers;
