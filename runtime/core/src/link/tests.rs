mod duel;
mod endpoints;
mod table;

use proptest::prelude::*;

use super::cause::{Certainty, Evidence, Inference, Phase};
use super::classify::{Classifier, Observation, Observed, PubackVerdict, Refusals, puback_verdict};
use super::window::Window;
use super::*;
use crate::host::{Stall, StallKind};
use crate::message::Sequence;
use crate::thingsboard::SequenceRange;

fn at(ms: u64) -> Instant {
    Instant::from_start(Duration::from_millis(ms))
}

fn lost(cause: Cause) -> Input {
    Input::Ended(Box::new(Disconnect {
        cause,
        certainty: Certainty::Certain,
        phase: Phase::Session,
        version: MqttVersion::V5,
        evidence: Evidence::default(),
        smaller_publishes: None,
    }))
}

fn line(output: &Output) -> String {
    match output {
        Output::Open {
            version,
            attempt,
            endpoint,
        } => match endpoint {
            Target::Configured(0) => format!("open {version} #{attempt}"),
            Target::Configured(other) => format!("open {version} #{attempt} at {other}"),
            Target::Referred { by, to } => {
                format!("open {version} #{attempt} at {}, as {by} says", to.host)
            }
        },
        Output::Close(intent) => format!("close {intent:?}"),
        Output::Redial => "redial".to_owned(),
        Output::Knock { after, .. } => format!("knock after {} ms", after.as_millis()),
        Output::Consult(question) => format!(
            "consult {:?} #{} {}..{} ms",
            question.cause,
            question.attempt,
            question.floor.as_millis(),
            question.ceiling.as_millis()
        ),
        Output::Report(record) => {
            let by = match record.decided_by {
                DecidedBy::Policy => "policy".to_owned(),
                DecidedBy::Fallback(fault) => format!("{fault:?}"),
                DecidedBy::Host => "host".to_owned(),
            };
            let next = match record.next {
                Next::Retry(wait) => format!("retry in {} ms", wait.as_millis()),
                Next::Parked(reason) => format!("parked {reason:?}"),
                Next::Stopped => "stopped".to_owned(),
            };
            let clamped = if record.clamped { " clamped" } else { "" };
            format!(
                "{} -> {next} by {by}{clamped}",
                record.disconnect.cause.name()
            )
        }
    }
}

/// Feeds the script and compares the whole trace of outputs.
#[track_caller]
fn check(mut link: Link, script: Vec<(u64, Input)>, expected: &[&str]) -> Link {
    let mut trace = Vec::new();
    for (ms, input) in script {
        link.handle(at(ms), input);
        while let Some(output) = link.poll_output() {
            trace.push(format!("{ms}: {}", line(&output)));
        }
    }
    assert_eq!(trace, expected);
    link
}

fn link() -> Link {
    Link::new(Settings::default(), 7)
}

const fn after(ms: u64) -> Input {
    Input::Decided(Ok(Decision::RetryAfter(Duration::from_millis(ms))))
}

#[test]
fn a_stable_session_that_breaks_may_be_retried_at_once_but_only_once() {
    let link = check(
        link(),
        vec![
            (0, Input::Start),
            (10, Input::Opened),
            (20, Input::Acknowledged),
            (40_000, lost(Cause::Reset)),
            (40_001, Input::Decided(Ok(Decision::RetryNow))),
        ],
        &[
            "0: open 5.0 #1",
            "40000: consult Reset #1 1000..120000 ms",
            "40001: reset -> retry in 285 ms by policy",
        ],
    );
    check(
        {
            let mut link = link;
            link.handle_timeout(at(41_000));
            link
        },
        vec![
            (41_000, Input::NetworkUp),
            (41_001, lost(Cause::ConnectRefused)),
            (41_002, Input::Decided(Ok(Decision::RetryNow))),
        ],
        &[
            "41000: open 5.0 #2",
            "41001: consult ConnectRefused #2 1000..120000 ms",
            "41002: connect-refused -> retry in 1000 ms by policy clamped",
        ],
    );
}

#[test]
fn a_session_without_an_acknowledged_publish_forgives_nothing() {
    check(
        link(),
        vec![
            (0, Input::Start),
            (1, lost(Cause::ConnectRefused)),
            (2, after(1000)),
            (3, Input::Unpark),
            (4, Input::Opened),
            (90_000, lost(Cause::Reset)),
            (90_001, Input::Decided(Ok(Decision::RetryNow))),
        ],
        &[
            "0: open 5.0 #1",
            "1: consult ConnectRefused #1 1000..120000 ms",
            "2: connect-refused -> retry in 1000 ms by policy",
            "3: open 5.0 #1",
            "90000: consult Reset #1 1000..120000 ms",
            "90001: reset -> retry in 1000 ms by policy clamped",
        ],
    );
}

#[test]
fn a_policy_that_stalls_is_replaced_at_the_deadline_and_its_late_answer_is_ignored() {
    let mut link = link();
    link.handle(at(0), Input::Start);
    link.handle(at(1), lost(Cause::ConnectTimeout));
    assert_eq!(link.poll_timeout(), Some((at(51), "policy deadline")));
    link.handle_timeout(at(50));
    assert!(matches!(link.state(), State::Consulting { .. }));
    link.handle_timeout(at(51));
    let State::Waiting { until } = *link.state() else {
        panic!("{:?}", link.state())
    };
    assert!(until >= at(1051) && until <= at(2051), "{until:?}");
    link.handle(at(60), Input::Decided(Ok(Decision::Park)));
    assert_eq!(*link.state(), State::Waiting { until });
    assert_eq!(link.counters().policy_faults, 1);
}

