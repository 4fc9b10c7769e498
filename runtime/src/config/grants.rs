//! `[connector.grants]`: what each instance of a connector may reach beside its streams.

use std::collections::BTreeMap;
use std::path::PathBuf;

use moorline_core::confine::{Origin, TcpGrant};
use serde::Deserialize;
use toml::Spanned;

use super::settings::Resolver;
use crate::plugins::{DirectoryGrant, Grants};

/// Entries of each list.
const ENTRIES_MAX: usize = 256;
/// Bytes of a variable's name, and of a directory's in the guest.
const NAME_BYTES_MAX: usize = 255;

/// What is not said is not granted, but for the time.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGrants {
    #[serde(default)]
    environment: Vec<Spanned<String>>,
    wall_clock: Option<bool>,
    #[serde(default)]
    tcp: Vec<Spanned<String>>,
    #[serde(default)]
    http: Vec<Spanned<String>>,
    #[serde(default)]
    directories: BTreeMap<String, Spanned<PathBuf>>,
}

impl Resolver<'_> {
    pub(super) fn grants(&mut self, raw: RawGrants) -> Grants {
        let mut grants = Grants {
            wall_clock: raw.wall_clock.unwrap_or(Grants::default().wall_clock),
            ..Grants::default()
        };
        for list in [&raw.environment, &raw.tcp, &raw.http] {
            if let Some(surplus) = list.get(ENTRIES_MAX) {
                self.find(
                    surplus.span(),
                    format!("at most {ENTRIES_MAX} can be named"),
                );
            }
        }
        for name in &raw.environment {
            self.variable(name, &mut grants);
        }
        for target in &raw.tcp {
            match target.get_ref().parse::<TcpGrant>() {
                Ok(target) => grants.tcp.push(target),
                Err(error) => self.find(target.span(), format!("{:?} {error}", target.get_ref())),
            }
        }
        for origin in &raw.http {
            match origin.get_ref().parse::<Origin>() {
                Ok(origin) => grants.http.push(origin),
                Err(error) => self.find(origin.span(), format!("{:?} {error}", origin.get_ref())),
            }
        }
        for (guest, host) in raw.directories.into_iter().take(ENTRIES_MAX) {
            self.directory(guest, &host, &mut grants);
        }
        grants
    }

    fn variable(&mut self, name: &Spanned<String>, grants: &mut Grants) {
        let (span, name) = (name.span(), name.get_ref());
        let wrong = |c: char| c == '=' || c.is_control();
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(wrong) {
            return self.find(span, format!("{name:?} is no name of a variable"));
        }
        match std::env::var(name) {
            Ok(value) => grants.environment.push((name.clone(), value)),
            Err(error) => self.warn(span, format!("environment variable {name}: {error}")),
        }
    }

    fn directory(&mut self, guest: String, host: &Spanned<PathBuf>, grants: &mut Grants) {
        let span = host.span();
        if !guest.starts_with('/')
            || guest.len() > NAME_BYTES_MAX
            || guest.contains(char::is_control)
        {
            return self.find(
                span,
                format!(
                    "{guest:?} is what the plugin knows the directory by: it must begin with /"
                ),
            );
        }
        let host = self.base.join(host.get_ref());
        // It may come later, on a medium that is mounted: the plugin is started without it.
        if !host.is_dir() {
            self.warn(span, format!("{} is no directory now", host.display()));
        }
        grants.directories.push(DirectoryGrant { guest, host });
    }
}
