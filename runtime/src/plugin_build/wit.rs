//! The contract, inside the binary: every language is built against the very worlds this Moorline speaks.

use std::io;
use std::path::Path;

use crate::plugins::Kind;

/// The files of `wit/`.
pub(crate) const FILES: [(&str, &str); 4] = [
    ("connector.wit", include_str!("../../../wit/connector.wit")),
    ("host.wit", include_str!("../../../wit/host.wit")),
    (
        "reconnect-policy.wit",
        include_str!("../../../wit/reconnect-policy.wit"),
    ),
    ("types.wit", include_str!("../../../wit/types.wit")),
];

/// The version of the contract.
pub(super) fn version() -> Option<&'static str> {
    let (_, types) = FILES.last()?;
    let package = types.lines().next()?.strip_suffix(';')?;
    package.split_once('@').map(|(_, version)| version)
}

/// The world of a kind.
pub(super) const fn world(kind: Kind) -> &'static str {
    kind.name()
}

/// Writes the contract to `directory`.
pub(crate) fn write(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    FILES
        .iter()
        .try_for_each(|(name, text)| std::fs::write(directory.join(name), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_the_contract_is_inside() {
        let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
        let mut names: Vec<String> = std::fs::read_dir(wit)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| name.ends_with(".wit"))
            .collect();
        names.sort_unstable();
        assert_eq!(names, FILES.map(|(name, _)| name));
    }
}
