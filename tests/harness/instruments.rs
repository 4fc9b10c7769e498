//! Two instruments with protocols of their own, as one process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::repository;

/// Running instruments. Dropping them ends them.
#[derive(Debug)]
pub struct Instruments {
    child: Child,
    scpi: SocketAddr,
    meter: SocketAddr,
}

impl Instruments {
    /// Starts them with the Python at `python`.
    ///
    /// # Panics
    /// When they do not start.
    pub async fn start(python: &Path) -> Self {
        let mut child = Command::new(python)
            .arg(repository().join("tests/harness/instruments.py"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let (line, rest) = tokio::task::spawn_blocking(move || {
            let mut reader = BufReader::new(stdout);
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            (line, reader)
        })
        .await
        .unwrap();
        // What they say later must not fill the pipe.
        std::thread::spawn(move || rest.lines().map_while(Result::ok).for_each(drop));
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = |name: &str| {
            let port = said[name]
                .as_u64()
                .and_then(|port| u16::try_from(port).ok());
            SocketAddr::from(([127, 0, 0, 1], port.unwrap()))
        };
        let (scpi, meter) = (address("scpi"), address("meter"));
        Self { child, scpi, meter }
    }

    /// Where the SCPI instrument listens.
    #[must_use]
    pub fn scpi(&self) -> SocketAddr {
        self.scpi
    }

    /// Where the electricity meter listens.
    #[must_use]
    pub fn meter(&self) -> SocketAddr {
        self.meter
    }
}

impl Drop for Instruments {
    fn drop(&mut self) {
        // It may be dead already; then there is nothing to end.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}
