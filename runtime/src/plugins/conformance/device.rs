//! The fake device: a TCP peer on loopback that answers by rules or passes everything to a real device, and misbehaves
//! on demand.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::answers::{Known, Rule, look_up};
use crate::plugins::stream_target::StreamTarget;
use crate::plugins::streams::{Berth, Line as DeviceLine};

/// Bytes of one read.
const CHUNK_BYTES: usize = 4096;
/// A request longer than this is not known, whatever it begins with.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a request without an answer that are shown.
const SHOWN_BYTES: usize = 48;

/// A free port of this machine alone.
pub(super) const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// How the device behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    /// As it should.
    Answers,
    /// It reads and says nothing.
    Silent,
    /// It answers every request by nonsense.
    Garbled,
    /// It closes every connection after half an answer.
    Breaking,
    /// It closes every connection at once.
    Closing,
}

/// Where answers come from.
#[derive(Clone, Debug)]
pub(super) enum Answering {
    Rules(Arc<[Rule]>),
    Real(StreamTarget),
}

/// What the device has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Times somebody has sent something.
    pub(super) requests: u64,
    /// The first request that nothing is known of, in words.
    pub(super) unknown: Option<String>,
}

/// A device that listens until it is dropped.
#[derive(Debug)]
pub(super) struct FakeDevice {
    address: SocketAddr,
    mood: watch::Sender<Mood>,
    seen: watch::Receiver<Seen>,
    listening: AbortHandle,
}

impl Drop for FakeDevice {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl FakeDevice {
    /// Listens at `address`, or at a free port of it.
    pub(super) async fn start(answering: Answering, address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (mood, moods) = watch::channel(Mood::Answers);
        let (sender, seen) = watch::channel(Seen::default());
        let listening = tokio::spawn(listen(listener, answering, moods, Arc::new(sender)));
        Ok(Self {
            address,
            mood,
            seen,
            listening: listening.abort_handle(),
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    pub(super) fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }
}

async fn listen(
    listener: TcpListener,
    answering: Answering,
    moods: watch::Receiver<Mood>,
    seen: Arc<watch::Sender<Seen>>,
) {
    let mut connections = JoinSet::new();
    let berth = Arc::new(Berth::default());
    while let Ok((stream, _peer)) = listener.accept().await {
        // A plugin has one connection: the one before is over, or about to be.
        while connections.try_join_next().is_some() {}
        if matches!(&answering, Answering::Real(target) if target.has_one_user()) {
            // Whom the next one must not meet.
            connections.shutdown().await;
        }
        let (answering, moods, seen) = (answering.clone(), moods.clone(), seen.clone());
        let berth = Arc::clone(&berth);
        connections.spawn(async move {
            match (Line {
                stream,
                moods,
                seen,
            })
            .serve(answering, &berth)
            .await
            {
                // Either side may go at any time: that is what this is for.
                Ok(()) | Err(_) => {}
            }
        });
    }
}

/// One connection.
struct Line {
    stream: TcpStream,
    moods: watch::Receiver<Mood>,
    seen: Arc<watch::Sender<Seen>>,
}

impl Line {
    async fn serve(mut self, answering: Answering, berth: &Berth) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        match answering {
            Answering::Rules(rules) => self.by_rules(&rules).await,
            Answering::Real(target) => {
                let opened = DeviceLine::open(&target, berth).await;
                self.through(opened.map_err(io::Error::other)?).await
            }
        }
    }

    async fn by_rules(&mut self, rules: &[Rule]) -> io::Result<()> {
        let mut request = Vec::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let mood = *self.moods.borrow_and_update();
            if mood == Mood::Closing {
                return Ok(());
            }
            let count = tokio::select! {
                count = self.stream.read(&mut chunk) => count?,
                changed = self.moods.changed() => match changed {
                    Ok(()) => continue,
                    Err(_over) => return Ok(()),
                },
            };
            if count == 0 {
                return Ok(());
            }
            self.count();
            request.extend_from_slice(chunk.get(..count).unwrap_or_default());
            if mood == Mood::Garbled {
                request.clear();
                self.reply(&[]).await?;
                continue;
            }
            while !request.is_empty() {
                match look_up(rules, &request) {
                    Known::Whole(length, answer) => {
                        request.drain(..length);
                        self.reply(&answer).await?;
                    }
                    Known::Beginning if request.len() < REQUEST_BYTES_MAX => break,
                    Known::Beginning | Known::Unknown => {
                        self.note_unknown(&request);
                        request.clear();
                    }
                }
            }
        }
    }

