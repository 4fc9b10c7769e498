//! The byte tap: it stands between the client crate and the stream, on the plaintext side, and notes what really passes.
//!
//! ```text
//!  client crate ◄──► Tap ◄──► TLS or TCP
//!                     └──► Wire (what was seen)
//! ```
//!
//! The crate loses the reason of many disconnects: a short DISCONNECT, a 3.1.1 CONNACK to a 5.0 CONNECT, a reason code it
//! does not know, a DISCONNECT behind a failed write. So it is never asked. The tap reads these packets itself and shows the
//! crate the end of the stream in their place. Four more things are kept from the crate:
//!
//! - the session-present bit: every session starts with an empty crate, which would refuse to publish on a kept session;
//! - a failed write: what the peer said before it closed is read first;
//! - the end of the stream, for one poll: acknowledgements that came right before it would be lost with it;
//! - a PINGREQ of our own, slipped in at a frame boundary when the driver wants to know whether the peer lives.

use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use moorline_core::link::cause::MqttVersion;
use moorline_core::mqtt_frame::{FrameScanner, PacketKind, body, parse_connack, parse_disconnect};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::dialer::{WebSocketEnd, websocket_ended};
use super::tls;
use super::wire::{Wire, WireEnd};

#[cfg(test)]
mod tests;

/// The longest CONNACK or DISCONNECT that is read; the standard allows more, no server sends it.
const CAPTURE_BYTES_MAX: usize = 16 * 1024;
/// After a failed write the peer's reason is in the kernel already, but the runtime may not have heard of it yet.
const LAST_WORDS_WAIT: Duration = Duration::from_millis(200);
/// How much of what is no MQTT is shown.
const GARBAGE_BYTES_SHOWN: usize = 32;
const PINGREQ: [u8; 2] = [0xc0, 0x00];

/// What the crate may still see.
enum Inbound {
    /// Nothing before the CONNACK is whole.
    AwaitConnack { captured: Vec<u8> },
    /// What the peer sends.
    Flowing,
    /// A DISCONNECT is arriving.
    Disconnecting { captured: Vec<u8> },
    /// The end of the stream.
    Ended,
}

/// A stream that is listened to.
pub(super) struct Tap<S> {
    inner: S,
    version: MqttVersion,
    wire: Arc<Wire>,
    inbound: Inbound,
    /// The crate gets these before anything else: the CONNACK, and what came in one chunk with it.
    ready: Vec<u8>,
    received: FrameScanner,
    sent: FrameScanner,
    write_failed: bool,
    /// How long what the peer said before a write failed is waited for.
    last_words: Option<Pin<Box<Sleep>>>,
    /// The crate was held up once before the end.
    end_announced: bool,
}

impl<S> Tap<S> {
    pub(super) fn new(inner: S, version: MqttVersion, wire: Arc<Wire>) -> Self {
        Self {
            inner,
            version,
            wire,
            inbound: Inbound::AwaitConnack {
                captured: Vec::new(),
            },
            ready: Vec::new(),
            received: FrameScanner::default(),
            sent: FrameScanner::default(),
            write_failed: false,
            last_words: None,
            end_announced: false,
        }
    }

    fn end(&mut self, end: WireEnd) {
        self.wire.note_end(end);
        self.inbound = Inbound::Ended;
    }

    /// Notes what a read failed with.
    fn end_by(&mut self, error: &io::Error) {
        if let Some(end) = websocket_ended(error) {
            return self.end(match end {
                WebSocketEnd::Closed(words) => WireEnd::WebSocketClosed(words),
                WebSocketEnd::Broken(words) => WireEnd::Garbage(words),
            });
        }
        let end = match (tls::rejection(error), error.raw_os_error()) {
            (Some(reject), _) => WireEnd::Tls(reject, error.to_string()),
            (None, Some(errno)) => WireEnd::Errno(errno),
            // TLS without close_notify, and whatever else has no number: the peer just went.
            (None, None) => WireEnd::Fin,
        };
        self.end(end);
    }

