//! `moorline plugin verify`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use moorline_core::swap::Failure;
use moorline_core::trust::{Settings, Signer};
use serde_json::{Value, json};

use super::keys::TrustOptions;
use super::print;
use crate::cli::run::with_runtime;
use crate::cli::{OutputFormat, exit};
use crate::plugins::{self, Inspection};

#[derive(Debug, Args)]
pub(in crate::cli) struct VerifyOptions {
    /// The components; the signature of each lies beside it as FILE.minisig.
    #[arg(required = true, value_name = "PLUGIN.wasm")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    trust: TrustOptions,
    /// How to print the result [default: human on a terminal, json elsewhere].
    #[arg(long, value_enum)]
    format: Option<OutputFormat>,
}

pub(super) fn verify(options: &VerifyOptions) -> ExitCode {
    let settings = match options.trust.settings() {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    if settings.keys.is_empty() {
        let why = "no key to verify with: give --key RW... or --key FILE.pub, or --config with [plugins.trusted_keys]";
        return exit::fail(exit::USAGE, &why);
    }
    with_runtime(async {
        let (mut lines, mut reports, mut good) = (Vec::new(), Vec::new(), true);
        for file in &options.files {
            let verified = verified(file, &settings).await;
            good &= verified.is_ok();
            lines.push(line(file, &verified));
            reports.push(report(file, &verified));
        }
        print(options.format, &lines.join("\n"), &Value::from(reports));
        if good {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(exit::DATA)
        }
    })
}

type Verified = Result<(Inspection, Signer), Failure>;

async fn verified(file: &Path, settings: &Settings) -> Verified {
    // First: what was changed after it was signed may be no component any more, and is not worth compiling.
    plugins::signer_of(file, settings).await?;
    let inspection = plugins::inspect(file, settings).await?;
    let signer = inspection.signature.clone()?;
    Ok((inspection, signer))
}

fn line(file: &Path, verified: &Verified) -> String {
    match verified {
        Ok((inspection, signer)) => format!(
            "{}  {} {}, {signer}\n  {}",
            file.display(),
            inspection.name,
            inspection.version,
            signer.trusted_comment.replace('\t', "  ")
        ),
        Err(failure) => format!("{}  {failure}", file.display()),
    }
}

fn report(file: &Path, verified: &Verified) -> Value {
    match verified {
        Ok((inspection, signer)) => json!({
            "file": file,
            "ok": true,
            "name": inspection.name,
            "version": inspection.version,
            "sha256": inspection.digest.hex(),
            "signed_by": &*signer.name,
            "key_id": signer.key.to_string(),
            "trusted_comment": signer.trusted_comment,
        }),
        Err(failure) => json!({ "file": file, "ok": false, "error": failure.to_string() }),
    }
}
