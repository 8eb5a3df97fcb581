//! Frames with an owner.

use crate::zone::FrameSource;
use addr::Chunk;
use alloc::vec::Vec;
use core::fmt;

/// The heap had no room for the list itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfHeap;

/// A chunk that belongs to whoever holds this value. There is one for every chunk, since it cannot be copied; a
/// [`FrameSource`] makes it and takes it back. Forgetting it leaks the frames.
#[must_use = "dropping an owned chunk leaks its frames"]
#[derive(PartialEq, Eq)]
pub struct OwnedChunk(Chunk);

impl OwnedChunk {
    /// Makes the caller the owner of `chunk`. Only for code that *knows* nobody else owns it: the allocator itself,
    /// and code that kept the ownership in another form (a page table entry, say).
    pub const fn adopt(chunk: Chunk) -> Self {
        Self(chunk)
    }
    /// Which chunk.
    pub const fn chunk(&self) -> Chunk {
        self.0
    }
    /// Ends the ownership in this form: the caller keeps it in another one.
    pub const fn release(self) -> Chunk {
        self.0
    }
}

impl fmt::Debug for OwnedChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Chunks held in place, without heap. Enough for 64 KiB of single frames.
const INLINE: usize = 16;
/// Chunks in a piece of the list on the heap: 4 KiB, so that a long list needs no long run of low memory.
const PIECE: usize = 512;

/// A list of chunks and the ownership of their frames.
///
/// It is not tied to its source: whoever holds it has to [`give_back`](Self::give_back) at last. Dropping it full is
/// a bug: debug builds panic, others leak the frames, which the zone's accounting then shows.
pub struct Frames {
    inline: [Chunk; INLINE],
    inline_len: u8,
    pieces: Vec<Vec<Chunk>>,
    frames: u64,
}

impl Frames {
    /// No frames.
    pub const fn new() -> Self {
        let nothing = Chunk::page(addr::Pfn::new(0));
        Self { inline: [nothing; INLINE], inline_len: 0, pieces: Vec::new(), frames: 0 }
    }

    /// Appends the chunk. When the heap has no room for the list to grow, the chunk comes back.
    pub fn push(&mut self, chunk: OwnedChunk) -> Result<(), (OwnedChunk, OutOfHeap)> {
        let frames = chunk.chunk().frames();
        if usize::from(self.inline_len) < INLINE {
            self.inline[usize::from(self.inline_len)] = chunk.release();
            self.inline_len += 1;
        } else {
            match self.piece_with_room() {
                Ok(piece) => piece.push(chunk.release()),
                Err(full) => return Err((chunk, full)),
            }
        }
        self.frames += frames;
        Ok(())
    }

    fn piece_with_room(&mut self) -> Result<&mut Vec<Chunk>, OutOfHeap> {
        if self.pieces.last().is_none_or(|piece| piece.len() == PIECE) {
            let mut piece = Vec::new();
            piece.try_reserve_exact(PIECE).map_err(|_| OutOfHeap)?;
            self.pieces.try_reserve(1).map_err(|_| OutOfHeap)?;
            self.pieces.push(piece);
        }
        self.pieces.last_mut().ok_or(OutOfHeap)
    }

    /// The chunks, in order.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk> + Clone {
        self.inline().iter().chain(self.pieces.iter().flatten()).copied()
    }

    /// The number of chunks.
    pub fn len(&self) -> usize {
        let last = self.pieces.last().map_or(0, Vec::len);
        usize::from(self.inline_len) + self.pieces.len().saturating_sub(1) * PIECE + last
    }

    /// The number of frames in all chunks.
    pub const fn frames(&self) -> u64 {
        self.frames
    }

    /// The number of bytes in all chunks.
    pub const fn bytes(&self) -> u64 {
        self.frames * addr::PAGE_SIZE
    }

    /// Whether there is no frame in it.
    pub const fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Gives all frames back to where they came from; the list is empty then.
    pub fn give_back(&mut self, source: &mut impl FrameSource) {
        self.chunks().for_each(|chunk| source.give(OwnedChunk::adopt(chunk)));
        (self.inline_len, self.frames) = (0, 0);
        self.pieces.clear();
    }

    /// Takes all chunks out, in order. What the iterator has not returned when it is dropped is leaked.
    pub fn drain(&mut self) -> impl Iterator<Item = OwnedChunk> {
        let emptied = core::mem::take(self);
        let inline = emptied.inline.into_iter().take(usize::from(emptied.inline_len));
        let mut emptied = emptied;
        emptied.frames = 0;
        let pieces = core::mem::take(&mut emptied.pieces);
        inline.chain(pieces.into_iter().flatten()).map(OwnedChunk::adopt)
    }

    fn inline(&self) -> &[Chunk] {
        &self.inline[..usize::from(self.inline_len)]
    }
}

impl Default for Frames {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        debug_assert!(self.is_empty(), "{self:?} dropped instead of given back");
    }
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.chunks()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use addr::{Order, Pfn};

    fn page(number: u64) -> OwnedChunk {
        OwnedChunk::adopt(Chunk::page(Pfn::new(number)))
    }

    #[test]
    fn a_long_list_keeps_its_order() {
        let mut frames = Frames::new();
        for number in 0..5000 {
            assert_eq!(frames.len(), number as usize);
            frames.push(page(number)).unwrap();
        }
        assert_eq!((frames.len(), frames.frames(), frames.bytes()), (5000, 5000, 5000 << 12));
        assert!(frames.chunks().map(|chunk| chunk.first().raw()).eq(0..5000));
        let out: Vec<_> = frames.drain().map(|chunk| chunk.release().first().raw()).collect();
        assert!(out.into_iter().eq(0..5000));
        assert!(frames.is_empty());
        assert_eq!(frames.chunks().count(), 0);
    }

    #[test]
    fn frames_are_counted_not_chunks() {
        let mut frames = Frames::new();
        let big = Chunk::new(Pfn::new(512), Order::BLOCK_2M).unwrap();
        frames.push(OwnedChunk::adopt(big)).unwrap();
        frames.push(page(3)).unwrap();
        assert_eq!((frames.len(), frames.frames()), (2, 513));
        assert_eq!(format!("{frames:?}"), "[Chunk(0x200000+0x200000), Chunk(0x3000+0x1000)]");
        frames.drain().for_each(|chunk| _ = chunk.release());
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "dropped instead of given back")]
    fn dropping_frames_is_noticed() {
        let mut frames = Frames::new();
        frames.push(page(1)).unwrap();
    }
}
