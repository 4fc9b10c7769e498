//! Where a guest may connect to by itself, over `wasi:sockets`: addresses, ranges of them, and names, each with a port.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// One place, or a range of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TcpGrant {
    /// An address, or all that share its first `prefix` bits.
    Net {
        /// The address.
        address: IpAddr,
        /// Bits that count.
        prefix: u8,
        /// The ports.
        ports: PortRange,
    },
    /// What a name stands for when the guest connects.
    Name {
        /// The name.
        host: String,
        /// The ports.
        ports: PortRange,
    },
}

/// Ports from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl PortRange {
    /// Every port.
    pub const ALL: Self = Self {
        first: 1,
        last: u16::MAX,
    };

    /// Whether `port` is one of them.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// Why a text is no [`TcpGrant`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// No port.
    #[error(
        "needs a port: HOST:PORT, ADDRESS/BITS:PORT, [IPV6/BITS]:PORT; a port may be a range, 502-510, or * for all"
    )]
    NoPort,
    /// A port that is none.
    #[error("has a port that is no number from 1 to 65535, no range of them and not *")]
    Port,
    /// Bits that an address does not have.
    #[error("has more bits after the / than such an address has")]
    Prefix,
    /// Neither an address nor a name.
    #[error(
        "names no host: an IPv6 address goes in brackets, a name has letters, digits, '-', '_' and '.'"
    )]
    Host,
}

impl TcpGrant {
    /// Whether it is about `target`. A name never is by itself: whoever resolves it compares with [`Self::fits`].
    #[must_use]
    pub fn contains(&self, target: SocketAddr) -> bool {
        match self {
            Self::Net {
                address,
                prefix,
                ports,
            } => ports.contains(target.port()) && shares(*address, target.ip(), *prefix),
            Self::Name { .. } => false,
        }
    }

    /// The name to resolve, if `port` is one it is granted for.
    #[must_use]
    pub fn name(&self, port: u16) -> Option<&str> {
        match self {
            Self::Name { host, ports } if ports.contains(port) => Some(host),
            Self::Name { .. } | Self::Net { .. } => None,
        }
    }

    /// Whether `target` is what a name was resolved to.
    #[must_use]
    pub fn fits(resolved: IpAddr, target: SocketAddr) -> bool {
        resolved.to_canonical() == target.ip().to_canonical()
    }

    /// Whether it is about this name, whatever the port: then the name may be resolved.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        matches!(self, Self::Name { host, .. } if host.eq_ignore_ascii_case(name))
    }
}

/// Bits before the IPv4 address in one that is written as IPv6, `::ffff:192.0.2.7`: RFC 4291 section 2.5.5.2.
const MAPPED_BITS: u8 = 96;

/// A range within the mapped addresses is one of IPv4; one that reaches beyond them is one of IPv6 alone.
fn unmapped(address: IpAddr, prefix: u8) -> (IpAddr, u8) {
    match (
        address,
        address.to_canonical(),
        prefix.checked_sub(MAPPED_BITS),
    ) {
        (IpAddr::V6(_), IpAddr::V4(inner), Some(prefix)) => (IpAddr::V4(inner), prefix),
        (IpAddr::V4(_) | IpAddr::V6(_), _, _) => (address, prefix),
    }
}

