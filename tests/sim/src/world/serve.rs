//! The model broker at work.

use std::time::Duration;

use moorline_core::link::cause::MqttVersion;

use super::produce::device_name;
use super::{Event, World};
use crate::broker::{Session, Way, read_publish};
use crate::wire::{self, ClientPacket};

const ECONNRESET: i32 = 104;
/// What a PUBLISH takes at most beside topic and payload: first byte, length, two lengths, packet id.
const FRAMING_BYTES: usize = 10;

impl World {
    /// The next packet on this connection, if the broker is able to hear it.
    pub(super) fn broker_hears(&mut self, connection: u64) {
        let paused = self.broker.paused_until(self.now);
        if let Some(until) = paused.or(self.broker.stalled_until(self.now)) {
            return self.at(until, Event::ToBroker(connection));
        }
        let Some(packet) = self.network.arrived_up(connection) else {
            return;
        };
        if !self.network.broker_open(connection) {
            let back = self.one_way();
            return self.after(back, Event::ClientEnd(connection, Some(ECONNRESET)));
        }
        if let Some((current, session)) = self.broker.session.as_mut()
            && *current == connection
        {
            session.heard_at = self.now;
        }
        match packet {
            ClientPacket::Connect { version } => self.broker_connect(connection, version),
            ClientPacket::Subscribe => {
                if let Some(version) = self.session_version(connection) {
                    self.tell(connection, &wire::suback(version));
                }
            }
            ClientPacket::Publish { id, topic, payload } => {
                self.broker_publish(connection, id, topic, &payload);
            }
            ClientPacket::Pingreq => {
                if !self.broker.has(self.now, Way::MutePings) {
                    self.tell(connection, &wire::pingresp());
                }
            }
            ClientPacket::Disconnect => self.hang_up(connection, None),
        }
    }

    fn session_version(&self, connection: u64) -> Option<MqttVersion> {
        let (current, session) = self.broker.session.as_ref()?;
        (*current == connection).then_some(session.version)
    }

    /// Sends bytes, in one piece or two.
    fn tell(&mut self, connection: u64, bytes: &[u8]) {
        let cut = if self.dice.chance(30) {
            usize::try_from(self.dice.below(bytes.len() as u64)).unwrap_or(0)
        } else {
            0
        };
        let (first, second) = bytes.split_at(cut);
        for piece in [first, second] {
            let latency = self.one_way();
            if piece.is_empty() {
                continue;
            }
            let at = self
                .network
                .carry_down(connection, self.now, latency, piece.to_vec());
            if let Some(at) = at {
                self.at(at, Event::ToClient(connection));
            }
        }
    }

    /// Closes the broker's end: FIN, or RST with this errno.
    pub(super) fn hang_up(&mut self, connection: u64, errno: Option<i32>) {
        if !self.network.broker_open(connection) {
            return;
        }
        let latency = self.one_way();
        let at = self
            .network
            .carry_down(connection, self.now, latency, Vec::new());
        if let Some(at) = at {
            self.at(at, Event::ClientEnd(connection, errno));
        }
        self.network.close_broker(connection);
        if self.session_version(connection).is_some() {
            self.broker.session = None;
        }
    }

    fn broker_connect(&mut self, connection: u64, version: MqttVersion) {
        if let Some((old, _)) = self.broker.session {
            self.end_session(old, 0x8e, "");
        }
        let now = self.now;
        if self.broker.has(now, Way::Silent) {
            return;
        }
        if self.broker.has(now, Way::CloseBeforeConnack) {
            return self.hang_up(connection, None);
        }
        let spoken = match version {
            MqttVersion::V5 => self.broker.v5,
            MqttVersion::V311 => self.broker.v311,
        };
        let refusal = match self.broker.refusal(now) {
            _ if !spoken => Some(Way::Refuse(0x84, 1)),
            Some(Way::RefuseVersionInOldForm) if version == MqttVersion::V311 => None,
            other => other,
        };
        if let Some(way) = refusal {
            let (code, reason, form) = match (way, version) {
                (Way::Refuse(code, _), MqttVersion::V5) => (code, "no", version),
                (Way::Refuse(_, code), MqttVersion::V311) => (code, "", version),
                (_, _) => (1, "", MqttVersion::V311),
            };
            self.tell(connection, &wire::connack(form, code, 1, 1, reason));
            return self.hang_up(connection, None);
        }
        self.broker_accept(connection, version);
    }

    fn broker_accept(&mut self, connection: u64, version: MqttVersion) {
        let now = self.now;
        let bytes = wire::connack(
            version,
            0,
            self.broker.receive_maximum,
            self.broker.packet_bytes_max,
            "",
        );
        self.tell(connection, &bytes);
        let session = Session {
            version,
            heard_at: now,
            unacknowledged: 0,
            defers: false,
        };
        self.broker.session = Some((connection, session));
        self.broker.connacks += 1;
        let patience = self.broker_patience();
        self.after(patience, Event::KeepAlive(connection));
        if self.broker.has(now, Way::CloseAfterConnack) {
            return self.hang_up(connection, None);
        }
        if self.broker.has(now, Way::GarbageAfterConnack) {
            self.tell(connection, b"\x00HTTP/1.1 400 Bad Request\r\n");
        }
        if self.takeovers_due > 0 {
            self.takeovers_due -= 1;
            let soon = self.plan.ms(100, 8000);
            self.after(soon, Event::Takeover(connection));
        }
    }

