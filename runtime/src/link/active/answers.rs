//! What a session makes of what the peer says.

use std::time::Duration;

use moorline_core::link::classify::{Observed, PubackVerdict, puback_verdict};
use moorline_core::link::quota::Quota;
use moorline_core::link::window::{Token, Window};
use moorline_core::message::Qos;
use moorline_core::mqtt_frame::Connack;
use moorline_core::thingsboard::SUBSCRIPTIONS;
use moorline_core::thingsboard::limits::{LIMITS_QUESTION, LIMITS_REQUEST, LIMITS_SUBSCRIPTION};
use moorline_core::time::Instant;
use tracing::{debug, warn};

use super::super::observe;
use super::super::session::SessionEvent;
use super::{Active, Progress, Refusal, Sent};

/// Codes from here on refuse (MQTT 5.0 section 2.4).
const REFUSED: u8 = 0x80;

impl Active {
    /// One event, and all that are there already: acknowledgements come in bursts.
    pub(super) fn hear(
        &mut self,
        event: SessionEvent,
        window: &mut Window<Sent>,
        quota: &mut Quota,
        progress: &mut Progress,
    ) {
        let mut next = Some(event);
        while let Some(event) = next {
            self.take(event, window, quota, progress);
            next = if progress.over.is_some() {
                None
            } else {
                self.session.try_next()
            };
        }
    }

    fn take(
        &mut self,
        event: SessionEvent,
        window: &mut Window<Sent>,
        quota: &mut Quota,
        progress: &mut Progress,
    ) {
        match event {
            SessionEvent::Up(connack) => self.take_up(connack, window, progress),
            SessionEvent::Acked { token, code } => {
                if let Some(sent) = window.carried(Token(token)) {
                    quota.answered(self.clock.now(), &sent.cost);
                }
                self.take_ack(Token(token), code, window, progress)
            }
            SessionEvent::Taken { token } => {
                let now = self.clock.now();
                self.acked_at = Some(now);
                if let Some(sent_at) = window.sent_at(Token(token)) {
                    self.answer_time.measured(now.saturating_since(sent_at));
                }
            }
            SessionEvent::Received(received) => {
                if self.is_canary(&received.topic) {
                    progress.answered |= self.hear_canary(&received.payload);
                    if let Some(due) = received.due {
                        self.session.acknowledge(due);
                    }
                } else {
                    progress.received.push(received);
                }
            }
            SessionEvent::SubscribedOwn { granted } => self.begin_canary(granted),
            SessionEvent::Subscribed { refused: 0 } => debug!("subscribed"),
            SessionEvent::Subscribed { refused } => {
                warn!(
                    refused,
                    "the broker refused subscriptions: RPC and shared attributes will not arrive"
                );
            }
            SessionEvent::Ended(gave_up) => {
                let mut observation = self.observation(Observed::Fin, window);
                if self.closing.is_none() {
                    let observed = observe::wire_end(
                        &self.wire,
                        self.version,
                        gave_up,
                        &mut observation.evidence,
                    );
                    observation.observed = self.look_closer(observed);
                }
                progress.over = Some(observation);
            }
        }
    }

    fn is_canary(&self, topic: &[u8]) -> bool {
        let wanted = self.settings.canary.as_ref();
        wanted.is_some_and(|canary| canary.topic.as_bytes() == topic)
    }

    fn hear_canary(&mut self, payload: &[u8]) -> bool {
        let now = self.clock.now();
        let canary = self.canary.as_mut();
        canary.is_some_and(|canary| canary.heard(now, payload))
    }

    fn begin_canary(&mut self, granted: bool) {
        let Some(canary) = &mut self.canary else {
            return;
        };
        if granted {
            canary.begin(self.clock.now());
        } else {
            canary.end();
            let topic = self.settings.canary.as_ref().map(|canary| &canary.topic);
            warn!(
                topic,
                "the broker refuses to subscribe us to link.canary's topic: no canary is sent; allow us to read and write it"
            );
        }
    }

