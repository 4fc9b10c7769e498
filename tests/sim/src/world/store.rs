//! The spool's owner and the feeder: appends, commits, reads ahead, acknowledges.

use std::time::Duration;

use moorline_core::message::{Sequence, Uplink};
use moorline_core::spool::range::Ranges;
use moorline_core::spool::sim_storage::SimStorage;
use moorline_core::spool::{Lane, ReadError, Record, Refused, Spool, Status, Totals};
use moorline_core::thingsboard::Encoder;
use moorline_core::thingsboard::limits::Opened;
use moorline_core::time::Instant;

use super::{Event, World};
use crate::host::{Batch, CURSOR_SYNC, Handed, Host};
use crate::ledger::Item;

const COMMIT_INTERVAL: Duration = Duration::from_millis(200);
const RETRY_PAUSE: Duration = Duration::from_millis(500);
const PREPARE_PAUSE: Duration = Duration::from_millis(10);
const READ_BYTES_MAX: usize = 4096;
const READ_RECORDS_MAX: usize = 24;
/// Records of one lane, before it is the other's turn.
const READ_SIDE_MAX: usize = 3;

impl World {
    /// A start of the spool on what the disk holds. A storage that refuses is tried again.
    pub(super) fn open_spool(&mut self) -> Spool<SimStorage> {
        for _ in 0..100 {
            let opened = Spool::open_with(
                self.disk.clone(),
                self.journal.clone(),
                self.terms.limits,
                self.seed + 1,
            );
            match opened {
                Ok((spool, recovery)) => {
                    self.note("spool", format!("{recovery:?}"));
                    self.cover(format!("cursor {:?}", recovery.cursor));
                    if recovery.journal_records > 0 {
                        self.cover("a journal's records found");
                    }
                    return spool;
                }
                Err(error) => self.note("spool", format!("does not open: {error}")),
            }
        }
        self.fail("the spool does not open")
    }

    pub(super) fn append(&mut self, batch: Vec<(Uplink, Vec<Item>)>) {
        let Some(host) = self.host.as_mut() else {
            return;
        };
        let before = Figures::of(&host.spool);
        let mut outcomes = Vec::new();
        let mut offered = Vec::new();
        let uplinks: Vec<_> = batch
            .into_iter()
            .map(|(uplink, items)| {
                self.ledger.offer(&items);
                offered.push((items, uplink.readings()));
                uplink
            })
            .collect();
        host.spool.append(uplinks, &mut outcomes);
        let status = host.spool.status();
        if outcomes.len() != offered.len() {
            self.fail("an append without an outcome");
        }
        let mut dropped = Totals::default();
        for (outcome, (items, readings)) in outcomes.into_iter().zip(offered) {
            match outcome {
                Ok(sequence) => {
                    if let Err(why) = self.ledger.accept(sequence.0, items, readings) {
                        self.fail(&why);
                    }
                }
                Err(Refused::Dropped) => {
                    let one = Totals {
                        records: 1,
                        readings,
                    };
                    dropped = dropped.plus(one);
                    self.ledger.drop_at_once(&items, readings);
                    self.cover("dropped at once");
                }
                Err(Refused::Storage(error)) => {
                    self.inexact = true;
                    self.cover(format!("append refused: {error}"));
                }
                Err(Refused::TooLarge) => self.fail("a small record is too large"),
            }
        }
        self.dropped.0 += dropped.records;
        self.dropped.1 += dropped.readings;
        self.check_kept(&status);
        self.follow_eviction(&before, dropped);
        self.arm();
        self.feed_soon();
    }

    /// A spool that works keeps what it accepts, and one that does not says so.
    fn check_kept(&mut self, status: &Status) {
        if let Some(fault) = status.fault {
            self.cover(format!("borne in memory: {fault}"));
        } else if status.kept < status.last && !status.kept_full {
            self.fail(&format!("accepted, not kept, and no fault: {status:?}"));
        }
        if status.journal_failed {
            self.cover("journal failed");
        }
    }

    /// Whatever evicts must count exactly what it gives up. Beside what waited, `dropped` never got a place.
    pub(super) fn follow_eviction(&mut self, before: &Figures, dropped: Totals) {
        let Some(host) = self.host.as_ref() else {
            return;
        };
        let evicted = host.spool.status().evicted.since(before.status.evicted);
        if evicted.records == 0 {
            return;
        }
        let after = host.spool.unsettled();
        let gone = |sequence| {
            let sequence = Sequence(sequence);
            before.unsettled.index_of(sequence).is_some() && after.index_of(sequence).is_none()
        };
        let counted = self.ledger.evict(before.status.acked.0, gone);
        let expected = (counted.0 + dropped.records, counted.1 + dropped.readings);
        if !self.inexact && expected != (evicted.records, evicted.readings) {
            self.fail(&format!(
                "{evicted:?} counted as evicted, {expected:?} gone"
            ));
        }
        self.cover("evicted");
        self.note("spool", format!("evicted {expected:?}"));
    }

