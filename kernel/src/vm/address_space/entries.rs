//! Page table entries of a program, and the frames freed with them.

use super::Inner;
use super::backing::{BLOCK, VmaBacking, access_mapping, leaf_size, without_write};
use crate::debug::{self, FailPoint};
use crate::dma::ChunkedBuffer;
use crate::memory::{table_frames, window};
use crate::sched;
use crate::vm::pages::{self, RecordKind};
use abi::Errno;
use abi::memory::Prot;
use addr::{AddrRange, Address, Chunk, FrameRun, PAGE_SIZE, PhysAddr, UserVa};
use arch::tlb::Level;
use arrayvec::ArrayVec;
use core::ops::ControlFlow;
use pagetable::{Leaf, MapError, MappedRun, Mapping};
use program::{Vma, VmaMap, chunk_range};

impl Inner {
    /// Maps `chunks` in order from `at` on.
    ///
    /// # Safety
    /// Until the entries are cleared and invalidated in all TLBs, `chunks` stay allocated for the program's
    /// use: the entries own their frames ([`pages`]), or the VMA keeps the buffer that does. No mapping of
    /// them has another memory type.
    pub(super) unsafe fn map(
        &mut self,
        at: UserVa,
        frames: impl Iterator<Item: FrameRun>,
        mapping: Mapping,
    ) -> Result<(), MapError<UserVa>> {
        let Some(table) = self.table.as_mut().filter(|_| !debug::fail_point(FailPoint::Maps)) else {
            return Err(MapError::OutOfTables);
        };
        table.map(&mut table_frames::user(self.asid), at, frames, mapping)?;
        arch::barrier::dsb_ishst();
        arch::barrier::isb();
        Ok(())
    }

    /// The mapping of pages that are populated already: read-only if a fork may have shared their frames, so
    /// that the next write to each is a page fault.
    pub(super) fn populated_mapping(&self, backing: &VmaBacking, prot: Prot) -> Mapping {
        let is_copied_on_write = self.has_shared_frames && backing.is_private();
        backing.mapping(if is_copied_on_write { without_write(prot) } else { prot })
    }

    /// Maps the chunks of `shared` from `offset` on at `range`, where a VMA keeps the buffer.
    pub(super) fn map_shared_part(
        &mut self,
        shared: &ChunkedBuffer,
        offset: u64,
        range: AddrRange<UserVa>,
        prot: Prot,
    ) -> Result<(), Errno> {
        let mapping = access_mapping(shared.memory(), prot);
        let chunks = chunk_range(shared.chunks(), offset, range.len());
        // SAFETY: the VMA keeps the buffer, which owns its chunks, until the entries are cleared; `mapping`
        // has the buffer's memory type.
        unsafe { self.map(range.start(), chunks, mapping) }.map_err(|_| Errno::ENOMEM)
    }

    /// Maps the pages of `from` in `to` as well, at the same distance from its start. The caller clears the
    /// entries of one of them, without a release of their frames.
    pub(super) fn map_again(&mut self, from: &Vma<VmaBacking>, to: &Vma<VmaBacking>) -> Result<(), Errno> {
        let (mapping, mut batch) = (self.populated_mapping(&from.backing, from.prot), RunBatch::new());
        let mut rest = from.range;
        while let Some(part) = self.collect_runs(rest, &mut batch) {
            for run in &batch {
                let target = to.range.start() + (run.at.raw() - from.range.start().raw());
                let mapping = mapping.only(leaf_size(run.leaf_bytes()));
                // SAFETY: the entries of `from` own the frames; those that remain own them afterwards, of the
                // same size (`split_for_move`). All are write-back.
                unsafe { self.map(target, core::iter::once(run.output()), mapping) }
                    .map_err(|_| Errno::ENOMEM)?;
            }
            rest = AddrRange::new(part.end(), rest.end());
        }
        Ok(())
    }

