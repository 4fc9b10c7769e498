//! `[spool]` and `[[stream]]`.

use std::path::Path;
use std::time::Duration;

use moorline_core::message::{Qos, StreamId};
use moorline_core::spool::streams::STREAMS_MAX;

use super::raw;
use super::settings::{Resolver, milliseconds, size};
use crate::link::LinkSettings;
use crate::spool::{
    AfterOutage, Durability, Full, Pattern, Rule, SpoolSettings, StreamSetup, Whole,
};

/// Streams that are named in a configuration and are not there by themselves.
const PRIORITY: u8 = 10;
const STREAM_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What `[spool]` says for all streams but the urgent one, and `[[stream]]` for one.
struct Keys {
    bytes_max: Option<u64>,
    segment_bytes: Option<u64>,
    durability: Option<raw::Durability>,
    full: Option<raw::Full>,
    age_max_h: Option<u64>,
    after_outage: Option<raw::AfterOutage>,
    backlog_share_percent: Option<u64>,
    backlog_readings_per_s: Option<u64>,
}

impl From<&raw::Spool> for Keys {
    fn from(raw: &raw::Spool) -> Self {
        Self {
            bytes_max: raw.bytes_max.map(|n| n.0),
            segment_bytes: raw.segment_bytes.map(|n| n.0),
            durability: raw.durability,
            full: raw.full,
            age_max_h: raw.age_max_h.map(|n| n.0),
            after_outage: raw.after_outage,
            backlog_share_percent: raw.backlog_share_percent.map(|n| n.0),
            backlog_readings_per_s: raw.backlog_readings_per_s.map(|n| n.0),
        }
    }
}

impl From<&raw::Stream> for Keys {
    fn from(raw: &raw::Stream) -> Self {
        Self {
            bytes_max: raw.bytes_max.map(|n| n.0),
            segment_bytes: raw.segment_bytes.map(|n| n.0),
            durability: raw.durability,
            full: raw.full,
            age_max_h: raw.age_max_h.map(|n| n.0),
            after_outage: raw.after_outage,
            backlog_share_percent: raw.backlog_share_percent.map(|n| n.0),
            backlog_readings_per_s: raw.backlog_readings_per_s.map(|n| n.0),
        }
    }
}

impl Keys {
    fn lay_over(&self, setup: &mut StreamSetup) {
        setup.bytes_max = self.bytes_max.unwrap_or(setup.bytes_max);
        setup.segment_bytes = self.segment_bytes.unwrap_or(setup.segment_bytes);
        if let Some(durability) = self.durability {
            setup.durability = match durability {
                raw::Durability::Memory => Durability::Memory,
                raw::Durability::Batched => Durability::Batched,
                raw::Durability::Sync => Durability::Sync,
            };
        }
        if let Some(full) = self.full {
            setup.full = match full {
                raw::Full::DropOldest => Full::DropOldest,
                raw::Full::DropNewest => Full::DropNewest,
                raw::Full::ThinOut => Full::ThinOut,
            };
            setup.stream.thin_out = setup.full == Full::ThinOut;
        }
        if let Some(hours) = self.age_max_h {
            setup.age_max = Some(Duration::from_secs(3600 * hours));
        }
        setup.stream.after_outage = self.after_outage(setup.stream.after_outage);
    }

    fn after_outage(&self, default: AfterOutage) -> AfterOutage {
        let (newest_first, share, pace) = match (self.after_outage, default) {
            (Some(raw::AfterOutage::Backlog), _) | (None, AfterOutage::BacklogFirst) => {
                return AfterOutage::BacklogFirst;
            }
            (
                order,
                AfterOutage::LiveFirst {
                    backlog_share_percent,
                    backlog_readings_per_s,
                    newest_first,
                },
            ) => {
                let newest = order.map_or(newest_first, |o| o == raw::AfterOutage::Newest);
                (newest, backlog_share_percent, backlog_readings_per_s)
            }
            (Some(order), AfterOutage::BacklogFirst) => {
                let newest = order == raw::AfterOutage::Newest;
                (newest, Whole::default(), None)
            }
        };
        let percent = self
            .backlog_share_percent
            .and_then(|n| u8::try_from(n).ok());
        let per_s = self.backlog_readings_per_s;
        AfterOutage::LiveFirst {
            backlog_share_percent: percent.map_or(share, Whole),
            backlog_readings_per_s: per_s.and_then(|n| u32::try_from(n).ok()).or(pace),
            newest_first,
        }
    }
}

