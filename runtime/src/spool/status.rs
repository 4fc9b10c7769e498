//! The figures of the spool.

use std::sync::Arc;

use moorline_core::spool::Status;
use moorline_core::spool::storage::{Storage, StorageError};
use moorline_core::spool::streams::Streams;
use moorline_core::time::TimestampMs;

/// The figures of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamStatus {
    /// Its name.
    pub name: Arc<str>,
    /// What its spool says.
    pub spool: Status,
}

/// The figures of the spool, for the link, the status page and the policy's question: all streams together.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SpoolStatus {
    /// Records accepted since the spool was made.
    pub accepted_records: u64,
    /// Of them, those that are settled.
    pub settled_records: u64,
    /// Records waiting.
    pub depth_records: u64,
    /// Readings waiting.
    pub depth_readings: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Encoded bytes of the records in memory.
    pub memory_bytes: u64,
    /// Readings given up because the spool was full or they were too old, since it was made.
    pub evicted_readings: u64,
    /// Readings that were accepted and cannot be read any more, since the spool was made.
    pub damaged_readings: u64,
    /// Readings the platform refused for good or no packet could carry, since the spool was made.
    pub set_aside_readings: u64,
    /// Readings accepted since the spool was made, across restarts.
    pub appended_readings_total: u64,
    /// Damaged segments put aside.
    pub quarantined_segments: u64,
    /// The last commit or other disk work failed.
    pub fault: Option<StorageError>,
    /// Since when something fails, by the wall clock.
    pub fault_since: Option<TimestampMs>,
    /// What lies on the medium of a stream could not be read since the start: it is not in these figures.
    pub absent: bool,
    /// A stream gives up what comes, because it is full.
    pub kept_full: bool,
    /// Something waits that was not handed out to the link.
    pub more: bool,
    /// Stream by stream, in order of their claim.
    pub streams: Arc<[StreamStatus]>,
}

impl SpoolStatus {
    pub(super) fn of<S: Storage>(streams: &Streams<S>, fault: Option<StorageError>) -> Self {
        let mut sum = Self {
            fault,
            absent: streams.spools().any(|(_, spool)| spool.is_absent()),
            more: streams.has_more(),
            ..Self::default()
        };
        let each: Vec<_> = streams
            .spools()
            .map(|(settings, spool)| StreamStatus {
                name: Arc::clone(&settings.name),
                spool: spool.status(),
            })
            .collect();
        for StreamStatus { spool, .. } in &each {
            sum.accepted_records += spool.appended.records;
            sum.depth_records += spool.depth_records;
            sum.depth_readings += spool.depth_readings;
            sum.bytes += spool.bytes;
            sum.memory_bytes += spool.memory_bytes;
            sum.evicted_readings += spool.evicted.readings;
            sum.damaged_readings += spool.damaged.readings;
            sum.set_aside_readings += spool.set_aside_readings;
            sum.appended_readings_total += spool.appended.readings;
            sum.quarantined_segments += spool.quarantined_segments;
            sum.fault = sum.fault.or(spool.fault);
            sum.kept_full |= spool.kept_full;
        }
        sum.settled_records = sum.accepted_records.saturating_sub(sum.depth_records);
        sum.streams = each.into();
        sum
    }
}