    /// Splits the block that is mapped across `at`, if any; it must be anonymous memory.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn split_block_across(&mut self, at: UserVa) -> Result<(), Errno> {
        if !self.has_blocks || at.is_aligned(BLOCK) {
            return Ok(());
        }
        match self.translate(at).filter(|leaf| leaf.bytes > PAGE_SIZE) {
            Some(leaf) => self.split_block(&leaf),
            None => Ok(()),
        }
    }

    /// Splits the block `leaf` of anonymous memory into pages.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn split_block(&mut self, leaf: &Leaf<UserVa>) -> Result<(), Errno> {
        let Some(table) = &mut self.table else { return Ok(()) };
        table.split_block(&mut table_frames::user(self.asid), leaf.at).map_err(|_| Errno::ENOMEM)?;
        // SAFETY: the entries are those of pages now.
        unsafe { pages::split(leaf.output()) };
        Ok(())
    }

    /// Splits the blocks of `from`, a part of a VMA, that do not fit in `to` or are across its borders.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn split_for_move(
        &mut self,
        from: &Vma<VmaBacking>,
        to: &Vma<VmaBacking>,
    ) -> Result<(), Errno> {
        if !from.backing.is_anonymous() {
            return Ok(());
        }
        self.split_block_across(from.range.start())?;
        self.split_block_across(from.range.end())?;
        if (from.range.start().raw() ^ to.range.start().raw()).is_multiple_of(BLOCK) {
            return Ok(());
        }
        let blocks = from.range.align_inward(BLOCK);
        for index in 0..blocks.len() / BLOCK {
            if let Some(leaf) =
                self.translate(blocks.start() + index * BLOCK).filter(|leaf| leaf.bytes == BLOCK)
            {
                self.split_block(&leaf)?;
            }
        }
        Ok(())
    }

    /// Replaces the contents of `batch` with the first runs mapped in `range`, all in one page table, up to
    /// its capacity. Returns the range from the first to the last; `None` if nothing is mapped.
    fn collect_runs(&self, range: AddrRange<UserVa>, batch: &mut RunBatch) -> Option<AddrRange<UserVa>> {
        batch.clear();
        self.table.as_ref()?.runs_until(&table_frames::user(self.asid), range, |run| {
            // Of a table of pages or blocks.
            let table =
                |run: &MappedRun<UserVa>| (run.leaf_bytes(), run.at.align_down(run.leaf_bytes() * TABLE_LEN));
            if batch.is_full() || batch.first().is_some_and(|first| table(first) != table(&run)) {
                return ControlFlow::Break(());
            }
            batch.push(run);
            ControlFlow::Continue(())
        });
        let (first, last) = (batch.first()?, batch.last()?);
        Some(AddrRange::new(first.at, last.input().end()))
    }

    /// Clears the entries of `range`, invalidates them in all TLBs and frees the tables that became empty.
    pub(super) fn clear_entries(&mut self, range: AddrRange<UserVa>) -> Result<(), Errno> {
        let asid = self.asid;
        let memory = &mut table_frames::user(asid);
        let Some(table) = &mut self.table else { return Ok(()) };
        let stale = table.unmap(memory, range).map_err(|_| Errno::ENOMEM)?;
        let level = if stale.is_empty() { Level::Last } else { Level::Any };
        arch::tlb::user(asid, range, level);
        stale.release(memory);
        Ok(())
    }

    /// Unmaps memory that owns its frames, and frees them. Needs no memory, unless a block is across a border
    /// of `range`, which is split first.
    ///
    /// # Errors
    /// `ENOMEM`: nothing is unmapped. `EINTR` if `must_stop` returns true after a batch of frames; the rest
    /// is still mapped.
    pub(super) fn unmap_owned(
        &mut self,
        range: AddrRange<UserVa>,
        must_stop: impl Fn() -> bool,
    ) -> Result<(), Errno> {
        self.split_block_across(range.start())?;
        self.split_block_across(range.end())?;
        let (mut rest, mut batch) = (range, RunBatch::new());
        while let Some(part) = self.collect_runs(rest, &mut batch) {
            if self.clear_entries(part).is_err() {
                panic!("a block across a border of {part:?} is not split");
            }
            for run in &batch {
                // SAFETY: each entry was an owner of its frames; `clear_entries` has cleared the entries, and
                // invalidated them in all TLBs.
                unsafe { pages::release(run.output(), RecordKind::of_leaf(run.leaf_bytes())) };
            }
            rest = AddrRange::new(part.end(), range.end());
            if !rest.is_empty() && must_stop() {
                return Err(Errno::EINTR);
            }
        }
        Ok(())
    }

    /// Removes all VMAs and frees the page tables, and with them the frames that the entries own. Returns the
    /// VMAs, to be dropped after the lock is released. No CPU has the tables in TTBR0.
    ///
    /// One invalidation precedes, instead of one for each VMA after its entries are cleared: without TTBR0,
    /// no entry can be cached again.
    pub(super) fn take_all(&mut self) -> VmaMap<VmaBacking> {
        let vmas = self.vmas.take();
        let Some(table) = self.table.take() else { return vmas };
        arch::tlb::asid(self.asid);
        let memory = &mut table_frames::user(self.asid);
        for vma in vmas.iter().filter(|vma| vma.backing.owns_frames()) {
            table.runs_until(memory, vma.range, |run| {
                // SAFETY: each entry was an owner of its frames; it is invalidated in all TLBs, and its table
                // is freed below.
                unsafe { pages::release(run.output(), RecordKind::of_leaf(run.leaf_bytes())) };
                ControlFlow::Continue(())
            });
        }
        table.destroy(memory);
        vmas
    }

    /// Changes the rights of the pages in `range`, whose borders no block is across. The caller invalidates
    /// it in all TLBs.
    pub(super) fn change_rights(&mut self, range: AddrRange<UserVa>, mapping: Mapping) {
        let Some(table) = &mut self.table else { return };
        if let Err(error) = table.protect(&mut table_frames::user(self.asid), range, mapping) {
            // Only the split of a block can fail.
            panic!("a block across a border of {range:?} is not split: {error:?}");
        }
    }

    /// Maps the page or huge page at `at`, whose entry owns its frames, to those from `frames` on, and
    /// releases the old frames.
    ///
    /// # Safety
    /// `frames` are frames of [`pages`] with an owner that is not an entry yet: this entry becomes that
    /// owner.
    pub(super) unsafe fn replace_leaf(&mut self, at: UserVa, frames: PhysAddr, mapping: Mapping) {
        let asid = self.asid;
        let Some(table) = &mut self.table else { panic!("{at} is not mapped") };
        let Some(old) = table.replace_leaf(&mut table_frames::user(asid), at, frames, mapping) else {
            panic!("memory at {at} is not mapped by one entry");
        };
        arch::barrier::dsb_ishst();
        arch::barrier::isb();
        // SAFETY: the entry was an owner of it; it maps the other frames now, and no TLB has the old entry.
        unsafe { pages::release(old, RecordKind::of_leaf(old.len())) };
    }

    pub(super) fn translate(&self, at: UserVa) -> Option<Leaf<UserVa>> {
        self.table.as_ref()?.translate(&table_frames::user(self.asid), at)
    }

    /// Makes data written to `range` visible to instruction fetches.
    ///
    /// # Errors
    /// `EINTR` if the process is being terminated.
    pub(super) fn sync_instructions(&self, range: AddrRange<UserVa>) -> Result<(), Errno> {
        let Some(table) = &self.table else { return Ok(()) };
        let mut result = Ok(());
        table.leaves_until(&table_frames::user(self.asid), range, |leaf| {
            if sched::is_interrupted() {
                result = Err(Errno::EINTR);
                return ControlFlow::Break(());
            }
            for chunk in Chunk::of_range(leaf.output()) {
                // SAFETY: the tables map the program's own frames; executable memory is always write-back.
                unsafe { window::with_write_back(chunk, arch::cache::sync_instructions) };
            }
            ControlFlow::Continue(())
        });
        result
    }
}

/// The entries of a page table.
const TABLE_LEN: u64 = 512;

/// Runs of pages that are unmapped or mapped again together. On the stack, since freeing must not allocate;
/// an eighth of a kernel stack, so it must not be moved.
type RunBatch = ArrayVec<MappedRun<UserVa>, 63>;
