//! What is played, and what must come of it: written by hand, from the specification and not from the code.

use std::time::Duration;

use moorline_core::link::ParkReason;
use moorline_core::link::canary;
use moorline_core::link::cause::{
    Cause, Certainty, Fault, Inference, Intent, MqttVersion, Phase, TlsReject, TransportEnd,
};
use moorline_core::mqtt_frame::PacketKind;

use super::super::super::{CanarySettings, LinkSettings};
use super::super::scripted::{Act, connack_v5, connack_v311};

/// One way to fail.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) row: Cause,
    pub(super) fault: Fault,
    pub(super) certainty: Certainty,
    pub(super) phase: Phase,
    pub(super) version: MqttVersion,
    pub(super) code: Option<u8>,
    pub(super) errno: Option<i32>,
    pub(super) end: Option<TransportEnd>,
    /// Which disconnect has it, from 0: some causes show only when the same happens again.
    pub(super) nth: usize,
    pub(super) then: Then,
    pub(super) stage: Stage,
    pub(super) load: Load,
    pub(super) tune: fn(&mut LinkSettings),
}

/// What the host must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// At once if the session was stable; else between floor and ceiling.
    Once,
    /// Between floor and ceiling.
    BackOff,
    /// Half a minute at least.
    Quota,
    /// At the ceiling.
    Ceiling,
    /// Ten minutes at least.
    Yield,
    /// Without a wait, by the host's own decision.
    AtOnce,
    Parked(ParkReason),
    Stopped,
}

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    /// Nobody listens.
    Nobody,
    /// The name has no address.
    NoName,
    /// The address to connect from is not this machine's.
    NoSource,
    /// A listener that drops SYNs.
    FullQueue,
    /// A broker that plays this on every connection.
    Broker(Vec<Act>),
    /// A proxy that does.
    Proxy(Vec<Act>),
    /// A web server that does.
    WebSocket(Vec<Act>),
    /// A server that does where TLS is wanted.
    Tls(Vec<Act>),
    /// A broker whose certificate has expired.
    ExpiredCertificate,
    /// A good broker, and a process before this one that was killed.
    Killed,
    /// A good broker, and an operator who stops the gateway.
    Stop,
    /// Two brokers; the preferred one is back after a while.
    FailBack,
}

/// What there is to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// Nothing, whatever the timing says.
    Nothing,
    /// A few readings if the timing says so.
    AsTimed,
    /// A few readings.
    Light,
    /// More than any socket takes.
    Heavy,
    /// A message with [`MARKER`] in it.
    Marked,
}

/// In the payload that the peer dies of.
pub(super) const MARKER: &[u8] = b"poison";

/// 3.1.1 has no word for them: its server cannot send DISCONNECT, and has five return codes.
pub(super) const ONLY_IN_5: [Cause; 20] = [
    Cause::ServerBusy,
    Cause::Banned,
    Cause::BadAuthenticationMethod,
    Cause::QuotaExceeded,
    Cause::ConnectionRateExceeded,
    Cause::UseAnotherServer,
    Cause::ServerMoved,
    Cause::OptionUnsupported(0x9a),
    Cause::PacketTooLarge,
    Cause::TakenOver,
    Cause::ServerShuttingDown,
    Cause::KeepAliveTimeout,
    Cause::MaximumConnectTime,
    Cause::AdministrativeAction,
    Cause::MessageRateTooHigh,
    Cause::ReceiveMaximumExceeded,
    Cause::TopicAliasInvalid,
    Cause::MalformedPacket,
    Cause::ProtocolError,
    Cause::TopicInvalid,
];

const CONNECT: Act = Act::Expect(PacketKind::Connect);
const ECONNREFUSED: i32 = 111;
const EADDRNOTAVAIL: i32 = 99;
const ECONNRESET: i32 = 104;
const ETIMEDOUT: i32 = 110;
const NEVER: Duration = Duration::from_secs(600);

