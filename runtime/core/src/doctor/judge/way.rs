//! The way to the broker: name, address, protocol, certificate, clock.

use super::super::facts::{
    AddressSeen, Certificate, ClockSeen, NameSeen, Outer, ProtocolSeen, Speech, TlsSeen,
};
use super::super::{Field, Finding, Probe, Wanted};
use super::{advised, ms, said};
use crate::link::cause::{Cause, TlsReject};

/// A certificate that ends so soon is worth a word.
const EXPIRY_WARNING_S: i64 = 30 * 24 * 3600;
/// Clocks that differ by less are taken to agree: readings carry this gateway's time.
const CLOCK_TOLERANCE_S: i64 = 5;
const DAY_S: i64 = 24 * 3600;

/// The broker's addresses.
#[must_use]
pub fn name(wanted: &Wanted, seen: &NameSeen) -> Finding {
    let host = &wanted.host;
    match &seen.addresses {
        Err(failed) => advised(Finding::fails(Probe::Name, said(failed)), failed),
        Ok(_) if seen.literal && wanted.via.is_none() => Finding::fits(
            Probe::Name,
            format!("{host} is an address, no name to look up"),
        ),
        Ok(addresses) => {
            let host = wanted.via.as_ref().unwrap_or(host);
            let shown: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            let v4 = addresses.iter().filter(|address| address.is_ipv4()).count();
            Finding::fits(Probe::Name, format!("{host} is {}", shown.join(", ")))
                .with("ipv4", v4.to_string())
                .with("ipv6", (addresses.len() - v4).to_string())
        }
    }
}

/// Which addresses answer.
#[must_use]
pub fn connection(wanted: &Wanted, seen: &[AddressSeen]) -> Finding {
    let shown = |one: &AddressSeen| match &one.connected {
        Ok(took) => format!("{} answers in {}", one.address, ms(*took)),
        Err(failed) => format!("{}: {}", one.address, said(failed)),
    };
    let each: Vec<_> = seen.iter().map(shown).collect();
    let good = seen.iter().filter(|one| one.connected.is_ok()).count();
    let finding = match seen.iter().find_map(|one| one.connected.as_ref().err()) {
        None => Finding::fits(Probe::Connection, each.join("; ")),
        Some(failed) if good == 0 => {
            advised(Finding::fails(Probe::Connection, each.join("; ")), failed)
        }
        Some(_) => Finding::warns(
            Probe::Connection,
            format!("not every address answers: {}", each.join("; ")),
        )
        .remedy(
            Field::Url,
            format!(
                "mend the address that does not answer, or name in link.url the one that does: until then an attempt \
                 may first wait for {}'s others",
                wanted.host
            ),
        ),
    };
    seen.iter().fold(finding, |finding, one| {
        let result = match &one.connected {
            Ok(took) => ms(*took),
            Err(failed) => failed.cause.name().to_owned(),
        };
        finding.with("address", format!("{} {result}", one.address))
    })
}

/// What the listener speaks, against what the URL says.
#[must_use]
pub fn protocol(wanted: &Wanted, seen: &ProtocolSeen) -> Finding {
    let http = [&seen.inside, &seen.other, &seen.http]
        .into_iter()
        .flatten()
        .find(|speech| matches!(speech, Speech::Http { .. }));
    let finding = match (seen.outer, &seen.inside, &seen.other) {
        (Outer::Plain | Outer::Tls, Some(Speech::Mqtt), _) => {
            let layers = match (wanted.websocket.is_some(), wanted.tls) {
                (false, false) => "MQTT without TLS",
                (false, true) => "MQTT over TLS",
                (true, false) => "MQTT over WebSocket without TLS",
                (true, true) => "MQTT over WebSocket and TLS",
            };
            Finding::fits(Probe::Protocol, format!("{layers}, as the URL says"))
        }
        (Outer::TlsRefused, _, _) => Finding::fits(
            Probe::Protocol,
            "TLS, as the URL says; what it carries shows once the handshake succeeds",
        ),
        (Outer::Plain, Some(Speech::Tls), _) | (Outer::Plain, _, Some(Speech::Tls)) => {
            expects_tls(wanted)
        }
        (Outer::NotTls, _, Some(Speech::Mqtt)) => expects_no_tls(wanted),
        (Outer::Plain | Outer::Tls, _, Some(Speech::Mqtt)) => expects_no_websocket(wanted),
        (outer, inside, other) => match http {
            Some(Speech::Http { line, .. }) => web_server(wanted, outer, line, inside.as_ref()),
            Some(_) | None => no_mqtt(wanted, outer, inside.as_ref().or(other.as_ref())),
        },
    };
    let heard = [
        ("answered_connect", &seen.inside),
        ("answered_otherwise", &seen.other),
        ("answered_http", &seen.http),
    ];
    heard
        .into_iter()
        .filter_map(|(name, speech)| Some((name, speech.as_ref()?)))
        .fold(finding, |finding, (name, speech)| {
            finding.with(name, speech.words())
        })
}

