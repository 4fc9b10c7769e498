//! `moorline plugin device`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::test::{TEST_FILE, read};
use crate::cli::exit;
use crate::cli::run::with_runtime;
use crate::plugins::Standalone;

#[derive(Debug, Args)]
pub(in crate::cli) struct DeviceOptions {
    /// A test file, or the directory of a plugin that has one.
    #[arg(value_name = "PLUGIN")]
    plugin: PathBuf,
    /// Where to listen, on this machine only.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:5025")]
    listen: SocketAddr,
}

pub(super) fn device(options: &DeviceOptions) -> ExitCode {
    if !options.listen.ip().is_loopback() {
        let why = format!(
            "{} is not of this machine alone; 127.0.0.1:5025 would be",
            options.listen
        );
        return exit::fail(exit::USAGE, &why);
    }
    let file = if options.plugin.is_dir() {
        options.plugin.join(TEST_FILE)
    } else {
        options.plugin.clone()
    };
    let answers = match read(&file) {
        Ok(file) => file.answer,
        Err(why) => return exit::fail(exit::USAGE, &why),
    };
    with_runtime(async {
        let device = match Standalone::start(&answers, options.listen).await {
            Ok(device) => device,
            Err(why) => return exit::fail(exit::OS, &why),
        };
        let (address, count) = (device.address(), answers.len());
        exit::print(&format!(
            "listening at tcp://{address} with {count} answers, until it is interrupted"
        ));
        match tokio::signal::ctrl_c().await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => exit::fail(exit::OS, &error),
        }
    })
}
