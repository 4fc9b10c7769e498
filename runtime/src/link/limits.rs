//! What the platform lets the link send: asked for, remembered across sessions, and put into the terms of window and feeder.

use std::sync::Arc;

use moorline_core::link::asking::Asking;
use moorline_core::link::quota::Quota;
use moorline_core::thingsboard::Shape;
use moorline_core::thingsboard::limits::{Limits, SessionLimits};

use super::settings::{LinkSettings, RateLimits};

/// What is known, and whether more is asked.
pub(super) struct PlatformLimits {
    pub(super) asking: Asking,
    known: Option<Arc<SessionLimits>>,
}

impl PlatformLimits {
    pub(super) fn new(settings: &LinkSettings) -> Self {
        let (wanted, known) = match &settings.rate_limits {
            RateLimits::Ask => (true, None),
            RateLimits::Off => (false, None),
            RateLimits::Known(limits) => (
                false,
                Some(Arc::new(SessionLimits {
                    devices: limits.clone(),
                    own: limits.clone(),
                    ..SessionLimits::default()
                })),
            ),
        };
        Self {
            asking: Asking::new(wanted),
            known,
        }
    }

    pub(super) const fn known(&self) -> Option<&Arc<SessionLimits>> {
        self.known.as_ref()
    }

    /// True if it is something else than before.
    pub(super) fn learn(&mut self, limits: SessionLimits) -> bool {
        let news = self.known.as_deref() != Some(&limits);
        if news {
            self.known = Some(Arc::new(limits));
        }
        news
    }

    /// Another broker: what was learnt is not true of it. What the configuration says stays.
    pub(super) fn forget(&mut self) {
        if self.asking.asks() {
            self.known = None;
        }
    }

    /// Lets `quota` keep what is known.
    pub(super) fn apply(&self, quota: &mut Quota, settings: &LinkSettings) {
        let none = Limits::default();
        let (devices, own) = match self.known() {
            Some(known) => (&known.devices, &known.own),
            None => (&none, &none),
        };
        quota.follow(devices, own, settings.rate_limit_percent);
    }

    /// Most publishes unacknowledged at a time: of what the platform keeps waiting the same share as of everything else.
    pub(super) fn inflight_max(&self, settings: &LinkSettings) -> u16 {
        let of_platform = self.known().and_then(|known| known.inflight_max);
        of_platform.map_or(settings.inflight_max, |messages| {
            let share = u32::from(messages) * settings.rate_limit_percent / 100;
            let share = u16::try_from(share).unwrap_or(u16::MAX).max(1);
            settings.inflight_max.min(share)
        })
    }

    /// How large a publish may get, where the broker takes packets of at most so many bytes.
    pub(super) fn shape(
        &self,
        settings: &LinkSettings,
        quota: &Quota,
        offered: Option<u32>,
    ) -> Shape {
        let of_platform = self.known().and_then(|known| known.packet_bytes_max);
        let least = [offered, of_platform].into_iter().flatten().min();
        let packet_bytes_max = least
            .and_then(|bytes| usize::try_from(bytes).ok())
            .map_or(settings.packet_bytes_max, |bytes| {
                bytes.min(settings.packet_bytes_max)
            });
        Shape {
            packet_bytes_max,
            packed_bytes_max: packet_bytes_max,
            readings_max: settings.batch.readings_max,
            cost_max: quota.cost_max(),
        }
    }
}
