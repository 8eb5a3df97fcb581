//! Base address registers: size and assigned address.

use super::address::Bdf;
use super::config::ConfigSpace;
use addr::{AddrRange, PhysAddr};

const BARS: u16 = 0x10;

/// Type of a BAR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BarKind {
    /// I/O space, not used by the kernel.
    Io,
    /// Memory space.
    Memory {
        /// Whether the address has 64 bits.
        is_64bit: bool,
        /// Whether reads are free of side effects.
        prefetchable: bool,
    },
}

/// A base address register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bar {
    /// Its type.
    pub kind: BarKind,
    /// Its size in bytes, a power of two.
    pub size: u64,
    /// Its physical address range; `None` without an assigned address, and for I/O space.
    pub registers: Option<AddrRange<PhysAddr>>,
}

impl Bar {
    /// Whether reads are free of side effects.
    pub fn is_prefetchable(&self) -> bool {
        matches!(self.kind, BarKind::Memory { prefetchable: true, .. })
    }
}

/// A BAR whose writable bits are not a valid size mask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BadBar {
    pub index: u8,
    pub writable: u64,
}

fn register(index: usize) -> u16 {
    BARS + 4 * index as u16
}

/// Sizes the first `count` BARs (6, or 2 of a bridge), and calls `bad` for invalid ones. Decoding must be
/// disabled, since sizing writes all ones to the addresses.
pub(super) fn size_all(
    config: &mut impl ConfigSpace,
    at: Bdf,
    count: usize,
    mut bad: impl FnMut(BadBar),
) -> [Option<Bar>; 6] {
    let mut bars = [None; 6];
    let mut index = 0;
    while index < count {
        let (kind, writable, width) = probe(config, at, index);
        if writable != 0 {
            let size = writable & writable.wrapping_neg();
            // A valid mask has all bits from the size up.
            let top = if width == 2 { u64::MAX } else { u32::MAX.into() };
            let io_top = kind == BarKind::Io && writable == 0xffff & !(size - 1);
            match index + width <= count && (writable == top & !(size - 1) || io_top) {
                true => bars[index] = Some(Bar { kind, size, registers: None }),
                false => bad(BadBar { index: index as u8, writable }),
            }
        }
        index += width;
    }
    bars
}

/// The type of BAR `index`, its writable address bits, and the number of its registers.
fn probe(config: &mut impl ConfigSpace, at: Bdf, index: usize) -> (BarKind, u64, usize) {
    let low = register(index);
    let flags = config.read32(at, low);
    if flags & 1 != 0 {
        return (BarKind::Io, u64::from(writable(config, at, low) & !3), 1);
    }
    let is_64bit = flags >> 1 & 3 == 2;
    let kind = BarKind::Memory { is_64bit, prefetchable: flags & 8 != 0 };
    let mut mask = u64::from(writable(config, at, low) & !0xf);
    if is_64bit && index < 5 {
        mask |= u64::from(writable(config, at, low + 4)) << 32;
    }
    (kind, mask, if is_64bit { 2 } else { 1 })
}

/// The writable bits of a register.
fn writable(config: &mut impl ConfigSpace, at: Bdf, register: u16) -> u32 {
    let old = config.read32(at, register);
    config.write32(at, register, u32::MAX);
    let set = config.read32(at, register);
    config.write32(at, register, old);
    set
}

/// Writes a bus address to BAR `index`.
pub(super) fn program(config: &mut impl ConfigSpace, at: Bdf, index: usize, kind: BarKind, address: u64) {
    config.write32(at, register(index), address as u32);
    if kind == (BarKind::Memory { is_64bit: true, prefetchable: true })
        || kind == (BarKind::Memory { is_64bit: true, prefetchable: false })
    {
        config.write32(at, register(index + 1), (address >> 32) as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeBus, FakeFunction};
    use super::*;

    fn sized(function: FakeFunction, count: usize) -> ([Option<Bar>; 6], Vec<BadBar>) {
        let mut bus = FakeBus::new([function]);
        let mut bad = Vec::new();
        let bars = size_all(&mut bus, Bdf::new(0, 0, 0), count, |bar| bad.push(bar));
        (bars, bad)
    }

    fn bar(kind: BarKind, size: u64) -> Option<Bar> {
        Some(Bar { kind, size, registers: None })
    }

    const NARROW: BarKind = BarKind::Memory { is_64bit: false, prefetchable: false };

    #[test]
    fn bars_are_sized_by_their_read_only_bits() {
        let function = FakeFunction::endpoint(1, 2)
            .bar(0, 0, 1 << 20)
            .bar(1, 1, 32)
            .bar(2, 0xc, 16 << 30)
            .bar(4, 8, 4096)
            .bar(5, 0, 16);
        let (bars, bad) = sized(function, 6);
        let is_64bit = BarKind::Memory { is_64bit: true, prefetchable: true };
        let prefetchable = BarKind::Memory { is_64bit: false, prefetchable: true };
        let expected = [
            bar(NARROW, 1 << 20),
            bar(BarKind::Io, 32),
            bar(is_64bit, 16 << 30),
            None,
            bar(prefetchable, 4096),
            bar(NARROW, 16),
        ];
        assert_eq!((bars, bad), (expected, vec![]));
    }

    #[test]
    fn sizing_restores_the_address() {
        let mut function = FakeFunction::endpoint(1, 2).bar(0, 0, 4096);
        function.set32(0x10, 0x1234_5000);
        let mut bus = FakeBus::new([function]);
        size_all(&mut bus, Bdf::new(0, 0, 0), 6, |_| ());
        assert_eq!(bus.read32(Bdf::new(0, 0, 0), 0x10), 0x1234_5000);
    }

    #[test]
    fn invalid_bars_are_reported() {
        let holes = FakeFunction::endpoint(1, 2).writable32(0x10, 0xfff0_f000);
        assert_eq!(sized(holes, 6), ([None; 6], vec![BadBar { index: 0, writable: 0xfff0_f000 }]));
        let last = FakeFunction::endpoint(1, 2).bar(5, 4, 4096);
        assert_eq!(sized(last, 6), ([None; 6], vec![BadBar { index: 5, writable: 0xffff_f000 }]));
        let bridge = FakeFunction::endpoint(1, 2).bar(1, 0, 256).bar(2, 0, 256);
        assert_eq!(sized(bridge, 2).0, [None, bar(NARROW, 256), None, None, None, None]);
    }
}
