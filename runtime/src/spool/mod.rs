//! The spool's thread and the two ends others hold: [`Appender`] for whoever produces, [`Outlet`] for the link.
//!
//! One thread owns the spool and blocks on the disk; everybody else talks to it over bounded channels. An append is
//! answered when it is written (it survives the end of this process); a group commit makes it survive a power cut.

pub mod disk;
mod media;
mod owner;
pub(crate) mod purge;
mod rehearsal;
mod routes;
mod settings;
mod status;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use moorline_core::message::{Qos, Sequence, Uplink};
use moorline_core::spool::dead_letter::Letter;
use moorline_core::spool::storage::StorageError;
use moorline_core::spool::streams::Streams;
use moorline_core::spool::{self as core_spool, Limits, LimitsError, Refused};
use thiserror::Error;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock::Clock;
pub use core_spool::Recovery;
pub use core_spool::streams::{AfterOutage, Handed, Whole};
use disk::{DirectoryError, Disk};
use media::Media;
use owner::{Append, Ask, Order, Owner, Reading};
pub(crate) use rehearsal::{Offers, rehearsal};
pub use routes::{Pattern, Routes, Rule};
pub use settings::{Durability, Full, SpoolSettings, StreamSetup};
pub use status::{SpoolStatus, StreamStatus};

/// Appends on their way to the thread. A full queue is back-pressure for the guest that emits.
const APPENDS_QUEUED: usize = 256;

/// The link asks one thing at a time; acknowledgements may pile up a little.
const ASKS_QUEUED: usize = 16;

/// Orders are rare.
const ORDERS_QUEUED: usize = 4;

/// Encoded bytes of the newest records that stay decoded in memory for the link.
const TAIL_BYTES: usize = 512 * 1024;

/// Why a spool cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The configuration's fault.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// Its directory is in use or cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The storage refused. A gateway starts all the same; only whoever needs what lies there meets this.
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
            // Accepted and counted as evicted: [`Owner::append`] answers so.
            Refused::Dropped => Self::Storage(StorageError::Full),
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

/// Where records go in. Appends of one caller keep their order when each waits for the one before.
#[derive(Clone, Debug)]
pub struct Appender {
    appends: mpsc::Sender<Append>,
    retry_after: Duration,
    routes: Arc<Routes>,
    /// On whose behalf, where a rule asks for it.
    connector: Option<Arc<str>>,
}

impl Appender {
    /// The same on behalf of this connector.
    #[must_use]
    pub fn of_connector(&self, name: &str) -> Self {
        Self {
            connector: Some(name.into()),
            ..self.clone()
        }
    }

    /// Hands `uplink` to the spool and waits until it is accepted (see [`Durability`]). Dropping the future does not
    /// take it back.
    ///
    /// # Errors
    /// When it was not accepted, with whose fault it is.
    pub async fn append(&self, uplink: Uplink) -> Result<Sequence, AppendRefused> {
        let parts = self.routes.divide(uplink, self.connector.as_deref());
        let permits =
            self.appends
                .try_reserve_many(parts.len())
                .map_err(|refused| match refused {
                    TrySendError::Full(()) => AppendRefused::Behind {
                        retry_after: self.retry_after,
                    },
                    TrySendError::Closed(()) => AppendRefused::Closed,
                })?;
        let mut answers = Vec::with_capacity(parts.len());
        for (permit, (stream, uplink)) in permits.zip(parts) {
            let (reply, answer) = oneshot::channel();
            permit.send(Append {
                stream,
                uplink,
                reply,
            });
            answers.push(answer);
        }
        let mut outcome = Err(AppendRefused::Closed);
        for answer in answers {
            outcome = answer.await.unwrap_or(Err(AppendRefused::Closed));
            if outcome.is_err() {
                break;
            }
        }
        outcome
    }
}

/// Where records come out: the link's end.
#[derive(Debug)]
pub struct Outlet {
    asks: mpsc::Sender<Ask>,
    status: watch::Receiver<SpoolStatus>,
    qos: Vec<Qos>,
}

impl Outlet {
    /// With which quality of service each stream is published, in order of ids.
    #[must_use]
    pub fn qos(&self) -> &[Qos] {
        &self.qos
    }

    /// A session begins. Of what was handed out, everything through turn `sent` may have left and is handed out again as it
    /// was; the rest anew, as the streams' settings say for what waited.
    pub async fn begin(&mut self, sent: Sequence) {
        match self.asks.send(Ask::Begin { sent }).await {
            // Closed: there is nothing to hand out any more.
            Ok(()) | Err(_) => {}
        }
    }

