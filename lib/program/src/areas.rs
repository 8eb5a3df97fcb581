//! Which ranges of a program's address space are mapped to what. This is the plan; the page tables follow it.

use abi::memory::Prot;
use addr::{AddrRange, Address, PAGE_SIZE, UserVa};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// What can be behind an area: zeroes, a buffer.
pub trait Backing: Clone {
    /// Whether both are the same object, so that two areas of it can be one.
    fn is_same(&self, other: &Self) -> bool;
}

/// A run of pages with the same access to consecutive bytes of the same object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Area<B> {
    /// Whole pages, never empty.
    pub range: AddrRange<UserVa>,
    /// What the program may do there.
    pub prot: Prot,
    /// What is there.
    pub backing: B,
    /// Where in `backing` the range starts. For zeroes, where this means nothing, it is the address itself: so areas
    /// that follow each other can be joined.
    pub offset: u64,
}

impl<B: Backing> Area<B> {
    /// The part of it inside `range`; `None` when there is none.
    pub fn part(&self, range: &AddrRange<UserVa>) -> Option<Self> {
        if self.range.intersection(range).is_none() { None } else { self.clone().into_part(range) }
    }

    /// The same of an area that nobody needs whole any more.
    fn into_part(mut self, range: &AddrRange<UserVa>) -> Option<Self> {
        let part = self.range.intersection(range)?;
        self.offset += part.start().raw() - self.range.start().raw();
        self.range = part;
        Some(self)
    }

    /// Where `next` starts is where this one ends, in the address space and in the object.
    fn continues_with(&self, next: &Self) -> bool {
        self.range.end() == next.range.start()
            && self.offset.checked_add(self.range.len()) == Some(next.offset)
            && self.prot == next.prot
            && self.backing.is_same(&next.backing)
    }
}

/// Why the plan could not be changed. It is as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AreasError {
    /// The range is empty, not whole pages, or not inside the address space.
    Range,
    /// Something is mapped at this address.
    Overlap(UserVa),
    /// Nothing is mapped at this address.
    Hole(UserVa),
    /// There would be more areas than the limit.
    TooMany,
    /// There is no memory for the list of what was there.
    OutOfMemory,
}

/// Where a new area may start: at addresses that are `phase` above a multiple of `align`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Alignment {
    align: u64,
    phase: u64,
}

impl Alignment {
    /// On any page.
    pub const PAGE: Self = Self { align: PAGE_SIZE, phase: 0 };

    /// As `offset` lies to multiples of `align`: then addresses and a buffer's naturally aligned chunks of up to that
    /// size agree, and blocks can map them. `align` is rounded to a power of two of at least a page.
    pub fn like_offset(align: u64, offset: u64) -> Self {
        let align = align.max(PAGE_SIZE).checked_next_power_of_two().unwrap_or(PAGE_SIZE);
        Self { align, phase: offset & (align - 1) & !(PAGE_SIZE - 1) }
    }

    /// The highest fitting address that is not above `limit`.
    fn at_most(&self, limit: u64) -> Option<u64> {
        Some((limit.checked_sub(self.phase)? & !(self.align - 1)) + self.phase)
    }
}

/// All areas of a program.
#[derive(Clone, Debug)]
pub struct Areas<B> {
    areas: BTreeMap<UserVa, Area<B>>,
    bounds: AddrRange<UserVa>,
    limit: usize,
    packed: Packed,
}

/// What the last search for a place has seen, so that the next one need not pass all areas again: from the area at
/// `from` upwards no hole is longer than `longest`.
#[derive(Clone, Copy, Debug)]
struct Packed {
    /// Where an area starts, or the end of the address space.
    from: UserVa,
    /// In bytes.
    longest: u64,
}

impl<B: Backing> Areas<B> {
    /// Nothing mapped inside `bounds` (whole pages); at most `limit` areas, since a program that asks for every second
    /// page would fill the kernel's heap.
    pub fn new(bounds: AddrRange<UserVa>, limit: usize) -> Self {
        Self { areas: BTreeMap::new(), bounds, limit, packed: Packed { from: bounds.end(), longest: 0 } }
    }

    /// The area that `address` is in.
    pub fn find(&self, address: UserVa) -> Option<&Area<B>> {
        self.areas
            .range(..=address)
            .next_back()
            .map(|(_, area)| area)
            .filter(|area| area.range.contains(address))
    }

