use proptest::prelude::*;

use super::*;
use crate::link::backoff::full_jitter;

fn scenario(gateways: u32, outage_s: u64, accept_per_s: u32) -> Scenario {
    Scenario {
        gateways,
        outage: Duration::from_secs(outage_s),
        accept_per_s,
        backlog: 2 * accept_per_s,
        overload: Overload::Busy,
        connack_timeout: Duration::from_secs(10),
        seed: 7,
        link: Settings::default(),
        local_time: None,
        metered: false,
    }
}

fn run(scenario: &Scenario, pacing: Pacing, advise: &mut Advise<'_>) -> Outcome {
    let mut fleet = Fleet::new(scenario, pacing);
    let mut until = Duration::ZERO;
    while fleet.advance(until, advise) {
        until += Duration::from_secs(10);
    }
    fleet.outcome()
}

fn absent(_question: &Question) -> Result<Decision, PolicyFault> {
    Err(PolicyFault::Absent)
}

fn zero(_question: &Question) -> Result<Decision, PolicyFault> {
    Ok(Decision::RetryAfter(Duration::ZERO))
}

const FIXED: Pacing = Pacing::Peer(PeerRule::Fixed(Duration::from_secs(15)));
const EXPONENTIAL: Pacing = Pacing::Peer(PeerRule::Exponential {
    first: Duration::from_secs(1),
    most: Duration::from_secs(120),
});

#[test]
fn the_built_in_policy_brings_everybody_back_without_a_storm() {
    let outcome = run(&scenario(2_000, 300, 100), Pacing::Link, &mut absent);
    assert_eq!((outcome.back, outcome.parked), (2_000, 0));
    assert_eq!((outcome.policy_faults, outcome.clamped), (0, 0));
    assert!(outcome.peak_after_return_per_s < 100);
    assert!(outcome.refused == 0 && outcome.unanswered == 0);
    let [half, most, all] = outcome.back_after.map(Option::unwrap);
    assert!(half < most && most <= all && all < Duration::from_secs(125));
}

#[test]
fn clients_in_step_storm_and_the_link_with_the_same_advice_does_not() {
    let scenario = scenario(2_000, 300, 100);
    let peers = run(&scenario, EXPONENTIAL, &mut absent);
    assert!(peers.peak_after_return_per_s > 1_000);
    assert!(peers.refused > 2_000);
    assert_eq!(peers.would_be_clamped, 0);

    let peers = run(
        &scenario,
        Pacing::Peer(PeerRule::Fixed(Duration::ZERO)),
        &mut absent,
    );
    assert!(peers.would_be_clamped > peers.connects / 2);
    let clamped = run(&scenario, Pacing::Link, &mut zero);
    assert_eq!(clamped.clamped, clamped.questions);
    assert!(peers.connects > 5 * clamped.connects);
    assert_eq!(clamped.back, 2_000);
}

#[test]
fn a_peer_waits_as_its_rule_says() {
    let rule = PeerRule::Exponential {
        first: Duration::from_secs(1),
        most: Duration::from_secs(120),
    };
    let waits = [1, 2, 3, 7, 8, 99].map(|attempt| rule.wait(attempt).as_secs());
    assert_eq!(waits, [1, 2, 4, 64, 120, 120]);
}

#[test]
fn a_broker_that_drops_in_silence_costs_the_deadline() {
    let busy = scenario(1_000, 60, 20);
    let silent = Scenario {
        overload: Overload::Silent,
        ..busy
    };
    let (busy, silent) = (
        run(&busy, FIXED, &mut absent),
        run(&silent, FIXED, &mut absent),
    );
    assert_eq!((busy.back, silent.back), (1_000, 1_000));
    assert!(busy.refused > 0 && busy.unanswered == 0);
    assert!(silent.refused == 0 && silent.unanswered > 0);
    assert!(silent.back_after[2] > busy.back_after[2]);
}

#[test]
fn work_for_gateways_that_gave_up_is_work_all_the_same() {
    let scenario = Scenario {
        backlog: 1_000,
        ..scenario(1_000, 60, 20)
    };
    let outcome = run(&scenario, FIXED, &mut absent);
    // The queue is fifty seconds long and gateways wait for ten.
    assert!(outcome.unanswered > 0);
    assert_eq!(
        outcome.accepted,
        u64::from(outcome.back) + outcome.unanswered
    );
}

