//! A medium that is full, read-only or failing under the spool: its bounds hold, what it drops is counted to the reading, and
//! it recovers by itself.

use std::time::Duration;

use moorline::demo::audit::Balance;
use moorline::demo::gateway::History;
use moorline::fault_proxy::{Mode, Strike};
use moorline_tests::errors::Provoked;
use moorline_tests::mosquitto;
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::rig::{Rig, Running};
use moorline_tests::volume::{Access, Kind, Volume};

const DEADLINE: Duration = Duration::from_secs(120);
const VOLUME_MIB: u64 = 64;
const MIB: u64 = 1 << 20;
/// Cursor, lock and other small files.
const BESIDES: u64 = 256 << 10;
const DEVICES: u32 = 20;
/// So many that the spool is full within seconds.
const FAST_PER_S: u32 = 100_000;
const SLOW_PER_S: u32 = 1_000;
/// How long the volume stays full.
const FULL: Duration = Duration::from_secs(3);
/// Readings that have to be dropped before a test goes on.
const EVICTED_MIN: u64 = 200_000;

/// A gateway whose spool is on a volume of its own.
struct Site {
    running: Running,
    rig: Rig,
    volume: Volume,
    _place: Place,
}

/// `lines` are those of `[spool]`. None where nothing can be mounted here.
async fn site(kind: Kind, readings_per_s: u32, lines: &str, access: Access) -> Option<Site> {
    let broker = mosquitto()?;
    let rig = Rig::start_with(broker, |_directory| "persistence false".to_owned()).await;
    let volume = Volume::mounted(kind, VOLUME_MIB, &rig.state_dir().join("spool"))?;
    if access == Access::ReadOnly {
        volume.remount(access);
    }
    let place = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
    let witness = Some(rig.audit.witness());
    let configuration = rig
        .configuration()
        .with(&format!("\n[spool]\n{lines}\n"))
        .simulated_at("sim", place.path(), witness, DEVICES, readings_per_s);
    // Nothing is in flight when the outage begins: what a broker took without its acknowledgement arriving is delivered for
    // the subscriber and not for the gateway.
    rig.proxy.set(Mode::Refuse).await.unwrap();
    let running = rig.gateway(&configuration);
    Some(Site {
        running,
        rig,
        volume,
        _place: place,
    })
}

impl Site {
    async fn link_up(&self) {
        self.rig.proxy.set(Mode::Pass).await.unwrap();
    }

    async fn cut(&self) {
        self.rig.proxy.set(Mode::Refuse).await.unwrap();
        self.rig.proxy.strike(Strike::Reset).await.unwrap();
    }

    /// Waits for `condition`, and looks all the while that the volume is no fuller than it may be.
    async fn bounded(
        &mut self,
        what: &str,
        bytes_max: u64,
        condition: impl Fn(&History) -> bool,
    ) -> History {
        let volume = &self.volume;
        self.running
            .wait(what, DEADLINE, |now| {
                let used = volume.used_bytes();
                assert!(
                    used <= bytes_max + BESIDES,
                    "{used} bytes used of {bytes_max}"
                );
                condition(now)
            })
            .await
    }

    /// Ends everything; accepted = delivered + evicted, by the subscriber's count and to the reading.
    async fn settle(self) -> (History, Balance) {
        let Self {
            mut running,
            rig,
            volume,
            ..
        } = self;
        running
            .wait("the spool is nearly empty", DEADLINE, |now| {
                now.now.link.state == "up"
                    && now.now.spool.depth_readings < u64::from(FAST_PER_S) / 2
            })
            .await;
        let (status, history) = running.gateway.stop(DEADLINE).await.unwrap();
        assert!(status.success(), "{status}: {}", running.log_tail());
        let spool = history.now.spool.clone();
        let due = spool.accepted_readings - spool.evicted_readings;
        let totals = rig.audit.totals();
        moorline_tests::eventually("what was not evicted arrives", DEADLINE, || {
            (totals.borrow().delivered >= due).then_some(())
        })
        .await;
        let balance = rig.audit.balance().await;
        println!(
            "FIGURE full disk: {} accepted, {} delivered, {} evicted, {} missing, {} duplicates",
            spool.accepted_readings,
            balance.delivered,
            spool.evicted_readings,
            balance.missing,
            balance.duplicates
        );
        assert_eq!(
            (spool.damaged_readings, spool.dead_lettered_readings),
            (0, 0),
            "{spool:?}"
        );
        assert_eq!(
            (balance.delivered, balance.missing),
            (due, spool.evicted_readings),
            "{spool:?} {balance:?}"
        );
        assert_eq!(spool.fault, None);
        drop(volume);
        (history, balance)
    }
}

