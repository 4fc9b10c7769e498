//! Many numbers at a time, under names that were said once.

use std::collections::HashMap;
use std::hash::BuildHasher as _;

use moorline_core::message::{DeviceName, DeviceReadings, Key, Quality, Reading, Value};
use moorline_core::time::TimestampMs;
use thiserror::Error;

use super::edge::series::{Host, SeriesId};
use super::edge::telemetry::EmitError;
use super::{no_resident, refused, telemetry};
use crate::plugins::convert::{BATCH_BYTES_MAX, READINGS_MAX, SCALAR_BYTES, timestamp};
use crate::plugins::names::Names;
use crate::plugins::store::HostState;

/// Most series of one guest, whose names take 2 MiB at the longest.
const SERIES_MAX: SeriesId = 4096;

/// One key of one device.
#[derive(Debug)]
struct Series {
    device: DeviceName,
    key: Key,
    /// The place of its device among the devices.
    of: usize,
}

/// The series a guest has opened. An id is its place, counted from a number of the guest's own: one that was handed over by the
/// guest before names nothing, rather than another series.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    series: Vec<Series>,
    ids: HashMap<(DeviceName, Key), SeriesId>,
    devices: HashMap<DeviceName, usize>,
}

/// Why a batch is refused, and where.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
enum BadBatch {
    #[error("{0} ids came with {1} values")]
    Values(usize, usize),
    #[error("{0} ids came with {1} timestamps, and there must be as many, one or none")]
    Timestamps(usize, usize),
    #[error("the batch has more than {READINGS_MAX} readings")]
    TooMany,
    #[error("the batch has more than {BATCH_BYTES_MAX} bytes")]
    TooLarge,
    #[error("ids[{0}]: series {1} was not opened by this guest")]
    Unknown(usize, SeriesId),
    #[error("values[{0}] is not a finite number")]
    NotFinite(usize),
    #[error("timestamps[{0}] is not a time between 1970 and 9999")]
    Timestamp(usize),
}

impl Opened {
    /// The first id, which each table has by chance.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "some of its bits are as good as all"
    )]
    fn first(&self) -> SeriesId {
        self.ids.hasher().hash_one(SERIES_MAX) as SeriesId
    }

    fn open(&mut self, device: &str, key: &str, names: &mut Names) -> Result<SeriesId, String> {
        let device = names
            .device(device)
            .map_err(|why| format!("the device's name {why}"))?;
        let key = Key::try_new(key).map_err(|why| format!("the key {why}"))?;
        let name = (device, key);
        if let Some(id) = self.ids.get(&name) {
            return Ok(*id);
        }
        let place = SeriesId::try_from(self.series.len()).unwrap_or(SERIES_MAX);
        if place >= SERIES_MAX {
            return Err(format!("there are {SERIES_MAX} series already"));
        }
        let id = self.first().wrapping_add(place);
        let (device, key) = name.clone();
        let devices = self.devices.len();
        let of = *self.devices.entry(device.clone()).or_insert(devices);
        self.series.push(Series { device, key, of });
        self.ids.insert(name, id);
        Ok(id)
    }

    /// The series of a batch, which weighs no more than one of records may.
    fn named(&self, ids: &[SeriesId]) -> Result<Vec<&Series>, BadBatch> {
        let first = self.first();
        let (mut bytes, mut device) = (0, None);
        let mut named = Vec::with_capacity(ids.len());
        for (at, id) in ids.iter().enumerate() {
            let place = usize::try_from(id.wrapping_sub(first)).ok();
            let series = place.and_then(|place| self.series.get(place));
            let series = series.ok_or(BadBatch::Unknown(at, *id))?;
            bytes += series.key.as_str().len() + SCALAR_BYTES;
            if device.replace(series.of) != Some(series.of) {
                bytes += series.device.as_str().len();
            }
            if bytes > BATCH_BYTES_MAX {
                return Err(BadBatch::TooLarge);
            }
            named.push(series);
        }
        Ok(named)
    }

    /// A batch of the guest, checked. Readings without a timestamp get `now`.
    fn take(
        &self,
        ids: &[SeriesId],
        values: &[f64],
        timestamps: &[f64],
        now: TimestampMs,
    ) -> Result<Vec<DeviceReadings>, BadBatch> {
        if ids.len() != values.len() {
            return Err(BadBatch::Values(ids.len(), values.len()));
        }
        if ids.len() > READINGS_MAX {
            return Err(BadBatch::TooMany);
        }
        let stamps = Stamps::of(timestamps, ids.len(), now)?;
        let named = self.named(ids)?;
        let mut taken = Vec::new();
        let mut values = values.iter().enumerate();
        for run in named.chunk_by(|a, b| a.of == b.of) {
            let mut readings = Vec::with_capacity(run.len());
            for (series, (at, value)) in run.iter().zip(values.by_ref()) {
                if !value.is_finite() {
                    return Err(BadBatch::NotFinite(at));
                }
                readings.push(Reading {
                    key: series.key.clone(),
                    value: Value::Double(*value),
                    quality: Quality::Good,
                    timestamp: stamps.at(at)?,
                });
            }
            if let Some(first) = run.first() {
                let device = first.device.clone();
                taken.push(DeviceReadings { device, readings });
            }
        }
        Ok(taken)
    }
}

