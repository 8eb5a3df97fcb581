//! Mapping, translation and unmapping.

use super::fake::{FakeTableMemory, TableEvent::*};
use super::*;
use crate::{Access, Entries, Stage2, StaleTables, TableFrame};
use addr::KernelVa;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};

#[test]
fn page_is_mapped_translated_and_unmapped() {
    let mut d = IommuFixture::new(48);
    d.map(0x1234_5000, [chunk(0x8000_1000, 4 * K)], RW);
    let leaf = d.table.translate(&d.m, Iova::new(0x1234_5678)).unwrap();
    assert_eq!(leaf.translate(Iova::new(0x1234_5678)), PhysAddr::new(0x8000_1678));
    assert_eq!((leaf.bytes, leaf.contiguous), (4 * K, false));
    assert_eq!((leaf.memory, leaf.access), (MemoryType::WriteBack, Access::READ | Access::WRITE));
    assert_eq!(d.translate(0x1234_4fff), None);
    assert_eq!(d.translate(0x1234_6000), None);
    assert_eq!((d.table.tables(), d.m.allocated()), (4, 4));

    d.unmap(0x1234_5000, 4 * K);
    assert_eq!(d.translate(0x1234_5000), None);
    assert_eq!((d.table.tables(), d.m.allocated()), (1, 1));
}

#[test]
fn new_tables_are_filled_then_ordered_then_linked() {
    let mut d = IommuFixture::new(39);
    d.map(0, [chunk(0x4000_0000, 64 * K)], RW);
    assert_eq!(d.m.take_log(), [Allocate, Allocate, Written(1), Written(16), Barrier, Written(1)]);
}

#[test]
fn entries_match_the_manual() {
    let mut d = IommuFixture::new(39);
    d.map(G, [chunk(2 * G, G)], RW);
    d.map(2 * G, [chunk(0x1234_5000, 4 * K)], Mapping::read_write(MemoryType::NonCacheable));
    let entry = |table: PhysAddr, slot: usize| d.m.entries(TableRef::new(table))[slot].load(Relaxed);
    // A block at level 1: UXN PXN nG AF SH=inner AP[1], attribute index 0, block.
    assert_eq!(entry(d.table.root(), 1), 0x0060_0000_8000_0f41);
    let level_2 = entry(d.table.root(), 2);
    assert_eq!(level_2 & !0xffff_ffff_f000, 0b11);
    let level_3 = entry(PhysAddr::new(level_2 & !0xfff), 0);
    assert_eq!(level_3 & !0xffff_ffff_f000, 0b11);
    // A page: SH=outer, attribute index 1.
    assert_eq!(entry(PhysAddr::new(level_3 & !0xfff), 0), 0x0060_0000_1234_5e47);
}

#[test]
fn leaves_are_as_large_as_input_and_output_allow() {
    let mut d = IommuFixture::new(48);
    d.map(0, [chunk(G, G)], RW);
    d.map(2 * G, [chunk(4 * G, 2 * M), chunk(6 * G, 64 * K), chunk(7 * G, 4 * K)], RW);
    let mut expected = vec![(0, G, G, false), (2 * G, 4 * G, 2 * M, false)];
    expected.extend((0..16).map(|n| (2 * G + 2 * M + n * 4 * K, 6 * G + n * 4 * K, 4 * K, true)));
    expected.push((2 * G + 2 * M + 64 * K, 7 * G, 4 * K, false));
    assert_eq!(d.leaves(), expected);
}

#[test]
fn adjacent_small_chunks_are_mapped_by_large_leaves() {
    let mut d = IommuFixture::new(48);
    d.map(32 * M, (0..32 * M).step_by(4096).map(|at| chunk(G + at, 4 * K)), RW);
    let expected: Vec<_> = (0..16).map(|n| ((32 + 2 * n) * M, G + 2 * n * M, 2 * M, true)).collect();
    assert_eq!(d.leaves(), expected);
}

