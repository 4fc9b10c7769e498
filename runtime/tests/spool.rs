//! `moorline spool` on a spool that no gateway works on, whole and damaged.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use moorline::spool::disk::Disk;
use moorline_core::message::{
    DeviceName, DeviceReadings, Key, Quality, Reading, Sequence, Uplink, Value,
};
use moorline_core::spool::{Lane, Limits, Spool};
use moorline_core::time::TimestampMs;

const SEGMENT: u64 = 256 * 1024;
const RECORDS: u64 = 2_000;
const READINGS_EACH: u64 = 20;
const START_MS: u64 = 1_700_000_000_000;

fn spool(arguments: &[&str], config: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_moorline"))
        .arg("spool")
        .args(arguments)
        .arg("--config")
        .arg(config)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

fn uplink(number: u64) -> Uplink {
    let device = ["press-1", "oven, \"2\""][usize::from(number.is_multiple_of(4))];
    let reading = |n| Reading {
        key: Key::try_new("seq").unwrap(),
        value: Value::Integer(i64::try_from(number * READINGS_EACH + n).unwrap()),
        quality: Quality::Good,
        timestamp: TimestampMs(START_MS + number),
    };
    Uplink::Telemetry(vec![DeviceReadings {
        device: DeviceName::try_new(device).unwrap(),
        readings: (0..READINGS_EACH).map(reading).collect(),
    }])
}

/// A stopped gateway whose spool holds the records, of which `acked` were delivered; its configuration.
fn stopped(directory: &Path, acked: usize) -> PathBuf {
    let state = directory.join("state");
    let limits = Limits::new(SEGMENT, 16 * SEGMENT, 4096).unwrap();
    let disk = Disk::open(&state.join("spool/telemetry")).unwrap();
    let (mut spool, _) = Spool::open(disk, limits).unwrap();
    let mut outcomes = Vec::new();
    spool.append((0..RECORDS).map(uplink), &mut outcomes);
    assert!(outcomes.iter().all(Result::is_ok));
    // What is settled before its commit would be written nowhere.
    spool.commit().unwrap();
    let mut records = Vec::new();
    spool
        .read(Lane::Live, Sequence(0), usize::MAX, acked, &mut records)
        .unwrap();
    if let Some(last) = records.last() {
        spool.ack(last.sequence);
    }
    spool.close().unwrap();
    let config = directory.join("gateway.toml");
    let lines = format!(
        "[gateway]\nname = \"a\"\nstate_dir = {state:?}\n[link]\nurl = \"mqtt://127.0.0.1:1\"\n[spool]\nsegment_bytes = {SEGMENT}\n"
    );
    std::fs::write(&config, lines).unwrap();
    config
}

fn segments(config: &Path) -> Vec<PathBuf> {
    let directory = config.with_file_name("state").join("spool/telemetry");
    let mut segments: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "segment")
        })
        .collect();
    segments.sort();
    segments
}

#[test]
fn a_whole_spool_is_counted_shown_and_exported() {
    let directory = tempfile::tempdir().unwrap();
    let config = stopped(directory.path(), 500);
    let stat = json(&spool(&["stat", "--json", "--top", "1"], &config));
    let stream = &stat["streams"][0];
    assert_eq!(stream["waiting_records"], RECORDS - 500, "{stat:#}");
    assert_eq!(stream["waiting_readings"], (RECORDS - 500) * READINGS_EACH);
    assert_eq!(stream["oldest_ms"], START_MS + 500);
    assert_eq!(stream["newest_ms"], START_MS + RECORDS - 1);
    assert_eq!(stream["devices"][0]["device"], "press-1");
    assert_eq!(stream["devices_total"], 2);
    assert_eq!(stat["pid"], serde_json::Value::Null);

    let verified = spool(&["verify"], &config);
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    assert!(text(&verified).contains("no damage"));

    let shown = text(&spool(
        &["dump", "--limit", "3", "--device", "press-*"],
        &config,
    ));
    assert_eq!(
        shown.matches("telemetry, 20 readings").count(),
        3,
        "{shown}"
    );
    assert!(
        shown.contains("press-1 seq = 10020") && !shown.contains("oven"),
        "{shown}"
    );

    let exported = text(&spool(&["export"], &config));
    let values: Vec<u64> = exported
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|line| line["value"].as_u64().unwrap())
        .collect();
    let expected: Vec<u64> = (500 * READINGS_EACH..RECORDS * READINGS_EACH).collect();
    assert_eq!(values, expected, "each once and in order");
    let file = directory.path().join("readings.csv");
    let to = file.to_str().unwrap();
    let csv = ["export", "--all", "--format", "csv", "--to", to];
    assert!(spool(&csv, &config).status.success());
    let sheet = std::fs::read_to_string(&file).unwrap();
    assert!(
        sheet.lines().count() as u64 > (RECORDS - 500) * READINGS_EACH,
        "settled ones, too"
    );
    assert!(sheet.contains(",\"oven, \"\"2\"\"\",seq,"), "quoted");
    assert_eq!(
        spool(&csv, &config).status.code(),
        Some(71),
        "never overwritten"
    );
    let nothing = spool(&["stat", "--stream", "alarms"], &config);
    assert_eq!(nothing.status.code(), Some(64), "{nothing:?}");
}

