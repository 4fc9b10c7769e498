//! A broker that does exactly what a script says, one script for each connection in turn.

use std::net::SocketAddr;
use std::time::Duration;

use moorline_core::link::cause::MqttVersion;
use moorline_core::mqtt_frame::{FrameScanner, PacketKind, body, packet};
use moorline_core::thingsboard::limits::{LIMITS_ANSWER, LIMITS_REQUEST};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

mod strict;

pub(super) use strict::Terms;

/// No step of a script waits longer.
const DEADLINE: Duration = Duration::from_secs(20);
const RECEIVE_BUFFER_BYTES: u32 = 128 * 1024;
const BACKLOG: u32 = 16;
/// Enough for each to be a read of its own.
const BETWEEN_BYTES: Duration = Duration::from_millis(1);

#[derive(Clone, Debug)]
pub(super) enum Act {
    /// Read until a packet of this kind came; PINGREQs on the way stay unanswered.
    Expect(PacketKind),
    Send(Vec<u8>),
    /// Send the bytes one by one.
    Trickle(Vec<u8>),
    /// Read whatever comes next, MQTT or not.
    Hear,
    /// Do nothing for so long.
    Pause(Duration),
    /// From here on the kernel drops what the client sends before it acknowledges it, as a path would that is gone.
    GoDark,
    /// Close with FIN.
    Fin,
    /// Send FIN and go on reading, so that no unread byte turns it into an RST.
    HalfClose,
    /// Close with RST.
    Reset,
    /// Read, answer nothing, until the client goes.
    Silence,
    /// Do not even read, until the client goes.
    Deaf,
    /// Answer PINGREQ and SUBSCRIBE, nothing else, until the client goes.
    OnlyPings,
    /// Be a good broker: so many publishes are acknowledged with this code, then the script goes on.
    Acknowledge {
        publishes: usize,
        code: u8,
    },
    /// Read so many publishes, then acknowledge them all and send these bytes, in one write.
    AcknowledgeAndSend {
        publishes: usize,
        bytes: Vec<u8>,
    },
    /// Leave so many publishes unanswered and answer the one after them with this code.
    AnswerOne {
        unanswered: usize,
        code: u8,
    },
    /// Be a good broker until the client goes.
    Serve,
    /// The same, and lead so many QoS 0 publishes back to the client.
    ServeEchoing(usize),
    /// Say what a session may send when that is asked (5.0), and be a good broker that acknowledges so many publishes.
    ServeLimits {
        answer: &'static str,
        publishes: usize,
    },
    /// Grant every SUBSCRIBE but the one that names this topic; after its refusal the script goes on.
    RefuseTopic(&'static [u8]),
    /// Be a good broker until a publish holds these bytes; then the script goes on.
    ServeUntil(&'static [u8]),
    /// Be a good broker until a packet is larger than this; then the script goes on.
    ServeUpTo(usize),
    /// Be a good broker, and a strict one.
    ServeWithin(Terms),
}

/// What the broker saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) connection: usize,
    pub(super) kind: PacketKind,
    pub(super) frame: Vec<u8>,
}

pub(super) struct Broker {
    pub(super) address: SocketAddr,
    pub(super) seen: mpsc::UnboundedReceiver<Seen>,
    task: JoinHandle<()>,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) fn connack_v5(code: u8) -> Act {
    Act::Send(vec![0x20, 3, 0, code, 0])
}

pub(super) fn connack_v311(code: u8) -> Act {
    Act::Send(vec![0x20, 2, 0, code])
}

/// Plays the scripts one after the other; the last one again for every further connection.
pub(super) async fn play(scripts: Vec<Vec<Act>>) -> Broker {
    let socket = TcpSocket::new_v4().expect("a socket");
    // Whoever does not read is noticed after little.
    socket
        .set_recv_buffer_size(RECEIVE_BUFFER_BYTES)
        .expect("a socket of ours");
    socket
        .bind(([127, 0, 0, 1], 0).into())
        .expect("a loopback port");
    let listener = socket.listen(BACKLOG).expect("a free port");
    let address = listener.local_addr().expect("an address");
    #[expect(
        clippy::disallowed_methods,
        reason = "a test that stops looking must not stop the broker"
    )]
    let (seen_tx, seen) = mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        for connection in 0.. {
            let Ok((stream, _)) = listener.accept().await else {
                return;
            };
            let script = scripts
                .get(connection)
                .or(scripts.last())
                .cloned()
                .unwrap_or_default();
            tokio::spawn(serve(stream, script, connection, seen_tx.clone()));
        }
    });
    Broker {
        address,
        seen,
        task,
    }
}