#[test]
fn an_old_broker_gets_the_old_version_once_and_for_good() {
    let link = check(
        link(),
        vec![(0, Input::Start), (5, lost(Cause::VersionRefused))],
        &[
            "0: open 5.0 #1",
            "5: version-refused -> retry in 0 ms by host",
        ],
    );
    assert_eq!(link.version(), MqttVersion::V311);
    check(
        {
            let mut link = link;
            link.handle_timeout(at(5));
            link
        },
        vec![(6, lost(Cause::VersionRefused))],
        &[
            "6: open 3.1.1 #2",
            "6: version-refused -> parked Version by host",
        ],
    );
}

#[test]
fn a_suspected_takeover_is_believed_only_of_a_broker_that_is_there() {
    let suspected = || lost(Cause::ClosedByServer(Inference::TakeoverOrAccess));
    let begin = || vec![(0, Input::Start), (5, Input::Opened), (9, suspected())];
    let opened = ["0: open 5.0 #1", "9: knock after 0 ms"];
    let with = |steps: Vec<(u64, Input)>, lines: &[&str]| {
        let all: Vec<&str> = opened.iter().chain(lines).copied().collect();
        check(link(), begin().into_iter().chain(steps).collect(), &all)
    };
    // It takes connections all the while: somebody has our id.
    with(
        vec![(11, Input::Knocked(true)), (511, Input::Knocked(true))],
        &[
            "11: knock after 500 ms",
            "511: consult ClosedByServer #1 600000..900000 ms",
        ],
    );
    // It was killed; it was stopped, or its answer got lost: an end like any other, and no alarm.
    let gone = with(
        vec![(11, Input::Knocked(false))],
        &["11: consult ClosedByServer #1 1000..2000 ms"],
    );
    assert_eq!(gone.duplicate_client_id(), None);
    with(
        vec![(11, Input::Knocked(true)), (511, Input::Knocked(false))],
        &[
            "11: knock after 500 ms",
            "511: consult ClosedByServer #1 1000..2000 ms",
        ],
    );
    let mut unanswered = with(Vec::new(), &[]);
    assert_eq!(
        unanswered.poll_timeout(),
        Some((at(3_009), "knock deadline"))
    );
    unanswered.handle_timeout(at(3_009));
    assert!(matches!(unanswered.state(), State::Consulting { .. }));
    // Somebody acts meanwhile; somebody stops it.
    with(
        vec![(20, Input::Unpark)],
        &["20: closed-by-server-takeover-or-access -> retry in 0 ms by host"],
    );
    let stopped = with(
        vec![(20, Input::Stop(Intent::Shutdown))],
        &["20: closed-by-server-takeover-or-access -> stopped by host"],
    );
    assert_eq!(*stopped.state(), State::Stopped);
}

#[test]
fn a_close_after_a_refusal_or_after_silence_points_to_no_other_client() {
    let fin = |evidence| (Observed::Fin, evidence);
    let ended_twice = |evidence: Evidence| {
        let mut classifier = Classifier::default();
        let mut last = None;
        for _ in 0..2 {
            let (observed, evidence) = fin(evidence.clone());
            last = Some(classifier.classify(Observation {
                phase: Phase::Session,
                version: MqttVersion::V5,
                observed,
                evidence,
                suspect: None,
            }));
        }
        last.map(|last| last.cause)
    };
    let second = Duration::from_secs(1);
    let short = Evidence {
        session: Some(second),
        silence: Some(second),
        keep_alive: Some(second * 30),
        ..Evidence::default()
    };
    let told = |inference| Some(Cause::ClosedByServer(inference));
    assert_eq!(
        ended_twice(short.clone()),
        told(Inference::TakeoverOrAccess)
    );
    let refused = Evidence {
        since_refusal: Some(Duration::ZERO),
        ..short.clone()
    };
    assert_eq!(ended_twice(refused), told(Inference::Nothing));
    let unheard = Evidence {
        silence: Some(second * 46),
        ..short
    };
    assert_eq!(ended_twice(unheard), told(Inference::KeepAlive));
}

#[test]
fn who_answers_as_no_broker_does_five_times_is_tried_at_the_ceiling() {
    let mut link = link();
    link.handle(at(0), Input::Start);
    let mut floors = Vec::new();
    let garbage = [Cause::PeerGarbage; 6];
    for cause in garbage
        .into_iter()
        .chain([Cause::Reset, Cause::PeerGarbage])
    {
        link.handle(at(1), lost(cause));
        while let Some(output) = link.poll_output() {
            if let Output::Consult(question) = output {
                floors.push(question.floor.as_secs());
            }
        }
        link.handle(at(2), Input::Unpark);
        link.handle_timeout(at(3));
    }
    assert_eq!(floors, [1, 1, 1, 1, 120, 120, 1, 1]);
}

#[test]
fn three_silent_refusals_earn_the_other_version_one_try() {
    check(
        link(),
        vec![
            (0, Input::Start),
            (1, lost(Cause::ClosedBeforeConnack)),
            (2, after(1000)),
            (3, Input::Unpark),
            (4, lost(Cause::ClosedBeforeConnack)),
            (5, after(1000)),
            (6, Input::Unpark),
            (7, lost(Cause::ClosedBeforeConnack)),
            (8, Input::Unpark),
        ],
        &[
            "0: open 5.0 #1",
            "1: consult ClosedBeforeConnack #1 1000..120000 ms",
            "2: closed-before-connack -> retry in 1000 ms by policy",
            "3: open 5.0 #1",
            "4: consult ClosedBeforeConnack #1 1000..120000 ms",
            "5: closed-before-connack -> retry in 1000 ms by policy",
            "6: open 5.0 #1",
            "7: closed-before-connack -> retry in 1000 ms by host",
            "8: open 3.1.1 #1",
        ],
    );
}

