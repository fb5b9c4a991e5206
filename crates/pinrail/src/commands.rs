//! The commands, by what they are about.

pub mod backfills;
pub mod backup;
pub mod doctor;
pub mod environments;
pub mod import;
pub mod init;
pub mod inside;
pub mod limits;
pub mod login;
pub mod notify;
pub mod open;
pub mod pace;
pub mod project;
pub mod replay;
pub mod run;
pub mod schedules;
pub mod sdk;
pub mod secret;
pub mod server;
pub mod show;
pub mod simulate;
#[cfg(test)]
mod situations;
pub mod sql;
pub mod surgery;
pub mod test;
pub mod waiting;
pub mod work;
pub mod workers;
