//! A ThingsBoard as far as its rate limits go, in front of a real broker: says them when asked, counts as the platform counts,
//! and ends the session of who exceeds them.
//!
//! ```text
//!  gateway ──► counted ──┬── within the limits ──► broker
//!                        ├── getSessionLimits ───► answered here
//!                        └── beyond them ────────► PUBACK 0x97, and the connection is closed
//! ```
//!
//! Sources: `DefaultTransportRateLimitService` (which limits), `AbstractGatewaySessionHandler` (what counts, and the end) and
//! `TbRateLimits` (a greedy bucket4j bucket) of ThingsBoard 4. What is counted here is counted from the wire alone.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use moorline_core::link::cause::MqttVersion;
use moorline_core::mqtt_frame::packet::{self, Packet, Publish};
use moorline_core::mqtt_frame::{FrameScanner, PacketKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

const REQUEST: &str = "v1/devices/me/rpc/request/";
const RESPONSE: &str = "v1/devices/me/rpc/response/";
/// Answers on their way to the gateway.
const ANSWERS: usize = 16;
const READ_BYTES: usize = 64 * 1024;
/// Messages that open a device.
const OPENING: u64 = 2;

/// The limits of one kind, as `(count, seconds)`.
pub type Windows = &'static [(u64, u64)];

/// What the platform lets a gateway send for its devices.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Messages without values.
    pub messages: Windows,
    /// Messages with values, one for each device.
    pub telemetry_messages: Windows,
    /// Values.
    pub telemetry_points: Windows,
}

impl Limits {
    fn kinds(&self) -> [(&'static str, Windows); 3] {
        [
            ("messages", self.messages),
            ("telemetryMessages", self.telemetry_messages),
            ("telemetryDataPoints", self.telemetry_points),
        ]
    }

    /// As the platform says it.
    fn answer(&self) -> String {
        let texts = self.kinds().map(|(name, windows)| {
            let windows: Vec<_> = windows
                .iter()
                .map(|(count, seconds)| format!("{count}:{seconds}"))
                .collect();
            format!("{name:?}:\"{}\"", windows.join(","))
        });
        format!(
            r#"{{"maxPayloadSize":65536,"maxInflightMessages":100,"rateLimits":{{}},"gatewayRateLimits":{{{}}}}}"#,
            texts.join(",")
        )
    }
}

/// What was seen so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Connections.
    pub sessions: u64,
    /// Times the limits were asked for.
    pub questions: u64,
    /// Sessions ended because of a limit.
    pub exceeded: u64,
    /// Of each kind: when how many came.
    pub arrivals: [Vec<(Instant, u64)>; 3],
}

impl Seen {
    /// The most that came of the kind with this number within `seconds`.
    #[must_use]
    pub fn most(&self, kind: usize, seconds: u64) -> u64 {
        let arrivals = &self.arrivals[kind];
        let window = Duration::from_secs(seconds);
        let (mut most, mut sum, mut first) = (0, 0, 0);
        for (at, amount) in arrivals {
            sum += amount;
            while arrivals[first].0 + window <= *at {
                sum -= arrivals[first].1;
                first += 1;
            }
            most = most.max(sum);
        }
        most
    }
}

/// The platform. Dropping it ends it.
#[derive(Debug)]
pub struct Platform {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it sees.
    pub seen: watch::Receiver<Seen>,
    task: JoinHandle<()>,
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Platform {
    /// Starts one in front of `broker`.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start(broker: SocketAddr, limits: Limits) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seeing, seen) = watch::channel(Seen::default());
        // The buckets outlive sessions, and one session is served at a time: a gateway has one.
        let task = tokio::spawn(async move {
            let mut buckets = Buckets::new(limits);
            loop {
                let (Ok((gateway, _)), Ok(broker)) =
                    (listener.accept().await, TcpStream::connect(broker).await)
                else {
                    return;
                };
                seeing.send_modify(|seen| seen.sessions += 1);
                serve(gateway, broker, &mut buckets, &seeing).await;
            }
        });
        Self {
            address,
            seen,
            task,
        }
    }
}

/// A bucket4j bucket of one bandwidth that fills greedily.
struct Bucket {
    count: f64,
    seconds: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    fn refill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + since * self.count / self.seconds).min(self.count);
        self.at = now;
    }
}

struct Buckets {
    limits: Limits,
    kinds: [Vec<Bucket>; 3],
}

impl Buckets {
    fn new(limits: Limits) -> Self {
        let now = Instant::now();
        let kinds = limits.kinds().map(|(_, windows)| {
            let full = |&(count, seconds): &(u64, u64)| Bucket {
                count: count as f64,
                seconds: seconds as f64,
                level: count as f64,
                at: now,
            };
            windows.iter().map(full).collect()
        });
        Self { limits, kinds }
    }

    /// Takes from all windows of a kind or from none.
    fn try_consume(&mut self, kind: usize, amount: u64, now: Instant) -> bool {
        let buckets = &mut self.kinds[kind];
        let amount = amount as f64;
        for bucket in buckets.iter_mut() {
            bucket.refill(now);
        }
        if buckets.iter().any(|bucket| bucket.level < amount) {
            return false;
        }
        for bucket in buckets {
            bucket.level -= amount;
        }
        true
    }
}

