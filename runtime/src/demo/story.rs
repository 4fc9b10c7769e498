//! The story, chapter by chapter. Each chapter says what should show and reports what does not; none stops the story.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::DemoError;
use super::gateway::History;
use super::shelf::Shelved;
use super::stage::{MODBUS, MODBUS_DEVICE, MODBUS_UNIT, POLICY, SIMULATED, Stage};
use crate::fault_proxy::{Mode, Strike};
use crate::status::SwapEntry;

/// The length the chapters are written for.
const FULL: Duration = Duration::from_secs(120);
const TICK: Duration = Duration::from_millis(100);
/// Something that should follow at once must follow within this.
const SOON: Duration = Duration::from_secs(15);
/// A backlog must be gone within this.
const DRAINED: Duration = Duration::from_secs(60);
/// What may wait in the spool while readings flow and the link is up.
const FLOWING: u64 = 2_000;
const SWAPS: usize = 3;
/// Least length of a silent cut: the keep-alive must have time to notice.
const CUT_MIN: Duration = Duration::from_secs(10);
const DRAIN_GRACE: Duration = Duration::from_secs(30);
/// For the audit to see what the gateway says is delivered.
const SETTLE: Duration = Duration::from_secs(5);

pub(super) struct Story {
    stage: Stage,
    scale: f64,
}

impl Story {
    pub(super) fn new(stage: Stage, length: Duration) -> Self {
        Self {
            stage,
            scale: length.as_secs_f64() / FULL.as_secs_f64(),
        }
    }

    /// Tells everything and gives the stage back for the report.
    pub(super) async fn tell(mut self) -> Result<(Stage, History), DemoError> {
        self.flow().await;
        self.swap().await?;
        self.cut().await?;
        self.trap().await?;
        self.storm().await?;
        self.kill_broker().await?;
        self.kill_gateway().await?;
        let history = self.drain().await;
        Ok((self.stage, history))
    }

