//! Lists of owned frames.

use crate::owned::{OwnedChunk, OwnedPages, next_page};
use crate::source::FrameSource;
use addr::{Chunk, Order, Pfn};
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use core::{fmt, slice};

/// The heap has no memory for the list itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfHeap;

/// Chunks stored inline, without heap. Enough for 64 KiB of single frames.
const INLINE: usize = 16;
/// Chunks in a piece of the list on the heap: 4 KiB, so that a long list needs no contiguous lowmem.
const PIECE: usize = 512;

/// A list of chunks, with the ownership of their frames.
///
/// It does not refer to its source: the owner has to call [`free_to`](Self::free_to). Dropping a list
/// that is not empty is a bug: debug builds panic, others leak the frames, which the zone's accounting then
/// shows.
pub struct Frames {
    inline: ArrayVec<Chunk, INLINE>,
    pieces: Vec<Vec<Chunk>>,
    frames: u64,
}

impl Frames {
    /// An empty list.
    pub const fn new() -> Self {
        Self { inline: ArrayVec::new_const(), pieces: Vec::new(), frames: 0 }
    }

    /// Appends the chunk. Returns it if the heap has no memory for the list.
    #[inline]
    pub fn push(&mut self, chunk: OwnedChunk) -> Result<(), (OwnedChunk, OutOfHeap)> {
        if self.inline.is_full() {
            return self.push_to_piece(chunk);
        }
        self.frames += chunk.chunk().frames();
        self.inline.push(chunk.release());
        Ok(())
    }

    #[inline(never)]
    fn push_to_piece(&mut self, chunk: OwnedChunk) -> Result<(), (OwnedChunk, OutOfHeap)> {
        let frames = chunk.chunk().frames();
        match self.piece_with_room() {
            Ok(piece) => piece.push(chunk.release()),
            Err(full) => return Err((chunk, full)),
        }
        self.frames += frames;
        Ok(())
    }

    /// Appends the pages, lowest first. Returns the rest if the heap has no memory for the list.
    pub fn push_pages(&mut self, pages: OwnedPages) -> Result<(), (OwnedPages, OutOfHeap)> {
        let (run, mut bits) = pages.release();
        while bits != 0 {
            let before = bits;
            if !self.inline.is_full() {
                self.inline.push(next_page(run, &mut bits));
            } else {
                match self.piece_with_room() {
                    Ok(piece) => {
                        let count = (PIECE - piece.len()).min(bits.count_ones() as usize);
                        piece.extend((0..count).map(|_| next_page(run, &mut bits)));
                    }
                    Err(full) => return Err((OwnedPages::from_list(run, bits), full)),
                }
            }
            self.frames += u64::from((before ^ bits).count_ones());
        }
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
    #[inline]
    pub fn chunks(&self) -> impl Iterator<Item = Chunk> + Clone {
        Chunks { piece: self.inline.iter(), pieces: self.pieces.iter() }
    }

    /// The chunk of a list with exactly one.
    #[inline]
    pub fn only(&self) -> Option<Chunk> {
        // There are pieces only once the inline part is full.
        if let [chunk] = self.inline[..] { Some(chunk) } else { None }
    }

    /// The number of chunks.
    pub fn chunk_count(&self) -> usize {
        let last = self.pieces.last().map_or(0, Vec::len);
        self.inline.len() + self.pieces.len().saturating_sub(1) * PIECE + last
    }

    /// The number of frames in all chunks.
    pub const fn frames(&self) -> u64 {
        self.frames
    }

    /// The number of bytes in all chunks.
    pub const fn bytes(&self) -> u64 {
        self.frames * addr::PAGE_SIZE
    }

    /// Whether the list is empty.
    pub const fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Frees all frames to `source`, and empties the list.
    pub fn free_to(&mut self, source: &mut impl FrameSource) {
        self.frames = 0;
        free_slice(&self.inline, source);
        self.inline.clear();
        if !self.pieces.is_empty() {
            self.pieces.drain(..).for_each(|piece| free_slice(&piece, source));
        }
    }

    /// Empties the list, and returns its chunks in order. Dropping the iterator leaks the chunks it has not
    /// returned.
    pub fn drain(&mut self) -> impl Iterator<Item = OwnedChunk> {
        self.frames = 0;
        let inline = core::mem::take(&mut self.inline);
        let pieces = core::mem::take(&mut self.pieces);
        inline.into_iter().chain(pieces.into_iter().flatten()).map(OwnedChunk::from_list)
    }
}

/// The chunks of a list. Little state, since most lists are short.
#[derive(Clone)]
struct Chunks<'a> {
    piece: slice::Iter<'a, Chunk>,
    pieces: slice::Iter<'a, Vec<Chunk>>,
}

impl Iterator for Chunks<'_> {
    type Item = Chunk;

    #[inline]
    fn next(&mut self) -> Option<Chunk> {
        loop {
            if let Some(chunk) = self.piece.next() {
                return Some(*chunk);
            }
            self.piece = self.pieces.next()?.iter();
        }
    }
}

