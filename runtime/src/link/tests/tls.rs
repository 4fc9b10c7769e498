//! TLS refused, by either side, and TLS that holds.

use std::net::SocketAddr;
use std::sync::Arc;

use moorline_core::link::cause::{Cause, Certainty, Phase, TlsReject, TransportEnd};
use moorline_core::mqtt_frame::{FrameScanner, PacketKind};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    IsCa, KeyPair,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::super::{ClientIdentity, Secret, TlsSettings, Versions};
use super::rig::{self, reading};
use super::scripted::{Act, Peer, connack_v5, play};

pub(super) type Issuer = CertifiedIssuer<'static, KeyPair>;

pub(super) fn authority(name: &str) -> Issuer {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().expect("a key"))
        .expect("an authority")
}

/// A certificate for `name` and its key.
fn certificate(issuer: &Issuer, name: &str, years: std::ops::Range<i32>) -> (Certificate, KeyPair) {
    let key = KeyPair::generate().expect("a key");
    let mut parameters = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    parameters.not_before = rcgen::date_time_ymd(years.start, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(years.end, 1, 1);
    let certificate = parameters.signed_by(&key, issuer).expect("signed");
    (certificate, key)
}

const VALID: std::ops::Range<i32> = 2020..2090;

pub(super) async fn broker(
    issuer: &Issuer,
    name: &str,
    years: std::ops::Range<i32>,
    client_issuer: Option<&Issuer>,
) -> SocketAddr {
    let (certificate, key) = certificate(issuer, name, years);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions");
    let builder = match client_issuer {
        None => builder.with_no_client_auth(),
        Some(issuer) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(issuer.der().clone()).expect("a root");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
        }
    };
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = builder
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a server");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                #[expect(
                    clippy::disallowed_methods,
                    reason = "nobody looks at what this broker saw"
                )]
                let (seen, _unread) = mpsc::unbounded_channel();
                let scanner = FrameScanner::default();
                let mut peer = Peer {
                    stream,
                    scanner,
                    pending: Vec::new(),
                    frame: Vec::new(),
                    connection: 0,
                    seen,
                };
                for act in [Act::Expect(PacketKind::Connect), connack_v5(0), Act::Serve] {
                    if !peer.play(act).await {
                        return;
                    }
                }
            });
        }
    });
    address
}

pub(super) fn trusting(issuer: &Issuer) -> TlsSettings {
    TlsSettings {
        ca_pem: Some(issuer.pem().into_bytes()),
        server_name: Some("broker.test".into()),
        ..TlsSettings::default()
    }
}

async fn refused(address: SocketAddr, tls: TlsSettings) -> (TlsReject, Phase, String) {
    let mut rig = rig::start(address, |settings| {
        settings.versions = Versions::V5;
        settings.endpoints[0].tls = Some(tls);
    });
    let seen = rig.first_disconnect().await;
    match seen.cause {
        Cause::Tls(reject) => (reject, seen.phase, seen.to_string()),
        other => panic!("{other:?}: {seen}"),
    }
}

#[tokio::test]
async fn a_certificate_we_do_not_accept() {
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let cases = [
        (
            broker(&theirs, "broker.test", VALID, None).await,
            TlsReject::UnknownIssuer,
        ),
        (
            broker(&ours, "other.test", VALID, None).await,
            TlsReject::NameMismatch,
        ),
        (
            broker(&ours, "broker.test", 2010..2011, None).await,
            TlsReject::Expired,
        ),
        (
            broker(&ours, "broker.test", 2089..2090, None).await,
            TlsReject::NotYetValid,
        ),
    ];
    for (address, expected) in cases {
        let (reject, phase, text) = refused(address, trusting(&ours)).await;
        assert_eq!((reject, phase), (expected, Phase::Tls), "{text}");
    }
}

