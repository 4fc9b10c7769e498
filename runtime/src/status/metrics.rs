//! The status as metrics: a page in the Prometheus text format 0.0.4, for the textfile collector of node_exporter or any
//! agent that reads files. A file like the status, and for the same reasons: nothing to secure, nothing to hang.
//!
//! Counters count from the start of the process, those of the spool from the making of the spool.

use std::fmt::{self, Display, Write as _};

use super::{CanarySection, Status};

/// The page.
pub(super) fn page(status: &Status) -> String {
    let mut page = Page(String::new());
    // Writing into a string cannot fail.
    page.write(status).unwrap_or_default();
    page.0
}

struct Page(String);

impl Page {
    fn write(&mut self, status: &Status) -> fmt::Result {
        self.gauge(
            "start_time_seconds",
            "When the process started, since the Unix epoch.",
            status.started_at_ms as f64 / 1e3,
        )?;
        if !status.alarms.is_empty() {
            self.head("alarm", "What a person must see to.", "gauge")?;
            for alarm in &status.alarms {
                self.sample("alarm", &[("name", &alarm.name)], &1)?;
            }
        }
        self.link(status)?;
        self.spool(status)?;
        self.wear(status)?;
        self.inbox(status)?;
        self.policy(status)?;
        self.connectors(status)
    }

    fn link(&mut self, status: &Status) -> fmt::Result {
        let link = &status.link;
        let is = |state: &str| u8::from(link.state == state);
        self.gauge("link_up", "Whether a session is up.", is("up"))?;
        self.gauge(
            "link_parked",
            "Whether the link waits for an operator.",
            is("parked"),
        )?;
        if let Some(end_ms) = link.certificate_end_ms {
            self.gauge(
                "link_certificate_end_seconds",
                "When the broker's certificates end.",
                end_ms / 1000,
            )?;
        }
        for (name, help, value) in [
            (
                "link_keep_alive_seconds",
                "The keep-alive in force.",
                link.keep_alive_s.map(|seconds| seconds as f64),
            ),
            (
                "link_answer_seconds",
                "How long the broker takes to answer, smoothed.",
                link.answer_ms.map(|ms| ms / 1e3),
            ),
            (
                "link_answer_jitter_seconds",
                "How much single answers stray from that, smoothed.",
                link.jitter_ms.map(|ms| ms / 1e3),
            ),
        ] {
            if let Some(value) = value {
                self.gauge(name, help, value)?;
            }
        }
        self.held(link.held_by.is_some())?;
        if let Some(canary) = &link.canary {
            self.canary(canary)?;
        }
        self.counter(
            "link_sessions_total",
            "Sessions the broker accepted.",
            link.sessions,
        )?;
        self.head(
            "link_disconnects_total",
            "Ended sessions and failed attempts.",
            "counter",
        )?;
        for (cause, count) in &link.disconnects_by_cause {
            self.sample("link_disconnects_total", &[("cause", cause)], count)?;
        }
        self.counter(
            "link_dead_letters_total",
            "Publishes that were set aside.",
            link.dead_lettered,
        )?;
        self.counter(
            "link_duplicates_possible_total",
            "Publishes that were in flight when a session ended.",
            link.duplicates_possible,
        )?;
        self.counter(
            "link_downlinks_dropped_total",
            "Messages from the platform that were not understood or not kept.",
            link.downlinks_dropped,
        )
    }

    fn held(&mut self, is_held: bool) -> fmt::Result {
        self.gauge(
            "link_held",
            "Whether a limit of the platform holds the next publish back.",
            u8::from(is_held),
        )
    }

    fn canary(&mut self, canary: &CanarySection) -> fmt::Result {
        self.counter(
            "link_canaries_back_total",
            "Canaries that came back.",
            canary.back,
        )?;
        self.counter(
            "link_canaries_lost_total",
            "Canaries that did not come back in time.",
            canary.lost,
        )?;
        match canary.round_trip_ms {
            Some(ms) => self.gauge(
                "link_canary_round_trip_seconds",
                "How long the last canary took.",
                ms / 1e3,
            ),
            None => Ok(()),
        }
    }

