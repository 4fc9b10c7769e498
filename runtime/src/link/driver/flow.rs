//! What may go and how fast: the platform's limits and the feeder's orders that follow from them.

use bytes::Bytes;
use moorline_core::identity;
use moorline_core::link::cause::MqttVersion;
use moorline_core::link::classify::Observed;
use moorline_core::thingsboard::Shape;
use moorline_core::thingsboard::limits::{SessionLimits, decode_limits};
use moorline_core::time::Instant;
use tracing::{debug, info, warn};

use super::super::limits::PlatformLimits;
use super::super::settings::LinkSettings;
use super::{Driver, PACKET_BYTES_MIN, Work};

impl Driver {
    /// A session is up; it has asked, if it is to.
    pub(super) fn session_limits_begin(&mut self) {
        let (now, broker) = (self.clock.now(), self.link.endpoint());
        if self.limits.asking.up(now, &broker) {
            self.limits.forget();
            self.apply_limits();
        }
    }

    pub(super) fn session_limits_end(&mut self, observed: &Observed) {
        let now = self.clock.now();
        self.quota.over(now);
        if matches!(observed, Observed::Local(_)) {
            self.limits.asking.ended_by_us();
        } else if self.limits.asking.over(now) {
            warn!(
                "the session ended right after the question for the platform's limits, and the next one does not ask; if the broker \
                 forbids it, set link.rate_limits to \"off\" or to the limits, or allow us v1/devices/me/rpc/#"
            );
        }
    }

    pub(super) fn stop_waiting_for_limits(&mut self, now: Instant) {
        if self.limits.asking.poll(now) {
            debug!("the platform says nothing of limits");
            self.begin_feeding();
        }
    }

    /// Quota, feeder and status follow what is known.
    pub(super) fn apply_limits(&mut self) {
        self.limits.apply(&mut self.quota, &self.settings);
        let known = self.limits.known().cloned();
        self.count(|status| status.session_limits = known);
        let shape = self.shape();
        self.order(|order| order.shape = shape);
    }

    /// There are new settings in place of those `before`.
    pub(super) fn reconfigure_limits(&mut self, before: &LinkSettings) {
        let held_data = self.limits.asking.hold_until().is_some();
        if self.settings.rate_limits != before.rate_limits {
            self.limits = PlatformLimits::new(&self.settings);
        }
        self.apply_limits();
        if held_data && self.limits.asking.hold_until().is_none() {
            self.begin_feeding();
        }
    }

    pub(super) fn shape(&self) -> Shape {
        let mut shape = self.limits.shape(&self.settings, &self.quota, self.offered);
        if let Some(bytes) = self.packet_size.bytes_max(&self.link.endpoint()) {
            shape.packed_bytes_max = shape.packed_bytes_max.min(bytes);
        }
        if self.names_publishes() {
            let name = identity::PROPERTIES_BYTES_MAX;
            shape.packet_bytes_max = shape.packet_bytes_max.saturating_sub(name);
            shape.packed_bytes_max = shape.packed_bytes_max.saturating_sub(name);
        }
        shape
    }

    fn names_publishes(&self) -> bool {
        self.settings.message_identity.is_some() && self.link.version() == MqttVersion::V5
    }

    /// From here on the session gets what the spool holds.
    pub(super) fn begin_feeding(&mut self) {
        let (shape, after) = (self.shape(), self.window.cursor());
        let (age_max, asked) = (self.settings.batch.age_max, self.asked);
        let limited = self.quota.is_limited();
        let named = self.names_publishes();
        let running = !self.stopping && shape.packet_bytes_max >= PACKET_BYTES_MIN;
        let (careful_through, guilty) = (self.poison.careful_through(), self.poison.guilty());
        self.order(|order| {
            order.generation += 1;
            order.acked = after;
            order.careful_through = careful_through;
            order.guilty = guilty.map(|guilty| guilty.sequence);
            order.shape = shape;
            order.age_max = age_max;
            order.asked = limited.then_some(asked);
            order.keep_grouping = named;
            order.running = running;
        });
    }

    /// Where publishes may have to wait each is asked for, so that it is filled meanwhile.
    pub(super) fn follow_quota(&mut self, asks: bool) {
        self.asked += u64::from(asks);
        let asked = self.quota.is_limited().then_some(self.asked);
        if self.ends.orders.borrow().asked != asked {
            self.order(|order| order.asked = asked);
        }
    }

    /// The platform's answer to the question for its limits.
    pub(super) fn limits_answered(&mut self, payload: &Bytes) {
        let held_data = self.limits.asking.answered();
        match decode_limits(payload) {
            Ok(limits) => self.learn(limits),
            Err(error) => {
                warn!(%error, "what the platform answers about its limits is not understood: none is kept")
            }
        }
        if held_data {
            self.begin_feeding();
        }
    }

    fn learn(&mut self, limits: SessionLimits) {
        if !self.limits.learn(limits) {
            return;
        }
        if let Some(known) = self.limits.known() {
            info!(
                devices = %known.devices,
                own = %known.own,
                packet_bytes_max = known.packet_bytes_max,
                inflight_max = known.inflight_max,
                "the platform's limits"
            );
        }
        self.apply_limits();
        let inflight_max = self.limits.inflight_max(&self.settings);
        if let Work::Session(active) = &mut self.work {
            active.narrow(inflight_max, &mut self.window);
        }
        self.follow_quota(false);
    }
}
