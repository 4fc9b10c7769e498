//! The client's end of a session: sends what the window admits, hears the broker, watches whether it lives.

use std::collections::BTreeMap;

use moorline_core::link::Input;
use moorline_core::link::cause::{Evidence, MqttVersion, Phase};
use moorline_core::link::classify::{Observation, Observed, PubackVerdict, puback_verdict};
use moorline_core::mqtt_frame::{Connack, Properties};
use moorline_core::thingsboard;
use moorline_core::time::Instant;

use super::{Event, World};
use crate::host::{Host, Session, Work};
use crate::liveness::Facts;
use crate::network::Passage;
use crate::wire::{ClientPacket, Reader, ServerPacket};

impl Host {
    pub(super) fn session(&mut self) -> Option<&mut Session> {
        match &mut self.work {
            Work::Session(session) => Some(session),
            Work::Idle | Work::Dialling { .. } => None,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        match &self.work {
            Work::Session(session) => session.up_at.is_some() && session.closing.is_none(),
            Work::Idle | Work::Dialling { .. } => false,
        }
    }
}

impl World {
    pub(super) fn begin_session(&mut self, version: MqttVersion) {
        let now = self.now;
        let connection = self.network.connect(now);
        let Some(host) = self.host.as_mut() else {
            return;
        };
        host.work = Work::Session(Box::new(Session {
            connection,
            version,
            up_at: None,
            facts: Facts {
                awaiting_connack_since: Some(now),
                ..Facts::default()
            },
            last_sent: None,
            last_received: None,
            reader: Reader::default(),
            ids: BTreeMap::new(),
            next_id: 1,
            closing: None,
        }));
        self.say(ClientPacket::Connect { version });
    }

    /// Hands a packet to the network.
    pub(super) fn say(&mut self, packet: ClientPacket) {
        let (now, latency) = (self.now, self.one_way());
        let stalled = self.broker.stalled_until(now);
        let tcp_user = self.terms.liveness.tcp_user;
        let Some(session) = self.host.as_mut().and_then(Host::session) else {
            return;
        };
        let connection = session.connection;
        session.last_sent = Some(packet.name());
        session.facts.sent_at = Some(now);
        let passage = self
            .network
            .carry_up(connection, now, latency, tcp_user, stalled);
        match passage {
            Passage::Arrive(at) | Passage::Buffered(at) => {
                self.network.put_upward(connection, packet);
                self.at(at, Event::ToBroker(connection));
            }
            Passage::Blocked(until) => {
                session.facts.blocked_at.get_or_insert(now);
                self.network.put_upward(connection, packet);
                self.at(until, Event::ToBroker(connection));
                self.at(until, Event::Unblocked(connection));
            }
            Passage::Doomed(at, errno) => {
                self.at(at, Event::ClientEnd(connection, Some(errno)));
            }
            Passage::Lost => {}
        }
    }

    pub(super) fn unblocked(&mut self, connection: u64) {
        if let Some(session) = self.current(connection) {
            session.facts.blocked_at = None;
        }
        self.send();
    }

    fn current(&mut self, connection: u64) -> Option<&mut Session> {
        let session = self.host.as_mut().and_then(Host::session)?;
        (session.connection == connection).then_some(session)
    }

    /// Sends DISCONNECT, if there is a session to end.
    pub(super) fn say_goodbye(&mut self) -> bool {
        let up = self.host.as_ref().is_some_and(Host::is_up);
        if up {
            self.say(ClientPacket::Disconnect);
        }
        up
    }

    /// Sends what the window admits.
    pub(super) fn send(&mut self) {
        loop {
            let now = self.now;
            let Some(host) = self.host.as_mut().filter(|host| host.is_up()) else {
                return;
            };
            let blocked = host
                .session()
                .is_none_or(|session| session.facts.blocked_at.is_some());
            if blocked || !host.window.has_room() {
                return;
            }
            let Some(publish) = host.queue.pop_front() else {
                return self.take_batch();
            };
            let Some(token) = host.window.admit(
                publish.range,
                publish.readings,
                publish.payload.len(),
                publish.topic,
                now,
            ) else {
                self.fail("a window with room admits nothing");
            };
            let oldest = host.window.oldest_sent_at();
            let Some(session) = host.session() else {
                return;
            };
            session.facts.oldest_publish_at = oldest;
            while session.ids.contains_key(&session.next_id) || session.next_id == 0 {
                session.next_id = session.next_id.wrapping_add(1);
            }
            let id = session.next_id;
            session.next_id = id.wrapping_add(1);
            session.ids.insert(id, token);
            self.say(ClientPacket::Publish {
                id,
                topic: publish.topic,
                payload: publish.payload,
            });
        }
    }

    pub(super) fn client_hears(&mut self, connection: u64) {
        let now = self.now;
        let Some(bytes) = self.network.arrived_down(connection) else {
            return;
        };
        if !self.network.client_open(connection) {
            return;
        }
        let Some(session) = self.current(connection) else {
            return;
        };
        let version = session.version;
        session.facts.received_at = Some(now);
        session.facts.pingreq_at = None;
        let mut packets = Vec::new();
        let read = session.reader.take(version, &bytes, &mut packets);
        for packet in packets {
            if let Some(session) = self.current(connection) {
                session.last_received = Some(packet.name());
                self.client_takes(version, packet);
            }
        }
        if let (Err(error), Some(_)) = (read, self.current(connection)) {
            self.session_over(Observed::Garbage, Some(error.to_string()), None);
        }
    }