    fn spool(&mut self, status: &Status) -> fmt::Result {
        let spool = &status.spool;
        for (name, help, count) in [
            (
                "spool_accepted_readings_total",
                "Readings accepted.",
                spool.accepted_readings,
            ),
            (
                "spool_delivered_readings_total",
                "Readings the broker acknowledged.",
                spool.delivered_readings,
            ),
            (
                "spool_evicted_readings_total",
                "Readings dropped because the spool was full.",
                spool.evicted_readings,
            ),
            (
                "spool_damaged_readings_total",
                "Readings the disk gave back damaged.",
                spool.damaged_readings,
            ),
            (
                "spool_dead_lettered_readings_total",
                "Readings that were set aside.",
                spool.dead_lettered_readings,
            ),
        ] {
            self.counter(name, help, count)?;
        }
        self.gauge(
            "spool_waiting_readings",
            "Readings that wait.",
            spool.depth_readings,
        )?;
        self.gauge("spool_bytes", "Bytes on disk.", spool.bytes)?;
        self.gauge(
            "spool_faulty",
            "Whether nothing can be written now.",
            u8::from(spool.fault.is_some()),
        )
    }

    fn wear(&mut self, status: &Status) -> fmt::Result {
        let wear = &status.wear;
        for (name, help, bytes) in [
            (
                "wear_last_day_bytes",
                "Bytes written to the medium of the state directory in the last 24 hours.",
                Some(wear.bytes_last_day),
            ),
            (
                "wear_projected_day_bytes",
                "What a day comes to at the present rate.",
                wear.projected_bytes_per_day,
            ),
            (
                "wear_budget_day_bytes",
                "What a day may come to.",
                wear.budget_bytes_per_day,
            ),
            (
                "wear_own_last_day_bytes",
                "Bytes this process dirtied on storage in the last 24 hours, in whole pages.",
                Some(wear.own_bytes_last_day),
            ),
        ] {
            if let Some(bytes) = bytes {
                self.gauge(name, help, bytes)?;
            }
        }
        Ok(())
    }

    fn inbox(&mut self, status: &Status) -> fmt::Result {
        let inbox = &status.inbox;
        for (name, help, count) in [
            (
                "inbox_arrived_total",
                "Messages from the platform.",
                inbox.arrived,
            ),
            (
                "inbox_duplicates_total",
                "Redeliveries of requests that were here before.",
                inbox.duplicates,
            ),
            (
                "inbox_rpcs_expired_total",
                "Requests that expired before a connector had them.",
                inbox.rpcs_expired,
            ),
            (
                "inbox_dropped_total",
                "Updates of shared attributes that no connector took.",
                inbox.dropped,
            ),
        ] {
            self.counter(name, help, count)?;
        }
        self.gauge(
            "inbox_waiting",
            "Messages that are not handled yet.",
            inbox.waiting,
        )?;
        self.gauge(
            "inbox_faulty",
            "Whether the disk refuses to keep them.",
            u8::from(inbox.in_memory),
        )
    }

    fn policy(&mut self, status: &Status) -> fmt::Result {
        self.counter(
            "policy_faults_total",
            "Times the built-in policy stood in.",
            status.link.policy_faults,
        )?;
        self.counter(
            "policy_clamped_total",
            "Times a policy's answer was clamped.",
            status.link.policy_clamped,
        )
    }

