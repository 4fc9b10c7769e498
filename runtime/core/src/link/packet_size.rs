//! How large a publish a broker takes that does not say so.
//!
//! A broker that is sent a packet larger than it takes ends the session, and many do so without having announced a Maximum
//! Packet Size and without a reason (rumqttd in both versions, every broker on 3.1.1). Sent again as it was, the publish
//! would end each session.
//!
//! ```text
//!                   a session ended right behind a publish larger            and again,
//!                   than all that this broker acknowledged                   or told so (0x95)
//!  as configured ───────────────────────────────────► suspected ─────────────────────────► half as large
//!       ▲                                                 │ a session ended otherwise        │    ▲   │
//!       └─────────────────────────────────────────────────┘                      suspected ◄─┘    └───┘
//! ```
//!
//! It never gets smaller than [`LEAST`], nor than what the broker has acknowledged. What cannot be divided goes as large as it
//! is, and is then [`Poison`](super::poison)'s business, as everything is that is small already. The size is kept for each
//! broker until there is a new configuration.

use std::collections::VecDeque;
use std::sync::Arc;

use super::cause::{Cause, Disconnect, Inference, Phase};
use super::classify::{Observation, Observed, RIGHT_AFTER};

/// Bytes. Every broker takes a publish of this size.
pub const LEAST: usize = 4 * 1024;
/// So many sessions in a row that end without a reason behind a large publish point to its size.
const CLOSES: u32 = 2;
/// Brokers that are remembered, the oldest goes first: more than anybody configures, and a server reference may add some.
const BROKERS_MAX: usize = 16;
/// MQTT 5.0 "packet too large".
const PACKET_TOO_LARGE: u8 = 0x95;

/// The publishes of one session, by their payloads' bytes; nothing of QoS 0, which nobody acknowledges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Publishes {
    /// The largest that was not acknowledged when it ended; zero without one.
    pub in_flight: usize,
    /// The largest that was; zero without one.
    pub acknowledged: usize,
}

/// What the end of a session says about the size of publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Innocent,
    /// It may be too large. Whether a message is to blame is asked when it is smaller.
    Suspected,
    /// Publishes to this broker have at most so many bytes from here on, as far as they can be divided.
    Smaller(usize),
}

#[derive(Clone, Debug)]
struct Broker {
    name: Arc<str>,
    acknowledged: usize,
    closes: u32,
    bytes_max: Option<usize>,
}

/// The machine. It outlives sessions.
#[derive(Clone, Debug, Default)]
pub struct PacketSize {
    brokers: VecDeque<Broker>,
}

impl PacketSize {
    /// The most bytes of a publish to this broker that can be divided; none: as configured.
    #[must_use]
    pub fn bytes_max(&self, broker: &str) -> Option<usize> {
        let known = self.brokers.iter().find(|known| *known.name == *broker);
        known.and_then(|known| known.bytes_max)
    }

    /// A session with `broker` has ended, in which publishes had at most `bytes_max` bytes where they can be divided: adds to
    /// the evidence what may have been too large.
    pub fn explain(
        &mut self,
        broker: &Arc<str>,
        observation: &mut Observation,
        publishes: Publishes,
        bytes_max: usize,
    ) {
        if observation.phase != Phase::Session {
            return;
        }
        let known = self.of(broker);
        known.acknowledged = known.acknowledged.max(publishes.acknowledged);
        let unproven = publishes.in_flight > known.acknowledged;
        let divisible = (LEAST + 1..=bytes_max).contains(&publishes.in_flight);
        let by_the_peer = matches!(
            observation.observed,
            Observed::Fin | Observed::Errno(_) | Observed::ServerDisconnect(PACKET_TOO_LARGE)
        );
        let since_sent = observation.evidence.since_sent;
        let right_behind = since_sent.is_some_and(|age| age <= RIGHT_AFTER);
        observation.evidence.unproven_bytes =
            (unproven && divisible && by_the_peer && right_behind).then_some(publishes.in_flight);
    }

    /// Learns from the same end, once it has a cause.
    pub fn ended(&mut self, broker: &Arc<str>, disconnect: &Disconnect) -> Verdict {
        if disconnect.phase != Phase::Session {
            return Verdict::Innocent;
        }
        let told = disconnect.cause == Cause::PacketTooLarge;
        let blamed = told || is_without_reason(disconnect.cause);
        let unproven = disconnect.evidence.unproven_bytes.filter(|_| blamed);
        let known = self.of(broker);
        let Some(unproven) = unproven else {
            known.closes = 0;
            return Verdict::Innocent;
        };
        known.closes = known.closes.saturating_add(1);
        if !told && known.closes < CLOSES {
            return Verdict::Suspected;
        }
        known.closes = 0;
        let bytes_max = (unproven / 2).max(known.acknowledged).max(LEAST);
        known.bytes_max = Some(bytes_max);
        Verdict::Smaller(bytes_max)
    }

    fn of(&mut self, broker: &Arc<str>) -> &mut Broker {
        let found = self.brokers.iter().position(|known| known.name == *broker);
        let at = found.unwrap_or_else(|| {
            if self.brokers.len() == BROKERS_MAX {
                self.brokers.pop_front();
            }
            self.brokers.push_back(Broker {
                name: Arc::clone(broker),
                acknowledged: 0,
                closes: 0,
                bytes_max: None,
            });
            self.brokers.len() - 1
        });
        &mut self.brokers[at]
    }
}

/// Ended from the other side, which did not say why.
const fn is_without_reason(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::Reset
            | Cause::ClosedByServer(
                Inference::Nothing | Inference::Poison | Inference::TakeoverOrAccess
            )
    )
}

#[cfg(test)]
mod tests;
