//! The spool's thread and the two ends others hold: [`Appender`] for whoever produces, [`Outlet`] for the link.
//!
//! One thread owns the spool and blocks on the disk; everybody else talks to it over bounded channels. An append is
//! answered when it is written (it survives the end of this process); a group commit makes it survive a power cut.

pub mod disk;
mod owner;
pub(crate) mod purge;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use moorline_core::message::{Sequence, Uplink};
use moorline_core::spool::dead_letter::Letter;
use moorline_core::spool::storage::StorageError;
use moorline_core::spool::{self as core_spool, Limits, LimitsError, Refused, Status};
use thiserror::Error;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};

pub use core_spool::{Record, Recovery};
use disk::{DirectoryError, Disk};
use owner::{Append, Ask, Order, Owner};

/// Appends on their way to the thread. A full queue is back-pressure for the guest that emits.
const APPENDS_QUEUED: usize = 256;

/// The link asks one thing at a time; acknowledgements may pile up a little.
const ASKS_QUEUED: usize = 16;

/// Orders are rare.
const ORDERS_QUEUED: usize = 4;

/// Encoded bytes of the newest records that stay decoded in memory for the link.
const TAIL_BYTES: usize = 512 * 1024;

/// When an append is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When it is written: it survives the end of the process at once, a power cut after the next group commit.
    Batched,
    /// When it is committed: it survives a power cut.
    Sync,
}

/// How the spool is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolSettings {
    /// Its directory; made when it is not there. Only one gateway may use it.
    pub directory: PathBuf,
    /// Bytes of one segment.
    pub segment_bytes: u64,
    /// Bytes of all files together. When they are used up the oldest segment is dropped and counted.
    pub bytes_max: u64,
    /// The longest an accepted record waits for its commit.
    pub commit_interval: Duration,
    /// A commit is made earlier when so many bytes wait for it.
    pub commit_bytes: usize,
    /// When an append is answered.
    pub sync: Durability,
}

/// Why a spool cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The configuration's fault.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// Its directory is in use or cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The storage refused before anything could be read. Damaged contents never do this.
    #[error("the spool cannot be opened: {0}")]
    Storage(#[from] StorageError),
    /// No thread for it.
    #[error("the spool's thread cannot start: {0}")]
    Thread(#[source] io::Error),
}

/// Why an append was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AppendRefused {
    /// The spool is behind: the same append is worth another try.
    #[error("the spool is behind")]
    Behind {
        /// A good time to wait.
        retry_after: Duration,
    },
    /// The caller's fault; never worth another try.
    #[error("the record is too large")]
    TooLarge,
    /// The disk refuses; it may recover.
    #[error("the spool cannot write: {0}")]
    Storage(StorageError),
    /// The gateway is stopping.
    #[error("the spool is closed")]
    Closed,
}

impl From<Refused> for AppendRefused {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::TooLarge => Self::TooLarge,
            Refused::Storage(error) => Self::Storage(error),
        }
    }
}

/// Why nothing could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    /// The disk could not be read; worth another try.
    #[error("the spool cannot be read: {0}")]
    Storage(StorageError),
    /// The gateway is stopping.
    #[error("the spool is closed")]
    Closed,
}

/// The figures of the spool, for the link, the status page and the policy's question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SpoolStatus {
    /// The newest record.
    pub last: Sequence,
    /// Everything through this one is settled.
    pub acked: Sequence,
    /// Everything through this one survives a power cut, or is settled.
    pub synced: Sequence,
    /// Records waiting.
    pub depth_records: u64,
    /// Readings waiting.
    pub depth_readings: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Readings dropped because the spool was full, since it was made.
    pub evicted_readings: u64,
    /// Readings that were accepted and cannot be read any more, since the spool was made.
    pub damaged_readings: u64,
    /// Readings the platform refused for good or no packet could carry, since the spool was made.
    pub set_aside_readings: u64,
    /// Readings appended since the spool was made, across restarts.
    pub appended_readings_total: u64,
    /// Damaged segments put aside.
    pub quarantined_segments: u64,
    /// The last commit or other disk work failed, or appends are being refused.
    pub fault: Option<StorageError>,
}

impl SpoolStatus {
    fn new(status: &Status, fault: Option<StorageError>) -> Self {
        Self {
            last: status.last,
            acked: status.acked,
            synced: status.synced,
            depth_records: status.depth_records,
            depth_readings: status.depth_readings,
            bytes: status.bytes,
            evicted_readings: status.evicted.readings,
            damaged_readings: status.damaged.readings,
            set_aside_readings: status.set_aside_readings,
            appended_readings_total: status.appended.readings,
            quarantined_segments: status.quarantined_segments,
            fault: fault.or(status.stalled),
        }
    }
}

/// Where records go in. Appends of one caller keep their order when each waits for the one before.
#[derive(Clone, Debug)]
pub struct Appender {
    appends: mpsc::Sender<Append>,
    retry_after: Duration,
}

