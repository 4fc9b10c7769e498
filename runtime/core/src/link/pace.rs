//! How fast publishes go to a broker that has said they are too many (MQTT 5.0 reason codes 0x96 and 0x97).
//!
//! ```text
//!  Free ──quota──► Paced: half as fast as before ──quota──► half as fast again, down to one in a second
//!                    │ └── ten seconds without ──► a tenth faster
//!                    └── twice as fast as what was too much, or half an hour without ──► Free
//! ```
//!
//! Additive increase, multiplicative decrease, as TCP does it (Chiu and Jain 1989): gateways that share a quota come to share
//! it fairly.

use std::time::Duration;

use crate::time::Instant;

/// One publish in this time is as slow as it gets: a publish carries many readings.
pub const INTERVAL_MAX: Duration = Duration::from_secs(1);
/// So long without a quota makes it faster.
const FASTER_EVERY: Duration = Duration::from_secs(10);
/// So long without a quota ends it.
const FORGIVEN_AFTER: Duration = Duration::from_secs(1800);
/// What went is counted over this.
const COUNTED_OVER: Duration = Duration::from_secs(1);
/// Publishes may catch up so much: no timer is exact.
const BURST: Duration = Duration::from_millis(20);

/// The rate that a broker's quota leaves.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// Publishes since `counted_from`, and in the whole time before.
    count: u32,
    counted_from: Option<Instant>,
    counted: u32,
    paced: Option<Paced>,
}

#[derive(Clone, Copy, Debug)]
struct Paced {
    interval: Duration,
    /// Of what was too much.
    refused: Duration,
    next_at: Instant,
    /// The last quota, and the last time it got faster.
    quota_at: Instant,
    faster_at: Instant,
}

impl Pace {
    /// When the next publish may go; none: now.
    #[must_use]
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        self.paced
            .map(|paced| paced.next_at)
            .filter(|next_at| *next_at > now)
    }

    /// A publish goes.
    pub fn sent(&mut self, now: Instant) {
        let from = *self.counted_from.get_or_insert(now);
        if now.saturating_since(from) >= COUNTED_OVER {
            self.counted = if now.saturating_since(from) < COUNTED_OVER * 2 {
                self.count
            } else {
                0
            };
            self.count = 0;
            self.counted_from = Some(now);
        }
        self.count = self.count.saturating_add(1);
        let Some(paced) = &mut self.paced else { return };
        let behind = now.saturating_since(paced.next_at).min(BURST);
        paced.next_at = now + paced.interval.saturating_sub(behind);
        if now.saturating_since(paced.faster_at) >= FASTER_EVERY {
            paced.faster_at = now;
            paced.interval = paced.interval * 10 / 11;
        }
        let enough = paced.interval * 2 <= paced.refused;
        if enough || now.saturating_since(paced.quota_at) >= FORGIVEN_AFTER {
            self.paced = None;
        }
    }

    /// The broker said that it was too much.
    pub fn quota(&mut self, now: Instant) {
        let (interval, refused) = match self.paced {
            Some(paced) => (paced.interval, paced.refused),
            None => {
                let went = COUNTED_OVER / self.counted.max(self.count).max(1);
                (went, went)
            }
        };
        let interval = (interval * 2).min(INTERVAL_MAX);
        self.paced = Some(Paced {
            interval,
            refused,
            next_at: now,
            quota_at: now,
            faster_at: now,
        });
    }

    /// Publishes a second, where they are limited.
    #[must_use]
    pub fn limit_per_s(&self) -> Option<f64> {
        self.paced.map(|paced| 1.0 / paced.interval.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_start(Duration::from_millis(ms))
    }

    /// Sends as fast as it may for so long; how many went.
    fn send(pace: &mut Pace, now_ms: &mut u64, for_ms: u64, most_per_s: u64) -> u64 {
        let until = *now_ms + for_ms;
        let mut count = 0;
        while *now_ms < until {
            if pace.ready_at(at(*now_ms)).is_none() {
                pace.sent(at(*now_ms));
                count += 1;
            }
            *now_ms += 1000 / most_per_s;
        }
        count
    }

    #[test]
    fn a_quota_halves_what_went_and_time_gives_it_back() {
        let (mut pace, mut now_ms) = (Pace::default(), 0);
        assert_eq!(send(&mut pace, &mut now_ms, 5_000, 200), 1_000);
        pace.quota(at(now_ms));
        assert_eq!(pace.limit_per_s(), Some(100.0));
        let slower = send(&mut pace, &mut now_ms, 5_000, 1_000);
        assert!((490..=510).contains(&slower), "{slower}");
        pace.quota(at(now_ms));
        assert_eq!(pace.limit_per_s(), Some(50.0));
        // A tenth faster each ten seconds: from 50 past 400 in less than four minutes.
        let mut seconds = 0;
        while pace.limit_per_s().is_some() {
            send(&mut pace, &mut now_ms, 1_000, 1_000);
            seconds += 1;
        }
        assert!((200..=240).contains(&seconds), "{seconds} s");
    }

    #[test]
    fn a_link_that_sends_nothing_is_forgiven_in_time_and_one_that_is_refused_all_the_time_goes_on()
    {
        let (mut pace, mut now_ms) = (Pace::default(), 0);
        for _ in 0..40 {
            pace.quota(at(now_ms));
            assert!(pace.limit_per_s().is_some_and(|limit| limit >= 1.0));
            assert!(send(&mut pace, &mut now_ms, 1_000, 100) >= 1);
        }
        now_ms += 1_800_000;
        pace.sent(at(now_ms));
        assert_eq!(pace.limit_per_s(), None);
    }

    proptest! {
        /// Whatever comes, the next publish is never further away than the slowest pace, and time is never wound back.
        #[test]
        fn no_publish_waits_longer_than_the_slowest_pace(steps in prop::collection::vec((0u64..3_000, any::<bool>()), 1..400)) {
            let (mut pace, mut now_ms) = (Pace::default(), 0);
            for (pause_ms, refused) in steps {
                now_ms += pause_ms;
                if refused {
                    pace.quota(at(now_ms));
                } else {
                    pace.sent(at(now_ms));
                }
                let wait = pace.ready_at(at(now_ms)).map_or(Duration::ZERO, |ready| ready - at(now_ms));
                prop_assert!(wait <= INTERVAL_MAX, "{wait:?}");
            }
        }
    }
}
