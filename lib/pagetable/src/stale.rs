//! Tables that were taken out of a tree and may still be held by a walker.

use crate::descriptor::Descriptor;
use crate::{TableFrame, TableMemory};
use addr::PhysAddr;
use core::sync::atomic::Ordering::Relaxed;

/// Marks a link to a next table in a stale table's entry 0, so that a table at address zero can be one. Bit 0 stays
/// clear: to a walker the entry is invalid.
const LINKED: u64 = 0b10;

/// Tables that no entry leads to any more. They are to be released after the range has been invalidated, by a form
/// that drops cached table entries too; dropping this value leaks them.
///
/// They are chained through their own entry 0, so a list of them costs no memory. Their other entries may still be
/// valid: a walker that holds such a table goes on to see frames that its owner holds until the same invalidation.
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
    /// Whether there are none. Then an invalidation of last-level entries is enough.
    pub const fn is_empty(&self) -> bool {
        self.ends.is_none()
    }
    /// The number of tables.
    pub const fn count(&self) -> u32 {
        self.count
    }
    /// Gives the tables back. The caller has invalidated the range they translated and waited for completion.
    pub fn release<M: TableMemory>(self, m: &mut M) {
        let mut next = self.ends.map(|(head, _)| head);
        while let Some(table) = next {
            let link = m.entries(table)[0].load(Relaxed);
            next = (link & LINKED != 0).then(|| Descriptor::from_bits(link).output());
            m.valid_entries(table).store(0, Relaxed);
            m.release(TableFrame::unlinked(table));
        }
    }
    /// Adds all of `other`, to be invalidated and released together.
    pub fn append<M: TableMemory>(&mut self, m: &M, other: Self) {
        let Some((head, tail)) = other.ends else { return };
        let first = match self.ends {
            None => head,
            Some((first, last)) => {
                m.entries(last)[0].store(head.raw() | LINKED, Relaxed);
                first
            }
        };
        self.ends = Some((first, tail));
        self.count += other.count;
    }
    /// Adds a table that was just unlinked.
    pub(crate) fn push<M: TableMemory>(&mut self, m: &M, table: PhysAddr) {
        let link = self.ends.map_or(0, |(head, _)| head.raw() | LINKED);
        m.entries(table)[0].store(link, Relaxed);
        self.ends = Some((table, self.ends.map_or(table, |(_, tail)| tail)));
        self.count += 1;
    }
}
