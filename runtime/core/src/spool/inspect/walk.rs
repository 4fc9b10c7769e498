//! The bytes of one segment, frame by frame: what is good, and what is wrong with the rest.

use super::super::cursor::{Cursor, SlotRead};
use super::super::range::Ranges;
use super::super::record::{
    self, FRAME_ALIGNMENT, FRAME_HEADER, FrameRead, KIND_CURSOR, KIND_UPLINK,
};
use super::super::segment::{DATA_START, Header};
use super::super::{Position, Totals};
use super::FAR;
use crate::message::{Sequence, Uplink};

/// A search for the next good frame gives up after so many times the segment's bytes, as the spool's own reader does.
const SEARCH_BUDGET_SEGMENTS: usize = 4;

/// No spool skips more sequences, see `absent`. A search believes in nothing farther, or every payload would look like a
/// frame's header.
const JUMP_MAX: u64 = 1 << 52;

/// What a look at a segment finds, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// A record that can be delivered.
    Record {
        /// Where its frame begins.
        offset: u64,
        /// Bytes of the frame.
        bytes: u64,
        /// Its place in the spool.
        position: Position,
        /// What was appended.
        uplink: Uplink,
    },
    /// A state of the cursor that went with a commit, and its generation.
    Cursor(u64, Box<Cursor>),
    /// Something that cannot.
    Damage(Damage),
    /// The newest segment ends in something unfinished: a frame that is being written, or was when power went.
    Torn {
        /// Where it begins.
        offset: u64,
    },
}

/// A place that should hold records and does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where in the file.
    pub offset: u64,
    /// Bytes until the next good frame, or to the end of the segment.
    pub bytes: u64,
    /// What is wrong at its beginning.
    pub wrong: Wrong,
    /// Through the last record before it.
    pub after: Position,
    /// How much of what still waits is lost, by the counts of what follows; less where some of it was settled before its
    /// commit, and nobody knows.
    pub lost: Totals,
}

impl Damage {
    /// Whether an earlier look at the same segment saw this, too.
    #[must_use]
    pub fn persists(&self, earlier: &[Self]) -> bool {
        earlier
            .iter()
            .any(|seen| (seen.offset, seen.wrong) == (self.offset, self.wrong))
    }
}

/// What is wrong with a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The segment's header: nothing in it can be read.
    Header,
    /// A frame's checksum.
    Checksum {
        /// What the frame says.
        stored: u32,
        /// What its bytes say.
        computed: u32,
    },
    /// A frame claims to run past the end of the segment.
    Length,
    /// Nothing is there.
    Nothing,
    /// A good frame with a sequence that does not belong here.
    Order,
    /// A good frame whose contents no version of this program wrote.
    Contents,
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header => f.write_str("the segment's header cannot be read"),
            Self::Checksum { stored, computed } => write!(
                f,
                "the checksum is {stored:08x}, and of what is there {computed:08x}"
            ),
            Self::Length => f.write_str("a record claims to run past the end"),
            Self::Nothing => f.write_str("records are missing"),
            Self::Order => f.write_str("a record out of its order"),
            Self::Contents => f.write_str("a record that cannot be understood"),
        }
    }
}

/// Goes through the bytes of one segment.
#[derive(Debug)]
pub struct Walk<'a> {
    header: Header,
    /// Where the segment ends, if the next one tells.
    end: Option<Position>,
    unsettled: &'a Ranges,
    seed: u32,
    bytes: &'a [u8],
    offset: usize,
    after: Position,
    /// Bytes verified in searches.
    work: usize,
    done: bool,
}

impl<'a> Walk<'a> {
    /// `bytes` are the whole file of the segment with `header`; `end` is where the next segment begins, `unsettled` what
    /// still waits.
    #[must_use]
    pub fn new(
        header: Header,
        end: Option<Position>,
        unsettled: &'a Ranges,
        bytes: &'a [u8],
    ) -> Self {
        let capacity = usize::try_from(header.capacity).unwrap_or(usize::MAX);
        Self {
            header,
            end,
            unsettled,
            seed: record::seed(header.epoch),
            bytes: bytes.get(..capacity).unwrap_or(bytes),
            offset: DATA_START as usize,
            after: header.start,
            work: 0,
            done: false,
        }
    }

    fn through(&self) -> Sequence {
        self.end.map_or(Sequence(u64::MAX), |end| end.sequence)
    }

