//! Streams owned by the host: one task per stream owns its line, a TCP connection or a serial port. A stream belongs to an instance, not to a
//! generation: it goes on while the guest is swapped or restarted.

mod berth;
mod connection;
pub(crate) mod frame;
mod line;
mod serial_port;
#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub(crate) use berth::Berth;
pub(crate) use connection::{Command, StreamFault};
use frame::FrameRule;
pub(crate) use line::Line;
pub(crate) use serial_port::device_trouble;

use super::stream_target::StreamTarget;

/// Events of one instance's streams on their way to its guest. When it is full the sockets are not read.
const EVENTS_QUEUED: usize = 16;
const COMMANDS_QUEUED: usize = 1;
/// Bytes of one write or request.
pub(crate) const REQUEST_BYTES_MAX: usize = 256 * 1024;
pub(crate) const DEADLINE_MAX: Duration = Duration::from_secs(60);

/// What happened on a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamEvent {
    pub(crate) id: u32,
    pub(crate) happened: Happened,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Happened {
    Connected,
    Data(Vec<u8>),
    Closed(String),
}

/// The streams granted to one instance. Ids count from 1 in the order of the grants.
#[derive(Debug)]
pub(crate) struct Streams {
    granted: Vec<Granted>,
}

#[derive(Debug)]
struct Granted {
    name: String,
    commands: mpsc::Sender<Command>,
    task: JoinHandle<()>,
}

impl Streams {
    /// Starts a task per grant. Nothing is connected before a guest opens it.
    pub(crate) fn spawn(grants: &[(String, StreamTarget)]) -> (Self, mpsc::Receiver<StreamEvent>) {
        let (events, receiver) = mpsc::channel(EVENTS_QUEUED);
        let granted = (1..)
            .zip(grants)
            .map(|(id, (name, target))| {
                let (commands, queue) = mpsc::channel(COMMANDS_QUEUED);
                let stream = connection::run(id, target.clone(), queue, events.clone());
                Granted {
                    name: name.clone(),
                    commands,
                    task: tokio::spawn(stream),
                }
            })
            .collect();
        (Self { granted }, receiver)
    }

    /// Streams of these names that lead nowhere: they can be opened, and are never connected.
    pub(crate) fn unconnected(names: &[String]) -> Self {
        let granted = names.iter().map(|name| {
            let (commands, queue) = mpsc::channel(COMMANDS_QUEUED);
            Granted {
                name: name.clone(),
                commands,
                task: tokio::spawn(connection::lead_nowhere(queue)),
            }
        });
        Self {
            granted: granted.collect(),
        }
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.granted
            .iter()
            .map(|granted| granted.name.clone())
            .collect()
    }

    /// Makes sure the stream is connected or on the way there.
    pub(crate) async fn open(&self, name: &str) -> Result<u32, StreamFault> {
        let (id, granted) = (1..)
            .zip(&self.granted)
            .find(|(_, granted)| granted.name == name)
            .ok_or(StreamFault::NotGranted)?;
        ask(granted, |reply| Command::Open { reply }).await?;
        Ok(id)
    }

    pub(crate) async fn write(&self, id: u32, bytes: Vec<u8>) -> Result<(), StreamFault> {
        let granted = self.granted(id)?;
        if bytes.len() > REQUEST_BYTES_MAX {
            return Err(StreamFault::TooLarge);
        }
        ask(granted, |reply| Command::Write { bytes, reply }).await?
    }

    pub(crate) async fn exchange(
        &self,
        id: u32,
        request: Vec<u8>,
        rule: FrameRule,
        deadline: Duration,
    ) -> Result<Vec<u8>, StreamFault> {
        let granted = self.granted(id)?;
        if request.len() > REQUEST_BYTES_MAX {
            return Err(StreamFault::TooLarge);
        }
        let rule = rule
            .checked()
            .map_err(|frame::BadRule| StreamFault::BadRule)?;
        if deadline.is_zero() || deadline > DEADLINE_MAX {
            return Err(StreamFault::BadRule);
        }
        let deadline = Instant::now() + deadline;
        ask(granted, |reply| Command::Exchange {
            request,
            rule,
            deadline,
            reply,
        })
        .await?
    }

    pub(crate) async fn close(&self, id: u32) {
        if let Ok(granted) = self.granted(id) {
            match ask(granted, |reply| Command::Close { reply }).await {
                // Without its task the stream is as closed as can be.
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// Closes all of them, and waits a while for what was written to leave.
    pub(crate) async fn end(&mut self) {
        let tasks: Vec<_> = self.granted.drain(..).map(|granted| granted.task).collect();
        for task in tasks {
            match task.await {
                // Ended either way.
                Ok(()) | Err(_) => {}
            }
        }
    }

    fn granted(&self, id: u32) -> Result<&Granted, StreamFault> {
        usize::try_from(id)
            .ok()
            .and_then(|id| self.granted.get(id.checked_sub(1)?))
            .ok_or(StreamFault::NotGranted)
    }
}

async fn ask<T>(
    granted: &Granted,
    command: impl FnOnce(oneshot::Sender<T>) -> Command,
) -> Result<T, StreamFault> {
    let stopped = || StreamFault::Closed("the stream's task has stopped".to_owned());
    let (reply, answer) = oneshot::channel();
    granted
        .commands
        .send(command(reply))
        .await
        .map_err(|_closed| stopped())?;
    answer.await.map_err(|_closed| stopped())
}
