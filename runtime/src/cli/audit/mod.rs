//! `moorline audit`.

use std::hash::{BuildHasher as _, RandomState};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::broker::BrokerChoice;
use super::run::with_runtime;
use super::{exit, glob};
use crate::audit::accounts::{Accounts, DeviceReport, Sums};
use crate::audit::{self, Heard, TELEMETRY_TOPIC, Terms, telemetry};
use crate::clock::Clock;
use crate::link::probe::Prober;
use crate::shutdown::{Asked, Signals};
use page::Page;

mod page;

/// The broker keeps the session so long while the audit is away from it.
const SESSION_EXPIRY: Duration = Duration::from_secs(3_600);
/// Between attempts to connect.
const RETRY: Duration = Duration::from_secs(1);
const REFRESH: Duration = Duration::from_millis(250);
/// A subscription that does not stand by then never will, as far as a script can wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `moorline audit` takes.
#[derive(Debug, Args)]
pub(super) struct AuditOptions {
    #[command(flatten)]
    broker: BrokerChoice,
    /// The key that counts up by one with each reading of a device.
    #[arg(long, value_name = "KEY", default_value = "seq")]
    key: String,
    /// Where telemetry is published.
    #[arg(long, value_name = "FILTER", default_value = TELEMETRY_TOPIC)]
    topic: String,
    /// Only devices whose name matches, with * and ?.
    #[arg(long, value_name = "GLOB")]
    device: Option<String>,
    /// End after so many seconds.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// End when no reading came for so many seconds.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    until_idle_s: Option<u64>,
    /// Fewer different readings than this are as bad as a hole.
    #[arg(long, value_name = "N")]
    expect: Option<u64>,
    /// Print one JSON object at the end instead of lines.
    #[arg(long)]
    json: bool,
    /// Write the JSON object to this file, too.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// The bottom line, as JSON.
#[derive(Debug, Serialize)]
struct Report {
    /// Nothing is missing, something came, and as much as was expected.
    complete: bool,
    broker: String,
    client_id: String,
    topic: String,
    key: String,
    seconds: f64,
    #[serde(flatten)]
    sums: Sums,
    expected: Option<u64>,
    /// Messages heard.
    publishes: u64,
    /// Messages that are no telemetry.
    malformed: u64,
    /// Readings whose value is no serial number although their key is the one that counts.
    no_serial: u64,
    /// Readings of devices beyond those that are followed.
    not_followed: u64,
    /// Readings that were measured later than they arrived: one of the clocks is wrong.
    from_the_future: u64,
    connection: Connection,
    by_device: Vec<DeviceReport>,
}

/// The audit's own way to the broker.
#[derive(Clone, Debug, Default, Serialize)]
struct Connection {
    /// Times the subscription stood.
    subscribed: u64,
    /// Connections that ended, and attempts that failed.
    lost: u64,
    /// Times the broker did not keep the session: what was sent meanwhile is missing here and may be nowhere else.
    sessions_forgotten: u64,
    /// The code the broker refused the subscription with.
    refused: Option<u8>,
    /// Why the last connection ended or could not be made.
    last_failure: Option<String>,
    #[serde(skip)]
    stands: bool,
}

pub(super) fn audit(options: AuditOptions) -> ExitCode {
    let settings = match options.broker.settings() {
        Ok(settings) => settings,
        Err(refused) => return exit::fail(exit::CONFIG, &refused),
    };
    let endpoint = match options.broker.chosen(&settings) {
        Ok((_number, endpoint)) => endpoint,
        Err(refused) => return exit::fail(exit::CONFIG, &refused),
    };
    options.broker.warn_of_password();
    let random = RandomState::new().hash_one(std::process::id()) >> 32;
    let terms = Terms {
        client_id: format!("{}-audit-{random:08x}", settings.link.client_id),
        filter: options.topic.clone(),
        session_expiry: SESSION_EXPIRY,
        retry: RETRY,
    };
    let broker = endpoint.url();
    let clock = Clock::start();
    let prober = match Prober::new(settings.link, endpoint, clock) {
        Ok(prober) => prober,
        Err(error) => {
            return exit::fail(
                exit::CONFIG,
                &format!("link.url: TLS cannot be set up: {error}"),
            );
        }
    };
    with_runtime(async {
        let signals = match Signals::listen() {
            Ok(signals) => signals,
            Err(error) => {
                return exit::fail(exit::OS, &format!("signals cannot be received: {error}"));
            }
        };
        let mut auditor = Auditor::new(options, broker, terms.client_id.clone(), clock);
        let (heard, listener) = audit::listen(prober, terms);
        auditor.run(heard, signals).await;
        // It has the broker forget the session.
        listener.await.unwrap_or_default();
        auditor.conclude()
    })
}

struct Auditor {
    options: AuditOptions,
    broker: String,
    client_id: String,
    clock: Clock,
    accounts: Accounts,
    connection: Connection,
    publishes: u64,
    malformed: u64,
    started: Instant,
    /// When the last followed reading came, or the subscription first stood.
    last: Option<Instant>,
    page: Page,
}

impl Auditor {
    fn new(options: AuditOptions, broker: String, client_id: String, clock: Clock) -> Self {
        let page = Page::new(options.json);
        Self {
            options,
            broker,
            client_id,
            clock,
            accounts: Accounts::default(),
            connection: Connection::default(),
            publishes: 0,
            malformed: 0,
            started: Instant::now(),
            last: None,
            page,
        }
    }

