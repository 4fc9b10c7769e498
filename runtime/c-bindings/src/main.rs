//! Writes what `wit-bindgen-c` makes of `wit/` to `runtime/src/plugin_build/bindings`.

use std::error::Error;
use std::path::Path;

use wit_bindgen_core::wit_parser::Resolve;
use wit_bindgen_core::{Files, WorldGenerator as _};

fn main() -> Result<(), Box<dyn Error>> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let wit = package.join("../../wit");
    let out = package.join("../src/plugin_build/bindings");
    std::fs::create_dir_all(&out)?;
    for world in ["connector", "reconnect-policy"] {
        let mut resolve = Resolve::default();
        let (package, _files) = resolve.push_dir(&wit)?;
        let world = resolve.select_world(&[package], Some(world))?;
        let mut files = Files::default();
        wit_bindgen_c::Opts::default()
            .build()
            .generate(&mut resolve, world, &mut files)?;
        for (name, bytes) in files.iter() {
            std::fs::write(out.join(name), bytes)?;
        }
    }
    // What they were made of: a test compares it with the contract inside the binary.
    let mut contract = Vec::new();
    for name in [
        "connector.wit",
        "host.wit",
        "reconnect-policy.wit",
        "types.wit",
    ] {
        contract.extend(std::fs::read(wit.join(name))?);
    }
    std::fs::write(out.join("contract.txt"), contract)?;
    Ok(())
}
