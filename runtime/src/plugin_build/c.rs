//! C: zig's compiler with its wasi-libc, around the contract's bindings.
//!
//! ```text
//!  build/bindings/{connector,reconnect_policy}.{h,c}, …_component_type.o
//!  *.c but test_*.c, and the bindings ──zig cc──► build/NAME.core.wasm ──wit-component──► component
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::BuildError;
use super::component::{encode, without_debug};
use super::files::{Workshop, finish};
use super::manifest::Files;
use super::tools::{Tools, ZIG};
use crate::plugins::Kind;

/// What `runtime/c-bindings` generates. They are carried and not made here, so that Moorline carries no generator.
const fn bindings(kind: Kind) -> [(&'static str, &'static [u8]); 3] {
    match kind {
        Kind::Connector => [
            ("connector.h", include_bytes!("bindings/connector.h")),
            ("connector.c", include_bytes!("bindings/connector.c")),
            (
                "connector_component_type.o",
                include_bytes!("bindings/connector_component_type.o"),
            ),
        ],
        Kind::Policy => [
            (
                "reconnect_policy.h",
                include_bytes!("bindings/reconnect_policy.h"),
            ),
            (
                "reconnect_policy.c",
                include_bytes!("bindings/reconnect_policy.c"),
            ),
            (
                "reconnect_policy_component_type.o",
                include_bytes!("bindings/reconnect_policy_component_type.o"),
            ),
        ],
    }
}

/// What an author includes.
const fn header(kind: Kind) -> &'static str {
    let [(header, _), ..] = bindings(kind);
    header
}

/// zig's own is 16 MiB, which would be the memory of every instance.
const STACK: &str = "-Wl,-z,stack-size=131072";

/// What a module that reaches past the contract imports.
const PREVIEW1: &str = "wasi_snapshot_preview1";

pub(super) fn componentize(
    files: &Files,
    workshop: &Workshop,
    tools: &Tools,
    installing: &mut dyn FnMut(&str),
) -> Result<PathBuf, BuildError> {
    let bin = tools.python(ZIG, installing)?;
    let bindings = files.build_directory().join("bindings");
    let generated = bind(files.kind, &bindings)?;
    let module_path = files
        .build_directory()
        .join(format!("{}.core.wasm", files.name));
    let mut command = Command::new(bin.join("python"));
    command
        .args(["-m", "ziglang", "cc", "-target", "wasm32-wasi"])
        .args(["-std=c17", "-Os", "-Wall", "-Wextra"])
        // Without it zig leaves out the functions' names, too, which a trap is told by.
        .arg("-g1")
        .args(["-mexec-model=reactor", "-Wl,--no-entry", STACK])
        .arg("-I")
        .arg(&bindings)
        .arg("-o")
        .arg(&module_path)
        .args(sources(&files.directory)?)
        .args(generated)
        .env("ZIG_GLOBAL_CACHE_DIR", tools.cache(ZIG))
        .env("ZIG_LOCAL_CACHE_DIR", tools.cache(ZIG));
    finish(command, "zig cc", files)?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| BuildError::File { path, source }
    };
    let module = std::fs::read(&module_path).map_err(failed(&module_path))?;
    let component = encode(&without_debug(&module)).map_err(|detail| {
        let detail = if detail.contains(PREVIEW1) {
            format!(
                "it reaches for the operating system ({detail}); printf, assert, time and files have nothing behind \
                 them in a plugin: use moorline_edge_log_write and moorline_edge_clock_now"
            )
        } else {
            format!(
                "{detail}\n(it has to define every function of {} that begins with exports_, and may call no others \
                 but those of the header and of the C library)",
                bindings.join(header(files.kind)).display()
            )
        };
        BuildError::NotAGuest {
            module: module_path.clone(),
            detail,
        }
    })?;
    let draft = workshop.draft();
    std::fs::write(&draft, component).map_err(failed(&draft))?;
    Ok(draft)
}

/// The author's sources. `test_*.c` are for the machine the author sits at.
fn sources(directory: &Path) -> Result<Vec<PathBuf>, BuildError> {
    let failed = |source| BuildError::File {
        path: directory.to_owned(),
        source,
    };
    let mut sources = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_c = path.extension().is_some_and(|extension| extension == "c");
        let is_test = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("test_"));
        if is_c && !is_test {
            sources.push(path);
        }
    }
    sources.sort();
    Ok(sources)
}

/// Writes the bindings; gives back what is to be compiled and linked.
fn bind(kind: Kind, directory: &Path) -> Result<Vec<PathBuf>, BuildError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| BuildError::File { path, source }
    };
    std::fs::create_dir_all(directory).map_err(failed(directory))?;
    let mut linked = Vec::new();
    for (name, bytes) in bindings(kind) {
        let path = directory.join(name);
        std::fs::write(&path, bytes).map_err(failed(&path))?;
        if !name.ends_with(".h") {
            linked.push(path);
        }
    }
    Ok(linked)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_bindings_are_of_this_contract() {
        let contract: String = crate::plugin_build::wit::FILES
            .iter()
            .map(|(_, text)| *text)
            .collect();
        assert!(
            contract == include_str!("bindings/contract.txt"),
            "wit/ has changed: cargo run --manifest-path runtime/c-bindings/Cargo.toml"
        );
    }
}