    fn take_up(&mut self, connack: Connack, window: &mut Window<Sent>, progress: &mut Progress) {
        self.up_at = Some(self.clock.now());
        if let Some(seconds) = connack.properties.server_keep_alive_s {
            self.keep_alive = Duration::from_secs(u64::from(seconds));
        }
        let offered = connack.properties.receive_maximum.unwrap_or(u16::MAX);
        self.inflight_max = self.inflight_max.min(offered);
        window.resize(if self.careful { 1 } else { self.inflight_max });
        self.qos_max = match connack.properties.qos_max {
            Some(0) => Qos::AtMostOnce,
            Some(1) => Qos::AtLeastOnce,
            Some(_) | None => Qos::ExactlyOnce,
        };
        let mut wanted = SUBSCRIPTIONS.to_vec();
        if self.ask_limits {
            wanted.push(LIMITS_SUBSCRIPTION);
        }
        if let Err(error) = self.session.subscribe(&wanted) {
            warn!(%error, "the subscriptions could not be asked for");
        }
        if self.ask_limits
            && let Err(error) = self
                .session
                .publish_own(LIMITS_REQUEST, LIMITS_QUESTION.to_owned())
        {
            debug!(%error, "the question for the platform's limits found no session");
        }
        if let Some(canary) = &self.settings.canary
            && let Err(error) = self.session.subscribe_own(&canary.topic)
        {
            warn!(%error, "the canary's topic could not be asked for");
        }
        progress.up = Some(connack);
    }

    fn take_ack(
        &mut self,
        token: Token,
        code: u8,
        window: &mut Window<Sent>,
        progress: &mut Progress,
    ) {
        if code >= REFUSED {
            self.refused_at = Some(self.clock.now());
        }
        let carried = window.carried(token);
        let topic = carried.map_or("", |sent| sent.topic);
        let qos = carried.map_or(Qos::AtLeastOnce, |sent| sent.qos);
        // Refused or not: it was read.
        if qos > Qos::AtMostOnce {
            let bytes = carried.map_or(0, |sent| sent.payload.len());
            self.largest_acknowledged = self.largest_acknowledged.max(bytes);
        }
        let verdict = self.refusals.judge(puback_verdict(code), topic);
        if verdict == PubackVerdict::Deferred {
            // Not acknowledged in the window: the next session sends it again.
            progress.over = Some(self.observation(Observed::PublishDeferred(code), window));
            return;
        }
        let Some(acknowledged) = window.acknowledge(token) else {
            return;
        };
        self.learn(qos, acknowledged.sent_at);
        progress.cursor = acknowledged.cursor.or(progress.cursor);
        match verdict {
            PubackVerdict::Delivered => {
                progress.delivered_publishes += 1;
                progress.delivered_readings += u64::from(acknowledged.readings);
            }
            PubackVerdict::Refused => progress.refused.push(Refusal {
                code,
                first: acknowledged.range.map(|range| range.first),
                readings: acknowledged.readings,
                sent: acknowledged.carried,
            }),
            PubackVerdict::Deferred => {}
        }
    }

    /// What the end of a publish says about the peer: of QoS 0 nothing, of QoS 2 that it is not stuck.
    fn learn(&mut self, qos: Qos, sent_at: Instant) {
        let now = self.clock.now();
        match qos {
            Qos::AtMostOnce => {
                let answered = self
                    .told_at
                    .is_none_or(|told| self.wire.received_at() > Some(told));
                if answered {
                    self.told_at = Some(sent_at);
                }
            }
            Qos::AtLeastOnce => {
                self.acked_at = Some(now);
                self.answer_time.measured(now.saturating_since(sent_at));
            }
            // Its PUBREC was measured.
            Qos::ExactlyOnce => self.acked_at = Some(now),
        }
    }
}
