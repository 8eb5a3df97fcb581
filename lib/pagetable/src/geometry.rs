//! Levels, sizes and indices of the 4 KiB granule (D8.2).

use crate::{InputAddress, MapError};
use addr::{FrameRun, PhysAddr};
use core::marker::PhantomData;

/// The level of page entries.
pub(crate) const LAST_LEVEL: u8 = 3;
/// Entries in a table.
pub(crate) const TABLE_LEN: usize = 512;
/// Entries in a contiguous group (D8.7.1), at levels 2 and 3.
pub(crate) const GROUP_LEN: usize = 16;

/// log2 of the bytes that one entry of `level` covers.
pub(crate) const fn shift(level: u8) -> u32 {
    39 - 9 * level as u32
}

/// The bytes that one entry of `level` covers.
pub(crate) const fn size(level: u8) -> u64 {
    1 << shift(level)
}

/// The slot for `at` in a table of `level`.
pub(crate) const fn index(at: u64, level: u8) -> usize {
    (at >> shift(level)) as usize & (TABLE_LEN - 1)
}

/// The first offset that `slot` translates, in the table of `level` that contains `at`.
pub(crate) const fn slot_start(at: u64, level: u8, slot: usize) -> u64 {
    (at >> shift(level) >> 9 << 9 | slot as u64) << shift(level)
}

/// The output addresses that the walker accepts, at most the 48 bits of an entry. Above its output size, a
/// walk ends with an Address size fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutputSize {
    bits: u8,
}

impl OutputSize {
    /// All addresses of an entry.
    pub const ENTRY: Self = Self::new(48);

    /// Addresses of `bits` bits, or of 48 if that is less.
    pub const fn new(bits: u8) -> Self {
        Self { bits: if bits < 48 { bits } else { 48 } }
    }

    /// The first address above.
    pub(crate) const fn end(self) -> u64 {
        1 << self.bits
    }

    /// Whether all addresses of the run are accepted.
    #[inline]
    pub(crate) fn holds(self, run: &impl FrameRun) -> bool {
        run.end().raw() <= self.end()
    }

    /// The highest address.
    pub const fn highest(self) -> PhysAddr {
        PhysAddr::new(self.end() - 1)
    }

    /// The error of a run whose last byte is `last`.
    pub(crate) fn exceeded_by<A>(self, last: PhysAddr) -> MapError<A> {
        MapError::OutputTooLarge { last, highest: self.highest() }
    }
}

/// The bounds of an input address space.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InputSpace<A> {
    bits: u8,
    address: PhantomData<A>,
}

impl<A: InputAddress> InputSpace<A> {
    /// Panics unless `bits` is in 25..=48, the sizes that TCR.TxSZ supports without further extensions.
    pub fn new(bits: u8) -> Self {
        assert!((25..=48).contains(&bits), "{bits} input bits");
        Self { bits, address: PhantomData }
    }
    pub fn bits(self) -> u8 {
        self.bits
    }
    /// The start level that needs a single root table, so that stage 2 needs no concatenated tables.
    pub fn start_level(self) -> u8 {
        4 - (self.bits - 12).div_ceil(9)
    }
    /// The number of addresses in the space.
    pub fn len(self) -> u64 {
        1 << self.bits
    }
    /// The offset of `at` from the first address of the space; `None` outside of it. The crate works with
    /// these offsets, so that a space that ends at the top of the 64-bit range needs no special case.
    pub fn offset(self, at: A) -> Option<u64> {
        let offset = at.raw().wrapping_sub(self.first());
        (offset < self.len()).then_some(offset)
    }
    /// The address at `offset` from the first one.
    pub fn address(self, offset: u64) -> A {
        A::new(self.first() + offset)
    }
    /// The number of entries in the root table, at most 512.
    pub fn root_len(self) -> usize {
        1 << (u32::from(self.bits) - shift(self.start_level()))
    }
    fn first(self) -> u64 {
        if A::UPPER { u64::MAX << self.bits } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use addr::{Iova, KernelVa};

    #[test]
    fn start_level_follows_from_the_size() {
        let cases = [(48, 0), (40, 0), (39, 1), (31, 1), (30, 2), (25, 2)];
        for (bits, level) in cases {
            assert_eq!(InputSpace::<Iova>::new(bits).start_level(), level, "{bits}");
        }
    }

    #[test]
    fn offsets_are_relative_to_the_first_address() {
        let half = InputSpace::<KernelVa>::new(40);
        let (first, last) = (KernelVa::new(0xffff_ff00_0000_0000), KernelVa::new(u64::MAX));
        assert_eq!((half.offset(first), half.offset(last)), (Some(0), Some((1 << 40) - 1)));
        assert_eq!(half.offset(KernelVa::new(first.raw() - 1)), None);
        assert_eq!(half.address((1 << 40) - 1), last);
        let space = InputSpace::<Iova>::new(39);
        assert_eq!(space.offset(Iova::new(0x7f_ffff_ffff)), Some(0x7f_ffff_ffff));
        assert_eq!(space.offset(Iova::new(0x80_0000_0000)), None);
    }

    #[test]
    fn root_may_have_fewer_entries() {
        let cases = [48, 40, 39, 31, 30, 25].map(|bits| InputSpace::<Iova>::new(bits).root_len());
        assert_eq!(cases, [512, 2, 512, 2, 512, 16]);
    }

    #[test]
    fn sizes_and_indices_match_the_4_kib_granule() {
        assert_eq!([size(0), size(1), size(2), size(3)], [512 << 30, 1 << 30, 2 << 20, 4096]);
        let at = 0x1 << 39 | 0x2 << 30 | 0x3 << 21 | 0x1ff << 12;
        assert_eq!([index(at, 0), index(at, 1), index(at, 2), index(at, 3)], [1, 2, 3, 0x1ff]);
    }

    #[test]
    #[should_panic(expected = "49 input bits")]
    fn more_than_48_input_bits_panic() {
        InputSpace::<Iova>::new(49);
    }
}
