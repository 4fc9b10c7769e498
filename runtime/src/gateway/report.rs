//! Tells the platform, once the link is back, why it was away.
//!
//! One message per outage, through the spool like any other: it waits its turn and survives what readings survive. The
//! journal holds every attempt; the platform gets the loss, the last failure, and how long it took.

use moorline_core::link::cause::Certainty;
use moorline_core::message::{Key, Uplink, Value};
use tokio::sync::watch;
use tracing::debug;

use crate::link::{DisconnectRecord, LinkStatus, UpRecord};
use crate::spool::{AppendRefused, Appender};

/// Times a full spool is asked. The next outage will be told again, and the journal has this one.
const TRIES: usize = 20;

/// Runs until the link or the spool is gone.
pub(super) async fn run(mut link: watch::Receiver<LinkStatus>, appender: Appender) {
    let mut told = Told::default();
    loop {
        let report = told.report(&link.borrow_and_update());
        if let Some(report) = report
            && !append(&appender, report).await
        {
            return;
        }
        if link.changed().await.is_err() {
            return;
        }
    }
}

/// False when the spool is gone.
async fn append(appender: &Appender, report: Uplink) -> bool {
    for _ in 0..TRIES {
        match appender.append(report.clone()).await {
            Ok(_sequence) => return true,
            Err(AppendRefused::Behind { retry_after }) => tokio::time::sleep(retry_after).await,
            Err(AppendRefused::Closed) => return false,
            Err(refused) => {
                debug!(%refused, "the platform will not hear of an outage");
                return true;
            }
        }
    }
    true
}

/// What the platform knows already.
#[derive(Debug, Default)]
struct Told {
    disconnect: u64,
    session: u64,
}

impl Told {
    /// The outage that ended with the present session, unless it is told.
    fn report(&mut self, link: &LinkStatus) -> Option<Uplink> {
        let up = link
            .last_up
            .as_deref()
            .filter(|up| up.session > self.session)?;
        self.session = up.session;
        let mut outage = link
            .disconnects
            .iter()
            .filter(|record| record.id > self.disconnect && record.record.at <= up.since);
        let first = outage.next()?;
        let last = outage.next_back().unwrap_or(first);
        self.disconnect = last.id;
        Some(uplink(first, last, up))
    }
}

fn uplink(first: &DisconnectRecord, last: &DisconnectRecord, up: &UpRecord) -> Uplink {
    let disconnect = &first.record.disconnect;
    let mut values = vec![
        value("link_cause", text(disconnect.cause.name())),
        value("link_fault", text(disconnect.cause.fault().name())),
        value(
            "link_certain",
            Value::Boolean(disconnect.certainty == Certainty::Certain),
        ),
        value("link_text", text(&first.text)),
        value("link_down_s", Value::Double(up.down.as_secs_f64())),
        value(
            "link_attempts",
            Value::Integer(i64::try_from(up.attempts).unwrap_or(i64::MAX)),
        ),
    ];
    if let Some(code) = disconnect.evidence.reason_code {
        values.push(value("link_reason_code", Value::Integer(code.into())));
    }
    if let Some(errno) = disconnect.evidence.errno {
        values.push(value("link_errno", Value::Integer(errno.into())));
    }
    if let Some(client_id) = &disconnect.evidence.client_id {
        values.push(value("link_duplicate_client_id", text(client_id)));
    }
    if last.id != first.id {
        let cause = last.record.disconnect.cause;
        values.push(value("link_last_failure", text(cause.name())));
    }
    Uplink::Gateway {
        timestamp: first.at,
        values: values.into_iter().flatten().collect(),
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn value(key: &str, value: Value) -> Option<(Key, Value)> {
    Key::try_new(key).ok().map(|key| (key, value))
}
