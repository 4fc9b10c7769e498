//! `moorline plugin sign`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use moorline_core::swap::Digest;
use moorline_core::trust::{Claim, Settings};
use serde_json::{Value, json};

use super::keys::{PasswordSource, secret_key};
use super::print;
use crate::bounded_file;
use crate::cli::run::with_runtime;
use crate::cli::{OutputFormat, exit};
use crate::clock::Clock;
use crate::plugins::{self, COMPONENT_BYTES_MAX, digest_of};
use crate::trust::{SecretKey, signature_path};

#[derive(Debug, Args)]
pub(in crate::cli) struct SignOptions {
    /// The components.
    #[arg(required = true, value_name = "PLUGIN.wasm")]
    files: Vec<PathBuf>,
    /// The secret key, of `moorline plugin keygen` or of minisign.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Where its password comes from [default: asked for at the terminal].
    #[arg(long, value_name = "env:NAME|file:PATH")]
    password: Option<PasswordSource>,
    /// How to print the result [default: human on a terminal, json elsewhere].
    #[arg(long, value_enum)]
    format: Option<OutputFormat>,
}

pub(super) fn sign(options: &SignOptions) -> ExitCode {
    let key = match secret_key(&options.key, options.password.as_ref()) {
        Ok(key) => key,
        Err(why) => return exit::fail(exit::DATA, &why),
    };
    with_runtime(async {
        let (mut lines, mut reports) = (Vec::new(), Vec::new());
        for file in &options.files {
            match sign_one(file, &key).await {
                Ok((line, report)) => {
                    lines.push(line);
                    reports.push(report);
                }
                Err(why) => return exit::fail(exit::DATA, &why),
            }
        }
        print(options.format, &lines.join("\n"), &Value::from(reports));
        ExitCode::SUCCESS
    })
}

/// Signs one component; the line and the report that say so.
pub(super) async fn sign_one(file: &Path, key: &SecretKey) -> Result<(String, Value), String> {
    let about = |why: &dyn std::fmt::Display| format!("{} {why}", file.display());
    // A signature of something no gateway can load would only be found out later, somewhere else.
    let inspection = plugins::inspect(file, &Settings::default())
        .await
        .map_err(|failure| about(&failure))?;
    let bytes = bounded_file::read(file, COMPONENT_BYTES_MAX)
        .map_err(|error| about(&format!("cannot be read: {error}")))?;
    let digest: Digest = digest_of(&bytes);
    if digest != inspection.digest {
        return Err(about(&"changed while it was looked at"));
    }
    let claim = Claim {
        name: Some(inspection.name.clone()),
        version: Some(inspection.version.clone()),
        sha256: Some(digest.hex()),
    };
    let unix_s = Clock::start().wall().0 / 1000;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let signature = key.sign(&bytes, claim.comment(&name, unix_s));
    let path = signature_path(file);
    write_whole(&path, &signature.file())
        .map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
    let line = format!(
        "{}  {} {} signed with key {}",
        path.display(),
        inspection.name,
        inspection.version,
        signature.key
    );
    let report = json!({
        "file": file,
        "signature_file": path,
        "name": inspection.name,
        "version": inspection.version,
        "sha256": digest.hex(),
        "key_id": signature.key.to_string(),
        "trusted_comment": signature.trusted_comment,
    });
    Ok((line, report))
}

/// In one step: a gateway that watches the file never meets half of it.
fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let draft = path.with_extension("minisig.new");
    std::fs::write(&draft, text)?;
    std::fs::rename(draft, path)
}
