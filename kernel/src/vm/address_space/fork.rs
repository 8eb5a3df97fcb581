//! Copies of address spaces: the frames of private memory are shared until one of the processes writes them
//! (copy-on-write).

use super::backing::VmaBacking;
use super::entries::PageBatch;
use super::vma::vma_errno;
use super::{AddressSpace, Inner, user_range};
use crate::sched;
use crate::vm::pages;
use abi::Errno;
use abi::memory::Prot;
use addr::{Chunk, PAGE_SIZE, Pfn, PhysAddr, UserVa};
use program::Vma;

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
        for vma in self.vmas.try_parts(user_range()).map_err(vma_errno)? {
            child.vmas.insert(vma.clone()).map_err(vma_errno)?;
            match &vma.backing {
                VmaBacking::Shared(buffer, _) => {
                    child.map_shared_part(buffer, vma.offset, vma.range, vma.prot)?;
                }
                // The child's page faults find the same pages.
                VmaBacking::Memory(mapping) if mapping.is_shared() => {}
                VmaBacking::Anonymous | VmaBacking::File { .. } | VmaBacking::Memory(_) => {
                    self.fork_part(child, &vma)?;
                }
            }
        }
        Ok(())
    }

    /// Maps the frames of `vma`, private memory, in the child, too, read-only for both.
    fn fork_part(&mut self, child: &mut Self, vma: &Vma<VmaBacking>) -> Result<(), Errno> {
        let mapping = self.populated_mapping(&vma.backing, vma.prot);
        if vma.prot.contains(Prot::WRITE) {
            // First: no entry of a shared frame is writable, also after an error.
            self.change_rights(vma.range, mapping);
        }
        let (mut rest, mut batch) = (vma.range, PageBatch::new());
        while !rest.is_empty() {
            rest = self.collect_pages(rest, &mut batch);
            for run in batch.chunk_by_mut(|one, next| one.0 + PAGE_SIZE == next.0) {
                // SAFETY: the frames of this locked address space.
                unsafe { add_owners(run) }.map_err(|_| Errno::ENOMEM)?;
                let frames = run.iter().map(|&(_, frame)| Chunk::page(Pfn::containing(frame)));
                // SAFETY: the child's entries are the owners that were added above; all mappings of the
                // frames are write-back.
                if unsafe { child.map(run[0].0, frames, mapping) }.is_err() {
                    // SAFETY: no entry of the child maps them.
                    unsafe { pages::release(run.iter().map(|&(_, frame)| frame)) };
                    return Err(Errno::ENOMEM);
                }
            }
            if sched::is_interrupted() {
                return Err(Errno::EINTR);
            }
        }
        Ok(())
    }
}

/// Adds the child as an owner of the frames in `run`; replaces those that it gets a copy of.
///
/// # Errors
/// No memory; no owner was added.
///
/// # Safety
/// A process owns the frames, and its address space is locked.
unsafe fn add_owners(run: &mut [(UserVa, PhysAddr)]) -> Result<(), sched::OutOfMemory> {
    for index in 0..run.len() {
        let frame = run[index].1;
        // SAFETY: passed on to the caller.
        match unsafe { pages::fork(frame) } {
            Ok(owned) => run[index].1 = owned,
            Err(error) => {
                // SAFETY: the owners that were added above; no entry maps the frames for them.
                unsafe { pages::release(run[..index].iter().map(|&(_, frame)| frame)) };
                return Err(error);
            }
        }
    }
    Ok(())
}
