//! Where the log goes and how it looks.

use std::io::IsTerminal;

use thiserror::Error;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use super::LogFormat;

#[derive(Debug, Error)]
pub(super) enum LogError {
    #[error("--log-level is not a filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
}

/// Lines that wait for whoever reads the log. A reader that stops costs lines, and never holds up the gateway.
const LINES_QUEUED: usize = 4_096;

/// Writes what still waits when it is dropped.
#[must_use]
pub(super) struct LogWriter(#[expect(dead_code, reason = "works by being dropped")] WorkerGuard);

pub(super) fn install(format: LogFormat, level: &str) -> Result<LogWriter, LogError> {
    // The HTTP client warns of each request of a plugin that meets nobody, as often as the plugin likes.
    // The client crate and the compiler narrate at info, and the former warns of each refused publish; what they know
    // reaches the log as our own records, which are held back where a broker could cause them without end.
    let filter = EnvFilter::try_new(format!(
        "warn,rumqttc=error,wasmtime_wasi_http=error,moorline={level}"
    ))
    .or_else(|_not_a_level| EnvFilter::try_new(level))?;
    let terminal = std::io::stderr().is_terminal();
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_QUEUED)
        .thread_name("log")
        .finish(std::io::stderr());
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_span_events(FmtSpan::NONE)
        // It would tell of a log that cannot be written by writing there, and panic.
        .log_internal_errors(false)
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
    Ok(LogWriter(guard))
}
