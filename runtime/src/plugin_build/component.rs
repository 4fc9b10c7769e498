//! The last step of every language: bytes that are a component, put where a gateway may be watching.

use std::io;
use std::path::Path;

use super::{BuildError, BuiltPlugin};

/// Wraps a core module whose custom section names its world into a component.
pub(super) fn encode(module: &[u8]) -> Result<Vec<u8>, String> {
    let encoded = wit_component::ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|mut encoder| encoder.encode());
    // The encoder's error is a chain of words without a type; it is shown, never matched on.
    encoded.map_err(|error| format!("{error:#}"))
}

pub(super) fn write_whole(directory: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let draft = path.with_extension("wasm.new");
    std::fs::write(&draft, bytes)?;
    std::fs::rename(draft, path)
}

/// Puts what a tool has written to `draft` at `path`.
pub(super) fn publish(name: &str, draft: &Path, path: &Path) -> Result<BuiltPlugin, BuildError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| BuildError::File { path, source }
    };
    let component = std::fs::read(draft).map_err(failed(draft))?;
    let directory = path.parent().unwrap_or(Path::new("."));
    write_whole(directory, path, &component).map_err(failed(path))?;
    Ok(BuiltPlugin {
        name: name.to_owned(),
        path: path.to_owned(),
        bytes: component.len() as u64,
    })
}