impl Case {
    fn new(version: MqttVersion, row: Cause, fault: Fault, phase: Phase, stage: Stage) -> Self {
        Self {
            row,
            fault,
            certainty: Certainty::Certain,
            phase,
            version,
            code: None,
            errno: None,
            end: None,
            nth: 0,
            then: Then::BackOff,
            stage,
            load: Load::AsTimed,
            tune: |_| {},
        }
    }

    /// An attempt that a broker ends.
    fn attempt(version: MqttVersion, row: Cause, fault: Fault, act: Act) -> Self {
        let stage = Stage::Broker(vec![CONNECT, act]);
        Self::new(version, row, fault, Phase::Connect, stage)
    }

    /// A session that a broker ends.
    fn session(version: MqttVersion, row: Cause, fault: Fault, acts: Vec<Act>) -> Self {
        let mut script = vec![CONNECT, accepted(version)];
        script.extend(acts);
        let stage = Stage::Broker(script);
        Self::new(version, row, fault, Phase::Session, stage)
    }

    /// The same after the client has subscribed.
    fn subscribed(version: MqttVersion, row: Cause, fault: Fault, act: Act) -> Self {
        let acts = vec![Act::Expect(PacketKind::Subscribe), act];
        Self::session(version, row, fault, acts)
    }

    const fn inferred(mut self) -> Self {
        self.certainty = Certainty::Inferred;
        self
    }

    const fn code(mut self, code: u8) -> Self {
        self.code = Some(code);
        self
    }

    const fn ends(mut self, end: TransportEnd) -> Self {
        self.end = Some(end);
        self.errno = match end {
            TransportEnd::Rst => Some(ECONNRESET),
            TransportEnd::Errno(errno) => Some(errno),
            TransportEnd::Fin | TransportEnd::Local => None,
        };
        self
    }

    const fn nth(mut self, nth: usize) -> Self {
        self.nth = nth;
        self
    }

    const fn then(mut self, then: Then) -> Self {
        self.then = then;
        self
    }

    const fn load(mut self, load: Load) -> Self {
        self.load = load;
        self
    }

    fn tuned(mut self, tune: fn(&mut LinkSettings)) -> Self {
        self.tune = tune;
        self
    }

    /// Whether the peer acknowledges a publish before it ends the session, if the timing wants a stable one.
    pub(super) fn acknowledges(&self) -> bool {
        self.then == Then::Once
            && matches!(self.load, Load::AsTimed)
            && matches!(&self.stage, Stage::Broker(script) if script.iter().any(|act| matches!(act, Act::Expect(PacketKind::Subscribe))))
    }
}

fn accepted(version: MqttVersion) -> Act {
    match version {
        MqttVersion::V311 => connack_v311(0),
        MqttVersion::V5 => connack_v5(0),
    }
}

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for version in [MqttVersion::V311, MqttVersion::V5] {
        cases.extend(no_stream(version));
        cases.extend(no_way_through(version));
        cases.extend(no_answer(version));
        cases.extend(silent_ends(version));
        cases.extend(no_life(version));
        cases.extend(garbage(version));
        cases.extend(our_own(version));
    }
    cases.extend(refused_in_3());
    cases.extend(refused_in_5());
    cases.extend(disconnected());
    cases.extend(limits_of_5());
    cases
}

fn no_stream(version: MqttVersion) -> [Case; 4] {
    let attempt = |row, fault, phase, stage| Case::new(version, row, fault, phase, stage);
    let (peer, network) = (Fault::Peer, Fault::Network);
    let mut no_source = attempt(Cause::Unreachable, network, Phase::Tcp, Stage::NoSource);
    no_source.errno = Some(EADDRNOTAVAIL);
    [
        attempt(Cause::NameResolution, network, Phase::Dns, Stage::NoName),
        attempt(Cause::ConnectRefused, peer, Phase::Tcp, Stage::Nobody)
            .ends(TransportEnd::Errno(ECONNREFUSED)),
        no_source,
        attempt(Cause::ConnectTimeout, network, Phase::Tcp, Stage::FullQueue)
            .ends(TransportEnd::Local)
            .tuned(|settings| settings.timeouts.tcp = Duration::from_millis(300)),
    ]
}

