//! A campaign of kill -9: gateway, broker or both, at points of time nobody chose, also while the one before is being
//! recovered from. A subscriber proves by serial numbers what arrived.

use std::time::{Duration, Instant};

use moorline::demo::audit::Balance;
use moorline::demo::gateway::History;
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
/// How long a broker is away beyond the first attempt that finds nobody, and how far a start comes before it is killed itself.
const AWAY_MS: std::ops::Range<u64> = 0..400;

const INFLIGHT_MAX: u64 = 4;
const PACKET_BYTES_MAX: u64 = 4_096;
/// `{"ts":1700000000000,"values":{"seq":1000000001}}`
const READING_BYTES: u64 = 48;
/// What was acknowledged so shortly before a kill that the spool had not written it down: acknowledgements are told to it
/// every 5 ms and written with the group commit, 50 ms later; some times that, because other tests use the same cores.
const UNNOTED: Duration = Duration::from_millis(250);
/// Readings that one kill may repeat beside what was acknowledged unnoted: the window's.
const WINDOW_READINGS: u64 = INFLIGHT_MAX * PACKET_BYTES_MAX / READING_BYTES;
/// A batch of the connector, which is noted as a whole or not.
const BATCH_READINGS: u64 = READINGS_PER_S as u64 / 10;

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

/// So many attempts found nobody listening.
fn refused(now: &History) -> usize {
    let ended = now.disconnects();
    ended.filter(|end| end.cause == "connect-refused").count()
}

async fn kill(victim: Victim, rig: &mut Rig, running: &mut Running, dice: &mut Dice) {
    let away = dice.pause_ms(AWAY_MS);
    let takes_broker = matches!(victim, Victim::Broker | Victim::Both);
    if takes_broker {
        // Where a dead broker's port takes connections, that it is dead is not to be seen.
        rig.proxy.set(Mode::Refuse).await.unwrap();
        rig.broker.kill().await.unwrap();
    }
    match victim {
        Victim::Gateway | Victim::Both => running.gateway.kill().await.unwrap(),
        Victim::GatewayTwice => {
            running.gateway.kill().await.unwrap();
            running.gateway.resume().unwrap();
            tokio::time::sleep(away).await;
            running.gateway.kill().await.unwrap();
        }
        Victim::Broker => {
            // Two closes in a row without a reason and without such an attempt in between would be another client's doing.
            let before = refused(&running.history());
            running
                .wait("an attempt is refused", DEADLINE, |now| {
                    refused(now) > before
                })
                .await;
        }
    }
    if takes_broker {
        // A broker keeps what it acknowledged, for a subscriber that is there (demo::broker).
        tokio::time::sleep(away).await;
        rig.broker.resume().await.unwrap();
        rig.audit_subscribed().await;
        rig.proxy.set(Mode::Pass).await.unwrap();
    }
    if victim != Victim::Broker {
        running.gateway.resume().unwrap();
    }
}

/// Until readings arrive that the process which is there now has accepted, in another session than the first `sessions`; what
/// the audit says then.
async fn recovered(what: &str, sessions: u64, rig: &Rig, running: &mut Running) -> Balance {
    let pid = running.gateway.pid().unwrap();
    let up = running
        .wait(&format!("{what}: the link is up"), DEADLINE, |now| {
            now.now.pid == pid
                && now.now.link.state == "up"
                && now.sessions() > sessions
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

/// How many readings had arrived when what arrives could be unnoted from then on; none when that was before.
///
/// After an outage more arrives in that time than is read in it: a backlog leaves at many times its rate.
async fn wait_calmly(calm: Duration, rig: &Rig) -> Option<u64> {
    let Some(noted) = calm.checked_sub(UNNOTED) else {
        tokio::time::sleep(calm).await;
        return None;
    };
    tokio::time::sleep(noted).await;
    let arrived = rig.audit.balance().await.delivered;
    tokio::time::sleep(UNNOTED).await;
    Some(arrived)
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
    let mut unnoted_from = 0;
    let (mut kills, mut most_repeated, mut slowest) = (0, 0, Duration::ZERO);
    for round in 1..=ROUNDS {
        let victim = dice.one_of(&Victim::KINDS);
        let calm = dice.pause_ms(CALM_MS);
        unnoted_from = wait_calmly(calm, &rig).await.unwrap_or(unnoted_from);
        let what = format!("round {round}, {victim:?}");
        let (struck, sessions) = (Instant::now(), running.history().sessions());
        kill(victim, &mut rig, &mut running, &mut dice).await;
        let arrived = rig.audit.balance().await.delivered;
        let unnoted = arrived - unnoted_from;
        unnoted_from = arrived;
        let balance = recovered(&what, sessions, &rig, &mut running).await;
        let repeated = balance.duplicates - before.duplicates;
        let repeated_max = victim.kills() * (WINDOW_READINGS + BATCH_READINGS) + unnoted;
        println!(
            "{what}: flows again after {:.2?}, {repeated} readings repeated of {repeated_max} that may be",
            struck.elapsed()
        );
        assert!(
            repeated <= repeated_max,
            "{what}: {repeated} readings repeated, at most {repeated_max} may be"
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
