//! What `map`, `unmap` and `protect` do, case by case.

use super::fake::{Event, Fake};
use crate::{Access, Mapping, PageTable, Stage1, TableMemory};
use addr::{AddrRange, Chunk, Iova, MemoryType, Order, Pfn, PhysAddr};

const RW: Mapping = Mapping::read_write(MemoryType::WriteBack);

fn new_table(bits: u8) -> (Fake, PageTable<Stage1, Iova>) {
    let mut m = Fake::new::<Stage1>(0);
    let table = PageTable::new(&mut m, bits).unwrap();
    m.install(table.root(), table.start_level());
    m.take_log();
    (m, table)
}

fn range(start: u64, len: u64) -> AddrRange<Iova> {
    AddrRange::from_len(Iova::new(start), len).unwrap()
}

fn chunk(start: u64, bytes: u64) -> Chunk {
    let order = Order::fitting(bytes >> 12).unwrap();
    assert_eq!(order.bytes(), bytes);
    Chunk::new(Pfn::containing(PhysAddr::new(start)), order).unwrap()
}

fn unmap(m: &mut Fake, table: &mut PageTable<Stage1, Iova>, start: u64, len: u64) {
    let stale = table.unmap(m, range(start, len)).unwrap();
    m.invalidate(start, len);
    stale.release(m);
    m.check_quiet();
}

#[test]
fn a_page_is_mapped_found_and_unmapped() {
    let (mut m, mut table) = new_table(48);
    table.map(&mut m, Iova::new(0x1234_5000), [chunk(0x8000_1000, 0x1000)], RW).unwrap();
    m.check_quiet();
    let leaf = table.translate(&m, Iova::new(0x1234_5678)).unwrap();
    assert_eq!(leaf.translate(Iova::new(0x1234_5678)), PhysAddr::new(0x8000_1678));
    assert_eq!((leaf.bytes, leaf.contiguous), (0x1000, false));
    assert_eq!((leaf.memory, leaf.access), (MemoryType::WriteBack, Access::READ | Access::WRITE));
    assert_eq!(table.translate(&m, Iova::new(0x1234_6000)), None);
    assert_eq!((table.tables(), m.allocated()), (4, 4));

    unmap(&mut m, &mut table, 0x1234_5000, 0x1000);
    assert_eq!(table.translate(&m, Iova::new(0x1234_5000)), None);
    assert_eq!((table.tables(), m.allocated()), (1, 1));
    m.uninstall();
    table.destroy(&mut m);
    assert_eq!(m.allocated(), 0);
}

#[test]
fn new_tables_are_filled_then_published_then_linked() {
    use Event::*;
    let (mut m, mut table) = new_table(39);
    table.map(&mut m, Iova::new(0), [chunk(0x4000_0000, 0x10000)], RW).unwrap();
    let bottom_up = [Allocate, Allocate, Written(1), Written(16), Publish, Written(1)];
    assert_eq!(m.take_log(), bottom_up);
}

#[test]
fn every_entry_is_written_once() {
    let cases = [(0x1000, 3 + 1), (0x1_0000, 3 + 16), (0x20_0000, 2 + 1), (0x1000_0000, 2 + 128)];
    for (bytes, stores) in cases {
        let (mut m, mut table) = new_table(48);
        table.map(&mut m, Iova::new(0), [chunk(0x4000_0000, bytes)], RW).unwrap();
        assert_eq!(m.stores(), stores, "{bytes:#x}");
    }
}
