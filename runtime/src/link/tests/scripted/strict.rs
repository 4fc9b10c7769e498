//! A broker that takes what it said in CONNACK to the letter.

use std::collections::VecDeque;
use std::time::Duration;

use moorline_core::mqtt_frame::PacketKind;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::{Peer, puback, qos, subscribe_answer};

/// When nothing has come for so long, a publish that is held back is acknowledged: whoever means to send more than it may has
/// done so by then.
const QUIET: Duration = Duration::from_millis(10);
/// Reason codes of a DISCONNECT (MQTT 5.0 section 3.14.2.1).
const RECEIVE_MAXIMUM_EXCEEDED: u8 = 0x93;
const PACKET_TOO_LARGE: u8 = 0x95;

/// What it said.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Terms {
    pub(in super::super) receive_maximum: u16,
    pub(in super::super) packet_bytes_max: u32,
}

impl Terms {
    /// CONNACK of 5.0 with these terms.
    pub(in super::super) fn connack(self, session_present: bool) -> Vec<u8> {
        let mut connack = vec![0x20, 11, u8::from(session_present), 0, 8, 0x21];
        connack.extend(self.receive_maximum.to_be_bytes());
        connack.push(0x27);
        connack.extend(self.packet_bytes_max.to_be_bytes());
        connack
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// Acknowledges publishes one by one, each as late as it can, and ends the session with the code of what was broken.
    pub(super) async fn serve_within(&mut self, terms: Terms) -> bool {
        let mut held = VecDeque::new();
        loop {
            let answer = match tokio::time::timeout(QUIET, self.next_frame()).await {
                Ok(None) => return false,
                Ok(Some((_, frame))) if frame.len() > terms.packet_bytes_max as usize => {
                    return self.end_with(PACKET_TOO_LARGE).await;
                }
                Ok(Some((PacketKind::Publish, frame))) if qos(&frame) > 0 => {
                    held.push_back(frame);
                    if held.len() > usize::from(terms.receive_maximum) {
                        return self.end_with(RECEIVE_MAXIMUM_EXCEEDED).await;
                    }
                    continue;
                }
                Ok(Some((PacketKind::Pingreq, _))) => vec![0xd0, 0],
                Ok(Some((PacketKind::Subscribe, frame))) => subscribe_answer(&frame, 1),
                Ok(Some(_)) => continue,
                Err(_quiet) => match held.pop_front() {
                    Some(publish) => puback(&publish, 0),
                    None => continue,
                },
            };
            if self.stream.write_all(&answer).await.is_err() {
                return false;
            }
        }
    }

    async fn end_with(&mut self, code: u8) -> bool {
        self.stream.write_all(&[0xe0, 1, code]).await.is_ok()
            && self.stream.shutdown().await.is_ok()
    }
}
