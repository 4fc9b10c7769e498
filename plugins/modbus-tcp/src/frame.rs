//! Modbus TCP frames (MODBUS Messaging on TCP/IP V1.0b, Application Protocol V1.1b3), strictly read.
//!
//! ```text
//!  transaction u16 | protocol u16 = 0 | length u16 | unit u8 | function u8 | data …
//! ```
//!
//! The crates that exist accept a byte count that disagrees with the data and take any foreign function code for an
//! exception; a connector that reports process values must not.

use std::fmt;

/// Registers of one read (function 3 and 4).
pub(crate) const REGISTERS_MAX: u16 = 125;
/// Bits of one read (function 1 and 2).
pub(crate) const BITS_MAX: u16 = 2000;
/// Registers of one write (function 16).
pub(crate) const WRITE_REGISTERS_MAX: usize = 123;
/// Bits of one write (function 15).
pub(crate) const WRITE_BITS_MAX: usize = 1968;

const HEADER: usize = 8;

/// One request, without its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Functions 1 to 4.
    Read {
        function: u8,
        address: u16,
        count: u16,
    },
    /// Function 5.
    WriteCoil { address: u16, on: bool },
    /// Function 6.
    WriteRegister { address: u16, value: u16 },
    /// Function 15.
    WriteCoils { address: u16, values: Vec<bool> },
    /// Function 16.
    WriteRegisters { address: u16, values: Vec<u16> },
}

/// Why a response is no answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameError {
    /// It answers another request.
    OtherTransaction,
    /// Another unit or function answered, or the lengths disagree.
    Mismatch,
    /// The device says no.
    Exception(u8),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherTransaction => f.write_str("the response is for another request"),
            Self::Mismatch => f.write_str("the response does not fit the request"),
            Self::Exception(code) => write!(f, "exception {code} ({})", exception_name(*code)),
        }
    }
}

const fn exception_name(code: u8) -> &'static str {
    match code {
        1 => "illegal function",
        2 => "illegal data address",
        3 => "illegal data value",
        4 => "server device failure",
        5 => "acknowledge",
        6 => "server device busy",
        8 => "memory parity error",
        10 => "gateway path unavailable",
        11 => "gateway target device failed to respond",
        _ => "not in the standard",
    }
}

impl Request {
    const fn function(&self) -> u8 {
        match self {
            Self::Read { function, .. } => *function,
            Self::WriteCoil { .. } => 5,
            Self::WriteRegister { .. } => 6,
            Self::WriteCoils { .. } => 15,
            Self::WriteRegisters { .. } => 16,
        }
    }

    /// The whole frame.
    pub(crate) fn encode(&self, transaction: u16, unit: u8) -> Vec<u8> {
        let mut frame = Vec::with_capacity(12);
        frame.extend_from_slice(&transaction.to_be_bytes());
        frame.extend_from_slice(&[0, 0, 0, 0, unit, self.function()]);
        match self {
            Self::Read { address, count, .. } => words(&mut frame, &[*address, *count]),
            Self::WriteCoil { address, on } => {
                words(&mut frame, &[*address, if *on { 0xff00 } else { 0 }])
            }
            Self::WriteRegister { address, value } => words(&mut frame, &[*address, *value]),
            Self::WriteCoils { address, values } => {
                words(&mut frame, &[*address, length(values.len())]);
                let bytes = pack(values);
                frame.push(bytes.len() as u8);
                frame.extend_from_slice(&bytes);
            }
            Self::WriteRegisters { address, values } => {
                words(&mut frame, &[*address, length(values.len())]);
                frame.push((values.len() * 2) as u8);
                words(&mut frame, values);
            }
        }
        let following = length(frame.len() - 6);
        frame[4..6].copy_from_slice(&following.to_be_bytes());
        frame
    }

