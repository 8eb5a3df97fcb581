//! Tables that were unlinked from a tree and may still be in walk caches.

use crate::descriptor::Descriptor;
use crate::{TableFrame, TableMemory, TableRef};
use addr::PhysAddr;
use core::sync::atomic::Ordering::Relaxed;

/// Marks entry 0 of a stale table as a link to the next one, so that a table at address zero can be linked.
/// Bit 0 is clear: the entry is invalid for walkers.
const LINKED: u64 = 0b10;

/// Unlinked tables. They are released after the range has been invalidated by a form that also drops cached
/// table entries; dropping this value leaks them.
///
/// The list is linked through entry 0 of each table, so it needs no memory. The other entries may still be
/// valid: a walker with a cached table entry continues to reach frames, which their owner keeps until the
/// same invalidation.
#[derive(Debug, Default)]
#[must_use = "the tables are lost unless released"]
pub struct StaleTables {
    ends: Option<(PhysAddr, PhysAddr)>,
    count: u32,
}

impl StaleTables {
    /// No tables.
    pub const fn new() -> Self {
        Self { ends: None, count: 0 }
    }
    /// Whether there are none. Then an invalidation of last-level entries is sufficient.
    pub const fn is_empty(&self) -> bool {
        self.ends.is_none()
    }
    /// The number of tables.
    pub const fn count(&self) -> u32 {
        self.count
    }
    /// Releases the tables. The caller has invalidated the range that they translated, and the invalidation
    /// is complete.
    pub fn release<M: TableMemory>(self, m: &mut M) {
        let mut next = self.ends.map(|(head, _)| head);
        while let Some(table) = next {
            let link = m.entries(TableRef::new(table))[0].load(Relaxed);
            next = (link & LINKED != 0).then(|| Descriptor::from_bits(link).output());
            m.valid_entries(TableRef::new(table)).store(0, Relaxed);
            m.release(TableFrame::unlinked(table));
        }
    }
    /// Adds the tables of `other`, to be invalidated and released together.
    pub fn append<M: TableMemory>(&mut self, m: &M, other: Self) {
        let Some((head, tail)) = other.ends else { return };
        let first = match self.ends {
            None => head,
            Some((first, last)) => {
                m.entries(TableRef::new(last))[0].store(head.raw() | LINKED, Relaxed);
                first
            }
        };
        self.ends = Some((first, tail));
        self.count += other.count;
    }
    /// Adds an unlinked table.
    pub(crate) fn push<M: TableMemory>(&mut self, m: &M, table: PhysAddr) {
        let link = self.ends.map_or(0, |(head, _)| head.raw() | LINKED);
        m.entries(TableRef::new(table))[0].store(link, Relaxed);
        self.ends = Some((table, self.ends.map_or(table, |(_, tail)| tail)));
        self.count += 1;
    }
}
