//! A [`Storage`] in memory that can lose power, tear sectors, rot, run full and fail: the second implementation of the
//! trait, used by the simulation and by the model tests of the spool.
//!
//! What a power cut does to writes that were not synced: each sector is kept, lost or torn on its own, so writes arrive
//! in any order; name changes are lost from some point on, as in a journal. A failed sync drops what it was to write,
//! as Linux does, while reads still see it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::storage::{Listed, Storage, StorageError};

const SECTOR: usize = 512;

/// Kinds of operation that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// `write_at`; a part is written.
    Write,
    /// `read_at`.
    Read,
    /// `sync`; some of the unsynced sectors are written, the others never will be.
    Sync,
    /// `create`, `rename`, `remove` and `sync_names`.
    Names,
}

/// A disk. Clones are the same disk, so that it outlives a spool that crashed.
#[derive(Clone, Debug)]
pub struct SimStorage {
    disk: Rc<RefCell<Disk>>,
}

/// An open file of a [`SimStorage`].
#[derive(Debug)]
pub struct SimFile(u64);

#[derive(Debug, Default)]
struct Inode {
    /// What reads see.
    contents: Vec<u8>,
    /// What survives a power cut.
    durable: Vec<u8>,
    /// Sectors of `contents` that were written since.
    dirty: BTreeSet<usize>,
    sync_failed: bool,
}

#[derive(Clone, Debug)]
enum NameChange {
    Create(String, u64),
    Rename(String, String),
    Remove(String),
}

#[derive(Debug)]
struct Disk {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    pending_names: Vec<NameChange>,
    faults: BTreeMap<Operation, (u32, StorageError)>,
    capacity: u64,
    read_only: bool,
    absent: bool,
    next_inode: u64,
    syncs_after_failure: u64,
    syncs: u64,
    writes: u64,
    random: u64,
}

impl SimStorage {
    /// An empty disk of `capacity` bytes whose mishaps follow from `seed`.
    #[must_use]
    pub fn new(seed: u64, capacity: u64) -> Self {
        let disk = Disk {
            inodes: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            faults: BTreeMap::new(),
            capacity,
            read_only: false,
            absent: false,
            next_inode: 0,
            syncs_after_failure: 0,
            syncs: 0,
            writes: 0,
            random: seed,
        };
        Self {
            disk: Rc::new(RefCell::new(disk)),
        }
    }

    /// Lets the next `times` operations of this kind fail with `error`.
    pub fn fail(&self, operation: Operation, times: u32, error: StorageError) {
        self.disk
            .borrow_mut()
            .faults
            .insert(operation, (times, error));
    }

    /// Ends all faults asked for, except that it is too small.
    pub fn heal(&self) {
        let mut disk = self.disk.borrow_mut();
        disk.faults.clear();
        disk.read_only = false;
        disk.absent = false;
    }

    /// Makes the disk larger or smaller.
    pub fn set_capacity(&self, capacity: u64) {
        self.disk.borrow_mut().capacity = capacity;
    }

    /// Makes it refuse whatever would change it, as a file system does that was remounted after an error, or take it
    /// again.
    pub fn set_read_only(&self, read_only: bool) {
        self.disk.borrow_mut().read_only = read_only;
    }

    /// Makes it refuse everything, as a medium that is not there, or answer again.
    pub fn set_absent(&self, absent: bool) {
        self.disk.borrow_mut().absent = absent;
    }

    /// Power goes and comes back. Files opened before must not be used any more.
    pub fn cut_power(&self) {
        self.disk.borrow_mut().cut_power();
    }

    /// Everything is gone, as on a tmpfs whose power was cut.
    pub fn wipe(&self) {
        let mut disk = self.disk.borrow_mut();
        disk.inodes.clear();
        disk.names.clear();
        disk.durable_names.clear();
        disk.pending_names.clear();
    }

    /// Flips one bit of `name`, on the medium and in memory. `false` when there is no such byte.
    pub fn rot(&self, name: &str, offset: usize, bit: u8) -> bool {
        let mut disk = self.disk.borrow_mut();
        let Some(inode) = disk
            .names
            .get(name)
            .copied()
            .and_then(|id| disk.inodes.get_mut(&id))
        else {
            return false;
        };
        for bytes in [&mut inode.contents, &mut inode.durable] {
            let Some(byte) = bytes.get_mut(offset) else {
                return false;
            };
            *byte ^= 1 << (bit % 8);
        }
        true
    }

    /// The files and their lengths.
    #[must_use]
    pub fn files(&self) -> Vec<Listed> {
        self.disk.borrow().list()
    }