/// When the readings of a batch were taken.
enum Stamps<'a> {
    Same(TimestampMs),
    Each(&'a [f64]),
}

impl<'a> Stamps<'a> {
    fn of(timestamps: &'a [f64], readings: usize, now: TimestampMs) -> Result<Self, BadBatch> {
        Ok(match timestamps {
            [] => Self::Same(now),
            each if each.len() == readings => Self::Each(each),
            [same] => Self::Same(timestamp(*same).ok_or(BadBatch::Timestamp(0))?),
            other => return Err(BadBatch::Timestamps(readings, other.len())),
        })
    }

    fn at(&self, at: usize) -> Result<TimestampMs, BadBatch> {
        match self {
            Self::Same(same) => Ok(*same),
            Self::Each(each) => each
                .get(at)
                .and_then(|ms| timestamp(*ms))
                .ok_or(BadBatch::Timestamp(at)),
        }
    }
}

impl Host for HostState {
    fn open(&mut self, device: String, key: String) -> Result<SeriesId, EmitError> {
        let resident = self.resident.as_mut().ok_or_else(no_resident)?;
        let opened = self.series.open(&device, &key, &mut resident.names);
        opened.map_err(refused)
    }

    async fn emit(
        &mut self,
        ids: Vec<SeriesId>,
        values: Vec<f64>,
        timestamps: Vec<f64>,
    ) -> Result<(), EmitError> {
        let resident = self.resident.as_mut().ok_or_else(no_resident)?;
        let now = resident.clock.wall();
        match self.series.take(&ids, &values, &timestamps, now) {
            Ok(batch) => telemetry::emit(self, batch).await,
            Err(bad) => {
                resident.refused = Some(bad.to_string());
                Err(refused(bad.to_string()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: TimestampMs = TimestampMs(5);

    fn open(opened: &mut Opened, device: &str, key: &str) -> Result<SeriesId, String> {
        opened.open(device, key, &mut Names::default())
    }

    fn opened() -> (Opened, [SeriesId; 3]) {
        let mut opened = Opened::default();
        let ids = [("press", "a"), ("press", "b"), ("mill", "a")]
            .map(|(device, key)| open(&mut opened, device, key).unwrap());
        (opened, ids)
    }

    /// Device, key, value and time of all readings, in their order.
    fn told(batch: &[DeviceReadings]) -> Vec<(&str, &str, f64, u64)> {
        let mut told = Vec::new();
        for of in batch {
            for reading in &of.readings {
                let Value::Double(value) = reading.value else {
                    panic!("{reading:?}");
                };
                let (device, key) = (of.device.as_str(), reading.key.as_str());
                told.push((device, key, value, reading.timestamp.0));
            }
        }
        told
    }

    #[test]
    fn a_pair_has_one_id_and_there_is_a_bound() {
        let (mut opened, ids) = opened();
        assert_eq!(open(&mut opened, "press", "b"), Ok(ids[1]));
        for (device, key, words) in [
            ("", "a", "the device's name is empty"),
            ("press", "a\n", "the key"),
        ] {
            let refusal = open(&mut opened, device, key).unwrap_err();
            assert!(refusal.contains(words), "{refusal}");
        }
        for number in 3..SERIES_MAX {
            open(&mut opened, "press", &format!("key-{number}")).unwrap();
        }
        let refusal = open(&mut opened, "press", "one more").unwrap_err();
        assert_eq!(refusal, "there are 4096 series already");
        let known = open(&mut opened, "press", "b");
        assert_eq!(known, Ok(ids[1]), "known ones still are");
    }

    #[test]
    fn an_id_of_another_guest_names_nothing() {
        let (mine, ids) = opened();
        let (other, others) = opened();
        assert_ne!(ids, others);
        assert!(mine.take(&ids, &[1.0; 3], &[], NOW).is_ok());
        let taken = other.take(&ids, &[1.0; 3], &[], NOW);
        assert_eq!(taken, Err(BadBatch::Unknown(0, ids[0])));
    }

    #[test]
    fn readings_keep_their_order_device_by_device() {
        let (opened, [a, b, mill]) = opened();
        let ids = [a, b, mill, mill, a];
        let values = [1.0, 2.0, 3.0, 4.0, 5.0];
        let batch = opened.take(&ids, &values, &[9.5], NOW).unwrap();
        assert_eq!(batch.len(), 3);
        let expected = [
            ("press", "a", 1.0, 9),
            ("press", "b", 2.0, 9),
            ("mill", "a", 3.0, 9),
            ("mill", "a", 4.0, 9),
            ("press", "a", 5.0, 9),
        ];
        assert_eq!(told(&batch), expected);
        let each = opened.take(&ids[..2], &values[..2], &[7.0, 8.0], NOW);
        assert_eq!(
            told(&each.unwrap()),
            [("press", "a", 1.0, 7), ("press", "b", 2.0, 8)]
        );
        let none = opened.take(&[b], &[1.0], &[], NOW).unwrap();
        assert_eq!(told(&none), [("press", "b", 1.0, NOW.0)]);
        assert_eq!(opened.take(&[], &[], &[], NOW), Ok(Vec::new()));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let (opened, [a, b, _]) = opened();
        let take = |ids: &[u32], values: &[f64], timestamps: &[f64]| {
            opened.take(ids, values, timestamps, NOW).unwrap_err()
        };
        assert_eq!(take(&[a], &[], &[]), BadBatch::Values(1, 0));
        let unknown = a.wrapping_sub(1);
        assert_eq!(
            take(&[a, unknown], &[1.0, 1.0], &[]),
            BadBatch::Unknown(1, unknown)
        );
        let infinite = [1.0, f64::NEG_INFINITY];
        assert_eq!(take(&[a, b], &infinite, &[]), BadBatch::NotFinite(1));
        assert_eq!(take(&[a], &[f64::NAN], &[]), BadBatch::NotFinite(0));
        let three = [1.0; 3];
        assert_eq!(
            take(&[a, b, a], &three, &[1.0, 2.0]),
            BadBatch::Timestamps(3, 2)
        );
        assert_eq!(
            take(&[a, b], &[1.0, 1.0], &[1.0, -1.0]),
            BadBatch::Timestamp(1)
        );
        assert_eq!(
            take(&[a, b], &[1.0, 1.0], &[f64::NAN]),
            BadBatch::Timestamp(0)
        );
        let many = READINGS_MAX + 1;
        assert_eq!(
            take(&vec![a; many], &vec![1.0; many], &[]),
            BadBatch::TooMany
        );
    }

    #[test]
    fn a_batch_is_bounded_in_bytes() {
        let mut opened = Opened::default();
        let id = open(&mut opened, "press", &"k".repeat(200)).unwrap();
        let large = 6_000;
        let taken = opened.take(&vec![id; large], &vec![1.0; large], &[], NOW);
        assert_eq!(taken, Err(BadBatch::TooLarge));
    }
}
