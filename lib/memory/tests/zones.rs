//! The zones and the chunk allocation against a model: a set of frames.

use addr::{AddrRange, Order, PAGE_SIZE, Pfn, PhysAddr};
use memory::chunks::{self, ChunkError, Request};
use memory::{FrameSource, Frames, OwnedChunk, Reach, Zone, Zones};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn ram(start: u64, end: u64) -> AddrRange<PhysAddr> {
    AddrRange::new(PhysAddr::new(start), PhysAddr::new(end))
}

/// Adds `ram` to `zones`.
fn add(zones: &mut Zones, ram: AddrRange<PhysAddr>) {
    // SAFETY: the frames are only numbers; no test accesses memory through them.
    unsafe { zones.add(ram) }
}

fn order(log2: u8) -> Order {
    Order::new(log2).unwrap()
}

/// Zones with frames `first..end`, lowmem below `low_end` (all in frame numbers).
fn zones(first: u64, low_end: u64, end: u64) -> Zones {
    let mut zones = Zones::new(Pfn::new(low_end).start());
    add(&mut zones, ram(first * PAGE_SIZE, end * PAGE_SIZE));
    zones
}

fn starts(frames: &Frames) -> Vec<(u64, u8)> {
    frames.chunks().map(|c| (c.first().raw(), c.order().log2())).collect()
}

fn free(zones: &Zones) -> (u64, u64) {
    (zones.stats(Zone::Low).free(), zones.stats(Zone::High).free())
}

#[test]
fn highmem_is_allocated_first_then_lowmem() {
    let mut zones = zones(16, 24, 32);
    let mut all = chunks::alloc(&mut zones, &Request::new(16)).unwrap();
    assert_eq!(starts(&all), [(24, 3), (16, 3)]);
    assert_eq!(free(&zones), (0, 0));
    all.free_to(&mut zones);
    let reach = Reach::LOW;
    let mut low = chunks::alloc(&mut zones, &Request { reach, ..Request::new(8) }).unwrap();
    assert_eq!(starts(&low), [(16, 3)]);
    let none = chunks::alloc(&mut zones, &Request { reach, ..Request::new(1) });
    assert_eq!(none.unwrap_err(), ChunkError::OutOfFrames { wanted: 1, had: 0 });
    low.free_to(&mut zones);
    assert_eq!(free(&zones), (8, 8));
}

#[test]
fn lowmem_reserve_is_only_for_lowmem_requests() {
    let mut zones = zones(16, 24, 32);
    zones.set_reserve(3);
    let mut most = chunks::alloc(&mut zones, &Request::new(13)).unwrap();
    assert_eq!(free(&zones), (3, 0));
    let error = chunks::alloc(&mut zones, &Request::new(1)).unwrap_err();
    assert_eq!(error, ChunkError::OutOfFrames { wanted: 1, had: 0 });
    let mut kernel = chunks::alloc(&mut zones, &Request { reach: Reach::LOW, ..Request::new(3) }).unwrap();
    assert_eq!(free(&zones), (0, 0));
    most.free_to(&mut zones);
    kernel.free_to(&mut zones);
}

#[test]
fn small_highmem_chunk_is_preferred_and_chunks_stay_in_descending_order() {
    let mut zones = zones(16, 32, 36);
    let hole = zones.alloc(order(1), Reach::HIGH).unwrap();
    assert_eq!(hole.chunk().first(), Pfn::new(32));
    let mut mixed = chunks::alloc(&mut zones, &Request::new(10)).unwrap();
    assert_eq!(starts(&mixed), [(16, 3), (34, 1)]);
    mixed.free_to(&mut zones);
    zones.free(hole);
}

