//! An MQTT client of a few bytes that behaves as badly as it is told to, and writes down what the broker says.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use moorline_core::mqtt_frame::{FrameScanner, PacketKind, body, parse_connack, parse_disconnect};
use moorline_tests::brokers::Level;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

const ANSWER: Duration = Duration::from_secs(10);
const READ_BYTES: usize = 4_096;

/// One thing a broker said, or how it ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Said {
    /// CONNACK with this return or reason code, in this form.
    Connack(u8),
    /// DISCONNECT with this reason code.
    Disconnect(u8),
    /// Another packet.
    Packet(&'static str),
    /// Bytes that are no MQTT.
    Garbage,
    /// FIN.
    Fin,
    /// RST.
    Reset,
    /// No word for as long as we cared to listen.
    Nothing,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connack(code) => write!(f, "CONNACK {code:#04x}"),
            Self::Disconnect(code) => write!(f, "DISCONNECT {code:#04x}"),
            Self::Packet(name) => f.write_str(name),
            Self::Garbage => f.write_str("garbage"),
            Self::Fin => f.write_str("FIN"),
            Self::Reset => f.write_str("RST"),
            Self::Nothing => f.write_str("nothing"),
        }
    }
}

/// A connection that has sent CONNECT.
pub(super) struct RawClient {
    stream: TcpStream,
    scanner: FrameScanner,
    frame: Vec<u8>,
    unread: Vec<u8>,
}

/// A CONNECT with clean start and nothing else. MQTT 5.0 section 3.1, MQTT 3.1.1 section 3.1.
pub(super) fn connect_packet(level: u8, client_id: &str, keep_alive_s: u16) -> Vec<u8> {
    let mut variable = vec![0, 4];
    variable.extend_from_slice(b"MQTT");
    variable.extend_from_slice(&[level, 0b0000_0010]);
    variable.extend_from_slice(&keep_alive_s.to_be_bytes());
    if level >= Level::Five as u8 {
        variable.push(0);
    }
    let id_bytes = u16::try_from(client_id.len()).unwrap();
    variable.extend_from_slice(&id_bytes.to_be_bytes());
    variable.extend_from_slice(client_id.as_bytes());
    let mut packet = vec![0x10, u8::try_from(variable.len()).unwrap()];
    packet.extend(variable);
    packet
}

/// A PUBLISH of QoS 0 whose payload is `payload_bytes` long.
pub(super) fn publish_packet(level: Level, payload_bytes: u32) -> Vec<u8> {
    let mut variable = vec![0, 1, b't'];
    if level == Level::Five {
        variable.push(0);
    }
    let mut remaining = u32::try_from(variable.len()).unwrap() + payload_bytes;
    let mut packet = vec![0x30];
    loop {
        let low = u8::try_from(remaining & 0x7f).unwrap();
        remaining >>= 7;
        packet.push(if remaining == 0 { low } else { low | 0x80 });
        if remaining == 0 {
            break;
        }
    }
    packet.extend(variable);
    packet.resize(packet.len() + payload_bytes as usize, b'x');
    packet
}

impl RawClient {
    /// Connects and sends CONNECT.
    pub(super) async fn connect(
        broker: SocketAddr,
        level: Level,
        client_id: &str,
        keep_alive_s: u16,
    ) -> io::Result<Self> {
        Self::open(
            broker,
            &connect_packet(level as u8, client_id, keep_alive_s),
        )
        .await
    }

    /// Connects and sends `first`.
    pub(super) async fn open(broker: SocketAddr, first: &[u8]) -> io::Result<Self> {
        let mut stream = TcpStream::connect(broker).await?;
        stream.write_all(first).await?;
        Ok(Self {
            stream,
            scanner: FrameScanner::default(),
            frame: Vec::new(),
            unread: Vec::new(),
        })
    }

    /// Waits for the CONNACK that accepts.
    pub(super) async fn hear_connack(&mut self) {
        let said = self.next(Instant::now() + ANSWER).await;
        assert_eq!(said, Said::Connack(0));
    }

    /// Sends bytes as they are. A broker that has closed already is heard, not sent to.
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        if self.stream.write_all(bytes).await.is_err() {}
    }

    /// Everything the broker says until it ends the connection, or until `patience` has passed.
    pub(super) async fn hear_all(&mut self, patience: Duration) -> Vec<Said> {
        let deadline = Instant::now() + patience;
        let mut all = Vec::new();
        loop {
            let said = self.next(deadline).await;
            let ends = matches!(
                said,
                Said::Fin | Said::Reset | Said::Nothing | Said::Garbage
            );
            // What was said before the silence is the answer.
            if said != Said::Nothing || all.is_empty() {
                all.push(said);
            }
            if ends {
                return all;
            }
        }
    }

    async fn next(&mut self, deadline: Instant) -> Said {
        loop {
            while let Some(piece) = self.scanner.next_piece(&self.unread) {
                let Ok(piece) = piece else {
                    return Said::Garbage;
                };
                self.frame.extend(self.unread.drain(..piece.len));
                if piece.ends {
                    let frame = std::mem::take(&mut self.frame);
                    return said(piece.kind, &frame);
                }
            }
            let mut bytes = [0; READ_BYTES];
            match timeout_at(deadline, self.stream.read(&mut bytes)).await {
                Ok(Ok(0)) => return Said::Fin,
                Ok(Ok(count)) => self.unread.extend_from_slice(&bytes[..count]),
                Ok(Err(_reset)) => return Said::Reset,
                Err(_elapsed) => return Said::Nothing,
            }
        }
    }
}

fn said(kind: PacketKind, frame: &[u8]) -> Said {
    if kind == PacketKind::Connack {
        parse_connack(body(frame)).map_or(Said::Garbage, |connack| Said::Connack(connack.code))
    } else if kind == PacketKind::Disconnect {
        Said::Disconnect(parse_disconnect(body(frame)).code)
    } else {
        Said::Packet(kind.name())
    }
}
