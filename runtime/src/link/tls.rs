//! TLS towards the broker: what we trust, what we show, and what a refusal means.

use std::io;
use std::sync::Arc;

use moorline_core::link::cause::TlsReject;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use thiserror::Error;
use tokio_rustls::TlsConnector;

use super::settings::{ClientIdentity, TlsSettings};

/// Why TLS cannot be set up: the operator's to mend, no use in retrying.
#[derive(Debug, Error)]
pub enum TlsSetupError {
    /// The CA file holds no certificate.
    #[error("the CA file holds no usable certificate")]
    NoCa,
    /// The system trusts nobody.
    #[error("this system has no trusted certificates; name a CA file")]
    NoSystemRoots,
    /// The client certificate does not parse.
    #[error("the client certificate file holds no usable certificate")]
    ClientCertificate,
    /// The client key does not parse.
    #[error("the client key file holds no usable private key")]
    ClientKey,
    /// Key and certificate do not fit, or the key is of a kind we cannot use.
    #[error("the client certificate and key cannot be used: {0}")]
    ClientIdentity(rustls::Error),
    /// The server name is neither a host name nor an address.
    #[error("{0:?} is not a name a certificate can carry")]
    ServerName(String),
}

/// A connector and the name it will ask for.
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) connector: TlsConnector,
    pub(super) server_name: ServerName<'static>,
}

/// Reads the certificates once, so that a mistake in them shows before the first attempt.
pub(super) fn prepare(settings: &TlsSettings, host: &str) -> Result<Tls, TlsSetupError> {
    let roots = match &settings.ca_pem {
        Some(pem) => roots_from_pem(pem)?,
        None => system_roots()?,
    };
    let builder =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsSetupError::ClientIdentity)?
            .with_root_certificates(roots);
    let mut config = match &settings.client {
        Some(identity) => with_identity(builder, identity)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = settings
        .alpn
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let name = settings.server_name.as_deref().unwrap_or(host);
    let server_name = ServerName::try_from(name.to_owned())
        .map_err(|_invalid| TlsSetupError::ServerName(name.to_owned()))?;
    Ok(Tls {
        connector: TlsConnector::from(Arc::new(config)),
        server_name,
    })
}

type Builder = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn with_identity(
    builder: Builder,
    identity: &ClientIdentity,
) -> Result<ClientConfig, TlsSetupError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&identity.certificates_pem)
        .collect::<Result<_, _>>()
        .map_err(|_pem| TlsSetupError::ClientCertificate)?;
    if chain.is_empty() {
        return Err(TlsSetupError::ClientCertificate);
    }
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.expose().as_bytes())
        .map_err(|_pem| TlsSetupError::ClientKey)?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(TlsSetupError::ClientIdentity)
}

fn roots_from_pem(pem: &[u8]) -> Result<RootCertStore, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_pem| TlsSetupError::NoCa)?;
    let (added, _unusable) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        Err(TlsSetupError::NoCa)
    } else {
        Ok(roots)
    }
}

// The system's store, not one compiled in: it is renewed with the system and carries the company's own authorities.
fn system_roots() -> Result<RootCertStore, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    let (added, _unusable) =
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        Err(TlsSetupError::NoSystemRoots)
    } else {
        Ok(roots)
    }
}

/// What a failed handshake or a later alert means; `None` when `error` did not come from TLS.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the rest of rustls' errors has no meaning of its own for the link"
)]
pub(super) fn rejection(error: &io::Error) -> Option<TlsReject> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidCertificate(error) => certificate_rejection(error),
        rustls::Error::AlertReceived(alert) => alert_rejection(*alert),
        // Bytes that are no TLS record: a plain MQTT listener, or something else altogether.
        rustls::Error::InvalidMessage(_) => TlsReject::NotTls,
        _ => TlsReject::Handshake,
    })
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the rest of rustls' errors is told apart in the detail only"
)]
fn certificate_rejection(error: &CertificateError) -> TlsReject {
    match error {
        CertificateError::UnknownIssuer => TlsReject::UnknownIssuer,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            TlsReject::NameMismatch
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsReject::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            TlsReject::NotYetValid
        }
        _ => TlsReject::BadCertificate,
    }
}

/// Alerts a server sends about the certificate of a client: ours, or the lack of one.
const CLIENT_CERTIFICATE_ALERTS: [AlertDescription; 9] = [
    AlertDescription::NoCertificate,
    AlertDescription::BadCertificate,
    AlertDescription::UnsupportedCertificate,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateUnknown,
    AlertDescription::UnknownCA,
    AlertDescription::AccessDenied,
    AlertDescription::CertificateRequired,
];

fn alert_rejection(alert: AlertDescription) -> TlsReject {
    if CLIENT_CERTIFICATE_ALERTS.contains(&alert) {
        TlsReject::ClientCertificate
    } else {
        TlsReject::Alert(u8::from(alert))
    }
}
