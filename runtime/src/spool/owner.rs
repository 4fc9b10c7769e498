//! The loop of the spool's thread. It blocks on the disk by design: nothing else runs on this thread.

use std::pin::Pin;
use std::time::Duration;

use moorline_core::message::{Sequence, Uplink};
use moorline_core::spool::dead_letter::{Letter, Replayed};
use moorline_core::spool::storage::StorageError;
use moorline_core::spool::{self as core_spool, Refused, Totals};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Sleep, sleep};

use super::disk::Disk;
use super::purge;
use super::{AppendRefused, Durability, ReadError, Record, SpoolSettings, SpoolStatus};

/// A commit is made when so many records wait for it.
const COMMIT_RECORDS: u64 = 1024;

/// Appends written together at most.
const BATCH: usize = 256;

/// Between two steps of zero-filling a spare.
const PREPARE_PAUSE: Duration = Duration::from_millis(10);

/// How often a storage that refuses is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The most that acknowledgements lag behind on the medium; after a power cut that much is sent again.
const CURSOR_SYNC_INTERVAL: Duration = Duration::from_secs(30);

pub(super) struct Append {
    pub(super) uplink: Uplink,
    pub(super) reply: oneshot::Sender<Result<Sequence, AppendRefused>>,
}

pub(super) enum Ask {
    Read {
        after: Sequence,
        bytes_max: usize,
        records_max: usize,
        reply: oneshot::Sender<Result<Vec<Record>, ReadError>>,
    },
    Ack {
        through: Sequence,
        set_aside_readings: u64,
    },
    Keep(Letter),
}

/// What whoever holds the spool as a whole asks for.
pub(super) enum Order {
    /// Send the letters again that are marked for it.
    Replay,
    /// Give up what waits, if somebody asked for that with a file.
    Purge,
    /// Answered when the directory is free again.
    Close(CloseReply),
}

pub(super) type CloseReply = oneshot::Sender<Result<(), StorageError>>;

pub(super) struct Owner {
    spool: core_spool::Spool<Disk>,
    settings: SpoolSettings,
    status: watch::Sender<SpoolStatus>,
    replies: Vec<oneshot::Sender<Result<Sequence, AppendRefused>>>,
    outcomes: Vec<Result<Sequence, Refused>>,
    /// Acknowledgements since the cursor was written.
    acked: bool,
    /// Which work the storage last refused, and why.
    fault: Option<(&'static str, StorageError)>,
}

impl Owner {
    pub(super) fn new(
        spool: core_spool::Spool<Disk>,
        settings: SpoolSettings,
        status: watch::Sender<SpoolStatus>,
    ) -> Self {
        Self {
            spool,
            settings,
            status,
            replies: Vec::with_capacity(BATCH),
            outcomes: Vec::with_capacity(BATCH),
            acked: false,
            fault: None,
        }
    }

    pub(super) async fn run(
        mut self,
        mut appends: mpsc::Receiver<Append>,
        mut asks: mpsc::Receiver<Ask>,
        mut orders: mpsc::Receiver<Order>,
    ) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut commit = Timer::new();
        let mut upkeep = Timer::new();
        let mut cursor_sync = Timer::new();
        let (mut appends_open, mut asks_open) = (true, true);
        let reply = loop {
            if self.due() {
                self.commit();
                commit.disarm();
            } else if self.spool.wants_commit() || self.acked {
                commit.arm(self.settings.commit_interval);
            }
            if self.spool.status().stalled.is_some() {
                upkeep.arm(RETRY_PAUSE);
            } else if self.spool.wants_preparing() {
                upkeep.arm(PREPARE_PAUSE);
            }
            cursor_sync.arm(CURSOR_SYNC_INTERVAL);
            self.publish();
            if !appends_open && !asks_open {
                break None;
            }
            tokio::select! {
                biased;
                Some(order) = orders.recv() => match order {
                    Order::Replay => self.replay(),
                    Order::Purge => self.purge(),
                    Order::Close(reply) => break Some(reply),
                },
                () = commit.elapsed() => {
                    self.commit();
                    if self.fault.is_some() {
                        commit.arm(RETRY_PAUSE);
                    }
                }
                () = cursor_sync.elapsed() => self.checkpoint(true),
                ask = asks.recv(), if asks_open => match ask {
                    Some(ask) => self.answer(ask),
                    None => asks_open = false,
                },
                count = appends.recv_many(&mut batch, BATCH), if appends_open => {
                    appends_open = count > 0;
                    self.append(&mut batch);
                }
                () = upkeep.elapsed() => self.prepare(),
            }
        };
        appends.close();
        while appends.recv_many(&mut batch, BATCH).await > 0 {
            self.append(&mut batch);
        }
        let closed = self.spool.close();
        if let Err(error) = closed {
            tracing::error!(%error, "the spool was not committed at the end");
        }
        let reply = match reply {
            Some(reply) => Some(reply),
            None => asked_to_close(orders).await,
        };
        if let Some(reply) = reply
            && reply.send(closed).is_err()
        {
            tracing::debug!("nobody waited for the spool to close");
        }
    }

    fn append(&mut self, batch: &mut Vec<Append>) {
        let Self {
            spool,
            replies,
            outcomes,
            ..
        } = self;
        let uplinks = batch.drain(..).map(|append| {
            replies.push(append.reply);
            append.uplink
        });
        spool.append(uplinks, outcomes);
        let refused = self.outcomes.iter().find_map(|outcome| match outcome {
            Err(Refused::Storage(error)) => Some(*error),
            Ok(_) | Err(Refused::TooLarge) => None,
        });
        self.note("append", refused.map_or(Ok(()), Err));
        let uncommitted = match self.settings.sync {
            Durability::Sync => self.commit(),
            Durability::Batched => None,
        };
        for (reply, outcome) in self.replies.drain(..).zip(self.outcomes.drain(..)) {
            let answer = match (outcome, uncommitted) {
                (Ok(sequence), None) => Ok(sequence),
                (Ok(_), Some(error)) => Err(AppendRefused::Storage(error)),
                (Err(refused), _) => Err(refused.into()),
            };
            deliver(reply, answer);
        }
    }

    fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Read {
                after,
                bytes_max,
                records_max,
                reply,
            } => {
                let mut records = Vec::new();
                match self.spool.read(after, bytes_max, records_max, &mut records) {
                    Ok(()) => {
                        self.note("read", Ok(()));
                        deliver(reply, Ok(records));
                    }
                    Err(core_spool::ReadError::Storage(error)) => {
                        self.note("read", Err(error));
                        deliver(reply, Err(ReadError::Storage(error)));
                    }
                }
            }
            Ask::Ack {
                through,
                set_aside_readings,
            } => {
                self.spool.ack(through);
                self.spool.set_aside(set_aside_readings);
                self.acked = true;
            }
            Ask::Keep(letter) => self.keep(&letter),
        }
    }

    fn keep(&mut self, letter: &Letter) {
        match self.spool.keep(letter) {
            Ok(kept) => {
                self.note("dead letters", Ok(()));
                if kept.dropped > 0 {
                    tracing::warn!(
                        letters = kept.dropped,
                        "the oldest dead letters are dropped: there is room for no more"
                    );
                }
            }
            Err(error) => {
                tracing::warn!(%error, readings = letter.readings, "what a dead letter says is lost: it cannot be written; its readings are counted");
                self.note("dead letters", Err(error));
            }
        }
    }

    /// Sends the letters again that are marked for it.
    pub(super) fn replay(&mut self) {
        match self.spool.replay() {
            Ok(Replayed {
                letters: 0,
                unreadable: 0,
            }) => {}
            Ok(Replayed {
                letters,
                unreadable,
            }) => tracing::info!(letters, unreadable, "dead letters are in the spool again"),
            Err(error) => {
                tracing::warn!(%error, "dead letters cannot be sent again now; they stay marked for it");
            }
        }
    }

    /// Gives up what waits, if somebody asked.
    fn purge(&mut self) {
        if !purge::taken_up(&self.settings.directory) {
            return;
        }
        let purged = self.spool.purge();
        match purged {
            Ok(Totals { records, readings }) => {
                tracing::warn!(
                    records,
                    readings,
                    "an operator gave up what waited; it is counted as evicted"
                );
            }
            Err(error) => tracing::warn!(%error, "nothing was given up"),
        }
        purge::reply(&self.settings.directory, &purged.into());
    }

    /// Whether a commit should not wait for its time.
    fn due(&self) -> bool {
        let (bytes, records) = self.spool.uncommitted();
        let full = bytes >= self.settings.commit_bytes as u64 || records >= COMMIT_RECORDS;
        full && self.fault.is_none() && self.spool.wants_commit()
    }

    fn commit(&mut self) -> Option<StorageError> {
        let committed = self.spool.commit();
        self.note("commit", committed);
        self.checkpoint(false);
        committed.err()
    }

    fn checkpoint(&mut self, durable: bool) {
        self.acked = false;
        let written = self.spool.checkpoint(durable);
        self.note("checkpoint", written);
    }

    fn prepare(&mut self) {
        match self.spool.prepare() {
            // On a full disk a spare begins well and ends badly, again and again.
            Ok(true) => {}
            Ok(false) => self.note("prepare", Ok(())),
            Err(error) => self.note("prepare", Err(error)),
        }
    }

    /// Says once when the storage begins to fail and once when it works again.
    fn note(&mut self, work: &'static str, outcome: Result<(), StorageError>) {
        match (outcome, self.fault) {
            (Err(error), fault) => {
                if fault != Some((work, error)) {
                    tracing::warn!(work, %error, "the spool's storage fails");
                }
                self.fault = Some((work, error));
            }
            (Ok(()), Some((failed, _))) if failed == work => {
                tracing::info!(work, "the spool's storage works again");
                self.fault = None;
            }
            (Ok(()), _) => {}
        }
    }

    fn publish(&self) {
        let status = SpoolStatus::new(&self.spool.status(), self.fault.map(|(_, error)| error));
        self.status.send_if_modified(|published| {
            let changed = *published != status;
            *published = status;
            changed
        });
    }
}

/// Both ends were dropped first, but somebody may already wait for the end.
async fn asked_to_close(mut orders: mpsc::Receiver<Order>) -> Option<CloseReply> {
    orders.close();
    loop {
        match orders.recv().await? {
            Order::Replay | Order::Purge => {}
            Order::Close(reply) => return Some(reply),
        }
    }
}

/// Whoever asked may be gone. An append stays accepted then: it was handed over. A read is asked again.
fn deliver<T>(reply: oneshot::Sender<T>, answer: T) {
    match reply.send(answer) {
        Ok(()) | Err(_) => {}
    }
}

/// A timer that is set once and keeps its time until it elapsed.
struct Timer {
    sleep: Pin<Box<Sleep>>,
    armed: bool,
}

impl Timer {
    fn new() -> Self {
        Self {
            sleep: Box::pin(sleep(Duration::ZERO)),
            armed: false,
        }
    }

    fn arm(&mut self, after: Duration) {
        if !self.armed {
            self.sleep.set(sleep(after));
            self.armed = true;
        }
    }

    fn disarm(&mut self) {
        self.armed = false;
    }

    async fn elapsed(&mut self) {
        if self.armed {
            self.sleep.as_mut().await;
            self.armed = false;
        } else {
            std::future::pending().await
        }
    }
}
