//! Which reads fetch which points: neighbours share one request, up to the standard's limit.

use crate::configuration::{Device, Register};
use crate::frame::{BITS_MAX, REGISTERS_MAX};

/// One request that is repeated.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Block {
    /// Index of the device.
    pub(crate) device: usize,
    pub(crate) register: Register,
    pub(crate) address: u16,
    pub(crate) count: u16,
    pub(crate) poll_ms: u32,
    /// Indices of the device's points.
    pub(crate) points: Vec<usize>,
    /// When it is due next, on the host's monotonic clock.
    pub(crate) due_ms: f64,
}

/// The blocks of all devices, all due at `now_ms`.
pub(crate) fn plan(devices: &[Device], gap_max: u16, now_ms: f64) -> Vec<Block> {
    let mut blocks = Vec::new();
    for (index, device) in devices.iter().enumerate() {
        let mut order: Vec<usize> = (0..device.points.len()).collect();
        order.sort_by_key(|&at| {
            let point = &device.points[at];
            (point.poll_ms, point.register, point.address, point.count)
        });
        let mut open: Option<Block> = None;
        for at in order {
            let grown = open
                .as_mut()
                .is_some_and(|block| try_grow(block, device, at, gap_max));
            if !grown {
                blocks.extend(open.replace(single(index, device, at, now_ms)));
            }
        }
        blocks.extend(open);
    }
    blocks
}

/// A block of one point.
pub(crate) fn single(index: usize, device: &Device, at: usize, due_ms: f64) -> Block {
    let point = &device.points[at];
    Block {
        device: index,
        register: point.register,
        address: point.address,
        count: point.count,
        poll_ms: point.poll_ms,
        points: vec![at],
        due_ms,
    }
}

fn try_grow(block: &mut Block, device: &Device, at: usize, gap_max: u16) -> bool {
    let point = &device.points[at];
    let end = u32::from(block.address) + u32::from(block.count);
    let point_end = u32::from(point.address) + u32::from(point.count);
    let limit = if block.register.is_bits() {
        BITS_MAX
    } else {
        REGISTERS_MAX
    };
    let grown = end.max(point_end) - u32::from(block.address);
    let fits = block.register == point.register
        && block.poll_ms == point.poll_ms
        && u32::from(point.address) <= end + u32::from(gap_max)
        && grown <= u32::from(limit);
    if fits {
        block.count = u16::try_from(grown).unwrap_or(limit);
        block.points.push(at);
    }
    fits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::configuration::Point;
    use crate::value::{ByteOrder, Format, Kind};

    fn device(points: &[(Register, u16, u16, u32)]) -> Device {
        let format = Format {
            kind: Kind::U16,
            order: ByteOrder::Abcd,
            bit: None,
            scale: 1.0,
            offset: 0.0,
        };
        let points = points
            .iter()
            .enumerate()
            .map(|(index, &(register, address, count, poll_ms))| Point {
                key: format!("k{index}"),
                register,
                address,
                count,
                format,
                poll_ms,
                writable: false,
            })
            .collect();
        Device {
            name: "d".into(),
            profile: String::new(),
            unit: 1,
            points,
        }
    }

    #[test]
    fn neighbours_share_a_request_and_strangers_do_not() {
        let device = device(&[
            (Register::Holding, 10, 2, 1000),
            (Register::Holding, 0, 1, 1000),
            (Register::Holding, 3, 1, 1000),
            (Register::Holding, 100, 1, 1000),
            (Register::Input, 4, 1, 1000),
            (Register::Holding, 1, 1, 500),
        ]);
        let blocks: Vec<_> = plan(&[device], 8, 0.0)
            .into_iter()
            .map(|b| (b.register, b.address, b.count, b.points))
            .collect();
        assert_eq!(
            blocks,
            [
                (Register::Holding, 1, 1, vec![5]),
                (Register::Holding, 0, 12, vec![1, 2, 0]),
                (Register::Holding, 100, 1, vec![3]),
                (Register::Input, 4, 1, vec![4]),
            ]
        );
    }

    proptest! {
        #[test]
        fn every_point_is_read_once_inside_its_block(
            points in prop::collection::vec((prop::sample::select(vec![Register::Coil, Register::Holding]), 0u16..60_000, 1u16..100), 1..60),
            gap in 0u16..50,
        ) {
            let points: Vec<_> = points.into_iter().map(|(r, a, c)| (r, a, if r.is_bits() { 1 } else { c }, 1000)).collect();
            let device = device(&points);
            let mut seen = vec![0; points.len()];
            for block in plan(std::slice::from_ref(&device), gap, 0.0) {
                let count_max = if block.register.is_bits() { BITS_MAX } else { REGISTERS_MAX };
                prop_assert!(block.count <= count_max);
                for &at in &block.points {
                    let point = &device.points[at];
                    seen[at] += 1;
                    prop_assert!(point.address >= block.address);
                    prop_assert!(u32::from(point.address) + u32::from(point.count) <= u32::from(block.address) + u32::from(block.count));
                    prop_assert_eq!(point.register, block.register);
                }
            }
            prop_assert!(seen.iter().all(|times| *times == 1));
        }
    }
}
