//! The spool's owner and the feeder: appends, commits, reads ahead, acknowledges.

use std::time::Duration;

use moorline_core::message::{Sequence, Uplink};
use moorline_core::spool::{Refused, Spool};
use moorline_core::thingsboard::Encoder;
use moorline_core::thingsboard::limits::Opened;
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
    /// A start of the spool on what the disk holds. A storage that refuses is tried again.
    pub(super) fn open_spool(&mut self) -> Spool<moorline_core::spool::sim_storage::SimStorage> {
        for _ in 0..100 {
            match Spool::open(self.disk.clone(), self.terms.limits) {
                Ok((spool, recovery)) => {
                    self.note("spool", format!("{recovery:?}"));
                    self.cover(format!("cursor {:?}", recovery.cursor));
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
        let before = host.spool.status();
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
        if outcomes.len() != offered.len() {
            self.fail("an append without an outcome");
        }
        for (outcome, (items, readings)) in outcomes.into_iter().zip(offered) {
            match outcome {
                Ok(sequence) => {
                    if let Err(why) = self.ledger.accept(sequence.0, items, readings) {
                        self.fail(&why);
                    }
                }
                Err(Refused::Storage(error)) => {
                    self.inexact = true;
                    self.cover(format!("append refused: {error}"));
                }
                Err(Refused::TooLarge) => self.fail("a small record is too large"),
            }
        }
        self.follow_eviction(before);
        self.arm();
        self.feed_soon();
    }

    /// Whatever evicts must count exactly what it gives up.
    fn follow_eviction(&mut self, before: moorline_core::spool::Status) {
        let Some(host) = self.host.as_ref() else {
            return;
        };
        let after = host.spool.status();
        let evicted = after.evicted.since(before.evicted);
        if evicted.records == 0 && after.evicted == before.evicted {
            return;
        }
        let counted = self.ledger.evict(before.acked.0, after.acked.0);
        if !self.inexact && counted != (evicted.records, evicted.readings) {
            self.fail(&format!("{evicted:?} counted as evicted, {counted:?} gone"));
        }
        self.cover("evicted");
        self.note("spool", format!("evicted {counted:?}"));
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
            if host.spool.status().stalled.is_some() {
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
            let prepared = host.spool.prepare();
            if prepared.is_err() {
                host.prepare_at = Some(now + RETRY_PAUSE);
                self.cover("prepare failed");
            }
        }
        self.arm();
    }

    fn commit(&mut self) {
        let now = self.now;
        let Some(host) = self.host.as_mut() else {
            return;
        };
        let before = host.spool.status();
        let committed = host.spool.commit();
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
        self.follow_eviction(before);
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
        host.follow();
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
        for left_out in &batch.left_out {
            self.ledger.set_record_aside(left_out.sequence.0);
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

impl Host {
    fn wants_feeding(&self) -> bool {
        let feeder = &self.feeder;
        feeder.following != self.order
            || (self.order.running
                && feeder.ready.is_none()
                && feeder.position < self.spool.status().last)
    }

    fn follow(&mut self) {
        let (order, feeder) = (self.order, &mut self.feeder);
        if order.acked > feeder.following.acked {
            self.spool.ack(order.acked);
            self.acked_since_checkpoint = true;
        }
        if order.generation != feeder.following.generation {
            feeder.position = order.after;
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
    }

    fn read_ahead(&mut self) -> Result<(), moorline_core::spool::ReadError> {
        let feeder = &mut self.feeder;
        if !feeder.following.running
            || feeder.ready.is_some()
            || feeder.position >= self.spool.status().last
        {
            return Ok(());
        }
        let mut records = Vec::new();
        self.spool.read(
            feeder.position,
            READ_BYTES_MAX,
            READ_RECORDS_MAX,
            &mut records,
        )?;
        let Some(newest) = records.last().map(|record| record.sequence) else {
            // Nothing readable is left before the end.
            feeder.position = feeder.position.max(self.spool.status().acked);
            return Ok(());
        };
        let mut encoder = Encoder::new(feeder.following.packet_bytes_max);
        for record in &records {
            feeder.announced.observe(&record.uplink);
            encoder.push(record.sequence, &record.uplink);
        }
        let encoded = encoder.finish();
        feeder.position = newest.max(Sequence(0));
        feeder.ready = Some(Batch {
            generation: feeder.following.generation,
            publishes: encoded.publishes,
            left_out: encoded.left_out,
        });
        Ok(())
    }
}
