//! `moorline plugin new`: the beginning of a plugin, from templates inside the binary.
//!
//! A Rust plugin gets the SDK of this Moorline as source, so that it builds without a clone of the repository.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::plugin_build::{Language, check_name, stem, wit};
use crate::plugins::Kind;

/// Why no plugin was made.
#[derive(Debug, Error)]
pub enum NewError {
    /// The directory's name cannot be a plugin's.
    #[error("{0:?} cannot be a plugin's name: it {1}")]
    Name(String, &'static str),
    /// Something is there already.
    #[error("{0} is there already; nothing was written")]
    Exists(PathBuf),
    /// A file could not be written.
    #[error("{0} cannot be written: {1}")]
    File(PathBuf, #[source] io::Error),
}

type Template = (&'static str, &'static str);

macro_rules! template {
    ($name:literal) => {
        template!($name, $name)
    };
    ($name:literal, $path:literal) => {
        ($name, include_str!(concat!("../templates/", $path)))
    };
}

macro_rules! sdk {
    ($name:literal) => {
        (
            concat!("sdk/plugin-sdk/src/", $name),
            include_str!(concat!("../../plugin-sdk/src/", $name)),
        )
    };
}

const SDK: [Template; 7] = [
    template!("sdk/plugin-sdk/Cargo.toml", "rust/sdk.toml"),
    sdk!("bindings.rs"),
    sdk!("configuration.rs"),
    sdk!("fake_host.rs"),
    sdk!("host.rs"),
    sdk!("lib.rs"),
    sdk!("policy.rs"),
];

fn templates(language: Language, kind: Kind) -> Vec<Template> {
    let own: &[Template] = match (language, kind) {
        (Language::Rust, Kind::Connector) => &[
            template!("Cargo.toml", "rust/Cargo.toml"),
            template!("src/lib.rs", "rust/connector.rs"),
        ],
        (Language::Rust, Kind::Policy) => &[
            template!("Cargo.toml", "rust/Cargo.toml"),
            template!("src/lib.rs", "rust/policy.rs"),
        ],
        (Language::Python, Kind::Connector) => &[
            template!("connector.py", "python/connector.py"),
            template!("device.py", "python/device.py"),
            template!("test_device.py", "python/test_device.py"),
        ],
        (Language::Python, Kind::Policy) => &[
            template!("policy.py", "python/policy.py"),
            template!("waits.py", "python/waits.py"),
            template!("test_waits.py", "python/test_waits.py"),
        ],
        (Language::Javascript, Kind::Connector) => &[
            template!("package.json", "javascript/package.json"),
            template!("connector.js", "javascript/connector.js"),
            template!("device.js", "javascript/device.js"),
            template!("device.test.js", "javascript/device.test.js"),
        ],
        (Language::Javascript, Kind::Policy) => &[
            template!("package.json", "javascript/package.json"),
            template!("policy.js", "javascript/policy.js"),
            template!("waits.js", "javascript/waits.js"),
            template!("waits.test.js", "javascript/waits.test.js"),
        ],
        (Language::C, Kind::Connector) => &[
            template!("connector.c", "c/connector.c"),
            template!("device.c", "c/device.c"),
            template!("device.h", "c/device.h"),
            template!("test_device.c", "c/test_device.c"),
            template!("json.c", "../../plugins/modbus-registers/json.c"),
            template!("json.h", "../../plugins/modbus-registers/json.h"),
        ],
        (Language::C, Kind::Policy) => &[
            template!("policy.c", "c/policy.c"),
            template!("waits.c", "c/waits.c"),
            template!("waits.h", "c/waits.h"),
            template!("test_waits.c", "c/test_waits.c"),
            template!("json.c", "../../plugins/modbus-registers/json.c"),
            template!("json.h", "../../plugins/modbus-registers/json.h"),
        ],
    };
    let mut all = own.to_vec();
    all.push(template!(".gitignore", "common/gitignore"));
    all.extend(match kind {
        Kind::Connector => [
            template!("test.toml", "common/connector.test.toml"),
            template!("gateway.toml", "common/connector.gateway.toml"),
        ],
        Kind::Policy => [
            template!("test.toml", "common/policy.test.toml"),
            template!("gateway.toml", "common/policy.gateway.toml"),
        ],
    });
    if language == Language::Rust {
        all.extend(SDK);
    } else {
        all.push(template!("plugin.toml", "common/plugin.toml"));
    }
    all
}

/// Writes the plugin; says which files.
///
/// # Errors
/// When `directory` exists, has a name that no plugin can have, or cannot be written.
pub fn create(directory: &Path, language: Language, kind: Kind) -> Result<Vec<PathBuf>, NewError> {
    let name = directory
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    check_name(&name).map_err(|why| NewError::Name(name.clone(), why))?;
    if directory.exists() {
        return Err(NewError::Exists(directory.to_owned()));
    }
    let built = format!("{}.wasm", name.replace('-', "_"));
    let component = match language {
        Language::Rust => format!("target/plugins/{built}"),
        Language::Python | Language::Javascript | Language::C => format!("build/{built}"),
    };
    let limits = match language {
        // CPython alone has some 20 MiB.
        Language::Python => "memory_bytes_max = 67108864\n",
        Language::Rust | Language::Javascript | Language::C => "",
    };
    let fill = |text: &str| {
        text.replace("{{name}}", &name)
            .replace("{{component}}", &component)
            .replace("{{limits}}", limits)
            .replace("{{language}}", &language.name().to_lowercase())
            .replace("{{kind}}", stem(kind))
            .replace("{{version}}", env!("CARGO_PKG_VERSION"))
    };
    let mut written = Vec::new();
    let mut write = |path: &str, text: &str| {
        let path = directory.join(path);
        let put = || {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            std::fs::write(&path, fill(text))
        };
        put().map_err(|error| NewError::File(path.clone(), error))?;
        written.push(path);
        Ok(())
    };
    for (path, text) in templates(language, kind) {
        write(path, text)?;
    }
    if language == Language::Rust {
        for (path, text) in wit::FILES {
            write(&format!("sdk/wit/{path}"), text)?;
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a configuration expects its only plugin.
    fn component_of(gateway: &Path, kind: Kind) -> String {
        let text = std::fs::read_to_string(gateway).unwrap();
        let table: toml::Table = text.parse().unwrap();
        let plugin = match kind {
            Kind::Connector => &table["connector"][0],
            Kind::Policy => &table["policy"],
        };
        plugin["component"].as_str().unwrap().to_owned()
    }

    #[test]
    fn every_template_is_filled_and_nothing_is_overwritten() {
        let place = tempfile::tempdir().unwrap();
        for language in Language::ALL {
            for kind in [Kind::Connector, Kind::Policy] {
                let name = format!("try-{}-{}", language.name().to_lowercase(), stem(kind));
                let directory = place.path().join(&name);
                let written = create(&directory, language, kind).unwrap();
                for path in &written {
                    let text = std::fs::read_to_string(path).unwrap();
                    assert!(
                        !text.contains("{{name}}") && !text.contains("{{component}}"),
                        "{path:?}"
                    );
                }
                let gateway = directory.join("gateway.toml");
                // A policy that cannot be read is a finding, as soon as the file is loaded.
                let component = directory.join(component_of(&gateway, kind));
                std::fs::create_dir_all(component.parent().unwrap()).unwrap();
                std::fs::write(&component, "").unwrap();
                crate::config::load(&gateway).unwrap();
                assert!(matches!(
                    create(&directory, language, kind),
                    Err(NewError::Exists(_))
                ));
            }
        }
        let refused = create(&place.path().join("Bad_Name"), Language::C, Kind::Policy);
        assert!(matches!(refused, Err(NewError::Name(..))));
    }

    #[test]
    fn all_of_the_sdk_is_inside() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin-sdk/src");
        assert_eq!(std::fs::read_dir(source).unwrap().count(), SDK.len() - 1);
    }
}