#[test]
fn pages_only_maps_pages_without_the_contiguous_hint() {
    let mut d = IommuFixture::new(48);
    d.map(0, [chunk(G, 2 * M)], RW.pages_only());
    let leaves = d.leaves();
    assert_eq!(leaves.len(), 512);
    assert!(leaves.iter().all(|&(_, _, bytes, contiguous)| bytes == 4 * K && !contiguous));
}

#[test]
fn page_of_the_linear_map_is_unmapped_and_mapped_again() {
    let base = 0xffff_0000_0000_0000;
    let mut m = FakeTableMemory::new::<Stage1>(base);
    let mut table = PageTable::<Stage1, KernelVa>::new(&mut m, 48).unwrap();
    m.install(table.root(), table.start_level());
    let at = KernelVa::new(base + G);
    table.map(&mut m, at, [chunk(G, 64 * M)], RW.pages_only()).unwrap();
    m.take_log();
    for page in [G, G + 0x5000, G + 2 * M - 4 * K, G + 64 * M - 4 * K] {
        let stale = table.unmap(&mut m, range(base + page, 4 * K)).unwrap();
        m.invalidate(base + page, 4 * K);
        assert!(stale.is_empty());
        assert_eq!(table.translate(&m, KernelVa::new(base + page)), None);
        table.map(&mut m, KernelVa::new(base + page), [chunk(page, 4 * K)], RW.pages_only()).unwrap();
        // One store each way, no table, and no break-before-make.
        assert_eq!(m.take_log(), [Written(1), Invalidate(base + page, 4 * K), Written(1)]);
        m.check_quiet();
    }
}

#[test]
fn stage_2_starts_at_a_single_root_table() {
    let mut m = FakeTableMemory::new::<Stage2>(0);
    let mut table = PageTable::<Stage2, Iova>::new(&mut m, 39).unwrap();
    assert_eq!((table.start_level(), table.input_bits()), (1, 39));
    m.install(table.root(), 1);
    let write_only = Mapping::new(MemoryType::NonCacheable, Access::WRITE).unwrap();
    table.map(&mut m, Iova::new(511 * G), [chunk(G, G)], write_only).unwrap();
    assert_eq!(m.entries(TableRef::new(table.root()))[511].load(Relaxed), 0x0040_0000_4000_0695);
    let leaf = table.translate(&m, Iova::new((1 << 39) - 1)).unwrap();
    assert_eq!((leaf.access, leaf.memory), (Access::WRITE, MemoryType::NonCacheable));
    assert_eq!(table.translate(&m, Iova::new(1 << 39)), None);
}

#[test]
fn leaves_visits_all_leaves_that_overlap_the_range() {
    let mut d = IommuFixture::new(48);
    d.map(0, [chunk(G, 2 * M), chunk(3 * G, 4 * K), chunk(4 * G, 4 * K)], RW);
    let seen = |at, len| {
        let mut seen = Vec::new();
        d.table.leaves(&d.m, range(at, len), |leaf| seen.push((leaf.at.raw(), leaf.output().start().raw())));
        seen
    };
    assert_eq!(seen(M, 4 * K), [(0, G)]);
    assert_eq!(seen(2 * M - 4 * K, 8 * K), [(0, G), (2 * M, 3 * G)]);
    assert_eq!(seen(2 * M + 4 * K, 64 * G), [(2 * M + 4 * K, 4 * G)]);
    assert_eq!(seen(0, 0), []);
    assert_eq!(seen(0, 1 << 49), [], "not in the space");
}

#[test]
fn unmapping_holes_changes_nothing() {
    let mut d = IommuFixture::new(48);
    d.map(G, [chunk(G, 4 * K)], RW);
    d.m.take_log();
    for (at, len) in [(0, G), (G + 4 * K, 4 * K), (G + 4 * K, 1 << 47), (1 << 47, 1 << 47), (G, 0)] {
        let stale = d.table.unmap(&mut d.m, range(at, len)).unwrap();
        assert!(stale.is_empty(), "{at:#x}");
    }
    assert_eq!((d.m.take_log(), d.leaves().len()), (vec![], 1));
}

