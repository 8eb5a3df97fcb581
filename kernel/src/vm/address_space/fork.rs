//! Copies of address spaces: the frames of private memory are shared until one of the processes writes them
//! (copy-on-write).

use super::backing::VmaBacking;
use super::backing::leaf_size;
use super::vma::vma_errno;
use super::{AddressSpace, Inner};
use crate::memory::table_frames;
use crate::sched;
use crate::vm::huge_pages::HugePages;
use crate::vm::pages::{self, RecordKind};
use abi::Errno;
use abi::memory::Prot;
use addr::{AddrRange, Address, PAGE_SIZE, PhysAddr, UserVa};
use arrayvec::ArrayVec;
use core::ops::ControlFlow;
use pagetable::{MappedRun, Mapping};
use program::{ForkedFrame, HugePageSize, MemoryLock, Vma};

impl AddressSpace {
    /// Returns a copy for a child process (`fork`). The pages of private memory that a device may write are
    /// copied at once, so that it continues to write to those of the parent.
    ///
    /// # Errors
    /// `EAGAIN` without a free ASID, `ENOMEM`, `EINTR` if the process is being terminated.
    pub fn fork(&self) -> Result<Self, Errno> {
        let child = Self::new().ok_or(Errno::EAGAIN)?;
        let mut inner = self.lock()?;
        let forked = inner.fork_to(&mut child.inner.lock());
        // Before the child runs, and before this process learns that it exists.
        arch::tlb::asid(inner.asid);
        drop(inner);
        // An incomplete child is dropped without the lock of the parent.
        forked.map(|()| child)
    }
}

impl Inner {
    fn fork_to(&mut self, child: &mut Self) -> Result<(), Errno> {
        child.heap = self.heap;
        (self.has_shared_frames, child.has_shared_frames) = (true, true);
        (child.has_blocks, child.has_huge_pages) = (self.has_blocks, self.has_huge_pages);
        // Only the entries of this process change.
        let vmas = self.vmas.take();
        let forked = vmas.iter().try_for_each(|vma| self.fork_vma(vma, child));
        self.vmas = vmas;
        forked
    }

    fn fork_vma(&mut self, vma: &Vma<VmaBacking>, child: &mut Self) -> Result<(), Errno> {
        let mut copy = Vma { lock: MemoryLock::None, ..vma.clone() };
        if let VmaBacking::Huge(pages) = &vma.backing
            && !pages.is_shared()
        {
            // The reserved pages are those of the parent.
            copy.backing = VmaBacking::Huge(HugePages::new(pages.size(), 0, false)?);
        }
        child.vmas.insert(copy).map_err(vma_errno)?;
        match &vma.backing {
            VmaBacking::Shared(buffer, _) => child.map_shared_part(buffer, vma.offset, vma.range, vma.prot),
            // The child's page faults find the same pages.
            VmaBacking::Registers(..) => Ok(()),
            VmaBacking::Memory(mapping) if mapping.is_shared() => Ok(()),
            VmaBacking::Huge(pages) if pages.is_shared() => Ok(()),
            _ => self.fork_part(child, vma),
        }
    }

