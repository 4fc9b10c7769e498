//! In which order, and when, the addresses of one name are tried: RFC 8305, "Happy Eyeballs".
//!
//! ```text
//!  a, IPv6  ├──────── no answer ──────────────► dropped: c was faster
//!  b, IPv4  ├delay┤─ refused
//!  c, IPv6               ├──── connected
//! ```
//!
//! The next address starts when the delay has passed or one under way fails, whichever comes first. The owner asks
//! [`Race::poll_start`] until it says none, then waits for [`Race::poll_timeout`] or the outcome of an address.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use crate::time::Instant;

/// Addresses of one name that are tried before the attempt is given up.
pub const ADDRESSES_MAX: usize = 8;
/// From the start of one address to that of the next (RFC 8305 section 8: the recommended value).
pub const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// However little time there is for all of them (RFC 8305 section 8: the least that is recommended).
pub const ATTEMPT_DELAY_MIN: Duration = Duration::from_millis(100);

/// The addresses of one attempt that wait for their turn, and how many are under way.
#[derive(Clone, Debug)]
pub struct Race {
    waiting: VecDeque<SocketAddr>,
    under_way: usize,
    next_at: Instant,
    delay: Duration,
}

impl Race {
    /// A race of what a name resolved to, in the resolver's order of preference, within `budget`.
    #[must_use]
    pub fn new(now: Instant, resolved: &[SocketAddr], budget: Duration) -> Self {
        let waiting = interleave(resolved);
        let share = budget / u32::try_from(waiting.len().max(1)).unwrap_or(u32::MAX);
        Self {
            waiting,
            under_way: 0,
            next_at: now,
            delay: share.clamp(ATTEMPT_DELAY_MIN, ATTEMPT_DELAY),
        }
    }

    /// The address to start now, if it is time for one.
    pub fn poll_start(&mut self, now: Instant) -> Option<SocketAddr> {
        if now < self.next_at {
            return None;
        }
        let address = self.waiting.pop_front()?;
        self.under_way += 1;
        self.next_at = now + self.delay;
        Some(address)
    }

    /// When to ask for the next address; none when there is none left.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then_some(self.next_at)
    }

    /// An address that was started failed: the next one need not wait.
    pub fn failed(&mut self, now: Instant) {
        self.under_way = self.under_way.saturating_sub(1);
        self.next_at = now;
    }

    /// Whether every address was started and failed.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.under_way == 0 && self.waiting.is_empty()
    }

    /// The addresses that did not get their turn.
    pub fn waiting(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.waiting.iter().copied()
    }
}

/// One address of each family in turn (RFC 8305 section 4), beginning with the resolver's first; each once, and no more
/// than [`ADDRESSES_MAX`].
fn interleave(resolved: &[SocketAddr]) -> VecDeque<SocketAddr> {
    let first_family = resolved.first().is_some_and(SocketAddr::is_ipv6);
    let (mut these, mut others): (VecDeque<_>, VecDeque<_>) = resolved
        .iter()
        .copied()
        .partition(|address| address.is_ipv6() == first_family);
    let mut order = VecDeque::with_capacity(ADDRESSES_MAX);
    while order.len() < ADDRESSES_MAX {
        let Some(address) = these.pop_front().or_else(|| others.pop_front()) else {
            break;
        };
        if !order.contains(&address) {
            order.push_back(address);
            std::mem::swap(&mut these, &mut others);
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_start(Duration::from_millis(ms))
    }

    fn v4(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 1883))
    }

    fn v6(last: u16) -> SocketAddr {
        SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, last], 1883))
    }

    const BUDGET: Duration = Duration::from_secs(10);

    #[test]
    fn families_take_turns_beginning_with_the_preferred_one() {
        let order = interleave(&[v6(1), v6(2), v6(3), v4(1), v4(2), v6(1)]);
        assert_eq!(order, [v6(1), v4(1), v6(2), v4(2), v6(3)]);
        let order = interleave(&[v4(1), v4(2), v6(1)]);
        assert_eq!(order, [v4(1), v6(1), v4(2)]);
    }

    #[test]
    fn many_addresses_of_one_family_do_not_crowd_out_the_other() {
        let mut resolved: Vec<_> = (0..40).map(v6).collect();
        resolved.push(v4(1));
        let order = interleave(&resolved);
        assert_eq!(order.len(), ADDRESSES_MAX);
        assert_eq!(order.get(1), Some(&v4(1)));
    }

    #[test]
    fn a_silent_address_holds_the_next_one_up_for_the_delay_only() {
        let mut race = Race::new(at(0), &[v6(1), v4(1)], BUDGET);
        assert_eq!(race.poll_start(at(0)), Some(v6(1)));
        assert_eq!(race.poll_start(at(249)), None);
        assert_eq!(race.poll_timeout(), Some(at(250)));
        assert_eq!(race.poll_start(at(250)), Some(v4(1)));
        assert_eq!(race.poll_timeout(), None);
        race.failed(at(300));
        assert!(!race.is_lost(), "the silent one may still answer");
        race.failed(at(9000));
        assert!(race.is_lost());
    }

    #[test]
    fn a_refusal_lets_the_next_one_start_at_once() {
        let mut race = Race::new(at(0), &[v6(1), v4(1), v6(2)], BUDGET);
        assert_eq!(race.poll_start(at(0)), Some(v6(1)));
        race.failed(at(3));
        assert_eq!(race.poll_start(at(3)), Some(v4(1)));
        assert_eq!(race.poll_start(at(3)), None);
        assert_eq!(race.waiting().collect::<Vec<_>>(), [v6(2)]);
    }

    #[test]
    fn little_time_is_shared_out() {
        let resolved: Vec<_> = (0..8).map(v4).collect();
        let race = Race::new(at(0), &resolved, Duration::from_secs(1));
        assert_eq!(race.delay, Duration::from_millis(125));
        let race = Race::new(at(0), &resolved, Duration::from_millis(100));
        assert_eq!(race.delay, ATTEMPT_DELAY_MIN);
    }

    proptest! {
        #[test]
        fn every_address_is_started_once_and_never_two_within_the_delay(
            families in prop::collection::vec(any::<bool>(), 1..20),
            steps in prop::collection::vec((0u64..400, any::<bool>()), 0..60),
        ) {
            let resolved: Vec<_> = families
                .iter()
                .zip(0u8..)
                .map(|(&six, n)| if six { v6(n.into()) } else { v4(n) })
                .collect();
            let mut race = Race::new(at(0), &resolved, BUDGET);
            let (mut ms, mut started, mut free) = (0, Vec::new(), true);
            for (step, fails) in steps {
                ms += step;
                let last = started.last().map(|&(_, at)| at);
                if let Some(address) = race.poll_start(at(ms)) {
                    prop_assert!(free || last.is_none_or(|last| ms >= last + 250));
                    started.push((address, ms));
                    free = false;
                }
                if fails && race.under_way > 0 {
                    race.failed(at(ms));
                    free = true;
                }
            }
            let mut addresses: Vec<_> = started.iter().map(|&(address, _)| address).collect();
            addresses.sort_unstable();
            addresses.dedup();
            prop_assert_eq!(addresses.len(), started.len());
            prop_assert!(started.len() + race.waiting().count() == resolved.len().min(ADDRESSES_MAX));
        }
    }
}
