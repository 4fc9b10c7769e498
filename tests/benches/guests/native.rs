//! A connector as a native task against the same as a component, which emits one way and, where its guest can, the other: the same
//! readings, the same spool, the same link, a real Mosquitto. Rounds alternate; a ratio is the median of the rounds' own.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use moorline::clock::Clock;
use moorline::demo::broker::Broker;
use moorline::link::{self, LinkSettings};
use moorline::policy_handle::PolicyHandle;
use moorline::spool::{AppendRefused, Appender, SpoolStatus};
use moorline_core::message::{DeviceReadings, Key, Quality, Reading, Uplink, Value};
use moorline_tests::mosquitto;

use crate::host::{Host, Places, device, open_spool};
use crate::{Language, median};

const ROUNDS: usize = 7;
/// Device connections, each with a task or an instance.
const CONNECTIONS: usize = 8;
/// Readings in a batch, and batches of each connection.
const LOADS: [Load; 3] = [
    Load {
        readings: 1,
        batches: 15_000,
    },
    Load {
        readings: 32,
        batches: 6_000,
    },
    Load {
        readings: 256,
        batches: 2_000,
    },
];
const INFLIGHT: u16 = 100;
/// Languages whose guests emit by series, too.
const BY_SERIES: [&str; 2] = ["Rust", "C"];
/// How often the spool is looked at.
const LOOK: Duration = Duration::from_millis(1);

#[derive(Clone, Copy)]
struct Load {
    readings: u64,
    batches: u64,
}

impl Load {
    const fn total(self) -> u64 {
        CONNECTIONS as u64 * self.readings * self.batches
    }
}

/// A component, and the way it emits.
#[derive(Clone, Copy)]
struct Party<'l> {
    language: &'l Language,
    method: &'static str,
}

impl<'l> Party<'l> {
    fn of(language: &'l Language) -> impl Iterator<Item = Self> {
        let methods: &[_] = if BY_SERIES.contains(&language.name) {
            &["flood", "flood-series"]
        } else {
            &["flood"]
        };
        methods.iter().map(move |method| Self { language, method })
    }

    fn name(&self) -> String {
        match self.method {
            "flood" => self.language.name.to_owned(),
            _by_series => format!("{}, by series", self.language.name),
        }
    }
}

pub(crate) async fn measure(languages: &[Language], directory: &Path) {
    let Some(kind) = mosquitto() else {
        println!("native against component: left out, there is no Mosquitto");
        return;
    };
    let place = directory.join("mosquitto");
    let broker = Broker::start_with(kind, &place, "persistence false").await;
    let broker = broker.expect("Mosquitto");
    for load in LOADS {
        println!(
            "{} readings in batches of {} by {CONNECTIONS} connections until Mosquitto has acknowledged all, median of {ROUNDS} rounds",
            load.total(),
            load.readings
        );
        compare(languages, load, directory, broker.address()).await;
    }
}

async fn compare(languages: &[Language], load: Load, directory: &Path, broker: SocketAddr) {
    // None is the native one.
    let parties: Vec<Option<Party<'_>>> = std::iter::once(None)
        .chain(languages.iter().flat_map(Party::of).map(Some))
        .collect();
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); parties.len()];
    for round in 0..ROUNDS {
        for turn in 0..parties.len() {
            let at = (turn + round) % parties.len();
            let state = directory.join(format!("native-{}-{round}-{at}", load.readings));
            let compiled = directory.join("compiled");
            let rate = once(broker, parties[at], load, &state, compiled).await;
            rates[at].push(rate);
        }
    }
    for (party, own) in parties.iter().zip(&rates) {
        let ratios = own.iter().zip(&rates[0]).map(|(own, native)| own / native);
        println!(
            "{:<52}{:>10.0} readings/s, {:.2} of native",
            party.map_or_else(|| "native task".to_owned(), |party| party.name()),
            median(own.clone()),
            median(ratios.collect())
        );
    }
}

