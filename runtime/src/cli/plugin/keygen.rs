//! `moorline plugin keygen`.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::keys::{PasswordSource, password};
use super::print;
use crate::cli::{OutputFormat, exit};
use crate::trust::SecretKey;

const SECRET_MODE: u32 = 0o600;
const PUBLIC_MODE: u32 = 0o644;

#[derive(Debug, Args)]
pub(in crate::cli) struct KeygenOptions {
    /// Where to put the pair: NAME.key and NAME.pub.
    name: PathBuf,
    /// Where the password comes from [default: asked for at the terminal].
    #[arg(
        long,
        value_name = "env:NAME|file:PATH",
        conflicts_with = "no_password"
    )]
    password: Option<PasswordSource>,
    /// Leave the secret key open: whoever reads the file can sign.
    #[arg(long, short = 'W')]
    no_password: bool,
    /// How to print the result [default: human on a terminal, json elsewhere].
    #[arg(long, value_enum)]
    format: Option<OutputFormat>,
}

pub(super) fn keygen(options: &KeygenOptions) -> ExitCode {
    let password = match chosen_password(options) {
        Ok(password) => password,
        Err(why) => return exit::fail(exit::USAGE, &why),
    };
    let made = SecretKey::generate().and_then(|key| {
        let file = key.file(password.as_deref())?;
        Ok((key.public(), file.file()))
    });
    let (public, secret) = match made {
        Ok(made) => made,
        Err(error) => return exit::fail(exit::OS, &error),
    };
    let beside = |suffix: &str| {
        let mut path = options.name.clone().into_os_string();
        path.push(suffix);
        PathBuf::from(path)
    };
    let (secret_path, public_path) = (beside(".key"), beside(".pub"));
    for (path, mode, text) in [
        (&secret_path, SECRET_MODE, &secret),
        (&public_path, PUBLIC_MODE, &public.file()),
    ] {
        if let Err(error) = write_new(path, mode, text) {
            return exit::fail(exit::OS, &refusal(path, &error));
        }
    }
    let sealed = password.is_some();
    let name = options
        .name
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let protection = if sealed {
        "sealed with the password"
    } else {
        "open: whoever reads it can sign"
    };
    let human = format!(
        "{}  secret key {}, {protection}; keep it where plugins are released, not on gateways\n\
         {}  public key\n\n\
         To trust it, in a gateway's configuration:\n\n\
         [plugins.trusted_keys]\n{name} = \"{}\"\n\n\
         To sign with it: moorline plugin sign PLUGIN.wasm --key {}",
        secret_path.display(),
        public.id,
        public_path.display(),
        public.line(),
        secret_path.display(),
    );
    let report = json!({
        "key_id": public.id.to_string(),
        "public_key": public.line(),
        "public_key_file": public_path,
        "secret_key_file": secret_path,
        "sealed": sealed,
    });
    print(options.format, &human, &report);
    ExitCode::SUCCESS
}

fn chosen_password(options: &KeygenOptions) -> Result<Option<String>, String> {
    if options.no_password {
        return Ok(None);
    }
    let first = password(options.password.as_ref(), "Password for the secret key: ")?;
    if first.is_empty() {
        return Err("the password is empty; --no-password leaves a key open on purpose".to_owned());
    }
    if options.password.is_none() && password(None, "Once more: ")? != first {
        return Err("the passwords differ; no key was made".to_owned());
    }
    Ok(Some(first))
}

/// A key that is there is never written over: what it has signed could not be signed again.
fn write_new(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn refusal(path: &Path, error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::AlreadyExists {
        format!(
            "{} is there already and is not written over; choose another name",
            path.display()
        )
    } else {
        format!("{} cannot be written: {error}", path.display())
    }
}
