//! Anonymous memory gets its frames when it is touched.

use super::backing::{VmaBacking, with_implied_read};
use super::{AccessError, Inner};
use crate::memory::{window, zones};
use crate::vm::pages;
use abi::Errno;
use abi::memory::Prot;
use addr::{AddrRange, Address, PAGE_SIZE, PhysAddr, UserVa};
use program::Vma;

/// What a first touch brings in: this many bytes around it, as far as they are in the same area and not there yet.
const FAULT_AROUND: u64 = 64 << 10;

impl Inner {
    pub(super) fn handle_fault(&mut self, at: UserVa, access: Prot) -> Result<(), AccessError> {
        let vma = self.vmas.find(at).ok_or(AccessError::Unmapped)?.clone();
        if !with_implied_read(vma.prot).contains(access) || vma.prot.is_empty() {
            return Err(AccessError::Denied);
        }
        if self.translate(at).is_some() {
            // Another thread was here first, or an entry was being changed.
            return Ok(());
        }
        self.fault_in(at, &vma)
    }

    fn fault_in(&mut self, at: UserVa, vma: &Vma<VmaBacking>) -> Result<(), AccessError> {
        let around = AddrRange::new(at.align_down(FAULT_AROUND), at.align_down(FAULT_AROUND) + FAULT_AROUND);
        let part = vma.part(&around).ok_or(AccessError::Unmapped)?;
        match &vma.backing {
            VmaBacking::Anonymous => self.populate_range(part.range, part.prot).or_else(|_| {
                // Not as much as that, but one page?
                let page = AddrRange::new(at.align_down(PAGE_SIZE), at.align_down(PAGE_SIZE) + PAGE_SIZE);
                self.populate_range(page, part.prot)
            }),
            // A part that a failed `unmap` has left without entries.
            VmaBacking::Shared(shared, _) => self
                .map_shared_part(shared, part.offset, part.range, part.prot)
                .map_err(|_| AccessError::OutOfMemory),
        }
    }

    /// Gives every page of `range` that has no frame one: zeroes.
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
                // SAFETY: `frames` owns the chunk, which is mapped write-back alone.
                unsafe { window::with_write_back(chunk, arch::cache::sync_instructions) };
            }
        }
        let mapping = VmaBacking::Anonymous.mapping(prot);
        let mapped = self.map(hole.start(), frames.chunks(), mapping);
        if mapped.is_err() {
            zones::free_all(frames);
            return Err(AccessError::OutOfMemory);
        }
        // From here on the tables say whose they are.
        frames.drain().for_each(|chunk| {
            chunk.release();
        });
        Ok(())
    }

    /// Where the byte at `at` of the program's own memory is in RAM.
    pub(super) fn anonymous_frame(&mut self, at: UserVa, access: Prot) -> Result<PhysAddr, Errno> {
        let vma = self.vmas.find(at).ok_or(Errno::EFAULT)?.clone();
        if !matches!(vma.backing, VmaBacking::Anonymous) || !with_implied_read(vma.prot).contains(access) {
            return Err(Errno::EFAULT);
        }
        if self.translate(at).is_none() {
            self.fault_in(at, &vma).map_err(|_| Errno::ENOMEM)?;
        }
        self.translate(at).map(|leaf| leaf.translate(at)).ok_or(Errno::EFAULT)
    }
}
