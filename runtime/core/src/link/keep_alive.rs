//! Which keep-alive to ask for: the configured one, or a shorter one on a way that forgets idle connections.
//!
//! A NAT or a firewall drops its record of a connection that was silent for too long and tells nobody. The next packet is
//! the keep-alive's own PINGREQ; it goes nowhere, or is answered with a reset. Twice in a row is no coincidence: from then
//! on the link speaks sooner than the silence that was fatal, though never sooner than the least the configuration allows.
//!
//! ```text
//!                fatal silence             fatal silence
//!  trusting ──────────────────► suspecting ───────────────┐
//!     ▲ ▲                           │                     ▼
//!     │ └──── any other end ────────┘      ask for 6/10 of the shorter of the two
//!     └──────── the shortened value is kept ──────────────┘ until connections take another way
//! ```
//!
//! The value goes into CONNECT, so that a new one begins with a new session. An MQTT 5.0 server's own keep-alive comes
//! before ours (section 3.1.2.10).

use std::time::Duration;

use super::cause::{Cause, Disconnect};
use crate::mqtt_frame::PacketKind;

/// So many sessions in a row that end at the first word after a long silence point to the silence.
const FATAL_IN_A_ROW: u32 = 2;
/// A silence counts as long from so many tenths of the keep-alive in force on.
const LONG_TENTHS: u32 = 8;
/// So many tenths of a silence that was fatal are borne.
const BORNE_TENTHS: u32 = 6;

/// The choice, over sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    most: Duration,
    least: Duration,
    /// In a row, and the shortest of them.
    fatal: u32,
    shortest: Duration,
    shortened: Option<Duration>,
}

impl KeepAlive {
    /// Asks for `most`, and for `least` where a way needs it.
    #[must_use]
    pub const fn new(most: Duration, least: Duration) -> Self {
        Self {
            most,
            least,
            fatal: 0,
            shortest: Duration::MAX,
            shortened: None,
        }
    }

    /// What the next CONNECT asks for.
    #[must_use]
    pub fn ask(&self) -> Duration {
        let borne = self.shortened.unwrap_or(self.most);
        // CONNECT has whole seconds.
        Duration::from_secs(borne.max(self.least).min(self.most).as_secs())
    }

    /// Whether it is shorter than configured.
    #[must_use]
    pub fn is_shortened(&self) -> bool {
        self.ask() < self.most
    }

    /// Learns from the end of a session. The new value, if it changed.
    pub fn ended(&mut self, disconnect: &Disconnect) -> Option<Duration> {
        let Some(silence) = fatal_silence(disconnect) else {
            self.forgive();
            return None;
        };
        self.fatal = self.fatal.saturating_add(1);
        self.shortest = self.shortest.min(silence);
        if self.fatal < FATAL_IN_A_ROW {
            return None;
        }
        let before = self.ask();
        let borne = self.shortest / 10 * BORNE_TENTHS;
        self.shortened = Some(borne.min(before));
        self.forgive();
        let now = self.ask();
        (now < before).then_some(now)
    }

    /// Connections take another way from now on: what the one before did not bear says nothing.
    pub const fn another_way(&mut self) {
        self.forgive();
        self.shortened = None;
    }

    const fn forgive(&mut self) {
        self.fatal = 0;
        self.shortest = Duration::MAX;
    }
}

/// How long both sides had been silent when our next word got no answer but an error; none where the session ended
/// otherwise. Words of ours that were lost in a way that was already dead do not count, so that a line that fails under
/// load is not taken for one that forgets.
fn fatal_silence(disconnect: &Disconnect) -> Option<Duration> {
    let from_the_way = matches!(
        disconnect.cause,
        Cause::Reset | Cause::PingrespTimeout | Cause::BlackHole
    );
    let evidence = &disconnect.evidence;
    if !from_the_way
        || evidence.last_sent != Some(PacketKind::Pingreq.name())
        || evidence.without_route.is_some()
    {
        return None;
    }
    let silence = evidence.silence?.saturating_sub(evidence.since_sent?);
    let in_force = evidence.keep_alive?;
    (!in_force.is_zero() && silence >= in_force / 10 * LONG_TENTHS).then_some(silence)
}

