//! Ours: `append` and `commit`. What is acknowledged is recycled, as it is while a link is up and just too slow for the
//! commit window.

use std::path::Path;

use moorline_core::message::{Sequence, Uplink};
use moorline_core::spool::{Lane, Limits, Spool as Log};

use super::disk::Disk;
use super::{Outcome, RECORD_BYTES, Store};

const SEGMENT_BYTES: u64 = 8 << 20;
const BYTES_MAX: u64 = 256 << 20;
const TAIL_BYTES: usize = 512 * 1024;
/// Commits between two checkpoints: some 50 ms of them.
const CHECKPOINT_EVERY: u64 = 64;
const READ_BYTES: usize = 1 << 20;
const READ_RECORDS: usize = 100_000;
/// Encoded, topic, lengths and the count of readings take so much of a record.
const AROUND_BYTES: usize = 5;

pub struct Spool {
    log: Log<Disk>,
    offered: Vec<Uplink>,
    commits: u64,
    after: Sequence,
}

pub fn log(directory: &Path, bytes_max: u64) -> Outcome<Log<Disk>> {
    let limits = Limits::new(SEGMENT_BYTES, bytes_max, TAIL_BYTES)?;
    Ok(Log::open(Disk::open(directory)?, limits)?.0)
}

/// Takes `RECORD_BYTES` when it is encoded.
pub fn uplink(record: &[u8]) -> Uplink {
    let payload = &record[..RECORD_BYTES - AROUND_BYTES];
    Uplink::Letter {
        topic: String::new(),
        payload: String::from_utf8_lossy(payload).into_owned(),
        readings: 1,
    }
}

impl Spool {
    pub fn open(directory: &Path) -> Outcome<Self> {
        let mut log = log(directory, BYTES_MAX)?;
        // Zero-filled segments wait, as they do in a gateway that has run for a minute.
        let mut outcomes = Vec::new();
        log.append([uplink(&[b'x'; RECORD_BYTES])], &mut outcomes);
        log.commit()?;
        while log.prepare()? {}
        Ok(Self {
            log,
            offered: Vec::new(),
            commits: 0,
            after: Sequence(0),
        })
    }
}

impl Store for Spool {
    fn offer(&mut self, batch: &[Vec<u8>]) {
        self.offered = batch.iter().map(|record| uplink(record)).collect();
    }

    fn put(&mut self, batch: &[Vec<u8>]) -> Outcome<()> {
        let mut outcomes = Vec::with_capacity(batch.len());
        self.log.append(self.offered.drain(..), &mut outcomes);
        for outcome in outcomes {
            outcome?;
        }
        self.log.commit()?;
        self.commits += 1;
        Ok(())
    }

    fn tend(&mut self) -> Outcome<()> {
        if !self.commits.is_multiple_of(CHECKPOINT_EVERY) {
            return Ok(());
        }
        loop {
            let mut records = Vec::new();
            self.log
                .read(Lane::Live, self.after, READ_BYTES, READ_RECORDS, &mut records)?;
            let Some(last) = records.last() else { break };
            self.after = last.sequence;
        }
        self.log.ack(self.after);
        self.log.checkpoint(false)?;
        while self.log.prepare()? {}
        Ok(())
    }
}
