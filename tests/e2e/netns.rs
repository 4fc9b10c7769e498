//! A real network that fails: two hosts made of namespaces, a cable that is pulled, packets that vanish.
//!
//! Everything runs with the settings a gateway is shipped with. Times are those of the gateway's own records against the
//! moment of the fault, and of a subscriber's first message after the repair; `cargo test … -- --nocapture netns` shows them.

use std::time::Duration;

use moorline::demo::gateway::History;
use moorline::status::DisconnectEntry;
use moorline_tests::configuration::Configuration;
use moorline_tests::netns::{self, Cable, GATEWAY, GATEWAY_MOVED, PORT, broker_address, now_ms};
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::rig::{Rig, Running};
use moorline_tests::subscriber::Subscriber;
use moorline_tests::{eventually, mosquitto};

/// For the gateway to come back by itself, with the waits it may choose.
const BACK: Duration = Duration::from_secs(60);
/// A dead link is found within this time.
const FOUND_MS: u64 = 10_000;
/// A reading made after the network is back arrives within this time.
const LIVE_MS: u64 = 1_000;
const READINGS_PER_S: u32 = 100;
const TELEMETRY: &str = "v1/gateway/telemetry";

/// The hosts, and everything on them.
struct Site {
    running: Running,
    rig: Rig,
    subscriber: Subscriber,
    cable: Cable,
    _place: Place,
}

impl Site {
    async fn flowing() -> Self {
        Self::flowing_at(READINGS_PER_S).await
    }

    async fn flowing_at(readings_per_s: u32) -> Self {
        Self::flowing_with(readings_per_s, "").await
    }

    /// With these tables in the configuration, too.
    async fn flowing_with(readings_per_s: u32, tables: &str) -> Self {
        let cable = Cable::lay();
        let rig = Rig::start_with(mosquitto().unwrap(), |_directory| netns::listener()).await;
        let subscriber = Subscriber::start(rig.broker.address(), TELEMETRY).await;
        let place = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
        let configuration = Configuration::as_shipped(&rig.state_dir(), broker_address())
            .with(tables)
            .simulated("sim", place.path(), None)
            .replaced(
                "readings_per_second = 1000",
                &format!("readings_per_second = {readings_per_s}"),
            );
        let mut running = rig.gateway_by(&cable.inside(), &configuration);
        running.flows().await;
        Self {
            running,
            rig,
            subscriber,
            cable,
            _place: place,
        }
    }

    /// The disconnect with this number, from 0, as soon as it is told.
    async fn disconnect(&mut self, number: usize) -> DisconnectEntry {
        let history = self
            .running
            .wait("a disconnect is told", BACK, |now| {
                now.disconnects().len() > number
            })
            .await;
        history.disconnects().nth(number).cloned().unwrap()
    }

    /// Waits until the gateway has failed for a while and is about to wait longer still.
    async fn waits_long(&mut self) -> History {
        self.running
            .wait("the link waits long", BACK, |now| {
                let last = now.disconnects().last().map_or(0, |entry| entry.at_ms);
                let next = now.now.link.next_try_ms.unwrap_or(0);
                now.now.link.state == "waiting"
                    && now_ms() > last + 1_500
                    && next > now_ms() + 1_500
            })
            .await
    }

    /// How long after `since_ms` the first reading arrived that was made after it.
    async fn live_after(&self, since_ms: u64) -> u64 {
        eventually("a reading made after the repair arrives", BACK, || {
            let messages = self.subscriber.on(TELEMETRY);
            let fresh = messages.iter().rev().take(20).any(|message| {
                newest_ms(&message.json()).is_some_and(|made_ms| made_ms >= since_ms)
            });
            fresh.then(|| now_ms() - since_ms)
        })
        .await
    }

    /// Ends everything; whatever was accepted has arrived, in order and without a gap.
    async fn settle(self) -> History {
        let Self {
            mut running,
            rig,
            cable,
            ..
        } = self;
        running
            .wait("the link is up", BACK, |now| now.now.link.state == "up")
            .await;
        let (history, balance) = rig.settle(running).await;
        assert_eq!(
            (balance.missing, balance.out_of_order),
            (0, 0),
            "{balance:?}"
        );
        assert_eq!(
            balance.delivered, history.now.spool.accepted_readings,
            "{balance:?}"
        );
        drop(cable);
        history
    }
}

/// The newest time in a publish of telemetry.
fn newest_ms(payload: &serde_json::Value) -> Option<u64> {
    payload
        .as_object()?
        .values()
        .filter_map(|entries| entries.as_array()?.last()?.get("ts")?.as_u64())
        .max()
}

