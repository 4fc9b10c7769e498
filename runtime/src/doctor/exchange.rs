//! Small exchanges on one session: publish and see it come back, subscribe, wait.

use std::time::Duration;

use moorline_core::doctor::facts::{RoundTrip, Sent};
use moorline_core::mqtt_frame::PacketKind;
use moorline_core::mqtt_frame::packet::{Packet, Publish, acknowledge, subscribe};
use tokio::time::Instant;

use crate::link::probe::Conversation;

/// The longest an acknowledgement may take.
pub(super) const ACK_WAIT: Duration = Duration::from_secs(5);
/// The longest a message may take on its way back, once its publish is acknowledged.
pub(super) const DELIVERY_WAIT: Duration = Duration::from_secs(2);
/// Publishes here have this packet id, subscriptions [`SUBSCRIBE_ID`].
const PUBLISH_ID: u16 = 7;
const SUBSCRIBE_ID: u16 = 5;

/// A message of the doctor's own.
pub(super) fn message(topic: &str, payload: impl Into<Vec<u8>>, qos: u8, retain: bool) -> Publish {
    Publish {
        topic: topic.to_owned(),
        payload: payload.into(),
        qos,
        retain,
        packet_id: PUBLISH_ID,
    }
}

/// Subscribes and waits for the answer.
pub(super) async fn subscribed(session: &mut Conversation, filter: &str, qos: u8) -> Sent {
    let packet = subscribe(session.version(), SUBSCRIBE_ID, filter, qos);
    session.send(&packet).await;
    let deadline = Instant::now() + ACK_WAIT;
    loop {
        match session.next(deadline).await {
            Err(failed) => return Sent::Ended(failed),
            Ok(None) => return Sent::Unanswered,
            Ok(Some(Packet::Suback { code, reason, .. })) => return Sent::Acked(code, reason),
            // A retained message of somebody else may come before the SUBACK.
            Ok(Some(_other)) => {}
        }
    }
}

/// Publishes with QoS 1 or 2 and waits until that is settled.
pub(super) async fn published(session: &mut Conversation, publish: &Publish) -> Sent {
    let (sent, _) = there_and_back(session, publish, false).await;
    sent.unwrap_or(Sent::Unanswered)
}

/// Subscribes to `filter`, publishes, and waits for it to come back.
pub(super) async fn round_trip(
    session: &mut Conversation,
    filter: &str,
    publish: &Publish,
) -> RoundTrip {
    let subscribed = subscribed(session, filter, 2).await;
    if !subscribed.taken() {
        return RoundTrip {
            subscribed,
            published: None,
            delivered: None,
        };
    }
    let (published, delivered) = there_and_back(session, publish, true).await;
    RoundTrip {
        subscribed,
        published,
        delivered,
    }
}

/// Publishes; waits for the acknowledgement (QoS 1 and 2) and, if `back`, for the message to come back.
pub(super) async fn there_and_back(
    session: &mut Conversation,
    publish: &Publish,
    back: bool,
) -> (Option<Sent>, Option<(u8, Duration)>) {
    let started = Instant::now();
    let mut deadline = started
        + if publish.qos > 0 {
            ACK_WAIT
        } else {
            DELIVERY_WAIT
        };
    let packet = publish.encode(session.version());
    session.send(&packet).await;
    let mut settled = None;
    let mut delivered = None;
    loop {
        let acknowledged = publish.qos == 0 || settled.is_some();
        let refused = settled.as_ref().is_some_and(|sent: &Sent| !sent.taken());
        if refused || acknowledged && (delivered.is_some() || !back) {
            return (settled, delivered);
        }
        match session.next(deadline).await {
            Err(failed) => return (settled.or(Some(Sent::Ended(failed))), delivered),
            Ok(None) => {
                let unanswered = (publish.qos > 0).then_some(Sent::Unanswered);
                return (settled.or(unanswered), delivered);
            }
            Ok(Some(Packet::Publish(received))) => {
                answer(session, &received).await;
                if received.topic == publish.topic && received.payload == publish.payload {
                    delivered = Some((received.qos, started.elapsed()));
                }
            }
            Ok(Some(Packet::Ack {
                kind,
                packet_id,
                code,
                reason,
            })) => {
                if let Some(sent) = settle(session, kind, packet_id, code, reason).await {
                    settled = Some(sent);
                    deadline = Instant::now() + DELIVERY_WAIT;
                }
            }
            Ok(Some(
                Packet::Connack(_)
                | Packet::Suback { .. }
                | Packet::Pingresp
                | Packet::Disconnect(_)
                | Packet::Other(_),
            )) => {}
        }
    }
}

/// Goes on with a QoS 2 exchange; what became of the publish once that is known.
async fn settle(
    session: &mut Conversation,
    kind: PacketKind,
    packet_id: u16,
    code: u8,
    reason: Option<String>,
) -> Option<Sent> {
    if kind == PacketKind::Pubrec && code < 0x80 {
        let release = acknowledge(PacketKind::Pubrel, packet_id);
        session.send(&release).await;
        return None;
    }
    if kind == PacketKind::Pubrel {
        let complete = acknowledge(PacketKind::Pubcomp, packet_id);
        session.send(&complete).await;
        return None;
    }
    (packet_id == PUBLISH_ID).then_some(Sent::Acked(code, reason))
}

/// Acknowledges what was received.
async fn answer(session: &mut Conversation, received: &Publish) {
    let kind = match received.qos {
        1 => PacketKind::Puback,
        2 => PacketKind::Pubrec,
        _ => return,
    };
    session.send(&acknowledge(kind, received.packet_id)).await;
}

/// Waits for a message that satisfies `wanted`.
pub(super) async fn received(
    session: &mut Conversation,
    limit: Duration,
    wanted: impl Fn(&Publish) -> bool,
) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        match session.next(deadline).await {
            Ok(Some(Packet::Publish(publish))) => {
                answer(session, &publish).await;
                if wanted(&publish) {
                    return true;
                }
            }
            Ok(Some(_other)) => {}
            Ok(None) | Err(_) => return false,
        }
    }
}
