//! Registers to values and back: types, byte orders, scale.

use serde::{Deserialize, Serialize};

/// How a value lies in its registers. The letters name the bytes of a 32-bit value, most significant first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum ByteOrder {
    /// Big-endian words of big-endian bytes: what the standard says.
    #[default]
    #[serde(rename = "ABCD")]
    Abcd,
    /// Bytes swapped in each word.
    #[serde(rename = "BADC")]
    Badc,
    /// Words swapped.
    #[serde(rename = "CDAB")]
    Cdab,
    /// Little-endian throughout.
    #[serde(rename = "DCBA")]
    Dcba,
}

/// A point's type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Bool,
    I16,
    #[default]
    U16,
    I32,
    U32,
    I64,
    U64,
    F32,
    F64,
    String,
}

/// A value on its way up; it must survive a swap, so it is serializable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Sample {
    Boolean(bool),
    Integer(i64),
    Double(f64),
    Text(String),
}

/// How a point's number is made from its registers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Format {
    pub(crate) kind: Kind,
    pub(crate) order: ByteOrder,
    /// Bit of a register, for booleans that live in one.
    pub(crate) bit: Option<u8>,
    pub(crate) scale: f64,
    pub(crate) offset: f64,
}

impl Kind {
    /// Registers a value takes; a string says so itself.
    pub(crate) const fn registers(self) -> u16 {
        match self {
            Self::Bool | Self::I16 | Self::U16 | Self::String => 1,
            Self::I32 | Self::U32 | Self::F32 => 2,
            Self::I64 | Self::U64 | Self::F64 => 4,
        }
    }
}

/// Turns wire order into most-significant-first, and back: the operation is its own inverse.
fn reorder(bytes: &mut [u8], order: ByteOrder) {
    let (swap_bytes, swap_words) = match order {
        ByteOrder::Abcd => (false, false),
        ByteOrder::Badc => (true, false),
        ByteOrder::Cdab => (false, true),
        ByteOrder::Dcba => (true, true),
    };
    if swap_bytes {
        for word in bytes.chunks_exact_mut(2) {
            word.swap(0, 1);
        }
    }
    if swap_words {
        let words = bytes.len() / 2;
        for word in 0..words / 2 {
            let mirror = words - 1 - word;
            bytes.swap(word * 2, mirror * 2);
            bytes.swap(word * 2 + 1, mirror * 2 + 1);
        }
    }
}

fn number<const N: usize>(bytes: &[u8], order: ByteOrder) -> Option<[u8; N]> {
    let mut array: [u8; N] = bytes.get(..N)?.try_into().ok()?;
    reorder(&mut array, order);
    Some(array)
}

impl Format {
    /// Reads the value from its registers; none when they are too few or hold no number (NaN, infinity).
    pub(crate) fn read(&self, registers: &[u8]) -> Option<Sample> {
        let order = self.order;
        let integer = match self.kind {
            Kind::Bool => {
                let word = u16::from_be_bytes(number(registers, order)?);
                let bit = u32::from(self.bit.unwrap_or(0));
                return Some(Sample::Boolean(word.checked_shr(bit)? & 1 == 1));
            }
            Kind::I16 => i64::from(i16::from_be_bytes(number(registers, order)?)),
            Kind::U16 => i64::from(u16::from_be_bytes(number(registers, order)?)),
            Kind::I32 => i64::from(i32::from_be_bytes(number(registers, order)?)),
            Kind::U32 => i64::from(u32::from_be_bytes(number(registers, order)?)),
            Kind::I64 => i64::from_be_bytes(number(registers, order)?),
            Kind::U64 => match i64::try_from(u64::from_be_bytes(number(registers, order)?)) {
                Ok(integer) => integer,
                // The platform's integers are signed: the upper half of the range goes as a double.
                Err(_) => return self.scaled(u64::from_be_bytes(number(registers, order)?) as f64),
            },
            Kind::F32 => {
                return self.scaled(f64::from(f32::from_be_bytes(number(registers, order)?)));
            }
            Kind::F64 => return self.scaled(f64::from_be_bytes(number(registers, order)?)),
            Kind::String => return Some(Sample::Text(self.text(registers))),
        };
        if self.plain() {
            Some(Sample::Integer(integer))
        } else {
            self.scaled(integer as f64)
        }
    }

    fn plain(&self) -> bool {
        self.scale == 1.0 && self.offset == 0.0
    }

    fn scaled(&self, raw: f64) -> Option<Sample> {
        let value = raw * self.scale + self.offset;
        value.is_finite().then_some(Sample::Double(value))
    }

