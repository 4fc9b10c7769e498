//! Which faults a seed meets, and as what each may be reported.

use std::time::Duration;

use moorline_core::link::cause::CauseClass as Class;
use moorline_core::link::cause::{Phase, TlsReject};
use moorline_core::link::classify::Observed;

use crate::broker::Way;
use crate::dice::Dice;
use crate::policy::{POLICIES, Policy};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Packets vanish, in both directions.
    BlackHole,
    /// Attempts fail on the way.
    Dial(Phase, Observed),
    /// Both ends get RST.
    Reset,
    /// A packet from the broker is cut in the middle, then FIN.
    Cut,
    Slow,
    /// The broker's machine is gone; it comes back without memory of connections.
    BrokerLost,
    /// The broker's process is killed and started again; what it stored is kept.
    BrokerKilled,
    Broker(Way),
    /// DISCONNECT with this code; 3.1.1 has none and just closes.
    Disconnect(u8),
    /// So many takeovers, shortly after each CONNACK.
    Takeover(u64),
    /// The broker speaks this version only (5.0 = true) until the fault ends.
    OnlyVersion5(bool),
    Kill,
    PowerLoss,
    /// The process gets no time.
    Freeze,
    Restart,
    Disk(DiskFault),
    NetworkFlaps(u64),
    /// The interface goes down, the kernel says so, and says so again when it is back.
    InterfaceDown,
    Unpark,
    Policy(Policy),
    Downlinks,
}

/// What the storage does, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskFault {
    Full,
    /// It can be read, and refuses whatever changes it.
    ReadOnly,
    /// It gives nothing, and a gateway is started on it.
    Absent,
    Writes(u32),
    Syncs(u32),
    Names(u32),
    Read,
}

/// A CONNACK's code in 5.0 and in 3.1.1.
const CONNACK_CODES: [(u8, u8); 20] = [
    (0x84, 1),
    (0x85, 2),
    (0x86, 4),
    (0x87, 5),
    (0x88, 3),
    (0x89, 3),
    (0x8a, 5),
    (0x8c, 5),
    (0x97, 3),
    (0x9f, 3),
    (0x9c, 3),
    (0x9d, 3),
    (0x9a, 5),
    (0x9b, 5),
    (0x95, 3),
    (0x81, 3),
    (0x82, 3),
    (0x90, 5),
    (0x80, 7),
    (0x83, 9),
];

const DISCONNECT_CODES: [u8; 26] = [
    0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8d, 0x8e, 0x8f, 0x90, 0x93, 0x94, 0x95,
    0x96, 0x97, 0x98, 0x99, 0x9a, 0x9c, 0x9d, 0x9f, 0xa0, 0xa2,
];

const DIAL_FAULTS: [(Phase, Observed); 15] = [
    (Phase::Dns, Observed::Unresolved),
    (Phase::Dns, Observed::Timeout),
    (Phase::Tcp, Observed::Errno(111)),
    (Phase::Tcp, Observed::Errno(113)),
    (Phase::Tcp, Observed::Errno(101)),
    (Phase::Tcp, Observed::Errno(1)),
    (Phase::Tcp, Observed::Errno(24)),
    (Phase::Tcp, Observed::Timeout),
    (Phase::Tcp, Observed::Errno(110)),
    (Phase::Proxy, Observed::ProxyRefused(407)),
    (Phase::Proxy, Observed::ProxyRefused(503)),
    (Phase::Tls, Observed::Tls(TlsReject::UnknownIssuer)),
    (Phase::Tls, Observed::Tls(TlsReject::Alert(40))),
    (Phase::Tls, Observed::Fin),
    (Phase::Tls, Observed::Timeout),
];

const WAYS: [Way; 12] = [
    Way::RefuseVersionInOldForm,
    Way::CloseBeforeConnack,
    Way::Silent,
    Way::CloseAfterConnack,
    Way::GarbageAfterConnack,
    Way::DropAcks,
    Way::MutePings,
    Way::Defer,
    Way::RefusePublishes,
    Way::CloseOnPublish,
    Way::AcknowledgeTwice,
    Way::Paused,
];

