//! What goes through.

use moorline_core::doctor::facts::{
    Failed, InFlightSeen, PacketSizeSeen, ResumeSeen, RetainedSeen, RoundTrip, Sent, TopicSeen,
};
use moorline_core::doctor::{Finding, Probe, judge};
use moorline_core::link::cause::MqttVersion;
use moorline_core::mqtt_frame::Properties;
use moorline_core::mqtt_frame::packet::{Connect, Packet, Publish};
use moorline_core::thingsboard::{HARMLESS_TOPICS, SUBSCRIPTIONS};
use tokio::time::Instant;

use super::Doctor;
use super::exchange::{
    ACK_WAIT, DELIVERY_WAIT, message, published, received, round_trip, subscribed, there_and_back,
};

/// Says nothing to a platform: telemetry of no device.
const NOTHING: &[u8] = b"{}";
/// No packet larger than this is sent.
const PACKET_BYTES_BOUND: usize = 1024 * 1024;
/// Packets sent to find the largest that is taken.
const PACKET_TRIES: u32 = 14;
/// Sizes closer than this are not told apart.
const PACKET_BYTES_GRAIN: usize = 64;
/// Publishes sent at once, at most.
const IN_FLIGHT_BOUND: u16 = 200;
/// How long the broker shall keep the session that is resumed; it is ended before.
const SESSION_EXPIRY_S: u32 = 60;

impl Doctor {
    fn properties(&self) -> Option<&Properties> {
        self.terms.as_ref().map(|terms| &terms.connack.properties)
    }

    fn scratch_topic(&self, name: &str) -> String {
        format!("{}/{name}", self.topic)
    }

    /// Where what is only counted goes: to nobody, if the broker has such a topic for us.
    fn sink(&self) -> String {
        if self.scratch_holds {
            self.scratch_topic("sink")
        } else {
            HARMLESS_TOPICS[0].to_owned()
        }
    }

    /// In 5.0 where the broker knows it, whatever the link speaks: only 5.0 says that a topic is forbidden.
    pub(super) async fn gateway_topics(&self) -> Finding {
        let knows_v5 = self
            .answers
            .as_ref()
            .is_some_and(|answers| answers.v5.is_ok());
        let version = if knows_v5 {
            MqttVersion::V5
        } else {
            self.version_spoken()
        };
        let mut seen = Vec::new();
        for (topic, qos) in SUBSCRIPTIONS {
            seen.push(TopicSeen {
                topic,
                subscribed: true,
                sent: self.one_subscription(version, topic, qos).await,
                came_back: None,
            });
        }
        for topic in HARMLESS_TOPICS {
            let sent = match self.session_in(version).await {
                Err(failed) => Sent::Ended(failed),
                Ok(mut session) => {
                    let sent = published(&mut session, &message(topic, NOTHING, 1, false)).await;
                    session.close().await;
                    sent
                }
            };
            let came_back = match version {
                MqttVersion::V5 => None,
                MqttVersion::V311 => self.comes_back(topic).await,
            };
            seen.push(TopicSeen {
                topic,
                subscribed: false,
                sent,
                came_back,
            });
        }
        seen.sort_by_key(|one| one.subscribed);
        judge::gateway_topics(version, &seen)
    }

    async fn one_subscription(&self, version: MqttVersion, topic: &str, qos: u8) -> Sent {
        match self.session_in(version).await {
            Err(failed) => Sent::Ended(failed),
            Ok(mut session) => {
                let sent = subscribed(&mut session, topic, qos).await;
                session.close().await;
                sent
            }
        }
    }

    /// Whether a publish comes back; none where we may not even listen.
    async fn comes_back(&self, topic: &str) -> Option<bool> {
        let mut session = self.session_in(MqttVersion::V311).await.ok()?;
        let trip = round_trip(&mut session, topic, &message(topic, NOTHING, 1, false)).await;
        session.close().await;
        trip.subscribed.taken().then_some(trip.delivered.is_some())
    }

    pub(super) async fn scratch(&mut self) -> Finding {
        let topic = self.scratch_topic("own");
        let trip = self
            .trip(&topic, &message(&topic, "moorline", 1, false))
            .await;
        let finding = judge::scratch(&self.topic, &trip);
        self.scratch_holds = finding.holds;
        finding
    }

