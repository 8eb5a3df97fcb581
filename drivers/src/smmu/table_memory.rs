//! The kernel's table memory as the page table sees it for tables that an SMMU walks.

use super::coherency::Coherency;
use super::command_queue::CommandError;
use addr::{AddrRange, Iova, PhysAddr};
use core::sync::atomic::{AtomicU16, AtomicU64};
use pagetable::{Entries, TableFrame, TableMemory};
use smmu_spec::{Invalidation, RangeInvalidation, TlbTag};

/// How the SMMU keeps and reads a domain's translations.
#[derive(Clone, Copy, Debug)]
pub(super) struct TranslationParams {
    pub tag: TlbTag,
    pub ranges: RangeInvalidation,
    pub coherency: Coherency,
}

impl TranslationParams {
    /// What makes the SMMU forget `range`. With `leaf`, table pointers may stay.
    pub fn forget(self, range: AddrRange<Iova>, leaf: bool) -> Invalidation {
        Invalidation::of_range(self.tag, range, leaf, self.ranges)
    }
}

/// Something that runs commands and waits for them.
pub(super) trait RunCommands: FnMut(Invalidation) -> Result<(), CommandError> {}

impl<F: FnMut(Invalidation) -> Result<(), CommandError>> RunCommands for F {}

/// Frames from `memory`, maintenance for the SMMU.
///
/// Of `memory` the frames are used ([`TableMemory::allocate`], `release`, `entries`, `valid_entries`), and it is
/// told of entries written: what has to be cleaned and invalidated for an SMMU is this driver's knowledge.
pub(super) struct SmmuTableMemory<'a, M, F> {
    pub memory: &'a mut M,
    /// Runs commands and waits for them.
    pub run: F,
    pub params: TranslationParams,
    /// The first invalidation that was not confirmed.
    pub failure: Option<CommandError>,
}

impl<M: TableMemory, F: RunCommands> TableMemory for SmmuTableMemory<'_, M, F> {
    fn allocate(&mut self) -> Option<TableFrame> {
        let table = self.memory.allocate()?;
        self.params.coherency.written(self.memory.entries(table.address()));
        Some(table)
    }

    /// After an invalidation that was not confirmed the SMMU may still walk the table, so its frame is lost.
    fn release(&mut self, table: TableFrame) {
        if self.failure.is_none() {
            self.memory.release(table);
        }
    }

    fn entries(&self, table: PhysAddr) -> &Entries {
        self.memory.entries(table)
    }

    fn valid_entries(&self, table: PhysAddr) -> &AtomicU16 {
        self.memory.valid_entries(table)
    }

    fn entries_written(&self, entries: &[AtomicU64]) {
        self.params.coherency.written(entries);
        self.memory.entries_written(entries);
    }

    fn order_before_link(&self) {
        self.params.coherency.publish();
    }

    fn invalidate(&mut self, at: u64, len: u64) {
        let range = AddrRange::new(Iova::new(at), Iova::new(at + len));
        if let Err(error) = (self.run)(self.params.forget(range, false)) {
            self.failure.get_or_insert(error);
        }
    }
}
