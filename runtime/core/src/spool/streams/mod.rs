//! Several spools side by side, and the one order in which the link gets what they hold.
//!
//! ```text
//!  urgent     live ─────────────────────────────┐  first whatever is in the stream before
//!  telemetry  live ──────────────┐              ├──► turn 1, turn 2, turn 3 … ──► window of the link
//!             backlog ──share────┴──────────────┘        └ a log of what was handed out: acknowledgements and new
//!                                                          sessions speak of turns
//! ```
//!
//! A turn is a number that rises with every record handed out. What a lost session had sent keeps its turn: it is handed
//! out again first, in the same order. Within a lane records keep their order; the streams, and the two lanes of a stream
//! after an outage, overtake each other as their settings say.

mod settings;
#[cfg(test)]
mod tests;
mod thin;

use std::collections::VecDeque;
use std::time::Duration;

use super::storage::{Storage, StorageError};
use super::{Lane, ReadError, Record, Refused, Spool};
use crate::message::{Sequence, StreamId, Uplink};
use crate::time::Instant;

pub use settings::{AfterOutage, STREAMS_MAX, StreamSettings, Whole};
use thin::Thinner;

/// Of a backlog so many bytes are handed out at once, so that nothing that comes meanwhile waits long behind them.
const BACKLOG_BYTES: usize = 32 * 1024;

/// So far the shares of live lane and backlog may drift apart before that is forgotten.
const DUE_MAX: i64 = 1_000_000;

/// A record on its way to the platform.
#[derive(Clone, Debug, PartialEq)]
pub struct Handed {
    /// Its place in the order of what is handed out: rises, with gaps.
    pub turn: Sequence,
    /// Whose it is.
    pub stream: StreamId,
    /// Its place in that stream's spool: the same after a restart.
    pub sequence: Sequence,
    /// It waited when the session began.
    pub historical: bool,
    /// What was accepted.
    pub uplink: Uplink,
}

/// What was handed out and is not settled.
#[derive(Clone, Copy, Debug)]
struct Entry {
    turn: Sequence,
    stream: StreamId,
    sequence: Sequence,
}

/// A stream at work.
struct Stream<S: Storage> {
    settings: StreamSettings,
    spool: Spool<S>,
    thinner: Thinner,
    /// What comes after this record came since the session began. An eviction in between may divide it, too.
    live_from: Sequence,
    /// Above zero the backlog has had less than its share beside the live lane.
    backlog_due: i64,
    pace: Pace,
}

/// How many readings of a backlog may still go.
#[derive(Debug, Default)]
struct Pace {
    readings: f64,
    since: Option<Instant>,
}

impl Pace {
    /// Lets time pass; how long until something may go.
    fn wait(&mut self, per_s: Option<u32>, now: Instant) -> Option<Duration> {
        let per_s = f64::from(per_s?);
        let passed = self
            .since
            .map_or(Duration::from_secs(1), |since| now.saturating_since(since));
        self.since = Some(now);
        self.readings = (self.readings + passed.as_secs_f64() * per_s).min(per_s);
        (self.readings < 1.0)
            .then(|| Duration::from_secs_f64((1.0 - self.readings) / per_s.max(1.0)))
    }
}

/// All streams of a gateway.
#[expect(
    missing_debug_implementations,
    reason = "what a storage calls a file need not be printable"
)]
pub struct Streams<S: Storage> {
    /// In order of their claim: the first comes first.
    streams: Vec<Stream<S>>,
    log: VecDeque<Entry>,
    /// How much at the front of `log` was sent in a lost session and is to be handed out again.
    replaying: usize,
    next_turn: u64,
    /// Among equals the one after this one is next.
    last_served: usize,
    records: Vec<Record>,
}

impl<S: Storage> Streams<S> {
    /// These streams, the first with the first claim.
    #[must_use]
    pub fn new(streams: Vec<(StreamSettings, Spool<S>)>) -> Self {
        let streams = streams.into_iter().map(|(settings, spool)| Stream {
            settings,
            spool,
            thinner: Thinner::default(),
            live_from: Sequence(0),
            backlog_due: 0,
            pace: Pace::default(),
        });
        Self {
            streams: streams.collect(),
            log: VecDeque::new(),
            replaying: 0,
            next_turn: 1,
            last_served: 0,
            records: Vec::new(),
        }
    }

