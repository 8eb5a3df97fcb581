//! Tables that become empty: unlinked immediately, or one kept as the spare table.

use super::fake::TableEvent::*;
use super::*;

impl IommuFixture {
    fn with_spare(bits: u8) -> Self {
        let Self { m, table } = Self::new(bits);
        Self { m, table: table.with_spare_table() }
    }
}

#[test]
fn empty_table_is_unlinked_immediately_by_default() {
    let mut d = IommuFixture::new(48);
    d.map(0, [chunk(G, 4 * K)], RW);
    d.unmap(0, 4 * K);
    assert_eq!((d.table.tables(), d.m.allocated()), (1, 1));
}

#[test]
fn spare_table_saves_allocations_for_the_next_buffer() {
    let mut d = IommuFixture::with_spare(48);
    d.map(0x5000, [chunk(G, 4 * K)], RW);
    d.unmap(0x5000, 4 * K);
    assert_eq!(d.table.tables(), 4);
    d.m.take_log();
    for _ in 0..3 {
        d.map(0x5000, [chunk(G, 4 * K)], RW);
        d.unmap(0x5000, 4 * K);
    }
    assert_eq!(d.m.take_log(), [Written(1), Written(1), Invalidate(0x5000, 4 * K)].repeat(3));
    assert_eq!((d.table.tables(), d.m.allocated()), (4, 4));
}

#[test]
fn only_one_empty_table_is_kept() {
    let mut d = IommuFixture::with_spare(48);
    for at in [0, 2 * M, G, 1 << 40] {
        d.map(at, [chunk(G, 4 * K)], RW);
    }
    assert_eq!(d.table.tables(), 1 + 2 + 3 + 4);
    for at in [2 * M, 0, G, 1 << 40] {
        d.unmap(at, 4 * K);
    }
    // The first that became empty, with the tables above it.
    assert_eq!(d.table.tables(), 4);
}

#[test]
fn used_spare_table_is_replaced_by_the_next_empty_one() {
    let mut d = IommuFixture::with_spare(48);
    d.map(0, [chunk(G, 4 * K)], RW);
    d.map(2 * M, [chunk(G, 4 * K)], RW);
    d.unmap(0, 4 * K);
    d.map(0, [chunk(G, 4 * K)], RW);
    d.unmap(2 * M, 4 * K);
    assert_eq!(d.table.tables(), 5, "the second table is the spare one now");
    d.unmap(0, 4 * K);
    assert_eq!(d.table.tables(), 4);
}

#[test]
fn block_replaces_the_spare_table() {
    let mut d = IommuFixture::with_spare(39);
    d.map(2 * M, [chunk(G, 4 * K)], RW);
    d.map(4 * M, [chunk(G, 2 * M)], RW);
    d.unmap(2 * M, 4 * K);
    assert_eq!(d.table.tables(), 3);
    d.m.take_log();
    d.map(2 * M, [chunk(4 * G, 2 * M)], RW);
    // The table is unlinked and invalidated before the block is written.
    assert_eq!(d.m.take_log(), [Written(1), Invalidate(2 * M, 2 * M), Release, Written(1)]);
    assert_eq!(d.table.tables(), 2, "no spare table");
    d.unmap(2 * M, 4 * M);
    assert_eq!(d.table.tables(), 2, "a level 2 table becomes the spare one too");
}

#[test]
fn spare_table_is_unlinked_with_its_range() {
    let mut d = IommuFixture::with_spare(39);
    d.map(0, [chunk(G, 4 * K)], RW);
    d.unmap(0, 4 * K);
    d.unmap(0, 2 * M);
    assert_eq!(d.table.tables(), 2, "its parent is the empty one now");
    d.unmap(0, 4 * G);
    assert_eq!(d.table.tables(), 1);
}

#[test]
fn failed_map_leaves_no_spare_table() {
    let mut d = IommuFixture::with_spare(48);
    d.m.budget = 3;
    d.table.map(&mut d.m, Iova::new(0), scattered(G, 513), RW).unwrap_err();
    d.m.check_quiet();
    assert_eq!((d.table.tables(), d.m.allocated()), (1, 1));
}

#[test]
fn unmap_keeping_tables_lets_the_next_map_succeed_without_memory() {
    let mut d = IommuFixture::new(48);
    d.map(0, [chunk(G, 4 * M)], RW.pages_only());
    let tables = d.table.tables();
    d.table.unmap_keeping_tables(&mut d.m, range(0, 4 * M)).unwrap();
    d.m.invalidate(0, 4 * M);
    assert_eq!((d.table.tables(), d.leaves().len()), (tables, 0));
    d.m.budget = 0;
    d.map(0, [chunk(G, 4 * M)], RW.pages_only());
    assert_eq!((d.table.tables(), d.leaves().len()), (tables, 1024));
    d.unmap(0, 4 * M);
    assert_eq!((d.table.tables(), d.m.allocated()), (1, 1));
}

#[test]
fn unmap_whole_has_the_same_result_as_unmap() {
    let lists = |n: u64| -> Vec<Chunk> {
        match n {
            0 => vec![chunk(2 * G, 4 * K)],
            1 => scattered(2 * G, 256).collect(),
            2 => scattered(2 * G, 512).collect(),
            3 => vec![chunk(2 * G, 64 * K), chunk(3 * G, 4 * K)],
            4 => vec![chunk(2 * G, 2 * M), chunk(4 * G, 2 * M)],
            _ => scattered(2 * G, 1500).collect(),
        }
    };
    for at in [0, 4 * K, 2 * M - 64 * K, 2 * M] {
        for n in 0..6 {
            let bytes = lists(n).iter().map(|chunk| chunk.bytes()).sum();
            let run = |whole: bool, neighbour: bool| {
                let mut d = IommuFixture::new(48);
                d.table = d.table.with_spare_table();
                if neighbour {
                    d.map(at + bytes, [chunk(5 * G, 4 * K)], RW);
                }
                d.map(at, lists(n), RW);
                let stale = if whole {
                    d.table.unmap_whole(&d.m, range(at, bytes)).unwrap()
                } else {
                    d.table.unmap(&mut d.m, range(at, bytes)).unwrap()
                };
                d.m.invalidate(at, bytes);
                stale.release(&mut d.m);
                d.m.check_quiet();
                (d.leaves(), d.table.tables(), d.m.allocated())
            };
            for neighbour in [false, true] {
                assert_eq!(run(true, neighbour), run(false, neighbour), "{n} at {at:#x}, {neighbour}");
            }
        }
    }
}
