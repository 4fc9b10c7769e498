//! Whom components come from, and whether they may follow what served.

use std::path::{Path, PathBuf};

use moorline_core::swap::{Reason, Step};
use moorline_core::trust::{Claim, Origin, Policy, Settings, TrustedKey};

use super::gateway::{Gateway, Plan, assert_gapless};
use super::guests::{connector, policy};
use crate::plugins::{OrderEnd, SwapOutcome, SwapRecord, Until, digest_of};
use crate::trust::{Place, SecretKey, signature_path};

pub(super) fn trusting(policy: Policy, key: &SecretKey) -> Settings {
    Settings {
        policy,
        keys: vec![TrustedKey {
            name: "plant".into(),
            key: key.public(),
        }],
        allow_downgrade: false,
    }
}

/// A signature as `moorline plugin sign` makes it.
pub(super) fn signature(key: &SecretKey, bytes: &[u8], version: &str) -> String {
    let claim = Claim {
        name: Some("scripted".to_owned()),
        version: Some(version.to_owned()),
        sha256: Some(digest_of(bytes).hex()),
    };
    key.sign(bytes, claim.comment("line.wasm", 1)).file()
}

pub(super) fn put(component: &Path, signature: &str) {
    std::fs::write(signature_path(component), signature).unwrap();
}

/// A plan whose connector `line` is signed with `key`.
fn signed(policy: Policy, key: &SecretKey) -> Plan {
    let first = connector("");
    let mut plan = Plan::new().connector("line", &first);
    plan.settings.trust = trusting(policy, key);
    put(&path(&plan), &signature(key, &first, VERSION));
    plan
}

fn path(plan: &Plan) -> PathBuf {
    plan.settings.connectors[0].component.clone()
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[track_caller]
fn assert_refused(record: &SwapRecord, step: Step, reason: Reason, words: &str) {
    let SwapOutcome::Refused(at, failure) = &record.outcome else {
        panic!("{record:?}");
    };
    assert_eq!((*at, failure.reason), (step, reason), "{failure}");
    assert!(failure.detail.contains(words), "{failure}");
}

fn origin(gateway: &Gateway) -> Origin {
    gateway.status.borrow().connectors[0]
        .component
        .origin
        .clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_a_trusted_key_has_signed_takes_over() {
    let (key, stranger) = (
        SecretKey::generate().unwrap(),
        SecretKey::generate().unwrap(),
    );
    let mut gateway = signed(Policy::Require, &key).start().await;
    assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Loaded);
    assert!(matches!(origin(&gateway), Origin::Signed(signer) if &*signer.name == "plant"));
    let line = gateway.component("line");

    let second = connector("second");
    gateway.replace("line", &second);
    // The signature that lies there is of the build before.
    let words = "has not signed these bytes";
    let record = gateway.concluded().await;
    assert_refused(&record, Step::Compile, Reason::BadSignature, words);
    put(&line, &signature(&stranger, &second, VERSION));
    let record = gateway.concluded().await;
    let words = "trusted are plant";
    assert_refused(&record, Step::Compile, Reason::UnknownKey, words);
    std::fs::remove_file(signature_path(&line)).unwrap();
    let record = gateway.concluded().await;
    assert_refused(
        &record,
        Step::Compile,
        Reason::Unsigned,
        "line.wasm.minisig",
    );
    put(&line, &signature(&key, &second, "9.9.9"));
    let record = gateway.concluded().await;
    let words = "meant version 9.9.9, and this is 0.1.0";
    assert_refused(&record, Step::Warm, Reason::BadSignature, words);

    let before = gateway.count("dev-line", 5).await.len();
    let status = gateway.status.borrow().clone();
    assert_eq!(
        status.connectors[0].component.active.unwrap().generation.0,
        1
    );
    assert!(status.connectors[0].component.refused.is_some());

    put(&line, &signature(&key, &second, VERSION));
    assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Swapped);
    let numbers = gateway.count("dev-line", 5).await;
    assert!(numbers.len() > before);
    assert_gapless(&numbers, 1);
    gateway.stop().await;
}

/// The usual race: a component is copied, and its signature after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_waits_for_its_signature_also_at_the_start() {
    let key = SecretKey::generate().unwrap();
    let mut plan = signed(Policy::Require, &key);
    std::fs::remove_file(signature_path(&path(&plan))).unwrap();
    let guest = policy("");
    plan = plan.policy(&guest);
    let mut gateway = plan.start().await;
    for _ in ["line", "policy"] {
        let record = gateway.concluded().await;
        assert_refused(&record, Step::Compile, Reason::Unsigned, "minisig");
    }
    let first = connector("");
    put(
        &gateway.component("line"),
        &signature(&key, &first, VERSION),
    );
    assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Loaded);
    put(
        &gateway.component("policy"),
        &signature(&key, &guest, VERSION),
    );
    assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Loaded);
    assert_gapless(&gateway.count("dev-line", 5).await, 1);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_policy_only_warns_the_status_says_what_is_doubtful() {
    let key = SecretKey::generate().unwrap();
    let mut gateway = signed(Policy::Warn, &key).start().await;
    gateway.concluded().await;
    assert!(matches!(origin(&gateway), Origin::Signed(_)));
    gateway.replace("line", &connector("second"));
    assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Swapped);
    let Origin::Doubtful(failure) = origin(&gateway) else {
        panic!("{:?}", origin(&gateway));
    };
    assert_eq!(failure.reason, Reason::BadSignature);
    gateway.stop().await;
}