#[test]
fn a_fleet_that_cannot_be_back_is_not_waited_for_forever() {
    let outcome = run(&scenario(4_000, 5, 1), FIXED, &mut absent);
    // In step as they are, they leave seconds unused in between.
    assert!((3_000..3_650).contains(&outcome.back), "{}", outcome.back);
    assert!(outcome.back_after[0].is_some());
    assert_eq!(outcome.back_after[2], None);
}

#[test]
fn a_policy_that_fails_is_counted_and_stood_in_for() {
    let mut trap = |_question: &Question| Err(PolicyFault::Trapped);
    let outcome = run(&scenario(200, 30, 50), Pacing::Link, &mut trap);
    assert_eq!(outcome.policy_faults, outcome.questions);
    assert_eq!(outcome.back, 200);
}

#[test]
fn how_far_each_step_goes_changes_nothing() {
    let scenario = scenario(300, 40, 50);
    let by_tens = run(&scenario, Pacing::Link, &mut absent);
    let mut fleet = Fleet::new(&scenario, Pacing::Link);
    assert!(!fleet.advance(Duration::MAX, &mut absent));
    assert_eq!(fleet.outcome(), by_tens);
    assert_eq!(fleet.back(), 300);
    assert_eq!(fleet.connects(), by_tens.connects);
}

/// Any advice at all, by the question's own random bits.
fn whatever(question: &Question) -> Result<Decision, PolicyFault> {
    match question.seed % 6 {
        0 => Ok(Decision::RetryNow),
        1 => Ok(Decision::Park),
        2 => Ok(Decision::RetryAfter(Duration::MAX)),
        3 => Err(PolicyFault::Trapped),
        4 => Err(PolicyFault::Stalled),
        _ => {
            let mut random = Random::seeded(u64::from(question.seed));
            let wait = full_jitter(
                question.attempt,
                question.floor,
                question.ceiling,
                &mut random,
            );
            Ok(Decision::RetryAfter(wait))
        }
    }
}

fn any_scenario() -> impl Strategy<Value = Scenario> {
    (
        1..150_u32,
        0..200_u64,
        5..200_u32,
        any::<u64>(),
        any::<bool>(),
    )
        .prop_map(|(gateways, outage_s, accept_per_s, seed, busy)| Scenario {
            overload: if busy {
                Overload::Busy
            } else {
                Overload::Silent
            },
            seed,
            ..scenario(gateways, outage_s, accept_per_s)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// No advice keeps a gateway out: the host clamps it.
    #[test]
    fn every_gateway_gets_back(scenario in any_scenario()) {
        let outcome = run(&scenario, Pacing::Link, &mut whatever);
        prop_assert_eq!(outcome.back, scenario.gateways);
        prop_assert_eq!(outcome.parked, 0);
        prop_assert!(outcome.back_after.iter().all(Option::is_some));
        let total: u64 = outcome.connects_per_s.iter().map(|&n| u64::from(n)).sum();
        prop_assert_eq!(total, outcome.connects);
    }

    #[test]
    fn the_same_seed_gives_the_same_outcome(scenario in any_scenario()) {
        let outcome = run(&scenario, Pacing::Link, &mut whatever);
        prop_assert_eq!(run(&scenario, Pacing::Link, &mut whatever), outcome);
    }

    /// In whatever second one looks, the broker accepts no more than its rate and its burst.
    #[test]
    fn the_broker_accepts_what_its_bucket_holds(
        accept_per_s in 1..1_000_u32,
        backlog in 0..2_000_u32,
        gaps_us in prop::collection::vec(0..20_000_u64, 1..400),
        window_ms in 1..5_000_u64,
    ) {
        let mut broker = Broker::new(Instant::ZERO, accept_per_s, backlog, Overload::Busy);
        let mut now = Instant::ZERO;
        let mut accepted = Vec::new();
        for gap_us in gaps_us {
            now = now + Duration::from_micros(gap_us);
            match broker.offer(now) {
                Verdict::Accepted(at) => {
                    prop_assert!(at >= now);
                    accepted.push(at);
                }
                Verdict::Busy => {}
                Verdict::Away | Verdict::Dropped => prop_assert!(false, "neither can be"),
            }
        }
        prop_assert!(accepted.is_sorted());
        prop_assert_eq!(broker.accepted, accepted.len() as u64);
        let window = Duration::from_millis(window_ms);
        let most = u64::from(accept_per_s) * window_ms / 1_000 + 1 + u64::from(burst(accept_per_s));
        for (index, &from) in accepted.iter().enumerate() {
            let within = accepted[index..].iter().take_while(|&&at| at - from < window).count();
            prop_assert!(within as u64 <= most, "{within} in {window:?}");
        }
    }
}
