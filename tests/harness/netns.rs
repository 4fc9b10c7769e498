//! A network of two hosts, made of network namespaces: the broker on one, the gateway on the other, a cable between.
//!
//! ```text
//!  the test, Mosquitto, the audit                         the gateway
//!  10.77.0.1 on `broker` ◄──────────── veth ────────────► `eth0`, 10.77.0.2
//!  (and loopback for the audit)
//! ```
//!
//! The test runs itself again inside namespaces of its own (network, processes, and users when it is not root). Nothing
//! has a name outside, so that tests run side by side, and the kernel clears everything away when the test ends, however
//! it ends.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::{binary, missing, mosquitto, plugins};

/// Set for the test that runs inside.
const INSIDE: &str = "MOORLINE_NETNS";
/// Debian puts these where only root's PATH leads.
const SBIN: &str = ":/usr/sbin:/sbin";

/// The broker's address on the cable.
pub const BROKER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The gateway's.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Another one for the gateway.
pub const GATEWAY_MOVED: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
/// Where the broker listens on the cable.
pub const PORT: u16 = 1883;

/// A line for Mosquitto's configuration: it listens on the cable, too.
#[must_use]
pub fn listener() -> String {
    format!("listener {PORT} {BROKER}")
}

/// Where the gateway finds the broker.
#[must_use]
pub fn broker_address() -> SocketAddr {
    (IpAddr::V4(BROKER), PORT).into()
}

/// Milliseconds since the Unix epoch.
///
/// # Panics
/// When the clock stands before it.
#[must_use]
pub fn now_ms() -> u64 {
    now_us() / 1_000
}

/// Microseconds since the Unix epoch.
///
/// # Panics
/// When the clock stands before it.
#[must_use]
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_micros()).unwrap()
}

/// Runs `test` in namespaces of its own; `name` is its full name, by which the test program finds it again.
///
/// # Panics
/// When the test fails, or what it needs is missing and required.
pub fn inside(name: &str, test: impl Future<Output = ()>) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        return runtime.block_on(test);
    }
    if mosquitto().is_none() || !available() {
        return;
    }
    // Not inside: there may be no root any more who could build it.
    let binary = binary();
    let mut again = unshare();
    again
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .env("MOORLINE_BINARY", binary);
    plugins::hand_down(&mut again);
    let output = again.output().unwrap();
    let (told, errors) = (text(&output.stdout), text(&output.stderr));
    print!("{told}");
    eprint!("{errors}");
    assert!(
        output.status.success() && told.contains("1 passed"),
        "{name} inside its namespaces: {}",
        output.status
    );
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `unshare`, on its way into fresh namespaces.
fn unshare() -> Command {
    let mut command = tool("unshare");
    command.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command
}

fn tool(name: &str) -> Command {
    let mut command = Command::new(name);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", path + SBIN);
    command
}

/// Whether this machine lets us make namespaces and has what is run in them.
fn available() -> bool {
    let script = "ip link set lo up && ip link add name near type veth peer name far && ip link set near up && \
                  tc qdisc add dev near root tbf rate 1mbit burst 10kb latency 100ms && \
                  iptables -A INPUT -i near -p tcp -j REJECT --reject-with tcp-reset && command -v nsenter";
    let tried = unshare().args(["sh", "-c", script]).output();
    match tried {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            missing(&format!(
                "a network namespace with ip, tc and iptables ({})",
                text(&output.stderr).trim()
            ));
            false
        }
        Err(error) => {
            missing(&format!("unshare, from util-linux ({error})"));
            false
        }
    }
}

/// Runs `line` in a shell and panics unless it succeeds.
fn run(command: &mut Command, line: &str) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.args(["sh", "-c", line]).output().unwrap();
    assert!(
        status.success(),
        "{line}: {status}\n{}{}",
        text(&stdout),
        text(&stderr)
    );
}

/// The two hosts and the cable. Call it from inside only.
#[derive(Debug)]
pub struct Cable {
    /// Keeps the gateway's namespace while no gateway runs.
    holder: Child,
}

impl Cable {
    /// Lays it.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[must_use]
    pub fn lay() -> Self {
        let holder = tool("unshare")
            .args(["--net", "sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let cable = Self { holder };
        cable.wait_for_namespace();
        cable.at_broker(&format!(
            "ip link set lo up && ip link add broker type veth peer name eth0 netns {pid} && \
             ip address add {BROKER}/24 dev broker && ip link set broker up",
            pid = cable.holder.id()
        ));
        cable.at_gateway(&format!(
            "ip link set lo up && ip address add {GATEWAY}/24 dev eth0 && ip link set eth0 up && \
             for look in $(seq 200); do ip -brief link show dev eth0 | grep -q ' UP ' && exit; sleep 0.05; done; exit 1"
        ));
        cable
    }

    /// The holder leaves our namespace a moment after it was started.
    fn wait_for_namespace(&self) {
        let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/net")).unwrap();
        let holder = self.holder.id().to_string();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while namespace(&holder) == namespace("self") {
            assert!(std::time::Instant::now() < deadline, "no second namespace");
            std::thread::yield_now();
        }
    }

    /// Runs a line of shell on the broker's host.
    ///
    /// # Panics
    /// When it fails.
    pub fn at_broker(&self, line: &str) {
        run(&mut tool("env"), line);
    }

    /// Runs a line of shell on the gateway's host.
    ///
    /// # Panics
    /// When it fails.
    pub fn at_gateway(&self, line: &str) {
        let mut command = tool("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.id()));
        run(&mut command, line);
    }

    /// The words of a shell that run what follows them on the gateway's host.
    #[must_use]
    pub fn inside(&self) -> String {
        format!("exec nsenter --net=/proc/{}/ns/net", self.holder.id())
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        // It may have ended before; the namespace goes with the test in any case.
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}