/// As amqtt 0.12, which speaks 3.1.1 only and never answers a CONNECT of 5.0.
#[test]
fn a_version_that_is_guessed_because_the_broker_hung_is_doubted() {
    let mut link = link();
    let mut now_ms = 0;
    let mut attempt = |link: &mut Link, input| {
        now_ms += 10_000;
        let version = link.version();
        link.handle(at(now_ms), input);
        link.handle(at(now_ms), Input::Decided(Err(PolicyFault::Absent)));
        link.handle(at(now_ms), Input::Unpark);
        version
    };
    attempt(&mut link, Input::Start);
    let hang = || lost(Cause::ConnackTimeout);
    let versions: Vec<_> = (0..8).map(|_| attempt(&mut link, hang())).collect();
    let (v5, v311) = (MqttVersion::V5, MqttVersion::V311);
    assert_eq!(versions, [v5, v5, v5, v311, v5, v5, v5, v311]);
    for version in [v5, v5, v5] {
        assert_eq!(attempt(&mut link, hang()), version);
    }
    // The guess is good, and kept over the sessions of an hour.
    for _ in 0..3 {
        assert_eq!(attempt(&mut link, Input::Opened), v311);
        assert_eq!(attempt(&mut link, lost(Cause::Reset)), v311);
    }
    attempt(&mut link, Input::Opened);
    for _ in 0..360 {
        attempt(&mut link, Input::Acknowledged);
    }
    attempt(&mut link, lost(Cause::Reset));
    assert_eq!(attempt(&mut link, hang()), v5);
    assert_eq!(attempt(&mut link, Input::Opened), v311);
}

#[test]
fn a_broker_that_refuses_what_was_guessed_or_kept_gets_the_other_version_again() {
    // Three silent closes made 3.1.1 a guess; the broker is back and speaks 5.0 only.
    let mut link = link();
    link.handle(at(0), Input::Start);
    for ms in [1, 4, 7] {
        link.handle(at(ms), lost(Cause::ClosedBeforeConnack));
        link.handle(at(ms + 1), after(1000));
        link.handle(at(ms + 2), Input::Unpark);
    }
    assert_eq!(link.version(), MqttVersion::V311);
    link.handle(at(10), lost(Cause::VersionRefused));
    assert_eq!(link.version(), MqttVersion::V5);
    link.handle_timeout(at(10));
    link.handle(at(11), Input::Opened);
    // What was accepted once may be refused later, one version after the other: only then an operator is needed.
    link.handle(at(12), lost(Cause::VersionRefused));
    assert_eq!(link.version(), MqttVersion::V311);
    link.handle_timeout(at(12));
    link.handle(at(13), lost(Cause::VersionRefused));
    assert_eq!(
        *link.state(),
        State::Parked {
            reason: ParkReason::Version
        }
    );
    // And what the operator did may have been to the broker.
    link.handle(at(14), Input::Unpark);
    link.handle(at(15), lost(Cause::VersionRefused));
    assert_eq!(link.version(), MqttVersion::V5);
}

#[test]
fn a_network_that_flaps_makes_no_attempt_sooner_than_the_floor() {
    let mut link = link();
    link.handle(at(0), Input::Start);
    for round in 0..50 {
        let start = round * 100_000;
        link.handle(at(start + 1), lost(Cause::Unreachable));
        link.handle(at(start + 2), after(60_000));
        for ms in 3..200 {
            link.handle(at(start + ms), Input::NetworkUp);
        }
        let (until, _why) = link.poll_timeout().unwrap();
        assert!(until >= at(start + 2 + 1000), "{until:?}");
        assert!(until <= at(start + 200 + 1000), "{until:?}");
        link.handle_timeout(until);
        assert!(matches!(link.state(), State::Opening { .. }));
    }
}

/// A session of a minute that ends in this cause, and the bounds the policy is given.
fn lose(link: &mut Link, from_ms: u64, session_ms: u64, input: Input) -> (u128, u128, u32) {
    link.handle_timeout(at(from_ms));
    link.handle(at(from_ms), Input::Opened);
    link.handle(at(from_ms + session_ms), input);
    // Should the link want to know, the broker is there.
    link.handle(at(from_ms + session_ms), Input::Knocked(true));
    link.handle(at(from_ms + session_ms), Input::Knocked(true));
    let mut asked = None;
    while let Some(output) = link.poll_output() {
        if let Output::Consult(question) = output {
            asked = Some(question);
        }
    }
    let question = asked.unwrap();
    (
        question.floor.as_secs().into(),
        question.ceiling.as_secs().into(),
        question.takeovers,
    )
}

#[test]
fn a_takeover_is_answered_minutes_later_and_a_duel_ten() {
    let mut link = link();
    link.handle(at(0), Input::Start);
    let taken = || lost(Cause::TakenOver);
    assert_eq!(lose(&mut link, 10, 60_000, taken()), (60, 120, 1));
    link.handle(at(60_011), Input::Decided(Ok(Decision::RetryNow)));
    link.handle(at(60_500), Input::NetworkUp);
    assert_eq!(
        link.poll_timeout().unwrap().0,
        at(120_011),
        "no flapping interface makes it sooner"
    );
    // Taken, taken back, taken again.
    assert_eq!(lose(&mut link, 120_011, 60_000, taken()), (600, 900, 2));
    link.handle(at(180_012), Input::Decided(Err(PolicyFault::Absent)));
    let (again, _) = link.poll_timeout().unwrap();
    assert!(again >= at(780_011), "{again:?}");
    let alarm = link.duplicate_client_id().unwrap();
    assert_eq!(
        (alarm.certainty, alarm.since),
        (Certainty::Certain, at(60_010))
    );
    // Ten minutes without the other, and it is forgotten.
    assert_eq!(lose(&mut link, 2_000_000, 600_000, taken()), (60, 120, 1));
}

