//! What a platform sees of a link that honours its limits, whatever the way does in between.

use proptest::prelude::*;

use super::*;

fn at(ms: u64) -> Instant {
    Instant::from_start(Duration::from_millis(ms))
}

fn limit(count: u32, seconds: u32) -> Limit {
    Limit { count, seconds }
}

fn points(limits: &[Limit]) -> Limits {
    Limits {
        telemetry_points: limits.to_vec(),
        ..Limits::default()
    }
}

fn quota(devices: &Limits) -> Quota {
    let mut quota = Quota::new(80);
    quota.follow(devices, &Limits::default(), 80);
    quota
}

fn cost(points: usize) -> Cost {
    Cost::telemetry(points)
}

/// The platform's own counter: a bucket4j bucket of one bandwidth, refilled greedily.
struct Bucket {
    limit: Limit,
    /// In nano-tokens times seconds: exact.
    level: u128,
    at_ms: u64,
}

impl Bucket {
    fn new(limit: Limit) -> Self {
        Self {
            limit,
            level: Self::unit(limit) * u128::from(limit.count),
            at_ms: 0,
        }
    }

    fn unit(limit: Limit) -> u128 {
        u128::from(limit.seconds) * 1000
    }

    fn try_consume(&mut self, at_ms: u64, amount: u64) -> bool {
        let most = Self::unit(self.limit) * u128::from(self.limit.count);
        let refilled = u128::from(at_ms - self.at_ms) * u128::from(self.limit.count);
        self.level = (self.level + refilled).min(most);
        self.at_ms = at_ms;
        let wanted = Self::unit(self.limit) * u128::from(amount);
        if wanted > self.level {
            return false;
        }
        self.level -= wanted;
        true
    }
}

/// What arrived when.
fn most_in_a_window(arrivals: &[(u64, u64)], window_ms: u64) -> u64 {
    let mut most = 0;
    let (mut sum, mut first) = (0, 0);
    for (ms, amount) in arrivals {
        sum += amount;
        while arrivals[first].0 + window_ms <= *ms {
            sum -= arrivals[first].1;
            first += 1;
        }
        most = most.max(sum);
    }
    most
}

/// One publish after the other as fast as they may go, over a way on which each takes `delay_ms(n)` to arrive and
/// `delay_ms(n) * 2` to be answered, in order. What arrived when, until `for_ms`.
fn send(
    quota: &mut Quota,
    for_ms: u64,
    amount: impl Fn(usize) -> u64,
    delay_ms: impl Fn(usize) -> u64,
) -> Vec<(u64, u64)> {
    let mut arrivals = Vec::new();
    let mut answers: std::collections::VecDeque<(u64, Cost)> = std::collections::VecDeque::new();
    let (mut now_ms, mut last_arrival, mut last_answer) = (0, 0, 0);
    while now_ms < for_ms {
        while answers.front().is_some_and(|(ms, _)| *ms <= now_ms) {
            if let Some((_, cost)) = answers.pop_front() {
                quota.answered(at(now_ms), &cost);
            }
        }
        let n = arrivals.len();
        let cost = cost(usize::try_from(amount(n)).unwrap_or(usize::MAX));
        match quota.admits(at(now_ms), &cost) {
            Admission::Now => {
                quota.sent(at(now_ms), &cost);
                last_arrival = last_arrival.max(now_ms + delay_ms(n));
                last_answer = last_answer.max(last_arrival + delay_ms(n));
                arrivals.push((last_arrival, amount(n)));
                answers.push_back((last_answer, cost));
            }
            Admission::Held { until, .. } => {
                let answer = answers.front().map(|(ms, _)| *ms);
                let until = until.map(|until| {
                    u64::try_from(until.since_start().as_micros().div_ceil(1000))
                        .unwrap_or(u64::MAX)
                });
                let next = until.into_iter().chain(answer).min();
                assert!(next.is_some(), "nothing is awaited, and nothing may go");
                now_ms = next.unwrap_or(u64::MAX).max(now_ms + 1);
            }
        }
    }
    arrivals
}

#[test]
fn four_fifths_of_a_limit_go_in_the_long_run() {
    for (limits, per_s) in [
        (vec![limit(200, 1)], 160.0),
        (vec![limit(200, 1), limit(6000, 60)], 80.0),
        (vec![limit(60, 60)], 0.8),
        (vec![limit(100_000, 3600)], 22.22),
    ] {
        let mut quota = quota(&points(&limits));
        let hours = 2.0;
        let sent = send(&mut quota, 7_200_000, |_| 1, |_| 5);
        let rate = sent.len() as f64 / (hours * 3600.0);
        assert!(rate >= per_s * 0.95, "{limits:?}: {rate} a second");
        // The first burst comes to that.
        assert!(rate <= per_s * 1.15, "{limits:?}: {rate} a second");
    }
}

#[test]
fn a_line_that_holds_everything_up_for_seconds_breaks_no_limit() {
    let limits = [limit(10, 1), limit(300, 60)];
    let mut quota = quota(&points(&limits));
    let stalls = |n: usize| if n.is_multiple_of(40) { 3_000 } else { 20 };
    let arrivals = send(&mut quota, 600_000, |_| 1, stalls);
    assert!(arrivals.len() > 1_500, "{}", arrivals.len());
    for limit in limits {
        let most = most_in_a_window(&arrivals, u64::from(limit.seconds) * 1000);
        assert!(most <= u64::from(limit.count), "{most} against {limit}");
    }
}

