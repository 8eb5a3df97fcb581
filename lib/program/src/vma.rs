//! Virtual memory areas (VMAs) of a process. The page tables are derived from them.

use abi::memory::Prot;
use addr::{AddrRange, Address, PAGE_SIZE, UserVa};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// The object behind a VMA: anonymous memory or a buffer.
pub trait MappedObject: Clone {
    /// Whether both are the same object, so that adjacent VMAs of it can be merged.
    fn is_same(&self, other: &Self) -> bool;
}

/// Whether pages of a VMA must be resident (`mlock`). Without swap space a populated page stays resident.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MemoryLock {
    /// No.
    #[default]
    None,
    /// From their first access on.
    OnFault,
    /// At once.
    Populated,
}

/// A virtual memory area: pages with equal protection that map consecutive bytes of one object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vma<B> {
    /// Whole pages, never empty.
    pub range: AddrRange<UserVa>,
    /// The protection.
    pub prot: Prot,
    /// Whether the pages must be resident.
    pub lock: MemoryLock,
    /// The mapped object.
    pub backing: B,
    /// The offset of the range in `backing`. For anonymous memory it is the address itself, so that adjacent
    /// VMAs can be merged.
    pub offset: u64,
}

impl<B: MappedObject> Vma<B> {
    /// The part inside `range`; `None` if they do not intersect.
    pub fn part(&self, range: &AddrRange<UserVa>) -> Option<Self> {
        if self.range.intersection(range).is_none() { None } else { self.clone().into_part(range) }
    }

    /// As [`Vma::part`], without a clone.
    fn into_part(mut self, range: &AddrRange<UserVa>) -> Option<Self> {
        let part = self.range.intersection(range)?;
        self.offset += part.start().raw() - self.range.start().raw();
        self.range = part;
        Some(self)
    }

    /// Whether `next` can be merged into this VMA: adjacent in the address space and in the object, equal
    /// protection and lock.
    fn can_merge(&self, next: &Self) -> bool {
        self.range.end() == next.range.start()
            && self.offset.checked_add(self.range.len()) == Some(next.offset)
            && (self.prot, self.lock) == (next.prot, next.lock)
            && self.backing.is_same(&next.backing)
    }
}

/// An error of a VMA operation. The VMAs are unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmaError {
    /// The range is empty, unaligned, or outside of the address space.
    Range,
    /// This address is already mapped.
    Overlap(UserVa),
    /// This address is not mapped.
    Hole(UserVa),
    /// No unmapped range is long enough.
    NoGap,
    /// The limit of VMAs is exceeded.
    TooMany,
    /// No memory for the list of affected VMAs.
    OutOfMemory,
}

/// The alignment of a new VMA: its start is congruent to `phase` modulo `align`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Alignment {
    align: u64,
    phase: u64,
}

impl Alignment {
    /// Page alignment.
    pub const PAGE: Self = Self { align: PAGE_SIZE, phase: 0 };

    /// Congruent to `offset` modulo `align`, so that block mappings fit a buffer's naturally aligned chunks
    /// of up to that size. `align` is rounded up to a power of two of at least a page.
    pub fn like_offset(align: u64, offset: u64) -> Self {
        let align = align.max(PAGE_SIZE).checked_next_power_of_two().unwrap_or(PAGE_SIZE);
        Self { align, phase: offset & (align - 1) & !(PAGE_SIZE - 1) }
    }

    /// The highest suitable address not above `limit`.
    fn at_most(&self, limit: u64) -> Option<u64> {
        Some((limit.checked_sub(self.phase)? & !(self.align - 1)) + self.phase)
    }
}

/// The VMAs of a process.
#[derive(Clone, Debug)]
pub struct VmaMap<B> {
    vmas: BTreeMap<UserVa, Vma<B>>,
    bounds: AddrRange<UserVa>,
    limit: usize,
    hole_cache: HoleCache,
}

