//! The range allocator against a model: a set of pages.

use super::*;
use addr::Iova;
use proptest::prelude::*;
use std::collections::BTreeSet;

const ANY: Iova = Iova::new(u64::MAX);

fn pages(start: u64, end: u64) -> AddrRange<Iova> {
    AddrRange::new(Iova::new(start * PAGE_SIZE), Iova::new(end * PAGE_SIZE))
}

/// The holes, lowest first. Recently freed ranges are merged first.
fn holes(space: &mut RangeAllocator<Iova>) -> Vec<AddrRange<Iova>> {
    space.merge_recent();
    space.holes.iter().map(|(&start, &end)| AddrRange::new(start, end)).collect()
}

/// Allocated bytes, guards included, and reserved ones.
fn allocated(space: &RangeAllocator<Iova>) -> u64 {
    let free = space.holes.iter().map(|(&start, &end)| (start, end)).chain(space.recent.iter().copied());
    space.space.len() - free.map(|(start, end)| end.raw() - start.raw()).sum::<u64>()
}

#[test]
fn lowest_address_is_allocated_first() {
    let mut space = RangeAllocator::new(pages(1, 100));
    assert_eq!(space.alloc(PAGE_SIZE, PAGE_SIZE, ANY), Ok(pages(1, 2)));
    assert_eq!(space.alloc(3 * PAGE_SIZE, 4 * PAGE_SIZE, ANY), Ok(pages(4, 7)));
    assert_eq!(allocated(&space), 4 * PAGE_SIZE);
    assert_eq!(space.alloc(2 * PAGE_SIZE, PAGE_SIZE, ANY), Ok(pages(2, 4)));
}

#[test]
fn limit_is_the_last_usable_byte() {
    let mut space = RangeAllocator::new(pages(0, 100));
    let limit = Iova::new(10 * PAGE_SIZE - 1);
    let full = |pages: u64, highest| Err(RangeError::OutOfRange { len: pages * PAGE_SIZE, highest });
    assert_eq!(space.alloc(11 * PAGE_SIZE, PAGE_SIZE, limit), full(11, limit));
    let short = Iova::new(10 * PAGE_SIZE - 2);
    assert_eq!(space.alloc(10 * PAGE_SIZE, PAGE_SIZE, short), full(10, short));
    assert_eq!(space.alloc(10 * PAGE_SIZE, PAGE_SIZE, limit), Ok(pages(0, 10)));
    assert_eq!(space.alloc(PAGE_SIZE, PAGE_SIZE, limit), full(1, limit));
    assert_eq!(space.alloc(PAGE_SIZE, PAGE_SIZE, ANY), Ok(pages(10, 11)));
}

#[test]
fn bad_lengths_and_foreign_ranges_are_rejected_with_their_values() {
    let mut space = RangeAllocator::new(pages(1, 100));
    assert_eq!(space.alloc(0, PAGE_SIZE, ANY), Err(RangeError::NotPages { len: 0 }));
    assert_eq!(space.alloc(5, PAGE_SIZE, ANY), Err(RangeError::NotPages { len: 5 }));
    let odd = AddrRange::new(Iova::new(0x1800), Iova::new(0x2800));
    assert_eq!(space.alloc_at(odd), Err(RangeError::NotPages { len: 0x1000 }));
    let huge = u64::MAX - PAGE_SIZE + 1;
    assert_eq!(space.alloc(huge, PAGE_SIZE, ANY), Err(RangeError::OutOfRange { len: huge, highest: ANY }));
    for range in [pages(0, 2), pages(99, 101), pages(200, 201)] {
        assert_eq!(space.alloc_at(range), Err(RangeError::InUse(range)));
        assert_eq!(space.free(range), Err(RangeError::NotAllocated(range)));
    }
    assert_eq!(allocated(&space), 0);
}