    /// The data of a response to this request: registers or packed bits of a read, nothing of a write.
    pub(crate) fn decode<'a>(
        &self,
        transaction: u16,
        unit: u8,
        frame: &'a [u8],
    ) -> Result<&'a [u8], FrameError> {
        if frame.len() <= HEADER || frame[2..4] != [0, 0] {
            return Err(FrameError::Mismatch);
        }
        if frame[..2] != transaction.to_be_bytes() {
            return Err(FrameError::OtherTransaction);
        }
        let declared = usize::from(u16::from_be_bytes([frame[4], frame[5]]));
        if declared + 6 != frame.len() || frame[6] != unit {
            return Err(FrameError::Mismatch);
        }
        let data = &frame[HEADER..];
        if frame[7] == self.function() | 0x80 && data.len() == 1 {
            return Err(FrameError::Exception(data[0]));
        }
        if frame[7] != self.function() {
            return Err(FrameError::Mismatch);
        }
        match self {
            Self::Read {
                function, count, ..
            } => {
                let expected = match function {
                    1 | 2 => usize::from(*count).div_ceil(8),
                    _ => usize::from(*count) * 2,
                };
                let whole = usize::from(data[0]) == expected && data.len() == expected + 1;
                if whole {
                    Ok(&data[1..])
                } else {
                    Err(FrameError::Mismatch)
                }
            }
            Self::WriteCoil { .. }
            | Self::WriteRegister { .. }
            | Self::WriteCoils { .. }
            | Self::WriteRegisters { .. } => {
                // The device echoes address and value or count, which the request began with.
                let echo = &self.encode(transaction, unit)[HEADER..HEADER + 4];
                if data == echo {
                    Ok(&[])
                } else {
                    Err(FrameError::Mismatch)
                }
            }
        }
    }
}

fn words(frame: &mut Vec<u8>, words: &[u16]) {
    for word in words {
        frame.extend_from_slice(&word.to_be_bytes());
    }
}

fn length(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

fn pack(bits: &[bool]) -> Vec<u8> {
    bits.chunks(8)
        .map(|chunk| {
            chunk
                .iter()
                .enumerate()
                .fold(0, |byte, (at, bit)| byte | (u8::from(*bit) << at))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_are_those_of_the_standard() {
        let read = Request::Read {
            function: 3,
            address: 0x6b,
            count: 3,
        };
        assert_eq!(
            read.encode(1, 0x11),
            [0, 1, 0, 0, 0, 6, 0x11, 3, 0, 0x6b, 0, 3]
        );
        let coil = Request::WriteCoil {
            address: 0xac,
            on: true,
        };
        assert_eq!(coil.encode(2, 1)[7..], [5, 0, 0xac, 0xff, 0]);
        let coils = Request::WriteCoils {
            address: 0x13,
            values: vec![
                true, false, true, true, false, false, true, true, true, false,
            ],
        };
        assert_eq!(
            coils.encode(3, 1)[6..],
            [1, 15, 0, 0x13, 0, 10, 2, 0xcd, 0x01]
        );
        let registers = Request::WriteRegisters {
            address: 1,
            values: vec![0x000a, 0x0102],
        };
        assert_eq!(
            registers.encode(4, 1)[4..],
            [0, 11, 1, 16, 0, 1, 0, 2, 4, 0, 0x0a, 1, 2]
        );
    }

    #[test]
    fn responses_are_read_strictly() {
        let read = Request::Read {
            function: 3,
            address: 0,
            count: 1,
        };
        let good = [0, 7, 0, 0, 0, 5, 1, 3, 2, 0x12, 0x34];
        assert_eq!(read.decode(7, 1, &good), Ok(&[0x12, 0x34][..]));
        assert_eq!(read.decode(8, 1, &good), Err(FrameError::OtherTransaction));
        assert_eq!(read.decode(7, 2, &good), Err(FrameError::Mismatch));
        let mut short_count = good;
        short_count[8] = 1;
        assert_eq!(read.decode(7, 1, &short_count), Err(FrameError::Mismatch));
        assert_eq!(
            read.decode(7, 1, &[0, 7, 0, 0, 0, 3, 1, 0x83, 2]),
            Err(FrameError::Exception(2))
        );
        let write = Request::WriteRegister {
            address: 5,
            value: 9,
        };
        assert_eq!(
            write.decode(7, 1, &[0, 7, 0, 0, 0, 6, 1, 6, 0, 5, 0, 9]),
            Ok(&[][..])
        );
        assert_eq!(
            write.decode(7, 1, &[0, 7, 0, 0, 0, 6, 1, 6, 0, 5, 0, 8]),
            Err(FrameError::Mismatch)
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), function in 1u8..5, count in 1u16..126) {
            let request = Request::Read { function, address: 0, count };
            if let Ok(data) = request.decode(0, 1, &bytes) {
                prop_assert!(data.len() < bytes.len());
            }
        }
    }
}
