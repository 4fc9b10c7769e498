//! One open stream: a TCP connection or a serial port. Everything above it is the same for both.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::berth::Berth;
use super::serial_port::SerialPort;
use crate::plugins::stream_target::{StreamTarget, TcpTarget};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// An open stream.
#[derive(Debug)]
pub(crate) enum Line {
    Tcp(TcpStream),
    Serial(SerialPort),
}

/// What becomes of bytes that were written and have not left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsent {
    /// They go first.
    Sent,
    /// They are of no use any more.
    Dropped,
}

impl Line {
    /// In `berth`, if it is a port.
    ///
    /// # Errors
    /// With the words for whoever has to see to it.
    pub(crate) async fn open(target: &StreamTarget, berth: &Berth) -> Result<Self, String> {
        match target {
            StreamTarget::Tcp(peer) => match timeout(CONNECT_TIMEOUT, connect(peer)).await {
                Ok(Ok(stream)) => Ok(Self::Tcp(stream)),
                Ok(Err(error)) => Err(format!("{target}: {error}")),
                Err(_elapsed) => Err(format!("{target}: no answer to the connection request")),
            },
            StreamTarget::Serial(port) => {
                let opened = SerialPort::open(port, berth, CONNECT_TIMEOUT).await;
                opened.map(Self::Serial)
            }
        }
    }

    pub(crate) async fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(chunk).await,
            Self::Serial(port) => port.reader().read(chunk).await,
        }
    }

    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes).await,
            Self::Serial(port) => port.writer().write_all(bytes).await,
        }
    }

    /// What is there already, past tokio, which learns of waiting bytes only on its next turn. Neither kind blocks.
    pub(super) fn read_now(&self, chunk: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(self.as_fd(), chunk)?)
    }

    /// What it means that nothing more comes.
    pub(super) fn ended(&self) -> String {
        match self {
            Self::Tcp(_) => "closed by the peer".to_owned(),
            Self::Serial(port) => port.hung_up(),
        }
    }

    pub(super) fn failed(&self, error: &io::Error) -> String {
        match self {
            Self::Tcp(_) => error.to_string(),
            Self::Serial(port) => port.failed(error),
        }
    }

    /// What it means that bytes are not taken.
    pub(super) fn stalled(&self) -> String {
        match self {
            Self::Tcp(_) => "the device does not read".to_owned(),
            Self::Serial(port) => port.stalled(),
        }
    }

    /// Waits for nothing.
    pub(super) fn close(self, unsent: Unsent) {
        match self {
            Self::Tcp(_) => {}
            Self::Serial(port) => port.close(unsent),
        }
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Serial(port) => port.as_fd(),
        }
    }
}

async fn connect(peer: &TcpTarget) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((peer.host.as_str(), peer.port)).await?;
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}
