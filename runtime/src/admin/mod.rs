//! The admin socket: `admin.sock` in the state directory, for who runs the gateway and nobody else.
//!
//! A unix socket of mode 0600; the kernel says who is at the other end, and only the gateway's own user and root are heard.
//! One JSON object a line, an answer for each ([`protocol`]). Clients, lines and waits are bounded.

mod client;
pub mod protocol;
mod server;

use std::path::{Path, PathBuf};

pub use client::{Client, ClientError};
pub(crate) use server::serve;

/// The socket's name in the state directory.
pub const SOCKET: &str = "admin.sock";

/// Where the gateway with this state directory listens.
#[must_use]
pub fn socket(state_dir: &Path) -> PathBuf {
    state_dir.join(SOCKET)
}
