//! Faults as they begin and end.

use std::time::Duration;

use moorline_core::link::cause::{CauseClass, Intent};
use moorline_core::link::{Input, State};
use moorline_core::spool::Keep;
use moorline_core::spool::sim_storage::{Operation, SimStorage};
use moorline_core::spool::storage::StorageError;
use moorline_core::time::Instant;

use super::{Event, World};
use crate::network::DialFault;
use crate::plan::{self, DiskFault, Fault};

const ECONNRESET: i32 = 104;
/// An operator comes by within this.
const PARKED_FOR: Duration = Duration::from_secs(120);
const ROOMY: u64 = 1 << 24;

impl World {
    pub(super) fn next_fault(&mut self) {
        if self.healed {
            return;
        }
        let (fault, lasts, pause) = plan::next(&mut self.plan);
        self.after(pause, Event::NextFault);
        self.note("fault", format!("{fault:?} for {lasts:?}"));
        let name = format!("{fault:?}");
        let kind = name.split('(').next().unwrap_or_default().to_owned();
        self.cover(format!("fault {kind}"));
        let until = self.now + lasts;
        self.excuses.allow(plan::classes(fault), until);
        if plan::delays(fault) {
            self.excuses.stretch(self.now, until);
        }
        self.begin(fault, until);
    }

    fn begin(&mut self, fault: Fault, until: Instant) {
        match fault {
            Fault::BlackHole => self.network.black_hole_until = until,
            Fault::InterfaceDown => {
                self.network.black_hole_until = until;
                self.network.no_route_until = until;
                self.at(until, Event::NetworkUp);
            }
            Fault::Dial(phase, observed) => self.network.dial_faults.push(DialFault {
                phase,
                observed,
                until,
            }),
            Fault::Reset => self.reset_connections(),
            Fault::Cut => self.cut(),
            Fault::Slow => {
                self.network.latency_ms = (200, 1500);
                self.at(until, Event::SlowEnds);
            }
            Fault::BrokerLost => {
                self.broker.session = None;
                self.network.broker_lost_until = until;
                for connection in self.network.connections.values_mut() {
                    connection.vanished_until = Some(until);
                    connection.broker_open = false;
                }
            }
            Fault::BrokerKilled => {
                self.network.broker_down_until = until;
                self.reset_connections();
            }
            Fault::Broker(way) => self.broker.ways.push((way, until)),
            Fault::Disconnect(code) => {
                if let Some((connection, _)) = self.broker.session {
                    self.end_session(connection, code, "because");
                }
            }
            Fault::Takeover(times) => {
                self.takeovers_due = times;
                // They come when they come: as long as the fault phase lasts.
                let end = Instant::ZERO + self.terms.fault_phase;
                self.excuses.allow(plan::classes(fault), end);
                if let Some((connection, _)) = self.broker.session {
                    self.takeovers_due -= 1;
                    self.takeover(connection);
                }
            }
            Fault::OnlyVersion5(v5) => self.only_version(v5, until),
            Fault::Kill => self.kill(until),
            Fault::PowerLoss => self.lose_power(until),
            Fault::Freeze => {
                if let Some(host) = self.host.as_mut() {
                    host.frozen_until = until;
                }
            }
            Fault::Restart => self.stop_host(),
            Fault::Disk(fault) => self.disk_fails(fault, until),
            Fault::NetworkFlaps(times) => {
                for _ in 0..times {
                    let delay = self.plan.ms(0, 10_000);
                    self.after(delay, Event::NetworkUp);
                }
            }
            Fault::Unpark => self.unpark(),
            Fault::Policy(policy) => self.policy = policy,
            Fault::Downlinks => self.send_downlinks(),
        }
    }

    fn reset_connections(&mut self) {
        let open: Vec<u64> = self.network.connections.keys().copied().collect();
        for connection in open {
            self.hang_up(connection, Some(ECONNRESET));
        }
    }

    fn only_version(&mut self, v5: bool, until: Instant) {
        // Only where the gateway may speak both: else it is an operator's mistake.
        if self.terms.link.versions == moorline_core::link::Versions::Auto {
            (self.broker.v5, self.broker.v311) = (v5, !v5);
            self.at(until, Event::OnlyVersionEnds);
            // What the gateway has got used to meanwhile may be refused when it ends.
            self.excuses.allow(
                &[CauseClass::VersionRefused],
                Instant::ZERO + self.terms.fault_phase + PARKED_FOR,
            );
        }
    }