    /// Maps the frames of `vma`, private memory, in the child, too, read-only for both.
    fn fork_part(&mut self, child: &mut Self, vma: &Vma<VmaBacking>) -> Result<(), Errno> {
        let mapping = self.populated_mapping(&vma.backing, vma.prot);
        if vma.prot.contains(Prot::WRITE) {
            // First: no entry of a shared frame is writable, also after an error.
            self.change_rights(vma.range, mapping);
        }
        let Some(table) = &self.table else { return Ok(()) };
        let huge = vma.backing.huge_page_size();
        let (at, frames) = (vma.range.start(), ArrayVec::new());
        let mut pages =
            ForkedPages { space: child, mapping, huge, at, end: at, leaf_bytes: PAGE_SIZE, frames };
        let mut forked = Ok(());
        table.runs_until(&table_frames::user(self.asid), vma.range, |run| {
            // SAFETY: the frames of this locked address space.
            forked = unsafe { pages.add(&run) };
            if forked.is_ok() && sched::is_interrupted() {
                forked = Err(Errno::EINTR);
            }
            if forked.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        forked.and_then(|()| pages.map())
    }
}

/// Frames of consecutive pages that a child owns, and that are mapped together: runs of a few pages cost
/// more for the walk than for their entries.
struct ForkedPages<'a> {
    /// The address space of the child.
    space: &'a mut Inner,
    mapping: Mapping,
    /// The size of the huge pages of the VMA.
    huge: Option<HugePageSize>,
    /// The first address, and the one after the last.
    at: UserVa,
    end: UserVa,
    /// The size of the leaves.
    leaf_bytes: u64,
    frames: ArrayVec<AddrRange<PhysAddr>, 32>,
}

impl ForkedPages<'_> {
    /// Adds the child as an owner of the frames of `run`, which the parent maps; it gets a copy of those that
    /// a device may write.
    ///
    /// # Safety
    /// The parent owns the frames, and its address space is locked.
    unsafe fn add(&mut self, run: &MappedRun<UserVa>) -> Result<(), Errno> {
        let (mut at, mut left) = (run.at, run.output());
        while !left.is_empty() {
            // SAFETY: passed on to the caller.
            let (owned, leaf_bytes) = unsafe { self.own_first(left, run.leaf_bytes()) }?;
            let is_adjacent = self.end == at && self.leaf_bytes == leaf_bytes;
            if self.frames.is_full() || !is_adjacent {
                if let Err(error) = self.map() {
                    // SAFETY: owned by `own_first`; no entry maps them.
                    unsafe { pages::release(owned, RecordKind::of_leaf(leaf_bytes)) };
                    return Err(error);
                }
                (self.at, self.leaf_bytes) = (at, leaf_bytes);
            }
            self.frames.push(owned);
            (at, left) = (at + owned.len(), AddrRange::new(left.start() + owned.len(), left.end()));
            self.end = at;
        }
        Ok(())
    }

    /// Adds the child as an owner of the first of `frames`, which the parent maps with leaves of
    /// `leaf_bytes`, or copies them. Returns them, and the size of the leaves that map them in the child.
    ///
    /// # Safety
    /// As for [`add`](Self::add).
    #[inline]
    unsafe fn own_first(
        &self,
        frames: AddrRange<PhysAddr>,
        leaf_bytes: u64,
    ) -> Result<(AddrRange<PhysAddr>, u64), Errno> {
        if leaf_bytes == PAGE_SIZE {
            // SAFETY: passed on to the caller.
            let shared = unsafe { pages::fork(frames) }.map_err(|_| Errno::ENOMEM)?;
            if !shared.is_empty() {
                return Ok((shared, PAGE_SIZE));
            }
        } else if frames.start().is_aligned(leaf_bytes) {
            let block = AddrRange::new(frames.start(), frames.start() + leaf_bytes);
            // SAFETY: passed on to the caller.
            match unsafe { pages::fork_block(block) }.map_err(|_| Errno::ENOMEM)? {
                ForkedFrame::Shared => return Ok((block, leaf_bytes)),
                ForkedFrame::Copied if self.huge.is_some() => {
                    // SAFETY: passed on to the caller.
                    let copy = unsafe { pages::alloc_block_copy(block, self.huge) };
                    return Ok((copy.map_err(|_| Errno::ENOMEM)?, leaf_bytes));
                }
                ForkedFrame::Copied => {}
            }
        }
        // Pages, and those of a block, of which a part may be copied already.
        // SAFETY: passed on to the caller.
        let copy = unsafe { pages::alloc_copy(frames.start()) }.map_err(|_| Errno::ENOMEM)?;
        Ok((AddrRange::new(copy, copy + PAGE_SIZE), PAGE_SIZE))
    }

    fn map(&mut self) -> Result<(), Errno> {
        if !self.frames.is_empty() {
            let mapping = self.mapping.only(leaf_size(self.leaf_bytes));
            // SAFETY: the child owns `frames`, and the entries take them over; all mappings of the frames are
            // write-back.
            let mapped = unsafe { self.space.map(self.at, self.frames.iter().copied(), mapping) };
            mapped.map_err(|_| Errno::ENOMEM)?;
            // The entries own them now.
            self.frames.clear();
        }
        Ok(())
    }
}

impl Drop for ForkedPages<'_> {
    /// After an error: releases the frames that are not mapped.
    fn drop(&mut self) {
        for &frames in &self.frames {
            // SAFETY: the child owned them, and no entry maps them.
            unsafe { pages::release(frames, RecordKind::of_leaf(self.leaf_bytes)) };
        }
    }
}