    /// Every stream's spool, in order of ids.
    pub fn spools(&self) -> impl Iterator<Item = (&StreamSettings, &Spool<S>)> {
        self.streams
            .iter()
            .map(|stream| (&stream.settings, &stream.spool))
    }

    /// The spool of a stream, for the owner's work on it.
    pub fn spool_mut(&mut self, stream: StreamId) -> Option<&mut Spool<S>> {
        self.streams
            .get_mut(usize::from(stream.0))
            .map(|stream| &mut stream.spool)
    }

    /// How many streams there are; their ids count from 0.
    #[must_use]
    pub fn count(&self) -> usize {
        self.streams.len()
    }

    /// Accepts `batch` in one stream, and pushes one outcome per message. What is thinned out is accepted and counted as
    /// evicted.
    pub fn append(
        &mut self,
        stream: StreamId,
        batch: impl IntoIterator<Item = Uplink>,
        outcomes: &mut Vec<Result<Sequence, Refused>>,
    ) {
        let Some(stream) = self.streams.get_mut(usize::from(stream.0)) else {
            return;
        };
        let keep_one_in = stream.settings.keep_one_in(stream.spool.fill());
        if keep_one_in <= 1 {
            stream.spool.append(batch, outcomes);
            return;
        }
        for uplink in batch {
            let (kept, dropped) = stream.thinner.thin(uplink, keep_one_in);
            if let Some(dropped) = &dropped {
                stream.spool.drop_at_once(dropped);
            }
            match kept {
                Some(uplink) => stream.spool.append([uplink], outcomes),
                None => outcomes.push(Err(Refused::Dropped)),
            }
        }
    }

    /// A session begins. Of what was handed out, everything through `sent` may have left, and goes again as it was; the rest
    /// is handed out anew, as the streams' settings say for what waited.
    pub fn begin(&mut self, sent: Sequence) {
        let kept = self.log.partition_point(|entry| entry.turn <= sent);
        self.log.truncate(kept);
        self.replaying = kept;
        for (index, stream) in self.streams.iter_mut().enumerate() {
            stream.spool.rewind();
            stream.backlog_due = 0;
            match stream.settings.after_outage {
                AfterOutage::BacklogFirst => {}
                AfterOutage::LiveFirst { newest_first, .. } => {
                    if !newest_first {
                        let log = self.log.iter();
                        let replayed: Vec<_> = log
                            .filter(|entry| usize::from(entry.stream.0) == index)
                            .map(|entry| entry.sequence)
                            .collect();
                        stream.spool.join_backlogs(&replayed);
                    }
                    stream.spool.divide();
                }
            }
            stream.live_from = stream.spool.status().last;
        }
    }

    /// Hands out what is next: at most `records_max` and about `bytes_max` encoded bytes, but at least one record if there
    /// is one. Nothing, and a time to wait, where only a backlog waits that has its pace.
    ///
    /// # Errors
    /// When a storage cannot read and nothing was found before that.
    pub fn read(
        &mut self,
        now: Instant,
        bytes_max: usize,
        records_max: usize,
        handed: &mut Vec<Handed>,
    ) -> Result<Option<Duration>, ReadError> {
        let already = handed.len();
        while self.replaying > 0 && handed.len() - already < records_max {
            self.replay(handed)?;
        }
        let mut wait = None;
        while self.replaying == 0 && handed.len() - already < records_max {
            let (chosen, paced) = self.choose(now);
            wait = paced;
            let Some((stream, lane)) = chosen else { break };
            let room = records_max - (handed.len() - already);
            let count = handed.len();
            match self.hand(stream, lane, bytes_max, room, handed) {
                Ok(()) => {}
                Err(_comes_again) if count > already => break,
                Err(error) => return Err(error),
            }
            let stream = self.streams.get(usize::from(stream.0));
            let (emptied, backlog) = stream.map_or((false, false), |stream| {
                (!stream.spool.has_more(lane), stream.is_backlog(lane))
            });
            // Whatever comes meanwhile goes before more of a backlog, and a full read is enough.
            if handed.len() == count || backlog || !emptied {
                break;
            }
        }
        Ok(wait.filter(|_| handed.len() == already))
    }

