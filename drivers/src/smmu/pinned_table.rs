//! Last-level tables whose pages are mapped and unmapped without access to the domain.

use super::table_memory::TranslationParams;
use crate::iommu::Stale;
use addr::{AddrRange, FrameRun, Iova, PAGE_SHIFT, PAGE_SIZE};
use core::sync::atomic::AtomicU64;
use pagetable::{
    Entries, LeafAttributes, MapError, Mapping, PINNED_BYTES, Stage1, Stage2, StaleTables, TableMemory,
    TableRef, pinned_page,
};
use smmu_spec::TlbTag;

/// A last-level table that stays in its domain's tree until the domain is destroyed. The owner of a page maps
/// and unmaps it without a table walk, a lock, or an allocation.
#[derive(Clone, Copy, Debug)]
pub struct PinnedTable {
    table: TableRef<'static>,
    start: Iova,
    params: TranslationParams,
}

impl PinnedTable {
    /// The bytes that one table translates.
    pub const BYTES: u64 = PINNED_BYTES;

    pub(super) fn new(table: TableRef<'static>, start: Iova, params: TranslationParams) -> Self {
        Self { table, start, params }
    }

    /// Maps `chunks` in order from page `first` of the table on. The pages must belong to the caller and not
    /// be mapped. The device observes the mapping before any store that follows this call.
    ///
    /// # Errors
    /// [`MapError::Inexpressible`]; nothing is mapped.
    ///
    /// # Panics
    /// If the chunks exceed the table.
    ///
    /// # Safety
    /// As for [`PagingDomain::map`](super::PagingDomain::map). No frame is above the highest address that was
    /// given to [`PagingDomain::pin`](super::PagingDomain::pin).
    #[inline]
    pub unsafe fn map<M: TableMemory>(
        &self,
        memory: &M,
        first: usize,
        chunks: impl Iterator<Item: FrameRun>,
        mapping: Mapping,
    ) -> Result<AddrRange<Iova>, MapError<Iova>> {
        let entries = memory.entries(self.table);
        let written = match self.params.tag {
            TlbTag::Stage1(_) => stage1(entries).map(first, chunks, mapping),
            TlbTag::Stage2(_) => stage2(entries).map(first, chunks, mapping),
        }?;
        Ok(self.publish(memory, first, written))
    }

    /// The descriptor bits of `mapping` for [`PinnedTable::map_run`], valid for all tables of the domain.
    ///
    /// # Errors
    /// [`MapError::Inexpressible`].
    pub fn bits(&self, mapping: Mapping) -> Result<LeafAttributes, MapError<Iova>> {
        match self.params.tag {
            TlbTag::Stage1(_) => LeafAttributes::new::<Stage1, Iova>(mapping),
            TlbTag::Stage2(_) => LeafAttributes::new::<Stage2, Iova>(mapping),
        }
    }

    /// [`PinnedTable::map`] of a single run with bits from [`PinnedTable::bits`]: saves a streaming mapping
    /// the encoding of the descriptor and the loop over chunks.
    ///
    /// # Panics
    /// If the run exceeds the table.
    ///
    /// # Safety
    /// As for [`PinnedTable::map`].
    #[inline]
    pub unsafe fn map_run<M: TableMemory>(
        &self,
        memory: &M,
        first: usize,
        run: &impl FrameRun,
        bits: LeafAttributes,
    ) -> AddrRange<Iova> {
        // The bits are the only difference between the stages.
        let written = stage1(memory.entries(self.table)).map_run(first, run, bits);
        self.publish(memory, first, written)
    }

    /// Makes the entries from page `first` on visible to the SMMU, and returns the addresses that they
    /// translate.
    #[inline]
    fn publish<M: TableMemory>(&self, memory: &M, first: usize, written: &[AtomicU64]) -> AddrRange<Iova> {
        memory.entries_written(written);
        self.params.coherency.clean(written);
        self.params.coherency.publish();
        let start = self.start + ((first as u64) << PAGE_SHIFT);
        AddrRange::new(start, start + ((written.len() as u64) << PAGE_SHIFT))
    }

    /// Clears the entries of `range`, the result of one [`PinnedTable::map`]. Neither `held` nor the pages of
    /// the table may be reused before the invalidation.
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
        self.params.coherency.clean(written);
        Stale::new(held, range, StaleTables::new(), self.params.invalidation(range, true))
    }
}

fn stage1(entries: &Entries) -> pagetable::PinnedEntries<'_, Stage1, Iova> {
    pagetable::PinnedEntries::new(entries)
}

fn stage2(entries: &Entries) -> pagetable::PinnedEntries<'_, Stage2, Iova> {
    pagetable::PinnedEntries::new(entries)
}