    fn text(&self, registers: &[u8]) -> String {
        let mut bytes = registers.to_vec();
        if matches!(self.order, ByteOrder::Badc | ByteOrder::Dcba) {
            reorder(&mut bytes, ByteOrder::Badc);
        }
        let end = bytes
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).trim_end().to_owned()
    }

    /// The registers for a value from outside.
    pub(crate) fn write(
        &self,
        value: &serde_json::Value,
        registers: u16,
    ) -> Result<Vec<u16>, String> {
        let mut bytes = match self.kind {
            Kind::Bool => return Err("a bit of a register cannot be written by itself".into()),
            Kind::String => self.text_bytes(value, usize::from(registers) * 2)?,
            Kind::F32 => (self.unscaled(value)? as f32).to_be_bytes().to_vec(),
            Kind::F64 => self.unscaled(value)?.to_be_bytes().to_vec(),
            Kind::I16 => self.integer::<i16>(value)?.to_be_bytes().to_vec(),
            Kind::U16 => self.integer::<u16>(value)?.to_be_bytes().to_vec(),
            Kind::I32 => self.integer::<i32>(value)?.to_be_bytes().to_vec(),
            Kind::U32 => self.integer::<u32>(value)?.to_be_bytes().to_vec(),
            Kind::I64 => self.integer::<i64>(value)?.to_be_bytes().to_vec(),
            Kind::U64 => self.integer::<u64>(value)?.to_be_bytes().to_vec(),
        };
        if self.kind == Kind::String {
            if matches!(self.order, ByteOrder::Badc | ByteOrder::Dcba) {
                reorder(&mut bytes, ByteOrder::Badc);
            }
        } else {
            reorder(&mut bytes, self.order);
        }
        Ok(bytes
            .chunks_exact(2)
            .map(|word| u16::from_be_bytes([word[0], word[1]]))
            .collect())
    }

    fn unscaled(&self, value: &serde_json::Value) -> Result<f64, String> {
        let number = value
            .as_f64()
            .ok_or_else(|| format!("{value} is not a number"))?;
        if self.plain() {
            Ok(number)
        } else {
            Ok((number - self.offset) / self.scale)
        }
    }

    fn integer<T: TryFrom<i128>>(&self, value: &serde_json::Value) -> Result<T, String> {
        let whole = match (value.as_i64(), value.as_u64()) {
            (Some(integer), _) if self.plain() => i128::from(integer),
            (None, Some(integer)) if self.plain() => i128::from(integer),
            (Some(_) | None, _) => self.unscaled(value)?.round() as i128,
        };
        T::try_from(whole).map_err(|_| format!("{value} does not fit {:?}", self.kind))
    }

    fn text_bytes(&self, value: &serde_json::Value, length: usize) -> Result<Vec<u8>, String> {
        let text = value
            .as_str()
            .ok_or_else(|| format!("{value} is not a text"))?;
        if text.len() > length {
            return Err(format!("{text:?} is longer than {length} bytes"));
        }
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(length, 0);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn format(kind: Kind, order: ByteOrder) -> Format {
        Format {
            kind,
            order,
            bit: None,
            scale: 1.0,
            offset: 0.0,
        }
    }

    #[test]
    fn the_four_orders_of_a_32_bit_value() {
        for (order, bytes) in [
            (ByteOrder::Abcd, [0x12, 0x34, 0x56, 0x78]),
            (ByteOrder::Badc, [0x34, 0x12, 0x78, 0x56]),
            (ByteOrder::Cdab, [0x56, 0x78, 0x12, 0x34]),
            (ByteOrder::Dcba, [0x78, 0x56, 0x34, 0x12]),
        ] {
            assert_eq!(
                format(Kind::U32, order).read(&bytes),
                Some(Sample::Integer(0x1234_5678)),
                "{order:?}"
            );
        }
    }

    #[test]
    fn scale_bits_texts_and_what_is_no_number() {
        let scaled = Format {
            scale: 0.1,
            offset: -40.0,
            ..format(Kind::I16, ByteOrder::Abcd)
        };
        assert_eq!(scaled.read(&[0x01, 0xf4]), Some(Sample::Double(10.0)));
        assert_eq!(scaled.write(&json!(10.0), 1), Ok(vec![500]));
        let bit = Format {
            bit: Some(9),
            ..format(Kind::Bool, ByteOrder::Abcd)
        };
        assert_eq!(bit.read(&[0x02, 0x00]), Some(Sample::Boolean(true)));
        let text = format(Kind::String, ByteOrder::Badc);
        assert_eq!(text.read(b"oMro\0e"), Some(Sample::Text("Moore".into())));
        assert_eq!(
            text.write(&json!("Moore"), 3),
            Ok(vec![0x6f4d, 0x726f, 0x0065])
        );
        assert_eq!(
            format(Kind::F32, ByteOrder::Abcd).read(&f32::NAN.to_be_bytes()),
            None
        );
        assert_eq!(format(Kind::U32, ByteOrder::Abcd).read(&[1, 2]), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(value in any::<i64>(), order in prop::sample::select(vec![ByteOrder::Abcd, ByteOrder::Badc, ByteOrder::Cdab, ByteOrder::Dcba])) {
            let cuts = [
                (Kind::I16, i64::from(value as i16)),
                (Kind::I32, i64::from(value as i32)),
                (Kind::I64, value),
            ];
            for (kind, cut) in cuts {
                let format = format(kind, order);
                let registers = format.write(&json!(cut), kind.registers()).unwrap();
                let bytes: Vec<u8> = registers.iter().flat_map(|word| word.to_be_bytes()).collect();
                prop_assert_eq!(format.read(&bytes), Some(Sample::Integer(cut)));
            }
        }

        #[test]
        fn a_value_that_does_not_fit_is_refused(value in 65_536i64..) {
            prop_assert!(format(Kind::U16, ByteOrder::Abcd).write(&json!(value), 1).is_err());
        }
    }
}
