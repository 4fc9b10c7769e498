//! fjall, a batch and `persist(SyncData)`.

use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{Outcome, Store};

pub struct Fjall {
    database: Database,
    queue: Keyspace,
    sequence: u64,
}

impl Fjall {
    pub fn open(directory: &Path) -> Outcome<Self> {
        let database = Database::builder(directory.join("queue.fjall")).open()?;
        let queue = database.keyspace("queue", KeyspaceCreateOptions::default)?;
        Ok(Self {
            database,
            queue,
            sequence: 0,
        })
    }
}

impl Store for Fjall {
    fn put(&mut self, batch: &[Vec<u8>]) -> Outcome<()> {
        let mut write = self.database.batch();
        for record in batch {
            self.sequence += 1;
            write.insert(&self.queue, self.sequence.to_be_bytes(), record.as_slice());
        }
        write.commit()?;
        self.database.persist(PersistMode::SyncData)?;
        Ok(())
    }
}