/// Causes and what they are told with, without the stop at the end.
fn causes(history: &History) -> Vec<String> {
    history
        .disconnects()
        .filter(|entry| entry.cause != "local-shutdown")
        .map(|entry| entry.cause.clone())
        .collect()
}

fn network_words(entry: &DisconnectEntry) -> &str {
    entry.evidence.network.as_deref().unwrap_or_default()
}

#[track_caller]
fn assert_found(what: &str, entry: &DisconnectEntry, since_ms: u64) {
    let found_ms = entry.at_ms.saturating_sub(since_ms);
    println!(
        "FIGURE {what}: found after {found_ms} ms as {}",
        entry.cause
    );
    assert!(found_ms <= FOUND_MS, "{found_ms} ms: {}", entry.text);
    assert_eq!(entry.fault, "network", "{}", entry.text);
}

#[track_caller]
fn assert_live(what: &str, live_ms: u64) {
    println!("FIGURE {what}: first reading made after the repair arrived after {live_ms} ms");
    assert!(live_ms < LIVE_MS, "{live_ms} ms");
}

#[test]
fn the_gateways_interface_goes_down_and_comes_up() {
    netns::inside(
        "netns::the_gateways_interface_goes_down_and_comes_up",
        async {
            let mut site = Site::flowing().await;
            let down_ms = now_ms();
            site.cable.at_gateway("ip link set eth0 down");
            let first = site.disconnect(0).await;
            assert_found("interface down", &first, down_ms);
            assert_eq!(first.cause, "unreachable", "{}", first.text);
            assert!(
                network_words(&first).contains("eth0 went down"),
                "{}",
                first.text
            );
            let waiting = site.waits_long().await;
            assert_eq!(waiting.now.network.verdict, "down");
            let up_ms = now_ms();
            site.cable.at_gateway("ip link set eth0 up");
            let live_ms = site.live_after(up_ms).await;
            assert_live("interface up again", live_ms);
            let up = site
                .running
                .wait("the status names the way", BACK, |now| {
                    now.now.network.verdict == "up"
                })
                .await;
            assert_eq!(up.now.network.interface.as_deref(), Some("eth0"));
            assert_eq!(up.now.network.source, Some(GATEWAY.to_string()));
            let history = site.settle().await;
            let causes = causes(&history);
            assert!(
                causes[1..].iter().all(|cause| cause == "unreachable"),
                "{causes:?}"
            );
        },
    );
}

#[test]
fn the_cable_is_pulled_and_put_back() {
    netns::inside("netns::the_cable_is_pulled_and_put_back", async {
        let mut site = Site::flowing().await;
        let down_ms = now_ms();
        // The other end: here the carrier goes, addresses and routes stay.
        site.cable.at_broker("ip link set broker down");
        let first = site.disconnect(0).await;
        assert_found("cable pulled", &first, down_ms);
        assert_eq!(first.cause, "unreachable", "{}", first.text);
        assert!(
            network_words(&first).contains("eth0 went down"),
            "{}",
            first.text
        );
        site.waits_long().await;
        let up_ms = now_ms();
        site.cable.at_broker("ip link set broker up");
        let live_ms = site.live_after(up_ms).await;
        assert_live("cable back", live_ms);
        site.settle().await;
    });
}

#[test]
fn a_short_interruption_costs_no_session() {
    netns::inside("netns::a_short_interruption_costs_no_session", async {
        let mut site = Site::flowing().await;
        site.cable.at_broker("ip link set broker down");
        site.running
            .wait("the interruption is noticed", BACK, |now| {
                now.now.network.upsets > 0
            })
            .await;
        let up_ms = now_ms();
        site.cable.at_broker("ip link set broker up");
        let live_ms = site.live_after(up_ms).await;
        println!(
            "FIGURE short interruption: first reading made after it arrived after {live_ms} ms"
        );
        let history = site.settle().await;
        assert_eq!(history.sessions(), 1, "{:?}", causes(&history));
    });
}

#[test]
fn the_gateways_address_changes() {
    netns::inside("netns::the_gateways_address_changes", async {
        let mut site = Site::flowing().await;
        let moved_ms = now_ms();
        site.cable.at_gateway(&format!(
            "ip address del {GATEWAY}/24 dev eth0 && ip address add {GATEWAY_MOVED}/24 dev eth0"
        ));
        let first = site.disconnect(0).await;
        assert_found("address changed", &first, moved_ms);
        assert_eq!(first.cause, "black-hole", "{}", first.text);
        let words = network_words(&first);
        assert!(words.contains("eth0 "), "{}", first.text);
        let live_ms = site.live_after(moved_ms).await;
        println!("FIGURE address changed: first reading made after it arrived after {live_ms} ms");
        let history = site.settle().await;
        assert_eq!(history.sessions(), 2, "{:?}", causes(&history));
    });
}