    pub(super) fn restore_versions(&mut self) {
        (self.broker.v5, self.broker.v311) = self.broker.usual;
    }

    fn disk_fails(&mut self, fault: DiskFault, until: Instant) {
        let io = StorageError::Fault(5);
        match fault {
            DiskFault::Full => {
                for disk in &self.disks {
                    let used: u64 = disk.files().iter().map(|file| file.bytes).sum();
                    disk.set_capacity(used);
                }
                if self.plan.chance(30) {
                    for journal in &self.journals {
                        journal.set_capacity(0);
                    }
                }
            }
            DiskFault::ReadOnly => {
                for (stream, disk) in self.disks.iter().enumerate() {
                    disk.set_read_only(true);
                    if let Some(host) = self.host.as_mut() {
                        host.unproven[stream] = true;
                    }
                }
            }
            DiskFault::Absent => {
                self.kill(self.now + Duration::from_millis(500));
                for disk in &self.disks {
                    disk.set_absent(true);
                }
            }
            DiskFault::Writes(times) => self.disk().fail(Operation::Write, times, io),
            DiskFault::Syncs(times) => {
                let stream = self.any_stream();
                if let Some(host) = self.host.as_mut() {
                    host.unproven[stream] = true;
                }
                self.disks[stream].fail(Operation::Sync, times, io);
            }
            DiskFault::Names(times) => {
                let refused = StorageError::ReadOnly;
                self.disk().fail(Operation::Names, times, refused);
            }
            DiskFault::Read => self.disk().fail(Operation::Read, 1, io),
        }
        self.at(until, Event::DiskHeals);
    }

    fn any_stream(&mut self) -> usize {
        let streams = self.disks.len() as u64;
        usize::try_from(self.plan.below(streams)).unwrap_or(0)
    }

    fn disk(&mut self) -> &SimStorage {
        let stream = self.any_stream();
        &self.disks[stream]
    }

    pub(super) fn disk_heals(&mut self) {
        for disk in &self.disks {
            disk.heal();
            disk.set_capacity(ROOMY);
        }
        for journal in &self.journals {
            journal.set_capacity(ROOMY);
        }
    }

    /// kill -9: the process is gone, the page cache stays, the kernel closes the connection.
    fn kill(&mut self, until: Instant) {
        if self.host.is_none() {
            return;
        }
        for stream in 0..self.terms.streams.len() {
            let Some(status) = self.status(stream) else {
                return;
            };
            self.process_ends(stream);
            self.ledgers[stream].leave_unsynced(status.synced.0, status.kept.0);
            self.forget_unproven(stream, status.synced.0);
            if status.kept < status.last {
                // Not even a journal has it: that is said, so it is not promised.
                self.inexact = true;
                self.ledgers[stream].lose_after(status.kept.0);
                self.cover("killed with records in memory only");
            }
        }
        self.host = None;
        self.unclean = true;
        let latency = self.one_way();
        let open: Vec<u64> = self.network.connections.keys().copied().collect();
        for connection in open {
            if self.network.client_open(connection) {
                self.network.close_client(connection);
                self.after(latency, Event::BrokerEnd(connection));
            }
        }
        self.boot_after(until);
    }

    /// Power loss: the page cache is gone, too, and nobody tells the broker.
    fn lose_power(&mut self, until: Instant) {
        if self.host.is_none() {
            return;
        }
        for stream in 0..self.terms.streams.len() {
            let Some(status) = self.status(stream) else {
                return;
            };
            self.process_ends(stream);
            self.ledgers[stream].lose_after(status.synced.0);
            self.ledgers[stream].lose_unsynced();
        }
        self.host = None;
        self.unclean = true;
        self.inexact = true;
        for disk in &self.disks {
            disk.cut_power();
        }
        for journal in &self.journals {
            journal.wipe();
        }
        let open: Vec<u64> = self.network.connections.keys().copied().collect();
        for connection in open {
            self.network.close_client(connection);
        }
        self.boot_after(until);
    }

