//! The loop of the spool's thread. It blocks on the disk by design: nothing else runs on this thread.

use std::pin::Pin;
use std::time::Duration;

use moorline_core::message::{Sequence, StreamId, Uplink};
use moorline_core::spool::dead_letter::{Letter, Replayed};
use moorline_core::spool::storage::StorageError;
use moorline_core::spool::streams::{Handed, Streams};
use moorline_core::spool::{self as core_spool, Refused, Totals};
use moorline_core::time::TimestampMs;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Sleep, sleep};

use super::disk::Disk;
use super::media::Media;
use super::purge;
use super::settings::{StreamSetup, TELEMETRY};
use super::{AppendRefused, Durability, ReadError, SpoolSettings, SpoolStatus};
use crate::clock::Clock;

/// Appends written together at most.
const BATCH: usize = 256;

/// Between two steps of zero-filling a spare.
const PREPARE_PAUSE: Duration = Duration::from_millis(10);

/// How often a storage that refuses is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// How often a medium is looked at that nothing has to be written to.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The most that acknowledgements lag behind on the medium; after a power cut that much is sent again.
const CURSOR_SYNC_INTERVAL: Duration = Duration::from_secs(30);

pub(super) struct Append {
    pub(super) stream: StreamId,
    pub(super) uplink: Uplink,
    pub(super) reply: oneshot::Sender<Result<Sequence, AppendRefused>>,
}

/// What is handed out, or how long to wait for it.
type Batch = (Vec<Handed>, Option<Duration>);

pub(super) struct Reading {
    pub(super) bytes_max: usize,
    pub(super) records_max: usize,
    pub(super) reply: oneshot::Sender<Result<Batch, ReadError>>,
}

pub(super) enum Ask {
    Begin {
        sent: Sequence,
    },
    Read(Reading),
    Ack {
        through: Sequence,
        set_aside_readings: u64,
    },
    Keep(Letter),
}

/// What whoever holds the spool as a whole asks for.
pub(super) enum Order {
    /// Do what files are marked for.
    Replay,
    /// Give up what waits, if somebody asked for that with a file.
    Purge,
    /// Answered when the directory is free again.
    Close(CloseReply),
}

pub(super) type CloseReply = oneshot::Sender<Result<(), StorageError>>;

