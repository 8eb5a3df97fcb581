//! From a list of chunks to leaves: neighbours joined into runs, runs cut into the largest leaves that fit.

use crate::geometry::{LAST_LEVEL, OUTPUT_BITS};
use addr::{Chunk, PAGE_SHIFT, PAGE_SIZE, PhysAddr};

/// Some equal leaves in a row, input and output both consecutive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    pub level: u8,
    pub contiguous: bool,
    /// Whole groups of sixteen if contiguous. At least one leaf.
    pub leaves: u64,
}

/// A top level that leaves nothing but separate pages: no blocks, and no groups of pages either.
pub(crate) const PAGES_ONLY: u8 = LAST_LEVEL + 1;

/// log2 of the smallest thing that is not a single page.
const SMALLEST_SHAPE: u32 = 16;

impl Step {
    const fn pages(bytes: u64) -> Self {
        Self { level: LAST_LEVEL, contiguous: false, leaves: bytes >> PAGE_SHIFT }
    }

    /// The first step from `at` to `to`, `left` bytes (whole pages, not none) to go. No entry above `top_level`, or [`PAGES_ONLY`].
    #[inline]
    pub fn first(at: u64, to: u64, left: u64, top_level: u8) -> Self {
        // What a fragmented buffer is made of takes one comparison.
        if left < 1 << SMALLEST_SHAPE { Self::pages(left) } else { Self::large(at, to, left, top_level) }
    }

    fn large(at: u64, to: u64, mut left: u64, top_level: u8) -> Self {
        let shape = |bits: u32, left: &mut u64| Self::covers(bits, at, to, left);
        if top_level <= 1 && shape(30, &mut left) {
            return Self { level: 1, contiguous: false, leaves: left >> 30 };
        }
        if top_level <= 2 && shape(25, &mut left) {
            return Self { level: 2, contiguous: true, leaves: left >> 25 << 4 };
        }
        if top_level <= 2 && shape(21, &mut left) {
            return Self { level: 2, contiguous: false, leaves: left >> 21 };
        }
        if top_level <= LAST_LEVEL && shape(SMALLEST_SHAPE, &mut left) {
            return Self { level: LAST_LEVEL, contiguous: true, leaves: left >> SMALLEST_SHAPE << 4 };
        }
        Self::pages(left)
    }

    /// Whether something of `bits` covers the first bytes. If not, but further on, `left` goes as far as there.
    #[inline(always)]
    fn covers(bits: u32, at: u64, to: u64, left: &mut u64) -> bool {
        let inside = (1u64 << bits) - 1;
        if (at ^ to) & inside != 0 {
            return false; // Never both aligned to it.
        }
        if at & inside != 0 {
            *left = (*left).min((at | inside) - at + 1);
            return false;
        }
        *left > inside
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
    /// No leaf is in a table above this level; or [`PAGES_ONLY`].
    top_level: u8,
    chunks: I,
    /// Start and length of the chunk that was looked at and did not join the run. No length at the end of the list.
    ahead: (u64, u64),
    /// The chunk that ended the list early, since no entry can hold its addresses.
    too_large: Option<PhysAddr>,
}

impl<I: Iterator<Item = Chunk>> Cursor<I> {
    pub fn new(at: u64, chunks: I, top_level: u8) -> Self {
        let mut cursor = Self { at, to: 0, left: 0, top_level, chunks, ahead: (0, 0), too_large: None };
        cursor.ahead = cursor.look();
        cursor.next_run();
        cursor
    }

    /// The next step, when there is anything left.
    #[inline]
    pub fn step(&self) -> Step {
        Step::first(self.at, self.to, self.left, self.top_level)
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

    /// Whether the run is too short for anything but separate pages.
    #[inline]
    pub fn is_pages(&self) -> bool {
        self.left.wrapping_sub(1) < (1 << SMALLEST_SHAPE) - 1
    }

    /// Shows the output address of page after page, while runs are short and `visit` says to go on.
    #[inline]
    pub fn pages(&mut self, mut visit: impl FnMut(u64) -> bool) {
        // A copy: its address is nobody's, so it lives in registers for the time of the loop.
        let Self { at, to, left, top_level, ahead, too_large, .. } = *self;
        let mut run = Cursor { at, to, left, top_level, chunks: &mut self.chunks, ahead, too_large };
        while run.is_pages() && visit(run.to) {
            run.advance(PAGE_SIZE);
        }
        let Cursor { at, to, left, ahead, too_large, .. } = run;
        (self.at, self.to, self.left, self.ahead, self.too_large) = (at, to, left, ahead, too_large);
    }

    #[inline]
    fn next_run(&mut self) {
        (self.to, self.left) = self.ahead;
        if self.left == 0 {
            return;
        }
        loop {
            self.ahead = self.look();
            if self.ahead.0 != self.to + self.left || self.ahead.1 == 0 {
                return;
            }
            self.left += self.ahead.1;
        }
    }

    /// Start and length of the next chunk; no length when there is none, or none that can be mapped.
    #[inline]
    fn look(&mut self) -> (u64, u64) {
        let Some(chunk) = self.chunks.next() else { return (0, 0) };
        // Chunks are naturally aligned, so one that begins inside of the output address space ends there too.
        if chunk.first().raw() >> (OUTPUT_BITS - PAGE_SHIFT) != 0 {
            self.too_large = Some(chunk.start());
            return (0, 0);
        }
        (chunk.start().raw(), chunk.bytes())
    }

    /// Whether the list ended for want of chunks, or else the start of one that cannot be mapped.
    pub fn ended(&self) -> Result<(), PhysAddr> {
        self.too_large.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::shift;
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
        assert_eq!(steps(0, 0, 1 << 30, PAGES_ONLY), [(3, false, 1 << 18)]);
    }

    #[test]
    fn neighbouring_chunks_are_one_run() {
        let page = |n| Chunk::page(Pfn::new(n));
        let two = Chunk::new(Pfn::new(10), Order::new(1).unwrap()).unwrap();
        let mut cursor = Cursor::new(0x8000, [page(8), page(9), two, page(20), page(19)].into_iter(), 0);
        let mut runs = Vec::new();
        while cursor.left > 0 {
            runs.push((cursor.at, cursor.to, cursor.left));
            cursor.advance(cursor.left);
        }
        assert_eq!(runs, [(0x8000, 0x8000, 0x4000), (0xc000, 0x14000, 0x1000), (0xd000, 0x13000, 0x1000)]);
    }
}
