//! The broker of demo and tests: a child process, so that `kill -9` means what it says.
//!
//! Mosquitto when it is installed: it is what people run. Else the embedded one: the crate `mqtt5` run by a hidden
//! subcommand of our own binary. Why `mqtt5` 0.49: it speaks 5.0 and 3.1.1 on one port and keeps sessions on disk; it
//! adds 34 crates to the lock file, all of current majors, under MIT or Apache-2.0. `rumqttd` 0.20 adds 81, among them
//! two generations each of hyper, http, toml, thiserror and rand, needs one port per version and forgets its sessions
//! with the process. `rmqtt` 0.24 does not build as a library without its network stack of another hundred.
//!
//! **Mosquitto's own losses are configured away.** `max_inflight_messages 0` makes it write a publish to the
//! subscriber's socket in the same step, before it writes the PUBACK; what has reached the other end's receive buffer
//! survives `kill -9`, so for a subscriber that keeps up nothing is lost. For the moments in which the subscriber is away,
//! `autosave_on_changes` with `autosave_interval 1` puts session and queue on disk at each change. The embedded broker
//! answers PUBACK before it has written to the subscriber, so it can lose what it acknowledged; the audit's tap tells that
//! apart.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// How long a broker may take to listen.
const READY: Duration = Duration::from_secs(20);
const READY_POLL: Duration = Duration::from_millis(20);
/// Where Debian puts it; root's PATH may lack the second.
const MOSQUITTO_DIRECTORIES: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin"];

/// Which broker runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokerKind {
    /// The installed Mosquitto, by path.
    Mosquitto(PathBuf),
    /// Our own binary, by path, as `demo-part broker`.
    Embedded(PathBuf),
}

impl BrokerKind {
    /// Mosquitto if there is one, else the embedded broker of the running binary.
    ///
    /// # Errors
    /// When the running binary's path is unknown.
    pub fn find() -> io::Result<Self> {
        match find_mosquitto() {
            Some(path) => Ok(Self::Mosquitto(path)),
            None => std::env::current_exe().map(Self::Embedded),
        }
    }

    /// For people.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Mosquitto(_) => "Mosquitto",
            Self::Embedded(_) => "embedded (crate mqtt5)",
        }
    }
}

/// The installed Mosquitto.
#[must_use]
pub fn find_mosquitto() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(MOSQUITTO_DIRECTORIES.iter().map(PathBuf::from))
        .map(|directory| directory.join("mosquitto"))
        .find(|candidate| candidate.is_file())
}

/// A broker on a port of its own. Dropping it kills it.
#[derive(Debug)]
pub struct Broker {
    kind: BrokerKind,
    address: SocketAddr,
    directory: PathBuf,
    extra: String,
    child: Option<Child>,
}

impl Broker {
    /// Starts `kind` on a free loopback port with its files in `directory`, and waits until it listens.
    ///
    /// # Errors
    /// When it does not start, or does not listen in time.
    pub async fn start(kind: BrokerKind, directory: &Path) -> io::Result<Self> {
        Self::start_with(kind, directory, "").await
    }

    /// Like [`Broker::start`], with lines added to Mosquitto's configuration.
    ///
    /// # Errors
    /// When it does not start, or does not listen in time.
    pub async fn start_with(kind: BrokerKind, directory: &Path, extra: &str) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let address = vacant_port()?;
        let directory = directory.to_owned();
        let mut broker = Self {
            kind,
            address,
            directory,
            extra: extra.to_owned(),
            child: None,
        };
        broker.resume().await?;
        Ok(broker)
    }

    /// Where to connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Which broker it is.
    #[must_use]
    pub fn kind(&self) -> &BrokerKind {
        &self.kind
    }

    /// Everything it wrote, over all its lives.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self) -> io::Result<String> {
        std::fs::read_to_string(self.log_file())
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

    /// Starts it again on the same port with the same files, and waits until it listens.
    ///
    /// # Errors
    /// When it does not start, or does not listen in time.
    pub async fn resume(&mut self) -> io::Result<()> {
        self.kill().await?;
        let mut command = match &self.kind {
            BrokerKind::Mosquitto(path) => self.mosquitto(path)?,
            BrokerKind::Embedded(path) => self.embedded(path),
        };
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        self.child = Some(command.spawn()?);
        self.wait_until_it_listens().await
    }

    async fn wait_until_it_listens(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + READY;
        while TcpStream::connect(self.address).await.is_err() {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                let log = self.log().unwrap_or_default();
                let last = log.lines().next_back().unwrap_or("no output");
                return Err(io::Error::other(format!(
                    "the broker ended with {status}: {last}"
                )));
            }
            if Instant::now() > deadline {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the broker does not listen",
                ));
            }
            sleep(READY_POLL).await;
        }
        Ok(())
    }

    fn log_file(&self) -> PathBuf {
        self.directory.join("broker.log")
    }

    fn mosquitto(&self, path: &Path) -> io::Result<Command> {
        let configuration = self.directory.join("mosquitto.conf");
        let text = format!(
            "listener {port} {ip}\n\
             allow_anonymous true\n\
             user root\n\
             persistence true\n\
             persistence_location {directory}/\n\
             autosave_on_changes true\n\
             autosave_interval 1\n\
             max_inflight_messages 0\n\
             max_queued_messages 0\n\
             log_dest stderr\n\
             log_type error\nlog_type warning\nlog_type notice\nlog_type information\n\
             connection_messages true\n\
             {extra}\n",
            port = self.address.port(),
            ip = self.address.ip(),
            directory = self.directory.display(),
            extra = self.extra,
        );
        std::fs::write(&configuration, text)?;
        let mut command = Command::new(path);
        command.arg("-c").arg(configuration);
        Ok(command)
    }

    fn embedded(&self, path: &Path) -> Command {
        let mut command = Command::new(path);
        let port = OsString::from(self.address.port().to_string());
        command
            .args(["demo-part", "broker", "--port"])
            .arg(port)
            .arg("--directory")
            .arg(&self.directory);
        command
    }
}

/// A loopback port that nobody listens on. Somebody else may take it before it is used; then the start fails and says
/// so.
fn vacant_port() -> io::Result<SocketAddr> {
    std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()
}
