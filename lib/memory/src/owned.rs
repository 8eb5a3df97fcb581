//! Ownership of frames.

use addr::{AddrRange, Chunk, Order, Pfn};
use core::fmt;

/// Ownership of a chunk. It cannot be copied, so a chunk has one owner; a [`FrameSource`](crate::FrameSource)
/// allocates and frees it. Forgetting it leaks the frames.
#[must_use = "dropping an owned chunk leaks its frames"]
#[derive(PartialEq, Eq)]
pub struct OwnedChunk(Chunk);

impl OwnedChunk {
    /// Takes ownership of `chunk`: the inverse of [`release`](Self::release).
    ///
    /// # Safety
    /// No frame of `chunk` is free or has another owner. The caller owned them in another form (a page table
    /// entry, a [`Chunk`] from [`release`](Self::release)) and gives that form up.
    #[expect(
        unsafe_code,
        reason = "a second owner of a frame is undefined behaviour in the code that uses it"
    )]
    pub const unsafe fn adopt(chunk: Chunk) -> Self {
        Self(chunk)
    }
    /// Takes ownership of `chunk` from a list of this crate (free frames, [`Frames`](crate::Frames)) that no
    /// longer has it.
    pub(crate) const fn from_list(chunk: Chunk) -> Self {
        Self(chunk)
    }
    /// The chunk.
    pub const fn chunk(&self) -> Chunk {
        self.0
    }
    /// Releases the chunk: the caller tracks its ownership in another form.
    pub const fn release(self) -> Chunk {
        self.0
    }
    /// Splits the chunk after its first `frames` frames: the chunks of the first part, and those of the
    /// rest.
    ///
    /// # Panics
    /// If the chunk has fewer frames.
    pub fn split_at(self, frames: u64) -> (impl Iterator<Item = Self>, impl Iterator<Item = Self>) {
        let range = self.0.range();
        let border = self.0.first().offset(frames).start();
        let part = |start, end| Chunk::of_range(AddrRange::new(start, end)).map(Self);
        (part(range.start(), border), part(border, range.end()))
    }
    /// Splits the chunk into chunks of `order`; one of a smaller order stays whole.
    pub fn split_into(self, order: Order) -> impl Iterator<Item = Self> {
        let order = order.min(self.0.order());
        let parts = (0..self.0.frames()).step_by(order.frames() as usize);
        parts.filter_map(move |first| Chunk::new(self.0.first().offset(first), order)).map(Self)
    }
}

impl fmt::Debug for OwnedChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Ownership of up to 64 single frames of a naturally aligned run, one bit for each. See [`OwnedChunk`].
#[must_use = "dropping owned pages leaks them"]
#[derive(PartialEq, Eq)]
pub struct OwnedPages {
    run: Pfn,
    bits: u64,
}

impl OwnedPages {
    /// Frames in a run.
    pub const RUN: u64 = u64::BITS as u64;

    /// Takes ownership of frames from a list of this crate that no longer has them.
    pub(crate) const fn from_list(run: Pfn, bits: u64) -> Self {
        debug_assert!(run.raw().is_multiple_of(Self::RUN));
        Self { run, bits }
    }

    /// The first frame of the run, which may be none of the pages.
    pub(crate) const fn run(&self) -> Pfn {
        self.run
    }

    /// The pages, lowest first.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk> + use<> {
        let Self { run, mut bits } = *self;
        (0..bits.count_ones()).map(move |_| next_page(run, &mut bits))
    }

    /// Releases the pages: the first frame of the run, and the bits.
    pub(crate) const fn release(self) -> (Pfn, u64) {
        (self.run, self.bits)
    }

    /// Splits into single pages, lowest first.
    pub fn split(self) -> impl Iterator<Item = OwnedChunk> {
        self.chunks().map(OwnedChunk)
    }
}

impl From<OwnedChunk> for OwnedPages {
    /// Panics unless the chunk is within one run, that is, has at most 64 frames.
    fn from(chunk: OwnedChunk) -> Self {
        let chunk = chunk.release();
        let (first, frames) = (chunk.first().raw(), chunk.frames());
        assert!(frames <= Self::RUN, "{chunk:?} is more than a run");
        let bits = u64::MAX >> (Self::RUN - frames) << (first % Self::RUN);
        Self { run: Pfn::new(first - first % Self::RUN), bits }
    }
}

impl fmt::Debug for OwnedPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnedPages({:#x}, {:#x})", self.run.start(), self.bits)
    }
}

/// The page of the lowest bit, which is cleared.
pub(crate) fn next_page(run: Pfn, bits: &mut u64) -> Chunk {
    let page = Chunk::page(run.offset(u64::from(bits.trailing_zeros())));
    *bits &= bits.wrapping_sub(1);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_chunk_converts_to_pages_of_its_run() {
        let chunk = Chunk::new(Pfn::new(96), Order::CONTIGUOUS).unwrap();
        assert_eq!(OwnedPages::from(OwnedChunk(chunk)).release(), (Pfn::new(64), 0xffff << 32));
    }

    #[test]
    fn chunk_splits_into_aligned_parts() {
        let order = |log2| Order::new(log2).unwrap();
        let chunk = || OwnedChunk(Chunk::new(Pfn::new(16), order(4)).unwrap());
        let parts = |part: &mut dyn Iterator<Item = OwnedChunk>| -> Vec<_> {
            part.map(|part| part.release()).map(|part| (part.first().raw(), part.order().log2())).collect()
        };
        let (mut first, mut rest) = chunk().split_at(11);
        assert_eq!(parts(&mut first), [(16, 3), (24, 1), (26, 0)]);
        assert_eq!(parts(&mut rest), [(27, 0), (28, 2)]);
        let (mut all, mut none) = chunk().split_at(16);
        assert_eq!((parts(&mut all), parts(&mut none)), (vec![(16, 4)], vec![]));
        assert_eq!(parts(&mut chunk().split_into(order(3))), [(16, 3), (24, 3)]);
        assert_eq!(parts(&mut chunk().split_into(order(5))), [(16, 4)]);
    }
}
