//! 4 KiB frames, and naturally aligned runs of frames.

use crate::{AddrRange, Address, PhysAddr};
use core::fmt;

/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a frame and in a page: the 4 KiB granule everywhere (CPU, SMMU stage 1 and stage 2).
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

/// A page frame number: a physical address divided by [`PAGE_SIZE`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Pfn(u64);

impl Pfn {
    /// The frame with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }
    /// The frame that holds `address`.
    pub const fn containing(address: PhysAddr) -> Self {
        Self(address.raw() >> PAGE_SHIFT)
    }
    /// The number.
    pub const fn raw(self) -> u64 {
        self.0
    }
    /// The frame's first byte.
    pub const fn start(self) -> PhysAddr {
        PhysAddr::new(self.0 << PAGE_SHIFT)
    }
    /// The frame `frames` above this one.
    pub const fn offset(self, frames: u64) -> Self {
        Self(self.0 + frames)
    }
}

/// log2 of a number of frames: order 0 is 4 KiB, order 9 is 2 MiB, order 18 is 1 GiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Order(u8);

/// An order above [`Order::MAX`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OrderError(
    /// The requested order.
    pub u8,
);

impl Order {
    /// One frame, 4 KiB.
    pub const PAGE: Self = Self(0);
    /// 64 KiB: sixteen pages, a contiguous group at level 3.
    pub const CONTIGUOUS: Self = Self(4);
    /// 2 MiB: a level 2 block.
    pub const BLOCK_2M: Self = Self(9);
    /// 1 GiB: a level 1 block, and the largest chunk.
    pub const MAX: Self = Self(18);

    /// The order `log2`, up to [`Order::MAX`].
    pub const fn new(log2: u8) -> Result<Self, OrderError> {
        if log2 > Self::MAX.0 { Err(OrderError(log2)) } else { Ok(Self(log2)) }
    }
    /// The largest order of at most `frames` frames, up to [`Order::MAX`]; `None` for 0 frames.
    pub const fn fitting(frames: u64) -> Option<Self> {
        match frames.checked_ilog2() {
            None => None,
            Some(log2) if log2 > Self::MAX.0 as u32 => Some(Self::MAX),
            Some(log2) => Some(Self(log2 as u8)),
        }
    }
    /// The smallest order of at least `frames` frames; `None` for 0 frames or more than [`Order::MAX`] has.
    pub const fn covering(frames: u64) -> Option<Self> {
        if frames == 0 || frames > Self::MAX.frames() {
            return None;
        }
        Some(Self(frames.next_power_of_two().trailing_zeros() as u8))
    }
    /// The next smaller order; `None` for a single frame.
    pub const fn smaller(self) -> Option<Self> {
        if self.0 == 0 { None } else { Some(Self(self.0 - 1)) }
    }
    /// log2 of the number of frames.
    pub const fn log2(self) -> u8 {
        self.0
    }
    /// The number of frames.
    pub const fn frames(self) -> u64 {
        1 << self.0
    }
    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        PAGE_SIZE << self.0
    }
}

/// A naturally aligned power-of-two run of frames, the unit of buffers and of the frame allocator.
///
/// Frame number and order share one 64-bit word, since lists of chunks are long when memory is fragmented.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Chunk(u64);

impl Chunk {
    const ORDER_BITS: u32 = 8;