#[tokio::test]
async fn a_spool_at_its_bound_drops_the_oldest_and_counts_every_reading() {
    let bytes_max = 8 * MIB;
    let lines = format!("bytes_max = {bytes_max}\nsegment_bytes = {MIB}");
    let Some(mut site) = site(Kind::Tmpfs, FAST_PER_S, &lines, Access::Writable).await else {
        return;
    };
    site.bounded("readings are evicted", bytes_max, |now| {
        now.now.spool.evicted_readings > EVICTED_MIN
    })
    .await;
    site.link_up().await;
    let (history, balance) = site.settle().await;
    assert!(history.now.spool.evicted_readings > EVICTED_MIN);
    assert_eq!(balance.out_of_order, 0, "{balance:?}");
}

#[tokio::test]
async fn a_full_volume_keeps_what_was_accepted_and_is_used_again_once_there_is_room() {
    let bytes_max = 48 * MIB;
    let lines = format!("bytes_max = {bytes_max}\nsegment_bytes = {}", 2 * MIB);
    let Some(mut site) = site(Kind::Tmpfs, FAST_PER_S, &lines, Access::Writable).await else {
        return;
    };
    // Somebody else's file takes the room that the spool may use.
    site.volume.fill(8 * MIB);
    site.bounded("the volume is full", bytes_max, |now| {
        let spool = &now.now.spool;
        spool.fault.is_some() || spool.evicted_readings > EVICTED_MIN
    })
    .await;
    tokio::time::sleep(FULL).await;
    let full = site.running.history().now.spool;
    assert!(
        full.bytes < 24 * MIB,
        "there was no room for more: {full:?}"
    );
    site.volume.make_room();
    site.bounded("it uses the room that is there again", bytes_max, |now| {
        let spool = &now.now.spool;
        spool.bytes > full.bytes + 4 * MIB && spool.fault.is_none()
    })
    .await;
    site.link_up().await;
    site.settle().await;
}

#[tokio::test]
async fn a_volume_that_fails_is_told_and_readings_go_on_through_memory() {
    let Some(mut site) = site(Kind::Ext4, SLOW_PER_S, "", Access::Writable).await else {
        return;
    };
    site.link_up().await;
    site.running.flows().await;
    if !site.volume.fail() {
        println!("SKIPPED: this kernel cannot be asked for an error of ext4");
        return;
    }
    site.running
        .wait("the fault is told", DEADLINE, |now| {
            now.now.spool.fault.is_some()
        })
        .await;
    assert!(alarms(&site.running.history()).contains(&"spool-medium".to_owned()));
    flows_on(&mut site, 1_000).await;
    site.cut().await;
    let cut = site.running.history().now.spool.accepted_readings;
    site.running
        .wait("readings are accepted without a disk", DEADLINE, |now| {
            now.now.spool.accepted_readings > cut + 1_000
        })
        .await;
    site.volume.replace();
    site.running
        .wait("the spool recovers by itself", DEADLINE, |now| {
            now.now.spool.fault.is_none() && now.now.alarms.is_empty()
        })
        .await;
    site.link_up().await;
    flows_on(&mut site, 1_000).await;
    let (history, balance) = site.settle().await;
    assert_eq!(
        (history.now.spool.evicted_readings, balance.missing),
        (0, 0)
    );
}

#[tokio::test]
async fn a_gateway_that_starts_on_a_read_only_volume_works_and_recovers() {
    let Some(mut site) = site(Kind::Tmpfs, SLOW_PER_S, "", Access::ReadOnly).await else {
        return;
    };
    site.link_up().await;
    site.running.flows().await;
    let told = site.running.history().now;
    assert!(told.spool.fault.is_some(), "{:?}", told.spool);
    assert!(
        alarms(&site.running.history()).contains(&"spool-medium".to_owned()),
        "{:?}",
        told.alarms
    );
    site.volume.remount(Access::Writable);
    site.running
        .wait("the spool recovers by itself", DEADLINE, |now| {
            now.now.spool.fault.is_none() && now.now.alarms.is_empty()
        })
        .await;
    site.cut().await;
    let cut = site.running.history().now.spool.accepted_readings;
    site.running
        .wait("readings go to the disk", DEADLINE, |now| {
            now.now.spool.accepted_readings > cut + 2_000 && now.now.spool.bytes > 0
        })
        .await;
    site.link_up().await;
    site.settle().await;
}

