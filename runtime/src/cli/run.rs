//! `moorline run`, `moorline demo` and the demo's parts.

use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{ConfigFile, exit};
use crate::demo;
use crate::demo::part::{self, DemoOptions, Part};
use crate::gateway::{self, GatewayError};

pub(super) fn run(file: &ConfigFile) -> ExitCode {
    let settings = match file.load() {
        Ok(settings) => settings,
        Err(refused) => return exit::fail(exit::CONFIG, &refused),
    };
    raise_descriptor_limit();
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

/// As many descriptors as this process may have. What it begins with is often 1024, for the sake of programs that use select(2).
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!("the limit on open files stays as it is: {error}");
    }
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