    /// Sets the timers of the spool's owner as the runtime does.
    pub(super) fn arm(&mut self) {
        let now = self.now;
        let Some(host) = self.host.as_mut() else {
            return;
        };
        if host.commit_at.is_none() && (host.spool.wants_commit() || host.acked_since_checkpoint) {
            host.commit_at = Some(now + COMMIT_INTERVAL);
        }
        if host.prepare_at.is_none() {
            if host.spool.status().fault.is_some() {
                host.prepare_at = Some(now + RETRY_PAUSE);
            } else if host.spool.wants_preparing() {
                host.prepare_at = Some(now + PREPARE_PAUSE);
            }
        }
    }

    pub(super) fn store_time(&mut self) {
        let now = self.now;
        let Some(host) = self.host.as_mut() else {
            return;
        };
        let due = |at: Instant| at <= now;
        if host.commit_at.is_some_and(due) {
            host.commit_at = None;
            self.commit();
        }
        if let Some(host) = self.host.as_mut()
            && due(host.cursor_sync_at)
        {
            host.cursor_sync_at = now + CURSOR_SYNC;
            self.checkpoint(true);
        }
        if let Some(host) = self.host.as_mut()
            && host.prepare_at.is_some_and(due)
        {
            host.prepare_at = None;
            let before = Figures::of(&host.spool);
            let prepared = host.spool.prepare();
            if prepared.is_err() {
                host.prepare_at = Some(now + RETRY_PAUSE);
                self.cover("prepare failed");
            }
            self.follow_eviction(&before, Totals::default());
        }
        self.arm();
    }

    fn commit(&mut self) {
        let now = self.now;
        let Some(host) = self.host.as_mut() else {
            return;
        };
        let before = Figures::of(&host.spool);
        let mark = std::mem::replace(&mut host.mark, before.status.last);
        let committed = if self.terms.journal {
            host.spool.commit_through(mark)
        } else {
            host.spool.commit()
        };
        match committed {
            Ok(()) => host.unproven = false,
            Err(_) => {
                host.unproven = true;
                host.commit_at = Some(now + RETRY_PAUSE);
            }
        }
        if let Err(error) = committed {
            self.cover(format!("commit failed: {error}"));
        }
        self.follow_eviction(&before, Totals::default());
        self.checkpoint(false);
    }

    fn checkpoint(&mut self, durable: bool) {
        let Some(host) = self.host.as_mut() else {
            return;
        };
        host.acked_since_checkpoint = false;
        if let Err(error) = host.spool.checkpoint(durable) {
            self.cover(format!("checkpoint failed: {error}"));
        }
    }

    pub(super) fn feed_soon(&mut self) {
        let delay = self.dice.ms(0, 5);
        let Some(host) = self.host.as_mut() else {
            return;
        };
        if !host.feeder.scheduled && host.wants_feeding() {
            host.feeder.scheduled = true;
            let life = host.life;
            self.after(delay, Event::Feed(life));
        }
    }

    pub(super) fn feed(&mut self, life: u64) {
        let Some(host) = self.host.as_mut().filter(|host| host.life == life) else {
            return;
        };
        host.feeder.scheduled = false;
        if host.follow(self.terms.side_by_side) {
            let divided_at = host.feeder.divided_at;
            if host.spool.status().depth_records > 0 && divided_at > Sequence(0) {
                *self.coverage.entry("sent side by side".into()).or_default() += 1;
            }
            self.ledger.divide(divided_at.0);
        }
        let read = host.read_ahead();
        if let Err(error) = read {
            self.cover(format!("read failed: {error}"));
        }
        self.take_batch();
        self.arm();
        self.feed_soon();
    }

    /// The driver takes a batch when it has nothing else to send.
    pub(super) fn take_batch(&mut self) {
        let Some(host) = self.host.as_mut() else {
            return;
        };
        let hungry = host.is_up() && host.queue.is_empty() && host.window.has_room();
        if !hungry || host.stopping {
            return;
        }
        let Some(batch) = host.feeder.ready.take() else {
            return;
        };
        if batch.generation != host.order.generation {
            return;
        }
        for sequence in &batch.left_out {
            self.ledger.set_record_aside(sequence.0);
        }
        let oversize = batch.left_out.len();
        host.queue.extend(batch.publishes);
        if oversize > 0 {
            self.cover("oversize");
        }
        self.send();
        self.feed_soon();
    }
}

/// A spool's figures at one time, and what waits in it.
#[derive(Debug)]
pub(crate) struct Figures {
    status: Status,
    unsettled: Ranges,
}

impl Figures {
    pub(super) fn of(spool: &Spool<SimStorage>) -> Self {
        Self {
            status: spool.status(),
            unsettled: spool.unsettled().clone(),
        }
    }
}

