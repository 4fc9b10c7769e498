//! The task that owns one line.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::berth::Berth;
use super::frame::{FrameRule, Progress};
use super::line::{Line, Unsent};
use super::{Happened, StreamEvent};
use crate::plugins::stream_target::StreamTarget;

/// From one that failed to the next attempt; also what a line lives at least that has not failed.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);
/// A device that does not read for this long is as good as gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
const READ_BYTES: usize = 16 * 1024;
/// Chunks nobody has taken yet; beyond it the line is not read.
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

type Connecting = Pin<Box<dyn Future<Output = Result<Line, String>> + Send>>;

enum Socket {
    Closed {
        reason: String,
    },
    Connecting {
        attempt: Connecting,
        /// Why it is not open, if an attempt before this one has told.
        reason: Option<String>,
    },
    Open(Line),
}

struct Connection {
    id: u32,
    target: StreamTarget,
    socket: Socket,
    /// Where its port lies, if it is one.
    berth: Arc<Berth>,
    /// When the last attempt failed, if it did.
    failed: Option<(Instant, String)>,
    /// Since when it is open, if no byte has come since.
    unproven: Option<Instant>,
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
        berth: Arc::default(),
        failed: None,
        unproven: None,
        pending: VecDeque::new(),
    };
    let mut chunk = vec![0; READ_BYTES];
    loop {
        let readable = connection.chunks_pending() < CHUNKS_PENDING;
        tokio::select! {
            command = commands.recv() => match command {
                Some(command) => connection.on_command(command).await,
                None => return connection.end().await,
            },
            permit = events.reserve(), if !connection.pending.is_empty() => match permit {
                Ok(permit) => if let Some(event) = connection.pending.pop_front() {
                    permit.send(event);
                },
                Err(_instance_gone) => return connection.end().await,
            },
            progress = progress(&mut connection.socket, &mut chunk), if readable => connection.on_progress(progress, &chunk),
        }
    }
}

/// In the place of a line that nobody is to connect. Ends when the instance drops its end.
pub(super) async fn lead_nowhere(mut commands: mpsc::Receiver<Command>) {
    let closed = || StreamFault::Closed("nothing is connected here".to_owned());
    while let Some(command) = commands.recv().await {
        // The guest's call may have been given up.
        match command {
            Command::Open { reply } | Command::Close { reply } => match reply.send(()) {
                Ok(()) | Err(()) => {}
            },
            Command::Write { reply, .. } => match reply.send(Err(closed())) {
                Ok(()) | Err(_) => {}
            },
            Command::Exchange { reply, .. } => match reply.send(Err(closed())) {
                Ok(()) | Err(_) => {}
            },
        }
    }
}

enum Step {
    Connected(Result<Line, String>),
    Read(io::Result<usize>),
}

async fn progress(socket: &mut Socket, chunk: &mut [u8]) -> Step {
    match socket {
        Socket::Closed { .. } => std::future::pending().await,
        Socket::Connecting { attempt, .. } => Step::Connected(attempt.await),
        Socket::Open(line) => Step::Read(line.read(chunk).await),
    }
}

