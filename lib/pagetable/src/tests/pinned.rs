//! Pinned tables.

use super::*;
use crate::{Access, LeafAttributes, MapError, OutputSize, PINNED_BYTES, PinnedEntries, pinned_page};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const AT: u64 = G + 3 * PINNED_BYTES;
/// The last byte of the memory that is mapped.
const HIGHEST: PhysAddr = PhysAddr::new(8 * G - 1);

/// A tree with a pinned table at [`AT`].
fn pinned_fixture() -> (IommuFixture, PhysAddr) {
    let mut d = IommuFixture::new(48);
    d.table = d.table.with_spare_table();
    let table = d.table.pin_table(&mut d.m, Iova::new(AT), HIGHEST).unwrap();
    d.m.pinned.push(table);
    (d, table)
}

fn show(d: &IommuFixture, table: PhysAddr, first: usize, chunks: &[Chunk]) {
    let pages = PinnedEntries::<Stage1, Iova>::new(d.m.entries(TableRef::new(table)));
    let written = pages.map(first, chunks.iter().copied(), RW).unwrap();
    assert_eq!(written.len() as u64, chunks.iter().map(|chunk| chunk.frames()).sum::<u64>());
    d.m.entries_written(written);
    d.m.order_before_link();
}

fn hide(d: &mut IommuFixture, table: PhysAddr, first: usize, pages: usize) {
    let entries =
        PinnedEntries::<Stage1, Iova>::new(d.m.entries(TableRef::new(table))).unmap(first..first + pages);
    d.m.entries_written(entries);
    d.m.invalidate(AT + first as u64 * 4 * K, pages as u64 * 4 * K);
}

#[test]
fn pages_of_a_pinned_table_are_translated_and_visited() {
    let (mut d, table) = pinned_fixture();
    show(&d, table, 7, &[chunk(2 * G, 8 * K), chunk(3 * G, 4 * K)]);
    show(&d, table, 16, &[chunk(4 * G, 64 * K)]);
    show(&d, table, 36, &[chunk(5 * G, 64 * K)]);
    d.m.check_quiet();
    let leaves = d.leaves();
    assert_eq!(leaves[0], (AT + 7 * 4 * K, 2 * G, 4 * K, false));
    assert_eq!(leaves[2], (AT + 9 * 4 * K, 3 * G, 4 * K, false));
    assert_eq!(leaves[3], (AT + 64 * K, 4 * G, 4 * K, true));
    assert_eq!(leaves[19], (AT + 36 * 4 * K, 5 * G, 4 * K, false), "not aligned to a group");
    assert_eq!(d.translate(AT + 8 * 4 * K + 5), Some(PhysAddr::new(2 * G + 4 * K + 5)));
    hide(&mut d, table, 16, 16);
    show(&d, table, 17, &[chunk(6 * G, 4 * K)]);
    assert_eq!((d.translate(AT + 64 * K), d.leaves().len()), (None, 3 + 1 + 16));
}

#[test]
fn empty_pinned_table_stays_linked() {
    let (mut d, table) = pinned_fixture();
    assert_eq!(d.table.tables(), 4);
    let page = pinned_page(Iova::new(AT + 5 * 4 * K + 1));
    assert_eq!(page, 5);
    for round in 0..3 {
        show(&d, table, page, &[chunk(G, 4 * K)]);
        // In the same table, which the previous round left empty.
        assert_eq!(d.translate(AT + 5 * 4 * K), Some(PhysAddr::new(G)), "round {round}");
        // Another mapping under the same parent tables.
        d.map(AT + PINNED_BYTES, [chunk(2 * G, 4 * K)], RW);
        hide(&mut d, table, page, 1);
        d.unmap(AT + PINNED_BYTES, 4 * K);
        assert_eq!(d.leaves(), []);
    }
    d.m.uninstall();
    d.table.destroy(&mut d.m);
    assert_eq!(d.m.allocated(), 0);
}

#[test]
fn pin_rejects_mapped_and_misaligned_ranges() {
    let mut d = IommuFixture::new(48);
    d.map(4 * K, [chunk(G, 4 * K)], RW);
    d.map(PINNED_BYTES, [chunk(G, 2 * M)], RW);
    let pin = |d: &mut IommuFixture, at: u64| d.table.pin_table(&mut d.m, Iova::new(at), HIGHEST);
    assert_eq!(pin(&mut d, 0), Err(MapError::AlreadyMapped(Iova::new(0))));
    assert_eq!(pin(&mut d, PINNED_BYTES), Err(MapError::AlreadyMapped(Iova::new(PINNED_BYTES))));
    assert_eq!(pin(&mut d, 4 * K), Err(MapError::Misaligned(Iova::new(4 * K))));
    assert_eq!(pin(&mut d, 1 << 48), Err(MapError::OutOfRange(Iova::new(1 << 48))));
    let tables = d.table.tables();
    d.m.budget = 1;
    assert_eq!(pin(&mut d, 1 << 40), Err(MapError::OutOfTables));
    assert_eq!((d.table.tables(), d.m.allocated()), (tables, tables as usize));
}

#[test]
fn block_does_not_replace_a_pinned_table() {
    let (mut d, _) = pinned_fixture();
    let mapped = d.table.map(&mut d.m, Iova::new(AT), [chunk(G, 2 * M)], RW);
    assert_eq!(mapped, Err(MapError::AlreadyMapped(Iova::new(AT))));
}

#[test]
fn pin_rejects_memory_above_the_output_size() {
    for bits in [32, 48] {
        let mut d = IommuFixture::new(48);
        d.table = d.table.with_output_size(OutputSize::new(bits));
        let last = PhysAddr::new((1 << bits) - 1);
        let above = PhysAddr::new(1 << bits);
        let refused = d.table.pin_table(&mut d.m, Iova::new(AT), above);
        assert_eq!(refused, Err(MapError::OutputTooLarge { last: above, highest: last }));
        assert_eq!(d.table.tables(), 1);
        d.table.pin_table(&mut d.m, Iova::new(AT), last).unwrap();
    }
}

#[test]
fn map_run_writes_the_same_entries_as_map() {
    let (d, table) = pinned_fixture();
    let pages = PinnedEntries::<Stage1, Iova>::new(d.m.entries(TableRef::new(table)));
    let runs = [
        (7, chunk(2 * G, 4 * K)),
        (16, chunk(4 * G, 64 * K)),
        (36, chunk(4 * G, 64 * K)),
        (64, chunk(4 * G + 32 * K, 32 * K)),
    ];
    for mapping in [RW, RO, RW.pages_only()] {
        let bits = LeafAttributes::new::<Stage1, Iova>(mapping).unwrap();
        for (first, run) in runs {
            let stored = |entries: &[AtomicU64]| entries.iter().map(|e| e.load(Relaxed)).collect::<Vec<_>>();
            let alone = stored(pages.map_run(first, &run, bits));
            let range = first..first + run.frames() as usize;
            pages.unmap(range.clone());
            assert_eq!(stored(pages.map(first, [run].into_iter(), mapping).unwrap()), alone, "{run:?}");
            assert_eq!(alone.len(), run.frames() as usize);
            pages.unmap(range);
        }
    }
    let write_only = Mapping::new(MemoryType::WriteBack, Access::WRITE).unwrap();
    let refused = LeafAttributes::new::<Stage1, Iova>(write_only);
    assert_eq!(refused.map(|_| ()), Err(MapError::Inexpressible(Access::WRITE)));
    assert_eq!(d.leaves(), []);
}
