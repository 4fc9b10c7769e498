//! The settings a seed runs with.

use std::time::Duration;

use moorline_core::link::{Settings, Versions};
use moorline_core::spool::{Full, Limits};

use crate::dice::Dice;
use crate::liveness;

/// What is fixed for one seed.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) link: Settings,
    pub(crate) limits: Limits,
    /// There is a storage that outlives the process but not the power, and commits leave it a window.
    pub(crate) journal: bool,
    /// A session that begins with a backlog sends it beside what comes.
    pub(crate) side_by_side: bool,
    pub(crate) liveness: liveness::Limits,
    pub(crate) inflight_max: u16,
    pub(crate) inflight_bytes_max: usize,
    pub(crate) packet_bytes_max: usize,
    pub(crate) devices: usize,
    pub(crate) fault_phase: Duration,
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
    let bytes_max = dice.pick(&[96, 256, 1024]) * 1024;
    let memory_bytes = dice.pick(&[4_000, 20_000, 8 << 20]);
    let full = dice.pick(&[
        Full::DropOldest,
        Full::DropOldest,
        Full::DropOldest,
        Full::DropNewest,
    ]);
    let limits = Limits::new(16 * 1024, bytes_max, 4096)
        .expect("the limits are sane")
        .in_memory(memory_bytes)
        .when_full(full);
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
        limits,
        journal: dice.chance(50),
        side_by_side: dice.chance(50),
        liveness,
        inflight_max: dice.pick(&[1, 2, 16, 100]),
        inflight_bytes_max: dice.pick(&[1, 4096, usize::MAX]),
        packet_bytes_max: dice.pick(&[1024, 4096, 65536]) as usize,
        devices: 1 + dice.below(5) as usize,
        fault_phase: dice.ms(240_000, 720_000),
    }
}