async fn serve(
    stream: TcpStream,
    script: Vec<Act>,
    connection: usize,
    seen: mpsc::UnboundedSender<Seen>,
) {
    // What was said before a close must not wait behind an acknowledgement.
    stream.set_nodelay(true).expect("a live socket");
    let mut peer = Peer {
        stream,
        scanner: FrameScanner::default(),
        pending: Vec::new(),
        frame: Vec::new(),
        connection,
        seen,
    };
    for act in script {
        match act {
            Act::Reset => {
                let socket = socket2::SockRef::from(&peer.stream);
                socket
                    .set_linger(Some(Duration::ZERO))
                    .expect("a live socket");
                return;
            }
            Act::Fin => return,
            Act::GoDark => {
                // BPF_RET | BPF_K: keep no byte of any packet.
                let drop_all = socket2::SockFilter::new(0x06, 0, 0, 0);
                socket2::SockRef::from(&peer.stream)
                    .attach_filter(&[drop_all])
                    .expect("a live socket");
                tokio::time::sleep(DEADLINE).await;
                return;
            }
            Act::Deaf => {
                tokio::time::sleep(DEADLINE).await;
                return;
            }
            other => {
                let played = tokio::time::timeout(DEADLINE, peer.play(other)).await;
                if !matches!(played, Ok(true)) {
                    return;
                }
            }
        }
    }
}

/// One connection, over TCP or TLS.
pub(super) struct Peer<S> {
    pub(super) stream: S,
    pub(super) scanner: FrameScanner,
    pub(super) pending: Vec<u8>,
    pub(super) frame: Vec<u8>,
    pub(super) connection: usize,
    pub(super) seen: mpsc::UnboundedSender<Seen>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// False when the client is gone.
    pub(super) async fn play(&mut self, act: Act) -> bool {
        match act {
            Act::Send(bytes) => self.stream.write_all(&bytes).await.is_ok(),
            Act::Trickle(bytes) => {
                for byte in bytes {
                    if self.stream.write_all(&[byte]).await.is_err() {
                        return false;
                    }
                    tokio::time::sleep(BETWEEN_BYTES).await;
                }
                true
            }
            Act::Hear => {
                let heard = self.stream.read(&mut [0; 4096]).await;
                heard.is_ok_and(|count| count > 0)
            }
            Act::Pause(pause) => {
                tokio::time::sleep(pause).await;
                true
            }
            Act::Expect(kind) => loop {
                match self.next_frame().await {
                    Some((found, _)) if found == kind => return true,
                    Some(_) => {}
                    None => return false,
                }
            },
            Act::Silence => loop {
                if self.next_frame().await.is_none() {
                    return false;
                }
            },
            Act::OnlyPings
            | Act::Acknowledge { .. }
            | Act::Serve
            | Act::ServeEchoing(_)
            | Act::ServeUntil(_)
            | Act::ServeUpTo(_)
            | Act::ServeLimits { .. } => self.serve(Good::at(act)).await,
            Act::RefuseTopic(topic) => self.refuse(topic).await,
            Act::ServeWithin(terms) => self.serve_within(terms).await,
            Act::AcknowledgeAndSend { publishes, bytes } => {
                self.acknowledge_and_send(publishes, bytes).await
            }
            Act::AnswerOne { unanswered, code } => self.answer_one(unanswered, code).await,
            Act::HalfClose => {
                self.stream.shutdown().await.is_ok()
                    && tokio::io::copy(&mut self.stream, &mut tokio::io::sink())
                        .await
                        .is_ok()
            }
            Act::Fin | Act::Reset | Act::Deaf | Act::GoDark => false,
        }
    }