impl Host {
    fn wants_feeding(&self) -> bool {
        let feeder = &self.feeder;
        feeder.following != self.order
            || (self.order.running && feeder.ready.is_none() && self.next_lane().is_some())
    }

    /// `true`: a session begins.
    fn follow(&mut self, side_by_side: bool) -> bool {
        let (order, feeder) = (self.order, &mut self.feeder);
        while let Some(handed) = feeder.handed.front().filter(|h| h.turn <= order.acked) {
            self.spool.ack(handed.sequence);
            self.acked_since_checkpoint = true;
            feeder.handed.pop_front();
        }
        let begins = order.generation != feeder.following.generation;
        if begins {
            feeder.handed.clear();
            feeder.dry.clear();
            feeder.next_turn = order.after.next();
            if side_by_side {
                self.spool.divide();
                let in_live = self.spool.lanes().last();
                let undivided = in_live.is_some_and(|(_, waiting)| waiting.records > 0);
                feeder.divided_at = if undivided {
                    Sequence(0)
                } else {
                    self.spool.status().last
                };
            }
            let publishes: Vec<_> = feeder
                .announced
                .announcements(&mut Opened::default())
                .collect();
            feeder.ready = (order.running && !publishes.is_empty()).then(|| Batch {
                generation: order.generation,
                publishes,
                left_out: Vec::new(),
            });
        }
        feeder.following = order;
        begins
    }

    /// The last record of `lane` that was read in this session.
    fn read_to(&self, lane: Lane) -> Sequence {
        let handed = self.feeder.handed.iter().rev().map(|h| h.sequence);
        let mut in_lane = handed.filter(|sequence| self.spool.lane_of(*sequence) == Some(lane));
        in_lane.next().unwrap_or_default()
    }

    /// From where to read on, and after which record: on each side of the division the oldest lane that is not read to
    /// its end, and of the two sides the one whose turn it is.
    fn next_lane(&self) -> Option<(Lane, Sequence)> {
        let (feeder, last) = (&self.feeder, self.spool.status().last);
        let mut sides = [None; 2];
        for (lane, waiting) in self.spool.lanes() {
            let (end, side) = match lane {
                Lane::Backlog(through) => (through, usize::from(through > feeder.divided_at)),
                Lane::Live => (last, 1),
            };
            let dry = feeder.dry.get(&lane).is_some_and(|at| *at >= end);
            if waiting.records == 0 || dry || sides[side].is_some() {
                continue;
            }
            let after = self.read_to(lane);
            if after < end {
                sides[side] = Some((lane, after));
            }
        }
        let [backlog, live] = sides;
        if feeder.from_backlog {
            live.or(backlog)
        } else {
            backlog.or(live)
        }
    }

    fn read_ahead(&mut self) -> Result<(), ReadError> {
        if !self.feeder.following.running || self.feeder.ready.is_some() {
            return Ok(());
        }
        let mut encoder = Encoder::new(self.feeder.following.packet_bytes_max);
        let (mut read, mut outcome) = (0, Ok(()));
        let whole = self.spool.lanes().count() == 1;
        let records_max = if whole {
            READ_RECORDS_MAX
        } else {
            READ_SIDE_MAX
        };
        while read < READ_RECORDS_MAX
            && outcome.is_ok()
            && let Some((lane, after)) = self.next_lane()
        {
            let mut records = Vec::new();
            outcome = self
                .spool
                .read(lane, after, READ_BYTES_MAX, records_max, &mut records);
            if outcome.is_ok() && records.is_empty() {
                let last = self.spool.status().last;
                self.feeder.dry.insert(lane, last);
            }
            for record in &records {
                self.hand_over(record, &mut encoder);
            }
            read += records.len();
            if whole {
                break;
            }
        }
        if read > 0 {
            self.make_ready(encoder);
        }
        outcome
    }

    fn hand_over(&mut self, record: &Record, encoder: &mut Encoder) {
        let feeder = &mut self.feeder;
        let turn = feeder.next_turn;
        feeder.next_turn = turn.next();
        feeder.from_backlog = record.sequence <= feeder.divided_at;
        feeder.handed.push_back(Handed {
            turn,
            sequence: record.sequence,
        });
        feeder.announced.observe(&record.uplink);
        encoder.push(turn, &record.uplink);
    }

    fn make_ready(&mut self, encoder: Encoder) {
        let feeder = &mut self.feeder;
        let encoded = encoder.finish();
        let sequence_of = |turn: Sequence| {
            let handed = feeder.handed.iter().find(|handed| handed.turn == turn);
            handed.map(|handed| handed.sequence)
        };
        let left_out = encoded.left_out.iter().map(|left_out| left_out.sequence);
        let left_out = left_out.filter_map(sequence_of).collect();
        feeder.ready = Some(Batch {
            generation: feeder.following.generation,
            publishes: encoded.publishes,
            left_out,
        });
    }
}
