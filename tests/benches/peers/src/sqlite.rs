//! SQLite as a queue's table: WAL, `synchronous=FULL`, a transaction per batch.

use std::path::Path;

use rusqlite::{Connection, params};

use super::{Outcome, Store};

pub struct Sqlite {
    connection: Connection,
}

impl Sqlite {
    pub fn open(directory: &Path) -> Outcome<Self> {
        let connection = Connection::open(directory.join("queue.sqlite"))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute_batch(
            "CREATE TABLE queue (sequence INTEGER PRIMARY KEY, payload BLOB NOT NULL)",
        )?;
        Ok(Self { connection })
    }
}

impl Store for Sqlite {
    fn put(&mut self, batch: &[Vec<u8>]) -> Outcome<()> {
        let transaction = self.connection.transaction()?;
        {
            let mut insert =
                transaction.prepare_cached("INSERT INTO queue (payload) VALUES (?1)")?;
            for record in batch {
                insert.execute(params![record])?;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}
