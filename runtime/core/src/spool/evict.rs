//! What is given up: the oldest when the spool is full or too old, the newest where that is asked for, and how much of it
//! was whose.
//!
//! ```text
//! file `evicted`:  a JSON object, device name → readings given up since the spool was made
//! ```
//!
//! The totals are in the cursor and synced before anything is gone; this table follows, so that after a crash it may name
//! less than the totals, never more.

use std::collections::BTreeMap;

use super::range::Ranges;
use super::record::{FrameRead, KIND_UPLINK};
use super::segment::{DATA_START, Frames};
use super::storage::{Storage, StorageError, read_patiently};
use super::{Position, Spool, Totals};
use crate::message::{DeviceName, Uplink};
use crate::time::TimestampMs;

/// Devices in the table; readings of further ones are in the total only.
pub const EVICTED_DEVICES_MAX: usize = 4096;

/// Before this no gateway of this kind ran: a clock that says so was never set, and its age means nothing.
const CLOCK_PLAUSIBLE_MS: u64 = 1_577_836_800_000;

const TABLE: &str = "evicted";
const TABLE_NEW: &str = "evicted.new";
const TABLE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Readings given up, by device.
#[derive(Debug, Default)]
pub(super) struct Evictions {
    by_device: BTreeMap<DeviceName, u64>,
    written: bool,
}

impl Evictions {
    pub(super) fn load<S: Storage>(storage: &mut S) -> Self {
        let by_device = storage
            .open_read(TABLE)
            .and_then(|mut file| {
                let mut bytes = vec![0; TABLE_BYTES_MAX];
                let read = read_patiently(storage, &mut file, 0, &mut bytes)?;
                bytes.truncate(read);
                Ok(bytes)
            })
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Self {
            by_device,
            written: true,
        }
    }

    fn count(&mut self, uplink: &Uplink) {
        for (device, readings) in by_device(uplink) {
            self.add(&device, readings);
        }
    }

    pub(super) fn add(&mut self, device: &DeviceName, readings: u64) {
        if let Some(counted) = self.by_device.get_mut(device) {
            *counted = counted.saturating_add(readings);
        } else if self.by_device.len() < EVICTED_DEVICES_MAX {
            self.by_device.insert(device.clone(), readings);
        }
        self.written = false;
    }

    pub(super) fn merge(&mut self, other: Self) {
        for (device, readings) in other.by_device {
            self.add(&device, readings);
        }
    }

    fn write<S: Storage>(&mut self, storage: &mut S) -> Result<(), StorageError> {
        if self.written {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&self.by_device).map_err(|_| StorageError::Fault(0))?;
        let mut file = storage.create(TABLE_NEW)?;
        storage.write_at(&mut file, 0, &bytes)?;
        storage.sync(&mut file)?;
        storage.rename(TABLE_NEW, TABLE)?;
        storage.sync_names()?;
        self.written = true;
        Ok(())
    }
}

/// Whose readings these are.
fn by_device(uplink: &Uplink) -> Vec<(DeviceName, u64)> {
    let Uplink::Telemetry(devices) = uplink else {
        return Vec::new();
    };
    let devices = devices.iter();
    devices
        .map(|device| (device.device.clone(), device.readings.len() as u64))
        .collect()
}

impl<S: Storage> Spool<S> {
    /// Readings given up since the spool was made, by device. Together they may be less than [`Status::evicted`]: after a
    /// crash, or with more than [`EVICTED_DEVICES_MAX`] devices.
    ///
    /// [`Status::evicted`]: super::Status
    pub fn evicted_by_device(&self) -> impl Iterator<Item = (&DeviceName, u64)> {
        self.evictions.by_device.iter().map(|(d, n)| (d, *n))
    }

    /// Counts `uplink` as given up before it got a place: what a caller thins out.
    pub fn drop_at_once(&mut self, uplink: &Uplink) {
        self.cursor.state.dropped = self.cursor.state.dropped.plus(Totals {
            records: 1,
            readings: uplink.readings(),
        });
        self.evictions.count(uplink);
    }

    /// Gives up sealed segments in which nothing is younger than `oldest`, settled or not, and begins a new segment when
    /// the written one holds anything that old.
    ///
    /// # Errors
    /// When the storage refuses; call again later.
    pub fn expire(&mut self, oldest: TimestampMs) -> Result<(), StorageError> {
        let too_old = |begun: TimestampMs| begun.0 > CLOCK_PLAUSIBLE_MS && begun < oldest;
        while let Some(next) = self.segments.get(1) {
            if !too_old(next.header.begun) {
                return Ok(());
            }
            self.evict_oldest()?;
        }
        let alone = self.segments.front().map(|segment| segment.header.begun);
        if alone.is_some_and(too_old)
            && self.written.sequence > self.cursor.state.unsettled.acked().sequence
        {
            self.commit()?;
            self.seal(self.last)?;
        }
        Ok(())
    }

    /// Whether the oldest segment holds anything that is not settled.
    pub(super) fn oldest_waits(&self) -> bool {
        self.segments.front().is_some_and(|oldest| {
            let (start, end) = (oldest.header.start.sequence, oldest.end.sequence);
            self.cursor.state.unsettled.meets(start, end)
        })
    }