#[test]
fn double_free_is_an_error() {
    let mut space = RangeAllocator::new(pages(0, 100));
    space.alloc_at(pages(10, 20)).unwrap();
    assert_eq!(space.alloc_at(pages(19, 21)), Err(RangeError::InUse(pages(19, 21))));
    for foreign in [pages(9, 11), pages(19, 21), pages(5, 30), pages(30, 31)] {
        assert_eq!(space.free(foreign), Err(RangeError::NotAllocated(foreign)));
    }
    space.free(pages(10, 20)).unwrap();
    assert_eq!(space.free(pages(10, 20)), Err(RangeError::NotAllocated(pages(10, 20))));
    assert_eq!(holes(&mut space), [pages(0, 100)]);
}

#[test]
fn parts_are_freed_alone_and_merge_again() {
    let mut space = RangeAllocator::new(pages(0, 100));
    space.alloc_at(pages(10, 20)).unwrap();
    space.free(pages(12, 14)).unwrap();
    assert_eq!(holes(&mut space), [pages(0, 10), pages(12, 14), pages(20, 100)]);
    space.free(pages(10, 12)).unwrap();
    space.free(pages(14, 20)).unwrap();
    assert_eq!(holes(&mut space), [pages(0, 100)]);
}

#[test]
fn guard_follows_every_range() {
    let mut space = RangeAllocator::with_guard(pages(0, 10), PAGE_SIZE);
    assert_eq!(space.alloc(3 * PAGE_SIZE, PAGE_SIZE, ANY), Ok(pages(0, 3)));
    assert_eq!(space.alloc(3 * PAGE_SIZE, PAGE_SIZE, ANY), Ok(pages(4, 7)));
    let full = RangeError::OutOfRange { len: 2 * PAGE_SIZE, highest: ANY };
    assert_eq!(space.alloc(2 * PAGE_SIZE, PAGE_SIZE, ANY), Err(full));
    assert_eq!(space.alloc(PAGE_SIZE, PAGE_SIZE, ANY), Ok(pages(8, 9)));
    assert_eq!(allocated(&space), 10 * PAGE_SIZE);
    space.free(pages(4, 7)).unwrap();
    assert_eq!(holes(&mut space), [pages(4, 8)]);
}

/// Many holes in the class of the request, all too short, precede the only one that fits. It is longer than
/// the request, so that the cache of recently freed ranges does not answer.
#[test]
fn only_hole_that_fits_is_found_behind_many_too_short_ones() {
    let mut space = RangeAllocator::new(pages(0, 1000));
    space.alloc_at(pages(0, 1000)).unwrap();
    (0..100).for_each(|n| space.free(pages(n * 8, n * 8 + 4)).unwrap());
    space.free(pages(900, 907)).unwrap();
    assert_eq!(space.alloc(6 * PAGE_SIZE, PAGE_SIZE, ANY), Ok(pages(900, 906)));
}

#[test]
fn recently_freed_ranges_are_split_and_merged_when_no_hole_fits() {
    let mut space = RangeAllocator::new(pages(0, 200));
    space.alloc_at(pages(0, 200)).unwrap();
    space.free(pages(0, 100)).unwrap();
    assert_eq!(space.alloc(10 * PAGE_SIZE, PAGE_SIZE, ANY), Ok(pages(0, 10)));
    space.free(pages(0, 10)).unwrap();
    assert_eq!(space.alloc(100 * PAGE_SIZE, PAGE_SIZE, ANY), Ok(pages(0, 100)));
}

