//! The application: who may do what, the owner of the shard, the reconcilers, the HTTP API.
//!
//! Not responsible for: how jobs run (`pinrail-exec`), what tables are (`pinrail-lake`), how state is kept
//! (`pinrail-store`); it meets them through the traits of `pinrail-model`.
//!
//! Invariants:
//! - API handlers hold no state: what they know they read from the store, what they want they send to its inbox;
//! - one owner per shard decides, by the pure machines, and acts only on what is durable;
//! - user code is never imported by this process.

pub mod app;
pub mod attempt;
pub mod backup;
pub mod bundles;
pub mod channels;
mod check;
pub mod compile;
mod conditions;
mod edges;
pub mod environments;
mod equip;
pub mod http;
mod inputs;
pub mod logs;
pub mod mask;
pub mod notify;
pub mod owner;
mod pace;
mod places;
pub mod plan;
pub mod planning;
pub mod problem;
pub mod project;
pub mod queries;
pub mod render;
pub mod replay;
pub mod retention;
pub mod secrets;
pub mod simulate;
mod sink;
mod subruns;
pub mod system;
pub mod targets;
pub mod tenancy;
pub mod tokens;
mod values;
pub mod vault;
pub mod views;
pub mod work;
pub mod workers;