    /// The chunk of `order` that starts at `first`; `None` unless `first` is a multiple of the order's
    /// frames.
    pub const fn new(first: Pfn, order: Order) -> Option<Self> {
        if first.0 & (order.frames() - 1) != 0 {
            return None;
        }
        Some(Self(first.0 << Self::ORDER_BITS | order.0 as u64))
    }
    /// The chunk of a single frame.
    pub const fn page(frame: Pfn) -> Self {
        Self(frame.0 << Self::ORDER_BITS)
    }
    /// The first frame.
    pub const fn first(self) -> Pfn {
        Pfn(self.0 >> Self::ORDER_BITS)
    }
    /// The order.
    pub const fn order(self) -> Order {
        Order(self.0 as u8)
    }
    /// The number of frames.
    pub const fn frames(self) -> u64 {
        self.order().frames()
    }
    /// The first byte.
    pub const fn start(self) -> PhysAddr {
        self.first().start()
    }
    /// The length in bytes.
    pub const fn bytes(self) -> u64 {
        self.order().bytes()
    }
    /// The addresses of its bytes.
    pub fn range(self) -> AddrRange<PhysAddr> {
        AddrRange::new(self.start(), self.start() + self.bytes())
    }
    /// The largest naturally aligned chunk that starts at `first` and has at most `frames` frames; `None` for
    /// 0 frames.
    pub fn largest_at(first: Pfn, frames: u64) -> Option<Self> {
        let fits = Order::fitting(frames)?;
        let aligned = (first.0.trailing_zeros() as u8).min(Order::MAX.0);
        Self::new(first, fits.min(Order(aligned)))
    }
    /// The chunks that cover the whole frames of `range`: at each address the largest chunk that fits.
    pub fn of_range(range: AddrRange<PhysAddr>) -> impl Iterator<Item = Self> + Clone {
        let first =
            range.start().align_up(PAGE_SIZE).map_or(u64::MAX >> PAGE_SHIFT, |a| a.raw() >> PAGE_SHIFT);
        let end = range.end().raw() >> PAGE_SHIFT;
        let mut next = Pfn(first);
        core::iter::from_fn(move || {
            let chunk = Self::largest_at(next, end.saturating_sub(next.0))?;
            next = next.offset(chunk.frames());
            Some(chunk)
        })
    }
}

/// A run of physically contiguous frames: a chunk, or another type with a start and an end.
pub trait FrameRun: Copy {
    /// The first byte, aligned to a frame.
    fn start(&self) -> PhysAddr;
    /// The first byte after the run, aligned to a frame.
    fn end(&self) -> PhysAddr;
}

impl FrameRun for AddrRange<PhysAddr> {
    #[inline]
    fn start(&self) -> PhysAddr {
        AddrRange::start(self)
    }
    #[inline]
    fn end(&self) -> PhysAddr {
        AddrRange::end(self)
    }
}

impl FrameRun for Chunk {
    #[inline]
    fn start(&self) -> PhysAddr {
        Chunk::start(*self)
    }
    #[inline]
    fn end(&self) -> PhysAddr {
        PhysAddr::new(Chunk::start(*self).raw() + self.bytes())
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({:#x}+{:#x})", self.start(), self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_round_down_and_up() {
        let cases = [
            (0, None, None),
            (1, Some(0), Some(0)),
            (3, Some(1), Some(2)),
            (512, Some(9), Some(9)),
            (1 << 20, Some(18), None),
        ];
        for (frames, fitting, covering) in cases {
            assert_eq!(Order::fitting(frames).map(Order::log2), fitting, "{frames}");
            assert_eq!(Order::covering(frames).map(Order::log2), covering, "{frames}");
        }
        assert_eq!(Order::new(19), Err(OrderError(19)));
        assert_eq!(Order::BLOCK_2M.bytes(), 2 << 20);
        assert_eq!(Order::MAX.bytes(), 1 << 30);
    }

    #[test]
    fn misaligned_chunk_is_rejected() {
        let order = Order::new(3).unwrap();
        assert!(Chunk::new(Pfn::new(4), order).is_none());
        let chunk = Chunk::new(Pfn::new(8), order).unwrap();
        assert_eq!((chunk.start().raw(), chunk.bytes(), chunk.frames()), (0x8000, 0x8000, 8));
        assert_eq!(size_of::<Option<Chunk>>(), 16);
    }

    #[test]
    fn range_splits_into_the_largest_chunks() {
        let range = AddrRange::new(PhysAddr::new(0x1800), PhysAddr::new(0x9fff));
        let chunks: Vec<_> = Chunk::of_range(range).map(|c| (c.start().raw(), c.bytes())).collect();
        assert_eq!(chunks, [(0x2000, 0x2000), (0x4000, 0x4000), (0x8000, 0x1000)]);
        assert_eq!(Chunk::of_range(AddrRange::new(PhysAddr::new(1), PhysAddr::new(0x1fff))).count(), 0);
    }

    #[test]
    fn frame_zero_is_aligned_to_every_order() {
        assert_eq!(Chunk::largest_at(Pfn::new(0), u64::MAX).unwrap().order(), Order::MAX);
    }
}
