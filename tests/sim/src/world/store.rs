//! The spool's owner and the feeder: appends, commits, reads ahead, acknowledges. The streams are those of the gateway, each
//! on a disk of its own.

use std::time::Duration;

use moorline_core::message::{Sequence, StreamId, Uplink};
use moorline_core::spool::range::Ranges;
use moorline_core::spool::sim_storage::SimStorage;
use moorline_core::spool::streams::{Handed, Streams};
use moorline_core::spool::{Keep, Refused, Spool, Status, Totals};
use moorline_core::thingsboard::limits::Opened;
use moorline_core::thingsboard::{Encoder, Place, Run};
use moorline_core::time::Instant;

use super::{Event, World};
use crate::host::{Batch, CURSOR_SYNC, Host};
use crate::ledger::Item;

const COMMIT_INTERVAL: Duration = Duration::from_millis(200);
const RETRY_PAUSE: Duration = Duration::from_millis(500);
const PREPARE_PAUSE: Duration = Duration::from_millis(10);
const READ_BYTES_MAX: usize = 4096;
const READ_RECORDS_MAX: usize = 24;

impl World {
    /// A start of the streams on what the disks hold. One whose disk gives nothing goes on in memory.
    pub(super) fn open_streams(&mut self) -> Streams<SimStorage> {
        let mut streams = Vec::new();
        for index in 0..self.terms.streams.len() {
            let spool = match self.open_spool(index) {
                Ok(spool) => spool,
                Err(error) => {
                    self.note("spool", format!("{index} gives nothing: {error}"));
                    self.cover("started without its medium");
                    let limits = self.terms.streams[index].limits;
                    let disk = self.disks[index].clone();
                    self.ledgers[index].begin_blind();
                    Spool::without_storage(disk, limits, self.draw(index), error)
                }
            };
            streams.push((self.terms.streams[index].settings.clone(), spool));
        }
        Streams::new(streams)
    }

    /// Another number for each life of each stream.
    fn draw(&self, index: usize) -> u64 {
        self.seed.wrapping_mul(1_000_003) + self.lives * 16 + index as u64 + 1
    }

    fn open_spool(
        &mut self,
        index: usize,
    ) -> Result<Spool<SimStorage>, moorline_core::spool::storage::StorageError> {
        let journal = self.journals.get(index).cloned();
        let (disk, limits) = (self.disks[index].clone(), self.terms.streams[index].limits);
        let (spool, recovery) = Spool::open_with(disk, journal, limits, self.draw(index))?;
        self.note("spool", format!("{index} {recovery:?}"));
        self.cover(format!("cursor {:?}", recovery.cursor));
        if recovery.journal_records > 0 {
            self.cover("a journal's records found");
        }
        Ok(spool)
    }

    pub(super) fn append(&mut self, stream: usize, batch: Vec<(Uplink, Vec<Item>)>) {
        let Some(before) = self.figures(stream) else {
            return;
        };
        let mut outcomes = Vec::new();
        let mut offered = Vec::new();
        let uplinks: Vec<_> = batch
            .into_iter()
            .map(|(uplink, items)| {
                self.ledgers[stream].offer(&items);
                offered.push((items, uplink.readings()));
                uplink
            })
            .collect();
        let Some(host) = self.host.as_mut() else {
            return;
        };
        host.streams.append(id(stream), uplinks, &mut outcomes);
        if outcomes.len() != offered.len() {
            self.fail("an append without an outcome");
        }
        let mut dropped = Totals::default();
        for (outcome, (items, readings)) in outcomes.into_iter().zip(offered) {
            match outcome {
                Ok(sequence) => {
                    if let Err(why) = self.ledgers[stream].accept(sequence.0, items, readings) {
                        self.fail(&why);
                    }
                }
                Err(Refused::Dropped) => {
                    let one = Totals {
                        records: 1,
                        readings,
                    };
                    dropped = dropped.plus(one);
                    self.ledgers[stream].drop_at_once(&items, readings);
                    self.cover("dropped at once");
                }
                Err(Refused::Storage(error)) => {
                    self.inexact = true;
                    self.cover(format!("append refused: {error}"));
                }
                Err(Refused::TooLarge) => self.fail("a small record is too large"),
            }
        }
        self.dropped[stream].0 += dropped.records;
        self.dropped[stream].1 += dropped.readings;
        self.check_kept(stream);
        self.follow_eviction(stream, &before, dropped);
        self.arm();
        self.feed_soon();
    }

