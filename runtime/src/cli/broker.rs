//! Which broker a command goes to: that of a configuration, or one given by its URL.

use std::path::PathBuf;

use clap::Args;

use super::{ConfigFile, exit};
use crate::config::{self, Refused, Settings};
use crate::link::EndpointSettings;

/// Where a broker is and who we are to it.
#[derive(Debug, Args)]
pub(super) struct BrokerChoice {
    /// The broker, mqtt://host[:port], or with mqtts://, ws:// or wss://, without a configuration file.
    #[arg(value_name = "URL", conflicts_with = "config")]
    pub(super) url: Option<String>,
    #[command(flatten)]
    pub(super) config: ConfigFile,
    /// Where [[link.endpoint]] names several brokers: which of them, counted from 1 as they are written.
    #[arg(long, value_name = "N", conflicts_with = "url", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) endpoint: Option<u32>,
    /// With a URL: the client id the gateway would have.
    #[arg(long, value_name = "ID", requires = "url")]
    client_id: Option<String>,
    /// With a URL: user name or access token, as env:NAME, file:PATH or the text itself.
    #[arg(long, value_name = "SECRET", requires = "url")]
    username: Option<String>,
    /// With a URL: password, as env:NAME or file:PATH. As the text itself every user of this machine can read it.
    #[arg(long, value_name = "SECRET", requires = "username")]
    password: Option<String>,
    /// With a URL that begins with mqtts:// or wss://: the authorities to trust, as PEM; those of this system otherwise.
    #[arg(long, value_name = "FILE", requires = "url")]
    ca_file: Option<PathBuf>,
}

impl BrokerChoice {
    /// From the file, or from one written from the options, so that both are checked alike.
    pub(super) fn settings(&self) -> Result<Settings, Refused> {
        let Some(url) = &self.url else {
            return self.config.load();
        };
        let text = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let mut file = format!(
            "[gateway]\nname = \"moorline\"\nstate_dir = \".\"\n[link]\nurl = {}\n",
            text(url)
        );
        let given = [
            ("client_id", &self.client_id),
            ("username", &self.username),
            ("password", &self.password),
        ];
        for (key, value) in given {
            if let Some(value) = value {
                file.push_str(&format!("{key} = {}\n", text(value)));
            }
        }
        if let Some(ca_file) = &self.ca_file {
            let ca_file = text(&ca_file.to_string_lossy());
            file.push_str(&format!("[link.tls]\nca_file = {ca_file}\n"));
        }
        config::from_text(&file)
    }

    /// Which of the brokers: its number from zero, and where it is.
    pub(super) fn chosen(&self, settings: &Settings) -> Result<(usize, EndpointSettings), String> {
        let endpoints = &settings.link.endpoints;
        let number = usize::try_from(self.endpoint.unwrap_or(1)).unwrap_or(usize::MAX);
        let chosen = endpoints.get(number - 1).cloned();
        let count = endpoints.len();
        chosen
            .map(|endpoint| (number - 1, endpoint))
            .ok_or_else(|| format!("--endpoint {number}: the configuration names only {count}"))
    }

    /// Says so where the command line tells every user of this machine the password.
    pub(super) fn warn_of_password(&self) {
        if self.password.as_deref().is_some_and(is_literal) {
            exit::progress(
                &"moorline: a password on the command line can be read by every user of this machine; use env:NAME or file:PATH",
            );
        }
    }
}

fn is_literal(secret: &str) -> bool {
    !secret.starts_with("env:") && !secret.starts_with("file:")
}
