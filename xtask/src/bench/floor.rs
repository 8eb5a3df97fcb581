//! The lower bound of an operation's cost, independent of the implementation.

use super::figures::Figure;

const PAGE: u64 = 4 << 10;
const BLOCK: u64 = 2 << 20;
/// The DC ZVA block size of the measured CPUs, in bytes.
const ZVA_BLOCK: u64 = 64;
/// Instructions to zero a block: DC ZVA, and the ADD of its address.
const ZERO_BLOCK: u64 = 2;
/// One range invalidation and one CMD_SYNC: two commands of two words, the doorbell, and a read of the
/// result.
const INVALIDATE: u64 = 6;

/// The floor of both halves; `None` for an operation without one.
pub fn of(figure: &Figure) -> Option<(u64, u64)> {
    let size = figure.key.size;
    let leaves = leaves(figure);
    // Page tables that are unlinked as a whole need no store for each of their leaves.
    let cleared = if size < BLOCK { leaves } else { size / BLOCK };
    match figure.key.name.as_str() {
        // Each chunk is allocated and freed.
        "alloc" | "frag_alloc" => Some((
            size / ZVA_BLOCK * ZERO_BLOCK + leaves + figure.chunks,
            cleared + figure.chunks + INVALIDATE,
        )),
        "map_single" | "map_sg" => Some((leaves, cleared + INVALIDATE)),
        // A system call has no fixed minimum, so only the leaves are counted.
        "mmap" => Some((leaves, cleared)),
        _ => None,
    }
}

/// The leaves: one for each page, unless the chunks fit blocks.
pub fn leaves(figure: &Figure) -> u64 {
    let size = figure.key.size;
    let pages = figure.chunks > 1 && size / figure.chunks < BLOCK || size < BLOCK;
    size / if pages { PAGE } else { BLOCK }
}

#[cfg(test)]
mod tests {
    use super::super::figures::from_console;
    use super::*;

    fn floor(line: &str) -> Option<(u64, u64)> {
        of(&from_console(&format!("BENCH {line} attrs=0 alloc_ticks=1 free_ticks=1 iters=1"), "a")[0])
    }

    #[test]
    fn cache_lines_and_leaves_are_counted() {
        assert_eq!(floor("alloc size=4096 chunks=1"), Some((130, 8)));
        assert_eq!(floor("alloc size=2097152 chunks=1"), Some((65538, 8)));
        assert_eq!(floor("frag_alloc size=2097152 chunks=512"), Some((65536 + 2 * 512, 1 + 512 + 6)));
        assert_eq!(floor("map_sg size=1048576 chunks=256"), Some((256, 262)));
        assert_eq!(floor("contention size=4096 chunks=1"), None);
    }
}
