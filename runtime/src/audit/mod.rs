//! The audit: nothing of the gateway's is believed that an outsider can count.
//!
//! ```text
//!  broker ──► listener ──► telemetry ──► accounts (per device: serials, holes, latency) ──► report
//! ```
//!
//! `moorline audit` against any broker. The demo and the tests read telemetry and keep serials as here, and a ledger of what
//! the gateway was given besides (`crate::demo::audit`).

pub(crate) mod accounts;
mod latency;
mod listener;
mod serials;
pub(crate) mod telemetry;
#[cfg(test)]
mod tests;

pub(crate) use listener::{Heard, Terms, listen};
pub use serials::{RUN, Serials};

/// The topic of ThingsBoard's gateway telemetry.
pub const TELEMETRY_TOPIC: &str = "v1/gateway/telemetry";