    /// A spool that works keeps what it accepts, and one that does not says so.
    fn check_kept(&mut self, stream: usize) {
        let Some(status) = self.status(stream) else {
            return;
        };
        if let Some(fault) = status.fault {
            self.cover(format!("borne in memory: {fault}"));
        } else if status.kept < status.last
            && !status.kept_full
            && self.terms.streams[stream].keep == Keep::OnDisk
        {
            self.fail(&format!("accepted, not kept, and no fault: {status:?}"));
        }
        if status.journal_failed {
            self.cover("journal failed");
        }
    }

    pub(super) fn status(&self, stream: usize) -> Option<Status> {
        let host = self.host.as_ref()?;
        host.streams
            .spools()
            .nth(stream)
            .map(|(_, spool)| spool.status())
    }

    pub(super) fn figures(&self, stream: usize) -> Option<Figures> {
        let host = self.host.as_ref()?;
        let (_, spool) = host.streams.spools().nth(stream)?;
        Some(Figures {
            status: spool.status(),
            unsettled: spool.unsettled().clone(),
        })
    }

    /// Whatever evicts must count exactly what it gives up: at once, or, where it is in flight, when its fate is known.
    /// Beside what waited, `dropped` never got a place.
    pub(super) fn follow_eviction(&mut self, stream: usize, before: &Figures, dropped: Totals) {
        let Some(host) = self.host.as_ref() else {
            return;
        };
        let Some((_, spool)) = host.streams.spools().nth(stream) else {
            return;
        };
        let evicted = spool.status().evicted.since(before.status.evicted);
        let after = spool.unsettled();
        let gone = |sequence| {
            let sequence = Sequence(sequence);
            before.unsettled.index_of(sequence).is_some() && after.index_of(sequence).is_none()
        };
        let in_flight = |sequence| host.feeder.holds(id(stream), Sequence(sequence));
        let ledger = &mut self.ledgers[stream];
        let acked = before.unsettled.acked().sequence.0;
        let counted = ledger.evict(acked, gone, in_flight);
        let expected = (counted.0 + dropped.records, counted.1 + dropped.readings);
        if !self.inexact && expected != (evicted.records, evicted.readings) {
            self.fail(&format!(
                "{evicted:?} counted as evicted, {expected:?} gone"
            ));
        }
        if expected.0 > 0 {
            self.cover("evicted");
            self.note("spool", format!("{stream} evicted {expected:?}"));
        }
    }

