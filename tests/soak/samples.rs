//! What is looked at every second.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use moorline::demo::audit::Audit;
use moorline_tests::rig::Running;

/// The first part of a run fills caches and pools: it does not count for the line through the memory.
const WARM_UP: f64 = 0.2;

/// One second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Since the start.
    pub(crate) at: Duration,
    /// Resident memory of the gateway.
    pub(crate) rss_kib: u64,
    /// Readings waiting in the spool.
    pub(crate) depth: u64,
    /// Accepted since the gateway started.
    pub(crate) accepted: u64,
    /// Different readings at the subscriber.
    pub(crate) delivered: u64,
    /// Bytes of the spool's files.
    pub(crate) spool_bytes: u64,
    /// CPU time of the gateway since it started.
    pub(crate) cpu_ms: u64,
}

impl Sample {
    pub(crate) fn take(at: Duration, running: &Running, audit: &Audit) -> io::Result<Self> {
        let gone = || io::Error::other("the gateway is gone");
        let pid = running.gateway.pid().ok_or_else(gone)?;
        let now = running.history().now;
        Ok(Self {
            at,
            rss_kib: rss_kib(pid)?,
            depth: now.spool.depth_readings,
            accepted: now.spool.accepted_readings,
            delivered: audit.totals().borrow().delivered,
            spool_bytes: now.spool.bytes,
            cpu_ms: cpu_ms(pid)?,
        })
    }
}

fn rss_kib(pid: u32) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.ok_or_else(|| io::Error::other("no VmRSS"))
}

/// User and system time, in hundredths of a second as the kernel counts them.
fn cpu_ms(pid: u32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(") ").map_or("", |(_name, fields)| fields);
    let ticks: u64 = fields
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Ok(ticks * 10)
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    seconds: Vec<Sample>,
    faults: Vec<(Duration, &'static str)>,
}

impl Samples {
    pub(crate) fn push(&mut self, sample: Sample) {
        self.seconds.push(sample);
    }

    pub(crate) fn struck(&mut self, at: Duration, fault: &'static str) {
        self.faults.push((at, fault));
    }

    pub(crate) fn faults(&self) -> &[(Duration, &'static str)] {
        &self.faults
    }

    pub(crate) fn faults_by_name(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for (_at, fault) in &self.faults {
            *counts.entry(*fault).or_default() += 1;
        }
        counts
    }

    /// A figure of each second.
    pub(crate) fn series(&self, figure: impl Fn(&Sample) -> f64) -> Vec<(f64, f64)> {
        self.seconds
            .iter()
            .map(|sample| (sample.at.as_secs_f64(), figure(sample)))
            .collect()
    }

    /// What a counter gained, per second.
    pub(crate) fn rates(&self, counter: impl Fn(&Sample) -> u64) -> Vec<(f64, f64)> {
        self.seconds
            .windows(2)
            .filter_map(|pair| {
                let [before, after] = pair else { return None };
                let gained = counter(after).saturating_sub(counter(before)) as f64;
                let seconds = (after.at - before.at).as_secs_f64().max(0.001);
                Some((after.at.as_secs_f64(), gained / seconds))
            })
            .collect()
    }

    pub(crate) fn csv(&self) -> String {
        let mut csv = "second,rss_kib,depth_readings,accepted,delivered,spool_bytes,cpu_ms,fault\n"
            .to_owned();
        let mut faults = self.faults.iter().peekable();
        for sample in &self.seconds {
            let fault = faults.next_if(|(at, _)| *at <= sample.at);
            // Writing into a string cannot fail.
            writeln!(
                csv,
                "{:.1},{},{},{},{},{},{},{}",
                sample.at.as_secs_f64(),
                sample.rss_kib,
                sample.depth,
                sample.accepted,
                sample.delivered,
                sample.spool_bytes,
                sample.cpu_ms,
                fault.map_or("", |(_, name)| name)
            )
            .unwrap_or_default();
        }
        csv
    }

    pub(crate) fn rss_max(&self) -> f64 {
        let most = self.seconds.iter().map(|sample| sample.rss_kib).max();
        most.unwrap_or(0) as f64
    }

    pub(crate) fn depth_max(&self) -> u64 {
        let depths = self.seconds.iter().map(|sample| sample.depth);
        depths.max().unwrap_or(0)
    }

    pub(crate) fn accepted_per_s(&self) -> f64 {
        match (self.seconds.first(), self.seconds.last()) {
            (Some(first), Some(last)) if last.at > first.at => {
                (last.accepted - first.accepted) as f64 / (last.at - first.at).as_secs_f64()
            }
            _ => 0.0,
        }
    }

    /// The median of the memory in KiB, and by how much the line fitted through it (least squares) rises over the run.
    pub(crate) fn rss_growth(&self) -> (f64, f64) {
        let from = (self.seconds.len() as f64 * WARM_UP) as usize;
        let points: Vec<(f64, f64)> = self
            .series(|sample| sample.rss_kib as f64)
            .split_off(from.min(self.seconds.len()));
        if points.len() < 2 {
            return (0.0, 0.0);
        }
        let count = points.len() as f64;
        let (mean_x, mean_y) = (
            points.iter().map(|(x, _)| x).sum::<f64>() / count,
            points.iter().map(|(_, y)| y).sum::<f64>() / count,
        );
        let covariance: f64 = points
            .iter()
            .map(|(x, y)| (x - mean_x) * (y - mean_y))
            .sum();
        let variance: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
        let length = points[points.len() - 1].0 - points[0].0;
        let mut values: Vec<f64> = points.iter().map(|(_, y)| *y).collect();
        values.sort_by(f64::total_cmp);
        (
            values[values.len() / 2],
            covariance / variance.max(f64::EPSILON) * length,
        )
    }
}
