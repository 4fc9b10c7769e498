//! `moorline run`, `moorline demo` and the demo's parts.

use std::process::ExitCode;

use super::{ConfigFile, exit};
use crate::demo;
use crate::demo::part::{self, DemoOptions, Part};
use crate::gateway::{self, GatewayError};

pub(super) fn run(file: &ConfigFile) -> ExitCode {
    let settings = match file.load() {
        Ok(settings) => settings,
        Err(refused) => return exit::fail(exit::CONFIG, &refused),
    };
    with_runtime(async {
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        match gateway::run(&file.config, settings).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let code = match &error {
                    GatewayError::Tls(_) => exit::CONFIG,
                    GatewayError::StateDirectory(..)
                    | GatewayError::Spool(_)
                    | GatewayError::Plugins(_)
                    | GatewayError::Signals(_) => exit::OS,
                    GatewayError::LinkEnded => exit::SOFTWARE,
                };
                exit::fail(code, &error)
            }
        }
    })
}

pub(super) fn demo(options: DemoOptions) -> ExitCode {
    with_runtime(async {
        match demo::run(options).await {
            Ok(report) if report.passed() => ExitCode::SUCCESS,
            Ok(_problems) => ExitCode::from(exit::DATA),
            Err(error) => exit::fail(exit::SOFTWARE, &error),
        }
    })
}

pub(super) fn demo_part(part: Part) -> ExitCode {
    with_runtime(async {
        match part::run(part).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => exit::fail(exit::OS, &error),
        }
    })
}

/// Runs `work` to its end. What tasks are left then ends with the process.
pub(super) fn with_runtime(work: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => {
            let code = runtime.block_on(work);
            runtime.shutdown_background();
            code
        }
        Err(error) => exit::fail(exit::OS, &format!("no threads to run on: {error}")),
    }
}