/// Whether two addresses share their first bits. One that is wanted as IPv4 in IPv6 clothes is an IPv4 address.
fn shares(granted: IpAddr, wanted: IpAddr, prefix: u8) -> bool {
    let (granted, prefix) = unmapped(granted, prefix);
    let bits = u32::from(prefix);
    match (granted, wanted.to_canonical()) {
        (IpAddr::V4(granted), IpAddr::V4(wanted)) => {
            let differs = granted.to_bits() ^ wanted.to_bits();
            differs
                .checked_shr(32_u32.saturating_sub(bits))
                .unwrap_or(0)
                == 0
        }
        (IpAddr::V6(granted), IpAddr::V6(wanted)) => {
            let differs = granted.to_bits() ^ wanted.to_bits();
            differs
                .checked_shr(128_u32.saturating_sub(bits))
                .unwrap_or(0)
                == 0
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

fn ports(text: &str) -> Result<PortRange, BadTarget> {
    let number = |text: &str| match text.parse::<u16>() {
        Ok(0) | Err(_) => Err(BadTarget::Port),
        Ok(port) => Ok(port),
    };
    if text == "*" {
        return Ok(PortRange::ALL);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(BadTarget::Port);
    }
    Ok(PortRange { first, last })
}

impl FromStr for TcpGrant {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, BadTarget> {
        let (host, port) = text.rsplit_once(':').ok_or(BadTarget::NoPort)?;
        let bracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        if bracketed.is_none() && host.contains(':') {
            // An IPv6 address without brackets: its last group is not the port.
            return Err(BadTarget::Host);
        }
        let ports = ports(port)?;
        let inner = bracketed.unwrap_or(host);
        let (address, bits) = match inner.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (inner, None),
        };
        match address.parse::<IpAddr>() {
            Ok(address) if address.is_ipv6() == bracketed.is_some() => {
                let whole = if address.is_ipv4() { 32 } else { 128 };
                let prefix = bits.map_or(Ok(whole), |bits| {
                    bits.parse::<u8>()
                        .ok()
                        .filter(|bits| *bits <= whole)
                        .ok_or(BadTarget::Prefix)
                })?;
                Ok(Self::Net {
                    address,
                    prefix,
                    ports,
                })
            }
            Err(_) if bracketed.is_none() && bits.is_none() && is_name(address) => Ok(Self::Name {
                host: address.to_ascii_lowercase(),
                ports,
            }),
            Ok(_) | Err(_) => Err(BadTarget::Host),
        }
    }
}

/// RFC 1123 section 2.1, and the '_' that private networks use. One that is all digits and dots is a mistyped address.
pub(super) fn is_name(host: &str) -> bool {
    let label = |label: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        (1..=63).contains(&label.len()) && label.chars().all(plain)
    };
    host.len() <= 253 && host.split('.').all(label) && host.chars().any(|c| c.is_ascii_alphabetic())
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first, self.last) {
            _ if *self == Self::ALL => f.write_str("*"),
            (first, last) if first == last => write!(f, "{first}"),
            (first, last) => write!(f, "{first}-{last}"),
        }
    }
}

