//! What must hold at every step, at every report and at the end.

use moorline_core::link::cause::{Cause, CauseClass, Evidence, TransportEnd};
use moorline_core::link::policy::PolicyFault;
use moorline_core::link::{DecidedBy, Next, Record, Remedy, State};

use super::{Event, World};

impl World {
    /// No attempt sooner than the floor after the last, and after its end; whatever the policy says.
    pub(super) fn check_pace(&mut self) {
        let (now, floor) = (self.now, self.terms.link.floor);
        let Some(host) = self.host.as_mut() else {
            return;
        };
        let pace = &mut host.pace;
        let excused = std::mem::take(&mut pace.excused);
        let since_open = pace
            .last_open
            .replace(now)
            .map(|at| now.saturating_since(at));
        let since_end = pace.last_end.map(|at| now.saturating_since(at));
        // A stable session that broke is worth one quick try.
        let too_soon = since_end.is_some_and(|since| since < floor) && !pace.was_stable;
        let too_often = since_open.is_some_and(|since| since < floor);
        if (too_soon || too_often) && !excused {
            self.fail(&format!(
                "an attempt {since_end:?} after the last end and {since_open:?} after the last attempt, floor {floor:?}"
            ));
        }
    }

    pub(super) fn check_cause(&mut self, record: &Record) {
        let disconnect = &record.disconnect;
        let (cause, class) = (disconnect.cause, disconnect.cause.class());
        self.cover(format!("class {class:?}"));
        self.cover(format!("cause {}", cause.name()));
        self.cover(format!("remedy {}", remedy_name(cause.remedy())));
        self.cover(format!("{:?}", disconnect.certainty));
        // Before CONNACK a reset is told as a close, and after it as poison if it always follows the same message.
        let by_reset = disconnect.evidence.transport_end == Some(TransportEnd::Rst);
        let explained = self.excuses.explain(class, self.now)
            || (by_reset && self.excuses.explain(CauseClass::Reset, self.now));
        if !explained {
            self.fail(&format!("no fault explains this: {disconnect}"));
        }
        if cause != Cause::HostRestarted && disconnect.evidence == Evidence::default() {
            self.fail(&format!("no evidence: {disconnect}"));
        }
        if disconnect.to_string().is_empty() {
            self.fail("a disconnect without words");
        }
    }

    pub(super) fn check_report(&mut self, record: &Record) {
        self.check_cause(record);
        let floor = self.terms.link.floor;
        let Some(host) = self.host.as_mut() else {
            return;
        };
        host.tally.reports += 1;
        host.tally.clamped += u64::from(record.clamped);
        match record.decided_by {
            DecidedBy::Fallback(PolicyFault::Absent) | DecidedBy::Policy | DecidedBy::Host => {}
            DecidedBy::Fallback(PolicyFault::Trapped | PolicyFault::Stalled) => {
                host.tally.faults += 1;
            }
        }
        let was_stable = host.pace.was_stable;
        match record.next {
            Next::Retry(wait) => {
                let fell_back = record.decided_by == DecidedBy::Host;
                host.pace.excused |= fell_back;
                if wait < floor && !was_stable && !fell_back {
                    self.fail(&format!("a wait of {wait:?}, floor {floor:?}"));
                }
                self.cover("next Retry");
            }
            Next::Parked(reason) => {
                self.cover(format!("parked {reason:?}"));
                let patience = self.plan.ms(20_000, 120_000);
                self.after(patience, Event::Unpark);
            }
            Next::Stopped => self.cover("next Stopped"),
        }
        self.cover(format!("decided {:?}", record.decided_by));
    }

    pub(super) fn check_always(&mut self) {
        self.stopped();
        let Some(host) = self.host.as_ref() else {
            return;
        };
        let (tally, counters) = (host.tally, host.link.counters());
        let told = (
            counters.attempts,
            counters.sessions,
            counters.policy_clamped,
            counters.policy_faults,
        );
        if told != (tally.opens, tally.ups, tally.clamped, tally.faults) {
            self.fail(&format!("{counters:?} does not agree with {tally:?}"));
        }
        // Each end is reported once: at once, or when the policy has answered.
        let pending = u64::from(matches!(
            host.link.state(),
            State::Doubting { .. } | State::Consulting { .. }
        ));
        if tally.ends != tally.reports + pending {
            self.fail(&format!("an end without a report: {tally:?}"));
        }
        let newest = host.feeder.handed.back();
        let known = newest.map_or(host.order.acked, |handed| handed.turn);
        let mut statuses = host.streams.spools().map(|(_, spool)| spool.status());
        let insane = statuses.find(|status| {
            status.acked > status.last
                || status.synced > status.last
                || status.synced > status.kept.max(status.acked)
        });
        if let Some(status) = insane {
            self.fail(&format!("{status:?}"));
        }
        if host.window.cursor() > known.max(host.order.acked) {
            self.fail(&format!("window {:?}", host.window));
        }
    }

    pub(super) fn converged(&self) -> bool {
        self.host.as_ref().is_some_and(|host| {
            host.is_up()
                && host.window.is_empty()
                && host
                    .streams
                    .spools()
                    .all(|(_, spool)| spool.status().depth_records == 0)
                && self.ledgers.iter().all(|ledger| ledger.owed().is_empty())
        })
    }

    pub(super) fn check_at_the_end(&mut self) {
        for stream in 0..self.terms.streams.len() {
            self.check_stream_at_the_end(stream);
        }
        // A later life does not know every segment of which a sync failed; it only recycles them, which is harmless.
        let again = self.disks.iter().any(|disk| disk.syncs_after_failure() > 0);
        if again && self.lives == 1 {
            self.fail("a file was synced again after a sync of it failed");
        }
    }

    fn check_stream_at_the_end(&mut self, stream: usize) {
        let Some(status) = self.status(stream) else {
            self.fail("no gateway at the end");
        };
        let ledger = &self.ledgers[stream];
        let (accepted, evicted) = (ledger.accepted(), ledger.evicted());
        let dropped = self.dropped[stream];
        let offered = (accepted.0 + dropped.0, accepted.1 + dropped.1);
        if !self.inexact && offered != (status.appended.records, status.appended.readings) {
            self.fail(&format!("{offered:?} accepted, {status:?}"));
        }
        if !self.inexact && evicted != (status.evicted.records, status.evicted.readings) {
            self.fail(&format!("{evicted:?} given up, {status:?}"));
        }
        if !self.inexact && status.damaged.records > 0 {
            self.fail(&format!("damage on a good disk: {status:?}"));
        }
        let (delivered, repeated) = (ledger.delivered, ledger.repeated);
        self.note(
            "world",
            format!("{stream}: {delivered} delivered, {repeated} of them again; {status:?}"),
        );
    }
}

const fn remedy_name(remedy: Remedy) -> &'static str {
    match remedy {
        Remedy::RetryOnceThenBackOff => "RetryOnceThenBackOff",
        Remedy::BackOff => "BackOff",
        Remedy::BackOffThenSlowLane => "BackOffThenSlowLane",
        Remedy::BackOffFrom(_) => "BackOffFrom",
        Remedy::SlowLane => "SlowLane",
        Remedy::FallBackVersion => "FallBackVersion",
        Remedy::YieldToTakeover => "YieldToTakeover",
        Remedy::Park => "Park",
        Remedy::Nothing => "Nothing",
    }
}
