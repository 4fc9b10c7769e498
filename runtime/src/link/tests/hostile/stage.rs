//! Sets the scene of a case: whoever is at the other end, and a link that meets him.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use moorline_core::link::Versions;
use moorline_core::link::cause::MqttVersion;
use moorline_core::mqtt_frame::PacketKind;
use tempfile::TempDir;

use super::super::super::{
    DisconnectRecord, EndpointSettings, LinkSettings, ProxyKind, ProxySettings,
};
use super::super::rig::{self, Rig, attribute, reading};
use super::super::scripted::{Act, Broker, connack_v5, connack_v311, play};
use super::super::tls;
use super::cases::{Case, Load, MARKER, Stage};
use super::{CEILING, FLOOR, Timing};

const LIGHT: u64 = 3;
const HEAVY: u64 = 120;
const HEAVY_BYTES: usize = 60_000;
/// Long enough for the preferred broker of [`Stage::FailBack`] to be doubted no more.
const FAIL_BACK_AFTER: Duration = Duration::from_millis(50);

/// A link, and who is at its other end for as long as it is looked at.
pub(super) struct Scene {
    pub(super) rig: Rig,
    _peers: Vec<Broker>,
    _queue: Option<FullQueue>,
}

pub(super) async fn set(case: &Case, timing: Timing) -> Scene {
    let directory = tempfile::tempdir().expect("a directory");
    let served = || vec![CONNECT, accepted(case.version), Act::Serve];
    let mut peers = Vec::new();
    let mut queue = None;
    let authority = tls::authority("ours");
    let address = match &case.stage {
        Stage::Broker(script)
        | Stage::Proxy(script)
        | Stage::WebSocket(script)
        | Stage::Tls(script) => {
            let broker = play(vec![timed(case, timing, script)]).await;
            let address = broker.address;
            peers.push(broker);
            address
        }
        Stage::Killed | Stage::Stop => {
            let broker = play(vec![served()]).await;
            let address = broker.address;
            peers.push(broker);
            address
        }
        Stage::FailBack => {
            let preferred = play(vec![vec![CONNECT, Act::HalfClose], served()]).await;
            peers.push(preferred);
            peers.push(play(vec![served()]).await);
            peers[0].address
        }
        Stage::ExpiredCertificate => tls::broker(&authority, "broker.test", 2010..2011, None).await,
        Stage::FullQueue => {
            let full = FullQueue::new();
            let address = full.address;
            queue = Some(full);
            address
        }
        Stage::Nobody | Stage::NoName | Stage::NoSource => {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            listener.local_addr().expect("an address")
        }
    };
    if matches!(case.stage, Stage::Killed) {
        lay_marker(&directory);
    }
    let second = peers.get(1).map(|broker| broker.address);
    let encrypted = matches!(case.stage, Stage::ExpiredCertificate | Stage::Tls(_));
    let tls = encrypted.then(|| tls::trusting(&authority));
    let rig = rig::restart(address, directory, |settings| {
        settings.pace.floor = FLOOR;
        settings.pace.ceiling = CEILING;
        settings.pace.stable_after = if timing.stable {
            Duration::ZERO
        } else {
            Duration::from_secs(600)
        };
        settings.timeouts.connack = Duration::from_secs(2);
        settings.versions = match case.version {
            MqttVersion::V311 => Versions::V311,
            MqttVersion::V5 => Versions::V5,
        };
        settings.endpoints[0].tls = tls;
        arrange(&case.stage, address, second, settings);
        (case.tune)(settings);
    });
    send(case, timing, &rig).await;
    Scene {
        rig,
        _peers: peers,
        _queue: queue,
    }
}

impl Scene {
    /// An operator stops the gateway once the link is up; what the link says last.
    pub(super) async fn stopped(mut self) -> Arc<DisconnectRecord> {
        self.rig.up().await;
        let status = self.rig.status.clone();
        self.rig.link.stop(Duration::ZERO).await;
        let last = status.borrow().disconnects.back().cloned();
        last.expect("a record of the stop")
    }
}

const CONNECT: Act = Act::Expect(PacketKind::Connect);

