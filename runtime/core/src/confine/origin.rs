//! Where a guest may send HTTP requests to.

use std::fmt;
use std::str::FromStr;

use super::grants::is_name;

/// Scheme, host and port: what a request is sent to. Nothing else of it is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    secure: bool,
    host: String,
    port: u16,
}

/// Why a text is no [`Origin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadOrigin {
    /// Another scheme, or none.
    #[error("must begin with http:// or https://")]
    Scheme,
    /// No name and no address.
    #[error(
        "names no host; what follows the host, such as a path, is not compared and must not be there"
    )]
    Host,
    /// A port that is none.
    #[error("has a port that is no number from 1 to 65535")]
    Port,
}

impl Origin {
    /// Whether a request goes here.
    #[must_use]
    pub fn is(&self, secure: bool, host: &str, port: u16) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        self.secure == secure && self.port == port && self.host.eq_ignore_ascii_case(host)
    }
}

impl FromStr for Origin {
    type Err = BadOrigin;

    fn from_str(text: &str) -> Result<Self, BadOrigin> {
        let (secure, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(BadOrigin::Scheme),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let end = rest.rfind(']').map_or(0, |at| at + 1);
        let (host, port) = match rest.get(end..).and_then(|tail| tail.rfind(':')) {
            Some(at) => rest.split_at(end + at),
            None => (rest, ""),
        };
        let port = match port.strip_prefix(':') {
            None => {
                if secure {
                    443
                } else {
                    80
                }
            }
            Some(port) => match port.parse() {
                Ok(0) | Err(_) => return Err(BadOrigin::Port),
                Ok(port) => port,
            },
        };
        let bracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let usable = match bracketed {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => is_name(host) || host.parse::<std::net::Ipv4Addr>().is_ok(),
        };
        if !usable {
            return Err(BadOrigin::Host);
        }
        Ok(Self {
            secure,
            host: host.to_ascii_lowercase(),
            port,
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_its_scheme_host_and_port() {
        for (text, shown) in [
            ("https://api.example", "https://api.example:443"),
            ("http://API.example/", "http://api.example:80"),
            ("http://192.0.2.7:8080", "http://192.0.2.7:8080"),
            ("https://[fd00::1]:8443", "https://[fd00::1]:8443"),
            ("https://[fd00::1]", "https://[fd00::1]:443"),
        ] {
            assert_eq!(text.parse::<Origin>().unwrap().to_string(), shown);
        }
        let api: Origin = "https://api.example".parse().unwrap();
        assert!(api.is(true, "API.example.", 443));
        assert!(!api.is(false, "api.example", 443) && !api.is(true, "api.example", 8443));
        assert!(!api.is(true, "api.example.evil", 443) && !api.is(true, "", 443));
        for (text, why) in [
            ("api.example", BadOrigin::Scheme),
            ("ftp://api.example", BadOrigin::Scheme),
            ("https://", BadOrigin::Host),
            ("https://api.example/v1", BadOrigin::Host),
            ("https://user@api.example", BadOrigin::Host),
            ("https://*.example", BadOrigin::Host),
            ("https://fd00::1", BadOrigin::Host),
            ("https://api.example:0", BadOrigin::Port),
            ("https://api.example:x", BadOrigin::Port),
        ] {
            assert_eq!(text.parse::<Origin>(), Err(why), "{text}");
        }
    }
}
