//! Several brokers: which one is next, when, and who is left out.

use proptest::prelude::*;

use super::super::endpoints::{Endpoint, FOLLOW_EVERY, ServerReference};
use super::*;

fn several(priorities: &[u16]) -> Link {
    some(Settings::default(), priorities)
}

fn some(settings: Settings, priorities: &[u16]) -> Link {
    let mut link = Link::new(settings, 7);
    let endpoints = priorities
        .iter()
        .enumerate()
        .map(|(number, &priority)| Endpoint {
            name: format!("broker-{number}:1883").into(),
            priority,
            versions: None,
        });
    link.use_endpoints(endpoints.collect());
    link
}

/// The whole trace of a script in which every wait is waited for: an input comes as soon as the link is ready for it.
#[track_caller]
fn trace(link: &mut Link, script: Vec<Input>, expected: &[&str]) {
    let mut lines = Vec::new();
    let mut now = Instant::ZERO;
    for input in script {
        while let State::Waiting { until } = *link.state() {
            now = until;
            link.handle_timeout(now);
            lines.extend(drained(link));
        }
        if let Input::Ended(_) = input
            && let State::Up { .. } = link.state()
        {
            now = now + SESSION;
        }
        link.handle(now, input);
        lines.extend(drained(link));
    }
    assert_eq!(lines, expected);
}

/// Long enough to be stable, if a publish was acknowledged on it.
const SESSION: Duration = Duration::from_secs(60);

fn drained(link: &mut Link) -> Vec<String> {
    std::iter::from_fn(|| link.poll_output())
        .map(|output| match &output {
            Output::Report(record) => format!("{}: {}", record.endpoint, line(&output)),
            Output::Open { .. }
            | Output::Close(_)
            | Output::Redial
            | Output::Knock { .. }
            | Output::Consult(_) => line(&output),
        })
        .collect()
}

fn moved_to(reference: &str) -> Input {
    Input::Ended(Box::new(Disconnect {
        cause: Cause::UseAnotherServer,
        certainty: Certainty::Certain,
        phase: Phase::Connect,
        version: MqttVersion::V5,
        evidence: Evidence {
            server_reference: Some(reference.to_owned()),
            ..Evidence::default()
        },
        smaller_publishes: None,
    }))
}

#[test]
fn a_round_tries_each_once_by_priority_and_only_its_end_asks_the_policy() {
    trace(
        &mut several(&[2, 1, 3]),
        vec![
            Input::Start,
            lost(Cause::ConnectRefused),
            lost(Cause::ConnectTimeout),
            lost(Cause::Unreachable),
            after(5000),
            lost(Cause::ConnectRefused),
        ],
        &[
            "open 5.0 #1 at 1",
            "broker-1:1883: connect-refused -> retry in 1548 ms by host",
            "open 5.0 #2",
            "broker-0:1883: connect-timeout -> retry in 1154 ms by host",
            "open 5.0 #2 at 2",
            "consult Unreachable #1 1000..120000 ms",
            "broker-2:1883: unreachable -> retry in 5000 ms by policy",
            "open 5.0 #2 at 1",
            "broker-1:1883: connect-refused -> retry in 1790 ms by host",
        ],
    );
}

#[test]
fn an_access_rule_of_the_preferred_brokers_does_not_hide_the_one_that_has_none() {
    let refused = || lost(Cause::ClosedByServer(Inference::TakeoverOrAccess));
    trace(
        &mut several(&[1, 2, 3]),
        vec![
            Input::Start,
            refused(),
            after(700_000),
            refused(),
            after(700_000),
            refused(),
            after(700_000),
            Input::Opened,
        ],
        &[
            "open 5.0 #1",
            "consult ClosedByServer #1 600000..900000 ms",
            "broker-0:1883: closed-by-server-takeover-or-access -> retry in 700000 ms by policy",
            "open 5.0 #2 at 1",
            "consult ClosedByServer #1 600000..900000 ms",
            "broker-1:1883: closed-by-server-takeover-or-access -> retry in 700000 ms by policy",
            "open 5.0 #2 at 2",
            "consult ClosedByServer #1 600000..900000 ms",
            "broker-2:1883: closed-by-server-takeover-or-access -> retry in 700000 ms by policy",
            "open 5.0 #2",
        ],
    );
}

