//! Certificates for people.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use moorline_core::doctor::facts::Certificate;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Name;

/// Names shown of one certificate.
const NAMES_MAX: usize = 8;

/// What one certificate says; none when it does not parse.
pub(super) fn read(der: &CertificateDer<'_>) -> Option<Certificate> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let not_before_s = certificate.validity().not_before.timestamp();
    let not_after_s = certificate.validity().not_after.timestamp();
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let names = alternatives.map_or_else(Vec::new, |names| {
        let names = &names.value.general_names;
        names.iter().filter_map(name).take(NAMES_MAX).collect()
    });
    Some(Certificate {
        subject: known_as(certificate.subject()),
        issuer: known_as(certificate.issuer()),
        names,
        not_before_s,
        not_after_s,
        not_before: day(not_before_s),
        not_after: day(not_after_s),
    })
}

/// The trusted certificate that issued the last of `chain`, or is in it.
pub(super) fn root(chain: &[CertificateDer<'_>], trusted: &[CertificateDer<'_>]) -> Option<String> {
    let (_, last) = X509Certificate::from_der(chain.last()?).ok()?;
    trusted.iter().find_map(|root| {
        let (_, parsed) = X509Certificate::from_der(root).ok()?;
        let issued = parsed.subject().as_raw() == last.issuer().as_raw();
        (issued || chain.contains(root)).then(|| known_as(parsed.subject()))
    })
}

/// The common name, or all of it.
fn known_as(name: &X509Name<'_>) -> String {
    let common = name.iter_common_name().next();
    let common = common.and_then(|common| common.as_str().ok());
    common.map_or_else(|| name.to_string(), |common| format!("\"{common}\""))
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::DNSName(name) = name {
        return Some((*name).to_owned());
    }
    let GeneralName::IPAddress(bytes) = name else {
        return None;
    };
    if let Ok(v4) = <[u8; 4]>::try_from(*bytes) {
        return Some(std::net::Ipv4Addr::from(v4).to_string());
    }
    let v6 = <[u8; 16]>::try_from(*bytes).ok()?;
    Some(std::net::Ipv6Addr::from(v6).to_string())
}

/// The day, in UTC as certificates count.
fn day(at_s: i64) -> String {
    moment(at_s, "%Y-%m-%d")
}

/// A time in UTC.
pub(super) fn time(at_s: i64) -> String {
    moment(at_s, "%Y-%m-%d %H:%M:%S UTC")
}

fn moment(at_s: i64, format: &str) -> String {
    Timestamp::from_second(at_s).map_or_else(
        |_out_of_range| format!("{at_s} s after 1970"),
        |at| at.to_zoned(TimeZone::UTC).strftime(format).to_string(),
    )
}