/// Packets vanish on the broker's host; nothing on the gateway's host tells of it.
async fn vanish(what: &'static str, rules: &[&str]) {
    let mut site = Site::flowing().await;
    let gone_ms = now_ms();
    for rule in rules {
        site.cable.at_broker(&format!("iptables -A {rule} -j DROP"));
    }
    let first = site.disconnect(0).await;
    assert_found(what, &first, gone_ms);
    assert_eq!(first.cause, "black-hole", "{}", first.text);
    assert_eq!(network_words(&first), "", "{}", first.text);
    for rule in rules {
        site.cable.at_broker(&format!("iptables -D {rule} -j DROP"));
    }
    let history = site.settle().await;
    assert_eq!(
        history.now.network.verdict, "up",
        "links and routes are well"
    );
}

#[test]
fn packets_vanish_both_ways() {
    netns::inside("netns::packets_vanish_both_ways", async {
        vanish("DROP both ways", &["INPUT -i broker", "OUTPUT -o broker"]).await;
    });
}

#[test]
fn packets_to_the_broker_vanish() {
    netns::inside("netns::packets_to_the_broker_vanish", async {
        vanish("DROP towards the broker", &["INPUT -i broker"]).await;
    });
}

#[test]
fn packets_from_the_broker_vanish() {
    netns::inside("netns::packets_from_the_broker_vanish", async {
        vanish("DROP towards the gateway", &["OUTPUT -o broker"]).await;
    });
}

/// With QoS 0 nothing is acknowledged that could be missed: the link asks.
#[test]
fn a_dead_link_is_found_under_qos_0_as_soon() {
    netns::inside("netns::a_dead_link_is_found_under_qos_0_as_soon", async {
        let qos_0 = "[[stream]]\nname = \"telemetry\"\nqos = 0\n";
        let mut site = Site::flowing_with(READINGS_PER_S, qos_0).await;
        let gone_ms = now_ms();
        site.cable.at_broker("iptables -A INPUT -i broker -j DROP");
        let first = site.disconnect(0).await;
        assert_found("DROP under QoS 0", &first, gone_ms);
        assert_eq!(first.cause, "black-hole", "{}", first.text);
        site.cable.at_broker("iptables -D INPUT -i broker -j DROP");
        let repaired_ms = now_ms();
        let live_ms = site.live_after(repaired_ms).await;
        println!("FIGURE netns: under QoS 0 the first new reading {live_ms} ms after the repair");
    });
}

#[test]
fn somebody_on_the_way_injects_a_reset() {
    netns::inside("netns::somebody_on_the_way_injects_a_reset", async {
        let mut site = Site::flowing().await;
        let rule =
            format!("INPUT -i broker -p tcp --dport {PORT} -j REJECT --reject-with tcp-reset");
        let reset_ms = now_ms();
        site.cable.at_broker(&format!("iptables -I {rule}"));
        let first = site.disconnect(0).await;
        site.cable.at_broker(&format!("iptables -D {rule}"));
        assert_found("reset injected", &first, reset_ms);
        assert_eq!(first.cause, "reset", "{}", first.text);
        let history = site.settle().await;
        let causes = causes(&history);
        assert!(
            causes[1..].iter().all(|cause| cause == "connect-refused"),
            "{causes:?}"
        );
    });
}

#[test]
fn a_slow_line_is_no_dead_one() {
    netns::inside("netns::a_slow_line_is_no_dead_one", async {
        let mut site = Site::flowing_at(1_000).await;
        // Far less than is produced: the line is full all the time.
        site.cable
            .at_gateway("tc qdisc add dev eth0 root tbf rate 128kbit burst 4kb latency 1s");
        let slow_ms = now_ms();
        site.running
            .wait("the line has been full for 40 s", BACK, |_now| {
                now_ms() > slow_ms + 40_000
            })
            .await;
        let history = site.running.history();
        assert_eq!(history.sessions(), 1, "{:?}", causes(&history));
        assert!(
            history.now.spool.depth_readings > 5_000,
            "the line was never full: {:?}",
            history.now.spool
        );
        site.cable.at_gateway("tc qdisc del dev eth0 root");
        let history = site.settle().await;
        assert_eq!(history.sessions(), 1, "{:?}", causes(&history));
    });
}
