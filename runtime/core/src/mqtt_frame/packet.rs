//! Whole packets, both ways, for a client that looks at a broker instead of using it (`crate::doctor`). The link's own
//! packets are the client crate's.
//!
//! Source: MQTT 5.0 and MQTT 3.1.1, chapter 3.

use super::{
    Connack, PacketKind, Reader, ServerDisconnect, body, parse_connack, parse_disconnect,
    parse_properties,
};
use crate::link::cause::MqttVersion;

/// The largest remaining length, section 2.1.4.
const LENGTH_MAX: usize = 268_435_455;

/// A CONNECT.
#[derive(Clone, Copy, Debug)]
pub struct Connect<'a> {
    /// The version offered.
    pub version: MqttVersion,
    /// The client id.
    pub client_id: &'a str,
    /// The user name, if one is sent.
    pub username: Option<&'a str>,
    /// The password, if one is sent.
    pub password: Option<&'a str>,
    /// The keep-alive asked for; zero turns it off.
    pub keep_alive_s: u16,
    /// Forget the session of before.
    pub clean_start: bool,
    /// How long to keep the session after the connection (5.0 only), in seconds.
    pub session_expiry_s: u32,
}

impl Connect<'_> {
    /// The packet. Texts longer than the standard's 65 535 bytes are cut.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let level = match self.version {
            MqttVersion::V311 => 4,
            MqttVersion::V5 => 5,
        };
        // 3.1.1 has a password only behind a user name, section 3.1.2.9.
        let password = self
            .password
            .filter(|_| self.username.is_some() || self.version == MqttVersion::V5);
        let flags = u8::from(self.clean_start) << 1
            | u8::from(password.is_some()) << 6
            | u8::from(self.username.is_some()) << 7;
        let mut out = Vec::new();
        text(&mut out, "MQTT");
        out.extend_from_slice(&[level, flags]);
        out.extend_from_slice(&self.keep_alive_s.to_be_bytes());
        if self.version == MqttVersion::V5 {
            expiry(&mut out, self.session_expiry_s);
        }
        text(&mut out, self.client_id);
        for given in [self.username, password].into_iter().flatten() {
            text(&mut out, given);
        }
        framed(0x10, &out)
    }
}

/// A PUBLISH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Where to.
    pub topic: String,
    /// What.
    pub payload: Vec<u8>,
    /// 0, 1 or 2.
    pub qos: u8,
    /// To be kept; or, from a server, kept from before.
    pub retain: bool,
    /// Names it until it is acknowledged; not sent with QoS 0.
    pub packet_id: u16,
}

impl Publish {
    /// The packet.
    #[must_use]
    pub fn encode(&self, version: MqttVersion) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.payload.len() + self.topic.len() + 8);
        text(&mut out, &self.topic);
        if self.qos > 0 {
            out.extend_from_slice(&self.packet_id.to_be_bytes());
        }
        if version == MqttVersion::V5 {
            out.push(0);
        }
        out.extend_from_slice(&self.payload);
        framed(0x30 | (self.qos & 3) << 1 | u8::from(self.retain), &out)
    }

    /// How many bytes of payload make a packet of `packet_bytes`, as far as the topic leaves room.
    #[must_use]
    pub fn payload_room(topic: &str, version: MqttVersion, packet_bytes: usize) -> usize {
        let properties = usize::from(version == MqttVersion::V5);
        let inside = |length_bytes: usize| packet_bytes.saturating_sub(1 + length_bytes);
        let length_bytes = (1..=4)
            .find(|bytes| inside(*bytes) < 1 << (7 * bytes))
            .unwrap_or(4);
        inside(length_bytes).saturating_sub(2 + topic.len() + 2 + properties)
    }
}

