//! Whether a connector takes its configuration, and where in the file it does not.

use std::path::Path;

use super::{Finding, line_of};
use crate::cli::figures;
use crate::config::{self, Place};
use crate::plugins::{ConnectorSettings, Loaded, Unstarted, unstarted};

/// A finding, and whether it keeps the gateway from running that part.
pub(super) struct Found {
    pub(super) finding: Finding,
    pub(super) is_doubtful: bool,
}

/// Starts each instance of the connector once; what it says against its configuration. `number` is the connector's place
/// in the file.
pub(super) async fn findings(
    (file, text): (&Path, &str),
    number: usize,
    connector: &ConnectorSettings,
    loaded: &Loaded,
) -> Vec<Found> {
    let said = common(unstarted(loaded, connector).await, connector);
    let found = said.into_iter().map(|unstarted| {
        let Unstarted {
            connection,
            why,
            is_doubtful,
        } = unstarted;
        let name = connection.and_then(|index| Some(&connector.connections.get(index)?.name));
        let of_connection = name.map_or_else(String::new, |name| format!(" connection {name:?}:"));
        let why = figures::harmless(&why);
        let doubt = if is_doubtful {
            "; this may be for want of what [connector.grants] gives it: its directories were empty here, and the network was \
             withheld"
        } else {
            ""
        };
        Found {
            finding: Finding {
                file: file.to_owned(),
                line: line(text, number, connector, connection, &why),
                column: None,
                field: format!("connector {:?}:{of_connection} config", connector.name),
                message: format!("{why}{doubt}"),
            },
            is_doubtful,
        }
    });
    found.collect()
}

/// What all connections say is said once, of the connector.
fn common(mut said: Vec<Unstarted>, connector: &ConnectorSettings) -> Vec<Unstarted> {
    let (first, rest) = match said.split_first() {
        Some((first, rest)) if !rest.is_empty() => (first, rest),
        Some(_) | None => return said,
    };
    let alike = rest.iter().all(|other| other.why == first.why);
    if alike && said.len() == connector.connections.len() {
        said.truncate(1);
        if let Some(only) = said.first_mut() {
            only.connection = None;
        }
    }
    said
}

/// The line of the key that the plugin names, or of what holds the keys.
fn line(
    text: &str,
    number: usize,
    connector: &ConnectorSettings,
    connection: Option<usize>,
    why: &str,
) -> Option<usize> {
    let own = (format!("connector.{number}"), &connector.configuration);
    let of_connection = connection.and_then(|index| {
        let connection = connector.connections.get(index)?;
        let table = format!("connector.{number}.connection.{index}");
        Some((table, &connection.configuration))
    });
    let tables: Vec<_> = of_connection.into_iter().chain([own]).collect();
    let named = tables.iter().find_map(|(table, configuration)| {
        let mut keys = configuration.as_object()?.keys();
        keys.find_map(|key| {
            let place =
                names(why, key).then(|| config::locate(text, &format!("{table}.config"), key));
            match place {
                Some(Place::Line(line)) => Some(line),
                Some(Place::Table(_) | Place::Nowhere) | None => None,
            }
        })
    });
    named.or_else(|| {
        let (table, _) = tables.first()?;
        line_of(text, table, "config")
    })
}

/// Whether `key` is a word of `text`.
fn names(text: &str, key: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    text.match_indices(key).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + key.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config;

    const TEXT: &str = "[[connector]]\nname = \"a\"\n[connector.config]\npoll_ms = \"1\"\n[[connector.connection]]\nname = \"x\"\nstream = \"tcp://h:1\"\n[connector.connection.config]\nunit = 7\n";

    fn connector() -> ConnectorSettings {
        let head = "[gateway]\nname = \"g\"\nstate_dir = \"s\"\n[link]\nurl = \"mqtt://h\"\n";
        let text = format!(
            "{head}{}",
            TEXT.replace("name = \"a\"", "name = \"a\"\ncomponent = \"a.wasm\"")
        );
        config::from_text(&text).unwrap().connectors.remove(0)
    }

    #[test]
    fn a_finding_has_the_line_of_the_key_that_is_named() {
        let connector = connector();
        assert_eq!(connector.configuration, json!({"poll_ms": "1"}));
        let at = |connection, why| line(TEXT, 0, &connector, connection, why);
        assert_eq!(at(Some(0), "poll_ms: not a number"), Some(4));
        assert_eq!(at(Some(0), "unit 7 is not there"), Some(9));
        assert_eq!(at(Some(0), "poll_ms_max is missing"), Some(8));
        assert_eq!(at(None, "url is missing"), Some(3));
    }

    #[test]
    fn what_all_connections_say_is_said_once() {
        let mut connector = connector();
        let say = |connection, why: &str| Unstarted {
            connection: Some(connection),
            why: why.to_owned(),
            is_doubtful: false,
        };
        let second = connector.connections[0].clone();
        connector.connections.push(second);
        let once = common(vec![say(0, "a"), say(1, "a")], &connector);
        assert_eq!((once.len(), once[0].connection), (1, None));
        assert_eq!(common(vec![say(0, "a"), say(1, "b")], &connector).len(), 2);
        assert_eq!(common(vec![say(1, "a")], &connector)[0].connection, Some(1));
    }
}
