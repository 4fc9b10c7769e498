//! MQTT 5.0 on `rumqttc`.

use std::sync::Arc;
use std::time::Duration;

use moorline_core::message::Qos;
use rumqttc::mqttbytes;
use rumqttc::mqttbytes::v5::{PubAck, PubRec, PublishProperties};
use rumqttc::{
    AckMode, AsyncClient, Broker, Event, EventLoop, ManualAck, MqttOptions, Outgoing, Packet,
    PublishOptions, QoS,
};
use rumqttc::{ConnectionError, StateError, SubscribeFilterInput, SubscribeReasonCode};

use super::super::settings::{LinkSettings, MessageIdentity};
use super::{
    AckDue, GaveUp, GaveUpOver, HandOver, INCOMING_BYTES_MAX, Message, PumpEnds, RECEIVE_MAX,
    Received, SessionEvent, SessionFull, UNUSED_HOST, UNUSED_PORT, WRITE_BATCH, request_capacity,
};

/// Codes from here on refuse (MQTT 5.0 section 2.4).
const REFUSED: u8 = 0x80;
/// The driver owns every deadline; the crate's own must never be the first.
const NEVER: Duration = Duration::from_secs(24 * 3600);

pub(super) fn open(
    settings: &LinkSettings,
    keep_alive_s: u16,
    hand_over: Arc<HandOver>,
) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(
        settings.client_id.clone(),
        Broker::tcp(UNUSED_HOST, UNUSED_PORT),
    );
    options.set_socket_connector(move |_address, _options| {
        let tap = hand_over.take();
        async move { tap }
    });
    options
        .set_keep_alive(keep_alive_s)
        .set_clean_start(settings.clean_start())
        .set_connect_timeout(NEVER)
        .set_max_packet_size(Some(INCOMING_BYTES_MAX))
        .set_receive_maximum(Some(RECEIVE_MAX))
        .set_ack_mode(AckMode::Manual)
        .set_max_request_batch(WRITE_BATCH)
        .set_outgoing_inflight_upper_limit(settings.inflight_max.max(1));
    let expiry_s = u32::try_from(settings.session_expiry.as_secs()).unwrap_or(u32::MAX);
    if expiry_s > 0 {
        options.set_session_expiry_interval(Some(expiry_s));
    }
    match (
        &settings.credentials.username,
        &settings.credentials.password,
    ) {
        (Some(username), Some(password)) => {
            options.set_credentials(username.expose(), password.expose().to_owned());
        }
        (Some(username), None) => {
            options.set_username(username.expose());
        }
        (None, Some(password)) => {
            options.set_password(password.expose().to_owned());
        }
        (None, None) => {}
    }
    AsyncClient::builder(options)
        .capacity(request_capacity(settings))
        .build()
}

pub(super) fn publish(
    client: &AsyncClient,
    message: Message,
    named: Option<&MessageIdentity>,
) -> Result<(), SessionFull> {
    let mut options = PublishOptions::new(qos(message.qos));
    if let (Some(named), Some(identity)) = (named, &message.identity) {
        options = options.properties(PublishProperties {
            user_properties: named.properties(identity),
            ..PublishProperties::default()
        });
    }
    client
        .try_publish(message.topic, message.payload, options)
        .map_err(|_full| SessionFull)
}

const fn qos(qos: Qos) -> QoS {
    match qos {
        Qos::AtMostOnce => QoS::AtMostOnce,
        Qos::AtLeastOnce => QoS::AtLeastOnce,
        Qos::ExactlyOnce => QoS::ExactlyOnce,
    }
}

pub(super) fn acknowledge(client: &AsyncClient, due: &AckDue) -> Result<(), SessionFull> {
    let ack = if due.received {
        ManualAck::PubRec(PubRec::new(due.id, None))
    } else {
        ManualAck::PubAck(PubAck::new(due.id, None))
    };
    client.try_manual_ack(ack).map_err(|_full| SessionFull)
}

