//! A campaign of kill -9: gateway, broker or both, at points of time nobody chose, also while the one before is being
//! recovered from. A subscriber proves by serial numbers what arrived.

use std::time::{Duration, Instant};

use moorline::demo::audit::Balance;
use moorline::fault_proxy::Mode;
use moorline_tests::configuration::READINGS_PER_S;
use moorline_tests::dice::Dice;
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::rig::{Rig, Running};
use moorline_tests::{eventually, mosquitto};

const ROUNDS: usize = 50;
const DEADLINE: Duration = Duration::from_secs(30);
/// How long readings flow before the next kill.
const CALM_MS: std::ops::Range<u64> = 0..900;
/// The same before a broker is killed: two closes without a reason so soon after CONNACK would be another client's doing.
const SETTLED_MS: std::ops::Range<u64> = 2_200..2_900;
/// How long a broker is away, and how far a start comes before it is killed itself.
const AWAY_MS: std::ops::Range<u64> = 0..400;

const INFLIGHT_MAX: u64 = 4;
const PACKET_BYTES_MAX: u64 = 4_096;
/// `{"ts":1700000000000,"values":{"seq":1000000001}}`
const READING_BYTES: u64 = 48;
/// What was acknowledged so shortly before a kill that the spool had not written it down: acknowledgements are told to it
/// every 5 ms and written with the group commit, 50 ms later; doubled, because other tests use the same cores.
const UNNOTED_MS: u64 = 110;
/// Readings that one kill may repeat: the window's, and what was acknowledged unnoted.
const REPEATED_MAX: u64 = INFLIGHT_MAX * PACKET_BYTES_MAX / READING_BYTES
    + READINGS_PER_S as u64 * UNNOTED_MS / 1_000
    // A whole batch of the connector may be among the unnoted.
    + READINGS_PER_S as u64 / 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Gateway,
    /// The second time while it starts.
    GatewayTwice,
    Broker,
    Both,
}

impl Victim {
    const KINDS: [Self; 6] = [
        Self::Gateway,
        Self::Gateway,
        Self::GatewayTwice,
        Self::Broker,
        Self::Broker,
        Self::Both,
    ];

    /// Processes that die.
    const fn kills(self) -> u64 {
        match self {
            Self::Gateway | Self::Broker => 1,
            Self::GatewayTwice | Self::Both => 2,
        }
    }
}

async fn kill(victim: Victim, rig: &mut Rig, running: &mut Running, dice: &mut Dice) {
    let away = dice.pause_ms(AWAY_MS);
    match victim {
        Victim::Gateway => running.gateway.kill().await.unwrap(),
        Victim::GatewayTwice => {
            running.gateway.kill().await.unwrap();
            running.gateway.resume().unwrap();
            tokio::time::sleep(away).await;
            running.gateway.kill().await.unwrap();
        }
        Victim::Broker => rig.broker.kill().await.unwrap(),
        Victim::Both => {
            rig.broker.kill().await.unwrap();
            running.gateway.kill().await.unwrap();
        }
    }
    if matches!(victim, Victim::Broker | Victim::Both) {
        // A broker keeps what it acknowledged, for a subscriber that is there (demo::broker).
        rig.proxy.set(Mode::Refuse).await.unwrap();
        tokio::time::sleep(away).await;
        rig.broker.resume().await.unwrap();
        rig.audit_subscribed().await;
        rig.proxy.set(Mode::Pass).await.unwrap();
    }
    if victim != Victim::Broker {
        running.gateway.resume().unwrap();
    }
}

/// Until readings arrive that the process which is there now has accepted; what the audit says then.
async fn recovered(what: &str, rig: &Rig, running: &mut Running) -> Balance {
    let pid = running.gateway.pid().unwrap();
    let up = running
        .wait(&format!("{what}: the link is up"), DEADLINE, |now| {
            now.now.pid == pid
                && now.now.link.state == "up"
                && now.now.connectors.iter().any(|c| c.readings > 0)
        })
        .await;
    let fresh = up.now.spool.accepted_readings;
    let totals = rig.audit.totals();
    eventually(&format!("{what}: readings flow"), DEADLINE, || {
        (totals.borrow().delivered > fresh).then_some(())
    })
    .await;
    rig.audit.balance().await
}

#[tokio::test]
async fn fifty_kills_at_random_lose_nothing_and_repeat_little() {
    let Some(kind) = mosquitto() else { return };
    let mut dice = Dice::seeded("campaign");
    let mut rig = Rig::start(kind).await;
    let place = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
    let limits = format!("inflight_max = {INFLIGHT_MAX}\npacket_bytes_max = {PACKET_BYTES_MAX}\n");
    let configuration =
        rig.configuration()
            .with(&limits)
            .simulated("sim", place.path(), Some(rig.audit.witness()));
    let mut running = rig.gateway(&configuration);
    running.flows().await;
    let started = Instant::now();
    let mut before = Balance::default();
    let (mut kills, mut most_repeated, mut slowest) = (0, 0, Duration::ZERO);
    for round in 1..=ROUNDS {
        let victim = dice.one_of(&Victim::KINDS);
        let calm = match victim {
            Victim::Gateway | Victim::GatewayTwice => CALM_MS,
            Victim::Broker | Victim::Both => SETTLED_MS,
        };
        tokio::time::sleep(dice.pause_ms(calm)).await;
        let what = format!("round {round}, {victim:?}");
        let struck = Instant::now();
        kill(victim, &mut rig, &mut running, &mut dice).await;
        let balance = recovered(&what, &rig, &mut running).await;
        let repeated = balance.duplicates - before.duplicates;
        println!(
            "{what}: flows again after {:.2?}, {repeated} readings repeated",
            struck.elapsed()
        );
        assert!(
            repeated <= victim.kills() * REPEATED_MAX,
            "{what}: {repeated} readings repeated, at most {} may be",
            victim.kills() * REPEATED_MAX
        );
        kills += victim.kills();
        most_repeated = most_repeated.max(repeated);
        slowest = slowest.max(struck.elapsed());
        before = balance;
    }
    let took = started.elapsed();
    let (history, balance) = rig.settle(running).await;
    let spool = &history.now.spool;
    println!(
        "FIGURE campaign: {kills} kills in {ROUNDS} rounds in {took:.1?}, {} accepted, {} delivered, {} missing, {} \
         duplicates, at most {most_repeated} of a round; slowest recovery {slowest:.2?}",
        spool.accepted_readings, balance.delivered, balance.missing, balance.duplicates
    );
    assert_eq!(
        (
            balance.missing,
            balance.missing_after_ack,
            balance.out_of_order
        ),
        (0, 0, 0),
        "{balance:?}"
    );
    assert_eq!(balance.delivered, spool.accepted_readings, "{balance:?}");
    assert_eq!(
        (
            spool.evicted_readings,
            spool.damaged_readings,
            spool.dead_lettered_readings,
            spool.depth_readings
        ),
        (0, 0, 0, 0)
    );
}
