//! The pymodbus device, as a process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

use crate::{eventually, repository};

const READY: Duration = Duration::from_secs(20);

/// What the device has said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Where it listens.
    pub port: Option<u16>,
    /// TCP sessions it accepted.
    pub sessions: u64,
    /// Registers written: first address and values.
    pub writes: Vec<(u16, Vec<u16>)>,
}

/// A running device. Dropping it kills it.
#[derive(Debug)]
pub struct Device {
    child: Child,
    said: watch::Receiver<Said>,
    listener: Option<JoinHandle<()>>,
    address: SocketAddr,
}

impl Device {
    /// Starts the device with the Python at `python`.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(python: &Path) -> Self {
        let script = repository().join("tests/harness/device.py");
        let mut child = Command::new(python)
            .arg(script)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (saying, said) = watch::channel(Said::default());
        let listener = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                saying.send_modify(|said| note(said, &line));
            }
        });
        let port = eventually("the device listens", READY, || said.borrow().port).await;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            child,
            said,
            listener: Some(listener),
            address,
        }
    }

    /// Where to connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has said so far.
    #[must_use]
    pub fn said(&self) -> Said {
        self.said.borrow().clone()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // It may be dead already; then there is nothing to end.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
        if let Some(listener) = self.listener.take() {
            listener.join().unwrap_or_default();
        }
    }
}

fn note(said: &mut Said, line: &str) {
    let line: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    let small =
        |value: &serde_json::Value| value.as_u64().and_then(|number| u16::try_from(number).ok());
    if let Some(port) = small(&line["listening"]) {
        said.port = Some(port);
    }
    if let Some(sessions) = line["sessions"].as_u64() {
        said.sessions = sessions;
    }
    if let (Some(address), Some(values)) = (small(&line["write"]), line["values"].as_array()) {
        said.writes
            .push((address, values.iter().filter_map(small).collect()));
    }
}
