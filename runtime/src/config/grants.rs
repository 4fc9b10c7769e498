//! `[connector.grants]`: what each instance of a connector may reach beside its streams.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use moorline_core::confine::{Origin, TcpGrant};
use rustix::fs::{Access, access};
use serde::Deserialize;
use toml::Spanned;

use super::settings::{Resolver, Settings};
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
    #[serde(default)]
    writable_directories: BTreeMap<String, Spanned<PathBuf>>,
}

/// A directory that some connector may write, and where it is granted.
#[derive(Debug)]
pub(super) struct Written {
    host: PathBuf,
    span: Range<usize>,
}

/// What a guest must not be able to write, with a word for it.
struct Own {
    what: &'static str,
    place: PathBuf,
    /// Nothing granted may lie in it either.
    closed: bool,
}

/// All that is the gateway's. `read` are the files beside this one that say what it is to do, and whom it is to trust.
fn owns(base: &Path, settings: &Settings, read: &[PathBuf]) -> Vec<Own> {
    let own = |what, place: &Path, closed| Own {
        what,
        place: real(place),
        closed,
    };
    let spool = &settings.spool;
    let mut owns = vec![
        own("the gateway's state_dir", &settings.state_dir, true),
        own("this file's directory", base, false),
    ];
    let told = std::iter::once(&settings.status_file).chain(&settings.metrics_file);
    owns.extend(told.map(|file| own("what the gateway tells of itself", file, false)));
    owns.extend(
        spool
            .window_directory
            .iter()
            .map(|shared| own("the spool's window_dir", shared, false)),
    );
    let windows = spool
        .streams
        .iter()
        .filter_map(|setup| spool.window_path(&spool.stream_directory(setup), &setup.stream.name));
    owns.extend(windows.map(|window| own("the spool's window", &window, true)));
    let policies = settings.policy.iter().map(|policy| &policy.component);
    let connectors = settings.connectors.iter();
    let components = connectors.map(|connector| &connector.component);
    let directories = components.chain(policies).filter_map(|file| file.parent());
    owns.extend(directories.map(|directory| own("a directory of components", directory, true)));
    // A key or a certificate is somebody else's as well as soon as a name on the way to it is.
    let ways = read.iter().flat_map(|file| way(file));
    owns.extend(ways.map(|place| Own {
        what: "a key, certificate or secret that this file names",
        place,
        closed: false,
    }));
    let mut seen = BTreeSet::new();
    owns.retain(|own| seen.insert((own.what, own.place.clone())));
    owns
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
            let directory = self.directory(guest, &host);
            grants.directories.extend(directory);
        }
        for (guest, host) in raw.writable_directories.into_iter().take(ENTRIES_MAX) {
            let Some(directory) = self.directory(guest, &host) else {
                continue;
            };
            let mut read = grants.directories.iter();
            if read.any(|read| read.guest == directory.guest) {
                let guest = &directory.guest;
                self.find(host.span(), format!("{guest:?} stands in directories, too: the plugin would know two by one name"));
            }
            self.check_writable(&directory.host, host.span());
            self.written.push(Written {
                host: directory.host.clone(),
                span: host.span(),
            });
            grants.writable_directories.push(directory);
        }
        grants
    }

    /// As by whom this is called: it may be somebody else than the gateway.
    fn check_writable(&mut self, host: &Path, span: Range<usize>) {
        if host.is_dir()
            && let Err(error) = access(host, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)
        {
            let host = host.display();
            self.warn(
                span,
                format!(
                    "{host} cannot be written by the user that calls this: {}; give it to the user the gateway runs as",
                    std::io::Error::from(error)
                ),
            );
        }
    }

    /// No guest writes what is the gateway's, or another's.
    pub(super) fn check_written(&mut self, settings: &Settings) {
        let owns = owns(self.base, settings, &self.read);
        let mut written = std::mem::take(&mut self.written);
        for directory in &mut written {
            directory.host = real(&directory.host);
        }
        for (index, directory) in written.iter().enumerate() {
            let host = directory.host.display();
            let mut said = BTreeSet::new();
            for Own {
                what,
                place,
                closed,
            } in &owns
            {
                if place.starts_with(&directory.host) {
                    // One word for all the keys in it.
                    if !said.insert(what) {
                        continue;
                    }
                    self.find(
                        directory.span.clone(),
                        format!("a plugin could write {what}, which is in {host}: grant it a directory of its own"),
                    );
                } else if *closed && directory.host.starts_with(place) {
                    self.find(
                        directory.span.clone(),
                        format!(
                            "{host} lies in {what}, {}: grant a directory of its own",
                            place.display()
                        ),
                    );
                }
            }
            let mut before = written.iter().take(index);
            if let Some(other) = before.find(|other| {
                other.host.starts_with(&directory.host) || directory.host.starts_with(&other.host)
            }) {
                let other = other.host.display();
                self.find(
                    directory.span.clone(),
                    format!("{host} and {other} are granted to be written, and are one or lie in one another: each needs a directory of its own"),
                );
            }
        }
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

    fn directory(&mut self, guest: String, host: &Spanned<PathBuf>) -> Option<DirectoryGrant> {
        let span = host.span();
        if !guest.starts_with('/')
            || guest.len() > NAME_BYTES_MAX
            || guest.contains(char::is_control)
        {
            self.find(
                span,
                format!(
                    "{guest:?} is what the plugin knows the directory by: it must begin with /"
                ),
            );
            return None;
        }
        let host = self.base.join(host.get_ref());
        // It may come later, on a medium that is mounted: the plugin is started without it.
        if !host.is_dir() {
            self.warn(span, format!("{} is no directory now", host.display()));
        }
        Some(DirectoryGrant { guest, host })
    }
}

/// Where a path leads now; as far as it is there, for the rest as it is written.
fn real(path: &Path) -> PathBuf {
    walk(path, |_link| {})
}

/// That, and the links on the way: who may write where one lies puts something else in its place.
fn way(path: &Path) -> Vec<PathBuf> {
    let mut links = Vec::new();
    let end = walk(path, |link| links.push(link.to_owned()));
    links.push(end);
    links
}

fn walk(path: &Path, mut passes: impl FnMut(&Path)) -> PathBuf {
    let here = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let absolute = std::path::absolute(here).unwrap_or_else(|_nowhere| here.to_owned());
    let mut plain = PathBuf::new();
    for part in absolute.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => {
                plain.push(part);
                if let Ok(real) = plain.canonicalize() {
                    if real != plain {
                        passes(&plain);
                    }
                    plain = real;
                }
            }
        }
    }
    plain
}
