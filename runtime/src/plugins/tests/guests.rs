//! The scripted guests: built once, patched per test.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::plugin_build::{BuildOptions, BuiltPlugin, Toolchain, build_many};
use crate::plugins::{self, Inspection, Kind};

/// The scripts' length in `tests/guests`.
const SCRIPT_BYTES: usize = 128;
const MARK: &[u8] = b"SCRIPT:";

struct Guests {
    connector: Vec<u8>,
    policy: Vec<u8>,
    reaching: Vec<u8>,
}

fn build(toolchain: Toolchain, out: &Path) -> Vec<BuiltPlugin> {
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/guests");
    let crates: Vec<PathBuf> = [
        "scripted-connector",
        "scripted-policy",
        "reaching-connector",
    ]
    .iter()
    .map(|name| guests.join(name))
    .collect();
    let options = BuildOptions {
        toolchain,
        out: Some(out.to_owned()),
    };
    build_many(&crates, &options, &mut |_progress| {}).unwrap()
}

fn guests() -> &'static Guests {
    static GUESTS: OnceLock<Guests> = OnceLock::new();
    GUESTS.get_or_init(|| {
        let out = tempfile::tempdir().unwrap();
        let built = build(Toolchain::Auto, out.path());
        let read = |index: usize| std::fs::read(&built[index].path).unwrap();
        Guests {
            connector: read(0),
            policy: read(1),
            reaching: read(2),
        }
    })
}

/// The component with another script in it.
fn patched(component: &[u8], script: &str) -> Vec<u8> {
    let mut blank = MARK.to_vec();
    blank.resize(SCRIPT_BYTES, b' ');
    let mut written = [MARK, script.as_bytes()].concat();
    assert!(written.len() <= SCRIPT_BYTES, "{script} is too long");
    written.resize(SCRIPT_BYTES, b' ');
    let at = component
        .windows(SCRIPT_BYTES)
        .position(|window| window == blank)
        .unwrap();
    let mut patched = component.to_vec();
    patched[at..at + SCRIPT_BYTES].copy_from_slice(&written);
    patched
}

/// `scripted-connector` that does what `script` says. Words it does not know only make it another build.
pub(super) fn connector(script: &str) -> Vec<u8> {
    patched(&guests().connector, script)
}

/// The same with other bytes in place of the text `from`, of the same length.
pub(super) fn garbled(component: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut windows = component.windows(from.len());
    let at = windows.position(|window| window == from).unwrap();
    let mut garbled = component.to_vec();
    garbled[at..at + to.len()].copy_from_slice(to);
    garbled
}

/// `reaching-connector`.
pub(super) fn reaching() -> Vec<u8> {
    guests().reaching.clone()
}

/// `scripted-policy` that does what `script` says.
pub(super) fn policy(script: &str) -> Vec<u8> {
    patched(&guests().policy, script)
}

/// Looked at by somebody who trusts no key.
async fn inspect(path: &Path) -> Result<Inspection, moorline_core::swap::Failure> {
    plugins::inspect(path, &moorline_core::trust::Settings::default()).await
}

fn has(names: &[String], interface: &str) -> bool {
    names
        .iter()
        .any(|name| name == &format!("moorline:edge/{interface}@0.1.1"))
}

fn assert_scripted_connector(card: &Inspection) {
    assert_eq!(card.kind, Kind::Connector);
    assert_eq!(
        (card.name.as_str(), card.version.as_str()),
        ("scripted", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(card.configuration_schema, "{}");
    assert_eq!(card.hand_over_schema, Some(1));
    assert!(has(&card.exports, "connector-guest"), "{:?}", card.exports);
    assert!(has(&card.imports, "telemetry"), "{:?}", card.imports);
    // What it can reach is the contract and nothing else.
    assert!(
        card.imports
            .iter()
            .all(|name| name.starts_with("moorline:edge/")),
        "{:?}",
        card.imports
    );
}

fn assert_scripted_policy(card: &Inspection) {
    assert_eq!(card.kind, Kind::Policy);
    assert_eq!(card.name, "scripted");
    assert_eq!(card.hand_over_schema, None);
    assert_eq!(card.configuration_schema, "{}");
    assert_eq!(card.imports, Vec::<String>::new());
    assert!(has(&card.exports, "policy-guest"), "{:?}", card.exports);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_tells_what_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("guest.wasm");
    let bytes = connector("");
    std::fs::write(&path, &bytes).unwrap();
    let card = inspect(&path).await.unwrap();
    assert_scripted_connector(&card);
    assert_eq!(card.bytes, bytes.len() as u64);

    std::fs::write(&path, policy("")).unwrap();
    assert_scripted_policy(&inspect(&path).await.unwrap());

    std::fs::write(&path, connector("describe:trap")).unwrap();
    let failure = inspect(&path).await.unwrap_err();
    assert_eq!(failure.reason, moorline_core::swap::Reason::Trapped);

    let missing = inspect(&directory.path().join("missing.wasm"))
        .await
        .unwrap_err();
    assert_eq!(missing.reason, moorline_core::swap::Reason::Unreadable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_with_a_name_that_is_too_long_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("guest.wasm");
    for long in [connector("describe:long"), policy("describe:long")] {
        std::fs::write(&path, long).unwrap();
        let failure = inspect(&path).await.unwrap_err();
        assert_eq!(failure.reason, moorline_core::swap::Reason::Refused);
        assert!(
            failure.detail.contains("the name has 257 bytes"),
            "{failure}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Debian's rustc-web, and compiles the standard library: minutes"]
async fn the_distributions_compiler_builds_the_same_guests() {
    let out = tempfile::tempdir().unwrap();
    let built = build(Toolchain::Distribution, out.path());
    assert_scripted_connector(&inspect(&built[0].path).await.unwrap());
    assert_scripted_policy(&inspect(&built[1].path).await.unwrap());
}