fn accepted(version: MqttVersion) -> Act {
    match version {
        MqttVersion::V311 => connack_v311(0),
        MqttVersion::V5 => connack_v5(0),
    }
}

/// The script as this timing has it.
fn timed(case: &Case, timing: Timing, script: &[Act]) -> Vec<Act> {
    let mut acts: Vec<Act> = script
        .iter()
        .map(|act| match act {
            Act::Send(bytes) if timing.trickle => Act::Trickle(bytes.clone()),
            other => other.clone(),
        })
        .collect();
    let decisive = acts.len().saturating_sub(1);
    // Who pauses before he goes dark reads nothing meanwhile, and that is another fault.
    if !matches!(acts.last(), Some(Act::GoDark)) {
        acts.insert(decisive, Act::Pause(timing.pause));
    }
    if timing.stable && case.acknowledges() {
        let acknowledge = Act::Acknowledge {
            publishes: 1,
            code: 0,
        };
        acts.insert(decisive, acknowledge);
    }
    acts
}

fn arrange(
    stage: &Stage,
    address: SocketAddr,
    second: Option<SocketAddr>,
    settings: &mut LinkSettings,
) {
    match stage {
        Stage::NoName => settings.endpoints[0].host = "no-such-broker.invalid".into(),
        // Of the block for documentation: nobody has it.
        Stage::NoSource => settings.bind.address = Some([192, 0, 2, 7].into()),
        Stage::Proxy(_) => {
            settings.proxy = Some(ProxySettings {
                kind: ProxyKind::Http,
                host: address.ip().to_string(),
                port: address.port(),
                login: None,
            });
        }
        Stage::WebSocket(_) => settings.endpoints[0].websocket = Some("/mqtt".into()),
        Stage::FailBack => {
            let second = second.expect("a second broker");
            settings.endpoints[0].priority = 1;
            let mut other = EndpointSettings::new(second.ip().to_string(), second.port());
            other.priority = 2;
            settings.endpoints.push(other);
            settings.fail_back_after = Some(FAIL_BACK_AFTER);
        }
        Stage::Nobody
        | Stage::FullQueue
        | Stage::Broker(_)
        | Stage::Tls(_)
        | Stage::ExpiredCertificate
        | Stage::Killed
        | Stage::Stop => {}
    }
}

async fn send(case: &Case, timing: Timing, rig: &Rig) {
    let light = match case.load {
        Load::Nothing => 0,
        Load::AsTimed if timing.loaded || timing.stable && case.acknowledges() => LIGHT,
        Load::AsTimed => 0,
        Load::Light => LIGHT,
        Load::Heavy => {
            for number in 0..HEAVY {
                rig.append(attribute(number, HEAVY_BYTES)).await;
            }
            0
        }
        Load::Marked => {
            rig.append(marked()).await;
            0
        }
    };
    for number in 0..light {
        rig.append(reading(number)).await;
    }
}

fn marked() -> moorline_core::message::Uplink {
    use moorline_core::message::{DeviceName, Key, Uplink, Value};
    let text = String::from_utf8_lossy(MARKER).into_owned();
    Uplink::Attributes {
        device: DeviceName::try_new("d").expect("a name"),
        values: vec![(Key::try_new("t").expect("a key"), Value::Text(text))],
    }
}

/// What a link that was killed leaves behind.
fn lay_marker(directory: &TempDir) {
    let link = directory.path().join("link");
    std::fs::create_dir_all(&link).expect("a directory");
    std::fs::write(link.join("link.running"), "1").expect("a file");
}

/// A listener that takes no connection more.
struct FullQueue {
    address: SocketAddr,
    _listener: socket2::Socket,
    /// One waits in the queue; Linux admits one more than asked, and drops the SYNs of all after it.
    _first: std::net::TcpStream,
}

impl FullQueue {
    fn new() -> Self {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let listener = listener.expect("a socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        listener.bind(&any.into()).expect("a port");
        listener.listen(0).expect("listening");
        let address = listener.local_addr().ok();
        let address = address.and_then(|address| address.as_socket());
        let address = address.expect("an address");
        Self {
            address,
            _first: std::net::TcpStream::connect(address).expect("the queue has room for one"),
            _listener: listener,
        }
    }
}
