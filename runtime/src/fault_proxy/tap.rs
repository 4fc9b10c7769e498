//! Reads along: counts CONNECTs and reports publishes that the broker has acknowledged.
//!
//! The tap gets every chunk before it is forwarded, so a PUBLISH is always known before its PUBACK comes by.

use std::collections::HashMap;

use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::{mpsc, watch};

use super::{Counts, Direction};

/// Chunks on their way from the pumps to the tap.
const CHUNKS: usize = 64;
const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const LEVEL_5: u8 = 5;
/// PUBACK reason codes from here on are refusals.
const REFUSAL: u8 = 0x80;

/// A publish that the broker has acknowledged with QoS 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// The topic.
    pub topic: String,
    /// The payload.
    pub payload: Bytes,
}

/// Bytes as they passed.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) direction: Direction,
    pub(super) bytes: Bytes,
}

/// Starts a tap for one connection. It ends when both pumps have dropped their senders.
pub(super) fn spawn(
    acknowledged: Option<mpsc::Sender<Acknowledged>>,
    counts: watch::Sender<Counts>,
) -> mpsc::Sender<Chunk> {
    let (chunks, mut inbox) = mpsc::channel::<Chunk>(CHUNKS);
    tokio::spawn(async move {
        let mut reader = Reader::default();
        while let Some(chunk) = inbox.recv().await {
            for seen in reader.read(&chunk) {
                match seen {
                    Seen::Connect => counts.send_modify(|counts| counts.connects += 1),
                    Seen::Acknowledged(publish) => {
                        counts.send_modify(|counts| counts.acknowledged += 1);
                        if let Some(report) = &acknowledged
                            && report.send(publish).await.is_err()
                        {
                            return;
                        }
                    }
                }
            }
        }
    });
    chunks
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Connect,
    Acknowledged(Acknowledged),
}

/// The state of reading one connection.
#[derive(Debug, Default)]
struct Reader {
    up: BytesMut,
    down: BytesMut,
    level: u8,
    outstanding: HashMap<u16, Acknowledged>,
}

impl Reader {
    fn read(&mut self, chunk: &Chunk) -> Vec<Seen> {
        let mut seen = Vec::new();
        match chunk.direction {
            Direction::ToBroker => {
                self.up.extend_from_slice(&chunk.bytes);
                while let Some((first, body)) = next_packet(&mut self.up) {
                    seen.extend(self.sent(first, body));
                }
            }
            Direction::ToClient => {
                self.down.extend_from_slice(&chunk.bytes);
                while let Some((first, body)) = next_packet(&mut self.down) {
                    seen.extend(self.received(first, body));
                }
            }
        }
        seen
    }

    fn sent(&mut self, first: u8, mut body: Bytes) -> Option<Seen> {
        match first >> 4 {
            CONNECT => {
                let _protocol = take_string(&mut body)?;
                self.level = body.try_get_u8().ok()?;
                Some(Seen::Connect)
            }
            PUBLISH if (first >> 1) & 0b11 == 1 => {
                let topic = String::from_utf8_lossy(&take_string(&mut body)?).into_owned();
                let id = body.try_get_u16().ok()?;
                if self.level == LEVEL_5 {
                    let length = take_length(&mut body)?;
                    (body.len() >= length).then(|| body.advance(length))?;
                }
                self.outstanding.insert(
                    id,
                    Acknowledged {
                        topic,
                        payload: body,
                    },
                );
                None
            }
            _other_packets => None,
        }
    }

    fn received(&mut self, first: u8, mut body: Bytes) -> Option<Seen> {
        if first >> 4 != PUBACK {
            return None;
        }
        let id = body.try_get_u16().ok()?;
        let publish = self.outstanding.remove(&id)?;
        let reason = body.try_get_u8().unwrap_or(0);
        (reason < REFUSAL).then_some(Seen::Acknowledged(publish))
    }
}

/// One whole packet from the front of `bytes`: its first byte and what follows the length.
fn next_packet(bytes: &mut BytesMut) -> Option<(u8, Bytes)> {
    let first = *bytes.first()?;
    let mut rest = &bytes[1..];
    let before = rest.len();
    let length = take_length(&mut rest)?;
    let header = 1 + before - rest.len();
    if rest.len() < length {
        return None;
    }
    bytes.advance(header);
    Some((first, bytes.split_to(length).freeze()))
}

/// MQTT's variable byte integer.
fn take_length(bytes: &mut impl Buf) -> Option<usize> {
    let mut length = 0;
    for position in 0..4 {
        let byte = bytes.try_get_u8().ok()?;
        length |= usize::from(byte & 0x7F) << (7 * position);
        if byte & 0x80 == 0 {
            return Some(length);
        }
    }
    None
}

fn take_string(bytes: &mut Bytes) -> Option<Bytes> {
    let length = usize::from(bytes.try_get_u16().ok()?);
    (bytes.len() >= length).then(|| bytes.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(reader: &mut Reader, direction: Direction, bytes: &[u8]) -> Vec<Seen> {
        // Byte by byte: packets do not respect chunks.
        bytes
            .iter()
            .flat_map(|byte| {
                reader.read(&Chunk {
                    direction,
                    bytes: Bytes::copy_from_slice(&[*byte]),
                })
            })
            .collect()
    }

    #[test]
    fn an_acknowledged_publish_is_reported_once_in_both_versions() {
        for (level, properties) in [(4, &[][..]), (5, &[3, 0x01, 0x01, 0x00][..])] {
            let mut reader = Reader::default();
            let connect = [
                0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', level, 2, 0, 60, 0, 0,
            ];
            assert_eq!(
                feed(&mut reader, Direction::ToBroker, &connect),
                [Seen::Connect]
            );
            let mut publish = vec![0x32, 0, 0, 1, b't', 0, 7];
            publish.extend_from_slice(properties);
            publish.extend_from_slice(b"hello");
            publish[1] = u8::try_from(publish.len() - 2).unwrap();
            assert_eq!(feed(&mut reader, Direction::ToBroker, &publish), []);
            let seen = feed(&mut reader, Direction::ToClient, &[0x40, 2, 0, 7]);
            let expected = Acknowledged {
                topic: "t".into(),
                payload: Bytes::from_static(b"hello"),
            };
            assert_eq!(seen, [Seen::Acknowledged(expected)]);
            assert_eq!(feed(&mut reader, Direction::ToClient, &[0x40, 2, 0, 7]), []);
        }
    }

    #[test]
    fn a_refusal_is_no_acknowledgement() {
        let mut reader = Reader::default();
        feed(
            &mut reader,
            Direction::ToBroker,
            &[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 60, 0, 0],
        );
        feed(
            &mut reader,
            Direction::ToBroker,
            &[0x32, 6, 0, 1, b't', 0, 7, 0],
        );
        assert_eq!(
            feed(&mut reader, Direction::ToClient, &[0x40, 3, 0, 7, 0x97]),
            []
        );
    }
}
