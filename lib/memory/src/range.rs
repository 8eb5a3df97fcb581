//! The allocator of address ranges: of `Iova` for devices, of `KernelVa` for vmalloc, of `UserVa` for
//! programs.

use addr::{AddrRange, Address, PAGE_SIZE};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

#[cfg(test)]
mod tests;

/// The reason a range was not allocated or not freed. The allocator is unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RangeError<A: Address> {
    /// The length is zero, or the length or the start is not a multiple of the page size.
    NotPages {
        /// The requested bytes.
        len: u64,
    },
    /// No hole below the limit is large enough.
    OutOfRange {
        /// The requested bytes.
        len: u64,
        /// The highest usable address.
        highest: A,
    },
    /// Part of the requested range is allocated, or outside the space.
    InUse(AddrRange<A>),
    /// Part of the freed range is not allocated, or outside the space: a double free or a foreign range.
    NotAllocated(AddrRange<A>),
}

/// Allocates ranges of whole pages, lowest address first within the smallest size class of holes that fits.
///
/// Bottom-up, because close addresses share page tables, and because the lowest hole of a class is also the
/// one that an address limit allows, if it allows any: a limit costs no search. The class of a hole is the
/// power of two at or below its size. The search ends in the first class whose holes all fit, so it takes
/// O(log holes) for any number of allocated ranges; only a request that would otherwise fail tries all holes
/// of the smaller classes.
///
/// The last few freed ranges are cached unmerged: a request for exactly that length takes one of them without
/// a search.
///
/// Every range is followed by a guard of `guard` bytes that is never allocated. Without a guard, part of a
/// range may be freed alone.
///
/// Reserved ranges ([`RangeAllocator::reserve`]) are never allocated, and cannot be freed.
pub struct RangeAllocator<A> {
    space: AddrRange<A>,
    guard: u64,
    /// Whole pages of the space that are never allocated; they may overlap.
    reserved: Vec<AddrRange<A>>,
    /// Start and end of each hole. Holes are never adjacent.
    holes: BTreeMap<A, A>,
    /// The same holes, by class and start.
    classes: BTreeSet<(u8, A)>,
    /// Recently freed ranges, guards included, oldest first. Free, but not merged into holes yet.
    recent: Vec<(A, A)>,
}

/// The capacity of the cache of recently freed ranges. Not a [`Magazine`](crate::Magazine), which has one
/// stack per order: ranges have any length, and the oldest is merged when another is freed.
const RECENT: usize = 8;

/// The number of holes tried in a class, lowest first, before the next larger class.
const HOLES_TRIED: usize = 4;

impl<A: Address> RangeAllocator<A> {
    /// An allocator of the whole pages of `space`, all free.
    pub fn new(space: AddrRange<A>) -> Self {
        Self::with_guard(space, 0)
    }

    /// The same, with a guard of `guard` bytes (whole pages) after each range.
    pub fn with_guard(space: AddrRange<A>, guard: u64) -> Self {
        assert!(guard.is_multiple_of(PAGE_SIZE), "guard of {guard:#x} bytes");
        let space = space.align_inward(PAGE_SIZE);
        let (holes, classes, recent) = (BTreeMap::new(), BTreeSet::new(), Vec::with_capacity(RECENT));
        let mut this = Self { space, guard, reserved: Vec::new(), holes, classes, recent };
        if !space.is_empty() {
            this.insert_hole(space.start(), space.end());
        }
        this
    }

    /// The managed addresses.
    pub fn space(&self) -> AddrRange<A> {
        self.space
    }

    /// Reserves the pages that `range` touches. Must be called before the first allocation.
    pub fn reserve(&mut self, range: AddrRange<A>) {
        let inside = range.intersection(&self.space);
        let Some(range) = inside.and_then(|inside| inside.align_outward(PAGE_SIZE)) else { return };
        self.reserved.push(range);
        while let Some((&start, &end)) =
            self.holes.range(..range.end()).next_back().filter(|hole| *hole.1 > range.start())
        {
            self.take_from_hole((start, end), start.max(range.start()), end.min(range.end()));
        }
    }

    /// Whether the page at `at` is in an allocated range or its guard.
    pub fn is_allocated(&self, at: A) -> bool {
        let in_hole = self.holes.range(..=at).next_back().is_some_and(|(_, &end)| at < end);
        let is_recent = self.recent.iter().any(|&(start, end)| start <= at && at < end);
        self.space.contains(at)
            && !in_hole
            && !is_recent
            && !self.reserved.iter().any(|range| range.contains(at))
    }

    /// Allocates `len` bytes (whole pages), aligned to `align` (a power of two, at least a page). `highest`
    /// is the highest usable address.
    ///
    /// # Errors
    /// [`RangeError::NotPages`], [`RangeError::OutOfRange`].
    pub fn alloc(&mut self, len: u64, align: u64, highest: A) -> Result<AddrRange<A>, RangeError<A>> {
        assert!(align.is_power_of_two() && align >= PAGE_SIZE, "alignment {align:#x}");
        let full = RangeError::OutOfRange { len, highest };
        let need = self.guarded_len(len, full)?;
        let request = RangeRequest { len, need, align, highest };
        if let Some(range) = self.take_recent(&request) {
            return Ok(range);
        }
        let found = match self.find(&request) {
            Some(found) => found,
            None => {
                self.merge_recent();
                self.find(&request).or_else(|| self.find_in_small_classes(&request)).ok_or(full)?
            }
        };
        self.take_from_hole(found.hole, found.range.start(), found.end);
        Ok(found.range)
    }

