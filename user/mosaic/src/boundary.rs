//! Boundaries between chunks with contiguous IOVAs but discontiguous physical addresses.

use std::fmt;
use std::io;

use abi::dma::BufferChunk;

/// The boundary between two consecutive chunks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ChunkBoundary {
    /// The offset in the buffer.
    pub at: u64,
    /// The physical addresses of the last byte before and the first byte after the boundary, if known.
    pub physical: Option<(u64, u64)>,
}

impl fmt::Display for ChunkBoundary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.physical {
            Some((before, after)) => {
                write!(f, "the chunk boundary at {:#x} (physical {before:#x} -> {after:#x})", self.at)
            }
            None => write!(f, "offset {:#x}", self.at),
        }
    }
}

/// Selects two boundaries for copies of `piece` bytes centred on them: the two furthest apart that do not
/// overlap and have chunks of at least half a piece on either side.
///
/// The device's DMA mask may not cover the whole buffer, so both are in its first eighth; if that has fewer
/// than two (it may be a single large chunk in lowmem), the first two are selected. Without chunk information
/// two fixed offsets are used.
///
/// # Errors
/// Fails if the chunks are physically contiguous.
pub fn pick_two(
    chunks: &[BufferChunk],
    bytes: u64,
    piece: u64,
) -> io::Result<(ChunkBoundary, ChunkBoundary)> {
    if chunks.is_empty() {
        return Ok((
            ChunkBoundary { at: piece, physical: None },
            ChunkBoundary { at: bytes / 8, physical: None },
        ));
    }
    let contiguous =
        || io::Error::other("the buffer is physically contiguous: free memory was not fragmented");
    let mut all = boundaries(chunks, piece / 2);
    let first = all.next().ok_or_else(contiguous)?;
    let mut others = all.filter(|boundary| boundary.at - first.at >= piece);
    let next = others.next().ok_or_else(contiguous)?;
    let last = others.take_while(|boundary| boundary.at <= bytes.div_ceil(8)).last();
    Ok((first, last.unwrap_or(next)))
}

/// All boundaries with discontiguous physical addresses between chunks of at least `min_len` bytes.
fn boundaries(chunks: &[BufferChunk], min_len: u64) -> impl Iterator<Item = ChunkBoundary> {
    let ends = chunks.iter().scan(0, |end, chunk| {
        *end += chunk.len;
        Some(*end)
    });
    ends.zip(chunks.windows(2)).filter_map(move |(at, pair)| {
        let (left, right) = (pair[0], pair[1]);
        let discontiguous = left.pa + left.len != right.pa;
        (discontiguous && left.len.min(right.len) >= min_len)
            .then_some(ChunkBoundary { at, physical: Some((left.pa + left.len - 1, right.pa)) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(list: &[(u64, u64)]) -> Vec<BufferChunk> {
        list.iter().map(|&(pa, len)| BufferChunk { iova: 0, pa, len }).collect()
    }

    #[test]
    fn only_discontiguous_boundaries_are_listed() {
        let list = chunks(&[(0x10000, 0x2000), (0x12000, 0x2000), (0x40000, 0x1000), (0x20000, 0x1000)]);
        let found: Vec<_> = boundaries(&list, 0x800).collect();
        assert_eq!(found.iter().map(|boundary| boundary.at).collect::<Vec<_>>(), [0x4000, 0x5000]);
        assert_eq!(found[0].physical, Some((0x13fff, 0x40000)));
    }

    #[test]
    fn selected_boundaries_do_not_overlap_and_are_in_the_first_eighth() {
        let list: Vec<_> = (0..64).map(|n| (0x100_0000 - n * 0x2000, 0x1000)).collect();
        let (from, to) = pick_two(&chunks(&list), 64 * 0x1000, 0x1000).unwrap();
        assert_eq!((from.at, to.at), (0x1000, 0x8000));
    }

    #[test]
    fn boundaries_past_a_large_first_chunk_are_selected() {
        let list: Vec<_> = (0..8).map(|n| (0x100_0000 - n * 0x2_0000, 0x1_0000)).collect();
        let (from, to) = pick_two(&chunks(&list), 8 * 0x1_0000, 0x1000).unwrap();
        assert_eq!((from.at, to.at), (0x1_0000, 0x2_0000));
    }

    #[test]
    fn physically_contiguous_buffer_is_an_error() {
        assert!(pick_two(&chunks(&[(0x1000, 0x1000), (0x2000, 0x1000)]), 0x2000, 0x1000).is_err());
        assert!(pick_two(&[], 1 << 20, 0x1000).is_ok());
    }
}