    /// Until it is time to end.
    async fn run(&mut self, mut heard: mpsc::Receiver<Heard>, mut signals: Signals) {
        self.page
            .title(&self.broker, &self.client_id, &self.options);
        let mut tick = tokio::time::interval(REFRESH);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = heard.recv() => match event {
                    Some(event) => self.hear(event),
                    None => return,
                },
                _at = tick.tick() => {
                    self.page.refresh(&self.accounts.sums(), self.connection.stands);
                    if self.is_time() {
                        return;
                    }
                }
                asked = signals.next() => match asked {
                    Asked::Stop(_name) => return,
                    Asked::Reload => {}
                },
            }
        }
    }

    fn is_time(&self) -> bool {
        let after = |since: Instant, seconds: Option<u64>| {
            seconds.is_some_and(|seconds| since.elapsed() >= Duration::from_secs(seconds))
        };
        let hopeless = self.connection.subscribed == 0
            && (self.options.seconds.is_some() || self.options.until_idle_s.is_some())
            && self.started.elapsed() >= PATIENCE;
        let idle = self
            .last
            .is_some_and(|last| after(last, self.options.until_idle_s));
        hopeless
            || self.connection.refused.is_some()
            || idle
            || after(self.started, self.options.seconds)
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Subscribed { forgotten } => {
                self.connection.subscribed += 1;
                self.connection.sessions_forgotten += u64::from(forgotten);
                self.connection.stands = true;
                self.last = Some(Instant::now());
                self.page.subscribed(self.connection.subscribed, forgotten);
            }
            Heard::Refused(code) => self.connection.refused = Some(code),
            Heard::Down(why) => {
                let why = why.to_string();
                self.connection.lost += 1;
                self.connection.stands = false;
                if self.connection.last_failure.as_ref() != Some(&why) {
                    self.page.lost(&why);
                }
                self.connection.last_failure = Some(why);
            }
            Heard::Message(payload) => self.read(&payload),
        }
    }

    fn read(&mut self, payload: &[u8]) {
        self.publishes += 1;
        let Ok(readings) = telemetry::parse(payload) else {
            self.malformed += 1;
            return;
        };
        let now_ms = self.clock.wall().0;
        for reading in readings.iter() {
            let device = self.options.device.as_deref();
            let wanted = reading.key == self.options.key
                && device.is_none_or(|pattern| glob::matches(pattern, reading.device));
            if wanted {
                self.last = Some(Instant::now());
                self.accounts.book(&reading, now_ms);
            }
        }
    }

    fn report(&self) -> Report {
        let sums = self.accounts.sums();
        let expected = self.options.expect;
        Report {
            complete: sums.missing == 0
                && sums.delivered > 0
                && expected.is_none_or(|expected| sums.delivered >= expected),
            broker: self.broker.clone(),
            client_id: self.client_id.clone(),
            topic: self.options.topic.clone(),
            key: self.options.key.clone(),
            seconds: self.started.elapsed().as_secs_f64(),
            sums,
            expected,
            publishes: self.publishes,
            malformed: self.malformed,
            no_serial: self.accounts.no_serial,
            not_followed: self.accounts.not_followed,
            from_the_future: self.accounts.from_the_future,
            connection: self.connection.clone(),
            by_device: self.accounts.reports().collect(),
        }
    }

    fn conclude(&mut self) -> ExitCode {
        let report = self.report();
        if let Some(file) = &self.options.report {
            let written = serde_json::to_vec_pretty(&report)
                .map_err(std::io::Error::other)
                .and_then(|json| std::fs::write(file, json));
            if let Err(error) = written {
                let refused = format!("{} cannot be written: {error}", file.display());
                return exit::fail(exit::OS, &refused);
            }
        }
        if self.options.json {
            exit::print(&serde_json::json!(report));
        } else {
            self.page.conclude(&report);
        }
        if report.connection.subscribed == 0 {
            return exit::fail(exit::UNAVAILABLE, &unsubscribed(&report.connection));
        }
        if report.complete {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(exit::DATA)
        }
    }
}

fn unsubscribed(connection: &Connection) -> String {
    match (&connection.refused, &connection.last_failure) {
        (Some(code), _) => format!(
            "the broker refuses the subscription with QoS 1 (0x{code:02x}); give this user the right to read the topic, or \
             name another with --topic"
        ),
        (None, Some(why)) => {
            format!("no subscription: {why}; moorline doctor examines this broker")
        }
        (None, None) => "the audit ended before its subscription stood".to_owned(),
    }
}