impl fmt::Display for TcpGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net {
                address: IpAddr::V6(address),
                prefix,
                ports,
            } => write!(f, "[{address}/{prefix}]:{ports}"),
            Self::Net {
                address,
                prefix,
                ports,
            } => write!(f, "{address}/{prefix}:{ports}"),
            Self::Name { host, ports } => write!(f, "{host}:{ports}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(text: &str) -> TcpGrant {
        text.parse().unwrap()
    }

    fn covers(text: &str, target: &str) -> bool {
        grant(text).contains(target.parse().unwrap())
    }

    #[test]
    fn a_range_covers_its_addresses_and_ports_and_nothing_else() {
        for (text, target, covered) in [
            ("192.0.2.7:502", "192.0.2.7:502", true),
            ("192.0.2.7:502", "192.0.2.7:503", false),
            ("192.0.2.7:502", "192.0.2.8:502", false),
            ("192.0.2.7:502", "[::ffff:192.0.2.7]:502", true),
            ("10.0.0.0/8:*", "10.255.1.2:1", true),
            ("10.0.0.0/8:*", "11.0.0.1:1", false),
            ("10.1.2.3/8:500-510", "10.9.9.9:510", true),
            ("10.1.2.3/8:500-510", "10.9.9.9:511", false),
            ("0.0.0.0/0:502", "203.0.113.9:502", true),
            ("0.0.0.0/0:502", "[2001:db8::1]:502", false),
            ("[fd00::/8]:502", "[fdff::1]:502", true),
            ("[fd00::/8]:502", "[fe00::1]:502", false),
            ("[::1]:4840", "[::1]:4840", true),
            ("[::/0]:4840", "[2001:db8::1]:4840", true),
            ("[::/0]:4840", "10.0.0.1:4840", false),
            ("plc.example:502", "192.0.2.7:502", false),
        ] {
            assert_eq!(covers(text, target), covered, "{text} {target}");
        }
    }

    #[test]
    fn an_ipv4_address_in_ipv6_clothes_is_granted_what_the_ipv4_address_is_and_nothing_else() {
        for grant in [
            "10.0.0.0/8:502",
            "10.0.0.1:502",
            "10.0.0.0/31:502",
            "0.0.0.0/0:502",
            "[::ffff:10.0.0.0/104]:502",
            "[::ffff:10.0.0.1]:502",
            "[::ffff:0.0.0.0/96]:502",
            "[::ffff:10.0.0.0/8]:502",
            "[::ffff:10.0.0.0/95]:502",
            "[::/0]:502",
            "[::10.0.0.1]:502",
        ] {
            for plain in ["10.0.0.1", "10.0.0.2", "10.255.0.1", "11.0.0.1", "0.0.0.1"] {
                let bare = covers(grant, &format!("{plain}:502"));
                let dressed = covers(grant, &format!("[::ffff:{plain}]:502"));
                assert_eq!(bare, dressed, "{grant} {plain}");
            }
        }
        for (text, target, covered) in [
            ("[::ffff:10.0.0.0/104]:502", "10.255.0.1:502", true),
            ("[::ffff:10.0.0.0/104]:502", "11.0.0.1:502", false),
            ("[::ffff:10.0.0.1]:502", "10.0.0.1:502", true),
            ("[::ffff:10.0.0.1]:502", "10.0.0.2:502", false),
            ("[::ffff:0.0.0.0/96]:502", "203.0.113.9:502", true),
            ("[::ffff:0.0.0.0/96]:502", "[2001:db8::1]:502", false),
            // These reach beyond the mapped addresses, and are about IPv6.
            ("[::ffff:10.0.0.0/8]:502", "10.0.0.1:502", false),
            ("[::ffff:10.0.0.0/8]:502", "[::1]:502", true),
            ("[::/0]:502", "[::ffff:10.0.0.1]:502", false),
            // What is only compatible is no IPv4 address to any system.
            ("10.0.0.0/8:502", "[::10.0.0.1]:502", false),
        ] {
            assert_eq!(covers(text, target), covered, "{text} {target}");
        }
    }

    #[test]
    fn a_name_counts_for_its_ports_and_what_it_resolves_to() {
        let plc = grant("PLC.example:502-503");
        assert_eq!(plc.name(502), Some("plc.example"));
        assert_eq!(plc.name(504), None);
        assert!(plc.is_called("plc.Example.") && !plc.is_called("evil.plc.example"));
        let resolved = "192.0.2.7".parse().unwrap();
        assert!(TcpGrant::fits(
            resolved,
            "[::ffff:192.0.2.7]:502".parse().unwrap()
        ));
        assert!(!TcpGrant::fits(resolved, "192.0.2.8:502".parse().unwrap()));
        assert_eq!(grant("10.0.0.0/8:502").name(502), None);
    }

    #[test]
    fn what_is_no_target_is_said_to_be_none() {
        for (text, why) in [
            ("plc", BadTarget::NoPort),
            ("plc:", BadTarget::Port),
            ("plc:0", BadTarget::Port),
            ("plc:5-3", BadTarget::Port),
            ("plc:70000", BadTarget::Port),
            ("10.0.0.0/33:1", BadTarget::Prefix),
            ("10.0.0.0/-1:1", BadTarget::Prefix),
            ("[fd00::/129]:1", BadTarget::Prefix),
            ("fd00::1:502", BadTarget::Host),
            ("[10.0.0.1]:502", BadTarget::Host),
            ("300.0.0.1:502", BadTarget::Host),
            ("plc/8:502", BadTarget::Host),
            (":502", BadTarget::Host),
            ("a b:502", BadTarget::Host),
            ("*:502", BadTarget::Host),
        ] {
            assert_eq!(text.parse::<TcpGrant>(), Err(why), "{text}");
        }
    }

    #[test]
    fn it_is_shown_as_it_is_written() {
        for text in ["10.0.0.0/8:*", "[fd00::/8]:502-510", "plc.example:502"] {
            assert_eq!(grant(text).to_string(), text);
        }
    }
}
