//! MQTT 3.1.1 on `rumqttc_v4`.

use std::sync::Arc;

use moorline_core::message::Qos;
use rumqttc_v4::{
    AckMode, AsyncClient, Broker, Event, EventLoop, ManualAck, MqttOptions, Outgoing, Packet,
    PubAck, PubRec, PublishOptions, QoS,
};
use rumqttc_v4::{ConnectionError, StateError, SubscribeFilter, SubscribeReasonCode};

use super::super::settings::LinkSettings;
use super::{
    AckDue, GaveUp, GaveUpOver, HandOver, INCOMING_BYTES_MAX, Message, PumpEnds, Received,
    SessionEvent, SessionFull, UNUSED_HOST, UNUSED_PORT, WRITE_BATCH, request_capacity,
};

/// The driver owns every deadline; the crate's own must never be the first.
const NEVER_S: u64 = 24 * 3600;
/// The encoder keeps publishes smaller than this; the protocol's own limit is left to it.
const OUTGOING_BYTES_MAX: usize = 256 * 1024 * 1024;

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
        .set_clean_session(settings.clean_start())
        .set_max_packet_size(INCOMING_BYTES_MAX as usize, OUTGOING_BYTES_MAX)
        .set_ack_mode(AckMode::Manual)
        .set_max_request_batch(WRITE_BATCH)
        .set_inflight(settings.inflight_max.max(1));
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
        // 3.1.1 knows no password without a user name; an empty one is the nearest.
        (None, Some(password)) => {
            options.set_credentials("", password.expose().to_owned());
        }
        (None, None) => {}
    }
    let (client, mut event_loop) = AsyncClient::builder(options)
        .capacity(request_capacity(settings))
        .build();
    event_loop.network_options.set_connection_timeout(NEVER_S);
    (client, event_loop)
}

pub(super) fn publish(client: &AsyncClient, message: Message) -> Result<(), SessionFull> {
    let options = PublishOptions::new(qos(message.qos));
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
        ManualAck::PubRec(PubRec::new(due.id))
    } else {
        ManualAck::PubAck(PubAck::new(due.id))
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
    let filters = topics.iter().map(|&(topic, qos)| {
        SubscribeFilter::new(
            topic.to_owned(),
            if qos == 0 {
                QoS::AtMostOnce
            } else {
                QoS::AtLeastOnce
            },
        )
    });
    client
        .try_subscribe_many(filters)
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
                    over: if matches!(error, ConnectionError::MqttState(StateError::AwaitPingResp))
                    {
                        GaveUpOver::Ping
                    } else {
                        GaveUpOver::Stream
                    },
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

fn translate(event: Event, ends: &mut PumpEnds) -> Option<SessionEvent> {
    match event {
        Event::Outgoing(Outgoing::Publish(id)) => ends.written(id),
        Event::Incoming(Packet::PubAck(ack)) => ends.acked(ack.pkid, 0),
        Event::Incoming(Packet::PubRec(ack)) => ends.taken(ack.pkid),
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
        Event::Incoming(_) | Event::Outgoing(_) => None,
    }
}
