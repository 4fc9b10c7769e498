//! Moorline: the host process. The pure machines are in `moorline_core`; here is what moves bytes for them.

pub mod audit;
mod bounded_file;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
mod doctor;
pub mod fault_proxy;
mod file_watch;
mod fleet;
pub mod gateway;
pub mod inbox;
pub mod journal;
pub mod link;
mod log_gate;
pub mod network;
pub mod plugin_build;
pub mod plugins;
pub mod policy_handle;
mod private_directory;
mod screen;
pub mod shutdown;
pub mod spool;
pub mod status;
mod stress;
mod trust;
mod wear;
