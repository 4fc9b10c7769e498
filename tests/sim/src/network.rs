//! The model network: connections, and what happens to bytes and to attempts on the way.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use moorline_core::link::cause::Phase;
use moorline_core::link::classify::Observed;
use moorline_core::time::Instant;

use crate::wire::ClientPacket;

/// Packets the socket's buffer takes when the peer does not read.
const BUFFER_PACKETS: u32 = 6;

/// A connection. Each end may be gone without the other knowing.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) client_open: bool,
    pub(crate) broker_open: bool,
    /// The broker's machine is gone: until it is back nothing answers, then it answers RST.
    pub(crate) vanished_until: Option<Instant>,
    to_broker_at: Instant,
    to_client_at: Instant,
    buffered: u32,
    /// The kernel gives up at this time, or the peer's RST arrives then.
    pub(crate) doomed_at: Option<Instant>,
    /// On the way, oldest first: however events are shifted, nothing overtakes.
    upward: VecDeque<ClientPacket>,
    downward: VecDeque<Vec<u8>>,
}

/// Why attempts fail on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DialFault {
    pub(crate) phase: Phase,
    pub(crate) observed: Observed,
    pub(crate) until: Instant,
}

#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) connections: BTreeMap<u64, Connection>,
    pub(crate) black_hole_until: Instant,
    /// There is no way out, and the kernel says so.
    pub(crate) no_route_until: Instant,
    pub(crate) dial_faults: Vec<DialFault>,
    pub(crate) broker_down_until: Instant,
    /// The broker's machine does not even answer.
    pub(crate) broker_lost_until: Instant,
    pub(crate) latency_ms: (u64, u64),
    next: u64,
}

/// What becomes of bytes from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passage {
    /// They arrive.
    Arrive(Instant),
    /// They wait in the buffer for the peer to read on, and arrive then.
    Buffered(Instant),
    /// The socket takes no more; this is when it will.
    Blocked(Instant),
    /// Nobody acknowledges them; the connection ends with this errno then.
    Doomed(Instant, i32),
    /// The connection is ending already.
    Lost,
}

const ECONNRESET: i32 = 104;
const ETIMEDOUT: i32 = 110;

impl Network {
    pub(crate) fn new(latency_ms: (u64, u64)) -> Self {
        Self {
            connections: BTreeMap::new(),
            black_hole_until: Instant::ZERO,
            no_route_until: Instant::ZERO,
            dial_faults: Vec::new(),
            broker_down_until: Instant::ZERO,
            broker_lost_until: Instant::ZERO,
            latency_ms,
            next: 1,
        }
    }

    pub(crate) fn connect(&mut self, now: Instant) -> u64 {
        let id = self.next;
        self.next += 1;
        self.connections.insert(
            id,
            Connection {
                client_open: true,
                broker_open: true,
                vanished_until: None,
                to_broker_at: now,
                to_client_at: now,
                buffered: 0,
                doomed_at: None,
                upward: VecDeque::new(),
                downward: VecDeque::new(),
            },
        );
        id
    }

    pub(crate) fn carry_up(
        &mut self,
        id: u64,
        now: Instant,
        latency: Duration,
        tcp_user: Duration,
        stalled_until: Option<Instant>,
    ) -> Passage {
        let hole = self.black_hole_until;
        let Some(connection) = self.connections.get_mut(&id) else {
            return Passage::Lost;
        };
        if connection.doomed_at.is_some() || !connection.client_open {
            return Passage::Lost;
        }
        let gives_up = now + tcp_user;
        let doom = match connection.vanished_until {
            Some(back) if back < gives_up && hole < gives_up => {
                Some((now.max(back).max(hole) + latency, ECONNRESET))
            }
            Some(_) => Some((gives_up, ETIMEDOUT)),
            None if hole >= gives_up => Some((gives_up, ETIMEDOUT)),
            None if !connection.broker_open => Some((now.max(hole) + latency * 2, ECONNRESET)),
            None => None,
        };
        if let Some((at, errno)) = doom {
            connection.doomed_at = Some(at);
            return Passage::Doomed(at, errno);
        }
        if let Some(until) = stalled_until {
            connection.buffered += 1;
            connection.to_broker_at = connection.to_broker_at.max(until);
            return if connection.buffered > BUFFER_PACKETS {
                Passage::Blocked(connection.to_broker_at)
            } else {
                Passage::Buffered(connection.to_broker_at)
            };
        }
        connection.buffered = 0;
        let at = (now.max(hole) + latency).max(connection.to_broker_at);
        connection.to_broker_at = at;
        Passage::Arrive(at)
    }

    /// When bytes from the broker arrive; none: never.
    pub(crate) fn carry_down(
        &mut self,
        id: u64,
        now: Instant,
        latency: Duration,
        bytes: Vec<u8>,
    ) -> Option<Instant> {
        let hole = self.black_hole_until;
        let connection = self.connections.get_mut(&id)?;
        if !connection.broker_open {
            return None;
        }
        let at = (now.max(hole) + latency).max(connection.to_client_at);
        connection.to_client_at = at;
        if !bytes.is_empty() {
            connection.downward.push_back(bytes);
        }
        Some(at)
    }

    /// A packet from the client is under way.
    pub(crate) fn put_upward(&mut self, id: u64, packet: ClientPacket) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.upward.push_back(packet);
        }
    }

    pub(crate) fn arrived_up(&mut self, id: u64) -> Option<ClientPacket> {
        self.connections.get_mut(&id)?.upward.pop_front()
    }

    pub(crate) fn arrived_down(&mut self, id: u64) -> Option<Vec<u8>> {
        self.connections.get_mut(&id)?.downward.pop_front()
    }

    /// Nothing new goes wrong from here on.
    pub(crate) fn heal(&mut self, now: Instant) {
        self.black_hole_until = self.black_hole_until.min(now);
        self.no_route_until = self.no_route_until.min(now);
        self.broker_down_until = self.broker_down_until.min(now);
        self.broker_lost_until = self.broker_lost_until.min(now);
        self.dial_faults.clear();
        self.latency_ms = (5, 40);
        for connection in self.connections.values_mut() {
            connection.vanished_until = connection.vanished_until.map(|until| until.min(now));
        }
    }

    pub(crate) fn client_open(&self, id: u64) -> bool {
        self.connections.get(&id).is_some_and(|c| c.client_open)
    }

    pub(crate) fn broker_open(&self, id: u64) -> bool {
        self.connections.get(&id).is_some_and(|c| c.broker_open)
    }

    pub(crate) fn close_client(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.client_open = false;
        }
    }

    pub(crate) fn close_broker(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.broker_open = false;
        }
    }
}
