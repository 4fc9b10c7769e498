//! The least a disk can do: zero-filled segments, one write and one fdatasync per batch; no index, no order to read in,
//! nothing ever deleted.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::{Outcome, Store};

const SEGMENT_BYTES: u64 = 8 << 20;
const SEGMENTS: usize = 4;

pub struct Plain {
    segments: Vec<File>,
    current: usize,
    offset: u64,
    sequence: u64,
    staged: Vec<u8>,
}

impl Plain {
    pub fn open(directory: &Path) -> Outcome<Self> {
        let zeros = vec![0; 1 << 20];
        let mut segments = Vec::new();
        for number in 0..SEGMENTS {
            let mut file = File::create(directory.join(number.to_string()))?;
            for _ in 0..SEGMENT_BYTES >> 20 {
                file.write_all(&zeros)?;
            }
            file.sync_all()?;
            segments.push(file);
        }
        Ok(Self {
            segments,
            current: 0,
            offset: 0,
            sequence: 0,
            staged: Vec::new(),
        })
    }
}

impl Store for Plain {
    fn put(&mut self, batch: &[Vec<u8>]) -> Outcome<()> {
        self.staged.clear();
        for record in batch {
            self.sequence += 1;
            self.staged
                .extend_from_slice(&u32::try_from(record.len())?.to_le_bytes());
            self.staged
                .extend_from_slice(&crc32c::crc32c(record).to_le_bytes());
            self.staged.extend_from_slice(&self.sequence.to_le_bytes());
            self.staged.extend_from_slice(record);
        }
        if self.offset + self.staged.len() as u64 > SEGMENT_BYTES {
            self.current = (self.current + 1) % SEGMENTS;
            self.offset = 0;
        }
        let file = &self.segments[self.current];
        file.write_all_at(&self.staged, self.offset)?;
        file.sync_data()?;
        self.offset += self.staged.len() as u64;
        Ok(())
    }
}