impl Appender {
    /// Hands `uplink` to the spool and waits until it is accepted (see [`Durability`]). Dropping the future does not
    /// take it back.
    ///
    /// # Errors
    /// When it was not accepted, with whose fault it is.
    pub async fn append(&self, uplink: Uplink) -> Result<Sequence, AppendRefused> {
        let (reply, answer) = oneshot::channel();
        self.appends
            .try_send(Append { uplink, reply })
            .map_err(|refused| match refused {
                TrySendError::Full(_) => AppendRefused::Behind {
                    retry_after: self.retry_after,
                },
                TrySendError::Closed(_) => AppendRefused::Closed,
            })?;
        answer.await.unwrap_or(Err(AppendRefused::Closed))
    }
}

/// Where records come out: the link's end.
#[derive(Debug)]
pub struct Outlet {
    asks: mpsc::Sender<Ask>,
    status: watch::Receiver<SpoolStatus>,
}

impl Outlet {
    /// The records after `after`, in order: at most `records_max` and about `bytes_max` encoded bytes, but at least one
    /// if there is one. Empty: nothing is there yet. A lower `after` than before reads again what is not acknowledged.
    ///
    /// # Errors
    /// When the disk cannot be read, or the spool is closed.
    pub async fn read(
        &mut self,
        after: Sequence,
        bytes_max: usize,
        records_max: usize,
    ) -> Result<Vec<Record>, ReadError> {
        let (reply, answer) = oneshot::channel();
        let ask = Ask::Read {
            after,
            bytes_max,
            records_max,
            reply,
        };
        self.asks
            .send(ask)
            .await
            .map_err(|_closed| ReadError::Closed)?;
        answer.await.unwrap_or(Err(ReadError::Closed))
    }

    /// The platform has everything through `through`, except `set_aside_readings` more than were told before: those it
    /// will never take. After a close it is of no use and does nothing.
    pub async fn ack(&mut self, through: Sequence, set_aside_readings: u64) {
        let ask = Ask::Ack {
            through,
            set_aside_readings,
        };
        match self.asks.send(ask).await {
            // Closed: what is not acknowledged comes again after the next start.
            Ok(()) | Err(_) => {}
        }
    }

    /// Puts a message aside for good: before the acknowledgement that covers it.
    pub async fn keep(&mut self, letter: Letter) {
        match self.asks.send(Ask::Keep(letter)).await {
            // Closed: its message is not acknowledged and comes again after the next start.
            Ok(()) | Err(_) => {}
        }
    }

    /// The figures; `changed()` wakes when something was appended or settled.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<SpoolStatus> {
        self.status.clone()
    }
}

/// The thread. Dropping this leaves it running until both ends are dropped, too.
#[derive(Debug)]
pub struct Spool {
    orders: mpsc::Sender<Order>,
    status: watch::Receiver<SpoolStatus>,
}

impl Spool {
    /// Accepts what is queued, commits, and releases the directory.
    ///
    /// # Errors
    /// When the last commit failed. What was accepted is written, not synced.
    pub async fn close(self) -> Result<(), StorageError> {
        let (reply, answer) = oneshot::channel();
        match self.orders.send(Order::Close(reply)).await {
            Ok(()) => answer.await.unwrap_or(Err(StorageError::Fault(0))),
            // It ended by itself, because both ends were dropped.
            Err(_ended) => Ok(()),
        }
    }

    /// Has the dead letters sent again that are marked for it. The outcome is in the log.
    pub async fn replay(&self) {
        match self.orders.send(Order::Replay).await {
            Ok(()) => {}
            Err(_ended) => tracing::debug!("the spool is closed: letters wait for the next start"),
        }
    }

    /// Has everything given up that waits, if somebody asked for it with a file (see `purge`).
    pub async fn purge(&self) {
        match self.orders.send(Order::Purge).await {
            Ok(()) => {}
            Err(_ended) => tracing::debug!("the spool is closed: nothing is given up"),
        }
    }

    /// The figures.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<SpoolStatus> {
        self.status.clone()
    }
}

/// Opens the spool and starts its thread. Reads the disk: not for a hot path.
///
/// # Errors
/// When the settings make no sense, or the directory is in use or cannot be used.
pub fn open(settings: SpoolSettings) -> Result<(Spool, Appender, Outlet, Recovery), OpenError> {
    let limits = Limits::new(settings.segment_bytes, settings.bytes_max, TAIL_BYTES)?;
    let disk = Disk::open(&settings.directory)?;
    let (spool, recovery) = core_spool::Spool::open(disk, limits)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(OpenError::Thread)?;
    let (appends, append_queue) = mpsc::channel(APPENDS_QUEUED);
    let (asks, ask_queue) = mpsc::channel(ASKS_QUEUED);
    let (orders, order_queue) = mpsc::channel(ORDERS_QUEUED);
    let (status_sender, status) = watch::channel(SpoolStatus::new(&spool.status(), None));
    let retry_after = settings.commit_interval;
    let mut owner = Owner::new(spool, settings, status_sender);
    std::thread::Builder::new()
        .name("spool".into())
        .spawn(move || {
            owner.replay();
            runtime.block_on(owner.run(append_queue, ask_queue, order_queue));
        })
        .map_err(OpenError::Thread)?;
    let appender = Appender {
        appends,
        retry_after,
    };
    let outlet = Outlet {
        asks,
        status: status.clone(),
    };
    Ok((Spool { orders, status }, appender, outlet, recovery))
}