fn no_way_through(version: MqttVersion) -> Vec<Case> {
    let answered = |words: &str| vec![Act::Hear, Act::Send(words.as_bytes().to_vec())];
    let http = |status: &str| answered(&format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"));
    let proxy = |code, acts| {
        let row = Cause::ProxyRefused(code);
        Case::new(
            version,
            row,
            Fault::Operator,
            Phase::Proxy,
            Stage::Proxy(acts),
        )
    };
    let web = |status, fault, acts| {
        let row = Cause::WebSocketRefused(status);
        let stage = Stage::WebSocket(acts);
        Case::new(version, row, fault, Phase::WebSocket, stage)
    };
    let tls = |reject, fault, stage| {
        let row = Cause::Tls(reject);
        Case::new(version, row, fault, Phase::Tls, stage).then(Then::Ceiling)
    };
    let (peer, operator) = (Fault::Peer, Fault::Operator);
    vec![
        proxy(407, http("407 Proxy Authentication Required")).then(Then::Parked(ParkReason::Proxy)),
        proxy(403, http("403 Forbidden")),
        proxy(502, http("502 Bad Gateway")),
        proxy(0, answered("SSH-2.0-OpenSSH_9.2\r\n\r\n")),
        proxy(0, vec![Act::Hear, Act::HalfClose]),
        web(401, operator, http("401 Unauthorized")).then(Then::Ceiling),
        web(403, operator, http("403 Forbidden")).then(Then::Ceiling),
        web(404, operator, http("404 Not Found")).then(Then::Ceiling),
        web(429, peer, http("429 Too Many Requests")).then(Then::Quota),
        web(503, peer, http("503 Service Unavailable")),
        web(0, peer, answered("SSH-2.0-OpenSSH_9.2\r\n\r\n")),
        tls(TlsReject::NotTls, peer, Stage::Tls(http("400 Bad Request"))),
        tls(TlsReject::Expired, operator, Stage::ExpiredCertificate),
    ]
}

fn no_answer(version: MqttVersion) -> [Case; 5] {
    let attempt = |row, act| Case::attempt(version, row, Fault::Peer, act);
    let http = b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec();
    [
        attempt(Cause::ConnackTimeout, Act::Silence).ends(TransportEnd::Local),
        attempt(Cause::ClosedBeforeConnack, Act::HalfClose).ends(TransportEnd::Fin),
        attempt(Cause::ClosedBeforeConnack, Act::Reset).ends(TransportEnd::Rst),
        attempt(Cause::PeerGarbage, Act::Send(http)),
        // PINGRESP, before anything else was said.
        attempt(Cause::PeerGarbage, Act::Send(vec![0xd0, 0])),
    ]
}

fn silent_ends(version: MqttVersion) -> Vec<Case> {
    let closed = |inference, fault, act| {
        Case::subscribed(version, Cause::ClosedByServer(inference), fault, act)
            .ends(TransportEnd::Fin)
    };
    let dies = |act| {
        let row = Cause::ClosedByServer(Inference::Poison);
        Case::session(version, row, Fault::Us, vec![Act::ServeUntil(MARKER), act])
            .inferred()
            .nth(1)
            .load(Load::Marked)
    };
    let (peer, operator) = (Fault::Peer, Fault::Operator);
    // As a broker that nothing of ours reaches.
    let unheard = vec![Act::Pause(Duration::from_millis(3_300)), Act::HalfClose];
    let keep_alive = Cause::ClosedByServer(Inference::KeepAlive);
    vec![
        closed(Inference::Nothing, peer, Act::HalfClose).then(Then::Once),
        closed(Inference::TakeoverOrAccess, operator, Act::HalfClose)
            .inferred()
            .nth(1)
            .load(Load::Nothing)
            .then(Then::Yield),
        dies(Act::HalfClose).ends(TransportEnd::Fin),
        dies(Act::Reset).ends(TransportEnd::Rst),
        Case::session(version, keep_alive, Fault::Us, unheard)
            .inferred()
            .ends(TransportEnd::Fin)
            .then(Then::Once)
            .tuned(|settings| {
                patient(settings);
                settings.keep_alive = Duration::from_secs(2);
            }),
        Case::subscribed(version, Cause::Reset, Fault::Network, Act::Reset)
            .ends(TransportEnd::Rst)
            .then(Then::Once),
    ]
}

/// Notices nothing by itself, and sends whatever there is.
fn patient(settings: &mut LinkSettings) {
    settings.keep_alive = NEVER;
    settings.liveness.pingresp = NEVER;
    settings.liveness.probe_after = NEVER;
    settings.liveness.ack = NEVER;
    settings.liveness.write_stall = NEVER;
    settings.inflight_max = 2_000;
    settings.inflight_bytes_max = usize::MAX;
}

fn stalls_soon(settings: &mut LinkSettings) {
    patient(settings);
    settings.liveness.write_stall = Duration::from_secs(1);
}

fn gives_up_in_the_kernel(settings: &mut LinkSettings) {
    patient(settings);
    settings.liveness.tcp_user = Duration::from_secs(1);
}

fn no_life(version: MqttVersion) -> Vec<Case> {
    let (peer, network) = (Fault::Peer, Fault::Network);
    let session = |row, fault, act| Case::session(version, row, fault, vec![act]);
    vec![
        Case::subscribed(version, Cause::PingrespTimeout, peer, Act::Silence)
            .inferred()
            .ends(TransportEnd::Local)
            .then(Then::Once),
        session(Cause::WriteStalled, peer, Act::Deaf)
            .ends(TransportEnd::Local)
            .load(Load::Heavy)
            .tuned(stalls_soon),
        session(Cause::BlackHole, network, Act::GoDark)
            .ends(TransportEnd::Local)
            .load(Load::Heavy)
            .then(Then::Once)
            .tuned(stalls_soon),
        session(Cause::BlackHole, network, Act::GoDark)
            .ends(TransportEnd::Errno(ETIMEDOUT))
            .load(Load::Heavy)
            .then(Then::Once)
            .tuned(gives_up_in_the_kernel),
        session(Cause::AckTimeout, peer, Act::OnlyPings)
            .ends(TransportEnd::Local)
            .load(Load::Light)
            .then(Then::Once)
            .tuned(|settings| settings.liveness.ack = Duration::from_secs(1)),
        session(Cause::CanaryLost, peer, Act::ServeEchoing(2))
            .ends(TransportEnd::Local)
            .tuned(|settings| {
                settings.canary = Some(CanarySettings {
                    topic: "line-7/canary".to_owned(),
                    timing: canary::Settings {
                        interval: Duration::from_millis(200),
                        deadline: Duration::from_millis(200),
                    },
                });
            }),
    ]
}

fn garbage(version: MqttVersion) -> Vec<Case> {
    let malformed = [
        // A packet type that does not exist.
        vec![0x00, 0x13],
        // A PUBREL, and the first half of a PINGREQ no server may send.
        vec![0x62, 2, 0, 1, 0xc0, 0],
        // A remaining length of five bytes.
        vec![0x30, 0xff, 0xff, 0xff, 0xff, 0x01],
        // A PUBLISH whose topic is longer than the packet.
        vec![0x30, 3, 0xff, 0xff, b'x'],
        // A second CONNACK.
        vec![0x20, 3, 0, 0, 0],
        // An acknowledgement of what was never sent.
        vec![0x40, 2, 0xfa, 77],
        // More than we said we would take.
        vec![0x30, 0x80, 0x80, 0x80, 0x01, 0, 1, b't'],
    ];
    malformed
        .map(|bytes| {
            let row = Cause::PeerGarbage;
            let acts = [Act::Expect(PacketKind::Subscribe), Act::Send(bytes)];
            // A close behind it, with bytes of ours unread, may be all that arrives.
            let waits = [Act::Silence];
            Case::session(
                version,
                row,
                Fault::Peer,
                acts.into_iter().chain(waits).collect(),
            )
        })
        .into()
}

fn our_own(version: MqttVersion) -> [Case; 3] {
    let session = |row, fault, stage| Case::new(version, row, fault, Phase::Session, stage);
    let restarted = session(Cause::HostRestarted, Fault::Us, Stage::Killed);
    let stopped = session(Cause::Local(Intent::Shutdown), Fault::Nobody, Stage::Stop);
    let failed_back = session(
        Cause::Local(Intent::FailBack),
        Fault::Nobody,
        Stage::FailBack,
    );
    [
        restarted.inferred().then(Then::AtOnce),
        stopped.ends(TransportEnd::Local).then(Then::Stopped),
        failed_back
            .ends(TransportEnd::Local)
            .nth(1)
            .then(Then::AtOnce),
    ]
}

fn refused_in_3() -> Vec<Case> {
    let (peer, operator) = (Fault::Peer, Fault::Operator);
    let rows = [
        (
            1,
            Cause::VersionRefused,
            operator,
            Then::Parked(ParkReason::Version),
        ),
        (
            2,
            Cause::ClientIdRefused,
            operator,
            Then::Parked(ParkReason::ClientId),
        ),
        (3, Cause::ServerUnavailable, peer, Then::BackOff),
        (4, Cause::BadCredentials, operator, Then::Ceiling),
        (5, Cause::NotAuthorized, operator, Then::Ceiling),
        // No return code of 3.1.1.
        (9, Cause::ServerReason(9), peer, Then::BackOff),
    ];
    rows.map(|(code, row, fault, then)| {
        Case::attempt(MqttVersion::V311, row, fault, connack_v311(code))
            .code(code)
            .then(then)
    })
    .into()
}

fn refused_in_5() -> Vec<Case> {
    let (us, peer, operator) = (Fault::Us, Fault::Peer, Fault::Operator);
    let parked = Then::Parked;
    let rows = [
        (0x80, Cause::ServerReason(0x80), peer, Then::BackOff),
        (0x81, Cause::MalformedPacket, us, Then::BackOff),
        (0x82, Cause::ProtocolError, us, Then::BackOff),
        (0x83, Cause::ServerReason(0x83), peer, Then::BackOff),
        (
            0x84,
            Cause::VersionRefused,
            operator,
            parked(ParkReason::Version),
        ),
        (
            0x85,
            Cause::ClientIdRefused,
            operator,
            parked(ParkReason::ClientId),
        ),
        (0x86, Cause::BadCredentials, operator, Then::Ceiling),
        (0x87, Cause::NotAuthorized, operator, Then::Ceiling),
        (0x88, Cause::ServerUnavailable, peer, Then::BackOff),
        (0x89, Cause::ServerBusy, peer, Then::BackOff),
        (0x8a, Cause::Banned, operator, Then::Ceiling),
        (
            0x8c,
            Cause::BadAuthenticationMethod,
            operator,
            Then::Ceiling,
        ),
        (
            0x90,
            Cause::OptionUnsupported(0x90),
            operator,
            parked(ParkReason::Option),
        ),
        (0x95, Cause::PacketTooLarge, us, Then::BackOff),
        (0x97, Cause::QuotaExceeded, us, Then::Quota),
        (
            0x99,
            Cause::OptionUnsupported(0x99),
            operator,
            parked(ParkReason::Option),
        ),
        (
            0x9a,
            Cause::OptionUnsupported(0x9a),
            operator,
            parked(ParkReason::Option),
        ),
        (
            0x9b,
            Cause::OptionUnsupported(0x9b),
            operator,
            parked(ParkReason::Option),
        ),
        (0x9c, Cause::UseAnotherServer, peer, Then::Quota),
        (0x9d, Cause::ServerMoved, peer, Then::Quota),
        (0x9f, Cause::ConnectionRateExceeded, us, Then::Quota),
        (0xee, Cause::ServerReason(0xee), peer, Then::BackOff),
    ];
    rows.map(|(code, row, fault, then)| {
        Case::attempt(MqttVersion::V5, row, fault, connack_v5(code))
            .code(code)
            .then(then)
    })
    .into()
}

/// Each code in each form a DISCONNECT may have.
fn disconnected() -> Vec<Case> {
    let (us, peer, operator) = (Fault::Us, Fault::Peer, Fault::Operator);
    let parked = Then::Parked(ParkReason::Option);
    let rows = [
        (0x04, Cause::ServerReason(0x04), peer, Then::BackOff),
        (0x80, Cause::ServerReason(0x80), peer, Then::BackOff),
        (0x81, Cause::MalformedPacket, us, Then::BackOff),
        (0x82, Cause::ProtocolError, us, Then::BackOff),
        (0x87, Cause::NotAuthorized, operator, Then::Ceiling),
        (0x89, Cause::ServerBusy, peer, Then::BackOff),
        (0x8b, Cause::ServerShuttingDown, peer, Then::BackOff),
        (0x8d, Cause::KeepAliveTimeout, us, Then::Once),
        (0x8e, Cause::TakenOver, operator, Then::Yield),
        (0x8f, Cause::TopicInvalid, operator, Then::BackOff),
        (0x90, Cause::TopicInvalid, operator, Then::BackOff),
        (0x93, Cause::ReceiveMaximumExceeded, us, Then::BackOff),
        (0x94, Cause::TopicAliasInvalid, us, Then::BackOff),
        (0x95, Cause::PacketTooLarge, us, Then::BackOff),
        (0x96, Cause::MessageRateTooHigh, us, Then::Quota),
        (0x97, Cause::QuotaExceeded, us, Then::Quota),
        (0x98, Cause::AdministrativeAction, peer, Then::Ceiling),
        (0x9a, Cause::OptionUnsupported(0x9a), operator, parked),
        (0x9c, Cause::UseAnotherServer, peer, Then::Quota),
        (0x9d, Cause::ServerMoved, peer, Then::Quota),
        (0x9e, Cause::OptionUnsupported(0x9e), operator, parked),
        (0x9f, Cause::ConnectionRateExceeded, us, Then::Quota),
        (0xa0, Cause::MaximumConnectTime, peer, Then::Once),
        (0xa1, Cause::OptionUnsupported(0xa1), operator, parked),
        (0xa2, Cause::OptionUnsupported(0xa2), operator, parked),
        (0xee, Cause::ServerReason(0xee), peer, Then::BackOff),
    ];
    let mut cases = Vec::new();
    for (code, row, fault, then) in rows {
        let forms = [
            vec![0xe0, 1, code],
            vec![0xe0, 2, code, 0],
            vec![0xe0, 7, code, 5, 0x1f, 0, 2, b'o', b'k'],
        ];
        cases.extend(forms.map(|form| {
            Case::subscribed(MqttVersion::V5, row, fault, Act::Send(form))
                .code(code)
                .then(then)
        }));
    }
    // Without a code it is 0x00 (section 3.14.2.1).
    let bare = Act::Send(vec![0xe0, 0]);
    cases
        .push(Case::subscribed(MqttVersion::V5, Cause::ServerReason(0), Fault::Peer, bare).code(0));
    cases
}

fn limits_of_5() -> [Case; 2] {
    let v5 = MqttVersion::V5;
    // Maximum Packet Size 1: no packet of ours is that small.
    let tiny = Act::Send(vec![0x20, 8, 0, 0, 5, 0x27, 0, 0, 0, 1]);
    let small = Stage::Broker(vec![CONNECT, tiny, Act::Serve]);
    let deferred = vec![
        Act::Acknowledge {
            publishes: 1,
            code: 0x97,
        },
        Act::Serve,
    ];
    [
        Case::new(v5, Cause::PacketTooLarge, Fault::Us, Phase::Session, small)
            .ends(TransportEnd::Local)
            .load(Load::Light),
        Case::session(v5, Cause::QuotaExceeded, Fault::Us, deferred)
            .code(0x97)
            .load(Load::Light)
            .then(Then::Quota),
    ]
}
