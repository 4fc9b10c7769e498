//! How long the peer takes to answer, and how long it is therefore worth waiting for an answer.
//!
//! The estimator of TCP's own retransmission timer (RFC 6298 section 2): a smoothed answer time, and beside it how much
//! single answers stray from that. A satellite line or a broker behind a long queue answers late and is alive; a line of a
//! plant answers within milliseconds, and silence on it is news.

use std::time::Duration;

/// What is known of the answers of one session. All arithmetic saturates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnswerTime {
    known: Option<Estimate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Estimate {
    smoothed: Duration,
    variation: Duration,
}

impl AnswerTime {
    /// One answer took this long, from the last byte of the question to the first of the answer.
    pub fn measured(&mut self, took: Duration) {
        self.known = Some(match self.known {
            None => Estimate {
                smoothed: took,
                variation: took / 2,
            },
            Some(Estimate {
                smoothed,
                variation,
            }) => Estimate {
                smoothed: (smoothed / 8).saturating_mul(7).saturating_add(took / 8),
                variation: (variation / 4)
                    .saturating_mul(3)
                    .saturating_add(smoothed.abs_diff(took) / 4),
            },
        });
    }

    /// The smoothed time of an answer; none before the first.
    #[must_use]
    pub fn smoothed(&self) -> Option<Duration> {
        self.known.map(|known| known.smoothed)
    }

    /// The smoothed distance of single answers from it; none before the first.
    #[must_use]
    pub fn jitter(&self) -> Option<Duration> {
        self.known.map(|known| known.variation)
    }

    /// Nearly every answer comes within this; none before the first.
    #[must_use]
    pub fn expected(&self) -> Option<Duration> {
        self.known.map(|known| {
            known
                .smoothed
                .saturating_add(known.variation.saturating_mul(4))
        })
    }

    /// An answer that takes longer than this is one that will not come: `least` where answers are fast or nothing is known,
    /// longer where they are slow, and `most` however slow they are.
    #[must_use]
    pub fn deadline(&self, least: Duration, most: Duration) -> Duration {
        self.expected()
            .map_or(least, |expected| expected.min(most).max(least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: Duration = Duration::from_secs(5);
    const MOST: Duration = Duration::from_secs(20);

    fn after(answers_ms: &[u64]) -> AnswerTime {
        let mut time = AnswerTime::default();
        for &took in answers_ms {
            time.measured(Duration::from_millis(took));
        }
        time
    }

    #[test]
    fn nothing_known_is_the_least() {
        assert_eq!(AnswerTime::default().deadline(LEAST, MOST), LEAST);
        assert_eq!(AnswerTime::default().smoothed(), None);
    }

    #[test]
    fn a_fast_line_keeps_the_least_whatever_it_was() {
        assert_eq!(after(&[2; 10]).deadline(LEAST, MOST), LEAST);
        assert_eq!(after(&[1_000; 10]).deadline(LEAST, MOST), LEAST);
    }

    #[test]
    fn a_slow_line_gets_its_time_and_no_more_than_the_most() {
        // RFC 6298: the first answer of 3 s is expected again within 3 + 4 * 1.5 s.
        assert_eq!(
            after(&[3_000]).deadline(LEAST, MOST),
            Duration::from_secs(9)
        );
        let steady = after(&[4_000; 60]);
        assert!(
            steady.jitter() < Some(Duration::from_millis(1)),
            "{steady:?}"
        );
        assert_eq!(steady.deadline(LEAST, MOST), LEAST, "late, but never later");
        assert_eq!(after(&[60_000]).deadline(LEAST, MOST), MOST);
    }

    #[test]
    fn what_passed_is_forgotten() {
        let mut time = after(&[15_000]);
        assert_eq!(time.deadline(LEAST, MOST), MOST);
        let mut answers = 0;
        while time.deadline(LEAST, MOST) > LEAST {
            time.measured(Duration::from_millis(10));
            answers += 1;
        }
        assert!(answers <= 25, "{answers}");
    }

    #[test]
    fn no_answer_is_too_long() {
        let mut time = after(&[]);
        time.measured(Duration::MAX);
        time.measured(Duration::ZERO);
        time.measured(Duration::MAX);
        assert_eq!(time.deadline(LEAST, MOST), MOST);
        assert_eq!(
            time.deadline(MOST, LEAST),
            MOST,
            "the least is never undercut"
        );
    }
}
