//! Ranges of an address space: of `Iova` for devices, of `KernelVa` for vmalloc, of `UserVa` for programs.

use addr::{AddrRange, Address, PAGE_SIZE};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

/// Why a range was not given, or not taken back. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RangeError<A: Address> {
    /// The length, or a border of the range, is not a whole number of pages, or it is zero.
    NotPages {
        /// Bytes asked for.
        len: u64,
    },
    /// No hole is big enough below the limit.
    OutOfRange {
        /// Bytes asked for.
        len: u64,
        /// The highest address that would have been usable.
        highest: A,
    },
    /// Some of the range that was asked for by address is taken, or outside the space.
    InUse(AddrRange<A>),
    /// Some of the range that came back was not out, or is none of ours: a double or a foreign free.
    NotAllocated(AddrRange<A>),
}

/// Gives out ranges of whole pages, lowest addresses first within the smallest class of holes that fits.
///
/// Bottom-up, because addresses that lie close together share page tables, and because the lowest hole of a class is
/// then also the one that a limit allows, if it allows any: a limit costs no search. Holes are filed under the power
/// of two below their size. The first class whose every hole fits ends the search, so that it takes O(log holes)
/// however many ranges are out; only a request that would fail otherwise looks at every hole of the smaller classes.
///
/// The last few ranges that came back are kept as they are: a request for just that length gets one of them, without
/// a search.
///
/// Every range is followed by a gap of `guard` bytes that nobody gets. A part of a range may come back alone when
/// there is no guard.
pub struct RangeAllocator<A> {
    space: AddrRange<A>,
    guard: u64,
    /// Start and end of each hole. Holes never touch.
    holes: BTreeMap<A, A>,
    /// The same holes by class and start.
    classes: BTreeSet<(u8, A)>,
    /// Ranges that came back lately, guards included, oldest first. Free, but no holes yet.
    recent: Vec<(A, A)>,
    allocated: u64,
}

/// Ranges kept at most.
const RECENT: usize = 8;

/// Holes of one class looked at, lowest first, before the next larger class is tried.
const TRIES: usize = 4;

impl<A: Address> RangeAllocator<A> {
    /// Manages the whole pages of `space`, all of them free.
    pub fn new(space: AddrRange<A>) -> Self {
        Self::with_guard(space, 0)
    }

    /// The same, with `guard` bytes (whole pages) unused behind each range.
    pub fn with_guard(space: AddrRange<A>, guard: u64) -> Self {
        assert!(guard.is_multiple_of(PAGE_SIZE), "guard of {guard:#x} bytes");
        let space = space.align_inward(PAGE_SIZE);
        let (holes, classes, recent) = (BTreeMap::new(), BTreeSet::new(), Vec::with_capacity(RECENT));
        let mut this = Self { space, guard, holes, classes, recent, allocated: 0 };
        if !space.is_empty() {
            this.insert_hole(space.start(), space.end());
        }
        this
    }

    /// All addresses it manages.
    pub fn space(&self) -> AddrRange<A> {
        self.space
    }

    /// Whether the page at `at` is out, or the guard of what is.
    pub fn is_allocated(&self, at: A) -> bool {
        let in_hole = self.holes.range(..=at).next_back().is_some_and(|(_, &end)| at < end);
        let came_back = self.recent.iter().any(|&(start, end)| start <= at && at < end);
        self.space.start() <= at && at < self.space.end() && !in_hole && !came_back
    }

    /// Bytes that are out, guards included.
    pub fn allocated(&self) -> u64 {
        self.allocated
    }

    /// The holes, lowest first.
    pub fn holes(&mut self) -> impl Iterator<Item = AddrRange<A>> {
        self.merge_recent();
        self.holes.iter().map(|(&start, &end)| AddrRange::new(start, end))
    }

    /// Takes `len` bytes (whole pages) that start at a multiple of `align` (a power of two, at least a page) and end
    /// at or below `highest`, an address that is still usable.
    ///
    /// # Errors
    /// [`RangeError::NotPages`], [`RangeError::OutOfRange`].
    pub fn alloc(&mut self, len: u64, align: u64, highest: A) -> Result<AddrRange<A>, RangeError<A>> {
        assert!(align.is_power_of_two() && align >= PAGE_SIZE, "alignment {align:#x}");
        let full = RangeError::OutOfRange { len, highest };
        let need = self.with_gap(len, full)?;
        let request = RangeRequest { len, need, align, highest };
        if let Some(range) = self.take_recent(&request) {
            return Ok(range);
        }
        let found = match self.find(&request) {
            Some(found) => found,
            None => {
                self.merge_recent();
                self.find(&request).or_else(|| self.find_slowly(&request)).ok_or(full)?
            }
        };
        self.carve(found.hole, found.range.start(), found.end);
        Ok(found.range)
    }

    /// Takes exactly `range`.
    ///
    /// # Errors
    /// [`RangeError::NotPages`]; [`RangeError::InUse`] when it, or its guard, is not all free.
    pub fn alloc_at(&mut self, range: AddrRange<A>) -> Result<(), RangeError<A>> {
        let taken = RangeError::InUse(range);
        let (start, end) = self.extent(range, taken)?;
        self.merge_recent();
        let (&hole, &hole_end) = self.holes.range(..=start).next_back().ok_or(taken)?;
        if end > hole_end {
            return Err(taken);
        }
        self.carve((hole, hole_end), start, end);
        Ok(())
    }