/// Readings per second, through a fresh spool and link.
async fn once(
    broker: SocketAddr,
    party: Option<Party<'_>>,
    load: Load,
    state: &Path,
    compiled: std::path::PathBuf,
) -> f64 {
    let (spool, appender, outlet) = open_spool(state);
    let mut spooled = outlet.status();
    let mut settings = LinkSettings::new(
        broker.ip().to_string(),
        broker.port(),
        "moorline",
        state.to_owned(),
    );
    settings.inflight_max = INFLIGHT;
    let (policy, _nobody) = PolicyHandle::channel();
    let (door, _arrivals) = link::door();
    let network = moorline::network::unwatched();
    let link =
        link::spawn(settings, outlet, policy, door, network, Clock::start()).expect("a link");
    let mut status = link.status();
    let up = status.wait_for(link::LinkStatus::is_up).await;
    drop(up.expect("a link"));
    let host = match party {
        Some(party) => {
            let places = Places { compiled, state };
            let component = &party.language.component;
            Some(Host::start(component, CONNECTIONS, places, appender.clone()).await)
        }
        None => {
            announce(&appender).await;
            None
        }
    };
    // Every party has announced its devices before the clock starts: the first session to a broker waits a moment for the
    // platform's limits before it sends anything.
    let announced = |spool: &SpoolStatus| {
        spool.settled_records >= CONNECTIONS as u64 && spool.depth_records == 0
    };
    let idle = spooled.wait_for(announced).await;
    let before = idle.expect("a spool").appended_readings_total;
    let start = Instant::now();
    match host.as_ref().zip(party) {
        Some((host, party)) => {
            for connection in 0..CONNECTIONS {
                let params = format!("[{},{}]", load.readings, load.batches);
                host.ask(connection, (connection as u64, party.method, &params))
                    .await;
            }
        }
        None => native(&appender, load),
    }
    // Looked at now and then: to be woken by each change of it would cost more than some of what is measured.
    let mut looks = tokio::time::interval(LOOK);
    loop {
        looks.tick().await;
        let spool = spooled.borrow_and_update();
        if spool.appended_readings_total - before >= load.total() && spool.depth_records == 0 {
            break;
        }
    }
    let rate = load.total() as f64 / start.elapsed().as_secs_f64();
    assert_eq!(link.status().borrow().sessions, 1, "one session carried it");
    if let Some(host) = host {
        host.plugins.stop(Duration::from_secs(5)).await;
    }
    link.stop(Duration::from_secs(1)).await;
    spool.close().await.expect("a clean end");
    rate
}

/// As each instance of the component does when it starts.
async fn announce(appender: &Appender) {
    for connection in 0..CONNECTIONS {
        append(appender, &|| Uplink::DeviceConnected {
            device: device(connection),
            profile: String::new(),
        })
        .await;
    }
}

/// What `burst-connector` does, without a component around it.
fn native(appender: &Appender, load: Load) {
    for connection in 0..CONNECTIONS {
        let appender = appender.clone();
        tokio::spawn(async move {
            let (clock, device) = (Clock::start(), device(connection));
            let keys: Vec<Key> = (0..load.readings)
                .map(|number| Key::try_new(&format!("key-{number}")).expect("a key"))
                .collect();
            let batch = || {
                let now = clock.wall();
                let reading = |(number, key): (usize, &Key)| Reading {
                    key: key.clone(),
                    value: Value::Double(number as f64),
                    quality: Quality::Good,
                    timestamp: now,
                };
                let readings = keys.iter().enumerate().map(reading).collect();
                let device = device.clone();
                Uplink::Telemetry(vec![DeviceReadings { device, readings }])
            };
            for _ in 0..load.batches {
                append(&appender, &batch).await;
            }
        });
    }
}

/// As a connector does: made anew when the spool was behind, so that no batch is copied for the case.
async fn append(appender: &Appender, batch: &impl Fn() -> Uplink) {
    loop {
        match appender.append(batch()).await {
            Ok(_sequence) => return,
            Err(AppendRefused::Behind { retry_after }) => tokio::time::sleep(retry_after).await,
            Err(refused) => panic!("{refused}"),
        }
    }
}
