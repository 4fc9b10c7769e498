//! Where the log goes and how it looks.

use std::io::IsTerminal;

use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use super::LogFormat;

#[derive(Debug, Error)]
pub(super) enum LogError {
    #[error("--log-level is not a filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
}

pub(super) fn install(format: LogFormat, level: &str) -> Result<(), LogError> {
    // The client crate and the compiler narrate at info; what they know reaches the log as our own records.
    let filter = EnvFilter::try_new(format!("warn,moorline={level}"))
        .or_else(|_not_a_level| EnvFilter::try_new(level))?;
    let terminal = std::io::stderr().is_terminal();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE)
        .with_ansi(terminal);
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    if json {
        subscriber.json().flatten_event(true).init();
    } else {
        subscriber.with_target(false).init();
    }
    Ok(())
}
