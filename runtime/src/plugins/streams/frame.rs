//! When a response is complete. Pure.

use std::time::Duration;

/// Bytes of one response.
pub(crate) const FRAME_BYTES_MAX: usize = 256 * 1024;
const DELIMITER_BYTES_MAX: usize = 16;
const IDLE_GAP_MAX: Duration = Duration::from_secs(60);

/// A rule that was checked when it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FrameRule {
    Fixed(usize),
    LengthPrefixed {
        offset: usize,
        width: usize,
        big_endian: bool,
        adjust: i64,
    },
    Delimited(Vec<u8>),
    IdleGap(Duration),
}

/// The rule contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadRule;

/// What the bytes so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// A frame of this many bytes; what follows belongs to nobody.
    Complete(usize),
    /// More must come.
    Partial,
    /// It will never fit.
    TooLarge,
}

impl FrameRule {
    /// Refuses what can never match, or only after more than the host keeps.
    pub(crate) fn checked(self) -> Result<Self, BadRule> {
        let good = match &self {
            Self::Fixed(bytes) => (1..=FRAME_BYTES_MAX).contains(bytes),
            Self::LengthPrefixed { offset, width, .. } => {
                matches!(width, 1 | 2 | 4) && *offset <= FRAME_BYTES_MAX
            }
            Self::Delimited(delimiter) => (1..=DELIMITER_BYTES_MAX).contains(&delimiter.len()),
            Self::IdleGap(gap) => !gap.is_zero() && *gap <= IDLE_GAP_MAX,
        };
        if good { Ok(self) } else { Err(BadRule) }
    }

    /// Looks at all bytes so far; `searched` of them were looked at before.
    pub(crate) fn progress(&self, bytes: &[u8], searched: usize) -> Progress {
        let needed = match self {
            Self::Fixed(needed) => Some(*needed),
            Self::LengthPrefixed {
                offset,
                width,
                big_endian,
                adjust,
            } => {
                let end = offset + width;
                bytes.get(*offset..end).map(|field| {
                    let number = read_number(field, *big_endian);
                    let following = usize::try_from(number.saturating_add(*adjust)).unwrap_or(0);
                    end.saturating_add(following)
                })
            }
            Self::Delimited(delimiter) => {
                let from = searched.saturating_sub(delimiter.len() - 1);
                bytes
                    .get(from..)
                    .and_then(|tail| {
                        tail.windows(delimiter.len())
                            .position(|window| window == delimiter)
                    })
                    .map(|at| from + at + delimiter.len())
            }
            Self::IdleGap(_) => None,
        };
        match needed {
            Some(needed) if needed > FRAME_BYTES_MAX => Progress::TooLarge,
            Some(needed) if bytes.len() >= needed => Progress::Complete(needed),
            Some(_) | None if bytes.len() > FRAME_BYTES_MAX => Progress::TooLarge,
            Some(_) | None => Progress::Partial,
        }
    }

    /// How long a silence completes the frame, if silence does.
    pub(crate) fn idle_gap(&self) -> Option<Duration> {
        match self {
            Self::IdleGap(gap) => Some(*gap),
            Self::Fixed(_) | Self::LengthPrefixed { .. } | Self::Delimited(_) => None,
        }
    }
}

fn read_number(field: &[u8], big_endian: bool) -> i64 {
    let join = |number: i64, byte: &u8| (number << 8) | i64::from(*byte);
    if big_endian {
        field.iter().fold(0, join)
    } else {
        field.iter().rev().fold(0, join)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modbus_tcp() -> FrameRule {
        FrameRule::LengthPrefixed {
            offset: 4,
            width: 2,
            big_endian: true,
            adjust: 0,
        }
    }

    #[test]
    fn a_modbus_header_says_where_the_frame_ends() {
        let rule = modbus_tcp();
        let frame = [0, 1, 0, 0, 0, 3, 1, 3, 9];
        assert_eq!(rule.progress(&frame[..5], 0), Progress::Partial);
        assert_eq!(rule.progress(&frame[..8], 5), Progress::Partial);
        assert_eq!(rule.progress(&frame, 8), Progress::Complete(9));
        let mut two = frame.to_vec();
        two.extend_from_slice(&frame);
        assert_eq!(rule.progress(&two, 0), Progress::Complete(9));
    }

    #[test]
    fn little_endian_fields_and_adjustments_count() {
        let rule = FrameRule::LengthPrefixed {
            offset: 0,
            width: 4,
            big_endian: false,
            adjust: -2,
        };
        assert_eq!(
            rule.progress(&[5, 0, 0, 0, 1, 2, 3], 0),
            Progress::Complete(7)
        );
        let lies = FrameRule::LengthPrefixed {
            offset: 0,
            width: 1,
            big_endian: true,
            adjust: -9,
        };
        assert_eq!(lies.progress(&[5], 0), Progress::Complete(1));
        let huge = FrameRule::LengthPrefixed {
            offset: 0,
            width: 4,
            big_endian: true,
            adjust: i64::from(i32::MAX),
        };
        assert_eq!(huge.progress(&[255, 255, 255, 255], 0), Progress::TooLarge);
    }

    #[test]
    fn a_delimiter_is_found_across_two_reads() {
        let rule = FrameRule::Delimited(b"\r\n".to_vec());
        assert_eq!(rule.progress(b"OK\r", 0), Progress::Partial);
        assert_eq!(rule.progress(b"OK\r\nrest", 3), Progress::Complete(4));
        let endless = vec![b'x'; FRAME_BYTES_MAX + 1];
        assert_eq!(rule.progress(&endless, 0), Progress::TooLarge);
    }

    #[test]
    fn rules_that_cannot_match_are_refused() {
        for rule in [
            FrameRule::Fixed(0),
            FrameRule::Fixed(FRAME_BYTES_MAX + 1),
            FrameRule::LengthPrefixed {
                offset: 0,
                width: 3,
                big_endian: true,
                adjust: 0,
            },
            FrameRule::Delimited(Vec::new()),
            FrameRule::Delimited(vec![0; 17]),
            FrameRule::IdleGap(Duration::ZERO),
        ] {
            assert_eq!(rule.clone().checked(), Err(BadRule), "{rule:?}");
        }
        assert_eq!(modbus_tcp().checked(), Ok(modbus_tcp()));
    }
}