#[test]
fn who_takes_the_id_back_at_once_does_not_yield() {
    let mut link = link();
    link.handle(at(0), Input::Start);
    assert_eq!(
        lose(&mut link, 10, 3_000, lost(Cause::TakenOver)),
        (600, 900, 1)
    );
}

/// Seed 7642 of the simulation: a broker that had stopped reading went on, answered the last CONNECT and then read one
/// that was given up before.
#[test]
fn a_connect_we_gave_up_is_no_other_client() {
    let mut link = link();
    link.handle(at(0), Input::Start);
    link.handle(at(10_000), lost(Cause::ConnackTimeout));
    link.handle(at(10_001), after(1_000));
    let taken = || lost(Cause::TakenOver);
    assert_eq!(lose(&mut link, 11_001, 50, taken()), (1, 120, 0));
    assert_eq!(link.duplicate_client_id(), None);
    link.handle(at(11_052), after(1_000));
    assert_eq!(
        lose(&mut link, 12_052, 50, taken()),
        (600, 900, 1),
        "it explains one takeover"
    );
}

#[test]
fn a_policy_parks_on_a_takeover_only_if_the_broker_said_so() {
    let inferred = || {
        Input::Ended(Box::new(Disconnect {
            cause: Cause::ClosedByServer(Inference::TakeoverOrAccess),
            certainty: Certainty::Inferred,
            phase: Phase::Session,
            version: MqttVersion::V311,
            evidence: Evidence::default(),
            smaller_publishes: None,
        }))
    };
    let parked = State::Parked {
        reason: ParkReason::DuplicateClientId,
    };
    for (input, parks) in [(lost(Cause::TakenOver), true), (inferred(), false)] {
        let mut link = link();
        link.handle(at(0), Input::Start);
        lose(&mut link, 10, 60_000, input);
        link.handle(at(60_011), Input::Decided(Ok(Decision::Park)));
        assert_eq!(*link.state() == parked, parks);
        link.handle(at(70_000), Input::Unpark);
        assert!(matches!(link.state(), State::Opening { .. }));
        assert_eq!(link.duplicate_client_id(), None, "somebody has acted");
    }
}

#[test]
fn after_a_close_without_a_reason_the_next_look_comes_soon_but_not_for_ever() {
    let mut link = link();
    link.handle(at(0), Input::Start);
    let closed = || lost(Cause::ClosedByServer(Inference::Nothing));
    for (round, most) in [(0, 2), (1, 2), (2, 2), (3, 120)] {
        assert_eq!(
            lose(&mut link, round * 100_000, 10_000, closed()),
            (1, most, 0)
        );
        link.handle(at(round * 100_000 + 10_001), after(0));
    }
    link.note(Facts {
        network: Network::Down,
        ..Facts::NOTHING
    });
    assert_eq!(
        lose(&mut link, 500_000, 40_000, closed()),
        (1, 120, 0),
        "a policy may wait for the network"
    );
}

#[test]
fn a_cause_that_needs_an_operator_parks_and_one_that_does_not_never_does() {
    check(
        link(),
        vec![(0, Input::Start), (1, lost(Cause::ClientIdRefused))],
        &[
            "0: open 5.0 #1",
            "1: client-id-refused -> parked ClientId by host",
        ],
    );
    check(
        link(),
        vec![
            (0, Input::Start),
            (1, lost(Cause::ConnectRefused)),
            (2, Input::Decided(Ok(Decision::Park))),
        ],
        &[
            "0: open 5.0 #1",
            "1: consult ConnectRefused #1 1000..120000 ms",
            "2: connect-refused -> retry in 120000 ms by policy clamped",
        ],
    );
}

#[test]
fn credentials_wait_in_the_slow_lane_whatever_the_policy_says() {
    check(
        link(),
        vec![
            (0, Input::Start),
            (1, lost(Cause::BadCredentials)),
            (2, after(0)),
        ],
        &[
            "0: open 5.0 #1",
            "1: consult CredentialsRefused #1 120000..120000 ms",
            "2: bad-credentials -> retry in 120000 ms by policy clamped",
        ],
    );
}

#[test]
fn stopping_closes_the_session_first_and_reports_it() {
    check(
        link(),
        vec![
            (0, Input::Start),
            (1, Input::Opened),
            (2, Input::Stop(Intent::Shutdown)),
            (3, lost(Cause::Local(Intent::Shutdown))),
            (4, Input::Unpark),
        ],
        &[
            "0: open 5.0 #1",
            "2: close Shutdown",
            "3: local-shutdown -> stopped by host",
        ],
    );
}

#[test]
fn the_network_coming_back_cuts_a_wait_short() {
    let mut link = link();
    link.handle(at(0), Input::Start);
    link.handle(at(1), lost(Cause::Unreachable));
    link.handle(at(2), after(100_000));
    link.handle(at(10), Input::NetworkUp);
    let State::Waiting { until } = *link.state() else {
        panic!("{:?}", link.state())
    };
    assert!(until >= at(1002), "the floor: {until:?}");
    assert!(until <= at(1010), "{until:?}");
}

#[test]
fn the_network_coming_back_cuts_a_long_wait_within_half_a_floor() {
    let mut link = link();
    link.handle(at(0), Input::Start);
    link.handle(at(1), lost(Cause::Unreachable));
    link.handle(at(2), after(100_000));
    link.handle(at(50_000), Input::NetworkUp);
    let (until, _why) = link.poll_timeout().unwrap();
    assert!((at(50_000)..=at(50_500)).contains(&until), "{until:?}");
}

