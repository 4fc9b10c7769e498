//! What a component's imports ask for, as keys of the configuration that grant it.

/// A grant that a component may make use of. Run-times of languages import more than their plugins use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// The key that grants it, or the word that it is granted to nobody.
    pub grant: &'static str,
    /// What it has without that key.
    pub otherwise: &'static str,
    /// The imports that ask for it.
    pub imports: Vec<String>,
}

/// Interface, key, and what holds without it.
const GRANTS: [(&[&str], &str, &str); 7] = [
    (
        &["moorline:edge/streams"],
        "[[connector.connection]] stream",
        "no stream",
    ),
    (
        &["moorline:edge/clock", "wasi:clocks/wall-clock"],
        "[connector.grants] wall_clock",
        "granted",
    ),
    (
        &["wasi:cli/environment"],
        "[connector.grants] environment",
        "no variable",
    ),
    (
        &["wasi:filesystem/preopens", "wasi:filesystem/types"],
        "[connector.grants] directories, writable_directories",
        "no directory",
    ),
    (
        &[
            "wasi:sockets/tcp",
            "wasi:sockets/tcp-create-socket",
            "wasi:sockets/ip-name-lookup",
        ],
        "[connector.grants] tcp",
        "no connection",
    ),
    (
        &["wasi:http/outgoing-handler"],
        "[connector.grants] http",
        "no request",
    ),
    (
        &["wasi:sockets/udp", "wasi:sockets/udp-create-socket"],
        "none",
        "UDP is granted to nobody",
    ),
];

/// What these imports ask for.
#[must_use]
pub fn wants(imports: &[String]) -> Vec<Want> {
    let of = |interfaces: &[&str]| -> Vec<String> {
        let asks = |import: &&String| {
            let name = import.split('@').next().unwrap_or(import);
            interfaces.contains(&name)
        };
        imports.iter().filter(asks).cloned().collect()
    };
    GRANTS
        .iter()
        .map(|(interfaces, grant, otherwise)| Want {
            grant,
            otherwise,
            imports: of(interfaces),
        })
        .filter(|want| !want.imports.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_told_as_the_keys_that_grant_them() {
        let imports = [
            "moorline:edge/log@0.1.0",
            "moorline:edge/clock@0.1.0",
            "wasi:clocks/wall-clock@0.2.6",
            "wasi:clocks/monotonic-clock@0.2.6",
            "wasi:sockets/tcp@0.2.6",
        ]
        .map(str::to_owned);
        let wants = wants(&imports);
        let told: Vec<_> = wants
            .iter()
            .map(|want| (want.grant, want.imports.len()))
            .collect();
        assert_eq!(
            told,
            [
                ("[connector.grants] wall_clock", 2),
                ("[connector.grants] tcp", 1)
            ]
        );
    }
}
