//! What a connector's instances may reach beyond their streams, and what stands behind one instance altogether.

use std::fmt;
use std::path::PathBuf;

use moorline_core::confine::{Origin, TcpGrant};

use super::opening::Opener;
use super::settings::{ConnectionSettings, ConnectorSettings, Limits};

/// What is granted. By default nothing but the time.
#[derive(Clone, PartialEq, Eq)]
pub struct Grants {
    /// Variables of the environment, by name, with their values.
    pub environment: Vec<(String, String)>,
    /// The wall clock. Without it a guest is told the beginning of 1970, always.
    pub wall_clock: bool,
    /// Where it may connect to over `wasi:sockets`.
    pub tcp: Vec<TcpGrant>,
    /// Where it may send requests to over `wasi:http`.
    pub http: Vec<Origin>,
    /// Directories it may read.
    pub directories: Vec<DirectoryGrant>,
    /// Directories it may write, too. Of several connections each has one of its own in them.
    pub writable_directories: Vec<DirectoryGrant>,
}

// A variable may hold a secret: only its name is shown.
impl fmt::Debug for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.environment.iter().map(|(name, _)| name).collect();
        f.debug_struct("Grants")
            .field("environment", &names)
            .field("wall_clock", &self.wall_clock)
            .field("tcp", &self.tcp)
            .field("http", &self.http)
            .field("directories", &self.directories)
            .field("writable_directories", &self.writable_directories)
            .finish()
    }
}

impl Default for Grants {
    fn default() -> Self {
        Self {
            environment: Vec::new(),
            wall_clock: true,
            tcp: Vec::new(),
            http: Vec::new(),
            directories: Vec::new(),
            writable_directories: Vec::new(),
        }
    }
}

/// A directory of this machine that a guest knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryGrant {
    /// What the guest knows it by.
    pub guest: String,
    /// Where it is.
    pub host: PathBuf,
}

/// What one instance is confined to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sandbox {
    pub(crate) limits: Limits,
    pub(crate) grants: Grants,
    /// The connection it is for, if it is for one.
    pub(crate) connection: Option<String>,
    /// How its directories are opened.
    pub(crate) opener: Opener,
}

impl Sandbox {
    /// Of one instance.
    pub(crate) fn of(
        connector: &ConnectorSettings,
        connection: Option<&ConnectionSettings>,
    ) -> Self {
        Self {
            limits: connector.limits,
            grants: connector.grants.clone(),
            connection: connection.map(|connection| connection.name.clone()),
            opener: Opener::default(),
        }
    }

    /// The directories that this instance may write: it shares them with no other.
    pub(crate) fn writable_directories(&self) -> impl Iterator<Item = DirectoryGrant> + '_ {
        let granted = self.grants.writable_directories.iter().cloned();
        granted.map(|mut directory| {
            if let Some(connection) = &self.connection {
                directory.host.push(connection);
            }
            directory
        })
    }

    /// Whether a guest is given directories, which are opened when it is made.
    pub(crate) fn has_directories(&self) -> bool {
        !(self.grants.directories.is_empty() && self.grants.writable_directories.is_empty())
    }

    /// The same, but for its directories.
    pub(crate) fn without_directories(&self) -> Self {
        let mut without = self.clone();
        without.grants.directories.clear();
        without.grants.writable_directories.clear();
        without
    }

    /// Under limits, with nothing granted: for a guest that only describes itself.
    pub(crate) fn closed(limits: &Limits) -> Self {
        Self {
            limits: *limits,
            grants: Grants::default(),
            connection: None,
            opener: Opener::default(),
        }
    }
}