/// A SUBSCRIBE for one filter.
#[must_use]
pub fn subscribe(version: MqttVersion, packet_id: u16, filter: &str, qos: u8) -> Vec<u8> {
    let mut out = packet_id.to_be_bytes().to_vec();
    if version == MqttVersion::V5 {
        out.push(0);
    }
    text(&mut out, filter);
    out.push(qos);
    framed(0x82, &out)
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP with success.
#[must_use]
pub fn acknowledge(kind: PacketKind, packet_id: u16) -> Vec<u8> {
    let flags = if kind == PacketKind::Pubrel { 2 } else { 0 };
    framed((kind as u8) << 4 | flags, &packet_id.to_be_bytes())
}

/// DISCONNECT in good order; in 5.0 also "forget my session".
#[must_use]
pub fn disconnect(version: MqttVersion) -> Vec<u8> {
    let mut out = Vec::new();
    if version == MqttVersion::V5 {
        out.push(0);
        expiry(&mut out, 0);
    }
    framed(0xe0, &out)
}

fn expiry(out: &mut Vec<u8>, seconds: u32) {
    out.extend_from_slice(&[5, 0x11]);
    out.extend_from_slice(&seconds.to_be_bytes());
}

fn text(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes.get(..usize::from(length)).unwrap_or(bytes));
}

fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 5);
    out.push(first);
    let body = body.get(..LENGTH_MAX).unwrap_or(body);
    let mut left = body.len();
    loop {
        let byte = u8::try_from(left & 0x7f).unwrap_or(0x7f);
        left >>= 7;
        out.push(if left == 0 { byte } else { byte | 0x80 });
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
    out
}

/// A packet from a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// CONNACK.
    Connack(Connack),
    /// PUBLISH.
    Publish(Publish),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    Ack {
        /// Which of them.
        kind: PacketKind,
        /// Of which publish.
        packet_id: u16,
        /// 0x80 and above refuse.
        code: u8,
        /// Reason String.
        reason: Option<String>,
    },
    /// SUBACK.
    Suback {
        /// Of which SUBSCRIBE.
        packet_id: u16,
        /// The QoS granted, or 0x80 and above.
        code: u8,
        /// Reason String.
        reason: Option<String>,
    },
    /// PINGRESP.
    Pingresp,
    /// DISCONNECT.
    Disconnect(ServerDisconnect),
    /// Anything else: nothing that was asked for.
    Other(PacketKind),
}

/// A whole frame that does not hold what its first byte promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is cut short", .0.name())]
pub struct CutShort(pub PacketKind);

/// Reads a whole frame of `kind`.
///
/// # Errors
/// When it is too short for what it must hold.
pub fn decode(version: MqttVersion, kind: PacketKind, frame: &[u8]) -> Result<Packet, CutShort> {
    let content = body(frame);
    let mut reader = Reader { bytes: content };
    let read = match kind {
        PacketKind::Connack => parse_connack(content).map(Packet::Connack),
        PacketKind::Publish => publish(version, frame, &mut reader).map(Packet::Publish),
        PacketKind::Puback | PacketKind::Pubrec | PacketKind::Pubrel | PacketKind::Pubcomp => {
            reader.two().map(|packet_id| Packet::Ack {
                kind,
                packet_id,
                code: reader.byte().unwrap_or(0),
                reason: parse_properties(reader.bytes).reason_string,
            })
        }
        PacketKind::Suback => suback(version, &mut reader),
        PacketKind::Pingresp => Some(Packet::Pingresp),
        PacketKind::Disconnect => Some(Packet::Disconnect(parse_disconnect(content))),
        PacketKind::Connect
        | PacketKind::Subscribe
        | PacketKind::Unsubscribe
        | PacketKind::Unsuback
        | PacketKind::Pingreq
        | PacketKind::Auth => Some(Packet::Other(kind)),
    };
    read.ok_or(CutShort(kind))
}

fn publish(version: MqttVersion, frame: &[u8], reader: &mut Reader<'_>) -> Option<Publish> {
    let flags = frame.first()?;
    let qos = flags >> 1 & 3;
    let topic = reader.text()?;
    let packet_id = if qos > 0 { reader.two()? } else { 0 };
    if version == MqttVersion::V5 {
        let length = reader.variable()?;
        reader.take(usize::try_from(length).ok()?)?;
    }
    Some(Publish {
        topic,
        payload: reader.bytes.to_vec(),
        qos,
        retain: flags & 1 == 1,
        packet_id,
    })
}

