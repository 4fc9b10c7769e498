//! What the tap saw on one connection. Written by the tap alone, read by the driver at any time, without a lock.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use moorline_core::link::cause::TlsReject;
use moorline_core::mqtt_frame::{Connack, PacketKind, ServerDisconnect};
use moorline_core::time::Instant;

use crate::clock::Clock;

/// How the wire ended, as the tap saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WireEnd {
    /// The server sent DISCONNECT.
    Disconnect(ServerDisconnect),
    /// The server's CONNACK refused us, or answered in another version than was asked.
    Refused(Connack),
    /// The peer sent bytes that are no MQTT; the first of them, for people.
    Garbage(String),
    /// The peer closed in order.
    Fin,
    /// The server closed the WebSocket around MQTT; its code and reason, for people.
    WebSocketClosed(String),
    /// The kernel reported an error.
    Errno(i32),
    /// TLS ended with an alert or a broken record.
    Tls(TlsReject, String),
}

/// One connection's facts.
#[derive(Debug)]
pub(super) struct Wire {
    clock: Clock,
    received_at: Mark,
    sent_at: Mark,
    received: AtomicU8,
    sent: AtomicU8,
    written: AtomicU64,
    pingreq_at: Mark,
    /// What was written up to then.
    pingreq_written: AtomicU64,
    blocked_at: Mark,
    ping_sent_at: Mark,
    /// The answer time of a ping nobody has taken yet, as a [`Mark`] counted from zero.
    ping_took: Mark,
    probe: AtomicBool,
    connack: OnceLock<Connack>,
    write_error: OnceLock<i32>,
    end: OnceLock<WireEnd>,
}

