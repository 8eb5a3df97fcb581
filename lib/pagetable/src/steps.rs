//! Conversion of runs of frames into leaves: adjacent runs are merged, then divided into the largest leaves
//! that fit.

use crate::Descriptor;
use crate::geometry::{LAST_LEVEL, OutputSize, shift};
use crate::table::{load, store};
use addr::{FrameRun, PAGE_SHIFT, PAGE_SIZE, PhysAddr};
use core::sync::atomic::AtomicU64;

/// A sequence of leaves of one size, with consecutive input and output addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LeafStep {
    pub level: u8,
    pub contiguous: bool,
    /// The number of leaves, at least one; a multiple of sixteen if contiguous.
    pub leaves: u64,
}

/// Marks a top level of [`only_level`].
const ONLY: u8 = 1 << 4;

/// A top level that permits only leaves of `level` without the contiguous hint, and pages where they do not
/// fit.
pub(crate) const fn only_level(level: u8) -> u8 {
    ONLY | level
}

/// log2 of the bytes of a contiguous group of pages, the smallest leaf larger than a page.
const GROUP_SHIFT: u32 = 16;

impl LeafStep {
    const fn pages(bytes: u64) -> Self {
        Self { level: LAST_LEVEL, contiguous: false, leaves: bytes >> PAGE_SHIFT }
    }

    /// The first step of mapping `left` bytes (whole pages, not zero) from `at` to `to`. No entry is above
    /// `top_level`, which may be that of [`only_level`].
    #[inline]
    pub fn first(at: u64, to: u64, left: u64, top_level: u8) -> Self {
        // Short runs, as in fragmented buffers, take one comparison.
        if left < 1 << GROUP_SHIFT { Self::pages(left) } else { Self::large(at, to, left, top_level) }
    }

    fn large(at: u64, to: u64, mut left: u64, top_level: u8) -> Self {
        let shape = |bits: u32, left: &mut u64| Self::covers(bits, at, to, left);
        if top_level & ONLY != 0 {
            let level = top_level & !ONLY;
            if level < LAST_LEVEL && shape(shift(level), &mut left) {
                return Self { level, contiguous: false, leaves: left >> shift(level) };
            }
            return Self::pages(left);
        }
        if top_level <= 1 && shape(30, &mut left) {
            return Self { level: 1, contiguous: false, leaves: left >> 30 };
        }
        if top_level <= 2 && shape(25, &mut left) {
            return Self { level: 2, contiguous: true, leaves: left >> 25 << 4 };
        }
        if top_level <= 2 && shape(21, &mut left) {
            return Self { level: 2, contiguous: false, leaves: left >> 21 };
        }
        if top_level <= LAST_LEVEL && shape(GROUP_SHIFT, &mut left) {
            return Self { level: LAST_LEVEL, contiguous: true, leaves: left >> GROUP_SHIFT << 4 };
        }
        Self::pages(left)
    }

    /// Whether a leaf or group of 2^`bits` bytes fits at the start. If only a later one may fit, reduces
    /// `left` to end where it starts.
    #[inline(always)]
    fn covers(bits: u32, at: u64, to: u64, left: &mut u64) -> bool {
        let inside = (1u64 << bits) - 1;
        if (at ^ to) & inside != 0 {
            return false; // Input and output are never both aligned.
        }
        if at & inside != 0 {
            *left = (*left).min((at | inside) - at + 1);
            return false;
        }
        *left > inside
    }
}

/// The position in a list of runs: input and output address of the next leaf.
pub(crate) struct RunCursor<I> {
    /// Offset of the next leaf in the input address space.
    pub at: u64,
    /// Output address of the next leaf.
    pub to: u64,
    /// The end of the current run, merged with adjacent ones; equal to `to` at the end of the list.
    end: u64,
    /// The lowest level that may have leaves, or that of [`only_level`].
    top_level: u8,
    /// `None` only inside [`RunCursor::write_pages`].
    runs: Option<I>,
    /// Start and end of the next run, which is not adjacent; both equal at the end of the list.
    ahead: (u64, u64),
    /// The first address above the output size.
    output_end: u64,
    /// The last byte of the run that ended the list early, since it exceeds the output size.
    too_large: Option<PhysAddr>,
}

impl<I: Iterator<Item: FrameRun>> RunCursor<I> {
    pub fn new(at: u64, runs: I, top_level: u8, output: OutputSize) -> Self {
        let (mut runs, mut too_large, output_end) = (runs, None, output.end());
        let ahead = bounds_of_next(&mut runs, output_end, &mut too_large);
        let mut cursor =
            Self { at, to: 0, end: 0, top_level, runs: Some(runs), ahead, output_end, too_large };
        cursor.next_run();
        cursor
    }

    /// The bytes left in the current run; 0 at the end of the list.
    #[inline]
    pub fn left(&self) -> u64 {
        self.end - self.to
    }

    /// The next step; `left` must not be 0.
    #[inline]
    pub fn step(&self) -> LeafStep {
        LeafStep::first(self.at, self.to, self.left(), self.top_level)
    }

    /// Advances by `bytes`, at most `left`.
    #[inline]
    pub fn advance(&mut self, bytes: u64) {
        self.at += bytes;
        self.to += bytes;
        if self.to == self.end {
            self.next_run();
        }
    }

    /// Whether the current run is too short for a contiguous group.
    #[inline]
    pub fn needs_pages(&self) -> bool {
        self.left().wrapping_sub(1) < (1 << GROUP_SHIFT) - 1
    }

