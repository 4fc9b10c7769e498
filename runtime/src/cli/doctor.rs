//! `moorline doctor`: the examination as a person reads it, or a script.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use moorline_core::doctor::{Field, Probe, Remedy, Verdict};
use moorline_core::time::rounded_ms;
use serde_json::json;

use super::broker::BrokerChoice;
use super::exit;
use super::run::with_runtime;
use crate::config::{self, Place};
use crate::doctor::{self, Examination, Options};
use crate::link::{EndpointSettings, LinkSettings};
use page::Page;

mod page;

/// What `moorline doctor` takes.
#[derive(Debug, Args)]
pub(super) struct DoctorOptions {
    #[command(flatten)]
    broker: BrokerChoice,
    /// Use the gateway's own client id. A gateway that runs with it is thrown off the broker.
    #[arg(long)]
    as_gateway: bool,
    /// The topic for the doctor's own messages; moorline/doctor/RANDOM otherwise.
    #[arg(long, value_name = "TOPIC", value_parser = topic)]
    topic: Option<String>,
    /// How many seconds to wait for the broker to close a silent client.
    #[arg(long, value_name = "S", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=3600))]
    patience: u64,
    /// Count warnings as what does not fit.
    #[arg(long)]
    strict: bool,
    /// Print one JSON object at the end instead of lines.
    #[arg(long)]
    json: bool,
}

fn topic(text: &str) -> Result<String, &'static str> {
    let fits = (1..=1000).contains(&text.len()) && !text.contains(['+', '#', '\0']);
    if fits && !text.starts_with('$') {
        Ok(text.to_owned())
    } else {
        Err("must be a topic to publish on: no '+' or '#', no '$' in front, at most 1000 bytes")
    }
}

pub(super) fn doctor(options: DoctorOptions) -> ExitCode {
    let broker = &options.broker;
    let settings = match broker.settings() {
        Ok(settings) => settings,
        Err(refused) => return exit::fail(exit::CONFIG, &refused),
    };
    let (number, endpoint) = match broker.chosen(&settings) {
        Ok(chosen) => chosen,
        Err(refused) => return exit::fail(exit::CONFIG, &refused),
    };
    let settings = settings.link;
    let count = settings.endpoints.len();
    let mut places = Places::new(
        broker
            .url
            .is_none()
            .then_some(broker.config.config.as_path()),
    );
    places.endpoint = Some(number);
    if broker.endpoint.is_none() && count > 1 {
        exit::progress(&format!(
            "moorline: this examines {}, the first of {count} brokers; --endpoint 2 examines the next",
            endpoint.name()
        ));
    }
    broker.warn_of_password();
    if options.as_gateway {
        exit::progress(&format!(
            "moorline: as the gateway's own client id {:?}: a gateway that runs with it is thrown off the broker, and comes \
             back as its policy says",
            settings.client_id
        ));
    }
    with_runtime(examine(settings, endpoint, options, places))
}

async fn examine(
    settings: LinkSettings,
    endpoint: EndpointSettings,
    options: DoctorOptions,
    places: Places,
) -> ExitCode {
    let broker = endpoint.url();
    let mut page = Page::new(options.json);
    page.title(&broker, &settings.client_id, options.as_gateway);
    let how = Options {
        as_gateway: options.as_gateway,
        topic: options.topic.clone(),
        patience: Duration::from_secs(options.patience),
    };
    let examination = match doctor::examine(settings, endpoint, how, &mut |progress| {
        page.tell(&progress)
    })
    .await
    {
        Ok(examination) => examination,
        Err(error) => {
            return exit::fail(
                exit::CONFIG,
                &format!("link.url: TLS cannot be set up: {error}"),
            );
        }
    };
    if options.json {
        exit::print(&as_json(&broker, &examination, &places));
    } else {
        page.summary(&examination, &places);
    }
    let bar = if options.strict {
        Verdict::Warns
    } else {
        Verdict::Fails
    };
    let misfit = |verdict: Verdict| verdict != Verdict::NotTried && verdict >= bar;
    if examination
        .findings
        .iter()
        .any(|(finding, _)| misfit(finding.verdict))
    {
        ExitCode::from(exit::UNAVAILABLE)
    } else {
        ExitCode::SUCCESS
    }
}

