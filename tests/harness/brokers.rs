//! Brokers that people run, as they come: default limits, nobody has to log in, a process of its own on loopback.
//!
//! Mosquitto is the distribution's, `mqtt5` is what `moorline demo` embeds, the others are put by `tests/run` where
//! `MOORLINE_BROKERS` says, or in `target/brokers`.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use moorline::demo::broker::find_mosquitto;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;

use crate::{binary, eventually, missing, python, repository};

/// How long a broker may take to listen: two interpreters are among them.
const READY: Duration = Duration::from_secs(30);
/// How long one may take to end in good order.
const GRACE: Duration = Duration::from_secs(15);

/// Who made a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Make {
    /// Eclipse Mosquitto, C.
    Mosquitto,
    /// The crate `mqtt5`, Rust, as `moorline demo` embeds it.
    Mqtt5,
    /// rumqttd, Rust: a port for each version of the protocol.
    Rumqttd,
    /// aedes, JavaScript: 3.1.1 only.
    Aedes,
    /// amqtt, Python: 3.1.1 only.
    Amqtt,
}

/// A version of the protocol, as brokers count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// 3.1.1.
    Four = 4,
    /// 5.0.
    Five = 5,
}

impl Level {
    /// The name in status and documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Four => "3.1.1",
            Self::Five => "5.0",
        }
    }
}

impl Make {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Mosquitto,
        Self::Mqtt5,
        Self::Rumqttd,
        Self::Aedes,
        Self::Amqtt,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mosquitto => "Mosquitto",
            Self::Mqtt5 => "mqtt5",
            Self::Rumqttd => "rumqttd",
            Self::Aedes => "aedes",
            Self::Amqtt => "amqtt",
        }
    }

    /// What it speaks.
    #[must_use]
    pub const fn levels(self) -> &'static [Level] {
        match self {
            Self::Mosquitto | Self::Mqtt5 | Self::Rumqttd => &[Level::Four, Level::Five],
            Self::Aedes | Self::Amqtt => &[Level::Four],
        }
    }

    /// Whether what is installed is built for speed, so that a bench against it says something.
    #[must_use]
    pub fn is_fast(self) -> bool {
        self != Self::Rumqttd || rumqttd_built("release").is_file()
    }

    /// The version that is installed; none, after saying so, when none is.
    ///
    /// # Panics
    /// When it is missing and required.
    #[must_use]
    pub fn version(self) -> Option<String> {
        let found = match self {
            Self::Mosquitto => find_mosquitto()
                .and_then(|path| first_word_like_a_version(Command::new(path).arg("-h"))),
            Self::Mqtt5 => lock_file("Cargo.lock", "mqtt5"),
            Self::Rumqttd => lock_file("tests/harness/rumqttd/Cargo.lock", "rumqttd")
                .filter(|_version| rumqttd().is_file()),
            Self::Aedes => std::fs::read(shelf().join("node_modules/aedes/package.json"))
                .ok()
                .and_then(|json| {
                    let package: serde_json::Value = serde_json::from_slice(&json).ok()?;
                    Some(package["version"].as_str()?.to_owned())
                }),
            Self::Amqtt => first_word_like_a_version(
                Command::new(python()?).args(["-c", "import amqtt; print(amqtt.__version__)"]),
            ),
        };
        if found.is_none() {
            missing(self.name());
        }
        found
    }
}

/// Where the brokers are that no distribution has.
fn shelf() -> PathBuf {
    std::env::var_os("MOORLINE_BROKERS")
        .map_or_else(|| repository().join("target/brokers"), PathBuf::from)
}

fn first_word_like_a_version(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace()
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()))
        .map(str::to_owned)
}

/// rumqttd's binary of this profile.
fn rumqttd_built(profile: &str) -> PathBuf {
    let target = shelf().join("rumqttd");
    target.join(profile).join("rumqttd-for-tests")
}

/// rumqttd's binary; the one for speed, unless there is another only.
fn rumqttd() -> PathBuf {
    Some(rumqttd_built("release"))
        .filter(|binary| binary.is_file())
        .unwrap_or_else(|| rumqttd_built("debug"))
}

/// The version of a crate in a lock file of the repository.
fn lock_file(file: &str, name: &str) -> Option<String> {
    let lock = std::fs::read_to_string(repository().join(file)).ok()?;
    let (_before, after) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    Some(after.split_once('"')?.0.to_owned())
}

/// A broker that runs. Dropping it kills it.
#[derive(Debug)]
pub struct RealBroker {
    make: Make,
    version: String,
    directory: PathBuf,
    ports: Vec<(Level, SocketAddr)>,
    child: Option<Child>,
}

