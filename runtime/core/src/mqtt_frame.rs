//! MQTT frames in a stream of bytes: where each begins and ends, and what a CONNACK or a DISCONNECT says.
//!
//! The scanner keeps a few bytes of state whatever it is fed. The two parsers are lenient on purpose: a server that tells
//! its reason in a form the standard frowns upon (`E0 01 8E`, or properties cut short) has still told its reason.
//!
//! Source: MQTT 5.0 sections 2.1, 3.2 and 3.14; MQTT 3.1.1 sections 2.2 and 3.2.

use crate::link::cause::MqttVersion;

pub mod packet;
#[cfg(test)]
mod tests;

/// The kind of a packet, by its number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names of the standard")]
pub enum PacketKind {
    Connect = 1,
    Connack = 2,
    Publish = 3,
    Puback = 4,
    Pubrec = 5,
    Pubrel = 6,
    Pubcomp = 7,
    Subscribe = 8,
    Suback = 9,
    Unsubscribe = 10,
    Unsuback = 11,
    Pingreq = 12,
    Pingresp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl PacketKind {
    /// The kind with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Connect,
            2 => Self::Connack,
            3 => Self::Publish,
            4 => Self::Puback,
            5 => Self::Pubrec,
            6 => Self::Pubrel,
            7 => Self::Pubcomp,
            8 => Self::Subscribe,
            9 => Self::Suback,
            10 => Self::Unsubscribe,
            11 => Self::Unsuback,
            12 => Self::Pingreq,
            13 => Self::Pingresp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }

    /// The name the standard uses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Connack => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::Puback => "PUBACK",
            Self::Pubrec => "PUBREC",
            Self::Pubrel => "PUBREL",
            Self::Pubcomp => "PUBCOMP",
            Self::Subscribe => "SUBSCRIBE",
            Self::Suback => "SUBACK",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::Unsuback => "UNSUBACK",
            Self::Pingreq => "PINGREQ",
            Self::Pingresp => "PINGRESP",
            Self::Disconnect => "DISCONNECT",
            Self::Auth => "AUTH",
        }
    }

    /// Whether a server may send it.
    #[must_use]
    pub const fn from_server(self) -> bool {
        !matches!(
            self,
            Self::Connect | Self::Subscribe | Self::Unsubscribe | Self::Pingreq
        )
    }

    /// Whether these are the flags the standard fixes for the kind; PUBLISH has free ones, but no QoS 3.
    const fn flags_fit(self, flags: u8) -> bool {
        match self {
            Self::Publish => flags & 0b0110 != 0b0110,
            Self::Pubrel | Self::Subscribe | Self::Unsubscribe => flags == 0b0010,
            Self::Connect
            | Self::Connack
            | Self::Puback
            | Self::Pubrec
            | Self::Pubcomp
            | Self::Suback
            | Self::Unsuback
            | Self::Pingreq
            | Self::Pingresp
            | Self::Disconnect
            | Self::Auth => flags == 0,
        }
    }
}

/// Bytes that are no MQTT frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first byte names no packet, or has flags its packet cannot have.
    #[error("first byte {0:#04x} begins no packet")]
    FirstByte(u8),
    /// The length is longer than four bytes.
    #[error("remaining length is longer than four bytes")]
    Length,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Boundary,
    Length {
        kind: PacketKind,
        value: u32,
        shift: u32,
    },
    Body {
        kind: PacketKind,
        remaining: u32,
    },
    Broken(FrameError),
}

/// A run of bytes that belong to one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The frame's kind.
    pub kind: PacketKind,
    /// How many bytes; never zero.
    pub len: usize,
    /// The run holds the frame's first byte.
    pub begins: bool,
    /// The run holds the frame's last byte.
    pub ends: bool,
}

/// Follows the frames of one direction. Once broken it stays so: after a wrong length nothing can be trusted.
#[derive(Clone, Debug)]
pub struct FrameScanner {
    state: State,
}

impl Default for FrameScanner {
    fn default() -> Self {
        Self {
            state: State::Boundary,
        }
    }
}

impl FrameScanner {
    /// Whether the next byte begins a frame.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.state == State::Boundary
    }

    /// Takes from the front of `bytes` all that belongs to one frame; `None` when `bytes` is empty.
    ///
    /// # Errors
    /// When the bytes are no MQTT frame.
    pub fn next_piece(&mut self, bytes: &[u8]) -> Option<Result<Piece, FrameError>> {
        let (&first, _) = bytes.split_first()?;
        let begins = self.at_boundary();
        let mut len = 0;
        if begins {
            let Some(kind) =
                PacketKind::from_number(first >> 4).filter(|kind| kind.flags_fit(first & 0x0f))
            else {
                return Some(self.break_on(FrameError::FirstByte(first)));
            };
            self.state = State::Length {
                kind,
                value: 0,
                shift: 0,
            };
            len = 1;
        }
        loop {
            match self.state {
                State::Broken(error) => return Some(Err(error)),
                State::Boundary => return None,
                State::Length { kind, value, shift } => {
                    let Some(&byte) = bytes.get(len) else {
                        return Some(Ok(Piece {
                            kind,
                            len,
                            begins,
                            ends: false,
                        }));
                    };
                    len += 1;
                    let value = value | u32::from(byte & 0x7f) << shift;
                    if byte & 0x80 == 0 {
                        self.state = State::Body {
                            kind,
                            remaining: value,
                        };
                    } else if shift == 21 {
                        return Some(self.break_on(FrameError::Length));
                    } else {
                        self.state = State::Length {
                            kind,
                            value,
                            shift: shift + 7,
                        };
                    }
                }
                State::Body { kind, remaining } => {
                    let taken = u32::try_from(bytes.len() - len)
                        .unwrap_or(u32::MAX)
                        .min(remaining);
                    let ends = taken == remaining;
                    self.state = if ends {
                        State::Boundary
                    } else {
                        State::Body {
                            kind,
                            remaining: remaining - taken,
                        }
                    };
                    return Some(Ok(Piece {
                        kind,
                        len: len + taken as usize,
                        begins,
                        ends,
                    }));
                }
            }
        }
    }

    fn break_on(&mut self, error: FrameError) -> Result<Piece, FrameError> {
        self.state = State::Broken(error);
        Err(error)
    }
}

