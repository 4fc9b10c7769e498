//! A TCP proxy that does on purpose what networks do by accident. The demo and the tests put it between gateway and
//! broker, so that every fault is the same on every machine and needs no privileges.
//!
//! ```text
//!  client ──► accept ──► connection ─┬─► pump (to broker) ──► broker
//!                                    └─◄ pump (to client) ◄──
//!  orders: a Mode lasts until the next one; a Strike hits the connections that are open now.
//! ```
//!
//! Bytes pass unchanged and in order. A tap, if there is one, reads along and reports the publishes the broker has
//! acknowledged: an account of what was delivered that neither the gateway nor the subscriber wrote.

mod accept;
mod connection;
mod pump;
pub mod tap;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use tap::Acknowledged;

/// Commands that may wait for the acceptor.
const COMMANDS: usize = 16;

/// Which way bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the connecting client to the broker.
    ToBroker,
    /// From the broker to the client.
    ToClient,
}

/// What happens to bytes and to new connections until the next mode.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Mode {
    /// Everything passes.
    #[default]
    Pass,
    /// Nobody listens: new connections are refused. Open ones go on.
    Refuse,
    /// Sockets stay open and connections are accepted, but no byte is forwarded, in one direction or (`None`) both. The
    /// way swallows bytes, so that the sender meets silence and not a full socket; they flow when the mode ends.
    BlackHole(Option<Direction>),
    /// The proxy stops reading what the client sends: the client's socket fills up.
    Unread,
    /// Bytes pass late and slowly.
    Shape(Shape),
}

/// How late and how slowly.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shape {
    /// Added to every chunk, each way.
    pub latency: Duration,
    /// Up to this much more, drawn from `seed`. Order is kept.
    pub jitter: Duration,
    /// Each way; none = as fast as it goes.
    pub bytes_per_s: Option<u64>,
    /// The same seed gives the same delays.
    pub seed: u64,
}

/// What is done once, to every open connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    /// RST to both sides.
    Reset,
    /// FIN to both sides.
    Close,
    /// The next chunk from the client is forwarded by half; then RST to both sides.
    CutMidPacket,
}

/// What the proxy has seen since it was bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// TCP connections accepted.
    pub connections: u64,
    /// TCP connections open now.
    pub open: u64,
    /// CONNECT packets from clients. Counted even where they were then not forwarded.
    pub connects: u64,
    /// PUBACKs with a successful reason that the broker sent. Needs a tap.
    pub acknowledged: u64,
}

/// What the connections are told: the mode, and the last strike with its number.
#[derive(Clone, Copy, Debug, Default)]
struct Orders {
    mode: Mode,
    strikes: u64,
    strike: Option<Strike>,
}

#[derive(Debug)]
enum Command {
    Mode(Mode, oneshot::Sender<io::Result<()>>),
    Strike(Strike, oneshot::Sender<()>),
    Stop,
}

/// A bound proxy. Dropping it ends it and all its connections.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    commands: mpsc::Sender<Command>,
    counts: watch::Receiver<Counts>,
    acceptor: JoinHandle<()>,
}

impl FaultProxy {
    /// Listens on a free loopback port and forwards to `upstream`.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn bind(upstream: SocketAddr) -> io::Result<Self> {
        Self::start(upstream, None).await
    }

    /// Like [`FaultProxy::bind`], and reports every publish that the broker acknowledged, before the client learns of
    /// it. A full channel holds the proxied connections back.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn bind_tapped(
        upstream: SocketAddr,
        tap: mpsc::Sender<Acknowledged>,
    ) -> io::Result<Self> {
        Self::start(upstream, Some(tap)).await
    }

    async fn start(
        upstream: SocketAddr,
        tap: Option<mpsc::Sender<Acknowledged>>,
    ) -> io::Result<Self> {
        let listener = accept::listen(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let address = listener.local_addr()?;
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (counting, counts) = watch::channel(Counts::default());
        let acceptor = accept::Acceptor::new(address, upstream, tap, counting, inbox);
        let acceptor = tokio::spawn(acceptor.run(listener));
        tokio::task::yield_now().await;
        Ok(Self {
            address,
            commands,
            counts,
            acceptor,
        })
    }

    /// Where to connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What was seen so far. `changed()` on the receiver waits for more.
    #[must_use]
    pub fn counts(&self) -> watch::Receiver<Counts> {
        self.counts.clone()
    }

    /// Changes the mode; returns when it is in force for new connections and told to the open ones.
    ///
    /// # Errors
    /// When the port cannot be bound again after [`Mode::Refuse`], or the proxy has ended.
    pub async fn set(&self, mode: Mode) -> io::Result<()> {
        let (done, in_force) = oneshot::channel();
        self.order(Command::Mode(mode, done)).await?;
        in_force.await.unwrap_or_else(|_ended| Err(ended()))
    }

    /// Hits the connections that are open now.
    ///
    /// # Errors
    /// When the proxy has ended.
    pub async fn strike(&self, strike: Strike) -> io::Result<()> {
        let (done, told) = oneshot::channel();
        self.order(Command::Strike(strike, done)).await?;
        told.await.map_err(|_ended| ended())
    }

    /// Stops listening and closes every connection.
    ///
    /// # Errors
    /// When the proxy's task panicked.
    pub async fn stop(mut self) -> io::Result<()> {
        // A closed channel means it has ended already, which is what is asked for.
        self.commands.send(Command::Stop).await.unwrap_or(());
        (&mut self.acceptor).await.map_err(io::Error::other)
    }

    async fn order(&self, command: Command) -> io::Result<()> {
        self.commands.send(command).await.map_err(|_ended| ended())
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the fault proxy has ended")
}
