//! When certificates end: a link that works today and not tomorrow should say so today.

use std::time::Duration;

use moorline_core::time::TimestampMs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

const DAY_MS: u64 = 24 * 3600 * 1000;
/// From so long before its end on a certificate is worth a word.
const NEAR: Duration = Duration::from_secs(30 * 24 * 3600);

/// The first moment at which a chain is no longer valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertificateEnd(pub TimestampMs);

impl CertificateEnd {
    /// Of the certificate of a chain that ends first; none where none can be read.
    pub(super) fn of(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let end = |der: &CertificateDer<'_>| {
            let (_, certificate) = X509Certificate::from_der(der).ok()?;
            let end_s = certificate.validity().not_after.timestamp();
            let end_ms = u64::try_from(end_s).ok()?.saturating_mul(1000);
            Some(Self(TimestampMs(end_ms)))
        };
        chain.iter().filter_map(end).min_by_key(|end| end.0)
    }

    /// Of the certificates in a PEM file.
    pub(crate) fn of_pem(pem: &[u8]) -> Option<Self> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
            .filter_map(Result::ok)
            .collect();
        Self::of(&chain)
    }

    /// Whether it is less than thirty days away, or past.
    #[must_use]
    pub fn is_near(self, now: TimestampMs) -> bool {
        Duration::from_millis(self.0.0.saturating_sub(now.0)) < NEAR
    }

    /// "ends in 3 days", "ended 3 days ago".
    #[must_use]
    pub fn words(self, now: TimestampMs) -> String {
        let days = |from: TimestampMs, to: TimestampMs| to.0.saturating_sub(from.0) / DAY_MS;
        if self.0 > now {
            format!("ends in {} days", days(now, self.0))
        } else {
            format!("ended {} days ago", days(self.0, now))
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn the_first_end_of_a_chain_counts() {
        let certificate = |until: i32| {
            let mut parameters = CertificateParams::new(vec!["broker".into()]).expect("a name");
            parameters.not_after = rcgen::date_time_ymd(until, 1, 1);
            let key = KeyPair::generate().expect("a key");
            parameters.self_signed(&key).expect("signed")
        };
        let (late, early) = (certificate(2090), certificate(2040));
        let pem = format!("{}{}", late.pem(), early.pem());
        // 2040-01-01.
        let end = CertificateEnd(TimestampMs(2_208_988_800_000));
        assert_eq!(CertificateEnd::of_pem(pem.as_bytes()), Some(end));
        assert_eq!(CertificateEnd::of_pem(b"nothing"), None);
        let before = |days: u64| TimestampMs(end.0.0 - days * DAY_MS);
        assert!(!end.is_near(before(30)) && end.is_near(before(29)));
        assert_eq!(end.words(before(29)), "ends in 29 days");
        let after = TimestampMs(end.0.0 + 2 * DAY_MS);
        assert!(end.is_near(after));
        assert_eq!(end.words(after), "ended 2 days ago");
    }
}
