//! What a guest keeps in the directories that it may write: bytes by the length of its files, and entries.
//!
//! Whoever writes asks before and settles after, one at a time, so that at no moment more is there than was counted. What is
//! given back was seen to be gone.

use super::Limit;

/// How much is there, and how much may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    bytes_max: u64,
    entries_max: u64,
    used: Used,
}

/// What is in the directories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Lengths of all files and links together; a hole in a file counts like what was written.
    pub bytes: u64,
    /// Files, directories and whatever else has a name there.
    pub entries: u64,
}

impl Quota {
    /// Nothing is there yet.
    #[must_use]
    pub const fn new(bytes_max: u64, entries_max: u64) -> Self {
        Self {
            bytes_max,
            entries_max,
            used: Used {
                bytes: 0,
                entries: 0,
            },
        }
    }

    /// What is there now.
    #[must_use]
    pub const fn used(&self) -> Used {
        self.used
    }

    /// Begins to count anew.
    pub const fn empty(&mut self) {
        self.used = Used {
            bytes: 0,
            entries: 0,
        };
    }

    /// Something that is there already, of `bytes`. False when there are more entries than may be: then nobody needs to look
    /// for the rest, and nothing fits until it is counted anew.
    #[must_use]
    pub const fn found(&mut self, bytes: u64) -> bool {
        self.used.bytes = self.used.bytes.saturating_add(bytes);
        self.used.entries = self.used.entries.saturating_add(1);
        let all = self.used.entries <= self.entries_max;
        if !all {
            self.uncountable();
        }
        all
    }

    /// What is there cannot be counted: nothing fits.
    pub const fn uncountable(&mut self) {
        self.used = Used {
            bytes: u64::MAX,
            entries: u64::MAX,
        };
    }

    /// Room for another entry.
    ///
    /// # Errors
    /// With the limit that leaves none.
    pub const fn add_entry(&mut self) -> Result<(), Limit> {
        if self.used.entries >= self.entries_max {
            return Err(Limit::DirectoryEntries);
        }
        self.used.entries += 1;
        Ok(())
    }

    /// Room for a file of `length` that is written from `offset` on, or made that long. A file only gets longer by what lies
    /// beyond its end.
    ///
    /// # Errors
    /// With the limit that leaves none: nothing is to be written then.
    pub const fn reach(&mut self, length: u64, end: u64) -> Result<(), Limit> {
        let growth = end.saturating_sub(length);
        if growth == 0 {
            return Ok(());
        }
        match self.used.bytes.checked_add(growth) {
            Some(bytes) if bytes <= self.bytes_max => {
                self.used.bytes = bytes;
                Ok(())
            }
            Some(_) | None => Err(Limit::DirectoryBytes),
        }
    }

    /// A file for which there was room up to `end` is `length` long after all: shorter where the medium was full or the file was
    /// cut.
    pub const fn settle(&mut self, end: u64, length: u64) {
        self.give_back_bytes(end.saturating_sub(length));
    }

    /// An entry is gone, with its bytes.
    pub const fn remove(&mut self, bytes: u64) {
        self.give_back_bytes(bytes);
        if self.used.entries != u64::MAX {
            self.used.entries = self.used.entries.saturating_sub(1);
        }
    }

    const fn give_back_bytes(&mut self, bytes: u64) {
        // What was not counted to its end is not known to be less now.
        if self.used.bytes != u64::MAX {
            self.used.bytes = self.used.bytes.saturating_sub(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Create(u8),
        /// A write of so many bytes at an offset, of which the medium takes a percentage.
        Write(u8, u64, u64, u64),
        SetLength(u8, u64),
        Remove(u8),
        Rename(u8, u8),
        Recount,
    }

    fn step() -> impl Strategy<Value = Step> {
        let name = 0..6_u8;
        prop_oneof![
            name.clone().prop_map(Step::Create),
            (
                name.clone(),
                prop_oneof![0..80_u64, Just(u64::MAX - 3)],
                0..40_u64,
                0..=100_u64
            )
                .prop_map(|(name, at, count, percent)| Step::Write(name, at, count, percent)),
            (name.clone(), prop_oneof![0..120_u64, Just(u64::MAX)])
                .prop_map(|(name, length)| Step::SetLength(name, length)),
            name.clone().prop_map(Step::Remove),
            (name.clone(), name).prop_map(|(from, to)| Step::Rename(from, to)),
            Just(Step::Recount),
        ]
    }

    /// A directory as a map from names to lengths, changed as the host does it.
    fn act(quota: &mut Quota, files: &mut BTreeMap<u8, u64>, step: &Step) {
        match *step {
            Step::Create(name) => {
                if !files.contains_key(&name) && quota.add_entry().is_ok() {
                    files.insert(name, 0);
                }
            }
            Step::Write(name, at, count, percent) => {
                let Some(length) = files.get_mut(&name) else {
                    return;
                };
                let end = at.saturating_add(count).max(*length);
                if quota.reach(*length, end).is_ok() {
                    let taken = count * percent / 100;
                    let after = if taken == 0 {
                        *length
                    } else {
                        (at + taken).max(*length)
                    };
                    quota.settle(end, after);
                    *length = after;
                }
            }
            Step::SetLength(name, wanted) => {
                let Some(length) = files.get_mut(&name) else {
                    return;
                };
                let end = wanted.max(*length);
                if quota.reach(*length, end).is_ok() {
                    quota.settle(end, wanted);
                    *length = wanted;
                }
            }
            Step::Remove(name) => {
                if let Some(length) = files.remove(&name) {
                    quota.remove(length);
                }
            }
            Step::Rename(from, to) => {
                if from != to
                    && let Some(length) = files.remove(&from)
                    && let Some(replaced) = files.insert(to, length)
                {
                    quota.remove(replaced);
                }
            }
            Step::Recount => {
                quota.empty();
                for length in files.values() {
                    assert!(quota.found(*length));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_there_is_what_is_counted_and_never_more_than_may_be(
            steps in prop::collection::vec(step(), 0..80)
        ) {
            let mut quota = Quota::new(100, 4);
            let mut files = BTreeMap::new();
            for step in &steps {
                act(&mut quota, &mut files, step);
                let used = Used {
                    bytes: files.values().sum(),
                    entries: files.len() as u64,
                };
                prop_assert_eq!(quota.used(), used, "after {:?}", step);
                prop_assert!(used.bytes <= 100 && used.entries <= 4);
            }
        }
    }

    #[test]
    fn what_was_there_in_excess_leaves_no_room_until_it_is_counted_anew() {
        let mut quota = Quota::new(100, 2);
        assert!(quota.found(500));
        assert_eq!(quota.reach(0, 1), Err(Limit::DirectoryBytes));
        // It is known to the byte, so that what goes counts.
        quota.remove(450);
        assert_eq!(quota.reach(0, 50), Ok(()));
        let all = [quota.found(1), quota.found(1), quota.found(1)];
        assert_eq!(all, [true, true, false]);
        for _ in 0..3 {
            quota.remove(1);
        }
        assert_eq!(quota.reach(0, 1), Err(Limit::DirectoryBytes));
        assert_eq!(quota.add_entry(), Err(Limit::DirectoryEntries));
        quota.empty();
        assert_eq!((quota.add_entry(), quota.reach(0, 100)), (Ok(()), Ok(())));
        quota.uncountable();
        quota.remove(100);
        assert_eq!(quota.add_entry(), Err(Limit::DirectoryEntries));
        assert_eq!(quota.reach(7, 7), Ok(()), "it grows by nothing");
    }
}
