//! What plugins keep, in a backup: taken out of a running and a stopped gateway, and put back into both.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use moorline::cli::exit;
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::rig::Rig;
use moorline_tests::{binary, mosquitto};
use serde_json::{Value, json};

const GRACE: Duration = Duration::from_secs(30);

/// Exit code, what it printed, what it said.
fn state(arguments: &[&str], config: &Path) -> (Option<i32>, String, String) {
    let output = Command::new(binary())
        .args(["plugin", "state"])
        .args(arguments)
        .arg("--config")
        .arg(config)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// The run that the simulated connector keeps.
fn run(config: &Path) -> Value {
    let (code, document, said) = state(&["export"], config);
    assert_eq!(code, Some(0), "{said}");
    let document: Value = serde_json::from_str(&document).unwrap();
    document["instances"]["sim"]["run"]["base64"].clone()
}

fn document(run: &str) -> Value {
    json!({ "moorline_plugin_state": 1, "instances": {
        "sim": { "run": { "base64": run } },
        "gone": { "left": { "text": "behind" } },
    }})
}

#[tokio::test]
async fn what_a_plugin_keeps_is_taken_out_and_put_back() {
    let Some(kind) = mosquitto() else { return };
    let rig = Rig::start(kind).await;
    let place = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
    let configuration = rig.configuration().simulated("sim", place.path(), None);
    let config = rig.path("gateway.toml");
    let (backup, other) = (rig.path("backup.json"), rig.path("other.json"));
    let written = |path: &Path| path.to_str().unwrap().to_owned();

    let mut running = rig.gateway(&configuration);
    running.flows().await;
    assert_eq!(run(&config), "AQAAAAAAAAA=");
    let to = written(&backup);
    let (code, _, said) = state(&["export", "--to", &to], &config);
    assert_eq!(code, Some(0), "{said}");
    let (code, _, said) = state(&["export", "--to", &to], &config);
    assert_eq!(code, Some(i32::from(exit::OS)), "it was there: {said}");

    // Into the running one: it is started anew, and that is another run.
    std::fs::write(&other, document("CQAAAAAAAAA=").to_string()).unwrap();
    let (code, printed, said) = state(&["import", &written(&other)], &config);
    assert_eq!(code, Some(0), "{printed}{said}");
    assert!(
        printed.contains("sim: put back, and started anew"),
        "{printed}"
    );
    assert!(said.contains("gone is left out"), "{said}");
    assert_eq!(run(&config), "CgAAAAAAAAA=");
    running.flows().await;

    // Nothing is changed by a document that is none, or has nothing for this gateway.
    for (content, why) in [
        ("{}".to_owned(), "is no state of plugins"),
        (document("?").to_string(), "is no base64"),
        (
            document("CQAAAAAAAAA=").to_string().replace("sim", "dim"),
            "nothing was changed",
        ),
    ] {
        std::fs::write(&other, content).unwrap();
        let (code, _, said) = state(&["import", &written(&other)], &config);
        assert_eq!(code, Some(i32::from(exit::DATA)), "{said}");
        assert!(said.contains(why), "{said}");
    }
    assert_eq!(run(&config), "CgAAAAAAAAA=");

    // Out of the stopped one and into it.
    let (status, _) = running.gateway.stop(GRACE).await.unwrap();
    assert!(status.success(), "{status}");
    drop(running);
    assert_eq!(run(&config), "CgAAAAAAAAA=");
    let (code, printed, said) = state(&["import", &to], &config);
    assert_eq!(code, Some(0), "{said}");
    assert!(printed.contains("for the next start"), "{printed}");
    assert_eq!(run(&config), "AQAAAAAAAAA=");
    let (code, printed, said) = state(&["ls", "--format", "json"], &config);
    assert_eq!(code, Some(0), "{said}");
    let listed: Value = serde_json::from_str(&printed).unwrap();
    let entry = json!({ "instance": "sim", "configured": true, "keys": 1, "bytes": 11,
        "bytes_max": 262_144 });
    assert_eq!(listed["instances"], json!([entry]));
    let mut running = rig.gateway(&configuration);
    running.flows().await;
    assert_eq!(run(&config), "AgAAAAAAAAA=");
}