/// What is signed is what is compiled, also when it was compiled before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cache_spares_nobody_the_signature() {
    let key = SecretKey::generate().unwrap();
    let mut gateway = signed(Policy::Warn, &key).start().await;
    gateway.concluded().await;
    gateway.replace("line", &connector("second"));
    assert!(!gateway.concluded().await.cached);
    let mut plan = gateway.stop().await;
    plan.settings.trust.policy = Policy::Require;
    let mut gateway = plan.start().await;
    let record = gateway.concluded().await;
    let words = "has not signed these bytes";
    assert_refused(&record, Step::Compile, Reason::BadSignature, words);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_version_is_refused_also_after_a_restart_until_somebody_allows_it() {
    let mut gateway = Plan::new()
        .connector("line", &connector("version:1.2.0"))
        .start()
        .await;
    assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Loaded);
    gateway.replace("line", &connector("version:1.1.9"));
    let words = "scripted 1.1.9; 1.2.0 served last";
    let record = gateway.concluded().await;
    assert_refused(&record, Step::Warm, Reason::Downgrade, words);
    let newer = connector("version:1.3.0");
    gateway.replace("line", &newer);
    assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Swapped);
    // Until then the older one is what the next start begins with.
    gateway
        .until("the proof", |status| {
            status.connectors[0].component.proved == Some(digest_of(&newer))
        })
        .await;
    gateway.replace("line", &connector("version:1.2.0"));
    let record = gateway.concluded().await;
    assert_refused(&record, Step::Warm, Reason::Downgrade, "1.3.0 served last");
    let plan = gateway.stop().await;

    let mut gateway = plan.start().await;
    let record = gateway.concluded().await;
    assert_refused(&record, Step::Warm, Reason::Downgrade, "1.3.0 served last");
    let place = Place::of(crate::plugins::Kind::Connector, "line");
    let state = gateway.plan.settings.ledger_directory.clone();
    place.give_permit(&state).unwrap();
    assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Loaded);
    let mut plan = gateway.stop().await;
    assert!(!place.permit(&state).exists());

    std::fs::write(path(&plan), connector("version:1.0.0")).unwrap();
    plan.settings.trust.allow_downgrade = true;
    let mut gateway = plan.start().await;
    assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Loaded);
    gateway.stop().await;
}

/// An operator's order to go back is the word that an older version needs; a look at the file brings no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roll_back_by_an_operator_brings_an_older_version_back_with_its_signer() {
    let key = SecretKey::generate().unwrap();
    let (old, new) = (connector("version:1.0.0"), connector("version:2.0.0"));
    let mut plan = Plan::new().connector("line", &old);
    plan.settings.trust = trusting(Policy::Require, &key);
    put(&path(&plan), &signature(&key, &old, "1.0.0"));
    let mut gateway = plan.start().await;
    assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Loaded);
    let line = gateway.component("line");
    put(&line, &signature(&key, &new, "2.0.0"));
    gateway.replace("line", &new);
    let orders = gateway.plugins.swaps();
    let proved = orders.swap("line", false, Until::Proved).await.unwrap();
    assert!(matches!(proved, OrderEnd::Proved(_)), "{proved:?}");
    assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Swapped);

    let back = orders.roll_back("line").await.unwrap();
    let OrderEnd::Concluded(back) = back else {
        panic!("{back:?}");
    };
    assert_eq!(back.outcome, SwapOutcome::Swapped);
    assert_eq!(&*back.version, "1.0.0");
    assert!(matches!(origin(&gateway), Origin::Signed(signer) if &*signer.name == "plant"));
    gateway.stop().await;
}

/// What was rolled back did not serve last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_was_rolled_back_does_not_lock_out_the_one_before() {
    let mut gateway = Plan::new()
        .connector("line", &connector("version:1.0.0"))
        .start()
        .await;
    gateway.concluded().await;
    gateway.count("dev-line", 5).await;
    gateway.replace("line", &connector("version:2.0.0 timer:trap-3"));
    let outcome = gateway.concluded().await.outcome.clone();
    if outcome == SwapOutcome::Swapped {
        let rolled_back = gateway.concluded().await;
        assert!(matches!(rolled_back.outcome, SwapOutcome::RolledBack(..)));
    }
    gateway.replace("line", &connector("version:1.0.1"));
    assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Swapped);
    gateway.stop().await;
}