    /// One round trip on a session of its own.
    async fn trip(&self, filter: &str, publish: &Publish) -> RoundTrip {
        match self.session().await {
            Err(failed) => no_trip(failed),
            Ok(mut session) => {
                let trip = round_trip(&mut session, filter, publish).await;
                session.close().await;
                trip
            }
        }
    }

    pub(super) async fn qos(&self) -> Finding {
        let topic = self.scratch_topic("qos");
        let mut seen = Vec::new();
        for qos in 0..=2 {
            let payload = format!("qos {qos}");
            let trip = self
                .trip(&topic, &message(&topic, payload, qos, false))
                .await;
            seen.push((qos, trip));
        }
        let announced = self.properties().and_then(|properties| properties.qos_max);
        judge::qos(announced, &seen)
    }

    pub(super) async fn retained(&self) -> Finding {
        let topic = self.scratch_topic("retained");
        let seen = RetainedSeen {
            published: self.publish_alone(&message(&topic, "kept", 1, true)).await,
            kept: self.is_retained(&topic).await,
            cleared: false,
        };
        // Cleared in any case: what was not seen may be there nevertheless.
        let cleared = self.publish_alone(&message(&topic, "", 1, true)).await;
        let cleared = cleared.taken() && !(seen.kept && self.is_retained(&topic).await);
        let properties = self.properties();
        let announced = properties.and_then(|properties| properties.retain_available);
        judge::retained(announced, &RetainedSeen { cleared, ..seen })
    }

    async fn publish_alone(&self, publish: &Publish) -> Sent {
        match self.session().await {
            Err(failed) => Sent::Ended(failed),
            Ok(mut session) => {
                let sent = published(&mut session, publish).await;
                session.close().await;
                sent
            }
        }
    }

    /// Asks for the topic and then, on the same way, for an answer: what is retained comes before it.
    async fn is_retained(&self, topic: &str) -> bool {
        let Ok(mut session) = self.session().await else {
            return false;
        };
        let mut kept = false;
        if subscribed(&mut session, topic, 1).await.taken() {
            kept = received(&mut session, DELIVERY_WAIT / 4, |publish| publish.retain).await;
        }
        session.close().await;
        kept
    }

    pub(super) async fn packet_size(&self) -> Finding {
        let announced = self
            .properties()
            .and_then(|properties| properties.packet_bytes_max);
        let allowed = announced.map_or(usize::MAX, |bytes| {
            usize::try_from(bytes).unwrap_or(usize::MAX)
        });
        let bound = self
            .wanted
            .packet_bytes_max
            .min(allowed)
            .min(PACKET_BYTES_BOUND);
        let mut seen = PacketSizeSeen {
            announced,
            taken_bytes: 0,
            refused: None,
            bound_bytes: bound,
        };
        let mut next = bound;
        for _ in 0..PACKET_TRIES {
            let sent = self.packet_of(next).await;
            if sent.taken() {
                seen.taken_bytes = next;
            } else {
                seen.refused = Some((next, sent));
            }
            let Some((refused, sent)) = &seen.refused else {
                break;
            };
            if sent.forbidden() {
                break;
            }
            if refused.saturating_sub(seen.taken_bytes) <= PACKET_BYTES_GRAIN {
                break;
            }
            next = seen.taken_bytes + (refused - seen.taken_bytes) / 2;
        }
        judge::packet_size(&self.wanted, &seen)
    }

    /// Publishes a packet of so many bytes: an empty object with room in it, which says nothing to anybody.
    async fn packet_of(&self, bytes: usize) -> Sent {
        let topic = self.sink();
        let room = Publish::payload_room(&topic, self.version_spoken(), bytes);
        let mut payload = vec![b' '; room.max(NOTHING.len())];
        if let (Some(first), true) = (payload.first_mut(), room >= NOTHING.len()) {
            *first = b'{';
        }
        if let Some(last) = payload.last_mut() {
            *last = b'}';
        }
        self.publish_alone(&message(&topic, payload, 1, false))
            .await
    }

