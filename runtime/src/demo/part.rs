//! The demo's command line: its options, and the parts that are processes of their own (hidden subcommands).

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::device::Device;
use super::embedded;

/// Which broker the demo uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum BrokerChoice {
    /// Mosquitto if it is installed, else the embedded one.
    #[default]
    Auto,
    /// Mosquitto.
    Mosquitto,
    /// The embedded one.
    Embedded,
}

/// The options of `moorline demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoOptions {
    /// About how long the story takes, after set-up.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(30..=3_600))]
    pub seconds: u64,
    /// Write the report to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Which broker to use.
    #[arg(long, value_enum, default_value_t = BrokerChoice::Auto)]
    pub broker: BrokerChoice,
    /// Keep state, logs and plugins here. Without it they go to a temporary directory, removed when all is well.
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

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