impl RealBroker {
    /// Starts `make` with its files in `directory` and waits until it listens; none, after saying so, when it is not
    /// installed.
    ///
    /// # Panics
    /// When it does not start, or is missing and required.
    pub async fn start(make: Make, directory: &Path) -> Option<Self> {
        let version = make.version()?;
        std::fs::create_dir_all(directory).unwrap();
        let one = vacant_port();
        let ports = make
            .levels()
            .iter()
            .map(|&level| match (make, level) {
                (Make::Rumqttd, Level::Five) => (level, vacant_port()),
                (Make::Rumqttd, Level::Four)
                | (Make::Mosquitto | Make::Mqtt5 | Make::Aedes | Make::Amqtt, _) => (level, one),
            })
            .collect();
        let mut broker = Self {
            make,
            version,
            directory: directory.to_owned(),
            ports,
            child: None,
        };
        broker.resume().await;
        Some(broker)
    }

    /// Which it is.
    #[must_use]
    pub fn make(&self) -> Make {
        self.make
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Where it speaks `level`.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn address(&self, level: Level) -> SocketAddr {
        let port = self.ports.iter().find(|(spoken, _)| *spoken == level);
        port.unwrap().1
    }

    /// Starts it again on the same ports, and waits until it listens.
    ///
    /// # Panics
    /// When it does not.
    pub async fn resume(&mut self) {
        self.kill().await;
        let log = std::fs::File::create(self.directory.join("broker.log")).unwrap();
        let mut command = tokio::process::Command::from(self.command());
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true);
        self.child = Some(command.spawn().unwrap());
        let what = format!("{} listens", self.make.name());
        eventually(&what, READY, || {
            self.ports
                .iter()
                .all(|(_, address)| std::net::TcpStream::connect(address).is_ok())
                .then_some(())
        })
        .await;
    }

    /// kill -9, and waits until it is dead.
    ///
    /// # Panics
    /// When the operating system refuses.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.unwrap();
        }
    }

    /// SIGTERM, as an operator's `systemctl stop` sends it, and waits until it has ended; one that does not is killed.
    ///
    /// # Panics
    /// When the operating system refuses.
    pub async fn terminate(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let pid = child
            .id()
            .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        kill_process(pid.unwrap(), Signal::TERM).unwrap();
        if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
            child.kill().await.unwrap();
        }
    }

    fn command(&self) -> Command {
        match self.make {
            Make::Mosquitto => self.mosquitto(),
            Make::Mqtt5 => self.mqtt5(),
            Make::Rumqttd => self.rumqttd(),
            Make::Aedes => self.aedes(),
            Make::Amqtt => self.amqtt(),
        }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn port(&self) -> u16 {
        self.address(Level::Four).port()
    }

    fn mosquitto(&self) -> Command {
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\nlog_dest stderr\n",
            self.port()
        );
        let mut command = Command::new(find_mosquitto().unwrap());
        command.arg("-c").arg(self.file("mosquitto.conf", &text));
        command
    }

    fn mqtt5(&self) -> Command {
        let mut command = Command::new(binary());
        command
            .args(["demo-part", "broker", "--port", &self.port().to_string()])
            .arg("--directory")
            .arg(self.directory.join("sessions"));
        command
    }

    fn rumqttd(&self) -> Command {
        let server = |level: Level, version: &str| {
            format!(
                "[{version}.1]\nname = \"{version}-1\"\nlisten = \"{}\"\nnext_connection_delay_ms = 1\n\
                 [{version}.1.connections]\nconnection_timeout_ms = 60000\nmax_payload_size = 20480\n\
                 max_inflight_count = 100\ndynamic_filters = true\n",
                self.address(level)
            )
        };
        let text = format!(
            "id = 0\n[router]\nid = 0\nmax_connections = 100\nmax_outgoing_packet_count = 200\n\
             max_segment_size = 104857600\nmax_segment_count = 10\n{}{}",
            server(Level::Four, "v4"),
            server(Level::Five, "v5"),
        );
        let mut command = Command::new(rumqttd());
        command.arg(self.file("rumqttd.toml", &text));
        command
    }

    fn aedes(&self) -> Command {
        let mut command = Command::new("node");
        command
            .arg(repository().join("tests/harness/aedes.mjs"))
            .arg(shelf().join("node_modules/aedes/aedes.js"))
            .arg(self.port().to_string());
        command
    }

    fn amqtt(&self) -> Command {
        let text = format!(
            "listeners:\n  default:\n    type: tcp\n    bind: 127.0.0.1:{}\nplugins:\n  \
             amqtt.plugins.authentication.AnonymousAuthPlugin:\n    allow_anonymous: true\n",
            self.port()
        );
        let mut command = Command::new(python().unwrap().with_file_name("amqtt"));
        command.arg("-c").arg(self.file("amqtt.yaml", &text));
        command
    }
}

/// A loopback port that nobody listens on.
fn vacant_port() -> SocketAddr {
    TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
}