#[test]
fn stale_tables_stay_allocated_until_released() {
    let mut d = IommuFixture::new(48);
    d.map(0, scattered(G, 3 * 512), RW);
    d.map(8 * G, [chunk(G, 4 * K)], RW);
    assert_eq!(d.m.allocated(), 1 + 2 + 3 + 2);
    let mut first = d.table.unmap(&mut d.m, range(0, 6 * M)).unwrap();
    assert_eq!((first.count(), d.table.tables(), d.m.allocated()), (4, 4, 8));
    let second = d.table.unmap(&mut d.m, range(8 * G, 4 * K)).unwrap();
    first.append(&d.m, second);
    first.append(&d.m, StaleTables::new());
    assert_eq!((first.count(), d.m.allocated()), (7, 8));
    assert!(!d.m.take_log().contains(&Release));
    d.m.invalidate(0, 6 * M);
    d.m.invalidate(8 * G, 4 * K);
    first.release(&mut d.m);
    assert_eq!((d.table.tables(), d.m.allocated()), (1, 1));
}

#[test]
#[should_panic(expected = "a walker may hold it")]
fn fake_detects_a_release_without_invalidation() {
    let mut d = IommuFixture::new(48);
    d.map(0, [chunk(G, 4 * K)], RW);
    d.table.unmap(&mut d.m, range(0, 4 * K)).unwrap().release(&mut d.m);
}

/// Tables from address zero on.
struct PlainTableMemory(Vec<(Entries, AtomicU16)>);

// SAFETY: no memory has an owner that the mappings concern.
#[expect(unsafe_code, reason = "the trait is unsafe to implement")]
unsafe impl TableMemory for PlainTableMemory {
    fn allocate(&mut self) -> Option<TableFrame> {
        unimplemented!("the tables exist from the start")
    }
    fn release(&mut self, table: TableFrame) {
        self.0[(table.release().raw() >> 12) as usize].0[1].store(1, Relaxed);
    }
    fn entries<'a>(&'a self, table: TableRef<'a>) -> &'a Entries {
        &self.0[(table.address().raw() >> 12) as usize].0
    }
    fn valid_entries<'a>(&'a self, table: TableRef<'a>) -> &'a AtomicU16 {
        &self.0[(table.address().raw() >> 12) as usize].1
    }
    fn entries_written(&self, _: &[AtomicU64]) {}
    fn order_before_link(&self) {}
    fn invalidate(&mut self, _: u64, _: u64) {}
}

#[test]
fn stale_table_may_be_at_address_zero() {
    let mut m =
        PlainTableMemory((0..3).map(|_| ([const { AtomicU64::new(0) }; 512], AtomicU16::new(7))).collect());
    let mut stale = StaleTables::new();
    for table in [0x1000, 0, 0x2000] {
        stale.push(&m, PhysAddr::new(table));
        assert_eq!(
            m.entries(TableRef::new(PhysAddr::new(table)))[0].load(Relaxed) & 1,
            0,
            "valid to a walker"
        );
    }
    stale.release(&mut m);
    assert!(m.0.iter().all(|(entries, live)| entries[1].load(Relaxed) == 1 && live.load(Relaxed) == 0));
}

#[test]
fn destroy_releases_all_tables() {
    let mut d = IommuFixture::new(48);
    d.map(0, scattered(G, 5000), RW);
    d.map(1 << 40, [chunk(G, G), chunk(0, G)], RW);
    d.m.uninstall();
    let IommuFixture { mut m, table } = d;
    table.destroy(&mut m);
    assert_eq!(m.allocated(), 0);
}