fn expects_tls(wanted: &Wanted) -> Finding {
    let websocket = wanted.websocket.as_deref();
    let said = format!(
        "port {} expects TLS, and the URL says {}",
        wanted.port,
        wanted.url()
    );
    Finding::fails(Probe::Protocol, said).set(
        Field::Url,
        format!("{:?}", wanted.url_with(true, websocket)),
        "say so in the URL (and under [link.tls] which authority to trust), or give the port of the broker's listener without \
         TLS",
    )
}

fn expects_no_tls(wanted: &Wanted) -> Finding {
    let said = format!(
        "port {} speaks MQTT without TLS, and the URL says {}",
        wanted.port,
        wanted.url()
    );
    Finding::fails(Probe::Protocol, said).set(
        Field::Url,
        format!("{:?}", wanted.url_with(false, None)),
        "give the port of the broker's TLS listener (usually 8883); or say mqtt://, which lets everybody on the way read \
         user name and password",
    )
}

fn expects_no_websocket(wanted: &Wanted) -> Finding {
    let said = format!(
        "port {} speaks MQTT without WebSocket, and the URL says {}",
        wanted.port,
        wanted.url()
    );
    Finding::fails(Probe::Protocol, said).set(
        Field::Url,
        format!("{:?}", wanted.url_with(wanted.tls, None)),
        "say so in the URL, or give the port of the broker's WebSocket listener",
    )
}

/// Where brokers serve MQTT over WebSocket unless they are told otherwise.
const USUAL_PATH: &str = "/mqtt";

/// A web server answers, with `line`; `inside` is what CONNECT was answered with in a WebSocket, where one was wanted.
fn web_server(wanted: &Wanted, outer: Outer, line: &str, inside: Option<&Speech>) -> Finding {
    let here = format!("port {}", wanted.port);
    let upgrades = line.split(' ').nth(1) == Some("101");
    let tls = outer == Outer::Tls;
    let fails = |said| Finding::fails(Probe::Protocol, said);
    match &wanted.websocket {
        Some(path) if tls != wanted.tls => fails(format!(
            "{here} speaks HTTP without TLS, and the URL says {}",
            wanted.url()
        ))
        .set(
            Field::Url,
            format!("{:?}", wanted.url_with(false, Some(path))),
            "give the port of the listener with TLS; or say ws://, which lets everybody on the way read user name and \
             password",
        ),
        Some(_) if upgrades => {
            let answered = inside.map_or_else(|| "nothing".to_owned(), Speech::words);
            fails(format!(
                "{here} opens a WebSocket, and CONNECT in it is answered with {answered}"
            ))
            .remedy(
                Field::Url,
                "check that this is the broker's WebSocket listener and read the broker's log: it may refuse this machine",
            )
        }
        Some(path) => fails(format!(
            "{here} answers with HTTP ({line:?}) where the URL wants a WebSocket at {path}"
        ))
        .remedy(
            Field::Url,
            "give in the URL the path at which the broker, or the web server before it, serves MQTT over WebSocket",
        ),
        None if upgrades => fails(format!(
            "{here} speaks MQTT over WebSocket, and the URL says {}",
            wanted.url()
        ))
        .set(
            Field::Url,
            format!("{:?}", wanted.url_with(tls, Some(USUAL_PATH))),
            "say so in the URL, or give the port of the broker's MQTT listener over TCP (usually 1883, with TLS 8883)",
        ),
        None => fails(format!(
            "{here} speaks HTTP ({line:?}): a WebSocket or web listener"
        ))
        .remedy(
            Field::Url,
            "give the port of the broker's MQTT listener over TCP (usually 1883, with TLS 8883); or, with ws:// or wss://, \
             the path at which MQTT over WebSocket is served",
        ),
    }
}