    /// Writes single pages into free slots while runs are short, the fast path of fragmented buffers. Returns
    /// the number of pages, and whether a slot was not free.
    #[inline]
    pub fn write_pages(&mut self, slots: &[AtomicU64], page: Descriptor) -> (usize, bool) {
        // Local copies, whose addresses are not taken, stay in registers during the loop.
        let Some(mut runs) = self.runs.take() else { return (0, false) };
        let Self { mut to, mut end, mut ahead, output_end, .. } = *self;
        let mut left = slots.iter();
        let mut occupied = false;
        while end - to < 1 << GROUP_SHIFT {
            let Some(slot) = left.as_slice().first() else { break };
            occupied = load(slot).is_valid();
            if occupied {
                break;
            }
            left.next();
            store(slot, page.advanced(to));
            to += PAGE_SIZE;
            if to == end {
                (to, end) = ahead;
                if to == end {
                    break;
                }
                (end, ahead) = join_adjacent(&mut runs, end, output_end, &mut self.too_large);
            }
        }
        let count = slots.len() - left.len();
        self.at += count as u64 * PAGE_SIZE;
        (self.to, self.end, self.ahead, self.runs) = (to, end, ahead, Some(runs));
        (count, occupied)
    }

    fn next_run(&mut self) {
        (self.to, self.end) = self.ahead;
        if let Some(runs) = &mut self.runs
            && self.to != self.end
        {
            (self.end, self.ahead) = join_adjacent(runs, self.end, self.output_end, &mut self.too_large);
        }
    }

    /// `Err` with the last byte of the run that exceeds the output size, if that ended the list.
    pub fn finish(&self) -> Result<(), PhysAddr> {
        self.too_large.map_or(Ok(()), Err)
    }
}

/// Merges the runs adjacent to one that ends at `end`. Returns the end of the merged run, and start and end
/// of the next.
#[inline(always)]
fn join_adjacent<R: FrameRun>(
    runs: &mut impl Iterator<Item = R>,
    mut end: u64,
    output_end: u64,
    too_large: &mut Option<PhysAddr>,
) -> (u64, (u64, u64)) {
    loop {
        let ahead = bounds_of_next(runs, output_end, too_large);
        // The end of the list (0) is never adjacent: no run ends at 0.
        if ahead.0 != end {
            return (end, ahead);
        }
        end = ahead.1;
    }
}

/// Start and end of the next run; zeroes if there is none, or it exceeds the output size.
#[inline(always)]
fn bounds_of_next<R: FrameRun>(
    runs: &mut impl Iterator<Item = R>,
    output_end: u64,
    too_large: &mut Option<PhysAddr>,
) -> (u64, u64) {
    match runs.next() {
        None => (0, 0),
        Some(run) if run.end().raw() > output_end => {
            *too_large = Some(last_byte(&run));
            (0, 0)
        }
        Some(run) => (run.start().raw(), run.end().raw()),
    }
}

/// The last byte of a run, for errors.
pub(crate) fn last_byte(run: &impl FrameRun) -> PhysAddr {
    PhysAddr::new(run.end().raw() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use addr::{Chunk, Order, Pfn};

    /// All steps of one run, as (level, contiguous, leaves).
    fn steps(mut at: u64, mut to: u64, mut left: u64, top: u8) -> Vec<(u8, bool, u64)> {
        let mut all = Vec::new();
        while left > 0 {
            let step = LeafStep::first(at, to, left, top);
            let bytes = step.leaves << shift(step.level);
            assert!(step.leaves > 0 && bytes <= left, "{step:?} of {left:#x}");
            all.push((step.level, step.contiguous, step.leaves));
            (at, to, left) = (at + bytes, to + bytes, left - bytes);
        }
        all
    }

    #[test]
    fn runs_are_divided_into_the_largest_leaves_that_fit() {
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
    fn no_leaf_is_above_the_top_level() {
        assert_eq!(steps(0, 0, 1 << 30, 2), [(2, true, 512)]);
        assert_eq!(steps(0, 0, 1 << 30, only_level(3)), [(3, false, 1 << 18)]);
    }

    #[test]
    fn blocks_of_one_size_are_not_grouped() {
        let (k, m, g) = (1 << 10, 1 << 20, 1 << 30);
        assert_eq!(steps(0, g, 2 * g, only_level(2)), [(2, false, 1024)]);
        assert_eq!(steps(0, g, 2 * g, only_level(1)), [(1, false, 2)]);
        let borders = steps(2 * m - 4 * k, 4 * m - 4 * k, 4 * m + 64 * k, only_level(2));
        assert_eq!(borders, [(3, false, 1), (2, false, 2), (3, false, 15)]);
        assert_eq!(steps(2 * m, 4 * m + 64 * k, 2 * m, only_level(2)), [(3, false, 512)]);
    }

    #[test]
    fn adjacent_chunks_are_merged() {
        let page = |n| Chunk::page(Pfn::new(n));
        let two = Chunk::new(Pfn::new(10), Order::new(1).unwrap()).unwrap();
        let mut cursor = RunCursor::new(
            0x8000,
            [page(8), page(9), two, page(20), page(19)].into_iter(),
            0,
            OutputSize::ENTRY,
        );
        let mut runs = Vec::new();
        while cursor.left() > 0 {
            runs.push((cursor.at, cursor.to, cursor.left()));
            cursor.advance(cursor.left());
        }
        assert_eq!(runs, [(0x8000, 0x8000, 0x4000), (0xc000, 0x14000, 0x1000), (0xd000, 0x13000, 0x1000)]);
    }
}
