//! Exit codes, after sysexits.h, and the way out with a message.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

/// The command line is wrong.
pub const USAGE: u8 = 64;
/// Something given to us is not what it should be: a plugin, a report with losses.
pub const DATA: u8 = 65;
/// A broker does not fit the configuration, or a compiler for a plugin cannot be had.
pub const UNAVAILABLE: u8 = 69;
/// A part of Moorline failed.
pub const SOFTWARE: u8 = 70;
/// The operating system refused: a file, a directory, a lock.
pub const OS: u8 = 71;
/// The configuration is wrong.
pub const CONFIG: u8 = 78;

/// Prints why and gives the code.
pub(super) fn fail(code: u8, why: &dyn Display) -> ExitCode {
    // When standard error is closed there is nobody left to tell.
    writeln!(std::io::stderr(), "moorline: {why}").unwrap_or_default();
    ExitCode::from(code)
}

/// Prints a result; a closed pipe (`| head`) is not an error worth a message.
pub(super) fn print(text: &dyn Display) {
    writeln!(std::io::stdout(), "{text}").unwrap_or_default();
}

/// Says what is going on, apart from results.
pub(super) fn progress(text: &dyn Display) {
    writeln!(std::io::stderr(), "{text}").unwrap_or_default();
}
