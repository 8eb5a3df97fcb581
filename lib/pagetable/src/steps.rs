//! From a list of chunks to leaves: neighbours joined into runs, runs cut into the largest leaves that fit.

use crate::geometry::{GROUP_LEN, LAST_LEVEL, OUTPUT_BITS, shift};
use addr::{Chunk, PAGE_SHIFT, PhysAddr};

/// Some equal leaves in a row, input and output both consecutive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    pub level: u8,
    pub contiguous: bool,
    /// Whole groups of sixteen if contiguous. At least one leaf.
    pub leaves: u64,
}

/// What a leaf or a group of them can cover: log2 of the bytes, level, whether it is a group. Largest first.
const SHAPES: [(u32, u8, bool); 4] =
    [(30, 1, false), (25, 2, true), (shift(2), 2, false), (16, LAST_LEVEL, true)];

/// log2 of the smallest thing that is not a single page.
const SMALLEST_SHAPE: u32 = 16;

impl Step {
    const fn pages(bytes: u64) -> Self {
        Self { level: LAST_LEVEL, contiguous: false, leaves: bytes >> PAGE_SHIFT }
    }

    /// The first step from `at` to `to`, `left` bytes (whole pages, not none) to go. No entry above `top_level`.
    #[inline]
    pub fn first(at: u64, to: u64, left: u64, top_level: u8) -> Self {
        // What a fragmented buffer is made of takes one comparison.
        if left < 1 << SMALLEST_SHAPE { Self::pages(left) } else { Self::large(at, to, left, top_level) }
    }

    fn large(at: u64, to: u64, left: u64, top_level: u8) -> Self {
        let mut left = left;
        for (bits, level, contiguous) in SHAPES {
            let inside = (1u64 << bits) - 1;
            if level < top_level || (at ^ to) & inside != 0 {
                continue; // Never both aligned to it.
            }
            if at & inside == 0 && left > inside {
                let leaves = (left >> bits) * if contiguous { GROUP_LEN as u64 } else { 1 };
                return Self { level, contiguous, leaves };
            }
            // Both get aligned to it further on: smaller leaves go as far as there.
            if at & inside != 0 {
                left = left.min((at | inside) - at + 1);
            }
        }
        Self::pages(left)
    }
}

/// The way through a list of chunks: where the next leaf goes, and to what.
pub(crate) struct Cursor<I> {
    /// Offset of the next leaf in the input address space.
    pub at: u64,
    /// Output address of the next leaf.
    pub to: u64,
    /// Bytes left of the run that both are in. None at the end of the list.
    pub left: u64,
    chunks: I,
    /// A chunk that was looked at and did not join the run.
    ahead: Option<Chunk>,
    /// The run that ended the list early, since no entry can hold its addresses.
    too_large: Option<PhysAddr>,
}

impl<I: Iterator<Item = Chunk>> Cursor<I> {
    pub fn new(at: u64, mut chunks: I) -> Self {
        let ahead = chunks.next();
        let mut cursor = Self { at, to: 0, left: 0, chunks, ahead, too_large: None };
        cursor.next_run();
        cursor
    }

    /// Goes on by `bytes`, at most what is left of the run.
    #[inline]
    pub fn advance(&mut self, bytes: u64) {
        self.at += bytes;
        self.to += bytes;
        self.left -= bytes;
        if self.left == 0 {
            self.next_run();
        }
    }

    #[inline]
    fn next_run(&mut self) {
        let Some(first) = self.ahead.take() else { return };
        (self.to, self.left) = (first.start().raw(), first.bytes());
        self.ahead = loop {
            match self.chunks.next() {
                Some(chunk) if chunk.start().raw() == self.to + self.left => self.left += chunk.bytes(),
                other => break other,
            }
        };
        if self.to + self.left > 1 << OUTPUT_BITS {
            self.too_large = Some(PhysAddr::new(self.to));
            self.left = 0;
        }
    }

    /// Whether the list ended for want of chunks, or else the run that cannot be mapped.
    pub fn ended(&self) -> Result<(), PhysAddr> {
        self.too_large.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use addr::{Order, Pfn};

    /// All steps of one run, as (level, contiguous, leaves).
    fn steps(mut at: u64, mut to: u64, mut left: u64, top: u8) -> Vec<(u8, bool, u64)> {
        let mut all = Vec::new();
        while left > 0 {
            let step = Step::first(at, to, left, top);
            let bytes = step.leaves << shift(step.level);
            assert!(step.leaves > 0 && bytes <= left, "{step:?} of {left:#x}");
            all.push((step.level, step.contiguous, step.leaves));
            (at, to, left) = (at + bytes, to + bytes, left - bytes);
        }
        all
    }

    #[test]
    fn a_run_takes_the_largest_leaves_that_fit() {
        let (k, m, g) = (1 << 10, 1 << 20, 1 << 30);
        let cases = [
            ("a page", 0, 0, 4 * k, vec![(3, false, 1)]),
            ("64 KiB, aligned", 64 * k, 128 * k, 64 * k, vec![(3, true, 16)]),
            ("64 KiB, output not aligned", 64 * k, 4 * k, 64 * k, vec![(3, false, 16)]),
            ("60 KiB", 0, 0, 60 * k, vec![(3, false, 15)]),
            ("2 MiB", 2 * m, 4 * m, 2 * m, vec![(2, false, 1)]),
            ("2 MiB at 64 KiB", 2 * m, 4 * m + 64 * k, 2 * m, vec![(3, true, 512)]),
            ("2 MiB at 4 KiB", 2 * m, 4 * m + 4 * k, 2 * m, vec![(3, false, 512)]),
            ("32 MiB", 32 * m, 64 * m, 32 * m, vec![(2, true, 16)]),
            ("256 MiB", 0, g, 256 * m, vec![(2, true, 128)]),
            ("3 GiB", g, 0, 3 * g, vec![(1, false, 3)]),
            (
                "from a page below 2 MiB to a page above",
                2 * m - 4 * k,
                4 * m - 4 * k,
                2 * m + 8 * k,
                vec![(3, false, 1), (2, false, 1), (3, false, 1)],
            ),
            (
                "from 100 KiB below 32 MiB on",
                32 * m - 100 * k,
                64 * m - 100 * k,
                34 * m + 100 * k,
                vec![(3, false, 9), (3, true, 16), (2, true, 16), (2, false, 1)],
            ),
        ];
        for (name, at, to, left, expected) in cases {
            assert_eq!(steps(at, to, left, 0), expected, "{name}");
        }
    }

    #[test]
    fn no_leaf_is_above_the_root() {
        assert_eq!(steps(0, 0, 1 << 30, 2), [(2, true, 512)]);
        assert_eq!(steps(0, 0, 1 << 30, LAST_LEVEL), [(3, true, 1 << 18)]);
    }

    #[test]
    fn neighbouring_chunks_are_one_run() {
        let page = |n| Chunk::page(Pfn::new(n));
        let two = Chunk::new(Pfn::new(10), Order::new(1).unwrap()).unwrap();
        let mut cursor = Cursor::new(0x8000, [page(8), page(9), two, page(20), page(19)].into_iter());
        let mut runs = Vec::new();
        while cursor.left > 0 {
            runs.push((cursor.at, cursor.to, cursor.left));
            cursor.advance(cursor.left);
        }
        assert_eq!(runs, [(0x8000, 0x8000, 0x4000), (0xc000, 0x14000, 0x1000), (0xd000, 0x13000, 0x1000)]);
    }
}
