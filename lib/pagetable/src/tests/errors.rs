//! Failed operations change nothing.

use super::fake::TableEvent;
use super::*;
use crate::{Access, MapError, ProtectError, Stage2, UnmapError};

/// Chunks that need pages, a contiguous group and blocks, under several level 2 tables.
fn pieces() -> Vec<Chunk> {
    let mut all = vec![chunk(G, G), chunk(4 * G, 2 * M), chunk(5 * G, 64 * K)];
    all.extend(scattered(6 * G, 1000));
    all
}

#[test]
fn map_is_undone_when_any_table_allocation_fails() {
    let mut d = IommuFixture::new(48);
    let at = G - 2 * M;
    let list = || scattered(7 * G, 512).chain(pieces());
    d.map(at, list(), RW);
    let tables = d.m.allocated() - 1;
    d.unmap(at, (512 + 1000) * 4 * K + G + 2 * M + 64 * K);
    assert_eq!(d.m.allocated(), 1);
    for budget in 0..tables {
        d.m.take_log();
        d.m.budget = budget;
        let error = d.table.map(&mut d.m, Iova::new(at), list(), RW);
        assert_eq!(error, Err(MapError::OutOfTables), "{budget}");
        assert_eq!((d.leaves(), d.table.tables(), d.m.allocated()), (vec![], 1, 1), "{budget}");
        d.m.check_quiet();
        // Walkers may have cached entries once the first path of tables was linked, with the third
        // allocation.
        let invalidated = d.m.take_log().iter().any(|event| matches!(event, TableEvent::Invalidate(..)));
        assert_eq!(invalidated, budget >= 3, "{budget}");
    }
    d.m.budget = tables;
    d.map(at, list(), RW);
}

#[test]
fn map_over_an_existing_mapping_is_undone() {
    let all = 2 * M + 64 * K + 1000 * 4 * K;
    let list = || pieces().into_iter().skip(1);
    // An existing mapping: its address, its chunk, and the address where the map fails.
    let obstacles = [
        ("a page under the block", 0x7000, chunk(0, 4 * K), 0x7000),
        ("a page in the group", 2 * M + 0xf000, chunk(0, 4 * K), 2 * M + 0xf000),
        ("a group where a page goes", 2 * M + 128 * K, chunk(0, 64 * K), 2 * M + 128 * K),
        ("the last page", all - 4 * K, chunk(0, 4 * K), all - 4 * K),
        ("a block where pages go", 4 * M, chunk(0, 2 * M), 4 * M),
        ("a block where the block goes", 0, chunk(0, 2 * M), 0),
        ("a larger block", 0, chunk(0, G), 0),
    ];
    for (name, at, obstacle, meets) in obstacles {
        let mut d = IommuFixture::new(39);
        d.map(at, [obstacle], RO);
        let before = (d.leaves(), d.table.tables(), d.m.allocated());
        let error = d.table.map(&mut d.m, Iova::new(0), list(), RW);
        assert_eq!(error, Err(MapError::AlreadyMapped(Iova::new(meets))), "{name}");
        d.m.check_quiet();
        assert_eq!((d.leaves(), d.table.tables(), d.m.allocated()), before, "{name}");
    }
}

