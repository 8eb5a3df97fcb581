//! Tests of the whole crate on a fake [`TableMemory`] that checks each store as a walker would observe it.

mod break_before_make;
mod cost;
mod empty_tables;
mod errors;
mod fake;
mod mapping;
mod model;
mod pinned;
mod ported;
mod root;

use crate::{InputAddress, Mapping, PageTable, Stage1, TableMemory, TableRef};
use addr::{AddrRange, Chunk, Iova, MemoryType, Order, Pfn, PhysAddr};
use fake::FakeTableMemory;

const RW: Mapping = Mapping::read_write(MemoryType::WriteBack);
const RO: Mapping = Mapping::read_only(MemoryType::WriteBack);
const K: u64 = 1 << 10;
const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

/// An IOMMU stage 1 page table and its memory, with an empty log.
struct IommuFixture {
    m: FakeTableMemory,
    table: PageTable<Stage1, Iova>,
}

impl IommuFixture {
    fn new(bits: u8) -> Self {
        let mut m = FakeTableMemory::new::<Stage1>(0);
        let table = PageTable::new(&mut m, bits).unwrap();
        m.install(table.root(), table.start_level());
        m.take_log();
        Self { m, table }
    }
    fn map(&mut self, at: u64, chunks: impl IntoIterator<Item = Chunk>, how: Mapping) {
        self.table.map(&mut self.m, Iova::new(at), chunks, how).unwrap();
        self.m.check_quiet();
    }
    /// Unmaps, invalidates and releases.
    fn unmap(&mut self, at: u64, len: u64) {
        let stale = self.table.unmap(&mut self.m, range(at, len)).unwrap();
        self.m.invalidate(at, len);
        stale.release(&mut self.m);
        self.m.check_quiet();
    }
    /// Protects and invalidates.
    fn protect(&mut self, at: u64, len: u64, how: Mapping) {
        self.table.protect(&mut self.m, range(at, len), how).unwrap();
        self.m.check_quiet();
        self.m.invalidate(at, len);
    }
    /// All leaves: input, output, size, whether contiguous.
    fn leaves(&self) -> Vec<(u64, u64, u64, bool)> {
        let mut all = Vec::new();
        self.table.all_leaves(&self.m, |l| all.push((l.at.raw(), l.to.raw(), l.bytes, l.contiguous)));
        all
    }
    fn translate(&self, at: u64) -> Option<PhysAddr> {
        self.table.translate(&self.m, Iova::new(at)).map(|leaf| leaf.translate(Iova::new(at)))
    }
}

fn range<A: InputAddress>(start: u64, len: u64) -> AddrRange<A> {
    AddrRange::from_len(A::new(start), len).unwrap()
}

fn chunk(start: u64, bytes: u64) -> Chunk {
    let order = Order::fitting(bytes >> 12).unwrap();
    assert_eq!(order.bytes(), bytes);
    Chunk::new(Pfn::containing(PhysAddr::new(start)), order).unwrap()
}

/// `count` single pages with a gap after each, so that none are adjacent.
fn scattered(first: u64, count: u64) -> impl Iterator<Item = Chunk> {
    (0..count).map(move |n| Chunk::page(Pfn::containing(PhysAddr::new(first + n * 8 * K))))
}