/// Whoever is there, it is no MQTT that the link could speak.
fn no_mqtt(wanted: &Wanted, outer: Outer, speech: Option<&Speech>) -> Finding {
    let here = format!("port {}", wanted.port);
    let (said, remedy) = match (outer, speech) {
        (Outer::NotTls, other) => (
            format!("{here} does not speak TLS{}", answers(other)),
            "check that host and port are those of the broker's TLS listener",
        ),
        (_, Some(Speech::Silent)) => (
            format!("{here} takes a connection and a CONNECT, and never answers"),
            "check that host and port are those of an MQTT listener; if they are, the broker or something before it hangs",
        ),
        (_, Some(Speech::Closed) | None) => (
            format!("{here} closes as soon as it gets a CONNECT, without a word"),
            "check that host and port are those of an MQTT listener and read the broker's log: it may refuse this machine",
        ),
        (_, other) => (
            format!("{here} is no MQTT listener{}", answers(other)),
            "give host and port of the broker's MQTT listener",
        ),
    };
    Finding::fails(Probe::Protocol, said).remedy(Field::Url, remedy)
}

fn answers(speech: Option<&Speech>) -> String {
    speech.map_or_else(String::new, |speech| {
        format!("; it answers with {}", speech.words())
    })
}

/// The certificates. Without TLS: who can listen.
#[must_use]
pub fn tls(wanted: &Wanted, seen: Option<&TlsSeen>, loopback: bool) -> Finding {
    let Some(seen) = seen else {
        if loopback {
            return Finding::fits(
                Probe::Tls,
                "not used, and needs not to be: the broker is this machine",
            );
        }
        return Finding::warns(
            Probe::Tls,
            "not used: everybody on the way can read and change what is sent, user name and password included",
        )
        .remedy(
            Field::Url,
            "give the port of the broker's TLS listener, with mqtts://",
        );
    };
    let finding = match &seen.handshake {
        Ok(terms) => accepted(wanted, seen)
            .with("version", terms.version.clone())
            .with("cipher", terms.cipher.clone())
            .with("alpn", terms.alpn.clone().unwrap_or_else(|| "none".into())),
        Err(failed) => {
            if let Cause::Tls(reject) = failed.cause {
                let finding = Finding::fails(Probe::Tls, refused(wanted, seen, reject));
                let finding = finding.with("cause", failed.cause.name());
                mended(wanted, seen, reject, finding)
            } else {
                advised(Finding::fails(Probe::Tls, said(failed)), failed)
            }
        }
    };
    let finding = finding
        .with("asked_for", wanted.server_name.clone())
        .with("clock_here", seen.now.clone());
    seen.offered.iter().fold(finding, |finding, one| {
        let Certificate {
            subject,
            issuer,
            not_before,
            not_after,
            names,
            ..
        } = one;
        let names = if names.is_empty() {
            String::new()
        } else {
            format!(", for {}", names.join(", "))
        };
        finding.with(
            "certificate",
            format!("{subject}{names}; issued by {issuer}; valid {not_before} to {not_after}"),
        )
    })
}

fn accepted(wanted: &Wanted, seen: &TlsSeen) -> Finding {
    let root = match &seen.root {
        Some(root) if wanted.ca_file => format!("trusted by {root} of link.tls.ca_file"),
        Some(root) => format!("trusted by {root} of this system"),
        None => "trusted".to_owned(),
    };
    // The first of the chain to end ends it.
    let Some(first) = seen.offered.iter().min_by_key(|one| one.not_after_s) else {
        return Finding::fits(Probe::Tls, root);
    };
    let days = (first.not_after_s - seen.now_s) / DAY_S;
    let until = format!("{root}; valid until {} ({days} days)", first.not_after);
    if first.not_after_s - seen.now_s < EXPIRY_WARNING_S {
        Finding::warns(Probe::Tls, until).remedy(
            Field::Url,
            format!(
                "renew the certificate {} of the broker in time",
                first.subject
            ),
        )
    } else {
        Finding::fits(Probe::Tls, until)
    }
}

