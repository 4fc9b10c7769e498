//! The task that owns one socket.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, Read};
use std::pin::Pin;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::frame::{FrameRule, Progress};
use super::{Happened, StreamEvent};
use crate::plugins::settings::StreamTarget;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A device that does not read for this long is as good as gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const READ_BYTES: usize = 16 * 1024;
/// Chunks nobody has taken yet; beyond it the socket is not read.
const CHUNKS_PENDING: usize = 4;
/// Events nobody has taken yet. Only a guest that opens and closes in a circle gets here; it loses the oldest.
const EVENTS_PENDING: usize = 32;
/// Reads that may be thrown away before a request.
const LEFTOVER_READS: usize = 64;

/// Why a stream did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StreamFault {
    NotGranted,
    Closed(String),
    Timeout,
    TooLarge,
    BadRule,
}

#[derive(Debug)]
pub(crate) enum Command {
    Open {
        reply: oneshot::Sender<()>,
    },
    Write {
        bytes: Vec<u8>,
        reply: oneshot::Sender<Result<(), StreamFault>>,
    },
    Exchange {
        request: Vec<u8>,
        rule: FrameRule,
        deadline: Instant,
        reply: oneshot::Sender<Result<Vec<u8>, StreamFault>>,
    },
    Close {
        reply: oneshot::Sender<()>,
    },
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

enum Socket {
    Closed { reason: String },
    Connecting(Connecting),
    Open(TcpStream),
}

struct Connection {
    id: u32,
    target: StreamTarget,
    socket: Socket,
    pending: VecDeque<StreamEvent>,
}

/// Ends when the instance drops its end.
pub(super) async fn run(
    id: u32,
    target: StreamTarget,
    mut commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<StreamEvent>,
) {
    let mut connection = Connection {
        id,
        target,
        socket: Socket::Closed {
            reason: "it was never opened".to_owned(),
        },
        pending: VecDeque::new(),
    };
    let mut chunk = vec![0; READ_BYTES];
    loop {
        let readable = connection.chunks_pending() < CHUNKS_PENDING;
        tokio::select! {
            command = commands.recv() => match command {
                Some(command) => connection.on_command(command).await,
                None => return,
            },
            permit = events.reserve(), if !connection.pending.is_empty() => match permit {
                Ok(permit) => if let Some(event) = connection.pending.pop_front() {
                    permit.send(event);
                },
                Err(_instance_gone) => return,
            },
            progress = progress(&mut connection.socket, &mut chunk), if readable => connection.on_progress(progress, &chunk),
        }
    }
}

enum Step {
    Connected(io::Result<TcpStream>),
    Read(io::Result<usize>),
}

async fn progress(socket: &mut Socket, chunk: &mut [u8]) -> Step {
    match socket {
        Socket::Closed { .. } => std::future::pending().await,
        Socket::Connecting(connecting) => Step::Connected(connecting.await),
        Socket::Open(stream) => Step::Read(stream.read(chunk).await),
    }
}

async fn connect(target: StreamTarget) -> io::Result<TcpStream> {
    let connected = timeout(
        CONNECT_TIMEOUT,
        TcpStream::connect((target.host.as_str(), target.port)),
    );
    let stream = connected.await.map_err(|_elapsed| {
        io::Error::new(
            io::ErrorKind::TimedOut,
            "no answer to the connection request",
        )
    })??;
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

impl Connection {
    fn chunks_pending(&self) -> usize {
        self.pending
            .iter()
            .filter(|event| matches!(event.happened, Happened::Data(_)))
            .count()
    }

    fn happened(&mut self, happened: Happened) {
        if self.pending.len() >= EVENTS_PENDING {
            self.pending.pop_front();
        }
        self.pending.push_back(StreamEvent {
            id: self.id,
            happened,
        });
    }

    fn closed(&mut self, reason: String) {
        self.socket = Socket::Closed {
            reason: reason.clone(),
        };
        self.happened(Happened::Closed(reason));
    }

    fn on_progress(&mut self, step: Step, chunk: &[u8]) {
        match step {
            Step::Connected(Ok(stream)) => {
                self.socket = Socket::Open(stream);
                self.happened(Happened::Connected);
            }
            Step::Connected(Err(error)) => self.closed(format!("{}: {error}", self.target)),
            Step::Read(Ok(0)) => self.closed("closed by the peer".to_owned()),
            Step::Read(Ok(count)) => {
                let data = chunk.get(..count).unwrap_or(chunk).to_vec();
                self.happened(Happened::Data(data));
            }
            Step::Read(Err(error)) => self.closed(error.to_string()),
        }
    }

    async fn on_command(&mut self, command: Command) {
        match command {
            Command::Open { reply } => {
                if let Socket::Closed { .. } = self.socket {
                    self.socket = Socket::Connecting(Box::pin(connect(self.target.clone())));
                }
                answer(reply, ());
            }
            Command::Write { bytes, mut reply } => {
                let result = tokio::select! {
                    result = self.write(&bytes, Instant::now() + WRITE_TIMEOUT) => result,
                    () = reply.closed() => return self.abandoned(),
                };
                answer(reply, result);
            }
            Command::Exchange {
                request,
                rule,
                deadline,
                mut reply,
            } => {
                let result = tokio::select! {
                    result = self.exchange(&request, &rule, deadline) => result,
                    // The call was given up: the next request discards what still comes.
                    () = reply.closed() => return,
                };
                answer(reply, result);
            }
            Command::Close { reply } => {
                self.pending.clear();
                self.socket = Socket::Closed {
                    reason: "closed by the guest".to_owned(),
                };
                answer(reply, ());
            }
        }
    }

    /// Half a message may be on the wire: nothing sensible can follow it.
    fn abandoned(&mut self) {
        if let Socket::Open(_) = self.socket {
            self.closed("a write was given up half-way".to_owned());
        }
    }

    /// The open socket, after waiting for a connection in progress.
    async fn opened(&mut self, deadline: Instant) -> Result<&mut TcpStream, StreamFault> {
        if let Socket::Connecting(connecting) = &mut self.socket {
            let connected = timeout_at(deadline, connecting)
                .await
                .map_err(|_elapsed| StreamFault::Timeout)?;
            self.on_progress(Step::Connected(connected), &[]);
        }
        match &mut self.socket {
            Socket::Open(stream) => Ok(stream),
            Socket::Closed { reason } => Err(StreamFault::Closed(reason.clone())),
            Socket::Connecting(_) => Err(StreamFault::Timeout),
        }
    }

    async fn write(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), StreamFault> {
        let stream = self.opened(deadline).await?;
        match timeout_at(deadline, stream.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                self.closed(error.to_string());
                Err(StreamFault::Closed(error.to_string()))
            }
            Err(_elapsed) => {
                self.closed("the device does not read".to_owned());
                Err(StreamFault::Timeout)
            }
        }
    }

    async fn exchange(
        &mut self,
        request: &[u8],
        rule: &FrameRule,
        deadline: Instant,
    ) -> Result<Vec<u8>, StreamFault> {
        self.opened(deadline).await?;
        self.discard_leftover()?;
        self.write(request, deadline).await?;
        let mut response = Vec::new();
        let mut chunk = vec![0; READ_BYTES];
        loop {
            let silence = rule
                .idle_gap()
                .filter(|_| !response.is_empty())
                .map(|gap| Instant::now() + gap);
            let until = silence.map_or(deadline, |silence| silence.min(deadline));
            let stream = self.opened(deadline).await?;
            let count = match timeout_at(until, stream.read(&mut chunk)).await {
                Ok(Ok(count)) if count > 0 => count,
                Ok(Ok(_end)) => return Err(self.ended("closed by the peer".to_owned())),
                Ok(Err(error)) => return Err(self.ended(error.to_string())),
                Err(_elapsed) if silence.is_some_and(|silence| silence <= deadline) => {
                    return Ok(response);
                }
                Err(_elapsed) => return Err(StreamFault::Timeout),
            };
            let searched = response.len();
            response.extend_from_slice(chunk.get(..count).unwrap_or(&chunk));
            match rule.progress(&response, searched) {
                Progress::Complete(length) => {
                    let surplus = response.split_off(length);
                    if !surplus.is_empty() {
                        self.happened(Happened::Data(surplus));
                    }
                    return Ok(response);
                }
                Progress::Partial => {}
                Progress::TooLarge => return Err(StreamFault::TooLarge),
            }
        }
    }

    fn ended(&mut self, reason: String) -> StreamFault {
        self.closed(reason.clone());
        StreamFault::Closed(reason)
    }

    /// Answers that came too late belong to no request.
    fn discard_leftover(&mut self) -> Result<(), StreamFault> {
        self.pending
            .retain(|event| !matches!(event.happened, Happened::Data(_)));
        let Socket::Open(stream) = &self.socket else {
            return Ok(());
        };
        let mut chunk = vec![0; READ_BYTES];
        // Past tokio, which learns of waiting bytes only on its next turn. The socket does not block.
        let socket = SockRef::from(stream);
        for _ in 0..LEFTOVER_READS {
            match (&*socket).read(&mut chunk) {
                Ok(0) => return Err(self.ended("closed by the peer".to_owned())),
                Ok(_discarded) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(self.ended(error.to_string())),
            }
        }
        Ok(())
    }
}

fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    match reply.send(value) {
        // The call that asked was given up.
        Ok(()) | Err(_) => {}
    }
}