/// What an earlier process left on a medium is not lost when the next one finds nothing there, or can only read it.
#[tokio::test]
async fn what_an_earlier_process_left_is_delivered_from_a_volume_that_cannot_be_written_or_comes_late()
 {
    let Some(mut site) = site(Kind::Tmpfs, SLOW_PER_S, "", Access::Writable).await else {
        return;
    };
    // By now most of it is in segments, and the rest in the window.
    site.running
        .wait("readings wait", DEADLINE, |now| {
            now.now.spool.depth_readings > 2_000
        })
        .await;
    site.running.gateway.kill().await.unwrap();
    site.volume.remount(Access::ReadOnly);
    site.link_up().await;
    site.running.gateway.resume().unwrap();
    let pid = site.running.gateway.pid().unwrap();
    let read_only = site
        .running
        .wait(
            "what waited is delivered without a write",
            DEADLINE,
            |now| {
                let spool = &now.now.spool;
                now.now.pid == pid && spool.delivered_readings > 3_000 && spool.fault.is_some()
            },
        )
        .await;
    assert!(alarms(&read_only).contains(&"spool-medium".to_owned()));
    site.volume.remount(Access::Writable);
    site.running
        .wait("the spool recovers by itself", DEADLINE, |now| {
            now.now.spool.fault.is_none()
        })
        .await;
    site.cut().await;
    let before = site.running.history().now.spool.accepted_readings;
    site.running
        .wait("readings wait again", DEADLINE, |now| {
            now.now.spool.depth_readings > 1_000
        })
        .await;
    site.running.gateway.kill().await.unwrap();
    site.volume.cover();
    site.link_up().await;
    site.running.gateway.resume().unwrap();
    let pid = site.running.gateway.pid().unwrap();
    site.running
        .wait("readings flow through memory alone", DEADLINE, |now| {
            now.now.pid == pid && now.now.spool.delivered_readings > 500
        })
        .await;
    let told = site.running.history().now;
    assert!(
        told.alarms
            .iter()
            .any(|alarm| alarm.text.contains("could not be read")),
        "{:?}",
        told.alarms
    );
    site.volume.uncover();
    site.running
        .wait("what lay there is taken up", DEADLINE, |now| {
            now.now.spool.fault.is_none() && now.now.spool.accepted_readings > before + 1_000
        })
        .await;
    let (history, balance) = site.settle().await;
    assert_eq!(
        (history.now.spool.evicted_readings, balance.missing),
        (0, 0)
    );
}

/// Not the spool alone, but everything a gateway keeps is on a volume that can only be read.
#[tokio::test]
async fn a_gateway_whose_whole_state_is_read_only_works_and_says_so() {
    let Some(broker) = mosquitto() else { return };
    let rig = Rig::start(broker).await;
    let medium = rig.path("medium");
    let Some(volume) = Volume::mounted(Kind::Tmpfs, VOLUME_MIB, &medium) else {
        return;
    };
    volume.remount(Access::ReadOnly);
    std::fs::create_dir(rig.state_dir()).unwrap();
    let place = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
    let state = format!("state_dir = {:?}", rig.state_dir());
    let status = rig.state_dir().join("status.json");
    let configuration = rig
        .configuration()
        .replaced(
            &state,
            &format!("state_dir = {medium:?}\nstatus_file = {status:?}"),
        )
        .simulated("sim", place.path(), Some(rig.audit.witness()));
    let mut running = rig.gateway(&configuration);
    running.expect_error(Provoked::MediumFailed);
    running.flows().await;
    let told = running
        .wait("what cannot be written is told", DEADLINE, |now| {
            now.now.alarms.len() >= 3
        })
        .await;
    assert_eq!(
        alarms(&told),
        ["spool-medium", "inbox-medium", "state-directory"]
    );
    volume.remount(Access::Writable);
    running
        .wait("everything is written again", DEADLINE, |now| {
            now.now.alarms.is_empty()
        })
        .await;
    let (history, balance) = rig.settle(running).await;
    assert_eq!(
        (history.now.spool.evicted_readings, balance.missing),
        (0, 0)
    );
    drop(volume);
}

fn alarms(history: &History) -> Vec<String> {
    let alarms = history.now.alarms.iter();
    alarms.map(|alarm| alarm.name.clone()).collect()
}

/// So many more readings are delivered.
async fn flows_on(site: &mut Site, more: u64) {
    let before = site.running.history().now.spool.delivered_readings;
    site.running
        .wait("readings are delivered", DEADLINE, |now| {
            now.now.spool.delivered_readings >= before + more
        })
        .await;
}