/// What a publish counts as: amounts by the number of their kind, in the order in which the platform takes them.
fn amounts(publish: &Publish, opened: &mut BTreeSet<String>) -> Vec<(usize, u64)> {
    let json: serde_json::Value = serde_json::from_slice(&publish.payload).unwrap_or_default();
    let mut amounts = Vec::new();
    let mut open = |device: &str, amounts: &mut Vec<(usize, u64)>| {
        if opened.insert(device.to_owned()) {
            amounts.push((0, OPENING));
        }
    };
    let device = json["device"].as_str().unwrap_or_default().to_owned();
    match publish.topic.as_str() {
        "v1/gateway/telemetry" | "v1/gateway/attributes" => {
            for (device, content) in json.as_object().into_iter().flatten() {
                open(device, &mut amounts);
                let entries = content.as_array().map_or_else(
                    || content.as_object().map_or(0, serde_json::Map::len),
                    |entries| {
                        let values = |entry: &serde_json::Value| {
                            entry["values"].as_object().map_or(0, serde_json::Map::len)
                        };
                        entries.iter().map(values).sum()
                    },
                );
                amounts.push((1, 1));
                amounts.push((2, entries as u64));
            }
        }
        "v1/gateway/connect" => open(&device, &mut amounts),
        "v1/gateway/disconnect" => {
            opened.remove(&device);
            amounts.push((0, 1));
        }
        "v1/gateway/rpc" => {
            open(&device, &mut amounts);
            amounts.push((0, 1));
        }
        _ => {}
    }
    amounts
}

/// Whole frames from a stream.
struct Frames {
    stream: OwnedReadHalf,
    scanner: FrameScanner,
    pending: Vec<u8>,
    frame: Vec<u8>,
}

impl Frames {
    fn of(stream: OwnedReadHalf) -> Self {
        Self {
            stream,
            scanner: FrameScanner::default(),
            pending: Vec::new(),
            frame: Vec::new(),
        }
    }

    async fn next(&mut self) -> Option<(PacketKind, Vec<u8>)> {
        loop {
            while let Some(piece) = self.scanner.next_piece(&self.pending) {
                let piece = piece.ok()?;
                self.frame.extend(self.pending.drain(..piece.len));
                if piece.ends {
                    return Some((piece.kind, std::mem::take(&mut self.frame)));
                }
            }
            let mut buffer = vec![0; READ_BYTES];
            match self.stream.read(&mut buffer).await {
                Ok(count) if count > 0 => self.pending.extend_from_slice(&buffer[..count]),
                Ok(_) | Err(_) => return None,
            }
        }
    }
}

async fn serve(
    gateway: TcpStream,
    broker: TcpStream,
    buckets: &mut Buckets,
    seeing: &watch::Sender<Seen>,
) {
    let (from_gateway, to_gateway) = gateway.into_split();
    let (from_broker, to_broker) = broker.into_split();
    let (answers, answering) = mpsc::channel(ANSWERS);
    let mut down = JoinSet::new();
    down.spawn(answer(Frames::of(from_broker), to_gateway, answering));
    let session = Session {
        version: MqttVersion::V5,
        opened: BTreeSet::new(),
        answers,
        to_broker,
    };
    session.run(Frames::of(from_gateway), buckets, seeing).await;
    // What was said last is written before the connection is closed.
    drop(down.join_all().await);
}

/// Frames of the broker and answers of the platform, until the session is over.
async fn answer(
    mut broker: Frames,
    mut to_gateway: OwnedWriteHalf,
    mut answers: mpsc::Receiver<Vec<u8>>,
) {
    loop {
        let frame = tokio::select! {
            biased;
            answer = answers.recv() => answer,
            frame = broker.next() => frame.map(|(_, frame)| frame),
        };
        let Some(frame) = frame else { return };
        if to_gateway.write_all(&frame).await.is_err() {
            return;
        }
    }
}

struct Session {
    version: MqttVersion,
    opened: BTreeSet<String>,
    answers: mpsc::Sender<Vec<u8>>,
    to_broker: OwnedWriteHalf,
}

impl Session {
    async fn run(
        mut self,
        mut gateway: Frames,
        buckets: &mut Buckets,
        seeing: &watch::Sender<Seen>,
    ) {
        while let Some((kind, frame)) = gateway.next().await {
            // Fixed header of two bytes, "MQTT" with its length, level.
            if kind == PacketKind::Connect && frame.get(8) == Some(&4) {
                self.version = MqttVersion::V311;
            }
            let goes_on = match packet::decode(self.version, kind, &frame) {
                Ok(Packet::Publish(publish)) => {
                    self.publish(&publish, &frame, buckets, seeing).await
                }
                Ok(_) | Err(_) => self.to_broker.write_all(&frame).await.is_ok(),
            };
            if !goes_on {
                return;
            }
        }
    }

    /// False when the session is over.
    async fn publish(
        &mut self,
        publish: &Publish,
        frame: &[u8],
        buckets: &mut Buckets,
        seeing: &watch::Sender<Seen>,
    ) -> bool {
        if let Some(id) = publish.topic.strip_prefix(REQUEST) {
            seeing.send_modify(|seen| seen.questions += 1);
            let answer = Publish {
                topic: format!("{RESPONSE}{id}"),
                payload: buckets.limits.answer().into(),
                qos: 0,
                retain: false,
                packet_id: 0,
            };
            return self.answers.send(answer.encode(self.version)).await.is_ok();
        }
        let now = Instant::now();
        for (kind, amount) in amounts(publish, &mut self.opened) {
            seeing.send_modify(|seen| seen.arrivals[kind].push((now, amount)));
            if buckets.try_consume(kind, amount, now) {
                continue;
            }
            seeing.send_modify(|seen| seen.exceeded += 1);
            let [high, low] = publish.packet_id.to_be_bytes();
            let refusal = match self.version {
                MqttVersion::V5 => vec![0x40, 3, high, low, 0x97],
                MqttVersion::V311 => vec![0x40, 2, high, low],
            };
            return self.answers.send(refusal).await.is_err();
        }
        self.to_broker.write_all(frame).await.is_ok()
    }
}