pub(super) fn publish_own(
    client: &AsyncClient,
    topic: &str,
    payload: String,
) -> Result<(), SessionFull> {
    client
        .try_publish(topic, payload, PublishOptions::at_most_once())
        .map_err(|_full| SessionFull)
}

pub(super) fn subscribe(client: &AsyncClient, topics: &[(&str, u8)]) -> Result<(), SessionFull> {
    // A server without No Local would send us our own RPC replies: the platform's topics go both ways.
    let filters = topics.iter().map(|&(topic, qos)| {
        let qos = match qos {
            0 => QoS::AtMostOnce,
            _ => QoS::AtLeastOnce,
        };
        SubscribeFilterInput::new(topic, qos).no_local(true)
    });
    client
        .try_subscribe_many(filters)
        .map_err(|_full| SessionFull)
}

/// With No Local off: what we publish there is to come back.
pub(super) fn subscribe_own(client: &AsyncClient, topic: &str) -> Result<(), SessionFull> {
    let filter = SubscribeFilterInput::new(topic, QoS::AtMostOnce);
    client
        .try_subscribe_many([filter])
        .map_err(|_full| SessionFull)
}

/// Runs the connection to its end and returns the crate's word about it.
pub(super) async fn pump(mut event_loop: EventLoop, mut ends: PumpEnds) -> GaveUp {
    loop {
        let event = match event_loop.poll().await {
            Ok(event) => event,
            Err(error) => {
                return GaveUp {
                    words: error.to_string(),
                    over: given_up_over(&error),
                };
            }
        };
        if let Some(translated) = translate(event, &mut ends)
            && ends.events.send(translated).await.is_err()
        {
            return GaveUp {
                words: "nobody listens".into(),
                over: GaveUpOver::Stream,
            };
        }
    }
}

fn given_up_over(error: &ConnectionError) -> GaveUpOver {
    let ConnectionError::MqttState(error) = error else {
        return GaveUpOver::Stream;
    };
    let too_large = matches!(
        error,
        StateError::OutgoingPacketTooLarge { .. }
            | StateError::Deserialization(mqttbytes::Error::OutgoingPacketTooLarge { .. })
    );
    if too_large {
        GaveUpOver::OwnPacket
    } else if matches!(error, StateError::AwaitPingResp) {
        GaveUpOver::Ping
    } else {
        GaveUpOver::Stream
    }
}

fn translate(event: Event, ends: &mut PumpEnds) -> Option<SessionEvent> {
    match event {
        Event::Outgoing(Outgoing::Publish(id)) => ends.written(id),
        Event::Incoming(Packet::PubAck(ack)) => ends.acked(ack.pkid, ack.reason as u8),
        // Refused, and at its end: no PUBREL follows.
        Event::Incoming(Packet::PubRec(ack)) if ack.reason as u8 >= REFUSED => {
            ends.acked(ack.pkid, ack.reason as u8)
        }
        Event::Incoming(Packet::PubRec(ack)) => ends.taken(ack.pkid),
        // Whatever it says, the server has had the message since its PUBREC.
        Event::Incoming(Packet::PubComp(ack)) => ends.acked(ack.pkid, 0),
        Event::Incoming(Packet::Publish(publish)) => Some(SessionEvent::Received(Received {
            due: (publish.qos != QoS::AtMostOnce).then_some(AckDue {
                id: publish.pkid,
                received: publish.qos == QoS::ExactlyOnce,
            }),
            topic: publish.topic,
            payload: publish.payload,
            retained: publish.retain,
            redelivered: publish.dup,
        })),
        Event::Incoming(Packet::SubAck(ack)) => {
            let refused = ack
                .return_codes
                .iter()
                .filter(|code| !matches!(code, SubscribeReasonCode::Success(_)));
            Some(ends.subscribed(ack.pkid, refused.count()))
        }
        Event::Outgoing(Outgoing::Subscribe(id)) => {
            ends.subscribe_id.get_or_insert(id);
            None
        }
        Event::Incoming(Packet::ConnAck(_)) => ends.wire.connack().cloned().map(SessionEvent::Up),
        Event::Incoming(_) | Event::Outgoing(_) | Event::Auth(_) => None,
    }
}