    /// Where the first area that has a part in `range` is, as a whole.
    fn first_in(&self, range: AddrRange<UserVa>) -> Option<AddrRange<UserVa>> {
        let whole = |(_, area): (_, &Area<B>)| area.range;
        let below = self.areas.range(..=range.start()).next_back().map(whole);
        below
            .filter(|below| below.contains(range.start()))
            .or_else(|| self.areas.range(range.start()..range.end()).next().map(whole))
    }

    /// All areas, ascending.
    pub fn iter(&self) -> impl Iterator<Item = &Area<B>> {
        self.areas.values()
    }

    /// The parts of areas inside `range`, ascending.
    pub fn parts(&self, range: AddrRange<UserVa>) -> impl Iterator<Item = Area<B>> + use<'_, B> {
        let first = self.find(range.start()).map_or(range.start(), |area| area.range.start());
        let last = range.end().max(first);
        self.areas.range(first..last).filter_map(move |(_, area)| area.part(&range))
    }

    /// The first address of `range` where nothing is mapped.
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

    /// Adds an area where nothing is mapped, joined with its neighbours where they continue each other.
    pub fn insert(&mut self, area: Area<B>) -> Result<(), AreasError> {
        self.check(area.range, 1)?;
        let range = area.range;
        if self.put(area) {
            return Ok(());
        }
        let taken = self.first_in(range).map_or(range.start(), |taken| taken.start().max(range.start()));
        Err(AreasError::Overlap(taken))
    }

    /// Takes the first part of an area inside `range` out and returns it; `None` when nothing is mapped there.
    pub fn take_first(&mut self, range: AddrRange<UserVa>) -> Result<Option<Area<B>>, AreasError> {
        self.check(range, 0)?;
        let Some(whole) = self.first_in(range) else { return Ok(None) };
        let (below, above) = whole.without(&range);
        // Only a hole in the middle of an area makes one more.
        if !below.is_empty() && !above.is_empty() {
            self.check(range, 1)?;
        }
        let Some(area) = self.areas.remove(&whole.start()) else { return Ok(None) };
        for rest in [below, above].iter().filter_map(|rest| area.part(rest)) {
            self.areas.insert(rest.range.start(), rest);
        }
        let part = area.into_part(&range);
        if let Some(part) = part.as_ref().filter(|part| part.range.end() > self.packed.from) {
            let next = self.areas.range(part.range.end()..).next();
            self.packed.from = next.map_or(self.bounds.end(), |(&start, _)| start);
        }
        Ok(part)
    }

    /// Puts back what [`Areas::take_first`] has just taken out; nothing has been added there since.
    pub fn put_back(&mut self, part: Area<B>) {
        assert!(self.put(part), "there is something else now");
    }

    /// Changes the access to all of `range`, and returns its parts as they are now, ascending.
    pub fn protect(&mut self, range: AddrRange<UserVa>, prot: Prot) -> Result<Vec<Area<B>>, AreasError> {
        self.check(range, 2)?;
        if let Some(hole) = self.first_hole(range) {
            return Err(AreasError::Hole(hole));
        }
        let mut parts = self.cut(range)?;
        parts.iter_mut().for_each(|part| part.prot = prot);
        parts.iter().cloned().for_each(|part| self.put_back(part));
        Ok(parts)
    }

    /// A free range of `len` bytes: at `hint` if it is free there, else the highest there is.
    pub fn place(
        &mut self,
        len: u64,
        alignment: Alignment,
        hint: Option<UserVa>,
    ) -> Option<AddrRange<UserVa>> {
        if len == 0 || !len.is_multiple_of(PAGE_SIZE) {
            return None;
        }
        let hinted = hint.map(|at| at.align_down(PAGE_SIZE)).and_then(|at| AddrRange::from_len(at, len));
        if let Some(range) = hinted.filter(|range| self.is_free(range)) {
            return Some(range);
        }
        self.highest_gap(len, alignment)
    }

    /// The highest free range of `len` bytes.
    fn highest_gap(&mut self, len: u64, alignment: Alignment) -> Option<AddrRange<UserVa>> {
        let top = Packed { from: self.bounds.end(), longest: 0 };
        let mut seen = if len > self.packed.longest { self.packed } else { top };
        let mut found = None;
        for area in self.areas.range(..seen.from).rev().map(|(_, area)| area.range) {
            found = fit(area.end(), seen.from, len, alignment);
            if found.is_some() {
                break;
            }
            let hole = seen.from.raw().saturating_sub(area.end().raw());
            seen = Packed { from: area.start(), longest: seen.longest.max(hole) };
        }
        if seen.from <= self.packed.from {
            self.packed = seen;
        }
        found.or_else(|| fit(self.bounds.start(), seen.from, len, alignment))
    }

    fn is_free(&self, range: &AddrRange<UserVa>) -> bool {
        self.bounds.covers(range) && self.first_in(*range).is_none()
    }

    fn check(&self, range: AddrRange<UserVa>, more: usize) -> Result<(), AreasError> {
        let whole_pages = range.start().is_aligned(PAGE_SIZE) && range.end().is_aligned(PAGE_SIZE);
        if range.is_empty() || !whole_pages || !self.bounds.covers(&range) {
            return Err(AreasError::Range);
        }
        if self.areas.len() + more > self.limit { Err(AreasError::TooMany) } else { Ok(()) }
    }

    /// A list of the parts of areas inside `range`, ascending.
    pub fn list(&self, range: AddrRange<UserVa>) -> Result<Vec<Area<B>>, AreasError> {
        let mut parts = Vec::new();
        parts.try_reserve_exact(self.parts(range).count()).map_err(|_| AreasError::OutOfMemory)?;
        parts.extend(self.parts(range));
        Ok(parts)
    }

    /// Takes `range` out, and puts back what the areas at its borders have outside of it.
    fn cut(&mut self, range: AddrRange<UserVa>) -> Result<Vec<Area<B>>, AreasError> {
        let parts = self.list(range)?;
        for part in &parts {
            let Some(whole) = self.find(part.range.start()).cloned() else { continue };
            self.areas.remove(&whole.range.start());
            let (below, above) = whole.range.without(&range);
            for rest in [below, above].iter().filter_map(|rest| whole.part(rest)) {
                self.areas.insert(rest.range.start(), rest);
            }
        }
        Ok(parts)
    }

    /// Adds an area, joined with its neighbours where they continue each other; false if the range is not free.
    fn put(&mut self, mut area: Area<B>) -> bool {
        let mut near = self.areas.range_mut(..=area.range.end()).rev().map(|(_, near)| near).peekable();
        let above = near.next_if(|near| near.range.start() == area.range.end());
        let below = near.next();
        if below.as_ref().is_some_and(|below| below.range.end() > area.range.start()) {
            return false;
        }
        let above = above.filter(|above| area.continues_with(above)).map(|above| above.range);
        if let Some(above) = above {
            area.range = AddrRange::new(area.range.start(), above.end());
        }
        let below = below.filter(|below| below.continues_with(&area));
        let joined = below.map(|below| below.range = AddrRange::new(below.range.start(), area.range.end()));
        if let Some(above) = above {
            self.areas.remove(&above.start());
        }
        if joined.is_none() {
            self.areas.insert(area.range.start(), area);
        }
        true
    }
}

