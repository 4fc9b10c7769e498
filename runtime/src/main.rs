//! The `moorline` binary: arguments in, exit code out.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match moorline::cli::Arguments::try_parse() {
        Ok(arguments) => moorline::cli::main(arguments),
        // Help and version come this way too, and are no error.
        Err(answer) => {
            let code = if answer.use_stderr() {
                moorline::cli::exit::USAGE
            } else {
                0
            };
            // With the terminal gone there is nobody to show it to.
            answer.print().unwrap_or_default();
            ExitCode::from(code)
        }
    }
}