#[test]
fn recently_freed_range_of_equal_length_is_reused_within_limit_and_alignment() {
    let mut space = RangeAllocator::new(pages(0, 100));
    space.alloc_at(pages(0, 100)).unwrap();
    for range in [pages(9, 11), pages(20, 22), pages(30, 31), pages(41, 43)] {
        space.free(range).unwrap();
        assert_eq!(space.free(range), Err(RangeError::NotAllocated(range)));
    }
    let highest = Iova::new(30 * PAGE_SIZE);
    assert_eq!(space.alloc(2 * PAGE_SIZE, 2 * PAGE_SIZE, highest), Ok(pages(20, 22)));
    assert_eq!(space.alloc(2 * PAGE_SIZE, PAGE_SIZE, highest), Ok(pages(9, 11)));
    let full = RangeError::OutOfRange { len: 2 * PAGE_SIZE, highest };
    assert_eq!(space.alloc(2 * PAGE_SIZE, PAGE_SIZE, highest), Err(full));
}

#[test]
fn reserved_ranges_are_neither_allocated_nor_freed() {
    let mut space = RangeAllocator::new(pages(0, 100));
    let byte = AddrRange::new(Iova::new(10 * PAGE_SIZE + 5), Iova::new(10 * PAGE_SIZE + 6));
    let everything_above = AddrRange::new(Iova::new(50 * PAGE_SIZE), ANY);
    for reserved in [byte, pages(20, 30), pages(25, 40), everything_above, pages(200, 300)] {
        space.reserve(reserved);
    }
    assert_eq!(holes(&mut space), [pages(0, 10), pages(11, 20), pages(40, 50)]);
    for reserved in [pages(10, 11), pages(9, 11), pages(19, 21), pages(99, 100)] {
        assert_eq!(space.alloc_at(reserved), Err(RangeError::InUse(reserved)));
        assert_eq!(space.free(reserved), Err(RangeError::NotAllocated(reserved)));
    }
    assert!(!space.is_allocated(pages(10, 11).start()));
    assert_eq!(space.alloc(10 * PAGE_SIZE, PAGE_SIZE, ANY), Ok(pages(0, 10)));
    assert_eq!(space.alloc(10 * PAGE_SIZE, PAGE_SIZE, ANY), Ok(pages(40, 50)));
    let full = RangeError::OutOfRange { len: 10 * PAGE_SIZE, highest: ANY };
    assert_eq!(space.alloc(10 * PAGE_SIZE, PAGE_SIZE, ANY), Err(full));
}

#[test]
fn guard_is_not_in_a_reserved_range() {
    let mut space = RangeAllocator::with_guard(pages(0, 10), PAGE_SIZE);
    space.reserve(pages(4, 6));
    assert_eq!(space.alloc_at(pages(1, 4)), Err(RangeError::InUse(pages(1, 4))));
    assert_eq!(space.alloc(3 * PAGE_SIZE, PAGE_SIZE, ANY), Ok(pages(0, 3)));
    assert_eq!(space.alloc(3 * PAGE_SIZE, PAGE_SIZE, ANY), Ok(pages(6, 9)));
}

#[test]
fn empty_space_allocates_nothing() {
    let mut space = RangeAllocator::new(AddrRange::new(Iova::new(0x1001), Iova::new(0x1fff)));
    let full = RangeError::OutOfRange { len: PAGE_SIZE, highest: ANY };
    assert_eq!(space.alloc(PAGE_SIZE, PAGE_SIZE, ANY), Err(full));
}

#[derive(Clone, Debug)]
enum RangeOp {
    Alloc { len: u64, align: u32, highest: u64 },
    AllocAt(u64, u64),
    Free(usize),
    FreePart(u64, u64),
}

fn step() -> impl Strategy<Value = RangeOp> {
    prop_oneof![
        3 => (1u64..20, 0u32..5, 0u64..140).prop_map(|(len, align, highest)| RangeOp::Alloc { len, align, highest }),
        1 => (0u64..130, 1u64..10).prop_map(|(at, len)| RangeOp::AllocAt(at, len)),
        2 => any::<usize>().prop_map(RangeOp::Free),
        1 => (0u64..130, 1u64..10).prop_map(|(at, len)| RangeOp::FreePart(at, len)),
    ]
}

fn all_in(taken: &BTreeSet<u64>, range: std::ops::Range<u64>) -> bool {
    range.clone().count() == taken.range(range).count()
}