#[tokio::test]
async fn a_certificate_of_an_authority_we_trust_holds() {
    let ours = authority("ours");
    let address = broker(&ours, "broker.test", VALID, None).await;
    let mut rig = rig::start(address, |settings| {
        settings.endpoints[0].tls = Some(trusting(&ours))
    });
    rig.append(reading(1)).await;
    rig.delivered().await;
    assert!(rig.status.borrow().disconnects.is_empty());
}

#[tokio::test]
async fn a_broker_that_wants_a_certificate_of_ours() {
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let address = broker(&ours, "broker.test", VALID, Some(&ours)).await;
    // TLS 1.3 lets the client finish first: the alert comes where the CONNACK should.
    let expected = (TlsReject::ClientCertificate, Phase::Connect);
    let (reject, phase, text) = refused(address, trusting(&ours)).await;
    assert_eq!((reject, phase), expected, "{text}");

    let identity = |issuer: &Issuer| {
        let (certificate, key) = certificate(issuer, "line-7", VALID);
        ClientIdentity {
            certificates_pem: certificate.pem().into_bytes(),
            key_pem: Secret::new(key.serialize_pem()),
        }
    };
    let strange = TlsSettings {
        client: Some(identity(&theirs)),
        ..trusting(&ours)
    };
    let (reject, phase, text) = refused(address, strange).await;
    assert_eq!((reject, phase), expected, "{text}");

    let known = TlsSettings {
        client: Some(identity(&ours)),
        ..trusting(&ours)
    };
    let mut rig = rig::start(address, |settings| settings.endpoints[0].tls = Some(known));
    rig.append(reading(1)).await;
    rig.delivered().await;
    assert!(rig.status.borrow().disconnects.is_empty());
}

#[tokio::test]
async fn a_peer_that_does_not_speak_tls() {
    let ours = authority("ours");
    let plain = play(vec![vec![
        Act::Send(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        Act::Deaf,
    ]])
    .await;
    let (reject, phase, text) = refused(plain.address, trusting(&ours)).await;
    assert_eq!((reject, phase), (TlsReject::NotTls, Phase::Tls), "{text}");

    let closing = play(vec![vec![Act::HalfClose]]).await;
    let mut rig = rig::start(closing.address, |settings| {
        settings.endpoints[0].tls = Some(trusting(&ours))
    });
    let seen = rig.first_disconnect().await;
    assert_eq!(
        (seen.cause, seen.phase, seen.certainty),
        (
            Cause::Tls(TlsReject::Handshake),
            Phase::Tls,
            Certainty::Inferred
        ),
        "{seen}"
    );
    assert_eq!(seen.evidence.transport_end, Some(TransportEnd::Fin));

    let silent = play(vec![vec![Act::Deaf]]).await;
    let (reject, phase, text) = refused(silent.address, trusting(&ours)).await;
    assert_eq!(
        (reject, phase),
        (TlsReject::Handshake, Phase::Tls),
        "{text}"
    );
}

#[test]
fn unusable_files_are_told_before_the_first_attempt() {
    use super::super::{LinkSettings, TlsSetupError, check};

    let mut settings = LinkSettings::new("broker", 8883, "line-7", std::path::PathBuf::new());
    settings.endpoints[0].tls = Some(TlsSettings {
        ca_pem: Some(b"no certificate".to_vec()),
        ..TlsSettings::default()
    });
    assert!(matches!(check(&settings), Err(TlsSetupError::NoCa)));
    let ours = authority("ours");
    let client = ClientIdentity {
        certificates_pem: ours.pem().into_bytes(),
        key_pem: Secret::new("no key".into()),
    };
    settings.endpoints[0].tls = Some(TlsSettings {
        client: Some(client),
        ..trusting(&ours)
    });
    assert!(matches!(check(&settings), Err(TlsSetupError::ClientKey)));
    settings.endpoints[0].tls = Some(TlsSettings {
        server_name: Some("not a name".into()),
        ..trusting(&ours)
    });
    assert!(matches!(
        check(&settings),
        Err(TlsSetupError::ServerName(_))
    ));
}