/// What the classifier makes of the end of a session with this evidence.
fn ended(observed: Observed, evidence: Evidence) -> (Cause, Certainty) {
    let disconnect = Classifier::default().classify(Observation {
        phase: Phase::Session,
        version: MqttVersion::V5,
        observed,
        evidence,
        suspect: None,
    });
    (disconnect.cause, disconnect.certainty)
}

#[test]
fn silence_without_a_route_is_told_as_the_missing_route() {
    let alone = Evidence {
        without_route: Some(Duration::from_secs(5)),
        ..Evidence::default()
    };
    for observed in [
        Observed::PingrespMissing,
        Observed::WriteStalled,
        Observed::Unacknowledged,
        Observed::AckOverdue,
    ] {
        let cause = ended(observed, alone.clone()).0;
        assert_eq!((cause, cause.fault()), (Cause::Unreachable, Fault::Network));
    }
    // What the peer itself said stands.
    let said = ended(Observed::ServerDisconnect(0x8b), alone.clone());
    assert_eq!(said.0, Cause::ServerShuttingDown);
    assert_eq!(
        ended(Observed::Fin, alone).0,
        Cause::ClosedByServer(Inference::Nothing)
    );
}

#[test]
fn a_host_that_did_not_run_us_is_blamed_for_what_followed() {
    let after = |kind, lasted_s, ago_ms| Evidence {
        stall: Some(Stall {
            kind,
            lasted: Duration::from_secs(lasted_s),
            ago: Duration::from_millis(ago_ms),
        }),
        keep_alive: Some(Duration::from_secs(30)),
        ..Evidence::default()
    };
    let starved = (Cause::HostStarved, Certainty::Inferred);
    let slept = (Cause::HostSuspended, Certainty::Inferred);
    let peer = (
        Cause::ClosedByServer(Inference::Nothing),
        Certainty::Certain,
    );
    let fin = |evidence| ended(Observed::Fin, evidence);
    assert_eq!(fin(after(StallKind::Starved, 50, 100)), starved);
    assert_eq!(fin(after(StallKind::Suspended, 3_600, 100)), slept);
    assert_eq!(fin(after(StallKind::Starved, 2, 100)), peer, "short");
    assert_eq!(fin(after(StallKind::Starved, 50, 40_000)), peer, "long ago");
    let rst = ended(Observed::Errno(104), after(StallKind::Starved, 50, 100));
    assert_eq!(rst, starved);
    // A code is certain, and so is what we measured.
    let told = ended(
        Observed::ServerDisconnect(0x8d),
        after(StallKind::Starved, 2, 100),
    );
    assert_eq!(told, (Cause::HostStarved, Certainty::Certain));
    let silence = |evidence| ended(Observed::PingrespMissing, evidence);
    let hangs = (Cause::PingrespTimeout, Certainty::Inferred);
    assert_eq!(silence(after(StallKind::Suspended, 5, 5_000)), slept);
    assert_eq!(silence(after(StallKind::Starved, 5, 500)), starved);
    assert_eq!(silence(after(StallKind::Starved, 5, 5_000)), hangs);
    assert_eq!(silence(Evidence::default()), hangs);
}

#[test]
fn an_attempt_that_dials_into_a_dead_network_is_begun_anew_when_it_is_back() {
    check(
        link(),
        vec![
            (0, Input::Start),
            (999, Input::NetworkUp),
            (3_000, Input::NetworkUp),
            (3_500, Input::NetworkUp),
            (4_000, Input::NetworkUp),
        ],
        &["0: open 5.0 #1", "3000: redial", "4000: redial"],
    );
}

fn any_cause() -> impl Strategy<Value = Cause> {
    prop::sample::select(ALL.to_vec())
}

const ALL: [Cause; 57] = Cause::ROWS;

#[test]
fn every_cause_has_a_name_of_its_own_and_no_name_says_unknown() {
    let mut names: Vec<_> = ALL.iter().map(|cause| cause.name()).collect();
    assert!(
        names
            .iter()
            .all(|name| !name.contains("unknown") && !name.is_empty())
    );
    names.sort_unstable();
    names.dedup();
    // Refusals of TLS, proxies and web servers share a name and differ in the detail.
    assert_eq!(names.len(), ALL.len() - 7);
}

#[test]
fn a_source_that_is_not_there_is_no_lack_of_resources() {
    for (errno, cause) in [
        (19, Cause::Unreachable),
        (99, Cause::Unreachable),
        (1, Cause::LocalResource),
    ] {
        let seen = Classifier::default().classify(Observation {
            phase: Phase::Tcp,
            version: MqttVersion::V5,
            observed: Observed::Unbound(errno),
            evidence: Evidence::default(),
            suspect: None,
        });
        assert_eq!((seen.cause, seen.evidence.errno), (cause, Some(errno)));
    }
}

