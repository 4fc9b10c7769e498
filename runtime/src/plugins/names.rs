//! Names an instance has used before. A connector emits the same few keys all its life: each is checked and copied once.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::Hash;

use moorline_core::message::{DeviceName, Key, NameError};

/// Most names of one kind that are remembered. Beyond that all are forgotten, which costs their being checked anew.
const NAMES_MAX: usize = 4096;

/// The names of one instance: at most [`NAMES_MAX`] devices and as many keys, of 255 bytes each.
#[derive(Debug, Default)]
pub(crate) struct Names {
    devices: HashSet<DeviceName>,
    keys: HashSet<Key>,
}

impl Names {
    /// The device of this name.
    pub(crate) fn device(&mut self, name: &str) -> Result<DeviceName, NameError> {
        known(&mut self.devices, name, DeviceName::try_new)
    }

    /// This key.
    pub(crate) fn key(&mut self, name: &str) -> Result<Key, NameError> {
        known(&mut self.keys, name, Key::try_new)
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
