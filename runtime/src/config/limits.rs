//! `[connector.limits]`: what each instance of a connector may use.

use moorline_core::confine::CPU_WINDOW;
use serde::Deserialize;
use toml::Spanned;

use super::raw::Within;
use super::settings::{Resolver, milliseconds, size};
use crate::plugins::Limits;

type MemoryBytes = Within<1_048_576, 1_073_741_824>;
type CallMs = Within<10, 60_000>;

/// What is not said holds as by default.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    memory_bytes_max: Option<Spanned<MemoryBytes>>,
    table_elements_max: Option<Within<1, 10_000_000>>,
    instances_max: Option<Within<1, 10_000>>,
    call_deadline_ms: Option<Spanned<CallMs>>,
    cpu_percent: Option<Within<1, 100>>,
    emit_readings_per_s: Option<Within<1, 100_000_000>>,
    log_lines_per_s: Option<Within<1, 100_000>>,
    stream_bytes_per_s: Option<Within<1, 10_000_000_000>>,
    state_bytes_max: Option<Within<1, 67_108_864>>,
    state_write_bytes_per_s: Option<Within<4_096, 10_000_000_000>>,
    descriptors_max: Option<Within<1, 1_024>>,
    directory_bytes_max: Option<Within<1, 1_099_511_627_776>>,
    directory_entries_max: Option<Within<1, 100_000>>,
}

/// Where two of them stood before there was a table for them, and may stand still.
#[derive(Debug)]
pub(super) struct Beside {
    pub(super) memory_bytes_max: Option<MemoryBytes>,
    pub(super) call_deadline_ms: Option<CallMs>,
}

impl Resolver<'_> {
    pub(super) fn limits(&mut self, raw: RawLimits, beside: Beside) -> Limits {
        let usual = Limits::default();
        let memory = self.one_of(raw.memory_bytes_max, beside.memory_bytes_max);
        let call = self.one_of(raw.call_deadline_ms, beside.call_deadline_ms);
        let deadline_at = call.as_ref().and_then(|(_, span)| span.clone());
        let call_cpu = milliseconds(call.map(|(ms, _)| ms), usual.call_cpu);
        let cpu_percent = raw
            .cpu_percent
            .map_or(usual.cpu_percent, |percent| percent.0);
        let earned_ms = u128::from(cpu_percent) * CPU_WINDOW.as_millis() / 100;
        if let Some(span) = deadline_at.filter(|_| call_cpu.as_millis() > earned_ms) {
            self.warn(
                span,
                format!(
                    "one call may use more than cpu_percent = {cpu_percent} earns in {} s, which is {earned_ms} ms: \
                     after such a call the plugin is paused for longer",
                    CPU_WINDOW.as_secs()
                ),
            );
        }
        Limits {
            memory_bytes: memory.map_or(usual.memory_bytes, |(bytes, _)| size(bytes.0)),
            table_elements: raw
                .table_elements_max
                .map_or(usual.table_elements, |count| size(count.0)),
            instances: raw
                .instances_max
                .map_or(usual.instances, |count| size(count.0)),
            call_cpu,
            call_wall: usual.call_wall,
            cpu_percent,
            emit_readings_per_s: raw
                .emit_readings_per_s
                .map_or(usual.emit_readings_per_s, |rate| rate.0),
            log_lines_per_s: raw
                .log_lines_per_s
                .map_or(usual.log_lines_per_s, |rate| rate.0),
            stream_bytes_per_s: raw
                .stream_bytes_per_s
                .map_or(usual.stream_bytes_per_s, |rate| rate.0),
            state_bytes: raw
                .state_bytes_max
                .map_or(usual.state_bytes, |bytes| size(bytes.0)),
            state_write_bytes_per_s: raw
                .state_write_bytes_per_s
                .map_or(usual.state_write_bytes_per_s, |rate| rate.0),
            descriptors: raw
                .descriptors_max
                .map_or(usual.descriptors, |count| size(count.0)),
            directory_bytes: raw
                .directory_bytes_max
                .map_or(usual.directory_bytes, |bytes| bytes.0),
            directory_entries: raw
                .directory_entries_max
                .map_or(usual.directory_entries, |count| count.0),
        }
    }

    /// A value that may stand in two places, but not in both.
    fn one_of<T>(
        &mut self,
        inside: Option<Spanned<T>>,
        beside: Option<T>,
    ) -> Option<(T, Option<std::ops::Range<usize>>)> {
        match (inside, beside) {
            (Some(inside), beside) => {
                let span = inside.span();
                if beside.is_some() {
                    self.find(
                        span.clone(),
                        "stands in [[connector]] itself, too: once is enough",
                    );
                }
                Some((inside.into_inner(), Some(span)))
            }
            (None, Some(beside)) => Some((beside, None)),
            (None, None) => None,
        }
    }
}
