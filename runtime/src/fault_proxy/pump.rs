//! One direction of one connection: bytes from one socket to the other, as the mode says.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::debug;

use super::tap::Chunk;
use super::{Direction, Mode, Orders, Shape, Strike};

const CHUNK_BYTES: usize = 16 * 1024;
/// The receive buffer of a socket that is not read, bytes. It holds more than a segment of the loopback, 32 741 bytes: to a
/// smaller window a sender writes only at its probes, 200 ms apart, so that healing the line would be a fault of its own.
const UNREAD_BYTES: usize = 32 * 1024;
/// Bytes held back by latency, rate or a black hole before the pump stops reading.
const HELD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How one direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PumpEnd {
    /// The sender closed, and everything it had sent is forwarded.
    Finished,
    /// A socket failed, or the chunk was cut.
    Broken,
}

struct Held {
    due: Instant,
    bytes: Bytes,
}

pub(super) struct Pump {
    direction: Direction,
    orders: watch::Receiver<Orders>,
    struck: u64,
    tap: mpsc::Sender<Chunk>,
    random: SplitMix,
    held: VecDeque<Held>,
    held_bytes: usize,
    last_due: Instant,
    finished: bool,
}

impl Pump {
    pub(super) fn new(
        direction: Direction,
        connection: u64,
        struck: u64,
        orders: watch::Receiver<Orders>,
        tap: mpsc::Sender<Chunk>,
    ) -> Self {
        let lane = match direction {
            Direction::ToBroker => 0,
            Direction::ToClient => 1,
        };
        Self {
            direction,
            orders,
            struck,
            tap,
            random: SplitMix(connection * 2 + lane),
            held: VecDeque::new(),
            held_bytes: 0,
            last_due: Instant::now(),
            finished: false,
        }
    }

    pub(super) async fn run(mut self, from: &TcpStream, to: &TcpStream) -> PumpEnd {
        match self.forward(from, to).await {
            Ok(()) => PumpEnd::Finished,
            Err(_socket_failed) => PumpEnd::Broken,
        }
    }

    async fn forward(&mut self, from: &TcpStream, to: &TcpStream) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let mode = self.orders.borrow_and_update().mode;
            let passes = self.passes(mode);
            if passes && self.finished && self.held.is_empty() {
                return Ok(());
            }
            let reads =
                !self.finished && self.held_bytes < HELD_BYTES_MAX && self.reads(mode, from);
            let due = self.held.front().map(|held| held.due);
            tokio::select! {
                told = self.orders.changed() => if told.is_err() { return Ok(()) },
                ready = from.readable(), if reads => {
                    ready?;
                    match from.try_read(&mut buffer) {
                        Ok(0) => self.finished = true,
                        Ok(length) => self.take(Bytes::copy_from_slice(&buffer[..length]), mode, to).await?,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error),
                    }
                }
                () = sleep_until(due), if passes && due.is_some() => self.release(to).await?,
            }
        }
    }

    fn passes(&self, mode: Mode) -> bool {
        match mode {
            Mode::BlackHole(None) => false,
            Mode::BlackHole(Some(direction)) => direction != self.direction,
            Mode::Pass | Mode::Refuse | Mode::Unread | Mode::Shape(_) => true,
        }
    }

    /// Whether bytes are taken from the sender. While they are not, the kernel must not take them in our place.
    fn reads(&self, mode: Mode, from: &TcpStream) -> bool {
        let unread = mode == Mode::Unread && self.direction == Direction::ToBroker;
        if unread && let Err(error) = SockRef::from(from).set_recv_buffer_size(UNREAD_BYTES) {
            debug!(%error, "fault proxy: SO_RCVBUF refused");
        }
        !unread
    }

    /// Forwards a chunk at once, or holds it until it is due.
    async fn take(&mut self, bytes: Bytes, mode: Mode, to: &TcpStream) -> io::Result<()> {
        if self.is_cut() {
            write_all(to, &bytes[..bytes.len() / 2]).await?;
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let chunk = Chunk {
            direction: self.direction,
            bytes: bytes.clone(),
        };
        self.tap
            .send(chunk)
            .await
            .map_err(|_tap_ended| io::Error::from(io::ErrorKind::BrokenPipe))?;
        let shape = match mode {
            Mode::Shape(shape) => Some(shape),
            Mode::Pass | Mode::Refuse | Mode::Unread | Mode::BlackHole(_) => None,
        };
        match shape {
            None if self.held.is_empty() && self.passes(mode) => write_all(to, &bytes).await,
            shape => {
                let due = self.due(shape.unwrap_or_default(), bytes.len());
                self.held_bytes += bytes.len();
                self.held.push_back(Held { due, bytes });
                Ok(())
            }
        }
    }

    async fn release(&mut self, to: &TcpStream) -> io::Result<()> {
        let Some(held) = self.held.pop_front() else {
            return Ok(());
        };
        self.held_bytes -= held.bytes.len();
        write_all(to, &held.bytes).await
    }

    /// When a chunk that arrives now leaves: never before the one ahead of it.
    fn due(&mut self, shape: Shape, length: usize) -> Instant {
        let jitter = shape.jitter.mul_f64(self.random.unit(shape.seed));
        let mut due = self.last_due.max(Instant::now() + shape.latency + jitter);
        if let Some(rate) = shape.bytes_per_s {
            due += Duration::from_secs_f64(length as f64 / rate.max(1) as f64);
        }
        self.last_due = due;
        due
    }

    fn is_cut(&self) -> bool {
        let orders = self.orders.borrow();
        self.direction == Direction::ToBroker
            && orders.strikes > self.struck
            && orders.strike == Some(Strike::CutMidPacket)
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn write_all(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// `SplitMix64`: small, seedable, good enough to place delays.
struct SplitMix(u64);

impl SplitMix {
    /// A number in `0.0..1.0`.
    fn unit(&mut self, seed: u64) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0 ^ seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
