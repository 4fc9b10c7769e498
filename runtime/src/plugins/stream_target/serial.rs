//! `serial:///dev/ttyUSB0?baud=9600&data_bits=8&parity=none&stop_bits=1&flow_control=none`. Pure.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

/// Bits a second that are believed; what a port really does is asked of its driver.
const BAUD_MIN: u32 = 50;
const BAUD_MAX: u32 = 4_000_000;
/// The longest path Linux opens, with the byte that ends it.
const PATH_BYTES_MAX: usize = 4095;

/// What other programs call our keys: ThingsBoard's gateway and pyserial, Telegraf, Node-RED.
const KNOWN_AS: [(&str, &str); 13] = [
    ("baudrate", "baud"),
    ("baud_rate", "baud"),
    ("speed", "baud"),
    ("bytesize", "data_bits"),
    ("databits", "data_bits"),
    ("char_size", "data_bits"),
    ("stopbits", "stop_bits"),
    ("flowcontrol", "flow_control"),
    ("handshake", "flow_control"),
    ("rtscts", "flow_control=rts-cts"),
    ("xonxoff", "flow_control=xon-xoff"),
    ("data", "data_bits"),
    ("stop", "stop_bits"),
];

/// A serial port of this machine, and how bytes look on its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SerialTarget {
    /// The device file.
    pub device: PathBuf,
    /// Bits a second, both ways.
    pub baud: u32,
    /// Bits of a byte.
    pub data_bits: DataBits,
    /// What is sent behind them.
    pub parity: Parity,
    /// The least pause between two bytes.
    pub stop_bits: StopBits,
    /// How one end holds up the other.
    pub flow_control: FlowControl,
}

/// Names a set of values as they are written.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident, $wanted:literal, $($(#[$of:meta])* $case:ident = $word:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$of])* $case),+
        }

        impl $name {
            const WANTED: &str = $wanted;

            fn read(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$case),)+
                    _ => None,
                }
            }

            const fn word(self) -> &'static str {
                match self {
                    $(Self::$case => $word),+
                }
            }
        }
    };
}

named!(
    /// Bits of a byte.
    DataBits, "5, 6, 7 or 8",
    /// Five; telegraphs.
    Five = "5",
    /// Six.
    Six = "6",
    /// Seven; meters by IEC 62056-21.
    Seven = "7",
    /// Eight; nearly everything.
    Eight = "8",
);

named!(
    /// What tells a byte that arrived wrong.
    Parity, "none, even or odd",
    /// Nothing.
    None = "none",
    /// The ones of each byte are even with it.
    Even = "even",
    /// The ones of each byte are odd with it.
    Odd = "odd",
);

named!(
    /// The least pause between two bytes.
    StopBits, "1 or 2",
    /// One bit long.
    One = "1",
    /// Two bits long.
    Two = "2",
);

named!(
    /// How one end holds up the other.
    FlowControl, "none, rts-cts or xon-xoff",
    /// Not at all.
    None = "none",
    /// By two more wires.
    RtsCts = "rts-cts",
    /// By two bytes, which no message may hold then.
    XonXoff = "xon-xoff",
);

/// Why the URL of a serial port is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SerialTargetError {
    /// No absolute path.
    #[error("names no device file: write serial:///dev/NAME?baud=9600, with three slashes")]
    Device,
    /// Only the device can say, and a wrong one reads as noise.
    #[error("needs the device's speed: ?baud=9600, say")]
    BaudMissing,
    /// No number, or none that a line has.
    #[error("baud={0:?} is no whole number of bits a second from {BAUD_MIN} to {BAUD_MAX}")]
    Baud(String),
    /// A value that its key does not have.
    #[error("{key}={value:?} must be {wanted}")]
    Value {
        /// Which.
        key: &'static str,
        /// What is written.
        value: String,
        /// What may be.
        wanted: &'static str,
    },
    /// What another program calls a key of ours.
    #[error("has no key {written}: write {ours}")]
    OtherName {
        /// What is written.
        written: String,
        /// What is meant.
        ours: &'static str,
    },
    /// A mode of the port's driver.
    #[error(
        "has no key {0}: RS-485 is the business of the converter, or of the port's driver (linux,rs485-enabled-at-boot-time in \
         the device tree)"
    )]
    Rs485(String),
    /// No key at all.
    #[error("has no key {0:?}: there are baud, data_bits, parity, stop_bits and flow_control")]
    Key(String),
    /// Two values for one key.
    #[error("says {0} twice")]
    Twice(&'static str),
    /// Something between two `&` that is no pair.
    #[error("has {0:?} where key=value is wanted, as in ?baud=9600&parity=even")]
    Pair(String),
}

