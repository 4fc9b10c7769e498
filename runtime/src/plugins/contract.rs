//! The versions of the contract (`wit/`) that this host speaks, and which of them a component was made for.
//!
//! ```text
//!  component_type().exports()                        Contract        bindings
//!  moorline:edge/connector-guest@0.1.0, @0.1.7, … ──► V0_1 ─────────► bindings::connector
//!  moorline:edge/connector-guest@0.9.0 ────────────► none: refused, with both versions and what to do
//! ```
//!
//! Semantic versioning, as the component model reads it: of versions below 1 those fit each other that share the minor
//! (0.1.0, 0.1.7), and a minor is a contract of its own, with bindings of its own. A contract that was shipped stays in
//! [`Contract::ALL`]. Within one, interfaces are only added: a host that is newer than its guest has what the guest
//! imports, and finds by its presence what it exports beyond the first version.

use std::fmt;
use std::str::FromStr;

use moorline_core::swap::{Failure, Reason};
use semver::Version;

use super::engine::Kind;

const PACKAGE: &str = "moorline:edge/";
/// What this gateway is called where somebody is told to take another.
const GATEWAY: &str = concat!("Moorline ", env!("CARGO_PKG_VERSION"));

/// A version of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contract {
    /// The first.
    V0_1,
}

impl Contract {
    /// All that were shipped, the newest last.
    const ALL: [Self; 1] = [Self::V0_1];

    /// The newest version of it that this host knows.
    const fn newest(self) -> Version {
        match self {
            Self::V0_1 => Version::new(0, 1, 1),
        }
    }

    /// The interfaces of `moorline:edge` that a guest may import.
    const fn imports(self, kind: Kind) -> &'static [&'static str] {
        match (self, kind) {
            (Self::V0_1, Kind::Connector) => &[
                "types",
                "telemetry",
                "series",
                "devices",
                "rpc",
                "streams",
                "log",
                "clock",
                "state",
            ],
            // What a policy may know is in the question.
            (Self::V0_1, Kind::Policy) => &[],
        }
    }

    fn of(version: &Version) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|contract| fit(&contract.newest(), version))
    }
}

impl fmt::Display for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&track(&self.newest()))
    }
}

/// Whether one may stand for the other.
const fn fit(a: &Version, b: &Version) -> bool {
    a.major == b.major && (a.major > 0 || a.minor == b.minor)
}

/// The part of a version that must be the same.
fn track(version: &Version) -> String {
    match version.major {
        0 => format!("0.{}", version.minor),
        major => major.to_string(),
    }
}

/// All that this host speaks, for messages.
fn spoken() -> String {
    let all: Vec<_> = Contract::ALL.iter().map(ToString::to_string).collect();
    all.join(", ")
}

/// What every guest of this kind exports.
const fn guest_interface(kind: Kind) -> &'static str {
    match kind {
        Kind::Connector => "connector-guest",
        Kind::Policy => "policy-guest",
    }
}

/// `moorline:edge/INTERFACE@VERSION`, taken apart. A name without a version, or with one that is none, has none.
fn ours(name: &str) -> Option<(&str, Option<Version>)> {
    let rest = name.strip_prefix(PACKAGE)?;
    let (interface, version) = rest.split_once('@').unwrap_or((rest, ""));
    Some((interface, Version::from_str(version).ok()))
}

fn wrong(detail: impl Into<String>) -> Failure {
    Failure::new(Reason::WrongWorld, detail)
}

/// The kind of guest that exports these, whatever its version.
pub(crate) fn kind_of(exports: &[String]) -> Option<Kind> {
    let exported = |kind: &Kind| {
        exports
            .iter()
            .filter_map(|name| ours(name))
            .any(|(interface, _)| interface == guest_interface(*kind))
    };
    [Kind::Connector, Kind::Policy].into_iter().find(exported)
}

/// The contract that a guest of this kind was made for.
///
/// # Errors
/// When it is of another kind, or of a version this host does not speak.
pub(crate) fn of_exports(exports: &[String], kind: Kind) -> Result<Contract, Failure> {
    let wanted = guest_interface(kind);
    let found = exports
        .iter()
        .find_map(|name| ours(name).filter(|(interface, _)| *interface == wanted));
    let Some((_, version)) = found else {
        return Err(wrong(match kind_of(exports) {
            Some(other) => format!(
                "it is a {}; world {} needs the export {PACKAGE}{wanted}",
                other.words(),
                kind.name()
            ),
            None => format!(
                "it does not export {PACKAGE}{wanted}, but [{}]",
                exports.join(", ")
            ),
        }));
    };
    let Some(version) = version else {
        let why = format!("it exports {PACKAGE}{wanted} without a version");
        return Err(wrong(format!("{why}; {}", rebuild())));
    };
    Contract::of(&version).ok_or_else(|| wrong(not_spoken("exports", wanted, &version)))
}

/// Whether the contract has an import of our package.
///
/// # Errors
/// When it has none of this name, or of another version.
pub(crate) fn check_import(import: &str, kind: Kind, contract: Contract) -> Result<(), Failure> {
    let world = kind.name();
    let has = contract.imports(kind);
    if has.is_empty() {
        return Err(wrong(format!(
            "it imports {import}; a {} may import nothing",
            kind.words()
        )));
    }
    let Some((interface, version)) = ours(import) else {
        return Err(wrong(format!(
            "it imports {import}, which world {world} does not grant"
        )));
    };
    let version = version.unwrap_or_else(|| contract.newest());
    if !fit(&version, &contract.newest()) {
        return Err(wrong(not_spoken("imports", interface, &version)));
    }
    if !has.contains(&interface) {
        let newest = contract.newest();
        let advice = if version > newest {
            format!("use a gateway that speaks {version}; {GATEWAY} speaks {newest}")
        } else {
            format!("world {world} {newest} has {}", has.join(", "))
        };
        return Err(wrong(format!(
            "it imports {import}, which {GATEWAY} does not know; {advice}"
        )));
    }
    Ok(())
}

