//! The last step of every language: bytes that are a component, put where a gateway may be watching.

use std::io;
use std::path::Path;

use wasmparser::{Parser, Payload};

use super::{BuildError, BuiltPlugin};

/// Magic and version of a module.
const HEADER_BYTES: usize = 8;

/// Wraps a core module whose custom section names its world into a component.
pub(super) fn encode(module: &[u8]) -> Result<Vec<u8>, String> {
    let encoded = wit_component::ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|mut encoder| encoder.encode());
    // The encoder's error is a chain of words without a type; it is shown, never matched on.
    encoded.map_err(|error| format!("{error:#}"))
}

/// Without what a debugger reads, which is many times the code; the names of functions stay. A module that cannot be read is
/// left as it is, for the encoder to refuse.
pub(super) fn without_debug(module: &[u8]) -> Vec<u8> {
    let mut kept = module.get(..HEADER_BYTES).unwrap_or(module).to_vec();
    let mut end = HEADER_BYTES;
    for payload in Parser::new(0).parse_all(module) {
        let Ok(payload) = payload else {
            return module.to_vec();
        };
        let Some((_id, range)) = payload.as_section() else {
            continue;
        };
        let is_debug = matches!(&payload, Payload::CustomSection(custom) if custom.name().starts_with(".debug_"));
        if !is_debug {
            kept.extend_from_slice(module.get(end..range.end).unwrap_or_default());
        }
        end = range.end;
    }
    kept
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A custom section.
    fn section(name: &str) -> Vec<u8> {
        let content = [
            &[u8::try_from(name.len()).unwrap()],
            name.as_bytes(),
            b"content",
        ]
        .concat();
        [&[0, u8::try_from(content.len()).unwrap()], &*content].concat()
    }

    #[test]
    fn what_a_debugger_reads_goes_and_names_stay() {
        let header = b"\0asm\x01\0\0\0".to_vec();
        let module = |names: &[&str]| {
            let sections = names.iter().map(|name| section(name));
            [header.clone()]
                .into_iter()
                .chain(sections)
                .collect::<Vec<_>>()
                .concat()
        };
        let whole = module(&[".debug_info", "name", ".debug_line", "component-type:x"]);
        assert_eq!(without_debug(&whole), module(&["name", "component-type:x"]));
        assert_eq!(without_debug(b"no module"), b"no module");
    }
}