    fn fits(&self, sequence: Sequence) -> bool {
        sequence > self.after.sequence && sequence <= self.through()
    }

    fn decode(&self, offset: usize) -> FrameRead<'a> {
        record::decode(self.seed, self.bytes.get(offset..).unwrap_or_default())
    }

    /// The offset of the next good frame after the damage at `offset`.
    fn search(&mut self) -> Option<usize> {
        let work_max = self.bytes.len().saturating_mul(SEARCH_BUDGET_SEGMENTS);
        let far = Sequence(self.after.sequence.0.saturating_add(JUMP_MAX));
        let mut offset = self.offset + FRAME_ALIGNMENT;
        while offset + FRAME_HEADER <= self.bytes.len() && self.work < work_max {
            let here = self.bytes.get(offset..).unwrap_or_default();
            let plausible = record::claimed_sequence(here)
                .is_some_and(|claimed| self.fits(claimed) && claimed <= far);
            if plausible && let Some(wanted) = record::wanted(here) {
                self.work += wanted.min(here.len());
                if let FrameRead::Frame(_) = self.decode(offset) {
                    return Some(offset);
                }
            }
            offset += FRAME_ALIGNMENT;
        }
        None
    }

    fn damage(&mut self, wrong: Wrong) -> Option<Found> {
        let offset = self.offset as u64;
        if let Some(next) = self.search() {
            let FrameRead::Frame(frame) = self.decode(next) else {
                return None;
            };
            let position = self.header.position(&frame);
            let here = Totals {
                records: 1,
                readings: uplink(&frame).map_or(0, |uplink| uplink.readings()),
            };
            let before = Position {
                sequence: Sequence(position.sequence.0.saturating_sub(1)),
                totals: position.totals.since(here),
            };
            let lost = self.unsettled.overlap(self.after, before, FAR);
            self.offset = next;
            return Some(Found::Damage(Damage {
                offset,
                bytes: next as u64 - offset,
                wrong,
                after: self.after,
                lost,
            }));
        }
        self.done = true;
        if wrong == Wrong::Nothing {
            return None;
        }
        let Some(end) = self.end else {
            return Some(Found::Torn { offset });
        };
        let lost = self.unsettled.overlap(self.after, end, FAR);
        (lost.records > 0).then_some(Found::Damage(Damage {
            offset,
            bytes: (self.bytes.len() as u64).saturating_sub(offset),
            wrong,
            after: self.after,
            lost,
        }))
    }

    fn record(&mut self, frame: &record::Frame<'_>) -> Found {
        let offset = self.offset as u64;
        let before = self.after;
        let position = self.header.position(frame);
        self.after = position;
        self.offset += frame.span();
        match uplink(frame) {
            Some(uplink) => Found::Record {
                offset,
                bytes: frame.span() as u64,
                position,
                uplink,
            },
            None => Found::Damage(Damage {
                offset,
                bytes: frame.span() as u64,
                wrong: Wrong::Contents,
                after: before,
                lost: self.unsettled.overlap(before, position, FAR),
            }),
        }
    }

    /// A state that went with a commit.
    fn cursor(&mut self, frame: &record::Frame<'_>) -> Found {
        let offset = self.offset as u64;
        self.offset += frame.span();
        match Cursor::decode(frame.payload) {
            SlotRead::Whole(generation, cursor) => Found::Cursor(generation, Box::new(cursor)),
            SlotRead::Unused | SlotRead::Damaged => Found::Damage(Damage {
                offset,
                bytes: frame.span() as u64,
                wrong: Wrong::Contents,
                after: self.after,
                lost: Totals::default(),
            }),
        }
    }
}

fn uplink(frame: &record::Frame<'_>) -> Option<Uplink> {
    (frame.kind == KIND_UPLINK)
        .then(|| postcard::from_bytes(frame.payload).ok())
        .flatten()
}

impl Iterator for Walk<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        if self.done {
            return None;
        }
        match self.decode(self.offset) {
            FrameRead::Frame(frame) if frame.kind == KIND_CURSOR => Some(self.cursor(&frame)),
            FrameRead::Frame(frame) if self.fits(frame.sequence) => Some(self.record(&frame)),
            FrameRead::Frame(_) => self.damage(Wrong::Order),
            FrameRead::Torn => self.damage(Wrong::Length),
            FrameRead::Corrupt { stored, computed } => {
                self.damage(Wrong::Checksum { stored, computed })
            }
            FrameRead::End => self.damage(Wrong::Nothing),
        }
    }
}
