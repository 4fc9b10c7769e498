//! An electricity meter behind a serial converter that can be unplugged, as a process.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::watch;

use crate::{eventually, repository};

const READY: Duration = Duration::from_secs(20);

/// What the meter has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Seen {
    /// Readouts answered.
    pub readouts: u64,
    /// Times the port was opened or closed, as far as waiting bytes were thrown away.
    pub flushes: u64,
    /// Times nobody had the port open any more.
    pub hang_ups: u64,
}

/// A meter that is plugged in. Dropping it unplugs it.
#[derive(Debug)]
pub struct SerialMeter {
    child: Child,
    seen: watch::Receiver<Option<Seen>>,
    listener: Option<JoinHandle<()>>,
    file: PathBuf,
}

impl SerialMeter {
    /// Lets the device file `file` appear, with a meter at the end of its line; by the Python at `python`.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn plug_in(python: &Path, file: &Path) -> Self {
        let mut child = Command::new(python)
            .arg(repository().join("tests/harness/serial_meter.py"))
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (saying, seen) = watch::channel(None);
        let listener = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                saying.send_replace(serde_json::from_str(&line).ok());
            }
        });
        let there = seen.clone();
        eventually("the meter is there", READY, || *there.borrow()).await;
        Self {
            child,
            seen,
            listener: Some(listener),
            file: file.to_owned(),
        }
    }

    /// What it has seen so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen.borrow().unwrap_or_default()
    }

    /// Waits until it has answered so many readouts.
    ///
    /// # Panics
    /// When it has not in time.
    pub async fn read_out(&self, times: u64, within: Duration) -> Seen {
        eventually(&format!("{times} readouts"), within, || {
            Some(self.seen()).filter(|seen| seen.readouts >= times)
        })
        .await
    }
}

impl Drop for SerialMeter {
    fn drop(&mut self) {
        // A converter takes its file with it. It may be dead already; then there is nothing to end.
        std::fs::remove_file(&self.file).unwrap_or_default();
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
        if let Some(listener) = self.listener.take() {
            listener.join().unwrap_or_default();
        }
    }
}
