//! Copies of address spaces: the frames of private memory are shared until one of the processes writes them
//! (copy-on-write).

use super::backing::VmaBacking;
use super::vma::vma_errno;
use super::{AddressSpace, Inner};
use crate::memory::table_frames;
use crate::sched;
use crate::vm::pages;
use abi::Errno;
use abi::memory::Prot;
use addr::{AddrRange, PAGE_SIZE, PhysAddr, UserVa};
use arrayvec::ArrayVec;
use core::ops::ControlFlow;
use pagetable::{MappedRun, Mapping};
use program::{MemoryLock, Vma};

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
        // Only the entries of this process change.
        let vmas = self.vmas.take();
        let forked = vmas.iter().try_for_each(|vma| self.fork_vma(vma, child));
        self.vmas = vmas;
        forked
    }

    fn fork_vma(&mut self, vma: &Vma<VmaBacking>, child: &mut Self) -> Result<(), Errno> {
        child.vmas.insert(Vma { lock: MemoryLock::None, ..vma.clone() }).map_err(vma_errno)?;
        match &vma.backing {
            VmaBacking::Shared(buffer, _) => child.map_shared_part(buffer, vma.offset, vma.range, vma.prot),
            // The child's page faults find the same pages.
            VmaBacking::Memory(mapping) if mapping.is_shared() => Ok(()),
            VmaBacking::Anonymous | VmaBacking::File { .. } | VmaBacking::Memory(_) => {
                self.fork_part(child, vma)
            }
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
        let mut pages = ForkedPages { space: child, mapping, at: vma.range.start(), frames: ArrayVec::new() };
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
    /// The first address.
    at: UserVa,
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
            let bytes: u64 = self.frames.iter().map(AddrRange::len).sum();
            if self.frames.is_full() || self.at + bytes != at {
                self.map()?;
                self.at = at;
            }
            // SAFETY: passed on to the caller.
            let mut owned = unsafe { pages::fork(left) }.map_err(|_| Errno::ENOMEM)?;
            if owned.is_empty() {
                // SAFETY: passed on to the caller.
                let copy = unsafe { pages::alloc_copy(left.start()) }.map_err(|_| Errno::ENOMEM)?;
                owned = AddrRange::new(copy, copy + PAGE_SIZE);
            }
            self.frames.push(owned);
            (at, left) = (at + owned.len(), AddrRange::new(left.start() + owned.len(), left.end()));
        }
        Ok(())
    }

    fn map(&mut self) -> Result<(), Errno> {
        if !self.frames.is_empty() {
            // SAFETY: the child owns `frames`, and the entries take them over; all mappings of the frames are
            // write-back.
            let mapped = unsafe { self.space.map(self.at, self.frames.iter().copied(), self.mapping) };
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
            unsafe { pages::release(frames) };
        }
    }
}