impl SerialTarget {
    /// How long so many bytes are on the line.
    pub(crate) fn transmission_time(&self, bytes: usize) -> Duration {
        // The most a byte takes: a start bit, eight of data, one of parity and two to stop.
        const BITS: u64 = 12;
        let bits = u64::try_from(bytes)
            .unwrap_or(u64::MAX)
            .saturating_mul(BITS);
        Duration::from_millis(bits.saturating_mul(1000) / u64::from(self.baud.max(1)))
    }

    /// The line in the usual short words: `9600 8N1`.
    pub(crate) fn line(&self) -> String {
        let parity = match self.parity {
            Parity::None => 'N',
            Parity::Even => 'E',
            Parity::Odd => 'O',
        };
        let (data, stop) = (self.data_bits.word(), self.stop_bits.word());
        format!("{} {data}{parity}{stop}", self.baud)
    }
}

/// A key's value, which may be said once.
struct Once<T> {
    key: &'static str,
    value: Option<T>,
}

impl<T> Once<T> {
    const fn new(key: &'static str) -> Self {
        Self { key, value: None }
    }

    fn say(&mut self, value: T) -> Result<(), SerialTargetError> {
        match self.value.replace(value) {
            None => Ok(()),
            Some(_) => Err(SerialTargetError::Twice(self.key)),
        }
    }

    fn choose(
        &mut self,
        word: &str,
        read: impl FnOnce(&str) -> Option<T>,
        wanted: &'static str,
    ) -> Result<(), SerialTargetError> {
        let value = read(word).ok_or_else(|| SerialTargetError::Value {
            key: self.key,
            value: word.to_owned(),
            wanted,
        })?;
        self.say(value)
    }
}

impl FromStr for SerialTarget {
    type Err = SerialTargetError;

    /// What follows `serial://`.
    fn from_str(rest: &str) -> Result<Self, SerialTargetError> {
        let (device, query) = rest.split_once('?').unwrap_or((rest, ""));
        let device = checked_device(device).ok_or(SerialTargetError::Device)?;
        let mut baud = Once::new("baud");
        let mut data_bits = Once::new("data_bits");
        let mut parity = Once::new("parity");
        let mut stop_bits = Once::new("stop_bits");
        let mut flow_control = Once::new("flow_control");
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, word) = pair
                .split_once('=')
                .ok_or_else(|| SerialTargetError::Pair(pair.to_owned()))?;
            match key {
                "baud" => baud.say(read_baud(word)?)?,
                "data_bits" => data_bits.choose(word, DataBits::read, DataBits::WANTED)?,
                "parity" => parity.choose(word, Parity::read, Parity::WANTED)?,
                "stop_bits" => stop_bits.choose(word, StopBits::read, StopBits::WANTED)?,
                "flow_control" => {
                    flow_control.choose(word, FlowControl::read, FlowControl::WANTED)?;
                }
                other => return Err(unknown(other)),
            }
        }
        Ok(Self {
            device,
            baud: baud.value.ok_or(SerialTargetError::BaudMissing)?,
            data_bits: data_bits.value.unwrap_or(DataBits::Eight),
            parity: parity.value.unwrap_or(Parity::None),
            stop_bits: stop_bits.value.unwrap_or(StopBits::One),
            flow_control: flow_control.value.unwrap_or(FlowControl::None),
        })
    }
}

/// The path without doubled slashes and dots, so that two ways to write it are the same.
fn checked_device(written: &str) -> Option<PathBuf> {
    let path = Path::new(written);
    let good = path.is_absolute()
        && path.file_name().is_some()
        && written.len() <= PATH_BYTES_MAX
        && !written.contains(char::is_control);
    good.then(|| path.components().collect())
}