    /// Allocates exactly `range`.
    ///
    /// # Errors
    /// [`RangeError::NotPages`]; [`RangeError::InUse`] if part of it, or of its guard, is not free.
    pub fn alloc_at(&mut self, range: AddrRange<A>) -> Result<(), RangeError<A>> {
        let taken = RangeError::InUse(range);
        let (start, end) = self.guarded(range, taken)?;
        self.merge_recent();
        let (&hole, &hole_end) = self.holes.range(..=start).next_back().ok_or(taken)?;
        if end > hole_end {
            return Err(taken);
        }
        self.take_from_hole((hole, hole_end), start, end);
        Ok(())
    }

    /// Frees `range`.
    ///
    /// # Errors
    /// [`RangeError::NotPages`]; [`RangeError::NotAllocated`] if part of it, or of its guard, is not
    /// allocated.
    pub fn free(&mut self, range: AddrRange<A>) -> Result<(), RangeError<A>> {
        let foreign = RangeError::NotAllocated(range);
        let (start, end) = self.guarded(range, foreign)?;
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
        Ok(())
    }

    /// Takes the most recently freed range that has exactly the requested length and satisfies the request.
    fn take_recent(&mut self, request: &RangeRequest<A>) -> Option<AddrRange<A>> {
        let fits = |&hole: &(A, A)| {
            let placement = request.place_in(hole)?;
            (placement.range.start() == hole.0 && placement.end == hole.1).then_some(placement.range)
        };
        let (index, range) =
            self.recent.iter().enumerate().rev().find_map(|(n, hole)| Some((n, fits(hole)?)))?;
        self.recent.remove(index);
        Some(range)
    }

    /// Merges all recently freed ranges into the holes.
    fn merge_recent(&mut self) {
        while let Some((start, end)) = self.recent.pop() {
            self.merge(start, end);
        }
    }

    /// Inserts a free range as a hole, merged with adjacent ones.
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

    /// The length with the guard, checked.
    fn guarded_len(&self, len: u64, too_long: RangeError<A>) -> Result<u64, RangeError<A>> {
        if len == 0 || !len.is_multiple_of(PAGE_SIZE) {
            return Err(RangeError::NotPages { len });
        }
        len.checked_add(self.guard).ok_or(too_long)
    }

    /// Start and end of `range` with its guard, checked against the space.
    fn guarded(&self, range: AddrRange<A>, outside: RangeError<A>) -> Result<(A, A), RangeError<A>> {
        if !range.start().is_aligned(PAGE_SIZE) {
            return Err(RangeError::NotPages { len: range.len() });
        }
        let need = self.guarded_len(range.len(), outside)?;
        let end = range.start().checked_add(need).ok_or(outside)?;
        if range.start() < self.space.start() || end > self.space.end() {
            return Err(outside);
        }
        if self.reserved.iter().any(|reserved| reserved.start() < end && range.start() < reserved.end()) {
            return Err(outside);
        }
        Ok((range.start(), end))
    }

    /// Finds a hole that fits, with a bounded number of tries per class.
    fn find(&self, request: &RangeRequest<A>) -> Option<RangePlacement<A>> {
        let mut class = class_of(request.need);
        loop {
            class = self.classes.range((class, A::new(0))..).next()?.0;
            if let Some(found) =
                self.holes_of(class..class + 1).take(HOLES_TRIED).find_map(|hole| request.place_in(hole))
            {
                return Some(found);
            }
            class += 1;
        }
    }

    /// Finds a hole that fits in the classes whose holes do not all fit, by trying each hole.
    fn find_in_small_classes(&self, request: &RangeRequest<A>) -> Option<RangePlacement<A>> {
        let enough = request.need.saturating_add(request.align).checked_next_power_of_two();
        let always = enough.map_or(u64::BITS as u8, class_of);
        self.holes_of(class_of(request.need)..always).find_map(|hole| request.place_in(hole))
    }

    fn holes_of(&self, classes: core::ops::Range<u8>) -> impl Iterator<Item = (A, A)> {
        let keys = self.classes.range((classes.start, A::new(0))..(classes.end, A::new(0)));
        keys.filter_map(|(_, start)| Some((*start, *self.holes.get(start)?)))
    }

    /// Allocates `start..end` from the hole around it.
    fn take_from_hole(&mut self, hole: (A, A), start: A, end: A) {
        self.remove_hole(hole);
        if hole.0 < start {
            self.insert_hole(hole.0, start);
        }
        if end < hole.1 {
            self.insert_hole(end, hole.1);
        }
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

/// The size class: log2 of the power of two at or below `len`, which is not zero.
fn class_of(len: u64) -> u8 {
    len.ilog2() as u8
}

/// A checked request.
struct RangeRequest<A> {
    len: u64,
    /// The length with the guard.
    need: u64,
    align: u64,
    highest: A,
}

/// A range that satisfies a request, and the hole it is in.
struct RangePlacement<A> {
    hole: (A, A),
    range: AddrRange<A>,
    /// The end of the guard after `range`.
    end: A,
}

impl<A: Address> RangeRequest<A> {
    /// The lowest range in the hole that satisfies the request.
    fn place_in(&self, hole: (A, A)) -> Option<RangePlacement<A>> {
        let start = hole.0.align_up(self.align)?;
        let end = start.checked_add(self.need)?;
        let last = start.checked_add(self.len - 1)?;
        let range = AddrRange::from_len(start, self.len)?;
        (end <= hole.1 && last <= self.highest).then_some(RangePlacement { hole, range, end })
    }
}