/// An unmapped range, and the nearest VMAs below and above it. A neighbour that is not adjacent may be
/// missing.
struct Gap<'a, B> {
    range: AddrRange<UserVa>,
    below: Option<&'a Vma<B>>,
    above: Option<&'a Vma<B>>,
}

/// The ranges of the VMAs that merge with a new one.
struct Mergeable {
    below: Option<AddrRange<UserVa>>,
    above: Option<AddrRange<UserVa>>,
}

impl<B: MappedObject> Gap<'_, B> {
    /// The neighbours that can be merged with `vma`, which has the range of the gap.
    fn mergeable(&self, vma: &Vma<B>) -> Mergeable {
        let below = self.below.filter(|below| below.can_merge(vma)).map(|below| below.range);
        let above = self.above.filter(|above| vma.can_merge(above)).map(|above| above.range);
        Mergeable { below, above }
    }
}

/// The result of the last search, so that the next one need not visit all VMAs: no hole above `from` is
/// longer than `longest`.
#[derive(Clone, Copy, Debug)]
struct HoleCache {
    /// The start of a VMA, or the end of the address space.
    from: UserVa,
    /// In bytes.
    longest: u64,
}

impl<B: MappedObject> VmaMap<B> {
    /// An empty address space with the page-aligned `bounds`. `limit` is the maximum number of VMAs: it
    /// bounds the kernel heap that a process can use by mapping every second page.
    pub fn new(bounds: AddrRange<UserVa>, limit: usize) -> Self {
        Self {
            vmas: BTreeMap::new(),
            bounds,
            limit,
            hole_cache: HoleCache { from: bounds.end(), longest: 0 },
        }
    }

    /// Whether `more` VMAs can be added.
    pub fn has_room(&self, more: usize) -> bool {
        self.vmas.len() + more <= self.limit
    }

    /// Whether `more` VMAs can be added after the mappings in `range` are removed.
    pub fn has_room_without(&self, range: AddrRange<UserVa>, more: usize) -> bool {
        let rest = |vma: &Vma<B>| {
            let (below, above) = vma.range.without(&range);
            usize::from(!below.is_empty()) + usize::from(!above.is_empty())
        };
        let removed = self.in_range(range).fold((0, 0), |(all, left), vma| (all + 1, left + rest(vma)));
        self.vmas.len() - removed.0 + removed.1 + more <= self.limit
    }

    /// The VMA that contains `address`.
    pub fn find(&self, address: UserVa) -> Option<&Vma<B>> {
        self.vmas.range(..=address).next_back().map(|(_, vma)| vma).filter(|vma| vma.range.contains(address))
    }

    /// The first VMA that ends above `address`.
    pub fn first_from(&self, address: UserVa) -> Option<&Vma<B>> {
        self.find(address).or_else(|| self.vmas.range(address..).next().map(|(_, vma)| vma))
    }

    /// The whole range of the first VMA that intersects `range`.
    fn first_in(&self, range: AddrRange<UserVa>) -> Option<AddrRange<UserVa>> {
        let whole = |(_, vma): (_, &Vma<B>)| vma.range;
        let below = self.vmas.range(..=range.start()).next_back().map(whole);
        below
            .filter(|below| below.contains(range.start()))
            .or_else(|| self.vmas.range(range.start()..range.end()).next().map(whole))
    }

    /// All VMAs, ascending.
    pub fn iter(&self) -> impl Iterator<Item = &Vma<B>> {
        self.vmas.values()
    }