#[test]
fn a_session_elsewhere_is_kept_and_its_natural_end_leads_back_to_the_preferred_broker() {
    let mut link = several(&[1, 2]);
    trace(
        &mut link,
        vec![
            Input::Start,
            lost(Cause::ConnectRefused),
            Input::Opened,
            Input::Acknowledged,
            lost(Cause::ServerShuttingDown),
        ],
        &[
            "open 5.0 #1",
            "broker-0:1883: connect-refused -> retry in 1199 ms by host",
            "open 5.0 #2 at 1",
            "broker-1:1883: server-shutting-down -> retry in 1548 ms by host",
        ],
    );
    trace(&mut link, vec![Input::Opened], &["open 5.0 #2"]);
    assert_eq!(link.poll_timeout(), None, "nothing gives it up");
}

#[test]
fn a_session_elsewhere_is_given_up_for_the_preferred_broker_where_that_is_asked_for() {
    let settings = Settings {
        fail_back_after: Some(Duration::from_secs(600)),
        ..Settings::default()
    };
    let mut link = some(settings, &[1, 2]);
    trace(
        &mut link,
        vec![Input::Start, lost(Cause::ConnectRefused), Input::Opened],
        &[
            "open 5.0 #1",
            "broker-0:1883: connect-refused -> retry in 1199 ms by host",
            "open 5.0 #2 at 1",
        ],
    );
    let Some((at, "fail back")) = link.poll_timeout() else {
        panic!("{:?}", link.poll_timeout());
    };
    assert!(at >= Instant::from_start(Duration::from_secs(600)));
    link.handle_timeout(at);
    assert_eq!(drained(&mut link), ["close FailBack"]);
    assert_eq!(link.poll_timeout(), None, "once is enough");
    link.handle(at, lost(Cause::Local(Intent::FailBack)));
    link.handle_timeout(at);
    assert_eq!(
        drained(&mut link),
        [
            "broker-1:1883: local-fail-back -> retry in 0 ms by host",
            "open 5.0 #2",
        ]
    );
    link.handle(at, Input::Opened);
    assert_eq!(link.poll_timeout(), None, "this is the preferred one");
}

#[test]
fn the_link_parks_only_when_every_broker_is_set_aside_and_an_operator_brings_all_back() {
    let mut link = several(&[1, 2]);
    trace(
        &mut link,
        vec![
            Input::Start,
            lost(Cause::ClientIdRefused),
            lost(Cause::ConnectRefused),
            after(1000),
            lost(Cause::BadCredentials),
            Input::Decided(Ok(Decision::Park)),
            Input::Unpark,
            lost(Cause::ConnectRefused),
        ],
        &[
            "open 5.0 #1",
            "broker-0:1883: client-id-refused -> retry in 1199 ms by host",
            "open 5.0 #2 at 1",
            "consult ConnectRefused #1 1000..120000 ms",
            "broker-1:1883: connect-refused -> retry in 1000 ms by policy",
            "open 5.0 #2 at 1",
            "consult CredentialsRefused #2 120000..120000 ms",
            "broker-1:1883: bad-credentials -> parked Policy by policy",
            "open 5.0 #1",
            "broker-0:1883: connect-refused -> retry in 1864 ms by host",
        ],
    );
}

#[test]
fn a_policy_that_parks_sets_one_broker_aside() {
    trace(
        &mut several(&[1, 2]),
        vec![
            Input::Start,
            lost(Cause::ConnectRefused),
            lost(Cause::BadCredentials),
            Input::Decided(Ok(Decision::Park)),
            lost(Cause::ConnectRefused),
            after(2000),
            lost(Cause::ConnectRefused),
        ],
        &[
            "open 5.0 #1",
            "broker-0:1883: connect-refused -> retry in 1199 ms by host",
            "open 5.0 #2 at 1",
            "consult CredentialsRefused #1 1000..120000 ms",
            "broker-1:1883: bad-credentials -> retry in 1000 ms by policy",
            "open 5.0 #2",
            "consult ConnectRefused #2 1000..120000 ms",
            "broker-0:1883: connect-refused -> retry in 2000 ms by policy",
            "open 5.0 #3",
            "consult ConnectRefused #3 1000..120000 ms",
        ],
    );
}