#[cfg(test)]
mod tests {
    use super::super::cause::{Certainty, Evidence, MqttVersion, Phase};
    use super::*;

    const MOST: Duration = Duration::from_secs(300);
    const LEAST: Duration = Duration::from_secs(10);

    fn end(cause: Cause, silence_s: u64, since_sent_s: u64, in_force: Duration) -> Disconnect {
        Disconnect {
            cause,
            certainty: Certainty::Certain,
            phase: Phase::Session,
            version: MqttVersion::V5,
            evidence: Evidence {
                silence: Some(Duration::from_secs(silence_s)),
                since_sent: Some(Duration::from_secs(since_sent_s)),
                keep_alive: Some(in_force),
                last_sent: Some(PacketKind::Pingreq.name()),
                ..Evidence::default()
            },
            smaller_publishes: None,
        }
    }

    /// A way that bears only so much silence, as seen over so many sessions.
    fn after_sessions(bears: Duration, sessions: usize) -> KeepAlive {
        let mut keep_alive = KeepAlive::new(MOST, LEAST);
        for _ in 0..sessions {
            let ask = keep_alive.ask();
            if ask <= bears {
                break;
            }
            let silence_s = ask.as_secs() + 5;
            keep_alive.ended(&end(Cause::PingrespTimeout, silence_s, 5, ask));
        }
        keep_alive
    }

    #[test]
    fn a_way_that_forgets_is_spoken_to_sooner() {
        let minute = Duration::from_secs(60);
        assert_eq!(after_sessions(minute, 1).ask(), MOST, "one may be chance");
        assert_eq!(after_sessions(minute, 2).ask(), Duration::from_secs(180));
        let learnt = after_sessions(minute, 100);
        assert!(
            learnt.ask() <= minute && learnt.is_shortened(),
            "{learnt:?}"
        );
        assert_eq!(after_sessions(Duration::from_secs(1), 100).ask(), LEAST);
    }

    #[test]
    fn only_a_word_after_a_long_silence_counts() {
        let mut keep_alive = KeepAlive::new(MOST, LEAST);
        let mut under_load = end(Cause::PingrespTimeout, 8, 5, MOST);
        let mut publishing = end(Cause::Reset, 301, 1, MOST);
        publishing.evidence.last_sent = Some(PacketKind::Publish.name());
        let mut unplugged = end(Cause::PingrespTimeout, 305, 5, MOST);
        unplugged.evidence.without_route = Some(Duration::from_secs(9));
        let closed = end(Cause::ServerShuttingDown, 301, 1, MOST);
        for _ in 0..5 {
            for other in [&under_load, &publishing, &unplugged, &closed] {
                assert_eq!(keep_alive.ended(other), None, "{other}");
            }
        }
        under_load.evidence.keep_alive = Some(Duration::ZERO);
        assert_eq!(keep_alive.ended(&under_load), None);
        assert!(!keep_alive.is_shortened());
    }

    #[test]
    fn another_end_in_between_is_no_row() {
        let mut keep_alive = KeepAlive::new(MOST, LEAST);
        let fatal = end(Cause::Reset, 300, 0, MOST);
        for _ in 0..5 {
            assert_eq!(keep_alive.ended(&fatal), None);
            keep_alive.ended(&end(Cause::ServerShuttingDown, 1, 1, MOST));
        }
        keep_alive.ended(&fatal);
        assert_eq!(keep_alive.ended(&fatal), Some(Duration::from_secs(180)));
    }

    #[test]
    fn another_way_starts_over() {
        let mut keep_alive = after_sessions(Duration::from_secs(60), 100);
        keep_alive.another_way();
        assert_eq!(keep_alive.ask(), MOST);
    }

    #[test]
    fn a_least_above_the_most_asks_for_the_most() {
        let keep_alive = KeepAlive::new(Duration::from_secs(5), LEAST);
        assert_eq!(keep_alive.ask(), Duration::from_secs(5));
        assert!(!keep_alive.is_shortened());
    }
}
