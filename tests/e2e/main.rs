//! End to end: the real binary, real brokers, a real device, real components, faulty TCP, killed processes.
//!
//! The oracle is what outsiders saw: a subscriber, the broker's log, the device, the wire.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests: a panic is the report, and some measure"
)]

mod audit;
mod bad_input;
mod bad_plugins;
mod broker;
mod brokers;
mod campaign;
mod dead_letters;
mod doctor;
mod downlinks;
mod duel;
mod errors;
mod faults;
mod fleet;
mod full_disk;
mod generations;
mod hostile_guests;
mod journal;
mod languages;
mod limits;
mod modbus;
mod netns;
mod open_circuit;
mod orders;
mod outage;
mod plugin_state;
mod policies;
mod reporting;
mod serial;
mod spool_tools;
mod starvation;
mod stress;
mod swaps;
mod trust;
