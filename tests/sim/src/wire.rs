//! Packets: from the client as values, from the broker as the bytes the scanner in the core reads.

use moorline_core::link::cause::MqttVersion;
use moorline_core::mqtt_frame::{
    self, Connack, FrameError, FrameScanner, PacketKind, ServerDisconnect, parse_connack,
    parse_disconnect,
};

/// What the client says.
#[derive(Clone, Debug)]
pub(crate) enum ClientPacket {
    Connect {
        version: MqttVersion,
    },
    Subscribe,
    Publish {
        id: u16,
        topic: &'static str,
        payload: Vec<u8>,
    },
    Pingreq,
    Disconnect,
}

impl ClientPacket {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "CONNECT",
            Self::Subscribe => "SUBSCRIBE",
            Self::Publish { .. } => "PUBLISH",
            Self::Pingreq => "PINGREQ",
            Self::Disconnect => "DISCONNECT",
        }
    }
}

fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut length = body.len();
    loop {
        let more = length > 0x7f;
        bytes.push((length & 0x7f) as u8 | if more { 0x80 } else { 0 });
        length >>= 7;
        if !more {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

/// CONNACK in the form of `version`; `receive_maximum` and `packet_bytes_max` only exist in 5.0.
pub(crate) fn connack(
    version: MqttVersion,
    code: u8,
    receive_maximum: u16,
    packet_bytes_max: u32,
    reason: &str,
) -> Vec<u8> {
    let mut body = vec![0, code];
    if version == MqttVersion::V5 {
        let mut properties = Vec::new();
        if code == 0 {
            properties.push(0x21);
            properties.extend_from_slice(&receive_maximum.to_be_bytes());
            properties.push(0x27);
            properties.extend_from_slice(&packet_bytes_max.to_be_bytes());
        }
        reason_string(&mut properties, reason);
        body.push(properties.len() as u8);
        body.extend_from_slice(&properties);
    }
    frame(0x20, &body)
}

fn reason_string(properties: &mut Vec<u8>, reason: &str) {
    if !reason.is_empty() {
        properties.push(0x1f);
        properties.extend_from_slice(&(reason.len() as u16).to_be_bytes());
        properties.extend_from_slice(reason.as_bytes());
    }
}

/// DISCONNECT, in the long form with a reason or in the short one.
pub(crate) fn disconnect(code: u8, reason: &str) -> Vec<u8> {
    let mut body = vec![code];
    if !reason.is_empty() {
        let mut properties = Vec::new();
        reason_string(&mut properties, reason);
        body.push(properties.len() as u8);
        body.extend_from_slice(&properties);
    }
    frame(0xe0, &body)
}

pub(crate) fn puback(version: MqttVersion, id: u16, code: u8) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version == MqttVersion::V5 && code != 0 {
        body.push(code);
    }
    frame(0x40, &body)
}

pub(crate) fn suback(version: MqttVersion) -> Vec<u8> {
    let mut body = vec![0, 1];
    if version == MqttVersion::V5 {
        body.push(0);
    }
    body.extend_from_slice(&[1, 1]);
    frame(0x90, &body)
}

pub(crate) fn pingresp() -> Vec<u8> {
    frame(0xd0, &[])
}

/// A PUBLISH with QoS 0.
pub(crate) fn publish(version: MqttVersion, topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut body = (topic.len() as u16).to_be_bytes().to_vec();
    body.extend_from_slice(topic.as_bytes());
    if version == MqttVersion::V5 {
        body.push(0);
    }
    body.extend_from_slice(payload);
    frame(0x30, &body)
}

/// What the broker says.
#[derive(Debug)]
pub(crate) enum ServerPacket {
    Connack(Connack),
    Puback { id: u16, code: u8 },
    Publish { topic: String, payload: Vec<u8> },
    Disconnect(ServerDisconnect),
    Pingresp,
    Suback,
}

impl ServerPacket {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Connack(_) => "CONNACK",
            Self::Puback { .. } => "PUBACK",
            Self::Publish { .. } => "PUBLISH",
            Self::Disconnect(_) => "DISCONNECT",
            Self::Pingresp => "PINGRESP",
            Self::Suback => "SUBACK",
        }
    }
}

/// Puts the broker's bytes, cut anywhere, together again.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    scanner: FrameScanner,
    frame: Vec<u8>,
}

impl Reader {
    /// The packets that `bytes` complete.
    pub(crate) fn take(
        &mut self,
        version: MqttVersion,
        mut bytes: &[u8],
        packets: &mut Vec<ServerPacket>,
    ) -> Result<(), FrameError> {
        while let Some(piece) = self.scanner.next_piece(bytes) {
            let piece = piece?;
            let (taken, rest) = bytes.split_at(piece.len);
            bytes = rest;
            self.frame.extend_from_slice(taken);
            if piece.ends {
                let frame = std::mem::take(&mut self.frame);
                packets.extend(parse(version, piece.kind, mqtt_frame::body(&frame)));
            }
        }
        Ok(())
    }
}

fn parse(version: MqttVersion, kind: PacketKind, body: &[u8]) -> Option<ServerPacket> {
    match kind {
        PacketKind::Connack => parse_connack(body).map(ServerPacket::Connack),
        PacketKind::Puback => Some(ServerPacket::Puback {
            id: u16::from_be_bytes(*body.first_chunk()?),
            code: body.get(2).copied().unwrap_or(0),
        }),
        PacketKind::Publish => {
            let (length, rest) = body.split_first_chunk()?;
            let (topic, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
            let properties = usize::from(version == MqttVersion::V5);
            Some(ServerPacket::Publish {
                topic: String::from_utf8_lossy(topic).into_owned(),
                payload: rest.get(properties..)?.to_vec(),
            })
        }
        PacketKind::Disconnect => Some(ServerPacket::Disconnect(parse_disconnect(body))),
        PacketKind::Pingresp => Some(ServerPacket::Pingresp),
        PacketKind::Suback => Some(ServerPacket::Suback),
        PacketKind::Connect
        | PacketKind::Pubrec
        | PacketKind::Pubrel
        | PacketKind::Pubcomp
        | PacketKind::Subscribe
        | PacketKind::Unsubscribe
        | PacketKind::Unsuback
        | PacketKind::Pingreq
        | PacketKind::Auth => None,
    }
}
