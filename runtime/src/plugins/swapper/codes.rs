//! Compiled code that is kept.

use moorline_core::swap::Digest;
use wasmtime::component::Component;

/// The active generation's and the one's before: what a roll-back needs.
const KEPT: usize = 2;

/// The last in use first, each build once.
#[derive(Default)]
pub(super) struct Codes(Vec<(Digest, Component)>);

impl Codes {
    pub(super) fn of(&self, digest: Digest) -> Option<Component> {
        self.0
            .iter()
            .find(|(kept, _)| *kept == digest)
            .map(|(_, component)| component.clone())
    }

    /// This build serves now.
    pub(super) fn serves(&mut self, digest: Digest, component: Component) {
        self.drop_code(digest);
        self.0.insert(0, (digest, component));
        self.0.truncate(KEPT);
    }

    /// This build has failed.
    pub(super) fn drop_code(&mut self, digest: Digest) {
        self.0.retain(|(kept, _)| *kept != digest);
    }
}
