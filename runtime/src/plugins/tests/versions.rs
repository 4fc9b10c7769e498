//! Components of other versions of the contract than the present one.
//!
//! `tests/data` holds components that were built against the first version. Names of one length are exchanged in them for
//! those of other versions, which is all a version is to a component.

use std::path::Path;

use moorline_core::swap::{Failure, Reason};
use moorline_core::trust::Settings;

use super::gateway::{Plan, assert_gapless};
use crate::plugins::{self, Inspection, SwapOutcome};

/// A guest as it was built against 0.1.0.
fn first(name: &str) -> Vec<u8> {
    let file = format!("../tests/data/{name}-0.1.0.wasm");
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// The component with another name everywhere.
fn renamed(mut component: Vec<u8>, names: &[(&str, &str)]) -> Vec<u8> {
    let mut places = Vec::new();
    for (from, to) in names {
        assert_eq!(from.len(), to.len());
        let found = component.windows(from.len()).enumerate();
        let found = found.filter(|(_, window)| *window == from.as_bytes());
        let before = places.len();
        places.extend(found.map(|(at, _)| (at, to.as_bytes().to_vec())));
        assert!(places.len() > before, "{from} is not in it");
    }
    for (at, to) in places {
        component[at..at + to.len()].copy_from_slice(&to);
    }
    component
}

async fn inspected(bytes: &[u8]) -> Result<Inspection, Failure> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("guest.wasm");
    std::fs::write(&path, bytes).unwrap();
    plugins::inspect(&path, &Settings::default()).await
}

#[track_caller]
fn assert_wrong(result: Result<Inspection, Failure>, words: &[&str]) {
    let failure = result.unwrap_err();
    assert_eq!(failure.reason, Reason::WrongWorld, "{failure}");
    for words in words {
        assert!(failure.detail.contains(words), "{words:?} not in {failure}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn components_of_the_first_version_run() {
    let plan = Plan::new()
        .connector("line", &first("connector"))
        .policy(&first("policy"));
    let mut gateway = plan.start().await;
    for _ in ["line", "policy"] {
        assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Loaded);
    }
    assert_gapless(&gateway.count("dev-line", 20).await, 1);
    gateway.ask("dev-line", 1, "now").await;
    assert!(gateway.reply(1).await.parse::<i64>().unwrap() > 0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_patch_of_the_same_version_runs_too() {
    let later = renamed(first("connector"), &[("@0.1.0", "@0.1.7")]);
    assert_eq!(inspected(&later).await.unwrap().contract, "0.1");
    let mut gateway = Plan::new().connector("line", &later).start().await;
    assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Loaded);
    assert_gapless(&gateway.count("dev-line", 20).await, 1);
    gateway.stop().await;
    let later = renamed(first("policy"), &[("@0.1.0", "@0.1.7")]);
    assert_eq!(inspected(&later).await.unwrap().contract, "0.1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_named_with_both_versions_and_a_remedy() {
    for guest in ["connector", "policy"] {
        let newer = renamed(first(guest), &[("@0.1.0", "@0.9.0")]);
        let exported = format!("it exports moorline:edge/{guest}-guest@0.9.0");
        let spoken = format!("speaks moorline:edge/{guest}-guest 0.1");
        let words = [exported.as_str(), &spoken, "use a gateway that speaks 0.9"];
        assert_wrong(inspected(&newer).await, &words);
    }
    let unknown = renamed(
        first("connector"),
        &[("moorline:edge/state@", "moorline:edge/stats@")],
    );
    let words = ["imports moorline:edge/stats@0.1.0", "does not know"];
    assert_wrong(inspected(&unknown).await, &words);
    // Both have the right names, and each has the other's functions.
    let exchanged = renamed(
        first("connector"),
        &[
            ("moorline:edge/state@", "moorline:edge/clock@"),
            ("moorline:edge/clock@", "moorline:edge/state@"),
        ],
    );
    let words = [
        "moorline:edge/",
        "other types",
        "0.1.1",
        "rebuild the plugin",
    ];
    assert_wrong(inspected(&exchanged).await, &words);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inspection_tells_which_tools_made_a_component() {
    let inspection = inspected(&first("connector")).await.unwrap();
    assert!(
        inspection.tools.iter().any(|tool| tool.starts_with("Rust")),
        "{:?}",
        inspection.tools
    );
    assert_eq!(inspection.signature.unwrap_err().reason, Reason::Unsigned);
    assert!(inspection.uncalled.is_empty());
}
