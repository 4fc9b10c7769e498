//! Whether a question has got through to the peer's kernel, or stands behind bytes that are still on their way.
//!
//! ```text
//!  everything written to the connection
//!  ├──────────── acknowledged by the peer's kernel ────────────┤──── queued ────┤
//!                                  ▲ question: through                ▲ question: held up, as long as the queue moves
//! ```
//!
//! A peer behind a narrow line is silent while our question waits in this machine; that silence is the line's and not the
//! peer's. It is the peer's from the moment on at which the question is through, and nobody's excuse when nothing moves.
//! That bytes written after the question are on their way, as they always are under load, says nothing.

use crate::time::Instant;

/// The connection's bytes at one look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Written in the life of the connection. Before TLS is enough: what the kernel gets is more, never less.
    pub written: u64,
    /// Of what was written, not acknowledged by the peer's kernel.
    pub queued: u64,
}

/// What became of one question after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passage {
    asked_at: Option<Instant>,
    last: Option<Seen>,
    held_until: Option<Instant>,
}

impl Passage {
    /// Looks at `now` after the question of `asked_at`, up to and with which `asked` bytes were written.
    pub fn look(&mut self, now: Instant, asked_at: Instant, asked: u64, seen: Seen) {
        if self.asked_at != Some(asked_at) {
            *self = Self {
                asked_at: Some(asked_at),
                ..Self::default()
            };
        }
        let behind = seen.written.saturating_sub(asked);
        let through = seen.queued <= behind;
        let moved = self.last.replace(seen).is_some_and(|last| {
            let more = seen.written.saturating_sub(last.written);
            seen.queued < last.queued.saturating_add(more)
        });
        if moved && !through {
            self.held_until = Some(now);
        }
    }

    /// Nothing is asked.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Until when the question was seen to be held up by bytes that moved: the peer's time to answer counts from there.
    #[must_use]
    pub const fn held_until(&self) -> Option<Instant> {
        self.held_until
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_start(Duration::from_millis(ms))
    }

    /// A question at 3 s, with 10 000 bytes written up to it, and looks at these times.
    fn after(looks: &[(u64, u64, u64)]) -> Option<Instant> {
        let mut passage = Passage::default();
        for &(ms, written, queued) in looks {
            passage.look(at(ms), at(3_000), 10_000, Seen { written, queued });
        }
        passage.held_until()
    }

    /// A peer whose kernel is well and whose process is gone, under a load of QoS 0: something is always on its way.
    #[test]
    fn bytes_behind_the_question_excuse_nobody() {
        let looks = [
            (3_500, 15_000, 200),
            (4_000, 20_000, 700),
            (7_999, 60_000, 50),
        ];
        assert_eq!(after(&looks), None);
    }

    #[test]
    fn a_queue_before_the_question_that_does_not_move_excuses_nobody() {
        assert_eq!(after(&[(3_500, 10_000, 4_000)]), None, "nothing to compare");
        let gone = [
            (3_500, 10_000, 4_000),
            (4_000, 12_000, 6_000),
            (4_500, 12_000, 6_000),
        ];
        assert_eq!(after(&gone), None);
    }

    #[test]
    fn a_question_behind_bytes_that_move_is_held_up_until_it_is_through() {
        let mut looks = vec![
            (3_500, 10_000, 9_000),
            (4_000, 10_000, 8_000),
            (4_500, 12_000, 9_000),
        ];
        assert_eq!(after(&looks), Some(at(4_500)), "what is written adds to it");
        looks.push((5_000, 12_000, 2_000));
        assert_eq!(after(&looks), Some(at(4_500)), "2 000 came behind it");
        looks.push((5_500, 14_000, 100));
        assert_eq!(after(&looks), Some(at(4_500)));
    }

    #[test]
    fn each_question_has_its_own_passage() {
        let mut passage = Passage::default();
        let seen = |written, queued| Seen { written, queued };
        passage.look(at(100), at(0), 1_000, seen(1_000, 900));
        passage.look(at(600), at(0), 1_000, seen(1_000, 500));
        assert_eq!(passage.held_until(), Some(at(600)));
        passage.look(at(700), at(650), 2_000, seen(2_000, 400));
        assert_eq!(passage.held_until(), None);
        passage.look(at(800), at(650), 2_000, seen(2_000, 300));
        assert_eq!(passage.held_until(), Some(at(800)));
        passage.forget();
        assert_eq!(passage, Passage::default());
    }
}