    async fn acknowledge_and_send(&mut self, publishes: usize, bytes: Vec<u8>) -> bool {
        let mut answer = Vec::new();
        for _ in 0..publishes {
            match self.next_publish().await {
                Some(frame) => answer.extend(puback(&frame, 0)),
                None => return false,
            }
        }
        answer.extend(bytes);
        self.stream.write_all(&answer).await.is_ok()
    }

    async fn answer_one(&mut self, unanswered: usize, code: u8) -> bool {
        for _ in 0..unanswered {
            if self.next_publish().await.is_none() {
                return false;
            }
        }
        match self.next_publish().await {
            Some(frame) => self.stream.write_all(&puback(&frame, code)).await.is_ok(),
            None => false,
        }
    }

    async fn refuse(&mut self, topic: &[u8]) -> bool {
        while let Some((kind, frame)) = self.next_frame().await {
            if kind != PacketKind::Subscribe {
                continue;
            }
            let refused = holds(&frame, topic);
            let answer = subscribe_answer(&frame, if refused { 0x80 } else { 1 });
            if self.stream.write_all(&answer).await.is_err() {
                return false;
            }
            if refused {
                return true;
            }
        }
        false
    }

    async fn serve(&mut self, good: Good) -> bool {
        let Good {
            mut publishes,
            code,
            until,
            mut echoes,
            limits,
            bytes_max,
        } = good;
        let counted = publishes > 0;
        while let Some((kind, frame)) = self.next_frame().await {
            if frame.len() > bytes_max {
                return true;
            }
            let answer = match kind {
                PacketKind::Pingreq => vec![0xd0, 0],
                PacketKind::Subscribe => subscribe_answer(&frame, 1),
                PacketKind::Publish if until.is_some_and(|marker| holds(&frame, marker)) => {
                    return true;
                }
                PacketKind::Publish
                    if qos(&frame) == 0 && holds(&frame, LIMITS_REQUEST.as_bytes()) =>
                {
                    limits.map(limits_answer).unwrap_or_default()
                }
                // Nothing acknowledges QoS 0; with QoS 0 and without a flag a PUBLISH is the same in both directions.
                PacketKind::Publish if qos(&frame) == 0 => {
                    if echoes == 0 {
                        continue;
                    }
                    echoes -= 1;
                    frame
                }
                PacketKind::Publish if publishes > 0 => {
                    publishes -= 1;
                    let mut answer = puback(&frame, code);
                    if qos(&frame) == 2 {
                        answer[0] = 0x50;
                    }
                    answer
                }
                PacketKind::Pubrel => vec![0x70, 2, frame[2], frame[3]],
                _ => continue,
            };
            if self.stream.write_all(&answer).await.is_err() {
                return false;
            }
            if counted && publishes == 0 {
                return true;
            }
        }
        false
    }

    async fn next_publish(&mut self) -> Option<Vec<u8>> {
        loop {
            let (kind, frame) = self.next_frame().await?;
            if kind == PacketKind::Publish {
                return Some(frame);
            }
        }
    }

