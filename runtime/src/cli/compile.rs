//! `moorline compile-component`: this program as the compiler of another process of it.

use std::io::Write as _;
use std::process::ExitCode;

use super::exit;
use crate::plugins::{Kind, compiler};

pub(super) fn compile(kind: Kind) -> ExitCode {
    match compiler::serve(kind) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(why)) => {
            // Whoever asked reads it, or is gone.
            write!(std::io::stderr(), "{why}").unwrap_or_default();
            ExitCode::from(compiler::NO_COMPONENT)
        }
        Err(refusal) => exit::fail(exit::OS, &refusal),
    }
}
