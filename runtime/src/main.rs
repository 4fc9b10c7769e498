//! The `moorline` binary: arguments in, exit code out.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    moorline::cli::main(moorline::cli::Arguments::parse())
}