pub(super) struct Owner {
    streams: Streams<Disk>,
    settings: SpoolSettings,
    status: watch::Sender<SpoolStatus>,
    clock: Clock,
    replies: Vec<oneshot::Sender<Result<Sequence, AppendRefused>>>,
    outcomes: Vec<Result<Sequence, Refused>>,
    /// The newest record of each stream at the last tick: it is committed with the next.
    marks: Vec<Sequence>,
    /// Acknowledgements since the cursors were written.
    acked: bool,
    media: Media,
    /// Which work the storage refuses, and why.
    faults: Vec<(&'static str, StorageError)>,
    /// Since when something fails.
    fault_since: Option<TimestampMs>,
}

impl Owner {
    pub(super) fn new(
        streams: Streams<Disk>,
        media: Media,
        settings: SpoolSettings,
        status: watch::Sender<SpoolStatus>,
        clock: Clock,
    ) -> Self {
        Self {
            marks: vec![Sequence(0); streams.count()],
            streams,
            settings,
            status,
            clock,
            replies: Vec::with_capacity(BATCH),
            outcomes: Vec::with_capacity(BATCH),
            acked: false,
            media,
            faults: Vec::new(),
            fault_since: None,
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
        let mut look = Timer::new();
        let (mut appends_open, mut asks_open) = (true, true);
        // What comes right after a tick has nearly two of them to be settled before it is written.
        let tick = self.settings.commit_interval / 2;
        let reply = loop {
            if self.due() {
                self.commit();
                commit.disarm();
            } else if self.wants_commit() || self.acked {
                commit.arm(tick);
            }
            if self.is_faulty() || !self.faults.is_empty() {
                upkeep.arm(RETRY_PAUSE);
            } else if self.wants_preparing() {
                upkeep.arm(PREPARE_PAUSE);
            }
            cursor_sync.arm(CURSOR_SYNC_INTERVAL);
            look.arm(LOOK_INTERVAL);
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
                    self.tick();
                    if !self.faults.is_empty() {
                        commit.arm(RETRY_PAUSE);
                    }
                }
                () = cursor_sync.elapsed() => self.look_after(),
                () = look.elapsed() => self.look(),
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
        self.close(appends, batch, reply, orders).await;
    }

    /// Takes what has been sent already, commits, and answers whoever asked for the end.
    async fn close(
        mut self,
        mut appends: mpsc::Receiver<Append>,
        mut batch: Vec<Append>,
        reply: Option<CloseReply>,
        orders: mpsc::Receiver<Order>,
    ) {
        appends.close();
        while appends.recv_many(&mut batch, BATCH).await > 0 {
            self.append(&mut batch);
        }
        // A last try for what is in memory only.
        self.take_up();
        let closed = self.streams.close();
        // It holds the directories, too, and who is answered may open them at once.
        drop(self.media);
        match closed {
            Ok(()) => self.settings.clear_windows(),
            Err(error) => tracing::error!(%error, "the spool was not committed at the end"),
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
        let mut rest = batch.drain(..).peekable();
        let mut failed = None;
        while let Some(Append {
            stream,
            uplink,
            reply,
        }) = rest.next()
        {
            self.replies.push(reply);
            let mut run = Some(uplink);
            let replies = &mut self.replies;
            let same = std::iter::from_fn(|| {
                if let Some(first) = run.take() {
                    return Some(first);
                }
                let next = rest.next_if(|append| append.stream == stream)?;
                replies.push(next.reply);
                Some(next.uplink)
            });
            let first = self.outcomes.len();
            self.streams.append(stream, same, &mut self.outcomes);
            if self.setup(stream).durability == Durability::Sync
                && let Some(error) = self.commit_stream(stream)
            {
                for outcome in self.outcomes.iter_mut().skip(first) {
                    *outcome = outcome.and(Err(Refused::Storage(error)));
                }
            }
            failed = failed.or(self.outcomes.iter().find_map(|outcome| match outcome {
                Err(Refused::Storage(error)) => Some(*error),
                Ok(_) | Err(Refused::TooLarge | Refused::Dropped) => None,
            }));
        }
        drop(rest);
        self.note("append", failed.map_or(Ok(()), Err));
        for (reply, outcome) in self.replies.drain(..).zip(self.outcomes.drain(..)) {
            deliver(
                reply,
                match outcome {
                    Ok(sequence) => Ok(sequence),
                    // Accepted, and counted as evicted.
                    Err(Refused::Dropped) => Ok(Sequence(0)),
                    Err(refused @ (Refused::TooLarge | Refused::Storage(_))) => Err(refused.into()),
                },
            );
        }
    }

    fn setup(&self, stream: StreamId) -> &StreamSetup {
        &self.settings.streams[usize::from(stream.0)]
    }

    fn ids(&self) -> impl Iterator<Item = StreamId> + use<> {
        let count = u8::try_from(self.streams.count()).unwrap_or(u8::MAX);
        (0..count).map(StreamId)
    }

    fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Begin { sent } => self.streams.begin(sent),
            Ask::Read(reading) => {
                let mut handed = Vec::new();
                let read = self.streams.read(
                    self.clock.now(),
                    reading.bytes_max,
                    reading.records_max,
                    &mut handed,
                );
                match read {
                    Ok(wait) => {
                        self.note("read", Ok(()));
                        deliver(reading.reply, Ok((handed, wait)));
                    }
                    Err(core_spool::ReadError::Storage(error)) => {
                        self.note("read", Err(error));
                        deliver(reading.reply, Err(ReadError::Storage(error)));
                    }
                }
            }
            Ask::Ack {
                through,
                set_aside_readings,
            } => {
                self.streams.ack(through, set_aside_readings);
                self.acked = true;
            }
            Ask::Keep(letter) => self.keep(&letter),
        }
    }