/// A fault, how long it lasts, and how long until the next.
pub(crate) fn next(dice: &mut Dice) -> (Fault, Duration, Duration) {
    let fault = match dice.below(50) {
        0..=2 => Fault::BlackHole,
        3..=7 => {
            let (phase, observed) = dice.pick(&DIAL_FAULTS);
            Fault::Dial(phase, observed)
        }
        8..=9 => Fault::Reset,
        10 => Fault::Cut,
        11 => Fault::Slow,
        12 => Fault::BrokerLost,
        13..=14 => Fault::BrokerKilled,
        15..=21 => Fault::Broker(dice.pick(&WAYS)),
        22 => Fault::Broker(Way::StallReading),
        23..=25 => {
            let (v5, v311) = dice.pick(&CONNACK_CODES);
            Fault::Broker(Way::Refuse(v5, v311))
        }
        26..=28 => Fault::Disconnect(dice.pick(&DISCONNECT_CODES)),
        29 => Fault::Takeover(1 + dice.below(4)),
        30 => Fault::OnlyVersion5(dice.chance(50)),
        31..=32 => Fault::Kill,
        33..=34 => Fault::PowerLoss,
        35 => Fault::Freeze,
        36 => Fault::Restart,
        37 => Fault::Disk(DiskFault::Full),
        38 => Fault::Disk(DiskFault::Writes(1 + dice.below(3) as u32)),
        39 => Fault::Disk(DiskFault::Syncs(1 + dice.below(2) as u32)),
        40 => Fault::Disk(DiskFault::Names(1 + dice.below(2) as u32)),
        41 => Fault::Disk(DiskFault::Read),
        42 => Fault::NetworkFlaps(1 + dice.below(8)),
        43 => Fault::Unpark,
        44 => Fault::Policy(dice.pick(&POLICIES)),
        45..=46 => Fault::InterfaceDown,
        47 => Fault::Disk(DiskFault::ReadOnly),
        48 => Fault::Disk(DiskFault::Absent),
        _ => Fault::Downlinks,
    };
    let lasts = if dice.chance(20) {
        dice.ms(20_000, 120_000)
    } else {
        dice.ms(500, 20_000)
    };
    let pause = dice.ms(200, 40_000);
    (fault, lasts, pause)
}

/// Whether a fault keeps others from being noticed before it ends.
pub(crate) fn delays(fault: Fault) -> bool {
    matches!(
        fault,
        Fault::BlackHole
            | Fault::InterfaceDown
            | Fault::BrokerLost
            | Fault::Slow
            | Fault::Freeze
            | Fault::Broker(Way::Paused | Way::StallReading)
    )
}

/// As what a fault may be reported. A table of its own, not derived from the classifier it checks.
pub(crate) fn classes(fault: Fault) -> &'static [Class] {
    match fault {
        Fault::BlackHole => &[
            Class::BlackHole,
            Class::PingrespTimeout,
            Class::AckTimeout,
            Class::ConnectTimeout,
            Class::ConnackTimeout,
            // The broker gave up first, and we learn it later.
            Class::KeepAlive,
            Class::ClosedByServer,
            Class::Reset,
        ],
        Fault::InterfaceDown => &[
            Class::BlackHole,
            Class::PingrespTimeout,
            Class::AckTimeout,
            Class::ConnectTimeout,
            Class::ConnackTimeout,
            // The broker gave up first, and we learn it later.
            Class::KeepAlive,
            Class::ClosedByServer,
            Class::Reset,
            Class::Unreachable,
        ],
        Fault::Dial(phase, observed) => dial_classes(phase, observed),
        Fault::Reset => &[Class::Reset],
        Fault::Cut => &[
            Class::ClosedByServer,
            Class::ClosedBeforeConnack,
            Class::Reset,
        ],
        Fault::BrokerLost => &[
            Class::Reset,
            Class::BlackHole,
            Class::PingrespTimeout,
            Class::AckTimeout,
            Class::ConnectTimeout,
            Class::ConnackTimeout,
        ],
        Fault::BrokerKilled => &[Class::Reset, Class::ConnectRefused],
        Fault::Broker(way) => way_classes(way),
        Fault::Disconnect(code) => disconnect_classes(code),
        Fault::Takeover(_) => &[Class::TakenOver, Class::ClosedByServer, Class::Reset],
        Fault::OnlyVersion5(_) => &[Class::VersionRefused],
        Fault::Kill | Fault::PowerLoss => &[Class::HostRestart],
        Fault::Freeze => &[
            Class::KeepAlive,
            Class::ClosedByServer,
            Class::PingrespTimeout,
            Class::AckTimeout,
            Class::ConnackTimeout,
            Class::WriteStalled,
            Class::Reset,
        ],
        Fault::Restart => &[Class::Local],
        Fault::Disk(DiskFault::Absent) => &[Class::HostRestart],
        Fault::Slow
        | Fault::Disk(_)
        | Fault::NetworkFlaps(_)
        | Fault::Unpark
        | Fault::Policy(_)
        | Fault::Downlinks => &[],
    }
}