#[test]
fn damage_is_named_by_file_and_place_and_the_rest_is_exported() {
    let directory = tempfile::tempdir().unwrap();
    let config = stopped(directory.path(), 0);
    let first = segments(&config)[0].clone();
    let file = File::options().read(true).write(true).open(&first).unwrap();
    let offset = 100_000;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();

    let verified = spool(&["verify", "--json"], &config);
    assert_eq!(verified.status.code(), Some(65), "{verified:?}");
    let page = json(&verified);
    let damage = &page["streams"][0]["damages"][0];
    assert_eq!(page["streams"][0]["damages_total"], 1, "{page:#}");
    assert_eq!(damage["file"], first.file_name().unwrap().to_str().unwrap());
    let (at, bytes) = (
        damage["offset"].as_u64().unwrap(),
        damage["bytes"].as_u64().unwrap(),
    );
    assert!((at..at + bytes).contains(&offset), "{damage}");
    assert_eq!(
        (&damage["lost_records"], &damage["waited"]),
        (&1.into(), &true.into())
    );
    let human = text(&spool(&["verify"], &config));
    assert!(human.contains(&format!(".segment at {at}")), "{human}");
    let exported = text(&spool(&["export", "--waiting"], &config));
    assert_eq!(
        exported.lines().count() as u64,
        (RECORDS - 1) * READINGS_EACH
    );

    // Not even the header: everything in the segment is out of reach, and everything else is not.
    file.write_all_at(&[0xff; 8], 0).unwrap();
    let page = json(&spool(&["verify", "--json"], &config));
    let damage = &page["streams"][0]["damages"][0];
    assert_eq!(
        damage["what"], "the segment's header cannot be read",
        "{page:#}"
    );
    assert!(page["streams"][0]["records"].as_u64().unwrap() > RECORDS / 2);
}

#[test]
fn a_purge_asks_counts_and_respects_the_lock() {
    let directory = tempfile::tempdir().unwrap();
    let config = stopped(directory.path(), 500);
    let unasked = spool(&["purge"], &config);
    assert_eq!(unasked.status.code(), Some(64), "{unasked:?}");
    {
        let _owner = Disk::open(&config.with_file_name("state").join("spool/telemetry")).unwrap();
        let locked = spool(&["purge", "--yes"], &config);
        assert_eq!(locked.status.code(), Some(71), "{locked:?}");
        // Looking needs no lock.
        assert!(spool(&["stat"], &config).status.success());
    }
    let purged = spool(&["purge", "--yes"], &config);
    assert!(
        text(&purged).contains("30 000 readings in 1 500 records given up"),
        "{purged:?}"
    );
    let stat = json(&spool(&["stat", "--json"], &config));
    let stream = &stat["streams"][0];
    assert_eq!(stream["waiting_records"], 0, "{stat:#}");
    assert_eq!(
        stream["evicted_readings"],
        1_500 * READINGS_EACH,
        "{stat:#}"
    );
}

#[test]
fn where_no_gateway_ran_there_is_nothing_and_that_is_no_error() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("gateway.toml");
    let lines =
        "[gateway]\nname = \"a\"\nstate_dir = \"state\"\n[link]\nurl = \"mqtt://127.0.0.1:1\"\n";
    std::fs::write(&config, lines).unwrap();
    for command in [
        &["stat"][..],
        &["verify"],
        &["dump"],
        &["export"],
        &["purge", "--yes"],
    ] {
        let output = spool(command, &config);
        assert!(output.status.success(), "{output:?}");
    }
}
