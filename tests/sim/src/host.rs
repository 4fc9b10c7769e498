//! The gateway's process: what it holds in memory, and loses when it dies.

use std::collections::{BTreeMap, VecDeque};

use moorline_core::link::cause::{Intent, MqttVersion};
use moorline_core::link::classify::{Classifier, Refusals};
use moorline_core::link::window::{Token, Window};
use moorline_core::link::{self, Link};
use moorline_core::message::Sequence;
use moorline_core::spool::Spool;
use moorline_core::spool::sim_storage::SimStorage;
use moorline_core::thingsboard::{Announced, LeftOut, Publish};
use moorline_core::time::Instant;

use crate::liveness::Facts;
use crate::wire::Reader;

/// The client's end of a session, from CONNECT on.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: u64,
    pub(crate) version: MqttVersion,
    pub(crate) up_at: Option<Instant>,
    pub(crate) facts: Facts,
    pub(crate) last_sent: Option<&'static str>,
    pub(crate) last_received: Option<&'static str>,
    pub(crate) reader: Reader,
    pub(crate) ids: BTreeMap<u16, Token>,
    pub(crate) next_id: u16,
    pub(crate) closing: Option<(Intent, Instant)>,
}

#[derive(Debug)]
pub(crate) enum Work {
    Idle,
    Dialling { attempt: u64, version: MqttVersion },
    Session(Box<Session>),
}

/// What the driver wants of the feeder; only the latest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) generation: u64,
    pub(crate) after: Sequence,
    pub(crate) packet_bytes_max: usize,
    pub(crate) running: bool,
    pub(crate) acked: Sequence,
}

#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) generation: u64,
    pub(crate) publishes: Vec<Publish>,
    pub(crate) left_out: Vec<LeftOut>,
}

/// Reads ahead of the driver and follows its orders a little later.
#[derive(Debug)]
pub(crate) struct Feeder {
    pub(crate) following: Order,
    pub(crate) position: Sequence,
    pub(crate) ready: Option<Batch>,
    pub(crate) announced: Announced,
    pub(crate) scheduled: bool,
}

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) life: u64,
    pub(crate) spool: Spool<SimStorage>,
    pub(crate) link: Link,
    pub(crate) classifier: Classifier,
    pub(crate) refusals: Refusals,
    pub(crate) window: Window<&'static str>,
    pub(crate) work: Work,
    pub(crate) queue: VecDeque<Publish>,
    pub(crate) order: Order,
    pub(crate) feeder: Feeder,
    pub(crate) question: u64,
    pub(crate) stopping: bool,
    pub(crate) frozen_until: Instant,
    pub(crate) commit_at: Option<Instant>,
    pub(crate) cursor_sync_at: Instant,
    pub(crate) prepare_at: Option<Instant>,
    /// A sync failed and no commit succeeded since: only what was synced before is proven.
    pub(crate) unproven: bool,
    pub(crate) acked_since_checkpoint: bool,
    pub(crate) pace: Pace,
    pub(crate) tally: Tally,
}

/// What the check of the pace remembers.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    pub(crate) last_open: Option<Instant>,
    pub(crate) last_end: Option<Instant>,
    /// The last session was stable, so one quick retry is right.
    pub(crate) was_stable: bool,
    /// An operator or a version's fall-back asked for the next attempt.
    pub(crate) excused: bool,
}

/// What the link's counters must agree with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) opens: u64,
    pub(crate) ups: u64,
    pub(crate) ends: u64,
    pub(crate) reports: u64,
    pub(crate) clamped: u64,
    pub(crate) faults: u64,
}

impl Host {
    pub(crate) fn new(
        life: u64,
        now: Instant,
        spool: Spool<SimStorage>,
        settings: link::Settings,
        inflight_max: u16,
        inflight_bytes_max: usize,
        seed: u64,
    ) -> Self {
        let acked = spool.status().acked;
        let order = Order {
            generation: 0,
            after: acked,
            packet_bytes_max: 0,
            running: false,
            acked,
        };
        Self {
            life,
            spool,
            link: Link::new(settings, seed),
            classifier: Classifier::default(),
            refusals: Refusals::default(),
            window: Window::new(inflight_max, inflight_bytes_max, acked),
            work: Work::Idle,
            queue: VecDeque::new(),
            order,
            feeder: Feeder {
                following: order,
                position: acked,
                ready: None,
                announced: Announced::default(),
                scheduled: false,
            },
            question: 0,
            stopping: false,
            frozen_until: now,
            commit_at: None,
            cursor_sync_at: now + CURSOR_SYNC,
            prepare_at: None,
            unproven: false,
            acked_since_checkpoint: false,
            pace: Pace::default(),
            tally: Tally::default(),
        }
    }
}

/// As the runtime: how much acknowledgements lag behind on the medium.
pub(crate) const CURSOR_SYNC: std::time::Duration = std::time::Duration::from_secs(30);