#[test]
fn codes_of_both_versions_map_to_the_causes_of_the_table() {
    let v311 = [
        (1, "version-refused"),
        (2, "client-id-refused"),
        (3, "server-unavailable"),
        (4, "bad-credentials"),
        (5, "not-authorized"),
        (9, "server-reason"),
    ];
    for (code, name) in v311 {
        assert_eq!(
            Cause::from_connack(MqttVersion::V311, code).name(),
            name,
            "code {code}"
        );
    }
    let v5 = [
        (0x80, "server-reason"),
        (0x81, "malformed-packet"),
        (0x82, "protocol-error"),
        (0x84, "version-refused"),
        (0x85, "client-id-refused"),
        (0x86, "bad-credentials"),
        (0x87, "not-authorized"),
        (0x88, "server-unavailable"),
        (0x89, "server-busy"),
        (0x8a, "banned"),
        (0x8c, "bad-authentication-method"),
        (0x90, "option-unsupported"),
        (0x95, "packet-too-large"),
        (0x97, "quota-exceeded"),
        (0x99, "option-unsupported"),
        (0x9a, "option-unsupported"),
        (0x9b, "option-unsupported"),
        (0x9c, "use-another-server"),
        (0x9d, "server-moved"),
        (0x9f, "connection-rate-exceeded"),
    ];
    for (code, name) in v5 {
        assert_eq!(
            Cause::from_connack(MqttVersion::V5, code).name(),
            name,
            "code {code:#x}"
        );
    }
    let disconnect = [
        (0x00, "server-reason"),
        (0x8b, "server-shutting-down"),
        (0x8d, "keep-alive-timeout"),
        (0x8e, "taken-over"),
        (0x90, "topic-invalid"),
        (0x93, "receive-maximum-exceeded"),
        (0x94, "topic-alias-invalid"),
        (0x96, "message-rate-too-high"),
        (0x98, "administrative-action"),
        (0xa0, "maximum-connect-time"),
    ];
    for (code, name) in disconnect {
        assert_eq!(Cause::from_disconnect(code).name(), name, "code {code:#x}");
    }
}

#[test]
fn remedies_are_those_of_the_table() {
    assert_eq!(Cause::TakenOver.remedy(), Remedy::YieldToTakeover);
    assert_eq!(
        Cause::QuotaExceeded.remedy(),
        Remedy::BackOffFrom(QUOTA_FLOOR)
    );
    assert_eq!(Cause::BadCredentials.remedy(), Remedy::SlowLane);
    assert_eq!(Cause::ProxyRefused(407).remedy(), Remedy::Park);
    assert_eq!(Cause::Reset.remedy(), Remedy::RetryOnceThenBackOff);
    assert_eq!(Cause::ServerShuttingDown.remedy(), Remedy::BackOff);
    assert_eq!(Cause::Reset.fault(), Fault::Network);
}

fn fin(session_ms: u64, since_sent_ms: u64, suspect: Option<u64>) -> Observation {
    Observation {
        phase: Phase::Session,
        version: MqttVersion::V311,
        observed: Observed::Fin,
        evidence: Evidence {
            session: Some(Duration::from_millis(session_ms)),
            since_sent: Some(Duration::from_millis(since_sent_ms)),
            keep_alive: Some(Duration::from_secs(30)),
            ..Evidence::default()
        },
        suspect: suspect.map(Sequence),
    }
}

#[test]
fn a_close_without_a_reason_is_read_from_its_context() {
    let mut classifier = Classifier::default();
    let mut cause = |observation| {
        let disconnect = classifier.classify(observation);
        (
            disconnect.cause.name(),
            disconnect.certainty == Certainty::Inferred,
        )
    };
    assert_eq!(cause(fin(60_000, 100, None)), ("closed-by-server", false));
    assert_eq!(
        cause(fin(60_000, 46_000, None)),
        ("closed-by-server-keep-alive", true)
    );
    assert_eq!(cause(fin(500, 100, None)), ("closed-by-server", false));
    assert_eq!(
        cause(fin(500, 100, None)),
        ("closed-by-server-takeover-or-access", true)
    );
    let cut = Observation {
        observed: Observed::Errno(104),
        ..fin(500, 100, None)
    };
    assert_eq!(cause(cut), ("reset", false));
    assert_eq!(
        cause(fin(500, 100, None)),
        ("closed-by-server", false),
        "a session that the network cut says nothing about the broker"
    );
    assert_eq!(cause(fin(11_000, 10, Some(5))), ("closed-by-server", false));
    assert_eq!(
        cause(fin(9_000, 10, Some(5))),
        ("closed-by-server-poison", true)
    );
    assert_eq!(cause(fin(11_000, 10, Some(6))), ("closed-by-server", false));
    assert_eq!(
        cause(fin(60_000, 100, None)),
        ("closed-by-server", false),
        "a broker that closes now and then is no other client"
    );
    assert_eq!(
        cause(fin(9_000, 100, None)),
        ("closed-by-server-takeover-or-access", true)
    );
    let away = Observation {
        phase: Phase::Tcp,
        observed: Observed::Errno(111),
        ..fin(0, 0, None)
    };
    assert_eq!(cause(away), ("connect-refused", false));
    assert_eq!(
        cause(fin(1_000, 100, None)),
        ("closed-by-server", false),
        "a broker that was away was restarted"
    );
    let reset = |suspect| Observation {
        observed: Observed::Errno(104),
        ..fin(9_000, 10, Some(suspect))
    };
    assert_eq!(cause(reset(7)), ("reset", false));
    assert_eq!(
        cause(reset(7)),
        ("closed-by-server-poison", true),
        "a broker that dies of a message may leave by a reset"
    );
}

#[test]
fn errno_means_what_it_means_in_its_phase() {
    let of_after = |phase, errno, silence_s| {
        let mut observation = Observation {
            phase,
            observed: Observed::Errno(errno),
            ..fin(0, 0, None)
        };
        observation.evidence.silence = Some(Duration::from_secs(silence_s));
        let disconnect = Classifier::default().classify(observation);
        assert_eq!(disconnect.evidence.errno, Some(errno));
        disconnect.cause.name()
    };
    let of = |phase, errno| of_after(phase, errno, 30);
    assert_eq!(
        of_after(Phase::Session, 110, 0),
        "write-stalled",
        "a peer that has just spoken is not behind a black hole"
    );
    assert_eq!(of(Phase::Tcp, 111), "connect-refused");
    assert_eq!(of(Phase::Tcp, 110), "connect-timeout");
    assert_eq!(of(Phase::Session, 110), "black-hole");
    assert_eq!(of(Phase::Session, 104), "reset");
    assert_eq!(of(Phase::Connect, 104), "closed-before-connack");
    assert_eq!(of(Phase::Tls, 104), "tls-rejected");
    assert_eq!(of(Phase::Tcp, 113), "unreachable");
    assert_eq!(of(Phase::Tcp, 24), "local-resource");

    let of = |observed| {
        let observation = Observation {
            observed,
            ..fin(9_000, 10, Some(5))
        };
        let disconnect = Classifier::default().classify(observation);
        assert_eq!(
            disconnect.evidence.transport_end,
            Some(cause::TransportEnd::Local)
        );
        disconnect.cause.name()
    };
    assert_eq!(of(Observed::WriteStalled), "write-stalled");
    assert_eq!(of(Observed::Unacknowledged), "black-hole");
    assert_eq!(of(Observed::PingrespMissing), "pingresp-timeout");
    // What the other end's kernel acknowledges has arrived: the way is not to blame.
    assert_eq!(Cause::PingrespTimeout.fault(), Fault::Peer);
    assert_eq!(Cause::BlackHole.fault(), Fault::Network);
}

