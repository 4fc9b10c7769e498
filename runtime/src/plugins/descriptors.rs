//! The descriptors of the host that a guest holds by WASI: sockets, files, look-ups and requests under way. Each has one of a
//! bounded number of places, so that no guest takes what the link and its neighbours need.

use std::collections::BTreeMap;
use std::sync::Arc;

use moorline_core::confine::Limit;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use wasmtime::component::{Resource, ResourceTable};

use super::wasi::Said;

/// A descriptor's place, free again when the last who has it drops it.
pub(crate) type Place = Arc<OwnedSemaphorePermit>;

/// The limit on open descriptors, exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AllTaken;

/// The places of one Store. Clones share them.
#[derive(Clone)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    said: mpsc::Sender<Said>,
}

impl Places {
    /// So many, and where is said that they did not suffice.
    pub(crate) fn new(count: usize, said: mpsc::Sender<Said>) -> Self {
        let free = Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        Self { free, said }
    }

    /// One of them, if there is one.
    pub(crate) fn take(&self) -> Result<Place, AllTaken> {
        if let Ok(place) = self.free.clone().try_acquire_owned() {
            return Ok(Arc::new(place));
        }
        match self.said.try_send(Said::Exceeded(Limit::Descriptors)) {
            // Full: the guest is told in any case.
            Ok(()) | Err(_) => {}
        }
        Err(AllTaken)
    }

    fn all_taken(&self) -> bool {
        self.free.available_permits() == 0
    }
}

/// Which of the resources in a Store's table hold a place.
pub(crate) struct Descriptors {
    places: Places,
    held: BTreeMap<u32, Held>,
}

/// One that held a place when it was made. The table does not tell when it goes, and may give its index to another.
struct Held {
    is_there: fn(&ResourceTable, u32) -> bool,
    place: Place,
}

fn is_there<T: 'static>(table: &ResourceTable, index: u32) -> bool {
    table.get(&Resource::<T>::new_borrow(index)).is_ok()
}

impl Descriptors {
    pub(crate) fn new(places: Places) -> Self {
        Self {
            places,
            held: BTreeMap::new(),
        }
    }

    /// A place for what is about to be opened.
    pub(crate) fn take(&mut self, table: &ResourceTable) -> Result<Place, AllTaken> {
        self.reclaim(table);
        self.places.take()
    }

    /// From now on `resource` holds `place`.
    pub(crate) fn hold<T: 'static>(&mut self, resource: &Resource<T>, place: Place) {
        let held = Held {
            is_there: is_there::<T>,
            place,
        };
        self.held.insert(resource.rep(), held);
    }

    /// The place that `resource` holds, for another that needs the same descriptor.
    pub(crate) fn shared<T: 'static>(&self, resource: &Resource<T>) -> Option<Place> {
        let held = self.held.get(&resource.rep())?;
        Some(held.place.clone())
    }

    /// Frees the places of what the guest has dropped, if they are needed.
    pub(crate) fn reclaim(&mut self, table: &ResourceTable) {
        if self.places.all_taken() {
            self.held
                .retain(|index, held| (held.is_there)(table, *index));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct File;
    struct Socket;

    #[test]
    fn a_place_is_free_again_when_all_who_have_it_are_gone() {
        let (said, mut queue) = mpsc::channel(4);
        let mut table = ResourceTable::new();
        let mut descriptors = Descriptors::new(Places::new(2, said));
        let place = descriptors.take(&table).unwrap();
        let file = table.push(File).unwrap();
        descriptors.hold(&file, place);
        let stream = table.push(Socket).unwrap();
        descriptors.hold(&stream, descriptors.shared(&file).unwrap());
        // What reads from the file outlives it.
        table.delete(file).unwrap();
        let other = descriptors.take(&table).unwrap();
        assert!(descriptors.take(&table).is_err());
        assert_eq!(queue.try_recv(), Ok(Said::Exceeded(Limit::Descriptors)));
        // Another kind at the same index is another resource.
        let reused = table.push(Socket).unwrap();
        descriptors.hold(&reused, other);
        table.delete(stream).unwrap();
        let third = descriptors.take(&table).unwrap();
        assert!(descriptors.take(&table).is_err());
        table.delete(reused).unwrap();
        drop(third);
        let all = [descriptors.take(&table), descriptors.take(&table)];
        assert!(all.iter().all(Result::is_ok));
    }
}
