//! `moorline plugin ls`: what serves, from the running gateway or, of a stopped one, from what it wrote down.

use std::process::ExitCode;

use serde_json::json;

use super::ListOptions;
use crate::admin::protocol::{Answer, PluginEntry, Request};
use crate::admin::{Client, ClientError};
use crate::cli::{OutputFormat, exit, figures};
use crate::config::Settings;
use crate::journal::SwapHistory;

/// The widest a column gets: what is longer moves the rest of its line.
const COLUMN_MAX: usize = 64;

pub(super) fn list(options: &ListOptions) -> ExitCode {
    let settings = match options.config.settings() {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let asked =
        Client::connect(&settings.state_dir).and_then(|mut client| client.ask(&Request::List));
    let (running, plugins) = match asked {
        Ok(Answer::Plugins { plugins }) => (true, plugins),
        Ok(Answer::Refused { why } | Answer::Pending { why } | Answer::Invalid { why }) => {
            return exit::fail(exit::DATA, &figures::harmless(&why));
        }
        Ok(Answer::Swap(_) | Answer::StateRestored { .. }) => {
            return exit::fail(exit::SOFTWARE, &"an odd answer");
        }
        Err(ClientError::NotRunning(_)) => match of_stopped(&settings) {
            Ok(plugins) => (false, plugins),
            Err(error) => {
                let state_dir = settings.state_dir.display();
                return exit::fail(
                    exit::OS,
                    &format!("the history in {state_dir} cannot be read: {error}"),
                );
            }
        },
        Err(error @ (ClientError::NotAllowed(_) | ClientError::Broken(..))) => {
            return exit::fail(exit::OS, &error);
        }
    };
    match options.format {
        OutputFormat::Json => exit::print(&json!({ "running": running, "plugins": plugins })),
        OutputFormat::Human => {
            if !running {
                exit::progress(&"no gateway runs here; this is what served last");
            }
            exit::print(&table(&plugins));
        }
    }
    ExitCode::SUCCESS
}

/// The configuration's plugins, and of each what served last.
fn of_stopped(settings: &Settings) -> std::io::Result<Vec<PluginEntry>> {
    let history = SwapHistory::read(&settings.state_dir)?;
    let connectors = settings
        .connectors
        .iter()
        .map(|connector| (connector.name.as_str(), "connector", &connector.component));
    let policy = settings
        .policy
        .iter()
        .map(|policy| ("policy", "reconnect-policy", &policy.component));
    let entry = |(name, kind, file): (&str, &str, &std::path::PathBuf)| {
        let mut ends = history
            .entries
            .iter()
            .rev()
            .filter(|end| end.plugin == name);
        let serving = ends.find_map(|end| end.serving());
        // The one that brought that build says what it calls itself.
        let described = history.entries.iter().rev().find(|end| {
            let digest = serving.map(|(_, digest)| digest);
            end.plugin == name && digest == Some(&end.digest) && !end.name.is_empty()
        });
        PluginEntry {
            name: name.to_owned(),
            kind: kind.to_owned(),
            state: "stopped".to_owned(),
            file: file.display().to_string(),
            plugin: described.map(|end| end.name.clone()).unwrap_or_default(),
            version: described.map(|end| end.version.clone()).unwrap_or_default(),
            generation: serving.map(|(generation, _)| generation),
            digest: serving.map(|(_, digest)| digest.to_owned()),
            ..PluginEntry::default()
        }
    };
    Ok(connectors.chain(policy).map(entry).collect())
}

fn table(plugins: &[PluginEntry]) -> String {
    if plugins.is_empty() {
        return "the configuration has no plugins".to_owned();
    }
    let longest = |cell: fn(&PluginEntry) -> usize| plugins.iter().map(cell).max().unwrap_or(0);
    let names = longest(|plugin| plugin.name.chars().count()).clamp(4, COLUMN_MAX);
    let titles = longest(|plugin| title(plugin).chars().count()).clamp(6, COLUMN_MAX);
    let mut lines = vec![format!(
        "{:<names$}  {:<12}  {:>10}  {:<12}  {:<12}  {:<titles$}  {:>9}  file",
        "name", "state", "generation", "build", "before", "plugin", "instances"
    )];
    for plugin in plugins {
        let or_none = |text: Option<&String>| text.cloned().unwrap_or_else(|| "-".to_owned());
        let generation = plugin.generation.map(|number| number.to_string());
        let instances = if plugin.instances == 0 {
            "-".to_owned()
        } else {
            format!("{}/{}", plugin.serving, plugin.instances)
        };
        lines.push(format!(
            "{:<names$}  {:<12}  {:>10}  {:<12}  {:<12}  {:<titles$}  {instances:>9}  {}",
            plugin.name,
            plugin.state,
            or_none(generation.as_ref()),
            or_none(plugin.digest.as_ref()),
            or_none(plugin.before.as_ref()),
            title(plugin),
            plugin.file
        ));
        if let Some(refused) = &plugin.refused {
            let reason = figures::harmless(&refused.reason);
            lines.push(format!("{:<names$}  build {} {reason}", "", refused.digest));
        }
        if let Some(error) = &plugin.error {
            lines.push(format!("{:<names$}  {}", "", figures::harmless(error)));
        }
        if plugin.paused > 0 {
            lines.push(format!(
                "{:<names$}  {} of its instances are paused: they used more than their cpu_percent",
                "", plugin.paused
            ));
        }
        if let Some(call) = &plugin.long_call {
            lines.push(format!("{:<names$}  {}", "", figures::harmless(call)));
        }
        if let Some(denied) = &plugin.denied {
            lines.push(format!("{:<names$}  {}", "", figures::harmless(denied)));
        }
        if let Some(error) = &plugin.state_error {
            let error = figures::harmless(error);
            lines.push(format!(
                "{:<names$}  its state is not on the disk: {error}",
                ""
            ));
        }
        if let Some(error) = &plugin.stream_error {
            let error = figures::harmless(error);
            lines.push(format!("{:<names$}  its stream is closed: {error}", ""));
        }
        for limit in &plugin.limits {
            lines.push(format!(
                "{:<names$}  exceeded {} times: {} = {} of [connector.limits]",
                "",
                limit.exceeded,
                figures::harmless(&limit.key),
                limit.value
            ));
        }
    }
    lines.join("\n")
}

/// What the plugin calls itself.
fn title(plugin: &PluginEntry) -> String {
    let title = format!("{} {}", plugin.plugin, plugin.version);
    match title.trim() {
        "" => "-".to_owned(),
        title => figures::harmless(title),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_or_a_version_of_any_length_is_shown() {
        let long = PluginEntry {
            name: "n".repeat(70_000),
            version: "9".repeat(200_000),
            ..PluginEntry::default()
        };
        let short = PluginEntry {
            name: "line".to_owned(),
            plugin: "modbus-tcp".to_owned(),
            ..PluginEntry::default()
        };
        let shown = table(&[long, short]);
        assert!(shown.contains(&"9".repeat(200_000)));
        let widest = |line: &str| line.len() < 4 * COLUMN_MAX;
        assert!(shown.lines().last().is_some_and(widest), "{shown:.2000}");
    }
}