    fn scaled(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds * self.scale)
    }

    async fn flow(&mut self) {
        self.stage.title(
            "readings flow: a simulated connector and a Modbus TCP connector, one MQTT link",
        );
        self.expect("the link comes up", SOON, |now| now.now.link.state == "up")
            .await;
        let both = |now: &History| {
            now.now
                .connectors
                .iter()
                .filter(|connector| connector.readings > 0)
                .count()
                == 2
        };
        self.expect("both connectors deliver readings", SOON, both)
            .await;
        self.hold(self.scaled(10.0)).await;
    }

    async fn swap(&mut self) -> Result<(), DemoError> {
        self.stage
            .title("connectors are replaced by new builds while they work");
        let connects = self.stage.connects();
        let sessions = self.stage.device_sessions();
        for turn in 0..SWAPS * 2 {
            let connector = if turn % 2 == 0 { SIMULATED } else { MODBUS };
            self.replace(connector, Shelved::good(connector), "swapped")
                .await?;
            self.hold(self.scaled(1.0)).await;
        }
        let cost = self.stage.connects() - connects;
        self.stage.check(
            cost == 0,
            &format!("{} swaps cost {cost} CONNECTs on the wire", SWAPS * 2),
        );
        let cost = self.stage.device_sessions() - sessions;
        self.stage.check(
            cost == 0,
            &format!("and {cost} TCP sessions at the Modbus device"),
        );
        Ok(())
    }

    async fn cut(&mut self) -> Result<(), DemoError> {
        let length = self.scaled(15.0).max(CUT_MIN);
        self.stage.title(&format!(
            "the link is cut silently for {:.0} s: no FIN, no RST, nothing",
            length.as_secs_f64()
        ));
        let before = self.stage.disconnects();
        self.stage.mode(Mode::BlackHole(None)).await?;
        self.hold(length).await;
        self.stage.mode(Mode::Pass).await?;
        let found = [
            "pingresp-timeout",
            "ack-timeout",
            "black-hole",
            "write-stalled",
        ];
        self.expect_cause(before, &found).await;
        self.expect_recovery().await;
        Ok(())
    }

    async fn trap(&mut self) -> Result<(), DemoError> {
        self.stage
            .title("a build that traps is put in place of the connector");
        let accepted = self.stage.history().now.spool.accepted_readings;
        self.replace(SIMULATED, Shelved::Trap, "rolled-back")
            .await?;
        let goes_on = move |now: &History| now.now.spool.accepted_readings > accepted + 500;
        self.expect("the old generation goes on reading", SOON, goes_on)
            .await;
        self.replace(SIMULATED, Shelved::Simulated, "swapped").await
    }

    async fn storm(&mut self) -> Result<(), DemoError> {
        self.stage.title("a policy that answers \"retry now\" for ever is put in, and the broker refuses connections");
        self.replace(POLICY, Shelved::Storm, "swapped").await?;
        let before = self.stage.history();
        let connects_before = self.stage.proxy_connections();
        self.stage.mode(Mode::Refuse).await?;
        self.stage.strike(Strike::Reset).await?;
        let length = self.scaled(6.0).max(Duration::from_secs(3));
        self.hold(length).await;
        self.stage.mode(Mode::Pass).await?;
        self.expect_recovery().await;
        let now = self.stage.history();
        let attempts = now.disconnects().len() - before.disconnects().len();
        let connects = self.stage.proxy_connections() - connects_before;
        let clamped = now.now.link.policy_clamped - before.now.link.policy_clamped;
        let most = length.as_millis() / self.stage.retry_floor().as_millis() + 2;
        let calm = clamped > 0 && (attempts as u128) <= most;
        let text = format!(
            "clamped {clamped} times: {attempts} attempts in {:.0} s, then {connects} connection(s)",
            length.as_secs_f64()
        );
        self.stage.check(calm, &text);
        self.replace(POLICY, Shelved::Policy, "swapped").await
    }

    async fn kill_broker(&mut self) -> Result<(), DemoError> {
        self.stage.title("the broker is killed with -9 and returns");
        let before = self.stage.disconnects();
        self.stage.kill_broker().await?;
        self.hold(self.scaled(5.0)).await;
        self.stage.resume_broker().await?;
        self.expect_cause(before, &["reset", "closed-by-server"])
            .await;
        self.expect_recovery().await;
        Ok(())
    }

    async fn kill_gateway(&mut self) -> Result<(), DemoError> {
        self.stage
            .title("the gateway is killed with -9 and returns");
        let before = self.stage.disconnects();
        self.stage.kill_gateway().await?;
        // What the device handed out last may have died before it was accepted; everything before it was, because the
        // connector asks for the next only after.
        if let Some(serial) = self.stage.device_counter(MODBUS_UNIT) {
            self.stage
                .audit
                .excuse(MODBUS_DEVICE, u64::from(serial))
                .await;
        }
        self.hold(self.scaled(2.0)).await;
        self.stage.resume_gateway()?;
        self.expect_cause(before, &["host-restart"]).await;
        self.expect_recovery().await;
        self.hold(self.scaled(5.0)).await;
        Ok(())
    }

    async fn drain(&mut self) -> History {
        self.stage
            .title("the gateway is asked to stop: it drains and ends");
        let history = self.stage.stop_gateway(DRAIN_GRACE).await;
        let accepted = history.now.spool.accepted_readings;
        let deadline = Instant::now() + SETTLE;
        while self.stage.delivered() < accepted && Instant::now() < deadline {
            self.stage.refresh();
            sleep(TICK).await;
        }
        history
    }

    /// Puts a component in place and waits for the swap's end.
    async fn replace(
        &mut self,
        connector: &'static str,
        with: Shelved,
        outcome: &str,
    ) -> Result<(), DemoError> {
        let before = self
            .stage
            .history()
            .swaps()
            .filter(|swap| swap.connector == connector)
            .count();
        self.stage.shelf.put(connector, with)?;
        // A candidate that fails before it serves is refused. One that fails just after has been swapped in, and is then
        // rolled back.
        let as_told = |swap: &SwapEntry| {
            swap.outcome == outcome || (outcome == "rolled-back" && swap.outcome == "refused")
        };
        let found = |now: &History| {
            let mut swaps = now
                .swaps()
                .filter(|swap| swap.connector == connector)
                .skip(before);
            swaps.find(|swap| as_told(swap)).cloned()
        };
        self.wait(SOON, |now| found(now).is_some()).await;
        match found(&self.stage.history()) {
            Some(swap) => {
                let reason = swap.reason.map(|reason| format!(": {reason}"));
                let text = format!(
                    "{connector} {}, gap {:.1} ms{}",
                    swap.outcome,
                    swap.gap_ms,
                    reason.unwrap_or_default()
                );
                self.stage.check(true, &text);
            }
            None => {
                let text = format!("{connector} was not {outcome} within {SOON:?}");
                self.stage.check(false, &text);
            }
        }
        Ok(())
    }

    async fn expect_cause(&mut self, before: usize, classes: &[&str]) {
        self.wait(SOON, |now| now.disconnects().len() > before)
            .await;
        let history = self.stage.history();
        let first = history.disconnects().nth(before);
        let told = first.is_some_and(|entry| classes.contains(&entry.class.as_str()));
        let text = first.map_or_else(
            || "no disconnect".to_owned(),
            |entry| format!("{}: {}", entry.cause, entry.text),
        );
        self.stage.check(told, &format!("cause told: {text}"));
    }

    async fn expect_recovery(&mut self) {
        let start = Instant::now();
        let up = self.wait(SOON, |now| now.now.link.state == "up").await;
        let up_after = start.elapsed();
        let drained = up
            && self
                .wait(DRAINED, |now| now.now.spool.depth_readings < FLOWING)
                .await;
        let text = format!(
            "link up after {:.1} s, backlog gone after {:.1} s",
            up_after.as_secs_f64(),
            start.elapsed().as_secs_f64()
        );
        self.stage.check(drained, &text);
    }

    async fn expect(&mut self, what: &str, limit: Duration, condition: impl Fn(&History) -> bool) {
        let came = self.wait(limit, condition).await;
        self.stage.check(came, what);
    }

    async fn wait(&mut self, limit: Duration, condition: impl Fn(&History) -> bool) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            if condition(&self.stage.history()) {
                return true;
            }
            if Instant::now() > deadline || self.stage.gateway_ended() {
                return false;
            }
            self.stage.refresh();
            sleep(TICK).await;
        }
    }

    async fn hold(&mut self, length: Duration) {
        let deadline = Instant::now() + length;
        while Instant::now() < deadline {
            self.stage.refresh();
            sleep(TICK).await;
        }
    }
}