    pub(super) async fn in_flight(&self) -> Finding {
        let announced = self
            .properties()
            .and_then(|properties| properties.receive_maximum);
        let mut seen = InFlightSeen {
            announced,
            sent: self
                .wanted
                .inflight_max
                .min(announced.unwrap_or(u16::MAX))
                .min(IN_FLIGHT_BOUND),
            acked: 0,
            took: std::time::Duration::ZERO,
            ended: None,
        };
        match self.session().await {
            Err(failed) => seen.ended = Some(failed),
            Ok(mut session) => {
                let topic = self.sink();
                let mut packets = Vec::new();
                for packet_id in 1..=seen.sent {
                    let mut publish = message(&topic, NOTHING, 1, false);
                    publish.packet_id = packet_id;
                    packets.extend(publish.encode(session.version()));
                }
                let started = Instant::now();
                session.send(&packets).await;
                while seen.acked < seen.sent {
                    match session.next(started + ACK_WAIT).await {
                        Err(failed) => {
                            seen.ended = Some(failed);
                            break;
                        }
                        Ok(None) => break,
                        Ok(Some(Packet::Ack { .. })) => {
                            seen.acked += 1;
                            seen.took = started.elapsed();
                        }
                        Ok(Some(_other)) => {}
                    }
                }
                session.close().await;
            }
        }
        judge::in_flight(&self.wanted, &seen)
    }

    pub(super) async fn wildcards(&self) -> Finding {
        let topic = self.scratch_topic("wildcard/one");
        let filter = self.scratch_topic("wildcard/+");
        let trip = self
            .trip(&filter, &message(&topic, "wildcard", 1, false))
            .await;
        let properties = self.properties();
        judge::wildcards(
            properties.and_then(|properties| properties.wildcards_available),
            &trip,
        )
    }

    pub(super) async fn shared(&self) -> Finding {
        let topic = self.scratch_topic("shared");
        let filter = format!("$share/doctor/{topic}");
        let trip = self
            .trip(&filter, &message(&topic, "shared", 1, false))
            .await;
        let properties = self.properties();
        judge::shared(
            properties.and_then(|properties| properties.shared_available),
            &trip,
        )
    }

    pub(super) async fn resume(&self) -> Finding {
        let seen = self.resumed().await;
        // Whatever became of it, nothing is kept: a clean start forgets the session.
        match self.session().await {
            Ok(session) => session.close().await,
            Err(failed) => {
                return Finding::warns(Probe::Resume, "the doctor's session may still be kept")
                    .with("cause", failed.cause.name());
            }
        }
        judge::resume(&seen)
    }

    async fn resumed(&self) -> Result<ResumeSeen, Sent> {
        let topic = self.scratch_topic("resume");
        let connect = Connect {
            clean_start: false,
            session_expiry_s: SESSION_EXPIRY_S,
            ..self.connect(self.version_spoken(), &self.client_id)
        };
        let (mut session, connack) = self.prober.converse(&connect).await.map_err(Sent::Ended)?;
        let granted = subscribed(&mut session, &topic, 1).await;
        // Without DISCONNECT, as a gateway that loses its network goes.
        drop(session);
        if !granted.taken() {
            return Err(granted);
        }
        let other = format!("{}-other", self.client_id);
        let other = self.connect(self.version_spoken(), &other);
        let (mut publisher, _) = self.prober.converse(&other).await.map_err(Sent::Ended)?;
        let waiting = message(&topic, "meanwhile", 1, false);
        let (sent, _) = there_and_back(&mut publisher, &waiting, false).await;
        publisher.close().await;
        match sent {
            Some(sent) if sent.taken() => {}
            other => return Err(other.unwrap_or(Sent::Unanswered)),
        }
        let (mut session, again) = self.prober.converse(&connect).await.map_err(Sent::Ended)?;
        let queued = again.session_present
            && received(&mut session, DELIVERY_WAIT, |publish| {
                publish.topic == topic
            })
            .await;
        session.close().await;
        Ok(ResumeSeen {
            expiry_s: connack.properties.session_expiry_s,
            present: again.session_present,
            queued,
        })
    }
}

fn no_trip(failed: Failed) -> RoundTrip {
    RoundTrip {
        subscribed: Sent::Ended(failed),
        published: None,
        delivered: None,
    }
}