fn read_baud(word: &str) -> Result<u32, SerialTargetError> {
    // `parse` takes a sign; a URL's plus is none.
    let number = Some(word).filter(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
    number
        .and_then(|word| word.parse().ok())
        .filter(|baud| (BAUD_MIN..=BAUD_MAX).contains(baud))
        .ok_or_else(|| SerialTargetError::Baud(word.to_owned()))
}

fn unknown(key: &str) -> SerialTargetError {
    let lower = key.to_ascii_lowercase();
    if lower.starts_with("rs485") || lower.starts_with("rs-485") {
        return SerialTargetError::Rs485(key.to_owned());
    }
    let known = KNOWN_AS.iter().find(|(theirs, _)| *theirs == lower);
    match known {
        Some((_, ours)) => SerialTargetError::OtherName {
            written: key.to_owned(),
            ours,
        },
        None => SerialTargetError::Key(key.to_owned()),
    }
}

impl fmt::Display for SerialTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            device,
            baud,
            data_bits,
            parity,
            stop_bits,
            flow_control,
        } = self;
        write!(
            f,
            "serial://{}?baud={baud}&data_bits={}&parity={}&stop_bits={}&flow_control={}",
            device.display(),
            data_bits.word(),
            parity.word(),
            stop_bits.word(),
            flow_control.word()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<SerialTarget, String> {
        let rest = url.strip_prefix("serial://").unwrap();
        rest.parse()
            .map_err(|error: SerialTargetError| error.to_string())
    }

    #[test]
    fn a_serial_url_names_device_and_line() {
        let target = read("serial:///dev/ttyUSB0?baud=300&data_bits=7&parity=even").unwrap();
        assert_eq!(target.device, Path::new("/dev/ttyUSB0"));
        assert_eq!(target.line(), "300 7E1");
        assert_eq!(target.flow_control, FlowControl::None);
        let full = "serial:///dev/ttyS1?baud=19200&data_bits=8&parity=odd&stop_bits=2&flow_control=rts-cts";
        let target = read(full).unwrap();
        assert_eq!(target.to_string(), full);
        assert_eq!(read(&target.to_string()), Ok(target));
        assert_eq!(
            read("serial:////dev/./ttyS1?baud=9600").unwrap().device,
            Path::new("/dev/ttyS1")
        );
    }

    #[test]
    fn a_wrong_url_says_what_to_write() {
        for (url, says) in [
            ("serial://dev/ttyS0?baud=9600", "with three slashes"),
            ("serial:///?baud=9600", "names no device file"),
            ("serial://", "names no device file"),
            (
                "serial:///dev/ttyS0",
                "needs the device's speed: ?baud=9600",
            ),
            (
                "serial:///dev/ttyS0?parity=even",
                "needs the device's speed",
            ),
            (
                "serial:///dev/ttyS0?baud=fast",
                "baud=\"fast\" is no whole number",
            ),
            (
                "serial:///dev/ttyS0?baud=+300",
                "baud=\"+300\" is no whole number",
            ),
            ("serial:///dev/ttyS0?baud=49", "from 50 to 4000000"),
            ("serial:///dev/ttyS0?baud=99999999999", "from 50 to 4000000"),
            (
                "serial:///dev/ttyS0?baud=9600&parity=E",
                "parity=\"E\" must be none, even or odd",
            ),
            (
                "serial:///dev/ttyS0?baud=9600&data_bits=9",
                "data_bits=\"9\" must be 5, 6, 7 or 8",
            ),
            (
                "serial:///dev/ttyS0?baud=9600&stop_bits=1.5",
                "must be 1 or 2",
            ),
            (
                "serial:///dev/ttyS0?baud=9600&flow_control=rtscts",
                "must be none, rts-cts or xon-xoff",
            ),
            (
                "serial:///dev/ttyS0?baudrate=9600",
                "has no key baudrate: write baud",
            ),
            (
                "serial:///dev/ttyS0?baud=9600&bytesize=8",
                "has no key bytesize: write data_bits",
            ),
            (
                "serial:///dev/ttyS0?baud=9600&xonxoff=1",
                "write flow_control=xon-xoff",
            ),
            (
                "serial:///dev/ttyS0?baud=9600&rs485=1",
                "RS-485 is the business of",
            ),
            (
                "serial:///dev/ttyS0?baud=9600&colour=red",
                "has no key \"colour\"",
            ),
            (
                "serial:///dev/ttyS0?9600,8N1",
                "has \"9600,8N1\" where key=value is wanted",
            ),
            ("serial:///dev/ttyS0?baud=9600&baud=300", "says baud twice"),
        ] {
            let error = read(url).unwrap_err();
            assert!(error.contains(says), "{url}: {error}");
        }
    }

    #[test]
    fn bytes_take_their_time_on_the_line() {
        let slow = read("serial:///dev/ttyS0?baud=300").unwrap();
        assert_eq!(slow.transmission_time(300), Duration::from_secs(12));
        assert_eq!(slow.transmission_time(0), Duration::ZERO);
    }
}
