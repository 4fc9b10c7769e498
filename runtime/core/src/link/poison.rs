//! Which message a broker ends sessions over, found by sending less and less at once.
//!
//! ```text
//!             the same oldest message twice
//!  Usual ─────────────────────────────────────► Careful: messages go one by one, nothing else in flight,
//!    ▲                                                   through the newest that was in flight
//!    └── all of them delivered ─────────────────  │ the same message alone twice
//!                                                 └──► that one is set aside; careful goes on
//! ```
//!
//! With a full window the oldest message is only a suspect: the broker may have died of any that was in flight. Alone in
//! flight, and twice, it is guilty.

use crate::message::Sequence;

/// Sessions that must end right after a message that was alone in flight.
const SESSIONS_ALONE: u32 = 2;

/// A message that is to be set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guilty {
    /// The message.
    pub sequence: Sequence,
    /// How many sessions ended right after it while it was alone.
    pub sessions: u32,
}

/// The machine. It outlives sessions.
#[derive(Clone, Debug, Default)]
pub struct Poison {
    careful_through: Option<Sequence>,
    alone: Option<Guilty>,
    guilty: Option<Guilty>,
}

impl Poison {
    /// Messages through this one go one by one, each alone in flight.
    #[must_use]
    pub const fn careful_through(&self) -> Option<Sequence> {
        self.careful_through
    }

    /// The message that is not to be sent again.
    #[must_use]
    pub const fn guilty(&self) -> Option<Guilty> {
        self.guilty
    }

    /// A session ended. `pointed` is what the classifier holds against a message, with how many ends in a row; `newest` the
    /// last message that was in flight. True when there is a new guilty one.
    pub fn ended(&mut self, pointed: Option<(Sequence, u32)>, newest: Option<Sequence>) -> bool {
        let Some((suspect, in_a_row)) = pointed else {
            return false;
        };
        if self.careful_through.is_none() {
            if in_a_row > 1 {
                self.careful_through = Some(newest.unwrap_or(suspect).max(suspect));
            }
            return false;
        }
        let sessions = match self.alone {
            Some(alone) if alone.sequence == suspect => alone.sessions + 1,
            Some(_) | None => 1,
        };
        let alone = Guilty {
            sequence: suspect,
            sessions,
        };
        self.alone = Some(alone);
        let found = sessions >= SESSIONS_ALONE;
        if found {
            self.alone = None;
            self.guilty = Some(alone);
        }
        found
    }

    /// Everything through `cursor` is settled. True when messages may go as usual again.
    pub fn settled(&mut self, cursor: Sequence) -> bool {
        if self.guilty.is_some_and(|guilty| guilty.sequence <= cursor) {
            self.guilty = None;
        }
        let done = self
            .careful_through
            .is_some_and(|through| through <= cursor);
        if done {
            self.careful_through = None;
            self.alone = None;
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_guilty_once_it_was_alone_twice() {
        let mut poison = Poison::default();
        assert!(!poison.ended(Some((Sequence(5), 1)), Some(Sequence(20))));
        assert_eq!(poison.careful_through(), None, "once may be chance");
        assert!(!poison.ended(Some((Sequence(5), 2)), Some(Sequence(20))));
        assert_eq!(poison.careful_through(), Some(Sequence(20)));
        // The oldest was innocent: it was delivered, and the broker dies of another.
        assert!(!poison.settled(Sequence(8)));
        assert!(!poison.ended(Some((Sequence(9), 1)), Some(Sequence(9))));
        assert!(!poison.ended(None, None), "the network may fail as well");
        assert!(poison.ended(Some((Sequence(9), 2)), Some(Sequence(9))));
        let guilty = Guilty {
            sequence: Sequence(9),
            sessions: 2,
        };
        assert_eq!(poison.guilty(), Some(guilty));
        assert!(!poison.settled(Sequence(9)));
        assert_eq!(
            (poison.guilty(), poison.careful_through()),
            (None, Some(Sequence(20)))
        );
        assert!(poison.settled(Sequence(20)));
        assert_eq!(poison.careful_through(), None);
    }
}
