//! Sub-ranges of a chunk list.

use addr::{Chunk, PAGE_SHIFT, PAGE_SIZE, Pfn};

/// The `len` bytes at `offset` (both page-aligned) of the concatenation of `chunks`, as chunks. Chunks across
/// the ends are split; past the end of the list there are no more chunks.
pub fn chunk_range<I: Iterator<Item = Chunk> + Clone>(chunks: I, offset: u64, len: u64) -> ChunkRange<I> {
    debug_assert!(offset.is_multiple_of(PAGE_SIZE) && len.is_multiple_of(PAGE_SIZE));
    ChunkRange { chunks, skip: offset >> PAGE_SHIFT, left: len >> PAGE_SHIFT, at: Pfn::new(0), here: 0 }
}

/// See [`chunk_range`].
#[derive(Clone, Debug)]
pub struct ChunkRange<I> {
    chunks: I,
    /// Remaining frames before the range.
    skip: u64,
    /// Remaining frames of the range.
    left: u64,
    /// First frame and number of frames of the rest of the chunk being split.
    at: Pfn,
    here: u64,
}

impl<I: Iterator<Item = Chunk>> Iterator for ChunkRange<I> {
    type Item = Chunk;

    fn next(&mut self) -> Option<Chunk> {
        while self.here == 0 {
            let chunk = self.chunks.next()?;
            if self.skip == 0 && chunk.frames() <= self.left {
                self.left -= chunk.frames();
                return Some(chunk);
            }
            let skipped = self.skip.min(chunk.frames());
            self.skip -= skipped;
            (self.at, self.here) = (chunk.first().offset(skipped), chunk.frames() - skipped);
        }
        let piece = Chunk::largest_at(self.at, self.here.min(self.left))?;
        self.at = self.at.offset(piece.frames());
        self.here -= piece.frames();
        self.left -= piece.frames();
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use addr::Order;

    fn chunk(first: u64, log2: u8) -> Chunk {
        Chunk::new(Pfn::new(first), Order::new(log2).unwrap()).unwrap()
    }

    fn frames(chunks: impl Iterator<Item = Chunk>) -> Vec<u64> {
        chunks.flat_map(|c| (0..c.frames()).map(move |n| c.first().offset(n).raw())).collect()
    }

    #[test]
    fn every_sub_range_has_the_right_frames() {
        let list = [chunk(0x40, 3), chunk(0x100, 2), chunk(0x21, 0), chunk(0x80, 1)];
        let all = frames(list.into_iter());
        for offset in 0..=all.len() {
            for len in 0..=all.len() - offset {
                let part = chunk_range(list.into_iter(), offset as u64 * PAGE_SIZE, len as u64 * PAGE_SIZE);
                assert_eq!(frames(part), all[offset..offset + len], "{offset} {len}");
            }
        }
    }

    #[test]
    fn whole_chunks_are_not_split() {
        let list = [chunk(0x40, 3), chunk(0x100, 2)];
        assert!(chunk_range(list.into_iter(), 0, 12 * PAGE_SIZE).eq(list));
        assert!(
            chunk_range(list.into_iter(), 8 * PAGE_SIZE, 100 * PAGE_SIZE).eq([list[1]]),
            "limited by the end of the list"
        );
    }
}
