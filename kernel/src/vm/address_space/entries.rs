//! Page table entries of a program, and the frames freed with them.

use super::Inner;
use super::backing::{VmaBacking, access_mapping, without_write};
use crate::debug::{self, FailPoint};
use crate::dma::ChunkedBuffer;
use crate::memory::{table_frames, window};
use crate::sched;
use crate::vm::pages;
use abi::Errno;
use abi::memory::Prot;
use addr::{AddrRange, Address, FrameRun, PAGE_SIZE, PhysAddr, UserVa};
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
                // SAFETY: the entries of `from` own the frames; those that remain own them afterwards. All
                // are write-back.
                unsafe { self.map(target, core::iter::once(run.output()), mapping) }
                    .map_err(|_| Errno::ENOMEM)?;
            }
            rest = AddrRange::new(part.end(), rest.end());
        }
        Ok(())
    }

    /// Replaces the contents of `batch` with the first runs mapped in `range`, all in one page table, up to
    /// its capacity. Returns the range from the first to the last; `None` if nothing is mapped.
    fn collect_runs(&self, range: AddrRange<UserVa>, batch: &mut RunBatch) -> Option<AddrRange<UserVa>> {
        batch.clear();
        self.table.as_ref()?.runs_until(&table_frames::user(self.asid), range, |run| {
            let table = |run: &MappedRun<UserVa>| run.at.align_down(TABLE_BYTES);
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

    /// Unmaps memory that owns its frames, and frees them. Needs no memory: it is mapped with pages, so no
    /// block is split.
    ///
    /// # Errors
    /// `EINTR` if `must_stop` returns true after a batch of frames; the rest is still mapped.
    pub(super) fn unmap_owned(
        &mut self,
        range: AddrRange<UserVa>,
        must_stop: impl Fn() -> bool,
    ) -> Result<(), Errno> {
        let (mut rest, mut batch) = (range, RunBatch::new());
        while let Some(part) = self.collect_runs(rest, &mut batch) {
            if self.clear_entries(part).is_err() {
                panic!("memory at {part:?} is not mapped with pages");
            }
            for run in &batch {
                // SAFETY: each entry was an owner of its frame; `clear_entries` has cleared the entries, and
                // invalidated them in all TLBs.
                unsafe { pages::release(run.output()) };
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
                // SAFETY: each entry was an owner of its frame; it is invalidated in all TLBs, and its table
                // is freed below.
                unsafe { pages::release(run.output()) };
                ControlFlow::Continue(())
            });
        }
        table.destroy(memory);
        vmas
    }

    /// Changes the rights of the pages in `range`. The caller invalidates it in all TLBs.
    pub(super) fn change_rights(&mut self, range: AddrRange<UserVa>, mapping: Mapping) {
        let Some(table) = &mut self.table else { return };
        if let Err(error) = table.protect(&mut table_frames::user(self.asid), range, mapping) {
            // Only the split of a block can fail.
            panic!("memory at {range:?} is not mapped with pages: {error:?}");
        }
    }

    /// Maps the page at `at`, whose entry owns its frame, to `frame`, and releases the old frame.
    ///
    /// # Safety
    /// `frame` is a frame of [`pages`] with an owner that is not an entry yet: this entry becomes that owner.
    pub(super) unsafe fn replace_page(&mut self, at: UserVa, frame: PhysAddr, mapping: Mapping) {
        let asid = self.asid;
        let Some(table) = &mut self.table else { panic!("{at} is not mapped") };
        let Some(old) = table.replace_page(&mut table_frames::user(asid), at, frame, mapping) else {
            panic!("memory at {at} is not mapped with pages");
        };
        arch::barrier::dsb_ishst();
        arch::barrier::isb();
        // SAFETY: the entry was an owner of it; it maps the other frame now, and no TLB has the old entry.
        unsafe { pages::release(AddrRange::new(old, old + PAGE_SIZE)) };
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
            // SAFETY: the tables map the program's own frames; executable memory is always write-back.
            unsafe { window::with_frame(leaf.to, arch::cache::sync_instructions) };
            ControlFlow::Continue(())
        });
        result
    }
}

/// The bytes that a last-level table translates.
const TABLE_BYTES: u64 = 2 << 20;

/// Runs of pages that are unmapped or mapped again together. On the stack, since freeing must not allocate;
/// an eighth of a kernel stack, so it must not be moved.
type RunBatch = ArrayVec<MappedRun<UserVa>, 85>;
