//! Tells the platform what serves: one client-side attribute of the gateway for each component.
//!
//! ```text
//!  v1/devices/me/attributes  {"connector_modbus":{"name":"modbus-tcp","version":"0.2.0","digest":"…","generation":3,
//!                             "signed_by":"plant","key":"8E57A10B6BE239CC"},"policy":{…}}
//! ```
//!
//! Through the spool like any other message. What has been told is told again only when it changes, and when the platform
//! may lack it: something in the spool was lost, or the session is with another broker than the one that was told.

use std::collections::BTreeMap;
use std::sync::Arc;

use moorline_core::message::{Key, Uplink, Value};
use moorline_core::trust::Origin;
use serde_json::json;
use tokio::sync::watch;

use crate::link::LinkStatus;
use crate::plugins::{ComponentStatus, PluginsStatus};
use crate::spool::{AppendRefused, Appender};

/// Attributes in one message: a hundred connectors at a start are a few messages and none too large.
const ATTRIBUTES_MAX: usize = 50;

/// Runs until the plugins, the link or the spool are gone.
pub(super) async fn run(
    mut plugins: watch::Receiver<PluginsStatus>,
    mut link: watch::Receiver<LinkStatus>,
    mut gaps: watch::Receiver<u64>,
    appender: Appender,
) {
    let mut told = Told::default();
    loop {
        let now = attributes(&plugins.borrow_and_update());
        for message in told.news(now) {
            if !append(&appender, message).await {
                return;
            }
        }
        let ended = tokio::select! {
            changed = plugins.changed() => changed.is_err(),
            changed = link.changed() => {
                let link = link.borrow_and_update();
                if link.is_up() {
                    told.session(&link.endpoint);
                }
                changed.is_err()
            }
            changed = gaps.changed() => {
                told.forget();
                changed.is_err()
            }
        };
        if ended {
            return;
        }
    }
}

/// Waits until the spool has it. False when the spool is gone.
async fn append(appender: &Appender, message: Uplink) -> bool {
    loop {
        match appender.append(message.clone()).await {
            Ok(_sequence) => return true,
            Err(AppendRefused::Behind { retry_after }) => tokio::time::sleep(retry_after).await,
            Err(AppendRefused::Closed) => return false,
            Err(refused) => {
                tracing::warn!(%refused, "the platform will not hear what plugins serve");
                return true;
            }
        }
    }
}

type Attributes = BTreeMap<Key, String>;

/// What the platform knows already.
#[derive(Debug, Default)]
struct Told {
    attributes: Attributes,
    /// The broker it was told through.
    broker: Option<Arc<str>>,
}

impl Told {
    /// A session with another broker is with another platform, for all we know.
    fn session(&mut self, broker: &Arc<str>) {
        let before = self.broker.replace(broker.clone());
        if before.is_some_and(|before| before != *broker) {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.attributes.clear();
    }

    /// What is new, in messages.
    fn news(&mut self, now: Attributes) -> Vec<Uplink> {
        let news: Vec<_> = now
            .iter()
            .filter(|(key, value)| self.attributes.get(*key) != Some(*value))
            .map(|(key, value)| (key.clone(), Value::Json(value.clone())))
            .collect();
        self.attributes = now;
        news.chunks(ATTRIBUTES_MAX)
            .map(|values| Uplink::GatewayAttributes {
                values: values.to_vec(),
            })
            .collect()
    }
}

/// What serves now. A component that does not is left as it was told last.
fn attributes(plugins: &PluginsStatus) -> Attributes {
    let connectors = plugins.connectors.iter().map(|connector| {
        let key = format!("connector_{}", connector.name);
        (key, &connector.component)
    });
    let policy = plugins.policy.iter();
    let policy = policy.map(|policy| ("policy".to_owned(), &policy.component));
    connectors
        .chain(policy)
        .filter_map(|(key, component)| Some((Key::try_new(&key).ok()?, attribute(component)?)))
        .collect()
}

fn attribute(component: &ComponentStatus) -> Option<String> {
    let active = component.active?;
    let mut value = json!({
        "name": &*component.plugin,
        "version": &*component.version,
        "digest": active.digest.hex(),
        "generation": active.generation.0,
    });
    match &component.origin {
        Origin::Unchecked => {}
        Origin::Signed(signer) => {
            value["signed_by"] = json!(&*signer.name);
            value["key"] = json!(signer.key.to_string());
        }
        Origin::Doubtful(failure) => value["doubt"] = json!(failure.reason.to_string()),
    }
    Some(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serving(versions: &[(&str, &str)]) -> Attributes {
        let attribute =
            |(key, value): &(&str, &str)| (Key::try_new(key).unwrap(), (*value).to_owned());
        versions.iter().map(attribute).collect()
    }

    fn keys(messages: &[Uplink]) -> Vec<String> {
        let mut keys = Vec::new();
        for message in messages {
            let Uplink::GatewayAttributes { values } = message else {
                panic!("{message:?}");
            };
            keys.extend(values.iter().map(|(key, _)| key.to_string()));
        }
        keys
    }

    #[test]
    fn what_is_told_is_told_again_only_when_it_changes_or_may_be_lacking() {
        let mut told = Told::default();
        let first = serving(&[("connector_a", "1"), ("connector_b", "1")]);
        assert_eq!(
            keys(&told.news(first.clone())),
            ["connector_a", "connector_b"]
        );
        told.session(&"one:1883".into());
        told.session(&"one:1883".into());
        assert!(told.news(first).is_empty());
        let second = serving(&[("connector_a", "1"), ("connector_b", "2")]);
        assert_eq!(keys(&told.news(second.clone())), ["connector_b"]);
        told.session(&"two:1883".into());
        assert_eq!(told.news(second.clone()).len(), 1);
        assert!(told.news(second.clone()).is_empty());
        told.forget();
        assert_eq!(keys(&told.news(second)).len(), 2);
    }

    #[test]
    fn a_hundred_connectors_are_told_in_a_few_messages() {
        let names: Vec<_> = (0..100).map(|n| format!("connector_{n}")).collect();
        let all: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
        let messages = Told::default().news(serving(&all));
        assert_eq!((messages.len(), keys(&messages).len()), (2, 100));
    }
}
