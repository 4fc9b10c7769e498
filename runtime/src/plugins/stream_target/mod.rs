//! Where a stream leads: the address of `[[connector.connection]]`, read and checked.

mod serial;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

pub use serial::{DataBits, FlowControl, Parity, SerialTarget, SerialTargetError, StopBits};
use thiserror::Error;

/// The far end of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamTarget {
    /// A TCP peer.
    Tcp(TcpTarget),
    /// A serial port of this machine.
    Serial(SerialTarget),
}

/// A TCP peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpTarget {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Why a stream's URL is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StreamTargetError {
    /// Another scheme, or none.
    #[error("must begin with tcp:// or serial://")]
    Scheme,
    /// No host.
    #[error("names no host")]
    Host,
    /// No port, or none that is a number from 1 to 65535.
    #[error("needs a port from 1 to 65535 after the last colon")]
    Port,
    /// A serial port's device or line is not described well.
    #[error(transparent)]
    Serial(#[from] SerialTargetError),
}

impl StreamTarget {
    /// Whoever has it open keeps everybody else out.
    pub(crate) fn has_one_user(&self) -> bool {
        matches!(self, Self::Serial(_))
    }

    /// How long so many bytes are on the line at least; nothing where only the network knows.
    pub(crate) fn transmission_time(&self, bytes: usize) -> Duration {
        match self {
            Self::Tcp(_) => Duration::ZERO,
            Self::Serial(target) => target.transmission_time(bytes),
        }
    }
}

impl FromStr for StreamTarget {
    type Err = StreamTargetError;

    fn from_str(url: &str) -> Result<Self, StreamTargetError> {
        if let Some(rest) = url.strip_prefix("tcp://") {
            rest.parse().map(Self::Tcp)
        } else if let Some(rest) = url.strip_prefix("serial://") {
            Ok(Self::Serial(rest.parse()?))
        } else {
            Err(StreamTargetError::Scheme)
        }
    }
}

impl FromStr for TcpTarget {
    type Err = StreamTargetError;

    fn from_str(authority: &str) -> Result<Self, StreamTargetError> {
        let (host, port) = authority.rsplit_once(':').ok_or(StreamTargetError::Port)?;
        let port = match port.parse() {
            Ok(0) | Err(_) => return Err(StreamTargetError::Port),
            Ok(port) => port,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(StreamTargetError::Host);
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for StreamTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(TcpTarget { host, port }) => write!(f, "tcp://{host}:{port}"),
            Self::Serial(target) => target.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_url_names_host_and_port() {
        let target: StreamTarget = "tcp://[::1]:502".parse().unwrap();
        let wanted = TcpTarget {
            host: "::1".to_owned(),
            port: 502,
        };
        assert_eq!(target, StreamTarget::Tcp(wanted));
        for (url, error) in [
            ("plc:502", StreamTargetError::Scheme),
            ("/dev/ttyUSB0", StreamTargetError::Scheme),
            ("tcp://:502", StreamTargetError::Host),
            ("tcp://plc", StreamTargetError::Port),
            ("tcp://plc:0", StreamTargetError::Port),
            ("tcp://plc:70000", StreamTargetError::Port),
        ] {
            assert_eq!(url.parse::<StreamTarget>(), Err(error), "{url}");
        }
    }
}