#[test]
fn a_disconnect_reads_as_one_sentence() {
    let mut observation = fin(1200, 100, None);
    observation.version = MqttVersion::V5;
    observation.observed = Observed::ServerDisconnect(0x8e);
    let text = Classifier::default().classify(observation).to_string();
    assert_eq!(
        text,
        "another client took our client id (taken-over, fault: operator; phase session, MQTT 5.0, code 0x8e, session 1.2 s)"
    );
}

#[test]
fn pubacks_are_delivered_refused_or_deferred() {
    assert_eq!(puback_verdict(0x10), PubackVerdict::Delivered);
    assert_eq!(puback_verdict(0x87), PubackVerdict::Refused);
    assert_eq!(puback_verdict(0x97), PubackVerdict::Deferred);
}

const fn range(first: u64, last: u64) -> Option<SequenceRange> {
    Some(SequenceRange {
        first: Sequence(first),
        last: Sequence(last),
    })
}

#[test]
fn the_cursor_waits_for_every_part_of_a_message() {
    let mut window = Window::new(4, usize::MAX, Sequence(0));
    let a = window.admit(range(1, 2), 1, 10, (), at(0)).unwrap();
    let b = window.admit(range(3, 3), 1, 10, (), at(0)).unwrap();
    let c = window.admit(range(3, 4), 1, 10, (), at(0)).unwrap();
    let d = window.admit(None, 0, 10, (), at(0)).unwrap();
    assert_eq!(window.admit(range(5, 5), 1, 10, (), at(0)), None, "full");
    assert_eq!(window.acknowledge(b).unwrap().cursor, None);
    assert_eq!(window.acknowledge(a).unwrap().cursor, Some(Sequence(2)));
    assert_eq!(window.acknowledge(a), None, "twice");
    assert_eq!(window.acknowledge(d).unwrap().cursor, None);
    assert_eq!(window.acknowledge(c).unwrap().cursor, Some(Sequence(4)));
    assert!(window.is_empty());
}

#[test]
fn a_part_of_a_message_settles_nothing_while_the_rest_waits_for_room() {
    let device = crate::message::DeviceName::try_new("press").unwrap();
    let reading = |number| crate::message::Reading {
        key: crate::message::Key::try_new("k").unwrap(),
        value: crate::message::Value::Text("x".repeat(100)),
        quality: crate::message::Quality::Good,
        timestamp: crate::time::TimestampMs(number),
    };
    let readings = (0..5).map(reading).collect();
    let uplink = crate::message::Uplink::Telemetry(vec![crate::message::DeviceReadings {
        device,
        readings,
    }]);
    let mut encoder = crate::thingsboard::Encoder::new(300);
    encoder.push(Sequence(7), &uplink);
    let publishes = encoder.finish().publishes;
    assert!(publishes.len() > 1);
    // A window of one: the second part is not even admitted when the first is acknowledged.
    let mut window = Window::new(1, usize::MAX, Sequence(6));
    let (last, parts) = publishes.split_last().unwrap();
    for part in parts {
        let token = window
            .admit(part.range, part.readings, 10, (), at(0))
            .unwrap();
        assert_eq!(window.acknowledge(token).unwrap().cursor, None);
    }
    assert_eq!(window.clone().lost(), Sequence(6));
    let token = window
        .admit(last.range, last.readings, 10, (), at(0))
        .unwrap();
    assert_eq!(window.acknowledge(token).unwrap().cursor, Some(Sequence(7)));
}