#[test]
fn all_frames_inside_the_range_are_found_and_no_others() {
    for border in [2u64, 16, 1 << 8, 1 << 20] {
        let (first, end) = (border / 2, border * 2);
        let mut zones = zones(first, 0, end);
        let byte = |frame: u64| frame * PAGE_SIZE;
        for (range, frames) in [
            (ram(0, byte(border)), border - first),
            (ram(0, byte(border) - 1), border - first - 1),
            (ram(byte(first) + 1, u64::MAX), end - first - 1),
            (ram(byte(border), byte(border + 1)), 1),
            (ram(byte(border) + 1, byte(border + 1)), 0),
            (ram(byte(end - 1), u64::MAX), 1),
            (ram(0, byte(first)), 0),
        ] {
            let mut taken = Frames::new();
            for log2 in (0..=18).rev() {
                while let Some(chunk) = zones.alloc(order(log2), Reach::ANYWHERE.within(&range)) {
                    assert!(range.covers(&chunk.chunk().range()));
                    taken.push(chunk).unwrap();
                }
            }
            assert_eq!(taken.frames(), frames, "border {border}, {range:?}");
            taken.free_to(&mut zones);
        }
    }
}

#[test]
fn requests_inside_a_range_split_and_merge_blocks() {
    const BLOCK: u64 = 512;
    // From the middle of a block to the middle of another.
    let window = ram((20 * BLOCK + 256) * PAGE_SIZE, (27 * BLOCK + 255) * PAGE_SIZE);
    let reach = Reach::ANYWHERE.within(&window);
    let frames = window.len() / PAGE_SIZE;
    for largest in [0, 3, 8, 9, 10, 18] {
        let mut zones = zones(16 * BLOCK, 0, 40 * BLOCK);
        let request = |frames| Request { reach, largest: order(largest), ..Request::new(frames) };
        let error = chunks::alloc(&mut zones, &request(frames + 1)).unwrap_err();
        assert_eq!(error, ChunkError::OutOfFrames { wanted: frames + 1, had: frames });
        let mut all = chunks::alloc(&mut zones, &request(frames)).unwrap();
        assert!(all.chunks().all(|chunk| window.covers(&chunk.range())));
        all.free_to(&mut zones);
        let mut whole = chunks::alloc(&mut zones, &Request::new(24 * BLOCK)).unwrap();
        assert_eq!(starts(&whole), [(16 * BLOCK, 13), (32 * BLOCK, 12)], "all merged again");
        whole.free_to(&mut zones);
    }
}

#[test]
fn contiguous_request_is_inside_the_range() {
    let mut zones = zones(1024, 0, 4096);
    let run = |frames| Request { contiguous: true, ..Request::new(frames) };
    let window = ram(1030 * PAGE_SIZE, 1056 * PAGE_SIZE);
    let reach = Reach::ANYWHERE.within(&window);
    let mut list = chunks::alloc(&mut zones, &Request { reach, ..run(11) }).unwrap();
    assert_eq!(starts(&list), [(1040, 3), (1048, 1), (1050, 0)]);
    let none = chunks::alloc(&mut zones, &Request { reach, ..run(16) });
    assert_eq!(none.unwrap_err(), ChunkError::OutOfFrames { wanted: 16, had: 0 });
    list.free_to(&mut zones);
}

#[test]
fn contiguous_allocation_frees_its_tail() {
    let mut zones = zones(16, 0, 32);
    let request = Request { contiguous: true, ..Request::new(11) };
    let mut run = chunks::alloc(&mut zones, &request).unwrap();
    assert_eq!(starts(&run), [(16, 3), (24, 1), (26, 0)]);
    assert_eq!(zones.stats(Zone::High).allocated, 11);
    let error = chunks::alloc(&mut zones, &request).unwrap_err();
    assert_eq!(error, ChunkError::OutOfFrames { wanted: 11, had: 0 });
    run.free_to(&mut zones);
    let whole = zones.alloc(order(4), Reach::HIGH).unwrap();
    zones.free(whole);
    let huge = Request { contiguous: true, ..Request::new(Order::MAX.frames() + 1) };
    assert_eq!(
        chunks::alloc(&mut zones, &huge).unwrap_err(),
        ChunkError::TooLong { wanted: Order::MAX.frames() + 1 }
    );
}

#[test]
fn one_chunk_returns_the_order_of_an_exact_request() {
    let whole = |frames| Request::new(frames).one_chunk().map(Order::log2);
    assert_eq!(
        [0, 1, 2, 3, 512, 513, 1 << 19].map(whole),
        [None, Some(0), Some(1), None, Some(9), None, None]
    );
    let pages = Request { largest: Order::PAGE, ..Request::new(4) };
    assert_eq!(
        (pages.one_chunk(), Request { contiguous: true, ..pages }.one_chunk()),
        (None, Some(order(2)))
    );
}

