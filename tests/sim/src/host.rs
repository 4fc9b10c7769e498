//! The gateway's process: what it holds in memory, and loses when it dies.

use std::collections::{BTreeMap, VecDeque};

use moorline_core::link::cause::{Intent, MqttVersion};
use moorline_core::link::classify::{Classifier, Refusals};
use moorline_core::link::window::{Token, Window};
use moorline_core::link::{self, Link};
use moorline_core::message::{Sequence, StreamId};
use moorline_core::spool::sim_storage::SimStorage;
use moorline_core::spool::streams::{Handed, Streams};
use moorline_core::thingsboard::{Announced, Publish};
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

/// What the driver wants of the feeder; only the latest counts. It speaks of turns: the order in which the feeder hands
/// records over, whatever lanes they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) generation: u64,
    /// Everything through this turn may have been sent in an earlier session.
    pub(crate) sent: Sequence,
    pub(crate) packet_bytes_max: usize,
    pub(crate) running: bool,
    /// Turns through this one are acknowledged.
    pub(crate) acked: Sequence,
}

#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) generation: u64,
    pub(crate) publishes: Vec<Publish>,
    /// Records that no packet can carry: turn, stream and sequence.
    pub(crate) left_out: Vec<(Sequence, StreamId, Sequence)>,
}

/// A record that was handed over and is not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InHand {
    pub(crate) turn: Sequence,
    pub(crate) stream: StreamId,
    pub(crate) sequence: Sequence,
}

/// Reads ahead of the driver and follows its orders a little later.
#[derive(Debug)]
pub(crate) struct Feeder {
    pub(crate) following: Order,
    pub(crate) handed: VecDeque<InHand>,
    /// How much at the front of `handed` an earlier session had sent, and is to be handed out again.
    pub(crate) replaying: usize,
    pub(crate) ready: Option<Batch>,
    pub(crate) announced: Announced,
    pub(crate) scheduled: bool,
}

impl Feeder {
    /// Whether this record is in the link's hands.
    pub(crate) fn holds(&self, stream: StreamId, sequence: Sequence) -> bool {
        // What is still to be handed out again is not in its hands yet.
        let mut handed = self.handed.iter().take(self.handed.len() - self.replaying);
        handed.any(|handed| handed.stream == stream && handed.sequence == sequence)
    }

    /// Takes in what was handed out. Turns rise; what was sent before comes first, each with the turn it had, and nothing is
    /// left out but what was given up. What is wrong, if anything is.
    pub(crate) fn check(&mut self, handed: &[Handed]) -> Option<String> {
        for handed in handed {
            let fresh = InHand {
                turn: handed.turn,
                stream: handed.stream,
                sequence: handed.sequence,
            };
            while self.replaying > 0 {
                let index = self.handed.len() - self.replaying;
                self.replaying -= 1;
                if self.handed.get(index) == Some(&fresh) {
                    break;
                }
                if self.handed.get(index).is_some_and(|h| h.turn >= fresh.turn) {
                    let due = self.handed.get(index);
                    return Some(format!("{fresh:?} is handed out again for {due:?}"));
                }
                // Given up since.
                self.handed.remove(index);
            }
            let again = self.handed.contains(&fresh);
            if !again {
                if self.handed.back().is_some_and(|h| h.turn >= fresh.turn) {
                    return Some(format!("{fresh:?} after {:?}", self.handed.back()));
                }
                self.handed.push_back(fresh);
            }
        }
        None
    }
}

pub(crate) struct Host {
    pub(crate) life: u64,
    pub(crate) streams: Streams<SimStorage>,
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
    /// The newest record of each stream when a commit window was last closed.
    pub(crate) marks: Vec<Sequence>,
    pub(crate) cursor_sync_at: Instant,
    pub(crate) prepare_at: Option<Instant>,
    /// When a backlog may go on.
    pub(crate) read_at: Option<Instant>,
    /// Of each stream: a sync failed and no commit succeeded since. Only what was synced before is proven.
    pub(crate) unproven: Vec<bool>,
    /// The newest turn that no packet could carry.
    pub(crate) left_out: Sequence,
    /// Something that had been given up in flight was acknowledged.
    pub(crate) given_up_acked: bool,
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
        streams: Streams<SimStorage>,
        settings: link::Settings,
        inflight_max: u16,
        inflight_bytes_max: usize,
        seed: u64,
    ) -> Self {
        let nothing = Sequence(0);
        let order = Order {
            generation: 0,
            sent: nothing,
            packet_bytes_max: 0,
            running: false,
            acked: nothing,
        };
        Self {
            life,
            marks: vec![nothing; streams.count()],
            unproven: vec![false; streams.count()],
            streams,
            link: Link::new(settings, seed),
            classifier: Classifier::default(),
            refusals: Refusals::default(),
            window: Window::new(inflight_max, inflight_bytes_max, nothing),
            work: Work::Idle,
            queue: VecDeque::new(),
            order,
            feeder: Feeder {
                following: order,
                handed: VecDeque::new(),
                replaying: 0,
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
            read_at: None,
            left_out: nothing,
            given_up_acked: false,
            acked_since_checkpoint: false,
            pace: Pace::default(),
            tally: Tally::default(),
        }
    }
}

/// As the runtime: how much acknowledgements lag behind on the medium.
pub(crate) const CURSOR_SYNC: std::time::Duration = std::time::Duration::from_secs(30);