    /// The stream ended: a DISCONNECT cut short has still told its code.
    fn end_of_stream(&mut self) {
        match mem::replace(&mut self.inbound, Inbound::Ended) {
            Inbound::Disconnecting { captured } if captured.len() > 2 => {
                self.end(WireEnd::Disconnect(parse_disconnect(body(&captured))));
            }
            Inbound::AwaitConnack { .. }
            | Inbound::Flowing
            | Inbound::Disconnecting { .. }
            | Inbound::Ended => self.end(WireEnd::Fin),
        }
    }

    fn garbage(&mut self, bytes: &[u8], why: &str) {
        let shown = bytes.get(..GARBAGE_BYTES_SHOWN).unwrap_or(bytes);
        self.end(WireEnd::Garbage(format!(
            "{why}: \"{}\"",
            shown.escape_ascii()
        )));
    }

    /// Looks at fresh bytes; says how many of them, from the front, the crate may have.
    fn scan(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        let mut passed = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let Some(piece) = self.received.next_piece(rest) else {
                break;
            };
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    self.garbage(rest, &error.to_string());
                    break;
                }
            };
            let run = rest.get(..piece.len).unwrap_or(rest);
            if piece.begins {
                self.wire.note_received_packet(piece.kind);
                self.begin(piece.kind, rest);
            }
            at += piece.len;
            match &mut self.inbound {
                Inbound::AwaitConnack { captured } | Inbound::Disconnecting { captured } => {
                    let room = CAPTURE_BYTES_MAX.saturating_sub(captured.len());
                    captured.extend_from_slice(run.get(..room).unwrap_or(run));
                }
                Inbound::Flowing if self.ready.is_empty() => passed = at,
                Inbound::Flowing => self.ready.extend_from_slice(run),
                Inbound::Ended => break,
            }
            if piece.ends {
                self.finish();
            }
        }
        passed
    }

    /// A frame begins: is it one a server may send now?
    fn begin(&mut self, kind: PacketKind, rest: &[u8]) {
        match (&self.inbound, kind) {
            (_, PacketKind::Disconnect) => {
                self.inbound = Inbound::Disconnecting {
                    captured: Vec::new(),
                }
            }
            (Inbound::AwaitConnack { .. }, PacketKind::Connack) => {}
            (Inbound::AwaitConnack { .. }, other) => {
                self.garbage(rest, &format!("{} before CONNACK", other.name()));
            }
            (Inbound::Flowing, PacketKind::Connack) => self.garbage(rest, "a second CONNACK"),
            (Inbound::Flowing, other) if !other.from_server() => {
                self.garbage(rest, &format!("{} from a server", other.name()));
            }
            (Inbound::Flowing | Inbound::Disconnecting { .. } | Inbound::Ended, _) => {}
        }
    }

    /// A frame is whole.
    fn finish(&mut self) {
        match &mut self.inbound {
            Inbound::AwaitConnack { captured } => {
                let frame = mem::take(captured);
                self.finish_connack(frame);
            }
            Inbound::Disconnecting { captured } => {
                let frame = mem::take(captured);
                self.end(WireEnd::Disconnect(parse_disconnect(body(&frame))));
            }
            Inbound::Flowing | Inbound::Ended => {}
        }
    }

    fn finish_connack(&mut self, mut frame: Vec<u8>) {
        let Some(connack) = parse_connack(body(&frame)) else {
            return self.garbage(&frame, "a CONNACK too short to say anything");
        };
        // A 3.1.1 server may even accept a 5.0 CONNECT in its own form; nothing it sends after that could be read.
        if connack.code != 0 || connack.form != self.version {
            return self.end(WireEnd::Refused(connack));
        }
        self.wire.note_connack(connack);
        let flags_at = frame.len() - body(&frame).len();
        if let Some(flags) = frame.get_mut(flags_at) {
            *flags = 0;
        }
        self.ready = frame;
        self.inbound = Inbound::Flowing;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Tap<S> {
    /// Reads once into `buf`; `Ok(())` with nothing new means that all that came was kept back.
    fn poll_chunk(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<()> {
        let before = buf.filled().len();
        match Pin::new(&mut self.inner).poll_read(cx, buf) {
            Poll::Pending if self.write_failed => {
                let waited = self
                    .last_words
                    .get_or_insert_with(|| Box::pin(sleep(LAST_WORDS_WAIT)));
                ready!(waited.as_mut().poll(cx));
                self.end_of_stream();
            }
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => self.end_by(&error),
            Poll::Ready(Ok(())) => {
                let fresh = buf.filled().get(before..).unwrap_or_default();
                if fresh.is_empty() {
                    self.end_of_stream();
                } else {
                    self.wire.note_received();
                    let passed = self.scan(fresh);
                    buf.set_filled(before + passed);
                }
            }
        }
        Poll::Ready(())
    }

    /// Slips in the PINGREQ the driver asked for, if the crate is between two frames and the socket has room.
    fn send_probe(&mut self, cx: &mut Context<'_>) {
        if !self.wire.probe_wanted() || !self.sent.at_boundary() || self.write_failed {
            return;
        }
        match Pin::new(&mut self.inner).poll_write(cx, &PINGREQ) {
            Poll::Ready(Ok(written)) if written == PINGREQ.len() => {
                self.wire.note_probe_sent(written);
                if let Poll::Ready(Err(error)) = Pin::new(&mut self.inner).poll_flush(cx) {
                    self.fail_write(&error);
                }
            }
            // Half a PINGREQ would put every frame after it out of step: the connection is of no more use.
            Poll::Ready(Ok(_partly)) => self.write_failed = true,
            Poll::Ready(Err(error)) => self.fail_write(&error),
            Poll::Pending => {}
        }
    }

    fn fail_write(&mut self, error: &io::Error) {
        if let Some(errno) = error.raw_os_error() {
            self.wire.note_write_error(errno);
        }
        self.write_failed = true;
    }

    fn note_written(&mut self, mut bytes: &[u8]) {
        self.wire.note_sent(bytes.len());
        // The crate's own frames: should one be broken, its last kind simply stands.
        while let Some(Ok(piece)) = self.sent.next_piece(bytes) {
            if piece.begins {
                self.wire.note_sent_packet(piece.kind);
            }
            bytes = bytes.get(piece.len..).unwrap_or_default();
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tap<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let tap = self.get_mut();
        tap.send_probe(cx);
        let before = buf.filled().len();
        loop {
            if !tap.ready.is_empty() {
                let rest = tap.ready.split_off(tap.ready.len().min(buf.remaining()));
                buf.put_slice(&tap.ready);
                tap.ready = rest;
                return Poll::Ready(Ok(()));
            }
            if matches!(tap.inbound, Inbound::Ended) {
                if mem::replace(&mut tap.end_announced, true) {
                    return Poll::Ready(Ok(()));
                }
                // The crate reads on while there is something, and forgets what it read when that is the end.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            ready!(tap.poll_chunk(cx, buf));
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let tap = self.get_mut();
        // After a failed write the crate must go on to read: the peer's reason may be waiting there.
        if tap.write_failed {
            return Poll::Ready(Ok(buf.len()));
        }
        match Pin::new(&mut tap.inner).poll_write(cx, buf) {
            Poll::Ready(Ok(written)) => {
                tap.wire.note_blocked(false);
                tap.note_written(buf.get(..written).unwrap_or(buf));
                Poll::Ready(Ok(written))
            }
            Poll::Ready(Err(error)) => {
                tap.fail_write(&error);
                Poll::Ready(Ok(buf.len()))
            }
            Poll::Pending => {
                tap.wire.note_blocked(true);
                Poll::Pending
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let tap = self.get_mut();
        if tap.write_failed {
            return Poll::Ready(Ok(()));
        }
        match Pin::new(&mut tap.inner).poll_flush(cx) {
            Poll::Ready(Ok(())) => tap.wire.note_blocked(false),
            Poll::Ready(Err(error)) => tap.fail_write(&error),
            Poll::Pending => {
                tap.wire.note_blocked(true);
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