    /// What was given up in flight will not be acknowledged any more. If some of it was, that may not be written down.
    fn process_ends(&mut self, stream: usize) {
        self.inexact |= self.host.as_ref().is_some_and(|host| host.given_up_acked);
        // What was accepted and delivered in memory alone is known to nobody.
        self.inexact |= self.terms.streams[stream].keep == Keep::InMemory || self.is_absent(stream);
        self.ledgers[stream].give_up_in_flight();
    }

    fn is_absent(&self, stream: usize) -> bool {
        let host = self.host.as_ref();
        let spool = host.and_then(|host| host.streams.spools().nth(stream));
        spool.is_some_and(|(_, spool)| spool.is_absent())
    }

    /// After a failed sync that nothing made good, the page cache is all there is, and may say more than the disk.
    fn forget_unproven(&mut self, stream: usize, synced: u64) {
        if self.host.as_ref().is_some_and(|host| host.unproven[stream]) {
            self.inexact = true;
            self.ledgers[stream].lose_after(synced);
        }
    }

    fn boot_after(&mut self, until: Instant) {
        let wait = until
            .saturating_since(self.now)
            .min(Duration::from_secs(30));
        // The report of the restart comes with the boot.
        self.excuses.allow(&[CauseClass::HostRestart], until);
        self.after(wait, Event::Boot);
    }

    /// The orderly end, which [`World::stopped`] completes.
    pub(super) fn stop_host(&mut self) {
        let Some(host) = self.host.as_mut() else {
            return;
        };
        if !host.stopping {
            host.stopping = true;
            host.order.running = false;
            host.queue.clear();
            self.input(Input::Stop(Intent::Shutdown));
        }
    }

    pub(super) fn stopped(&mut self) {
        let stopped = self
            .host
            .as_ref()
            .is_some_and(|host| host.stopping && *host.link.state() == State::Stopped);
        if !stopped {
            return;
        }
        let synced: Vec<_> = (0..self.terms.streams.len())
            .filter_map(|stream| Some(self.status(stream)?.synced.0))
            .collect();
        for (stream, synced) in synced.iter().copied().enumerate() {
            let given_up = self.ledgers[stream].give_up_in_flight();
            if let Some(mut before) = self.figures(stream) {
                // Counted now, and shown at the next start.
                before.status.evicted.records += given_up.0;
                before.status.evicted.readings += given_up.1;
                self.closed.push(before);
            }
            self.forget_unproven(stream, synced);
        }
        let Some(host) = self.host.take() else {
            return;
        };
        let absent = host.streams.spools().any(|(_, spool)| spool.is_absent());
        let closed = host.streams.close();
        if let Err(error) = closed {
            self.cover(format!("close failed: {error}"));
            if self.healed && !absent {
                self.fail("the spool does not close on a good disk");
            }
            self.inexact = true;
            self.closed.clear();
            for (stream, synced) in synced.into_iter().enumerate() {
                self.ledgers[stream].lose_after(synced);
            }
        }
        self.cover("stopped in good order");
        let wait = self.plan.ms(100, 5000);
        self.after(wait, Event::Boot);
    }

    /// The faults end. What they left behind may still have consequences for a while.
    pub(super) fn heal(&mut self) {
        self.healed = true;
        let now = self.now;
        self.note("world", "heals");
        self.excuses.end(now);
        self.broker.ways.clear();
        self.takeovers_due = 0;
        self.read_what_has_come();
        self.restore_versions();
        self.network.heal(now);
        self.disk_heals();
        if let Some(host) = self.host.as_mut() {
            host.frozen_until = host.frozen_until.min(now);
        }
        self.stop_producing();
        self.after(Duration::from_secs(40), Event::Unpark);
    }

    /// A broker that stalled reads at once what lies in its sockets.
    fn read_what_has_come(&mut self) {
        let now = self.now;
        let waits = |event: &Event| matches!(event, Event::ToBroker(_));
        let due: Vec<_> = self
            .events
            .extract_if(.., |_, event| waits(event))
            .collect();
        for (_, event) in due {
            self.at(now, event);
        }
    }
}
