//! Where the port of one stream is opened, lies open, is drained and is closed: on a thread of its own.
//!
//! Each of these calls takes as long as the driver likes, and some drivers never return. tokio's pool of blocking threads
//! is shared with the look-ups of names; attempts that never end would fill it, and the link to the broker would die of a
//! broken converter. So a stream has one thread (and one more while it drains), and no other until that one has ended.

use std::fs::File;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Builder;
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::termios::{QueueSelector, tcdrain, tcflush};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::line::Unsent;
use crate::plugins::stream_target::SerialTarget;

/// What was written before a port is closed has so long to leave.
const SENT_WITHIN: Duration = Duration::from_secs(5);
/// For closing after that; a driver that needs more is given up.
const CLOSED_WITHIN: Duration = Duration::from_secs(6);
/// They call the driver and read a short file.
const STACK_BYTES: usize = 256 * 1024;
const THREAD: &str = "serial-port";
const DRAIN_THREAD: &str = "serial-drain";

/// What the thread of a stream's port is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Free,
    Opening,
    Open,
    Closing,
}

/// The place of one stream's port: it has room for one.
#[derive(Debug)]
pub(crate) struct Berth {
    stage: Arc<watch::Sender<Stage>>,
}

/// Frees the berth when the last thread that may still hold the port has let it go.
struct Occupied(Arc<watch::Sender<Stage>>);

/// An open port, for whoever reads and writes it. Its fields go in this order, so that the thread closes it last.
pub(super) struct Moored {
    pub(super) port: File,
    pub(super) lines: Mooring,
}

/// Keeps a port open: its thread closes it when told how, or when this is dropped, as if it were told to send first.
#[derive(Debug)]
pub(super) struct Mooring(SyncSender<Unsent>);

impl Default for Berth {
    fn default() -> Self {
        Self {
            stage: Arc::new(watch::Sender::new(Stage::Free)),
        }
    }
}

impl Berth {
    /// Has `open` called on the port's thread, after the port before it has been closed. Dropping what is returned gives
    /// the attempt up: what it opens later is closed there.
    ///
    /// # Errors
    /// With the words for whoever has to see to it.
    pub(super) async fn open(
        &self,
        target: SerialTarget,
        within: Duration,
        open: impl FnOnce(&SerialTarget) -> Result<File, String> + Send + 'static,
    ) -> Result<Moored, String> {
        let shown = target.device.display().to_string();
        let occupied = self.occupy(&shown).await?;
        let (answer, opened) = oneshot::channel();
        let thread = thread(THREAD);
        let started = thread.spawn(move || tend(&target, open, answer, occupied));
        started.map_err(|error| format!("{shown}: no thread to open it on: {error}"))?;
        match timeout(within, opened).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(_panicked)) => Err(format!("{shown}: opening it failed within the gateway")),
            Err(_elapsed) => Err(format!(
                "{shown}: its driver has not opened it within {} s",
                within.as_secs()
            )),
        }
    }

    async fn occupy(&self, shown: &str) -> Result<Occupied, String> {
        let taken = async {
            let mut stage = self.stage.subscribe();
            loop {
                if self.stage.send_if_modified(|stage| {
                    let free = *stage == Stage::Free;
                    if free {
                        *stage = Stage::Opening;
                    }
                    free
                }) {
                    return Occupied(Arc::clone(&self.stage));
                }
                match stage.wait_for(|stage| *stage == Stage::Free).await {
                    // The sender is ours.
                    Ok(_) | Err(_) => {}
                }
            }
        };
        let taken = timeout(CLOSED_WITHIN, taken).await;
        taken.map_err(|_elapsed| match *self.stage.borrow() {
            Stage::Opening => format!(
                "{shown}: its driver still has not opened it for the attempt before; is the converter or its driver stuck?"
            ),
            Stage::Free | Stage::Open | Stage::Closing => format!(
                "{shown}: its driver still has not closed it; is the converter or its driver stuck?"
            ),
        })
    }

    /// Until the last bytes of a port that was told to close have left, or are given up. An attempt to open is not waited
    /// for: it has nothing to lose.
    pub(super) async fn closed(&self) {
        let mut stage = self.stage.subscribe();
        let closed = stage.wait_for(|stage| matches!(stage, Stage::Free | Stage::Opening));
        match timeout(CLOSED_WITHIN, closed).await {
            // A driver that does not come back keeps its thread, and nobody else.
            Ok(_) | Err(_) => {}
        }
    }
}

impl Occupied {
    fn is_at(&self, stage: Stage) {
        self.0.send_replace(stage);
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.is_at(Stage::Free);
    }
}

impl Mooring {
    pub(super) fn cast_off(self, unsent: Unsent) {
        match self.0.try_send(unsent) {
            // Its thread waits for this one word; it can only be gone.
            Ok(()) | Err(_) => {}
        }
    }
}

fn thread(name: &str) -> Builder {
    Builder::new().name(name.to_owned()).stack_size(STACK_BYTES)
}

/// The life of a port.
fn tend(
    target: &SerialTarget,
    open: impl FnOnce(&SerialTarget) -> Result<File, String>,
    answer: oneshot::Sender<Result<Moored, String>>,
    occupied: Occupied,
) {
    let opened = open(target).and_then(|port| match port.try_clone() {
        Ok(ours) => Ok((ours, port)),
        Err(error) => Err(format!("{}: {error}", target.device.display())),
    });
    match opened {
        Ok((ours, port)) => {
            occupied.is_at(Stage::Open);
            let (lines, casting_off): (_, Receiver<Unsent>) = sync_channel(1);
            // Nobody may want it any more: then it comes back here, and goes.
            drop(answer.send(Ok(Moored {
                port,
                lines: Mooring(lines),
            })));
            let unsent = casting_off.recv().unwrap_or(Unsent::Sent);
            occupied.is_at(Stage::Closing);
            close(ours, unsent, occupied);
        }
        Err(reason) => {
            drop(occupied);
            drop(answer.send(Err(reason)));
        }
    }
}

/// The last of the port, unless a driver keeps it that ignores being told to forget its bytes.
fn close(port: File, unsent: Unsent, occupied: Occupied) {
    let occupied = Arc::new(occupied);
    if unsent == Unsent::Dropped || !drained(&port, &occupied) {
        // Or the kernel would wait with closing for bytes that nobody takes, half a minute long. It ends a draining, too.
        match tcflush(&port, QueueSelector::OFlush) {
            // A port that is gone has none.
            Ok(()) | Err(_) => {}
        }
    }
    drop(port);
    drop(occupied);
}

/// Whether everything has left in time.
fn drained(port: &File, occupied: &Arc<Occupied>) -> bool {
    let Ok(line) = port.try_clone() else {
        return false;
    };
    let (told, done) = sync_channel(1);
    let held = Arc::clone(occupied);
    let draining = thread(DRAIN_THREAD).spawn(move || {
        let drained = retry_on_intr(|| tcdrain(&line)).is_ok();
        drop(line);
        drop(held);
        match told.send(drained) {
            // Its patience was over.
            Ok(()) | Err(_) => {}
        }
    });
    draining.is_ok() && done.recv_timeout(SENT_WITHIN).unwrap_or(false)
}