/// What a server says about itself when it answers CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connack {
    /// The form the server answered in: two bytes are 3.1.1, more are 5.0.
    pub form: MqttVersion,
    /// The server kept our session.
    pub session_present: bool,
    /// Return code (3.1.1) or reason code (5.0); zero accepts.
    pub code: u8,
    /// What the properties say.
    pub properties: Properties,
}

/// The reason a server gives when it ends the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerDisconnect {
    /// The reason code; zero when the packet has none.
    pub code: u8,
    /// What the properties say.
    pub properties: Properties,
}

/// Those properties of CONNACK and DISCONNECT that the link acts on, or that are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Reason String.
    pub reason_string: Option<String>,
    /// Server Reference.
    pub server_reference: Option<String>,
    /// Receive Maximum: how many of our publishes may be unacknowledged.
    pub receive_maximum: Option<u16>,
    /// Maximum Packet Size the server takes, in bytes.
    pub packet_bytes_max: Option<u32>,
    /// Server Keep Alive, in seconds.
    pub server_keep_alive_s: Option<u16>,
    /// Maximum QoS.
    pub qos_max: Option<u8>,
    /// Retain Available.
    pub retain_available: Option<bool>,
    /// Wildcard Subscription Available.
    pub wildcards_available: Option<bool>,
    /// Subscription Identifiers Available.
    pub subscription_ids_available: Option<bool>,
    /// Shared Subscription Available.
    pub shared_available: Option<bool>,
    /// Topic Alias Maximum.
    pub topic_alias_max: Option<u16>,
    /// Session Expiry Interval, in seconds, where the server changed ours.
    pub session_expiry_s: Option<u32>,
    /// Assigned Client Identifier.
    pub assigned_client_id: Option<String>,
}

/// Reads the body of a CONNACK (what follows its length); `None` when there are not even the two bytes of 3.1.1.
#[must_use]
pub fn parse_connack(body: &[u8]) -> Option<Connack> {
    let [flags, code, properties @ ..] = body else {
        return None;
    };
    let form = if properties.is_empty() {
        MqttVersion::V311
    } else {
        MqttVersion::V5
    };
    Some(Connack {
        form,
        session_present: flags & 1 == 1,
        code: *code,
        properties: parse_properties(properties),
    })
}

/// Reads the body of a DISCONNECT in any of its lengths.
#[must_use]
pub fn parse_disconnect(body: &[u8]) -> ServerDisconnect {
    match body {
        [] => ServerDisconnect {
            code: 0,
            properties: Properties::default(),
        },
        [code, properties @ ..] => ServerDisconnect {
            code: *code,
            properties: parse_properties(properties),
        },
    }
}

/// The body of a whole frame: what follows the first byte and the length.
#[must_use]
pub fn body(frame: &[u8]) -> &[u8] {
    let length_bytes = frame
        .iter()
        .skip(1)
        .take(4)
        .position(|byte| byte & 0x80 == 0)
        .map_or(4, |last| last + 1);
    frame.get(1 + length_bytes..).unwrap_or_default()
}

fn parse_properties(bytes: &[u8]) -> Properties {
    let mut found = Properties::default();
    let mut reader = Reader { bytes };
    let Some(length) = reader.variable() else {
        return found;
    };
    reader.bytes = reader.bytes.get(..length as usize).unwrap_or(reader.bytes);
    // The first property that does not parse ends it: what was read before it stands.
    while read_property(&mut reader, &mut found).is_some() {}
    found
}

fn read_property(reader: &mut Reader<'_>, found: &mut Properties) -> Option<()> {
    match reader.byte()? {
        0x13 => found.server_keep_alive_s = Some(reader.two()?),
        0x1c => found.server_reference = Some(reader.text()?),
        0x1f => found.reason_string = Some(reader.text()?),
        0x21 => found.receive_maximum = Some(reader.two()?),
        0x24 => found.qos_max = Some(reader.byte()?),
        0x27 => found.packet_bytes_max = Some(reader.four()?),
        0x25 => found.retain_available = Some(reader.byte()? == 1),
        0x28 => found.wildcards_available = Some(reader.byte()? == 1),
        0x29 => found.subscription_ids_available = Some(reader.byte()? == 1),
        0x2a => found.shared_available = Some(reader.byte()? == 1),
        0x22 => found.topic_alias_max = Some(reader.two()?),
        0x11 => found.session_expiry_s = Some(reader.four()?),
        0x12 => found.assigned_client_id = Some(reader.text()?),
        // Authentication Method and Data, Response Information.
        0x15 | 0x16 | 0x1a => drop(reader.binary()?),
        // User Property.
        0x26 => {
            reader.binary()?;
            reader.binary()?;
        }
        _ => return None,
    }
    Some(())
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn two(&mut self) -> Option<u16> {
        self.take(2)
            .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn four(&mut self) -> Option<u32> {
        self.take(4)
            .map(|bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn binary(&mut self) -> Option<&'a [u8]> {
        let length = self.two()?;
        self.take(usize::from(length))
    }

    fn text(&mut self) -> Option<String> {
        self.binary()
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    fn variable(&mut self) -> Option<u32> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}