#[test]
fn what_holds_is_named_and_a_quota_without_limits_is_paced() {
    let mut quota = quota(&points(&[limit(10, 1), limit(20, 60)]));
    let five = cost(5);
    assert_eq!(quota.admits(at(0), &five), Admission::Now);
    quota.sent(at(0), &five);
    quota.answered(at(10), &five);
    let Admission::Held { until, by } = quota.admits(at(10), &five) else {
        panic!("five more are too much");
    };
    assert_eq!(by.to_string(), "20 in 60 s: telemetry data points");
    assert!(until.is_some_and(|until| until > at(10_000)), "{until:?}");
    let own = Cost::telemetry(1).of_itself();
    assert_eq!(quota.admits(at(10), &own), Admission::Now, "its own limits");
    let mut quota = Quota::new(80);
    quota.sent(at(0), &five);
    assert!(!quota.is_limited());
    quota.exceeded(at(10));
    quota.sent(at(10), &five);
    let held = quota.admits(at(11), &five);
    let Admission::Held { by, .. } = held else {
        panic!("half as fast: {held:?}");
    };
    assert_eq!(by, HeldBy::Pace);
    assert!(quota.is_limited());
}

#[test]
fn a_publish_is_sized_so_that_messages_cost_no_points() {
    let limits = Limits {
        messages: vec![limit(200, 1)],
        telemetry_messages: vec![limit(5, 60)],
        telemetry_points: vec![limit(1000, 60)],
    };
    let most = quota(&limits).cost_max();
    assert_eq!(most.telemetry_points, 200, "five of them are a thousand");
    assert_eq!(most.telemetry_messages, 1);
    assert_eq!(most.messages, 160);
    assert_eq!(Quota::new(80).cost_max(), Cost::UNBOUNDED);
    let cloud = points(&[limit(10, 1), limit(300, 60)]);
    assert_eq!(quota(&cloud).cost_max().telemetry_points, 8);
}

#[test]
fn new_limits_keep_what_is_known_of_the_old() {
    let mut quota = quota(&points(&[limit(10, 60)]));
    let eight = cost(8);
    quota.sent(at(0), &eight);
    quota.answered(at(5), &eight);
    let both = points(&[limit(10, 60), limit(5, 1)]);
    quota.follow(&both, &Limits::default(), 80);
    assert_ne!(quota.admits(at(10), &eight), Admission::Now);
    quota.follow(&Limits::default(), &Limits::default(), 80);
    assert_eq!(quota.admits(at(10), &eight), Admission::Now);
}

fn some_limits() -> impl Strategy<Value = Vec<Limit>> {
    let one = (1u32..400, 1u32..90).prop_map(|(count, seconds)| limit(count, seconds));
    prop::collection::vec(one, 1..4)
}

proptest! {
    /// Whatever arrives when, no window sees more than its limit, and the platform's buckets never run empty.
    #[test]
    fn no_window_ever_sees_more_than_its_limit(
        limits in some_limits(),
        share in 1u32..=100,
        amounts in prop::collection::vec(1u64..50, 1..40),
        delays in prop::collection::vec(prop_oneof![9 => 0u64..60, 1 => 500u64..9_000], 1..40),
    ) {
        let mut quota = Quota::new(share);
        quota.follow(&points(&limits), &Limits::default(), share);
        let least = limits.iter().map(|limit| u64::from(limit.count)).min().unwrap_or(1);
        let amount = |n: usize| amounts[n % amounts.len()].min(least);
        let delay = |n: usize| delays[n % delays.len()];
        let arrivals = send(&mut quota, 200_000, amount, delay);
        for limit in limits {
            let most = most_in_a_window(&arrivals, u64::from(limit.seconds) * 1000);
            prop_assert!(most <= u64::from(limit.count), "{most} against {limit}");
            let mut bucket = Bucket::new(limit);
            for (ms, amount) in &arrivals {
                prop_assert!(bucket.try_consume(*ms, *amount), "{limit} at {ms} ms");
            }
        }
    }

    /// However the arrivals are spread, and whatever a publish counts as, it goes once its turn has come.
    #[test]
    fn nothing_waits_for_ever(
        limits in some_limits(),
        share in 1u32..=100,
        steps in prop::collection::vec((0u64..5_000, 1usize..1_000), 1..60),
    ) {
        let mut quota = Quota::new(share);
        quota.follow(&points(&limits), &Limits::default(), share);
        let mut now = Instant::ZERO;
        for (pause_ms, amount) in steps {
            now = now + Duration::from_millis(pause_ms);
            let cost = cost(amount);
            let mut looks = 0;
            let since = now;
            while let Admission::Held { until, .. } = quota.admits(now, &cost) {
                looks += 1;
                prop_assert!(looks < 50, "it is put off again and again");
                let until = until.unwrap_or(Instant::ZERO);
                prop_assert!(until > now, "nothing is in flight, so that time alone holds it");
                now = until;
            }
            let waited = now.saturating_since(since);
            prop_assert!(waited <= quota.wait_max(), "{waited:?}");
            quota.sent(now, &cost);
            if amount % 3 == 0 {
                quota.over(now);
            } else {
                quota.answered(now, &cost);
            }
        }
    }
}