    fn keep(&mut self, letter: &Letter) {
        let Some(spool) = self.streams.spool_mut(TELEMETRY) else {
            return;
        };
        match spool.keep(letter) {
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
        let Some(spool) = self.streams.spool_mut(TELEMETRY) else {
            return;
        };
        match spool.replay() {
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

    /// Gives up what waits in the streams for which somebody asked.
    fn purge(&mut self) {
        let ids: Vec<_> = self.ids().collect();
        for id in ids {
            let setup = self.setup(id);
            let name = setup.stream.name.clone();
            let directory = self.settings.stream_directory(setup);
            if !purge::taken_up(&directory) {
                continue;
            }
            let Some(spool) = self.streams.spool_mut(id) else {
                continue;
            };
            let purged = spool.purge();
            match purged {
                Ok(Totals { records, readings }) => {
                    tracing::warn!(
                        stream = &*name,
                        records,
                        readings,
                        "an operator gave up what waited; it is counted as evicted"
                    );
                }
                Err(error) => tracing::warn!(stream = &*name, %error, "nothing was given up"),
            }
            purge::reply(&directory, &purged.into());
        }
    }

    /// Whether a commit should not wait for its time.
    fn due(&self) -> bool {
        let mut spools = self.streams.spools();
        self.faults.is_empty()
            && spools.any(|(_, spool)| {
                let (bytes, records) = spool.uncommitted();
                let full = bytes >= self.settings.commit_bytes as u64
                    || records >= self.settings.commit_records;
                full && spool.wants_commit()
            })
    }

    fn wants_commit(&self) -> bool {
        let mut spools = self.streams.spools();
        spools.any(|(_, spool)| spool.uncommitted().1 > 0 || spool.wants_commit())
    }

    fn wants_preparing(&self) -> bool {
        self.streams
            .spools()
            .any(|(_, spool)| spool.wants_preparing())
    }

    fn is_faulty(&self) -> bool {
        let mut spools = self.streams.spools();
        spools.any(|(_, spool)| spool.status().fault.is_some())
    }

    /// Commits what has waited for a whole tick.
    fn tick(&mut self) {
        let mut outcome = Ok(());
        for id in self.ids() {
            let Some(spool) = self.streams.spool_mut(id) else {
                continue;
            };
            if let Some(mark) = self.marks.get_mut(usize::from(id.0)) {
                let mark = std::mem::replace(mark, spool.status().last);
                outcome = outcome.and(spool.commit_through(mark));
            }
        }
        self.note("commit", outcome);
        self.checkpoint(false);
    }

    fn commit(&mut self) {
        let mut outcome = Ok(());
        for id in self.ids() {
            if let Some(spool) = self.streams.spool_mut(id) {
                outcome = outcome.and(spool.commit());
            }
        }
        self.note("commit", outcome);
        self.checkpoint(false);
    }

    fn commit_stream(&mut self, stream: StreamId) -> Option<StorageError> {
        let committed = self.streams.spool_mut(stream)?.commit();
        self.note("commit", committed);
        committed.err()
    }

    fn checkpoint(&mut self, durable: bool) {
        self.acked = false;
        let mut outcome = Ok(());
        for id in self.ids() {
            if let Some(spool) = self.streams.spool_mut(id) {
                outcome = outcome.and(spool.checkpoint(durable));
            }
        }
        self.note("checkpoint", outcome);
    }

    /// What is done now and then: acknowledgements on the medium, and giving up what is too old.
    fn look_after(&mut self) {
        let now = self.clock.wall();
        let mut outcome = Ok(());
        for id in self.ids() {
            let age_max = self.setup(id).age_max;
            let Some(spool) = self.streams.spool_mut(id) else {
                continue;
            };
            spool.tell_time(now);
            if let Some(age_max) = age_max {
                let age_ms = u64::try_from(age_max.as_millis()).unwrap_or(u64::MAX);
                outcome = outcome.and(spool.expire(TimestampMs(now.0.saturating_sub(age_ms))));
            }
        }
        self.note("expire", outcome);
        self.checkpoint(true);
    }

    /// Looks whether the media would take a write, while nothing has to be written.
    fn look(&mut self) {
        let mut outcome = Ok(());
        for id in self.ids() {
            if let Some(spool) = self.streams.spool_mut(id) {
                outcome = outcome.and(spool.look());
            }
        }
        self.note("look", outcome);
    }

    /// Looks whether a medium that fails has become one to go on with.
    fn take_up(&mut self) {
        let mut outcome = Ok(());
        for id in self.ids() {
            let faulty = self
                .streams
                .spool_mut(id)
                .is_some_and(|spool| spool.status().fault.is_some());
            if faulty {
                let taken = self.media.take_up(id, &mut self.streams, &self.settings);
                outcome = outcome.and(taken);
            }
        }
        self.note("open", outcome);
    }

    fn prepare(&mut self) {
        self.take_up();
        if self.is_faulty() {
            self.look();
        }
        let mut outcome = Ok(());
        let mut again = false;
        for id in self.ids() {
            if let Some(spool) = self.streams.spool_mut(id) {
                match spool.prepare() {
                    Ok(more) => again |= more,
                    Err(error) => outcome = Err(error),
                }
            }
        }
        match outcome {
            // On a full disk a spare begins well and ends badly, again and again.
            Ok(()) if again => {}
            Ok(()) => self.note("prepare", Ok(())),
            Err(error) => self.note("prepare", Err(error)),
        }
        if outcome.is_ok() && !self.is_faulty() {
            // Work that is not tried again by itself; what still fails will say so.
            for work in ["append", "read", "expire", "dead letters"] {
                self.note(work, Ok(()));
            }
        }
    }

    /// Says once when the storage begins to fail and once when it works again.
    fn note(&mut self, work: &'static str, outcome: Result<(), StorageError>) {
        let known = self.faults.iter().position(|(failed, _)| *failed == work);
        match (outcome, known) {
            (Err(error), known) => {
                if !self.faults.iter().any(|(_, told)| *told == error) {
                    tracing::warn!(
                        work,
                        %error,
                        "the spool's storage fails: what is accepted stays in memory, up to its bound, until it works again"
                    );
                }
                match known.and_then(|index| self.faults.get_mut(index)) {
                    Some(fault) => fault.1 = error,
                    None => self.faults.push((work, error)),
                }
            }
            (Ok(()), Some(index)) => {
                self.faults.remove(index);
                if self.faults.is_empty() {
                    tracing::info!(work, "the spool's storage works again");
                }
            }
            (Ok(()), None) => {}
        }
    }

    fn publish(&mut self) {
        let fault = self.faults.first().map(|(_, error)| *error);
        let mut status = SpoolStatus::of(&self.streams, fault);
        self.fault_since = match (status.fault, self.fault_since) {
            (Some(_), None) => Some(self.clock.wall()),
            (Some(_), since) => since,
            (None, _) => None,
        };
        status.fault_since = self.fault_since;
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
