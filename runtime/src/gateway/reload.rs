//! Reading the configuration again while everything runs.
//!
//! The link takes its new settings without being dropped: a session that is up goes on, and they count from the next
//! attempt on; a link that waits or is parked makes that attempt now. What else has changed needs a restart and is named.

use std::path::{Path, PathBuf};

use tracing::{error, info, warn};

use crate::config::{self, Settings};
use crate::link::{EndpointSettings, LinkCommand, LinkHandle, Reconfiguration};

/// What was read last, and from where.
pub(super) struct Reload {
    file: PathBuf,
    settings: Settings,
}

impl Reload {
    pub(super) fn new(file: &Path, settings: Settings) -> Self {
        Self {
            file: file.to_owned(),
            settings,
        }
    }

    /// Reads and applies. What is wrong is logged, and nothing changes then.
    pub(super) async fn apply(&mut self, link: &LinkHandle) {
        let new = match config::load(&self.file) {
            Ok(new) => new,
            Err(refused) => {
                for finding in refused.0 {
                    error!("{finding}");
                }
                error!(file = %self.file.display(), "the configuration is refused; the gateway goes on with the one it has");
                return;
            }
        };
        let reconfiguration = match Reconfiguration::new(new.link.clone()) {
            Ok(reconfiguration) => Box::new(reconfiguration),
            Err(refused) => {
                error!(file = %self.file.display(), "TLS cannot be set up from [link.tls]: {refused}; the gateway goes on with the configuration it has");
                return;
            }
        };
        for warning in &new.warnings {
            warn!("{warning}");
        }
        for section in self.needing_restart(&new) {
            warn!(file = %self.file.display(), "{section} has changed; that takes effect when the gateway is started again");
        }
        let commands = link.commands();
        if commands
            .send(LinkCommand::Reconfigure(reconfiguration))
            .await
            .is_ok()
        {
            let endpoints: Vec<_> = new
                .link
                .endpoints
                .iter()
                .map(EndpointSettings::name)
                .collect();
            info!(file = %self.file.display(), ?endpoints, "the link has new settings; a session that is up goes on, the next attempt uses them");
        }
        self.settings.link = new.link;
    }

    /// The sections that differ from what the gateway was started with.
    fn needing_restart(&self, new: &Settings) -> Vec<&'static str> {
        let old = &self.settings;
        let gateway = (
            &old.name,
            &old.state_dir,
            &old.status_file,
            old.report_disconnects,
        ) != (
            &new.name,
            &new.state_dir,
            &new.status_file,
            new.report_disconnects,
        );
        [
            (gateway, "[gateway] or link.report_disconnects"),
            (old.policy != new.policy, "[policy]"),
            (old.swap != new.swap, "[probation]"),
            (old.plugins != new.plugins, "[plugins]"),
            (old.spool != new.spool, "[spool]"),
            (old.wear != new.wear, "[wear]"),
            (
                old.connectors != new.connectors,
                "[[connector]] or [report]",
            ),
        ]
        .into_iter()
        .filter_map(|(changed, section)| changed.then_some(section))
        .collect()
    }
}