proptest! {
    /// Whatever happens in whatever order: one session at most, no wait below the floor but after a stable session,
    /// every question is answered, parked only where an operator is needed.
    #[test]
    fn the_link_keeps_its_promises(seed in any::<u64>(), steps in prop::collection::vec((0u8..9, any_cause(), 0u64..200_000, any::<u32>()), 1..120)) {
        let mut link = Link::new(Settings::default(), seed);
        let mut now = at(0);
        let mut open = false;
        let mut was_stable = false;
        for (kind, cause, gap, number) in steps {
            now = now + Duration::from_millis(gap);
            let before = link.state().clone();
            match kind {
                0 => link.handle(now, Input::Start),
                1 => link.handle(now, Input::Opened),
                2 => link.handle(now, Input::Acknowledged),
                3 | 4 => {
                    if matches!(before, State::Opening { .. } | State::Up { .. }) {
                        was_stable = matches!(before, State::Up { since, acknowledged: true } if now - since >= Settings::default().stable_after);
                    }
                    link.handle(now, lost(cause));
                }
                5 => link.handle(now, Input::Decided(Ok(match number % 3 {
                    0 => Decision::RetryNow,
                    1 => Decision::RetryAfter(Duration::from_millis(u64::from(number))),
                    _ => Decision::Park,
                }))),
                6 => link.handle(now, Input::Decided(Err(PolicyFault::Trapped))),
                7 => link.handle(now, Input::Unpark),
                _ => link.handle_timeout(now),
            }
            if matches!(before, State::Opening { .. } | State::Up { .. }) && matches!(link.state(), State::Doubting { .. } | State::Consulting { .. } | State::Waiting { .. } | State::Parked { .. } | State::Stopped) {
                open = false;
            }
            while let Some(output) = link.poll_output() {
                match output {
                    Output::Open { .. } => {
                        prop_assert!(!open, "two sessions");
                        open = true;
                    }
                    Output::Report(record) => match record.next {
                        Next::Retry(wait) => {
                            let immediate = was_stable || record.decided_by == DecidedBy::Host;
                            prop_assert!(immediate || wait >= Settings::default().floor, "{wait:?} {record:?}");
                        }
                        Next::Parked(_) => prop_assert!(matches!(
                            record.disconnect.cause.remedy(),
                            Remedy::Park | Remedy::SlowLane | Remedy::YieldToTakeover | Remedy::FallBackVersion
                        )),
                        Next::Stopped => {}
                    },
                    Output::Close(_) | Output::Redial | Output::Knock { .. } | Output::Consult(_) => {}
                }
            }
            let timed = matches!(link.state(), State::Doubting { .. } | State::Consulting { .. } | State::Waiting { .. });
            prop_assert_eq!(timed, link.poll_timeout().is_some());
        }
    }

    #[test]
    fn the_window_agrees_with_a_naive_model(limit in 1u16..12, steps in prop::collection::vec((any::<bool>(), 0usize..16), 1..200)) {
        let mut window = Window::new(limit, usize::MAX, Sequence(0));
        let mut model: Vec<(window::Token, u64, bool)> = Vec::new();
        let mut sequence = 0;
        for (admit, pick) in steps {
            if admit {
                let unacknowledged_span = model.iter().position(|entry| !entry.2).map_or(0, |first| model.len() - first);
                match window.admit(range(sequence + 1, sequence + 1), 1, 10, (), at(0)) {
                    Some(token) => {
                        prop_assert!(unacknowledged_span < usize::from(limit));
                        sequence += 1;
                        model.push((token, sequence, false));
                    }
                    None => prop_assert!(unacknowledged_span >= usize::from(limit)),
                }
            } else if !model.is_empty() {
                let index = pick % model.len();
                let (token, _, acknowledged) = model[index];
                prop_assert_eq!(window.acknowledge(token).is_some(), !acknowledged);
                model[index].2 = true;
            }
            let expected = model.iter().take_while(|entry| entry.2).last().map_or(0, |entry| entry.1);
            prop_assert_eq!(window.cursor(), Sequence(expected));
        }
        let cursor = window.cursor();
        prop_assert_eq!(window.lost(), cursor);
        prop_assert!(window.is_empty());
    }
}

#[test]
fn a_reconfiguration_leaves_a_session_alone_and_cuts_every_wait_short() {
    let v311 = || {
        Input::Reconfigured(Settings {
            versions: Versions::V311,
            ..Settings::default()
        })
    };
    let mut up = link();
    up.handle(at(0), Input::Start);
    up.handle(at(1), Input::Opened);
    while up.poll_output().is_some() {}
    up.handle(at(2), v311());
    assert_eq!(up.poll_output(), None);
    assert!(matches!(up.state(), State::Up { .. }));

    let waiting: [&[Input]; 3] = [
        // Parked.
        &[lost(Cause::ClientIdRefused)],
        // Asking the policy.
        &[lost(Cause::ConnectRefused)],
        // Waiting.
        &[lost(Cause::ConnectRefused), after(60_000)],
    ];
    for inputs in waiting {
        let mut link = link();
        link.handle(at(0), Input::Start);
        for input in inputs {
            link.handle(at(1), input.clone());
        }
        link.handle(at(2), v311());
        link.handle_timeout(at(2));
        let opening = State::Opening {
            version: MqttVersion::V311,
        };
        assert_eq!(*link.state(), opening, "after {inputs:?}");
    }
}

#[test]
fn a_window_is_bounded_by_bytes_too_but_one_publish_always_fits() {
    let mut window = Window::new(100, 100, Sequence(0));
    let big = window.admit(None, 1, 1_000, (), at(0)).unwrap();
    assert!(!window.has_room());
    window.acknowledge(big).unwrap();
    let tokens: Vec<_> = std::iter::from_fn(|| window.admit(None, 1, 30, (), at(1))).collect();
    assert_eq!(tokens.len(), 4, "30 + 30 + 30 are fewer than 100");
    window.acknowledge(tokens[2]).unwrap();
    assert!(
        window.has_room(),
        "acknowledged out of order, and gone from the wire"
    );
    window.lost();
    assert!(window.admit(None, 1, 99, (), at(2)).is_some() && window.has_room());
}

#[test]
fn a_broker_that_refuses_everything_does_not_empty_the_spool() {
    let mut refusals = Refusals::default();
    let mut judge_on = |topic, code| refusals.judge(puback_verdict(code), topic);
    let mut judge = |code| {
        assert_eq!(judge_on("b", 0), PubackVerdict::Delivered);
        judge_on("a", code)
    };
    for _ in 0..8 {
        assert_eq!(judge(0x87), PubackVerdict::Refused);
    }
    assert_eq!(judge(0x87), PubackVerdict::Deferred);
    assert_eq!(judge(0x97), PubackVerdict::Deferred);
    assert_eq!(
        judge(0x87),
        PubackVerdict::Deferred,
        "in the next session, too"
    );
    assert_eq!(judge(0), PubackVerdict::Delivered);
    assert_eq!(judge(0x87), PubackVerdict::Refused);
}
