//! The spool's tools on a spool that a gateway works on: no damage is reported where there is none, what is purged is
//! counted, and the wear of the medium is told.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use moorline_tests::plugins::{Guest, Place};
use moorline_tests::rig::{Rig, Running};
use moorline_tests::{binary, mosquitto};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(30);

fn spool(arguments: &[&str], config: &Path) -> Output {
    Command::new(binary())
        .arg("spool")
        .args(arguments)
        .arg("--config")
        .arg(config)
        .output()
        .unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// Verifies again and again; how often, and how many segments were recycled under it.
async fn verify_for(time: Duration, config: PathBuf) -> (u32, u64) {
    tokio::task::spawn_blocking(move || {
        let started = Instant::now();
        let (mut times, mut recycled) = (0, 0);
        while started.elapsed() < time {
            let output = spool(&["verify", "--json"], &config);
            let page = json(&output);
            assert_eq!(output.status.code(), Some(0), "{page:#}");
            assert_eq!(page["damaged"], false, "{page:#}");
            times += 1;
            recycled += page["streams"][0]["passed_over"].as_u64().unwrap();
        }
        (times, recycled)
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn a_running_gateways_spool_is_whole_at_every_look_and_is_purged_by_its_owner() {
    let Some(kind) = mosquitto() else { return };
    let mut rig = Rig::start(kind).await;
    let place = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
    let configuration = rig
        .configuration()
        .with("\n[spool]\nsegment_bytes = 262144\nbytes_max = 8388608\n\n[wear]\nbytes_per_day_max = 1048576")
        .simulated("sim", place.path(), None)
        .replaced("readings_per_second = 1000", "readings_per_second = 5000");
    let mut running = rig.gateway(&configuration);
    running.flows().await;
    let config = running.gateway.configuration().to_owned();

    // While the broker is away the spool fills and evicts; once it is back, segments are drained and used again.
    rig.broker.kill().await.unwrap();
    let (times, _) = verify_for(Duration::from_secs(8), config.clone()).await;
    assert!(times > 3, "{times}");
    look_into(&config);
    purge(&mut running, &config).await;

    rig.broker.resume().await.unwrap();
    let (times, _recycled) = verify_for(Duration::from_secs(8), config.clone()).await;
    assert!(times > 3, "{times}");
    wear_is_told(&mut running, &config).await;

    let (status, _) = running.gateway.stop(GRACE).await.unwrap();
    assert!(status.success());
    let kept = json(&spool(&["stat", "--json"], &config));
    assert_eq!(kept["pid"], Value::Null);
    assert!(
        kept["wear"]["bytes_total"].as_u64().unwrap() > 0,
        "{kept:#}"
    );
}

/// What waits is counted by device, and can be carried out.
fn look_into(config: &Path) {
    let stat = json(&spool(&["stat", "--json"], config));
    let stream = &stat["streams"][0];
    assert!(stat["pid"].is_u64(), "{stat:#}");
    assert!(
        stream["waiting_readings"].as_u64().unwrap() > 1_000,
        "{stat:#}"
    );
    assert_eq!(stream["devices"].as_array().unwrap().len(), 10, "{stat:#}");
    let exported = spool(&["export", "--limit", "500"], config);
    let lines = String::from_utf8(exported.stdout).unwrap();
    assert_eq!(lines.lines().count(), 500);
    assert!(
        lines.lines().all(|line| line.contains("\"seq\"")),
        "{lines}"
    );
}

async fn purge(running: &mut Running, config: &Path) {
    let evicted = running.history().now.spool.evicted_readings;
    let purged = spool(&["purge"], config);
    assert_eq!(purged.status.code(), Some(64), "it asks first");
    let purged = spool(&["purge", "--yes"], config);
    assert!(purged.status.success(), "{purged:?}");
    let after = running
        .wait("what was purged is counted", DEADLINE, |now| {
            now.now.spool.evicted_readings > evicted
        })
        .await;
    let said = String::from_utf8(purged.stdout).unwrap();
    assert!(said.contains("counted as evicted"), "{said}");
    let books = &after.now.spool;
    assert_eq!(
        books.accepted_readings,
        books.delivered_readings
            + books.depth_readings
            + books.evicted_readings
            + books.damaged_readings
            + books.dead_lettered_readings
    );
    assert!(
        running
            .gateway
            .log()
            .unwrap()
            .contains("an operator gave up what waited")
    );
}

async fn wear_is_told(running: &mut Running, config: &Path) {
    let worn = running
        .wait("the wear budget is exceeded", DEADLINE, |now| {
            now.now
                .alarms
                .iter()
                .any(|alarm| alarm.name == "wear-budget")
        })
        .await;
    let wear = &worn.now.wear;
    assert_eq!(wear.budget_bytes_per_day, Some(1_048_576), "{wear:?}");
    assert!(wear.bytes_last_day > 1_048_576, "{wear:?}");
    assert!(wear.own_bytes_last_day > 0, "{wear:?}");
    let text = String::from_utf8(spool(&["stat"], config).stdout).unwrap();
    assert!(
        text.contains("wear") && text.contains("budget of 1.0 MB a day"),
        "{text}"
    );
}
