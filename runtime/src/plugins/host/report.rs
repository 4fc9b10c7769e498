//! The report strategies of an instance, between the guest's `emit` and the spool.
//!
//! Of the readings a guest was told are taken, those that pass are in the spool and the rest is counted here as
//! suppressed: taken = accepted by the spool + suppressed.

use moorline_core::message::{DeviceName, DeviceReadings};
use moorline_core::report::{Filter, Offered, Rules};
use moorline_core::time::Instant;
use tokio::sync::watch;

/// Outlives the guests, so that a swap makes no difference to what is reported.
pub(crate) struct Reporting {
    /// None: every reading is reported.
    filter: Option<Box<Filter>>,
    /// Counts up when the platform may lack what was reported.
    gaps: watch::Receiver<u64>,
    /// What became of the batch that is offered.
    offered: Offered,
    total: Offered,
}

impl Reporting {
    pub(crate) fn new(rules: &Rules, mut gaps: watch::Receiver<u64>) -> Self {
        gaps.mark_unchanged();
        Self {
            filter: Filter::new(rules).map(Box::new),
            gaps,
            offered: Offered::default(),
            total: Offered::default(),
        }
    }

    /// What became of everything the guests emitted.
    pub(crate) fn total(&self) -> Offered {
        self.total
    }

    /// Takes out of `batch` what need not be reported. `settle` says afterwards whether the spool has taken the rest.
    pub(super) fn offer(&mut self, instance: &str, batch: &mut Vec<DeviceReadings>, now: Instant) {
        let Some(filter) = &mut self.filter else {
            return;
        };
        // An error: whoever counts is gone, and so is the link.
        if self.gaps.has_changed().unwrap_or(false) {
            self.gaps.mark_unchanged();
            filter.forget_all();
        }
        self.offered = filter.offer(batch, now);
        if self.offered.unfiltered > 0 && self.total.unfiltered == 0 {
            tracing::warn!(
                instance,
                pairs = filter.pairs(),
                "this instance has more devices and keys than its report strategies can remember; readings of the \
                 others are all reported, and counted as unfiltered_readings. Share them among several connections, or \
                 give what is reported anyway the strategy \"on-received\""
            );
        }
    }

    pub(super) fn settle(&mut self, taken: bool) {
        let Some(filter) = &mut self.filter else {
            return;
        };
        let offered = std::mem::take(&mut self.offered);
        if taken {
            filter.accept();
            self.total.suppressed += offered.suppressed;
            self.total.unfiltered += offered.unfiltered;
        } else {
            filter.take_back();
        }
    }

    /// The device is gone; what it says when it is back is reported again.
    pub(super) fn forget(&mut self, device: &DeviceName) {
        if let Some(filter) = &mut self.filter {
            filter.forget(device);
        }
    }
}

#[cfg(test)]
mod tests {
    use moorline_core::message::{Key, Quality, Reading, Value};
    use moorline_core::report::{Deadband, Strategy};
    use moorline_core::time::TimestampMs;

    use super::*;

    fn batch(values: &[i64]) -> Vec<DeviceReadings> {
        let reading = |value: &i64| Reading {
            key: Key::try_new("k").unwrap(),
            value: Value::Integer(*value),
            quality: Quality::Good,
            timestamp: TimestampMs(1),
        };
        vec![DeviceReadings {
            device: DeviceName::try_new("d").unwrap(),
            readings: values.iter().map(reading).collect(),
        }]
    }

    /// How many of `values` pass.
    fn emit(report: &mut Reporting, values: &[i64], taken: bool) -> usize {
        let mut batch = batch(values);
        report.offer("instance", &mut batch, Instant::ZERO);
        report.settle(taken);
        batch.first().map_or(0, |device| device.readings.len())
    }

    #[test]
    fn a_batch_is_counted_when_it_is_taken_and_only_then() {
        let (gap, gaps) = watch::channel(5);
        let rules = Rules::new(Vec::new(), Strategy::OnChange(Deadband::default()));
        let mut report = Reporting::new(&rules, gaps);
        assert_eq!(emit(&mut report, &[1, 1, 2], false), 2);
        assert_eq!(emit(&mut report, &[1, 1, 2], false), 2);
        assert_eq!(report.total(), Offered::default());
        assert_eq!(emit(&mut report, &[1, 1, 2], true), 2);
        assert_eq!(emit(&mut report, &[2], true), 0);
        assert_eq!(report.total().suppressed, 2);
        report.forget(&DeviceName::try_new("d").unwrap());
        assert_eq!(emit(&mut report, &[2], true), 1, "the device was away");
        gap.send_replace(6);
        assert_eq!(emit(&mut report, &[2], true), 1, "something was lost");
        drop(gap);
        assert_eq!(emit(&mut report, &[2], true), 0);
    }

    #[test]
    fn without_strategies_everything_passes_and_nothing_is_counted() {
        let (_gap, gaps) = watch::channel(0);
        let mut report = Reporting::new(&Rules::default(), gaps);
        assert!(report.filter.is_none());
        assert_eq!(emit(&mut report, &[1, 1, 1], true), 3);
        assert_eq!(report.total(), Offered::default());
    }
}