/// Not before `not_before`: what has just failed would fail at once again, and a guest may ask as often as it likes.
async fn connect(
    target: StreamTarget,
    berth: Arc<Berth>,
    not_before: Option<Instant>,
) -> Result<Line, String> {
    if let Some(not_before) = not_before {
        sleep_until(not_before).await;
    }
    Line::open(&target, &berth).await
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
        let now = Instant::now();
        // A peer that accepts and hangs up is no better than one that refuses.
        let opened = self.unproven.take();
        if opened.is_some_and(|opened| now - opened < REOPEN_PAUSE) {
            self.failed = Some((now, reason.clone()));
        }
        self.shut(reason.clone(), Unsent::Dropped);
        self.happened(Happened::Closed(reason));
    }

    /// An attempt that is dropped may have the port already; its thread lets it go.
    fn shut(&mut self, reason: String, unsent: Unsent) {
        let before = std::mem::replace(&mut self.socket, Socket::Closed { reason });
        if let Socket::Open(line) = before {
            line.close(unsent);
        }
    }

    /// Nobody wants it any more. What was written goes first.
    async fn end(&mut self) {
        self.shut("its instance has ended".to_owned(), Unsent::Sent);
        self.berth.closed().await;
    }

    fn open(&mut self) {
        let Socket::Closed { .. } = &self.socket else {
            return;
        };
        let (not_before, reason) = match self.failed.clone() {
            Some((at, reason)) => (Some(at + REOPEN_PAUSE), Some(reason)),
            None => (None, None),
        };
        self.socket = Socket::Connecting {
            attempt: Box::pin(connect(
                self.target.clone(),
                Arc::clone(&self.berth),
                not_before,
            )),
            reason,
        };
    }

    fn on_progress(&mut self, step: Step, chunk: &[u8]) {
        match step {
            Step::Connected(Ok(line)) => {
                self.failed = None;
                self.unproven = Some(Instant::now());
                self.socket = Socket::Open(line);
                self.happened(Happened::Connected);
            }
            Step::Connected(Err(reason)) => {
                self.failed = Some((Instant::now(), reason.clone()));
                self.socket = Socket::Closed {
                    reason: reason.clone(),
                };
                self.happened(Happened::Closed(reason));
            }
            Step::Read(Ok(0)) => drop(self.ended()),
            Step::Read(Ok(count)) => {
                self.unproven = None;
                let data = chunk.get(..count).unwrap_or(chunk).to_vec();
                self.happened(Happened::Data(data));
            }
            Step::Read(Err(error)) => drop(self.failed_by(&error)),
        }
    }

    async fn on_command(&mut self, command: Command) {
        match command {
            Command::Open { reply } => {
                self.open();
                answer(reply, ());
            }
            Command::Write { bytes, mut reply } => {
                let deadline = self.target.transmission_time(bytes.len()) + WRITE_TIMEOUT;
                let result = tokio::select! {
                    result = self.write(&bytes, Instant::now() + deadline) => result,
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
                self.shut("closed by the guest".to_owned(), Unsent::Sent);
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

    /// The open line, after waiting for an attempt in progress.
    async fn opened(&mut self, deadline: Instant) -> Result<&mut Line, StreamFault> {
        if let Socket::Connecting { attempt, reason } = &mut self.socket {
            let connected = timeout_at(deadline, attempt).await.map_err(|_elapsed| {
                // Why it was not open before says more than that it is not yet.
                reason
                    .clone()
                    .map_or(StreamFault::Timeout, StreamFault::Closed)
            })?;
            self.on_progress(Step::Connected(connected), &[]);
        }
        match &mut self.socket {
            Socket::Open(line) => Ok(line),
            Socket::Closed { reason, .. } => Err(StreamFault::Closed(reason.clone())),
            Socket::Connecting { .. } => Err(StreamFault::Timeout),
        }
    }

    async fn write(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), StreamFault> {
        let line = self.opened(deadline).await?;
        match timeout_at(deadline, line.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.failed_by(&error)),
            Err(_elapsed) => {
                let reason = line.stalled();
                self.closed(reason);
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
            let line = self.opened(deadline).await?;
            let count = match timeout_at(until, line.read(&mut chunk)).await {
                Ok(Ok(count)) if count > 0 => count,
                Ok(Ok(_end)) => return Err(self.ended()),
                Ok(Err(error)) => return Err(self.failed_by(&error)),
                Err(_elapsed) if silence.is_some_and(|silence| silence <= deadline) => {
                    return Ok(response);
                }
                Err(_elapsed) => return Err(StreamFault::Timeout),
            };
            self.unproven = None;
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

    /// Nothing more comes.
    fn ended(&mut self) -> StreamFault {
        self.over(Line::ended)
    }

    fn failed_by(&mut self, error: &io::Error) -> StreamFault {
        self.over(|line| line.failed(error))
    }

    fn over(&mut self, why: impl FnOnce(&Line) -> String) -> StreamFault {
        let reason = match &self.socket {
            Socket::Open(line) => why(line),
            Socket::Closed { reason, .. } => reason.clone(),
            Socket::Connecting { .. } => return StreamFault::Timeout,
        };
        self.closed(reason.clone());
        StreamFault::Closed(reason)
    }

    /// Answers that came too late belong to no request.
    fn discard_leftover(&mut self) -> Result<(), StreamFault> {
        self.pending
            .retain(|event| !matches!(event.happened, Happened::Data(_)));
        let mut chunk = vec![0; READ_BYTES];
        for _ in 0..LEFTOVER_READS {
            let Socket::Open(line) = &self.socket else {
                return Ok(());
            };
            match line.read_now(&mut chunk) {
                Ok(0) => return Err(self.ended()),
                Ok(_discarded) => self.unproven = None,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(self.failed_by(&error)),
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
