//! A patient look: what seems damaged is looked at again, because the owner may just have been writing there.

use std::time::Duration;

use moorline_core::message::{Sequence, Uplink};
use moorline_core::spool::inspect::{self, Contents, Damage, Found, SegmentSeen, Walk, Wrong};
use moorline_core::spool::range::Ranges;
use moorline_core::spool::segment::{Header, HeaderRead};
use moorline_core::spool::{Position, Totals};

use super::progress::Progress;
use super::source::{Source, Stream, Trouble};
use crate::spool::SpoolSettings;

/// A write takes no longer; damage is still there after it.
const PAUSE: Duration = Duration::from_millis(50);
/// Damage counts when two looks in a row saw it, the last of these.
const LOOKS: usize = 4;

/// A stream and what its directory held.
pub(super) struct Seen {
    pub(super) stream: Stream,
    pub(super) contents: Contents,
    source: Source,
    /// Of the owner's memory, on a tmpfs.
    window: Option<Source>,
    in_memory: Vec<(Position, Uplink)>,
}

impl Seen {
    pub(super) fn new(stream: &Stream, settings: &SpoolSettings) -> Result<Self, Trouble> {
        let window = settings.window_path(&stream.directory, &stream.name);
        let mut seen = Self {
            stream: stream.clone(),
            contents: Contents::default(),
            source: Source::new(&stream.directory),
            window: window
                .filter(|path| path.is_dir())
                .map(|path| Source::new(&path)),
            in_memory: Vec::new(),
        };
        seen.survey()?;
        Ok(seen)
    }

    /// What is there now. The window knows better what is settled, and holds what was never written.
    fn survey(&mut self) -> Result<(), Trouble> {
        let surveyed = inspect::survey(&mut self.source);
        self.contents = surveyed.map_err(|error| self.stream.trouble(error))?;
        if let Some(window) = &mut self.window {
            let seen = inspect::journal(window).map_err(|error| self.stream.trouble(error))?;
            if let Some((generation, cursor)) = seen.cursor
                && self.contents.owns(&cursor)
            {
                self.contents.adopt(generation, cursor);
                self.in_memory = seen.records;
            }
        }
        Ok(())
    }

    /// Segments that hold something of interest, oldest first.
    pub(super) fn segments(&self, settled_too: bool) -> Vec<SegmentSeen> {
        let unsettled = self.contents.unsettled();
        let segments = self.contents.segments.iter().copied();
        segments
            .filter(|segment| settled_too || !segment.is_settled(&unsettled))
            .collect()
    }

    /// What is in it; none where it was recycled meanwhile, or is not in use yet.
    pub(super) fn look(&mut self, segment: &SegmentSeen) -> Result<Option<Looked>, Trouble> {
        let mut earlier: Option<Vec<Damage>> = None;
        for look in 1.. {
            let Some(looked) = self.look_once(segment)? else {
                return Ok(None);
            };
            let persisting: Vec<_> = match &earlier {
                Some(earlier) => {
                    let damages = looked.damages.iter().copied();
                    damages.filter(|damage| damage.persists(earlier)).collect()
                }
                None => Vec::new(),
            };
            let same = persisting.len() == looked.damages.len();
            if looked.damages.is_empty() || same || look == LOOKS {
                return Ok(Some(Looked {
                    damages: persisting,
                    ..looked
                }));
            }
            earlier = Some(looked.damages);
            std::thread::sleep(PAUSE);
            // What is settled by now is missed by nobody.
            self.survey()?;
        }
        Ok(None)
    }

    fn look_once(&mut self, segment: &SegmentSeen) -> Result<Option<Looked>, Trouble> {
        let loaded = inspect::load(&mut self.source, segment);
        let Some(bytes) = loaded.map_err(|error| self.stream.trouble(error))? else {
            return Ok(None);
        };
        match Header::decode(&bytes, segment.epoch) {
            HeaderRead::Whole(header) => Ok(Some(Looked::new(
                header,
                segment,
                self.contents.unsettled(),
                bytes,
            ))),
            HeaderRead::Unused => Ok(None),
            HeaderRead::Damaged => Ok(Some(Looked::unreadable(segment, bytes.len() as u64))),
        }
    }