    /// Takes `range` back.
    ///
    /// # Errors
    /// [`RangeError::NotPages`]; [`RangeError::NotAllocated`] when it, or its guard, was not all out.
    pub fn free(&mut self, range: AddrRange<A>) -> Result<(), RangeError<A>> {
        let foreign = RangeError::NotAllocated(range);
        let (start, end) = self.extent(range, foreign)?;
        // The last hole that begins below the end is the only one that can overlap.
        let hole = self.holes.range(..end).next_back().is_some_and(|(_, &hole_end)| hole_end > start);
        if hole || self.recent.iter().any(|&(other, other_end)| other < end && start < other_end) {
            return Err(foreign);
        }
        if self.recent.len() == RECENT {
            let (start, end) = self.recent.remove(0);
            self.merge(start, end);
        }
        self.recent.push((start, end));
        self.allocated -= end.raw() - start.raw();
        Ok(())
    }

    /// The range that came back last of those that are exactly the requested length, and will do.
    fn take_recent(&mut self, request: &RangeRequest<A>) -> Option<AddrRange<A>> {
        let fits = |&hole: &(A, A)| {
            let placement = request.place_in(hole)?;
            (placement.range.start() == hole.0 && placement.end == hole.1).then_some(placement.range)
        };
        let (index, range) =
            self.recent.iter().enumerate().rev().find_map(|(n, hole)| Some((n, fits(hole)?)))?;
        self.recent.remove(index);
        self.allocated += request.need;
        Some(range)
    }

    /// Makes holes of all ranges that came back lately.
    fn merge_recent(&mut self) {
        while let Some((start, end)) = self.recent.pop() {
            self.merge(start, end);
        }
    }

    /// Makes a hole of a free range, one with its neighbours.
    fn merge(&mut self, mut start: A, mut end: A) {
        let below = self.holes.range(..=start).next_back().map(|(&start, &end)| (start, end));
        let above = self.holes.range(start..).next().map(|(&start, &end)| (start, end));
        if let Some(below) = below.filter(|&(_, below_end)| below_end == start) {
            self.remove_hole(below);
            start = below.0;
        }
        if let Some(above) = above.filter(|&(above, _)| above == end) {
            self.remove_hole(above);
            end = above.1;
        }
        self.insert_hole(start, end);
    }

    /// `len` and the guard behind it, both checked.
    fn with_gap(&self, len: u64, too_long: RangeError<A>) -> Result<u64, RangeError<A>> {
        if len == 0 || !len.is_multiple_of(PAGE_SIZE) {
            return Err(RangeError::NotPages { len });
        }
        len.checked_add(self.guard).ok_or(too_long)
    }

    /// Start and end of `range` with its guard, which lie in the space.
    fn extent(&self, range: AddrRange<A>, outside: RangeError<A>) -> Result<(A, A), RangeError<A>> {
        if !range.start().is_aligned(PAGE_SIZE) {
            return Err(RangeError::NotPages { len: range.len() });
        }
        let need = self.with_gap(range.len(), outside)?;
        let end = range.start().checked_add(need).ok_or(outside)?;
        if range.start() < self.space.start() || end > self.space.end() {
            return Err(outside);
        }
        Ok((range.start(), end))
    }

    /// A hole that fits, from a bounded number of looks.
    fn find(&self, request: &RangeRequest<A>) -> Option<RangePlacement<A>> {
        let mut class = class_of(request.need);
        loop {
            class = self.classes.range((class, A::new(0))..).next()?.0;
            if let Some(found) =
                self.holes_of(class..class + 1).take(TRIES).find_map(|hole| request.place_in(hole))
            {
                return Some(found);
            }
            class += 1;
        }
    }

    /// A hole that fits, from the classes where not every hole does.
    fn find_slowly(&self, request: &RangeRequest<A>) -> Option<RangePlacement<A>> {
        let enough = request.need.saturating_add(request.align).checked_next_power_of_two();
        let always = enough.map_or(u64::BITS as u8, class_of);
        self.holes_of(class_of(request.need)..always).find_map(|hole| request.place_in(hole))
    }

    fn holes_of(&self, classes: core::ops::Range<u8>) -> impl Iterator<Item = (A, A)> {
        let keys = self.classes.range((classes.start, A::new(0))..(classes.end, A::new(0)));
        keys.filter_map(|(_, start)| Some((*start, *self.holes.get(start)?)))
    }

    /// Takes `start..end` out of a hole around it.
    fn carve(&mut self, hole: (A, A), start: A, end: A) {
        self.remove_hole(hole);
        if hole.0 < start {
            self.insert_hole(hole.0, start);
        }
        if end < hole.1 {
            self.insert_hole(end, hole.1);
        }
        self.allocated += end.raw() - start.raw();
    }

    fn insert_hole(&mut self, start: A, end: A) {
        self.holes.insert(start, end);
        self.classes.insert((class_of(end.raw() - start.raw()), start));
    }

    fn remove_hole(&mut self, (start, end): (A, A)) {
        self.holes.remove(&start);
        self.classes.remove(&(class_of(end.raw() - start.raw()), start));
    }
}

/// The power of two at or below a size that is not zero.
fn class_of(len: u64) -> u8 {
    len.ilog2() as u8
}

/// A request, checked.
struct RangeRequest<A> {
    len: u64,
    /// Length and guard.
    need: u64,
    align: u64,
    highest: A,
}

/// An answer to a request.
struct RangePlacement<A> {
    hole: (A, A),
    range: AddrRange<A>,
    /// Where the guard behind `range` ends.
    end: A,
}

impl<A: Address> RangeRequest<A> {
    /// The lowest range in the hole that will do.
    fn place_in(&self, hole: (A, A)) -> Option<RangePlacement<A>> {
        let start = hole.0.align_up(self.align)?;
        let end = start.checked_add(self.need)?;
        let last = start.checked_add(self.len - 1)?;
        let range = AddrRange::from_len(start, self.len)?;
        (end <= hole.1 && last <= self.highest).then_some(RangePlacement { hole, range, end })
    }
}