    async fn next_frame(&mut self) -> Option<(PacketKind, Vec<u8>)> {
        loop {
            while let Some(piece) = self.scanner.next_piece(&self.pending) {
                let piece = piece.expect("the client speaks MQTT");
                self.frame.extend(self.pending.drain(..piece.len));
                if piece.ends {
                    let frame = std::mem::take(&mut self.frame);
                    let seen = Seen {
                        connection: self.connection,
                        kind: piece.kind,
                        frame: frame.clone(),
                    };
                    if self.seen.send(seen).is_err() {
                        tracing::trace!("the test looks no more");
                    }
                    return Some((piece.kind, frame));
                }
            }
            let mut buffer = [0; 64 * 1024];
            match self.stream.read(&mut buffer).await {
                Ok(count) if count > 0 => self.pending.extend_from_slice(&buffer[..count]),
                Ok(_) | Err(_) => return None,
            }
        }
    }
}

/// What a good broker does until the client goes or the script goes on.
struct Good {
    /// So many publishes are acknowledged, with `code`; if there are any, the script goes on after the last.
    publishes: usize,
    code: u8,
    /// The script goes on when a publish holds these bytes.
    until: Option<&'static [u8]>,
    /// So many QoS 0 publishes are led back.
    echoes: usize,
    /// What is answered to the question for a session's limits.
    limits: Option<&'static str>,
    /// The script goes on when a packet is larger.
    bytes_max: usize,
}

impl Good {
    fn at(act: Act) -> Self {
        let all = Self::with(usize::MAX);
        match act {
            Act::Acknowledge { publishes, code } => Self {
                code,
                ..Self::with(publishes)
            },
            Act::Serve => all,
            Act::ServeEchoing(echoes) => Self { echoes, ..all },
            Act::ServeUntil(marker) => Self {
                until: Some(marker),
                ..all
            },
            Act::ServeUpTo(bytes_max) => Self { bytes_max, ..all },
            Act::ServeLimits { answer, publishes } => Self {
                limits: Some(answer),
                ..Self::with(publishes)
            },
            _ => Self::with(0),
        }
    }

    const fn with(publishes: usize) -> Self {
        Self {
            publishes,
            code: 0,
            until: None,
            echoes: 0,
            limits: None,
            bytes_max: usize::MAX,
        }
    }
}

fn limits_answer(answer: &str) -> Vec<u8> {
    let publish = packet::Publish {
        topic: LIMITS_ANSWER.to_owned(),
        payload: answer.into(),
        qos: 0,
        retain: false,
        packet_id: 0,
    };
    publish.encode(MqttVersion::V5)
}

pub(super) fn qos(publish: &[u8]) -> u8 {
    (publish[0] >> 1) & 3
}

fn holds(frame: &[u8], marker: &[u8]) -> bool {
    frame.windows(marker.len()).any(|part| part == marker)
}

pub(super) fn puback(publish: &[u8], code: u8) -> Vec<u8> {
    let body = body(publish);
    let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
    let id = &body[2 + topic..4 + topic];
    if code == 0 {
        vec![0x40, 2, id[0], id[1]]
    } else {
        vec![0x40, 3, id[0], id[1], code]
    }
}

pub(super) fn payload_v5(publish: &[u8]) -> &[u8] {
    let body = body(publish);
    let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
    // Behind the packet id: the properties, of which there are few.
    let properties = usize::from(body[2 + topic + 2]);
    &body[2 + topic + 2 + 1 + properties..]
}

/// SUBACK with this code for each filter.
fn subscribe_answer(frame: &[u8], code: u8) -> Vec<u8> {
    let body = body(frame);
    // 5.0 sends an empty property length, 3.1.1 goes on with the topic's length: both begin with a zero byte, but a topic
    // here is longer than 255 bytes never, so that the byte after tells them apart.
    let v5 = body[3] == 0;
    let mut filters = &body[if v5 { 3 } else { 2 }..];
    let mut content = vec![body[0], body[1]];
    if v5 {
        content.push(0);
    }
    while let [high, low, rest @ ..] = filters {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        filters = &rest[length + 1..];
        content.push(code);
    }
    let mut answer = vec![0x90, u8::try_from(content.len()).expect("few filters")];
    answer.extend(content);
    answer
}
