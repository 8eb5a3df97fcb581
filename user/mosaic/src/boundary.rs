//! Boundaries between chunks with contiguous IOVAs but discontiguous physical addresses.

use std::fmt;
use std::io;
use std::ops::Range;

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

/// Selects two boundaries in `part` of the buffer for copies of `piece` bytes centred on them: the two
/// furthest apart that do not overlap and have chunks of at least half a piece on either side. Without chunk
/// information two fixed offsets are used.
///
/// # Errors
/// Fails if the chunks are physically contiguous.
pub fn pick_two(
    chunks: &[BufferChunk],
    part: &Range<u64>,
    piece: u64,
) -> io::Result<(ChunkBoundary, ChunkBoundary)> {
    if chunks.is_empty() {
        return Ok((
            ChunkBoundary { at: part.start + piece, physical: None },
            ChunkBoundary { at: part.end - piece, physical: None },
        ));
    }
    let inside = |at: u64| at >= part.start + piece / 2 && at + piece / 2 <= part.end;
    let mut all = boundaries(chunks, piece / 2).filter(|boundary| inside(boundary.at));
    let pair = all.next().and_then(|first| {
        let last = all.filter(|boundary| boundary.at - first.at >= piece).last()?;
        Some((first, last))
    });
    pair.ok_or_else(|| {
        io::Error::other("the buffer is physically contiguous: free memory was not fragmented")
    })
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
    fn selected_boundaries_are_far_apart_and_inside_the_part() {
        let list: Vec<_> = (0..64).map(|n| (0x100_0000 - n * 0x2000, 0x1000)).collect();
        let pick = |part| pick_two(&chunks(&list), &part, 0x1000).map(|(from, to)| (from.at, to.at)).ok();
        assert_eq!(pick(0..0x4_0000), Some((0x1000, 0x3_f000)));
        assert_eq!(pick(0x8000..0xa000), None, "only one boundary inside");
        assert_eq!(pick(0x8000..0xb000), Some((0x9000, 0xa000)));
    }

    #[test]
    fn physically_contiguous_buffer_is_an_error() {
        assert!(pick_two(&chunks(&[(0x1000, 0x1000), (0x2000, 0x1000)]), &(0..0x2000), 0x1000).is_err());
        assert!(pick_two(&[], &(0..1 << 20), 0x1000).is_ok());
    }
}
