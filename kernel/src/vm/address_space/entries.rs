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
use addr::{AddrRange, Chunk, PAGE_SIZE, Pfn, PhysAddr, UserVa};
use arch::tlb::Level;
use arrayvec::ArrayVec;
use core::ops::ControlFlow;
use pagetable::{Leaf, MapError, Mapping};
use program::{Vma, chunk_range};

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
        chunks: impl Iterator<Item = Chunk> + Clone,
        mapping: Mapping,
    ) -> Result<(), MapError<UserVa>> {
        let Some(table) = self.table.as_mut().filter(|_| !debug::fail_point(FailPoint::Maps)) else {
            return Err(MapError::OutOfTables);
        };
        table.map(&mut table_frames::user(self.asid), at, chunks, mapping)?;
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
        let (mapping, mut batch) = (self.populated_mapping(&from.backing, from.prot), PageBatch::new());
        let mut rest = from.range;
        while !rest.is_empty() {
            rest = self.collect_pages(rest, &mut batch);
            for run in batch.chunk_by(|one, next| one.0 + PAGE_SIZE == next.0) {
                let target = to.range.start() + (run[0].0.raw() - from.range.start().raw());
                let pages = run.iter().map(|&(_, frame)| Chunk::page(Pfn::containing(frame)));
                // SAFETY: the entries of `from` own the frames; those that remain own them afterwards. All
                // are write-back.
                unsafe { self.map(target, pages, mapping) }.map_err(|_| Errno::ENOMEM)?;
            }
        }
        Ok(())
    }

    /// Replaces the contents of `batch` with the first pages mapped in `range`, up to its capacity. Returns
    /// the range behind them, which is empty after the last page.
    pub(super) fn collect_pages(&self, range: AddrRange<UserVa>, batch: &mut PageBatch) -> AddrRange<UserVa> {
        batch.clear();
        let Some(table) = &self.table else { return AddrRange::EMPTY };
        table.leaves_until(&table_frames::user(self.asid), range, |leaf| {
            batch.push((leaf.at, leaf.to));
            if batch.is_full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match batch.last() {
            Some(&(last, _)) if batch.is_full() => AddrRange::new(last + PAGE_SIZE, range.end()),
            _ => AddrRange::EMPTY,
        }
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
    /// `EINTR` if `must_stop` returns true after a full batch of frames; the rest is still mapped.
    pub(super) fn unmap_owned(
        &mut self,
        range: AddrRange<UserVa>,
        must_stop: impl Fn() -> bool,
    ) -> Result<(), Errno> {
        let (mut rest, mut batch) = (range, FrameBatch::new());
        while let Some(part) = self.collect_frames(rest, &mut batch) {
            if self.clear_entries(part).is_err() {
                panic!("memory at {part:?} is not mapped with pages");
            }
            // SAFETY: each entry was an owner of its frame; `clear_entries` has cleared the entries, and
            // invalidated them in all TLBs.
            unsafe { pages::release(batch.iter().copied()) };
            rest = AddrRange::new(part.end(), range.end());
            if batch.is_full() && must_stop() {
                return Err(Errno::EINTR);
            }
        }
        Ok(())
    }

    /// Replaces the contents of `batch` with the first frames mapped in `range`, up to its capacity, and
    /// returns the range that maps them. `None` if no frame is mapped.
    fn collect_frames(&self, range: AddrRange<UserVa>, batch: &mut FrameBatch) -> Option<AddrRange<UserVa>> {
        batch.clear();
        let mut found: Option<AddrRange<UserVa>> = None;
        self.table.as_ref()?.leaves_until(&table_frames::user(self.asid), range, |leaf| {
            found = Some(AddrRange::new(found.map_or(leaf.at, |found| found.start()), leaf.at + leaf.bytes));
            batch.push(leaf.to);
            if batch.is_full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        found
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
        unsafe { pages::release(core::iter::once(old)) };
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

/// Frames that are freed together. On the stack, since freeing must not allocate; an eighth of a kernel
/// stack, so it must not be moved.
type FrameBatch = ArrayVec<PhysAddr, 256>;

/// Pages that are mapped again together, and their frames.
pub(super) type PageBatch = ArrayVec<(UserVa, PhysAddr), 64>;
