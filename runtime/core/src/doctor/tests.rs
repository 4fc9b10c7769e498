//! What the judge says of what a broker says, as tables.

use std::time::Duration;

use proptest::prelude::*;

use super::facts::*;
use super::*;
use crate::link::cause::{Cause, Disconnect, Evidence, MqttVersion, Phase, TlsReject};
use crate::link::classify::{Classifier, Observation, Observed};
use crate::mqtt_frame::{Connack, Properties};

fn wanted() -> Wanted {
    Wanted {
        host: "broker.test".into(),
        port: 1883,
        tls: false,
        websocket: None,
        via: None,
        server_name: "broker.test".into(),
        ca_file: true,
        client_certificate: false,
        username: true,
        versions: Versions::Auto,
        keep_alive_s: 30,
        inflight_max: 100,
        packet_bytes_max: 65_536,
    }
}

fn failed(phase: Phase, version: MqttVersion, observed: Observed) -> Failed {
    let observation = Observation {
        phase,
        version,
        observed,
        evidence: Evidence::default(),
        suspect: None,
    };
    Box::new(Classifier::default().classify(observation))
}

fn refused(version: MqttVersion, code: u8) -> Answer {
    Err(failed(Phase::Connect, version, Observed::Refused(code)))
}

fn accepted() -> Answer {
    Ok(Connack {
        form: MqttVersion::V5,
        session_present: false,
        code: 0,
        properties: Properties::default(),
    })
}

fn field(finding: &Finding) -> Option<(Field, Option<&str>)> {
    let remedy = finding.remedy.as_ref()?;
    Some((remedy.field, remedy.value.as_deref()))
}

