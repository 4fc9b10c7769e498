//! The components the story swaps in, and the files the gateway watches.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::stage::{MODBUS, POLICY, SIMULATED};
use super::{DemoError, Doing};

/// Name of the custom section that makes a build differ from the one before.
const MARK: &str = "moorline-demo-build";

/// What there is to put in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shelved {
    /// The simulated connector.
    Simulated,
    /// The Modbus TCP connector.
    Modbus,
    /// The good policy.
    Policy,
    /// A connector that traps.
    Trap,
    /// A policy that answers "retry now" for ever.
    Storm,
}

impl Shelved {
    /// What a guest that misbehaves on demand is told.
    fn script(self) -> Option<&'static str> {
        match self {
            Self::Trap => Some("timer:trap"),
            Self::Storm => Some("decide:zero"),
            Self::Simulated | Self::Modbus | Self::Policy => None,
        }
    }

    /// What belongs in the place of `connector`.
    pub(super) fn good(connector: &str) -> Self {
        match connector {
            MODBUS => Self::Modbus,
            POLICY => Self::Policy,
            _simulated => Self::Simulated,
        }
    }
}

/// Built components, and a directory of places.
#[derive(Debug)]
pub(super) struct Shelf {
    directory: PathBuf,
    built: BTreeMap<Shelved, PathBuf>,
    builds: u64,
}

impl Shelf {
    /// Puts the good component into each place.
    pub(super) fn stock(
        directory: &Path,
        built: BTreeMap<Shelved, PathBuf>,
    ) -> Result<Self, DemoError> {
        std::fs::create_dir_all(directory).doing("create the directory of plugins")?;
        let mut shelf = Self {
            directory: directory.to_owned(),
            built,
            builds: 0,
        };
        for place in [SIMULATED, MODBUS, POLICY] {
            shelf.put(place, Shelved::good(place))?;
        }
        Ok(shelf)
    }

    /// The file the gateway is configured with.
    pub(super) fn place(&self, connector: &str) -> PathBuf {
        self.directory.join(connector).with_extension("wasm")
    }

    /// Replaces the file in one step by a build that was never there before.
    pub(super) fn put(&mut self, connector: &str, what: Shelved) -> Result<(), DemoError> {
        let built = self
            .built
            .get(&what)
            .ok_or_else(|| DemoError::NotBuilt(format!("{what:?}")))?;
        self.builds += 1;
        let mut component = std::fs::read(built).doing("read a built component")?;
        if let Some(words) = what.script() {
            script(&mut component, words);
        }
        mark(&mut component, self.builds);
        let place = self.place(connector);
        let draft = place.with_extension("wasm.new");
        std::fs::write(&draft, component).doing("write a component")?;
        std::fs::rename(draft, place).doing("put a component in place")
    }
}

/// Appends a custom section: another build of the same code, with another digest.
///
/// Section id 0, its length, the name with its length, the content. All lengths stay below 128, one LEB128 byte each.
pub fn mark(component: &mut Vec<u8>, build: u64) {
    let content = build.to_le_bytes();
    let name = u8::try_from(MARK.len()).unwrap_or(0);
    let length = name + 1 + 8;
    component.extend_from_slice(&[0, length, name]);
    component.extend_from_slice(MARK.as_bytes());
    component.extend_from_slice(&content);
}

/// Overwrites the script inside a component of `tests/guests`; false if it has none, or no room for `words`.
pub fn script(component: &mut [u8], words: &str) -> bool {
    const PLACE: &[u8] = b"SCRIPT:";
    const LENGTH: usize = 128;
    let found = component
        .windows(PLACE.len())
        .position(|window| window == PLACE);
    let Some(place) =
        found.and_then(|start| component.get_mut(start + PLACE.len()..start + LENGTH))
    else {
        return false;
    };
    let fits = words.len() <= place.len();
    if fits {
        place.fill(b' ');
        place[..words.len()].copy_from_slice(words.as_bytes());
    }
    fits
}
