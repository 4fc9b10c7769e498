//! redb, a transaction per batch. `Durability::Immediate` is its default, said here for who reads the table.

use std::path::Path;

use redb::{Database, Durability, TableDefinition};

use super::{Outcome, Store};

const QUEUE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("queue");

pub struct Redb {
    database: Database,
    sequence: u64,
}

impl Redb {
    pub fn open(directory: &Path) -> Outcome<Self> {
        Ok(Self {
            database: Database::create(directory.join("queue.redb"))?,
            sequence: 0,
        })
    }
}

impl Store for Redb {
    fn put(&mut self, batch: &[Vec<u8>]) -> Outcome<()> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        {
            let mut table = transaction.open_table(QUEUE)?;
            for record in batch {
                self.sequence += 1;
                table.insert(self.sequence, record.as_slice())?;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}
