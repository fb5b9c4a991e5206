//! The commands, by what they are about.

pub mod backup;
pub mod doctor;
pub mod environments;
pub mod init;
pub mod inside;
pub mod login;
pub mod notify;
pub mod open;
pub mod project;
pub mod run;
pub mod sdk;
pub mod secret;
pub mod server;
pub mod show;
pub mod sql;
pub mod test;