    fn connectors(&mut self, status: &Status) -> fmt::Result {
        type Figure = fn(&super::ConnectorEntry) -> u64;
        let figures: [(&str, &str, &str, Figure); 8] = [
            (
                "connector_serving",
                "Whether every instance serves.",
                "gauge",
                |connector| u64::from(connector.state == "serving"),
            ),
            (
                "connector_readings_total",
                "Readings accepted from it.",
                "counter",
                |connector| connector.readings,
            ),
            (
                "connector_suppressed_readings_total",
                "Readings its report strategies suppressed.",
                "counter",
                |connector| connector.suppressed_readings,
            ),
            (
                "connector_unfiltered_readings_total",
                "Readings its report strategies had no room to judge.",
                "counter",
                |connector| connector.unfiltered_readings,
            ),
            (
                "connector_traps_total",
                "Traps and missed deadlines.",
                "counter",
                |connector| connector.traps,
            ),
            (
                "connector_back_pressure_total",
                "Batches the spool turned back for now.",
                "counter",
                |connector| connector.back_pressure,
            ),
            (
                "connector_memory_bytes",
                "Bytes of its instances' linear memories.",
                "gauge",
                |connector| connector.memory_bytes,
            ),
            (
                "connector_cpu_ms_total",
                "CPU time of its guests.",
                "counter",
                |connector| connector.cpu_ms,
            ),
        ];
        for (name, help, kind, figure) in figures {
            self.head(name, help, kind)?;
            for connector in &status.connectors {
                self.sample(name, &[("connector", &connector.name)], &figure(connector))?;
            }
        }
        let name = "connector_limit_exceeded_total";
        self.head(name, "How often it exceeded a limit.", "counter")?;
        for connector in &status.connectors {
            for limit in &connector.limits {
                let labels = [("connector", &*connector.name), ("limit", &*limit.key)];
                self.sample(name, &labels, &limit.exceeded)?;
            }
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) -> fmt::Result {
        self.head(name, help, "gauge")?;
        self.sample(name, &[], &value)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.head(name, help, "counter")?;
        self.sample(name, &[], &value)
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) -> fmt::Result {
        writeln!(
            self.0,
            "# HELP moorline_{name} {help}\n# TYPE moorline_{name} {kind}"
        )
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: &dyn Display) -> fmt::Result {
        write!(self.0, "moorline_{name}")?;
        for (index, (label, text)) in labels.iter().enumerate() {
            let opening = if index == 0 { '{' } else { ',' };
            let escaped = text
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            write!(self.0, "{opening}{label}=\"{escaped}\"")?;
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        writeln!(self.0, " {value}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::ConnectorEntry;

    #[test]
    fn a_page_has_each_figure_once_with_its_kind() {
        let mut status = Status {
            started_at_ms: 1_500,
            ..Status::default()
        };
        status.link.state = "up".to_owned();
        status.link.certificate_end_ms = Some(2_208_988_800_000);
        status.link.keep_alive_s = Some(30);
        status.link.held_by = Some("60 in 60 s: telemetry messages".to_owned());
        status.link.answer_ms = Some(12.5);
        status.link.canary = Some(CanarySection {
            back: 7,
            lost: 1,
            round_trip_ms: Some(2.0),
            back_at_ms: Some(1),
        });
        status.link.disconnects_by_cause = [("reset".to_owned(), 2)].into();
        status.wear.bytes_last_day = 9;
        status.wear.budget_bytes_per_day = Some(10);
        status.connectors = vec![ConnectorEntry {
            name: "line \"7\"".to_owned(),
            readings: 3,
            suppressed_readings: 97,
            ..ConnectorEntry::default()
        }];
        let page = page(&status);
        for line in [
            "moorline_start_time_seconds 1.5",
            "# TYPE moorline_link_up gauge",
            "moorline_link_up 1",
            "moorline_link_parked 0",
            "moorline_link_held 1",
            "moorline_link_certificate_end_seconds 2208988800",
            "moorline_link_keep_alive_seconds 30",
            "moorline_link_answer_seconds 0.0125",
            "moorline_link_canaries_back_total 7",
            "moorline_link_canaries_lost_total 1",
            "moorline_link_canary_round_trip_seconds 0.002",
            "# TYPE moorline_link_disconnects_total counter",
            "moorline_link_disconnects_total{cause=\"reset\"} 2",
            "moorline_wear_last_day_bytes 9",
            "moorline_wear_budget_day_bytes 10",
            "moorline_connector_readings_total{connector=\"line \\\"7\\\"\"} 3",
            "moorline_connector_suppressed_readings_total{connector=\"line \\\"7\\\"\"} 97",
        ] {
            assert_eq!(
                page.lines().filter(|found| *found == line).count(),
                1,
                "{line} in\n{page}"
            );
        }
        let mut heads: Vec<_> = page.lines().filter(|l| l.starts_with("# TYPE")).collect();
        let all = heads.len();
        heads.sort_unstable();
        heads.dedup();
        assert_eq!(heads.len(), all, "no name has two heads");
    }
}