    /// Hands out again what was sent before, with its turn.
    fn replay(&mut self, handed: &mut Vec<Handed>) -> Result<(), ReadError> {
        let index = self.log.len() - self.replaying;
        self.replaying -= 1;
        let Some(entry) = self.log.get(index).copied() else {
            return Ok(());
        };
        let Some(stream) = self.streams.get_mut(usize::from(entry.stream.0)) else {
            return Ok(());
        };
        self.records.clear();
        if let Some(lane) = stream.spool.lane_of(entry.sequence) {
            let read = stream.spool.read_on(lane, usize::MAX, 1, &mut self.records);
            if let Err(error) = read {
                self.replaying += 1;
                return Err(error);
            }
            // Records come back in the order in which they went: another one means that this one cannot be read any more.
            if let (Some(record), Some(entry)) = (self.records.pop(), self.log.get_mut(index)) {
                entry.sequence = record.sequence;
                handed.push(Handed {
                    turn: entry.turn,
                    stream: entry.stream,
                    sequence: record.sequence,
                    historical: stream.is_backlog(lane),
                    uplink: record.uplink,
                });
                return Ok(());
            }
        }
        // Given up meanwhile.
        self.log.remove(index);
        Ok(())
    }

    /// Whose turn it is; and how long a backlog must wait for its pace.
    fn choose(&mut self, now: Instant) -> (Option<(StreamId, Lane)>, Option<Duration>) {
        let mut wait: Option<Duration> = None;
        let count = self.streams.len();
        let mut best: Option<(u8, usize, Lane)> = None;
        for step in 1..=count {
            let index = (self.last_served + step) % count;
            let Some(stream) = self.streams.get_mut(index) else {
                continue;
            };
            if best.is_some_and(|(priority, ..)| priority <= stream.settings.priority) {
                continue;
            }
            let (lane, paced) = stream.lane(now);
            wait = match (wait, paced) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            if let Some(lane) = lane {
                best = Some((stream.settings.priority, index, lane));
            }
        }
        let chosen = best.map(|(_, index, lane)| {
            self.last_served = index;
            (StreamId(u8::try_from(index).unwrap_or(u8::MAX)), lane)
        });
        (chosen, wait)
    }

    fn hand(
        &mut self,
        id: StreamId,
        lane: Lane,
        bytes_max: usize,
        records_max: usize,
        handed: &mut Vec<Handed>,
    ) -> Result<(), ReadError> {
        let Some(stream) = self.streams.get_mut(usize::from(id.0)) else {
            return Ok(());
        };
        let historical = stream.is_backlog(lane);
        let bytes_max = if historical {
            bytes_max.min(BACKLOG_BYTES)
        } else {
            bytes_max
        };
        self.records.clear();
        let read = stream
            .spool
            .read_on(lane, bytes_max, records_max, &mut self.records);
        let mut amount = 0;
        for record in self.records.drain(..) {
            let turn = Sequence(self.next_turn);
            self.next_turn += 1;
            amount += record.uplink.readings().max(1);
            self.log.push_back(Entry {
                turn,
                stream: id,
                sequence: record.sequence,
            });
            handed.push(Handed {
                turn,
                stream: id,
                sequence: record.sequence,
                historical,
                uplink: record.uplink,
            });
        }
        stream.note_handed(historical, amount);
        read
    }

    /// Everything handed out through `turn` is settled; `set_aside` readings of it the platform will never take.
    pub fn ack(&mut self, turn: Sequence, set_aside: u64) {
        let mut run: Option<(StreamId, Lane, Sequence)> = None;
        let mut newest = None;
        while let Some(entry) = self.log.front().copied().filter(|e| e.turn <= turn) {
            self.log.pop_front();
            self.replaying = self.replaying.min(self.log.len());
            newest = Some(entry.stream);
            let lane = self
                .streams
                .get(usize::from(entry.stream.0))
                .and_then(|stream| stream.spool.lane_of(entry.sequence));
            let Some(lane) = lane else {
                // Given up while it was in flight, and delivered all the same.
                self.settle(entry.stream, entry.sequence);
                continue;
            };
            if let Some((stream, before, sequence)) = run
                && (stream, before) != (entry.stream, lane)
            {
                self.settle(stream, sequence);
            }
            run = Some((entry.stream, lane, entry.sequence));
        }
        if let Some((stream, _, sequence)) = run {
            self.settle(stream, sequence);
        }
        if set_aside > 0
            && let Some(spool) = self.spool_mut(newest.unwrap_or_default())
        {
            spool.set_aside(set_aside);
        }
    }