    fn broker_publish(&mut self, connection: u64, id: u16, topic: &'static str, payload: &[u8]) {
        let now = self.now;
        let (receive_maximum, bytes_max) =
            (self.broker.receive_maximum, self.broker.packet_bytes_max);
        let (defers, closes) = (
            self.broker.has(now, Way::Defer) && self.dice.chance(20),
            self.broker.has(now, Way::CloseOnPublish) && self.dice.chance(50),
        );
        let Some((_, session)) = self
            .broker
            .session
            .as_mut()
            .filter(|(current, _)| *current == connection)
        else {
            self.fail("a publish without a session");
        };
        session.unacknowledged += 1;
        let v5 = session.version == MqttVersion::V5;
        if v5 && session.unacknowledged > u32::from(receive_maximum) {
            self.fail("more publishes than the broker's Receive Maximum");
        }
        let bytes = payload.len() + topic.len() + FRAMING_BYTES;
        if v5 && bytes > bytes_max as usize {
            self.fail(&format!(
                "a packet of {bytes} bytes, more than the broker takes"
            ));
        }
        if closes {
            return self.hang_up(connection, None);
        }
        // A broker whose quota is used up does not take the next publish either.
        session.defers |= v5 && defers;
        let pause = self.dice.ms(0, 30);
        if session.defers {
            return self.after(pause, Event::Ack(connection, id, 0x97));
        }
        let refuses = v5 && self.broker.has(now, Way::RefusePublishes) && self.dice.chance(20);
        self.store(topic, payload, refuses);
        if !self.broker.has(now, Way::DropAcks) {
            let code = if refuses { 0x99 } else { 0 };
            self.after(pause, Event::Ack(connection, id, code));
        }
    }

    /// From here on the platform has it, or has refused it for good.
    fn store(&mut self, topic: &str, payload: &[u8], refuses: bool) {
        let items = match read_publish(topic, payload) {
            Ok(items) => items,
            Err(why) => self.fail(&why),
        };
        for (name, number) in items {
            let device = (0..self.terms.devices).find(|device| device_name(*device) == name);
            let Some(device) = device else {
                self.fail(&format!("{name} is invented"));
            };
            let of = self.ledgers.iter();
            let stream = of.clone().position(|ledger| ledger.knows(device, number));
            let Some(ledger) = stream.and_then(|stream| self.ledgers.get_mut(stream)) else {
                self.fail(&format!("item {number} of device {device} is invented"));
            };
            if refuses {
                ledger.set_aside(device, number);
                self.cover("refused by the broker");
            } else if let Err(why) = ledger.deliver(device, number) {
                self.fail(&why);
            }
        }
    }

    pub(super) fn broker_acks(&mut self, connection: u64, id: u16, code: u8) {
        if let Some(until) = self.broker.paused_until(self.now) {
            return self.at(until, Event::Ack(connection, id, code));
        }
        let Some((_, session)) = self
            .broker
            .session
            .as_mut()
            .filter(|(current, _)| *current == connection)
        else {
            return;
        };
        session.unacknowledged = session.unacknowledged.saturating_sub(1);
        let bytes = wire::puback(session.version, id, code);
        self.tell(connection, &bytes);
        if self.broker.has(self.now, Way::AcknowledgeTwice) && self.dice.chance(30) {
            self.tell(connection, &bytes);
        }
    }

    /// Ends a session with a reason, where the version can carry one.
    pub(super) fn end_session(&mut self, connection: u64, code: u8, reason: &str) {
        if self.session_version(connection) == Some(MqttVersion::V5) {
            self.tell(connection, &wire::disconnect(code, reason));
        }
        self.hang_up(connection, None);
    }

    pub(super) fn broker_end(&mut self, connection: u64) {
        self.network.close_broker(connection);
        if self.session_version(connection).is_some() {
            self.broker.session = None;
        }
    }

    pub(super) fn broker_keep_alive(&mut self, connection: u64) {
        let patience = self.broker_patience();
        let Some((_, session)) = self
            .broker
            .session
            .as_ref()
            .filter(|(current, _)| *current == connection)
        else {
            return;
        };
        let due = session.heard_at + patience + Duration::from_millis(1);
        if let Some(until) = self.broker.paused_until(self.now) {
            self.at(until + patience, Event::KeepAlive(connection));
        } else if due <= self.now {
            self.note("broker", "heard nothing for one and a half keep-alives");
            self.end_session(connection, 0x8d, "");
        } else {
            self.at(due, Event::KeepAlive(connection));
        }
    }

    pub(super) fn takeover(&mut self, connection: u64) {
        if self.session_version(connection).is_some() {
            self.note("broker", "another client takes the id");
            self.end_session(connection, 0x8e, "taken");
        }
    }

    pub(super) fn send_downlinks(&mut self) {
        let Some((connection, version)) = self
            .broker
            .session
            .as_ref()
            .map(|(connection, session)| (*connection, session.version))
        else {
            return;
        };
        let rpc = br#"{"device":"device-0","data":{"id":1,"method":"m","params":[1]}}"#;
        let attributes = br#"{"device":"device-0","data":{"k":1.5,"deleted":["x"]}}"#;
        let messages: [(&str, &[u8]); 5] = [
            ("v1/gateway/rpc", rpc),
            ("v1/gateway/rpc", rpc),
            ("v1/gateway/attributes", attributes),
            ("v1/gateway/attributes", b"{\"device\":"),
            ("foreign", b"\xff\x00"),
        ];
        for (topic, payload) in messages {
            self.tell(connection, &wire::publish(version, topic, payload));
        }
    }

    /// Half of a packet, then FIN.
    pub(super) fn cut(&mut self) {
        let Some((connection, version)) = self
            .broker
            .session
            .as_ref()
            .map(|(connection, session)| (*connection, session.version))
        else {
            return;
        };
        let whole = wire::publish(version, "v1/gateway/rpc", &[b'x'; 200]);
        self.tell(connection, &whole[..100]);
        self.hang_up(connection, None);
    }
}