impl Wire {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            received_at: Mark::default(),
            sent_at: Mark::default(),
            received: AtomicU8::new(0),
            sent: AtomicU8::new(0),
            written: AtomicU64::new(0),
            pingreq_at: Mark::default(),
            pingreq_written: AtomicU64::new(0),
            blocked_at: Mark::default(),
            ping_sent_at: Mark::default(),
            ping_took: Mark::default(),
            probe: AtomicBool::new(false),
            connack: OnceLock::new(),
            write_error: OnceLock::new(),
            end: OnceLock::new(),
        }
    }

    /// When the last bytes came.
    pub(super) fn received_at(&self) -> Option<Instant> {
        self.received_at.get()
    }

    /// When the last bytes went.
    pub(super) fn sent_at(&self) -> Option<Instant> {
        self.sent_at.get()
    }

    /// The last packet that began to arrive.
    pub(super) fn last_received(&self) -> Option<PacketKind> {
        PacketKind::from_number(self.received.load(Ordering::Relaxed))
    }

    /// The last packet that began to leave.
    pub(super) fn last_sent(&self) -> Option<PacketKind> {
        PacketKind::from_number(self.sent.load(Ordering::Relaxed))
    }

    /// When the oldest PINGREQ that nothing has answered went.
    pub(super) fn pingreq_at(&self) -> Option<Instant> {
        self.pingreq_at.get()
    }

    /// Bytes that went, up to and with that PINGREQ.
    pub(super) fn pingreq_written(&self) -> u64 {
        self.pingreq_written.load(Ordering::Relaxed)
    }

    /// Bytes that went, all of them.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Since when the socket takes no more bytes.
    pub(super) fn blocked_at(&self) -> Option<Instant> {
        self.blocked_at.get()
    }

    /// How long the last PINGREQ waited for its PINGRESP; told once.
    pub(super) fn take_ping_time(&self) -> Option<Duration> {
        let took = self.ping_took.get()?;
        self.ping_took.clear();
        Some(took.since_start())
    }

    /// The CONNACK that accepted us.
    pub(super) fn connack(&self) -> Option<&Connack> {
        self.connack.get()
    }

    /// How it ended; a failed write counts when the peer gave no reason of its own before.
    pub(super) fn end(&self) -> Option<WireEnd> {
        match (self.end.get(), self.write_error.get()) {
            (None | Some(WireEnd::Fin), Some(&errno)) => Some(WireEnd::Errno(errno)),
            (end, _) => end.cloned(),
        }
    }

    /// Whether nothing that is written reaches the peer any more.
    pub(super) fn is_over(&self) -> bool {
        self.end.get().is_some() || self.write_error.get().is_some()
    }

    /// Asks the tap to send a PINGREQ of our own at the next frame boundary.
    pub(super) fn ask_probe(&self) {
        self.probe.store(true, Ordering::Relaxed);
    }

    pub(super) fn probe_wanted(&self) -> bool {
        self.probe.load(Ordering::Relaxed)
    }

    pub(super) fn note_probe_sent(&self, bytes: usize) {
        self.probe.store(false, Ordering::Relaxed);
        self.sent
            .store(PacketKind::Pingreq as u8, Ordering::Relaxed);
        self.note_sent(bytes);
        self.note_pingreq();
    }

    fn note_pingreq(&self) {
        let now = self.clock.now();
        if self.pingreq_at.get().is_none() {
            // Before the time that says that it is asked.
            self.pingreq_written
                .store(self.written(), Ordering::Relaxed);
        }
        self.pingreq_at.set_if_unset(now);
        self.ping_sent_at.set_if_unset(now);
    }

    pub(super) fn note_received(&self) {
        self.received_at.set(self.clock.now());
        // Any byte proves the peer alive: under a backlog the PINGRESP itself may come late.
        self.pingreq_at.clear();
    }

    pub(super) fn note_sent(&self, bytes: usize) {
        self.sent_at.set(self.clock.now());
        // One writer, the tap.
        let written = self.written().saturating_add(bytes as u64);
        self.written.store(written, Ordering::Relaxed);
    }

    pub(super) fn note_received_packet(&self, kind: PacketKind) {
        self.received.store(kind as u8, Ordering::Relaxed);
        if kind == PacketKind::Pingresp
            && let Some(sent_at) = self.ping_sent_at.get()
        {
            let took = self.clock.now().saturating_since(sent_at);
            self.ping_took.set(Instant::from_start(took));
            self.ping_sent_at.clear();
        }
    }

    pub(super) fn note_sent_packet(&self, kind: PacketKind) {
        self.sent.store(kind as u8, Ordering::Relaxed);
        if kind == PacketKind::Pingreq {
            self.note_pingreq();
        }
    }

    pub(super) fn note_blocked(&self, blocked: bool) {
        if blocked {
            self.blocked_at.set_if_unset(self.clock.now());
        } else {
            self.blocked_at.clear();
        }
    }

    /// The first CONNACK and the first end stand: whatever follows them is an echo.
    pub(super) fn note_connack(&self, connack: Connack) {
        self.connack.get_or_init(|| connack);
    }

    pub(super) fn note_write_error(&self, errno: i32) {
        self.write_error.get_or_init(|| errno);
    }

    pub(super) fn note_end(&self, end: WireEnd) {
        self.end.get_or_init(|| end);
    }
}

/// A point in time that may be unset, in microseconds since the clock's start, plus one.
#[derive(Debug, Default)]
struct Mark(AtomicU64);

impl Mark {
    fn encode(at: Instant) -> u64 {
        u64::try_from(at.since_start().as_micros()).unwrap_or(u64::MAX - 1) + 1
    }

    fn set(&self, at: Instant) {
        self.0.store(Self::encode(at), Ordering::Relaxed);
    }

    fn set_if_unset(&self, at: Instant) {
        // One writer, the tap: read and write need not be one step.
        if self.0.load(Ordering::Relaxed) == 0 {
            self.set(at);
        }
    }

    fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn get(&self) -> Option<Instant> {
        let micros = self.0.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Instant::from_start(Duration::from_micros(micros)))
    }
}
