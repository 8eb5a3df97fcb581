//! Demand paging: frames of anonymous memory are allocated by the page fault of the first access.

use super::backing::{VmaBacking, with_implied_read};
use super::{AccessError, Inner};
use crate::memory::{window, zones};
use crate::vm::pages;
use abi::Errno;
use abi::memory::Prot;
use addr::{AddrRange, Address, PAGE_SIZE, PhysAddr, UserVa};
use program::Vma;

/// Fault-around: a page fault populates the aligned block of this size around it, limited to the VMA and to
/// pages that are not mapped.
const FAULT_AROUND: u64 = 64 << 10;

impl Inner {
    pub(super) fn handle_fault(&mut self, at: UserVa, access: Prot) -> Result<(), AccessError> {
        let vma = self.vmas.find(at).ok_or(AccessError::Unmapped)?.clone();
        if !with_implied_read(vma.prot).contains(access) || vma.prot.is_empty() {
            return Err(AccessError::Denied);
        }
        if self.translate(at).is_some() {
            // Another thread has handled the fault, or break-before-make made the entry invalid for a moment.
            return Ok(());
        }
        self.fault_in(at, &vma)
    }

    fn fault_in(&mut self, at: UserVa, vma: &Vma<VmaBacking>) -> Result<(), AccessError> {
        let around = AddrRange::new(at.align_down(FAULT_AROUND), at.align_down(FAULT_AROUND) + FAULT_AROUND);
        let part = vma.part(&around).ok_or(AccessError::Unmapped)?;
        match &vma.backing {
            VmaBacking::Anonymous { .. } => self.populate_range(part.range, part.prot).or_else(|_| {
                // Without memory for all of it, tries the faulting page alone.
                let page = AddrRange::new(at.align_down(PAGE_SIZE), at.align_down(PAGE_SIZE) + PAGE_SIZE);
                self.populate_range(page, part.prot)
            }),
            // A failed `unmap` may have cleared entries of a VMA that still exists.
            VmaBacking::Shared(shared, _) => self
                .map_shared_part(shared, part.offset, part.range, part.prot)
                .map_err(|_| AccessError::OutOfMemory),
        }
    }

    /// Maps a zeroed frame at every page of `range` that is not mapped.
    pub(super) fn populate_range(&mut self, range: AddrRange<UserVa>, prot: Prot) -> Result<(), AccessError> {
        let mut at = range.start();
        while at < range.end() {
            if self.translate(at).is_some() {
                at = at + PAGE_SIZE;
                continue;
            }
            let mut end = at + PAGE_SIZE;
            while end < range.end() && self.translate(end).is_none() {
                end = end + PAGE_SIZE;
            }
            self.populate_hole(AddrRange::new(at, end), prot)?;
            at = end;
        }
        Ok(())
    }

    fn populate_hole(&mut self, hole: AddrRange<UserVa>, prot: Prot) -> Result<(), AccessError> {
        let mut frames = pages::alloc_zeroed(hole.len() / PAGE_SIZE).map_err(|_| AccessError::OutOfMemory)?;
        if prot.contains(Prot::EXEC) {
            for chunk in frames.chunks() {
                // SAFETY: `frames` owns the chunk, and all mappings of it are write-back.
                unsafe { window::with_write_back(chunk, arch::cache::sync_instructions) };
            }
        }
        let mapping = (VmaBacking::Anonymous { is_shared: false }).mapping(prot);
        let mapped = self.map(hole.start(), frames.chunks(), mapping);
        if mapped.is_err() {
            zones::free_all(frames);
            return Err(AccessError::OutOfMemory);
        }
        // The page table entries own the frames now.
        frames.drain().for_each(|chunk| {
            chunk.release();
        });
        Ok(())
    }

    /// Returns the physical address of `at`, which must be anonymous memory that permits `access`. Populates
    /// it if necessary.
    ///
    /// # Errors
    /// `EFAULT`, `ENOMEM`.
    pub(super) fn anonymous_frame(&mut self, at: UserVa, access: Prot) -> Result<PhysAddr, Errno> {
        let vma = self.vmas.find(at).ok_or(Errno::EFAULT)?.clone();
        if !vma.backing.is_anonymous() || !with_implied_read(vma.prot).contains(access) {
            return Err(Errno::EFAULT);
        }
        if self.translate(at).is_none() {
            self.fault_in(at, &vma).map_err(|_| Errno::ENOMEM)?;
        }
        self.translate(at).map(|leaf| leaf.translate(at)).ok_or(Errno::EFAULT)
    }
}