#[test]
fn a_broker_that_asks_for_room_gets_it_while_another_serves() {
    trace(
        &mut several(&[1, 2]),
        vec![
            Input::Start,
            lost(Cause::QuotaExceeded),
            lost(Cause::ConnectRefused),
            after(1000),
            lost(Cause::ConnectRefused),
            after(40_000),
            lost(Cause::QuotaExceeded),
        ],
        &[
            "open 5.0 #1",
            "broker-0:1883: quota-exceeded -> retry in 1199 ms by host",
            "open 5.0 #2 at 1",
            "consult ConnectRefused #1 1000..120000 ms",
            "broker-1:1883: connect-refused -> retry in 1000 ms by policy",
            "open 5.0 #2 at 1",
            "consult ConnectRefused #2 1000..120000 ms",
            "broker-1:1883: connect-refused -> retry in 40000 ms by policy",
            "open 5.0 #3",
            "broker-0:1883: quota-exceeded -> retry in 1864 ms by host",
        ],
    );
}

#[test]
fn who_takes_our_id_has_it_at_every_broker() {
    trace(
        &mut several(&[1, 2]),
        vec![
            Input::Start,
            Input::Opened,
            lost(Cause::TakenOver),
            after(0),
        ],
        &[
            "open 5.0 #1",
            "consult TakenOver #1 60000..120000 ms",
            "broker-0:1883: taken-over -> retry in 60000 ms by policy clamped",
        ],
    );
}

#[test]
fn a_version_is_kept_for_the_broker_that_wanted_it() {
    let mut link = several(&[1, 2]);
    trace(
        &mut link,
        vec![
            Input::Start,
            lost(Cause::VersionRefused),
            lost(Cause::ConnectRefused),
            lost(Cause::ConnectRefused),
            after(1000),
            Input::Opened,
        ],
        &[
            "open 5.0 #1",
            "broker-0:1883: version-refused -> retry in 0 ms by host",
            "open 3.1.1 #2",
            "broker-0:1883: connect-refused -> retry in 1199 ms by host",
            "open 5.0 #3 at 1",
            "consult ConnectRefused #2 1000..120000 ms",
            "broker-1:1883: connect-refused -> retry in 1000 ms by policy",
            "open 3.1.1 #3",
        ],
    );
}

#[test]
fn a_reference_is_followed_once_and_not_again_within_the_hour() {
    let mut link = several(&[1]);
    trace(
        &mut link,
        vec![
            Input::Start,
            moved_to("other.example:8884 third.example"),
            moved_to("fourth.example"),
            after(30_000),
            moved_to("fifth.example"),
            after(30_000),
        ],
        &[
            "open 5.0 #1",
            "broker-0:1883: use-another-server -> retry in 1285 ms by host",
            "open 5.0 #2 at other.example, as 0 says",
            "consult ServerMoved #1 28714..120000 ms",
            "other.example:8884: use-another-server -> retry in 30000 ms by policy",
            "open 5.0 #2",
            "consult ServerMoved #2 30000..120000 ms",
            "broker-0:1883: use-another-server -> retry in 30000 ms by policy",
        ],
    );
    let later = Instant::ZERO + FOLLOW_EVERY + Duration::from_secs(120);
    link.handle_timeout(later);
    link.handle(later, moved_to("[2001:db8::1]:8884"));
    assert_eq!(
        drained(&mut link),
        [
            "open 5.0 #3",
            "broker-0:1883: use-another-server -> retry in 1154 ms by host",
        ]
    );
}

#[test]
fn a_reference_is_read_as_the_standard_writes_it() {
    let parsed =
        |text: &str| ServerReference::parse(text).map(|to| format!("{} {:?}", to.host, to.port));
    for (text, expected) in [
        ("myserver.xyz.org", Some("myserver.xyz.org None")),
        ("myserver.xyz.org:8883", Some("myserver.xyz.org Some(8883)")),
        (
            "10.10.151.22:8883 [fe80::9610:3eff:fe1c]:1883",
            Some("10.10.151.22 Some(8883)"),
        ),
        (
            "[fe80::9610:3eff:fe1c:1]:1883",
            Some("fe80::9610:3eff:fe1c:1 Some(1883)"),
        ),
        ("[::1]", Some("::1 None")),
        ("a..b c:x d:0 e", Some("e None")),
        ("a/b:1", None),
        ("user@host", None),
        ("host:+1", None),
        ("host:65536", None),
        ("[broker]:1", None),
        ("", None),
        ("! ! ! ! late.example", None),
    ] {
        assert_eq!(parsed(text).as_deref(), expected, "{text:?}");
    }
}

