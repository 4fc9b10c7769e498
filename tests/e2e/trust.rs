//! A gateway that requires signatures: what nobody signed is refused beside a link that goes on, and the platform is told
//! what serves and who signed it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use moorline_tests::errors::Provoked;
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::rig::Rig;
use moorline_tests::subscriber::{Message, Subscriber};
use moorline_tests::{binary, mosquitto, repository};

const DEADLINE: Duration = Duration::from_secs(30);

fn plugin(directory: &Path, arguments: &[&str]) -> serde_json::Value {
    let output = Command::new(binary())
        .arg("plugin")
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn is_unsigned(error: &str) -> bool {
    error.contains("is not signed")
}

fn of_generation(generation: u64) -> impl Fn(&Message) -> bool {
    move |message| message.json()["connector_sim"]["generation"] == generation
}

#[tokio::test]
async fn only_signed_plugins_serve_and_the_platform_hears_which() {
    let Some(kind) = mosquitto() else { return };
    let rig = Rig::start(kind).await;
    let platform = Subscriber::start(rig.broker.address(), "v1/devices/me/attributes").await;
    let mut place = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
    let directory = place.path().parent().unwrap().to_owned();
    let key = plugin(&directory, &["keygen", "plant", "--no-password"]);
    let sign = ["sign", "simulated.wasm", "--key", "plant.key"];
    plugin(&directory, &sign);
    let line = key["public_key"].as_str().unwrap();
    let configuration = rig
        .configuration()
        .with(&format!("[plugins.trusted_keys]\nplant = \"{line}\""))
        .simulated("sim", place.path(), Some(rig.audit.witness()));
    let mut running = rig.gateway(&configuration);
    running.expect_error(Provoked::CandidateRefused);
    running.flows().await;
    let told = platform
        .first("what serves", DEADLINE, of_generation(1))
        .await
        .json();
    let told = &told["connector_sim"];
    assert_eq!(told["name"], "simulated", "{told}");
    assert_eq!(told["signed_by"], "plant", "{told}");
    assert_eq!(told["key"], key["key_id"], "{told}");
    assert_eq!(told["digest"].as_str().unwrap().len(), 64, "{told}");

    place.put(Guest::SIMULATED);
    running
        .wait("the unsigned build is refused", DEADLINE, |now| {
            let error = now.now.connectors[0].error.clone().unwrap_or_default();
            error.contains("does not fit its signature")
        })
        .await;
    plugin(&directory, &sign);
    running
        .wait("the signed one serves", DEADLINE, |now| {
            let line = &now.now.connectors[0];
            line.error.is_none()
                && line.signature.starts_with("signed by plant")
                && now.swaps().any(|swap| swap.outcome == "swapped")
        })
        .await;
    let generation = running.history().now.connectors[0].generation.unwrap();
    platform
        .first("what serves now", DEADLINE, of_generation(generation))
        .await;
    let (history, _balance) = rig.settle(running).await;
    assert_eq!(history.now.link.sessions, 1);
    assert!(history.swaps().all(|swap| swap.new_sessions == 0));
}

#[test]
fn bytes_behind_what_was_signed_do_not_fit_the_signature() {
    let directory = tempfile::tempdir().unwrap();
    let component = directory.path().join("simulated.wasm");
    std::fs::write(&component, Guest::SIMULATED.bytes()).unwrap();
    let key = plugin(directory.path(), &["keygen", "plant", "--no-password"]);
    plugin(
        directory.path(),
        &["sign", "simulated.wasm", "--key", "plant.key"],
    );
    let longer = [Guest::SIMULATED.bytes(), vec![0]].concat();
    std::fs::write(&component, longer).unwrap();
    let output = Command::new(binary())
        .args(["plugin", "verify", "simulated.wasm", "--key"])
        .arg(key["public_key"].as_str().unwrap())
        .current_dir(directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(65), "{said}");
    assert!(said.contains("does not fit its signature"), "{said}");
}

/// An author's bench that requires signatures as the plant does: what `plugin dev` builds serves at once.
#[tokio::test]
async fn dev_signs_each_build_with_the_authors_key() {
    let Some(kind) = mosquitto() else { return };
    let rig = Rig::start(kind).await;
    let mut place = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
    // Another build than the one that will be made, so that there is something to swap to.
    place.renew();
    let directory = place.path().parent().unwrap().to_owned();
    let key = plugin(&directory, &["keygen", "bench", "--no-password"]);
    let line = key["public_key"].as_str().unwrap();
    let configuration = rig
        .configuration()
        .with(&format!("[plugins.trusted_keys]\nbench = \"{line}\""))
        .simulated("sim", place.path(), Some(rig.audit.witness()));
    let mut running = rig.gateway(&configuration);
    running.expect_error(Provoked::CandidateRefused);
    running
        .wait("what nobody signed is refused", DEADLINE, |now| {
            let refused = now.now.connectors.first();
            refused.is_some_and(|line| line.error.as_deref().is_some_and(is_unsigned))
        })
        .await;
    let dev = |key: &Path| {
        let output = Command::new(binary())
            .args(["plugin", "dev", Guest::SIMULATED.directory(), "--once"])
            .arg("--config")
            .arg(rig.path("gateway.toml"))
            .arg("--key")
            .arg(key)
            .current_dir(repository())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        (output.status.code(), said)
    };
    let (code, said) = dev(&rig.path("bench.key"));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("signed"), "{said}");
    running
        .wait("the signed build serves", DEADLINE, |now| {
            let line = &now.now.connectors[0];
            line.error.is_none() && line.signature.starts_with("signed by bench")
        })
        .await;
    running.flows().await;
    // The signature of what serves stays, whoever builds the same again.
    let signature = std::fs::read(rig.path("simulated.wasm.minisig")).unwrap();
    plugin(&directory, &["keygen", "stranger", "--no-password"]);
    let (code, said) = dev(&rig.path("stranger.key"));
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("trusted are bench"), "{said}");
    let (code, said) = dev(&rig.path("bench.key"));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("serves already"), "{said}");
    let now = std::fs::read(rig.path("simulated.wasm.minisig")).unwrap();
    assert_eq!(now, signature);
    // A key that cannot be read is said before anything is built.
    let (code, said) = dev(&rig.path("nobody.key"));
    assert_eq!(code, Some(65), "{said}");
    assert!(said.contains("nobody.key"), "{said}");
    rig.settle(running).await;
}
