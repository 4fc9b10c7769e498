//! `moorline reload`: SIGHUP to the right process, after a look at the file.

use std::process::ExitCode;

use rustix::process::{Pid, Signal, kill_process};

use super::{ConfigFile, exit};
use crate::clock::Clock;
use crate::config::Settings;
use crate::status::Status;

/// What the gateway that runs with these settings says of itself.
pub(super) fn status_of_running(settings: &Settings) -> Option<Status> {
    Status::read_file(&settings.status_file)
        .ok()
        .filter(|status| status.is_fresh(Clock::start().wall()))
}

/// The gateway that runs with these settings.
fn running(settings: &Settings) -> Option<Pid> {
    status_of_running(settings)
        .and_then(|status| i32::try_from(status.pid).ok())
        .and_then(Pid::from_raw)
}

/// Has the gateway that runs with these settings look again, if there is one.
pub(super) fn tell_running(settings: &Settings) -> Option<Result<(), rustix::io::Errno>> {
    running(settings).map(|process| kill_process(process, Signal::HUP))
}

pub(super) fn reload(file: &ConfigFile) -> ExitCode {
    let settings = match file.settings() {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let status_file = &settings.status_file;
    let Some(process) = running(&settings) else {
        return exit::fail(
            exit::DATA,
            &format!(
                "no gateway runs with this configuration: {} is not there or not fresh",
                status_file.display()
            ),
        );
    };
    match kill_process(process, Signal::HUP) {
        Ok(()) => {
            exit::print(&format!(
                "process {} reads {} again",
                process.as_raw_nonzero(),
                file.config.display()
            ));
            ExitCode::SUCCESS
        }
        Err(error) => exit::fail(
            exit::OS,
            &format!(
                "process {} cannot be told: {error}",
                process.as_raw_nonzero()
            ),
        ),
    }
}