/// Where the fields of the configuration are.
struct Places {
    file: Option<(PathBuf, String)>,
    /// The broker's number among several, from zero.
    endpoint: Option<usize>,
}

impl Places {
    fn new(file: Option<&Path>) -> Self {
        // It was just read; gone since, it has no lines.
        let text = |file: &Path| std::fs::read_to_string(file).unwrap_or_default();
        Self {
            file: file.map(|file| (file.to_owned(), text(file))),
            endpoint: None,
        }
    }

    fn of(&self, field: Field) -> Option<(&Path, Place)> {
        let (file, text) = self.file.as_ref()?;
        let (table, key) = field.path();
        // What one of several brokers has of its own stands with it.
        let own = self.endpoint.and_then(|number| {
            let table = match field {
                Field::Url | Field::MqttVersion => format!("link.endpoint.{number}"),
                Field::CaFile | Field::ClientCertFile | Field::ServerName => {
                    format!("link.endpoint.{number}.tls")
                }
                Field::ClientId
                | Field::Username
                | Field::Password
                | Field::KeepAliveS
                | Field::ConnectTimeoutMs
                | Field::InflightMax
                | Field::PacketBytesMax
                | Field::Proxy => return None,
            };
            match config::locate(text, &table, key) {
                Place::Nowhere => None,
                place @ (Place::Line(_) | Place::Table(_)) => Some(place),
            }
        });
        let place = own.unwrap_or_else(|| config::locate(text, table, key));
        Some((file, place))
    }

    /// The line to change, as an order.
    fn order(&self, remedy: &Remedy) -> String {
        let (table, key) = remedy.field.path();
        let setting = match &remedy.value {
            Some(value) => format!("{key} = {value}"),
            None => key.to_owned(),
        };
        match self.of(remedy.field) {
            None => match &remedy.value {
                Some(_) => format!("[{table}] {setting}"),
                None => format!("{table}.{key}"),
            },
            Some((file, Place::Line(line))) => match &remedy.value {
                Some(_) => format!("{}:{line}: change to {setting}", file.display()),
                None => format!("{}:{line}: {table}.{key}", file.display()),
            },
            Some((file, Place::Table(line))) => {
                format!("{}:{line}: {setting} goes under [{table}]", file.display())
            }
            Some((file, Place::Nowhere)) => {
                format!(
                    "{}: [{table}] with {setting} goes at the end",
                    file.display()
                )
            }
        }
    }
}

fn as_json(broker: &str, examination: &Examination, places: &Places) -> serde_json::Value {
    let findings: Vec<_> = examination
        .findings
        .iter()
        .map(|(finding, took)| {
            let mut evidence: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for (name, value) in &finding.evidence {
                evidence.entry(name).or_default().push(value);
            }
            json!({
                "probe": finding.probe.name(),
                "verdict": finding.verdict.name(),
                "took_ms": took.map(rounded_ms),
                "seen": finding.seen,
                "evidence": evidence,
                "remedy": finding.remedy.as_ref().map(|remedy| remedy_json(remedy, places)),
            })
        })
        .collect();
    let worst = |verdict: Verdict| {
        let mut findings = examination.findings.iter();
        findings.any(|(finding, _)| finding.verdict == verdict)
    };
    let verdict = if worst(Verdict::Fails) {
        Verdict::Fails
    } else if worst(Verdict::Warns) {
        Verdict::Warns
    } else {
        Verdict::Fits
    };
    json!({
        "broker": broker,
        "client_id": examination.client_id,
        "topic": examination.topic,
        "verdict": verdict.name(),
        "probes": Probe::ALL.len(),
        "findings": findings,
    })
}

fn remedy_json(remedy: &Remedy, places: &Places) -> serde_json::Value {
    let (table, key) = remedy.field.path();
    let place = places.of(remedy.field);
    let line = place.as_ref().and_then(|(_, place)| match place {
        Place::Line(line) | Place::Table(line) => Some(*line),
        Place::Nowhere => None,
    });
    json!({
        "field": format!("{table}.{key}"),
        "value": remedy.value,
        "file": place.as_ref().map(|(file, _)| file),
        "line": line,
        "is_set": matches!(place, Some((_, Place::Line(_)))),
        "what": remedy.words,
    })
}
