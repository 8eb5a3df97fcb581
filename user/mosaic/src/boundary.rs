//! Borders between chunks that follow each other for the device but not in RAM.

use std::fmt;
use std::io;

use abi::dma::BufferChunk;

/// Where one chunk ends and the next begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ChunkBoundary {
    /// Offset in the buffer.
    pub at: u64,
    /// Where the last byte before it lies in RAM, and the first after it; not known on every kernel.
    pub sides: Option<(u64, u64)>,
}

impl fmt::Display for ChunkBoundary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sides {
            Some((left, right)) => {
                write!(f, "offset {:#x}, where RAM jumps from {left:#x} to {right:#x}", self.at)
            }
            None => write!(f, "offset {:#x}", self.at),
        }
    }
}

/// The two borders furthest apart among the first ones, with room for half a `piece` on either side and not overlapping.
///
/// The device's reach may end somewhere in the buffer, so both lie in its first eighth; where that has no two (it may be
/// one large chunk, of lowmem say), the first two there are. Without a description of the chunks, two offsets that any
/// buffer has.
///
/// # Errors
/// If the chunks are all neighbours in RAM: then there is nothing to show.
pub fn pick_two(
    chunks: &[BufferChunk],
    bytes: u64,
    piece: u64,
) -> io::Result<(ChunkBoundary, ChunkBoundary)> {
    if chunks.is_empty() {
        return Ok((ChunkBoundary { at: piece, sides: None }, ChunkBoundary { at: bytes / 8, sides: None }));
    }
    let neighbours =
        || io::Error::other("the buffer's chunks are neighbours in RAM: memory was not scattered");
    let mut all = boundaries(chunks, piece / 2);
    let first = all.next().ok_or_else(neighbours)?;
    let mut others = all.filter(|boundary| boundary.at - first.at >= piece);
    let next = others.next().ok_or_else(neighbours)?;
    let last = others.take_while(|boundary| boundary.at <= bytes.div_ceil(8)).last();
    Ok((first, last.unwrap_or(next)))
}

/// All borders where RAM jumps and both chunks hold at least `room` bytes.
fn boundaries(chunks: &[BufferChunk], room: u64) -> impl Iterator<Item = ChunkBoundary> {
    let ends = chunks.iter().scan(0, |end, chunk| {
        *end += chunk.len;
        Some(*end)
    });
    ends.zip(chunks.windows(2)).filter_map(move |(at, pair)| {
        let (left, right) = (pair[0], pair[1]);
        let jumps = left.pa + left.len != right.pa;
        (jumps && left.len.min(right.len) >= room)
            .then_some(ChunkBoundary { at, sides: Some((left.pa + left.len - 1, right.pa)) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(list: &[(u64, u64)]) -> Vec<BufferChunk> {
        list.iter().map(|&(pa, len)| BufferChunk { iova: 0, pa, len }).collect()
    }

    #[test]
    fn only_borders_where_ram_jumps_count() {
        let list = chunks(&[(0x10000, 0x2000), (0x12000, 0x2000), (0x40000, 0x1000), (0x20000, 0x1000)]);
        let found: Vec<_> = boundaries(&list, 0x800).collect();
        assert_eq!(found.iter().map(|boundary| boundary.at).collect::<Vec<_>>(), [0x4000, 0x5000]);
        assert_eq!(found[0].sides, Some((0x13fff, 0x40000)));
    }

    #[test]
    fn the_pieces_do_not_overlap_and_lie_in_reach() {
        let list: Vec<_> = (0..64).map(|n| (0x100_0000 - n * 0x2000, 0x1000)).collect();
        let (from, to) = pick_two(&chunks(&list), 64 * 0x1000, 0x1000).unwrap();
        assert_eq!((from.at, to.at), (0x1000, 0x8000));
    }

    #[test]
    fn a_large_chunk_at_the_start_is_no_obstacle() {
        let list: Vec<_> = (0..8).map(|n| (0x100_0000 - n * 0x2_0000, 0x1_0000)).collect();
        let (from, to) = pick_two(&chunks(&list), 8 * 0x1_0000, 0x1000).unwrap();
        assert_eq!((from.at, to.at), (0x1_0000, 0x2_0000));
    }

    #[test]
    fn a_buffer_that_is_one_piece_of_ram_shows_nothing() {
        assert!(pick_two(&chunks(&[(0x1000, 0x1000), (0x2000, 0x1000)]), 0x2000, 0x1000).is_err());
        assert!(pick_two(&[], 1 << 20, 0x1000).is_ok());
    }
}