fn dial_classes(phase: Phase, observed: Observed) -> &'static [Class] {
    match (phase, observed) {
        (Phase::Dns, _) => &[Class::NameResolution],
        (Phase::Tcp, Observed::Errno(111)) => &[Class::ConnectRefused],
        (Phase::Tcp, Observed::Errno(110) | Observed::Timeout) => &[Class::ConnectTimeout],
        (Phase::Tcp, Observed::Errno(24)) => &[Class::Local],
        (Phase::Tcp, _) => &[Class::Unreachable],
        (Phase::Proxy, _) => &[Class::Proxy],
        (Phase::WebSocket, _) => &[Class::ConnectRefused],
        (Phase::Tls | Phase::Connect | Phase::Session, _) => &[Class::Tls],
    }
}

fn way_classes(way: Way) -> &'static [Class] {
    match way {
        Way::Refuse(code, _) => connack_classes(code),
        Way::RefuseVersionInOldForm => &[Class::VersionRefused],
        Way::CloseBeforeConnack => &[Class::ClosedBeforeConnack],
        Way::Silent => &[Class::ConnackTimeout],
        Way::CloseAfterConnack | Way::CloseOnPublish => &[Class::ClosedByServer, Class::Reset],
        Way::GarbageAfterConnack => &[Class::PeerGarbage],
        Way::DropAcks => &[Class::AckTimeout],
        Way::MutePings => &[Class::PingrespTimeout],
        Way::Defer => &[Class::Quota],
        Way::RefusePublishes | Way::AcknowledgeTwice => &[],
        Way::Paused => &[
            Class::TakenOver,
            Class::PingrespTimeout,
            Class::AckTimeout,
            Class::ConnackTimeout,
            Class::KeepAlive,
            Class::ClosedByServer,
            Class::Reset,
        ],
        // Reading on, it may meet a CONNECT that was given up after the one it answered: our own takeover.
        Way::StallReading => &[
            Class::TakenOver,
            Class::WriteStalled,
            Class::PingrespTimeout,
            Class::AckTimeout,
            Class::ConnackTimeout,
            Class::KeepAlive,
            Class::ClosedByServer,
            Class::Reset,
        ],
    }
}

/// 5.0 codes; a 3.1.1 broker uses the code beside it in [`CONNACK_CODES`], which is why some have two classes.
fn connack_classes(code: u8) -> &'static [Class] {
    match code {
        0x84 => &[Class::VersionRefused],
        0x85 => &[Class::IdentityRefused],
        0x86 | 0x87 | 0x8a | 0x8c => &[Class::CredentialsRefused],
        0x88 | 0x89 => &[Class::ServerUnavailable],
        0x97 | 0x9f => &[Class::Quota, Class::ServerUnavailable],
        0x9c | 0x9d => &[Class::ServerMoved, Class::ServerUnavailable],
        0x90 | 0x99 | 0x9a | 0x9b => &[Class::OptionUnsupported, Class::CredentialsRefused],
        0x95 => &[Class::PacketRefused, Class::ServerUnavailable],
        _ => &[
            Class::Protocol,
            Class::ServerUnavailable,
            Class::ClosedByServer,
            Class::Administrative,
        ],
    }
}

fn disconnect_classes(code: u8) -> &'static [Class] {
    // The second class is that of 3.1.1, which closes without a word; the third of one who wrote into the closing.
    match code {
        0x81..=0x82 | 0x93 | 0x94 => &[Class::Protocol, Class::ClosedByServer, Class::Reset],
        0x87 => &[
            Class::CredentialsRefused,
            Class::ClosedByServer,
            Class::Reset,
        ],
        0x89 => &[
            Class::ServerUnavailable,
            Class::ClosedByServer,
            Class::Reset,
        ],
        0x8b => &[Class::ShuttingDown, Class::ClosedByServer, Class::Reset],
        0x8d => &[Class::KeepAlive, Class::ClosedByServer, Class::Reset],
        0x8e => &[Class::TakenOver, Class::ClosedByServer, Class::Reset],
        0x8f | 0x90 | 0x95 => &[
            Class::PacketRefused,
            Class::Protocol,
            Class::ClosedByServer,
            Class::Reset,
        ],
        0x96 | 0x97 | 0x9f => &[Class::Quota, Class::ClosedByServer, Class::Reset],
        0x98 | 0xa0 => &[Class::Administrative, Class::ClosedByServer, Class::Reset],
        0x99 | 0x9a | 0x9b | 0x9e | 0xa1 | 0xa2 => &[
            Class::OptionUnsupported,
            Class::ClosedByServer,
            Class::Reset,
        ],
        0x9c | 0x9d => &[Class::ServerMoved, Class::ClosedByServer, Class::Reset],
        _ => &[
            Class::Protocol,
            Class::Administrative,
            Class::ClosedByServer,
            Class::Reset,
        ],
    }
}