#[track_caller]
fn assert_finding(
    finding: &Finding,
    verdict: Verdict,
    said: &str,
    remedy: Option<(Field, Option<&str>)>,
) {
    assert_eq!(finding.verdict, verdict, "{finding:?}");
    assert!(
        finding.seen.contains(said),
        "{said:?} is not in {finding:?}"
    );
    assert_eq!(field(finding), remedy, "{finding:?}");
    if matches!(verdict, Verdict::Warns | Verdict::Fails) {
        assert!(remedy.is_some(), "no remedy: {finding:?}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn what_the_listener_speaks() {
    let plain = |inside, other, http| ProtocolSeen {
        outer: Outer::Plain,
        inside: Some(inside),
        other,
        http,
    };
    let http = || Speech::Http {
        line: "HTTP/1.1 101 Switching Protocols".into(),
        date: None,
    };
    let not_found = || Speech::Http {
        line: "HTTP/1.1 404 Not Found".into(),
        date: None,
    };
    let not_tls = |other| ProtocolSeen {
        outer: Outer::NotTls,
        inside: None,
        other: Some(other),
        http: None,
    };
    let set = |url: &'static str| Some((Field::Url, Some(url)));
    let look = Some((Field::Url, None));
    let table = [
        (
            plain(Speech::Mqtt, None, None),
            Verdict::Fits,
            "MQTT without TLS",
            None,
        ),
        (
            plain(Speech::Closed, Some(Speech::Tls), None),
            Verdict::Fails,
            "expects TLS",
            set("\"mqtts://broker.test:1883\""),
        ),
        (
            plain(Speech::Tls, None, None),
            Verdict::Fails,
            "expects TLS",
            set("\"mqtts://broker.test:1883\""),
        ),
        (
            plain(Speech::Silent, Some(Speech::Silent), Some(http())),
            Verdict::Fails,
            "WebSocket",
            set("\"ws://broker.test:1883/mqtt\""),
        ),
        (
            plain(Speech::Silent, Some(Speech::Silent), Some(Speech::Silent)),
            Verdict::Fails,
            "never answers",
            look,
        ),
        (
            plain(Speech::Closed, Some(Speech::Closed), Some(Speech::Closed)),
            Verdict::Fails,
            "closes as soon as",
            look,
        ),
        (
            plain(Speech::Other("SSH-2.0".into()), None, None),
            Verdict::Fails,
            "no MQTT listener; it answers with \"SSH-2.0\"",
            look,
        ),
        (
            not_tls(Speech::Mqtt),
            Verdict::Fails,
            "speaks MQTT without TLS",
            set("\"mqtt://broker.test:1883\""),
        ),
        (
            not_tls(http()),
            Verdict::Fails,
            "WebSocket",
            set("\"ws://broker.test:1883/mqtt\""),
        ),
        (
            plain(Speech::Closed, None, Some(not_found())),
            Verdict::Fails,
            "web listener",
            look,
        ),
        (
            not_tls(Speech::Silent),
            Verdict::Fails,
            "does not speak TLS",
            look,
        ),
    ];
    for (seen, verdict, said, remedy) in table {
        assert_finding(&judge::protocol(&wanted(), &seen), verdict, said, remedy);
    }
}

#[test]
fn what_the_listener_speaks_where_a_websocket_is_wanted() {
    let wanted = |tls| Wanted {
        tls,
        websocket: Some("/mqtt".into()),
        ..wanted()
    };
    let http = |line: &str| {
        Some(Speech::Http {
            line: line.into(),
            date: None,
        })
    };
    let seen = |outer, inside, other, http| ProtocolSeen {
        outer,
        inside: Some(inside),
        other,
        http,
    };
    let set = |url: &'static str| Some((Field::Url, Some(url)));
    let look = Some((Field::Url, None));
    let upgrade = || http("HTTP/1.1 101 Switching Protocols");
    let table = [
        (
            seen(Outer::Tls, Speech::Mqtt, None, None),
            Verdict::Fits,
            "MQTT over WebSocket and TLS",
            None,
        ),
        (
            seen(Outer::Tls, Speech::Closed, Some(Speech::Mqtt), None),
            Verdict::Fails,
            "without WebSocket",
            set("\"mqtts://broker.test:1883\""),
        ),
        (
            seen(Outer::Tls, Speech::Closed, None, http("HTTP/1.1 404 ?")),
            Verdict::Fails,
            "wants a WebSocket at /mqtt",
            look,
        ),
        (
            seen(Outer::Tls, Speech::Silent, None, upgrade()),
            Verdict::Fails,
            "CONNECT in it is answered with nothing",
            look,
        ),
        (
            seen(Outer::NotTls, Speech::Closed, None, upgrade()),
            Verdict::Fails,
            "HTTP without TLS",
            set("\"ws://broker.test:1883/mqtt\""),
        ),
    ];
    for (seen, verdict, said, remedy) in table {
        assert_finding(
            &judge::protocol(&wanted(true), &seen),
            verdict,
            said,
            remedy,
        );
    }
    let tls = seen(Outer::Plain, Speech::Closed, Some(Speech::Tls), None);
    let finding = judge::protocol(&wanted(false), &tls);
    let remedy = set("\"wss://broker.test:1883/mqtt\"");
    assert_finding(&finding, Verdict::Fails, "expects TLS", remedy);
}

#[test]
fn speech_is_known_by_its_first_bytes() {
    let http = b"HTTP/1.1 400 Bad Request\r\nserver: x\r\ndate: Mon, 23 Nov 2026 14:00:00 GMT\r\n\r\nbody: y";
    let date = Some("Mon, 23 Nov 2026 14:00:00 GMT".to_owned());
    assert!(
        matches!(Speech::of(http, true), Speech::Http { line, date: found }
        if line == "HTTP/1.1 400 Bad Request" && found == date)
    );
    assert_eq!(Speech::of(&[0x20, 2, 0, 5], false), Speech::Mqtt);
    assert_eq!(Speech::of(&[0x15, 3, 1, 0, 2], true), Speech::Tls);
    assert_eq!(Speech::of(&[], true), Speech::Closed);
    assert_eq!(Speech::of(&[], false), Speech::Silent);
    assert_eq!(
        Speech::of(b"\x1b[2J", false),
        Speech::Other("\\x1b[2J".into())
    );
}

fn tls(reject: TlsReject) -> TlsSeen {
    TlsSeen {
        handshake: Err(failed(Phase::Tls, MqttVersion::V5, Observed::Tls(reject))),
        offered: vec![Certificate {
            subject: "\"broker\"".into(),
            issuer: "\"plant authority\"".into(),
            names: vec!["other.test".into()],
            not_before_s: 1_000_000_000,
            not_after_s: 1_500_000_000,
            not_before: "2001-09-09".into(),
            not_after: "2017-07-14".into(),
        }],
        root: None,
        now_s: 1_500_864_000,
        now: "2017-07-24 02:40:00 UTC".into(),
    }
}

#[test]
fn what_is_wrong_with_a_certificate() {
    let table = [
        (
            TlsReject::Expired,
            "\"broker\" expired on 2017-07-14, 10 days ago by this machine's clock (2017-07-24 02:40:00 UTC)",
            (Field::Url, None),
        ),
        (
            TlsReject::NotYetValid,
            "only from 2001-09-09",
            (Field::Url, None),
        ),
        (
            TlsReject::NameMismatch,
            "is for other.test, and broker.test was asked for",
            (Field::ServerName, Some("\"other.test\"")),
        ),
        (
            TlsReject::UnknownIssuer,
            "issued by \"plant authority\", who is not in link.tls.ca_file",
            (Field::CaFile, None),
        ),
        (
            TlsReject::ClientCertificate,
            "our client certificate",
            (Field::ClientCertFile, None),
        ),
        (TlsReject::Handshake, "handshake failed", (Field::Url, None)),
    ];
    for (reject, said, remedy) in table {
        let finding = judge::tls(&wanted(), Some(&tls(reject)), true);
        assert_finding(&finding, Verdict::Fails, said, Some(remedy));
        assert!(!finding.holds);
    }
}

#[test]
fn a_certificate_that_ends_soon_is_worth_a_word_and_no_tls_is_on_a_network() {
    let mut seen = tls(TlsReject::Expired);
    seen.handshake = Ok(TlsTerms {
        version: "TLSv1.3".into(),
        cipher: "TLS13_AES_256_GCM_SHA384".into(),
        alpn: None,
    });
    for (days, verdict) in [(29, Verdict::Warns), (31, Verdict::Fits)] {
        seen.now_s = 1_500_000_000 - days * 24 * 3600;
        let finding = judge::tls(&wanted(), Some(&seen), false);
        assert_eq!(finding.verdict, verdict, "{days}: {finding:?}");
        assert!(
            finding.seen.contains(&format!("({days} days)")),
            "{finding:?}"
        );
    }
    assert_eq!(judge::tls(&wanted(), None, true).verdict, Verdict::Fits);
    assert_eq!(judge::tls(&wanted(), None, false).verdict, Verdict::Warns);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn versions_and_what_the_link_would_do() {
    use MqttVersion::{V5, V311};
    let closed = |version| Err(failed(Phase::Connect, version, Observed::Fin));
    let unknown = || Err(failed(Phase::Connect, V5, Observed::RefusedInOtherVersion));
    let set = |version: &'static str| Some((Field::MqttVersion, Some(version)));
    let table = [
        (
            Versions::Auto,
            accepted(),
            accepted(),
            Some(V5),
            Verdict::Fits,
            None,
        ),
        // It knows 5.0 and does not let us in: that is another finding.
        (
            Versions::Auto,
            refused(V5, 0x87),
            refused(V311, 5),
            Some(V5),
            Verdict::Fits,
            None,
        ),
        (
            Versions::Auto,
            unknown(),
            accepted(),
            Some(V311),
            Verdict::Warns,
            set("\"3.1.1\""),
        ),
        // The link does not fall back on a close: it would try 5.0 for ever.
        (
            Versions::Auto,
            closed(V5),
            accepted(),
            Some(V311),
            Verdict::Fails,
            set("\"3.1.1\""),
        ),
        (
            Versions::V5,
            unknown(),
            accepted(),
            None,
            Verdict::Fails,
            set("\"3.1.1\""),
        ),
        (
            Versions::V311,
            unknown(),
            accepted(),
            Some(V311),
            Verdict::Fits,
            None,
        ),
        (
            Versions::Auto,
            closed(V5),
            closed(V311),
            None,
            Verdict::Fails,
            Some((Field::Url, None)),
        ),
    ];
    for (versions, v5, v311, spoken, verdict, remedy) in table {
        let wanted = Wanted {
            versions,
            ..wanted()
        };
        assert_eq!(
            judge::spoken(&wanted, &v5, &v311),
            spoken,
            "{versions:?} {v5:?} {v311:?}"
        );
        let finding = judge::version(&wanted, V5, &v5, &v311);
        assert_finding(&finding, verdict, "", remedy);
    }
    let finding = judge::version(&wanted(), V311, &accepted(), &closed(V311));
    assert_finding(&finding, Verdict::Fits, "not needed", None);
}

#[test]
fn refused_credentials_name_what_to_give() {
    use MqttVersion::{V5, V311};
    let table = [
        (
            refused(V5, 0x86),
            "user name or password (CONNACK 0x86)",
            Field::Username,
        ),
        (
            refused(V5, 0x87),
            "does not authorize this client (CONNACK 0x87)",
            Field::Username,
        ),
        (refused(V311, 5), "CONNACK 0x05", Field::Username),
        (refused(V311, 2), "refuses this client id", Field::ClientId),
        (refused(V5, 0x8a), "banned", Field::ClientId),
        (refused(V5, 0x97), "quota", Field::InflightMax),
    ];
    for (answer, said, remedy) in table {
        let finding = judge::credentials(&wanted(), Some(&answer), true);
        assert_finding(&finding, Verdict::Fails, said, Some((remedy, None)));
        assert!(!finding.holds);
    }
    let nameless = Wanted {
        username: false,
        ..wanted()
    };
    let finding = judge::credentials(&nameless, Some(&refused(V5, 0x87)), true);
    let words = &finding.remedy.as_ref().unwrap().words;
    assert!(words.contains("the configuration has none") && words.contains("--as-gateway"));
    let finding = judge::credentials(&nameless, Some(&refused(V5, 0x87)), false);
    assert!(!finding.remedy.unwrap().words.contains("--as-gateway"));
}

#[test]
fn whoever_is_let_in_is_told() {
    let no = || refused(MqttVersion::V5, 0x87);
    let table = [
        (no(), Some(no()), Verdict::Fits),
        (accepted(), Some(no()), Verdict::Warns),
        (accepted(), Some(accepted()), Verdict::Warns),
        (no(), Some(accepted()), Verdict::Warns),
        (no(), None, Verdict::Fits),
    ];
    for (nobody, impostor, verdict) in table {
        let seen = StrangersSeen { nobody, impostor };
        assert_eq!(
            judge::strangers(&wanted(), &seen).verdict,
            verdict,
            "{seen:?}"
        );
        let with_certificate = Wanted {
            client_certificate: true,
            ..wanted()
        };
        assert_eq!(
            judge::strangers(&with_certificate, &seen).verdict,
            Verdict::Fits
        );
    }
}

#[test]
fn keep_alive_as_asked_or_as_set() {
    let seen = |server_s, accepted_s| KeepAliveSeen {
        server_s,
        accepted_s,
    };
    let set = |seconds: &'static str| Some((Field::KeepAliveS, Some(seconds)));
    let table = [
        (seen(None, None), Verdict::Fits, "30 s, as asked", None),
        (
            seen(Some(60), None),
            Verdict::Fits,
            "60 s, set by the broker",
            None,
        ),
        (
            seen(Some(10), None),
            Verdict::Warns,
            "10 s instead of the 30 s",
            set("10"),
        ),
        // The configuration does not take less than five.
        (
            seen(Some(3), None),
            Verdict::Warns,
            "3 s instead",
            Some((Field::KeepAliveS, None)),
        ),
        (
            seen(Some(0), None),
            Verdict::Warns,
            "off",
            Some((Field::KeepAliveS, None)),
        ),
        (
            seen(None, Some(12)),
            Verdict::Fails,
            "takes 12 s",
            set("12"),
        ),
    ];
    for (seen, verdict, said, remedy) in table {
        assert_finding(&judge::keep_alive(&wanted(), &seen), verdict, said, remedy);
    }
}

#[test]
fn forbidden_topics_are_named_with_the_right_that_is_missing() {
    let topic = |topic, subscribed, code, came_back| TopicSeen {
        topic,
        subscribed,
        sent: Sent::Acked(code, None),
        came_back,
    };
    let good = [
        topic("v1/gateway/telemetry", false, 0x10, None),
        topic("v1/gateway/rpc", true, 1, None),
    ];
    let finding = judge::gateway_topics(MqttVersion::V5, &good);
    assert_finding(
        &finding,
        Verdict::Fits,
        "publishing on v1/gateway/telemetry",
        None,
    );

    let no_write = [
        topic("v1/gateway/telemetry", false, 0x87, None),
        topic("v1/gateway/rpc", true, 1, None),
    ];
    let finding = judge::gateway_topics(MqttVersion::V5, &no_write);
    assert_finding(
        &finding,
        Verdict::Fails,
        "publishing on v1/gateway/telemetry is refused with 0x87",
        Some((Field::Username, None)),
    );
    assert!(
        finding
            .remedy
            .unwrap()
            .words
            .contains("topic write v1/gateway/telemetry")
    );

    let no_read = [topic("v1/gateway/rpc", true, 0x80, None)];
    let finding = judge::gateway_topics(MqttVersion::V311, &no_read);
    assert!(
        finding
            .remedy
            .unwrap()
            .words
            .contains("topic read v1/gateway/rpc")
    );

    // 3.1.1 has no way to say no: acknowledged, and gone.
    let doubtful = [topic("v1/gateway/telemetry", false, 0, Some(false))];
    let finding = judge::gateway_topics(MqttVersion::V311, &doubtful);
    assert_finding(
        &finding,
        Verdict::Warns,
        "does not come back",
        Some((Field::Username, None)),
    );
}

#[test]
fn packet_sizes_announced_and_found() {
    let seen = |announced, taken_bytes, refused: Option<usize>| PacketSizeSeen {
        announced,
        taken_bytes,
        refused: refused.map(|bytes| (bytes, Sent::Acked(0x95, None))),
        bound_bytes: 65_536,
    };
    let set = |bytes: &'static str| Some((Field::PacketBytesMax, Some(bytes)));
    let table = [
        (seen(None, 65_536, None), Verdict::Fits, "65536 bytes", None),
        (seen(Some(100_000), 65_536, None), Verdict::Fits, "", None),
        (
            seen(Some(2000), 2000, None),
            Verdict::Warns,
            "up to 2000 bytes",
            set("2000"),
        ),
        (
            seen(None, 1984, Some(2048)),
            Verdict::Fails,
            "does not announce",
            set("1984"),
        ),
        (
            seen(Some(9000), 1984, Some(2048)),
            Verdict::Fails,
            "announces 9000",
            set("1984"),
        ),
        // Less than the configuration can be set to.
        (
            seen(Some(500), 500, None),
            Verdict::Warns,
            "500",
            Some((Field::PacketBytesMax, None)),
        ),
    ];
    for (seen, verdict, said, remedy) in table {
        assert_finding(&judge::packet_size(&wanted(), &seen), verdict, said, remedy);
    }
}

#[test]
fn a_forbidden_topic_says_nothing_of_sizes() {
    for code in [0x87, 0x90] {
        let seen = PacketSizeSeen {
            announced: None,
            taken_bytes: 0,
            refused: Some((65_536, Sent::Acked(code, None))),
            bound_bytes: 65_536,
        };
        let finding = judge::packet_size(&wanted(), &seen);
        assert_finding(
            &finding,
            Verdict::NotTried,
            "whatever its size: see gateway-topics",
            None,
        );
    }
}

#[test]
fn publishes_in_flight() {
    let seen = |announced, sent, acked, ended| InFlightSeen {
        announced,
        sent,
        acked,
        took: Duration::from_millis(3),
        ended,
    };
    let over = failed(
        Phase::Session,
        MqttVersion::V5,
        Observed::ServerDisconnect(0x93),
    );
    let set = |publishes: &'static str| Some((Field::InflightMax, Some(publishes)));
    let table = [
        (
            seen(None, 100, 100, None),
            Verdict::Fits,
            "100 publishes at once",
            None,
        ),
        (seen(Some(100), 100, 100, None), Verdict::Fits, "", None),
        (
            seen(Some(5), 5, 5, None),
            Verdict::Warns,
            "up to 5 publishes",
            set("5"),
        ),
        (
            seen(None, 100, 20, None),
            Verdict::Fails,
            "only 20",
            set("20"),
        ),
        (
            seen(None, 100, 0, Some(over)),
            Verdict::Fails,
            "DISCONNECT 0x93",
            set("1"),
        ),
    ];
    for (seen, verdict, said, remedy) in table {
        assert_finding(&judge::in_flight(&wanted(), &seen), verdict, said, remedy);
    }
}

#[test]
fn what_the_gateway_does_not_need_is_never_wrong() {
    let no = || RoundTrip {
        subscribed: Sent::Acked(0xa2, None),
        published: None,
        delivered: None,
    };
    assert_eq!(judge::wildcards(Some(false), &no()).verdict, Verdict::Fits);
    assert_eq!(judge::shared(Some(false), &no()).verdict, Verdict::Fits);
    let scratch = judge::scratch("moorline/doctor/x", &no());
    assert!(
        scratch.verdict == Verdict::NotTried && !scratch.holds,
        "{scratch:?}"
    );
    let gone = ResumeSeen {
        expiry_s: Some(0),
        present: false,
        queued: false,
    };
    assert_eq!(judge::resume(&Ok(gone)).verdict, Verdict::Fits);
    let retained = RetainedSeen {
        published: Sent::Acked(0x9a, None),
        kept: false,
        cleared: false,
    };
    assert_eq!(
        judge::retained(Some(false), &retained).verdict,
        Verdict::Fits
    );
    let left = RetainedSeen {
        published: Sent::Acked(0, None),
        kept: true,
        cleared: false,
    };
    assert_eq!(judge::retained(None, &left).verdict, Verdict::Warns);
}

#[test]
fn qos_1_is_what_counts() {
    let trip = |delivered: Option<u8>| RoundTrip {
        subscribed: Sent::Acked(2, None),
        published: Some(Sent::Acked(0, None)),
        delivered: delivered.map(|qos| (qos, Duration::from_millis(1))),
    };
    let all = [(0, trip(Some(0))), (1, trip(Some(1))), (2, trip(Some(2)))];
    assert_eq!(judge::qos(None, &all).verdict, Verdict::Fits);
    let no_two = [(0, trip(Some(0))), (1, trip(Some(1))), (2, trip(None))];
    assert_eq!(judge::qos(Some(1), &no_two).verdict, Verdict::Fits);
    let no_one = [(0, trip(Some(0))), (1, trip(None)), (2, trip(None))];
    assert_eq!(judge::qos(Some(0), &no_one).verdict, Verdict::Fails);
}

#[test]
fn silence_is_judged_only_after_a_while() {
    let open = |seconds| judge::silence(2, &SilenceSeen::Open(Duration::from_secs(seconds)));
    assert_eq!(open(4).verdict, Verdict::NotTried);
    assert_eq!(open(15).verdict, Verdict::Warns);
    let closed = failed(Phase::Session, MqttVersion::V5, Observed::Fin);
    let closed = SilenceSeen::Closed(Duration::from_secs(5), closed);
    assert_finding(
        &judge::silence(2, &closed),
        Verdict::Fits,
        "closed after 5.0 s",
        None,
    );
}

#[test]
fn clocks_are_judged_by_what_there_is() {
    let seen = |http_ahead_s, certificate_valid| ClockSeen {
        http_ahead_s,
        certificate_valid,
    };
    assert_eq!(judge::clock(&seen(None, None)).verdict, Verdict::NotTried);
    assert_eq!(judge::clock(&seen(None, Some(true))).verdict, Verdict::Fits);
    assert_eq!(
        judge::clock(&seen(None, Some(false))).verdict,
        Verdict::Warns
    );
    assert_eq!(judge::clock(&seen(Some(1), None)).verdict, Verdict::Fits);
    assert_eq!(
        judge::clock(&seen(Some(-3600), None)).verdict,
        Verdict::Warns
    );
}

#[test]
fn what_needs_something_that_does_not_hold_is_not_tried() {
    let mut plan = Plan::default();
    let mut tried = Vec::new();
    while let Some(step) = plan.next() {
        let finding = match step {
            Step::Skip(finding) => finding,
            Step::Try(Probe::Tls) => {
                tried.push(Probe::Tls);
                Finding::fails(Probe::Tls, "expired")
            }
            Step::Try(probe) => {
                tried.push(probe);
                Finding::fits(probe, "")
            }
        };
        plan.record(finding);
    }
    let expected = [
        Probe::Name,
        Probe::Connection,
        Probe::Protocol,
        Probe::Tls,
        Probe::Clock,
    ];
    assert_eq!(tried, expected);
    let skipped = plan
        .findings()
        .iter()
        .find(|one| one.probe == Probe::Qos)
        .unwrap();
    assert_eq!(
        (skipped.verdict, skipped.seen.as_str()),
        (Verdict::NotTried, "because tls does not hold")
    );
}

proptest! {
    /// Whatever holds and whatever does not: every probe has exactly one finding, in order, and needs only earlier ones.
    #[test]
    fn a_plan_ends_with_a_finding_for_each_probe(holds in prop::collection::vec(any::<bool>(), 22)) {
        let mut plan = Plan::default();
        for _ in Probe::ALL {
            let finding = match plan.next().unwrap() {
                Step::Skip(finding) => finding,
                Step::Try(probe) => {
                    prop_assert!(probe.needs().iter().all(|need| plan.holds(*need)));
                    let held = holds[Probe::ALL.iter().position(|one| *one == probe).unwrap()];
                    Finding::fits(probe, "").holding(held)
                }
            };
            plan.record(finding);
        }
        prop_assert_eq!(plan.next(), None);
        let order: Vec<_> = plan.findings().iter().map(|finding| finding.probe).collect();
        prop_assert_eq!(order, Probe::ALL.to_vec());
    }
}

#[test]
fn causes_come_with_the_links_own_words() {
    let refused: Disconnect = *failed(Phase::Tcp, MqttVersion::V5, Observed::Errno(111));
    assert_eq!(refused.cause, Cause::ConnectRefused);
    let seen = [AddressSeen {
        address: ([127, 0, 0, 1], 1883).into(),
        connected: Err(Box::new(refused)),
    }];
    let finding = judge::connection(&wanted(), &seen);
    assert_finding(
        &finding,
        Verdict::Fails,
        "127.0.0.1:1883: nobody listens at the broker's address",
        Some((Field::Url, None)),
    );
}
