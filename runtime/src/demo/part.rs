//! The parts of the demo that are processes of their own: hidden subcommands.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::device::Device;
use super::embedded;

/// `moorline demo-part …`
#[derive(Debug, clap::Subcommand)]
pub enum Part {
    /// An MQTT broker on loopback, until it is killed.
    Broker {
        /// Where to listen.
        #[arg(long)]
        port: u16,
        /// Where sessions are kept.
        #[arg(long)]
        directory: PathBuf,
    },
    /// A Modbus TCP device on loopback, until it is interrupted. Prints what it saw, one JSON object a line.
    Device {
        /// Where to listen; 0 = a free port.
        #[arg(long)]
        port: u16,
    },
}

/// Runs a part until it ends.
///
/// # Errors
/// When the part cannot start or fails.
pub async fn run(part: Part) -> io::Result<()> {
    match part {
        Part::Broker { port, directory } => embedded::run(port, directory)
            .await
            .map_err(io::Error::other),
        Part::Device { port } => run_device(port).await,
    }
}

async fn run_device(port: u16) -> io::Result<()> {
    let device = Device::start(SocketAddr::from(([127, 0, 0, 1], port))).await?;
    let mut counts = device.counts();
    let mut sessions = None;
    loop {
        let seen = counts.borrow_and_update().sessions;
        if sessions.replace(seen) != Some(seen) {
            let line = serde_json::json!({ "address": device.address(), "sessions": seen });
            #[expect(clippy::print_stdout, reason = "the line is this part's output")]
            {
                println!("{line}");
            }
        }
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => return interrupted,
            changed = counts.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}