#[test]
fn empty_and_excessive_requests_change_nothing() {
    let mut zones = zones(16, 20, 32);
    assert_eq!(chunks::alloc(&mut zones, &Request::new(0)).unwrap_err(), ChunkError::Nothing);
    let error = chunks::alloc(&mut zones, &Request::new(17)).unwrap_err();
    assert_eq!(error, ChunkError::OutOfFrames { wanted: 17, had: 16 });
    assert_eq!(free(&zones), (4, 12));
    let mut again = chunks::alloc(&mut zones, &Request::new(16)).unwrap();
    assert_eq!(starts(&again), [(24, 3), (20, 2), (16, 2)]);
    again.free_to(&mut zones);
}

#[test]
fn largest_order_limits_the_chunks() {
    let mut zones = zones(16, 0, 32);
    let mut pages = chunks::alloc(&mut zones, &Request { largest: Order::PAGE, ..Request::new(16) }).unwrap();
    assert_eq!(pages.chunk_count(), 16);
    assert_eq!(zones.stats(Zone::High).allocated, 16);
    pages.free_to(&mut zones);
    assert_eq!(zones.stats(Zone::High).allocated, 0);
}

#[test]
fn single_pages_are_allocated_and_freed_in_batches() {
    let mut zones = zones(40, 100, 1500);
    let mut all = Frames::new();
    while let Some(pages) = zones.alloc_pages(50, Reach::ANYWHERE) {
        all.push_pages(pages).unwrap();
    }
    assert_eq!((all.frames(), free(&zones)), (1460, (0, 0)));
    assert!(all.chunks().all(|chunk| chunk.order() == Order::PAGE));
    all.free_to(&mut zones);
    assert_eq!(free(&zones), (60, 1400));
    let mut all = chunks::alloc(&mut zones, &Request::new(1460)).unwrap();
    // As many chunks as in fresh memory.
    assert_eq!(all.chunk_count(), 16);
    all.free_to(&mut zones);
}

#[test]
fn page_batches_leave_the_reserve() {
    let mut zones = zones(64, 128, 130);
    zones.set_reserve(60);
    let mut taken = Frames::new();
    while let Some(pages) = zones.alloc_pages(64, Reach::ANYWHERE) {
        taken.push_pages(pages).unwrap();
    }
    assert_eq!((taken.frames(), free(&zones)), (6, (60, 0)));
    taken.free_to(&mut zones);
}

#[test]
#[should_panic(expected = "was never added")]
fn freeing_a_foreign_chunk_panics() {
    // SAFETY: the frame is only a number; the test accesses no memory through it.
    zones(16, 0, 32).free(unsafe { OwnedChunk::adopt(addr::Chunk::page(Pfn::new(3))) });
}

#[test]
fn partial_frames_of_ram_are_not_added() {
    let mut zones = Zones::new(PhysAddr::new(0));
    add(&mut zones, ram(0x1001, 0x3fff));
    add(&mut zones, ram(0x10_0001, 0x10_0fff));
    assert_eq!(zones.stats(Zone::High).total, 1);
    assert_eq!(zones.alloc(Order::PAGE, Reach::HIGH).unwrap().release().first(), Pfn::new(2));
}

/// Counts chunks instead of time, so that the result does not depend on the host.
#[test]
fn three_hundred_gibibytes_are_three_hundred_chunks() {
    let (start, end) = (1u64 << 30, 301u64 << 30);
    let mut zones = Zones::new(PhysAddr::new(2 << 30));
    add(&mut zones, ram(start, end));
    let mut all = chunks::alloc(&mut zones, &Request::new(300 << 18)).unwrap();
    assert_eq!(all.chunk_count(), 300);
    assert_eq!(all.chunks().map(|c| c.start()).min(), Some(PhysAddr::new(start)));
    assert_eq!(all.chunks().map(|c| c.range().end()).max(), Some(PhysAddr::new(end)));
    all.free_to(&mut zones);
}

/// A source that fails after `left` chunks, to test for leaks.
struct FailingSource<'a> {
    zones: &'a mut Zones,
    left: u32,
}

