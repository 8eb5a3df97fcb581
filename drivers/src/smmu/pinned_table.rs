//! Tables of a domain whose pages are mapped and unmapped without the domain.

use super::table_memory::TranslationParams;
use crate::iommu::Stale;
use addr::{AddrRange, FrameRun, Iova, PAGE_SHIFT, PAGE_SIZE, PhysAddr};
use core::sync::atomic::AtomicU64;
use pagetable::{
    Entries, LeafAttributes, MapError, Mapping, PINNED_BYTES, Stage1, Stage2, StaleTables, TableMemory,
    pinned_page,
};
use smmu_spec::TlbTag;

/// A last-level table that stays in its domain's tree until the domain is destroyed. Whoever owns a page of it maps and
/// unmaps that page alone: no walk, no lock, no table that comes or goes.
#[derive(Clone, Copy, Debug)]
pub struct PinnedTable {
    table: PhysAddr,
    start: Iova,
    params: TranslationParams,
}

impl PinnedTable {
    /// The bytes that one table translates.
    pub const BYTES: u64 = PINNED_BYTES;

    pub(super) fn new(table: PhysAddr, start: Iova, params: TranslationParams) -> Self {
        Self { table, start, params }
    }

    /// Maps `chunks`, one after the other, from page `first` of the table on, which belong to the caller and are not
    /// mapped. The device sees the mapping before anything that is written after this returns.
    ///
    /// # Errors
    /// As the page table says; nothing is mapped.
    ///
    /// # Panics
    /// When they pass the end of the table.
    #[inline]
    pub fn map<M: TableMemory>(
        &self,
        memory: &M,
        first: usize,
        chunks: impl Iterator<Item: FrameRun> + Clone,
        mapping: Mapping,
    ) -> Result<AddrRange<Iova>, MapError<Iova>> {
        let entries = memory.entries(self.table);
        let written = match self.params.tag {
            TlbTag::Stage1(_) => stage1(entries).map(first, chunks, mapping),
            TlbTag::Stage2(_) => stage2(entries).map(first, chunks, mapping),
        }?;
        Ok(self.show(memory, first, written))
    }

    /// What [`PinnedTable::map_run`] takes for `mapping`, good for all tables of the domain.
    ///
    /// # Errors
    /// [`MapError::Inexpressible`].
    pub fn bits(&self, mapping: Mapping) -> Result<LeafAttributes, MapError<Iova>> {
        match self.params.tag {
            TlbTag::Stage1(_) => LeafAttributes::new::<Stage1, Iova>(mapping),
            TlbTag::Stage2(_) => LeafAttributes::new::<Stage2, Iova>(mapping),
        }
    }

    /// [`PinnedTable::map`] of a single run, with bits that [`PinnedTable::bits`] made.
    ///
    /// # Errors
    /// [`MapError::OutputTooLarge`]; nothing is mapped.
    ///
    /// # Panics
    /// When it passes the end of the table.
    #[inline]
    pub fn map_run<M: TableMemory>(
        &self,
        memory: &M,
        first: usize,
        run: &impl FrameRun,
        bits: LeafAttributes,
    ) -> Result<AddrRange<Iova>, MapError<Iova>> {
        // With the bits made, both stages store the same.
        let written = stage1(memory.entries(self.table)).map_run(first, run, bits)?;
        Ok(self.show(memory, first, written))
    }

    /// Makes the SMMU see entries from page `first` on, and returns the addresses that they translate.
    #[inline]
    fn show<M: TableMemory>(&self, memory: &M, first: usize, written: &[AtomicU64]) -> AddrRange<Iova> {
        memory.entries_written(written);
        self.params.coherency.written(written);
        self.params.coherency.publish();
        let start = self.start + ((first as u64) << PAGE_SHIFT);
        AddrRange::new(start, start + ((written.len() as u64) << PAGE_SHIFT))
    }

    /// Takes `range`, which one [`PinnedTable::map`] returned, out of the table. `held` is what must not be reused before the
    /// SMMU has forgotten; nor may the pages of the table.
    #[inline]
    pub fn unmap<T, M: TableMemory>(&self, memory: &M, range: AddrRange<Iova>, held: T) -> Stale<T> {
        let entries = memory.entries(self.table);
        let first = pinned_page(range.start());
        let pages = first..first + (range.len() / PAGE_SIZE) as usize;
        let written: &[AtomicU64] = match self.params.tag {
            TlbTag::Stage1(_) => stage1(entries).unmap(pages),
            TlbTag::Stage2(_) => stage2(entries).unmap(pages),
        };
        memory.entries_written(written);
        self.params.coherency.written(written);
        Stale::new(held, range, StaleTables::new(), self.params.forget(range, true))
    }
}

fn stage1(entries: &Entries) -> pagetable::PinnedEntries<'_, Stage1, Iova> {
    pagetable::PinnedEntries::new(entries)
}

fn stage2(entries: &Entries) -> pagetable::PinnedEntries<'_, Stage2, Iova> {
    pagetable::PinnedEntries::new(entries)
}