    fn client_takes(&mut self, version: MqttVersion, packet: ServerPacket) {
        match packet {
            ServerPacket::Connack(connack) if connack.code == 0 => self.client_up(&connack),
            ServerPacket::Connack(connack) => {
                let observed = match (version, connack.form) {
                    (MqttVersion::V5, MqttVersion::V311) => Observed::RefusedInOtherVersion,
                    (MqttVersion::V5, MqttVersion::V5) | (MqttVersion::V311, _) => {
                        Observed::Refused(connack.code)
                    }
                };
                self.session_over(observed, None, Some(connack.properties));
            }
            ServerPacket::Puback { id, code } => self.client_acked(id, code),
            ServerPacket::Publish { topic, payload } => {
                let decoded = thingsboard::decode(&topic, &payload);
                self.cover(if decoded.is_ok() {
                    "downlink understood"
                } else {
                    "downlink dropped"
                });
            }
            ServerPacket::Disconnect(disconnect) => self.session_over(
                Observed::ServerDisconnect(disconnect.code),
                None,
                Some(disconnect.properties),
            ),
            ServerPacket::Pingresp | ServerPacket::Suback => {}
        }
    }

    fn client_up(&mut self, connack: &Connack) {
        let now = self.now;
        let offered = connack.properties.receive_maximum.unwrap_or(u16::MAX);
        let bytes = connack
            .properties
            .packet_bytes_max
            .and_then(|bytes| usize::try_from(bytes).ok())
            .unwrap_or(usize::MAX);
        let (inflight, bytes) = (
            self.terms.inflight_max.min(offered),
            self.terms.packet_bytes_max.min(bytes),
        );
        let Some(host) = self.host.as_mut() else {
            return;
        };
        let closing = {
            let Some(session) = host.session() else {
                return;
            };
            session.up_at = Some(now);
            session.facts.awaiting_connack_since = None;
            session.closing.is_some()
        };
        if closing {
            return;
        }
        host.tally.ups += 1;
        host.window.resize(inflight);
        host.order.generation += 1;
        host.order.packet_bytes_max = bytes;
        host.order.running = true;
        let (version, after) = (host.link.version(), host.window.cursor());
        self.cover(format!("up {version}"));
        self.note("link", format!("up {version}, resumes after {after:?}"));
        self.input(Input::Opened);
        self.say(ClientPacket::Subscribe);
        self.feed_soon();
    }

    fn client_acked(&mut self, id: u16, code: u8) {
        let Some(token) = self
            .host
            .as_mut()
            .and_then(Host::session)
            .and_then(|session| session.ids.remove(&id))
        else {
            self.cover("acknowledgement of nothing");
            return;
        };
        let Some(host) = self.host.as_mut() else {
            return;
        };
        let topic = host.window.carried(token).copied().unwrap_or_default();
        let verdict = host.refusals.judge(puback_verdict(code), topic);
        if verdict == PubackVerdict::Deferred {
            self.session_over(Observed::PublishDeferred(code), None, None);
            return;
        }
        let Some(acknowledged) = host.window.acknowledge(token) else {
            self.fail("the window does not know a token of its own session");
        };
        let oldest = host.window.oldest_sent_at();
        if let Some(session) = host.session() {
            session.facts.oldest_publish_at = oldest;
        }
        if let Some(cursor) = acknowledged.cursor {
            host.order.acked = cursor;
        }
        if verdict == PubackVerdict::Delivered {
            self.input(Input::Acknowledged);
        }
        self.feed_soon();
        self.send();
    }

    pub(super) fn client_end(&mut self, connection: u64, errno: Option<i32>) {
        if !self.network.client_open(connection) {
            return;
        }
        self.network.close_client(connection);
        if self.current(connection).is_some() {
            let observed = errno.map_or(Observed::Fin, Observed::Errno);
            self.session_over(observed, None, None);
        }
    }

    pub(super) fn session_over(
        &mut self,
        observed: Observed,
        detail: Option<String>,
        properties: Option<Properties>,
    ) {
        let now = self.now;
        let keep_alive = self.terms.liveness.keep_alive;
        let latency = self.one_way();
        let Some(host) = self.host.as_mut() else {
            return;
        };
        let (ack_age, suspect) = (host.window.oldest_age(now), host.window.oldest());
        let Some(session) = host.session() else {
            return;
        };
        let age = |at: Option<Instant>| at.map(|at| now.saturating_since(at));
        let properties = properties.unwrap_or_default();
        let observation = Observation {
            phase: if session.up_at.is_some() {
                Phase::Session
            } else {
                Phase::Connect
            },
            version: session.version,
            observed: session
                .closing
                .map_or(observed, |(intent, _)| Observed::Local(intent)),
            evidence: Evidence {
                reason_string: properties.reason_string,
                server_reference: properties.server_reference,
                last_received: session.last_received,
                last_sent: session.last_sent,
                silence: age(session.facts.received_at),
                since_sent: age(session.facts.sent_at),
                session: age(session.up_at),
                ack_age,
                keep_alive: Some(keep_alive),
                detail,
                ..Evidence::default()
            },
            suspect,
        };
        let connection = session.connection;
        if self.network.client_open(connection) {
            self.network.close_client(connection);
            self.after(latency, Event::BrokerEnd(connection));
        }
        self.over(observation);
    }
}