    /// Hands over each record after `after` that can be read, in order, until `each` says that it is enough.
    pub(super) fn each_record(
        &mut self,
        after: Sequence,
        settled_too: bool,
        each: &mut impl FnMut(&Record<'_>) -> Result<bool, Trouble>,
    ) -> Result<(), Trouble> {
        let mut newest = Sequence(0);
        let segments = self.segments(settled_too);
        let mut progress = Progress::new(segments.iter().map(|segment| segment.bytes).sum());
        for segment in segments {
            progress.add(segment.bytes);
            let Some(looked) = self.look(&segment)? else {
                continue;
            };
            for found in looked.walk() {
                let Found::Record {
                    position,
                    uplink,
                    bytes,
                    ..
                } = found
                else {
                    continue;
                };
                let record = Record {
                    stream: &self.stream.name,
                    sequence: position.sequence,
                    bytes,
                    uplink: &uplink,
                };
                newest = newest.max(position.sequence);
                let waits = looked.unsettled.index_of(position.sequence).is_some();
                if position.sequence > after && (waits || settled_too) && !each(&record)? {
                    return Ok(());
                }
            }
        }
        let unsettled = self.contents.unsettled();
        for (position, uplink) in &self.in_memory {
            let sequence = position.sequence;
            let record = Record {
                stream: &self.stream.name,
                sequence,
                bytes: 0,
                uplink,
            };
            let waits = unsettled.index_of(sequence).is_some();
            if sequence > after.max(newest) && waits && !each(&record)? {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// A record as it is handed over.
pub(super) struct Record<'a> {
    pub(super) stream: &'a str,
    pub(super) sequence: Sequence,
    /// On disk; zero for what is in memory only.
    pub(super) bytes: u64,
    pub(super) uplink: &'a Uplink,
}

/// One segment's bytes, and what is wrong with them.
pub(super) struct Looked {
    header: Option<Header>,
    segment: SegmentSeen,
    unsettled: Ranges,
    bytes: Vec<u8>,
    pub(super) damages: Vec<Damage>,
    pub(super) torn_at: Option<u64>,
    /// Records that can be read.
    pub(super) good: Totals,
}

impl Looked {
    fn new(header: Header, segment: &SegmentSeen, unsettled: Ranges, bytes: Vec<u8>) -> Self {
        let mut looked = Self {
            header: Some(header),
            segment: *segment,
            unsettled,
            bytes,
            damages: Vec::new(),
            torn_at: None,
            good: Totals::default(),
        };
        let (mut damages, mut torn_at, mut good) = (Vec::new(), None, Totals::default());
        for found in looked.walk() {
            match found {
                Found::Record { uplink, .. } => {
                    good = good.plus(Totals {
                        records: 1,
                        readings: uplink.readings(),
                    });
                }
                Found::Cursor(..) => {}
                Found::Damage(damage) => damages.push(damage),
                Found::Torn { offset } => torn_at = Some(offset),
            }
        }
        (looked.damages, looked.torn_at, looked.good) = (damages, torn_at, good);
        looked
    }

    /// A segment without a header: nothing in it can be placed.
    fn unreadable(segment: &SegmentSeen, bytes: u64) -> Self {
        Self {
            header: None,
            segment: *segment,
            unsettled: Ranges::default(),
            bytes: Vec::new(),
            damages: vec![Damage {
                offset: 0,
                bytes,
                wrong: Wrong::Header,
                after: Default::default(),
                lost: Totals::default(),
            }],
            torn_at: None,
            good: Totals::default(),
        }
    }

    pub(super) fn walk(&self) -> impl Iterator<Item = Found> + '_ {
        self.header
            .into_iter()
            .flat_map(|header| Walk::new(header, self.segment.end, &self.unsettled, &self.bytes))
    }
}