#[test]
fn invalid_map_requests_are_rejected() {
    let mut d = IommuFixture::new(39);
    let end = 1 << 39;
    let cases = [
        ("unaligned", 0x800, vec![chunk(G, 4 * K)], RW, MapError::Misaligned(Iova::new(0x800))),
        ("behind the end", end, vec![chunk(G, 4 * K)], RW, MapError::OutOfRange(Iova::new(end))),
        (
            "across the end",
            end - 4 * K,
            vec![chunk(G, 8 * K)],
            RW,
            MapError::OutOfRange(Iova::new(end - 4 * K)),
        ),
        (
            "two pages at the last one",
            end - 4 * K,
            scattered(G, 2).collect(),
            RW,
            MapError::OutOfRange(Iova::new(end)),
        ),
        (
            "blocks across the end of the root",
            end - G,
            vec![chunk(G, G), chunk(8 * G, G)],
            RW,
            MapError::OutOfRange(Iova::new(end)),
        ),
        (
            "past 48 bits of output",
            0,
            vec![chunk(G, 4 * K), chunk(1 << 48, 4 * K)],
            RW,
            MapError::OutputTooLarge {
                last: PhysAddr::new((1 << 48) + 4 * K - 1),
                highest: PhysAddr::new((1 << 48) - 1),
            },
        ),
        (
            "write without read",
            0,
            vec![chunk(G, 4 * K)],
            Mapping::new(MemoryType::WriteBack, Access::WRITE).unwrap(),
            MapError::Inexpressible(Access::WRITE),
        ),
    ];
    for (name, at, chunks, how, error) in cases {
        assert_eq!(d.table.map(&mut d.m, Iova::new(at), chunks, how), Err(error), "{name}");
        d.m.check_quiet();
        assert_eq!((d.leaves(), d.table.tables(), d.m.allocated()), (vec![], 1, 1), "{name}");
    }
    d.map(end - 4 * K, [chunk((1 << 48) - 4 * K, 4 * K)], RW);
    d.map(0, [], RW);
    assert_eq!(d.leaves(), [(end - 4 * K, (1 << 48) - 4 * K, 4 * K, false)]);
}

#[test]
fn short_root_limits_the_range() {
    // Roots of 2 entries at level 1, of 16 at level 2.
    for (bits, bytes) in [(31, G), (25, 2 * M)] {
        let mut d = IommuFixture::new(bits);
        let end = 1 << bits;
        let list = [chunk(4 * G, bytes), chunk(8 * G, bytes)];
        let error = d.table.map(&mut d.m, Iova::new(end - bytes), list, RW);
        assert_eq!(error, Err(MapError::OutOfRange(Iova::new(end))));
        d.m.check_quiet();
        assert_eq!((d.leaves(), d.table.tables()), (vec![], 1));
        d.map(end - 2 * bytes, list, RW);
        assert_eq!(d.leaves(), [(end - 2 * bytes, 4 * G, bytes, false), (end - bytes, 8 * G, bytes, false)]);
    }
}

#[test]
fn stage_2_rejects_privileged_mappings() {
    let mut m = FakeTableMemory::new::<Stage2>(0);
    let mut table = PageTable::<Stage2, Iova>::new(&mut m, 39).unwrap();
    let access = RW.privileged().access();
    let error = table.map(&mut m, Iova::new(0), [chunk(G, 4 * K)], RW.privileged());
    assert_eq!(error, Err(MapError::Inexpressible(access)));
    let error = table.protect(&mut m, range(0, 4 * K), RW.privileged());
    assert_eq!(error, Err(ProtectError::Inexpressible(access)));
}

#[test]
fn bad_ranges_are_rejected() {
    let mut d = IommuFixture::new(39);
    for (at, len) in [(0x10, 4 * K), (0, 0x10), (1 << 39, 4 * K), ((1 << 39) - 4 * K, 8 * K)] {
        let bad = range(at, len);
        assert_eq!(d.table.unmap(&mut d.m, bad).err(), Some(UnmapError::BadRange(bad)));
        assert_eq!(d.table.protect(&mut d.m, bad, RO), Err(ProtectError::BadRange(bad)));
    }
}

#[test]
fn failed_split_leaves_the_block_mapped() {
    // A split at 4 KiB needs two tables under a 1 GiB block.
    for (budget, at) in [(0, 4 * K), (1, 4 * K), (0, 2 * M)] {
        let mut d = IommuFixture::new(39);
        d.map(0, [chunk(G, G)], RW);
        d.m.take_log();
        d.m.budget = budget;
        assert_eq!(d.table.unmap(&mut d.m, range(at, G - at)).err(), Some(UnmapError::OutOfTables));
        assert_eq!(d.table.protect(&mut d.m, range(0, at), RO), Err(ProtectError::OutOfTables));
        d.m.check_quiet();
        assert_eq!((d.leaves(), d.table.tables(), d.m.allocated()), (vec![(0, G, G, false)], 1, 1));
        assert!(!d.m.take_log().iter().any(|event| matches!(event, TableEvent::Invalidate(..))));
    }
}