    /// Successful and failed syncs of files so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.disk.borrow().syncs
    }

    /// Successful and failed writes to files so far.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.disk.borrow().writes
    }

    /// How often a file was synced again after a sync of it failed. Must stay 0.
    #[must_use]
    pub fn syncs_after_failure(&self) -> u64 {
        self.disk.borrow().syncs_after_failure
    }
}

impl Disk {
    /// splitmix64.
    fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }

    fn list(&self) -> Vec<Listed> {
        self.names
            .iter()
            .map(|(name, id)| Listed {
                name: name.clone(),
                bytes: self
                    .inodes
                    .get(id)
                    .map_or(0, |inode| inode.contents.len() as u64),
            })
            .collect()
    }

    fn used(&self) -> u64 {
        let inodes = self.names.values().filter_map(|id| self.inodes.get(id));
        inodes.map(|inode| inode.contents.len() as u64).sum()
    }

    /// The error this operation meets, if one was asked for.
    fn fault(&mut self, operation: Operation) -> Result<(), StorageError> {
        if self.absent {
            return Err(StorageError::Fault(5));
        }
        if self.read_only && operation != Operation::Read {
            return Err(StorageError::ReadOnly);
        }
        match self.faults.get_mut(&operation) {
            Some((times, error)) if *times > 0 => {
                *times -= 1;
                Err(*error)
            }
            Some(_) | None => Ok(()),
        }
    }

    fn change_name(&mut self, change: NameChange) {
        apply(&mut self.names, &change);
        self.pending_names.push(change);
    }

    /// Moves each dirty sector for which `chance` in a hundred says so to the medium.
    fn write_back(&mut self, id: u64, chance: u64) {
        let sectors = self
            .inodes
            .get_mut(&id)
            .map(|inode| std::mem::take(&mut inode.dirty))
            .unwrap_or_default();
        for sector in sectors {
            let write = self.random(100) < chance;
            let Some(inode) = self.inodes.get_mut(&id) else {
                continue;
            };
            if write {
                persist(inode, sector, SECTOR);
            } else {
                inode.dirty.insert(sector);
            }
        }
    }

    fn cut_power(&mut self) {
        let kept = self.random(self.pending_names.len() as u64 + 1);
        let pending = std::mem::take(&mut self.pending_names);
        for change in pending.iter().take(usize::try_from(kept).unwrap_or(0)) {
            apply(&mut self.durable_names, change);
        }
        self.names = self.durable_names.clone();
        let ids: Vec<u64> = self.inodes.keys().copied().collect();
        for id in ids {
            let dirty = self
                .inodes
                .get_mut(&id)
                .map(|inode| std::mem::take(&mut inode.dirty))
                .unwrap_or_default();
            for sector in dirty {
                let fate = self.random(8);
                let torn_at = usize::try_from(self.random(SECTOR as u64)).unwrap_or(0);
                let Some(inode) = self.inodes.get_mut(&id) else {
                    continue;
                };
                match fate {
                    0..=2 => persist(inode, sector, SECTOR),
                    3 => persist(inode, sector, torn_at),
                    _ => {}
                }
            }
            if let Some(inode) = self.inodes.get_mut(&id) {
                inode.contents = inode.durable.clone();
                inode.sync_failed = false;
            }
        }
    }
}

/// Writes the first `length` bytes of a sector to the medium.
fn persist(inode: &mut Inode, sector: usize, length: usize) {
    let start = sector * SECTOR;
    let end = (start + length).min(inode.contents.len());
    if start >= end {
        return;
    }
    if inode.durable.len() < end {
        inode.durable.resize(end, 0);
    }
    inode.durable[start..end].copy_from_slice(&inode.contents[start..end]);
}

fn apply(names: &mut BTreeMap<String, u64>, change: &NameChange) {
    match change {
        NameChange::Create(name, id) => {
            names.insert(name.clone(), *id);
        }
        NameChange::Rename(from, to) => {
            if let Some(id) = names.remove(from) {
                names.insert(to.clone(), id);
            }
        }
        NameChange::Remove(name) => {
            names.remove(name);
        }
    }
}

impl Storage for SimStorage {
    type File = SimFile;

    fn list(&mut self) -> Result<Vec<Listed>, StorageError> {
        let disk = self.disk.borrow();
        if disk.absent {
            return Err(StorageError::Fault(5));
        }
        Ok(disk.list())
    }

