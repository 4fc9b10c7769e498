//! A broker whose rules forbid the gateway to publish: a few messages are set aside, the rest waits, and once somebody has
//! mended the rules everything arrives, what was set aside included.

use std::process::{Command, Output};
use std::time::Duration;

use moorline_tests::plugins::{Guest, Place};
use moorline_tests::rig::Rig;
use moorline_tests::{binary, eventually, mosquitto};

const DEADLINE: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(30);
/// More refusals in a row than this end the session instead.
const LETTERS_MAX: usize = 8;

/// More messages than the broker ever has waiting for the audit.
const QUEUED_MAX: u32 = 1_000_000;

const FORBIDDEN: &str = "topic read #\ntopic write v1/gateway/connect\ntopic write v1/devices/#\n";
const ALLOWED: &str = "topic readwrite #\n";

fn dead_letter(arguments: &[&str], config: &std::path::Path) -> Output {
    Command::new(binary())
        .args(["spool", "dead-letter"])
        .args(arguments)
        .arg("--config")
        .arg(config)
        .output()
        .unwrap()
}

fn listed(config: &std::path::Path) -> Vec<serde_json::Value> {
    let output = dead_letter(&["ls", "--format", "json"], config);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn what_a_broker_forbids_waits_and_what_it_refused_can_be_sent_again() {
    let Some(kind) = mosquitto() else { return };
    let mut rig = Rig::start_with(kind, |directory| {
        let rules = directory.join("rules");
        std::fs::write(&rules, FORBIDDEN).unwrap();
        // Without a bound Mosquitto 2.0.11 takes each publish it refuses for one too many, and closes on it.
        format!(
            "acl_file {}\nmax_queued_messages {QUEUED_MAX}",
            rules.display()
        )
    })
    .await;
    let rules = rig.path("rules");
    let place = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
    let configuration =
        rig.configuration()
            .simulated("sim", place.path(), Some(rig.audit.witness()));
    let mut running = rig.gateway(&configuration);
    let forbidden = running
        .wait("the broker forbids it", DEADLINE, |now| {
            now.disconnects()
                .any(|entry| entry.cause == "not-authorized")
        })
        .await;
    let told = forbidden.disconnects().last().unwrap();
    assert!(told.text.contains("0x87"), "{}", told.text);

    let config = running.gateway.configuration().to_owned();
    // The link tells its end before the spool has all letters on the disk.
    let (letters, readings) = eventually("the letters are on the disk", DEADLINE, || {
        let letters = listed(&config);
        let readings = letters.iter().map(|letter| &letter["readings"]);
        let readings: u64 = readings.filter_map(serde_json::Value::as_u64).sum();
        let counted = running.history().now.spool.dead_lettered_readings;
        (readings > 0 && readings == counted).then_some((letters, readings))
    })
    .await;
    assert!((1..=LETTERS_MAX).contains(&letters.len()), "{letters:?}");
    assert_eq!(letters[0]["reason"]["kind"], "refused", "{letters:?}");
    assert_eq!(letters[0]["reason"]["code"], 0x87, "{letters:?}");
    let human = dead_letter(&["ls"], &config);
    let human = String::from_utf8(human.stdout).unwrap();
    assert!(human.contains("the broker refused it with 0x87"), "{human}");
    let missing = dead_letter(&["show", "999"], &config);
    assert_eq!(missing.status.code(), Some(65), "{missing:?}");

    std::fs::write(&rules, ALLOWED).unwrap();
    rig.broker.kill().await.unwrap();
    rig.broker.resume().await.unwrap();
    rig.audit_subscribed().await;
    let replay = dead_letter(&["replay", "--all"], &config);
    assert!(replay.status.success(), "{replay:?}");
    running
        .wait("everything flows", DEADLINE, |now| {
            let spool = &now.now.spool;
            spool.dead_lettered_readings == readings && spool.delivered_readings > 10 * readings
        })
        .await;
    assert!(listed(&config).is_empty());
    let (status, _history) = running.gateway.stop(GRACE).await.unwrap();
    assert!(status.success(), "{status}: {}", running.log_tail());
    let totals = rig.audit.totals();
    eventually("nothing is missing", DEADLINE, || {
        (totals.borrow().delivered > 0).then_some(())
    })
    .await;
    let balance = rig.audit.balance().await;
    assert_eq!(balance.missing, 0, "{balance:?}");
}
