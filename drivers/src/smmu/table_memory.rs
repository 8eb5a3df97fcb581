//! Memory of page tables that an SMMU walks.

use super::coherency::Coherency;
use super::command_queue::CommandError;
use addr::{AddrRange, Iova};
use core::sync::atomic::{AtomicU16, AtomicU64};
use pagetable::{Entries, TableFrame, TableMemory, TableRef};
use smmu_spec::{Invalidation, RangeInvalidation, TlbTag};

/// Parameters of a domain's translations: the TLB tag, the supported invalidations, the coherency of table
/// walks.
#[derive(Clone, Copy, Debug)]
pub(super) struct TranslationParams {
    pub tag: TlbTag,
    pub ranges: RangeInvalidation,
    pub coherency: Coherency,
}

impl TranslationParams {
    /// The invalidation of `range`; with `leaf` cached table descriptors are kept.
    pub fn invalidation(self, range: AddrRange<Iova>, leaf: bool) -> Invalidation {
        Invalidation::of_range(self.tag, range, leaf, self.ranges)
    }
}

/// A function that runs commands and waits for their completion.
pub(super) trait RunCommands: FnMut(Invalidation) -> Result<(), CommandError> {}

impl<F: FnMut(Invalidation) -> Result<(), CommandError>> RunCommands for F {}

/// Frames of `memory` with the SMMU's maintenance.
///
/// Frames, entries and counters come from `memory`, which is also notified of written entries. Cache
/// maintenance and invalidation for the SMMU are done here.
pub(super) struct SmmuTableMemory<'a, M, F> {
    pub memory: &'a mut M,
    /// Runs commands and waits for their completion.
    pub run: F,
    pub params: TranslationParams,
    /// The first invalidation that failed.
    pub failure: Option<CommandError>,
}

// SAFETY: 1. those of `memory`; 2. zeroes of `memory`, cleaned for an SMMU that does not snoop; 3. `clean`,
// `publish`, and commands with CMD_SYNC; after one that failed, `release` leaks tables, and the callers keep
// the mapped memory (`failure`).
unsafe impl<M: TableMemory, F: RunCommands> TableMemory for SmmuTableMemory<'_, M, F> {
    fn allocate(&mut self) -> Option<TableFrame> {
        let table = self.memory.allocate()?;
        self.params.coherency.clean(self.memory.entries(table.table()));
        Some(table)
    }

    /// After a failed invalidation the SMMU may still walk the table, so its frame is lost.
    fn release(&mut self, table: TableFrame) {
        if self.failure.is_none() {
            self.memory.release(table);
        }
    }

    fn entries<'b>(&'b self, table: TableRef<'b>) -> &'b Entries {
        self.memory.entries(table)
    }

    fn valid_entries<'b>(&'b self, table: TableRef<'b>) -> &'b AtomicU16 {
        self.memory.valid_entries(table)
    }

    fn entries_written(&self, entries: &[AtomicU64]) {
        self.params.coherency.clean(entries);
        self.memory.entries_written(entries);
    }

    fn order_before_link(&self) {
        self.params.coherency.publish();
    }

    fn invalidate(&mut self, at: u64, len: u64) {
        let range = AddrRange::new(Iova::new(at), Iova::new(at + len));
        if let Err(error) = (self.run)(self.params.invalidation(range, false)) {
            self.failure.get_or_insert(error);
        }
    }
}