    fn create(&mut self, name: &str) -> Result<SimFile, StorageError> {
        let mut disk = self.disk.borrow_mut();
        disk.fault(Operation::Names)?;
        let id = disk.next_inode;
        disk.next_inode += 1;
        disk.inodes.insert(id, Inode::default());
        disk.change_name(NameChange::Create(name.to_owned(), id));
        Ok(SimFile(id))
    }

    fn open(&mut self, name: &str) -> Result<SimFile, StorageError> {
        if self.disk.borrow().read_only {
            return Err(StorageError::ReadOnly);
        }
        self.open_read(name)
    }

    fn open_read(&mut self, name: &str) -> Result<SimFile, StorageError> {
        let disk = self.disk.borrow();
        if disk.absent {
            return Err(StorageError::Fault(5));
        }
        disk.names
            .get(name)
            .copied()
            .map(SimFile)
            .ok_or(StorageError::Missing)
    }

    fn write_at(
        &mut self,
        file: &mut SimFile,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), StorageError> {
        let mut disk = self.disk.borrow_mut();
        disk.writes += 1;
        let offset = usize::try_from(offset).map_err(|_| StorageError::Full)?;
        let length = disk
            .inodes
            .get(&file.0)
            .map_or(0, |inode| inode.contents.len());
        let growth = (offset + bytes.len()).saturating_sub(length) as u64;
        // As on a disk: what is allocated can be overwritten, however full it is.
        let full = growth > 0 && disk.used() + growth > disk.capacity;
        let outcome = disk.fault(Operation::Write).and(if full {
            Err(StorageError::Full)
        } else {
            Ok(())
        });
        let part = match outcome {
            Ok(()) => bytes.len(),
            Err(_) if full || disk.read_only || disk.absent => 0,
            Err(_) => usize::try_from(disk.random(bytes.len() as u64 + 1)).unwrap_or(0),
        };
        let Some(inode) = disk.inodes.get_mut(&file.0) else {
            return Err(StorageError::Missing);
        };
        let end = offset + part;
        if inode.contents.len() < end {
            inode.contents.resize(end, 0);
        }
        inode.contents[offset..end].copy_from_slice(&bytes[..part]);
        if part > 0 {
            inode.dirty.extend(offset / SECTOR..=(end - 1) / SECTOR);
        }
        // Now and then the system writes back by itself, in any order.
        if disk.random(16) == 0 {
            disk.write_back(file.0, 50);
        }
        outcome
    }

    fn read_at(
        &mut self,
        file: &mut SimFile,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<usize, StorageError> {
        let mut disk = self.disk.borrow_mut();
        disk.fault(Operation::Read)?;
        let inode = disk.inodes.get(&file.0).ok_or(StorageError::Missing)?;
        let from = usize::try_from(offset)
            .ok()
            .and_then(|offset| inode.contents.get(offset..))
            .unwrap_or_default();
        let read = from.len().min(bytes.len());
        bytes[..read].copy_from_slice(&from[..read]);
        Ok(read)
    }

    fn sync(&mut self, file: &mut SimFile) -> Result<(), StorageError> {
        let mut disk = self.disk.borrow_mut();
        disk.syncs += 1;
        if disk
            .inodes
            .get(&file.0)
            .is_some_and(|inode| inode.sync_failed)
        {
            disk.syncs_after_failure += 1;
        }
        let outcome = disk.fault(Operation::Sync);
        if disk.read_only || disk.absent {
            return outcome;
        }
        disk.write_back(file.0, if outcome.is_ok() { 100 } else { 50 });
        if let Some(inode) = disk.inodes.get_mut(&file.0)
            && outcome.is_err()
        {
            inode.dirty.clear();
            inode.sync_failed = true;
        }
        outcome
    }

    fn sync_names(&mut self) -> Result<(), StorageError> {
        let mut disk = self.disk.borrow_mut();
        disk.fault(Operation::Names)?;
        disk.durable_names = disk.names.clone();
        disk.pending_names.clear();
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), StorageError> {
        let mut disk = self.disk.borrow_mut();
        disk.fault(Operation::Names)?;
        if !disk.names.contains_key(from) {
            return Err(StorageError::Missing);
        }
        disk.change_name(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), StorageError> {
        let mut disk = self.disk.borrow_mut();
        disk.fault(Operation::Names)?;
        if !disk.names.contains_key(name) {
            return Err(StorageError::Missing);
        }
        disk.change_name(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn free_bytes(&mut self) -> Option<u64> {
        let disk = self.disk.borrow();
        Some(disk.capacity.saturating_sub(disk.used()))
    }
}
