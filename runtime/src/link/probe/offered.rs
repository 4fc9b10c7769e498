//! The certificates a broker shows, kept also when they are refused. It trusts nobody more than the link does.

use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

use super::super::settings::TlsSettings;
use super::super::tls::{self, Tls, TlsSetupError};

/// More certificates than this are no chain.
const CHAIN_MAX: usize = 16;

/// The chain of one handshake.
#[derive(Clone, Debug, Default)]
pub(super) struct Offered(Arc<OnceLock<Vec<CertificateDer<'static>>>>);

impl Offered {
    /// The link's TLS, which also notes what the broker shows.
    pub(super) fn recorded(
        settings: &TlsSettings,
        host: &str,
        trusted: Vec<CertificateDer<'static>>,
    ) -> Result<(Tls, Self), TlsSetupError> {
        let tls = tls::prepare(settings, host)?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(trusted);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let judge = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|_no_roots| TlsSetupError::NoCa)?;
        let offered = Self::default();
        let mut config = tls.connector.config().as_ref().clone();
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(Recorder {
                judge,
                offered: offered.clone(),
            }));
        let tls = Tls {
            connector: TlsConnector::from(Arc::new(config)),
            server_name: tls.server_name,
        };
        Ok((tls, offered))
    }

    /// The chain, the broker's own certificate first; empty when none was shown.
    pub(super) fn take(&self) -> Vec<CertificateDer<'static>> {
        self.0.get().cloned().unwrap_or_default()
    }
}

/// The authorities the link trusts.
pub(super) fn trusted(
    settings: &TlsSettings,
) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    match &settings.ca_pem {
        Some(pem) => CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|_pem| TlsSetupError::NoCa),
        None => Ok(rustls_native_certs::load_native_certs().certs),
    }
}

#[derive(Debug)]
struct Recorder {
    judge: Arc<WebPkiServerVerifier>,
    offered: Offered,
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.offered.0.get_or_init(|| {
            std::iter::once(end_entity)
                .chain(intermediates)
                .take(CHAIN_MAX)
                .map(|certificate| certificate.clone().into_owned())
                .collect()
        });
        self.judge
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.supported_verify_schemes()
    }
}