    /// Sets the timers of the spool's owner as the runtime does.
    pub(super) fn arm(&mut self) {
        let now = self.now;
        let Some(host) = self.host.as_mut() else {
            return;
        };
        let (mut commits, mut prepares, mut faulty) = (host.acked_since_checkpoint, false, false);
        for (_, spool) in host.streams.spools() {
            commits |= spool.wants_commit();
            faulty |= spool.status().fault.is_some();
            prepares |= spool.wants_preparing();
        }
        if host.commit_at.is_none() && commits {
            host.commit_at = Some(now + COMMIT_INTERVAL);
        }
        if host.prepare_at.is_none() {
            if faulty {
                host.prepare_at = Some(now + RETRY_PAUSE);
            } else if prepares {
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
            self.prepare();
        }
        if let Some(host) = self.host.as_mut()
            && host.read_at.is_some_and(due)
        {
            host.read_at = None;
            self.feed_soon();
        }
        self.arm();
    }

    fn prepare(&mut self) {
        for stream in 0..self.terms.streams.len() {
            self.take_up(stream);
            let Some(before) = self.figures(stream) else {
                return;
            };
            let now = self.now;
            let prepared = self.spool_mut(stream).map_or(Ok(false), |spool| {
                if spool.status().fault.is_some() {
                    spool.look()?;
                }
                spool.prepare()
            });
            if prepared.is_err() {
                if let Some(host) = self.host.as_mut() {
                    host.prepare_at = Some(now + RETRY_PAUSE);
                }
                self.cover("prepare failed");
            }
            self.follow_eviction(stream, &before, Totals::default());
        }
    }

    /// A disk that gave nothing at the start may do so now.
    fn take_up(&mut self, stream: usize) {
        let absent = self
            .spool_mut(stream)
            .is_some_and(|spool| spool.is_absent());
        if !absent {
            return;
        }
        let Ok(opened) = self.open_spool(stream) else {
            return;
        };
        let Some(host) = self.host.as_mut() else {
            return;
        };
        let Some(shift) = host.streams.continue_in(id(stream), opened) else {
            self.cover("taken up later");
            return;
        };
        self.cover("taken up");
        if shift > 0 {
            self.cover("taken up behind higher numbers");
        }
        host_shifted(&mut self.host, stream, shift);
        self.ledgers[stream].see_medium(shift);
        self.feed_soon();
    }

    fn spool_mut(&mut self, stream: usize) -> Option<&mut Spool<SimStorage>> {
        self.host.as_mut()?.streams.spool_mut(id(stream))
    }

    fn commit(&mut self) {
        let now = self.now;
        for stream in 0..self.terms.streams.len() {
            let Some(before) = self.figures(stream) else {
                return;
            };
            let journal = self.terms.journal;
            let Some(host) = self.host.as_mut() else {
                return;
            };
            let mark = std::mem::replace(&mut host.marks[stream], before.status.last);
            let Some(spool) = host.streams.spool_mut(id(stream)) else {
                return;
            };
            let committed = if journal {
                spool.commit_through(mark)
            } else {
                spool.commit()
            };
            host.unproven[stream] = committed.is_err();
            if let Err(error) = committed {
                host.commit_at = Some(now + RETRY_PAUSE);
                self.cover(format!("commit failed: {error}"));
            }
            self.follow_eviction(stream, &before, Totals::default());
        }
        self.checkpoint(false);
    }

    fn checkpoint(&mut self, durable: bool) {
        for stream in 0..self.terms.streams.len() {
            let written = self
                .spool_mut(stream)
                .map_or(Ok(()), |spool| spool.checkpoint(durable));
            if let Err(error) = written {
                self.cover(format!("checkpoint failed: {error}"));
            }
        }
        if let Some(host) = self.host.as_mut() {
            host.acked_since_checkpoint = false;
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
        self.follow();
        let read = self.read_ahead();
        if let Err(why) = read {
            self.cover(format!("read failed: {why}"));
        }
        self.take_batch();
        self.arm();
        self.feed_soon();
    }

    /// Does what the driver ordered: acknowledges, begins a session.
    fn follow(&mut self) {
        let Some(host) = self.host.as_mut() else {
            return;
        };
        let order = host.order;
        if host.feeder.following.acked < order.acked {
            host.streams.ack(order.acked, 0);
            host.acked_since_checkpoint = true;
            let feeder = &mut host.feeder;
            while let Some(handed) = feeder.handed.pop_front_if(|h| h.turn <= order.acked) {
                let ledger = &mut self.ledgers[usize::from(handed.stream.0)];
                if ledger.settle_in_flight(handed.sequence.0) {
                    host.given_up_acked = true;
                    *self
                        .coverage
                        .entry("given up in flight, and delivered".into())
                        .or_default() += 1;
                }
            }
        }
        let begins = order.generation != host.feeder.following.generation;
        if begins {
            host.streams.begin(order.sent);
            let feeder = &mut host.feeder;
            feeder.handed.retain(|handed| handed.turn <= order.sent);
            feeder.replaying = feeder.handed.len();
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
        host.feeder.following = order;
        if begins {
            self.session_begins();
        }
    }

    /// What the oracles know of the lanes a session begins with.
    fn session_begins(&mut self) {
        for stream in 0..self.terms.streams.len() {
            let given_up = self.ledgers[stream].give_up_in_flight();
            if given_up.0 > 0 {
                self.cover("given up in flight, and lost");
            }
            let Some(host) = self.host.as_ref() else {
                return;
            };
            let Some((settings, spool)) = host.streams.spools().nth(stream) else {
                return;
            };
            let live_after = spool.unsettled().iter().last();
            let live_after = live_after.map_or(0, |live| live.acked.sequence.0);
            let replays = host.feeder.handed.iter().any(|h| h.stream == id(stream));
            let divides = crate::terms::divides(settings.after_outage);
            let waits = spool.status().depth_records > 0;
            self.ledgers[stream].begin(divides.then_some(live_after), replays);
            if divides && waits {
                self.cover("sent side by side");
            }
        }
    }

    fn read_ahead(&mut self) -> Result<(), String> {
        let now = self.now;
        let Some(host) = self.host.as_mut() else {
            return Ok(());
        };
        if !host.feeder.following.running || host.feeder.ready.is_some() {
            return Ok(());
        }
        let mut handed = Vec::new();
        let read = host
            .streams
            .read(now, READ_BYTES_MAX, READ_RECORDS_MAX, &mut handed);
        let outcome = match read {
            Ok(wait) => {
                host.read_at = wait.map(|wait| now + wait.max(Duration::from_millis(1)));
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        };
        let wrong = host.feeder.check(&handed);
        if !handed.is_empty() {
            host.hand_over(&handed);
        }
        if let Some(wrong) = wrong {
            self.fail(&wrong);
        }
        outcome
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
        for (turn, stream, sequence) in &batch.left_out {
            self.ledgers[usize::from(stream.0)].set_record_aside(sequence.0);
            host.left_out = host.left_out.max(*turn);
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

/// Numbers given out in memory have become higher.
fn host_shifted(host: &mut Option<Host>, stream: usize, shift: u64) {
    let Some(host) = host else { return };
    for handed in &mut host.feeder.handed {
        if handed.stream == id(stream) {
            handed.sequence.0 += shift;
        }
    }
    for (_, left_out, sequence) in host
        .feeder
        .ready
        .iter_mut()
        .flat_map(|batch| &mut batch.left_out)
    {
        if *left_out == id(stream) {
            sequence.0 += shift;
        }
    }
}

pub(super) fn id(stream: usize) -> StreamId {
    StreamId(u8::try_from(stream).unwrap_or(u8::MAX))
}

/// A spool's figures at one time, and what waits in it.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(super) status: Status,
    pub(super) unsettled: Ranges,
}

impl Host {
    fn wants_feeding(&self) -> bool {
        let feeder = &self.feeder;
        feeder.following != self.order
            || (self.order.running
                && feeder.ready.is_none()
                && self.read_at.is_none()
                && self.streams.has_more())
    }

    fn hand_over(&mut self, handed: &[Handed]) {
        let feeder = &mut self.feeder;
        let mut encoder = Encoder::new(feeder.following.packet_bytes_max);
        for handed in handed {
            feeder.announced.observe(&handed.uplink);
            encoder.begin(Run {
                qos: Default::default(),
                historical: handed.historical,
                stream: handed.stream,
            });
            let place = Place {
                turn: handed.turn,
                sequence: handed.sequence,
            };
            encoder.push(place, &handed.uplink);
        }
        let encoded = encoder.finish();
        let left_out = encoded.left_out.iter();
        let left_out = left_out.filter_map(|left_out| {
            let handed = feeder.handed.iter().find(|h| h.turn == left_out.sequence)?;
            Some((handed.turn, handed.stream, handed.sequence))
        });
        feeder.ready = Some(Batch {
            generation: feeder.following.generation,
            left_out: left_out.collect(),
            publishes: encoded.publishes,
        });
    }
}