/// Whether an aligned run of free pages satisfies the request.
fn would_fit(taken: &BTreeSet<u64>, len: u64, align: u64, highest: u64) -> bool {
    (FIRST..END)
        .filter(|start| start % align == 0 && start + len <= END.min(highest + 1))
        .any(|start| taken.range(start..start + len).next().is_none())
}

const FIRST: u64 = 3;
const END: u64 = 128;

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "minutes of safe code")]
    fn range_allocator_agrees_with_the_model(
        reserved in prop::collection::vec((0u64..130, 0u64..20), 0..4),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut space = RangeAllocator::new(pages(FIRST, END));
        reserved.iter().for_each(|&(at, len)| space.reserve(pages(at, at + len)));
        let reserved: BTreeSet<u64> =
            reserved.into_iter().flat_map(|(at, len)| at..at + len).filter(|page| (FIRST..END).contains(page)).collect();
        // The allocated and the reserved pages.
        let mut taken = reserved.clone();
        let is_allocated = |range: std::ops::Range<u64>, taken: &BTreeSet<u64>| {
            all_in(taken, range.clone()) && reserved.range(range).next().is_none()
        };
        let mut held: Vec<AddrRange<Iova>> = Vec::new();
        for step in steps {
            match step {
                RangeOp::Alloc { len, align, highest } => {
                    let last = Iova::new((highest + 1) * PAGE_SIZE - 1);
                    match space.alloc(len * PAGE_SIZE, PAGE_SIZE << align, last) {
                        Ok(range) => {
                            let first = range.start().raw() / PAGE_SIZE;
                            prop_assert_eq!(range.len(), len * PAGE_SIZE);
                            prop_assert_eq!(first % (1 << align), 0);
                            prop_assert!(FIRST <= first && first + len <= END.min(highest + 1));
                            for page in first..first + len { prop_assert!(taken.insert(page)); }
                            held.push(range);
                        }
                        Err(error) => {
                            prop_assert_eq!(error, RangeError::OutOfRange { len: len * PAGE_SIZE, highest: last });
                            prop_assert!(!would_fit(&taken, len, 1 << align, highest), "{} pages would fit", len);
                        }
                    }
                }
                RangeOp::AllocAt(at, len) => {
                    let range = pages(at, at + len);
                    let free = at >= FIRST && at + len <= END && taken.range(at..at + len).next().is_none();
                    prop_assert_eq!(space.alloc_at(range).is_ok(), free);
                    if free { taken.extend(at..at + len); held.push(range) }
                }
                RangeOp::Free(index) => {
                    if held.is_empty() { continue }
                    let range = held.swap_remove(index % held.len());
                    let (at, end) = (range.start().raw() / PAGE_SIZE, range.end().raw() / PAGE_SIZE);
                    let whole = is_allocated(at..end, &taken);
                    prop_assert_eq!(space.free(range).is_ok(), whole);
                    if whole { (at..end).for_each(|page| { taken.remove(&page); }) }
                }
                RangeOp::FreePart(at, len) => {
                    let whole = is_allocated(at..at + len, &taken);
                    prop_assert_eq!(space.free(pages(at, at + len)).is_ok(), whole);
                    if whole { (at..at + len).for_each(|page| { taken.remove(&page); }) }
                }
            }
            prop_assert_eq!(allocated(&space), taken.len() as u64 * PAGE_SIZE);
            let odd = (0..END + 2).find(|&page| space.is_allocated(pages(page, page + 1).start()) != is_allocated(page..page + 1, &taken));
            prop_assert_eq!(odd, None, "whether that page is allocated");
            let holes: Vec<_> = space.holes.iter().collect();
            prop_assert!(holes.windows(2).all(|pair| pair[0].1 < pair[1].0), "adjacent holes: {:?}", holes);
            prop_assert_eq!(space.holes.len(), space.classes.len());
        }
    }
}
