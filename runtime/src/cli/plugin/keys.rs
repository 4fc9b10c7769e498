//! Keys as they are given on the command line: passwords, secret keys, public keys.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use clap::Args;
use moorline_core::trust::minisign::{PublicKey, SecretKeyFile};
use moorline_core::trust::{Policy, Settings, TrustedKey};

use crate::bounded_file;
use crate::cli::exit;
use crate::config;
use crate::trust::{KeyError, SIGNATURE_FILE_BYTES_MAX, SecretKey};

/// Where a password comes from: it has no place on a command line, which others can read.
#[derive(Clone, Debug)]
pub(super) enum PasswordSource {
    Env(String),
    File(PathBuf),
}

impl FromStr for PasswordSource {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        if let Some(name) = text.strip_prefix("env:") {
            Ok(Self::Env(name.to_owned()))
        } else if let Some(path) = text.strip_prefix("file:") {
            Ok(Self::File(path.into()))
        } else {
            // Not shown: it may be the password.
            Err("must be env:NAME or file:PATH; a password on the command line is read by others")
        }
    }
}

impl PasswordSource {
    fn read(&self) -> Result<String, String> {
        let text = match self {
            Self::Env(name) => std::env::var(name)
                .map_err(|error| format!("the password's environment variable {name}: {error}"))?,
            Self::File(path) => bounded_file::read_text(path, SIGNATURE_FILE_BYTES_MAX)
                .map_err(|error| format!("the password's file {}: {error}", path.display()))?,
        };
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }
}

/// A password from where it is said to be, or from whoever sits at the terminal.
pub(super) fn password(source: Option<&PasswordSource>, prompt: &str) -> Result<String, String> {
    if let Some(source) = source {
        return source.read();
    }
    if !std::io::stdin().is_terminal() {
        return Err(
            "a password is needed and nobody is at a terminal: give --password env:NAME or file:PATH"
                .to_owned(),
        );
    }
    rpassword::prompt_password(prompt).map_err(|error| format!("no password was read: {error}"))
}

/// The secret key in a file, opened.
pub(super) fn secret_key(
    path: &Path,
    source: Option<&PasswordSource>,
) -> Result<SecretKey, String> {
    let about = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let text =
        bounded_file::read_text(path, SIGNATURE_FILE_BYTES_MAX).map_err(|error| about(&error))?;
    let file = SecretKeyFile::parse(&text).map_err(|error| about(&KeyError::Format(error)))?;
    let password = match &file.password {
        Some(_) => Some(password(
            source,
            &format!("Password of {}: ", path.display()),
        )?),
        None => None,
    };
    SecretKey::open(&file, password.as_deref()).map_err(|error| about(&error))
}

/// Whom to believe.
#[derive(Debug, Args)]
pub(super) struct TrustOptions {
    /// A public key to check the signature with: the line that begins with RW, or a .pub file. May be given several times.
    #[arg(long = "key", value_name = "RW...|FILE")]
    keys: Vec<String>,
    /// A gateway's configuration, whose trusted keys count.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl TrustOptions {
    /// The keys of both. The policy is what a gateway with the configuration would have.
    pub(super) fn settings(&self) -> Result<Settings, ExitCode> {
        let mut settings = match &self.config {
            Some(file) => {
                let settings = config::load_without_secrets(file)
                    .map_err(|refused| exit::fail(exit::CONFIG, &refused))?;
                settings.plugins.trust
            }
            None => Settings {
                policy: Policy::Require,
                ..Settings::default()
            },
        };
        for text in &self.keys {
            settings.keys.push(trusted(text)?);
        }
        Ok(settings)
    }
}

fn trusted(text: &str) -> Result<TrustedKey, ExitCode> {
    if let Ok(key) = PublicKey::parse(text) {
        return Ok(TrustedKey {
            name: "given".into(),
            key,
        });
    }
    let path = Path::new(text.strip_prefix("file:").unwrap_or(text));
    let refuse = |why: &dyn std::fmt::Display| {
        let why = format!("{text} is no public key, and no file with one: {why}");
        exit::fail(exit::USAGE, &why)
    };
    let file =
        bounded_file::read_text(path, SIGNATURE_FILE_BYTES_MAX).map_err(|error| refuse(&error))?;
    let key = PublicKey::parse(&file).map_err(|error| refuse(&error))?;
    let name = path.file_stem().unwrap_or(path.as_os_str());
    Ok(TrustedKey {
        name: name.to_string_lossy().into(),
        key,
    })
}