    fn settle(&mut self, stream: StreamId, sequence: Sequence) {
        if let Some(spool) = self.spool_mut(stream) {
            spool.ack(sequence);
        }
    }

    /// A stream whose storage gave nothing goes on in `opened`, see [`Spool::continue_in`].
    pub fn continue_in(&mut self, stream: StreamId, opened: Spool<S>) -> Option<u64> {
        let at_work = self.streams.get_mut(usize::from(stream.0))?;
        let shift = at_work.spool.continue_in(opened)?;
        at_work.live_from.0 = at_work.live_from.0.saturating_add(shift);
        for entry in &mut self.log {
            if entry.stream == stream {
                entry.sequence = Sequence(entry.sequence.0.saturating_add(shift));
            }
        }
        Some(shift)
    }

    /// Whether something waits that was not handed out.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.replaying > 0
            || self.streams.iter().any(|stream| {
                stream
                    .spool
                    .lanes()
                    .any(|(lane, _)| stream.spool.has_more(lane))
            })
    }

    /// Closes every spool: [`Spool::close`].
    ///
    /// # Errors
    /// The first that was met; the others are closed all the same.
    pub fn close(self) -> Result<(), StorageError> {
        let mut outcome = Ok(());
        for stream in self.streams {
            outcome = outcome.and(stream.spool.close());
        }
        outcome
    }
}

impl<S: Storage> Stream<S> {
    /// Which lane is next, if any may go now; and how long the backlog must wait.
    fn lane(&mut self, now: Instant) -> (Option<Lane>, Option<Duration>) {
        let live = self.live();
        let AfterOutage::LiveFirst {
            backlog_share_percent,
            backlog_readings_per_s,
            newest_first,
        } = self.settings.after_outage
        else {
            return (self.backlog(false).or(live), None);
        };
        let Some(backlog) = self.backlog(newest_first) else {
            return (live, None);
        };
        if live.is_some() && (backlog_share_percent.0 == 0 || self.backlog_due <= 0) {
            return (live, None);
        }
        match self.pace.wait(backlog_readings_per_s, now) {
            Some(wait) => (live, Some(wait)),
            None => (Some(backlog), None),
        }
    }

    fn is_backlog(&self, lane: Lane) -> bool {
        match lane {
            Lane::Live => false,
            Lane::Backlog(through) => through <= self.live_from,
        }
    }

    /// The oldest lane of what came since the session began.
    fn live(&self) -> Option<Lane> {
        let mut lanes = self.spool.lanes().map(|(lane, _)| lane);
        lanes.find(|lane| !self.is_backlog(*lane) && self.spool.has_more(*lane))
    }

    fn backlog(&mut self, newest_first: bool) -> Option<Lane> {
        let newest = self
            .spool
            .lanes()
            .map(|(lane, _)| lane)
            .filter(|lane| self.is_backlog(*lane) && self.spool.has_more(*lane));
        if !newest_first {
            return newest.min();
        }
        let newest = newest.max()?;
        // Segment by segment: each in its own order, the newest of them first.
        self.spool.divide_backlog(newest);
        Some(newest)
    }

    fn note_handed(&mut self, historical: bool, amount: u64) {
        let AfterOutage::LiveFirst {
            backlog_share_percent,
            backlog_readings_per_s,
            ..
        } = self.settings.after_outage
        else {
            return;
        };
        let share = i64::from(backlog_share_percent.0.min(100));
        let amount = i64::try_from(amount).unwrap_or(i64::MAX);
        if historical {
            self.backlog_due = self
                .backlog_due
                .saturating_sub(amount.saturating_mul(100 - share))
                .max(-DUE_MAX);
            if backlog_readings_per_s.is_some() {
                self.pace.readings -= amount as f64;
            }
        } else {
            self.backlog_due = self
                .backlog_due
                .saturating_add(amount.saturating_mul(share))
                .min(DUE_MAX);
        }
    }
}