impl Resolver<'_> {
    pub(super) fn spool(
        &mut self,
        raw: &raw::Spool,
        streams: &[raw::Stream],
        state_dir: &Path,
        link: &LinkSettings,
    ) -> SpoolSettings {
        let mut spool = SpoolSettings::new(state_dir.join("spool"));
        spool.commit_interval = milliseconds(raw.commit_interval_ms, spool.commit_interval);
        spool.commit_bytes = raw.commit_bytes.map_or(spool.commit_bytes, |n| size(n.0));
        spool.commit_records = raw.commit_records.map_or(spool.commit_records, |n| n.0);
        let memory = raw.memory_bytes_max.map(|n| size(n.0));
        spool.memory_bytes_max = memory.unwrap_or(spool.memory_bytes_max);
        spool.free_bytes_min = raw.free_bytes_min.map_or(spool.free_bytes_min, |n| n.0);
        if let Some(directory) = &raw.window_dir {
            let none = directory.as_os_str().is_empty();
            spool.window_directory = (!none).then(|| self.base.join(directory));
        }
        let defaults = Keys::from(raw);
        if let Some(telemetry) = spool.telemetry_mut() {
            defaults.lay_over(telemetry);
        }
        for stream in streams {
            self.stream(&mut spool, &defaults, stream, link);
        }
        spool
    }

    fn stream(
        &mut self,
        spool: &mut SpoolSettings,
        defaults: &Keys,
        raw: &raw::Stream,
        link: &LinkSettings,
    ) {
        let name = &*raw.name.get_ref().0;
        let known = spool
            .streams
            .iter()
            .position(|setup| *setup.stream.name == *name);
        let index = known.unwrap_or(spool.streams.len());
        if known.is_none() {
            if index >= STREAMS_MAX {
                self.find(
                    raw.name.span(),
                    format!("there are {STREAMS_MAX} streams already, as many as there can be"),
                );
                return;
            }
            let mut setup = StreamSetup::new(name, PRIORITY, STREAM_BYTES_MAX);
            defaults.lay_over(&mut setup);
            setup.bytes_max = STREAM_BYTES_MAX;
            spool.streams.push(setup);
        }
        let Some(setup) = spool.streams.get_mut(index) else {
            return;
        };
        Keys::from(raw).lay_over(setup);
        if let Some(priority) = raw.priority {
            setup.stream.priority = u8::try_from(priority.0).unwrap_or(u8::MAX);
        }
        if let Some(qos) = &raw.qos {
            setup.qos = match qos.get_ref().0 {
                0 => Qos::AtMostOnce,
                1 => Qos::AtLeastOnce,
                _ => Qos::ExactlyOnce,
            };
            if let Err(error) = link.check_qos(setup.qos) {
                self.find(qos.span(), error.to_string());
            }
        }
        let patterns = |texts: &[String]| texts.iter().map(|text| Pattern::new(text)).collect();
        let rule = Rule {
            stream: StreamId(u8::try_from(index).unwrap_or(u8::MAX)),
            connectors: patterns(&raw.connectors),
            devices: patterns(&raw.devices),
            keys: patterns(&raw.keys),
        };
        let chooses = !(raw.connectors.is_empty() && raw.devices.is_empty() && raw.keys.is_empty());
        if chooses {
            spool.routes.0.push(rule);
        } else if known.is_none() {
            self.find(
                raw.name.span(),
                "no reading goes here: name connectors, devices or keys (* stands for anything)",
            );
        }
    }
}

/// The names of all streams, in order of their ids.
pub(super) fn names(spool: &SpoolSettings) -> Vec<String> {
    let names = spool.streams.iter();
    names.map(|setup| setup.stream.name.to_string()).collect()
}