    /// The VMAs inside `range`, clipped to it, ascending.
    pub fn parts(&self, range: AddrRange<UserVa>) -> impl Iterator<Item = Vma<B>> + use<'_, B> {
        self.in_range(range).filter_map(move |vma| vma.part(&range))
    }

    /// The VMAs that intersect `range`, which is not empty, ascending.
    fn in_range(&self, range: AddrRange<UserVa>) -> impl Iterator<Item = &Vma<B>> {
        let first = self.find(range.start()).map_or(range.start(), |vma| vma.range.start());
        let last = range.end().max(first);
        self.vmas.range(first..last).map(|(_, vma)| vma)
    }

    /// The first unmapped address of `range`.
    pub fn first_hole(&self, range: AddrRange<UserVa>) -> Option<UserVa> {
        let mut at = range.start();
        for part in self.parts(range) {
            if part.range.start() > at {
                break;
            }
            at = part.range.end();
        }
        (at < range.end()).then_some(at)
    }

    /// Adds a VMA in an unmapped range and merges it with its neighbours if possible.
    pub fn insert(&mut self, vma: Vma<B>) -> Result<(), VmaError> {
        self.check(vma.range, 1)?;
        let range = vma.range;
        if self.put(vma) {
            return Ok(());
        }
        let taken = self.first_in(range).map_or(range.start(), |taken| taken.start().max(range.start()));
        Err(VmaError::Overlap(taken))
    }

    /// Removes and returns the first VMA inside `range`, clipped to it; `None` if nothing is mapped there.
    pub fn remove_first(&mut self, range: AddrRange<UserVa>) -> Result<Option<Vma<B>>, VmaError> {
        self.check(range, 0)?;
        let Some(whole) = self.first_in(range) else { return Ok(None) };
        let (below, above) = whole.without(&range);
        // A hole in the middle of a VMA splits it in two.
        if !below.is_empty() && !above.is_empty() {
            self.check(range, 1)?;
        }
        let Some(vma) = self.vmas.remove(&whole.start()) else { return Ok(None) };
        for rest in [below, above].iter().filter_map(|rest| vma.part(rest)) {
            self.vmas.insert(rest.range.start(), rest);
        }
        let part = vma.into_part(&range);
        if let Some(part) = part.as_ref().filter(|part| part.range.end() > self.hole_cache.from) {
            let next = self.vmas.range(part.range.end()..).next();
            self.hole_cache.from = next.map_or(self.bounds.end(), |(&start, _)| start);
        }
        Ok(part)
    }

    /// Removes and returns all VMAs.
    pub fn take(&mut self) -> Self {
        let empty = Self::new(self.bounds, self.limit);
        core::mem::replace(self, empty)
    }

    /// Reinserts the result of [`VmaMap::remove_first`]. Its range must still be unmapped.
    pub fn reinsert(&mut self, part: Vma<B>) {
        assert!(self.put(part), "the range is mapped again");
    }

    /// Changes the protection of `range`, which must be mapped completely. Returns the changed parts,
    /// ascending.
    pub fn protect(&mut self, range: AddrRange<UserVa>, prot: Prot) -> Result<Vec<Vma<B>>, VmaError> {
        self.update(range, |part| part.prot = prot)
    }

    /// Changes the lock of `range`, as [`protect`](Self::protect).
    pub fn set_lock(&mut self, range: AddrRange<UserVa>, lock: MemoryLock) -> Result<(), VmaError> {
        self.update(range, |part| part.lock = lock).map(|_| ())
    }

    /// Applies `change` to all VMAs inside `range`, which must be mapped completely; it changes neither the
    /// range nor the offset. Returns the changed parts, ascending.
    pub fn update(
        &mut self,
        range: AddrRange<UserVa>,
        change: impl FnMut(&mut Vma<B>),
    ) -> Result<Vec<Vma<B>>, VmaError> {
        self.check(range, 2)?;
        if let Some(hole) = self.first_hole(range) {
            return Err(VmaError::Hole(hole));
        }
        let mut parts = self.cut(range)?;
        parts.iter_mut().for_each(change);
        parts.iter().cloned().for_each(|part| self.reinsert(part));
        Ok(parts)
    }

    /// An unmapped range of `len` bytes: at `hint` if unmapped, else the highest suitable one.
    pub fn find_unmapped(
        &mut self,
        len: u64,
        alignment: Alignment,
        hint: Option<UserVa>,
    ) -> Option<AddrRange<UserVa>> {
        if len == 0 || !len.is_multiple_of(PAGE_SIZE) {
            return None;
        }
        match self.free_range_at(hint, len) {
            Some(range) => Some(range),
            None => self.highest_gap(len, alignment).map(|gap| gap.range),
        }
    }

    /// Adds the VMA `new(range)` in the range that [`find_unmapped`](Self::find_unmapped) returns. One search
    /// finds the range and its neighbours, which saves a tenth of an `mmap`.
    pub fn insert_unmapped(
        &mut self,
        len: u64,
        alignment: Alignment,
        hint: Option<UserVa>,
        new: impl FnOnce(AddrRange<UserVa>) -> Vma<B>,
    ) -> Result<AddrRange<UserVa>, VmaError> {
        if len == 0 || !len.is_multiple_of(PAGE_SIZE) {
            return Err(VmaError::Range);
        }
        if !self.has_room(1) {
            return Err(VmaError::TooMany);
        }
        if let Some(range) = self.free_range_at(hint, len) {
            return self.insert(new(range)).map(|()| range);
        }
        let gap = self.highest_gap(len, alignment).ok_or(VmaError::NoGap)?;
        let (range, vma) = (gap.range, new(gap.range));
        let mergeable = gap.mergeable(&vma);
        self.add(vma, mergeable);
        Ok(range)
    }

    /// The range of `len` bytes at `hint`, rounded down to pages, if it is unmapped.
    fn free_range_at(&self, hint: Option<UserVa>, len: u64) -> Option<AddrRange<UserVa>> {
        AddrRange::from_len(hint?.align_down(PAGE_SIZE), len).filter(|range| self.is_free(range))
    }

    /// The highest unmapped range of `len` bytes.
    fn highest_gap(&mut self, len: u64, alignment: Alignment) -> Option<Gap<'_, B>> {
        let top = HoleCache { from: self.bounds.end(), longest: 0 };
        let mut cache = if len > self.hole_cache.longest { self.hole_cache } else { top };
        let mut vmas = self.vmas.range(..=cache.from).rev().map(|(_, vma)| vma).peekable();
        let mut above = vmas.next_if(|vma| vma.range.start() == cache.from);
        let mut below = None;
        let mut found = None;
        for vma in vmas {
            found = fit(vma.range.end(), cache.from, len, alignment);
            if found.is_some() {
                below = Some(vma);
                break;
            }
            let hole = cache.from.raw().saturating_sub(vma.range.end().raw());
            cache = HoleCache { from: vma.range.start(), longest: cache.longest.max(hole) };
            above = Some(vma);
        }
        if cache.from <= self.hole_cache.from {
            self.hole_cache = cache;
        }
        let range = found.or_else(|| fit(self.bounds.start(), cache.from, len, alignment))?;
        Some(Gap { range, below, above })
    }

    fn is_free(&self, range: &AddrRange<UserVa>) -> bool {
        self.bounds.covers(range) && self.first_in(*range).is_none()
    }

    fn check(&self, range: AddrRange<UserVa>, more: usize) -> Result<(), VmaError> {
        let whole_pages = range.start().is_aligned(PAGE_SIZE) && range.end().is_aligned(PAGE_SIZE);
        if range.is_empty() || !whole_pages || !self.bounds.covers(&range) {
            return Err(VmaError::Range);
        }
        if self.has_room(more) { Ok(()) } else { Err(VmaError::TooMany) }
    }

    /// The VMAs inside `range` as a list; fails if the list cannot be allocated.
    pub fn try_parts(&self, range: AddrRange<UserVa>) -> Result<Vec<Vma<B>>, VmaError> {
        let mut parts = Vec::new();
        parts.try_reserve_exact(self.parts(range).count()).map_err(|_| VmaError::OutOfMemory)?;
        parts.extend(self.parts(range));
        Ok(parts)
    }

    /// Removes all VMAs inside `range`; VMAs across its ends keep their parts outside.
    fn cut(&mut self, range: AddrRange<UserVa>) -> Result<Vec<Vma<B>>, VmaError> {
        let parts = self.try_parts(range)?;
        for part in &parts {
            let Some(whole) = self.find(part.range.start()).cloned() else { continue };
            self.vmas.remove(&whole.range.start());
            let (below, above) = whole.range.without(&range);
            for rest in [below, above].iter().filter_map(|rest| whole.part(rest)) {
                self.vmas.insert(rest.range.start(), rest);
            }
        }
        Ok(parts)
    }

    /// Adds a VMA and merges it with its neighbours if possible. Returns false if the range is mapped.
    fn put(&mut self, vma: Vma<B>) -> bool {
        let mut near = self.vmas.range(..=vma.range.end()).rev().map(|(_, near)| near).peekable();
        let above = near.next_if(|near| near.range.start() == vma.range.end());
        let below = near.next();
        if below.is_some_and(|below| below.range.end() > vma.range.start()) {
            return false;
        }
        let mergeable = Gap { range: vma.range, below, above }.mergeable(&vma);
        self.add(vma, mergeable);
        true
    }

    fn add(&mut self, mut vma: Vma<B>, mergeable: Mergeable) {
        if let Some(above) = mergeable.above {
            self.vmas.remove(&above.start());
            vma.range = AddrRange::new(vma.range.start(), above.end());
        }
        match mergeable.below.and_then(|below| self.vmas.get_mut(&below.start())) {
            Some(below) => below.range = AddrRange::new(below.range.start(), vma.range.end()),
            None => {
                self.vmas.insert(vma.range.start(), vma);
            }
        }
    }
}