    /// Passes requests on to `real` and its answers back, as the mood allows.
    async fn through(&mut self, mut real: DeviceLine) -> io::Result<()> {
        let mut up = vec![0; CHUNK_BYTES];
        let mut down = vec![0; CHUNK_BYTES];
        loop {
            let mood = *self.moods.borrow_and_update();
            if mood == Mood::Closing {
                return Ok(());
            }
            tokio::select! {
                count = self.stream.read(&mut up) => {
                    let count = count?;
                    if count == 0 {
                        return Ok(());
                    }
                    self.count();
                    if mood == Mood::Garbled {
                        self.reply(&[]).await?;
                    } else {
                        real.write_all(up.get(..count).unwrap_or_default()).await?;
                    }
                }
                count = real.read(&mut down) => {
                    let count = count?;
                    if count == 0 {
                        return Ok(());
                    }
                    if mood != Mood::Garbled {
                        self.reply(down.get(..count).unwrap_or_default()).await?;
                    }
                }
                changed = self.moods.changed() => if changed.is_err() {
                    return Ok(());
                },
            }
        }
    }

    fn count(&self) {
        self.seen.send_modify(|seen| seen.requests += 1);
    }

    fn note_unknown(&self, request: &[u8]) {
        let shown = request.get(..SHOWN_BYTES).unwrap_or(request);
        let hex: Vec<String> = shown.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = String::from_utf8_lossy(shown);
        let words = format!("{} ({:?})", hex.join(" "), text);
        self.seen.send_modify(|seen| {
            seen.unknown.get_or_insert(words);
        });
    }

    /// Says `answer`, or what the mood makes of it.
    async fn reply(&mut self, answer: &[u8]) -> io::Result<()> {
        let mood = *self.moods.borrow();
        match mood {
            Mood::Answers => self.stream.write_all(answer).await,
            Mood::Silent => Ok(()),
            Mood::Garbled => {
                let turn = self.seen.borrow().requests;
                self.stream.write_all(&garbage(turn)).await
            }
            Mood::Breaking | Mood::Closing => {
                let half = answer.get(..answer.len() / 2).unwrap_or_default();
                self.stream.write_all(half).await?;
                Err(io::Error::from(io::ErrorKind::ConnectionAborted))
            }
        }
    }
}

/// Nonsense, another each turn and the same in each run: noise, an endless line, empty lines, text where numbers are due.
fn garbage(turn: u64) -> Vec<u8> {
    match turn % 5 {
        0 => noise(turn, 64),
        1 => b"\r\n\n\n\0".to_vec(),
        2 => vec![b'9'; 3000],
        3 => b"ERROR: -410,\"Query INTERRUPTED\"\r\n".to_vec(),
        _ => [noise(turn, 200), b"\r\n".to_vec()].concat(),
    }
}

/// Bytes by xorshift.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn exchange(stream: &mut TcpStream, request: &[u8]) -> io::Result<Vec<u8>> {
        stream.write_all(request).await?;
        let mut answer = vec![0; 64];
        let count = stream.read(&mut answer).await?;
        answer.truncate(count);
        Ok(answer)
    }

    #[tokio::test]
    async fn a_device_answers_what_it_knows_and_names_what_it_does_not() {
        let rule = Rule::parse(&super::super::Answer {
            request: Some("?\n".to_owned()),
            response: Some("42\n".to_owned()),
            ..Default::default()
        });
        let device = FakeDevice::start(Answering::Rules([rule.unwrap()].into()), ANYWHERE)
            .await
            .unwrap();
        let mut stream = TcpStream::connect(device.address()).await.unwrap();
        assert_eq!(exchange(&mut stream, b"?\n").await.unwrap(), b"42\n");
        stream.write_all(b"X?\n").await.unwrap();
        while device.seen().unknown.is_none() {
            tokio::task::yield_now().await;
        }
        assert_eq!(device.seen().unknown.unwrap(), "58 3f 0a (\"X?\\n\")");
        assert_eq!(exchange(&mut stream, b"?\n").await.unwrap(), b"42\n");
        device.set(Mood::Breaking);
        assert_eq!(exchange(&mut stream, b"?\n").await.unwrap(), b"4");
        assert_eq!(exchange(&mut stream, b"?\n").await.unwrap_or_default(), b"");
    }
}
