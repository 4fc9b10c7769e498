//! The link: the driver of the core's link machine, and everything it drives. No protocol opinions live here.

#![allow(dead_code, reason = "the driver lands next")]

mod dialer;
mod session;
mod settings;
mod tap;
mod tls;
mod wire;

pub use settings::{
    ClientIdentity, Credentials, LinkSettings, LivenessLimits, Pace, PhaseTimeouts, Secret,
    TlsSettings, Versions,
};
pub use tls::TlsSetupError;
