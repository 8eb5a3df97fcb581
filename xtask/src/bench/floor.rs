//! The least that an operation can cost, whoever does it.

use super::figures::Figure;

const PAGE: u64 = 4 << 10;
const BLOCK: u64 = 2 << 20;
/// The DC ZVA block of the CPUs that are measured.
const BLOCK_ZEROED: u64 = 64;
/// DC ZVA, and the ADD of its address.
const ZERO: u64 = 2;
/// One range invalidation and one wait for it: two commands of two words, the doorbell, a look at the result.
const FORGET: u64 = 6;

/// The floor of both halves; `None` for what has none.
pub fn of(figure: &Figure) -> Option<(u64, u64)> {
    let size = figure.key.size;
    let leaves = leaves(figure);
    // Tables that go as a whole need no store for each of their leaves.
    let cleared = if size < BLOCK { leaves } else { size / BLOCK };
    match figure.key.name.as_str() {
        // Each chunk changes hands twice.
        "alloc" | "frag_alloc" => {
            Some((size / BLOCK_ZEROED * ZERO + leaves + figure.chunks, cleared + figure.chunks + FORGET))
        }
        "map_single" | "map_sg" => Some((leaves, cleared + FORGET)),
        // A call into the kernel and back has no fixed least cost, so only the leaves are counted.
        "mmap" => Some((leaves, cleared)),
        _ => None,
    }
}

/// A leaf for each page, unless the memory is in chunks that blocks fit.
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
    fn lines_and_leaves_are_counted() {
        assert_eq!(floor("alloc size=4096 chunks=1"), Some((130, 8)));
        assert_eq!(floor("alloc size=2097152 chunks=1"), Some((65538, 8)));
        assert_eq!(floor("frag_alloc size=2097152 chunks=512"), Some((65536 + 2 * 512, 1 + 512 + 6)));
        assert_eq!(floor("map_sg size=1048576 chunks=256"), Some((256, 262)));
        assert_eq!(floor("contention size=4096 chunks=1"), None);
    }
}
