//! The gateway as a child process, and its history as an outsider reads it from the status file.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::status::{DisconnectEntry, Status, SwapEntry};

/// How often the status file is read. It is written at once after a change, but at most ten times a second.
const READ_EVERY: Duration = Duration::from_millis(100);

/// What is known of every process the gateway has been.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The last status read.
    pub now: Status,
    /// The link's counters, by process.
    links: BTreeMap<(u64, u32), LinkCounters>,
    disconnects: BTreeMap<(u64, u64), DisconnectEntry>,
    swaps: BTreeMap<(u64, u64), SwapEntry>,
}

#[derive(Clone, Copy, Debug, Default)]
struct LinkCounters {
    sessions: u64,
    policy_faults: u64,
    policy_clamped: u64,
}

impl History {
    /// Adds what `status` has that is not known yet. Processes are told apart and ordered by their start.
    pub fn merge(&mut self, status: Status) {
        let process = status.started_at_ms;
        let counters = LinkCounters {
            sessions: status.link.sessions,
            policy_faults: status.link.policy_faults,
            policy_clamped: status.link.policy_clamped,
        };
        self.links.insert((process, status.pid), counters);
        for disconnect in &status.link.disconnects {
            self.disconnects
                .insert((process, disconnect.id), disconnect.clone());
        }
        for swap in &status.swaps {
            self.swaps.insert((process, swap.id), swap.clone());
        }
        self.now = status;
    }

    /// Sessions over all processes.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        self.links.values().map(|link| link.sessions).sum()
    }

    /// Times the built-in policy stood in, over all processes.
    #[must_use]
    pub fn policy_faults(&self) -> u64 {
        self.links.values().map(|link| link.policy_faults).sum()
    }

    /// Times a policy's answer was clamped, over all processes.
    #[must_use]
    pub fn policy_clamped(&self) -> u64 {
        self.links.values().map(|link| link.policy_clamped).sum()
    }

    /// Processes seen.
    #[must_use]
    pub fn processes(&self) -> usize {
        self.links.len()
    }

    /// Disconnects and failed attempts over all processes, oldest first.
    pub fn disconnects(
        &self,
    ) -> impl DoubleEndedIterator<Item = &DisconnectEntry> + ExactSizeIterator {
        self.disconnects.values()
    }

    /// Swaps over all processes, oldest first.
    pub fn swaps(&self) -> impl ExactSizeIterator<Item = &SwapEntry> {
        self.swaps.values()
    }
}

/// `moorline run` as a child. Dropping it kills it.
#[derive(Debug)]
pub struct Gateway {
    binary: PathBuf,
    configuration: PathBuf,
    state_dir: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    history: watch::Receiver<History>,
    reader: JoinHandle<()>,
}

impl Gateway {
    /// Starts `binary run --config configuration` and a reader of the status file in `state_dir`. The log is appended
    /// to `log`, as JSON.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start(
        binary: &Path,
        configuration: &Path,
        state_dir: &Path,
        log: &Path,
    ) -> io::Result<Self> {
        let (recording, history) = watch::channel(History::default());
        let reader = tokio::spawn(record(state_dir.to_owned(), recording));
        let mut gateway = Self {
            binary: binary.to_owned(),
            configuration: configuration.to_owned(),
            state_dir: state_dir.to_owned(),
            log: log.to_owned(),
            child: None,
            history,
            reader,
        };
        gateway.resume()?;
        Ok(gateway)
    }

    /// Starts the process again.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn resume(&mut self) -> io::Result<()> {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)?;
        let mut command = Command::new(&self.binary);
        command
            .args(["--log", "json", "run", "--config"])
            .arg(&self.configuration);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        self.child = Some(command.spawn()?);
        Ok(())
    }

    /// Its configuration file.
    #[must_use]
    pub fn configuration(&self) -> &Path {
        &self.configuration
    }

    /// The process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// What is known of it, growing.
    #[must_use]
    pub fn history(&self) -> watch::Receiver<History> {
        self.history.clone()
    }

    /// Everything it logged.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self) -> io::Result<String> {
        std::fs::read_to_string(&self.log)
    }

    /// Its exit status, if it has ended by itself.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => child.try_wait(),
            None => Ok(None),
        }
    }

    /// kill -9, and wait until it is dead.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub async fn kill(&mut self) -> io::Result<()> {
        match self.child.take() {
            Some(mut child) => child.kill().await,
            None => Ok(()),
        }
    }

    /// kill -9 without waiting, for whoever has no time left: it dies when the operating system gets to it.
    pub fn kill_now(&mut self) {
        if let Some(mut child) = self.child.take()
            && let Err(error) = child.start_kill()
        {
            tracing::debug!(%error, "the gateway has ended already");
        }
    }

    /// SIGTERM, and wait until it has drained and ended. The last status is merged before this returns.
    ///
    /// # Errors
    /// When it does not end within `grace`; it is killed then.
    pub async fn stop(&mut self, grace: Duration) -> io::Result<(ExitStatus, History)> {
        let Some(mut child) = self.child.take() else {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the gateway does not run",
            ));
        };
        if let Some(pid) = child
            .id()
            .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
        {
            kill_process(pid, Signal::TERM)?;
        }
        let Ok(status) = tokio::time::timeout(grace, child.wait()).await else {
            child.kill().await?;
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the gateway did not end in time",
            ));
        };
        let mut history = self.history.borrow().clone();
        history.merge(Status::read(&self.state_dir)?);
        Ok((status?, history))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn record(state_dir: PathBuf, recording: watch::Sender<History>) {
    let mut tick = tokio::time::interval(READ_EVERY);
    let mut last_written = 0;
    loop {
        tick.tick().await;
        // Absent before the first write; a torn file cannot be, it is renamed into place.
        let Ok(status) = Status::read(&state_dir) else {
            continue;
        };
        if status.written_at_ms != last_written {
            last_written = status.written_at_ms;
            recording.send_modify(|history| history.merge(status));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(started_at_ms: u64, sessions: u64, disconnects: &[u64]) -> Status {
        let mut status = Status {
            started_at_ms,
            pid: 7,
            ..Status::default()
        };
        status.link.sessions = sessions;
        status.link.disconnects = disconnects
            .iter()
            .map(|&id| DisconnectEntry {
                id,
                ..DisconnectEntry::default()
            })
            .collect();
        status
    }

    #[test]
    fn polls_overlap_and_processes_add_up() {
        let mut history = History::default();
        history.merge(status(100, 1, &[1]));
        history.merge(status(100, 2, &[1, 2]));
        history.merge(status(200, 1, &[1]));
        assert_eq!(history.sessions(), 3);
        assert_eq!(history.processes(), 2);
        assert_eq!(
            history
                .disconnects()
                .map(|entry| entry.id)
                .collect::<Vec<_>>(),
            [1, 2, 1]
        );
    }
}