/// Frees chunks; single frames of one run that are neighbours in the list are freed together.
fn free_slice(mut chunks: &[Chunk], source: &mut impl FrameSource) {
    while let [chunk, rest @ ..] = chunks {
        let next = rest.first().filter(|next| next.order() == Order::PAGE && chunk.order() == Order::PAGE);
        if next.is_some_and(|next| run_of(next) == run_of(chunk)) {
            let (count, pages) = pages_of_run(chunks);
            source.free_pages(pages);
            chunks = &chunks[count..];
        } else {
            source.free(OwnedChunk::from_list(*chunk));
            chunks = rest;
        }
    }
}

/// The number of the run of a page.
fn run_of(page: &Chunk) -> u64 {
    page.first().raw() / OwnedPages::RUN
}

/// The single frames at the start of `chunks` that are in the same run: their number, and the pages.
fn pages_of_run(chunks: &[Chunk]) -> (usize, OwnedPages) {
    let run = chunks.first().map_or(0, run_of);
    let mut bits = 0;
    let same = |chunk: &&Chunk| chunk.order() == Order::PAGE && run_of(chunk) == run;
    let count = chunks
        .iter()
        .take_while(same)
        .map(|chunk| bits |= 1 << (chunk.first().raw() % OwnedPages::RUN))
        .count();
    (count, OwnedPages::from_list(Pfn::new(run * OwnedPages::RUN), bits))
}

impl Default for Frames {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        debug_assert!(self.is_empty(), "{self:?} dropped instead of freed");
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
    use crate::Reach;

    fn page(number: u64) -> OwnedChunk {
        OwnedChunk::from_list(Chunk::page(Pfn::new(number)))
    }

    #[test]
    fn long_list_keeps_its_order() {
        let mut frames = Frames::new();
        for number in 0..5000 {
            assert_eq!((frames.chunk_count(), frames.only().is_some()), (number as usize, number == 1));
            frames.push(page(number)).unwrap();
        }
        assert_eq!((frames.chunk_count(), frames.frames(), frames.bytes()), (5000, 5000, 5000 << 12));
        assert!(frames.chunks().map(|chunk| chunk.first().raw()).eq(0..5000));
        let out: Vec<_> = frames.drain().map(|chunk| chunk.release().first().raw()).collect();
        assert!(out.into_iter().eq(0..5000));
        assert!(frames.is_empty());
        assert_eq!(frames.chunks().count(), 0);
    }

    /// The frames that were freed, one entry for each call.
    struct Returned(Vec<Vec<u64>>);

    impl FrameSource for Returned {
        fn alloc(&mut self, _: Order, _: Reach<'_>) -> Option<OwnedChunk> {
            None
        }
        fn free(&mut self, chunk: OwnedChunk) {
            self.0.push(vec![chunk.release().first().raw()]);
        }
        fn free_pages(&mut self, pages: OwnedPages) {
            self.0.push(pages.split().map(|page| page.release().first().raw()).collect());
        }
    }

    #[test]
    fn pages_of_a_run_are_appended_and_freed_together() {
        let mut frames = Frames::new();
        for run in 0..40 {
            frames.push_pages(OwnedPages::from_list(Pfn::new(run * 64), 0x8000_0000_0000_ff01)).unwrap();
        }
        assert_eq!((frames.chunk_count(), frames.frames()), (400, 400));
        assert_eq!(frames.chunks().nth(9), Some(Chunk::page(Pfn::new(63))));
        assert!(frames.chunks().map(|chunk| chunk.first().raw()).is_sorted());
        let block = Chunk::new(Pfn::new(4096), Order::CONTIGUOUS).unwrap();
        frames.push(OwnedChunk::from_list(block)).unwrap();
        frames.push(page(4097)).unwrap();
        let mut returned = Returned(Vec::new());
        frames.free_to(&mut returned);
        assert_eq!((frames.is_empty(), frames.chunks().count()), (true, 0));
        // The second run is split where the inline part ends.
        let lens: Vec<_> = returned.0.iter().map(Vec::len).collect();
        assert_eq!((&lens[..4], lens.len()), (&[10, 6, 4, 10][..], 43));
        assert_eq!(returned.0[41..], [[4096], [4097]]);
    }

    #[test]
    fn frames_and_chunks_are_counted_separately() {
        let mut frames = Frames::new();
        let big = Chunk::new(Pfn::new(512), Order::BLOCK_2M).unwrap();
        frames.push(OwnedChunk::from_list(big)).unwrap();
        frames.push(page(3)).unwrap();
        assert_eq!((frames.chunk_count(), frames.frames()), (2, 513));
        assert_eq!(format!("{frames:?}"), "[Chunk(0x200000+0x200000), Chunk(0x3000+0x1000)]");
        frames.drain().for_each(|chunk| _ = chunk.release());
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "dropped instead of freed")]
    fn dropping_a_list_that_is_not_empty_panics() {
        let mut frames = Frames::new();
        frames.push(page(1)).unwrap();
    }
}