fn suback(version: MqttVersion, reader: &mut Reader<'_>) -> Option<Packet> {
    let packet_id = reader.two()?;
    let mut reason = None;
    if version == MqttVersion::V5 {
        reason = parse_properties(reader.bytes).reason_string;
        let length = reader.variable()?;
        reader.take(usize::try_from(length).ok()?)?;
    }
    Some(Packet::Suback {
        packet_id,
        code: reader.byte()?,
        reason,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::FrameScanner;
    use super::*;

    const VERSIONS: [MqttVersion; 2] = [MqttVersion::V311, MqttVersion::V5];

    #[test]
    fn connect_is_the_packet_of_the_standard() {
        let mut connect = Connect {
            version: MqttVersion::V311,
            client_id: "a",
            username: Some("u"),
            password: Some("p"),
            keep_alive_s: 30,
            clean_start: true,
            session_expiry_s: 60,
        };
        let v311 = b"\x10\x13\0\x04MQTT\x04\xc2\0\x1e\0\x01a\0\x01u\0\x01p";
        assert_eq!(connect.encode(), v311);
        connect.version = MqttVersion::V5;
        connect.username = None;
        let v5 = b"\x10\x16\0\x04MQTT\x05\x42\0\x1e\x05\x11\0\0\0\x3c\0\x01a\0\x01p";
        assert_eq!(connect.encode(), v5);
        // Without a user name 3.1.1 has no password.
        connect.version = MqttVersion::V311;
        assert_eq!(connect.encode(), b"\x10\x0d\0\x04MQTT\x04\x02\0\x1e\0\x01a");
    }

    #[test]
    fn answers_are_read_in_both_versions() {
        let read = |version, kind, frame: &[u8]| decode(version, kind, frame).unwrap();
        let refused = Packet::Ack {
            kind: PacketKind::Puback,
            packet_id: 7,
            code: 0x87,
            reason: Some("no".into()),
        };
        let frame = b"\x40\x09\0\x07\x87\x05\x1f\0\x02no";
        assert_eq!(read(MqttVersion::V5, PacketKind::Puback, frame), refused);
        for (version, frame) in [
            (MqttVersion::V311, &b"\x90\x03\0\x01\x80"[..]),
            (MqttVersion::V5, b"\x90\x04\0\x01\0\x80"),
        ] {
            let suback = Packet::Suback {
                packet_id: 1,
                code: 0x80,
                reason: None,
            };
            assert_eq!(read(version, PacketKind::Suback, frame), suback);
        }
        let cut = decode(MqttVersion::V5, PacketKind::Suback, b"\x90\x02\0\x01");
        assert_eq!(cut, Err(CutShort(PacketKind::Suback)));
    }

    proptest! {
        #[test]
        fn a_publish_comes_back_as_it_went(
            topic in "[a-z/]{1,200}",
            payload in prop::collection::vec(any::<u8>(), 0..20_000),
            qos in 0_u8..3,
            retain: bool,
        ) {
            for version in VERSIONS {
                let packet_id = if qos == 0 { 0 } else { 9 };
                let publish = Publish { topic: topic.clone(), payload: payload.clone(), qos, retain, packet_id };
                let frame = publish.encode(version);
                let piece = FrameScanner::default().next_piece(&frame).unwrap().unwrap();
                prop_assert!(piece.begins && piece.ends && piece.len == frame.len());
                prop_assert_eq!(decode(version, piece.kind, &frame).unwrap(), Packet::Publish(publish));
            }
        }

        #[test]
        fn the_room_for_a_payload_fills_the_packet(packet_bytes in 200_usize..70_000) {
            for version in VERSIONS {
                let room = Publish::payload_room("some/topic", version, packet_bytes);
                let publish = Publish {
                    topic: "some/topic".into(), payload: vec![0; room], qos: 1, retain: false, packet_id: 1,
                };
                let made = publish.encode(version).len();
                // Where one more byte of payload needs one more byte of length there is no packet of exactly this size.
                prop_assert!(made == packet_bytes || made + 1 == packet_bytes, "{made} of {packet_bytes}");
            }
        }

        #[test]
        fn nothing_a_server_sends_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            for version in VERSIONS {
                for number in 1..=15 {
                    let kind = PacketKind::from_number(number).unwrap();
                    decode(version, kind, &bytes).map(drop).unwrap_or_default();
                }
            }
        }
    }
}