/// The highest suitable range of `len` bytes between `start` and `end`.
fn fit(start: UserVa, end: UserVa, len: u64, alignment: Alignment) -> Option<AddrRange<UserVa>> {
    let at = alignment.at_most(end.raw().checked_sub(len)?)?;
    if at < start.raw() { None } else { AddrRange::from_len(UserVa::new(at), len) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An object identified by its number.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct TestObject(u8);

    impl MappedObject for TestObject {
        fn is_same(&self, other: &Self) -> bool {
            self == other
        }
    }

    const PAGES: u64 = 64;

    fn pages(start: u64, len: u64) -> AddrRange<UserVa> {
        AddrRange::from_len(UserVa::new(start * PAGE_SIZE), len * PAGE_SIZE).unwrap()
    }

    fn vma(start: u64, len: u64, prot: Prot, object: u8, offset: u64) -> Vma<TestObject> {
        Vma {
            range: pages(start, len),
            prot,
            lock: MemoryLock::None,
            backing: TestObject(object),
            offset: offset * PAGE_SIZE,
        }
    }

    #[test]
    fn equal_locks_are_merged() {
        let mut vmas = empty();
        vmas.insert(vma(1, 6, Prot::READ, 1, 0)).unwrap();
        vmas.set_lock(pages(2, 2), MemoryLock::OnFault).unwrap();
        vmas.set_lock(pages(4, 2), MemoryLock::Populated).unwrap();
        let locks: Vec<_> = vmas.iter().map(|vma| (vma.range.len() / PAGE_SIZE, vma.lock)).collect();
        let (on_fault, populated) = (MemoryLock::OnFault, MemoryLock::Populated);
        assert_eq!(locks, [(1, MemoryLock::None), (2, on_fault), (2, populated), (1, MemoryLock::None)]);
        vmas.protect(pages(3, 1), Prot::WRITE).unwrap();
        assert_eq!(vmas.find(UserVa::new(3 * PAGE_SIZE)).unwrap().lock, on_fault);
        vmas.protect(pages(3, 1), Prot::READ).unwrap();
        vmas.set_lock(pages(1, 6), MemoryLock::None).unwrap();
        assert_eq!(vmas.iter().count(), 1);
    }

    /// Removes all VMAs inside `range`, ascending.
    fn take_all(
        vmas: &mut VmaMap<TestObject>,
        range: AddrRange<UserVa>,
    ) -> Result<Vec<Vma<TestObject>>, VmaError> {
        let mut parts = Vec::new();
        while let Some(part) = vmas.remove_first(range)? {
            assert!(parts.last().is_none_or(|last: &Vma<_>| last.range.end() <= part.range.start()));
            parts.push(part);
        }
        Ok(parts)
    }

    fn empty() -> VmaMap<TestObject> {
        VmaMap::new(pages(1, PAGES - 1), 32)
    }

    #[test]
    fn removing_the_middle_splits_and_reinserting_merges() {
        let mut vmas = empty();
        vmas.insert(vma(10, 10, Prot::READ, 1, 100)).unwrap();
        assert_eq!(vmas.remove_first(pages(12, 3)), Ok(Some(vma(12, 3, Prot::READ, 1, 102))));
        assert_eq!(vmas.remove_first(pages(12, 3)), Ok(None));
        let left: Vec<_> = vmas.iter().copied().collect();
        assert_eq!(left, [vma(10, 2, Prot::READ, 1, 100), vma(15, 5, Prot::READ, 1, 105)]);
        vmas.insert(vma(12, 3, Prot::READ, 1, 102)).unwrap();
        assert_eq!(vmas.iter().count(), 1, "neighbours are merged");
        let part = vmas.remove_first(pages(12, 3)).unwrap().unwrap();
        vmas.reinsert(part);
        assert_eq!(vmas.iter().copied().collect::<Vec<_>>(), [vma(10, 10, Prot::READ, 1, 100)]);
    }

    #[test]
    fn different_object_protection_or_offset_is_not_merged() {
        let neighbours =
            [vma(12, 1, Prot::READ, 2, 102), vma(12, 1, Prot::all(), 1, 102), vma(12, 1, Prot::READ, 1, 103)];
        for neighbour in neighbours {
            let mut vmas = empty();
            vmas.insert(vma(10, 2, Prot::READ, 1, 100)).unwrap();
            vmas.insert(neighbour).unwrap();
            assert_eq!(vmas.iter().count(), 2, "{neighbour:?}");
        }
    }

    #[test]
    fn protect_fails_on_a_hole_and_splits_and_merges() {
        let mut vmas = empty();
        vmas.insert(vma(10, 4, Prot::READ, 1, 0)).unwrap();
        vmas.insert(vma(15, 4, Prot::READ, 1, 5)).unwrap();
        let hole = UserVa::new(14 * PAGE_SIZE);
        assert_eq!(vmas.protect(pages(12, 5), Prot::all()), Err(VmaError::Hole(hole)));
        assert_eq!(vmas.protect(pages(11, 2), Prot::all()).unwrap(), [vma(11, 2, Prot::all(), 1, 1)]);
        assert_eq!(vmas.iter().count(), 4);
        vmas.protect(pages(11, 2), Prot::READ).unwrap();
        assert_eq!(vmas.iter().count(), 2, "equal protection is merged again");
    }

    #[test]
    fn invalid_and_overlapping_ranges_are_rejected() {
        let mut vmas = empty();
        vmas.insert(vma(10, 4, Prot::READ, 1, 0)).unwrap();
        let odd = AddrRange::new(UserVa::new(0x1001), UserVa::new(0x2000));
        for range in [pages(0, 2), pages(63, 2), pages(5, 0), odd] {
            assert_eq!(vmas.remove_first(range), Err(VmaError::Range), "{range:?}");
        }
        let overlapping = vmas.insert(vma(13, 4, Prot::READ, 1, 0));
        assert_eq!(overlapping, Err(VmaError::Overlap(UserVa::new(13 * PAGE_SIZE))));
    }

    #[test]
    fn room_counts_the_rests_of_the_mappings_in_a_range() {
        let mut vmas = VmaMap::new(pages(1, PAGES - 1), 4);
        for (start, len) in [(2, 3), (8, 2), (12, 1)] {
            vmas.insert(vma(start, len, Prot::READ, 0, 0)).unwrap();
        }
        for ((start, len), room) in
            [((3, 1), 0), ((2, 2), 1), ((2, 3), 2), ((4, 6), 2), ((1, 20), 4), ((6, 1), 1), ((12, 1), 2)]
        {
            let has_room = |more| vmas.has_room_without(pages(start, len), more);
            assert_eq!([has_room(room), has_room(room + 1)], [true, false], "{start} {len}");
        }
    }

    #[test]
    fn number_of_vmas_is_limited() {
        let mut vmas = VmaMap::new(pages(1, PAGES - 1), 3);
        for n in 0..3 {
            vmas.insert(vma(10 + 2 * n, 1, Prot::READ, 1, 0)).unwrap();
        }
        assert_eq!(vmas.insert(vma(20, 1, Prot::READ, 1, 0)), Err(VmaError::TooMany));
        assert_eq!(
            take_all(&mut vmas, pages(1, PAGES - 1)).map(|parts| parts.len()),
            Ok(3),
            "removal of whole VMAs never fails"
        );
        vmas.insert(vma(10, 3, Prot::READ, 1, 0)).unwrap();
        vmas.insert(vma(20, 1, Prot::READ, 1, 0)).unwrap();
        vmas.insert(vma(22, 1, Prot::READ, 1, 0)).unwrap();
        assert_eq!(vmas.remove_first(pages(11, 1)), Err(VmaError::TooMany), "a split needs one more");
        assert_eq!(vmas.protect(pages(11, 1), Prot::all()), Err(VmaError::TooMany), "two splits");
        assert!(vmas.remove_first(pages(10, 1)).is_ok_and(|part| part.is_some()), "the start needs none");
    }

    #[test]
    fn find_unmapped_returns_the_highest_aligned_range() {
        let mut vmas = empty();
        assert_eq!(vmas.find_unmapped(2 * PAGE_SIZE, Alignment::PAGE, None), Some(pages(62, 2)));
        vmas.insert(vma(60, 4, Prot::READ, 1, 0)).unwrap();
        let eight = Alignment::like_offset(8 * PAGE_SIZE, 3 * PAGE_SIZE);
        assert_eq!(vmas.find_unmapped(4 * PAGE_SIZE, eight, None), Some(pages(51, 4)));
        for hint in [0x5000, 0x5fff].map(UserVa::new) {
            assert_eq!(vmas.find_unmapped(4 * PAGE_SIZE, eight, Some(hint)), Some(pages(5, 4)), "{hint}");
        }
        let taken = Some(UserVa::new(61 * PAGE_SIZE));
        assert_eq!(vmas.find_unmapped(PAGE_SIZE, Alignment::PAGE, taken), Some(pages(59, 1)));
        assert_eq!(vmas.find_unmapped(60 * PAGE_SIZE, Alignment::PAGE, None), None);
        for len in [0, 1, PAGE_SIZE + 1, !0xfff] {
            assert_eq!(vmas.find_unmapped(len, Alignment::PAGE, None), None, "{len:#x}");
        }
    }

    #[derive(Clone, Debug)]
    enum Operation {
        Insert(u64, u64, Prot, u8, u64),
        Remove(u64, u64),
        Protect(u64, u64, Prot),
        Place(u64, u64, u64),
    }

    fn steps() -> impl Strategy<Value = Operation> {
        let prot = || (0u32..4).prop_map(Prot::from_bits_truncate);
        let span = || (0u64..PAGES, 0u64..12);
        prop_oneof![
            (span(), prot(), 0u8..2, 0u64..3).prop_map(|((s, l), p, o, d)| Operation::Insert(
                s,
                l,
                p,
                o,
                s + d
            )),
            span().prop_map(|(s, l)| Operation::Remove(s, l)),
            (span(), prot()).prop_map(|((s, l), p)| Operation::Protect(s, l, p)),
            (1u64..20, 0u32..4, 0u64..16).prop_map(|(l, a, o)| Operation::Place(l, 1 << a, o)),
        ]
    }

    /// The reference model: protection, object and offset of every page.
    type PageModel = BTreeMap<u64, (Prot, u8, u64)>;

    fn model_of(vmas: &VmaMap<TestObject>) -> PageModel {
        let page = |a: &Vma<TestObject>, n: u64| {
            (a.range.start().raw() / PAGE_SIZE + n, (a.prot, a.backing.0, a.offset / PAGE_SIZE + n))
        };
        vmas.iter()
            .flat_map(|a| (0..a.range.len() / PAGE_SIZE).map(|n| page(a, n)).collect::<Vec<_>>())
            .collect()
    }

    fn apply(step: &Operation, vmas: &mut VmaMap<TestObject>, model: &mut PageModel) {
        let inside = |s: u64, l: u64| s >= 1 && l > 0 && s + l <= PAGES;
        match *step {
            Operation::Insert(s, l, prot, object, offset) => {
                let free = (s..s + l).all(|page| !model.contains_key(&page));
                let done = vmas.insert(vma(s, l, prot, object, offset)).is_ok();
                assert_eq!(done, inside(s, l) && free);
                if done {
                    model.extend((0..l).map(|n| (s + n, (prot, object, offset + n))));
                }
            }
            Operation::Remove(s, l) => match take_all(vmas, pages(s, l)) {
                Ok(parts) => {
                    let bytes: u64 = parts.iter().map(|part| part.range.len()).sum();
                    assert_eq!(
                        bytes / PAGE_SIZE,
                        (s..s + l).filter(|page| model.remove(page).is_some()).count() as u64
                    );
                }
                Err(error) => assert_eq!((error, inside(s, l)), (VmaError::Range, false)),
            },
            Operation::Protect(s, l, prot) => {
                let full = (s..s + l).all(|page| model.contains_key(&page));
                assert_eq!(vmas.protect(pages(s, l), prot).is_ok(), inside(s, l) && full);
                if inside(s, l) && full {
                    (s..s + l).for_each(|page| model.get_mut(&page).unwrap().0 = prot);
                }
            }
            Operation::Place(l, align, offset) => {
                let fits =
                    |s: u64| s % align == offset % align && (s..s + l).all(|page| !model.contains_key(&page));
                let highest = (1..=PAGES.saturating_sub(l)).rev().find(|&s| fits(s));
                let place = vmas.find_unmapped(
                    l * PAGE_SIZE,
                    Alignment::like_offset(align * PAGE_SIZE, offset * PAGE_SIZE),
                    None,
                );
                assert_eq!(place, highest.map(|s| pages(s, l)));
                let align = Alignment::like_offset(align * PAGE_SIZE, offset * PAGE_SIZE);
                let new = |range: AddrRange<UserVa>| {
                    let start = range.start().raw() / PAGE_SIZE;
                    vma(start, range.len() / PAGE_SIZE, Prot::READ, 0, start)
                };
                let inserted = vmas.insert_unmapped(l * PAGE_SIZE, align, None, new);
                assert_eq!(inserted.ok(), place);
                if let Some(s) = highest {
                    model.extend((s..s + l).map(|page| (page, (Prot::READ, 0, page))));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn vma_map_agrees_with_a_page_model(steps in prop::collection::vec(steps(), 1..60)) {
            let (mut vmas, mut model) = (VmaMap::new(pages(1, PAGES - 1), 1000), PageModel::new());
            for step in steps {
                apply(&step, &mut vmas, &mut model);
                prop_assert_eq!(&model_of(&vmas), &model);
                let all: Vec<_> = vmas.iter().collect();
                prop_assert!(all.windows(2).all(|pair| !pair[0].can_merge(pair[1])), "{:?} not merged", all);
            }
        }
    }
}
