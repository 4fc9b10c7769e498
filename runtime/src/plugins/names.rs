//! Names an instance has used before. A connector emits the same few keys all its life: each is checked and copied once,
//! and mostly in the order it had in the batch before, where it is found without a search.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::Hash;

use moorline_core::message::{DeviceName, Key, NameError};

/// Most names of one kind that are remembered. Beyond that all are forgotten, which costs their being checked anew.
const NAMES_MAX: usize = 4096;
/// Keys of a batch whose places are remembered.
const PLACES_MAX: usize = 1024;

/// The names of one instance: at most [`NAMES_MAX`] devices and as many keys, of 255 bytes each.
#[derive(Debug, Default)]
pub(crate) struct Names {
    devices: HashSet<DeviceName>,
    keys: HashSet<Key>,
    /// The keys of the batch before in their order, and the place of the next one in this batch.
    places: Vec<Key>,
    next: usize,
}

impl Names {
    /// Another batch begins.
    pub(crate) fn begin(&mut self) {
        self.next = 0;
    }

    /// The device of this name.
    pub(crate) fn device(&mut self, name: &str) -> Result<DeviceName, NameError> {
        known(&mut self.devices, name, DeviceName::try_new)
    }

    /// This key.
    pub(crate) fn key(&mut self, name: &str) -> Result<Key, NameError> {
        let place = self.next;
        self.next += 1;
        if let Some(expected) = self.places.get(place)
            && expected.as_str() == name
        {
            return Ok(expected.clone());
        }
        let key = known(&mut self.keys, name, Key::try_new)?;
        let remembered = self.places.len();
        match self.places.get_mut(place) {
            Some(other) => *other = key.clone(),
            None if place == remembered && place < PLACES_MAX => self.places.push(key.clone()),
            None => {}
        }
        Ok(key)
    }
}

fn known<N: Borrow<str> + Clone + Eq + Hash>(
    names: &mut HashSet<N>,
    name: &str,
    check: impl FnOnce(&str) -> Result<N, NameError>,
) -> Result<N, NameError> {
    if let Some(known) = names.get(name) {
        return Ok(known.clone());
    }
    let checked = check(name)?;
    if names.len() >= NAMES_MAX {
        names.clear();
    }
    names.insert(checked.clone());
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_once_and_a_bad_one_never() {
        let mut names = Names::default();
        let first = names.key("temperature").unwrap();
        let again = names.key("temperature").unwrap();
        assert_eq!(first.as_str().as_ptr(), again.as_str().as_ptr());
        for _ in 0..2 {
            assert_eq!(names.key("a\n"), Err(NameError::ControlCharacter));
            assert_eq!(names.device(""), Err(NameError::Empty));
        }
        assert_eq!((names.keys.len(), names.devices.len()), (1, 0));
    }

    #[test]
    fn a_key_that_comes_in_another_order_is_the_same() {
        let mut names = Names::default();
        for batch in [["a", "b", "c"], ["c", "a", "b"], ["a", "a", "c"]] {
            names.begin();
            for name in batch {
                assert_eq!(names.key(name).unwrap().as_str(), name);
            }
        }
        names.begin();
        for number in 0..2 * PLACES_MAX {
            names.key(&format!("key-{number}")).unwrap();
        }
        assert_eq!(names.places.len(), PLACES_MAX);
    }

    #[test]
    fn a_guest_that_makes_names_up_fills_no_memory() {
        let mut names = Names::default();
        for number in 0..=NAMES_MAX {
            let name = format!("key-{number}");
            assert_eq!(names.key(&name).unwrap().as_str(), name);
            assert!(names.keys.len() <= NAMES_MAX);
        }
        assert_eq!(names.keys.len(), 1);
    }
}
