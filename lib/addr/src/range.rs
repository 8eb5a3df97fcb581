//! Half-open ranges of one address space.

use crate::Address;
use core::fmt;

/// The addresses from `start` up to, not including, `end`. `start` is never above `end`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddrRange<A> {
    start: A,
    end: A,
}

impl<A: Address> AddrRange<A> {
    /// The empty range at zero.
    pub const EMPTY: Self = Self { start: A::ZERO, end: A::ZERO };

    /// The range between the two addresses. Panics when `end` is below `start`: use [`AddrRange::from_len`]
    /// for untrusted values.
    pub fn new(start: A, end: A) -> Self {
        assert!(start <= end, "inverted range {start:?}..{end:?}");
        Self { start, end }
    }
    /// The `len` bytes from `start` on; `None` when they pass the end of the address space.
    pub fn from_len(start: A, len: u64) -> Option<Self> {
        Some(Self { start, end: start.checked_add(len)? })
    }
    /// The first address.
    pub fn start(&self) -> A {
        self.start
    }
    /// The first address after the range.
    pub fn end(&self) -> A {
        self.end
    }
    /// The length in bytes.
    pub fn len(&self) -> u64 {
        self.end.raw() - self.start.raw()
    }
    /// Whether the range has no address.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
    /// Whether `address` is in the range.
    pub fn contains(&self, address: A) -> bool {
        self.start <= address && address < self.end
    }
    /// Whether all of `other` is in the range. An empty `other` is covered by a range that includes or
    /// touches its start.
    pub fn covers(&self, other: &Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }
    /// The addresses in both ranges; `None` if there are none.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        (start < end).then_some(Self { start, end })
    }
    /// Whether an address is in both ranges.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.intersection(other).is_some()
    }
    /// The smallest range around this one whose borders are multiples of `align` (a power of two); `None` on
    /// overflow.
    pub fn align_outward(&self, align: u64) -> Option<Self> {
        Some(Self { start: self.start.align_down(align), end: self.end.align_up(align)? })
    }
    /// The largest range inside this one whose borders are multiples of `align` (a power of two), possibly
    /// empty.
    pub fn align_inward(&self, align: u64) -> Self {
        let end = self.end.align_down(align);
        let start = self.start.align_up(align).unwrap_or(end).min(end);
        Self { start, end }
    }
    /// The parts below and above `hole`; either may be empty.
    pub fn without(&self, hole: &Self) -> (Self, Self) {
        let below = Self { start: self.start, end: hole.start.clamp(self.start, self.end) };
        let above = Self { start: hole.end.clamp(self.start, self.end), end: self.end };
        if self.overlaps(hole) { (below, above) } else { (*self, Self { start: self.end, end: self.end }) }
    }
}

impl<A: Address> fmt::Debug for AddrRange<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Iova;

    fn range(start: u64, end: u64) -> AddrRange<Iova> {
        AddrRange::new(Iova::new(start), Iova::new(end))
    }

    #[test]
    fn ranges_intersect_cover_and_contain() {
        assert_eq!(range(0, 10).intersection(&range(5, 20)), Some(range(5, 10)));
        assert!(!range(0, 10).overlaps(&range(10, 20)));
        assert!(range(0, 10).covers(&range(0, 10)) && !range(0, 10).covers(&range(5, 11)));
        assert!(range(0, 10).contains(Iova::new(9)) && !range(0, 10).contains(Iova::new(10)));
    }

    #[test]
    fn without_returns_the_parts_around_a_hole() {
        assert_eq!(range(0, 10).without(&range(3, 5)), (range(0, 3), range(5, 10)));
        assert_eq!(range(4, 10).without(&range(3, 5)), (range(4, 4), range(5, 10)));
        assert_eq!(range(4, 10).without(&range(0, 20)), (range(4, 4), range(10, 10)));
        assert_eq!(range(4, 10).without(&range(20, 30)), (range(4, 10), range(10, 10)));
    }

    #[test]
    fn ranges_align_outward_and_inward() {
        assert_eq!(range(0x1001, 0x2fff).align_outward(0x1000), Some(range(0x1000, 0x3000)));
        assert_eq!(range(0x1001, 0x3fff).align_inward(0x1000), range(0x2000, 0x3000));
        assert!(range(0x1001, 0x1fff).align_inward(0x1000).is_empty());
        assert_eq!(range(1, u64::MAX).align_outward(0x1000), None);
    }

    #[test]
    fn from_len_returns_none_on_overflow() {
        assert_eq!(AddrRange::from_len(Iova::new(u64::MAX), 2), None);
        assert_eq!(AddrRange::from_len(Iova::new(8), 2), Some(range(8, 10)));
    }
}