    /// What is next, in the order of turns: at most `records_max` and about `bytes_max` encoded bytes, but at least one if
    /// there is one. None: nothing is there yet, or it waits for its pace, so long.
    ///
    /// # Errors
    /// When the disk cannot be read, or the spool is closed.
    pub async fn read(
        &mut self,
        bytes_max: usize,
        records_max: usize,
    ) -> Result<(Vec<Handed>, Option<Duration>), ReadError> {
        let (reply, answer) = oneshot::channel();
        let ask = Ask::Read(Reading {
            bytes_max,
            records_max,
            reply,
        });
        self.asks
            .send(ask)
            .await
            .map_err(|_closed| ReadError::Closed)?;
        answer.await.unwrap_or(Err(ReadError::Closed))
    }

    /// The platform has everything through turn `through`, except `set_aside_readings` more than were told before: those it
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

    /// Does what operators have marked files for: sends dead letters again, gives up what waits. The outcome is in the log.
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

/// The spools of all streams, their two ends, and what each stream's recovery found.
pub type Opened = (Spool, Appender, Outlet, Vec<Option<Recovery>>);

/// Opens the spools of all streams and starts their thread. Reads the disk: not for a hot path. A stream whose medium
/// gives nothing has no recovery: it works in memory until the medium does.
///
/// # Errors
/// When the settings make no sense, or the directory is in use, or no directory because of somebody's choice.
pub fn open(settings: SpoolSettings, clock: Clock) -> Result<Opened, OpenError> {
    let draw = RandomState::new().hash_one(&settings.directory).max(1);
    let mut streams = Vec::with_capacity(settings.streams.len());
    let mut disks = Vec::with_capacity(settings.streams.len());
    let mut recoveries = Vec::with_capacity(settings.streams.len());
    for (number, setup) in (0..).zip(&settings.streams) {
        let limits = setup.limits(&settings, TAIL_BYTES)?;
        let (disk, mut spool, recovery) =
            open_stream(&settings, setup, limits, draw.wrapping_add(number).max(1))?;
        spool.tell_time(clock.wall());
        streams.push((setup.stream.clone(), spool));
        disks.push(disk);
        recoveries.push(recovery);
    }
    let streams = Streams::new(streams);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(OpenError::Thread)?;
    let (appends, append_queue) = mpsc::channel(APPENDS_QUEUED);
    let (asks, ask_queue) = mpsc::channel(ASKS_QUEUED);
    let (orders, order_queue) = mpsc::channel(ORDERS_QUEUED);
    let (status_sender, status) = watch::channel(SpoolStatus::of(&streams, None));
    let appender = Appender {
        appends,
        retry_after: settings.commit_interval,
        routes: Arc::new(settings.routes.clone()),
        connector: None,
    };
    let qos = settings.streams.iter().map(|setup| setup.qos).collect();
    let media = Media::new(disks, draw);
    let mut owner = Owner::new(streams, media, settings, status_sender, clock);
    std::thread::Builder::new()
        .name("spool".into())
        .spawn(move || {
            owner.replay();
            runtime.block_on(owner.run(append_queue, ask_queue, order_queue));
        })
        .map_err(OpenError::Thread)?;
    let outlet = Outlet {
        asks,
        status: status.clone(),
        qos,
    };
    Ok((Spool { orders, status }, appender, outlet, recoveries))
}

/// A stream on its medium, or in memory where that gives nothing.
fn open_stream(
    settings: &SpoolSettings,
    setup: &StreamSetup,
    limits: Limits,
    draw: u64,
) -> Result<(Disk, core_spool::Spool<Disk>, Option<Recovery>), OpenError> {
    let directory = settings.stream_directory(setup);
    let (disk, why) = match Disk::open(&directory) {
        Ok(disk) => {
            let window = settings.window_of(setup, &disk, false);
            match core_spool::Spool::open_with(disk.clone(), window, limits, draw) {
                Ok((spool, recovery)) => return Ok((disk, spool, Some(recovery))),
                Err(why) => (disk, why),
            }
        }
        Err(error) => match error.medium_fault() {
            Some(why) => (Disk::absent(&directory), why),
            None => return Err(error.into()),
        },
    };
    tracing::error!(
        stream = &*setup.stream.name,
        directory = %directory.display(),
        error = %why,
        "the medium of the spool gives nothing: what is accepted waits in memory, up to spool.memory_bytes_max, and ends \
         with this process; what lies on the medium is taken up when it works"
    );
    let spool = core_spool::Spool::without_storage(disk.clone(), limits, draw, why);
    Ok((disk, spool, None))
}
