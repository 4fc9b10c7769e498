//! Giving up what waits, because somebody said so.

use super::storage::{Storage, StorageError};
use super::{Spool, Totals};

impl<S: Storage> Spool<S> {
    /// Gives up everything that waits and says how much that was: counted as evicted, and the count is synced before
    /// anything is reused. What the link has in flight may still arrive.
    ///
    /// # Errors
    /// When the storage refuses the count: then nothing is given up. Segments that could not be recycled afterwards are
    /// at the next checkpoint.
    pub fn purge(&mut self) -> Result<Totals, StorageError> {
        let before = self.cursor.state;
        let given_up = self.last.totals.since(before.acked.totals);
        if self.last.sequence <= before.acked.sequence {
            return Ok(Totals::default());
        }
        self.cursor.state.evicted = before.evicted.plus(given_up);
        self.cursor.state.acked = before.acked.latest(self.last);
        if let Err(error) = self.cursor.sync(&mut self.storage) {
            self.cursor.state = before;
            return Err(error);
        }
        self.handed.forget(self.cursor.state.acked.sequence);
        match self.checkpoint(true) {
            Ok(()) | Err(_) => Ok(given_up),
        }
    }
}