impl FrameSource for FailingSource<'_> {
    fn alloc(&mut self, order: Order, reach: Reach<'_>) -> Option<OwnedChunk> {
        self.left = self.left.checked_sub(1)?;
        self.zones.alloc(order, reach)
    }
    fn free(&mut self, chunk: OwnedChunk) {
        self.zones.free(chunk);
    }
}

#[test]
fn failure_at_any_chunk_frees_all_frames() {
    let mut zones = zones(16, 24, 64);
    let before = free(&zones);
    for left in 0..48 {
        let request = Request { largest: order(1), ..Request::new(48) };
        match chunks::alloc(&mut FailingSource { zones: &mut zones, left }, &request) {
            Ok(mut frames) => frames.free_to(&mut zones),
            Err(error) => assert!(matches!(error, ChunkError::OutOfFrames { wanted: 48, .. }), "{error:?}"),
        }
        assert_eq!(free(&zones), before, "after {left} chunks");
    }
}

#[derive(Clone, Debug)]
enum ZoneOp {
    Take { frames: u64, largest: u8, contiguous: bool, range: (u64, u64) },
    Give(usize),
}

fn step() -> impl Strategy<Value = ZoneOp> {
    prop_oneof![
        (
            1u64..80,
            0u8..8,
            any::<bool>(),
            prop_oneof![Just((0, u64::MAX)), (0u64..0x10_0000, 0u64..0x10_0000)]
        )
            .prop_map(|(frames, largest, contiguous, range)| ZoneOp::Take {
                frames,
                largest,
                contiguous,
                range
            }),
        any::<usize>().prop_map(ZoneOp::Give),
    ]
}

proptest! {
    /// Allocated frames never overlap, are inside the range, and are all freed.
    #[test]
    fn frames_have_one_owner(first in 0u64..40, low in 0u64..200, steps in prop::collection::vec(step(), 1..60)) {
        let mut zones = zones(first, low, 200);
        let mut out: BTreeSet<u64> = BTreeSet::new();
        let mut held: Vec<Frames> = Vec::new();
        for step in steps {
            match step {
                ZoneOp::Take { frames, largest, contiguous, range } => {
                    let range = ram(range.0.min(range.1), range.0.max(range.1));
                    let reach = Reach::ANYWHERE.within(&range);
                    let request = Request { frames, largest: order(largest), contiguous, reach };
                    let Ok(list) = chunks::alloc(&mut zones, &request) else { continue };
                    prop_assert_eq!(list.frames(), frames);
                    let mut offset = 0;
                    for chunk in list.chunks() {
                        prop_assert!(contiguous || chunk.order().log2() <= largest);
                        prop_assert_eq!(offset % chunk.frames(), 0, "{:?} at {}", chunk, offset);
                        prop_assert!(range.covers(&chunk.range()));
                        for frame in chunk.first().raw()..chunk.first().raw() + chunk.frames() {
                            prop_assert!((first..200).contains(&frame));
                            prop_assert!(out.insert(frame), "{} allocated twice", frame);
                        }
                        offset += chunk.frames();
                    }
                    held.push(list);
                }
                ZoneOp::Give(index) => {
                    if held.is_empty() { continue }
                    let mut list = held.swap_remove(index % held.len());
                    for chunk in list.chunks() {
                        for frame in chunk.first().raw()..chunk.first().raw() + chunk.frames() {
                            out.remove(&frame);
                        }
                    }
                    list.free_to(&mut zones);
                }
            }
            let allocated = zones.stats(Zone::Low).allocated + zones.stats(Zone::High).allocated;
            prop_assert_eq!(allocated, out.len() as u64);
            let pages = |chunk: addr::Chunk| chunk.first().raw()..chunk.first().raw() + chunk.frames();
            let mut free: Vec<u64> = zones.free_chunks().flat_map(pages).collect();
            free.sort_unstable();
            prop_assert!(free.iter().copied().eq((first..200).filter(|frame| !out.contains(frame))));
        }
        held.into_iter().for_each(|mut list| list.free_to(&mut zones));
        let mut all = chunks::alloc(&mut zones, &Request::new(200 - first)).unwrap();
        all.free_to(&mut zones);
    }
}
