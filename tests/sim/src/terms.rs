//! The settings a seed runs with.

use std::time::Duration;

use moorline_core::link::{Settings, Versions};
use moorline_core::spool::streams::{AfterOutage, StreamSettings, Whole};
use moorline_core::spool::{Full, Keep, Limits};

use crate::dice::Dice;
use crate::liveness;

/// What is fixed for one seed.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) link: Settings,
    /// The gateway's streams, the urgent one first.
    pub(crate) streams: Vec<StreamTerms>,
    /// There is a storage that outlives the process but not the power, and commits leave it a window.
    pub(crate) journal: bool,
    pub(crate) liveness: liveness::Limits,
    pub(crate) inflight_max: u16,
    pub(crate) inflight_bytes_max: usize,
    pub(crate) packet_bytes_max: usize,
    pub(crate) devices: usize,
    pub(crate) fault_phase: Duration,
}

/// What is fixed for one stream.
#[derive(Debug)]
pub(crate) struct StreamTerms {
    pub(crate) settings: StreamSettings,
    pub(crate) limits: Limits,
    pub(crate) keep: Keep,
}

/// Whether a session sends what waited beside what comes.
pub(crate) fn divides(after_outage: AfterOutage) -> bool {
    matches!(after_outage, AfterOutage::LiveFirst { .. })
}

/// Whether a lane of what waited is itself divided, and its parts overtake each other.
pub(crate) fn newest_first(after_outage: AfterOutage) -> bool {
    matches!(
        after_outage,
        AfterOutage::LiveFirst {
            newest_first: true,
            ..
        }
    )
}

const NAMES: [&str; 3] = ["urgent", "telemetry", "slow"];

fn stream(dice: &mut Dice, index: usize) -> StreamTerms {
    let live_first = |share, per_s, newest_first| AfterOutage::LiveFirst {
        backlog_share_percent: Whole(share),
        backlog_readings_per_s: per_s,
        newest_first,
    };
    let after_outage = dice.pick(&[
        AfterOutage::BacklogFirst,
        AfterOutage::BacklogFirst,
        AfterOutage::BacklogFirst,
        live_first(0, None, false),
        live_first(20, None, false),
        live_first(50, Some(200), false),
        live_first(20, None, true),
    ]);
    let settings = StreamSettings {
        name: NAMES[index].into(),
        // The second and the third take turns in some seeds.
        priority: [0, 10, dice.pick(&[10, 20])][index],
        after_outage,
        thin_out: false,
    };
    let bytes_max = dice.pick(&[96, 256, 1024]) * 1024;
    let memory_bytes = dice.pick(&[4_000, 20_000, 8 << 20]);
    let full = dice.pick(&[
        Full::DropOldest,
        Full::DropOldest,
        Full::DropOldest,
        Full::DropNewest,
    ]);
    let keep = dice.pick(&[Keep::OnDisk, Keep::OnDisk, Keep::OnDisk, Keep::InMemory]);
    // The urgent stream is on disk, as it is shipped.
    let keep = if index == 0 { Keep::OnDisk } else { keep };
    let limits = Limits::new(16 * 1024, bytes_max, 4096)
        .expect("the limits are sane")
        .in_memory(memory_bytes)
        .when_full(full)
        .kept(keep);
    StreamTerms {
        settings,
        limits,
        keep,
    }
}

pub(crate) fn terms(dice: &mut Dice) -> Terms {
    let seconds = Duration::from_secs;
    let floor = dice.pick(&[500, 1000, 2000]);
    let ceiling = dice.pick(&[8, 20, 60]);
    let link = Settings {
        floor: Duration::from_millis(floor),
        ceiling: seconds(ceiling),
        stable_after: seconds(dice.pick(&[5, 15, 30])),
        policy_deadline: Duration::from_millis(50),
        versions: dice.pick(&[Versions::Auto, Versions::Auto, Versions::V5, Versions::V311]),
        fail_back_after: None,
    };
    let count = dice.pick(&[1, 2, 2, 3]);
    let streams = (0..count).map(|index| stream(dice, index)).collect();
    let liveness = liveness::Limits {
        connect: seconds(10),
        connack: seconds(10),
        keep_alive: seconds(dice.pick(&[10, 30])),
        pingresp: seconds(5),
        probe_after: seconds(dice.pick(&[5, 60])),
        ack: seconds(30),
        write_stall: seconds(dice.pick(&[4, 15])),
        tcp_user: seconds(dice.pick(&[4, 10, 40])),
    };
    Terms {
        link,
        streams,
        journal: dice.chance(50),
        liveness,
        inflight_max: dice.pick(&[1, 2, 16, 100]),
        inflight_bytes_max: dice.pick(&[1, 4096, usize::MAX]),
        packet_bytes_max: dice.pick(&[1024, 4096, 65536]) as usize,
        devices: 1 + dice.below(5) as usize,
        fault_phase: dice.ms(240_000, 720_000),
    }
}