    /// Gives up the oldest segment, settled or not.
    pub(super) fn evict_oldest(&mut self) -> Result<(), StorageError> {
        let Some(oldest) = self.segments.front().filter(|_| self.sealed() > 0) else {
            return Err(StorageError::Full);
        };
        let end = oldest.end;
        let waits = self.oldest_waits();
        let before = self.cursor.state.clone();
        if waits {
            let state = &mut self.cursor.state;
            let lost = state.unsettled.overlap(Position::default(), end, self.last);
            state.evicted = state.evicted.plus(lost);
            state.unsettled.settle_before(end);
        }
        // Before the segment is gone its readings must be counted, whatever happens in between.
        if let Err(error) = self.cursor.sync(&mut self.storage) {
            self.cursor.state = before;
            return Err(error);
        }
        if waits {
            self.follow_ranges(&before.unsettled);
            self.count_oldest(&before.unsettled);
            match self.evictions.write(&mut self.storage) {
                // Written with the next checkpoint: on a full medium nothing but this eviction makes room.
                Ok(()) | Err(_) => {}
            }
        }
        self.retire(0)
    }

    /// Counts by device what waits in the oldest segment, as far as it can be read.
    fn count_oldest(&mut self, unsettled: &Ranges) {
        let Some(oldest) = self.segments.front() else {
            return;
        };
        let (header, end_offset) = (oldest.header, oldest.end_offset);
        let Ok(file) = self.storage.open_read(&oldest.name()) else {
            return;
        };
        let mut frames = Frames::new(file, header.epoch, DATA_START, end_offset);
        while let Ok(FrameRead::Frame(frame)) = frames.peek(&mut self.storage) {
            let waits = unsettled.index_of(frame.sequence).is_some();
            if waits
                && frame.kind == KIND_UPLINK
                && let Ok(uplink) = postcard::from_bytes::<Uplink>(frame.payload)
                && !self.in_flight.name(frame.sequence, &by_device(&uplink))
            {
                self.evictions.count(&uplink);
            }
            let span = frame.span();
            frames.advance(span);
        }
    }

    /// Gives up the oldest record that is in memory only.
    ///
    /// # Errors
    /// When it cannot be told from what waits before it any more: too many ranges.
    pub(super) fn evict_from_memory(&mut self) -> Result<(), StorageError> {
        self.pending_settled();
        let Some(oldest) = self.pending.front().copied() else {
            return Ok(());
        };
        let sequence = oldest.position.sequence;
        let Some(mut index) = self.cursor.state.unsettled.index_of(sequence) else {
            return Ok(());
        };
        let before = oldest.before();
        let range = self.cursor.state.unsettled.get(index);
        if range.is_some_and(|range| range.acked.totals != before.totals) {
            if !self.split(index, before) {
                return Err(self.fault.unwrap_or(StorageError::Full));
            }
            index += 1;
        }
        if let Some(reader) = self.readers.get_mut(index) {
            reader.forget(sequence, &mut self.in_flight);
        }
        if let Some(uplink) = self.pending.decode(&oldest)
            && !self.in_flight.name(sequence, &by_device(&uplink))
        {
            self.evictions.count(&uplink);
        }
        let state = &mut self.cursor.state;
        if let Some(range) = state.unsettled.get_mut(index) {
            range.acked = oldest.position;
        }
        state.evicted = state
            .evicted
            .plus(oldest.position.totals.since(before.totals));
        if self.cursor.state.unsettled.remove_settled(index) {
            self.readers.remove(index);
        }
        self.pending_settled();
        Ok(())
    }

    /// Gives up everything that is in memory only.
    pub(super) fn evict_memory(&mut self) -> Result<(), StorageError> {
        while self.pending.count() > 0 {
            self.evict_from_memory()?;
        }
        Ok(())
    }

    /// Gives up everything that waits, and counts it.
    ///
    /// # Errors
    /// When the storage refuses; what was given up until then is counted.
    pub fn purge(&mut self) -> Result<Totals, StorageError> {
        if !self.is_absent() {
            self.commit()?;
        }
        let waiting = self.cursor.state.unsettled.depth(self.last);
        if waiting.records > 0 {
            self.seal(self.last)?;
        }
        while self.sealed() > 0 && self.oldest_waits() {
            self.evict_oldest()?;
        }
        self.evict_memory()?;
        Ok(waiting)
    }

    /// Lets the readers follow ranges that were settled from the front.
    fn follow_ranges(&mut self, before: &Ranges) {
        let after = &self.cursor.state.unsettled;
        let gone = before.count() - after.count();
        for reader in self.readers.drain(..gone.min(self.readers.len())) {
            reader.give_up(&mut self.in_flight);
        }
        if let (Some(reader), Some(range)) = (self.readers.first_mut(), after.get(0))
            && before.get(gone).is_none_or(|was| was.acked != range.acked)
        {
            reader.forget(range.acked.sequence, &mut self.in_flight);
        }
    }

    /// Writes the table down, if it has changed.
    ///
    /// # Errors
    /// When the storage refuses.
    pub(super) fn write_evictions(&mut self) -> Result<(), StorageError> {
        self.evictions.write(&mut self.storage)
    }
}