fn refused(wanted: &Wanted, seen: &TlsSeen, reject: TlsReject) -> String {
    let own = seen.offered.first();
    let clock = &seen.now;
    match (reject, own) {
        (TlsReject::Expired, _) => {
            let expired = seen.offered.iter().find(|one| one.not_after_s < seen.now_s);
            expired.map_or_else(
                || "a certificate has expired".to_owned(),
                |one| {
                    format!(
                        "the certificate {} expired on {}, {} days ago by this machine's clock ({clock})",
                        one.subject,
                        one.not_after,
                        (seen.now_s - one.not_after_s) / DAY_S
                    )
                },
            )
        }
        (TlsReject::NotYetValid, Some(one)) => format!(
            "the certificate {} is valid only from {}, and this machine's clock says {clock}",
            one.subject, one.not_before
        ),
        (TlsReject::NameMismatch, Some(one)) => format!(
            "the certificate is for {}, and {} was asked for",
            if one.names.is_empty() {
                one.subject.clone()
            } else {
                one.names.join(", ")
            },
            wanted.server_name
        ),
        (TlsReject::UnknownIssuer, Some(_)) => {
            // What the last of the chain names as its issuer is what is missing here.
            let issuer = seen.offered.last().map_or("", |one| one.issuer.as_str());
            let trusted = if wanted.ca_file {
                "is not in link.tls.ca_file"
            } else {
                "is not among the authorities this system trusts"
            };
            format!("the certificate is issued by {issuer}, who {trusted}")
        }
        (reject, _) => Cause::Tls(reject).words().to_owned(),
    }
}

fn mended(wanted: &Wanted, seen: &TlsSeen, reject: TlsReject, finding: Finding) -> Finding {
    let names = seen
        .offered
        .first()
        .map_or(&[][..], |one| one.names.as_slice());
    match reject {
        TlsReject::Expired => finding.remedy(
            Field::Url,
            "renew the certificate at the broker this URL names and have the broker read it; if it is still valid today, \
             set this machine's clock",
        ),
        TlsReject::NotYetValid => finding.remedy(
            Field::Url,
            "set this machine's clock; if it is right, the broker this URL names has a certificate for later",
        ),
        TlsReject::NameMismatch => match names.iter().find(|name| !name.starts_with('*')) {
            Some(name) => finding.set(
                Field::ServerName,
                format!("{name:?}"),
                "use a name of the certificate as the host in link.url, or ask for it here; or have the certificate made \
                 for the name in the URL",
            ),
            None => finding.remedy(
                Field::Url,
                "use a name the certificate is for as the host, or have the certificate made for this one",
            ),
        },
        TlsReject::UnknownIssuer => finding.remedy(
            Field::CaFile,
            if wanted.ca_file {
                "name the PEM file with the certificate of the authority that issued the broker's"
            } else {
                "get the certificate of the authority that issued the broker's, as PEM, and name the file here"
            },
        ),
        TlsReject::ClientCertificate => finding.remedy(
            Field::ClientCertFile,
            "give the gateway a certificate (with client_key_file) of an authority the broker trusts",
        ),
        TlsReject::NotTls
        | TlsReject::BadCertificate
        | TlsReject::Alert(_)
        | TlsReject::Handshake => finding.remedy(Field::Url, Cause::Tls(reject).advice()),
    }
}

/// What can be known of the difference between the clocks.
#[must_use]
pub fn clock(seen: &ClockSeen) -> Finding {
    let probe = Probe::Clock;
    match (seen.http_ahead_s, seen.certificate_valid) {
        (Some(ahead), _) if ahead.abs() > CLOCK_TOLERANCE_S => Finding::warns(
            probe,
            format!("this machine's clock is {ahead} s ahead of the broker's, by its HTTP Date"),
        )
        .remedy(
            Field::Url,
            "let both machines follow a time server: readings carry this gateway's time",
        ),
        (Some(ahead), _) => Finding::fits(
            probe,
            format!("this machine's clock is {ahead} s ahead of the broker's, by its HTTP Date"),
        ),
        (None, Some(true)) => Finding::fits(
            probe,
            "within the certificate's dates; MQTT tells no time, so that no more can be said",
        ),
        (None, Some(false)) => Finding::warns(
            probe,
            "outside the certificate's dates: either the certificate or this machine's clock is wrong",
        )
        .remedy(Field::Url, "compare this machine's clock with a good one first"),
        (None, None) => Finding::not_tried(
            probe,
            "because neither MQTT nor this broker tells the time; readings carry this machine's",
        ),
    }
}