/// The highest range of `len` bytes in a gap.
fn fit(start: UserVa, end: UserVa, len: u64, alignment: Alignment) -> Option<AddrRange<UserVa>> {
    let at = alignment.at_most(end.raw().checked_sub(len)?)?;
    if at < start.raw() { None } else { AddrRange::from_len(UserVa::new(at), len) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A named object; two with the same name are the same.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Object(u8);

    impl Backing for Object {
        fn is_same(&self, other: &Self) -> bool {
            self == other
        }
    }

    const PAGES: u64 = 64;

    fn pages(start: u64, len: u64) -> AddrRange<UserVa> {
        AddrRange::from_len(UserVa::new(start * PAGE_SIZE), len * PAGE_SIZE).unwrap()
    }

    fn area(start: u64, len: u64, prot: Prot, object: u8, offset: u64) -> Area<Object> {
        Area { range: pages(start, len), prot, backing: Object(object), offset: offset * PAGE_SIZE }
    }

    /// Takes everything inside `range` out, ascending.
    fn take_all(
        areas: &mut Areas<Object>,
        range: AddrRange<UserVa>,
    ) -> Result<Vec<Area<Object>>, AreasError> {
        let mut parts = Vec::new();
        while let Some(part) = areas.take_first(range)? {
            assert!(parts.last().is_none_or(|last: &Area<_>| last.range.end() <= part.range.start()));
            parts.push(part);
        }
        Ok(parts)
    }

    fn empty() -> Areas<Object> {
        Areas::new(pages(1, PAGES - 1), 32)
    }

    #[test]
    fn a_hole_in_the_middle_leaves_both_ends() {
        let mut areas = empty();
        areas.insert(area(10, 10, Prot::READ, 1, 100)).unwrap();
        assert_eq!(areas.take_first(pages(12, 3)), Ok(Some(area(12, 3, Prot::READ, 1, 102))));
        assert_eq!(areas.take_first(pages(12, 3)), Ok(None));
        let left: Vec<_> = areas.iter().copied().collect();
        assert_eq!(left, [area(10, 2, Prot::READ, 1, 100), area(15, 5, Prot::READ, 1, 105)]);
        areas.insert(area(12, 3, Prot::READ, 1, 102)).unwrap();
        assert_eq!(areas.iter().count(), 1, "what fits between is joined");
        let part = areas.take_first(pages(12, 3)).unwrap().unwrap();
        areas.put_back(part);
        assert_eq!(areas.iter().copied().collect::<Vec<_>>(), [area(10, 10, Prot::READ, 1, 100)]);
    }

    #[test]
    fn other_objects_access_or_offsets_stay_apart() {
        let neighbours = [
            area(12, 1, Prot::READ, 2, 102),
            area(12, 1, Prot::all(), 1, 102),
            area(12, 1, Prot::READ, 1, 103),
        ];
        for neighbour in neighbours {
            let mut areas = empty();
            areas.insert(area(10, 2, Prot::READ, 1, 100)).unwrap();
            areas.insert(neighbour).unwrap();
            assert_eq!(areas.iter().count(), 2, "{neighbour:?}");
        }
    }

    #[test]
    fn protection_needs_something_there() {
        let mut areas = empty();
        areas.insert(area(10, 4, Prot::READ, 1, 0)).unwrap();
        areas.insert(area(15, 4, Prot::READ, 1, 5)).unwrap();
        let hole = UserVa::new(14 * PAGE_SIZE);
        assert_eq!(areas.protect(pages(12, 5), Prot::all()), Err(AreasError::Hole(hole)));
        assert_eq!(areas.protect(pages(11, 2), Prot::all()).unwrap(), [area(11, 2, Prot::all(), 1, 1)]);
        assert_eq!(areas.iter().count(), 4);
        areas.protect(pages(11, 2), Prot::READ).unwrap();
        assert_eq!(areas.iter().count(), 2, "the same again is joined again");
    }

    #[test]
    fn bad_ranges_are_refused() {
        let mut areas = empty();
        areas.insert(area(10, 4, Prot::READ, 1, 0)).unwrap();
        let odd = AddrRange::new(UserVa::new(0x1001), UserVa::new(0x2000));
        for range in [pages(0, 2), pages(63, 2), pages(5, 0), odd] {
            assert_eq!(areas.take_first(range), Err(AreasError::Range), "{range:?}");
        }
        let overlapping = areas.insert(area(13, 4, Prot::READ, 1, 0));
        assert_eq!(overlapping, Err(AreasError::Overlap(UserVa::new(13 * PAGE_SIZE))));
    }

    #[test]
    fn the_number_of_areas_is_limited() {
        let mut areas = Areas::new(pages(1, PAGES - 1), 3);
        for n in 0..3 {
            areas.insert(area(10 + 2 * n, 1, Prot::READ, 1, 0)).unwrap();
        }
        assert_eq!(areas.insert(area(20, 1, Prot::READ, 1, 0)), Err(AreasError::TooMany));
        assert_eq!(
            take_all(&mut areas, pages(1, PAGES - 1)).map(|parts| parts.len()),
            Ok(3),
            "all can always go"
        );
        areas.insert(area(10, 3, Prot::READ, 1, 0)).unwrap();
        areas.insert(area(20, 1, Prot::READ, 1, 0)).unwrap();
        areas.insert(area(22, 1, Prot::READ, 1, 0)).unwrap();
        assert_eq!(areas.take_first(pages(11, 1)), Err(AreasError::TooMany), "a hole makes one more");
    }

    #[test]
    fn places_are_high_and_aligned_like_the_buffer() {
        let mut areas = empty();
        assert_eq!(areas.place(2 * PAGE_SIZE, Alignment::PAGE, None), Some(pages(62, 2)));
        areas.insert(area(60, 4, Prot::READ, 1, 0)).unwrap();
        let eight = Alignment::like_offset(8 * PAGE_SIZE, 3 * PAGE_SIZE);
        assert_eq!(areas.place(4 * PAGE_SIZE, eight, None), Some(pages(51, 4)));
        assert_eq!(areas.place(4 * PAGE_SIZE, eight, Some(UserVa::new(0x5000))), Some(pages(5, 4)));
        let taken = Some(UserVa::new(61 * PAGE_SIZE));
        assert_eq!(areas.place(PAGE_SIZE, Alignment::PAGE, taken), Some(pages(59, 1)));
        assert_eq!(areas.place(60 * PAGE_SIZE, Alignment::PAGE, None), None);
        for len in [0, 1, PAGE_SIZE + 1, !0xfff] {
            assert_eq!(areas.place(len, Alignment::PAGE, None), None, "{len:#x}");
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64, u64, Prot, u8, u64),
        Remove(u64, u64),
        Protect(u64, u64, Prot),
        Place(u64, u64, u64),
    }

    fn steps() -> impl Strategy<Value = Step> {
        let prot = || (0u32..4).prop_map(Prot::from_bits_truncate);
        let span = || (0u64..PAGES, 0u64..12);
        prop_oneof![
            (span(), prot(), 0u8..2, 0u64..3).prop_map(|((s, l), p, o, d)| Step::Insert(s, l, p, o, s + d)),
            span().prop_map(|(s, l)| Step::Remove(s, l)),
            (span(), prot()).prop_map(|((s, l), p)| Step::Protect(s, l, p)),
            (1u64..20, 0u32..4, 0u64..16).prop_map(|(l, a, o)| Step::Place(l, 1 << a, o)),
        ]
    }

    /// What every page is, as the plain model of the same thing.
    type Model = BTreeMap<u64, (Prot, u8, u64)>;

    fn model_of(areas: &Areas<Object>) -> Model {
        let page = |a: &Area<Object>, n: u64| {
            (a.range.start().raw() / PAGE_SIZE + n, (a.prot, a.backing.0, a.offset / PAGE_SIZE + n))
        };
        areas
            .iter()
            .flat_map(|a| (0..a.range.len() / PAGE_SIZE).map(|n| page(a, n)).collect::<Vec<_>>())
            .collect()
    }

    fn apply(step: &Step, areas: &mut Areas<Object>, model: &mut Model) {
        let inside = |s: u64, l: u64| s >= 1 && l > 0 && s + l <= PAGES;
        match *step {
            Step::Insert(s, l, prot, object, offset) => {
                let free = (s..s + l).all(|page| !model.contains_key(&page));
                let done = areas.insert(area(s, l, prot, object, offset)).is_ok();
                assert_eq!(done, inside(s, l) && free);
                if done {
                    model.extend((0..l).map(|n| (s + n, (prot, object, offset + n))));
                }
            }
            Step::Remove(s, l) => match take_all(areas, pages(s, l)) {
                Ok(parts) => {
                    let bytes: u64 = parts.iter().map(|part| part.range.len()).sum();
                    assert_eq!(
                        bytes / PAGE_SIZE,
                        (s..s + l).filter(|page| model.remove(page).is_some()).count() as u64
                    );
                }
                Err(error) => assert_eq!((error, inside(s, l)), (AreasError::Range, false)),
            },
            Step::Protect(s, l, prot) => {
                let full = (s..s + l).all(|page| model.contains_key(&page));
                assert_eq!(areas.protect(pages(s, l), prot).is_ok(), inside(s, l) && full);
                if inside(s, l) && full {
                    (s..s + l).for_each(|page| model.get_mut(&page).unwrap().0 = prot);
                }
            }
            Step::Place(l, align, offset) => {
                let fits =
                    |s: u64| s % align == offset % align && (s..s + l).all(|page| !model.contains_key(&page));
                let highest = (1..=PAGES.saturating_sub(l)).rev().find(|&s| fits(s));
                let place = areas.place(
                    l * PAGE_SIZE,
                    Alignment::like_offset(align * PAGE_SIZE, offset * PAGE_SIZE),
                    None,
                );
                assert_eq!(place, highest.map(|s| pages(s, l)));
            }
        }
    }

    proptest! {
        #[test]
        fn areas_agree_with_a_page_by_page_model(steps in prop::collection::vec(steps(), 1..60)) {
            let (mut areas, mut model) = (Areas::new(pages(1, PAGES - 1), 1000), Model::new());
            for step in steps {
                apply(&step, &mut areas, &mut model);
                prop_assert_eq!(&model_of(&areas), &model);
                let all: Vec<_> = areas.iter().collect();
                prop_assert!(all.windows(2).all(|pair| !pair[0].continues_with(pair[1])), "{:?} not joined", all);
            }
        }
    }
}