/// Causes of a total outage: none gives a broker a rest of its own, parks it or changes its version.
const OUTAGE: [Cause; 5] = [
    Cause::ConnectRefused,
    Cause::ConnectTimeout,
    Cause::NameResolution,
    Cause::ConnackTimeout,
    Cause::ServerBusy,
];

proptest! {
    /// Between two tries of one broker every other one is tried, and the two are at least the floor apart.
    #[test]
    fn in_an_outage_nobody_starves_and_nobody_is_hurried(
        seed: u64,
        priorities in prop::collection::vec(0u16..3, 1..6),
        causes in prop::collection::vec(prop::sample::select(OUTAGE.to_vec()), 1..60),
        waits in prop::collection::vec(0u64..10_000, 60),
    ) {
        let floor = Settings::default().floor;
        let mut link = several(&priorities);
        link.random = Random::seeded(seed);
        let mut now = Instant::ZERO;
        let mut tried: Vec<(usize, Instant)> = Vec::new();
        link.handle(now, Input::Start);
        for (cause, wait) in causes.into_iter().zip(waits) {
            while let Some(output) = link.poll_output() {
                if let Output::Open { endpoint: Target::Configured(number), .. } = output {
                    let since = tried.iter().rposition(|&(other, _)| other == number);
                    if let Some(since) = since {
                        prop_assert!(now.saturating_since(tried[since].1) >= floor, "{tried:?}");
                        for other in (0..priorities.len()).filter(|&other| other != number) {
                            prop_assert!(
                                tried[since..].iter().any(|&(tried, _)| tried == other),
                                "{other} starves: {tried:?}"
                            );
                        }
                    }
                    tried.push((number, now));
                }
            }
            link.handle(now, lost(cause));
            if let State::Consulting { .. } = link.state() {
                link.handle(now, Input::Decided(Ok(Decision::RetryAfter(Duration::from_millis(wait)))));
            }
            let State::Waiting { until } = *link.state() else {
                return Err(TestCaseError::fail(format!("{:?}", link.state())));
            };
            now = until;
            link.handle_timeout(now);
        }
    }

    /// Whatever befalls the others, a broker that works is reached within one round's tries.
    #[test]
    fn a_healthy_broker_is_found(
        seed: u64,
        priorities in prop::collection::vec(0u16..3, 2..6),
        healthy: prop::sample::Index,
        causes in prop::collection::vec(any_cause(), 6),
    ) {
        let healthy = healthy.index(priorities.len());
        let mut link = several(&priorities);
        link.random = Random::seeded(seed);
        let mut now = Instant::ZERO;
        link.handle(now, Input::Start);
        let mut tries = 0;
        loop {
            let opened = std::iter::from_fn(|| link.poll_output()).find_map(|output| match output {
                Output::Open { endpoint, .. } => Some(endpoint),
                Output::Close(_)
                | Output::Redial
                | Output::Knock { .. }
                | Output::Consult(_)
                | Output::Report(_) => None,
            });
            if opened == Some(Target::Configured(healthy)) {
                break;
            }
            let cause = causes[tries % causes.len()];
            tries += 1;
            // After a takeover that is told the round begins anew, a change of version tries the same broker again.
            prop_assume!(!matches!(cause, Cause::TakenOver | Cause::Local(_)));
            prop_assert!(tries < 2 * priorities.len(), "seed {seed}");
            link.handle(now, lost(cause));
            if let State::Consulting { .. } = link.state() {
                link.handle(now, Input::Decided(Err(PolicyFault::Absent)));
            }
            let State::Waiting { until } = *link.state() else {
                return Err(TestCaseError::fail(format!("{:?}", link.state())));
            };
            now = until;
            link.handle_timeout(now);
        }
    }
}
