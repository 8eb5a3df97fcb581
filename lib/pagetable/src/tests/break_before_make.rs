//! Break-before-make: which entries are broken, and the order of stores and invalidations.

use super::fake::TableEvent::*;
use super::*;
use crate::LeafSize;

#[test]
fn group_is_broken_as_a_whole_before_one_page_is_unmapped() {
    let mut d = IommuFixture::new(48);
    d.map(G, [chunk(4 * G, 128 * K)], RW);
    d.m.take_log();
    d.unmap(G + 0x5000, 4 * K);
    let log = d.m.take_log();
    let breaking = [Written(16), Invalidate(G, 64 * K), Barrier, Written(16), Barrier];
    assert_eq!(log, [&breaking[..], &[Written(1), Invalidate(G + 0x5000, 4 * K)]].concat());
    let leaves = d.leaves();
    assert_eq!(leaves.len(), 31);
    assert!(leaves.iter().all(|&(at, _, _, contiguous)| contiguous == (at >= G + 64 * K)));
}

#[test]
#[should_panic(expected = "while the old one is in TLBs")]
fn map_between_unmap_and_invalidation_replaces_a_cached_table() {
    let mut d = IommuFixture::new(48);
    d.map(G, [chunk(4 * G, 4 * K)], RW);
    let stale = d.table.unmap(&mut d.m, range(G, 4 * K)).unwrap();
    assert!(!stale.is_empty());
    d.map(G + 4 * K, [chunk(5 * G, 4 * K)], RW);
}

#[test]
fn group_is_split_at_either_end() {
    for (at, len) in [(0, 4 * K), (60 * K, 4 * K), (4 * K, 60 * K), (0, 60 * K), (60 * K, 8 * K)] {
        let mut d = IommuFixture::new(48);
        d.map(G, [chunk(4 * G, 256 * K)], RW);
        d.m.take_log();
        d.unmap(G + at, len);
        assert_eq!(d.m.take_log()[..2], [Written(16), Invalidate(G, 64 * K)], "{at:#x}+{len:#x}");
        let groups = d.leaves().into_iter().filter(|leaf| leaf.3).count() / 16;
        assert_eq!(groups, if at + len > 64 * K { 2 } else { 3 });
    }
}

#[test]
fn whole_groups_and_blocks_are_unmapped_without_breaking() {
    let mut d = IommuFixture::new(48);
    d.map(G, [chunk(4 * G, 128 * K)], RW);
    d.map(G + 32 * M, [chunk(6 * G, 64 * M)], RW);
    d.m.take_log();
    d.unmap(G + 64 * K, 64 * K);
    assert_eq!(d.m.take_log(), [Written(16), Invalidate(G + 64 * K, 64 * K)]);
    d.unmap(G + 32 * M, 32 * M);
    assert_eq!(d.m.take_log(), [Written(16), Invalidate(G + 32 * M, 32 * M)]);
}

#[test]
fn block_in_a_group_is_split_with_one_break() {
    let mut d = IommuFixture::new(48);
    d.map(0, [chunk(G, 32 * M)], RW);
    d.m.take_log();
    let hole = 2 * M + 64 * K;
    d.unmap(hole, 64 * K);
    let splitting =
        [Allocate, Written(512), Written(16), Invalidate(0, 32 * M), Barrier, Written(16), Barrier];
    assert_eq!(d.m.take_log(), [&splitting[..], &[Written(16), Invalidate(hole, 64 * K)]].concat());
    for at in [0, 2 * M, hole - 1, hole + 64 * K, 4 * M, 32 * M - 1] {
        assert_eq!(d.translate(at), Some(PhysAddr::new(G + at)), "{at:#x}");
    }
    // The hole is a whole group: all other pages of the block have the hint, and the other blocks have lost
    // it.
    let leaves = d.leaves();
    assert_eq!(leaves.len(), 15 + 496);
    assert!(leaves.iter().all(|&(_, _, bytes, contiguous)| contiguous == (bytes == 4 * K)));
}

#[test]
fn hole_splits_the_blocks_at_both_ends() {
    let mut d = IommuFixture::new(48);
    d.map(0, [chunk(G, 4 * M)], RW);
    d.unmap(2 * M - 12 * K, 20 * K);
    let (below, above) = (2 * M - 12 * K, 2 * M + 8 * K);
    for (at, mapped) in [(below - 1, true), (below, false), (above - 1, false), (above, true)] {
        assert_eq!(d.translate(at), mapped.then_some(PhysAddr::new(G + at)), "{at:#x}");
    }
    let separate = d.leaves().into_iter().filter(|leaf| !leaf.3).count();
    assert_eq!(separate, 13 + 14, "only the two groups that were split");
}

#[test]
fn rights_change_in_place_unless_in_a_group() {
    let mut d = IommuFixture::new(48);
    d.map(0, scattered(G, 20), RW);
    d.map(2 * M, [chunk(G, 2 * M)], RW);
    d.map(4 * M, [chunk(G, 64 * K)], RW);
    d.m.take_log();
    d.protect(0, 2 * M, RO);
    assert_eq!(d.m.take_log(), [Written(512), Invalidate(0, 2 * M)]);
    d.protect(2 * M, 2 * M, RO);
    assert_eq!(d.m.take_log(), [Written(1), Invalidate(2 * M, 2 * M)]);
    d.protect(4 * M, 64 * K, RO);
    let broken = [Written(16), Invalidate(4 * M, 64 * K), Written(16)];
    assert_eq!(d.m.take_log(), [&broken[..], &[Invalidate(4 * M, 64 * K)]].concat());
    d.protect(0, 6 * M, RO);
    assert_eq!(d.m.take_log(), [Invalidate(0, 6 * M)], "nothing to change");
    d.table.all_leaves(&d.m, |leaf| assert_eq!(leaf.access, RO.access()));
    assert_eq!(d.leaves().into_iter().filter(|leaf| leaf.3).count(), 16, "the group is kept");
}