/// Which exports of our package nobody here calls: hooks of a newer version.
pub(crate) fn uncalled(exports: &[String]) -> impl Iterator<Item = &String> {
    let called = [Kind::Connector, Kind::Policy].map(guest_interface);
    exports
        .iter()
        .filter(move |name| ours(name).is_some_and(|(interface, _)| !called.contains(&interface)))
}

fn not_spoken(verb: &str, interface: &str, version: &Version) -> String {
    let newer = Contract::ALL.iter().all(|known| known.newest() < *version);
    let advice = if newer {
        format!(
            "use a gateway that speaks {}, or {}",
            track(version),
            rebuild()
        )
    } else {
        rebuild()
    };
    format!(
        "it {verb} {PACKAGE}{interface}@{version}, and {GATEWAY} speaks {PACKAGE}{interface} {}; {advice}",
        spoken()
    )
}

fn rebuild() -> String {
    format!("rebuild the plugin with the plugin-sdk or the wit/ of {GATEWAY}")
}

/// What it means that the names fit and the types do not.
pub(crate) fn explain_types(failure: Failure) -> Failure {
    if failure.reason != Reason::WrongWorld {
        return failure;
    }
    let versions: Vec<_> = Contract::ALL
        .iter()
        .map(|contract| contract.newest().to_string())
        .collect();
    wrong(format!(
        "an interface has the right name and other types: {}. This gateway has {PACKAGE} {}; {}",
        failure.detail,
        versions.join(", "),
        rebuild()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exports(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[track_caller]
    fn assert_says<T: fmt::Debug>(result: Result<T, Failure>, words: &[&str]) {
        let failure = result.unwrap_err();
        assert_eq!(failure.reason, Reason::WrongWorld);
        for words in words {
            assert!(failure.detail.contains(words), "{words:?} not in {failure}");
        }
    }

    #[test]
    fn a_version_that_fits_is_found_and_one_that_does_not_is_named_with_a_remedy() {
        let made_for = |version: &str| {
            let name = format!("moorline:edge/connector-guest@{version}");
            of_exports(&[name], Kind::Connector)
        };
        for version in ["0.1.0", "0.1.7"] {
            assert_eq!(made_for(version), Ok(Contract::V0_1));
        }
        let newer = [
            "connector-guest@0.9.0",
            "speaks moorline:edge/connector-guest 0.1",
            "use a gateway that speaks 0.9",
        ];
        assert_says(made_for("0.9.0"), &newer);
        assert_says(
            made_for("1.0.0"),
            &["use a gateway that speaks 1", "rebuild"],
        );
        let older = made_for("0.0.3").unwrap_err();
        assert!(!older.detail.contains("use a gateway"), "{older}");
        assert!(older.detail.contains("rebuild the plugin"), "{older}");
        assert_says(made_for("first"), &["without a version"]);
    }

    #[test]
    fn a_component_of_another_world_is_named() {
        let policy = exports(&["moorline:edge/policy-guest@0.1.0"]);
        assert_says(
            of_exports(&policy, Kind::Connector),
            &["it is a reconnect policy"],
        );
        assert_eq!(of_exports(&policy, Kind::Policy), Ok(Contract::V0_1));
        let alien = exports(&["wasi:cli/run@0.2.0"]);
        assert_says(
            of_exports(&alien, Kind::Connector),
            &["[wasi:cli/run@0.2.0]"],
        );
    }

    #[test]
    fn an_import_is_known_or_named() {
        let check = |import| check_import(import, Kind::Connector, Contract::V0_1);
        for known in ["moorline:edge/log@0.1.0", "moorline:edge/log@0.1.7"] {
            assert_eq!(check(known), Ok(()));
        }
        let newer = [
            "imports moorline:edge/telemetry@0.2.0",
            "use a gateway that speaks 0.2",
        ];
        assert_says(check("moorline:edge/telemetry@0.2.0"), &newer);
        let unknown = [
            "imports moorline:edge/firmware@0.1.0",
            "has types, telemetry, series",
        ];
        assert_says(check("moorline:edge/firmware@0.1.0"), &unknown);
        let later = ["use a gateway that speaks 0.1.4"];
        assert_says(check("moorline:edge/firmware@0.1.4"), &later);
        assert_says(check("env"), &["does not grant"]);
        let curious = check_import("moorline:edge/log@0.1.0", Kind::Policy, Contract::V0_1);
        assert_says(curious, &["may import nothing"]);
    }

    #[test]
    fn a_hook_of_a_newer_version_does_no_harm() {
        let exports = exports(&[
            "moorline:edge/connector-guest@0.1.4",
            "moorline:edge/health-guest@0.1.4",
        ]);
        assert_eq!(of_exports(&exports, Kind::Connector), Ok(Contract::V0_1));
        let hooks: Vec<_> = uncalled(&exports).collect();
        assert_eq!(hooks, ["moorline:edge/health-guest@0.1.4"]);
    }
}
