//! `moorline plugin new`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::cli::exit;
use crate::plugin_build::Language;
use crate::plugin_new::{NewError, create};
use crate::plugins::Kind;

#[derive(Debug, Args)]
pub(in crate::cli) struct NewOptions {
    /// The directory to make; its last part is the plugin's name.
    #[arg(value_name = "NAME")]
    directory: PathBuf,
    /// What to write it in.
    #[arg(long, value_enum)]
    lang: Language,
    /// What it is to be.
    #[arg(long, value_enum, default_value_t = Kind::Connector)]
    kind: Kind,
}

pub(super) fn new(options: &NewOptions) -> ExitCode {
    match create(&options.directory, options.lang, options.kind) {
        Ok(written) => {
            for path in &written {
                exit::print(&path.display());
            }
            let directory = options.directory.display();
            exit::progress(&format!("next: cd {directory} && moorline plugin test ."));
            ExitCode::SUCCESS
        }
        Err(error @ NewError::File(..)) => exit::fail(exit::OS, &error),
        Err(error @ (NewError::Name(..) | NewError::Exists(_))) => exit::fail(exit::USAGE, &error),
    }
}
