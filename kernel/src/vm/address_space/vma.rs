//! Changes of VMAs, and the corresponding changes of the page tables.

use super::backing::{VmaBacking, check_write_xor_execute};
use super::{Inner, MmapPlacement};
use crate::memory::table_frames;
use abi::Errno;
use abi::memory::Prot;
use addr::{AddrRange, Address, PAGE_SIZE, UserVa};
use arch::tlb::Level;
use program::{Alignment, USER_END, USER_START, Vma, VmaError};

impl Inner {
    /// Finds a range of `len` bytes, rounded up to pages. Unmaps the existing mappings for
    /// [`MmapPlacement::Fixed`].
    pub(super) fn reserve_range(
        &mut self,
        len: u64,
        placement: MmapPlacement,
        alignment: Alignment,
    ) -> Result<AddrRange<UserVa>, Errno> {
        let len =
            len.checked_next_multiple_of(PAGE_SIZE).filter(|&len| len <= USER_END).ok_or(Errno::ENOMEM)?;
        if len == 0 {
            return Err(Errno::EINVAL);
        }
        let fixed_range = |at: UserVa| {
            AddrRange::from_len(at, len).filter(|_| at.is_aligned(PAGE_SIZE)).ok_or(Errno::EINVAL)
        };
        match placement {
            MmapPlacement::Hint(hint) => {
                let hint = hint.filter(|at| at.raw() >= USER_START);
                self.vmas.find_unmapped(len, alignment, hint).ok_or(Errno::ENOMEM)
            }
            MmapPlacement::FixedNoReplace(at) => match self.vmas.parts(fixed_range(at)?).next() {
                None => fixed_range(at),
                Some(_) => Err(Errno::EEXIST),
            },
            MmapPlacement::Fixed(at) => {
                let range = fixed_range(at)?;
                self.unmap_all(range)?;
                Ok(range)
            }
        }
    }

    pub(super) fn add_anonymous(&mut self, range: AddrRange<UserVa>, prot: Prot) -> Result<(), Errno> {
        check_write_xor_execute(prot)?;
        let vma = Vma { range, prot, backing: VmaBacking::Anonymous, offset: range.start().raw() };
        self.vmas.insert(vma).map_err(vma_errno)
    }

    /// Unmaps all mappings in `range`.
    pub(super) fn unmap_all(&mut self, range: AddrRange<UserVa>) -> Result<(), Errno> {
        while self.unmap_first(range)?.is_some() {}
        Ok(())
    }

    /// Unmaps the part of the first VMA that overlaps `range`, and returns it.
    pub(super) fn unmap_first(&mut self, range: AddrRange<UserVa>) -> Result<Option<Vma<VmaBacking>>, Errno> {
        let Some(part) = self.vmas.remove_first(range).map_err(vma_errno)? else { return Ok(None) };
        match part.backing {
            // Splitting a block allocates a table, which can fail.
            VmaBacking::Shared(..) if self.clear_entries(part.range).is_err() => {
                self.vmas.reinsert(part);
                return Err(Errno::ENOMEM);
            }
            VmaBacking::Shared(..) => {}
            VmaBacking::Anonymous => self.unmap_anonymous(part.range),
        }
        Ok(Some(part))
    }

    pub(super) fn protect(&mut self, range: AddrRange<UserVa>, prot: Prot) -> Result<(), Errno> {
        let before = self.vmas.try_parts(range).map_err(vma_errno)?;
        let is_denied = |part: &Vma<VmaBacking>| match part.backing {
            VmaBacking::Shared(_, max_prot) => !max_prot.contains(prot),
            VmaBacking::Anonymous => false,
        };
        if before.iter().any(is_denied) {
            return Err(Errno::EACCES);
        }
        self.vmas.protect(range, prot).map_err(vma_errno)?;
        if prot.contains(Prot::EXEC) {
            self.sync_instructions(range);
        }
        if before.iter().all(|part| self.update_entries(part, prot).is_ok()) {
            return Ok(());
        }
        // Out of tables. Restores the old protection: the blocks that this affects were split before, so it
        // allocates nothing.
        for part in &before {
            let _ = self.vmas.protect(part.range, part.prot);
            let _ = self.update_entries(part, part.prot);
        }
        Err(Errno::ENOMEM)
    }

    /// Changes the entries of `part` to protection `prot`.
    fn update_entries(&mut self, part: &Vma<VmaBacking>, prot: Prot) -> Result<(), Errno> {
        let asid = self.asid;
        let Some(table) = &mut self.table else { return Ok(()) };
        let done = table.protect(&mut table_frames::user(asid), part.range, part.backing.mapping(prot));
        arch::tlb::user(asid, part.range, Level::Last);
        done.map_err(|_| Errno::ENOMEM)
    }
}

/// The errno of a failed change of VMAs.
pub(super) fn vma_errno(error: VmaError) -> Errno {
    match error {
        VmaError::Range => Errno::EINVAL,
        VmaError::Overlap(_) => Errno::EEXIST,
        VmaError::Hole(_) | VmaError::TooMany | VmaError::OutOfMemory => Errno::ENOMEM,
    }
}