#[test]
fn memory_type_changes_by_break_before_make() {
    let mut d = IommuFixture::new(48);
    d.map(0x3000, scattered(G, 4), RW);
    d.m.take_log();
    d.protect(0, 0x5000, Mapping::read_write(MemoryType::NonCacheable));
    // Broken from the first mapped page to the last in the range.
    let log = d.m.take_log();
    assert_eq!(log, [Written(5), Invalidate(0x3000, 8 * K), Written(2), Invalidate(0, 0x5000)]);
    let mut types = Vec::new();
    d.table.all_leaves(&d.m, |leaf| types.push(leaf.memory));
    let (nc, wb) = (MemoryType::NonCacheable, MemoryType::WriteBack);
    assert_eq!(types, [nc, nc, wb, wb]);
}

#[test]
fn protecting_part_of_a_block_splits_it() {
    let mut d = IommuFixture::new(48);
    d.map(0, [chunk(G, 2 * M)], RW);
    d.protect(64 * K, 64 * K, RO);
    let access = |at| d.table.translate(&d.m, Iova::new(at)).unwrap().access;
    assert_eq!([0, 64 * K, 128 * K].map(access), [RW.access(), RO.access(), RW.access()]);
    assert_eq!(d.leaves().into_iter().filter(|leaf| leaf.3).count(), 512, "all groups are complete");
}

#[test]
fn replaced_page_is_broken_before_it_maps_another_frame() {
    let mut d = IommuFixture::new(48);
    d.map(G, scattered(4 * G, 3), RO);
    d.m.take_log();
    let frame = PhysAddr::new(7 * G);
    let old = d.table.replace_leaf(&mut d.m, Iova::new(G + 4 * K + 17), frame, RW);
    assert_eq!(old, Some(chunk(4 * G + 8 * K, 4 * K).range()));
    assert_eq!(d.m.take_log(), [Written(1), Invalidate(G + 4 * K, 4 * K), Written(1)]);
    d.m.check_quiet();
    let access = |at| d.table.translate(&d.m, Iova::new(at)).unwrap().access;
    assert_eq!([G, G + 4 * K, G + 8 * K].map(access), [RO.access(), RW.access(), RO.access()]);
    assert_eq!(d.translate(G + 4 * K), Some(frame));
    d.unmap(G, 12 * K);
}

#[test]
fn replaced_block_is_broken_before_it_maps_other_frames() {
    let mut d = IommuFixture::new(48);
    d.map(2 * M, [chunk(4 * G, 2 * M), chunk(6 * G, 2 * M)], RO.only(LeafSize::Block2M));
    d.m.take_log();
    let old = d.table.replace_leaf(&mut d.m, Iova::new(3 * M), PhysAddr::new(7 * G), RW);
    assert_eq!(old, Some(chunk(4 * G, 2 * M).range()));
    assert_eq!(d.m.take_log(), [Written(1), Invalidate(2 * M, 2 * M), Written(1)]);
    d.m.check_quiet();
    assert_eq!(d.leaves(), [(2 * M, 7 * G, 2 * M, false), (4 * M, 6 * G, 2 * M, false)]);
}

#[test]
fn split_block_is_broken_before_its_pages_are_linked() {
    let mut d = IommuFixture::new(48);
    d.map(0, [chunk(G, 64 * M)], RO.only(LeafSize::Block2M));
    assert!(d.leaves().iter().all(|leaf| leaf.2 == 2 * M && !leaf.3));
    d.m.take_log();
    d.table.split_block(&mut d.m, Iova::new(2 * M + 12 * K)).unwrap();
    let log = d.m.take_log();
    let broken = log.iter().position(|event| *event == Invalidate(2 * M, 2 * M)).unwrap();
    assert_eq!(log[broken - 1], Written(1), "{log:?}");
    assert_eq!(log.iter().filter(|event| **event == Written(1)).count(), 2, "broken, then linked: {log:?}");
    d.m.check_quiet();
    let pages: Vec<_> = (0..512).map(|n| (2 * M + n * 4 * K, G + 2 * M + n * 4 * K, 4 * K, false)).collect();
    assert_eq!(d.leaves()[1..513], pages);
    assert_eq!((d.leaves().len(), d.table.tables()), (31 + 512, 4));
    // Pages, a hole and a larger block stay.
    d.map(G, [chunk(4 * G, G)], RW);
    d.m.take_log();
    for at in [2 * M, 64 * M, G, 1 << 50] {
        d.table.split_block(&mut d.m, Iova::new(at)).unwrap();
    }
    assert_eq!(d.m.take_log(), []);
    d.unmap(2 * M, 2 * M);
}

#[test]
fn leaf_with_the_contiguous_hint_is_not_replaced() {
    let mut d = IommuFixture::new(48);
    d.map(2 * M, [chunk(G, 64 * K)], RW);
    d.map(4 * M, scattered(4 * G, 1), RW);
    d.m.take_log();
    for at in [2 * M, 4 * M + 4 * K, 6 * M, 1 << 50] {
        assert_eq!(d.table.replace_leaf(&mut d.m, Iova::new(at), PhysAddr::new(7 * G), RO), None, "{at:#x}");
    }
    assert_eq!(d.m.take_log(), []);
}
